"""Contrastive sound and picture encoders: two small towers that meet in one space.

Shapes (E = ``embedding_size``)::

    sound tower     mel   [n, 1, 128, 100] in [-1, 1] -> [n, E], root mean square 1
    picture tower   image [n, 3, 96, 96]   in [-1, 1] -> [n, E], root mean square 1

Each stage halves both sides: 3x3 stride-2 convolution (5x5 at the first), BatchNorm, ReLU. The
sound tower keeps the frequency axis to the end (a band is a place, not a texture) and pools over
time by mean and by maximum (a bark lasts a tenth of the second). Trained by the symmetric InfoNCE
of ``training.losses`` on unlabelled pairs; only the sound tower goes into a model folder.

Source: ours; the loss is that of audio-visual instance discrimination (van den Oord et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.units import N_MELS


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Sizes of the two towers.

    Attributes:
        embedding_size: E, length of both embeddings.
        sound_maps: feature maps of the sound tower's five stages.
        picture_maps: feature maps of the picture tower's five stages.
        dropout: dropout rate before the last linear layer of each tower.
    """

    embedding_size: int = 128
    sound_maps: tuple[int, ...] = (16, 32, 64, 96, 128)
    picture_maps: tuple[int, ...] = (16, 32, 64, 96, 128)
    dropout: float = 0.2


def _stages(in_maps: int, maps: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, out_maps in enumerate(maps):
        kernel = 5 if i == 0 else 3
        layers += [
            nn.Conv2d(in_maps, out_maps, kernel, stride=2, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out_maps),
            nn.ReLU(),
        ]
        in_maps = out_maps
    return nn.Sequential(*layers)


def _unit_rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class SoundEncoder(nn.Module):
    """A second of sound -> its embedding."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.embedding_size = config.embedding_size
        self.stages = _stages(1, config.sound_maps)
        rows = N_MELS // 2 ** len(config.sound_maps)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(2 * config.sound_maps[-1] * rows, config.embedding_size)

    def forward(self, mel: Float[Tensor, "n 1 128 100"]) -> Float[Tensor, "n e"]:
        """Return embeddings whose root mean square is 1."""
        x = self.stages(mel)
        x = torch.cat([x.mean(dim=3), x.amax(dim=3)], dim=1).flatten(1)
        return _unit_rms(self.project(self.dropout(x)))

    def encode(self, mel: Float[Tensor, "n 1 128 100"]) -> Float[Tensor, "n e"]:
        """The same as ``forward``; every audio encoder has this method."""
        return self(mel)


class PictureEncoder(nn.Module):
    """A frame -> its embedding, in the sounds' space. Used in training only."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.stages = _stages(3, config.picture_maps)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(2 * config.picture_maps[-1], config.embedding_size)

    def forward(self, image: Float[Tensor, "n 3 96 96"]) -> Float[Tensor, "n e"]:
        """Return embeddings whose root mean square is 1."""
        x = self.stages(image)
        x = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        return _unit_rms(self.project(self.dropout(x)))


class ContrastivePair(nn.Module):
    """Both towers and the learned temperature."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding_size = config.embedding_size
        self.sound = SoundEncoder(config)
        self.picture = PictureEncoder(config)
        # ln(1 / temperature), started at temperature .1.
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def forward(
        self, mel: Float[Tensor, "n 1 128 100"], image: Float[Tensor, "n 3 96 96"]
    ) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n e"]]:
        """Return ``(sound embeddings, picture embeddings)``."""
        return self.sound(mel), self.picture(image)

    def encode(self, mel: Float[Tensor, "n 1 128 100"]) -> Float[Tensor, "n e"]:
        """Return the sound embeddings alone."""
        return self.sound(mel)
