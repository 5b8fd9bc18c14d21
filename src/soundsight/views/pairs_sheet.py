"""Sheets of pairs for people: the frame beside the log-mel of its second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from soundsight.views.drawing import (
    AMBER,
    CARD,
    DIM,
    GAP_PX,
    HEADER_PX,
    MARGIN_PX,
    PAD_PX,
    PAGE,
    PANEL_PX,
    PICTURE_PX,
    TEXT,
    heat,
    write_line,
)
from soundsight.views.sheet import picture

_LINE_PX = 21
_CARD_WIDTH_PX = 2 * PAD_PX + PICTURE_PX + GAP_PX // 2 + PANEL_PX
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
    """Draw one page of pairs, row by row.

    Args:
        cards: what to show, in order. Lines that are too long lose their middle.
        columns: cards side by side, at least 1.
        title: words at the head of the page.

    Returns:
        RGB, as wide and as high as its cards need.
    """
    columns = max(1, min(columns, len(cards)))
    rows = -(-len(cards) // columns)
    lines = 2 if any(card.note for card in cards) else 1
    card_h = 2 * PAD_PX + PICTURE_PX + lines * _LINE_PX
    width = 2 * MARGIN_PX + columns * (_CARD_WIDTH_PX + GAP_PX) - GAP_PX
    height = HEADER_PX + rows * (card_h + GAP_PX) - GAP_PX + MARGIN_PX
    page = Image.new("RGB", (max(width, _SHEET_MIN_PX), height), PAGE)
    ink = ImageDraw.Draw(page)
    write_line(ink, (MARGIN_PX, 19), "soundsight", 20, TEXT, 140)
    write_line(ink, (MARGIN_PX + 118, 23), title, 15, DIM, page.width - 2 * MARGIN_PX - 118)
    if not cards:
        write_line(ink, (MARGIN_PX, HEADER_PX - 12), "no pairs", 15, DIM, 200)
    for index, card in enumerate(cards):
        row, column = divmod(index, columns)
        x = MARGIN_PX + column * (_CARD_WIDTH_PX + GAP_PX)
        y = HEADER_PX + row * (card_h + GAP_PX)
        ink.rounded_rectangle((x, y, x + _CARD_WIDTH_PX - 1, y + card_h - 1), 12, fill=CARD)
        left, top = x + PAD_PX, y + PAD_PX
        page.paste(picture(card.image, PICTURE_PX), (left, top))
        mel = Image.fromarray(heat()[card.mel])
        mel = mel.resize((PANEL_PX, PICTURE_PX), Image.Resampling.BILINEAR)
        page.paste(mel, (left + PICTURE_PX + GAP_PX // 2, top))
        room = _CARD_WIDTH_PX - 2 * PAD_PX
        below = top + PICTURE_PX + 6
        write_line(ink, (left, below), card.caption, 14, TEXT, room)
        write_line(ink, (left, below + _LINE_PX), card.note, 14, AMBER, room)
    return page
