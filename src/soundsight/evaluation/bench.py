"""A translator measured on the bench: how often does a picture show what its sound was?

Beside the share stand controls, without which it says nothing: a judge that accepts everything
would call every translator informative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.errors import ConfigError, DataError, ModelError
from soundsight.core.files import atomic_file
from soundsight.core.progress import Progress
from soundsight.core.units import IMAGE_PX
from soundsight.data.vegas.bench import SUBJECTS, Bench, photo_subject
from soundsight.evaluation import blind, fidelity, metrics, segments
from soundsight.evaluation import figures as charts
from soundsight.evaluation import report as pages
from soundsight.evaluation.metrics import Shares, shares
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
)
from soundsight.judges.apply import Judges
from soundsight.judges.files import FLOOR, agreement
from soundsight.judges.negatives import EARLY, KINDS, EarlyPictures, in_early_part, make_many
from soundsight.judges.pictures import columns_of
from soundsight.media.mel import log_mel
from soundsight.runtime.translator import Translator

PICTURES = "pictures.npz"

_AT_ONCE = 64
_CONTROL_SOUNDS = 20
_STORED_EVERY = 5
"""Each fifth threshold of the curves goes into report.json."""

Levels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and with which seed."""

    split: str = "devtest"
    #: of the pictures, the shuffling, the uninformative pictures, the choices and the intervals
    seed: int = 0
    limit: int | None = None  #: at most so many seconds a class, chosen by the seed; None = all
    blind_sheet: bool = False  #: write a sheet for blind viewing, a form for answers and the key
    sheet_per_class: int = 8  #: pictures a class on the sheet
    floor_per_kind: int = 200  #: uninformative pictures of each kind, a class


