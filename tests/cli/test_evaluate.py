"""``soundsight evaluate`` from the command line, with a translator that is known."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from soundsight.cli import evaluate as command
from soundsight.core.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    ModelError,
    OutputError,
)
from soundsight.data.everyday.folder import Everyday
from soundsight.data.vegas.bench import Bench
from soundsight.evaluation import bench as on_bench
from soundsight.evaluation import everyday as on_everyday
from soundsight.evaluation.bench import EvaluationConfig
from soundsight.evaluation.everyday import EverydayConfig
from soundsight.judges.everyday import PhotoJudge
from soundsight.judges.files import PACKAGED_JUDGES
from soundsight.runtime.translator import Translator


class Grey:
    """A translator that would draw nothing, and draws grey where it has to."""

    def draws(self, mels: np.ndarray) -> np.ndarray:
        return np.zeros(len(mels), np.bool_)

    def imagine(self, mels: np.ndarray, *, draws: int = 1, seed: int = 0) -> np.ndarray:
        return np.full((len(mels) * draws, 96, 96, 3), 100 + seed % 2, np.uint8)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder that loads as ``Grey``."""
    folder = tmp_path / "grey"
    folder.mkdir()
    (folder / "model.json").write_text("{}")
    monkeypatch.setattr(Translator, "load", lambda _folder: Grey())
    # Twenty uninformative pictures instead of four thousand.
    monkeypatch.setattr(on_bench, "EvaluationConfig", partial(EvaluationConfig, floor_per_kind=1))
    return folder


@pytest.fixture
def app() -> typer.Typer:
    """A program with this command and another, as the real one has several."""
    app = typer.Typer()
    command.register(app)
    app.command("other")(lambda: None)
    return app


@pytest.fixture
def run(app: typer.Typer, model: Path, tmp_path: Path) -> Callable[..., object]:
    """Runs the command: (data, *options, of=model, out="out"); faults come through."""

    def of(data: Path | None, *options: object, of: Path = model, out: str = "out") -> object:
        words = [of, "-o", tmp_path / out, *(["--data", data] if data else []), *options]
        return CliRunner().invoke(app, ["evaluate", *map(str, words)], catch_exceptions=False)

    return of


def test_it_writes_the_report_of_a_model(run, toy_bench: Bench, tmp_path: Path) -> None:
    out, threads = tmp_path / "out", torch.get_num_threads()
    result = run(toy_bench.root, "--limit", 2)
    assert result.exit_code == 0
    assert torch.get_num_threads() == threads
    written = json.loads((out / "report.json").read_text())
    assert written["model"]["name"] == "grey"
    assert len(written["model"]["sha256"]) == 64
    assert written["settings"]["limit"] == 2
    assert sum(written["sounds"].values()) == 10
    assert written["rows"]["hidden"]["mean"]["share"] == 1
    assert written["rows"]["informativity"]["mean"]["share"] == 0
    assert "informativity: 0.0 % [" in result.output
    assert (out / "sheet.png").stat().st_size > 1000
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    # The thresholds and what passes them are those of the judges' training.
    assert written["judges"]["val"]["judge"]["dog"]["photos"] > 0
    assert written["judges"]["val"]["second judge"]["dog"]["photos"] > 0
    assert {"agreement", "confusion", "retrieval", "fidelity"} <= set(written)


