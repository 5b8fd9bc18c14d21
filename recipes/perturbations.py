"""What happens to recordings before a program reads them: damage and changes, written as files.

Each perturbation writes a mono recording as a file: softer, louder than full scale, through a
codec, at a lower rate, in several channels, in a room, in noise. The program itself reads the
files, so its own reading is measured, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from soundsight.core.units import RATE_HZ

Samples = NDArray[np.float32]
"""float32 [t] at 44,100 Hz, or [t, channels]; full scale 1."""

Make = Callable[[Samples, np.random.Generator], Samples]
Save = Callable[[Samples, Path], Path]


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One of them.

    Attributes:
        make: changes the samples.
        save: writes them; told a path without a suffix, it returns the file's.
    """

    make: Make
    save: Save

    def write(self, samples: Samples, rng: np.random.Generator, stem: Path) -> Path:
        """Write a recording, mono float32 [t] at 44,100 Hz; return the file."""
        return self.save(self.make(samples, rng), stem)


# --- what is made of the samples -----------------------------------------------------------------


def untouched(samples: Samples, rng: np.random.Generator) -> Samples:
    """Change nothing."""
    del rng
    return samples


def telephone(samples: Samples, rng: np.random.Generator) -> Samples:
    """Keep 300 to 3,400 Hz."""
    del rng
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    spectrum[(hz < 300) | (hz > 3400)] = 0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


def room(samples: Samples, rng: np.random.Generator, decay_s: float = 0.6) -> Samples:
    """A direct sound and an exponential tail of noise that falls by 60 dB in ``decay_s``."""
    t = np.arange(int(decay_s * RATE_HZ)) / RATE_HZ
    tail = rng.normal(size=len(t)) * 10 ** (-3 * t / decay_s)
    tail *= 0.7 / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    size = len(samples) + len(tail)
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)
    return wet[: len(samples)].astype(np.float32)


def noise(samples: Samples, rng: np.random.Generator, below_db: float = 10.0) -> Samples:
    """White noise so far below the recording's root mean square."""
    level = _rms(samples) * 10 ** (-below_db / 20)
    return (samples + level * rng.normal(size=len(samples))).astype(np.float32)


def _gain(samples: Samples, rng: np.random.Generator, gain_db: float) -> Samples:
    del rng
    return samples * np.float32(10 ** (gain_db / 20))


def _clipped(samples: Samples, rng: np.random.Generator, at_db: float) -> Samples:
    """Cut off what is above so many decibels below the peak, and bring it to the peak again."""
    del rng
    peak = np.abs(samples).max()
    limit = peak * np.float32(10 ** (at_db / 20))
    return np.clip(samples, -limit, limit) * (peak / max(limit, np.float32(1e-9)))


def _hum(samples: Samples, rng: np.random.Generator, below_db: float) -> Samples:
    """50 Hz and seven harmonics, the amplitude falling with their number."""
    t = np.arange(len(samples)) / RATE_HZ
    phases = rng.uniform(0, 2 * np.pi, 8)
    tone = sum(np.sin(2 * np.pi * 50 * k * t + phases[k - 1]) / k for k in range(1, 9))
    tone = np.asarray(tone) * _rms(samples) * 10 ** (-below_db / 20) / _rms(np.asarray(tone))
    return (samples + tone).astype(np.float32)


def _offset(samples: Samples, rng: np.random.Generator, by: float) -> Samples:
    del rng
    return samples + np.float32(by)


def _clicks(samples: Samples, rng: np.random.Generator, a_second: float) -> Samples:
    """Single samples near full scale, at random moments."""
    out = samples.copy()
    count = max(1, round(a_second * len(samples) / RATE_HZ))
    out[rng.integers(0, len(samples), count)] += rng.choice(
        np.array([-0.8, 0.8], np.float32), count
    )
    return out


def _delayed(samples: Samples, rng: np.random.Generator, by_ms: float) -> Samples:
    """Two microphones apart: the right channel later."""
    del rng
    late = round(by_ms * RATE_HZ / 1000)
    right = np.concatenate([np.zeros(late, np.float32), samples])[: len(samples)]
    return np.stack([samples, right], axis=1)


def _opposite(samples: Samples, rng: np.random.Generator) -> Samples:
    """A channel wired the wrong way round."""
    del rng
    return np.stack([samples, -samples], axis=1)


def _ambisonic(samples: Samples, rng: np.random.Generator, azimuth_deg: float) -> Samples:
    """First order, AmbiX: W, Y, Z, X of a source at an angle on the horizon (SN3D)."""
    del rng
    angle = np.deg2rad(azimuth_deg)
    gains = np.array([1.0, np.sin(angle), 0.0, np.cos(angle)], np.float32)
    return samples[:, None] * gains


