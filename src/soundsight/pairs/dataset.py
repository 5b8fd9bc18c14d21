"""Training pairs as tensors: streamed from the shards, under opaque ids, without any label.

A record is read from its tar when it is first asked for and, with ``cache``, kept decoded (about
0.5 GB for the whole bench). Which records make up batch ``step`` is a function of (seed, step)
alone, so that an interrupted run goes on with the very batch it would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from soundsight.core.errors import DataError
from soundsight.pairs.bench import Bench


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


def opaque_id(name: str) -> int:
    """A number that keeps identity and drops everything else a name says (its class, above all)."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, key=b"soundsight pair").digest()
    return int.from_bytes(digest, "little") >> 1


class PairDataset(Dataset[dict[str, Tensor]]):
    """The pairs of one split of a bench.

    The order is that of the opaque ids, so that position tells nothing either.

    Args:
        bench: where the shards lie.
        split: ``train``, ``val`` or ``devtest``.
        cache: keep decoded records in memory.

    Raises:
        DataError: when the split holds no pairs, or a record cannot be read.
    """

    def __init__(self, bench: Bench, split: str, *, cache: bool = True) -> None:
        self._bench = bench
        records = [
            (
                opaque_id(p.spectrogram),
                opaque_id(p.video),
                opaque_id(p.photo),
                p.spectrogram,
                p.photo,
            )
            for p in bench.pairs(split)
        ]
        if not records:
            raise DataError(f"{bench.root} has no pairs in its {split} split")
        self._records = sorted(records)
        self._mels: dict[int, NDArray[np.uint8]] | None = {} if cache else None
        self._images: dict[int, NDArray[np.uint8]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self._records)

    def mel(self, index: int) -> NDArray[np.uint8]:
        """Return the log-mel of one pair, uint8 [128, 100]."""
        key, _, _, name, _ = self._records[index]
        if self._mels is None:
            return self._bench.spectrogram(name)
        if key not in self._mels:
            self._mels[key] = self._bench.spectrogram(name)
        return self._mels[key]

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return the frame of one pair, uint8 [96, 96, 3]."""
        _, _, key, _, name = self._records[index]
        if self._images is None:
            return self._bench.photo(name)
        if key not in self._images:
            self._images[key] = self._bench.photo(name)
        return self._images[key]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``mel`` uint8 [1, 128, 100], ``image`` uint8 [3, 96, 96] and the opaque ids."""
        _, video, photo, _, _ = self._records[index]
        return {
            "mel": torch.from_numpy(self.mel(index).copy())[None],
            "image": torch.from_numpy(self.image(index).transpose(2, 0, 1).copy()),
            "video": torch.tensor(video),
            "photo": torch.tensor(photo),
        }

    def gather(self, indices: Sequence[int] | NDArray[np.int64]) -> PairBatch:
        """Return the pairs at ``indices`` as one batch."""
        rows = [int(i) for i in indices]
        return PairBatch(
            mel=torch.from_numpy(np.stack([self.mel(i) for i in rows]))[:, None],
            image=torch.from_numpy(np.stack([self.image(i) for i in rows]))
            .permute(0, 3, 1, 2)
            .contiguous(),
            video=torch.tensor([self._records[i][1] for i in rows]),
            photo=torch.tensor([self._records[i][2] for i in rows]),
        )


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
