"""From frames of every kind to square pictures: turned, in shape, one moment, in true colours."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from soundsight.core.errors import ConfigError
from soundsight.media.frames import frame_at, open_frames
from soundsight.media.framing import CROPS, square

RED, GREEN, BLUE, YELLOW = (200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40)
CORNERS = [RED, GREEN, BLUE, YELLOW]
"""Top left, top right, bottom left, bottom right."""


def quarters(width: int, height: int) -> np.ndarray:
    """A picture of four quarters, each with its own colour."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, YELLOW
    return picture


def write(
    path: Path, picture: np.ndarray, codec: str = "libx264", pix_fmt: str = "yuv420p", *,
    space: str = "ITU601", full: bool = False, tagged: bool = False,
    options: dict[str, str] | None = None, prepare: Callable[[Any], None] | None = None,
) -> Path:  # fmt: skip
    """A video of three equal pictures uint8 [height, width, 3], in colours of a certain kind."""
    with av.open(str(path), "w") as container:
        options = {"crf": "4"} if codec == "libx264" and options is None else options or {}
        track = container.add_stream(codec, rate=25, options=options)
        track.height, track.width = picture.shape[:2]
        track.pix_fmt = pix_fmt
        if tagged:
            track.codec_context.colorspace = {"ITU709": 1, "ITU601": 6}[space]
        if tagged or full:
            track.codec_context.color_range = 2 if full else 1
        if prepare is not None:
            prepare(track)
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=pix_fmt, dst_colorspace=space, dst_color_range="JPEG" if full else "MPEG"
            )
            if not tagged:
                frame.colorspace, frame.color_range = 2, 2 if full else 0
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def first_frame(path: Path) -> tuple[Any, Fraction | None]:
    with open_frames(path) as reader:
        return next(reader.at([0.04])).frame, reader.pixel_aspect


def seen(path: Path, size_px: int = 96, crop: str = "center") -> np.ndarray:
    """The square of the second frame; ``frame_at`` has to see the same."""
    frame, aspect = first_frame(path)
    picture = square(frame, size_px, crop, aspect)
    assert picture.shape == (size_px, size_px, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    np.testing.assert_array_equal(picture, frame_at(path, 0.04, size_px, crop))
    return picture


def corners(picture: np.ndarray) -> list[tuple[int, ...]]:
    """The colours in the middles of the four quarters."""
    low, high = len(picture) // 4, 3 * len(picture) // 4
    places = ((low, low), (low, high), (high, low), (high, high))
    return [
        tuple(picture[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(0).round().astype(int))
        for y, x in places
    ]


def assert_colours(found: list[tuple[int, ...]], expected: list[tuple[int, ...]]) -> None:
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=5)


# --- colours -----------------------------------------------------------------------------------

FORMATS = {
    "601.mp4": {"tagged": True}, "709.mp4": {"tagged": True, "space": "ITU709"},
    "full.mp4": {"pix_fmt": "yuvj420p", "full": True},
    "full-709.mp4": {"tagged": True, "space": "ITU709", "full": True},
    "untagged.mp4": {}, "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "full": True,
                                      "options": {"qmin": "1", "qmax": "1"}},
    "ten-bit.mp4": {"pix_fmt": "yuv420p10le"},
    "ten-bit-full.mp4": {"pix_fmt": "yuv420p10le", "full": True},
    "ten-bit-709.mp4": {"pix_fmt": "yuv420p10le", "tagged": True, "space": "ITU709"},
    "ten-bit-hevc.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le",
                         "options": {"x265-params": "log-level=none:crf=4:pools=1"}},
    "ten-bit-422.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "444.mp4": {"pix_fmt": "yuv444p"}, "alpha.mkv": {"codec": "ffv1", "pix_fmt": "yuva420p"},
    "rgb.mov": {"codec": "png", "pix_fmt": "rgb24"},
    "rgba.mov": {"codec": "qtrle", "pix_fmt": "argb"},
    "bgr.avi": {"codec": "rawvideo", "pix_fmt": "bgr24"},
    "bgr0.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
    "gbr.mkv": {"codec": "libx264rgb", "pix_fmt": "bgr24", "options": {"crf": "4"}},
    "gbr-ten-bit.mkv": {"codec": "ffv1", "pix_fmt": "gbrp10le"},
    "packed.avi": {"codec": "rawvideo", "pix_fmt": "uyvy422"},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_colours(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, quarters(96, 96), **FORMATS[name])  # type: ignore[arg-type]
    assert_colours(corners(seen(path)), CORNERS)


