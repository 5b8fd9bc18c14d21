"""A space of sounds and pictures for retrieval that no translator was trained against.

Two towers fitted by contrast on the train pairs whose photo is in the judges' fold
(:func:`soundsight.training.coherence.fit_pair`), without a label. The encoders that translators
are frozen on are fitted with other seeds, and on all pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from soundsight.core.config import check_values
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.units import FRAMES_PER_SEGMENT, N_MELS
from soundsight.data.vegas.bench import SUBJECTS, Bench, fold_of
from soundsight.judges.pictures import check_pictures, mean_over_classes
from soundsight.models.contrastive import ContrastiveConfig, ContrastivePair
from soundsight.training.coherence import CoherenceConfig
from soundsight.training.encoder import to_float

CANDIDATES_A_CLASS = 20
"""Photos of each class among which a sound's is looked for."""

_AT_ONCE = 256
_FEWEST = 16


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """How the two towers are fitted."""

    passes: float = 20.0  #: times each pair is seen
    batch_size: int = 128  #: pairs a batch; at most half of the pairs
    learning_rate: float = 2e-3  #: AdamW's peak
    weight_decay: float = 1e-2
    frames_pooled: int = 2  #: neighbouring 10-ms frames averaged into one before the sound tower
    picture_px: int = 64  #: side to which pictures are shrunk before the picture tower
    network: ContrastiveConfig = field(
        default_factory=lambda: ContrastiveConfig(
            embedding_size=64, sound_maps=(16, 32, 48, 64, 96), picture_maps=(16, 32, 48, 64, 96)
        )
    )

    def __post_init__(self) -> None:
        check_values(self, above_0="passes", at_least_1="frames_pooled")
        if self.frames_pooled > 4:
            raise ConfigError("frames_pooled must lie in 1 .. 4")
        self.coherence(bfloat16=False)  # checks the other limits

    def steps(self, pairs: Sized) -> int:
        """Return the number of batches, at least 2."""
        return max(2, round(self.passes * len(pairs) / self.batch_size))

    def coherence(self, *, bfloat16: bool) -> CoherenceConfig:
        """Return these settings as :func:`fit_pair` takes them."""
        return CoherenceConfig(
            batch_size=self.batch_size, learning_rate=self.learning_rate,
            weight_decay=self.weight_decay, frames_pooled=self.frames_pooled,
            picture_px=self.picture_px, bfloat16=bfloat16, network=self.network,
        )  # fmt: skip


class FoldPairs:
    """The pairs of a split whose photo is in one fold, in memory; a ``coherence.Pairs``.

    Raises:
        DataError: when there are too few.
    """

    def __init__(self, bench: Bench, split: str, fold: int) -> None:
        pairs = [pair for pair in bench.pairs(split) if fold_of(pair.photo) == fold]
        if len(pairs) < _FEWEST:
            raise DataError(f"{len(pairs)} {split} pairs are too few to learn a space from")
        self.videos = np.unique([pair.video for pair in pairs], return_inverse=True)[1]
        members, self.photos = np.unique([pair.photo for pair in pairs], return_inverse=True)
        self.mels = np.stack([bench.spectrogram(pair.spectrogram) for pair in pairs])
        self.images = np.stack([bench.photo(str(member)) for member in members])

    def __len__(self) -> int:
        return len(self.mels)

    def gather(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return log-mels uint8 [k, 128, 100] and pictures uint8 [k, 96, 96, 3]."""
        return self.mels[indices], self.images[self.photos[indices]]


class AudioVisualSpace:
    """Unit vectors of sounds and pictures; the nearer, the better they go together."""

    def __init__(self, network: ContrastivePair, config: SpaceConfig) -> None:
        self.network, self._config = network, config

    def sounds(self, mels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return unit vectors float32 [n, e] of log-mels uint8 [n, 128, 100].

        Raises:
            DataError: when the log-mels have another size or type.
        """
        if mels.dtype != np.uint8 or mels.shape[1:] != (N_MELS, FRAMES_PER_SEGMENT):
            raise DataError(
                f"log-mels must be uint8 [n, {N_MELS}, {FRAMES_PER_SEGMENT}], not "
                f"{mels.dtype} {list(mels.shape)}"
            )

        def look(levels: Tensor) -> Tensor:
            pooled = F.avg_pool2d(to_float(levels)[:, None], (1, self._config.frames_pooled))
            return self.network.sound(pooled)

        return self._in_chunks(look, mels)

    def pictures(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return unit vectors float32 [n, e] of pictures uint8 [n, 96, 96, 3].

        Raises:
            DataError: when the pictures have another size or type.
        """
        check_pictures(images)
        side = (self._config.picture_px, self._config.picture_px)

        def look(levels: Tensor) -> Tensor:
            pictures = to_float(levels).permute(0, 3, 1, 2)
            if pictures.shape[2:] != side:
                pictures = F.interpolate(pictures, size=side, mode="bilinear", antialias=True)
            return self.network.picture(pictures)

        return self._in_chunks(look, images)

    def _in_chunks(
        self, look: Callable[[Tensor], Tensor], levels: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        result = np.empty((len(levels), self.network.embedding_size), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(levels), _AT_ONCE):
                chunk = slice(start, start + _AT_ONCE)
                # A copy, as what was read may be read-only.
                batch = torch.from_numpy(np.array(levels[chunk]))
                result[chunk] = F.normalize(look(batch), dim=1).numpy()
        return result


def class_precision(
    sounds: NDArray[np.float32],
    of_sound: Sequence[str],
    pictures: NDArray[np.float32],
    of_picture: Sequence[str],
    seed: int,
) -> dict[str, float]:
    """Retrieve a photo for each sound among 20 of each class, and say how often its class is right.

    Of unit vectors [n, e] and [m, e]; where a class has fewer than 20 photos, all of them stand by.
    The seed draws the candidates anew for each sound. By subject of the sound, and ``mean`` over
    subjects.
    """
    rng = np.random.default_rng((seed, 3))
    classes = [np.flatnonzero(np.asarray(of_picture) == subject) for subject in SUBJECTS]
    likeness, right = sounds @ pictures.T, np.empty(len(sounds), dtype=np.bool_)
    for row, subject in enumerate(of_sound):
        drawn = [rng.permutation(members)[:CANDIDATES_A_CLASS] for members in classes]
        candidates = np.concatenate(drawn)
        best = candidates[int(likeness[row, candidates].argmax())]
        right[row] = of_picture[best] == subject
    return mean_over_classes(right, of_sound)


def val_precision(
    space: AudioVisualSpace, bench: Bench, photos: Sequence[NDArray[np.uint8]], seed: int
) -> dict[str, float]:
    """Return :func:`class_precision` of every val sound among val photos.

    ``photos`` are by class, in the order of SUBJECTS: uint8 [n_c, 96, 96, 3] each.
    """
    pairs = bench.pairs("val")
    mels = np.stack([bench.spectrogram(pair.spectrogram) for pair in pairs])
    of_photo = np.repeat(SUBJECTS, [len(some) for some in photos]).tolist()
    return class_precision(
        space.sounds(mels), [pair.subject for pair in pairs],
        space.pictures(np.concatenate(list(photos))), of_photo, seed,
    )  # fmt: skip
