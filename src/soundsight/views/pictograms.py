"""Pictograms of the alert kinds, drawn by code: as pixels for files, as SVG for the page.

An alert is named and never imagined. Its pictogram is looked up by its name; an alert that none is
drawn for has a bell. ``static/index.html`` carries ``symbols()``, word for word.

Every pictogram is a few strokes of width 2 with round ends in a square of 24 units.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from soundsight.views.drawing import AMBER, CARD, TEXT, dressed, write_line

Point = tuple[float, float]

UNITS = 24
_STROKE = 2.0
_FINER = 4
"""Strokes are drawn at so many times the size and reduced: smooth edges."""
_LARGEST_PX = 1024
"""A larger picture is this one, enlarged."""


@dataclass(frozen=True)
class _Line:
    """Straight strokes from point to point; closed where the last point is the first."""

    points: tuple[Point, ...]

    @property
    def svg(self) -> str:
        closed = self.points[0] == self.points[-1]
        points = self.points[:-1] if closed else self.points
        way = "L".join(f"{x:g} {y:g}" for x, y in points)
        return f'<path d="M{way}{"z" if closed else ""}"/>'


@dataclass(frozen=True)
class _Arc:
    """Part of a circle, clockwise, from and to angles in degrees from three o'clock."""

    x: float
    y: float
    r: float
    start: float = 0
    end: float = 360

    @property
    def svg(self) -> str:
        if self.end - self.start >= 360:
            return f'<circle cx="{self.x:g}" cy="{self.y:g}" r="{self.r:g}"/>'
        (ax, ay), (bx, by) = (self.at(angle) for angle in (self.start, self.end))
        long = int(self.end - self.start > 180)
        return f'<path d="M{ax:g} {ay:g}A{self.r:g} {self.r:g} 0 {long} 1 {bx:g} {by:g}"/>'

    def at(self, angle: float) -> Point:
        turned = radians(angle)
        return round(self.x + self.r * cos(turned), 2), round(self.y + self.r * sin(turned), 2)


_Strokes = tuple[_Line | _Arc, ...]


def _dot(x: float, y: float) -> _Line:
    return _Line(((x, y), (x, y + 0.2)))


def _smoke(x: float) -> _Line:
    return _Line(((x, 13.5), (x - 1.5, 15.5), (x, 17.5), (x - 1.5, 19.5), (x, 21.5)))


ALERT = "alert"
"""The pictogram of an alert that has none of its own."""

_PICTOGRAMS: dict[str, _Strokes] = {
    "smoke-alarm": (
        _Line(((3, 3), (21, 3))), _Arc(12, 3, 7, 0, 180), _dot(12, 6), _smoke(7.5), _smoke(12.5),
        _smoke(17.5),
    ),
    "doorbell": (
        _Line(((7.5, 3), (16.5, 3), (16.5, 21), (7.5, 21), (7.5, 3))), _Arc(12, 12, 2.5),
        _Arc(12, 12, 8.5, -35, 35), _Arc(12, 12, 8.5, 145, 215),
    ),
    "knock": (
        _Line(((3, 2.5), (13, 2.5), (13, 21.5), (3, 21.5), (3, 2.5))), _dot(10, 12),
        _Line(((16.5, 8), (19.5, 5.5))), _Line(((17, 12), (21.5, 12))),
        _Line(((16.5, 16), (19.5, 18.5))),
    ),
    "telephone": (
        _Line((
            (4, 3), (8.5, 3), (10.5, 8.5), (8, 10.5), (13.5, 16), (15.5, 13.5), (21, 15.5),
            (21, 20), (18.5, 21.5), (10, 18), (6, 14), (2.5, 5.5), (4, 3),
        )),
    ),
    "glass": (
        _Line(((4.5, 3), (19.5, 3), (17, 21), (7, 21), (4.5, 3))),
        _Line(((12, 3), (9.5, 8), (14, 11), (10.5, 15), (12.5, 18))),
    ),
    "alarm-clock": (
        _Arc(12, 13, 7.5), _Line(((12, 9), (12, 13), (15, 15))), _Line(((3, 6.5), (6.5, 3))),
        _Line(((17.5, 3), (21, 6.5))), _Line(((6.7, 18.6), (5, 21.5))),
        _Line(((17.3, 18.6), (19, 21.5))),
    ),
    ALERT: (
        _Arc(12, 10, 6, 180, 360), _Line(((6, 10), (6, 15), (4, 18), (20, 18), (18, 15), (18, 10))),
        _Arc(12, 18.5, 2.5, 20, 160),
    ),
}  # fmt: skip

