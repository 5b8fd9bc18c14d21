"""Live sound: windows that do not depend on how the sound is cut into blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from soundsight.core.errors import AudioError, ConfigError
from soundsight.core.state import State
from soundsight.media.mel import DEFAULT
from soundsight.media.segments import LiveCutter
from soundsight.runtime.stream import Stream
from soundsight.runtime.translator import Translator


@pytest.fixture(scope="module")
def translator(tiny_model: Path) -> Translator:
    return Translator.load(tiny_model, threads=1)


def sound(seconds: float, rate_hz: int) -> np.ndarray:
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * (200 + 50 * t) * t)).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [44_100, 48_000, 16_000])
def test_blocks_of_any_size(translator: Translator, rate_hz: int) -> None:
    samples = sound(3.0, rate_hz)
    whole = Stream(translator, rate_hz)
    expected = whole.push(samples) + whole.flush()
    assert [float(r.seconds[0]) for r in expected] == [0.25 * i for i in range(len(expected))]
    assert len(expected) == 9
    rng = np.random.default_rng(0)
    stream = Stream(translator, rate_hz)
    given, at = [], 0
    while at < len(samples):
        step = int(rng.integers(0, 2000))
        given += stream.push(samples[at : at + step])
        at += step
    given += stream.flush()
    assert len(given) == len(expected)
    for a, b in zip(given, expected, strict=True):
        # The resampler's state passes every seam.
        difference = a.mels.astype(int) - b.mels.astype(int)
        assert np.abs(difference).max() <= 1
        assert np.abs(a.images.astype(int) - b.images.astype(int)).max() <= 8


def test_a_picture_comes_right_after_its_second(translator: Translator) -> None:
    stream = Stream(translator, 44_100, 1.0)
    samples = sound(2.0, 44_100)
    assert stream.push(samples[:44_099]) == []
    assert len(stream.push(samples[44_099 : 44_100 + 2048])) == 1


def test_windows_share_a_scene(translator: Translator) -> None:
    """A steady sound is a steady picture; without a scene each window is drawn anew."""
    steady = (0.3 * np.sin(2 * np.pi * 400 * np.arange(88_200) / 44_100)).astype(np.float32)
    kept = Stream(translator, 44_100, scene=7).push(steady)
    np.testing.assert_array_equal(kept[1].mels, kept[2].mels)
    np.testing.assert_array_equal(kept[1].images, kept[2].images)
    alone = translator.imagine(kept[1].mels, items=[7])
    np.testing.assert_array_equal(kept[1].images, alone)
    anew = Stream(translator, 44_100, scene=None).push(steady)
    np.testing.assert_array_equal(anew[1].images, translator.imagine(anew[1].mels))


def test_silence_and_stereo_and_integers(translator: Translator) -> None:
    # Several channels are mixed in frames of 46 ms: they come that much later.
    results = Stream(translator, 44_100, 1.0).push(np.zeros((92_000, 2), np.int16))
    assert [r.state for r in results] == [[State.QUIET], [State.QUIET]]
    levels = np.round(sound(1.2, 44_100) * 32767).astype(np.int16)
    of_levels = Stream(translator, 44_100, 1.0).push(levels)
    of_floats = Stream(translator, 44_100, 1.0).push(levels / 32768.0)
    np.testing.assert_array_equal(of_levels[0].images, of_floats[0].images)


def test_a_number_of_channels_that_changes_loses_nothing() -> None:
    cutter = LiveCutter(44_100, DEFAULT, 1.0)
    tone = sound(4.0, 44_100)
    segments = []
    for number, first in enumerate(range(0, len(tone), 1411)):
        block = tone[first : first + 1411]
        segments += cutter.push(np.repeat(block[:, None], 2 + number % 2, axis=1))
    segments += cutter.flush()
    assert [s.start_s for s in segments] == [0, 1, 2, 3]


def test_a_bad_block_leaves_the_stream_as_it_was(translator: Translator) -> None:
    samples = sound(1.5, 48_000)
    stream, clean = Stream(translator, 48_000), Stream(translator, 48_000)
    stream.push(samples[:20_000])
    clean.push(samples[:20_000])
    for bad in (np.array([0.0, np.nan], np.float32), np.zeros((2, 2, 2)), np.array(["x"])):
        with pytest.raises(AudioError):
            stream.push(bad)
    a, b = stream.push(samples[20_000:]), clean.push(samples[20_000:])
    assert len(a) == len(b) == 2
    np.testing.assert_array_equal(a[0].images, b[0].images)


def test_a_stream_can_begin_again(translator: Translator) -> None:
    samples = sound(1.3, 48_000)
    stream = Stream(translator, 48_000)
    first = stream.push(samples) + stream.flush()
    second = stream.push(samples) + stream.flush()
    assert [float(r.seconds[0]) for r in first] == [float(r.seconds[0]) for r in second]
    np.testing.assert_array_equal(first[0].images, second[0].images)


def test_bad_options(translator: Translator) -> None:
    with pytest.raises(ConfigError, match="hop_s"):
        Stream(translator, 44_100, 0.3)
    for rate in (0, 1_000_000):
        with pytest.raises(ConfigError, match="rate_hz"):
            Stream(translator, rate)
    with pytest.raises(ConfigError, match="draws"):
        Stream(translator, 44_100, draws=0)
