"""How much an audio encoder knows of what sounds: measured, never trained, with labels.

Two readings of its embeddings on sounds it never heard, each against the same reading of the mean
level of each mel band, which needs no encoder: the majority of the nearest train seconds, and a
linear classifier. An autoencoder is also asked to draw the sounds again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from soundsight import __version__
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import atomic_folder, commit, sha256_of, write_json
from soundsight.data.everyday.sounds import audible
from soundsight.data.records import opaque_id
from soundsight.data.store.dataset import PairDataset
from soundsight.data.vegas.bench import SUBJECTS, Bench, Pair
from soundsight.evaluation.choice import shown_seconds
from soundsight.evaluation.classification import ClassAccuracy, classify
from soundsight.evaluation.encoder_pages import (
    BANDS,
    MEAN_MEL,
    NEAREST,
    PROBE,
    RECONSTRUCTION,
    document_of,
    draw_map,
    reconstruction_sheet,
)
from soundsight.evaluation.informativity import CONFIDENCE, RESAMPLES, Shares, shares
from soundsight.evaluation.page import Figure, as_html, as_markdown, photograph
from soundsight.evaluation.probes import NEIGHBOURS, fit_probe, neighbour_votes
from soundsight.evaluation.report import is_report, machine_facts
from soundsight.judges.apply import columns_of
from soundsight.models.published.autoencoder import Autoencoder
from soundsight.training.encoder import AudioEncoder, embed, load_encoder, to_float, to_levels
from soundsight.training.trainer import read_run

REPORT_VERSION = 1
KIND = "encoder"
"""Stands in report.json where a translator's report has none."""

UNKNOWN_SPLITS = ("devtest", "val")

_SHOWN_PER_CLASS = 8
_SECONDS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Heard:
    """The n seconds of a split."""

    pairs: list[Pair]
    mels: NDArray[np.uint8]
    embeddings: NDArray[np.float64]

    @property
    def subjects(self) -> list[str]:
        return [pair.subject for pair in self.pairs]

    @property
    def videos(self) -> list[str]:
        return [pair.video for pair in self.pairs]

    @property
    def bands(self) -> NDArray[np.float64]:
        """Mean level of each band, [n, 128]: what can be known without an encoder."""
        return self.mels.mean(axis=2, dtype=np.float64)


