"""Pictures for people: PNG files that say what they are, and contact sheets of many sounds.

A card of the sheet shows one second of one sound: its name and time, the waveform over the
log-mel on one time axis, and beside them what was imagined from it. A sheet of pairs shows frames
beside the log-mels of their seconds.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, PngImagePlugin

from soundsight.core.files import atomic_file
from soundsight.views.drawing import (
    AMBER,
    CAPTION_PX,
    CARD,
    DIM,
    GAP_PX,
    HEADER_PX,
    MARGIN_PX,
    NAME_PX,
    PAD_PX,
    PAGE,
    PANEL_PX,
    PICTURE_PX,
    TEXT,
    WAVE,
    WAVE_PX,
    WELL,
    centred,
    clock,
    head,
    heat,
    write_line,
)

CAPTION = "imagined from sound"
"""What every picture says of itself: it is no photograph of anything that happened."""

NAMED_CAPTION = "named, not imagined"
"""What a pictogram says of itself instead."""

ROWS_PER_PAGE = 20
MAX_PICTURES = 12
"""More pictures of one second than this are counted on its card, not shown."""

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
        notes: for each image what to say in it instead of the caption ("quiet"), empty for a
            picture.
        captions: for each image what stands below it; ``CAPTION`` for all by default.
        more: how many further pictures there are that are not in ``images``.
    """

    name: str
    second: float
    mel: NDArray[np.uint8]
    waveform: NDArray[np.float32]
    images: Sequence[NDArray[np.uint8]]
    notes: Sequence[str]
    captions: Sequence[str] = ()
    more: int = 0


def picture(image: NDArray[np.uint8], size_px: int | None = None) -> Image.Image:
    """Make a PIL image of uint8 [px, px, 3]; ``size_px`` is the wanted side (Lanczos)."""
    made = Image.fromarray(np.ascontiguousarray(image))
    if size_px is not None and made.size != (size_px, size_px):
        made = made.resize((size_px, size_px), Image.Resampling.LANCZOS)
    return made


def save_png(image: Image.Image, path: Path, texts: Mapping[str, str]) -> None:
    """Write a PNG with text chunks, that it is imagined always among them, whole or not at all.

    Raises:
        OutputError: when the place cannot be written to.
    """
    with atomic_file(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=_said(texts))


def png_bytes(
    image: NDArray[np.uint8], texts: Mapping[str, str], size_px: int | None = None
) -> bytes:
    """The PNG of uint8 [px, px, 3] that ``save_png`` would write of its ``picture``."""
    file = io.BytesIO()
    picture(image, size_px).save(file, format="PNG", pnginfo=_said(texts))
    return file.getvalue()


