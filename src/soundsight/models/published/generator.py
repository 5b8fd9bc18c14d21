"""Deep densely connected generator: an audio embedding becomes a picture.

Shapes of the ``paper`` configuration (E = ``embedding_size``)::

    embedding [n, E] (+ noise)   1x1
    transition 0                 2x2    512
    dense block 1, transition 1  4x4    512
    dense block 2, transition 2  6x6    352
    dense block 3, transition 3  12x12  224
    dense block 4, transition 4  24x24  160
    dense block 5, transition 5  48x48  112
    dense block 6, transition 6  96x96  3, tanh -> image [n, 3, 96, 96] in [-1, 1]

A dense block has three 3x3 layers a, b, c: b sees a, c sees a+b, the transition sees a+b+c
(concatenated). BatchNorm + ReLU after every layer, BatchNorm + tanh at the end. Spatial dropout
follows transitions 0 to 5 and **stays on when a picture is drawn**: it is where the published
system's variety comes from. Its random numbers are an input, so that a picture depends on its own
seed and not on its batch.

With ``modulation`` (ours), a small network maps embedding and noise to a *style* [n, S], and scale
and shift of every map after transitions 0 to 5 come from it::

    x = ReLU(BatchNorm(transition_k(x)) * (1 + gamma_k(style)) + beta_k(style))

Attention blocks (``models.published.attention``) may follow transitions 0 to 5 and their dropout.
What they listen to comes with the embedding, in one vector: the *condition*.

Sources: arXiv 2106.01266, the dense generator, 38.64 M parameters and 4.46 GFLOP at E = 512;
Appl. Sci. 16(6):2942, the attention variant (18 blocks after transition 1); Perez et al. 2018
(FiLM) and Karras et al. 2019 (a mapped style), for modulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.config import check_values
from soundsight.core.errors import ConfigError
from soundsight.core.units import IMAGE_CHANNELS
from soundsight.models.published.attention import AttentionConfig, AttentionStack
from soundsight.models.published.autoencoder import EMBEDDING_LAYER, LAYER_SIZES, check_source
from soundsight.models.published.layers import NamedLayers

# kernel, stride, padding of transitions 0..6: sides 1 -> 2 -> 4 -> 6 -> 12 -> 24 -> 48 -> 96.
_TRANSITIONS: tuple[tuple[int, int, int], ...] = (
    (2, 1, 0), (3, 1, 0), (3, 1, 0), (4, 2, 1), (4, 2, 1), (4, 2, 1), (4, 2, 1),
)  # fmt: skip
_SIDES = (2, 4, 6, 12, 24, 48, 96)

Block = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class DenseGeneratorConfig:
    """Sizes and noise of the dense generator."""

    embedding_size: int = 512  #: E, length of the audio embedding it is given
    #: maps of layers a, b, c in each of the six dense blocks
    blocks: tuple[Block, ...] = (
        (512, 512, 512), (512, 416, 352), (304, 256, 224),
        (192, 176, 160), (144, 128, 112), (96, 80, 64),
    )  # fmt: skip
    transitions: tuple[int, ...] = (512, 512, 352, 224, 160, 112)  #: maps after transitions 0 to 5
    #: spatial dropout rate after transitions 0 to 5
    dropout: tuple[float, ...] = (0.15, 0.13, 0.11, 0.09, 0.07, 0.05)
    #: Gaussian noise dimensions per embedding dimension, put before the embedding
    noise_ratio: float = 0.0
    #: standard deviation of that noise (published: .035; its published ratio is 0).
    noise_std: float = 0.035
    #: attention blocks after each of transitions 0 to 6; none can follow transition 6, which gives
    #: the picture itself. The published variant is (0, 18, 0, 0, 0, 0, 0).
    attention: tuple[int, ...] = (0,) * len(_TRANSITIONS)
    #: d, length of a token in these blocks; even, and a multiple of the heads
    attention_width: int = 320
    attention_heads: int = 8  #: heads of each attention
    #: the layer of the autoencoder's encoder that the blocks listen to. 13 (published) is the
    #: embedding: one token, so that every place of the picture hears the same. 12 gives 3x3 places
    #: in time and frequency, among which each place of the picture can choose; earlier layers give
    #: more and finer ones (``LAYER_SIZES``), and a longer condition.
    audio_source: int = EMBEDDING_LAYER
    source_maps: int = 0  #: C, maps of that layer when it is an earlier one than 13; else 0
    #: S, length of the style that modulates transitions 0 to 5; 0 (published) for none
    modulation: int = 0

    def __post_init__(self) -> None:
        last = len(_TRANSITIONS) - 1
        if len(self.attention) != last + 1 or min(self.attention) < 0:
            raise ConfigError(
                f"attention: {last + 1} numbers of blocks are expected, one for each of "
                f"transitions 0 to {last}, none below 0"
            )
        if self.attention[last]:
            raise ConfigError(
                f"attention: after transition {last} stands the picture itself, no block can "
                "follow it"
            )
        check_values(self, at_least_0="modulation", at_least_1="attention_heads attention_width")
        if self.attention_width % self.attention_heads or self.attention_width % 2:
            raise ConfigError(
                f"attention_width {self.attention_width} must be even and a multiple of "
                f"attention_heads {self.attention_heads}"
            )
        check_source(self.audio_source)
        earlier = self.audio_source != EMBEDDING_LAYER
        if earlier and not any(self.attention):
            raise ConfigError(
                f"audio_source {self.audio_source}: there are no attention blocks to listen to it"
            )
        if self.source_maps < 0 or earlier != (self.source_maps > 0):
            raise ConfigError(
                "source_maps: the number of maps of the encoder's layer audio_source is expected, "
                f"and 0 for layer {EMBEDDING_LAYER}"
            )

    @property
    def source_tokens(self) -> int:
        """Audio tokens that the attention blocks listen to: places of the layer audio_source."""
        height, width = LAYER_SIZES[self.audio_source - 1]
        return height * width

    @property
    def condition_size(self) -> int:
        """Length of the condition: the embedding and, from an earlier layer, its tokens."""
        return self.embedding_size + self.source_maps * self.source_tokens


class _SameConvTranspose2d(nn.ConvTranspose2d):
    """A 3x3 transposed convolution of stride 1 and padding 1, weights as ``ConvTranspose2d``.

    It is an ordinary convolution with the kernel turned by half a turn, and is run as one: CPUs and
    ONNX Runtime are about twice as fast at it.
    """

    def __init__(self, maps_in: int, maps_out: int) -> None:
        super().__init__(maps_in, maps_out, 3, padding=1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002
        kernel = self.weight.flip(2, 3).transpose(0, 1).contiguous()
        return F.conv2d(input, kernel, self.bias, padding=1)


class _Style(nn.Module):
    """Embedding and noise [n, E + Z] -> style [n, S] -> scale and shift of a transition's maps."""

    def __init__(self, size_in: int, config: DenseGeneratorConfig) -> None:
        super().__init__()
        size = config.modulation
        self.map = nn.Sequential(
            nn.Linear(size_in, size), nn.LeakyReLU(0.2), nn.Linear(size, size), nn.LeakyReLU(0.2)
        )
        layers = [nn.Linear(size, 2 * width) for width in config.transitions]
        self.speak = nn.ModuleList(layers)
        for layer in layers:
            # Scales begin near 1 and shifts near 0: at first it is the plain generator.
            nn.init.normal_(layer.weight, std=0.3 / math.sqrt(size))
            nn.init.zeros_(layer.bias)

    def forward(self, condition: Float[Tensor, "n d"]) -> Float[Tensor, "n s"]:
        style: Tensor = self.map(condition)
        return style


