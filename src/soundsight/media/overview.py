"""The look of a sound of any length, in constant memory: its waveform and its log-mel in columns.

Each column covers one frame (10 ms) at first. When there are ``MAX_COLUMNS`` of them, neighbours
are joined in pairs: a column then covers 20 ms, 40 ms and so on. Three hours are 2,110 columns of
5 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.errors import AudioError
from soundsight.media.mel import DEFAULT, Frames, MelConfig, to_levels

MAX_COLUMNS = 4096
"""An overview has fewer columns than this, and more than a quarter of it from 11 s of sound on."""

RANGE_DB = 60.0
"""Decibels between black and white: more than the networks see, for hours of soft and loud."""

_LOUD_SHARE = 99.0
"""A percentage: so many columns are no louder than what is drawn as white. One bang does not
darken the hours around it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Overview:
    """A whole sound at a glance, in n columns of equal length.

    Attributes:
        duration_s: length of the sound, in seconds. The last column may reach beyond it.
        step_s: length of a column, in seconds.
        waveform: float32 [n, 2], lowest and highest sample of each column, full scale 1.
        mel: uint8 [n_mels, n], the mean power of each column, row 0 the highest band. One scale
            for the whole sound: 255 is as loud as its loudest columns.
    """

    duration_s: float
    step_s: float
    waveform: NDArray[np.float32]
    mel: NDArray[np.uint8]


class OverviewMaker:
    """Makes the overview of a sound that arrives in blocks."""

    def __init__(self, config: MelConfig = DEFAULT) -> None:
        self._config = config
        self._frames = Frames(config)
        self._per_column = 1
        self._count = 0
        # Lowest and highest sample and the power of each band, a column a row.
        self._columns = np.empty((MAX_COLUMNS, 2 + config.n_mels), np.float32)
        self._rest = self._columns[:0]  # frames that do not make a column yet

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples [t], mono at ``config.rate_hz``."""
        for first in range(0, len(samples), self._config.segment_samples):
            self._frames.append(samples[first : first + self._config.segment_samples])
            self._take(self._frames.compute())

    def finish(self, duration_s: float) -> Overview:
        """End the sound: return its overview; columns after ``duration_s`` are left out."""
        config, frames = self._config, self._frames
        if not frames.end:
            raise AudioError("there is no sound: the clip has no samples")
        # Silence fills up the last block.
        frames.total = frames.end
        frames.append(
            np.zeros(-frames.end % (config.block_frames * config.hop_samples), np.float32)
        )
        self._take(frames.compute())
        if len(self._rest):
            self._columns[self._count] = _joined(self._rest, len(self._rest))
            self._count += 1
        step_s = self._per_column * units.HOP_S
        # A hundredth of a column is no column of its own.
        count = min(self._count, max(1, math.ceil(duration_s / step_s - 0.01)))
        db = 10.0 * np.log10(np.maximum(self._columns[:count, 2:], 1e-20))
        loud_db = float(np.percentile(db.max(axis=1), _LOUD_SHARE))
        levels = to_levels(db, loud_db, replace(config, range_db=RANGE_DB))
        return Overview(
            duration_s=duration_s,
            step_s=step_s,
            waveform=self._columns[:count, :2].copy(),
            mel=np.ascontiguousarray(levels.T),
        )

    def _take(self, db: NDArray[np.float32]) -> None:
        """Take the next frames, in decibels."""
        config, frames = self._config, self._frames
        hop, last = config.hop_samples, frames.computed
        low = (last - len(db)) * hop - frames.origin
        hops = frames.samples[low : last * hop - frames.origin].reshape(-1, hop)
        powers = np.power(np.float32(10.0), db / np.float32(10.0))
        waves = np.stack([hops.min(axis=1), hops.max(axis=1)], axis=1)
        self._rest = np.concatenate([self._rest, np.concatenate([waves, powers], axis=1)])
        frames.drop(last * hop - 2 * config.window_samples)
        while (ready := len(self._rest) // self._per_column) > 0:
            count = min(ready, MAX_COLUMNS - self._count)
            used = count * self._per_column
            self._columns[self._count : self._count + count] = _joined(
                self._rest[:used], self._per_column
            )
            self._rest = self._rest[used:].copy()
            self._count += count
            if self._count == MAX_COLUMNS:
                self._count //= 2
                self._columns[: self._count] = _joined(self._columns, 2)
                self._per_column *= 2


def _joined(columns: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Each ``count`` columns as one: the lowest, the highest sample, the mean power."""
    parts = columns.reshape(-1, count, columns.shape[1])
    made: NDArray[np.float32] = parts.mean(axis=1)
    made[:, 0], made[:, 1] = parts[:, :, 0].min(axis=1), parts[:, :, 1].max(axis=1)
    return made
