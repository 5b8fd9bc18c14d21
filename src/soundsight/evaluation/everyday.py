"""A translator measured on Everyday: does the picture of an unknown sound show what sounded?

One judge of 23 answers (``judges.everyday``) says what each picture shows. The first picture
drawn of a second counts; a second that the program would not draw counts as wrong. Shares are means
over kinds, so that a kind of ten seconds weighs as much as one of a thousand, with a bootstrap over
recordings.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from soundsight.core.draws import item_of
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import atomic_file, atomic_folder
from soundsight.core.state import is_out_of_distribution
from soundsight.core.units import to_unit
from soundsight.data.everyday.folder import (
    ALERTS,
    KINDS,
    SUBJECTS,
    WORDS,
    Everyday,
    photos_of,
    read_photo,
)
from soundsight.data.everyday.sounds import audible
from soundsight.data.vegas.bench import Bench
from soundsight.evaluation import report as pages
from soundsight.evaluation.bench import control_mels, draw_pictures, draw_with_seeds
from soundsight.evaluation.fidelity import fidelity, mean_distance, nearest, precision_recall
from soundsight.evaluation.figures import nearest_sheet, seeds_sheet, sheet
from soundsight.evaluation.metrics import (
    CONFIDENCE,
    MEAN,
    RESAMPLES,
    Shares,
    as_json,
    classify,
    shares,
    shuffled,
)
from soundsight.evaluation.segments import (
    REAL_PHOTOS,
    SHUFFLED,
    Segments,
    blind_seconds,
    known_segments,
    other_segments,
    shown_seconds,
)
from soundsight.judges.apply import columns_of
from soundsight.judges.everyday import (
    ACCEPTED_FROM,
    ANSWERS,
    PhotoJudge,
    uninformative,
    verdicts,
)
from soundsight.models.eyes import POOLED_SIZE, Eyes
from soundsight.runtime.surest import SurestSeconds, mean_embedding
from soundsight.runtime.translator import Translator
from soundsight.training.photo_features import look

KIND = "everyday"
"""Stands in report.json where a report on the bench has none."""
REPORT_VERSION = 1

RIGHT, RECORDINGS, NOTHING_REFUSED = "right", "recordings right", "right, nothing refused"
UNKNOWN_DRAWN, UNKNOWN_DRAWN_AS_SET = "unknown drawn", "unknown drawn, as the model is set"
FULL_BAND, NARROW_BAND = "full band", "8 kHz"
KEPT = 0.9
"""Share of the known seconds of val that the threshold of refusal keeps."""

_SHOWN_A_KIND, _BLIND_A_KIND, _SEEDS = 6, 3, 8
_AT_ONCE = 64
_FEWEST_PHOTOS = 5
"""Recall asks for the third nearest neighbour: fewer photos than this say nothing."""

Levels = NDArray[np.uint8]
Tell = Callable[[str, int, int], None]


class Model(Protocol):
    """What is measured."""

    def imagine(self, mels: Levels, *, draws: int = 1, seed: int = 0) -> Levels:
        """Draw uint8 [n * draws, 96, 96, 3] of log-mels uint8 [n, 128, 100], whatever they are."""
        ...

    def imagine_recording(self, mels: Levels, *, seed: int = 0) -> Levels:
        """Draw one picture, uint8 [96, 96, 3], of all seconds of a recording."""
        ...

    def draws(self, mels: Levels) -> NDArray[np.bool_]:
        """Return which sounds the program would draw: bool [n]."""
        ...

    def ood_scores(self, mels: Levels) -> NDArray[np.float32]:
        """Return how well each sound is known, float32 [n]; NaN where the model cannot say."""
        ...

    def label_probabilities(self, mels: Levels) -> NDArray[np.float32] | None:
        """Return how likely each of ``KINDS`` is, float32 [n, 28]; None without labels."""
        ...


class TranslatorModel:
    """A model folder, as the runtime draws from it.

    Args:
        translator: of the folder.
    """

    def __init__(self, translator: Translator) -> None:
        self.translator = translator

    def imagine(self, mels: Levels, *, draws: int = 1, seed: int = 0) -> Levels:
        return self.translator.imagine(mels, draws=draws, seed=seed)

    def draws(self, mels: Levels) -> NDArray[np.bool_]:
        return self.translator.draws(mels)

    def ood_scores(self, mels: Levels) -> NDArray[np.float32]:
        return self.translator.ood_scores(mels)

    def imagine_recording(self, mels: Levels, *, seed: int = 0) -> Levels:
        thresholds = self.translator.info.thresholds
        heard = [self.translator.recognise(mel, of=mel) for mel in mels[audible(mels)]]
        known = [one for one in heard if not is_out_of_distribution(one.ood_score, thresholds)]
        surest = SurestSeconds()
        # Of a recording that would not be drawn there is a picture all the same.
        for second in known or heard or [self.translator.recognise(mels[0], of=mels[0])]:
            surest.take(second)
        chosen = surest.of_kind(surest.kind)
        return self.translator.draw(mean_embedding(chosen), [item_of(chosen[0].of)], seed)[0]

    def label_probabilities(self, mels: Levels) -> NDArray[np.float32] | None:
        known = self.translator.label_head
        if known is None:
            return None
        embeddings, _ = self.translator.embed(to_unit(mels)[:, None])
        probabilities = known.probabilities(embeddings)
        found = np.zeros((len(mels), len(KINDS)), np.float32)
        for column, name in enumerate(known.labels):
            if (kind := kind_of(name)) is not None:
                found[:, KINDS.index(kind)] = probabilities[:, column]
        return found


def kind_of(label: str) -> str | None:
    """Return which kind a model's label means, such as ``baby`` for "baby crying"."""
    for kind, words_for_people in WORDS.items():
        if label == words_for_people:
            return kind
    words = label.lower().replace(" ", "_")
    return next((k for k in (words, words.split("_")[0]) if k in KINDS), None)