def test_a_run_is_exported_for_the_occasion(
    run, model: Path, toy_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[tuple[Path, Path]] = []

    def export_run(run: Path, out: Path) -> None:
        out.mkdir()
        (out / "model.json").write_text("{}")
        exported.append((run, out))

    made = SimpleNamespace(export_run=export_run)
    monkeypatch.setitem(sys.modules, "soundsight.export.onnx", made)
    (model / "run.json").write_text("{}")
    assert run(toy_bench.root, "--limit", 1).exit_code == 0
    assert exported[0][0] == model
    assert not exported[0][1].exists()


def test_what_is_wrong_is_named_in_one_line(
    run, toy_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grey, "imagine", lambda *_args, **_options: pytest.fail("it draws"))
    others, early, bench = tmp_path / "others", tmp_path / "early.npz", toy_bench.root
    shutil.copytree(PACKAGED_JUDGES, others)
    record = json.loads((others / "judges.json").read_text())
    record["names"].remove("baby")
    record["settings"]["early"]["count"] = 0
    (others / "judges.json").write_text(json.dumps(record))
    np.savez(early, images=np.zeros((8, 96, 96, 3), np.uint8))
    none = tmp_path / "none"
    for error, words, data, options in (
        (ModelError, "holds no judges", bench, ["--judges", tmp_path]),
        (ModelError, "there is no judge of baby", bench, ["--judges", others]),
        (ConfigError, "these 8 pictures are not the", bench, ["--early", early]),
        (ModelError, "there is no feature network", bench, ["--features", none]),
        (DataError, "no bench at", none, []),
        (ConfigError, "test is not for evaluation: choose from devtest, val", bench,
         ["--split", "test"]),
    ):  # fmt: skip
        with pytest.raises(error, match=words) as caught:
            run(data, *options)
        assert "\n" not in str(caught.value)
    record["names"].insert(0, "baby")
    (others / "judges.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="were trained without early pictures"):
        run(bench, "--judges", others, "--early", early)
    folder = SimpleNamespace(where="data")
    monkeypatch.setattr("soundsight.data.store.dataset.open_pairs", lambda _where: folder)
    with pytest.raises(DataError, match="data is a dataset of pairs: evaluation needs a bench"):
        run(none)
    assert not (tmp_path / "out").exists()
    assert run(None, "--seed", -1).exit_code == 2


def test_what_is_not_installed_is_named(run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "safetensors", None)
        with pytest.raises(MissingExtraError, match="soundsight evaluate needs the extra 'train'"):
            run(None)
    # A run needs what exports it.
    (model / "run.json").write_text("{}")
    for package in ("onnxscript", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"'train' \({package} is not installed"):
            run(None)


def test_a_place_that_cannot_be_written_is_named_before_the_drawing(
    run, toy_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grey, "imagine", lambda *_args, **_options: pytest.fail("it draws"))
    (tmp_path / "file").touch()
    for out in ("file", "file/below", "n" * 300):
        with pytest.raises(OutputError, match=r"cannot write |is kept: choose") as caught:
            run(toy_bench.root, out=out)
        assert "\n" not in str(caught.value)


def test_an_encoder_run_is_measured_as_an_encoder(
    run, toy_bench: Bench, every_kind: Everyday, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "run.json").write_text('{"kind": "encoder"}')
    asked: list[tuple] = []

    def evaluate_encoder(run: Path, bench: Bench, out: Path, **options: object) -> None:
        asked.append((run, bench.root, out, options["split"], options["seed"]))

    def report_ears(run: Path, everyday: Everyday, bench: Bench, *_: object, **__: object):
        asked.append((run, everyday.root, bench.root))
        return ["ears: 0.9"]

    monkeypatch.setattr("soundsight.evaluation.encoders.evaluate_encoder", evaluate_encoder)
    monkeypatch.setattr("soundsight.evaluation.encoders.report_ears", report_ears)
    measure = partial(run, toy_bench.root, of=encoder)
    assert measure("--seed", 3, "--split", "val").exit_code == 0
    assert asked.pop() == (encoder, toy_bench.root, tmp_path / "out", "val", 3)
    for option in (["--limit", 3], ["--blind-sheet"], ["--judges", tmp_path]):
        words = f"{option[0]} is for translators, not for an encoder"
        with pytest.raises(ConfigError, match=words):
            measure(*option)
    with pytest.raises(ConfigError, match="is an encoder of the bench: leave out --data"):
        run(every_kind.root, of=encoder)
    (encoder / "run.json").write_text('{"kind": "ears"}')
    monkeypatch.setenv("SOUNDSIGHT_BENCH", str(toy_bench.root))
    assert "ears: 0.9" in run(every_kind.root, of=encoder).output
    assert asked == [(encoder, every_kind.root, toy_bench.root)]
    (encoder / "run.json").write_text("{")
    with pytest.raises(ModelError, match=r"run\.json is damaged"):
        measure()


def test_a_person_s_answers_are_scored(
    app: typer.Typer, run, toy_bench: Bench, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert "the key, to be opened afterwards" in run(toy_bench.root, "--blind-sheet").output
    form = out / "blind" / "answers.csv"
    lines = form.read_text().splitlines()
    form.write_text("\n".join([lines[0], *[line + "water" for line in lines[1:]]]) + "\n")
    key = next(out.glob("blind-key*.json"))
    figures = tmp_path / "figures.json"
    words = ["score-blind", str(form), "--key", str(key), "-o", str(figures)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    found = json.loads(figures.read_text())
    # A toy class has twelve seconds, eight of which are on the other sheet.
    assert found["count"] == 20
    assert found["right_unhidden"]["share"] == pytest.approx(0.2)
    assert found["confusion"]["dog"]["water"] == 4
    # Every picture is hidden.
    assert "right: 0.0 [0.0, 16.1] % of 20 pictures" in result.output


def test_registering_loads_no_torch() -> None:
    code = (
        "import sys, typer; from soundsight.cli.evaluate import register;"
        "register(typer.Typer()); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_everyday_is_measured_by_its_own_judge(
    run, every_kind: Everyday, toy_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOUNDSIGHT_BENCH", str(toy_bench.root))
    asked = {}

    def measure(_model, judge, everyday, bench, _out, config, **_others):
        asked.update(judge=judge, everyday=everyday.root, bench=bench.root, config=config)
        mean = {"share": 0.5, "low": 0.4, "high": 0.6}
        return {"rows": {"right": {"mean": mean}}}

    monkeypatch.setattr(on_everyday, "evaluate_everyday", measure)
    monkeypatch.setattr(PhotoJudge, "load", lambda path: path)
    options = ["--judges", tmp_path, "--split", "val", "--limit", 3, "--blind-sheet"]
    result = run(every_kind.root, *options)
    assert "right: 50.0 % [40.0, 60.0]" in result.output
    assert "for blind viewing" in result.output
    assert asked == {
        "judge": tmp_path,
        "everyday": every_kind.root,
        "bench": toy_bench.root,
        "config": EverydayConfig(split="val", limit=3, blind_sheet=True),
    }
    with pytest.raises(ConfigError, match="--features is for the bench"):
        run(every_kind.root, "--features", tmp_path)
