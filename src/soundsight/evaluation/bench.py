"""A translator measured on the bench: how often does a picture show what its sound was?

Beside the share stand controls, without which it says nothing: a judge that accepts everything
would call every translator informative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import ConfigError, DataError, ModelError
from soundsight.core.files import atomic_file, atomic_folder
from soundsight.core.units import (
    FRAMES_PER_SEGMENT,
    IMAGE_CHANNELS,
    IMAGE_PX,
    INAUDIBLE_LEVEL,
    N_MELS,
    SEGMENT_SAMPLES,
)
from soundsight.data.vegas.bench import SUBJECTS, Bench, Pair, photo_subject
from soundsight.evaluation import figures as charts
from soundsight.evaluation import report as pages
from soundsight.evaluation import segments
from soundsight.evaluation.blind import PER_CLASS
from soundsight.evaluation.fidelity import (
    NEAR_DUPLICATE_BITS,
    FeatureNetwork,
    copying,
    fidelity,
    near_duplicates,
    nearest,
    variety,
)
from soundsight.evaluation.metrics import (
    CONFIDENCE,
    RESAMPLES,
    Shares,
    as_json,
    classify,
    retrieve,
    shares,
    shuffled,
)
from soundsight.evaluation.report import BASELINE
from soundsight.evaluation.segments import (
    DIFFERENCE,
    HIDDEN,
    INFORMATIVITY,
    REAL_PHOTOS,
    RETRIEVAL,
    RIGHT,
    SECOND,
    SHUFFLED,
    Segments,
    SegmentTable,
    bench_segments,
    blind_seconds,
    measured_seconds,
    shown_seconds,
)
from soundsight.judges.apply import Judges, PhotoClassifier, agreement, columns_of
from soundsight.judges.files import FLOOR
from soundsight.judges.negatives import EARLY, KINDS, EarlyPictures, in_early_part, load_early
from soundsight.judges.negatives import make_many as uninformative_pictures
from soundsight.media.mel import log_mel
from soundsight.training.published import TranslatorTask
from soundsight.training.trainer import Task

KNOWN_SPLIT = "train"
"""The split that translators were trained on."""
PICTURES = "pictures.npz"

_AT_ONCE = 64
_CONTROL_SOUNDS = 20
_STORED_EVERY = 5
"""Each fifth threshold of the curves goes into report.json."""
_LOOK_SECONDS_A_CLASS = 40

Levels = NDArray[np.uint8]
Tell = Callable[[str, int, int], None]
"""Called with (what is done, how many done, how many in all)."""
Draws = Callable[[Levels], NDArray[np.bool_]]
"""Which log-mels uint8 [n, 128, 100] the program would draw: bool [n]."""


class Imagines(Protocol):
    """What is measured: a translator, or anything that draws pictures of log-mels."""

    def imagine(self, mels: Levels, *, draws: int = 1, seed: int = 0) -> Levels:
        """Draw uint8 [n * draws, 96, 96, 3] of log-mels uint8 [n, 128, 100]."""
        ...


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
    progress: Tell | None = None,
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
        val_tables: what the judges' thresholds pass on val (``judges.files.val_tables``).
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
    seed = config.seed
    tell = progress or (lambda _what, _done, _of: None)
    report: dict[str, Any] = {
        "report_version": pages.REPORT_VERSION,
        "model": model or {},
        "judges": {
            "name": judges.name,
            "sha256": judges.sha256,
            "thresholds": judges.thresholds,
            "second_thresholds": judges.second.thresholds if judges.second else {},
            "val": val_tables or {},
        },
        "settings": asdict(config) | {"resamples": RESAMPLES, "confidence": CONFIDENCE},
    }
    # All that can be wrong with the input is found before the work starts.
    if config.split == KNOWN_SPLIT:
        raise ConfigError(f"{KNOWN_SPLIT} is not for evaluation: choose from devtest, val")
    of_split = bench.pairs_of_every_class(config.split, "evaluation")
    heard = bench_segments(bench, measured_seconds(of_split, config.limit, seed))
    on_sheet = shown_seconds(heard.pairs, config.sheet_per_class, seed)
    hidden = blind_seconds(heard.pairs, PER_CLASS, seed, on_sheet)
    if config.blind_sheet and not hidden:
        raise ConfigError(
            "no second is left for the blind sheet beside those of the other sheet: raise --limit"
        )
    controls = control_pictures(
        bench, config.split, seed=seed, per_kind=config.floor_per_kind, early=early
    )
    other = None
    if baseline is not None:
        other = pages.load_report(baseline)
        pages.check_comparable(other.values, report, str(baseline), "this measurement")
        if list(other.segments.names) != [pair.spectrogram for pair in heard.pairs]:
            raise ConfigError(f"{baseline} was not measured on the seconds of {bench.root}")
    with atomic_folder(out, overwrite=True, ours=pages.is_report) as place:
        figures: dict[str, pages.Figure] = {}
        pictures = draw_pictures(translator, heard.mels, seed, tell)
        shown = heard.audible if draws is None else heard.audible & draws(heard.mels)
        order = shuffled(heard.kinds, seed)
        report |= {
            "sounds": {s: heard.kinds.count(s) for s in SUBJECTS},
            "audible": int(heard.audible.sum()),
            "rows": {},
            "left_out": _left_out(judges, network, early, config),
        }
        columns = {"audible": heard.audible.astype(float), "shown": shown.astype(float)}
        if order is not None:
            columns["shuffled_shown"] = shown[order].astype(float)
        rows: dict[str, Shares] = {}
        report["curves"] = {"thresholds": charts.THRESHOLDS[::_STORED_EVERY].tolist()}
        for prefix, jury in (("", judges), (SECOND, judges.second)):
            if jury is None:
                continue
            tell(f"{prefix}judging", 0, 1)
            found, of_controls, curves = _judge(jury, heard, pictures, order, controls, seed)
            short = "second_" if prefix else ""
            columns |= {short + name: column for name, column in found.items()}
            report["curves"][prefix.removesuffix(": ") or "judge"] = {
                subject: {kind: line[::_STORED_EVERY] for kind, line in kinds.items()}
                for subject, kinds in curves.items()
            }
            file = f"curves{'-second' if prefix else ''}.svg"
            figures[file] = _curves_figure(place / file, curves, jury, prefix)
            tell(f"{prefix}silence and white noise", 0, 1)
            of_controls |= _silence_and_noise(translator, jury, draws, seed)
            rows |= {prefix + name: row for name, row in of_controls.items()}
        report["agreement"] = _agreement(columns, heard.kinds)
        tell("classes and retrieval", 0, 1)
        columns |= _classes_and_retrieval(report, rows, judges, heard, pictures, seed)
        features = network or judges.classifier
        if features is not None:
            tell("photos beside pictures", 0, 1)
            photos = (bench, controls)
            columns["nearest_distance"], figures["nearest.png"] = _fidelity(
                report, features, heard, pictures, photos, seed, place / "nearest.png"
            )
        table = SegmentTable(
            names=[pair.spectrogram for pair in heard.pairs],
            subjects=heard.kinds,
            videos=heard.recordings,
            values=columns,
        )
        rows = {
            name: segments.average(table, row, seed)
            for name, row in segments.rows_of(table).items()
        } | rows
        if other is not None:
            rows |= _against(other, table, seed)
            report[BASELINE] = {"model": other.values["model"]}
        report["rows"] = as_json(rows)
        tell("writing", 0, 1)
        segments.write(place / segments.FILE, table)
        figures["sheet.png"] = _sheet(place, heard, pictures, columns, on_sheet)
        if config.blind_sheet:
            figures["blind"] = pages.blind_figure(place, pictures, heard.pairs, shown, hidden)
        names = (INFORMATIVITY, SHUFFLED, REAL_PHOTOS, SECOND + INFORMATIVITY, RIGHT)
        json_rows = report["rows"]
        pages.write_report(
            place,
            "bench",
            f"Report on {report['model'].get('name', 'the translator')}",
            report,
            figures,
            command,
            key_figures=pages.share_tiles({n: json_rows[n] for n in names if n in json_rows}),
            tables=_tables(report),
            inaudible_level=f"{INAUDIBLE_LEVEL:g}",
            floor=FLOOR,
            near_duplicate_bits=NEAR_DUPLICATE_BITS,
        )
    return report


def draw_pictures(model: Imagines, mels: Levels, seed: int, tell: Tell) -> Levels:
    """Draw the first picture of every second: uint8 [n, 96, 96, 3].

    Raises:
        ModelError: when the pictures are of another size than the judges take.
    """
    shape = (IMAGE_PX, IMAGE_PX, IMAGE_CHANNELS)
    pictures = np.empty((len(mels), *shape), np.uint8)
    for start in range(0, len(mels), _AT_ONCE):
        some = mels[start : start + _AT_ONCE]
        drawn = model.imagine(some, seed=seed)
        if drawn.shape != (len(some), *shape) or drawn.dtype != np.uint8:
            raise ModelError(
                f"the model draws {drawn.dtype} {list(drawn.shape)} where the judges take "
                f"pictures uint8 [{len(some)}, {IMAGE_PX}, {IMAGE_PX}, 3]"
            )
        pictures[start : start + len(some)] = drawn
        tell("seconds drawn", start + len(some), len(mels))
    return pictures


# --- controls -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlPictures:
    """Pictures that no translator drew, the same for every judge.

    Attributes:
        photos: real photos of the split, uint8 [n, 96, 96, 3].
        members: their names, n.
        subjects: their classes, n.
        uninformative: kind -> pictures uint8 [5 * per_kind, 96, 96, 3], class by class in the
            order of ``SUBJECTS``.
        early: early-generator pictures of the judges' val part, uint8 [m, 96, 96, 3].
        early_sounds: the sound of each, int64 [m].
    """

    photos: Levels
    members: list[str]
    subjects: list[str]
    uninformative: dict[str, Levels]
    early: Levels
    early_sounds: NDArray[np.int64]


def control_pictures(
    bench: Bench,
    split: str,
    *,
    seed: int = 0,
    per_kind: int = 200,
    early: EarlyPictures | None = None,
) -> ControlPictures:
    """Read the photos of a split and make uninformative pictures of them.

    Args:
        bench: its photos of ``split`` are used.
        split: ``devtest``, or ``val`` for a look on the way.
        seed: of the uninformative pictures.
        per_kind: uninformative pictures of each kind, a class.
        early: early-generator pictures; only the part that the judges' training kept for val is
            judged.

    Raises:
        DataError: when a class has fewer than two photos, or a photo cannot be used.
    """
    members = bench.photos(split)
    of_photo = [photo_subject(member) for member in members]
    for subject in SUBJECTS:
        if of_photo.count(subject) < 2:
            raise DataError(
                f"the bench at {bench.root} has fewer than two photos of {subject} in {split}: "
                f"the controls need photos of {', '.join(SUBJECTS)}"
            )
    photos = np.stack([bench.photo(member) for member in members])
    columns = columns_of(of_photo)
    by_class = [photos[columns == number] for number in range(len(SUBJECTS))]
    uninformative = {}
    for place, kind in enumerate(KINDS):
        rng = np.random.default_rng((seed, place))
        uninformative[kind] = np.concatenate(
            [
                uninformative_pictures(kind, by_class, own, per_kind, rng)
                for own in range(len(SUBJECTS))
            ]
        )
    known = load_early([]) if early is None else early
    kept = in_early_part(known, 0, "val")
    return ControlPictures(
        photos=photos,
        members=members,
        subjects=of_photo,
        uninformative=uninformative,
        early=known.images[kept],
        early_sounds=known.sounds[kept],
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlScores:
    """Scores by each class's own judge, for curves: class -> float32 [n]."""

    photos: dict[str, NDArray[np.float32]]
    uninformative: dict[str, NDArray[np.float32]]
    """All kinds made from photos, together."""


