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

import csv
import hashlib
import io
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.core.config import choose
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import atomic_file, write_json
from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_CHANNELS, IMAGE_PX, N_MELS, SEGMENT_S
from soundsight.data.prepare.staging import FAILURES, Stage, write_failures, writing
from soundsight.data.records import EMBEDDING, MEL, SIDECAR, SPLITS, Clip, Record
from soundsight.data.store.shards import (
    FORMAT,
    FORMAT_VERSION,
    PairFolder,
    ShardWriter,
    decode_image,
    decode_mel,
    encode_mel,
    write_dataset,
    write_shard,
)

PREFIXES = {"train": "data", "val": "val", "test": "test"}
"""Split -> how the names of its files begin."""

CLASSES, VIDEOS = "classes.json", "videos.csv"
"""Tables beside exported batches: what their class and video numbers mean."""

MOST_CLASSES, MOST_VIDEOS, MOST_WINDOWS = 1000, 100_000, 1000
MOST_AUDIO_CLASSES = 256

_DIGITS = 11
_LEVELS: dict[str, tuple[int, ...]] = {
    "mel": (N_MELS, FRAMES_PER_SEGMENT),
    "image": (IMAGE_PX, IMAGE_PX, IMAGE_CHANNELS),
}
_MEL, _IMAGE = (("mel", "u1", _LEVELS["mel"]), ("image", "u1", _LEVELS["image"]))
_AUDIO = np.dtype([("class", "u1"), _MEL])
_NUMBERED = [
    np.dtype([("digits", f"S{_DIGITS}"), middle, _IMAGE])
    for middle in (_MEL, *(("embedding", "<f4", (size,)) for size in (128, 256, 512, 1024, 2048)))
]
"""The records that begin with digits; embeddings are of the sizes that the published study has."""

_ENOUGH_BAD = 16
_NAME = re.compile(r"(data|val|test)_batch_(\d+)\.bin")


class Kind(StrEnum):
    """What a batch holds."""

    AUDIO = "audio"
    EMBEDDING = "embedding"
    SPECTROGRAM = "spectrogram"


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchRecord:
    """One record of a batch; an audio batch has class and log-mel alone."""

    class_code: int  #: 0 to 999; to 255 in an audio batch
    video: int | None = None  #: number of the source video within its class, 0 to 99999
    window: int | None = None  #: second within the video, 0 to 999
    mel: NDArray[np.uint8] | None = None  #: [128, 100], row 0 the highest band
    embedding: NDArray[np.float32] | None = None  #: [E]; instead of the log-mel
    image: NDArray[np.uint8] | None = None  #: [96, 96, 3], RGB


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


def read_batches(path: Path) -> Iterator[tuple[str, str, BatchRecord]]:
    """Yield (split, where, record) of a file, or of a folder in the order train, val, test.

    Their kind is recognised by the first file.

    Raises:
        DataError: naming file and byte, when one is cut short, foreign, or holds a number that is
            not finite.
    """
    layout: np.dtype[Any] | None = None
    for split, file in batch_files(path):
        try:
            layout = layout or _recognise(file)
            count, rest = divmod(file.stat().st_size, layout.itemsize)
            if rest:
                raise DataError(
                    f"{file}, at byte {count * layout.itemsize}: a record of {layout.itemsize} "
                    "bytes is cut short"
                )
            with file.open("rb") as records:
                for place in range(0, count * layout.itemsize, layout.itemsize):
                    data = records.read(layout.itemsize)
                    if len(data) != layout.itemsize:
                        raise DataError(f"{file}, at byte {place}: the file became shorter")
                    yield split, f"{file}, at byte {place}", _parse(data, layout, file, place)
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}") from error


def _parse(data: bytes, layout: np.dtype[Any], path: Path, place: int) -> BatchRecord:
    values = np.frombuffer(data, layout)[0]
    arrays = {name: values[name].copy() for name in (layout.names or ())[1:]}
    if layout is _AUDIO:
        return BatchRecord(class_code=int(values["class"]), **arrays)
    digits = data[:_DIGITS]
    if not digits.isdigit():
        raise DataError(f"{path}, at byte {place}: {_DIGITS} ASCII digits are expected")
    wrong = np.flatnonzero(~np.isfinite(arrays.get("embedding", [])))
    if len(wrong):
        at = place + _DIGITS + 4 * int(wrong[0])
        raise DataError(f"{path}, at byte {at}: a number of the embedding is not finite")
    code, video, window = int(digits[:3]), int(digits[3:8]), int(digits[8:])
    return BatchRecord(class_code=code, video=video, window=window, **arrays)


