"""The names of files below a place: a folder, a glob, or whatever fsspec opens; none is read."""

from __future__ import annotations

import fnmatch
import heapq
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    """
    listing = Listing()
    seen: set[str] = set()
    # (reached by a link, name below the root): a heap gives linked folders last.
    pending = [(False, "")]
    while pending:
        linked, name = heapq.heappop(pending)
        path = os.path.join(os.path.abspath(root), name) if name else os.path.abspath(root)  # noqa: PTH100, PTH118
        real = os.path.realpath(path)
        if real in seen or barred(real):
            continue
        seen.add(real)
        try:
            entries = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
        except OSError as error:
            if not name:
                raise DataError(f"{root} {UNLISTED}: {reason_of(error)}") from None
            listing.skipped.append((name, f"{UNLISTED}: {reason_of(error)}"))
            continue
        level = name.count("/") + bool(name) + 1
        for entry in entries:
            inner = f"{name}/{entry.name}" if name else entry.name
            if not _is(entry.is_dir):
                _take(listing, entry, inner, f"{real}/{entry.name}", linked, suffixes, barred)
            elif depth is None or level < depth:
                heapq.heappush(pending, (linked or entry.is_symlink(), inner))
    return listing


def _is(asked: Callable[[], bool]) -> bool:
    try:
        return asked()
    except OSError:
        return False


def _take(
    listing: Listing,
    entry: os.DirEntry[str],
    name: str,
    real: str,
    linked: bool,
    suffixes: frozenset[str],
    barred: Callable[[str], bool],
) -> None:
    """Add what is no folder to the listing."""
    suffix, regular = suffix_of(name), _is(entry.is_file)
    if suffix not in suffixes:
        listing.ignored += 1
        if suffix in TABLE_SUFFIXES and regular:
            listing.tables.append(name)
    elif not regular:
        broken = not os.path.exists(entry.path)
        listing.skipped.append((name, "a broken link" if broken else "no regular file"))
    else:
        link = entry.is_symlink()
        real = os.path.realpath(entry.path) if link else real
        if not (link and barred(real)):
            listing.files[name] = File(entry.path, real, linked or link)


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

    def listing(self, root: str, suffixes: frozenset[str], *, pattern: bool) -> Listing:
        """List the files below ``root``, or those that match the place's pattern."""
        try:
            found = (self.fs.glob if pattern else self.fs.find)(self.path, detail=True)
        except Exception as error:
            raise self._unreadable(error) from None
        listing = Listing()
        below = len(root.strip("/")) + bool(root.strip("/"))
        for path, info in found.items():
            name = str(path).lstrip("/")[below:]
            if info["type"] != "file" or any(part.startswith(".") for part in name.split("/")):
                continue
            if suffix_of(name) in suffixes:
                url = self.url(str(path))
                listing.files[name] = File(url, url)
            elif not pattern:
                listing.ignored += 1
                if suffix_of(name) in TABLE_SUFFIXES:
                    listing.tables.append(name)
        return listing

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
