"""A whole measurement with a translator whose figures are known beforehand."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soundsight.core.errors import ConfigError, DataError, ModelError, OutputError
from soundsight.data.vegas.bench import SUBJECTS, Bench
from soundsight.evaluation import blind
from soundsight.evaluation.bench import (
    EvaluationConfig,
    control_mels,
    control_pictures,
    evaluate,
    every_judge,
    photo_controls,
)
from soundsight.evaluation.metrics import MEAN
from soundsight.evaluation.segments import read
from soundsight.judges.apply import Judges
from soundsight.judges.negatives import EarlyPictures, in_early_part

CONFIG = EvaluationConfig(floor_per_kind=5, sheet_per_class=2)
BLIND = replace(CONFIG, blind_sheet=True)
EARLY = EarlyPictures(
    images=np.zeros((200, 96, 96, 3), np.uint8), sounds=np.arange(200), runs=np.zeros(200, np.int64)
)
Colours = dict[str, tuple[int, int, int]]


def agreed(
    say: Callable[[np.ndarray], np.ndarray], threshold: float = 0.5, **more: object
) -> Judges:
    """Five judges who say the same."""
    thresholds = dict.fromkeys(SUBJECTS, threshold)
    return Judges(lambda images: np.repeat(say(images)[:, None], 5, axis=1), thresholds, **more)


everybody = partial(agreed, lambda images: np.ones(len(images), np.float32))
nobody = partial(agreed, lambda images: np.zeros(len(images), np.float32))


class Painter:
    """Knows a toy sound by its level and paints the colour of its class; grey when unsure.

    Args:
        colours: subject -> colour.
        share: probability that a sound is painted at all, by draw.
        otherwise: the colour of what is not.
        draws: which log-mels the program would draw; all by default.
    """

    def __init__(
        self,
        colours: Colours,
        share: float = 1.0,
        otherwise: tuple[int, int, int] = (128, 128, 128),
        draws: Callable[[np.ndarray], np.ndarray] = lambda mels: np.ones(len(mels), bool),
    ) -> None:
        self.colours = [colours[subject] for subject in SUBJECTS]
        self.share, self.otherwise, self.draws = share, otherwise, draws
        self.seeds: set[int] = set()

    def imagine(self, mels: np.ndarray, *, draws: int = 1, seed: int = 0) -> np.ndarray:
        self.seeds.add(seed)
        pictures = np.full((len(mels), draws, 96, 96, 3), self.otherwise, np.uint8)
        for of_sound, mel in zip(pictures, mels, strict=True):
            # A toy sound's class is its level: 20 to 60 for the first class, and so on.
            code = round((float(mel.mean()) - 20) / 20)
            for draw, picture in enumerate(of_sound):
                luck = np.random.default_rng((seed, int(mel.astype(np.int64).sum()), draw)).random()
                if 1 <= code <= 5 and luck < self.share:
                    picture[:] = self.colours[code - 1]
        return pictures.reshape(-1, 96, 96, 3)


class Viewer:
    """Names the class whose colour is nearest; its features are colours."""

    def __init__(self, colours: Colours) -> None:
        self.colours = np.array([colours[subject] for subject in SUBJECTS], np.float32)

    def features(self, images: np.ndarray) -> np.ndarray:
        return images[:, 8:88, 4:44].mean(axis=(1, 2)).astype(np.float32)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        gaps = np.linalg.norm(self.features(images)[:, None] - self.colours, axis=2)
        likely = np.exp(-gaps / 20)
        return (likely / likely.sum(axis=1, keepdims=True)).astype(np.float32)


class Space:
    """Sounds by their level, pictures by their colour, in one space of five axes."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer

    def sounds(self, mels: np.ndarray) -> np.ndarray:
        codes = np.rint((mels.mean(axis=(1, 2)) - 20) / 20).clip(1, 5).astype(int)
        return np.eye(5, dtype=np.float32)[codes - 1]

    def pictures(self, images: np.ndarray) -> np.ndarray:
        found = self.viewer.probabilities(images)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture
