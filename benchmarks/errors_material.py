"""What ``errors.py`` listens to: an hour of other sounds, and sounds of the kinds that are known.

Two halves share nothing: ``val``, by which thresholds are chosen, and ``test`` (devtest). Other
sounds are Everyday's ``others``, of kinds that no split shares, and noise, hum, clicks and near
silence made here. Known ones are Everyday's recordings. Of trains, fireworks and water it has few:
consecutive seconds of the bench's videos are joined and cut again every quarter of a second.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.units import FRAMES_PER_SEGMENT, RATE_HZ
from soundsight.data.everyday.folder import Everyday, Sound, bench_kind
from soundsight.data.vegas.bench import Bench
from soundsight.media import audio
from soundsight.media.mel import MelConfig
from soundsight.media.segments import LiveCutter, Segment

HALVES = ("val", "test")
SPLIT_OF = {"val": "val", "test": "devtest"}
HOP_S = 0.25
SUBJECT_OF = {"dog_bark": "dog", "baby_cry": "baby", "sea_waves": "water"}
"""Classes of ESC-10 that are subjects of the bench."""
GAINS_DB = (0.0, -10.0, -20.0)
"""Other sounds are heard at each of these, as near and far things are; known ones take turns."""
RECORDINGS_EACH = 12
"""Recordings of a known kind at most, a piece of each."""
FROM_VIDEOS = ("rail", "fireworks", "water")
VIDEOS_EACH = {"val": 40, "test": 30}
ROOM_DBFS = -72.0
HOUR_S = 3600.0

Samples = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that sounds.

    Attributes:
        kind: a kind of Everyday, known or not, ``noise``, ``hum``, ``clicks`` or ``near silence``.
        subject: the known kind that it is; None for anything else.
        begin_s: in seconds of its stretch.
        end_s: likewise.
    """

    kind: str
    subject: str | None
    begin_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Stretch:
    """A signal as a listener hears it: windows, and what sounds in each.

    Attributes:
        name: of the stretch.
        items: what sounds, in order.
        windows: every quarter of a second.
        item_of: for each window the number of its item; -1 for none. A window that still holds
            the end of an item belongs to it.
        samples: float32 [t] at 44,100 Hz; None where there are only spectrograms.
    """

    name: str
    items: list[Item]
    windows: list[Segment]
    item_of: list[int]
    samples: Samples | None

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.windows) * HOP_S


def halves(folder: Path) -> dict[str, list[tuple[str, Path]]]:
    """Class and file of the recordings of each half; no original is in both.

    Within a class the originals, in the order of a hash of their numbers, go to the half that has
    fewer recordings of the class so far.
    """
    by_class: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*.ogg")):
        match = re.fullmatch(r"(.+)_(\d)-(\d+)-([A-Z])\.ogg", path.name)
        if match is None:
            raise SystemExit(f"{path} is not named as ESC-10's recordings are")
        by_class[match[1]][match[3]].append(path)
    place: dict[str, str] = {}
    found: dict[str, list[tuple[str, Path]]] = {half: [] for half in HALVES}
    for kind in sorted(by_class):
        count = dict.fromkeys(HALVES, 0)
        originals = by_class[kind]
        # What another class has placed stays where it is.
        for original in sorted(originals, key=lambda name: (name not in place, _hash(name))):
            half = place.setdefault(original, min(HALVES, key=lambda h: count[h]))
            count[half] += len(originals[original])
            found[half] += [(kind, path) for path in originals[original]]
    return found


def stretches(
    everyday: Everyday,
    bench: Bench,
    half: str,
    config: MelConfig,
    seed: int,
    kinds: Collection[str],
) -> list[Stretch]:
    """Everything of one half: ``others`` (an hour), ``known`` and ``videos``.

    Args:
        everyday: recordings.
        bench: videos of trains, fireworks and water.
        half: ``val`` or ``test``.
        config: of the model's log-mel.
        seed: of what is made, chosen and put in order.
        kinds: those that the model knows.
    """
    rng = np.random.default_rng((HALVES.index(half), seed, 31))
    split = SPLIT_OF[half]
    others = [
        (sound.kind, None, _gained(_decoded(everyday.path(sound)), gain))
        for sound in everyday.others(split)
        for gain in GAINS_DB
    ]
    others += [("noise", None, s) for s in noises(rng)]
    others += [("hum", None, s) for s in hums(rng)]
    others += [("clicks", None, s) for s in clicks(rng)]
    known = [
        (sound.kind, sound.kind, _gained(_decoded(everyday.path(sound)), GAINS_DB[turn % 3]))
        for turn, sound in enumerate(_chosen(everyday.sounds(split), kinds, rng))
    ]
    return [
        _joined("others", others, config, rng, HOUR_S),
        _joined("known", known, config, rng),
        _videos(bench, half, rng, kinds),
    ]


