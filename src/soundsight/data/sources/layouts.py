"""The layouts that video datasets come in: a tree of files and its tables -> parts of videos.

A layout sees a folder as a :class:`Tree` (names only) and opens nothing but tables, so that it
reads a bucket like a disk. What each one expects is told, with the trees, in ``docs/layouts.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from soundsight.core.errors import DataError
from soundsight.data.sources.tables import BOM, csv_rows, seconds, text_of

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
"""What datasets call a split -> what it is called here."""

_ID = r"[A-Za-z0-9_-]{11}"
_IN_BRACKETS = re.compile(rf".* \[({_ID})\]", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]?[a-z]+|[A-Z]+|[0-9]+")
_TIMED = re.compile(rf"({_ID})_[0-9]{{6}}(?:_[0-9]{{6}})?")
_VGGSOUND = re.compile(rf"({_ID})_([0-9]+)(?:_([0-9]+))?")
_AUDIOSET = re.compile(rf"(Y?)({_ID})(?:_([0-9]+(?:\.[0-9]+)?)(?:_([0-9]+(?:\.[0-9]+)?))?)?")
_VEGAS = re.compile(r"video_([0-9]+)")
_VEGAS_CLASSES = frozenset(
    [
        *("baby_cry", "chainsaw", "dog", "drum", "fireworks"),
        *("helicopter", "printer", "rail_transport", "snoring", "water_flowing"),
    ]
)
_AUDIOSET_NAMES = "class_labels_indices.csv"
_AVE_COLUMNS = ["Category", "VideoID", "Quality", "StartTime", "EndTime"]
_AVE_SPLITS = {"trainSet.txt": "train", "valSet.txt": "val", "testSet.txt": "test"}


class Part(NamedTuple):
    """A video below a root, or a part of it, with what its dataset says of it.

    ``name`` is relative to the root, with ``/``; ``group`` is None where the layout knows none;
    times are seconds of the file; ``split`` is ``train``, ``val``, ``test`` or None.
    """

    name: str
    group: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A folder as a layout sees it; all names are relative to it, with ``/``.

    Attributes:
        name: what errors call it.
        videos: every file that has a video's suffix.
        tables: every ``.csv`` and ``.txt`` file.
        read: returns the content of a table.
    """

    name: str
    videos: Sequence[str]
    tables: Sequence[str]
    read: Callable[[str], bytes]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a layout makes of a tree.

    Attributes:
        parts: what to cut.
        skipped: (file, why): videos that the tables do not know, rows that cannot be used.
        missing: number of rows whose video is not there.
    """

    parts: list[Part] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    missing: int = 0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout by name.

    Attributes:
        summary: one line for people.
        shows: whether a tree bears this layout's unmistakable sign.
        read: turns a tree into parts; raises ``DataError`` on a missing or foreign table.
    """

    summary: str
    shows: Callable[[Tree], bool]
    read: Callable[[Tree], Reading]


def detect(tree: Tree) -> str:
    """Return the name of the layout whose sign the tree bears, else ``folder``.

    Raises:
        DataError: when it bears the signs of several.
    """
    names = [name for name, layout in LAYOUTS.items() if layout.shows(tree)]
    if len(names) > 1:
        raise DataError(
            f"{tree.name} has the tables of {' and '.join(names)}: "
            "choose one with --layout, or name their folders one by one"
        )
    return names[0] if names else "folder"


def bracketed_id(stem: str) -> str | None:
    """Return the YouTube id of a name as yt-dlp writes it, ``Title [id]``, or None.

    An ordinary word or number of eleven characters, as in ``Rain [documentary]``, is no id.
    """
    match = _IN_BRACKETS.fullmatch(stem)
    if match is None or _WORD.fullmatch(match[1]):
        return None
    return match[1]


def stem_of(name: str) -> str:
    """Return the last component of a name without its suffix."""
    last = name.rpartition("/")[2]
    return last.rpartition(".")[0] or last


def _read_folder(tree: Tree) -> Reading:
    return Reading(parts=[Part(name) for name in tree.videos])


