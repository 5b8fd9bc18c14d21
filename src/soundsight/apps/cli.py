"""The ``soundsight`` command.

Nothing heavy is imported here: ``--help`` answers at once, and ``translate`` loads what a picture
takes and no more. The other commands live in files of their own, each with a ``register(app)``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from soundsight import __version__
from soundsight.apps import (
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
from soundsight.apps.console import complain, say
from soundsight.core.errors import SoundsightError

INTERRUPTED = 130

# Typer names this one alone of its errors of the command line; its parent is the parent of all.
UsageError: Any = typer.BadParameter.__bases__[0]


class Commands(TyperGroup):
    """Turns errors that a person can mend into one line and an exit code, for every command."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the options that stand before the command."""
        with _one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Read the command's own options and run it."""
        with _one_line():
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except SoundsightError as error:
        complain(error)
        raise typer.Exit(error.exit_code) from None
    except UsageError as error:
        message = error.format_message()
        if "\n" in message:  # the help itself, where a group of commands was named and no more
            raise
        about = "" if error.ctx is None else f" (see {error.ctx.command_path} --help)"
        complain(SoundsightError(message.rstrip(".") + about))
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt as stop:
        say(f"interrupted: {stop}" if str(stop) else "interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None


def build_app() -> typer.Typer:
    """Put the commands together."""
    app = typer.Typer(
        cls=Commands,
        name="soundsight",
        help="Turns sound into sight: hears a second of sound and [b]imagines the scene[/b].",
        epilog="Start with:  [b]soundsight translate dog.wav[/b]",
        no_args_is_help=True,
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
