"""What a user names as SOURCE -> the clips to prepare, in a stable order under stable keys.

A source is a folder, a video, a list file, a CSV or Parquet manifest or a glob, on a disk or on any
file system that fsspec opens. Nothing is decoded here, and no video is opened: a folder of 200,000
files costs its listing.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from soundsight.core.config import choose
from soundsight.core.errors import DataError
from soundsight.data.records import Clip
from soundsight.data.sources.layouts import LAYOUTS, Part, Tree, bracketed_id, detect, stem_of
from soundsight.data.sources.listing import (
    UNLISTED,
    VIDEO_SUFFIXES,
    File,
    Listing,
    Remote,
    has_wildcard,
    is_url,
    matcher,
    named_suffixes,
    reason_of,
    split_glob,
    suffix_of,
    walk,
)
from soundsight.data.sources.tables import Row, read_list, read_manifest

_LISTS = frozenset(["txt", "lst"])
_MANIFESTS = frozenset(["csv", "parquet", "pq"])


class Skipped(NamedTuple):
    """Something that was meant as a video and cannot be one.

    ``path`` is its name, made like a clip's key, never absolute; ``reason`` is why, in a few words.
    """

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Clips:
    """What the sources hold.

    Attributes:
        clips: sorted by key.
        skipped: what was meant as a video and is none, sorted by path.
        ignored: number of files in folders that are of other kinds.
        repeated: number of times that a file, or the same part of one, was met again.
        missing: number of rows in a dataset's own table whose video is not there.
        layouts: the layout of each folder among the sources, in their order.
    """

    clips: tuple[Clip, ...]
    skipped: tuple[Skipped, ...]
    ignored: int
    repeated: int
    missing: int
    layouts: tuple[str, ...]


class _Item(NamedTuple):
    """A file, and what its table or layout says of it."""

    name: str
    file: File
    part: Part | Row


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What one source holds; ``base`` comes before its names where there are several sources."""

    base: str
    items: Sequence[_Item]
    skipped: Sequence[tuple[str, str]] = ()
    ignored: int = 0
    missing: int = 0
    layout: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Asked:
    layout: str
    output: str | None
    """Real path of the output folder."""
    options: Mapping[str, Any]

    def barred(self, real: str) -> bool:
        """Whether a real path lies in the output folder, whose content is never input."""
        output = self.output
        return output is not None and (real == output or real.startswith(output + os.sep))

    def refuse_layout(self, source: str) -> None:
        if self.layout not in ("auto", "folder"):
            raise DataError(f"--layout {self.layout} needs a folder: {source} is none")


def find_clips(
    sources: Sequence[str],
    *,
    layout: str = "auto",
    exclude: Path | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Clips:
    """Find what there is to prepare.

    A file that is reached twice, by a link or by two sources, is taken once (its parts once each).
    Clips of one file share a group: the one that a table gives, else the YouTube id of a name such
    as ``Title [id].mp4``, else the key without its suffix.

    Args:
        sources: folders, videos, list files, manifests or globs: paths or URLs.
        layout: a name of ``LAYOUTS``, how folders are read; ``auto`` looks for their signs.
        exclude: the output folder, which is never input even where it lies inside a source.
        storage_options: passed to fsspec for URLs.

    Raises:
        ConfigError: on an unknown layout.
        DataError: in one line, when a source is missing, holds no video or has a faulty table.
        MissingExtraError: when a URL or a Parquet file needs a package that is not installed.
    """
    choose("layout", layout, dict.fromkeys(("auto", *LAYOUTS)))
    if not all(sources) or not sources:
        raise DataError("no source: name a folder, a video, a list, a manifest or a glob")
    output = None if exclude is None else os.path.realpath(exclude)
    asked = _Asked(layout=layout, output=output, options=storage_options or {})
    found = []
    for source in map(os.fspath, sources):
        one = _read(source, asked)
        if not one.items:
            raise DataError(_nothing(source, one))
        found.append(one)
    return _assemble(found)


# --- places on a disk ----------------------------------------------------------------------------


def _read(source: str, asked: _Asked) -> _Found:
    if is_url(source) and not os.path.lexists(source):
        remote = Remote(source, asked.options)
        if remote.local is None:
            return _read_remote(source, remote, asked)
        source = remote.local
    try:
        mode = Path(source).stat().st_mode
    except FileNotFoundError:
        if has_wildcard(source) and not os.path.lexists(source):
            return _read_glob(source, asked)
        raise DataError(f"no such source: {source}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{source} cannot be read: {reason_of(error)}") from None
    path, real = Path(source).absolute(), os.path.realpath(source)
    if asked.barred(real):
        raise DataError(f"{source} lies in the output folder: choose another place for the output")
    if stat.S_ISDIR(mode):
        listing = walk(source, barred=asked.barred)
        return _read_folder(
            source, Path(real).name or "root", listing, asked, lambda name: _bytes(path / name)
        )
    asked.refuse_layout(source)
    if not stat.S_ISREG(mode):
        raise DataError(f"{source} is no regular file: name a video or a folder")
    if suffix_of(path.name) in _LISTS | _MANIFESTS:
        rows = _rows(source, _bytes(path))
        return _read_rows(path.stem, rows, os.fspath(path.parent), None, asked)
    return _Found(base="", items=[_plain(path.name, File(os.fspath(path), real))])


def _plain(name: str, file: File) -> _Item:
    return _Item(name, file, Part(name))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason_of(error)}") from None


