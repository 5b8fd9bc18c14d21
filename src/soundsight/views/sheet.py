"""Sheets: pictures of many sounds, of many pairs, and of the events of one file.

A card shows a second of sound, the waveform over the log-mel on one time axis, and beside them
what was imagined from it. The storyboard of a file has its time line above the cards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from soundsight.core.state import State
from soundsight.views import drawing
from soundsight.views.drawing import (
    AMBER,
    CAPTION,
    CARD,
    DIM,
    GAP_PX,
    MARGIN_PX,
    PAGE,
    TEXT,
    WAVE,
    WELL,
    centred,
    clock,
    heat,
    picture,
    save_png,
    width_of,
    write_line,
)  # fmt: skip

if TYPE_CHECKING:
    from soundsight.views.events import FileEvent, FileEvents

PICTURE_PX = 152
ROWS_PER_PAGE = 20
MAX_PICTURES = 12
"""More pictures of one second than this are counted on its card, not shown."""

_PAD_PX = 16
_PANEL_PX = 236
_WAVE_PX = 48
_NAME_PX = 30
_CAPTION_PX = 20
_HEADER_PX = 58
_CARD_TOP = _PAD_PX // 2 + _NAME_PX
_PICTURES_PER_LINE = 6
_PAGE_WIDTH_PX = 1640

Box = tuple[int, int, int, int]


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


class SheetBook:
    """Writes a contact sheet as its rows come, holding one page of them at a time.

    One page is ``sheet.png``, several are ``sheet-1.png``, ``sheet-2.png`` and so on. ``subtitle``
    stands at the right of every page's head; ``texts`` are the text chunks of the PNGs.
    """

    def __init__(self, folder: Path, subtitle: str, texts: Mapping[str, str]) -> None:
        self._folder, self._subtitle, self._texts = folder, subtitle, texts
        self._waiting: list[Row] = []
        self.written: list[Path] = []

    def add(self, row: Row) -> None:
        """Add a row; a full page is written when the next row comes.

        Raises:
            OutputError: when the page cannot be written.
        """
        if len(self._waiting) == ROWS_PER_PAGE:
            self._write(len(self.written) + 1)
        self._waiting.append(row)

    def close(self) -> list[Path]:
        """Write what is left and return the paths of all pages."""
        if self._waiting:
            self._write(len(self.written) + 1 if self.written else 0)
        return self.written

    def _write(self, number: int) -> None:
        subtitle = self._subtitle + (f"   page {number}" if number else "")
        path = self._folder / (f"sheet-{number}.png" if number else "sheet.png")
        sources = ", ".join(dict.fromkeys(row.name for row in self._waiting))
        page = contact_sheet(self._waiting, subtitle=subtitle)
        save_png(page, path, {"source": sources, **self._texts})
        self.written.append(path)
        self._waiting = []


def contact_sheet(rows: Sequence[Row], *, subtitle: str = "") -> Image.Image:
    """Draw one page: RGB, as wide and as high as its cards need."""
    most = max((min(len(row.images), MAX_PICTURES) for row in rows), default=1)
    per_line = max(1, min(most, _PICTURES_PER_LINE))
    lines = max(1, -(-most // per_line))
    card_w = 2 * _PAD_PX + _PANEL_PX + per_line * (PICTURE_PX + GAP_PX)
    card_h = _CARD_TOP + lines * (PICTURE_PX + _CAPTION_PX) + _PAD_PX
    columns = max(1, min(len(rows), _PAGE_WIDTH_PX // (card_w + GAP_PX)))
    down = -(-len(rows) // columns)
    width = 2 * MARGIN_PX + columns * (card_w + GAP_PX) - GAP_PX
    page, ink = _page(width, _HEADER_PX + down * (card_h + GAP_PX) - GAP_PX, CAPTION, 180)
    room = width - 2 * MARGIN_PX - 280
    write_line(ink, (width - MARGIN_PX, 24), subtitle, 14, DIM, room, right=True)
    for index, row in enumerate(rows):
        # Down the columns, as one reads a list: time goes on below, not beside.
        column, line = divmod(index, down)
        x = MARGIN_PX + column * (card_w + GAP_PX)
        y = _HEADER_PX + line * (card_h + GAP_PX)
        left, right, top = _card(ink, (x, y, card_w, card_h))
        write_line(ink, (left, y + 13), row.name, 17, TEXT, right - left - 100)
        write_line(ink, (right, y + 15), clock(row.second), 15, DIM, 90, right=True)
        _paste_heard(page, row.waveform, row.mel, (left, top))
        write_line(ink, (left, top + PICTURE_PX + 4), "what was heard, 1 s", 13, DIM, _PANEL_PX)
        shown = row.images[:MAX_PICTURES]
        captions = row.captions or [CAPTION] * len(shown)
        for place, (image, note) in enumerate(zip(shown, row.notes, strict=False)):
            px = left + _PANEL_PX + GAP_PX + place % per_line * (PICTURE_PX + GAP_PX)
            py = top + place // per_line * (PICTURE_PX + _CAPTION_PX)
            page.paste(picture(image, PICTURE_PX), (px, py))
            if note:
                centred(ink, (px, py), PICTURE_PX, note, 16, AMBER)
            else:
                write_line(ink, (px, py + PICTURE_PX + 4), captions[place], 13, DIM, PICTURE_PX)
        more = row.more + len(row.images) - len(shown)
        if more:
            at = (left, top + lines * (PICTURE_PX + _CAPTION_PX) - _CAPTION_PX + 4)
            write_line(ink, at, f"and {more} more pictures", 13, DIM, _PANEL_PX)
    return page


def _page(
    width: int, height: int, words: str, room_px: int
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A page of this height and a margin below, with the program's name and words in its head."""
    page = Image.new("RGB", (width, height + MARGIN_PX), PAGE)
    ink = ImageDraw.Draw(page)
    write_line(ink, (MARGIN_PX, 19), "soundsight", 20, TEXT, 140)
    write_line(ink, (MARGIN_PX + 118, 23), words, 15, DIM, room_px)
    return page, ink


