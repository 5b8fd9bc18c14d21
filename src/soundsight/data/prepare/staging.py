"""The workplace of a preparation: one file for each clip that is done, and a lock.

``DATA/.work`` holds, until the dataset is finished::

    lock            held by the one preparation that is running
    plan.json       the settings; a run with others is refused
    parts/ab/<id>.part     the pairs of a clip, and what is known of it
    out/            finished shards, before all of them are moved into place at once
    shards.jsonl    which of them are whole, and what they hold
    moving.json     the move has begun; what of an older dataset has no place in the new one

A part appears whole (it is renamed into place) and is a function of the clip and the settings. So
a run that was killed at any moment goes on with the same command, does nothing twice, and ends
with the same bytes.

A part is the contents of its records back to back, then a JSON text that says where they lie, then
that text's length (8 bytes, little-endian) and 8 bytes that mark a part.
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
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from soundsight.core.errors import DataError, OutputError
from soundsight.core.files import atomic_file, move_into_place, write_json
from soundsight.data.records import Record
from soundsight.data.store.shards import ABOUT, WORK, index_name, shard_infos

FAILURES = "failures.csv"
DAMAGED = "damaged.csv"
DROPPED = "dropped"
"""Folder of the sheets of dropped pairs."""

_LOCK, _PLAN, _PARTS, _MOVING = "lock", "plan.json", "parts", "moving.json"
_MARK = b"ssPART01"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NoSpaceError(OutputError):
    """The disk is full: no other clip could be written either."""


def no_space(path: Path, error: OSError) -> OutputError:
    """The error for a write that failed, kept apart where the disk is full."""
    if error.errno in _NO_SPACE:
        return NoSpaceError(
            f"no space left for {path}: free some and run the same command again, what is done "
            "is kept"
        )
    return OutputError(f"cannot write {path}: {error.strerror or error}")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses inside the block into one clear error.

    Raises:
        NoSpaceError: when the disk is full.
        OutputError: when something else cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise no_space(path, error) from None
    except OutputError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            raise no_space(path, cause) from None
        raise


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A record within a part.

    Attributes:
        key: of the record.
        members: name -> (offset, size) in the part.
        reasons: cleaning steps that dropped it; empty for a pair that is kept.
        sums: of the levels and of their squares: of the log-mel, of red, of green, of blue.
    """

    key: str
    members: Mapping[str, tuple[int, int]]
    reasons: tuple[str, ...]
    sums: tuple[int, ...]


class Part:
    """A finished part, open for reading.

    Attributes:
        about: what is known of the clip (JSON).
        entries: its records in order, dropped ones included.

    Raises:
        DataError: when the file is no whole part.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 16))
                tail = file.read(16)
                size = int.from_bytes(tail[:8], "little")
                if tail[8:] != _MARK or size > end - 16:
                    raise DataError(f"{path} is no finished part: remove it and run again")
                file.seek(end - 16 - size)
                about: dict[str, Any] = json.loads(file.read(size))
            self.entries = [
                Entry(
                    key=key,
                    members={name: (int(at), int(size)) for name, at, size in members},
                    reasons=tuple(reasons),
                    sums=tuple(sums),
                )
                for key, members, reasons, sums in about.pop("entries")
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"cannot read {path}: {error}") from None
        self.about = about

    def record(self, entry: Entry) -> Record:
        """Read one record."""
        with self.path.open("rb") as file:
            files = {}
            for name, (offset, size) in entry.members.items():
                file.seek(offset)
                files[name] = file.read(size)
        return Record(key=entry.key, files=files)


class PartWriter:
    """Writes a part; use it as a context: it appears at ``path`` when the block succeeds.

    Raises:
        NoSpaceError: when the disk is full.
        OutputError: when it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[Any] = []
        self._at = 0
        self.about: dict[str, Any] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> PartWriter:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".", suffix=".tmp")
            self._temporary = Path(name)
            self._file = os.fdopen(handle, "wb")
        except OSError as error:
            raise no_space(self._path, error) from None
        return self

    def add(self, record: Record, reasons: Sequence[str], sums: Sequence[int]) -> None:
        """Append a record; ``reasons`` are the cleaning steps that drop it, ``sums`` its sums."""
        assert self._file is not None
        members = []
        try:
            for name in sorted(record.files):
                content = record.files[name]
                self._file.write(content)
                members.append([name, self._at, len(content)])
                self._at += len(content)
        except OSError as error:
            raise no_space(self._path, error) from None
        self._entries.append([record.key, members, list(reasons), list(sums)])

    def __exit__(self, kind: Any, *rest: object) -> None:
        assert self._file is not None
        try:
            if kind is None:
                text = json.dumps(
                    {**self.about, "entries": self._entries}, sort_keys=True, ensure_ascii=True
                ).encode()
                self._file.write(text + len(text).to_bytes(8, "little") + _MARK)
                self._file.close()
                move_into_place(self._temporary, self._path)
        except OSError as error:
            raise no_space(self._path, error) from None
        finally:
            # Closing flushes, and may fail again on a full disk.
            with contextlib.suppress(OSError):
                self._file.close()
            self._temporary.unlink(missing_ok=True)


