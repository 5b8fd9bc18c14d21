"""Fits the label head: a multinomial logistic regression on the embedding.

It names sounds, for the words beside the pictures, after all other training is done: the encoder is
frozen, and no label and no name reaches encoder or generator. Train seconds fit the weights; val
seconds choose the regularisation and the temperature, so that a probability means what it says.
Beside the subjects' seconds stand sounds that are none of them (``training.other_sounds``): one
more row of weights takes what no name fits.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.core.files import sha256_of, write_json
from soundsight.data.everyday.folder import ALERTS, OF_BENCH, WORDS
from soundsight.runtime.labels import LabelHead, read_label_head
from soundsight.runtime.model_folder import LABELS
from soundsight.training.configs import LabelHeadConfig
from soundsight.training.encoder import AudioEncoder
from soundsight.training.kinds import KindSeconds, hear_made

BENCH_NAMES = tuple(WORDS[kind] for kind in OF_BENCH)
"""The bench's subjects in words for people; they come first."""

EVERYDAY_HEAD = LabelHeadConfig(balanced=True, alerts=tuple(WORDS[kind] for kind in ALERTS))
"""The settings of Everyday's label head."""

_FEWEST = 20
_LEAST_SPREAD = 1e-3
_COLDEST, _HOTTEST = 0.25, 8.0

Floats = NDArray[np.float64]
Seconds = tuple[Floats, list[str]]
"""Embeddings, float64 [n, E], and n names."""


