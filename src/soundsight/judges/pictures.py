"""The pictures that judges learn from: photos by class, uninformative ones, changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from soundsight.core.errors import DataError
from soundsight.core.units import IMAGE_CHANNELS, IMAGE_PX, to_unit
from soundsight.data.vegas.bench import SUBJECTS, Bench, fold_of, photo_subject
from soundsight.judges.negatives import EARLY, KINDS, EarlyPictures, in_early_part, make_many

_AT_ONCE = 256
_HIDDEN_PX = (16, 48)


def check_pictures(images: NDArray[np.uint8]) -> None:
    """Raise DataError when pictures to be judged are not uint8 [n, 96, 96, 3]."""
    if images.dtype != np.uint8 or images.shape[1:] != (IMAGE_PX, IMAGE_PX, IMAGE_CHANNELS):
        raise DataError(
            f"pictures to be judged must be uint8 [n, {IMAGE_PX}, {IMAGE_PX}, 3], not "
            f"{images.dtype} {list(images.shape)}"
        )


def columns_of(subjects: Sequence[str], classes: Sequence[str] = SUBJECTS) -> NDArray[np.int64]:
    """Return the index of each subject in ``classes``: int64 [n].

    Raises:
        DataError: on an unknown one.
    """
    place = {subject: index for index, subject in enumerate(classes)}
    try:
        return np.array([place[subject] for subject in subjects], dtype=np.int64)
    except KeyError as error:
        raise DataError(f"unknown subject {error}; choose from {', '.join(classes)}") from error


def mean_over_classes(
    right: NDArray[np.bool_], subjects: Sequence[str], classes: Sequence[str] = SUBJECTS
) -> dict[str, float]:
    """Return the share of right ones, bool [n], of each subject present, and their ``mean``."""
    of = np.asarray(subjects)
    shares = {s: float(right[of == s].mean()) for s in classes if (of == s).any()}
    return {**shares, "mean": float(np.mean(list(shares.values())))}


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What one fold of one split offers."""

    #: photos by class, in the order of SUBJECTS: uint8 [n_c, 96, 96, 3] each
    photos: list[NDArray[np.uint8]]
    early: NDArray[np.uint8]  #: early-generator pictures, uint8 [n, 96, 96, 3]; may be none

    @classmethod
    def read(cls, bench: Bench, split: str, fold: int, early: EarlyPictures) -> Pictures:
        """Read the photos of a fold and take its part of the early pictures.

        Raises:
            DataError: when a class has too few photos, or there are early pictures but none for
                this split.
        """
        by_class: dict[str, list[NDArray[np.uint8]]] = {subject: [] for subject in SUBJECTS}
        for member in bench.photos(split):
            if fold_of(member) == fold:
                by_class[photo_subject(member)].append(bench.photo(member))
        for subject, photos in by_class.items():
            if len(photos) < 2:
                raise DataError(f"photos/{split}.tar has too few photos of {subject} to judge by")
        part = early.images[in_early_part(early, fold, split)]
        if len(early) and not len(part):
            raise DataError(
                f"{len(early)} early pictures are too few to divide: give some hundreds"
            )
        return cls(photos=[np.stack(photos) for photos in by_class.values()], early=part)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of uninformative pictures that can be had."""
        return (*KINDS, EARLY) if len(self.early) else KINDS

    def uninformative(
        self, kind: str, own: int | None, count: int, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Make, or draw, ``count`` pictures of one of ``kinds``: uint8 [count, 96, 96, 3].

        Half of them are made from the class with the index ``own``; None = all count the same.
        """
        if kind == EARLY:
            return self.early[rng.integers(len(self.early), size=count)]
        return make_many(kind, self.photos, own, count, rng)

    def of_every_kind(
        self, own: int | None, count: int, turn: int, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Make, or draw, uninformative pictures of all kinds in equal parts, kind after kind.

        ``own`` is as in :meth:`uninformative`; ``turn`` decides which kinds come first where the
        parts cannot be equal. uint8 [count, 96, 96, 3].
        """
        kinds = self.kinds
        counts = np.bincount((np.arange(count) + turn) % len(kinds), minlength=len(kinds))
        return np.concatenate(
            [self.uninformative(k, own, int(n), rng) for k, n in zip(kinds, counts, strict=True)]
        )

    def draw(
        self, classes: list[int], count: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Draw photos uint8 [count, 96, 96, 3] and their classes int64 [count].

        Every class of ``classes`` is as likely as another.
        """
        picked = rng.choice(classes, size=count)
        images = [self.photos[c][rng.integers(len(self.photos[c]))] for c in picked]
        return np.stack(images), picked.astype(np.int64)


def augment(
    images: NDArray[np.uint8],
    rng: np.random.Generator,
    strength: float = 1.0,
    hidden_share: float = 0.0,
) -> Float[Tensor, "n 3 96 96"]:
    """Mirror, shift, scale and tint pictures uint8 [n, 96, 96, 3] a little.

    A quarter keep their pixels' places, so that no judge goes by the blur of resampling.
    ``strength`` 1 is a zoom by up to 16 %, a shift by up to 6 px, brightness by up to 15 %, tint by
    up to 8 %. In a ``hidden_share`` of the pictures a box of 16 to 48 px a side is filled with the
    picture's mean colour (random erasing: Zhong et al. 2020), so that no judge goes by one spot of
    the few photos of a class.

    Returns:
        float32 in [-1, 1], channels last in memory.
    """
    n = len(images)
    moved = (rng.random(n) >= 0.25).astype(np.float32) * strength
    zoom = np.exp(rng.uniform(-0.15, 0.15, n) * moved)
    theta = np.zeros((n, 2, 3), dtype=np.float32)
    theta[:, 0, 0] = zoom * rng.choice((-1.0, 1.0), n)
    theta[:, 1, 1] = zoom
    theta[:, :, 2] = rng.uniform(-0.12, 0.12, (n, 2)) * moved[:, None]
    unit = torch.from_numpy(to_unit(images)).permute(0, 3, 1, 2)
    grid = F.affine_grid(torch.from_numpy(theta), list(unit.shape), align_corners=False)
    unit = F.grid_sample(unit, grid, padding_mode="reflection", align_corners=False)
    gain = 1 + strength * rng.uniform(-0.15, 0.15, (n, 1, 1, 1))
    gain = gain * (1 + strength * rng.uniform(-0.08, 0.08, (n, 3, 1, 1)))
    shift = strength * rng.uniform(-0.12, 0.12, (n, 1, 1, 1))
    # In place: at this size an allocation costs as much as the sum.
    unit.mul_(torch.from_numpy(gain.astype(np.float32)))
    unit.add_(torch.from_numpy(shift.astype(np.float32))).clamp_(-1, 1)
    if hidden_share:
        for row in np.flatnonzero(rng.random(n) < hidden_share):
            picture = unit[row]
            height, width = rng.integers(*_HIDDEN_PX, size=2, endpoint=True).tolist()
            top, left = rng.integers((IMAGE_PX - height + 1, IMAGE_PX - width + 1)).tolist()
            mean = picture.mean(dim=(1, 2), keepdim=True)
            picture[:, top : top + height, left : left + width] = mean
    return unit.contiguous(memory_format=torch.channels_last)


def look_at(
    look: Callable[[Float[Tensor, "k 3 96 96"]], Float[Tensor, "k c"]],
    images: NDArray[np.uint8],
    columns: int,
) -> NDArray[np.float32]:
    """Show pictures uint8 [n, 96, 96, 3] to a network that takes [-1, 1]: [n, columns].

    Raises:
        DataError: when the pictures have another size or type.
    """
    check_pictures(images)
    result = np.empty((len(images), columns), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(images), _AT_ONCE):
            chunk = slice(start, start + _AT_ONCE)
            batch = torch.from_numpy(to_unit(images[chunk])).permute(0, 3, 1, 2)
            result[chunk] = look(batch).float().numpy()
    return result
