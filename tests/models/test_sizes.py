"""The networks have the published sizes, and the presets keep theirs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from soundsight.core.errors import ConfigError
from soundsight.models.contrastive import ContrastivePair
from soundsight.models.picture_posterior import PicturePosterior
from soundsight.models.presets import PRESETS, preset
from soundsight.models.published.autoencoder import Autoencoder, AutoencoderConfig
from soundsight.models.published.discriminator import (
    ProjectionDiscriminator,
    RCDiscriminator,
    RCDiscriminatorConfig,
)
from soundsight.models.published.generator import DenseGenerator, DenseGeneratorConfig
from soundsight.models.published.informativity import InformativityClassifier


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


Flop = Callable[[DenseGeneratorConfig], int]


def test_published_networks_have_the_published_sizes(flop: Flop) -> None:
    assert count(Autoencoder(AutoencoderConfig())) == pytest.approx(33.42e6, rel=2e-4)
    assert count(DenseGenerator(DenseGeneratorConfig())) == pytest.approx(38.64e6, rel=2e-4)
    assert count(RCDiscriminator(RCDiscriminatorConfig())) == pytest.approx(5.28e6, rel=1e-3)
    assert count(InformativityClassifier()) == 34_730
    assert flop(DenseGeneratorConfig()) == pytest.approx(4.46e9, rel=1e-3)


def test_compact_and_flagship_stay_small(flop: Flop) -> None:
    compact, flagship = preset("compact"), preset("flagship")
    assert count(DenseGenerator(compact.generator)) <= 3_000_000
    assert flop(compact.generator) <= 0.15e9
    network = DenseGenerator(flagship.generator)
    assert count(network) <= 6_000_000
    assert flop(flagship.generator) <= 0.2e9
    assert count(ContrastivePair(flagship.contrastive)) <= 3_000_000
    assert network.noise_size == flagship.picture_posterior.noise_size


def test_quarter_is_the_published_system_with_a_quarter_of_its_maps(flop: Flop) -> None:
    paper, quarter = preset("paper"), preset("quarter")
    # Every layer lies between two others, so a sixteenth of the weights and of the work is left.
    for of, small in (
        (DenseGenerator(paper.generator), DenseGenerator(quarter.generator)),
        (Autoencoder(paper.autoencoder), Autoencoder(quarter.autoencoder)),
        (RCDiscriminator(paper.rc_discriminator), RCDiscriminator(quarter.rc_discriminator)),
    ):
        assert count(small) == pytest.approx(count(of) / 16, rel=0.02)
    assert flop(quarter.generator) == pytest.approx(flop(paper.generator) / 16, rel=0.05)
    # As noisy: p / ((1 - p) maps) is the same.
    assert quarter.generator.dropout[0] == pytest.approx(0.15 / (0.15 + 4 * 0.85))
    assert quarter.autoencoder.dropout[-1] == pytest.approx(0.05 / (0.05 + 4 * 0.95))


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


@pytest.mark.parametrize("name", PRESETS)
def test_embedding_sizes_of_a_preset_agree(name: str) -> None:
    sizes = vars(preset(name)).values()
    assert len({s.embedding_size for s in sizes if hasattr(s, "embedding_size")}) == 1


@pytest.mark.parametrize("name", ["paper", "quarter", "compact", "small"])
def test_narrow_discriminators_are_disturbed_by_dropout_as_much_as_the_published(name: str) -> None:
    config = preset(name).rc_discriminator
    variance = config.dropout / ((1 - config.dropout) * max(config.maps))
    assert variance == pytest.approx(0.5 / (0.5 * 256), rel=0.06)


def test_unknown_preset_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="compact, flagship, paper, quarter, small, tiny"):
        preset("huge")
