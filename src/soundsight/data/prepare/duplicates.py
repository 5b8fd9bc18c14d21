"""Near-duplicate videos: found by what they show and by what they sound like, so no split leaks.

A worker makes a :class:`VideoPrint` of each video while it is cut into pairs; the driver then
compares all of them at once. Two videos **agree in picture** when most seconds of the shorter one
have a look-alike in the other (64-bit perceptual hashes), and **agree in sound** when the signs of
their spectral changes agree at one shift in time. Videos that agree in either stay in one split;
of two that agree in both the one with the later key is dropped.

The sound's print follows Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System"
(ISMIR 2002): 32 bits, each the sign of a difference over bands of a difference over time. Here
they are taken from the log-mel, smoothed over 0.3 s, every 50 ms. A change of scale from one
second to the next moves all bands alike and leaves the bits as they are.

A pair is looked for only among prints that share part of their bits, and of those that share it
only neighbours in sorted order are compared (``DuplicateConfig.neighbours``). A title card that a
thousand videos share therefore costs as much as a thousand different pictures.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.core.errors import ConfigError, DataError, MissingExtraError

Bits64 = NDArray[np.uint64]
Bits32 = NDArray[np.uint32]
Indices = NDArray[np.int64]

STEP_FRAMES = 5
"""Frames of the log-mel (10 ms each) between two prints of the sound."""

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
_MAGIC = b"soundsight-print 1\n"


@dataclass(frozen=True, kw_only=True)
class DuplicateConfig:
    """When two videos agree.

    Attributes:
        picture_bits: pictures look alike when at most this many of 64 bits differ.
        picture_share: share of the shorter video's seconds that need a look-alike, 0..1.
        sound_share: sounds are alike when at most this share of the bits differs, 0..0.5.
        sound_least: prints (one each 50 ms) that must lie over each other at least.
        sound_overlap: share of the shorter sound's prints that must lie over each other, 0..1.
        crowd: a picture that a video shares with more than this many others of another sound is a
            common scene (a fixed camera, a studio, a drawing) and joins no videos.
        neighbours: how many followers in sorted order a print is compared with, of those that
            share the bits of a table; of pictures at least twice ``crowd``.

    Raises:
        ConfigError: on a value out of range.
    """

    picture_bits: int = 10
    picture_share: float = 0.5
    sound_share: float = 0.2
    sound_least: int = 24
    sound_overlap: float = 0.75
    crowd: int = 20
    neighbours: int = 8

    def __post_init__(self) -> None:
        problems = {
            "picture_bits must be from 0 to 31": not 0 <= self.picture_bits <= 31,
            "picture_share must be above 0, at most 1": not 0 < self.picture_share <= 1,
            "sound_share must be from 0, under 0.5": not 0 <= self.sound_share < 0.5,
            "sound_least must be at least 1": self.sound_least < 1,
            "sound_overlap must be from 0 to 1": not 0 <= self.sound_overlap <= 1,
            "crowd must be at least 0": self.crowd < 0,
            "neighbours must be at least 1": self.neighbours < 1,
        }
        for problem, found in problems.items():
            if found:
                raise ConfigError(f"DuplicateConfig: {problem}")


# --- prints ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoPrint:
    """What a video is known by. Flat pictures and unchanging sound leave nothing in it.

    Attributes:
        key: ``Clip.key``.
        pictures: uint64 [n], the perceptual hash of each informative picture, in time order.
        sounds: uint32 [m], the print of each informative moment of the sound.
        sound_at: int32 [m], when, in steps of 50 ms from the start of the video; ascending.
    """

    key: str
    pictures: Bits64
    sounds: Bits32
    sound_at: NDArray[np.int32]

    def to_bytes(self) -> bytes:
        """Return the print as bytes, the same on every machine."""
        sizes = {"key": self.key, "pictures": len(self.pictures), "sounds": len(self.sounds)}
        return b"".join(
            (
                _MAGIC,
                json.dumps(sizes).encode("ascii"),
                b"\n",
                self.pictures.astype("<u8").tobytes(),
                self.sounds.astype("<u4").tobytes(),
                self.sound_at.astype("<i4").tobytes(),
            )
        )

    @staticmethod
    def from_bytes(data: bytes) -> VideoPrint:
        """Read what ``to_bytes`` wrote.

        Raises:
            DataError: when it is something else or was cut short.
        """
        try:
            if not data.startswith(_MAGIC):
                raise ValueError("no print")
            head, _, body = data[len(_MAGIC) :].partition(b"\n")
            sizes = json.loads(head)
            key, pictures, sounds = sizes["key"], sizes["pictures"], sizes["sounds"]
            if len(body) != 8 * (pictures + sounds):
                raise ValueError("cut short")
            ends = (8 * pictures, 8 * pictures + 4 * sounds)
            return VideoPrint(
                key=str(key),
                pictures=np.frombuffer(body[: ends[0]], "<u8").astype(np.uint64),
                sounds=np.frombuffer(body[ends[0] : ends[1]], "<u4").astype(np.uint32),
                sound_at=np.frombuffer(body[ends[1] :], "<i4").astype(np.int32),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"a video's print is damaged ({error}): prepare it again") from None


class Printer:
    """Makes the print of one video from its seconds as they come, in constant memory.

    Of a long video every second, fourth, eighth ... second is kept, so that at most
    ``max_seconds`` are. Which ones depends on nothing but how many there are.

    Args:
        max_seconds: seconds that a print may hold. A copy of a longer video is found when it
            starts at the same place; one of up to this length wherever it starts.
    """

    def __init__(self, max_seconds: int = 120) -> None:
        if max_seconds < 1:
            raise ConfigError("a print needs at least 1 second")
        self._max = max_seconds
        self._stride = 1
        self._count = 0
        self._before: tuple[float, NDArray[np.uint8]] | None = None
        self._kept: list[tuple[int | None, Bits32, NDArray[np.int32]]] = []

    def add(self, start_s: float, mel: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
        """Take the next second.

        Args:
            start_s: where it starts, in seconds.
            mel: uint8 [128, frames], row 0 the highest band.
            image: uint8 [px, px, 3], RGB.

        Raises:
            MissingExtraError: when the extra ``prepare`` is not installed.
        """
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


def print_of(
    key: str,
    mels: Iterable[NDArray[np.uint8]],
    images: Iterable[NDArray[np.uint8]],
    starts_s: Iterable[float] | None = None,
) -> VideoPrint:
    """Make the print of a video that is at hand.

    Args:
        key: ``Clip.key``.
        mels: for each second uint8 [128, frames].
        images: for each second uint8 [px, px, 3].
        starts_s: where each second starts, in seconds; by default 0, 1, 2 ...
    """
    printer = Printer()
    starts = itertools.count(0.0, 1.0) if starts_s is None else starts_s
    for start_s, mel, image in zip(starts, mels, images, strict=False):
        printer.add(start_s, mel, image)
    return printer.finish(key)


def picture_bits(image: NDArray[np.uint8]) -> int | None:
    """The 64-bit perceptual hash of a picture, or None where it shows too little to be known by.

    Args:
        image: uint8 [px, px, 3], RGB.

    Raises:
        MissingExtraError: when the extra ``prepare`` is not installed.
    """
    try:
        import imagehash
    except ImportError:
        raise MissingExtraError("finding duplicates", "prepare", "imagehash") from None
    grey = Image.fromarray(image).convert("L")
    if float(np.asarray(grey, dtype=np.float32).std()) < _FLAT_LEVELS:
        return None
    bits = np.asarray(imagehash.phash(grey).hash, dtype=np.bool_)
    return int.from_bytes(np.packbits(bits.ravel()).tobytes(), "big")


def sound_bits(mel: NDArray[np.uint8]) -> tuple[Bits32, NDArray[np.int32]]:
    """The prints of the moments at which a sound changes.

    Args:
        mel: uint8 [128, frames], row 0 the highest band; any length.

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
    heard = (np.abs(change) >= least).sum(axis=0) >= _CHANGED_BITS
    weights = np.uint32(1) << np.arange(_BANDS - 1, dtype=np.uint32)
    bits = ((change > 0) * weights[:, None]).sum(axis=0).astype(np.uint32)
    return bits[heard], at[heard]


