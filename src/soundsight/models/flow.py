"""The flow: from a sound's embedding and noise to a latent picture, by rectified flow.

Shapes (L = latent maps, w = ``width``, E = ``embedding_size``)::

    x_t [n, L, 6, 6] = (1 - t) x_0 + t x_1,   x_0 ~ N(0, 1), x_1 a latent picture in unit scale
    -> 36 tokens [n, 36, w] + learned places
    c [n, w] = MLP(waves of t) + MLP(embedding)
    -> ``layers`` blocks: x + g * attention(norm(x) (1 + s) + b); x + g * mlp(norm(x) (1 + s) + b)
       with s, b, g of each block from c (adaLN, through a bottleneck of ``rank`` numbers)
    -> velocity [n, L, 6, 6], an estimate of x_1 - x_0

A picture is drawn by following the velocity from t = 0 to t = 1. With *guidance* w the velocity
followed is v(nothing) + w (v(sound) - v(nothing)): it goes further towards what the sound says than
the distribution does (``guidance = 1`` is the distribution itself).

Sources: Liu et al. 2022 and Lipman et al. 2022 (rectified flow, flow matching); Peebles & Xie 2022
(transformer with adaLN); Ho & Salimans 2022 (classifier-free guidance); Esser et al. 2024 (times
drawn from a logit-normal distribution).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch._higher_order_ops import scan

from soundsight.core.config import check_values
from soundsight.core.errors import ConfigError
from soundsight.models.decoder import LATENT_SIDE, LatentDecoder

_PLACES = LATENT_SIDE**2
_WAVES = 64


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Sizes of the flow."""

    embedding_size: int = 256  #: E, of a sound's embedding
    latent_maps: int = 12  #: L
    width: int = 192  #: w, length of a token
    layers: int = 6  #: blocks
    heads: int = 6  #: heads of each attention
    rank: int = 96  #: numbers through which a block gets time and sound

    def __post_init__(self) -> None:
        check_values(self, at_least_1="embedding_size latent_maps width layers heads rank")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} must be a multiple of heads {self.heads}")


class _Attention(nn.Module):
    """Self-attention of the 36 places, written as two matrix products.

    The fused kernel's gradient is slow on a CPU for so few places.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "n p w"]) -> Float[Tensor, "n p w"]:
        places, width = x.shape[1], x.shape[2]
        parts = self.qkv(x).reshape(-1, places, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).float().softmax(dim=-1).to(v.dtype)
        return self.out((weights @ v).transpose(1, 2).reshape(-1, places, width))


def _mlp(size: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.SiLU(), nn.Linear(hidden, out))


class _Block(nn.Module):
    """Attention and MLP, each scaled, shifted and gated by time and sound."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        width = config.width
        self.attention = _Attention(width, config.heads)
        self.mlp = _mlp(width, 4 * width, width)
        modulation = nn.Linear(config.rank, 6 * width)
        # A block begins as the identity.
        nn.init.zeros_(modulation.weight)
        nn.init.zeros_(modulation.bias)
        self.listen = nn.Sequential(nn.Linear(width, config.rank), modulation)

    def forward(
        self, x: Float[Tensor, "n p w"], condition: Float[Tensor, "n w"]
    ) -> Float[Tensor, "n p w"]:
        parts = self.listen(condition)[:, None].chunk(6, dim=-1)
        scale, shift, gate, scale_mlp, shift_mlp, gate_mlp = parts
        x = x + gate * self.attention(_norm(x) * (1.0 + scale) + shift)
        return x + gate_mlp * self.mlp(_norm(x) * (1.0 + scale_mlp) + shift_mlp)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


