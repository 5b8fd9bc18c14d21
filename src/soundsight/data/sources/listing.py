"""The names of files below a place: a folder, a glob, or whatever fsspec opens; none is read."""

from __future__ import annotations

import fnmatch
import heapq
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from soundsight.core.errors import DataError, MissingExtraError

VIDEO_SUFFIXES = frozenset(
    [
        *("3g2", "3gp", "asf", "avi", "divx", "f4v", "flv", "m2ts", "m2v", "m4v", "mkv", "mov"),
        *("mp4", "mpeg", "mpg", "mts", "mxf", "ogm", "ogv", "qt", "ts", "vob", "webm", "wmv"),
    ]
)
"""Suffixes, lower case and without the dot, by which a file in a folder counts as a video."""

TABLE_SUFFIXES = frozenset(["csv", "txt"])
UNLISTED = "cannot be listed"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::.*://)", re.DOTALL)
_MAGIC = re.compile(r"[*?[]")


class File(NamedTuple):
    """A file by its name.

    ``path`` opens it; ``real`` is what it is, whichever way it was reached (its real path or its
    URL); ``link`` says that a link led to it.
    """

    path: str
    real: str
    link: bool = False


@dataclass(kw_only=True)
class Listing:
    """What lies below a place.

    Attributes:
        files: name (below the place, with ``/``) -> video.
        tables: names of ``.csv`` and ``.txt`` files.
        skipped: (name, why) of what bears a video's name, or is a folder, and cannot be used.
        ignored: number of files of other kinds.
    """

    files: dict[str, File] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored: int = 0


def is_url(text: str) -> bool:
    """Whether a text is a URL, or a chain of them, rather than a path."""
    return _URL.match(text) is not None


def has_wildcard(text: str) -> bool:
    """Whether a text holds one of ``*``, ``?`` and ``[``."""
    return _MAGIC.search(text) is not None


def walk(
    root: str,
    *,
    barred: Callable[[str], bool],
    suffixes: frozenset[str] = VIDEO_SUFFIXES,
    depth: int | None = None,
) -> Listing:
    """List the files below a folder.

    Linked folders come after all others, in the order of their names, so that what is reached twice
    has its own name rather than a link's; each folder is entered once. Hidden names are passed
    over. Of a file no more is asked than what its folder says, but for links.

    Args:
        root: the folder.
        barred: says of a real path that it must not become input.
        suffixes: those that count as a video's.
        depth: how many folders deep, 1 for the root's own files; None for all.

    Raises:
        DataError: when the root cannot be listed.
    """
    listing = Listing()
    seen: set[tuple[int, int]] = set()
    pending = [_Folder("", os.fspath(Path(root).absolute()), os.path.realpath(root), 1, False)]
    links: list[_Folder] = []
    while pending or links:
        folder = pending.pop() if pending else heapq.heappop(links)
        if barred(folder.real):
            continue
        inner: list[_Folder] = []
        try:
            status = Path(folder.path).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        inner.append(folder.inner(entry, f"{folder.real}/{entry.name}"))
                    elif not entry.is_symlink():
                        _take(listing, folder, entry, suffixes)
                    elif _is_folder(entry):
                        target = folder.inner(entry, os.path.realpath(entry.path))
                        if depth is None or folder.level < depth:
                            heapq.heappush(links, target._replace(linked=True))
                    else:
                        _take(listing, folder, entry, suffixes, barred)
        except OSError as error:
            if not folder.name:
                raise DataError(f"{root} {UNLISTED}: {reason_of(error)}") from None
            listing.skipped.append((folder.name, f"{UNLISTED}: {reason_of(error)}"))
        if depth is None or folder.level < depth:
            pending.extend(sorted(inner, reverse=True))
    return listing


class _Folder(NamedTuple):
    name: str
    path: str
    real: str
    level: int
    linked: bool

    def inner(self, entry: os.DirEntry[str], real: str) -> _Folder:
        return _Folder(self.below(entry.name), entry.path, real, self.level + 1, self.linked)

    def below(self, name: str) -> str:
        return f"{self.name}/{name}" if self.name else name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _take(
    listing: Listing,
    folder: _Folder,
    entry: os.DirEntry[str],
    suffixes: frozenset[str],
    barred: Callable[[str], bool] | None = None,
) -> None:
    """Add what is no folder to the listing; ``barred`` is given for links."""
    suffix = suffix_of(entry.name)
    name = folder.below(entry.name)
    if suffix not in suffixes:
        listing.ignored += 1
        if suffix in TABLE_SUFFIXES and _is_regular(entry):
            listing.tables.append(name)
    elif not _is_regular(entry):
        broken = barred is not None and not os.path.exists(entry.path)
        listing.skipped.append((name, "a broken link" if broken else "no regular file"))
    elif barred is None:
        listing.files[name] = File(entry.path, f"{folder.real}/{entry.name}", folder.linked)
    else:
        real = os.path.realpath(entry.path)
        if not barred(real):
            listing.files[name] = File(entry.path, real, True)


