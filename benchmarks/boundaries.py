"""How far the borders that a storyboard tells lie from the true ones, on spliced recordings.

    python benchmarks/boundaries.py [--model DIR] [--split val] [--tracks 60] [--seed 0]

Recordings of ESC-10 (``sounds/`` of the bench, in the halves of ``errors_material``) and of the
everyday sounds (``SOUNDSIGHT_EVERYDAY``, by their own split) are trimmed to what is heard of them,
brought to -30 to -15 dBFS and joined, over a room of -75 dBFS: one half right after the other, of
different kinds of which the model knows one at least; the other half with 1.2 to 6 s of quiet
between. The true borders are known to the sample. To each the nearest told edge of a span is
looked for, at most 2.5 s away; what has none is missed. Nothing may be tuned on ``devtest``.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from errors_material import HALVES, SUBJECT_OF, halves
from numpy.typing import NDArray

from soundsight.core.units import RATE_HZ
from soundsight.media import audio
from soundsight.runtime.file_events import find_events
from soundsight.runtime.translator import Translator
from soundsight.views.events import FileEvents

KNOWN = ("baby", "dog", "train", "fireworks", "water")
PIECES = 8
"""Recordings of a track."""

REACH_S = 2.5
HEARD_DBFS = -50.0
ROOM_DBFS = -75.0
SHORTEST_S, LONGEST_S = 1.5, 6.0
BORDERS = ("start after quiet", "end before quiet", "from one sound to another")

Samples = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """A spliced signal.

    Attributes:
        samples: float32 [t] at 44,100 Hz.
        borders: (seconds, one of ``BORDERS``), in order.
    """

    samples: Samples
    borders: list[tuple[float, str]]


def recordings(bench: Path, everyday: Path, split: str) -> dict[str, list[Path]]:
    """Kind -> files of a split; the model's subjects have its own names."""
    half = HALVES[("val", "devtest").index(split)]
    found: dict[str, list[Path]] = {}
    for kind, path in halves(bench / "sounds")[half]:
        found.setdefault(SUBJECT_OF.get(kind, kind), []).append(path)
    for table, column in (("sounds.csv", "subject"), ("others.csv", "kind")):
        if not (everyday / table).exists():
            print(f"{everyday / table} is not there: without its sounds")
            continue
        with (everyday / table).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["split"] == split:
                    found.setdefault(row[column], []).append(everyday / row["file"])
    return found


def heard(path: Path, rng: np.random.Generator) -> Samples | None:
    """What is heard of a recording, at a level of its own; None where that is too short."""
    samples = audio.decode(path, RATE_HZ)
    rms = float(np.sqrt(np.square(samples, dtype=np.float64).mean()))
    if not rms:
        return None
    samples = (samples * 10 ** (rng.uniform(-30, -15) / 20) / rms).astype(np.float32)
    step = RATE_HZ // 100
    frames = samples[: len(samples) // step * step].reshape(-1, step)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power >= 10 ** (HEARD_DBFS / 10))
    longest = round(LONGEST_S * 100)
    first = loud[0] if len(loud) else 0
    last = loud[loud < first + longest][-1] + 1 if len(loud) else 0
    piece = np.clip(samples[first * step : last * step], -1, 1)
    return piece if len(piece) >= SHORTEST_S * RATE_HZ else None


def spliced(found: dict[str, list[Path]], rng: np.random.Generator) -> Track:
    """Join some recordings."""
    quiet_s = float(rng.uniform(0.5, 3))
    parts: list[Samples] = [np.zeros(round(quiet_s * RATE_HZ), np.float32)]
    at, borders, before = len(parts[0]), [], ""
    kinds = sorted(found)
    for number in range(PIECES):
        follows = bool(before)
        while True:
            kind = str(rng.choice(KNOWN if rng.random() < 0.5 else kinds))
            if kind not in found or (follows and kind == before):
                continue
            if follows and kind not in KNOWN and before not in KNOWN:
                continue
            files = found[kind]
            piece = heard(files[int(rng.integers(len(files)))], rng)
            if piece is not None:
                break
        borders.append((at / RATE_HZ, BORDERS[2 if follows else 0]))
        parts.append(piece)
        at += len(piece)
        before = kind if rng.random() < 0.5 and number < PIECES - 1 else ""
        if not before:
            borders.append((at / RATE_HZ, BORDERS[1]))
            parts.append(np.zeros(round(rng.uniform(1.2, 6) * RATE_HZ), np.float32))
            at += len(parts[-1])
    whole = np.concatenate(parts)
    room = rng.standard_normal(len(whole)) * 10 ** (ROOM_DBFS / 20)
    return Track(samples=np.clip(whole + room, -1, 1).astype(np.float32), borders=borders)


def told(translator: Translator, track: Track) -> list[float]:
    """The edges of all spans of the track's events, in seconds."""
    *_, found = find_events(translator, iter([track.samples]))
    assert isinstance(found, FileEvents)
    return sorted({edge for event in found.events for span in event.spans for edge in span})


def errors(translator: Translator, tracks: list[Track]) -> dict[str, list[float]]:
    """Signed error (told - true) of each border in seconds, NaN for one that is missed."""
    made: dict[str, list[float]] = {name: [] for name in BORDERS}
    for track in tracks:
        edges = np.asarray(told(translator, track) or [np.inf])
        for at_s, name in track.borders:
            error = float(edges[np.abs(edges - at_s).argmin()] - at_s)
            made[name].append(error if abs(error) <= REACH_S else np.nan)
    return made


def row(name: str, values: list[float]) -> str:
    """One line of the table."""
    whole = np.asarray(values)
    known = whole[~np.isnan(whole)]
    size = np.abs(known)
    return (
        f"| {name} | {len(whole)} | {len(whole) - len(known)} | {np.median(size):.3f} "
        f"| {size.mean():.3f} | {np.quantile(size, 0.9):.3f} | {size.max():.2f} "
        f"| {np.median(known):+.3f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--split", choices=("val", "devtest"), default="val")
    parser.add_argument("--tracks", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bench = Path(os.environ.get("SOUNDSIGHT_BENCH", "../shared/data"))
    everyday = Path(os.environ.get("SOUNDSIGHT_EVERYDAY", "../shared/everyday"))
    translator = Translator.load(options.model, threads=1)
    found = recordings(bench, everyday, options.split)
    rng = np.random.default_rng((("val", "devtest").index(options.split), options.seed))
    tracks = [spliced(found, rng) for _ in range(options.tracks)]
    sound_s = sum(len(track.samples) for track in tracks) / RATE_HZ
    began = time.process_time()
    made = errors(translator, tracks)
    spent_s = time.process_time() - began
    print(f"{options.split}, {len(tracks)} tracks, {sound_s / 60:.1f} min, seed {options.seed}")
    print("| border | true | missed | median | mean | 90 % | largest | signed median |")
    print("|---|---|---|---|---|---|---|---|")
    for name in BORDERS:
        print(row(name, made[name]))
    print(row("all", [error for name in BORDERS for error in made[name]]))
    print(f"CPU: {1000 * spent_s / sound_s:.2f} ms a second of sound")


if __name__ == "__main__":
    main()
