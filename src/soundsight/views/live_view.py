"""What a live view shows now and what was before: in words, as a PNG, and in a terminal.

``runtime.live_state`` makes live views.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.color import Color as RichColor
from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

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
    save_png,
    width_of,
    write_line,
)
from soundsight.views.events import Recognition, sureness_step

FAINTEST_DBFS = -80.0
"""Level at which a level bar is empty; it is full at 0."""


class Look(StrEnum):
    """What a live view shows; no two of them may be mistaken for each other."""

    STARTING = "starting"
    NOT_LISTENING = "not_listening"
    QUIET = "quiet"
    SOUND = "sound"
    PICTURE = "picture"
    NAMED = "named"
    PAST = "past"
    NOTHING = "nothing"


HEADLINES = {
    Look.STARTING: "Starting",
    Look.NOT_LISTENING: "NOT LISTENING",
    Look.QUIET: "Quiet",
    Look.SOUND: "Something sounds",
    Look.NOTHING: "Nothing recognisable",
}
"""What stands large; what is recognised has its name there."""


@dataclass(kw_only=True, eq=False)
class LiveEvent(Recognition):
    """An event of a live sound, or a gap: a time without sound from the microphone.

    Attributes:
        began: when it began.
        until: when it ended, or last sounded.
        gap: whether it is a gap.
        repeats: how many times it sounded.
    """

    began: datetime
    until: datetime
    gap: bool = False
    repeats: int = 1

    @property
    def lasted_s(self) -> float:
        """How long it lasted, in seconds."""
        return max(0.0, (self.until - self.began).total_seconds())

    @property
    def title(self) -> str:
        """What it was, in words."""
        if self.gap:
            return "not listening"
        times = f" x{self.repeats}" if self.is_known and self.repeats > 1 else ""
        return super().title + times


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveView:
    """The present, as a person is to see it.

    Attributes:
        look: which of the states.
        at: what time it is.
        source: what is listened to.
        detail: what there is to say beside the headline; may be empty.
        level_dbfs: the level now, in dB re full scale; -inf while nothing comes.
        sounding: whether something sounds now, from the level alone.
        recognised: the event that is shown where ``look`` is ``picture``, ``named`` or ``past``.
        history: earlier events, the newest first; ``recognised`` may be the first of them.
    """

    look: Look
    at: datetime
    source: str
    detail: str
    level_dbfs: float
    sounding: bool
    recognised: LiveEvent | None
    history: Sequence[LiveEvent]

    @property
    def headline(self) -> str:
        """The few words that stand large."""
        if self.recognised is None:
            return HEADLINES.get(self.look, HEADLINES[Look.NOTHING])
        words = self.recognised.title
        return words[0].upper() + words[1:] + ("?" if self.marks == 1 else "")

    @property
    def sure(self) -> str:
        """How sure, in words; empty where nothing is recognised."""
        return "" if self.recognised is None else self.recognised.sure

    @property
    def marks(self) -> int:
        """How sure, as a number of marks out of 3; 0 where nothing is claimed."""
        return 0 if self.recognised is None else sureness_step(self.recognised.confidence)

    @property
    def level_share(self) -> float:
        """How full a level bar is, 0 to 1."""
        return min(1.0, max(0.0, 1 - self.level_dbfs / FAINTEST_DBFS))


def how_long(seconds: float) -> str:
    """Write a length as people say it: ``3 s``, ``2 min 5 s``, ``1 h 4 min``."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, secs = divmod(whole, 60)
    return f"{minutes} min {secs} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# --- as a PNG ----------------------------------------------------------------------------------

PANEL_PX = (960, 640)
SHOWN = 5
"""Events of the past on the panel."""

_ALARM = (201, 74, 58)
_ALARM_DARK = (74, 22, 18)
_STAGE_PX = 384
_THUMB_PX = 96
_TOP = 64
_MARK_PX = 18


def save_panel(view: LiveView, path: Path) -> None:
    """Write a live view as a PNG that says what is imagined in it, whole or not at all.

    Raises:
        OutputError: when the place cannot be written to.
    """
    texts = {"state": view.look.value, "time": view.at.isoformat(timespec="seconds")}
    if view.recognised is not None:
        texts["soundsight"] = view.recognised.caption
    save_png(panel(view), path, texts)


