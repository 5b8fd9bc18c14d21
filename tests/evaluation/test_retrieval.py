"""Retrieval, against a plain loop and against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from soundsight.core.errors import DataError
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.evaluation.metrics import _candidates, retrieve


def sounds_of(per_class: int) -> tuple[list[str], list[str]]:
    """Return classes and videos of two seconds each."""
    subjects = [subject for subject in SUBJECTS for _ in range(per_class)]
    return subjects, [f"v{i // 2}" for i in range(len(subjects))]


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
    subjects, videos = sounds_of(25)
    classes = np.repeat(np.arange(5), 25)
    rng = np.random.default_rng(1)
    pictures = rng.normal(size=(125, 6))
    sounds = pictures + rng.normal(size=(125, 6))
    found = retrieve(sounds, pictures, subjects, videos, seed=7)
    chosen = _candidates(classes, 20, np.random.default_rng((7, 125)))
    for i in range(125):
        cosine = [
            float(np.dot(sounds[i], pictures[j]))
            / np.linalg.norm(sounds[i])
            / np.linalg.norm(pictures[j])
            for j in chosen[i]
        ]
        ranked = [chosen[i][place] for place in np.argsort(cosine)[::-1]]
        assert found.hits["precision@1"][i] == (classes[ranked[0]] == classes[i])
        share = np.mean([classes[j] == classes[i] for j in ranked[:5]])
        assert found.hits["precision@5"][i] == pytest.approx(share)
        for k in (1, 5, 10):
            assert found.hits[f"R@{k}"][i] == (i in ranked[:k])
    assert found.candidates == 100
    assert found.rows["R@5"]["mean"].share == pytest.approx(found.hits["R@5"].mean())
    assert found.chance["precision@5"] == pytest.approx(0.2)
    assert found.chance["R@10"] == pytest.approx(0.1)


def test_a_space_that_knows_all_finds_all_and_one_that_knows_classes_finds_those() -> None:
    subjects, videos = sounds_of(20)
    exact = np.random.default_rng(0).normal(size=(100, 30))
    found = retrieve(exact, exact, subjects, videos)
    assert found.rows["R@1"]["mean"].share == 1.0
    by_class = np.repeat(np.eye(5), 20, axis=0)
    found = retrieve(by_class, by_class, subjects, videos)
    assert found.rows["precision@5"]["mean"].share == 1.0
    # All twenty of a class are equal, and the lot favours none of them.
    assert found.rows["R@10"]["mean"].share == pytest.approx(0.5, abs=0.2)


def test_equal_pictures_give_chance() -> None:
    subjects, videos = sounds_of(100)
    pictures = np.ones((500, 4)) * np.random.default_rng(0).uniform(0.5, 2, size=(500, 1))
    found = retrieve(np.ones((500, 4)), pictures, subjects, videos)
    assert found.rows["precision@5"]["mean"].share == pytest.approx(0.2, abs=0.05)
    assert found.rows["R@10"]["mean"].share == pytest.approx(0.1, abs=0.05)


def test_the_seed_decides_and_few_pictures_do() -> None:
    subjects, videos = sounds_of(40)
    rng = np.random.default_rng(2)
    sounds, pictures = rng.normal(size=(2, 200, 8))
    one, same, other = (retrieve(sounds, pictures, subjects, videos, seed=s) for s in (3, 3, 4))
    assert all(np.array_equal(one.hits[name], same.hits[name]) for name in one.hits)
    assert any(not np.array_equal(one.hits[name], other.hits[name]) for name in one.hits)
    few = retrieve(sounds[:3], pictures[:3], ["baby", "dog", "dog"], ["a", "b", "c"])
    assert few.candidates == 2
    assert set(few.hits) == {"precision@1", "R@1"}
    assert few.chance["precision@1"] == pytest.approx(0.5)


@pytest.mark.parametrize("spoilt", [0.0, np.nan])
def test_no_direction_no_cosine(spoilt: float) -> None:
    sounds = np.ones((2, 3))
    sounds[1] = spoilt
    with pytest.raises(DataError, match="zero or not finite"):
        retrieve(sounds, np.ones((2, 3)), ["baby", "dog"], ["a", "b"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="2 sounds"):
        retrieve(np.ones((2, 3)), np.ones((2, 4)), ["baby", "dog"], ["a", "b"])
    with pytest.raises(DataError, match="0 sounds"):
        retrieve(np.ones((0, 3)), np.ones((0, 3)), [], [])
