"""What the published networks share: layers that are named as in the authors' checkpoints."""

from __future__ import annotations

from torch import Tensor, nn


class NamedLayers(nn.Module):
    """A network of layers NAME, each followed by a BatchNorm NAME_bn unless it is added without."""

    def add(self, name: str, layer: nn.Conv2d | nn.ConvTranspose2d, *, norm: bool = True) -> None:
        """Add a layer and, with ``norm``, its BatchNorm."""
        setattr(self, name, layer)
        if norm:
            setattr(self, f"{name}_bn", nn.BatchNorm2d(layer.out_channels))

    def normed(self, name: str, x: Tensor) -> Tensor:
        """Return what a layer and its BatchNorm make of x."""
        y: Tensor = getattr(self, f"{name}_bn")(getattr(self, name)(x))
        return y
