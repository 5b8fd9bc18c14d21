"""Everyday's folder, its seconds, and the table that pairs them with photos."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from soundsight.core.errors import DataError
from soundsight.core.units import RATE_HZ
from soundsight.data.everyday.folder import (
    ALERTS,
    KINDS,
    OF_BENCH,
    SUBJECTS,
    Everyday,
    find_everyday,
    photos_of,
)
from soundsight.data.everyday.pairs import checked_pairs, make_pairs, write_pairs
from soundsight.data.everyday.sounds import (
    HALF_SECOND,
    audible,
    bands_above,
    darkened,
    read_seconds,
    read_sound,
    recording_ids,
)
from soundsight.data.vegas.bench import Bench, Pair, find_bench
from soundsight.media.audio import decode
from soundsight.media.mel import log_mel
from soundsight.media.segments import segments


def written(everyday: Everyday, bench: Bench, path: Path, **changes: int) -> list[Pair]:
    seconds = read_seconds(everyday, everyday.sounds("train"), hop=HALF_SECOND)
    write_pairs(path, make_pairs(everyday, bench, seconds, "train", **changes))
    return checked_pairs(everyday, bench, path, "train")


def test_kinds_are_22_subjects_and_6_alerts_in_one_order() -> None:
    assert (len(SUBJECTS), len(ALERTS), len(set(KINDS))) == (22, 6, 28)
    assert SUBJECTS[: len(OF_BENCH)] == tuple(OF_BENCH)


def test_tables_and_photos_are_read(toy_everyday: Everyday) -> None:
    sounds = toy_everyday.sounds("val")
    assert Counter(s.kind for s in sounds) == {"baby": 3, "cat": 3, "knock": 3}
    assert {s.kind for s in toy_everyday.others("train")} == {"pig"}
    name = toy_everyday.photos("devtest")[0]
    assert name == "baby/baby_0000_devtest.jpg"
    assert toy_everyday.photo(name).shape == (96, 96, 3)
    with pytest.raises(DataError, match="unknown split"):
        toy_everyday.sounds("test")
    with pytest.raises(DataError, match=r"has no cat/none\.jpg among the photos"):
        toy_everyday.photo("cat/none.jpg")


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        (None, "no Everyday data"),
        ("sounds.csv", "lack sounds.csv"),
        ("photos-val.tar", "lack photos-val.tar"),
        ("sounds/cat/cat_0_train.ogg", "lack sounds/cat/cat_0_train.ogg"),
    ],
)
def test_what_is_missing_is_named_in_one_line(
    everyday_root: Path, part: str | None, complaint: str
) -> None:
    if part is None:
        everyday_root = everyday_root / "nowhere"
    else:
        (everyday_root / part).unlink()
    with pytest.raises(DataError, match=complaint) as caught:
        find_everyday(everyday_root)
    assert "\n" not in str(caught.value)


def test_damaged_tables_and_tars_are_refused(everyday_root: Path) -> None:
    table = everyday_root / "sounds.csv"
    good = table.read_text()
    for bad, complaint in (
        (good.replace("val,cat", "val,unicorn"), "unknown split or subject"),
        (good.replace("split,subject", "split,class"), "columns must be"),
        (good.replace(",44100,", ",fast,"), "cannot be read"),
        (good + "train,cat\n", "fields are expected"),
    ):
        table.write_text(bad)
        with pytest.raises(DataError, match=complaint):
            find_everyday(everyday_root)
    table.write_text(good)
    tar = everyday_root / "photos-train.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(DataError, match="truncated"):
        find_everyday(everyday_root)


def test_seconds_are_those_that_the_product_hears(toy_everyday: Everyday) -> None:
    sounds = toy_everyday.sounds("val")
    heard = read_seconds(toy_everyday, sounds)
    expected = [
        segment.mel for sound in sounds for segment in segments([decode(toy_everyday.path(sound))])
    ]
    assert np.array_equal(heard.mels, np.stack(expected))
    # 2 s, .4 s filled up, and 1.6 s of which the last part counts.
    assert np.bincount(heard.sound)[:3].tolist() == [2, 1, 2]
    halves = read_seconds(toy_everyday, sounds[:1], hop=HALF_SECOND)
    assert halves.first.tolist() == [0, 50, 100]
    assert np.array_equal(halves.mels[[0, 2]], heard.mels[:2])


def test_a_low_rate_takes_the_high_bands(tmp_path: Path) -> None:
    path = tmp_path / "hiss.wav"
    hiss = np.random.default_rng(0).normal(0, 0.1, RATE_HZ)
    soundfile.write(path, hiss, RATE_HZ)
    rows = bands_above(4000.0)
    assert 30 < rows < 45
    assert bands_above(20_000.0) == 0
    whole = log_mel(read_sound(path))
    narrow = log_mel(read_sound(path, narrow_hz=8000))
    assert whole[: rows - 3].min() > 50
    assert narrow[: rows - 3, 5:95].max() == 0
    dark = darkened(whole[None], 4000.0)[0]
    assert dark[:rows].max() == 0
    assert np.array_equal(dark[rows:], whole[rows:])


def test_inaudible_seconds_and_recording_numbers() -> None:
    mels = np.zeros((2, 128, 100), np.uint8)
    mels[1] = 3
    assert audible(mels).tolist() == [False, True]
    assert recording_ids(["b", "a", "b"]).tolist() == [0, 1, 0]


def test_pairs_keep_to_their_subject_and_use_every_photo(
    toy_everyday: Everyday, toy_bench: Bench, tmp_path: Path
) -> None:
    pairs = written(toy_everyday, toy_bench, tmp_path / "pairs.csv", rows_each=40)
    seconds = read_seconds(toy_everyday, toy_everyday.sounds("train"), hop=HALF_SECOND)
    heard = {
        f"{seconds.sounds[sound].file}@{first // HALF_SECOND}"
        for sound, first in zip(seconds.sound, seconds.first, strict=True)
    }
    assert all(p.spectrogram.startswith("bench:") or p.spectrogram in heard for p in pairs)
    there = photos_of(toy_everyday, toy_bench, "train")
    for pair in pairs:
        assert pair.photo in there[pair.subject]
    for subject in {pair.subject for pair in pairs}:
        own = [pair for pair in pairs if pair.subject == subject]
        assert len(own) >= 40
        assert {pair.photo for pair in own} == set(there[subject])
    assert not {"knock", "pig"} & {pair.subject for pair in pairs}
    # The bench's inaudible second is left out, its train is called by Everyday's name.
    assert "bench:c001_s00003_w000.jpg" not in {pair.spectrogram for pair in pairs}
    assert {p.subject for p in pairs if "c003" in p.video} == {"train"}
    # The same seed deals the same photos, another one others.
    again = written(toy_everyday, toy_bench, tmp_path / "again.csv", rows_each=40)
    other = written(toy_everyday, toy_bench, tmp_path / "other.csv", rows_each=40, seed=1)
    assert again == pairs
    assert other != pairs


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("cat/cat_0001_train.jpg", "cat/cat_0001_val.jpg", "names the photo cat/cat_0001_val.jpg"),
        ("sounds/cat/cat_0_train", "sounds/cat/cat_9_train", "names the sound"),
        ("split,class", "split,kind", "columns must be"),
    ],
)
def test_a_table_that_names_what_is_not_there_is_refused(
    toy_everyday: Everyday, toy_bench: Bench, tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    path = tmp_path / "pairs.csv"
    written(toy_everyday, toy_bench, path, rows_each=12)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=complaint):
        checked_pairs(toy_everyday, toy_bench, path, "train")


def test_the_shared_data_are_whole() -> None:
    try:
        everyday, bench = find_everyday(), find_bench()
    except DataError as error:
        pytest.skip(str(error))
    assert {s.kind for s in everyday.sounds("train")} == set(KINDS)
    assert {s.split: s.recording for s in everyday.sounds("train")}.keys() == {"train"}
    for split in ("val", "devtest"):
        assert not {s.recording for s in everyday.sounds(split)} & {
            s.recording for s in everyday.sounds("train")
        }
    assert all(photos_of(everyday, bench, "train").values())
