"""Decodes one sound track of a container along its time stamps.

A track that starts late keeps its delay, a hole is silence, of two stretches that overlap the first
is kept, and recordings joined into one file (chained Ogg, concatenated transport streams) follow
one another. Times are seconds of the file's clock, which is 0 where a player shows 0 (the earliest
track).

What cannot be decoded is left out and reported in a warning; the time stamps keep its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import AudioError
from soundsight.media import lengths
from soundsight.media.container import (
    can_seek,
    check_packet,
    codec_name,
    damaged,
    demux,
    origin_s,
    quiet_av,
)

MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 384_000
MAX_CHANNELS = 8

JITTER_S = 0.04
"""Time stamps that disagree with the count of samples by less are taken for rounding."""

_SAME_S = 0.001  # frames whose time stamps follow one another this closely are one run
_LONGEST_HOLE_S = 600.0  # a longer silence between two time stamps is taken for damage
_GAPLESS = frozenset(("flac", "ogg", "tta", "wv"))
"""Formats in which a hole in the time stamps is damage: they have no pauses of a recorder."""

_UNSTAMPED = frozenset(("aac", "ac3", "dts", "eac3", "mp3", "truehd"))
"""Formats that hold no time stamps: FFmpeg makes them up from the rate of the beginning."""

_LONGEST_OVERLAP_S = 3.0  # a clock that goes back by more is another recording's
_PREROLL_S = 0.25
"""Read before a part that starts inside the file: a decoder's first frames are not yet whole."""

_BLOCK_S = 1.0

_READ_FAULTS = 100  # faults in a row, with no packet between them, after which a file is given up
_ONE_PLACE_S = 0.5
"""Faults that follow one another this closely count as one place."""


Chunk = tuple[NDArray[np.float32], int]
"""Samples of a track: float32 [t, channels], full scale 1, and their rate in hertz."""


def check_form(where: str, rate_hz: int, channels: int = 1) -> None:
    """Raise ``AudioError`` where a sample rate or a number of channels is out of range."""
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"{where} has a sample rate of {rate_hz} Hz: rates from {MIN_RATE_HZ} to "
            f"{MAX_RATE_HZ} Hz are understood"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{where} has {channels} channels: 1 to {MAX_CHANNELS} are understood")


def full_scale(
    samples: NDArray[Any], first_s: float, rate_hz: int, where: str
) -> NDArray[np.float32]:
    """Bring samples [t, channels] of any type, the first at ``first_s``, to float32, full scale 1.

    ``AudioError`` when one is not a finite number.
    """
    if samples.dtype.kind in "iu":
        half = float(1 << (8 * samples.dtype.itemsize - 1))
        # float64 holds 32-bit integers exactly; they are rounded once.
        wide = np.float32 if samples.dtype.itemsize < 4 else np.float64
        scaled: NDArray[Any] = samples.astype(wide)
        offset = half if samples.dtype.kind == "u" else 0.0
        return ((scaled - wide(offset)) / wide(half)).astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        floats: NDArray[np.float32] = samples.astype(np.float32, copy=False)
    finite = np.isfinite(floats)
    if not finite.all():
        at_s = first_s + int(finite.all(axis=1).argmin()) / rate_hz
        raise AudioError(
            f"{where} holds a sample that is not a finite number at {at_s:.2f} s: repair the sound"
        )
    return floats


