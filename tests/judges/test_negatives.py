"""Uninformative pictures keep what they should of a photo, and no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from soundsight.core.errors import DataError
from soundsight.judges import negatives as uninformative
from soundsight.judges.negatives import KINDS, in_early_part, load_early, make, make_many


@pytest.fixture
def photos() -> np.ndarray:
    """30 smooth random pictures, uint8 [30, 96, 96, 3], of middling levels."""
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.standard_normal((30, 96, 96, 3)), (0, 4, 4, 0))
    return np.clip(128 + 25 * field / field.std(), 0, 255).astype(np.uint8)


def test_an_average_is_one_of_5_to_20_photos(photos: np.ndarray) -> None:
    still = np.repeat(np.arange(10, 250, 8, dtype=np.uint8), 96 * 96 * 3).reshape(-1, 96, 96, 3)
    made = {int(uninformative.average(still, np.random.default_rng(k))[0, 0, 0]) for k in range(50)}
    # Averages of several levels gather in the middle, as one photo's level would not.
    assert len(made) > 20
    assert min(made) > 50
    assert max(made) < 210
    # n independent pictures average to 1 / sqrt(n) of their contrast.
    contrast = uninformative.average(photos, np.random.default_rng(0)).std() / photos[0].std()
    assert 1 / np.sqrt(24) < contrast < 1 / np.sqrt(4)


def test_an_average_of_few_photos_takes_what_there_is(photos: np.ndarray) -> None:
    two = photos[:2].astype(float)
    made = uninformative.average(photos[:2], np.random.default_rng(0)).astype(float)
    sides = [(two[0, :, ::a] + two[1, :, ::b]) / 2 for a in (1, -1) for b in (1, -1)]
    assert min(np.abs(made - side).max() for side in sides) <= 0.5


def test_blur_is_a_gaussian_of_6_to_12_px(photos: np.ndarray) -> None:
    for k in range(5):
        sigma = np.random.default_rng(k).uniform(6, 12)
        wanted = ndimage.gaussian_filter(
            photos[k].astype(float), (sigma, sigma, 0), mode="nearest", truncate=4
        )
        made = uninformative.blur(photos[k], np.random.default_rng(k))
        assert np.abs(made - wanted).max() < 1


def test_shuffled_patches_are_the_same_64_patches(photos: np.ndarray) -> None:
    made = uninformative.patches(photos[0], np.random.default_rng(0))

    def cut(picture: np.ndarray) -> list[bytes]:
        grid = [
            picture[y : y + 12, x : x + 12].tobytes()
            for y in range(0, 96, 12)
            for x in range(0, 96, 12)
        ]
        assert len(grid) == 64
        return grid

    assert cut(made) != cut(photos[0])
    assert sorted(cut(made)) == sorted(cut(photos[0]))


def test_noise_keeps_spectrum_and_mean_and_loses_the_picture(photos: np.ndarray) -> None:
    photo = photos[0].astype(float)
    made = uninformative.noise(photos[0], np.random.default_rng(0)).astype(float)
    np.testing.assert_allclose(made.mean((0, 1)), photo.mean((0, 1)), atol=0.5)
    spectra = [np.abs(np.fft.rfft2(p, axes=(0, 1)))[1:6, 1:6] for p in (photo, made)]
    np.testing.assert_allclose(spectra[1], spectra[0], rtol=0.05, atol=60)
    assert abs(np.corrcoef(photo.ravel(), made.ravel())[0, 1]) < 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_a_function_of_the_seed(kind: str, photos: np.ndarray) -> None:
    first, again, other = (make(kind, photos, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (96, 96, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_half_come_from_the_own_class() -> None:
    classes = [np.full((4, 96, 96, 3), 40 * c, np.uint8) for c in range(5)]
    made = make_many("patches", classes, 3, 400, np.random.default_rng(0))[:, 0, 0, 0] // 40
    # A half of its own, and a fifth of the other half.
    assert 0.52 < (made == 3).mean() < 0.68
    anyone = make_many("patches", classes, None, 400, np.random.default_rng(0))[:, 0, 0, 0] // 40
    assert 0.14 < (anyone == 3).mean() < 0.26


@pytest.fixture
def early_files(tmp_path: Path) -> list[Path]:
    """Two runs of three files: 40 sounds drawn twice a file; a level names the sound."""
    levels = np.tile(np.arange(40, dtype=np.uint8), 2)[:, None, None, None]
    folders = [tmp_path / "a", tmp_path / "b"]
    for run, folder in enumerate(folders):
        folder.mkdir()
        for step in range(3):
            images = np.broadcast_to(levels, (80, 96, 96, 3)).copy()
            images[..., 1] = 10 * run + step
            np.savez_compressed(folder / f"step-{step}.npz", images=images)
    return folders


def test_no_sound_of_an_early_picture_is_in_two_places(early_files: list[Path]) -> None:
    early = load_early(early_files[:1])
    assert len(early) == 240
    parts = [
        early.images[in_early_part(early, fold, split)]
        for fold in (0, 1)
        for split in ("train", "val")
    ]
    assert sum(len(part) for part in parts) == 240
    sounds = [set(part[:, 0, 0, 0].tolist()) for part in parts]
    assert sorted(sound for part in sounds for sound in part) == list(range(40))
    assert all(len(part) == 6 * len(of) for part, of in zip(parts, sounds, strict=True))
    assert len(sounds[0]) > len(sounds[1]) > 0


def test_of_several_runs_the_last_is_kept_for_val(early_files: list[Path]) -> None:
    early = load_early(early_files)
    train, val = (early.images[in_early_part(early, 0, split)] for split in ("train", "val"))
    assert set(train[:, 0, 0, 1].tolist()) == {0, 1, 2}
    assert set(val[:, 0, 0, 1].tolist()) == {10, 11, 12}
    assert not set(train[:, 0, 0, 0].tolist()) & set(val[:, 0, 0, 0].tolist())


def test_early_pictures_are_read_from_files_and_folders(
    tmp_path: Path, early_files: list[Path]
) -> None:
    assert load_early([]).images.shape == (0, 96, 96, 3)
    assert in_early_part(load_early([]), 0, "val").shape == (0,)
    both = load_early([early_files[0] / "step-0.npz", early_files[0]])
    assert (len(both), set(both.runs.tolist())) == (320, {0})
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "small.npz", images=np.zeros((2, 64, 64, 3), np.uint8))
    np.savez(tmp_path / "named.npz", pictures=np.zeros((2, 96, 96, 3), np.uint8))
    for name, words in (
        ("empty", "holds no .npz"),
        ("small.npz", "must be uint8"),
        ("named.npz", "'images'"),
        ("absent.npz", "'images'"),
    ):
        with pytest.raises(DataError, match=words):
            load_early([tmp_path / name])