def _read_classes(tree: Tree) -> Reading:
    reading = Reading()
    # Without class folders in it, a folder named train is a class: trains are filmed, too.
    tops = (name.split("/") for name in tree.videos)
    is_split = any(len(top) > 2 and top[0].lower() in SPLIT_NAMES for top in tops)
    for name in tree.videos:
        *folders, _ = name.split("/")
        split = SPLIT_NAMES.get(folders[0].lower()) if folders and is_split else None
        if not folders:
            reading.skipped.append((name, "in no class folder"))
            continue
        labels = folders[1:] if split else folders
        stem = stem_of(name)
        match = _TIMED.fullmatch(stem)
        group = match[1] if match else bracketed_id(stem) or stem
        label = labels[0] if labels else None
        reading.parts.append(Part(name, group=group, label=label, split=split))
    return reading


def _vegas_folder(name: str) -> str | None:
    """Return the class folder of ``CLASS/videos/video_00000.mp4`` or ``CLASS/video_00000.mp4``."""
    folder = name.rpartition("/")[0]
    if folder.rpartition("/")[2] == "videos":
        folder = folder.rpartition("/")[0]
    return folder or None


def _shows_vegas(tree: Tree) -> bool:
    for name in tree.videos:
        parts = name.split("/")
        if (
            len(parts) == 3
            and parts[0] in _VEGAS_CLASSES
            and parts[1] == "videos"
            and _VEGAS.fullmatch(stem_of(name))
        ):
            return True
    return False


def _read_vegas(tree: Tree) -> Reading:
    reading = Reading()
    tables = set(tree.tables)
    ids: dict[str, list[str]] = {}
    for name in tree.videos:
        folder = _vegas_folder(name)
        number = _VEGAS.fullmatch(stem_of(name))
        if folder is None or number is None:
            reading.skipped.append((name, "not named CLASS/videos/video_NUMBER"))
            continue
        if folder not in ids:
            table = f"{folder}/video_info.csv"
            ids[folder] = _vegas_ids(tree, table) if table in tables else []
        known = ids[folder]
        place = int(number[1])
        group = known[place] if place < len(known) else None
        reading.parts.append(Part(name, group=group or None, label=folder.rpartition("/")[2]))
    return reading


def _vegas_ids(tree: Tree, table: str) -> list[str]:
    """Return the YouTube ids of a class: row n of its table tells of ``video_n``, from 0."""
    shown = f"{tree.name}/{table}"
    rows = list(csv_rows(text_of(tree.read(table), shown), shown))
    header = [column.strip().upper() for column in rows[0][1]] if rows else []
    if "YTID" not in header:
        raise DataError(f"{shown}, line 1: no column YTID: this is not VEGAS's video_info.csv")
    column = header.index("YTID")
    ids = []
    for line, row in rows[1:]:
        if len(row) <= column:
            raise DataError(
                f"{shown}, line {line}: {len(header)} fields expected, {len(row)} found"
            )
        ids.append(row[column].strip())
    return ids


