"""More sounds for the teacher: random mixtures of the train recordings, distorted beyond kinds.

The recordings are few, and what the teacher hears in them alone is soon learned by heart. What it
hears in any other sound is as good a lesson, so clips are made that nobody recorded: one to three
recordings at other speeds, some of them backwards or in bursts, laid over each other. The teacher
hears the clip; the ears mostly hear a copy of it from another room, microphone and codec
(``recording_copies``). Such a clip has no photos, and takes part in nothing else.

They lie in a folder, 500 clips a part, so that an interrupted run goes on where it was::

    mixtures.json              settings
    mixture-000.npy            uint8 [n, 128, 100]: what the ears hear, every half second
    mixture-000-features.npy   float16 [n, FEATURES]: the teacher's features

Source: distillation by function matching (Beyer et al., *Knowledge distillation: A good teacher is
patient and consistent*, 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.core.units import FRAMES_PER_SEGMENT, HOP_SAMPLES, RATE_HZ
from soundsight.data.everyday.folder import Everyday, Sound
from soundsight.data.everyday.sounds import HALF_SECOND, audible, read_sound, starts_of
from soundsight.media.mel import log_mel
from soundsight.training.configs import CopyConfig, MixtureConfig
from soundsight.training.recording_copies import copy_of, rms
from soundsight.training.sound_bank import begin_or_check, write_array
from soundsight.training.teacher import Teacher

CLIP_S = 10
"""Seconds of a clip: its loudest point scales it, as in a recording."""

_CLIPS_A_PART = 500
_ABOUT = "mixtures.json"


class Mixtures:
    """Finished mixtures; :func:`open_mixtures` makes them.

    Args:
        folder: where they are.
        clips: how many clips.

    Raises:
        DataError: when they are damaged.
    """

    def __init__(self, folder: Path, clips: int) -> None:
        parts = range(_parts_of(clips))
        try:
            self._mels = [np.load(_part(folder, p)[0], mmap_mode="r") for p in parts]
            self._features = [np.load(_part(folder, p)[1], mmap_mode="r") for p in parts]
        except (OSError, ValueError) as error:
            raise DataError(f"the mixtures in {folder} are damaged: {error}") from error
        self._ends = np.cumsum([len(mels) for mels in self._mels])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def features(self) -> NDArray[np.float16]:
        """Return the teacher's features of all of them: float16 [n, FEATURES]."""
        return np.concatenate(self._features)

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
        """Return seconds, uint8 [m, 128, 100], and their features, float16 [m, FEATURES]."""
        parts = np.searchsorted(self._ends, rows, side="right")
        within = rows - np.concatenate([[0], self._ends])[parts]
        where = list(zip(parts, within, strict=True))
        mels = np.stack([self._mels[part][row] for part, row in where])
        return mels, np.stack([self._features[part][row] for part, row in where])


