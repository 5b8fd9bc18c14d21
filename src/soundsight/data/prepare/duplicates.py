"""Near-duplicate videos: found by what they show and by what they sound like, so no split leaks.

A worker makes a :class:`VideoPrint` of each video while it is cut into pairs; the driver then
compares all of them at once. Two videos **agree in picture** when most seconds of the shorter one
have a look-alike in the other (64-bit perceptual hashes), and **agree in sound** when the signs of
their spectral changes agree at one shift in time. Videos that agree in either stay in one split;
of two that agree in both the one with the later key is dropped.

The sound's print follows Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System"
(ISMIR 2002): 32 bits, each the sign of a difference over bands of a difference over time, here of
the log-mel, smoothed over 0.3 s, every 50 ms.

A pair is looked for only among prints that share part of their bits, and of those that share it
only neighbours in sorted order are compared (``NEIGHBOURS``): a title card that a thousand videos
share costs as much as a thousand different pictures.
"""

from __future__ import annotations

import base64
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bits64 = NDArray[np.uint64]
Bits32 = NDArray[np.uint32]
Indices = NDArray[np.int64]

STEP_FRAMES = 5
"""Frames of the log-mel (10 ms each) between two prints of the sound."""

PICTURE_BITS = 10
"""Pictures look alike when at most this many of 64 bits differ."""

PICTURE_SHARE = 0.5
"""Share of the shorter video's seconds that need a look-alike."""

SOUND_SHARE = 0.2
"""Sounds are alike when at most this share of the bits differs,"""

SOUND_LEAST, SOUND_OVERLAP = 24, 0.75
"""where at least so many prints, and this share of the shorter sound's, lie over each other."""

CROWD = 20
"""A picture that a video shares with more than this many others of another sound is a common scene
(a fixed camera, a studio, a drawing) and joins no videos."""

NEIGHBOURS = 8
"""How many followers in sorted order a print is compared with, of those that share the bits of a
table; of pictures twice ``CROWD``, to see a crowd as one."""

