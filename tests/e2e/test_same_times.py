"""One video whose sound starts late and has a hole: every command tells the same times."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from soundsight.cli.main import build_app
from soundsight.client import Client
from soundsight.media.audio import soundtrack
from soundsight.media.segments import segments

RATE_HZ = 48_000
LATE_S, HOLE_S = 3.0, 2.0
BURST_S = LATE_S + 2.0 + HOLE_S + 1.0
"""The sound starts at 3 s, loses 2 s after 2 s of it; the burst begins at its third second."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("late") / "late.mp4"
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 1e-5, 5 * RATE_HZ)
    burst = slice(3 * RATE_HZ, 4 * RATE_HZ)
    t = np.arange(RATE_HZ) / RATE_HZ
    samples[burst] += 0.3 * np.sin(2 * np.pi * 440 * t) + rng.normal(0, 0.05, RATE_HZ)
    with av.open(str(path), "w") as out:
        picture = out.add_stream("libx264", rate=10)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        track = out.add_stream("aac", rate=RATE_HZ, layout="mono")
        out.start_encoding()
        packets: list[Any] = []
        for number in range(110):
            frame = av.VideoFrame.from_ndarray(
                np.full((48, 64, 3), 2 * number, np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = number, Fraction(1, 10)
            packets += picture.encode(frame)
        packets += picture.encode(None)
        for first in range(0, len(samples) // 1024 * 1024, 1024):
            piece = samples[None, first : first + 1024].astype(np.float32)
            sound = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            late_s = LATE_S + (HOLE_S if first >= 2 * RATE_HZ else 0)
            sound.sample_rate, sound.time_base = RATE_HZ, Fraction(1, RATE_HZ)
            sound.pts = first + round(late_s * RATE_HZ)
            packets += track.encode(sound)
        packets += track.encode(None)
        for packet in sorted(packets, key=lambda p: float(p.dts * p.time_base)):
            out.mux(packet)
    return path


def run(*args: object) -> str:
    result = CliRunner().invoke(build_app(), [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_translate(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    line = json.loads(run("translate", video, "-o", tmp_path, "--json", "--model", tiny_model))
    assert line["second"] == pytest.approx(BURST_S, abs=0.05)
    assert line["warnings"] == []


def test_storyboard(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    run("storyboard", video, "-o", tmp_path / "x.json", "--model", tiny_model)
    story = json.loads((tmp_path / "x.json").read_text())
    assert [event["began_s"] for event in story["events"]] == pytest.approx([BURST_S], abs=0.1)
    assert story["duration_s"] == pytest.approx(10.0, abs=0.1)


def test_prepare(video: Path) -> None:
    with soundtrack(video) as track:
        loud = [w.start_s + track.start_s for w in segments(track) if w.rms_dbfs > -30]
    assert loud[0] == pytest.approx(BURST_S, abs=0.05)


def test_the_server(
    video: Path,
    tiny_model: Path,
    tmp_path: Path,
    serving: Callable[..., AbstractContextManager[Any]],
) -> None:
    with serving("--model", tiny_model) as (address, _), Client(address) as client:
        (imagined,) = client.translate(video)
        assert imagined.second == pytest.approx(BURST_S, abs=0.05)
        client.storyboard(video, tmp_path / "x.json")
    events = json.loads((tmp_path / "x.json").read_text())["events"]
    assert [event["began_s"] for event in events] == pytest.approx([BURST_S], abs=0.1)
