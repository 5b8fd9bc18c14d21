"""Shares with intervals, and what is counted with them: class accuracy and retrieval.

A share stands with a bootstrap interval over videos or recordings, whose seconds are no
independent sounds. Informativity is one such share: Fanzeres & Nadeu 2021 (arXiv 2106.01266).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.metrics import confusion_matrix

from soundsight.core.errors import DataError
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.judges.pictures import columns_of

MEAN = "mean"
RESAMPLES = 2000
CONFIDENCE = 0.95
INTERVALS = {"resamples": RESAMPLES, "confidence": CONFIDENCE}
"""What a report says of its intervals among its settings."""
CANDIDATES_A_CLASS = 20
PRECISION_AT = (1, 5)
RECALL_AT = (1, 5, 10)

# What lies nearer than this is rounding: the pictures of two silent seconds are one picture.
_DECIMALS = 5


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share in [0, 1] (a difference in [-1, 1]) with its bootstrap interval."""

    share: float
    low: float
    high: float
    count: int  #: items averaged
    videos: int  #: videos, or other units, that were resampled


Shares = dict[str, Share]
"""Class -> share, for the classes present, and their mean under ``mean``."""


def shares(
    values: NDArray[np.generic],
    subjects: Sequence[str],
    videos: Sequence[str],
    *,
    seed: int = 0,
    by_video: bool = False,
    together: bool = False,
    resamples: int = RESAMPLES,
    among: Sequence[str] = SUBJECTS,
) -> Shares:
    """Average by class and over classes, with 95 % percentile bootstrap intervals over videos.

    In each resample every class draws as many of its videos as it has, with replacement; the mean
    over classes gives each class the same weight. Empty without values.

    Args:
        values: [n], accepted or not (or a difference of such), of n ``subjects`` and ``videos``.
        by_video: average over the seconds of each video first, so that videos count the same.
        together: classes share their videos (one picture is shown to every judge): a resample draws
            videos once for all classes. Else a class's draws do not depend on the others.
        among: the classes, in their order.
    """
    of_class = np.asarray(subjects)
    names, of_video = np.unique(np.asarray(videos), return_inverse=True)
    result: Shares = {}
    points: list[float] = []
    draws: list[NDArray[np.float64]] = []
    for number, subject in enumerate(among):
        mine = of_class == subject
        if not mine.any():
            continue
        sums = np.bincount(of_video[mine], values[mine], len(names)).astype(np.float64)
        sizes = np.bincount(of_video[mine], minlength=len(names))
        present = int((sizes > 0).sum())
        if not together:
            sums, sizes = sums[sizes > 0], sizes[sizes > 0]
        if by_video:
            sums, sizes = sums / np.maximum(sizes, 1), (sizes > 0).astype(np.int64)
        rng = np.random.default_rng((seed, 0 if together else number))
        picked = rng.integers(len(sums), size=(resamples, len(sums)))
        # A resample without any video of a class says nothing of it: as the whole.
        drawn = sizes[picked].sum(axis=1)
        share = sums[picked].sum(axis=1) / np.maximum(drawn, 1)
        draws.append(np.where(drawn > 0, share, sums.sum() / sizes.sum()))
        points.append(float(sums.sum() / sizes.sum()))
        result[subject] = _share(points[-1], draws[-1], int(mine.sum()), present)
    if result:
        count = sum(share.count for share in result.values())
        units = len(names) if together else sum(share.videos for share in result.values())
        result[MEAN] = _share(float(np.mean(points)), np.mean(draws, axis=0), count, units)
    return result


def _share(point: float, draws: NDArray[np.float64], count: int, videos: int) -> Share:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Share(share=point, low=float(low), high=float(high), count=count, videos=videos)


def as_json(rows: Mapping[str, Shares]) -> dict[str, dict[str, Any]]:
    """Return rows of shares as JSON holds them."""
    return {name: {key: asdict(share) for key, share in row.items()} for name, row in rows.items()}


def matching_gap(values: NDArray[np.floating], subjects: Sequence[str]) -> float:
    """How much higher values are for a picture's own class than for another's.

    Of the mean over each class's pictures of each judge's values, the mean where both are one
    class, less the mean where they are two. 0 where nothing depends on the sound, however much some
    judges like any picture.

    Args:
        values: [n, 5], of n pictures by the judge of each of ``SUBJECTS``.
        subjects: the class of the sound of each picture; every class is needed.

    Raises:
        DataError: when a class has no picture.
    """
    own = columns_of(subjects)
    if missing := [s for n, s in enumerate(SUBJECTS) if n not in own]:
        raise DataError(f"no picture of a sound of {missing[0]}")
    means = np.stack([values[own == n].mean(axis=0) for n in range(len(SUBJECTS))])
    same = np.eye(len(SUBJECTS), dtype=bool)
    return float(means[same].mean() - means[~same].mean())