def _chosen(
    sounds: Sequence[Sound], kinds: Collection[str], rng: np.random.Generator
) -> list[Sound]:
    """Choose a piece of each of some recordings of every known kind."""
    pieces: dict[str, dict[str, Sound]] = defaultdict(dict)
    for i in rng.permutation(len(sounds)):
        pieces[sounds[i].kind].setdefault(sounds[i].recording, sounds[i])
    return [
        sound
        for kind in sorted(pieces)
        if kind in kinds
        for sound in list(pieces[kind].values())[:RECORDINGS_EACH]
    ]


def noises(rng: np.random.Generator) -> list[Samples]:
    """White, pink and brown noise of 3 to 9 s, steady or swelling, at -50 to -15 dBFS."""
    made = []
    for exponent in (0.0, 0.5, 1.0):
        for _ in range(24):
            count = int(rng.uniform(3, 9) * RATE_HZ)
            samples = coloured(count, exponent, rng)
            if rng.random() < 0.5:
                samples *= np.linspace(*rng.permutation([0.05, 1.0]), count).astype(np.float32)
            made.append(_levelled(samples, rng.uniform(-50, -15)))
    return made


def hums(rng: np.random.Generator) -> list[Samples]:
    """Mains hum of 50 or 60 Hz with ten harmonics, 3 to 9 s, at -55 to -25 dBFS."""
    made = []
    for _ in range(24):
        t = np.arange(int(rng.uniform(3, 9) * RATE_HZ)) / RATE_HZ
        base = rng.choice((50.0, 60.0))
        samples = sum(
            rng.uniform(0, 1) / k * np.sin(2 * np.pi * (k * base * t + rng.random()))
            for k in range(1, 11)
        )
        made.append(_levelled(samples, rng.uniform(-55, -25)))
    return made