@dataclass(frozen=True, kw_only=True)
class LabelHeadFigures:
    """What the names do on val seconds, which chose penalty and temperature."""

    seconds: int  #: audible val seconds
    accuracy: float  #: share of them whose most probable name is the right one
    log_loss: float  #: mean of minus the logarithm of the right name's probability among the names
    #: expected calibration error of the most probable of the names, 15 bins
    calibration_error: float
    others: int  #: made sounds that are none of the subjects, half seconds apart, beside val
    #: share of them that are more probably none than any one subject; 1 for none
    others_told: float
    named: float  #: share of the val seconds that are more probably some one subject than none
    penalty: float  #: the one that was kept
    temperature: float  #: what the logits were divided by

    def words(self) -> str:
        """The figures in one line."""
        text = (
            f"{100 * self.accuracy:.1f} % right, log loss {self.log_loss:.3f}, expected "
            f"calibration error {self.calibration_error:.3f} ({self.seconds:,} audible val seconds)"
        )
        if not self.others:
            return text
        return (
            f"{text}; {100 * self.others_told:.1f} % of {self.others:,} made seconds of other "
            "sounds are rightly told as none of them, "
            f"{100 * (1 - self.named):.1f} % of val wrongly"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedLabelHead:
    """A label head and what it does on val."""

    head: LabelHead  #: what the runtime reads
    figures: LabelHeadFigures  #: what they do on val


def fit_heard(
    train: KindSeconds,
    val: KindSeconds,
    encoder: AudioEncoder,
    config: LabelHeadConfig,
    words: Mapping[str, str] | None = None,
) -> FittedLabelHead:
    """Fit the label head to heard seconds; what is not known in either, and made sounds, are none.

    Known seconds without a name teach nothing. ``words`` say how kinds are called.
    """
    named: list[Seconds] = []
    rest: list[Floats] = []
    for seconds, split in ((train, "train"), (val, "val")):
        embeddings = seconds.embeddings.astype(np.float64)
        has_name = seconds.known & (seconds.kinds != "")
        names = [(words or {}).get(kind, str(kind)) for kind in seconds.kinds[has_name]]
        named.append((embeddings[has_name], names))
        made = hear_made(encoder, config, split)
        rest.append(np.concatenate([embeddings[~seconds.known], made]))
    return fit_label_head(named[0], named[1], config, (rest[0], rest[1]))


def fit_label_head(
    train: Seconds,
    val: Seconds,
    config: LabelHeadConfig,
    others: tuple[Floats, Floats] | None = None,
) -> FittedLabelHead:
    """Fit names to train seconds; choose penalty and temperature by the log loss on val.

    A val second whose name train does not know is left out. ``others`` are embeddings of none of
    the names, of train and val; without them names take every sound. DataError when no second has a
    label, or there are fewer than two names, or than 20 seconds in either.
    """
    if not train[1]:
        raise DataError("no audible train second has a label: export the model without --labels")
    # An order that does not depend on that of the seconds: the bench's names, then the rest.
    of_bench = [name for name in BENCH_NAMES if name in train[1]]
    names = (*of_bench, *sorted(set(train[1]) - set(of_bench)))
    number = {name: i for i, name in enumerate(names)}
    known = [i for i, name in enumerate(val[1]) if name in number]
    if min(len(train[1]), len(known)) < _FEWEST or len(names) < 2:
        raise DataError(
            f"{len(train[1])} train and {len(known)} val seconds are audible and have a label, of "
            f"{len(names)} names: at least {_FEWEST} of each, of two names, are needed"
        )
    other = others is not None and min(map(len, others)) > 0
    none_of_train, none_of_val = (
        others if others is not None and other else (train[0][:0], train[0][:0])
    )
    fitting = _weighed(train[0], [number[name] for name in train[1]], none_of_train, names, config)
    x, y, weight = choosing = _weighed(
        val[0][known], [number[val[1][i]] for i in known], none_of_val, names, config
    )
    mean, spread = fitting[0].mean(axis=0), fitting[0].std(axis=0, ddof=1) + _LEAST_SPREAD
    tried = []
    for penalty in config.penalties:
        standard = (fitting[0] - mean) / spread
        slopes, bias = _regress(standard, *fitting[1:], penalty, config.iterations)
        weights = slopes / spread
        bias = bias - weights @ mean
        temperature, loss = _cooled(x @ weights.T + bias, y, weight)
        tried.append((loss, penalty, temperature, weights / temperature, bias / temperature))
    _, penalty, temperature, weights, bias = min(tried, key=lambda one: one[0])
    head = LabelHead(
        labels=names,
        weights=weights.astype(np.float32),
        bias=bias.astype(np.float32),
        other=other,
        alerts=tuple(name for name in names if name in config.alerts),
    )
    shares = head.probabilities(choosing[0]).astype(np.float64)
    is_named = shares.max(axis=1) > 1 - shares.sum(axis=1) if other else np.ones(len(shares), bool)
    own = y < len(names)
    among, truth = shares[own], y[own]
    among /= among.sum(axis=1, keepdims=True)
    figures = LabelHeadFigures(
        seconds=len(truth),
        accuracy=float((among.argmax(axis=1) == truth).mean()),
        log_loss=float(-np.log(np.maximum(among[np.arange(len(truth)), truth], 1e-12)).mean()),
        calibration_error=calibration_error(among, truth),
        others=int((~own).sum()),
        others_told=float((~is_named[~own]).mean()) if other else 1.0,
        named=float(is_named[own].mean()),
        penalty=penalty,
        temperature=temperature,
    )
    return FittedLabelHead(head=head, figures=figures)


def _weighed(
    x: Floats, y: Sequence[int], rest: Floats, names: Sequence[str], config: LabelHeadConfig
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Named seconds, then those of none; numbers of their names; weights, whose sum is 1."""
    counts = np.bincount(y, minlength=len(names))
    own = 1.0 / (counts[y] * (counts > 0).sum()) if config.balanced else np.full(len(y), 1 / len(y))
    weight = np.concatenate([own, np.full(len(rest), config.others_weight / max(1, len(rest)))])
    numbers = np.concatenate([np.asarray(y, np.int64), np.full(len(rest), len(names))])
    return np.concatenate([x, rest]), numbers, weight / weight.sum()


def _regress(
    x: Floats, y: NDArray[np.int64], weight: Floats, penalty: float, iterations: int
) -> tuple[Floats, Floats]:
    """Return the weights [count, E] and bias [count] of the least penalised log loss."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # Two classes are fitted by one row of weights, the difference of the two rows that are meant.
    two = len(np.unique(y)) == 2
    regression = LogisticRegression(C=(2 if two else 1) / penalty, max_iter=iterations, tol=1e-7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(x, y, weight)
    weights, bias = regression.coef_, regression.intercept_
    if two:
        weights, bias = (np.concatenate([-part / 2, part / 2]) for part in (weights, bias))
    return weights, bias


def _cooled(logits: Floats, y: NDArray[np.int64], weight: Floats) -> tuple[float, float]:
    """Return the temperature with the least log loss (Guo 2017), and that loss."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_temperature: float) -> float:
        logs = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-(logs[np.arange(len(logs)), y] * weight).sum())

    found = minimize_scalar(loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded")
    return float(np.exp(found.x)), float(found.fun)


def calibration_error(
    shares: NDArray[np.floating], truth: NDArray[np.integer], bins: int = 15
) -> float:
    """Expected calibration error (Guo 2017): how far probabilities are from shares that are right.

    ``shares`` [n, K] sum to 1, ``truth`` [n] are numbers of the right names; ``bins`` are of equal
    width, over the probability of the most probable name.
    """
    top = shares.max(axis=1)
    right = shares.argmax(axis=1) == truth
    which = np.minimum((top * bins).astype(int), bins - 1)
    sums = np.bincount(which, weights=right - top, minlength=bins)
    return float(np.abs(sums).sum() / len(top))


def write_label_head(
    out: Path, encoder_run: Path, fitted: FittedLabelHead, config: LabelHeadConfig
) -> Path:
    """Write ``labels.json``: what the runtime reads, and whose embedding it reads."""
    about = {
        **fitted.head.to_json(),
        "encoder": sha256_of(encoder_run / "encoder.safetensors"),
        "fitted": to_dict(config),
        "figures": to_dict(fitted.figures),
    }
    write_json(out / LABELS, about)
    return out / LABELS


def load_label_head(folder: Path, encoder_run: Path, embedding_size: int) -> FittedLabelHead:
    """Read and check the names in ``folder``, which ``soundsight train labels`` wrote.

    DataError when there are none, or they were fitted to another encoder than that of
    ``encoder_run``; ModelError when they are damaged, or of another length than ``embedding_size``.
    """
    path = folder / LABELS
    if not path.is_file():
        raise DataError(f"{folder} has no {LABELS}: make it with  soundsight train labels")
    head = read_label_head(path, embedding_size)
    try:
        about: dict[str, Any] = json.loads(path.read_text("utf-8"))
        encoder, figures = about["encoder"], LabelHeadFigures(**about["figures"])
        figures.words()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not say how it was fitted: fit it again") from error
    if encoder != sha256_of(encoder_run / "encoder.safetensors"):
        raise DataError(
            f"{folder} was fitted to another encoder than that of {encoder_run}: fit it again "
            "(soundsight train labels)"
        )
    return FittedLabelHead(head=head, figures=figures)
