"""An audio encoder measured: what can be read from its embeddings of sounds it never heard.

Labels are used here alone, to measure. A linear classifier is fitted to embeddings of train, its
penalty chosen on val. On the bench the nearest train seconds vote as well, both stand beside the
same reading of the mean level of each mel band, and an autoencoder reconstructs the sounds. Ears
are measured on Everyday's kinds, in the whole band and as recorded at 8 kHz.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from soundsight.core.errors import DataError
from soundsight.core.files import sha256_of
from soundsight.core.progress import Progress
from soundsight.data.everyday import folder as everyday_data
from soundsight.data.everyday.folder import ALERTS, BENCH_PREFIX, KINDS, OF_BENCH, Everyday
from soundsight.data.vegas.bench import SUBJECTS, Bench
from soundsight.evaluation import metrics
from soundsight.evaluation import report as pages
from soundsight.evaluation.figures import draw_map, reconstruction_sheet
from soundsight.evaluation.metrics import MEAN, Shares, as_json, classify
from soundsight.evaluation.segments import Segments, bench_segments, known_segments, shown_seconds
from soundsight.judges.pictures import columns_of
from soundsight.models.published.autoencoder import Autoencoder
from soundsight.training.ears import KIND as EARS
from soundsight.training.encoder import AudioEncoder, load_encoder, to_float, to_levels
from soundsight.training.run_folder import read_run

REPORT_VERSION = 1
KIND = "encoder"
"""Stands in report.json where a translator's report has none."""

PROBE, NEAREST, BANDS = "linear probe", "nearest seconds", "band means"
RECONSTRUCTION, MEAN_MEL = "reconstruction", "mean log-mel of train"
NEIGHBOURS = 20
PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
"""Weight decays that the linear classifier may choose from on val, the strongest first."""
EARS_PENALTIES = (0.03, 0.01, 3e-3, 1e-3)
READINGS = {
    "22 subjects": (everyday_data.SUBJECTS, False),
    "28 kinds": (KINDS, False),
    "bench's five": (tuple(OF_BENCH), True),
}
"""What is told apart, and whether among the bench's seconds alone."""
BANDWIDTHS = ("whole band", "8 kHz")

_GROUPS = {"bench": tuple(OF_BENCH), "alerts": ALERTS}
_LEAST_SPREAD = 1e-4
"""Of a dimension, as a share of the widest; what is less is taken for this."""
_SHOWN_PER_CLASS = 8
_AT_ONCE = 256


