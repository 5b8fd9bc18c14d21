"""Videos: what they say of themselves, and the frame that is shown at a time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from soundsight.core.errors import VideoError
from soundsight.media import framing, synth, video


def grey_steps(
    path: Path, levels: list[int], *, width: int = 128, height: int = 64, fps: int = 10,
    times: list[int] | None = None, gop: int = 12,
) -> Path:  # fmt: skip
    """A video whose frame k has the level ``levels[k]`` in its centre and 0 at its sides."""
    import av

    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=fps, options={"crf": "5", "g": str(gop)})
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        for index, level in enumerate(levels):
            picture = np.zeros((height, width, 3), np.uint8)
            side = min(width, height)
            top, left = (height - side) // 2, (width - side) // 2
            picture[top : top + side, left : left + side] = level
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = times[index] if times else index
            frame.time_base = Fraction(1, fps)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def level(picture: np.ndarray) -> float:
    return float(picture[16:-16, 16:-16].mean())


def test_probe(tmp_path: Path) -> None:
    path = synth.write_video(tmp_path / "a.mp4", "dog", 2.0, 0, size_px=64)
    assert video.probe(path) == video.VideoInfo(
        width_px=64, height_px=64, duration_s=2.0, fps=10.0, has_sound=True
    )
    silent = video.probe(grey_steps(tmp_path / "b.mp4", [10] * 15))
    assert (silent.width_px, silent.height_px, silent.has_sound) == (128, 64, False)
    assert silent.duration_s == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_frame_of_every_time(tmp_path: Path, name: str) -> None:
    """Key frames lie 12 frames apart and B-frames between: times must still be exact."""
    levels = [5 + 8 * k for k in range(30)]
    path = grey_steps(tmp_path / name, levels)
    for k in (0, 1, 5, 11, 12, 13, 23, 24, 29):
        for t_s in (k / 10, k / 10 + 0.05, k / 10 + 0.095):
            assert level(video.frame_at(path, t_s)) == pytest.approx(levels[k], abs=3)


def test_uneven_time_stamps(tmp_path: Path) -> None:
    path = grey_steps(tmp_path / "a.mp4", [20, 80, 140, 200], times=[0, 1, 7, 9])
    for t_s, expected in ((0.05, 20), (0.1, 80), (0.65, 80), (0.7, 140), (0.89, 140), (0.9, 200)):
        assert level(video.frame_at(path, t_s)) == pytest.approx(expected, abs=3)


@pytest.mark.parametrize(("width", "height"), [(128, 64), (64, 128), (96, 96), (640, 480)])
def test_the_central_square_is_cut_out(tmp_path: Path, width: int, height: int) -> None:
    path = grey_steps(tmp_path / "a.mp4", [200], width=width, height=height)
    for size_px in (96, 32):
        picture = video.frame_at(path, 0, size_px)
        assert picture.shape == (size_px, size_px, 3)
        assert picture.dtype == np.uint8
        # No black border has come in from the sides.
        np.testing.assert_allclose(picture[2:-2, 2:-2].astype(float), 200, atol=6)


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    path = synth.write_video(tmp_path / "a.mp4", "dog", 1.0, 0, size_px=96)
    drawn = synth.scene("dog", 0.5, 0).astype(float)
    shown = video.frame_at(path, 0.5).astype(float)
    assert np.abs(shown - drawn).mean() < 8
    assert np.abs(shown[..., ::-1] - drawn).mean() > 15


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_turned_videos(degrees: int, turns: int) -> None:
    """A telephone held upright stores its picture lying, and says by how much to turn it."""

    class Turned:
        rotation = degrees

    assert framing.quarter_turns(Turned()) == turns


@pytest.mark.parametrize("t_s", [-0.1, 1.51, 7.0, float("nan")])
def test_times_outside(tmp_path: Path, t_s: float) -> None:
    path = grey_steps(tmp_path / "a.mp4", [10] * 15)
    with pytest.raises(VideoError, match="no frame at"):
        video.frame_at(path, t_s)


def test_no_video(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(44_100), 44_100)
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    (tmp_path / "empty.mp4").touch()
    whole = synth.write_video(tmp_path / "whole.mp4", "baby", 1.0, 0).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    synth.write_examples(tmp_path)
    for name, says in {
        "a.wav": "no picture track", "text.mp4": "no sound or video", "empty.mp4": "is empty",
        "cut.mp4": "cut short", "missing.mp4": "does not exist", "": "is a folder",
    }.items():  # fmt: skip
        for call in (video.probe, lambda path: video.frame_at(path, 0.0)):
            with pytest.raises(VideoError, match=says) as caught:
                call(tmp_path / name)
            assert "\n" not in str(caught.value)


def test_a_photo_is_no_video(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(VideoError, match="is no video"):
        video.probe(tmp_path / "a.png")


def test_real_videos(bench: Path) -> None:
    files = sorted((bench / "videos").glob("*.mp4"))
    assert len(files) == 8
    for file in files:
        info = video.probe(file)
        assert info.duration_s is not None
        assert 7 < info.duration_s < 31
        assert info.has_sound == ("no_audio" not in file.name)
        early, late = video.frame_at(file, 0.5), video.frame_at(file, info.duration_s - 0.5)
        assert early.shape == (96, 96, 3)
        assert early.std() > 5
        assert (early != late).any()
