"""Judges at work: the judge of a picture's class decides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from soundsight.core.errors import DataError, ModelError
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.judges import files as judge_files
from soundsight.judges.apply import Judges, agreement, columns_of
from soundsight.judges.fit import head_scores
from soundsight.judges.retrieval_space import embed_pictures
from soundsight.judges.train import JudgesConfig


def test_loaded_judges_decide_as_their_thresholds_say(folder: Path) -> None:
    judges = Judges.load(folder)
    images = np.random.default_rng(0).integers(256, size=(20, 96, 96, 3), dtype=np.uint8)
    scores = judges.scores(images)
    assert scores.shape == (20, 5)
    assert scores.dtype == np.float32
    thresholds = json.loads((folder / "judges.json").read_text())["thresholds"]
    assert judges.thresholds == pytest.approx(thresholds)
    subjects = [SUBJECTS[k % 5] for k in range(20)]
    wanted = [scores[k, k % 5] >= np.float32(thresholds[SUBJECTS[k % 5]]) for k in range(20)]
    assert judges.accepts(images, subjects).tolist() == wanted
    assert len(judges.sha256) == 64


def test_the_second_judge_decides_by_its_own_thresholds(folder: Path) -> None:
    judges = Judges.load(folder)
    second = judges.second
    assert second is not None
    assert second.second is None
    images = np.random.default_rng(1).integers(256, size=(20, 96, 96, 3), dtype=np.uint8)
    _, record = judge_files.read(folder)
    networks = judge_files.read_viewers(folder, record)
    assert networks is not None
    np.testing.assert_array_equal(second.scores(images), head_scores(networks[0], images))
    tables = record["done"]["second"]["tables"]
    assert second.thresholds == pytest.approx({s: t["threshold"] for s, t in tables.items()})
    # The verdict on a picture alone is the one of the whole table.
    subjects = [SUBJECTS[k % 5] for k in range(20)]
    verdicts = second.verdicts(images)[np.arange(20), np.arange(20) % 5]
    assert second.accepts(images, subjects).tolist() == verdicts.tolist()
    assert second.name != judges.name
    found = agreement(judges.verdicts(images)[:, 0], second.verdicts(images)[:, 0])
    assert found.count == 20


def test_the_classifier_and_the_space_look_at_pictures_and_sounds(
    folder: Path, tiny: JudgesConfig
) -> None:
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
    pictures, sounds = judges.space.pictures(images), judges.space.sounds(mels)
    assert pictures.shape == sounds.shape == (6, 4)
    for vectors in (pictures, sounds):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    networks = judge_files.read_viewers(folder, judge_files.read(folder)[1])
    assert networks is not None
    np.testing.assert_array_equal(pictures, embed_pictures(networks[2], tiny.viewers.space, images))
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
        (("settings", "config", "viewers", "second", "network", "maps"), [4, 7]),
        (("settings", "config", "viewers", "space"), {"unknown": 1}),
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


def test_no_picture_gives_no_verdict(folder: Path) -> None:
    assert Judges.load(folder).scores(np.empty((0, 96, 96, 3), np.uint8)).shape == (0, 5)


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


def test_pictures_and_subjects_must_fit(toy_judges: Judges) -> None:
    images = np.zeros((2, 96, 96, 3), np.uint8)
    with pytest.raises(DataError, match="2 pictures but 1 subjects"):
        toy_judges.accepts(images, ["dog"])
    with pytest.raises(DataError, match="unknown subject 'cat'; choose from baby, dog"):
        toy_judges.accepts(images, ["dog", "cat"])
    with pytest.raises(DataError, match=r"must be uint8 \[n, 96, 96, 3\], not float64"):
        toy_judges.scores(images / 255)
    assert columns_of(["water", "baby"]).tolist() == [4, 0]


def test_every_subject_needs_a_judge() -> None:
    with pytest.raises(ModelError, match="there is no judge of baby"):
        Judges({}, {})