def evaluate(
    translator: Translator,
    judges: Judges,
    bench: Bench,
    out: Path,
    config: EvaluationConfig | None = None,
    *,
    model: dict[str, Any] | None = None,
    command: str = "",
    early: EarlyPictures | None = None,
    network: fidelity.FeatureNetwork | None = None,
    baseline: Path | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure a translator on sounds it never heard and write the report.

    The first picture drawn of every second is judged, without selection. What the program would not
    draw counts as a miss; what is accepted with nothing hidden stands beside it. The same arguments
    give the same files, to the last byte. The folder appears whole or not at all, in place of an
    earlier report.

    Args:
        judges: decide; what else they bring (a second judge, a classifier, an audio-visual space)
            is used, and what they lack is left out of the report, which says so.
        model: what names the model in the report (name, path, SHA-256).
        command: how this was started, for the report.
        early: early-generator pictures, of which the judges' val part is one more floor.
        network: gives the features for fidelity and nearest photos, instead of the classifier.
        baseline: folder of another report on the same seconds, whose rows are put beside.

    Returns:
        What report.json holds.

    Raises:
        DataError: when a class has no sounds or photos, or a picture cannot be used.
        ConfigError: on another split, or when the baseline was measured otherwise.
        ModelError: when the model draws pictures of another size.
        OutputError: when ``out`` cannot be written to, holds something else or filled-in answers.
    """
    config = config or EvaluationConfig()
    seed = config.seed
    report: dict[str, Any] = {
        "report_version": pages.REPORT_VERSION,
        "model": model or {},
        "judges": {
            "name": judges.name,
            "sha256": judges.sha256,
            "thresholds": judges.thresholds,
            "second_thresholds": judges.second.thresholds if judges.second else {},
            "val": judges.val,
        },
        "settings": asdict(config) | metrics.INTERVALS,
    }
    # All that can be wrong with the input is found before the work starts.
    pages.check_split(config.split)
    of_split = bench.pairs_of_every_class(config.split, "evaluation")
    measured = segments.measured_seconds(of_split, config.limit, seed)
    sounds = segments.bench_segments(bench, measured)
    on_sheet = segments.shown_seconds(sounds.pairs, config.sheet_per_class, seed)
    hidden: list[int] = []
    if config.blind_sheet:
        hidden = segments.blind_seconds(sounds.pairs, blind.PER_CLASS, seed, on_sheet)
    controls = control_pictures(
        bench, config.split, seed=seed, per_kind=config.floor_per_kind, early=early
    )
    other = None
    if baseline is not None:
        other = pages.load_report(baseline)
        pages.check_comparable(other.values, report, str(baseline), "this measurement")
        if list(other.segments.names) != sounds.names:
            raise ConfigError(f"{baseline} was not measured on the seconds of {bench.root}")
    with pages.report_folder(out) as place:
        pictures = draw_pictures(translator, sounds.mels, seed, progress)
        work = _Measurement(
            sounds, pictures, sounds.audible & translator.draws(sounds.mels), controls, seed, place,
            report,
        )  # fmt: skip
        report |= {
            "sounds": {s: sounds.kinds.count(s) for s in SUBJECTS},
            "audible": int(sounds.audible.sum()),
            "rows": {},
            "left_out": _left_out(judges, network, early, config),
            "curves": {"thresholds": charts.THRESHOLDS[::_STORED_EVERY].tolist()},
        }
        for prefix, panel in (("", judges), (SECOND, judges.second)):
            if panel is not None:
                progress(f"{prefix}judging", 0, 1)
                work.judge(panel, prefix)
                progress(f"{prefix}silence and white noise", 0, 1)
                work.silence_and_noise(translator, panel, prefix)
        report["agreement"] = work.agreement()
        progress("classes and retrieval", 0, 1)
        work.classes_and_retrieval(judges)
        if network or judges.classifier:
            progress("photos beside pictures", 0, 1)
            work.fidelity(network or judges.classifier, bench)
        table = SegmentTable(
            names=sounds.names, subjects=sounds.kinds, videos=sounds.recordings, values=work.columns
        )
        averages = {
            name: segments.average(table, row, seed)
            for name, row in segments.rows_of(table).items()
        }
        rows = averages | work.rows
        if other is not None:
            rows |= _against(other, table, seed)
            report[BASELINE] = {"model": other.values["model"]}
        report["rows"] = metrics.as_json(rows)
        progress("writing", 0, 1)
        segments.write(place / segments.FILE, table)
        work.sheet(on_sheet)
        if hidden:
            levels = blind.write_sheet(place, pictures, sounds, work.shown, hidden)
            work.figures[blind.SHEET] = pages.photograph(blind.SHEET, levels)
        title = f"Report on {report['model'].get('name', 'the translator')}"
        pages.write_report(
            place, "bench", title, report, work.figures, command, groups=_groups(report["rows"]),
            floor=FLOOR, inaudible_level=f"{units.INAUDIBLE_LEVEL:g}", marks=charts.MARKS,
            near_duplicate_bits=fidelity.NEAR_DUPLICATE_BITS,
        )  # fmt: skip
    return report


@dataclass(eq=False)
class _Measurement:
    """What the steps share; each adds to the report, its columns of seconds, rows and figures."""

    sounds: Segments
    pictures: Levels
    shown: NDArray[np.bool_]  #: whether the program would show them
    controls: ControlPictures
    seed: int
    place: Path
    report: dict[str, Any]
    columns: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    rows: dict[str, Shares] = field(default_factory=dict)
    figures: dict[str, pages.Figure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        audible = self.sounds.audible
        self.columns |= {"audible": audible.astype(float), "shown": self.shown.astype(float)}
        #: whose picture each sound is shown with when sounds are shuffled, [n]
        self.order = metrics.shuffled(self.sounds.kinds, self.seed)
        if self.order is not None:
            self.columns["shuffled_shown"] = self.shown[self.order].astype(float)

    def judge(self, judges: Judges, prefix: str) -> None:
        """Let a set of judges say what it accepts of everything."""
        classes, short = np.array(self.sounds.kinds), "second_" if prefix else ""
        own = np.arange(len(self.sounds)), columns_of(self.sounds.kinds)
        scores = judges.scores(self.pictures)
        verdicts = judges.decide(scores)
        self.columns[f"{short}score"] = scores[own].astype(float)
        self.columns[f"{short}accepted"] = verdicts[own].astype(float)
        rows, of_photos, of_nothing = photo_controls(judges, self.controls, seed=self.seed)
        self.rows |= {prefix + name: row for name, row in rows.items()}
        lines: dict[str, Mapping[str, NDArray[Any]]] = {charts.REAL: of_photos}
        lines[charts.GENERATED] = {s: scores[own][classes == s] for s in SUBJECTS}
        if self.order is not None:
            self.columns[f"{short}shuffled"] = verdicts[self.order][own].astype(float)
            strange = scores[self.order][own]
            lines[charts.OF_SHUFFLED] = {s: strange[classes == s] for s in SUBJECTS}
        lines[charts.UNINFORMATIVE] = of_nothing
        curves = charts.curves_of(lines)
        self.report["curves"][prefix.removesuffix(": ") or "judge"] = {
            subject: {kind: line[::_STORED_EVERY] for kind, line in kinds.items()}
            for subject, kinds in curves.items()
        }
        file = "curves-second.svg" if prefix else "curves.svg"
        whose = prefix.removesuffix(": ") or "published judge"
        drawn = charts.draw_curves(curves, judges.thresholds, f"Accepted by the {whose}")
        self.figures[file] = pages.save_figure(self.place / file, drawn)

    def silence_and_noise(self, translator: Translator, judges: Judges, prefix: str) -> None:
        """Show every judge the pictures of sounds that are nothing of the five."""
        for name, mels in control_mels(self.seed).items():
            silent = name == "silence"
            pictures = (
                draw_with_seeds(translator, mels, self.seed)
                if silent
                else translator.imagine(mels, seed=self.seed)
            )
            verdicts = judges.verdicts(pictures)
            # Silence is quiet: the program draws nothing, however well it is known.
            shown = translator.draws(mels) & (not silent)
            for what, accepted in (
                ("accepted", verdicts),
                ("shown and accepted", verdicts & shown[:, None]),
            ):
                self.rows[f"{prefix}{name}: {what}"] = every_judge(accepted, self.seed)

    def agreement(self) -> dict[str, dict[str, Any]]:
        """Compare what both judges say of the pictures, by class; empty without a second judge."""
        if "second_accepted" not in self.columns:
            return {}
        first, second = (self.columns[name] > 0 for name in ("accepted", "second_accepted"))
        classes = np.array(self.sounds.kinds)
        groups = {"all": np.ones(len(classes), bool)} | {s: classes == s for s in SUBJECTS}
        return {name: agreement(first[mine], second[mine]) for name, mine in groups.items()}

    def classes_and_retrieval(self, judges: Judges) -> None:
        """Classify the pictures, and retrieve each sound's."""
        sounds, seed = self.sounds, self.seed
        if judges.classifier is not None:
            likely = judges.classifier.probabilities(self.pictures)
            found = metrics.classify(likely, sounds.kinds, sounds.recordings, seed=seed)
            self.columns["right"] = found.right.astype(float)
            for place, subject in enumerate(SUBJECTS):
                self.columns[f"probability_{subject}"] = likely[:, place].astype(float)
            self.rows[f"{RIGHT}, whole videos"] = found.videos
            self.report["confusion"] = {
                "seconds": found.confusion.tolist(),
                "videos": found.video_confusion.tolist(),
            }
        if judges.space is not None:
            embedded, drawn = judges.space.sounds(sounds.mels), judges.space.pictures(self.pictures)
            hits, chance, candidates = metrics.retrieve(embedded, drawn, sounds.kinds, seed=seed)
            self.columns |= {RETRIEVAL + name: of_second for name, of_second in hits.items()}
            self.report["retrieval"] = {"candidates": candidates, "chance": chance}

    def fidelity(self, network: Any, bench: Bench) -> None:
        """Compare pictures with photos in the features of a network."""
        kinds, controls = self.sounds.kinds, self.controls
        photos, _, of_photo = read_photos(bench, "train")
        made, real, known = map(network.features, (self.pictures, controls.photos, photos))
        name, sha256 = "classifier", self.report["judges"]["sha256"]
        if isinstance(network, fidelity.FeatureNetwork):
            name, sha256 = network.name, network.sha256
        about: dict[str, Any] = {"features": {"name": name, "sha256": sha256}}
        try:
            for what, vectors, classes in (
                ("pictures", made, kinds),
                ("training photos", known, of_photo),
            ):
                about[what] = fidelity.fidelity(
                    vectors, real, classes, controls.subjects, seed=self.seed
                )
        except DataError as error:
            why = f"KID, Frechet distance, precision and recall: {error}"
            self.report["left_out"].append(why)
        places, distances = fidelity.nearest(made, known)
        about["copying"] = fidelity.copying(distances, fidelity.nearest(real, known)[1])
        for what, images in (
            ("near_duplicates", self.pictures),
            ("unseen_near_duplicates", controls.photos),
        ):
            about["copying"][what] = float(fidelity.near_duplicates(images, photos).mean())
        about["variety"] = fidelity.variety(made, real, kinds, controls.subjects)
        self.report["fidelity"] = about
        self.columns["nearest_distance"] = distances
        shown = charts.nearest_sheet(self.pictures, photos, places, distances, self.seed)
        self.figures["nearest.png"] = pages.save_figure(self.place / "nearest.png", shown)

    def sheet(self, chosen: list[int]) -> None:
        """Write the sheet, and its pictures, without a date, for ``compare``."""
        mels, drawn = self.sounds.mels[chosen], self.pictures[chosen]
        names, kinds = ([of[i] for i in chosen] for of in (self.sounds.names, self.sounds.kinds))
        with atomic_file(self.place / PICTURES) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, names=np.array(names), mels=mels, pictures=drawn)
        judged = drawn, self.columns["accepted"][chosen] > 0, self.shown[chosen]
        sheet = charts.sheet(mels, {"": judged}, kinds)
        self.figures["sheet.png"] = pages.save_figure(self.place / "sheet.png", sheet)