@dataclass(frozen=True, kw_only=True)
class EverydayConfig:
    """What is measured, and with which seed."""

    split: str = "devtest"
    seed: int = 0
    limit: int | None = None
    """At most so many seconds a kind; None = all."""
    blind_sheet: bool = False
    """Write a sheet for blind viewing, three pictures a subject, a form and the key."""
    varied: int = 200
    """Pictures of each subject that variety and recall look at."""
    made_per_kind: int = 220
    """Uninformative pictures of each kind."""

    def __post_init__(self) -> None:
        if self.split not in ("devtest", "val"):
            raise ConfigError(f"{self.split} is not for evaluation: choose from devtest, val")
        if self.varied < 4 or self.made_per_kind < 1:
            raise ConfigError("varied must be at least 4, made_per_kind at least 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """What the steps of a measurement share, and what they add to."""

    model: Model
    judge: PhotoJudge
    everyday: Everyday
    bench: Bench
    config: EverydayConfig
    tell: Tell
    heard: Segments
    """Seconds of all 28 kinds."""
    subjects: Segments
    """Those of the 22 that are drawn."""
    photos: Levels
    photo_names: list[str]
    place: Path
    report: dict[str, Any]
    figures: dict[str, pages.Figure]

    @property
    def photo_kinds(self) -> list[str]:
        return [name.split("/")[0] for name in self.photo_names]


def evaluate_everyday(
    model: Model,
    judge: PhotoJudge,
    everyday: Everyday,
    bench: Bench,
    out: Path,
    config: EverydayConfig,
    *,
    about: Mapping[str, Any],
    command: str = "",
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Measure a model on Everyday's unknown sounds and write the report into ``out``.

    The folder appears whole or not at all: ``report.json``, ``report.md``, ``report.html`` (all of
    it in one file), ``seconds.csv``, sheets and, when asked, the blind sheet with its key apart.

    Args:
        model: draws, labels and refuses.
        judge: says what a picture shows.
        everyday: sounds and photos.
        bench: more sounds of five subjects.
        out: the folder; an earlier report in it is replaced.
        config: split, seed, limits.
        about: what names the model in the report.
        command: how this was started, for the report.
        tell: called with (what, how many done, how many in all).

    Returns:
        What report.json holds.

    Raises:
        DataError: when sounds or photos are missing or damaged.
        OutputError: when ``out`` cannot be written to, holds something else or filled-in answers.
    """
    tell = tell or (lambda _what, _done, _of: None)
    tell("hearing", 0, 0)
    heard = known_segments(everyday, bench, config.split, limit=config.limit, seed=config.seed)
    subjects, names = heard.of(SUBJECTS), everyday.photos(config.split)
    if missing := [s for s in SUBJECTS if s not in subjects.kinds]:
        raise DataError(f"{config.split} has no sounds of {', '.join(missing)}")
    report: dict[str, Any] = {
        "kind": KIND,
        "report_version": REPORT_VERSION,
        "model": dict(about),
        "judge": judge.about,
        "settings": asdict(config) | {"resamples": RESAMPLES, "confidence": CONFIDENCE},
        "sounds": {kind: heard.kinds.count(kind) for kind in KINDS},
        "left_out": [],
    }
    with atomic_folder(out, overwrite=True, ours=pages.is_report) as place:
        work = _Work(
            model=model, judge=judge, everyday=everyday, bench=bench, config=config, tell=tell,
            heard=heard, subjects=subjects, photo_names=names,
            photos=np.stack([everyday.photo(name) for name in names]),
            place=place, report=report, figures={},
        )  # fmt: skip
        _right_pictures(work)
        report["controls"] = _controls(work)
        _labels(work)
        _refusal(work)
        _variety_and_copies(work)
        title = f"Report on {report['model'].get('name', 'the model')}: everyday sounds"
        pages.write_report(
            place, "everyday", title, report, work.figures, command,
            key_figures=_key_figures(report), tables=_tables(report),
        )  # fmt: skip
    return report


def _right_pictures(work: _Work) -> None:
    """Draw and judge every second and recording, and show some."""
    model, judge, subjects, seed = work.model, work.judge, work.subjects, work.config.seed
    pictures = draw_pictures(model, subjects.mels, seed, work.tell)
    shown = model.draws(subjects.mels)
    work.tell("judging", 0, 0)
    features, of_photos = judge.look(pictures), judge.look(work.photos)
    found = judge.read(features)
    rows = right_rows(found, shown, subjects, seed)
    rows[RECORDINGS] = _recordings(work)
    order = shuffled(subjects.kinds, seed, SUBJECTS)
    if order is not None:
        hits = verdicts(found[order], subjects.kinds)[1] & shown[order]
        rows[SHUFFLED] = subjects.shares(hits, seed, among=SUBJECTS)
    of_photo = verdicts(judge.read(of_photos), work.photo_kinds)[1]
    rows[REAL_PHOTOS] = shares(
        of_photo, work.photo_kinds, work.photo_names, seed=seed, among=SUBJECTS
    )
    work.report["rows"] = as_json(rows)
    work.report["confusion"] = confusion(found, shown, subjects.kinds)
    work.report["kid"] = asdict(
        fidelity(features, of_photos, subjects.kinds, work.photo_kinds, seed=seed, classes=SUBJECTS)
    )
    _write_seconds(work.place / "seconds.csv", subjects, shown, found)
    some = shown_seconds(subjects.pairs, _SHOWN_A_KIND, seed, SUBJECTS)
    kinds = [subjects.kinds[i] for i in some]
    judged = pictures[some], verdicts(found[some], kinds)[1], shown[some]
    work.figures["kinds"] = pages.save_figure(
        work.place / "kinds.png",
        sheet(subjects.mels[some], {"": judged}, kinds, SUBJECTS),
        "Sounds as log-mels and the first picture drawn of each, a row a subject",
        "Log-mel and first picture of seconds chosen by the seed, never by the score. A green "
        "tick: shown, and accepted by the judge. An amber cross: refused.",
    )
    first = {kind: subjects.mels[i][None] for kind, i in zip(kinds[::-1], some[::-1], strict=True)}
    lines = [
        (kind, np.concatenate([model.imagine(first[kind], seed=seed + i) for i in range(_SEEDS)]))
        for kind in SUBJECTS
    ]
    work.figures["seeds"] = pages.save_figure(
        work.place / "seeds.png", seeds_sheet(lines),
        "Eight pictures of one sound of each subject, a row a subject",
        "One sound a row, drawn with eight seeds.",
    )  # fmt: skip
    if work.config.blind_sheet:
        hidden = blind_seconds(subjects.pairs, _BLIND_A_KIND, seed, some, SUBJECTS)
        work.figures["blind"] = pages.blind_figure(
            work.place, pictures, subjects.pairs, shown, hidden, SUBJECTS
        )


def right_rows(
    found: NDArray[np.float32], shown: NDArray[np.bool_], heard: Segments, seed: int
) -> dict[str, Shares]:
    """Average what the judge says of pictures, float32 [n, 23], of the seconds of subjects."""
    named, sure = verdicts(found, heard.kinds)
    rows = {
        RIGHT: (sure & shown, None),
        "likeliest answer right": (named & shown, None),
        NOTHING_REFUSED: (sure, None),
        "right, audible seconds": (sure & shown, heard.audible),
        "refused": (~shown, None),
    }
    return {
        name: heard.shares(values, seed, kept, among=SUBJECTS)
        for name, (values, kept) in rows.items()
    }


def confusion(
    found: NDArray[np.float32], shown: NDArray[np.bool_], kinds: Sequence[str]
) -> list[list[float]]:
    """Return how often each subject becomes which answer, or is refused: 22 rows of 24 shares."""
    answers = np.where(shown, found.argmax(axis=1), len(ANSWERS))
    counts = np.zeros((len(SUBJECTS), len(ANSWERS) + 1))
    np.add.at(counts, (columns_of(kinds, SUBJECTS), answers), 1.0)
    return (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)).tolist()


