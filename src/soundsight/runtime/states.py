"""The state of a second of sound: whether anything may be shown of it, and what.

A misleading picture is worse than none. Silence and sounds of no kind that the model knows are
therefore shown as one calm, flat picture, and an alert (a smoke alarm, a knock) as its word and a
pictogram: nobody is to look for it in an imagined picture. The state says which.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.units import INAUDIBLE_LEVEL
from soundsight.runtime.model_folder import FAMILIARITY, ModelInfo, Thresholds
from soundsight.runtime.session import Network

CALM_LEVEL = 44
"""Grey level of the flat picture that stands where no picture is shown."""


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
    """Tell whether a second is too quiet to imagine anything.

    Args:
        mel: uint8 [128, 100].
        rms_dbfs: level of the second, in dB re full scale.
    """
    return rms_dbfs < thresholds.quiet_dbfs or float(mel.mean()) < INAUDIBLE_LEVEL


def is_unfamiliar(familiarity: float, thresholds: Thresholds) -> bool:
    """Tell whether a sound is of no kind that the model was trained on.

    Args:
        familiarity: in [0, 1]; NaN where the model cannot tell, which refuses no sound.
    """
    return familiarity < thresholds.familiarity


class SoundMemory:
    """Tells how familiar sounds are. Without a network for it every answer is NaN.

    Args:
        info: a folder that ``model_folder.read`` has checked.
        threads: threads of one run; None takes the CPUs of the process, at most 4.

    Raises:
        ModelError: when there is a network that cannot be opened.
    """

    def __init__(self, info: ModelInfo, threads: int | None = None) -> None:
        self._network: Network | None = None
        if FAMILIARITY in info.files:
            self._network = Network(info.folder / FAMILIARITY, ("familiarity",), threads)
            self._network.require({"features"})

    def familiarity(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Tell how familiar sounds are, by the encoder's features [n, F]: float32 [n] in [0, 1]."""
        if self._network is None:
            return np.full(len(features), np.nan, np.float32)
        (familiarity,) = self._network.run(((),), features=features)
        return familiarity
