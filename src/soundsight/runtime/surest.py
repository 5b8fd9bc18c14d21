"""What a sound of several seconds is drawn from: the mean embedding of its surest seconds.

Its kind is the one whose probabilities over all seconds sum to the most; it is drawn from the mean
of the embeddings of the (at most 8) seconds in which that kind is most probable. One second may
catch a bark's end or a passing car; what several seconds agree on is the sound.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_SECONDS = 8
"""Seconds that a picture is drawn from at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Second:
    """One second of a sound, as the networks see it.

    Attributes:
        embedding: float32 [E].
        shares: float32 [K], the probabilities of the labels; [1] without a label head.
        ood_score: in [0, 1]; NaN where the model has none.
        of: whatever it is a second of.
    """

    embedding: NDArray[np.float32]
    shares: NDArray[np.float32]
    ood_score: float
    of: Any = None


class SurestSeconds:
    """Keeps the surest seconds of each kind, in constant memory."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: NDArray[np.float64] = np.zeros(0)
        # Of each kind the surest seconds, the least sure first; of equals the earlier.
        self._best: list[list[tuple[float, int, Second]]] = []

    def __len__(self) -> int:
        return self._count

    def take(self, second: Second) -> None:
        """Take a second."""
        if not self._count:
            self._sums = np.zeros(len(second.shares))
            self._best = [[] for _ in second.shares]
        for share, best in zip(second.shares.tolist(), self._best, strict=True):
            insort(best, (share, self._count, second))
            del best[:-MOST_SECONDS]
        self._sums += second.shares
        self._count += 1

    @property
    def kind(self) -> int:
        """The kind whose probabilities sum to the most; there must have been a second."""
        return int(self._sums.argmax())

    def of_kind(self, kind: int) -> list[Second]:
        """The seconds in which a kind is most probable, the surest first."""
        return [second for _, _, second in reversed(self._best[kind])]


def mean_embedding(seconds: Sequence[Second]) -> NDArray[np.float32]:
    """Return the mean embedding [E] of seconds, with the root mean square that theirs have.

    The generator has only seen embeddings of that size (1, where the encoder scales them).
    """
    each = np.stack([second.embedding for second in seconds])
    if len(each) == 1:
        return np.asarray(each[0])
    mean = each.mean(axis=0, dtype=np.float64)
    size = float(np.sqrt(np.square(each, dtype=np.float64).mean(axis=1)).mean())
    own = float(np.sqrt(np.square(mean).mean()))
    return np.asarray(mean * (size / own if own > 0 else 1.0), np.float32)
