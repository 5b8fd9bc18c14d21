"""A small residual network that looks at pictures: the second judge and the photo classifier.

Shapes (maps = ``PictureClassifierConfig.maps``, K = ``outputs``)::

    image [n, 3, 96, 96] in [-1, 1]
    -> stem 3x3 stride 2          [n, maps[0], 48, 48]
    -> block                      [n, maps[0], 48, 48]
    -> block stride 2, each       [n, maps[i], 48 / 2^i, 48 / 2^i]
    -> mean over places           [n, maps[-1]]   the features
    -> linear                     [n, K]

A block is two 3x3 convolutions, each with BatchNorm, added to its input (He et al. 2016,
arXiv 1512.03385, without the bottleneck); where sizes change the input goes through a 1x1
convolution and BatchNorm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.config import check_values
from soundsight.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PictureClassifierConfig:
    """Sizes of the network."""

    outputs: int = 5  #: K, logits a picture
    #: feature maps at 48, 24, 12, ... px; the last is the number of features
    maps: tuple[int, ...] = (16, 32, 64, 96)
    dropout: float = 0.2  #: share of the features dropped before the linear layer

    def __post_init__(self) -> None:
        if not 1 <= len(self.maps) <= 5:
            raise ConfigError("maps must be 1 to 5 numbers")
        check_values(self, at_least_1="outputs maps", below_1="dropout")


class _Block(nn.Module):
    """y = relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""

    def __init__(self, in_maps: int, out_maps: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_maps, out_maps, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_maps)
        self.conv2 = nn.Conv2d(out_maps, out_maps, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_maps)
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_maps != out_maps:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_maps, out_maps, 1, bias=False),
                nn.BatchNorm2d(out_maps),
            )

    def forward(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n o h2 w2"]:
        y = F.relu(self.bn1(self.conv1(x)))
        # The places that a stride would take. PyTorch 2.13 writes beyond its memory in the
        # gradient of a 1x1 convolution with a stride and fewer than 16 maps (AVX2 and above).
        taken = x[:, :, :: self.stride, :: self.stride]
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(taken))


class PictureClassifier(nn.Module):
    """Picture -> K logits; 222,837 parameters with the default sizes."""

    def __init__(self, config: PictureClassifierConfig | None = None) -> None:
        super().__init__()
        self.config = config or PictureClassifierConfig()
        maps = self.config.maps
        self.stem = nn.Conv2d(3, maps[0], 3, stride=2, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(maps[0])
        sizes = zip((maps[0], *maps), maps, strict=False)
        self.blocks = nn.Sequential(
            *(_Block(i, o, 1 if place == 0 else 2) for place, (i, o) in enumerate(sizes))
        )
        self.out = nn.Linear(maps[-1], self.config.outputs)

    def features(self, images: Float[Tensor, "n 3 96 96"]) -> Float[Tensor, "n f"]:
        """Return what the linear layer sees, at least 0, of pictures in [-1, 1]."""
        x = self.blocks(F.relu(self.stem_bn(self.stem(images))))
        return x.mean(dim=(2, 3))

    def forward(self, images: Float[Tensor, "n 3 96 96"]) -> Float[Tensor, "n k"]:
        """Return logits of pictures in [-1, 1]."""
        return self.out(F.dropout(self.features(images), self.config.dropout, self.training))
