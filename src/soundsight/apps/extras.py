"""Says which extra a command needs, before it starts and in one line."""

from __future__ import annotations

from importlib.util import find_spec

from soundsight.core.errors import MissingExtraError


def need(command: str, extra: str, *packages: str) -> None:
    """Check that ``packages`` are installed.

    Raises:
        MissingExtraError: naming the first that is not, and the extra that brings it.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(command, extra, package)
