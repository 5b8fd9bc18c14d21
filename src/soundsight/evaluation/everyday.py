"""A translator measured on Everyday: does the picture of an unknown sound show what sounded?

One judge of 23 answers (``judges.everyday``) says what each picture shows. The first picture
drawn of a second counts; a second that the program would not draw counts as wrong. Shares are means
over kinds, so that a kind of ten seconds weighs as much as one of a thousand, with a bootstrap over
recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from soundsight.core.draws import item_of
from soundsight.core.errors import DataError
from soundsight.core.state import is_unfamiliar
from soundsight.core.units import to_unit
from soundsight.data.everyday.folder import (
    BENCH_PREFIX,
    KINDS,
    SUBJECTS,
    WORDS,
    Everyday,
    bench_kind,
    photos_of,
    read_photo,
)
from soundsight.data.everyday.sounds import audible, darkened, hear
from soundsight.data.vegas.bench import Bench, Pair
from soundsight.evaluation.choice import measured_seconds
from soundsight.evaluation.ears import NARROW_HZ
from soundsight.evaluation.fidelity import mean_distance, nearest, precision_recall
from soundsight.evaluation.informativity import Shares, shares
from soundsight.judges.apply import columns_of
from soundsight.judges.everyday import (
    ACCEPTED_FROM,
    ANSWERS,
    PhotoJudge,
    mean_of_kinds,
    verdicts,
)
from soundsight.models.eyes import POOLED_SIZE, Eyes
from soundsight.runtime.surest import SurestSeconds, mean_embedding
from soundsight.runtime.translator import Translator
from soundsight.training.photo_features import look

KEPT = 0.9
"""Share of the known seconds of val that the threshold of refusal keeps."""


_AT_ONCE = 64

Levels = NDArray[np.uint8]
Tell = Callable[[str, int, int], None]


class Model(Protocol):
    """What is measured."""

    def draw(self, mels: Levels, *, draws: int = 1, seed: int = 0) -> Levels:
        """Draw uint8 [n * draws, 96, 96, 3] of log-mels uint8 [n, 128, 100], whatever they are."""
        ...

    def draw_recording(self, mels: Levels, *, seed: int = 0) -> Levels:
        """Draw one picture, uint8 [96, 96, 3], of all seconds of a recording."""
        ...

    def draws(self, mels: Levels) -> NDArray[np.bool_]:
        """Say which sounds the program would draw: bool [n]."""
        ...

    def familiarity(self, mels: Levels) -> NDArray[np.float32]:
        """Return how well each sound is known, float32 [n]; NaN where the model cannot say."""
        ...

    def names(self, mels: Levels) -> NDArray[np.float32] | None:
        """Return how likely each of ``KINDS`` is, float32 [n, 28]; None without names."""
        ...


class TranslatorModel:
    """A model folder, as the runtime draws from it.

    Args:
        translator: of the folder.
    """

    def __init__(self, translator: Translator) -> None:
        self.translator = translator

    def draw(self, mels: Levels, *, draws: int = 1, seed: int = 0) -> Levels:
        return self.translator.imagine(mels, draws=draws, seed=seed)

    def draw_recording(self, mels: Levels, *, seed: int = 0) -> Levels:
        thresholds = self.translator.info.thresholds
        heard = [replace(self.translator.hear(mel), of=mel) for mel in mels[audible(mels)]]
        known = [one for one in heard if not is_unfamiliar(one.familiarity, thresholds)]
        surest = SurestSeconds()
        # Of a recording that would not be drawn there is a picture all the same.
        for second in known or heard or [replace(self.translator.hear(mels[0]), of=mels[0])]:
            surest.take(second)
        chosen = surest.of_kind(surest.kind)
        return self.translator.draw(mean_embedding(chosen), [item_of(chosen[0].of)], seed)[0]

    def draws(self, mels: Levels) -> NDArray[np.bool_]:
        return self.translator.draws(mels)

    def familiarity(self, mels: Levels) -> NDArray[np.float32]:
        return self.translator.familiarity(mels)

    def names(self, mels: Levels) -> NDArray[np.float32] | None:
        known = self.translator.names
        if known is None:
            return None
        embeddings, _ = self.translator.session.embed(to_unit(mels)[:, None])
        said = known.probabilities(embeddings)
        found = np.zeros((len(mels), len(KINDS)), np.float32)
        for column, name in enumerate(known.names):
            if (kind := kind_of(name)) is not None:
                found[:, KINDS.index(kind)] = said[:, column]
        return found


def kind_of(name: str) -> str | None:
    """Return which kind a model's word means, such as ``baby`` for "baby crying"."""
    for kind, words_for_people in WORDS.items():
        if name == words_for_people:
            return kind
    words = name.lower().replace(" ", "_")
    return next((k for k in (words, words.split("_")[0]) if k in KINDS), None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Heard:
    """n seconds: what each is, in the form of the bench's pairs (without a photo), and log-mels."""

    pairs: list[Pair]
    mels: Levels

    @property
    def kinds(self) -> list[str]:
        return [pair.subject for pair in self.pairs]

    @property
    def recordings(self) -> list[str]:
        return [pair.video for pair in self.pairs]

    def where(self, kept: NDArray[np.bool_]) -> Heard:
        """Return some of them."""
        pairs = [pair for pair, keep in zip(self.pairs, kept, strict=True) if keep]
        return Heard(pairs=pairs, mels=self.mels[kept])

    def of(self, kinds: Sequence[str]) -> Heard:
        """Return those of some kinds."""
        return self.where(np.isin(self.kinds, kinds))


def known_seconds(
    everyday: Everyday,
    bench: Bench,
    split: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    narrow: bool = False,
) -> Heard:
    """Hear every second of a split's 28 kinds, those of the bench among them.

    Args:
        everyday: waveforms.
        bench: spectrograms of five subjects.
        split: ``val`` or ``devtest``.
        limit: at most so many seconds a kind, chosen by the seed.
        seed: see ``limit``.
        narrow: as if recorded at ``NARROW_HZ``; a spectrogram loses its bands above the half of it.

    Raises:
        DataError: when a sound is missing or damaged.
    """
    sounds = everyday.sounds(split)
    found = hear(everyday, sounds, narrow_hz=NARROW_HZ if narrow else None)
    pairs = [
        _pair(split, sounds[i].kind, sounds[i].recording, f"{sounds[i].file}@{first}")
        for i, first in zip(found.sound, found.first, strict=True)
    ]
    of_bench = bench.pairs(split)
    pairs += [
        _pair(split, bench_kind(pair.subject), BENCH_PREFIX + pair.video,
              BENCH_PREFIX + pair.spectrogram)
        for pair in of_bench
    ]  # fmt: skip
    mels = np.stack([bench.spectrogram(pair.spectrogram) for pair in of_bench])
    if narrow:
        mels = darkened(mels, NARROW_HZ / 2)
    heard = Heard(pairs=pairs, mels=np.concatenate([found.mels, mels]))
    kept = {pair.spectrogram for pair in measured_seconds(pairs, limit, seed, KINDS)}
    return heard.where(np.array([pair.spectrogram in kept for pair in pairs]))


def other_seconds(everyday: Everyday, split: str, *, narrow: bool = False) -> Heard:
    """Hear every second of a split's sounds that are of none of the kinds.

    Raises:
        DataError: when a sound is missing or damaged.
    """
    sounds = everyday.others(split)
    found = hear(everyday, sounds, narrow_hz=NARROW_HZ if narrow else None)
    pairs = [
        _pair(split, sounds[i].kind, sounds[i].recording, f"{sounds[i].file}@{first}")
        for i, first in zip(found.sound, found.first, strict=True)
    ]
    return Heard(pairs=pairs, mels=found.mels)


def _pair(split: str, kind: str, recording: str, name: str) -> Pair:
    return Pair(split=split, subject=kind, video=recording, window=0, spectrogram=name, photo="")


def drawn_of(model: Model, mels: Levels, seed: int, tell: Tell, what: str) -> Levels:
    """Draw the first picture of each second: uint8 [n, 96, 96, 3]."""
    parts = []
    for start in range(0, len(mels), _AT_ONCE):
        parts.append(model.draw(mels[start : start + _AT_ONCE], seed=seed))
        tell(what, min(start + _AT_ONCE, len(mels)), len(mels))
    return np.concatenate(parts)


def recordings_of(heard: Heard) -> list[tuple[str, str, NDArray[np.int64]]]:
    """Return (kind, recording, places of its seconds) of every recording."""
    found: dict[tuple[str, str], list[int]] = {}
    for place, pair in enumerate(heard.pairs):
        found.setdefault((pair.subject, pair.video), []).append(place)
    return [(kind, name, np.array(places)) for (kind, name), places in found.items()]


def right_rows(
    said: NDArray[np.float32], shown: NDArray[np.bool_], heard: Heard, seed: int
) -> dict[str, Shares]:
    """Average what the judge says of pictures, float32 [n, 23], of the seconds of subjects."""
    named, sure = verdicts(said, heard.kinds)
    loud = audible(heard.mels)
    rows = {
        "right": (sure & shown, None),
        "likeliest answer right": (named & shown, None),
        "right, nothing refused": (sure, None),
        "right, audible seconds": (sure & shown, loud),
        "refused": (~shown, None),
    }
    found = {}
    for name, (values, kept) in rows.items():
        part = heard if kept is None else heard.where(kept)
        values = values if kept is None else values[kept]
        found[name] = shares(values, part.kinds, part.recordings, seed=seed, among=SUBJECTS)
    return found


def confusion(
    said: NDArray[np.float32], shown: NDArray[np.bool_], kinds: Sequence[str]
) -> list[list[float]]:
    """Return how often each subject becomes which answer, or is refused: 22 rows of 24 shares."""
    answers = np.where(shown, said.argmax(axis=1), len(ANSWERS))
    own = columns_of(kinds, SUBJECTS)
    counts = np.zeros((len(SUBJECTS), len(ANSWERS) + 1))
    np.add.at(counts, (own, answers), 1.0)
    return (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)).tolist()


