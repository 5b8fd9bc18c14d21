"""Audio encoders: the contrastive one (no label, two towers) and the published autoencoder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from soundsight.core.config import from_dict, to_dict
from soundsight.core.errors import ConfigError, DataError
from soundsight.models.autoencoder import Autoencoder, AutoencoderConfig
from soundsight.models.contrastive import ContrastiveConfig, ContrastivePair, SoundEncoder
from soundsight.models.presets import preset
from soundsight.pairs.dataset import PairDataset, batch_indices
from soundsight.training.augment import augment_image, augment_mel
from soundsight.training.checkpoints import load_weights, read_tensors, save_weights
from soundsight.training.loop import LoopConfig, Task, channels_last, read_run
from soundsight.training.losses import info_nce

ENCODER_KINDS = ("contrastive", "autoencoder")

AudioEncoder = Autoencoder | SoundEncoder
"""Either has ``encode(mel [n, 1, 128, 100]) -> [n, E]`` and ``embedding_size``."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Training of an audio encoder.

    The published autoencoder is trained with SGD (rate .05, momentum .9, batch 64) for a thousand
    epochs and more; here both kinds share AdamW and one cycle, which gets further in minutes.

    Attributes:
        kind: ``contrastive`` or ``autoencoder``.
        preset: sizes of the network.
        learning_rate: AdamW's peak learning rate.
        weight_decay: AdamW's.
        warm_up: share of the steps in which the learning rate rises; it then falls as a cosine.
        loop: steps, batch and seed.
    """

    kind: str = "contrastive"
    preset: str = "compact"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warm_up: float = 0.1
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=400, batch_size=256))

    def __post_init__(self) -> None:
        if self.kind not in ENCODER_KINDS:
            raise ConfigError(
                f"unknown encoder {self.kind!r}; choose from {', '.join(ENCODER_KINDS)}"
            )
        if self.learning_rate <= 0 or self.weight_decay < 0 or not 0 <= self.warm_up <= 1:
            raise ConfigError(
                "learning_rate must be above 0, weight_decay not negative, warm_up in [0, 1]"
            )


def one_cycle(step: int, steps: int, warm_up: float) -> float:
    """Learning rate at ``step`` as a share of its peak: a line up, then half a cosine to zero."""
    rise = max(1, round(steps * warm_up))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def to_float(levels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1], the networks' range."""
    return levels.float() / 127.5 - 1.0


def to_levels(unit: Tensor) -> Tensor:
    """float32 in [-1, 1] -> uint8 0..255, rounded to nearest and clipped; undoes ``to_float``."""
    return ((unit + 1.0) * 127.5).round().clamp(0, 255).byte()


class EncoderTask(Task):
    """Fits one audio encoder on a split's pairs (the autoencoder looks at the sounds only)."""

    kind: ClassVar[str] = "encoder"

    def __init__(self, config: EncoderConfig, data: PairDataset) -> None:
        self.config, self.data = config, data
        torch.manual_seed(config.loop.seed)
        sizes = preset(config.preset)
        self.network: nn.Module = (
            ContrastivePair(sizes.contrastive)
            if config.kind == "contrastive"
            else Autoencoder(sizes.autoencoder)
        )
        channels_last(self.network)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )

    def networks(self) -> dict[str, nn.Module]:
        return {"encoder": self.network}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"encoder": self.optimizer}

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        loop = self.config.loop
        for group in self.optimizer.param_groups:
            share = one_cycle(step, loop.steps, self.config.warm_up)
            group["lr"] = self.config.learning_rate * share
        batch = self.data.gather(batch_indices(len(self.data), loop.batch_size, loop.seed, step))
        self.network.train()
        mel = to_float(batch.mel)
        scalars: dict[str, Tensor] = {}
        if isinstance(self.network, ContrastivePair):
            image = augment_image(to_float(batch.image), rng)
            sound, picture = self.network(augment_mel(mel, rng), image)
            loss = info_nce(sound, picture, batch.video, batch.photo, self.network.log_scale)
            scalars["temperature"] = (-self.network.log_scale).exp().detach()
        else:
            reconstruction, _ = self.network(mel)
            loss = (reconstruction - mel).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if isinstance(self.network, ContrastivePair):
            # A temperature under .02 only sharpens what is already memorised.
            with torch.no_grad():
                self.network.log_scale.clamp_(max=math.log(50.0))
        return {"loss": loss.detach(), **scalars}

    def pictures(self) -> Tensor | None:
        """Log-mels and, for the autoencoder, what it makes of them."""
        if not isinstance(self.network, Autoencoder):
            return None
        self.network.eval()
        mel = to_float(self.data.gather(range(min(8, len(self.data)))).mel)
        with torch.no_grad():
            shown = torch.cat([mel, self.network(mel)[0]])
        return to_levels(shown).expand(-1, 3, -1, -1)

    def finish(self, run: Path) -> None:
        """Write ``encoder.safetensors``: the sound tower, or the whole autoencoder."""
        network = self.network
        size = network.config
        kept = network.sound if isinstance(network, ContrastivePair) else network
        save_weights(
            run / "encoder.safetensors",
            kept,
            {"kind": self.config.kind, "preset": self.config.preset, "network": to_dict(size)},
        )
        if isinstance(network, ContrastivePair):
            save_weights(
                run / "picture_encoder.safetensors", network.picture, {"network": to_dict(size)}
            )


def load_encoder(folder: Path) -> AudioEncoder:
    """Load the audio encoder of a finished run (of an encoder or of a translator), in eval mode.

    Raises:
        DataError: when ``folder`` is no run folder, is not finished or is damaged.
    """
    about = read_run(folder)
    path = folder / "encoder.safetensors"
    if not path.exists():
        raise DataError(f"{folder} ({about['kind']}) is not finished: go on with its command first")
    _, meta = read_tensors(path)
    network: AudioEncoder
    if meta["kind"] == "contrastive":
        network = SoundEncoder(from_dict(ContrastiveConfig, meta["network"]))
    else:
        network = Autoencoder(from_dict(AutoencoderConfig, meta["network"]))
    load_weights(path, network)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def embed(encoder: AudioEncoder, data: PairDataset, batch_size: int = 256) -> Tensor:
    """Return the embedding of every pair of ``data``, float32 [len(data), E]."""
    parts = []
    for start in range(0, len(data), batch_size):
        rows = range(start, min(start + batch_size, len(data)))
        parts.append(encoder.encode(to_float(data.gather(rows).mel)))
    return torch.cat(parts)
