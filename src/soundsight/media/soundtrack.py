"""The sound of a video on the clock of its picture, or a part of it.

Times are seconds of the file's clock, which is 0 where a player shows 0 (the earliest track).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.media.audio import open_sound
from soundsight.media.decoder import Faults


@dataclass(frozen=True, kw_only=True)
class SoundTrack:
    """An open sound track.

    Attributes:
        start_s: when its first sample sounds, in seconds of the file's clock.
        blocks: float32 [t] each, mono at 44,100 Hz, one after the other without a hole.
    """

    start_s: float
    blocks: Iterator[NDArray[np.float32]]
    _faults: Faults

    @property
    def damages(self) -> list[str]:
        """What of the track cannot be read, as far as it has been: one line, or none."""
        return self._faults.damages


@contextlib.contextmanager
def open_soundtrack(
    path: str | os.PathLike[str],
    start_s: float | None = None,
    end_s: float | None = None,
    *,
    strict: bool = False,
) -> Iterator[SoundTrack]:
    """Open the sound of a video, or of a part of it, in constant memory.

    Args:
        path: a file that FFmpeg's libraries read.
        start_s: where the part starts, in seconds of the file's clock; None for the beginning.
        end_s: where it ends; None for the end of the sound.
        strict: raise instead of leaving out what is damaged.

    Raises:
        AudioError: when the file is missing, cannot be read, is encrypted, has no sound track or
            none in this part; later, from the blocks, when most of it is damaged (in strict mode:
            damaged or cut short).
    """
    with open_sound(Path(path), strict=strict, start_s=start_s, end_s=end_s, joins=False) as sound:
        yield SoundTrack(start_s=sound.start_s, blocks=sound.blocks, _faults=sound.faults)
