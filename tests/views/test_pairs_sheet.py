"""Sheets of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from soundsight.views.pairs_sheet import PairCard, pairs_sheet

RED = (250, 10, 20)


def card(
    caption: str = "a.mp4   0:03", note: str = "", px: int = 96, frames: int = 100
) -> PairCard:
    return PairCard(
        mel=np.full((128, frames), 255, np.uint8),
        image=np.full((px, px, 3), RED, np.uint8),
        caption=caption,
        note=note,
    )


def count(page: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(page) == color).all(axis=2).sum())


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 30])
def test_every_pair_is_there(number: int) -> None:
    page = pairs_sheet([card(px=64 + n, frames=50 + n) for n in range(number)])
    assert page.mode == "RGB"
    assert count(page, RED) == number * 152 * 152
    # The loudest level of the log-mel has the lightest colour.
    assert count(page, (253, 236, 196)) == number * 236 * 152


def test_rows_and_columns() -> None:
    one, three, four = (pairs_sheet([card()] * n) for n in (1, 3, 4))
    assert one.width < three.width == four.width
    assert one.height == three.height < four.height
    assert pairs_sheet([card()] * 4, columns=1).width == one.width


def test_a_note_has_a_line_of_its_own() -> None:
    plain, noted = pairs_sheet([card(), card()]), pairs_sheet([card(), card(note="too quiet")])
    assert noted.height > plain.height
    assert count(plain, (222, 180, 112)) == 0 < count(noted, (222, 180, 112))


@pytest.mark.parametrize("caption", ["", "x" * 5000, "犬が吠える.mp4", "a\nb\x07", "\udc80.mp4"])
def test_any_name_stays_on_its_line(caption: str) -> None:
    page = pairs_sheet([card(caption=caption, note=caption + "!")], title=caption)
    assert page.size == pairs_sheet([card(note="n")]).size


def test_no_pairs() -> None:
    page = pairs_sheet([], title="dropped: silent")
    assert count(page, RED) == 0
    assert page.height < 200
