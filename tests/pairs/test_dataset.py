"""Training pairs: opaque, label-free, and the same batch for the same step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from soundsight.core.errors import DataError
from soundsight.pairs.bench import Bench
from soundsight.pairs.dataset import PairDataset, batch_indices


def test_an_item_holds_tensors_and_opaque_numbers_only(toy_bench: Bench) -> None:
    data = PairDataset(toy_bench, "train")
    item = data[0]
    assert set(item) == {"mel", "image", "video", "photo"}
    assert item["mel"].shape == (1, 128, 100)
    assert item["mel"].dtype == torch.uint8
    assert item["image"].shape == (3, 96, 96)
    assert item["video"].dtype == torch.int64


def test_ids_keep_identity_and_say_nothing_of_the_class(toy_bench: Bench) -> None:
    data = PairDataset(toy_bench, "train")
    batch = data.gather(range(len(data)))
    pairs = toy_bench.pairs("train")
    assert len(torch.unique(batch.video)) == len({p.video for p in pairs})
    assert len(torch.unique(batch.photo)) == len({p.photo for p in pairs})
    # Position must not tell the class either: neighbours of one class are no run of the table.
    by_name = {toy_bench.spectrogram(p.spectrogram).tobytes(): p.subject for p in pairs}
    order = [by_name[data.mel(i).tobytes()] for i in range(len(data))]
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes > len({p.subject for p in pairs}) - 1


def test_gather_equals_the_items(toy_bench: Bench) -> None:
    cached, streamed = PairDataset(toy_bench, "train"), PairDataset(toy_bench, "train", cache=False)
    batch = cached.gather([3, 0, 3])
    for row, index in enumerate((3, 0, 3)):
        assert torch.equal(batch.mel[row], streamed[index]["mel"])
        assert torch.equal(batch.image[row], streamed[index]["image"])


def test_batches_cover_each_epoch_once_and_depend_on_seed_and_step_alone() -> None:
    epoch = np.concatenate([batch_indices(10, 4, seed=3, step=s) for s in range(5)])
    assert sorted(epoch[:10]) == list(range(10))
    assert sorted(epoch[10:20]) == list(range(10))
    assert list(epoch[:10]) != list(epoch[10:20])
    assert np.array_equal(batch_indices(10, 4, 3, 2), batch_indices(10, 4, 3, 2))
    assert not np.array_equal(batch_indices(1000, 4, 3, 2), batch_indices(1000, 4, 4, 2))


def test_a_batch_may_be_larger_than_the_data() -> None:
    batch = batch_indices(3, 7, 0, 0)
    assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]
    assert len(batch) == 7


def test_an_unknown_split_is_an_error(toy_bench: Bench) -> None:
    with pytest.raises(DataError, match="unknown split"):
        PairDataset(toy_bench, "holiday")
