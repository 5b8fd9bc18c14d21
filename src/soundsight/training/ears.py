"""Training of the ears: contrast of seconds with photo features, with or without a teacher."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.data.everyday.sounds import bands_above
from soundsight.models.contrastive import FIRST_TEMPERATURE, limit_temperature
from soundsight.models.ears import Ears, EarsAndMore, EarsConfig, PictureProjection, ears_preset
from soundsight.models.eyes import NETWORKS
from soundsight.training.augment import add_background, augment_mel, narrow_band
from soundsight.training.checkpoints import Pretrained, save_weights
from soundsight.training.configs import EarsTrainingConfig
from soundsight.training.devices import Devices
from soundsight.training.ears_data import EYES, EarsData
from soundsight.training.encoder import load_towers, to_float
from soundsight.training.losses import alone_nce, pictures_nce
from soundsight.training.teacher import FEATURES
from soundsight.training.trainer import (
    Ema,
    Scalars,
    Task,
    adamw,
    channels_last,
    one_cycle,
    set_rate,
)

KIND = "ears"

_STANDARDISED = 2048
"""Seconds by which features get mean 0 and variance 1."""

_AT_ONCE = 128


def in_other_rooms(
    mel: Float[Tensor, "n 1 128 100"],
    narrows: Bool[Tensor, " n"],
    config: EarsTrainingConfig,
    rng: torch.Generator,
) -> Float[Tensor, "n 1 128 100"]:
    """Put backgrounds behind seconds in [-1, 1]; those of ``narrows`` lose high bands too.

    They are those that have no copies.
    """
    mel = add_background(mel, rng, sounds=config.other_sounds, noise=config.noise, tilt=config.tilt)
    narrow = narrow_band(mel, rng, config.narrow, (bands_above(9000.0), bands_above(3400.0)))
    return torch.where(narrows.to(mel.device)[:, None, None, None], narrow, mel)


class EarsTask(Task):
    """Fits ears on numbered seconds and photo features.

    A batch is pairs, then pairs of two seconds (or two copies of one) of recordings without photos.
    ``data`` has the teacher's features where ``config.teacher``. DataError when ``start`` has no
    ears, or ears of other sizes or beside other eyes.
    """

    kind = KIND

    def __init__(
        self, config: EarsTrainingConfig, data: EarsData, *, start: Pretrained | None = None
    ) -> None:
        self.config, self.loop, self.data = config, config.loop, data
        torch.manual_seed(config.loop.seed)
        sizes = ears_preset(config.preset)
        self.sizes_of: EarsConfig = replace(sizes, teacher_size=FEATURES if config.teacher else 0)
        self.network = network = channels_last(EarsAndMore(self.sizes_of))
        if start is None:
            _standardise(network.picture, torch.from_numpy(data.photos[0].astype(np.float32)))
        else:
            kind = start.about("encoder").get("kind")
            if kind != KIND:
                raise DataError(f"{start.folder} has an encoder of kind {kind}, not {KIND}")
            about = load_towers(start, network.ears, network.picture, network.log_scale)
            if about.get("eyes", NETWORKS[EYES].sha256) != NETWORKS[EYES].sha256:
                raise DataError(
                    f"the ears of {start.folder} met photos through other eyes than those that are "
                    "installed: install the photo features that they were trained with"
                )
        self.average = Ema(network, config.average)
        self.optimizer = adamw(network, config.learning_rate, config.weight_decay)
        self.networks = {"ears": network, "average": self.average.average}
        self.optimizers = {"ears": self.optimizer}

    def place(self, devices: Devices) -> None:
        super().place(devices)
        devices.compile(self.network.ears)

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        config, loop, data = self.config, self.loop, self.data
        begins = loop.steps - round(config.last_layer * loop.steps)
        within = step - begins
        if within == 0:
            self._begin_last_layer()
        if within < 0:
            rate = config.learning_rate * one_cycle(step, begins, config.warm_up)
        else:
            rate = config.last_layer_rate * one_cycle(within, loop.steps - begins, config.warm_up)
        set_rate(self.optimizer, rate)
        clips = data.targets is not None and data.targets.clips is not None
        made = round(loop.batch_size * config.mixture_share) if clips else 0
        rest = loop.batch_size - made
        twos = round(rest * config.alone / 2) if data.alone else 0
        parts = self.parts(step, len(data.pair_second), rest - 2 * twos)
        ears = self.network.train().ears
        ears.stages.requires_grad_(within < 0).train(within < 0)
        ears.dropout.p = self.sizes_of.dropout if within < 0 else config.last_layer_dropout
        count = loop.accumulate * self.devices.world
        loss = partial(self._loss, alone=twos // count, made=made // count, rng=rng)
        scalars = self.descend("gradient", self.optimizer, parts, loss)
        limit_temperature(self.network.log_scale)
        self.average.update(self.network, step if within < 0 else within)
        return scalars

    @torch.no_grad()
    def _begin_last_layer(self) -> None:
        """Forget what stands behind the features: the photos' contrast knew recordings by heart."""
        network, data = self.network, self.data
        network.load_state_dict(self.average.average.state_dict())
        ears = network.eval().ears
        rows = np.unique(data.pair_second)
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _STANDARDISED)).astype(np.int64)]
        parts = np.array_split(rows, -(-len(rows) // _AT_ONCE))
        clean = [torch.from_numpy(data.mels(part, np.zeros_like(part)))[:, None] for part in parts]
        features = [ears.features(to_float(mels.to(self.devices.device))) for mels in clean]
        _standardise(ears, torch.cat(features))
        with torch.random.fork_rng():
            torch.manual_seed(self.loop.seed + 1)
            for layer in (ears.project, network.picture.project, network.reading):
                if layer is not None:
                    layer.reset_parameters()
        network.log_scale.fill_(-math.log(FIRST_TEMPERATURE))
        self.average.average.load_state_dict(network.state_dict())
        self.optimizer.state.clear()

    def _loss(
        self, rows: NDArray[np.int64], *, alone: int, made: int, rng: torch.Generator
    ) -> tuple[Tensor, Scalars]:
        device, network, config, data = self.devices.device, self.network, self.config, self.data
        n = len(rows)
        seconds = np.concatenate([data.pair_second[rows], *self._draw_alone(alone, rng)])
        copies = torch.randint(1, config.bank.copies + 1, (len(seconds),), generator=rng)
        copies[torch.rand(len(seconds), generator=rng) < config.clean] = 0
        levels = torch.from_numpy(data.mels(seconds, copies.numpy()))[:, None]
        narrows = torch.from_numpy(seconds >= data.waveforms)
        mel = in_other_rooms(to_float(levels.to(device)), narrows, config, rng)
        mel = augment_mel(mel, rng)
        # How much of each second is its own; the rest is that of its partner.
        mixed = torch.rand(n, generator=rng) < config.mixed
        share = torch.where(mixed, 0.5 + 0.5 * torch.rand(n, generator=rng).sqrt(), 1.0).to(device)
        photos, views = self._draw_photos(rows, rng)
        pooled = torch.from_numpy(data.photos[views, photos]).float()
        mel[:n] = mel[:n].lerp(mel[:n].flip(0), 1.0 - share[:, None, None, None])
        taught = None
        if made:
            assert data.targets is not None
            assert data.targets.clips is not None
            drawn = torch.randint(len(data.targets.clips), (made,), generator=rng).numpy()
            clips, features = data.targets.take(drawn)
            taught = torch.from_numpy(features)
            clip_mel = to_float(torch.from_numpy(clips)[:, None].to(device))
            mel = torch.cat([mel, augment_mel(clip_mel, rng)])
        with self.devices.autocast():
            sound = network.ears(mel).float()
            picture = network.picture(pooled.to(device)).float()
        loss = contrast = pictures_nce(
            sound[:n], picture, torch.from_numpy(data.pair_recording[rows]).to(device),
            torch.from_numpy(photos).to(device), torch.arange(n, device=device).flip(0), share,
            network.log_scale,
        )  # fmt: skip
        scalars = {"loss": contrast}
        if alone:
            twos = sound[n : n + 2 * alone].unflatten(0, (2, alone))
            scalars["alone"] = alone_nce(twos.transpose(0, 1), sound[:n], network.log_scale)
            loss = loss + config.alone_weight * scalars["alone"]
        if network.reading is not None:
            scalars["teacher"] = self._teacher_error(sound, seconds, share, taught)
            loss = loss + config.teacher_weight * scalars["teacher"]
        scalars["temperature"] = (-network.log_scale).exp()
        return loss, scalars

    def _draw_alone(self, count: int, rng: torch.Generator) -> list[NDArray[np.int64]]:
        """Two seconds of each of ``count`` recordings without photos: two arrays [count]."""
        alone = self.data.alone
        chosen = torch.randperm(len(alone), generator=rng)[:count].tolist()
        draws = torch.rand(2, count, generator=rng).numpy()
        return [
            np.array(
                [alone[c][int(d * len(alone[c]))] for c, d in zip(chosen, row, strict=True)],
                np.int64,
            )
            for row in draws
        ]

    def _draw_photos(
        self, rows: NDArray[np.int64], rng: torch.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The photo of each pair and more of its recording's, and a view of each: [n, k] twice."""
        data, each = self.data, self.config.photos_each
        draws = torch.rand(len(rows), each, 2, generator=rng).numpy()
        photos = np.empty((len(rows), each), np.int64)
        for place, row in enumerate(rows):
            own = data.photos_of[data.pair_recording[row]]
            photos[place] = own[(draws[place, :, 0] * len(own)).astype(np.int64)]
            photos[place, 0] = data.pair_photo[row]
        return photos, (draws[:, :, 1] * len(data.photos)).astype(np.int64)

    def _teacher_error(
        self,
        sound: Float[Tensor, "m e"],
        seconds: NDArray[np.int64],
        share: Float[Tensor, " n"],
        taught: Float[Tensor, "k a"] | None,
    ) -> Float[Tensor, ""]:
        """Mean squared error of the teacher's features of waveforms, then of its clips."""
        data, network = self.data, self.network
        assert data.targets is not None
        assert network.reading is not None
        n = len(share)
        known = torch.from_numpy(seconds < data.waveforms).to(sound.device)
        clean = data.targets.of(np.minimum(seconds, data.waveforms - 1))
        features = torch.from_numpy(clean).to(sound.device)
        wanted = features.clone()
        wanted[:n] = features[:n].lerp(features[:n].flip(0), 1.0 - share[:, None])
        # A mixture of two of the batch is known where both of its parts are.
        known[:n] &= known[:n].flip(0) | (share == 1)
        if taught is not None:
            wanted = torch.cat([wanted, taught.to(sound.device)])
            known = torch.cat([known, known.new_ones(len(taught))])
        error = (network.reading(sound) - wanted).square().mean(dim=1)
        weight = known.to(error.dtype)
        return (error * weight).sum() / weight.sum().clamp(min=1)

    def finish(self, run: Path) -> None:
        """Write the averaged ears, the photo side's projection and the teacher's reading."""
        average = self.average.average
        about = {"kind": KIND, "preset": self.config.preset, "network": to_dict(self.sizes_of)}
        save_weights(run / "encoder.safetensors", average.ears, about)
        temperature = float((-average.log_scale).exp())
        save_weights(
            run / "picture_encoder.safetensors", average.picture,
            {**about, "temperature": temperature, "eyes": NETWORKS[EYES].sha256},
        )  # fmt: skip
        if average.reading is not None:
            save_weights(run / "teacher_reading.safetensors", average.reading, about)


@torch.no_grad()
def _standardise(part: Ears | PictureProjection, features: Float[Tensor, "n f"]) -> None:
    """Let a linear layer meet these features with mean 0 and variance 1."""
    part.mean.copy_(features.mean(dim=0))
    part.scale.copy_(1.0 / (features.std(dim=0) + 1e-2))
