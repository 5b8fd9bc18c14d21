"""The present as one picture: a PNG that is written anew whenever it changes."""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

from soundsight.views.drawing import (
    AMBER,
    CARD,
    DIM,
    GAP_PX,
    MARGIN_PX,
    PAGE,
    TEXT,
    WAVE,
    WELL,
    Color,
    default_font,
    write_line,
)
from soundsight.views.live_view import Look, Moment, Past, how_long
from soundsight.views.sheet import CAPTION, save_png

SIZE_PX = (960, 640)
SHOWN = 5
"""Events of the past on the panel."""

_ALARM: Color = (201, 74, 58)
_ALARM_DARK: Color = (74, 22, 18)
_STAGE_PX = 384
_THUMB_PX = 96
_TOP = 64
_MARK_PX = 18
_HEADLINE_PX, _LEAST_HEADLINE_PX = 38, 24


def live_panel(moment: Moment) -> Image.Image:
    """Draw a moment: RGB, 960 x 640 px."""
    width, height = SIZE_PX
    deaf = moment.look is Look.NOT_LISTENING
    panel = Image.new("RGB", SIZE_PX, PAGE)
    ink = ImageDraw.Draw(panel)
    write_line(ink, (MARGIN_PX, 20), "soundsight", 20, TEXT, 140)
    write_line(ink, (MARGIN_PX + 118, 24), f"live, {CAPTION}", 15, DIM, 240)
    told = f"{moment.source}   as of {moment.at:%H:%M:%S}"
    write_line(ink, (width - MARGIN_PX, 24), told, 15, DIM, 520, right=True)
    _stage(panel, ink, moment)
    left = MARGIN_PX + _STAGE_PX + 2 * GAP_PX
    room = width - MARGIN_PX - left
    if deaf:
        # Not by colour alone: the frame, the bar and the words say it, too.
        ink.rectangle((0, 0, width - 1, height - 1), outline=_ALARM, width=10)
        box = (left - 8, _TOP + 8, width - MARGIN_PX, _TOP + 72)
        ink.rounded_rectangle(box, 8, fill=_ALARM_DARK, outline=_ALARM, width=3)
    past = moment.look is Look.PAST
    at = (left + (8 if deaf else 0), _TOP + 18)
    size = _fitting(ink, moment.headline, room - 16)
    write_line(ink, at, moment.headline, size, DIM if past else TEXT, room - 16)
    y = _TOP + 84
    if moment.recognised is not None and not past:
        _marks(ink, (left, y), moment.marks)
        write_line(ink, (left + 3 * (_MARK_PX + 8) + 8, y - 2), moment.sure, 22, AMBER, room - 100)
        y += 40
    lines = textwrap.wrap(moment.detail, 40, break_long_words=False, break_on_hyphens=False)
    for line in lines[:5]:
        write_line(ink, (left, y), line, 24 if past else 20, TEXT if deaf or past else DIM, room)
        y += 30
    _level(ink, moment, (left, _TOP + _STAGE_PX - 34), room)
    _past(panel, ink, moment)
    return panel


def save_live_panel(moment: Moment, path: Path) -> None:
    """Write the panel as a PNG that says what is imagined in it, whole or not at all.

    Raises:
        OutputError: when the place cannot be written to.
    """
    texts = {"state": moment.look.value, "time": moment.at.isoformat(timespec="seconds")}
    if moment.recognised is not None:
        texts["soundsight"] = moment.recognised.caption
    save_png(live_panel(moment), path, texts)


