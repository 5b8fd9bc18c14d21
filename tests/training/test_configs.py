"""The settings of trainings are known without PyTorch, in their ranges, and name what exists."""

from __future__ import annotations

import subprocess
import sys

import pytest

from soundsight.core.errors import ConfigError
from soundsight.models.ears import PRESETS as EARS
from soundsight.models.presets import PRESETS
from soundsight.training import coherence, configs, decoder, flow
from soundsight.training.configs import MovingAverageConfig
from soundsight.training.other_sounds import KINDS


def test_names_of_presets_are_those_of_the_networks() -> None:
    assert tuple(PRESETS) == configs.SIZES
    assert tuple(EARS) == configs.EARS_SIZES
    for sizes in (decoder.SIZES, flow.SIZES, decoder.DISCRIMINATORS):
        assert tuple(sizes) == configs.PART_SIZES
    assert tuple(KINDS) == configs.MADE_SOUNDS


def test_settings_load_no_torch() -> None:
    code = "import sys, soundsight.training.configs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


REFUSED = {
    configs.LoopConfig: [
        ({"steps": 0}, "loop.steps"), ({"batch_size": 1}, "loop.batch_size"),
        ({"log_every": 0}, "loop.log_every"), ({"seed": -1}, "loop.seed"),
        ({"seed": 2**63}, "loop.seed"), ({"keep": -1}, "loop.keep"),
        ({"evaluate_every": 0}, "loop.evaluate_every"),
        ({"precision": "16-true"}, "loop.precision"),
        ({"accumulate": 4}, "cannot be divided into 4"),
        ({"accumulate": 6}, "cannot be divided into 6"),
    ],
    configs.TranslatorConfig: [
        ({"noise_ratio": -1.0}, r"noise_ratio must lie in \[0, 64\]"),
        ({"noise_ratio": 1e9}, r"noise_ratio must lie in \[0, 64\]"),
        ({"pixel": "huber"}, "l1, mse"), ({"ema_decay": 2.0}, "ema_decay"),
        ({"objective": "wasserstein"}, "rc, relativistic"),
        ({"moving_average": MovingAverageConfig(reading="ema")}, "--objective rc"),
        ({"objective": "rc", "contrast_weight": 1.0}, "--objective relativistic"),
        ({"label_smoothing": 0.1}, "label_smoothing belongs to --objective rc"),
        ({"score_norm": False}, "score_norm belongs to --objective rc"),
        ({"objective": "rc", "label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\)"),
        ({"objective": "rc", "discriminator_steps": 0}, "discriminator_steps"),
        ({"objective": "rc", "discriminator_preset": "huge"}, "paper, quarter, small"),
        ({"objective": "rc", "optimizer": "lion"}, "adam, sgd"),
        ({"objective": "rc", "discriminator_dropout": 1.0}, "discriminator_dropout must lie in"),
        ({"optimizer": None}, "adam, sgd"),
    ],
    MovingAverageConfig: [
        ({"reading": "mean"}, "reading"), ({"snapshots": 1}, "snapshots"),
        ({"snapshot_every": 0}, "snapshot_every"), ({"decay": 1.0}, "decay"),
    ],
    configs.EncoderConfig: [
        ({"schedule": "published"}, "autoencoder"), ({"embedding_size": 3}, "between 4 and 65536"),
    ],
    configs.EarsTrainingConfig: [
        ({"alone": 2.0}, "alone"), ({"learning_rate": 0.0}, "learning_rate"),
        ({"photos_each": 0}, "photos_each"), ({"last_layer_dropout": 1.0}, "last_layer_dropout"),
    ],
    configs.BankConfig: [({"copies": -1}, "copies")],
    configs.CopyConfig: [({"codec": 1.5}, "codec"), ({"narrow_any": 0.9}, "one whole")],
    configs.MixtureConfig: [
        ({"clips": -1}, "clips"), ({"speed": 1.5}, "speed"),
        ({"recordings": (0.5, 0.5, 0.5)}, "sum to 1"), ({"recordings": (1.5, 0, -0.5)}, "0, 1"),
    ],
    configs.DecoderConfig: [
        ({"preset": "huge"}, "preset"), ({"rate": 0.0}, "rate"), ({"kl_weight": -1.0}, "kl_weight"),
    ],
    configs.FlowTrainingConfig: [
        ({"left_out": 1.0}, "left_out"), ({"cool_down": 2.0}, "cool_down"),
    ],
    configs.DistilConfig: [({"steps": 0}, "steps"), ({"guidance": 0.0}, "guidance")],
    configs.AlignConfig: [
        ({"preset": "huge"}, "preset"), ({"zoom": -1.0}, "zoom"), ({"ema_decay": 1.0}, "ema_decay"),
    ],
    configs.LabelHeadConfig: [
        ({"penalties": ()}, "penalties"), ({"penalties": (0.0,)}, "penalties"),
        ({"penalties": (1.0, -1.0)}, "penalties"), ({"iterations": 0}, "iterations"),
        ({"others": ("thunder",)}, "other sound"), ({"others_each": -1}, "others_each"),
        ({"others_weight": 0.0}, "others_weight"),
    ],
    configs.FitConfig: [
        ({"accepted": 1.0}, "accepted"), ({"accepted": 0.0}, "accepted"), ({"axes": 0}, "axes"),
        ({"neighbours": 0}, "neighbours"),
    ],
    configs.OodClassifierFitConfig: [
        ({"kept": 1.0}, "kept"), ({"made_weight": -1.0}, "made_weight"), ({"steps": 0}, "steps"),
    ],
    coherence.CoherenceConfig: [
        ({"folds": 1}, "folds"), ({"passes": 0.0}, "passes"),
        ({"min_steps": 9, "max_steps": 8}, "min_steps"), ({"learning_rate": 0.0}, "learning_rate"),
        ({"seed": -1}, "seed"), ({"frames_pooled": 0}, "frames_pooled"),
        ({"picture_px": 16}, "picture_px"),
    ],
    coherence.ClassifierConfig: [({"kind": "forest"}, "kind"), ({"smoothing": 1.0}, "smoothing")],
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_settings_out_of_range_are_refused(kind: type) -> None:
    loop, translator = {"steps": 4, "batch_size": 6}, {"encoder": "x"}
    needed = {configs.LoopConfig: loop, configs.TranslatorConfig: translator}.get(kind, {})
    kind(**needed)
    for changes, words in REFUSED[kind]:
        with pytest.raises(ConfigError, match=words):
            kind(**{**needed, **changes})


def test_defaults_of_an_objective_a_schedule_and_a_fine_tuning() -> None:
    assert configs.default_config("rc", "compact", "x").pixel_weight > 0
    assert configs.default_config("relativistic", "flagship", "x").variational_weight > 0
    with pytest.raises(ConfigError, match="autoencoder"):
        configs.default_encoder_config("contrastive", "tiny", "published")
    for config, rate in (
        (configs.EarsTrainingConfig(), "learning_rate"), (configs.FlowTrainingConfig(), "rate"),
    ):  # fmt: skip
        tuned = configs.fine_tuned(config, "hash")
        assert tuned.init == "hash"
        assert tuned.loop.steps < config.loop.steps
        assert getattr(tuned, rate) < getattr(config, rate)


def test_the_rate_rises_stays_and_falls() -> None:
    loop = configs.LoopConfig(steps=100, batch_size=2)
    config = configs.FlowTrainingConfig(loop=loop, warm_up=10, cool_down=0.2, rate=1.0)
    rates = [config.rate_at(step) for step in (0, 50, 90)]
    assert rates == pytest.approx([0.1, 1.0, 0.5])
    config = configs.AlignConfig(loop=loop, ahead=20, warm_up=10, cool_down=0.2, rate=1.0)
    assert [config.rate_at(step) for step in (19, 20, 50)] == pytest.approx([0.0, 0.1, 1.0])


def test_times_may_lie_denser_at_the_beginning() -> None:
    assert configs.DistilConfig(steps=4).times == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert configs.DistilConfig(steps=2, shift=3.0).times == pytest.approx((0.0, 0.25, 1.0))
