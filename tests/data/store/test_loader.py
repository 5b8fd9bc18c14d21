"""The training reader: every pair once, in an order that can be taken up anywhere."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundsight.core.errors import ConfigError, DataError, OutputError
from soundsight.data.store import loader as module
from soundsight.data.store.loader import PairReader, PairSample, video_number
from soundsight.data.store.shards import open_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Five shards of different sizes, one of them empty, 41 pairs."""
    shards = {"train": [9, 14, 0, 1, 17], "val": [2]}
    return make_dataset(tmp_path_factory.mktemp("reader") / "data", shards)


def keys(reader: PairReader) -> list[str]:
    return [sample.key for sample in reader]


def same(a: PairSample, b: PairSample) -> bool:
    assert a.image is not None
    assert b.image is not None
    equal = (a.mel == b.mel).all() and (a.image == b.image).all()
    return (a.key, a.video) == (b.key, b.video) and bool(equal)


def test_the_stored_order_without_a_buffer(data: Path) -> None:
    folder = open_dataset(data)
    records = list(folder.records("train"))
    samples = list(PairReader(data, "train", shuffle_buffer=0))
    assert [s.key for s in samples] == [r.key for r in records]
    for sample, record in zip(samples, records, strict=True):
        mel, image = folder.decode(record)
        assert sample.image is not None
        assert (sample.mel == mel).all()
        assert (sample.image == image).all()
        assert sample.video == video_number(json.loads(record.files["json"])["group"])
    assert len({s.video for s in samples}) == 14


def test_a_sample_says_nothing_of_its_class(data: Path) -> None:
    sample = next(iter(PairReader(data, "train")))
    assert set(vars(sample)) == {"key", "video", "mel", "image"}
    assert "dog" not in sample.key
    assert "train" not in sample.key
    assert 0 <= sample.video < 2**63


def test_videos_are_numbered_as_in_the_bench() -> None:
    dataset = pytest.importorskip("soundsight.data.store.dataset")
    assert video_number("c001_s00001") == dataset.opaque_id("c001_s00001")


@pytest.mark.parametrize("shuffle", [0, 1, 5, 1000])
@pytest.mark.parametrize(("world", "workers"), [(1, 1), (2, 1), (1, 3), (2, 2), (5, 1), (3, 4)])
def test_each_pair_is_read_once_over_all_readers(
    data: Path, world: int, workers: int, shuffle: int
) -> None:
    folder = open_dataset(data)
    everything = {record.key for record in folder.records("train")}
    for epoch in (0, 1):
        seen: list[str] = []
        for rank in range(world):
            for worker in range(workers):
                reader = PairReader(
                    folder, "train", shuffle_buffer=shuffle, seed=3, epoch=epoch,
                    rank=rank, world=world, worker=worker, workers=workers,
                )  # fmt: skip
                part = keys(reader)
                assert len(part) == len(reader) == reader.position
                seen += part
        assert len(seen) == 41
        assert set(seen) == everything


def test_more_readers_than_shards_share_the_pairs_evenly(data: Path) -> None:
    sizes = [len(PairReader(data, "train", rank=rank, world=6)) for rank in range(6)]
    assert sorted(sizes) == [6, 7, 7, 7, 7, 7]


def test_the_order_depends_on_seed_and_epoch_alone(data: Path) -> None:
    def order(**options: int) -> list[str]:
        return keys(PairReader(data, "train", shuffle_buffer=16, **options))

    first = order(seed=1)
    assert first == order(seed=1)
    others = [order(seed=2), order(seed=1, epoch=1), order(seed=2, epoch=1)]
    assert len({tuple(o) for o in [first, *others]}) == 4
    assert all(sorted(o) == sorted(first) for o in others)
    twice = PairReader(data, "train", shuffle_buffer=16, seed=1)
    assert keys(twice) == first
    assert keys(twice) == order(seed=1, epoch=1)
    assert twice.epoch == 1


def test_a_buffer_as_large_as_the_split_shuffles_evenly(data: Path) -> None:
    folder = open_dataset(data)
    places = Counter[str]()
    epochs = 60
    for epoch in range(epochs):
        places.update(keys(PairReader(folder, "train", shuffle_buffer=99, epoch=epoch))[:20])
    # 20 of 41 places: 29.3 +- 3.9 times among the first.
    assert all(12 <= places[r.key] <= 47 for r in folder.records("train"))


def test_the_buffer_bounds_how_many_pairs_wait(data: Path, monkeypatch) -> None:
    fetched = 0
    real = module._Shards.fetch

    def counted(self, ref):
        nonlocal fetched
        fetched += 1
        return real(self, ref)

    monkeypatch.setattr(module._Shards, "fetch", counted)
    for given_out, _ in enumerate(PairReader(data, "train", shuffle_buffer=8), start=1):
        assert fetched - given_out <= 8
    assert fetched == 41


