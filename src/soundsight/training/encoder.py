"""Audio encoders: the contrastive one (no label, two towers) and the published autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from soundsight.core.config import choose, to_dict
from soundsight.core.errors import ConfigError, DataError
from soundsight.data.store.dataset import PairDataset
from soundsight.models.contrastive import (
    FIRST_TEMPERATURE,
    ContrastiveConfig,
    ContrastivePair,
    SoundEncoder,
    limit_temperature,
)
from soundsight.models.ears import Ears, EarsConfig
from soundsight.models.presets import preset
from soundsight.models.published.autoencoder import EMBEDDING_LAYER, Autoencoder, AutoencoderConfig
from soundsight.training.augment import add_background, augment_image, augment_mel
from soundsight.training.checkpoints import Pretrained, load_network, read_tensors, save_weights
from soundsight.training.configs import EncoderConfig
from soundsight.training.devices import Devices
from soundsight.training.losses import info_nce
from soundsight.training.run_folder import read_run
from soundsight.training.trainer import Scalars, Task, adamw, channels_last, one_cycle, set_rate

AudioEncoder = Autoencoder | SoundEncoder | Ears
"""Each has ``encode(mel [n, 1, 128, 100]) -> [n, E]`` with ``embedding_size`` E, and
``features(mel) -> [n, F]`` with ``feature_size`` F, what the embedding is made from."""

_HELD_BACK = 0.3

_NETWORKS: dict[str, tuple[Callable[[Any], AudioEncoder], type]] = {
    "contrastive": (SoundEncoder, ContrastiveConfig),
    "autoencoder": (Autoencoder, AutoencoderConfig),
    "ears": (Ears, EarsConfig),
}


def to_float(levels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1], the networks' range."""
    return levels.float() / 127.5 - 1.0


def to_levels(unit: Tensor) -> Tensor:
    """float32 in [-1, 1] -> uint8 0..255, rounded to nearest and clipped; undoes ``to_float``."""
    return ((unit + 1.0) * 127.5).round().clamp(0, 255).byte()


class EncoderTask(Task):
    """Fits one audio encoder on a split's pairs (the autoencoder looks at the sounds only)."""

    kind = "encoder"

    def __init__(
        self, config: EncoderConfig, data: PairDataset, *, start: Pretrained | None = None
    ) -> None:
        self.config, self.loop, self.data = config, config.loop, data
        torch.manual_seed(config.loop.seed)
        sizes, size = preset(config.preset), config.embedding_size
        changes: dict[str, Any] = {} if size is None else {"embedding_size": size}
        self.network: nn.Module = (
            ContrastivePair(replace(sizes.contrastive, **changes))
            if config.kind == "contrastive"
            else Autoencoder(replace(sizes.autoencoder, **changes))
        )
        if start is not None:
            kind = start.about("encoder").get("kind")
            if kind != config.kind:
                raise DataError(f"{start.folder} has an encoder of kind {kind}, not {config.kind}")
            if isinstance(self.network, ContrastivePair):
                load_towers(start, self.network.sound, self.network.picture, self.network.log_scale)
            else:
                start.load("encoder", self.network)
        channels_last(self.network)
        self.networks = {"encoder": self.network}
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(
                self.network.parameters(), lr=config.learning_rate, momentum=config.momentum
            )
            if config.schedule == "published"
            else adamw(self.network, config.learning_rate, config.weight_decay)
        )
        self.optimizers = {"encoder": self.optimizer}

    def place(self, devices: Devices) -> None:
        super().place(devices)
        devices.compile(self.network)

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        loop = self.loop
        modern = self.config.schedule == "modern"
        share = one_cycle(step, loop.steps, self.config.warm_up) if modern else 1.0
        set_rate(self.optimizer, self.config.learning_rate * share)
        rows = self.data.rows(loop.batch_size, loop.seed, step)
        parts = self.devices.parts_of(rows, loop.accumulate)
        self.network.train()
        loss_of = self._contrast if isinstance(self.network, ContrastivePair) else self._redraw
        scalars = self.descend("gradient", self.optimizer, parts, partial(loss_of, rng=rng))
        if isinstance(self.network, ContrastivePair):
            limit_temperature(self.network.log_scale)
        return scalars

    def _contrast(self, rows: NDArray[np.int64], *, rng: torch.Generator) -> tuple[Tensor, Scalars]:
        """The contrast of these sounds with these pictures."""
        device, config = self.devices.device, self.config
        batch = self.data.gather(rows)
        image = augment_image(to_float(batch.image.to(device)), rng)
        mel = to_float(batch.mel.to(device))
        if config.other_sounds or config.noise or config.tilt:
            mel = add_background(
                mel, rng, sounds=config.other_sounds, noise=config.noise, tilt=config.tilt
            )
        mel = augment_mel(mel, rng)
        with self.devices.autocast():
            sound, picture = self.network(mel, image)
        log_scale = cast(Tensor, self.network.log_scale)
        video, photo = batch.video.to(device), batch.photo.to(device)
        loss = info_nce(sound.float(), picture.float(), video, photo, log_scale)
        return loss, {"loss": loss, "temperature": (-log_scale).exp()}

    def _redraw(self, rows: NDArray[np.int64], *, rng: torch.Generator) -> tuple[Tensor, Scalars]:
        """What the autoencoder makes of these sounds."""
        mel = to_float(self.data.gather(rows).mel.to(self.devices.device))
        if self.config.schedule == "modern":
            # Masks would be drawn again as if they were sound: shift and gain alone.
            mel = augment_mel(mel, rng, masks=0)
        with self.devices.autocast():
            reconstruction, _ = self.network(mel)
        loss = (reconstruction.float() - mel).square().mean()
        return loss, {"loss": loss}

    def pictures(self) -> Tensor | None:
        """Log-mels and, for the autoencoder, what it makes of them."""
        if not isinstance(self.network, Autoencoder):
            return None
        self.network.eval()
        mels = self.data.gather(range(min(8, len(self.data)))).mel
        mel = to_float(mels.to(self.devices.device))
        with torch.no_grad():
            shown = torch.cat([mel, self.network(mel)[0]])
        return to_levels(shown).expand(-1, 3, -1, -1)

    def finish(self, run: Path) -> None:
        """Write ``encoder.safetensors``: the sound tower, or the whole autoencoder."""
        network, sizes = self.network, to_dict(self.network.config)
        about = {"kind": self.config.kind, "preset": self.config.preset, "network": sizes}
        if not isinstance(network, ContrastivePair):
            save_weights(run / "encoder.safetensors", network, about)
            return
        save_weights(run / "encoder.safetensors", network.sound, about)
        temperature = float((-network.log_scale.detach()).exp())
        beside = {"network": sizes, "temperature": temperature}
        save_weights(run / "picture_encoder.safetensors", network.picture, beside)


