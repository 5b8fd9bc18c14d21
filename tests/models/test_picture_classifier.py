"""The residual network of the second judge and of the photo classifier."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from soundsight.core.errors import ConfigError
from soundsight.models.picture_classifier import PictureClassifier, PictureClassifierConfig

TINY = PictureClassifierConfig(outputs=3, maps=(4, 6, 8), dropout=0.5)


@pytest.fixture
def network() -> PictureClassifier:
    """A tiny network whose BatchNorm statistics are not those it was made with."""
    torch.manual_seed(0)
    made = PictureClassifier(TINY)
    made(torch.rand(8, 3, 96, 96) * 2 - 1)
    return made.eval()


def test_sizes_are_those_of_the_legend() -> None:
    network = PictureClassifier()
    assert sum(p.numel() for p in network.parameters()) == 222_837
    sides: list[tuple[int, ...]] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, __, out: sides.append(tuple(out.shape[1:])))
    assert network.eval()(torch.zeros(2, 3, 96, 96)).shape == (2, 5)
    assert sides == [(16, 48, 48), (32, 24, 24), (64, 12, 12), (96, 6, 6)]


def test_it_computes_residual_blocks_that_learn(
    network: PictureClassifier, all_learn: Callable[[nn.Module], None]
) -> None:
    images = torch.rand(3, 3, 96, 96) * 2 - 1
    w = network.state_dict()

    def conv(x: torch.Tensor, name: str, stride: int = 1, padding: int = 1) -> torch.Tensor:
        return F.conv2d(x, w[f"{name}.weight"], stride=stride, padding=padding)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance, scale, shift = (
            w[f"{name}.{key}"][:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    x = norm(conv(images, "stem", 2), "stem_bn").relu()
    for place in range(3):
        at, stride = f"blocks.{place}", 1 if place == 0 else 2
        y = norm(conv(x, f"{at}.conv1", stride), f"{at}.bn1").relu()
        y = norm(conv(y, f"{at}.conv2"), f"{at}.bn2")
        if place:
            x = norm(conv(x, f"{at}.shortcut.0", stride, 0), f"{at}.shortcut.1")
        x = (x + y).relu()
    features = x.mean(dim=(2, 3))
    torch.testing.assert_close(network.features(images), features)
    logits = features @ w["out.weight"].T + w["out.bias"]
    torch.testing.assert_close(network(images), logits)

    network.train()
    network(torch.rand(8, 3, 96, 96) * 2 - 1).square().sum().backward()
    all_learn(network)


@pytest.mark.parametrize(
    "changes", [{"outputs": 0}, {"maps": ()}, {"maps": (4, 0)}, {"maps": (1,) * 6}, {"dropout": 1}]
)
def test_sizes_that_make_no_network_are_refused(changes: dict) -> None:
    with pytest.raises(ConfigError):
        PictureClassifierConfig(**changes)
