"""What the flow learns from: sounds embedded and photos encoded, once, by networks that stay so.

Kept on disk, and made anew when encoder, decoder or pairs are others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from soundsight.core.files import sha256_of
from soundsight.models.decoder import LATENT_SIDE, LatentEncoder
from soundsight.models.eyes import Eyes
from soundsight.training.augment import augment_image
from soundsight.training.configs import EarsTrainingConfig
from soundsight.training.decoder import load_latent_encoder
from soundsight.training.ears import in_other_rooms
from soundsight.training.ears_data import EarsData
from soundsight.training.encoder import AudioEncoder, load_encoder, to_float
from soundsight.training.kept import Tell, kept_arrays, tell_nothing
from soundsight.training.photo_features import EYES

COPIES = 4
"""Of every second: as it is, and in other rooms, bands and noises."""
CUTS = 6
"""Of every photo: as it is, and mirrored, enlarged and shifted."""

_AT_ONCE = 256
_ZOOM, _SHIFT = 0.2, 0.05

Mels = Callable[[NDArray[np.int64], int, torch.Generator], Float[Tensor, "n 1 128 100"]]
"""(seconds, number of the copy, source of randomness) -> log-mels in [-1, 1]; copy 0 is clean."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowPairs:
    """Embedded sounds, encoded photos, and which go together."""

    #: of every second in several copies, [copies, seconds, E]
    embeddings: Float[Tensor, "copies seconds e"]
    #: of every photo in several cuts, [cuts, photos, L, 6, 6]
    latents: Float[Tensor, "cuts photos l 6 6"]
    rows: Int64[Tensor, "pairs 2"]  #: the pairs: numbers of second and photo, [pairs, 2]
    digest: str = ""  #: a hash of what they were made of

    def __len__(self) -> int:
        return len(self.rows)


def open_flow_pairs(
    folder: Path,
    sounds: dict[str, str],
    pictures: dict[str, str],
    seconds: NDArray[np.int64],
    photos: NDArray[np.int64],
    make_embeddings: Callable[[NDArray[np.int64]], Tensor],
    make_latents: Callable[[], Tensor],
) -> FlowPairs:
    """Return the pairs that are kept in ``folder``, or make them.

    Args:
        sounds: hashes of what the embeddings are made of; others than those that are kept make
            them anew.
        pictures: likewise of the latent pictures.
        seconds: the second of each pair, [pairs].
        photos: the photo of each pair, [pairs].
        make_embeddings: distinct seconds -> :attr:`FlowPairs.embeddings`.
        make_latents: -> :attr:`FlowPairs.latents`.

    Raises:
        DataError: when what is kept is damaged.
        OutputError: when it cannot be written.
    """
    distinct, number = np.unique(seconds, return_inverse=True)
    rows = np.stack([number.reshape(-1), photos], axis=1)
    sounds = {**sounds, "seconds": hashlib.sha256(distinct.tobytes()).hexdigest()}
    about = [sorted(sounds.items()), sorted(pictures.items()), rows.tobytes()]
    latents, embeddings = (
        kept_arrays(folder / f"{name}.npz", made_of, make)[name]
        for name, made_of, make in (
            ("latents", pictures, lambda: {"latents": make_latents().numpy()}),
            ("embeddings", sounds, lambda: {"embeddings": make_embeddings(distinct).numpy()}),
        )
    )
    return FlowPairs(
        latents=torch.from_numpy(latents),
        embeddings=torch.from_numpy(embeddings),
        rows=torch.from_numpy(rows),
        digest=hashlib.sha256(str(about).encode()).hexdigest(),
    )


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

    Args:
        data: seconds, photos and pairs.
        encoder_run: a finished run with the ears.
        decoder_run: a finished run with the encoder of latent pictures.
        photos: reads those of ``data``, in its order: uint8 [p, 3, 96, 96].

    Raises:
        DataError: when a run is not finished, or was trained through other eyes.
        OutputError: when ``folder`` cannot be written to.
    """
    encoder = load_encoder(encoder_run)
    eyes = Eyes.load(EYES)
    latents, about = load_latent_encoder(decoder_run, eyes)
    sounds = {"encoder": sha256_of(encoder_run / "encoder.safetensors"), "data": data.digest}
    pictures = {"decoder": about["sha256"], "data": data.digest}

    def mels(seconds: NDArray[np.int64], copy: int, rng: torch.Generator) -> Tensor:
        copies = torch.zeros(len(seconds), dtype=torch.int64)
        if copy and data.bank is not None:
            copies = torch.randint(1, data.bank.copies + 1, (len(seconds),), generator=rng)
        mel = to_float(torch.from_numpy(data.mels(seconds, copies.numpy()))[:, None])
        if copy:
            narrows = torch.from_numpy(seconds >= data.waveforms)
            mel = in_other_rooms(mel, narrows, EarsTrainingConfig(), rng)
        return mel

    return open_flow_pairs(
        folder, {**sounds, "seed": str(seed)}, {**pictures, "seed": str(seed)}, data.pair_second,
        data.pair_photo, lambda seconds: embed_copies(encoder, mels, seconds, seed=seed, tell=tell),
        lambda: encode_cuts(latents, eyes, torch.from_numpy(photos()), seed=seed, tell=tell),
    )  # fmt: skip


@torch.no_grad()
def embed_copies(
    encoder: AudioEncoder, mels: Mels, seconds: NDArray[np.int64], *, seed: int, tell: Tell
) -> Float[Tensor, "copies seconds e"]:
    """Return the embeddings of seconds in ``COPIES`` copies, float16."""
    found = torch.empty(COPIES, len(seconds), encoder.embedding_size, dtype=torch.float16)
    for copy in range(COPIES):
        rng = torch.Generator().manual_seed(seed * COPIES + copy)
        for start in range(0, len(seconds), _AT_ONCE):
            part = slice(start, min(start + _AT_ONCE, len(seconds)))
            found[copy, part] = encoder.encode(mels(seconds[part], copy, rng)).half()
            tell("sounds embedded", copy * len(seconds) + part.stop, COPIES * len(seconds))
    return found


@torch.no_grad()
def encode_cuts(
    encoder: LatentEncoder, eyes: Eyes, photos: UInt8[Tensor, "p 3 96 96"], *, seed: int, tell: Tell
) -> Float[Tensor, "cuts p l 6 6"]:
    """Return the means of the latent pictures of photos in ``CUTS`` cuts, float16."""
    size = (CUTS, len(photos), encoder.config.latent_maps, LATENT_SIDE, LATENT_SIDE)
    found = torch.empty(size, dtype=torch.float16)
    for cut in range(CUTS):
        rng = torch.Generator().manual_seed(seed * CUTS + cut)
        for start in range(0, len(photos), _AT_ONCE):
            part = slice(start, min(start + _AT_ONCE, len(photos)))
            image = to_float(photos[part])
            if cut:
                image = augment_image(image, rng, zoom=_ZOOM, shift=_SHIFT, colour=0.0)
            image = image.contiguous(memory_format=torch.channels_last)
            found[cut, part] = encoder(image, eyes(image))[0].half()
            tell("photos encoded", cut * len(photos) + part.stop, CUTS * len(photos))
    return found
