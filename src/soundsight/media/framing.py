"""From a decoded frame to the square picture that a network sees.

Done as a player would show the frame: turned where the file says so, with its pixel shape, one
field of an interlaced one, and in the colours that its size implies where the file names none.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import ConfigError

CROPS = ("center", "letterbox")
"""``center``: the central square; ``letterbox``: the whole frame between black bars."""

_HD_LINES = 720
"""Untagged video of at least so many lines is BT.709, below BT.601, as players take it."""


def square(frame: Any, size_px: int, crop: str = "center", aspect: Any = None) -> NDArray[np.uint8]:
    """Make the square picture of a PyAV frame: RGB, uint8 [size_px, size_px, 3].

    ``crop`` is one of ``CROPS``; ``aspect`` the width of a pixel over its height, or None for 1.

    Raises:
        ConfigError: on an unknown crop.
    """
    from PIL import Image

    if crop not in CROPS:
        raise ConfigError(f"unknown crop {crop!r}; choose from {', '.join(CROPS)}")
    # Nonsense in a header would crop to a sliver.
    pixel_aspect = Fraction(aspect) if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)
    stored, lines = frame, frame.height
    if frame.interlaced_frame and lines >= 4:
        frame = _one_field(frame)
        pixel_aspect *= Fraction(frame.height, lines)
    levels = _rgb(frame, lines)
    if crop == "center" and pixel_aspect == 1:
        # Whole pixels, cut out before anything else is done with the frame.
        side_px = min(levels.shape[:2])
        top, left = (levels.shape[0] - side_px) // 2, (levels.shape[1] - side_px) // 2
        levels = levels[top : top + side_px, left : left + side_px]
    shown = Image.fromarray(np.ascontiguousarray(levels))
    # In units of a pixel's height: how wide and high the frame is shown.
    width, height = float(shown.width * pixel_aspect), float(shown.height)
    if crop == "center":
        side = min(width, height)
        half_x, half_y = side / 2 / float(pixel_aspect), side / 2
        middle_x, middle_y = shown.width / 2, shown.height / 2
        picture = _resized(
            shown,
            (size_px, size_px),
            max(0.0, middle_x - half_x),
            max(0.0, middle_y - half_y),
            min(float(shown.width), middle_x + half_x),
            min(float(shown.height), middle_y + half_y),
        )
    else:
        scale = size_px / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        picture = Image.new("RGB", (size_px, size_px))
        whole = _resized(shown, inner, 0.0, 0.0, float(shown.width), float(shown.height))
        picture.paste(whole, ((size_px - inner[0]) // 2, (size_px - inner[1]) // 2))
    pixels = np.asarray(picture, dtype=np.uint8)
    matrix = stored.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        # ISO 14496-12: (x, y) is shown at (a x + c y, b x + d y).
        a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4").astype(np.int64)[:5]
        if abs(b) > abs(a):
            pixels, a, d = pixels.swapaxes(0, 1), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(pixels)


def _resized(shown: Any, size: tuple[int, int], *box: float) -> Any:
    from PIL import Image

    if (box[2] - box[0], box[3] - box[1]) == size and all(v == int(v) for v in box):
        return shown.crop(tuple(int(v) for v in box))
    # Averaging whole pixels first is ten times faster and differs by less than a level.
    return shown.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _one_field(frame: Any) -> Any:
    """The lines of the upper field: one moment instead of two."""
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
    )
    graph.link_nodes(source, graph.add("field", "type=top"), graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()


def _rgb(frame: Any, lines: int) -> NDArray[np.uint8]:
    """RGB of a frame: uint8 [height, width, 3]."""
    from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

    settings: dict[str, Any] = {}
    unspecified = 2
    if int(frame.colorspace) == unspecified and "rgb" not in frame.format.name:
        full = int(frame.color_range) == int(ColorRange.JPEG) or "yuvj" in frame.format.name
        settings = {
            "src_colorspace": Colorspace.ITU709 if lines >= _HD_LINES else Colorspace.ITU601,
            "src_color_range": ColorRange.JPEG if full else ColorRange.MPEG,
            "dst_color_range": ColorRange.JPEG,
        }
    # One thread: videos are spread over the cores, and waking others costs more than they do.
    shown: Any = VideoReformatter().reformat(frame, format="rgb24", threads=1, **settings)
    rgb: NDArray[np.uint8] = shown.to_ndarray()
    return rgb
