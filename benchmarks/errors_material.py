"""What ``errors.py`` listens to: an hour of other sounds, and sounds of the five subjects.

Two halves share nothing: ``val``, by which thresholds are chosen, and ``test``. Recordings are
those of ESC-10 (``sounds/`` of the bench), in halves by the number of the original at
freesound.org; speech is made by espeak-ng, with other voices and other sentences in each half;
noise is made here. Trains and fireworks have no recordings in the bench: consecutive seconds of its
videos are joined and cut again every quarter of a second.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.units import FRAMES_PER_SEGMENT, RATE_HZ
from soundsight.media import audio
from soundsight.media.mel import MelConfig
from soundsight.media.segments import Segment
from soundsight.pairs.bench import Bench
from soundsight.runtime.stream import LiveCutter

HALVES = ("val", "test")
HOP_S = 0.25
SUBJECT_OF = {"dog_bark": "dog", "baby_cry": "baby", "sea_waves": "water"}
"""Classes of ESC-10 that are subjects of the bench."""
OTHERS = (
    "chainsaw", "clock_tick", "fire_crackling", "helicopter", "person_sneeze", "rain", "rooster",
)  # fmt: skip
GAINS_DB = (0.0, -10.0, -20.0)
"""Every recording sounds at each of these, as near and far things do."""
FROM_VIDEOS = ("rail", "fireworks")
VIDEOS_EACH = {"val": 60, "test": 40}
ROOM_DBFS = -72.0
HOUR_S = 3600.0

SENTENCES = {
    "en": (
        "Could you pass me the salt, please? I think it is next to the bread.",
        "The meeting has been moved to Thursday, a quarter past nine.",
        "I left my keys on the kitchen table again this morning.",
        "Turn left at the second light, then go straight on for a mile.",
        "She said the parcel would come before noon, but nobody rang.",
        "We are going to see my sister at the weekend if it stays dry.",
        "Have you read the newspaper today? There is a story about our street.",
        "Wait a moment, I have to answer the phone.",
    ),
    "de": (
        "Kannst du mir bitte das Salz geben? Ich glaube, es steht neben dem Brot.",
        "Die Sitzung ist auf Donnerstag verschoben worden, Viertel nach neun.",
        "Ich habe heute Morgen wieder meine Schluessel liegen lassen.",
        "Warte einen Augenblick, ich muss ans Telefon gehen.",
    ),
    "fr": (
        "Peux-tu me passer le sel, s'il te plait? Je crois qu'il est sur la table.",
        "La reunion est reportee a jeudi, neuf heures et quart.",
        "Prenez la deuxieme rue a gauche, puis continuez tout droit.",
        "Attends un instant, je dois repondre au telephone.",
    ),
    "es": (
        "Me pasas la sal, por favor? Creo que esta al lado del pan.",
        "La reunion se ha aplazado al jueves, a las nueve y cuarto.",
        "Esta manana he vuelto a dejar las llaves en la mesa.",
        "Espera un momento, tengo que contestar al telefono.",
    ),
}
VARIANTS = {
    "val": ("m1", "m3", "m5", "f1", "f3", "f5"),
    "test": ("m2", "m4", "m6", "m7", "f2", "f4"),
}
SPEEDS = {"val": (130, 165, 200), "test": (145, 180, 220)}

Samples = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that sounds.

    Attributes:
        kind: class of ESC-10, ``speech``, ``noise``, ``near silence``, or a subject of videos.
        subject: the bench's subject that it is; None for anything else.
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


def stretches(bench: Bench, half: str, config: MelConfig, seed: int) -> list[Stretch]:
    """Everything of one half: ``others`` (an hour), ``subjects`` and ``videos``."""
    rng = np.random.default_rng((HALVES.index(half), seed, 31))
    recordings = halves(bench.root / "sounds")[half]
    others = [
        (kind, None, _gained(_decoded(path), gain))
        for kind, path in recordings
        if kind in OTHERS
        for gain in GAINS_DB
    ]
    others += [("speech", None, s) for s in speech(half, rng)]
    others += [("noise", None, s) for s in noises(rng)]
    subjects = [
        (kind, SUBJECT_OF[kind], _gained(_decoded(path), gain))
        for kind, path in recordings
        if kind in SUBJECT_OF
        for gain in GAINS_DB
    ]
    return [
        _joined("others", others, config, rng, HOUR_S),
        _joined("subjects", subjects, config, rng),
        _videos(bench, half, rng),
    ]


def speech(half: str, rng: np.random.Generator) -> list[Samples]:
    """Sentences at three speeds by 24 voices, at levels of -40 to -15 dBFS."""
    spoken = []
    number = HALVES.index(half)
    for language, sentences in SENTENCES.items():
        for sentence in sentences[number::2]:
            for variant in VARIANTS[half]:
                for speed in SPEEDS[half]:
                    samples = _said(f"{language}+{variant}", speed, sentence)
                    spoken.append(_levelled(samples, rng.uniform(-40, -15)))
    return spoken


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


def _videos(bench: Bench, half: str, rng: np.random.Generator) -> Stretch:
    """Trains and fireworks: consecutive seconds of videos, cut again every quarter of a second.

    Their level is not known: they count as loud enough.
    """
    split = {"val": "val", "test": "devtest"}[half]
    seconds: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for pair in bench.pairs(split):
        if pair.subject in FROM_VIDEOS:
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
        chosen += [(subject, strips[i]) for i in order]
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


def _said(voice: str, speed: int, sentence: str) -> Samples:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        subprocess.run(
            ["espeak-ng", "-v", voice, "-s", str(speed), "-w", str(path), sentence],
            check=True, capture_output=True,
        )  # fmt: skip
        return audio.decode(path, RATE_HZ)


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
