"""Seconds with what they are, heard by a finished encoder: for the label head and the ood score.

Labels are read here after all other training is done: no label reaches encoder, decoder or flow.
Every sound of Everyday is heard in its whole band and as recorded at 16 and 8 kHz, as telephones
and old collections have it; the bench's seconds, which are no waveforms, lose the bands above
instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import sha256_of
from soundsight.core.units import FRAMES_PER_SEGMENT, N_MELS
from soundsight.data.everyday.folder import WORDS, Everyday, bench_kind
from soundsight.data.everyday.sounds import (
    HALF_SECOND,
    audible,
    darkened,
    read_seconds,
    seconds_of_file,
)
from soundsight.data.records import SIDECAR
from soundsight.data.sources.listing import walk
from soundsight.data.store.shards import PairFolder
from soundsight.data.vegas.bench import Bench
from soundsight.media.audio import SOUND_SUFFIXES
from soundsight.models.ears import Ears
from soundsight.training.configs import LabelHeadConfig
from soundsight.training.encoder import AudioEncoder, load_encoder, to_float
from soundsight.training.kept import Tell, kept_arrays, tell_nothing
from soundsight.training.other_sounds import log_mels

BANDS_HZ = (0, 16_000, 8_000)
"""Sample rates at which every sound is heard; 0 is its own."""

OTHERS_S = 4
"""Seconds that are heard of a file of other sounds: many short files say more than a long one."""

_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class KindSeconds:
    """n seconds that have been heard."""

    embeddings: NDArray[np.float32]  #: float32 [n, E]
    kinds: NDArray[np.str_]  #: kind of each, or its label in words; empty where it has none
    known: NDArray[np.bool_]  #: bool [n], whether the kind is one that the model knows
    bands: NDArray[np.int64]  #: sample rate at which each was heard, int64 [n]; 0 for its own

    def __len__(self) -> int:
        return len(self.kinds)

    def of(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> KindSeconds:
        """Return some of them."""
        return KindSeconds(**{name: values[rows] for name, values in vars(self).items()})


def joined(parts: Sequence[KindSeconds]) -> KindSeconds:
    """Return the seconds of several as one."""
    names = [field.name for field in fields(KindSeconds)]
    return KindSeconds(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})


def open_kinds(
    folder: Path,
    encoder_run: Path,
    everyday: Everyday,
    bench: Bench,
    split: str,
    *,
    tell: Tell = tell_nothing,
) -> KindSeconds:
    """Hear the audible seconds of a split: of all kinds, and of the others that are none of them.

    Of ``train`` every half second is heard, of ``val`` and ``devtest`` every second. What was heard
    is kept in ``folder`` until the ears are others.

    Raises:
        ConfigError: when the run's encoder is none of the ears.
        DataError: when the run is not finished, or a sound or what is kept is damaged.
    """

    def hear(ears: Ears) -> list[KindSeconds]:
        hop = HALF_SECOND if split == "train" else 2 * HALF_SECOND
        known, others = everyday.sounds(split), everyday.others(split)
        pairs = bench.pairs(split)
        spectrograms = np.stack([bench.spectrogram(pair.spectrogram) for pair in pairs])
        parts = []
        for place, rate_hz in enumerate(BANDS_HZ):

            def show(done: int, of: int, before: int = place) -> None:
                tell("sounds heard", before * of + done, len(BANDS_HZ) * of)

            seconds = read_seconds(
                everyday, known + others, hop=hop, narrow_hz=rate_hz or None, progress=show
            )
            dark = darkened(spectrograms, rate_hz / 2) if rate_hz else spectrograms
            kinds = seconds.kinds + [bench_kind(pair.subject) for pair in pairs]
            is_known = np.concatenate([seconds.sound < len(known), np.ones(len(pairs), bool)])
            mels = np.concatenate([seconds.mels, dark])
            parts.append(_heard(ears, mels, kinds, is_known, rate_hz))
        return parts

    return _kept(folder / f"kinds-{split}.npz", encoder_run, "", hear)


def open_others(
    folder: Path,
    encoder_run: Path,
    others: Path,
    *,
    tell: Tell = tell_nothing,
    unread: Callable[[str], None] = lambda _why: None,
) -> KindSeconds:
    """Hear a folder of sounds of none of the kinds, each at its beginning and in every band.

    Of each file the first ``OTHERS_S`` seconds are heard, a second every half second; what was
    heard is kept in ``folder``. ``unread`` is called with a line for each file that cannot be read;
    it is left out. Errors are those of :func:`open_kinds`; DataError also when nothing can be
    heard.
    """
    suffixes = frozenset(suffix.removeprefix(".") for suffix in SOUND_SUFFIXES)
    listing = walk(str(others), barred=lambda _path: False, suffixes=suffixes)
    files = [Path(listing.files[name].path) for name in sorted(listing.files)]
    sizes = "".join(f"{path} {path.stat().st_size}\n" for path in files)

    def hear(ears: Ears) -> list[KindSeconds]:
        parts = []
        for number, path in enumerate(files):
            try:
                for rate_hz in BANDS_HZ:
                    mels, _ = seconds_of_file(
                        path, hop=HALF_SECOND, narrow_hz=rate_hz or None, longest_s=OTHERS_S
                    )
                    parts.append(_heard(ears, mels, [""] * len(mels), False, rate_hz))
            except DataError as error:
                unread(str(error))
            tell("other sounds heard", number + 1, len(files))
        return parts

    made_of = hashlib.sha256(f"{others.resolve()}\n{sizes}".encode()).hexdigest()
    found = _kept(folder / "others.npz", encoder_run, made_of, hear)
    if not len(found):
        raise DataError(f"{others} holds no sound that can be heard")
    return found


def _kept(
    path: Path, encoder_run: Path, made_of: str, hear: Callable[[Ears], list[KindSeconds]]
) -> KindSeconds:
    """What is heard by a run's ears, from ``path`` or now."""
    ears = load_encoder(encoder_run)
    if not isinstance(ears, Ears):
        raise ConfigError(f"{encoder_run} has no ears: train them with --preset everyday")
    about = {
        "encoder": sha256_of(encoder_run / "encoder.safetensors"), "of": made_of,
        "holds": [field.name for field in fields(KindSeconds)],
    }  # fmt: skip
    return KindSeconds(**kept_arrays(path, about, lambda: vars(_joined(ears, hear(ears)))))


