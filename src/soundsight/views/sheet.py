"""Pictures for people: PNG files that say what they are, and contact sheets of many sounds.

A card of the sheet shows one second of one sound: its name and time, the waveform over the
log-mel on one time axis, and beside them what was imagined from it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from soundsight.core.runs import atomic_file

CAPTION = "imagined from sound"
"""What every picture says of itself: it is no photograph of anything that happened."""

ROWS_PER_PAGE = 20
MAX_PICTURES = 12
"""More pictures of one second than this are counted on its card, not shown."""

Color = tuple[int, int, int]
_PAGE: Color = (14, 16, 20)
_CARD: Color = (24, 27, 33)
_WELL: Color = (11, 12, 16)
_TEXT: Color = (234, 231, 225)
_DIM: Color = (139, 145, 156)
_WAVE: Color = (132, 182, 199)
_AMBER: Color = (222, 180, 112)
_HEAT: tuple[tuple[float, Color], ...] = (
    (0.0, (11, 12, 16)),
    (0.25, (44, 36, 82)),
    (0.5, (134, 54, 108)),
    (0.75, (228, 118, 84)),
    (1.0, (253, 236, 196)),
)

_MARGIN_PX = 28
_GAP_PX = 16
_PAD_PX = 16
_PICTURE_PX = 152
_PANEL_PX = 236
_WAVE_PX = 48
_NAME_PX = 30
_CAPTION_PX = 20
_HEADER_PX = 58
_PICTURES_PER_LINE = 6
_PAGE_WIDTH_PX = 1640


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One second of one sound, with what was imagined from it.

    Attributes:
        name: the sound's name, in any script.
        second: where the second starts in the sound, in seconds.
        mel: uint8 [128, 100], row 0 the highest band, 255 loud.
        waveform: float32 [k, 2], the lowest and highest sample of k equal steps, full scale 1.
        images: uint8 [px, px, 3] each, one for every draw.
        notes: for each image what to say instead of the caption ("quiet"), empty for a picture.
        more: how many further pictures there are that are not in ``images``.
    """

    name: str
    second: float
    mel: NDArray[np.uint8]
    waveform: NDArray[np.float32]
    images: Sequence[NDArray[np.uint8]]
    notes: Sequence[str]
    more: int = 0


def picture(image: NDArray[np.uint8], size_px: int | None = None) -> Image.Image:
    """Make a PIL image of uint8 [px, px, 3]; ``size_px`` is the wanted side (Lanczos)."""
    made = Image.fromarray(np.ascontiguousarray(image))
    if size_px is not None and made.size != (size_px, size_px):
        made = made.resize((size_px, size_px), Image.Resampling.LANCZOS)
    return made


