"""Folders and files that are whole or absent: atomic writes, hashes, and a run's provenance."""

from __future__ import annotations

import contextlib
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
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block succeeds.

    Missing parent folders are made. When the block fails nothing is left behind, and an existing
    ``path`` keeps its old content.

    Raises:
        OutputError: when the place cannot be written to.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name[:80]}.", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        # mkstemp makes private files; what a user asks for should follow their umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(
    path: Path, *, overwrite: bool = False, ours: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; rename it to ``path`` when the block succeeds.

    Args:
        path: the folder that appears whole or not at all.
        overwrite: replace ``path`` when it is there.
        ours: says of an existing folder whether it may be replaced; an empty one always may.

    Raises:
        OutputError: when ``path`` exists and ``overwrite`` is false, when it holds something that
            is not ``ours``, or when it cannot be written to.
    """
    if os.path.lexists(path):
        if not overwrite:
            raise OutputError(f"{path} exists already: choose another place or pass --overwrite")
        empty = os.path.isdir(path) and not os.listdir(path)
        if not empty and ours is not None and not ours(path):
            raise OutputError(f"{path} holds something else and is kept: choose another place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        temporary.chmod(0o755)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield temporary
        if path.exists():
            old = temporary.with_name(temporary.name + ".old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def usable_folder(out: Path) -> None:
    """Make an output folder and try it, before work that would be lost starts.

    Raises:
        OutputError: when it cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except FileExistsError:
        raise OutputError(f"cannot write to {out}: it is a file, not a folder") from None
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror or error}") from None


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def commit() -> str | None:
    """Return the Git commit of the source tree this package runs from, or None outside one.

    A ``+`` follows the commit when tracked files have been changed since.
    """
    this = Path(__file__).resolve()
    here = this.parent
    try:
        # Installed somewhere inside another repository, that one's commit says nothing of us.
        subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", this.name],
            capture_output=True, timeout=5, check=True,
        )  # fmt: skip
        head = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"],
            capture_output=True, text=True, timeout=5, check=True,
        ).stdout.strip()  # fmt: skip
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, timeout=5, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")
