"""Picture posterior: which noise would have led the generator to this very photo? Training only.

Shapes (Z = the generator's ``noise_size``)::

    image [n, 3, 96, 96] in [-1, 1] -> 48 -> 24 -> 12 -> 6 -> 3x3 by strided convolutions,
        each + BatchNorm + LeakyReLU
    -> mean [n, Z], log variance [n, Z] of a normal distribution

Given noise that was read off a photo the generator can be asked to draw that photo again, and
learns to say with its noise what the sound leaves open. Sources: Larsen et al. 2016 (an autoencoder
joined to a GAN); Zhu et al. 2017, BicycleGAN (the same under a condition).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.units import IMAGE_CHANNELS, IMAGE_PX
from soundsight.models.contrastive import halving


@dataclass(frozen=True, kw_only=True)
class PicturePosteriorConfig:
    """Sizes of the picture posterior."""

    noise_size: int = 64  #: Z
    #: feature maps of the five strided convolutions (96 -> 48 -> 24 -> 12 -> 6 -> 3)
    maps: tuple[int, ...] = (16, 32, 64, 128, 192)


class PicturePosterior(nn.Module):
    """A frame -> a normal distribution over the noise that leads to it."""

    def __init__(self, config: PicturePosteriorConfig) -> None:
        super().__init__()
        self.config = config
        pairs = pairwise((IMAGE_CHANNELS, *config.maps))
        layers = (halving(*pair, 4, nn.LeakyReLU(0.2)) for pair in pairs)
        self.stages = nn.Sequential(*chain.from_iterable(layers))
        side = IMAGE_PX // 2 ** len(config.maps)
        self.project = nn.Linear(config.maps[-1] * side * side, 2 * config.noise_size)

    def forward(
        self, image: Float[Tensor, "n 3 96 96"]
    ) -> tuple[Float[Tensor, "n z"], Float[Tensor, "n z"]]:
        """Return mean and log variance, the latter kept within [-10, 2]."""
        mean, log_variance = self.project(self.stages(image).flatten(1)).chunk(2, dim=1)
        # A variance of e^-2 from the start: noise is worth listening to.
        return mean, torch.clamp(log_variance - 2.0, -10.0, 2.0)
