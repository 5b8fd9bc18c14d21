"""Sounds that are none of a model's subjects, made by arithmetic: what names must not be given to.

A model that must choose among its subjects names everything. The names therefore learn from sounds
that nobody has recorded, too: what these share with real ones is enough to tell "something else".
Every sound is a function of its kind and its number: the same on every machine with the same NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from soundsight.core.config import choose
from soundsight.core.units import RATE_HZ
from soundsight.media.mel import DEFAULT
from soundsight.media.segments import LiveCutter

Samples = NDArray[np.float64]
_Rng = np.random.Generator

_QUIETEST_DBFS, _LOUDEST_DBFS = -45.0, -12.0
_ROOM_DBFS = -72.0
_HEARD_DBFS = -60.0
_HIGHEST_HZ = 16_000.0

# Formants of five vowels, in Hz, as of a man; a child's are higher by half.
_VOWELS_HZ = (
    (730, 1090, 2440),
    (530, 1840, 2480),
    (270, 2290, 3010),
    (570, 840, 2410),
    (300, 870, 2240),
)
_FORMANTS = ((1.0, 90.0), (0.5, 120.0), (0.25, 180.0))  # weight, and width in Hz


def made(kind: str, number: int) -> NDArray[np.float32]:
    """Make a sound of ``KINDS``: float32 [t] at 44.1 kHz, 3 to 7 s, -45 to -12 dBFS."""
    make = choose("kind of other sound", kind, KINDS)
    rng = np.random.default_rng((list(KINDS).index(kind), number, 17))
    pause = np.zeros(RATE_HZ // 2)
    count = int(rng.uniform(2, 6) * RATE_HZ)
    sound = _levelled(make(count, rng), rng.uniform(_QUIETEST_DBFS, _LOUDEST_DBFS))
    whole = np.concatenate([pause, sound, pause])
    whole += _levelled(_coloured(len(whole), 0.5, rng), _ROOM_DBFS)
    return np.clip(whole, -1, 1).astype(np.float32)


def log_mels(kinds: Sequence[str], numbers: range) -> Iterator[NDArray[np.uint8]]:
    """Yield the log-mels, uint8 [128, 100], of every half second of these sounds that is heard."""
    for kind in kinds:
        for number in numbers:
            cutter = LiveCutter(RATE_HZ, DEFAULT, hop_s=0.5)
            for window in cutter.push(made(kind, number)):
                if window.rms_dbfs >= _HEARD_DBFS:
                    yield window.mel


def _noise(count: int, rng: _Rng) -> Samples:
    """Noise of any colour, often of a band, steady, throbbing, swelling or restless."""
    sound = _coloured(count, rng.uniform(0, 1.4), rng)
    if rng.random() < 0.4:
        low_hz = 10 ** rng.uniform(1.5, 3.7)
        sound = _band(sound, low_hz, low_hz * 10 ** rng.uniform(0.2, 1.2))
    t_s = np.arange(count) / RATE_HZ
    choice = rng.random()
    if choice < 0.3:
        return sound * (1 + rng.uniform(0.3, 1) * np.sin(2 * np.pi * rng.uniform(2, 30) * t_s))
    if choice < 0.5:
        return sound * _path(count, rng.permutation(np.array([0.05, 1.0])))
    return sound * _path(count, rng.uniform(0.1, 1, 12)) if choice < 0.6 else sound


def _ticking(count: int, rng: _Rng) -> Samples:
    """Short ringing knocks, regular or not."""
    sound = _hiss(count, rng, -4, -2)
    knock = int(0.3 * RATE_HZ)
    t_s = np.arange(knock) / RATE_HZ
    knocks = []
    for _ in range(2):
        parts = [
            rng.uniform(0.2, 1)
            * np.sin(2 * np.pi * 10 ** rng.uniform(2.7, 4.1) * t_s)
            * np.exp(-t_s / 10 ** rng.uniform(-3, -1.5))
            for _ in range(rng.integers(1, 5))
        ]
        knocks.append(np.sum(parts, axis=0))
    period_s, regular = rng.uniform(0.12, 1.2), rng.random() < 0.6
    at_s = rng.uniform(0, period_s)
    turn = 0
    while at_s * RATE_HZ < count - 1:
        _add(sound, knocks[turn % 2] * rng.uniform(0.6, 1), at_s)
        at_s += period_s * (rng.uniform(0.98, 1.02) if regular else rng.exponential() + 0.02)
        turn += 1
    return sound


def _crackling(count: int, rng: _Rng) -> Samples:
    """Many short bursts over a rumble."""
    sound = _coloured(count, rng.uniform(0.5, 1.2), rng) * 10 ** rng.uniform(-2, -0.5)
    rate_hz = 10 ** rng.uniform(0.5, 2)
    for _ in range(rng.poisson(rate_hz * count / RATE_HZ)):
        length = int(RATE_HZ * 10 ** rng.uniform(-3, -1.8))
        burst = rng.standard_normal(length) * np.exp(-4 * np.arange(length) / length)
        _add(sound, burst * rng.lognormal(0, 0.8), rng.uniform(0, count / RATE_HZ))
    return sound


def _engine(count: int, rng: _Rng) -> Samples:
    """A low harmonic sound whose pitch wanders, in noise."""
    f0_hz = 10 ** rng.uniform(1.6, 2.6) * (1 + 0.15 * _path(count, rng.standard_normal(8)))
    slope = rng.uniform(0.3, 1.5)
    sound = _harmonics(f0_hz, [h**-slope for h in range(1, 40)], rng)
    return sound + _coloured(count, 0.5, rng) * rng.uniform(0.05, 1) * sound.std()


def _calls(count: int, rng: _Rng) -> Samples:
    """Harmonic calls of any pitch and contour, with pauses."""
    sound = _hiss(count, rng, -3, -1.5)
    at_s = rng.uniform(0, 0.3)
    while at_s < count / RATE_HZ - 0.15:
        length_s = rng.uniform(0.08, 1.2)
        length = int(length_s * RATE_HZ)
        f0_hz = 10 ** rng.uniform(2.2, 3.4) * _path(length, rng.uniform(0.7, 1.5, 5))
        slope = rng.uniform(0.2, 1.5)
        weights = [rng.uniform(0.1, 1) * h**-slope for h in range(1, int(rng.integers(2, 14)))]
        swell = np.sqrt(np.sin(np.pi * np.linspace(0, 1, length)))
        _add(sound, _harmonics(f0_hz, weights, rng) * swell, at_s)
        at_s += length_s + rng.exponential(0.5)
    return sound


def _bangs(count: int, rng: _Rng) -> Samples:
    """Bursts of noise, sudden or not, with pauses."""
    sound = _hiss(count, rng, -3, -1.5)
    at_s = rng.uniform(0, 1)
    while at_s < count / RATE_HZ - 0.1:
        length = int(rng.uniform(0.05, 0.5) * RATE_HZ)
        attack = np.minimum(1, np.arange(length) / (RATE_HZ * 10 ** rng.uniform(-3, -1)))
        decay = np.exp(-rng.uniform(1, 5) * np.arange(length) / length)
        _add(sound, _noise(length, rng) * attack * decay, at_s)
        at_s += rng.uniform(0.3, 2)
    return sound


def _tones(count: int, rng: _Rng) -> Samples:
    """A few sine tones that come and go."""
    sound = _hiss(count, rng, -3, -1.5)
    t_s = np.arange(count) / RATE_HZ
    for _ in range(rng.integers(1, 6)):
        tone = np.sin(2 * np.pi * 10 ** rng.uniform(2, 3.8) * t_s)
        sound += rng.uniform(0.2, 1) * tone * _path(count, rng.uniform(0, 1, 10))
    return sound


def _babble(count: int, rng: _Rng) -> Samples:
    """A voice that says nothing: syllables of vowels between hisses, with a melody and pauses."""
    sound = _hiss(count, rng, -4, -2)
    pitch_hz = 10 ** rng.uniform(1.9, 2.45)
    size = rng.uniform(0.95, 1.3) * (pitch_hz / 130) ** 0.2
    pace_s = rng.uniform(0.09, 0.2)
    at_s = rng.uniform(0, 0.3)
    vowel = _VOWELS_HZ[rng.integers(5)]
    while at_s < count / RATE_HZ - 0.2:
        if rng.random() < 0.12:
            at_s += rng.uniform(0.15, 0.6)
        if rng.random() < 0.6:
            length_s = rng.uniform(0.03, 0.12)
            low_hz = rng.choice([800.0, 2000.0, 3500.0])
            hiss = _band(rng.standard_normal(int(length_s * RATE_HZ)), low_hz, 2.5 * low_hz)
            _add(sound, hiss * rng.uniform(0.05, 0.3) / (hiss.std() + 1e-9) * 0.3, at_s)
            at_s += length_s * rng.uniform(0.6, 1)
        length_s = pace_s * rng.uniform(0.6, 2)
        length = int(length_s * RATE_HZ)
        following = _VOWELS_HZ[rng.integers(5)]
        f0_hz = pitch_hz * _path(length, rng.uniform(0.85, 1.2, 3))
        _add(sound, _vowel(f0_hz, vowel, following, size, rng), at_s)
        vowel = following
        at_s += length_s
    return sound


def _vowel(
    f0_hz: Samples, first_hz: Sequence[float], last_hz: Sequence[float], size: float, rng: _Rng
) -> Samples:
    """Harmonics under three formants that move from one vowel to another."""
    count = len(f0_hz)
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE_HZ
    along = np.linspace(0, 1, count)
    formants = [size * (a + (b - a) * along) for a, b in zip(first_hz, last_hz, strict=True)]
    sound = np.zeros(count)
    for harmonic in range(1, 40):
        f_hz = harmonic * f0_hz
        if f_hz.max() > 5000:
            break
        gain = sum(
            weight / (1 + ((f_hz - formant) / width) ** 2)
            for formant, (weight, width) in zip(formants, _FORMANTS, strict=True)
        )
        sound += (gain + 0.02) * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi))
    return sound * np.sin(np.pi * along) ** 0.3


KINDS: dict[str, Callable[[int, _Rng], Samples]] = {
    "noise": _noise, "ticking": _ticking, "crackling": _crackling, "engine": _engine,
    "calls": _calls, "bangs": _bangs, "tones": _tones, "babble": _babble,
}  # fmt: skip
"""Name -> its maker: (samples, random numbers) -> float64 [samples] of any level."""


def _coloured(count: int, exponent: float, rng: _Rng) -> Samples:
    """Noise whose amplitude falls with frequency ** exponent from 20 Hz on; rms 1."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    f_hz = np.maximum(np.fft.rfftfreq(count, 1 / RATE_HZ), 20.0)
    sound: Samples = np.fft.irfft(spectrum / f_hz**exponent, count)
    return sound / (sound.std() + 1e-12)


