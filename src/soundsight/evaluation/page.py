"""A report as Markdown and as one HTML file: titles, paragraphs, tables and pictures.

Whoever reports builds a ``Document``; both pages are written from it, so they say the same. The
HTML asks for nothing outside itself: its pictures lie in it.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.core.errors import OutputError
from soundsight.core.files import atomic_file

MAX_PAGE_BYTES = 6_000_000
_JPEG_QUALITY = 88


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of words.

    Attributes:
        caption: what the table shows; its accessible name.
        head: titles of the columns; the first one stands over the rows' titles and may be empty.
        rows: cells, the first of each row its title.
        strong: titles of the rows that stand out.
        shades: for each cell but the titles, how dark its ground is, in [0, 1]; None for none.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: frozenset[str] = frozenset()
    shades: Sequence[Sequence[float]] | None = None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture.

    Attributes:
        file: its name beside the Markdown.
        alt: what it shows, for who cannot see it.
        caption: words below it.
        content: the bytes that go into the HTML.
        media_type: of ``content``.
    """

    file: str
    alt: str
    caption: str
    content: bytes
    media_type: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A title, paragraphs, tables, pictures, then notes as a list.

    Paragraphs and notes know ``*emphasis*`` and ```code```.
    """

    title: str
    texts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Document:
    """A page.

    Attributes:
        title: its head.
        texts: paragraphs under it.
        tiles: the few figures to be seen first: (name, value, interval or remark).
        sections: the rest.
    """

    title: str
    texts: Sequence[str] = ()
    tiles: Sequence[tuple[str, str, str]] = ()
    sections: Sequence[Section] = ()


def photograph(file: str, levels: NDArray[np.uint8], alt: str, caption: str) -> Figure:
    """Make a figure of uint8 [height, width, 3]; in the HTML it is a JPEG, to stay small."""
    content = io.BytesIO()
    Image.fromarray(levels).save(content, format="JPEG", quality=_JPEG_QUALITY)
    return Figure(
        file=file, alt=alt, caption=caption, content=content.getvalue(), media_type="image/jpeg"
    )


def save_figure(path: Path, levels: NDArray[np.uint8], alt: str, caption: str) -> Figure:
    """Write uint8 [height, width, 3] as a PNG, and make a figure of it.

    Raises:
        OutputError: when it cannot be written.
    """
    with atomic_file(path) as temporary:
        Image.fromarray(levels).save(temporary, format="PNG")
    return photograph(path.name, levels, alt, caption)


def per_cent(share: Mapping[str, float] | None) -> str:
    """Write a share with its interval, ``68.3 [66.2, 70.5]``; nothing for None."""
    if share is None:
        return ""
    point, low, high = (100 * share[key] for key in ("share", "low", "high"))
    return f"{point:z.1f} [{low:z.1f}, {high:z.1f}]"


def as_markdown(document: Document) -> str:
    """Write a document as Markdown; its pictures are those that lie beside it."""
    lines = [f"# {document.title}", ""]
    for text in document.texts:
        lines += [text, ""]
    for section in document.sections:
        lines += [f"## {section.title}", ""]
        for text in section.texts:
            lines += [text, ""]
        for table in section.tables:
            lines += [f"*{table.caption}*", "", *_markdown_rows(table), ""]
        for figure in section.figures:
            lines += [f"![{figure.alt}]({figure.file})", "", f"*{figure.caption}*", ""]
        if section.notes:
            lines += [*[f"* {note}" for note in section.notes], ""]
    return "\n".join(lines)


def as_html(document: Document) -> str:
    """Write a document as one HTML file with its pictures in it.

    Raises:
        OutputError: when the page would be over 6 MB, more than a phone should be sent.
    """
    body = [f"<h1>{_words(document.title)}</h1>"]
    body += [f"<p>{_inline(text)}</p>" for text in document.texts]
    if document.tiles:
        body.append('<dl class="tiles">')
        for name, value, remark in document.tiles:
            body.append(
                f"<div><dt>{_words(name)}</dt><dd><b>{_words(value)}</b>"
                f"<small>{_words(remark)}</small></dd></div>"
            )
        body.append("</dl>")
    for number, section in enumerate(document.sections):
        body.append(f'<section aria-labelledby="s{number}">')
        body.append(f'<h2 id="s{number}">{_words(section.title)}</h2>')
        body += [f"<p>{_inline(text)}</p>" for text in section.texts]
        body += [_html_table(table) for table in section.tables]
        body += [_html_figure(figure) for figure in section.figures]
        if section.notes:
            body += ["<ul>", *[f"<li>{_inline(note)}</li>" for note in section.notes], "</ul>"]
        body.append("</section>")
    page = _PAGE.format(title=_words(document.title), style=_STYLE, body="\n".join(body))
    if len(page) > MAX_PAGE_BYTES:
        raise OutputError(
            f"the page would be {len(page) / 1e6:.1f} MB, over {MAX_PAGE_BYTES / 1e6:.0f} MB: "
            "show fewer pictures"
        )
    return page


def _markdown_rows(table: Table) -> Iterable[str]:
    yield _markdown_row(table.head)
    yield "|---" * len(table.head) + "|"
    for title, *cells in table.rows:
        yield _markdown_row([f"**{title}**" if title in table.strong else title, *cells])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _html_table(table: Table) -> str:
    name = escape(table.caption.replace("*", ""), quote=True)
    # What is wider than a phone is scrolled, by keys too.
    lines = [f'<div class="wide" role="region" aria-label="{name}" tabindex="0"><table>']
    lines.append(f"<caption>{_inline(table.caption)}</caption><thead><tr>")
    first, *others = table.head
    lines.append(f'<th scope="col">{_words(first)}</th>' if first else "<td></td>")
    lines += [f'<th scope="col">{_words(word)}</th>' for word in others]
    lines.append("</tr></thead><tbody>")
    for place, (title, *cells) in enumerate(table.rows):
        mark = ' class="strong"' if title in table.strong else ""
        row = [f'<tr{mark}><th scope="row">{_words(title)}</th>']
        for column, cell in enumerate(cells):
            shade = "" if table.shades is None else _shade(table.shades[place][column])
            point, bracket, interval = cell.partition(" [")
            small = f" <small>[{_words(interval)}</small>" if bracket else ""
            row.append(f"<td{shade}>{_words(point)}{small}</td>")
        lines.append("".join(row) + "</tr>")
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def _shade(level: float) -> str:
    # Words stay legible on the darkest ground.
    return f' style="--shade:{round(60 * level)}%" class="shaded"'


def _html_figure(figure: Figure) -> str:
    data = base64.b64encode(figure.content).decode("ascii")
    alt = escape(figure.alt, quote=True)
    return (
        f'<figure><img alt="{alt}" src="data:{figure.media_type};base64,{data}">'
        f"<figcaption>{_inline(figure.caption)}</figcaption></figure>"
    )


def _words(text: str) -> str:
    return escape(text, quote=False)


def _inline(text: str) -> str:
    """Escape a paragraph and turn its ```code``` and ``*emphasis*`` into tags."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        f"<code>{_words(part[1:-1])}</code>"
        if part.startswith("`") and len(part) > 1
        else re.sub(r"\*([^*\s][^*]*)\*", r"<em>\1</em>", _words(part))
        for part in parts
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf7; --card: #fff; --text: #1d2026; --dim: #5c6370;
  --line: #ddd9d0; --accent: #b4632d; }
