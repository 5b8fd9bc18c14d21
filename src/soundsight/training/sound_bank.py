"""The seconds that ears are trained on, on disk: clean, and in copies from other rooms.

Made once, so that a step of training costs only the network. A folder::

    bank.json        seed, config, which sounds
    seconds.npz      of which sound each second is, and where it begins
    copy-000.npy     uint8 [n, 128, 100]: the seconds as they are
    copy-001.npy ..  the same seconds of copies of the recordings (:func:`copy_of`)

A copy is the recording as another room, microphone and coding would have given it: a network would
learn the source (level, band, noise floor, room, coding) in place of the sound. Its seconds begin
up to a quarter of a second earlier or later than the clean ones.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import next_fast_len

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.core.files import atomic_file
from soundsight.core.units import FRAMES_PER_SEGMENT, N_MELS, RATE_HZ
from soundsight.data.everyday.folder import Everyday, Sound
from soundsight.data.everyday.sounds import HALF_SECOND, Seconds, audible, read_sound
from soundsight.media.mel import log_mel
from soundsight.media.segments import pad_to_seconds, slices
from soundsight.training.configs import BankConfig, CopyConfig
from soundsight.training.kept import Tell, begin_or_check, tell_nothing, write_array

Samples = NDArray[np.float32]

_INDEX = "seconds.npz"


class SoundBank:
    """The bank of the train sounds: of all kinds, and others.

    What is not there yet is made; interrupted, the same call goes on with the copy that it was at.

    Attributes:
        sounds: the sounds.
        sound: of which sound each second is, int64 [n].
        first: where each second begins in its sound, int64 [n], in frames of 10 ms.
        copies: copies of every second, the clean one not counted.

    Raises:
        ConfigError: when the folder holds another bank.
        DataError: when a sound is damaged, or the bank is.
        OutputError: when it cannot be written to.
    """

    def __init__(
        self, folder: Path, everyday: Everyday, config: BankConfig, tell: Tell = tell_nothing
    ) -> None:
        self.sounds = everyday.sounds("train") + everyday.others("train")
        self.copies = config.copies
        names = "".join(f"{s.recording} {s.file}\n" for s in self.sounds)
        about = {"config": to_dict(config), "sounds": hashlib.sha256(names.encode()).hexdigest()}
        begin_or_check(folder / "bank.json", about, "copies")
        missing = [c for c in range(config.copies + 1) if not _copy(folder, c).exists()]
        if missing or not (folder / _INDEX).exists():
            samples = read_all(everyday, self.sounds, tell)
            sound, first = _make_clean(folder, samples)
            for copy in missing:
                if copy:
                    _make_copy(folder, copy, samples, sound, first, config, tell)
        try:
            with np.load(folder / _INDEX) as index:
                self.sound, self.first = index["sound"], index["first"]
            self._copies = [
                np.load(_copy(folder, c), mmap_mode="r") for c in range(1 + self.copies)
            ]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"the sound bank {folder} is damaged: {error}") from error

    def __len__(self) -> int:
        return len(self.sound)

    def seconds(self) -> Seconds:
        """Return the clean seconds, and of which sounds they are."""
        return Seconds(mels=self._copies[0], sound=self.sound, first=self.first, sounds=self.sounds)

    def take(self, rows: NDArray[np.int64], copies: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return seconds, each in the copy that is named (0: clean): uint8 [n, 128, 100]."""
        return np.stack([self._copies[c][r] for r, c in zip(rows, copies, strict=True)])


def read_all(everyday: Everyday, sounds: Sequence[Sound], tell: Tell) -> list[Samples]:
    """Return whole sounds, float32 [t] mono at 44.1 kHz each."""
    samples = []
    for number, one in enumerate(sounds):
        samples.append(read_sound(everyday.path(one)))
        tell("sounds read", number + 1, len(sounds))
    return samples


def _copy(folder: Path, copy: int) -> Path:
    return folder / f"copy-{copy:03d}.npy"


