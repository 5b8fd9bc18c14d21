"""Fits the label head: a multinomial logistic regression on the embedding.

Here, and only here, labels are read outside evaluation. They name sounds, for the words
beside the pictures, after all other training is done: the encoder is frozen, and no label and no
name reaches encoder or generator.

Train seconds fit the weights; val seconds choose the regularisation and the temperature, so that
a probability means what it says. Beside the subjects' seconds stand sounds that are none of them
(``training.other_sounds``): one more row of weights takes what no name fits.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.core.files import sha256_of, write_json
from soundsight.core.units import INAUDIBLE_LEVEL
from soundsight.data.records import SIDECAR
from soundsight.data.store.shards import PairFolder
from soundsight.data.vegas.bench import Bench
from soundsight.runtime.labels import LabelHead, read_label_head
from soundsight.runtime.model_folder import LABELS
from soundsight.training.configs import LabelHeadConfig
from soundsight.training.encoder import AudioEncoder, to_float
from soundsight.training.other_sounds import log_mels

BENCH_NAMES = {
    "baby": "baby crying",
    "dog": "dog",
    "rail": "train",
    "fireworks": "fireworks",
    "water": "water",
}
"""The bench's subjects in words for people."""

_AT_ONCE = 256
_FEWEST = 20
_LEAST_SPREAD = 1e-3
_BINS = 15
_COLDEST, _HOTTEST = 0.25, 8.0


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


Seconds = tuple[NDArray[np.float64], list[str]]
"""Embeddings, float64 [n, E], and n names."""


def named_seconds(
    encoder: AudioEncoder, places: Sequence[Bench | PairFolder], split: str
) -> Seconds:
    """Embed the audible seconds of a split that have a label: [n, E] and n names.

    A bench names its subjects; a dataset of ``soundsight prepare`` has labels in its sidecars,
    where the source had classes. Nearly black log-mels say nothing and are left out.

    Raises:
        DataError: when a record cannot be read, or there is no such split.
    """
    names: list[str] = []

    def named() -> Iterator[NDArray[np.uint8]]:
        for place in places:
            for mel, name in labelled(place, split):
                if name is not None and float(mel.mean()) >= INAUDIBLE_LEVEL:
                    names.append(name)
                    yield mel

    return _embedded(encoder, named()), names


