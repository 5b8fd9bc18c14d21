"""Folders and files that are whole or absent: atomic writes, hashes, and a run's provenance."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from soundsight.core.errors import OutputError


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _writing(what: object) -> Iterator[None]:
    """Say of a fault of the disk, in one line, what cannot be written."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {what}: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block succeeds.

    Missing parent folders are made. When the block fails nothing is left behind, and an existing
    ``path`` keeps its old content. The new content is on the disk before it gets its name, so that
    a power loss leaves the old or the new file and never half of one.

    Raises:
        OutputError: when the place cannot be written to.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name[:80]}."
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            temporary.chmod(_as_umask_has_it(0o666))
            yield temporary
            move_into_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a file that is written its name, in the same file system, once its content is on disk.

    ``OSError`` when it cannot be read, written to the disk, or renamed.
    """
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


@contextlib.contextmanager
def atomic_folder(
    path: Path, *, overwrite: bool = False, ours: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; give it that name when the block succeeds.

    The new folder is on the disk before it gets its name. An old one exchanges names with it in
    one step, where the system can do that: whenever the program or the machine stops, the old or
    the new folder stands there. Elsewhere the old one first steps aside to a hidden name; what a
    stop between those two steps leaves is put back by the next call for the same ``path``, unless
    something else stands there by then: then it is kept until a new folder has taken the place.

    What else a stop leaves beside ``path`` has a hidden name (``.soundsight-*``) and is removed by
    the next call for the same ``path``. A folder that another program is writing is locked and left
    alone; where there are no such locks, half-written ones stay until somebody removes them.

    Args:
        path: the folder that appears whole or not at all.
        overwrite: replace ``path`` when it is there.
        ours: says of an existing folder whether it may be replaced; an empty one always may.

    Raises:
        OutputError: when ``path`` exists and ``overwrite`` is false, when it holds something that
            is not ``ours``, or when it cannot be written to.
    """
    with _writing(path):
        # A name that no folder can have is told now, not when all is done.
        with contextlib.suppress(FileNotFoundError):
            path.lstat()
        _settle(path)
        if os.path.lexists(path):
            if not overwrite:
                raise OutputError(
                    f"{path} exists already: choose another place or pass --overwrite"
                )
            empty = os.path.isdir(path) and not os.listdir(path)
            if not empty and ours is not None and not ours(path):
                raise OutputError(f"{path} holds something else and is kept: choose another place")
        path.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=path.parent, prefix=_hidden(path)))
        new, old = made.with_suffix(_NEW), made.with_suffix(_OLD)
        replaced = False
        try:
            made.chmod(_as_umask_has_it(0o777))
            with _locked(made):
                # Only now: what has this name and is not locked is a leftover.
                made.rename(new)
                yield new
                for place in (*new.rglob("*"), new):
                    if not place.is_symlink():
                        sync(place)
                if not (os.path.lexists(path) and _exchange(new, path)):
                    if os.path.lexists(path):
                        path.rename(old)
                        sync(path.parent)
                    new.rename(path)
                # Before the old folder is removed.
                sync(path.parent)
                replaced = True
        finally:
            with contextlib.suppress(OSError):
                _settle(path, replaced=replaced)
            # Where there are no locks. Beside an old folder it stays: nothing has replaced that.
            if not os.path.lexists(old):
                _remove(new)
            _remove(made)


_NEW, _OLD = ".new", ".old"
"""Suffixes of a folder that is being written, and of the one that steps aside for it."""


def _hidden(path: Path) -> str:
    """How the names of all that waits beside a folder begin; no other folder's begin so."""
    return f".soundsight-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-"


def _settle(path: Path, *, replaced: bool = False) -> None:
    """Put back what was moved aside, unless it was just ``replaced``; remove what is left over."""
    for new in path.parent.glob(f"{_hidden(path)}*{_NEW}"):
        old = new.with_suffix(_OLD)
        if os.path.lexists(old) and not replaced:
            with contextlib.suppress(OSError):
                path.rmdir()  # an empty folder that was made meanwhile
            if os.path.lexists(path):
                continue
            old.rename(path)
            sync(path.parent)
        with _locked(new) as ours:
            # A link, which nobody writes, was replaced.
            if ours or new.is_symlink():
                _remove(new)
    for old in path.parent.glob(f"{_hidden(path)}*{_OLD}"):
        # With its new folder gone, it was replaced.
        if not os.path.lexists(old.with_suffix(_NEW)):
            _remove(old)


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[bool]:
    """Keep a file or folder locked in the block, or until the program ends."""
    import fcntl

    with contextlib.ExitStack() as stack:
        try:
            handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except OSError:
            locked = False
        yield locked


def _as_umask_has_it(mode: int) -> int:
    """The permissions that a user's umask leaves; Python's temporary things are private."""
    umask = os.umask(0)
    os.umask(umask)
    return mode & ~umask


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Have a file's or a folder's content on the disk; some file systems know no such thing.

    ``OSError`` when it cannot be read, or written to the disk.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # A folder may be open to writers and closed to readers.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def _exchange(a: Path, b: Path) -> bool:
    """Let two paths exchange their names in one step; say whether the system did it."""
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:  # a C library that has no such call
        return False
    at: list[Any] = [ctypes.c_int, ctypes.c_char_p]
    renameat2.argtypes = [*at, *at, ctypes.c_uint]
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    # Old kernels and some file systems cannot.
    done: int = renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange)
    return done == 0


def usable_folder(out: Path) -> None:
    """Make an output folder and try it, before work that would be lost; or ``OutputError``."""
    with _writing(f"to {out}"):
        if os.path.lexists(out) and not os.path.isdir(out):
            raise OutputError(f"cannot write to {out}: it is a file, not a folder")
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def commit() -> str | None:
    """Return the Git commit of the source tree this package runs from, or None outside one.

    A ``+`` follows the commit when tracked files have been changed since.
    """
    this = Path(__file__).resolve()

    def git(*words: str) -> str:
        command = ["git", "-C", str(this.parent), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        # Installed somewhere inside another repository, that one's commit says nothing of us.
        git("ls-files", "--error-unmatch", this.name)
        head = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def local_output(out: Path) -> None:
    """Raise ``OutputError`` for a URL: as a path it would become a folder named ``s3:``."""
    # A path loses one of the two slashes.
    scheme, found, _ = str(out).partition(":/")
    if found and len(scheme) > 1 and scheme.isalnum():
        raise OutputError(f"{out} is a URL: write to a local folder, and copy it there afterwards")
