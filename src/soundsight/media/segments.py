"""Seconds of sound: cut out of a clip, out of a stream, or the loudest one of hours.

All of them are scaled as ``media.mel`` says, and computed on its fixed grid of blocks: the whole
clip, the stream and the live signal agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.errors import AudioError, ConfigError
from soundsight.core.units import exact_div
from soundsight.media.mel import (
    BLOCKS_PER_SEGMENT,
    DEFAULT,
    Framer,
    HeldSamples,
    MelConfig,
    as_clip,
    is_short,
    mel_db,
    to_levels,
)

_FADE_S = 0.02

SILENCE_DBFS = -120.0
"""What the level of digital silence is given as, instead of minus infinity."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """One second of sound, ready for the encoder.

    Attributes:
        start_s: where it starts in the clip, in seconds.
        mel: uint8 [n_mels, 100], row 0 the highest band, 0 quiet .. 255 loud.
        peak_db: the level, in decibels of ``mel_db``, that is drawn as 255.
        rms_dbfs: root mean square of the second's samples in decibels re 1.0 (a full-scale sine
            reads -3), at least -120.
    """

    start_s: float
    mel: NDArray[np.uint8]
    peak_db: float
    rms_dbfs: float


def cut(mel: NDArray[np.uint8], start_s: float, config: MelConfig = DEFAULT) -> NDArray[np.uint8]:
    """Cut the second that starts at ``start_s`` (rounded to a frame) out of a log-mel.

    Args:
        mel: uint8 [n_mels, frames].

    Returns:
        uint8 [n_mels, 100], a copy.

    Raises:
        AudioError: when the second does not lie inside the log-mel.
    """
    first = round(start_s * config.segment_frames / units.SEGMENT_S)
    last = first + config.segment_frames
    if first < 0 or last > mel.shape[1]:
        length_s = mel.shape[1] * units.SEGMENT_S / config.segment_frames
        raise AudioError(
            f"no whole second of sound starts at {start_s:g} s: the clip lasts {length_s:g} s"
        )
    return mel[:, first:last].copy()


def pad_to_seconds(
    samples: NDArray[np.float32], config: MelConfig = DEFAULT
) -> NDArray[np.float32]:
    """Fill up a clip where its last part is worth a segment, see ``filled``.

    A clip shorter than a second is filled up to a second, a last part of at least half a second to
    the next whole second. A shorter last part stays as it is: it makes no segment, yet the frames
    before it still see it.

    Args:
        samples: float32 [t] mono.

    Returns:
        float32 [t or more].
    """
    length = len(samples) + _missing(len(samples), config)
    return filled(samples, length - len(samples), short=len(samples) < config.segment_samples)


def filled(samples: NDArray[np.float32], missing: int, *, short: bool) -> NDArray[np.float32]:
    """Lengthen samples [t] at their end by ``missing``, so that it does not look like an onset.

    A clip that is shorter than a segment is followed by silence, and fades in and out over 20 ms
    (at most a quarter of it): where it was cut off there would be clicks, and a beep would be a
    bark. In the last part of a longer sound its mirror image stands for what would follow, as it
    does in the last frame's window.

    Args:
        short: whether the whole sound is shorter than a segment.

    Returns:
        float32 [t + missing].
    """
    if missing <= 0:
        return samples
    if not short:
        return np.concatenate([samples, samples[: -missing - 1 : -1]])
    length = min(round(_FADE_S * units.RATE_HZ), len(samples) // 4)
    ramp = (np.sin(0.5 * np.pi * (np.arange(length) + 0.5) / max(1, length)) ** 2).astype(
        np.float32
    )
    soft = np.concatenate([samples, np.zeros(missing, np.float32)])
    soft[:length] *= ramp
    soft[len(samples) - length : len(samples)] *= ramp[::-1]
    return soft


def _missing(samples: int, config: MelConfig) -> int:
    whole, rest = divmod(samples, config.segment_samples)
    if whole == 0 or 2 * rest >= config.segment_samples:
        return config.segment_samples - rest
    return 0


def rms_dbfs(samples: NDArray[np.floating]) -> float:
    """Root mean square of samples [t] in decibels re 1.0, at least -120."""
    if not len(samples):
        return SILENCE_DBFS
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return max(SILENCE_DBFS, 10.0 * float(np.log10(max(power, 1e-30))))


def segments_of(
    samples: NDArray[np.floating], config: MelConfig = DEFAULT, *, each_second: bool
) -> list[Segment]:
    """Cut a clip in memory into segments, scaled as ``log_mel`` scales it.

    Args:
        samples: [t] mono at ``config.rate_hz``, full scale 1.
        each_second: every second, one after the other (the last part filled up or dropped); or else
            only the second with the highest energy, searched in steps of one frame (10 ms).

    Returns:
        At least one segment.

    Raises:
        AudioError: when ``samples`` is empty or not one-dimensional.
    """
    clip = as_clip(samples)
    if not each_second:
        return [loudest_segment([clip], config)]
    if not is_short(len(clip), config):
        stream = StreamingLogMel(config)
        return stream.push(clip) + stream.flush()
    clip = pad_to_seconds(clip, config)
    db = mel_db(clip, config)
    peak_db = max(float(db.max()), config.floor_db)
    levels = to_levels(db, peak_db, config)
    return [
        Segment(
            start_s=second * units.SEGMENT_S,
            mel=cut(levels, second * units.SEGMENT_S, config),
            peak_db=peak_db,
            rms_dbfs=rms_dbfs(
                clip[second * config.segment_samples : (second + 1) * config.segment_samples]
            ),
        )
        for second in range(len(clip) // config.segment_samples)
    ]


class StreamingLogMel:
    """Segments of a sound that arrives in blocks, in constant memory.

    Each segment is scaled by the loudest point of the 10 s that end with its last frame, and is
    given out 13 ms after its last sample has come (half a window less one hop). The segments do
    not depend on how the sound is cut into blocks. For a clip longer than 10.5 s they are those of
    ``segments_of``; for a shorter one they differ from it, since the loudest point so far is not
    yet the loudest point of the clip.

    Args:
        config: settings of the log-mel.
        hop_s: seconds between the starts of segments, a multiple of 0.25 s, at most 1 s.

    Raises:
        ConfigError: when ``hop_s`` is no such multiple.
    """

    def __init__(self, config: MelConfig = DEFAULT, *, hop_s: float = 1.0) -> None:
        hop_blocks = hop_s / units.SEGMENT_S * BLOCKS_PER_SEGMENT
        if hop_blocks not in range(1, BLOCKS_PER_SEGMENT + 1):
            raise ConfigError(f"hop_s is one of 0.25, 0.5, 0.75 and 1 seconds, not {hop_s:g}")
        self.config = config
        self.hop_s = hop_s
        self._hop_blocks = int(hop_blocks)
        self._framer = Framer(config)
        self._reset()

    def _reset(self) -> None:
        self._held = HeldSamples(np.empty(0, np.float32))
        self._received = 0
        self._block = 0
        self._segment_block = 0
        self._recent: list[NDArray[np.float32]] = []
        self._loudest: list[np.float32] = []
        self._dropped_blocks = 0

    @property
    def received_s(self) -> float:
        """Seconds of sound pushed so far."""
        return self._received / self.config.rate_hz

    def push(self, samples: NDArray[np.floating]) -> list[Segment]:
        """Take the next samples and return the segments they complete.

        Args:
            samples: [t] mono at ``config.rate_hz``, full scale 1; any length, 0 included.
        """
        block = np.ascontiguousarray(samples, dtype=np.float32)
        if block.ndim != 1:
            raise AudioError(
                f"one channel of samples is expected, not an array of shape {block.shape}"
            )
        done: list[Segment] = []
        for piece in _pieces(block, 10 * self.config.segment_samples):
            self._append(piece)
            done += self._advance()
        return done

    def flush(self) -> list[Segment]:
        """End the sound: return the segments left, the last part filled up or dropped.

        A part counts as left when no segment has shown it yet. The stream is empty afterwards and
        may be used again from 0 s.
        """
        if not self._received:
            return []
        config = self.config
        block_samples = config.block_frames * config.hop_samples
        # Where the next segment begins that is not wholly there, and how much of it is unseen.
        hop = self._hop_blocks * block_samples
        whole = max(0, (self._received - config.segment_samples) // hop + 1)
        seen = (whole - 1) * hop + config.segment_samples if whole else 0
        unseen = self._received - seen
        if whole == 0 or 2 * unseen >= config.segment_samples:
            end = whole * hop + config.segment_samples
            self._held.samples = filled(self._held.samples, end - self._received, short=whole == 0)
            self._received = max(end, self._received)
        self._held.total = self._received
        done = self._advance()
        self._reset()
        return done

    def _append(self, samples: NDArray[np.float32]) -> None:
        held = self._held
        # A copy: the caller may use its buffer again.
        held.samples = np.concatenate([held.samples, samples])
        self._received += len(samples)

    def _advance(self) -> list[Segment]:
        config = self.config
        block_samples = config.block_frames * config.hop_samples
        done: list[Segment] = []
        while True:
            last_centre = (self._block + 1) * block_samples - config.hop_samples
            needed = last_centre + config.window_samples // 2
            if self._held.total is not None:
                # The clip's end is known: its mirror image stands for what would come.
                needed = (self._block + 1) * block_samples
            if needed > self._received:
                break
            db = np.empty((config.block_frames, config.n_mels), np.float32)
            self._framer.block(self._held, self._block, db)
            self._recent = [*self._recent[-(BLOCKS_PER_SEGMENT - 1) :], db]
            scale_blocks = exact_div(config.scale_frames, config.block_frames)
            self._loudest = [*self._loudest[-(scale_blocks - 1) :], db.max()]
            self._block += 1
            if self._block == self._segment_block + BLOCKS_PER_SEGMENT:
                done.append(self._segment())
                self._segment_block += self._hop_blocks
        self._trim()
        return done

    def _segment(self) -> Segment:
        config = self.config
        peak_db = max(float(max(self._loudest)), config.floor_db)
        first = self._segment_block * config.block_frames * config.hop_samples
        return Segment(
            start_s=self._segment_block * units.SEGMENT_S / BLOCKS_PER_SEGMENT,
            mel=np.ascontiguousarray(to_levels(np.concatenate(self._recent), peak_db, config).T),
            peak_db=peak_db,
            rms_dbfs=rms_dbfs(self._held.span(first, first + config.segment_samples)),
        )

    def _trim(self) -> None:
        config, held = self.config, self._held
        block_samples = config.block_frames * config.hop_samples
        # The mirror image at the end needs one window back.
        keep = min(self._segment_block, self._block) * block_samples - 2 * config.window_samples
        if keep > held.origin:
            held.samples = held.samples[keep - held.origin :].copy()
            held.origin = keep


def loudest_segment(blocks: Iterable[NDArray[np.floating]], config: MelConfig = DEFAULT) -> Segment:
    """Find the second with the highest energy, in constant memory.

    The search steps by one frame (10 ms); of equals the first wins. The answer is that of
    ``segments_of(..., each_second=False)`` on the whole clip.

    Args:
        blocks: [t_block] each, one after the other, mono at ``config.rate_hz``.

    Raises:
        AudioError: when there is no sample at all.
    """
    search = _LoudestSearch(config)
    for block in blocks:
        clip = np.ascontiguousarray(block, dtype=np.float32)
        for piece in _pieces(clip, 10 * config.segment_samples):
            search.push(piece)
    return search.finish()


class _LoudestSearch:
    """Keeps the last 22 s of sound, and the 12 s around the loudest second so far.

    Only the energy is computed on the way; the log-mel waits until the answer is known.
    """

    def __init__(self, config: MelConfig) -> None:
        self._config = config
        self._held = HeldSamples(np.empty(0, np.float32))
        self._energies = np.empty(0, np.float64)
        self._hops = 0
        self._best_energy = -1.0
        self._best_frame = 0
        self._context: HeldSamples | None = None

    def _end(self) -> int:
        return self._held.origin + len(self._held.samples)

    def push(self, samples: NDArray[np.float32]) -> None:
        config, held = self._config, self._held
        held.samples = np.concatenate([held.samples, samples])
        count = self._end() // config.hop_samples - self._hops
        if count > 0:
            first = self._hops * config.hop_samples - held.origin
            hops = held.samples[first : first + count * config.hop_samples]
            energy = np.square(hops.reshape(count, -1), dtype=np.float64).sum(axis=1)
            self._look(np.concatenate([self._energies, energy]), self._hops - len(self._energies))
            self._hops += count
        if self._context is None:
            self._keep_context(final=False)
        spare = len(held.samples) - 22 * config.segment_samples
        if spare > 0:
            held.samples = held.samples[spare:].copy()
            held.origin += spare

    def _look(self, energies: NDArray[np.float64], first_frame: int) -> None:
        width = self._config.segment_frames
        self._energies = energies[-(width - 1) :]
        if len(energies) < width:
            return
        seconds = np.lib.stride_tricks.sliding_window_view(energies, width).sum(axis=1)
        best = int(seconds.argmax())
        if seconds[best] > self._best_energy:
            self._best_energy = float(seconds[best])
            self._best_frame = first_frame + best
            self._context = None

    def _keep_context(self, *, final: bool) -> None:
        """Copy the sound around the best second once all that its frames need has come."""
        config, held = self._config, self._held
        if self._best_energy < 0:
            return
        first, last = self._blocks()
        window = config.window_samples
        block_samples = config.block_frames * config.hop_samples
        low = max(0, first * block_samples - window)
        high = last * block_samples + window
        if not final and high > self._end():
            return
        samples = held.samples[max(low - held.origin, 0) : high - held.origin].copy()
        self._context = HeldSamples(samples, max(low, held.origin), held.total)

    def _blocks(self) -> tuple[int, int]:
        """The blocks of the 10 s that end with the best second."""
        config = self._config
        end = self._best_frame + config.segment_frames
        first = max(0, end - config.scale_frames) // config.block_frames
        return first, -(-end // config.block_frames)

    def finish(self) -> Segment:
        config, held = self._config, self._held
        if not self._end():
            raise AudioError("there is no sound: the clip has no samples")
        if self._end() < config.segment_samples:
            missing = config.segment_samples - self._end()
            held.samples = filled(held.samples, missing, short=True)
            self.push(held.samples[:0])
        held.total = self._end()
        if is_short(held.total, config):
            db = mel_db(held.samples, config).T
            first_frame, peak_frames = 0, db
        else:
            if self._context is None:
                self._keep_context(final=True)
            assert self._context is not None
            first, last = self._blocks()
            db = Framer(config).blocks(self._context, first, last)
            first_frame = first * config.block_frames
            end = self._best_frame + config.segment_frames
            peak_frames = db[max(0, end - config.scale_frames) - first_frame : end - first_frame]
            held = self._context
        at = self._best_frame - first_frame
        peak_db = max(float(peak_frames.max()), config.floor_db)
        levels = to_levels(db[at : at + config.segment_frames], peak_db, config)
        low = self._best_frame * config.hop_samples
        return Segment(
            start_s=self._best_frame * units.SEGMENT_S / config.segment_frames,
            mel=np.ascontiguousarray(levels.T),
            peak_db=peak_db,
            rms_dbfs=rms_dbfs(held.span(low, low + config.segment_samples)),
        )


def _pieces(samples: NDArray[np.float32], length: int) -> Iterator[NDArray[np.float32]]:
    for first in range(0, len(samples), length):
        yield samples[first : first + length]
