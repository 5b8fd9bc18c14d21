"""The layouts that video datasets come in: a tree of files and its tables -> parts of videos.

A layout sees names and opens nothing but tables, so that it reads a bucket like a disk.
``docs/layouts.md`` says, with the trees, what each one expects.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from soundsight.core.errors import DataError
from soundsight.data.sources.listing import Listing
from soundsight.data.sources.tables import BOM, Row, csv_rows, place_of, seconds, text_of

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
_VEGAS_CLASSES = (
    "baby_cry|chainsaw|dog|drum|fireworks|helicopter|printer|rail_transport|snoring|water_flowing"
)
_VEGAS_SIGN = re.compile(rf"({_VEGAS_CLASSES})/videos/video_[0-9]+\.[^./]+")
_AUDIOSET_SIGN = re.compile(r"(eval|(un)?balanced_train)_segments\.csv")
_AUDIOSET_NAMES = "class_labels_indices.csv"
_AVE_HEADER = "Category&VideoID&Quality&StartTime&EndTime"
_AVE_SPLITS = {"trainSet.txt": "train", "valSet.txt": "val", "testSet.txt": "test"}


def detect(tree: Listing) -> str:
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


# --- what folders and names tell ---------------------------------------------------------------


def _rows(tree: Listing, table: str, **how: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield (where, fields without blanks around them) of a table; see ``csv_rows``."""
    shown = f"{tree.name}/{table}"
    for where, row in csv_rows(text_of(tree.read(table), shown), shown, **how):
        yield where, [cell.strip() for cell in row]


def _table(tree: Listing, name: str) -> str:
    """Find a table by its name, the nearest to the root."""
    found = [table for table in tree.tables if table.rpartition("/")[2] == name]
    if not found:
        raise DataError(f"{tree.name} has no {name}: put it there, or choose another --layout")
    first, *others = sorted(found, key=lambda table: (table.count("/"), table))
    if others and others[0].count("/") == first.count("/"):
        raise DataError(f"{tree.name} has {first} and {others[0]}: keep one")
    return first


def _read_classes(tree: Listing) -> Iterator[Row]:
    # Without class folders in it, a folder named train is a class: trains are filmed, too.
    tops = (name.split("/") for name in tree.files)
    is_split = any(len(top) > 2 and top[0].lower() in SPLIT_NAMES for top in tops)
    for name in sorted(tree.files):
        *folders, _ = name.split("/")
        if not folders:
            tree.skipped.append((name, "in no class folder"))
            continue
        split = SPLIT_NAMES.get(folders[0].lower()) if is_split else None
        labels = folders[1:] if split else folders
        stem = stem_of(name)
        match = _TIMED.fullmatch(stem)
        group = match[1] if match else bracketed_id(stem) or stem
        yield Row(name, group=group, label=labels[0] if labels else None, split=split)


def _read_vegas(tree: Listing) -> Iterator[Row]:
    """Read ``CLASS/videos/video_00000.mp4`` or ``CLASS/video_00000.mp4``."""
    ids: dict[str, list[str]] = {}
    for name in sorted(tree.files):
        folder = name.rpartition("/")[0].removesuffix("/videos")
        number = re.fullmatch(r"video_([0-9]+)", stem_of(name))
        if folder in ("", "videos") or number is None:
            tree.skipped.append((name, "not named CLASS/videos/video_NUMBER"))
            continue
        if folder not in ids:
            table = f"{folder}/video_info.csv"
            ids[folder] = _vegas_ids(tree, table) if table in tree.tables else []
        known, place = ids[folder], int(number[1])
        group = known[place] if place < len(known) else None
        yield Row(name, group=group or None, label=folder.rpartition("/")[2])