def _recordings(work: _Work) -> Shares:
    """Draw one picture of each recording; refused where none of its seconds is shown."""
    whole: dict[tuple[str, str], list[int]] = {}
    for place, pair in enumerate(work.subjects.pairs):
        whole.setdefault((pair.subject, pair.video), []).append(place)
    pictures, shown = [], []
    for places in whole.values():
        mels = work.subjects.mels[places]
        pictures.append(work.model.imagine_recording(mels, seed=work.config.seed))
        shown.append(work.model.draws(mels).any())
    kinds = [kind for kind, _ in whole]
    right = verdicts(work.judge.probabilities(np.stack(pictures)), kinds)[1]
    return shares(
        right & np.array(shown), kinds, [" ".join(names) for names in whole],
        seed=work.config.seed, among=SUBJECTS,
    )  # fmt: skip


def _controls(work: _Work) -> dict[str, dict[str, float]]:
    """Show the judge what shows nothing: shares accepted as some subject, and shown."""
    config, kinds = work.config, np.asarray(work.photo_kinds)
    by_subject = [work.photos[kinds == subject] for subject in SUBJECTS]
    rng = np.random.default_rng((config.seed, 5))
    rows = {}
    for kind, made in uninformative(by_subject, config.made_per_kind, rng).items():
        found = work.judge.probabilities(made)
        rows[f"uninformative: {kind}"] = {
            "accepted": float(_as_any_subject(found).mean()),
            "said to be nothing": float((found.argmax(axis=1) == len(SUBJECTS)).mean()),
        }
    for name, mels in control_mels(config.seed).items():
        pictures = draw_with_seeds(work.model, mels, config.seed)
        accepted, shown = (
            _as_any_subject(work.judge.probabilities(pictures)),
            work.model.draws(mels),
        )
        rows[name] = {
            "accepted": float(accepted.mean()),
            "shown": float(shown.mean()),
            "shown and accepted": float((accepted & shown).mean()),
        }
    return rows


