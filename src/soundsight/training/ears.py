"""Training of the ears: contrast of seconds with photo features, with or without a teacher."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.data.everyday.sounds import bands_above
from soundsight.data.store.dataset import batch_indices
from soundsight.media.mel import DEFAULT
from soundsight.models.contrastive import FIRST_TEMPERATURE, limit_temperature
from soundsight.models.ears import (
    Ears,
    EarsAndMore,
    EarsConfig,
    PictureProjection,
    ears_preset,
)
from soundsight.training.augment import add_background, augment_mel, narrow_band
from soundsight.training.checkpoints import save_weights
from soundsight.training.configs import EarsTrainingConfig
from soundsight.training.devices import Devices
from soundsight.training.ears_data import EarsData
from soundsight.training.ema import Ema
from soundsight.training.encoder import to_float
from soundsight.training.fine_tuning import ENCODER, PICTURE_ENCODER, Pretrained
from soundsight.training.losses import alone_nce, pictures_nce
from soundsight.training.teacher import FEATURES
from soundsight.training.trainer import (
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


def fine_tuning_config(config: EarsTrainingConfig, init: str) -> EarsTrainingConfig:
    """Return the settings for starting from finished weights: slower, shorter, with their layer."""
    loop = replace(config.loop, steps=1500)
    return replace(config, init=init, learning_rate=5e-4, last_layer=0.0, loop=loop)


def in_other_rooms(
    mel: Float[Tensor, "n 1 128 100"],
    narrows: Bool[Tensor, " n"],
    config: EarsTrainingConfig,
    rng: torch.Generator,
) -> Float[Tensor, "n 1 128 100"]:
    """Put backgrounds behind seconds; those that have no copies lose high bands too.

    Args:
        mel: in [-1, 1].
        narrows: which of them have no copies.
    """
    mel = add_background(
        mel, rng, range_db=DEFAULT.range_db, sounds=config.other_sounds, noise=config.noise,
        tilt=config.tilt,
    )  # fmt: skip
    narrow = narrow_band(mel, rng, config.narrow, (bands_above(9000.0), bands_above(3400.0)))
    return torch.where(narrows.to(mel.device)[:, None, None, None], narrow, mel)


class EarsTask(Task):
    """Fits ears on numbered seconds and photo features.

    A batch is pairs, then pairs of two seconds (or two copies of one) of recordings without photos.

    Args:
        data: the seconds, photos and pairs; with the teacher's scores where ``config.teacher``.

    Raises:
        DataError: when ``start`` has no ears, or ears of other sizes or beside other eyes.
    """

    kind = KIND

    def __init__(
        self, config: EarsTrainingConfig, data: EarsData, *, start: Pretrained | None = None
    ) -> None:
        self.config, self.data = config, data
        torch.manual_seed(config.loop.seed)
        sizes = ears_preset(config.preset)
        self.sizes_of: EarsConfig = replace(sizes, teacher_size=FEATURES if config.teacher else 0)
        self.network = channels_last(EarsAndMore(self.sizes_of))
        if start is None:
            _standardise(self.network.picture, torch.from_numpy(data.photos[0].astype(np.float32)))
        else:
            self._start_from(start)
        self.average = Ema(self.network, config.average)
        self.optimizer = adamw(self.network, config.learning_rate, config.weight_decay)
        self._copies = config.bank.copies

    def _start_from(self, start: Pretrained) -> None:
        kind = start.about(ENCODER).get("kind")
        if kind != KIND:
            raise DataError(f"{start.folder} has an encoder of kind {kind}, not {KIND}")
        start.load(ENCODER, self.network.ears)
        about = start.load(PICTURE_ENCODER, self.network.picture)
        if about.get("eyes", self.data.eyes) != self.data.eyes:
            raise DataError(
                f"the ears of {start.folder} met photos through other eyes than those that are "
                "installed: install the photo features that they were trained with"
            )
        with torch.no_grad():
            self.network.log_scale.fill_(-math.log(about.get("temperature", FIRST_TEMPERATURE)))

    def networks(self) -> dict[str, nn.Module]:
        return {"ears": self.network, "average": self.average.average}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"ears": self.optimizer}

    def place(self, devices: Devices) -> None:
        super().place(devices)
        devices.compile(self.network.ears)

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        config, loop = self.config, self.config.loop
        begins = loop.steps - round(config.last_layer * loop.steps)
        within = step - begins
        if within == 0:
            self._begin_last_layer()
        if within < 0:
            rate = config.learning_rate * one_cycle(step, begins, config.warm_up)
        else:
            rate = config.last_layer_rate * one_cycle(within, loop.steps - begins, config.warm_up)
        set_rate(self.optimizer, rate)
        targets = self.data.targets
        made = 0
        if targets is not None and targets.clips is not None:
            made = round(loop.batch_size * config.mixture_share)
        rest = loop.batch_size - made
        twos = round(rest * config.alone / 2) if self.data.alone else 0
        rows = batch_indices(len(self.data.pair_second), rest - 2 * twos, loop.seed, step)
        parts = self.devices.parts_of(rows, loop.accumulate)
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
            torch.manual_seed(self.config.loop.seed + 1)
            for layer in (ears.project, network.picture.project, network.reading):
                if layer is not None:
                    layer.reset_parameters()
        network.log_scale.fill_(-math.log(FIRST_TEMPERATURE))
        self.average.average.load_state_dict(network.state_dict())
        self.optimizer.state.clear()

    def _loss(
        self, rows: NDArray[np.int64], *, alone: int, made: int, rng: torch.Generator
    ) -> tuple[Tensor, Scalars]:
        devices, network, config, data = self.devices, self.network, self.config, self.data
        n = len(rows)
        seconds = np.concatenate([data.pair_second[rows], *self._draw_alone(alone, rng)])
        copies = torch.randint(1, self._copies + 1, (len(seconds),), generator=rng)
        copies[torch.rand(len(seconds), generator=rng) < config.clean] = 0
        levels = torch.from_numpy(data.mels(seconds, copies.numpy()))[:, None]
        narrows = torch.from_numpy(seconds >= data.waveforms)
        mel = to_float(levels.to(devices.device))
        mel = augment_mel(in_other_rooms(mel, narrows, config, rng), rng)
        share = self._shares(n, rng).to(devices.device)
        photos, pooled = self._draw_photos(rows, rng)
        mel[:n] = mel[:n].lerp(mel[:n].flip(0), 1.0 - share[:, None, None, None])
        taught = None
        if made:
            clips, taught = self._draw_clips(made, rng)
            mel = torch.cat([mel, augment_mel(to_float(clips.to(devices.device)), rng)])
        with devices.autocast():
            sound = network.ears(mel).float()
            picture = network.picture(pooled.to(devices.device)).float()
        recording = torch.from_numpy(data.pair_recording[rows]).to(devices.device)
        partner = torch.arange(n, device=devices.device).flip(0)
        contrast = pictures_nce(
            sound[:n], picture, recording, photos.to(devices.device), partner, share,
            network.log_scale,
        )  # fmt: skip
        loss = contrast
        scalars = {"loss": contrast.detach()}
        if alone:
            twos = sound[n : n + 2 * alone].unflatten(0, (2, alone))
            own = alone_nce(twos.transpose(0, 1), sound[:n], network.log_scale)
            loss = loss + config.alone_weight * own
            scalars["alone"] = own.detach()
        if network.reading is not None:
            error = self._teacher_error(sound, seconds, share, taught)
            loss = loss + config.teacher_weight * error
            scalars["teacher"] = error.detach()
        scalars["temperature"] = (-network.log_scale).exp().detach()
        return loss, scalars

    def _draw_alone(self, count: int, rng: torch.Generator) -> list[NDArray[np.int64]]:
        """Two seconds of each of ``count`` recordings without photos: two arrays [count]."""
        chosen = torch.randperm(len(self.data.alone), generator=rng)[:count].tolist()
        draws = torch.rand(2, count, generator=rng).numpy()
        return [
            np.array(
                [self.data.alone[c][int(d * len(self.data.alone[c]))]
                 for c, d in zip(chosen, row, strict=True)],
                np.int64,
            )
            for row in draws
        ]  # fmt: skip

    def _shares(self, n: int, rng: torch.Generator) -> Float[Tensor, " n"]:
        """How much of each second is its own; the rest is that of its partner."""
        mixed = torch.rand(n, generator=rng) < self.config.mixed
        return torch.where(mixed, 0.5 + 0.5 * torch.rand(n, generator=rng).sqrt(), 1.0)

    def _draw_photos(
        self, rows: NDArray[np.int64], rng: torch.Generator
    ) -> tuple[Int64[Tensor, "n k"], Float[Tensor, "n k p"]]:
        """The photo of each pair and more of its recording's, each in some view."""
        data, each = self.data, self.config.photos_each
        draws = torch.rand(len(rows), each, 2, generator=rng).numpy()
        photos = np.empty((len(rows), each), np.int64)
        for place, row in enumerate(rows):
            own = data.photos_of[data.pair_recording[row]]
            photos[place] = own[(draws[place, :, 0] * len(own)).astype(np.int64)]
            photos[place, 0] = data.pair_photo[row]
        view = (draws[:, :, 1] * len(data.photos)).astype(np.int64)
        return torch.from_numpy(photos), torch.from_numpy(data.photos[view, photos]).float()

    def _draw_clips(
        self, count: int, rng: torch.Generator
    ) -> tuple[UInt8[Tensor, "n 1 128 100"], Float[Tensor, "n a"]]:
        """Seconds of the teacher's clips, and its features of them."""
        targets = self.data.targets
        assert targets is not None
        assert targets.clips is not None
        rows = torch.randint(len(targets.clips), (count,), generator=rng).numpy()
        mels, features = targets.take(rows)
        return torch.from_numpy(mels)[:, None], torch.from_numpy(features)

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
            {**about, "temperature": temperature, "eyes": self.data.eyes},
        )  # fmt: skip
        if average.reading is not None:
            save_weights(run / "teacher_reading.safetensors", average.reading, about)


@torch.no_grad()
def _standardise(part: Ears | PictureProjection, features: Float[Tensor, "n f"]) -> None:
    """Let a linear layer meet these features with mean 0 and variance 1."""
    part.mean.copy_(features.mean(dim=0))
    part.scale.copy_(1.0 / (features.std(dim=0) + 1e-2))
