"""Audio autoencoder: a log-mel squeezed into one vector, the *audio embedding*, and drawn again.

Shapes (E = ``embedding_size``)::

    mel              [n, 1, 128, 100]   in [-1, 1], row 0 = highest band
    encoder          61x48 -> 29x23 -> 25x21 -> 21x19 -> 17x17 -> 15 13 11 9 7 5 3 -> 1x1
    embedding        [n, E]             in [-1, 1] (tanh)
    decoder          the mirror image in transposed convolutions
    reconstruction   [n, 1, 128, 100]   in [-1, 1] (tanh)

Source: arXiv 2106.01266, the audio encoder. Trained alone with a mean squared error; the encoder
is then frozen. 33.42 M parameters at E = 512.

A generator with attention may listen to an earlier layer than the embedding: the *condition* is
``[embedding | the maps of that layer, flattened]``, still one vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.errors import ConfigError
from soundsight.core.units import FRAMES_PER_SEGMENT, N_MELS
from soundsight.models.published.layers import NamedLayers

Size = tuple[int, int]

_KERNELS: tuple[tuple[Size, int], ...] = (
    ((7, 5), 2), ((5, 3), 2), ((5, 3), 1), ((5, 3), 1), ((5, 3), 1), *((((3, 3), 1),) * 8),
)  # fmt: skip
# The two strided layers lose a row or a column to rounding; these kernels give it back.
_MIRROR_KERNELS: tuple[tuple[Size, int], ...] = (
    *((((3, 3), 1),) * 8), ((5, 3), 1), ((5, 3), 1), ((5, 3), 1), ((5, 4), 2), ((8, 6), 2),
)  # fmt: skip

EMBEDDING_LAYER = len(_KERNELS)
"""Number of the encoder's layer (1 to 13) that gives the embedding."""


def _layer_sizes() -> tuple[Size, ...]:
    height, width, sizes = N_MELS, FRAMES_PER_SEGMENT, []
    for (rows, columns), stride in _KERNELS:
        height, width = (height - rows) // stride + 1, (width - columns) // stride + 1
        sizes.append((height, width))
    return tuple(sizes)


LAYER_SIZES = _layer_sizes()
"""Height and width of what each of the encoder's layers gives."""


def check_source(source: int) -> None:
    """Raise a ConfigError when an encoder has no layer of this number."""
    if not 1 <= source <= EMBEDDING_LAYER:
        raise ConfigError(
            f"audio_source {source}: the encoder has layers 1 to {EMBEDDING_LAYER}, "
            f"and {EMBEDDING_LAYER} gives the embedding"
        )


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Sizes of the audio autoencoder."""

    embedding_size: int = 512  #: E, length of the audio embedding
    #: feature maps of the first twelve convolutions
    maps: tuple[int, ...] = (80, 176, 192, 224, 272, 304, 352, 416, 512, 512, 512, 512)
    #: spatial dropout rate after each of the decoder's first twelve layers
    dropout: tuple[float, ...] = (
        0.15, 0.14, 0.13, 0.12, 0.11, 0.10, 0.10, 0.09, 0.08, 0.07, 0.06, 0.05,
    )  # fmt: skip
    #: whether ``encode`` whitens embeddings and scales each to a root mean square of 1 (ours)
    standardised: bool = False


class Autoencoder(NamedLayers):
    """The published audio autoencoder."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding_size = self.feature_size = config.embedding_size
        maps = (1, *config.maps, config.embedding_size)
        for i, (kernel, stride) in enumerate(_KERNELS, 1):
            self.add(f"conv{i}", nn.Conv2d(maps[i - 1], maps[i], kernel, stride))
        maps = maps[::-1]
        for i, (kernel, stride) in enumerate(_MIRROR_KERNELS, 1):
            self.add(f"convT{i}", nn.ConvTranspose2d(maps[i - 1], maps[i], kernel, stride))
        self.dropouts = nn.ModuleList(nn.Dropout2d(rate) for rate in config.dropout)
        if config.standardised:
            self.register_buffer("embedding_mean", torch.zeros(config.embedding_size))
            self.register_buffer("embedding_whitening", torch.eye(config.embedding_size))

    def encode(self, mel: Float[Tensor, "n 1 128 100"]) -> Float[Tensor, "n e"]:
        """Return the audio embedding of each segment, in [-1, 1] unless it is standardised."""
        return self.condition(mel, EMBEDDING_LAYER)

    def features(self, mel: Float[Tensor, "n 1 128 100"]) -> Float[Tensor, "n e"]:
        """Return what an embedding is made from, which is the embedding itself here."""
        return self.encode(mel)

    def condition(
        self, mel: Float[Tensor, "n 1 128 100"], source: int = EMBEDDING_LAYER
    ) -> Float[Tensor, "n c"]:
        """Return a generator's condition of each segment.

        Args:
            source: the layer, 1 to 13, that the generator's attention listens to.

        Returns:
            The embedding (E numbers, as ``encode`` gives them) and, for an earlier layer than 13,
            its C maps of ``LAYER_SIZES`` after BatchNorm and ReLU, flattened.

        Raises:
            ConfigError: when there is no such layer.
        """
        check_source(source)
        x = maps = mel
        for i in range(1, EMBEDDING_LAYER):
            x = torch.relu(self.normed(f"conv{i}", x))
            maps = x if i == source else maps
        embedding = torch.tanh(self.normed(f"conv{EMBEDDING_LAYER}", x)).flatten(1)
        if self.config.standardised:
            embedding = self.standardise(embedding)
        if source == EMBEDDING_LAYER:
            return embedding
        return torch.cat([embedding, maps.flatten(1)], dim=1)

    def standardise(self, embedding: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        """Whiten plain embeddings and give each a root mean square of 1."""
        mean, whitening = cast(Tensor, self.embedding_mean), cast(Tensor, self.embedding_whitening)
        white = (embedding - mean) @ whitening
        return white * torch.rsqrt(white.square().mean(dim=1, keepdim=True).clamp(min=1e-12))

    def decode(self, embedding: Float[Tensor, "n e"]) -> Float[Tensor, "n 1 128 100"]:
        """Draw the log-mel again from its embedding, in [-1, 1]."""
        x = embedding[:, :, None, None]
        last = len(_MIRROR_KERNELS)
        for i, dropout in enumerate(self.dropouts, start=1):
            x = dropout(torch.relu(self.normed(f"convT{i}", x)))
        return torch.tanh(self.normed(f"convT{last}", x))

    def forward(
        self, mel: Float[Tensor, "n 1 128 100"]
    ) -> tuple[Float[Tensor, "n 1 128 100"], Float[Tensor, "n e"]]:
        """Return ``(reconstruction, embedding)``; of plain embeddings alone."""
        embedding = self.encode(mel)
        return self.decode(embedding), embedding
