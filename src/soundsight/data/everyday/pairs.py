"""Which photo is shown with which second: the table of pairs that is made for Everyday.

No pair here is a real one: a photo is of the subject, not of the recording. The rule: the photos of
a subject are shuffled once and lie in a circle, from which its recordings (bench videos are
recordings like others) are dealt some each, neighbours after neighbours, until every photo is
dealt. Every subject gets the same number of rows, its recordings taking turns, each with its next
second and its next photo. Labels make the table; its readers get opaque numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import DataError
from soundsight.core.files import atomic_file
from soundsight.core.units import FRAMES_PER_SEGMENT
from soundsight.data.everyday.folder import (
    BENCH_PREFIX,
    SUBJECTS,
    Everyday,
    bench_kind,
    photos_of,
    read_photo,
)
from soundsight.data.everyday.sounds import HALF_SECOND, Seconds, audible, read_sound
from soundsight.data.vegas.bench import PAIR_COLUMNS, Bench, Pair, read_pairs
from soundsight.media.mel import log_mel

PHOTOS_EACH = 8
"""Photos that a recording has, where there are rows for so many."""

ROWS_EACH = 4500
"""Rows of the table for each subject."""


class EverydayPairs:
    """A table that :func:`write_pairs` wrote, and where the sounds and photos of it lie."""

    def __init__(self, everyday: Everyday, bench: Bench, table: Path) -> None:
        self.everyday, self.bench, self.root = everyday, bench, table
        self._pairs = list(read_pairs(table, SUBJECTS))
        for split in sorted({pair.split for pair in self._pairs}):
            self._check(split)
        self._levels = lru_cache(maxsize=256)(
            lambda file: log_mel(read_sound(everyday.root / file))
        )

    def pairs(self, split: str) -> list[Pair]:
        """Return the pairs of ``split`` in the table's order."""
        return [pair for pair in self._pairs if pair.split == split]

    def mel(self, name: str) -> NDArray[np.uint8]:
        """Read the log-mel of a second by its name in the table: uint8 [128, 100]."""
        if name.startswith(BENCH_PREFIX):
            return self.bench.spectrogram(name.removeprefix(BENCH_PREFIX))
        file, _, half = name.rpartition("@")
        first = int(half) * HALF_SECOND
        levels = self._levels(file)
        if first + FRAMES_PER_SEGMENT > levels.shape[1]:
            raise DataError(f"{self.root}: there is no second {name}")
        return levels[:, first : first + FRAMES_PER_SEGMENT].copy()

    def photo(self, name: str) -> NDArray[np.uint8]:
        """Read a photo by its name in the table: uint8 [96, 96, 3], RGB."""
        return read_photo(self.everyday, self.bench, name)

    def _check(self, split: str) -> None:
        photos = set().union(*photos_of(self.everyday, self.bench, split).values())
        files = {sound.file for sound in self.everyday.sounds(split)}
        for pair in self.pairs(split):
            file = pair.spectrogram.rpartition("@")[0]
            if pair.photo not in photos:
                what = f"the photo {pair.photo}"
            elif not pair.spectrogram.startswith(BENCH_PREFIX) and file not in files:
                what = f"the sound {file}"
            else:
                continue
            raise DataError(f"{self.root} names {what}, which {split} does not have")


def make_pairs(
    everyday: Everyday,
    bench: Bench,
    seconds: Seconds,
    split: str,
    *,
    seed: int = 0,
    rows_each: int = ROWS_EACH,
) -> list[Pair]:
    """Make the table of pairs of a split by the rule above.

    Args:
        seconds: those of the split's sounds, every half second; of alert kinds, which have
            no photos, nothing is made.
        seed: of what is dealt to whom.
        rows_each: rows for each subject; more where a subject has more photos.
    """
    recordings: dict[str, dict[str, list[tuple[int, str]]]] = {name: {} for name in SUBJECTS}
    for row in np.flatnonzero(audible(seconds.mels)):
        sound = seconds.sounds[seconds.sound[row]]
        if sound.kind in recordings:
            half = int(seconds.first[row]) // HALF_SECOND
            windows = recordings[sound.kind].setdefault(sound.recording, [])
            windows.append((len(windows), f"{sound.file}@{half}"))
    for pair in bench.pairs(split):
        if audible(bench.spectrogram(pair.spectrogram)[None])[0]:
            of = recordings[bench_kind(pair.subject)].setdefault(BENCH_PREFIX + pair.video, [])
            of.append((pair.window, BENCH_PREFIX + pair.spectrogram))
    photos = photos_of(everyday, bench, split)
    made: list[Pair] = []
    for number, subject in enumerate(SUBJECTS):
        if recordings[subject]:
            rng = np.random.default_rng((seed, number))
            made += _pairs_of(split, subject, recordings[subject], photos[subject], rows_each, rng)
    return made


def _pairs_of(
    split: str,
    subject: str,
    recordings: dict[str, list[tuple[int, str]]],
    photos: Sequence[str],
    rows_each: int,
    rng: np.random.Generator,
) -> list[Pair]:
    if not photos:
        raise DataError(f"{subject} has sounds in {split}, and no photos")
    names = sorted(recordings)
    rng.shuffle(names)
    shuffled = [photos[i] for i in rng.permutation(len(photos))]
    each = max(-(-len(photos) // len(names)), min(PHOTOS_EACH, rows_each // len(names)), 1)
    rows = max(rows_each, each * len(names))
    made = []
    for row in range(rows):
        turn, place = divmod(row, len(names))
        name = names[place]
        window, spectrogram = recordings[name][turn % len(recordings[name])]
        photo = shuffled[(place * each + turn % each) % len(shuffled)]
        words = {"split": split, "subject": subject, "video": name, "photo": photo}
        made.append(Pair(**words, window=window, spectrogram=spectrogram))
    return made


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write a table of pairs, with the columns of the bench's ``pairs.csv``."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(PAIR_COLUMNS)
        rows.writerows(astuple(pair) for pair in pairs)
