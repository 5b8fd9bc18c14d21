"""Places that are named as a source: on a disk, or behind fsspec; and the names of files there."""

from __future__ import annotations

import contextlib
import heapq
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from soundsight.core.errors import DataError
from soundsight.data.sources.tables import Row

VIDEO_SUFFIXES = frozenset(
    [
        *("3g2", "3gp", "asf", "avi", "divx", "f4v", "flv", "m2ts", "m2v", "m4v", "mkv", "mov"),
        *("mp4", "mpeg", "mpg", "mts", "mxf", "ogm", "ogv", "qt", "ts", "vob", "webm", "wmv"),
    ]
)
"""Suffixes, lower case and without the dot, by which a file in a folder counts as a video."""

TABLE_SUFFIXES = frozenset(["csv", "txt"])
_UNLISTED = "cannot be listed"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::.*://)", re.DOTALL)
_MAGIC = re.compile(r"[*?[]")


class File(NamedTuple):
    """A file: what opens it, what it is whichever way it was reached, and if a link led there."""

    path: str
    real: str
    link: bool = False


@dataclass(kw_only=True)
class Listing:
    """What a source holds; all names are below it, with ``/``."""

    name: str = ""  #: what errors call it
    base: str = ""  #: comes before its names where there are several sources
    read: Callable[[str], bytes] = lambda _: b""  #: returns the content of a table
    files: dict[str, File] = field(default_factory=dict)  #: name -> video
    tables: list[str] = field(default_factory=list)  #: names of ``.csv`` and ``.txt`` files
    #: (name, file, what a table or the layout says of it) of each clip
    items: list[tuple[str, File, Row]] = field(default_factory=list)
    #: (name, why) of what is meant as a video, or is a folder, and cannot be used
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored: int = 0  #: files of other kinds
    missing: int = 0  #: rows in the dataset's own table whose video is not there
    layout: str | None = None  #: how the folder was read; None for what is no folder


def is_url(text: str) -> bool:
    """Whether a text is a URL, or a chain of them, rather than a path."""
    return _URL.match(text) is not None


def suffix_of(name: str) -> str:
    """Return a name's suffix in lower case, without the dot; empty where there is none."""
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    return suffix.lower() if stem else ""