def open_mixtures(
    folder: Path,
    everyday: Everyday,
    sounds: Sequence[Sound],
    teacher: Callable[[], Teacher],
    config: MixtureConfig,
    copy: CopyConfig,
    *,
    about: dict[str, str],
    seed: int,
    tell: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> Mixtures:
    """Open the mixtures of some sounds, and make what is not there yet.

    Args:
        folder: where they are kept.
        everyday: where the sounds lie.
        sounds: which are mixed.
        teacher: loads the teacher, where there is something to make.
        config: what they are made of.
        copy: what a copy is made of.
        about: what else they depend on.
        seed: of every draw.
        tell: called with (what, how many done, how many in all).

    Raises:
        ConfigError: when the folder holds mixtures of other settings.
        DataError: when a sound, or what is there, is damaged.
        OutputError: when the folder cannot be written to.
    """
    made_of = {**about, "config": to_dict(config), "copy": to_dict(copy), "seed": seed}
    begin_or_check(folder / _ABOUT, made_of, "clips")
    missing = [p for p in range(_parts_of(config.clips)) if not _part(folder, p)[1].exists()]
    if missing:
        heard = teacher()
        recordings = []
        for number, sound in enumerate(sounds):
            recordings.append(read_sound(everyday.path(sound)))
            tell("sounds read", number + 1, len(sounds))
    for done, part in enumerate(missing):
        made = []
        for clip in range(part * _CLIPS_A_PART, (part + 1) * _CLIPS_A_PART):
            rng = np.random.default_rng((seed, 1, clip))
            made.append(make_clip(recordings, heard, rng, config, copy))
            tell("mixtures heard", done * _CLIPS_A_PART + len(made), len(missing) * _CLIPS_A_PART)
        for path, arrays in zip(_part(folder, part), zip(*made, strict=True), strict=True):
            write_array(path, np.concatenate(arrays))
    return Mixtures(folder, config.clips)


def _parts_of(clips: int) -> int:
    return -(-clips // _CLIPS_A_PART)


def _part(folder: Path, part: int) -> tuple[Path, Path]:
    """Where a part's seconds and its features are."""
    return folder / f"mixture-{part:03d}.npy", folder / f"mixture-{part:03d}-features.npy"


def mixture(
    recordings: list[NDArray[np.float32]], rng: np.random.Generator, config: MixtureConfig
) -> NDArray[np.float32]:
    """Return a clip of ``CLIP_S`` seconds, root mean square 1: float32 [t] at 44.1 kHz."""
    count = 1 + int(rng.choice(3, p=np.array(config.recordings)))
    clip = np.zeros(CLIP_S * RATE_HZ, np.float32)
    for number in range(count):
        part = _stretch(recordings[int(rng.integers(len(recordings)))], rng, config)
        level_db = -rng.uniform(0, 15) if number else 0.0
        clip += part * np.float32(10 ** (level_db / 20))
    return clip / max(rms(clip), 1e-6)


def make_clip(
    recordings: list[NDArray[np.float32]],
    teacher: Teacher,
    rng: np.random.Generator,
    config: MixtureConfig,
    copy: CopyConfig,
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Make one clip; return what the ears hear, and the teacher's features of its audible seconds.

    Returns:
        Log-mels uint8 [n, 128, 100] and features float16 [n, a], every half second.
    """
    clip = mixture(recordings, rng, config)
    heard = clip
    if rng.random() < config.copied:
        # At the same pace and with nothing else behind, so that the features hold for the copy.
        heard = copy_of(clip, clip, rng, replace(copy, pace=0.0, behind=0.0))[: len(clip)]
    levels = log_mel(heard)
    starts = starts_of(min(levels.shape[1], len(clip) // HOP_SAMPLES), HALF_SECOND)
    mels = np.stack([levels[:, start : start + FRAMES_PER_SEGMENT] for start in starts])
    kept = audible(mels)
    return mels[kept], teacher.features(clip, starts[kept] / 100.0, times=1).astype(np.float16)


def _stretch(
    samples: NDArray[np.float32], rng: np.random.Generator, config: MixtureConfig
) -> NDArray[np.float32]:
    """A stretch of a recording, repeated where it is short, root mean square 1: float32 [t]."""
    count = CLIP_S * RATE_HZ
    speed = float(2 ** rng.uniform(-1, 1)) if rng.random() < config.speed else 1.0
    start = int(rng.integers(len(samples)))
    wanted = int(count * speed) + 1
    part = samples[np.arange(start, start + wanted) % len(samples)]
    if speed != 1:
        at = np.arange(count, dtype=np.float32) * np.float32(speed)
        part = np.interp(at, np.arange(wanted, dtype=np.float32), part).astype(np.float32)
    part = part[:count]
    if rng.random() < config.reversed:
        part = part[::-1]
    part = part / max(rms(part), 1e-6)
    return part * _bursts(count, rng) if rng.random() < config.bursts else part


def _bursts(count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """An envelope of bursts at a steady pace, each dying away: float32 [t] in (0, 1]."""
    period = int(rng.uniform(0.1, 1.5) * RATE_HZ)
    fall = rng.uniform(0.1, 1.0) * period
    place = (np.arange(count) + int(rng.integers(period))) % period
    return np.exp(-place / fall).astype(np.float32)
