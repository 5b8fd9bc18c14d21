"""Sound files in, mono samples out: any usual format, rate and number of channels.

libsndfile (through soundfile) reads what it can, FFmpeg's libraries (through PyAV) the rest: mp3,
m4a and the sound of videos. The choice is made by trying, never by the file's name. A file is read
in blocks, so a recording of three hours needs no more memory than one of ten seconds.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soundsight.core.errors import AudioError
from soundsight.core.units import RATE_HZ

if TYPE_CHECKING:
    import av.container
    import av.stream

MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 384_000
MAX_CHANNELS = 8
MIN_DURATION_S = 0.1

SOUND_SUFFIXES = frozenset(
    (
        ".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".m4a", ".m4v", ".mkv",
        ".mov", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".w64", ".wav", ".webm",
    )
)  # fmt: skip
"""Suffixes (lower case) by which sounds are found in a folder. Reading does not look at them."""

_READ_S = 1.0


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a file says of its sound.

    Attributes:
        rate_hz: sample rate in hertz.
        channels: number of channels.
        duration_s: length in seconds, or None where the file does not tell.
        codec: name of the coding, such as ``pcm_16``, ``vorbis`` or ``aac``.
    """

    rate_hz: int
    channels: int
    duration_s: float | None
    codec: str


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """Read what a file says of its sound, decoding at most its first second.

    Raises:
        AudioError: when the file is missing, cannot be read or has no sound track.
    """
    with _open(Path(path)) as source:
        return source.info


