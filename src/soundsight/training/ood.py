"""Fits ood scores: train sounds are kept, val sounds set the limit. No label is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from soundsight.core.config import choose, from_dict, to_dict
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import sha256_of
from soundsight.core.units import INAUDIBLE_LEVEL
from soundsight.data.store.dataset import PairDataset
from soundsight.models.ood import (
    NearestNeighbourOod,
    NearestNeighbourOodConfig,
    OodClassifier,
    OodClassifierConfig,
)
from soundsight.training.checkpoints import load_state, read_tensors, save_weights
from soundsight.training.encoder import AudioEncoder, to_float
from soundsight.training.ood_classifier import OodClassifierFitConfig

LIMIT = 0.5
"""Ood score above which a sound counts as unknown."""

WEIGHTS = "ood.safetensors"

_LEAST_SPREAD = 1e-3
_AT_ONCE = 256
_FEWEST = 20


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a :class:`NearestNeighbourOod` is fitted.

    Attributes:
        accepted: share of the audible val sounds that count as known.
        axes: principal axes kept.
        sounds: train sounds kept; fewer where there are fewer.
        neighbours: nearest sounds whose distances are averaged.
        seed: of which sounds are kept.
    """

    accepted: float = 0.98
    axes: int = 32
    sounds: int = 2048
    neighbours: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.accepted < 1:
            raise ConfigError("accepted must lie between 0 and 1")
        if min(self.axes, self.sounds, self.neighbours) < 1:
            raise ConfigError("axes, sounds and neighbours must be at least 1")


def fit_nearest_neighbours(
    encoder: AudioEncoder, train: PairDataset, val: PairDataset, config: FitConfig
) -> NearestNeighbourOod:
    """Keep train sounds and set the limit so that a share of the val sounds counts as known.

    Nearly black log-mels teach nothing and are left out of both.

    Raises:
        DataError: when there are fewer than 20 audible sounds in either.
    """
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
    standard = (known - mean) / spread
    _, sizes, turned = torch.linalg.svd(standard, full_matrices=False)
    scale = sizes[:axes] / len(known) ** 0.5 + _LEAST_SPREAD
    network.mean.copy_(mean)
    network.axes.copy_(turned[:axes].T / scale / spread[:, None])
    rng = np.random.default_rng((config.seed, 11))
    chosen = torch.from_numpy(rng.permutation(len(known))[:sounds])
    network.memory.copy_((known[chosen] - mean) @ network.axes)
    network.limit.copy_(torch.quantile(network.distance(unknown), config.accepted))
    return network


_NETWORKS = {
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
    """Load what was fitted to the features of the encoder of ``encoder_run``.

    Raises:
        DataError: when it is missing, damaged, or was fitted to another encoder.
    """
    path = folder / WEIGHTS
    tensors, about = read_tensors(path)
    if about.get("encoder") != sha256_of(encoder_run / "encoder.safetensors"):
        raise DataError(
            f"{folder} was fitted to another encoder than that of {encoder_run}: fit it again "
            "(soundsight train ood)"
        )
    try:
        kind, sizes = choose("ood network", about["kind"], _NETWORKS)
        network: NearestNeighbourOod | OodClassifier = kind(from_dict(sizes, about["network"]))
    except (KeyError, ConfigError) as error:
        raise DataError(f"{path.with_suffix('.json')} is damaged: {error}") from error
    load_state(network, tensors, str(path))
    return network.eval().requires_grad_(False)


def _batches(data: PairDataset) -> Iterator[Tensor]:
    """Yield the audible log-mels as the networks take them."""
    rows = _audible(data)
    for start in range(0, len(rows), _AT_ONCE):
        yield to_float(data.gather(rows[start : start + _AT_ONCE]).mel)


def _audible(data: PairDataset) -> list[int]:
    return [i for i in range(len(data)) if float(data.mel(i).mean()) >= INAUDIBLE_LEVEL]


@torch.no_grad()
def _features(encoder: AudioEncoder, data: PairDataset) -> Tensor:
    parts = [encoder.features(mel) for mel in _batches(data)]
    return torch.cat(parts) if parts else torch.zeros(0, encoder.feature_size)
