"""The second judge and the photo classifier: what they learn from and that they learn."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from soundsight.core.errors import ConfigError
from soundsight.judges.files import CLASSIFIER, SECOND, JudgeFolder
from soundsight.judges.fit import (
    NOTHING,
    ViewerConfig,
    accuracy,
    class_probabilities,
    fit,
    head_scores,
    heads_loss,
    photo_features,
    viewer_task,
)
from soundsight.judges.negatives import load_early
from soundsight.judges.pictures import Pictures
from soundsight.models.picture_classifier import PictureClassifier, PictureClassifierConfig

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (190, 190, 40), (40, 190, 190))

SMALL = ViewerConfig(
    passes=8,
    photos=10,
    learning_rate=1e-2,
    average_decay=0.8,
    network=PictureClassifierConfig(maps=(4, 8, 8)),
)


def coloured(seed: int) -> Pictures:
    """Ten photos a class, each of the class's colour with a bright bar across."""
    rng = np.random.default_rng(seed)
    photos = []
    for colour in COLOURS:
        levels = rng.normal(colour, 20, (10, 96, 96, 3))
        for photo in levels:
            top = int(rng.integers(80))
            photo[top : top + 12] = 255
        photos.append(np.clip(levels, 0, 255).astype(np.uint8))
    return Pictures(photos=photos, early=np.empty((0, 96, 96, 3), np.uint8))


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """What is learned from."""
    return coloured(0)


@pytest.fixture
def folder(tmp_path: Path) -> JudgeFolder:
    """A folder just begun."""
    return JudgeFolder(tmp_path / "f", SMALL, load_early([]), {})


@pytest.mark.slow
def test_the_photo_classifier_learns_the_subjects(pictures: Pictures, folder: JudgeFolder) -> None:
    task = viewer_task(CLASSIFIER, SMALL, pictures, seed=(0, 1), bfloat16=False)
    assert task.config.steps == SMALL.steps(pictures) == 40
    network = fit(CLASSIFIER, task, folder)
    val = coloured(1)
    found = accuracy(network, val)
    assert found["mean"] > 0.8
    assert found["mean"] == pytest.approx(np.mean([v for k, v in found.items() if k != "mean"]))
    images = val.photos[1]
    probabilities = class_probabilities(network, images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert found["dog"] == (probabilities.argmax(axis=1) == 1).mean()
    unit = torch.from_numpy(images / 127.5 - 1).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        features = network.features(unit)
    np.testing.assert_allclose(photo_features(network, images), features, atol=1e-5)
    # The weights can be stored in fp16 without a change.
    weights = network.state_dict().values()
    assert all(torch.equal(v, v.half().float()) for v in weights if v.is_floating_point())


@pytest.mark.slow
def test_the_second_judge_learns_its_classes_and_to_refuse(
    pictures: Pictures, folder: JudgeFolder
) -> None:
    task = viewer_task(SECOND, SMALL, pictures, seed=(0, 1), bfloat16=False)
    network = fit(SECOND, task, folder)
    own, other = [], []
    for number, photos in enumerate(pictures.photos):
        scores = head_scores(network, photos)
        own.append(scores[:, number].mean())
        other.append(np.delete(scores, number, axis=1).mean())
    assert np.mean(own) > np.mean(other) + 0.3
    rng = np.random.default_rng(0)
    noise = pictures.uninformative("noise", None, 30, rng)
    assert head_scores(network, noise).mean() < np.mean(own) - 0.2


def test_batches_of_the_second_judge(pictures: Pictures) -> None:
    task = viewer_task(SECOND, SMALL, pictures, seed=(0, 1), bfloat16=False)
    (images, targets), (again, _), (other, _) = (
        task.batch(step, task.network) for step in (3, 3, 4)
    )
    assert images.shape == (20, 3, 96, 96)
    assert targets[10:].tolist() == [NOTHING] * 10
    assert set(targets[:10].tolist()) <= set(range(5))
    assert torch.equal(images, again)
    assert not torch.equal(images, other)


def test_the_loss_weighs_a_half_and_two_quarters() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(9, 2))
    targets = np.array([0, 0, 1, NOTHING, NOTHING, NOTHING, 1, 1, NOTHING])
    wanted = 0.0
    for head in range(2):
        for own, share, chosen in (
            (1, 0.5, targets == head),
            (0, 0.25, targets == 1 - head),
            (0, 0.25, targets == NOTHING),
        ):
            p = 1 / (1 + np.exp(-logits[chosen, head]))
            soft = own * 0.8 + 0.1
            wanted -= share * np.mean(soft * np.log(p) + (1 - soft) * np.log(1 - p)) / 2
    got = heads_loss(torch.from_numpy(logits), torch.from_numpy(targets), 0.2)
    assert float(got) == pytest.approx(wanted)


def test_a_batch_without_a_class_has_a_finite_loss() -> None:
    loss = heads_loss(torch.zeros(3, 5), torch.tensor([1, 1, NOTHING]), 0.0)
    # Head 1: a half and a quarter of ln 2; the others: two quarters.
    assert float(loss) == pytest.approx(math.log(2) * (0.75 + 4 * 0.5) / 5)


def test_no_picture_gives_no_score() -> None:
    network = PictureClassifier(SMALL.network).eval()
    none = np.empty((0, 96, 96, 3), np.uint8)
    assert head_scores(network, none).shape == (0, 5)
    assert photo_features(network, none).shape == (0, 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"passes": 0},
        {"photos": 4},
        {"learning_rate": 0},
        {"smoothing": 1},
        {"average_decay": 1},
        {"network": PictureClassifierConfig(outputs=4)},
    ],
)
def test_settings_out_of_range_are_refused(changes: dict) -> None:
    with pytest.raises(ConfigError):
        ViewerConfig(**changes)
