"""The binary batches of the published dataset (arXiv 2106.01266): read, recognised, written.

Records lie back to back without a header, in files named ``data_batch_NNN.bin`` (training),
``val_batch_NNN.bin`` and ``test_batch_NNN.bin``:

=============  ===========================================================================
audio          1 byte class, 128 x 100 bytes log-mel
embedding      11 ASCII digits CCCSSSSSWWW, E little-endian float32, 96 x 96 x 3 bytes RGB
spectrogram    11 ASCII digits, 128 x 100 bytes log-mel, 96 x 96 x 3 bytes RGB
=============  ===========================================================================

The digits are class, source video and window (second) within it. As nothing in a file says which
kind it is, its kind is known by its size and by digits standing where a record would begin.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.core.config import choose
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import atomic_file
from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_CHANNELS, IMAGE_PX, N_MELS, SEGMENT_S
from soundsight.data.records import EMBEDDING, MEL, SIDECAR, Clip, Record
from soundsight.data.store.shards import encode_mel

EMBEDDING_SIZES = (128, 256, 512, 1024, 2048)
"""Sizes of embeddings that the published study has, and that are recognised."""

PREFIXES = {"train": "data", "val": "val", "test": "test"}
"""Split -> how the names of its files begin."""

MOST_CLASSES, MOST_VIDEOS, MOST_WINDOWS = 1000, 100_000, 1000
MOST_AUDIO_CLASSES = 256

_DIGITS = 11
_LEVELS: dict[str, tuple[int, ...]] = {
    "mel": (N_MELS, FRAMES_PER_SEGMENT),
    "image": (IMAGE_PX, IMAGE_PX, IMAGE_CHANNELS),
}
_ENOUGH_BAD = 16
_NAME = re.compile(r"(data|val|test)_batch_(\d+)\.bin")


class Kind(StrEnum):
    """What a batch holds."""

    AUDIO = "audio"
    EMBEDDING = "embedding"
    SPECTROGRAM = "spectrogram"


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchRecord:
    """One record of a batch.

    Attributes:
        class_code: 0 to 999; to 255 in an audio batch.
        video: number of the source video within its class, 0 to 99999; None in an audio batch.
        window: second within the video, 0 to 999; None in an audio batch.
        mel: uint8 [128, 100], row 0 the highest band; None in an embedding batch.
        embedding: float32 [E]; only in an embedding batch.
        image: uint8 [96, 96, 3], RGB; None in an audio batch.
    """

    class_code: int
    video: int | None = None
    window: int | None = None
    mel: NDArray[np.uint8] | None = None
    embedding: NDArray[np.float32] | None = None
    image: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class _Layout:
    """How the records of a kind lie."""

    kind: Kind
    embedding_size: int | None = None

    @property
    def fields(self) -> np.dtype[Any]:
        """The parts of a record, one after the other."""
        first = ("class", "u1", (1,)) if self.kind is Kind.AUDIO else ("digits", "u1", (_DIGITS,))
        mel, image = (("mel", "u1", _LEVELS["mel"]), ("image", "u1", _LEVELS["image"]))
        middle = mel if self.embedding_size is None else ("embedding", "<f4", self.embedding_size)
        return np.dtype([first, middle] if self.kind is Kind.AUDIO else [first, middle, image])


_AUDIO = _Layout(Kind.AUDIO)
_LAYOUTS = [
    _Layout(Kind.SPECTROGRAM),
    *(_Layout(Kind.EMBEDDING, size) for size in EMBEDDING_SIZES),
]
"""The layouts whose records begin with digits."""


# --- reading ---------------------------------------------------------------------------------


def batch_files(path: Path) -> list[tuple[str, Path]]:
    """Return the batch files of a folder, or the one file, each with its split.

    A file of another name than the published ones belongs to ``train``.
    """
    path = Path(path)
    splits = {prefix: split for split, prefix in PREFIXES.items()}
    try:
        if not path.is_dir():
            path.stat()
            match = _NAME.fullmatch(path.name)
            return [(splits[match[1]] if match else "train", path)]
        matches = [match for p in path.iterdir() if (match := _NAME.fullmatch(p.name))]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if not matches:
        raise DataError(f"{path} holds no batches: data_batch_NNN.bin is how one is named")
    order = list(PREFIXES.values())
    matches.sort(key=lambda match: (order.index(match[1]), int(match[2]), match[0]))
    return [(splits[match[1]], path / match[0]) for match in matches]


def read_batches(path: Path) -> Iterator[BatchRecord]:
    """Yield the records of a file, or of a folder in the order train, val, test, as they lie.

    Their kind is recognised by the first file, where every place at which a record would begin is
    looked at.

    Raises:
        DataError: naming file and byte, when one is cut short, foreign, or holds a number that is
            not finite.
    """
    for _, _, record in _read(path):
        yield record


def batch_records(path: Path) -> Iterator[tuple[str, Record]]:
    """Yield (split, record) of a dataset for each record of batches, in the order of the files.

    Nothing is lost: the log-mel is a PNG, the picture a lossless WebP. A clip is named
    ``cCCC_sSSSSS``, its label is ``cCCC``. The records of an audio batch do not say from which
    video they are: each counts as a clip of its own, ``cCCC_aNNNNNN`` below its split.
    """
    seen: set[tuple[int, int, int]] = set()
    counts = dict.fromkeys(PREFIXES, 0)
    for split, where, record in _read(path):
        label = f"c{record.class_code:03d}"
        window = record.window or 0
        if record.video is None:
            clip = f"{split}/{label}_a{counts[split]:06d}"
        else:
            clip = f"{label}_s{record.video:05d}"
            code = (record.class_code, record.video, window)
            if code in seen:
                raise DataError(f"{where}: {clip}_w{window:03d} was there before")
            seen.add(code)
        counts[split] += 1
        yield split, _as_record(record, clip, label, window)


def _read(path: Path) -> Iterator[tuple[str, str, BatchRecord]]:
    """Yield (split, where, record)."""
    layout: _Layout | None = None
    for split, file in batch_files(path):
        layout = layout or _recognise(file)
        for place, record in _records(file, layout):
            yield split, f"{file}, at byte {place}", record


def _records(path: Path, layout: _Layout) -> Iterator[tuple[int, BatchRecord]]:
    fields = layout.fields
    try:
        with path.open("rb") as file:
            count, rest = divmod(path.stat().st_size, fields.itemsize)
            if rest:
                raise DataError(
                    f"{path}, at byte {count * fields.itemsize}: a record of {fields.itemsize} "
                    "bytes is cut short"
                )
            for number in range(count):
                place = number * fields.itemsize
                data = file.read(fields.itemsize)
                if len(data) != fields.itemsize:
                    raise DataError(f"{path}, at byte {place}: the file became shorter")
                yield place, _parse(np.frombuffer(data, fields)[0], path, place)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _parse(values: np.void, path: Path, place: int) -> BatchRecord:
    names = values.dtype.names or ()
    arrays = {name: values[name].copy() for name in names if name in ("mel", "embedding", "image")}
    if "class" in names:
        return BatchRecord(class_code=int(values["class"][0]), **arrays)
    digits = values["digits"].tobytes()
    if not digits.isdigit():
        raise DataError(f"{path}, at byte {place}: {_DIGITS} ASCII digits are expected")
    wrong = np.flatnonzero(~np.isfinite(arrays.get("embedding", [])))
    if len(wrong):
        at = place + _DIGITS + 4 * int(wrong[0])
        raise DataError(f"{path}, at byte {at}: a number of the embedding is not finite")
    code, video, window = int(digits[:3]), int(digits[3:8]), int(digits[8:])
    return BatchRecord(class_code=code, video=video, window=window, **arrays)


def _recognise(path: Path) -> _Layout:
    try:
        size = path.stat().st_size
        if not size:
            raise DataError(f"{path}, at byte 0: the file is empty")
        data = np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    tallies = {layout: _tally(data, layout) for layout in _LAYOUTS}
    for layout, (_, bad) in tallies.items():
        if not size % layout.fields.itemsize and not bad:
            return layout
    # A damaged file is still known by its other records; where it is damaged the reading says.
    most = max(good for good, _ in tallies.values())
    likely = [layout for layout, (good, _) in tallies.items() if good == most]
    if len(likely) == 1 and (most >= 2 or not size % likely[0].fields.itemsize):
        return likely[0]
    rest = size % _AUDIO.fields.itemsize
    if not rest:
        return _AUDIO
    if most:
        raise DataError(
            f"{path}, at byte 0: a record is cut short, or this is no batch ({size} bytes)"
        )
    raise DataError(
        f"{path}, at byte 0: {_DIGITS} ASCII digits are expected; if it is an audio batch, its "
        f"record at byte {size - rest} is cut short"
    )


def _tally(data: NDArray[np.uint8], layout: _Layout) -> tuple[int, int]:
    """At how many places where a record would begin there are digits, and at how many not."""
    good = bad = 0
    for place in range(0, len(data), layout.fields.itemsize):
        digits = data[place : place + _DIGITS].tobytes()
        found = len(digits) == _DIGITS and digits.isdigit()
        good, bad = good + found, bad + (not found)
        # Of another kind: nothing more is to be learned.
        if bad > good + _ENOUGH_BAD:
            break
    return good, bad


# --- records of a dataset --------------------------------------------------------------------


def _as_record(record: BatchRecord, name: str, label: str, window: int) -> Record:
    clip = Clip(path="", key=name, group=name, label=label)
    files: dict[str, bytes] = {}
    if record.mel is not None:
        files[MEL] = encode_mel(record.mel)
    if record.image is not None:
        picture = io.BytesIO()
        # Lossless at any effort; this one is six times faster than the usual, and 3 % larger.
        effort: dict[str, Any] = {"lossless": True, "method": 1, "quality": 20}
        Image.fromarray(record.image).save(picture, format="WEBP", **effort)
        files["webp"] = picture.getvalue()
    if record.embedding is not None:
        array = io.BytesIO()
        np.save(array, record.embedding)
        files[EMBEDDING] = array.getvalue()
    start_s = window * SEGMENT_S
    mel = {"shape": [N_MELS, FRAMES_PER_SEGMENT], "rms_dbfs": None, "peak_db": None}
    sidecar = {
        "key": clip.id + f"_{window:06d}",
        "clip": clip.key,
        "group": clip.group,
        "start_s": start_s,
        "end_s": start_s + SEGMENT_S,
        "frame_s": start_s + SEGMENT_S / 2 if record.image is not None else None,
        "label": label,
        "licence": None,
        "mel": mel if record.mel is not None else None,
        "image": {"size_px": IMAGE_PX} if record.image is not None else None,
        "measures": {},
        "sha256": {kind: hashlib.sha256(data).hexdigest() for kind, data in files.items()},
    }
    text = json.dumps(sidecar, sort_keys=True) + "\n"
    return Record(key=str(sidecar["key"]), files={**files, SIDECAR: text.encode()})


# --- writing ---------------------------------------------------------------------------------


def write_batches(
    folder: Path,
    kind: Kind | str,
    records: Iterable[BatchRecord],
    prefix: str = "data",
    records_per_file: int = 5000,
) -> list[Path]:
    """Write records as batches ``PREFIX_batch_001.bin``, ``PREFIX_batch_002.bin`` and so on.

    Args:
        folder: made where it is missing.
        kind: of the batches; each record must hold what it asks for.
        records: taken one at a time.
        prefix: ``data``, ``val`` or ``test``.
        records_per_file: at most so many records a file.

    Returns:
        The files, none for no records.

    Raises:
        DataError: when a record lacks something or a number of it does not fit the digits.
        ConfigError: on an unknown kind or prefix.
        OutputError: when the place cannot be written to.
    """
    wanted = choose("kind", kind, {str(k): k for k in Kind})
    if prefix not in PREFIXES.values() or records_per_file < 1:
        raise ConfigError(f"prefix is one of {', '.join(PREFIXES.values())}, with 1 record or more")
    written: list[Path] = []
    coming = iter(records)
    size: int | None = None
    while (first := next(coming, None)) is not None:
        path = folder / f"{prefix}_batch_{len(written) + 1:03d}.bin"
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            for record in chain([first], islice(coming, records_per_file - 1)):
                data = _batch_bytes(record, wanted)
                if size not in (None, len(data)):
                    raise DataError("the embeddings of one set of batches must be of one size")
                size = len(data)
                file.write(data)
        written.append(path)
    return written


def _batch_bytes(record: BatchRecord, kind: Kind) -> bytes:
    limits = {"class": MOST_CLASSES, "video": MOST_VIDEOS, "window": MOST_WINDOWS}
    if kind is Kind.AUDIO:
        limits = {"class": MOST_AUDIO_CLASSES}
    numbers = {"class": record.class_code, "video": record.video, "window": record.window}
    for name, limit in limits.items():
        number = numbers[name]
        if number is None or not 0 <= number < limit:
            raise DataError(f"{name} {number} does not fit a batch: 0 to {limit - 1} do")
    if kind is Kind.AUDIO:
        return bytes([record.class_code]) + _levels(record.mel, "mel")
    digits = f"{record.class_code:03d}{record.video:05d}{record.window:03d}".encode()
    if kind is Kind.SPECTROGRAM:
        return digits + _levels(record.mel, "mel") + _levels(record.image, "image")
    embedding = record.embedding
    if embedding is None or embedding.ndim != 1 or not np.isfinite(embedding).all():
        raise DataError("an embedding batch takes a list of finite numbers for each record")
    return digits + embedding.astype("<f4").tobytes() + _levels(record.image, "image")


def _levels(levels: NDArray[np.uint8] | None, name: str) -> bytes:
    shape = _LEVELS[name]
    if levels is None or levels.shape != shape or levels.dtype != np.uint8:
        seen = "none" if levels is None else f"{levels.dtype} {list(levels.shape)}"
        raise DataError(f"a batch takes uint8 {list(shape)}, not {seen}")
    return levels.tobytes()
