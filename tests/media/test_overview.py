"""The look of a whole sound in a bounded number of columns."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from soundsight.core.errors import AudioError
from soundsight.media.mel import mel_db
from soundsight.media.overview import MAX_COLUMNS, RANGE_DB, Overview, OverviewMaker

RATE = 44_100


def overview(samples: np.ndarray, block: int = 44_100) -> Overview:
    maker = OverviewMaker()
    for first in range(0, len(samples), block):
        maker.push(samples[first : first + block].astype(np.float32))
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
    np.testing.assert_array_equal(made.mel, overview(samples, 7001).mel)
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


def test_columns_and_memory_are_bounded() -> None:
    """A sound that beeps in every tenth second."""
    quiet, loud = np.zeros(RATE, np.float32), tone(1.0)
    peaks = []
    for seconds in (150, 300):
        maker = OverviewMaker()
        tracemalloc.start()
        for second in range(seconds):
            maker.push(quiet if second % 10 else loud)
        made = maker.finish(float(seconds))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert MAX_COLUMNS / 4 < made.mel.shape[1] < MAX_COLUMNS
        assert made.mel.shape[1] == len(made.waveform)
        assert made.mel.shape[1] * made.step_s == pytest.approx(seconds, abs=made.step_s)
        # The beeps are where they were, in every tenth second.
        at = (np.arange(seconds // 10) * 10 + 0.5) / made.step_s
        assert made.waveform[at.astype(int), 1].min() > 0.25
        between = (np.arange(seconds // 10) * 10 + 5.5) / made.step_s
        assert made.waveform[between.astype(int), 1].max() == 0
        assert made.mel[:, at.astype(int)].max(axis=0).min() > 200
        assert made.mel[:, between.astype(int)].max() == 0
    assert peaks[1] < 1.02 * peaks[0]


def test_the_end_of_the_sound_is_the_end_of_the_columns() -> None:
    samples = tone(2.3)
    for padded_s in (0.0, 0.2):
        maker = OverviewMaker()
        maker.push(np.concatenate([samples, np.zeros(round(padded_s * RATE), np.float32)]))
        made = maker.finish(2.3)
        assert made.mel.shape[1] == 230
        assert made.waveform[-1, 1] > 0.2
    with pytest.raises(AudioError, match="no sound"):
        OverviewMaker().finish(0.0)
