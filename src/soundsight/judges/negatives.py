"""Pictures in which nobody sees anything, made from photos: what a judge must refuse.

Each kind keeps something of the photos that a lazy judge could go by (palette, layout, texture,
spectrum) and removes what a person recognises. NumPy alone, so that the evaluation makes the same
pictures that training used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import DataError
from soundsight.core.units import IMAGE_CHANNELS, IMAGE_PX
from soundsight.data.vegas.bench import fold_of

KINDS = ("average", "blur", "patches", "noise")
"""The kinds made from photos; pictures of an early generator are the fifth, read from files."""

EARLY = "early"

AVERAGED_PHOTOS = (5, 20)
BLUR_SIGMA_PX = (6.0, 12.0)
PATCH_PX = 12
EARLY_VAL_FOLDS = 5
"""One sound in so many of the early pictures is kept for val."""

Photos = NDArray[np.uint8]


def average(photos: Photos, rng: np.random.Generator) -> Photos:
    """Average 5 to 20 photos, uint8 [n, 96, 96, 3]: what a pixel loss converges to."""
    low, high = (min(count, len(photos)) for count in AVERAGED_PHOTOS)
    chosen = rng.choice(len(photos), size=int(rng.integers(low, high + 1)), replace=False)
    # Some are mirrored, as in training a generator sees mirrored targets.
    mirrored = rng.random(len(chosen)) < 0.5
    total = np.zeros(photos.shape[1:], dtype=np.float64)
    for index, mirror in zip(chosen, mirrored, strict=True):
        total += photos[index, :, ::-1] if mirror else photos[index]
    return _levels(total / len(chosen))


def blur(photo: Photos, rng: np.random.Generator) -> Photos:
    """Blur heavily: Gaussian of 6 to 12 px, edges repeated. uint8 [96, 96, 3] both ways."""
    weights = _blur_matrix(float(rng.uniform(*BLUR_SIGMA_PX)))
    # Rows, then columns: both are the same [96, 96] weighting of one axis.
    rows = weights @ photo.reshape(IMAGE_PX, -1).astype(np.float32)
    columns = rows.reshape(photo.shape).swapaxes(0, 1).reshape(IMAGE_PX, -1)
    return _levels((weights @ columns).reshape(photo.shape).swapaxes(0, 1))


def patches(photo: Photos, rng: np.random.Generator) -> Photos:
    """Shuffle the 64 patches of 12 x 12 px. uint8 [96, 96, 3] both ways."""
    side = IMAGE_PX // PATCH_PX
    grid = photo.reshape(side, PATCH_PX, side, PATCH_PX, 3).swapaxes(1, 2)
    shuffled = rng.permutation(grid.reshape(side * side, PATCH_PX, PATCH_PX, 3), axis=0)
    tiles = shuffled.reshape(side, side, PATCH_PX, PATCH_PX, 3).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(IMAGE_PX, IMAGE_PX, 3))


def noise(photo: Photos, rng: np.random.Generator) -> Photos:
    """Keep a photo's spectrum and mean colour, with random phase. uint8 [96, 96, 3] both ways.

    The three colours get one phase, which keeps their cross-spectrum too.
    """
    spectrum = np.fft.rfft2(photo, axes=(0, 1))
    # The phase of real white noise has the symmetry that makes the result real.
    white = np.fft.rfft2(rng.standard_normal((IMAGE_PX, IMAGE_PX)))
    turn = np.exp(1j * np.angle(white))
    turn[0, 0] = 1.0
    turned = spectrum * turn[..., None]
    return _levels(np.fft.irfft2(turned, s=(IMAGE_PX, IMAGE_PX), axes=(0, 1)))


def make(kind: str, photos: Photos, rng: np.random.Generator) -> Photos:
    """Make a picture uint8 [96, 96, 3] of a kind of ``KINDS`` from at least 2 photos of a class."""
    if kind == "average":
        return average(photos, rng)
    change = {"blur": blur, "patches": patches, "noise": noise}[kind]
    return change(photos[int(rng.integers(len(photos)))], rng)


def make_many(
    kind: str, classes: Sequence[Photos], own: int | None, count: int, rng: np.random.Generator
) -> Photos:
    """Make pictures of ``kind``, uint8 [count, 96, 96, 3], half of them from class ``own``.

    The rest is from any of ``classes``, uint8 [n_c, 96, 96, 3] each; of None all count the same.
    """
    made = np.empty((count, IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    for index in range(count):
        of_own = own is not None and rng.random() < 0.5
        source = own if own is not None and of_own else int(rng.integers(len(classes)))
        made[index] = make(kind, classes[source], rng)
    return made


@dataclass(frozen=True, kw_only=True)
class EarlyPictures:
    """What young generators drew, and of which sound in which run."""

    images: NDArray[np.uint8]  #: [n, 96, 96, 3]
    sounds: NDArray[np.int64]  #: [n], of which sound; a number is the same sound in every file
    runs: NDArray[np.int64]  #: [n], of which run, in the order in which they were given

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sha256(self) -> str:
        """Hash of the pictures and of what divides them: the number of sound and run of each."""
        digest = hashlib.sha256()
        for array in (self.images, self.sounds, self.runs):
            digest.update(array.tobytes())
        return digest.hexdigest()


def load_early(paths: Sequence[Path]) -> EarlyPictures:
    """Read early-generator pictures from ``.npz`` files or folders of them, in sorted order.

    The files of one folder are of one run. ``images`` holds the same sounds twice in the same
    order, by the plain weights and by their average, as ``train translator`` writes it.

    Raises:
        DataError: when a path holds no such pictures.
    """
    shape, none = (IMAGE_PX, IMAGE_PX, IMAGE_CHANNELS), np.empty(0, dtype=np.int64)
    images, sounds, runs = [np.empty((0, *shape), dtype=np.uint8)], [none], [none]
    folders: list[Path] = []
    for path in paths:
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path} holds no .npz of early pictures")
        folder = files[0].resolve().parent
        if folder not in folders:
            folders.append(folder)
        for file in files:
            try:
                with np.load(file, allow_pickle=False) as archive:
                    read = archive["images"]
            except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
                raise DataError(f"{file} is no .npz with the array 'images'") from error
            if read.dtype != np.uint8 or read.shape[1:] != shape:
                raise DataError(f"{file}: 'images' must be uint8 [n, 96, 96, 3]")
            images.append(read)
            sounds.append(np.arange(len(read)) % max(1, len(read) // 2))
            runs.append(np.full(len(read), folders.index(folder)))
    return EarlyPictures(
        images=np.concatenate(images), sounds=np.concatenate(sounds), runs=np.concatenate(runs)
    )


def in_early_part(early: EarlyPictures, fold: int, split: str) -> NDArray[np.bool_]:
    """Say which early pictures of a fold (0 or 1) are kept for a split: bool [n].

    Of the sounds one in ``EARLY_VAL_FOLDS`` is for ``val``, the rest for ``train``. A sound belongs
    to one fold and one split, whatever network drew it. Where there are several runs the last one
    is kept for val, so that val shows neither a sound nor a network of train.
    """
    names = [f"early sound {sound}" for sound in early.sounds.tolist()]
    mine = np.array([fold_of(name) == fold for name in names], dtype=bool)
    val = np.array([fold_of(f"{name}, val", EARLY_VAL_FOLDS) == 0 for name in names], dtype=bool)
    if len(early) and (last := int(early.runs.max())):
        of_val = early.runs == last
        mine &= of_val if split == "val" else ~of_val
    kept: NDArray[np.bool_] = mine & (val if split == "val" else ~val)
    return kept


def _blur_matrix(sigma_px: float) -> NDArray[np.float32]:
    """Return [96, 96] row weights of a Gaussian along one axis; mass outside goes to the edge."""
    reach = int(np.ceil(4 * sigma_px))
    rows, columns = np.arange(IMAGE_PX), np.arange(-reach, IMAGE_PX + reach)
    kernel = np.exp(-0.5 * ((columns[None] - rows[:, None]) / sigma_px) ** 2)
    weights = kernel[:, reach : reach + IMAGE_PX].copy()
    weights[:, 0] += kernel[:, :reach].sum(axis=1)
    weights[:, -1] += kernel[:, reach + IMAGE_PX :].sum(axis=1)
    normed: NDArray[np.float32] = (weights / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
    return normed


def _levels(values: NDArray[np.floating]) -> Photos:
    levels: Photos = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return levels
