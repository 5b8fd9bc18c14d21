"""``soundsight evaluate`` from the command line, with a translator that is known."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
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
from soundsight.judges.fit import ViewerConfig
from soundsight.judges.retrieval_space import SpaceConfig
from soundsight.judges.train import JudgesConfig, ViewersConfig, train
from soundsight.models.picture_classifier import PictureClassifierConfig
from soundsight.runtime.translator import Translator


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory, toy_bench: Bench) -> Path:
    """Judges after two batches, with all that stands beside them."""
    torch.set_num_threads(1)
    viewer = ViewerConfig(passes=0.4, photos=5, network=PictureClassifierConfig(maps=(4, 6)))
    viewers = ViewersConfig(
        second=viewer, classifier=viewer, space=SpaceConfig(passes=1, batch_size=8)
    )
    config = JudgesConfig(steps=2, batch=8, val_per_kind=2, viewers=viewers)
    out = tmp_path_factory.mktemp("trained") / "judges"
    return train(config, toy_bench, out)


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


def run(app: typer.Typer, *arguments: object):
    """Run the command; faults come through."""
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def test_it_writes_the_report_of_a_model(
    app: typer.Typer, model: Path, judges: Path, toy_bench: Bench, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    threads = torch.get_num_threads()
    result = run(
        app, model, "--data", toy_bench.root, "--judges", judges, "-o", out, "--limit", 2
    )  # fmt: skip
    assert result.exit_code == 0
    assert torch.get_num_threads() == threads
    written = json.loads((out / "report.json").read_text())
    assert written["model"]["name"] == "grey"
    assert len(written["model"]["sha256"]) == 64
    assert written["settings"]["limit"] == 2
    assert sum(written["sounds"].values()) == 10
    assert written["rows"]["hidden"]["mean"]["share"] == 1
    assert written["rows"]["informativity"]["mean"]["share"] == 0
    mean = 100 * written["rows"]["informativity"]["mean"]["share"]
    assert f"informativity: {mean:.1f} % [" in result.output
    assert (out / "sheet.png").stat().st_size > 1000
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    # The thresholds and what passes them are those of the judges' training.
    assert written["judges"]["val"]["judge"]["dog"]["photos"] > 0
    assert written["judges"]["val"]["second judge"]["dog"]["photos"] > 0
    assert {"agreement", "confusion", "retrieval", "fidelity"} <= set(written)


def test_a_run_is_exported_for_the_occasion(
    app: typer.Typer,
    model: Path,
    judges: Path,
    toy_bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exported: list[tuple[Path, Path]] = []

    def export_run(run: Path, out: Path) -> None:
        out.mkdir()
        (out / "model.json").write_text("{}")
        exported.append((run, out))

    monkeypatch.setitem(
        sys.modules, "soundsight.export.onnx", SimpleNamespace(export_run=export_run)
    )
    (model / "run.json").write_text("{}")
    result = run(
        app, model, "--data", toy_bench.root, "--judges", judges, "-o", tmp_path / "out",
        "--limit", 1,
    )  # fmt: skip
    assert result.exit_code == 0
    assert exported[0][0] == model
    assert not exported[0][1].exists()


def test_what_is_missing_is_named(
    app: typer.Typer, model: Path, judges: Path, toy_bench: Bench, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="holds no judges"):
        run(
            app, model, "--judges", tmp_path, "--data", toy_bench.root, "-o", tmp_path / "out"
        )  # fmt: skip
    with pytest.raises(DataError, match="no bench at"):
        run(app, model, "--judges", judges, "--data", tmp_path / "none", "-o", tmp_path / "out")
    with pytest.raises(DataError, match="unknown split 'test'"):
        run(
            app, model, "--judges", judges, "--data", toy_bench.root, "-o", tmp_path / "out",
            "--split", "test",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_without_torch_the_extra_is_named(
    app: typer.Typer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingExtraError, match=r"soundsight evaluate needs the extra 'train'"):
        run(app, model, "-o", tmp_path / "out")


def test_a_run_needs_what_exports_it(
    app: typer.Typer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "run.json").write_text("{}")
    for package in ("onnxscript", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"'train' \({package} is not installed"):
            run(app, model, "-o", tmp_path / "out")


def test_a_place_that_cannot_be_written_is_named_before_the_drawing(
    app: typer.Typer,
    model: Path,
    judges: Path,
    toy_bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Grey, "imagine", lambda *_args, **_options: pytest.fail("it draws"))
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("n" * 300)):
        with pytest.raises(OutputError, match=r"cannot write |is kept: choose") as caught:
            run(app, model, "--data", toy_bench.root, "--judges", judges, "-o", out)
        assert "\n" not in str(caught.value)


def test_an_encoder_run_is_measured_as_an_encoder(
    app: typer.Typer, toy_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "run.json").write_text('{"kind": "encoder"}')
    asked: list[tuple] = []

    def evaluate_encoder(run: Path, bench: Bench, out: Path, **options: object) -> None:
        asked.append((run, bench.root, out, options["split"], options["seed"]))

    monkeypatch.setattr("soundsight.evaluation.encoders.evaluate_encoder", evaluate_encoder)
    common = encoder, "--data", toy_bench.root, "-o", tmp_path / "out"
    assert run(app, *common, "--seed", 3, "--split", "val").exit_code == 0
    assert asked == [(encoder, toy_bench.root, tmp_path / "out", "val", 3)]
    for option in (["--limit", 3], ["--blind-sheet"], ["--judges", tmp_path]):
        words = f"{option[0]} is for translators, not for an encoder"
        with pytest.raises(ConfigError, match=words):
            run(app, *common, *option)
    assert len(asked) == 1
    (encoder / "run.json").write_text("{")
    with pytest.raises(ModelError, match=r"run\.json is damaged"):
        run(app, *common)


def test_a_dataset_of_pairs_is_no_bench(
    app: typer.Typer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SimpleNamespace(where="data")
    monkeypatch.setattr("soundsight.data.store.dataset.open_pairs", lambda _where: folder)
    with pytest.raises(
        DataError, match="data is a dataset of pairs: evaluation needs a bench"
    ) as caught:
        run(app, model, "--data", tmp_path / "data", "-o", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_early_pictures_must_be_those_of_the_judges(
    app: typer.Typer, model: Path, judges: Path, toy_bench: Bench, tmp_path: Path
) -> None:
    early = tmp_path / "early.npz"
    np.savez(early, images=np.zeros((8, 96, 96, 3), np.uint8))
    options = ["--data", toy_bench.root, "--early", early, "-o", tmp_path / "out"]
    with pytest.raises(ConfigError, match="were trained without early pictures"):
        run(app, model, "--judges", judges, *options)
    with pytest.raises(ConfigError, match="these 8 pictures are not the") as caught:
        run(app, model, *options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_judges_of_other_classes_are_refused(
    app: typer.Typer, model: Path, judges: Path, toy_bench: Bench, tmp_path: Path
) -> None:
    others = tmp_path / "others"
    shutil.copytree(judges, others)
    record = json.loads((others / "judges.json").read_text())
    record["names"].remove("baby")
    (others / "judges.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="there is no judge of baby") as caught:
        run(app, model, "--judges", others, "--data", toy_bench.root, "-o", tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_feature_network_can_be_asked_for(
    app: typer.Typer, model: Path, judges: Path, toy_bench: Bench, tmp_path: Path
) -> None:
    common = model, "--data", toy_bench.root, "--judges", judges, "-o", tmp_path / "out"
    with pytest.raises(ModelError, match="there is no feature network"):
        run(app, *common, "--features", tmp_path / "none.pt")


def test_a_person_s_answers_are_scored(
    app: typer.Typer, model: Path, judges: Path, toy_bench: Bench, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run(
        app, model, "--data", toy_bench.root, "--judges", judges, "-o", out, "--blind-sheet"
    )
    assert "the key, to be opened afterwards" in result.output
    form = out / "blind" / "answers.csv"
    lines = form.read_text().splitlines()
    form.write_text("\n".join([lines[0], *[line + "water" for line in lines[1:]]]) + "\n")
    key = next(out.glob("blind-key*.json"))
    figures = tmp_path / "figures.json"
    result = CliRunner().invoke(
        app, ["score-blind", str(form), "--key", str(key), "-o", str(figures)]
    )
    assert result.exit_code == 0
    found = json.loads(figures.read_text())
    # A toy class has twelve seconds, eight of which are on the other sheet.
    assert found["count"] == 20
    assert found["right_unhidden"]["share"] == pytest.approx(0.2)
    assert found["confusion"]["dog"]["water"] == 4
    # Every picture is hidden.
    assert "right: 0.0 [0.0, 16.1] % of 20 pictures" in result.output


def test_a_seed_below_zero_is_refused(app: typer.Typer, model: Path, tmp_path: Path) -> None:
    assert run(app, model, "-o", tmp_path / "out", "--seed", -1).exit_code == 2


def test_registering_loads_no_torch() -> None:
    code = (
        "import sys, typer; from soundsight.cli.evaluate import register;"
        "register(typer.Typer()); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_everyday_is_measured_by_its_own_judge(
    app: typer.Typer,
    model: Path,
    every_kind: Everyday,
    toy_bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOUNDSIGHT_BENCH", str(toy_bench.root))
    asked = {}

    def measure(_model, judge, everyday, bench, _out, config, **_others):
        asked.update(judge=judge, everyday=everyday.root, bench=bench.root, config=config)
        mean = {"share": 0.5, "low": 0.4, "high": 0.6}
        return {"rows": {"right": {"mean": mean}}}

    monkeypatch.setattr(on_everyday, "evaluate_everyday", measure)
    monkeypatch.setattr(PhotoJudge, "load", lambda path: path)
    out = tmp_path / "out"
    result = run(
        app, model, "--data", every_kind.root, "--judges", tmp_path, "-o", out,
        "--split", "val", "--limit", 3, "--blind-sheet",
    )  # fmt: skip
    assert "right: 50.0 % [40.0, 60.0]" in result.output
    assert "for blind viewing" in result.output
    assert asked["judge"] == tmp_path
    assert asked["everyday"] == every_kind.root
    assert asked["bench"] == toy_bench.root
    assert asked["config"] == EverydayConfig(split="val", limit=3, blind_sheet=True)


def test_options_of_the_bench_are_refused_on_everyday(
    app: typer.Typer, model: Path, every_kind: Everyday, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--features is for the bench"):
        run(app, model, "--data", every_kind.root, "-o", tmp_path / "out", "--features", tmp_path)
