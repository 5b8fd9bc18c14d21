"""The commands ``soundsight data``, on a dataset made from published batches."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from soundsight.cli import data as module
from soundsight.cli.group import Commands
from soundsight.core import errors
from soundsight.data.records import Record
from soundsight.data.store.shards import open_dataset, write_dataset, write_shard
from soundsight.data.vegas.batches import BatchRecord, batch_records, read_batches, write_batches


def run(*arguments: object) -> Result:
    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    module.register(app)
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def refused(words: str, *arguments: object) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output


def pair(code: int, video: int, window: int, embedding_size: int | None = None) -> BatchRecord:
    rng = np.random.default_rng([code, video, window])
    floats = None if embedding_size is None else rng.normal(size=embedding_size)
    return BatchRecord(
        class_code=code,
        video=video,
        window=window,
        mel=rng.integers(0, 256, (128, 100), dtype=np.uint8),
        embedding=None if floats is None else floats.astype(np.float32),
        image=rng.integers(0, 256, (96, 96, 3), dtype=np.uint8),
    )


TRAIN = [pair(2, 70, 0), pair(2, 70, 1), pair(1, 5, 0), pair(2, 9, 3)]
VAL = [pair(1, 6, 2)]


def write_batch_folder(folder: Path, kind: str = "spectrogram", size: int | None = None) -> Path:
    for prefix, told in (("data", TRAIN), ("val", VAL)):
        records = [pair(r.class_code, r.video or 0, r.window or 0, size) for r in told]
        write_batches(folder, kind, records, prefix)
    return folder


def finish(folder: Path, splits: dict[str, list[Record]], **change: object) -> Path:
    """Write a dataset of a shard a split."""
    files = sorted(set().union(*(r.files for records in splits.values() for r in records)))
    about = {
        "format": "soundsight-pairs",
        "format_version": 1,
        "soundsight": "1.2.3",
        "created_with": {"pillow": "11"},
        "settings": {"image": {"size_px": 96}},
        "mel_frames": 100,
        "mel_bands": 128,
        "image_px": 96,
        "files": files,
        "labels": ["c001", "c002"],
        "counts": {"videos": 4},
        "statistics": {},
        "splits": {
            split: {
                "pairs": len(records),
                "videos": 2,
                "shards": [vars(write_shard(folder / f"{split}-000000.tar", records))],
            }
            for split, records in splits.items()
        },
        **change,
    }
    write_dataset(folder, about)
    return folder


def records_of(batches: Path) -> dict[str, list[Record]]:
    splits: dict[str, list[Record]] = {}
    for split, record in batch_records(batches):
        splits.setdefault(split, []).append(record)
    return splits


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return finish(tmp_path / "data", records_of(write_batch_folder(tmp_path / "batches")))


def relabelled(record: Record, **change: object) -> Record:
    sidecar = {**json.loads(record.files["json"]), **change}
    return Record(
        key=str(sidecar["key"]), files={**record.files, "json": json.dumps(sidecar).encode()}
    )


# --- info, verify ------------------------------------------------------------------------------


def test_info_says_what_there_is(data: Path) -> None:
    result = run("info", data)
    assert result.exit_code == 0
    for words in (
        "log-mels 128 x 100, pictures 96 x 96 px",
        "train: 4 pairs, 2 videos, 1 shards",
        "val: 1 pairs",
        "together: 5 pairs",
        "2 labels: c001, c002",
        "settings.image.size_px = 96",
        "counts.videos = 4",
        "made with soundsight 1.2.3, pillow 11",
    ):
        assert words in result.output


@pytest.mark.parametrize("command", ["info", "verify"])
def test_no_dataset_is_one_line(tmp_path: Path, command: str) -> None:
    result = run(command, tmp_path / "nowhere")
    assert result.exit_code == 2
    assert result.output.startswith("error: there is no dataset at ")
    assert result.output.count("\n") == 1


def test_verify_ends_well_or_with_2_and_a_line_a_problem(data: Path) -> None:
    whole = run("verify", data)
    assert (whole.exit_code, whole.output) == (0, f"{data}: every byte is as it was written\n")
    tar = data / "train-000000.tar"
    content = bytearray(tar.read_bytes())
    content[3000] ^= 1
    content[100_000] ^= 1
    tar.write_bytes(content)
    (data / "extra.txt").write_text("x")
    result = run("verify", data)
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert len(lines) == 4
    assert lines[0] == f"error: {data}: extra.txt: does not belong to the dataset"
    assert all(f"{data}: train-000000.tar: the pair " in line for line in lines[1:3])
    assert lines[3] == f"3 problems in {data}"
    quick = run("verify", data, "--quick")
    assert quick.exit_code == 2
    assert "1 problem in" in quick.output
    (data / "extra.txt").unlink()
    assert run("verify", data, "--quick").exit_code == 0


def test_a_dataset_at_a_url(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(data), "/bucket/app", recursive=True)
    try:
        assert "together: 5 pairs" in run("info", "memory://bucket/app").output
        assert run("verify", "memory://bucket/app").exit_code == 0
    finally:
        memory.rm("/bucket", recursive=True)
    monkeypatch.setattr(errors, "find_spec", lambda _: None)
    words = "needs the extra 'prepare' (fsspec is not installed)"
    refused(words, "info", "s3://bucket/data")


# --- sheet -------------------------------------------------------------------------------------


def test_a_sheet_shows_frames_and_log_mels(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "sheet.png"
    result = run("sheet", data, "-o", out, "--count", 3)
    assert (result.exit_code, result.output) == (0, f"written: {out}\n")
    with Image.open(out) as three:
        width = three.width
    run("sheet", data, "-o", tmp_path / "all.png", "--count", 99)
    run("sheet", data, "-o", tmp_path / "again.png", "--count", 99)
    with Image.open(tmp_path / "all.png") as four:
        assert four.width == width
        assert four.height > three.height
    assert (tmp_path / "all.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    other = [run("sheet", data, "-o", tmp_path / f"{s}.png", "--count", 1, "--seed", s)
             for s in range(4)]  # fmt: skip
    assert all(r.exit_code == 0 for r in other)
    assert len({(tmp_path / f"{seed}.png").read_bytes() for seed in range(4)}) > 1
    words = "has no split 'dev'; choose from train, val"
    refused(words, "sheet", data, "-o", tmp_path / "x.png", "--split", "dev")
    assert not (tmp_path / "x.png").exists()


# --- export ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "size"), [("spectrogram", None), ("audio", None),
                                            ("embedding", 128)])  # fmt: skip
def test_batches_come_back_as_they_were(tmp_path: Path, kind: str, size: int | None) -> None:
    batches = write_batch_folder(tmp_path / "batches", kind, size)
    data = finish(tmp_path / "data", records_of(batches))
    result = run("export", data, "-o", tmp_path / "out", "--kind", kind)
    assert result.exit_code == 0, result.output
    names = [path.name for path in sorted(batches.iterdir())]
    assert names == ["data_batch_001.bin", "val_batch_001.bin"]
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (batches / name).read_bytes()
    classes = json.loads((tmp_path / "out" / "classes.json").read_bytes())
    assert classes == {"c001": "c001", "c002": "c002"}


def test_a_model_embeds_the_log_mels(data: Path, tmp_path: Path, tiny_model: Path) -> None:
    from soundsight.core.units import to_unit
    from soundsight.runtime.model_folder import read
    from soundsight.runtime.session import Session

    result = run("export", data, "-o", tmp_path / "e", "--kind", "embedding", "--model", tiny_model)
    assert result.exit_code == 0, result.output
    fields = np.dtype([("digits", "S11"), ("embedding", "<f4", 8), ("image", "u1", (96, 96, 3))])
    files = sorted((tmp_path / "e").glob("*.bin"))
    made = np.concatenate([np.fromfile(file, fields) for file in files])
    session = Session(read(tiny_model))
    for record, told in zip(made, [*TRAIN, *VAL], strict=True):
        assert told.mel is not None
        expected, _ = session.embed(to_unit(told.mel)[None, None])
        assert np.array_equal(record["embedding"], expected[0])
        assert record["digits"][:8].decode() == f"{told.class_code:03d}{told.video:05d}"


def test_names_become_numbers_and_a_table_says_which(tmp_path: Path) -> None:
    made = records_of(write_batch_folder(tmp_path / "batches"))
    names = ["b/z.mp4", "b/z.mp4", "a/k.mp4", "b/y.mp4"]
    windows = [0, 1004, 7, 2000]
    train = [
        relabelled(
            record, key=f"{n:016x}_{windows[n]:06d}", clip=names[n], group=names[n][2:],
            label={"a": "rain", "b": "dog"}[names[n][0]],
        )
        for n, record in enumerate(made["train"])
    ]  # fmt: skip
    val = [relabelled(r, label=None, clip="x", group="x") for r in made["val"]]
    data = finish(tmp_path / "data", {"train": train, "val": val})
    assert run("export", data, "-o", tmp_path / "out", "--per-file", 3).exit_code == 0
    assert json.loads((tmp_path / "out" / "classes.json").read_bytes()) == {
        "c000": None,
        "c001": "dog",
        "c002": "rain",
    }
    with (tmp_path / "out" / "videos.csv").open(newline="") as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ["000", "00000", "", "x", "x", "0"],
        ["001", "00000", "dog", "y.mp4", "b/y.mp4", "2000"],
        ["001", "00001", "dog", "z.mp4", "b/z.mp4", "0"],
        ["001", "00002", "dog", "z.mp4", "b/z.mp4", "1000"],
        ["002", "00000", "rain", "k.mp4", "a/k.mp4", "0"],
    ]
    read = [(r.class_code, r.video, r.window) for _, _, r in read_batches(tmp_path / "out")]
    assert read == [(1, 1, 0), (1, 2, 4), (2, 0, 7), (1, 0, 0), (0, 0, 2)]
    assert (tmp_path / "out" / "data_batch_002.bin").stat().st_size == 40_459


def test_an_export_replaces_only_an_export(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("export", data, "-o", out).exit_code == 0
    refused("exists already", "export", data, "-o", out)
    assert run("export", data, "-o", out, "--overwrite", "--kind", "audio").exit_code == 0
    assert (out / "data_batch_001.bin").stat().st_size == 4 * 12_801
    words = "holds something else and is kept"
    refused(words, "export", data, "-o", data, "--overwrite")
    assert len(open_dataset(data)) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mel_frames": 200}, "has log-mels of 128 x 200 and pictures of 96 pixels"),
        ({"image_px": 128}, "published batches take 128 x 100 and 96, prepare it"),
        ({"files": ["json", "mel.png"]}, "holds no pictures"),
        ({"files": ["json", "webp"]}, "holds no log-mels"),
    ],
)
def test_what_no_batch_can_hold_is_refused_at_once(
    tmp_path: Path, change: dict, words: str
) -> None:
    made = records_of(write_batch_folder(tmp_path / "batches"))
    data = finish(tmp_path / "data", made, **change)
    refused(words, "export", data, "-o", tmp_path / "out")
    words = "unknown kind 'video'; choose from audio, embedding, spectrogram"
    refused(words, "export", data, "-o", tmp_path / "out", "--kind", "video")
    assert not (tmp_path / "out").exists()