def panel(view: LiveView) -> Image.Image:
    """Draw a live view: RGB, 960 x 640 px."""
    width, height = PANEL_PX
    page = Image.new("RGB", PANEL_PX, PAGE)
    ink = ImageDraw.Draw(page)
    write_line(ink, (MARGIN_PX, 20), "soundsight", 20, TEXT, 140)
    write_line(ink, (MARGIN_PX + 118, 24), f"live, {CAPTION}", 15, DIM, 240)
    source = f"{view.source}   as of {view.at:%H:%M:%S}"
    write_line(ink, (width - MARGIN_PX, 24), source, 15, DIM, 520, right=True)
    _stage(page, ink, view)
    stopped, past = view.look is Look.NOT_LISTENING, view.look is Look.PAST
    left = MARGIN_PX + _STAGE_PX + 2 * GAP_PX
    room = width - MARGIN_PX - left
    if stopped:
        # Not by colour alone: the frame, the bar and the words say it, too.
        ink.rectangle((0, 0, width - 1, height - 1), outline=_ALARM, width=10)
        box = (left - 8, _TOP + 8, width - MARGIN_PX, _TOP + 72)
        ink.rounded_rectangle(box, 8, fill=_ALARM_DARK, outline=_ALARM, width=3)
    # As large as it fits.
    fits = (s for s in range(38, 24, -2) if width_of(ink, view.headline, s) < room - 16)
    at, color = (left + (8 if stopped else 0), _TOP + 18), DIM if past else TEXT
    write_line(ink, at, view.headline, next(fits, 24), color, room - 16)
    y = _TOP + 84
    if view.recognised is not None and not past:
        for number in range(3):
            x = left + number * (_MARK_PX + 8)
            filled = AMBER if number < view.marks else None
            ink.ellipse((x, y, x + _MARK_PX, y + _MARK_PX), fill=filled, outline=AMBER, width=2)
        write_line(ink, (left + 3 * (_MARK_PX + 8) + 8, y - 2), view.sure, 22, AMBER, room - 100)
        y += 40
    lines = textwrap.wrap(view.detail, 40, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines[:5]):
        color = TEXT if stopped or past else DIM
        write_line(ink, (left, y + 30 * number), line, 24 if past else 20, color, room)
    y = _TOP + _STAGE_PX - 24
    ink.rounded_rectangle((left, y, left + room, y + 12), 6, fill=WELL)
    filled_px = int(room * view.level_share)
    if filled_px > 12:
        ink.rounded_rectangle((left, y, left + filled_px, y + 12), 6, fill=WAVE)
    if view.sounding:
        ink.ellipse((left, y - 32, left + 18, y - 14), fill=WAVE)
        write_line(ink, (left + 28, y - 32), "sound now", 17, TEXT, 200)
    cell = (width - 2 * MARGIN_PX + GAP_PX) // SHOWN
    for number, event in enumerate(view.history[:SHOWN]):
        _thumb(page, ink, event, MARGIN_PX + number * cell, cell - GAP_PX)
    return page


def _stage(page: Image.Image, ink: ImageDraw.ImageDraw, view: LiveView) -> None:
    x, y = MARGIN_PX, _TOP
    present = view.recognised
    shown = None if present is None else present.shown(_STAGE_PX, word=False)
    if present is not None and shown is not None:
        if view.look is Look.PAST:
            shown = Image.blend(shown, Image.new("RGB", shown.size, PAGE), 0.45)
        page.paste(shown, (x, y))
        # A picture that leaves its place may be taken for a photo: it carries its mark with it.
        room = width_of(ink, present.caption, 16) + 20
        ink.rectangle((x, y + _STAGE_PX - 30, x + room, y + _STAGE_PX - 1), fill=PAGE)
        write_line(ink, (x + 10, y + _STAGE_PX - 25), present.caption, 16, TEXT, room)
        return
    ink.rectangle((x, y, x + _STAGE_PX - 1, y + _STAGE_PX - 1), fill=WELL)
    x, y = x + _STAGE_PX // 2, y + _STAGE_PX // 2
    around = (x - 60, y - 60, x + 60, y + 60)
    if view.look is Look.NOT_LISTENING:
        ink.ellipse(around, outline=_ALARM, width=12)
        ink.line((x - 42, y + 42, x + 42, y - 42), _ALARM, 12)
    elif view.look is Look.QUIET:
        ink.line((x - 60, y, x + 60, y), DIM, 8)
    elif view.look is Look.NOTHING:
        _dashes(ink, (x, y), 60, 8)
    elif view.look is Look.SOUND:
        ink.ellipse(around, fill=WAVE)
    else:
        ink.ellipse(around, outline=DIM, width=4)


def _dashes(ink: ImageDraw.ImageDraw, middle: tuple[int, int], radius: int, width: int) -> None:
    x, y = middle
    for step in range(0, 360, 30):
        ink.arc((x - radius, y - radius, x + radius, y + radius), step, step + 15, DIM, width)