class Flow(nn.Module):
    """Velocity of a latent picture on its way, given time and a sound's embedding."""

    mean: Tensor
    spread: Tensor

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding_size = config.embedding_size
        self.noise_size = config.latent_maps * _PLACES
        width = config.width
        self.into = nn.Linear(config.latent_maps, width)
        self.places = nn.Parameter(torch.randn(_PLACES, width) * 0.02)
        self.time = _mlp(2 * _WAVES, width, width)
        self.sound = _mlp(config.embedding_size, width, width)
        self.nothing = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.listen = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, config.latent_maps)
        for layer in (self.listen, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        # Of the latent pictures, map by map: the flow sees them in unit scale.
        self.register_buffer("mean", torch.zeros(config.latent_maps, 1, 1))
        self.register_buffer("spread", torch.ones(config.latent_maps, 1, 1))

    def condition(
        self, embedding: Float[Tensor, "n e"], known: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n w"]:
        """Return the condition of the blocks for some sounds; that of no sound where known = 0."""
        condition = self.sound(embedding)
        if known is None:
            return condition
        return torch.where(known[:, None] > 0, condition, self.nothing.to(condition.dtype))

    def velocity(
        self,
        x: Float[Tensor, "n l 6 6"],
        time: Float[Tensor, " n"],
        sound: Float[Tensor, "n w"],
    ) -> Float[Tensor, "n l 6 6"]:
        """Return the estimate of x_1 - x_0 at ``x`` and ``time`` (0 noise .. 1 picture).

        ``sound`` is what :meth:`condition` returns.
        """
        condition = F.silu(self.time(_waves(time)) + sound)
        tokens = self.into(x.flatten(2).transpose(1, 2)) + self.places
        for block in self.blocks:
            tokens = block(tokens, condition)
        scale, shift = self.listen(condition)[:, None].chunk(2, dim=-1)
        tokens = self.out(_norm(tokens) * (1.0 + scale) + shift)
        return tokens.transpose(1, 2).reshape(x.shape)

    def forward(
        self,
        x: Float[Tensor, "n l 6 6"],
        time: Float[Tensor, " n"],
        embedding: Float[Tensor, "n e"],
        known: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n l 6 6"]:
        """Return the velocity, given embeddings."""
        return self.velocity(x, time, self.condition(embedding, known))

    def draw(
        self,
        embedding: Float[Tensor, "n e"],
        noise: Float[Tensor, "n z"],
        *,
        times: tuple[float, ...],
        guidance: float = 1.0,
    ) -> Float[Tensor, "n l 6 6"]:
        """Follow the velocity from noise to latent pictures by Euler's steps.

        Args:
            noise: standard normal, z = 36 L.
            times: from 0 to 1, ascending: one evaluation (two with guidance) for each interval.
            guidance: 1 for the distribution as it is learned.
        """
        x = noise.reshape(-1, self.config.latent_maps, LATENT_SIDE, LATENT_SIDE)
        sound = self.condition(embedding)
        nothing = self.nothing.expand_as(sound)

        def step(x: Tensor, start: Tensor, length: Tensor) -> Tensor:
            time = start.expand(x.shape[0])
            v = self.velocity(x, time, sound)
            if guidance != 1.0:
                v_nothing = self.velocity(x, time, nothing)
                v = v_nothing + guidance * (v - v_nothing)
            return x + length * v

        starts = torch.tensor(times[:-1], dtype=x.dtype, device=x.device)
        lengths = torch.tensor(times[1:], dtype=x.dtype, device=x.device) - starts
        if torch.compiler.is_exporting():
            # The graph then holds one step and not all of them: it opens in a third of the time.
            # What a step gives beside x is not used, but a scan must give something.
            x, _ = scan(lambda x, at: (step(x, *at), at[1].clone()), x, (starts, lengths))
        else:
            for start, length in zip(starts, lengths, strict=True):
                x = step(x, start, length)
        return x * self.spread + self.mean

    def scaled(self, latent: Float[Tensor, "n l 6 6"]) -> Float[Tensor, "n l 6 6"]:
        """Return latent pictures in the flow's unit scale."""
        return (latent - self.mean) / self.spread


def _waves(time: Float[Tensor, " n"]) -> Float[Tensor, "n 2*waves"]:
    """Sines and cosines of t at frequencies from 1 to 1000 radians in geometric steps."""
    steps = torch.arange(_WAVES, dtype=time.dtype, device=time.device) / (_WAVES - 1)
    angles = time[:, None] * (steps * math.log(1000.0)).exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class FlowGenerator(nn.Module):
    """Embedding and noise -> picture: the steps of :meth:`Flow.draw`, and the decoder."""

    dropout_size = 0

    def __init__(
        self, flow: Flow, decoder: LatentDecoder, times: tuple[float, ...], guidance: float = 1.0
    ) -> None:
        super().__init__()
        self.flow, self.decoder = flow, decoder
        self.times, self.guidance = times, guidance
        self.embedding_size = self.condition_size = flow.embedding_size
        self.noise_size = flow.noise_size

    def forward(
        self, embedding: Float[Tensor, "n e"], noise: Float[Tensor, "n z"]
    ) -> Float[Tensor, "n 3 96 96"]:
        """Return pictures in [-1, 1]."""
        latent = self.flow.draw(embedding, noise, times=self.times, guidance=self.guidance)
        picture: Tensor = self.decoder(latent)
        return picture
