"""A discriminator over the eyes: is this a photo? Asked of frozen features, not of pixels.

Shapes (m = ``maps``)::

    features at strides 4, 8, 16, 32 of a picture of 96 px: sides 24, 12, 6, 3
    -> fixed random 1x1 convolutions                   [n, m, side, side] each
    -> from deep to shallow: enlarged, added, fixed random 3x3
    -> at each scale a small head of spectrally normalised convolutions -> a map of scores

The random convolutions are never trained: they mix channels and scales, so that no head can rest on
a few features alone. Source: Sauer et al. 2021, *Projected GANs Converge Faster*; hinge loss (Lim &
Ye 2017), spectral normalisation (Miyato et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from soundsight.models.eyes import MAPS

_STRIDED = (2, 1, 0, 0)
"""Strided layers of the heads at strides 4, 8, 16 and 32: each head ends at 6 x 6 or 3 x 3."""


@dataclass(frozen=True, kw_only=True)
class EyesDiscriminatorConfig:
    """Sizes."""

    maps: int = 64  #: m, mixed maps at every scale
    head_maps: int = 64  #: maps inside the heads


def _head(maps: int, width: int, strided: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for kernel, stride in (*[(4, 2)] * strided, (3, 1)):
        convolution = nn.Conv2d(maps, width, kernel, stride=stride, padding=1)
        layers += [spectral_norm(convolution), nn.LeakyReLU(0.2)]
        maps = width
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, 1, 1)))


class EyesDiscriminator(nn.Module):
    """Features at four scales -> scores at four scales; higher = more like a photo."""

    def __init__(self, config: EyesDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        m = config.maps
        self.mix_channels = nn.ModuleList(nn.Conv2d(maps, m, 1, bias=False) for maps in MAPS)
        self.mix_scales = nn.ModuleList(nn.Conv2d(m, m, 3, padding=1, bias=False) for _ in MAPS)
        for layer in (*self.mix_channels, *self.mix_scales):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            layer.requires_grad_(False)
        self.heads = nn.ModuleList(_head(m, config.head_maps, strided) for strided in _STRIDED)

    def forward(self, seen: Sequence[Float[Tensor, "n c h w"]]) -> list[Float[Tensor, " m"]]:
        """Return the scores of each scale, flat: of every place of every picture.

        ``seen`` are features at strides 4, 8, 16 and 32, each divided by its usual size.
        """
        scores: list[Tensor] = []
        deeper: Tensor | None = None
        for scale in reversed(range(len(MAPS))):
            x = self.mix_channels[scale](seen[scale])
            if deeper is not None:
                x = x + F.interpolate(deeper, scale_factor=2.0, mode="nearest")
                x = x * (0.5**0.5)
            deeper = self.mix_scales[scale](x)
            scores.append(self.heads[scale](deeper).flatten())
        return scores


def hinge_discriminator(real: Sequence[Tensor], generated: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Return the discriminator's hinge loss, the mean over scales, in float32."""
    losses = [
        F.relu(1.0 - r.float()).mean() + F.relu(1.0 + g.float()).mean()
        for r, g in zip(real, generated, strict=True)
    ]
    return torch.stack(losses).mean()


def hinge_generator(generated: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Return the generator's hinge loss, the mean over scales, in float32."""
    return -torch.stack([g.float().mean() for g in generated]).mean()
