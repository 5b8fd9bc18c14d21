"""Live sound: segments that do not depend on how the sound is cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest

from soundsight.core.errors import AudioError, ConfigError
from soundsight.media.mel import DEFAULT
from soundsight.media.segments import LiveCutter, Segment


def sound(seconds: float, rate_hz: int) -> np.ndarray:
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * (200 + 50 * t) * t)).astype(np.float32)


def cut(samples: np.ndarray, rate_hz: int = 44_100, hop_s: float = 0.25) -> list[Segment]:
    cutter = LiveCutter(rate_hz, DEFAULT, hop_s)
    return cutter.push(samples) + cutter.flush()


@pytest.mark.parametrize("rate_hz", [44_100, 48_000, 16_000])
def test_blocks_of_any_size(rate_hz: int) -> None:
    samples = sound(3.0, rate_hz)
    expected = cut(samples, rate_hz)
    assert [segment.start_s for segment in expected] == [0.25 * i for i in range(9)]
    rng = np.random.default_rng(0)
    cutter = LiveCutter(rate_hz, DEFAULT)
    given, at = [], 0
    while at < len(samples):
        step = int(rng.integers(0, 2000))
        given += cutter.push(samples[at : at + step])
        at += step
    given += cutter.flush()
    assert len(given) == len(expected)
    for a, b in zip(given, expected, strict=True):
        # The resampler's state passes every seam.
        assert np.abs(a.mel.astype(int) - b.mel).max() <= 1


def test_a_segment_comes_right_after_its_second() -> None:
    cutter = LiveCutter(44_100, DEFAULT, 1.0)
    samples = sound(2.0, 44_100)
    assert cutter.push(samples[:44_099]) == []
    assert len(cutter.push(samples[44_099 : 44_100 + 2048])) == 1


def test_channels_and_integers() -> None:
    # Several channels are mixed in frames of 46 ms: they come that much later.
    assert len(LiveCutter(44_100, DEFAULT, 1.0).push(np.zeros((92_000, 2), np.int16))) == 2
    levels = np.round(sound(1.2, 44_100) * 32767).astype(np.int16)
    of_levels, of_floats = (cut(samples, hop_s=1.0) for samples in (levels, levels / 32768.0))
    np.testing.assert_array_equal(of_levels[0].mel, of_floats[0].mel)


def test_a_number_of_channels_that_changes_loses_nothing() -> None:
    cutter = LiveCutter(44_100, DEFAULT, 1.0)
    tone = sound(4.0, 44_100)
    segments = []
    for number, first in enumerate(range(0, len(tone), 1411)):
        block = tone[first : first + 1411]
        segments += cutter.push(np.repeat(block[:, None], 2 + number % 2, axis=1))
    segments += cutter.flush()
    assert [s.start_s for s in segments] == [0, 1, 2, 3]


def test_a_bad_block_leaves_the_signal_as_it_was_and_it_can_begin_again() -> None:
    samples = sound(1.5, 48_000)
    cutter = LiveCutter(48_000, DEFAULT)
    segments = cutter.push(samples[:20_000])
    for bad in (np.array([0.0, np.nan], np.float32), np.zeros((2, 2, 2)), np.array(["x"])):
        with pytest.raises(AudioError):
            cutter.push(bad)
    segments += cutter.push(samples[20_000:]) + cutter.flush()
    again = cutter.push(samples) + cutter.flush()
    for found in (segments, again):
        expected = cut(samples, 48_000)
        assert [s.start_s for s in found] == [s.start_s for s in expected]
        np.testing.assert_array_equal(found[0].mel, expected[0].mel)


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="hop_s"):
        LiveCutter(44_100, DEFAULT, 0.3)
    for rate in (0, 1_000_000):
        with pytest.raises(ConfigError, match="rate_hz"):
            LiveCutter(rate, DEFAULT)