def _is_regular(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def split_glob(pattern: str, exists: Callable[[str], bool]) -> tuple[str, list[str]]:
    """Split a glob into the folder before its first wildcard and the rest, by components.

    A component that ``exists`` is taken as it is, whatever brackets its name has.
    """
    parts = pattern.split("/")
    count = 0
    while count < len(parts) - 1:
        head = "/".join(parts[: count + 1])
        if _MAGIC.search(parts[count]) and not exists(head):
            break
        count += 1
    base = "/".join(parts[:count])
    if count and not base:
        base = "/"
    rest = [part for part in parts[count:] if part not in ("", ".")]
    return base, [*rest, "*"] if rest[-1:] == ["**"] else rest


def matcher(pattern: Sequence[str]) -> Callable[[str], bool]:
    """Return a test of names against a glob's components; ``**`` stands for any folders or none."""
    tests = [None if part == "**" else re.compile(fnmatch.translate(part)) for part in pattern]

    def match(parts: Sequence[str], at: int) -> bool:
        if at == len(tests):
            return not parts
        test = tests[at]
        if test is None:
            return any(match(parts[skip:], at + 1) for skip in range(len(parts) + 1))
        return bool(parts) and bool(test.match(parts[0])) and match(parts[1:], at + 1)

    return lambda name: match(name.split("/"), 0)


def named_suffixes(last: str) -> frozenset[str]:
    """Suffixes that count in a glob: a video's, and the one that it spells out."""
    suffix = suffix_of(last)
    return VIDEO_SUFFIXES if not suffix or _MAGIC.search(suffix) else VIDEO_SUFFIXES | {suffix}


class Remote:
    """One place behind fsspec, and the URLs of its neighbours.

    Its file systems raise errors of their own kinds, so every error is taken for a user's.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise MissingExtraError(f"reading {url}", "prepare", "fsspec") from None
        self._whole = url
        try:
            self.fs, path = url_to_fs(url, **options)
        except Exception as error:
            raise self._unreadable(error) from None
        self.path = str(path)
        self._links = url.split("::")
        self._at = next(i for i, link in enumerate(self._links) if "://" in link)
        self._scheme, _, body = self._links[self._at].partition("://")
        # Some file systems strip the host from a path; a URL needs it again.
        bare = self.path.strip("/")
        body = body.rstrip("/")
        self._host = body[: len(body) - len(bare)] if body.endswith(bare) else ""
        if self._host and not self._host.endswith("/"):
            self._host += "/"
        protocols = (self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol
        self.local = self.path if "file" in protocols and len(self._links) == 1 else None

    def url(self, path: str) -> str:
        """Return the URL of another path of the same file system."""
        if "://" in path:
            return path
        links = list(self._links)
        links[self._at] = f"{self._scheme}://{self._host}{path.lstrip('/')}"
        return "::".join(links)

    def kind(self) -> str | None:
        """Return ``directory``, ``file``, or None where there is nothing of that very name."""
        try:
            return str(self.fs.info(self.path)["type"])
        except Exception as error:
            if isinstance(error, FileNotFoundError) or _MAGIC.search(self.path):
                return None
            raise self._unreadable(error) from None

    def files(self, *, pattern: bool) -> Iterator[str]:
        """Yield the path of every file below the place, or of those that match it."""
        try:
            listing = self.fs.glob if pattern else self.fs.find
            found = listing(self.path, detail=True)
        except Exception as error:
            raise self._unreadable(error) from None
        for path, info in found.items():
            if info["type"] == "file":
                yield str(path)

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        try:
            data: bytes = self.fs.cat_file(path)
        except Exception as error:
            raise self._unreadable(error) from None
        return data

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"{self._whole} cannot be read: {reason_of(error)}")


def suffix_of(name: str) -> str:
    """Return a name's suffix in lower case, without the dot; empty where there is none."""
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    return suffix.lower() if stem else ""


def reason_of(error: Exception) -> str:
    """Return what an error says, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip() or type(error).__name__).splitlines()[0]
