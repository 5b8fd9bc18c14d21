"""Training pairs from a bench or a prepared dataset: the one loader.

Ids are opaque, and there is no label. Which pairs make up batch ``step`` is a function of (seed,
step) alone, so that an interrupted run goes on with the very batch it would have seen. An epoch
goes through the shards in a drawn order and shuffles the pairs within windows of that order, so
that a large dataset is read shard by shard; a split that fits one window is shuffled whole.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import ConfigError, DataError, OutputError
from soundsight.core.files import atomic_folder, write_json
from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_CHANNELS, IMAGE_PX, N_MELS
from soundsight.data.records import opaque_id
from soundsight.data.store.shards import ABOUT, WORK, Entry, PairFolder, open_dataset
from soundsight.data.vegas.bench import BENCH_VARIABLE, DEFAULT_BENCH, Bench, find_bench

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8
    from torch import Tensor

Pairs = Bench | PairFolder
"""Where pairs may lie."""

Levels = NDArray[np.uint8]
Numbers = tuple[int, int, int]
"""Opaque numbers of a pair, its video and its frame."""
Row = tuple[Numbers, Levels, Levels]
"""A pair's numbers, log-mel uint8 [128, 100] and frame uint8 [96, 96, 3]."""

WINDOW = 50_000
"""Pairs that are shuffled together, and held decoded in memory (2 GB) where a split has no more."""


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """A batch of n pairs."""

    mel: UInt8[Tensor, "n 1 128 100"]  #: log-mels
    image: UInt8[Tensor, "n 3 96 96"]  #: frames
    video: Int64[Tensor, " n"]  #: opaque number of the source video; equal where the video is
    photo: Int64[Tensor, " n"]  #: opaque number of the frame; equal where the frame is


class _Table:
    """The pairs that a bench's table names, in the order of their opaque numbers."""

    def __init__(self, bench: Bench, split: str) -> None:
        self._bench = bench
        found = [
            ((opaque_id(pair.spectrogram), opaque_id(pair.video), opaque_id(pair.photo)), pair)
            for pair in bench.pairs(split)
        ]
        self._rows = sorted(found, key=lambda one: one[0])
        self.sizes = [len(self._rows)]

    def numbers(self, row: int) -> Numbers:
        return self._rows[row][0]

    def read(self, row: int) -> Row:
        numbers, pair = self._rows[row]
        return numbers, self._bench.spectrogram(pair.spectrogram), self._bench.photo(pair.photo)


class _Prepared:
    """The pairs of a prepared dataset in stored order, which is that of hashes."""

    def __init__(self, folder: PairFolder, split: str) -> None:
        folder.require_pairs()
        folder.require_size()
        self._folder, self._split = folder, split
        self.sizes = [shard.pairs for shard in folder.shards(split)]

    def numbers(self, row: int) -> Numbers:
        return self._numbers_of(self._folder.find(self._split, row)[1])

    def read(self, row: int) -> Row:
        tar, entry = self._folder.find(self._split, row)
        mel, image = self._folder.decode(self._folder.read(tar, entry))
        assert image is not None
        return self._numbers_of(entry), mel, image

    @staticmethod
    def _numbers_of(entry: Entry) -> Numbers:
        # A frame belongs to its second alone.
        own = opaque_id(entry.key)
        return own, opaque_id(entry.group), own


