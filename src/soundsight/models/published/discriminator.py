"""Discriminators: is the picture real, and does it cohere with the sound?

``RCDiscriminator`` (published; shapes of the ``paper`` configuration, E = embedding size)::

    image [n, 3, 96, 96] -> 46x46x96 -> 22x22x192 -> ten 3x3: 20 18 16 ... 2x2x256
    embedding [n, E] -> [n, E/4, 2, 2], concatenated at 2x2
    2x2 convolution -> BatchNorm -> tanh -> RC-score r^ [n] in [-1, 1]

``ProjectionDiscriminator`` (ours)::

    image [n, 3, 96, 96] -> 48 -> 24 -> 12 -> 6 -> 3x3 by strided convolutions, no normalisation
    score [n] = v . h + (W embedding) . h / sqrt(d), h = features of the picture

Sources: arXiv 2106.01266 (RC-score); Miyato & Koyama 2018 (projection); Huang et al. 2024, R3GAN
(no normalisation). The RC-score ends in a one-channel BatchNorm: real and generated pictures must
share one batch in the discriminator's step, or the gap between their means is erased.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.errors import ConfigError
from soundsight.models.published.layers import NamedLayers


@dataclass(frozen=True, kw_only=True)
class RCDiscriminatorConfig:
    """Sizes of the published discriminator."""

    embedding_size: int = 512  #: E; a multiple of 4
    #: feature maps of the twelve convolutions over the picture
    maps: tuple[int, ...] = (96, 192, 192, 208, 224, 240, 256, 256, 256, 256, 256, 256)
    dropout: float = 0.5  #: spatial dropout rate after each of them
    score_norm: bool = True  #: whether a BatchNorm stands before the last tanh, as published

    def __post_init__(self) -> None:
        if self.embedding_size < 4 or self.embedding_size % 4:
            raise ConfigError(
                "the published discriminator (--objective rc) takes embeddings of a multiple of 4, "
                f"not of {self.embedding_size}"
            )


class RCDiscriminator(NamedLayers):
    """The published discriminator."""

    def __init__(self, config: RCDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        maps_in = 3
        for i, maps in enumerate(config.maps, 1):
            kernel, stride = {1: (5, 2), 2: (3, 2)}.get(i, (3, 1))
            self.add(f"conv{i}", nn.Conv2d(maps_in, maps, kernel, stride, bias=False))
            maps_in = maps
        maps_in += config.embedding_size // 4
        self._last = f"conv{len(config.maps) + 1}"
        last = nn.Conv2d(maps_in, 1, 2, bias=not config.score_norm)
        self.add(self._last, last, norm=config.score_norm)
        self.dropout = nn.Dropout2d(config.dropout)

    def forward(
        self, image: Float[Tensor, "n 3 96 96"], embedding: Float[Tensor, "n e"]
    ) -> Float[Tensor, " n"]:
        """Return the RC-score of each picture with its sound, in [-1, 1]."""
        x: Tensor = image
        for i in range(1, len(self.config.maps) + 1):
            x = self.dropout(torch.relu(self.normed(f"conv{i}", x)))
        x = torch.cat([x, embedding.reshape(len(x), -1, 2, 2)], dim=1)
        if not self.config.score_norm:
            return torch.tanh(getattr(self, self._last)(x)).flatten()
        return torch.tanh(self.normed(self._last, x)).flatten()


@dataclass(frozen=True, kw_only=True)
class ProjectionDiscriminatorConfig:
    """Sizes of the projection discriminator."""

    embedding_size: int = 128  #: E
    #: feature maps of the five strided convolutions (96 -> 48 -> 24 -> 12 -> 6 -> 3)
    maps: tuple[int, ...] = (24, 48, 96, 160, 256)
    features: int = 256  #: length of h, the picture's features


class ProjectionDiscriminator(nn.Module):
    """A light discriminator without normalisation; its score is a critic's, unbounded."""

    def __init__(self, config: ProjectionDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        maps = (3, *config.maps)
        self.stages = nn.ModuleList(
            nn.Conv2d(maps[i], maps[i + 1], 4, stride=2, padding=1) for i in range(len(maps) - 1)
        )
        side = 96 // 2 ** len(config.maps)
        self.to_features = nn.Linear(maps[-1] * side * side, config.features)
        self.realness = nn.Linear(config.features, 1)
        self.condition = nn.Linear(config.embedding_size, config.features, bias=False)

    def maps(self, image: Float[Tensor, "n 3 96 96"]) -> list[Tensor]:
        """Return the maps after each stage: what the discriminator sees, from fine to coarse."""
        maps: list[Tensor] = []
        for stage in self.stages:
            maps.append(F.leaky_relu(stage(maps[-1] if maps else image), 0.2))
        return maps

    def features(self, image: Float[Tensor, "n 3 96 96"]) -> Float[Tensor, "n h"]:
        """Return what the discriminator sees in each picture, whatever its sound."""
        return F.leaky_relu(self.to_features(self.maps(image)[-1].flatten(1)), 0.2)

    def score(
        self, features: Float[Tensor, "n h"], embedding: Float[Tensor, "n e"]
    ) -> Float[Tensor, " n"]:
        """Score pictures by their features with a sound each; one picture may meet several."""
        coherence = (self.projected(embedding) * features).sum(dim=1)
        return self.realness(features).squeeze(1) + coherence / math.sqrt(features.shape[1])

    def projected(self, embedding: Float[Tensor, "n e"]) -> Float[Tensor, "n h"]:
        """Return where sounds lie among the features of pictures: W embedding."""
        features: Tensor = self.condition(embedding)
        return features

    def forward(
        self, image: Float[Tensor, "n 3 96 96"], embedding: Float[Tensor, "n e"]
    ) -> Float[Tensor, " n"]:
        """Return the score of each picture with its sound; higher = more real and coherent."""
        return self.score(self.features(image), embedding)