def save_png(image: Image.Image, path: Path, texts: Mapping[str, str]) -> None:
    """Write a PNG that says that it is imagined, whole or not at all.

    Args:
        texts: further text chunks (name -> value); "soundsight" is always written.

    Raises:
        OutputError: when the place cannot be written to.
    """
    info = PngImagePlugin.PngInfo()
    for key, value in {"soundsight": CAPTION, **texts}.items():
        clean = value.encode("utf-8", "replace").decode("utf-8")
        if clean.isascii():
            info.add_text(key, clean)
        else:
            info.add_itxt(key, clean)
    with atomic_file(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def contact_sheet(
    rows: Sequence[Row], *, subtitle: str = "", rows_per_page: int = ROWS_PER_PAGE
) -> list[Image.Image]:
    """Draw the pages of a contact sheet.

    Args:
        rows: what to show, in order.
        subtitle: small words at the right of every page's head, such as the model's name.
        rows_per_page: cards on a page.

    Returns:
        RGB pages; none for no rows.
    """
    parts = [rows[i : i + rows_per_page] for i in range(0, len(rows), rows_per_page)]
    numbers = range(1, len(parts) + 1) if len(parts) > 1 else [0]
    return [
        draw_page(part, subtitle=_numbered(subtitle, number))
        for part, number in zip(parts, numbers, strict=False)
    ]


class SheetBook:
    """Writes a contact sheet as its rows come, holding one page of them at a time.

    One page is ``sheet.png``, several are ``sheet-1.png``, ``sheet-2.png`` and so on.

    Args:
        folder: where the pages go.
        subtitle: small words at the right of every page's head, such as the model's name.
        texts: text chunks of the pages' PNGs.
        rows_per_page: cards on a page.
    """

    def __init__(
        self,
        folder: Path,
        *,
        subtitle: str = "",
        texts: Mapping[str, str] | None = None,
        rows_per_page: int = ROWS_PER_PAGE,
    ) -> None:
        self._folder = folder
        self._subtitle = subtitle
        self._texts = dict(texts or {})
        self._rows_per_page = rows_per_page
        self._waiting: list[Row] = []
        self.written: list[Path] = []

    def add(self, row: Row) -> None:
        """Add a row; a full page is written when the next row comes.

        Raises:
            OutputError: when the page cannot be written.
        """
        if len(self._waiting) == self._rows_per_page:
            self._write(len(self.written) + 1)
        self._waiting.append(row)

    def close(self) -> list[Path]:
        """Write what is left and return the paths of all pages."""
        if self._waiting:
            self._write(len(self.written) + 1 if self.written else 0)
        return self.written

    def _write(self, number: int) -> None:
        page = draw_page(self._waiting, subtitle=_numbered(self._subtitle, number))
        path = self._folder / (f"sheet-{number}.png" if number else "sheet.png")
        sources = ", ".join(dict.fromkeys(row.name for row in self._waiting))
        save_png(page, path, {"source": sources, **self._texts})
        self.written.append(path)
        self._waiting = []


def _numbered(subtitle: str, number: int) -> str:
    parts = [subtitle, f"page {number}" if number else ""]
    return "   ".join(part for part in parts if part)


def draw_page(rows: Sequence[Row], *, subtitle: str = "") -> Image.Image:
    """Draw one page: RGB, as wide and as high as its cards need."""
    most = max((min(len(row.images), MAX_PICTURES) for row in rows), default=1)
    per_line = max(1, min(most, _PICTURES_PER_LINE))
    lines = max(1, -(-most // per_line))
    card_w = 2 * _PAD_PX + _PANEL_PX + per_line * (_PICTURE_PX + _GAP_PX)
    card_h = _PAD_PX // 2 + _NAME_PX + lines * (_PICTURE_PX + _CAPTION_PX) + _PAD_PX
    columns = max(1, min(len(rows), _PAGE_WIDTH_PX // (card_w + _GAP_PX)))
    down = -(-len(rows) // columns)
    width = 2 * _MARGIN_PX + columns * card_w + (columns - 1) * _GAP_PX
    height = _HEADER_PX + down * (card_h + _GAP_PX) - _GAP_PX + _MARGIN_PX
    page = Image.new("RGB", (width, height), _PAGE)
    ink = ImageDraw.Draw(page)
    _text(ink, (_MARGIN_PX, 19), "soundsight", 20, _TEXT, 140)
    _text(ink, (_MARGIN_PX + 118, 23), CAPTION, 15, _DIM, 180)
    room = width - 2 * _MARGIN_PX - 280
    _text(ink, (width - _MARGIN_PX, 24), subtitle, 14, _DIM, room, right=True)
    for index, row in enumerate(rows):
        # Down the columns, as one reads a list: time goes on below, not beside.
        column, line = divmod(index, down)
        x = _MARGIN_PX + column * (card_w + _GAP_PX)
        y = _HEADER_PX + line * (card_h + _GAP_PX)
        _card(page, ink, row, (x, y, card_w, card_h), per_line, lines)
    return page


def _card(
    page: Image.Image,
    ink: ImageDraw.ImageDraw,
    row: Row,
    box: tuple[int, int, int, int],
    per_line: int,
    lines: int,
) -> None:
    x, y, card_w, card_h = box
    ink.rounded_rectangle((x, y, x + card_w - 1, y + card_h - 1), 12, fill=_CARD)
    left, right = x + _PAD_PX, x + card_w - _PAD_PX
    time = clock(row.second)
    _text(ink, (left, y + 13), row.name, 17, _TEXT, right - left - 100)
    _text(ink, (right, y + 15), time, 15, _DIM, 90, right=True)
    top = y + _PAD_PX // 2 + _NAME_PX
    mel_h = _PICTURE_PX - _WAVE_PX - 2
    _waveform(page, row.waveform, (left, top, _PANEL_PX, _WAVE_PX))
    mel = Image.fromarray(_heat()[row.mel]).resize((_PANEL_PX, mel_h), Image.Resampling.BILINEAR)
    page.paste(mel, (left, top + _WAVE_PX + 2))
    _text(ink, (left, top + _PICTURE_PX + 4), "what was heard, 1 s", 13, _DIM, _PANEL_PX)
    first = left + _PANEL_PX + _GAP_PX
    shown = row.images[:MAX_PICTURES]
    for index, (image, note) in enumerate(zip(shown, row.notes, strict=False)):
        line, column = divmod(index, per_line)
        px = first + column * (_PICTURE_PX + _GAP_PX)
        py = top + line * (_PICTURE_PX + _CAPTION_PX)
        page.paste(picture(image, _PICTURE_PX), (px, py))
        if note:
            middle = (px + _PICTURE_PX // 2, py + _PICTURE_PX // 2)
            ink.multiline_text(
                middle,
                note.replace(" ", "\n"),
                font=_default_font(16),
                fill=_AMBER,
                anchor="mm",
                align="center",
            )
        else:
            _text(ink, (px, py + _PICTURE_PX + 4), CAPTION, 13, _DIM, _PICTURE_PX)
    more = row.more + len(row.images) - len(shown)
    if more:
        at = (left, top + lines * (_PICTURE_PX + _CAPTION_PX) - _CAPTION_PX + 4)
        _text(ink, at, f"and {more} more pictures", 13, _DIM, _PANEL_PX)


def clock(seconds: float) -> str:
    """Write a time as people read it: ``0:03.2``, ``1:02:03`` (tenths only where there are any).

    Args:
        seconds: at least 0.
    """
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    whole, tenth = divmod(rest, 10)
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{head}:{whole:02d}" + (f".{tenth}" if tenth else "")


def _waveform(
    page: Image.Image, waveform: NDArray[np.float32], box: tuple[int, int, int, int]
) -> None:
    """Draw a waveform scaled to its own loudest point; what is nearly silent stays a thin line."""
    x, y, width, height = box
    # Drawn at three times the size and reduced: thin lines without steps.
    scale = 3
    big = Image.new("RGB", (width * scale, height * scale), _WELL)
    ink = ImageDraw.Draw(big)
    steps = len(waveform)
    peak = max(float(np.abs(waveform).max()) if steps else 0.0, 1e-3)
    middle = height * scale / 2
    reach = 0.92 * middle / peak
    ink.line((0, middle, width * scale, middle), fill=_WAVE, width=2)
    for step in range(steps):
        low, high = float(waveform[step, 0]), float(waveform[step, 1])
        a = step * width * scale / steps
        b = (step + 1) * width * scale / steps - scale * 0.6
        ink.rectangle((a, middle - high * reach - 1, b, middle - low * reach + 1), fill=_WAVE)
    page.paste(big.resize((width, height), Image.Resampling.BOX), (x, y))


@lru_cache(maxsize=1)
def _heat() -> NDArray[np.uint8]:
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
def _default_font(size: int) -> Font:
    return ImageFont.load_default(size)


@lru_cache(maxsize=32)
def _system_font(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has_glyph(name: str | None, char: str) -> bool:
    font = _default_font(16) if name is None else _system_font(name, 16)
    if font is None:
        return False
    # A font draws what it lacks as its box, the picture that a non-character gets.
    shape, missing = font.getmask(char), font.getmask("\uffff")
    return char == " " or shape.size != missing.size or bytes(shape) != bytes(missing)


def _dressed(text: str, size: int) -> tuple[str, Font]:
    """Choose the font that has most of the text; what it lacks loses its accents or becomes ?."""
    clean = "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "?" for c in text)
    if all(" " <= c <= "~" for c in clean):
        return clean, _default_font(size)
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
    font = _default_font(size) if best is None else _system_font(best, size)
    assert font is not None
    known = "".join(
        c if _has_glyph(best, c) else _plain(c) for c in unicodedata.normalize("NFC", clean)
    )
    return known, font


def _plain(char: str) -> str:
    bare = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode("ascii")
    return bare if bare.isprintable() and bare else "?"


def _text(
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
    words, font = _dressed(text[:300], size)
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


def _shortened(words: str, keep: int) -> str:
    head = keep - keep // 2
    return words[:head] + "..." + (words[len(words) - keep // 2 :] if keep > 1 else "")
