"""What ears are trained on, without a label: seconds by number, photos by number, and who has whom.

Everything lies in one folder beside the runs: the bank of copies, the photos' features, the pairs
table and the teacher's features. It is made when it is first needed.

Of a prepared dataset each frame belongs to its very second, and the frames of a video are all
photos of one recording. Its sounds are spectrograms: they have no copies, and no teacher hears
them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import DataError
from soundsight.core.files import sha256_of
from soundsight.data.everyday.folder import BENCH_PREFIX, SUBJECTS, Everyday, photos_of, read_photo
from soundsight.data.everyday.pairs import checked_pairs, make_pairs, write_pairs
from soundsight.data.everyday.sounds import HALF_SECOND, recording_ids
from soundsight.data.store.dataset import PairDataset
from soundsight.data.vegas.bench import Bench
from soundsight.models.eyes import NETWORKS
from soundsight.training.configs import BankConfig, MixtureConfig
from soundsight.training.kept import Tell, tell_nothing
from soundsight.training.photo_features import EYES, photo_features
from soundsight.training.sound_bank import SoundBank, open_bank
from soundsight.training.teacher import TeacherTargets, open_targets

PAIRS_TABLE = "pairs.csv"


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
    photos_of: list[NDArray[np.int64]]  #: photos of each recording, a list of int64 arrays
    #: seconds of each recording that has no photos, a list of int64 arrays
    alone: list[NDArray[np.int64]]
    alone_recording: NDArray[np.int64]  #: number of each such recording, int64
    #: the teacher's features of the waveforms' seconds and of mixtures; or None
    targets: TeacherTargets | None
    eyes: str  #: hash of the network that saw the photos
    digest: str  #: a hash of the pairs and of the bank's settings

    @property
    def waveforms(self) -> int:
        """B: seconds that have copies."""
        return 0 if self.bank is None else len(self.bank)

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

    Args:
        config: of the bank; its seed deals the photos too.
        teacher: its ONNX file, or None.
        mixtures: what else the teacher hears; None for nothing.

    Raises:
        DataError: when data are missing or damaged.
        ConfigError: when the folder was made with other settings, or the eyes are not installed.
        OutputError: when ``folder`` cannot be written to.
    """
    bank = open_bank(folder, everyday, config, tell)
    photo_names = sorted(n for of in photos_of(everyday, bench, "train").values() for n in of)
    features = photo_features(
        folder, photo_names, lambda name: read_photo(everyday, bench, name), tell=tell
    )
    targets = None
    if teacher is not None:
        targets = open_targets(folder, everyday, bank, config, teacher, mixtures, tell)

    table = folder / PAIRS_TABLE
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
    pair_photo = np.array([photo_numbers[pair.photo] for pair in pairs], np.int64)
    # Recordings are told apart over everything, those without photos too.
    names = [pair.video for pair in pairs] + [sound.recording for sound in bank.sounds]
    recordings = recording_ids(names)
    pair_recording, of_sound = recordings[: len(pairs)], recordings[len(pairs) :]
    alone = _without_photos(bank, of_sound)
    digest = sha256_of(table) + str(features.shape) + str(config)
    return EarsData(
        bank=bank,
        spectrograms=np.stack(
            [bench.spectrogram(name.removeprefix(BENCH_PREFIX)) for name in of_bench]
        ),
        photos=features,
        pair_second=pair_second,
        pair_photo=pair_photo,
        pair_recording=pair_recording,
        photos_of=_dealt(pair_recording, pair_photo),
        alone=list(alone.values()),
        alone_recording=np.array(list(alone), np.int64),
        targets=targets,
        eyes=NETWORKS[EYES].sha256,
        digest=hashlib.sha256(digest.encode()).hexdigest(),
    )


def prepared_ears_data(
    folder: Path,
    pairs: PairDataset,
    digest: str,
    *,
    tell: Tell = tell_nothing,
) -> EarsData:
    """Return what ears are trained on of pairs of a second with its own frame.

    Args:
        folder: where the photos' features are kept.
        pairs: the pairs; one that is there several times counts as often.
        digest: a hash that says which pairs these are.

    Raises:
        ConfigError: when the eyes are not installed.
        DataError: when a pair is damaged.
        OutputError: when ``folder`` cannot be written to.
    """
    pair, video, photo = pairs.numbers().T
    _, rows, pair_second = np.unique(pair, return_index=True, return_inverse=True)
    photos, photo_rows, pair_photo = np.unique(photo, return_index=True, return_inverse=True)
    names = [f"{digest} {number}" for number in photos]
    row_of = {name: int(row) for name, row in zip(names, photo_rows, strict=True)}
    pair_recording = np.unique(video, return_inverse=True)[1]
    return EarsData(
        bank=None,
        spectrograms=np.stack([pairs.mel(int(row)) for row in rows]),
        photos=photo_features(folder, names, lambda name: pairs.image(row_of[name]), tell=tell),
        pair_second=pair_second,
        pair_photo=pair_photo,
        pair_recording=pair_recording,
        photos_of=_dealt(pair_recording, pair_photo),
        alone=[],
        alone_recording=np.zeros(0, np.int64),
        targets=None,
        eyes=NETWORKS[EYES].sha256,
        digest=digest,
    )


def joined(first: EarsData, second: EarsData) -> EarsData:
    """Return two sets as one, numbered one after the other; the second has no waveforms."""
    seconds = first.waveforms + len(first.spectrograms)
    recordings = 1 + int(np.concatenate([first.pair_recording, first.alone_recording]).max())
    # Recordings without photos have numbers too.
    none = [np.zeros(0, np.int64)] * (recordings - len(first.photos_of))
    photos = first.photos.shape[1]
    return EarsData(
        bank=first.bank,
        spectrograms=np.concatenate([first.spectrograms, second.spectrograms]),
        photos=np.concatenate([first.photos, second.photos], axis=1),
        pair_second=np.concatenate([first.pair_second, second.pair_second + seconds]),
        pair_photo=np.concatenate([first.pair_photo, second.pair_photo + photos]),
        pair_recording=np.concatenate([first.pair_recording, second.pair_recording + recordings]),
        photos_of=first.photos_of + none + [own + photos for own in second.photos_of],
        alone=first.alone,
        alone_recording=first.alone_recording,
        targets=first.targets,
        eyes=first.eyes,
        digest=hashlib.sha256(f"{first.digest} {second.digest}".encode()).hexdigest(),
    )


def _dealt(recording: NDArray[np.int64], photo: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the photos of each recording, from the recording and the photo of each pair."""
    photos: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * (int(recording.max()) + 1)
    order = np.argsort(recording, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(recording[order])) + 1):
        photos[recording[rows[0]]] = np.unique(photo[rows])
    return photos


def _without_photos(bank: SoundBank, of_sound: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Return the seconds of each recording that has no photos, by the recording's number."""
    found: dict[int, list[int]] = {}
    for row, sound in enumerate(bank.sound):
        if bank.sounds[sound].kind not in SUBJECTS:
            found.setdefault(int(of_sound[sound]), []).append(row)
    return {number: np.array(rows, np.int64) for number, rows in found.items()}
