"""Exponential moving average of a network's weights, and of its BatchNorm statistics."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class Ema(Generic[Network]):
    """Keeps ``average``, a copy of the network that trails it.

    The decay is warmed up, ``min(decay, (1 + t) / (10 + t))`` at update t, so that the first
    weights do not linger.

    Args:
        decay: share of the average that is kept at each update.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.decay = decay
        self.average: Network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards ``network``; ``step`` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        target = network.state_dict()
        for name, value in self.average.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(target[name].to(value.dtype), 1.0 - decay)
            else:
                value.copy_(target[name])
