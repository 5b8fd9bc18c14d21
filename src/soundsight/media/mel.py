"""The one log-mel: a second of sound as a grey picture of 128 bands by 100 frames.

Preparation, training, files and live sound all use this file.

* Frame ``k`` is centred on sample ``k * hop_samples`` of the clip; the clip is mirrored by half a
  window at both ends, so ``t`` samples give ``t // hop_samples`` frames and a lone second exactly
  100.
* Power is summed in Slaney's mel bands (area-normalised triangles). **Row 0 is the highest band.**
* Decibels become levels 0..255 over the ``range_db`` below the loudest point. In a clip of at most
  10.5 s that is the loudest point of the clip; in a longer one, and in a live signal, each second
  is scaled by the loudest point of the 10 s that end with it, so that one bang does not blacken
  the three hours after it.
* A clip shorter than a second is filled up to a second, and so is the last part of a longer clip
  where it has half a second (``segments.filled``); a shorter one is dropped.

Frames are computed in blocks of a quarter of a second that lie on one fixed grid, however the
sound arrives. The whole clip, the stream and the live signal therefore agree to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.errors import AudioError, ConfigError

BLOCKS_PER_SEGMENT = 4
"""Frames are computed a quarter of a second at a time: small enough to stay in the cache."""

_BANDS_PER_GROUP = 32
_POWER_FLOOR = np.float32(1e-20)
_DB_PER_NEPER = np.float32(10.0 / np.log(10.0))


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """Settings of the log-mel. The defaults are calibrated to the published spectrograms.

    ``docs/frontend.md`` has the evidence and the recipe that makes it.

    Attributes:
        rate_hz: sample rate of the sound, in hertz.
        window_samples: length of the periodic Hann window and of the FFT, in samples (even).
        hop_samples: step between frames, in samples; divides a second into frames, and the frames
            into quarters.
        n_mels: number of mel bands.
        f_min_hz: lower edge of the lowest band, in hertz.
        f_max_hz: upper edge of the highest band, in hertz, at most half the rate.
        range_db: decibels between level 0 and level 255.
        floor_db: lowest loudest point, in decibels of ``mel_db``: a clip that is quieter all
            through is scaled as if it reached this level once, so that silence stays black
            instead of becoming a picture of the recorder's noise.
    """

    rate_hz: int = units.RATE_HZ
    window_samples: int = 2048
    hop_samples: int = units.HOP_SAMPLES
    n_mels: int = units.N_MELS
    f_min_hz: float = 0.0
    f_max_hz: float = 11_025.0
    range_db: float = 50.0
    floor_db: float = -60.0

    def __post_init__(self) -> None:
        window, hop, rate_hz = self.window_samples, self.hop_samples, self.rate_hz
        divides = hop >= 1 and rate_hz % (hop * BLOCKS_PER_SEGMENT) == 0
        band = 0 <= self.f_min_hz < self.f_max_hz <= rate_hz / 2
        rules = {
            "rate_hz must be above 0": rate_hz > 0,
            "window_samples must be even and at least 16": window >= 16 and window % 2 == 0,
            "hop_samples must divide rate_hz into a multiple of 4 frames": divides,
            "n_mels must be at least 1": self.n_mels >= 1,
            "0 <= f_min_hz < f_max_hz <= rate_hz / 2 must hold": band,
            "range_db must be above 0": self.range_db > 0,
        }
        for rule, holds in rules.items():
            if not holds:
                raise ConfigError(f"MelConfig: {rule}")

    @property
    def segment_samples(self) -> int:
        """Samples of one segment (one second)."""
        return int(self.rate_hz * units.SEGMENT_S)

    @property
    def segment_frames(self) -> int:
        """Frames of one segment."""
        return self.segment_samples // self.hop_samples

    @property
    def scale_frames(self) -> int:
        """Frames over which the loudest point is looked for (10 s)."""
        return int(units.CLIP_SCALE_S * self.segment_frames / units.SEGMENT_S)

    @property
    def block_frames(self) -> int:
        """Frames that are computed together (a quarter of a second)."""
        return self.segment_frames // BLOCKS_PER_SEGMENT


DEFAULT = MelConfig()


def hz_to_mel(f_hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Slaney's mel scale: linear below 1 kHz (15 mel), logarithmic above (any shape)."""
    f = np.asarray(f_hz, dtype=np.float64)
    log_part = 15.0 + np.log(np.maximum(f, 1000.0) / 1000.0) * (27.0 / np.log(6.4))
    return np.where(f < 1000.0, f * (3.0 / 200.0), log_part)


