"""The folder of a report: figures as JSON, and pages in Markdown and HTML from one template each.

The words of a page are a Jinja2 template in ``assets/report``, written in Markdown; its tables
and pictures come from the measurement. It is rendered twice: with the blocks of Markdown as it is,
and with the blocks of HTML into one file that asks for nothing outside itself.
"""

from __future__ import annotations

import base64
import io
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from soundsight import __version__
from soundsight.core.config import differences
from soundsight.core.errors import ConfigError, DataError, OutputError
from soundsight.core.files import atomic_file, atomic_folder, commit, write_json
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.evaluation import blind
from soundsight.evaluation.metrics import MEAN
from soundsight.evaluation.segments import FILE, Segments, SegmentTable, read

REPORT = "report.json"
REPORT_VERSION = 2
"""Of reports on the bench's translators, which ``compare`` reads."""
BASELINE = "baseline"
"""A word in the name of every row that has to do with another report."""
UNKNOWN_SPLITS = ("devtest", "val")
"""Splits that no network was trained on."""
MAX_PAGE_BYTES = 6_000_000

_LOADER = PackageLoader("soundsight", "assets/report")
_JPEG_QUALITY = 88
_MARKS = {ord(mark): f"&#{ord(mark)};" for mark in "\\`*_"}
"""Characters that Markdown would take for marks; a page shows them as they are."""
_NO_FIGURE_CHANGES = ("blind_sheet", "sheet_per_class")
"""Settings that may differ between reports that are compared."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of words."""

    caption: str  #: what the table shows; its accessible name
    head: Sequence[str]  #: of the columns; the first stands over the rows' titles, and may be empty
    rows: Sequence[Sequence[str]]  #: cells, the first of each row its title
    strong: Sequence[str] = ()  #: titles of the rows that stand out
    #: for each cell but the titles, how dark its ground is, in [0, 1]
    shades: Sequence[Sequence[float]] | None = None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture."""

    file: str  #: its name beside the Markdown
    alt: str  #: what it shows, for readers who cannot see it
    caption: str  #: words below it
    content: bytes  #: what goes into the HTML
    media_type: str = "image/jpeg"  #: of ``content``

    @property
    def address(self) -> str:
        """The data URI that holds the picture."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode('ascii')}"


