"""Judges at work: the judge of a picture's class decides, if the folder is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from soundsight.core.errors import DataError, ModelError
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.judges import files as judge_files
from soundsight.judges.apply import Judges
from soundsight.judges.files import accepting, agreement, val_table
from soundsight.judges.pictures import columns_of
from soundsight.judges.train import head_scores


def test_judges_decide_as_their_thresholds_say(folder: Path) -> None:
    judges = Judges.load(folder)
    assert judges.second is not None
    assert judges.second.second is None
    assert judges.second.name != judges.name
    assert len(judges.sha256) == 64
    images = np.random.default_rng(0).integers(256, size=(20, 96, 96, 3), dtype=np.uint8)
    networks, record = judge_files.read(folder)
    np.testing.assert_array_equal(
        judges.second.scores(images), head_scores(networks["second"], images)
    )
    tables = record["done"]["second"]["tables"]
    subjects = [SUBJECTS[k % 5] for k in range(20)]
    for panel, thresholds in (
        (judges, record["thresholds"]),
        (judges.second, {s: t["threshold"] for s, t in tables.items()}),
    ):
        scores = panel.scores(images)
        assert (scores.shape, scores.dtype) == ((20, 5), np.float32)
        assert panel.thresholds == pytest.approx(thresholds)
        wanted = [scores[k, k % 5] >= np.float32(thresholds[SUBJECTS[k % 5]]) for k in range(20)]
        assert panel.accepts(images, subjects).tolist() == wanted
        verdicts = panel.verdicts(images)[np.arange(20), np.arange(20) % 5]
        assert verdicts.tolist() == wanted
    assert judges.val["judge"]["dog"] == record["done"]["dog"]
    assert judges.val["second judge"] == tables
    assert judges.scores(images[:0]).shape == (0, 5)


def test_the_classifier_and_the_space_look_at_pictures_and_sounds(folder: Path) -> None:
    judges = Judges.load(folder)
    assert judges.classifier is not None
    assert judges.space is not None
    rng = np.random.default_rng(2)
    images = rng.integers(256, size=(6, 96, 96, 3), dtype=np.uint8)
    mels = rng.integers(256, size=(6, 128, 100), dtype=np.uint8)
    probabilities = judges.classifier.probabilities(images)
    assert probabilities.shape == (6, 5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert judges.classifier.features(images).shape == (6, 6)
    assert judges.classifier.features(images[:0]).shape == (0, 6)
    pictures, sounds = judges.space.pictures(images), judges.space.sounds(mels)
    assert pictures.shape == sounds.shape == (6, 4)
    for vectors in (pictures, sounds):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    for look in (
        judges.classifier.probabilities,
        judges.classifier.features,
        judges.space.pictures,
    ):
        with pytest.raises(DataError, match=r"must be uint8 \[n, 96, 96, 3\]"):
            look(images[:, :64])
    with pytest.raises(DataError, match=r"log-mels must be uint8 \[n, 128, 100\], not float64"):
        judges.space.sounds(mels / 255)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("settings", "config", "references", "second", "network", "maps"), [4, 7]),
        (("settings", "config", "references", "space"), {"unknown": 1}),
        (("done", "second", "tables"), {}),
        (("done", "second", "tables", "dog", "threshold"), float("nan")),
        (("thresholds", "water"), float("inf")),
        (("thresholds", "water"), "half"),
    ],
)
def test_a_damaged_setting_is_one_line(
    folder: Path, tmp_path: Path, keys: tuple[str, ...], value: object
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    record = json.loads((damaged / "judges.json").read_text())
    place = record
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (damaged / "judges.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"judges\.json is damaged") as caught:
        Judges.load(damaged)
    assert "\n" not in str(caught.value)


def test_a_wrong_folder_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere holds no judges: there is no judges\.json"):
        Judges.load(tmp_path / "nowhere")
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    for name in ("dog", "second"):
        path = damaged / f"{name}.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ModelError, match=rf"{name}\.safetensors is damaged: its SHA-256"):
            Judges.load(damaged)
        path.unlink()
        with pytest.raises(ModelError, match=rf"is incomplete: {name}\.safetensors is missing"):
            Judges.load(damaged)
        path.write_bytes(whole)
    text = (damaged / "judges.json").read_text()
    for old, new, words in (
        ('"format_version": 2', '"format_version": 3', "has format version 3"),
        ('"soundsight-judges"', '"other"', "is not of the format"),
        ('"thresholds"', '"limits"', "is damaged"),
        ("{", "", "is damaged"),
    ):
        (damaged / "judges.json").write_text(text.replace(old, new, 1))
        with pytest.raises(ModelError, match=words) as caught:
            Judges.load(damaged)
        assert "\n" not in str(caught.value)


def test_judges_of_version_1_have_nothing_beside_them(folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    record = json.loads((old / "judges.json").read_text())
    record |= {"format_version": 1, "names": list(SUBJECTS)}
    (old / "judges.json").write_text(json.dumps(record))
    judges = Judges.load(old)
    assert (judges.second, judges.classifier, judges.space) == (None, None, None)
    assert judges.thresholds == Judges.load(folder).thresholds
    assert list(judges.val) == ["judge"]


def test_pictures_and_subjects_must_fit(toy_judges: Judges) -> None:
    images = np.zeros((2, 96, 96, 3), np.uint8)
    with pytest.raises(DataError, match="2 pictures but 1 subjects"):
        toy_judges.accepts(images, ["dog"])
    with pytest.raises(DataError, match="unknown subject 'cat'; choose from baby, dog"):
        toy_judges.accepts(images, ["dog", "cat"])
    with pytest.raises(DataError, match=r"must be uint8 \[n, 96, 96, 3\], not float64"):
        toy_judges.scores(images / 255)
    assert columns_of(["water", "baby"]).tolist() == [4, 0]


def test_verdicts_follow_scores_and_thresholds(toy_judges: Judges) -> None:
    scores = np.full((2, 5), np.float32(0.85))
    scores[1, 3] = np.nextafter(np.float32(0.85), np.float32(0))
    assert toy_judges.decide(scores).tolist() == [[True] * 5, [True, True, True, False, True]]


# --- thresholds, what passes them, and whether two judges agree


def test_the_threshold_is_the_highest_that_accepts_enough() -> None:
    scores = np.arange(100, dtype=np.float32)
    np.random.default_rng(0).shuffle(scores)
    assert accepting(scores, 0.85) == 15
    assert (scores >= accepting(scores, 0.85)).mean() == 0.85
    assert accepting(scores[:13], 0.85) == np.sort(scores[:13])[1]
    assert accepting(scores, 1.0) == 0


def test_the_table_counts_what_passes() -> None:
    positives = np.linspace(0, 1, 21, dtype=np.float32)
    noise = np.array([0.1, 0.2, 0.9], dtype=np.float32)
    assert val_table(positives, {"noise": noise, "blur": noise[:1]}, 0.85) == {
        "threshold": pytest.approx(0.15), "photos": 21, "accepted": pytest.approx(18 / 21),
        "passed": {"noise": pytest.approx(2 / 3), "blur": 0.0}, "counts": {"noise": 3, "blur": 1},
    }  # fmt: skip


def test_agreement_is_cohens() -> None:
    # Cohen's table: both yes 20, first alone 5, second alone 10, both no 15: kappa = .4.
    counts = (20, 5, 10, 15)
    first = np.repeat([True, True, False, False], counts)
    second = np.repeat([True, False, True, False], counts)
    assert agreement(first, second) == {"share": 0.7, "kappa": pytest.approx(0.4), "count": 50}
    assert agreement(first, first)["kappa"] == pytest.approx(1.0)
    assert agreement(first, ~first)["kappa"] < 0
    # Verdicts that never change agree by chance alone.
    yes = np.ones(4, dtype=bool)
    assert agreement(yes, yes) == {"share": 1.0, "kappa": 0.0, "count": 4}
    for other in (yes[:2], yes[:0]):
        with pytest.raises(DataError, match=f"{len(other)} and 3 verdicts cannot be compared"):
            agreement(other, yes[:3])
    with pytest.raises(DataError, match="0 and 0 verdicts"):
        agreement(yes[:0], yes[:0])
