"""Shards that WebDataset reads, datasets that are whole or absent, and their verification."""

from __future__ import annotations

import gc
import json
import pickle
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soundsight.core.errors import DataError, OutputError
from soundsight.core.files import atomic_file
from soundsight.data.records import Clip, Record
from soundsight.data.store import shards
from soundsight.data.store.dataset import PairDataset
from soundsight.data.store.shards import (
    END_BYTES,
    decode_image,
    decode_mel,
    encode_mel,
    open_dataset,
    record_bytes,
    write_dataset,
    write_shard,
)
from soundsight.data.store.verify import Problem, verify


def plain(key: str, **sizes: int) -> Record:
    files = {name.replace("_", "."): bytes([65]) * size for name, size in sizes.items()}
    return Record(key=key, files={**files, "json": b'{"group": "v"}'})


@pytest.mark.parametrize("sizes", [{"jpg": 0}, {"jpg": 511, "mel_png": 512}, {"jpg": 100_000}])
def test_the_size_of_a_shard_is_known_before_it_is_written(tmp_path: Path, sizes: dict) -> None:
    records = [plain("a_000000", **sizes), plain("b_000000", jpg=513)]
    expected = sum(record_bytes(map(len, r.files.values())) for r in records)
    info = write_shard(tmp_path / "train-000000.tar", records)
    assert info.bytes == expected + END_BYTES == (tmp_path / "train-000000.tar").stat().st_size
    assert info.pairs == 2