def painter(colours: Colours) -> Painter:
    """A translator that is always right about what can be heard."""
    return Painter(colours)


@pytest.fixture
def measure(toy_judges: Judges, toy_bench: Bench, tmp_path: Path) -> Callable[..., dict]:
    """Measures with the toy judges and bench into ``out``: (translator, config, ...) -> rows."""

    def of(
        translator: object, config: EvaluationConfig = CONFIG, judges: Judges = toy_judges,
        out: str = "out", **more: object,
    ) -> dict:  # fmt: skip
        return evaluate(translator, judges, toy_bench, tmp_path / out, config, **more)["rows"]

    return of


@pytest.fixture(scope="module")
def full_judges(toy_judges: Judges, colours: Colours) -> Judges:
    """The toy judges with all that may stand beside them; the second one never accepts rail."""

    def without_rail(images: np.ndarray) -> np.ndarray:
        return toy_judges.scores(images) * (np.array(SUBJECTS) != "rail")

    viewer, thresholds = Viewer(colours), dict.fromkeys(SUBJECTS, 0.85)
    return Judges(
        toy_judges.scores,
        thresholds,
        name="full",
        sha256="1" * 64,
        second=Judges(without_rail, thresholds, name="second", sha256="1" * 64),
        classifier=viewer,
        space=Space(viewer),
    )


Calls = list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def perfect(
    toy_judges: Judges, toy_bench: Bench, colours: Colours, tmp_path_factory
) -> tuple[Path, dict, Calls]:
    """The report on a perfect translator by the judges alone, its JSON, and what was told."""
    out, calls = tmp_path_factory.mktemp("perfect") / "out", []
    model = {"name": "toy", "path": "models/toy", "sha256": "ab" * 32}
    report = evaluate(
        Painter(colours), toy_judges, toy_bench, out, CONFIG, model=model, early=EARLY,
        command="soundsight evaluate models/toy",
        progress=lambda what, *done: calls.append((what, *done)),
    )  # fmt: skip
    return out, report, calls


@pytest.fixture(scope="module")
def full(
    full_judges: Judges, toy_bench: Bench, colours: Colours, tmp_path_factory
) -> tuple[Path, dict]:
    """A report with all that judges can bring and a blind sheet, and its JSON."""
    out = tmp_path_factory.mktemp("full") / "out"
    return out, evaluate(Painter(colours), full_judges, toy_bench, out, BLIND, command="x")


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_perfect_translator_misses_only_what_cannot_be_heard(
    perfect: tuple[Path, dict, Calls],
) -> None:
    rows = perfect[1]["rows"]
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
    # Where all is drawn the program hides what cannot be heard, and nothing else.
    assert rows["hidden"]["mean"]["share"] == pytest.approx(1 / 12)
    # Early pictures are one more floor.
    assert rows["floor: early"]["mean"]["share"] == 0


def test_the_report_says_how_it_was_made_and_what_judges_lack(
    perfect: tuple[Path, dict, Calls],
) -> None:
    out, report, calls = perfect
    assert json.loads((out / "report.json").read_text()) == report
    assert report["report_version"] == 2
    assert report["model"]["path"] == "models/toy"
    assert (report["settings"]["seed"], report["settings"]["split"]) == (0, "devtest")
    assert report["sounds"] == dict.fromkeys(SUBJECTS, 12)
    assert report["audible"] == 55
    assert report["judges"]["name"] == "toy"
    assert set(report["machine"]) >= {"python", "torch", "cpus"}
    assert calls[0] == ("seconds drawn", 60, 60)
    page = (out / "report.md").read_text()
    assert page.startswith("# Report on toy\n")
    mean = report["rows"]["informativity"]["mean"]
    cell = f"{100 * mean['share']:.1f} [{100 * mean['low']:.1f}, {100 * mean['high']:.1f}]"
    assert f"| **informativity** | {cell} |" in page
    assert "`soundsight evaluate models/toy`" in page
    assert "ab" * 32 in page
    titles = [line.replace("*", "") for line in page.splitlines()]
    for name in report["rows"]:
        assert sum(line.startswith(f"| {name} |") for line in titles) == 1
    for key in ("confusion", "retrieval", "fidelity"):
        assert key not in report
    assert not any(name.startswith(("second", "class", "retrieval")) for name in report["rows"])
    assert not any("early" in line for line in report["left_out"])
    assert report["left_out"][-1].startswith("A sheet for blind viewing")
    for words in ("A second judge", "Class accuracy", "Retrieval", "nearest photos"):
        assert re.search(rf"^\* .*{words}.*judges|^\* .*{words}.*network", page, re.MULTILINE)


