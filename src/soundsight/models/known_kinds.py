"""Is this one of the known kinds of sound? Learned from kinds that are none of them.

Shapes (F = features of the ears, E = their embedding, K = names, P = axes, m = sounds remembered)::

    features [n, F] -> embedding [n, E] -> logits of the K names and of "none of them"
    margin [n] = largest logit of a name - logit of none
    features [n, F] -> principal axes [n, P] -> cosine with m remembered sounds
    nearness [n] = mean cosine of the ``neighbours`` nearest
    familiarity [n] = sigmoid(slope (margin / margin_spread + weight nearness / nearness_spread
                                     - limit)), in (0, 1)

The margin knows what the others of train sound like, and so do sounds that are like these. The
nearness knows nothing of them, and catches what is like no sound that was heard in training. At
.5 a sound begins to be unknown.

Sources: outlier exposure (Hendrycks et al. 2019); deep nearest neighbours (Sun et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.models.contrastive import unit_rms


@dataclass(frozen=True, kw_only=True)
class KnownKindsConfig:
    """Sizes.

    Attributes:
        features: F.
        embedding_size: E.
        names: K.
        axes: P, principal axes of the features.
        sounds: m, remembered sounds.
        neighbours: nearest sounds whose cosines are averaged.
    """

    features: int
    embedding_size: int
    names: int
    axes: int = 32
    sounds: int = 8192
    neighbours: int = 5


class KnownKinds(nn.Module):
    """A second's features -> how familiar it is. Filled by ``training.known_kinds``."""

    mean: Tensor
    axes: Tensor
    memory: Tensor
    project_weight: Tensor
    project_bias: Tensor
    head_weight: Tensor
    head_bias: Tensor
    margin_spread: Tensor
    nearness_spread: Tensor
    weight: Tensor
    slope: Tensor
    limit: Tensor

    def __init__(self, config: KnownKindsConfig) -> None:
        super().__init__()
        self.config = config
        sizes = {
            "mean": (config.features,), "axes": (config.features, config.axes),
            "memory": (config.sounds, config.axes),
            "project_weight": (config.embedding_size, config.features),
            "project_bias": (config.embedding_size,),
            "head_weight": (config.names + 1, config.embedding_size),
            "head_bias": (config.names + 1,), "margin_spread": (), "nearness_spread": (),
            "weight": (), "slope": (), "limit": (),
        }  # fmt: skip
        for name, size in sizes.items():
            self.register_buffer(name, torch.ones(size))

    def margin(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Return how much more probable a name is than none, as a difference of logits."""
        embedding = unit_rms(features @ self.project_weight.T + self.project_bias)
        logits = embedding @ self.head_weight.T + self.head_bias
        return logits[:, :-1].amax(dim=1) - logits[:, -1]

    def places(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n p"]:
        """Return where sounds lie among the principal axes, as directions."""
        return F.normalize((features - self.mean) @ self.axes, dim=1)

    def nearness(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Return the mean cosine of the nearest remembered sounds."""
        cosines = self.places(features) @ self.memory.T
        return torch.topk(cosines, self.config.neighbours, dim=1).values.mean(dim=1)

    def score(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Return margin and nearness, weighed."""
        margin = self.margin(features) / self.margin_spread
        return margin + self.weight * self.nearness(features) / self.nearness_spread

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Return the familiarity of each sound."""
        return torch.sigmoid(self.slope * (self.score(features) - self.limit))
