"""The layouts that video datasets come in: a tree of files and its tables -> parts of videos.

A layout sees a folder as a :class:`Tree` (names only) and opens nothing but tables, so that it
reads a bucket like a disk. ``docs/layouts.md`` says, with the trees, what each one expects.
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
_VEGAS_CLASSES = (
    "baby_cry|chainsaw|dog|drum|fireworks|helicopter|printer|rail_transport|snoring|water_flowing"
)
_VEGAS_SIGN = re.compile(rf"({_VEGAS_CLASSES})/videos/video_[0-9]+\.[^./]+")
_AUDIOSET_SIGN = re.compile(r"(eval|(un)?balanced_train)_segments\.csv")
_AUDIOSET_NAMES = "class_labels_indices.csv"
_AVE_HEADER = "Category&VideoID&Quality&StartTime&EndTime"
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

    def rows(
        self, table: str, *, comments: bool = False, fields: str = ""
    ) -> Iterator[tuple[str, list[str]]]:
        """Yield (where, fields without blanks around them) of a table; see ``csv_rows``."""
        shown = f"{self.name}/{table}"
        text = text_of(self.read(table), shown)
        for line, row in csv_rows(text, shown, comments=comments, fields=fields):
            yield f"{shown}, line {line}", [cell.strip() for cell in row]


@dataclass(kw_only=True)
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


def detect(tree: Tree) -> str:
    """Return the name of the layout whose sign the tree bears, else ``folder``."""
    names = [name for name, shows in _SIGNS.items() if shows(tree)]
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
    return match[1] if match and not _WORD.fullmatch(match[1]) else None


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
        if not folders:
            reading.skipped.append((name, "in no class folder"))
            continue
        split = SPLIT_NAMES.get(folders[0].lower()) if is_split else None
        labels = folders[1:] if split else folders
        stem = stem_of(name)
        match = _TIMED.fullmatch(stem)
        group = match[1] if match else bracketed_id(stem) or stem
        reading.parts.append(
            Part(name, group=group, label=labels[0] if labels else None, split=split)
        )
    return reading


def _read_vegas(tree: Tree) -> Reading:
    """Read ``CLASS/videos/video_00000.mp4`` or ``CLASS/video_00000.mp4``."""
    reading = Reading()
    ids: dict[str, list[str]] = {}
    for name in tree.videos:
        folder = name.rpartition("/")[0]
        if folder.rpartition("/")[2] == "videos":
            folder = folder.rpartition("/")[0]
        number = _VEGAS.fullmatch(stem_of(name))
        if not folder or number is None:
            reading.skipped.append((name, "not named CLASS/videos/video_NUMBER"))
            continue
        if folder not in ids:
            table = f"{folder}/video_info.csv"
            ids[folder] = _vegas_ids(tree, table) if table in tree.tables else []
        known, place = ids[folder], int(number[1])
        group = known[place] if place < len(known) else None
        reading.parts.append(Part(name, group=group or None, label=folder.rpartition("/")[2]))
    return reading


def _vegas_ids(tree: Tree, table: str) -> list[str]:
    """Return the YouTube ids of a class: row n of its table is of ``video_n``, from 0."""
    (_, header), *rows = list(tree.rows(table)) or [("", [])]
    names = [column.upper() for column in header]
    if "YTID" not in names:
        raise DataError(
            f"{tree.name}/{table}, line 1: no column YTID: this is not VEGAS's video_info.csv"
        )
    for where, row in rows:
        if len(row) <= names.index("YTID"):
            raise DataError(f"{where}: {len(names)} fields expected, {len(row)} found")
    return [row[names.index("YTID")] for _, row in rows]


def _read_vggsound(tree: Tree) -> Reading:
    table = _table(tree, "vggsound.csv")
    rows: dict[tuple[str, int], tuple[str, str]] = {}
    places: dict[tuple[str, int], str] = {}
    for where, row in tree.rows(table, fields="YouTube id, start in s, label, split"):
        video, start, label, split = row
        _check_id(video, where)
        if split not in SPLIT_NAMES:
            raise DataError(f"{where}: unknown split {split!r}; train, val or test is expected")
        key = (video, int(seconds(start, where, "start")))
        if key in rows:
            raise DataError(f"{where}: repeats {places[key].rpartition(', ')[2]}")
        rows[key], places[key] = (label, SPLIT_NAMES[split]), where
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
        sound, part = rows[key]
        reading.parts.append(Part(name, group=match[1], label=sound, split=part))
    reading.missing = len(rows) - len(used)
    return reading


class _Event(NamedTuple):
    """A row of AVE or AudioSet: the part of a video in which something sounds."""

    video: str
    start_s: float
    end_s: float
    label: str | None
    split: str | None = None


def _ave_rows(tree: Tree, table: str) -> Iterator[tuple[str, _Event]]:
    lines = text_of(tree.read(table), f"{tree.name}/{table}").split("\n")
    for line, text in enumerate(lines, start=1):
        row = [cell.strip() for cell in text.split("&")]
        where = f"{tree.name}/{table}, line {line}"
        is_header = line == 1 and row == _AVE_HEADER.split("&")
        if line == 1 and table.endswith("Annotations.txt") and not is_header:
            raise DataError(f"{where}: the header must be {_AVE_HEADER}")
        if is_header or row == [""]:
            continue
        if len(row) != 5:
            raise DataError(f"{where}: 5 fields between & expected, {len(row)} found")
        label, video, _, start, end = row
        start_s, end_s = seconds(start, where, "StartTime"), seconds(end, where, "EndTime")
        yield f"{table}, line {line}", _Event(video, start_s, end_s, label)


def _read_ave(tree: Tree) -> Reading:
    table = _table(tree, "Annotations.txt")
    folder = table.removesuffix("Annotations.txt")
    splits: dict[_Event, str] = {}
    for name, split in _AVE_SPLITS.items():
        if folder + name in tree.tables:
            splits |= {event: split for _, event in _ave_rows(tree, folder + name)}
    videos: dict[str, list[str]] = {}
    for name in tree.videos:
        videos.setdefault(stem_of(name), []).append(name)
    reading = Reading()
    known: set[str] = set()
    for where, event in _ave_rows(tree, table):
        files = videos.get(event.video, [])
        known.add(event.video)
        reading.missing += not files
        if event.end_s <= event.start_s:
            reading.skipped += [(name, f"{where}: the event lasts no time") for name in files]
        else:
            event = event._replace(split=splits.get(event))
            reading.parts += [Part(name, *event) for name in files]
    for video in videos.keys() - known:
        reading.skipped += [(name, f"no row in {table}") for name in videos[video]]
    return reading


def _audioset_rows(tree: Tree) -> dict[str, list[_Event]]:
    names: dict[str, str] = {}
    rows: dict[str, list[_Event]] = {}
    tables = {table: table.rpartition("/")[2].lower() for table in sorted(tree.tables)}
    for table in [table for table, name in tables.items() if name == _AUDIOSET_NAMES][:1]:
        for where, row in tree.rows(table):
            if len(row) != 3:
                raise DataError(f"{where}: index,mid,display_name expected")
            names[row[1]] = row[2]
    segments = [
        table
        for table, name in tables.items()
        if name.endswith(".csv") and name != _AUDIOSET_NAMES
        and tree.read(table).removeprefix(BOM).startswith(b"#")
    ]  # fmt: skip
    if not segments:
        raise DataError(
            f"{tree.name} has no segments csv (one that starts with # comments): "
            "put AudioSet's csv into it"
        )
    for table in segments:
        name = tables[table]
        split = "train" if "train" in name else "test" if "eval" in name else None
        for where, row in tree.rows(table, comments=True, fields="YTID,start,end,labels"):
            video, start, end, labels = row
            _check_id(video, where)
            start_s = seconds(start, where, "start_seconds")
            end_s = seconds(end, where, "end_seconds")
            if end_s <= start_s:
                raise DataError(f"{where}: end_seconds must be greater than start_seconds")
            first = labels.split(",")[0].strip()
            event = _Event(video, start_s, end_s, names.get(first, first) or None, split)
            rows.setdefault(video, []).append(event)
    return rows


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
            part = Part(name, *row)
            reading.parts.append(part if whole else part._replace(start_s=None, end_s=None))
    reading.missing = len({event[:2] for found in rows.values() for event in found} - used)
    return reading


def _fits(row: _Event, start: str, end: str | None) -> bool:
    """Whether a clip's name means this row, in seconds (rounded or not) or milliseconds."""
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


LAYOUTS: dict[str, Callable[[Tree], Reading]] = {
    "folder": _read_folder,
    "classes": _read_classes,
    "vegas": _read_vegas,
    "vggsound": _read_vggsound,
    "ave": _read_ave,
    "audioset": _read_audioset,
}
"""Every layout by its name, for ``--layout``: what turns a tree into parts."""

_SIGNS: dict[str, Callable[[Tree], bool]] = {
    "vegas": lambda tree: any(map(_VEGAS_SIGN.fullmatch, tree.videos)),
    "vggsound": lambda tree: "vggsound.csv" in tree.tables,
    "ave": lambda tree: (
        "Annotations.txt" in tree.tables
        and tree.read("Annotations.txt").removeprefix(BOM).startswith(_AVE_HEADER.encode())
    ),
    "audioset": lambda tree: any(map(_AUDIOSET_SIGN.fullmatch, tree.tables)),
}
"""By what each layout is known without being named."""
