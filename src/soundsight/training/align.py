"""Aligning: the few-step translator learns to draw pictures that belong to their sounds.

Flow and decoder were trained apart: one never saw a picture, the other had no sound. Here
both learn together, from the finished picture back through decoder and all steps, and no label is
used:

    agreement    the picture, seen by the eyes and projected as photos were when the ears were
                 trained, is told from other sounds by its own one (InfoNCE, one direction)
    + likeness   the picture, seen by the eyes, is told from other photos by the one that belongs
                 to its sound (likewise)
    + adversary  a discriminator over the eyes tells pictures from photos
    + nearness   the latent picture stays near that of the flow as it was
    + colours    so do the colours of the picture, shrunk to 12 x 12: the eyes hardly look at them

Pictures and photos are looked at mirrored, enlarged and shifted at random, so that a picture has to
please the eyes from wherever they look: what pleases them in one place only, other networks and
people do not see.

Sources: Clark et al. 2023 (DRaFT) and Prabhudesai et al. 2023 (AlignProp) for a reward's gradient
through the steps of a diffusion model; van den Oord et al. 2018 (InfoNCE); Sauer et al. 2021 for
the discriminator.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from soundsight.core.errors import DataError
from soundsight.data.store.dataset import batch_indices
from soundsight.models.discriminator import hinge_generator
from soundsight.models.ears import EarsConfig, PictureProjection
from soundsight.models.eyes import Eyes
from soundsight.training.augment import augment_image
from soundsight.training.checkpoints import load_network, save_weights
from soundsight.training.configs import AlignConfig
from soundsight.training.decoder import check_eyes, load_latent_decoder
from soundsight.training.devices import Devices
from soundsight.training.drawing import DrawingTask, Seen
from soundsight.training.ema import Ema
from soundsight.training.encoder import to_float, to_levels
from soundsight.training.fine_tuning import (
    ENCODER,
    FLOW,
    LATENT_DECODER,
    LATENT_ENCODER,
    PICTURE_ENCODER,
    TAUGHT_BY,
)
from soundsight.training.flow import copy_weights, load_flow
from soundsight.training.flow_data import FlowPairs
from soundsight.training.photo_features import EYES_PX
from soundsight.training.trainer import Scalars, channels_last, set_rate

_SHOWN = 16
"""Sounds in the grid: what was drawn for them before, above what is drawn now."""

_SHRUNK = 8
"""Pixels a side that become one where colours are compared."""


class AlignTask(DrawingTask):
    """Fits the few-step flow and its decoder on the pictures that they make.

    Args:
        pairs: whose embeddings are drawn for, and which photos go with them.
        photos: the photos by number, uint8 [p, 3, 96, 96].
        run: a finished run of ``distil``, with its decoder and the ears' photo projection.

    Raises:
        DataError: when ``run`` is not finished, has no few-step flow or no photo projection, or
            its ears or decoder met photos through other eyes.
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
        self.config, self.pairs, self.photos = config, pairs, photos
        self.eyes, self._run = eyes, run
        before, self._about_flow = load_flow(run)
        if "times" not in self._about_flow:
            raise DataError(
                f"the flow of {run} has no few-step copy yet: start from `train distil`"
            )
        self.times: tuple[float, ...] = tuple(self._about_flow["times"])
        decoder, self._about_decoder = load_latent_decoder(run)
        path = run / f"{PICTURE_ENCODER}.safetensors"
        self.projection, about = load_network(path, PictureProjection, EarsConfig)
        for beside in (about, self._about_decoder):
            check_eyes(beside, eyes, run)
        self._scale = 1.0 / float(about["temperature"])
        torch.manual_seed(config.loop.seed)
        self.before = before
        self.flow = copy.deepcopy(before).requires_grad_(True)
        self.decoder_before = channels_last(decoder)
        self.decoder = copy.deepcopy(decoder).requires_grad_(True)
        self.make_discriminator(config.preset, config.discriminator_rate)
        self.flow_ema = Ema(self.flow, config.ema_decay)
        self.decoder_ema = Ema(self.decoder, config.ema_decay)
        self.optimizer = torch.optim.Adam(
            [p for n in (self.flow, self.decoder) for p in n.parameters()],
            lr=config.rate, betas=(0.5, 0.99),
        )  # fmt: skip

    def networks(self) -> dict[str, nn.Module]:
        return {
            "flow": self.flow, "flow_average": self.flow_ema.average,
            "decoder": self.decoder, "decoder_average": self.decoder_ema.average,
            "discriminator": self.discriminator,
        }  # fmt: skip

    def place(self, devices: Devices) -> None:
        super().place(devices)
        for network in (self.projection, self.before, self.decoder_before):
            network.to(devices.device)

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        config, loop, devices = self.config, self.config.loop, self.devices
        rate = config.rate_at(step)
        set_rate(self.optimizer, rate)
        self.flow.train()
        self.decoder.train()
        self.discriminator.train()
        rows = batch_indices(len(self.pairs), loop.batch_size, loop.seed, step)
        parts = [self._part(torch.from_numpy(own), rng)
                 for own in devices.parts_of(rows, loop.accumulate)]  # fmt: skip
        scalars: Scalars = {}
        # Its gradients are not wanted while flow and decoder learn.
        self.discriminator.heads.requires_grad_(False)
        if step >= config.ahead:
            scalars |= self.descend(
                "gradient", self.optimizer, parts, partial(self._align, rng=rng)
            )
            self.flow_ema.update(self.flow, step)
            self.decoder_ema.update(self.decoder, step)
        else:
            with torch.no_grad():
                for part in parts:
                    self._see(part, rng)
        self.discriminator.heads.requires_grad_(True)
        scalars |= self.descend("d_gradient", self.d_optimizer, parts, self.judge)
        return scalars

    def _part(self, rows: Tensor, rng: torch.Generator) -> _Part:
        pairs, n = self.pairs, len(rows)
        second, photo = pairs.rows[rows].unbind(1)
        device = self.devices.device
        copies = torch.randint(len(pairs.embeddings), (n,), generator=rng)
        jitter = torch.randn(n, self.flow.embedding_size, generator=rng)
        noise = torch.randn(n, *pairs.latents.shape[2:], generator=rng)
        photos = augment_image(
            to_float(self.photos[photo].to(device)), rng, zoom=self.config.zoom, shift=0.05,
            colour=0.05, side=EYES_PX,
        )  # fmt: skip
        other = pairs.rows[torch.randint(len(pairs), (self.config.others,), generator=rng), 0]
        embedding = pairs.embeddings[copies, second].float() + self.config.jitter * jitter
        return _Part(
            embedding=embedding.to(device), noise=noise.to(device), photo=photos,
            # The same second elsewhere is no negative.
            others=pairs.embeddings[0, other].float().to(device),
            same=(second[:, None] == other[None]).to(device), number=photo.to(device),
        )  # fmt: skip

    def _see(self, part: _Part, rng: torch.Generator) -> _Drawn:
        """Draw pictures and look at them, and at the photos."""
        devices, flow = self.devices, self.flow
        with devices.autocast():
            latent = flow.draw(part.embedding, part.noise.flatten(1), times=self.times)
            drawn = self.decoder(latent)
        seen = augment_image(
            drawn.float(), rng, zoom=self.config.zoom, shift=0.05, colour=0.05, side=EYES_PX
        )
        with devices.autocast():
            features = self.eyes(seen.contiguous(memory_format=torch.channels_last))
            with torch.no_grad():
                real = self.eyes(part.photo.contiguous(memory_format=torch.channels_last))
        return _Drawn(
            latent=latent.float(), picture=drawn.float(), deepest=features[3].float(),
            scaled=self.rescale(part, real, features, self.usual_sizes(real)),
            photo=real[3].float(),
        )  # fmt: skip

    def _align(self, part: _Part, rng: torch.Generator) -> tuple[Tensor, Scalars]:
        config, devices = self.config, self.devices
        drawn = self._see(part, rng)
        pooled = self.eyes.pool(drawn.deepest)
        picture = F.normalize(self.projection(pooled), dim=1)
        n = len(picture)
        sounds = F.normalize(torch.cat([part.embedding, part.others]), dim=1)
        logits = picture @ sounds.T * self._scale
        logits[:, n:] = logits[:, n:].masked_fill(part.same, float("-inf"))
        agreement = F.cross_entropy(logits, torch.arange(n, device=logits.device))
        likeness = self._likeness(part, pooled, self.eyes.pool(drawn.photo))
        with devices.autocast():
            scores = self.discriminator(drawn.scaled)
            with torch.no_grad():
                before = self.before.draw(part.embedding, part.noise.flatten(1), times=self.times)
                painted = self.decoder_before(before)
        adversarial = hinge_generator(scores)
        colour = F.l1_loss(_shrunk(drawn.picture), _shrunk(painted.float()))
        near = (self.flow.scaled(drawn.latent) - self.flow.scaled(before.float())).square().mean()
        loss = config.agreement_weight * agreement + config.likeness_weight * likeness
        loss = loss + config.adversarial_weight * adversarial
        loss = loss + config.nearness_weight * near + config.colour_weight * colour
        scalars = {
            "agreement": agreement, "likeness": likeness, "adversarial": adversarial,
            "moved": near, "colour": colour,
        }  # fmt: skip
        return loss, {name: value.detach() for name, value in scalars.items()}

    def _likeness(
        self, part: _Part, drawn: Float[Tensor, "n p"], photos: Float[Tensor, "n p"]
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
        same = part.number[:, None] == part.number[None]
        same.scatter_(1, own[:, None], False)
        return F.cross_entropy(logits.masked_fill(same, float("-inf")), own)

    @torch.no_grad()
    def pictures(self) -> Tensor | None:
        """What was drawn for some sounds before, and what is drawn for them now."""
        rows = torch.linspace(0, len(self.pairs) - 1, _SHOWN).long()
        embedding = self.pairs.embeddings[0, self.pairs.rows[rows, 0]].float()
        rng = torch.Generator().manual_seed(self.config.loop.seed)
        noise = torch.randn(len(rows), self.flow.noise_size, generator=rng)
        device = self.devices.device
        drawn = []
        for flow, decoder in (
            (self.before, self.decoder_before),
            (self.flow_ema.average, self.decoder_ema.average),
        ):
            latent: Any = flow.draw(embedding.to(device), noise.to(device), times=self.times)
            drawn.append(to_levels(decoder(latent)).cpu())
        half = _SHOWN // 2
        return torch.cat([drawn[0][:half], drawn[1][:half], drawn[0][half:], drawn[1][half:]])

    def finish(self, run: Path) -> None:
        """Write flow and decoder, and beside them what they were trained with."""
        save_weights(run / f"{FLOW}.safetensors", self.flow_ema.average, self._about_flow)
        save_weights(
            run / f"{LATENT_DECODER}.safetensors", self.decoder_ema.average, self._about_decoder
        )
        copy_weights(self._run, run, (ENCODER, PICTURE_ENCODER, LATENT_ENCODER, TAUGHT_BY))


@dataclass(kw_only=True)
class _Part(Seen):
    """Sounds and photos of one micro-batch."""

    embedding: Float[Tensor, "n e"]
    noise: Float[Tensor, "n l 6 6"]
    photo: Float[Tensor, "n 3 s s"]
    others: Float[Tensor, "m e"]
    same: Tensor
    number: Int64[Tensor, " n"]


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Pictures of one micro-batch, and their features: as they are, and on the photos' scale."""

    latent: Float[Tensor, "n l 6 6"]
    picture: Float[Tensor, "n 3 96 96"]
    deepest: Tensor
    scaled: list[Tensor]
    photo: Tensor
    """The deepest features of the photos."""


def _shrunk(image: Float[Tensor, "n 3 96 96"]) -> Float[Tensor, "n 3 12 12"]:
    return F.avg_pool2d(image, _SHRUNK)
