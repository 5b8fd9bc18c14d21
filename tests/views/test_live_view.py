"""A live view as a PNG and in a terminal."""

from __future__ import annotations

import io
import math
import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console, Group

from soundsight.core.errors import OutputError
from soundsight.core.state import State
from soundsight.views.live_view import (
    PANEL_PX,
    SHOWN,
    UPPER_HALF,
    LiveEvent,
    LiveView,
    Look,
    half_blocks,
    how_long,
    panel,
    save_panel,
    terminal_view,
)
from soundsight.views.pictograms import alert_picture

NOON = datetime(2026, 1, 1, 12)
GREEN = np.full((96, 96, 3), (20, 200, 40), np.uint8)
STAGE = (slice(64, 64 + 384), slice(28, 28 + 384))


def an_event(lasted_s: float = 3.0, **values: object) -> LiveEvent:
    given = {
        "began": NOON, "until": NOON + timedelta(seconds=lasted_s), "state": State.PICTURE,
        "name": "dog", "confidence": 0.8, "picture": GREEN,
    }  # fmt: skip
    return LiveEvent(**{**given, **values})  # type: ignore[arg-type]


ALERT = an_event(
    state=State.NAMED, name="smoke alarm", second_guess="alarm clock", picture=None,
)  # fmt: skip
GAP = LiveEvent(began=NOON, until=NOON + timedelta(seconds=9), gap=True)


def a_view(look: Look = Look.PICTURE, **values: object) -> LiveView:
    given = {
        "look": look, "at": NOON, "source": "the door", "detail": "since 12:00:00",
        "level_dbfs": -20.0, "sounding": True, "history": [],
    }  # fmt: skip
    shown = {Look.PICTURE: an_event(), Look.PAST: an_event(), Look.NAMED: ALERT}
    given["recognised"] = shown.get(look)
    return LiveView(**{**given, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (3840, "1 h 4 min")],
)
def test_lengths_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert how_long(seconds) == words


def test_what_it_says() -> None:
    alert = a_view(Look.NAMED)
    assert (alert.headline, alert.sure) == ("Smoke alarm, or: alarm clock", "probably")
    nameless = a_view(recognised=an_event(name="", confidence=math.nan))
    assert (nameless.headline, nameless.sure, nameless.marks) == ("A familiar sound", "", 0)


# --- as a PNG ----------------------------------------------------------------------------------


def pixels(view: LiveView) -> np.ndarray:
    return np.asarray(panel(view)).astype(int)


def is_red(image: np.ndarray) -> np.ndarray:
    return (image[..., 0] > 150) & (image[..., 1] < 100) & (image[..., 2] < 90)


def is_green(image: np.ndarray) -> np.ndarray:
    return (np.abs(image - GREEN[0, 0]) < 8).all(axis=2)


def test_the_picture_stands_large() -> None:
    image = pixels(a_view())
    assert image.shape == (PANEL_PX[1], PANEL_PX[0], 3)
    assert is_green(image).sum() > 300**2
    assert not is_red(image).any()
    panel(a_view(source="マイク " * 40, detail="x" * 500, history=[an_event(name="犬" * 99), GAP]))


def test_no_two_looks_are_alike() -> None:
    seen = [pixels(a_view(look, detail="")) for look in Look if look is not Look.PAST]
    for number, one in enumerate(seen):
        assert all((np.abs(one - other).max(axis=2) > 60).sum() > 800 for other in seen[:number])


def test_not_listening_frames_everything_and_shows_no_picture() -> None:
    image = pixels(a_view(Look.NOT_LISTENING, sounding=False))
    red = is_red(image)
    assert red[:8].all()
    assert red[:, -8:].all()
    assert not is_green(image).any()


def test_what_is_past_does_not_look_like_the_present() -> None:
    now, past = (
        pixels(a_view(look, detail="", sounding=False, level_dbfs=-math.inf))
        for look in (Look.PICTURE, Look.PAST)
    )
    stage = (slice(100, 400), slice(60, 380))
    assert past[stage].mean() < 0.7 * now[stage].mean()
    assert (np.abs(now - past).max(axis=2) > 60)[:, 420:].sum() > 500  # the words, too


def test_an_alert_is_its_pictogram_and_its_long_headline_is_written_smaller() -> None:
    image = pixels(a_view(Look.NAMED, detail="", history=[ALERT]))
    np.testing.assert_array_equal(
        image[STAGE][:350], alert_picture("smoke alarm", 384, word=False)[:350]
    )
    short = pixels(a_view(Look.NAMED, detail="", recognised=an_event(state=State.NAMED)))
    margin = (slice(64, 64 + 80), slice(918, 940))
    assert (image[margin] == short[margin]).all()  # neither reaches it


def test_any_level_shows() -> None:
    for level in (-math.inf, -200.0, 0.0, 6.0):
        panel(a_view(level_dbfs=level))
    faint, loud = (
        pixels(a_view(Look.QUIET, level_dbfs=level, sounding=False)) for level in (-70.0, -5.0)
    )
    assert (np.abs(faint - loud).max(axis=2) > 30).sum() > 2000


