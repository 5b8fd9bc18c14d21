"""The ``soundsight`` command.

Nothing heavy is imported here: ``--help`` answers at once, and ``translate`` loads what a picture
takes and no more. A command is the function of the name of its file in this folder; a file with
several commands has ``register(app)``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from soundsight import __version__
from soundsight.cli.console import complain
from soundsight.cli.group import INTERRUPTED, MISUSED, App
from soundsight.core.errors import SoundsightError

COMMANDS = (
    "translate", "storyboard", "listen", "serve", "prepare", "data", "train", "evaluate",
    "compare", "export", "import-published",
)  # fmt: skip
"""The commands, in the order of the help; each has a module of its name in ``soundsight.cli``."""


def build_app(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    """Put the program together, with these commands."""
    app = App(
        name="soundsight",
        help="Turns sound into sight: hears a second of sound and [b]imagines the scene[/b].",
        epilog="Start with:  [b]soundsight translate dog.wav[/b]",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in commands:
        stem = name.replace("-", "_")
        module = import_module(f"soundsight.cli.{stem}")
        if hasattr(module, "register"):
            module.register(app)
        else:
            app.command()(getattr(module, stem))
    return app


def main() -> None:
    """Run the command and exit with its code."""
    if sys.platform != "linux":
        complain(SoundsightError(f"soundsight runs on Linux alone; this is {sys.platform}"))
        sys.exit(MISUSED)
    try:
        # Where a command is named, the others need not be loaded: a picture comes a little sooner.
        named = [name for name in COMMANDS if name in sys.argv[1:2]]
        build_app(named or COMMANDS)(prog_name="soundsight")
    except KeyboardInterrupt:
        # Ctrl-C while the commands were still being put together.
        sys.exit(INTERRUPTED)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"soundsight {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    del version  # its callback has answered
