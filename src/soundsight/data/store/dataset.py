"""Training pairs as tensors, from a bench, an Everyday table or a prepared dataset.

Ids are opaque, and there is no label.

A record is read from its tar when it is first asked for and, with ``cache``, kept decoded (about
0.5 GB for the whole bench). What is too large for that is streamed (``StreamedPairs``). Which
records make up batch ``step`` is a function of (seed, step) alone, so that an interrupted run goes
on with the very batch it would have seen.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from soundsight.core.errors import DataError
from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_PX, N_MELS
from soundsight.data.everyday.pairs import EverydayPairs
from soundsight.data.records import MEL, opaque_id
from soundsight.data.store.loader import PairReader, video_number
from soundsight.data.store.shards import ABOUT, WORK, PairFolder, open_dataset
from soundsight.data.vegas.bench import BENCH_VARIABLE, DEFAULT_BENCH, Bench, find_bench


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """A batch of n pairs.

    Attributes:
        mel: log-mels, uint8 [n, 1, 128, 100].
        image: frames, uint8 [n, 3, 96, 96].
        video: opaque number of the source video; equal where the video is.
        photo: opaque number of the frame; equal where the frame is.
    """

    mel: UInt8[Tensor, "n 1 128 100"]
    image: UInt8[Tensor, "n 3 96 96"]
    video: Int64[Tensor, " n"]
    photo: Int64[Tensor, " n"]


class _Item(NamedTuple):
    """Opaque numbers of a pair, its video and its picture, and how its store finds it."""

    pair: int
    video: int
    photo: int
    mel: Any
    image: Any


class _Store(Protocol):
    """Where pairs lie."""

    def items(self) -> list[_Item]: ...

    def mel(self, place: Any) -> NDArray[np.uint8]: ...

    def image(self, place: Any) -> NDArray[np.uint8]: ...


class _BenchStore:
    """The pairs of a bench."""

    def __init__(self, bench: Bench, split: str) -> None:
        self._bench = bench
        self._split = split

    def items(self) -> list[_Item]:
        return [
            _Item(
                opaque_id(p.spectrogram),
                opaque_id(p.video),
                opaque_id(p.photo),
                p.spectrogram,
                p.photo,
            )
            for p in self._bench.pairs(self._split)
        ]

    def mel(self, place: Any) -> NDArray[np.uint8]:
        return self._bench.spectrogram(place)

    def image(self, place: Any) -> NDArray[np.uint8]:
        return self._bench.photo(place)


class _EverydayStore:
    """The pairs that a table made for Everyday's sounds and photos."""

    def __init__(self, pairs: EverydayPairs, split: str) -> None:
        self._pairs = pairs
        self._split = split

    def items(self) -> list[_Item]:
        # The table may show a second with several photos, and with one of them more than once.
        return [
            _Item(
                opaque_id(f"{row} {p.spectrogram}"),
                opaque_id(p.video),
                opaque_id(p.photo),
                p.spectrogram,
                p.photo,
            )
            for row, p in enumerate(self._pairs.pairs(self._split))
        ]

    def mel(self, place: Any) -> NDArray[np.uint8]:
        return self._pairs.mel(place)

    def image(self, place: Any) -> NDArray[np.uint8]:
        return self._pairs.photo(place)


class _FolderStore:
    """The pairs of a dataset that ``soundsight prepare`` made."""

    def __init__(self, folder: PairFolder, split: str) -> None:
        size = (*folder.mel_shape, folder.image_px)
        if size != (N_MELS, FRAMES_PER_SEGMENT, IMAGE_PX):
            raise DataError(
                f"{folder.where} has log-mels of {size[0]} x {size[1]} and pictures of {size[2]} "
                f"pixels: the networks take {N_MELS} x {FRAMES_PER_SEGMENT} and {IMAGE_PX}, "
                "prepare it with --segment-s 1 --size 96"
            )
        if MEL not in folder.about["files"] or folder.image_name is None:
            raise DataError(f"{folder.where} holds no pairs of sound and picture")
        self._folder = folder
        self._split = split

    def items(self) -> list[_Item]:
        found = []
        index = 0
        for shard in self._folder.shards(self._split):
            for number in range(shard.pairs):
                entry = self._folder.entry(shard, number)
                # A frame belongs to its second alone.
                own = opaque_id(entry.key)
                found.append(_Item(own, video_number(entry.group), own, index, index))
                index += 1
        return found

    def mel(self, place: Any) -> NDArray[np.uint8]:
        record = self._folder.record(self._split, place)
        return self._folder.decode(record, with_image=False)[0]

    def image(self, place: Any) -> NDArray[np.uint8]:
        image = self._folder.decode(self._folder.record(self._split, place))[1]
        assert image is not None
        return image


