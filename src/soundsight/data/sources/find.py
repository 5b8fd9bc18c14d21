"""What a user names as SOURCE -> the clips to prepare, in a stable order under stable keys.

A source is a folder, a video, a list file, a CSV or Parquet manifest or a glob, on a disk or on any
file system that fsspec opens. Nothing is decoded here, and no video is opened: a folder of 200,000
files costs its listing.
"""

from __future__ import annotations

import itertools
import os
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soundsight.core.config import choose
from soundsight.core.errors import DataError
from soundsight.data.records import Clip
from soundsight.data.sources.layouts import LAYOUTS, bracketed_id, detect, stem_of
from soundsight.data.sources.listing import (
    VIDEO_SUFFIXES,
    Disk,
    File,
    Listing,
    Remote,
    has_wildcard,
    is_url,
    suffix_of,
)
from soundsight.data.sources.tables import Row, read_list, read_manifest

_LISTS = frozenset(["txt", "lst"])
_MANIFESTS = frozenset(["csv", "parquet", "pq"])


@dataclass(frozen=True, kw_only=True)
class Clips:
    """What the sources hold."""

    clips: tuple[Clip, ...]  #: sorted by key
    #: (name like a clip's key, why) of what was meant as a video and is none, sorted
    skipped: tuple[tuple[str, str], ...]
    ignored: int  #: number of files in folders that are of other kinds
    repeated: int  #: how often a file, or the same part of one, was met again
    missing: int  #: number of rows in a dataset's own table whose video is not there
    layouts: tuple[str, ...]  #: of each folder among the sources, in their order


def find_clips(
    sources: Sequence[str], *, layout: str = "auto", exclude: Path | None = None
) -> Clips:
    """Find what there is to prepare.

    A file that is reached twice, by a link or by two sources, is taken once (its parts once each).
    Clips of one file share a group: the one that a table gives, else the YouTube id of a name such
    as ``Title [id].mp4``, else the key without its suffix.

    Args:
        sources: folders, videos, list files, manifests or globs: paths or URLs.
        layout: a name of ``LAYOUTS``, how folders are read; ``auto`` looks for their signs.
        exclude: the output folder, which is never input even where it lies inside a source.
    """
    choose("layout", layout, dict.fromkeys(("auto", *LAYOUTS)))
    if not all(sources) or not sources:
        raise DataError("no source: name a folder, a video, a list, a manifest or a glob")
    output = None if exclude is None else os.path.realpath(exclude)

    def barred(real: str) -> bool:
        return output is not None and (real == output or real.startswith(output + os.sep))

    found = []
    for source in sources:
        found.append(_read(source, layout, barred))
        if not found[-1].items:
            raise DataError(_nothing(source, found[-1]))
    return _assemble(found)


def _read(source: str, layout: str, barred: Callable[[str], bool]) -> Listing:
    there = os.path.lexists(source)
    if source.startswith("file://") and not there:
        source = source.removeprefix("file://")
    place = Remote(source) if is_url(source) and not there else Disk(source, barred)
    kind = place.kind()
    if kind is None and not has_wildcard(place.path):
        raise DataError(f"no such source: {source}")
    if kind != "directory" and layout not in ("auto", "folder"):
        raise DataError(f"--layout {layout} needs a folder: {source} is none")
    if kind != "file":
        found = place.listing(glob=kind is None)
        rows: Iterable[Row] = map(Row, found.files)
        if kind is None:
            found.ignored = 0
        else:
            found.name = source.rstrip("/") or source
            found.read = lambda name: place.read(posixpath.join(place.path, name))
            found.layout = detect(found) if layout == "auto" else layout
            rows = LAYOUTS[found.layout](found)
        found.items += [(row.path, found.files[row.path], row) for row in rows]
        return found
    name = posixpath.basename(place.path)
    if suffix_of(name) in _LISTS | _MANIFESTS:
        return _read_rows(place)
    file = place.file(place.path)
    assert isinstance(file, File)
    return Listing(items=[(name, file, Row(name))])


def _read_rows(place: Disk | Remote) -> Listing:
    """Look for the videos that a list or manifest names."""
    local, folder = isinstance(place, Disk), posixpath.dirname(place.path)
    read = read_manifest if suffix_of(place.path) in _MANIFESTS else read_list
    rows = read(place.read(place.path), place.source if local else posixpath.basename(place.path))
    paths = [_as_written(row.path, folder) if local else row.path for row in rows]
    found = Listing(base=stem_of(place.path))
    for row, path, name in zip(rows, paths, _names(paths, folder), strict=True):
        whole = posixpath.join(folder, path)
        file = place.file(whole if local else posixpath.normpath(whole))
        if is_url(path):
            file = File(path, path)
        if isinstance(file, str):
            found.skipped.append((name, file))
        else:
            found.items.append((name, file, row))
    return found


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


# --- all sources together ------------------------------------------------------------------------


def _assemble(found: Sequence[Listing]) -> Clips:
    """Give every item of every source its key and its group, and take each once."""
    given: dict[str, str] = {}
    for _, file, row in itertools.chain.from_iterable(one.items for one in found):
        if row.group:
            given.setdefault(file.real, row.group)
    named: dict[str, str] = {}
    seen: set[tuple[str, float, float | None]] = set()
    keys: dict[str, str] = {}
    clips: dict[str, Clip] = {}
    skipped: set[tuple[str, str]] = set()
    owners: dict[str, int] = {}
    for number, one in enumerate(found):
        prefix = ""
        if len(found) > 1 and one.base:
            base = _free(one.base, owners, number)
            owners[base] = number
            prefix = f"{base}/"
        skipped |= {(prefix + name, why) for name, why in one.skipped}
        items = sorted(one.items, key=lambda item: (item[1].link, item[0]))
        for own, (path, real, _), row in items:
            part = (real, row.start_s or 0.0, row.end_s)
            if part in seen:
                continue
            seen.add(part)
            name = _free(prefix + own, keys, real)
            keys[name] = real
            key = _free(name + _times(row.start_s, row.end_s), clips, None)
            stem = posixpath.join(posixpath.dirname(name), stem_of(name))
            stem = named.setdefault(real, bracketed_id(stem_of(own)) or stem)
            group = row.group or given.get(real) or stem
            clips[key] = Clip(**{**row._asdict(), "path": path, "key": key, "group": group})
    return Clips(
        clips=tuple(clips[key] for key in sorted(clips)),
        skipped=tuple(sorted(skipped)),
        ignored=sum(one.ignored for one in found),
        repeated=sum(len(one.items) for one in found) - len(clips),
        missing=sum(one.missing for one in found),
        layouts=tuple(one.layout for one in found if one.layout is not None),
    )


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


def _nothing(source: str, found: Listing) -> str:
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
