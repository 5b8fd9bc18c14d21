"""Whether a sound is of a kind that the model was trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from soundsight.runtime.model_folder import OOD, ModelInfo
from soundsight.runtime.session import Network


class OodDetector:
    """Gives sounds their ood score. Without a network for it every score is NaN.

    Args:
        info: a folder that ``model_folder.read`` has checked.
        threads: threads of one run; None takes the CPUs of the process, at most 4.

    Raises:
        ModelError: when there is a network that cannot be opened.
    """

    def __init__(self, info: ModelInfo, threads: int | None = None) -> None:
        self._network: Network | None = None
        if OOD in info.files:
            self._network = Network(info.folder / OOD, ("ood_score",), threads)
            self._network.require({"features"})

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores by the encoder's features [n, F]: float32 [n] in [0, 1]."""
        if self._network is None:
            return np.full(len(features), np.nan, np.float32)
        (scores,) = self._network.run(((),), features=features)
        return scores
