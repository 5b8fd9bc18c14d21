"""Named sizes of every network.

``paper`` is as published, ``compact`` for two CPU cores, ``flagship`` the bundled model's,
``small`` for studies of many runs, ``tiny`` for tests.

``compact`` draws 96x96 pictures with at most 3 M parameters and 0.15 GFLOP: the channels sit at
24x24 and below, and only a thin head runs at 48x48. Every ``tiny`` network has under 100,000
parameters.

The narrow published discriminators drop fewer channels than the published one: dropping a share p
of k maps leaves a sum over maps with a relative variance of p / ((1 - p) k), and p is chosen so
that this is as published (p = .5 of k = 256). At .5 they stay at chance (``docs/LOG.md``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from soundsight.core.config import choose
from soundsight.models.contrastive import ContrastiveConfig
from soundsight.models.picture_posterior import PicturePosteriorConfig
from soundsight.models.published.autoencoder import AutoencoderConfig
from soundsight.models.published.discriminator import (
    ProjectionDiscriminatorConfig,
    RCDiscriminatorConfig,
)
from soundsight.models.published.generator import DenseGeneratorConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One size of every network; the embedding sizes agree."""

    name: str  #: the preset's name
    autoencoder: AutoencoderConfig  #: the published audio encoder
    contrastive: ContrastiveConfig  #: the contrastive audio encoder
    generator: DenseGeneratorConfig  #: the dense generator
    rc_discriminator: RCDiscriminatorConfig  #: the published discriminator
    projection_discriminator: ProjectionDiscriminatorConfig  #: ours
    #: ours; its noise size is the generator's
    picture_posterior: PicturePosteriorConfig = field(default_factory=PicturePosteriorConfig)


def paper() -> Preset:
    """The published sizes, E = 512."""
    return Preset(
        name="paper",
        autoencoder=AutoencoderConfig(),
        contrastive=ContrastiveConfig(
            embedding_size=512,
            sound_maps=(48, 96, 192, 256, 256),
            picture_maps=(48, 96, 192, 256, 384),
        ),
        generator=DenseGeneratorConfig(),
        rc_discriminator=RCDiscriminatorConfig(),
        projection_discriminator=ProjectionDiscriminatorConfig(
            embedding_size=512, maps=(96, 192, 256, 384, 512), features=512
        ),
    )


def compact() -> Preset:
    """Sizes for two CPU cores, E = 128."""
    size = 128
    return Preset(
        name="compact",
        autoencoder=AutoencoderConfig(
            embedding_size=size, maps=(16, 32, 32, 40, 48, 56, 64, 72, 96, 96, 96, 96)
        ),
        contrastive=ContrastiveConfig(embedding_size=size),
        generator=DenseGeneratorConfig(
            embedding_size=size,
            blocks=(
                (96, 96, 96),
                (96, 64, 64),
                (64, 64, 48),
                (56, 40, 32),
                (28, 20, 12),
                (12, 8, 8),
            ),
            transitions=(128, 128, 96, 64, 32, 16),
            # The narrow layers at 24x24 and above have no channel to spare.
            dropout=(0.1, 0.08, 0.06, 0.0, 0.0, 0.0),
            noise_ratio=0.5,
            noise_std=1.0,
        ),
        rc_discriminator=RCDiscriminatorConfig(
            embedding_size=size, dropout=0.2, maps=(24, 48, 48, 52, 56, 60, 64, 64, 64, 64, 64, 64)
        ),
        projection_discriminator=ProjectionDiscriminatorConfig(embedding_size=size),
    )


def flagship() -> Preset:
    """The sizes of the bundled model: ``compact`` with a modulated generator, E = 128.

    The encoder's towers look at half the frames and at smaller pictures: twice as many pairs in
    the same time, and no less known of the class (``docs/LOG.md``).
    """
    sizes = compact()
    contrastive = replace(sizes.contrastive, frames_pooled=2, picture_px=64)
    generator = replace(
        sizes.generator,
        # What noise says at every scale needs no dropout beside it.
        dropout=(0.0,) * len(sizes.generator.transitions),
        modulation=256,
    )
    return replace(sizes, name="flagship", contrastive=contrastive, generator=generator)


def small() -> Preset:
    """Sizes for studies that train many networks on CPU cores, E = 128; no product."""
    size = 128
    return Preset(
        name="small",
        autoencoder=AutoencoderConfig(
            embedding_size=size, maps=(8, 16, 16, 24, 24, 32, 32, 48, 64, 64, 64, 64)
        ),
        contrastive=ContrastiveConfig(embedding_size=size),
        generator=DenseGeneratorConfig(
            embedding_size=size,
            blocks=(
                (48, 48, 48),
                (48, 32, 32),
                (32, 24, 24),
                (24, 16, 12),
                (12, 8, 6),
                (6, 4, 4),
            ),
            transitions=(64, 64, 48, 32, 16, 8),
            dropout=(0.1, 0.08, 0.06, 0.0, 0.0, 0.0),
        ),
        rc_discriminator=RCDiscriminatorConfig(
            embedding_size=size, dropout=0.09, maps=(8, 16, 16, 16, *[24] * 8)
        ),
        projection_discriminator=ProjectionDiscriminatorConfig(
            embedding_size=size, maps=(12, 24, 48, 80, 128), features=128
        ),
    )


def tiny() -> Preset:
    """The smallest networks that run: for tests only, E = 16."""
    size = 16
    return Preset(
        name="tiny",
        autoencoder=AutoencoderConfig(
            embedding_size=size, maps=(4, 8, 8, 8, 8, 8, 12, 12, 16, 16, 16, 16)
        ),
        contrastive=ContrastiveConfig(
            embedding_size=size, sound_maps=(4, 8, 8, 16, 16), picture_maps=(4, 8, 8, 16, 16)
        ),
        generator=DenseGeneratorConfig(
            embedding_size=size,
            blocks=((16, 16, 16), (16, 12, 12), (12, 8, 8), (8, 8, 8), (8, 6, 6), (6, 4, 4)),
            transitions=(24, 16, 12, 12, 8, 6),
            noise_ratio=0.5,
        ),
        rc_discriminator=RCDiscriminatorConfig(
            embedding_size=size, maps=(4, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8)
        ),
        projection_discriminator=ProjectionDiscriminatorConfig(
            embedding_size=size, maps=(4, 8, 12, 16, 24), features=16
        ),
        picture_posterior=PicturePosteriorConfig(maps=(4, 8, 8, 16, 16)),
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    make.__name__: make for make in (paper, flagship, compact, small, tiny)
}


def preset(name: str) -> Preset:
    """Return the preset called ``name``.

    Raises:
        ConfigError: naming the choices when there is none.
    """
    return choose("preset", name, PRESETS)()