# --- comparing two ---------------------------------------------------------------------------


def same_picture(a: VideoPrint, b: VideoPrint, config: DuplicateConfig) -> bool:
    """Whether most seconds of the shorter video have a look-alike in the other."""
    short, long = (a, b) if len(a.pictures) <= len(b.pictures) else (b, a)
    if not len(short.pictures):
        return False
    apart = np.bitwise_count(short.pictures[:, None] ^ long.pictures[None])
    alike = int((apart.min(axis=1) <= config.picture_bits).sum())
    return alike >= config.picture_share * len(short.pictures)


def same_sound(a: VideoPrint, b: VideoPrint, config: DuplicateConfig) -> bool:
    """Whether the sounds are alike at one shift in time."""
    shorter = min(len(a.sounds), len(b.sounds))
    needed = max(config.sound_least, config.sound_overlap * shorter)
    if shorter < needed:
        return False
    shifts = b.sound_at[None].astype(np.int64) - a.sound_at[:, None]
    shifts -= shifts.min()
    apart = np.bitwise_count(a.sounds[:, None] ^ b.sounds[None])
    met = np.bincount(shifts.ravel())
    errors = np.bincount(shifts.ravel(), weights=apart.ravel())
    enough = met >= needed
    return bool((errors[enough] <= 32 * config.sound_share * met[enough]).any())