def neighbour_votes(
    train: NDArray[np.floating],
    classes: NDArray[np.int64],
    unknown: NDArray[np.floating],
    *,
    neighbours: int = NEIGHBOURS,
) -> NDArray[np.float64]:
    """Return how the nearest train seconds by cosine vote: shares [n, 5] that sum to 1.

    ``train`` [m, E] are of ``classes`` [m], ``unknown`` is [n, E]; where there are fewer than
    ``neighbours``, all vote.
    """
    model = KNeighborsClassifier(min(neighbours, len(train)), metric="cosine").fit(train, classes)
    votes = np.zeros((len(unknown), len(SUBJECTS)))
    votes[:, model.classes_] = model.predict_proba(unknown)
    return votes


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearProbe:
    """Logistic regression on standardised embeddings. Made by :func:`fit_probe`."""

    model: LogisticRegression
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    penalty: float  #: the weight decay that val chose
    count: int

    def probabilities(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return class probabilities [n, classes] of embeddings [n, E]."""
        found = np.zeros((len(embeddings), self.count))
        standard = (embeddings - self.mean) / self.scale
        found[:, self.model.classes_] = self.model.predict_proba(standard)
        return found


def fit_probe(
    train: NDArray[np.floating],
    classes: NDArray[np.int64],
    val: NDArray[np.floating],
    val_classes: NDArray[np.int64],
    *,
    penalties: Sequence[float] = PENALTIES,
    count: int = len(SUBJECTS),
    balanced: bool = False,
) -> LinearProbe:
    """Fit logistic regression: mean cross entropy + penalty / 2 * squared weights.

    Args:
        train, classes: embeddings [m, E] and the class of each, below ``count``.
        val, val_classes: [n, E], which choose among the ``penalties`` by their cross entropy.
        balanced: every class weighs the same, in the fit and in the choice, however many seconds
            it has.
    """
    mean, scale = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    # A dimension that hardly moves would be noise made large.
    scale = np.maximum(scale, _LEAST_SPREAD * scale.max()) if scale.any() else np.ones_like(scale)
    standard = (train - mean) / scale
    # They sum to 1, so that scikit-learn's sum of losses is a mean.
    weights, val_weights = (_weights(of, count, balanced) for of in (classes, val_classes))
    best, least = None, np.inf
    for penalty in penalties:
        model = LogisticRegression(C=1 / penalty, solver="newton-cg", max_iter=300, tol=1e-6)
        model.fit(standard, classes, weights)
        probe = LinearProbe(model=model, mean=mean, scale=scale, penalty=penalty, count=count)
        right = probe.probabilities(val)[np.arange(len(val)), val_classes]
        loss = float(-np.log(np.maximum(right, 1e-12)) @ val_weights)
        if loss < least:
            best, least = probe, loss
    assert best is not None
    return best


def _weights(classes: NDArray[np.int64], count: int, balanced: bool) -> NDArray[np.float64]:
    """Return what each row weighs; together 1."""
    if not balanced:
        return np.full(len(classes), 1.0 / max(1, len(classes)))
    weights: NDArray[np.float64] = 1.0 / np.bincount(classes, minlength=count)[classes]
    return weights / weights.sum()


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """n seconds and their embeddings, float64 [n, E]."""

    of: Segments
    embeddings: NDArray[np.float64]

    @cached_property
    def bands(self) -> NDArray[np.float64]:
        """Mean level of each band, [n, 128]: what can be known without an encoder."""
        return self.of.mels.mean(axis=2, dtype=np.float64)

    def among(self, kinds: Sequence[str], *, bench: bool = False) -> Embedded:
        """Return those of some kinds; of the bench alone where asked for."""
        of_bench = [name.startswith(BENCH_PREFIX) for name in self.of.recordings]
        rows = np.isin(self.of.kinds, kinds) & (np.array(of_bench, bool) | (not bench))
        return Embedded(of=self.of.where(rows), embeddings=self.embeddings[rows])


@torch.no_grad()
def embed_segments(encoder: AudioEncoder, segments: Segments) -> Embedded:
    """Embed seconds.

    Raises:
        DataError: when an embedding is not finite.
    """
    mels = torch.from_numpy(segments.mels)[:, None]
    parts = [encoder.encode(to_float(part)) for part in mels.split(_AT_ONCE)]
    embeddings = torch.cat(parts).double().numpy()
    if not np.isfinite(embeddings).all():
        raise DataError("the encoder's embeddings are not finite")
    return Embedded(of=segments, embeddings=embeddings)


def evaluate_encoder(
    run: Path,
    bench: Bench,
    out: Path,
    *,
    split: str = "devtest",
    seed: int = 0,
    command: str = "",
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure a finished encoder run on the bench's sounds.

    Writes report.json, report.md, report.html, map.png (the embeddings in two dimensions) and, for
    an autoencoder, sheet.png. The same arguments give the same files.

    Args:
        run: of a translator's, the encoder that it was trained with is measured.
        split: ``devtest`` or ``val``, where the figure is a little flattering, as the classifier's
            weight decay is chosen there.
        command: how this was started, for the report.

    Returns:
        What report.json holds.

    Raises:
        ConfigError: on another split.
        DataError: when the run is unfinished or damaged, or a split holds no sounds.
        OutputError: when ``out`` cannot be written to or holds something else.
    """
    pages.check_split(split)
    about, encoder = read_run(run), load_encoder(run)
    pairs = {
        name: bench.pairs_of_every_class(name, "evaluation")
        for name in dict.fromkeys(("train", "val", split))
    }
    with pages.report_folder(out) as place:
        embedded: dict[str, Embedded] = {}
        for name in pairs:
            progress("splits heard", len(embedded), len(pairs))
            embedded[name] = embed_segments(encoder, bench_segments(bench, pairs[name]))
        train, unknown = embedded["train"], embedded[split]
        progress("measuring", 0, 0)
        rows, penalties, confusions = _read_classes(train, embedded["val"], unknown, seed)
        axes = PCA(2, svd_solver="full").fit(train.embeddings)
        titles = [
            f"axis {i} ({part:.0%} of the variance)"
            for i, part in enumerate(axes.explained_variance_ratio_, start=1)
        ]
        places = axes.transform(unknown.embeddings)
        drawn = draw_map(places, unknown.of.kinds, (titles[0], titles[1]))
        figures = {"map.png": pages.save_figure(place / "map.png", drawn)}
        errors: dict[str, Shares] = {}
        if isinstance(encoder, Autoencoder):
            of_second, figures["sheet.png"] = _drawn_again(encoder, unknown.of, seed, place)
            errors = _error_rows(of_second, train.of, unknown.of, seed)
        report: dict[str, Any] = {
            "report_version": REPORT_VERSION,
            "kind": KIND,
            "model": {
                "name": run.resolve().name,
                "path": str(run),
                "sha256": sha256_of(run / "encoder.safetensors"),
                "encoder": "autoencoder" if isinstance(encoder, Autoencoder) else "contrastive",
                "embedding_size": encoder.embedding_size,
                "config": about["config"],
            },
            "settings": {
                "split": split,
                "seed": seed,
                "neighbours": NEIGHBOURS,
                "penalties": penalties,
                **metrics.INTERVALS,
            },
            "sounds": {s: unknown.of.kinds.count(s) for s in SUBJECTS},
            "audible": int(unknown.of.audible.sum()),
            "train": len(train.of),
            "rows": as_json(rows),
            **confusions,
            "errors": as_json(errors),
        }
        title = f"The encoder {report['model']['name']}"
        pages.write_report(place, "encoder", title, report, figures, command)
    return report


def _read_classes(
    train: Embedded, val: Embedded, unknown: Embedded, seed: int
) -> tuple[dict[str, Shares], dict[str, float], dict[str, Any]]:
    """Read the classes of ``unknown`` in each way: rows, penalties, the probe's confusions."""
    classes, val_classes = columns_of(train.of.kinds), columns_of(val.of.kinds)
    loud, rows, confusions = unknown.of.audible, dict[str, Shares](), dict[str, Any]()
    part, penalties = unknown.of.where(loud), {}
    for before, known, chooser, asked in (
        ("", train.embeddings, val.embeddings, unknown.embeddings),
        (f"{BANDS}, ", train.bands, val.bands, unknown.bands),
    ):
        probe = fit_probe(known, classes, chooser, val_classes)
        penalties[before + PROBE] = probe.penalty
        for name, found in (
            (before + PROBE, probe.probabilities(asked)),
            (before + NEAREST, neighbour_votes(known, classes, asked)),
        ):
            whole = classify(found, unknown.of.kinds, unknown.of.recordings, seed=seed)
            reading = classify(found[loud], part.kinds, part.recordings, seed=seed)
            rows[name] = whole.seconds
            rows[f"{name}, audible seconds"] = reading.seconds
            rows[f"{name}, by video"] = whole.videos
            rows[f"{name}, by video, audible seconds"] = reading.videos
            if name == PROBE:
                confusions["confusion"] = whole.confusion.tolist()
                confusions["video_confusion"] = whole.video_confusion.tolist()
    return rows, penalties, confusions


def reconstruct(
    encoder: Autoencoder, mels: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Let an autoencoder reconstruct log-mels uint8 [n, 128, 100].

    Returns the mean squared error of each in [-1, 1], float64 [n], and uint8 [n, 128, 100].
    """
    errors, drawings = np.empty(len(mels)), np.empty_like(mels)
    for start in range(0, len(mels), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        wanted = to_float(torch.from_numpy(mels[part])[:, None])
        with torch.no_grad():
            made, _ = encoder(wanted)
        errors[part] = (made - wanted).double().square().mean(dim=(1, 2, 3)).numpy()
        drawings[part] = to_levels(made)[:, 0].numpy()
    return errors, drawings


def _drawn_again(
    encoder: Autoencoder, unknown: Segments, seed: int, place: Path
) -> tuple[NDArray[np.float64], pages.Figure]:
    """Return each second's error, and the sheet of log-mels and what the autoencoder draws."""
    errors, drawn = reconstruct(encoder, unknown.mels)
    shown = shown_seconds(unknown.pairs, _SHOWN_PER_CLASS, seed)
    kinds = [unknown.kinds[index] for index in shown]
    page = reconstruction_sheet(unknown.mels[shown], drawn[shown], kinds, errors[shown])
    return errors, pages.save_figure(place / "sheet.png", page)


def _error_rows(
    errors: NDArray[np.float64], train: Segments, unknown: Segments, seed: int
) -> dict[str, Shares]:
    """Return reconstruction errors beside those of drawing the same for every sound."""
    usual = train.mels.mean(axis=0, dtype=np.float64)
    of_usual = np.array([np.square((mel - usual) / 127.5).mean() for mel in unknown.mels])
    rows: dict[str, Shares] = {}
    for name, values in ((RECONSTRUCTION, errors), (MEAN_MEL, of_usual)):
        rows[name] = unknown.shares(values, seed)
        rows[f"{name}, audible seconds"] = unknown.shares(values, seed, unknown.audible)
    return rows


def report_ears(
    run: Path,
    everyday: Everyday,
    bench: Bench,
    out: Path,
    *,
    split: str = "devtest",
    seed: int = 0,
    command: str = "",
    progress: Progress = lambda *_: None,
) -> list[str]:
    """Measure a finished run of ears and write report.json, report.md and report.html.

    A classifier is fitted to both bandwidths together. A recording is labelled by the mean of its
    seconds' log-probabilities. Arguments and errors are those of :func:`evaluate_encoder`.

    Returns:
        The main figures, a line each.
    """
    pages.check_split(split)
    names, encoder = list(dict.fromkeys(("train", "val", split))), load_encoder(run)
    with pages.report_folder(out) as place:
        embedded: dict[tuple[str, bool], Embedded] = {}
        for name in names:
            for narrow in (False, True):
                progress("seconds heard", len(embedded), 2 * len(names))
                found = known_segments(everyday, bench, name, narrow=narrow)
                embedded[name, narrow] = embed_segments(encoder, found.where(found.audible))
        report: dict[str, Any] = {
            "report_version": REPORT_VERSION,
            "kind": EARS,
            "run": str(run),
            "sha256": sha256_of(run / "encoder.safetensors"),
            "split": split,
            "seed": seed,
        }
        for name, (kinds, of_bench) in READINGS.items():
            progress(name, 0, 0)
            own = {key: one.among(kinds, bench=of_bench) for key, one in embedded.items()}
            report[name] = _read_kinds(own, kinds, split, seed)
        rows = {
            f"{name}, {band}, {unit}": row
            for name in READINGS
            for band in BANDWIDTHS
            for unit, row in report[name][band].items()
        }
        title = f"Ears: {run.resolve().name}, {split}"
        pages.write_report(place, "ears", title, report, {}, command, rows=rows)
    return [f"{name}: {_in_words(row)}" for name, row in rows.items()]


def _read_kinds(
    own: Mapping[tuple[str, bool], Embedded], kinds: Sequence[str], split: str, seed: int
) -> dict[str, Any]:
    """Count what is labelled right, in each bandwidth, of ``own``: (split, at 8 kHz) -> seconds."""
    fitted: list[NDArray[Any]] = []
    for name in ("train", "val"):
        both = own[name, False], own[name, True]
        fitted.append(np.concatenate([one.embeddings for one in both]))
        fitted.append(columns_of([kind for one in both for kind in one.of.kinds], kinds))
    probe = fit_probe(*fitted, penalties=EARS_PENALTIES, count=len(kinds), balanced=True)
    found: dict[str, Any] = {"penalty": probe.penalty}
    for band, narrow in zip(BANDWIDTHS, (False, True), strict=True):
        asked = own[split, narrow]
        logs = np.log(np.maximum(probe.probabilities(asked.embeddings), 1e-12))
        accuracy = classify(logs, asked.of.kinds, asked.of.recordings, seed=seed, classes=kinds)
        found[band] = as_json({"seconds": accuracy.seconds, "recordings": accuracy.videos})
        for row in found[band].values():
            for group, of in _GROUPS.items():
                if present := [row[kind]["share"] for kind in of if kind in row]:
                    row[group] = float(np.mean(present))
    return found


def _in_words(row: Mapping[str, Any]) -> str:
    groups = "".join(f", {group} {row[group]:.3f}" for group in _GROUPS if group in row)
    return "{share:.3f} [{low:.3f}, {high:.3f}]".format(**row[MEAN]) + groups