def _card(ink: ImageDraw.ImageDraw, box: Box) -> tuple[int, int, int]:
    """Draw an empty card (x, y, width, height): where its content begins and ends, and its top."""
    x, y, width, height = box
    ink.rounded_rectangle((x, y, x + width - 1, y + height - 1), 12, fill=CARD)
    return x + _PAD_PX, x + width - _PAD_PX, y + _CARD_TOP


def _paste_mel(page: Image.Image, mel: NDArray[np.uint8], box: Box) -> None:
    x, y, *size = box
    drawn = Image.fromarray(heat()[mel]).resize((size[0], size[1]), Image.Resampling.BILINEAR)
    page.paste(drawn, (x, y))


def _paste_heard(
    page: Image.Image, waveform: NDArray[np.float32], mel: NDArray[np.uint8], at: tuple[int, int]
) -> None:
    """Draw a second of sound, its waveform over its log-mel.

    The waveform is scaled to its own loudest point; what is nearly silent stays a thin line.
    """
    x, y = at
    # Drawn at three times the size and reduced: thin lines without steps.
    scale = 3
    width, steps = _PANEL_PX * scale, len(waveform)
    big = Image.new("RGB", (width, _WAVE_PX * scale), WELL)
    ink = ImageDraw.Draw(big)
    middle = _WAVE_PX * scale / 2
    reach = 0.92 * middle / max(float(np.abs(waveform).max(initial=0.0)), 1e-3)
    ink.line((0, middle, width, middle), fill=WAVE, width=2)
    for step, (low, high) in enumerate(waveform.tolist()):
        a, b = step * width / steps, (step + 1) * width / steps - scale * 0.6
        ink.rectangle((a, middle - high * reach - 1, b, middle - low * reach + 1), fill=WAVE)
    page.paste(big.resize((_PANEL_PX, _WAVE_PX), Image.Resampling.BOX), at)
    _paste_mel(page, mel, (x, y + _WAVE_PX + 2, _PANEL_PX, PICTURE_PX - _WAVE_PX - 2))


