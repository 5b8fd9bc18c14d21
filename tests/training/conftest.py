"""What the tests of several trainings share: eyes without their weights, finished encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from soundsight.core.config import to_dict
from soundsight.data.store.dataset import PairDataset
from soundsight.data.vegas.bench import Bench
from soundsight.models.eyes import NETWORKS, Eyes
from soundsight.training.configs import EncoderConfig, LoopConfig
from soundsight.training.encoder import EncoderTask
from soundsight.training.trainer import fit


@pytest.fixture(scope="session")
def blank_eyes() -> Eyes:
    """Eyes with random weights."""
    torch.manual_seed(0)
    return Eyes(NETWORKS["lite0"]).eval().requires_grad_(False)


@pytest.fixture
def random_eyes(monkeypatch: pytest.MonkeyPatch, blank_eyes: Eyes) -> Eyes:
    """Those, in the place of the package of weights."""
    monkeypatch.setattr(Eyes, "load", lambda _name: blank_eyes)
    return blank_eyes


def _trained(kind: str, bench: Bench, run: Path) -> Path:
    loop = LoopConfig(steps=3, batch_size=6, log_every=1, checkpoint_every=1, picture_every=2)
    config = EncoderConfig(kind=kind, preset="tiny", loop=loop)
    assert fit(EncoderTask(config, PairDataset(bench, "train")), run, loop, to_dict(config))
    return run


@pytest.fixture(scope="session")
def encoder_run(toy_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a contrastive encoder, that no test changes."""
    return _trained("contrastive", toy_bench, tmp_path_factory.mktemp("runs") / "encoder")


@pytest.fixture(scope="session")
def autoencoder_run(toy_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an autoencoder, that no test changes."""
    return _trained("autoencoder", toy_bench, tmp_path_factory.mktemp("runs") / "autoencoder")
