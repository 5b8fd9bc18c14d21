"""Judges at work: the judge of a picture's class decides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from soundsight.core.errors import DataError, ModelError
from soundsight.evaluation.judging import Judges, columns_of
from soundsight.pairs.bench import SUBJECTS, Bench
from soundsight.training.judges import JudgesConfig, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy_bench: Bench) -> Path:
    """Judges after three batches: no good, yet real."""
    torch.set_num_threads(1)
    config = JudgesConfig(steps=3, batch=8, val_per_kind=2)
    out = tmp_path_factory.mktemp("trained") / "judges"
    return train(config, toy_bench, out, console=Console(quiet=True))


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


def test_no_picture_gives_no_verdict(folder: Path) -> None:
    assert Judges.load(folder).scores(np.empty((0, 96, 96, 3), np.uint8)).shape == (0, 5)


def test_a_wrong_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere holds no judges: there is no judges\.json"):
        Judges.load(tmp_path / "nowhere")
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    weights = bytearray((damaged / "dog.safetensors").read_bytes())
    weights[-9] ^= 1
    (damaged / "dog.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match=r"dog\.safetensors is damaged"):
        Judges.load(damaged)


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
