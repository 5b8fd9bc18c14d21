"""From pairs on disk to a picture, by the commands that people type, with tiny networks.

pairs -> encoder -> translator -> judges -> figures -> model folder -> picture -> page.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from recipes import synth
from soundsight import Client, Translator
from soundsight.cli.main import build_app
from soundsight.data.vegas.bench import Bench

pytestmark = pytest.mark.slow

STEPS = ["--set", "loop.log_every=1", "--set", "loop.checkpoint_every=2"]


def run(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(build_app(), [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def place(toy_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every command once, in order; what they wrote."""
    root, data = tmp_path_factory.mktemp("e2e"), toy_bench.root
    common = ["--data", data, "--preset", "tiny", "--threads", "1", *STEPS]
    run("train", "encoder", "-o", root / "encoder", "--steps", 6, "--batch-size", 12, *common)
    run("train", "translator", "-o", root / "translator", "--encoder", root / "encoder",
        "--steps", 6, "--batch-size", 6, *common)  # fmt: skip
    early = ["--early", root / "translator" / "early"]
    small = ["--data", data, "--threads", "1", "--steps", 20, "--set", "val_per_kind=20",
             "--set", "batch=16"]  # fmt: skip
    run("train", "judges", "-o", root / "judges", *small, *early)
    run("train", "labels", "--encoder", root / "encoder", "-o", root / "names", "--data", data,
        "--threads", "1", "--set", "others_each=1")  # fmt: skip
    run("export", root / "translator", "-o", root / "model", "--labels", root / "names",
        "--confidence", 0.4)  # fmt: skip
    run("evaluate", root / "model", "--data", data, "--judges", root / "judges",
        "-o", root / "report", *early)  # fmt: skip
    return root


def test_the_report_has_every_figure_and_control(place: Path) -> None:
    report = json.loads((place / "report" / "report.json").read_text("utf-8"))
    for row in ("informativity", "shuffled sounds", "real photos"):
        mean = report["rows"][row]["mean"]
        assert 0 <= mean["low"] <= mean["share"] <= mean["high"] <= 1
    assert (place / "report" / "sheet.png").stat().st_size > 1000
    assert "informativity" in (place / "report" / "report.md").read_text("utf-8")


def test_a_run_can_be_evaluated_without_exporting_it(place: Path, toy_bench: Bench) -> None:
    out = place / "report-of-run"
    run("evaluate", place / "translator", "--data", toy_bench.root, "--judges", place / "judges",
        "-o", out)  # fmt: skip
    a, b = (
        json.loads((folder / "report.json").read_text("utf-8"))
        for folder in (place / "report", out)
    )
    assert a["rows"]["informativity"] == b["rows"]["informativity"]


def test_a_video_s_sound_becomes_a_picture(place: Path, tmp_path: Path) -> None:
    video = tmp_path / "dog.mp4"
    synth.write_video(video, "dog", seconds=2, seed=0)
    output = run("translate", video, "-o", tmp_path / "out", "--model", place / "model",
                 "--each-second", "--json", "--sheet")  # fmt: skip
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [line["second"] for line in lines] == [0, 1]
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width > 300
    translator = Translator.load(place / "model")
    pictures = translator.imagine(np.full((1, 128, 100), 90, np.uint8), draws=2, seed=1)
    assert pictures.shape == (2, 96, 96, 3)
    assert pictures.std() > 0


def test_the_model_names_its_subjects(place: Path, toy_bench: Bench) -> None:
    translator = Translator.load(place / "model")
    assert translator.label_head is not None
    assert translator.label_head.labels == ("baby crying", "dog", "train", "fireworks", "water")
    assert translator.info.thresholds.confidence == 0.4
    other = place / "another-encoder"
    run("train", "encoder", "-o", other, "--steps", 1, "--batch-size", 12, "--seed", 5,
        "--data", toy_bench.root, "--preset", "tiny", "--threads", "1", *STEPS)  # fmt: skip
    run("train", "labels", "--encoder", other, "-o", place / "other-names", "--data",
        toy_bench.root, "--threads", "1", "--set", "others_each=0")  # fmt: skip
    output = run("export", place / "translator", "-o", place / "misnamed", "--labels",
                 place / "other-names", code=2)  # fmt: skip
    assert "was fitted to another encoder" in " ".join(output.split())
    assert not (place / "misnamed").exists()


def test_figures_go_into_the_card(place: Path) -> None:
    run("export", place / "translator", "-o", place / "with-figures", "--report",
        place / "report" / "report.json")  # fmt: skip
    card = (place / "with-figures" / "CARD.md").read_text("utf-8")
    assert "shuffled sounds" in card
    assert "devtest" in card


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", "encoder", "--data", "nowhere"], "nowhere"),
        (["train", "translator", "--encoder", "nowhere"], "no run folder"),
        (["train", "labels", "--encoder", "nowhere"], "no run folder"),
        (["export", "nowhere"], "no run folder"),
        (["evaluate", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_get_one_line_and_write_nothing(
    args: list[str], words: str, toy_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOUNDSIGHT_BENCH", str(toy_bench.root))
    output = run(*args, "-o", tmp_path / "out", code=2)
    assert words in output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


def test_the_made_model_is_served(place: Path, tmp_path: Path, serving: Callable[..., Any]) -> None:
    video = tmp_path / "dog.mp4"
    synth.write_video(video, "dog", seconds=2, seed=0)
    with serving("--model", place / "model") as (address, process), Client(address) as client:
        assert "soundsight" in httpx.get(address).text
        there = client.translate(video, each_second=True, seed=4)
        blocks = np.array_split(np.random.default_rng(0).normal(0, 0.3, 44_100 * 3), 96)
        windows = [facts for facts, _ in client.stream(paced(blocks), 44_100)]
    assert process.returncode == 0
    here = Translator.load(place / "model").translate(video, each_second=True, seed=4)
    assert [one.state for one in there] == here.state
    for one, image in zip(there, here.images, strict=True):
        np.testing.assert_array_equal(one.image, image)
    assert windows[-1].end_s == 3.0
    assert windows[-1].level_dbfs == pytest.approx(-10.5, abs=0.5)


def paced(blocks: list[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        time.sleep(0.017)
        yield block