def _as_any_subject(found: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which pictures the judge accepts as any subject: bool [n] of [n, 23]."""
    sure: NDArray[np.bool_] = found[:, :-1].max(axis=1) >= ACCEPTED_FROM
    return sure


def _labels(work: _Work) -> None:
    """Count how often seconds, and recordings by their mean, are labelled right among all 28."""
    found = work.model.label_probabilities(work.heard.mels)
    if found is None:
        work.report["left_out"].append("Labels: the model has none.")
        return
    work.report["labels"] = {}
    for what, kinds in (("28 kinds", KINDS), ("22 subjects", SUBJECTS), ("alerts", ALERTS)):
        part = work.heard.of(kinds)
        accuracy = classify(
            found[np.isin(work.heard.kinds, kinds)], part.kinds, part.recordings,
            seed=work.config.seed, classes=KINDS, among=kinds,
        )  # fmt: skip
        units = {"seconds": accuracy.seconds, "recordings": accuracy.videos}
        work.report["labels"][what] = as_json(units)


def _refusal(work: _Work) -> None:
    """Count how unknown sounds are told from known ones, at full band and at 8 kHz."""
    work.tell("unknown sounds", 0, 0)
    model, config = work.model, work.config
    of_known = model.ood_scores(work.heard.mels)
    if np.isnan(of_known).any():
        work.report["left_out"].append("Refusal: the model cannot say how well it knows a sound.")
        return

    def known(split: str, narrow: bool) -> tuple[NDArray[np.float32], Segments]:
        if split == config.split and not narrow:
            return of_known, work.heard
        heard = known_segments(
            work.everyday, work.bench, split, limit=config.limit, seed=config.seed, narrow=narrow
        )
        return model.ood_scores(heard.mels), heard

    threshold = threshold_that_keeps(*known("val", False))
    work.report["refusal"] = {"threshold": threshold}
    for what, narrow in ((FULL_BAND, False), (NARROW_BAND, True)):
        others = other_segments(work.everyday, config.split, narrow=narrow)
        scored = model.ood_scores(others.mels), others
        rows = refusal_rows(known(config.split, narrow), scored, threshold, config.seed)
        rows[UNKNOWN_DRAWN_AS_SET] = others.shares(
            model.draws(others.mels), config.seed, among=list(dict.fromkeys(others.kinds))
        )
        work.report["refusal"][what] = as_json(rows)


def threshold_that_keeps(
    ood_score: NDArray[np.float32], heard: Segments, share: float = KEPT
) -> float:
    """Return the ood score that ``share`` of the known seconds stay under, kinds weighing alike."""
    _, own, counts = np.unique(heard.kinds, return_inverse=True, return_counts=True)
    weight = 1.0 / counts[own]
    order = np.argsort(-ood_score, kind="stable")
    lost = np.cumsum(weight[order]) / weight.sum()
    return float(ood_score[order][np.searchsorted(lost, 1.0 - share)])


def refusal_rows(
    known: tuple[NDArray[np.float32], Segments],
    others: tuple[NDArray[np.float32], Segments],
    threshold: float,
    seed: int,
) -> dict[str, Shares]:
    """Count how well the ood score tells unknown sounds from known ones.

    Args:
        known: ood scores of known seconds, and the seconds.
        others: the same of unknown ones.
        threshold: up to which a second is drawn.
        seed: of the intervals.

    Returns:
        ``known kept`` and ``unknown drawn`` (inaudible seconds are never drawn), and ``AUROC``: how
        often an unknown second scores higher than a known one, of each unknown kind.
    """
    score, heard = others
    kinds = list(dict.fromkeys(heard.kinds))
    kept = (known[0] <= threshold) & known[1].audible
    of_known = np.asarray(known[1].kinds)
    above = []
    # For each unknown second by itself, which scikit-learn's area under the curve does not give.
    for kind in np.unique(of_known):
        of = np.sort(known[0][of_known == kind])
        under, upto = (np.searchsorted(of, score, side=side) for side in ("left", "right"))
        above.append((under + upto) / (2.0 * len(of)))
    return {
        "known kept": known[1].shares(kept, seed, among=KINDS),
        UNKNOWN_DRAWN: heard.shares((score <= threshold) & heard.audible, seed, among=kinds),
        "AUROC": heard.shares(np.mean(above, axis=0), seed, among=kinds),
    }


def _write_seconds(
    path: Path, subjects: Segments, shown: NDArray[np.bool_], found: NDArray[np.float32]
) -> None:
    """Write what was found of every second: a line each."""
    loud, answer = subjects.audible, found.argmax(axis=1)
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(
            ["second", "kind", "recording", "audible", "shown", "answer", "p_answer", "p_kind"]
        )
        for i, pair in enumerate(subjects.pairs):
            own = found[i, SUBJECTS.index(pair.subject)]
            lines.writerow(
                [pair.spectrogram, pair.subject, pair.video, int(loud[i]), int(shown[i]),
                 ANSWERS[answer[i]], f"{found[i, answer[i]]:.4f}", f"{own:.4f}"]
            )  # fmt: skip


# --- variety and copies, in the features that training looks through ------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Varied:
    """Two pictures of each of m sounds of one subject, and their features."""

    kind: str
    pictures: Levels
    """[2 m, 96, 96, 3], the two of a sound one after the other."""
    features: NDArray[np.float32]


def _variety_and_copies(work: _Work) -> None:
    eyes, config, report = Eyes.load(), work.config, work.report
    varied = _draw_varied(work, eyes)
    of_photos = _features(eyes, work.photos)
    report["variety"] = variety(varied, of_photos, work.photo_kinds)
    work.tell("training photos", 0, 0)
    names = [n for of in photos_of(work.everyday, work.bench, "train").values() for n in of]
    known = np.stack([read_photo(work.everyday, work.bench, name) for name in names])
    of_known = _features(eyes, known)
    made = np.concatenate([one.features for one in varied])
    drawn = np.concatenate([one.pictures for one in varied])
    copied, places, distances = copies(made, of_known)
    unseen, _, unseen_distances = copies(of_photos, of_known)
    kinds = np.repeat([one.kind for one in varied], [len(one.pictures) for one in varied])
    report["copies"] = {
        "copied": {"share": float(copied.mean()), "count": len(copied)},
        "unseen photos": {"share": float(unseen.mean()), "count": len(unseen)},
        "by kind": {one.kind: float(copied[kinds == one.kind].mean()) for one in varied},
        "median distance": float(np.median(distances)),
        "median distance of unseen photos": float(np.median(unseen_distances)),
    }
    work.figures["nearest"] = pages.save_figure(
        work.place / "nearest.png", nearest_sheet(drawn, known, places, distances, config.seed),
        "Pairs of pictures: left a generated one, right the training photo nearest to it",
        "Left what was drawn, right the nearest training photo in the eyes' features.",
    )  # fmt: skip


def _draw_varied(work: _Work, eyes: Eyes) -> list[Varied]:
    """Draw pictures of each subject: two of each sound, of as many sounds as there are."""
    found = []
    pictures, seed = work.config.varied, work.config.seed
    present = [kind for kind in SUBJECTS if kind in work.subjects.kinds]
    for done, kind in enumerate(present):
        of_kind = work.subjects.of([kind])
        mels = of_kind.mels[of_kind.audible]
        rng = np.random.default_rng((seed, done))
        if not len(mels):
            continue
        made: list[Levels] = []
        for turn in range(-(-pictures // (2 * len(mels)))):
            some = mels[np.sort(rng.permutation(len(mels))[: pictures // 2 - len(made)])]
            # Seeds that no other picture of the report has.
            first = seed + 1000 + 2 * turn
            pairs = [work.model.imagine(some, seed=first + side) for side in (0, 1)]
            made += list(np.stack(pairs, axis=1))
        drawn = np.concatenate(made)
        found.append(Varied(kind=kind, pictures=drawn, features=_features(eyes, drawn)))
        work.tell("variety", done + 1, len(present))
    return found


def _features(eyes: Eyes, pictures: Levels) -> NDArray[np.float32]:
    """Return what the eyes that training looks through see in pictures: float32 [n, 1280]."""
    parts = [np.empty((0, POOLED_SIZE), np.float32)]
    for start in range(0, len(pictures), _AT_ONCE):
        unit = torch.from_numpy(to_unit(pictures[start : start + _AT_ONCE]))
        parts.append(look(eyes, unit.permute(0, 3, 1, 2)).numpy())
    return np.concatenate(parts)


def variety(
    varied: Sequence[Varied], photos: NDArray[np.float32], photo_kinds: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Compare pictures' distances with those of photos, and count how many photos are reached.

    Args:
        varied: what was drawn.
        photos: features of photos of the split, [m, F].
        photo_kinds: their subjects.

    Returns:
        Subject (and ``mean``) -> ``of one sound``: mean distance of two draws of one sound as a
        share of that of two photos of the subject; ``of the kind``: the same of two pictures of
        the subject; ``recall``: the share of its photos that lie among as many pictures.
    """
    of = np.asarray(photo_kinds)
    found: dict[str, dict[str, float]] = {}
    for one in varied:
        real = photos[of == one.kind]
        made, apart = one.features, mean_distance(real)
        gaps = np.linalg.norm(made[::2].astype(float) - made[1::2], axis=1)
        found[one.kind] = {
            "of one sound": float(gaps.mean()) / apart,
            "of the kind": mean_distance(made) / apart,
        }
        count = min(len(real), len(made))
        if count > _FEWEST_PHOTOS:
            spread = np.linspace(0, len(made) - 1, count).round().astype(int)
            found[one.kind]["recall"] = precision_recall(real, made[spread])[1]
    keys = dict.fromkeys(key for of_kind in found.values() for key in of_kind)
    means = {
        key: float(np.mean([of_kind[key] for of_kind in found.values() if key in of_kind]))
        for key in keys
    }
    return {MEAN: means, **found}


def copies(
    made: NDArray[np.float32], train: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.float64]]:
    """Find which pictures repeat a training photo.

    Args:
        made: features [n, F] of pictures.
        train: features [m, F] of all training photos.

    Returns:
        copied: bool [n], the nearest training photo is nearer to the picture than any other
            training photo is to that photo.
        places: int64 [n], the nearest training photo.
        distances: float64 [n], to it.
    """
    places, distances = nearest(made, train)
    photos, which = np.unique(places, return_inverse=True)
    known = torch.from_numpy(train.astype(np.float64))
    apart = torch.cdist(known[photos], known)
    apart[torch.arange(len(photos)), torch.from_numpy(photos)] = torch.inf
    alone = apart.min(dim=1).values.numpy()
    return distances < alone[which], places, distances


