"""Rates, lengths and the pixel contract: every number that two rooms share, defined once.

A *segment* is the unit of sound that becomes one picture: 1 s, seen as a log-mel of 128 bands by
100 frames (one every 10 ms). Grey levels and colours are 8-bit on disk and in the API, and
float32 in [-1, 1] inside the networks (mean .5, standard deviation .5 of the unit range).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEGMENT_S = 1.0
FRAMES_PER_SEGMENT = 100
N_MELS = 128
IMAGE_PX = 96
IMAGE_CHANNELS = 3

RATE_HZ = 44_100
"""Rate at which the log-mel is computed; every sound is resampled to it."""


SEGMENT_SAMPLES = int(RATE_HZ * SEGMENT_S)
HOP_SAMPLES = SEGMENT_SAMPLES // FRAMES_PER_SEGMENT
HOP_S = SEGMENT_S / FRAMES_PER_SEGMENT

CLIP_SCALE_S = 10.0
"""Length over which the loudest point sets the scale of a log-mel: a VEGAS clip lasts this long."""

CLIP_MAX_S = 10.5
"""Longest sound that counts as one clip: encoders pad a clip of 10 s by some hundredths."""

INAUDIBLE_LEVEL = 2.0
"""A second whose mean level is below this, of 255, is as good as silent."""


def to_unit(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Map 8-bit levels 0..255 to the networks' range [-1, 1] (any shape)."""
    return levels.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def to_levels(unit: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Map [-1, 1] to 8-bit levels 0..255, rounding to nearest and clipping outside (any shape)."""
    scaled = (np.asarray(unit, dtype=np.float32) + 1.0) * 127.5
    levels: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return levels
