"""The informativity classifier: can a person see one given thing in this picture?

Fanzeres & Nadeu 2021 (arXiv 2106.01266), the interpretability classifiers of the evaluation: one
binary classifier a class. The layer names are those of the authors' published checkpoints.

Shapes (n = pictures in the batch): 3 x 96 x 96 -> 12 x 46 x 46 -> 32 x 22 x 22
-> 32 x 10 x 10 -> 32 x 4 x 4 -> 32 x 1 x 1 -> 32 -> 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.config import check_values
from soundsight.core.errors import ConfigError
from soundsight.models.published.layers import NamedLayers

UNINFORMATIVE, INFORMATIVE = 0, 1
"""The two columns of the output, as in the authors' code."""

_MAPS = (3, 12, 32, 32, 32, 32)


@dataclass(frozen=True, kw_only=True)
class InformativityConfig:
    """Sizes are published and fixed by the checkpoints; only the dropout can be set."""

    #: share of maps dropped after each of the five convolutions
    spatial_dropout: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    dropout: float = 0.5  #: share of the 32 features dropped before the output layer

    def __post_init__(self) -> None:
        if len(self.spatial_dropout) != len(_MAPS) - 1:
            raise ConfigError(f"spatial_dropout: {len(_MAPS) - 1} rates are needed")
        check_values(self, below_1="spatial_dropout dropout")


class InformativityClassifier(NamedLayers):
    """Binary classifier of 34,730 parameters, 1,120 of which (fc1) are never used.

    fc1 stays so that the authors' checkpoints load by name; it gets no gradient.
    """

    def __init__(self, config: InformativityConfig | None = None) -> None:
        super().__init__()
        self.config = config or InformativityConfig()
        for i in range(1, len(_MAPS)):
            self.add(f"conv{i}", nn.Conv2d(_MAPS[i - 1], _MAPS[i], 5 if i == 1 else 3, stride=2))
        for name in ("fc1", "fc2"):
            setattr(self, name, nn.Linear(32, 32))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(32))
        self.fc3 = nn.Linear(32, 2)

    def forward(self, images: Float[Tensor, "n 3 96 96"]) -> Float[Tensor, "n 2"]:
        """Return log-probabilities of pictures in [-1, 1]: not informative, informative."""
        x: Tensor = images
        for i, rate in enumerate(self.config.spatial_dropout, start=1):
            x = F.dropout2d(F.relu(self.normed(f"conv{i}", x)), rate, self.training)
        x = F.relu(self.normed("fc2", x.flatten(1)))
        x = F.dropout(x, self.config.dropout, self.training)
        return F.log_softmax(self.fc3(x), dim=1)

    def informativity(self, images: Float[Tensor, "n 3 96 96"]) -> Float[Tensor, " n"]:
        """Return the probability in [0, 1] that each picture (in [-1, 1]) is informative."""
        logs: Tensor = self(images)
        return logs[:, INFORMATIVE].exp()
