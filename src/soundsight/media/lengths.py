"""What formats write of their own length, and how FFmpeg is mistaken about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from soundsight.media.container import origin_s

_CONTAINERS = ("mp4", "matroska", "flv", "flac", "aiff")
"""Formats, by a part of their name, whose length as FFmpeg has it is that which is written."""

_STREAMED_BYTES = 0x7FFF_F000
"""Sizes from here on, and 0, are what a recorder writes that does not know the length yet."""


def declared_end_s(container: Any, track: Any) -> float | None:
    """When a track ends by what is written in the file, or guessed from its size; or None."""
    if track.duration is not None:
        begin_s = 0.0
        if track.start_time is not None:
            begin_s = float(track.start_time * track.time_base) - origin_s(container)
        return begin_s + float(track.duration * track.time_base)
    if container.duration is not None:
        end_s = float(container.duration) / 1e6
        # Matroska says when it ends, others how long they last.
        return end_s - origin_s(container) if "matroska" in container.format.name else end_s
    return None


def written_end_s(
    container: Any, track: Any, path: Path, decoded_s: float, rate_hz: int
) -> float | None:
    """When a track ends by what is written in the file; None where it does not say.

    ``decoded_s`` is where decoding it has ended, at ``rate_hz``.
    """
    name = str(container.format.name)
    if name in ("wav", "avi"):
        return decoded_s * _riff_share(path)
    if name == "mp3":
        samples = _mp3_frames(path) * (1152 if rate_hz >= 32_000 else 576)
        return samples / max(1, rate_hz) if samples else None
    if name == "au" or any(each in name for each in _CONTAINERS):
        return declared_end_s(container, track)
    return None


def riff_chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """The chunks of a wav: name and size; the file then stands at the chunk's content."""
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return
    while len(chunk := file.read(8)) == 8:
        at, size = file.tell(), int.from_bytes(chunk[4:], "little")
        yield chunk[:4], size
        file.seek(at + size + size % 2)


def _riff_share(path: Path) -> float:
    """How much longer a wav or AVI is by what it says than it is; 1 where it does not say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        end = 8 + int.from_bytes(head[4:8], "little") if head[8:] == b"AVI " else 0
        long_size = 0
        for name, declared in riff_chunks(file):
            if name == b"ds64":
                long_size = int.from_bytes(file.read(16)[8:], "little")
            elif name == b"data":
                length = long_size if head[:4] == b"RF64" else declared
                if length < _STREAMED_BYTES or long_size:
                    end = file.tell() + length
                break
    return max(1.0, end / max(size, 1)) if end < _STREAMED_BYTES or end > 1 << 32 else 1.0


def is_streamed_caf(path: Path) -> bool:
    """Whether a CAF was written by a recorder that did not know its length."""
    with path.open("rb") as file:
        head = file.read(4096)
    at = head.find(b"data")
    return at >= 0 and head[at + 4 : at + 12] == b"\xff" * 8


def _mp3_frames(path: Path) -> int:
    """How many frames an mp3 says that it has (Xing, VBRI); 0 where it does not."""
    with path.open("rb") as file:
        head = file.read(10)
        size = 0
        if head[:3] == b"ID3" and len(head) == 10:
            for byte in head[6:]:
                size = size << 7 | byte & 0x7F
            size += 10
        file.seek(size)
        frame = file.read(2048)
    for tag, at in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        first = frame.find(tag)
        if first >= 0:
            has_frames = tag == b"VBRI" or (frame[first + 7 : first + 8] and frame[first + 7] & 1)
            return int.from_bytes(frame[first + at : first + at + 4], "big") if has_frames else 0
    return 0


_MP3_KBPS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_MP3_RATES_HZ = (44_100, 48_000, 32_000, 0)


def mp3_frame_bytes(packet: Any) -> int:
    """Length that the header of an MPEG layer III frame says it has; 0 where it is no header."""
    head = bytes(packet)[:4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version = head[1] >> 3 & 3
    kbps = _MP3_KBPS[3 if version == 3 else 2][head[2] >> 4]
    rate_hz = _MP3_RATES_HZ[head[2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}.get(version, 0)
    if not kbps or not rate_hz:
        return 0
    return (144_000 if version == 3 else 72_000) * kbps // rate_hz + (head[2] >> 1 & 1)
