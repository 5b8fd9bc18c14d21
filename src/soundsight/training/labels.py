"""Fits the label head: a multinomial logistic regression on the embedding.

Here, and only here, labels are read outside evaluation. They name what is heard, for the words
beside the pictures, after all other training is done: the encoder is frozen, and no label and no
name reaches encoder or generator.

Train seconds fit the weights; val seconds choose the regularisation and the temperature, so that
a probability means what it says. Beside the subjects' seconds stand sounds that are none of them
(``training.other_sounds``): one more row of weights takes what no name fits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from soundsight.core.config import choose, to_dict
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import sha256_of, write_json
from soundsight.core.units import INAUDIBLE_LEVEL
from soundsight.data.records import SIDECAR
from soundsight.data.store.shards import PairFolder
from soundsight.data.vegas.bench import Bench
from soundsight.runtime.labels import LabelHead, read_label_head
from soundsight.runtime.model_folder import LABELS
from soundsight.training.encoder import AudioEncoder, to_float
from soundsight.training.other_sounds import KINDS, log_mels

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
_COLDEST, _HOTTEST, _TEMPERATURES = 0.25, 8.0, 400


@dataclass(frozen=True, kw_only=True)
class LabelHeadConfig:
    """How the names are fitted.

    Attributes:
        penalties: weights of the squared coefficients, of standardised embeddings, that are tried;
            the one with the least log loss on val is kept.
        iterations: of L-BFGS, at most.
        others: kinds of made sounds that are none of the subjects. Leave out what is a subject.
        others_each: sounds of each kind, and a quarter as many beside val; 0 for none, and every
            sound is given one of the names.
        others_weight: weight of all of them together beside that of all named seconds.
        balanced: let every name weigh the same, however many seconds it has.
        alerts: names that are told and never drawn; those that no second has are left out.
    """

    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    iterations: int = 200
    others: tuple[str, ...] = tuple(KINDS)
    others_each: int = 120
    others_weight: float = 1.0
    balanced: bool = False
    alerts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.penalties or not all(0 < p < 1e6 for p in self.penalties):
            raise ConfigError("penalties must be numbers above 0")
        if self.iterations < 1:
            raise ConfigError("iterations must be at least 1")
        for kind in self.others:
            choose("kind of other sound", kind, KINDS)
        if self.others_each < 0 or not 0 < self.others_weight < 1e6:
            raise ConfigError("others_each must be at least 0 and others_weight above 0")

    @property
    def with_others(self) -> bool:
        """Whether sounds are made that are none of the subjects."""
        return bool(self.others) and self.others_each > 0


@dataclass(frozen=True, kw_only=True)
class LabelHeadFigures:
    """What the names do on val seconds, which chose penalty and temperature.

    Attributes:
        seconds: audible val seconds.
        accuracy: share of them whose most probable name is the right one.
        log_loss: mean of minus the logarithm of the right name's probability among the names.
        calibration_error: expected calibration error of the most probable of the names, 15 bins.
        others: made sounds that are none of the subjects, half seconds apart, beside val.
        others_told: share of them that are more probably none than any one subject; 1 for none.
        named: share of the val seconds that are more probably some one subject than none.
        penalty: the one that was kept.
        temperature: what the logits were divided by.
    """

    seconds: int
    accuracy: float
    log_loss: float
    calibration_error: float
    others: int
    others_told: float
    named: float
    penalty: float
    temperature: float

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
    """A label head and what it does on val.

    Attributes:
        head: what the runtime reads.
        figures: what they do on val.
    """

    head: LabelHead
    figures: LabelHeadFigures


Seconds = tuple[Tensor, list[str]]
"""Embeddings, float64 [n, E], and n names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Weighed:
    """Seconds [n, E], the numbers of their names [n], and weights [n] that sum to 1."""

    x: Tensor
    y: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls, x: Tensor, y: list[int], rest: Tensor, names: int, share: float, *, balanced: bool
    ) -> _Weighed:
        """Named seconds and, behind them, those of none, which weigh ``share`` times as much."""
        weights = [torch.full((len(x),), 1.0 / len(x))]
        if balanced:
            counts = torch.bincount(torch.tensor(y), minlength=names)
            weights = [1.0 / (counts[torch.tensor(y)] * (counts > 0).sum())]
        if len(rest):
            weights.append(torch.full((len(rest),), share / len(rest)))
        weight = torch.cat(weights).double()
        return cls(
            x=torch.cat([x, rest]),
            y=torch.tensor(y + [names] * len(rest)),
            weight=weight / weight.sum(),
        )

    def loss(self, logits: Tensor) -> Tensor:
        """The weighed log loss of logits [n, names]."""
        return (cross_entropy(logits, self.y, reduction="none") * self.weight).sum()


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

    def heard() -> Iterator[NDArray[np.uint8]]:
        for place in places:
            for mel, name in labelled(place, split):
                if name is not None and float(mel.mean()) >= INAUDIBLE_LEVEL:
                    names.append(name)
                    yield mel

    return _embedded(encoder, heard()), names


