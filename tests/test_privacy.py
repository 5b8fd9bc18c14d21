"""What is used is nobody else's business: no library writes down or sends that it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def test_nothing_is_kept_of_what_is_translated(
    tmp_path: Path, write_sound: Callable[..., Path]
) -> None:
    """... by a fresh process with a home of its own; and a record would be noticed."""
    sound = write_sound(tmp_path / "dog.wav", 2.0)
    kept = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}

    def use(name: str, first: str) -> list[Path]:
        home = tmp_path / name
        home.mkdir()
        script = (
            f"{first}\nfrom soundsight import Translator\n"
            f"print(len(Translator.load().translate({str(sound)!r})))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], env={**kept, "HOME": str(home)}, check=True, text=True,
            capture_output=True,
        )  # fmt: skip
        assert done.stdout == "1\n"
        return [path for path in home.rglob("*") if path.is_file()]

    assert use("home", "") == []
    if not use("watched", "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '0'"):
        pytest.skip("this onnxruntime keeps no record")