def _make_clean(
    folder: Path, samples: Sequence[Samples]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write the clean seconds that can be heard, every half second; return which they are."""
    each = [slices(log_mel(one), HALF_SECOND) for one in samples]
    mels = np.concatenate(each)
    kept = audible(mels)
    counts = [len(seconds) for seconds in each]
    sound = np.repeat(np.arange(len(samples)), counts)[kept]
    first = np.concatenate([HALF_SECOND * np.arange(count) for count in counts])[kept]
    write_array(_copy(folder, 0), mels[kept])
    with atomic_file(folder / _INDEX) as temporary, temporary.open("wb") as file:
        np.savez(file, sound=sound, first=first)
    return sound, first


def _make_copy(
    folder: Path,
    copy: int,
    samples: Sequence[Samples],
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


def copy_of(
    samples: Samples, behind: Samples, rng: np.random.Generator, config: CopyConfig
) -> Samples:
    """Return a copy of a recording, float32 [t] mono at 44.1 kHz, about as long.

    ``behind`` is another recording, which may sound behind it.
    """

    import soxr

    def chosen(share: float) -> bool:
        return bool(rng.random() < share)

    sound = samples
    if chosen(config.pace):
        sound = soxr.resample(sound, RATE_HZ, round(RATE_HZ * float(rng.uniform(0.9, 1.1))))
    sound = sound / max(rms(sound), 1e-6)
    if chosen(config.behind):
        # Both have a root mean square of 1; the piece begins anywhere.
        start = int(rng.integers(len(behind)))
        repeated = np.resize(np.roll(behind, -start), len(sound))
        level = 10 ** (-rng.uniform(6, 26) / 20) / max(rms(repeated), 1e-6)
        sound = sound + repeated * np.float32(level)
    size, gain = _band_and_curve(len(sound), rng, config)
    if chosen(config.room):
        sound = _in_room(sound, rng)
    if chosen(config.noise):
        sound = sound + _noise(len(sound), rng)
    sound = np.fft.irfft(np.fft.rfft(sound, size) * gain, size)[: len(sound)].astype(np.float32)
    peak = max(float(np.abs(sound).max()), 1e-6)
    sound = sound * np.float32(10 ** rng.uniform(-1.5, -0.02) / peak)
    if chosen(config.clipped):
        sound = sound / max(float(np.abs(sound).max()), 1e-6) * np.float32(rng.uniform(1.5, 6))
        sound = np.clip(sound, -1, 1)
    if chosen(config.coarse):
        steps = np.float32(2 ** rng.uniform(5, 9))
        loudest = max(float(np.abs(sound).max()), 1e-6)
        sound = np.rint(sound / loudest * steps) / steps * loudest
    if chosen(config.codec):
        sound = through_codec(sound, rng)
    if chosen(config.offset):
        sound = sound + np.float32(rng.uniform(-0.1, 0.1))
    return np.ascontiguousarray(sound, np.float32)


def through_jpeg(mel: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return what JPEG of a quality (1 .. 95) makes of a log-mel, uint8 [128, 100]."""
    stream = io.BytesIO()
    Image.fromarray(mel).save(stream, format="JPEG", quality=quality)
    with Image.open(stream) as picture:
        return np.asarray(picture, np.uint8)


def through_codec(samples: Samples, rng: np.random.Generator) -> Samples:
    """Return what MP3 or Opus, at a rate and a bit rate that are drawn, makes of samples [t]."""
    import soxr

    from soundsight.media.container import quiet_av

    codec = str(rng.choice(["libmp3lame", "libopus"]))
    rates = (16_000, 22_050, 32_000, 44_100) if codec == "libmp3lame" else (8_000, 16_000, 48_000)
    rate = int(rng.choice(rates))
    bit_rate = int(rng.choice([24_000, 32_000, 48_000, 64_000]))
    av = quiet_av()
    coded = soxr.resample(samples, RATE_HZ, rate)
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp3" if codec == "libmp3lame" else "ogg") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(
            np.clip(coded, -1, 1).astype(np.float32)[None], format="fltp", layout="mono"
        )
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    memory.seek(0)
    with av.open(memory) as container:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE_HZ)
        parts = [
            out.to_ndarray()[0]
            for frame in container.decode(audio=0)
            for out in resampler.resample(frame)
        ]
    decoded = np.concatenate(parts) if parts else np.zeros(1, np.float32)
    # A codec may begin with a little silence of its own and end with some.
    kept = np.zeros(len(samples), np.float32)
    kept[: len(decoded)] = decoded[: len(samples)]
    return kept


