"""Retrieval: is a sound's picture found again among a hundred pictures of all classes?

Sound and picture are compared in an audio-visual space that the generator was not trained
against. The hundred candidates of a sound are its own picture and 99 others, 20 a class, drawn by
the seed. Scored by class first: about twenty candidates show the same subject and stand for one
another, so that the share of sounds that find their very own picture is low by nature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import DataError
from soundsight.evaluation.informativity import Shares, shares
from soundsight.judges.apply import columns_of

PER_CLASS = 20
PRECISION_AT = (1, 5)
RECALL_AT = (1, 5, 10)

# What lies nearer than this is rounding: the pictures of two silent seconds are one picture.
_DECIMALS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Retrieval:
    """Each sound's search among its candidates.

    Attributes:
        candidates: pictures that each sound chooses from, its own among them; 100, or fewer where
            a class has under 20 pictures.
        hits: measure -> float64 [n]. ``precision@k``: the share of the k nearest candidates that
            are of the sound's class. ``R@k``: 1 where the sound's own picture is among them.
        rows: measure -> the mean of ``hits`` by class with 95 % intervals over videos.
        chance: measure -> what a random order gives.
    """

    candidates: int
    hits: dict[str, NDArray[np.float64]]
    rows: dict[str, Shares]
    chance: dict[str, float]


def retrieve(
    sounds: NDArray[np.floating],
    pictures: NDArray[np.floating],
    subjects: Sequence[str],
    videos: Sequence[str],
    *,
    seed: int = 0,
    per_class: int = PER_CLASS,
) -> Retrieval:
    """Rank each sound's candidates by cosine; equals are ordered by lot, so that none is favoured.

    Args:
        sounds: [n, e], embeddings of the sounds, of any length above 0.
        pictures: [n, e], embeddings of the pictures imagined from them, in the same space.
        subjects: the class of each sound.
        videos: the video of each.
        seed: of the candidates, the order of equals and the bootstrap.
        per_class: candidates of each class.

    Returns:
        Precision by class and recall of the very picture, both with chance.

    Raises:
        DataError: when the shapes do not fit, an embedding is zero or not finite, or on an
            unknown class.
    """
    n = len(subjects)
    if n == 0 or len(videos) != n or len(sounds) != n or sounds.shape != pictures.shape:
        raise DataError(
            f"{n} sounds of {len(videos)} videos need as many embeddings of sounds and of "
            f"pictures, not {list(sounds.shape)} and {list(pictures.shape)}"
        )
    classes = columns_of(subjects)
    rng = np.random.default_rng((seed, n))
    chosen = _candidates(classes, per_class, rng)
    lot = rng.random(chosen.shape)
    nearness = _unit(sounds) @ _unit(pictures).T
    nearness = np.take_along_axis(nearness, chosen, axis=1).round(_DECIMALS)
    order = np.lexsort((lot, -nearness), axis=1)
    ranked = np.take_along_axis(chosen, order, axis=1)
    of_class = classes[ranked] == classes[:, None]
    own = ranked == np.arange(n)[:, None]
    count = chosen.shape[1]
    hits = {f"precision@{k}": of_class[:, :k].mean(axis=1) for k in PRECISION_AT if k <= count}
    chance = dict.fromkeys(hits, 1 / len(np.unique(classes)))
    for k in RECALL_AT:
        if k <= count:
            hits[f"R@{k}"] = own[:, :k].any(axis=1).astype(np.float64)
            chance[f"R@{k}"] = k / count
    rows = {name: shares(values, subjects, videos, seed=seed) for name, values in hits.items()}
    return Retrieval(candidates=count, hits=hits, rows=rows, chance=chance)


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
