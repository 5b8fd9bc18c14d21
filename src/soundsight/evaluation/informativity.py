"""Informativity: the share of unknown sounds whose picture the class's judge accepts.

Fanzeres & Nadeu 2021 (arXiv 2106.01266), with what their figure lacks: a bootstrap interval over
videos (the seconds of a video are no independent sounds) and controls, without which a share says
nothing: a judge that accepts everything would call every translator informative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import DataError
from soundsight.core.units import SEGMENT_SAMPLES
from soundsight.data.vegas.bench import SUBJECTS, Bench, photo_subject
from soundsight.judges.apply import Judges, columns_of
from soundsight.judges.negatives import (
    EARLY,
    KINDS,
    EarlyPictures,
    in_early_part,
    load_early,
    make_many,
)
from soundsight.media.mel import log_mel

MEAN = "mean"
RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share in [0, 1] (a difference in [-1, 1]) with its bootstrap interval."""

    share: float
    low: float
    high: float
    count: int
    """Pictures judged."""
    videos: int
    """Videos, or other units, that were resampled."""


Shares = dict[str, Share]
"""Subject -> share, for the subjects present, and their mean under ``mean``."""


def shares(
    values: NDArray[np.generic],
    subjects: Sequence[str],
    videos: Sequence[str],
    *,
    seed: int = 0,
    by_video: bool = False,
    together: bool = False,
    resamples: int = RESAMPLES,
    among: Sequence[str] = SUBJECTS,
) -> Shares:
    """Average by class and over classes, with 95 % percentile bootstrap intervals over videos.

    In each resample every class draws as many of its videos as it has, with replacement; the mean
    over classes gives each class the same weight.

    Args:
        values: [n], accepted or not (or a difference of two such).
        subjects: n class names.
        videos: n names of what is resampled whole.
        seed: of the resampling; a class's draws do not depend on the other classes.
        by_video: average over the seconds of each video first, so that videos count the same.
        together: classes share their videos (one picture is shown to every judge): a resample draws
            videos once for all classes.
        resamples: number of bootstrap resamples.
        among: the classes, in their order.

    Returns:
        One entry a class present and ``mean``; empty without values.
    """
    of_class = np.asarray(subjects)
    names, of_video = np.unique(np.asarray(videos), return_inverse=True)
    result: Shares = {}
    points: list[float] = []
    draws: list[NDArray[np.float64]] = []
    for number, subject in enumerate(among):
        mine = of_class == subject
        if not mine.any():
            continue
        sums = np.bincount(of_video[mine], values[mine], len(names)).astype(np.float64)
        sizes = np.bincount(of_video[mine], minlength=len(names))
        present = int((sizes > 0).sum())
        if not together:
            sums, sizes = sums[sizes > 0], sizes[sizes > 0]
        if by_video:
            sums, sizes = sums / np.maximum(sizes, 1), (sizes > 0).astype(np.int64)
        rng = np.random.default_rng((seed, 0 if together else number))
        picked = rng.integers(len(sums), size=(resamples, len(sums)))
        # A resample without any video of a class says nothing of it: as the whole.
        drawn = sizes[picked].sum(axis=1)
        share = sums[picked].sum(axis=1) / np.maximum(drawn, 1)
        draws.append(np.where(drawn > 0, share, sums.sum() / sizes.sum()))
        points.append(float(sums.sum() / sizes.sum()))
        result[subject] = _share(points[-1], draws[-1], int(mine.sum()), present)
    if result:
        count = sum(share.count for share in result.values())
        units = len(names) if together else sum(share.videos for share in result.values())
        mean = float(np.mean(points))
        result[MEAN] = _share(mean, np.mean(draws, axis=0), count, units)
    return result


