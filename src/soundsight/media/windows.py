"""Segments of any length at any step, cut out of a sound that arrives in blocks.

The front-end is that of ``media.mel``: with segments of one second, one after the other, these are
the very segments of ``segments.segments_of``. Here the length and the step may be any whole number
of frames (10 ms), which is what preparing training pairs asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.errors import ConfigError
from soundsight.media.mel import DEFAULT, Framer, HeldSamples, MelConfig, to_levels
from soundsight.media.segments import Segment, filled, rms_dbfs

MIN_SEGMENT_S = 0.1
MAX_SEGMENT_S = 10.0
"""The scale of a log-mel is that of 10 s: a longer segment would have no scale of its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Window(Segment):
    """A segment together with its samples.

    Attributes:
        samples: float32 [t], mono at ``MelConfig.rate_hz``; after the sound's end what
            ``segments.filled`` puts there.
    """

    samples: NDArray[np.float32]


def whole_frames(seconds: float, name: str, config: MelConfig = DEFAULT) -> int:
    """How many frames a length is.

    Raises:
        ConfigError: when it is no whole number of frames, or fewer than one.
    """
    frames = seconds * config.segment_frames / units.SEGMENT_S
    if not (math.isfinite(frames) and frames >= 1 and abs(frames - round(frames)) < 1e-6):
        raise ConfigError(f"{name} is a multiple of {units.HOP_S:g} s, not {seconds:g}")
    return round(frames)


def check_lengths(segment_s: float, hop_s: float, config: MelConfig = DEFAULT) -> None:
    """Check the length and the step of segments.

    Raises:
        ConfigError: when one is out of range or no whole number of frames.
    """
    if not MIN_SEGMENT_S <= segment_s <= MAX_SEGMENT_S:
        raise ConfigError(
            f"segment_s is from {MIN_SEGMENT_S:g} to {MAX_SEGMENT_S:g} s, not {segment_s:g}"
        )
    whole_frames(segment_s, "segment_s", config)
    whole_frames(hop_s, "hop_s", config)


def windows(
    blocks: Iterable[NDArray[np.float32]],
    segment_s: float = units.SEGMENT_S,
    hop_s: float = units.SEGMENT_S,
    config: MelConfig = DEFAULT,
) -> Iterator[Window]:
    """Cut a sound into segments, in constant memory.

    A sound of at most 10.5 s is scaled by its loudest point; in a longer one each segment by the
    loudest point of the 10 s that end with it. What is left at the end makes a segment, filled
    up, when no segment has shown it yet and it is at least half of one; a sound shorter
    than a segment makes one.

    Args:
        blocks: float32 [t] each, mono at ``config.rate_hz``, one after the other.
        segment_s: length of a segment in seconds, .1 to 10, a whole number of frames.
        hop_s: seconds between the starts of segments, a whole number of frames.

    Raises:
        ConfigError: when a length is out of range.
    """
    check_lengths(segment_s, hop_s, config)
    yield from _Cutter(segment_s, hop_s, config).run(blocks)


