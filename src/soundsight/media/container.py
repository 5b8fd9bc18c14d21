"""Opening sound and video files with FFmpeg's libraries (PyAV), and what a container tells."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av.container

_OPTIONS = {"max_size": "65536"}
"""Bytes of a packet of a wav, whose default of 8 kB makes three quarters of the cost of reading."""

_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"v=0\r", b"v=0\n")
"""How files begin that only name others, which FFmpeg would open, and wait for."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


def quiet_av() -> ModuleType:
    """Import PyAV with FFmpeg's log turned off: faults are raised, not printed."""
    import av
    import av.logging

    av.logging.set_level(av.logging.PANIC)
    av.logging.set_libav_level(av.logging.PANIC)
    return av


def missing(path: Path) -> str:
    """Say that there is no such file."""
    if _ADDRESS.match(str(path)):
        return f"{path} is an address: only files are read, download it and pass the file"
    return f"{path} does not exist: check the path"


def check_file(path: Path, error: type[Exception]) -> None:
    """Raise ``error`` with one clear line unless ``path`` is a readable file with content."""
    if os.path.isdir(path):
        raise error(f"{path} is a folder: pass a file")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise error(missing(path)) from None
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise error(f"cannot read {path}: {reason}") from None
    if empty:
        raise error(f"{path} is empty: the file has 0 bytes")


def opened(path: Path) -> av.container.InputContainer:
    """Open a file with PyAV's own errors; tags that are no UTF-8 are no reason to fail."""
    import av

    options: dict[str, Any] = {"options": _OPTIONS}
    # From release 19 on PyAV has no such option: it always replaces.
    if int(av.__version__.partition(".")[0]) < 19:
        options["metadata_errors"] = "replace"
    # The absolute path, as FFmpeg takes what stands before a colon for a protocol.
    container: av.container.InputContainer = av.open(os.path.abspath(path), **options)  # noqa: PTH100
    return container


@contextlib.contextmanager
def open_container(
    path: Path, error: type[Exception], where: str = ""
) -> Iterator[av.container.InputContainer]:
    """Open a file with FFmpeg's libraries.

    Args:
        where: what the file is called in messages; its path where this is empty.

    Raises:
        error: with one clear line, when it is no sound or video that they read.
    """
    av = quiet_av()
    with path.open("rb") as file:
        if file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_PLAYLISTS):
            raise error(f"{where or path} is a playlist: pass the files that it names")
    try:
        container = opened(path)
    except (av.error.FFmpegError, OSError, ValueError):
        raise error(
            f"cannot read {where or path}: it is no sound or video file, or it is damaged or cut "
            "short"
        ) from None
    with container:
        yield container


def is_still(container: av.container.InputContainer) -> bool:
    """Whether a container is a photo or a text, which FFmpeg shows as a film of one picture."""
    name = container.format.name
    return name.endswith("_pipe") or name in ("image2", "tty", "gif", "apng")


def origin_s(container: Any) -> float:
    """Where the file's clock is 0, in seconds of its time stamps: its earliest track's start."""
    if container.start_time is not None:
        return float(container.start_time) / 1e6
    starts = [float(t.start_time * t.time_base) for t in container.streams if t.start_time]
    return min(starts, default=0.0)


def can_seek(container: Any) -> bool:
    """Whether the container has an index, so that seeking lands before the time asked for."""
    return "mp4" in container.format.name or "matroska" in container.format.name


def riff_chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """The chunks of a wav: name and size; the file then stands at the chunk's content.

    Nothing for any other file.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return
    while len(chunk := file.read(8)) == 8:
        at, size = file.tell(), int.from_bytes(chunk[4:], "little")
        yield chunk[:4], size
        file.seek(at + size + size % 2)


def codec_name(track: Any) -> str:
    """FFmpeg's name of a track's coding; empty where it does not know it."""
    try:
        return str(track.codec_context.name)
    except (AttributeError, ValueError):
        return ""


def check_encryption(track: Any, where: object, error: type[Exception]) -> None:
    """Raise ``error`` where a track's header says that it is encrypted."""
    try:
        tag = str(track.codec_context.codec_tag).lower()
    except (AttributeError, UnicodeDecodeError):  # no codec; a tag that is a number
        return
    if tag in ("encv", "enca", "drmi", "drms", "p608"):
        raise error(f"{where} is encrypted: decrypt it first")


def check_packet(packet: Any, where: object, error: type[Exception]) -> None:
    """Raise ``error`` where a packet is encrypted.

    FFmpeg replaces the tag of a track under common encryption (ISO/IEC 23001-7) by that of what
    is inside; only the packets tell.
    """
    if any(packet.has_sidedata(kind) for kind in ("encryption_info", "encryption_init_info")):
        raise error(f"{where} is encrypted: decrypt it first")


def demux(container: Any, *tracks: Any) -> Iterator[Any]:
    """The packets of some tracks, or of all that a container had when it was opened."""
    while True:
        try:
            yield from container.demux(*tracks)
        except IndexError:  # PyAV knows no such track
            continue
        return


def discard_others(container: Any, track: Any) -> None:
    """Let the container skip the packets of all tracks but one."""
    for each in container.streams:
        choices: Any = type(each.discard)
        each.discard = choices.default if each.index == track.index else choices.all