def names_rows(
    said: NDArray[np.float32], heard: Heard, kinds: Sequence[str], seed: int
) -> dict[str, Shares]:
    """Say how often seconds and recordings of ``kinds`` are named right, among all 28.

    Args:
        said: probabilities float32 [n, 28].
        heard: the n seconds.
        kinds: those that are averaged.
        seed: of the intervals.
    """
    own = columns_of(heard.kinds, KINDS)
    right = said.argmax(axis=1) == own
    kept = np.isin(heard.kinds, kinds)
    part = heard.where(kept)
    whole = [
        (kind, name, said[places].mean(axis=0).argmax() == KINDS.index(kind))
        for kind, name, places in recordings_of(heard)
        if kind in kinds
    ]
    names = [f"{kind} {name}" for kind, name, _ in whole]
    return {
        "seconds": shares(right[kept], part.kinds, part.recordings, seed=seed, among=kinds),
        "recordings": shares(
            np.array([hit for _, _, hit in whole]), [kind for kind, _, _ in whole], names,
            seed=seed, among=kinds,
        ),
    }  # fmt: skip


def threshold_that_keeps(
    familiarity: NDArray[np.float32], heard: Heard, share: float = KEPT
) -> float:
    """Return the familiarity that ``share`` of the known seconds reach, kinds weighing the same."""
    kinds = np.asarray(heard.kinds)
    order = np.argsort(familiarity, kind="stable")
    weight = np.zeros(len(kinds))
    for kind in np.unique(kinds):
        weight[kinds == kind] = 1.0 / (kinds == kind).sum()
    lost = np.cumsum(weight[order]) / weight.sum()
    return float(familiarity[order][np.searchsorted(lost, 1.0 - share)])