class Faults:
    """What is wrong with a file that can be used all the same, and notes on it, a line each.

    ``where`` is what the file is called; where ``strict``, the first fault is an ``AudioError``.
    """

    def __init__(self, where: str, strict: bool = False) -> None:
        self.where, self._strict = where, strict
        self._first_s = self._last_s = 0.0
        self._places = 0
        self._cut = ""
        self.notes: list[str] = []

    @property
    def damages(self) -> list[str]:
        """What of the file cannot be read: one line, or none."""
        more = self._places - 1
        others = (
            f" and in {more} more places" if more > 1 else " and in one more place" * (more == 1)
        )
        parts = [f"is damaged at {self._first_s:.2f} s{others}"] if self._places else []
        parts += [f"is cut short: {self._cut}"] if self._cut else []
        return [f"{self.where} {' and '.join(parts)}; what can be read is used"] if parts else []

    def damage(self, at_s: float, words: str = "") -> None:
        """Count a place that cannot be decoded; ``words`` say it otherwise where strict."""
        if self._strict:
            raise AudioError(f"{self.where} {words}" if words else damaged(self.where, at_s))
        if not self._places:
            self._first_s = at_s
        if not self._places or at_s > self._last_s + _ONE_PLACE_S:
            self._places += 1
        self._last_s = at_s

    def jump(self, at_s: float, by_s: float) -> None:
        """Count a place where the time stamps go astray."""
        self.damage(at_s, f"jumps by {by_s:.0f} s at {at_s:.2f} s: its time stamps are damaged")

    def check_complete(self, ended_s: float, declared_s: float | None) -> None:
        """Compare where the sound ends with where the file says that it ends."""
        # Encoders pad and trim a few frames; a file that was cut misses more.
        if declared_s is None or ended_s >= declared_s - max(0.25, 0.01 * declared_s):
            return
        self._cut = f"it says it lasts {declared_s:.2f} s but ends at {ended_s:.2f} s"
        if self._strict:
            raise AudioError(f"{self.where} is cut short: {self._cut}: get the whole file again")


class _Clock:
    """Where the runs of a track belong on the file's clock, whatever their time stamps say."""

    def __init__(self, faults: Faults, *, joins: bool, gapless: bool = False) -> None:
        # Gapless: a hole is damage, as the format knows no pauses. Joins: goes on where another
        # recording is joined to the first; or else ends there, as a video's picture does.
        self._faults, self._gapless, self._joins = faults, gapless, joins
        self.rate_hz = 0
        self._base_s = 0.0  # when the rate was last another one
        self.samples = 0  # since then
        self._begin_s: float | None = None  # of this recording, by its own clock
        self._shift_s = 0.0  # what its clock differs from the file's by
        self._overlaps = False

    @property
    def now_s(self) -> float:
        """When the next sample is due."""
        return self._base_s + self.samples / max(1, self.rate_hz)

    def step(self, at_s: float, rate_hz: int) -> float | None:
        """Seconds of silence before a run of a rate that is stamped ``at_s``.

        Below 0: what of it has been given out already; None: the run is of another clock, the end.
        """
        if rate_hz != self.rate_hz:
            self._base_s, self.samples, self.rate_hz = self.now_s, 0, rate_hz
        if self._begin_s is None:
            self._begin_s = at_s
            if self._joins and at_s > _LONGEST_HOLE_S:
                self._faults.jump(0.0, at_s)
                self._shift_s = -at_s
            self._base_s = at_s + self._shift_s
            return 0.0
        hole_s = at_s + self._shift_s - self.now_s
        # a clock that goes back by little overlaps the end of what came before; one that goes
        # back far, or to its beginning, is that of another recording.
        another = at_s <= self._begin_s + JITTER_S or hole_s < -_LONGEST_OVERLAP_S
        if hole_s > _LONGEST_HOLE_S or (hole_s < -JITTER_S and another):
            if hole_s > 0 or not self._joins:
                self._faults.jump(self.now_s, hole_s)
            if not self._joins:
                return None
            self._shift_s -= hole_s
            self._begin_s = at_s
            return 0.0
        if hole_s > JITTER_S and self._gapless:
            self._faults.damage(self.now_s)
        self._overlaps = hole_s < (0.0 if self._overlaps else -JITTER_S)
        return hole_s if hole_s > JITTER_S or self._overlaps else 0.0