def _read_vggsound(tree: Tree) -> Reading:
    table = _table(tree, "vggsound.csv")
    shown = f"{tree.name}/{table}"
    rows: dict[tuple[str, int], tuple[str, str]] = {}
    lines: dict[tuple[str, int], int] = {}
    for line, row in csv_rows(text_of(tree.read(table), shown), shown):
        where = f"{shown}, line {line}"
        if len(row) != 4:
            raise DataError(
                f"{where}: 4 fields expected (YouTube id, start in s, label, split), "
                f"{len(row)} found"
            )
        video, start, label, split = (text.strip() for text in row)
        _check_id(video, where)
        if split not in SPLIT_NAMES:
            raise DataError(f"{where}: unknown split {split!r}; train, val or test is expected")
        key = (video, int(seconds(start, where, "start")))
        if key in rows:
            raise DataError(f"{where}: repeats line {lines[key]}")
        rows[key], lines[key] = (label, SPLIT_NAMES[split]), line
    reading = Reading()
    used = set()
    for name in tree.videos:
        match = _VGGSOUND.fullmatch(stem_of(name))
        if match is None:
            reading.skipped.append((name, "not named ID_START"))
            continue
        # With a second number the two are start and end in milliseconds.
        key = (match[1], int(match[2]) // (1000 if match[3] else 1))
        if key not in rows:
            reading.skipped.append((name, f"no row in {table}"))
            continue
        used.add(key)
        label, split = rows[key]
        reading.parts.append(Part(name, group=match[1], label=label, split=split))
    return Reading(parts=reading.parts, skipped=reading.skipped, missing=len(rows) - len(used))


class _AveRow(NamedTuple):
    label: str
    video: str
    start_s: float
    end_s: float


def _ave_rows(tree: Tree, table: str, *, header: bool) -> Iterator[tuple[int, _AveRow]]:
    shown = f"{tree.name}/{table}"
    lines = text_of(tree.read(table), shown).split("\n")
    for line, text in enumerate(lines, start=1):
        row = [cell.strip() for cell in text.split("&")]
        where = f"{shown}, line {line}"
        if header and line == 1:
            if row != _AVE_COLUMNS:
                raise DataError(f"{where}: the header must be {'&'.join(_AVE_COLUMNS)}")
            continue
        if row == [""] or (line == 1 and row == _AVE_COLUMNS):
            continue
        if len(row) != len(_AVE_COLUMNS):
            raise DataError(f"{where}: 5 fields between & expected, {len(row)} found")
        label, video, _, start, end = row
        yield (
            line,
            _AveRow(
                label, video, seconds(start, where, "StartTime"), seconds(end, where, "EndTime")
            ),
        )


def _shows_ave(tree: Tree) -> bool:
    return "Annotations.txt" in tree.tables and tree.read("Annotations.txt").removeprefix(
        b"\xef\xbb\xbf"
    ).startswith("&".join(_AVE_COLUMNS).encode())


def _read_ave(tree: Tree) -> Reading:
    table = _table(tree, "Annotations.txt")
    folder = table.rpartition("/")[0]
    splits: dict[_AveRow, str] = {}
    for name, split in _AVE_SPLITS.items():
        beside = f"{folder}/{name}" if folder else name
        if beside in tree.tables:
            splits |= {row: split for _, row in _ave_rows(tree, beside, header=False)}
    videos: dict[str, list[str]] = {}
    for name in tree.videos:
        videos.setdefault(stem_of(name), []).append(name)
    reading = Reading()
    known: set[str] = set()
    missing = 0
    for line, row in _ave_rows(tree, table, header=True):
        files = videos.get(row.video, [])
        known.add(row.video)
        missing += not files
        for name in files:
            if row.end_s <= row.start_s:
                reading.skipped.append((name, f"{table}, line {line}: the event lasts no time"))
                continue
            reading.parts.append(
                Part(
                    name,
                    group=row.video,
                    start_s=row.start_s,
                    end_s=row.end_s,
                    label=row.label,
                    split=splits.get(row),
                )
            )
    reading.skipped.extend(
        (name, f"no row in {table}")
        for video, names in videos.items()
        if video not in known
        for name in names
    )
    return Reading(parts=reading.parts, skipped=reading.skipped, missing=missing)


class _AudioSetRow(NamedTuple):
    start_s: float
    end_s: float
    label: str | None
    split: str | None


def _audioset_rows(tree: Tree) -> dict[str, list[_AudioSetRow]]:
    names = _display_names(tree)
    rows: dict[str, list[_AudioSetRow]] = {}
    found = False
    for table in sorted(tree.tables):
        name = table.rpartition("/")[2].lower()
        if not name.endswith(".csv") or name == _AUDIOSET_NAMES:
            continue
        data = tree.read(table)
        if not data.removeprefix(BOM).startswith(b"#"):
            continue
        found = True
        shown = f"{tree.name}/{table}"
        split = "train" if "train" in name else "test" if "eval" in name else None
        for line, row in csv_rows(text_of(data, shown), shown, comments=True):
            where = f"{shown}, line {line}"
            if len(row) != 4:
                raise DataError(
                    f'{where}: 4 fields expected (YTID, start, end, "labels"), {len(row)} found'
                )
            video, start, end, labels = (text.strip() for text in row)
            _check_id(video, where)
            start_s = seconds(start, where, "start_seconds")
            end_s = seconds(end, where, "end_seconds")
            if end_s <= start_s:
                raise DataError(f"{where}: end_seconds must be greater than start_seconds")
            first = labels.split(",")[0].strip()
            label = names.get(first, first) or None
            rows.setdefault(video, []).append(_AudioSetRow(start_s, end_s, label, split))
    if not found:
        raise DataError(
            f"{tree.name} has no segments csv (one that starts with # comments): "
            "put AudioSet's csv into it"
        )
    return rows


def _display_names(tree: Tree) -> dict[str, str]:
    """Return MID -> name for people, where AudioSet's table of them lies in the tree."""
    found = [table for table in tree.tables if table.rpartition("/")[2] == _AUDIOSET_NAMES]
    names = {}
    for table in found[:1]:
        shown = f"{tree.name}/{table}"
        for line, row in csv_rows(text_of(tree.read(table), shown), shown):
            if len(row) != 3:
                raise DataError(f"{shown}, line {line}: index,mid,display_name expected")
            names[row[1]] = row[2]
    return names


def _read_audioset(tree: Tree) -> Reading:
    rows = _audioset_rows(tree)
    reading = Reading()
    used = set()
    for name in tree.videos:
        match = _AUDIOSET.fullmatch(stem_of(name))
        if match is None:
            reading.skipped.append((name, "not named ID, YID, ID_START or ID_START_END"))
            continue
        cut, video, start, end = match.groups()
        whole = not cut and start is None
        found = rows.get(video, [])
        if start is not None:
            found = [row for row in found if _fits(row, start, end)]
        if not found:
            reading.skipped.append((name, "no row in the segments csv"))
        for row in found if whole else found[:1]:
            used.add((video, row.start_s))
            reading.parts.append(
                Part(
                    name,
                    group=video,
                    start_s=row.start_s if whole else None,
                    end_s=row.end_s if whole else None,
                    label=row.label,
                    split=row.split,
                )
            )
    segments = {(video, row.start_s) for video, found in rows.items() for row in found}
    return Reading(parts=reading.parts, skipped=reading.skipped, missing=len(segments - used))


def _fits(row: _AudioSetRow, start: str, end: str | None) -> bool:
    """Whether a clip's name tells of this row, in seconds (rounded or not) or milliseconds."""
    return any(
        abs(float(start) / scale - row.start_s) < 1
        and (end is None or abs(float(end) / scale - row.end_s) < 1)
        for scale in (1, 1000)
    )


def _check_id(video: str, where: str) -> None:
    if not re.fullmatch(_ID, video):
        raise DataError(f"{where}: {video[:40]!r} is no YouTube id: this is a foreign csv")


def _table(tree: Tree, name: str) -> str:
    """Find a table by its name, the nearest to the root."""
    found = [table for table in tree.tables if table.rpartition("/")[2] == name]
    if not found:
        raise DataError(f"{tree.name} has no {name}: put it there, or choose another --layout")
    depth = min(table.count("/") for table in found)
    nearest = sorted(table for table in found if table.count("/") == depth)
    if len(nearest) > 1:
        raise DataError(f"{tree.name} has {nearest[0]} and {nearest[1]}: keep one")
    return nearest[0]


def _never(_: Tree) -> bool:
    return False


LAYOUTS = {
    "folder": Layout(
        summary="a folder of videos, no labels",
        shows=_never,
        read=_read_folder,
    ),
    "classes": Layout(
        summary="[SPLIT/]CLASS/VIDEO, as Kinetics-Sounds is kept",
        shows=_never,
        read=_read_classes,
    ),
    "vegas": Layout(
        summary="CLASS/videos/video_00000.mp4 and CLASS/video_info.csv",
        shows=_shows_vegas,
        read=_read_vegas,
    ),
    "vggsound": Layout(
        summary="vggsound.csv and clips named ID_START",
        shows=lambda tree: "vggsound.csv" in tree.tables,
        read=_read_vggsound,
    ),
    "ave": Layout(
        summary="Annotations.txt, trainSet.txt, valSet.txt, testSet.txt and AVE/ID.mp4",
        shows=_shows_ave,
        read=_read_ave,
    ),
    "audioset": Layout(
        summary="AudioSet's segments csv and clips named by their id",
        shows=lambda tree: any(
            re.fullmatch(r"(eval|(un)?balanced_train)_segments\.csv", table)
            for table in tree.tables
        ),
        read=_read_audioset,
    ),
}
"""Every layout by its name, for ``--layout``."""