def test_one_picture_for_every_sound_is_no_better_than_shuffled(measure, colours: Colours) -> None:
    water = colours["water"]
    rows = measure(Painter(dict.fromkeys(SUBJECTS, water), otherwise=water))
    assert rows["informativity, nothing hidden"]["water"]["share"] == 1
    assert rows["informativity, nothing hidden"]["mean"]["share"] == pytest.approx(0.2)
    assert rows["shuffled sounds, nothing hidden"]["mean"]["share"] == pytest.approx(0.2)
    difference = rows["informativity minus shuffled"]["mean"]
    assert difference["low"] <= 0 <= difference["high"]
    assert difference["high"] - difference["low"] < 0.15
    assert rows["silence: accepted"]["water"]["share"] == 1
    assert rows["white noise: accepted"]["water"]["share"] == 1


def test_refused_sounds_count_as_misses_and_hidden_noise_among_all_of_it(
    measure, painter: Painter, colours: Colours
) -> None:
    def all_but_dogs(mels: np.ndarray) -> np.ndarray:
        every_fourth = np.arange(len(mels)) % 4 == 0
        dogs = (painter.imagine(mels)[:, 0, 0] == colours["dog"]).all(axis=1)
        return every_fourth if len(mels) == 20 else ~dogs

    # What is no sound of the five, as silence and noise, is drawn as a dog.
    rows = measure(Painter(colours, otherwise=colours["dog"], draws=all_but_dogs))
    assert rows["informativity, nothing hidden"]["dog"]["share"] == 1
    assert rows["informativity"]["dog"]["share"] == 0
    assert rows["informativity"]["rail"]["share"] == pytest.approx(11 / 12)
    assert rows["hidden"]["dog"]["share"] == 1
    assert rows["hidden"]["rail"]["share"] == pytest.approx(1 / 12)
    assert rows["white noise: accepted"]["dog"]["share"] == 1
    # A quarter is shown: that is a quarter of all, not all of a quarter.
    assert rows["white noise: shown and accepted"]["dog"]["share"] == pytest.approx(0.25)
    assert rows["silence: accepted"]["dog"]["share"] == 1
    assert rows["silence: shown and accepted"]["dog"]["share"] == 0


