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

import av
import numpy as np
import pytest
from PIL import Image
from tests.sounds import write_tones
from typer.testing import CliRunner, Result

from soundsight.cli.main import build_app
from soundsight.media import audio

RATE = 44_100


@pytest.fixture
def run(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Run storyboard in tmp_path with the tiny model."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        words = ["storyboard", *map(str, arguments), "--model", str(tiny_model)]
        return CliRunner().invoke(build_app(), words)

    return call


@pytest.fixture
def dog(tmp_path: Path) -> Path:
    """Sound from 2 to 4 s and from 12 to 13 s."""
    return write_tones(tmp_path / "dog.wav", (2, 0), (2, 1), (8, 0), (1, 1), (1, 0))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def refused(result: Result, says: str) -> None:
    assert result.exit_code == 2, result.output
    told = [line for line in result.stderr.splitlines() if line]
    assert len(told) == 1, result.stderr
    assert told[0].startswith("error: ")
    assert says in told[0]


def test_all_that_it_writes(run: Callable[..., Result], dog: Path, tmp_path: Path) -> None:
    outs = [f"out/a.{suffix}" for suffix in ("png", "mp4", "html", "json")]
    result = run(dog, *(word for out in outs for word in ("-o", out)))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"{dog} -> {out} (2 events)" for out in outs]
    assert names(tmp_path / "out") == ["a.html", "a.json", "a.mp4", "a.png"]
    told = json.loads((tmp_path / "out/a.json").read_text("utf-8"))
    assert [event["spans"] for event in told["events"]] == [[[2.0, 4.0]], [[12.0, 13.0]]]
    assert told["source"] == "dog.wav"
    with Image.open("out/a.png") as image:
        image.load()
        assert image.info["source"] == "dog.wav"
    with av.open("out/a.mp4") as film:
        assert film.duration / 1e6 == pytest.approx(14.0, abs=0.1)
    heard = audio.decode("out/a.mp4")
    assert np.abs(heard[round(2.1 * RATE) : round(3.9 * RATE)]).max() > 0.3
    assert np.abs(heard[round(5 * RATE) : round(11 * RATE)]).max() < 0.01
    assert "dog.wav" in (tmp_path / "out/a.html").read_text("utf-8")


def test_default_output(run: Callable[..., Result], dog: Path, tmp_path: Path) -> None:
    assert run(dog.name).exit_code == 0
    assert names(tmp_path) == ["dog.wav", "storyboard.png"]


def test_the_sound_of_a_video(run: Callable[..., Result], tmp_path: Path) -> None:
    from recipes.synth import write_video

    write_video("fire.mp4", "fireworks", 3.0, 0)
    result = run("fire.mp4", "-o", "x.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "x.json").read_text("utf-8"))["duration_s"] == pytest.approx(
        3.0, abs=0.1
    )


def test_silence_is_quiet_all_along(run: Callable[..., Result], tmp_path: Path) -> None:
    write_tones(tmp_path / "still.wav", (3, 0))
    result = run("still.wav", "-o", "x.json", "-o", "x.png", "-o", "x.mp4")
    assert result.exit_code == 0, result.output
    assert "quiet from beginning to end" in result.stdout
    assert json.loads((tmp_path / "x.json").read_text("utf-8"))["events"] == []


def test_options_reach_the_story(run: Callable[..., Result], dog: Path, tmp_path: Path) -> None:
    pictures = {}
    for seed in (0, 0, 5):
        result = run(dog, "-o", "x.json", "--overwrite", "--seed", seed, "--sensitivity", 0.4)
        assert result.exit_code == 0, result.output
        told = json.loads((tmp_path / "x.json").read_text("utf-8"))
        assert (told["seed"], told["sensitivity"]) == (seed, 0.4)
        picture = told["events"][0]["picture"]
        assert pictures.setdefault(seed, picture) == picture
    assert pictures[0] != pictures[5]
    faint = write_tones(tmp_path / "faint.wav", (2, 0.002), (1, 0))
    for sensitivity, count in ((0.0, 0), (1.0, 1)):
        run(faint, "-o", "x.json", "--overwrite", "--sensitivity", sensitivity)
        assert len(json.loads((tmp_path / "x.json").read_text("utf-8"))["events"]) == count


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
    run: Callable[..., Result],
    dog: Path,
    tmp_path: Path,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from soundsight.runtime import file_events

    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing is told")

    monkeypatch.setattr(file_events, "find_events", never)
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
    refused(run(*arguments), says)
    after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after == before


def test_overwrite(run: Callable[..., Result], dog: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"old")
    assert run(dog, "-o", "x.png", "--overwrite").exit_code == 0
    with Image.open("x.png") as image:
        assert image.width > 1000


def test_a_damaged_sound_leaves_nothing(run: Callable[..., Result], tmp_path: Path) -> None:
    whole = write_tones(tmp_path / "whole.flac", (14, 1)).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    strict = run("cut.flac", "-o", "out/x.png", "-o", "out/x.mp4", "--strict")
    refused(strict, "cut short")
    assert names(tmp_path / "out") == []


def test_what_can_be_read_of_a_damaged_sound_is_told(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    whole = write_tones(tmp_path / "whole.flac", (14, 1)).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    result = run(tmp_path / "cut.flac", "-o", "x.json", "-o", "x.mp4")
    assert result.exit_code == 0, result.output
    (told,) = json.loads((tmp_path / "x.json").read_text())["warnings"]
    # A storyboard is passed on: it says nothing of the folders that it was made in.
    assert told.startswith("cut.flac is damaged at 6.9")
    assert f"warning: {told}" in result.output


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
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
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