def evaluate_encoder(
    run: Path,
    bench: Bench,
    out: Path,
    *,
    split: str = "devtest",
    seed: int = 0,
    command: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a finished encoder run on sounds it never heard.

    Writes report.json, report.md, report.html, map.png (the embeddings in two dimensions) and, for
    an autoencoder, sheet.png (log-mels and what it draws of them). Labels are used here alone, to
    measure. The same arguments give the same files.

    Args:
        run: folder of the run; of a translator's, the encoder that it was trained with is measured.
        bench: the linear classifier and the neighbours know its train split.
        out: the folder; an earlier report in it is replaced.
        split: ``devtest`` or ``val``. The classifier's weight decay is chosen on val, so that its
            figure on val is a little flattering.
        seed: of the intervals and of what is shown.
        command: how this was started, for the report.
        progress: called with (what, how many done, how many in all).

    Returns:
        What report.json holds.

    Raises:
        ConfigError: on another split.
        DataError: when the run is unfinished or damaged, or a split holds no sounds.
        OutputError: when ``out`` cannot be written to or holds something else.
    """
    if split not in UNKNOWN_SPLITS:
        raise ConfigError(f"{split} is not for evaluation: choose from {', '.join(UNKNOWN_SPLITS)}")
    tell = progress or (lambda _what, _done, _of: None)
    about, encoder = read_run(run), load_encoder(run)
    names = list(dict.fromkeys(("train", "val", split)))
    for name in names:
        bench.pairs_of_every_class(name, "evaluation")
    with atomic_folder(out, overwrite=True, ours=is_report) as place:
        heard: dict[str, Heard] = {}
        for done, name in enumerate(names):
            tell("splits heard", done, len(names))
            heard[name] = hear(encoder, bench, name)
        train, val, unknown = (heard[name] for name in ("train", "val", split))
        tell("measuring", 0, 0)
        found, penalties = _readings(train, val, unknown)
        rows, accuracy = _rows(found, unknown, seed)
        figures = [_map_figure(place / "map.png", train, unknown)]
        errors: dict[str, Shares] = {}
        if isinstance(encoder, Autoencoder):
            shown = shown_seconds(unknown.pairs, _SHOWN_PER_CLASS, seed)
            of_second, drawn = reconstruct(encoder, unknown.mels, shown)
            errors = _error_rows(of_second, train, unknown, seed)
            figures.append(_sheet_figure(place / "sheet.png", unknown, shown, drawn, of_second))
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
                "resamples": RESAMPLES,
                "confidence": CONFIDENCE,
            },
            "sounds": {s: unknown.subjects.count(s) for s in SUBJECTS if s in unknown.subjects},
            "audible": int(audible(unknown.mels).sum()),
            "train": len(train.pairs),
            "rows": _plain(rows),
            "confusion": accuracy.confusion.tolist(),
            "video_confusion": accuracy.video_confusion.tolist(),
            "errors": _plain(errors),
            "command": command,
            "machine": machine_facts(),
            "version": __version__,
            "commit": commit(),
        }
        write_json(place / "report.json", report)
        document = document_of(report, figures)
        (place / "report.md").write_text(as_markdown(document), "utf-8")
        (place / "report.html").write_text(as_html(document), "utf-8")
    return report


def reconstruct(
    encoder: Autoencoder, mels: NDArray[np.uint8], kept: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Let an autoencoder draw log-mels uint8 [n, 128, 100] again.

    Returns:
        The mean squared error of each in [-1, 1], float64 [n]; the drawings of those ``kept``,
        uint8 [k, 128, 100].
    """
    errors = np.empty(len(mels))
    drawings = np.empty_like(mels)
    for start in range(0, len(mels), _SECONDS_AT_ONCE):
        part = slice(start, start + _SECONDS_AT_ONCE)
        wanted = to_float(torch.from_numpy(mels[part])[:, None])
        with torch.no_grad():
            made, _ = encoder(wanted)
        errors[part] = (made - wanted).double().square().mean(dim=(1, 2, 3)).numpy()
        drawings[part] = to_levels(made)[:, 0].numpy()
    return errors, drawings[list(kept)]


def principal_axes(embeddings: NDArray[np.floating]) -> tuple[NDArray[np.float64], list[float]]:
    """Find the two directions along which embeddings [n, E] differ most.

    Returns:
        [E, 2], each of length 1 with its largest entry positive; the share of the variance that
        lies along each.
    """
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    two = axes[:, ::-1][:, :2]
    # Either sign of an axis is right; one of them is chosen, whatever LAPACK gave.
    two = two * np.sign(two[np.abs(two).argmax(axis=0), np.arange(2)])
    whole = max(float(variances.sum()), 1e-12)
    return two, [float(variances[-1] / whole), float(variances[-2] / whole)]


def hear(encoder: AudioEncoder, bench: Bench, split: str) -> Heard:
    """Embed every second of a split; labels come beside the embeddings, for measuring alone.

    Raises:
        DataError: when an embedding is not finite.
    """
    data = PairDataset(bench, split)
    # A dataset hands out no label; its order is that of the opaque ids.
    pairs = sorted(
        bench.pairs(split),
        key=lambda pair: tuple(map(opaque_id, (pair.spectrogram, pair.video, pair.photo))),
    )
    embeddings = embed(encoder, data).double().numpy()
    if not np.isfinite(embeddings).all():
        raise DataError(f"the encoder's embeddings of {split} are not finite")
    mels = np.stack([data.mel(index) for index in range(len(data))])
    return Heard(pairs=pairs, mels=mels, embeddings=embeddings)


def _readings(
    train: Heard, val: Heard, unknown: Heard
) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
    """Read the classes of ``unknown`` in each way: probabilities [n, 5], and the penalties."""
    classes, val_classes = columns_of(train.subjects), columns_of(val.subjects)
    found: dict[str, NDArray[np.float64]] = {}
    penalties: dict[str, float] = {}
    for before, known, chooser, asked in (
        ("", train.embeddings, val.embeddings, unknown.embeddings),
        (f"{BANDS}, ", train.bands, val.bands, unknown.bands),
    ):
        probe = fit_probe(known, classes, chooser, val_classes)
        found[before + PROBE] = probe.probabilities(asked)
        found[before + NEAREST] = neighbour_votes(known, classes, asked)
        penalties[before + PROBE] = probe.penalty
    return found, penalties


def _rows(
    found: dict[str, NDArray[np.float64]], unknown: Heard, seed: int
) -> tuple[dict[str, Shares], ClassAccuracy]:
    """Return the table's rows, and the linear probe's own accuracy with its confusion."""
    loud = audible(unknown.mels)
    subjects, videos = np.asarray(unknown.subjects), np.asarray(unknown.videos)
    rows: dict[str, Shares] = {}
    of_probe: ClassAccuracy | None = None
    for name, probabilities in found.items():
        whole = classify(probabilities, unknown.subjects, unknown.videos, seed=seed)
        heard = classify(
            probabilities[loud], subjects[loud].tolist(), videos[loud].tolist(), seed=seed
        )
        rows[name] = whole.seconds
        rows[f"{name}, audible seconds"] = heard.seconds
        rows[f"{name}, by video"] = whole.videos
        rows[f"{name}, by video, audible seconds"] = heard.videos
        of_probe = of_probe or whole
    assert of_probe is not None
    return rows, of_probe


def _error_rows(
    errors: NDArray[np.float64], train: Heard, unknown: Heard, seed: int
) -> dict[str, Shares]:
    """Return reconstruction errors beside those of drawing the same for every sound."""
    usual = train.mels.mean(axis=0, dtype=np.float64)
    loud = audible(unknown.mels)
    of_usual = np.empty(len(errors))
    for index, mel in enumerate(unknown.mels):
        of_usual[index] = np.square((mel - usual) / 127.5).mean()
    rows: dict[str, Shares] = {}
    subjects, videos = np.asarray(unknown.subjects), np.asarray(unknown.videos)
    for name, values in ((RECONSTRUCTION, errors), (MEAN_MEL, of_usual)):
        rows[name] = shares(values, unknown.subjects, unknown.videos, seed=seed)
        rows[f"{name}, audible seconds"] = shares(
            values[loud], subjects[loud].tolist(), videos[loud].tolist(), seed=seed
        )
    return rows


def _map_figure(path: Path, train: Heard, unknown: Heard) -> Figure:
    """Write the map of the unknown seconds along the axes of the train seconds."""
    axes, parts = principal_axes(train.embeddings)
    places = (unknown.embeddings - train.embeddings.mean(axis=0)) @ axes
    first, second = (f"axis {i + 1} ({part:.0%} of the variance)" for i, part in enumerate(parts))
    content = draw_map(places, unknown.subjects, (first, second))
    path.write_bytes(content)
    return Figure(
        file=path.name,
        alt="Scatter plots of the embeddings, a panel a class",
        caption="Embeddings of the unknown seconds along the two axes in which those of train "
        "differ most (principal components; no label shaped them).",
        content=content,
        media_type="image/png",
    )


def _sheet_figure(
    path: Path,
    unknown: Heard,
    shown: Sequence[int],
    drawn: NDArray[np.uint8],
    errors: NDArray[np.float64],
) -> Figure:
    """Write the sheet of log-mels and what the autoencoder draws of them."""
    subjects = [unknown.subjects[index] for index in shown]
    page = reconstruction_sheet(unknown.mels[shown], drawn, subjects, errors[shown])
    Image.fromarray(page).save(path, format="PNG")
    words = "Above the log-mel of each second, below what the autoencoder draws of it."
    return photograph(path.name, page, words, f"{words} Chosen by the seed; with each its error.")


def _plain(rows: dict[str, Shares]) -> dict[str, dict[str, Any]]:
    return {name: {key: asdict(share) for key, share in row.items()} for name, row in rows.items()}
