"""What all pictures share: colours, the look of a log-mel, words in any script, and PNG files."""

from __future__ import annotations

import io
import unicodedata
from bisect import bisect
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from soundsight.core.files import atomic_file

CAPTION = "imagined from sound"
"""What every picture says of itself: it is no photograph of anything that happened."""

NAMED_CAPTION = "named, not imagined"
"""What a pictogram says of itself instead."""

Color = tuple[int, int, int]
PAGE: Color = (14, 16, 20)
CARD: Color = (24, 27, 33)
WELL: Color = (11, 12, 16)
TEXT: Color = (234, 231, 225)
DIM: Color = (139, 145, 156)
WAVE: Color = (132, 182, 199)
AMBER: Color = (222, 180, 112)
_HEAT = ((11, 12, 16), (44, 36, 82), (134, 54, 108), (228, 118, 84), (253, 236, 196))

MARGIN_PX = 28
GAP_PX = 16


@lru_cache(maxsize=1)
def heat() -> NDArray[np.uint8]:
    """Colours of the log-mel: uint8 [256, 3], dark to light at an even pace."""
    places = np.linspace(0, 255, len(_HEAT))
    channels = [np.interp(np.arange(256), places, channel) for channel in zip(*_HEAT, strict=True)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


# --- pictures and PNG files ------------------------------------------------------------------


def picture(image: NDArray[np.uint8], size_px: int | None = None) -> Image.Image:
    """Make a PIL image of uint8 [px, px, 3]; ``size_px`` is the wanted side (Lanczos)."""
    made = Image.fromarray(np.ascontiguousarray(image))
    if size_px is not None and made.size != (size_px, size_px):
        made = made.resize((size_px, size_px), Image.Resampling.LANCZOS)
    return made


def png_bytes(image: Image.Image, texts: Mapping[str, str] | None) -> bytes:
    """Encode a PNG with text chunks, that it is imagined among them; None: without any."""
    info = PngImagePlugin.PngInfo()
    for key, value in ({} if texts is None else {"soundsight": CAPTION, **texts}).items():
        clean = value.encode("utf-8", "replace").decode("utf-8")
        add = info.add_text if clean.isascii() else info.add_itxt
        add(key, clean)
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def save_png(image: Image.Image, path: Path, texts: Mapping[str, str]) -> None:
    """Write what ``png_bytes`` gives, whole or not at all.

    Raises:
        OutputError: when the place cannot be written to.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(png_bytes(image, texts))


# --- words in any script ---------------------------------------------------------------------

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FALLBACKS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf",
    "arialuni.ttf", "arial.ttf", "msgothic.ttc",
)  # fmt: skip
"""Fonts to look for on the system when a name is not plain Latin. None of them is needed."""


@lru_cache(maxsize=64)
def font_of(name: str | None, size: int) -> Font | None:
    """A system's font, None where there is none of this name; without a name Pillow's own."""
    if name is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has_glyph(name: str | None, char: str) -> bool:
    font = font_of(name, 16)
    if font is None:
        return False
    # A font draws what it lacks as its box, the picture that a non-character gets.
    shape, missing = font.getmask(char), font.getmask("\uffff")
    return char == " " or shape.size != missing.size or bytes(shape) != bytes(missing)


def dressed(text: str, size: int) -> tuple[str, Font]:
    """Choose the font that has most of the text; what it lacks loses its accents or becomes ?."""
    clean = "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "?" for c in text)
    clean = unicodedata.normalize("NFC", clean)
    best: str | None = None
    if not clean.isascii():
        names = (None, *_FALLBACKS)
        best = min(names, key=lambda name: sum(not _has_glyph(name, c) for c in set(clean)))
    font = font_of(best, size)
    assert font is not None
    return "".join(c if c.isascii() or _has_glyph(best, c) else _plain(c) for c in clean), font


def _plain(char: str) -> str:
    bare = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode("ascii")
    return bare if bare.isprintable() and bare else "?"


def width_of(ink: ImageDraw.ImageDraw, words: str, size: int) -> int:
    """Width of plain Latin words in pixels."""
    return int(ink.textlength(words, font=font_of(None, size)))


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

    def too_long(keep: int) -> bool:
        return ink.textlength(_shortened(words, keep), font=font) > room_px

    if ink.textlength(words, font=font) > room_px:
        words = _shortened(words, bisect(range(1, len(words) + 1), False, key=too_long))
    x, y = at
    if right:
        x -= int(ink.textlength(words, font=font))
    # The baseline is what lines up across fonts, not the top of the letters.
    ink.text((x, y + size), words, font=font, fill=color, anchor="ls")


def _shortened(words: str, keep: int) -> str:
    tail = keep // 2
    return f"{words[: keep - tail]}...{words[len(words) - tail :]}"


def centred(
    ink: ImageDraw.ImageDraw, at: tuple[int, int], px: int, words: str, size: int, color: Color
) -> None:
    """Write words in the middle of a square of ``px``, a line each."""
    middle = (at[0] + px // 2, at[1] + px // 2)
    lines, font = words.replace(" ", "\n"), font_of(None, size)
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
