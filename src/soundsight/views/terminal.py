"""Pictures and the present on a terminal: half blocks, two pixels in every cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.console import Group
from rich.style import Style
from rich.text import Text

from soundsight.views.moment import Look, Moment, how_long
from soundsight.views.sheet import CAPTION, picture

UPPER_HALF = "\N{UPPER HALF BLOCK}"
LEAST_PX = 16
"""A picture smaller than this shows nothing."""

_TEXT_LINES = 8
_LEAST_HISTORY = 3
_LEVEL_CELLS = 32
_LOOKS = {
    Look.STARTING: "dim",
    Look.NOT_LISTENING: "bold white on red",
    Look.QUIET: "dim",
    Look.SOUND: "bold cyan",
    Look.PICTURE: "bold",
    Look.PAST: "bold",
    Look.NOTHING: "bold",
}


def half_blocks(image: NDArray[np.uint8]) -> Text:
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
        line = Text(no_wrap=True, end="")
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            line.append(UPPER_HALF, _style(tuple(above), tuple(below)))
        lines.append(line)
    return Text("\n").join(lines)


def _style(above: tuple[int, int, int], below: tuple[int, int, int]) -> Style:
    return Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below))


def terminal_panel(moment: Moment, columns: int, rows: int) -> Group:
    """Lay a moment out for a terminal of so many columns and rows.

    The picture takes what the words leave; where that is less than 16 pixels there are words
    alone.
    """
    side = min(96, columns - 1, 2 * (rows - _TEXT_LINES - _LEAST_HISTORY))
    side -= side % 2
    shown = side >= LEAST_PX
    parts: list[Text] = [_head(moment, columns)]
    if shown:
        parts.append(_picture(moment, side))
    parts += [Text(), _headline(moment), _cut(moment.detail, columns), _level(moment)]
    used = len(parts) + (side // 2 - 1 if shown else 0)
    parts.append(Text())
    for past in moment.history[: max(0, rows - used - 2)]:
        words = f"{past.began:%H:%M:%S}  {past.title}"
        sure = f", {past.sure}" if past.sure else ""
        style = "red" if past.gap else ""
        line = Text(no_wrap=True, overflow="ellipsis", style=style)
        line.append(words).append(f"{sure}, {how_long(past.lasted_s)}", "dim")
        parts.append(line)
    return Group(*parts)


def _head(moment: Moment, columns: int) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("soundsight", "bold").append(f"  {moment.source}  {moment.at:%H:%M:%S}", "dim")
    if columns > 70:
        line.append("  Ctrl-C stops", "dim")
    return line


def _picture(moment: Moment, side: int) -> Text:
    if moment.pictured and moment.present is not None and moment.present.picture is not None:
        return half_blocks(np.asarray(picture(moment.present.picture, side)))
    # An empty place of the same size: what stands below stays where it is.
    return Text("\n" * (side // 2 - 1))


def _headline(moment: Moment) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f" {moment.headline} ", _LOOKS[moment.look])
    if moment.pictured:
        marks = "\N{BLACK CIRCLE}" * moment.marks + "\N{WHITE CIRCLE}" * (3 - moment.marks)
        line.append(f"  {marks} {moment.sure}   ({CAPTION})")
    return line


def _level(moment: Moment) -> Text:
    full = round(_LEVEL_CELLS * moment.level_share)
    bar = "\N{FULL BLOCK}" * full + "\N{LIGHT SHADE}" * (_LEVEL_CELLS - full)
    line = Text(f" {bar} ", no_wrap=True, overflow="ellipsis")
    return line.append("\N{BLACK CIRCLE} sound now" if moment.sounding else "", "cyan")


def _cut(words: str, columns: int) -> Text:
    return Text(f" {words}"[:columns], no_wrap=True, overflow="ellipsis")
