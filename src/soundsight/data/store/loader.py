"""Streams the pairs of a dataset for training: shuffled, shared out, resumable, without any label.

The order of an epoch is a function of (seed, epoch) and of the reader's share alone. Shards come
in a drawn order; within them pairs come as stored, through a buffer of undecoded pairs from which
one at a time is drawn at random. As all of that is known without reading a byte, a reader that is
to go on in the middle of an epoch plays the draws again and reads only what its buffer would hold.

Who reads what: with P = ``world * workers`` readers in all, reader number
p = ``rank * workers + worker`` takes every P-th shard of the epoch's order where there are at
least P shards, and otherwise every P-th pair of that order. Each pair is read exactly once an
epoch. Shares need not be of one size.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import ConfigError, DataError, OutputError
from soundsight.core.files import sync_tree, write_json
from soundsight.data.records import MEL, Record, opaque_id
from soundsight.data.store.shards import PairFolder, open_dataset

_DRAWS = 4096
_CACHE_ABOUT = "cache.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class PairSample:
    """A pair as training sees it.

    Attributes:
        key: of the record; says nothing of its class.
        video: opaque number of the source video, 0 to 2^63 - 1; equal where the video is.
        mel: log-mel, uint8 [128, frames], row 0 the highest band, 255 loud.
        image: frame, uint8 [px, px, 3]; None where it was not asked for.
    """

    key: str
    video: int
    mel: NDArray[np.uint8]
    image: NDArray[np.uint8] | None


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """Which pairs a reader gives, and in which order.

    Attributes:
        seed: of the order.
        shuffle_buffer: pairs held undecoded to draw from (about 10 kB each); 0 gives the stored
            order, shards included.
        rank: number of this process among ``world``, from 0.
        world: processes that share an epoch.
        worker: number of this worker among the ``workers`` of its process, from 0.
        workers: workers of each process.
    """

    seed: int = 0
    shuffle_buffer: int = 1000
    rank: int = 0
    world: int = 1
    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.seed < 0 or self.shuffle_buffer < 0:
            raise ConfigError("seed and shuffle_buffer must be at least 0")
        for number, count in (("rank", "world"), ("worker", "workers")):
            if not 0 <= getattr(self, number) < getattr(self, count):
                raise ConfigError(f"{number} must be at least 0 and below {count}")

    @property
    def part(self) -> tuple[int, int]:
        """Number of this reader among all, and how many they are."""
        return self.rank * self.workers + self.worker, self.world * self.workers


class _Ref(NamedTuple):
    """Pair ``number`` of shard ``shard`` of a split."""

    shard: int
    number: int


class PairReader:
    """Iterates over the pairs of one split, an epoch at a time.

    ``iter()`` goes on where the reader stands; after the end of an epoch it starts the next one.

    Args:
        where: a dataset's folder or URL, or one that is open.
        split: ``train``, ``val`` or ``test``.
        seed, shuffle_buffer, rank, world, worker, workers: see :class:`ReaderConfig`.
        epoch: to start with.
        cache: folder for the decoded pairs, which is filled when it does not hold them yet: about
            12.8 kB a pair for log-mels of 100 frames, 27.6 kB more for pictures of 96 pixels.
        with_image: decode the pictures as well.
        storage_options: for fsspec.

    Raises:
        DataError: when there is no such dataset or split, or it lacks log-mels or pictures.
        ConfigError: when a number is out of range.
        OutputError: when the cache cannot be written.
    """

    def __init__(
        self,
        where: str | Path | PairFolder,
        split: str,
        *,
        seed: int = 0,
        shuffle_buffer: int = 1000,
        rank: int = 0,
        world: int = 1,
        worker: int = 0,
        workers: int = 1,
        epoch: int = 0,
        cache: str | Path | None = None,
        with_image: bool = True,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = ReaderConfig(
            seed=seed, shuffle_buffer=shuffle_buffer,
            rank=rank, world=world, worker=worker, workers=workers,
        )  # fmt: skip
        if not isinstance(where, PairFolder):
            where = open_dataset(where, storage_options)
        self._folder = where
        self._split = split
        self._counts = [shard.pairs for shard in self._folder.shards(split)]
        _require(self._folder, with_image)
        self._stream: Iterator[Any] | None
        self._source: _Source
        if cache is None:
            self._source = _Shards(self._folder, split, with_image)
        else:
            self._source = _Decoded(self._folder, split, Path(cache), with_image)
        self._start(epoch, 0)

    @property
    def epoch(self) -> int:
        """Number of the epoch that is being read."""
        return self._epoch

    @property
    def position(self) -> int:
        """How many pairs of the epoch were given."""
        return self._position

    def __len__(self) -> int:
        """Pairs that this reader gives in its epoch; with several readers epochs may differ."""
        part, parts = self.config.part
        order = self._order()
        if len(order) >= parts:
            return sum(self._counts[shard] for shard in order[part::parts])
        return len(range(part, sum(self._counts), parts))

    def __iter__(self) -> PairReader:
        if self._ended:
            self._start(self._epoch + 1, 0)
        return self

    def __next__(self) -> PairSample:
        """Return the next pair of the epoch.

        Raises:
            StopIteration: at its end.
            DataError: when a pair cannot be read or is damaged.
        """
        if self._stream is None:
            self._stream = self._open_stream()
        try:
            sample = self._source.sample(next(self._stream))
        except StopIteration:
            self._ended = True
            raise
        except DataError:
            # A generator that raised is at its end; the epoch is not.
            self._stream = None
            raise
        self._position += 1
        return sample

    def state(self) -> dict[str, Any]:
        """Return where the reader stands, ready for JSON; see :meth:`load_state`."""
        return {**self._identity(), "epoch": self._epoch, "position": self._position}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on after the last pair that was given when ``state`` was taken.

        Raises:
            DataError: when the state is of another dataset, split, order or share, or is none.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise DataError(
                    f"this state is of another reader: {name} is {state.get(name)!r} there and "
                    f"{value!r} here"
                )
        epoch, position = state.get("epoch"), state.get("position")
        for number in (epoch, position):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise DataError("this is no state of a reader: it has no epoch and position")
        assert isinstance(epoch, int)
        assert isinstance(position, int)
        before = self._epoch, self._position
        self._start(epoch, position)
        if position > len(self):
            self._start(*before)
            raise DataError(f"this state is of another reader: it stands at pair {position}")

    def close(self) -> None:
        """Close what is open; reading on opens it again."""
        self._folder.close()

    def _identity(self) -> dict[str, Any]:
        return {"dataset": self._folder.sha256, "split": self._split, **asdict(self.config)}

    def _start(self, epoch: int, position: int) -> None:
        if epoch < 0:
            raise ConfigError("epoch must be at least 0")
        self._epoch = epoch
        self._position = position
        self._ended = False
        self._stream = None

    def __getstate__(self) -> dict[str, Any]:
        # A stream cannot travel to another process; it is opened again from the position.
        return {**self.__dict__, "_stream": None}

    def _order(self) -> list[int]:
        shards = list(range(len(self._counts)))
        if self.config.shuffle_buffer:
            _random(self.config.seed, self._epoch, 0).shuffle(shards)
        return shards

    def _refs(self) -> Iterator[_Ref]:
        """Yield this reader's share of the epoch in the order in which it is read."""
        part, parts = self.config.part
        order = self._order()
        if len(order) >= parts:
            for shard in order[part::parts]:
                for number in range(self._counts[shard]):
                    yield _Ref(shard, number)
            return
        before = 0
        for shard in order:
            for number in range((part - before) % parts, self._counts[shard], parts):
                yield _Ref(shard, number)
            before += self._counts[shard]

    def _open_stream(self) -> Iterator[Any]:
        """Yield undecoded pairs from the position on."""
        refs = self._refs()
        size = self.config.shuffle_buffer
        skip = self._position
        if not size:
            return map(self._source.fetch, islice(refs, skip, None))
        draws = _draws(_random(self.config.seed, self._epoch, 1 + self.config.part[0]))
        return self._shuffled(refs, size, draws, skip)

    def _shuffled(
        self, refs: Iterator[_Ref], size: int, draws: Iterator[float], skip: int
    ) -> Iterator[Any]:
        places = list(islice(refs, size))
        # Until the position is reached only the draws are played, and nothing is read.
        for _ in range(skip):
            at = int(next(draws) * len(places))
            coming = next(refs, None)
            if coming is None:
                places[at] = places[-1]
                places.pop()
            else:
                places[at] = coming
        held: list[Any] = [None] * len(places)
        for at in sorted(range(len(places)), key=places.__getitem__):
            held[at] = self._source.fetch(places[at])
        del places
        while held:
            at = int(next(draws) * len(held))
            item = held[at]
            coming = next(refs, None)
            if coming is None:
                held[at] = held[-1]
                held.pop()
            else:
                held[at] = self._source.fetch(coming)
            yield item