# --- sheets of pairs --------------------------------------------------------------------------

_LINE_PX = 21
_PAIR_W = 2 * _PAD_PX + PICTURE_PX + GAP_PX // 2 + _PANEL_PX
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
    card_h = 2 * _PAD_PX + PICTURE_PX + lines * _LINE_PX
    width = max(2 * MARGIN_PX + columns * (_PAIR_W + GAP_PX) - GAP_PX, _SHEET_MIN_PX)
    height = _HEADER_PX + rows * (card_h + GAP_PX) - GAP_PX
    page, ink = _page(width, height, title, width - 2 * MARGIN_PX - 118)
    if not cards:
        write_line(ink, (MARGIN_PX, _HEADER_PX - 12), "no pairs", 15, DIM, 200)
    for index, card in enumerate(cards):
        row, column = divmod(index, columns)
        x = MARGIN_PX + column * (_PAIR_W + GAP_PX)
        y = _HEADER_PX + row * (card_h + GAP_PX)
        left, right, _ = _card(ink, (x, y, _PAIR_W, card_h))
        top = y + _PAD_PX
        page.paste(picture(card.image, PICTURE_PX), (left, top))
        _paste_mel(page, card.mel, (left + PICTURE_PX + GAP_PX // 2, top, _PANEL_PX, PICTURE_PX))
        below = top + PICTURE_PX + 6
        write_line(ink, (left, below), card.caption, 14, TEXT, right - left)
        write_line(ink, (left, below + _LINE_PX), card.note, 14, AMBER, right - left)
    return page


# --- the events of a file ---------------------------------------------------------------------

MAX_CARDS = 60
"""Events with a card of their own; of more the surest are shown, and a line says so."""

_COLUMNS = 3
_CARD_W = 2 * _PAD_PX + _PANEL_PX + GAP_PX + PICTURE_PX
_CARD_H = _CARD_TOP + 24 + PICTURE_PX + _CAPTION_PX + _PAD_PX
_BOARD_W = 2 * MARGIN_PX + _COLUMNS * (_CARD_W + GAP_PX) - GAP_PX
_TITLE_PX = 44
_LINE_WAVE_PX, _LINE_MEL_PX = 72, 128
_LEGEND_PX = 30


def storyboard(found: FileEvents) -> Image.Image:
    """Draw the sheet of a file: RGB, 1,396 px wide, at most 5,800 px high.

    A head, the time line, and a card for each event.
    """
    cards = shown_events(found.events)
    legend = [*found.warnings]
    if found.events:
        legend.append("The pictures are imagined, they show nothing that was filmed.")
    if more := len(found.events) - len(cards):
        legend.append(
            f"Cards for the {len(cards)} surest events; {more} more are on the time line."
        )
    line_h = 2 * _PAD_PX + timeline_height(_LINE_WAVE_PX, _LINE_MEL_PX)
    line_top = _HEADER_PX + _TITLE_PX
    cards_top = line_top + line_h + GAP_PX + (_LEGEND_PX if legend else 0)
    down = -(-len(cards) // _COLUMNS)
    height = cards_top + down * (_CARD_H + GAP_PX) - (GAP_PX if down else 0)
    page, ink = _page(_BOARD_W, height, f"storyboard, {CAPTION}", 300)
    right, inner = _BOARD_W - MARGIN_PX, _BOARD_W - 2 * MARGIN_PX
    words = f"model {found.model}   seed {found.seed}"
    write_line(ink, (right, 24), words, 14, DIM, 500, right=True)
    length = f"{clock(found.duration_s, tenths=True)}   {found.words}"
    write_line(ink, (MARGIN_PX, _HEADER_PX), found.source or "sound", 22, TEXT, 760)
    write_line(ink, (right, _HEADER_PX + 5), length, 16, TEXT, 500, right=True)
    left, _, _ = _card(ink, (MARGIN_PX, line_top, inner, line_h))
    line = timeline(found, inner - 2 * _PAD_PX, _LINE_WAVE_PX, _LINE_MEL_PX)
    page.paste(line, (left, line_top + _PAD_PX))
    if legend:
        at = (MARGIN_PX, cards_top - _LEGEND_PX + 2)
        write_line(ink, at, "   ".join(legend), 14, DIM, inner)
    for index, event in enumerate(cards):
        row, column = divmod(index, _COLUMNS)
        x = MARGIN_PX + column * (_CARD_W + GAP_PX)
        _event_card(page, ink, found, event, (x, cards_top + row * (_CARD_H + GAP_PX)))
    return page


def shown_events(events: Sequence[FileEvent]) -> list[FileEvent]:
    """Choose the events that get a card, in order: of too many the recognised and surest."""

    def rank(event: FileEvent) -> tuple[bool, float, int]:
        # A confidence that is not known, NaN, has no order: it counts as none.
        sure = event.confidence if event.confidence >= 0 else 0.0
        return (not event.is_known, -sure, event.number)

    return sorted(sorted(events, key=rank)[:MAX_CARDS], key=lambda event: event.number)


def _event_card(
    page: Image.Image,
    ink: ImageDraw.ImageDraw,
    found: FileEvents,
    event: FileEvent,
    at: tuple[int, int],
) -> None:
    x, y = at
    left, right, top = _card(ink, (x, y, _CARD_W, _CARD_H))
    number, known = str(event.number), event.is_known
    title = ", ".join(filter(None, (event.title, event.sure)))
    write_line(ink, (left, y + 13), number, 17, AMBER if known else DIM, 60)
    indent = width_of(ink, number, 17) + 12
    write_line(ink, (left + indent, y + 13), title, 17, TEXT if known else DIM, right - left - 60)
    when = span_words(found, event.began_s, event.ended_s)
    write_line(ink, (left, top), when, 15, DIM, _PANEL_PX)
    if event.repeats > 1:
        write_line(ink, (right, top), f"{event.repeats} times", 15, DIM, 150, right=True)
    top += 24
    _paste_heard(page, event.waveform, event.mel, (left, top))
    heard = f"what was heard at {clock(event.shown_s, tenths=True)}, 1 s"
    write_line(ink, (left, top + PICTURE_PX + 4), heard, 13, DIM, _PANEL_PX)
    px = left + _PANEL_PX + GAP_PX
    shown = event.shown(PICTURE_PX)
    if shown is not None:
        page.paste(shown, (px, top))
        write_line(ink, (px, top + PICTURE_PX + 4), event.caption, 13, DIM, PICTURE_PX)
    else:
        ink.rectangle((px, top, px + PICTURE_PX - 1, top + PICTURE_PX - 1), fill=WELL)
        centred(ink, (px, top), PICTURE_PX, State.NOTHING_RECOGNISABLE.words, 16, DIM)


# --- the time line of a file, for its sheet and its film --------------------------------------

SPANS_PX = 24
CLOCK_PX = 22
_PICTURED = (58, 92, 104)
_UNKNOWN = (58, 61, 68)
_STEPS_S = (
    0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400,
)  # fmt: skip
_LABEL_PX = 84


def timeline_height(wave_px: int, mel_px: int) -> int:
    """Height of a time line with a waveform and a log-mel of these heights."""
    return SPANS_PX + 2 + wave_px + 2 + mel_px + CLOCK_PX


def timeline(found: FileEvents, width_px: int, wave_px: int, mel_px: int) -> Image.Image:
    """Draw the events as numbered spans, the waveform over the log-mel, and a clock: RGB,
    ``width_px`` wide and ``timeline_height(wave_px, mel_px)`` high.
    """
    made = Image.new("RGB", (width_px, timeline_height(wave_px, mel_px)), CARD)
    ink = ImageDraw.Draw(made)
    overview, free = found.overview, 0
    for event in found.events:
        for index, (began_s, ended_s) in enumerate(event.spans):
            left = x_of(found, began_s, width_px)
            right = max(left + 2, x_of(found, ended_s, width_px) - 1)
            color = _PICTURED if event.is_known else _UNKNOWN
            ink.rounded_rectangle((left, 0, right, SPANS_PX - 3), 4, fill=color)
            # Told apart by shape, too: what is not recognised is hollow.
            if not event.is_known and right - left > 6:
                ink.rounded_rectangle((left + 2, 2, right - 2, SPANS_PX - 5), 3, fill=CARD)
            label = str(event.number)
            room = width_of(ink, label, 14) + 8
            if index == 0 and left >= free and right - left >= room:
                ink.text((left + 5, 2), label, font=drawing.font_of(None, 14), fill=TEXT)
                free = left + room
    # Columns up to the sound's end, where the last one may reach beyond it.
    count = max(1, min(len(overview.waveform), round(overview.duration_s / overview.step_s)))
    made.paste(_wave(overview.waveform, count, width_px, wave_px), (0, SPANS_PX + 2))
    # Of several columns in a pixel their mean.
    levels = Image.fromarray(np.ascontiguousarray(overview.mel[:, :count]))
    levels = levels.resize((width_px, mel_px), Image.Resampling.BOX)
    made.paste(Image.fromarray(heat()[np.asarray(levels)]), (0, SPANS_PX + 2 + wave_px + 2))
    per_px, top = found.duration_s / width_px, made.height - CLOCK_PX
    step_s = next((s for s in _STEPS_S if s >= _LABEL_PX * per_px), _STEPS_S[-1])
    for index in range(int(found.duration_s / step_s) + 1 if per_px else 0):
        x = int(index * step_s / per_px)
        if x > width_px - 40:
            break
        ink.line((x, top, x, top + 5), fill=DIM)
        words = clock(index * step_s, tenths=step_s < 1)
        write_line(ink, (x + 4, top + 3), words, 13, DIM, _LABEL_PX)
    return made


def x_of(found: FileEvents, second: float, width_px: int) -> int:
    """Where a time in seconds lies on a time line, in pixels from its left edge."""
    share = second / found.duration_s if found.duration_s else 0.0
    return min(width_px - 1, max(0, int(share * width_px)))


def span_words(found: FileEvents, began_s: float, ended_s: float) -> str:
    """Say from when to when: with tenths in a short sound, or where it would say a time twice."""
    tenths = found.duration_s < 600 or int(began_s) == int(ended_s)
    return f"{clock(began_s, tenths=tenths)} - {clock(ended_s, tenths=tenths)}"


def _wave(waves: NDArray[np.float32], count: int, width_px: int, height: int) -> Image.Image:
    """Draw the first ``count`` columns of a waveform, scaled to its loudest point."""
    # The first column of each pixel, and the first that it does not show.
    at = np.arange(width_px + 1) * count / width_px
    low = np.floor(at[:-1] + 1e-9).astype(np.intp)
    high = np.minimum(np.maximum(low + 1, np.ceil(at[1:] - 1e-9).astype(np.intp)), count)
    bottom = np.array([waves[a:b, 0].min() for a, b in zip(low, high, strict=True)])
    top = np.array([waves[a:b, 1].max() for a, b in zip(low, high, strict=True)])
    middle = height / 2
    reach = 0.94 * middle / max(float(np.abs(waves).max()), 1e-3)
    rows = np.arange(height)[:, None] + 0.5
    # How much of each pixel the bar covers: smooth ends without drawing it larger.
    upper, lower = middle - top * reach - 0.5, middle - bottom * reach + 0.5
    cover = np.clip(np.minimum(rows + 0.5, lower) - np.maximum(rows - 0.5, upper), 0, 1)[..., None]
    ground, paint = np.array(WELL, np.float32), np.array(WAVE, np.float32)
    return Image.fromarray(np.rint(ground + cover * (paint - ground)).astype(np.uint8))
