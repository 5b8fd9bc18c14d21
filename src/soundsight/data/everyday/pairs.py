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
from pathlib import Path

import numpy as np

from soundsight.core.errors import DataError
from soundsight.core.files import atomic_file
from soundsight.data.everyday.folder import (
    BENCH_PREFIX,
    SUBJECTS,
    Everyday,
    bench_kind,
    photos_of,
)
from soundsight.data.everyday.sounds import HALF_SECOND, Seconds, audible
from soundsight.data.vegas.bench import PAIR_COLUMNS, Bench, Pair, read_pairs

PHOTOS_EACH = 8
"""Photos that a recording has, where there are rows for so many."""

ROWS_EACH = 4500
"""Rows of the table for each subject."""


def checked_pairs(everyday: Everyday, bench: Bench, table: Path, split: str) -> list[Pair]:
    """Read the pairs of a split out of a table that :func:`write_pairs` wrote.

    Raises:
        DataError: when it is damaged, or names what the split does not have.
    """
    photos = set().union(*photos_of(everyday, bench, split).values())
    files = {sound.file for sound in everyday.sounds(split)}
    pairs = [pair for pair in read_pairs(table, SUBJECTS) if pair.split == split]
    for pair in pairs:
        file = pair.spectrogram.rpartition("@")[0]
        if pair.photo not in photos:
            what = f"the photo {pair.photo}"
        elif not pair.spectrogram.startswith(BENCH_PREFIX) and file not in files:
            what = f"the sound {file}"
        else:
            continue
        raise DataError(f"{table} names {what}, which {split} does not have")
    return pairs


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
