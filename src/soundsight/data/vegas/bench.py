"""The bench on disk: tar shards of log-mels and photos, and the table that pairs them.

Nothing is extracted. A tar is scanned once for (name -> file, offset, size); a picture is then one
read at a known place, so a bench can be shared by processes and pickled to workers. The layout::

    vegas-audio/{train-000..,val-000,devtest-000}.tar   grey JPEG, 100 wide x 128 high
    photos/{train,val,devtest}.tar                      colour JPEG, 96 x 96, CLASS/SOURCE_NNNN.jpg
    pairs.csv            split,class,video,window,spectrogram,photo
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.core.errors import DataError
from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_CHANNELS, IMAGE_PX, N_MELS

SUBJECTS = ("baby", "dog", "rail", "fireworks", "water")
"""The five subjects in the order of their codes: c001 .. c005."""

SPLITS = ("train", "val", "devtest")
BENCH_VARIABLE = "SOUNDSIGHT_BENCH"
DEFAULT_BENCH = "../shared/data"

PAIR_COLUMNS = ("split", "class", "video", "window", "spectrogram", "photo")
"""Of ``pairs.csv`` and of every table of its kind."""

_TAR_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One second of sound and the photo that stands for its frame."""

    split: str
    subject: str  #: for cleaning and evaluation only, never for the translator
    video: str
    window: int  #: the second within its video
    spectrogram: str  #: member name of the log-mel
    photo: str  #: member name of the photo


Place = tuple[Path, int, int]
"""Where a file lies: its tar, offset and size."""