def rms(samples: Samples) -> float:
    """Return the root mean square of samples [t]; 0 of none."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float32)))) if len(samples) else 0.0


def _noise(count: int, rng: np.random.Generator) -> Samples:
    """Noise whose power falls with frequency, 3 to 40 dB under a root mean square of 1."""
    noise: Samples = rng.standard_normal(count, dtype=np.float32)
    slope = np.float32(rng.uniform(0, 0.98))
    if slope > 0.3:
        size = next_fast_len(count)
        spectrum = np.fft.rfft(noise, size)
        curve = np.arange(1, size // 2 + 2, dtype=np.float32) / size + np.float32(2e-3)
        noise = np.asarray(np.fft.irfft(spectrum * curve**-slope, size)[:count], np.float32)
    return noise * np.float32(10 ** (-rng.uniform(3, 40) / 20) / max(rms(noise), 1e-6))


def _in_room(sound: Samples, rng: np.random.Generator) -> Samples:
    """Add the decaying noise that a room answers with, -18 to 3 dB against the sound itself."""
    fall_s = rng.uniform(0.1, 0.9)
    count = int(fall_s * RATE_HZ)
    t_s = np.arange(count, dtype=np.float32) / RATE_HZ
    fall = np.exp(-6.9 * t_s / fall_s)
    answer: NDArray[np.floating] = rng.standard_normal(count, dtype=np.float32) * fall
    # High tones die first.
    dull = int(rng.integers(1, 12))
    answer = np.convolve(answer, np.ones(dull, np.float32) / dull)[:count]
    gap = int(rng.uniform(0.001, 0.03) * RATE_HZ)
    level = 10 ** (rng.uniform(-18, 3) / 20) / max(float(np.linalg.norm(answer)), 1e-6)
    whole = np.zeros(gap + count, np.float32)
    whole[gap:] = answer * np.float32(level)
    whole[0] += 1
    size = next_fast_len(len(sound) + len(whole))
    made = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(whole, size), size)
    return made[: len(sound)].astype(np.float32)


def _band_and_curve(
    count: int, rng: np.random.Generator, config: CopyConfig
) -> tuple[int, NDArray[np.float32]]:
    """Draw a filter: the length of its transform, and its gain at each bin."""
    size = next_fast_len(count)
    f_hz = np.arange(size // 2 + 1, dtype=np.float32) * np.float32(RATE_HZ / size)
    gain = np.ones(len(f_hz), np.float32)
    if rng.random() < config.equaliser:
        at = np.linspace(np.log(60), np.log(12_000), 7)
        curve_db = np.interp(np.log(np.maximum(f_hz, 20)), at, rng.normal(0, 6, 7))
        gain *= (10 ** (curve_db / 20)).astype(np.float32)
    if rng.random() < config.low_cut:
        low_hz = np.exp(rng.uniform(np.log(40), np.log(400)))
        gain /= np.sqrt(1 + (low_hz / np.maximum(f_hz, 1)) ** 8)
    draw = rng.random()
    for share, low_hz, high_hz in (
        (config.narrow_8khz, 3_300, 4_000),
        (config.narrow_16khz, 6_500, 8_000),
        (config.narrow_any, 4_500, 10_500),
    ):
        if draw < share:
            end_hz = float(rng.uniform(low_hz, high_hz))
            # As steep as the filter of a converter.
            gain *= np.clip((end_hz - f_hz) / (0.06 * end_hz), 0, 1)
            break
        draw -= share
    return size, gain.astype(np.float32)