def _hiss(count: int, rng: _Rng, least: float, most: float) -> Samples:
    """Pink noise as a background, of a level of 10 ** (least to most)."""
    return _coloured(count, 0.5, rng) * 10 ** rng.uniform(least, most)


def _band(sound: Samples, low_hz: float, high_hz: float) -> Samples:
    """What lies between two frequencies, with edges of an octave or so."""
    f_hz = np.maximum(np.fft.rfftfreq(len(sound), 1 / RATE_HZ), 1.0)
    gain = 1 / np.sqrt((1 + (low_hz / f_hz) ** 4) * (1 + (f_hz / high_hz) ** 4))
    filtered: Samples = np.fft.irfft(np.fft.rfft(sound) * gain, len(sound))
    return filtered


def _path(count: int, points: NDArray[np.float64]) -> Samples:
    """A line through evenly spaced points: [count]."""
    return np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(points)), points)


def _harmonics(f0_hz: Samples, weights: Sequence[float], rng: _Rng) -> Samples:
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE_HZ
    sound = np.zeros(len(f0_hz))
    for harmonic, weight in enumerate(weights, start=1):
        if harmonic * f0_hz.max() > _HIGHEST_HZ:
            break
        sound += weight * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi))
    return sound


def _add(sound: Samples, part: Samples, at_s: float) -> None:
    first = int(at_s * RATE_HZ)
    length = min(len(part), len(sound) - first)
    if length > 0:
        sound[first : first + length] += part[:length]


def _levelled(sound: Samples, dbfs: float) -> Samples:
    level = float(np.sqrt(np.square(sound).mean()))
    return sound * (10 ** (dbfs / 20) / max(level, 1e-12))
