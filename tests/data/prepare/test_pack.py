"""From parts to a dataset: counts that add up, splits that do not leak, work done once."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from soundsight.core.errors import ConfigError, DataError, OutputError
from soundsight.data.prepare import pack as room
from soundsight.data.prepare.duplicates import VideoPrint
from soundsight.data.prepare.pack import (
    DUPLICATES,
    SHEET_PAIRS,
    PackConfig,
    StagedPairs,
    _place,
    pack,
    parse_shares,
    split_of,
    splits_of,
)
from soundsight.data.prepare.staging import NoSpaceError, Stage
from soundsight.data.records import SPLITS, Clip, Record, rank_of, stable_hash
from soundsight.data.store.shards import decode_image, decode_mel, open_dataset, write_shard
from soundsight.data.store.verify import verify

ABOUT = {"soundsight": "0", "settings": {}, "inputs": {}, "mel_bands": 128, "mel_frames": 100,
         "image_px": 96}  # fmt: skip
SHARES = (0.8, 0.1, 0.1)
BOUND = 25_000
"""Bytes of a shard: about four of the made records."""
PLAIN = PackConfig(steps=(), duplicates=False)
CLEANED = PackConfig(steps=("silence", "black"), duplicates=False)


@dataclass
class World:
    """A workplace with parts of made records."""

    folder: Path
    make_record: Callable[..., Record]
    clips: list[Clip] = field(default_factory=list)

    def add(
        self,
        name: str,
        windows: int = 3,
        *,
        group: str | None = None,
        split: str | None = None,
        label: str | None = None,
        reasons: dict[int, tuple[str, ...]] | None = None,
        likeness: VideoPrint | None = None,
        **known: Any,
    ) -> None:
        clip = Clip(path="", key=f"{name}.mp4", group=group or name, split=split, label=label)
        self.clips.append(clip)
        rng = np.random.default_rng(stable_hash(name) % 2**32)
        about = {"clip": clip.key, "unseen": 0, **known}
        if likeness is not None:
            about["content"] = clip.id
            about["print"] = replace(likeness, key=f"{rank_of(clip)} {clip.id}").to_json()
        windows = 0 if "failure" in known else windows
        records = [self.make_record(clip, number, rng) for number in range(windows)]
        part = self.folder / ".work" / "parts" / clip.id[:2] / f"{clip.id}.tar"
        write_shard(
            part,
            [
                replace(record, reasons=(reasons or {}).get(number, ()), sums=sums_of(record))
                for number, record in enumerate(records)
            ],
            about,
        )

    def pack(self, config: PackConfig = PLAIN, **options: Any) -> dict[str, Any]:
        with Stage(self.folder, {}) as stage:
            pack(stage, self.clips, config, ABOUT, **options)
        about: dict[str, Any] = json.loads((self.folder / "dataset.json").read_text("utf-8"))
        return about

    def clips_of(self, split: str) -> set[str]:
        return {about["clip"] for about in sidecars(self.folder, split)}


def filled(world: World, count: int, windows: int = 3, **known: Any) -> World:
    for k in range(count):
        world.add(f"v{k}", windows, **known)
    return world


def sums_of(record: Record) -> tuple[int, ...]:
    sums: list[int] = []
    for levels in (
        decode_mel(record.files["mel.png"]).reshape(-1, 1),
        decode_image(record.files["jpg"]).reshape(-1, 3),
    ):
        for channel in levels.astype(np.int64).T:
            sums += [int(channel.sum()), int((channel**2).sum())]
    return tuple(sums)


@pytest.fixture
def new_world(tmp_path: Path, make_record: Callable[..., Record]) -> Callable[[], World]:
    numbers = itertools.count()
    return lambda: World(tmp_path / f"data{next(numbers)}", make_record)


@pytest.fixture
def world(new_world: Callable[[], World]) -> World:
    return new_world()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sidecars(folder: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(record.files["json"]) for record in open_dataset(folder).records(split)]


# --- counts, statistics, shards ------------------------------------------------------------------


def test_counts_add_up(world: World) -> None:
    for k in range(6):
        world.add(f"plain {k}", label=("dog", "rain")[k % 2])
    world.add("dull", 5, reasons={0: ("silence",), 1: ("silence", "black"), 2: ("black",)})
    world.add("blind", 2, unseen=4)
    world.add("broken", failure="it is broken")
    about = world.pack(CLEANED, skipped=[("note.mp4", "no regular file")])
    assert about["counts"] == {
        "clips": 10, "failed": 2, "damaged": 0, "sound_without_picture": 4,
        "pairs_cut": 6 * 3 + 5 + 2, "pairs": 22,
        # A pair that two steps would drop counts for the first alone.
        "cleaning": [
            {"step": "silence", "before": 25, "dropped": 2, "after": 23},
            {"step": "black", "before": 23, "dropped": 1, "after": 22},
        ],
    }  # fmt: skip
    assert sum(part["pairs"] for part in about["splits"].values()) == 22
    assert sum(part["videos"] for part in about["splits"].values()) == 8
    assert about["labels"] == ["dog", "rain"]
    assert about["files"] == ["jpg", "json", "mel.png"]
    for split, part in about["splits"].items():
        told = sidecars(world.folder, split)
        assert part["pairs"] == len(told) == sum(shard["pairs"] for shard in part["shards"])
        assert part["videos"] == len({row["clip"] for row in told})
        assert part["groups"] == len({row["group"] for row in told})
    table = (world.folder / "failures.csv").read_text()
    assert table == "path,reason\nbroken.mp4,it is broken\nnote.mp4,no regular file\n"
    assert list(verify(world.folder)) == []
    assert not (world.folder / ".work").exists()


def test_statistics_are_those_of_the_train_pairs_as_they_are_stored(world: World) -> None:
    about = filled(world, 10, reasons={1: ("black",)}).pack(CLEANED)
    folder = open_dataset(world.folder)
    mels, images = [], []
    for record in folder.records("train"):
        mel, image = folder.decode(record)
        assert image is not None
        mels.append(mel)
        images.append(image.reshape(-1, 3))
    assert 0 < len(mels) < about["counts"]["pairs"]
    told = about["statistics"]
    assert (told["split"], told["pairs"]) == ("train", len(mels))
    assert told["mel_mean"] == pytest.approx(np.mean(mels), abs=1e-4)
    assert told["mel_std"] == pytest.approx(np.std(mels), abs=1e-4)
    pixels = np.concatenate(images).astype(np.float64)
    assert told["image_mean"] == pytest.approx(pixels.mean(axis=0).tolist(), abs=1e-4)
    assert told["image_std"] == pytest.approx(pixels.std(axis=0).tolist(), abs=1e-4)


def test_no_statistics_without_training_pairs(world: World) -> None:
    world.add("v")
    about = world.pack(replace(PLAIN, shares=(0.0, 0.0, 1.0)))
    assert about["statistics"] == {}
    assert about["splits"]["train"] == {"pairs": 0, "videos": 0, "groups": 0, "shards": []}


def test_the_bound_on_a_shard_is_kept(new_world: Callable[[], World]) -> None:
    world = filled(new_world(), 8)
    about = world.pack(replace(PLAIN, shares=(1.0, 0.0, 0.0), shard_bytes=BOUND))
    shards = about["splits"]["train"]["shards"]
    assert len(shards) > 3
    for shard in shards:
        assert shard["bytes"] == (world.folder / shard["name"]).stat().st_size <= BOUND
    assert [shard["name"] for shard in shards] == [f"train-{k:06d}.tar" for k in range(len(shards))]
    # No shard is closed while the next pair would still fit.
    assert min(shard["bytes"] for shard in shards[:-1]) > BOUND - 10_000
    # A bound smaller than one pair gives a shard a pair.
    world = filled(new_world(), 1, 4)
    about = world.pack(replace(PLAIN, shares=(1.0, 0.0, 0.0), shard_bytes=1))
    assert [shard["pairs"] for shard in about["splits"]["train"]["shards"]] == [1, 1, 1, 1]
    assert list(verify(world.folder)) == []


def test_the_bytes_depend_on_the_clips_not_on_their_order(new_world: Callable[[], World]) -> None:
    world, other = (filled(new_world(), 7, reasons={0: ("black",)}) for _ in range(2))
    other.clips.reverse()
    for each in (world, other):
        each.pack(CLEANED)
    assert contents(world.folder) == contents(other.folder)


def test_what_is_damaged_in_part_is_counted_and_named(world: World) -> None:
    world.add("a", 2, damage="is cut short")
    world.add("b", 1)
    counts = world.pack()["counts"]
    assert (counts["damaged"], counts["failed"], counts["pairs"]) == (1, 0, 3)
    assert (world.folder / "damaged.csv").read_text() == "path,reason\na.mp4,is cut short\n"
    assert list(verify(world.folder)) == []
    # The next dataset in this place does not inherit the table.
    again = World(world.folder, world.make_record)
    again.add("b", 1)
    assert again.pack()["counts"]["damaged"] == 0
    assert not (world.folder / "damaged.csv").exists()
    assert list(verify(world.folder)) == []


# --- splits ---------


def test_shares_are_met_roughly() -> None:
    counts = Counter(split_of(f"videos/clip {k}", SHARES) for k in range(2000))
    for split, share in zip(SPLITS, SHARES, strict=True):
        # Four standard deviations of a fair draw.
        spread = 4 * (share * (1 - share) / 2000) ** 0.5
        assert abs(counts[split] / 2000 - share) < spread


def test_the_split_of_a_name_never_changes() -> None:
    """Datasets in the world depend on these very values."""
    known = dict.fromkeys("abfg犬\udcff", "train") | {"c": "test", "h": "test"}
    known |= {"d": "val", "e": "val"}
    assert {name: split_of(name, (0.5, 0.25, 0.25)) for name in known} == known


@pytest.mark.parametrize(
    ("shares", "allowed"),
    [
        ((1.0, 0.0, 0.0), {"train"}),
        ((0.0, 1.0, 0.0), {"val"}),
        ((0.0, 0.0, 1.0), {"test"}),
        ((0.9, 0.1, 0.0), {"train", "val"}),
        ((0.7 + 0.2, 0.0, 0.1), {"train", "test"}),
    ],
)
def test_an_empty_split_stays_empty(shares: tuple[float, ...], allowed: set[str]) -> None:
    assert {split_of(f"clip {k}", shares) for k in range(500)} == allowed


def test_a_smaller_train_share_only_moves_groups_out_of_train() -> None:
    names = [f"clip {k}" for k in range(500)]
    small = {name for name in names if split_of(name, (0.5, 0.25, 0.25)) == "train"}
    large = {name for name in names if split_of(name, SHARES) == "train"}
    assert small < large


@settings(max_examples=30)
@given(
    names=st.sets(st.text(max_size=6), min_size=1, max_size=9),
    shares=st.sampled_from([SHARES, (0.9, 0.1, 0.0), (0.0, 0.5, 0.5), (1.0, 0.0, 0.0)]),
)
def test_no_split_stays_empty_that_can_be_filled(
    names: set[str], shares: tuple[float, float, float]
) -> None:
    found = splits_of(names, shares, {})
    assert (
        found == splits_of(sorted(names), shares, {}) == splits_of(sorted(names)[::-1], shares, {})
    )
    asked = {split for split, share in zip(SPLITS, shares, strict=True) if share}
    counts = Counter(found.values())
    assert counts.keys() <= asked
    assert len(counts) == min(len(names), len(asked))
    # No more are moved than there were empty splits.
    by_name = {name: split_of(name, shares) for name in names}
    moved = [name for name in names if found[name] != by_name[name]]
    assert len(moved) == len(counts) - len(set(by_name.values()))


def test_the_nearest_name_stands_in_until_one_of_its_own_comes() -> None:
    shares = (0.5, 0.25, 0.25)
    assert splits_of("abf", shares, {}) == {"a": "train", "b": "train", "f": "train"} | {
        max("abf", key=_place): "val",
        sorted("abf", key=_place)[1]: "test",
    }
    assert splits_of("abfdc", shares, {}) == {
        "a": "train", "b": "train", "f": "train", "d": "val", "c": "test",
    }  # fmt: skip


def test_what_a_source_asks_for_is_kept() -> None:
    names = [f"clip {k}" for k in range(4)]
    fixed = dict.fromkeys(names, "train")
    assert splits_of(names, SHARES, fixed) == fixed
    free = next(name for name in names if split_of(name, SHARES) == "train")
    del fixed[free]
    assert splits_of(names, SHARES, fixed) == fixed | {free: "val"}


@pytest.mark.parametrize(
    "text",
    ["", "0.8", "1", "0.8,0.1,0.2", "0.8;0.2", "1.2,-0.1,-0.1", "nan,0.5,0.5", "inf,0,0", "a,b,c",
     "0.7,0.1,0.1,0.1"],
)  # fmt: skip
def test_shares_that_are_none_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"\A[^\n]*three shares that sum to 1[^\n]*\Z"):
        parse_shares(text)
    assert parse_shares("0.8,0.1,0.1") == SHARES
    assert parse_shares("0.9,0.1") == (0.9, 0.1, 0.0)
    assert parse_shares(" 1, 0, 0 ") == (1.0, 0.0, 0.0)


# --- groups and twins ---------


def test_clips_of_one_group_stay_together(world: World) -> None:
    for k in range(30):
        world.add(f"clip {k}", 1, group=f"group {k % 10}")
    world.pack(replace(PLAIN, shares=(0.4, 0.3, 0.3)))
    groups = [{about["group"] for about in sidecars(world.folder, split)} for split in SPLITS]
    assert all(groups)
    assert sum(map(len, groups)) == 10


def test_adding_videos_moves_no_other(new_world: Callable[[], World]) -> None:
    few, many = filled(new_world(), 12, 1), filled(new_world(), 20, 1)
    for world in (few, many):
        world.pack(replace(PLAIN, shares=(0.4, 0.3, 0.3)))
    for split in SPLITS:
        assert few.clips_of(split) <= many.clips_of(split)


def test_three_videos_make_three_splits(new_world: Callable[[], World]) -> None:
    """Whatever their names; a video whose pairs are all dropped fills none."""
    for number in range(4):
        world = new_world()
        for k in range(3):
            world.add(f"clip {number} {k}", 1)
        world.add("black", 1, reasons={0: ("black",)})
        world.add("broken", failure="no video")
        about = world.pack(replace(CLEANED, shares=(0.8, 0.1, 0.1)))
        assert [part["videos"] for part in about["splits"].values()] == [1, 1, 1]


def test_what_a_manifest_reserves_is_respected(world: World) -> None:
    for k in range(12):
        world.add(f"clip {k}", 1, split=("train", "val", "test", None)[k % 4])
    world.pack(replace(PLAIN, shares=(1.0, 0.0, 0.0)))
    assert world.clips_of("val") == {f"clip {k}.mp4" for k in (1, 5, 9)}
    assert world.clips_of("test") == {f"clip {k}.mp4" for k in (2, 6, 10)}
    assert len(world.clips_of("train")) == 6


def test_a_group_that_a_manifest_tears_apart_does_not_leak(world: World) -> None:
    world.add("a", 2, group="g", split="train")
    world.add("b", 1, group="g", split="test")
    world.add("c", 1, group="g")
    world.add("d", 1)
    about = world.pack(replace(PLAIN, shares=(1.0, 0.0, 0.0)))
    assert world.clips_of("test") == {"b.mp4", "c.mp4"}
    assert world.clips_of("train") == {"d.mp4"}
    assert about["counts"]["cleaning"] == [
        {"step": DUPLICATES, "before": 5, "dropped": 2, "after": 3}
    ]


def likeness(picture_seed: int, sound_seed: int, seconds: int = 10) -> VideoPrint:
    """What two videos have in common: pictures by one seed, sound by another."""
    pictures, sounds = np.random.default_rng(picture_seed), np.random.default_rng(1000 + sound_seed)
    count = 20 * seconds
    return VideoPrint(
        key="",
        pictures=pictures.integers(0, 2**64, seconds, dtype=np.uint64),
        sounds=sounds.integers(0, 2**32, count, dtype=np.uint32),
        sound_at=np.arange(count, dtype=np.int32),
    )


ALIKE = replace(PLAIN, duplicates=True, shares=(0.5, 0.25, 0.25))


def test_a_near_duplicate_of_a_test_video_is_in_no_other_split(world: World) -> None:
    """Twins in picture, in sound, or in both, whichever way their own names would have gone."""
    names = [f"clip {k}" for k in range(60)]
    train = [name for name in names if split_of(name, ALIKE.shares) == "train"]
    test = [name for name in names if split_of(name, ALIKE.shares) == "test"]
    assert min(len(train), len(test)) >= 6
    for k in range(6):
        kinds = [(k, k), (k, 100 + k), (200 + k, k)]
        world.add(test[k], 2, likeness=likeness(k, k))
        world.add(train[k], 2, likeness=likeness(*kinds[k % 3]))
    about = world.pack(ALIKE)
    found = {split: world.clips_of(split) for split in SPLITS}
    home = {clip: split for split, clips in found.items() for clip in clips}
    for k in range(6):
        a, b = f"{test[k]}.mp4", f"{train[k]}.mp4"
        if k % 3 == 0:
            # The same in both: one of the two is enough.
            assert len({a, b} & set(home)) == 1
        else:
            assert home[a] == home[b]
    assert about["counts"]["cleaning"] == [
        {"step": DUPLICATES, "before": 24, "dropped": 4, "after": 20}
    ]
    assert list(verify(world.folder)) == []


def test_of_twins_the_one_that_is_reserved_for_evaluation_is_kept(world: World) -> None:
    for k in range(8):
        world.add(f"a {k}", 1, split="train", likeness=likeness(k, k))
        world.add(f"b {k}", 1, split="test", likeness=likeness(k, k))
        world.add(f"c {k}", 1, split="train", likeness=likeness(k, 500 + k))
    world.add("other", 1, split="train", likeness=likeness(900, 900))
    world.pack(ALIKE)
    assert world.clips_of("test") == {f"b {k}.mp4" for k in range(8)}
    # What shares but its pictures with a test video leaks as well.
    assert world.clips_of("train") == {"other.mp4"}


def test_without_the_step_twins_stay_where_they_are(world: World) -> None:
    about = filled(world, 4, 1, likeness=likeness(0, 0)).pack(PLAIN)
    assert (about["counts"]["pairs"], about["counts"]["cleaning"]) == (4, [])


# --- learned steps -------


class Brightness:
    """Scores a pair by the mean level of its picture, and remembers what it was shown."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.labels: list[str | None] = []
        self.scores: list[float] = []

    def __call__(self, pairs: StagedPairs, work: Path) -> NDArray[np.float32]:
        assert work.is_dir()
        mels, images = pairs.gather(range(len(pairs)))
        assert mels.shape == (len(pairs), 128, 100)
        assert images.shape == (len(pairs), 96, 96, 3)
        assert len(pairs.videos) == len(pairs.photos) == len(pairs)
        scores = images.mean(axis=(1, 2, 3)).astype(np.float32)
        self.keys, self.labels, self.scores = pairs.keys, pairs.labels, scores.tolist()
        return scores