def test_untagged_colours_are_those_that_the_size_implies(tmp_path: Path) -> None:
    """Without a tag a player takes HD for BT.709 and SD for BT.601: green tells them apart."""
    large = write(tmp_path / "hd.mp4", quarters(1280, 720), space="ITU709")
    assert_colours(corners(seen(large)), CORNERS)
    small = write(tmp_path / "sd.mp4", quarters(704, 576), space="ITU601")
    assert_colours(corners(seen(small)), CORNERS)
    wrong = write(tmp_path / "wrong.mp4", quarters(704, 576), space="ITU709")
    with pytest.raises(AssertionError):
        assert_colours(corners(seen(wrong)), CORNERS)


def test_grey_stays_grey(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], 96, 0).repeat(3, 2)
    for name, codec, pix_fmt in (("a.mkv", "ffv1", "gray"), ("b.mkv", "ffv1", "gray10le")):
        picture = seen(write(tmp_path / name, ramp, codec, pix_fmt))
        np.testing.assert_allclose(picture.astype(int), ramp.astype(int), atol=2)


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(101, 57), (97, 55), (57, 101), (17, 9), (64, 63)])
@pytest.mark.parametrize("crop", CROPS)
def test_odd_sizes(tmp_path: Path, width: int, height: int, crop: str) -> None:
    grey = np.full((height, width, 3), 150, np.uint8)
    path = write(tmp_path / "a.mkv", grey, "ffv1", "yuv420p")
    picture = seen(path, 96, crop)
    inside = picture
    if crop == "letterbox":
        wide, high = (96, round(96 * height / width)), (round(96 * width / height), 96)
        w, h = wide if width >= height else high
        left, top = (96 - w) // 2, (96 - h) // 2
        inside = picture[top : top + h, left : left + w]
        assert picture.astype(int).sum() == inside.astype(int).sum(), "the bars are black"
    np.testing.assert_allclose(inside.astype(int), 150, atol=2)


def test_the_center_is_the_central_square(tmp_path: Path) -> None:
    """What lies beside the square is not seen, what lies in it is in its place."""
    wide = np.zeros((96, 160, 3), np.uint8)
    wide[:, 32:128] = quarters(96, 96)
    tall = np.zeros((160, 96, 3), np.uint8)
    tall[32:128] = quarters(96, 96)
    for picture in (wide, tall):
        path = write(tmp_path / "a.mkv", picture, "ffv1", "bgr0")
        np.testing.assert_array_equal(seen(path, 96), quarters(96, 96))
    path = write(tmp_path / "odd.mp4", quarters(101, 57), pix_fmt="yuv444p")
    assert_colours(corners(seen(path)), CORNERS)


