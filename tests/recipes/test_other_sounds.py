"""Which sounds of free games are taken as sounds of no known kind: by their names."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "other_sounds.py"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("sounds/horse-canter.wav", True),
        ("sounds/benchsaw_00.ogg", True),
        ("sounds/SwordSlice.OGG", True),
        ("sounds/wolf-growl-1.ogg", False),  # as a dog
        ("sounds/CarHorn.wav", False),  # of a known kind
        ("ambient/Birds3.ogg", False),
        ("sounds/magic_lightning.ogg", False),  # kept for measuring
        ("stamps/animals/sheep.ogg", False),
        ("voices/de/jump.ogg", False),  # speech
        ("sounds/readme.txt", False),
    ],
)
def test_known_kinds_measured_kinds_and_voices_are_left_out(path: str, wanted: bool) -> None:
    assert runpy.run_path(str(RECIPE))["is_wanted"](Path(path)) is wanted