def decode(path: str | os.PathLike[str], rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    """Read the whole sound of a file.

    Args:
        path: a sound file, or a video with sound.
        rate_hz: the rate to resample to, in hertz.

    Returns:
        float32 [t], the mean of the channels, full scale 1 (float files may exceed it).

    Raises:
        AudioError: when the file is missing, no sound, damaged, cut short, shorter than 100 ms, or
            holds samples that are not finite. The message is one line.
    """
    return np.concatenate(list(stream(path, rate_hz)))


def stream(
    path: str | os.PathLike[str], rate_hz: int = RATE_HZ, block_s: float = 10.0
) -> Iterator[NDArray[np.float32]]:
    """Read the sound of a file in blocks, in constant memory.

    Args:
        path: a sound file, or a video with sound.
        rate_hz: the rate to resample to, in hertz.
        block_s: length of a block in seconds; the last one is shorter.

    Yields:
        float32 [block_s * rate_hz], the mean of the channels, full scale 1. At least one block.

    Raises:
        AudioError: as ``decode``, at the block where the fault is met.
    """
    size = max(1, round(block_s * rate_hz))
    waiting: list[NDArray[np.float32]] = []
    held = 0
    with _open(Path(path)) as source:
        for samples in resampled(source, rate_hz):
            waiting.append(samples)
            held += len(samples)
            if held >= size:
                joined = np.concatenate(waiting)
                whole = held - held % size
                for first in range(0, whole, size):
                    yield joined[first : first + size]
                waiting, held = [joined[whole:].copy()], held - whole
    if held:
        yield np.concatenate(waiting)


def from_array(samples: ArrayLike, rate_hz: int) -> NDArray[np.float32]:
    """Make a mono clip at ``RATE_HZ`` from samples in memory.

    Args:
        samples: [t], [t, channels], or [channels, t] where the first length is at most 8 and the
            second is more; 1 to 8 channels. Integers (int8, int16, int32, uint8) are divided by
            their full scale, floats (16 to 64 bits) are taken as they are.
        rate_hz: their rate, 4,000 to 384,000 Hz.

    Returns:
        float32 [t at 44,100 Hz].

    Raises:
        AudioError: on another type or shape, a rate out of range, fewer than 100 ms, or samples
            that are not finite.
    """
    array = np.asarray(samples)
    where = "the array"
    if array.ndim == 2 and array.shape[0] <= MAX_CHANNELS < array.shape[1]:
        array = array.T
    if array.ndim not in (1, 2):
        raise AudioError(f"{where} has shape {array.shape}: pass [t] or [t, channels]")
    if array.ndim == 1:
        array = array[:, None]
    info = AudioInfo(
        rate_hz=checked_rate(rate_hz, where),
        channels=checked_channels(array.shape[1], where),
        duration_s=len(array) / rate_hz,
        codec=str(array.dtype),
    )
    if array.dtype not in (np.uint8, np.int8, np.int16, np.int32) and array.dtype.kind != "f":
        raise AudioError(f"{where} holds {array.dtype}: pass int8, int16, int32, uint8 or floats")
    blocks = (
        mono_of(array[first : first + rate_hz], first, rate_hz, where)
        for first in range(0, len(array), rate_hz)
    )
    return np.concatenate(list(resampled(Source(where, info, blocks), RATE_HZ)))


# --- samples ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """An open sound: ``blocks`` are mono float32 [n] at ``info.rate_hz``."""

    where: str
    info: AudioInfo
    blocks: Iterator[NDArray[np.float32]]


def mono_of(samples: NDArray[Any], first: int, rate_hz: int, where: str) -> NDArray[np.float32]:
    """Mean of the channels of [n, channels], integers scaled; checked to be finite."""
    if samples.dtype.kind in "iu":
        bits = 8 * samples.dtype.itemsize
        offset = 1 << (bits - 1) if samples.dtype.kind == "u" else 0
        # float64 holds 32-bit integers exactly; their mean is rounded once.
        scaled = samples.mean(axis=1, dtype=np.float64)
        centred: NDArray[np.float32] = ((scaled - offset) / (1 << (bits - 1))).astype(np.float32)
        return centred
    with np.errstate(over="ignore", invalid="ignore"):
        mono: NDArray[np.float32] = (
            samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
        ).astype(np.float32)
    finite = np.isfinite(mono)
    if not finite.all():
        at_s = (first + int(finite.argmin())) / rate_hz
        raise AudioError(
            f"{where} holds a sample that is not a finite number at {at_s:.2f} s: repair the sound"
        )
    return mono


def resampled(source: Source, rate_hz: int) -> Iterator[NDArray[np.float32]]:
    """Resample block by block; the first block given out lasts 100 ms or more.

    The output has round(t * rate_hz / source rate) samples.
    """
    import soxr

    from_hz = source.info.rate_hz
    resampler = (
        None if from_hz == rate_hz else soxr.ResampleStream(from_hz, rate_hz, 1, dtype="float32")
    )
    taken = given = 0
    start: list[NDArray[np.float32]] | None = []
    for block in source.blocks:
        taken += len(block)
        samples = block if resampler is None else resampler.resample_chunk(block)
        given += len(samples)
        if start is not None:
            start.append(samples)
            if taken < MIN_DURATION_S * from_hz:
                continue
            samples, start = np.concatenate(start), None
        if len(samples):
            yield samples
    if taken < MIN_DURATION_S * from_hz:
        length = f"only {1000 * taken / from_hz:.0f} ms of sound" if taken else "no sound in it"
        raise AudioError(f"{source.where} has {length}: at least 100 ms are needed")
    if resampler is not None:
        tail = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        missing = round(taken * rate_hz / from_hz) - given
        if len(tail) < missing:
            tail = np.concatenate([tail, np.zeros(missing - len(tail), np.float32)])
        if missing > 0:
            yield tail[:missing]


def checked_rate(rate_hz: int, where: str) -> int:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"{where} has a sample rate of {rate_hz} Hz: rates from {MIN_RATE_HZ} to "
            f"{MAX_RATE_HZ} Hz are understood"
        )
    return rate_hz


def checked_channels(channels: int, where: str) -> int:
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{where} has {channels} channels: 1 to {MAX_CHANNELS} are understood")
    return channels


# --- files -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Source]:
    """Open a sound with the first library that can read it."""
    check_file(path, AudioError)
    import soundfile

    with path.open("rb") as opened:
        sound = None
        # libsndfile's mp3 decoder writes its complaints to the terminal and hides a cut end. It is
        # handed the open file, as by the path it would choose that decoder for any name in .mp3.
        if not _looks_like_mpeg(path):
            with contextlib.suppress(soundfile.LibsndfileError, TypeError, ValueError):
                sound = soundfile.SoundFile(opened)
        if sound is not None:
            with sound:
                yield _soundfile_source(path, sound)
            return
    header_hz = _wav_rate_hz(path)
    if header_hz is not None:
        checked_rate(header_hz, str(path))
    with open_container(path, AudioError) as container:
        yield _container_source(path, container)


def check_file(path: Path, error: type[Exception]) -> None:
    """Raise ``error`` with one clear line unless ``path`` is a readable file with content."""
    if os.path.isdir(path):
        raise error(f"{path} is a folder: pass a file")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise error(f"{path} does not exist: check the path") from None
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise error(f"cannot read {path}: {reason}") from None
    if empty:
        raise error(f"{path} is empty: the file has 0 bytes")