_FRAME_S = 0.01
_SMOOTH_FRAMES = 30
_CHANGE_FRAMES = 20
_TAIL_FRAMES = _SMOOTH_FRAMES + _CHANGE_FRAMES - STEP_FRAMES
_BANDS = 33
_ROWS_PER_BAND = 3
_LOWEST_ROW = 2
_CHANGE_LEVELS = 1.0
_CHANGED_BITS = 24
_FLAT_LEVELS = 8.0
_ARRAYS = {"pictures": "<u8", "sounds": "<u4", "sound_at": "<i4"}


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoPrint:
    """What a video is known by. Flat pictures and unchanging sound leave nothing in it."""

    key: str  #: ``Clip.key``
    pictures: Bits64  #: uint64 [n], perceptual hashes of the informative pictures, in time order
    sounds: Bits32  #: uint32 [m], the print of each informative moment of the sound
    sound_at: NDArray[np.int32]  #: int32 [m], when, in steps of 50 ms of the video; ascending

    def to_json(self) -> dict[str, Any]:
        """Return the print as JSON, the same on every machine."""
        arrays = {name: getattr(self, name).astype(kind) for name, kind in _ARRAYS.items()}
        return {"key": self.key} | {
            name: base64.b64encode(array.tobytes()).decode() for name, array in arrays.items()
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> VideoPrint:
        """Read what ``to_json`` wrote."""
        arrays = {
            name: np.frombuffer(base64.b64decode(values[name]), kind)
            for name, kind in _ARRAYS.items()
        }
        return VideoPrint(key=values["key"], **arrays)


class Printer:
    """Makes the print of one video from its seconds as they come, in constant memory.

    Of a long video every second, fourth, eighth ... second is kept, so that at most ``max_seconds``
    are. A copy of a longer video is found when it starts at the same place, one of up to this
    length wherever it starts.
    """

    def __init__(self, max_seconds: int = 120) -> None:
        self._max = max_seconds
        self._stride = 1
        self._count = 0
        self._before: tuple[float, NDArray[np.uint8]] | None = None
        self._kept: list[tuple[int | None, Bits32, NDArray[np.int32]]] = []

    def add(self, start_s: float, mel: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
        """Take the next second: uint8 [128, frames], row 0 the highest band; uint8 [px, px, 3]."""
        joined, from_s = mel, start_s
        if self._before is not None and abs(self._before[0] - start_s) < _FRAME_S / 2:
            # What comes right before fills the gap that the windows leave at the seam.
            joined = np.concatenate([self._before[1], mel], axis=1)
            from_s -= _FRAME_S * self._before[1].shape[1]
        tail = mel[:, mel.shape[1] - _TAIL_FRAMES :].copy()
        self._before = (start_s + _FRAME_S * mel.shape[1], tail)
        if self._count % self._stride == 0:
            sounds, frames = sound_bits(joined)
            at = np.rint((from_s / _FRAME_S + frames) / STEP_FRAMES).astype(np.int32)
            self._kept.append((picture_bits(image), sounds, at))
            if len(self._kept) > self._max:
                self._kept = self._kept[::2]
                self._stride *= 2
        self._count += 1

    def finish(self, key: str) -> VideoPrint:
        """Return the print of what was added, under the name ``key`` (``Clip.key``)."""
        pictures = [picture for picture, _, _ in self._kept if picture is not None]
        at = np.concatenate([np.empty(0, np.int32), *(at for _, _, at in self._kept)])
        sounds = np.concatenate([np.empty(0, np.uint32), *(bits for _, bits, _ in self._kept)])
        # Seconds that overlap say the same moment twice.
        moments, first = np.unique(at, return_index=True)
        return VideoPrint(
            key=key,
            pictures=np.array(pictures, dtype=np.uint64),
            sounds=sounds[first].astype(np.uint32),
            sound_at=moments.astype(np.int32),
        )


def picture_bits(image: NDArray[np.uint8]) -> int | None:
    """The 64-bit perceptual hash of uint8 [px, px, 3], or None where too little is shown."""
    import imagehash

    grey = Image.fromarray(image).convert("L")
    if float(np.asarray(grey, dtype=np.float32).std()) < _FLAT_LEVELS:
        return None
    bits = np.asarray(imagehash.phash(grey).hash, dtype=np.bool_)
    return int.from_bytes(np.packbits(bits.ravel()).tobytes(), "big")


def sound_bits(mel: NDArray[np.uint8]) -> tuple[Bits32, NDArray[np.int32]]:
    """The prints of the moments at which a sound, uint8 [128, frames], row 0 highest, changes.

    Returns:
        uint32 [m] and the frame of each, int32 [m]. Silence and steady tones give m = 0: fewer
        than 24 of their 32 differences reach one level.
    """
    frames = mel.shape[1]
    reach = (_SMOOTH_FRAMES + _CHANGE_FRAMES) // 2
    at = np.arange(reach, frames - reach + 1, STEP_FRAMES, dtype=np.int32)
    if not len(at):
        return np.empty(0, np.uint32), at
    rows = mel[::-1][_LOWEST_ROW : _LOWEST_ROW + _BANDS * _ROWS_PER_BAND]
    bands = rows.reshape(_BANDS, _ROWS_PER_BAND, frames).sum(axis=1, dtype=np.int64)
    sums = np.concatenate([np.zeros((_BANDS, 1), np.int64), np.cumsum(bands, axis=1)], axis=1)
    half, shift = _SMOOTH_FRAMES // 2, _CHANGE_FRAMES // 2
    later = sums[:, at + shift + half] - sums[:, at + shift - half]
    earlier = sums[:, at - shift + half] - sums[:, at - shift - half]
    change = np.diff(later - earlier, axis=0)
    # Whole numbers until here: the bits are the same on every machine.
    least = _CHANGE_LEVELS * _SMOOTH_FRAMES * _ROWS_PER_BAND
    changed = (np.abs(change) >= least).sum(axis=0) >= _CHANGED_BITS
    weights = np.uint32(1) << np.arange(_BANDS - 1, dtype=np.uint32)
    bits = ((change > 0) * weights[:, None]).sum(axis=0).astype(np.uint32)
    return bits[changed], at[changed]


# --- comparing two ---------------------------------------------------------------------------


def same_picture(a: VideoPrint, b: VideoPrint) -> bool:
    """Whether most seconds of the shorter video have a look-alike in the other."""
    short, long = (a, b) if len(a.pictures) <= len(b.pictures) else (b, a)
    if not len(short.pictures):
        return False
    apart = np.bitwise_count(short.pictures[:, None] ^ long.pictures[None])
    alike = int((apart.min(axis=1) <= PICTURE_BITS).sum())
    return alike >= PICTURE_SHARE * len(short.pictures)


def same_sound(a: VideoPrint, b: VideoPrint) -> bool:
    """Whether the sounds are alike at one shift in time."""
    shorter = min(len(a.sounds), len(b.sounds))
    needed = max(SOUND_LEAST, SOUND_OVERLAP * shorter)
    if shorter < needed:
        return False
    shifts = b.sound_at[None].astype(np.int64) - a.sound_at[:, None]
    shifts -= shifts.min()
    apart = np.bitwise_count(a.sounds[:, None] ^ b.sounds[None])
    met = np.bincount(shifts.ravel())
    errors = np.bincount(shifts.ravel(), weights=apart.ravel())
    enough = met >= needed
    return bool((errors[enough] <= 32 * SOUND_SHARE * met[enough]).any())


# --- comparing all ---------------------------------------------------------------------------

_PICTURE_BANDS = (11, 11, 11, 11, 10, 10)
_SOUND_BANDS = (8, 8, 8, 8)
_SOUND_REST_BITS = 3
_BLOCK = 4
_BLOCK_LEAST = 5
_CHUNK = 1 << 20


class Duplicates(NamedTuple):
    """What ``find_duplicates`` found.

    ``groups`` are the sorted keys of videos that must stay in one split, two or more each;
    ``duplicates`` is the key of a video to drop -> that of the one that is kept.
    """

    groups: tuple[tuple[str, ...], ...]
    duplicates: dict[str, str]


def find_duplicates(prints: Sequence[VideoPrint]) -> Duplicates:
    """Compare all videos, one print each; their order changes nothing."""
    ordered = sorted(prints, key=lambda p: p.key)
    alike: list[tuple[str, str, bool, bool]] = []
    looks: Counter[str] = Counter()
    for pair in _candidates(ordered).tolist():
        b, a = (ordered[place] for place in divmod(pair, len(ordered)))
        picture, sound = same_picture(a, b), same_sound(a, b)
        if picture or sound:
            alike.append((a.key, b.key, picture, sound))
        if picture and not sound:
            looks.update((a.key, b.key))
    groups = united((a, b) for a, b, _, sound in alike if sound or max(looks[a], looks[b]) <= CROWD)
    copies = united((a, b) for a, b, picture, sound in alike if picture and sound)
    by_key = {video.key: video for video in ordered}
    duplicates: dict[str, str] = {}
    for members in _sets(copies):
        duplicates |= _copies([by_key[key] for key in members])
    return Duplicates(groups=tuple(_sets(groups)), duplicates=dict(sorted(duplicates.items())))


def united(sets: Iterable[Sequence[str]]) -> dict[str, str]:
    """Unite the sets that share a member; return each member -> the first of its union."""
    parent: dict[str, str] = {}

    def first_of(member: str) -> str:
        while parent.setdefault(member, member) != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for members in sets:
        first, *others = sorted({first_of(member) for member in members})
        for other in others:
            parent[other] = first
    return {member: first_of(member) for member in list(parent)}


def _sets(first_of: Mapping[str, str]) -> list[tuple[str, ...]]:
    ordered = sorted(first_of, key=lambda member: (first_of[member], member))
    return [tuple(members) for _, members in itertools.groupby(ordered, first_of.__getitem__)]


def _copies(alike: Sequence[VideoPrint]) -> dict[str, str]:
    """Of videos linked as copies keep each that agrees in both with none kept before it."""
    kept: list[VideoPrint] = []
    dropped: dict[str, str] = {}
    for video in alike:
        # Not all of them were compared: of many copies each one met its neighbours only.
        for first in kept:
            if same_picture(first, video) and same_sound(first, video):
                dropped[video.key] = first.key
                break
        else:
            kept.append(video)
    return dropped


def _candidates(ordered: Sequence[VideoPrint]) -> Indices:
    """Distinct pairs of videos that may agree, as ``later * count + earlier``.

    Pictures share two of six bands of bits. Sounds have a moment that shares three of four bytes,
    and whose surroundings are alike.
    """
    found = [np.empty(0, np.int64)]

    def add(owner: NDArray[np.int32], i: Indices, j: Indices) -> None:
        a, b = owner[i].astype(np.int64), owner[j].astype(np.int64)
        found.append(np.unique(np.maximum(a, b) * len(ordered) + np.minimum(a, b)))

    owner, hashes = _joined(ordered, "pictures", np.uint64)
    # A still video says one thing once.
    order = np.lexsort((owner, hashes))
    owner, hashes = owner[order], hashes[order]
    new = np.ones(len(hashes), np.bool_)
    new[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
    owner, hashes = owner[new], hashes[new]
    reach = max(NEIGHBOURS, 2 * CROWD)
    for i, j in _look_alikes(hashes, owner, 64, _PICTURE_BANDS, 2, reach, PICTURE_BITS):
        add(owner, i, j)
    owner, bits = _joined(ordered, "sounds", np.uint64)
    at = _joined(ordered, "sound_at", np.int32)[1]
    for i, j in _look_alikes(bits, owner, 32, _SOUND_BANDS, 3, NEIGHBOURS, _SOUND_REST_BITS):
        alike = _surroundings_agree(bits, at, owner, i, j)
        add(owner, i[alike], j[alike])
    return np.unique(np.concatenate(found))


def _joined(
    ordered: Sequence[VideoPrint], name: str, kind: Any
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Whose each print is, and the prints of all videos one after the other."""
    arrays = [getattr(video, name) for video in ordered]
    owner = np.repeat(np.arange(len(arrays), dtype=np.int32), [len(array) for array in arrays])
    return owner, np.concatenate([np.empty(0, kind), *arrays]).astype(kind)


def _look_alikes(
    bits: NDArray[np.uint64],
    owner: NDArray[np.int32],
    size: int,
    bands: Sequence[int],
    shared: int,
    reach: int,
    apart: int,
) -> Iterator[tuple[Indices, Indices]]:
    """Places of prints of two videos that share bands of bits and differ in few bits.

    For every choice of ``shared`` of the ``bands`` the prints are sorted, those bands first, and
    each is compared with at most ``reach`` followers that have the same bits in them.
    """
    starts = [sum(bands[:k]) for k in range(len(bands))]
    for chosen in itertools.combinations(range(len(bands)), shared):
        turned = np.zeros_like(bits)
        for k in sorted(range(len(bands)), key=lambda k: k not in chosen):
            part = bits >> np.uint64(size - starts[k] - bands[k])
            turned = (turned << np.uint64(bands[k])) | (part & np.uint64((1 << bands[k]) - 1))
        order = np.argsort(turned, kind="stable")
        keys = turned[order] >> np.uint64(size - sum(bands[k] for k in chosen))
        del turned
        for step in range(1, reach + 1):
            same = np.flatnonzero(keys[step:] == keys[:-step])
            if not len(same):
                break
            for start in range(0, len(same), _CHUNK):
                p = same[start : start + _CHUNK]
                i, j = order[p], order[p + step]
                near = np.bitwise_count(bits[i] ^ bits[j]) <= apart
                near &= owner[i] != owner[j]
                yield i[near], j[near]


def _surroundings_agree(
    bits: NDArray[np.uint64],
    at: NDArray[np.int32],
    owner: NDArray[np.int32],
    i: Indices,
    j: Indices,
) -> NDArray[np.bool_]:
    """Whether the moments around two alike ones are alike too: bool [len(i)]."""
    met = np.zeros(len(i), np.int32)
    errors = np.zeros(len(i), np.int32)
    for step in (*range(-_BLOCK, 0), *range(1, _BLOCK + 1)):
        k = np.clip(i + step, 0, len(bits) - 1)
        m = np.clip(j + step, 0, len(bits) - 1)
        together = (owner[k] == owner[i]) & (owner[m] == owner[j])
        together &= (at[k] - at[i]) == (at[m] - at[j])
        met += together
        errors += together * np.bitwise_count(bits[k] ^ bits[m])
    return (met >= _BLOCK_LEAST) & (errors <= 32 * SOUND_SHARE * met)