def photo_controls(
    judges: Judges, pictures: ControlPictures, *, seed: int = 0
) -> tuple[dict[str, Shares], ControlScores]:
    """Measure the judges on pictures that no translator drew.

    Args:
        judges: the judges.
        pictures: what they are shown.
        seed: of the intervals.

    Returns:
        rows: ``real photos`` (the ceiling), ``photos of other classes``, and one row a kind of
            uninformative picture (the floor).
        scores: what each class's judge gave its photos and uninformative pictures.
    """
    columns = columns_of(pictures.subjects)
    photo_scores = judges.scores(pictures.photos)
    verdicts = judges.decide(photo_scores)
    own = np.arange(len(columns)), columns
    rows = {REAL_PHOTOS: shares(verdicts[own], pictures.subjects, pictures.members, seed=seed)}
    strangers = [(i, j) for j in range(len(SUBJECTS)) for i in np.flatnonzero(columns != j)]
    rows["photos of other classes"] = shares(
        np.array([verdicts[i, j] for i, j in strangers]),
        [SUBJECTS[j] for _, j in strangers],
        [pictures.members[i] for i, _ in strangers],
        seed=seed,
        together=True,
    )
    of_floor: list[NDArray[np.float32]] = []
    for kind, made in pictures.uninformative.items():
        of_picture = np.repeat(SUBJECTS, len(made) // len(SUBJECTS)).tolist()
        mine = np.arange(len(made)), columns_of(of_picture)
        scores = judges.scores(made)
        names = np.arange(len(made)).astype(str).tolist()
        rows[f"floor: {kind}"] = shares(judges.decide(scores)[mine], of_picture, names, seed=seed)
        of_floor.append(scores[mine].reshape(len(SUBJECTS), -1))
    if len(pictures.early):
        rows[f"floor: {EARLY}"] = every_judge(
            judges, pictures.early, seed=seed, units=pictures.early_sounds
        )
    floor = np.concatenate(of_floor, axis=1)
    return rows, ControlScores(
        photos={s: photo_scores[columns == j, j] for j, s in enumerate(SUBJECTS)},
        uninformative={s: floor[j] for j, s in enumerate(SUBJECTS)},
    )


def every_judge(
    judges: Judges,
    pictures: Levels,
    *,
    shown: NDArray[np.bool_] | None = None,
    seed: int = 0,
    units: NDArray[np.int64] | None = None,
) -> Shares:
    """Show every judge all pictures, such as those of silence and white noise.

    Args:
        judges: the judges.
        pictures: uint8 [n, 96, 96, 3].
        shown: bool [n], pictures that the program would show; a hidden one is accepted by no judge.
        seed: of the intervals.
        units: [n], what is resampled whole; each picture by default.

    Returns:
        For each class the share of the n pictures that are shown and that its judge accepts.
    """
    verdicts = judges.verdicts(pictures)
    if shown is not None:
        verdicts = verdicts & shown[:, None]
    each = np.arange(len(pictures)) if units is None else units
    names = np.repeat(each, len(SUBJECTS)).astype(str).tolist()
    of_picture = list(SUBJECTS) * len(pictures)
    return shares(verdicts.reshape(-1), of_picture, names, seed=seed, together=True)


def white_noise_mels(count: int, seed: int) -> Levels:
    """Return the log-mels of ``count`` seconds of white noise: uint8 [count, 128, 100]."""
    rng = np.random.default_rng((seed, 1))
    sounds = 0.1 * rng.standard_normal((count, SEGMENT_SAMPLES)).astype(np.float32)
    return np.stack([log_mel(sound) for sound in sounds])


def control_mels(seed: int) -> dict[str, Levels]:
    """Return log-mels of sounds that show nothing by right: ``silence`` and ``white noise``."""
    silence = np.zeros((_CONTROL_SOUNDS, N_MELS, FRAMES_PER_SEGMENT), np.uint8)
    return {"silence": silence, "white noise": white_noise_mels(_CONTROL_SOUNDS, seed)}


def draw_with_seeds(model: Imagines, mels: Levels, seed: int) -> Levels:
    """Draw each second with a seed of its own, or the pictures of silence would all be one."""
    return np.concatenate([model.imagine(mel[None], seed=seed + i) for i, mel in enumerate(mels)])


def _silence_and_noise(
    translator: Imagines, judges: Judges, draws: Draws | None, seed: int
) -> dict[str, Shares]:
    """Show every judge the pictures of sounds that are nothing of the five."""
    rows = {}
    for name, mels in control_mels(seed).items():
        silent = name == "silence"
        pictures = (
            draw_with_seeds(translator, mels, seed)
            if silent
            else translator.imagine(mels, seed=seed)
        )
        rows[f"{name}: accepted"] = every_judge(judges, pictures, seed=seed)
        # Silence is quiet: the program draws nothing, however well it is known.
        shown = np.full(len(pictures), not silent)
        if draws is not None:
            shown &= draws(mels)
        rows[f"{name}: shown and accepted"] = every_judge(judges, pictures, shown=shown, seed=seed)
    return rows


# --- steps of a measurement -----------------------------------------------------------------------


def _judge(
    judges: Judges,
    heard: Segments,
    pictures: Levels,
    order: NDArray[np.int64] | None,
    controls: ControlPictures,
    seed: int,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Shares], charts.Curves]:
    """Return what a set of judges says of everything: columns of seconds, control rows, curves.

    ``order`` [n] is whose picture each sound is shown with when sounds are shuffled, or None.
    """
    own = np.arange(len(heard)), columns_of(heard.kinds)
    classes = np.array(heard.kinds)
    scores = judges.scores(pictures)
    verdicts = judges.decide(scores)
    columns = {"score": scores[own].astype(float), "accepted": verdicts[own].astype(float)}
    rows, of_controls = photo_controls(judges, controls, seed=seed)
    lines: dict[str, Mapping[str, NDArray[Any]]] = {charts.REAL: of_controls.photos}
    lines[charts.GENERATED] = {s: scores[own][classes == s] for s in SUBJECTS}
    if order is not None:
        columns["shuffled"] = verdicts[order][own].astype(float)
        lines[charts.OF_SHUFFLED] = {s: scores[order][own][classes == s] for s in SUBJECTS}
    lines[charts.UNINFORMATIVE] = of_controls.uninformative
    return columns, rows, charts.curves_of(lines)


