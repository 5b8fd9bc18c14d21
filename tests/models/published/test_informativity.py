"""The published classifier, to the parameter."""

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


def seeded(**changes: object) -> InformativityClassifier:
    """Make the classifier with the weights of seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return InformativityClassifier(InformativityConfig(**changes))


def images(n: int = 4) -> torch.Tensor:
    """Draw n pictures of noise in [-1, 1]."""
    return torch.rand(n, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_layers_have_the_published_names_and_shapes() -> None:
    sizes = {name: value.numel() for name, value in seeded().named_parameters()}
    assert sum(sizes.values()) == 34_730
    assert sum(size for name, size in sizes.items() if name.startswith("fc1")) == 1_120
    shapes = {name: tuple(value.shape) for name, value in seeded().state_dict().items()}
    assert shapes["conv1.weight"] == (12, 3, 5, 5)
    assert shapes["conv2.weight"] == (32, 12, 3, 3)
    assert all(shapes[f"conv{k}.weight"] == (32, 32, 3, 3) for k in (3, 4, 5))
    assert shapes["fc2.weight"] == shapes["fc1.weight"] == (32, 32)
    assert shapes["fc3.weight"] == (2, 32)
    layers = {name.split(".")[0] for name in shapes}
    assert layers == {
        *(f"conv{k}{bn}" for k in range(1, 6) for bn in ("", "_bn")),
        *("fc1", "fc1_bn", "fc2", "fc2_bn", "fc3"),
    }


def test_the_output_is_a_distribution_and_the_score_its_second_column() -> None:
    model, sizes = seeded().eval(), []
    for k in range(1, 6):
        layer = getattr(model, f"conv{k}")
        layer.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    logs = model(images())
    assert sizes == [(12, 46, 46), (32, 22, 22), (32, 10, 10), (32, 4, 4), (32, 1, 1)]
    scores = model.informativity(images())
    torch.testing.assert_close(logs.exp().sum(1), torch.ones(4))
    torch.testing.assert_close(scores, logs[:, INFORMATIVE].exp())
    assert scores.shape == (4,)
    torch.testing.assert_close(logs[2:3], model(images()[2:3]))  # alike in any batch


def test_every_used_parameter_gets_a_gradient() -> None:
    model = seeded().train()
    torch.manual_seed(2)
    model(images(16))[:, 0].mean().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {f"fc1{bn}.{part}" for bn in ("", "_bn") for part in ("weight", "bias")}
    used = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(grad).all()) for grad in used)
    assert all(bool(grad.abs().sum() > 0) for grad in used[:2] + used[-2:])


def test_the_same_weights_give_the_stored_output() -> None:
    # Training mode: untrained weights answer alike to everything until the batch is normalised.
    model = seeded(spatial_dropout=(0.0,) * 5, dropout=0.0).train()
    with torch.no_grad():
        scores = model.informativity(images())
    torch.testing.assert_close(scores, torch.tensor(GOLDEN), atol=1e-4, rtol=0)


def test_dropout_acts_in_training_alone() -> None:
    model = seeded()
    with torch.no_grad():
        model.train()
        torch.manual_seed(3)
        first, second = model(images(8)), model(images(8))
        assert not torch.allclose(first, second)
        still = seeded(spatial_dropout=(0.0,) * 5, dropout=0.0).train()
        torch.testing.assert_close(still(images(8)), still(images(8)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spatial_dropout": (0.1,) * 4}, "5 rates are needed"),
        ({"dropout": 1.0}, r"must lie in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        InformativityConfig(**changes)
