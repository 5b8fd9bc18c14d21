"""Finished datasets: WebDataset tars with an index each, dataset.json and checksums.

A shard is a plain tar whose members are ordered by name within a pair, with headers that depend on
nothing but name and size, so that the same pairs give the same bytes. Its index says where every
member lies, and holds a CRC-32 of each pair's stretch of the tar, headers and padding included: a
damaged byte is noticed when the pair is read, and its pair can be named.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.core.errors import DataError, OutputError, first_line
from soundsight.core.files import atomic_file, sha256_of
from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_PX, N_MELS
from soundsight.data.records import IMAGES, MEL, SIDECAR, Record
from soundsight.data.store.stores import Store

FORMAT = "soundsight-pairs"
FORMAT_VERSION = 1
INDEX_FORMAT = "soundsight-shard"
ABOUT = "dataset.json"
SUMS = "SHA256SUMS"
WORK = ".work"
"""Hidden folder of a preparation that is not finished; hidden names are no part of a dataset."""

TAR_BLOCK = 512
END_BYTES = 2 * TAR_BLOCK
"""Bytes of the end of a tar: two blocks of zeros."""

_HELD_ENTRIES = 500_000
"""Lines of indexes that are kept in memory (100 MB): those of every shard of a window of pairs."""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """A finished shard: its tar's name, its pairs, size in bytes, and hashes of tar and index."""

    name: str
    pairs: int
    bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a pair lies in its tar, as the index says it in JSON."""

    key: str
    group: str  #: of its clip; pairs of one group show one source video
    crc32: int  #: of the ``size`` bytes from ``start`` on
    #: name (``mel.png``, ...) -> (offset of its data in the tar, size), as they lie
    files: Mapping[str, Sequence[int]]
    reasons: Sequence[str] = ()  #: as in ``Record``; only in a preparation's parts
    sums: Sequence[int] = ()

    @property
    def start(self) -> int:
        """Offset of the pair's first header."""
        return next(iter(self.files.values()))[0] - TAR_BLOCK

    @property
    def size(self) -> int:
        """Length of its stretch of the tar."""
        return record_bytes(size for _, size in self.files.values())

    def cut(self, stretch: bytes) -> Record:
        """Take the record out of its stretch of the tar."""
        start = self.start
        return Record(
            key=self.key,
            files={
                name: stretch[offset - start : offset - start + size]
                for name, (offset, size) in self.files.items()
            },
        )


# --- writing ---------------------------------------------------------------------------------


def record_bytes(sizes: Iterable[int]) -> int:
    """Return the bytes that a record with files of these sizes takes in a tar, headers included."""
    return sum(TAR_BLOCK + _padded(size) for size in sizes)


