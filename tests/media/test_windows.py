"""Segments of any length and step: the seconds of ``segments_of``, however the sound arrives."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundsight.core.errors import ConfigError
from soundsight.core.units import HOP_SAMPLES, RATE_HZ
from soundsight.media import mel
from soundsight.media.segments import Segment, filled, rms_dbfs, segments_of
from soundsight.media.windows import MAX_SEGMENT_S, Window, check_lengths, whole_frames, windows


def swelling(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness rises and falls, so that every segment has a scale of its own."""
    count = round(seconds * RATE_HZ)
    rng = np.random.default_rng(seed)
    loud = 0.05 + 0.3 * np.sin(np.arange(count) * (2 * np.pi / (3.7 * RATE_HZ))) ** 2
    return (loud * rng.standard_normal(count)).astype(np.float32)


LONG = swelling(24.0)


def cut_up(clip: np.ndarray, cuts: Iterable[int]) -> list[np.ndarray]:
    return np.split(clip, sorted(min(cut, len(clip)) for cut in cuts))


def same(found: Segment, expected: Segment) -> None:
    assert found.start_s == pytest.approx(expected.start_s, abs=1e-9)
    np.testing.assert_array_equal(found.mel, expected.mel)
    assert found.peak_db == expected.peak_db
    assert found.rms_dbfs == expected.rms_dbfs


LENGTHS_S = [
    0.05, 0.1, 0.49, 0.5, 0.99, 1.0, 1.01, 1.49, 1.5, 2.0, 3.2, 9.49, 9.5, 9.99, 10.0, 10.02,
    10.3, 10.49, 10.5, 10.51, 10.99, 11.0, 11.49, 11.5, 13.7, 20.0, 23.9,
]  # fmt: skip


@pytest.mark.parametrize("seconds", LENGTHS_S)
@pytest.mark.parametrize("extra", [-1, 0, 1, 217])
def test_seconds_are_those_of_the_rest_of_the_package(seconds: float, extra: int) -> None:
    clip = LONG[: max(1, round(seconds * RATE_HZ) + extra)]
    expected = segments_of(clip, each_second=True)
    found = list(windows([clip]))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        same(ours, theirs)
        assert ours.mel.shape == (128, 100)
        assert ours.mel.flags.c_contiguous


def reference(clip: np.ndarray, segment_s: float, hop_s: float) -> list[Window]:
    """The same by the words of the documentation, with the whole sound in memory."""
    length, hop = round(segment_s * 100), round(hop_s * 100)
    size, step = length * HOP_SAMPLES, hop * HOP_SAMPLES
    starts = [0] if len(clip) < size else list(range(0, len(clip) - size + 1, step))
    if len(clip) >= size:
        begin = starts[-1] + step
        left = len(clip) - max(starts[-1] + size, begin)
        if 2 * left >= size:
            starts.append(begin)
    total = max(len(clip), starts[-1] + size)
    padded = filled(clip, total - len(clip), short=len(clip) < size)
    db = mel.mel_db(padded)
    is_short = len(clip) <= 10.5 * RATE_HZ
    found = []
    for start in starts:
        first, last = start // HOP_SAMPLES, start // HOP_SAMPLES + length
        scale = db if is_short else db[:, max(0, last - 1000) : last]
        peak_db = max(float(scale.max()), mel.DEFAULT.floor_db)
        samples = padded[start : start + size]
        found.append(
            Window(
                start_s=start / RATE_HZ, mel=mel.to_levels(db[:, first:last], peak_db),
                peak_db=peak_db, rms_dbfs=rms_dbfs(samples), samples=samples,
            )
        )  # fmt: skip
    return found


STEPS = [(1.0, 1.0), (1.0, 0.25), (1.0, 0.37), (1.0, 2.5), (0.5, 0.5), (0.5, 0.03), (2.0, 1.0),
         (2.0, 3.3), (0.1, 1.0), (0.13, 0.29), (10.0, 5.0), (10.0, 0.5)]  # fmt: skip


