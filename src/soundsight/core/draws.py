"""Random draws that belong to one item, not to its batch.

A picture's noise and dropout are drawn here from ``(seed, item)`` and handed to the generator as
plain inputs: a sound and a seed give the same picture in any batch, in PyTorch and in ONNX Runtime.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def item_of(mel: NDArray[np.uint8], draw: int = 0) -> int:
    """Name a sound by its content: a 63-bit number from the 8-bit log-mel and the draw's number.

    Args:
        mel: uint8 [128, 100], one segment.
        draw: which of several pictures of this sound (0, 1, ...).
    """
    content = np.ascontiguousarray(mel).tobytes() + draw.to_bytes(4, "little")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


def generator_draws(
    seed: int, item: int, noise_size: int, dropout_size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw the generator's random inputs of one picture.

    Returns:
        noise: float32 [noise_size], standard normal.
        dropout: float32 [dropout_size], uniform in [0, 1); a channel is dropped where its value
            is below the layer's rate.
    """
    key = np.array([seed % 2**64, item % 2**64], dtype=np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    noise = rng.standard_normal(noise_size, dtype=np.float32)
    return noise, rng.random(dropout_size, dtype=np.float32)
