"""The published classifier; its layers and outputs are held to a reference in test_checkpoints."""

from __future__ import annotations

import pytest
import torch

from soundsight.core.errors import ConfigError
from soundsight.models.published.informativity import (
    INFORMATIVE,
    InformativityClassifier,
    InformativityConfig,
)

GOLDEN = [0.430028, 0.368589, 0.601625, 0.484175]
"""Scores of four pictures of noise under the weights of seed 0."""
STILL = {"spatial_dropout": (0.0,) * 5, "dropout": 0.0}


def seeded(**changes: object) -> InformativityClassifier:
    """Make the classifier with the weights of seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return InformativityClassifier(InformativityConfig(**changes))


def images(n: int = 4) -> torch.Tensor:
    """Draw n pictures of noise in [-1, 1]."""
    return torch.rand(n, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_score_is_the_second_column_and_alike_in_any_batch() -> None:
    model = seeded().eval()
    logs = model(images())
    torch.testing.assert_close(logs.exp().sum(1), torch.ones(4))
    torch.testing.assert_close(model.informativity(images()), logs[:, INFORMATIVE].exp())
    torch.testing.assert_close(logs[2:3], model(images()[2:3]))


def test_every_used_parameter_gets_a_gradient() -> None:
    model = seeded().train()
    torch.manual_seed(2)
    model(images(16))[:, 0].mean().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {f"fc1{bn}.{part}" for bn in ("", "_bn") for part in ("weight", "bias")}
    used = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(grad).all()) for grad in used)
    assert all(bool(grad.abs().sum() > 0) for grad in used[:2] + used[-2:])


def test_the_same_weights_give_the_stored_output_and_dropout_acts_in_training() -> None:
    # Training mode: untrained weights answer alike to everything until the batch is normalised.
    still, model = seeded(**STILL).train(), seeded().train()
    torch.manual_seed(3)
    with torch.no_grad():
        torch.testing.assert_close(
            still.informativity(images()), torch.tensor(GOLDEN), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(still(images()), still(images()))
        assert not torch.allclose(model(images(8)), model(images(8)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spatial_dropout": (0.1,) * 4}, "5 rates are needed"),
        ({"spatial_dropout": (0.1,) * 4 + (1.5,)}, r"must lie in \[0, 1\)"),
        ({"dropout": 1.0}, r"must lie in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        InformativityConfig(**changes)
