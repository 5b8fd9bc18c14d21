"""Mixing channels: no recording of one source vanishes, however it reaches them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from soundsight.media.downmix import Downmix

RATE_HZ = 44_100


def noise(seconds: float = 2.0, seed: int = 0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Noise whose power falls with frequency, as that of most sounds does."""
    white = np.random.default_rng(seed).normal(0, 1, round(seconds * rate_hz))
    spectrum = np.fft.rfft(white)
    spectrum /= np.maximum(np.arange(len(spectrum)), 20) ** 0.5
    made = np.fft.irfft(spectrum, len(white))
    return (0.1 * made / made.std()).astype(np.float32)


def delayed(samples: np.ndarray, by_s: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    steps = round(by_s * rate_hz)
    return np.concatenate([np.zeros(steps, np.float32), samples[: len(samples) - steps]])


def mixed(channels: list[np.ndarray], rate_hz: int = RATE_HZ) -> np.ndarray:
    mix = Downmix(rate_hz, len(channels))
    return np.concatenate([mix.push(np.stack(channels, axis=1)), mix.finish()])


def bands_db(samples: np.ndarray) -> np.ndarray:
    """Level of each third of an octave from 100 Hz to 10 kHz."""
    power = np.square(np.abs(np.fft.rfft(samples)))
    f_hz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    edges = itertools.pairwise(100 * 2 ** (np.arange(21) / 3))
    return 10 * np.log10([power[(f_hz >= low) & (f_hz < high)].sum() for low, high in edges])


def peaks(samples: np.ndarray, *pitches_hz: int) -> list[float]:
    """Amplitude of tones of whole hertz in the first second."""
    spectrum = np.abs(np.fft.rfft(samples[:RATE_HZ] * np.hanning(RATE_HZ))) * 4 / RATE_HZ
    return [spectrum[hz] for hz in pitches_hz]


@pytest.mark.parametrize("rate_hz", [4000, 8000, 16_000, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("channels", [2, 6])
def test_what_is_the_same_in_all_channels_stays_as_it_is(rate_hz: int, channels: int) -> None:
    sound = noise(0.5, rate_hz=rate_hz)
    np.testing.assert_allclose(mixed([sound] * channels, rate_hz), sound, atol=1e-6)


def test_one_channel_and_opposite_phase() -> None:
    sound = noise()
    np.testing.assert_array_equal(mixed([sound]), sound)
    np.testing.assert_allclose(mixed([sound, -sound]), sound, atol=1e-6)
    np.testing.assert_allclose(mixed([-sound, sound, -sound]), -sound, atol=1e-6)
    for scale in (1e-9, 1e6):
        scaled = sound * np.float32(scale)
        np.testing.assert_allclose(mixed([scaled, -scaled]), scaled, atol=1e-5 * scale)
    for length in (0, 1, 100, 1024, 2048, 2049):
        short = sound[:length]
        np.testing.assert_allclose(mixed([short, -short]), short, atol=1e-6)


@pytest.mark.parametrize("by_ms", [0.2, 0.5, 1, 2, 5])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("gain", [1.0, 0.7])
def test_a_delay_combs_nothing_out(by_ms: float, sign: int, gain: float) -> None:
    sound = noise()
    made = mixed([sound, sign * gain * delayed(sound, by_ms / 1000)])
    assert np.abs(bands_db(made) - bands_db(sound)).max() < 0.5
    # The mean of the channels loses more than 10 dB of some of these bands.
    mean = (sound + delayed(sound, 0.0005)) / 2
    assert np.abs(bands_db(mean) - bands_db(sound)).max() > 10


@pytest.mark.parametrize("live", range(6))
def test_a_sound_in_one_channel_of_six_keeps_its_level(live: int) -> None:
    sound = noise()
    channels = [np.zeros_like(sound)] * 6
    channels[live] = sound
    np.testing.assert_allclose(mixed(channels), sound, atol=1e-6)


@pytest.mark.parametrize("angle", [0, 45, 90, 180, 225])
def test_first_order_ambisonics(angle: float) -> None:
    """W + Y + X in one direction, as the mean has it, is deaf to what lies in the opposite one."""
    sound = noise()
    turn = np.deg2rad(angle)
    made = mixed([sound, np.sin(turn) * sound, 0 * sound, np.cos(turn) * sound])
    assert np.abs(bands_db(made) - bands_db(sound)).max() < 1.5


def test_two_sources_are_both_heard() -> None:
    """Each as loud as in its own channel: two tones alike, or a soft one beside a loud one."""
    t = np.arange(2 * RATE_HZ) / RATE_HZ
    for low_hz, high_hz, loud, soft in ((500, 1700, 0.3, 0.3), (300, 4000, 0.5, 0.005)):
        left, right = loud * np.sin(2 * np.pi * low_hz * t), soft * np.sin(2 * np.pi * high_hz * t)
        made = mixed([left.astype(np.float32), right.astype(np.float32)])
        assert peaks(made, low_hz, high_hz) == pytest.approx(
            [loud, soft], rel=0.05 if loud == soft else 0.1
        )


def test_a_bang_in_one_channel_does_not_silence_the_other() -> None:
    bang, soft = np.zeros(4 * RATE_HZ, np.float32), 0.02 * noise(4)
    bang[RATE_HZ : round(1.3 * RATE_HZ)] = 3 * noise(0.3, seed=1)
    made = mixed([bang, soft])
    for from_s in (0.1, 1.7, 2.5):
        part = slice(round(from_s * RATE_HZ), round((from_s + 0.8) * RATE_HZ))
        assert made[part].std() == pytest.approx(soft[part].std(), rel=0.05)


def test_the_result_does_not_depend_on_how_the_sound_is_cut() -> None:
    left, right = noise(), noise(seed=1)
    right[30_000:60_000] = left[30_000:60_000]  # the same in both for a while
    right[70_000:] = 0
    whole = mixed([left, right])
    assert len(whole) == len(left)
    mix = Downmix(RATE_HZ, 2)
    both = np.stack([left, right], axis=1)
    rng = np.random.default_rng(0)
    for _ in range(2):  # it may be used again
        parts, at = [], 0
        while at < len(both):
            length = int(rng.integers(0, 5000))
            parts.append(mix.push(both[at : at + length]))
            at += length
        parts.append(mix.finish())
        np.testing.assert_array_equal(np.concatenate(parts), whole)
