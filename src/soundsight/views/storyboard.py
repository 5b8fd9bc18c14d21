"""The storyboard as one picture: a head, the time line, and a card for each event.

The frames of a video are not shown: the pictures are imagined from its sound.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

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
    WELL,
    centred,
    clock,
    default_font,
    head,
    write_line,
)
from soundsight.views.events import NOTHING_WORDS, FileEvent, FileEvents
from soundsight.views.sheet import CAPTION, paste_heard
from soundsight.views.timeline import height_px, span_words, timeline

MAX_CARDS = 60
"""Events with a card of their own; of more the surest are shown, and a line says so."""

_COLUMNS = 3
_CARD_W = 2 * PAD_PX + PANEL_PX + GAP_PX + PICTURE_PX
_CARD_H = PAD_PX // 2 + NAME_PX + 24 + PICTURE_PX + CAPTION_PX + PAD_PX
_WIDTH_PX = 2 * MARGIN_PX + _COLUMNS * _CARD_W + (_COLUMNS - 1) * GAP_PX
_TITLE_PX = 44
_WAVE_PX, _MEL_PX = 72, 128
_LEGEND_PX = 30


def storyboard(found: FileEvents) -> Image.Image:
    """Draw the sheet of a file: RGB, 1,396 px wide, at most 5,800 px high."""
    cards = shown_events(found.events)
    line_h = height_px(_WAVE_PX, _MEL_PX)
    top = HEADER_PX + _TITLE_PX
    legend = _legend(found, len(cards))
    cards_top = top + 2 * PAD_PX + line_h + GAP_PX + (_LEGEND_PX if legend else 0)
    down = -(-len(cards) // _COLUMNS)
    height = cards_top + down * (_CARD_H + GAP_PX) + MARGIN_PX - (GAP_PX if down else 0)
    page = Image.new("RGB", (_WIDTH_PX, height), PAGE)
    ink = ImageDraw.Draw(page)
    _head(ink, found)
    inner = _WIDTH_PX - 2 * MARGIN_PX
    box = (MARGIN_PX, top, _WIDTH_PX - MARGIN_PX - 1, top + 2 * PAD_PX + line_h - 1)
    ink.rounded_rectangle(box, 12, fill=CARD)
    line = timeline(found, inner - 2 * PAD_PX, _WAVE_PX, _MEL_PX)
    page.paste(line, (MARGIN_PX + PAD_PX, top + PAD_PX))
    if legend:
        at = (MARGIN_PX, cards_top - _LEGEND_PX + 2)
        write_line(ink, at, legend, 14, DIM, inner)
    for index, event in enumerate(cards):
        row, column = divmod(index, _COLUMNS)
        x = MARGIN_PX + column * (_CARD_W + GAP_PX)
        y = cards_top + row * (_CARD_H + GAP_PX)
        _card(page, ink, found, event, (x, y))
    return page


def shown_events(events: Sequence[FileEvent]) -> list[FileEvent]:
    """Choose the events that get a card, in order: of too many the recognised and surest."""
    if len(events) <= MAX_CARDS:
        return list(events)

    def rank(event: FileEvent) -> tuple[bool, float, int]:
        # A confidence that is not known, NaN, has no order: it counts as none.
        sure = event.confidence if event.confidence >= 0 else 0.0
        return (not event.is_known, -sure, event.number)

    chosen = sorted(events, key=rank)[:MAX_CARDS]
    return sorted(chosen, key=lambda event: event.number)


def _head(ink: ImageDraw.ImageDraw, found: FileEvents) -> None:
    head(ink, f"storyboard, {CAPTION}", 300)
    right = _WIDTH_PX - MARGIN_PX
    words = f"model {found.model}   seed {found.seed}"
    write_line(ink, (right, 24), words, 14, DIM, 500, right=True)
    length = f"{clock(found.duration_s, tenths=True)}   {found.words}"
    write_line(ink, (MARGIN_PX, HEADER_PX), found.source or "sound", 22, TEXT, 760)
    write_line(ink, (right, HEADER_PX + 5), length, 16, TEXT, 500, right=True)


def _legend(found: FileEvents, shown: int) -> str:
    parts = [*found.warnings]
    if found.events:
        parts.append("The pictures are imagined, they show nothing that was filmed.")
    if shown < len(found.events):
        more = len(found.events) - shown
        parts.append(f"Cards for the {shown} surest events; {more} more are on the time line.")
    return "   ".join(parts)


def _card(
    page: Image.Image,
    ink: ImageDraw.ImageDraw,
    found: FileEvents,
    event: FileEvent,
    at: tuple[int, int],
) -> None:
    x, y = at
    ink.rounded_rectangle((x, y, x + _CARD_W - 1, y + _CARD_H - 1), 12, fill=CARD)
    left, right = x + PAD_PX, x + _CARD_W - PAD_PX
    known = event.is_known
    title = event.title if not event.sure else f"{event.title}, {event.sure}"
    write_line(ink, (left, y + 13), str(event.number), 17, AMBER if known else DIM, 60)
    indent = int(ink.textlength(str(event.number), font=default_font(17))) + 12
    write_line(ink, (left + indent, y + 13), title, 17, TEXT if known else DIM, right - left - 60)
    when = span_words(found, event.began_s, event.ended_s)
    write_line(ink, (left, y + PAD_PX // 2 + NAME_PX), when, 15, DIM, PANEL_PX)
    if event.repeats > 1:
        times = f"{event.repeats} times"
        write_line(ink, (right, y + PAD_PX // 2 + NAME_PX), times, 15, DIM, 150, right=True)
    top = y + PAD_PX // 2 + NAME_PX + 24
    paste_heard(page, event.waveform, event.mel, (left, top))
    heard = f"what was heard at {clock(event.shown_s, tenths=True)}, 1 s"
    write_line(ink, (left, top + PICTURE_PX + 4), heard, 13, DIM, PANEL_PX)
    px = left + PANEL_PX + GAP_PX
    shown = event.shown(PICTURE_PX)
    if shown is not None:
        page.paste(shown, (px, top))
        write_line(ink, (px, top + PICTURE_PX + 4), event.caption, 13, DIM, PICTURE_PX)
        return
    ink.rectangle((px, top, px + PICTURE_PX - 1, top + PICTURE_PX - 1), fill=WELL)
    centred(ink, (px, top), PICTURE_PX, NOTHING_WORDS, 16, DIM)