def draw_pictures(model: Translator, mels: Levels, seed: int, progress: Progress) -> Levels:
    """Draw the first picture of every second: uint8 [n, 96, 96, 3].

    Raises:
        ModelError: when the pictures are of another size than the judges take.
    """
    shape = (IMAGE_PX, IMAGE_PX, units.IMAGE_CHANNELS)
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
        progress("seconds drawn", start + len(some), len(mels))
    return pictures


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlPictures:
    """Pictures that no translator drew, the same for every judge."""

    photos: Levels  #: real photos of the split, [n, 96, 96, 3]
    members: list[str]  #: their names, n
    subjects: list[str]  #: their classes, n
    #: kind -> pictures [5 * per_kind, 96, 96, 3], class by class in the order of SUBJECTS
    uninformative: dict[str, Levels]
    early: Levels  #: early-generator pictures of the judges' val part, [m, 96, 96, 3]
    early_sounds: NDArray[np.int64]  #: the sound of each, [m]


def read_photos(bench: Bench, split: str) -> tuple[Levels, list[str], list[str]]:
    """Return the photos of a split, uint8 [n, 96, 96, 3], their names and their classes."""
    members = bench.photos(split)
    photos = np.stack([bench.photo(member) for member in members])
    return photos, members, [photo_subject(member) for member in members]