def _recognise(path: Path) -> np.dtype[Any]:
    size = path.stat().st_size
    if not size:
        raise DataError(f"{path}, at byte 0: the file is empty")
    data = np.memmap(path, np.uint8, "r")
    tallies = [(layout, *_tally(data, layout.itemsize)) for layout in _NUMBERED]
    for layout, _, bad in tallies:
        if not size % layout.itemsize and not bad:
            return layout
    # A damaged file is still known by its other records; where it is damaged the reading says.
    most = max(good for _, good, _ in tallies)
    likely = [layout for layout, good, _ in tallies if good == most]
    if len(likely) == 1 and (most >= 2 or not size % likely[0].itemsize):
        return likely[0]
    rest = size % _AUDIO.itemsize
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


def _tally(data: NDArray[np.uint8], record_bytes: int) -> tuple[int, int]:
    """At how many places where a record would begin there are digits, and at how many not."""
    good = bad = 0
    for place in range(0, len(data), record_bytes):
        digits = data[place : place + _DIGITS].tobytes()
        found = len(digits) == _DIGITS and digits.isdigit()
        good, bad = good + found, bad + (not found)
        # Of another kind: nothing more is to be learned.
        if bad > good + _ENOUGH_BAD:
            break
    return good, bad


# --- batches become a dataset ----------------------------------------------------------------


def repack(
    stage: Stage,
    sources: Sequence[Path],
    about: Mapping[str, Any],
    *,
    shard_bytes: int,
    progress: Callable[[int], None] = lambda _done: None,
) -> dict[str, Any]:
    """Write batches (files, or folders of them) as a dataset, and return its dataset.json.

    The splits are those of the files' names. ``about`` is what dataset.json says beside counts and
    splits; ``progress`` is called with the number of records so far.
    """
    out = stage.out
    with writing(stage.data):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        shards = {
            split: ShardWriter(split, shard_bytes, lambda name, rows: write_shard(out / name, rows))
            for split in SPLITS
        }
        seen: set[str] = set()
        labels: set[str] = set()
        members: set[str] = set()
        for source in sources:
            for split, record in batch_records(source):
                clip, label = map(json.loads(record.files[SIDECAR]).get, ("clip", "label"))
                if record.key in seen:
                    raise DataError(f"{source}: {clip} was there before: name each batch once")
                if members and members != set(record.files):
                    raise DataError(
                        f"{source}: these batches are of another kind than those before: prepare "
                        "each kind by itself"
                    )
                members = set(record.files)
                seen.add(record.key)
                labels.add(label)
                sizes = {name: len(data) for name, data in record.files.items()}
                shards[split].add(record, sizes, clip, clip)
                if len(seen) % 100 == 0:
                    progress(len(seen))
        finished = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **about,
            "files": sorted(members),
            "labels": sorted(labels),
            "counts": {"pairs": len(seen)},
            "statistics": {},
            "splits": {split: writer.finish() for split, writer in shards.items()},
        }
        write_failures(out / FAILURES, [])
        write_dataset(out, finished)
        stage.move_into_place()
    return finished


def batch_records(path: Path) -> Iterator[tuple[str, Record]]:
    """Yield (split, record) of a dataset for each record of batches, in the order of the files.

    Nothing is lost: the log-mel is a PNG, the picture a lossless WebP. A clip is named
    ``cCCC_sSSSSS``, its label is ``cCCC``. The records of an audio batch do not say from which
    video they are: each counts as a clip of its own, ``cCCC_aNNNNNN`` below its split.
    """
    seen: set[tuple[str, int]] = set()
    counts = dict.fromkeys(PREFIXES, 0)
    for split, where, record in read_batches(path):
        label = f"c{record.class_code:03d}"
        window = record.window or 0
        if record.video is None:
            clip = f"{split}/{label}_a{counts[split]:06d}"
        else:
            clip = f"{label}_s{record.video:05d}"
        if (clip, window) in seen:
            raise DataError(f"{where}: {clip}_w{window:03d} was there before")
        seen.add((clip, window))
        counts[split] += 1
        yield split, _as_record(record, clip, label, window)


