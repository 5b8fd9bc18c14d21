"""Options that several commands share, so that they mean and say the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def option(metavar: str, text: str, *names: str, **settings: Any) -> Any:
    """Return ``typer.Option`` with a metavar (empty for flags) and a help text."""
    return typer.Option(*names, metavar=metavar, help=text, **settings)


def panel(title: str) -> Callable[..., Any]:
    """Return :func:`option` for options that stand under a title of their own in the help."""
    return functools.partial(option, rich_help_panel=title)


Model = Annotated[
    Path | None, option("FOLDER", "A model folder. [dim](default: the bundled one)[/dim]")
]
Track = Annotated[
    int | None,
    option(
        "N", "Which sound track of the file, from 1. [dim](default: the first that sounds)[/dim]",
        min=1, show_default=False,
    ),
]  # fmt: skip
Strict = Annotated[
    bool, option("", "Refuse what is damaged or cut short; otherwise what can be read is used.",
                 "--strict"),
]  # fmt: skip
Seed = Annotated[int, option("N", "Another seed imagines other pictures.", min=0)]
Overwrite = Annotated[bool, option("", "Replace what is there already.", "--overwrite")]
Sensitivity = Annotated[
    float, option("X", "0 shows only what is loud and sure, 1 shows more.", min=0.0, max=1.0)
]

STDIN = Path("/dev/stdin")


def sound_path(path: Path) -> Path:
    """Return the path of a sound that is named on the command line; ``-`` is standard input."""
    return STDIN if str(path) == "-" else path
