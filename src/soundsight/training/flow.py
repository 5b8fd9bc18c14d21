"""Imagining: which latent picture goes with a sound, learned by rectified flow. No label is used.

Sounds are embedded and photos encoded once, by networks that stay as they are: sounds in several
augmented copies, photos mirrored and in several cuts. A step then costs the flow alone:

    | v(x_t, t, embedding) - (x_1 - x_0) |^2,   x_t = (1 - t) x_0 + t x_1,   logit(t) ~ N(0, 1)

with the embedding jittered, and left out now and then, so that guidance has something to push off
from (``models.flow``).

:class:`DistilTask` then teaches a copy to follow the *guided* velocity by itself, in few steps.
"""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.core.files import atomic_file
from soundsight.data.store.dataset import batch_indices
from soundsight.models.flow import Flow, FlowConfig, FlowGenerator
from soundsight.training.checkpoints import load_network, save_weights
from soundsight.training.configs import DistilConfig, FlowTrainingConfig
from soundsight.training.decoder import load_latent_decoder
from soundsight.training.devices import Devices
from soundsight.training.ema import Ema
from soundsight.training.fine_tuning import (
    ENCODER,
    FLOW,
    LATENT_DECODER,
    LATENT_ENCODER,
    PICTURE_ENCODER,
    TAUGHT_BY,
    Pretrained,
)
from soundsight.training.flow_data import FlowPairs
from soundsight.training.trainer import Scalars, Task, set_rate

SIZES = {
    "everyday": FlowConfig(),
    "tiny": FlowConfig(embedding_size=16, latent_maps=4, width=16, layers=2, heads=2, rank=8),
}


def fine_tuning_config(config: FlowTrainingConfig, init: str) -> FlowTrainingConfig:
    """Return the settings for starting from finished weights: slower and shorter."""
    return replace(config, init=init, rate=3e-4, loop=replace(config.loop, steps=2500))


class FlowTask(Task):
    """Fits the flow on embedded sounds and encoded photos.

    Args:
        pairs: what to learn from.
        runs: of encoder and decoder, whose weights ``finish`` writes into the run, so that it is
            whole by itself.
    """

    kind = "flow"

    def __init__(
        self,
        config: FlowTrainingConfig,
        pairs: FlowPairs,
        *,
        runs: tuple[Path, Path],
        start: Pretrained | None = None,
    ) -> None:
        self.config, self.pairs, self._runs = config, pairs, runs
        _check_sizes(config.preset, pairs)
        torch.manual_seed(config.loop.seed)
        self.flow = Flow(SIZES[config.preset])
        if start is None:
            places = (0, 1, 3, 4)
            latents = pairs.latents.float()
            self.flow.mean.copy_(latents.mean(dim=places)[:, None, None])
            self.flow.spread.copy_(latents.std(dim=places)[:, None, None])
        elif "times" in start.load(FLOW, self.flow):
            raise DataError(
                f"the flow of {start.folder} is a copy in few steps: start from the run that "
                "taught it"
            )
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
        set_rate(self.optimizer, self.config.rate_at(step))
        self.flow.train()
        parts = [self._part(own, rng) for own in self._rows(step)]
        scalars = self.descend("gradient", self.optimizer, parts, self._loss)
        self.ema.update(self.flow, step)
        return scalars

    def _rows(self, step: int) -> list[Tensor]:
        loop = self.config.loop
        rows = batch_indices(len(self.pairs), loop.batch_size, loop.seed, step)
        return [torch.from_numpy(own) for own in self.devices.parts_of(rows, loop.accumulate)]

    def _part(self, rows: Tensor, rng: torch.Generator) -> list[Tensor]:
        """Return latent pictures on their way, times, velocities, embeddings, and which count."""
        pairs, n = self.pairs, len(rows)
        second, photo = pairs.rows[rows].unbind(1)
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
        device = self.devices.device
        return [x.to(device) for x in (way, time, latent - noise, embedding, known)]

    def _loss(self, part: list[Tensor]) -> tuple[Tensor, Scalars]:
        way, time, goal, embedding, known = part
        with self.devices.autocast():
            velocity = self.flow(way, time, embedding, known)
        loss = (velocity.float() - goal).square().mean()
        return loss, {"loss": loss.detach()}

    def finish(self, run: Path) -> None:
        """Write ``flow.safetensors``, and encoder and decoder beside it."""
        about = {
            "preset": self.config.preset, "network": to_dict(SIZES[self.config.preset]),
            "encoder": self.config.encoder, "decoder": self.config.decoder,
        }  # fmt: skip
        save_weights(run / f"{FLOW}.safetensors", self.ema.average, about)
        encoder, decoder = self._runs
        copy_weights(encoder, run, (ENCODER, PICTURE_ENCODER))
        copy_weights(decoder, run, (LATENT_ENCODER, LATENT_DECODER))


