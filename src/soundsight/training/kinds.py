"""Seconds of Everyday with what they are, heard by finished ears: for label head and ood score.

Labels are read here after all other training is done: no label reaches ears, decoder or flow.
Every sound is heard in its whole band and as recorded at 16 and 8 kHz, as telephones and old
collections have it; the bench's seconds, which are no waveforms, lose the bands above instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import sha256_of
from soundsight.core.units import FRAMES_PER_SEGMENT, N_MELS
from soundsight.data.everyday.folder import ALERTS, WORDS, Everyday, bench_kind
from soundsight.data.everyday.sounds import (
    HALF_SECOND,
    audible,
    darkened,
    read_seconds,
    seconds_of_file,
)
from soundsight.data.sources.listing import walk
from soundsight.data.store.shards import PairFolder
from soundsight.data.vegas.bench import Bench
from soundsight.media.audio import SOUND_SUFFIXES
from soundsight.models.ears import Ears
from soundsight.training.configs import LabelHeadConfig
from soundsight.training.encoder import load_encoder, to_float
from soundsight.training.kept import Tell, kept_arrays, tell_nothing
from soundsight.training.labels import FittedLabelHead, fit_label_head, labelled, other_seconds

BANDS_HZ = (0, 16_000, 8_000)
"""Sample rates at which every sound is heard; 0 is its own."""

OTHERS_S = 4
"""Seconds that are heard of a file of other sounds: many short files say more than a long one."""

_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class KindSeconds:
    """n seconds that have been heard."""

    embeddings: NDArray[np.float32]  #: float32 [n, E]
    features: NDArray[np.float16]  #: float16 [n, F]
    kinds: NDArray[np.str_]  #: kind of each
    recordings: NDArray[np.str_]  #: recording of each
    known: NDArray[np.bool_]  #: bool [n], whether the kind is one that the model knows
    bands: NDArray[np.int64]  #: sample rate at which each was heard, int64 [n]; 0 for its own

    def __len__(self) -> int:
        return len(self.kinds)

    def of(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> KindSeconds:
        """Return some of them."""
        return KindSeconds(
            **{field.name: getattr(self, field.name)[rows] for field in fields(self)}
        )


def hear_kinds(
    ears: Ears,
    everyday: Everyday,
    bench: Bench,
    split: str,
    *,
    tell: Tell = tell_nothing,
) -> KindSeconds:
    """Hear the audible seconds of a split: of all kinds, and of the others that are none of them.

    Args:
        split: ``train`` (every half second), ``val`` or ``devtest`` (every second).

    Raises:
        DataError: when a sound is missing or damaged.
    """
    hop = HALF_SECOND if split == "train" else 2 * HALF_SECOND
    known, others = everyday.sounds(split), everyday.others(split)
    pairs = bench.pairs(split)
    spectrograms = np.stack([bench.spectrogram(pair.spectrogram) for pair in pairs])
    sounds = len(known) + len(others)
    parts = []
    for place, rate_hz in enumerate(BANDS_HZ):

        def show(done: int, _of: int, before: int = place * sounds) -> None:
            tell("sounds heard", before + done, len(BANDS_HZ) * sounds)

        seconds = read_seconds(
            everyday, known + others, hop=hop, narrow_hz=rate_hz or None, progress=show
        )
        dark = darkened(spectrograms, rate_hz / 2) if rate_hz else spectrograms
        parts.append(
            _embedded(
                ears,
                np.concatenate([seconds.mels, dark]),
                seconds.kinds + [bench_kind(pair.subject) for pair in pairs],
                seconds.recordings + [f"bench:{pair.video}" for pair in pairs],
                np.concatenate([seconds.sound < len(known), np.ones(len(pairs), bool)]),
                rate_hz,
            )
        )
    return joined(parts)


def open_kinds(
    folder: Path,
    encoder_run: Path,
    everyday: Everyday,
    bench: Bench,
    split: str,
    *,
    tell: Tell = tell_nothing,
) -> KindSeconds:
    """Return what :func:`hear_kinds` gives, kept in ``folder`` until the ears are others.

    Raises:
        ConfigError: when the run's encoder is none of the ears.
        DataError: when the run is not finished, or a sound or what is kept is damaged.
        OutputError: when ``folder`` cannot be written to.
    """
    ears = _ears_of(encoder_run)
    own = sha256_of(encoder_run / "encoder.safetensors")
    path = folder / f"kinds-{split}.npz"
    return _kept(path, own, lambda: hear_kinds(ears, everyday, bench, split, tell=tell))


def hear_others(
    ears: Ears,
    files: Sequence[Path],
    *,
    tell: Tell = tell_nothing,
    unread: Callable[[str], None] = lambda _why: None,
) -> KindSeconds:
    """Hear sound files that are of none of the kinds, each at its beginning and in every band.

    Of each file the first ``OTHERS_S`` seconds are heard, a second every half second.

    Args:
        unread: called with a line for each file that cannot be read; it is left out.
    """
    # An empty part: there may be no file, or none that can be read.
    parts = [_embedded(ears, np.zeros((0, N_MELS, FRAMES_PER_SEGMENT), np.uint8), [], [], False, 0)]
    for number, path in enumerate(files):
        try:
            for rate_hz in BANDS_HZ:
                mels, _ = seconds_of_file(
                    path, hop=HALF_SECOND, narrow_hz=rate_hz or None, longest_s=OTHERS_S
                )
                n = len(mels)
                parts.append(_embedded(ears, mels, [""] * n, [str(path)] * n, False, rate_hz))
        except DataError as error:
            unread(str(error))
        tell("other sounds heard", number + 1, len(files))
    return joined(parts)


def open_others(
    folder: Path,
    encoder_run: Path,
    others: Path,
    *,
    tell: Tell = tell_nothing,
    unread: Callable[[str], None] = lambda _why: None,
) -> KindSeconds:
    """Return what :func:`hear_others` gives of a folder of sounds, kept in ``folder``.

    Raises:
        ConfigError: when the run's encoder is none of the ears.
        DataError: when the folder holds no sound that can be heard, or what is kept is damaged.
        OutputError: when ``folder`` cannot be written to.
    """
    ears = _ears_of(encoder_run)
    suffixes = frozenset(suffix.removeprefix(".") for suffix in SOUND_SUFFIXES)
    listing = walk(str(others), barred=lambda _path: False, suffixes=suffixes)
    files = [Path(listing.files[name].path) for name in sorted(listing.files)]
    sizes = "".join(f"{path} {path.stat().st_size}\n" for path in files)
    key = f"{sha256_of(encoder_run / 'encoder.safetensors')} {others.resolve()}\n{sizes}"
    own = hashlib.sha256(key.encode()).hexdigest()
    found = _kept(
        folder / "others.npz", own, lambda: hear_others(ears, files, tell=tell, unread=unread)
    )
    if not len(found):
        raise DataError(f"{others} holds no sound that can be heard")
    return found


def _ears_of(encoder_run: Path) -> Ears:
    ears = load_encoder(encoder_run)
    if not isinstance(ears, Ears):
        raise ConfigError(f"{encoder_run} has no ears: train them with --preset everyday")
    return ears


def _kept(path: Path, made_of: str, make: Callable[[], KindSeconds]) -> KindSeconds:
    return KindSeconds(**kept_arrays(path, made_of, lambda: vars(make())))


def hear_labelled(
    ears: Ears, places: Sequence[Bench | PairFolder], split: str
) -> list[KindSeconds]:
    """Hear the audible seconds of other data, all of them known, as they were recorded.

    Their kinds are their labels, in words; empty where there are none.

    Raises:
        DataError: when a pair cannot be read.
    """
    pairs = (pair for place in places for pair in labelled(place, split))
    parts = []
    while batch := list(islice(pairs, _AT_ONCE)):
        mels = np.stack([mel for mel, _ in batch])
        names = [name or "" for _, name in batch]
        parts.append(_embedded(ears, mels, names, [""] * len(batch), True, 0))
    return parts


def fit_everyday_label_head(
    train: KindSeconds, val: KindSeconds, ears: Ears, config: LabelHeadConfig
) -> FittedLabelHead:
    """Fit the label head of the 28 kinds; what is not known in either, and made sounds, are none.

    Known seconds of other data without a label teach nothing.

    Raises:
        DataError: when there are too few seconds.
    """
    made = other_seconds(ears, config)
    named, rest = [], []
    for seconds, more in zip((train, val), made, strict=True):
        embeddings = seconds.embeddings.astype(np.float64)
        has_name = seconds.known & (seconds.kinds != "")
        words = [WORDS.get(kind, str(kind)) for kind in seconds.kinds[has_name]]
        named.append((embeddings[has_name], words))
        rest.append(np.concatenate([embeddings[~seconds.known], more]))
    return fit_label_head(named[0], named[1], config, (rest[0], rest[1]))


def everyday_label_head() -> LabelHeadConfig:
    """Return the settings of Everyday's label head."""
    return LabelHeadConfig(balanced=True, alerts=tuple(WORDS[kind] for kind in ALERTS))


