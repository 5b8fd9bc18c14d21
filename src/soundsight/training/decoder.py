"""Redrawing: a photo is drawn again from its latent picture. No sound and no label is involved.

Three parts of one run. First encoder and decoder learn together, by

    L1 in the eyes' features at four scales and pooled, each over the mean size of the photo's own
    + L1 of pixels at half size + a slight KL divergence of the latent picture from N(0, 1)
    + what a small network cannot read of the pooled features off the latent picture

which gives blurred pictures. From step ``sharpen_from`` on a discriminator over the eyes
(``models.discriminator``) sharpens them. From step ``frozen_from`` on the encoder stays as it
is, so that what is learned about its latent pictures elsewhere stays true.

Source: docs/method.md; Esser et al. 2021 and Rombach et al. 2022 for the two losses together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.models.decoder import LatentConfig, LatentDecoder, LatentEncoder, LatentReading
from soundsight.models.discriminator import (
    EyesDiscriminator,
    EyesDiscriminatorConfig,
    hinge_discriminator,
    hinge_generator,
)
from soundsight.models.eyes import Eyes
from soundsight.training.augment import augment_image
from soundsight.training.checkpoints import Pretrained, load_network, save_weights
from soundsight.training.configs import DecoderConfig
from soundsight.training.encoder import to_float, to_levels
from soundsight.training.trainer import Ema, Scalars, Task, channels_last, set_rate

SIZES = {
    "everyday": LatentConfig(),
    "tiny": LatentConfig(
        latent_maps=4, encoder_width=8, widths=(16, 12, 8, 8, 6), growth=(8, 8, 6, 4, 4)
    ),
}
DISCRIMINATORS = {
    "everyday": EyesDiscriminatorConfig(),
    "tiny": EyesDiscriminatorConfig(maps=8, head_maps=8),
}

_SHOWN = 16
"""Photos in the grid, above what the decoder makes of them."""


class DrawingTask(Task):
    """A task whose pictures a discriminator over the frozen ``eyes`` tells from photos.

    Its parts keep the features of photos (``real``) and of pictures (``drawn``), each scale over
    the photos' usual size: they are found in the step of what draws, and used again in that of the
    discriminator.
    """

    eyes: Eyes

    def adversaries(
        self,
        preset: str,
        drawing: Sequence[torch.nn.Module],
        rate: float,
        discriminator_rate: float,
    ) -> None:
        """Make the discriminator, and the Adam of it and of the networks that draw."""
        self.discriminator = channels_last(EyesDiscriminator(DISCRIMINATORS[preset]))
        drawn_by = [p for network in drawing for p in network.parameters()]
        heads = self.discriminator.heads.parameters()
        self.optimizers = {
            "generator": torch.optim.Adam(drawn_by, lr=rate, betas=(0.5, 0.99)),
            "discriminator": torch.optim.Adam(heads, lr=discriminator_rate, betas=(0.0, 0.99)),
        }
        self.beside = [*self.beside, self.eyes]

    def rescale(
        self, part: SimpleNamespace, real: Sequence[Tensor], drawn: Sequence[Tensor]
    ) -> list[Tensor]:
        """Put features on the photos' scale, into ``part``; return those of the pictures."""
        sizes = usual_sizes(real)
        scaled = [d.float() / size for d, size in zip(drawn, sizes, strict=True)]
        part.real = [r.float() / size for r, size in zip(real, sizes, strict=True)]
        part.drawn = [d.detach() for d in scaled]
        return scaled

    def judge(self, part: SimpleNamespace) -> tuple[Tensor, Scalars]:
        """Let the discriminator tell photos from pictures."""
        with self.devices.autocast():
            real, drawn = self.discriminator(part.real), self.discriminator(part.drawn)
        loss = hinge_discriminator(real, drawn)
        return loss, {"discriminator": loss}


def usual_sizes(real: Sequence[Tensor]) -> list[Tensor]:
    """Return the photos' mean size at each scale: it makes the scales comparable."""
    return [r.float().abs().mean() for r in real]


