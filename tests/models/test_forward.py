"""Tiny networks: shapes, ranges, gradients everywhere, and outputs that do not drift."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from soundsight.models.contrastive import ContrastivePair
from soundsight.models.picture_posterior import PicturePosterior
from soundsight.models.presets import preset
from soundsight.models.published.autoencoder import Autoencoder
from soundsight.models.published.discriminator import ProjectionDiscriminator, RCDiscriminator
from soundsight.models.published.generator import DenseGenerator

SIZES = preset("tiny")
E = SIZES.generator.embedding_size
GOLDEN = Path(__file__).with_name("golden.json")


def pattern(*shape: int) -> Tensor:
    """A smooth deterministic input in [-1, 1] that needs no random generator."""
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float32) * 0.37).reshape(shape)


def seeded(network: nn.Module) -> nn.Module:
    """Give every parameter and BatchNorm statistic a value made from its name and place."""
    with torch.no_grad():
        for i, (name, value) in enumerate(network.state_dict().items()):
            if not value.dtype.is_floating_point:
                continue
            wave = torch.sin(torch.arange(value.numel()) * 1.7 + i).reshape(value.shape)
            if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                value.copy_(1.0 + 0.1 * wave)
            elif value.ndim > 1:
                value.copy_(wave * math.sqrt(2.0 / value[0].numel()))
            else:
                value.copy_(0.1 * wave)
    return network


def generate(**changes: object) -> Tensor:
    network = seeded(DenseGenerator(replace(SIZES.generator, **changes))).eval()
    dropout = (pattern(2, network.dropout_size) + 1) / 2
    condition = pattern(2, network.condition_size)
    return network(condition, pattern(2, network.noise_size), dropout)


def outputs(network: nn.Module, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    found = seeded(network).eval()(*(pattern(*shape) for shape in shapes))
    return found if isinstance(found, tuple) else (found,)


MEL, IMAGE = (2, 1, 128, 100), (2, 3, 96, 96)
ATTENTION = {
    "attention": (0, 2, 0, 0, 0, 0, 0), "attention_width": 16, "attention_heads": 4,
    "audio_source": 12, "source_maps": SIZES.autoencoder.maps[11],
}  # fmt: skip
POOLED = replace(SIZES.contrastive, frames_pooled=2, picture_px=64)
CASES: dict[str, tuple[Callable[[], Tensor], tuple[int, ...]]] = {
    "autoencoder": (lambda: outputs(Autoencoder(SIZES.autoencoder), MEL)[0], MEL),
    "embedding": (lambda: outputs(Autoencoder(SIZES.autoencoder), MEL)[1], (2, E)),
    "sound": (lambda: outputs(ContrastivePair(SIZES.contrastive), MEL, IMAGE)[0], (2, E)),
    "picture": (lambda: outputs(ContrastivePair(SIZES.contrastive), MEL, IMAGE)[1], (2, E)),
    "pooled_pair": (
        lambda: torch.cat(outputs(ContrastivePair(POOLED), MEL, IMAGE), dim=1), (2, 2 * E),
    ),
    "generator": (generate, IMAGE),
    "attention_generator": (lambda: generate(**ATTENTION), IMAGE),
    "modulated_generator": (lambda: generate(modulation=16), IMAGE),
    "picture_posterior": (
        lambda: torch.cat(outputs(PicturePosterior(SIZES.picture_posterior), IMAGE), dim=1),
        (2, 128),
    ),
    "rc_discriminator": (
        lambda: outputs(RCDiscriminator(SIZES.rc_discriminator), IMAGE, (2, E))[0], (2,),
    ),
    "projection_discriminator": (
        lambda: outputs(
            ProjectionDiscriminator(SIZES.projection_discriminator), IMAGE, (2, E)
        )[0],
        (2,),
    ),
}  # fmt: skip
"""The outputs that are compared, and their shapes."""


def sample(output: Tensor) -> list[float]:
    """At most 64 values spread over the output."""
    flat = output.detach().flatten()
    step = max(1, len(flat) // 64)
    return [round(float(v), 6) for v in flat[::step][:64]]


@pytest.mark.parametrize("name", CASES)
def test_output_is_finite_of_the_right_shape_and_as_it_always_was(name: str) -> None:
    make, shape = CASES[name]
    output = make()
    assert tuple(output.shape) == shape
    assert torch.isfinite(output).all()
    golden = json.loads(GOLDEN.read_text("utf-8"))
    np.testing.assert_allclose(sample(output), golden[name], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (Autoencoder(SIZES.autoencoder), [(4, 1, 128, 100)]),
        (ContrastivePair(SIZES.contrastive), [(4, 1, 128, 100), (4, 3, 96, 96)]),
        (RCDiscriminator(SIZES.rc_discriminator), [(4, 3, 96, 96), (4, E)]),
        (ProjectionDiscriminator(SIZES.projection_discriminator), [(4, 3, 96, 96), (4, E)]),
        (DenseGenerator(SIZES.generator), [(4, E), (4, SIZES.generator.embedding_size // 2)]),
        (
            DenseGenerator(replace(SIZES.generator, modulation=16)),
            [(4, E), (4, SIZES.generator.embedding_size // 2)],
        ),
        (PicturePosterior(SIZES.picture_posterior), [(4, 3, 96, 96)]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_every_parameter_gets_a_gradient(network: nn.Module, inputs: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    network.train()
    outputs = network(*[torch.randn(shape) for shape in inputs])
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum((o * torch.randn_like(o)).sum() for o in outputs)
    if isinstance(network, ContrastivePair):
        loss = loss * network.log_scale.exp()
    loss.backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # BatchNorm takes the mean out again, so the bias before it has a gradient of (nearly) zero.
    assert [n for n in without if not n.endswith("bias")] == []


def test_style_scales_and_shifts_the_maps_after_each_transition() -> None:
    config = replace(SIZES.generator, modulation=16, dropout=(0.0,) * 6)
    network = seeded(DenseGenerator(config)).eval()
    plain = DenseGenerator(replace(config, modulation=0)).eval()
    plain.load_state_dict(
        {k: v for k, v in network.state_dict().items() if not k.startswith("style.")}
    )
    embedding, noise = pattern(2, E), pattern(2, network.noise_size)
    with torch.no_grad():
        modulated = network(embedding, noise)
        assert not torch.allclose(modulated, plain(embedding, noise), atol=1e-3)
        for layer in network.style.speak:
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        # A gamma and a beta of 0 leave the plain generator.
        torch.testing.assert_close(network(embedding, noise), plain(embedding, noise))
        width = config.transitions[3]
        network.style.speak[3].bias[:width] = -1.0
        silenced = network(embedding, noise)
        plain.transition3_bn.weight.zero_()
        plain.transition3_bn.bias.zero_()
        torch.testing.assert_close(silenced, plain(embedding, noise))


def test_dropout_is_an_input_that_drops_whole_channels_whatever_the_batch() -> None:
    network = seeded(DenseGenerator(SIZES.generator)).eval()
    embedding, noise = pattern(5, E), pattern(5, network.noise_size)
    dropout = (pattern(5, network.dropout_size) + 1) / 2
    with torch.no_grad():
        off = network(embedding, noise, None)
        kept = network(embedding, noise, torch.full((5, network.dropout_size), 0.999))
        other = network(embedding, noise, torch.zeros(5, network.dropout_size))
        whole = network(embedding, noise, dropout)
        alone = network(embedding[3:4], noise[3:4], dropout[3:4])
    assert not torch.equal(off, other)
    # Nothing dropped: only the scale 1 / (1 - rate) is left, which moves the picture.
    assert not torch.equal(kept, other)
    assert torch.isfinite(other).all()
    torch.testing.assert_close(whole[3:4], alone, atol=1e-5, rtol=0)


def test_sound_embedding_has_unit_root_mean_square() -> None:
    sound = ContrastivePair(SIZES.contrastive).eval().sound
    with torch.no_grad():
        rms = sound(torch.randn(3, 1, 128, 100)).square().mean(dim=1).sqrt()
    torch.testing.assert_close(rms, torch.ones(3), atol=1e-4, rtol=0)


def test_rc_score_of_a_batch_of_one_kind_hides_its_mean() -> None:
    """Why real and generated pictures share a batch in the published discriminator's step."""
    network = RCDiscriminator(SIZES.rc_discriminator).train()
    torch.manual_seed(0)
    with torch.no_grad():
        for level in (-0.5, 0.5):
            scores = network(torch.randn(16, 3, 96, 96) + level, torch.randn(16, E))
            before_tanh = torch.atanh(scores.clamp(-0.9999, 0.9999))
            assert abs(float(before_tanh.mean())) < 0.05
            assert float(before_tanh.std()) > 0.5
