"""Cross-fitting: pairs in folds that share no video and no photo, each scored by the others.

What a scorer of :mod:`soundsight.training.coherence` needs and what has nothing to do with how it
scores: the protocol of the pairs, the folds, reading a batch, and finished folds kept on disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from soundsight.core.errors import DataError, SoundsightError
from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_PX, N_MELS
from soundsight.training.encoder import to_float
from soundsight.training.kept import kept_arrays

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all), over every fold and network of a call."""

FEWEST_PAIRS = 200
FEWEST_GROUPS = 40
"""With fewer pairs, or fewer separate groups of videos, a held-out score is noise."""

_FEWEST_FRAMES = 32
_SAMPLED = 16


class Pairs(Protocol):
    """What is scored. n = number of pairs.

    Attributes:
        videos: int64 [n], equal where the sound is of one video.
        photos: int64 [n], equal where the picture is one (bench) or of one video: for ordinary
            videos the same as ``videos``.
    """

    @property
    def videos(self) -> NDArray[np.int64]: ...

    @property
    def photos(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...

    def gather(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return log-mels uint8 [k, 128, frames] and pictures uint8 [k, h, w, 3]."""
        ...


def folds_of(
    videos: NDArray[np.int64], photos: NDArray[np.int64], folds: int, seed: int
) -> NDArray[np.int64]:
    """Divide pairs into folds that share neither a video nor a photo.

    Pairs linked by a video or a photo, directly or through others, stay together; the largest such
    groups are placed first, each into the emptiest fold.

    Args:
        videos: [n].
        photos: [n].
        folds: number of folds, at least 2.
        seed: decides between groups of one size.

    Returns:
        int64 [n], 0 .. folds - 1.

    Raises:
        DataError: on too few pairs or groups, or when one group is larger than a fold.
    """
    n = len(videos)
    if n < FEWEST_PAIRS:
        raise DataError(
            f"{n} pairs are too few to learn which sounds and pictures agree: at least "
            f"{FEWEST_PAIRS} are needed, or leave the coherence filter out"
        )
    if len(photos) != n:
        raise DataError(f"{n} videos but {len(photos)} photos: give one of each a pair")
    group = _components(np.asarray(videos), np.asarray(photos))
    sizes = np.bincount(group)
    if len(sizes) < max(FEWEST_GROUPS, folds):
        raise DataError(
            f"the pairs come from {len(sizes)} separate groups of videos: at least "
            f"{max(FEWEST_GROUPS, folds)} are needed to judge each by the others"
        )
    if sizes.max() > n / folds:
        raise DataError(
            f"{sizes.max()} of {n} pairs hang together by their videos and photos: "
            "no fair division into folds, leave the coherence filter out"
        )
    rng = np.random.default_rng((seed, 1))
    chance = rng.random(len(sizes))
    load = np.zeros(folds, dtype=np.int64)
    place = np.empty(len(sizes), dtype=np.int64)
    for g in np.lexsort((chance, -sizes)):
        place[g] = int(load.argmin())
        load[place[g]] += sizes[g]
    return place[group]


def read_batch(
    pairs: Pairs, rows: NDArray[np.int64], *, pooled: int = 1, px: int = IMAGE_PX
) -> tuple[Float[Tensor, "n 1 128 t"], Float[Tensor, "n 3 px px"]]:
    """Read pairs and bring them to the networks' sizes, in [-1, 1].

    Args:
        pooled: neighbouring frames of the log-mel that are averaged into one.
        px: side of the pictures, which are stretched to squares where they are none.

    Raises:
        DataError: on log-mels or pictures of a shape that cannot be judged.
    """
    mel, image = pairs.gather(rows)
    if mel.ndim != 3 or mel.shape[1] != N_MELS or mel.dtype != np.uint8:
        raise DataError(
            f"log-mels of shape {mel.shape[1:]} ({mel.dtype}) cannot be judged: "
            f"{N_MELS} bands of 8-bit levels are expected"
        )
    if mel.shape[2] < _FEWEST_FRAMES:
        raise DataError(
            f"log-mels of {mel.shape[2]} frames are too short to be judged: "
            f"at least {_FEWEST_FRAMES} are needed"
        )
    if image.ndim != 4 or image.shape[3] != 3 or image.dtype != np.uint8:
        raise DataError(
            f"pictures of shape {image.shape[1:]} ({image.dtype}) cannot be judged: "
            "8-bit RGB is expected"
        )
    if not len(mel) == len(image) == len(rows):
        raise DataError(f"{len(rows)} pairs were asked for: {len(mel)} and {len(image)} came")
    spare = max(0, mel.shape[2] - FRAMES_PER_SEGMENT) // 2
    mel = mel[:, :, spare : spare + FRAMES_PER_SEGMENT]
    # Copies, as what was read may be read-only.
    sound = to_float(torch.from_numpy(np.array(mel)))[:, None]
    if pooled > 1:
        sound = F.avg_pool2d(sound, (1, pooled))
    picture = to_float(torch.from_numpy(np.array(image))).permute(0, 3, 1, 2)
    if picture.shape[2:] != (px, px):
        picture = F.interpolate(picture, size=(px, px), mode="bilinear", antialias=True)
    return sound, picture


def _components(videos: NDArray[np.int64], photos: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the connected components of the links video - photo: int64 [n], 0 .. groups - 1."""
    _, v = np.unique(videos, return_inverse=True)
    _, p = np.unique(photos, return_inverse=True)
    size = int(v.max()) + int(p.max()) + 2
    links = coo_array((np.ones(len(v)), (v, p + int(v.max()) + 1)), shape=(size, size))
    _, component = connected_components(links, directed=False)
    _, group = np.unique(component[v], return_inverse=True)
    return group.astype(np.int64)


class Count:
    """Adds up the steps of all folds for the progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def step(self, steps: int = 1) -> None:
        self.done += steps
        if self.progress:
            self.progress(self.done, self.total)


def cross_fit(
    pairs: Pairs,
    fold: NDArray[np.int64],
    score: Callable[[int], NDArray[np.float32]],
    settings: dict[str, Any],
    work: Path | None,
    count: Count,
    steps: Sequence[int],
) -> NDArray[np.float32]:
    """Score every fold that is not on disk yet and put the scores in the pairs' order.

    Args:
        fold: of each pair, [n].
        score: (fold) -> the scores of its pairs.
        settings: what the scores depend on beside the pairs; ``scorer`` names the files.
        work: folder of the finished folds; None to keep none.
        count: of the steps of all folds.
        steps: of each fold.

    Raises:
        SoundsightError: when a score is not finite.
    """

    def scored(k: int) -> dict[str, NDArray[np.float32]]:
        scores = score(k)
        if not np.isfinite(scores).all():
            raise SoundsightError("a coherence score is not finite: try a lower learning_rate")
        return {"scores": scores}

    made_of = "" if work is None else _digest(pairs, settings)
    result = np.empty(len(pairs), dtype=np.float32)
    for k, wanted in enumerate(steps):
        before = count.done
        if work is None:
            kept = scored(k)
        else:
            path = work / f"{settings['scorer']}-{k:02d}.npz"
            kept = kept_arrays(path, made_of, partial(scored, k), repair=True)
        if count.done == before:
            count.step(wanted)
        result[fold == k] = kept["scores"]
    return result


def _digest(pairs: Pairs, settings: dict[str, Any]) -> str:
    """Hash settings and pairs: kept scores are void when either is not the same."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for ids in (pairs.videos, pairs.photos):
        digest.update(np.ascontiguousarray(ids, dtype=np.int64).tobytes())
    # Ids may stay while the pictures change: a few pairs stand for all.
    for values in pairs.gather(np.linspace(0, len(pairs) - 1, _SAMPLED).astype(np.int64)):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
