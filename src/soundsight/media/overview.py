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
from soundsight.media.mel import DEFAULT, Framer, HeldSamples, MelConfig, to_levels

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
        self._framer = Framer(config)
        self._held = HeldSamples(np.empty(0, np.float32))
        self._blocks = 0  # of frames, taken so far
        self._per_column = 1
        self._columns = 0
        self._waves = np.empty((MAX_COLUMNS, 2), np.float32)
        self._powers = np.empty((MAX_COLUMNS, config.n_mels), np.float32)
        # Frames that do not make a column yet.
        self._rest_waves = np.empty((0, 2), np.float32)
        self._rest_powers = np.empty((0, config.n_mels), np.float32)

    def push(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples [t], mono at ``config.rate_hz``."""
        config = self._config
        for first in range(0, len(samples), config.segment_samples):
            self._held.append(samples[first : first + config.segment_samples])
            # Each frame sees half a window more.
            seen = (self._held.end - config.window_samples // 2) // config.hop_samples + 1
            self._take(max(0, seen // config.block_frames))

    def finish(self, duration_s: float) -> Overview:
        """End the sound: return its overview; columns after ``duration_s`` are left out.

        Raises:
            AudioError: when there is no sample at all.
        """
        config, held = self._config, self._held
        if not held.end:
            raise AudioError("there is no sound: the clip has no samples")
        held.total = held.end
        # Silence fills up the last block.
        block_samples = config.block_frames * config.hop_samples
        blocks = -(-held.end // block_samples)
        lacking = blocks * block_samples - held.end
        held.samples = np.concatenate([held.samples, np.zeros(lacking, np.float32)])
        self._take(blocks)
        if len(self._rest_waves):
            self._add(self._rest_waves, self._rest_powers, 1)
        step_s = self._per_column * units.HOP_S
        # A hundredth of a column is no column of its own.
        count = min(self._columns, max(1, math.ceil(duration_s / step_s - 0.01)))
        db = 10.0 * np.log10(np.maximum(self._powers[:count], 1e-20))
        scale = replace(config, range_db=RANGE_DB)
        loud_db = float(np.percentile(db.max(axis=1), _LOUD_SHARE))
        return Overview(
            duration_s=duration_s,
            step_s=step_s,
            waveform=self._waves[:count].copy(),
            mel=np.ascontiguousarray(to_levels(db, loud_db, scale).T),
        )

    def _take(self, blocks: int) -> None:
        """Take blocks of frames up to a number."""
        config, held = self._config, self._held
        if blocks <= self._blocks:
            return
        size = config.block_frames * config.hop_samples
        hops = held.samples[self._blocks * size - held.origin : blocks * size - held.origin]
        hops = hops.reshape(-1, config.hop_samples)
        waves = np.stack([hops.min(axis=1), hops.max(axis=1)], axis=1)
        db = self._framer.blocks(held, self._blocks, blocks)
        powers = np.power(np.float32(10.0), db / np.float32(10.0))
        self._rest_waves = np.concatenate([self._rest_waves, waves])
        self._rest_powers = np.concatenate([self._rest_powers, powers])
        self._blocks = blocks
        held.drop(blocks * size - 2 * config.window_samples)
        while (ready := len(self._rest_waves) // self._per_column) > 0:
            count = min(ready, MAX_COLUMNS - self._columns)
            used = count * self._per_column
            self._add(self._rest_waves[:used], self._rest_powers[:used], count)
            self._rest_waves = self._rest_waves[used:].copy()
            self._rest_powers = self._rest_powers[used:].copy()
            if self._columns == MAX_COLUMNS:
                self._halve()

    def _add(self, waves: NDArray[np.float32], powers: NDArray[np.float32], count: int) -> None:
        at = slice(self._columns, self._columns + count)
        parts = waves.reshape(count, -1, 2)
        self._waves[at, 0] = parts[:, :, 0].min(axis=1)
        self._waves[at, 1] = parts[:, :, 1].max(axis=1)
        self._powers[at] = powers.reshape(count, -1, powers.shape[1]).mean(axis=1)
        self._columns += count

    def _halve(self) -> None:
        half = MAX_COLUMNS // 2
        self._waves[:half, 0] = self._waves[:, 0].reshape(half, 2).min(axis=1)
        self._waves[:half, 1] = self._waves[:, 1].reshape(half, 2).max(axis=1)
        self._powers[:half] = self._powers.reshape(half, 2, -1).mean(axis=1)
        self._columns = half
        self._per_column *= 2
