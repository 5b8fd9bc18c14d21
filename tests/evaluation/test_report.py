"""Documents as Markdown and as one HTML file."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from jinja2 import ChoiceLoader, DictLoader
from PIL import Image

from soundsight.core.errors import OutputError
from soundsight.evaluation import report
from soundsight.evaluation.report import Figure, Table, per_cent, photograph, render

SHARE = {"share": 0.6834, "low": 0.66, "high": 0.7049}
TABLE = Table(
    caption="Shares, %",
    head=["", "mean", "baby"],
    rows=[["informativity", "68.3 [66.0, 70.5]", "1.0 [0.0, 2.0]"], ["a|b <i>", "2", "3"]],
    strong=["informativity"],
)


class Outline(HTMLParser):
    """Checks that tags are closed in order, and notes tags and addresses."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    """Read a page; fails on tags that are not closed in order."""
    reader = Outline()
    reader.feed(page)
    assert reader.open == []
    return reader


TEMPLATE = """
{% from blocks import code, figure, line, table, tiles with context %}
# {{ title }}

Hello.

{{ tiles(share_tiles({"informativity": {"mean": share}}, ["informativity", "other"])) }}

## First

Write {{ code("soundsight *x* <y>") }}, *not* z of {{ name }}.

{{ table(one) }}

{{ line(["counts"] + ([1, 3] | counted), false, [1, 3] | parts) }}

{{ figure(figures.sheet, alt, "What it drew.") }}

* *one*: 1 < 2
* {{ note | marked }}
"""


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The Markdown and the HTML of a page: a title with a tag in it, a table, a picture."""
    monkeypatch.setattr(
        report, "_LOADER", ChoiceLoader([DictLoader({"toy.md.jinja": TEMPLATE}), report._LOADER])
    )
    levels = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    picture = photograph("sheet.png", levels)
    values = {"one": TABLE, "name": "a_*b*", "note": "none were given (`--early`)."}
    values |= {"share": SHARE, "alt": 'a "sheet" & more'}
    first, again = (render("toy", "Report on <b>", {"sheet": picture}, **values) for _ in "ab")
    assert first == again
    return first


def test_the_html_is_one_file_that_asks_for_nothing(pages: tuple[str, str]) -> None:
    page = pages[1]
    tags = outline(page).tags
    assert page.startswith("<!doctype html>")
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object"}
    addresses = [
        value for _, given in tags for key, value in given.items() if key in ("src", "href")
    ]
    assert len(addresses) == 1
    assert addresses[0].startswith("data:image/jpeg;base64,")
    assert "http" not in page
    assert "url(" not in page
    assert "@import" not in page
    with Image.open(io.BytesIO(base64.b64decode(addresses[0].split(",")[1]))) as picture:
        assert picture.size == (30, 20)


def test_the_html_can_be_used_by_anyone(pages: tuple[str, str]) -> None:
    page = pages[1]
    tags = outline(page).tags
    assert ("html", {"lang": "en"}) in tags
    assert any(given.get("name") == "viewport" for tag, given in tags if tag == "meta")
    assert "prefers-color-scheme: dark" in page
    scopes = [given.get("scope") for tag, given in tags if tag == "th"]
    assert scopes == ["col", "col", "row", "row", "row"]
    assert [given["alt"] for tag, given in tags if tag == "img"] == ['a "sheet" & more']
    assert "<caption>Shares, %</caption>" in page
    # A wide table can be scrolled by keys.
    assert any(given.get("tabindex") == "0" and given["role"] == "region" for _, given in tags)


def test_words_are_escaped_and_marked(pages: tuple[str, str]) -> None:
    page = pages[1]
    assert "<h1>Report on &lt;b&gt;</h1>" in page
    assert "<title>Report on &lt;b&gt;</title>" in page
    assert "<code>soundsight *x* &lt;y&gt;</code>, <em>not</em> z" in page
    assert "<li><em>one</em>: 1 &lt; 2</li>" in page
    assert "<li>none were given (<code>--early</code>).</li>" in page
    assert " of a_*b*." in page
    assert "a|b &lt;i&gt;" in page
    assert "68.3 <small>[66.0, 70.5]</small>" in page
    assert "<b>68.3 %</b><small>[66.0, 70.5]</small>" in page
    assert "3 <small>[75 %]</small>" in page
    # Shades grow and leave words legible.
    assert re.findall(r"--shade:(\d+)%", page) == ["15", "45"]


def test_markdown_says_the_same(pages: tuple[str, str]) -> None:
    lines = pages[0].splitlines()
    assert lines[0] == "# Report on <b>"
    assert "|  | mean | baby |" in lines
    assert "|---|---|---|" in lines
    assert "| **informativity** | 68.3 [66.0, 70.5] | 1.0 [0.0, 2.0] |" in lines
    assert "| a\\|b <i> | 2 | 3 |" in lines
    assert '![a "sheet" & more](sheet.png)' in lines
    assert "* *one*: 1 < 2" in lines


def test_a_page_that_is_too_heavy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% from blocks import figure with context %}{{ figure(figures.a, 1, 2) }}"
    monkeypatch.setattr(
        report, "_LOADER", ChoiceLoader([DictLoader({"a.md.jinja": template}), report._LOADER])
    )
    figure = Figure(file="a.svg", content=bytes(4_600_000))
    with pytest.raises(OutputError, match=r"6\.1 MB, over 6 MB"):
        render("a", "a", {"a": figure})


def test_shares_are_written_with_their_interval() -> None:
    assert per_cent(SHARE) == "68.3 [66.0, 70.5]"
    assert per_cent(None) == ""
