"""Pictograms of the alert kinds, drawn by code: as pixels for files, as SVG for the page.

An alert is named and never imagined. Its pictogram is looked up by its name; an alert that none is
drawn for has a bell. ``static/index.html`` carries ``symbols()``, word for word.
"""

from __future__ import annotations

from math import cos, radians, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from soundsight.views.drawing import AMBER, CARD, TEXT, dressed, write_line

UNITS = 24
_FINER = 4
"""Strokes are drawn at so many times the size and reduced: smooth edges."""
_LARGEST_PX = 1024
"""A larger picture is this one, enlarged."""

Point = tuple[float, float]
Arc = tuple[float, float, float, float, float]
"""Part of a circle: x, y, radius, and from and to angles in degrees from three o'clock, clockwise.
"""
Stroke = tuple[Point, ...] | Arc
"""Straight from point to point, closed where the last point is the first; or an arc."""


def _dot(x: float, y: float) -> Stroke:
    return (x, y), (x, y + 0.2)


def _smoke(x: float) -> Stroke:
    return (x, 13.5), (x - 1.5, 15.5), (x, 17.5), (x - 1.5, 19.5), (x, 21.5)


ALERT = "alert"
"""The pictogram of an alert that has none of its own."""

_PICTOGRAMS: dict[str, tuple[Stroke, ...]] = {
    "smoke-alarm": (
        ((3, 3), (21, 3)), (12, 3, 7, 0, 180), _dot(12, 6), _smoke(7.5), _smoke(12.5), _smoke(17.5),
    ),
    "doorbell": (
        ((7.5, 3), (16.5, 3), (16.5, 21), (7.5, 21), (7.5, 3)), (12, 12, 2.5, 0, 360),
        (12, 12, 8.5, -35, 35), (12, 12, 8.5, 145, 215),
    ),
    "knock": (
        ((3, 2.5), (13, 2.5), (13, 21.5), (3, 21.5), (3, 2.5)), _dot(10, 12),
        ((16.5, 8), (19.5, 5.5)), ((17, 12), (21.5, 12)), ((16.5, 16), (19.5, 18.5)),
    ),
    "telephone": (
        (
            (4, 3), (8.5, 3), (10.5, 8.5), (8, 10.5), (13.5, 16), (15.5, 13.5), (21, 15.5),
            (21, 20), (18.5, 21.5), (10, 18), (6, 14), (2.5, 5.5), (4, 3),
        ),
    ),
    "glass": (
        ((4.5, 3), (19.5, 3), (17, 21), (7, 21), (4.5, 3)),
        ((12, 3), (9.5, 8), (14, 11), (10.5, 15), (12.5, 18)),
    ),
    "alarm-clock": (
        (12, 13, 7.5, 0, 360), ((12, 9), (12, 13), (15, 15)), ((3, 6.5), (6.5, 3)),
        ((17.5, 3), (21, 6.5)), ((6.7, 18.6), (5, 21.5)), ((17.3, 18.6), (19, 21.5)),
    ),
    ALERT: (
        (12, 10, 6, 180, 360), ((6, 10), (6, 15), (4, 18), (20, 18), (18, 15), (18, 10)),
        (12, 18.5, 2.5, 20, 160),
    ),
}  # fmt: skip
"""Strokes of width 2 with round ends, in a square of 24 units."""

_WORDS = {
    "smoke": "smoke-alarm", "doorbell": "doorbell", "door bell": "doorbell", "knock": "knock",
    "phone": "telephone", "glass": "glass", "alarm clock": "alarm-clock",
}  # fmt: skip
"""What a name contains, and its pictogram; the first that fits."""


def pictogram_of(name: str) -> str:
    """Return which pictogram stands for an alert of this name."""
    spoken = name.lower().replace("_", " ").replace("-", " ")
    return next((pictogram for word, pictogram in _WORDS.items() if word in spoken), ALERT)


def alert_picture(name: str, px: int, *, word: bool = True) -> NDArray[np.uint8]:
    """Draw an alert, its pictogram and (``word``) its name below it: uint8 [px, px, 3]."""
    side = min(px, _LARGEST_PX)
    made = Image.new("RGB", (side, side), CARD)
    size = max(1, round((0.6 if word else 0.76) * side))
    left = (side - size) // 2
    stamp = _stamp(_PICTOGRAMS[pictogram_of(name)], size)
    made.paste(AMBER, (left, round(0.1 * side) if word else left), stamp)
    if word:
        # As large as it fits.
        ink, room = ImageDraw.Draw(made), round(0.92 * side)
        letters = max(8, round(0.17 * side))
        while (width := _width(ink, name, letters)) > room and letters > max(8, 0.09 * side):
            letters -= 1
        at = ((side - int(min(room, width))) // 2, round(0.72 * side))
        write_line(ink, at, name, letters, TEXT, room)
    if side != px:
        made = made.resize((px, px), Image.Resampling.LANCZOS)
    return np.array(made)


def _width(ink: ImageDraw.ImageDraw, name: str, size: int) -> float:
    words, font = dressed(name, size)
    return ink.textlength(words, font=font)


def symbols() -> str:
    """The pictograms as SVG symbols ``shape-alert-...``, one a line, for a page to ``use``."""
    return "\n".join(
        f'<symbol id="shape-alert-{name}" viewBox="0 0 {UNITS} {UNITS}">'
        f"{''.join(map(_svg, strokes))}</symbol>"
        for name, strokes in _PICTOGRAMS.items()
    )


def _svg(stroke: Stroke) -> str:
    if isinstance(stroke[0], tuple):
        closed = stroke[0] == stroke[-1]
        way = "L".join(f"{x:g} {y:g}" for x, y in _ends(stroke)[: -1 if closed else None])
        return f'<path d="M{way}{"z" if closed else ""}"/>'
    x, y, r, start, end = stroke
    if end - start >= 360:
        return f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}"/>'
    (ax, ay), (bx, by) = _ends(stroke)
    return f'<path d="M{ax:g} {ay:g}A{r:g} {r:g} 0 {end - start > 180:d} 1 {bx:g} {by:g}"/>'


def _ends(stroke: Stroke) -> tuple[Point, ...]:
    """The points of straight strokes, or where an arc begins and ends."""
    if isinstance(stroke[0], tuple):
        return stroke
    x, y, r, *angles = stroke
    turns = map(radians, angles)
    return tuple((round(x + r * cos(turn), 2), round(y + r * sin(turn), 2)) for turn in turns)


def _stamp(strokes: tuple[Stroke, ...], size: int) -> Image.Image:
    """Draw strokes as a mask of this side."""
    scale = size * _FINER / UNITS
    mask = Image.new("L", (size * _FINER, size * _FINER))
    ink = ImageDraw.Draw(mask)
    width = max(1, round(2 * scale))
    half = width / 2
    for stroke in strokes:
        ends = [(x * scale, y * scale) for x, y in _ends(stroke)]
        if isinstance(stroke[0], tuple):
            ink.line(ends, fill=255, width=width)
        else:
            x, y, r = (scale * value for value in stroke[:3])
            r += half
            ink.arc((x - r, y - r, x + r, y + r), *stroke[3:], fill=255, width=width)
        for x, y in ends:
            ink.ellipse((x - half, y - half, x + half, y + half), fill=255)
    return mask.resize((size, size), Image.Resampling.BOX)
