"""``soundsight compare`` from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from soundsight.cli.main import build_app
from soundsight.core.errors import MissingExtraError
from soundsight.data.vegas.bench import SUBJECTS, Bench
from soundsight.evaluation.bench import EvaluationConfig, evaluate
from soundsight.judges.apply import Judges


@pytest.fixture
def app() -> typer.Typer:
    """A program with this command and another, as the real one has several."""
    return build_app(["compare", "export"])


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, toy_bench: Bench) -> Path:
    """Two runs: of one every picture is accepted, of the other none."""
    judges = Judges(
        lambda images: np.repeat(images[:, 0, 0, :1] / np.float32(255), 5, axis=1),
        dict.fromkeys(SUBJECTS, 0.5),
    )

    def imagine(level: int) -> SimpleNamespace:
        def draw(mels: np.ndarray, *, draws: int = 1, seed: int = 0) -> np.ndarray:
            del seed
            return np.full((len(mels) * draws, 96, 96, 3), level, np.uint8)

        return SimpleNamespace(imagine=draw, draws=lambda mels: np.ones(len(mels), bool))

    place = tmp_path_factory.mktemp("reports")
    config = EvaluationConfig(floor_per_kind=1, sheet_per_class=1)
    for name, level in (("bright", 200), ("dark", 20)):
        evaluate(imagine(level), judges, toy_bench, place / name, config, model={"name": name})
    return place


def run(app: typer.Typer, *arguments: object):
    """Run the command."""
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_a_table_is_printed_and_the_folder_written(
    app: typer.Typer, reports: Path, tmp_path: Path
) -> None:
    result = run(app, reports / "bright", reports / "dark", "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "A: bright" in result.output
    assert "B: dark" in result.output
    row = next(
        x for x in result.output.splitlines() if x.strip().startswith("informativity, nothing")
    )
    assert row.split("hidden", 1)[1].split() == [
        "100.0", "[100.0,", "100.0]", "0.0", "[0.0,", "0.0]", "-100.0", "[-100.0,", "-100.0]",
    ]  # fmt: skip
    assert (tmp_path / "out" / "compare.html").exists()


def test_without_out_nothing_is_written(app: typer.Typer, reports: Path, tmp_path: Path) -> None:
    before = sorted(reports.rglob("*"))
    assert run(app, reports / "bright", reports / "dark").exit_code == 0
    assert sorted(reports.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_mistakes_get_one_line(app: typer.Typer, reports: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ([reports / "bright"], "compare takes 2 to 8 reports, not 1"),
        ([reports / "bright", tmp_path / "none"], "holds no report of soundsight evaluate"),
    ):
        result = run(app, *arguments, "-o", tmp_path / "out")
        assert result.exit_code == 2
        (line,) = result.output.strip().splitlines()
        assert line.startswith("error: ")
        assert words in line
    assert list(tmp_path.iterdir()) == []


def test_without_torch_the_extra_is_named(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    result = run(app, tmp_path, tmp_path)
    assert result.exit_code == 2
    assert str(MissingExtraError("soundsight compare", "train", "safetensors")) in result.output


def test_registering_loads_no_torch() -> None:
    code = (
        "import sys; from soundsight.cli.main import build_app;"
        "build_app(['compare']); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