# --- comparing all ---------------------------------------------------------------------------

_PICTURE_BANDS = (11, 11, 11, 11, 10, 10)
_SOUND_BANDS = (8, 8, 8, 8)
_SOUND_REST_BITS = 3
_BLOCK = 4
_BLOCK_LEAST = 5
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What ``find_duplicates`` found.

    Attributes:
        groups: keys of videos that must stay in one split, sorted; only groups of two or more.
        duplicates: key of a video to drop -> key of the one that is kept.
    """

    groups: tuple[tuple[str, ...], ...]
    duplicates: dict[str, str]


def find_duplicates(
    prints: Sequence[VideoPrint], config: DuplicateConfig | None = None
) -> Duplicates:
    """Compare all videos; the result depends on neither their order nor the machine.

    Args:
        prints: one a video, with distinct keys.
        config: when two agree.

    Raises:
        DataError: when two prints have one key.
    """
    config = config or DuplicateConfig()
    ordered = sorted(prints, key=lambda p: p.key)
    for before, after in itertools.pairwise(ordered):
        if before.key == after.key:
            raise DataError(f"two videos have the key {before.key}: give each one its own")
    candidates = np.union1d(
        _picture_candidates(ordered, config), _sound_candidates(ordered, config)
    )
    agreeing: list[tuple[int, int, bool, bool]] = []
    looks = [0] * len(ordered)
    for pair in candidates.tolist():
        later, earlier = divmod(pair, len(ordered))
        picture = same_picture(ordered[earlier], ordered[later], config)
        sound = same_sound(ordered[earlier], ordered[later], config)
        if picture or sound:
            agreeing.append((earlier, later, picture, sound))
        if picture and not sound:
            looks[earlier] += 1
            looks[later] += 1
    groups, copies = list(range(len(ordered))), list(range(len(ordered)))
    for earlier, later, picture, sound in agreeing:
        if sound or max(looks[earlier], looks[later]) <= config.crowd:
            _join(groups, earlier, later)
        if picture and sound:
            _join(copies, earlier, later)
    duplicates: dict[str, str] = {}
    for members in _members(copies):
        duplicates |= _copies([ordered[index] for index in members], config)
    return Duplicates(
        groups=tuple(tuple(ordered[index].key for index in group) for group in _members(groups)),
        duplicates=dict(sorted(duplicates.items())),
    )


def _copies(alike: Sequence[VideoPrint], config: DuplicateConfig) -> dict[str, str]:
    """Of videos linked as copies keep each that agrees in both with none kept before it."""
    kept: list[VideoPrint] = []
    dropped: dict[str, str] = {}
    for video in alike:
        # Not all of them were compared: of many copies each one met its neighbours only.
        for first in kept:
            if same_picture(first, video, config) and same_sound(first, video, config):
                dropped[video.key] = first.key
                break
        else:
            kept.append(video)
    return dropped


def _join(root: list[int], a: int, b: int) -> None:
    first, second = sorted((_find(root, a), _find(root, b)))
    root[second] = first


def _members(root: list[int]) -> list[list[int]]:
    """The sets of two or more that ``_join`` made, each in ascending order."""
    sets: dict[int, list[int]] = {}
    for index in range(len(root)):
        sets.setdefault(_find(root, index), []).append(index)
    return [members for members in sets.values() if len(members) > 1]


def _find(root: list[int], index: int) -> int:
    while root[index] != index:
        root[index] = root[root[index]]
        index = root[index]
    return index


def _owners(lengths: Sequence[int]) -> NDArray[np.int32]:
    return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)


def _pairs(owner: NDArray[np.int32], p: Indices, q: Indices, count: int) -> Indices:
    """Distinct pairs of videos as ``later * count + earlier``."""
    a, b = owner[p].astype(np.int64), owner[q].astype(np.int64)
    return np.unique(np.maximum(a, b) * count + np.minimum(a, b))


def _neighbours(
    keys: NDArray[np.unsignedinteger], owner: NDArray[np.int32], reach: int
) -> Iterator[tuple[Indices, Indices]]:
    """Positions of different videos, at most ``reach`` apart, that have one key; keys sorted."""
    for step in range(1, reach + 1):
        same = np.flatnonzero(keys[step:] == keys[:-step])
        if not len(same):
            return
        same = same[owner[same] != owner[same + step]]
        yield same, same + step


def _joined(parts: list[Indices]) -> Indices:
    return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))


def _picture_candidates(ordered: Sequence[VideoPrint], config: DuplicateConfig) -> Indices:
    """Pairs of videos with a look-alike that shares two of six bands of bits."""
    owner = _owners([len(video.pictures) for video in ordered])
    hashes = np.concatenate([np.empty(0, np.uint64), *(video.pictures for video in ordered)])
    # Far enough to see a crowd as one.
    reach = max(config.neighbours, 2 * config.crowd)
    # A still video says one thing once.
    order = np.lexsort((owner, hashes))
    hashes, owner = hashes[order], owner[order]
    new = np.ones(len(hashes), np.bool_)
    new[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
    hashes, owner = hashes[new], owner[new]
    found: list[Indices] = []
    for chosen in itertools.combinations(range(len(_PICTURE_BANDS)), 2):
        turned, width = _turned(hashes, _PICTURE_BANDS, chosen, 64)
        order = np.argsort(turned, kind="stable")
        keys = turned[order] >> np.uint64(64 - width)
        bits, videos = hashes[order], owner[order]
        for p, q in _neighbours(keys, videos, reach):
            alike = np.bitwise_count(bits[p] ^ bits[q]) <= config.picture_bits
            found.append(_pairs(videos, p[alike], q[alike], len(ordered)))
    return _joined(found)


def _turned(
    bits: NDArray[np.uint64], bands: Sequence[int], chosen: Sequence[int], size: int
) -> tuple[NDArray[np.uint64], int]:
    """Bits with the chosen bands at the top, the others behind them, and the chosen ones' width."""
    starts = [sum(bands[:k]) for k in range(len(bands))]
    others = [k for k in range(len(bands)) if k not in chosen]
    turned = np.zeros_like(bits)
    for k in [*chosen, *others]:
        part = (bits >> np.uint64(size - starts[k] - bands[k])) & np.uint64((1 << bands[k]) - 1)
        turned = (turned << np.uint64(bands[k])) | part
    return turned, sum(bands[k] for k in chosen)


