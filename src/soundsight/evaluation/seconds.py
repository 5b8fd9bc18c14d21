"""What was found of every second: the table behind a report's rows, which lets runs be paired.

Each row of a report that is an average over seconds is made here from the table's columns, for
one report and for the difference of two alike.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import DataError
from soundsight.core.files import atomic_file
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.evaluation.informativity import Shares, shares
from soundsight.judges.apply import columns_of

FILE = "seconds.csv"

INFORMATIVITY = "informativity"
_HEARD = ", audible seconds"
_VIDEOS = ", mean of each video"
AUDIBLE = INFORMATIVITY + _HEARD
BY_VIDEO = INFORMATIVITY + _VIDEOS
UNHIDDEN = "informativity, nothing hidden"
HIDDEN = "hidden"
SHUFFLED = "shuffled sounds"
DIFFERENCE = "informativity minus shuffled"
SHUFFLED_UNHIDDEN = "shuffled sounds, nothing hidden"
SECOND = "second judge: "
"""Stands before the rows of the second judge."""

RIGHT = "class accuracy"
RIGHT_AUDIBLE = RIGHT + _HEARD
RIGHT_VIDEOS = "class accuracy, whole videos"
RETRIEVAL = "retrieval, "
"""Stands before the rows of retrieval."""

_NAMES = ("spectrogram", "class", "video")
_FLAGS = ("audible", "shown")


@dataclass(frozen=True, kw_only=True, eq=False)
class Seconds:
    """A table of n seconds.

    Attributes:
        names: of the seconds, n.
        subjects: the class of each.
        videos: the video of each.
        values: column -> float64 [n]. ``audible`` and ``shown`` (0 or 1) are always there;
            ``accepted`` by the sound's judge, ``score``, ``shuffled`` (the picture of another
            class's sound is accepted), ``shuffled_shown``, what the second judge says with
            ``second_`` before it, ``right`` (the classifier names the sound's class), its
            probabilities, and measures of retrieval, where there is such a thing.
    """

    names: Sequence[str]
    subjects: Sequence[str]
    videos: Sequence[str]
    values: Mapping[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A row before it is averaged: values of the seconds that count."""

    values: NDArray[np.float64]
    """[n]"""
    kept: NDArray[np.bool_] | None = None
    """Which seconds count, [n]; None for all."""
    by_video: bool = False
    """Videos count the same, however long."""


def measured(seconds: Seconds) -> dict[str, Measured]:
    """Return every row that is an average over seconds, in the order in which it is shown."""
    values = seconds.values
    heard = values["audible"] > 0
    rows: dict[str, Measured] = {}

    def add(name: str, of_second: NDArray[np.float64]) -> None:
        rows[name] = Measured(values=of_second)
        rows[name + _HEARD] = Measured(values=of_second, kept=heard)
        rows[name + _VIDEOS] = Measured(values=of_second, by_video=True)

    for prefix, column in (("", ""), (SECOND, "second_")):
        if f"{column}accepted" not in values:
            continue
        accepted = values[f"{column}accepted"]
        # A refused sound counts as not informative: the receiver sees no picture of it.
        hits = accepted * values["shown"]
        add(prefix + INFORMATIVITY, hits)
        rows[prefix + UNHIDDEN] = Measured(values=accepted)
        if not prefix:
            rows[HIDDEN] = Measured(values=1 - values["shown"])
        if f"{column}shuffled" in values:
            strange = values[f"{column}shuffled"]
            strange_hits = strange * values["shuffled_shown"]
            add(prefix + SHUFFLED, strange_hits)
            add(prefix + DIFFERENCE, hits - strange_hits)
            rows[prefix + SHUFFLED_UNHIDDEN] = Measured(values=strange)
    if "right" in values:
        rows[RIGHT] = Measured(values=values["right"])
        rows[RIGHT_AUDIBLE] = Measured(values=values["right"], kept=heard)
    for column in values:
        if column.startswith(RETRIEVAL):
            add(column, values[column])
    return rows


def average(seconds: Seconds, row: Measured, seed: int) -> Shares:
    """Average a row by class, with intervals over videos."""
    kept = np.ones(len(seconds), bool) if row.kept is None else row.kept
    return shares(
        row.values[kept],
        [s for s, keep in zip(seconds.subjects, kept, strict=True) if keep],
        [v for v, keep in zip(seconds.videos, kept, strict=True) if keep],
        seed=seed,
        by_video=row.by_video,
    )


def differences(first: Seconds, other: Seconds, seed: int) -> dict[str, Shares]:
    """Return ``other`` minus ``first`` for every row that both have, paired by second.

    Raises:
        DataError: when the two are not of the same seconds in the same order.
    """
    if list(first.names) != list(other.names):
        raise DataError("the two reports are not of the same seconds")
    theirs = measured(other)
    result = {}
    for name, mine in measured(first).items():
        if name in theirs:
            gap = Measured(
                values=theirs[name].values - mine.values, kept=mine.kept, by_video=mine.by_video
            )
            result[name] = average(first, gap, seed)
    return result


def write(path: Path, seconds: Seconds) -> None:
    """Write the table as CSV: a line a second, numbers in full."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_NAMES, *seconds.values])
        names = zip(seconds.names, seconds.subjects, seconds.videos, strict=True)
        for index, start in enumerate(names):
            numbers = [_number(column[index]) for column in seconds.values.values()]
            writer.writerow([*start, *numbers])


def read(path: Path) -> Seconds:
    """Read what ``write`` wrote.

    Raises:
        DataError: when it cannot be read or is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(_lines(csv.reader(file)))
        head, body = lines[0], lines[1:]
        if tuple(head[: len(_NAMES)]) != _NAMES or not set(_FLAGS) <= set(head) or not body:
            raise ValueError("other columns")
        if any(len(line) != len(head) for line in body):
            raise ValueError("a line is too short or too long")
        numbers = np.array([line[len(_NAMES) :] for line in body], dtype=np.float64)
        columns_of([line[1] for line in body])
    except (OSError, UnicodeError, csv.Error, ValueError, IndexError, DataError) as error:
        raise DataError(f"{path} is no table of seconds of soundsight evaluate") from error
    return Seconds(
        names=[line[0] for line in body],
        subjects=[line[1] for line in body],
        videos=[line[2] for line in body],
        values={name: numbers[:, place] for place, name in enumerate(head[len(_NAMES) :])},
    )


def of_class(columns: NDArray[np.generic], subjects: Sequence[str]) -> NDArray[np.float64]:
    """Pick from [n, 5], a column a subject, what belongs to each sound's class: float64 [n]."""
    picked: NDArray[np.float64] = columns[np.arange(len(columns)), columns_of(subjects)].astype(
        np.float64
    )
    return picked


def probability_columns(probabilities: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """Name the columns of a classifier's probabilities, [n, 5]: ``probability_baby`` and so on."""
    return {
        f"probability_{subject}": probabilities[:, place].astype(np.float64)
        for place, subject in enumerate(SUBJECTS)
    }


def _lines(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    for line in reader:
        if line:
            yield line


def _number(value: np.float64) -> str:
    """Write a number in full, whole ones without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