def control_pictures(
    bench: Bench,
    split: str,
    *,
    seed: int = 0,
    per_kind: int = 200,
    early: EarlyPictures | None = None,
) -> ControlPictures:
    """Read the photos of a split and make ``per_kind`` uninformative pictures a class of each kind.

    Of ``early`` only the part that the judges' training kept for val is judged.

    Raises:
        DataError: when a class has fewer than two photos, or a photo cannot be used.
    """
    for subject in SUBJECTS:
        if [photo_subject(member) for member in bench.photos(split)].count(subject) < 2:
            raise DataError(
                f"the bench at {bench.root} has fewer than two photos of {subject} in {split}: "
                f"the controls need photos of {', '.join(SUBJECTS)}"
            )
    photos, members, subjects = read_photos(bench, split)
    columns = columns_of(subjects)
    by_class = [photos[columns == number] for number in range(len(SUBJECTS))]
    uninformative = {}
    for place, kind in enumerate(KINDS):
        rng = np.random.default_rng((seed, place))
        made = [make_many(kind, by_class, own, per_kind, rng) for own in range(len(SUBJECTS))]
        uninformative[kind] = np.concatenate(made)
    images, sounds = photos[:0], np.empty(0, np.int64)
    if early is not None:
        kept = in_early_part(early, 0, "val")
        images, sounds = early.images[kept], early.sounds[kept]
    return ControlPictures(
        photos=photos, members=members, subjects=subjects, uninformative=uninformative,
        early=images, early_sounds=sounds,
    )  # fmt: skip


