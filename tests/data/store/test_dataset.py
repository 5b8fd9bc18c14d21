"""Training pairs: opaque, label-free, and the same batch for the same step."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from soundsight.core.errors import DataError
from soundsight.data.store.dataset import (
    PairDataset,
    StreamedPairs,
    batch_indices,
    opaque_id,
    open_pairs,
)
from soundsight.data.store.loader import video_number
from soundsight.data.store.shards import PairFolder, open_dataset
from soundsight.data.vegas.bench import Bench


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


# --- prepared datasets ---------------------------------------------------------------------------


def test_a_prepared_dataset_gives_its_pairs_opaquely(toy_data: Path) -> None:
    folder = open_dataset(toy_data)
    data = PairDataset(folder, "train")
    assert len(data) == 7
    stored = {}
    for record in folder.records("train"):
        mel, image = folder.decode(record)
        assert image is not None
        group = json.loads(record.files["json"])["group"]
        stored[opaque_id(record.key)] = (mel, image, video_number(group))
    photos = []
    for index in range(len(data)):
        item = data[index]
        photos.append(int(item["photo"]))
        mel, image, video = stored.pop(photos[-1])
        assert torch.equal(item["mel"], torch.from_numpy(mel)[None])
        assert torch.equal(item["image"], torch.from_numpy(image.transpose(2, 0, 1).copy()))
        assert int(item["video"]) == video
    assert stored == {}
    # The order is that of the opaque numbers, not of the shards.
    assert photos == sorted(photos)


def test_a_prepared_dataset_read_with_and_without_memory(toy_data: Path) -> None:
    folder = open_dataset(toy_data)
    kept, read = PairDataset(folder, "train", cache=True), PairDataset(folder, "train", cache=False)
    for _ in range(2):
        a, b = kept.gather([6, 0, 3]), read.gather([6, 0, 3])
        assert torch.equal(a.mel, b.mel)
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.video, b.video)
        assert a.mel.shape == (3, 1, 128, 100)
        assert a.image.shape == (3, 3, 96, 96)


def test_memory_is_used_by_default_for_what_fits(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_dataset(toy_data)
    reads = []
    real = PairFolder.record

    def record(self: PairFolder, split: str, index: int) -> object:
        reads.append(index)
        return real(self, split, index)

    monkeypatch.setattr(PairFolder, "record", record)
    for limit, expected in ((7, 1), (6, 2)):
        monkeypatch.setattr("soundsight.data.store.dataset._CACHED_PAIRS", limit)
        data = PairDataset(folder, "train")
        reads.clear()
        data.mel(3)
        data.mel(3)
        assert len(reads) == expected


def test_a_prepared_dataset_of_another_size_is_refused(
    tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    folder = open_dataset(make_dataset(tmp_path / "data", px=64))
    with pytest.raises(DataError, match=r"pictures of 64 pixels: .*--size 96") as error:
        PairDataset(folder, "train")
    assert "\n" not in str(error.value)


def test_a_split_without_pairs_is_an_error(
    tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    folder = open_dataset(make_dataset(tmp_path / "data", {"train": [1], "val": []}))
    with pytest.raises(DataError, match="has no pairs in its val split"):
        PairDataset(folder, "val")


def test_what_data_names_is_recognised(toy_data: Path, toy_bench: Bench, tmp_path: Path) -> None:
    assert isinstance(open_pairs(toy_data), PairFolder)
    assert isinstance(open_pairs(toy_bench.root), Bench)
    (tmp_path / "begun" / ".work").mkdir(parents=True)
    with pytest.raises(DataError, match="not finished: run the same prepare command again"):
        open_pairs(tmp_path / "begun")
    with pytest.raises(DataError):
        open_pairs(tmp_path / "nowhere")


# --- streams -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stream_data(
    tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]
) -> Path:
    """41 training pairs in five shards."""
    return make_dataset(tmp_path_factory.mktemp("stream") / "data", {"train": [9, 14, 3, 1, 14]})


def photos(pairs: StreamedPairs, workers: int = 0) -> list[int]:
    loader = DataLoader(
        pairs, batch_size=None, num_workers=workers,
    )  # fmt: skip
    return [int(item["photo"]) for item in loader]


def test_a_stream_gives_what_random_access_gives(stream_data: Path) -> None:
    folder = open_dataset(stream_data)
    data = PairDataset(folder, "train")
    by_photo = {int(data[i]["photo"]): data[i] for i in range(len(data))}
    seen = []
    for item in StreamedPairs(stream_data, "train", shuffle_buffer=8):
        expected = by_photo[int(item["photo"])]
        seen.append(int(item["photo"]))
        assert set(item) == set(expected)
        assert all(torch.equal(item[name], expected[name]) for name in expected)
    assert sorted(seen) == sorted(by_photo)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one CPU
def test_workers_share_an_epoch_and_each_goes_on_from_its_place(stream_data: Path) -> None:
    everything = sorted(photos(StreamedPairs(stream_data, "train")))
    settings = {"seed": 3, "epoch": 1, "shuffle_buffer": 8}
    whole = photos(StreamedPairs(stream_data, "train", **settings), workers=2)
    assert sorted(whole) == everything
    # Without batches workers take turns: two pairs from each are the first four.
    rest = photos(StreamedPairs(stream_data, "train", start=2, **settings), workers=2)
    assert rest == whole[4:]


@pytest.mark.parametrize("start", [0, 1, 17, 41, 50])
def test_a_stream_goes_on_in_the_middle_of_an_epoch(stream_data: Path, start: int) -> None:
    settings = {"seed": 1, "shuffle_buffer": 8}
    whole = photos(StreamedPairs(stream_data, "train", **settings))
    assert photos(StreamedPairs(stream_data, "train", start=start, **settings)) == whole[start:]


def test_epochs_and_ranks(stream_data: Path, tmp_path: Path) -> None:
    first, second = (photos(StreamedPairs(stream_data, "train", epoch=e)) for e in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second
    ranks = [photos(StreamedPairs(stream_data, "train", rank=r, world=3)) for r in range(3)]
    assert sorted(itertools.chain.from_iterable(ranks)) == sorted(first)
    cached = StreamedPairs(stream_data, "train", cache=tmp_path / "cache")
    assert photos(cached) == first


def test_a_batch_of_a_stream_is_stacked(stream_data: Path) -> None:
    loader = DataLoader(StreamedPairs(stream_data, "train"), batch_size=16)
    shapes = [(batch["mel"].shape, batch["image"].dtype) for batch in loader]
    assert shapes[0] == ((16, 1, 128, 100), torch.uint8)
    assert [shape[0] for shape, _ in shapes] == [16, 16, 9]