def _agreement(
    columns: dict[str, NDArray[np.float64]], subjects: list[str]
) -> dict[str, dict[str, float]]:
    """Compare what both judges say of the pictures, by class; empty without a second judge."""
    if "second_accepted" not in columns:
        return {}
    first, second = columns["accepted"] > 0, columns["second_accepted"] > 0
    classes = np.array(subjects)
    groups = {"all": np.ones(len(classes), bool)} | {s: classes == s for s in SUBJECTS}
    return {name: asdict(agreement(first[mine], second[mine])) for name, mine in groups.items()}


def _classes_and_retrieval(
    report: dict[str, Any],
    rows: dict[str, Shares],
    judges: Judges,
    heard: Segments,
    pictures: Levels,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Classify the pictures, and retrieve each sound's; return columns of seconds."""
    columns: dict[str, NDArray[np.float64]] = {}
    if judges.classifier is not None:
        probabilities = judges.classifier.probabilities(pictures)
        found = classify(probabilities, heard.kinds, heard.recordings, seed=seed)
        columns["right"] = found.right.astype(float)
        for place, subject in enumerate(SUBJECTS):
            columns[f"probability_{subject}"] = probabilities[:, place].astype(float)
        rows[f"{RIGHT}, whole videos"] = found.videos
        report["confusion"] = {
            "seconds": found.confusion.tolist(),
            "videos": found.video_confusion.tolist(),
        }
    if judges.space is not None:
        searched = retrieve(
            judges.space.sounds(heard.mels),
            judges.space.pictures(pictures),
            heard.kinds,
            heard.recordings,
            seed=seed,
        )
        columns |= {RETRIEVAL + name: hits for name, hits in searched.hits.items()}
        report["retrieval"] = {"candidates": searched.candidates, "chance": searched.chance}
    return columns


def _fidelity(
    report: dict[str, Any],
    features: PhotoClassifier | FeatureNetwork,
    heard: Segments,
    pictures: Levels,
    beside: tuple[Bench, ControlPictures],
    seed: int,
    path: Path,
) -> tuple[NDArray[np.float64], pages.Figure]:
    """Compare pictures with photos; return distances to the nearest training photo, and a sheet."""
    bench, controls = beside
    made, real = features.features(pictures), features.features(controls.photos)
    members = bench.photos(KNOWN_SPLIT)
    photos = np.stack([bench.photo(member) for member in members])
    known = features.features(photos)
    named = (
        (features.name, features.sha256)
        if isinstance(features, FeatureNetwork)
        else ("classifier", report["judges"]["sha256"])
    )
    about: dict[str, Any] = {"features": dict(zip(("name", "sha256"), named, strict=True))}
    try:
        for name, vectors, classes in (
            ("pictures", made, heard.kinds),
            ("training photos", known, [photo_subject(member) for member in members]),
        ):
            about[name] = asdict(fidelity(vectors, real, classes, controls.subjects, seed=seed))
    except DataError as error:
        report["left_out"].append(f"KID, Frechet distance, precision and recall: {error}")
    places, distances = nearest(made, known)
    about["copying"] = asdict(copying(distances, nearest(real, known)[1])) | {
        "near_duplicates": float(near_duplicates(pictures, photos).mean()),
        "unseen_near_duplicates": float(near_duplicates(controls.photos, photos).mean()),
    }
    about["variety"] = variety(made, real, heard.kinds, controls.subjects)
    report["fidelity"] = about
    return distances, pages.save_figure(
        path,
        charts.nearest_sheet(pictures, photos, places, distances, seed),
        "Pairs of pictures: left a generated one, right the training photo that is nearest to it, "
        "with their distance",
        f"Left what was drawn, right the nearest training photo in the features of {named[0]}.",
    )


def _against(other: pages.StoredReport, mine: SegmentTable, seed: int) -> dict[str, Shares]:
    """Return the baseline's rows and, paired by second, this report's minus the baseline's."""
    rows: dict[str, Shares] = {}
    gaps = segments.differences_of(other.segments, mine, seed)
    found = segments.rows_of(other.segments)
    for name in (INFORMATIVITY, SHUFFLED, DIFFERENCE, SECOND + INFORMATIVITY, RIGHT):
        if name in gaps:
            rows[f"{BASELINE}: {name}"] = segments.average(other.segments, found[name], seed)
            rows[f"{name}, minus {BASELINE}"] = gaps[name]
    return rows


def _sheet(
    place: Path,
    heard: Segments,
    pictures: Levels,
    columns: dict[str, NDArray[np.float64]],
    chosen: list[int],
) -> pages.Figure:
    """Write the sheet, and its log-mels and pictures without a date, which ``compare`` reads."""
    mels, drawn = heard.mels[chosen], pictures[chosen]
    names = [heard.pairs[i].spectrogram for i in chosen]
    with atomic_file(place / PICTURES) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, names=np.array(names), mels=mels, pictures=drawn)
    judged = drawn, columns["accepted"][chosen] > 0, columns["shown"][chosen] > 0
    return pages.save_figure(
        place / "sheet.png",
        charts.sheet(mels, {"": judged}, [heard.kinds[i] for i in chosen]),
        "Sounds as log-mels and the pictures drawn of them, a row a class, ticked in green "
        "where the judge accepts",
        "Log-mel and first picture of seconds chosen by the seed, never by the score. "
        + charts.MARKS,
    )


