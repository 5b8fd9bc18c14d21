"""Judges after a few batches: no good, yet real."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from soundsight.data.vegas.bench import Bench
from soundsight.judges.retrieval_space import SpaceConfig
from soundsight.judges.train import JudgesConfig, ReferenceConfig, ReferencesConfig, train
from soundsight.models.contrastive import ContrastiveConfig
from soundsight.models.picture_classifier import PictureClassifierConfig


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> JudgesConfig:
    """The smallest settings with which everything is trained."""
    reference = ReferenceConfig(passes=0.4, photos=5, network=PictureClassifierConfig(maps=(4, 6)))
    network = ContrastiveConfig(embedding_size=4, sound_maps=(4,) * 5, picture_maps=(4, 4))
    space = SpaceConfig(passes=1, batch_size=8, network=network)
    references = ReferencesConfig(second=reference, classifier=reference, space=space)
    return JudgesConfig(steps=4, batch=8, val_per_kind=4, references=references)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, toy_bench: Bench, tiny: JudgesConfig) -> Path:
    """A finished folder of judges; tests change copies of it."""
    torch.set_num_threads(1)
    return train(tiny, toy_bench, tmp_path_factory.mktemp("trained") / "judges")
