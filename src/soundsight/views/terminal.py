"""Pictures and the present on a terminal: half blocks, two pixels in every cell."""

from __future__ import annotations

import textwrap

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.console import Group
from rich.style import Style
from rich.text import Text

from soundsight.views.live_view import Look, Moment, how_long

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
    """Write a picture as characters, two pixels in each.

    Args:
        image: uint8 [h, w, 3]; an odd last row stands over black.

    Returns:
        ``ceil(h / 2)`` lines of ``w`` cells, the upper pixel in the text's colour, the lower one
        behind it.
    """
    if len(image) % 2:
        image = np.concatenate([image, np.zeros_like(image[:1])])
    lines = []
    for upper, lower in zip(image[::2], image[1::2], strict=True):
        line = Text(no_wrap=True)
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            line.append(UPPER_HALF, _style(tuple(above), tuple(below)))
        lines.append(line)
    return lines


def _style(above: tuple[int, int, int], below: tuple[int, int, int]) -> Style:
    return Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below))


def terminal_panel(moment: Moment, columns: int, rows: int) -> Group:
    """Lay a moment out for a terminal of so many columns and rows.

    The words stand below the picture or beside it, wherever the picture is larger; where it would
    be less than 16 pixels there are words alone.
    """
    below = min(96, columns - 1, 2 * (rows - _TEXT_LINES - _LEAST_HISTORY)) // 2 * 2
    beside = min(96, columns - _LEAST_COLUMNS, 2 * (rows - 2)) // 2 * 2
    head = _head(moment, columns)
    if max(below, beside) < LEAST_PX:
        return Group(head, *_words(moment, columns, rows - 2))
    if below >= beside:
        room = rows - 2 - below // 2
        return Group(head, *_picture(moment, below), *_words(moment, columns, room))
    words = _words(moment, columns - beside - 1, beside // 2)
    lines = []
    for number, line in enumerate(_picture(moment, beside)):
        if number < len(words):
            line = Text.assemble(line, " ", words[number], no_wrap=True, overflow="ellipsis")
        lines.append(line)
    return Group(head, *lines)


def _head(moment: Moment, columns: int) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("soundsight", "bold").append(f"  {moment.source}  {moment.at:%H:%M:%S}", "dim")
    if columns > 70:
        line.append("  Ctrl-C stops", "dim")
    return line


def _picture(moment: Moment, side: int) -> list[Text]:
    """The picture's lines, or an empty place of its size: what stands around it stays."""
    shown = None if moment.recognised is None else moment.recognised.shown(side)
    if shown is not None:
        return half_blocks(np.asarray(shown))
    return [Text(" " * side, no_wrap=True) for _ in range(side // 2)]


def _words(moment: Moment, columns: int, rows: int) -> list[Text]:
    """What is now, and below it what was, in so many lines at most."""
    lines = [Text(), _headline(moment)]
    told = textwrap.wrap(moment.detail, max(8, columns - 1))
    caption = "" if moment.recognised is None else moment.recognised.caption
    if moment.look is Look.PAST:
        told = [*told, caption]
    elif caption:
        marks = "\N{BLACK CIRCLE}" * moment.marks + "\N{WHITE CIRCLE}" * (3 - moment.marks)
        told = [f"{marks} {moment.sure}", caption, *told]
    # Always so many: what stands below stays where it is.
    lines += [Text(f" {line}") for line in [*told, "", "", ""][:_DETAIL_LINES]]
    lines += [_level(moment, columns), Text()]
    for past in moment.history[: max(0, rows - len(lines))]:
        line = Text(style="red" if past.gap else "")
        sure = f", {past.sure}" if past.sure else ""
        line.append(f" {past.began:%H:%M:%S}  {past.title}")
        line.append(f"{sure}, {how_long(past.lasted_s)}", "dim")
        lines.append(line)
    for line in lines:
        line.no_wrap = True
        line.truncate(max(1, columns), overflow="ellipsis")
    return lines[: max(2, rows)]


def _headline(moment: Moment) -> Text:
    return Text.assemble((f" {moment.headline} ", _LOOKS[moment.look]))


def _level(moment: Moment, columns: int) -> Text:
    cells = max(4, min(_LEVEL_CELLS, columns - 14))
    full = round(cells * moment.level_share)
    bar = "\N{FULL BLOCK}" * full + "\N{LIGHT SHADE}" * (cells - full)
    line = Text(f" {bar} ")
    return line.append("\N{BLACK CIRCLE} sound now" if moment.sounding else "", "cyan")
