"""The seconds that are measured: read, chosen, and what was found of each of them.

What was found of every second is the table behind a report's rows, which lets two runs be paired.
Each row that is an average over seconds is made here from the table's columns, for one report and
for the difference of two alike.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import atomic_file
from soundsight.data.everyday.folder import BENCH_PREFIX, KINDS, Everyday, Sound, bench_kind
from soundsight.data.everyday.sounds import audible, darkened, read_seconds
from soundsight.data.vegas.bench import SUBJECTS, Bench, Pair
from soundsight.evaluation.metrics import Shares, shares
from soundsight.judges.pictures import columns_of

NARROW_HZ = 8_000
"""The low sample rate at which Everyday's sounds are measured once more."""

FILE = "seconds.csv"

INFORMATIVITY = "informativity"
UNHIDDEN = "informativity, nothing hidden"
HIDDEN = "hidden"
SHUFFLED = "shuffled sounds"
DIFFERENCE = "informativity minus shuffled"
REAL_PHOTOS = "real photos"
SECOND = "second judge: "
"""Stands before the rows of the second judge."""
RIGHT = "class accuracy"
RETRIEVAL = "retrieval, "
"""Stands before the rows of retrieval."""

_AUDIBLE = ", audible seconds"
_NAMES = ("spectrogram", "class", "video")
_FLAGS = ("audible", "shown")
_MEASURED, _SHOWN, _BLIND = 2, 3, 4
"""Keep the draws for several purposes apart."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """n seconds: what each is, and its log-mel."""

    #: of each second its class, its video or recording, and its name; Everyday's have no photo
    pairs: list[Pair]
    mels: NDArray[np.uint8]  #: [n, 128, 100]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def kinds(self) -> list[str]:
        """The class of each."""
        return [pair.subject for pair in self.pairs]

    @property
    def recordings(self) -> list[str]:
        """The video or recording of each."""
        return [pair.video for pair in self.pairs]

    @property
    def names(self) -> list[str]:
        """The name of each."""
        return [pair.spectrogram for pair in self.pairs]

    @property
    def audible(self) -> NDArray[np.bool_]:
        """Which can be heard, bool [n]."""
        return audible(self.mels)

    def where(self, kept: NDArray[np.bool_]) -> Segments:
        """Return those where ``kept``, bool [n], is true."""
        pairs = [pair for pair, keep in zip(self.pairs, kept, strict=True) if keep]
        return Segments(pairs=pairs, mels=self.mels[kept])

    def of(self, kinds: Sequence[str]) -> Segments:
        """Return those of some kinds."""
        return self.where(np.isin(self.kinds, kinds))

    def shares(
        self,
        values: NDArray[np.generic],
        seed: int,
        kept: NDArray[np.bool_] | None = None,
        among: Sequence[str] = SUBJECTS,
    ) -> Shares:
        """Return shares of ``values`` [n] with intervals over recordings; of the ``kept`` alone."""
        part = self if kept is None else self.where(kept)
        values = values if kept is None else values[kept]
        return shares(values, part.kinds, part.recordings, seed=seed, among=among)


def bench_segments(bench: Bench, pairs: list[Pair]) -> Segments:
    """Read the log-mels of some pairs of the bench."""
    return Segments(pairs=pairs, mels=np.stack([bench.spectrogram(p.spectrogram) for p in pairs]))


def known_segments(
    everyday: Everyday,
    bench: Bench,
    split: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    narrow: bool = False,
) -> Segments:
    """Read every second of a split's 28 kinds, those of the bench after Everyday's.

    At most ``limit`` a kind, chosen by the seed; ``narrow``: as if recorded at ``NARROW_HZ`` (a
    spectrogram loses its bands above the half of it).

    Raises:
        DataError: when a sound is missing or damaged.
    """
    own = _everyday_segments(everyday, everyday.sounds(split), split, narrow)
    beside = bench_segments(bench, bench.pairs(split))
    pairs = own.pairs + [
        replace(
            pair, subject=bench_kind(pair.subject), video=BENCH_PREFIX + pair.video,
            spectrogram=BENCH_PREFIX + pair.spectrogram, photo="",
        )
        for pair in beside.pairs
    ]  # fmt: skip
    mels = darkened(beside.mels, NARROW_HZ / 2) if narrow else beside.mels
    found = Segments(pairs=pairs, mels=np.concatenate([own.mels, mels]))
    kept = {pair.spectrogram for pair in measured_seconds(pairs, limit, seed, KINDS)}
    return found.where(np.array([name in kept for name in found.names]))


def other_segments(everyday: Everyday, split: str, *, narrow: bool = False) -> Segments:
    """Read every second of a split's sounds that are of none of the kinds.

    Raises:
        DataError: when a sound is missing or damaged.
    """
    return _everyday_segments(everyday, everyday.others(split), split, narrow)


def _everyday_segments(
    everyday: Everyday, sounds: Sequence[Sound], split: str, narrow: bool
) -> Segments:
    found = read_seconds(everyday, sounds, narrow_hz=NARROW_HZ if narrow else None)
    pairs = [
        Pair(
            split=split, subject=sounds[i].kind, video=sounds[i].recording, window=0,
            spectrogram=f"{sounds[i].file}@{first}", photo="",
        )
        for i, first in zip(found.sound, found.first, strict=True)
    ]  # fmt: skip
    return Segments(pairs=pairs, mels=found.mels)


def measured_seconds(
    pairs: Sequence[Pair], limit: int | None, seed: int, classes: Sequence[str] = SUBJECTS
) -> list[Pair]:
    """Return the seconds to be measured, in the table's order: all, or ``limit`` a class.

    A limit takes seconds of as many videos as it can.
    """
    if limit is None:
        return list(pairs)
    kept = set(_sample(pairs, limit, seed, _MEASURED, (), classes))
    return [pair for index, pair in enumerate(pairs) if index in kept]


def shown_seconds(
    pairs: Sequence[Pair], per_class: int, seed: int, classes: Sequence[str] = SUBJECTS
) -> list[int]:
    """Return the places of the seconds for the sheet, class by class, a video once if it can be."""
    return _sample(pairs, per_class, seed, _SHOWN, (), classes)


def blind_seconds(
    pairs: Sequence[Pair],
    per_class: int,
    seed: int,
    known: Collection[int],
    classes: Sequence[str] = SUBJECTS,
) -> list[int]:
    """Return the places of the seconds for the blind sheet, in random order: ``per_class`` at most.

    ``known`` are places whose pictures are shown elsewhere with their class; they are left out.

    Raises:
        ConfigError: when no second is left.
    """
    chosen = _sample(pairs, per_class, seed, _BLIND, known, classes)
    if not chosen:
        raise ConfigError(
            "no second is left for the blind sheet beside those of the other sheet: raise --limit"
        )
    order = np.random.default_rng((seed, _BLIND)).permutation(len(chosen))
    return [chosen[place] for place in order]


def _sample(
    pairs: Sequence[Pair],
    count: int,
    seed: int,
    purpose: int,
    without: Collection[int],
    classes: Sequence[str],
) -> list[int]:
    """Choose ``count`` places of each class at random, one a video while they last."""
    chosen: list[int] = []
    left_out = set(without)
    for number, subject in enumerate(classes):
        rng = np.random.default_rng((seed, number, purpose))
        order = rng.permutation(len(pairs)).tolist()
        mine = [i for i in order if pairs[i].subject == subject and i not in left_out]
        seen: dict[str, int] = {}
        turns = []
        for index in mine:
            turns.append(seen.get(pairs[index].video, 0))
            seen[pairs[index].video] = turns[-1] + 1
        chosen += [mine[k] for k in np.argsort(turns, kind="stable")[:count]]
    return chosen


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentTable:
    """What was found of n seconds.

    Column ``audible`` and ``shown`` (0 or 1) are always there; ``accepted`` by the sound's judge,
    ``score``, ``shuffled`` (the picture of another class's sound is accepted), ``shuffled_shown``,
    what the second judge says with ``second_`` before it, ``right`` (the classifier names the
    sound's class), its probabilities, and measures of retrieval, where there is such a thing.
    """

    names: Sequence[str]  #: of the seconds, n
    subjects: Sequence[str]  #: the class of each
    videos: Sequence[str]  #: the video of each
    values: Mapping[str, NDArray[np.float64]]  #: column -> [n]


class Row(NamedTuple):
    """A row before it is averaged."""

    values: NDArray[np.float64]  #: [n]
    kept: NDArray[np.bool_] | None = None  #: which seconds count, [n]; None for all
    by_video: bool = False  #: videos count the same, however long


def rows_of(table: SegmentTable) -> dict[str, Row]:
    """Return every row that is an average over seconds, in the order in which it is shown."""
    values = table.values
    loud = values["audible"] > 0
    rows: dict[str, Row] = {}

    def add(name: str, of_second: NDArray[np.float64]) -> None:
        rows[name] = Row(of_second)
        rows[name + _AUDIBLE] = Row(of_second, kept=loud)
        rows[f"{name}, mean of each video"] = Row(of_second, by_video=True)

    for prefix, column in (("", ""), (SECOND, "second_")):
        if f"{column}accepted" not in values:
            continue
        accepted = values[f"{column}accepted"]
        # A refused sound counts as not informative: the receiver sees no picture of it.
        hits = accepted * values["shown"]
        add(prefix + INFORMATIVITY, hits)
        rows[prefix + UNHIDDEN] = Row(accepted)
        if not prefix:
            rows[HIDDEN] = Row(1 - values["shown"])
        if f"{column}shuffled" in values:
            strange = values[f"{column}shuffled"]
            strange_hits = strange * values["shuffled_shown"]
            add(prefix + SHUFFLED, strange_hits)
            add(prefix + DIFFERENCE, hits - strange_hits)
            rows[f"{prefix}{SHUFFLED}, nothing hidden"] = Row(strange)
    if "right" in values:
        rows[RIGHT] = Row(values["right"])
        rows[RIGHT + _AUDIBLE] = Row(values["right"], kept=loud)
    for column in values:
        if column.startswith(RETRIEVAL):
            add(column, values[column])
    return rows


def average(table: SegmentTable, row: Row, seed: int) -> Shares:
    """Average a row by class, with intervals over videos."""
    kept = np.ones(len(table.names), bool) if row.kept is None else row.kept
    subjects, videos = (np.asarray(of)[kept].tolist() for of in (table.subjects, table.videos))
    return shares(row.values[kept], subjects, videos, seed=seed, by_video=row.by_video)


def differences_of(first: SegmentTable, other: SegmentTable, seed: int) -> dict[str, Shares]:
    """Return ``other`` minus ``first``, of the same seconds, for every row that both have."""
    theirs = rows_of(other)
    return {
        name: average(first, mine._replace(values=theirs[name].values - mine.values), seed)
        for name, mine in rows_of(first).items()
        if name in theirs
    }


def write(path: Path, table: SegmentTable) -> None:
    """Write the table as CSV: a line a second, numbers in full."""
    names = zip(table.names, table.subjects, table.videos, strict=True)
    numbers = np.stack(list(table.values.values()), axis=1).tolist()
    write_csv(
        path, [*_NAMES, *table.values],
        ([*start, *map(_number, of)] for start, of in zip(names, numbers, strict=True)),
    )  # fmt: skip


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])


def read(path: Path) -> SegmentTable:
    """Read what :func:`write` wrote.

    Raises:
        DataError: when it cannot be read or is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *body = [line for line in csv.reader(file) if line]
        if tuple(head[: len(_NAMES)]) != _NAMES or not set(_FLAGS) <= set(head) or not body:
            raise ValueError("other columns")
        if any(len(line) != len(head) for line in body):
            raise ValueError("a line is too short or too long")
        numbers = np.array([line[len(_NAMES) :] for line in body], dtype=np.float64)
        names, subjects, videos = ([line[place] for line in body] for place in range(len(_NAMES)))
        columns_of(subjects)
    except (OSError, UnicodeError, csv.Error, ValueError, DataError) as error:
        raise DataError(f"{path} is no table of seconds of soundsight evaluate") from error
    values = dict(zip(head[len(_NAMES) :], numbers.T, strict=True))
    return SegmentTable(names=names, subjects=subjects, videos=videos, values=values)


def _number(value: float) -> str:
    """Return a number in full, whole ones without a point."""
    return str(int(value)) if value.is_integer() else repr(value)
