"""Class accuracy: does someone who knows the five subjects name the right one?

The probabilities come from a classifier of the pictures (or, for an encoder, of its embeddings)
that had no part in what it looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import DataError
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.evaluation.informativity import Shares, shares
from soundsight.judges.apply import columns_of


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassAccuracy:
    """How often the likeliest class is the sound's. Chance is 1 in 5.

    Attributes:
        right: bool [n], whether the likeliest class of each second is its sound's; a tie goes to
            the first in the order of ``SUBJECTS``.
        seconds: share of right seconds.
        videos: share of videos that are named rightly by the mean of their seconds'
            probabilities.
        confusion: seconds counted, int64 [5, 5]: row the sound's class, column the class named,
            both in the order of ``SUBJECTS``.
        video_confusion: videos counted in the same way.
    """

    right: NDArray[np.bool_]
    seconds: Shares
    videos: Shares
    confusion: NDArray[np.int64]
    video_confusion: NDArray[np.int64]


def classify(
    probabilities: NDArray[np.floating],
    subjects: Sequence[str],
    videos: Sequence[str],
    *,
    seed: int = 0,
) -> ClassAccuracy:
    """Compare the likeliest class with the sound's, by second and by video.

    Args:
        probabilities: [n, 5], columns in the order of ``SUBJECTS``.
        subjects: the class of each of the n sounds.
        videos: the video of each.
        seed: of the bootstrap over videos.

    Returns:
        Shares with 95 % intervals over videos, and the confusion matrices.

    Raises:
        DataError: when the shapes do not fit, a probability is not finite, or on an unknown class.
    """
    n = len(subjects)
    if probabilities.shape != (n, len(SUBJECTS)) or len(videos) != n:
        raise DataError(
            f"{n} sounds of {len(videos)} videos need probabilities [{n}, {len(SUBJECTS)}], "
            f"not {list(probabilities.shape)}"
        )
    if not np.isfinite(probabilities).all():
        raise DataError("a class probability is not finite")
    classes = columns_of(subjects)
    named = probabilities.argmax(axis=1)
    right = named == classes
    # A video of two classes, which no bench has, would be one of each.
    units, first, place = np.unique(
        [f"{c} {video}" for c, video in zip(classes, videos, strict=True)],
        return_index=True,
        return_inverse=True,
    )
    sums = np.zeros((len(units), len(SUBJECTS)))
    np.add.at(sums, place, probabilities.astype(np.float64))
    named_videos = sums.argmax(axis=1)
    of_videos = classes[first]
    return ClassAccuracy(
        right=right,
        seconds=shares(right, subjects, videos, seed=seed),
        videos=shares(
            named_videos == of_videos,
            [SUBJECTS[c] for c in of_videos],
            units.tolist(),
            seed=seed,
        ),
        confusion=_count(classes, named),
        video_confusion=_count(of_videos, named_videos),
    )


def _count(classes: NDArray[np.int64], named: NDArray[np.int64]) -> NDArray[np.int64]:
    table = np.zeros((len(SUBJECTS), len(SUBJECTS)), dtype=np.int64)
    np.add.at(table, (classes, named), 1)
    return table
