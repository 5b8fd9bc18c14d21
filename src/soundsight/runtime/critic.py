"""The state of a picture: whether it may be shown, and what to say when it may not.

A misleading picture is worse than none. Silence, sounds of no kind that the model knows, and
pictures that show nothing recognisable are therefore replaced by one calm, flat picture, and the
state says why.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.units import INAUDIBLE_LEVEL
from soundsight.runtime.model_folder import CRITIC, FAMILIARITY, ModelInfo, Thresholds
from soundsight.runtime.session import Network

CALM_LEVEL = 44
"""Grey level of the flat picture that stands where no picture is shown."""


class State(StrEnum):
    """What became of a second of sound."""

    PICTURE = "picture"
    QUIET = "quiet"
    NOTHING_RECOGNISABLE = "nothing_recognisable"

    @property
    def words(self) -> str:
        """The state in words for people."""
        return self.value.replace("_", " ")


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


def state_of(informativity: float, thresholds: Thresholds) -> State:
    """Return the state of a picture of a second that is not quiet.

    Args:
        informativity: the critic's score in [0, 1]; NaN where there is no critic, which never
            hides a picture.
    """
    if math.isnan(informativity) or informativity >= thresholds.informativity:
        return State.PICTURE
    return State.NOTHING_RECOGNISABLE


class _Optional:
    """A network of a model folder that may be missing: its score of every item is NaN then."""

    def __init__(
        self, info: ModelInfo, file: str, scored: str, score: str, threads: int | None
    ) -> None:
        self._scored = scored
        self._network: Network | None = None
        if file in info.files:
            self._network = Network(info.folder / file, score, threads)
            self._network.require({scored})

    def _score(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Score items, uint8 levels laid out as the network takes them, one number each."""
        if self._network is None:
            return np.full(len(levels), np.nan, np.float32)
        return self._network.run((), **{self._scored: units.to_unit(levels)})


class SoundMemory(_Optional):
    """Tells how familiar sounds are. Without a network for it every answer is NaN.

    Args:
        info: a folder that ``model_folder.read`` has checked.
        threads: threads of one run; None takes the CPUs of the process, at most 4.

    Raises:
        ModelError: when there is a network that cannot be opened.
    """

    def __init__(self, info: ModelInfo, threads: int | None = None) -> None:
        super().__init__(info, FAMILIARITY, "mel", "familiarity", threads)

    def familiarity(self, mels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Tell how familiar sounds are: uint8 [n, 128, 100] -> float32 [n] in [0, 1]."""
        return self._score(mels[:, None])


class Critic(_Optional):
    """Scores how much a picture shows. Without a critic network every score is NaN.

    Args:
        info: a folder that ``model_folder.read`` has checked.
        threads: threads of one run; None takes the CPUs of the process, at most 4.

    Raises:
        ModelError: when there is a critic that cannot be opened.
    """

    def __init__(self, info: ModelInfo, threads: int | None = None) -> None:
        super().__init__(info, CRITIC, "image", "informativity", threads)

    def informativity(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Score pictures as they are shown: uint8 [n, px, px, 3] -> float32 [n] in [0, 1]."""
        return self._score(images.transpose(0, 3, 1, 2))
