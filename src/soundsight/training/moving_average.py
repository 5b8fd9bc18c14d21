"""The moving-average adversarial loss: against whom the generator is scored.

arXiv 2106.01266 names a moving-average adversarial loss against GAN instability; neither the paper
nor the published code gives its formula. **What stands here are readings of the name**, each of
which keeps the published term ``|r_real - r^|`` and changes only the discriminator that gives r^:

``off``
    The discriminator of this step, as in the published code.
``snapshots``
    The mean of the term over the last K discriminators: the live one and the K - 1 snapshots before
    it, one taken every ``snapshot_every`` steps.
``ema``
    The term against one discriminator whose weights are an exponential moving average of the live
    one's.

Every adversary sees real and generated pictures in one batch, with its own dropout, as the live
discriminator does: the RC-score ends in a one-channel BatchNorm. ``docs/results.md`` says
what each is worth.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.training.configs import MovingAverageConfig
from soundsight.training.ema import Ema
from soundsight.training.losses import rc_generator_loss


class MovingAverageAdversary(nn.Module):
    """The generator's adversarial term, and the discriminators of the past that it needs.

    The state (the kept discriminators and how many of them there are) belongs to a checkpoint.

    Args:
        discriminator: the live discriminator, called with (images, embeddings).
        config: the reading.
    """

    def __init__(self, discriminator: nn.Module, config: MovingAverageConfig) -> None:
        super().__init__()
        self.config = config
        self.past = nn.ModuleList()
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))
        self._ema: Ema[nn.Module] | None = None
        if config.reading == "snapshots":
            for _ in range(config.snapshots - 1):
                self.past.append(copy.deepcopy(discriminator))
        elif config.reading == "ema":
            self._ema = Ema(discriminator, config.decay)
            self.past.append(self._ema.average)
        self.past.requires_grad_(False)

    def adversaries(self, discriminator: nn.Module) -> list[nn.Module]:
        """Return those whose terms are averaged, the newest first."""
        if self.config.reading == "ema":
            return [self.past[0]]
        taken = int(cast(Tensor, self.taken))
        kept = min(taken, len(self.past))
        return [discriminator, *(self.past[(taken - 1 - i) % len(self.past)] for i in range(kept))]

    def loss(
        self,
        discriminator: nn.Module,
        real: Float[Tensor, "n 3 96 96"],
        generated: Float[Tensor, "n 3 96 96"],
        embedding: Float[Tensor, "n e"],
    ) -> Float[Tensor, ""]:
        """Return the mean over the adversaries of ``|r_real - r^|`` of the generated pictures.

        Args:
            discriminator: the live one.
            real: real pictures, in [-1, 1]; they share the batch, and get no gradient.
            generated: pictures of the same sounds, in [-1, 1].
            embedding: the sounds.
        """
        both = torch.cat([real, generated])
        sounds = torch.cat([embedding, embedding])
        # A copy is made in evaluation mode by some readings; its batch statistics must be these.
        terms = [
            rc_generator_loss(adversary.train()(both, sounds)[len(real) :])
            for adversary in self.adversaries(discriminator)
        ]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def update(self, discriminator: nn.Module, step: int) -> None:
        """Take note of the discriminator as it stands after step ``step`` (from 0)."""
        if self._ema is not None:
            self._ema.update(discriminator, step)
        elif len(self.past) and (step + 1) % self.config.snapshot_every == 0:
            taken = cast(Tensor, self.taken)
            place = int(taken) % len(self.past)
            self.past[place].load_state_dict(discriminator.state_dict())
            taken += 1