def reason_of(error: Exception) -> str:
    """Return what an error says, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip() or type(error).__name__).splitlines()[0]


def walk(
    root: str,
    *,
    barred: Callable[[str], bool],
    suffixes: frozenset[str] = VIDEO_SUFFIXES,
    depth: int | None = None,
) -> Listing:
    """List the files with some suffixes below a folder, at most ``depth`` folders deep.

    Linked folders come after all others, in the order of their names, so that what is reached twice
    has its own name rather than a link's; each folder is entered once. Hidden names are passed
    over, and so is what ``barred`` says of a real path. Of a file no more is asked than what its
    folder says, but for links.
    """
    root, listing, seen = os.path.abspath(root), Listing(), set[str]()  # noqa: PTH100
    # (reached by a link, name below the root): a heap gives linked folders last.
    pending = [(False, "")]
    while pending:
        linked, folder = heapq.heappop(pending)
        path = f"{root}/{folder}" if folder else root
        real = os.path.realpath(path)
        if real in seen or barred(real):
            continue
        seen.add(real)
        try:
            entries = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
        except OSError as error:
            if not folder:
                raise DataError(f"{root} {_UNLISTED}: {reason_of(error)}") from None
            listing.skipped.append((folder, f"{_UNLISTED}: {reason_of(error)}"))
            continue
        level = folder.count("/") + bool(folder) + 1
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            suffix, link = suffix_of(name), entry.is_symlink()
            if _is(entry.is_dir):
                if depth is None or level < depth:
                    heapq.heappush(pending, (linked or link, name))
            elif suffix not in suffixes:
                listing.ignored += 1
                if suffix in TABLE_SUFFIXES and _is(entry.is_file):
                    listing.tables.append(name)
            elif not _is(entry.is_file):
                there = os.path.exists(entry.path)
                listing.skipped.append((name, "no regular file" if there else "a broken link"))
            else:
                own = os.path.realpath(entry.path) if link else f"{real}/{entry.name}"
                if not (link and barred(own)):
                    listing.files[name] = File(entry.path, own, linked or link)
    return listing


def _is(asked: Callable[[], bool]) -> bool:
    try:
        return asked()
    except OSError:
        return False


class Disk:
    """A place on a disk of this machine: ``source`` as it was named, ``path`` as it is absolute."""

    def __init__(self, source: str, barred: Callable[[str], bool]) -> None:
        self.source, self._barred = source, barred
        self.path = os.fspath(Path(source).absolute())

    def kind(self) -> str | None:
        """Return ``directory``, ``file``, or None where there is nothing of that very name."""
        try:
            mode = Path(self.path).stat().st_mode
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{self.source} cannot be read: {reason_of(error)}") from None
        if self._barred(os.path.realpath(self.path)):
            raise DataError(
                f"{self.source} lies in the output folder: choose another place for the output"
            )
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise DataError(f"{self.source} is no regular file: name a video or a folder")
        return "directory" if stat.S_ISDIR(mode) else "file"

    def file(self, path: str) -> File | str:
        """Return a file, or why it cannot be used."""
        try:
            mode = Path(path).stat().st_mode
        except OSError as error:
            return "no such file" if isinstance(error, FileNotFoundError) else reason_of(error)
        if stat.S_ISDIR(mode):
            return "a folder, not a video"
        if not stat.S_ISREG(mode):
            return "no regular file"
        real = os.path.realpath(path)
        return "lies in the output folder" if self._barred(real) else File(path, real)

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {reason_of(error)}") from None

    def listing(self, *, glob: bool) -> Listing:
        """List the files of the folder, or those that the place matches as a glob."""
        from fsspec.utils import glob_translate

        root, rest = _split_glob(self.path, os.path.isdir) if glob else (self.path, ["**"])
        if not os.path.isdir(root):
            raise DataError(f"no such folder: {root} (looking for {self.source})")
        suffixes = _suffixes(self.path) if glob else VIDEO_SUFFIXES
        depth = None if "**" in rest else len(rest)
        found = walk(root, barred=self._barred, suffixes=suffixes, depth=depth)
        found.base = Path(os.path.realpath(root)).name or "root"
        if not glob:
            return found
        matches = re.compile(glob_translate("/".join(rest))).match
        found.files = {name: file for name, file in found.files.items() if matches(name)}
        found.skipped = [row for row in found.skipped if matches(row[0]) or _UNLISTED in row[1]]
        return found


class Remote:
    """A place behind fsspec, and the URLs of its neighbours.

    Its file systems raise errors of their own kinds, so every error is taken for a user's.
    """

    def __init__(self, source: str) -> None:
        from fsspec.core import url_to_fs

        self.source = source
        with self._reading():
            self._fs, path = url_to_fs(source)
        self.path = str(path)
        self._links = source.split("::")
        self._at = next(i for i, link in enumerate(self._links) if "://" in link)
        self._scheme, _, body = self._links[self._at].partition("://")
        # Some file systems strip the host from a path; a URL needs it again.
        bare, body = self.path.strip("/"), body.rstrip("/")
        host = body[: len(body) - len(bare)] if body.endswith(bare) else ""
        self._host = f"{host.rstrip('/')}/" if host else ""

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise DataError(f"{self.source} cannot be read: {reason_of(error)}") from None

    def kind(self) -> str | None:
        """As that of a place on a disk."""
        with self._reading():
            try:
                return str(self._fs.info(self.path)["type"])
            except Exception as error:
                if isinstance(error, FileNotFoundError) or has_wildcard(self.path):
                    return None
                raise

    def file(self, path: str) -> File:
        """Return a file of the same file system, whether it is there or not."""
        links = list(self._links)
        links[self._at] = f"{self._scheme}://{self._host}{path.lstrip('/')}"
        url = path if "://" in path else "::".join(links)
        return File(url, url)

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        with self._reading():
            data: bytes = self._fs.cat_file(path)
        return data

    def listing(self, *, glob: bool) -> Listing:
        """As that of a place on a disk."""
        root = _split_glob(self.path, lambda _: False)[0] if glob else self.path
        suffixes = _suffixes(self.path) if glob else VIDEO_SUFFIXES
        with self._reading():
            found = (self._fs.glob if glob else self._fs.find)(self.path, detail=True)
        root = root.strip("/")
        archive = posixpath.splitext(posixpath.basename(self._links[-1]))[0]
        base = posixpath.basename(root) or (archive if len(self._links) > 1 else "root")
        listing = Listing(base=base)
        for path, info in found.items():
            name = str(path).lstrip("/")[len(root) + bool(root) :]
            if info["type"] != "file" or any(part.startswith(".") for part in name.split("/")):
                continue
            if suffix_of(name) in suffixes:
                listing.files[name] = self.file(str(path))
            else:
                listing.ignored += 1
                if suffix_of(name) in TABLE_SUFFIXES:
                    listing.tables.append(name)
        return listing


def has_wildcard(text: str) -> bool:
    """Whether a text holds one of ``*``, ``?`` and ``[``."""
    return _MAGIC.search(text) is not None


def _split_glob(pattern: str, exists: Callable[[str], bool]) -> tuple[str, list[str]]:
    """Split a glob into the folder before its first wildcard and the rest, by components.

    A component that ``exists`` is taken as it is, whatever brackets its name has.
    """
    parts = pattern.split("/")
    heads = ["/".join(parts[: count + 1]) for count in range(len(parts) - 1)]
    magic = (k for k, head in enumerate(heads) if has_wildcard(parts[k]) and not exists(head))
    count = next(magic, len(heads))
    rest = [part for part in parts[count:] if part not in ("", ".")]
    base = "/".join(parts[:count]) or ("/" if count else "")
    return base, [*rest, "*"] if rest[-1:] == ["**"] else rest


def _suffixes(pattern: str) -> frozenset[str]:
    """Suffixes that count in a glob: a video's, and the one that it spells out."""
    suffix = suffix_of(pattern)
    return VIDEO_SUFFIXES if not suffix or has_wildcard(suffix) else VIDEO_SUFFIXES | {suffix}
