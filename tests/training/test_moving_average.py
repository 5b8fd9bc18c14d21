"""The readings of the moving-average adversarial loss against a plain reference."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from soundsight.core.errors import ConfigError
from soundsight.models.presets import preset
from soundsight.models.published.discriminator import RCDiscriminator
from soundsight.training.configs import MovingAverageConfig
from soundsight.training.published import MovingAverageAdversary

_SIZES = replace(preset("tiny").rc_discriminator, dropout=0.0)


@pytest.fixture
def discriminator() -> RCDiscriminator:
    torch.manual_seed(0)
    return RCDiscriminator(_SIZES)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    real, generated = (torch.rand(4, 3, 96, 96, generator=rng) * 2 - 1 for _ in range(2))
    return real, generated, torch.randn(4, 16, generator=rng)


def _shake(network: nn.Module, seed: int) -> None:
    """Stand in for a training step: move every weight a little."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=rng)


def _term(network: nn.Module, real: Tensor, generated: Tensor, embedding: Tensor) -> Tensor:
    """|1 - r^| of the generated half of one batch, written out."""
    scores = network.train()(torch.cat([real, generated]), embedding.repeat(2, 1))
    return (1.0 - scores[len(real) :]).abs().sum() / len(real)


def test_off_is_the_live_discriminator(
    discriminator: RCDiscriminator, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    adversary = MovingAverageAdversary(discriminator, MovingAverageConfig())
    for step in range(3):
        _shake(discriminator, step)
        adversary.update(discriminator, step)
    torch.testing.assert_close(adversary.loss(discriminator, *batch), _term(discriminator, *batch))
    assert not adversary.past


@pytest.mark.parametrize("k", [2, 5, 10])
def test_snapshots_are_the_mean_over_the_last_k(
    discriminator: RCDiscriminator, batch: tuple[Tensor, Tensor, Tensor], k: int
) -> None:
    config = MovingAverageConfig(reading="snapshots", snapshots=k, snapshot_every=2)
    adversary = MovingAverageAdversary(discriminator, config)
    kept: list[nn.Module] = []
    for step in range(13):
        _shake(discriminator, step)
        adversary.update(discriminator, step)
        if step % 2 == 1:
            kept.append(copy.deepcopy(discriminator))
        # Not yet followed by the live discriminator's own next step, the newest snapshot may be
        # equal to it; it counts all the same.
        expected = [discriminator, *kept[-(k - 1) :]]
        mean = sum(_term(network, *batch) for network in expected) / len(expected)
        assert len(adversary.adversaries(discriminator)) == len(expected)
        torch.testing.assert_close(adversary.loss(discriminator, *batch), mean)


def test_ema_is_one_averaged_discriminator(
    discriminator: RCDiscriminator, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    adversary = MovingAverageAdversary(discriminator, MovingAverageConfig(reading="ema", decay=0.5))
    average = {n: w.detach().clone() for n, w in discriminator.named_parameters()}
    for step in range(6):
        _shake(discriminator, step)
        adversary.update(discriminator, step)
        # The decay is warmed up: (1 + t) / (10 + t) until it reaches .5.
        decay = min(0.5, (1 + step) / (10 + step))
        for name, weight in discriminator.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * weight.detach()
    reference = copy.deepcopy(discriminator)
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            weight.copy_(average[name])
    torch.testing.assert_close(
        adversary.loss(discriminator, *batch), _term(reference, *batch), rtol=1e-5, atol=1e-5
    )
    assert not torch.allclose(_term(reference, *batch), _term(discriminator, *batch), atol=1e-3)


@pytest.mark.parametrize("reading", ["off", "snapshots", "ema"])
def test_only_the_picture_gets_a_gradient(
    discriminator: RCDiscriminator, batch: tuple[Tensor, Tensor, Tensor], reading: str
) -> None:
    adversary = MovingAverageAdversary(
        discriminator, MovingAverageConfig(reading=reading, snapshot_every=1)
    )
    adversary.update(discriminator, 0)
    discriminator.requires_grad_(False)
    real, generated, embedding = batch
    generated.requires_grad_(True)
    adversary.loss(discriminator, real, generated, embedding).backward()
    assert generated.grad is not None
    assert generated.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in adversary.parameters())


def test_state_goes_through_a_checkpoint(
    discriminator: RCDiscriminator, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    config = MovingAverageConfig(reading="snapshots", snapshots=3, snapshot_every=1)
    adversary = MovingAverageAdversary(discriminator, config)
    for step in range(4):
        _shake(discriminator, step)
        adversary.update(discriminator, step)
    again = MovingAverageAdversary(RCDiscriminator(_SIZES), config)
    again.load_state_dict(adversary.state_dict())
    torch.testing.assert_close(
        again.loss(discriminator, *batch), adversary.loss(discriminator, *batch)
    )


@pytest.mark.parametrize(
    "wrong", [{"reading": "mean"}, {"snapshots": 1}, {"snapshot_every": 0}, {"decay": 1.0}]
)
def test_bad_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        MovingAverageConfig(**wrong)
