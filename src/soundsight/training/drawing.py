"""What tasks share that learn to draw: frozen eyes, and a discriminator that looks through them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from soundsight.models.discriminator import (
    EyesDiscriminator,
    EyesDiscriminatorConfig,
    hinge_discriminator,
)
from soundsight.models.eyes import Eyes
from soundsight.training.devices import Devices
from soundsight.training.trainer import Scalars, Task, channels_last

DISCRIMINATORS = {
    "everyday": EyesDiscriminatorConfig(),
    "tiny": EyesDiscriminatorConfig(maps=8, head_maps=8),
}


class Seen:
    """Features of photos and of pictures, each scale over the photos' usual size.

    They are found in the step of what draws, and used again in that of the discriminator.
    """

    real: Sequence[Tensor] = ()
    drawn: Sequence[Tensor] = ()


class DrawingTask(Task):
    """A task whose pictures a discriminator over the eyes tells from photos.

    Attributes:
        eyes: the frozen photo features.
        optimizer: of what draws.
        discriminator: made by :meth:`make_discriminator`.
    """

    eyes: Eyes
    optimizer: torch.optim.Optimizer
    discriminator: EyesDiscriminator
    d_optimizer: torch.optim.Optimizer

    def make_discriminator(self, preset: str, rate: float) -> None:
        """Make the discriminator and its Adam; its random numbers are torch's own."""
        self.discriminator = channels_last(EyesDiscriminator(DISCRIMINATORS[preset]))
        self.d_optimizer = torch.optim.Adam(
            self.discriminator.heads.parameters(), lr=rate, betas=(0.0, 0.99)
        )

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator": self.optimizer, "discriminator": self.d_optimizer}

    def place(self, devices: Devices) -> None:
        super().place(devices)
        self.eyes.to(devices.device)

    def usual_sizes(self, real: Sequence[Tensor]) -> list[Tensor]:
        """Return the photos' mean size at each scale: it makes the scales comparable."""
        return [r.float().abs().mean() for r in real]

    def rescale(
        self, seen: Seen, real: Sequence[Tensor], drawn: Sequence[Tensor], sizes: Sequence[Tensor]
    ) -> list[Tensor]:
        """Put features on the photos' scale, keep them in ``seen``; return those of the pictures.

        Args:
            seen: where they are kept, without gradients.
            real: features of photos at four scales.
            drawn: features of pictures.
            sizes: of :meth:`usual_sizes`.
        """
        scaled = [d.float() / size for d, size in zip(drawn, sizes, strict=True)]
        seen.real = [r.float() / size for r, size in zip(real, sizes, strict=True)]
        seen.drawn = [d.detach() for d in scaled]
        return scaled

    def judge(self, seen: Seen) -> tuple[Tensor, Scalars]:
        """Let the discriminator tell photos from pictures."""
        with self.devices.autocast():
            real, drawn = self.discriminator(seen.real), self.discriminator(seen.drawn)
        loss = hinge_discriminator(real, drawn)
        return loss, {"discriminator": loss.detach()}
