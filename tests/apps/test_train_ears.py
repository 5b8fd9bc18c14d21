"""``soundsight train encoder --preset everyday`` and the evaluation of what it made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from soundsight.apps import cli
from soundsight.models.eyes import NETWORKS, Eyes
from soundsight.pairs.bench import BENCH_VARIABLE, Bench
from soundsight.pairs.everyday import EVERYDAY_VARIABLE, Everyday


@pytest.fixture(autouse=True)
def places(toy_everyday: Everyday, toy_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    eyes = Eyes(NETWORKS["lite0"]).eval()
    monkeypatch.setattr(Eyes, "load", lambda _name="lite0": eyes)
    monkeypatch.setenv(EVERYDAY_VARIABLE, str(toy_everyday.root))
    monkeypatch.setenv(BENCH_VARIABLE, str(toy_bench.root))


def told(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.build_app(), args, prog_name="soundsight")
    return result.exit_code, result.stdout, result.stderr


def train(run: Path, *more: str) -> tuple[int, str, str]:
    return told(
        "train", "encoder", "--preset", "everyday-tiny", "-o", str(run), "--steps", "2",
        "--batch-size", "16", "--threads", "1", "--set", "bank.copies=1",
        "--precision", "32-true", *more,
    )  # fmt: skip


def test_ears_are_trained_and_measured(tmp_path: Path) -> None:
    run = tmp_path / "ears"
    code, out, err = train(run)
    assert (code, out) == (0, f"finished: {run}\n"), err
    assert {path.name for path in (tmp_path / "bank").iterdir()} == {
        "bank.json", "copy-000.npy", "copy-001.npy", "pairs.csv", "photos.json", "photos.npy",
        "seconds.npz",
    }  # fmt: skip
    assert "nothing to do" in train(run)[2]
    code, _, err = train(run, "--seed", "1")
    assert code == 2
    assert "loop.seed" in err
    code, out, err = told("evaluate", str(run), "-o", str(tmp_path / "report"), "--split", "val")
    assert code == 0, err
    assert "28 kinds, 8 kHz, recordings" in out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["split"] == "val"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--preset", "everyday", "--teacher", "none.zip"], "there is no teacher none.zip"),
        (["--preset", "everyday", "--init", "run"], "--init: not for --preset everyday"),
        (["--bank", "x"], "belong to --preset everyday"),
        (["--preset", "everyday", "--set", "bank.copies=-1"], "copies"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, args: list[str], words: str) -> None:
    code, out, err = told("train", "encoder", "-o", str(tmp_path / "run"), *args)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_absent_data_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EVERYDAY_VARIABLE, str(tmp_path / "nowhere"))
    code, _, err = train(tmp_path / "run")
    assert code == 2
    assert err.startswith("error: no Everyday data at")
    assert err.count("\n") == 1