def _said(texts: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for key, value in {"soundsight": CAPTION, **texts}.items():
        clean = value.encode("utf-8", "replace").decode("utf-8")
        if clean.isascii():
            info.add_text(key, clean)
        else:
            info.add_itxt(key, clean)
    return info


class SheetBook:
    """Writes a contact sheet as its rows come, holding one page of them at a time.

    One page is ``sheet.png``, several are ``sheet-1.png``, ``sheet-2.png`` and so on. ``subtitle``
    stands at the right of every page's head; ``texts`` are the text chunks of the PNGs.
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
        parts = (self._subtitle, f"page {number}" if number else "")
        page = contact_sheet(self._waiting, subtitle="   ".join(filter(None, parts)))
        path = self._folder / (f"sheet-{number}.png" if number else "sheet.png")
        sources = ", ".join(dict.fromkeys(row.name for row in self._waiting))
        save_png(page, path, {"source": sources, **self._texts})
        self.written.append(path)
        self._waiting = []


def contact_sheet(rows: Sequence[Row], *, subtitle: str = "") -> Image.Image:
    """Draw one page: RGB, as wide and as high as its cards need."""
    most = max((min(len(row.images), MAX_PICTURES) for row in rows), default=1)
    per_line = max(1, min(most, _PICTURES_PER_LINE))
    lines = max(1, -(-most // per_line))
    card_w = 2 * PAD_PX + PANEL_PX + per_line * (PICTURE_PX + GAP_PX)
    card_h = PAD_PX // 2 + NAME_PX + lines * (PICTURE_PX + CAPTION_PX) + PAD_PX
    columns = max(1, min(len(rows), _PAGE_WIDTH_PX // (card_w + GAP_PX)))
    down = -(-len(rows) // columns)
    width = 2 * MARGIN_PX + columns * card_w + (columns - 1) * GAP_PX
    height = HEADER_PX + down * (card_h + GAP_PX) - GAP_PX + MARGIN_PX
    page = Image.new("RGB", (width, height), PAGE)
    ink = ImageDraw.Draw(page)
    head(ink, CAPTION, 180)
    room = width - 2 * MARGIN_PX - 280
    write_line(ink, (width - MARGIN_PX, 24), subtitle, 14, DIM, room, right=True)
    for index, row in enumerate(rows):
        # Down the columns, as one reads a list: time goes on below, not beside.
        column, line = divmod(index, down)
        x = MARGIN_PX + column * (card_w + GAP_PX)
        y = HEADER_PX + line * (card_h + GAP_PX)
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
    ink.rounded_rectangle((x, y, x + card_w - 1, y + card_h - 1), 12, fill=CARD)
    left, right = x + PAD_PX, x + card_w - PAD_PX
    time = clock(row.second)
    write_line(ink, (left, y + 13), row.name, 17, TEXT, right - left - 100)
    write_line(ink, (right, y + 15), time, 15, DIM, 90, right=True)
    top = y + PAD_PX // 2 + NAME_PX
    paste_heard(page, row.waveform, row.mel, (left, top))
    write_line(ink, (left, top + PICTURE_PX + 4), "what was heard, 1 s", 13, DIM, PANEL_PX)
    first = left + PANEL_PX + GAP_PX
    shown = row.images[:MAX_PICTURES]
    for index, (image, note) in enumerate(zip(shown, row.notes, strict=False)):
        line, column = divmod(index, per_line)
        px = first + column * (PICTURE_PX + GAP_PX)
        py = top + line * (PICTURE_PX + CAPTION_PX)
        page.paste(picture(image, PICTURE_PX), (px, py))
        if note:
            centred(ink, (px, py), PICTURE_PX, note, 16, AMBER)
        else:
            caption = row.captions[index] if row.captions else CAPTION
            write_line(ink, (px, py + PICTURE_PX + 4), caption, 13, DIM, PICTURE_PX)
    more = row.more + len(row.images) - len(shown)
    if more:
        at = (left, top + lines * (PICTURE_PX + CAPTION_PX) - CAPTION_PX + 4)
        write_line(ink, at, f"and {more} more pictures", 13, DIM, PANEL_PX)


def paste_heard(
    page: Image.Image,
    waveform: NDArray[np.float32],
    mel: NDArray[np.uint8],
    at: tuple[int, int],
) -> None:
    """Draw a second of sound: its waveform over its log-mel, ``PANEL_PX`` by ``PICTURE_PX``."""
    left, top = at
    _waveform(page, waveform, (left, top, PANEL_PX, WAVE_PX))
    size = (PANEL_PX, PICTURE_PX - WAVE_PX - 2)
    drawn = Image.fromarray(heat()[mel]).resize(size, Image.Resampling.BILINEAR)
    page.paste(drawn, (left, top + WAVE_PX + 2))


def _waveform(
    page: Image.Image, waveform: NDArray[np.float32], box: tuple[int, int, int, int]
) -> None:
    """Draw a waveform scaled to its own loudest point; what is nearly silent stays a thin line."""
    x, y, width, height = box
    # Drawn at three times the size and reduced: thin lines without steps.
    scale = 3
    big = Image.new("RGB", (width * scale, height * scale), WELL)
    ink = ImageDraw.Draw(big)
    steps = len(waveform)
    peak = max(float(np.abs(waveform).max()) if steps else 0.0, 1e-3)
    middle = height * scale / 2
    reach = 0.92 * middle / peak
    ink.line((0, middle, width * scale, middle), fill=WAVE, width=2)
    for step in range(steps):
        low, high = float(waveform[step, 0]), float(waveform[step, 1])
        a = step * width * scale / steps
        b = (step + 1) * width * scale / steps - scale * 0.6
        ink.rectangle((a, middle - high * reach - 1, b, middle - low * reach + 1), fill=WAVE)
    page.paste(big.resize((width, height), Image.Resampling.BOX), (x, y))


# --- sheets of pairs --------------------------------------------------------------------------

_LINE_PX = 21
_PAIR_WIDTH_PX = 2 * PAD_PX + PICTURE_PX + GAP_PX // 2 + PANEL_PX
_SHEET_MIN_PX = 420


@dataclass(frozen=True, kw_only=True, eq=False)
class PairCard:
    """A pair as a sheet shows it.

    Attributes:
        mel: log-mel, uint8 [bands, frames], row 0 the highest band, 255 loud.
        image: frame, uint8 [px, px, 3].
        caption: one line below: which video, and when.
        note: a second line that stands out, such as why the pair was dropped; empty for none.
    """

    mel: NDArray[np.uint8]
    image: NDArray[np.uint8]
    caption: str
    note: str = ""


def pairs_sheet(cards: Sequence[PairCard], *, columns: int = 3, title: str = "") -> Image.Image:
    """Draw one page of pairs, row by row: RGB, as wide and as high as its cards need."""
    columns = max(1, min(columns, len(cards)))
    rows = -(-len(cards) // columns)
    lines = 2 if any(card.note for card in cards) else 1
    card_h = 2 * PAD_PX + PICTURE_PX + lines * _LINE_PX
    width = 2 * MARGIN_PX + columns * (_PAIR_WIDTH_PX + GAP_PX) - GAP_PX
    height = HEADER_PX + rows * (card_h + GAP_PX) - GAP_PX + MARGIN_PX
    page = Image.new("RGB", (max(width, _SHEET_MIN_PX), height), PAGE)
    ink = ImageDraw.Draw(page)
    head(ink, title, page.width - 2 * MARGIN_PX - 118)
    if not cards:
        write_line(ink, (MARGIN_PX, HEADER_PX - 12), "no pairs", 15, DIM, 200)
    for index, card in enumerate(cards):
        row, column = divmod(index, columns)
        x = MARGIN_PX + column * (_PAIR_WIDTH_PX + GAP_PX)
        y = HEADER_PX + row * (card_h + GAP_PX)
        ink.rounded_rectangle((x, y, x + _PAIR_WIDTH_PX - 1, y + card_h - 1), 12, fill=CARD)
        left, top = x + PAD_PX, y + PAD_PX
        page.paste(picture(card.image, PICTURE_PX), (left, top))
        mel = Image.fromarray(heat()[card.mel])
        mel = mel.resize((PANEL_PX, PICTURE_PX), Image.Resampling.BILINEAR)
        page.paste(mel, (left + PICTURE_PX + GAP_PX // 2, top))
        room = _PAIR_WIDTH_PX - 2 * PAD_PX
        below = top + PICTURE_PX + 6
        write_line(ink, (left, below), card.caption, 14, TEXT, room)
        write_line(ink, (left, below + _LINE_PX), card.note, 14, AMBER, room)
    return page
