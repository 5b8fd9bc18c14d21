"""What commands check before they start: the extra that they need, the place they write to."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from soundsight.core.errors import MissingExtraError, OutputError


def need(command: str, extra: str, *packages: str) -> None:
    """Check that ``packages`` are installed.

    Raises:
        MissingExtraError: naming the first that is not, and the extra that brings it.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(command, extra, package)


def local_output(out: Path) -> None:
    """Check that an output is a path.

    Raises:
        OutputError: when it is a URL: as a path it would become a folder named ``s3:``.
    """
    # A path loses one of the two slashes.
    scheme, found, _ = str(out).partition(":/")
    if found and len(scheme) > 1 and scheme.isalnum():
        raise OutputError(f"{out} is a URL: write to a local folder, and copy it there afterwards")
