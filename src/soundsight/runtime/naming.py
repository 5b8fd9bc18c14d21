"""Names of a model's subjects: a linear reading of the embedding, fitted after all training.

Optional: a model folder without ``names.json`` has none, and nothing but the words on an event
strip depends on them. No name ever reaches the encoder or the generator.

Shapes (K = subjects, E = numbers of the embedding that are read)::

    embedding [n, E or more] -> weights [K, E], bias [K] -> probabilities [n, K]
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soundsight.core.errors import ModelError
from soundsight.runtime.model_folder import NAMES, ModelInfo

FORMAT = "soundsight-names"
FORMAT_VERSION = 1

_MOST_NAMES = 1000
_LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class Names:
    """The subjects' names and how they are read.

    Attributes:
        names: K words for people, such as ``dog``.
        weights: float32 [K, E].
        bias: float32 [K].
    """

    names: tuple[str, ...]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def of(cls, info: ModelInfo) -> Names | None:
        """Read the names of a model folder; None where it carries none.

        Raises:
            ModelError: when they are damaged or do not fit the model.
        """
        if NAMES not in info.files:
            return None
        path = info.folder / NAMES
        try:
            values: dict[str, Any] = json.loads(path.read_text("utf-8"))
            if values["format"] != FORMAT or values["format_version"] != FORMAT_VERSION:
                raise ValueError("another format or version")
            names = tuple(str(name) for name in values["names"])
            weights = np.asarray(values["weights"], np.float32)
            bias = np.asarray(values["bias"], np.float32)
            if not 2 <= len(names) <= _MOST_NAMES or len(set(names)) != len(names):
                raise ValueError("2 to 1000 different names are expected")
            if any(not n.isprintable() or not 1 <= len(n) <= _LONGEST_NAME for n in names):
                raise ValueError("a name is empty, too long or no text")
            if weights.ndim != 2 or weights.shape[0] != len(names) or bias.shape != (len(names),):
                raise ValueError("the weights are of another shape than the names")
            if weights.shape[1] > info.embedding_size:
                raise ValueError("the embedding is shorter than the weights")
            if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
                raise ValueError("a weight is not finite")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is damaged: {error}") from error
        return cls(names=names, weights=weights, bias=bias)

    def probabilities(self, embeddings: ArrayLike) -> NDArray[np.float32]:
        """Read embeddings [n, E or more]: float32 [n, K], each row sums to 1."""
        read = np.asarray(embeddings, np.float32)[:, : self.weights.shape[1]]
        logits = read @ self.weights.T + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        raised = np.exp(logits)
        shares: NDArray[np.float32] = raised / raised.sum(axis=1, keepdims=True)
        return shares

    def to_json(self) -> dict[str, Any]:
        """The content of ``names.json``.

        Raises:
            ValueError: when a weight is not finite.
        """
        numbers = [*self.weights.ravel().tolist(), *self.bias.tolist()]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("a weight is not finite")
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "names": list(self.names),
            "weights": [[round(w, 6) for w in row] for row in self.weights.tolist()],
            "bias": [round(b, 6) for b in self.bias.tolist()],
        }
