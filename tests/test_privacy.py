"""What is used is nobody else's business: no library writes down or sends that it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def use(home: Path, first: str, sound: Path) -> list[str]:
    """Translate a sound in a fresh process with a home of its own; the files that appear there."""
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    script = (
        f"{first}\nfrom soundsight import Translator\n"
        f"print(len(Translator.load().translate({str(sound)!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**kept, "HOME": str(home)}, check=True, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.stdout == "1\n"
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


def test_nothing_is_kept_of_what_is_translated(tmp_path: Path, write_sound: object) -> None:
    sound = write_sound(tmp_path / "dog.wav", 2.0)  # type: ignore[operator]
    assert use(tmp_path / "home", "", sound) == []


def test_a_runtime_that_keeps_a_record_would_be_noticed(
    tmp_path: Path, write_sound: object
) -> None:
    sound = write_sound(tmp_path / "dog.wav", 2.0)  # type: ignore[operator]
    asked = "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '0'"
    if not use(tmp_path / "home", asked, sound):
        pytest.skip("this onnxruntime keeps no record")
