"""Fidelity and variety of pictures, in the features of a network that knows photos.

* **KID**: the unbiased squared maximum mean discrepancy with a cubic kernel (Binkowski et al. 2018,
  arXiv 1801.01401), a mean over subsets. Its spread is that of the subsets: how much the figure
  depends on which pictures are compared, no confidence interval.
* **Frechet distance** between two Gaussians (Heusel et al. 2017, arXiv 1706.08500). It falls with
  the number of pictures, so only figures of equal numbers may be compared; it has no interval, as
  each resample would be further away than the whole.
* **Precision and recall** (Kynkaanniemi et al. 2019, arXiv 1904.06991): the share of generated
  pictures that lie among real ones, and of real ones that lie among generated ones.
* **Nearest training photo**: who only repeats training photos is nearer to them than photos are.

All classes together: a class of 25 photos says nothing alone. The classes are mixed as in the real
photos, or a translator would be measured by how many sounds of each class there are.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import pairwise_distances_argmin
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from soundsight.core.errors import DataError, ModelError, first_line
from soundsight.core.files import sha256_of
from soundsight.core.units import IMAGE_PX
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.judges.pictures import columns_of

NEIGHBOURS = 3
SUBSETS = 100
SUBSET_SIZE = 250
NEAR_QUANTILE = 0.05
NEAR_DUPLICATE_BITS = 20
"""Photos whose 256-bit difference hashes differ in at most so many bits are taken for one."""

_LEAST = 8
_HASH_SIDE = 16
_ROWS_AT_ONCE = 1024
_PICTURES_AT_ONCE = 64
_REFUSALS = (RuntimeError, torch.jit.Error)
"""What PyTorch raises, and what a TorchScript program does."""

Features = NDArray[np.floating]


def fidelity(
    generated: Features,
    real: Features,
    generated_subjects: Sequence[str],
    real_subjects: Sequence[str],
    *,
    seed: int = 0,
    classes: Sequence[str] = SUBJECTS,
) -> dict[str, Any]:
    """Compare generated pictures with real photos of the classes that both show.

    Of the generated pictures so many are drawn by the seed that the classes stand as among the
    photos. Pass training photos as ``generated`` to learn what the figures are at their best.

    Args:
        generated: features [n, F].
        real: features [m, F] of photos that were never in training.

    Returns:
        ``kid`` (0 where both are alike, a little below by chance) and ``kid_spread``, the standard
        deviation over its ``subsets`` of ``subset_size`` pictures of either kind; ``frechet``;
        ``precision`` and ``recall`` of the ``compared`` pictures of either kind; ``generated`` and
        ``real``, the number of pictures that KID and the Frechet distance look at.

    Raises:
        DataError: when a feature is not finite, or fewer than 8 pictures of either kind are left.
    """
    _check(generated, real)
    of_made, of_real = (columns_of(of, classes) for of in (generated_subjects, real_subjects))
    made_counts, real_counts = (np.bincount(c, minlength=len(classes)) for c in (of_made, of_real))
    real_counts = np.where(made_counts > 0, real_counts, 0)
    shared = np.flatnonzero(real_counts)
    rng = np.random.default_rng((seed, 4))
    if len(shared):
        # As many as the class allows that has the fewest generated pictures for its photos.
        scarce = shared[np.argmin(made_counts[shared] / real_counts[shared])]
        wide = made_counts[scarce] * real_counts // real_counts[scarce]
        narrow = np.minimum(wide, real_counts)
        made = generated[_draw(of_made, wide, rng)]
        photos = real[_draw(of_real, real_counts, rng)]
        few_made = generated[_draw(of_made, narrow, rng)]
        few_photos = real[_draw(of_real, narrow, rng)]
    if not len(shared) or len(few_made) < _LEAST:
        raise DataError(
            f"fidelity needs at least {_LEAST} pictures and as many photos of the same classes"
        )
    size = min(SUBSET_SIZE, len(made) // 2, len(photos) // 2)
    kid, spread = kernel_distance(photos, made, subsets=SUBSETS, subset_size=size, seed=seed)
    precision, recall = precision_recall(few_photos, few_made)
    return {
        "kid": kid, "kid_spread": spread, "frechet": frechet_distance(photos, made),
        "precision": precision, "recall": recall, "generated": len(made), "real": len(photos),
        "subsets": SUBSETS, "subset_size": size, "compared": len(few_made),
    }  # fmt: skip


def _draw(
    classes: NDArray[np.int64], counts: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw ``counts[c]`` places of each class c, in their order."""
    drawn = [
        rng.choice(np.flatnonzero(classes == c), size=int(count), replace=False)
        for c, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(drawn))