def joined(parts: Sequence[KindSeconds]) -> KindSeconds:
    """Return the seconds of several as one."""
    return KindSeconds(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(KindSeconds)
        }
    )


@torch.no_grad()
def _embedded(
    ears: Ears,
    mels: NDArray[np.uint8],
    kinds: Sequence[str],
    recordings: Sequence[str],
    known: NDArray[np.bool_] | bool,
    band_hz: int,
) -> KindSeconds:
    """Embed the audible ones of log-mels uint8 [n, 128, 100], all of one band."""
    rows = np.flatnonzero(audible(mels))
    embeddings = [np.zeros((0, ears.embedding_size), np.float32)]
    features = [np.zeros((0, ears.feature_size), np.float16)]
    for some in np.array_split(rows, -(-len(rows) // _AT_ONCE) or 1):
        found = ears.features(to_float(torch.from_numpy(mels[some])[:, None]))
        features.append(found.half().numpy())
        embeddings.append(ears.read(found).numpy())
    return KindSeconds(
        embeddings=np.concatenate(embeddings), features=np.concatenate(features),
        kinds=np.array(kinds, str)[rows], recordings=np.array(recordings, str)[rows],
        known=np.broadcast_to(known, len(mels))[rows], bands=np.full(len(rows), band_hz),
    )  # fmt: skip