# --- the page -------------------------------------------------------------------------------------


def _key_figures(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows, copied = report["rows"], report["copies"]["copied"]
    main = {n: rows[n] for n in (RIGHT, RECORDINGS, SHUFFLED, REAL_PHOTOS) if n in rows}
    if "refusal" in report:
        for what in (FULL_BAND, NARROW_BAND):
            main[f"{UNKNOWN_DRAWN}, {what}"] = report["refusal"][what][UNKNOWN_DRAWN]
    differ = f"{report['variety'][MEAN]['of one sound']:.2f}"
    return [
        *pages.share_tiles(main),
        ("two draws of one sound differ", differ, "of two photos' distance"),
        ("copies", f"{pages.percent(copied['share'])} %", f"of {copied['count']}"),
    ]


def _tables(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of the page by their names in the template."""
    tables: dict[str, Any] = {
        "right": pages.kind_table("Right pictures, per cent", report["rows"], SUBJECTS),
        "confusion": pages.Table(
            caption="Per cent of a subject's seconds (rows) that the judge takes for each answer",
            head=["", *ANSWERS, "refused"],
            rows=[
                [kind, *(pages.percent(share, 0) if share >= 0.005 else "" for share in row)]
                for kind, row in zip(SUBJECTS, report["confusion"], strict=True)
            ],
            shades=report["confusion"],
        ),
        "names": {
            what: pages.kind_table(
                f"{what} labelled right among 28, per cent",
                found,
                [kind for kind in KINDS if kind in found["seconds"]],
            )
            for what, found in report.get("labels", {}).items()
        },
    }
    for what in (FULL_BAND, NARROW_BAND) if "refusal" in report else ():
        rows = report["refusal"][what]
        kept = pages.per_cent(rows["known kept"][MEAN])
        table = pages.kind_table(
            f"Unknown kinds at {what}, per cent; of the known {kept} are kept",
            {name: row for name, row in rows.items() if name != "known kept"},
            [kind for kind in rows[UNKNOWN_DRAWN] if kind != MEAN],
        )
        tables.setdefault("refusal", []).append(table)
    return tables
