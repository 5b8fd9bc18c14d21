"""Pictures and the present on a terminal."""

from __future__ import annotations

import io
import re
from datetime import datetime

import numpy as np
import pytest
from rich.console import Console, Group

from soundsight.views.live_view import Look, Moment, Past
from soundsight.views.terminal import UPPER_HALF, half_blocks, terminal_panel

NOON = datetime(2026, 1, 1, 12)


def drawn(shown: object, columns: int = 80, colour: str | None = "truecolor") -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=columns, height=24, force_terminal=True, color_system=colour,  # type: ignore[arg-type]
        legacy_windows=False, highlight=False,
    )  # fmt: skip
    console.print(shown)
    return file.getvalue()


def lines_of(image: np.ndarray) -> Group:
    return Group(*half_blocks(image))


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]


def a_moment(look: Look = Look.PICTURE, gaps: int = 1, **values: object) -> Moment:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    dog = Past(began=NOON, lasted_s=3.0, name="dog", confidence=0.7, picture=image)
    given = {
        "look": look,
        "at": NOON,
        "source": "the door",
        "detail": "since 12:00:00",
        "level_dbfs": -20.0,
        "sounding": True,
        "present": dog if look is Look.PICTURE else None,
        "history": [dog, *[Past(began=NOON, lasted_s=9.0, gap=True)] * gaps],
    }
    return Moment(**{**given, **values})  # type: ignore[arg-type]


def test_two_pixels_stand_in_every_cell() -> None:
    image = np.asarray([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]], np.uint8)
    text = drawn(lines_of(image))
    assert plain(text) == [UPPER_HALF * 2]
    assert "38;2;1;2;3;48;2;7;8;9m" in text
    assert "38;2;4;5;6;48;2;10;11;12m" in text


def test_an_odd_row_stands_over_black() -> None:
    text = drawn(lines_of(np.full((3, 2, 3), 200, np.uint8)))
    assert plain(text) == [UPPER_HALF * 2] * 2
    assert "48;2;0;0;0m" in text


def test_fewer_colours_will_do() -> None:
    text = drawn(lines_of(np.full((2, 2, 3), 123, np.uint8)), colour="256")
    assert "38;5;" in text


@pytest.mark.parametrize("size", [(80, 24), (120, 50), (200, 100), (40, 30), (30, 12), (10, 4)])
@pytest.mark.parametrize("look", list(Look))
def test_it_fits_any_terminal(size: tuple[int, int], look: Look) -> None:
    columns, rows = size
    lines = plain(drawn(terminal_panel(a_moment(look, gaps=100), columns, rows), columns))
    assert len(lines) <= rows
    assert max(map(len, lines)) <= columns


def test_a_picture_says_what_it_is_and_that_it_is_imagined() -> None:
    words = "\n".join(plain(drawn(terminal_panel(a_moment(), 100, 50), 100)))
    assert UPPER_HALF * 70 in words
    assert "Dog" in words
    assert "\u25cf\u25cf\u25cb probably" in words
    assert "imagined from sound" in words
    assert "12:00:00  not listening, 9 s" in words


@pytest.mark.parametrize(
    ("size", "side", "beside"), [((80, 24), 44, True), ((120, 50), 86, True), ((70, 40), 58, False)]
)
def test_the_words_stand_where_the_picture_is_largest(
    size: tuple[int, int], side: int, beside: bool
) -> None:
    columns, rows = size
    lines = plain(drawn(terminal_panel(a_moment(), columns, rows), columns))
    pictured = [line for line in lines if UPPER_HALF in line]
    assert len(pictured) == side // 2
    assert all(line.startswith(UPPER_HALF * side) for line in pictured)
    assert any("Dog" in line for line in pictured) == beside
    assert any("probably" in line for line in lines)
    assert any("not listening, 9 s" in line for line in lines)


def test_an_alert_is_its_pictogram_and_its_word() -> None:
    alert = Past(began=NOON, lasted_s=1.0, name="door knock", confidence=0.95, named=True)
    shown = a_moment(Look.NAMED, present=alert, history=[alert])
    text = drawn(terminal_panel(shown, 100, 50), 100)
    words = "\n".join(plain(text))
    assert UPPER_HALF * 70 in words
    assert "Door knock" in words
    assert "\u25cf\u25cf\u25cf quite sure" in words
    assert "named, not imagined" in words
    assert "38;2;222;180;112" in text  # its strokes


def test_a_long_reason_is_broken_beside_the_picture() -> None:
    why = "The microphone has gone: there is no microphone any more, and it will be looked for."
    shown = a_moment(Look.NOT_LISTENING, detail=why)
    words = " ".join(" ".join(plain(drawn(terminal_panel(shown, 80, 24)))).split())
    assert "The microphone has gone: there is no microphone" in words


def test_not_listening_is_no_picture_and_not_quiet() -> None:
    deaf, quiet = (
        "\n".join(plain(drawn(terminal_panel(a_moment(look), 100, 50), 100)))
        for look in (Look.NOT_LISTENING, Look.QUIET)
    )
    assert "NOT LISTENING" in deaf
    assert "NOT LISTENING" not in quiet
    assert UPPER_HALF not in deaf + quiet


def test_what_stands_below_the_picture_stays_where_it_is() -> None:
    rows = {
        look: next(
            number
            for number, line in enumerate(plain(drawn(terminal_panel(a_moment(look), 90, 40), 90)))
            if "sound now" in line
        )
        for look in Look
    }
    assert len(set(rows.values())) == 1
