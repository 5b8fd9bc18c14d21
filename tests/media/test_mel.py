"""The log-mel against an independent reference, its scaling, and its cutting into seconds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from soundsight.core.errors import AudioError, ConfigError
from soundsight.media import mel, segments
from soundsight.media.mel import MelConfig
from soundsight.media.segments import Segment, StreamingLogMel, loudest_segment, segments_of

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
    ours = mel.to_unit_range(db, float(db.max()))
    assert ours.shape == (128, len(samples) // 441)
    assert ours.dtype == np.float32
    assert np.abs(ours - reference_unit(samples)).max() < 1e-4
    levels = mel.log_mel(samples)
    assert levels.dtype == np.uint8
    np.testing.assert_array_equal(levels, np.rint(ours * 255))
    assert levels.max() == 255


def test_weights_equal_librosas() -> None:
    librosa = pytest.importorskip("librosa")
    theirs = librosa.filters.mel(sr=RATE_HZ, n_fft=2048, n_mels=128, fmax=11_025, dtype=np.float64)
    np.testing.assert_allclose(mel.mel_weights()[::-1], theirs, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="read-only"):
        mel.mel_weights()[0, 0] = 1.0


def test_mel_scale_is_slaneys_and_inverts() -> None:
    assert mel.hz_to_mel(1000.0) == pytest.approx(15)
    assert mel.hz_to_mel(6400.0) == pytest.approx(42)
    f = np.array([0.0, 10, 999, 1000, 1001, 22_050])
    np.testing.assert_allclose(mel.mel_to_hz(mel.hz_to_mel(f)), f, rtol=1e-12)


def test_a_lone_second_gives_exactly_100_frames() -> None:
    assert mel.log_mel(noise(1.0)).shape == (128, 100)
    assert MelConfig().segment_frames == 100
    assert MelConfig().segment_samples == RATE_HZ


@pytest.mark.parametrize("count", [1, 2, 440, 441, 900, 1024, 1025, 2048, 44_099])
def test_clips_shorter_than_a_window_are_mirrored(count: int) -> None:
    db = mel.mel_db(noise(1.0)[:count])
    assert db.shape == (128, count // 441)
    assert np.isfinite(db).all()


def test_the_edges_are_mirrored_not_silent() -> None:
    levels = mel.log_mel(noise(1.0)).astype(int)
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
    np.testing.assert_allclose(mel.to_unit_range(db, 0.0), [0, 0, 0.5, 1, 1])
    # A peak under the floor counts as the floor (-60 dB).
    np.testing.assert_array_equal(mel.to_levels(np.array([-60.0, -85.0]), -90.0), [255, 128])


def test_a_quiet_second_of_a_loud_clip_is_dark() -> None:
    clip = np.concatenate([noise(1.0, 0.5), noise(1.0, 0.5e-1)])
    loud, quiet = segments_of(clip, each_second=True)
    assert loud.peak_db == quiet.peak_db
    assert float(loud.mel.mean()) - float(quiet.mel[:, 10:].mean()) == pytest.approx(
        255 * 20 / 50, abs=3
    )


def test_one_bang_does_not_blacken_the_rest() -> None:
    clip = noise(30.0, 1e-3)
    bang = round(5.5 * RATE_HZ)
    clip[bang : bang + 4410] = noise(0.1, 0.9)
    found = segments_of(clip, each_second=True)
    brightness = [float(s.mel[:, 20:].mean()) for s in found]
    assert len(found) == 30
    assert min(brightness[:5]) > 115
    assert max(brightness[6:15]) < 80
    assert min(brightness[15:]) > 115
    peaks = [s.peak_db for s in found]
    assert len(set(peaks[5:15])) == 1
    assert peaks[15] < peaks[14] - 40


def test_long_clips_agree_with_the_running_maximum_written_out() -> None:
    clip = music(13.3)
    db = mel.mel_db(clip)
    levels = mel.log_mel(clip)
    assert levels.shape == (128, 1330)
    for first in range(0, 1330, 100):
        end = min(first + 100, 1330)
        peak = float(db[:, max(0, end - 1000) : end].max())
        np.testing.assert_array_equal(levels[:, first:end], mel.to_levels(db[:, first:end], peak))


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [
        (0.2, [0]), (0.9, [0]), (1.0, [0]), (1.49, [0]), (1.5, [0, 1]), (2.3, [0, 1]),
        (10.0, range(10)), (10.4, range(10)), (11.49, range(11)), (11.5, range(12)),
    ],
)  # fmt: skip
def test_the_last_part_is_padded_or_dropped(seconds: float, starts) -> None:
    found = segments_of(noise(seconds), each_second=True)
    assert [s.start_s for s in found] == list(starts)
    assert all(s.mel.shape == (128, 100) and s.mel.dtype == np.uint8 for s in found)


def test_a_short_clip_is_padded_with_silence() -> None:
    (segment,) = segments_of(noise(0.5), each_second=True)
    assert segment.mel[:, :47].mean() > 150
    assert segment.mel[:, 53:].max() == 0
    (loudest,) = segments_of(noise(0.5), each_second=False)
    np.testing.assert_array_equal(segment.mel, loudest.mel)
    # It fades in and out over 20 ms.
    assert segment.rms_dbfs == pytest.approx(-20 - 3.27, abs=0.1)


def test_a_clip_that_is_cut_off_has_no_clicks() -> None:
    """The click of an abrupt end reaches all bands, and is an onset to whoever sees it."""
    t = np.arange(8820) / RATE_HZ
    beep = 0.5 * np.cos(2 * np.pi * 1003 * t).astype(np.float32)
    abrupt = np.concatenate([beep, np.zeros(RATE_HZ - len(beep), np.float32)])
    (segment,) = segments_of(beep, each_second=True)
    (clicking,) = segments_of(abrupt, each_second=True)
    end = slice(17, 24)
    assert (clicking.mel[:, end] > 0).mean() > 2 * (segment.mel[:, end] > 0).mean() > 0


def test_the_last_part_of_a_sound_goes_on_as_its_mirror_image() -> None:
    for seconds in (3.6, 12.6):
        *_, last = segments_of(noise(seconds), each_second=True)
        levels = last.mel.astype(float)
        assert levels[:, 65:].mean() == pytest.approx(levels[:, :55].mean(), abs=8)


def test_cut() -> None:
    levels = mel.log_mel(noise(2.5))
    np.testing.assert_array_equal(segments.cut(levels, 1.25), levels[:, 125:225])
    for start_s in (-0.1, 1.51, 7):
        with pytest.raises(AudioError, match=r"lasts 2\.5 s"):
            segments.cut(levels, start_s)


def test_rms() -> None:
    assert segments.rms_dbfs(sine(1000, 1.0)) == pytest.approx(-3.01, abs=0.01)
    assert segments.rms_dbfs(np.full(100, -1.0)) == 0
    assert segments.rms_dbfs(np.zeros(100)) == -120
    assert segments.rms_dbfs(np.zeros(0)) == -120


def same(a: Segment, b: Segment) -> bool:
    return (a.start_s, a.peak_db, a.rms_dbfs) == (b.start_s, b.peak_db, b.rms_dbfs) and bool(
        (a.mel == b.mel).all()
    )


def all_same(a: list[Segment], b: list[Segment]) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def streamed(clip: np.ndarray, cuts: list[int], hop_s: float = 1.0) -> list[Segment]:
    stream = StreamingLogMel(hop_s=hop_s)
    out: list[Segment] = []
    for low, high in pairwise([0, *sorted(cuts), len(clip)]):
        # One buffer for all blocks: the stream has to copy what it keeps.
        buffer = clip[low:high].copy()
        out += stream.push(buffer)
        buffer[:] = np.nan
    return out + stream.flush()


LONG = music(12.7)


@settings(max_examples=15, deadline=None)
@given(
    length=st.integers(int(10.5 * RATE_HZ) + 1, len(LONG)),
    cuts=st.lists(st.integers(0, len(LONG)), max_size=8),
)
def test_blocks_do_not_matter(length: int, cuts: list[int]) -> None:
    clip = LONG[:length]
    cuts = [min(cut, length) for cut in cuts]
    assert all_same(streamed(clip, cuts), segments_of(clip, each_second=True))
    parts = (clip[low:high] for low, high in pairwise([0, *sorted(cuts), length]))
    assert same(loudest_segment(parts), segments_of(clip, each_second=False)[0])


@pytest.mark.parametrize("block", [1, 100, 441, 1600])
def test_small_blocks_do_not_matter(block: int) -> None:
    clip = LONG[: (2 if block == 1 else 12) * RATE_HZ // (10 if block == 1 else 1)]
    cuts = list(range(block, len(clip), block))
    assert all_same(streamed(clip, cuts), streamed(clip, []))


def test_the_stream_equals_the_whole_clip() -> None:
    levels = mel.log_mel(LONG)
    for segment in streamed(LONG, [])[:-1]:
        np.testing.assert_array_equal(segment.mel, segments.cut(levels, segment.start_s))


@pytest.mark.parametrize("hop_s", [0.25, 0.5, 0.75])
def test_overlapping_segments(hop_s: float) -> None:
    clip = LONG[: round(11.6 * RATE_HZ)]
    found = streamed(clip, list(range(4000, len(clip), 4000)), hop_s)
    starts = [s.start_s for s in found]
    assert starts == [hop_s * i for i in range(len(starts))]
    assert starts[-1] + 1 > 11.1
    db = mel.mel_db(clip)
    for segment in found:
        end = round(segment.start_s * 100) + 100
        if end > 1160:
            continue  # padded
        peak = float(db[:, max(0, end - 1000) : end].max())
        np.testing.assert_array_equal(segment.mel, mel.to_levels(db[:, end - 100 : end], peak))
    with pytest.raises(ConfigError, match=r"0\.25"):
        StreamingLogMel(hop_s=0.3)


def test_a_stream_answers_at_once_and_can_be_used_again() -> None:
    stream = StreamingLogMel()
    assert stream.flush() == []
    assert stream.push(noise(1.0)) == []
    assert len(stream.push(noise(0.0133))) == 1
    assert stream.received_s == pytest.approx(1.0133, abs=1e-4)
    assert stream.flush() == []
    first = streamed(LONG, [])
    out = stream.push(LONG) + stream.flush()
    assert all_same(first, out)


def test_the_streams_memory_is_bounded() -> None:
    import tracemalloc

    def blocks():
        rng = np.random.default_rng(0)
        for _ in range(40):
            yield rng.standard_normal(RATE_HZ, np.float32)

    tracemalloc.start()
    try:
        stream = StreamingLogMel()
        assert sum(len(stream.push(block)) for block in blocks()) == 39
        _, stream_peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        loudest_segment(blocks())
        _, loudest_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stream_peak < 12e6
    assert loudest_peak < 25e6


@pytest.mark.parametrize("seconds", [3.0, 9.8, 25.0, 47.3])
@pytest.mark.parametrize("at", [0.0, 0.45, 1.0])
def test_the_loudest_second_is_found(seconds: float, at: float) -> None:
    clip = noise(seconds, 0.01)
    start = 441 * round(at * (len(clip) - RATE_HZ) / 441 - 0.5 * (at > 0))
    clip[start : start + RATE_HZ] *= 30
    (segment,) = segments_of(clip, each_second=False)
    assert segment.start_s == pytest.approx(start / RATE_HZ, abs=1e-6)
    db = mel.mel_db(clip)
    first = start // 441
    scale = db if seconds <= 10 else db[:, max(0, first - 900) : first + 100]
    np.testing.assert_array_equal(
        segment.mel, mel.to_levels(db[:, first : first + 100], float(scale.max()))
    )
    blocks = (clip[i : i + 30_011] for i in range(0, len(clip), 30_011))
    assert same(segment, loudest_segment(blocks))


def test_a_rising_sound_has_its_loudest_second_at_the_end() -> None:
    clip = noise(24.0) * np.linspace(0, 1, 24 * RATE_HZ, dtype=np.float32) ** 2
    segment = loudest_segment(clip[i : i + 4410] for i in range(0, len(clip), 4410))
    assert 22.5 < segment.start_s <= 23
    assert same(segment, segments_of(clip, each_second=False)[0])


def test_no_sound_is_an_error() -> None:
    empty = np.zeros(0, np.float32)
    for call in (
        lambda: mel.log_mel(empty),
        lambda: segments_of(empty, each_second=True),
        lambda: loudest_segment([]),
        lambda: loudest_segment([empty]),
        lambda: mel.mel_db(np.zeros((2, 44_100), np.float32)),
        lambda: StreamingLogMel().push(np.zeros((2, 44_100), np.float32)),
    ):
        with pytest.raises(AudioError):
            call()


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
