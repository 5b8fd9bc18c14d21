"""What judges do on pictures that they never saw: thresholds, what passes, whether two agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import DataError

SECOND, CLASSIFIER, SPACE = "second", "classifier", "space"
VIEWERS = (SECOND, CLASSIFIER, SPACE)
"""Networks beside the published judges: a second judge, a photo classifier, a space."""

FLOOR = 0.05
"""A judge that passes more of an uninformative kind is to be trained again."""


@dataclass(frozen=True, kw_only=True)
class ValTable:
    """What a classifier does on val pictures that it never saw."""

    threshold: float
    """A picture is accepted when its score reaches this."""
    photos: int
    """Val photos that set the threshold."""
    accepted: float
    """Share of them that it accepts."""
    passed: dict[str, float]
    """For each kind of negative, the share that passes."""
    counts: dict[str, int]
    """How many negatives of each kind there were."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two judges say the same of the same pictures."""

    share: float
    """Share of the pictures on which they agree, in [0, 1]."""
    kappa: float
    """Cohen's kappa (1960): 1 = always, 0 = as often as chance would; 0 where both say the same
    of everything, as chance would then do too."""
    count: int
    """Pictures."""


def agreement(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Agreement:
    """Compare the verdicts of two judges.

    Args:
        first: bool [n], n >= 1.
        second: bool [n], of the same pictures.

    Raises:
        DataError: when there is no picture, or the numbers differ.
    """
    if len(first) != len(second) or not len(first):
        raise DataError(f"{len(first)} and {len(second)} verdicts cannot be compared")
    share = float((first == second).mean())
    a, b = float(first.mean()), float(second.mean())
    by_chance = a * b + (1 - a) * (1 - b)
    kappa = (share - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0
    return Agreement(share=share, kappa=kappa, count=len(first))


def accepting(scores: NDArray[np.float32], rate: float) -> float:
    """Return the highest threshold that accepts (score >= threshold) at least ``rate`` of them."""
    kept = math.ceil(rate * len(scores) - 1e-9)
    return float(np.sort(scores)[::-1][kept - 1])


def val_table(
    positives: NDArray[np.float32], negatives: dict[str, NDArray[np.float32]], rate: float
) -> ValTable:
    """Set the threshold on the scores of real photos and say which negatives pass it.

    Args:
        positives: scores of the val photos, float32 [n].
        negatives: kind -> scores of its val pictures.
        rate: share of the positives that the threshold accepts, at the least.
    """
    threshold = accepting(positives, rate)
    return ValTable(
        threshold=threshold,
        photos=len(positives),
        accepted=float((positives >= threshold).mean()),
        passed={kind: float((scores >= threshold).mean()) for kind, scores in negatives.items()},
        counts={kind: len(scores) for kind, scores in negatives.items()},
    )
