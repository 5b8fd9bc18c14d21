"""The report on Everyday, with models whose pictures are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from soundsight.core.errors import ConfigError
from soundsight.data.everyday.folder import ALERTS, KINDS, SUBJECTS, Everyday
from soundsight.data.vegas.bench import Bench, Pair
from soundsight.evaluation.blind import ANSWERS as FORM
from soundsight.evaluation.blind import FOLDER, KEY, NOTHING, score
from soundsight.evaluation.everyday import (
    EverydayConfig,
    copies,
    evaluate_everyday,
    refusal_rows,
    right_rows,
    threshold_that_keeps,
    variety,
)
from soundsight.evaluation.segments import Segments, known_segments, other_segments
from soundsight.judges.everyday import ANSWERS
from soundsight.models.eyes import Eyes

OTHERS = ("pig", "wind")


def picture_of(kind: str) -> np.ndarray:
    """A toy photo: grey, at a level of the subject's own."""
    return np.full((96, 96, 3), 10 * SUBJECTS.index(kind) + 10, np.uint8)


class LevelJudge:
    """A judge that reads the grey; what is no subject's grey is nothing."""

    about = {"eyes_sha256": "0" * 64, "val": {"photos": 1.0}}  # noqa: RUF012

    def look(self, pictures: np.ndarray) -> np.ndarray:
        mean = pictures.reshape(len(pictures), -1).mean(axis=1)
        return np.stack([mean, mean**2, np.ones_like(mean)], axis=1).astype(np.float32)

    def read(self, features: np.ndarray) -> np.ndarray:
        place = np.rint(features[:, 0] / 10 - 1).astype(int)
        near = np.abs(features[:, 0] - 10 * place - 10) < 3
        place = np.where(near & (place >= 0) & (place < len(SUBJECTS)), place, len(SUBJECTS))
        return np.eye(len(ANSWERS), dtype=np.float32)[place]

    def probabilities(self, pictures: np.ndarray) -> np.ndarray:
        return self.read(self.look(pictures))


class Knowing:
    """A model that is told what each second is of; it refuses what it does not know."""

    def __init__(self, *heard: Segments) -> None:
        self.kind = {
            mel.tobytes(): pair.subject
            for some in heard
            for mel, pair in zip(some.mels, some.pairs, strict=True)
        }

    def of(self, mels: np.ndarray) -> list[str]:
        return [self.kind.get(mel.tobytes(), "") for mel in mels]

    def imagine(self, mels: np.ndarray, *, draws: int = 1, seed: int = 0) -> np.ndarray:
        flat = np.full((96, 96, 3), 250, np.uint8)
        drawn = [
            picture_of(kind) + seed % 2 if kind in SUBJECTS else flat for kind in self.of(mels)
        ]
        return np.repeat(np.stack(drawn), draws, axis=0)

    def imagine_recording(self, mels: np.ndarray, *, seed: int = 0) -> np.ndarray:
        # The first second of some is silent.
        return self.imagine(mels[-1:], seed=seed)[0]

    def draws(self, mels: np.ndarray) -> np.ndarray:
        return self.ood_scores(mels) <= 0.5

    def ood_scores(self, mels: np.ndarray) -> np.ndarray:
        return np.array([kind not in KINDS for kind in self.of(mels)], np.float32)

    def label_probabilities(self, mels: np.ndarray) -> np.ndarray | None:
        found = np.zeros((len(mels), len(KINDS)), np.float32)
        for row, kind in enumerate(self.of(mels)):
            if kind in KINDS:
                found[row, KINDS.index(kind)] = 1.0
        return found


class GreyEyes:
    """Eyes that see the mean grey of each half."""

    @classmethod
    def load(cls, name: str = "lite0") -> GreyEyes:
        del name
        return cls()

    def pooled(self, image: torch.Tensor) -> torch.Tensor:
        means = image.mean(dim=(1, 2, 3))[:, None]
        return torch.cat([means, torch.zeros(len(image), 1279)], dim=1)