def _vegas_ids(tree: Listing, table: str) -> list[str]:
    """Return the YouTube ids of a class: row n of its table is of ``video_n``, from 0."""
    (_, header), *rows = list(_rows(tree, table)) or [("", [])]
    names = [column.upper() for column in header]
    if "YTID" not in names:
        raise DataError(
            f"{tree.name}/{table}, line 1: no column YTID: this is not VEGAS's video_info.csv"
        )
    for where, row in rows:
        if len(row) <= names.index("YTID"):
            raise DataError(f"{where}: {len(names)} fields expected, {len(row)} found")
    return [row[names.index("YTID")] for _, row in rows]


# --- what tables tell --------------------------------------------------------------------------


class _Event(NamedTuple):
    """A row of a dataset's table: the part of a video in which something sounds."""

    video: str
    start_s: float
    end_s: float | None
    label: str | None
    split: str | None
    where: str


class _Events(NamedTuple):
    """How a dataset with a table of events is read.

    ``rows`` returns what its table is called, and the events. ``file`` matches the stem of a file:
    its video, and if it is a clip that is cut already ``cut`` or the times, of which ``fits`` says
    whether they are an event's. Other files are not ``named`` so.
    """

    rows: Callable[[Listing], tuple[str, list[_Event]]]
    file: str
    named: str = ""
    fits: Callable[[_Event, str, str | None], bool] = lambda *_: True


def _read_events(how: _Events, tree: Listing) -> Iterator[Row]:
    table, events = how.rows(tree)
    by_video: dict[str, list[_Event]] = {}
    for event in events:
        by_video.setdefault(event.video, []).append(event)
    used = set()
    for name in sorted(tree.files):
        match = re.fullmatch(how.file, stem_of(name), re.DOTALL)
        if match is None:
            tree.skipped.append((name, f"not named {how.named}"))
            continue
        told = match.groupdict()
        video, start = told["video"], told.get("start")
        found = by_video.get(video, [])
        if start is not None:
            found = [event for event in found if how.fits(event, start, told["end"])]
        if not found:
            tree.skipped.append((name, f"no row in {table}"))
        # A whole video is cut at the times of each of its events, a clip is one of them.
        whole = not told.get("cut") and start is None
        for event in found if whole else found[:1]:
            used.add(event[:2])
            start_s, end_s = event[1:3] if whole else (None, None)
            if whole and event.start_s == event.end_s:
                tree.skipped.append((name, f"{event.where}: the event lasts no time"))
            else:
                yield Row(name, start_s, end_s, event.label, event.split, video)
    tree.missing = sum(event[:2] not in used for event in events)


def _vggsound_rows(tree: Listing) -> tuple[str, list[_Event]]:
    table = _table(tree, "vggsound.csv")
    events: dict[tuple[str, int], _Event] = {}
    for where, row in _rows(tree, table, fields="YouTube id, start in s, label, split"):
        video, start, label, split = row
        _check_id(video, where)
        if split not in SPLIT_NAMES:
            raise DataError(f"{where}: unknown split {split!r}; train, val or test is expected")
        key = (video, int(seconds(start, where, "start")))
        if key in events:
            raise DataError(f"{where}: repeats {place_of(events[key].where)}")
        events[key] = _Event(*key, None, label, SPLIT_NAMES[split], where)
    return table, list(events.values())


def _vggsound_fits(event: _Event, start: str, end: str | None) -> bool:
    # With a second number the two are start and end in milliseconds.
    return int(start) // (1000 if end else 1) == event.start_s


