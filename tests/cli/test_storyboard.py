"""``soundsight storyboard``: what it writes, what it refuses before it works, what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from recipes.synth import write_video
from tests.sounds import write_tones
from typer.testing import CliRunner, Result

from soundsight.cli.main import build_app
from soundsight.media import audio
from soundsight.runtime import file_events

Make = Callable[..., Any]

RATE = 44_100


@pytest.fixture
def call(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    """Runs storyboard in tmp_path with the tiny model."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        words = ["storyboard", *map(str, arguments), "--model", str(tiny_model)]
        return CliRunner().invoke(build_app(), words)

    return run


@pytest.fixture
def run(call: Make) -> Make:
    """Runs storyboard, which does its work; returns its lines, those of warning among them."""

    def run(*arguments: object) -> list[str]:
        result = call(*arguments)
        assert result.exit_code == 0, result.output
        return result.output.splitlines()

    return run


@pytest.fixture
def dog(tmp_path: Path) -> Path:
    """Sound from 2 to 4 s and from 12 to 13 s."""
    return write_tones(tmp_path / "dog.wav", (2, 0), (2, 1), (8, 0), (1, 1), (1, 0))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "x.json").read_text("utf-8"))


def refused(result: Result, says: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert line.startswith("error: ")
    assert says in line


def test_all_that_it_writes(run: Make, dog: Path, tmp_path: Path) -> None:
    outs = [f"out/a.{suffix}" for suffix in ("png", "mp4", "html", "json")]
    lines = run(dog, *(word for out in outs for word in ("-o", out)))
    assert lines == [f"{dog} -> {out} (2 events)" for out in outs]
    assert names(tmp_path / "out") == ["a.html", "a.json", "a.mp4", "a.png"]
    values = json.loads((tmp_path / "out/a.json").read_text("utf-8"))
    assert [event["spans"] for event in values["events"]] == [[[2.0, 4.0]], [[12.0, 13.0]]]
    assert values["source"] == "dog.wav"
    with Image.open("out/a.png") as image:
        image.load()
        assert image.info["source"] == "dog.wav"
    with av.open("out/a.mp4") as film:
        assert film.duration / 1e6 == pytest.approx(14.0, abs=0.1)
    heard = audio.decode("out/a.mp4")
    assert np.abs(heard[round(2.1 * RATE) : round(3.9 * RATE)]).max() > 0.3
    assert np.abs(heard[round(5 * RATE) : round(11 * RATE)]).max() < 0.01
    assert "dog.wav" in (tmp_path / "out/a.html").read_text("utf-8")


def test_the_sound_of_a_video_and_the_default_output(run: Make, tmp_path: Path) -> None:
    write_video("fire.mp4", "fireworks", 3.0, 0)
    run("fire.mp4", "-o", "x.json")
    assert told(tmp_path)["duration_s"] == pytest.approx(3.0, abs=0.1)
    run("fire.mp4")
    assert names(tmp_path) == ["fire.mp4", "storyboard.png", "x.json"]


def test_silence_is_quiet_all_along(run: Make, tmp_path: Path) -> None:
    write_tones(tmp_path / "still.wav", (3, 0))
    lines = run("still.wav", "-o", "x.json", "-o", "x.png", "-o", "x.mp4")
    assert "quiet from beginning to end" in lines[0]
    assert told(tmp_path)["events"] == []


def test_options_reach_the_story(run: Make, dog: Path, tmp_path: Path) -> None:
    pictures = []
    for seed in (0, 0, 5):
        run(dog, "-o", "x.json", "--overwrite", "--seed", seed, "--sensitivity", 0.4)
        values = told(tmp_path)
        assert (values["seed"], values["sensitivity"]) == (seed, 0.4)
        pictures.append(values["events"][0]["picture"])
    assert pictures[0] == pictures[1] != pictures[2]
    faint = write_tones(tmp_path / "faint.wav", (2, 0.002), (1, 0))
    for sensitivity, count in ((0.0, 0), (1.0, 1)):
        run(faint, "-o", "x.json", "--overwrite", "--sensitivity", sensitivity)
        assert len(told(tmp_path)["events"]) == count
    (tmp_path / "x.png").write_bytes(b"old")
    run(dog, "-o", "x.png", "--overwrite")
    with Image.open("x.png") as image:
        assert image.width > 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dog.wav", "-o", "x.gif"], "ends in .png, .mp4, .html or .json"),
        (["dog.wav", "-o", "x"], "ends in"),
        (["dog.wav", "-o", "there.png"], "is there already"),
        (["dog.mp4", "-o", "dog.mp4", "--overwrite"], "is the sound itself"),
        (["dog.mp4", "-o", "./deep/../dog.mp4", "--overwrite"], "is the sound itself"),
        (["dog.mp4", "-o", "link.mp4", "--overwrite"], "is the sound itself"),
        (["dog.wav", "-o", "x.png", "-o", "./x.png"], "is named twice"),
        (["dog.wav", "-o", "folder.png", "--overwrite"], "is a folder"),
        (["dog.wav", "-o", "there.png/x.png"], "it is a file, not a folder"),
        (["dog.wav", "-o", "s3://bucket/x.png"], "is a URL"),
        (["none.wav", "-o", "x.png"], "does not exist"),
        (["text.wav", "-o", "x.png"], "no sound or video file"),
        (["mute.mp4", "-o", "x.png"], "has no sound track"),
        (["folder.png", "-o", "x.png"], "is a folder"),
        (["dog.wav", "-o", "x.png", "--sensitivity", "2"], "sensitivity"),
        (["dog.wav", "-o", "x.png", "--seed", "-1"], "seed"),
    ],
)
def test_refusals_before_any_work(
    call: Make,
    dog: Path,
    tmp_path: Path,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(file_events, "find_events", None)  # nothing is looked for
    (tmp_path / "there.png").write_bytes(b"kept")
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dog.mp4").write_bytes(dog.read_bytes())
    (tmp_path / "link.mp4").symlink_to("dog.mp4")
    with av.open("mute.mp4", "w") as container:
        track = container.add_stream("mpeg4", rate=8)
        track.width, track.height, track.pix_fmt = 64, 64, "yuv420p"
        black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(track.encode(black))
        container.mux(track.encode(None))
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    refused(call(*arguments), says)
    after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after == before


def test_a_damaged_sound_leaves_nothing_or_what_can_be_read_of_it(
    call: Make, run: Make, tmp_path: Path
) -> None:
    whole = write_tones(tmp_path / "whole.flac", (14, 1)).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    refused(call("cut.flac", "-o", "out/x.png", "-o", "out/x.mp4", "--strict"), "cut short")
    assert names(tmp_path / "out") == []
    lines = run(tmp_path / "cut.flac", "-o", "x.json", "-o", "x.mp4")
    (warning,) = told(tmp_path)["warnings"]
    # A storyboard is passed on: it says nothing of the folders that it was made in.
    assert warning.startswith("cut.flac is damaged at 6.9")
    assert f"warning: {warning}" in lines


@pytest.mark.parametrize("suffix", ["json", "mp4"])
def test_standard_input(tiny_model: Path, tmp_path: Path, suffix: str) -> None:
    """A film needs its sound twice; a pipe gives it once."""
    sound = write_tones(tmp_path / "a.flac", (1, 0), (2, 1)).read_bytes()
    command = [sys.executable, "-m", "soundsight", "storyboard", "-", "-o", f"x.{suffix}"]
    command += ["--model", str(tiny_model)]
    done = subprocess.run(command, input=sound, capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"x.{suffix}").stat().st_size > 500


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "json"])
def test_ctrl_c_leaves_nothing(tiny_model: Path, tmp_path: Path, suffix: str) -> None:
    sound = write_tones(tmp_path / "long.wav", (240, 1))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "soundsight", "storyboard", str(sound)]
    command += ["-o", str(out / f"x.{suffix}"), "--model", str(tiny_model)]
    process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True)
    deadline = time.monotonic() + 120

    def begun() -> bool:
        # A film is begun once its hidden file has content; data are written at the very end.
        hidden = list(out.glob(".x.mp4.*"))
        return out.is_dir() if suffix == "json" else bool(hidden) and hidden[0].stat().st_size > 0

    while not begun():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _stdout, stderr = process.communicate(timeout=120)
    # Where the signal met Python within exec(), as at an import, Python in the end dies of it.
    assert process.returncode in (130, -signal.SIGINT), stderr
    assert stderr.strip() == "interrupted"
    assert names(out) == []