@pytest.mark.parametrize(("segment_s", "hop_s"), STEPS)
@pytest.mark.parametrize(
    "seconds", [0.04, 0.3, 0.9, 1.0, 1.24, 2.6, 4.999, 10.0, 10.49, 10.51, 11.3, 15.02, 23.77]
)
def test_any_length_and_step(segment_s: float, hop_s: float, seconds: float) -> None:
    clip = LONG[: round(seconds * RATE_HZ)]
    found = list(windows([clip], segment_s, hop_s))
    expected = reference(clip, segment_s, hop_s)
    assert [w.start_s for w in found] == pytest.approx([w.start_s for w in expected])
    for ours, theirs in zip(found, expected, strict=True):
        same(ours, theirs)
        np.testing.assert_array_equal(ours.samples, theirs.samples)
        assert ours.samples.dtype == np.float32


@settings(max_examples=40, deadline=None)
@given(
    length=st.one_of(
        st.integers(1, len(LONG)), st.integers(-1000, 1000).map(lambda n: 463_050 + n)
    ),
    cuts=st.lists(st.integers(0, len(LONG)), max_size=9),
    step=st.sampled_from(STEPS),
)
def test_blocks_do_not_matter(length: int, cuts: list[int], step: tuple[float, float]) -> None:
    clip = LONG[:length]
    whole = list(windows([clip], *step))
    for ours, theirs in zip(windows(cut_up(clip, cuts), *step), whole, strict=True):
        same(ours, theirs)
        np.testing.assert_array_equal(ours.samples, theirs.samples)


def test_small_blocks_that_are_used_again() -> None:
    """The reader may fill one buffer again and again."""
    clip = LONG[: 12 * RATE_HZ]
    buffer = np.empty(441, np.float32)

    def blocks() -> Iterable[np.ndarray]:
        for first in range(0, len(clip), 441):
            buffer[:] = clip[first : first + 441]
            yield buffer
            buffer[:] = np.nan

    found = list(windows(blocks(), 1.0, 0.37))
    for ours, theirs in zip(found, windows([clip], 1.0, 0.37), strict=True):
        same(ours, theirs)
        np.testing.assert_array_equal(ours.samples, theirs.samples)


def test_no_sound_makes_no_segment() -> None:
    assert list(windows([])) == []
    assert list(windows([np.zeros(0, np.float32)])) == []


def test_silence_and_what_fills_up() -> None:
    (window,) = windows([np.zeros(4410, np.float32)])
    assert window.peak_db == mel.DEFAULT.floor_db
    assert window.rms_dbfs == -120
    assert not window.mel.any()
    assert window.samples.shape == (RATE_HZ,)
    (window,) = windows([LONG[:30_000]])
    np.testing.assert_array_equal(window.samples[882:29_118], LONG[882:29_118])
    assert np.abs(window.samples[[0, 29_999]]).max() < 1e-3
    assert not window.samples[30_000:].any()
    *_, window = windows([LONG[:74_100]])
    np.testing.assert_array_equal(window.samples[:30_000], LONG[44_100:74_100])
    np.testing.assert_array_equal(window.samples[30_000:], LONG[60_000:74_100][::-1])


@pytest.mark.parametrize(
    ("seconds", "segment_s", "hop_s", "starts"),
    [
        (2.49, 1.0, 1.0, [0, 1]), (2.5, 1.0, 1.0, [0, 1, 2]), (0.01, 1.0, 1.0, [0]),
        (2.3, 1.0, 0.5, [0, 0.5, 1.0]), (2.6, 1.0, 2.0, [0, 2.0]), (2.4, 1.0, 2.0, [0]),
        (13.4, 1.0, 6.0, [0, 6, 12]), (13.4, 1.0, 6.5, [0, 6.5]), (13.5, 1.0, 6.5, [0, 6.5, 13]),
        (13.0, 4.0, 4.0, [0, 4, 8]), (14.0, 4.0, 4.0, [0, 4, 8, 12]),
        (30.0, 10.0, 10.0, [0, 10, 20]),
    ],
)  # fmt: skip
def test_where_segments_start(
    seconds: float, segment_s: float, hop_s: float, starts: list[float]
) -> None:
    clip = swelling(seconds)
    found = list(windows([clip], segment_s, hop_s))
    assert [w.start_s for w in found] == pytest.approx(starts)
    assert all(w.mel.shape == (128, round(100 * segment_s)) for w in found)


