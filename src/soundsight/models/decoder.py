"""Latent pictures: a photo becomes a few numbers at 6 x 6 places, and these become a picture again.

Shapes of the ``everyday`` sizes (L = ``latent_maps``)::

    photo [n, 3, 96, 96] in [-1, 1]; its features through the eyes (``models.eyes``)
    stride 4    [n, 24, 24, 24]  two 3x3 stride 2     w / 3 maps (w = ``encoder_width``)
    stride 8    [n, 40, 12, 12]  3x3 stride 2         w / 2
    stride 16   [n, 112, 6, 6]   1x1                 2 w / 3
    stride 32   [n, 320, 3, 3]   1x1, enlarged       2 w / 3
    photo at 24 px, for colour   two 3x3 stride 2     w / 4
    -> concatenated, 3x3, two residual blocks        [n, w, 6, 6]
    -> 1x1: mean and log variance                    [n, L, 6, 6] each

    latent picture [n, L, 6, 6]
    -> 3x3                                           [n, widths[0], 6, 6]
    -> dense block, 1x1, enlarged twice              [n, widths[1], 12, 12]
    -> ...                                           [n, widths[4], 96, 96]
    -> dense block, 3x3, tanh                        [n, 3, 96, 96] in [-1, 1]

A dense block is the paper's (arXiv 2106.01266): three 3x3 layers a, b, c; b sees a, c sees a + b
(concatenated), what follows sees a + b + c. Pictures are enlarged by repeating pixels: transposed
convolutions leave a checkerboard (Odena et al. 2016).

Sources: a variational autoencoder (Kingma & Welling 2014) with a loss in features and an adversary
(Esser et al. 2021, VQ-GAN; Rombach et al. 2022, latent diffusion).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.config import check_values
from soundsight.core.errors import ConfigError
from soundsight.core.units import IMAGE_CHANNELS
from soundsight.models.eyes import MAPS, POOLED_SIZE

LATENT_SIDE = 6
"""Side of a latent picture."""

_SIDES = 5
"""Sizes of the decoder: 6, 12, 24, 48 and 96 pixels."""

_SLOPE = 0.2


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Sizes of encoder and decoder."""

    latent_maps: int = 12  #: L, numbers at each of the 36 places
    encoder_width: int = 192  #: maps of the encoder's residual blocks
    #: maps with which the decoder enters its dense blocks at 6, 12, 24, 48, 96 px
    widths: tuple[int, ...] = (256, 192, 128, 64, 32)
    #: maps of each of the three layers of these blocks
    growth: tuple[int, ...] = (192, 128, 80, 32, 16)

    def __post_init__(self) -> None:
        if len(self.widths) != _SIDES or len(self.growth) != _SIDES:
            raise ConfigError(f"widths and growth must be {_SIDES} numbers each")
        check_values(self, at_least_1="latent_maps widths growth")
        if self.encoder_width < 8:
            raise ConfigError("encoder_width must be at least 8")


class _Layer(nn.Module):
    """y = leaky_relu(bn(conv(x)))."""

    def __init__(self, in_maps: int, out_maps: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_maps, out_maps, kernel, stride=stride, padding=kernel // 2, bias=False
        )
        self.conv_bn = nn.BatchNorm2d(out_maps)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv_bn(self.conv(x)), _SLOPE)


class _Residual(nn.Module):
    """y = leaky_relu(x + bn(conv(layer(x))))."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.layer = _Layer(maps, maps)
        self.conv = nn.Conv2d(maps, maps, 3, padding=1, bias=False)
        self.conv_bn = nn.BatchNorm2d(maps)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.conv_bn(self.conv(self.layer(x))), _SLOPE)


class LatentEncoder(nn.Module):
    """A photo, through the eyes -> mean and log variance of its latent picture. Training only."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        width = config.encoder_width
        fine, coarse, colour = width // 3, 2 * width // 3, width // 4
        self.stride4 = nn.Sequential(
            _Layer(MAPS[0], width // 4, stride=2), _Layer(width // 4, fine, stride=2)
        )
        self.stride8 = _Layer(MAPS[1], width // 2, stride=2)
        self.stride16 = _Layer(MAPS[2], coarse, kernel=1)
        self.stride32 = _Layer(MAPS[3], coarse, kernel=1)
        self.colour = nn.Sequential(
            _Layer(IMAGE_CHANNELS, width // 8, stride=2), _Layer(width // 8, colour, stride=2)
        )
        seen = fine + width // 2 + 2 * coarse + colour
        self.body = nn.Sequential(_Layer(seen, width), _Residual(width), _Residual(width))
        self.out = nn.Conv2d(width, 2 * config.latent_maps, 1)

    def forward(
        self, image: Float[Tensor, "n 3 96 96"], seen: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[Float[Tensor, "n l 6 6"], Float[Tensor, "n l 6 6"]]:
        """Return mean and log variance of the latent picture of photos in [-1, 1].

        ``seen`` are their features through the eyes, at strides 4, 8, 16 and 32.
        """
        small = F.interpolate(image, size=(24, 24), mode="area")
        deep = F.interpolate(self.stride32(seen[3]), scale_factor=2.0, mode="nearest")
        parts = [
            self.stride4(seen[0]), self.stride8(seen[1]), self.stride16(seen[2]), deep,
            self.colour(small),
        ]  # fmt: skip
        mean, log_variance = self.out(self.body(torch.cat(parts, dim=1))).chunk(2, dim=1)
        return mean, log_variance.clamp(-10.0, 4.0)


class LatentReading(nn.Module):
    """A latent picture -> the photo's pooled features, as far as they can be told from it.

    Training only: so that what the photo is of can be drawn and aimed at (Yao et al. 2025, VA-VAE).
    """

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        width = config.encoder_width
        self.body = nn.Sequential(_Layer(config.latent_maps, width), _Layer(width, width))
        self.out = nn.Linear(width, POOLED_SIZE)

    def forward(self, latent: Float[Tensor, "n l 6 6"]) -> Float[Tensor, "n 1280"]:
        """Return pooled features, of any scale and offset."""
        features: Tensor = self.out(self.body(latent).mean(dim=(2, 3)))
        return features


class _DenseBlock(nn.Module):
    """x -> a; a -> b; a + b -> c; returns a + b + c, concatenated."""

    def __init__(self, maps: int, growth: int) -> None:
        super().__init__()
        self.a = _Layer(maps, growth)
        self.b = _Layer(growth, growth)
        self.c = _Layer(2 * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        ab = torch.cat([a, self.b(a)], dim=1)
        return torch.cat([ab, self.c(ab)], dim=1)


class LatentDecoder(nn.Module):
    """A latent picture -> a picture."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        self.first = _Layer(config.latent_maps, config.widths[0])
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for number, (width, growth) in enumerate(zip(config.widths, config.growth, strict=True)):
            self.blocks.append(_DenseBlock(width, growth))
            if number + 1 < _SIDES:
                self.transitions.append(_Layer(3 * growth, config.widths[number + 1], kernel=1))
        self.last = nn.Conv2d(3 * config.growth[-1], IMAGE_CHANNELS, 3, padding=1)

    def forward(self, latent: Float[Tensor, "n l 6 6"]) -> Float[Tensor, "n 3 96 96"]:
        """Return pictures in [-1, 1]."""
        x = self.first(latent)
        for block, transition in zip(self.blocks, self.transitions, strict=False):
            x = F.interpolate(transition(block(x)), scale_factor=2.0, mode="nearest")
        return torch.tanh(self.last(self.blocks[-1](x)))
