"""Segments of sound: the one cutter, for a clip, a file and a live signal.

Every segment is scaled as ``media.mel`` says and computed on its fixed grid of blocks, so that a
whole clip, a file read in blocks and a live signal agree to the last bit. The length of a segment
and the step between two are any whole number of frames (10 ms); by default both are one second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soundsight.core import units
from soundsight.core.errors import AudioError, ConfigError
from soundsight.media.audio import MonoConverter
from soundsight.media.decoder import MAX_RATE_HZ, MIN_RATE_HZ
from soundsight.media.mel import (
    BLOCKS_PER_SEGMENT,
    DEFAULT,
    Frames,
    MelConfig,
    is_short,
    one_channel,
    to_levels,
)

MIN_SEGMENT_S = 0.1
MAX_SEGMENT_S = 10.0
"""The scale of a log-mel is that of 10 s: a longer segment would have no scale of its own."""

SILENCE_DBFS = -120.0
"""The level that digital silence is given, instead of minus infinity."""

_FADE_S = 0.02
_NOTHING = np.zeros(0, np.float32)
_LIVE_HOPS_S = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """A stretch of sound, ready for the encoder: a second, where nothing else was asked for.

    Attributes:
        start_s: where it starts in the sound, in seconds.
        mel: uint8 [n_mels, frames], row 0 the highest band, 0 quiet .. 255 loud.
        peak_db: the level, in decibels of ``mel_db``, that is drawn as 255.
        rms_dbfs: root mean square of its samples in decibels re 1.0 (a full-scale sine reads -3),
            at least -120.
        waveform: float32 [frames, 2], lowest and highest sample of each frame's 10 ms; 0 beyond
            the end of the sound.
        samples: float32 [t], mono at ``MelConfig.rate_hz``; beyond the end of the sound what
            ``filled`` puts there. Empty unless they were asked for.
    """

    start_s: float
    mel: NDArray[np.uint8]
    peak_db: float
    rms_dbfs: float
    waveform: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((units.FRAMES_PER_SEGMENT, 2), np.float32)
    )
    samples: NDArray[np.float32] = field(default_factory=lambda: _NOTHING)


def rms_dbfs(samples: NDArray[np.floating]) -> float:
    """Root mean square of samples [t] in decibels re 1.0, at least -120."""
    if not len(samples):
        return SILENCE_DBFS
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return max(SILENCE_DBFS, 10.0 * float(np.log10(max(power, 1e-30))))


def whole_frames(seconds: float, name: str, config: MelConfig = DEFAULT) -> int:
    """How many frames a length is; ``ConfigError`` where it is no whole number from 1 on."""
    frames = seconds * config.segment_frames / units.SEGMENT_S
    if not (math.isfinite(frames) and frames >= 1 and abs(frames - round(frames)) < 1e-6):
        raise ConfigError(f"{name} is a multiple of {units.HOP_S:g} s, not {seconds:g}")
    return round(frames)


def check_lengths(segment_s: float, hop_s: float, config: MelConfig = DEFAULT) -> tuple[int, int]:
    """A length and a step in frames; ``ConfigError`` where one is out of range or not whole."""
    if not MIN_SEGMENT_S <= segment_s <= MAX_SEGMENT_S:
        raise ConfigError(
            f"segment_s is from {MIN_SEGMENT_S:g} to {MAX_SEGMENT_S:g} s, not {segment_s:g}"
        )
    length = whole_frames(segment_s, "segment_s", config)
    return length, whole_frames(hop_s, "hop_s", config)


def slices(mel: NDArray[np.uint8], hop: int) -> NDArray[np.uint8]:
    """Seconds of the log-mel of a whole clip, one every ``hop`` frames.

    uint8 [n_mels, frames] -> [n, n_mels, 100], a view that cannot be written to.
    """
    windows = np.lib.stride_tricks.sliding_window_view(mel, units.FRAMES_PER_SEGMENT, axis=1)
    return windows[:, ::hop].swapaxes(0, 1)


def pad_to_seconds(
    samples: NDArray[np.float32], config: MelConfig = DEFAULT
) -> NDArray[np.float32]:
    """Lengthen a clip [t] to whole seconds where its last part is worth one, see ``filled``."""
    second = config.segment_samples
    return filled(samples, _missing(len(samples), second, second), short=len(samples) < second)


def filled(samples: NDArray[np.float32], missing: int, *, short: bool) -> NDArray[np.float32]:
    """Lengthen samples [t] at their end by ``missing``, so that it does not look like an onset.

    A sound that is shorter than a segment is followed by silence, and fades in and out over 20 ms
    (at most a quarter of it): where it was cut off there would be clicks, and a beep would be a
    bark. In the last part of a longer sound its mirror image stands for what would follow, as it
    does in the last frame's window. ``short``: the whole sound is shorter than a segment.
    """
    if missing <= 0:
        return samples
    if not short:
        return np.concatenate([samples, samples[: -missing - 1 : -1]])
    length = min(round(_FADE_S * units.RATE_HZ), len(samples) // 4)
    turn = 0.5 * np.pi * (np.arange(length) + 0.5) / max(1, length)
    ramp = (np.sin(turn) ** 2).astype(np.float32)
    soft = np.concatenate([samples, np.zeros(missing, np.float32)])
    soft[:length] *= ramp
    soft[len(samples) - length : len(samples)] *= ramp[::-1]
    return soft


def _missing(samples: int, length: int, hop: int) -> int:
    """Samples that the last segment of a sound lacks; 0 where what is left makes no segment."""
    whole = max(0, (samples - length) // hop + 1)
    end = whole * hop + length
    unseen = samples - max(whole * hop, end - hop)
    return end - samples if whole == 0 or 2 * unseen >= length else 0


class Cutter:
    """Cuts a sound that arrives in blocks into segments, in constant memory.

    The segments do not depend on how the sound is cut into blocks. A sound of at most 10.5 s is
    scaled by its loudest point, and its segments come at its end; in a longer one each segment is
    scaled by the loudest point of the 10 s that end with it.

    Args:
        segment_s: length of a segment in seconds, 0.1 to 10, a whole number of frames.
        hop_s: seconds between the starts of segments, a whole number of frames.
        config: settings of the log-mel.
        live: whether a segment comes 13 ms after its last sample (half a window less one frame),
            scaled by the 10 s that end with it from the first one on. A short sound then looks
            different, as the loudest point so far is not yet that of the whole.
        with_samples: whether segments hold their samples.
        loudest: whether ``flush`` returns the loudest segment of all after the last one: the one
            of the highest energy at any frame (of equals the first), without its samples.

    Raises:
        ConfigError: when a length is out of range.
    """

    def __init__(
        self,
        segment_s: float = units.SEGMENT_S,
        hop_s: float = units.SEGMENT_S,
        config: MelConfig = DEFAULT,
        *,
        live: bool = False,
        with_samples: bool = False,
        loudest: bool = False,
    ) -> None:
        self._length, self._hop = check_lengths(segment_s, hop_s, config)
        self._config, self._live, self._with_samples = config, live, with_samples
        self._searches = loudest
        self._reset()

    def _reset(self) -> None:
        self._frames = Frames(self._config)
        self._next = 0  # the frame at which the next segment starts
        # Of the last frames their decibels, and of some more their loudest band.
        self._db = np.empty((0, self._config.n_mels), np.float32)
        self._loud = np.empty(0, np.float32)
        self._searched = 0  # the frame up to which the loudest segment is known
        self._loudest: Segment | None = None
        self._energy = -1.0

    def push(self, samples: NDArray[np.floating]) -> list[Segment]:
        """Take the next samples, [t] mono at ``config.rate_hz``; return the segments they complete.

        ``AudioError`` when ``samples`` is not one-dimensional.
        """
        block = one_channel(samples)
        done: list[Segment] = []
        # No more than a few seconds at a time, however large the blocks are.
        step = 2 * self._config.segment_samples
        for first in range(0, len(block), step):
            self._frames.append(block[first : first + step])
            if self._live or not is_short(self._frames.end, self._config):
                self._compute()
                if self._searches:
                    self._search()
                done += self._cut()
                self._forget()
        return done

    def flush(self) -> list[Segment]:
        """End the sound: return the segments left. The cutter may be used again from 0 s.

        What is left at the end makes a segment, filled up, when no segment has shown it yet and it
        is at least half of one; a sound shorter than a segment makes one. No sound makes none.
        """
        frames, config = self._frames, self._config
        end, samples = frames.end, frames.samples
        if not end:
            return []
        as_whole = not self._live and is_short(end, config)
        length, hop = self._length * config.hop_samples, self._hop * config.hop_samples
        frames.total = end
        if self._searches and end >= length:
            # The loudest segment sees the end as it is, the last one that which fills it up.
            before = frames.computed, self._db, self._loud
            self._compute()
            self._search(as_whole)
            frames.computed, self._db, self._loud = before
        frames.samples = filled(samples, _missing(end, length, hop), short=end < length)
        frames.total = frames.end
        self._compute()
        done = self._cut(end, as_whole)
        if end < length:
            # As it is, not faded.
            waveform = _waveform(samples, self._length, config.hop_samples)
            done = [replace(segment, waveform=waveform) for segment in done]
        if self._searches:
            done.append(replace(self._loudest or done[0], samples=_NOTHING))
        self._reset()
        return done

    def _compute(self) -> None:
        db = self._frames.compute()
        if len(db):
            self._db = np.concatenate([self._db, db])
            self._loud = np.concatenate([self._loud, db.max(axis=1)])

    def _cut(self, end: int | None = None, as_whole: bool = False) -> list[Segment]:
        """Make the segments that are there; ``end``: the sound's, once it is known."""
        done = []
        while self._next + self._length <= self._frames.known:
            segment = self._segment(self._next, as_whole, end)
            done.append(segment if self._with_samples else replace(segment, samples=_NOTHING))
            self._next += self._hop
        return done

    def _search(self, as_whole: bool = False) -> None:
        """Look for the loudest segment among those that end with the frames that are new."""
        known, hop = self._frames.known, self._config.hop_samples
        first = max(0, self._searched - self._length + 1)
        self._searched = known
        if known - first < self._length:
            return
        hops = self._frames.span(first * hop, known * hop).reshape(-1, hop)
        energies = np.square(hops, dtype=np.float64).sum(axis=1)
        sums = np.lib.stride_tricks.sliding_window_view(energies, self._length).sum(axis=1)
        best = int(sums.argmax())
        if sums[best] > self._energy:
            self._energy = float(sums[best])
            self._loudest = self._segment(first + best, as_whole)

    def _segment(self, first: int, as_whole: bool, end: int | None = None) -> Segment:
        """The segment from a frame on, scaled by the sound ``as_whole`` or by 10 s."""
        config, frames, last = self._config, self._frames, first + self._length
        low, high = max(0, last - config.scale_frames), last
        if as_whole:
            low, high = 0, frames.known
        peak_db = max(float(self._part(self._loud, low, high).max()), config.floor_db)
        hop = config.hop_samples
        samples = frames.span(first * hop, last * hop).copy()
        heard = samples if end is None else samples[: end - first * hop]
        return Segment(
            start_s=first * units.SEGMENT_S / config.segment_frames,
            mel=np.ascontiguousarray(
                to_levels(self._part(self._db, first, last), peak_db, config).T
            ),
            peak_db=peak_db,
            rms_dbfs=rms_dbfs(samples),
            waveform=_waveform(heard, self._length, hop),
            samples=samples,
        )

    def _part(self, kept: NDArray[np.float32], first: int, last: int) -> NDArray[np.float32]:
        """Of the last frames, which are kept, those from ``first`` to ``last - 1``."""
        begin = self._frames.computed - len(kept)
        return kept[max(0, first - begin) : max(0, last - begin)]

    def _forget(self) -> None:
        """Drop what no later segment sees; the next one may start after all that is there."""
        config, frames = self._config, self._frames
        needed = min(self._next, frames.computed)
        if self._searches:
            needed = min(needed, max(0, self._searched - self._length + 1))
        self._db = self._part(self._db, needed, frames.computed)
        low = min(max(0, needed + self._length - config.scale_frames), frames.computed)
        self._loud = self._part(self._loud, low, frames.computed)
        # The mirror image at the end needs one window back.
        keep = needed * config.hop_samples - 2 * config.window_samples
        if keep >= frames.origin + config.segment_samples // BLOCKS_PER_SEGMENT:
            frames.drop(keep)