@lru_cache(maxsize=1024)
def video_number(group: str) -> int:
    """A number that keeps a video's identity and drops everything else its name says."""
    return opaque_id(group)


def _require(folder: PairFolder, with_image: bool) -> None:
    if MEL not in folder.about["files"]:
        raise DataError(f"{folder.where} holds no log-mels: it cannot be read as pairs")
    if with_image and folder.image_name is None:
        raise DataError(f"{folder.where} holds no pictures: read it without them")


def _random(seed: int, epoch: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, stream])))


def _draws(random: np.random.Generator) -> Iterator[float]:
    """Yield uniform numbers in [0, 1)."""
    while True:
        yield from random.random(_DRAWS).tolist()


# --- where the pairs come from ---------------------------------------------------------------


class _Source(Protocol):
    def fetch(self, ref: _Ref) -> Any:
        """Get a pair, undecoded."""

    def sample(self, item: Any) -> PairSample:
        """Decode what ``fetch`` gave."""


class _Shards:
    """Pairs read from the shards and decoded one at a time."""

    def __init__(self, folder: PairFolder, split: str, with_image: bool) -> None:
        self._folder = folder
        self._shards = folder.shards(split)
        self._with_image = with_image

    def fetch(self, ref: _Ref) -> tuple[Record, str]:
        shard = self._shards[ref.shard]
        entry = self._folder.entry(shard, ref.number)
        return self._folder.read_entry(shard, entry), entry.group

    def sample(self, item: tuple[Record, str]) -> PairSample:
        record, group = item
        mel, image = self._folder.decode(record, with_image=self._with_image)
        return PairSample(key=record.key, video=video_number(group), mel=mel, image=image)


