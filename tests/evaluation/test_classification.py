"""Class accuracy of pictures and videos, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from soundsight.core.errors import DataError
from soundsight.evaluation.metrics import classify


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


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (np.ones((3, 5)), "2 sounds"),
        (np.ones((2, 4)), "2 sounds"),
        (np.full((2, 5), np.nan), "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(probabilities: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        classify(probabilities, ["baby", "dog"], ["a", "b"])


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(DataError, match="cat"):
        classify(np.ones((1, 5)), ["cat"], ["a"])