def _thumb(
    page: Image.Image, ink: ImageDraw.ImageDraw, event: LiveEvent, x: int, room: int
) -> None:
    """An event of the history, small."""
    y = _TOP + _STAGE_PX + GAP_PX
    box = (x, y, x + room - 1, PANEL_PX[1] - MARGIN_PX + 9)
    ink.rounded_rectangle(box, 8, fill=CARD, outline=_ALARM if event.gap else CARD, width=2)
    shown = event.shown(_THUMB_PX - 8, word=False)
    if shown is not None:
        page.paste(shown, (x + 8, y + 8))
    elif event.gap:
        ink.line((x + 16, y + _THUMB_PX // 2, x + room - 16, y + _THUMB_PX // 2), _ALARM, 6)
    else:
        _dashes(ink, (x + _THUMB_PX // 2, y + _THUMB_PX // 2), 24, 4)
    y += _THUMB_PX
    write_line(ink, (x + 8, y), event.title, 15, TEXT, room - 16)
    when = f"{event.began:%H:%M:%S}, {how_long(event.lasted_s)}"
    write_line(ink, (x + 8, y + 20), when, 13, DIM, room - 16)
    write_line(ink, (x + 8, y + 38), event.sure, 13, AMBER, room - 16)


# --- in a terminal -----------------------------------------------------------------------------

UPPER_HALF = "\N{UPPER HALF BLOCK}"
LEAST_PX = 16
"""A picture smaller than this shows nothing."""

_TEXT_LINES = 8
_DETAIL_LINES = 3
_LEAST_HISTORY = 3
_LEAST_COLUMNS = 34
"""Words beside the picture need as many."""
_LEVEL_CELLS = 32
_LOOKS = {
    Look.STARTING: "dim",
    Look.NOT_LISTENING: "bold white on red",
    Look.QUIET: "dim",
    Look.SOUND: "bold cyan",
    Look.PICTURE: "bold",
    Look.NAMED: "bold black on yellow",
    Look.PAST: "dim",
    Look.NOTHING: "bold",
}


def half_blocks(image: NDArray[np.uint8]) -> list[Text]:
    """Write a picture, uint8 [h, w, 3], as ``ceil(h / 2)`` lines of ``w`` characters.

    The upper pixel is in the text's colour, the lower one behind it, black after an odd row.
    """
    if len(image) % 2:
        image = np.concatenate([image, np.zeros_like(image[:1])])
    lines = []
    for upper, lower in zip(image[::2].tolist(), image[1::2].tolist(), strict=True):
        line = Text(no_wrap=True)
        for above, below in zip(upper, lower, strict=True):
            ground, paint = RichColor.from_rgb(*below), RichColor.from_rgb(*above)
            line.append(UPPER_HALF, Style(color=paint, bgcolor=ground))
        lines.append(line)
    return lines


def terminal_view(view: LiveView, columns: int, rows: int) -> Group:
    """Lay a live view out for a terminal of so many columns and rows.

    The words stand below the picture or beside it, wherever the picture is larger; where it would
    be less than 16 pixels there are words alone.
    """
    below = min(96, columns - 1, 2 * (rows - _TEXT_LINES - _LEAST_HISTORY)) // 2 * 2
    beside = min(96, columns - _LEAST_COLUMNS, 2 * (rows - 2)) // 2 * 2
    head = _line(("soundsight", "bold"), (f"  {view.source}  {view.at:%H:%M:%S}", "dim"))
    if columns > 70:
        head.append("  Ctrl-C stops", "dim")
    if max(below, beside) < LEAST_PX:
        return Group(head, *_words(view, columns, rows - 2))
    if below >= beside:
        words = _words(view, columns, rows - 2 - below // 2)
        return Group(head, *_picture(view, below), *words)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=beside)
    grid.add_column(no_wrap=True)
    words = _words(view, columns - beside - 1, beside // 2)
    grid.add_row(Group(*_picture(view, beside)), Group(*words))
    return Group(head, grid)


def _line(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _picture(view: LiveView, side: int) -> list[Text]:
    """The picture's lines, or an empty place of its size: what stands around it stays."""
    shown = None if view.recognised is None else view.recognised.shown(side, word=False)
    if shown is not None:
        return half_blocks(np.asarray(shown))
    return [Text(" " * side, no_wrap=True) for _ in range(side // 2)]


def _words(view: LiveView, columns: int, rows: int) -> list[RenderableType]:
    """The present, and below it the history, in so many lines at most."""
    details = textwrap.wrap(view.detail, max(8, columns - 1))
    caption = "" if view.recognised is None else view.recognised.caption
    if view.look is Look.PAST:
        details = [*details, caption]
    elif caption:
        marks = "\N{BLACK CIRCLE}" * view.marks + "\N{WHITE CIRCLE}" * (3 - view.marks)
        details = [f"{marks} {view.sure}", caption, *details]
    cells = max(4, min(_LEVEL_CELLS, columns - 14))
    full = round(cells * view.level_share)
    bar = "\N{FULL BLOCK}" * full + "\N{LIGHT SHADE}" * (cells - full)
    level = _line(f" {bar} ")
    if view.sounding:
        level.append("\N{BLACK CIRCLE} sound now", "cyan")
    lines = [
        Text(),
        _line((f" {view.headline} ", _LOOKS[view.look])),
        # Always so many: what stands below stays where it is.
        *(_line(f" {line}") for line in [*details, "", "", ""][:_DETAIL_LINES]),
        level,
        Text(),
    ]
    for event in view.history[: max(0, rows - len(lines))]:
        sure = f", {event.sure}" if event.sure else ""
        when = (f" {event.began:%H:%M:%S}  {event.title}", "red" if event.gap else "")
        lines.append(_line(when, (f"{sure}, {how_long(event.lasted_s)}", "dim")))
    return list(lines[: max(2, rows)])