def refusal_rows(
    known: tuple[NDArray[np.float32], Heard],
    others: tuple[NDArray[np.float32], Heard],
    threshold: float,
    seed: int,
) -> dict[str, Shares]:
    """Say how well familiarity tells unknown sounds from known ones.

    Args:
        known: familiarity of known seconds, and the seconds.
        others: the same of unknown ones.
        threshold: from which on a second is drawn.
        seed: of the intervals.

    Returns:
        ``known kept`` and ``unknown drawn`` (inaudible seconds are never drawn), and ``AUROC``: how
        often an unknown second is less familiar than a known one, of each unknown kind.
    """
    score, heard = others
    kinds = list(dict.fromkeys(heard.kinds))
    kept = (known[0] >= threshold) & audible(known[1].mels)
    of_known = np.asarray(known[1].kinds)
    below = []
    for kind in np.unique(of_known):
        of = np.sort(known[0][of_known == kind])
        under, upto = (np.searchsorted(of, score, side=side) for side in ("left", "right"))
        below.append(1.0 - (under + upto) / (2.0 * len(of)))
    drawn = (score >= threshold) & audible(heard.mels)
    return {
        "known kept": shares(kept, known[1].kinds, known[1].recordings, seed=seed, among=KINDS),
        "unknown drawn": shares(drawn, heard.kinds, heard.recordings, seed=seed, among=kinds),
        "AUROC": shares(
            np.mean(below, axis=0), heard.kinds, heard.recordings, seed=seed, among=kinds
        ),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Varied:
    """Two pictures of each of m sounds of one subject, and what the eyes see in them."""

    kind: str
    pictures: Levels
    """[2 m, 96, 96, 3], the two of a sound one after the other."""
    features: NDArray[np.float32]


def draw_varied(
    model: Model, heard: Heard, eyes: Eyes, pictures: int, seed: int, tell: Tell
) -> list[Varied]:
    """Draw ``pictures`` of each subject: two of each sound, of as many sounds as there are."""
    found = []
    present = [kind for kind in SUBJECTS if kind in heard.kinds]
    for done, kind in enumerate(present):
        mels = heard.of([kind]).where(audible(heard.of([kind]).mels)).mels
        rng = np.random.default_rng((seed, done))
        if not len(mels):
            continue
        made: list[Levels] = []
        for turn in range(-(-pictures // (2 * len(mels)))):
            some = mels[np.sort(rng.permutation(len(mels))[: pictures // 2 - len(made)])]
            # Seeds that no other picture of the report has.
            pairs = [model.draw(some, seed=seed + 1000 + 2 * turn + side) for side in (0, 1)]
            made += list(np.stack(pairs, axis=1))
        drawn = np.concatenate(made)
        found.append(Varied(kind=kind, pictures=drawn, features=eyes_features(eyes, drawn)))
        tell("variety", done + 1, len(present))
    return found


def eyes_features(eyes: Eyes, pictures: Levels) -> NDArray[np.float32]:
    """Return what the eyes that training looks through see in pictures: float32 [n, 1280]."""
    parts = [np.empty((0, POOLED_SIZE), np.float32)]
    for start in range(0, len(pictures), _AT_ONCE):
        unit = torch.from_numpy(to_unit(pictures[start : start + _AT_ONCE]))
        parts.append(look(eyes, unit.permute(0, 3, 1, 2)).numpy())
    return np.concatenate(parts)


def variety(
    varied: Sequence[Varied], photos: NDArray[np.float32], photo_kinds: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Compare pictures' distances with those of photos, and ask how many photos are reached.

    Args:
        varied: what was drawn.
        photos: the eyes' features of photos of the split, [m, 1280].
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
        if count > NEIGHBOURS_AT_LEAST:
            spread = np.linspace(0, len(made) - 1, count).round().astype(int)
            found[one.kind]["recall"] = precision_recall(real, made[spread])[1]
    keys = ("of one sound", "of the kind", "recall")
    means = {
        key: float(np.mean([of_kind[key] for of_kind in found.values() if key in of_kind]))
        for key in keys
        if any(key in of_kind for of_kind in found.values())
    }
    return {"mean": means, **found}


NEIGHBOURS_AT_LEAST = 5
"""Recall asks for the third nearest neighbour: fewer photos than this say nothing."""


def train_photos(everyday: Everyday, bench: Bench) -> Levels:
    """Read every photo that a translator may have been trained with: uint8 [n, 96, 96, 3]."""
    names = [name for of in photos_of(everyday, bench, "train").values() for name in of]
    return np.stack([read_photo(everyday, bench, name) for name in names])


def copies(
    made: NDArray[np.float32], train: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.float64]]:
    """Tell which pictures repeat a training photo.

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


def redrawn(
    judge: PhotoJudge,
    redraw: Callable[[Levels], Levels],
    everyday: Everyday,
    split: str = "val",
) -> dict[str, float]:
    """Let a decoder redraw a split's photos and ask what can still be seen.

    Args:
        judge: says so.
        redraw: photos uint8 [n, 96, 96, 3] -> what the decoder makes of them, the same shape.
        everyday: its photos.
        split: ``val`` or ``devtest``.

    Returns:
        Mean over subjects: ``named`` (the likeliest answer is right) and ``right`` (and at least
        as likely as not), of the redrawn photos and, under ``photos:``, of the photos.
    """
    names = everyday.photos(split)
    photos = np.stack([everyday.photo(name) for name in names])
    kinds = [name.split("/")[0] for name in names]
    made = np.concatenate(
        [redraw(photos[i : i + _AT_ONCE]) for i in range(0, len(photos), _AT_ONCE)]
    )
    if made.shape != photos.shape:
        raise DataError(f"redrawn photos are {list(made.shape)}, not {list(photos.shape)}")
    figures = {}
    for prefix, pictures in (("", made), ("photos: ", photos)):
        named, right = judge.right(pictures, kinds)
        figures[f"{prefix}named"] = mean_of_kinds(named, kinds)
        figures[f"{prefix}right"] = mean_of_kinds(right, kinds)
    return figures


def seen_as_something(said: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which pictures the judge accepts as any subject: bool [n] of probabilities [n, 23]."""
    sure: NDArray[np.bool_] = said[:, :-1].max(axis=1) >= ACCEPTED_FROM
    return sure


def as_floats(rows: dict[str, Shares]) -> dict[str, dict[str, Any]]:
    """Turn rows of shares into what JSON holds."""
    return {
        name: {key: vars(share).copy() for key, share in row.items()} for name, row in rows.items()
    }
