"""The informativity classifier: can a person see one given thing in this picture?

Fanzeres & Nadeu 2021 (arXiv 2106.01266), the interpretability classifiers of the evaluation: one
binary classifier a class. The layer names are those of the authors' published checkpoints.

Shape legend: n = pictures in the batch. 3 x 96 x 96 -> 12 x 46 x 46 -> 32 x 22 x 22
-> 32 x 10 x 10 -> 32 x 4 x 4 -> 32 x 1 x 1 -> 32 -> 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.errors import ConfigError

UNINFORMATIVE, INFORMATIVE = 0, 1
"""The two columns of the output, as in the authors' code."""

_MAPS = (12, 32, 32, 32, 32)
_FEATURES = 32


@dataclass(frozen=True, kw_only=True)
class InformativityConfig:
    """Sizes are published and fixed by the checkpoints; only the dropout can be set."""

    spatial_dropout: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """Share of maps dropped after each of the five convolutions."""
    dropout: float = 0.5
    """Share of the 32 features dropped before the output layer."""

    def __post_init__(self) -> None:
        if len(self.spatial_dropout) != len(_MAPS):
            raise ConfigError(f"spatial_dropout: {len(_MAPS)} rates are needed")
        if not all(0 <= rate < 1 for rate in (*self.spatial_dropout, self.dropout)):
            raise ConfigError("dropout rates must lie in [0, 1)")


class InformativityClassifier(nn.Module):
    """Binary classifier of 34,730 parameters, 1,120 of which (fc1) are never used.

    fc1 stays so that the authors' checkpoints load by name; it gets no gradient.
    """

    def __init__(self, config: InformativityConfig | None = None) -> None:
        super().__init__()
        self.config = config or InformativityConfig()
        # Five convolutions without padding: 5x5 then four 3x3, all stride 2.
        before = 3
        for i, maps in enumerate(_MAPS, 1):
            kernel = 5 if i == 1 else 3
            setattr(self, f"conv{i}", nn.Conv2d(before, maps, kernel_size=kernel, stride=2))
            setattr(self, f"conv{i}_bn", nn.BatchNorm2d(maps))
            before = maps
        self.fc1 = nn.Linear(_MAPS[4], _FEATURES)
        self.fc1_bn = nn.BatchNorm1d(_FEATURES)
        self.fc2 = nn.Linear(_MAPS[4], _FEATURES)
        self.fc2_bn = nn.BatchNorm1d(_FEATURES)
        self.fc3 = nn.Linear(_FEATURES, 2)

    def forward(self, images: Float[Tensor, "n 3 96 96"]) -> Float[Tensor, "n 2"]:
        """Return log-probabilities of pictures in [-1, 1]: not informative, informative."""
        x = images
        for index, rate in enumerate(self.config.spatial_dropout, start=1):
            x = getattr(self, f"conv{index}_bn")(getattr(self, f"conv{index}")(x))
            x = F.dropout2d(F.relu(x), rate, self.training)
        x = F.relu(self.fc2_bn(self.fc2(x.flatten(1))))
        x = F.dropout(x, self.config.dropout, self.training)
        return F.log_softmax(self.fc3(x), dim=1)

    def informativity(self, images: Float[Tensor, "n 3 96 96"]) -> Float[Tensor, " n"]:
        """Return the probability in [0, 1] that each picture (in [-1, 1]) is informative."""
        logs: Tensor = self(images)
        return logs[:, INFORMATIVE].exp()