@pytest.mark.parametrize("size_px", [64, 96, 128, 255, 256])
def test_sizes(tmp_path: Path, size_px: int) -> None:
    path = write(tmp_path / "a.mp4", quarters(320, 180), pix_fmt="yuv444p")
    for crop in CROPS:
        picture = seen(path, size_px, crop)
        if crop == "center":
            assert_colours(corners(picture), CORNERS)
            # The border between the quarters lies in the middle, to a pixel.
            left, right = picture[size_px // 4, size_px // 2 + np.array([-4, 4]), 0]
            assert left > 150 > 90 > right
        else:
            height = round(size_px * 180 / 320)
            top = (size_px - height) // 2
            assert (picture[:top] == 0).all()
            assert (picture[top + height :] == 0).all()
            assert (picture[top + 1 : top + height - 1].max(axis=2) > 100).all()


def test_a_crop_that_does_not_exist(tmp_path: Path) -> None:
    frame, aspect = first_frame(write(tmp_path / "a.mp4", quarters(96, 96)))
    with pytest.raises(ConfigError, match="unknown crop 'round'; choose from center, letterbox"):
        square(frame, 96, "round", aspect)


# --- turned and stretched ----------------------------------------------------------------------


def turned(
    path: Path, picture: np.ndarray, degrees: int, aspect: Fraction | None = None, **how: Any
) -> Path:
    def prepare(track: Any) -> None:
        track.set_display_rotation(degrees)
        if aspect is not None:
            track.codec_context.sample_aspect_ratio = aspect

    return write(path, picture, prepare=prepare, **how)


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (180, 2), (270, 3), (-90, 3)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_rotation_that_the_file_names(tmp_path: Path, name: str, degrees: int, turns: int) -> None:
    """A telephone stores its picture lying and says by how much a player is to turn it."""
    path = turned(tmp_path / name, quarters(160, 96), degrees)
    expected = corners(np.rot90(quarters(96, 96), turns))
    assert_colours(corners(seen(path)), expected)
    picture = seen(path, 96, "letterbox")
    bars = picture if turns % 2 == 0 else picture.transpose(1, 0, 2)
    assert (bars[:18] == 0).all()
    assert (bars[21:75].max(axis=2) > 100).all()


@pytest.mark.parametrize("degrees", [0, 90])
def test_pixels_that_are_not_square(tmp_path: Path, degrees: int) -> None:
    """720 x 576 shown as 16:9: a drawn ellipse is a circle to those who watch."""
    aspect = Fraction(64, 45)
    y, x = np.mgrid[0:576, 0:720]
    disc = ((x - 359.5) * float(aspect)) ** 2 + (y - 287.5) ** 2 < 200**2
    picture = np.where(disc[..., None], np.uint8(220), np.uint8(30)).repeat(3, 2)
    path = turned(tmp_path / "a.mp4", picture, degrees, aspect)
    for crop, radius in (("center", 96 * 200 / 576), ("letterbox", 96 * 200 / 1024)):
        white = seen(path, 96, crop)[..., 0] > 125
        width, height = white.any(axis=0).sum(), white.any(axis=1).sum()
        assert width == pytest.approx(2 * radius, abs=1.5)
        assert height == pytest.approx(2 * radius, abs=1.5)
        assert np.argwhere(white).mean(axis=0) == pytest.approx([47.5, 47.5], abs=0.6)


def test_the_edges_of_stretched_pixels(tmp_path: Path) -> None:
    """1440 x 1080 shown as 16:9 keeps 810 of 1440 columns; 0.5 keeps all columns, half the rows."""
    for width, height, aspect in ((144, 108, Fraction(4, 3)), (96, 96, Fraction(1, 2))):
        path = turned(tmp_path / f"{width}.mp4", quarters(width, height), 0, aspect)
        assert_colours(corners(seen(path)), CORNERS)
    frame, _ = first_frame(path)
    # Nonsense counts as square.
    for nonsense in (Fraction(1, 100), Fraction(100), None, 0):
        np.testing.assert_array_equal(square(frame, 96, "center", nonsense), square(frame, 96))


# --- interlaced --------------------------------------------------------------------------------


def moving(number: int) -> np.ndarray:
    """A white bar that has moved far between two fields."""
    picture = np.full((96, 96, 3), 30, np.uint8)
    picture[:, 16 + 32 * (number % 2) :][:, :16] = 220
    return picture


INTERLACED = {
    "mpeg2.mkv": ("mpeg2video", {"flags": "+ilme+ildct", "b": "8000000"}),
    "x264.mp4": ("libx264", {"x264-params": "tff=1", "crf": "5"}),
    "bottom.mp4": ("libx264", {"x264-params": "bff=1", "crf": "5"}),
    "prores.mov": ("prores_ks", {"flags": "+ildct"}),
}


@pytest.mark.parametrize("name", INTERLACED)
def test_one_moment_of_an_interlaced_frame(tmp_path: Path, name: str) -> None:
    """The two fields of a frame are two moments: a picture of both has a comb at every edge."""
    codec, options = INTERLACED[name]
    woven = moving(0)
    woven[1::2] = moving(1)[1::2]
    pix_fmt = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    path = write(tmp_path / name, woven, codec, pix_fmt, options=options)
    assert first_frame(path)[0].interlaced_frame
    for crop in CROPS:
        columns = seen(path, 96, crop)[8:-8, :, 0].astype(float)
        assert columns.std(axis=0).max() < 8, "no comb"
        bars = [columns[:, 18:30].mean(), columns[:, 50:62].mean()]
        assert sorted(bars) == pytest.approx([30, 220], abs=12)


MIRRORED = {
    (-1, 0, 0, 1): [GREEN, RED, YELLOW, BLUE], (1, 0, 0, -1): [BLUE, YELLOW, RED, GREEN],
    (0, 1, 1, 0): [RED, BLUE, GREEN, YELLOW], (0, -1, -1, 0): [YELLOW, GREEN, BLUE, RED],
}  # fmt: skip


@pytest.mark.parametrize("matrix", MIRRORED)
def test_mirrored_pictures(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Selfies: across, upside down, and along either diagonal."""
    a, b, c, d = (value << 16 for value in matrix)

    def prepare(track: Any) -> None:
        track.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])

    path = write(tmp_path / "a.mp4", quarters(160, 96), prepare=prepare)
    assert_colours(corners(seen(path)), MIRRORED[matrix])


def test_a_field_keeps_its_shape_turn_and_colours(tmp_path: Path) -> None:
    path = turned(
        tmp_path / "a.mp4", quarters(144, 108), 90, Fraction(4, 3), space="ITU709", tagged=True,
        options={"x264-params": "tff=1", "crf": "5"},
    )  # fmt: skip
    frame, aspect = first_frame(path)
    assert frame.interlaced_frame
    assert aspect == Fraction(4, 3)
    assert_colours(corners(seen(path)), [GREEN, YELLOW, RED, BLUE])
    letterbox = seen(path, 96, "letterbox")
    # 192 x 108, turned: the bars lie left and right.
    assert (letterbox[:, :20] == 0).all()
    assert (letterbox[:, 23:73].max(axis=2) > 100).all()