class _Cutter:
    def __init__(self, segment_s: float, hop_s: float, config: MelConfig) -> None:
        self._config = config
        self._length = whole_frames(segment_s, "segment_s", config)
        self._hop = whole_frames(hop_s, "hop_s", config)
        self._framer = Framer(config)
        self._held = HeldSamples(np.empty(0, np.float32))
        self._received = 0
        self._next = 0
        # Decibels of frames _first .. _first + len(_db) - 1, and the loudest band of each frame
        # since _loud_first.
        self._db = np.empty((0, config.n_mels), np.float32)
        self._first = 0
        self._loud = np.empty(0, np.float32)
        self._loud_first = 0

    def run(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[Window]:
        config = self._config
        short = int(units.CLIP_MAX_S * config.rate_hz)
        for block in blocks:
            # No more than a few seconds at a time, however large the blocks are.
            for first in range(0, len(block), 2 * config.segment_samples):
                self._push(block[first : first + 2 * config.segment_samples])
                if self._received > short:
                    yield from self._ready()
        if not self._received:
            return
        is_short = self._received <= short
        self._pad()
        if is_short:
            # Frames that fill up the last block are computed like the others and left out.
            self._compute(self._held.total or 0)
            frames = self._received // config.hop_samples
            loudest = float(self._loud[:frames].max(initial=config.floor_db))
            yield from self._cut(frames, loudest)
        else:
            yield from self._ready()

    def _push(self, samples: NDArray[np.float32]) -> None:
        self._held.samples = np.concatenate([self._held.samples, samples])
        self._received += len(samples)

    def _pad(self) -> None:
        """End the sound; what is left of it is filled up where it is worth a segment."""
        hop_samples = self._config.hop_samples
        length, hop = self._length * hop_samples, self._hop * hop_samples
        whole = max(0, (self._received - length) // hop + 1)
        seen = (whole - 1) * hop + length if whole else 0
        if whole == 0 or 2 * (self._received - max(seen, whole * hop)) >= length:
            end = whole * hop + length
            self._held.samples = filled(self._held.samples, end - self._received, short=whole == 0)
            self._received = max(end, self._received)
        self._held.total = self._received

    def _ready(self) -> Iterator[Window]:
        """Give out the segments of a long sound that are wholly there."""
        frames = self._computable()
        self._compute(frames * self._config.hop_samples)
        yield from self._cut(min(frames, self._received // self._config.hop_samples), None)
        # Also where no segment was ready: a long step is passed over without being held.
        self._forget()

    def _computable(self) -> int:
        """How many frames have all the samples that they see."""
        config = self._config
        if self._held.total is not None:
            # The sound's end is known: its mirror image stands for what would come.
            return self._received // config.hop_samples
        frames = (self._received - config.window_samples // 2) // config.hop_samples
        return max(0, frames // config.block_frames * config.block_frames)

    def _compute(self, samples: int) -> None:
        """Compute the decibels of all frames that start before a sample."""
        config = self._config
        done = self._first + len(self._db)
        frames = samples // config.hop_samples
        if frames <= done:
            return
        last = -(-frames // config.block_frames)
        db = self._framer.blocks(self._held, done // config.block_frames, last)
        self._db = np.concatenate([self._db, db])
        self._loud = np.concatenate([self._loud, db.max(axis=1)])

    def _cut(self, frames: int, loudest: float | None) -> Iterator[Window]:
        config = self._config
        while self._next + self._length <= frames:
            first, last = self._next, self._next + self._length
            peak_db = loudest
            if peak_db is None:
                low = max(0, last - config.scale_frames) - self._loud_first
                peak_db = float(self._loud[low : last - self._loud_first].max())
            peak_db = max(peak_db, config.floor_db)
            db = self._db[first - self._first : last - self._first]
            at = first * config.hop_samples
            samples = self._held.span(at, at + self._length * config.hop_samples).copy()
            yield Window(
                start_s=first * units.HOP_S,
                mel=np.ascontiguousarray(to_levels(db, peak_db, config).T),
                peak_db=peak_db,
                rms_dbfs=rms_dbfs(samples),
                samples=samples,
            )
            self._next += self._hop

    def _forget(self) -> None:
        """Drop what no later segment sees; the next one may start after all that is there."""
        config, held = self._config, self._held
        computed = self._first + len(self._db)
        needed = min(self._next, computed)
        first = needed // config.block_frames * config.block_frames
        if first > self._first:
            self._db = self._db[first - self._first :]
            self._first = first
        low = min(self._next + self._length - config.scale_frames, computed)
        if low > self._loud_first:
            self._loud = self._loud[low - self._loud_first :]
            self._loud_first = low
        # The mirror image at the end needs one window back.
        keep = needed * config.hop_samples - 2 * config.window_samples
        if keep > held.origin + config.segment_samples:
            held.samples = held.samples[keep - held.origin :].copy()
            held.origin = keep
