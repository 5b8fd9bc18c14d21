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

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.data.store.dataset import batch_indices
from soundsight.models.decoder import LatentConfig, LatentDecoder, LatentEncoder, LatentReading
from soundsight.models.discriminator import hinge_generator
from soundsight.models.eyes import Eyes
from soundsight.training.augment import augment_image
from soundsight.training.checkpoints import load_network, save_weights
from soundsight.training.configs import DecoderConfig
from soundsight.training.drawing import DrawingTask, Seen
from soundsight.training.ema import Ema
from soundsight.training.encoder import to_float, to_levels
from soundsight.training.fine_tuning import LATENT_DECODER, LATENT_ENCODER, Pretrained
from soundsight.training.trainer import Scalars, channels_last, set_rate

_SHOWN = 16
"""Photos in the grid, above what the decoder makes of them."""

SIZES = {
    "everyday": LatentConfig(),
    "tiny": LatentConfig(
        latent_maps=4, encoder_width=8, widths=(16, 12, 8, 8, 6), growth=(8, 8, 6, 4, 4)
    ),
}


def fine_tuning_config(config: DecoderConfig, init: str) -> DecoderConfig:
    """Return the settings for starting from finished weights.

    The encoder stays, so that flows that know its latent pictures stay true, and the discriminator,
    which is new, speaks from the first step, while the decoder's rate still rises.
    """
    loop = replace(config.loop, steps=2000)
    return replace(config, init=init, sharpen_from=0, frozen_from=0, loop=loop)


