"""Everyday's sounds as the product hears them: seconds of log-mel out of whole files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import AudioError, DataError
from soundsight.core.units import FRAMES_PER_SEGMENT, INAUDIBLE_LEVEL, N_MELS, RATE_HZ
from soundsight.data.everyday.folder import Everyday, Sound
from soundsight.media.audio import decode, stream
from soundsight.media.mel import DEFAULT, hz_to_mel, log_mel
from soundsight.media.segments import pad_to_seconds, slices

HALF_SECOND = FRAMES_PER_SEGMENT // 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Seconds:
    """Seconds of several sounds, one after the other."""

    mels: NDArray[np.uint8]  #: [n, 128, 100], row 0 the highest band, scaled by the clip
    sound: NDArray[np.int64]  #: which sound each is of, [n]: a place in ``sounds``
    first: NDArray[np.int64]  #: first frame of each within its sound, [n], 10 ms each
    sounds: Sequence[Sound]

    @property
    def kinds(self) -> list[str]:
        """The kind of each second; for tables and evaluation only."""
        return [self.sounds[i].kind for i in self.sound]

    @property
    def recordings(self) -> list[str]:
        """The recording of each second."""
        return [self.sounds[i].recording for i in self.sound]


def read_sound(
    path: Path, *, narrow_hz: int | None = None, longest_s: int | None = None
) -> NDArray[np.float32]:
    """Read a sound: float32 [t] mono at 44.1 kHz, filled up to whole seconds as the product does.

    Args:
        path: the file.
        narrow_hz: resample it to this rate first, in hertz, as if it had been recorded so.
        longest_s: no more than so many seconds of its beginning.
    """
    try:
        if longest_s is None:
            samples = decode(path)
        else:
            with stream(path, block_s=longest_s) as blocks:
                samples = next(blocks)
    except AudioError as error:
        raise DataError(str(error)) from error
    if narrow_hz is not None:
        import soxr

        samples = soxr.resample(soxr.resample(samples, RATE_HZ, narrow_hz), narrow_hz, RATE_HZ)
    return pad_to_seconds(samples)


def seconds_of_file(
    path: Path, *, hop: int, narrow_hz: int | None = None, longest_s: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the seconds of a file, uint8 [n, 128, 100], and their first frames, [n].

    They begin ``hop`` frames apart and are scaled by the file's own loudest point.
    """
    samples = read_sound(path, narrow_hz=narrow_hz, longest_s=longest_s)
    mels = slices(log_mel(samples), hop).copy()
    return mels, hop * np.arange(len(mels))


def read_seconds(
    everyday: Everyday,
    sounds: Sequence[Sound],
    *,
    hop: int = FRAMES_PER_SEGMENT,
    narrow_hz: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Seconds:
    """Read the seconds of sounds, each file by itself as :func:`seconds_of_file` does.

    ``progress`` is called with (sounds read, sounds in all).
    """
    mels = [np.zeros((0, N_MELS, FRAMES_PER_SEGMENT), np.uint8)]
    sound = [np.zeros(0, np.int64)]
    first = [np.zeros(0, np.int64)]
    for number, one in enumerate(sounds):
        levels, starts = seconds_of_file(everyday.path(one), hop=hop, narrow_hz=narrow_hz)
        mels.append(levels)
        sound.append(np.full(len(levels), number))
        first.append(starts)
        progress(number + 1, len(sounds))
    return Seconds(
        mels=np.concatenate(mels),
        sound=np.concatenate(sound),
        first=np.concatenate(first),
        sounds=sounds,
    )


def audible(mels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which seconds, uint8 [n, 128, 100], have a mean level of at least 2: bool [n]."""
    loud: NDArray[np.bool_] = mels.mean(axis=(1, 2)) >= INAUDIBLE_LEVEL
    return loud


def bands_above(end_hz: float) -> int:
    """Return how many rows of a log-mel, counted from the top, lie above a frequency in hertz."""
    top, low = float(hz_to_mel(DEFAULT.f_max_hz)), float(hz_to_mel(DEFAULT.f_min_hz))
    spacing = (top - low) / (N_MELS + 1)
    # The centre of row 0 lies one spacing below the end.
    return int(np.clip(np.ceil((top - float(hz_to_mel(end_hz))) / spacing - 1), 0, N_MELS))


def darkened(mels: NDArray[np.uint8], end_hz: float) -> NDArray[np.uint8]:
    """Return log-mels uint8 [n, 128, 100] without what lies above ``end_hz``."""
    dark = mels.copy()
    dark[:, : bands_above(end_hz)] = 0
    return dark


def recording_ids(names: Iterable[str]) -> NDArray[np.int64]:
    """Number names in the order in which they first come: int64 [n]."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
