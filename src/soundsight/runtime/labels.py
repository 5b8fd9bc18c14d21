"""The label head: names of a model's subjects, read linearly from the embedding.

It is fitted after all training, and optional: only words depend on it. No label ever reaches the
encoder or the generator.
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
from soundsight.runtime.model_folder import LABELS, ModelInfo

FORMAT = "soundsight-labels"
FORMAT_VERSION = 1

SECOND_SHARE = 0.5
"""There is a second guess where it is at least this many times as probable as the first."""

_MOST_LABELS = 1000
_LONGEST_LABEL = 60
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


def confidence_of(ood_score: float, share: float) -> float:
    """Return how sure a name is: the geometric mean of (1 - ood score) and the name's probability.

    NaN, not known, counts as an ood score of 0 or a probability of 1; NaN where both are.
    """
    if math.isnan(ood_score) and math.isnan(share):
        return math.nan
    known = 1.0 if math.isnan(ood_score) else 1.0 - ood_score
    return math.sqrt(known * (1.0 if math.isnan(share) else share))


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelHead:
    """A linear layer from the embedding to the names of the subjects.

    Attributes:
        labels: K words for people, such as ``dog``.
        weights: float32 [K, E], or [K + 1, E] with ``other``; the first E numbers of an embedding
            are read.
        bias: float32 [K], or [K + 1].
        other: whether the last row stands for a sound that is none of the subjects.
        alerts: those of ``labels`` that are named and never drawn.
    """

    labels: tuple[str, ...]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    other: bool = False
    alerts: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: ModelInfo) -> LabelHead | None:
        """Read the names of a model folder; None where it carries none."""
        if LABELS not in info.files:
            return None
        return read_label_head(info.folder / LABELS, info.embedding_size)

    def probabilities(self, embeddings: ArrayLike) -> NDArray[np.float32]:
        """Read embeddings [n, E or more]: float32 [n, K].

        Each row sums to 1 or, with ``other``, to the probability that it is any of the subjects.
        """
        read = np.asarray(embeddings, np.float32)[:, : self.weights.shape[1]]
        logits = read @ self.weights.T + self.bias
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float32] = raised / raised.sum(axis=1, keepdims=True)
        return shares[:, : len(self.labels)]

    def guess(self, shares: NDArray[np.float32], first: int | None = None) -> Guess:
        """Name a sound by its probabilities [K]; ``first`` is the label to put first, if given."""
        best = int(shares.argmax()) if first is None else first
        others = shares.copy()
        others[best] = -1.0
        second = int(others.argmax())
        near = float(shares[second]) >= SECOND_SHARE * float(shares[best])
        return Guess(
            name=self.labels[best],
            second=self.labels[second] if near else "",
            share=float(shares[best]),
            is_alert=self.labels[best] in self.alerts,
        )

    def to_json(self) -> dict[str, Any]:
        """The content of ``labels.json``; ``ValueError`` where a weight is not finite."""
        if not (np.isfinite(self.weights).all() and np.isfinite(self.bias).all()):
            raise ValueError("a weight is not finite")
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "labels": list(self.labels),
            "other": self.other,
            "alerts": list(self.alerts),
            "weights": [[round(w, 6) for w in row] for row in self.weights.tolist()],
            "bias": [round(b, 6) for b in self.bias.tolist()],
        }


def read_label_head(path: Path, embedding_size: int) -> LabelHead:
    """Read and check ``labels.json``; keys that are not known are let pass.

    Raises:
        ModelError: when it is damaged or does not fit the embeddings.
    """
    try:
        return _parse(json.loads(path.read_text("utf-8")), embedding_size)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except KeyError as error:
        raise ModelError(f"{path} is damaged: the key {error} is missing") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {first_line(error)}") from error


def _parse(values: dict[str, Any], embedding_size: int) -> LabelHead:
    def check(holds: bool, says: str) -> None:
        if not holds:
            raise ValueError(says)

    version = values["format"], values["format_version"]
    check(version == (FORMAT, FORMAT_VERSION), "another format or version")
    labels, other, alerts = values["labels"], values.get("other", False), values.get("alerts", [])
    check(isinstance(labels, list) and all(isinstance(n, str) for n in labels), "labels are words")
    different = 2 <= len(labels) <= _MOST_LABELS and len(set(labels)) == len(labels)
    check(different, f"2 to {_MOST_LABELS} different labels are expected")
    texts = all(n.isprintable() and 1 <= len(n.strip()) <= _LONGEST_LABEL for n in labels)
    check(texts, "a label is empty, too long or no text")
    check(isinstance(other, bool), "other is true or false")
    check(isinstance(alerts, list) and all(a in labels for a in alerts), "alerts are some labels")
    weights, bias = np.asarray(values["weights"]), np.asarray(values["bias"])
    for array in (weights, bias):
        # NumPy would read "1" and true as numbers, and what is beyond float32 as infinite.
        check(array.dtype.kind in "if", "the weights are no numbers")
        check(bool((np.abs(array) < _LARGEST).all()), "a weight is not finite")
    rows = len(labels) + other
    fit = weights.ndim == 2 and len(weights) == rows and bias.shape == (rows,)
    check(fit, "the weights are of another shape than the labels")
    known = 1 <= weights.shape[1] <= embedding_size
    check(known, "the embedding is of another length than the weights")
    return LabelHead(
        labels=tuple(labels),
        weights=weights.astype(np.float32),
        bias=bias.astype(np.float32),
        other=other,
        alerts=tuple(alerts),
    )