class DecoderTask(DrawingTask):
    """Fits encoder and decoder of latent pictures on photos.

    Args:
        photos: uint8 [n, 3, 96, 96].
        shown: photos for the grid, which need not be among those; uint8 [m, 3, 96, 96].

    Raises:
        DataError: when ``start`` has other eyes or other sizes.
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
        self.config, self.photos, self.eyes = config, photos, eyes
        self.shown = (photos if shown is None else shown)[:_SHOWN]
        torch.manual_seed(config.loop.seed)
        sizes = SIZES[config.preset]
        self.encoder = channels_last(LatentEncoder(sizes))
        self.decoder = channels_last(LatentDecoder(sizes))
        self.reading = channels_last(LatentReading(sizes))
        if start is not None:
            check_eyes(start.load(LATENT_ENCODER, self.encoder), eyes, start.folder)
            start.load(LATENT_DECODER, self.decoder)
        self.make_discriminator(config.preset, config.discriminator_rate)
        self.ema = Ema(self.decoder, config.ema_decay)
        self.optimizer = torch.optim.Adam(
            [p for n in (self.encoder, self.decoder, self.reading) for p in n.parameters()],
            lr=config.rate, betas=(0.5, 0.99),
        )  # fmt: skip

    def networks(self) -> dict[str, nn.Module]:
        return {
            "encoder": self.encoder, "decoder": self.decoder, "average": self.ema.average,
            "reading": self.reading, "discriminator": self.discriminator,
        }  # fmt: skip

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        loop, devices = self.config.loop, self.devices
        sharpens = step >= self.config.sharpen_from
        rate = self.config.sharpening_rate if sharpens else self.config.rate
        set_rate(self.optimizer, rate * min(1.0, (step + 1) / max(1, self.config.warm_up)))
        learns = step < self.config.frozen_from
        self.encoder.train(learns).requires_grad_(learns)
        self.decoder.train()
        self.reading.train()
        self.discriminator.train()
        rows = batch_indices(len(self.photos), loop.batch_size, loop.seed, step)
        parts = []
        for own in devices.parts_of(rows, loop.accumulate):
            image = to_float(self.photos[torch.from_numpy(own)].to(devices.device))
            image = augment_image(image, rng, zoom=self.config.zoom, colour=0.05)
            noise = torch.randn(len(own), *self._latent_shape, generator=rng)
            image = image.clamp(-1.0, 1.0).contiguous(memory_format=torch.channels_last)
            parts.append(_Part(image, noise.to(devices.device)))
        # Its gradients are not wanted while the decoder learns.
        self.discriminator.heads.requires_grad_(False)
        scalars = self.descend(
            "gradient", self.optimizer, parts, lambda part: self._redraw(part, sharpens=sharpens)
        )
        if sharpens:
            self.discriminator.heads.requires_grad_(True)
            scalars |= self.descend("d_gradient", self.d_optimizer, parts, self.judge)
        self.ema.update(self.decoder, step)
        return scalars

    @property
    def _latent_shape(self) -> tuple[int, int, int]:
        return SIZES[self.config.preset].latent_maps, 6, 6

    def _redraw(self, part: _Part, *, sharpens: bool) -> tuple[Tensor, Scalars]:
        """Draw photos again; compare them as the eyes see them."""
        config, devices = self.config, self.devices
        with torch.no_grad():
            real = self.eyes(part.image)
            pooled = self.eyes.pool(real[3])
        with devices.autocast():
            mean, log_variance = self.encoder(part.image, real)
            latent = mean + (0.5 * log_variance).exp() * part.noise
            drawn, read = self.decoder(latent), self.reading(latent)
        mean, log_variance, drawn = mean.float(), log_variance.float(), drawn.float()
        seen = self.eyes(drawn)
        sizes = self.usual_sizes(real)
        scales = torch.stack(
            [(s - r).abs().mean() / size for s, r, size in zip(seen, real, sizes, strict=True)]
        )
        likeness = scales.mean()
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
            scaled = self.rescale(part, real, seen, sizes)
            with devices.autocast():
                scores = self.discriminator(scaled)
            adversarial = hinge_generator(scores)
            loss = loss + config.adversarial_weight * adversarial
            scalars["adversarial"] = adversarial
        loss = loss + config.kl_weight * kl
        return loss, {name: value.detach() for name, value in scalars.items()}

    @torch.no_grad()
    def redraw(self, photos: UInt8[Tensor, "n 3 96 96"]) -> UInt8[Tensor, "n 3 96 96"]:
        """Draw photos again from the means of their latent pictures, by the decoder's average."""
        self.encoder.eval()
        parts = []
        for batch in photos.split(64):
            image = to_float(batch.to(self.devices.device))
            image = image.contiguous(memory_format=torch.channels_last)
            mean, _ = self.encoder(image, self.eyes(image))
            parts.append(to_levels(self.ema.average(mean)).cpu())
        return torch.cat(parts)

    def pictures(self) -> Tensor | None:
        """Photos, and what the decoder makes of them."""
        half = _SHOWN // 2
        drawn = self.redraw(self.shown)
        rows = [self.shown[:half], drawn[:half], self.shown[half:], drawn[half:]]
        return torch.cat(rows)

    def finish(self, run: Path) -> None:
        """Write ``latent_encoder.safetensors`` and ``latent_decoder.safetensors``."""
        about = {
            "preset": self.config.preset, "network": to_dict(SIZES[self.config.preset]),
            "eyes": self.config.eyes,
        }  # fmt: skip
        save_weights(run / f"{LATENT_ENCODER}.safetensors", self.encoder, about)
        save_weights(run / f"{LATENT_DECODER}.safetensors", self.ema.average, about)


class _Part(Seen):
    """Photos of one micro-batch, and what was found out about them in the decoder's step."""

    def __init__(self, image: Float[Tensor, "n 3 96 96"], noise: Tensor) -> None:
        self.image, self.noise = image, noise


def load_latent_encoder(run: Path, eyes: Eyes) -> tuple[LatentEncoder, dict[str, Any]]:
    """Load the encoder of latent pictures of a finished run; return what stands beside it, too.

    Raises:
        DataError: when the run is not finished or damaged, or was trained through other eyes.
    """
    path = run / f"{LATENT_ENCODER}.safetensors"
    network, about = load_network(path, LatentEncoder, LatentConfig)
    check_eyes(about, eyes, path)
    return channels_last(network), about


def load_latent_decoder(run: Path) -> tuple[LatentDecoder, dict[str, Any]]:
    """Load the decoder of latent pictures of a finished run; return what stands beside it, too.

    Raises:
        DataError: when the run is not finished or damaged.
    """
    return load_network(run / f"{LATENT_DECODER}.safetensors", LatentDecoder, LatentConfig)


def check_eyes(about: dict[str, Any], eyes: Eyes, where: Path) -> None:
    """Check that what stands beside weights names these eyes.

    Raises:
        DataError: when it names others.
    """
    if about.get("eyes") != eyes.sha256:
        raise DataError(
            f"{where} was trained through other eyes than those that are installed: "
            "install the photo features that it was trained with"
        )