def test_a_bang_scales_the_ten_seconds_after_it() -> None:
    """In a long sound a loud moment darkens what follows for 10 s, and nothing before it."""
    clip = (0.01 * np.random.default_rng(1).standard_normal(30 * RATE_HZ)).astype(np.float32)
    clip[round(12.2 * RATE_HZ) : round(12.3 * RATE_HZ)] *= 60
    peaks = [w.peak_db for w in windows([clip], 1.0, 0.5)]
    quiet, loud = peaks[0], max(peaks)
    assert loud > quiet + 20
    darkened = [i / 2 for i, peak in enumerate(peaks) if peak > quiet + 15]
    assert darkened[0] == 11.5
    assert darkened[-1] == 21.0
    short = [w.peak_db for w in windows([clip[4 * RATE_HZ : 14 * RATE_HZ]])]
    assert set(short) == {loud}


@pytest.mark.parametrize("hop_s", [11.0, 20.0, 33.3])
@pytest.mark.parametrize("segment_s", [0.5, 10.0])
def test_steps_longer_than_what_a_segment_is_scaled_by(segment_s: float, hop_s: float) -> None:
    clip = swelling(80.0)
    expected = reference(clip, segment_s, hop_s)
    assert len(expected) >= 3
    for ours, theirs in zip(windows([clip], segment_s, hop_s), expected, strict=True):
        same(ours, theirs)
        np.testing.assert_array_equal(ours.samples, theirs.samples)


@pytest.mark.parametrize("hop_s", [2.5, 100.0, 600.0])
def test_memory_does_not_grow(hop_s: float) -> None:
    def blocks(seconds: int) -> Iterable[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range(seconds):
            yield rng.standard_normal(RATE_HZ, np.float32)

    peaks = []
    for seconds in (30, 120):
        tracemalloc.start()
        try:
            assert sum(1 for _ in windows(blocks(seconds), 1.0, hop_s)) == -(-seconds // hop_s)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]
    assert peaks[1] < 12e6


def test_a_segment_is_given_out_before_the_sound_ends() -> None:
    given_out: list[int] = []

    def blocks() -> Iterable[np.ndarray]:
        for second in range(20):
            given_out.append(second)
            yield LONG[second * RATE_HZ : (second + 1) * RATE_HZ]

    first = next(iter(windows(blocks())))
    assert first.start_s == 0
    # A sound of up to 10.5 s is scaled as a whole: only then is it known to be longer.
    assert len(given_out) == 11


@pytest.mark.parametrize(
    ("segment_s", "hop_s", "says"),
    [
        (0.09, 1.0, "segment_s is from 0.1 to 10 s, not 0.09"), (10.01, 1.0, "not 10.01"),
        (float("nan"), 1.0, "segment_s"), (0.505, 1.0, "segment_s is a multiple of 0.01 s"),
        (1.0, 0.0, "hop_s is a multiple of 0.01 s, not 0"), (1.0, -1.0, "hop_s"),
        (1.0, 0.333, "hop_s"), (1.0, float("nan"), "hop_s"), (1.0, float("inf"), "hop_s"),
    ],
)  # fmt: skip
def test_lengths_out_of_range(segment_s: float, hop_s: float, says: str) -> None:
    for call in (check_lengths, lambda s, h: list(windows([LONG], s, h))):
        with pytest.raises(ConfigError, match=says) as caught:
            call(segment_s, hop_s)
        assert "\n" not in str(caught.value)


def test_whole_frames() -> None:
    assert [whole_frames(s, "x") for s in (0.01, 0.29, 0.57, 1.0, MAX_SEGMENT_S)] == [
        1, 29, 57, 100, 1000
    ]  # fmt: skip
    check_lengths(MAX_SEGMENT_S, 3600.0)
