"""The log-mel against an independent reference, and its scaling."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

from soundsight.core.errors import AudioError, ConfigError
from soundsight.media import mel
from soundsight.media.mel import MelConfig

RATE_HZ = 44_100


def sine(f_hz: float, seconds: float, level: float = 1.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * f_hz * t)).astype(np.float32)


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


def reference_unit(samples: np.ndarray) -> np.ndarray:
    """scipy's STFT in float64, triangles written band by band, decibels below the maximum."""
    x = np.pad(samples.astype(np.float64), 1024, mode="reflect")
    _, _, z = scipy.signal.stft(
        x, RATE_HZ, scipy.signal.get_window("hann", 2048), 2048, 2048 - 441,
        boundary=None, padded=False, scaling="spectrum",
    )  # fmt: skip
    power = np.abs(z[:, : len(samples) // 441]) ** 2

    def to_hz(m: float) -> float:
        return m * 200 / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27)

    top = 15 + 27 * np.log(11.025) / np.log(6.4)
    edges = [to_hz(top * i / 129) for i in range(130)]
    f = np.arange(1025) * RATE_HZ / 2048
    rows = []
    for low, mid, high in zip(edges, edges[1:], edges[2:], strict=False):
        triangle = np.interp(f, [low, mid, high], [0, 1, 0], left=0, right=0)
        rows.append(triangle * 2 / (high - low) @ power)
    db = 10 * np.log10(np.maximum(np.array(rows[::-1]), 1e-30))
    return np.clip((db - db.max() + 50) / 50, 0, 1)


def music(seconds: float, seed: int = 3) -> np.ndarray:
    """Tones over noise whose loudness changes: 60 dB and more between its parts."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    x = sum(np.sin(2 * np.pi * f * t * (1 + 0.01 * t)) for f in (110, 450, 1800, 7000))
    x = 0.1 * x + 0.02 * rng.standard_normal(len(t))
    return (x * 10 ** (-1.5 - 1.5 * np.cos(2 * np.pi * 0.4 * t))).astype(np.float32)


@pytest.mark.parametrize("seconds", [1.0, 2.37, 10.0])
@pytest.mark.parametrize("source", [noise, music])
def test_equals_an_independent_reference(source, seconds: float) -> None:
    samples = source(seconds)
    db = mel.mel_db(samples)
    assert db.shape == (128, len(samples) // 441)
    assert db.dtype == np.float32
    ours = np.clip((db - db.max() + 50) / 50, 0, 1)
    assert np.abs(ours - reference_unit(samples)).max() < 1e-4
    levels = mel.log_mel(samples)
    assert levels.dtype == np.uint8
    assert np.abs(levels - 255 * ours).max() < 0.501
    assert levels.max() == 255


def test_weights_equal_librosas() -> None:
    librosa = pytest.importorskip("librosa")
    theirs = librosa.filters.mel(sr=RATE_HZ, n_fft=2048, n_mels=128, fmax=11_025, dtype=np.float64)
    np.testing.assert_allclose(mel.mel_weights()[::-1], theirs, rtol=1e-9, atol=1e-12)


def test_mel_scale_is_slaneys_and_inverts() -> None:
    assert mel.hz_to_mel(1000.0) == pytest.approx(15)
    assert mel.hz_to_mel(6400.0) == pytest.approx(42)
    f = np.array([0.0, 10, 999, 1000, 1001, 22_050])
    np.testing.assert_allclose(mel.mel_to_hz(mel.hz_to_mel(f)), f, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 440, 441, 900, 1024, 1025, 2048, 44_099])
def test_clips_shorter_than_a_window_are_mirrored(count: int) -> None:
    db = mel.mel_db(noise(1.0)[:count])
    assert db.shape == (128, count // 441)
    assert np.isfinite(db).all()


def test_the_edges_are_mirrored_not_silent() -> None:
    levels = mel.log_mel(noise(1.0)).astype(int)
    assert levels.shape == (128, MelConfig().segment_frames) == (128, 100)
    inner = levels[:, 20:80].mean()
    assert abs(levels[:, 0].mean() - inner) < 12
    assert abs(levels[:, 99].mean() - inner) < 12


def test_row_0_is_the_highest_band() -> None:
    high = mel.log_mel(sine(9_000, 1.0)).mean(axis=1)
    low = mel.log_mel(sine(200, 1.0)).mean(axis=1)
    assert high.argmax() < 20
    assert low.argmax() > 115
    edges = mel.mel_to_hz(np.linspace(0, float(mel.hz_to_mel(11_025)), 130))
    row = mel.log_mel(sine(float(edges[41]), 1.0)).mean(axis=1).argmax()
    assert row == 127 - 40


def test_decibels_are_absolute() -> None:
    """A full-scale sine below 1 kHz reads about 0 dB, and 20 dB less is 20 dB less."""
    loud, soft = mel.mel_db(sine(500, 1.0)), mel.mel_db(sine(500, 1.0, 0.1))
    assert loud[:, 50].max() == pytest.approx(0, abs=2)
    assert loud[:, 50].max() - soft[:, 50].max() == pytest.approx(20, abs=1e-3)


def test_silence_and_near_silence_are_black() -> None:
    assert not mel.log_mel(np.zeros(RATE_HZ, np.float32)).any()
    assert mel.mel_db(np.zeros(RATE_HZ, np.float32)).max() == pytest.approx(-200, abs=1e-3)
    rng = np.random.default_rng(0)
    dither = (np.rint(0.5 * rng.standard_normal(RATE_HZ)) / 32768).astype(np.float32)
    assert dither.any()
    assert mel.log_mel(dither).mean() < 8
    # Above the floor the loudest point is white whatever the level.
    assert mel.log_mel(noise(1.0, 0.01)).max() == 255


def test_a_constant_sound_gives_equal_frames() -> None:
    levels = mel.log_mel(np.full(RATE_HZ, 0.5, np.float32))
    assert (levels == levels[:, :1]).all()
    assert levels[:120].max() == 0  # nothing but the lowest bands


def test_levels_round_and_clip() -> None:
    db = np.array([-100.0, -50.0, -25.0, 0.0, 3.0])
    np.testing.assert_array_equal(mel.to_levels(db, 0.0), [0, 0, 128, 255, 255])
    # A peak under the floor counts as the floor (-60 dB).
    np.testing.assert_array_equal(mel.to_levels(np.array([-60.0, -85.0]), -90.0), [255, 128])


def test_long_clips_agree_with_the_running_maximum_written_out() -> None:
    clip = music(13.3)
    db = mel.mel_db(clip)
    levels = mel.log_mel(clip)
    assert levels.shape == (128, 1330)
    for first in range(0, 1330, 100):
        end = min(first + 100, 1330)
        peak = float(db[:, max(0, end - 1000) : end].max())
        np.testing.assert_array_equal(levels[:, first:end], mel.to_levels(db[:, first:end], peak))


def test_no_sound_is_an_error() -> None:
    for samples in (np.zeros(0, np.float32), np.zeros((2, 44_100), np.float32)):
        for call in (mel.log_mel, mel.mel_db):
            with pytest.raises(AudioError):
                call(samples)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate_hz": 0}, {"window_samples": 2047}, {"hop_samples": 440}, {"n_mels": 0},
        {"f_max_hz": 30_000.0}, {"f_min_hz": -1.0}, {"range_db": 0.0},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_errors(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MelConfig(**wrong)


def test_other_settings_work() -> None:
    config = MelConfig(
        rate_hz=16_000, window_samples=512, hop_samples=160, n_mels=100, f_min_hz=50, f_max_hz=8000
    )
    levels = mel.log_mel(noise(1.0)[:32_000], config)
    assert levels.shape == (100, 200)
    assert levels.max() == 255
