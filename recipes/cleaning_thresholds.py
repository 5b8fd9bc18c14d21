"""What does each step of cleaning drop, of real material and of what it is meant to find?

    python recipes/cleaning_thresholds.py

Real: the photos of the val split (thresholds were chosen on them) and of devtest (reported), the
published seconds of sound of both, the ESC-10 recordings and the videos of the bench. Made: the
same photos blurred, darkened, written over and cut together; waves that were clipped. The
made material depends on the seed alone. Labels only name the rows.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from soundsight.core.errors import SoundsightError
from soundsight.core.units import RATE_HZ
from soundsight.data.prepare.clean import (
    SPREAD,
    STEPS,
    CleanConfig,
    measure_picture,
    measure_sound,
    reasons,
)
from soundsight.data.vegas.bench import SUBJECTS, Bench, find_bench, photo_subject
from soundsight.media import audio, mel
from soundsight.media.frames import frame_at, open_frames

SEED = 0
MADE = 300
CONFIG = CleanConfig()
TEXT = (
    "the sound of rain on a tin roof Subscribe Thank you for watching Chapter One fireworks 2014 "
    "Episode part II music by Smith and Sons presents How to fix your bike in five minutes LIVE "
    "Tokyo New Year celebration baby laughing compilation credits directed edited camera"
)
GROUNDS = (
    ((0, 0, 0), (255, 255, 255)),
    ((255, 255, 255), (0, 0, 0)),
    ((10, 30, 120), (255, 230, 80)),
    ((240, 235, 220), (60, 30, 20)),
    ((150, 20, 20), (250, 250, 250)),
)
KINDS = ("title", "slide", "screen", "credits")


def show(name: str, measures: list[dict[str, float]]) -> None:
    """Print the share that each step drops."""
    found = [reasons(m, CONFIG) for m in measures]
    shares = (100 * sum(step in f for f in found) / max(len(found), 1) for step in STEPS)
    print(f"{name:34} {len(found):6}  " + " ".join(f"{share:8.1f}" for share in shares))


def lines(rng: np.random.Generator, low: int, high: int) -> str:
    """Return some words."""
    return " ".join(str(word) for word in rng.choice(TEXT.split(), int(rng.integers(low, high))))


def card(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Write text on a flat ground at 384 px, code it and make it smaller: uint8 [96, 96, 3]."""
    ground, ink = GROUNDS[int(rng.integers(len(GROUNDS)))]
    if rng.random() < 0.4:
        made = rng.integers(0, 256, (2, 3))
        while abs(int(made[0].sum()) - int(made[1].sum())) < 300:
            made = rng.integers(0, 256, (2, 3))
        ground, ink = (tuple(map(int, colour)) for colour in made)
    side = 384
    picture = Image.new("RGB", (side, side), ground)
    draw = ImageDraw.Draw(picture)
    low, high = {"title": (30, 60), "slide": (20, 32), "screen": (14, 26), "credits": (18, 30)}[
        kind
    ]
    size = int(rng.integers(low, high))
    font = ImageFont.load_default(size)
    if kind == "title":
        count = int(rng.integers(1, 5))
        for k in range(count):
            y = side / 2 + (k - count / 2) * 1.2 * size
            draw.text((side / 2, y), lines(rng, 1, 3), font=font, fill=ink, anchor="ma")
    elif kind == "slide":
        draw.text((20, 16), lines(rng, 1, 3), font=ImageFont.load_default(44), fill=ink)
        for k in range(int(rng.integers(2, 7))):
            text = "- " + lines(rng, 2, 5)
            draw.text((30, 100 + 1.5 * size * k), text, font=font, fill=ink)
    else:
        for y in np.arange(
            float(rng.uniform(0, 20)), side, (1.3 if kind == "screen" else 1.5) * size
        ):
            if kind == "screen":
                draw.text((8, y), lines(rng, 3, 12), font=font, fill=ink)
            else:
                draw.text((side / 2 - 8, y), lines(rng, 1, 2), font=font, fill=ink, anchor="ra")
                draw.text((side / 2 + 8, y), lines(rng, 1, 4), font=font, fill=ink, anchor="la")
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(rng.integers(40, 95)))
    with Image.open(file) as coded:
        return np.asarray(coded.resize((96, 96), Image.Resampling.LANCZOS))