def test_everything_that_judges_can_bring_is_measured(full: tuple[Path, dict]) -> None:
    out, report = full
    rows = report["rows"]
    assert rows["second judge: informativity"]["rail"]["share"] == 0
    assert rows["second judge: informativity"]["dog"]["share"] == pytest.approx(11 / 12)
    assert rows["second judge: real photos"]["rail"]["share"] == 0
    assert rows["second judge: shuffled sounds"]["mean"]["share"] == 0
    # They agree on all dogs and, of the trains, on the black second alone.
    assert report["agreement"]["dog"]["share"] == 1
    assert report["agreement"]["rail"]["share"] == pytest.approx(1 / 12)
    assert report["agreement"]["all"]["count"] == 60
    assert rows["class accuracy, audible seconds"]["mean"]["share"] == 1
    counts = np.array(report["confusion"]["seconds"])
    assert counts.sum() == 60
    assert (np.diag(counts) >= 11).all()
    assert np.array(report["confusion"]["videos"]).sum() == 20
    assert rows["retrieval, precision@1"]["mean"]["share"] > 0.9
    assert report["retrieval"]["chance"]["precision@1"] == pytest.approx(0.2)
    assert report["fidelity"]["features"]["name"] == "classifier"
    assert report["fidelity"]["pictures"]["generated"] > 0
    assert 0 <= report["fidelity"]["copying"]["closer"] <= 1
    missing = [line.split(":")[0] for line in report["left_out"]]
    assert missing == ["The floor of early-generator pictures"]
    page = (out / "report.html").read_text()
    for words in ("Confusion, seconds", "Retrieval", "Cohen&#39;s kappa", "Frechet", "seen: water"):
        assert words in page
    assert page.count("data:image/svg+xml;base64,") == 2
    assert page.count("data:image/jpeg;base64,") == 3
    # Figures of this run: a toy class has twelve pictures, of four videos.
    text = (out / "report.md").read_text()
    assert "as 12 candidates are of one subject" in text
    unseen = next(line for line in text.splitlines() if line.startswith("| unseen photos |"))
    closer = report["fidelity"]["copying"]["unseen_closer"]
    assert unseen.split("|")[3].strip() == f"{100 * closer:.1f}"
    for of_other_runs in ("85 %", "about 80 %", "86 % a video"):
        assert of_other_runs not in text


def test_every_second_is_kept(full: tuple[Path, dict], toy_bench: Bench) -> None:
    out, report = full
    table = read(out / "seconds.csv")
    pairs = toy_bench.pairs("devtest")
    assert list(table.names) == [pair.spectrogram for pair in pairs]
    assert list(table.videos) == [pair.video for pair in pairs]
    hits = table.values["accepted"] * table.values["shown"]
    by_class = [hits[np.array(table.subjects) == s].mean() for s in SUBJECTS]
    assert np.mean(by_class) == report["rows"]["informativity"]["mean"]["share"]
    likely = np.stack([table.values[f"probability_{s}"] for s in SUBJECTS])
    np.testing.assert_allclose(likely.sum(axis=0), 1, atol=1e-6)
    assert {"score", "second_score", "right", "nearest_distance", "shuffled"} <= set(table.values)


def test_a_baseline_stands_beside(measure, painter: Painter, tmp_path: Path, colours: Colours):
    first = measure(Painter(colours, 0.3), out="base", model={"name": "weak"})
    rows = measure(painter, baseline=tmp_path / "base")
    assert rows["baseline: informativity"] == first["informativity"]
    # The interval holds the share that was drawn from.
    mean = first["informativity"]["mean"]
    assert mean["low"] < 0.3 * 11 / 12 < mean["high"]
    assert 0.05 < mean["high"] - mean["low"] < 0.5
    gap = rows["informativity, minus baseline"]["mean"]
    assert gap["share"] == pytest.approx(11 / 12 - mean["share"])
    assert gap["low"] > 0.3
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["baseline"]["model"] == {"name": "weak"}


def test_a_baseline_measured_otherwise_is_refused_before_the_drawing(
    measure, perfect: tuple[Path, dict, Calls], painter: Painter, tmp_path: Path
) -> None:
    for change, words in (
        ({"seed": 1}, r"differ in seed \(0, 1\)"),
        ({"split": "val"}, r"differ in split \(devtest, val\)"),
        ({"limit": 4}, r"differ in limit \(None, 4\)"),
    ):
        with pytest.raises(ConfigError, match=words):
            measure(painter, replace(CONFIG, **change), baseline=perfect[0])
    others = everybody(sha256="2" * 64)
    with pytest.raises(ConfigError, match="measured by different judges"):
        measure(painter, judges=others, baseline=perfect[0])
    with pytest.raises(DataError, match="holds no report of soundsight evaluate"):
        measure(painter, baseline=tmp_path / "none")
    assert painter.seeds == set()
    assert not (tmp_path / "out").exists()