class TrackDecoder:
    """Decodes a sound track, or its part from ``start_s`` to ``end_s``, in constant memory.

    Where ``joins``, it goes on with a recording, with a clock of its own, joined to the first.

    Attributes:
        first_s: when the first sample sounds, in seconds of the file's clock; known once the
            first chunk has come.
        failed: packets that could not be decoded so far.
    """

    def __init__(
        self,
        container: Any,
        track: Any,
        path: Path,
        faults: Faults,
        start_s: float | None = None,
        end_s: float | None = None,
        joins: bool = True,
    ) -> None:
        self._container, self._track, self._path = container, track, path
        self._faults, self._where = faults, faults.where
        self._start_s, self._end_s = start_s, end_s
        self._format = str(container.format.name)
        self._origin_s = origin_s(container)
        self._clock = _Clock(faults, joins=joins, gapless=self._format in _GAPLESS)
        self.first_s: float | None = None
        self.failed = 0
        self._good_bytes = self._bad_bytes = 0
        # When the latest packet of any track ends: a container without lengths of tracks says
        # when its longest track ends.
        self._latest_s = 0.0
        self._ends_corrupt = False
        # FFmpeg fills up a frame of an mp3 that was cut: only its last packet shows the end of a
        # cut file that does not declare its length.
        self._is_mp3 = codec_name(track).startswith("mp3")
        self._last: Any = None

    def chunks(self) -> Iterator[Chunk]:
        """Yield what the part holds, without a hole, in pieces of about half a second."""
        clock, start_s, end_s = self._clock, self._start_s, self._end_s
        for at_s, samples, rate_hz in self._runs():
            step = clock.step(at_s, rate_hz)
            if step is None:
                break
            pieces: Iterable[NDArray[np.float32]] = [samples[max(0, round(-step * rate_hz)) :]]
            if step > 0:
                pieces = chain(silence(step, rate_hz, samples.shape[1]), pieces)
            for piece in pieces:
                now_s = clock.now_s
                clock.samples += len(piece)
                if self.first_s is None:
                    early = 0 if start_s is None else max(0, round((start_s - now_s) * rate_hz))
                    piece = piece[early:]
                    if not len(piece):
                        continue
                    self.first_s = now_s = now_s + early / rate_hz
                if end_s is not None:
                    piece = piece[: max(0, round((end_s - now_s) * rate_hz))]
                if len(piece):
                    yield piece, rate_hz
                if end_s is not None and now_s + len(piece) / rate_hz >= end_s - 1e-9:
                    return
        self._check_whole()

    def _runs(self) -> Iterator[tuple[float, NDArray[np.float32], int]]:
        """Yield (its stamp, samples, rate) of frames without a break: they are mixed at once."""
        # A FLAC without its header has stamps that are of no use.
        headless = self._format == "flac" and self._track.duration is None
        stamped = self._format not in _UNSTAMPED and not headless
        run: list[NDArray[Any]] = []
        rate_hz = 0
        run_s = expected_s = 0.0

        def whole() -> tuple[float, NDArray[np.float32], int]:
            samples = full_scale(np.concatenate(run), run_s, rate_hz, self._where)
            return run_s, samples, rate_hz

        for frame in self._frames():
            at_s = None
            if frame.pts is not None and (stamped or expected_s == 0.0):
                at_s = frame.time - self._origin_s
            channels = frame.layout.nb_channels
            array = frame.to_ndarray()
            samples = array.T if frame.format.is_planar else array.reshape(-1, channels)
            broken = at_s is not None and abs(at_s - expected_s) > _SAME_S
            another = run and (frame.sample_rate != rate_hz or channels != run[0].shape[1])
            if run and (broken or another or expected_s - run_s > _BLOCK_S / 2):
                yield whole()
                run = []
            if not run:
                run_s = expected_s = expected_s if at_s is None else at_s
                rate_hz = frame.sample_rate
                check_form(self._where, rate_hz, channels)
            run.append(samples)
            expected_s += len(samples) / rate_hz
        if run:
            yield whole()

    def _frames(self) -> Iterator[Any]:
        """Yield the frames that can be decoded."""
        av = quiet_av()
        by_latest = self._track.duration is None or self._format == "avi"
        corrupt = begun = False
        junk_s: float | None = None
        for packet in self._packets():
            if by_latest and packet.pts is not None and packet.time_base is not None:
                end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._latest_s = max(self._latest_s, end_s - self._origin_s)
            # At the end, packets of all tracks have the index 0.
            if packet.stream.index != self._track.index:
                continue
            if packet.size:
                if not begun:
                    check_packet(packet, self._where, AudioError)
                if corrupt:
                    # The end of a file whose length is not declared looks the same: only a packet
                    # that another one follows is damaged.
                    self._faults.damage(self._time_of(packet))
                corrupt = bool(packet.is_corrupt)
                self._last = packet
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, OSError, ValueError):
                self.failed += 1
                if self._is_mp3 and not lengths.mp3_frame_bytes(packet):
                    # What stands behind the last frame is a tag; elsewhere it is damage.
                    junk_s = self._time_of(packet) if junk_s is None else junk_s
                    continue
                self._bad_bytes += packet.size
                corrupt = False
                # Cut recordings often begin inside a frame.
                if begun or self.failed > 1:
                    self._faults.damage(self._time_of(packet))
                continue
            if frames and packet.size:
                if begun and junk_s is not None:
                    self._faults.damage(junk_s)
                begun, junk_s = True, None
            self._good_bytes += packet.size
            yield from frames
        self._ends_corrupt = corrupt

    def _time_of(self, packet: Any) -> float:
        if packet.pts is None or packet.time_base is None:
            return self._clock.now_s
        return max(0.0, float(packet.pts * packet.time_base) - self._origin_s)

    def _packets(self) -> Iterator[Any]:
        """Yield the packets of the container; where reading fails, what comes after it."""
        av = quiet_av()
        if (self._start_s or 0.0) > _PREROLL_S and can_seek(self._container):
            target_s = self._origin_s + (self._start_s or 0.0) - _PREROLL_S
            try:
                self._container.seek(int(target_s * 1e6), backward=True)
            except (av.error.FFmpegError, OSError):
                self._faults.damage(self._start_s or 0.0)
        faults = 0
        while faults < _READ_FAULTS:
            try:
                for packet in demux(self._container):
                    faults = 0
                    yield packet
            except (av.error.FFmpegError, OSError):
                if not faults:
                    self._faults.damage(self._clock.now_s)
                faults += 1
            else:
                return

    def _check_whole(self) -> None:
        if self._bad_bytes > self._good_bytes:
            raise AudioError(
                f"{self._where} is damaged: most of its sound cannot be decoded, get the whole "
                "file again"
            )
        last, now_s = self._last, self._clock.now_s
        ends = self._is_mp3 and self._end_s is None and last is not None
        if ends and last.size < lengths.mp3_frame_bytes(last):
            self._faults.damage(now_s)
        declared_s = lengths.written_end_s(
            self._container, self._track, self._path, now_s, self._clock.rate_hz
        )
        if self._end_s is not None and declared_s is not None:
            declared_s = min(declared_s, self._end_s)
        self._faults.check_complete(max(self._latest_s, now_s), declared_s)
        streamed = self._format == "caf" and lengths.is_streamed_caf(self._path)
        if self._ends_corrupt and self._format in ("w64", "caf") and not streamed:
            self._faults.damage(now_s)


def silence(seconds: float, rate_hz: int, *channels: int) -> Iterator[NDArray[np.float32]]:
    """Yield silence [t] or [t, channels] in pieces of at most a second."""
    size = round(_BLOCK_S * rate_hz)
    for left in range(round(seconds * rate_hz), 0, -size):
        yield np.zeros((min(left, size), *channels), np.float32)
