"""What ears are trained on, without a label: seconds by number, photos by number, and who has whom.

Everything lies in one folder beside the runs: the bank of copies, the photos' features (what frozen
eyes see of every photo, in several views), the pairs table and the teacher's features. It is made
when it is first needed.

Of a prepared dataset each frame belongs to its very second, and the frames of a video are all
photos of one recording. Its sounds are spectrograms: they have no copies, and no teacher hears
them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from soundsight.core.errors import DataError
from soundsight.core.files import sha256_of
from soundsight.data.everyday.folder import BENCH_PREFIX, SUBJECTS, Everyday, photos_of, read_photo
from soundsight.data.everyday.pairs import checked_pairs, make_pairs, write_pairs
from soundsight.data.everyday.sounds import HALF_SECOND, recording_ids
from soundsight.data.store.dataset import PairDataset
from soundsight.data.vegas.bench import Bench
from soundsight.models.eyes import POOLED_SIZE, Eyes
from soundsight.training.augment import augment_image
from soundsight.training.configs import BankConfig, MixtureConfig
from soundsight.training.encoder import to_float
from soundsight.training.kept import Arrays, Tell, kept_arrays, tell_nothing
from soundsight.training.sound_bank import SoundBank
from soundsight.training.teacher import TeacherTargets

EYES = "lite0"
"""Whose eyes training sees photos through."""

EYES_PX = 128
"""Side at which the eyes look at photos of 96 pixels."""

_VIEWS = 2  # the photo itself, and once with another crop, flip and colour
_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class EarsData:
    """Seconds, photos and pairs, all by number."""

    #: the waveforms' seconds, in copies: seconds 0 .. B - 1; None where there are none.
    bank: SoundBank | None
    #: those of bench and datasets, uint8 [m, 128, 100]: seconds B .. B + m - 1.
    spectrograms: NDArray[np.uint8]
    #: features of the photos in several views, float16 [views, p, 1280]
    photos: NDArray[np.float16]
    pair_second: NDArray[np.int64]  #: second of each pair, int64 [r]
    pair_photo: NDArray[np.int64]  #: photo of each pair, int64 [r]
    pair_recording: NDArray[np.int64]  #: recording of each pair, int64 [r]
    #: seconds of each recording that has no photos, a list of int64 arrays
    alone: Sequence[NDArray[np.int64]] = ()
    #: the teacher's features of the waveforms' seconds and of mixtures; or None
    targets: TeacherTargets | None = None
    digest: str  #: a hash of the pairs and of the bank's settings

    @property
    def waveforms(self) -> int:
        """B: seconds that have copies."""
        return 0 if self.bank is None else len(self.bank)

    @cached_property
    def photos_of(self) -> list[NDArray[np.int64]]:
        """Photos of each recording."""
        photos: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * (self.pair_recording.max() + 1)
        order = np.argsort(self.pair_recording, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(self.pair_recording[order])) + 1):
            photos[self.pair_recording[rows[0]]] = np.unique(self.pair_photo[rows])
        return photos

    def mels(self, seconds: NDArray[np.int64], copies: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return seconds, those of the bank in the copies that are named: uint8 [n, 128, 100]."""
        waveform = seconds < self.waveforms
        mels = np.empty((len(seconds), *self.spectrograms.shape[1:]), np.uint8)
        if self.bank is not None and waveform.any():
            mels[waveform] = self.bank.take(seconds[waveform], copies[waveform])
        mels[~waveform] = self.spectrograms[seconds[~waveform] - self.waveforms]
        return mels


def open_ears_data(
    folder: Path,
    everyday: Everyday,
    bench: Bench,
    config: BankConfig,
    *,
    teacher: Path | None = None,
    mixtures: MixtureConfig | None = None,
    tell: Tell = tell_nothing,
) -> EarsData:
    """Open what ears are trained on, and make what is not there yet.

    ``config`` is the bank's, and its seed deals the photos too; ``teacher`` is an ONNX file, and
    ``mixtures`` what else it hears. ConfigError when the folder was made with other settings or the
    eyes are not installed, DataError when data are missing or damaged.
    """
    bank = SoundBank(folder, everyday, config, tell)
    photo_names = sorted(n for of in photos_of(everyday, bench, "train").values() for n in of)
    features = photo_features(
        folder, photo_names, lambda name: read_photo(everyday, bench, name), tell
    )
    targets = None
    if teacher is not None:
        targets = TeacherTargets(folder, everyday, bank, config, teacher, mixtures, tell)
    table = folder / "pairs.csv"
    if not table.exists():
        write_pairs(table, make_pairs(everyday, bench, bank.seconds(), "train", seed=config.seed))
    pairs = checked_pairs(everyday, bench, table, "train")
    of_bench = sorted({p.spectrogram for p in pairs if p.spectrogram.startswith(BENCH_PREFIX)})
    numbers = {
        f"{bank.sounds[sound].file}@{first // HALF_SECOND}": row
        for row, (sound, first) in enumerate(zip(bank.sound, bank.first, strict=True))
    } | {name: len(bank) + row for row, name in enumerate(of_bench)}
    photo_numbers = {name: row for row, name in enumerate(photo_names)}
    try:
        pair_second = np.array([numbers[pair.spectrogram] for pair in pairs], np.int64)
    except KeyError as error:
        raise DataError(f"{table} names a second that cannot be heard: {error}") from None
    alone: dict[str, list[int]] = {}
    for row, sound in enumerate(bank.sound):
        if bank.sounds[sound].kind not in SUBJECTS:
            alone.setdefault(bank.sounds[sound].recording, []).append(row)
    digest = sha256_of(table) + str(features.shape) + str(config)
    return EarsData(
        bank=bank,
        spectrograms=np.stack(
            [bench.spectrogram(name.removeprefix(BENCH_PREFIX)) for name in of_bench]
        ),
        photos=features,
        pair_second=pair_second,
        pair_photo=np.array([photo_numbers[pair.photo] for pair in pairs], np.int64),
        pair_recording=recording_ids(pair.video for pair in pairs),
        alone=[np.array(rows, np.int64) for rows in alone.values()],
        targets=targets,
        digest=hashlib.sha256(digest.encode()).hexdigest(),
    )