def test_the_same_command_writes_the_same_files_but_never_over_answers_of_a_person(
    measure, full: tuple[Path, dict], full_judges: Judges, painter: Painter, tmp_path: Path
) -> None:
    out, written = tmp_path / "out", files_of(full[0])
    measure(painter, BLIND, full_judges, command="x")
    assert files_of(out) == written
    assert set(written) == {
        "report.json", "report.md", "report.html", "seconds.csv", "pictures.npz", "sheet.png",
        "nearest.png", "curves.svg", "curves-second.svg", "blind/sheet.png", "blind/answers.csv",
        blind.KEY,
    }  # fmt: skip
    # A report nobody has answered is replaced by the next.
    measure(painter, BLIND)
    form = out / blind.FOLDER / blind.ANSWERS
    form.write_text(form.read_text().replace("\n1,\n", "\n1,dog\n"))
    before = files_of(out)
    with pytest.raises(OutputError, match="holds answers to a blind sheet"):
        measure(painter, BLIND)
    assert files_of(out) == before


def test_the_blind_sheet_gives_nothing_away(full: tuple[Path, dict]) -> None:
    out, _ = full
    key = json.loads((out / blind.KEY).read_text())["answers"]
    classes = [line["class"] for line in key]
    assert {classes.count(s) for s in SUBJECTS} == {10}
    # In no order, and no video more often than it must be.
    assert classes != sorted(classes, key=SUBJECTS.index)
    assert max(len(set(classes[i : i + 5])) for i in range(0, 50, 5)) > 1
    with np.load(out / "pictures.npz") as sheet:
        assert not set(sheet["names"]) & {line["spectrogram"] for line in key}
    # Neither page nor report holds the key: not one of its seconds is named there.
    for name in ("report.html", "report.md", "report.json"):
        text = (out / name).read_text()
        assert not any(line["spectrogram"] in text for line in key)
        assert '"number"' not in text


def test_a_failure_leaves_nothing_behind(
    measure, painter: Painter, tmp_path: Path, colours: Colours
) -> None:
    def breaks(_what: str, done: int, _of: int) -> None:
        if done:
            raise RuntimeError("the light went out")

    with pytest.raises(RuntimeError, match="the light"):
        measure(painter, progress=breaks)

    class Small(Painter):
        def imagine(self, mels: np.ndarray, *, draws: int = 1, seed: int = 0) -> np.ndarray:
            del seed
            return np.zeros((len(mels) * draws, 64, 64, 3), np.uint8)

    with pytest.raises(ModelError, match=r"draws uint8 \[60, 64, 64, 3\] where the judges take"):
        measure(Small(colours))
    assert list(tmp_path.iterdir()) == []
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "a.txt").touch()
    with pytest.raises(OutputError, match="holds something else and is kept"):
        measure(painter, out="photos")
    assert [path.name for path in mine.iterdir()] == ["a.txt"]


def test_what_the_sheet_shows_does_not_depend_on_the_judges(
    measure, perfect: tuple[Path, dict, Calls], painter: Painter, tmp_path: Path
) -> None:
    measure(painter, judges=nobody())
    assert painter.seeds >= {0}
    folders = perfect[0], tmp_path / "out"
    a, b = (np.asarray(Image.open(folder / "sheet.png")) for folder in folders)
    # The log-mels stand at the left of each pair.
    assert (a[:, 96:170] == b[:, 96:170]).all()
    assert (a != b).any()


