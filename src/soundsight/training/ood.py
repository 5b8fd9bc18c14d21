"""Fits ood scores: how far a sound is from the known ones.

``neighbours``: train sounds are kept, val sounds set the limit; no label is used.
``classifier``: known seconds of train teach the kinds, all kinds alike; sounds of none of them
teach "none". Sounds of val set the limit and how steeply the ood score rises around it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from soundsight.core.config import choose, to_dict
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import sha256_of
from soundsight.core.units import INAUDIBLE_LEVEL
from soundsight.data.store.dataset import PairDataset
from soundsight.models.ears import Ears
from soundsight.models.ood import (
    NearestNeighbourOod,
    NearestNeighbourOodConfig,
    OodClassifier,
    OodClassifierConfig,
)
from soundsight.training.checkpoints import load_network, read_tensors, save_weights
from soundsight.training.configs import FitConfig, LoopConfig, OodClassifierFitConfig
from soundsight.training.encoder import AudioEncoder, to_float
from soundsight.training.kinds import KindSeconds
from soundsight.training.trainer import LossTask, fit

LIMIT = 0.5
"""Ood score above which a sound counts as unknown."""

WEIGHTS = "ood.safetensors"

_LEAST_SPREAD = 1e-3
_AT_ONCE = 256
_FEWEST = 20


def fit_nearest_neighbours(
    encoder: AudioEncoder, train: PairDataset, val: PairDataset, config: FitConfig
) -> NearestNeighbourOod:
    """Keep train sounds and set the limit so that a share of the val sounds counts as known.

    Nearly black log-mels are left out of both. DataError when fewer than 20 are left of either.
    """
    from sklearn.decomposition import PCA

    size = encoder.feature_size
    known, unknown = (_features(encoder, data) for data in (train, val))
    if min(len(known), len(unknown)) < _FEWEST:
        raise DataError(
            f"{len(known)} train and {len(unknown)} val sounds are audible: at least {_FEWEST} "
            "of each are needed to learn which sounds are known"
        )
    axes = min(config.axes, size, len(known))
    sounds = min(config.sounds, len(known))
    network = NearestNeighbourOod(
        NearestNeighbourOodConfig(
            features=size, axes=axes, sounds=sounds, neighbours=min(config.neighbours, sounds)
        )
    ).eval()
    mean, spread = known.mean(dim=0), known.std(dim=0) + _LEAST_SPREAD
    found = PCA(axes, svd_solver="full").fit(((known - mean) / spread).numpy())
    # Axes that hardly vary are not blown up.
    scale = np.sqrt(found.explained_variance_) + _LEAST_SPREAD
    network.mean.copy_(mean)
    network.axes.copy_(torch.from_numpy(found.components_.T / scale) / spread[:, None])
    rng = np.random.default_rng((config.seed, 11))
    chosen = torch.from_numpy(rng.permutation(len(known))[:sounds])
    network.memory.copy_((known[chosen] - mean) @ network.axes)
    network.limit.copy_(torch.quantile(network.distance(unknown), config.accepted))
    return network


def fit_ood_classifier(
    train: KindSeconds,
    val: KindSeconds,
    ears: Ears,
    config: OodClassifierFitConfig,
    *,
    folder: NDArray[np.float32] | None = None,
    made: NDArray[np.float32] | None = None,
) -> OodClassifier:
    """Fit an ood classifier to the embeddings of ``ears``.

    Seconds of train that are not known teach "none", as do the embeddings [n, E] of sounds of a
    ``folder``, and of ``made`` sounds; ``val`` sets the limit. DataError when train or val has no
    known sounds, or no others.
    """
    own = val.bands == 0
    if not (val.known & own).any() or not (~val.known & own).any():
        raise DataError("val needs sounds of known kinds and of others")
    none = (
        (train.embeddings[~train.known], config.others_weight),
        (folder, config.folder_weight),
        (made, config.made_weight),
    )
    sets = [(one, share) for one, share in none if one is not None and len(one) and share]
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
    embeddings = torch.from_numpy(
        np.concatenate([train.embeddings[train.known], *(one for one, _ in sets)])
    )
    network.project_weight.copy_(weight.detach())
    network.project_bias.copy_(bias.detach())
    network.mean.copy_(embeddings.mean(dim=0))
    network.scale.copy_(1 / (embeddings.std(dim=0) + _LEAST_SPREAD))
    classes = torch.full((len(embeddings),), len(kinds))
    classes[: len(number)] = torch.from_numpy(number)
    # A second is drawn as often as it weighs: all kinds alike, and so much of each other set.
    weights = [1.0 / (np.bincount(number)[number] * len(kinds))]
    weights += [np.full(len(one), share / len(one)) for one, share in sets]
    drawn_up_to = np.cumsum(np.concatenate(weights) / np.concatenate(weights).sum())
    loop = LoopConfig(steps=config.steps, batch_size=max(2, config.batch_size), seed=config.seed)

    def loss(step: int, rng: torch.Generator) -> Tensor:
        del step
        draws = torch.rand(config.batch_size, generator=rng, dtype=torch.float64).numpy()
        rows = np.minimum(np.searchsorted(drawn_up_to, draws), len(embeddings) - 1)
        return F.cross_entropy(network.logits(embeddings[rows]), classes[rows])

    task = LossTask(
        "ood classifier", network, loss, loop, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )  # fmt: skip
    fit(task, None, loop)
    network.eval().requires_grad_(False)
    rows = val.of(own)
    parts = torch.from_numpy(rows.embeddings).split(4096)
    margins = torch.cat([network.margin(part) for part in parts]).double().numpy()
    limit = _limit(margins[rows.known], rows.kinds[rows.known], config.kept)
    network.limit.copy_(torch.tensor(limit))
    network.slope.copy_(torch.tensor(_slope(margins - limit, rows.known)))
    return network


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


_NETWORKS: dict[str, tuple[Callable[[Any], NearestNeighbourOod | OodClassifier], type]] = {
    "neighbours": (NearestNeighbourOod, NearestNeighbourOodConfig),
    "classifier": (OodClassifier, OodClassifierConfig),
}


def write_ood(
    out: Path,
    encoder_run: Path,
    network: NearestNeighbourOod | OodClassifier,
    config: FitConfig | OodClassifierFitConfig,
) -> None:
    """Write what was fitted; the encoder stays where it is and is named by its hash."""
    about = {
        "kind": "neighbours" if isinstance(network, NearestNeighbourOod) else "classifier",
        "network": to_dict(network.config),
        "fitted": to_dict(config),
        "encoder": sha256_of(encoder_run / "encoder.safetensors"),
    }
    save_weights(out / WEIGHTS, network, about)


def load_ood(folder: Path, encoder_run: Path) -> NearestNeighbourOod | OodClassifier:
    """Load what was fitted to the encoder of ``encoder_run``; DataError if it is another's."""
    path = folder / WEIGHTS
    about = read_tensors(path)[1]
    if about.get("encoder") != sha256_of(encoder_run / "encoder.safetensors"):
        raise DataError(
            f"{folder} was fitted to another encoder than that of {encoder_run}: fit it again "
            "(soundsight train ood)"
        )
    try:
        kind, sizes = choose("ood network", about["kind"], _NETWORKS)
    except (KeyError, ConfigError) as error:
        raise DataError(f"{path.with_suffix('.json')} is damaged: {error}") from error
    return load_network(path, kind, sizes)[0]


@torch.no_grad()
def _features(encoder: AudioEncoder, data: PairDataset) -> Tensor:
    """Return the features of the audible sounds: float32 [n, F]."""
    rows = [i for i in range(len(data)) if float(data.mel(i).mean()) >= INAUDIBLE_LEVEL]
    parts = [torch.zeros(0, encoder.feature_size)]
    for start in range(0, len(rows), _AT_ONCE):
        parts.append(encoder.features(to_float(data.gather(rows[start : start + _AT_ONCE]).mel)))
    return torch.cat(parts)