def test_the_same_records_give_the_same_bytes_on_any_machine(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a" / "x.tar", [plain("k_000001", jpg=10, mel_png=20)])
    files = plain("k_000001", jpg=10, mel_png=20).files
    shuffled = Record(key="k_000001", files=dict(reversed(files.items())))
    assert write_shard(tmp_path / "b" / "x.tar", iter([shuffled])) == first
    names = ["x.index.json", "x.tar"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with tarfile.open(tmp_path / "a" / "x.tar") as tar:
        members = list(tar)
        assert [m.name for m in members] == ["k_000001.jpg", "k_000001.json", "k_000001.mel.png"]
        for m in members:
            told = (m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg())
            assert told == (0, 0, 0, "", "", 0o644, True)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def full() -> Iterator[Record]:
        yield plain("a", jpg=1000)
        raise OSError(28, "No space left on device")

    # A key with a dot or a slash would break WebDataset's grouping.
    for records, kind, words in (
        *(([plain(key, jpg=1)], ValueError, "no key of a record") for key in ("", "a.b", "a/b")),
        ([plain("a", jpg=1)] * 2, ValueError, "two records are named a"),
        (full(), OutputError, "No space left"),
    ):
        with pytest.raises(kind, match=words):
            write_shard(tmp_path / "x.tar", records)
        assert list(tmp_path.iterdir()) == []


# Its reader leaves its files to be closed by whoever collects them.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_reads_the_pairs_as_they_were_written(toy_data: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    ours = list(open_dataset(toy_data).records("train"))
    shards = [str(toy_data / f"train-00000{n}.tar") for n in (0, 1)]
    theirs = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in theirs] == [record.key for record in ours]
    for sample, record in zip(theirs, ours, strict=True):
        files = {name: data for name, data in sample.items() if not name.startswith("__")}
        assert files == record.files
    gc.collect()


def test_the_index_is_json_and_says_where_every_member_lies(toy_data: Path) -> None:
    index = json.loads((toy_data / "train-000000.index.json").read_bytes())
    tar = (toy_data / "train-000000.tar").read_bytes()
    assert (index["format"], index["bytes"]) == ("soundsight-shard", len(tar))
    records = list(open_dataset(toy_data).records("train"))[:4]
    for entry, record in zip(index["records"], records, strict=True):
        group = json.loads(record.files["json"])["group"]
        assert (entry["key"], entry["group"]) == (record.key, group)
        cut = {name: tar[at : at + size] for name, (at, size) in entry["files"].items()}
        assert cut == record.files


def test_a_dataset_is_read_in_order_and_by_number(toy_data: Path) -> None:
    data = open_dataset(toy_data)
    assert data.splits == ("train", "val", "test")
    assert [data.count(split) for split in data.splits] == [7, 2, 1]
    assert len(data) == 10
    assert (data.mel_shape, data.image_px, data.image_name) == ((128, 100), 96, "jpg")
    records = list(data.records("train"))
    assert len({record.key for record in records}) == 7
    for number in (6, 0, 4, 3):
        assert data.record("train", number) == records[number]
    mel, image = data.decode(records[0])
    assert (mel.shape, mel.dtype) == ((128, 100), np.uint8)
    assert image is not None
    assert (image.shape, image.dtype) == ((96, 96, 3), np.uint8)
    copy = pickle.loads(pickle.dumps(data))  # for another process
    assert copy.record("train", 5) == records[5] == data.record("train", 5)
    for number in (-1, 7):
        with pytest.raises(IndexError, match="no pair"):
            data.record("train", number)
    with pytest.raises(DataError, match="has no split 'dev'; choose from train, val, test"):
        data.count("dev")


def test_a_dataset_is_read_over_fsspec(toy_data: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(toy_data), "/bucket/toy", recursive=True)
    try:
        here, there = open_dataset(toy_data), open_dataset("memory://bucket/toy/")
        assert list(there.records("train")) == list(here.records("train"))
        assert there.record("val", 1) == here.record("val", 1)
        far, near = (PairDataset(where, "val")[1] for where in ("memory://bucket/toy", toy_data))
        assert all(far[name].equal(near[name]) for name in near)
        assert list(verify("memory://bucket/toy")) == []
        memory.pipe_file("/bucket/toy/extra", b"x")
        assert [p.file for p in verify("memory://bucket/toy")] == ["extra"]
    finally:
        memory.rm("/bucket", recursive=True)


def test_nothing_there_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    for where, words in (
        ("memory://nowhere/x", "there is no dataset at memory://nowhere/x: check the path"),
        ("nosuch://x", "nosuch://x cannot be opened: "),
        (tmp_path / "nowhere", f"there is no dataset at {tmp_path}/nowhere: check the path"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            open_dataset(where)
        assert "\n" not in str(caught.value)


def test_log_mels_are_lossless_and_what_does_not_fit_is_refused(
    toy_data: Path, make_record: Callable[..., Record]
) -> None:
    mel = np.random.default_rng(0).integers(0, 256, (128, 250), dtype=np.uint8)
    assert (decode_mel(encode_mel(mel)) == mel).all()
    with pytest.raises(DataError, match="no readable JPEG or WEBP"):
        decode_image(encode_mel(mel))
    with pytest.raises(DataError, match="no readable PNG"):
        decode_mel(b"")
    data = open_dataset(toy_data)
    clip = Clip(path="", key="x", group="x")
    large = make_record(clip, 0, np.random.default_rng(0), 128)
    with pytest.raises(DataError, match=r"is of another size than dataset\.json says"):
        data.decode(large)
    assert data.decode(large, with_image=False)[1] is None
    with pytest.raises(DataError, match=r"has no 'mel\.png'"):
        data.decode(Record(key="x", files={"jpg": large.files["jpg"]}))


# --- finished or not ---------------------------------------------------------------------------


def test_a_dataset_without_its_last_file_is_not_finished(own_data: Path) -> None:
    (own_data / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"is no dataset: it has no dataset\.json"):
        open_dataset(own_data)
    (own_data / ".work").mkdir()
    for look in (open_dataset, lambda where: list(verify(where))):
        with pytest.raises(DataError, match="is not finished: run the same prepare command again"):
            look(own_data)


def test_a_kill_while_finishing_leaves_no_finished_dataset(
    own_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = json.loads((own_data / "dataset.json").read_bytes())
    whole = {p.name: p.read_bytes() for p in own_data.iterdir() if p.is_file()}
    for last in ("SHA256SUMS", "dataset.json"):

        def killed(path: Path, last: str = last) -> AbstractContextManager[Path]:
            if path.name == last:
                raise KeyboardInterrupt
            return atomic_file(path)

        monkeypatch.setattr(shards, "atomic_file", killed)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(own_data, about)
        assert not (own_data / "dataset.json").exists()
    monkeypatch.undo()
    write_dataset(own_data, about)
    assert {p.name: p.read_bytes() for p in own_data.iterdir() if p.is_file()} == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "does not describe a dataset of soundsight"),
        ({"format_version": 2}, "is of format version 2, and this soundsight reads 1"),
        ({"splits": {"train": {}}}, "is damaged: 'shards' is not as expected"),
        ({"splits": 3}, "is damaged: .* is not as expected"),
        ({"image_px": "96"}, "is damaged: image_px is not as expected"),
        ({"files": None}, "is damaged: files is not as expected"),
        ("../train.tar", "name of a shard is not as expected"),
    ],
)
def test_a_foreign_dataset_json_is_one_line(own_data: Path, change: object, words: str) -> None:
    about = json.loads((own_data / "dataset.json").read_bytes())
    if isinstance(change, dict):
        about |= change
    else:
        about["splits"]["train"]["shards"][0]["name"] = change  # a shard may not point outside
    (own_data / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=words) as caught:
        open_dataset(own_data)
    assert "\n" not in str(caught.value)


def test_checksums_are_those_of_sha256sum(toy_data: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    command = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    done = subprocess.run(command, cwd=toy_data, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = sorted(line.split(": ")[0] for line in done.stdout.splitlines())
    files = (p.relative_to(toy_data).as_posix() for p in toy_data.rglob("*") if p.is_file())
    assert seen == sorted(set(files) - {"SHA256SUMS"})


# --- verification ------------------------------------------------------------------------------


def names(data: Path) -> list[str]:
    return sorted(p.relative_to(data).as_posix() for p in data.rglob("*") if p.is_file())


def test_nothing_is_wrong_with_a_whole_dataset(own_data: Path) -> None:
    (own_data / ".hidden").mkdir()
    (own_data / ".hidden" / "x").write_text("x")
    steps: list[tuple[int, int]] = []
    assert list(verify(own_data, progress=lambda *step: steps.append(step))) == []
    total = sum((own_data / n).stat().st_size for n in names(own_data)) - 1
    total -= (own_data / "SHA256SUMS").stat().st_size
    assert steps[-1] == (total, total)
    assert list(verify(own_data, deep=False)) == []


@pytest.mark.slow
@given(data=st.data())
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_flipped_byte_is_found(toy_data: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names(toy_data)))
    path = toy_data / name
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    bits = data.draw(st.integers(1, 255))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])
    try:
        problems = list(verify(toy_data))
    finally:
        path.write_bytes(whole)
    assert problems
    assert all("\n" not in str(problem) for problem in problems)
    if name.endswith(".tar"):
        entries = json.loads((toy_data / name.replace(".tar", ".index.json")).read_bytes())
        hurt = []
        for entry in entries["records"]:
            start = min(offset for offset, _ in entry["files"].values()) - 512
            end = max(offset + -(-size // 512) * 512 for offset, size in entry["files"].values())
            hurt += [entry["key"]] if start <= at < end else []
        assert [p.key for p in problems] == (hurt or [None])
    elif not name.startswith("SHA"):
        assert name in {problem.file for problem in problems}


@pytest.mark.slow
def test_every_byte_of_the_checksums_counts(toy_data: Path) -> None:
    path = toy_data / "SHA256SUMS"
    whole = path.read_bytes()
    try:
        for at in range(len(whole)):
            for bits in (1, 32) if at % 8 == 0 else (1,):
                path.write_bytes(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])
                assert list(verify(toy_data, deep=False)), at
    finally:
        path.write_bytes(whole)


def test_every_cut_and_every_appended_byte_is_found(own_data: Path) -> None:
    for name in names(own_data):
        whole = (own_data / name).read_bytes()
        for extra in (b"\n", b"\0", b"more"):
            (own_data / name).write_bytes(whole + extra)
            assert [p.file for p in verify(own_data)] == [name]
        for cut in {0, 1, len(whole) // 2, len(whole) - 1}:
            (own_data / name).write_bytes(whole[:cut])
            assert name in {p.file for p in verify(own_data)}
            if name.endswith(".tar"):
                assert name in {p.file for p in verify(own_data, deep=False)}
        (own_data / name).write_bytes(whole)
    tar = own_data / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    (problem,) = verify(own_data)
    assert "is cut short at byte 5000: 4 pairs are lost, from " in problem.what


def test_every_removed_and_every_foreign_file_is_found(own_data: Path) -> None:
    for name in names(own_data):
        whole = (own_data / name).read_bytes()
        (own_data / name).unlink()
        assert Problem(file=name, what="is missing") in list(verify(own_data, deep=False))
        (own_data / name).write_bytes(whole)
    shutil.copy(own_data / "train-000000.tar", own_data / "train-000002.tar")
    (own_data / "dropped" / "b\n.png").write_bytes(b"")
    found = sorted((p.file, p.what) for p in verify(own_data))
    what = "does not belong to the dataset"
    assert found == [("dropped/b\n.png", what), ("train-000002.tar", what)]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_the_damaged_pair_is_named(own_data: Path) -> None:
    index, tar = (own_data / f"train-000001.{end}" for end in ("index.json", "tar"))
    entry = json.loads(index.read_bytes())["records"][1]
    for name in ("jpg", "mel.png", "json"):
        offset, _ = entry["files"][name]
        flip(tar, offset)
        (problem,) = verify(own_data)
        assert problem.key == entry["key"]
        assert str(problem) == f"train-000001.tar: the pair {entry['key']} is damaged"
        flip(tar, offset)
    flip(tar, offset)
    index.unlink()
    found = [str(problem) for problem in verify(own_data)]
    assert found == ["train-000001.index.json: is missing", "train-000001.tar: is damaged"]


def test_a_damaged_checksum_is_told_from_a_damaged_shard(own_data: Path) -> None:
    sums = own_data / "SHA256SUMS"
    at = sums.read_bytes().index(b"train-000000.tar") - 10
    digit = b"1" if sums.read_bytes()[at : at + 1] == b"0" else b"0"
    sums.write_bytes(sums.read_bytes()[:at] + digit + sums.read_bytes()[at + 1 :])
    (problem,) = verify(own_data)
    assert str(problem) == "SHA256SUMS: its checksum of train-000000.tar is damaged"


def test_reading_a_damaged_pair_says_which(own_data: Path) -> None:
    index = json.loads((own_data / "train-000000.index.json").read_bytes())
    entry = index["records"][2]
    flip(own_data / "train-000000.tar", entry["files"]["jpg"][0] + 30)
    data = open_dataset(own_data)
    assert data.record("train", 1)
    with pytest.raises(DataError, match=f"the pair {entry['key']} is damaged: run  soundsight"):
        data.record("train", 2)
    flip(own_data / "val-000000.index.json", 100)
    with pytest.raises(DataError, match=r"val-000000\.index\.json is damaged: run"):
        data.record("val", 0)
