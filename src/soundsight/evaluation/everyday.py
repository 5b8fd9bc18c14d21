"""A translator measured on Everyday: does the picture of an unknown sound show what sounded?

One judge of 23 answers (``judges.everyday``) says what each picture shows. The first picture
drawn of a second counts; a second that the program would not draw counts as wrong. Shares are means
over kinds, so that a kind of ten seconds weighs as much as one of a thousand, with a bootstrap over
recordings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from soundsight.core.config import check_values
from soundsight.core.draws import item_of
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.progress import Progress
from soundsight.core.state import is_out_of_distribution
from soundsight.core.units import to_unit
from soundsight.data.everyday import folder as data
from soundsight.data.everyday.folder import ALERTS, KINDS, SUBJECTS, Everyday
from soundsight.data.everyday.sounds import audible
from soundsight.data.vegas.bench import Bench
from soundsight.evaluation import blind, metrics, segments
from soundsight.evaluation import figures as charts
from soundsight.evaluation import report as pages
from soundsight.evaluation.bench import control_mels, draw_pictures, draw_with_seeds
from soundsight.evaluation.fidelity import fidelity, mean_distance, nearest, precision_recall
from soundsight.evaluation.metrics import MEAN, Shares, as_json
from soundsight.evaluation.segments import REAL_PHOTOS, SHUFFLED, Segments
from soundsight.judges.everyday import ANSWERS, PhotoJudge, as_any_subject, uninformative, verdicts
from soundsight.judges.pictures import columns_of
from soundsight.models.eyes import POOLED_SIZE, Eyes
from soundsight.runtime.surest import SurestSeconds, mean_embedding
from soundsight.runtime.translator import Translator
from soundsight.training.ears_data import look

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
Features = NDArray[np.float32]
Scored = tuple[NDArray[np.float32], Segments]
"""Ood scores [n] of n seconds, and the seconds."""


class TranslatorModel(Translator):
    """A model folder as the runtime draws from it, and what is asked of it here alone."""

    def imagine_recording(self, mels: Levels, *, seed: int = 0) -> Levels:
        """Draw one picture, uint8 [96, 96, 3], of all seconds of a recording, whatever they are."""
        seconds = [self.recognise(mel, of=mel) for mel in mels[audible(mels)]]
        limits = self.info.thresholds
        known = [s for s in seconds if not is_out_of_distribution(s.ood_score, limits)]
        surest = SurestSeconds()
        # Of a recording that would not be drawn there is a picture all the same.
        for second in known or seconds or [self.recognise(mels[0], of=mels[0])]:
            surest.take(second)
        chosen = surest.of_kind(surest.kind)
        return self.draw(mean_embedding(chosen), [item_of(chosen[0].of)], seed)[0]

    def label_probabilities(self, mels: Levels) -> NDArray[np.float32] | None:
        """Return how likely each of ``KINDS`` is, float32 [n, 28]; None without labels."""
        if self.label_head is None:
            return None
        probabilities = self.label_head.probabilities(self.embed(to_unit(mels)[:, None])[0])
        found = np.zeros((len(mels), len(KINDS)), np.float32)
        for column, name in enumerate(self.label_head.labels):
            if (kind := kind_of(name)) is not None:
                found[:, KINDS.index(kind)] = probabilities[:, column]
        return found


def kind_of(label: str) -> str | None:
    """Return which kind a model's label means, such as ``baby`` for "baby crying"."""
    for kind, words_for_people in data.WORDS.items():
        if label == words_for_people:
            return kind
    words = label.lower().replace(" ", "_")
    return next((k for k in (words, words.split("_")[0]) if k in KINDS), None)


@dataclass(frozen=True, kw_only=True)
class EverydayConfig:
    """What is measured, and with which seed."""

    split: str = "devtest"
    seed: int = 0
    limit: int | None = None  #: at most so many seconds a kind; None = all
    #: write a sheet for blind viewing, three pictures a subject, a form and the key
    blind_sheet: bool = False
    varied: int = 200  #: pictures of each subject that variety and recall look at
    made_per_kind: int = 220  #: uninformative pictures of each kind

    def __post_init__(self) -> None:
        pages.check_split(self.split)
        check_values(self, at_least_1="made_per_kind")
        if self.varied < 4:
            raise ConfigError("varied must be at least 4")