def test_a_learned_step_drops_the_share_that_agrees_worst(world: World) -> None:
    for k in range(10):
        world.add(f"v{k}", 3, label="dog", reasons={2: ("black",)})
    scorer, drawn = Brightness(), []
    about = world.pack(
        replace(CLEANED, coherence_share=0.3),
        scorers={"coherence": scorer},
        draw=lambda step, dropped, _, path: drawn.append((step, dropped, path.write_bytes(b"x"))),
    )
    assert about["counts"]["cleaning"][-1] == {
        "step": "coherence", "before": 20, "dropped": 6, "after": 14,
    }  # fmt: skip
    assert scorer.labels == ["dog"] * 20
    order = np.argsort(scorer.scores)
    lost = {scorer.keys[i] for i in order[:6]}
    left = {row["key"] for split in SPLITS
            for row in sidecars(world.folder, split)}  # fmt: skip
    assert left == set(scorer.keys) - lost
    (shown,) = [dropped for step, dropped, _ in drawn if step == "coherence"]
    assert {record.key for record, _ in shown} == lost
    assert all(note.startswith("agreement ") for _, note in shown)


# --- sheets --------------------------------------------------------------------------------------


def test_every_step_that_dropped_has_a_sheet(world: World) -> None:
    for k in range(40):
        world.add(f"v{k}", 4, reasons={0: ("black",), 1: ("black", "text"), 2: ("silence",)},
                  likeness=likeness(k // 2, k // 2))  # fmt: skip
    drawn: dict[str, Sequence[tuple[Record, str]]] = {}

    def draw(step: str, dropped: Sequence[tuple[Record, str]], total: int, path: Path) -> None:
        assert len(dropped) <= total
        drawn[step] = dropped
        path.write_bytes(step.encode())

    about = world.pack(replace(ALIKE, steps=("silence", "black")), draw=draw)
    assert sorted(drawn) == ["black", DUPLICATES, "silence"]
    assert sorted(os.listdir(world.folder / "dropped")) == [f"{step}.png" for step in sorted(drawn)]
    # At most so many pairs, drawn by their names' hashes.
    assert len(drawn["black"]) == SHEET_PAIRS
    assert len(drawn["silence"]) == 40
    assert {note for _, note in drawn["black"]} == {"black", "black, text"}
    assert all(note.startswith("as in v") for _, note in drawn[DUPLICATES])
    assert {step["step"]: step["dropped"] for step in about["counts"]["cleaning"]} == {
        "silence": 40, "black": 80, DUPLICATES: 20,
    }  # fmt: skip
    assert "dropped/black.png" in (world.folder / "SHA256SUMS").read_text()


# --- nothing left, interrupted runs, full disks --------------------------------------------------


def test_nothing_left_is_one_line_and_says_what_became_of_the_videos(world: World) -> None:
    world.add("dull", 2, reasons={0: ("silence",), 1: ("black",)})
    world.add("broken", failure="it is broken")
    with pytest.raises(DataError, match=r"no pair is left .* cleaning dropped 2.*failures\.csv"):
        world.pack(CLEANED, skipped=[("x.mp4", "no regular file")])
    text = (world.folder / "failures.csv").read_text()
    assert text == "path,reason\nbroken.mp4,it is broken\nx.mp4,no regular file\n"
    assert not (world.folder / "dataset.json").exists()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are written, by name."""
    names: list[str] = []
    real = room.write_shard

    def write(path: Path, records: Any) -> Any:
        info = real(path, records)
        names.append(path.name)
        return info

    monkeypatch.setattr(room, "write_shard", write)
    return names


MANY = replace(CLEANED, shares=(1.0, 0.0, 0.0), shard_bytes=BOUND)


class StoppedError(Exception):
    """Stands for whatever ends a run."""


def stop_at(shards: int) -> Callable[[str, int, int], None]:
    finished = 0

    def progress(what: str, done: int, of: int) -> None:
        nonlocal finished
        assert done <= of
        finished += what == "writing pairs"
        if finished == shards:
            raise StoppedError

    return progress


@pytest.fixture
def stopped(world: World, written: list[str]) -> World:
    """A run over eight clips that was stopped after three shards."""
    with pytest.raises(StoppedError):
        filled(world, 8).pack(MANY, progress=stop_at(3))
    written.clear()
    return world


def test_shards_that_are_whole_are_not_written_again(
    stopped: World, new_world: Callable[[], World], written: list[str]
) -> None:
    with pytest.raises(StoppedError):
        stopped.pack(MANY, progress=stop_at(4))
    stopped.pack(MANY)
    again = list(written)
    written.clear()
    fresh = filled(new_world(), 8)
    fresh.pack(MANY)
    assert again == written[3:]
    assert contents(stopped.folder) == contents(fresh.folder)


@pytest.mark.parametrize("damage", ["shorter", "no index", "no tar", "no note"])
def test_a_shard_that_is_not_whole_is_written_again(
    damage: str, stopped: World, written: list[str]
) -> None:
    out = stopped.folder / ".work" / "out"
    if damage == "shorter":
        os.truncate(out / "train-000001.tar", 1000)
    elif damage == "no note":
        note = stopped.folder / ".work" / "shards" / "train-000001.tar.json"
        note.write_bytes(note.read_bytes()[:-20])
    else:
        (out / f"train-000001.{'index.json' if damage == 'no index' else 'tar'}").unlink()
    stopped.pack(MANY)
    assert written[0] == "train-000001.tar"
    assert "train-000000.tar" not in written
    assert list(verify(stopped.folder)) == []


def test_what_a_killed_run_left_behind_is_swept(
    stopped: World, new_world: Callable[[], World]
) -> None:
    """Halves of files, and shards of videos that are no longer named."""
    out = stopped.folder / ".work" / "out"
    (out / ".train-000005.tar.abc.tar").write_bytes(b"half")
    (out / "dropped").mkdir()
    (out / "dropped" / "old.png").write_bytes(b"old")
    del stopped.clips[1:]
    stopped.pack(MANY)
    fresh = filled(new_world(), 1)
    fresh.pack(MANY)
    assert contents(stopped.folder) == contents(fresh.folder)


@pytest.mark.parametrize("where", ["shard", "note", "sheet", "move", "folder"])
def test_a_disk_that_fills_up_stops_cleanly_and_the_run_can_go_on(
    where: str, new_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def draw(step: str, dropped: Sequence[tuple[Record, str]], _: int, path: Path) -> None:
        path.write_bytes(f"{step} {len(dropped)}".encode())

    world, fresh = (filled(new_world(), 5, reasons={0: ("black",)}) for _ in range(2))
    fresh.pack(MANY, draw=draw)
    with monkeypatch.context() as patch:
        if where == "shard":
            patch.setattr("soundsight.data.store.shards._stretch", full)
        elif where == "note":
            patch.setattr(os, "fsync", full)
        elif where == "move":
            patch.setattr(Stage, "_move", full)
        elif where == "folder":
            patch.setattr(Path, "mkdir", full)
        with pytest.raises(OutputError) as error:
            world.pack(MANY, draw=full if where == "sheet" else draw)
    assert isinstance(error.value, NoSpaceError)
    assert "run the same command again" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (world.folder / "dataset.json").exists()
    world.pack(MANY, draw=draw)
    assert contents(world.folder) == contents(fresh.folder)
