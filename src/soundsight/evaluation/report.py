"""The folder of a report: figures as JSON, and pages in Markdown and HTML from one template each.

A page is a Jinja2 template in ``assets/report``, written in Markdown, that says which figures and
pictures it shows in which words. It is rendered twice: with the blocks of Markdown as it is, and
with the blocks of HTML into one file that asks for nothing outside itself.
"""

from __future__ import annotations

import base64
import io
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from soundsight.evaluation.segments import FILE, SegmentTable, read

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

Row = Mapping[str, Any]
"""Class (or ``mean``) -> ``share``, ``low``, ``high``."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture of a page."""

    file: str  #: its name beside the Markdown
    content: bytes  #: what goes into the HTML
    media_type: str = "image/jpeg"  #: of ``content``

    @property
    def address(self) -> str:
        """The data URI that holds the picture."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode('ascii')}"


def save_figure(path: Path, picture: NDArray[np.uint8] | bytes) -> Figure:
    """Write a picture, the bytes of a file or uint8 [height, width, 3], and make a figure of it."""
    with atomic_file(path) as temporary:
        if isinstance(picture, bytes):
            temporary.write_bytes(picture)
            kind = "image/svg+xml" if path.suffix == ".svg" else "image/png"
            return Figure(file=path.name, content=picture, media_type=kind)
        Image.fromarray(picture).save(temporary, format="PNG")
    return photograph(path.name, picture)


def photograph(file: str, levels: NDArray[np.uint8]) -> Figure:
    """Return a figure of uint8 [height, width, 3]; in the HTML page it is a JPEG, to stay small."""
    content = io.BytesIO()
    Image.fromarray(levels).save(content, format="JPEG", quality=_JPEG_QUALITY)
    return Figure(file=file, content=content.getvalue())


class Table(NamedTuple):
    """Rows of words: the first cell of each is its title, and those in ``strong`` stand out."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[str] = ()


def per_cent(share: Mapping[str, float] | None, unit: str = "") -> str:
    """Return a share and its interval, ``68.3 [66.2, 70.5]``, ``unit`` between; "" for None."""
    if share is None:
        return ""
    point, low, high = (100 * share[key] for key in ("share", "low", "high"))
    return f"{point:z.1f}{unit} [{low:z.1f}, {high:z.1f}]"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in per cent, ``68.3``; nothing for None."""
    return "" if share is None else f"{100 * share:.{digits}f}"


def share_table(caption: str, rows: Mapping[str, Row], strong: Sequence[str] = ()) -> Table:
    """Return a table of shares: a row a name, the mean and a column a class."""
    keys = [MEAN, *SUBJECTS]
    lines = [[name, *(per_cent(row.get(key)) for key in keys)] for name, row in rows.items()]
    return Table(caption, ["", *keys], lines, strong)


def kind_table(caption: str, rows: Mapping[str, Row], kinds: Iterable[str]) -> Table:
    """Return a table of shares the other way round: the mean and a row a kind, a column a name."""
    keys = [MEAN, *(kind for kind in kinds if kind != MEAN)]
    lines = [[kind, *(per_cent(row.get(kind)) for row in rows.values())] for kind in keys]
    return Table(caption, ["", *rows], lines, [MEAN])


def share_tiles(rows: Mapping[str, Row], names: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return the means of rows, where there are such, as (name, value, interval)."""
    tiles = []
    for name in names:
        if name in rows:
            point, _, interval = per_cent(rows[name][MEAN]).partition(" ")
            tiles.append((name, f"{point} %", interval))
    return tiles


def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=_LOADER, autoescape=html, trim_blocks=True, lstrip_blocks=True,
        finalize=_escaped if html else None,
    )  # fmt: skip
    made = (share_table, kind_table, share_tiles, per_cent)
    environment.globals |= {function.__name__: function for function in made}
    environment.filters |= {
        "percent": percent,
        "facts": lambda facts: ", ".join(f"{key} {value}" for key, value in facts.items()),
        "percents": lambda row, keys: [percent(row.get(key)) for key in keys],
        "decimals": lambda row, keys: [f"{row[key]:.2f}" if key in row else "" for key in keys],
        "errors": lambda row, keys: [
            "{share:.4f} [{low:.4f}, {high:.4f}]".format(**row[key]) for key in keys
        ],
        "parts": lambda counts: [n / max(1, sum(counts)) for n in counts],
        "counted": lambda counts: [f"{n} [{100 * n / max(1, sum(counts)):.0f} %]" for n in counts],
        "seen_as": lambda row: [percent(x, 0) if x >= 0.005 else "" for x in row],
        "values_of": lambda row, keys: [row.get(key, "") for key in keys],
        "kinds_passed": lambda of: list(dict.fromkeys(k for t in of.values() for k in t["passed"])),
        # For words that are Markdown themselves.
        "marked": escape if html else str,
    }
    return environment


def _escaped(value: Any) -> Any:
    return value if hasattr(value, "__html__") else Markup(str(escape(value)).translate(_MARKS))


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


def write_pages(
    path: Path, template: str, title: str, figures: Mapping[str, Figure], **values: Any
) -> None:
    """Write what :func:`render` returns beside each other, as ``path`` with .md and .html."""
    for ending, text in zip(
        ("md", "html"), render(template, title, figures, **values), strict=True
    ):
        with atomic_file(path.with_suffix(f".{ending}")) as temporary:
            temporary.write_text(text, "utf-8")


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
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": str(np.__version__),
        },
        "version": __version__,
        "commit": commit(),
    }
    write_json(place / REPORT, report)
    write_pages(place / "report", template, title, figures, report=report, **values)


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


class StoredReport(NamedTuple):
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
    return StoredReport(values, read(folder / FILE))


def check_split(split: str) -> None:
    """Raise ConfigError on a split that is not for evaluation."""
    if split not in UNKNOWN_SPLITS:
        raise ConfigError(f"{split} is not for evaluation: choose from {', '.join(UNKNOWN_SPLITS)}")


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