def segments(
    blocks: Iterable[NDArray[np.floating]],
    segment_s: float = units.SEGMENT_S,
    hop_s: float = units.SEGMENT_S,
    config: MelConfig = DEFAULT,
    *,
    with_samples: bool = False,
    loudest: bool = False,
) -> Iterator[Segment]:
    """Cut a sound, blocks of float32 [t] at ``config.rate_hz``, into segments; see ``Cutter``.

    ``AudioError`` when there is no sample at all.
    """
    cutter = Cutter(segment_s, hop_s, config, with_samples=with_samples, loudest=loudest)
    any_sound = False
    for block in blocks:
        any_sound = any_sound or len(block) > 0
        yield from cutter.push(block)
    if not any_sound:
        raise AudioError("there is no sound: the clip has no samples")
    yield from cutter.flush()


class LiveCutter:
    """Segments of 1 s, every ``hop_s`` (0.25, 0.5, 0.75 or 1), of a live signal.

    ``ConfigError`` when ``rate_hz`` or ``hop_s`` is wrong.
    """

    def __init__(self, rate_hz: int, config: MelConfig, hop_s: float = 0.25) -> None:
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise ConfigError(
                f"rate_hz must be from {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, not {rate_hz}"
            )
        if hop_s not in _LIVE_HOPS_S:
            raise ConfigError(f"hop_s is one of 0.25, 0.5, 0.75 and 1 seconds, not {hop_s:g}")
        self._rate_hz = rate_hz
        self._converter = MonoConverter(config.rate_hz)
        self._cutter = Cutter(units.SEGMENT_S, hop_s, config, live=True)

    def push(self, samples: ArrayLike) -> list[Segment]:
        """Take the next samples and return the segments they complete.

        They are [t] or [t, channels], floats of full scale 1 or int16. On others, or where one is
        not finite, there is an ``AudioError``; the signal is as before and may go on.
        """
        return self._cutter.push(self._converter.push(_checked(samples), self._rate_hz))

    def flush(self) -> list[Segment]:
        """End the signal: return what is left. It may begin again from 0 s."""
        return self._cutter.push(self._converter.finish()) + self._cutter.flush()


def _checked(samples: ArrayLike) -> NDArray[np.float32]:
    """Samples as float32 [t, channels]."""
    array = np.asarray(samples)
    if array.ndim not in (1, 2):
        raise AudioError(f"samples have shape {list(array.shape)}: pass [t] or [t, channels]")
    if array.dtype == np.int16:
        array = array.astype(np.float32) / np.float32(32768)
    elif array.dtype.kind != "f":
        raise AudioError(f"samples are {array.dtype}: pass floats or int16")
    if array.ndim == 2 and not array.shape[1]:
        raise AudioError("samples have no channel: pass [t] or [t, channels]")
    with np.errstate(over="ignore"):
        block = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(block).all():
        raise AudioError("samples hold a number that is not finite")
    return block[:, None] if block.ndim == 1 else block


def _waveform(samples: NDArray[np.float32], frames: int, hop: int) -> NDArray[np.float32]:
    """Lowest and highest sample of each frame's ``hop`` samples; silence follows the samples."""
    whole = np.zeros(frames * hop, np.float32)
    whole[: len(samples)] = samples
    hops = whole.reshape(frames, hop)
    return np.stack([hops.min(axis=1), hops.max(axis=1)], axis=1)
