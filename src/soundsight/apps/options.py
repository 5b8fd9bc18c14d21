"""Options that several commands share, so that they mean and say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_CANDIDATES = (
    "Pictures made for each {}, of which the best is kept. "
    "[dim](default: 4, or 1 for a model without a critic)[/dim]"
)

Model = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A model folder. [dim](default: the bundled one)[/dim]"),
]


def _candidates(of: str) -> typer.models.OptionInfo:
    made: typer.models.OptionInfo = typer.Option(
        min=1, max=64, metavar="N", show_default=False, help=_CANDIDATES.format(of)
    )
    return made


Candidates = Annotated[int | None, _candidates("of these")]
EventCandidates = Annotated[int | None, _candidates("event")]

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