def test_the_newest_of_the_history_are_shown() -> None:
    many = [an_event(name=f"n{number}") for number in range(SHOWN + 3)]
    full = pixels(a_view(history=many[:SHOWN]))
    assert (pixels(a_view(history=many)) == full).all()
    assert (pixels(a_view(history=many[: SHOWN - 1])) != full).any()


@pytest.mark.parametrize(
    ("look", "words"), [(Look.PICTURE, "imagined from sound"), (Look.NAMED, "named, not imagined")]
)
def test_the_file_says_what_is_imagined(tmp_path: Path, look: Look, words: str) -> None:
    save_panel(a_view(look), tmp_path / "now.png")
    with Image.open(tmp_path / "now.png") as written:
        assert written.info == {
            "soundsight": words, "state": look.value, "time": "2026-01-01T12:00:00",
        }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["now.png"]
    with pytest.raises(OutputError, match="cannot write"):
        save_panel(a_view(), tmp_path / "now.png" / "now.png")


# --- in a terminal -----------------------------------------------------------------------------


def drawn(shown: object, columns: int = 80, colour: str | None = "truecolor") -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=columns, height=24, force_terminal=True, color_system=colour,  # type: ignore[arg-type]
        legacy_windows=False, highlight=False,
    )  # fmt: skip
    console.print(shown)
    return file.getvalue()


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]


def lines(view: LiveView, columns: int = 100, rows: int = 50) -> list[str]:
    return plain(drawn(terminal_view(view, columns, rows), columns))


def test_two_pixels_stand_in_every_cell() -> None:
    image = np.asarray([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]], np.uint8)
    text = drawn(Group(*half_blocks(image)))
    assert plain(text) == [UPPER_HALF * 2]
    assert "38;2;1;2;3;48;2;7;8;9m" in text
    assert "38;2;4;5;6;48;2;10;11;12m" in text
    # An odd row stands over black, and fewer colours will do.
    text = drawn(Group(*half_blocks(np.full((3, 2, 3), 200, np.uint8))))
    assert plain(text) == [UPPER_HALF * 2] * 2
    assert "48;2;0;0;0m" in text
    grey = np.full((2, 2, 3), 123, np.uint8)
    assert "38;5;" in drawn(Group(*half_blocks(grey)), colour="256")


@pytest.mark.parametrize("size", [(80, 24), (120, 50), (200, 100), (40, 30), (30, 12), (10, 4)])
@pytest.mark.parametrize("look", list(Look))
def test_it_fits_any_terminal(size: tuple[int, int], look: Look) -> None:
    shown = lines(a_view(look, history=[an_event(), *[GAP] * 100]), *size)
    assert len(shown) <= size[1]
    assert max(map(len, shown)) <= size[0]


def test_a_picture_says_what_it_is_and_that_it_is_imagined() -> None:
    words = "\n".join(lines(a_view(history=[an_event(), GAP])))
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
    shown = lines(a_view(history=[an_event(), GAP]), *size)
    pictured = [line for line in shown if UPPER_HALF in line]
    assert len(pictured) == side // 2
    assert all(line.startswith(UPPER_HALF * side) for line in pictured)
    assert any("Dog" in line for line in pictured) == beside
    assert any("probably" in line for line in shown)
    assert any("not listening, 9 s" in line for line in shown)


def test_an_alert_in_a_terminal_is_its_pictogram_and_its_word() -> None:
    alert = an_event(name="door knock", confidence=0.95, state=State.NAMED, picture=None)
    text = drawn(terminal_view(a_view(Look.NAMED, recognised=alert), 100, 50), 100)
    words = "\n".join(plain(text))
    for part in (UPPER_HALF * 70, "Door knock", "\u25cf\u25cf\u25cf quite sure", alert.caption):
        assert part in words
    assert alert.caption == "named, not imagined"
    assert "38;2;222;180;112" in text  # its strokes


def test_not_listening_is_no_picture_and_not_quiet() -> None:
    why = "The microphone has gone: there is no microphone any more, and it will be looked for."
    stopped = "\n".join(lines(a_view(Look.NOT_LISTENING, detail=why), 80, 24))
    # A long reason is broken beside the picture's place.
    assert "The microphone has gone: there is no microphone" in " ".join(stopped.split())
    quiet = "\n".join(lines(a_view(Look.QUIET)))
    assert "NOT LISTENING" in stopped
    assert "NOT LISTENING" not in quiet
    assert UPPER_HALF not in stopped + quiet


def test_what_stands_below_the_picture_stays_where_it_is() -> None:
    shown = [lines(a_view(look), 90, 40) for look in Look]
    rows = {next(i for i, line in enumerate(view) if "sound now" in line) for view in shown}
    assert len(rows) == 1