def other_seconds(
    encoder: AudioEncoder, config: LabelHeadConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Make and embed sounds that are none of the subjects: float64 [n, E] for train and for val."""
    if not config.with_others:
        return (np.zeros((0, encoder.embedding_size)),) * 2
    each, aside = config.others_each, -(-config.others_each // 4)
    train = _embedded(encoder, log_mels(config.others, range(each)))
    return train, _embedded(encoder, log_mels(config.others, range(each, each + aside)))


def fit_label_head(
    train: Seconds,
    val: Seconds,
    config: LabelHeadConfig,
    others: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> FittedLabelHead:
    """Fit names to train seconds; choose penalty and temperature by the log loss on val.

    A val second whose name train does not know is left out.

    Args:
        train: embeddings and names, of ``named_seconds``.
        others: of ``other_seconds``; None, or empty ones, for names that take every sound.

    Raises:
        DataError: when no second has a label, when there are fewer than two names, or fewer than 20
            seconds in either.
    """
    if not train[1]:
        raise DataError("no audible train second has a label: export the model without --labels")
    names = tuple(_in_order(train[1]))
    number = {name: i for i, name in enumerate(names)}
    known = [i for i, name in enumerate(val[1]) if name in number]
    if min(len(train[1]), len(known)) < _FEWEST or len(names) < 2:
        raise DataError(
            f"{len(train[1])} train and {len(known)} val seconds are audible and have a label, of "
            f"{len(names)} names: at least {_FEWEST} of each, of two names, are needed"
        )
    other = others is not None and min(map(len, others)) > 0
    fitting, choosing = (
        _weighed(
            x[rows], [number[labels[i]] for i in rows], rest if other else x[:0], len(names), config
        )
        for (x, labels), rows, rest in (
            (train, range(len(train[1])), others[0] if others else None),
            (val, known, others[1] if others else None),
        )
    )
    mean, spread = fitting.x.mean(axis=0), fitting.x.std(axis=0, ddof=1) + _LEAST_SPREAD
    tried = []
    for penalty in config.penalties:
        slopes, bias = _regress(fitting, (fitting.x - mean) / spread, penalty, config.iterations)
        weights = slopes / spread
        bias = bias - weights @ mean
        temperature, loss = _cooled(choosing, choosing.x @ weights.T + bias)
        tried.append((loss, penalty, temperature, weights / temperature, bias / temperature))
    _, penalty, temperature, weights, bias = min(tried, key=lambda one: one[0])
    head = LabelHead(
        labels=names,
        weights=weights.astype(np.float32),
        bias=bias.astype(np.float32),
        other=other,
        alerts=tuple(name for name in names if name in config.alerts),
    )
    shares = head.probabilities(choosing.x).astype(np.float64)
    is_named = shares.max(axis=1) > 1 - shares.sum(axis=1) if other else np.ones(len(shares), bool)
    own = choosing.y < len(names)
    among, truth = shares[own], choosing.y[own]
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Weighed:
    """Seconds [n, E], the numbers of their names [n], and weights [n] that sum to 1."""

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    weight: NDArray[np.float64]


def _weighed(
    x: NDArray[np.float64], y: Sequence[int], rest: Any, names: int, config: LabelHeadConfig
) -> _Weighed:
    """Weigh named seconds and, behind them, those of none, ``config.others_weight`` as much."""
    counts = np.bincount(y, minlength=names)
    own = 1.0 / (counts[y] * (counts > 0).sum()) if config.balanced else np.full(len(y), 1 / len(y))
    weight = np.concatenate([own, np.full(len(rest), config.others_weight / max(1, len(rest)))])
    return _Weighed(
        x=np.concatenate([x, rest]),
        y=np.concatenate([np.asarray(y, np.int64), np.full(len(rest), names)]),
        weight=weight / weight.sum(),
    )


def _regress(
    data: _Weighed, standard: NDArray[np.float64], penalty: float, iterations: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights [count, E] and bias [count] of the least penalised log loss."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # Two classes are fitted by one row of weights, the difference of the two rows that are meant.
    two = len(np.unique(data.y)) == 2
    regression = LogisticRegression(C=(2 if two else 1) / penalty, max_iter=iterations, tol=1e-7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(standard, data.y, data.weight)
    weights, bias = regression.coef_, regression.intercept_
    if two:
        weights, bias = (np.concatenate([-x / 2, x / 2]) for x in (weights, bias))
    return weights, bias


def _cooled(data: _Weighed, logits: NDArray[np.float64]) -> tuple[float, float]:
    """Return the temperature with the least log loss (Guo 2017), and that loss."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_temperature: float) -> float:
        logs = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-(logs[np.arange(len(logs)), data.y] * data.weight).sum())

    found = minimize_scalar(loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded")
    return float(np.exp(found.x)), float(found.fun)


def calibration_error(
    shares: NDArray[np.floating], truth: NDArray[np.integer], bins: int = _BINS
) -> float:
    """Expected calibration error (Guo 2017): how far probabilities are from shares that are right.

    Args:
        shares: [n, K], rows sum to 1.
        truth: [n], numbers of the right names.
        bins: of equal width, over the probability of the most probable name.
    """
    top = shares.max(axis=1)
    right = shares.argmax(axis=1) == truth
    which = np.minimum((top * bins).astype(int), bins - 1)
    sums = np.bincount(which, weights=right - top, minlength=bins)
    return float(np.abs(sums).sum() / len(top))


def write_label_head(
    out: Path, encoder_run: Path, fitted: FittedLabelHead, config: LabelHeadConfig
) -> Path:
    """Write ``labels.json``: what the runtime reads, and whose embedding it reads.

    Raises:
        OutputError: when the place cannot be written to.
    """
    path = out / LABELS
    write_json(
        path,
        {
            **fitted.head.to_json(),
            "encoder": sha256_of(encoder_run / "encoder.safetensors"),
            "fitted": to_dict(config),
            "figures": to_dict(fitted.figures),
        },
    )
    return path


def load_label_head(folder: Path, encoder_run: Path, embedding_size: int) -> FittedLabelHead:
    """Read and check the names in ``folder``.

    Args:
        folder: of ``soundsight train labels``.
        encoder_run: the run whose encoder makes the embeddings.
        embedding_size: E of that encoder.

    Raises:
        DataError: when there are none, or they were fitted to another encoder.
        ModelError: when they are damaged.
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


@torch.no_grad()
def _embedded(encoder: AudioEncoder, mels: Iterator[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Embed log-mels, uint8 [128, 100] each, a few hundred at once: float64 [n, E]."""
    parts = [np.zeros((0, encoder.embedding_size))]
    while batch := list(islice(mels, _AT_ONCE)):
        mel = to_float(torch.from_numpy(np.stack(batch))[:, None])
        parts.append(encoder.encode(mel).double().numpy())
    return np.concatenate(parts)


def labelled(
    place: Bench | PairFolder, split: str
) -> Iterator[tuple[NDArray[np.uint8], str | None]]:
    """Yield the log-mels of a split, uint8 [128, 100], with their names; None without a label.

    Raises:
        DataError: when a record cannot be read, or there is no such split.
    """
    if isinstance(place, Bench):
        for pair in place.pairs(split):
            yield place.spectrogram(pair.spectrogram), BENCH_NAMES[pair.subject]
        return
    for record in place.records(split):
        try:
            label = json.loads(record.files[SIDECAR])["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{place.where}: the pair {record.key} has a bad sidecar") from error
        mel = place.decode(record, with_image=False)[0]
        yield mel, None if label is None else _spoken(str(label))


def _spoken(label: str) -> str:
    """A class's name as people write it."""
    return " ".join(label.replace("_", " ").split())


def _in_order(names: Sequence[str]) -> list[str]:
    """Names in an order that does not depend on that of the seconds: the bench's, then the rest."""
    first = list(BENCH_NAMES.values())
    rest = sorted(set(names) - set(first))
    return [name for name in first if name in set(names)] + rest
