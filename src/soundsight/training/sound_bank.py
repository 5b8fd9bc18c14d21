"""The seconds that ears are trained on, on disk: clean, and in copies from other rooms.

Made once, so that a step of training costs only the network. A folder::

    bank.json        seed, config, which sounds
    seconds.npz      of which sound each second is, and where it begins
    copy-000.npy     uint8 [n, 128, 100]: the seconds as they are
    copy-001.npy ..  the same seconds of copies of the recordings (``recording_copies``)

A copy's seconds begin up to a quarter of a second earlier or later than the clean ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.core.files import atomic_file
from soundsight.core.units import FRAMES_PER_SEGMENT, N_MELS
from soundsight.data.everyday.folder import Everyday, Sound
from soundsight.data.everyday.sounds import HALF_SECOND, Seconds, audible, read_sound
from soundsight.media.mel import log_mel
from soundsight.media.segments import pad_to_seconds, slices
from soundsight.training.configs import BankConfig
from soundsight.training.kept import Tell, begin_or_check, tell_nothing, write_array
from soundsight.training.recording_copies import copy_of, through_jpeg

_ABOUT = "bank.json"
_INDEX = "seconds.npz"


class SoundBank:
    """A finished bank; :func:`open_bank` makes one.

    Attributes:
        sounds: the sounds.
        sound: of which sound each second is, int64 [n].
        first: where each second begins in its sound, int64 [n], in frames of 10 ms.
    """

    def __init__(self, folder: Path, sounds: Sequence[Sound], copies: int) -> None:
        self.folder, self.sounds = folder, sounds
        try:
            with np.load(folder / _INDEX) as index:
                self.sound, self.first = index["sound"], index["first"]
            self._copies = [np.load(_copy(folder, c), mmap_mode="r") for c in range(copies + 1)]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"the sound bank {folder} is damaged: {error}") from error

    def __len__(self) -> int:
        return len(self.sound)

    @property
    def copies(self) -> int:
        """Copies of every second, the clean one not counted."""
        return len(self._copies) - 1

    def seconds(self) -> Seconds:
        """Return the clean seconds, and of which sounds they are."""
        return Seconds(mels=self._copies[0], sound=self.sound, first=self.first, sounds=self.sounds)

    def take(self, rows: NDArray[np.int64], copies: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return seconds, each in the copy that is named (0: clean): uint8 [n, 128, 100]."""
        return np.stack([self._copies[c][r] for r, c in zip(rows, copies, strict=True)])


def open_bank(
    folder: Path,
    everyday: Everyday,
    config: BankConfig,
    tell: Tell = tell_nothing,
) -> SoundBank:
    """Open the bank of the train sounds, and make what is not there yet of it.

    Interrupted, the same call goes on with the copy that it was at.

    Args:
        everyday: the sounds: those of the kinds, and the others, of train.

    Raises:
        DataError: when a sound is damaged, or the bank is.
        ConfigError: when the folder holds another bank.
        OutputError: when it cannot be written to.
    """
    sounds = everyday.sounds("train") + everyday.others("train")
    names = "".join(f"{s.recording} {s.file}\n" for s in sounds)
    about = {"config": to_dict(config), "sounds": hashlib.sha256(names.encode()).hexdigest()}
    begin_or_check(folder / _ABOUT, about, "copies")
    missing = [c for c in range(config.copies + 1) if not _copy(folder, c).exists()]
    if missing or not (folder / _INDEX).exists():
        samples = []
        for number, one in enumerate(sounds):
            samples.append(read_sound(everyday.path(one)))
            tell("sounds read", number + 1, len(sounds))
        sound, first = _make_clean(folder, samples)
        for copy in missing:
            if copy:
                _make_copy(folder, copy, samples, sound, first, config, tell)
    return SoundBank(folder, sounds, config.copies)


def _copy(folder: Path, copy: int) -> Path:
    return folder / f"copy-{copy:03d}.npy"


def _make_clean(
    folder: Path, samples: Sequence[NDArray[np.float32]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write the clean seconds that can be heard, every half second; return which they are."""
    mels, sounds, firsts = [], [], []
    for number, one in enumerate(samples):
        seconds = slices(log_mel(one), HALF_SECOND)
        mels.append(seconds)
        sounds.append(np.full(len(seconds), number))
        firsts.append(HALF_SECOND * np.arange(len(seconds)))
    whole = np.concatenate(mels)
    kept = audible(whole)
    sound, first = np.concatenate(sounds)[kept], np.concatenate(firsts)[kept]
    write_array(_copy(folder, 0), whole[kept])
    with atomic_file(folder / _INDEX) as temporary, temporary.open("wb") as file:
        np.savez(file, sound=sound, first=first)
    return sound, first


def _make_copy(
    folder: Path,
    copy: int,
    samples: Sequence[NDArray[np.float32]],
    sound: NDArray[np.int64],
    first: NDArray[np.int64],
    config: BankConfig,
    tell: Tell,
) -> None:
    mels = np.empty((len(sound), N_MELS, FRAMES_PER_SEGMENT), np.uint8)
    bounds = np.searchsorted(sound, np.arange(len(samples) + 1))
    for number, one in enumerate(samples):
        rng = np.random.default_rng((config.seed, copy, number))
        behind = samples[int(rng.integers(len(samples)))]
        levels = log_mel(pad_to_seconds(copy_of(one, behind, rng, config.copy)))
        last = levels.shape[1] - FRAMES_PER_SEGMENT
        pace = levels.shape[1] / max(1, len(one) // 441)
        for row in range(bounds[number], bounds[number + 1]):
            start = round(first[row] * pace) + int(rng.integers(-25, 26))
            start = min(max(start, 0), last)
            mel = levels[:, start : start + FRAMES_PER_SEGMENT]
            if rng.random() < config.copy.jpeg:
                mel = through_jpeg(np.ascontiguousarray(mel), int(rng.integers(55, 96)))
            mels[row] = mel
        tell(f"copy {copy} of {config.copies}", number + 1, len(samples))
    write_array(_copy(folder, copy), mels)
