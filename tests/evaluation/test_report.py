"""A whole measurement with a translator whose figures are known beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soundsight.core.errors import DataError
from soundsight.evaluation.judging import Judges
from soundsight.evaluation.report import EvaluationConfig, chosen_seconds, evaluate, sheet
from soundsight.pairs.bench import SUBJECTS, Bench

CONFIG = EvaluationConfig(floor_per_kind=5, sheet_per_class=2)


class Painter:
    """Knows a toy sound by its level and paints the colour of its class; grey when unsure.

    Args:
        colours: subject -> colour.
        share: probability that a sound is painted at all.
    """

    def __init__(self, colours: dict[str, tuple[int, int, int]], share: float = 1.0) -> None:
        self.colours = [colours[subject] for subject in SUBJECTS]
        self.share = share
        self.seeds: set[int] = set()

    def imagine(self, mels: np.ndarray, *, draws: int = 1, seed: int = 0) -> np.ndarray:
        assert draws == 1
        self.seeds.add(seed)
        pictures = np.full((len(mels), 96, 96, 3), 128, np.uint8)
        for picture, mel in zip(pictures, mels, strict=True):
            # A toy sound's class is its level: 20 to 60 for the first class, and so on.
            code = round((float(mel.mean()) - 20) / 20)
            luck = np.random.default_rng((seed, int(mel.astype(np.int64).sum()))).random()
            if 1 <= code <= 5 and luck < self.share:
                picture[:] = self.colours[code - 1]
        return pictures


@pytest.fixture
def painter(colours: dict[str, tuple[int, int, int]]) -> Painter:
    """A translator that is always right about what can be heard."""
    return Painter(colours)


def test_a_perfect_translator_misses_only_what_cannot_be_heard(
    painter: Painter, toy_judges: Judges, toy_bench: Bench, tmp_path: Path
) -> None:
    rows = evaluate(painter, toy_judges, toy_bench, tmp_path, CONFIG)["rows"]
    # One second of twelve of each class is black.
    assert rows["informativity"]["mean"]["share"] == pytest.approx(11 / 12)
    assert rows["informativity"]["dog"]["count"] == 12
    assert rows["informativity"]["dog"]["videos"] == 4
    assert rows["informativity, audible seconds"]["mean"]["share"] == 1
    assert rows["informativity, audible seconds"]["mean"]["low"] == 1
    by_video = rows["informativity, mean of each video"]["water"]
    assert by_video["share"] == pytest.approx((3 + 2 / 3) / 4)
    assert rows["real photos"]["mean"]["share"] == 1
    # Pictures of other classes' sounds never pass: the judges hear the sound's own class.
    assert rows["shuffled sounds"]["mean"]["share"] == 0
    assert rows["informativity minus shuffled"]["mean"]["share"] == pytest.approx(11 / 12)
    assert rows["silence: accepted"]["mean"]["share"] == 0
    assert rows["silence: accepted"]["mean"]["count"] == 20 * 5
    assert "hidden" not in rows


def test_one_picture_for_every_sound_is_no_better_than_shuffled(
    toy_judges: Judges, toy_bench: Bench, tmp_path: Path, colours: dict
) -> None:
    class AlwaysWater:
        def imagine(self, mels: np.ndarray, *, draws: int = 1, seed: int = 0) -> np.ndarray:
            assert (draws, seed) != (0, -1)
            return np.broadcast_to(
                np.array(colours["water"], np.uint8), (len(mels), 96, 96, 3)
            ).copy()

    rows = evaluate(AlwaysWater(), toy_judges, toy_bench, tmp_path, CONFIG)["rows"]
    assert rows["informativity"]["water"]["share"] == 1
    assert rows["informativity"]["mean"]["share"] == pytest.approx(0.2)
    assert rows["shuffled sounds"]["mean"]["share"] == pytest.approx(0.2)
    difference = rows["informativity minus shuffled"]["mean"]
    assert (difference["share"], difference["low"], difference["high"]) == (0, 0, 0)
    assert rows["silence: accepted"]["water"]["share"] == 1
    assert rows["white noise: accepted"]["water"]["share"] == 1


def test_intervals_hold_the_share_of_a_lucky_translator(
    toy_judges: Judges, toy_bench: Bench, tmp_path: Path, colours: dict
) -> None:
    rows = evaluate(Painter(colours, 0.5), toy_judges, toy_bench, tmp_path, CONFIG)["rows"]
    mean = rows["informativity"]["mean"]
    assert mean["low"] < 0.5 * 11 / 12 < mean["high"]
    assert 0.05 < mean["high"] - mean["low"] < 0.5


def test_refused_pictures_and_inaudible_seconds_count_as_misses(
    painter: Painter, toy_judges: Judges, toy_bench: Bench, tmp_path: Path, colours: dict
) -> None:
    def refuses(pictures: np.ndarray) -> np.ndarray:
        return (pictures[:, 0, 0] == colours["dog"]).all(axis=1)

    rows = evaluate(painter, toy_judges, toy_bench, tmp_path, CONFIG, refuses=refuses)["rows"]
    assert rows["informativity, nothing hidden"]["dog"]["share"] == pytest.approx(11 / 12)
    assert rows["informativity"]["dog"]["share"] == 0
    assert rows["informativity"]["rail"]["share"] == pytest.approx(11 / 12)
    assert rows["hidden"]["dog"]["share"] == 1
    assert rows["hidden"]["rail"]["share"] == pytest.approx(1 / 12)
    assert rows["silence: shown and accepted"]["mean"]["share"] == 0


def test_what_is_hidden_of_noise_counts_among_all_of_it(
    toy_judges: Judges, toy_bench: Bench, tmp_path: Path, colours: dict
) -> None:
    class DogPainter:
        def imagine(self, mels: np.ndarray, *, draws: int = 1, seed: int = 0) -> np.ndarray:
            del draws, seed
            return np.broadcast_to(np.uint8(colours["dog"]), (len(mels), 96, 96, 3)).copy()

    def refuses(pictures: np.ndarray) -> np.ndarray:
        return np.arange(len(pictures)) % 4 != 0

    rows = evaluate(DogPainter(), toy_judges, toy_bench, tmp_path, CONFIG, refuses=refuses)["rows"]
    assert rows["white noise: accepted"]["dog"]["share"] == 1
    # A quarter is shown: that is a quarter of all, not all of a quarter.
    assert rows["white noise: shown and accepted"]["dog"]["share"] == pytest.approx(0.25)


def test_the_same_command_writes_the_same_files(
    painter: Painter, toy_judges: Judges, toy_bench: Bench, tmp_path: Path
) -> None:
    for name in "ab":
        evaluate(painter, toy_judges, toy_bench, tmp_path / name, CONFIG, command="x")
    for name in ("report.json", "report.md", "sheet.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "report.json",
        "report.md",
        "sheet.png",
    }


def test_the_report_says_how_it_was_made(
    painter: Painter, toy_judges: Judges, toy_bench: Bench, tmp_path: Path
) -> None:
    model = {"name": "toy", "path": "models/toy", "sha256": "ab" * 32}
    calls: list[tuple[int, int]] = []
    config = EvaluationConfig(floor_per_kind=5, sheet_per_class=2, seed=7, split="val")
    evaluate(
        painter, toy_judges, toy_bench, tmp_path, config, model=model,
        command="soundsight evaluate models/toy", progress=lambda *done: calls.append(done),
    )  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["model"] == model
    assert report["settings"]["seed"] == 7
    assert report["settings"]["split"] == "val"
    assert report["sounds"] == dict.fromkeys(SUBJECTS, 12)
    assert report["audible"] == 55
    assert report["judges"]["name"] == "toy"
    assert set(report["machine"]) >= {"python", "torch", "cpus"}
    assert calls == [(60, 60)]
    assert 7 in painter.seeds
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# Informativity of toy\n")
    mean = report["rows"]["informativity"]["mean"]
    cell = f"{100 * mean['share']:.1f} [{100 * mean['low']:.1f}, {100 * mean['high']:.1f}]"
    assert f"| **informativity** | {cell} |" in page
    assert "`soundsight evaluate models/toy`" in page
    assert "ab" * 32 in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 2 + len(report["rows"])


def test_a_limit_takes_as_many_videos_as_it_can(toy_bench: Bench) -> None:
    pairs = toy_bench.pairs("devtest")
    chosen = chosen_seconds(pairs, EvaluationConfig(limit=4))
    assert len(chosen) == 20
    assert len({pair.video for pair in chosen}) == 20
    assert chosen == [pair for pair in pairs if pair in chosen]
    assert len(chosen_seconds(pairs, EvaluationConfig(limit=5))) == 25
    assert len(chosen_seconds(pairs, EvaluationConfig(limit=99))) == 60
    assert chosen_seconds(pairs, EvaluationConfig(limit=4, seed=1)) != chosen


def test_the_sheet_shows_sound_picture_and_tick() -> None:
    mels = np.full((3, 128, 100), 200, np.uint8)
    pictures = np.full((3, 96, 96, 3), (10, 60, 110), np.uint8)
    page = sheet(mels, pictures, np.array([True, False, True]), ["baby", "baby", "water"])
    # Two rows of up to two cells.
    assert page.shape == (6 + 2 * 102, 70 + 2 * (75 + 96 + 12), 3)
    assert page.dtype == np.uint8
    assert page[50, 70 + 30].tolist() == [200] * 3
    assert page[50, 70 + 75 + 40].tolist() == [10, 60, 110]
    green = (page == (46, 160, 67)).all(axis=2)
    cells = [
        green[top : top + 96, left : left + 96].sum()
        for top, left in ((6, 145), (6, 328), (108, 145), (108, 328))
    ]
    assert cells[0] == cells[2] > 2 * 4 * 94
    assert cells[1] == cells[3] == 0


def test_what_the_sheet_shows_does_not_depend_on_the_judges(
    painter: Painter, toy_judges: Judges, toy_bench: Bench, tmp_path: Path
) -> None:
    nobody = Judges(
        {s: lambda images: np.zeros(len(images), np.float32) for s in SUBJECTS},
        dict.fromkeys(SUBJECTS, 0.5),
    )
    evaluate(painter, toy_judges, toy_bench, tmp_path / "a", CONFIG)
    evaluate(painter, nobody, toy_bench, tmp_path / "b", CONFIG)
    a, b = (np.asarray(Image.open(tmp_path / name / "sheet.png")) for name in "ab")
    assert (a[:, 70:145] == b[:, 70:145]).all()
    assert (a != b).any()


def test_a_split_without_sounds_is_refused(
    painter: Painter, toy_judges: Judges, bench_root: Path, tmp_path: Path
) -> None:
    table = bench_root / "pairs.csv"
    lines = [x for x in table.read_text().splitlines() if not x.startswith("devtest")]
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="holds no sounds of devtest"):
        evaluate(painter, toy_judges, Bench(bench_root), tmp_path / "out")