def _looks_like_mpeg(path: Path) -> bool:
    """Whether a file begins with an ID3 tag or an MPEG audio frame."""
    with path.open("rb") as file:
        head = file.read(3)
    return head == b"ID3" or (head[:1] == b"\xff" and len(head) > 1 and head[1] >= 0xE0)


def _soundfile_source(path: Path, file: Any) -> Source:
    where = str(path)
    info = AudioInfo(
        rate_hz=checked_rate(int(file.samplerate), where),
        channels=checked_channels(int(file.channels), where),
        duration_s=file.frames / file.samplerate,
        codec=str(file.subtype).lower(),
    )
    return Source(where, info, _soundfile_blocks(file, info.rate_hz, where))


def _soundfile_blocks(file: Any, rate_hz: int, where: str) -> Iterator[NDArray[np.float32]]:
    import soundfile

    size = max(1, round(_READ_S * rate_hz))
    taken = 0
    while True:
        try:
            samples = file.read(size, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            raise AudioError(damaged(where, taken / rate_hz)) from None
        if not len(samples):
            break
        yield mono_of(samples, taken, rate_hz, where)
        taken += len(samples)
    check_complete(where, taken / rate_hz, file.frames / rate_hz)


def damaged(where: str, at_s: float) -> str:
    return f"{where} is damaged or cut short at {at_s:.2f} s: get the whole file again"


def check_complete(where: str, decoded_s: float, declared_s: float | None) -> None:
    # Encoders pad and trim a few frames; a file that was cut misses more.
    if declared_s is not None and decoded_s < declared_s - max(0.25, 0.01 * declared_s):
        raise AudioError(
            f"{where} is cut short: it says it lasts {declared_s:.2f} s but ends at "
            f"{decoded_s:.2f} s: get the whole file again"
        )


def _wav_rate_hz(path: Path) -> int | None:
    """The rate in a RIFF header, for a wav that no library accepts."""
    with path.open("rb") as file:
        head = file.read(4096)
    at = head.find(b"fmt ")
    if head[:4] not in (b"RIFF", b"RF64", b"RIFX") or at < 0 or len(head) < at + 16:
        return None
    return int.from_bytes(head[at + 12 : at + 16], "big" if head[:4] == b"RIFX" else "little")


# --- FFmpeg's containers, shared with the video room -------------------------------------------


def quiet_av() -> ModuleType:
    """Import PyAV with FFmpeg's log turned off: faults are raised, not printed."""
    import av
    import av.logging

    av.logging.set_level(av.logging.PANIC)
    av.logging.set_libav_level(av.logging.PANIC)
    return av


@contextlib.contextmanager
def open_container(path: Path, error: type[Exception]) -> Iterator[av.container.InputContainer]:
    """Open a file with FFmpeg's libraries.

    Raises:
        error: with one clear line, when it is no sound or video that they read.
    """
    av = quiet_av()
    try:
        container = av.open(os.fspath(path), metadata_errors="replace")
    except (av.error.FFmpegError, ValueError):
        raise error(
            f"cannot read {path}: it is no sound or video file, or it is damaged or cut short"
        ) from None
    with container:
        yield container


def is_still(container: av.container.InputContainer) -> bool:
    """Whether a container is a photo or a text, which FFmpeg shows as a film of one picture."""
    name = container.format.name
    return name.endswith("_pipe") or name in ("image2", "tty", "gif", "apng")


def _container_source(path: Path, container: av.container.InputContainer) -> Source:
    where = str(path)
    if not container.streams.audio:
        if container.streams.video and not is_still(container):
            raise AudioError(f"{where} has no sound track: pass a file with sound")
        raise AudioError(f"cannot read {where}: it is no sound or video file")
    track = container.streams.audio[0]
    declared_s = None
    if track.duration is not None and track.time_base is not None:
        declared_s = float(track.duration * track.time_base)
    elif container.duration is not None:
        declared_s = container.duration / 1e6
    packets = _Packets(container, track, where)
    blocks = packets.blocks(declared_s if _length_is_declared(path, container) else None)
    # The header of some AAC tells half of the rate: the first decoded block knows it.
    first = next(blocks, None)
    rate_hz = packets.rate_hz or int(track.rate or 0)
    if not rate_hz:
        raise AudioError(f"cannot read {where}: it is no sound or video file")
    info = AudioInfo(
        rate_hz=checked_rate(rate_hz, where),
        channels=checked_channels(packets.channels or int(track.channels or 0), where),
        duration_s=declared_s,
        codec=str(track.codec_context.name),
    )
    return Source(where, info, _with_first(first, blocks))


def _with_first(
    first: NDArray[np.float32] | None, rest: Iterator[NDArray[np.float32]]
) -> Iterator[NDArray[np.float32]]:
    if first is not None:
        yield first
    yield from rest


def _length_is_declared(path: Path, container: av.container.InputContainer) -> bool:
    """Whether the length stands in the file, or is only guessed from its size and bit rate."""
    name = container.format.name
    if "mp4" in name or "matroska" in name:
        return True
    if name != "mp3":
        return False
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3" and len(head) == 10:
            size = 0
            for byte in head[6:10]:
                size = size << 7 | byte & 0x7F
            file.seek(10 + size)
        else:
            file.seek(0)
        frame = file.read(2048)
    return any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))


