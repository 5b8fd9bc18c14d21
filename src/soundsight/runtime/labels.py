"""Names of a model's subjects: a linear reading of the embedding, fitted after all training.

Optional: a model folder without ``names.json`` has none, and nothing but the words on an event
strip depends on them. No name ever reaches the encoder or the generator.

Shapes (K = subjects, E = numbers of the embedding that are read)::

    embedding [n, E or more] -> weights [K, E], bias [K] -> probabilities [n, K]

With ``other`` there is one row more, for a sound that is none of the subjects; the probabilities
of the subjects are what it leaves. Some names may be of *alerts*: they are told by their word and
never drawn.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soundsight.core.errors import ModelError, first_line
from soundsight.runtime.model_folder import NAMES, ModelInfo

FORMAT = "soundsight-names"
FORMAT_VERSION = 1

SECOND_SHARE = 0.5
"""A second guess is told where it is at least this many times as probable as the first."""

_MOST_NAMES = 1000
_LONGEST_NAME = 60
_LARGEST = 1e30


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a sound probably is.

    Attributes:
        name: the first guess; empty for a model without names.
        second: the second guess where it is near, see ``SECOND_SHARE``; or else empty.
        share: probability of the first; NaN without names.
        is_alert: whether it is to be named and never drawn.
    """

    name: str = ""
    second: str = ""
    share: float = math.nan
    is_alert: bool = False


def confidence_of(familiarity: float, share: float) -> float:
    """Say how sure a name is: the geometric mean of how familiar the sound is and of its share.

    Args:
        familiarity: in [0, 1]; NaN where the model cannot tell, which counts as 1.
        share: likewise.

    Returns:
        In [0, 1]; NaN where both are.
    """
    if math.isnan(familiarity) and math.isnan(share):
        return math.nan
    a, b = (1.0 if math.isnan(value) else value for value in (familiarity, share))
    return math.sqrt(a * b)


@dataclass(frozen=True, kw_only=True, eq=False)
class Names:
    """The subjects' names and how they are read.

    Attributes:
        names: K words for people, such as ``dog``.
        weights: float32 [K, E], or [K + 1, E] with ``other``.
        bias: float32 [K], or [K + 1].
        other: whether the last row stands for a sound that is none of the subjects.
        alerts: those of ``names`` that are told and never drawn.
    """

    names: tuple[str, ...]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    other: bool = False
    alerts: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: ModelInfo) -> Names | None:
        """Read the names of a model folder; None where it carries none.

        Raises:
            ModelError: when they are damaged or do not fit the model.
        """
        if NAMES not in info.files:
            return None
        return read_names(info.folder / NAMES, info.embedding_size)

    def probabilities(self, embeddings: ArrayLike) -> NDArray[np.float32]:
        """Read embeddings [n, E or more]: float32 [n, K].

        Each row sums to 1 or, with ``other``, to the probability that it is any of the subjects.
        """
        read = np.asarray(embeddings, np.float32)[:, : self.weights.shape[1]]
        logits = read @ self.weights.T + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        raised = np.exp(logits)
        shares: NDArray[np.float32] = raised / raised.sum(axis=1, keepdims=True)
        return shares[:, : len(self.names)]

    def guess(self, shares: NDArray[np.float32], first: int | None = None) -> Guess:
        """Name a sound by its probabilities [K].

        Args:
            first: the number of the first guess; None takes the most probable name.
        """
        best = int(shares.argmax()) if first is None else first
        others = shares.copy()
        others[best] = -1.0
        second = int(others.argmax())
        near = float(shares[second]) >= SECOND_SHARE * float(shares[best])
        return Guess(
            name=self.names[best],
            second=self.names[second] if near else "",
            share=float(shares[best]),
            is_alert=self.names[best] in self.alerts,
        )

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
            "other": self.other,
            "alerts": list(self.alerts),
            "weights": [[round(w, 6) for w in row] for row in self.weights.tolist()],
            "bias": [round(b, 6) for b in self.bias.tolist()],
        }


def read_names(path: Path, embedding_size: int) -> Names:
    """Read and check ``names.json``; keys that are not known are let pass.

    Args:
        path: the file.
        embedding_size: length of the embeddings that it is to read.

    Raises:
        ModelError: when it is damaged or does not fit the embeddings.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if values["format"] != FORMAT or values["format_version"] != FORMAT_VERSION:
            raise ValueError("another format or version")
        names = _checked_names(values["names"])
        weights = _numbers(values["weights"])
        bias = _numbers(values["bias"])
        other = values.get("other", False)
        if not isinstance(other, bool):
            raise ValueError("other is true or false")
        alerts = values.get("alerts", [])
        if not isinstance(alerts, list) or not all(alert in names for alert in alerts):
            raise ValueError("alerts are some of the names")
        rows = len(names) + other
        if weights.ndim != 2 or weights.shape[0] != rows or bias.shape != (rows,):
            raise ValueError("the weights are of another shape than the names")
        if not 1 <= weights.shape[1] <= embedding_size:
            raise ValueError("the embedding is of another length than the weights")
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except KeyError as error:
        raise ModelError(f"{path} is damaged: the key {error} is missing") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {first_line(error)}") from error
    return Names(names=names, weights=weights, bias=bias, other=other, alerts=tuple(alerts))


def _checked_names(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(name, str) for name in values):
        raise ValueError("names is a list of words")
    if not 2 <= len(values) <= _MOST_NAMES or len(set(values)) != len(values):
        raise ValueError(f"2 to {_MOST_NAMES} different names are expected")
    if any(not n.isprintable() or not 1 <= len(n.strip()) <= _LONGEST_NAME for n in values):
        raise ValueError("a name is empty, too long or no text")
    return tuple(values)


def _numbers(values: object) -> NDArray[np.float32]:
    # NumPy would read "1" and true as numbers, and what is beyond float32 as infinite.
    array = np.asarray(values)
    if array.dtype.kind not in "if":
        raise ValueError("the weights are no numbers")
    if not (np.abs(array) < _LARGEST).all():
        raise ValueError("a weight is not finite")
    return array.astype(np.float32)