@media (prefers-color-scheme: dark) { :root { --ground: #0e1014; --card: #181b21; --text: #eae7e1;
  --dim: #9aa1ad; --line: #2e333c; --accent: #deb470; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
p, li { max-width: 46rem; }
li { overflow-wrap: anywhere; }
code { font-size: .875em; overflow-wrap: anywhere; }
small { color: var(--dim); font-size: .8125em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  margin: 1.25rem 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: .75rem 1rem; }
.tiles dt { color: var(--dim); font-size: .875rem; line-height: 1.3; }
.tiles dd { margin: .25rem 0 0; }
.tiles b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; margin: 1rem 0; background: var(--card); border: 1px solid var(--line);
  border-radius: .75rem; }
.wide:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums;
  width: 100%; }
caption { text-align: left; padding: .75rem; color: var(--dim); }
th, td { text-align: right; padding: .375rem .75rem; border-top: 1px solid var(--line);
  white-space: nowrap; }
th { font-weight: 600; }
tbody th, thead > tr > :first-child { text-align: left; font-weight: 400; background: var(--card);
  position: sticky; left: 0; }
tbody th { white-space: normal; min-width: 9rem; }
td small { display: block; }
.strong th, .strong td { font-weight: 700; }
.strong small { font-weight: 400; }
.shaded { background: color-mix(in srgb, var(--accent) var(--shade), transparent); }
.shaded small { color: inherit; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; border-radius: .5rem; background: #fff; display: block; }
figcaption { color: var(--dim); font-size: .875rem; margin-top: .375rem; max-width: 46rem; }
@media print { .wide { overflow: visible; } }
"""
