"""``soundsight compare``: reports of several runs side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from soundsight.cli.console import say
from soundsight.cli.options import option
from soundsight.core.errors import require_extra
from soundsight.core.files import local_output


def compare(
    reports: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPORT REPORT...",
            help="Folders of `soundsight evaluate`; the first is the "
            "one that the others are compared with.",
        ),
    ],
    out: Annotated[
        Path | None,
        option("OUT", "Folder for compare.html, .md, .json and a sheet.", "--out", "-o"),
    ] = None,
) -> None:
    """Compare reports, second by second.

    The reports must be of the same sounds, judges and seed.
    """
    if out is not None:
        local_output(out)
    require_extra(
        "soundsight compare", "train", "torch", "safetensors", "jaxtyping", "matplotlib",
        "sklearn", "jinja2",
    )  # fmt: skip
    from rich.console import Console
    from rich.table import Table

    from soundsight.evaluation.compare import compare as put_side_by_side
    from soundsight.evaluation.compare import overview

    command = shlex.join(["soundsight", *sys.argv[1:]])
    result = put_side_by_side(reports, out, command=command)
    for run in result["runs"]:
        say(f"{run['letter']}: {run['name']}  {run['folder']}")
    made = overview(result)
    table = Table(title=made.caption, box=None)
    for place, word in enumerate(made.head):
        table.add_column(word, justify="right" if place else "left")
    for row in made.rows:
        table.add_row(*row, style="bold" if row[0] in made.strong else None)
    # What is read by a program, or by a person in a file, must not depend on a terminal's width.
    console = Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False)
    console.print(table)
    if out is not None:
        say(f"written: {out / 'compare.html'}, compare.md, compare.json")