def _padded(size: int) -> int:
    return -(-size // TAR_BLOCK) * TAR_BLOCK


def index_name(shard: str) -> str:
    """Name the index of a shard: ``train-000000.tar`` -> ``train-000000.index.json``."""
    return shard.removesuffix(".tar") + ".index.json"


def write_shard(
    path: Path, records: Iterable[Record], about: Mapping[str, Any] | None = None
) -> ShardInfo:
    """Write a tar and its index, whole or not at all; a tar that is there has its index.

    Args:
        path: of the tar; its name ends in ``.tar``.
        records: in the order in which they are to lie. The sidecar of each names its ``group``.
        about: what the index of a preparation's part says of its clip, besides the ``reasons`` and
            ``sums`` of its records; read when all records have come.

    Raises:
        OutputError: when the place cannot be written to.
        ValueError: when a record has no files, a key comes twice or is no name for a tar.
    """
    digest = hashlib.sha256()
    lines: list[str] = []
    keys: set[str] = set()
    place = 0
    with atomic_file(path) as temporary:
        with temporary.open("wb") as file:
            for record in records:
                if record.key in keys:
                    raise ValueError(f"two records are named {record.key}")
                keys.add(record.key)
                stretch, places = _stretch(record, place)
                file.write(stretch)
                digest.update(stretch)
                place += len(stretch)
                group = json.loads(record.files[SIDECAR])["group"]
                line = {"key": record.key, "group": group, "crc32": zlib.crc32(stretch)}
                notes = {"reasons": record.reasons, "sums": record.sums} if about else {}
                lines.append(json.dumps({**line, "files": places, **notes}, separators=(",", ":")))
            end = bytes(END_BYTES)
            file.write(end)
            digest.update(end)
        # JSON as a whole, and a line a pair: a reader parses only the lines that it needs.
        head = {"format": INDEX_FORMAT, "format_version": 1, "bytes": place + END_BYTES}
        start = json.dumps({**head, "about": about} if about else head)[:-1] + ', "records": ['
        text = "\n".join([start, ",\n".join(lines), "]}", ""]).encode()
        with atomic_file(path.with_name(index_name(path.name))) as beside:
            beside.write_bytes(text)
    return ShardInfo(
        name=path.name,
        pairs=len(lines),
        bytes=place + END_BYTES,
        sha256=digest.hexdigest(),
        index_sha256=hashlib.sha256(text).hexdigest(),
    )


def _stretch(record: Record, place: int) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Make a record's part of a tar; return it with the place of each file in the whole."""
    if not record.files or not record.key or set(record.key) & set("./\0"):
        raise ValueError(f"{record.key!r} is no key of a record with files")
    parts: list[bytes] = []
    places: dict[str, tuple[int, int]] = {}
    for name in sorted(record.files):
        data = record.files[name]
        if not record.stretch:
            header = tarfile.TarInfo(f"{record.key}.{name}")
            header.size = len(data)
            header.mode = 0o644
            padding = bytes(_padded(len(data)) - len(data))
            parts += [header.tobuf(tarfile.USTAR_FORMAT), data, padding]
        places[name] = (place + TAR_BLOCK, len(data))
        place += TAR_BLOCK + _padded(len(data))
    return record.stretch or b"".join(parts), places


class ShardWriter:
    """Fills the shards of one split, one after the other, up to ``limit`` bytes.

    A pair that is larger gets a shard of its own.
    """

    def __init__(
        self, split: str, limit: int, write: Callable[[str, Sequence[Any]], ShardInfo]
    ) -> None:
        self._split, self._limit, self._write = split, limit, write
        self._waiting: list[Any] = []
        self._bytes = END_BYTES
        self._infos: list[ShardInfo] = []
        self._clips: set[str] = set()
        self._groups: set[str] = set()
        self.pairs = 0
        self.files: set[str] = set()

    def add(self, row: Any, sizes: Mapping[str, int], clip: str, group: str) -> None:
        """Put a pair, of files of these sizes, into the shard that is being filled or the next."""
        size = record_bytes(sizes.values())
        if self._waiting and self._bytes + size > self._limit:
            self._flush()
        self._waiting.append(row)
        self._bytes += size
        self._clips.add(clip)
        self._groups.add(group)
        self.files |= set(sizes)
        self.pairs += 1

    def _flush(self) -> None:
        name = f"{self._split}-{len(self._infos):06d}.tar"
        self._infos.append(self._write(name, self._waiting))
        self._waiting, self._bytes = [], END_BYTES

    def finish(self) -> dict[str, Any]:
        """Write what is waiting and return what dataset.json says of the split."""
        if self._waiting:
            self._flush()
        return {
            "pairs": self.pairs,
            "videos": len(self._clips),
            "groups": len(self._groups),
            "shards": [asdict(info) for info in self._infos],
        }


def write_dataset(folder: Path, about: Mapping[str, Any]) -> None:
    """Finish a dataset: write SHA256SUMS, then ``about`` as dataset.json.

    dataset.json comes last because it alone says that a dataset is finished; one of before is
    removed first. Hashes of shards and indexes are taken from it; other files are read.
    """
    # Names of files may hold what is no UTF-8; escaped it is valid JSON all the same.
    text = json.dumps(about, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")
    text += b"\n"
    known = recorded_sums(about)
    sums = {ABOUT: hashlib.sha256(text).hexdigest()}
    for name in Store(folder).sizes():
        if name not in (ABOUT, SUMS):
            sums[name] = known[name] if name in known else sha256_of(folder / name)
    try:
        (folder / ABOUT).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder / ABOUT}: {error.strerror or error}") from error
    for name, content in ((SUMS, sums_text(sums)), (ABOUT, text)):
        with atomic_file(folder / name) as temporary:
            temporary.write_bytes(content)


def sums_text(sums: Mapping[str, str]) -> bytes:
    """Write checksums, path below the dataset -> 64 hex digits, as ``sha256sum -c`` reads them."""
    lines = (f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    return "".join(lines).encode("utf-8", "surrogateescape")


def recorded_sums(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes that dataset.json holds: shard or index -> 64 hex digits."""
    known: dict[str, str] = {}
    for part in about["splits"].values():
        for shard in shard_infos(part):
            known |= {shard.name: shard.sha256, index_name(shard.name): shard.index_sha256}
    return known


# --- reading ---------------------------------------------------------------------------------


def open_dataset(where: str | Path) -> PairFolder:
    """Open a finished dataset: a folder, or a URL that fsspec understands.

    Raises:
        DataError: when there is none, it is not finished, or it is of another kind or version.
    """
    return PairFolder(Store(where))


class PairFolder:
    """A finished dataset, opened: only dataset.json is read at once.

    An index is read, and held to its hash, when it is needed.
    """

    def __init__(self, store: Store) -> None:
        self._store, self.where = store, store.where
        data = about_bytes(store)
        #: of dataset.json, which holds the hashes of all shards: it names the content
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.about = read_about(data, f"{store.where}/{ABOUT}")
        self.mel_shape: tuple[int, int] = (self.about["mel_bands"], self.about["mel_frames"])
        self.image_px: int = self.about["image_px"]
        #: ``jpg`` or ``webp``; None where there are no pictures
        self.image_name = next((name for name in IMAGES if name in self.about["files"]), None)
        self._shards = {split: shard_infos(part) for split, part in self.about["splits"].items()}
        self.splits = tuple(self._shards)
        self._ends = {
            split: list(accumulate((shard.pairs for shard in shards), initial=0))
            for split, shards in self._shards.items()
        }
        self._indexes: OrderedDict[str, list[bytes]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(self.count, self.splits))

    def shards(self, split: str) -> tuple[ShardInfo, ...]:
        """Return the shards of a split, in order."""
        if split not in self._shards:
            raise DataError(
                f"{self.where} has no split {split!r}; choose from {', '.join(self.splits)}"
            )
        return self._shards[split]

    def require_pairs(self, *, mel: bool = True, image: bool = True) -> None:
        """See that there are log-mels and pictures, where they are asked for."""
        if mel and MEL not in self.about["files"]:
            raise DataError(f"{self.where} holds no log-mels")
        if image and self.image_name is None:
            raise DataError(f"{self.where} holds no pictures")

    def require_size(self) -> None:
        """See that log-mels and pictures are of the size that networks and batches take."""
        size = (*self.mel_shape, self.image_px)
        if size != (N_MELS, FRAMES_PER_SEGMENT, IMAGE_PX):
            raise DataError(
                f"{self.where} has log-mels of {size[0]} x {size[1]} and pictures of {size[2]} "
                f"pixels: networks and published batches take {N_MELS} x {FRAMES_PER_SEGMENT} and "
                f"{IMAGE_PX}, prepare it with --segment-s 1 --size 96"
            )

    def count(self, split: str) -> int:
        """Return how many pairs a split has."""
        return sum(shard.pairs for shard in self.shards(split))

    def find(self, split: str, index: int) -> tuple[str, Entry]:
        """Return where pair ``index`` of a split, counted from 0, lies: its tar and its place.

        Raises:
            DataError: when the shard's index cannot be read or is damaged.
            IndexError: when the split has no such pair.
        """
        shards, ends = self.shards(split), self._ends[split]
        if not 0 <= index < ends[-1]:
            raise IndexError(f"the {split} split has no pair {index}")
        at = bisect_right(ends, index) - 1
        line = self._index(shards[at])[index - ends[at]]
        return shards[at].name, Entry(**json.loads(line))

    def read(self, tar: str, entry: Entry) -> Record:
        """Read the pair that :meth:`find` found.

        Raises:
            DataError: when it cannot be read or is damaged.
        """
        stretch = self._store.stretch(tar, entry.start, entry.size)
        if zlib.crc32(stretch) != entry.crc32:
            raise self._damaged(f"{tar}: the pair {entry.key}")
        return entry.cut(stretch)

    def record(self, split: str, index: int) -> Record:
        """Read pair ``index`` of a split; errors are those of :meth:`find` and :meth:`read`."""
        return self.read(*self.find(split, index))

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records of a split in stored order."""
        return (self.record(split, index) for index in range(self.count(split)))

    def decode(
        self, record: Record, *, with_image: bool = True
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Decode a record's log-mel, uint8 [bands, frames], and picture, uint8 [px, px, 3]."""
        image: NDArray[np.uint8] | None = None
        try:
            mel = decode_mel(record.files[MEL])
            if with_image:
                image = decode_image(record.files[self.image_name or IMAGES[0]])
        except KeyError as error:
            raise DataError(f"{self.where}: the pair {record.key} has no {error}") from error
        except DataError as error:
            raise DataError(f"{self.where}: the pair {record.key}: {error}") from error
        px = self.image_px
        if mel.shape != self.mel_shape or (image is not None and image.shape != (px, px, 3)):
            raise DataError(
                f"{self.where}: the pair {record.key} is of another size than {ABOUT} says"
            )
        return mel, image

    def _index(self, shard: ShardInfo) -> list[bytes]:
        if shard.name not in self._indexes:
            name = index_name(shard.name)
            data = self._store.read(name)
            lines = index_lines(data)
            if hashlib.sha256(data).hexdigest() != shard.index_sha256 or len(lines) != shard.pairs:
                raise self._damaged(name)
            while sum(map(len, self._indexes.values())) > _HELD_ENTRIES:
                self._indexes.popitem(last=False)
            self._indexes[shard.name] = lines
        self._indexes.move_to_end(shard.name)
        return self._indexes[shard.name]

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"{self.where}/{what} is damaged: run  soundsight data verify {self.where}"
        )


def index_lines(data: bytes) -> list[bytes]:
    """Return the JSON of each pair out of an index."""
    return [line.rstrip(b",") for line in data.split(b"\n")[1:-2] if line]


def decode_mel(data: bytes) -> NDArray[np.uint8]:
    """Decode a log-mel: PNG -> uint8 [bands, frames], row 0 the highest band."""
    return _decode(data, ("PNG",), "L", MEL)


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode a picture: JPEG or WebP -> uint8 [px, px, 3], RGB."""
    return _decode(data, ("JPEG", "WEBP"), "RGB", "picture")


def _decode(data: bytes, formats: tuple[str, ...], mode: str, what: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=formats) as picture:
            if picture.mode != mode:
                raise DataError(f"its {what} is {picture.mode}, not {mode}")
            return np.array(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"its {what} is no readable {' or '.join(formats)}") from error


def encode_mel(mel: NDArray[np.uint8]) -> bytes:
    """Encode a log-mel, uint8 [bands, frames], as a grey PNG that loses nothing."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mel)).save(file, format="PNG")
    return file.getvalue()


def about_bytes(store: Store) -> bytes:
    """Read dataset.json."""
    if store.has(ABOUT):
        return store.read(ABOUT)
    if store.has(WORK):
        raise DataError(f"{store.where} is not finished: run the same prepare command again")
    if not store.has(""):
        raise DataError(f"there is no dataset at {store.where}: check the path")
    raise DataError(f"{store.where} is no dataset: it has no {ABOUT}")


def read_about(data: bytes, where: str) -> dict[str, Any]:
    """Read and check a dataset.json."""
    try:
        about = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is damaged: {first_line(error)}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DataError(f"{where} does not describe a dataset of soundsight")
    if about.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{where} is of format version {about.get('format_version')!r}, and this soundsight "
            f"reads {FORMAT_VERSION}: use the version that wrote it"
        )
    try:
        _check_types(about, mel_bands=int, mel_frames=int, image_px=int, files=list)
        for part in about["splits"].values():
            shard_infos(part)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{where} is damaged: {first_line(error)} is not as expected") from error
    return about


def shard_infos(part: Mapping[str, Any]) -> tuple[ShardInfo, ...]:
    """Read the shards of a split as dataset.json lists them."""
    kinds = {"name": str, "pairs": int, "bytes": int, "sha256": str, "index_sha256": str}
    for shard in part["shards"]:
        _check_types(shard, **kinds)
        if "/" in shard["name"] or not shard["name"].endswith(".tar"):
            raise ValueError("name of a shard")
    return tuple(ShardInfo(**{name: shard[name] for name in kinds}) for shard in part["shards"])


def _check_types(values: Mapping[str, Any], **kinds: type) -> None:
    for name, kind in kinds.items():
        if not isinstance(values[name], kind):
            raise TypeError(name)