_MP3_KBPS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_MP3_RATES_HZ = (44_100, 48_000, 32_000, 0)


def _mp3_frame_bytes(frame: bytes) -> int:
    """Length that an MPEG layer III frame's header tells, 0 where it tells none.

    The decoder fills up a frame that was cut, so that only this shows the end of a cut file that
    does not declare its length.
    """
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:
        return 0
    version = frame[1] >> 3 & 3
    kbps = _MP3_KBPS[3 if version == 3 else 2][frame[2] >> 4]
    rate_hz = _MP3_RATES_HZ[frame[2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}.get(version, 0)
    if not kbps or not rate_hz:
        return 0
    return (144_000 if version == 3 else 72_000) * kbps // rate_hz + (frame[2] >> 1 & 1)


class _Packets:
    """Decodes the sound track of a container."""

    def __init__(self, container: av.container.InputContainer, track: Any, where: str) -> None:
        self._container = container
        self._track = track
        self._where = where
        self._taken = 0
        self.rate_hz = 0
        self.channels = 0

    def _seconds(self) -> float:
        return self._taken / self.rate_hz if self.rate_hz else 0.0

    def blocks(self, declared_s: float | None) -> Iterator[NDArray[np.float32]]:
        """Yield mono blocks [n] of about a second; check the declared length at the end."""
        own_length = self._track.duration is not None
        is_mp3 = str(self._track.codec_context.name).startswith("mp3")
        latest_s = 0.0
        last_packet: Any = None
        waiting: list[NDArray[np.float32]] = []
        held = 0
        for packet in self._demux():
            if packet.pts is not None and packet.time_base is not None:
                end = packet.pts + (packet.duration or 0)
                latest_s = max(latest_s, float(end * packet.time_base))
            if packet.stream.index != self._track.index:
                continue
            if is_mp3 and packet.size:
                last_packet = packet
            for samples in self._frames(packet):
                waiting.append(samples)
                held += len(samples)
            if self.rate_hz and held >= _READ_S * self.rate_hz:
                yield np.concatenate(waiting)
                waiting, held = [], 0
        if held:
            yield np.concatenate(waiting)
        if last_packet is not None and last_packet.size < _mp3_frame_bytes(bytes(last_packet)):
            raise AudioError(damaged(self._where, self._seconds()))
        # A container without lengths of tracks tells when its longest track ends.
        check_complete(self._where, self._seconds() if own_length else latest_s, declared_s)

    def _demux(self) -> Iterator[Any]:
        av = quiet_av()
        try:
            yield from self._container.demux()
        except (av.error.FFmpegError, OSError):
            raise AudioError(damaged(self._where, self._seconds())) from None

    def _frames(self, packet: Any) -> Iterator[NDArray[np.float32]]:
        av = quiet_av()
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, OSError):
            # Cut recordings often begin inside a frame; later faults are damage.
            if self._taken:
                raise AudioError(damaged(self._where, self._seconds())) from None
            return
        for frame in frames:
            channels = frame.layout.nb_channels
            if not self.rate_hz:
                self.rate_hz, self.channels = frame.sample_rate, channels
                checked_rate(self.rate_hz, self._where)
                checked_channels(self.channels, self._where)
            elif frame.sample_rate != self.rate_hz:
                raise AudioError(
                    f"{self._where} changes its sample rate at {self._seconds():.2f} s: "
                    "convert it to one rate"
                )
            array = frame.to_ndarray()
            samples = array.T if frame.format.is_planar else array.reshape(-1, channels)
            mono = mono_of(samples, self._taken, self.rate_hz, self._where)
            self._taken += len(mono)
            yield mono