def _one_of(samples: Samples, rng: np.random.Generator, channels: int, live: int) -> Samples:
    """Silence in all channels but one."""
    del rng
    out = np.zeros((len(samples), channels), np.float32)
    out[:, live] = samples
    return out


def _rms(samples: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


# --- files ---------------------------------------------------------------------------------------


def wav(samples: Samples, stem: Path, rate_hz: int = RATE_HZ) -> Path:
    """16 bit; what passes full scale is cut off, as a recorder does."""
    if rate_hz != RATE_HZ:
        samples = soxr.resample(samples, RATE_HZ, rate_hz)
    path = stem.with_suffix(".wav")
    soundfile.write(path, np.clip(samples, -1, 1), rate_hz, subtype="PCM_16")
    return path


def flac(samples: Samples, stem: Path) -> Path:
    """16 bit; six channels are 5.1: front left and right, centre, bass, back left and right."""
    path = stem.with_suffix(".flac")
    soundfile.write(path, np.clip(samples, -1, 1), RATE_HZ, subtype="PCM_16")
    return path


def mp3(samples: Samples, stem: Path, kbps: int = 64) -> Path:
    """Mono, at a constant rate."""
    return _coded(samples, stem.with_suffix(".mp3"), "libmp3lame", RATE_HZ, 1152, kbps)


def opus(samples: Samples, stem: Path, kbps: int) -> Path:
    """Mono, in Ogg, 48 kHz, as messengers and calls send it."""
    return _coded(samples, stem.with_suffix(".opus"), "libopus", 48_000, 960, kbps)


def _coded(
    samples: Samples, path: Path, codec: str, rate_hz: int, frame_size: int, kbps: int
) -> Path:
    with av.open(str(path), "w") as target:
        stream: Any = target.add_stream(codec, rate=rate_hz, layout="mono")
        stream.bit_rate = 1000 * kbps
        cutter = av.AudioResampler(
            format=stream.codec_context.format or "s16", layout="mono", rate=rate_hz,
            frame_size=frame_size,
        )  # fmt: skip
        limited = np.ascontiguousarray(np.clip(samples, -1, 1))[None]
        frame = av.AudioFrame.from_ndarray(limited, format="flt", layout="mono")
        frame.sample_rate, frame.pts = RATE_HZ, 0
        for given in (frame, None):
            for piece in cutter.resample(given):
                target.mux(stream.encode(piece))
        target.mux(stream.encode(None))
    return path


def _as(make: Make, save: Save = wav) -> Perturbation:
    return Perturbation(make=make, save=save)


PERTURBATIONS: dict[str, Perturbation] = {
    "as it is, 16 bit": _as(untouched),
    "-20 dB": _as(partial(_gain, gain_db=-20)),
    "-40 dB": _as(partial(_gain, gain_db=-40)),
    "+12 dB, cut off at full scale": _as(partial(_gain, gain_db=12)),
    "hard clipping, 20 dB below the peak": _as(partial(_clipped, at_db=-20)),
    **{f"mp3, {k} kb/s": _as(untouched, partial(mp3, kbps=k)) for k in (128, 64, 32)},
    **{f"opus, {k} kb/s": _as(untouched, partial(opus, kbps=k)) for k in (64, 24, 12)},
    "recorded at 16 kHz": _as(untouched, partial(wav, rate_hz=16_000)),
    "recorded at 8 kHz": _as(untouched, partial(wav, rate_hz=8_000)),
    "telephone, 300 to 3,400 Hz": _as(telephone),
    **{
        f"two channels {ms:g} ms apart": _as(partial(_delayed, by_ms=ms))
        for ms in (0.2, 0.5, 1, 2, 5)
    },
    "two channels in opposite phase": _as(_opposite),
    "ambisonics, source at 45 degrees": _as(partial(_ambisonic, azimuth_deg=45)),
    "ambisonics, source at 270 degrees": _as(partial(_ambisonic, azimuth_deg=270)),
    "5.1, the centre alone": _as(partial(_one_of, channels=6, live=2), flac),
    "5.1, back left alone": _as(partial(_one_of, channels=6, live=4), flac),
    "room, .6 s": _as(room),
    "room, 1.5 s": _as(partial(room, decay_s=1.5)),
    **{f"noise at {db} dB": _as(partial(noise, below_db=db)) for db in (20, 10, 5)},
    "hum at 10 dB (50 Hz and harmonics)": _as(partial(_hum, below_db=10)),
    "offset of .1": _as(partial(_offset, by=0.1)),
    "5 clicks a second": _as(partial(_clicks, a_second=5)),
}