_WORDS = (
    ("smoke", "smoke-alarm"), ("doorbell", "doorbell"), ("door bell", "doorbell"),
    ("knock", "knock"), ("phone", "telephone"), ("glass", "glass"), ("alarm clock", "alarm-clock"),
)  # fmt: skip
"""What a name contains, and its pictogram; the first that fits."""


def pictogram_of(name: str) -> str:
    """Return which pictogram stands for an alert of this name."""
    spoken = name.lower().replace("_", " ").replace("-", " ")
    return next((pictogram for word, pictogram in _WORDS if word in spoken), ALERT)


def alert_picture(name: str, px: int, *, word: bool = True) -> NDArray[np.uint8]:
    """Draw an alert, its pictogram and (``word``) its name below it: uint8 [px, px, 3]."""
    side = min(px, _LARGEST_PX)
    made = Image.new("RGB", (side, side), CARD)
    room = 0.6 if word else 0.76
    size = max(1, round(room * side))
    stamp = _stamp(_PICTOGRAMS[pictogram_of(name)], size)
    top = round(0.1 * side) if word else (side - size) // 2
    made.paste(Image.new("RGB", stamp.size, AMBER), ((side - size) // 2, top), stamp)
    if word:
        _write(made, name, round(0.72 * side))
    if side != px:
        made = made.resize((px, px), Image.Resampling.LANCZOS)
    return np.array(made)


def symbols() -> str:
    """The pictograms as SVG symbols ``shape-alert-...``, one a line, for a page to ``use``."""
    return "\n".join(
        f'<symbol id="shape-alert-{name}" viewBox="0 0 {UNITS} {UNITS}">'
        f"{''.join(stroke.svg for stroke in strokes)}</symbol>"
        for name, strokes in _PICTOGRAMS.items()
    )


def _stamp(strokes: _Strokes, size: int) -> Image.Image:
    """Draw strokes as a mask of this side."""
    scale = size * _FINER / UNITS
    mask = Image.new("L", (size * _FINER, size * _FINER))
    ink = ImageDraw.Draw(mask)
    width = max(1, round(_STROKE * scale))
    half = width / 2

    def end(x: float, y: float) -> None:
        ink.ellipse((x - half, y - half, x + half, y + half), fill=255)

    for stroke in strokes:
        if isinstance(stroke, _Line):
            points = [(x * scale, y * scale) for x, y in stroke.points]
            ink.line(points, fill=255, width=width)
            for x, y in points:
                end(x, y)
            continue
        x, y, r = stroke.x * scale, stroke.y * scale, stroke.r * scale + half
        ink.arc((x - r, y - r, x + r, y + r), stroke.start, stroke.end, fill=255, width=width)
        for angle in (stroke.start, stroke.end):
            ax, ay = stroke.at(angle)
            end(ax * scale, ay * scale)
    return mask.resize((size, size), Image.Resampling.BOX)


def _write(made: Image.Image, name: str, top: int) -> None:
    """Write a name below the pictogram, as large as it fits."""
    side = made.width
    room = round(0.92 * side)
    ink = ImageDraw.Draw(made)
    size = max(8, round(0.17 * side))
    while size > max(8, 0.09 * side):
        words, font = dressed(name, size)
        if ink.textlength(words, font=font) <= room:
            break
        size -= 1
    words, font = dressed(name, size)
    width = min(room, int(ink.textlength(words, font=font)))
    write_line(ink, ((side - width) // 2, top), name, size, TEXT, room)