class _JoinedStore:
    """The pairs of several stores, one after the other."""

    def __init__(self, stores: Sequence[_Store]) -> None:
        self._stores = stores

    def items(self) -> list[_Item]:
        return [
            item._replace(mel=(number, item.mel), image=(number, item.image))
            for number, store in enumerate(self._stores)
            for item in store.items()
        ]

    def mel(self, place: Any) -> NDArray[np.uint8]:
        return self._stores[place[0]].mel(place[1])

    def image(self, place: Any) -> NDArray[np.uint8]:
        return self._stores[place[0]].image(place[1])


_CACHED_PAIRS = 50_000
"""A split of at most so many pairs is kept decoded in memory (2 GB at most) by default."""


Pairs = Bench | PairFolder | EverydayPairs
"""Where pairs may lie."""


def _store_of(data: Pairs, split: str) -> _Store:
    if isinstance(data, EverydayPairs):
        return _EverydayStore(data, split)
    return _BenchStore(data, split) if isinstance(data, Bench) else _FolderStore(data, split)


class PairDataset(Dataset[dict[str, Tensor]]):
    """The pairs of one split of benches and of datasets that ``soundsight prepare`` made.

    The order is that of the opaque ids, so that position tells nothing either.

    Args:
        data: where the pairs lie; of several, the pairs of all.
        split: ``train``, ``val`` and ``devtest`` of a bench, or ``test`` of a prepared dataset.
        cache: keep decoded records in memory; None to do so for up to 50,000 pairs.

    Raises:
        DataError: when the split holds no pairs, when they are not of the networks' size, or when
            a record cannot be read.
    """

    def __init__(
        self,
        data: Pairs | Sequence[Pairs],
        split: str,
        *,
        cache: bool | None = None,
    ) -> None:
        places = [data] if isinstance(data, Pairs) else list(data)
        stores = [_store_of(place, split) for place in places]
        self._store: _Store = stores[0] if len(stores) == 1 else _JoinedStore(stores)
        where = ", ".join(
            str(place.where if isinstance(place, PairFolder) else place.root) for place in places
        )
        self._records = sorted(self._store.items(), key=lambda item: item[:3])
        if not self._records:
            raise DataError(f"{where} has no pairs in its {split} split")
        if cache is None:
            cache = len(self._records) <= _CACHED_PAIRS
        self._mels: dict[int, NDArray[np.uint8]] | None = {} if cache else None
        self._images: dict[int, NDArray[np.uint8]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self._records)

    def numbers(self) -> NDArray[np.int64]:
        """Return the opaque numbers of every pair, its video and its frame: int64 [n, 3]."""
        return np.array([item[:3] for item in self._records], np.int64)

    def photos(self) -> NDArray[np.uint8]:
        """Return every frame once, in the order of their numbers: uint8 [p, 3, 96, 96]."""
        _, rows = np.unique(self.numbers()[:, 2], return_index=True)
        levels = np.stack([self.image(int(row)) for row in rows])
        return np.ascontiguousarray(levels.transpose(0, 3, 1, 2))

    def mel(self, index: int) -> NDArray[np.uint8]:
        """Return the log-mel of one pair, uint8 [128, 100]."""
        item = self._records[index]
        if self._mels is None:
            return self._store.mel(item.mel)
        if item.pair not in self._mels:
            self._mels[item.pair] = self._store.mel(item.mel)
        return self._mels[item.pair]

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return the frame of one pair, uint8 [96, 96, 3]."""
        item = self._records[index]
        if self._images is None:
            return self._store.image(item.image)
        if item.photo not in self._images:
            self._images[item.photo] = self._store.image(item.image)
        return self._images[item.photo]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``mel`` uint8 [1, 128, 100], ``image`` uint8 [3, 96, 96] and the opaque ids."""
        item = self._records[index]
        return {
            "mel": torch.from_numpy(self.mel(index).copy())[None],
            "image": torch.from_numpy(self.image(index).transpose(2, 0, 1).copy()),
            "video": torch.tensor(item.video),
            "photo": torch.tensor(item.photo),
        }

    def gather(self, indices: Sequence[int] | NDArray[np.int64]) -> PairBatch:
        """Return the pairs at ``indices`` as one batch."""
        rows = [int(i) for i in indices]
        return PairBatch(
            mel=torch.from_numpy(np.stack([self.mel(i) for i in rows]))[:, None],
            image=torch.from_numpy(np.stack([self.image(i) for i in rows]))
            .permute(0, 3, 1, 2)
            .contiguous(),
            video=torch.tensor([self._records[i].video for i in rows]),
            photo=torch.tensor([self._records[i].photo for i in rows]),
        )