def test_a_model_that_knows_everything_is_right_throughout(
    every_kind: Everyday, toy_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Eyes, "load", GreyEyes.load)
    heard = known_segments(every_kind, toy_bench, "devtest")
    val = known_segments(every_kind, toy_bench, "val")
    narrow = known_segments(every_kind, toy_bench, "devtest", narrow=True)
    config = EverydayConfig(varied=4, made_per_kind=2, blind_sheet=True)
    out = tmp_path / "report"
    model = Knowing(heard, val, narrow)
    report = evaluate_everyday(
        model, LevelJudge(), every_kind, toy_bench, out, config, about={"name": "knowing"}
    )
    assert json.loads((out / "report.json").read_text())["rows"] == report["rows"]
    # One second in twelve of the bench's five subjects is silent, all of it the same: no kind.
    assert report["rows"]["right, audible seconds"]["mean"]["share"] == 1
    assert report["rows"]["recordings right"]["mean"]["share"] == 1
    assert report["rows"]["shuffled sounds"]["mean"]["share"] < 0.01
    assert report["rows"]["real photos"]["mean"]["share"] == 1
    assert report["labels"]["alerts"]["seconds"]["mean"]["share"] == 1
    assert set(report["labels"]["alerts"]["seconds"]) == {*ALERTS, "mean"}
    for what in ("full band", "8 kHz"):
        assert report["refusal"][what]["unknown drawn"]["mean"]["share"] == 0
        assert report["refusal"][what]["AUROC"]["mean"]["share"] > 0.9
    assert np.trace(np.array(report["confusion"])) > 20
    page = (out / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "helicopter" in page
    with (out / "seconds.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == sum(report["sounds"][kind] for kind in SUBJECTS)
    # The sheet asks for one of the 22, and who knows the key is right throughout.
    key = json.loads((out / KEY).read_text())
    assert key["classes"] == list(SUBJECTS)
    answers = out / FOLDER / FORM
    answers.write_text(
        "number,answer\n" + "".join(f"{a['number']},{a['class']}\n" for a in key["answers"])
    )
    assert score(answers, out / KEY)["right_unhidden"]["share"] == 1
    answers.write_text(answers.read_text().replace("baby", NOTHING))
    assert score(answers, out / KEY)["right_unhidden"]["share"] < 1


def test_seconds_are_of_all_kinds_and_a_limit_holds(every_kind: Everyday, toy_bench: Bench) -> None:
    heard = known_segments(every_kind, toy_bench, "val")
    assert set(heard.kinds) == set(KINDS)
    # Two of a waveform; of the bench's five subjects 4 videos of 3 s more.
    assert heard.kinds.count("cat") == 2
    assert heard.kinds.count("train") == 2 + 12
    assert heard.mels.shape == (len(heard.pairs), 128, 100)
    few = known_segments(every_kind, toy_bench, "val", limit=1)
    assert sorted(few.kinds) == sorted(KINDS)
    assert set(other_segments(every_kind, "val").kinds) == set(OTHERS)


def test_narrow_sounds_have_nothing_above_four_kilohertz(
    every_kind: Everyday, toy_bench: Bench
) -> None:
    full = known_segments(every_kind, toy_bench, "val").mels
    narrow = known_segments(every_kind, toy_bench, "val", narrow=True).mels
    assert full[:, :30].mean() > 20
    assert narrow[:, :30].mean() < 1
    assert narrow[:, 60:].mean() > 20


def seconds(kinds: list[str], level: int = 100) -> Segments:
    """Seconds of these kinds, each of a recording of its own."""
    pairs = [
        Pair(split="val", subject=k, video=f"{k}{i}", window=0, spectrogram=f"{i}", photo="")
        for i, k in enumerate(kinds)
    ]
    return Segments(pairs=pairs, mels=np.full((len(kinds), 128, 100), level, np.uint8))


def test_a_refused_picture_is_wrong_and_a_doubtful_one_not_right() -> None:
    said = np.zeros((4, len(ANSWERS)), np.float32)
    said[:, SUBJECTS.index("cat")] = [0.9, 0.9, 0.4, 0.0]
    said[3, -1] = 1.0
    shown = np.array([True, False, True, True])
    rows = right_rows(said, shown, seconds(["cat"] * 4), seed=0)
    assert rows["right"]["cat"].share == 0.25
    assert rows["likeliest answer right"]["cat"].share == 0.5
    assert rows["right, nothing refused"]["cat"].share == 0.5
    assert rows["refused"]["cat"].share == 0.25


def test_the_threshold_keeps_nine_of_ten_whatever_a_kinds_size() -> None:
    heard = seconds(["cat"] * 1000 + ["dog"] * 10)
    ood_score = 1 - np.concatenate([np.linspace(0.5, 1, 1000), np.linspace(0, 0.49, 10)])
    threshold = threshold_that_keeps(ood_score.astype(np.float32), heard)
    kept = ood_score.astype(np.float32) <= threshold
    of_kinds = (kept[:1000].mean() + kept[1000:].mean()) / 2
    assert 0.85 <= of_kinds <= 0.95
    assert threshold > 0.8


def test_refusal_counts_unknown_kinds_the_same_and_never_draws_silence() -> None:
    known = np.full(10, 0.2, np.float32), seconds(["cat"] * 5 + ["dog"] * 5)
    others = seconds(["pig"] * 9 + ["wind"])
    score_of = np.array([0.1] * 9 + [0.9], np.float32)
    rows = refusal_rows(known, (score_of, others), 0.5, seed=0)
    assert rows["unknown drawn"]["mean"].share == 0.5
    assert rows["AUROC"]["pig"].share == 0
    assert rows["AUROC"]["wind"].share == 1
    assert rows["known kept"]["mean"].share == 1
    silent = seconds(["pig"] * 3, level=0)
    rows = refusal_rows(known, (np.zeros(3, np.float32), silent), 0.5, seed=0)
    assert rows["unknown drawn"]["mean"].share == 0


def test_variety_of_pictures_that_repeat_and_that_differ() -> None:
    rng = np.random.default_rng(0)
    photos = rng.standard_normal((40, 8)).astype(np.float32)
    other = rng.standard_normal((40, 8)).astype(np.float32)
    same = np.repeat(other[:20], 2, axis=0)

    lively, dull = (variety({"cat": f}, photos, ["cat"] * 40)["cat"] for f in (other, same))
    assert dull["of one sound"] == 0
    assert 0.8 < lively["of one sound"] < 1.2
    assert lively["recall"] > 0.3


def test_copies_are_nearer_to_a_photo_than_photos_are_to_each_other() -> None:
    rng = np.random.default_rng(1)
    train = rng.standard_normal((50, 16)).astype(np.float32)
    made = np.concatenate([train[:3] + 0.01, rng.standard_normal((5, 16)).astype(np.float32) * 3])
    copied, places, distances = copies(made.astype(np.float32), train)
    assert copied.tolist() == [True] * 3 + [False] * 5
    assert places[:3].tolist() == [0, 1, 2]
    np.testing.assert_allclose(distances[:3], 0.04, atol=1e-3)


def test_what_cannot_be_measured_is_refused(
    every_kind: Everyday, toy_bench: Bench, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="train is not for evaluation"):
        EverydayConfig(split="train")
    # Six seconds of a kind are on the other sheet.
    config = EverydayConfig(limit=2, blind_sheet=True)
    arguments = Knowing(), LevelJudge(), every_kind, toy_bench, tmp_path / "report", config
    with pytest.raises(ConfigError, match="no second is left for the blind sheet"):
        evaluate_everyday(*arguments, about={})
    assert list(tmp_path.iterdir()) == []
