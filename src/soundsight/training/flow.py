"""Imagining: which latent picture goes with a sound, learned by rectified flow. No label is used.

Sounds are embedded and photos encoded once, by networks that stay as they are: sounds in several
augmented copies, photos mirrored and in several cuts (:class:`FlowPairs`). A step then costs the
flow alone:

    | v(x_t, t, embedding) - (x_1 - x_0) |^2,   x_t = (1 - t) x_0 + t x_1,   logit(t) ~ N(0, 1)

with the embedding jittered, and left out now and then, so that guidance has something to push off
from (``models.flow``).

:class:`DistilTask` then teaches a copy to follow the *guided* velocity by itself, in few steps.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.core.files import sha256_of
from soundsight.models.decoder import LATENT_SIDE, LatentEncoder
from soundsight.models.eyes import Eyes
from soundsight.models.flow import Flow, FlowConfig, FlowGenerator
from soundsight.training.augment import augment_image
from soundsight.training.checkpoints import (
    TAUGHT_BY,
    Pretrained,
    copy_weights,
    load_network,
    save_weights,
)
from soundsight.training.configs import DistilConfig, EarsTrainingConfig, FlowTrainingConfig
from soundsight.training.decoder import load_latent_decoder, load_latent_encoder
from soundsight.training.ears import in_other_rooms
from soundsight.training.ears_data import EYES, EarsData
from soundsight.training.encoder import load_encoder, to_float
from soundsight.training.kept import Tell, kept_arrays, tell_nothing
from soundsight.training.trainer import Ema, Scalars, Task, set_rate

SIZES = {
    "everyday": FlowConfig(),
    "tiny": FlowConfig(embedding_size=16, latent_maps=4, width=16, layers=2, heads=2, rank=8),
}

COPIES = 4
"""Of every second: as it is, and in other rooms, bands and noises."""
CUTS = 6
"""Of every photo: as it is, and mirrored, enlarged and shifted."""

_AT_ONCE = 256
_ZOOM, _SHIFT = 0.2, 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowPairs:
    """Embedded sounds, encoded photos, and which go together."""

    embeddings: Float[Tensor, "copies seconds e"]  #: of every second in several copies
    latents: Float[Tensor, "cuts photos l 6 6"]  #: of every photo in several cuts
    rows: Int64[Tensor, "pairs 2"]  #: the pairs: numbers of second and photo
    digest: str = ""  #: a hash of what they were made of

    def __len__(self) -> int:
        return len(self.rows)

    def draw(
        self, second: Int64[Tensor, " n"], jitter: float, rng: torch.Generator
    ) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n l 6 6"]]:
        """Draw an embedding of each second, in some copy and jittered, and a latent noise."""
        n, size = len(second), self.embeddings.shape[-1]
        which = torch.randint(len(self.embeddings), (n,), generator=rng)
        moved = jitter * torch.randn(n, size, generator=rng)
        noise = torch.randn(n, *self.latents.shape[2:], generator=rng)
        return self.embeddings[which, second].float() + moved, noise


def flow_pairs_of(
    folder: Path,
    data: EarsData,
    encoder_run: Path,
    decoder_run: Path,
    photos: Callable[[], NDArray[np.uint8]],
    *,
    seed: int,
    tell: Tell = tell_nothing,
) -> FlowPairs:
    """Return what the flow learns from of the data that ears are trained on.

    It is kept in ``folder``, and made anew when encoder, decoder or data are others. ``photos``
    reads those of ``data``, in its order: uint8 [p, 3, 96, 96]. DataError when a run is not
    finished or was trained through other eyes, or when what is kept is damaged.
    """
    encoder, eyes = load_encoder(encoder_run), Eyes.load(EYES)
    latent_encoder, about = load_latent_encoder(decoder_run, eyes)
    distinct, number = np.unique(data.pair_second, return_inverse=True)
    rows = np.stack([number.reshape(-1), data.pair_photo], axis=1)
    pictures = {"decoder": about["sha256"], "data": data.digest, "seed": str(seed)}
    sounds = {
        "encoder": sha256_of(encoder_run / "encoder.safetensors"), "data": data.digest,
        "seed": str(seed), "seconds": hashlib.sha256(distinct.tobytes()).hexdigest(),
    }  # fmt: skip

    def encode(part: slice, copy: int, rng: torch.Generator) -> Tensor:
        seconds = distinct[part]
        copies = torch.zeros(len(seconds), dtype=torch.int64)
        if copy and data.bank is not None:
            copies = torch.randint(1, data.bank.copies + 1, (len(seconds),), generator=rng)
        mel = to_float(torch.from_numpy(data.mels(seconds, copies.numpy()))[:, None])
        if copy:
            narrows = torch.from_numpy(seconds >= data.waveforms)
            mel = in_other_rooms(mel, narrows, EarsTrainingConfig(), rng)
        return encoder.encode(mel)

    def make_latents() -> dict[str, NDArray[Any]]:
        found = encode_cuts(latent_encoder, eyes, torch.from_numpy(photos()), seed=seed, tell=tell)
        return {"latents": found.numpy()}

    def make_embeddings() -> dict[str, NDArray[Any]]:
        shape = (COPIES, len(distinct), encoder.embedding_size)
        found = _in_copies(shape, encode, "sounds embedded", seed, tell)
        return {"embeddings": found.numpy()}

    latents = kept_arrays(folder / "latents.npz", pictures, make_latents)["latents"]
    embeddings = kept_arrays(folder / "embeddings.npz", sounds, make_embeddings)["embeddings"]
    made_of = [sorted(sounds.items()), sorted(pictures.items()), rows.tobytes()]
    return FlowPairs(
        latents=torch.from_numpy(latents),
        embeddings=torch.from_numpy(embeddings),
        rows=torch.from_numpy(rows),
        digest=hashlib.sha256(str(made_of).encode()).hexdigest(),
    )


def encode_cuts(
    encoder: LatentEncoder, eyes: Eyes, photos: UInt8[Tensor, "p 3 96 96"], *, seed: int, tell: Tell
) -> Float[Tensor, "cuts p l 6 6"]:
    """Return the means of the latent pictures of photos in ``CUTS`` cuts, float16."""

    def encode(part: slice, cut: int, rng: torch.Generator) -> Tensor:
        image = to_float(photos[part])
        if cut:
            image = augment_image(image, rng, zoom=_ZOOM, shift=_SHIFT, colour=0.0)
        image = image.contiguous(memory_format=torch.channels_last)
        mean: Tensor = encoder(image, eyes(image))[0]
        return mean

    shape = (CUTS, len(photos), encoder.config.latent_maps, LATENT_SIDE, LATENT_SIDE)
    return _in_copies(shape, encode, "photos encoded", seed, tell)


@torch.no_grad()
def _in_copies(
    shape: tuple[int, ...],
    encode: Callable[[slice, int, torch.Generator], Tensor],
    what: str,
    seed: int,
    tell: Tell,
) -> Float[Tensor, "copies items ..."]:
    """Encode all items in each of their copies: float16 of ``shape``, [copies, items, ...]."""
    copies, items, *_ = shape
    found = torch.empty(shape, dtype=torch.float16)
    for number in range(copies):
        rng = torch.Generator().manual_seed(seed * copies + number)
        for start in range(0, items, _AT_ONCE):
            part = slice(start, min(start + _AT_ONCE, items))
            found[number, part] = encode(part, number, rng).half()
            tell(what, number * items + part.stop, copies * items)
    return found


class _OfFlow(Task):
    """A task that learns a flow on pairs."""

    def _begin(self, config: Any, pairs: FlowPairs, flow: Flow, weight_decay: float) -> None:
        self.config, self.loop, self.pairs, self.flow = config, config.loop, pairs, flow
        self.ema = Ema(flow, config.ema_decay)
        self.optimizer = torch.optim.AdamW(
            flow.parameters(), lr=config.rate, betas=(0.9, 0.95), weight_decay=weight_decay
        )
        self.networks = {"flow": flow, "average": self.ema.average}
        self.optimizers = {"flow": self.optimizer}

    def _learn(
        self, step: int, rate: float, rng: torch.Generator,
        part_of: Callable[[Tensor, torch.Generator], Sequence[Tensor]],
        loss_of: Callable[[Sequence[Tensor]], tuple[Tensor, Scalars]],
    ) -> Scalars:  # fmt: skip
        set_rate(self.optimizer, rate)
        self.flow.train()
        parts = [
            [x.to(self.devices.device) for x in part_of(torch.from_numpy(own), rng)]
            for own in self.parts(step, len(self.pairs))
        ]
        scalars = self.descend("gradient", self.optimizer, parts, loss_of)
        self.ema.update(self.flow, step)
        return scalars


class FlowTask(_OfFlow):
    """Fits the flow on embedded sounds and encoded photos.

    ``runs`` are those of encoder and decoder, whose weights ``finish`` writes into the run, so that
    it is whole by itself.
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
        self._runs = runs
        sizes = SIZES[config.preset]
        given, maps = pairs.embeddings.shape[-1], pairs.latents.shape[2]
        if (given, maps) != (sizes.embedding_size, sizes.latent_maps):
            raise DataError(
                f"a flow of preset {config.preset} takes embeddings of {sizes.embedding_size} "
                f"numbers and latent pictures of {sizes.latent_maps} maps, the encoder gives "
                f"{given} and the decoder {maps}: take one --preset for all three"
            )
        torch.manual_seed(config.loop.seed)
        flow = Flow(sizes)
        if start is None:
            places = (0, 1, 3, 4)
            latents = pairs.latents.float()
            flow.mean.copy_(latents.mean(dim=places)[:, None, None])
            flow.spread.copy_(latents.std(dim=places)[:, None, None])
        elif "times" in start.load("flow", flow):
            raise DataError(
                f"the flow of {start.folder} is a copy in few steps: start from the run that "
                "taught it"
            )
        self._begin(config, pairs, flow, config.weight_decay)

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        return self._learn(step, self.config.rate_at(step), rng, self._part, self._loss)

    def _part(self, rows: Tensor, rng: torch.Generator) -> Sequence[Tensor]:
        """Latent pictures on their way, times, velocities, embeddings, and which count."""
        pairs, n, device = self.pairs, len(rows), self.devices.device
        second, photo = pairs.rows[rows].unbind(1)
        copy = torch.randint(len(pairs.embeddings), (n,), generator=rng)
        cut = torch.randint(len(pairs.latents), (n,), generator=rng)
        jitter = torch.randn(n, self.flow.embedding_size, generator=rng) * self.config.jitter
        time = torch.randn(n, generator=rng).sigmoid().to(device)
        noise = torch.randn(n, *pairs.latents.shape[2:], generator=rng).to(device)
        known = (torch.rand(n, generator=rng) >= self.config.left_out).float()
        embedding = pairs.embeddings[copy, second].float() + jitter
        latent = self.flow.scaled(pairs.latents[cut, photo].float().to(device))
        way = (1.0 - time)[:, None, None, None] * noise + time[:, None, None, None] * latent
        return way, time, latent - noise, embedding, known

    def _loss(self, part: Sequence[Tensor]) -> tuple[Tensor, Scalars]:
        way, time, goal, embedding, known = part
        with self.devices.autocast():
            velocity = self.flow(way, time, embedding, known)
        loss = (velocity.float() - goal).square().mean()
        return loss, {"loss": loss}

    def finish(self, run: Path) -> None:
        """Write ``flow.safetensors``, and encoder and decoder beside it."""
        about = {
            "preset": self.config.preset, "network": to_dict(SIZES[self.config.preset]),
            "encoder": self.config.encoder, "decoder": self.config.decoder,
        }  # fmt: skip
        save_weights(run / "flow.safetensors", self.ema.average, about)
        copy_weights(self._runs[0], run, "encoder", "picture_encoder")
        copy_weights(self._runs[1], run, "latent_encoder", "latent_decoder")


