"""``soundsight train encoder --preset everyday`` and the evaluation of what it made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from soundsight.cli import main as cli
from soundsight.cli import train_runs
from soundsight.data.everyday.folder import EVERYDAY_VARIABLE, OF_BENCH, Everyday
from soundsight.data.vegas.bench import BENCH_VARIABLE, Bench
from soundsight.models.eyes import NETWORKS, Eyes
from soundsight.models.ood import OodClassifier
from soundsight.training.labels import EVERYDAY_HEAD
from soundsight.training.ood import load_ood


@pytest.fixture(scope="module", autouse=True)
def places(toy_everyday: Everyday, toy_bench: Bench) -> Iterator[None]:
    torch.manual_seed(0)
    eyes = Eyes(NETWORKS["lite0"]).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Eyes, "load", lambda _name="lite0": eyes)
        patch.setenv(EVERYDAY_VARIABLE, str(toy_everyday.root))
        patch.setenv(BENCH_VARIABLE, str(toy_bench.root))
        yield


def told(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.build_app(), args, prog_name="soundsight")
    return result.exit_code, result.stdout, result.stderr


def train(run: Path, *more: str) -> tuple[int, str, str]:
    return told(
        "train", "encoder", "--preset", "everyday-tiny", "-o", str(run), "--steps", "2",
        "--batch-size", "16", "--threads", "1", "--set", "bank.copies=1",
        "--precision", "32-true", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ears."""
    place = tmp_path_factory.mktemp("trained") / "ears"
    code, out, err = train(place)
    assert (code, out) == (0, f"finished: {place}\n"), err
    return place


def test_ears_are_trained_and_measured(run: Path, tmp_path: Path) -> None:
    assert {path.name for path in (run.parent / "bank").iterdir()} == {
        "bank.json", "copy-000.npy", "copy-001.npy", "pairs.csv", "photos.npz",
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


def test_absent_data_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EVERYDAY_VARIABLE, str(tmp_path / "nowhere"))
    code, _, err = train(tmp_path / "run")
    assert code == 2
    assert err.startswith("error: no Everyday data at")
    assert err.count("\n") == 1


def test_what_is_none_of_the_kinds_is_learned_from_a_folder(
    run: Path, tmp_path: Path, write_sound: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_runs, "EVERYDAY_HEAD", replace(EVERYDAY_HEAD, others_each=1))
    others = tmp_path / "others"
    for number in range(3):
        write_sound(others / f"saw {number}.wav", 1.0, hz=2000.0 + 900 * number, level=0.3)
    (others / "broken.ogg").write_bytes(b"OggS, and nothing else")
    quick = ["--set", "iterations=5"]
    names = ["train", "labels", "--encoder", str(run), "--others", str(others)]
    code, out, err = told(*names, "-o", str(tmp_path / "names"), *quick)
    assert code == 0, err
    assert "cat" in out
    assert "left out 1 that cannot be read" in err
    assert "broken.ogg" in err
    ood = ["train", "ood", "--encoder", str(run), "--others"]
    quick = ["--set", "steps=20", "--set", "hidden=8"]
    code, _, err = told(*ood, str(others), "-o", str(tmp_path / "known"), *quick)
    assert code == 0, err
    network = load_ood(tmp_path / "known", run)
    assert isinstance(network, OodClassifier)
    assert network.config.kinds == len({"baby", "cat", "knock", *OF_BENCH})

    (tmp_path / "empty").mkdir()
    for folder, words in (("empty", "holds no sound"), ("nowhere", "cannot be listed")):
        code, out, err = told(*ood, str(tmp_path / folder), "-o", str(tmp_path / "none"), *quick)
        assert (code, out) == (2, "")
        assert words in err
        assert not (tmp_path / "none").exists()


def test_a_folder_of_other_sounds_goes_with_everyday(
    run: Path, tmp_path: Path, toy_bench: Bench
) -> None:
    for part in ("labels", "ood"):
        code, out, err = told(
            "train", part, "--encoder", str(run), "--others", str(tmp_path),
            "--data", str(toy_bench.root), "-o", str(tmp_path / "none"),
        )  # fmt: skip
        assert (code, out) == (2, "")
        assert "--others goes with Everyday's folder" in err
        assert err.count("\n") == 1
