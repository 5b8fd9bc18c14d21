"""Shares, intervals over videos, and the controls."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from soundsight.core.errors import DataError
from soundsight.data.vegas.bench import SUBJECTS, Bench
from soundsight.evaluation.bench import (
    control_pictures,
    every_judge,
    photo_controls,
    white_noise_mels,
)
from soundsight.evaluation.metrics import MEAN, shares, shuffled
from soundsight.judges.apply import Judges
from soundsight.judges.negatives import EarlyPictures, early_part


def sounds(seed: int = 0) -> tuple[np.ndarray, list[str], list[str]]:
    """Hits, subjects and videos of 3 classes with 12, 9 and 20 videos of 1 to 6 seconds."""
    rng = np.random.default_rng(seed)
    hits, subjects, videos = [], [], []
    for subject, count in (("baby", 12), ("rail", 9), ("water", 20)):
        for v in range(count):
            rate = rng.random()
            for _ in range(int(rng.integers(1, 7))):
                hits.append(rng.random() < rate)
                subjects.append(subject)
                videos.append(f"{subject}{v}")
    order = rng.permutation(len(hits))
    return (
        np.array(hits)[order],
        [subjects[k] for k in order],
        [videos[k] for k in order],
    )


def brute_force(
    hits: np.ndarray, subjects: list[str], videos: list[str], seed: int, by_video: bool
) -> dict[str, tuple[float, float, float]]:
    """Resample with lists and loops, drawing as the code under test is said to draw."""
    result, means = {}, []
    for number, subject in enumerate(SUBJECTS):
        by_name: dict[str, list[float]] = {}
        for hit, s, video in zip(hits, subjects, videos, strict=True):
            if s == subject:
                by_name.setdefault(video, []).append(float(hit))
        if not by_name:
            continue
        groups = [by_name[name] for name in sorted(by_name)]
        if by_video:
            groups = [[sum(group) / len(group)] for group in groups]
        rng = np.random.default_rng((seed, number))
        picked = rng.integers(len(groups), size=(200, len(groups)))
        draws = []
        for row in picked:
            pool = [value for index in row for value in groups[index]]
            draws.append(sum(pool) / len(pool))
        pool = [value for group in groups for value in group]
        means.append((sum(pool) / len(pool), draws))
        result[subject] = (means[-1][0], *np.percentile(draws, [2.5, 97.5]))
    draws = np.mean([draws for _, draws in means], axis=0)
    result[MEAN] = (np.mean([point for point, _ in means]), *np.percentile(draws, [2.5, 97.5]))
    return result


@pytest.mark.parametrize("by_video", [False, True])
def test_intervals_agree_with_a_brute_force_bootstrap(by_video: bool) -> None:
    hits, subjects, videos = sounds()
    made = shares(hits, subjects, videos, seed=3, by_video=by_video, resamples=200)
    wanted = brute_force(hits, subjects, videos, 3, by_video)
    assert list(made) == ["baby", "rail", "water", MEAN]
    for name, values in wanted.items():
        share = made[name]
        assert (share.share, share.low, share.high) == pytest.approx(values, abs=1e-12)
        assert share.low <= share.share <= share.high
    assert made["rail"].videos == 9
    assert made[MEAN].count == len(hits)


def test_a_picture_that_every_judge_sees_is_drawn_for_all_of_them() -> None:
    rng = np.random.default_rng(0)
    liked = rng.random(40) < 0.3
    values, videos = np.repeat(liked, len(SUBJECTS)), np.repeat(np.arange(40), len(SUBJECTS))
    subjects = list(SUBJECTS) * 40
    names = videos.astype(str).tolist()
    apart = shares(values, subjects, names)["mean"]
    joint = shares(values, subjects, names, together=True)["mean"]
    # Five judges who always agree know no more than one does.
    alone = shares(liked, ["dog"] * 40, [str(i) for i in range(40)])["dog"]
    assert joint.share == apart.share == alone.share
    assert joint.videos == 40
    assert joint.high - joint.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert apart.high - apart.low < 0.6 * (joint.high - joint.low)


def test_seconds_of_one_video_are_not_independent() -> None:
    # Ten videos of 20 equal seconds say as much as ten seconds.
    hits = np.repeat([True, False] * 5, 20)
    videos = np.repeat(np.arange(10), 20).astype(str).tolist()
    clustered = shares(hits, ["dog"] * 200, videos)["dog"]
    alone = shares(hits, ["dog"] * 200, [str(k) for k in range(200)])["dog"]
    assert clustered.share == alone.share == 0.5
    assert clustered.high - clustered.low > 3 * (alone.high - alone.low)


def test_the_mean_weighs_classes_not_seconds() -> None:
    hits = np.array([True] * 90 + [False] * 10)
    subjects = ["water"] * 90 + ["fireworks"] * 10
    made = shares(hits, subjects, [str(k) for k in range(100)])
    assert made[MEAN].share == 0.5
    assert (made["water"].share, made["water"].low, made["water"].high) == (1, 1, 1)


def test_by_video_counts_a_long_video_once() -> None:
    hits = np.array([True] * 9 + [False])
    videos = ["long"] * 9 + ["short"]
    assert shares(hits, ["dog"] * 10, videos)["dog"].share == 0.9
    assert shares(hits, ["dog"] * 10, videos, by_video=True)["dog"].share == 0.5


def test_nothing_gives_no_share() -> None:
    assert shares(np.empty(0, bool), [], []) == {}


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_sounds_are_of_another_class_and_each_is_used_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # One class holds exactly half: the hardest case that can be met.
    subjects = ["dog"] * 30 + rng.choice(["baby", "rail", "water"], 30).tolist()
    rng.shuffle(subjects)
    order = shuffled(subjects, seed)
    assert order is not None
    assert sorted(order.tolist()) == list(range(60))
    assert all(subjects[k] != subjects[i] for i, k in enumerate(order))
    again = shuffled(subjects, seed)
    np.testing.assert_array_equal(order, again)
    assert (shuffled(subjects, seed + 1) != order).any()


def test_a_class_of_more_than_half_cannot_be_shuffled() -> None:
    assert shuffled(["dog"] * 3 + ["rail"] * 2, 0) is None
    assert shuffled([], 0) is None


def test_photos_set_the_ceiling_and_what_shows_nothing_the_floor(
    toy_bench: Bench, toy_judges: Judges
) -> None:
    pictures = control_pictures(toy_bench, "devtest", per_kind=20)
    rows, scores = photo_controls(toy_judges, pictures)
    assert rows["real photos"][MEAN].share == 1
    assert rows["real photos"]["dog"].count == 10
    assert rows["photos of other classes"][MEAN].share == 0
    assert rows["photos of other classes"]["dog"].count == 40
    # Once in a while the random right half of a toy photo has the colour too.
    assert rows["floor: patches"][MEAN].share < 0.05
    assert rows["floor: noise"][MEAN].share < 0.05
    assert rows["floor: average"]["dog"].count == 20
    assert "floor: early" not in rows
    assert scores.photos["dog"].shape == (10,)
    assert scores.photos["dog"].min() > 0.9
    # Four kinds, twenty each, in the judge's own class.
    assert scores.uninformative["dog"].shape == (80,)
    passed = np.mean([scores.uninformative[s] >= 0.85 for s in SUBJECTS])
    floors = [
        rows[f"floor: {kind}"][MEAN].share for kind in ("average", "blur", "patches", "noise")
    ]
    assert passed == pytest.approx(np.mean(floors))


def test_a_jury_that_accepts_everything_has_a_floor_of_one(toy_bench: Bench) -> None:
    generous = Judges(
        {s: lambda images: np.ones(len(images), np.float32) for s in SUBJECTS},
        dict.fromkeys(SUBJECTS, 0.5),
    )
    rows, _ = photo_controls(generous, control_pictures(toy_bench, "devtest", per_kind=2))
    assert len(rows) == 6
    assert {row[MEAN].share for row in rows.values()} == {1.0}


def test_only_early_pictures_kept_for_val_are_judged(
    toy_bench: Bench, toy_judges: Judges, colours: dict[str, tuple[int, int, int]]
) -> None:
    images = np.broadcast_to(np.array(colours["rail"], np.uint8), (200, 96, 96, 3)).copy()
    early = EarlyPictures(images=images, sounds=np.arange(200), runs=np.zeros(200, np.int64))
    pictures = control_pictures(toy_bench, "val", per_kind=2, early=early)
    assert len(pictures.early) == len(early_part(early, 0, "val"))
    row = photo_controls(toy_judges, pictures)[0]["floor: early"]
    assert row["rail"].share == 1
    assert row["dog"].share == 0
    assert 5 < row["rail"].count < 40


def test_a_class_without_photos_is_named(
    bench_root: Path, write_tar: Callable[[Path, list[tuple[str, bytes]]], None]
) -> None:
    with tarfile.open(bench_root / "photos" / "val.tar") as tar:
        kept = [
            (member.name, tar.extractfile(member).read())
            for member in tar
            if not member.name.startswith("rail/")
        ]
    write_tar(bench_root / "photos" / "val.tar", kept)
    with pytest.raises(DataError, match="fewer than two photos of rail in val") as caught:
        control_pictures(Bench(bench_root), "val", per_kind=2)
    assert "\n" not in str(caught.value)


def test_verdicts_follow_scores_and_thresholds(toy_judges: Judges) -> None:
    scores = np.full((2, 5), np.float32(0.85))
    scores[1, 3] = np.nextafter(np.float32(0.85), np.float32(0))
    assert toy_judges.decide(scores).tolist() == [[True] * 5, [True, True, True, False, True]]


def test_every_judge_is_asked_about_silence(
    toy_judges: Judges, colours: dict[str, tuple[int, int, int]]
) -> None:
    pictures = np.zeros((4, 96, 96, 3), np.uint8)
    pictures[0] = colours["water"]
    row = every_judge(toy_judges, pictures)
    assert row["water"].share == 0.25
    assert row["baby"].share == 0
    assert row[MEAN].share == pytest.approx(0.05)


def test_white_noise_is_loud_everywhere() -> None:
    mels = white_noise_mels(3, 0)
    assert mels.shape == (3, 128, 100)
    assert mels.dtype == np.uint8
    assert mels.mean() > 100
    assert (mels[0] != mels[1]).any()
    np.testing.assert_array_equal(mels, white_noise_mels(3, 0))
