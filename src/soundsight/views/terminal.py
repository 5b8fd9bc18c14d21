"""A live view in a terminal: its picture in half blocks, two pixels in every cell."""

from __future__ import annotations

import textwrap

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from soundsight.views.live_view import LiveView, Look, how_long

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
            style = Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below))
            line.append(UPPER_HALF, style)
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
