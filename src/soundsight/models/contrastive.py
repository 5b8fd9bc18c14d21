"""Contrastive sound and picture encoders: two small towers that meet in one space.

Shapes (E = ``embedding_size``)::

    sound tower     mel   [n, 1, 128, 100] in [-1, 1] -> [n, E], root mean square 1
    picture tower   image [n, 3, 96, 96]   in [-1, 1] -> [n, E], root mean square 1

Each stage halves both sides: 3x3 stride-2 convolution (5x5 at first), BatchNorm, ReLU. The sound
tower keeps the frequency axis to the end (a band is a place, not a texture) and pools over time by
mean and by maximum (a bark lasts a tenth of the second). Trained by symmetric InfoNCE on unlabelled
pairs (van den Oord et al. 2018); only the sound tower goes into a model folder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.errors import ConfigError
from soundsight.core.units import IMAGE_PX, N_MELS

FIRST_TEMPERATURE = 0.1
"""Where the learned temperature starts."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Sizes of the two towers."""

    embedding_size: int = 128  #: E, length of both embeddings
    #: feature maps of the sound tower's five stages
    sound_maps: tuple[int, ...] = (16, 32, 64, 96, 128)
    #: feature maps of the picture tower's five stages
    picture_maps: tuple[int, ...] = (16, 32, 64, 96, 128)
    dropout: float = 0.2  #: dropout rate before the last linear layer of each tower
    frames_pooled: int = 1  #: neighbouring 10-ms frames averaged into one before the sound tower
    picture_px: int = IMAGE_PX  #: side to which pictures are shrunk before the picture tower

    def __post_init__(self) -> None:
        if not 1 <= self.frames_pooled <= 4 or not 32 <= self.picture_px <= IMAGE_PX:
            raise ConfigError(f"frames_pooled must lie in 1 .. 4, picture_px in 32 .. {IMAGE_PX}")


def halving(
    in_maps: int, out_maps: int, kernel: int, activation: nn.Module | None = None
) -> list[nn.Module]:
    """Return a convolution that halves both sides, BatchNorm and an activation (ReLU)."""
    convolution = nn.Conv2d(
        in_maps, out_maps, kernel, stride=2, padding=(kernel - 1) // 2, bias=False
    )
    return [convolution, nn.BatchNorm2d(out_maps), activation or nn.ReLU()]


def _stages(in_maps: int, maps: tuple[int, ...]) -> nn.Sequential:
    pairs = pairwise((in_maps, *maps))
    layers = (halving(*pair, 3 if i else 5) for i, pair in enumerate(pairs))
    return nn.Sequential(*chain.from_iterable(layers))


def unit_rms(x: Tensor) -> Tensor:
    """Scale each row of x [n, e] to a root mean square of 1."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


@torch.no_grad()
def limit_temperature(log_scale: Tensor) -> None:
    """Keep the temperature at .02 or above: lower only sharpens what is already memorised."""
    log_scale.clamp_(max=math.log(50.0))


class SoundEncoder(nn.Module):
    """A second of sound -> its embedding."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.embedding_size = config.embedding_size
        self.frames_pooled = config.frames_pooled
        self.stages = _stages(1, config.sound_maps)
        rows = N_MELS // 2 ** len(config.sound_maps)
        self.dropout = nn.Dropout(config.dropout)
        self.feature_size = 2 * config.sound_maps[-1] * rows
        self.project = nn.Linear(self.feature_size, config.embedding_size)

    def features(self, mel: Float[Tensor, "n 1 128 100"]) -> Float[Tensor, "n f"]:
        """Return what the last stage notices, pooled over time: ``feature_size`` numbers."""
        x = F.avg_pool2d(mel, (1, self.frames_pooled)) if self.frames_pooled > 1 else mel
        x = self.stages(x)
        return torch.cat([x.mean(dim=3), x.amax(dim=3)], dim=1).flatten(1)

    def forward(self, mel: Float[Tensor, "n 1 128 100"]) -> Float[Tensor, "n e"]:
        """Return embeddings whose root mean square is 1."""
        return unit_rms(self.project(self.dropout(self.features(mel))))

    def encode(self, mel: Float[Tensor, "n 1 128 100"]) -> Float[Tensor, "n e"]:
        """The same as ``forward``; every audio encoder has this method."""
        return self(mel)


class PictureEncoder(nn.Module):
    """A frame -> its embedding, in the sounds' space. Used in training only."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.picture_px = config.picture_px
        self.stages = _stages(3, config.picture_maps)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(2 * config.picture_maps[-1], config.embedding_size)

    def forward(self, image: Float[Tensor, "n 3 96 96"]) -> Float[Tensor, "n e"]:
        """Return embeddings whose root mean square is 1."""
        if self.picture_px != image.shape[-1]:
            image = F.interpolate(image, size=(self.picture_px, self.picture_px), mode="area")
        x = self.stages(image)
        x = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        return unit_rms(self.project(self.dropout(x)))


class ContrastivePair(nn.Module):
    """Both towers and the learned temperature."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding_size = config.embedding_size
        self.sound = SoundEncoder(config)
        self.picture = PictureEncoder(config)
        # The natural logarithm of one over the temperature.
        self.log_scale = nn.Parameter(torch.tensor(-math.log(FIRST_TEMPERATURE)))

    def forward(
        self, mel: Float[Tensor, "n 1 128 100"], image: Float[Tensor, "n 3 96 96"]
    ) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n e"]]:
        """Return ``(sound embeddings, picture embeddings)``."""
        return self.sound(mel), self.picture(image)

    def encode(self, mel: Float[Tensor, "n 1 128 100"]) -> Float[Tensor, "n e"]:
        """Return the sound embeddings alone."""
        return self.sound(mel)
