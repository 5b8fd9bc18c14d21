"""Familiarity: is this the kind of sound that was trained on? For sounds that show nothing known.

Shapes (F = features of the encoder, P = principal axes kept, m = sounds remembered)::

    features [n, F] -> whitened principal axes [n, P]
    distance [n] = mean distance to the nearest ``neighbours`` of the m remembered sounds
    familiarity [n] = limit / (limit + distance), in (0, 1]

``limit`` is the distance that a share of known sounds stays under, so .5 is where the unfamiliar
begins. No label is used: the nearest sounds are near, whatever they are.

Source: deep nearest neighbours for out-of-distribution detection (Sun et al. 2022), on the features
before the embedding: an embedding that was trained to tell subjects apart forgets what else a sound
is, and takes white noise for water.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class FamiliarityConfig:
    """Sizes of the memory.

    Attributes:
        features: F, what the encoder gives.
        axes: P, principal axes kept.
        sounds: m, remembered sounds.
        neighbours: nearest sounds whose distances are averaged.
    """

    features: int
    axes: int = 32
    sounds: int = 2048
    neighbours: int = 5


class Familiarity(nn.Module):
    """A second's features -> how familiar it is. Filled by ``training.ood``."""

    mean: Tensor
    axes: Tensor
    memory: Tensor
    limit: Tensor

    def __init__(self, config: FamiliarityConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("axes", torch.zeros(config.features, config.axes))
        self.register_buffer("memory", torch.zeros(config.sounds, config.axes))
        self.register_buffer("limit", torch.ones(()))

    def distance(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Return the mean distance to the nearest remembered sounds."""
        place = (features - self.mean) @ self.axes
        squares = (
            place.square().sum(dim=1, keepdim=True)
            - 2.0 * place @ self.memory.T
            + self.memory.square().sum(dim=1)
        )
        nearest = torch.topk(squares, self.config.neighbours, dim=1, largest=False).values
        return nearest.clamp(min=0.0).sqrt().mean(dim=1)

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Return the familiarity of each sound."""
        return self.limit / (self.limit + self.distance(features))