class StreamedPairs(IterableDataset[dict[str, Tensor]]):
    """One epoch of a prepared dataset as a stream, for splits too large to be read at random.

    Each worker of a ``DataLoader`` reads its own share; ``data.store.loader`` says which.

    Args:
        where: folder or URL of the dataset.
        split: ``train``, ``val`` or ``test``.
        seed: of the order.
        epoch: whose order is read.
        shuffle_buffer: pairs held to draw from; 0 for the stored order.
        rank: number of this process among ``world``.
        world: processes that share an epoch.
        start: pairs of the epoch that each worker has given already: a stopped epoch goes on.
        cache: folder for decoded pairs, or None.
    """

    def __init__(
        self,
        where: str | Path,
        split: str,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle_buffer: int = 1000,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        cache: str | Path | None = None,
    ) -> None:
        self._where = where
        self._split = split
        self._settings: dict[str, Any] = {
            "seed": seed, "shuffle_buffer": shuffle_buffer, "rank": rank, "world": world,
            "epoch": epoch, "cache": cache,
        }  # fmt: skip
        self._start = start

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield what ``PairDataset`` gives for a pair."""
        info = get_worker_info()
        share: dict[str, Any] = (
            {"worker": info.id, "workers": info.num_workers} if info is not None else {}
        )
        reader = PairReader(self._where, self._split, **self._settings, **share)
        if self._start:
            state = reader.state()
            reader.load_state({**state, "position": min(self._start, len(reader))})
        for sample in reader:
            assert sample.image is not None
            yield {
                "mel": torch.from_numpy(sample.mel.copy())[None],
                "image": torch.from_numpy(sample.image.transpose(2, 0, 1).copy()),
                "video": torch.tensor(sample.video),
                "photo": torch.tensor(opaque_id(sample.key)),
            }


def open_pairs(where: Path | None) -> Bench | PairFolder:
    """Open what ``--data`` names: a dataset that ``soundsight prepare`` made, or a bench.

    Raises:
        DataError: when it is neither.
    """
    chosen = where or Path(os.environ.get(BENCH_VARIABLE) or DEFAULT_BENCH)
    if os.path.isfile(chosen / ABOUT) or os.path.isdir(chosen / WORK):
        return open_dataset(chosen)
    return find_bench(where)


def describe(pairs: Bench | PairFolder, split: str) -> dict[str, Any]:
    """Say which pairs a split of a dataset holds, wherever it lies: kind, number and a hash."""
    if isinstance(pairs, PairFolder):
        about = {"kind": "prepared", "pairs": pairs.count(split), "sha256": pairs.sha256}
        return {**about, "split": split}
    names = sorted(f"{pair.spectrogram} {pair.photo}\n" for pair in pairs.pairs(split))
    digest = hashlib.sha256("".join(names).encode()).hexdigest()
    return {"kind": "bench", "pairs": len(names), "sha256": digest, "split": split}


def batch_indices(length: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """Return which records make up batch ``step``: epochs are shuffled one after another.

    Args:
        length: number of records.
        batch_size: records in a batch; a batch may span two epochs.
        seed: of the run.
        step: number of the batch, from 0.

    Returns:
        int64 [batch_size].
    """
    start = step * batch_size
    taken: list[NDArray[np.int64]] = []
    missing = batch_size
    while missing:
        epoch, offset = divmod(start, length)
        order = np.random.Generator(
            np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
        ).permutation(length)
        piece = order[offset : offset + missing]
        taken.append(piece)
        start += len(piece)
        missing -= len(piece)
    return np.concatenate(taken)