def _sound_candidates(ordered: Sequence[VideoPrint], config: DuplicateConfig) -> Indices:
    """Pairs of videos with a moment that shares three of four bytes, its surroundings alike."""
    owner = _owners([len(video.sounds) for video in ordered])
    bits = np.concatenate([np.empty(0, np.uint32), *(video.sounds for video in ordered)])
    at = np.concatenate([np.empty(0, np.int32), *(video.sound_at for video in ordered)])
    found: list[Indices] = []
    for left_out in range(len(_SOUND_BANDS)):
        chosen = [k for k in range(len(_SOUND_BANDS)) if k != left_out]
        turned, _ = _turned(bits.astype(np.uint64), _SOUND_BANDS, chosen, 32)
        # The place in the low half makes one sort do, and keeps a video's moments in order.
        packed = np.sort((turned << np.uint64(32)) | np.arange(len(bits), dtype=np.uint64))
        order = (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)
        keys = (packed >> np.uint64(32 + _SOUND_BANDS[left_out])).astype(np.uint32)
        del turned, packed
        for p, q in _neighbours(keys, owner[order], config.neighbours):
            for start in range(0, len(p), _CHUNK):
                i, j = order[p[start : start + _CHUNK]], order[q[start : start + _CHUNK]]
                near = np.bitwise_count(bits[i] ^ bits[j]) <= _SOUND_REST_BITS
                i, j = i[near], j[near]
                alike = _surroundings_agree(bits, at, owner, i, j, config.sound_share)
                found.append(_pairs(owner, i[alike], j[alike], len(ordered)))
    return _joined(found)


def _surroundings_agree(
    bits: Bits32,
    at: NDArray[np.int32],
    owner: NDArray[np.int32],
    i: Indices,
    j: Indices,
    share: float,
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
    return (met >= _BLOCK_LEAST) & (errors <= 32 * share * met)
