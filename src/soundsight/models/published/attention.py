"""Transformer-decoder blocks between two layers of the generator: the attention variant.

Shapes (t = h*w places of the maps, m = audio tokens, d = ``width``)::

    maps      [n, C, h, w] -> a token a place  [n, t, C] -> 1x1 projection [n, t, d] + positions
    audio     [n, m, S]    -> 1x1 projection   [n, m, d] + positions
    N blocks  x = norm(x + self-attention(x))            every place looks at every place
              x = norm(x + cross-attention(x, audio))    every place looks at the sound
              x = norm(x + feed-forward(x))              d -> 4d -> d, ReLU
    back      1x1 projection -> [n, C, h, w], added to the maps that came in

Source: Appl. Sci. 16(6):2942 (2026), as far as it is known: decoder blocks (Vaswani et al. 2017)
with norms after the residual sums, width 320, 8 heads, tokens that are places. Not known, and
chosen here:

* Positions count the flattened places (row by row from the top left); audio tokens have theirs too.
* No dropout inside: the variety of pictures comes from the generator's own, which is an input.
* The whole is a residual around the maps, and its projection back starts at zero: a generator with
  attention begins as the plain one (with the same seed, to the last bit).
* With a single audio token (the published source) a softmax over one number is 1 whatever query
  and key say. They are left out then; the outputs are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Sizes of one stack of blocks."""

    maps: int  #: C, maps that come in and go out
    places: int  #: t, places of a map (h*w)
    blocks: int  #: N
    width: int  #: d, even and a multiple of ``heads``
    heads: int  #: attention heads
    audio_maps: int  #: S, length of an audio token as it comes in
    audio_tokens: int  #: m


def _sinusoids(places: int, width: int) -> Float[Tensor, "t d"]:
    """Positions of Vaswani et al. 2017: sin and cos of p / 10000^(2i/d) by turns, in [-1, 1]."""
    place = torch.arange(places, dtype=torch.float64)[:, None]
    angle = place * torch.exp(
        torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width)
    )
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).float()


class Attention(nn.Module):
    """Multi-head attention: softmax(q k^T / sqrt(d / heads)) v, projected."""

    def __init__(self, width: int, heads: int, *, one_token: bool = False) -> None:
        super().__init__()
        self.heads, self.one_token = heads, one_token
        if not one_token:
            self.query = nn.Linear(width, width, bias=False)
            self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "n t d"], memory: Float[Tensor, "n m d"]
    ) -> Float[Tensor, "n _ d"]:
        """Return what each token of ``x`` takes from ``memory``; one row for all with one token."""
        value = self.value(memory)
        if not self.one_token:
            query, key, value = map(self._split, (self.query(x), self.key(memory), value))
            value = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.out(value)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class DecoderBlock(nn.Module):
    """One block; every norm follows its residual sum."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        d = config.width
        self.attend = Attention(d, config.heads)
        self.attend_norm = nn.LayerNorm(d)
        self.listen = Attention(d, config.heads, one_token=config.audio_tokens == 1)
        self.listen_norm = nn.LayerNorm(d)
        self.widen = nn.Linear(d, 4 * d)
        self.narrow = nn.Linear(4 * d, d)
        self.feed_norm = nn.LayerNorm(d)

    def forward(
        self, x: Float[Tensor, "n t d"], audio: Float[Tensor, "n m d"]
    ) -> Float[Tensor, "n t d"]:
        """Attend to all places, then to the sound, then to each place by itself."""
        x = self.attend_norm(x + self.attend(x, x))
        x = self.listen_norm(x + self.listen(x, audio))
        return self.feed_norm(x + self.narrow(torch.relu(self.widen(x))))


class AttentionStack(nn.Module):
    """Blocks in a row between two layers of the generator, as a residual around its maps."""

    places: Tensor
    moments: Tensor

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        d = config.width
        self.enter = nn.Linear(config.maps, d)
        self.hear = nn.Linear(config.audio_maps, d)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.blocks))
        self.back = nn.Linear(d, config.maps)
        nn.init.zeros_(self.back.weight)
        nn.init.zeros_(self.back.bias)
        # A function of the sizes: no part of a checkpoint.
        self.register_buffer("places", _sinusoids(config.places, d), persistent=False)
        self.register_buffer("moments", _sinusoids(config.audio_tokens, d), persistent=False)

    def forward(
        self, maps: Float[Tensor, "n c h w"], audio: Float[Tensor, "n m s"]
    ) -> Float[Tensor, "n c h w"]:
        """Return the maps with what the blocks add to them."""
        x = self.enter(maps.flatten(2).transpose(1, 2)) + self.places
        tokens = self.hear(audio) + self.moments
        for block in self.blocks:
            x = block(x, tokens)
        return maps + self.back(x).transpose(1, 2).unflatten(2, maps.shape[2:])
