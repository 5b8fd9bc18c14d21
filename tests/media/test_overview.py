"""The look of a whole sound in a bounded number of columns."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from soundsight.core.errors import AudioError
from soundsight.media.mel import DEFAULT, mel_db
from soundsight.media.overview import MAX_COLUMNS, RANGE_DB, Overview, OverviewMaker
from soundsight.media.windows import Window, windows

RATE = 44_100


def overview(samples: np.ndarray, hop_s: float = 0.25) -> Overview:
    maker = OverviewMaker()
    for window in windows([samples.astype(np.float32)], 1.0, hop_s):
        maker.take(window)
    return maker.finish(len(samples) / RATE)


def tone(seconds: float, level: float = 0.3, hz: float = 1000.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hz * t)).astype(np.float32)


@pytest.mark.parametrize("seconds", [1.0, 3.0, 12.0])
def test_a_short_sound_has_a_column_a_frame(seconds: float) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
    made = overview(samples)
    assert made.step_s == 0.01
    assert made.mel.shape == (128, round(seconds * 100))
    hops = samples.reshape(-1, 441)
    np.testing.assert_array_equal(made.waveform[:, 0], hops.min(axis=1))
    np.testing.assert_array_equal(made.waveform[:, 1], hops.max(axis=1))


def test_the_mel_is_that_of_the_whole_clip() -> None:
    """Every frame sees its own surroundings, wherever the windows were cut."""
    rng = np.random.default_rng(1)
    samples = (rng.normal(0, 0.1, 13 * RATE) * np.repeat([1, 0.01, 0.3, 1, 0.001, 1, 1, 1, 0.1, 1,
               0.5, 0.2, 1], RATE)).astype(np.float32)  # fmt: skip
    made = overview(samples)
    db = mel_db(samples)
    loud = float(np.percentile(db.max(axis=0), 99))
    expected = np.clip((db - loud + RANGE_DB) / RANGE_DB, 0, 1) * 255
    assert np.abs(made.mel.astype(float) - expected).max() <= 1.0


def test_loud_parts_do_not_darken_soft_ones_differently() -> None:
    """The same soft sound looks the same before and after a bang: one scale for all."""
    soft = np.random.default_rng(2).normal(0, 0.01, 5 * RATE)
    bang = np.random.default_rng(3).normal(0, 0.3, RATE)
    made = overview(np.concatenate([soft, bang, soft, soft]))
    first, second = made.mel[:, 100:400].mean(), made.mel[:, 700:1000].mean()
    assert first > 10
    assert abs(first - second) < 2


def test_silence_is_black_and_tones_lie_where_they_are() -> None:
    made = overview(np.concatenate([np.zeros(3 * RATE), tone(3.0), np.zeros(3 * RATE)]))
    assert made.mel[:, :290].max() == 0
    assert made.mel[:, 610:].max() == 0
    rows = made.mel[:, 320:580].mean(axis=1)
    assert abs(int(rows.argmax()) - int(mel_db(tone(1.0)).mean(axis=1).argmax())) <= 1
    assert made.waveform[310:590, 1].min() > 0.25
    assert overview(np.zeros(2 * RATE)).mel.max() == 0


def _long(seconds: int) -> Iterator[Window]:
    """Windows of a sound that beeps in every tenth second, without computing their log-mel."""
    quiet, loud = np.zeros(RATE, np.float32), tone(1.0)
    mel = np.zeros((DEFAULT.n_mels, DEFAULT.segment_frames), np.uint8)
    for quarter in range(4 * seconds - 3):
        now, then = ((loud if second % 10 == 0 else quiet) for second in
                     (quarter // 4, quarter // 4 + 1))  # fmt: skip
        at = quarter % 4 * RATE // 4
        samples = np.concatenate([now[at:], then[:at]])
        yield Window(start_s=quarter / 4, mel=mel, peak_db=0.0, rms_dbfs=-9.0, samples=samples)


def test_columns_and_memory_are_bounded() -> None:
    peaks = []
    for minutes in (5, 20):
        maker = OverviewMaker()
        tracemalloc.start()
        for window in _long(60 * minutes):
            maker.take(window)
        made = maker.finish(60.0 * minutes)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert MAX_COLUMNS / 4 < made.mel.shape[1] < MAX_COLUMNS
        assert made.mel.shape[1] == len(made.waveform)
        assert made.mel.shape[1] * made.step_s == pytest.approx(60 * minutes, abs=made.step_s)
        # The beeps are where they were, in every tenth second.
        at = (np.arange(60 * minutes // 10) * 10 + 0.5) / made.step_s
        assert made.waveform[at.astype(int), 1].min() > 0.25
        between = (np.arange(60 * minutes // 10) * 10 + 5.5) / made.step_s
        assert made.waveform[between.astype(int), 1].max() == 0
        assert made.mel[:, at.astype(int)].max(axis=0).min() > 200
        assert made.mel[:, between.astype(int)].max() == 0
    assert peaks[1] < 1.02 * peaks[0]


def test_the_end_of_the_sound_is_the_end_of_the_columns() -> None:
    samples = tone(2.3)
    maker = OverviewMaker()
    padded = np.concatenate([samples, np.zeros(round(0.2 * RATE), np.float32)])
    for window in windows([padded], 1.0, 0.25):
        maker.take(window)
    made = maker.finish(2.3)
    assert made.mel.shape[1] == 230
    assert made.waveform[-1, 1] > 0.2


def test_what_cannot_be() -> None:
    with pytest.raises(AudioError, match="no sound"):
        OverviewMaker().finish(0.0)
    some = list(windows([tone(4.0)], 1.0, 0.25))
    maker = OverviewMaker()
    maker.take(some[0])
    with pytest.raises(AudioError, match="missing"):
        maker.take(some[8])