class DecoderTask(DrawingTask):
    """Fits encoder and decoder of latent pictures on photos, uint8 [n, 3, 96, 96].

    ``shown`` are photos for the grid, which need not be among those. DataError when ``start`` has
    other eyes or other sizes.
    """

    kind = "decoder"

    def __init__(
        self,
        config: DecoderConfig,
        photos: UInt8[Tensor, "n 3 96 96"],
        eyes: Eyes,
        shown: UInt8[Tensor, "m 3 96 96"] | None = None,
        *,
        start: Pretrained | None = None,
    ) -> None:
        self.config, self.loop, self.photos, self.eyes = config, config.loop, photos, eyes
        self.shown = (photos if shown is None else shown)[:_SHOWN]
        torch.manual_seed(config.loop.seed)
        self.sizes_of = SIZES[config.preset]
        self.encoder = channels_last(LatentEncoder(self.sizes_of))
        self.decoder = channels_last(LatentDecoder(self.sizes_of))
        self.reading = channels_last(LatentReading(self.sizes_of))
        if start is not None:
            check_eyes(start.load("latent_encoder", self.encoder), eyes, start.folder)
            start.load("latent_decoder", self.decoder)
        drawing = (self.encoder, self.decoder, self.reading)
        self.adversaries(config.preset, drawing, config.rate, config.discriminator_rate)
        self.ema = Ema(self.decoder, config.ema_decay)
        self.networks = {
            "encoder": self.encoder, "decoder": self.decoder, "average": self.ema.average,
            "reading": self.reading, "discriminator": self.discriminator,
        }  # fmt: skip

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        config, device = self.config, self.devices.device
        sharpens, learns = step >= config.sharpen_from, step < config.frozen_from
        rate = config.sharpening_rate if sharpens else config.rate
        optimizer = self.optimizers["generator"]
        set_rate(optimizer, rate * min(1.0, (step + 1) / max(1, config.warm_up)))
        self.encoder.train(learns).requires_grad_(learns)
        for network in (self.decoder, self.reading, self.discriminator):
            network.train()
        parts = []
        for own in self.parts(step, len(self.photos)):
            image = to_float(self.photos[torch.from_numpy(own)].to(device))
            image = augment_image(image, rng, zoom=config.zoom, colour=0.05)
            noise = torch.randn(len(own), self.sizes_of.latent_maps, 6, 6, generator=rng)
            image = image.clamp(-1.0, 1.0).contiguous(memory_format=torch.channels_last)
            parts.append(SimpleNamespace(image=image, noise=noise.to(device)))
        # Its gradients are not wanted while the decoder learns.
        self.discriminator.heads.requires_grad_(False)
        redraw = partial(self._redraw, sharpens=sharpens)
        scalars = self.descend("gradient", optimizer, parts, redraw)
        if sharpens:
            self.discriminator.heads.requires_grad_(True)
            scalars |= self.descend(
                "d_gradient", self.optimizers["discriminator"], parts, self.judge
            )
        self.ema.update(self.decoder, step)
        return scalars

    def _redraw(self, part: SimpleNamespace, *, sharpens: bool) -> tuple[Tensor, Scalars]:
        """Draw photos again; compare them as the eyes see them."""
        config = self.config
        with torch.no_grad():
            real = self.eyes(part.image)
            pooled = self.eyes.pool(real[3])
        with self.devices.autocast():
            mean, log_variance = self.encoder(part.image, real)
            latent = mean + (0.5 * log_variance).exp() * part.noise
            drawn, read = self.decoder(latent), self.reading(latent)
        mean, log_variance, drawn = mean.float(), log_variance.float(), drawn.float()
        seen = self.eyes(drawn)
        scales = zip(seen, real, usual_sizes(real), strict=True)
        likeness = torch.stack([(s - r).abs().mean() / size for s, r, size in scales]).mean()
        whole = (self.eyes.pool(seen[3]) - pooled).abs().mean() / pooled.mean()
        pixels = (F.avg_pool2d(drawn, 2) - F.avg_pool2d(part.image, 2)).abs().mean()
        # Both about the mean of the batch: what all photos share is worth nothing.
        read = read.float() - read.float().mean(dim=0)
        unread = 1.0 - F.cosine_similarity(read, pooled - pooled.mean(dim=0)).mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
        loss = likeness + config.pooled_weight * whole + config.pixel_weight * pixels
        loss = loss + config.reading_weight * unread
        scalars = {
            "features": likeness, "pooled": whole, "pixels": pixels, "unread": unread, "kl": kl,
        }  # fmt: skip
        if sharpens:
            scaled = self.rescale(part, real, seen)
            with self.devices.autocast():
                scores = self.discriminator(scaled)
            scalars["adversarial"] = hinge_generator(scores)
            loss = loss + config.adversarial_weight * scalars["adversarial"]
        return loss + config.kl_weight * kl, scalars

    @torch.no_grad()
    def pictures(self) -> Tensor | None:
        """Photos, and what the decoder's average makes of the means of their latent pictures."""
        self.encoder.eval()
        image = to_float(self.shown.to(self.devices.device))
        image = image.contiguous(memory_format=torch.channels_last)
        mean, _ = self.encoder(image, self.eyes(image))
        drawn = to_levels(self.ema.average(mean)).cpu()
        half = _SHOWN // 2
        return torch.cat([self.shown[:half], drawn[:half], self.shown[half:], drawn[half:]])

    def finish(self, run: Path) -> None:
        """Write ``latent_encoder.safetensors`` and ``latent_decoder.safetensors``."""
        about = {
            "preset": self.config.preset, "network": to_dict(self.sizes_of),
            "eyes": self.config.eyes,
        }  # fmt: skip
        save_weights(run / "latent_encoder.safetensors", self.encoder, about)
        save_weights(run / "latent_decoder.safetensors", self.ema.average, about)


def load_latent_encoder(run: Path, eyes: Eyes) -> tuple[LatentEncoder, dict[str, Any]]:
    """Load a run's encoder of latent pictures, and the JSON beside; DataError for other eyes."""
    path = run / "latent_encoder.safetensors"
    network, about = load_network(path, LatentEncoder, LatentConfig)
    check_eyes(about, eyes, path)
    return channels_last(network), about


def load_latent_decoder(run: Path) -> tuple[LatentDecoder, dict[str, Any]]:
    """Load a run's decoder of latent pictures, and the JSON beside it."""
    return load_network(run / "latent_decoder.safetensors", LatentDecoder, LatentConfig)


def check_eyes(about: dict[str, Any], eyes: Eyes, where: Path) -> None:
    """Raise DataError when what stands beside weights names other eyes."""
    if about.get("eyes") != eyes.sha256:
        raise DataError(
            f"{where} was trained through other eyes than those that are installed: "
            "install the photo features that it was trained with"
        )
