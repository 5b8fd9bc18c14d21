"""Segments of any length and step: the same from a clip, a file in blocks and a live signal."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundsight.core.errors import AudioError, ConfigError
from soundsight.core.units import HOP_SAMPLES, RATE_HZ
from soundsight.media import mel
from soundsight.media.audio import from_array
from soundsight.media.segments import (
    MAX_SEGMENT_S,
    Cutter,
    LiveCutter,
    Segment,
    check_lengths,
    filled,
    pad_to_seconds,
    rms_dbfs,
    segments,
    slices,
    whole_frames,
)


def swelling(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness rises and falls, so that every segment has a scale of its own."""
    count = round(seconds * RATE_HZ)
    rng = np.random.default_rng(seed)
    loud = 0.05 + 0.3 * np.sin(np.arange(count) * (2 * np.pi / (3.7 * RATE_HZ))) ** 2
    return (loud * rng.standard_normal(count)).astype(np.float32)


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


LONG = swelling(24.0)


def cut(blocks: Iterable[np.ndarray], *lengths_s: float) -> list[Segment]:
    return list(segments(blocks, *lengths_s, with_samples=True))


def reused(clip: np.ndarray, cuts: Iterable[int]) -> Iterator[np.ndarray]:
    """Blocks of a clip from one buffer: who keeps a block has to copy it."""
    buffer = np.empty(len(clip), np.float32)
    inside = sorted(min(cut, len(clip)) for cut in cuts)
    for low, high in itertools.pairwise([0, *inside, len(clip)]):
        buffer[: high - low] = clip[low:high]
        yield buffer[: high - low]
        buffer[:] = np.nan


def loudest(blocks: Iterable[np.ndarray]) -> Segment:
    (segment,) = deque(segments(blocks, loudest=True), maxlen=1)
    return segment


def live(blocks: Iterable[np.ndarray], hop_s: float = 1.0) -> list[Segment]:
    cutter = Cutter(hop_s=hop_s, live=True, with_samples=True)
    return [segment for block in blocks for segment in cutter.push(block)] + cutter.flush()


def same(found: Segment, expected: Segment) -> None:
    assert found.start_s == pytest.approx(expected.start_s, abs=1e-9)
    assert found.mel.flags.c_contiguous
    np.testing.assert_array_equal(found.mel, expected.mel)
    assert (found.peak_db, found.rms_dbfs) == (expected.peak_db, expected.rms_dbfs)
    assert found.samples.dtype == np.float32
    np.testing.assert_array_equal(found.samples, expected.samples)
    np.testing.assert_array_equal(found.waveform, expected.waveform)