class Stage:
    """The workplace in an output folder; use it as a context: it is locked inside the block.

    Args:
        data: the output folder; made where it is missing.
        settings: all that the result depends on, apart from the clips.
        restart: throw away unfinished work that was begun with other settings.

    Raises:
        OutputError: when another preparation is at work there, when the folder holds something
            else, or when it cannot be written to.
    """

    def __init__(self, data: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        self.data = data
        self.work = data / WORK
        self._settings = json.loads(json.dumps(settings))
        self._restart = restart
        self._lock: IO[str] | None = None

    def __enter__(self) -> Stage:
        try:
            self._take_lock()
            self._agree()
            self._tidy()
        except (NotADirectoryError, FileExistsError):
            self._unlock()
            raise OutputError(f"cannot write to {self.data}: it is no folder") from None
        except OSError as error:
            self._unlock()
            raise no_space(self.data, error) from None
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._unlock()

    def _take_lock(self) -> None:
        place = self.work / _LOCK
        while self._lock is None:
            self.work.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = place.open("a")
            except FileNotFoundError:
                continue  # another run has just finished, and its workplace is gone
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._unlock()
                raise OutputError(
                    f"another preparation is writing to {self.data}: wait for it, or choose "
                    "another place"
                ) from None
            try:
                held = os.path.samestat(os.fstat(self._lock.fileno()), place.stat())
            except FileNotFoundError:
                held = False
            if not held:
                self._unlock()  # what was locked has been removed meanwhile

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _agree(self) -> None:
        """See that the work that lies here was begun with the same settings."""
        plan = self.work / _PLAN
        try:
            begun = json.loads(plan.read_text("utf-8"))
        except FileNotFoundError:
            write_json(plan, self._settings)
            return
        except ValueError:
            begun = None
        if begun != self._settings and self._restart:
            if (self.work / _MOVING).is_file():
                self._move()  # half of it lies in place: whole, it can be replaced
            self._clear(_LOCK)
            write_json(plan, self._settings)
        elif begun != self._settings:
            changed = sorted(
                name
                for name in {*(begun or {}), *self._settings}
                if (begun or {}).get(name) != self._settings.get(name)
            )
            raise OutputError(
                f"{self.data} holds an unfinished preparation with other settings "
                f"({', '.join(changed)}): repeat its command, or pass --overwrite to start anew"
            )

    def _tidy(self) -> None:
        """Remove what a killed run was writing."""
        parts = self.work / _PARTS
        if parts.is_dir():
            for folder in parts.iterdir():
                for left in folder.glob(".*"):
                    left.unlink(missing_ok=True)

    def _clear(self, *kept: str) -> None:
        for entry in list(self.work.iterdir()):
            if entry.name not in kept:
                _remove(entry)

    def part_path(self, clip_id: str) -> Path:
        """Where the part of a clip lies, or will."""
        return self.work / _PARTS / clip_id[:2] / f"{clip_id}.part"

    def done(self) -> set[str]:
        """The ids of the clips whose part is there."""
        return set(self._ids())

    def _ids(self) -> Iterator[str]:
        parts = self.work / _PARTS
        if not parts.is_dir():
            return
        for folder in os.scandir(parts):
            if folder.is_dir():
                for entry in os.scandir(folder.path):
                    if entry.name.endswith(".part"):
                        yield entry.name[: -len(".part")]

    @property
    def is_new(self) -> bool:
        """Whether nothing has been done here yet."""
        return not any((self.work / name).exists() for name in (_PARTS, "out", _MOVING))

    def discard(self) -> None:
        """Remove the workplace; the lock goes last: until then no other run begins here."""
        with writing(self.data):
            self._clear(_LOCK)
            shutil.rmtree(self.work, ignore_errors=True)

    def forget_shards(self) -> None:
        """Remove all that was made of the parts, because a part is about to be replaced."""
        with writing(self.data):
            self._clear(_LOCK, _PLAN, _PARTS)

    def report_failures(self, failures: Sequence[tuple[str, str]]) -> Path:
        """Write failures.csv for a run that ends without a dataset; return where it lies.

        Beside an older dataset, which is kept as it is, that is the workplace.

        Raises:
            OutputError: when it cannot be written.
        """
        path = self.work / FAILURES
        with writing(self.data):
            write_failures(path, failures)
            if (self.data / ABOUT).is_file():
                return path
            move_into_place(path, self.data / FAILURES)
            return self.data / FAILURES

    def packed(self) -> dict[str, Any] | None:
        """The dataset.json of a dataset that lies finished here and has only to be moved."""
        try:
            about: dict[str, Any] = json.loads((self.work / "out" / ABOUT).read_text("utf-8"))
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

        Raises:
            OutputError: when it cannot be moved.
        """
        with writing(self.data):
            self._move()
            self._clear(_LOCK, _MOVING)
        self.discard()

    def _move(self) -> None:
        out, moving = self.work / "out", self.work / _MOVING
        if not moving.is_file():
            coming = {entry.name for entry in out.iterdir()}
            write_json(moving, sorted(_owned(self.data) - coming))
        if not (out / ABOUT).is_file():
            return
        (self.data / ABOUT).unlink(missing_ok=True)
        for name in json.loads(moving.read_text("utf-8")):
            _remove(self.data / name)
        for name in sorted(entry.name for entry in out.iterdir() if entry.name != ABOUT):
            if (self.data / name).is_dir():
                _remove(self.data / name)
            move_into_place(out / name, self.data / name)
        move_into_place(out / ABOUT, self.data / ABOUT)


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
    """Write path and reason of clips that gave nothing, or not all that they have, sorted.

    Raises:
        OutputError: when it cannot be written.
    """
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(["path", "reason"])
    for row in sorted(failures):
        # A carriage return in a name would end the row, and is not quoted by itself.
        (quoted if "\r" in "".join(row) else plain).writerow(row)
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
