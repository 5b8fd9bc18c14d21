"""Opening sounds and videos with FFmpeg's libraries (PyAV): files, pipes and open files alike."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

from soundsight.core.errors import AudioError

if TYPE_CHECKING:
    import av.container

MAX_PIPE_BYTES = 4 << 30
"""Most that is taken from a pipe: what has no end must not fill the disk."""

SoundFile = str | os.PathLike[str] | IO[bytes]
"""A path (of a file, a named pipe, ``/dev/stdin``), or an object open for reading bytes."""

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


def damaged(where: object, at_s: float) -> str:
    """Say that a file is damaged at a time in seconds."""
    return f"{where} is damaged or cut short at {at_s:.2f} s: get the whole file again"


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
        raise error(_unreadable(path, fault)) from None
    if empty:
        raise error(f"{path} is empty: the file has 0 bytes")


def _unreadable(where: object, fault: Exception) -> str:
    return f"cannot read {where}: {getattr(fault, 'strerror', None) or fault}"


def name_of(sound: SoundFile) -> str:
    """What a sound is called in messages: its path, or what an open file says of itself."""
    if isinstance(sound, (str, os.PathLike)):
        return os.fspath(sound)
    name = getattr(sound, "name", "")
    return name if isinstance(name, str) and name else "the sound"


@contextlib.contextmanager
def local_file(sound: SoundFile) -> Iterator[Path]:
    """Give a path by which a sound can be opened, as often as need be, while the block lasts.

    Pipes are read to their end first, open files from their beginning where they can be sought;
    what is not on a disk is copied to a temporary file that has no name.

    Raises:
        AudioError: when it cannot be read, is empty or without end, or was not opened for bytes.
    """
    where = name_of(sound)
    with contextlib.ExitStack() as stack:
        if isinstance(sound, (str, os.PathLike)):
            path = Path(sound)
            # A pipe, a socket or a device can be read once only.
            mode = 0
            with contextlib.suppress(OSError, ValueError):
                mode = path.stat().st_mode
            if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)):
                check_file(path, AudioError)
                yield path
                return
            try:
                file: IO[bytes] = stack.enter_context(path.open("rb"))
            except OSError as error:
                raise AudioError(_unreadable(where, error)) from None
            if file.isatty():
                raise AudioError(f"{where} is a terminal: pipe a sound into it")
        else:
            file = sound
            with contextlib.suppress(OSError, ValueError, AttributeError):
                file.seek(0)
        if not _is_on_disk(file):
            copy = stack.enter_context(tempfile.TemporaryFile())
            _copy(file, copy, where)
            file = copy
        yield Path(f"/proc/self/fd/{file.fileno()}")


def _is_on_disk(file: IO[bytes]) -> bool:
    """Whether an open file's descriptor has the bytes that it gives (a gzip file's has not)."""
    wrapped = getattr(file, "file", file)  # of tempfile
    raw = getattr(wrapped, "raw", wrapped)
    if not isinstance(raw, io.FileIO) or isinstance(wrapped, io.TextIOBase) or not raw.readable():
        return False
    file.flush()
    status = os.fstat(raw.fileno())
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def _copy(source: Any, copy: IO[bytes], where: str) -> None:
    text = AudioError(f"{where} is open for text: open it for bytes, as with 'rb'")
    try:
        while chunk := source.read(1 << 20):
            if not isinstance(chunk, (bytes, bytearray, memoryview)):
                raise text
            copy.write(chunk)
            if copy.tell() > MAX_PIPE_BYTES:
                gib = MAX_PIPE_BYTES >> 30
                raise AudioError(f"{where} does not end within {gib} GiB: cut the sound")
        copy.flush()
    except UnicodeDecodeError:
        raise text from None
    except (OSError, ValueError) as error:
        raise AudioError(_unreadable(where, error)) from None
    if not copy.tell():
        raise AudioError(f"{where} is empty: it has 0 bytes")


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
    """Open a file with FFmpeg's libraries; messages call it ``where``, or by its path.

    ``error`` with one clear line, when it is no sound or video that they read.
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


def codec_name(track: Any) -> str:
    """FFmpeg's name of a track's coding; empty where it does not know it."""
    with contextlib.suppress(AttributeError, ValueError):
        return str(track.codec_context.name)
    return ""


def check_encryption(track: Any, where: object, error: type[Exception]) -> None:
    """Raise ``error`` where a track's header says that it is encrypted."""
    tag = ""
    with contextlib.suppress(AttributeError, UnicodeDecodeError):  # no codec; a tag of a number
        tag = str(track.codec_context.codec_tag).lower()
    if tag in ("encv", "enca", "drmi", "drms", "p608"):
        raise error(f"{where} is encrypted: decrypt it first")


def check_packet(packet: Any, where: object, error: type[Exception]) -> None:
    """Raise ``error`` where a packet is encrypted.

    FFmpeg replaces the tag of a track under common encryption (ISO/IEC 23001-7) by that of what
    is inside; only the packets show it.
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