Scores = dict[str, NDArray[np.float32]]
"""Class -> what its own judge gives each of n pictures, [n]."""


def photo_controls(
    judges: Judges, pictures: ControlPictures, *, seed: int = 0
) -> tuple[dict[str, Shares], Scores, Scores]:
    """Measure the judges on pictures that no translator drew; the seed is of the intervals.

    Returns:
        rows: ``real photos`` (the ceiling), ``photos of other classes``, and one row a kind of
            uninformative picture (the floor).
        photos, uninformative: the scores of the photos, and of all kinds made from photos.
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
            judges.verdicts(pictures.early), seed, pictures.early_sounds
        )
    return (
        rows,
        {s: photo_scores[columns == j, j] for j, s in enumerate(SUBJECTS)},
        dict(zip(SUBJECTS, np.concatenate(of_floor, axis=1), strict=True)),
    )


def every_judge(
    verdicts: NDArray[np.bool_], seed: int, units: NDArray[np.int64] | None = None
) -> Shares:
    """Return for each class the share of n pictures that its judge accepts, of bool [n, 5].

    ``units`` [n] are resampled whole; each picture by default.
    """
    each = np.arange(len(verdicts)) if units is None else units
    names = np.repeat(each, len(SUBJECTS)).astype(str).tolist()
    of_picture = list(SUBJECTS) * len(verdicts)
    return shares(verdicts.reshape(-1), of_picture, names, seed=seed, together=True)


def control_mels(seed: int) -> dict[str, Levels]:
    """Return log-mels of sounds that show nothing by right: ``silence`` and ``white noise``."""
    rng = np.random.default_rng((seed, 1))
    noise = 0.1 * rng.standard_normal((_CONTROL_SOUNDS, units.SEGMENT_SAMPLES)).astype(np.float32)
    return {
        "silence": np.zeros((_CONTROL_SOUNDS, units.N_MELS, units.FRAMES_PER_SEGMENT), np.uint8),
        "white noise": np.stack([log_mel(sound) for sound in noise]),
    }


def draw_with_seeds(model: Translator, mels: Levels, seed: int) -> Levels:
    """Draw each second with a seed of its own, or the pictures of silence would all be one."""
    return np.concatenate([model.imagine(mel[None], seed=seed + i) for i, mel in enumerate(mels)])


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


def _left_out(
    judges: Judges,
    network: fidelity.FeatureNetwork | None,
    early: EarlyPictures | None,
    config: EvaluationConfig,
) -> list[str]:
    """Return what the report lacks, and why."""
    nothing_sees = judges.classifier is None and network is None
    lines = {
        "A second judge, and the agreement of both: these judges have none.": judges.second is None,
        "Class accuracy and confusion: these judges bring no classifier.": judges.classifier
        is None,
        "Fidelity, variety and nearest photos: there is no feature network.": nothing_sees,
        "Retrieval: these judges bring no audio-visual space.": judges.space is None,
        "The floor of early-generator pictures: none were given (`--early`).": not early,
        "A sheet for blind viewing: not asked for (`--blind-sheet`).": not config.blind_sheet,
    }
    return [line for line, lacks in lines.items() if lacks]


def _groups(rows: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows of each table of the page."""
    groups: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        own = name.removeprefix(SECOND)
        group = "second controls" if name.startswith(SECOND) else "controls"
        if BASELINE not in name and not own.startswith(DIFFERENCE):
            for start, of in (
                (INFORMATIVITY, "informativity"),
                (HIDDEN, "informativity"),
                (RIGHT, "accuracy"),
                (RETRIEVAL, "retrieval"),
            ):
                group = of if own.startswith(start) else group
        groups.setdefault(group, {})[name] = row
    return groups
