"""The ``soundsight`` command.

Nothing heavy is imported here: ``--help`` answers at once, and ``translate`` loads what a picture
takes and no more. The other commands live in files of their own, each with a ``register(app)``.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from soundsight import __version__
from soundsight.cli import (
    compare,
    data,
    evaluate,
    export,
    import_published,
    listen,
    prepare,
    serve,
    storyboard,
    train,
    translate,
)
from soundsight.cli.console import complain
from soundsight.cli.group import INTERRUPTED, MISUSED, App
from soundsight.core.errors import SoundsightError


def build_app() -> typer.Typer:
    """Put the commands together."""
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
    for module in (
        translate, storyboard, listen, serve, prepare, data, train, evaluate, compare, export,
        import_published,
    ):  # fmt: skip
        module.register(app)
    return app


def main() -> None:
    """Run the command and exit with its code."""
    if sys.platform != "linux":
        complain(SoundsightError(f"soundsight runs on Linux alone; this is {sys.platform}"))
        sys.exit(MISUSED)
    try:
        build_app()(prog_name="soundsight")
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
