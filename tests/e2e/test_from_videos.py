"""From a folder of videos to a picture, by the commands that people type, with tiny networks.

videos -> prepare -> encoder -> translator -> model folder -> picture.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from recipes import synth
from soundsight.cli.main import build_app
from soundsight.core.files import sha256_of
from soundsight.data.store.shards import open_dataset
from soundsight.media.frames import frame_at

STEPS = ["--set", "loop.log_every=1", "--set", "loop.checkpoint_every=2"]


def run(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(build_app(), [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every command once, in order; what they wrote."""
    root = tmp_path_factory.mktemp("from-videos")
    for k in range(8):
        subject = synth.SUBJECTS[k % 5]
        synth.write_video(root / "videos" / f"{subject}_{k}.mp4", subject, 3, k, fps=5, size_px=64)
    (root / "videos" / "broken.mp4").write_text("no video")
    run("prepare", root / "videos", "-o", root / "data", "--clean", "silence,black,duplicates",
        "--split", "0.6,0.2,0.2", "--workers", "2")  # fmt: skip
    common = ["--data", root / "data", "--preset", "tiny", "--threads", "1", *STEPS]
    run("train", "encoder", "-o", root / "encoder", "--steps", 2, "--batch-size", 6, *common)
    run("train", "translator", "-o", root / "translator", "--encoder", root / "encoder",
        "--steps", 2, "--batch-size", 4, *common)  # fmt: skip
    run("export", root / "translator", "-o", root / "model")
    return root


def test_the_pairs_are_frames_of_the_videos_beside_their_sound(place: Path) -> None:
    data = open_dataset(place / "data")
    seen = 0
    for split in data.splits:
        for record in data.records(split):
            about = json.loads(record.files["json"])
            mel, image = data.decode(record)
            assert image is not None
            video = place / "videos" / about["clip"]
            expected = frame_at(video, about["start_s"] + 0.5, 96).astype(int)
            assert np.abs(image.astype(int) - expected).mean() < 4
            assert about["frame_s"] <= about["start_s"] + 0.5 < about["frame_s"] + 0.2 + 1e-6
            assert mel.max() > 100
            assert about["start_s"] in (0.0, 1.0, 2.0)
            seen += 1
    counts = data.about["counts"]
    assert (counts["clips"], counts["failed"], counts["pairs"]) == (9, 1, seen)
    assert seen > 12
    assert "broken.mp4" in (place / "data" / "failures.csv").read_text("utf-8")


def test_a_video_becomes_the_log_mel_that_a_model_will_see(place: Path) -> None:
    """The training data and ``translate`` agree on what a second of a video sounds like."""
    from soundsight.media.audio import decode
    from soundsight.media.mel import log_mel

    data = open_dataset(place / "data")
    record = next(iter(data.records("train")))
    about = json.loads(record.files["json"])
    mel, _ = data.decode(record)
    heard = log_mel(decode(place / "videos" / about["clip"]))
    first = round(about["start_s"] * 100)
    difference = np.abs(mel.astype(int) - heard[:, first : first + 100].astype(int))
    assert difference.max() <= 1


def test_training_saw_the_dataset_and_a_model_came_of_it(place: Path) -> None:
    assert (place / "encoder").is_dir()
    model = json.loads((place / "model" / "model.json").read_text("utf-8"))
    for name, file in model["files"].items():
        assert sha256_of(place / "model" / name) == file["sha256"]


def test_a_sound_becomes_a_picture(place: Path) -> None:
    video = next(iter(sorted((place / "videos").glob("dog*.mp4"))))
    output = run("translate", video, "-o", place / "out", "--model", place / "model",
                 "--each-second", "--json")  # fmt: skip
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [line["second"] for line in lines] == [0, 1, 2]
    pictures = sorted((place / "out").rglob("*.png"))
    assert len(pictures) >= 3
    with Image.open(pictures[0]) as picture:
        assert np.asarray(picture.convert("RGB")).std() > 0


def test_the_same_commands_find_everything_finished(place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (place / "data").iterdir()}
    output = run("prepare", place / "videos", "-o", place / "data", "--clean",
                 "silence,black,duplicates", "--split", "0.6,0.2,0.2")  # fmt: skip
    assert "finished already" in output
    assert {path: path.stat().st_mtime_ns for path in (place / "data").iterdir()} == before
