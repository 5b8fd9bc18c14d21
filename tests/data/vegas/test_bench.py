"""The bench on disk: read without extraction, refused in one line when damaged."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soundsight.core.errors import DataError
from soundsight.data.vegas.bench import (
    BENCH_VARIABLE,
    DEFAULT_BENCH,
    SPLITS,
    SUBJECTS,
    Bench,
    find_bench,
    fold_of,
    photo_subject,
)


def test_a_member_is_read_as_the_tar_holds_it(toy_bench: Bench) -> None:
    pair = toy_bench.pairs("val")[7]
    with tarfile.open(toy_bench.root / "vegas-audio" / "val-000.tar") as tar:
        wanted = np.asarray(Image.open(tar.extractfile(pair.spectrogram)))
    with tarfile.open(toy_bench.root / "photos" / "val.tar") as tar:
        photo = np.asarray(Image.open(tar.extractfile(pair.photo)))
    mel = toy_bench.spectrogram(pair.spectrogram)
    assert mel.shape == (128, 100)
    assert mel.dtype == np.uint8
    np.testing.assert_array_equal(mel, wanted)
    np.testing.assert_array_equal(toy_bench.photo(pair.photo), photo)
    twin = pickle.loads(pickle.dumps(toy_bench))  # for a worker
    np.testing.assert_array_equal(twin.photo(pair.photo), photo)


def test_pairs_and_photos_are_those_of_the_split(toy_bench: Bench) -> None:
    for split in SPLITS:
        pairs = toy_bench.pairs(split)
        assert Counter(pair.subject for pair in pairs) == dict.fromkeys(SUBJECTS, 12)
        assert {pair.photo for pair in pairs} <= set(toy_bench.photos(split))
        assert all(SUBJECTS[int(pair.video[1:4]) - 1] == pair.subject for pair in pairs)
        assert all(photo_subject(pair.photo) == pair.subject for pair in pairs)
    videos = [{pair.video for pair in toy_bench.pairs(split)} for split in SPLITS]
    assert not videos[0] & videos[1] | videos[0] & videos[2] | videos[1] & videos[2]
    with pytest.raises(DataError, match="unknown split 'test'; choose from train, val, devtest"):
        toy_bench.pairs("test")


def test_folds_are_stable_and_even() -> None:
    names = [f"baby/baby_fairface_{k:04d}.jpg" for k in range(1000)]
    folds = [fold_of(name) for name in names]
    assert 450 < sum(folds) < 550
    # Fixed for ever: published judges and critics depend on it.
    assert folds[:12] == [1, 0, 1, 0, 1, 0, 1, 1, 0, 1, 0, 0]
    assert {fold_of(name, 5) for name in names} == set(range(5))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("pairs.csv", "is incomplete: pairs.csv is missing"),
        ("vegas-audio", "is incomplete: vegas-audio is missing"),
        ("vegas-audio/val-000.tar", "is incomplete: no vegas-audio/val-"),
        ("photos/val.tar", "photos/val.tar is missing"),
    ],
)
def test_a_missing_part_is_named(bench_root: Path, part: str, words: str) -> None:
    path = bench_root / part
    path.rename(bench_root / "elsewhere")
    with pytest.raises(DataError, match=words) as caught:
        find_bench(bench_root)
    assert "\n" not in str(caught.value)


def test_a_truncated_tar_is_refused_wherever_it_was_cut(bench_root: Path) -> None:
    path = bench_root / "photos" / "train.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        places = [(member.offset, member.offset_data, member.size) for member in tar]
    header, data, size = places[-1]
    inside, between, in_header = data + size // 2, header, header + 100
    for cut in (inside, between, in_header, places[3][1] + 7, 0):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"photos/train\.tar (is|has)") as caught:
            Bench(bench_root).photos("train")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("split,class", "part,class", "the columns must be split,class,video"),
        ("devtest,dog", "devtest,cat", "unknown split or class"),
        (",c001_s20000,1,", ",c001_s20000,one,", "cannot be read"),
        (
            "train,baby,c001_s00000,0,c001_s00000_w000.jpg,baby/toy_0000.jpg",
            "train,baby",
            r"pairs\.csv, line 2: 6 fields are expected",
        ),
        ("baby/toy_0000.jpg", "baby/toy_0000.jpg,more", "line 2: 6 fields are expected"),
        (
            "c003_s10001_w002.jpg",
            "c003_s10001_w099.jpg",
            r"no c003_s10001_w099\.jpg in vegas-audio",
        ),
        (
            "val,dog,c002_s10000,0,c002_s10000_w000.jpg,dog/toy_1000.jpg",
            "val,dog,c002_s10000,0,c002_s10000_w000.jpg,dog/toy_0000.jpg",
            r"no dog/toy_0000\.jpg in photos/val\.tar",
        ),
    ],
)
def test_a_damaged_table_is_refused(bench_root: Path, old: str, new: str, words: str) -> None:
    table = bench_root / "pairs.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=words):
        find_bench(bench_root)


def test_pictures_that_do_not_belong_are_refused(bench_root: Path, write_tar, jpeg) -> None:
    pictures = [("baby/a.jpg", jpeg(np.zeros((64, 96, 3), np.uint8))), ("baby/b.jpg", b"no JPEG")]
    write_tar(bench_root / "photos" / "val.tar", pictures)
    bench = Bench(bench_root)
    with pytest.raises(DataError, match=r"baby/a\.jpg is 96x64 pixels, not 96x96"):
        bench.photo("baby/a.jpg")
    with pytest.raises(DataError, match=r"baby/b\.jpg is no readable picture"):
        bench.photo("baby/b.jpg")
    with pytest.raises(DataError, match=r"has no baby/c\.jpg in photos"):
        bench.photo("baby/c.jpg")
    write_tar(bench_root / "photos" / "val.tar", [("cat/a.jpg", b"")])
    with pytest.raises(DataError, match=r"cat/a\.jpg is in none of the folders baby, dog"):
        Bench(bench_root).photos("val")
    with pytest.raises(DataError, match="its folder is none of"):
        photo_subject("cat/a.jpg")


def test_the_bench_is_found_by_option_variable_and_default(
    bench_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(BENCH_VARIABLE, str(tmp_path / "nowhere"))
    assert find_bench(str(bench_root)).root == bench_root
    with pytest.raises(DataError, match=r"no bench at .*nowhere: name its folder with --data"):
        find_bench()
    monkeypatch.setenv(BENCH_VARIABLE, str(bench_root))
    assert find_bench().root == bench_root
    monkeypatch.delenv(BENCH_VARIABLE)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(DataError, match=r"no bench at"):
        find_bench()
    (tmp_path / "shared").mkdir()
    bench_root.rename(tmp_path / "shared" / "data")
    assert find_bench().root == Path(DEFAULT_BENCH)


def test_reading_a_bench_needs_no_torch() -> None:
    code = "import soundsight.data.vegas.bench, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_real_bench_has_the_numbers_it_is_said_to_have() -> None:
    root = Path(os.environ.get(BENCH_VARIABLE) or DEFAULT_BENCH)
    if not root.is_dir():
        pytest.skip(f"no bench at {root}")
    bench = find_bench(root)
    assert [len(bench.pairs(split)) for split in SPLITS] == [20751, 2383, 3719]
    assert [len({p.video for p in bench.pairs(split)}) for split in SPLITS[:2]] == [7398, 860]
    counts = Counter(photo_subject(member) for member in bench.photos("devtest"))
    assert [counts[subject] for subject in SUBJECTS] == [124, 125, 125, 25, 128]
    pair = bench.pairs("devtest")[100]
    assert bench.spectrogram(pair.spectrogram).shape == (128, 100)
    assert bench.photo(pair.photo).shape == (96, 96, 3)