def test_data_that_cannot_be_measured_gets_one_line(
    painter: Painter, toy_judges: Judges, bench_root: Path, tmp_path: Path, jpeg, write_tar
) -> None:
    table = bench_root / "pairs.csv"
    lines = table.read_text().splitlines()

    def refused(words: str, error: type[Exception] = DataError, **changes: str) -> None:
        config = EvaluationConfig(floor_per_kind=2, **changes)
        with pytest.raises(error, match=words) as caught:
            evaluate(painter, toy_judges, Bench(bench_root), tmp_path / "out", config)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        assert painter.seeds == set()

    table.write_text("\n".join(x for x in lines if not x.startswith("devtest")) + "\n")
    refused("holds no sounds of devtest")
    for split in ("train", "test"):
        refused(f"{split} is not for evaluation", ConfigError, split=split)
    table.write_text("\n".join([lines[0], *[x for x in lines if ",dog," in x]]) + "\n")
    refused("has no sounds of baby, rail, fireworks, water in devtest")
    table.write_text("\n".join(lines) + "\n")
    with tarfile.open(bench_root / "photos" / "devtest.tar") as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    large = jpeg(np.zeros((128, 128, 3), np.uint8))
    write_tar(bench_root / "photos" / "devtest.tar", [(members[0][0], large), *members[1:]])
    refused(r"is 128x128 pixels, not 96x96")
    write_tar(bench_root / "photos" / "devtest.tar", [m for m in members if m[0] > "dog/z"])
    refused("fewer than two photos of baby in devtest")


# --- controls


def test_photos_set_the_ceiling_and_what_shows_nothing_the_floor(
    toy_bench: Bench, toy_judges: Judges, colours: Colours
) -> None:
    early = replace(EARLY, images=EARLY.images + np.array(colours["rail"], np.uint8))
    pictures = control_pictures(toy_bench, "devtest", per_kind=20, early=early)
    rows, of_photos, of_nothing = photo_controls(toy_judges, pictures)
    assert rows["real photos"][MEAN].share == 1
    assert rows["real photos"]["dog"].count == 10
    assert rows["photos of other classes"][MEAN].share == 0
    assert rows["photos of other classes"]["dog"].count == 40
    # Once in a while the random right half of a toy photo has the colour too.
    assert rows["floor: patches"][MEAN].share < 0.05
    assert rows["floor: noise"][MEAN].share < 0.05
    assert rows["floor: average"]["dog"].count == 20
    assert of_photos["dog"].shape == (10,)
    assert of_photos["dog"].min() > 0.9
    # Four kinds, twenty each, in the judge's own class.
    assert of_nothing["dog"].shape == (80,)
    passed = np.mean([of_nothing[s] >= 0.85 for s in SUBJECTS])
    kinds = ("average", "blur", "patches", "noise")
    floors = [rows[f"floor: {kind}"][MEAN].share for kind in kinds]
    assert passed == pytest.approx(np.mean(floors))
    # Only early pictures that were kept for val are judged.
    assert len(pictures.early) == in_early_part(early, 0, "val").sum()
    assert (rows["floor: early"]["rail"].share, rows["floor: early"]["dog"].share) == (1, 0)
    assert 5 < rows["floor: early"]["rail"].count < 40
    # A judge that accepts everything has a floor of one.
    rows = photo_controls(everybody(), control_pictures(toy_bench, "devtest", per_kind=2))[0]
    assert "floor: early" not in rows
    assert len(rows) == 6
    assert {row[MEAN].share for row in rows.values()} == {1.0}


def test_every_judge_is_asked_about_silence(toy_judges: Judges, colours: Colours) -> None:
    pictures = np.zeros((4, 96, 96, 3), np.uint8)
    pictures[0] = colours["water"]
    row = every_judge(toy_judges.verdicts(pictures), 0)
    assert row["water"].share == 0.25
    assert row["baby"].share == 0
    assert row[MEAN].share == pytest.approx(0.05)


def test_silence_is_black_and_white_noise_loud_everywhere() -> None:
    mels = control_mels(0)
    assert not mels["silence"].any()
    noise = mels["white noise"]
    assert (noise.shape, noise.dtype) == ((20, 128, 100), np.uint8)
    assert noise.mean() > 100
    assert (noise[0] != noise[1]).any()
    np.testing.assert_array_equal(noise, control_mels(0)["white noise"])
