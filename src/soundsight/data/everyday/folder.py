"""Everyday's data: 22 subjects with sounds and photos, six alert kinds with sounds alone.

The sounds of baby, dog, train, fireworks and water are few here and many in the bench
(``data.vegas.bench``): the two are read together. The layout::

    photos-{train,val,devtest}.tar   96 x 96 JPEG, SUBJECT/SUBJECT_NNNN_SPLIT.jpg
    sounds.csv     split,subject,recording,file,seconds,rate_hz,source,licence
    sounds/        what it names
    others.csv     the same with kind for subject: sounds of none of the kinds
    others/        what it names
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import DataError
from soundsight.data.vegas.bench import SPLITS, Bench, Photos, known_split, read_table

SUBJECTS = (
    "baby", "dog", "train", "fireworks", "water", "cat", "bird", "cow", "frog", "car", "siren",
    "construction", "children", "music", "speech", "drums", "violin", "guitar", "rain", "fire",
    "helicopter", "clock",
)  # fmt: skip
"""What has sounds and photos, in the order in which every table counts them."""

ALERTS = ("smoke_alarm", "doorbell", "knock", "telephone", "glass", "alarm_clock")
"""What has sounds and no photos: it is named, and nothing is imagined for it."""

KINDS = SUBJECTS + ALERTS

WORDS = {
    **{kind: kind for kind in KINDS}, "baby": "baby crying", "construction": "construction work",
    "children": "children playing", "smoke_alarm": "smoke alarm", "knock": "knock on a door",
    "glass": "breaking glass", "alarm_clock": "alarm clock",
}  # fmt: skip
"""What each kind is called for people."""

OF_BENCH = {"baby": "baby", "dog": "dog", "train": "rail", "fireworks": "fireworks",
            "water": "water"}  # fmt: skip
"""Subjects that the bench has too, and what it calls them."""

EVERYDAY_VARIABLE = "SOUNDSIGHT_EVERYDAY"
DEFAULT_EVERYDAY = "../shared/everyday"

_REST = ["recording", "file", "seconds", "rate_hz", "source", "licence"]


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One piece of a recording."""

    split: str  #: all pieces of a recording are in one
    kind: str  #: subject, alert kind, or what else it is; for tables and evaluation only
    recording: str  #: of which it is a piece
    file: str  #: where it lies under the folder
    rate_hz: int  #: what its source was sampled at
    source: str  #: the collection that it is from


class Everyday:
    """Reads Everyday's folder. Opening is cheap; tables and tars are read when first needed.

    Args:
        root: the folder that holds ``sounds.csv``, ``others.csv`` and the photos.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(
                f"no Everyday data at {self.root}: name its folder with {EVERYDAY_VARIABLE}"
            )
        tars = [f"photos-{split}.tar" for split in SPLITS]
        for part in ("sounds.csv", "others.csv", "sounds", "others", *tars):
            if not (self.root / part).exists():
                raise DataError(f"the Everyday data at {self.root} lack {part}")

    def photos(self, split: str) -> list[str]:
        """Return the names of every photo of ``split``, sorted."""
        return self._photos.names(split)

    def photo(self, name: str) -> NDArray[np.uint8]:
        """Read one photo: uint8 [96, 96, 3], RGB."""
        return self._photos.read(name, f"the Everyday data at {self.root}", "among the photos")

    def sounds(self, split: str) -> list[Sound]:
        """Return the sounds of the subjects and the alert kinds, in the table's order."""
        return [s for s in self._tables[0] if s.split == known_split(split)]

    def others(self, split: str) -> list[Sound]:
        """Return the sounds of none of the kinds, as :meth:`sounds` does."""
        return [s for s in self._tables[1] if s.split == known_split(split)]

    def path(self, sound: Sound) -> Path:
        """Return where the file of a sound lies."""
        return self.root / sound.file

    def check(self) -> None:
        """See that every file that the tables name is there, and index the photos."""
        for sound in itertools.chain(*self._tables):
            if not self.path(sound).is_file():
                raise DataError(f"the Everyday data at {self.root} lack {sound.file}")
        for split in SPLITS:
            self.photos(split)

    @cached_property
    def _photos(self) -> Photos:
        return Photos({s: self.root / f"photos-{s}.tar" for s in SPLITS}, SUBJECTS)

    @cached_property
    def _tables(self) -> tuple[list[Sound], list[Sound]]:
        return (
            _read_sounds(self.root / "sounds.csv", "subject", KINDS),
            _read_sounds(self.root / "others.csv", "kind", None),
        )


def find_everyday(path: str | Path | None = None) -> Everyday:
    """Open and check the data at ``path``, ``SOUNDSIGHT_EVERYDAY`` or ``../shared/everyday``.

    Raises:
        DataError: in one line, when they are missing, incomplete or damaged.
    """
    data = Everyday(Path(path or os.environ.get(EVERYDAY_VARIABLE) or DEFAULT_EVERYDAY))
    data.check()
    return data


def is_everyday(path: Path) -> bool:
    """Return whether a folder is Everyday's, by its table of sounds."""
    return os.path.isfile(path / "sounds.csv") and os.path.isfile(path / "others.csv")


def bench_kind(subject: str) -> str:
    """Return what Everyday calls a subject of the bench."""
    return next(kind for kind, name in OF_BENCH.items() if name == subject)


def photos_of(everyday: Everyday, bench: Bench, split: str) -> dict[str, list[str]]:
    """Return the photos of each subject of both data sets, those of the bench last.

    Names tell the sets apart: see :func:`read_photo`.
    """
    found: dict[str, list[str]] = {subject: [] for subject in SUBJECTS}
    for name in everyday.photos(split):
        found[name.split("/")[0]].append(name)
    for name in bench.photos(split):
        found[bench_kind(name.split("/")[0])].append(BENCH_PREFIX + name)
    return found


BENCH_PREFIX = "bench:"
"""Stands before the names of the bench's photos and spectrograms in an Everyday table."""


def read_photo(everyday: Everyday, bench: Bench, name: str) -> NDArray[np.uint8]:
    """Read a photo of either set by its name in a table: uint8 [96, 96, 3]."""
    if name.startswith(BENCH_PREFIX):
        return bench.photo(name.removeprefix(BENCH_PREFIX))
    return everyday.photo(name)


def read_photos(
    everyday: Everyday, bench: Bench, split: str, *, every: int = 1
) -> tuple[list[str], NDArray[np.uint8]]:
    """Return names and levels, uint8 [n, 3, 96, 96], of a split's photos of both sets by name.

    One ``every`` so many is taken.
    """
    names = sorted(n for of in photos_of(everyday, bench, split).values() for n in of)[::every]
    levels = np.stack([read_photo(everyday, bench, name) for name in names])
    return names, np.ascontiguousarray(levels.transpose(0, 3, 1, 2))


def _read_sounds(path: Path, kind: str, kinds: tuple[str, ...] | None) -> list[Sound]:
    sounds: list[Sound] = []
    for where, row in read_table(path, ["split", kind, *_REST]):
        if row["split"] not in SPLITS or (kinds is not None and row[kind] not in kinds):
            raise DataError(f"{where}: unknown split or {kind}")
        if not row["rate_hz"].isdigit():
            raise DataError(f"{path} cannot be read: {row['rate_hz']!r} is no rate in hertz")
        own = {name: row[name] for name in ("split", "recording", "file", "source")}
        sounds.append(Sound(kind=row[kind], rate_hz=int(row["rate_hz"]), **own))
    return sounds