def _as_record(record: BatchRecord, name: str, label: str, window: int) -> Record:
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
    key = Clip(path="", key=name, group=name).id + f"_{window:06d}"
    sidecar = {
        "key": key,
        "clip": name,
        "group": name,
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
    return Record(key=key, files={**files, SIDECAR: text.encode()})


# --- writing ---------------------------------------------------------------------------------


def write_batches(
    folder: Path,
    kind: Kind | str,
    records: Iterable[BatchRecord],
    prefix: str = "data",
    records_per_file: int = 5000,
) -> list[Path]:
    """Write records as batches ``PREFIX_batch_001.bin`` and so on, and return these files.

    ``prefix`` is ``data``, ``val`` or ``test``; the records are taken one at a time, and each must
    hold what the kind asks for.

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
            for record in itertools.chain([first], itertools.islice(coming, records_per_file - 1)):
                data = _batch_bytes(record, wanted)
                if size not in (None, len(data)):
                    raise DataError("the embeddings of one set of batches must be of one size")
                size = len(data)
                file.write(data)
        written.append(path)
    return written


def _batch_bytes(record: BatchRecord, kind: Kind) -> bytes:
    audio = kind is Kind.AUDIO
    numbers: list[tuple[str, int | None, int]] = [
        ("class", record.class_code, MOST_AUDIO_CLASSES if audio else MOST_CLASSES)
    ]
    if not audio:
        numbers += [("video", record.video, MOST_VIDEOS), ("window", record.window, MOST_WINDOWS)]
    for name, number, limit in numbers:
        if number is None or not 0 <= number < limit:
            raise DataError(f"{name} {number} does not fit a batch: 0 to {limit - 1} do")
    if audio:
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


# --- a dataset becomes batches ---------------------------------------------------------------


class _Unit(NamedTuple):
    """What gets a video number of its own: up to 1,000 windows of a clip."""

    label: str | None
    group: str
    clip: str
    thousand: int


def export_batches(
    folder: PairFolder,
    out: Path,
    kind: Kind,
    per_file: int,
    embed: Callable[[Record], NDArray[np.float32]] | None,
    progress: Callable[[int, int], None],
) -> None:
    """Write a dataset as batches into an empty folder, with tables of what the numbers mean.

    ``embed`` gives a record's embedding, float32 [E], where the kind asks for it.
    """
    done = itertools.count(1)

    def records(split: str) -> Iterator[tuple[Record, _Unit, int]]:
        for record in folder.records(split):
            about = json.loads(record.files[SIDECAR])
            thousand, window = divmod(int(record.key.rpartition("_")[2]), MOST_WINDOWS)
            yield record, _Unit(about.get("label"), about["group"], about["clip"], thousand), window
            progress(next(done), 2 * len(folder))

    def numbered(split: str) -> Iterator[BatchRecord]:
        for record, unit, window in records(split):
            mel, image = record.files.get(MEL), record.files.get(folder.image_name or "")
            code, video = numbers[unit]
            yield BatchRecord(
                class_code=code,
                video=video,
                window=window,
                mel=None if mel is None else decode_mel(mel),
                embedding=None if embed is None else embed(record),
                image=None if image is None else decode_image(image),
            )

    units = {unit for split in folder.splits for _, unit, _ in records(split)}
    numbers = _numbers(units, folder.where)
    for split in folder.splits:
        write_batches(out, kind, numbered(split), PREFIXES[split], per_file)
    write_json(out / CLASSES, {f"c{code:03d}": unit.label for unit, (code, _) in numbers.items()})
    path = out / VIDEOS
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["class", "video", "label", "group", "clip", "first_window"])
        for (label, group, clip, thousand), (code, video) in numbers.items():
            first = thousand * MOST_WINDOWS
            table.writerow([f"{code:03d}", f"{video:05d}", label or "", group, clip, first])


def _numbers(units: set[_Unit], where: str) -> dict[_Unit, tuple[int, int]]:
    """Return the class (0: no label) and video number of every unit, sorted by them.

    They are in the order of names; labels and clips of the published form keep theirs.
    """
    labels = {unit.label for unit in units}
    if len(labels) >= MOST_CLASSES:
        raise DataError(f"{where} has {len(labels)} labels; a batch knows {MOST_CLASSES - 1}")
    names = sorted(label for label in labels if label is not None)
    kept = None not in labels and all(re.fullmatch(r"c\d{3}", name) for name in names)
    codes = {name: int(name[1:]) if kept else n for n, name in enumerate(names, start=1)}
    numbers: dict[_Unit, tuple[int, int]] = {}
    ordered = sorted(units, key=lambda u: (u.label is not None, u.label or "", *u[1:]))
    for label, found in itertools.groupby(ordered, key=lambda unit: unit.label):
        own = list(found)
        if len(own) > MOST_VIDEOS:
            raise DataError(
                f"{where} has {len(own)} videos of the label {label}; a batch knows {MOST_VIDEOS} "
                "a class"
            )
        name = re.compile(rf"{re.escape(str(label))}_s\d{{5}}")
        published = kept and all(name.fullmatch(u.clip) and not u.thousand for u in own)
        for number, unit in enumerate(own):
            video = int(unit.clip[-5:]) if published else number
            numbers[unit] = (0 if label is None else codes[label], video)
    return dict(sorted(numbers.items(), key=lambda item: item[1]))


def is_export(path: Path) -> bool:
    """Say whether a folder is what :func:`export_batches` writes."""
    return (path / CLASSES).exists() and (path / VIDEOS).exists()