def _updated(metric: Any, real: Features, generated: Features) -> Any:
    metric.update(torch.from_numpy(real.astype(np.float64)), real=True)
    metric.update(torch.from_numpy(generated.astype(np.float64)), real=False)
    return metric


def _given(features: Features) -> nn.Module:
    """Return what torchmetrics takes for a feature network where the features are there already."""
    network: Any = nn.Identity()
    network.num_features = features.shape[1]
    return network


def kernel_distance(
    real: Features, generated: Features, *, subsets: int, subset_size: int, seed: int
) -> tuple[float, float]:
    """Return KID's mean and standard deviation over subsets of features [m, F] and [n, F].

    The seed draws ``subset_size`` of either, at most m and n; torch's random state is left alone.
    """
    # Imported here: torchmetrics takes seconds that no other figure needs.
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings():
        # It warns whoever makes one that it holds all features in memory.
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance`", UserWarning)
        metric = KernelInceptionDistance(
            feature=_given(real), subsets=subsets, subset_size=subset_size
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, spread = _updated(metric, real, generated).compute()
    return float(mean), float(spread)


def frechet_distance(real: Features, generated: Features) -> float:
    """Return the Frechet distance between the Gaussians of features [m, F] and [n, F]."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_given(real))
    return max(0.0, float(_updated(metric, real, generated).compute()))


def precision_recall(
    real: Features, generated: Features, *, k: int = NEIGHBOURS
) -> tuple[float, float]:
    """Return improved precision and recall of features [n, F] each, n above ``k``.

    A picture lies among others when it is in the ball of one of them that reaches to that one's
    k-th nearest neighbour. Recall rises with the number of generated pictures.
    """
    photos, made = real.astype(np.float64), generated.astype(np.float64)
    return _among(made, photos, k), _among(photos, made, k)


def _among(points: NDArray[np.float64], others: NDArray[np.float64], k: int) -> float:
    # One more than k: each is its own nearest.
    reach = NearestNeighbors(n_neighbors=k + 1).fit(others).kneighbors(others)[0][:, k]
    return float((euclidean_distances(points, others) <= reach).any(axis=1).mean())


def nearest(generated: Features, train: Features) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the training photo, [m, F], that each picture, [n, F], is nearest to (Euclid).

    Returns its index, int64 [n], the first among equals, and the distance, float64 [n].

    Raises:
        DataError: when a feature is not finite.
    """
    _check(generated, train)
    made, known = generated.astype(np.float64), train.astype(np.float64)
    indices = pairwise_distances_argmin(made, known)
    return indices, np.linalg.norm(made - known[indices], axis=1)


def copying(generated: NDArray[np.float64], real: NDArray[np.float64]) -> dict[str, float]:
    """Compare distances to the nearest training photo: of pictures, and of unseen photos (real).

    Returns the medians, ``near``, the distance that only one unseen photo in twenty stays under,
    and the shares under it. A high share of pictures asks for a look at the nearest photos:
    pictures of the most common kind are near to many photos without repeating one.
    """
    near = float(np.quantile(real, NEAR_QUANTILE))
    return {
        "generated": float(np.median(generated)),
        "real": float(np.median(real)),
        "near": near,
        "closer": float((generated < near).mean()),
        "unseen_closer": float((real < near).mean()),
    }


def variety(
    generated: Features,
    real: Features,
    generated_subjects: Sequence[str],
    real_subjects: Sequence[str],
) -> dict[str, float]:
    """Return the mean distance of two pictures over that of two photos of their class.

    By class, and ``mean`` over the classes that have two of each; of features [n, F] and [m, F].
    """
    of_made, of_real = columns_of(generated_subjects), columns_of(real_subjects)
    shares: dict[str, float] = {}
    for column, subject in enumerate(SUBJECTS):
        made, photos = generated[of_made == column], real[of_real == column]
        if min(len(made), len(photos)) > 1:
            apart = mean_distance(photos)
            shares[subject] = mean_distance(made) / apart if apart else math.nan
    return {"mean": float(np.mean(list(shares.values()))), **shares} if shares else {}


def mean_distance(points: Features) -> float:
    """Return the mean distance of two different points of features [n, F], n at least 2."""
    total = euclidean_distances(points.astype(np.float64)).sum()
    return float(total) / (len(points) * (len(points) - 1))


def difference_hash(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where pictures uint8 [n, h, w, 3] get brighter to the right: bool [n, 256]."""
    size = (_HASH_SIDE + 1, _HASH_SIDE)
    small = np.zeros((len(images), *size[::-1]), int)
    for place, image in enumerate(images):
        small[place] = Image.fromarray(image).convert("L").resize(size, Image.Resampling.LANCZOS)
    return (np.diff(small, axis=2) > 0).reshape(len(small), _HASH_SIDE**2)


def near_duplicates(images: NDArray[np.uint8], photos: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pictures uint8 [n, h, w, 3] repeat a photo or its mirror image: bool [n]."""
    known = np.concatenate([difference_hash(photos), difference_hash(photos[:, :, ::-1])])
    signs = known.astype(np.float32) * 2 - 1
    least = known.shape[1] - 2 * NEAR_DUPLICATE_BITS
    found = np.zeros(len(images), np.bool_)
    for start in range(0, len(images), _ROWS_AT_ONCE):
        bits = difference_hash(images[start : start + _ROWS_AT_ONCE])
        # Of 256 signs, agreements less differences.
        found[start : start + len(bits)] = ((bits * 2.0 - 1) @ signs.T >= least).any(axis=1)
    return found


class FeatureNetwork:
    """A network, such as an Inception, whose features stand in for the classifier's.

    It was saved as TorchScript and takes pictures [n, 3, 96, 96] with levels 0 to 255, as uint8, or
    as float32 where it refuses these, and scales and resizes them itself; it returns features
    [n, F] (dimensions of size 1 after F are dropped). Where its ``forward`` knows
    ``return_features``, that is set. Load only files that you trust: TorchScript is a program.

    Raises:
        ModelError: when the file is missing or is none, or the network does not keep to this.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ModelError(f"there is no feature network at {path}")
        try:
            with warnings.catch_warnings():
                # Its successor reads none of the Inception files that figures are compared with.
                warnings.filterwarnings("ignore", ".*torch.jit.load.*", DeprecationWarning)
                self._network: Any = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"{path} is no TorchScript file: {first_line(error)}") from error
        self.name, self.sha256 = path.name, sha256_of(path)
        words = [argument.name for argument in self._network.forward.schema.arguments]
        self._options = {"return_features": True} if "return_features" in words else {}
        probe = np.arange(2 * IMAGE_PX * IMAGE_PX * 3, dtype=np.uint32) % 251
        pictures = probe.astype(np.uint8).reshape(2, IMAGE_PX, IMAGE_PX, 3)
        self._as_float = False
        try:
            self.features(pictures)
        except _REFUSALS:
            self._as_float = True
            try:
                self.features(pictures)
            except _REFUSALS as error:
                # TorchScript's message opens with its own stack; the reason is the last line.
                reason = (str(error).strip() or "no reason given").splitlines()[-1]
                raise ModelError(
                    f"{path} takes no pictures [n, 3, {IMAGE_PX}, {IMAGE_PX}]: {reason}"
                ) from error

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features of pictures uint8 [n, 96, 96, 3]: float32 [n, F].

        Raises:
            ModelError: when the network gives something else.
        """
        parts = []
        for start in range(0, len(images), _PICTURES_AT_ONCE):
            batch = np.ascontiguousarray(images[start : start + _PICTURES_AT_ONCE])
            pictures = torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()
            with torch.no_grad():
                found = self._network(
                    pictures.float() if self._as_float else pictures, **self._options
                )
            if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(batch):
                raise ModelError(f"{self.name} gives no features [n, F] of n pictures")
            parts.append(found.flatten(1).float().numpy())
            if not np.isfinite(parts[-1]).all():
                raise ModelError(f"{self.name} gives features that are not finite")
        return np.concatenate(parts)


def _check(first: Features, second: Features) -> None:
    if not len(first) or not len(second):
        raise DataError("there are no features to compare")
    if not np.isfinite(first).all() or not np.isfinite(second).all():
        raise DataError("a feature is not finite")