class PairDataset:
    """The pairs of one split of benches and prepared datasets.

    It is a map-style dataset for PyTorch, whose ``DataLoader`` may read with several workers:
    ``DataLoader(data, sampler=data.order(seed, epoch), batch_size=64, num_workers=4)``.

    Args:
        data: where the pairs lie (a folder or URL for one prepared dataset); of several places,
            the pairs of all.
        split: ``train``, ``val`` and ``devtest`` of a bench, or ``test`` of a prepared dataset.
        cache: keep decoded pairs in memory, or in arrays in a folder on disk (40 kB a pair), or
            not at all; None keeps splits of up to ``window`` pairs in memory.
        window: pairs that are shuffled together.

    Raises:
        DataError: when the split holds no pairs, when they are not of the networks' size, or when
            a record cannot be read.
        OutputError: when the folder of the cache cannot be written.
    """

    def __init__(
        self,
        data: Pairs | str | Path | Sequence[Pairs],
        split: str,
        *,
        cache: bool | Path | None = None,
        window: int = WINDOW,
    ) -> None:
        if isinstance(data, str | Path):
            data = open_dataset(data)
        places = [data] if isinstance(data, Pairs) else list(data)
        self._stores = [
            _Prepared(place, split) if isinstance(place, PairFolder) else _Table(place, split)
            for place in places
        ]
        self._firsts = [0, *itertools.accumulate(sum(store.sizes) for store in self._stores)]
        if not len(self):
            named = (
                place.where if isinstance(place, PairFolder) else place.root for place in places
            )
            raise DataError(f"{', '.join(map(str, named))} has no pairs in its {split} split")
        if window < 1:
            raise ConfigError("window must be at least 1")
        self._window = window
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}
        self._held: dict[int, Row] = {}
        self._photos: dict[int, Levels] = {}  # by their numbers: several rows may show one
        self._holds = len(self) <= window if cache is None else cache is True
        self._arrays: list[Levels] = []
        if isinstance(cache, Path):
            self._arrays = _arrays(self, [describe(place, split) for place in places], cache)

    def __len__(self) -> int:
        return self._firsts[-1]

    def order(
        self, seed: int = 0, epoch: int = 0, *, rank: int = 0, world: int = 1
    ) -> NDArray[np.int64]:
        """Return the rows of an epoch (from 0) in the order in which they are read: int64 [n].

        ``world`` processes may share the epoch, pair by pair; ``rank`` is this one's number.
        """
        if min(seed, epoch) < 0 or not 0 <= rank < world:
            raise ConfigError("seed and epoch must be at least 0, and rank from 0 to below world")
        return self._epoch(seed, epoch)[rank::world].copy()

    def _epoch(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the rows of an epoch in order; the last two that were asked for are kept."""
        if (seed, epoch) not in self._orders:
            while len(self._orders) > 1:
                self._orders.pop(next(iter(self._orders)))
            self._orders[seed, epoch] = self._shuffled(_random(seed, epoch))
        return self._orders[seed, epoch]

    def _shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        if len(self) <= self._window:
            return rng.permutation(len(self))
        ends = itertools.accumulate(size for store in self._stores for size in store.sizes)
        shards = [np.arange(*span) for span in itertools.pairwise([0, *ends])]
        rows = np.concatenate([shards[number] for number in rng.permutation(len(shards))])
        for start in range(0, len(rows), self._window):
            rng.shuffle(rows[start : start + self._window])
        return rows

    def rows(self, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
        """Return which pairs make up batch ``step``, int64 [batch_size]; see ``batch_indices``."""
        return _batch(lambda epoch: self._epoch(seed, epoch), len(self), batch_size, step)

    def numbers(self) -> NDArray[np.int64]:
        """Return the opaque numbers of every pair, its video and its frame: int64 [n, 3]."""
        found = [store.numbers(i) for store in self._stores for i in range(sum(store.sizes))]
        return np.array(found, np.int64)

    def photos(self) -> Levels:
        """Return every frame once, in the order of their numbers: uint8 [p, 3, 96, 96]."""
        _, rows = np.unique(self.numbers()[:, 2], return_index=True)
        levels = np.stack([self.image(int(row)) for row in rows])
        return np.ascontiguousarray(levels.transpose(0, 3, 1, 2))

    def mel(self, row: int) -> Levels:
        """Return the log-mel of one pair, uint8 [128, 100]."""
        return self._row(row)[1]

    def image(self, row: int) -> Levels:
        """Return the frame of one pair, uint8 [96, 96, 3]."""
        return self._row(row)[2]

    def gather(self, rows: Sequence[int] | NDArray[np.int64]) -> PairBatch:
        """Return these pairs as one batch of tensors."""
        import torch

        mels = np.empty((len(rows), 1, N_MELS, FRAMES_PER_SEGMENT), np.uint8)
        images = np.empty((len(rows), IMAGE_CHANNELS, IMAGE_PX, IMAGE_PX), np.uint8)
        numbers = np.empty((len(rows), 3), np.int64)
        for i, row in enumerate(rows):
            numbers[i], mels[i, 0], image = self._row(int(row))
            images[i] = image.transpose(2, 0, 1)
        return PairBatch(
            mel=torch.from_numpy(mels),
            image=torch.from_numpy(images),
            video=torch.from_numpy(numbers[:, 1].copy()),
            photo=torch.from_numpy(numbers[:, 2].copy()),
        )

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        """Return ``mel`` uint8 [1, 128, 100], ``image`` uint8 [3, 96, 96] and the opaque ids."""
        if not 0 <= row < len(self):
            raise IndexError(f"there is no pair {row}")
        return {name: values[0] for name, values in vars(self.gather([row])).items()}

    def _row(self, row: int) -> Row:
        if row in self._held:
            return self._held[row]
        number = bisect_right(self._firsts, row) - 1
        store, place = self._stores[number], row - self._firsts[number]
        if self._arrays:
            mels, images = self._arrays
            return store.numbers(place), mels[row], images[row]
        numbers, mel, image = store.read(place)
        if self._holds:
            image = self._photos.setdefault(numbers[2], image)
            self._held[row] = numbers, mel, image
        return numbers, mel, image

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}, "_photos": {}}


def _arrays(data: PairDataset, about: list[dict[str, Any]], cache: Path) -> list[Levels]:
    """Return every pair decoded, mapped from a folder below ``cache`` that is made when missing."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    place = cache / f"{about[0]['split']}-{digest[:16]}"
    shapes: Mapping[str, tuple[int, ...]] = {
        "mel": (len(data), N_MELS, FRAMES_PER_SEGMENT),
        "image": (len(data), IMAGE_PX, IMAGE_PX, IMAGE_CHANNELS),
    }
    if not os.path.isdir(place):
        try:
            with atomic_folder(place) as made:
                _write_arrays(data, made, shapes)
                write_json(made / "cache.json", about)
        except OutputError:
            if not os.path.isdir(place):  # else another process made the same meanwhile
                raise
    try:
        found = [np.load(place / f"{name}.npy", mmap_mode="r") for name in shapes]
        if [levels.shape for levels in found] != list(shapes.values()):
            raise ValueError("its arrays are of another shape")
    except (OSError, ValueError) as error:
        raise DataError(f"the cache {place} is damaged: remove that folder ({error})") from error
    return [levels.view(np.ndarray) for levels in found]


def _write_arrays(data: PairDataset, made: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    # Written from end to end: a disk that fills up is then an error, not a crash as with a map.
    with (made / "mel.npy").open("wb") as mels, (made / "image.npy").open("wb") as images:
        for file, shape in zip((mels, images), shapes.values(), strict=True):
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        for row in range(len(data)):
            _, mel, image = data._row(row)
            mels.write(mel.tobytes())
            images.write(image.tobytes())


def open_pairs(where: Path | None) -> Bench | PairFolder:
    """Open what ``--data`` names: a dataset that ``soundsight prepare`` made, or a bench.

    Raises:
        DataError: when it is neither.
    """
    chosen = where or Path(os.environ.get(BENCH_VARIABLE) or DEFAULT_BENCH)
    if os.path.isfile(chosen / ABOUT) or os.path.isdir(chosen / WORK):
        return open_dataset(chosen)
    return find_bench(where)


def describe(pairs: Pairs, split: str) -> dict[str, Any]:
    """Say which pairs a split of a dataset holds, wherever it lies: kind, number and a hash."""
    if isinstance(pairs, PairFolder):
        about = {"kind": "prepared", "pairs": pairs.count(split), "sha256": pairs.sha256}
        return {**about, "split": split}
    names = sorted(f"{pair.spectrogram} {pair.photo}\n" for pair in pairs.pairs(split))
    digest = hashlib.sha256("".join(names).encode()).hexdigest()
    return {"kind": "bench", "pairs": len(names), "sha256": digest, "split": split}


def batch_indices(length: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """Return which of ``length`` records make up batch ``step``: int64 [batch_size].

    Each epoch is shuffled whole; a batch may span two.
    """
    return _batch(lambda epoch: _random(seed, epoch).permutation(length), length, batch_size, step)


def _batch(
    order: Callable[[int], NDArray[np.int64]], length: int, batch_size: int, step: int
) -> NDArray[np.int64]:
    epoch, start = divmod(step * batch_size, length)
    taken: list[NDArray[np.int64]] = []
    missing = batch_size
    while missing:
        taken.append(order(epoch)[start : start + missing])
        missing -= len(taken[-1])
        epoch, start = epoch + 1, 0
    return np.concatenate(taken)


def _random(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)))
