"""The workplace of a preparation: one finished part for each clip that is done, and a lock.

``DATA/.work`` holds, until the dataset is finished::

    plan.json       the settings; a run with others is refused
    parts/ab/<id>.tar      the pairs of a clip, and beside it an index with what is known of it
    out/            finished shards, before all of them are moved into place at once
    shards/         what each finished shard holds
    moving.json     the move has begun; what of an older dataset has no place in the new one

A part is a shard that appears whole and is a function of the clip and the settings. So a run that
was killed at any moment goes on with the same command, does nothing twice, and ends with the same
bytes. One run works at a time: it locks the output folder.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import io
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from soundsight.core.errors import DataError, OutputError
from soundsight.core.files import atomic_file, move_into_place, write_json
from soundsight.data.records import Record
from soundsight.data.store.shards import ABOUT, WORK, Entry, index_name, shard_infos

FAILURES = "failures.csv"
DAMAGED = "damaged.csv"
DROPPED = "dropped"
"""Folder of the sheets of dropped pairs."""

_PLAN, _PARTS, _MOVING = "plan.json", "parts", "moving.json"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NoSpaceError(OutputError):
    """The disk is full: no other clip could be written either."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses inside the block into one clear error."""
    try:
        yield
    except (OSError, OutputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            raise NoSpaceError(
                f"no space left for {path}: free some and run the same command again, what is "
                "done is kept"
            ) from None
        if isinstance(error, OSError):
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
        raise


class Part:
    """The finished part of a clip: what is known of it, and its pairs, dropped ones included."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            index = json.loads(path.with_name(index_name(path.name)).read_bytes())
            self.about: dict[str, Any] = index["about"]
            self.entries: list[Entry] = [Entry(**values) for values in index["records"]]
            if path.stat().st_size != index["bytes"]:
                raise ValueError("it is cut short")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"cannot read {path}: {error}") from None

    @property
    def kept(self) -> list[Entry]:
        """The pairs that no cleaning step drops."""
        return [entry for entry in self.entries if not entry.reasons]

    def record(self, entry: Entry) -> Record:
        """Read one pair."""
        with self.path.open("rb") as file:
            file.seek(entry.start)
            stretch = file.read(entry.size)
        if zlib.crc32(stretch) != entry.crc32:
            raise DataError(f"{self.path} is damaged: remove it and run the same command again")
        return replace(entry.cut(stretch), stretch=stretch)


class Stage:
    """The workplace in an output folder; use it as a context: it is locked inside the block.

    ``settings`` are all that the parts depend on, apart from the clips; ``restart`` throws away
    unfinished work that was begun with others.
    """

    def __init__(self, data: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        self.data = data
        self.work = data / WORK
        self.out = self.work / "out"
        self._settings = json.loads(json.dumps(settings))
        self._restart = restart

    def __enter__(self) -> Stage:
        with contextlib.ExitStack() as failing, writing(self.data):
            self.data.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.data, os.O_RDONLY | os.O_DIRECTORY)
            failing.callback(os.close, self._lock)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"another preparation is writing to {self.data}: wait for it, or choose "
                    "another place"
                ) from None
            self.work.mkdir(exist_ok=True)
            self._agree()
            failing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def _agree(self) -> None:
        """See that the work that lies here was begun with the same settings."""
        plan = self.work / _PLAN
        try:
            begun = json.loads(plan.read_text("utf-8"))
        except FileNotFoundError:
            write_json(plan, self._settings)
            return
        except ValueError:
            begun = {}
        names = sorted({*begun, *self._settings})
        changed = [name for name in names if begun.get(name) != self._settings.get(name)]
        if changed and not self._restart:
            raise OutputError(
                f"{self.data} holds an unfinished preparation with other settings "
                f"({', '.join(changed)}): repeat its command, or pass --overwrite to start anew"
            )
        if changed:
            if self.is_moving:
                self._move()  # half of it lies in place: whole, it can be replaced
            self._clear()
            write_json(plan, self._settings)

    def _clear(self, *kept: str) -> None:
        for entry in list(self.work.iterdir()):
            if entry.name not in kept:
                _remove(entry)

    def part_path(self, clip_id: str) -> Path:
        """Where the part of a clip lies, or will."""
        return self.work / _PARTS / clip_id[:2] / f"{clip_id}.tar"

    def part(self, clip_id: str) -> Part:
        """Open the part of a clip."""
        return Part(self.part_path(clip_id))

    def known(self, clip_id: str) -> Part | None:
        """Open the part of a clip; None where there is none, or it has to be made again."""
        try:
            return self.part(clip_id)
        except DataError:
            return None

    @property
    def is_new(self) -> bool:
        """Whether nothing has been done here yet."""
        done = (self.work / name for name in (_PARTS, "out", _MOVING))
        return not any(path.exists() for path in done)

    def discard(self) -> None:
        """Remove the workplace."""
        with writing(self.data):
            shutil.rmtree(self.work)

    def forget_shards(self) -> None:
        """Remove all that was made of the parts, because a part is about to be replaced."""
        with writing(self.data):
            self._clear(_PLAN, _PARTS)

    def report_failures(self, failures: Sequence[tuple[str, str]]) -> Path:
        """Write failures.csv for a run that ends without a dataset; return where it lies.

        Beside an older dataset, which is kept as it is, that is the workplace.
        """
        path = (self.work if (self.data / ABOUT).is_file() else self.data) / FAILURES
        with writing(self.data):
            write_failures(path, failures)
        return path

    def packed(self) -> dict[str, Any] | None:
        """The dataset.json of a dataset that lies finished here and has only to be moved."""
        try:
            about: dict[str, Any] = json.loads((self.out / ABOUT).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return about

    @property
    def is_moving(self) -> bool:
        """Whether a finished dataset has begun to be moved into place."""
        return (self.work / _MOVING).is_file()

    def move_into_place(self) -> None:
        """Move the finished dataset out of the workplace, dataset.json last; remove the workplace.

        A dataset that lies there is replaced. A run that was killed while moving goes on here.
        """
        with writing(self.data):
            self._move()
            self._clear(_MOVING)
        self.discard()

    def _move(self) -> None:
        moving = self.work / _MOVING
        if not self.is_moving:
            coming = {entry.name for entry in self.out.iterdir()}
            write_json(moving, sorted(_owned(self.data) - coming))
        if not (self.out / ABOUT).is_file():
            return
        (self.data / ABOUT).unlink(missing_ok=True)
        for name in json.loads(moving.read_text("utf-8")):
            _remove(self.data / name)
        names = sorted(entry.name for entry in self.out.iterdir() if entry.name != ABOUT)
        for name in (*names, ABOUT):
            if (self.data / name).is_dir():
                _remove(self.data / name)
            move_into_place(self.out / name, self.data / name)


def _owned(data: Path) -> set[str]:
    """What the dataset that lies there says is its own, apart from dataset.json."""
    try:
        splits = json.loads((data / ABOUT).read_text("utf-8"))["splits"].values()
        shards = [shard.name for split in splits for shard in shard_infos(split)]
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError, AttributeError):
        shards = []
    return {*shards, *map(index_name, shards), DROPPED, DAMAGED}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_failures(path: Path, failures: Sequence[tuple[str, str]]) -> None:
    """Write path and reason of clips that gave nothing, or not all that they have, sorted."""
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(["path", "reason"])
    for row in sorted(failures):
        # A carriage return in a name would end the row, and is not quoted by itself.
        (quoted if "\r" in "".join(row) else plain).writerow(row)
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