def log_odds(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the natural log-odds of probabilities, at most 13.8 either way (one in a million)."""
    kept = np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
    odds: NDArray[np.float64] = logit(kept)
    return odds


def shuffled(
    subjects: Sequence[str], seed: int, all_classes: Sequence[str] = SUBJECTS
) -> NDArray[np.int64] | None:
    """Give every sound the picture of a sound of another class, each picture once: int64 [n].

    None where there is no such permutation, because one class holds more than half of the sounds.
    """
    classes = columns_of(subjects, all_classes)
    n = len(classes)
    if n == 0 or 2 * int(np.bincount(classes).max()) > n:
        return None
    rng = np.random.default_rng((seed, n))
    order = rng.permutation(n)
    while len(clashes := np.flatnonzero(classes[order] == classes)):
        # Swap a clash with a place where neither picture then lies in its own class.
        at = int(clashes[0])
        mine, theirs = classes[order[at]], classes[order]
        fits = np.flatnonzero((theirs != classes[at]) & (classes != mine))
        other = int(rng.choice(fits))
        order[[at, other]] = order[[other, at]]
    return order


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassAccuracy:
    """How often the likeliest class is the sound's."""

    right: NDArray[np.bool_]  #: [n], of each second; a tie goes to the first class
    seconds: Shares  #: share of right seconds
    videos: Shares  #: share of videos that the mean of their seconds' values names rightly
    confusion: NDArray[np.int64]  #: seconds [k, k]: row the sound's class, column the class named
    video_confusion: NDArray[np.int64]  #: videos counted in the same way


def classify(
    probabilities: NDArray[np.floating],
    subjects: Sequence[str],
    videos: Sequence[str],
    *,
    seed: int = 0,
    classes: Sequence[str] = SUBJECTS,
    among: Sequence[str] | None = None,
) -> ClassAccuracy:
    """Compare the likeliest class with the sound's, by second and by video.

    ``probabilities`` are [n, k], columns in the order of ``classes``, or their logarithms; those
    ``among`` the classes are averaged, all by default.

    Raises:
        DataError: when a probability is not finite, or on an unknown class.
    """
    among = among or classes
    if not np.isfinite(probabilities).all():
        raise DataError("a class probability is not finite")
    own = columns_of(subjects, classes)
    named = probabilities.argmax(axis=1)
    # A video of two classes, which no bench has, would be one of each.
    units, first, place = np.unique(
        [f"{c} {video}" for c, video in zip(own, videos, strict=True)],
        return_index=True,
        return_inverse=True,
    )
    sums = np.zeros((len(units), len(classes)))
    np.add.at(sums, place, probabilities.astype(np.float64))
    named_videos, of_videos = sums.argmax(axis=1), own[first]
    names = [classes[c] for c in of_videos]
    labels = range(len(classes))
    return ClassAccuracy(
        right=named == own,
        seconds=shares(named == own, subjects, videos, seed=seed, among=among),
        videos=shares(named_videos == of_videos, names, units.tolist(), seed=seed, among=among),
        confusion=confusion_matrix(own, named, labels=labels),
        video_confusion=confusion_matrix(of_videos, named_videos, labels=labels),
    )


def retrieve(
    sounds: NDArray[np.floating],
    pictures: NDArray[np.floating],
    subjects: Sequence[str],
    *,
    seed: int = 0,
    per_class: int = CANDIDATES_A_CLASS,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, float], int]:
    """Rank each sound's candidates by cosine: is its picture, or its class, found again?

    The candidates of a sound are its own picture and 99 others, 20 a class (fewer where a class has
    fewer), drawn by the seed. Equals are ordered by lot. As about twenty candidates show the same
    subject, the share of sounds that find their own picture is low. ``sounds`` and ``pictures`` are
    embeddings [n, e] of any length above 0 in one space.

    Returns:
        hits: measure -> float64 [n]. ``precision@k``: the share of the k nearest candidates that
            are of the sound's class. ``R@k``: 1 where the sound's own picture is among them.
        chance: measure -> what a random order gives.
        candidates: pictures that each sound chooses from, its own among them.

    Raises:
        DataError: when an embedding is zero or not finite, or on an unknown class.
    """
    classes = columns_of(subjects)
    rng = np.random.default_rng((seed, len(classes)))
    chosen = _candidates(classes, per_class, rng)
    lot = rng.random(chosen.shape)
    nearness = _unit(sounds) @ _unit(pictures).T
    nearness = np.take_along_axis(nearness, chosen, axis=1).round(_DECIMALS)
    order = np.lexsort((lot, -nearness), axis=1)
    ranked = np.take_along_axis(chosen, order, axis=1)
    of_class = classes[ranked] == classes[:, None]
    own = ranked == np.arange(len(classes))[:, None]
    count = chosen.shape[1]
    hits = {f"precision@{k}": of_class[:, :k].mean(axis=1) for k in PRECISION_AT if k <= count}
    chance = dict.fromkeys(hits, 1 / len(np.unique(classes)))
    for k in RECALL_AT:
        if k <= count:
            hits[f"R@{k}"] = own[:, :k].any(axis=1).astype(np.float64)
            chance[f"R@{k}"] = k / count
    return hits, chance, count


def _candidates(
    classes: NDArray[np.int64], per_class: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw for every sound as many pictures of each class present, its own among them."""
    present, counts = np.unique(classes, return_counts=True)
    size = min(per_class, int(counts.min()))
    drawn = []
    for subject in present:
        pool = np.flatnonzero(classes == subject)
        lot = rng.random((len(classes), len(pool)))
        # The smallest lots are drawn; a sound's own picture always is.
        lot[pool, np.arange(len(pool))] = -1.0
        drawn.append(pool[np.argpartition(lot, size - 1, axis=1)[:, :size]])
    # In the order of the pictures, so that the draw is a set and not an order.
    return np.sort(np.concatenate(drawn, axis=1), axis=1)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    if not np.isfinite(length).all() or not length.all():
        raise DataError("an embedding is zero or not finite")
    unit: NDArray[np.float64] = exact / length
    return unit