def prepared_ears_data(
    folder: Path, pairs: PairDataset, digest: str, *, tell: Tell = tell_nothing
) -> EarsData:
    """Return what ears are trained on of pairs of a second with its own frame.

    A pair that is there several times counts as often. ``folder`` keeps the photos' features,
    ``digest`` says which pairs these are. Errors are those of :func:`open_ears_data`.
    """
    pair, video, photo = pairs.numbers().T
    _, rows, pair_second = np.unique(pair, return_index=True, return_inverse=True)
    photos, photo_rows, pair_photo = np.unique(photo, return_index=True, return_inverse=True)
    row_of = {f"{digest} {n}": int(row) for n, row in zip(photos, photo_rows, strict=True)}
    return EarsData(
        bank=None,
        spectrograms=np.stack([pairs.mel(int(row)) for row in rows]),
        photos=photo_features(folder, list(row_of), lambda name: pairs.image(row_of[name]), tell),
        pair_second=pair_second,
        pair_photo=pair_photo,
        pair_recording=np.unique(video, return_inverse=True)[1],
        digest=digest,
    )


def joined(first: EarsData, second: EarsData) -> EarsData:
    """Return two sets as one, numbered one after the other; the second has no waveforms."""
    seconds, photos = first.waveforms + len(first.spectrograms), first.photos.shape[1]
    recordings = 1 + first.pair_recording.max()
    return EarsData(
        bank=first.bank,
        spectrograms=np.concatenate([first.spectrograms, second.spectrograms]),
        photos=np.concatenate([first.photos, second.photos], axis=1),
        pair_second=np.concatenate([first.pair_second, second.pair_second + seconds]),
        pair_photo=np.concatenate([first.pair_photo, second.pair_photo + photos]),
        pair_recording=np.concatenate([first.pair_recording, second.pair_recording + recordings]),
        alone=first.alone,
        targets=first.targets,
        digest=hashlib.sha256(f"{first.digest} {second.digest}".encode()).hexdigest(),
    )


@torch.no_grad()
def look(eyes: Eyes, image: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 1280"]:
    """Return the pooled features of pictures in [-1, 1], enlarged to what the eyes look at."""
    large = F.interpolate(
        image, size=(EYES_PX, EYES_PX), mode="bicubic", align_corners=False, antialias=False
    )
    return eyes.pooled(large.clamp(-1, 1))


def photo_features(
    folder: Path, names: Sequence[str], read: Callable[[str], NDArray[np.uint8]], tell: Tell
) -> NDArray[np.float16]:
    """Return the pooled features of photos, from ``folder`` or made now: float16 [2, n, 1280].

    The first view is the photo itself. ``read`` takes a name, and gives uint8 [96, 96, 3].
    """
    eyes = Eyes.load(EYES)

    def make() -> Arrays:
        features = np.empty((_VIEWS, len(names), POOLED_SIZE), np.float16)
        for start in range(0, len(names), _AT_ONCE):
            part = slice(start, min(start + _AT_ONCE, len(names)))
            levels = torch.from_numpy(np.stack([read(name) for name in names[part]]))
            image = to_float(levels.permute(0, 3, 1, 2))
            for view in range(_VIEWS):
                rng = torch.Generator().manual_seed(_VIEWS * start + view)
                seen = augment_image(image, rng, zoom=0.3) if view else image
                features[view, part] = look(eyes, seen).half().numpy()
            tell("photos seen", part.stop, len(names))
        return {"features": features}

    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    made_of = {"eyes": eyes.sha256, "photos": digest, "views": _VIEWS, "px": EYES_PX}
    return kept_arrays(folder / "photos.npz", made_of, make)["features"]