def _curves_figure(path: Path, curves: charts.Curves, judges: Judges, prefix: str) -> pages.Figure:
    whose = prefix.removesuffix(": ") or "published judge"
    return pages.save_figure(
        path,
        charts.draw_curves(curves, judges.thresholds, f"Accepted by the {whose}"),
        f"Share of pictures accepted by the {whose} of each class as its threshold rises: "
        "real photos, generated pictures, those of shuffled sounds, uninformative pictures",
        "Nothing is hidden here. The further apart real photos and uninformative pictures "
        "are, the better the judge; the further generated ones are above those of shuffled "
        "sounds, the more the sound decides.",
    )


def _left_out(
    judges: Judges,
    network: FeatureNetwork | None,
    early: EarlyPictures | None,
    config: EvaluationConfig,
) -> list[str]:
    """Return what the report lacks, and why."""
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


# --- the page -------------------------------------------------------------------------------------


def _tables(report: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of the page by their names in the template."""
    groups: dict[str, dict[str, Any]] = {}
    for name, row in report["rows"].items():
        own = name.removeprefix(SECOND)
        group = "second controls" if name.startswith(SECOND) else "controls"
        if BASELINE not in name and not own.startswith(DIFFERENCE):
            if own.startswith((INFORMATIVITY, HIDDEN)):
                group = "informativity"
            elif own.startswith(RIGHT):
                group = "accuracy"
            elif own.startswith(RETRIEVAL):
                group = "retrieval"
        groups.setdefault(group, {})[name] = row
    whose = {
        "controls": ("the published judges", ""),
        "second controls": ("the second judge", SECOND),
    }
    strong = [INFORMATIVITY, SECOND + INFORMATIVITY]
    tables: dict[str, Any] = {
        "informativity": pages.share_table("Informativity, %", groups["informativity"], strong),
        "controls": [
            pages.share_table(
                f"Controls as judged by {name}, %",
                groups[group],
                [prefix + SHUFFLED, prefix + REAL_PHOTOS],
            )
            for group, (name, prefix) in whose.items()
            if group in groups
        ],
    }
    if "confusion" in report:
        tables["accuracy"] = [
            pages.share_table("Class accuracy, %", groups["accuracy"], [RIGHT]),
            *(_confusion(report["confusion"][unit], unit) for unit in ("seconds", "videos")),
        ]
    if "retrieval" in report:
        tables["retrieval"] = pages.share_table("Retrieval, %", groups["retrieval"])
    return tables


def _confusion(counts: list[list[int]], unit: str) -> pages.Table:
    totals = [max(1, sum(line)) for line in counts]
    return pages.Table(
        caption=f"Confusion, {unit}: each sound's class and the class seen in its picture, counts "
        "and shares of the row",
        head=["", *(f"seen: {subject}" for subject in SUBJECTS)],
        rows=[
            [f"sound of {subject}", *(f"{n} [{100 * n / total:.0f} %]" for n in line)]
            for subject, line, total in zip(SUBJECTS, counts, totals, strict=True)
        ],
        shades=[[n / total for n in line] for line, total in zip(counts, totals, strict=True)],
    )


# --- a look while training ------------------------------------------------------------------------


class ValInformativity:
    """A quick look at a translator in training: how many val pictures do the judges accept?

    It draws the same val sounds each time, without interval or control. It chooses nothing and
    stops nothing: a run is judged by ``soundsight evaluate``.

    Args:
        judges: decide.
        bench: whose val split it draws from, up to 40 seconds a class.
        seed: of the choice of seconds.
    """

    def __init__(self, judges: Judges, bench: Bench, *, seed: int = 0) -> None:
        self._judges = judges
        pairs = bench.pairs_of_every_class("val", "evaluation")
        rng = np.random.default_rng(seed)
        chosen: list[Pair] = []
        for subject in SUBJECTS:
            mine = [pair for pair in pairs if pair.subject == subject]
            order = rng.permutation(len(mine))[:_LOOK_SECONDS_A_CLASS]
            chosen += [mine[i] for i in sorted(order)]
        self._heard = bench_segments(bench, chosen)

    def __call__(self, task: Task, step: int) -> dict[str, float]:
        """Return the share accepted of each class (``val_dog``, ...) and ``val_informativity``."""
        del step
        assert isinstance(task, TranslatorTask)  # no other task draws pictures
        kinds = self._heard.kinds
        accepted = self._judges.accepts(task.draw(self._heard.mels), kinds)
        by_class = {s: float(accepted[np.array(kinds) == s].mean()) for s in SUBJECTS}
        figures = {f"val_{subject}": share for subject, share in by_class.items()}
        return {"val_informativity": float(np.mean(list(by_class.values()))), **figures}
