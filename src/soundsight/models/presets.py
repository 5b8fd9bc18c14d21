"""Named sizes of every network.

``paper`` is as published, ``quarter`` has a quarter of its maps in every layer, ``compact`` is for
two CPU cores, ``flagship`` the bundled model's, ``small`` for studies of many runs, ``tiny`` for
tests.

``compact`` draws 96x96 pictures with at most 3 M parameters and 0.15 GFLOP: the channels sit at
24x24 and below, and only a thin head runs at 48x48. ``flagship`` is ``compact`` with a modulated
generator, and towers that look at half the frames and at smaller pictures: twice as many pairs in
the same time, and no less known of the class. Every ``tiny`` network has under 100,000 parameters.

The narrow published discriminators, and the decoders of the narrow autoencoders, drop fewer
channels than the published ones: dropping a share p of k maps leaves a sum over maps with a
relative variance of p / ((1 - p) k), and p is chosen so that this is as published (in the
discriminator p = .5 of k = 256). With the published shares the discriminators stay at chance, and
the autoencoder learns three times as slowly (``docs/LOG.md``).
"""

from __future__ import annotations

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

    autoencoder: AutoencoderConfig  #: the published audio encoder
    contrastive: ContrastiveConfig  #: the contrastive audio encoder
    generator: DenseGeneratorConfig  #: the dense generator
    rc_discriminator: RCDiscriminatorConfig  #: the published discriminator
    projection_discriminator: ProjectionDiscriminatorConfig  #: ours
    #: ours; its noise size is the generator's
    picture_posterior: PicturePosteriorConfig = field(default_factory=PicturePosteriorConfig)


_PAPER = Preset(
    autoencoder=AutoencoderConfig(),
    contrastive=ContrastiveConfig(
        embedding_size=512, sound_maps=(48, 96, 192, 256, 256), picture_maps=(48, 96, 192, 256, 384)
    ),
    generator=DenseGeneratorConfig(),
    rc_discriminator=RCDiscriminatorConfig(),
    projection_discriminator=ProjectionDiscriminatorConfig(
        embedding_size=512, maps=(96, 192, 256, 384, 512), features=512
    ),
)


def _quarter(maps: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(count // 4 for count in maps)


def _as_noisy(rate: float) -> float:
    """Return the dropout rate at which a quarter of the maps is as noisy (see the module)."""
    return rate / (rate + 4 * (1 - rate))


_QUARTER = Preset(
    autoencoder=AutoencoderConfig(
        embedding_size=128,
        maps=_quarter(_PAPER.autoencoder.maps),
        dropout=tuple(map(_as_noisy, _PAPER.autoencoder.dropout)),
    ),
    contrastive=ContrastiveConfig(embedding_size=128),
    generator=DenseGeneratorConfig(
        embedding_size=128,
        blocks=tuple((a // 4, b // 4, c // 4) for a, b, c in _PAPER.generator.blocks),
        transitions=_quarter(_PAPER.generator.transitions),
        dropout=tuple(map(_as_noisy, _PAPER.generator.dropout)),
    ),
    rc_discriminator=RCDiscriminatorConfig(
        embedding_size=128,
        maps=_quarter(_PAPER.rc_discriminator.maps),
        dropout=_as_noisy(_PAPER.rc_discriminator.dropout),
    ),
    projection_discriminator=ProjectionDiscriminatorConfig(embedding_size=128),
)
_COMPACT = Preset(
    autoencoder=AutoencoderConfig(
        embedding_size=128,
        maps=(16, 32, 32, 40, 48, 56, 64, 72, 96, 96, 96, 96),
        dropout=(0.032, 0.03, 0.027, 0.025, 0.021, 0.02, 0.02, 0.017, 0.015, 0.012, 0.011, 0.01),
    ),
    contrastive=ContrastiveConfig(embedding_size=128),
    generator=DenseGeneratorConfig(
        embedding_size=128,
        blocks=((96, 96, 96), (96, 64, 64), (64, 64, 48), (56, 40, 32), (28, 20, 12), (12, 8, 8)),
        transitions=(128, 128, 96, 64, 32, 16),
        # The narrow layers at 24x24 and above have no channel to spare.
        dropout=(0.1, 0.08, 0.06, 0.0, 0.0, 0.0),
        noise_ratio=0.5,
        noise_std=1.0,
    ),
    rc_discriminator=RCDiscriminatorConfig(
        embedding_size=128, dropout=0.2, maps=(24, 48, 48, 52, 56, 60, 64, 64, 64, 64, 64, 64)
    ),
    projection_discriminator=ProjectionDiscriminatorConfig(embedding_size=128),
)
_FLAGSHIP = replace(
    _COMPACT,
    contrastive=replace(_COMPACT.contrastive, frames_pooled=2, picture_px=64),
    # What noise says at every scale needs no dropout beside it.
    generator=replace(_COMPACT.generator, dropout=(0.0,) * 6, modulation=256),
)
_SMALL = Preset(
    autoencoder=AutoencoderConfig(
        embedding_size=128,
        maps=(8, 16, 16, 24, 24, 32, 32, 48, 64, 64, 64, 64),
        dropout=(0.022, 0.02, 0.018, 0.017, 0.014, 0.01, 0.012, 0.009, 0.009, 0.006, 0.006, 0.005),
    ),
    contrastive=_COMPACT.contrastive,
    generator=DenseGeneratorConfig(
        embedding_size=128,
        blocks=((48, 48, 48), (48, 32, 32), (32, 24, 24), (24, 16, 12), (12, 8, 6), (6, 4, 4)),
        transitions=(64, 64, 48, 32, 16, 8),
        dropout=_COMPACT.generator.dropout,
    ),
    rc_discriminator=RCDiscriminatorConfig(
        embedding_size=128, dropout=0.09, maps=(8, 16, 16, 16, *[24] * 8)
    ),
    projection_discriminator=ProjectionDiscriminatorConfig(
        embedding_size=128, maps=(12, 24, 48, 80, 128), features=128
    ),
)
_TINY = Preset(
    autoencoder=AutoencoderConfig(
        embedding_size=16, maps=(4, 8, 8, 8, 8, 8, 12, 12, 16, 16, 16, 16)
    ),
    contrastive=ContrastiveConfig(
        embedding_size=16, sound_maps=(4, 8, 8, 16, 16), picture_maps=(4, 8, 8, 16, 16)
    ),
    generator=DenseGeneratorConfig(
        embedding_size=16,
        blocks=((16, 16, 16), (16, 12, 12), (12, 8, 8), (8, 8, 8), (8, 6, 6), (6, 4, 4)),
        transitions=(24, 16, 12, 12, 8, 6),
        noise_ratio=0.5,
    ),
    rc_discriminator=RCDiscriminatorConfig(
        embedding_size=16, maps=(4, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8)
    ),
    projection_discriminator=ProjectionDiscriminatorConfig(
        embedding_size=16, maps=(4, 8, 12, 16, 24), features=16
    ),
    picture_posterior=PicturePosteriorConfig(maps=(4, 8, 8, 16, 16)),
)

PRESETS = {
    "paper": _PAPER, "quarter": _QUARTER, "flagship": _FLAGSHIP, "compact": _COMPACT,
    "small": _SMALL, "tiny": _TINY,
}  # fmt: skip


def preset(name: str) -> Preset:
    """Return the preset called ``name``; a ConfigError names the choices when there is none."""
    return choose("preset", name, PRESETS)
