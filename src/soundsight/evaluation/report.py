"""One measurement of a translator: figures, the pages that show them, sheets of pictures."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from soundsight import __version__
from soundsight.core.errors import ConfigError, DataError, OutputError
from soundsight.core.files import atomic_file, atomic_folder, commit, write_json
from soundsight.data.everyday.sounds import audible
from soundsight.data.vegas.bench import SUBJECTS, Bench, Pair, photo_subject
from soundsight.evaluation import blind, chapters
from soundsight.evaluation import seconds as per_second
from soundsight.evaluation.choice import blind_seconds, measured_seconds, shown_seconds
from soundsight.evaluation.curves import (
    STORED_EVERY,
    THRESHOLDS,
    Curves,
    draw_curves,
)
from soundsight.evaluation.fidelity import (
    FeatureNetwork,
    copying,
    fidelity,
    near_duplicates,
    nearest,
    variety,
)
from soundsight.evaluation.informativity import (
    CONFIDENCE,
    RESAMPLES,
    ControlPictures,
    Shares,
    control_pictures,
    shuffled,
)
from soundsight.evaluation.measuring import (
    Drawn,
    Draws,
    Imagines,
    agreement_by_class,
    classes_and_retrieval,
    draw,
    judge,
    silence_and_noise,
)
from soundsight.evaluation.page import Figure, as_html, as_markdown, photograph, save_figure
from soundsight.evaluation.seconds import SECOND, Seconds
from soundsight.evaluation.sheets import MARKS, nearest_sheet, sheet
from soundsight.evaluation.stored import (
    BASELINE,
    PICTURES,
    REPORT,
    REPORT_VERSION,
    SheetPictures,
    StoredReport,
    check_comparable,
    load_report,
    write_pictures,
)
from soundsight.judges.apply import Judges, PhotoClassifier
from soundsight.judges.negatives import EarlyPictures

KNOWN_SPLIT = "train"
"""The split that translators were trained on."""

_COPIES_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and with which seed."""

    split: str = "devtest"
    seed: int = 0
    """Of the pictures, the shuffling, the uninformative pictures, the choices and the intervals."""
    limit: int | None = None
    """At most so many seconds a class, chosen by the seed; None = all."""
    blind_sheet: bool = False
    """Write a sheet for blind viewing, a form for answers and the key."""
    sheet_per_class: int = 8
    """Pictures a class on the sheet."""
    floor_per_kind: int = 200
    """Uninformative pictures of each kind, a class."""


