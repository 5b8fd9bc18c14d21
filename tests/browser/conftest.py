"""What tests of both pages need: Chromium, and axe-core."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

_CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
_AXE = Path(__file__).parents[2] / ".axe" / "axe.min.js"


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    if _CHROMIUM is None:
        pytest.skip("there is no chromium: set CHROMIUM to its path")
    return _CHROMIUM


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    if not _AXE.is_file():
        pytest.skip("axe-core is not there: run  make axe")
    return _AXE.read_text("utf-8")
