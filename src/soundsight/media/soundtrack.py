"""The sound of a video on the clock of its picture.

``media.audio`` reads a sound for its own sake: what counts there is its first sample. Beside a
picture it counts *when* a sample sounds. Here the time stamps are followed: a track that starts
late keeps its delay, a hole is filled with silence, what is told twice is heard once.

Times are seconds of the file's clock, which is 0 where a player shows 0 (the earliest track).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import AudioError
from soundsight.core.units import RATE_HZ
from soundsight.media.audio import (
    AudioInfo,
    Source,
    check_complete,
    check_file,
    checked_channels,
    checked_rate,
    damaged,
    is_still,
    mono_of,
    open_container,
    quiet_av,
    resampled,
)

_SAME_S = 0.001
"""Frames whose time stamps follow one another this closely are one run."""

_JITTER_S = 0.04
"""Time stamps that disagree with the count of samples by less are taken for rounding."""

_LONGEST_HOLE_S = 600.0
"""A longer silence between two time stamps is taken for damage."""

_PREROLL_S = 0.25
"""Read before a part that starts inside the file: a decoder's first frames are not yet whole."""

_BLOCK_S = 1.0


@dataclass(frozen=True, kw_only=True)
class SoundTrack:
    """An open sound track.

    Attributes:
        start_s: when its first sample sounds, in seconds of the file's clock.
        blocks: float32 [t] each, mono at 44,100 Hz, one after the other without a hole.
    """

    start_s: float
    blocks: Iterator[NDArray[np.float32]]


@contextlib.contextmanager
def open_soundtrack(
    path: str | os.PathLike[str], start_s: float | None = None, end_s: float | None = None
) -> Iterator[SoundTrack]:
    """Open the sound of a video, or of a part of it, in constant memory.

    Args:
        path: a file that FFmpeg's libraries read.
        start_s: where the part starts, in seconds of the file's clock; None for the beginning.
        end_s: where it ends; None for the end of the sound.

    Raises:
        AudioError: when the file is missing, cannot be read, is encrypted, has no sound track or
            none in this part; later, from the blocks, when it is damaged or cut short.
    """
    file = Path(path)
    check_file(file, AudioError)
    with open_container(file, AudioError) as container:
        if not container.streams.audio:
            if container.streams.video and not is_still(container):
                raise AudioError(f"{file} has no sound track: nothing can be paired with it")
            raise AudioError(f"cannot read {file}: it is no video file")
        track: Any = container.streams.audio[0]
        check_encryption(track, file, AudioError)
        own_length = track.duration is not None
        if own_length:
            discard_others(container, track)
        reader = _TimedPackets(container, track, str(file), start_s, end_s)
        blocks = reader.blocks()
        first = next(blocks, None)
        if first is None:
            where = "" if start_s is None and end_s is None else " in this part"
            raise AudioError(f"{file} has no sound in it{where}: nothing can be paired with it")
        info = AudioInfo(
            rate_hz=checked_rate(reader.rate_hz, str(file)),
            channels=checked_channels(reader.channels, str(file)),
            duration_s=None,
            codec=str(track.codec_context.name),
        )
        source = Source(str(file), info, _with_first(first, blocks))
        yield SoundTrack(start_s=reader.first_s, blocks=resampled(source, RATE_HZ))


def origin_s(container: Any) -> float:
    """Where the file's clock is 0, in seconds of its time stamps: its earliest track's start."""
    if container.start_time is not None:
        return float(container.start_time) / 1e6
    starts = [float(t.start_time * t.time_base) for t in container.streams if t.start_time]
    return min(starts, default=0.0)


def can_seek(container: Any) -> bool:
    """Whether the container has an index, so that seeking lands before the time asked for."""
    return "mp4" in container.format.name or "matroska" in container.format.name


def check_encryption(track: Any, file: Path, error: type[Exception]) -> None:
    """Raise ``error`` where a track's header says that it is encrypted."""
    if str(track.codec_context.codec_tag).lower() in ("encv", "enca", "drmi", "drms", "p608"):
        raise error(f"{file} is encrypted: decrypt it first")