@torch.no_grad()
def load_towers(
    start: Pretrained, sound: nn.Module, picture: nn.Module, log_scale: Tensor
) -> dict[str, Any]:
    """Load both sides of a contrast, and its temperature; return the JSON beside the pictures'."""
    start.load("encoder", sound)
    about = start.load("picture_encoder", picture)
    log_scale.fill_(-math.log(about.get("temperature", FIRST_TEMPERATURE)))
    return about


def load_encoder(folder: Path) -> AudioEncoder:
    """Load the audio encoder of a finished run or of a model folder with its weights, in eval mode.

    DataError when ``folder`` is neither, is not finished or is damaged.
    """
    path = folder / "encoder.safetensors"
    if not path.exists():
        about = read_run(folder)
        raise DataError(f"{folder} ({about['kind']}) is not finished: go on with its command first")
    try:
        kind, sizes = choose("encoder", read_tensors(path)[1]["kind"], _NETWORKS)
    except (KeyError, ConfigError) as error:
        raise DataError(f"{path.with_suffix('.json')} is damaged: {error}") from error
    return load_network(path, kind, sizes)[0]


def condition(
    encoder: AudioEncoder, mel: Tensor, source: int = EMBEDDING_LAYER
) -> Float[Tensor, "n c"]:
    """Return a generator's condition of each log-mel [n, 1, 128, 100], in [-1, 1].

    Only an autoencoder has an earlier ``source`` than the embedding (``Autoencoder.condition``).
    """
    if isinstance(encoder, Autoencoder):
        return encoder.condition(mel, source)
    return encoder.encode(mel)


@torch.no_grad()
def standardised(encoder: Autoencoder, embeddings: Float[Tensor, "pairs E"]) -> Autoencoder:
    """Return a copy of an encoder that whitens its embeddings and gives each the same length.

    An autoencoder's embeddings differ most in how loud sounds are, and a few silent seconds lie far
    from all others; a generator that ends every layer in a BatchNorm then hardly sees the rest.
    Axes of little variance are held back: their variance is raised by .3 of the mean over axes.

    Args:
        embeddings: those of the training pairs, by ``encoder`` as it is.
    """
    network = Autoencoder(replace(encoder.config, standardised=True)).to(embeddings.device)
    network.load_state_dict(encoder.state_dict(), strict=False)
    exact = embeddings.double()
    mean = exact.mean(dim=0)
    variances, axes = torch.linalg.eigh(torch.cov((exact - mean).T))
    # Their size does not matter, as embeddings get one length; half precision holds up to 1.
    scale = (variances + _HELD_BACK * variances.mean()).rsqrt()
    scale = scale / scale.max()
    network.get_buffer("embedding_mean").copy_(mean)
    network.get_buffer("embedding_whitening").copy_(axes * scale @ axes.T)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def embed(
    encoder: AudioEncoder, data: PairDataset, *, batch_size: int = 256
) -> Float[Tensor, "pairs E"]:
    """Return the embedding of every pair of ``data``, float32, on the encoder's device."""
    device = next(encoder.parameters()).device
    starts = range(0, len(data), batch_size)
    batches = (data.gather(range(s, min(s + batch_size, len(data)))) for s in starts)
    return torch.cat([encoder.encode(to_float(batch.mel.to(device))) for batch in batches])