def noisy(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the noise of a camera: 3 levels."""
    return np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)


def moving(photo: np.ndarray, count: int, width: float, rng: np.random.Generator) -> list:
    """Pan over a photo by ``width`` of the side in ``count`` frames, with noise."""
    large = np.asarray(Image.fromarray(photo).resize((128, 128)))
    starts = np.linspace(0, min(width * 96, 32), count).astype(int)
    return [noisy(large[16:112, x : x + 96], rng) for x in starts]


def seconds_made(photos: np.ndarray, rng: np.random.Generator) -> dict[str, Callable[[], list]]:
    """Return makers of five frames each."""

    def one() -> np.ndarray:
        return photos[int(rng.integers(len(photos)))]

    def cut(width: float) -> list:
        at = int(rng.integers(1, 5))
        return moving(one(), at, width, rng) + moving(one(), 5 - at, width, rng)

    def flash(length: int) -> list:
        photo, at = one(), int(rng.integers(5))
        lit = np.clip(1.8 * photo + 30.0, 0, 255)
        return [noisy(lit if at <= k < at + length else photo, rng) for k in range(5)]

    def fade() -> list:
        a, b = one().astype(float), one().astype(float)
        return [noisy(a + (b - a) * k / 4, rng) for k in range(5)]

    return {
        "made: cut, still shots": lambda: cut(0.0),
        "made: cut, panning shots": lambda: cut(0.12),
        "made: crossfade": fade,
        "made: pan by 15 % of the width": lambda: moving(one(), 5, 0.15, rng),
        "made: pan by 25 % of the width": lambda: moving(one(), 5, 0.25, rng),
        "made: flash, one frame": lambda: flash(1),
        "made: flash that stays": lambda: flash(5),
        "made: one picture repeated": lambda: [one()] * 5,
    }


def pictures(bench: Bench, split: str) -> np.ndarray:
    """Print what is dropped of a split's photos, as they are and changed; return them."""
    names = bench.photos(split)
    photos = np.stack([bench.photo(name) for name in names])
    measured = [measure_picture([photo], 0) for photo in photos]
    show(f"{split}: photos", measured)
    for subject in SUBJECTS:
        own = [m for m, n in zip(measured, names, strict=True) if photo_subject(n) == subject]
        show(f"{split}: photos of {subject}", own)
    for sigma in (2, 3, 5):
        blurred = [Image.fromarray(p).filter(ImageFilter.GaussianBlur(sigma)) for p in photos]
        show(
            f"{split}: photos blurred by {sigma} px",
            [measure_picture([np.asarray(p)], 0) for p in blurred],
        )
    dark = [measure_picture([(p * 0.1).astype(np.uint8)], 0) for p in photos]
    show(f"{split}: photos faded to a tenth", dark)
    return photos


def windows(samples: np.ndarray) -> Iterator[dict[str, float]]:
    """Measure every whole second of a sound."""
    levels = mel.log_mel(samples)
    for second in range(len(samples) // RATE_HZ):
        part = samples[second * RATE_HZ : (second + 1) * RATE_HZ]
        yield measure_sound(part, levels[:, 100 * second : 100 * (second + 1)], 0.0)


def sounds(bench: Bench, rng: np.random.Generator) -> None:
    """Print what is dropped of real and of made seconds of sound."""
    for split in ("val", "devtest"):
        published = (bench.spectrogram(pair.spectrogram) for pair in bench.pairs(split))
        # Waveforms are not published: only the log-mel speaks here.
        loud = np.full(RATE_HZ, 0.1, dtype=np.float32)
        show(f"{split}: published seconds", [measure_sound(loud, m, 0.0) for m in published])
    recordings = sorted((bench.root / "sounds").glob("*.ogg"))
    show("ESC-10: seconds", [m for path in recordings for m in windows(audio.decode(path))])
    tracks = []
    for path in sorted((bench.root / "videos").glob("*.mp4")):
        try:
            tracks += list(windows(audio.decode(path)))
        except SoundsightError:
            continue
    show("videos: seconds of sound", tracks)
    t_s = np.arange(RATE_HZ) / RATE_HZ
    for gain in (1.0, 1.05, 2.0, 4.0):
        made = []
        for pitch_hz in (50, 220, 440, 1000, 3000):
            wave = np.clip(gain * np.sin(2 * np.pi * pitch_hz * t_s), -1, 1)
            wave = wave + rng.normal(0, 0.005, RATE_HZ)
            made += list(windows(wave.astype(np.float32)))
        show(f"made: sines at {gain:g} x full scale", made)


def videos(folder: Path) -> None:
    """Print what is dropped of the seconds of real videos."""
    for path in sorted(folder.glob("*.mp4")):
        with open_frames(path) as reader:
            length_s = reader.duration_s or 0.0
        measured = [
            measure_picture([frame_at(path, start + u) for u in SPREAD], 2)
            for start in range(int(length_s))
        ]
        show(f"video {path.name}", measured)


def main() -> None:
    """Print one line for each kind of material: how many, and the share dropped by each step."""
    bench, rng = find_bench(), np.random.default_rng(SEED)
    print(f"{'percent dropped by':34} {'of':>6}  " + " ".join(f"{step:>8}" for step in STEPS))
    photos = {split: pictures(bench, split) for split in ("val", "devtest")}
    for kind in KINDS:
        show(f"made: {kind}", [measure_picture([card(kind, rng)], 0) for _ in range(MADE)])
    for split, of_split in photos.items():
        for name, make in seconds_made(of_split, rng).items():
            show(f"{split}, {name}", [measure_picture(make(), 2) for _ in range(MADE)])
    sounds(bench, rng)
    videos(bench.root / "videos")


if __name__ == "__main__":
    main()