@given(
    cut=st.integers(0, 41),
    shuffle=st.sampled_from([0, 1, 7, 40, 41, 500]),
    share=st.sampled_from([(0, 1), (1, 2), (3, 7)]),
    epoch=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_reader_goes_on_from_any_place(
    data: Path, cut: int, shuffle: int, share: tuple[int, int], epoch: int
) -> None:
    rank, world = share

    def fresh(epoch: int) -> PairReader:
        return PairReader(
            data, "train", shuffle_buffer=shuffle, rank=rank, world=world, epoch=epoch
        )

    through = fresh(epoch)
    whole = list(through)
    cut = min(cut, len(whole))
    stopped = fresh(epoch)
    assert len(list(islice(stopped, cut))) == cut
    state = json.loads(json.dumps(stopped.state()))
    resumed = fresh(0)
    resumed.load_state(state)
    rest = list(resumed)
    assert len(rest) == len(whole) - cut
    assert all(same(a, b) for a, b in zip(rest, whole[cut:], strict=True))
    assert keys(resumed) == keys(through)


def test_going_on_decodes_nothing_that_was_seen(data: Path, monkeypatch) -> None:
    stopped = PairReader(data, "train", shuffle_buffer=5)
    list(islice(stopped, 30))
    fetched, decoded = [], []
    real_fetch, real_sample = module._Shards.fetch, module._Shards.sample
    monkeypatch.setattr(
        module._Shards, "fetch", lambda s, ref: fetched.append(ref) or real_fetch(s, ref)
    )
    monkeypatch.setattr(
        module._Shards, "sample", lambda s, item: decoded.append(1) or real_sample(s, item)
    )
    resumed = PairReader(data, "train", shuffle_buffer=5)
    resumed.load_state(stopped.state())
    assert len(keys(resumed)) == 11
    assert (len(fetched), len(decoded)) == (11, 11)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "0" * 64}, "dataset is '000"),
        ({"world": 2}, "world is 2 there and 1 here"),
        ({"split": "val"}, "split is 'val' there and 'train' here"),
        ({"seed": 9}, "seed is 9 there"),
        ({"position": 42}, "it stands at pair 42"),
        ({"position": -1}, "no epoch and position"),
        ({"epoch": None}, "no epoch and position"),
    ],
)
def test_the_state_of_another_reader_is_refused(data: Path, change: dict, words: str) -> None:
    reader = PairReader(data, "train")
    first = next(reader)
    with pytest.raises(DataError, match=words) as caught:
        reader.load_state({**reader.state(), **change})
    assert "\n" not in str(caught.value)
    assert reader.position == 1
    assert keys(reader)[0] != first.key


