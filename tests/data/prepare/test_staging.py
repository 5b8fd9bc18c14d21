"""The workplace: parts that are whole or absent, one run at a time, a move that can be resumed."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from soundsight.core.errors import DataError, OutputError
from soundsight.data.prepare.staging import NoSpaceError, Part, Stage, write_failures, writing
from soundsight.data.records import Record
from soundsight.data.store.shards import open_dataset, write_shard

SETTINGS = {"size_px": 96, "steps": ["silence"]}
SIDECAR = {"json": b'{"group": "g"}'}
RECORDS = [
    Record(key="a_000000", files={"mel.png": b"mel", "jpg": b"", **SIDECAR}, sums=(1, 2**60)),
    Record(
        key="a_000001", files={"jpg": bytes(range(256)), **SIDECAR}, reasons=("silence", "black")
    ),
]


def write_part(path: Path) -> None:
    write_shard(path, RECORDS, {"clip": "v\udcff.mp4"})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_part_gives_back_what_was_put_in(tmp_path: Path) -> None:
    path = tmp_path / "ab" / "one.tar"
    write_part(path)
    part = Part(path)
    assert part.about == {"clip": "v\udcff.mp4"}
    assert [part.record(entry).files for entry in part.entries] == [r.files for r in RECORDS]
    assert [tuple(entry.reasons) for entry in part.entries] == [r.reasons for r in RECORDS]
    assert [tuple(entry.sums) for entry in part.entries] == [r.sums for r in RECORDS]
    assert part.kept == part.entries[:1]
    # What a part knows of a pair is not written into a dataset.
    write_shard(tmp_path / "shard.tar", [part.record(entry) for entry in part.entries])
    assert b"silence" not in (tmp_path / "shard.index.json").read_bytes()
    assert (tmp_path / "shard.tar").read_bytes() == path.read_bytes()
    whole = bytearray(path.read_bytes())
    whole[600] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match="is damaged: remove it and run the same command again"):
        part.record(part.entries[0])


@pytest.mark.parametrize("name", ["one.tar", "one.index.json"])
def test_a_part_cut_short_anywhere_or_of_something_else_is_no_part(
    name: str, tmp_path: Path
) -> None:
    write_part(tmp_path / "one.tar")
    whole = (tmp_path / name).read_bytes()
    for length in (*range(0, len(whole) - 2, 97), len(whole) - 3):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cannot read .*one\.tar") as error:
            Part(tmp_path / "one.tar")
        assert "\n" not in str(error.value)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match="cannot read"):
        Part(tmp_path / "one.tar")


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "run the same"), (errno.EDQUOT, "run the same"), (errno.EFBIG, "run the same"),
     (errno.EACCES, "Permission denied")],
)  # fmt: skip
def test_what_cannot_be_written_is_one_error(number: int, words: str, tmp_path: Path) -> None:
    cause = OSError(number, os.strerror(number))
    for error in (cause, OutputError("wrapped: Permission denied")):
        with pytest.raises(OutputError, match=words) as caught, writing(tmp_path):
            raise error from cause
        assert isinstance(caught.value, NoSpaceError) == (number != errno.EACCES)


def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with Stage(tmp_path / "data", SETTINGS) as first:
        with (
            pytest.raises(OutputError, match="another preparation is writing"),
            Stage(tmp_path / "data", SETTINGS),
        ):
            pass
        write_part(first.part_path("ab12"))
        # What a killed run was writing is no part.
        (first.part_path("ab12").parent / ".ab13.tar.abc.tar").write_bytes(b"half")
    with Stage(tmp_path / "data", SETTINGS) as again:
        assert again.known("ab12") is not None
        assert again.known("ab13") is None


def test_other_settings_are_refused_by_name_unless_it_starts_anew(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Stage(data, SETTINGS) as stage:
        write_part(stage.part_path("ab12"))
    with (
        pytest.raises(OutputError, match=r"other settings \(size_px\).*--overwrite"),
        Stage(data, {**SETTINGS, "size_px": 64}),
    ):
        pass
    with Stage(data, SETTINGS, restart=True) as stage:
        assert stage.known("ab12") is not None
    with Stage(data, {**SETTINGS, "size_px": 64}, restart=True) as stage:
        assert stage.known("ab12") is None
        assert stage.is_new
    (stage.work / "plan.json").write_text("{")
    with pytest.raises(OutputError, match="other settings"), Stage(data, SETTINGS):
        pass


def test_failures_are_exact_csv(tmp_path: Path) -> None:
    rows = [
        ("b\nc.mp4", "two lines"),
        ('a "quoted", name.mp4', "commas, and\rreturns"),
        ("r\r.mp4", "x"),
        ("caf\udce9/犬.mp4", ""),
        ("../up.mp4", "=1+1"),
    ]
    path = tmp_path / "failures.csv"
    write_failures(path, rows)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert list(csv.reader(file)) == [["path", "reason"], *map(list, sorted(rows))]
    assert b"caf\xe9/\xe7\x8a\xac.mp4," in path.read_bytes()


# --- moving into place ---------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


def die_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Die before the ``number``-th rename or removal; return how many there were."""
    count = [0]

    def watched(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            count[0] += 1
            if count[0] == number:
                raise Killed
            return real(*args, **kwargs)

        return call

    for name in ("replace", "unlink", "rmdir"):
        monkeypatch.setattr(Path, name, watched(getattr(Path, name)))
    for name in ("unlink", "rmdir"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    return lambda: count[0]


@pytest.mark.slow
def test_a_move_can_be_killed_anywhere_and_goes_on(
    tmp_path: Path, make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def new(folder: Path) -> Path:
        made = make_dataset(folder, {"train": [1], "test": [1]}, 1)
        (made / "dropped" / "silent.png").unlink()
        (made / "dropped").rmdir()
        return made

    expected = contents(new(tmp_path / "fresh"))
    number, last = 0, None
    while last is None or number <= last:
        number += 1
        data = make_dataset(tmp_path / str(number), {"train": [2, 1, 1], "val": [1]}, 2)
        (data / "note.txt").write_text("of a person")
        with Stage(data, SETTINGS) as stage:
            new(stage.out)
            write_part(stage.part_path("ab12"))
            with monkeypatch.context() as patch:
                calls = die_at(number, patch)
                try:
                    stage.move_into_place()
                    last = calls()
                except Killed:
                    pass
        if (data / ".work").exists():
            with Stage(data, SETTINGS) as stage:
                done = (data / "dataset.json").is_file() and stage.packed() is None
                # What is finished is known to be: nothing is cut once more.
                assert stage.packed() is not None or stage.is_moving or stage.is_new
                if stage.is_new:
                    assert done
                    stage.discard()
                else:
                    stage.move_into_place()
        assert contents(data) == {**expected, "note.txt": b"of a person"}, number
        assert not (data / ".work").exists()
    assert number > 15
    assert len(open_dataset(data).shards("train")) == 1


def test_a_half_moved_dataset_is_whole_before_another_begins(
    tmp_path: Path, make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    with Stage(data, SETTINGS) as stage:
        make_dataset(stage.out, {"train": [1, 1, 1]}, 1)
        with monkeypatch.context() as patch:
            die_at(6, patch)
            with pytest.raises(Killed):
                stage.move_into_place()
    assert not (data / "dataset.json").exists()
    with Stage(data, {"size_px": 64}, restart=True) as stage:
        assert stage.is_new
        assert json.loads((data / "dataset.json").read_text())["splits"]["train"]["pairs"] == 3


def test_an_older_dataset_cannot_name_files_of_others(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "mine.tar").write_text("mine")
    shard = {"name": "../mine.tar", "pairs": 1, "bytes": 1, "sha256": "", "index_sha256": ""}
    (data / "dataset.json").write_text(json.dumps({"splits": {"train": {"shards": [shard]}}}))
    with Stage(data, SETTINGS) as stage:
        stage.out.mkdir()
        (stage.out / "dataset.json").write_text("{}")
        stage.move_into_place()
    assert (tmp_path / "mine.tar").read_text() == "mine"
    assert (data / "dataset.json").read_text() == "{}"
