"""The settings of trainings are known without PyTorch, and name presets that exist."""

from __future__ import annotations

import subprocess
import sys

from soundsight.models.ears import PRESETS as EARS
from soundsight.models.presets import PRESETS
from soundsight.training import configs, decoder, drawing, flow
from soundsight.training.other_sounds import KINDS


def test_names_of_presets_are_those_of_the_networks() -> None:
    assert tuple(PRESETS) == configs.SIZES
    assert tuple(EARS) == configs.EARS_SIZES
    for sizes in (decoder.SIZES, flow.SIZES, drawing.DISCRIMINATORS):
        assert tuple(sizes) == configs.PART_SIZES
    assert tuple(KINDS) == configs.MADE_SOUNDS


def test_settings_load_no_torch() -> None:
    code = "import sys, soundsight.training.configs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
