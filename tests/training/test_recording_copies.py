"""Copies of recordings: as often as asked, always the same, and still sounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from soundsight.core.errors import ConfigError
from soundsight.core.units import RATE_HZ
from soundsight.data.everyday.sounds import bands_above
from soundsight.media.mel import log_mel
from soundsight.training.configs import CopyConfig
from soundsight.training.recording_copies import copy_of, through_codec, through_jpeg

NOTHING = CopyConfig(**dict.fromkeys(vars(CopyConfig()), 0.0))
"""A copy that only has another level."""


@pytest.fixture(scope="module")
def hiss() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, RATE_HZ).astype(np.float32)


def copied(sound: np.ndarray, seed: int = 0, **shares: float) -> np.ndarray:
    config = replace(NOTHING, **shares)
    return copy_of(sound, sound[::-1].copy(), np.random.default_rng(seed), config)


def test_a_copy_that_gets_nothing_is_the_sound_at_another_level(hiss: np.ndarray) -> None:
    copy = copied(hiss)
    assert np.corrcoef(copy, hiss)[0, 1] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("share", sorted(set(vars(NOTHING)) - {"jpeg"}))
def test_everything_that_a_copy_can_get_changes_it_and_leaves_a_sound(
    hiss: np.ndarray, share: str
) -> None:
    copy = copied(hiss, **{share: 1.0})
    assert np.array_equal(copy, copied(hiss, **{share: 1.0}))
    assert np.isfinite(copy).all()
    assert copy.dtype == np.float32
    assert abs(len(copy) - len(hiss)) <= 0.12 * len(hiss)
    same = min(len(copy), len(hiss))
    assert not np.allclose(copy[:same], copied(hiss)[:same], atol=1e-4)
    assert log_mel(copy).mean() > 20


def test_narrow_copies_end_where_a_low_rate_would_end_them(hiss: np.ndarray) -> None:
    for share, end_hz in (("narrow_8khz", 4000.0), ("narrow_16khz", 8000.0)):
        mel = log_mel(copied(hiss, **{share: 1.0}))
        assert mel[: bands_above(end_hz) - 1, 5:95].max() < 30
        assert mel[bands_above(0.8 * end_hz) :].mean() > 100


def test_codecs_and_jpeg_keep_the_length_and_most_of_the_sound(hiss: np.ndarray) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32) * 0.3
    for seed in range(3):
        heard = through_codec(tone, np.random.default_rng(seed))
        assert len(heard) == len(tone)
        assert np.sqrt((heard**2).mean()) == pytest.approx(0.21, abs=0.06)
    mel = log_mel(hiss)
    again = through_jpeg(mel, 70)
    assert again.shape == mel.shape
    assert 0 < np.abs(again.astype(int) - mel).mean() < 30


def test_shares_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="room must lie"):
        CopyConfig(room=1.5)
    with pytest.raises(ConfigError, match="one whole"):
        CopyConfig(narrow_8khz=0.7, narrow_16khz=0.7)
