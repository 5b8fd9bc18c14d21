"""Aligning: the few-step translator learns to draw pictures that belong to their sounds.

Flow and decoder were trained apart. Here both learn together, from the finished picture back
through decoder and all steps, and no label is used:

    agreement    the picture, seen by the eyes and projected as photos were when the ears were
                 trained, is told from other sounds by its own one (InfoNCE, one direction)
    + likeness   the picture, seen by the eyes, is told from other photos by the one that belongs
                 to its sound (likewise)
    + adversary  a discriminator over the eyes tells pictures from photos
    + nearness   the latent picture stays near that of the flow as it was
    + colours    so do the colours of the picture, shrunk to 12 x 12: the eyes hardly look at them

Pictures and photos are looked at mirrored, enlarged and shifted at random: what pleases the eyes in
one place only, other networks and people do not see.

Sources: Clark et al. 2023 (DRaFT) and Prabhudesai et al. 2023 (AlignProp) for a reward's gradient
through the steps of a diffusion model; van den Oord et al. 2018 (InfoNCE); Sauer et al. 2021 for
the discriminator.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from soundsight.core.errors import DataError
from soundsight.models.discriminator import hinge_generator
from soundsight.models.ears import EarsConfig, PictureProjection
from soundsight.models.eyes import Eyes
from soundsight.training.augment import augment_image
from soundsight.training.checkpoints import TAUGHT_BY, copy_weights, load_network, save_weights
from soundsight.training.configs import AlignConfig
from soundsight.training.decoder import DrawingTask, check_eyes, load_latent_decoder
from soundsight.training.ears_data import EYES_PX
from soundsight.training.encoder import to_float, to_levels
from soundsight.training.flow import FlowPairs, load_flow
from soundsight.training.trainer import Ema, Scalars, channels_last, set_rate

_SHOWN = 16
"""Sounds in the grid: what was drawn for them before, above what is drawn now."""

_SHRUNK = 8
"""Pixels a side that become one where colours are compared."""


class AlignTask(DrawingTask):
    """Fits the few-step flow and its decoder on the pictures that they make.

    Args:
        pairs: whose embeddings are drawn for, and which photos go with them.
        photos: the photos by number, uint8 [p, 3, 96, 96].
        run: a finished run of ``distil``; DataError when it has no few-step flow, decoder or photo
            projection, or its ears or decoder met photos through other eyes.
    """

    kind = "align"

    def __init__(
        self,
        config: AlignConfig,
        pairs: FlowPairs,
        photos: UInt8[Tensor, "p 3 96 96"],
        eyes: Eyes,
        *,
        run: Path,
    ) -> None:
        self.config, self.loop, self.pairs, self.photos = config, config.loop, pairs, photos
        self.eyes, self._run = eyes, run
        self.before, self._about_flow = load_flow(run)
        if "times" not in self._about_flow:
            raise DataError(
                f"the flow of {run} has no few-step copy yet: start from `train distil`"
            )
        self.times: tuple[float, ...] = tuple(self._about_flow["times"])
        decoder, self._about_decoder = load_latent_decoder(run)
        path = run / "picture_encoder.safetensors"
        self.projection, about = load_network(path, PictureProjection, EarsConfig)
        for beside in (about, self._about_decoder):
            check_eyes(beside, eyes, run)
        self._scale = 1.0 / float(about["temperature"])
        torch.manual_seed(config.loop.seed)
        self.flow = copy.deepcopy(self.before).requires_grad_(True)
        self.decoder_before = channels_last(decoder)
        self.decoder = copy.deepcopy(decoder).requires_grad_(True)
        self.beside = [self.projection, self.before, self.decoder_before]
        drawing = (self.flow, self.decoder)
        self.adversaries(config.preset, drawing, config.rate, config.discriminator_rate)
        self.flow_ema = Ema(self.flow, config.ema_decay)
        self.decoder_ema = Ema(self.decoder, config.ema_decay)
        self.networks = {
            "flow": self.flow, "flow_average": self.flow_ema.average,
            "decoder": self.decoder, "decoder_average": self.decoder_ema.average,
            "discriminator": self.discriminator,
        }  # fmt: skip

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        optimizer = self.optimizers["generator"]
        set_rate(optimizer, self.config.rate_at(step))
        for network in (self.flow, self.decoder, self.discriminator):
            network.train()
        parts = [self._part(torch.from_numpy(own), rng)
                 for own in self.parts(step, len(self.pairs))]  # fmt: skip
        scalars: Scalars = {}
        # Its gradients are not wanted while flow and decoder learn.
        self.discriminator.heads.requires_grad_(False)
        if step >= self.config.ahead:
            scalars |= self.descend("gradient", optimizer, parts, partial(self._align, rng=rng))
            self.flow_ema.update(self.flow, step)
            self.decoder_ema.update(self.decoder, step)
        else:
            with torch.no_grad():
                for part in parts:
                    self._see(part, rng)
        self.discriminator.heads.requires_grad_(True)
        scalars |= self.descend("d_gradient", self.optimizers["discriminator"], parts, self.judge)
        return scalars

    def _part(self, rows: Tensor, rng: torch.Generator) -> SimpleNamespace:
        """Sounds and photos of one micro-batch."""
        pairs, device = self.pairs, self.devices.device
        second, photo = pairs.rows[rows].unbind(1)
        embedding, noise = pairs.draw(second, self.config.jitter, rng)
        photos = self._viewed(to_float(self.photos[photo].to(device)), rng)
        other = pairs.rows[torch.randint(len(pairs), (self.config.others,), generator=rng), 0]
        return SimpleNamespace(
            embedding=embedding.to(device), noise=noise.to(device), photo=photos,
            others=pairs.embeddings[0, other].float().to(device),
            # The same second elsewhere is no negative.
            same=(second[:, None] == other[None]).to(device), number=photo.to(device),
        )  # fmt: skip

    def _viewed(self, image: Tensor, rng: torch.Generator) -> Tensor:
        return augment_image(
            image, rng, zoom=self.config.zoom, shift=0.05, colour=0.05, side=EYES_PX
        )

    def _see(self, part: SimpleNamespace, rng: torch.Generator) -> None:
        """Draw pictures, look at them and at the photos; what is found goes into ``part``."""
        with self.devices.autocast():
            latent = self.flow.draw(part.embedding, part.noise.flatten(1), times=self.times)
            drawn = self.decoder(latent)
        seen = self._viewed(drawn.float(), rng)
        with self.devices.autocast():
            features = self.eyes(seen.contiguous(memory_format=torch.channels_last))
            with torch.no_grad():
                real = self.eyes(part.photo.contiguous(memory_format=torch.channels_last))
        part.latent, part.picture = latent.float(), drawn.float()
        part.scaled = self.rescale(part, real, features)
        part.pooled = self.eyes.pool(features[3].float())
        part.photo_pooled = self.eyes.pool(real[3].float())

    def _align(self, part: SimpleNamespace, rng: torch.Generator) -> tuple[Tensor, Scalars]:
        config = self.config
        self._see(part, rng)
        picture = F.normalize(self.projection(part.pooled), dim=1)
        n = len(picture)
        sounds = F.normalize(torch.cat([part.embedding, part.others]), dim=1)
        logits = picture @ sounds.T * self._scale
        logits[:, n:] = logits[:, n:].masked_fill(part.same, float("-inf"))
        agreement = F.cross_entropy(logits, torch.arange(n, device=logits.device))
        likeness = self._likeness(part.number, part.pooled, part.photo_pooled)
        with self.devices.autocast():
            scores = self.discriminator(part.scaled)
            with torch.no_grad():
                before = self.before.draw(part.embedding, part.noise.flatten(1), times=self.times)
                painted = self.decoder_before(before)
        adversarial = hinge_generator(scores)
        colour = F.l1_loss(
            F.avg_pool2d(part.picture, _SHRUNK), F.avg_pool2d(painted.float(), _SHRUNK)
        )
        near = (self.flow.scaled(part.latent) - self.flow.scaled(before.float())).square().mean()
        loss = config.agreement_weight * agreement + config.likeness_weight * likeness
        loss = loss + config.adversarial_weight * adversarial
        loss = loss + config.nearness_weight * near + config.colour_weight * colour
        return loss, {
            "agreement": agreement, "likeness": likeness, "adversarial": adversarial,
            "moved": near, "colour": colour,
        }  # fmt: skip

    def _likeness(
        self, number: Tensor, drawn: Float[Tensor, "n p"], photos: Float[Tensor, "n p"]
    ) -> Float[Tensor, ""]:
        """Tell the photo of a picture's own sound from those of the other sounds of the batch."""
        projection = self.projection
        drawn, photos = (
            F.normalize((pooled - projection.mean) * projection.scale, dim=1)
            for pooled in (drawn, photos)
        )
        logits = drawn @ photos.T / self.config.likeness_temperature
        own = torch.arange(len(drawn), device=drawn.device)
        # The same photo with another sound is no negative.
        same = number[:, None] == number[None]
        same.scatter_(1, own[:, None], False)
        return F.cross_entropy(logits.masked_fill(same, float("-inf")), own)

    @torch.no_grad()
    def pictures(self) -> Tensor | None:
        """What was drawn for some sounds before, and what is drawn for them now."""
        device = self.devices.device
        rows = torch.linspace(0, len(self.pairs) - 1, _SHOWN).long()
        embedding = self.pairs.embeddings[0, self.pairs.rows[rows, 0]].float().to(device)
        rng = torch.Generator().manual_seed(self.loop.seed)
        noise = torch.randn(len(rows), self.flow.noise_size, generator=rng).to(device)
        before, now = (
            to_levels(decoder(flow.draw(embedding, noise, times=self.times))).cpu()
            for flow, decoder in (
                (self.before, self.decoder_before),
                (self.flow_ema.average, self.decoder_ema.average),
            )
        )
        half = _SHOWN // 2
        return torch.cat([before[:half], now[:half], before[half:], now[half:]])

    def finish(self, run: Path) -> None:
        """Write flow and decoder, and beside them what they were trained with."""
        save_weights(run / "flow.safetensors", self.flow_ema.average, self._about_flow)
        save_weights(
            run / "latent_decoder.safetensors", self.decoder_ema.average, self._about_decoder
        )
        copy_weights(self._run, run, "encoder", "picture_encoder", "latent_encoder", TAUGHT_BY)