class DistilTask(_OfFlow):
    """Fits the few-step copy of a flow: it learns to go, in one evaluation, where guidance goes.

    The flow draws well with guidance and many small steps: two evaluations each. The copy has its
    own few steps, from times[i] to times[i + 1]. It draws from noise as it will be used, and at
    each of its points x it learns where the guided flow, in ``substeps`` smaller steps, goes:

        | v_copy(x, times[i], embedding) - (x_guided(times[i+1]) - x) / (times[i+1] - times[i]) |^2

    Sources: Salimans & Ho 2022 (progressive distillation), Meng et al. 2023 (distilled guidance);
    the copy's own points, in place of those of the data, as in Ross et al. 2011 (DAgger).

    ``run`` is that of ``flow``; its encoder and decoder are written into the copy's run.
    """

    kind = "distil"

    def __init__(self, config: DistilConfig, pairs: FlowPairs, flow: Flow, *, run: Path) -> None:
        self._run = run
        self.teacher = flow.eval().requires_grad_(False)
        self.beside = [self.teacher]
        self._begin(config, pairs, copy.deepcopy(flow).requires_grad_(True), 0.0)

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        rate = self.config.rate * (1.0 - step / self.loop.steps)
        return self._learn(step, rate, rng, self._part, self._loss)

    def _part(self, rows: Tensor, rng: torch.Generator) -> Sequence[Tensor]:
        return self.pairs.draw(self.pairs.rows[rows, 0], self.config.jitter, rng)

    def _loss(self, part: Sequence[Tensor]) -> tuple[Tensor, Scalars]:
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
        return loss, {"loss": loss, "last": losses[-1]}

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

    def finish(self, run: Path) -> None:
        """Write ``flow.safetensors``, with the times of its steps, and beside it what taught it."""
        about = {
            "network": to_dict(self.flow.config), "times": list(self.config.times),
            "guidance": self.config.guidance, "taught_by": self.config.flow,
        }  # fmt: skip
        save_weights(run / "flow.safetensors", self.ema.average, about)
        parts = ("encoder", "picture_encoder", "latent_encoder", "latent_decoder")
        copy_weights(self._run, run, *parts, flow=TAUGHT_BY)


def load_flow(run: Path) -> tuple[Flow, dict[str, Any]]:
    """Load the flow of a finished run, in eval mode; return the JSON beside it, too."""
    return load_network(run / "flow.safetensors", Flow, FlowConfig)


def load_flow_generator(run: Path) -> FlowGenerator:
    """Load what draws pictures of a finished run.

    A few-step copy has its own times, and guidance folded in; a flow takes 16 even steps at 4.
    """
    flow, about = load_flow(run)
    decoder, _ = load_latent_decoder(run)
    if "times" in about:
        return FlowGenerator(flow, decoder, tuple(about["times"]), 1.0).eval()
    return FlowGenerator(flow, decoder, tuple(i / 16 for i in range(17)), 4.0).eval()
