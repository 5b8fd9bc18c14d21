"""Errors that a person can mend. Each message is one line: what is wrong, where, what to do.

The command line prints the message and exits with code 2; anything that is not a
``SoundsightError`` is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

from importlib.util import find_spec


class SoundsightError(Exception):
    """Base of every error caused by an input, an option or the environment."""

    exit_code = 2


class AudioError(SoundsightError):
    """A sound that cannot be read or used."""


class VideoError(SoundsightError):
    """A video that cannot be read or used."""


class ModelError(SoundsightError):
    """A model folder that is missing, foreign, damaged or of another version."""


class DataError(SoundsightError):
    """A data folder that is missing, incomplete or damaged."""


class ConfigError(SoundsightError):
    """An unknown preset, an unknown key or a value out of range."""


class OutputError(SoundsightError):
    """A place that cannot be written to."""


class ServerError(SoundsightError):
    """A server that cannot be reached, refuses, or goes away."""


class MissingExtraError(SoundsightError):
    """A command that needs an optional set of packages that is not installed."""

    def __init__(self, command: str, extra: str, missing: str) -> None:
        super().__init__(
            f"{command} needs the extra '{extra}' ({missing} is not installed): "
            f"run  pip install 'soundsight[{extra}]'"
        )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its name where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def require_extra(command: str, extra: str, *packages: str) -> None:
    """Check that ``packages`` are installed.

    ``MissingExtraError`` naming the first that is not, and the extra that brings it.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(command, extra, package)
