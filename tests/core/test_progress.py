"""The one progress bar: on a terminal a bar with rate and time left, elsewhere lines or nothing."""

from __future__ import annotations

import io
import sys

import pytest

from soundsight.core import progress
from soundsight.core.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("unit", "words"),
    [("", "2 of 4"), ("bytes", "2 bytes of 4 bytes"), ("seconds", "0:00:02 of 0:00:04")],
)
def test_a_terminal_gets_a_bar(
    unit: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(unit) as show:
        show("listening", 1, 4, "a.wav")
        show("imagining", 2, 4, "b\n[red].wav")
    shown = screen.getvalue()
    assert "imagining" in shown
    assert words in shown
    assert "b?[red].wav" in shown
    assert "-:--:--" in shown
    assert capsys.readouterr().out == ""
    with progress_bar(unit, hidden=True) as show:
        show("hidden", 1, 2)
    assert "hidden" not in screen.getvalue()


def test_without_a_terminal_it_is_silent_or_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for log in (False, True):
        with progress_bar(log=log) as show:
            for done in range(5):
                show("videos", done, 4, "1 failed")
                now[0] += 20
    assert capsys.readouterr().err.splitlines() == [
        "videos: 2 of 4, 1 failed, 0:00:40 left", "videos: 4 of 4, 1 failed, 0:00:00 left",
    ]  # fmt: skip