def save_figure(path: Path, picture: NDArray[np.uint8] | bytes, alt: str, caption: str) -> Figure:
    """Write a picture, ``.png`` or ``.svg``, and make a figure of it.

    It is the bytes of the file, or uint8 [height, width, 3], which the HTML page shows as a JPEG to
    stay small.

    Raises:
        OutputError: when it cannot be written.
    """
    if isinstance(picture, bytes):
        with atomic_file(path) as temporary:
            temporary.write_bytes(picture)
        kind = "image/svg+xml" if path.suffix == ".svg" else "image/png"
        return Figure(file=path.name, alt=alt, caption=caption, content=picture, media_type=kind)
    with atomic_file(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    return photograph(path.name, picture, alt, caption)


def photograph(file: str, levels: NDArray[np.uint8], alt: str, caption: str) -> Figure:
    """Return a figure of uint8 [height, width, 3]; in the HTML page it is a JPEG."""
    content = io.BytesIO()
    Image.fromarray(levels).save(content, format="JPEG", quality=_JPEG_QUALITY)
    return Figure(file=file, alt=alt, caption=caption, content=content.getvalue())


def blind_figure(
    place: Path,
    pictures: NDArray[np.uint8],
    heard: Segments,
    shown: NDArray[np.bool_],
    order: Sequence[int],
    classes: Sequence[str] = SUBJECTS,
) -> Figure:
    """Write the blind sheet, its form and its key, and make a figure of the sheet.

    Args:
        place: folder of the report.
        pictures: uint8 [n, 96, 96, 3] of all seconds.
        heard: what they are of.
        shown: bool [n], whether the program would show them.
        order: those of the sheet.
        classes: what they may be of.
    """
    kinds, names = ([of[i] for i in order] for of in (heard.kinds, heard.names))
    some = list(order)
    levels = blind.write_sheet(place, pictures[some], kinds, names, shown[some].tolist(), classes)
    return photograph(
        f"{blind.FOLDER}/{blind.SHEET}",
        levels,
        "Numbered pictures without labels",
        "Numbered pictures of unknown sounds in random order.",
    )


def per_cent(share: Mapping[str, float] | None, unit: str = "") -> str:
    """Return ``share``, ``low`` and ``high`` as ``68.3 [66.2, 70.5]``; nothing for None.

    ``unit`` is written after the share, such as `` %``.
    """
    if share is None:
        return ""
    point, low, high = (100 * share[key] for key in ("share", "low", "high"))
    return f"{point:z.1f}{unit} [{low:z.1f}, {high:z.1f}]"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in per cent, ``68.3``; nothing for None."""
    return "" if share is None else f"{100 * share:.{digits}f}"


def share_table(
    caption: str,
    rows: Mapping[str, Mapping[str, Any]],
    strong: Sequence[str] = (),
    columns: Sequence[str] = SUBJECTS,
) -> Table:
    """Return a table of shares: a row a name, the mean and a column a class."""
    keys = [MEAN, *columns]
    return Table(
        caption=caption,
        head=["", *keys],
        rows=[[name, *(per_cent(row.get(key)) for key in keys)] for name, row in rows.items()],
        strong=strong,
    )


def kind_table(caption: str, rows: Mapping[str, Mapping[str, Any]], kinds: Sequence[str]) -> Table:
    """Return a table of shares the other way round: the mean and a row a kind, a column a name."""
    return Table(
        caption=caption,
        head=["", *rows],
        rows=[[k, *(per_cent(row.get(k)) for row in rows.values())] for k in (MEAN, *kinds)],
        strong=[MEAN],
    )


def share_tiles(rows: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the means of rows as a page shows its main figures: (name, value, interval)."""
    tiles = []
    for name, row in rows.items():
        point, _, interval = per_cent(row[MEAN]).partition(" ")
        tiles.append((name, f"{point} %", interval))
    return tiles


def render(
    template: str, title: str, figures: Mapping[str, Figure], **values: Any
) -> tuple[str, str]:
    """Return a page as Markdown and as one HTML file that says the same.

    ``template`` is its name in ``assets/report``, without endings; ``values`` are what it names.

    Raises:
        OutputError: when the HTML would be over 6 MB, more than a phone should be sent.
    """
    values |= {"title": title, "figures": figures, "subjects": list(SUBJECTS)}
    text, marked_up = (
        _environment(html).get_template(f"{template}.md.jinja").render(
            blocks=f"blocks.{'html' if html else 'md'}.jinja", **values
        )
        for html in (False, True)
    )  # fmt: skip
    markdown = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    converter = MarkdownIt("commonmark", {"html": True}).disable(["link", "image", "autolink"])
    body = Markup(converter.render(marked_up))
    page = _environment(True).get_template("page.html.jinja").render(title=title, body=body)
    if len(page) > MAX_PAGE_BYTES:
        raise OutputError(
            f"the page would be {len(page) / 1e6:.1f} MB, over {MAX_PAGE_BYTES / 1e6:.0f} MB: "
            "show fewer pictures"
        )
    return markdown, page


def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=_LOADER, autoescape=html, trim_blocks=True, lstrip_blocks=True,
        finalize=_escaped if html else None,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent,
        "facts": lambda facts: ", ".join(f"{key} {value}" for key, value in facts.items()),
        "percents": lambda row, keys: [percent(row.get(key)) for key in keys],
        "decimals": lambda row, keys: [f"{row[key]:.2f}" if key in row else "" for key in keys],
        "kinds_passed": lambda of: list(dict.fromkeys(k for t in of.values() for k in t["passed"])),
        # For words that are Markdown themselves.
        "marked": escape if html else str,
    }
    return environment