def all_same(found: Iterable[Segment], expected: Iterable[Segment]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        same(ours, theirs)


# --- segments ------------------------------------------------------------------------------------


def waveform_of(samples: np.ndarray, length: int) -> np.ndarray:
    """Of the sound as it is, and silence after it."""
    hops = np.pad(samples, (0, length - len(samples))).reshape(-1, HOP_SAMPLES)
    return np.stack([hops.min(axis=1), hops.max(axis=1)], axis=1)


def reference(
    clip: np.ndarray, segment_s: float = 1.0, hop_s: float = 1.0, *, as_live: bool = False
) -> list[Segment]:
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
    is_short = len(clip) <= 10.5 * RATE_HZ and not as_live
    found = []
    for start in starts:
        first, last = start // HOP_SAMPLES, start // HOP_SAMPLES + length
        scale = db if is_short else db[:, max(0, last - 1000) : last]
        peak_db = max(float(scale.max()), mel.DEFAULT.floor_db)
        samples = padded[start : start + size]
        found.append(
            Segment(
                start_s=start / RATE_HZ, mel=mel.to_levels(db[:, first:last], peak_db),
                peak_db=peak_db, rms_dbfs=rms_dbfs(samples), samples=samples,
                waveform=waveform_of(clip[start : start + size], size),
            )
        )  # fmt: skip
    return found


STEPS = [(1.0, 1.0), (1.0, 0.25), (1.0, 0.37), (1.0, 2.5), (0.5, 0.5), (0.5, 0.13), (2.0, 1.0),
         (2.0, 3.3), (0.1, 1.0), (0.13, 0.29), (10.0, 5.0), (10.0, 0.5)]  # fmt: skip
LENGTHS_S = [0.04, 0.9, 2.6, 4.999, 10.49, 10.51, 15.02, 23.77]


@pytest.mark.parametrize(("segment_s", "hop_s"), STEPS)
@pytest.mark.parametrize("seconds", LENGTHS_S)
def test_any_length_and_step(segment_s: float, hop_s: float, seconds: float) -> None:
    clip = LONG[: round(seconds * RATE_HZ)]
    all_same(cut([clip], segment_s, hop_s), reference(clip, segment_s, hop_s))


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.5, 9.5, 10.5, 11.0, 11.5])
@pytest.mark.parametrize("extra", [-1, 0, 1, 217])
def test_seconds_at_the_edges(seconds: float, extra: int) -> None:
    clip = LONG[: round(seconds * RATE_HZ) + extra]
    expected = reference(clip)
    all_same(cut([clip]), expected)
    assert len(expected) == max(1, (len(clip) + RATE_HZ // 2) // RATE_HZ)


@pytest.mark.parametrize("hop_s", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("seconds", [1.0, 2.6, 11.6, 12.7])
def test_a_live_signal_is_scaled_by_what_has_come(hop_s: float, seconds: float) -> None:
    clip = LONG[: round(seconds * RATE_HZ)]
    found = live(reused(clip, range(4000, len(clip), 4000)), hop_s)
    all_same(found, reference(clip, 1.0, hop_s, as_live=True))


@settings(max_examples=15, deadline=None)
@given(
    length=st.one_of(
        st.integers(1, len(LONG)), st.integers(-1000, 1000).map(lambda n: 463_050 + n)
    ),
    cuts=st.lists(st.integers(0, len(LONG)), max_size=9),
    step=st.sampled_from(STEPS),
)
def test_blocks_do_not_matter(length: int, cuts: list[int], step: tuple[float, float]) -> None:
    clip = LONG[:length]
    all_same(cut(reused(clip, cuts), *step), cut([clip], *step))
    all_same(live(reused(clip, cuts)), live([clip]))
    same(loudest(reused(clip, cuts)), loudest([clip]))


@pytest.mark.parametrize("block", [1, 441, 1600])
def test_small_blocks_do_not_matter(block: int) -> None:
    clip = LONG[: 8820 if block == 1 else 12 * RATE_HZ]
    cuts = range(block, len(clip), block)
    all_same(cut(reused(clip, cuts), 1.0, 0.37), cut([clip], 1.0, 0.37))
    all_same(live(reused(clip, cuts)), live([clip]))


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
    found = list(segments([swelling(seconds)], segment_s, hop_s))
    assert [s.start_s for s in found] == pytest.approx(starts)
    assert all(s.mel.shape == (128, round(100 * segment_s)) for s in found)
    assert all(s.mel.dtype == np.uint8 for s in found)


def test_the_seconds_of_a_long_clip_are_those_of_its_log_mel() -> None:
    clip = LONG[: round(12.7 * RATE_HZ)]
    levels = mel.log_mel(clip)
    for found in (list(segments([clip])), live([clip])):
        for segment, expected in zip(found[:-1], slices(levels, 100), strict=True):
            np.testing.assert_array_equal(segment.mel, expected)
    for hop in (1, 30, 50, 100):
        seconds = slices(levels[:, :256], hop)
        assert len(seconds) == 156 // hop + 1
        for number, second in enumerate(seconds):
            np.testing.assert_array_equal(second, levels[:, hop * number : hop * number + 100])


def test_silence_and_what_fills_up() -> None:
    (segment,) = cut([np.zeros(4410, np.float32)])
    assert segment.peak_db == mel.DEFAULT.floor_db
    assert segment.rms_dbfs == -120
    assert not segment.mel.any()
    assert segment.samples.shape == (RATE_HZ,)
    (segment,) = cut([LONG[:30_000]])
    np.testing.assert_array_equal(segment.samples[882:29_118], LONG[882:29_118])
    assert np.abs(segment.samples[[0, 29_999]]).max() < 1e-3
    assert not segment.samples[30_000:].any()
    np.testing.assert_array_equal(pad_to_seconds(LONG[:30_000]), segment.samples)
    *_, segment = cut([LONG[:74_100]])
    np.testing.assert_array_equal(segment.samples[:30_000], LONG[44_100:74_100])
    np.testing.assert_array_equal(segment.samples[30_000:], LONG[60_000:74_100][::-1])
    np.testing.assert_array_equal(pad_to_seconds(LONG[:74_100])[44_100:], segment.samples)
    np.testing.assert_array_equal(pad_to_seconds(LONG[:60_000]), LONG[:60_000])


def test_a_clip_that_is_cut_off_has_no_clicks() -> None:
    """The click of an abrupt end reaches all bands, and looks like an onset."""
    (segment,) = segments([noise(0.5)])
    assert segment.mel[:, :47].mean() > 150
    assert segment.mel[:, 53:].max() == 0
    same(loudest([noise(0.5)]), segment)
    # It fades in and out over 20 ms.
    assert segment.rms_dbfs == pytest.approx(-20 - 3.27, abs=0.1)
    t = np.arange(8820) / RATE_HZ
    beep = 0.5 * np.cos(2 * np.pi * 1003 * t).astype(np.float32)
    abrupt = np.concatenate([beep, np.zeros(RATE_HZ - len(beep), np.float32)])
    (segment,) = segments([beep])
    (clicking,) = segments([abrupt])
    end = slice(17, 24)
    assert (clicking.mel[:, end] > 0).mean() > 2 * (segment.mel[:, end] > 0).mean() > 0


def test_the_last_part_of_a_sound_goes_on_as_its_mirror_image() -> None:
    for seconds in (3.6, 12.6):
        *_, last = segments([noise(seconds)])
        levels = last.mel.astype(float)
        assert levels[:, 65:].mean() == pytest.approx(levels[:, :55].mean(), abs=8)


def test_a_quiet_second_of_a_loud_clip_is_dark() -> None:
    loud, quiet = segments([np.concatenate([noise(1.0, 0.5), noise(1.0, 0.05)])])
    assert loud.peak_db == quiet.peak_db
    darker = float(loud.mel.mean()) - float(quiet.mel[:, 10:].mean())
    assert darker == pytest.approx(255 * 20 / 50, abs=3)


def test_a_bang_scales_the_ten_seconds_after_it() -> None:
    """In a long sound a loud moment darkens what follows for 10 s, and nothing before it."""
    clip = noise(30.0, 0.01, seed=1)
    clip[round(12.2 * RATE_HZ) : round(12.3 * RATE_HZ)] *= 60
    found = list(segments([clip], 1.0, 0.5))
    peaks = [s.peak_db for s in found]
    quiet, loud = peaks[0], max(peaks)
    assert loud > quiet + 20
    darkened = [i / 2 for i, peak in enumerate(peaks) if peak > quiet + 15]
    assert (darkened[0], darkened[-1]) == (11.5, 21.0)
    brightness = [float(s.mel[:, 90:].mean()) for s in found]
    assert min(brightness[:22] + brightness[44:]) > 115
    assert max(brightness[25:43]) < 80
    short = [s.peak_db for s in segments([clip[4 * RATE_HZ : 14 * RATE_HZ]])]
    assert set(short) == {loud}


@pytest.mark.parametrize(("segment_s", "hop_s"), [(0.5, 11.0), (10.0, 20.0), (0.5, 33.3)])
def test_steps_longer_than_what_a_segment_is_scaled_by(segment_s: float, hop_s: float) -> None:
    clip = swelling(80.0)
    expected = reference(clip, segment_s, hop_s)
    assert len(expected) >= 3
    all_same(cut([clip], segment_s, hop_s), expected)


def test_memory_does_not_grow() -> None:
    def blocks(seconds: int) -> Iterable[np.ndarray]:
        rng = np.random.default_rng(0)
        return (rng.standard_normal(RATE_HZ, np.float32) for _ in range(seconds))

    def peak(take: Iterable[object]) -> int:
        tracemalloc.start()
        try:
            for _ in take:
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def live_signal() -> Iterator[Segment]:
        cutter = Cutter(live=True)
        for block in blocks(40):
            yield from cutter.push(block)

    for hop_s in (2.5, 600.0):
        short, long = (peak(segments(blocks(n), 1.0, hop_s)) for n in (25, 60))
        assert long < 1.05 * short
        assert long < 12e6
    assert peak(live_signal()) < 12e6
    assert peak(loudest(blocks(seconds)) for seconds in (40,)) < 25e6


def test_when_segments_come() -> None:
    given_out: list[int] = []

    def blocks() -> Iterator[np.ndarray]:
        for second in range(20):
            given_out.append(second)
            yield LONG[second * RATE_HZ : (second + 1) * RATE_HZ]

    assert next(segments(blocks())).start_s == 0
    # A sound of up to 10.5 s is scaled as a whole: only then is it known to be longer.
    assert len(given_out) == 11
    cutter = Cutter(live=True, with_samples=True)
    assert cutter.flush() == []
    for _ in range(2):  # it may be used again
        assert cutter.push(LONG[: RATE_HZ + 582]) == []
        (first,) = cutter.push(LONG[RATE_HZ + 582 : RATE_HZ + 583])  # 13 ms after its end
        same(first, reference(LONG[: RATE_HZ + 583], as_live=True)[0])
        assert cutter.flush() == []


def test_what_is_no_sound() -> None:
    empty = np.zeros(0, np.float32)
    for blocks in ([], [empty]):
        for take in (cut, loudest):
            with pytest.raises(AudioError, match="there is no sound"):
                take(blocks)
    with pytest.raises(AudioError, match="one channel"):
        Cutter().push(np.zeros((2, 44_100), np.float32))


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
    for call in (check_lengths, Cutter):
        with pytest.raises(ConfigError, match=says) as caught:
            call(segment_s, hop_s)
        assert "\n" not in str(caught.value)


def test_lengths_in_frames() -> None:
    assert [whole_frames(s, "x") for s in (0.01, 0.29, 0.57, 1.0)] == [1, 29, 57, 100]
    assert check_lengths(MAX_SEGMENT_S, 3600.0) == (1000, 360_000)


def test_rms() -> None:
    sine = np.sin(2 * np.pi * 1000 * np.arange(RATE_HZ) / RATE_HZ)
    levels = [rms_dbfs(x) for x in (sine, np.full(100, -1.0), np.zeros(100), np.zeros(0))]
    assert levels == pytest.approx([-3.01, 0, -120, -120], abs=0.01)


# --- a live signal -------------------------------------------------------------------------------


def pushed(cutter: LiveCutter, samples: np.ndarray, block: int = 1411) -> list[Segment]:
    blocks = (samples[first : first + block] for first in range(0, len(samples), block))
    return [segment for block in blocks for segment in cutter.push(block)] + cutter.flush()


@pytest.mark.parametrize("rate_hz", [44_100, 48_000, 16_000])
@pytest.mark.parametrize("block", [97, 1411])
def test_a_live_signal_is_converted_as_a_file_is(rate_hz: int, block: int) -> None:
    samples = LONG[: 3 * rate_hz]
    found = pushed(LiveCutter(rate_hz, mel.DEFAULT), samples, block)
    expected = live([from_array(samples, rate_hz)], 0.25)
    assert [s.start_s for s in found] == [s.start_s for s in expected]
    assert [s.start_s for s in found] == [0.25 * i for i in range(9)]
    for ours, theirs in zip(found, expected, strict=True):
        assert not len(ours.samples)
        # The resampler may round a sample the other way.
        np.testing.assert_allclose(ours.mel.astype(int), theirs.mel.astype(int), atol=1)


def test_live_channels_and_integers() -> None:
    # Several channels are mixed in frames of 46 ms: they come that much later.
    assert len(LiveCutter(RATE_HZ, mel.DEFAULT, 1.0).push(np.zeros((92_000, 2), np.int16))) == 2
    levels = np.round(LONG[:52_920] * 20_000).astype(np.int16)
    (of_levels,), (of_floats,) = (
        pushed(LiveCutter(RATE_HZ, mel.DEFAULT, 1.0), x) for x in (levels, levels / 32768.0)
    )
    np.testing.assert_array_equal(of_levels.mel, of_floats.mel)
    # A number of channels that changes loses nothing.
    cutter = LiveCutter(RATE_HZ, mel.DEFAULT, 1.0)
    segments = []
    for number, first in enumerate(range(0, 4 * RATE_HZ, 1411)):
        block = LONG[first : min(first + 1411, 4 * RATE_HZ)]
        segments += cutter.push(np.repeat(block[:, None], 2 + number % 2, axis=1))
    assert [s.start_s for s in segments + cutter.flush()] == [0, 1, 2, 3]


def test_a_bad_block_leaves_the_signal_as_it_was_and_it_can_begin_again() -> None:
    samples, cutter = LONG[:72_000], LiveCutter(48_000, mel.DEFAULT)
    found = cutter.push(samples[:20_000])
    for bad in (np.array([0.0, np.nan], np.float32), np.zeros((2, 2, 2)), np.array(["x"])):
        with pytest.raises(AudioError):
            cutter.push(bad)
    found += pushed(cutter, samples[20_000:])
    expected = pushed(LiveCutter(48_000, mel.DEFAULT), samples)
    all_same(found, expected)
    all_same(pushed(cutter, samples), expected)


def test_live_rates_and_steps_out_of_range() -> None:
    with pytest.raises(ConfigError, match="hop_s"):
        LiveCutter(44_100, mel.DEFAULT, 0.3)
    for rate_hz in (0, 1_000_000):
        with pytest.raises(ConfigError, match="rate_hz"):
            LiveCutter(rate_hz, mel.DEFAULT)


# --- the loudest second --------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [3.0, 9.8, 25.0, 47.3])
@pytest.mark.parametrize("at", [0.0, 0.45, 1.0])
def test_the_loudest_second_is_found(seconds: float, at: float) -> None:
    clip = noise(seconds, 0.01)
    start = 441 * round(at * (len(clip) - RATE_HZ) / 441 - 0.5 * (at > 0))
    clip[start : start + RATE_HZ] *= 30
    segment = loudest([clip])
    assert segment.start_s == pytest.approx(start / RATE_HZ, abs=1e-6)
    np.testing.assert_array_equal(
        segment.waveform, waveform_of(clip[start : start + RATE_HZ], RATE_HZ)
    )
    db = mel.mel_db(clip)
    first = start // 441
    scale = db if seconds <= 10 else db[:, max(0, first - 900) : first + 100]
    np.testing.assert_array_equal(
        segment.mel, mel.to_levels(db[:, first : first + 100], float(scale.max()))
    )
    same(segment, loudest(reused(clip, range(0, len(clip), 30_011))))


def test_a_rising_sound_has_its_loudest_second_at_the_end() -> None:
    clip = noise(24.0) * np.linspace(0, 1, 24 * RATE_HZ, dtype=np.float32) ** 2
    segment = loudest(reused(clip, range(0, len(clip), 4410)))
    assert 22.5 < segment.start_s <= 23
    same(segment, loudest([clip]))
