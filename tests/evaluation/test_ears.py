"""The linear reading of Everyday's kinds: balanced, by second and by recording, and its report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import write_json
from soundsight.data.everyday.folder import Everyday
from soundsight.data.vegas.bench import Bench
from soundsight.evaluation.encoders import fit_probe, report_ears
from soundsight.models.ears import Ears, ears_preset
from soundsight.training.checkpoints import save_weights


def test_a_balanced_probe_does_not_drown_the_small_class() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], [950, 50])
    known = rng.normal(size=(1000, 2)) + 1.0 * classes[:, None]
    asked, of = rng.normal(size=(400, 2)), np.repeat([0, 1], 200)
    asked += 1.0 * of[:, None]
    right = {}
    for balanced in (False, True):
        probe = fit_probe(known, classes, known, classes, count=2, balanced=balanced)
        found = probe.probabilities(asked)
        assert found.shape == (400, 2)
        right[balanced] = (found.argmax(axis=1) == of)[of == 1].mean()
    assert right[True] > right[False] + 0.3


def test_the_report_says_every_reading_and_is_the_same_again(
    toy_everyday: Everyday, toy_bench: Bench, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = Ears(ears_preset("everyday-tiny")).eval()
    run = tmp_path / "run"
    write_json(run / "run.json", {"kind": "ears", "config": {}})
    with pytest.raises(DataError, match="not finished"):
        report_ears(run, toy_everyday, toy_bench, tmp_path / "out")
    about = {"kind": "ears", "network": to_dict(network.config)}
    save_weights(run / "encoder.safetensors", network, about)
    words = report_ears(run, toy_everyday, toy_bench, tmp_path / "out", command="the command")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(words.splitlines()) == 12
    assert "the command" in (tmp_path / "out" / "report.md").read_text()
    for name in ("22 subjects", "28 kinds", "bench's five"):
        for band in ("whole band", "8 kHz"):
            kinds = set(report[name][band]["seconds"])
            assert ("knock" in kinds) == (name == "28 kinds")
            assert ("cat" in kinds) == (name != "bench's five")
            assert {"baby", "water", "mean", "bench"} <= kinds
    assert report_ears(run, toy_everyday, toy_bench, tmp_path / "out") == words
    with pytest.raises(ConfigError, match="devtest"):
        report_ears(run, toy_everyday, toy_bench, tmp_path / "out", split="train")
