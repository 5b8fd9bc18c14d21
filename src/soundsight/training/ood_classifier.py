"""Fits what tells known kinds from other sounds: on train, with its limit from val.

Known seconds of train teach the kinds, all kinds alike; every sound that is of none of them teaches
"none": the others of train, sounds from a folder of one's own, and sounds made by arithmetic.
Sounds of val, known ones and others, set the limit and how steeply the ood score rises around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from soundsight.core.errors import ConfigError, DataError
from soundsight.models.ears import Ears
from soundsight.models.ood import OodClassifier, OodClassifierConfig
from soundsight.training.kinds import KindSeconds
from soundsight.training.trainer import one_cycle

_LEAST_SPREAD = 1e-3
_AT_ONCE = 4096
_WARM_UP = 0.1


@dataclass(frozen=True, kw_only=True)
class OodClassifierFitConfig:
    """How it is fitted.

    Attributes:
        kept: share of the known sounds of val that count as known, the mean over kinds, in
            their whole band.
        others_weight: weight of the others of train beside that of all known sounds.
        folder_weight: weight of the sounds of a folder.
        made_weight: weight of the made sounds.
        hidden: hidden units.
        steps: of AdamW.
        batch_size: seconds of a step.
        learning_rate: peak rate.
        weight_decay: AdamW's.
        seed: of weights, batches and dropout.

    Raises:
        ConfigError: when a value is out of range.
    """

    kept: float = 0.9
    others_weight: float = 0.8
    folder_weight: float = 2.4
    made_weight: float = 0.8
    hidden: int = 256
    steps: int = 1500
    batch_size: int = 1024
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.kept < 1:
            raise ConfigError(f"kept must lie between 0 and 1, not {self.kept}")
        for name in ("others_weight", "folder_weight", "made_weight", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative")
        if min(self.hidden, self.steps, self.batch_size) < 1 or self.learning_rate <= 0:
            raise ConfigError("hidden, steps and batch_size must be at least 1, the rate above 0")


def fit_ood_classifier(
    train: KindSeconds,
    val: KindSeconds,
    ears: Ears,
    config: OodClassifierFitConfig,
    *,
    folder: NDArray[np.float32] | None = None,
    made: NDArray[np.float32] | None = None,
) -> OodClassifier:
    """Fit it.

    Args:
        train: seconds of train; those that are not known teach "none".
        val: seconds of val, with others.
        ears: whose embeddings these are.
        config: how.
        folder: embeddings [n, E] of sounds of a folder that are of none of the kinds.
        made: likewise of made sounds.

    Raises:
        DataError: when train or val has no known sounds, or no others.
    """
    own = val.bands == 0
    if not (val.known & own).any() or not (~val.known & own).any():
        raise DataError("val needs sounds of known kinds and of others")
    sets = [
        (one, share)
        for one, share in (
            (train.embeddings[~train.known], config.others_weight),
            (folder, config.folder_weight),
            (made, config.made_weight),
        )
        if one is not None and len(one) and share
    ]
    if not train.known.any() or not sets:
        raise DataError("train needs sounds of known kinds and of others")
    kinds, number = np.unique(train.kinds[train.known], return_inverse=True)
    torch.manual_seed(config.seed)
    network = OodClassifier(
        OodClassifierConfig(
            features=ears.feature_size, embedding_size=ears.embedding_size, kinds=len(kinds),
            hidden=config.hidden,
        )
    )  # fmt: skip
    weight, bias = ears.last_layer()
    heard = torch.from_numpy(
        np.concatenate([train.embeddings[train.known], *(one for one, _ in sets)])
    )
    network.project_weight.copy_(weight.detach())
    network.project_bias.copy_(bias.detach())
    network.mean.copy_(heard.mean(dim=0))
    network.scale.copy_(1 / (heard.std(dim=0) + _LEAST_SPREAD))
    known = 1.0 / (np.bincount(number)[number] * len(kinds))
    none = [np.full(len(one), share / len(one)) for one, share in sets]
    answers = np.concatenate([number, np.full(len(heard) - len(number), len(kinds))])
    _learn(
        network, heard, torch.from_numpy(answers), np.concatenate([known, *none]), config
    )  # fmt: skip
    network.eval().requires_grad_(False)
    rows = val.of(own)
    parts = torch.from_numpy(rows.embeddings).split(_AT_ONCE)
    margins = torch.cat([network.margin(part) for part in parts]).double().numpy()
    limit = _limit(margins[rows.known], rows.kinds[rows.known], config.kept)
    network.limit.copy_(torch.tensor(limit))
    network.slope.copy_(torch.tensor(_slope(margins - limit, rows.known)))
    return network


def _learn(
    network: OodClassifier,
    heard: Tensor,
    answers: Tensor,
    weight: NDArray[np.float64],
    config: OodClassifierFitConfig,
) -> None:
    """Fit the classifier to embeddings [n, E] and answers [n], drawn as often as they weigh."""
    rng = np.random.default_rng(config.seed)
    upto = np.cumsum(weight / weight.sum())
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    network.train()
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * one_cycle(step, config.steps, _WARM_UP)
        drawn = np.searchsorted(upto, rng.random(config.batch_size))
        rows = torch.from_numpy(np.minimum(drawn, len(heard) - 1))
        loss = F.cross_entropy(network.logits(heard[rows]), answers[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _limit(scores: NDArray[np.float64], kinds: NDArray[np.str_], kept: float) -> float:
    """Return the highest limit that keeps a share of the known, the mean over kinds."""
    names = np.unique(kinds)
    for limit in np.quantile(scores, np.linspace(0.6, 0.0, 1201)):
        if np.mean([(scores[kinds == name] >= limit).mean() for name in names]) >= kept:
            return float(limit)
    return float(scores.min())


def _slope(scores: NDArray[np.float64], known: NDArray[np.bool_]) -> float:
    """Return how steeply the score rises: the least log loss, known and others weighing alike."""
    weight = np.where(known, 0.5 / known.sum(), 0.5 / (~known).sum())
    sign = np.where(known, 1.0, -1.0)
    slopes = np.geomspace(0.1, 10.0, 200)
    losses = [(weight * np.logaddexp(0.0, -slope * sign * scores)).sum() for slope in slopes]
    return float(slopes[int(np.argmin(losses))])
