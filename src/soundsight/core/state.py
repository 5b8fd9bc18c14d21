"""The state of a second of sound: whether anything may be shown of it, and what.

A misleading picture is worse than none. Silence and sounds of no kind that the model knows are
therefore shown as one calm, flat picture, and an alert (a smoke alarm, a knock) as its word and a
pictogram: nobody is to look for it in an imagined picture. The state says which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units

CALM_LEVEL = 44
"""Grey level of the flat picture that stands where no picture is shown."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where a picture's state changes.

    Attributes:
        quiet_dbfs: a second whose level is below this counts as quiet, in dB re full scale.
        ood_score: a sound whose ood score is above this (0..1) is not drawn.
        confidence: a live sound of which the model is less sure than this (0..1, see
            ``runtime.events``) is not shown, at the middle of the sensitivity's scale.
    """

    quiet_dbfs: float
    ood_score: float = 1.0
    confidence: float = 0.5


def known(score: float) -> float | None:
    """A score as JSON has it, to four places: None for NaN, which says that it is not known."""
    return None if math.isnan(score) else round(float(score), 4)


class State(StrEnum):
    """What became of a second of sound."""

    PICTURE = "picture"
    NAMED = "named"
    QUIET = "quiet"
    NOTHING_RECOGNISABLE = "nothing_recognisable"

    @property
    def words(self) -> str:
        """The state in words for people."""
        return self.value.replace("_", " ")

    @property
    def is_known(self) -> bool:
        """Whether it says what sounds: as a picture, or by its name."""
        return self in (State.PICTURE, State.NAMED)


def calm_picture(image_px: int = units.IMAGE_PX) -> NDArray[np.uint8]:
    """Return the flat dark grey picture: uint8 [px, px, 3]."""
    return np.full((image_px, image_px, units.IMAGE_CHANNELS), CALM_LEVEL, np.uint8)


def is_quiet(mel: NDArray[np.uint8], rms_dbfs: float, thresholds: Thresholds) -> bool:
    """Whether a second, uint8 [128, 100], of a level in dB re full scale is too quiet to draw."""
    return rms_dbfs < thresholds.quiet_dbfs or float(mel.mean()) < units.INAUDIBLE_LEVEL


def is_out_of_distribution(ood_score: float, thresholds: Thresholds) -> bool:
    """Whether a sound is of no kind that is known; a score of NaN (not known) refuses none."""
    return ood_score > thresholds.ood_score
