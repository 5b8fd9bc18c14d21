"""What can be read from embeddings: by their nearest neighbours, or by a linear classifier.

Both give class probabilities, and neither is part of what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from soundsight.core.errors import DataError
from soundsight.data.vegas.bench import SUBJECTS

NEIGHBOURS = 20
PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
"""Weight decays that the linear classifier may choose from on val, the strongest first."""

_LEAST_SPREAD = 1e-4
"""Of a dimension, as a share of the widest; what is less is taken for this."""

_ROWS_AT_ONCE = 256


def neighbour_votes(
    train: NDArray[np.floating],
    classes: NDArray[np.int64],
    unknown: NDArray[np.floating],
    *,
    neighbours: int = NEIGHBOURS,
) -> NDArray[np.float64]:
    """Return how the nearest train seconds by cosine vote: shares [n, 5] that sum to 1.

    Args:
        train: embeddings [m, E].
        classes: the class of each, [m], in the order of ``SUBJECTS``.
        unknown: embeddings [n, E].
        neighbours: voters; all where there are fewer.
    """
    known = _unit(train)
    count = min(neighbours, len(known))
    votes = np.zeros((len(unknown), len(SUBJECTS)))
    for start in range(0, len(unknown), _ROWS_AT_ONCE):
        rows = _unit(unknown[start : start + _ROWS_AT_ONCE])
        nearest = np.argpartition(-(rows @ known.T), count - 1, axis=1)[:, :count]
        for number in range(len(SUBJECTS)):
            votes[start : start + len(rows), number] = (classes[nearest] == number).mean(axis=1)
    return votes


class LinearProbe:
    """A linear softmax classifier of standardised embeddings. Made by :func:`fit_probe`.

    Attributes:
        penalty: the weight decay that val chose.
    """

    def __init__(
        self,
        mean: NDArray[np.float64],
        scale: NDArray[np.float64],
        weights: NDArray[np.float64],
        penalty: float,
    ) -> None:
        self._mean, self._scale, self._weights = mean, scale, weights
        self.penalty = penalty

    def probabilities(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return class probabilities [n, classes] of embeddings [n, E]."""
        standard = (embeddings - self._mean) / self._scale
        scores = standard @ self._weights[:-1] + self._weights[-1]
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares_of_one: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return shares_of_one


def fit_probe(
    train: NDArray[np.floating],
    classes: NDArray[np.int64],
    val: NDArray[np.floating],
    val_classes: NDArray[np.int64],
    *,
    penalties: Sequence[float] = PENALTIES,
    count: int = len(SUBJECTS),
    balanced: bool = False,
) -> LinearProbe:
    """Fit logistic regression (mean cross entropy + penalty / 2 * squared weights, by L-BFGS).

    Args:
        train: embeddings [m, E].
        classes: the class of each, [m], in the order of ``SUBJECTS``.
        val: embeddings [n, E], which choose the penalty by their cross entropy.
        val_classes: the class of each, [n].
        penalties: to choose from, all above 0; each fit starts where the one before ended.
        count: classes; those of the bench by default.
        balanced: every class weighs the same, in the fit and in the choice, however many seconds
            it has.

    Raises:
        DataError: when an embedding is not finite.
    """
    if not np.isfinite(train).all() or not np.isfinite(val).all():
        raise DataError("an embedding is not finite")
    mean, scale = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    # A dimension that hardly moves would be noise made large.
    scale = np.maximum(scale, _LEAST_SPREAD * scale.max()) if scale.any() else np.ones_like(scale)
    standard = (train - mean) / scale
    variances, axes = np.linalg.eigh(standard.T @ standard / len(standard))
    turned, y = torch.from_numpy(standard @ axes), torch.from_numpy(classes)
    weights = torch.zeros((len(axes) + 1, count), dtype=torch.float64)
    share = torch.from_numpy(_weights(classes, count, balanced))
    val_share = _weights(val_classes, count, balanced)
    fits: list[tuple[float, LinearProbe]] = []
    for penalty in penalties:
        weights = _fit(turned, torch.from_numpy(variances), y, share, penalty, weights)
        own_axes = np.concatenate([axes @ weights[:-1].numpy(), weights[-1:].numpy()])
        probe = LinearProbe(mean, scale, own_axes, penalty)
        right = probe.probabilities(val)[np.arange(len(val)), val_classes]
        fits.append((float(-np.log(np.maximum(right, 1e-12)) @ val_share), probe))
    return min(fits, key=lambda fitted: fitted[0])[1]


def _fit(
    turned: torch.Tensor,
    variances: torch.Tensor,
    y: torch.Tensor,
    share: torch.Tensor,
    penalty: float,
    start: torch.Tensor,
) -> torch.Tensor:
    """Fit weights [E + 1, classes], the bias last, to embeddings along their principal axes."""
    # A young encoder's dimensions all say nearly the same, and L-BFGS would creep. Weights are
    # moved in units in which the loss bends equally along every axis; what it is stays the same.
    bend = torch.sqrt(variances.clamp(min=0) / start.shape[1] + penalty)
    units = torch.cat([1 / bend, torch.ones(1, dtype=bend.dtype)])[:, None]
    moved = (start / units).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [moved], max_iter=300, tolerance_grad=1e-6, tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        weights = moved * units
        scores = turned @ weights[:-1] + weights[-1]
        value = torch.nn.functional.cross_entropy(scores, y, reduction="none") @ share
        # The bias is free.
        value = value + penalty / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return (moved * units).detach()


def _weights(classes: NDArray[np.int64], count: int, balanced: bool) -> NDArray[np.float64]:
    """Return what each row weighs; together 1."""
    if not balanced:
        return np.full(len(classes), 1.0 / max(1, len(classes)))
    weights: NDArray[np.float64] = 1.0 / np.bincount(classes, minlength=count)[classes]
    return weights / weights.sum()


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    unit: NDArray[np.float64] = exact / np.maximum(
        np.linalg.norm(exact, axis=1, keepdims=True), 1e-12
    )
    return unit