def _rows(source: str, data: bytes) -> list[Row]:
    return (read_manifest if suffix_of(source) in _MANIFESTS else read_list)(data, source)


def _read_folder(
    source: str, base: str, listing: Listing, asked: _Asked, read: Callable[[str], bytes]
) -> _Found:
    tree = Tree(
        name=source.rstrip("/") or source,
        videos=sorted(listing.files),
        tables=sorted(listing.tables),
        read=read,
    )
    layout = detect(tree) if asked.layout == "auto" else asked.layout
    reading = LAYOUTS[layout](tree)
    return _Found(
        base=base,
        items=[_Item(part.name, listing.files[part.name], part) for part in reading.parts],
        skipped=[*listing.skipped, *reading.skipped],
        ignored=listing.ignored,
        missing=reading.missing,
        layout=layout,
    )


def _read_rows(
    base: str, rows: Sequence[Row], folder: str, remote: Remote | None, asked: _Asked
) -> _Found:
    """Look for the videos that a list or manifest in ``folder`` names."""
    paths = [row.path if remote else _as_written(row.path, folder) for row in rows]
    items: list[_Item] = []
    skipped: list[tuple[str, str]] = []
    for row, path, name in zip(rows, paths, _names(paths, folder), strict=True):
        if is_url(path):
            file: File | str = File(path, path)
        elif remote is not None:
            url = remote.url(posixpath.normpath(posixpath.join(folder, path)))
            file = File(url, url)
        else:
            file = _local_file(posixpath.join(folder, path), asked)
        if isinstance(file, str):
            skipped.append((name, file))
        else:
            items.append(_Item(name, file, row))
    return _Found(base=base, items=items, skipped=skipped)


def _as_written(path: str, folder: str) -> str:
    # Blanks around a path are part of it only where there is such a file.
    if path != path.strip() and not os.path.lexists(posixpath.join(folder, path)):
        path = path.strip()
    # A local file may be written as a URL.
    return path.removeprefix("file://") if path.startswith("file:///") else path


def _names(paths: Sequence[str], folder: str) -> list[str]:
    """Name the files of a list: below its folder, without ``..``; never by an absolute path."""
    inside = folder.rstrip("/") + "/"
    local = [posixpath.normpath(path) for path in paths if not is_url(path)]
    outside = [path for path in local if path.startswith("/") and not path.startswith(inside)]
    common = posixpath.commonpath([posixpath.dirname(p) for p in outside]) if outside else ""
    names = []
    for path in paths:
        if is_url(path):
            name = path.split("::")[0].partition("://")[2]
        else:
            name = posixpath.normpath(path)
            if name.startswith("/"):
                name = name.removeprefix(inside if name.startswith(inside) else common)
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        names.append("/".join(parts) or "root")
    return names


def _local_file(path: str, asked: _Asked) -> File | str:
    """Return a file that a list names, or why it cannot be used."""
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        return "no such file" if isinstance(error, FileNotFoundError) else reason_of(error)
    if stat.S_ISDIR(mode):
        return "a folder, not a video"
    if not stat.S_ISREG(mode):
        return "no regular file"
    real = os.path.realpath(path)
    return "lies in the output folder" if asked.barred(real) else File(path, real)


def _read_glob(pattern: str, asked: _Asked) -> _Found:
    asked.refuse_layout(pattern)
    base, rest = split_glob(pattern, os.path.isdir)
    base = base or "."
    if not rest or not os.path.isdir(base):
        raise DataError(f"no such folder: {base} (looking for {pattern})")
    match = matcher(rest)
    depth = None if "**" in rest else len(rest)
    listing = walk(base, barred=asked.barred, suffixes=named_suffixes(rest[-1]), depth=depth)
    return _Found(
        base=Path(os.path.realpath(base)).name or "root",
        items=[_plain(name, file) for name, file in listing.files.items() if match(name)],
        skipped=[
            (name, why) for name, why in listing.skipped if match(name) or why.startswith(UNLISTED)
        ],
    )


# --- places behind a URL -------------------------------------------------------------------------


