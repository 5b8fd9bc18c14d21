"""A small finished dataset, written pair by pair."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soundsight.data.records import Clip, Record
from soundsight.data.store.shards import ShardInfo, encode_mel, write_dataset, write_shard


def toy_record(clip: Clip, window: int, rng: np.random.Generator, px: int = 96) -> Record:
    """A pair of noise."""
    picture = io.BytesIO()
    small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(small).resize((px, px)).save(picture, format="JPEG", quality=95)
    rows = rng.integers(0, 256, (128, 1), dtype=np.uint8)
    files = {"mel.png": encode_mel(np.repeat(rows, 100, axis=1)), "jpg": picture.getvalue()}
    key = f"{clip.id}_{window:06d}"
    sidecar = {
        "key": key,
        "clip": clip.key,
        "group": clip.group,
        "start_s": float(window),
        "end_s": window + 1.0,
        "frame_s": window + 0.5,
        "label": clip.label,
        "licence": None,
        "measures": {},
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    files["json"] = json.dumps(sidecar, sort_keys=True).encode() + b"\n"
    return Record(key=key, files=files)


def toy_about(splits: dict[str, list[ShardInfo]], px: int = 96) -> dict[str, object]:
    """The content of dataset.json for shards that are written."""
    return {
        "format": "soundsight-pairs",
        "format_version": 1,
        "soundsight": "0",
        "settings": {},
        "mel_frames": 100,
        "mel_bands": 128,
        "image_px": px,
        "files": ["jpg", "json", "mel.png"],
        "labels": ["dog", "rain"],
        "splits": {
            split: {
                "pairs": sum(shard.pairs for shard in shards),
                "shards": [vars(shard) for shard in shards],
            }
            for split, shards in splits.items()
        },
    }


def write_toy_dataset(
    folder: Path, shards: dict[str, list[int]] | None = None, seed: int = 0, px: int = 96
) -> Path:
    """Write a dataset: split -> pairs of each shard; a video has three seconds."""
    rng = np.random.default_rng(seed)
    splits: dict[str, list[ShardInfo]] = {}
    for split, counts in (shards or {"train": [4, 3], "val": [2], "test": [1]}).items():
        records = []
        for number in range(sum(counts)):
            video, window = divmod(number, 3)
            label = ("dog", "rain")[video % 2]
            name = f"{split}_{video:04d}"
            clip = Clip(path="", key=f"{label}/{name}.mp4", group=name, label=label)
            records.append(toy_record(clip, window, rng, px))
        splits[split] = []
        for number, count in enumerate(counts):
            path = folder / f"{split}-{number:06d}.tar"
            splits[split].append(write_shard(path, records[:count]))
            records = records[count:]
    (folder / "failures.csv").write_text("path,reason\nbroken.mp4,no sound\n")
    (folder / "dropped").mkdir()
    (folder / "dropped" / "silent.png").write_bytes(b"a sheet")
    write_dataset(folder, toy_about(splits, px))
    return folder


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """The writer of toy datasets: (folder, {split: pairs of each shard}, seed, px) -> folder."""
    return write_toy_dataset


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    """The writer of toy records: (clip, window, rng, px) -> a record."""
    return toy_record


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy dataset that no test changes: 4 + 3 train, 2 val, 1 test."""
    return write_toy_dataset(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """A toy dataset that a test may damage."""
    return write_toy_dataset(tmp_path / "data")
