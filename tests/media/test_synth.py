"""Toy sounds and scenes: deterministic, distinct, and moving together."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import soundsight
from recipes import synth
from soundsight.core.errors import ConfigError, OutputError
from soundsight.media import audio, mel
from soundsight.media.frames import frame_at

EXAMPLES = Path(soundsight.__file__).parent / "assets" / "examples"


@pytest.mark.parametrize("subject", synth.SUBJECTS)
def test_sounds(subject: str) -> None:
    sound = synth.sound(subject, 2.0, 7)
    assert sound.shape == (88_200,)
    assert sound.dtype == np.float32
    assert np.abs(sound).max() == pytest.approx(0.8, abs=1e-6)
    np.testing.assert_array_equal(sound, synth.sound(subject, 2.0, 7))
    assert np.abs(sound - synth.sound(subject, 2.0, 8)).max() > 0.1
    assert len(synth.sound(subject, 0.5, 0, 16_000)) == 8000


def test_sounds_are_told_apart_by_their_mels() -> None:
    """The mean spectrum of another seed is nearer than that of any other subject."""

    def profile(subject: str, seed: int) -> np.ndarray:
        return mel.log_mel(synth.sound(subject, 4.0, seed)).mean(axis=1)

    known = {subject: profile(subject, 0) for subject in synth.SUBJECTS}
    for subject in synth.SUBJECTS:
        heard = profile(subject, 1)
        nearest = min(known, key=lambda name: float(np.abs(known[name] - heard).mean()))
        assert nearest == subject


@pytest.mark.parametrize("subject", synth.SUBJECTS)
def test_scenes(subject: str) -> None:
    scene = synth.scene(subject, 0.5, 7)
    assert scene.shape == (96, 96, 3)
    assert scene.dtype == np.uint8
    np.testing.assert_array_equal(scene, synth.scene(subject, 0.5, 7))
    assert synth.scene(subject, 0.5, 7, 48).shape == (48, 48, 3)
    frames = np.stack([synth.scene(subject, t / 5, 7) for t in range(10)]).astype(int)
    assert np.abs(np.diff(frames, axis=0)).max() > 30, "nothing moves"
    others = [synth.scene(other, 0.5, 7) for other in synth.SUBJECTS if other != subject]
    assert min(np.abs(scene.astype(int) - other).mean() for other in others) > 15


def test_a_dog_opens_its_mouth_when_it_barks() -> None:
    sound = synth.sound("dog", 6.0, 0)
    loudness = np.array([np.std(sound[i : i + 2205]) for i in range(0, len(sound) - 2205, 2205)])
    # The head alone: the tail wags all the time.
    heads = np.stack(
        [synth.scene("dog", (k + 0.5) * 0.05, 0)[:80, :70] for k in range(len(loudness))]
    ).astype(int)
    mouth = np.abs(heads - np.median(heads, axis=0)).mean(axis=(1, 2, 3))
    assert np.corrcoef(loudness, mouth)[0, 1] > 0.4


def test_wrong_values(tmp_path: Path) -> None:
    for call in (synth.sound, synth.scene, partial(synth.write_video, "never.mp4")):
        with pytest.raises(ConfigError, match="choose from baby, dog"):
            call("cat", 1.0, 0)
    with pytest.raises(ConfigError, match="lasts"):
        synth.sound("dog", 0.0, 0)
    with pytest.raises(ConfigError, match="even"):
        synth.write_video("never.mp4", "dog", 1.0, 0, size_px=33)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        synth.write_video(tmp_path / "file" / "a.mp4", "dog", 1.0, 0)
    with pytest.raises(OutputError):
        synth.write_examples(tmp_path / "file")


def test_videos_hold_the_scene_and_the_sound(tmp_path: Path) -> None:
    path = synth.write_video(tmp_path / "new" / "a.mp4", "train", 2.0, 3)
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]
    sound = audio.decode(path)
    made = synth.sound("train", 2.0, 3)
    # AAC delays the sound by up to a frame or two; look for it there.
    lags = range(0, 3000, 8)
    best = max(np.corrcoef(made[:60_000:7], sound[lag : lag + 60_000 : 7])[0, 1] for lag in lags)
    assert best > 0.8
    for t_s in (0.3, 1.1):
        shown = frame_at(path, t_s).astype(float)
        assert np.abs(shown - synth.scene("train", t_s, 3)).mean() < 8
    again = synth.write_video(tmp_path / "b.mp4", "train", 2.0, 3)
    # Encoders may differ in a bit from one run to the next; the eye and the ear may not.
    shown, first = (frame_at(p, 1.1).astype(float) for p in (again, path))
    assert np.abs(shown - first).mean() < 2
    np.testing.assert_allclose(audio.decode(again), sound, atol=0.02)


def test_the_bundled_examples_are_what_synth_makes(tmp_path: Path) -> None:
    for path in synth.write_examples(tmp_path):
        bundled = audio.decode(EXAMPLES / path.name)
        assert len(bundled) == 3 * 44_100
        # Another machine's arithmetic may round a sample the other way.
        np.testing.assert_allclose(bundled, audio.decode(path), atol=2e-4)
        assert mel.log_mel(bundled).mean() > 20
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir()) < 900_000


def test_the_door(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, synth.__file__, *arguments],
            capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "error"},
        )  # fmt: skip

    done = run(str(tmp_path / "out"))
    assert done.returncode == 0
    assert sorted(p.stem for p in (tmp_path / "out").iterdir()) == sorted(synth.SUBJECTS)
    assert run().returncode == 2
    failed = run(str(tmp_path / "file"))
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