def check_packet(packet: Any, file: Path, error: type[Exception]) -> None:
    """Raise ``error`` where a packet is encrypted.

    FFmpeg replaces the tag of a track under common encryption (ISO/IEC 23001-7) by that of what
    is inside; only the packets tell.
    """
    if any(packet.has_sidedata(kind) for kind in ("encryption_info", "encryption_init_info")):
        raise error(f"{file} is encrypted: decrypt it first")


def discard_others(container: Any, track: Any) -> None:
    """Let the container skip the packets of all other tracks."""
    for other in container.streams:
        # Older releases of PyAV have no such switch: there the packets are read and left.
        choices: Any = type(getattr(other, "discard", None))
        if other.index != track.index and hasattr(choices, "all"):
            other.discard = choices.all


def _with_first(
    first: NDArray[np.float32], rest: Iterator[NDArray[np.float32]]
) -> Iterator[NDArray[np.float32]]:
    yield first
    yield from rest


class _TimedPackets:
    """Decodes a sound track along its time stamps."""

    def __init__(
        self, container: Any, track: Any, where: str, start_s: float | None, end_s: float | None
    ) -> None:
        self._container = container
        self._track = track
        self._where = where
        self._start_s = start_s
        self._end_s = end_s
        self._origin_s = origin_s(container)
        self._samples = 0
        self.rate_hz = 0
        self.channels = 0
        self.first_s = 0.0

    def _now_s(self) -> float:
        """When the next sample is due, in seconds of the file's clock."""
        return self.first_s + (self._samples / self.rate_hz if self.rate_hz else 0.0)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield mono blocks [n] of about a second at the track's own rate."""
        waiting: list[NDArray[np.float32]] = []
        held = 0
        for samples in self._on_time():
            waiting.append(samples)
            held += len(samples)
            if held >= _BLOCK_S * self.rate_hz:
                yield np.concatenate(waiting)
                waiting, held = [], 0
        if held:
            yield np.concatenate(waiting)

    def _on_time(self) -> Iterator[NDArray[np.float32]]:
        told_twice = False
        for at_s, samples in self._decoded():
            if not self._samples:
                early = 0
                if self._start_s is not None:
                    early = max(0, round((self._start_s - at_s) * self.rate_hz))
                if early >= len(samples):
                    continue
                samples = samples[early:]
                self.first_s = at_s + early / self.rate_hz
            else:
                hole_s = at_s - self._now_s()
                if hole_s > _LONGEST_HOLE_S:
                    raise AudioError(
                        f"{self._where} jumps by {hole_s:.0f} s at {self._now_s():.2f} s: its time "
                        "stamps are damaged"
                    )
                if hole_s > _JITTER_S:
                    yield from self._silence(round(hole_s * self.rate_hz))
                elif hole_s < -_JITTER_S or (told_twice and hole_s < 0):
                    samples = samples[round(-hole_s * self.rate_hz) :]
                told_twice = not len(samples)
            yield from self._until_end(samples)
            if self._end_s is not None and self._now_s() >= self._end_s - 1e-9:
                return

    def _silence(self, count: int) -> Iterator[NDArray[np.float32]]:
        size = round(_BLOCK_S * self.rate_hz)
        for first in range(0, count, size):
            yield from self._until_end(np.zeros(min(size, count - first), np.float32))

    def _until_end(self, samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        if self._end_s is not None:
            left = round((self._end_s - self._now_s()) * self.rate_hz)
            samples = samples[: max(0, left)]
        if len(samples):
            self._samples += len(samples)
            yield samples

    def _decoded(self) -> Iterator[tuple[float, NDArray[np.float32]]]:
        """Yield (seconds of the file's clock, mono samples [n]), in runs without a break."""
        run: list[NDArray[Any]] = []
        run_s = expected_s = 0.0
        for at_s, samples in self._frames():
            # A run of frames is mixed down at once: that is five times cheaper than one by one.
            broken = at_s is not None and abs(at_s - expected_s) > _SAME_S
            if run and (broken or expected_s - run_s > _BLOCK_S / 2):
                yield run_s, self._mixed(run, run_s)
                run = []
            if not run:
                run_s = expected_s if at_s is None else at_s
                expected_s = run_s
            run.append(samples)
            expected_s += len(samples) / self.rate_hz
        if run:
            yield run_s, self._mixed(run, run_s)

    def _mixed(self, run: list[NDArray[Any]], at_s: float) -> NDArray[np.float32]:
        joined = np.concatenate(run)
        return mono_of(joined, round(at_s * self.rate_hz), self.rate_hz, self._where)

    def _frames(self) -> Iterator[tuple[float | None, NDArray[Any]]]:
        """Yield (time stamp or None, samples [n, channels] as they are stored), frame by frame."""
        av = quiet_av()
        latest_s = 0.0
        failed_before = False
        for packet in self._demux():
            if packet.pts is not None and packet.time_base is not None:
                end = packet.pts + (packet.duration or 0)
                latest_s = max(latest_s, float(end * packet.time_base) - self._origin_s)
            if packet.stream.index != self._track.index:
                continue
            if packet.size and not self.rate_hz:
                check_packet(packet, Path(self._where), AudioError)
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, OSError):
                # Cut recordings often begin inside a frame; later faults are damage.
                if self.rate_hz or failed_before:
                    raise AudioError(damaged(self._where, self._now_s())) from None
                failed_before = True
                continue
            for frame in frames:
                self._check(frame)
                at_s = None
                if frame.pts is not None:
                    at_s = float(frame.pts * frame.time_base) - self._origin_s
                array = frame.to_ndarray()
                planar = frame.format.is_planar
                yield at_s, array.T if planar else array.reshape(-1, self.channels)
        self._check_whole(latest_s)

    def _check(self, frame: Any) -> None:
        if not self.rate_hz:
            self.rate_hz, self.channels = frame.sample_rate, frame.layout.nb_channels
            checked_rate(self.rate_hz, self._where)
            checked_channels(self.channels, self._where)
        elif frame.sample_rate != self.rate_hz or frame.layout.nb_channels != self.channels:
            raise AudioError(
                f"{self._where} changes its sample rate or channels at {self._now_s():.2f} s: "
                "convert it to one rate"
            )

    def _demux(self) -> Iterator[Any]:
        av = quiet_av()
        try:
            if (self._start_s or 0.0) > _PREROLL_S and can_seek(self._container):
                target_s = self._origin_s + (self._start_s or 0.0) - _PREROLL_S
                self._container.seek(int(target_s * 1e6), backward=True)
            yield from self._container.demux()
        except (av.error.FFmpegError, OSError):
            raise AudioError(damaged(self._where, self._now_s())) from None

    def _check_riff(self) -> None:
        """See that an AVI is as large as its first bytes say: its length is a guess from that."""
        with Path(self._where).open("rb") as file:
            head = file.read(12)
        declared = 8 + int.from_bytes(head[4:8], "little")
        # A recorder that was switched off leaves 0, or the largest number, in that place.
        if head[:4] == b"RIFF" and 8 < declared < 1 << 32 and self._end_s is None:
            size = Path(self._where).stat().st_size
            if size < declared:
                raise AudioError(
                    f"{self._where} is cut short: it says it has {declared} bytes but has {size}: "
                    "get the whole file again"
                )

    def _check_whole(self, latest_s: float) -> None:
        """Where a file declares its length, see that its sound has come to the end."""
        name = self._container.format.name
        if name == "avi":
            self._check_riff()
        if not any(known in name for known in ("mp4", "matroska", "flv")):
            return
        track = self._track
        if track.duration is not None:
            start = track.start_time or 0
            declared_s = float((start + track.duration) * track.time_base) - self._origin_s
        elif self._container.duration is not None:
            declared_s = self._container.duration / 1e6
        else:
            return
        if self._end_s is not None:
            declared_s = min(declared_s, self._end_s)
        check_complete(self._where, max(latest_s, self._now_s()), declared_s)
