"""Documents as Markdown and as one HTML file."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from soundsight.core.errors import OutputError
from soundsight.evaluation.page import (
    Document,
    Figure,
    Section,
    Table,
    as_html,
    as_markdown,
    per_cent,
    photograph,
)

SHARE = {"share": 0.6834, "low": 0.66, "high": 0.7049}
TABLE = Table(
    caption="Shares, %",
    head=["", "mean", "baby"],
    rows=[["informativity", "68.3 [66.0, 70.5]", "1.0 [0.0, 2.0]"], ["a|b <i>", "2", "3"]],
    strong=frozenset({"informativity"}),
    shades=[[1.0, 0.5], [0.0, 0.25]],
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


@pytest.fixture
def document() -> Document:
    """A title with a tag in it, a table, a picture."""
    levels = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    picture = photograph("sheet.png", levels, 'a "sheet" & more', "What it drew.")
    section = Section(
        title="First",
        texts=["Write `soundsight *x* <y>`, *not* z."],
        tables=[TABLE],
        figures=[picture],
        notes=["*one*: 1 < 2"],
    )
    tile = ("informativity", "68.3 %", "[66.0, 70.5]")
    return Document(title="Report on <b>", texts=["Hello."], tiles=[tile], sections=[section])


def test_the_html_is_one_file_that_asks_for_nothing(document: Document) -> None:
    page = as_html(document)
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
    assert as_html(document) == page


def test_the_html_can_be_used_by_anyone(document: Document) -> None:
    page = as_html(document)
    tags = outline(page).tags
    assert ("html", {"lang": "en"}) in tags
    assert any(given.get("name") == "viewport" for tag, given in tags if tag == "meta")
    assert "prefers-color-scheme: dark" in page
    scopes = [given.get("scope") for tag, given in tags if tag == "th"]
    assert scopes == ["col", "col", "row", "row"]
    assert [given["alt"] for tag, given in tags if tag == "img"] == ['a "sheet" & more']
    assert "<caption>Shares, %</caption>" in page
    # A wide table can be scrolled by keys.
    assert any(given.get("tabindex") == "0" and given["role"] == "region" for _, given in tags)


def test_words_are_escaped_and_marked(document: Document) -> None:
    page = as_html(document)
    assert "<h1>Report on &lt;b&gt;</h1>" in page
    assert "<title>Report on &lt;b&gt;</title>" in page
    assert "<code>soundsight *x* &lt;y&gt;</code>, <em>not</em> z." in page
    assert "<li><em>one</em>: 1 &lt; 2</li>" in page
    assert "a|b &lt;i&gt;" in page
    assert "68.3 <small>[66.0, 70.5]</small>" in page


def test_shades_grow_and_leave_words_legible(document: Document) -> None:
    shades = [int(level) for level in re.findall(r"--shade:(\d+)%", as_html(document))]
    assert shades == [60, 30, 0, 15]


def test_markdown_says_the_same(document: Document) -> None:
    lines = as_markdown(document).splitlines()
    assert lines[0] == "# Report on <b>"
    assert "|  | mean | baby |" in lines
    assert "|---|---|---|" in lines
    assert "| **informativity** | 68.3 [66.0, 70.5] | 1.0 [0.0, 2.0] |" in lines
    assert "| a\\|b <i> | 2 | 3 |" in lines
    assert '![a "sheet" & more](sheet.png)' in lines
    assert "* *one*: 1 < 2" in lines


def test_a_page_that_is_too_heavy_is_refused() -> None:
    figure = Figure(
        file="a.svg", alt="a", caption="a", content=bytes(4_600_000), media_type="image/svg+xml"
    )
    with pytest.raises(OutputError, match=r"6\.1 MB, over 6 MB"):
        as_html(Document(title="a", sections=[Section(title="b", figures=[figure])]))


def test_shares_are_written_with_their_interval() -> None:
    assert per_cent(SHARE) == "68.3 [66.0, 70.5]"
    assert per_cent(None) == ""
