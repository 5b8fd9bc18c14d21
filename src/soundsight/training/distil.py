"""Few steps: a copy of the flow learns to go, in one evaluation, where guidance goes in several.

The flow draws well with guidance and many small steps: two evaluations each. The copy has its own
few steps, from times[i] to times[i + 1]. It draws from noise as it will be used, and at each of its
points x it learns where the guided flow, in ``substeps`` smaller steps, goes from there:

    | v_copy(x, times[i], embedding) - (x_guided(times[i + 1]) - x) / (times[i + 1] - times[i]) |^2

Sources: Salimans & Ho 2022 (progressive distillation), Meng et al. 2023 (distilled guidance); the
copy's own points, in place of those of the data, as in Ross et al. 2011 (DAgger).
"""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.config import to_dict
from soundsight.data.store.dataset import batch_indices
from soundsight.models.flow import Flow
from soundsight.training.checkpoints import save_weights
from soundsight.training.configs import DistilConfig
from soundsight.training.devices import Devices
from soundsight.training.ema import Ema
from soundsight.training.fine_tuning import (
    ENCODER,
    FLOW,
    LATENT_DECODER,
    LATENT_ENCODER,
    PICTURE_ENCODER,
    TAUGHT_BY,
)
from soundsight.training.flow import copy_weights
from soundsight.training.flow_data import FlowPairs
from soundsight.training.trainer import Scalars, Task, set_rate


class DistilTask(Task):
    """Fits the few-step copy of a flow.

    Args:
        config: what to do.
        pairs: whose embeddings are drawn for.
        flow: the finished flow; stays as it is.
        run: whose; its encoder and decoder are written into the copy's run.
    """

    kind = "distil"

    def __init__(self, config: DistilConfig, pairs: FlowPairs, flow: Flow, *, run: Path) -> None:
        self.config, self.pairs, self._run = config, pairs, run
        self.teacher = flow.eval().requires_grad_(False)
        torch.manual_seed(config.loop.seed)
        self.flow = copy.deepcopy(flow).requires_grad_(True)
        self.ema = Ema(self.flow, config.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.flow.parameters(), lr=config.rate, betas=(0.9, 0.95), weight_decay=0.0
        )

    def networks(self) -> dict[str, nn.Module]:
        return {"flow": self.flow, "average": self.ema.average}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"flow": self.optimizer}

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        loop = self.config.loop
        set_rate(self.optimizer, self.config.rate * (1.0 - step / loop.steps))
        self.flow.train()
        rows = batch_indices(len(self.pairs), loop.batch_size, loop.seed, step)
        parts = []
        for own in self.devices.parts_of(rows, loop.accumulate):
            second = self.pairs.rows[torch.from_numpy(own), 0]
            n = len(second)
            which = torch.randint(len(self.pairs.embeddings), (n,), generator=rng)
            jitter = torch.randn(n, self.flow.embedding_size, generator=rng)
            noise = torch.randn(n, *self.pairs.latents.shape[2:], generator=rng)
            embedding = self.pairs.embeddings[which, second].float() + self.config.jitter * jitter
            device = self.devices.device
            parts.append((embedding.to(device), noise.to(device)))
        scalars = self.descend("gradient", self.optimizer, parts, self._loss)
        self.ema.update(self.flow, step)
        return scalars

    def _loss(self, part: tuple[Tensor, Tensor]) -> tuple[Tensor, Scalars]:
        embedding, x = part
        losses = []
        for start, end in itertools.pairwise(self.config.times):
            time = torch.full_like(embedding[:, 0], start)
            goal = (self._guided(x, start, end, embedding) - x) / (end - start)
            with self.devices.autocast():
                velocity = self.flow(x, time, embedding)
            losses.append((velocity.float() - goal).square().mean())
            x = x + (end - start) * velocity.float().detach()
        loss = torch.stack(losses).mean()
        return loss, {"loss": loss.detach(), "last": losses[-1].detach()}

    @torch.no_grad()
    def _guided(
        self, x: Float[Tensor, "n l 6 6"], start: float, end: float, embedding: Tensor
    ) -> Tensor:
        """Follow the guided flow from ``start`` to ``end``; both evaluations in one batch."""
        n, guidance = len(x), self.config.guidance
        known = torch.cat([torch.ones(n), torch.zeros(n)]).to(x.device)
        step = (end - start) / self.config.substeps
        for i in range(self.config.substeps):
            time = torch.full_like(known, start + i * step)
            with self.devices.autocast():
                both = self.teacher(x.repeat(2, 1, 1, 1), time, embedding.repeat(2, 1), known)
            given, without = both.float().chunk(2)
            x = x + step * (without + guidance * (given - without))
        return x

    def place(self, devices: Devices) -> None:
        super().place(devices)
        self.teacher.to(devices.device)

    def finish(self, run: Path) -> None:
        """Write ``flow.safetensors``, with the times of its steps, and beside it what taught it."""
        about = {
            "network": to_dict(self.flow.config), "times": list(self.config.times),
            "guidance": self.config.guidance, "taught_by": self.config.flow,
        }  # fmt: skip
        save_weights(run / f"{FLOW}.safetensors", self.ema.average, about)
        copy_weights(self._run, run, (ENCODER, PICTURE_ENCODER, LATENT_ENCODER, LATENT_DECODER))
        copy_weights(self._run, run, (FLOW,), (TAUGHT_BY,))