def _stage(panel: Image.Image, ink: ImageDraw.ImageDraw, moment: Moment) -> None:
    x, y = MARGIN_PX, _TOP
    box = (x, y, x + _STAGE_PX - 1, y + _STAGE_PX - 1)
    present = moment.recognised
    shown = None if present is None else present.shown(_STAGE_PX)
    if present is not None and shown is not None:
        if moment.look is Look.PAST:
            shown = Image.blend(shown, Image.new("RGB", shown.size, PAGE), 0.45)
        panel.paste(shown, (x, y))
        # A picture that leaves its place may be taken for a photo: it carries its mark with it.
        room = int(ink.textlength(present.caption, font=default_font(16))) + 20
        ink.rectangle((x, y + _STAGE_PX - 30, x + room, y + _STAGE_PX - 1), fill=PAGE)
        write_line(ink, (x + 10, y + _STAGE_PX - 25), present.caption, 16, TEXT, room)
        return
    ink.rectangle(box, fill=WELL)
    middle_x, middle_y = x + _STAGE_PX // 2, y + _STAGE_PX // 2
    around = (middle_x - 60, middle_y - 60, middle_x + 60, middle_y + 60)
    if moment.look is Look.NOT_LISTENING:
        ink.ellipse(around, outline=_ALARM, width=12)
        ink.line((middle_x - 42, middle_y + 42, middle_x + 42, middle_y - 42), _ALARM, 12)
    elif moment.look is Look.QUIET:
        ink.line((middle_x - 60, middle_y, middle_x + 60, middle_y), DIM, 8)
    elif moment.look is Look.NOTHING:
        _dashes(ink, (middle_x, middle_y), 60, 8)
    elif moment.look is Look.SOUND:
        ink.ellipse(around, fill=WAVE)
    else:
        ink.ellipse(around, outline=DIM, width=4)


def _fitting(ink: ImageDraw.ImageDraw, headline: str, room: int) -> int:
    """The size at which a headline fits, as far as it is still large."""
    sizes = range(_HEADLINE_PX, _LEAST_HEADLINE_PX, -2)
    fits = (s for s in sizes if ink.textlength(headline, font=default_font(s)) <= room)
    return next(fits, _LEAST_HEADLINE_PX)


def _dashes(ink: ImageDraw.ImageDraw, middle: tuple[int, int], radius: int, width: int) -> None:
    x, y = middle
    around = (x - radius, y - radius, x + radius, y + radius)
    for step in range(0, 360, 30):
        ink.arc(around, step, step + 15, DIM, width)


def _marks(ink: ImageDraw.ImageDraw, at: tuple[int, int], full: int) -> None:
    x, y = at
    for number in range(3):
        left = x + number * (_MARK_PX + 8)
        box = (left, y, left + _MARK_PX, y + _MARK_PX)
        ink.ellipse(box, fill=AMBER if number < full else None, outline=AMBER, width=2)


def _level(ink: ImageDraw.ImageDraw, moment: Moment, at: tuple[int, int], room: int) -> None:
    x, y = at
    ink.rounded_rectangle((x, y + 10, x + room, y + 22), 6, fill=WELL)
    filled = int(room * moment.level_share)
    if filled > 12:
        ink.rounded_rectangle((x, y + 10, x + filled, y + 22), 6, fill=WAVE)
    if moment.sounding:
        ink.ellipse((x, y - 22, x + 18, y - 4), fill=WAVE)
        write_line(ink, (x + 28, y - 22), "sound now", 17, TEXT, 200)


def _past(panel: Image.Image, ink: ImageDraw.ImageDraw, moment: Moment) -> None:
    top = _TOP + _STAGE_PX + GAP_PX
    across = SIZE_PX[0] - 2 * MARGIN_PX
    cell = (across + GAP_PX) // SHOWN
    for number, past in enumerate(moment.history[:SHOWN]):
        _entry(panel, ink, past, (MARGIN_PX + number * cell, top), cell - GAP_PX)


def _entry(
    panel: Image.Image, ink: ImageDraw.ImageDraw, past: Past, at: tuple[int, int], room: int
) -> None:
    x, y = at
    height = SIZE_PX[1] - y - MARGIN_PX + 10
    box = (x, y, x + room - 1, y + height - 1)
    ink.rounded_rectangle(box, 8, fill=CARD, outline=_ALARM if past.gap else CARD, width=2)
    shown = past.shown(_THUMB_PX - 8)
    if shown is not None:
        panel.paste(shown, (x + 8, y + 8))
    elif past.gap:
        ink.line((x + 16, y + _THUMB_PX // 2, x + room - 16, y + _THUMB_PX // 2), _ALARM, 6)
    else:
        _dashes(ink, (x + _THUMB_PX // 2, y + _THUMB_PX // 2), 24, 4)
    words = y + _THUMB_PX
    write_line(ink, (x + 8, words), past.title, 15, TEXT, room - 16)
    when = f"{past.began:%H:%M:%S}, {how_long(past.lasted_s)}"
    write_line(ink, (x + 8, words + 20), when, 13, DIM, room - 16)
    if past.sure:
        write_line(ink, (x + 8, words + 38), past.sure, 13, AMBER, room - 16)
