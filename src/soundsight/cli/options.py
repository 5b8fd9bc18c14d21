"""Options that several commands share, so that they mean and say the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def group(name: str) -> Callable[..., Any]:
    """Return ``typer.Option`` for options that stand under a title of their own in the help."""
    return functools.partial(typer.Option, rich_help_panel=name)


Model = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A model folder. [dim](default: the bundled one)[/dim]"),
]

Track = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        show_default=False,
        help="Which sound track of the file, from 1. [dim](default: the first that sounds)[/dim]",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Refuse what is damaged or cut short, instead of using what can be read."
    ),
]

Seed = Annotated[
    int, typer.Option(min=0, metavar="N", help="Another seed imagines other pictures.")
]

STDIN = Path("/dev/stdin")


def sound_path(path: Path) -> Path:
    """The path of a sound that is named on the command line; ``-`` is standard input."""
    return STDIN if str(path) == "-" else path
