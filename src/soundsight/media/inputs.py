"""Where a sound may come from: a file, a pipe, an open file; each becomes a file that can be
opened by a path, and opened again."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from soundsight.core.errors import AudioError
from soundsight.media.container import check_file

MAX_PIPE_BYTES = 4 << 30
"""Most that is taken from a pipe: what has no end must not fill the disk."""

_COPY_BYTES = 1 << 20

SoundFile = str | os.PathLike[str] | IO[bytes]
"""A path (of a file, a named pipe, ``/dev/stdin``), or an object open for reading bytes."""


def is_open_file(sound: object) -> bool:
    """Whether an object is an open file, or like one."""
    return hasattr(sound, "read")


def name_of(sound: SoundFile) -> str:
    """What a sound is called in messages: its path, or what an open file says of itself."""
    if isinstance(sound, (str, os.PathLike)):
        return os.fspath(sound)
    name = getattr(sound, "name", "")
    return name if isinstance(name, str) and name else "the sound"


def is_pipe(path: Path) -> bool:
    """Whether a path is a pipe, a socket or a device, which can be read once only."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


@contextlib.contextmanager
def local_file(sound: SoundFile) -> Iterator[Path]:
    """Give a path by which a sound can be opened, as often as need be, while the block lasts.

    Pipes are read to their end first, open files from their beginning where they can be sought;
    what is not on a disk is copied to a temporary file that has no name.

    Raises:
        AudioError: when it cannot be read, is empty or without end, or was not opened for bytes.
    """
    where = name_of(sound)
    if isinstance(sound, (str, os.PathLike)):
        path = Path(sound)
        if not is_pipe(path):
            check_file(path, AudioError)
            yield path
            return
        with contextlib.ExitStack() as stack:
            try:
                pipe = stack.enter_context(path.open("rb"))
            except OSError as error:
                raise AudioError(f"cannot read {where}: {error.strerror or error}") from None
            if pipe.isatty():
                raise AudioError(f"{where} is a terminal: pipe a sound into it")
            yield _path_of(stack.enter_context(_copy(pipe, where)))
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sound.seek(0)
    with contextlib.ExitStack() as stack:
        yield _path_of(_on_disk(sound) or stack.enter_context(_copy(sound, where)))


def _on_disk(sound: IO[bytes]) -> IO[bytes] | None:
    """The open file itself, where its descriptor is a whole file with the very bytes it gives.

    An open compressed file has the descriptor of what it reads, which is something else.
    """
    wrapped = getattr(sound, "file", sound)  # of tempfile
    raw = getattr(wrapped, "raw", wrapped)
    if not isinstance(raw, io.FileIO) or isinstance(wrapped, io.TextIOBase) or not raw.readable():
        return None
    sound.flush()
    status = os.fstat(raw.fileno())
    return sound if stat.S_ISREG(status.st_mode) and status.st_size else None


@contextlib.contextmanager
def _copy(source: Any, where: str) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as copy:
        total = 0
        try:
            while chunk := source.read(_COPY_BYTES):
                if not isinstance(chunk, (bytes, bytearray, memoryview)):
                    raise AudioError(f"{where} is open for text: open it for bytes, as with 'rb'")
                total += len(chunk)
                if total > MAX_PIPE_BYTES:
                    raise AudioError(
                        f"{where} does not end within {MAX_PIPE_BYTES >> 30} GiB: cut the sound"
                    )
                copy.write(chunk)
            copy.flush()
        except UnicodeDecodeError:
            raise AudioError(f"{where} is open for text: open it for bytes, as with 'rb'") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise AudioError(f"cannot read {where}: {reason}") from None
        if not total:
            raise AudioError(f"{where} is empty: it has 0 bytes")
        yield copy


def _path_of(file: IO[bytes]) -> Path:
    return Path(f"/proc/self/fd/{file.fileno()}")
