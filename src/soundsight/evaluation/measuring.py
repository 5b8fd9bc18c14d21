"""The steps of a measurement: draw, judge, ask about nothing, classify, retrieve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import ModelError
from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_CHANNELS, IMAGE_PX, N_MELS
from soundsight.data.everyday.sounds import audible
from soundsight.data.vegas.bench import SUBJECTS, Pair
from soundsight.evaluation import seconds as per_second
from soundsight.evaluation.classification import classify
from soundsight.evaluation.curves import (
    GENERATED,
    REAL,
    SHUFFLED,
    UNINFORMATIVE,
    Curves,
    curves_of,
)
from soundsight.evaluation.informativity import (
    ControlPictures,
    Shares,
    decide,
    photo_controls,
    sound_control,
    white_noise_mels,
)
from soundsight.evaluation.retrieval import retrieve
from soundsight.judges.apply import Judges, agreement

_AT_ONCE = 64
_CONTROL_SOUNDS = 20


class Imagines(Protocol):
    """What is measured: a translator, or anything that draws pictures of log-mels."""

    def imagine(
        self, mels: NDArray[np.uint8], *, draws: int = 1, seed: int = 0
    ) -> NDArray[np.uint8]:
        """Draw uint8 [n * draws, 96, 96, 3] of log-mels uint8 [n, 128, 100]."""
        ...


Draws = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]
"""Which log-mels uint8 [n, 128, 100] the program would draw: bool [n]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """The n measured seconds and what was drawn of them."""

    pairs: list[Pair]
    mels: NDArray[np.uint8]
    pictures: NDArray[np.uint8]
    shown: NDArray[np.bool_]

    @property
    def subjects(self) -> list[str]:
        return [pair.subject for pair in self.pairs]

    @property
    def videos(self) -> list[str]:
        return [pair.video for pair in self.pairs]


def draw(
    translator: Imagines,
    pairs: list[Pair],
    mels: NDArray[np.uint8],
    draws: Draws | None,
    *,
    seed: int,
    tell: Callable[[str, int, int], None],
) -> Drawn:
    """Draw the first picture of every second.

    Args:
        translator: draws.
        pairs: the n seconds.
        mels: uint8 [n, 128, 100].
        draws: says what is shown; None to hide inaudible seconds alone.
        seed: of the pictures.
        tell: called with (what, how many done, how many in all).

    Raises:
        ModelError: when the pictures are of another size than the judges take.
    """
    shape = (IMAGE_PX, IMAGE_PX, IMAGE_CHANNELS)
    pictures = np.empty((len(mels), *shape), np.uint8)
    shown = audible(mels)
    if draws is not None:
        shown &= draws(mels)
    for start in range(0, len(mels), _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, len(mels)))
        count = part.stop - start
        drawn = translator.imagine(mels[part], seed=seed)
        if drawn.shape != (count, *shape) or drawn.dtype != np.uint8:
            raise ModelError(
                f"the model draws {drawn.dtype} {list(drawn.shape)} where the judges take "
                f"pictures uint8 [{count}, {IMAGE_PX}, {IMAGE_PX}, 3]"
            )
        pictures[part] = drawn
        tell("seconds drawn", part.stop, len(mels))
    return Drawn(pairs=pairs, mels=mels, pictures=pictures, shown=shown)


def judge(
    judges: Judges,
    drawn: Drawn,
    order: NDArray[np.int64] | None,
    controls: ControlPictures,
    *,
    seed: int,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Shares], Curves]:
    """Ask one jury of everything.

    Args:
        judges: the jury.
        drawn: what was drawn.
        order: whose picture each sound is shown with when sounds are shuffled, [n]; or None.
        controls: pictures that nobody drew.
        seed: of the intervals.

    Returns:
        Columns of the seconds, rows of the controls, curves.
    """
    subjects = drawn.subjects
    scores = judges.scores(drawn.pictures)
    verdicts = decide(judges, scores)
    own = per_second.of_class(scores, subjects)
    columns = {"score": own, "accepted": per_second.of_class(verdicts, subjects)}
    rows, of_controls = photo_controls(judges, controls, seed=seed)
    classes = np.array(subjects)
    generated = {s: own[classes == s] for s in SUBJECTS}
    lines: dict[str, dict[str, NDArray[Any]]] = {REAL: dict(of_controls.photos)}
    lines[GENERATED] = dict(generated)
    if order is not None:
        strange = per_second.of_class(scores[order], subjects)
        columns["shuffled"] = per_second.of_class(verdicts[order], subjects)
        lines[SHUFFLED] = {s: strange[classes == s] for s in SUBJECTS}
    lines[UNINFORMATIVE] = dict(of_controls.uninformative)
    return columns, rows, curves_of(lines)


def silence_and_noise(
    translator: Imagines, judges: Judges, draws: Draws | None, seed: int
) -> dict[str, Shares]:
    """Ask every judge about the pictures of sounds that are nothing of the five."""
    silence = np.zeros((1, N_MELS, FRAMES_PER_SEGMENT), dtype=np.uint8)
    noise = white_noise_mels(_CONTROL_SOUNDS, seed)
    # Silence is one sound: its pictures differ by the seed alone.
    of_silence = [translator.imagine(silence, seed=seed + i) for i in range(_CONTROL_SOUNDS)]
    drawn = {
        "silence": (silence.repeat(_CONTROL_SOUNDS, axis=0), np.concatenate(of_silence)),
        "white noise": (noise, translator.imagine(noise, seed=seed)),
    }
    rows = {}
    for name, (mels, pictures) in drawn.items():
        rows[f"{name}: accepted"] = sound_control(judges, pictures, seed=seed)
        # Silence is quiet: the program draws nothing, however familiar it is.
        shown = np.full(len(pictures), name != "silence")
        if draws is not None:
            shown &= draws(mels)
        rows[f"{name}: shown and accepted"] = sound_control(
            judges, pictures, shown=shown, seed=seed
        )
    return rows


def agreement_by_class(
    columns: dict[str, NDArray[np.float64]], subjects: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Compare what both judges say of the pictures, by class; empty without a second judge."""
    if "second_accepted" not in columns:
        return {}
    first, second = columns["accepted"] > 0, columns["second_accepted"] > 0
    classes = np.array(subjects)
    found = {"all": asdict(agreement(first, second))}
    for subject in SUBJECTS:
        mine = classes == subject
        found[subject] = asdict(agreement(first[mine], second[mine]))
    return found


def classes_and_retrieval(
    report: dict[str, Any], rows: dict[str, Shares], judges: Judges, drawn: Drawn, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Let the classifier name the pictures, and sounds look for theirs; return the columns."""
    columns: dict[str, NDArray[np.float64]] = {}
    if judges.classifier is not None:
        said = judges.classifier.probabilities(drawn.pictures)
        found = classify(said, drawn.subjects, drawn.videos, seed=seed)
        columns["right"] = found.right.astype(np.float64)
        columns |= per_second.probability_columns(said)
        rows[per_second.RIGHT_VIDEOS] = found.videos
        report["confusion"] = {
            "seconds": found.confusion.tolist(),
            "videos": found.video_confusion.tolist(),
        }
    if judges.space is not None:
        searched = retrieve(
            judges.space.sounds(drawn.mels),
            judges.space.pictures(drawn.pictures),
            drawn.subjects,
            drawn.videos,
            seed=seed,
        )
        columns |= {per_second.RETRIEVAL + name: hits for name, hits in searched.hits.items()}
        report["retrieval"] = {"candidates": searched.candidates, "chance": searched.chance}
    return columns
