"""A group of commands: the program itself, and each of its commands that has others below it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from soundsight.cli.console import complain, say
from soundsight.core.errors import SoundsightError

INTERRUPTED = 130
MISUSED = 2

# Typer names this one alone of its errors of the command line; its parent is the parent of all.
UsageError: Any = typer.BadParameter.__bases__[0]


class Command(TyperCommand):
    """A command whose help names no Python types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options as the help shows them."""
        return _with_plain_metavars(super().get_params(ctx))


class Commands(TyperGroup):
    """Turns errors that a person can mend into one line and an exit code, for every command."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the options that stand before the command."""
        with _one_line():
            return super().make_context(*args, **kwargs)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help where no command is named: Typer's releases differ in what they do then."""
        if not args:
            typer.echo(ctx.get_help())
            raise typer.Exit(MISUSED)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options as the help shows them."""
        return _with_plain_metavars(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Read the command's own options and run it."""
        with _one_line():
            return super().invoke(ctx)


class App(typer.Typer):
    """A group of commands, whose errors are one line and whose help is plain."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=Commands, **settings)

    def command(self, *args: Any, **settings: Any) -> Any:
        """Register a command."""
        return super().command(*args, cls=Command, **settings)


def _with_plain_metavars(params: list[Any]) -> list[Any]:
    """Options without a metavar get none for flags, N for numbers, else the name; not a type."""
    for param in params:
        if param.param_type_name == "argument":
            param.display_type = lambda ctx: ""  # noqa: ARG005
        elif param.metavar is None:
            ranged = getattr(param, "min", None) is not None
            param.metavar = "" if param.is_flag else "N" if ranged else str(param.name).upper()
    return params


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except SoundsightError as error:
        complain(error)
        raise typer.Exit(error.exit_code) from None
    except UsageError as error:
        about = "" if error.ctx is None else f" (see {error.ctx.command_path} --help)"
        complain(SoundsightError(error.format_message().rstrip(".") + about))
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt as stop:
        say(f"interrupted: {stop}" if str(stop) else "interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
