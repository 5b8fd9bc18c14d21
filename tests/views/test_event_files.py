"""The saved page: one file, nothing from outside, nothing of the file's name is markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from soundsight.media import audio
from soundsight.views.event_files import MAX_SOUND_S, events_page, save
from soundsight.views.events import FileEvents

RATE = 44_100
EVIL = '<img src=x onerror=alert(1)></script><!--<script>@SCRIPT@&amp;".wav'


class Page(HTMLParser):
    """Collects the elements, the text of those that hold data, and the rest of the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, str] = {}
        self.words = ""
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        self._in = str(values.get("id") or tag) if tag in ("script", "style") else ""
        if self._in:
            self.raw[self._in] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in:
            self.raw[self._in] += data
        else:
            self.words += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def test_it_asks_for_nothing_outside(toy_events: FileEvents) -> None:
    page = Page(events_page(toy_events, b"sound"))
    for tag, values in page.tags:
        assert "src" not in values, tag
        assert tag not in ("link", "iframe", "object", "base", "form")
    policy = next(v["content"] for _, v in page.tags if v.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    script, style = page.raw["script"], page.raw["style"]
    for kind, text in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import\()", script)
    assert "innerHTML" not in script
    assert "url(" not in style


def test_what_it_holds(toy_events: FileEvents) -> None:
    warning = f"{EVIL} is cut short"
    page = Page(events_page(replace(toy_events, warnings=[warning]), b"\x00sound"))
    told = json.loads(page.raw["events"])
    assert [event["number"] for event in told["events"]] == [1, 2, 3]
    assert told["overview"]["mel"].startswith("data:image/png;base64,")
    assert base64.b64decode(json.loads(page.raw["sound"])["content"]) == b"\x00sound"
    assert told["warnings"] == [warning]
    for words in (warning, "3 events, in 1 of them nothing recognisable", "imagined"):
        assert words in page.words
    assert not page.count("img")


def test_a_name_is_no_markup(toy_events: FileEvents) -> None:
    clean = Page(events_page(toy_events, None))
    evil = Page(events_page(replace(toy_events, source=EVIL), None))
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in clean.tags]
    assert evil.count("img") == 0
    assert EVIL in evil.words
    assert json.loads(evil.raw["events"])["source"] == EVIL
    assert evil.raw["script"] == clean.raw["script"]


def blocks(seconds: float) -> Iterator[np.ndarray]:
    t = np.arange(round(seconds * RATE)) / RATE
    yield (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def test_the_sound_is_in_it(toy_events: FileEvents, tmp_path: Path) -> None:
    done = list(save(toy_events, lambda: blocks(12.0), tmp_path / "a.html"))
    assert done[-1] == pytest.approx(12.0)
    page = Page((tmp_path / "a.html").read_text("utf-8"))
    sound = json.loads(page.raw["sound"])
    assert sound["type"] == "audio/mp4"
    (tmp_path / "a.m4a").write_bytes(base64.b64decode(sound["content"]))
    heard = audio.decode(tmp_path / "a.m4a")
    part = slice(RATE, 2 * RATE)
    assert np.corrcoef(heard[part], next(blocks(12.0))[part])[0, 1] > 0.99


def test_a_long_sound_is_left_out_and_said(
    events_of: Callable[..., FileEvents], tmp_path: Path
) -> None:
    def never() -> Iterator[np.ndarray]:
        raise AssertionError("the sound of a long file is not read")

    told = events_of(duration_s=MAX_SOUND_S + 1, source="\udcff.wav")
    assert list(save(told, never, tmp_path / "a.html")) == []
    page = Page((tmp_path / "a.html").read_text("utf-8"))
    assert "?.wav" in page.words  # a name that is no text
    sound = json.loads(page.raw["sound"])
    assert sound["content"] == ""
    assert "longer than 30 minutes" in sound["why"]
