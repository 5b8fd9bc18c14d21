"""The networks have the published sizes, and the presets keep theirs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from soundsight.core.errors import ConfigError
from soundsight.models.contrastive import ContrastivePair
from soundsight.models.picture_posterior import PicturePosterior
from soundsight.models.presets import preset
from soundsight.models.published.autoencoder import Autoencoder, AutoencoderConfig
from soundsight.models.published.discriminator import (
    ProjectionDiscriminator,
    RCDiscriminator,
    RCDiscriminatorConfig,
)
from soundsight.models.published.generator import DenseGenerator, DenseGeneratorConfig, count_flop


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_published_parameter_counts() -> None:
    assert count(Autoencoder(AutoencoderConfig())) == pytest.approx(33.42e6, rel=2e-4)
    assert count(DenseGenerator(DenseGeneratorConfig())) == pytest.approx(38.64e6, rel=2e-4)
    assert count(RCDiscriminator(RCDiscriminatorConfig())) == pytest.approx(5.28e6, rel=1e-3)


def test_published_generator_costs_4_46_gflop() -> None:
    assert count_flop(DenseGeneratorConfig()) == pytest.approx(4.46e9, rel=1e-3)


@pytest.mark.parametrize("modulation", [0, 24])
def test_flop_count_agrees_with_torch_counting_the_layers_it_runs(modulation: int) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config = replace(preset("tiny").generator, modulation=modulation)
    network = DenseGenerator(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, config.embedding_size))
    assert counter.get_total_flops() == count_flop(config)


def test_compact_generator_stays_small() -> None:
    config = preset("compact").generator
    assert count(DenseGenerator(config)) <= 3_000_000
    assert count_flop(config) <= 0.15e9


def test_the_flagship_stays_within_its_bounds() -> None:
    sizes = preset("flagship")
    network = DenseGenerator(sizes.generator)
    assert count(network) <= 6_000_000
    assert count_flop(sizes.generator) <= 0.2e9
    assert count(ContrastivePair(sizes.contrastive)) <= 3_000_000
    assert network.noise_size == sizes.picture_posterior.noise_size


def test_every_tiny_network_is_under_100_000_parameters() -> None:
    sizes = preset("tiny")
    for network in (
        Autoencoder(sizes.autoencoder),
        ContrastivePair(sizes.contrastive),
        DenseGenerator(sizes.generator),
        RCDiscriminator(sizes.rc_discriminator),
        ProjectionDiscriminator(sizes.projection_discriminator),
        PicturePosterior(sizes.picture_posterior),
    ):
        assert count(network) < 100_000


@pytest.mark.parametrize("name", ["paper", "flagship", "compact", "tiny"])
def test_embedding_sizes_of_a_preset_agree(name: str) -> None:
    sizes = preset(name)
    assert (
        sizes.autoencoder.embedding_size
        == sizes.contrastive.embedding_size
        == sizes.generator.embedding_size
        == sizes.rc_discriminator.embedding_size
        == sizes.projection_discriminator.embedding_size
    )


@pytest.mark.parametrize("name", ["paper", "compact", "small"])
def test_narrow_discriminators_are_disturbed_by_dropout_as_much_as_the_published(name: str) -> None:
    config = preset(name).rc_discriminator
    variance = config.dropout / ((1 - config.dropout) * max(config.maps))
    assert variance == pytest.approx(0.5 / (0.5 * 256), rel=0.06)


def test_unknown_preset_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="compact, flagship, paper, small, tiny"):
        preset("huge")