def clicks(rng: np.random.Generator) -> list[Samples]:
    """Clicks of a millisecond, one to eight a second, 3 to 9 s, with peaks at -30 to -6 dBFS."""
    made = []
    for _ in range(24):
        samples = np.zeros(int(rng.uniform(3, 9) * RATE_HZ), np.float32)
        peak = 10 ** (rng.uniform(-30, -6) / 20)
        count = int(rng.uniform(1, 8) * len(samples) / RATE_HZ)
        for first in rng.integers(len(samples) - RATE_HZ // 1000, size=count):
            samples[first : first + RATE_HZ // 1000] = peak * rng.uniform(-1, 1)
        made.append(samples)
    return made


def coloured(count: int, exponent: float, rng: np.random.Generator) -> Samples:
    """Noise whose amplitude falls with frequency ** exponent, from 20 Hz on; rms 1."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    f_hz = np.maximum(np.fft.rfftfreq(count, 1 / RATE_HZ), 20.0)
    samples = np.fft.irfft(spectrum / f_hz**exponent, count)
    return (samples / np.sqrt(np.square(samples).mean())).astype(np.float32)


def _joined(
    name: str,
    sounds: list[tuple[str, str | None, Samples]],
    config: MelConfig,
    rng: np.random.Generator,
    at_least_s: float = 0.0,
) -> Stretch:
    """Sounds in random order with pauses of 1 to 2 s, in a room that is never quite silent.

    What is missing to ``at_least_s`` is near silence: room noise of -75 to -50 dBFS.
    """
    order = [sounds[i] for i in rng.permutation(len(sounds))]
    total_s = sum(len(s) for _, _, s in order) / RATE_HZ + 1.5 * len(order)
    missing_s = at_least_s - total_s
    while missing_s > 0:
        seconds = min(missing_s, float(rng.uniform(10, 25)))
        murmur = _levelled(coloured(int(seconds * RATE_HZ), 0.5, rng), rng.uniform(-75, -50))
        order.insert(int(rng.integers(len(order) + 1)), ("near silence", None, murmur))
        missing_s -= seconds + 1.5
    parts: list[Samples] = [np.zeros(2 * RATE_HZ, np.float32)]
    at, items = 2 * RATE_HZ, []
    for kind, subject, samples in order:
        items.append(
            Item(kind=kind, subject=subject, begin_s=at / RATE_HZ,
                 end_s=(at + len(samples)) / RATE_HZ)
        )  # fmt: skip
        pause = np.zeros(int(rng.uniform(1, 2) * RATE_HZ), np.float32)
        parts += [samples, pause]
        at += len(samples) + len(pause)
    whole = np.concatenate(parts)
    whole = whole[: int(at_least_s * RATE_HZ)] if 0 < at_least_s < len(whole) / RATE_HZ else whole
    room = _levelled(coloured(60 * RATE_HZ, 0.5, rng), ROOM_DBFS)
    whole += np.resize(room, len(whole))
    # As a microphone's 16 bits hold it, and as the server gets it.
    whole = (np.rint(np.clip(whole, -1, 1) * 32767) / 32768).astype(np.float32)
    cutter = LiveCutter(RATE_HZ, config, HOP_S)
    windows = []
    for first in range(0, len(whole), RATE_HZ):
        windows += cutter.push(whole[first : first + RATE_HZ])
    return Stretch(
        name=name, items=items, windows=windows, item_of=_attributed(windows, items), samples=whole
    )


def _attributed(windows: list[Segment], items: list[Item]) -> list[int]:
    """The last item that sounds within each window; -1 for none."""
    numbers, at = [], 0
    for window in windows:
        while at + 1 < len(items) and items[at + 1].begin_s < window.start_s + 1.0:
            at += 1
        item = items[at]
        heard = item.begin_s < window.start_s + 1.0 and item.end_s > window.start_s
        numbers.append(at if heard else -1)
    return numbers


def _videos(bench: Bench, half: str, rng: np.random.Generator, kinds: Collection[str]) -> Stretch:
    """Trains, fireworks and water: consecutive seconds of videos, cut again every .25 s.

    Their level is not known: they count as loud enough.
    """
    seconds: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for pair in bench.pairs(SPLIT_OF[half]):
        if pair.subject in FROM_VIDEOS and bench_kind(pair.subject) in kinds:
            seconds[pair.subject, pair.video][pair.window] = pair.spectrogram
    chosen: list[tuple[str, NDArray[np.uint8]]] = []
    for subject in FROM_VIDEOS:
        strips = []
        for (other, _), windows in sorted(seconds.items()):
            run = _longest_run(sorted(windows))
            if other != subject or len(run) < 2:
                continue
            strip = np.concatenate([bench.spectrogram(windows[w]) for w in run], axis=1)
            if strip.mean() >= 8:  # nearly black ones hold no sound to be shown
                strips.append(strip)
        order = rng.permutation(len(strips))
        # The longest first: of val at most three seconds of a video are there.
        order = sorted(order, key=lambda i: -strips[i].shape[1])[: VIDEOS_EACH[half]]
        chosen += [(bench_kind(subject), strips[i]) for i in order]
    step = round(HOP_S * FRAMES_PER_SEGMENT)
    black = np.zeros((128, FRAMES_PER_SEGMENT), np.uint8)
    windows_, item_of, items = [], [], []

    def add(mel: NDArray[np.uint8], dbfs: float, item: int) -> None:
        windows_.append(
            Segment(start_s=len(windows_) * HOP_S, mel=np.ascontiguousarray(mel), peak_db=0.0,
                    rms_dbfs=dbfs)
        )  # fmt: skip
        item_of.append(item)

    for number, i in enumerate(rng.permutation(len(chosen))):
        subject, strip = chosen[i]
        for _ in range(28):  # 7 s: longer than an event goes on
            add(black, -90.0, -1)
        begin_s = len(windows_) * HOP_S
        for first in range(0, strip.shape[1] - FRAMES_PER_SEGMENT + 1, step):
            add(strip[:, first : first + FRAMES_PER_SEGMENT], -25.0, number)
        items.append(Item(kind=subject, subject=subject, begin_s=begin_s,
                          end_s=begin_s + strip.shape[1] / FRAMES_PER_SEGMENT))  # fmt: skip
    return Stretch(name="videos", items=items, windows=windows_, item_of=item_of, samples=None)


def _longest_run(numbers: list[int]) -> list[int]:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return max(runs, key=len)


@cache
def _decoded(path: Path) -> Samples:
    return audio.decode(path, RATE_HZ)


def _gained(samples: Samples, gain_db: float) -> Samples:
    return (samples * 10 ** (gain_db / 20)).astype(np.float32)


def _levelled(samples: Samples, dbfs: float) -> Samples:
    """The sound at this rms level."""
    rms = float(np.sqrt(np.square(samples, dtype=np.float64).mean()))
    return (samples * (10 ** (dbfs / 20) / max(rms, 1e-9))).astype(np.float32)


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