def shuffled(
    subjects: Sequence[str], seed: int, all_classes: Sequence[str] = SUBJECTS
) -> NDArray[np.int64] | None:
    """Give every sound the picture of a sound of another class, each picture once.

    Returns:
        int64 [n], a permutation without any class mapped to itself; None when there is none
        because one class holds more than half of the sounds.
    """
    classes = columns_of(subjects, all_classes)
    n = len(classes)
    if n == 0 or 2 * int(np.bincount(classes).max()) > n:
        return None
    rng = np.random.default_rng((seed, n))
    order = rng.permutation(n)
    while len(clashes := np.flatnonzero(classes[order] == classes)):
        # Swap a clash with a place where neither picture then lies in its own class.
        at = int(clashes[0])
        mine, theirs = classes[order[at]], classes[order]
        fits = np.flatnonzero((theirs != classes[at]) & (classes != mine))
        other = int(rng.choice(fits))
        order[[at, other]] = order[[other, at]]
    return order


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

    photos: NDArray[np.uint8]
    members: list[str]
    subjects: list[str]
    uninformative: dict[str, NDArray[np.uint8]]
    early: NDArray[np.uint8]
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
        made = [make_many(kind, by_class, own, per_kind, rng) for own in range(len(SUBJECTS))]
        uninformative[kind] = np.concatenate(made)
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
        scores: what each class's judge said of its photos and of uninformative pictures.
    """
    columns = columns_of(pictures.subjects)
    photo_scores = judges.scores(pictures.photos)
    verdicts = decide(judges, photo_scores)
    own = np.arange(len(columns)), columns
    rows = {"real photos": shares(verdicts[own], pictures.subjects, pictures.members, seed=seed)}
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
        hits = decide(judges, scores)[mine]
        rows[f"floor: {kind}"] = shares(hits, of_picture, _each(hits), seed=seed)
        of_floor.append(scores[mine].reshape(len(SUBJECTS), -1))
    if len(pictures.early):
        rows[f"floor: {EARLY}"] = _by_every_judge(
            judges, pictures.early, seed, units=pictures.early_sounds
        )
    floor = np.concatenate(of_floor, axis=1)
    return rows, ControlScores(
        photos={s: photo_scores[columns == j, j] for j, s in enumerate(SUBJECTS)},
        uninformative={s: floor[j] for j, s in enumerate(SUBJECTS)},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlScores:
    """Scores by each class's own judge, for curves: class -> float32 [n]."""

    photos: dict[str, NDArray[np.float32]]
    uninformative: dict[str, NDArray[np.float32]]
    """All kinds made from photos, together."""


def decide(judges: Judges, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which judges accept, bool [n, 5], from their scores, float32 [n, 5]."""
    thresholds = np.array([judges.thresholds[s] for s in SUBJECTS], dtype=np.float32)
    accepted: NDArray[np.bool_] = scores >= thresholds
    return accepted


def sound_control(
    judges: Judges,
    pictures: NDArray[np.uint8],
    *,
    shown: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> Shares:
    """Ask every judge about pictures that show nothing by right (of silence, of white noise).

    Args:
        judges: the judges.
        pictures: uint8 [n, 96, 96, 3].
        shown: bool [n], pictures that the program would show; a hidden one is accepted by nobody.
        seed: of the intervals.

    Returns:
        For each class the share of the n pictures that are shown and that its judge accepts.
    """
    return _by_every_judge(judges, pictures, seed, shown)


def white_noise_mels(count: int, seed: int) -> NDArray[np.uint8]:
    """Return the log-mels of ``count`` seconds of white noise: uint8 [count, 128, 100]."""
    rng = np.random.default_rng((seed, 1))
    sounds = 0.1 * rng.standard_normal((count, SEGMENT_SAMPLES)).astype(np.float32)
    return np.stack([log_mel(sound) for sound in sounds])


def _by_every_judge(
    judges: Judges,
    pictures: NDArray[np.uint8],
    seed: int,
    shown: NDArray[np.bool_] | None = None,
    units: NDArray[np.int64] | None = None,
) -> Shares:
    """Show every picture to every judge; ``units`` [n] names what is resampled whole."""
    verdicts = judges.verdicts(pictures)
    if shown is not None:
        verdicts = verdicts & shown[:, None]
    of_picture = [subject for _ in pictures for subject in SUBJECTS]
    each = np.arange(len(pictures)) if units is None else units
    names = np.repeat(each, len(SUBJECTS)).astype(str).tolist()
    return shares(verdicts.reshape(-1), of_picture, names, seed=seed, together=True)


def _each(values: NDArray[np.bool_]) -> list[str]:
    return np.arange(len(values)).astype(str).tolist()


def _share(point: float, draws: NDArray[np.float64], count: int, videos: int) -> Share:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Share(share=point, low=float(low), high=float(high), count=count, videos=videos)
