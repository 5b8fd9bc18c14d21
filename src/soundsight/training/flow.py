"""Imagining: which latent picture goes with a sound, learned by rectified flow. No label is used.

Sounds are embedded and photos encoded once, by networks that stay as they are: sounds in several
augmented copies, photos mirrored and in several cuts. A step then costs the flow alone:

    | v(x_t, t, embedding) - (x_1 - x_0) |^2,   x_t = (1 - t) x_0 + t x_1,   logit(t) ~ N(0, 1)

with the embedding jittered, and left out now and then, so that guidance has something to push off
from (``models.flow``).

:class:`DistilTask` then teaches a copy to follow the *guided* velocity by itself, so that a picture
takes one evaluation a step, and few steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from soundsight.core.config import choose, to_dict
from soundsight.core.errors import ConfigError
from soundsight.models.flow import Flow, FlowConfig
from soundsight.pairs.dataset import batch_indices
from soundsight.training.checkpoints import save_weights
from soundsight.training.ema import Ema
from soundsight.training.loop import LoopConfig, Scalars, Task

FLOW = "flow"

SIZES = {
    "everyday": FlowConfig(),
    "tiny": FlowConfig(embedding_size=16, latent_maps=4, width=16, layers=2, heads=2, rank=8),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowPairs:
    """Embedded sounds, encoded photos, and which go together.

    Attributes:
        embeddings: of every second in several copies, [copies, seconds, E].
        latents: of every photo in several cuts, [cuts, photos, L, 6, 6].
        rows: the pairs: numbers of second and photo, [pairs, 2].
    """

    embeddings: Float[Tensor, "copies seconds e"]
    latents: Float[Tensor, "cuts photos l 6 6"]
    rows: Int64[Tensor, "pairs 2"]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True)
class FlowTrainingConfig:
    """Training of the flow.

    Attributes:
        encoder: SHA-256 of the sound encoder's weights.
        decoder: SHA-256 of the latent encoder's weights.
        preset: sizes, ``everyday`` or ``tiny``.
        rate: AdamW's peak learning rate.
        weight_decay: AdamW's.
        warm_up: steps in which the rate rises; it then stays, and falls in the last ``cool_down``
            share of the steps to zero.
        cool_down: that share.
        jitter: standard deviation of noise on the embeddings, whose root mean square is 1.
        left_out: share of the embeddings that are left out.
        ema_decay: of the average, which is the one that is kept.
        loop: steps, batch and seed.
    """

    encoder: str = ""
    decoder: str = ""
    preset: str = "everyday"
    rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 200
    cool_down: float = 0.3
    jitter: float = 0.15
    left_out: float = 0.125
    ema_decay: float = 0.999
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=10_000, batch_size=128))

    def __post_init__(self) -> None:
        choose("preset", self.preset, SIZES)
        if self.rate <= 0 or self.weight_decay < 0 or self.warm_up < 0 or self.jitter < 0:
            raise ConfigError(
                "rate must be above 0; weight_decay, warm_up and jitter must not be negative"
            )
        if not 0 <= self.cool_down <= 1 or not 0 <= self.left_out < 1:
            raise ConfigError("cool_down must lie in [0, 1], left_out in [0, 1)")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError("ema_decay must lie in [0, 1)")

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: up, level, and down to zero at the end."""
        rise = min(1.0, (step + 1) / max(1, self.warm_up))
        left = (self.loop.steps - step) / max(1.0, self.cool_down * self.loop.steps)
        return self.rate * min(rise, left, 1.0)


class FlowTask(Task):
    """Fits the flow on embedded sounds and encoded photos.

    Args:
        config: what to do.
        pairs: what to learn from.
    """

    kind: ClassVar[str] = "flow"

    def __init__(self, config: FlowTrainingConfig, pairs: FlowPairs) -> None:
        self.config, self.pairs = config, pairs
        torch.manual_seed(config.loop.seed)
        self.flow = Flow(SIZES[config.preset])
        places = (0, 1, 3, 4)
        latents = pairs.latents.float()
        self.flow.mean.copy_(latents.mean(dim=places)[:, None, None])
        self.flow.spread.copy_(latents.std(dim=places)[:, None, None])
        self.ema = Ema(self.flow, config.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.flow.parameters(), lr=config.rate, betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
        )  # fmt: skip

    def networks(self) -> dict[str, nn.Module]:
        return {"flow": self.flow, "average": self.ema.average}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"flow": self.optimizer}

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate_at(step)
        self.flow.train()
        parts = [self._part(own, rng) for own in self._rows(step)]
        scalars = self.descend("gradient", self.optimizer, parts, self._loss)
        self.ema.update(self.flow, step)
        return scalars

    def _rows(self, step: int) -> list[Tensor]:
        loop = self.config.loop
        rows = batch_indices(len(self.pairs), loop.batch_size, loop.seed, step)
        return [torch.from_numpy(own) for own in self.machine.parts_of(rows, loop.accumulate)]

    def _part(self, rows: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return latent pictures on their way, times, where they go, and embeddings."""
        pairs, n = self.pairs, len(rows)
        second, photo = pairs.rows[rows].unbind(1)
        with self.machine.shared_draws(rng):
            copy = torch.randint(len(pairs.embeddings), (n,), generator=rng)
            cut = torch.randint(len(pairs.latents), (n,), generator=rng)
            size = self.flow.embedding_size
            jitter = torch.randn(n, size, generator=rng) * self.config.jitter
            time = torch.randn(n, generator=rng).sigmoid()
            noise = torch.randn(n, *pairs.latents.shape[2:], generator=rng)
            known = (torch.rand(n, generator=rng) >= self.config.left_out).float()
        embedding = pairs.embeddings[copy, second].float() + jitter
        latent = self.flow.scaled(pairs.latents[cut, photo].float())
        way = (1.0 - time)[:, None, None, None] * noise + time[:, None, None, None] * latent
        device = self.machine.device
        parts = (way, time, latent - noise, embedding)
        self._known = known.to(device)
        way, time, goal, embedding = (part.to(device) for part in parts)
        return way, time, goal, embedding

    def _loss(self, part: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Scalars]:
        way, time, goal, embedding = part
        with self.machine.autocast():
            velocity = self.flow(way, time, embedding, self._known)
        loss = (velocity.float() - goal).square().mean()
        return loss, {"loss": loss.detach()}

    def finish(self, run: Path) -> None:
        """Write ``flow.safetensors``."""
        about = {
            "preset": self.config.preset, "network": to_dict(SIZES[self.config.preset]),
            "encoder": self.config.encoder, "decoder": self.config.decoder,
        }  # fmt: skip
        save_weights(run / f"{FLOW}.safetensors", self.ema.average, about)
