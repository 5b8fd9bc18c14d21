"""The look of a sound of any length, in constant memory: its waveform and its log-mel in columns.

The windows of ``media.windows`` pass by; each column covers one frame (10 ms) at first. When there
are ``MAX_COLUMNS`` of them, neighbours are joined in pairs: a column then covers 20 ms, 40 ms and
so on. Three hours are 2,110 columns of 5 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.errors import AudioError
from soundsight.media.mel import (
    BLOCKS_PER_SEGMENT,
    DEFAULT,
    Framer,
    HeldSamples,
    MelConfig,
    to_levels,
)
from soundsight.media.windows import Window

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
    """Makes the overview of a sound whose windows pass by.

    Args:
        config: settings of the log-mel.
    """

    def __init__(self, config: MelConfig = DEFAULT) -> None:
        self._config = config
        self._framer = Framer(config)
        self._frames = 0  # frames taken so far
        self._last: Window | None = None
        self._per_column = 1
        self._columns = 0
        self._waves = np.empty((MAX_COLUMNS, 2), np.float32)
        self._powers = np.empty((MAX_COLUMNS, config.n_mels), np.float32)
        # Frames that do not make a column yet.
        self._rest_waves = np.empty((0, 2), np.float32)
        self._rest_powers = np.empty((0, config.n_mels), np.float32)

    def take(self, window: Window) -> None:
        """Take the next window; what earlier ones have shown is left out.

        Args:
            window: of 1 s, a quarter of a second after the last one (or 0.5 or 0.75 s).

        Raises:
            AudioError: when one is missing before it.
        """
        config = self._config
        first = self._frames - round(window.start_s / units.HOP_S)
        if first < (config.block_frames if self._last is not None else 0):
            raise AudioError(f"a window before {window.start_s:g} s is missing")
        frames = config.segment_frames
        if first >= frames:
            return
        samples = window.samples[first * config.hop_samples :]
        hops = samples.reshape(frames - first, config.hop_samples)
        self._rest_waves = np.concatenate(
            [self._rest_waves, np.stack([hops.min(axis=1), hops.max(axis=1)], axis=1)]
        )
        self._hear(window, first)
        self._frames += frames - first
        self._fill()

    def _hear(self, window: Window, first: int) -> None:
        """Compute the log-mel anew: a window's own is cut off under its own loudest point."""
        config = self._config
        if self._last is not None:
            # The end of a window is seen as it is by the next one, which knows what follows.
            first -= config.block_frames
        held = HeldSamples(window.samples)
        block = first // config.block_frames
        self._take_db(self._framer.blocks(held, block, BLOCKS_PER_SEGMENT - 1))
        self._last = window

    def _take_db(self, db: NDArray[np.float32]) -> None:
        power = np.power(np.float32(10.0), db / np.float32(10.0))
        self._rest_powers = np.concatenate([self._rest_powers, power])

    def _fill(self) -> None:
        while (ready := min(len(self._rest_waves), len(self._rest_powers)) // self._per_column) > 0:
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

    def finish(self, duration_s: float) -> Overview:
        """Return the overview of all that was taken.

        Args:
            duration_s: length of the sound, in seconds; columns after it are left out.

        Raises:
            AudioError: when nothing was taken.
        """
        if not self._frames:
            raise AudioError("there is no sound: the clip has no samples")
        if self._last is not None:
            samples = self._last.samples
            held = HeldSamples(samples, total=len(samples))
            self._take_db(self._framer.blocks(held, BLOCKS_PER_SEGMENT - 1, BLOCKS_PER_SEGMENT))
            self._last = None
            self._fill()
        if len(self._rest_waves):
            self._add(self._rest_waves, self._rest_powers, 1)
            self._rest_waves = self._rest_waves[:0]
            self._rest_powers = self._rest_powers[:0]
        step_s = self._per_column * units.HOP_S
        # A hundredth of a column is no column of its own.
        count = min(self._columns, max(1, math.ceil(duration_s / step_s - 0.01)))
        powers = self._powers[:count]
        db = 10.0 * np.log10(np.maximum(powers, 1e-20))
        scale = replace(self._config, range_db=RANGE_DB)
        loud_db = float(np.percentile(db.max(axis=1), _LOUD_SHARE))
        return Overview(
            duration_s=duration_s,
            step_s=step_s,
            waveform=self._waves[:count].copy(),
            mel=np.ascontiguousarray(to_levels(db, loud_db, scale).T),
        )