class DistilTask(Task):
    """Fits the few-step copy of a flow: it learns to go, in one evaluation, where guidance goes.

    The flow draws well with guidance and many small steps: two evaluations each. The copy has its
    own few steps, from times[i] to times[i + 1]. It draws from noise as it will be used, and at
    each of its points x it learns where the guided flow, in ``substeps`` smaller steps, goes:

        | v_copy(x, times[i], embedding) - (x_guided(times[i+1]) - x) / (times[i+1] - times[i]) |^2

    Sources: Salimans & Ho 2022 (progressive distillation), Meng et al. 2023 (distilled guidance);
    the copy's own points, in place of those of the data, as in Ross et al. 2011 (DAgger).

    Args:
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


def _check_sizes(preset: str, pairs: FlowPairs) -> None:
    sizes = SIZES[preset]
    given, maps = pairs.embeddings.shape[-1], pairs.latents.shape[2]
    if (given, maps) != (sizes.embedding_size, sizes.latent_maps):
        raise DataError(
            f"a flow of preset {preset} takes embeddings of {sizes.embedding_size} numbers and "
            f"latent pictures of {sizes.latent_maps} maps, the encoder gives {given} and the "
            f"decoder {maps}: take one --preset for all three"
        )


def copy_weights(
    source: Path, run: Path, names: Sequence[str], called: Sequence[str] | None = None
) -> None:
    """Copy the weights of networks, those that are there, from one run into another.

    Args:
        source: the run that has them.
        run: where they go.
        names: of the networks.
        called: what they are called there; by default the same.

    Raises:
        OutputError: when they cannot be written.
    """
    for name, new in zip(names, called or names, strict=True):
        path = source / f"{name}.safetensors"
        if path.is_file():
            for file in (path, path.with_suffix(".json")):
                with atomic_file(run / f"{new}{file.suffix}") as temporary:
                    shutil.copyfile(file, temporary)


def load_flow(run: Path) -> tuple[Flow, dict[str, Any]]:
    """Load the flow of a finished run, in eval mode; return what stands beside it, too.

    Raises:
        DataError: when the run is not finished or damaged.
    """
    return load_network(run / f"{FLOW}.safetensors", Flow, FlowConfig)


def load_flow_generator(
    run: Path, *, times: Sequence[float] | None = None, guidance: float | None = None
) -> FlowGenerator:
    """Load what draws pictures of a finished run of the flow, or of its few-step copy.

    Args:
        times: of the steps; by default those of a few-step copy, or 16 even ones.
        guidance: by default none for a few-step copy, into which it is folded, or 4.

    Raises:
        DataError: when the run is not finished or damaged.
    """
    flow, about = load_flow(run)
    decoder, _ = load_latent_decoder(run)
    even = [i / 16 for i in range(17)]
    if guidance is None:
        guidance = 1.0 if "times" in about else 4.0
    return FlowGenerator(flow, decoder, tuple(times or about.get("times", even)), guidance).eval()