def hear_labelled(
    encoder: AudioEncoder, places: Sequence[Bench | PairFolder], split: str
) -> KindSeconds:
    """Hear the audible seconds of other data, all of them known, as they were recorded.

    A bench names its subjects; a dataset of ``soundsight prepare`` has labels in its sidecars,
    where the source had classes. DataError when a record cannot be read, or there is no such split.
    """
    pairs = (pair for place in places for pair in _labelled(place, split))
    parts: list[KindSeconds] = []
    while batch := list(islice(pairs, _AT_ONCE)):
        mels, names = zip(*batch, strict=True)
        parts.append(_heard(encoder, np.stack(mels), names, True, 0))
    return _joined(encoder, parts)


def hear_made(encoder: AudioEncoder, config: LabelHeadConfig, split: str) -> NDArray[np.float32]:
    """Make and embed sounds that are none of the subjects, for train or for val: float32 [n, E]."""
    each = config.others_each
    numbers = range(each) if split == "train" else range(each, each + -(-each // 4))
    return _embedded(encoder, log_mels(config.others, numbers))


def _labelled(place: Bench | PairFolder, split: str) -> Iterator[tuple[NDArray[np.uint8], str]]:
    """The log-mels of a split with their names as people write them; empty without a label."""
    if isinstance(place, Bench):
        for pair in place.pairs(split):
            yield place.spectrogram(pair.spectrogram), WORDS[bench_kind(pair.subject)]
        return
    for record in place.records(split):
        try:
            label = json.loads(record.files[SIDECAR])["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{place.where}: the pair {record.key} has a bad sidecar") from error
        mel = place.decode(record, with_image=False)[0]
        yield mel, "" if label is None else " ".join(str(label).replace("_", " ").split())


def _joined(encoder: AudioEncoder, parts: list[KindSeconds]) -> KindSeconds:
    """The seconds of several as one, which may be of none."""
    none = np.zeros((0, N_MELS, FRAMES_PER_SEGMENT), np.uint8)
    return joined([_heard(encoder, none, [], False, 0), *parts])


def _heard(
    encoder: AudioEncoder,
    mels: NDArray[np.uint8],
    kinds: Sequence[str],
    known: NDArray[np.bool_] | bool,
    band_hz: int,
) -> KindSeconds:
    """Hear the audible ones of log-mels uint8 [n, 128, 100], all of one band."""
    rows = np.flatnonzero(audible(mels))
    return KindSeconds(
        embeddings=_embedded(encoder, mels[rows]), kinds=np.array(kinds, str)[rows],
        known=np.broadcast_to(known, len(mels))[rows], bands=np.full(len(rows), band_hz),
    )  # fmt: skip


@torch.no_grad()
def _embedded(encoder: AudioEncoder, mels: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Embed log-mels, uint8 [128, 100] each, a few hundred at once: float32 [n, E]."""
    parts, rest = [np.zeros((0, encoder.embedding_size), np.float32)], iter(mels)
    while batch := list(islice(rest, _AT_ONCE)):
        parts.append(encoder.encode(to_float(torch.from_numpy(np.stack(batch))[:, None])).numpy())
    return np.concatenate(parts)