def _read_remote(source: str, remote: Remote, asked: _Asked) -> _Found:
    kind = remote.kind()
    if kind == "file":
        asked.refuse_layout(source)
        if suffix_of(remote.path) in _LISTS | _MANIFESTS:
            rows = _rows(posixpath.basename(remote.path), remote.read(remote.path))
            folder = posixpath.dirname(remote.path)
            return _read_rows(stem_of(remote.path), rows, folder, remote, asked)
        url = remote.url(remote.path)
        return _Found(base="", items=[_plain(posixpath.basename(remote.path), File(url, url))])
    root, suffixes = remote.path.rstrip("/"), VIDEO_SUFFIXES
    if kind is None:
        if not has_wildcard(remote.path):
            raise DataError(f"no such source: {source}")
        asked.refuse_layout(source)
        root, rest = split_glob(remote.path, lambda _: False)
        suffixes = named_suffixes(rest[-1])
    listing = remote.listing(root, suffixes, pattern=kind is None)
    archive = stem_of(source.rpartition("::")[2]) if "::" in source else ""
    base = posixpath.basename(root.rstrip("/")) or archive or "root"
    if kind is None:
        return _Found(base=base, items=[_plain(*pair) for pair in listing.files.items()])
    return _read_folder(
        source, base, listing, asked, lambda name: remote.read(posixpath.join(root, name))
    )


# --- all sources together ------------------------------------------------------------------------


def _assemble(found: Sequence[_Found]) -> Clips:
    """Give every item of every source its key and its group, and take each once."""
    given: dict[str, str] = {}
    for one in found:
        for item in one.items:
            if item.part.group:
                given.setdefault(item.file.real, item.part.group)
    named: dict[str, str] = {}
    seen: set[tuple[str, float, float | None]] = set()
    keys: dict[str, str] = {}
    clips: dict[str, Clip] = {}
    skipped: set[Skipped] = set()
    repeated = 0
    for one, prefix in zip(found, _prefixes(found), strict=True):
        skipped |= {Skipped(prefix + name, why) for name, why in one.skipped}
        for item in sorted(one.items, key=lambda item: (item.file.link, item.name)):
            (path, real, _), part = item.file, item.part
            if (real, part.start_s or 0.0, part.end_s) in seen:
                repeated += 1
                continue
            seen.add((real, part.start_s or 0.0, part.end_s))
            name = _free(prefix + item.name, keys, real)
            keys[name] = real
            key = _free(name + _times(part.start_s, part.end_s), clips, None)
            stem = name[: len(name) - len(name.rpartition("/")[2])] + stem_of(name)
            own = named.setdefault(real, bracketed_id(stem_of(item.name)) or stem)
            clips[key] = Clip(
                path=path,
                key=key,
                group=part.group or given.get(real) or own,
                start_s=part.start_s,
                end_s=part.end_s,
                label=part.label,
                split=part.split,
                licence=part.licence if isinstance(part, Row) else None,
            )
    return Clips(
        clips=tuple(clips[key] for key in sorted(clips)),
        skipped=tuple(sorted(skipped)),
        ignored=sum(one.ignored for one in found),
        repeated=repeated,
        missing=sum(one.missing for one in found),
        layouts=tuple(one.layout for one in found if one.layout is not None),
    )


def _prefixes(found: Sequence[_Found]) -> list[str]:
    """Return what comes before each source's names: nothing where there is but one."""
    owners: dict[str, int] = {}
    prefixes = []
    for number, one in enumerate(found):
        prefix = ""
        if len(found) > 1 and one.base:
            base = _free(one.base, owners, number)
            owners[base] = number
            prefix = base + "/"
        prefixes.append(prefix)
    return prefixes


def _free(name: str, owners: Mapping[str, object], owner: object) -> str:
    """Return the name, with -2, -3 ... before its suffix while another than ``owner`` has it."""
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.rpartition(".")
    if not stem:
        stem, dot, suffix = last, "", ""
    number = 1
    while owners.get(name, owner) != owner:
        number += 1
        name = f"{folder}{slash}{stem}-{number}{dot}{suffix}"
    return name


def _times(start_s: float | None, end_s: float | None) -> str:
    if start_s is None and end_s is None:
        return ""
    start, end = ("" if s is None else repr(float(s)).removesuffix(".0") for s in (start_s, end_s))
    return f"#{start}-{end}"


def _nothing(source: str, found: _Found) -> str:
    if found.layout not in (None, "folder"):
        return (
            f"no video of the layout {found.layout} in {source} "
            f"({found.missing} rows without a video, {len(found.skipped)} files passed over)"
        )
    if found.skipped:
        name, why = found.skipped[0]
        return f"no video in {source}: {name!r}: {why}"
    if found.layout is None:
        return f"no video in {source}: nothing matches, or nothing is named"
    names = ", ".join(f".{suffix}" for suffix in sorted(VIDEO_SUFFIXES))
    return f"no video in {source}: {found.ignored} files, none ends in {names}"
