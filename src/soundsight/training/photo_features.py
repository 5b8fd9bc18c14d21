"""What frozen eyes see of every photo, kept on disk: several views of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from soundsight.models.eyes import POOLED_SIZE, Eyes
from soundsight.training.augment import augment_image
from soundsight.training.encoder import to_float
from soundsight.training.kept import Arrays, Tell, kept_arrays, tell_nothing

EYES = "lite0"
"""Whose eyes training sees photos through."""

EYES_PX = 128
"""Side at which the eyes look at photos of 96 pixels."""

VIEWS = 2
"""The photo itself, and once with another crop, flip and colour."""

_AT_ONCE = 64


@torch.no_grad()
def look(eyes: Eyes, image: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 1280"]:
    """Return the pooled features of pictures in [-1, 1], enlarged to what the eyes look at."""
    large = F.interpolate(
        image, size=(EYES_PX, EYES_PX), mode="bicubic", align_corners=False, antialias=False
    )
    return eyes.pooled(large.clamp(-1, 1))


def photo_features(
    folder: Path,
    names: Sequence[str],
    read: Callable[[str], NDArray[np.uint8]],
    eyes_name: str = EYES,
    tell: Tell = tell_nothing,
) -> NDArray[np.float16]:
    """Return the pooled features of photos in several views, from ``folder`` or made now.

    Args:
        names: of the photos.
        read: name -> uint8 [96, 96, 3].
        eyes_name: whose eyes.

    Returns:
        float16 [2, n, 1280]; the first view is the photo itself.

    Raises:
        ConfigError: when the eyes are not installed.
        DataError: when a photo or what is kept is damaged.
        OutputError: when ``folder`` cannot be written to.
    """
    eyes = Eyes.load(eyes_name)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()

    def make() -> Arrays:
        features = np.empty((VIEWS, len(names), POOLED_SIZE), np.float16)
        for start in range(0, len(names), _AT_ONCE):
            part = slice(start, min(start + _AT_ONCE, len(names)))
            levels = torch.from_numpy(np.stack([read(name) for name in names[part]]))
            image = to_float(levels.permute(0, 3, 1, 2))
            for view in range(VIEWS):
                rng = torch.Generator().manual_seed(VIEWS * start + view)
                seen = augment_image(image, rng, zoom=0.3) if view else image
                features[view, part] = look(eyes, seen).half().numpy()
            tell("photos seen", part.stop, len(names))
        return {"features": features}

    made_of = {"eyes": eyes.sha256, "photos": digest, "views": VIEWS, "px": EYES_PX}
    return kept_arrays(folder / "photos.npz", made_of, make)["features"]