def _escaped(value: Any) -> Any:
    return value if hasattr(value, "__html__") else Markup(str(escape(value)).translate(_MARKS))


@contextmanager
def report_folder(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes the report ``out``, whole or not at all, in place of an old one.

    Raises:
        OutputError: when ``out`` cannot be written to, holds something else, or somebody has
            written answers to its blind sheet: they would be lost.
    """

    def ours(folder: Path) -> bool:
        if blind.answered(folder):
            raise OutputError(f"{folder} holds answers to a blind sheet: choose another place")
        return os.path.isfile(folder / REPORT)

    with atomic_folder(out, overwrite=True, ours=ours) as place:
        yield place


def write_report(
    place: Path,
    template: str,
    title: str,
    report: dict[str, Any],
    figures: Mapping[str, Figure],
    command: str,
    **values: Any,
) -> None:
    """Add to a report how it was made, and write ``report.json``, ``.md`` and ``.html``."""
    report |= {
        "command": command,
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cpus": str(os.cpu_count()),
            "python": ".".join(map(str, sys.version_info[:3])),
            "torch": str(torch.__version__),
            "numpy": str(np.__version__),
        },
        "version": __version__,
        "commit": commit(),
    }
    write_json(place / REPORT, report)
    write_pages(place / "report", template, title, figures, report=report, **values)


def write_pages(
    path: Path, template: str, title: str, figures: Mapping[str, Figure], **values: Any
) -> None:
    """Write what :func:`render` returns beside each other, as ``path`` with .md and .html."""
    for ending, text in zip(
        ("md", "html"), render(template, title, figures, **values), strict=True
    ):
        with atomic_file(path.with_suffix(f".{ending}")) as temporary:
            temporary.write_text(text, "utf-8")


def check_split(split: str) -> None:
    """Raise ConfigError on a split that is not for evaluation."""
    if split not in UNKNOWN_SPLITS:
        raise ConfigError(f"{split} is not for evaluation: choose from {', '.join(UNKNOWN_SPLITS)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredReport:
    """A report on the bench as ``soundsight evaluate`` left it: its JSON, and its segments."""

    values: dict[str, Any]
    segments: SegmentTable


def load_report(folder: Path) -> StoredReport:
    """Read the report in a folder.

    Raises:
        DataError: when there is none, or it is of another kind or version, or damaged.
    """
    path = folder / REPORT
    try:
        values = json.loads(path.read_text("utf-8"))
        if values.get("kind"):
            raise DataError(f"{folder} is a report on an {values['kind']}: it takes a translator's")
        version = values["report_version"]
        if version != REPORT_VERSION:
            raise DataError(
                f"{path} is of version {version}, this program reads {REPORT_VERSION}: "
                "evaluate again"
            )
        for key in ("model", "judges", "settings", "sounds", "rows"):
            if not isinstance(values[key], dict):
                raise ValueError(key)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no report of soundsight evaluate") from error
    return StoredReport(values=values, segments=read(folder / FILE))


def check_comparable(
    first: Mapping[str, Any], other: Mapping[str, Any], first_name: str, other_name: str
) -> None:
    """Check that two reports, which hold ``settings`` and ``judges``, were measured alike.

    Raises:
        ConfigError: naming what differs, and the reports by their names.
    """
    names = differences(first["settings"], other["settings"])
    if changed := [name for name in names if name not in _NO_FIGURE_CHANGES]:
        a, b = (str(report["settings"].get(changed[0])) for report in (first, other))
        raise ConfigError(
            f"{first_name} and {other_name} differ in {changed[0]} ({a}, {b}): "
            "measure both in the same way"
        )
    if first["judges"].get("sha256") != other["judges"].get("sha256"):
        raise ConfigError(
            f"{first_name} and {other_name} were measured by different judges: "
            "measure both by the same"
        )