def evaluate_everyday(
    model: TranslatorModel,
    judge: PhotoJudge,
    everyday: Everyday,
    bench: Bench,
    out: Path,
    config: EverydayConfig,
    *,
    about: Mapping[str, Any],
    command: str = "",
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure a model on Everyday's unknown sounds, and the bench's, and write the report.

    The folder ``out`` appears whole or not at all, in place of an earlier report.

    Args:
        about: what names the model in the report.
        command: how this was started, for the report.

    Returns:
        What report.json holds.

    Raises:
        DataError: when sounds or photos are missing or damaged.
        OutputError: when ``out`` cannot be written to, holds something else or filled-in answers.
    """
    progress("hearing", 0, 0)
    split, seed = config.split, config.seed
    sounds = segments.known_segments(everyday, bench, split, limit=config.limit, seed=seed)
    subjects, names = sounds.of(SUBJECTS), everyday.photos(split)
    if missing := [s for s in SUBJECTS if s not in subjects.kinds]:
        raise DataError(f"{split} has no sounds of {', '.join(missing)}")
    on_sheet = segments.shown_seconds(subjects.pairs, _SHOWN_A_KIND, seed, SUBJECTS)
    hidden: list[int] = []
    if config.blind_sheet:
        hidden = segments.blind_seconds(subjects.pairs, _BLIND_A_KIND, seed, on_sheet, SUBJECTS)
    report: dict[str, Any] = {
        "kind": KIND,
        "report_version": REPORT_VERSION,
        "model": dict(about),
        "judge": judge.about,
        "settings": asdict(config) | metrics.INTERVALS,
        "sounds": {kind: sounds.kinds.count(kind) for kind in KINDS},
        "left_out": [],
    }
    with pages.report_folder(out) as place:
        work = _Measurement(
            model, judge, everyday, bench, config, progress, sounds, subjects, place, report,
            photos=np.stack([everyday.photo(name) for name in names]), photo_names=names,
            photo_kinds=[name.split("/")[0] for name in names], on_sheet=on_sheet, hidden=hidden,
        )  # fmt: skip
        work.right_pictures()
        report["controls"] = work.controls()
        work.labels()
        work.refusal()
        work.variety_and_copies()
        title = f"Report on {report['model'].get('name', 'the model')}: everyday sounds"
        pages.write_report(
            place, "everyday", title, report, work.figures, command,
            kinds=list(SUBJECTS), answers=list(ANSWERS),
        )  # fmt: skip
    return report


@dataclass(eq=False)
class _Measurement:
    """What the steps share; each adds to the report and its figures."""

    model: TranslatorModel
    judge: PhotoJudge
    everyday: Everyday
    bench: Bench
    config: EverydayConfig
    progress: Progress
    sounds: Segments  #: seconds of all 28 kinds
    subjects: Segments  #: those of the 22 that are drawn
    place: Path
    report: dict[str, Any]
    photos: Levels
    photo_names: list[str]
    photo_kinds: list[str]
    on_sheet: list[int]  #: places of the seconds that are shown
    hidden: list[int]  #: and of those on the blind sheet
    figures: dict[str, pages.Figure] = field(default_factory=dict)

    def right_pictures(self) -> None:
        """Draw and judge every second and recording, and show some."""
        judge, subjects, seed = self.judge, self.subjects, self.config.seed
        pictures = draw_pictures(self.model, subjects.mels, seed, self.progress)
        shown = self.model.draws(subjects.mels)
        self.progress("judging", 0, 0)
        features, of_photos = judge.look(pictures), judge.look(self.photos)
        found = judge.read(features)
        rows = right_rows(found, shown, subjects, seed)
        rows[RECORDINGS] = self._recordings()
        if (order := metrics.shuffled(subjects.kinds, seed, SUBJECTS)) is not None:
            hits = verdicts(found[order], subjects.kinds)[1] & shown[order]
            rows[SHUFFLED] = subjects.shares(hits, seed, among=SUBJECTS)
        right = verdicts(judge.read(of_photos), self.photo_kinds)[1]
        rows[REAL_PHOTOS] = metrics.shares(
            right, self.photo_kinds, self.photo_names, seed=seed, among=SUBJECTS
        )
        self.report["rows"] = as_json(rows)
        self.report["confusion"] = confusion(found, shown, subjects.kinds)
        self.report["kid"] = fidelity(
            features, of_photos, subjects.kinds, self.photo_kinds, seed=seed, classes=SUBJECTS
        )
        _write_seconds(self.place / "seconds.csv", subjects, shown, found)
        some = self.on_sheet
        kinds = [subjects.kinds[i] for i in some]
        judged = pictures[some], verdicts(found[some], kinds)[1], shown[some]
        sheet = charts.sheet(subjects.mels[some], {"": judged}, kinds, SUBJECTS)
        first = dict(zip(kinds[::-1], some[::-1], strict=True))
        seeds = {
            kind: np.repeat(subjects.mels[first[kind]][None], _SEEDS, axis=0) for kind in SUBJECTS
        }
        drawn = {kind: draw_with_seeds(self.model, mels, seed) for kind, mels in seeds.items()}
        for name, made in (("kinds.png", sheet), ("seeds.png", charts.seeds_sheet(drawn))):
            self.figures[name] = pages.save_figure(self.place / name, made)
        if self.hidden:
            levels = blind.write_sheet(self.place, pictures, subjects, shown, self.hidden, SUBJECTS)
            self.figures[blind.SHEET] = pages.photograph(blind.SHEET, levels)

    def _recordings(self) -> Shares:
        """Draw one picture of each recording; refused where none of its seconds is shown."""
        seed = self.config.seed
        whole: dict[tuple[str, str], list[int]] = {}
        for place, pair in enumerate(self.subjects.pairs):
            whole.setdefault((pair.subject, pair.video), []).append(place)
        of_each = [self.subjects.mels[places] for places in whole.values()]
        pictures = np.stack([self.model.imagine_recording(mels, seed=seed) for mels in of_each])
        shown = np.array([self.model.draws(mels).any() for mels in of_each])
        kinds, units = [kind for kind, _ in whole], [" ".join(names) for names in whole]
        right = verdicts(self.judge.probabilities(pictures), kinds)[1]
        return metrics.shares(right & shown, kinds, units, seed=seed, among=SUBJECTS)

    def controls(self) -> dict[str, dict[str, float]]:
        """Show the judge what shows nothing: shares accepted as some subject, and shown."""
        of, seed = np.asarray(self.photo_kinds), self.config.seed
        by_subject = [self.photos[of == subject] for subject in SUBJECTS]
        rng = np.random.default_rng((seed, 5))
        rows = {}
        for kind, made in uninformative(by_subject, self.config.made_per_kind, rng).items():
            found = self.judge.probabilities(made)
            rows[f"uninformative: {kind}"] = {
                "accepted": float(as_any_subject(found).mean()),
                "said to be nothing": float((found.argmax(axis=1) == len(SUBJECTS)).mean()),
            }
        for name, mels in control_mels(seed).items():
            pictures = draw_with_seeds(self.model, mels, seed)
            accepted = as_any_subject(self.judge.probabilities(pictures))
            shown = self.model.draws(mels)
            rows[name] = {
                "accepted": float(accepted.mean()),
                "shown": float(shown.mean()),
                "shown and accepted": float((accepted & shown).mean()),
            }
        return rows

    def labels(self) -> None:
        """Count how often seconds, and recordings by their mean, are labelled right among 28."""
        found = self.model.label_probabilities(self.sounds.mels)
        if found is None:
            self.report["left_out"].append("Labels: the model has none.")
            return
        self.report["labels"] = {}
        for what, kinds in (("28 kinds", KINDS), ("22 subjects", SUBJECTS), ("alerts", ALERTS)):
            part, rows = self.sounds.of(kinds), found[np.isin(self.sounds.kinds, kinds)]
            accuracy = metrics.classify(
                rows, part.kinds, part.recordings,
                seed=self.config.seed, classes=KINDS, among=kinds,
            )  # fmt: skip
            units = {"seconds": accuracy.seconds, "recordings": accuracy.videos}
            self.report["labels"][what] = as_json(units)

    def refusal(self) -> None:
        """Count how unknown sounds are told from known ones, at full band and at 8 kHz."""
        self.progress("unknown sounds", 0, 0)
        model, config = self.model, self.config
        of_known = model.ood_scores(self.sounds.mels)
        if np.isnan(of_known).any():
            why = "Refusal: the model cannot say how well it knows a sound."
            self.report["left_out"].append(why)
            return

        def known(split: str, narrow: bool) -> Scored:
            if split == config.split and not narrow:
                return of_known, self.sounds
            found = segments.known_segments(
                self.everyday, self.bench, split,
                limit=config.limit, seed=config.seed, narrow=narrow,
            )  # fmt: skip
            return model.ood_scores(found.mels), found

        threshold = threshold_that_keeps(*known("val", False))
        self.report["refusal"] = {"threshold": threshold}
        for what, narrow in ((FULL_BAND, False), (NARROW_BAND, True)):
            others = segments.other_segments(self.everyday, config.split, narrow=narrow)
            scored = model.ood_scores(others.mels), others
            rows = refusal_rows(known(config.split, narrow), scored, threshold, config.seed)
            rows[UNKNOWN_DRAWN_AS_SET] = others.shares(
                model.draws(others.mels), config.seed, among=list(dict.fromkeys(others.kinds))
            )
            self.report["refusal"][what] = as_json(rows)

    def variety_and_copies(self) -> None:
        """Compare pictures with photos in the features that training looks through."""
        eyes = Eyes.load()
        drawn = self._draw_varied()
        features = {kind: _features(eyes, of_kind) for kind, of_kind in drawn.items()}
        of_photos = _features(eyes, self.photos)
        self.report["variety"] = variety(features, of_photos, self.photo_kinds)
        self.progress("training photos", 0, 0)
        of_train = data.photos_of(self.everyday, self.bench, "train").values()
        known = np.stack(
            [data.read_photo(self.everyday, self.bench, n) for names in of_train for n in names]
        )
        of_known = _features(eyes, known)
        copied, places, distances = copies(np.concatenate(list(features.values())), of_known)
        unseen, _, unseen_distances = copies(of_photos, of_known)
        kinds = np.repeat(list(drawn), [len(of_kind) for of_kind in drawn.values()])
        self.report["copies"] = {
            "copied": {"share": float(copied.mean()), "count": len(copied)},
            "unseen photos": {"share": float(unseen.mean()), "count": len(unseen)},
            "by kind": {kind: float(copied[kinds == kind].mean()) for kind in drawn},
            "median distance": float(np.median(distances)),
            "median distance of unseen photos": float(np.median(unseen_distances)),
        }
        pictures = np.concatenate(list(drawn.values()))
        sheet = charts.nearest_sheet(pictures, known, places, distances, self.config.seed)
        self.figures["nearest.png"] = pages.save_figure(self.place / "nearest.png", sheet)

    def _draw_varied(self) -> dict[str, Levels]:
        """Draw pictures of each subject: two of each sound, one after the other."""
        found, half = {}, self.config.varied // 2
        for done, kind in enumerate(SUBJECTS):
            of_kind = self.subjects.of([kind])
            mels = of_kind.mels[of_kind.audible]
            rng = np.random.default_rng((self.config.seed, done))
            if not len(mels):
                continue
            made: list[Levels] = []
            for turn in range(-(-self.config.varied // (2 * len(mels)))):
                some = mels[np.sort(rng.permutation(len(mels))[: half - len(made)])]
                # Seeds that no other picture of the report has.
                first = self.config.seed + 1000 + 2 * turn
                pairs = [self.model.imagine(some, seed=first + side) for side in (0, 1)]
                made += list(np.stack(pairs, axis=1))
            found[kind] = np.concatenate(made)
            self.progress("variety", done + 1, len(SUBJECTS))
        return found


def right_rows(
    found: NDArray[np.float32], shown: NDArray[np.bool_], sounds: Segments, seed: int
) -> dict[str, Shares]:
    """Average what the judge says of pictures, float32 [n, 23], of the seconds of subjects."""
    named, sure = verdicts(found, sounds.kinds)
    rows = {
        RIGHT: (sure & shown, None),
        "likeliest answer right": (named & shown, None),
        NOTHING_REFUSED: (sure, None),
        "right, audible seconds": (sure & shown, sounds.audible),
        "refused": (~shown, None),
    }
    return {
        name: sounds.shares(values, seed, kept, among=SUBJECTS)
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


def threshold_that_keeps(
    ood_score: NDArray[np.float32], sounds: Segments, share: float = KEPT
) -> float:
    """Return the ood score that ``share`` of the known seconds stay under, kinds weighing alike."""
    _, own, counts = np.unique(sounds.kinds, return_inverse=True, return_counts=True)
    weight = 1.0 / counts[own]
    order = np.argsort(-ood_score, kind="stable")
    lost = np.cumsum(weight[order]) / weight.sum()
    return float(ood_score[order][np.searchsorted(lost, 1.0 - share)])


def refusal_rows(known: Scored, others: Scored, threshold: float, seed: int) -> dict[str, Shares]:
    """Count how well the ood score, up to whose ``threshold`` is drawn, tells unknown from known.

    Returns:
        ``known kept`` and ``unknown drawn`` (inaudible seconds are never drawn), and ``AUROC``: how
        often an unknown second scores higher than a known one, of each unknown kind.
    """
    score, sounds = others
    kinds = list(dict.fromkeys(sounds.kinds))
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
        UNKNOWN_DRAWN: sounds.shares((score <= threshold) & sounds.audible, seed, among=kinds),
        "AUROC": sounds.shares(np.mean(above, axis=0), seed, among=kinds),
    }


def _write_seconds(
    path: Path, subjects: Segments, shown: NDArray[np.bool_], found: NDArray[np.float32]
) -> None:
    """Write what was found of every second: a line each."""
    loud, answer = subjects.audible, found.argmax(axis=1)
    own = found[np.arange(len(found)), columns_of(subjects.kinds, SUBJECTS)]
    segments.write_csv(
        path,
        ["second", "kind", "recording", "audible", "shown", "answer", "p_answer", "p_kind"],
        (
            [pair.spectrogram, pair.subject, pair.video, int(loud[i]), int(shown[i]),
             ANSWERS[answer[i]], f"{found[i, answer[i]]:.4f}", f"{own[i]:.4f}"]
            for i, pair in enumerate(subjects.pairs)
        ),
    )  # fmt: skip


def _features(eyes: Eyes, pictures: Levels) -> Features:
    """Return what the eyes that training looks through see in pictures: float32 [n, 1280]."""
    parts = [np.empty((0, POOLED_SIZE), np.float32)]
    for start in range(0, len(pictures), _AT_ONCE):
        unit = torch.from_numpy(to_unit(pictures[start : start + _AT_ONCE]))
        parts.append(look(eyes, unit.permute(0, 3, 1, 2)).numpy())
    return np.concatenate(parts)


def variety(
    drawn: Mapping[str, Features], photos: Features, photo_kinds: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Compare pictures' distances with those of photos, and count how many photos are reached.

    ``drawn`` are features [2 m, F] of each subject, two of a sound one after the other.

    Returns:
        Subject (and ``mean``) -> ``of one sound``: mean distance of two draws of one sound as a
        share of that of two photos of the subject; ``of the kind``: the same of two pictures of
        the subject; ``recall``: the share of its photos that lie among as many pictures.
    """
    of = np.asarray(photo_kinds)
    found: dict[str, dict[str, float]] = {}
    for kind, made in drawn.items():
        real = photos[of == kind]
        apart = mean_distance(real)
        gaps = np.linalg.norm(made[::2].astype(float) - made[1::2], axis=1)
        found[kind] = {
            "of one sound": float(gaps.mean()) / apart,
            "of the kind": mean_distance(made) / apart,
        }
        count = min(len(real), len(made))
        if count > _FEWEST_PHOTOS:
            spread = np.linspace(0, len(made) - 1, count).round().astype(int)
            found[kind]["recall"] = precision_recall(real, made[spread])[1]
    keys = dict.fromkeys(key for of_kind in found.values() for key in of_kind)
    means = {
        key: float(np.mean([of_kind[key] for of_kind in found.values() if key in of_kind]))
        for key in keys
    }
    return {MEAN: means, **found}


def copies(
    made: Features, train: Features
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.float64]]:
    """Find which pictures, of features [n, F], repeat one of all training photos, [m, F].

    Returns:
        copied: bool [n], the nearest training photo is nearer to the picture than any other
            training photo is to that photo.
        places, distances: [n], of the nearest training photo.
    """
    places, distances = nearest(made, train)
    photos, which = np.unique(places, return_inverse=True)
    known = torch.from_numpy(train.astype(np.float64))
    apart = torch.cdist(known[photos], known)
    apart[torch.arange(len(photos)), torch.from_numpy(photos)] = torch.inf
    alone = apart.min(dim=1).values.numpy()
    return distances < alone[which], places, distances
