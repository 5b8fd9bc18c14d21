"""Is this one of the known kinds of sound? Learned from sounds that are of none of them.

Shapes (F = features of the ears, E = their embedding, H = hidden units, K = known kinds)::

    features [n, F] -> embedding [n, E], standardised -> hidden [n, H] -> logits [n, K + 1]
    margin [n] = largest logit of a kind - logit of "none of them"
    familiarity [n] = sigmoid(slope (margin - limit)), in (0, 1)

At .5 a sound begins to be unknown. A classifier that has met many sounds of no known kind tells
others from the known ones, too, that it has never met.

Source: outlier exposure (Hendrycks et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.models.contrastive import unit_rms


@dataclass(frozen=True, kw_only=True)
class KnownKindsConfig:
    """Sizes.

    Attributes:
        features: F.
        embedding_size: E.
        kinds: K.
        hidden: H.
        dropout: dropout rates of the embedding and of the hidden units, in training.
    """

    features: int
    embedding_size: int
    kinds: int
    hidden: int = 256
    dropout: tuple[float, float] = (0.3, 0.5)


class KnownKinds(nn.Module):
    """A second's features -> how familiar it is. Fitted by ``training.ood_classifier``."""

    project_weight: Tensor
    project_bias: Tensor
    mean: Tensor
    scale: Tensor
    slope: Tensor
    limit: Tensor

    def __init__(self, config: KnownKindsConfig) -> None:
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
        """Return the familiarity of each sound."""
        embedding = unit_rms(features @ self.project_weight.T + self.project_bias)
        return torch.sigmoid(self.slope * (self.margin(embedding) - self.limit))
