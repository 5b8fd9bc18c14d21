"""Pictograms of alerts: one for each kind, the same in files and on the page."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest

from soundsight.views.drawing import AMBER, CARD
from soundsight.views.pictograms import ALERT, alert_picture, pictogram_of, symbols

KINDS = ("smoke alarm", "doorbell", "knock", "telephone", "glass", "alarm clock", "gas leak")


@pytest.mark.parametrize(
    ("name", "pictogram"),
    [
        ("smoke alarm", "smoke-alarm"), ("smoke_alarm", "smoke-alarm"), ("doorbell", "doorbell"),
        ("Door bell", "doorbell"), ("knock on a door", "knock"), ("telephone", "telephone"),
        ("phone ringing", "telephone"), ("breaking glass", "glass"),
        ("alarm-clock", "alarm-clock"), ("alarm", ALERT), ("", ALERT), ("\u8b66\u5831", ALERT),
    ],
)  # fmt: skip
def test_which_pictogram(name: str, pictogram: str) -> None:
    assert pictogram_of(name) == pictogram


def test_no_two_are_alike_and_all_are_clearly_seen() -> None:
    seen = [alert_picture(name, 96, word=False).astype(int) for name in KINDS]
    for number, one in enumerate(seen):
        assert one.shape == (96, 96, 3)
        strokes = (np.abs(one - AMBER) < 8).all(axis=2)
        assert 0.08 < strokes.mean() < 0.5
        assert (one[0] == CARD).all()
        assert all((np.abs(one - other).max(axis=2) > 60).mean() > 0.03 for other in seen[:number])


@pytest.mark.parametrize("px", [1, 8, 16, 96, 500, 3000])
def test_any_size_and_any_name(px: int) -> None:
    for name in ("smoke alarm", "x" * 60, "\u72ac"):
        assert alert_picture(name, px).shape == (px, px, 3)


def test_the_word_stands_below() -> None:
    with_word, without = (alert_picture("doorbell", 200, word=word) for word in (True, False))
    assert (with_word[150:] != np.array(CARD)).any()
    assert (with_word != without).any()
    assert (with_word != alert_picture("telephone", 200))[150:].any()


def test_the_page_carries_them() -> None:
    page = (files("soundsight") / "server" / "static" / "index.html").read_text("utf-8")
    assert symbols() in page
    for name in KINDS:
        assert f'id="shape-alert-{pictogram_of(name)}"' in page
