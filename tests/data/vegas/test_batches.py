"""The published binary batches: recognised, read to the last bit, refused where damaged."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from soundsight.core.errors import ConfigError, DataError, SoundsightError
from soundsight.data.store.shards import decode_image, decode_mel, write_shard
from soundsight.data.vegas.batches import (
    BatchRecord,
    Kind,
    batch_files,
    batch_records,
    read_batches,
    write_batches,
)

SPECTROGRAM = 11 + 12_800 + 27_648


def toy(number: int, size: int | None = None, **changes: object) -> BatchRecord:
    rng = np.random.default_rng(number)
    values: dict[str, object] = {
        "class_code": 1 + number % 5,
        "video": number,
        "window": number % 10,
        "mel": rng.integers(0, 256, (128, 100), dtype=np.uint8),
        "embedding": None if size is None else rng.normal(size=size).astype(np.float32),
        "image": rng.integers(0, 256, (96, 96, 3), dtype=np.uint8),
    }
    return BatchRecord(**{**values, **changes})


def spectrograms(folder: Path, count: int = 3) -> Path:
    (path,) = write_batches(folder, "spectrogram", map(toy, range(count)))
    return path


def test_the_bytes_are_those_of_the_published_layout(tmp_path: Path) -> None:
    record = toy(7, 128)
    pixels, levels = record.image.tobytes(), record.mel.tobytes()
    floats = struct.pack("<128f", *record.embedding)
    for kind, prefix, content in (
        (Kind.SPECTROGRAM, "data", b"00300007007" + levels + pixels),
        (Kind.EMBEDDING, "val", b"00300007007" + floats + pixels),
        (Kind.AUDIO, "test", b"\x03" + levels),
    ):
        (path,) = write_batches(tmp_path, kind, [record], prefix)
        assert path.name == f"{prefix}_batch_001.bin"
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("kind", "size", "record_bytes"),
    [
        ("audio", None, 12_801),
        ("spectrogram", None, 40_459),
        ("embedding", 128, 28_171),
        ("embedding", 256, 28_683),
        ("embedding", 512, 29_707),
        ("embedding", 1024, 31_755),
        ("embedding", 2048, 35_851),
    ],
)
@pytest.mark.parametrize("count", [1, 5])
def test_every_kind_is_recognised_and_read_back(
    tmp_path: Path, kind: str, size: int | None, record_bytes: int, count: int
) -> None:
    written = [toy(number, size) for number in range(count)]
    (path,) = write_batches(tmp_path, kind, written)
    assert path.stat().st_size == count * record_bytes
    kept = {
        "audio": ("class_code", "mel"),
        "spectrogram": ("class_code", "video", "window", "mel", "image"),
        "embedding": ("class_code", "video", "window", "embedding", "image"),
    }[kind]
    read = [record for _, _, record in read_batches(tmp_path)]
    assert len(read) == count
    for a, b in zip(read, written, strict=True):
        for name, value in vars(a).items():
            assert np.array_equal(value, getattr(b, name)) if name in kept else value is None


def test_a_folder_is_read_train_val_test_and_by_number(tmp_path: Path) -> None:
    records = [toy(number) for number in range(12)]
    write_batches(tmp_path, "spectrogram", records[9:], prefix="test")
    write_batches(tmp_path, "spectrogram", records[:7], records_per_file=3)
    write_batches(tmp_path, "spectrogram", records[7:9], prefix="val")
    (tmp_path / "data_batch_003.bin").rename(tmp_path / "data_batch_10.bin")
    (tmp_path / "notes.txt").write_text("no batch")
    assert [(split, path.name) for split, path in batch_files(tmp_path)] == [
        ("train", "data_batch_001.bin"),
        ("train", "data_batch_002.bin"),
        ("train", "data_batch_10.bin"),
        ("val", "val_batch_001.bin"),
        ("test", "test_batch_001.bin"),
    ]
    assert [r.video for _, _, r in read_batches(tmp_path)] == list(range(12))
    assert batch_files(tmp_path / "notes.txt") == [("train", tmp_path / "notes.txt")]


def test_only_one_record_is_held(tmp_path: Path) -> None:
    coming = map(toy, range(40))
    write_batches(tmp_path, "spectrogram", coming)
    assert next(coming, None) is None
    reader = read_batches(tmp_path)
    assert next(reader)[2].video == 0
    # What follows is not read ahead: damage there is met when it is reached.
    path = tmp_path / "data_batch_001.bin"
    data = bytearray(path.read_bytes())
    data[30 * SPECTROGRAM] = 0
    path.write_bytes(data)
    read = []
    with pytest.raises(DataError, match=f"at byte {30 * SPECTROGRAM}: 11 ASCII"):
        read.extend(record.video for _, _, record in reader)
    assert read == list(range(1, 30))


# --- damaged and foreign -----------------------------------------------------------------------


def complaint(path: Path) -> str:
    """What the reader says of a damaged file, without the name of the file."""
    with pytest.raises(DataError) as caught:
        list(read_batches(path))
    file, _, words = str(caught.value).partition(", ")
    assert file == str(path)
    assert "\n" not in words
    return words


def test_damage_is_named_with_its_byte(tmp_path: Path) -> None:
    path = spectrograms(tmp_path)
    whole = path.read_bytes()
    for cut, place in ((1, 80_918), (40_458, 80_918), (40_460, 40_459), (69_000, 40_459)):
        path.write_bytes(whole[:-cut])
        assert complaint(path) == f"at byte {place}: a record of 40459 bytes is cut short"
    for at in (0, 40_459, 80_918):
        for offset, byte in ((0, 0), (10, 0x3A), (5, 0xB2), (3, 0x20)):
            data = bytearray(whole)
            data[at + offset] = byte
            path.write_bytes(data)
            assert complaint(path) == f"at byte {at}: 11 ASCII digits are expected"
    # Also where only one of two records is sound.
    path.write_bytes(b"x" + whole[1 : 2 * SPECTROGRAM])
    assert complaint(path) == "at byte 0: 11 ASCII digits are expected"
    (path,) = write_batches(tmp_path, "embedding", [toy(0, 128), toy(1, 128)])
    at = 28_171 + 11 + 4 * 17
    for value in (np.nan, np.inf, -np.inf):
        data = bytearray(path.read_bytes())
        data[at : at + 4] = struct.pack("<f", value)
        path.write_bytes(data)
        assert complaint(path) == f"at byte {at}: a number of the embedding is not finite"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "at byte 0: the file is empty"),
        (b"hello", "at byte 0: 11 ASCII digits are expected; if it is an audio batch"),
        (b"\x89PNG\r\n\x1a\n" * 5000, "its record at byte 38403 is cut short"),
        (b"00100001000" + bytes(500), "at byte 0: a record is cut short, or this is no batch"),
        (b"7" * 12_800, "at byte 0: a record is cut short, or this is no batch"),
    ],
)
def test_a_foreign_file_is_one_line_with_an_offset(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "data_batch_001.bin"
    path.write_bytes(content)
    assert words in complaint(path)


def test_random_bytes_and_random_cuts_never_give_a_traceback(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = {
        kind: write_batches(tmp_path / kind, kind, [toy(n, 256) for n in range(3)])[0].read_bytes()
        for kind in Kind
    }
    path = tmp_path / "x.bin"
    messages: list[str] = []
    for _ in range(100):
        data = whole[Kind(str(rng.choice(list(Kind))))]
        path.write_bytes(data[int(rng.integers(0, 40)) : int(rng.integers(1, len(data)))])
        try:
            for _, _, record in read_batches(path):
                assert record.class_code >= 0
        except SoundsightError as error:
            messages.append(str(error))
    assert len(messages) == 100
    assert not any("\n" in message for message in messages)


def test_nothing_there_or_files_of_two_kinds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist: check the path"):
        list(read_batches(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"holds no batches: data_batch_NNN\.bin"):
        list(read_batches(tmp_path))
    spectrograms(tmp_path)
    write_batches(tmp_path, "audio", [toy(0)], prefix="val")
    with pytest.raises(DataError, match=r"val_batch_001\.bin, at byte 0: a record of 40459"):
        list(read_batches(tmp_path))


# --- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("spectrogram", {"class_code": 1000}, "class 1000 does not fit a batch: 0 to 999 do"),
        ("audio", {"class_code": 256}, "class 256 does not fit a batch: 0 to 255 do"),
        ("spectrogram", {"video": 100_000}, "video 100000 does not fit a batch"),
        ("spectrogram", {"video": None}, "video None does not fit a batch"),
        ("spectrogram", {"window": 1000}, "window 1000 does not fit a batch: 0 to 999 do"),
        ("spectrogram", {"mel": None}, r"takes uint8 \[128, 100\], not none"),
        ("audio", {"mel": np.zeros((128, 99), np.uint8)}, r"not uint8 \[128, 99\]"),
        ("spectrogram", {"image": np.zeros((96, 96, 3))}, r"not float64 \[96, 96, 3\]"),
        ("embedding", {"embedding": None}, "takes a list of finite numbers"),
        ("embedding", {"embedding": np.full(8, np.nan, np.float32)}, "takes a list of finite"),
        ("embedding", {"embedding": np.zeros(9, np.float32)}, "must be of one size"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    tmp_path: Path, kind: str, change: dict, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        write_batches(tmp_path, kind, [toy(0, 8), toy(1, 8, **change)])
    assert list(tmp_path.iterdir()) == []
    for options in ({"kind": "video"}, {"prefix": "train"}, {"records_per_file": 0}):
        with pytest.raises(ConfigError):
            write_batches(tmp_path, **{"kind": "audio", "records": [toy(0)], **options})
    assert write_batches(tmp_path, "audio", []) == []


# --- records of a dataset ----------------------------------------------------------------------


def test_records_keep_every_bit(tmp_path: Path) -> None:
    stripes = np.zeros((96, 96, 3), np.uint8)  # lossless even where WebP would blur
    stripes[:, ::2, 0] = 255
    stripes[::2, :, 2] = 255
    written = [toy(0, image=stripes), *(toy(number) for number in range(1, 4))]
    write_batches(tmp_path / "s", "spectrogram", written[:3])
    write_batches(tmp_path / "s", "spectrogram", written[3:], prefix="val")
    made = list(batch_records(tmp_path / "s"))
    assert [split for split, _ in made] == ["train", "train", "train", "val"]
    for (_, record), told in zip(made, written, strict=True):
        assert set(record.files) == {"json", "mel.png", "webp"}
        assert (decode_mel(record.files["mel.png"]) == told.mel).all()
        assert (decode_image(record.files["webp"]) == told.image).all()
        about = json.loads(record.files["json"])
        clip = f"c{told.class_code:03d}_s{told.video:05d}"
        assert (about["clip"], about["group"], about["label"]) == (clip, clip, clip[:4])
        assert (about["start_s"], about["frame_s"]) == (told.window, told.window + 0.5)
        assert about["key"] == record.key
        assert "c00" not in record.key
        assert record.key.endswith(f"_{told.window:06d}")
    info = write_shard(tmp_path / "train-000000.tar", [record for _, record in made])
    assert info.pairs == 4
    write_batches(tmp_path / "s", "spectrogram", [toy(3), toy(2)], prefix="val")
    words = r"val_batch_001\.bin, at byte 40459: c003_s00002_w002 was there before"
    with pytest.raises(DataError, match=words):
        list(batch_records(tmp_path / "s"))


def test_records_of_embeddings_and_of_sounds(tmp_path: Path) -> None:
    write_batches(tmp_path / "e", "embedding", [toy(2, 512)])
    ((_, record),) = batch_records(tmp_path / "e")
    assert set(record.files) == {"json", "emb.npy", "webp"}
    embedding = np.load(io.BytesIO(record.files["emb.npy"]))
    assert embedding.dtype == np.float32
    assert np.array_equal(embedding, toy(2, 512).embedding)
    assert json.loads(record.files["json"])["mel"] is None
    write_batches(tmp_path / "a", "audio", [toy(0), toy(0), toy(1)])
    sounds = [record for _, record in batch_records(tmp_path / "a")]
    assert all(set(record.files) == {"json", "mel.png"} for record in sounds)
    assert len({record.key for record in sounds}) == 3