def test_the_state_of_another_dataset_is_refused(
    data: Path, tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    other = make_dataset(tmp_path / "other", {"train": [9, 14, 0, 1, 17]}, seed=1)
    with pytest.raises(DataError, match="this state is of another reader: dataset is"):
        PairReader(other, "train").load_state(PairReader(data, "train").state())


def test_wrong_numbers_are_one_line(data: Path) -> None:
    for options in ({"rank": 1}, {"worker": -1}, {"workers": 0}):
        with pytest.raises(ConfigError, match="must be at least 0 and below"):
            PairReader(data, "train", **options)
    for options in ({"seed": -1}, {"epoch": -1}, {"shuffle_buffer": -1}):
        with pytest.raises(ConfigError, match="must be at least 0"):
            PairReader(data, "train", **options)
    with pytest.raises(DataError, match="has no split 'dev'"):
        PairReader(data, "dev")


def test_pictures_can_be_left_out(data: Path, tmp_path: Path) -> None:
    for cache in (None, tmp_path / "cache"):
        assert {s.image is None for s in PairReader(data, "val", with_image=False)} == {True}
        assert {s.image is None for s in PairReader(data, "val", cache=cache)} == {False}


@pytest.mark.parametrize(("gone", "words"), [("mel.png", "no log-mels"), ("jpg", "no pictures")])
def test_a_dataset_without_a_half_is_refused(
    tmp_path: Path, make_dataset: Callable[..., Path], gone: str, words: str
) -> None:
    root = make_dataset(tmp_path / "data", {"train": [1]})
    about = json.loads((root / "dataset.json").read_bytes())
    about["files"].remove(gone)
    (root / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=words):
        PairReader(root, "train")


def test_a_reader_travels_to_another_process(data: Path, tmp_path: Path) -> None:
    for cache in (None, tmp_path / "cache"):
        reader = PairReader(data, "train", shuffle_buffer=6, cache=cache)
        list(islice(reader, 10))
        copy = pickle.loads(pickle.dumps(reader))
        assert keys(copy) == keys(reader)


def test_a_damaged_pair_stops_the_reader_until_it_is_mended(
    tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    root = make_dataset(tmp_path / "data", {"train": [5]})
    tar = root / "train-000000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:20_000] + bytes([whole[20_000] ^ 1]) + whole[20_001:])
    reader = PairReader(root, "train", shuffle_buffer=0)
    read: list[str] = []
    for _ in range(2):
        with pytest.raises(DataError, match="is damaged: run  soundsight data verify"):
            read.extend(sample.key for sample in reader)
    assert len(read) == reader.position
    tar.write_bytes(whole)
    assert read + keys(reader) == keys(PairReader(root, "train", shuffle_buffer=0))


def test_reading_over_fsspec(data: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(data), "/bucket/data", recursive=True)
    try:
        here = PairReader(data, "train", shuffle_buffer=7)
        there = PairReader("memory://bucket/data", "train", shuffle_buffer=7)
        assert all(same(a, b) for a, b in zip(there, here, strict=True))
        assert there.state() == here.state()
    finally:
        memory.rm("/bucket", recursive=True)


# --- the decoded cache -------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [0, 7, 100])
def test_the_cache_gives_the_same_pairs(data: Path, tmp_path: Path, shuffle: int) -> None:
    plain = list(PairReader(data, "train", shuffle_buffer=shuffle))
    for _ in range(2):
        cached = list(PairReader(data, "train", shuffle_buffer=shuffle, cache=tmp_path / "c"))
        assert all(same(a, b) for a, b in zip(plain, cached, strict=True))
    cached[0].mel[:] = 0  # a copy: what a user does to it stays with them
    again = PairReader(data, "train", shuffle_buffer=shuffle, cache=tmp_path / "c")
    assert same(next(again), plain[0])


def test_a_cache_is_made_once_and_for_one_dataset(
    data: Path, tmp_path: Path, make_dataset: Callable[..., Path], monkeypatch
) -> None:
    cache = tmp_path / "cache"
    PairReader(data, "train", cache=cache)
    made = sorted(p.name for p in cache.iterdir())
    (folder,) = cache.iterdir()
    assert [name[:6] for name in made] == ["train-"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_decode_all", None)
        PairReader(data, "train", cache=cache)
    other = make_dataset(tmp_path / "other", {"train": [3]}, seed=5)
    assert len(keys(PairReader(other, "train", cache=cache))) == 3
    assert len(list(cache.iterdir())) == 2
    about = json.loads((folder / "cache.json").read_bytes())
    (folder / "cache.json").write_text(json.dumps({**about, "dataset": "another"}))
    with pytest.raises(DataError, match="is damaged: remove that folder") as caught:
        PairReader(data, "train", cache=cache)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mel.npy", "image.npy", "key.npy", "video.npy", "cache.json"])
def test_a_cut_cache_is_refused(data: Path, tmp_path: Path, name: str) -> None:
    PairReader(data, "train", cache=tmp_path / "cache")
    (path,) = tmp_path.glob(f"cache/*/{name}")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="is damaged: remove that folder"):
        PairReader(data, "train", cache=tmp_path / "cache")


def test_a_cache_that_fails_half_way_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
        PairReader(data, "train", cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        PairReader(data, "train", cache=tmp_path / "file")


def _read_with_cache(data: Path, cache: Path, start, results) -> None:  # type: ignore[no-untyped-def]
    start.wait()
    samples = list(PairReader(data, "train", cache=cache))
    results.put([(s.key, int(s.mel.sum()), int(np.sum(s.image))) for s in samples])


def test_two_processes_that_make_one_cache_do_no_harm(data: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    cache = tmp_path / "cache"
    both = [
        context.Process(target=_read_with_cache, args=(data, cache, start, results))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    got = [results.get(timeout=60) for _ in both]
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    expected = [(s.key, int(s.mel.sum()), int(np.sum(s.image))) for s in PairReader(data, "train")]
    assert got == [expected, expected]
    assert len(list(cache.iterdir())) == 1


def test_the_slower_of_two_uses_what_the_quicker_made(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module._decode_all

    def beaten(*args: object) -> None:
        real(*args)
        real(*args)

    monkeypatch.setattr(module, "_decode_all", beaten)
    assert len(keys(PairReader(data, "train", cache=tmp_path / "cache"))) == 41
    assert len(list((tmp_path / "cache").iterdir())) == 1