class _Decoded:
    """Pairs decoded once into arrays that are mapped from disk.

    The arrays of a split lie in a folder named by the hash of dataset.json; they are made beside
    it and renamed when they are complete. Of two processes that make them at once the one that
    ends later throws its own away.
    """

    def __init__(self, folder: PairFolder, split: str, cache: Path, with_image: bool) -> None:
        counts = [shard.pairs for shard in folder.shards(split)]
        self._first = [0, *np.cumsum(counts).tolist()]
        self._about = {
            "dataset": folder.sha256,
            "split": split,
            "pairs": self._first[-1],
            "images": folder.image_name is not None,
        }
        self._place = cache / f"{split}-{folder.sha256[:16]}"
        if not os.path.isdir(self._place):
            _decode_all(folder, split, self._about, self._place)
        self._with_image = with_image
        self._open()

    def _open(self) -> None:
        try:
            about = json.loads((self._place / _CACHE_ABOUT).read_bytes())
            if about != self._about:
                raise ValueError("it was made from another dataset")
            self._keys = _mapped(self._place / "key.npy")
            self._videos = _mapped(self._place / "video.npy")
            self._mels = _mapped(self._place / "mel.npy")
            self._images = _mapped(self._place / "image.npy") if self._with_image else None
            arrays = (self._keys, self._videos, self._mels, self._images)
            if any(a is not None and len(a) != self._about["pairs"] for a in arrays):
                raise ValueError("its arrays are of another length")
        except (OSError, ValueError) as error:
            raise DataError(
                f"the cache {self._place} is damaged: remove that folder ({error})"
            ) from error

    def fetch(self, ref: _Ref) -> int:
        return int(self._first[ref.shard]) + ref.number

    def sample(self, item: int) -> PairSample:
        return PairSample(
            key=self._keys[item].decode(),
            video=int(self._videos[item]),
            mel=np.array(self._mels[item]),
            image=None if self._images is None else np.array(self._images[item]),
        )

    def __getstate__(self) -> dict[str, Any]:
        mapped = ("_keys", "_videos", "_mels", "_images")
        return {name: value for name, value in self.__dict__.items() if name not in mapped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _mapped(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="r")
    return array.view(np.ndarray)


def _write_header(file: BinaryIO, shape: tuple[int, ...], kind: type) -> None:
    values = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, values)


def _decode_all(folder: PairFolder, split: str, about: Mapping[str, Any], place: Path) -> None:
    """Write the decoded pairs of a split as arrays, in stored order."""
    count, px = int(about["pairs"]), folder.image_px
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    except OSError as error:
        raise OutputError(f"cannot write {place}: {error.strerror or error}") from error
    try:
        with ExitStack() as stack:
            # Written from end to end: a disk that fills up is then an error, not a crash as it is
            # with a mapped file.
            mels = stack.enter_context((made / "mel.npy").open("wb"))
            _write_header(mels, (count, *folder.mel_shape), np.uint8)
            images = stack.enter_context((made / "image.npy").open("wb"))
            _write_header(images, (count if about["images"] else 0, px, px, 3), np.uint8)
            keys: list[bytes] = []
            videos: list[int] = []
            source = _Shards(folder, split, about["images"])
            for shard, info in enumerate(folder.shards(split)):
                for number in range(info.pairs):
                    sample = source.sample(source.fetch(_Ref(shard, number)))
                    mels.write(sample.mel.tobytes())
                    if sample.image is not None:
                        images.write(sample.image.tobytes())
                    videos.append(sample.video)
                    keys.append(sample.key.encode())
        np.save(made / "video.npy", np.array(videos, dtype=np.int64))
        np.save(made / "key.npy", np.array(keys, dtype=np.bytes_))
        write_json(made / _CACHE_ABOUT, about)
        made.chmod(0o755)
        sync_tree(made)
        try:
            made.rename(place)
        except OSError:
            # Somebody else was quicker; what they made is the same.
            if not os.path.exists(place / _CACHE_ABOUT):
                raise
    except OSError as error:
        raise OutputError(f"cannot write {place}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
