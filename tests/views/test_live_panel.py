"""The present as a PNG."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soundsight.core.errors import OutputError
from soundsight.views.live_panel import SHOWN, SIZE_PX, live_panel, save_live_panel
from soundsight.views.live_view import Look, Moment, Past, how_long
from soundsight.views.pictograms import alert_picture

NOON = datetime(2026, 1, 1, 12)
_TOP = 64
GREEN = np.full((96, 96, 3), (20, 200, 40), np.uint8)


def past(**values: object) -> Past:
    given = {"began": NOON, "lasted_s": 3.0, "name": "dog", "confidence": 0.8, "picture": GREEN}
    return Past(**{**given, **values})  # type: ignore[arg-type]


ALERT = past(name="smoke alarm", second_guess="alarm clock", picture=None, named=True)


def moment(look: Look = Look.PICTURE, **values: object) -> Moment:
    given = {
        "look": look,
        "at": NOON,
        "source": "the door",
        "detail": "since 12:00:00",
        "level_dbfs": -20.0,
        "sounding": True,
        "present": {Look.PICTURE: past(), Look.PAST: past(), Look.NAMED: ALERT}.get(look),
        "history": [past()],
    }
    return Moment(**{**given, **values})  # type: ignore[arg-type]


def pixels(shown: Moment) -> np.ndarray:
    return np.asarray(live_panel(shown)).astype(int)


def is_red(image: np.ndarray) -> np.ndarray:
    return (image[..., 0] > 150) & (image[..., 1] < 100) & (image[..., 2] < 90)


def test_the_picture_stands_large() -> None:
    image = pixels(moment(history=[]))
    assert image.shape == (SIZE_PX[1], SIZE_PX[0], 3)
    green = (np.abs(image - GREEN[0, 0]) < 8).all(axis=2)
    assert green.sum() > 300**2
    assert not is_red(image).any()


def test_no_two_looks_are_alike() -> None:
    seen = [pixels(moment(look, detail="", history=[])) for look in Look if look is not Look.PAST]
    for number, one in enumerate(seen):
        assert all((np.abs(one - other).max(axis=2) > 60).sum() > 800 for other in seen[:number])


def test_not_listening_frames_everything_and_shows_no_picture() -> None:
    image = pixels(moment(Look.NOT_LISTENING, sounding=False, history=[]))
    red = is_red(image)
    assert red[:8].all()
    assert red[:, -8:].all()
    assert not (np.abs(image - GREEN[0, 0]) < 8).all(axis=2).any()


def test_an_alert_is_its_pictogram_and_its_word(tmp_path: Path) -> None:
    shown = moment(Look.NAMED, history=[ALERT])
    assert (shown.headline, shown.sure) == ("Smoke alarm, or: alarm clock", "probably")
    image = pixels(shown)
    stage = (slice(_TOP, _TOP + 384), slice(28, 28 + 384))
    np.testing.assert_array_equal(
        image[stage][:350], alert_picture("smoke alarm", 384, word=False)[:350]
    )
    save_live_panel(shown, tmp_path / "now.png")
    with Image.open(tmp_path / "now.png") as written:
        assert written.info["soundsight"] == "named, not imagined"
        assert written.info["state"] == "named"


def test_a_long_headline_is_written_smaller() -> None:
    """Its two guesses are told whole."""
    long = pixels(moment(Look.NAMED, detail="", history=[]))
    short = pixels(
        moment(Look.NAMED, detail="", history=[], present=past(picture=None, named=True))
    )
    right = (slice(_TOP, _TOP + 80), slice(918, 940))
    assert (long[right] == short[right]).all()  # neither reaches the margin


def test_the_level_shows() -> None:
    faint, loud = (
        pixels(moment(Look.QUIET, level_dbfs=level, sounding=False)) for level in (-70.0, -5.0)
    )
    assert (np.abs(faint - loud).max(axis=2) > 30).sum() > 2000


@pytest.mark.parametrize("level", [-math.inf, -200.0, 0.0, 6.0])
def test_any_level_can_be_shown(level: float) -> None:
    live_panel(moment(level_dbfs=level))


def test_the_newest_of_the_past_are_shown() -> None:
    many = [past(name=f"n{number}") for number in range(SHOWN + 3)]
    full = pixels(moment(history=many[:SHOWN]))
    assert (pixels(moment(history=many)) == full).all()
    assert (pixels(moment(history=many[: SHOWN - 1])) != full).any()


def test_long_words_and_other_scripts_do_no_harm() -> None:
    live_panel(moment(source="マイク " * 40, detail="x" * 500, history=[past(name="犬" * 99)]))


def test_the_file_says_that_it_is_imagined(tmp_path: Path) -> None:
    out = tmp_path / "now.png"
    save_live_panel(moment(), out)
    with Image.open(out) as written:
        assert written.info["soundsight"] == "imagined from sound"
        assert written.info["state"] == "picture"
        assert written.info["time"] == "2026-01-01T12:00:00"
    assert [path.name for path in tmp_path.iterdir()] == ["now.png"]


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        save_live_panel(moment(), tmp_path / "file" / "now.png")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (3840, "1 h 4 min")],
)
def test_lengths_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert how_long(seconds) == words


def test_a_picture_without_a_name_claims_none() -> None:
    shown = moment(present=past(name="", confidence=math.nan))
    assert (shown.headline, shown.sure, shown.marks) == ("A familiar sound", "", 0)


def test_what_is_past_does_not_look_like_the_present() -> None:
    now, past_one = (
        pixels(moment(look, detail="", sounding=False, history=[], level_dbfs=-math.inf))
        for look in (Look.PICTURE, Look.PAST)
    )
    stage = (slice(100, 400), slice(60, 380))
    assert past_one[stage].mean() < 0.7 * now[stage].mean()
    assert (np.abs(now - past_one).max(axis=2) > 60)[:, 420:].sum() > 500  # the words, too