class Bench:
    """Reads one bench folder.

    Opening is cheap; the tars are scanned when first needed, or all at once by :meth:`check`.

    Args:
        root: the folder that holds ``pairs.csv``, ``vegas-audio`` and ``photos``.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        if not os.path.isdir(self.root):
            raise DataError(
                f"no bench at {self.root}: name its folder with --data or {BENCH_VARIABLE}"
            )
        for part in ("pairs.csv", "vegas-audio", "photos"):
            if not os.path.exists(self.root / part):
                raise DataError(f"the bench at {self.root} is incomplete: {part} is missing")

    def check(self) -> None:
        """Scan every tar and see that each file named in ``pairs.csv`` is there."""
        for split in SPLITS:
            for pair in self.pairs(split):
                self._place(pair.spectrogram)
                if pair.photo not in self._photos.places[split]:
                    raise DataError(
                        f"the bench at {self.root} has no {pair.photo} in photos/{split}.tar"
                    )

    def pairs(self, split: str) -> list[Pair]:
        """Return the pairs of ``split`` in the order of ``pairs.csv``."""
        return list(self._pairs[known_split(split)])

    def pairs_of_every_class(self, split: str, who: str) -> list[Pair]:
        """Return the pairs of ``split`` for one who needs all classes ("evaluation", "judges")."""
        pairs = self.pairs(split)
        if not pairs:
            raise DataError(f"the bench at {self.root} holds no sounds of {split}")
        present = {pair.subject for pair in pairs}
        if missing := [subject for subject in SUBJECTS if subject not in present]:
            raise DataError(
                f"the bench at {self.root} has no sounds of {', '.join(missing)} in {split}: "
                f"{who} needs {', '.join(SUBJECTS)}"
            )
        return pairs

    def photos(self, split: str) -> list[str]:
        """Return the names of every photo of ``split``, sorted."""
        return self._photos.names(split)

    def spectrogram(self, name: str) -> NDArray[np.uint8]:
        """Read one log-mel: uint8 [128, 100], row 0 = highest band, 0 quiet .. 255 loud."""
        return _decode(self._place(name), name, "L", (N_MELS, FRAMES_PER_SEGMENT))

    def photo(self, member: str) -> NDArray[np.uint8]:
        """Read one photo: uint8 [96, 96, 3], RGB."""
        return self._photos.read(member, f"the bench at {self.root}", "in photos")

    @cached_property
    def _pairs(self) -> dict[str, list[Pair]]:
        table: dict[str, list[Pair]] = {split: [] for split in SPLITS}
        for pair in read_pairs(self.root / "pairs.csv", SUBJECTS):
            table[pair.split].append(pair)
        return table

    @cached_property
    def _spectrograms(self) -> dict[str, Place]:
        places: dict[str, Place] = {}
        for split in SPLITS:
            tars = sorted((self.root / "vegas-audio").glob(f"{split}-*.tar"))
            if not tars:
                raise DataError(
                    f"the bench at {self.root} is incomplete: no vegas-audio/{split}-*.tar"
                )
            for tar in tars:
                places |= _index_tar(tar)
        return places

    @cached_property
    def _photos(self) -> Photos:
        return Photos({s: self.root / "photos" / f"{s}.tar" for s in SPLITS}, SUBJECTS)

    def _place(self, name: str) -> Place:
        if name not in self._spectrograms:
            raise DataError(f"the bench at {self.root} has no {name} in vegas-audio")
        return self._spectrograms[name]


class Photos:
    """Photos of 96 x 96 pixels in a tar for each split, each in the folder of its subject.

    Args:
        tars: split -> tar.
        subjects: names of the folders.
    """

    def __init__(self, tars: Mapping[str, Path], subjects: Sequence[str]) -> None:
        self.places = {split: _index_tar(tar) for split, tar in tars.items()}
        for split, places in self.places.items():
            for name in places:
                if name.split("/")[0] not in subjects:
                    raise DataError(
                        f"{tars[split]}: {name} is in none of the folders {', '.join(subjects)}"
                    )

    def names(self, split: str) -> list[str]:
        """Return the names of every photo of ``split``, sorted."""
        return sorted(self.places[known_split(split)])

    def read(self, name: str, owner: str, where: str) -> NDArray[np.uint8]:
        """Read one photo: uint8 [96, 96, 3], RGB; the last two say in errors where it is not."""
        for places in self.places.values():
            if name in places:
                shape = (IMAGE_PX, IMAGE_PX, IMAGE_CHANNELS)
                return _decode(places[name], name, "RGB", shape)
        raise DataError(f"{owner} has no {name} {where}")


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, column -> field) of every row of a table that has exactly these columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames != list(columns):
                raise DataError(f"{path}: the columns must be {','.join(columns)}")
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if None in row or None in row.values():
                    raise DataError(f"{where}: {len(columns)} fields are expected")
                yield where, row
    except (OSError, UnicodeError, csv.Error, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def read_pairs(path: Path, subjects: Sequence[str]) -> Iterator[Pair]:
    """Yield the pairs of a table such as ``pairs.csv``."""
    for where, row in read_table(path, PAIR_COLUMNS):
        if row["split"] not in SPLITS or row["class"] not in subjects:
            raise DataError(f"{where}: unknown split or class")
        if not row["window"].isdigit():
            raise DataError(f"{path} cannot be read: {row['window']!r} is no number of a second")
        window, subject = int(row.pop("window")), row.pop("class")
        yield Pair(subject=subject, window=window, **row)


def find_bench(path: str | Path | None = None) -> Bench:
    """Open and check the bench at ``path``, else at ``SOUNDSIGHT_BENCH``, else ``../shared/data``.

    Raises:
        DataError: in one line, when it is missing, incomplete or damaged.
    """
    bench = Bench(Path(path or os.environ.get(BENCH_VARIABLE) or DEFAULT_BENCH))
    bench.check()
    return bench


def photo_subject(member: str) -> str:
    """Return the subject of a photo by its folder."""
    subject = member.split("/")[0]
    if subject not in SUBJECTS:
        raise DataError(f"{member}: its folder is none of {', '.join(SUBJECTS)}")
    return subject


def fold_of(name: str, folds: int = 2) -> int:
    """Return the fold of a photo, a stable function of its member name alone.

    Fold 0 belongs to the judges, in train and in val alike.
    """
    digest = hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % folds


def known_split(split: str) -> str:
    """Return ``split``."""
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    return split


def _index_tar(path: Path) -> dict[str, Place]:
    """Walk the headers of a tar and return where each regular file lies."""
    places: dict[str, Place] = {}
    end = 0
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // _TAR_BLOCK) * _TAR_BLOCK
                if end > size:
                    raise DataError(f"{path} is truncated: {member.name} is cut off")
                if member.isfile():
                    places[member.name] = (path, member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        if not os.path.exists(path):
            raise DataError(f"{path} is missing") from error
        raise DataError(f"{path} is no readable tar: {error}") from error
    # A tar ends in zero blocks; one cut exactly between two members lacks them.
    if end + _TAR_BLOCK > size:
        raise DataError(f"{path} is truncated after {len(places)} files")
    return places


def _decode(place: Place, name: str, mode: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read a picture out of a tar, in the mode and of the shape that are expected of it."""
    tar, offset, size = place
    try:
        with tar.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        with Image.open(io.BytesIO(data)) as picture:
            levels = np.asarray(picture.convert(mode), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{tar}: {name} is no readable picture") from error
    if levels.shape != shape:
        seen, wanted = (f"{s[1]}x{s[0]}" for s in (levels.shape, shape))
        raise DataError(f"{tar}: {name} is {seen} pixels, not {wanted}")
    return levels