def other_seconds(encoder: AudioEncoder, config: LabelHeadConfig) -> tuple[Tensor, Tensor]:
    """Make and embed sounds that are none of the subjects: float64 [n, E] for train and for val."""
    if not config.with_others:
        return (torch.zeros(0, encoder.embedding_size).double(),) * 2
    each, aside = config.others_each, -(-config.others_each // 4)
    train = _embedded(encoder, log_mels(config.others, range(each)))
    return train, _embedded(encoder, log_mels(config.others, range(each, each + aside)))


def fit_label_head(
    train: Seconds,
    val: Seconds,
    config: LabelHeadConfig,
    others: tuple[Tensor, Tensor] | None = None,
) -> FittedLabelHead:
    """Fit names to train seconds; choose penalty and temperature by the log loss on val.

    A val second whose name train does not know is left out.

    Args:
        train: embeddings and names, of ``named_seconds``.
        val: likewise.
        config: how.
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
    sets = []
    for i, (x, y) in enumerate(
        (
            (train[0], [number[name] for name in train[1]]),
            (val[0][known], [number[val[1][i]] for i in known]),
        )
    ):
        rest = others[i] if other and others is not None else x[:0]
        sets.append(
            _Weighed.of(x, y, rest, len(names), config.others_weight, balanced=config.balanced)
        )
    fitting, choosing = sets
    mean, spread = fitting.x.mean(dim=0), fitting.x.std(dim=0) + _LEAST_SPREAD
    best: tuple[float, float, float, Tensor, Tensor] | None = None
    for penalty in config.penalties:
        slopes, bias = _regress(
            fitting, (fitting.x - mean) / spread, len(names) + other, penalty, config.iterations
        )
        weights = slopes / spread
        bias = bias - weights @ mean
        temperature, loss = _cooled(choosing, choosing.x @ weights.T + bias)
        if best is None or loss < best[0]:
            best = (loss, penalty, temperature, weights / temperature, bias / temperature)
    assert best is not None
    _, penalty, temperature, weights, bias = best
    fitted = LabelHead(
        labels=names,
        weights=weights.numpy().astype(np.float32),
        bias=bias.numpy().astype(np.float32),
        other=other,
        alerts=tuple(name for name in names if name in config.alerts),
    )
    shares = fitted.probabilities(choosing.x.numpy()).astype(np.float64)
    is_named = shares.max(axis=1) > 1 - shares.sum(axis=1) if other else np.ones(len(shares), bool)
    truth = choosing.y.numpy()
    ours = truth < len(names)
    told, truth = shares[ours], truth[ours]
    told /= told.sum(axis=1, keepdims=True)
    right = told[np.arange(len(truth)), truth]
    figures = LabelHeadFigures(
        seconds=len(truth),
        accuracy=float((told.argmax(axis=1) == truth).mean()),
        log_loss=float(-np.log(np.maximum(right, 1e-12)).mean()),
        calibration_error=calibration_error(told, truth),
        others=int((~ours).sum()),
        others_told=float((~is_named[~ours]).mean()) if other else 1.0,
        named=float(is_named[ours].mean()),
        penalty=penalty,
        temperature=temperature,
    )
    return FittedLabelHead(head=fitted, figures=figures)


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
    error = 0.0
    for k in range(bins):
        within = which == k
        if within.any():
            error += within.mean() * abs(float(right[within].mean()) - float(top[within].mean()))
    return float(error)


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
def _embedded(encoder: AudioEncoder, mels: Iterator[NDArray[np.uint8]]) -> Tensor:
    """Embed log-mels, uint8 [128, 100] each, a few hundred at once: float64 [n, E]."""
    parts = [torch.zeros(0, encoder.embedding_size).double()]
    while batch := list(islice(mels, _AT_ONCE)):
        parts.append(encoder.encode(to_float(torch.from_numpy(np.stack(batch))[:, None])).double())
    return torch.cat(parts)


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


def _regress(
    data: _Weighed, standard: Tensor, count: int, penalty: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Least penalised log loss: weights [count, E] and bias [count]."""
    weights = torch.zeros(count, standard.shape[1], dtype=standard.dtype, requires_grad=True)
    bias = torch.zeros(count, dtype=standard.dtype, requires_grad=True)
    search = torch.optim.LBFGS(
        [weights, bias], max_iter=iterations, line_search_fn="strong_wolfe", tolerance_grad=1e-7
    )

    def loss() -> Tensor:
        search.zero_grad()
        value = data.loss(standard @ weights.T + bias) + penalty / 2 * weights.square().sum()
        value.backward()
        return value

    search.step(loss)
    return weights.detach(), bias.detach()


def _cooled(data: _Weighed, logits: Tensor) -> tuple[float, float]:
    """Return the temperature with the least log loss (Guo 2017), and that loss."""
    tried = np.geomspace(_COLDEST, _HOTTEST, _TEMPERATURES)
    losses = [float(data.loss(logits / t)) for t in tried]
    best = int(np.argmin(losses))
    return float(tried[best]), losses[best]
