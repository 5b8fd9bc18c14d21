"""Shares and intervals over videos, class accuracy, retrieval, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from soundsight.core.errors import DataError
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.evaluation.metrics import (
    MEAN,
    _candidates,
    classify,
    log_odds,
    matching_gap,
    retrieve,
    shares,
    shuffled,
)


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


def test_the_mean_weighs_classes_not_seconds_and_videos_not_their_length() -> None:
    hits = np.array([True] * 90 + [False] * 10)
    subjects = ["water"] * 90 + ["fireworks"] * 10
    made = shares(hits, subjects, [str(k) for k in range(100)])
    assert made[MEAN].share == 0.5
    assert (made["water"].share, made["water"].low, made["water"].high) == (1, 1, 1)
    videos = ["long"] * 90 + ["short"] * 10
    assert shares(hits, ["dog"] * 100, videos)["dog"].share == 0.9
    assert shares(hits, ["dog"] * 100, videos, by_video=True)["dog"].share == 0.5
    assert shares(hits[:0], [], []) == {}


def test_the_matching_gap_is_that_of_a_plain_loop_and_blind_to_what_a_judge_likes() -> None:
    rng = np.random.default_rng(3)
    subjects = [SUBJECTS[i] for i in rng.permutation(np.repeat(np.arange(5), [3, 4, 5, 6, 7]))]
    values = rng.normal(size=(25, 5))

    def mean_of(picture: int, judge: int) -> float:
        mine = [k for k, subject in enumerate(subjects) if subject == SUBJECTS[picture]]
        return float(np.mean([values[k, judge] for k in mine]))

    same = [mean_of(c, c) for c in range(5)]
    other = [mean_of(c, j) for c in range(5) for j in range(5) if c != j]
    gap = np.mean(same) - np.mean(other)
    assert matching_gap(values, subjects) == pytest.approx(gap)
    assert matching_gap(values + rng.normal(size=5), subjects) == pytest.approx(gap)
    assert matching_gap(np.broadcast_to(rng.normal(size=5), (25, 5)), subjects) == pytest.approx(0)
    with pytest.raises(DataError, match="no picture of a sound of baby"):
        matching_gap(values[:2], ["dog", "water"])


def test_log_odds_are_finite_at_the_ends() -> None:
    odds = log_odds(np.array([0.5, 0.9, 0.0, 1.0], np.float32))
    expected = [0.0, np.log(9), np.log(1e-6 / (1 - 1e-6)), np.log((1 - 1e-6) / 1e-6)]
    np.testing.assert_allclose(odds, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_sounds_are_of_another_class_and_each_is_used_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # One class holds exactly half: the hardest case that can be met.
    subjects = ["dog"] * 30 + rng.choice(["baby", "rail", "water"], 30).tolist()
    rng.shuffle(subjects)
    order = shuffled(subjects, seed)
    assert order is not None
    assert sorted(order.tolist()) == list(range(60))
    assert all(subjects[k] != subjects[i] for i, k in enumerate(order))
    np.testing.assert_array_equal(order, shuffled(subjects, seed))
    assert (shuffled(subjects, seed + 1) != order).any()
    # A class of more than half cannot be shuffled.
    assert shuffled(["dog"] * 3 + ["rail"] * 2, 0) is None
    assert shuffled([], 0) is None


# --- class accuracy


def test_seconds_and_videos_are_counted_as_by_hand() -> None:
    # Two videos of babies and one of a dog; the first video's seconds disagree.
    probabilities = np.array(
        [
            [0.9, 0.1, 0.0, 0.0, 0.0],
            [0.4, 0.6, 0.0, 0.0, 0.0],
            [0.1, 0.0, 0.9, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 1.0],
        ]
    )
    subjects, videos = ["baby", "baby", "baby", "dog"], ["a", "a", "b", "c"]
    found = classify(probabilities, subjects, videos)
    assert found.right.tolist() == [True, False, False, False]
    assert found.seconds["baby"].share == pytest.approx(1 / 3)
    assert found.seconds["mean"].share == pytest.approx(1 / 6)
    # The mean over video a is .65 to .35 for baby.
    assert found.videos["baby"].share == pytest.approx(1 / 2)
    assert found.videos["baby"].count == 2
    assert found.videos["dog"].share == 0
    wanted = np.zeros((5, 5), int)
    wanted[0, :3] = 1
    wanted[1, 4] = 1
    assert np.array_equal(found.confusion, wanted)
    wanted[0] = [1, 0, 1, 0, 0]
    assert np.array_equal(found.video_confusion, wanted)


def test_a_tie_goes_to_the_first_class_and_the_interval_follows_the_seed() -> None:
    rng = np.random.default_rng(0)
    subjects = ["baby", "dog"] * 40
    videos = [f"{subject}{i * i // 99}" for i, subject in enumerate(subjects)]
    assert (
        classify(np.full((80, 5), 0.2), subjects, videos).confusion[:, 0].tolist()[:2] == [40] * 2
    )
    probabilities = rng.dirichlet(np.ones(5), 80)
    one, same, other = (classify(probabilities, subjects, videos, seed=s) for s in (1, 1, 2))
    assert one.seconds == same.seconds
    assert one.seconds["mean"].share == other.seconds["mean"].share
    assert one.seconds != other.seconds


def test_what_cannot_be_classified_is_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        classify(np.full((2, 5), np.nan), ["baby", "dog"], ["a", "b"])
    with pytest.raises(DataError, match="cat"):
        classify(np.ones((1, 5)), ["cat"], ["a"])


# --- retrieval


def sounds_of(per_class: int) -> list[str]:
    return [subject for subject in SUBJECTS for _ in range(per_class)]


def test_candidates_are_balanced_distinct_and_hold_the_own_picture() -> None:
    classes = np.repeat(np.arange(5), 30)
    chosen = _candidates(classes, 20, np.random.default_rng(0))
    assert chosen.shape == (150, 100)
    for number, row in enumerate(chosen):
        assert number in row
        assert len(set(row)) == 100
        assert np.bincount(classes[row]).tolist() == [20] * 5
    # Others are drawn by lot: hardly two sounds choose among the same.
    assert len({tuple(row) for row in chosen}) == 150


def test_ranking_is_that_of_a_plain_loop() -> None:
    subjects = sounds_of(25)
    classes = np.repeat(np.arange(5), 25)
    rng = np.random.default_rng(1)
    pictures = rng.normal(size=(125, 6))
    sounds = pictures + rng.normal(size=(125, 6))
    hits, chance, candidates = retrieve(sounds, pictures, subjects, seed=7)
    chosen = _candidates(classes, 20, np.random.default_rng((7, 125)))
    for i in range(125):
        cosine = [
            float(np.dot(sounds[i], pictures[j]))
            / np.linalg.norm(sounds[i])
            / np.linalg.norm(pictures[j])
            for j in chosen[i]
        ]
        ranked = [chosen[i][place] for place in np.argsort(cosine)[::-1]]
        assert hits["precision@1"][i] == (classes[ranked[0]] == classes[i])
        share = np.mean([classes[j] == classes[i] for j in ranked[:5]])
        assert hits["precision@5"][i] == pytest.approx(share)
        for k in (1, 5, 10):
            assert hits[f"R@{k}"][i] == (i in ranked[:k])
    assert candidates == 100
    assert chance["precision@5"] == pytest.approx(0.2)
    assert chance["R@10"] == pytest.approx(0.1)


def test_a_space_that_knows_all_finds_all_and_one_that_knows_classes_finds_those() -> None:
    subjects = sounds_of(20)
    exact = np.random.default_rng(0).normal(size=(100, 30))
    assert retrieve(exact, exact, subjects)[0]["R@1"].all()
    by_class = np.repeat(np.eye(5), 20, axis=0)
    hits = retrieve(by_class, by_class, subjects)[0]
    assert (hits["precision@5"] == 1).all()
    # All twenty of a class are equal, and the lot favours none of them.
    assert hits["R@10"].mean() == pytest.approx(0.5, abs=0.2)


def test_equal_pictures_give_chance() -> None:
    subjects = sounds_of(100)
    pictures = np.ones((500, 4)) * np.random.default_rng(0).uniform(0.5, 2, size=(500, 1))
    hits = retrieve(np.ones((500, 4)), pictures, subjects)[0]
    assert hits["precision@5"].mean() == pytest.approx(0.2, abs=0.05)
    assert hits["R@10"].mean() == pytest.approx(0.1, abs=0.05)


def test_the_seed_decides_and_few_pictures_do() -> None:
    subjects = sounds_of(40)
    rng = np.random.default_rng(2)
    sounds, pictures = rng.normal(size=(2, 200, 8))
    one, same, other = (retrieve(sounds, pictures, subjects, seed=s)[0] for s in (3, 3, 4))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)
    hits, chance, candidates = retrieve(sounds[:3], pictures[:3], ["baby", "dog", "dog"])
    assert candidates == 2
    assert set(hits) == {"precision@1", "R@1"}
    assert chance["precision@1"] == pytest.approx(0.5)


@pytest.mark.parametrize("spoilt", [0.0, np.nan])
def test_no_direction_no_cosine(spoilt: float) -> None:
    sounds = np.ones((2, 3))
    sounds[1] = spoilt
    with pytest.raises(DataError, match="zero or not finite"):
        retrieve(sounds, np.ones((2, 3)), ["baby", "dog"])