def mel_to_hz(mel: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Inverse of ``hz_to_mel`` (any shape)."""
    m = np.asarray(mel, dtype=np.float64)
    log_part = 1000.0 * np.exp((np.maximum(m, 15.0) - 15.0) * (np.log(6.4) / 27.0))
    return np.where(m < 15.0, m * (200.0 / 3.0), log_part)


def mel_weights(config: MelConfig = DEFAULT) -> NDArray[np.float64]:
    """Weights of the mel bands over the FFT's bins: float64 [n_mels, window_samples // 2 + 1].

    Row 0 is the highest band. Each band is a triangle between its neighbours' centres with an
    area of 1 over frequency (in 1/Hz).
    """
    lowest, highest = float(hz_to_mel(config.f_min_hz)), float(hz_to_mel(config.f_max_hz))
    edges = mel_to_hz(np.linspace(lowest, highest, config.n_mels + 2))
    bins_hz = np.arange(config.window_samples // 2 + 1) * (config.rate_hz / config.window_samples)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins_hz - low) / (centre - low)
    falling = (high - bins_hz) / (high - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (high - low))
    return np.ascontiguousarray(triangles[::-1])


Bands = list[tuple[slice, slice, NDArray[np.float32]]]


@lru_cache(maxsize=8)
def _bank(config: MelConfig) -> tuple[NDArray[np.float32], Bands]:
    """The window, and the weights of neighbouring bands: (bands, bins that they touch, weights)."""
    n = config.window_samples
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n) / n)
    # What reads 0 dB is a full-scale sine in the middle of a band below 1 kHz: its bin has the
    # power (sum(window) / 2) ** 2 with a sum of n / 2, and the band's peak is 1 / spacing.
    width_mel = float(hz_to_mel(config.f_max_hz) - hz_to_mel(config.f_min_hz))
    spacing_mel = width_mel / (config.n_mels + 1)
    weights = mel_weights(config) / ((n / 4.0) ** 2 / (spacing_mel * 200.0 / 3.0))
    groups = []
    # A triangle touches few bins: groups need a quarter of the products of the whole matrix.
    for first in range(0, config.n_mels, _BANDS_PER_GROUP):
        bands = slice(first, min(first + _BANDS_PER_GROUP, config.n_mels))
        touched = np.flatnonzero(weights[bands].any(axis=0))
        # Bands that are narrower than the bins may touch none; they read the power floor.
        bins = slice(int(touched[0]), int(touched[-1]) + 1) if touched.size else slice(0, 1)
        dense = np.ascontiguousarray(weights[bands, bins].T, dtype=np.float32)
        groups.append((bands, bins, dense))
    return window.astype(np.float32), groups


class Frames:
    """The frames of a sound that arrives in pieces, and the samples that are still needed.

    Attributes:
        samples: float32 [t], those from sample ``origin`` of the sound on.
        total: the sound's length, once it is known: what lies beyond is its mirror image.
        computed: frames so far.
    """

    def __init__(self, config: MelConfig) -> None:
        self._config = config
        self.samples = np.empty(0, np.float32)
        self.origin = 0
        self.total: int | None = None
        self.computed = 0
        self._window, self._groups = _bank(config)
        frames, bins = config.block_frames, config.window_samples // 2 + 1
        self._windowed = np.empty((frames, config.window_samples), np.float32)
        self._spectrum = np.empty((frames, bins), np.complex64)
        self._power = np.empty((frames, bins), np.float32)

    @property
    def end(self) -> int:
        """The number of samples so far."""
        return self.origin + len(self.samples)

    @property
    def known(self) -> int:
        """Frames that see no sample that is still to come; whole blocks of them, if any is."""
        config = self._config
        if self.total is not None:
            return self.end // config.hop_samples
        # Each frame sees half a window more.
        seen = (self.end - config.window_samples // 2) // config.hop_samples + 1
        return max(0, seen // config.block_frames * config.block_frames)

    def append(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples, as a copy: the caller may use its buffer again."""
        self.samples = np.concatenate([self.samples, samples])

    def drop(self, before: int) -> None:
        """Let go of what lies before sample ``before``."""
        if before > self.origin:
            self.samples = self.samples[before - self.origin :].copy()
            self.origin = before

    def span(self, low: int, high: int) -> NDArray[np.float32]:
        """Samples ``low .. high - 1`` of the sound, mirrored at its ends."""
        if self.origin <= low and high <= (self.end if self.total is None else self.total):
            return self.samples[low - self.origin : high - self.origin]
        index = np.abs(np.arange(low, high))
        if self.total is not None:
            period = max(2 * (self.total - 1), 1)
            index %= period
            index = np.where(index >= self.total, period - index, index)
        # Frames that fill the last block without being asked for may lie outside of what is held.
        return self.samples.take(index - self.origin, mode="clip")

    def compute(self) -> NDArray[np.float32]:
        """The next known frames, and those that fill their last block: float32 [n, n_mels], dB."""
        size = self._config.block_frames
        count = max(0, -(-(self.known - self.computed) // size))
        db = np.empty((count * size, self._config.n_mels), np.float32)
        for first in range(0, len(db), size):
            self._block(self.computed + first, db[first : first + size])
        self.computed += len(db)
        return db

    def _block(self, frame: int, out: NDArray[np.float32]) -> None:
        window, hop = self._config.window_samples, self._config.hop_samples
        low = frame * hop - window // 2
        span = self.span(low, low + (len(out) - 1) * hop + window)
        # Overlapping rows of one contiguous stretch; nothing is copied.
        frames: NDArray[np.float32] = np.ndarray(
            (len(out), window), np.float32, span, strides=(4 * hop, 4)
        )
        np.multiply(frames, self._window, out=self._windowed)
        np.fft.rfft(self._windowed, axis=1, out=self._spectrum)  # type: ignore[arg-type]
        # Real and imaginary parts lie side by side: one pass squares both.
        parts = self._spectrum.view(np.float32)
        np.square(parts, out=parts)
        np.add(parts[:, 0::2], parts[:, 1::2], out=self._power)
        for bands, bins, weights in self._groups:
            np.matmul(self._power[:, bins], weights, out=out[:, bands])
        np.maximum(out, _POWER_FLOOR, out=out)
        np.log(out, out=out)
        out *= _DB_PER_NEPER


def one_channel(samples: NDArray[np.floating]) -> NDArray[np.float32]:
    """Samples [t] as float32 in one piece of memory; ``AudioError`` for another shape."""
    block = np.ascontiguousarray(samples, dtype=np.float32)
    if block.ndim != 1:
        raise AudioError(f"one channel of samples is expected, not an array of shape {block.shape}")
    return block


def mel_db(samples: NDArray[np.floating], config: MelConfig = DEFAULT) -> NDArray[np.float32]:
    """Mel power of a clip [t], in absolute decibels: float32 [n_mels, t // hop_samples].

    Row 0 is the highest band; 0 dB is a full-scale sine in the middle of a band below 1 kHz,
    digital silence reads -200 dB. ``AudioError`` when the clip is empty or not one-dimensional.
    """
    frames = Frames(config)
    frames.samples = one_channel(samples)
    frames.total = frames.end
    if not frames.total:
        raise AudioError("there is no sound: the clip has no samples")
    return np.ascontiguousarray(frames.compute()[: frames.known].T)


def to_levels(
    db: NDArray[np.floating], peak_db: float, config: MelConfig = DEFAULT
) -> NDArray[np.uint8]:
    """Map decibels to uint8 levels: 0 is ``range_db`` below the peak or lower, 255 the peak.

    A ``peak_db`` under ``config.floor_db`` counts as ``floor_db`` (any shape).
    """
    bottom = max(float(peak_db), config.floor_db) - config.range_db
    unit = (np.asarray(db, np.float32) - np.float32(bottom)) * np.float32(1.0 / config.range_db)
    # Twice as fast as np.clip.
    unit = np.minimum(np.maximum(unit, np.float32(0)), np.float32(1))
    levels: NDArray[np.uint8] = np.rint(unit * np.float32(255)).astype(np.uint8)
    return levels


def log_mel(samples: NDArray[np.floating], config: MelConfig = DEFAULT) -> NDArray[np.uint8]:
    """Log-mel of a whole clip [t] as grey levels: uint8 [n_mels, t // hop_samples].

    A clip of at most 10.5 s is scaled by its loudest point. In a longer one each second (counted
    from the start) is scaled by the loudest point of the 10 s that end with its last frame.
    ``AudioError`` when it is empty or not one-dimensional.
    """
    db = mel_db(samples, config)
    if is_short(len(samples), config):
        return to_levels(db, float(db.max(initial=config.floor_db)), config)
    levels = np.empty(db.shape, np.uint8)
    for first in range(0, db.shape[1], config.segment_frames):
        last = min(first + config.segment_frames, db.shape[1])
        peak_db = float(db[:, max(0, last - config.scale_frames) : last].max())
        levels[:, first:last] = to_levels(db[:, first:last], peak_db, config)
    return levels


def is_short(samples: int, config: MelConfig = DEFAULT) -> bool:
    """Whether a sound of so many samples is one clip, which is scaled as a whole."""
    return samples <= units.CLIP_MAX_S * config.rate_hz