class DenseGenerator(NamedLayers):
    """The published generator at any width."""

    def __init__(self, config: DenseGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding_size = config.embedding_size
        self.condition_size = config.condition_size
        self.noise_size = round(config.noise_ratio * config.embedding_size)
        self.dropout_size = sum(config.transitions) if any(config.dropout) else 0
        maps_in = config.embedding_size + self.noise_size
        widths = (*config.transitions, IMAGE_CHANNELS)
        for k, (width, shape) in enumerate(zip(widths, _TRANSITIONS, strict=True)):
            self.add(f"transition{k}", nn.ConvTranspose2d(maps_in, width, *shape))
            if k < len(config.blocks):
                a, b, c = config.blocks[k]
                for i, (n_in, n_out) in enumerate(((width, a), (a, b), (a + b, c)), 3 * k + 1):
                    self.add(f"convT{i}", _SameConvTranspose2d(n_in, n_out))
                maps_in = a + b + c
        # Last, so that with one seed the layers above are those of the plain generator.
        if config.modulation:
            self.style = _Style(config.embedding_size + self.noise_size, config)
        for k, blocks in enumerate(config.attention):
            if blocks:
                sizes = AttentionConfig(
                    maps=config.transitions[k],
                    places=_SIDES[k] ** 2,
                    blocks=blocks,
                    width=config.attention_width,
                    heads=config.attention_heads,
                    audio_maps=config.source_maps or config.embedding_size,
                    audio_tokens=config.source_tokens,
                )
                setattr(self, f"attention{k}", AttentionStack(sizes))

    def _block(self, k: int, x: Tensor) -> Tensor:
        """Dense block k (0-based): [n, transition, s, s] -> [n, a+b+c, s, s]."""
        a = torch.relu(self.normed(f"convT{3 * k + 1}", x))
        b = torch.relu(self.normed(f"convT{3 * k + 2}", a))
        ab = torch.cat([a, b], dim=1)
        return torch.cat([ab, torch.relu(self.normed(f"convT{3 * k + 3}", ab))], dim=1)

    def _parts(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Part a condition into the embedding [n, E] and the audio tokens [n, m, S]."""
        if self.config.audio_source == EMBEDDING_LAYER:
            return condition, condition[:, None, :]
        sizes = [self.embedding_size, self.condition_size - self.embedding_size]
        embedding, maps = condition.split(sizes, dim=1)
        return embedding, maps.unflatten(1, (self.config.source_maps, -1)).transpose(1, 2)

    def forward(
        self,
        embedding: Float[Tensor, "n c"],
        noise: Float[Tensor, "n z"] | None = None,
        dropout: Float[Tensor, "n m"] | None = None,
    ) -> Float[Tensor, "n 3 96 96"]:
        """Draw one picture for each embedding.

        Args:
            embedding: the audio embeddings ([n, E, 1, 1] is accepted too). With an
                ``audio_source`` below 13 the whole condition, ``condition_size`` numbers:
                ``Autoencoder.condition(mel, audio_source)``.
            noise: standard normal; needed when ``noise_size`` > 0 (zeros are used without it).
            dropout: uniform in [0, 1), one number a channel of transitions 0 to 5: the channel is
                dropped where it is below the layer's rate. None leaves dropout off.

        Returns:
            Pictures in [-1, 1].
        """
        config = self.config
        x, audio = self._parts(embedding.flatten(1))
        if self.noise_size:
            if noise is None:
                noise = x.new_zeros(len(x), self.noise_size)
            x = torch.cat([noise * config.noise_std, x], dim=1)
        style = self.style(x) if config.modulation else None
        x = x[:, :, None, None]
        start = 0
        for k, (width, rate) in enumerate(zip(config.transitions, config.dropout, strict=True)):
            x = self.normed(f"transition{k}", x)
            if style is not None:
                gamma, beta = self.style.speak[k](style).chunk(2, dim=1)
                x = x * (1.0 + gamma[:, :, None, None]) + beta[:, :, None, None]
            x = torch.relu(x)
            if dropout is not None and rate > 0:
                kept = (dropout[:, start : start + width] >= rate).to(x.dtype) / (1.0 - rate)
                x = x * kept[:, :, None, None]
            start += width
            if config.attention[k]:
                x = getattr(self, f"attention{k}")(x, audio)
            x = self._block(k, x)
        return torch.tanh(self.normed(f"transition{len(config.transitions)}", x))
