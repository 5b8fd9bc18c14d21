"""Fits what tells known kinds from others: train fills it, val sets its limit.

The label head's logits tell how much more probable a name is than none (its "none" was fitted to
the others of train and to made sounds); remembered train sounds tell how near a sound is to any of
them. Sounds of val, known ones and others, set the limit and how steep familiarity falls around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundsight.core.errors import ConfigError, DataError
from soundsight.models.ears import Ears
from soundsight.models.known_kinds import KnownKinds, KnownKindsConfig
from soundsight.runtime.naming import Names
from soundsight.training.kinds import KindSeconds

_LEAST_SPREAD = 1e-3
_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class KnownKindsFitConfig:
    """How it is fitted.

    Attributes:
        kept: share of the known sounds of val that count as familiar, the mean over kinds, in
            their whole band.
        weight: of the nearness beside the margin.
        axes: principal axes of the features.
        sounds: train sounds remembered; fewer where there are fewer.
        neighbours: nearest sounds whose cosines are averaged.
        seed: of which sounds are remembered.
    """

    kept: float = 0.9
    weight: float = 1.5
    axes: int = 32
    sounds: int = 8192
    neighbours: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.kept < 1 or self.weight < 0:
            raise ConfigError("kept must lie between 0 and 1, weight must not be negative")
        if min(self.axes, self.sounds, self.neighbours) < 1:
            raise ConfigError("axes, sounds and neighbours must be at least 1")


def fit_known_kinds(
    train: KindSeconds, val: KindSeconds, ears: Ears, names: Names, config: KnownKindsFitConfig
) -> KnownKinds:
    """Fit it.

    Args:
        train: seconds of train; the known ones are remembered, those of all kinds alike.
        val: seconds of val, with others.
        ears: whose features these are.
        names: the label head of these ears, with its answer "none of them".
        config: how.

    Raises:
        DataError: when the names have no such answer, or val has no known sounds, or no others.
    """
    if not names.other:
        raise DataError("the names have no answer for other sounds: fit them with --set others_...")
    own = val.bands == 0
    if not (val.known & own).any() or not (~val.known & own).any():
        raise DataError("val needs sounds of known kinds and of others")
    rng = np.random.default_rng(config.seed)
    chosen = _evenly(train, config.sounds, rng)
    known = torch.from_numpy(train.features[chosen].astype(np.float32))
    axes = min(config.axes, known.shape[1], len(known))
    network = KnownKinds(
        KnownKindsConfig(
            features=known.shape[1], embedding_size=ears.embedding_size, names=len(names.names),
            axes=axes, sounds=len(known), neighbours=min(config.neighbours, len(known)),
        )
    ).eval()  # fmt: skip
    mean, spread = known.mean(dim=0), known.std(dim=0) + _LEAST_SPREAD
    _, _, turned = torch.linalg.svd((known - mean) / spread, full_matrices=False)
    project_weight, project_bias = ears.last_layer()
    filled = {
        "mean": mean, "axes": turned[:axes].T / spread[:, None],
        "project_weight": project_weight, "project_bias": project_bias,
        "head_weight": torch.from_numpy(names.weights), "head_bias": torch.from_numpy(names.bias),
        "weight": torch.tensor(config.weight),
    }  # fmt: skip
    with torch.no_grad():
        for name, value in filled.items():
            getattr(network, name).copy_(value)
        network.memory.copy_(network.places(known))
        rows = val.of(own)
        features = torch.from_numpy(rows.features.astype(np.float32))
        network.margin_spread.copy_(_in_parts(network.margin, features).std())
        network.nearness_spread.copy_(_in_parts(network.nearness, features).std())
        scores = _in_parts(network.score, features).double().numpy()
        limit = _limit(scores[rows.known], rows.kinds[rows.known], config.kept)
        network.limit.copy_(torch.tensor(limit))
        network.slope.copy_(torch.tensor(_slope(scores - limit, rows.known)))
    return network


def _evenly(train: KindSeconds, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose known seconds, as many of each kind as there are and all kinds alike."""
    rows = [rng.permutation(np.flatnonzero(train.known & (train.kinds == kind)))
            for kind in np.unique(train.kinds[train.known])]  # fmt: skip
    each = -(-count // len(rows))
    chosen: NDArray[np.int64] = np.sort(np.concatenate([r[:each] for r in rows]))[:count]
    return chosen


def _in_parts(of: object, features: Tensor) -> Tensor:
    assert callable(of)
    return torch.cat([of(part) for part in features.split(_AT_ONCE)])


def _limit(scores: NDArray[np.float64], kinds: NDArray[np.str_], kept: float) -> float:
    """Return the highest limit that keeps a share of the known, the mean over kinds."""
    names = np.unique(kinds)
    for limit in np.quantile(scores, np.linspace(0.6, 0.0, 1201)):
        if np.mean([(scores[kinds == name] >= limit).mean() for name in names]) >= kept:
            return float(limit)
    return float(scores.min())


def _slope(scores: NDArray[np.float64], known: NDArray[np.bool_]) -> float:
    """Return how steep familiarity falls: the least log loss, known and others weighing alike."""
    weight = np.where(known, 0.5 / known.sum(), 0.5 / (~known).sum())
    sign = np.where(known, 1.0, -1.0)
    slopes = np.geomspace(0.1, 10.0, 200)
    losses = [(weight * np.logaddexp(0.0, -slope * sign * scores)).sum() for slope in slopes]
    return float(slopes[int(np.argmin(losses))])
