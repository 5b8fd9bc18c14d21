"""How far a sound is from what a model was trained on: its out-of-distribution (ood) score.

Both networks take the encoder's features, not its embedding, which forgets what does not tell
subjects apart. Near 0 a kind of sound is known, near 1 unknown; from .5 it counts as unknown.

Shapes (F = features of the encoder, E = embedding, P = principal axes, m = sounds of training,
H = hidden units, K = known kinds)::

    NearestNeighbourOod: features [n, F] -> whitened principal axes [n, P]
        distance [n] = mean distance to the nearest ``neighbours`` of the m sounds of training
        ood_score [n] = distance / (limit + distance), in [0, 1)
    OodClassifier: features [n, F] -> embedding [n, E], standardised -> hidden [n, H]
        -> logits [n, K + 1]; margin [n] = largest logit of a kind - logit of "none of them"
        ood_score [n] = sigmoid(slope (limit - margin)), in (0, 1)

Sources: deep nearest neighbours (Sun et al. 2022), fitted without labels; outlier exposure
(Hendrycks et al. 2019), which needs sounds of no known kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.models.contrastive import unit_rms


@dataclass(frozen=True, kw_only=True)
class NearestNeighbourOodConfig:
    """Sizes of a :class:`NearestNeighbourOod`."""

    features: int  #: F, what the encoder gives
    axes: int = 32  #: P, principal axes kept
    sounds: int = 2048  #: m, sounds of training that are kept
    neighbours: int = 5  #: nearest sounds whose distances are averaged


class NearestNeighbourOod(nn.Module):
    """A second's features -> its ood score. Filled by ``training.ood``."""

    mean: Tensor
    axes: Tensor
    memory: Tensor
    limit: Tensor

    def __init__(self, config: NearestNeighbourOodConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("axes", torch.zeros(config.features, config.axes))
        self.register_buffer("memory", torch.zeros(config.sounds, config.axes))
        self.register_buffer("limit", torch.ones(()))

    def distance(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Return the mean distance to the nearest sounds of training."""
        place = (features - self.mean) @ self.axes
        squares = (
            place.square().sum(dim=1, keepdim=True)
            - 2.0 * place @ self.memory.T
            + self.memory.square().sum(dim=1)
        )
        nearest = torch.topk(squares, self.config.neighbours, dim=1, largest=False).values
        return nearest.clamp(min=0.0).sqrt().mean(dim=1)

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Return the ood score of each sound."""
        distance = self.distance(features)
        return distance / (self.limit + distance)


@dataclass(frozen=True, kw_only=True)
class OodClassifierConfig:
    """Sizes of an :class:`OodClassifier`."""

    features: int  #: F
    embedding_size: int  #: E
    kinds: int  #: K
    hidden: int = 256  #: H
    #: dropout rates of the embedding and of the hidden units, in training
    dropout: tuple[float, float] = (0.3, 0.5)


class OodClassifier(nn.Module):
    """A second's features -> its ood score. Fitted by ``training.ood``."""

    project_weight: Tensor
    project_bias: Tensor
    mean: Tensor
    scale: Tensor
    slope: Tensor
    limit: Tensor

    def __init__(self, config: OodClassifierConfig) -> None:
        super().__init__()
        self.config = config
        size = config.embedding_size
        # The ears' last layer: a model folder hands this network the features before it.
        self.register_buffer("project_weight", torch.zeros(size, config.features))
        self.register_buffer("project_bias", torch.zeros(size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.classify = nn.Sequential(
            nn.Dropout(config.dropout[0]), nn.Linear(size, config.hidden), nn.ReLU(),
            nn.Dropout(config.dropout[1]), nn.Linear(config.hidden, config.kinds + 1),
        )  # fmt: skip
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("limit", torch.zeros(()))

    def logits(self, embedding: Float[Tensor, "n e"]) -> Float[Tensor, "n k+1"]:
        """Return the logits of the kinds and, last, of none of them."""
        logits: Tensor = self.classify((embedding - self.mean) * self.scale)
        return logits

    def margin(self, embedding: Float[Tensor, "n e"]) -> Float[Tensor, " n"]:
        """Return how much more probable a kind is than none, as a difference of logits."""
        logits = self.logits(embedding)
        return logits[:, :-1].amax(dim=1) - logits[:, -1]

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Return the ood score of each sound."""
        embedding = unit_rms(features @ self.project_weight.T + self.project_bias)
        return torch.sigmoid(self.slope * (self.limit - self.margin(embedding)))
