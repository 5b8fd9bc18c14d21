"""What all sheets share: colours, measures, the look of a log-mel, and words in any script."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

Color = tuple[int, int, int]
PAGE: Color = (14, 16, 20)
CARD: Color = (24, 27, 33)
WELL: Color = (11, 12, 16)
TEXT: Color = (234, 231, 225)
DIM: Color = (139, 145, 156)
WAVE: Color = (132, 182, 199)
AMBER: Color = (222, 180, 112)
_HEAT: tuple[tuple[float, Color], ...] = (
    (0.0, (11, 12, 16)),
    (0.25, (44, 36, 82)),
    (0.5, (134, 54, 108)),
    (0.75, (228, 118, 84)),
    (1.0, (253, 236, 196)),
)

MARGIN_PX = 28
GAP_PX = 16
PAD_PX = 16
PICTURE_PX = 152
PANEL_PX = 236
WAVE_PX = 48
NAME_PX = 30
CAPTION_PX = 20
HEADER_PX = 58


@lru_cache(maxsize=1)
def heat() -> NDArray[np.uint8]:
    """Colours of the log-mel: uint8 [256, 3], dark to light at an even pace."""
    places = [place * 255 for place, _ in _HEAT]
    levels = np.arange(256)
    channels = [np.interp(levels, places, [color[i] for _, color in _HEAT]) for i in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


# --- words in any script ---------------------------------------------------------------------

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FALLBACKS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "arialuni.ttf",
    "arial.ttf",
    "msgothic.ttc",
)
"""Fonts to look for on the system when a name is not plain Latin. None of them is needed."""


@lru_cache(maxsize=16)
def default_font(size: int) -> Font:
    return ImageFont.load_default(size)


@lru_cache(maxsize=32)
def system_font(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has_glyph(name: str | None, char: str) -> bool:
    font = default_font(16) if name is None else system_font(name, 16)
    if font is None:
        return False
    # A font draws what it lacks as its box, the picture that a non-character gets.
    shape, missing = font.getmask(char), font.getmask("\uffff")
    return char == " " or shape.size != missing.size or bytes(shape) != bytes(missing)


def dressed(text: str, size: int) -> tuple[str, Font]:
    """Choose the font that has most of the text; what it lacks loses its accents or becomes ?."""
    clean = "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "?" for c in text)
    if all(" " <= c <= "~" for c in clean):
        return clean, default_font(size)
    letters = set(unicodedata.normalize("NFC", clean))

    def lacks(name: str | None) -> int:
        return sum(not _has_glyph(name, c) for c in letters)

    best: str | None = None
    least = lacks(None)
    for name in _FALLBACKS:
        if least == 0:
            break
        count = lacks(name)
        if count < least:
            best, least = name, count
    font = default_font(size) if best is None else system_font(best, size)
    assert font is not None
    known = "".join(
        c if _has_glyph(best, c) else _plain(c) for c in unicodedata.normalize("NFC", clean)
    )
    return known, font


def _plain(char: str) -> str:
    bare = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode("ascii")
    return bare if bare.isprintable() and bare else "?"


def write_line(
    ink: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    color: Color,
    room_px: int,
    *,
    right: bool = False,
) -> None:
    """Write one line; what is too long for ``room_px`` loses its middle, so that ends stay."""
    words, font = dressed(text[:300], size)
    if ink.textlength(words, font=font) > room_px:
        low, high = 0, len(words)
        while low < high:
            keep = (low + high + 1) // 2
            if ink.textlength(_shortened(words, keep), font=font) <= room_px:
                low = keep
            else:
                high = keep - 1
        words = _shortened(words, low)
    x, y = at
    if right:
        x -= int(ink.textlength(words, font=font))
    # The baseline is what lines up across fonts, not the top of the letters.
    ink.text((x, y + size), words, font=font, fill=color, anchor="ls")


def head(ink: ImageDraw.ImageDraw, words: str, room_px: int) -> None:
    """Write the head of a sheet: the program's name, and words beside it."""
    write_line(ink, (MARGIN_PX, 19), "soundsight", 20, TEXT, 140)
    write_line(ink, (MARGIN_PX + 118, 23), words, 15, DIM, room_px)


def centred(
    ink: ImageDraw.ImageDraw, at: tuple[int, int], px: int, words: str, size: int, color: Color
) -> None:
    """Write words in the middle of a square of ``px``, a line each."""
    middle, font = (at[0] + px // 2, at[1] + px // 2), default_font(size)
    lines = words.replace(" ", "\n")
    ink.multiline_text(middle, lines, font=font, fill=color, anchor="mm", align="center")


def clock(seconds: float, *, tenths: bool | None = None) -> str:
    """Write a time as people read it: ``0:03.2``, ``1:02:03``.

    ``tenths`` are cut off, not rounded, so that a running clock never runs ahead. None rounds, and
    writes tenths only where there are any.
    """
    count = round(seconds * 10) if tenths is None else int(seconds * 10 + 1e-6)
    whole, tenth = divmod(count, 10)
    minutes, secs = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    begin = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    shown = tenth > 0 if tenths is None else tenths
    return f"{begin}:{secs:02d}" + (f".{tenth}" if shown else "")


def _shortened(words: str, keep: int) -> str:
    head = keep - keep // 2
    return words[:head] + "..." + (words[len(words) - keep // 2 :] if keep > 1 else "")