def _ave_rows(tree: Listing) -> tuple[str, list[_Event]]:
    table = _table(tree, "Annotations.txt")
    folder = table.removesuffix("Annotations.txt")

    def events(table: str) -> Iterator[_Event]:
        fields = _AVE_HEADER.replace("&", ",")
        rows = _rows(tree, table, fields=fields, delimiter="&", quoting=csv.QUOTE_NONE)
        for where, (label, video, _, start, end) in rows:
            if start != "StartTime":
                start_s, end_s = seconds(start, where, "StartTime"), seconds(end, where, "EndTime")
                where = where.removeprefix(f"{tree.name}/")
                # An event that ends before it starts lasts no time, either.
                yield _Event(video, start_s, max(start_s, end_s), label, None, where)

    if not tree.read(table).removeprefix(BOM).startswith(_AVE_HEADER.encode()):
        raise DataError(f"{tree.name}/{table}, line 1: the header must be {_AVE_HEADER}")
    splits = {
        event[:4]: split
        for name, split in _AVE_SPLITS.items()
        if folder + name in tree.tables
        for event in events(folder + name)
    }
    return table, [event._replace(split=splits.get(event[:4])) for event in events(table)]


def _audioset_rows(tree: Listing) -> tuple[str, list[_Event]]:
    names: dict[str, str] = {}
    events = []
    tables = {table: table.rpartition("/")[2].lower() for table in sorted(tree.tables)}
    for table in [table for table, name in tables.items() if name == _AUDIOSET_NAMES][:1]:
        for _, row in _rows(tree, table, fields="index,mid,display_name"):
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
        for where, row in _rows(tree, table, comments=True, fields="YTID,start,end,labels"):
            video, start, end, labels = row
            _check_id(video, where)
            start_s = seconds(start, where, "start_seconds")
            end_s = seconds(end, where, "end_seconds")
            if end_s <= start_s:
                raise DataError(f"{where}: end_seconds must be greater than start_seconds")
            first = labels.split(",")[0].strip()
            label = names.get(first, first) or None
            events.append(_Event(video, start_s, end_s, label, split, where))
    return "the segments csv", events


def _audioset_fits(event: _Event, start: str, end: str | None) -> bool:
    # In seconds (rounded or not) or in milliseconds.
    return any(
        abs(float(start) / scale - event.start_s) < 1
        and (end is None or abs(float(end) / scale - (event.end_s or 0.0)) < 1)
        for scale in (1, 1000)
    )


def _check_id(video: str, where: str) -> None:
    if not re.fullmatch(_ID, video):
        raise DataError(f"{where}: {video[:40]!r} is no YouTube id: this is a foreign csv")


_WITH_TABLES = {
    "vggsound": _Events(
        _vggsound_rows, rf"(?P<video>{_ID})_(?P<start>[0-9]+)(?:_(?P<end>[0-9]+))?", "ID_START",
        _vggsound_fits,
    ),
    "ave": _Events(_ave_rows, "(?P<video>.*)"),
    "audioset": _Events(
        _audioset_rows,
        rf"(?P<cut>Y?)(?P<video>{_ID})(?:_(?P<start>[0-9]+(?:\.[0-9]+)?)"
        r"(?:_(?P<end>[0-9]+(?:\.[0-9]+)?))?)?",
        "ID, YID, ID_START or ID_START_END", _audioset_fits,
    ),
}  # fmt: skip

LAYOUTS: dict[str, Callable[[Listing], Iterable[Row]]] = {
    "folder": lambda tree: map(Row, tree.files),
    "classes": _read_classes,
    "vegas": _read_vegas,
    **{name: functools.partial(_read_events, how) for name, how in _WITH_TABLES.items()},
}
"""Every layout by its name, for ``--layout``: what turns a folder into parts of its videos.

It adds to the listing what cannot be used, and how many rows have no video."""

_SIGNS: dict[str, Callable[[Listing], bool]] = {
    "vegas": lambda tree: any(map(_VEGAS_SIGN.fullmatch, tree.files)),
    "vggsound": lambda tree: "vggsound.csv" in tree.tables,
    "ave": lambda tree: (
        "Annotations.txt" in tree.tables
        and tree.read("Annotations.txt").removeprefix(BOM).startswith(_AVE_HEADER.encode())
    ),
    "audioset": lambda tree: any(map(_AUDIOSET_SIGN.fullmatch, tree.tables)),
}
"""By what each layout is known without being named."""
