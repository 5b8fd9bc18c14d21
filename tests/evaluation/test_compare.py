"""Reports side by side, paired by second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soundsight.core.errors import ConfigError, DataError, OutputError
from soundsight.data.vegas.bench import SUBJECTS, Bench
from soundsight.evaluation.bench import EvaluationConfig, evaluate
from soundsight.evaluation.compare import compare
from soundsight.judges.apply import Judges

CONFIG = EvaluationConfig(floor_per_kind=1, sheet_per_class=2)
GREY = (128, 128, 128)


class Flat:
    """Draws one colour of every sound, or, by its level, that of its class.

    Args:
        colours: for each class; a single one for all.
    """

    def __init__(self, colours: list[tuple[int, int, int]]) -> None:
        self.colours = np.array(colours, np.uint8)

    def imagine(self, mels: np.ndarray, *, draws: int = 1, seed: int = 0) -> np.ndarray:
        del seed
        codes = np.rint((mels.mean(axis=(1, 2)) - 20) / 20).clip(1, 5).astype(int) - 1
        drawn = self.colours[codes % len(self.colours)]
        return np.repeat(drawn, draws, axis=0)[:, None, None].repeat(96, 1).repeat(96, 2)

    def draws(self, mels: np.ndarray) -> np.ndarray:
        return np.ones(len(mels), bool)


@pytest.fixture(scope="module")
def reports(
    tmp_path_factory: pytest.TempPathFactory,
    toy_judges: Judges,
    toy_bench: Bench,
    colours: dict[str, tuple[int, int, int]],
) -> Path:
    """Three runs: right, always water, right but for dogs."""
    place = tmp_path_factory.mktemp("reports")
    right = [colours[subject] for subject in SUBJECTS]
    runs = {
        "right": right,
        "water": [colours["water"]],
        "no-dogs": [GREY if s == "dog" else colours[s] for s in SUBJECTS],
    }
    for name, drawn in runs.items():
        evaluate(
            Flat(drawn), toy_judges, toy_bench, place / name, CONFIG, model={"name": name},
            command=name,
        )  # fmt: skip
    return place


def test_differences_are_those_of_the_figures(reports: Path) -> None:
    result = compare([reports / "right", reports / "water", reports / "no-dogs"])
    assert [(run["letter"], run["name"]) for run in result["runs"]] == [
        ("A", "right"), ("B", "water"), ("C", "no-dogs"),
    ]  # fmt: skip
    rows = result["rows"]["informativity"]
    assert list(rows) == ["A", "B", "C"]
    for letter in "BC":
        gaps = result["differences"][letter]["informativity"]
        for subject in (*SUBJECTS, "mean"):
            wanted = rows[letter][subject]["share"] - rows["A"][subject]["share"]
            assert gaps[subject]["share"] == pytest.approx(wanted)
    # Of all classes but one the runs draw the same: paired, that is exactly nothing.
    gap = result["differences"]["C"]["informativity"]
    assert (gap["rail"]["low"], gap["rail"]["high"]) == (0, 0)
    assert gap["dog"]["share"] == pytest.approx(-11 / 12)
    assert gap["dog"]["high"] < -0.5


def test_the_folder_holds_table_pages_and_sheet(reports: Path, tmp_path: Path) -> None:
    folders = [reports / "right", reports / "no-dogs"]
    out = tmp_path / "out"
    result = compare(folders, out, command="soundsight compare")
    assert {path.name for path in out.iterdir()} == {
        "compare.json", "compare.md", "compare.html", "sheet.png",
    }  # fmt: skip
    assert json.loads((out / "compare.json").read_text()) == result
    page = (out / "compare.md").read_text()
    gap = result["differences"]["B"]["informativity"]["mean"]
    cell = f"{100 * gap['share']:.1f} [{100 * gap['low']:.1f}, {100 * gap['high']:.1f}]"
    assert f" {cell} |" in next(x for x in page.splitlines() if x.startswith("| **informativity**"))
    html = (out / "compare.html").read_text()
    assert "B - A" in html
    assert html.count("data:image/jpeg;base64,") == 1
    assert "http" not in html
    # Again, over the old one, and the same.
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    compare(folders, out, command="soundsight compare")
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


def test_the_sheet_shows_the_same_sounds_drawn_by_each(reports: Path, tmp_path: Path) -> None:
    compare([reports / "right", reports / "no-dogs"], tmp_path / "out")
    with Image.open(tmp_path / "out" / "sheet.png") as picture:
        levels = np.asarray(picture)
    with np.load(reports / "right" / "pictures.npz") as sheet:
        assert len(sheet["names"]) == 2 * len(SUBJECTS)

    def painted(colour: tuple[int, int, int]) -> int:
        return int((levels == np.array(colour)).all(axis=2).sum())

    # A picture has some 8,000 pixels within its frame and tick: dogs by the first run alone.
    assert painted((40, 40, 220)) > 3.5 * 8000
    assert 1.5 * 8000 < painted((40, 220, 40)) < 2.1 * 9216


def changed(report: Path, copy: Path, **parts: object) -> Path:
    """A copy of a report, with other values in its JSON."""
    shutil.copytree(report, copy, dirs_exist_ok=True)
    values = json.loads((copy / "report.json").read_text())
    for part, value in parts.items():
        values[part] = values.get(part, {}) | value if isinstance(value, dict) else value
    (copy / "report.json").write_text(json.dumps(values))
    return copy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": {"seed": 7}}, r"right and .*other differ in seed \(0, 7\)"),
        ({"settings": {"split": "val"}}, r"differ in split \(devtest, val\)"),
        ({"settings": {"limit": 3}}, r"differ in limit \(None, 3\)"),
        ({"judges": {"sha256": "f" * 64}}, "measured by different judges"),
    ],
)
def test_what_was_measured_otherwise_is_refused(
    reports: Path, tmp_path: Path, change: dict, words: str
) -> None:
    other = changed(reports / "water", tmp_path / "other", **change)
    with pytest.raises(ConfigError, match=words) as caught:
        compare([reports / "right", other], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_settings_that_change_no_figure_may_differ(reports: Path, tmp_path: Path) -> None:
    settings = {"blind_sheet": True, "sheet_per_class": 4}
    other = changed(reports / "water", tmp_path / "other", settings=settings)
    assert compare([reports / "right", other])["differences"]["B"]


def test_distances_in_other_features_are_refused(reports: Path, tmp_path: Path) -> None:
    folders = [
        changed(
            reports / "water", tmp_path / digest,
            fidelity={"features": {"name": "network", "sha256": digest}},
        )
        for digest in "ab"
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="in the features of different networks"):
        compare(folders)
    assert compare([folders[0], reports / "right"])["runs"]


def test_other_seconds_are_refused(reports: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(reports / "water", other)
    lines = (other / "seconds.csv").read_text().splitlines()
    (other / "seconds.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ConfigError, match="were not measured on the same seconds"):
        compare([reports / "right", other])


def test_folders_that_are_no_reports_get_one_line(reports: Path, tmp_path: Path) -> None:
    right = reports / "right"
    with pytest.raises(ConfigError, match="takes 2 to 8 reports, not 1"):
        compare([right])
    with pytest.raises(DataError, match="nowhere holds no report of soundsight evaluate"):
        compare([right, tmp_path / "nowhere"])
    for change, words in (
        ({"report_version": 1}, "of version 1, this program reads 2: evaluate again"),
        ({"kind": "encoder"}, "is a report on an encoder"),
    ):
        with pytest.raises(DataError, match=words):
            compare([right, changed(right, tmp_path / "other", **change)])
    other = changed(right, tmp_path / "other")
    (other / "pictures.npz").write_bytes(b"no")
    with pytest.raises(DataError, match=r"pictures\.npz holds no pictures"):
        compare([right, other], tmp_path / "out")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.txt").touch()
    with pytest.raises(OutputError, match="holds something else and is kept"):
        compare([right, reports / "water"], mine)
    assert not (tmp_path / "out").exists()
