"""Sounds that the tests of several rooms write."""

from __future__ import annotations

from typing import Any

import numpy as np
import soundfile


def write_tones(place: Any, *parts: tuple[float, float], rate_hz: int = 44_100, **how: Any) -> Any:
    """Write a tone over noise, parts of (seconds, level) after one another; return the place."""
    rng = np.random.default_rng(0)
    level = np.concatenate([np.full(round(s * rate_hz), level) for s, level in parts])
    tone = np.sin(2 * np.pi * 440 * np.arange(len(level)) / rate_hz)
    sound = 0.3 * level * (tone + rng.normal(0.0, 0.05, len(level)))
    soundfile.write(place, sound.astype(np.float32), rate_hz, **how)
    return place
