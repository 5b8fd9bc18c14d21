"""The teacher: its log-mel, and the clips that are mixed for it, kept and gone on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from soundsight.core.errors import ConfigError, DataError
from soundsight.data.everyday.folder import Everyday
from soundsight.training.configs import CopyConfig, MixtureConfig
from soundsight.training.teacher import (
    CLIP_S,
    FEATURES,
    Teacher,
    TeacherClips,
    make_clip,
    mixture,
    teacher_mel,
)

PLAIN = MixtureConfig(recordings=(1.0, 0.0, 0.0), speed=0.0, reversed=0.0, bursts=0.0, copied=0.0)


def tone(hz: float, seconds: float) -> NDArray[np.float32]:
    t_s = np.arange(int(44_100 * seconds)) / 44_100
    return np.sin(2 * np.pi * hz * t_s).astype(np.float32)


def peak_hz(samples: NDArray[np.float32]) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * 44_100 / len(samples))


class Counting:
    """A teacher that says where each second begins, and how loud its clip is."""

    heard = 0

    def features(
        self, samples: NDArray[np.float32], starts_s: NDArray[np.float64], *, times: int = 2
    ) -> NDArray[np.float32]:
        assert times == 1
        Counting.heard += 1
        said = np.zeros((len(starts_s), FEATURES), np.float32)
        said[:, 0], said[:, 1] = starts_s, np.sqrt(np.mean(samples**2))
        return said


def test_a_short_recording_is_repeated_to_ten_seconds() -> None:
    clip = mixture([tone(1000, 1.0)], np.random.default_rng(0), PLAIN)
    assert clip.shape == (CLIP_S * 44_100,)
    assert np.sqrt(np.mean(clip**2)) == pytest.approx(1, abs=1e-4)
    assert peak_hz(clip) == pytest.approx(1000, abs=1)


def test_another_speed_moves_the_pitch_by_an_octave_at_most() -> None:
    config = replace(PLAIN, speed=1.0)
    peaks = [
        peak_hz(mixture([tone(1000, 1.0)], np.random.default_rng(seed), config))
        for seed in range(12)
    ]
    assert min(peaks) >= 499
    assert max(peaks) <= 2001
    assert max(peaks) / min(peaks) > 1.5


def test_two_recordings_are_both_heard() -> None:
    config = replace(PLAIN, recordings=(0.0, 1.0, 0.0))
    for seed in range(20):
        clip = mixture([tone(500, 2.0), tone(3000, 2.0)], np.random.default_rng(seed), config)
        power = np.abs(np.fft.rfft(clip)) ** 2
        share = power[500 * CLIP_S] / (power[500 * CLIP_S] + power[3000 * CLIP_S])
        if 0.001 < share < 0.999:
            # The second lies at most 15 dB under the first.
            assert min(share, 1 - share) / max(share, 1 - share) > 10 ** (-1.55)
            return
    pytest.fail("never two different recordings")


def test_ears_hear_a_copy_and_the_teacher_the_clip() -> None:
    plain, said = make_clip(
        [tone(1000, 1.0)], Counting(), np.random.default_rng(0), PLAIN, CopyConfig()
    )  # type: ignore[arg-type]
    assert plain.shape == (19, 128, 100)
    assert said[:, 0].tolist() == [n / 2 for n in range(19)]
    copied = replace(PLAIN, copied=1.0)
    noisy = CopyConfig(noise=1.0, codec=0.0)
    other, said = make_clip([tone(1000, 1.0)], Counting(), np.random.default_rng(0), copied, noisy)  # type: ignore[arg-type]
    assert other.mean() > plain.mean()
    # The copy has another level; the teacher has heard the clip.
    np.testing.assert_allclose(said[:, 1].astype(np.float32), 1, atol=1e-3)


def test_what_is_there_is_not_made_again(
    tmp_path: Path, toy_everyday: Everyday, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soundsight.training.teacher._CLIPS_A_PART", 2)
    sounds = toy_everyday.sounds("train")[:4]

    def opened(config: MixtureConfig, seed: int = 0) -> tuple[int, NDArray[np.float16]]:
        Counting.heard = 0
        found = TeacherClips(
            tmp_path, toy_everyday, sounds, Counting, config, CopyConfig(),  # type: ignore[arg-type]
            about={"teacher": "hash"}, seed=seed,
        )  # fmt: skip
        rows = np.array([len(found) - 1, 0])
        mels, features = found.take(rows)
        assert mels.shape == (2, 128, 100)
        np.testing.assert_array_equal(features, found.features()[rows])
        return Counting.heard, found.features()

    heard, first = opened(MixtureConfig(clips=4))
    assert heard == 4
    assert opened(MixtureConfig(clips=4))[0] == 0
    (tmp_path / "mixture-001-features.npy").unlink()
    heard, again = opened(MixtureConfig(clips=4))
    assert heard == 2
    np.testing.assert_array_equal(again, first)
    assert opened(MixtureConfig(clips=6))[0] == 2
    with pytest.raises(ConfigError, match="other settings"):
        opened(MixtureConfig(clips=4), seed=1)
    (tmp_path / "mixture-000.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        opened(MixtureConfig(clips=4))
    (tmp_path / "mixtures.json").write_text("{")
    with pytest.raises(DataError, match=r"mixtures\.json is damaged"):
        opened(MixtureConfig(clips=4))


def test_no_teacher_is_a_line(tmp_path: Path) -> None:
    for name in ("none.onnx", "none.zip"):
        with pytest.raises(DataError, match=name):
            Teacher(tmp_path / name)
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(DataError, match="cannot be loaded"):
        Teacher(tmp_path / "bad.onnx")


def test_the_teachers_mel_peaks_at_the_tone() -> None:
    t_s = np.arange(44_100) / 44_100
    frames = teacher_mel(np.sin(2 * np.pi * 1000 * t_s).astype(np.float32))
    assert frames.shape[1] == 64
    assert frames.shape[0] >= 96
    # 1 kHz lies at 1,000 mel, of 185 to 2,787 in 65 steps.
    assert abs(int(frames[40].argmax()) - 19) <= 1
    assert frames.min() >= np.log(1e-3) - 1e-6
