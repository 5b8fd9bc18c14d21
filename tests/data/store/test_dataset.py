"""The one loader: opaque, label-free pairs, and the same batch for the same step."""

from __future__ import annotations

import itertools
import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from soundsight.core import files
from soundsight.core.errors import ConfigError, DataError, OutputError
from soundsight.data.records import Record, opaque_id
from soundsight.data.store import dataset
from soundsight.data.store.dataset import PairDataset, batch_indices, open_pairs
from soundsight.data.store.shards import Entry, PairFolder, open_dataset
from soundsight.data.vegas.bench import Bench

SHARDS = {"train": [9, 14, 0, 1, 17], "val": [2]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Five shards of different sizes, one of them empty, 41 pairs."""
    return make_dataset(tmp_path_factory.mktemp("reader") / "data", SHARDS)


def same(a: PairDataset, b: PairDataset, rows: list[int]) -> bool:
    mine, theirs = a.gather(rows), b.gather(rows)
    return all(torch.equal(getattr(mine, name), getattr(theirs, name)) for name in vars(mine))


# --- a bench -------------------------------------------------------------------------------------


def test_a_bench_gives_tensors_and_opaque_numbers_only(toy_bench: Bench) -> None:
    data, read = PairDataset(toy_bench, "train"), PairDataset(toy_bench, "train", cache=False)
    item = data[0]
    assert set(item) == {"mel", "image", "video", "photo"}
    assert (item["mel"].shape, item["mel"].dtype) == ((1, 128, 100), torch.uint8)
    assert item["image"].shape == (3, 96, 96)
    assert item["video"].dtype == torch.int64
    few = data.gather([3, 0, 3])
    for row, index in enumerate((3, 0, 3)):
        assert torch.equal(few.mel[row], read[index]["mel"])
        assert torch.equal(few.image[row], read[index]["image"])
    batch = data.gather(range(len(data)))
    pairs = toy_bench.pairs("train")
    assert len(torch.unique(batch.video)) == len({p.video for p in pairs})
    assert len(torch.unique(batch.photo)) == len({p.photo for p in pairs})
    # Position must not tell the class either: neighbours of one class are no run of the table.
    by_name = {toy_bench.spectrogram(p.spectrogram).tobytes(): p.subject for p in pairs}
    order = [by_name[data.mel(i).tobytes()] for i in range(len(data))]
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes > len({p.subject for p in pairs}) - 1


def test_batches_cover_each_epoch_once_and_depend_on_seed_and_step_alone() -> None:
    epoch = np.concatenate([batch_indices(10, 4, seed=3, step=s) for s in range(5)])
    assert sorted(epoch[:10]) == sorted(epoch[10:20]) == list(range(10))
    assert list(epoch[:10]) != list(epoch[10:20])
    assert np.array_equal(batch_indices(10, 4, 3, 2), batch_indices(10, 4, 3, 2))
    assert not np.array_equal(batch_indices(1000, 4, 3, 2), batch_indices(1000, 4, 4, 2))
    # A batch may be larger than the data.
    batch = batch_indices(3, 7, 0, 0)
    assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]
    assert len(batch) == 7


def test_what_data_names_is_recognised(toy_data: Path, toy_bench: Bench, tmp_path: Path) -> None:
    assert isinstance(open_pairs(toy_data), PairFolder)
    assert isinstance(open_pairs(toy_bench.root), Bench)
    (tmp_path / "begun" / ".work").mkdir(parents=True)
    with pytest.raises(DataError, match="not finished: run the same prepare command again"):
        open_pairs(tmp_path / "begun")
    with pytest.raises(DataError):
        open_pairs(tmp_path / "nowhere")
    with pytest.raises(DataError, match="unknown split"):
        PairDataset(toy_bench, "holiday")
    with pytest.raises(DataError, match="has no split 'dev'"):
        PairDataset(toy_data, "dev")


# --- prepared datasets ---------------------------------------------------------------------------


def test_a_prepared_dataset_gives_its_pairs_opaquely(data: Path, toy_bench: Bench) -> None:
    folder = open_dataset(data)
    pairs = PairDataset(folder, "train")
    assert len(pairs) == 41
    for row, record in enumerate(folder.records("train")):
        mel, image = folder.decode(record)
        assert image is not None
        item = pairs[row]
        assert torch.equal(item["mel"], torch.from_numpy(mel)[None])
        assert torch.equal(item["image"], torch.from_numpy(image.transpose(2, 0, 1).copy()))
        assert int(item["video"]) == opaque_id(json.loads(record.files["json"])["group"])
        assert int(item["photo"]) == opaque_id(record.key)
        assert 0 <= int(item["video"]) < 2**63
    assert len(set(pairs.numbers()[:, 1])) == 14
    assert len(pairs.photos()) == 41
    # Several places are read one after the other.
    bench = PairDataset(toy_bench, "train")
    both = PairDataset([toy_bench, folder], "train")
    assert len(both) == len(bench) + 41
    assert np.array_equal(both.numbers(), np.concatenate([bench.numbers(), pairs.numbers()]))
    assert np.array_equal(both.mel(len(bench) + 40), pairs.mel(40))
    assert np.array_equal(both.image(2), bench.image(2))


@pytest.mark.parametrize("window", [1, 5, 16, 1000])
def test_an_epoch_holds_every_pair_once_over_all_ranks(data: Path, window: int) -> None:
    pairs = PairDataset(data, "train", window=window)
    for epoch, world in ((0, 1), (1, 2), (2, 5)):
        ranks = [pairs.order(3, epoch, rank=rank, world=world) for rank in range(world)]
        assert max(map(len, ranks)) - min(map(len, ranks)) <= 1
        assert sorted(np.concatenate(ranks)) == list(range(41))


def test_batches_follow_the_order_and_a_run_goes_on_from_any_step(data: Path) -> None:
    """Batch by batch, whichever was asked for before, in this process or in another."""
    pairs = PairDataset(data, "train", window=16)
    seen = [tuple(pairs.order(s, e)) for s, e in ((1, 0), (2, 0), (1, 1), (2, 1))]
    assert len(set(seen)) == 4
    assert seen[0] == tuple(PairDataset(data, "train", window=16).order(1, 0))
    whole = np.concatenate([pairs.order(7, epoch) for epoch in range(4)])
    batches = [pairs.rows(10, 7, step) for step in range(16)]
    assert np.array_equal(np.concatenate(batches), whole[:160])
    resumed = pickle.loads(pickle.dumps(pairs))
    for step in (15, 3, 4):
        assert np.array_equal(resumed.rows(10, 7, step), batches[step])
    assert same(resumed, pairs, list(batches[4]))
    # What fits one window is shuffled as everything else that is learned from.
    fits = PairDataset(data, "train")
    assert np.array_equal(fits.rows(10, 7, 5), batch_indices(41, 10, 7, 5))


def test_a_window_is_read_shard_by_shard_and_one_as_large_as_the_split_evenly(data: Path) -> None:
    pairs = PairDataset(data, "train", window=8)
    ends = np.cumsum(SHARDS["train"])
    shards = [set(np.searchsorted(ends, w, side="right")) for w in
              np.array_split(pairs.order(0, 0)[:40], 5)]  # fmt: skip
    assert max(map(len, shards)) <= 3
    whole, places = PairDataset(data, "train"), Counter[int]()
    for epoch in range(60):
        places.update(whole.order(0, epoch)[:20].tolist())
    # 20 of 41 places: 29.3 +- 3.9 times among the first.
    assert all(12 <= places[row] <= 47 for row in range(41))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one CPU
def test_pytorchs_own_loader_reads_with_workers_and_goes_on(data: Path) -> None:
    pairs = PairDataset(data, "train")
    order = pairs.order(1, 0)
    loader = DataLoader(pairs, sampler=order[10:], batch_size=16, num_workers=2)
    batches = list(loader)
    assert [len(batch["mel"]) for batch in batches] == [16, 15]
    assert torch.equal(batches[0]["mel"], pairs.gather(order[10:26]).mel)
    assert torch.equal(batches[1]["photo"], pairs.gather(order[26:]).photo)


def test_memory_is_used_by_default_for_what_fits(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    real = PairFolder.read

    def read(self: PairFolder, tar: str, entry: Entry) -> Record:
        reads.append(entry.key)
        return real(self, tar, entry)

    monkeypatch.setattr(PairFolder, "read", read)
    for window, expected in ((7, 1), (6, 2)):
        pairs = PairDataset(toy_data, "train", window=window)
        reads.clear()
        pairs.mel(3)
        pairs.mel(3)
        assert len(reads) == expected


def test_a_damaged_pair_is_named_until_it_is_mended(
    tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    root = make_dataset(tmp_path / "data", {"train": [5]})
    tar = root / "train-000000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:20_000] + bytes([whole[20_000] ^ 1]) + whole[20_001:])
    pairs = PairDataset(root, "train")
    for _ in range(2):
        with pytest.raises(DataError, match="is damaged: run  soundsight data verify"):
            pairs.gather(range(5))
    tar.write_bytes(whole)
    assert len(pairs.gather(range(5)).mel) == 5


def test_what_cannot_be_read_as_pairs_is_one_line(
    tmp_path: Path, data: Path, make_dataset: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match=r"pictures of 64 pixels: .*--size 96") as error:
        PairDataset(make_dataset(tmp_path / "small", px=64), "train")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="has no pairs in its val split"):
        PairDataset(make_dataset(tmp_path / "no val", {"train": [1], "val": []}), "val")
    for gone, words in (("mel.png", "no log-mels"), ("jpg", "no pictures")):
        root = make_dataset(tmp_path / gone, {"train": [1]})
        about = json.loads((root / "dataset.json").read_bytes())
        about["files"].remove(gone)
        (root / "dataset.json").write_text(json.dumps(about))
        with pytest.raises(DataError, match=words):
            PairDataset(root, "train")
    pairs = PairDataset(data, "train")
    for options in ({"rank": 1}, {"rank": -1}, {"world": 0}, {"seed": -1}, {"epoch": -1}):
        with pytest.raises(ConfigError, match="at least 0"):
            pairs.order(**options)
    with pytest.raises(ConfigError, match="window"):
        PairDataset(data, "train", window=0)
    with pytest.raises(IndexError):
        pairs[41]


# --- the decoded cache ---------------------------------------------------------------------------


def test_the_cache_is_made_once_for_one_dataset_and_gives_the_same_pairs(
    data: Path, tmp_path: Path, make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    plain, rows = PairDataset(data, "train"), list(range(41))
    cached = PairDataset(data, "train", cache=cache)
    assert same(cached, plain, rows)
    cached.gather([0]).mel[:] = 0  # a copy: what a user does to it stays with them
    assert same(pickle.loads(pickle.dumps(cached)), plain, rows)
    assert [path.name[:6] for path in cache.iterdir()] == ["train-"]
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_write_arrays", None)
        assert same(PairDataset(data, "train", cache=cache), plain, rows)
    other = make_dataset(tmp_path / "other", {"train": [3]}, seed=5)
    assert len(PairDataset(other, "train", cache=cache)) == 3
    assert len(list(cache.iterdir())) == 2
    PairDataset(data, "val", cache=tmp_path / "cut")
    for path in tmp_path.glob("cut/*/*.npy"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-9])
        with pytest.raises(DataError, match="is damaged: remove that folder") as caught:
            PairDataset(data, "val", cache=tmp_path / "cut")
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)


def test_a_cache_that_fails_half_way_leaves_nothing_and_a_quicker_process_is_joined(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "write_json", full)
        with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
            PairDataset(data, "val", cache=cache)
        assert list(cache.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        PairDataset(data, "val", cache=tmp_path / "file")

    def beaten(path: Path) -> object:
        PairDataset(data, "val", cache=cache)
        return files.atomic_folder(path)

    real = dataset.atomic_folder
    calls = iter([beaten, real])
    monkeypatch.setattr(dataset, "atomic_folder", lambda path: next(calls)(path))
    assert same(PairDataset(data, "val", cache=cache), PairDataset(data, "val"), [0, 1])
    assert len(list(cache.iterdir())) == 1
