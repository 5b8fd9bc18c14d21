"""Ears: a second of sound -> its embedding, and what training hangs on it.

Shapes of the ``everyday`` preset (E = ``embedding_size``)::

    mel [n, 1, 128, 100] in [-1, 1]
    -> 5x5 stride 2                    maps[0]   64 x 50
    -> stage 1: 3x3 stride 2, blocks   maps[1]   32 x 25
    -> stage 2                         maps[2]   16 x 13
    -> stage 3                         maps[3]    8 x 7
    -> stage 4                         maps[4]    4 x 4
    -> mean and maximum over time, the 4 rows side by side: features
    -> linear -> [n, E], root mean square 1

A block is two 3x3 convolutions, each with BatchNorm, added to what came in (He et al. 2016). In
training the embedding meets a linear projection of the paired photo's pooled features as seen by
frozen eyes (``models.eyes``), and, where there is a teacher, predicts its features linearly.

Source: ours; the loss is that of contrastive predictive coding (van den Oord et al. 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.config import check_values, choose
from soundsight.core.errors import ConfigError
from soundsight.core.units import N_MELS
from soundsight.models.contrastive import FIRST_TEMPERATURE, halving, unit_rms
from soundsight.models.eyes import POOLED_SIZE


@dataclass(frozen=True, kw_only=True)
class EarsConfig:
    """Sizes of the ears."""

    embedding_size: int = 256  #: E
    #: feature maps after the first convolution and after each of the four stages
    maps: tuple[int, ...] = (32, 48, 96, 160, 256)
    blocks: tuple[int, ...] = (0, 1, 1, 1)  #: residual blocks of each stage
    dropout: float = 0.2  #: dropout rate of the features before the last linear layer
    picture_size: int = POOLED_SIZE  #: pooled features of a photo
    teacher_size: int = 0  #: features that the teacher has of a second; 0 for none

    def __post_init__(self) -> None:
        if len(self.maps) != 5 or len(self.blocks) != 4 or self.embedding_size < 4:
            raise ConfigError("five numbers of maps, four of blocks and E >= 4 are expected")
        check_values(self, at_least_0="blocks teacher_size", at_least_1="maps", below_1="dropout")


class _Block(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(maps, maps, 3, padding=1, bias=False)
        self.first_bn = nn.BatchNorm2d(maps)
        self.second = nn.Conv2d(maps, maps, 3, padding=1, bias=False)
        self.second_bn = nn.BatchNorm2d(maps)
        nn.init.zeros_(self.second_bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_bn(self.first(x)))
        return F.relu(x + self.second_bn(self.second(y)))


class Ears(nn.Module):
    """A second of sound -> its embedding."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: EarsConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding_size = config.embedding_size
        layers: list[nn.Module] = []
        in_maps = 1
        for number, maps in enumerate(config.maps):
            layers += halving(in_maps, maps, 3 if number else 5)
            if number:
                layers += [_Block(maps) for _ in range(config.blocks[number - 1])]
            in_maps = maps
        self.stages = nn.Sequential(*layers)
        self.feature_size = 2 * in_maps * (N_MELS // 2 ** len(config.maps))
        self.register_buffer("mean", torch.zeros(self.feature_size))
        self.register_buffer("scale", torch.ones(self.feature_size))
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(self.feature_size, config.embedding_size)

    def features(self, mel: Float[Tensor, "n 1 128 100"]) -> Float[Tensor, "n f"]:
        """Return what the last stage notices, pooled over time: ``feature_size`` numbers."""
        x = self.stages(mel)
        return torch.cat([x.mean(dim=3), x.amax(dim=3)], dim=1).flatten(1)

    def forward(self, mel: Float[Tensor, "n 1 128 100"]) -> Float[Tensor, "n e"]:
        """Return embeddings whose root mean square is 1."""
        return self.read(self.features(mel))

    def read(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n e"]:
        """Return the embeddings of sounds whose features are at hand."""
        return unit_rms(self.project(self.dropout((features - self.mean) * self.scale)))

    def last_layer(self) -> tuple[Float[Tensor, "e f"], Float[Tensor, " e"]]:
        """Return weight and bias that read features as they are, standardising included."""
        weight = self.project.weight * self.scale
        return weight, self.project.bias - weight @ self.mean

    def encode(self, mel: Float[Tensor, "n 1 128 100"]) -> Float[Tensor, "n e"]:
        """The same as ``forward``; every audio encoder has this method."""
        return self(mel)


class PictureProjection(nn.Module):
    """A photo's pooled features -> its embedding, in the sounds' space."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: EarsConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.picture_size))
        self.register_buffer("scale", torch.ones(config.picture_size))
        self.project = nn.Linear(config.picture_size, config.embedding_size)

    def forward(self, pooled: Float[Tensor, "n p"]) -> Float[Tensor, "n e"]:
        """Return embeddings whose root mean square is 1."""
        return unit_rms(self.project((pooled - self.mean) * self.scale))


class EarsAndMore(nn.Module):
    """The ears and all that learns beside them: picture side, teacher's reading, temperature."""

    def __init__(self, config: EarsConfig) -> None:
        super().__init__()
        self.config = config
        self.ears = Ears(config)
        self.picture = PictureProjection(config)
        self.reading = (
            nn.Linear(config.embedding_size, config.teacher_size) if config.teacher_size else None
        )
        # The natural logarithm of one over the temperature.
        self.log_scale = nn.Parameter(torch.tensor(-math.log(FIRST_TEMPERATURE)))


PRESETS = {
    "everyday": EarsConfig(),
    "everyday-tiny": EarsConfig(embedding_size=16, maps=(4, 8, 8, 12, 16), blocks=(0, 0, 0, 1)),
}
"""``everyday`` is the bundled model's; ``everyday-tiny`` is for tests."""


def ears_preset(name: str) -> EarsConfig:
    """Return the sizes called ``name``; a ConfigError names the choices when there are none."""
    return choose("preset of ears", name, PRESETS)
