"""KID, Frechet distance, precision, recall and nearest photos, against plain NumPy."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor, nn

from soundsight.core.errors import DataError, ModelError
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.evaluation.fidelity import (
    FeatureNetwork,
    copying,
    difference_hash,
    fidelity,
    frechet_distance,
    kernel_distance,
    near_duplicates,
    nearest,
    precision_recall,
    variety,
)


def test_kid_of_whole_sets_is_the_unbiased_estimate() -> None:
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(30, 6)), rng.normal(0.5, 1.2, size=(30, 6))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 6 + 1) ** 3)

    within = [
        np.mean([kernel(x[i], x[j]) for i in range(30) for j in range(30) if i != j])
        for x in (real, made)
    ]
    across = np.mean([kernel(a, b) for a in real for b in made])
    mean, spread = kernel_distance(real, made, subsets=3, subset_size=30, seed=0)
    assert mean == pytest.approx(sum(within) - 2 * across, rel=1e-9)
    assert spread == pytest.approx(0, abs=1e-9)


def test_kid_follows_its_seed_alone() -> None:
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(40, 4)), rng.normal(size=(50, 4))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = kernel_distance(real, made, subsets=10, subset_size=12, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert kernel_distance(real, made, subsets=10, subset_size=12, seed=1) == one
    assert kernel_distance(real, made, subsets=10, subset_size=12, seed=2) != one
    assert one[1] > 0


def test_frechet_distance_is_that_of_the_matrix_root() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5))
    made = rng.normal(0.3, 1, size=(45, 5)) @ rng.normal(size=(5, 5))
    first, second = np.cov(real.T), np.cov(made.T)
    apart = np.square(real.mean(0) - made.mean(0)).sum()
    root = linalg.sqrtm(first @ second).real
    wanted = apart + np.trace(first + second - 2 * root)
    assert frechet_distance(real, made) == pytest.approx(wanted, rel=1e-8)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    # Fewer pictures than features: the covariance has no full rank.
    flat = rng.normal(size=(4, 9))
    assert frechet_distance(flat, flat + 2) == pytest.approx(36, rel=1e-6)


def test_precision_and_recall_are_those_of_plain_loops() -> None:
    rng = np.random.default_rng(3)
    real, made = rng.normal(size=(40, 3)), rng.normal(0.8, 0.8, size=(40, 3))

    def among(points: np.ndarray, others: np.ndarray) -> float:
        reach = [sorted(np.linalg.norm(o - others, axis=1))[3] for o in others]
        inside = [
            any(np.linalg.norm(p - o) <= r for o, r in zip(others, reach, strict=True))
            for p in points
        ]
        return float(np.mean(inside))

    precision, recall = precision_recall(real, made)
    assert precision == pytest.approx(among(made, real))
    assert recall == pytest.approx(among(real, made))
    assert 0 < recall < precision < 1
    assert precision_recall(real, real + 100) == (0.0, 0.0)
    assert precision_recall(real, real) == (1.0, 1.0)


def test_variety_is_a_share_of_the_photos_distances() -> None:
    rng = np.random.default_rng(3)
    photos = rng.normal(size=(40, 6))
    subjects = ["dog"] * 25 + ["water"] * 15
    pictures = photos.copy()
    pictures[:25] *= 0.5
    found = variety(pictures, photos, subjects, subjects)
    assert found["dog"] == pytest.approx(0.5)
    assert found["water"] == pytest.approx(1.0)
    assert found["mean"] == pytest.approx(0.75)
    # Against distances counted pair by pair.
    others = rng.normal(size=(9, 6))

    def apart(points: np.ndarray) -> float:
        pairs = [np.linalg.norm(a - b) for i, a in enumerate(points) for b in points[:i]]
        return float(np.mean(pairs))

    of_water = variety(others, photos, ["water"] * 9, subjects)
    assert of_water["water"] == pytest.approx(apart(others) / apart(photos[25:]))
    assert variety(pictures[:1], photos, ["dog"], subjects) == {}


def test_near_duplicates_are_found_mirrored_and_brightened_but_strangers_are_not() -> None:
    rng = np.random.default_rng(4)
    rough = rng.integers(0, 256, (6, 12, 12, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    photos, strangers = rough[:3], rough[3:]
    brighter = (photos * 0.8 + 40).astype(np.uint8)
    assert difference_hash(photos).shape == (3, 256)
    for copies in (photos, photos[:, :, ::-1], brighter):
        assert near_duplicates(copies, photos).all()
    assert not near_duplicates(strangers, photos).any()
    assert near_duplicates(photos[:0], photos).shape == (0,)


def test_nearest_photo_and_copying() -> None:
    rng = np.random.default_rng(0)
    train, made = rng.normal(size=(300, 4)).astype(np.float32), rng.normal(size=(1100, 4))
    indices, distances = nearest(made, train)
    table = np.linalg.norm(made[:, None] - train[None].astype(np.float64), axis=2)
    assert np.array_equal(indices, table.argmin(axis=1))
    assert np.allclose(distances, table.min(axis=1), atol=1e-12)
    unseen = nearest(rng.normal(size=(400, 4)), train)[1]
    fair = copying(distances, unseen)
    assert fair["closer"] == pytest.approx(0.05, abs=0.03)
    assert fair["unseen_closer"] == 20 / 400
    assert fair["generated"] == pytest.approx(np.median(distances))
    copied = copying(nearest(train[:50] + 1e-3, train)[1], unseen)
    assert copied["closer"] == 1.0
    assert copied["generated"] < copied["near"] < copied["real"]


def classes_of(counts: list[int]) -> list[str]:
    return [s for s, count in zip(SUBJECTS, counts, strict=True) for _ in range(count)]


def test_classes_are_mixed_as_among_the_photos() -> None:
    # Each class lies apart from the others. A translator that draws each class as photos are
    # distributed is near them, however many sounds of each class there are.
    places = 4.0 * np.eye(5)
    rng = np.random.default_rng(0)
    photos, sounds = classes_of([40, 40, 40, 10, 40]), classes_of([90, 100, 80, 200, 80])

    def features(subjects: list[str]) -> np.ndarray:
        return np.stack([places[SUBJECTS.index(s)] for s in subjects]) + rng.normal(
            0, 0.3, size=(len(subjects), 5)
        )

    real, made = features(photos), features(sounds)
    found = fidelity(made, real, sounds, photos)
    numbers = [found[k] for k in ("generated", "real", "compared", "subset_size")]
    assert numbers == [340, 170, 170, 85]
    unmixed = frechet_distance(real, made)
    assert found["frechet"] < 0.1 < unmixed
    assert found["precision"] > 0.8
    assert found["recall"] > 0.8
    assert abs(found["kid"]) < 3 * found["kid_spread"] + 0.05
    assert fidelity(made, real, sounds, photos) == found
    # One class drawn for all sounds: precise, yet without variety.
    dull = features(["baby"] * len(sounds))
    poor = fidelity(dull, real, sounds, photos)
    assert poor["recall"] < 0.4
    assert poor["frechet"] > 10 * found["frechet"]
    assert poor["kid"] > 10 * abs(found["kid"])


def test_few_pictures_are_compared_with_as_few_photos() -> None:
    rng = np.random.default_rng(0)
    photos, sounds = classes_of([20, 20, 20, 20, 20]), classes_of([4, 4, 0, 4, 9])
    real, made = rng.normal(size=(100, 3)), rng.normal(size=(21, 3))
    found = fidelity(made, real, sounds, photos)
    assert [found[k] for k in ("generated", "real", "compared")] == [16, 80, 16]


def test_what_cannot_be_compared_is_refused() -> None:
    for generated, subjects, message in (
        (np.full((10, 4), np.inf), ["baby"] * 10, "not finite"),
        (np.zeros((10, 4)), ["dog"] * 10, "at least 8"),
        (np.zeros((5, 4)), ["baby"] * 5, "at least 8"),
        (np.zeros((0, 4)), [], "no features"),
    ):
        with pytest.raises(DataError, match=message):
            fidelity(generated, np.zeros((10, 4)), subjects, ["baby"] * 10)


# --- a feature network from a file ------------------------------------------------------------


class Means(nn.Module):
    """Mean level of each channel; refuses uint8 when ``exact``."""

    def __init__(self, exact: bool) -> None:
        super().__init__()
        self.exact = exact

    def forward(self, pictures: Tensor) -> Tensor:
        if self.exact and pictures.dtype != torch.float32:
            raise RuntimeError("float pictures only")
        return pictures.float().mean(dim=(2, 3), keepdim=True)


class Inception(nn.Module):
    """Gives features only when asked for them, as a well-known file does."""

    def forward(self, pictures: Tensor, return_features: bool = False) -> Tensor:
        means = pictures.float().mean(dim=(2, 3))
        return means if return_features else means[:, :1]


class Flat(nn.Module):
    """No features at all."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.float().mean()


