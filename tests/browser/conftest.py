"""What tests of both pages need: Chromium, a server in a process of its own, axe-core."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
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


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[str]]]]:
    """Runs ``soundsight serve``: (options) -> a context of its address and its process."""

    @contextlib.contextmanager
    def run(*options: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
        command = [sys.executable, "-m", "soundsight", "serve", *map(str, options)]
        if "--port" not in options:
            command += ["--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[1].partition("#")[0], process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
            process.wait(30)
            process.stdout.close()

    return run