def evaluate(
    translator: Imagines,
    judges: Judges,
    bench: Bench,
    out: Path,
    config: EvaluationConfig | None = None,
    *,
    model: dict[str, Any] | None = None,
    command: str = "",
    early: EarlyPictures | None = None,
    val_tables: dict[str, dict[str, Any]] | None = None,
    draws: Draws | None = None,
    network: FeatureNetwork | None = None,
    baseline: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a translator on sounds it never heard and write the report.

    The first picture drawn of every second is judged, without selection. The same arguments give
    the same files, to the last byte. The folder appears whole or not at all: ``report.json``,
    ``report.md``, ``report.html`` (all of it in one file), ``seconds.csv``, ``pictures.npz``
    (those of the sheet), ``sheet.png``, ``curves*.svg``, ``nearest.png`` and the blind sheet.

    Args:
        translator: draws the pictures.
        judges: decide; what else they bring (a second judge, a classifier, an audio-visual space)
            is used, and what they lack is left out of the report, which says so.
        bench: sounds and photos.
        out: the folder; an earlier report in it is replaced.
        config: split, seed, limit.
        model: what names the model in the report (name, path, SHA-256).
        command: how this was started, for the report.
        early: early-generator pictures, of which the judges' val part is one more floor.
        val_tables: what each jury's thresholds pass on val, as ``stored.val_tables`` reads it.
        draws: what it would not draw counts as a miss, like an inaudible second; what is accepted
            with nothing hidden stands beside it. Without one only inaudible seconds are hidden.
        network: gives the features for fidelity and nearest photos, instead of the classifier.
        baseline: folder of another report on the same seconds, whose rows are put beside.
        progress: called with (what, how many done, how many in all).

    Returns:
        What report.json holds.

    Raises:
        DataError: when a class has no sounds or photos, or a picture cannot be used.
        ConfigError: when the baseline was measured otherwise.
        ModelError: when the model draws pictures of another size.
        OutputError: when ``out`` cannot be written to, holds something else or filled-in answers.
    """
    config = config or EvaluationConfig()
    tell = progress or (lambda _what, _done, _of: None)
    about_judges = {
        "name": judges.name,
        "sha256": judges.sha256,
        "thresholds": judges.thresholds,
        "second_thresholds": judges.second.thresholds if judges.second else {},
        "val": val_tables or {},
    }
    settings = asdict(config) | {"resamples": RESAMPLES, "confidence": CONFIDENCE}
    # All that can be wrong with the input is found before the work starts.
    pairs, mels = _sounds(bench, config)
    if config.blind_sheet and not _blind(pairs, config):
        raise ConfigError(
            "no second is left for the blind sheet beside those of the other sheet: raise --limit"
        )
    controls = control_pictures(
        bench, config.split, seed=config.seed, per_kind=config.floor_per_kind, early=early
    )
    other = None
    if baseline is not None:
        other = load_report(baseline)
        mine = {"settings": settings, "judges": about_judges}
        check_comparable(other.values, mine, str(baseline), "this measurement")
        if list(other.seconds.names) != [pair.spectrogram for pair in pairs]:
            raise ConfigError(f"{baseline} was not measured on the seconds of {bench.root}")
    with atomic_folder(out, overwrite=True, ours=is_report) as place:
        drawn = draw(translator, pairs, mels, draws, seed=config.seed, tell=tell)
        figures: dict[str, Figure] = {}
        report: dict[str, Any] = {
            "report_version": REPORT_VERSION,
            "model": model or {},
            "judges": about_judges,
            "settings": settings,
            "sounds": {s: drawn.subjects.count(s) for s in SUBJECTS},
            "audible": int(audible(mels).sum()),
            "rows": {},
            "left_out": _left_out(judges, network, early, config),
        }
        columns: dict[str, NDArray[np.float64]] = {
            "audible": audible(mels).astype(np.float64),
            "shown": drawn.shown.astype(np.float64),
        }
        order = shuffled(drawn.subjects, config.seed)
        if order is not None:
            columns["shuffled_shown"] = drawn.shown[order].astype(np.float64)
        rows: dict[str, Shares] = {}
        curves: dict[str, Curves] = {}
        for prefix, jury in (("", judges), (SECOND, judges.second)):
            if jury is None:
                continue
            tell(f"{prefix}judging", 0, 1)
            found, of_controls, lines = judge(jury, drawn, order, controls, seed=config.seed)
            short = "second_" if prefix else ""
            columns |= {short + name: column for name, column in found.items()}
            rows |= {prefix + name: row for name, row in of_controls.items()}
            curves[prefix or "judge"] = lines
            file = f"curves{'-second' if prefix else ''}.svg"
            figures[file] = _curves_figure(place / file, lines, jury, prefix)
            tell(f"{prefix}silence and white noise", 0, 1)
            rows |= {
                prefix + name: row
                for name, row in silence_and_noise(translator, jury, draws, config.seed).items()
            }
        report["agreement"] = agreement_by_class(columns, drawn.subjects)
        report["curves"] = _stored(curves)
        tell("classes and retrieval", 0, 1)
        columns |= classes_and_retrieval(report, rows, judges, drawn, config.seed)
        features = network or judges.classifier
        if features is not None:
            tell("photos beside pictures", 0, 1)
            found = _fidelity(report, features, drawn, bench, controls, config, place, figures)
            columns |= found
        table = Seconds(
            names=[pair.spectrogram for pair in pairs],
            subjects=drawn.subjects,
            videos=drawn.videos,
            values=columns,
        )
        averages = {
            name: per_second.average(table, row, config.seed)
            for name, row in per_second.measured(table).items()
        }
        rows = averages | rows
        if other is not None:
            rows |= _against(other, table, config.seed)
            report[BASELINE] = {"model": other.values["model"]}
        report["rows"] = {
            name: {key: asdict(share) for key, share in row.items()} for name, row in rows.items()
        }
        report |= {
            "command": command,
            "machine": machine_facts(),
            "version": __version__,
            "commit": commit(),
        }
        tell("writing", 0, 1)
        per_second.write(place / per_second.FILE, table)
        figures |= _pictures(place, drawn, table, config)
        write_json(place / REPORT, report)
        document = chapters.document_of(report, figures)
        _write_text(place / "report.md", as_markdown(document))
        _write_text(place / "report.html", as_html(document))
    return report


def is_report(folder: Path) -> bool:
    """Tell whether a folder holds a report, which a new one may replace.

    Raises:
        OutputError: when somebody has written answers to its blind sheet: they would be lost.
    """
    if blind.answered(folder):
        raise OutputError(f"{folder} holds answers to a blind sheet: choose another place")
    return os.path.isfile(folder / REPORT)


def _sounds(bench: Bench, config: EvaluationConfig) -> tuple[list[Pair], NDArray[np.uint8]]:
    if config.split == KNOWN_SPLIT:
        raise ConfigError(f"{KNOWN_SPLIT} is not for evaluation: choose from devtest, val")
    of_split = bench.pairs_of_every_class(config.split, "evaluation")
    pairs = measured_seconds(of_split, config.limit, config.seed)
    return pairs, np.stack([bench.spectrogram(pair.spectrogram) for pair in pairs])


def _fidelity(
    report: dict[str, Any],
    features: PhotoClassifier | FeatureNetwork,
    drawn: Drawn,
    bench: Bench,
    controls: ControlPictures,
    config: EvaluationConfig,
    place: Path,
    figures: dict[str, Figure],
) -> dict[str, NDArray[np.float64]]:
    """Compare pictures with photos: distances, the nearest training photo, its sheet."""
    made, real = features.features(drawn.pictures), features.features(controls.photos)
    members = bench.photos(KNOWN_SPLIT)
    photos = np.stack([bench.photo(member) for member in members])
    known = features.features(photos)
    about: dict[str, Any] = {
        "features": {"name": features.name, "sha256": features.sha256}
        if isinstance(features, FeatureNetwork)
        else {"name": "classifier", "sha256": report["judges"]["sha256"]}
    }
    try:
        about["pictures"] = asdict(
            fidelity(made, real, drawn.subjects, controls.subjects, seed=config.seed)
        )
        of_train = [photo_subject(member) for member in members]
        about["training photos"] = asdict(
            fidelity(known, real, of_train, controls.subjects, seed=config.seed)
        )
    except DataError as error:
        report["left_out"].append(f"KID, Frechet distance, precision and recall: {error}")
    places, distances = nearest(made, known)
    about["copying"] = asdict(copying(distances, nearest(real, known)[1])) | {
        "near_duplicates": float(near_duplicates(drawn.pictures, photos).mean()),
        "unseen_near_duplicates": float(near_duplicates(controls.photos, photos).mean()),
    }
    about["variety"] = variety(made, real, drawn.subjects, controls.subjects)
    report["fidelity"] = about
    order = np.argsort(distances, kind="stable")
    # The seconds of a video look alike: each photo is shown beside its nearest picture alone.
    _, once = np.unique(places[order], return_index=True)
    closest = order[np.sort(once)][:_COPIES_SHOWN]
    chance = np.random.default_rng((config.seed, len(distances))).permutation(len(distances))
    blocks = [
        ("The nearest of all, each photo once: what is copied shows here", closest.tolist()),
        ("Chosen by the seed", chance[:_COPIES_SHOWN].tolist()),
    ]
    levels = nearest_sheet(blocks, drawn.pictures, photos, places, distances)
    figures["nearest.png"] = save_figure(
        place / "nearest.png",
        levels,
        "Pairs of pictures: left a generated one, right the training photo that is nearest to it, "
        "with their distance",
        "Left what was drawn, right the nearest training photo in the features of "
        f"{about['features']['name']}.",
    )
    return {"nearest_distance": distances}


def _against(other: StoredReport, mine: Seconds, seed: int) -> dict[str, Shares]:
    """Return the baseline's rows and, paired by second, this report's minus the baseline's."""
    rows: dict[str, Shares] = {}
    gaps = per_second.differences(other.seconds, mine, seed)
    found = per_second.measured(other.seconds)
    for name in (
        per_second.INFORMATIVITY,
        per_second.SHUFFLED,
        per_second.DIFFERENCE,
        SECOND + per_second.INFORMATIVITY,
        per_second.RIGHT,
    ):
        if name in gaps:
            rows[f"{BASELINE}: {name}"] = per_second.average(other.seconds, found[name], seed)
            rows[f"{name}, minus {BASELINE}"] = gaps[name]
    return rows


def _pictures(
    place: Path, drawn: Drawn, table: Seconds, config: EvaluationConfig
) -> dict[str, Figure]:
    """Write the sheet and the blind sheet, which share no second."""
    chosen = shown_seconds(drawn.pairs, config.sheet_per_class, config.seed)
    subjects = drawn.subjects
    accepted, shown = (table.values[key][chosen] > 0 for key in ("accepted", "shown"))
    levels = sheet(
        drawn.mels[chosen], drawn.pictures[chosen], accepted, shown, [subjects[i] for i in chosen]
    )
    figures = {
        "sheet.png": save_figure(
            place / "sheet.png",
            levels,
            "Sounds as log-mels and the pictures drawn of them, a row a class, ticked in green "
            "where the judge accepts",
            "Log-mel and first picture of seconds chosen by the seed, never by the score. " + MARKS,
        )
    }
    names = [drawn.pairs[i].spectrogram for i in chosen]
    write_pictures(
        place / PICTURES,
        SheetPictures(names=names, mels=drawn.mels[chosen], pictures=drawn.pictures[chosen]),
    )
    if config.blind_sheet:
        order = _blind(drawn.pairs, config)
        behind = [
            blind.Hidden(
                subject=subjects[i],
                spectrogram=drawn.pairs[i].spectrogram,
                shown=bool(drawn.shown[i]),
            )
            for i in order
        ]
        numbered = blind.write_sheet(place, drawn.pictures[order], behind)
        figures["blind"] = photograph(
            f"{blind.FOLDER}/{blind.SHEET}",
            numbered,
            "Numbered pictures without labels",
            "Numbered pictures of unknown sounds in random order.",
        )
    return figures


def _blind(pairs: list[Pair], config: EvaluationConfig) -> list[int]:
    """Choose the seconds of the blind sheet: none that the other sheet shows."""
    chosen = shown_seconds(pairs, config.sheet_per_class, config.seed)
    return blind_seconds(pairs, blind.PER_CLASS, config.seed, chosen)


def _curves_figure(path: Path, curves: Curves, judges: Judges, prefix: str) -> Figure:
    whose = prefix.removesuffix(": ") or "published judge"
    drawn = draw_curves(curves, judges.thresholds, f"Accepted by the {whose}")
    with atomic_file(path) as temporary:
        temporary.write_bytes(drawn)
    return Figure(
        file=path.name,
        alt=f"Share of pictures accepted by the {whose} of each class as its threshold rises: "
        "real photos, generated pictures, those of shuffled sounds, uninformative pictures",
        caption="Nothing is hidden here. The further apart real photos and uninformative pictures "
        "are, the better the judge; the further generated ones are above those of shuffled "
        "sounds, the more the sound decides.",
        content=drawn,
        media_type="image/svg+xml",
    )


def _stored(curves: dict[str, Curves]) -> dict[str, Any]:
    return {
        "thresholds": THRESHOLDS[::STORED_EVERY].tolist(),
        **{
            whose.removesuffix(": "): {
                subject: {kind: line[::STORED_EVERY] for kind, line in kinds.items()}
                for subject, kinds in lines.items()
            }
            for whose, lines in curves.items()
        },
    }


def _left_out(
    judges: Judges,
    network: FeatureNetwork | None,
    early: EarlyPictures | None,
    config: EvaluationConfig,
) -> list[str]:
    """Say what the report lacks, and why."""
    lines = []
    if judges.second is None:
        lines.append("A second judge, and the agreement of both: these judges have none.")
    if judges.classifier is None:
        lines.append("Class accuracy and confusion: these judges bring no classifier.")
        if network is None:
            lines.append("Fidelity, variety and nearest photos: there is no feature network.")
    if judges.space is None:
        lines.append("Retrieval: these judges bring no audio-visual space.")
    if early is None or not len(early):
        lines.append("The floor of early-generator pictures: none were given (`--early`).")
    if not config.blind_sheet:
        lines.append("A sheet for blind viewing: not asked for (`--blind-sheet`).")
    return lines


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, "utf-8")


def machine_facts() -> dict[str, str]:
    """Return what a report says of the machine: what its figures may depend on."""
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cpus": str(os.cpu_count()),
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
    }