class Endless(nn.Module):
    """Features that are no numbers."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.float().mean(dim=(2, 3)) / 0.0


class Narrow(nn.Module):
    """Takes grey pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layer(pictures)


def save(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network).save(str(path))
    return path


@pytest.mark.parametrize("network", [Means(False), Means(True), Inception()])
def test_a_feature_network_takes_levels(network: nn.Module, tmp_path: Path) -> None:
    found = FeatureNetwork(save(network, tmp_path / "net.pt"))
    images = np.random.default_rng(0).integers(256, size=(70, 96, 96, 3), dtype=np.uint8)
    features = found.features(images)
    assert features.dtype == np.float32
    assert np.allclose(features, images.mean(axis=(1, 2)), atol=1e-3)
    assert found.name == "net.pt"
    assert len(found.sha256) == 64


def test_what_is_no_feature_network_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    for path, message in (
        (save(Flat(), tmp_path / "flat.pt"), "no features"),
        (save(Endless(), tmp_path / "endless.pt"), "not finite"),
        (save(Narrow(), tmp_path / "narrow.pt"), "takes no pictures"),
        (tmp_path / "text.pt", "no TorchScript file"),
        (tmp_path / "none.pt", "no feature network at"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            FeatureNetwork(path)
        assert "\n" not in str(caught.value)
