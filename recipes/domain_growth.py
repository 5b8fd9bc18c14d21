"""Teach a trained model two new subjects from a user's own clips: helicopter and chainsaw.

    python recipes/domain_growth.py --out runs/growth --threads 1 --precision bf16-mixed

Twenty ESC-10 recordings of each (``sounds/`` of the bench) become short videos under drawings of
helicopters and chainsaws; every fourth recording is kept aside. ``soundsight prepare`` makes pairs
of the rest; encoder and translator go on from the model (``--init``) with these pairs beside the
old ones, so that nothing old is forgotten, and the grown model is asked about the recordings that
were kept aside. A picture counts as right where most of its five nearest neighbours, among the
drawings and the bench's train photos and in the features of the independent photo classifier, show
its subject. The new pairs are few, so ``--data`` names them thirty times. Some 15 minutes of one
CPU core. Writes ``README.md`` and ``sheet.png``.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

import synth
from soundsight.core.files import atomic_file
from soundsight.core.units import IMAGE_PX, RATE_HZ
from soundsight.data.vegas.bench import find_bench, photo_subject
from soundsight.judges.apply import Judges
from soundsight.media import audio
from soundsight.media.segments import segments
from soundsight.runtime.model_folder import bundled
from soundsight.runtime.translator import Translator
from steps import arguments, command_line, how, measured, percent, recordings, run, scaled, table

NEW = ("helicopter", "chainsaw")
KEPT_ASIDE = 4
NAMED = 30
ENCODER_STEPS, TRANSLATOR_STEPS = 600, 1500
NEIGHBOURS = 5
OLD = ("informativity, nothing hidden", "class accuracy")
SIDE = 4 * IMAGE_PX
"""Drawn at four times the size and shrunk, for smooth edges."""

Picture = NDArray[np.uint8]


def drawing(subject: str, seed: int) -> Picture:
    """Draw a helicopter in the sky or a chainsaw at a log: uint8 [96, 96, 3]."""
    rng = np.random.default_rng((NEW.index(subject), seed))

    def colour(*base: int) -> tuple[int, ...]:
        return tuple(int(np.clip(c + rng.integers(-25, 26), 0, 255)) for c in base)

    sky, ground = ((150, 195, 235), (95, 140, 80)) if subject == NEW[0] else ((120, 150, 95),) * 2
    image = Image.new("RGB", (SIDE, SIDE), colour(*sky))
    pen = ImageDraw.Draw(image)
    horizon = int(SIDE * rng.uniform(0.75, 0.95))
    pen.rectangle((0, horizon, SIDE, SIDE), fill=colour(*ground))
    x, y = SIDE * rng.uniform(0.4, 0.6), SIDE * rng.uniform(0.4, 0.55)
    size = SIDE * rng.uniform(0.2, 0.28)
    body = colour(*((190, 40, 40), (45, 60, 90), (220, 180, 40), (60, 90, 60))[rng.integers(4)])
    if subject == NEW[0]:
        pen.line((x, y, x + 1.9 * size, y - 0.15 * size), fill=body, width=int(size / 5))
        pen.ellipse((x - size, y - 0.55 * size, x + size, y + 0.6 * size), fill=body)
        pen.pieslice((x - size, y - 0.5 * size, x, y + 0.5 * size), 150, 290, fill=(205, 230, 245))
        pen.line((x, y - 0.5 * size, x, y - 0.9 * size), fill=(40, 40, 40), width=8)
        tilt = size * rng.uniform(-0.15, 0.15)
        pen.line((x - 1.8 * size, y - 0.9 * size - tilt, x + 1.8 * size, y - 0.9 * size + tilt),
                 fill=(40, 40, 40), width=10)  # fmt: skip
        pen.ellipse((x + 1.6 * size, y - 0.5 * size, x + 2.2 * size, y + 0.15 * size),
                    outline=(40, 40, 40), width=6)  # fmt: skip
        pen.line((x - 0.8 * size, y + 0.9 * size, x + 0.8 * size, y + 0.9 * size),
                 fill=(40, 40, 40), width=9)  # fmt: skip
    else:
        log = colour(125, 85, 50)
        pen.rectangle((0, y + 0.7 * size, SIDE, y + 1.7 * size), fill=log)
        for ring in (0.45, 0.3, 0.15):
            pen.ellipse((SIDE * 0.8 - ring * size, y + (1.2 - ring) * size,
                         SIDE * 0.8 + ring * size, y + (1.2 + ring) * size),
                        outline=colour(90, 60, 35), width=6)  # fmt: skip
        pen.rectangle((x - 1.3 * size, y - 0.5 * size, x - 0.1 * size, y + 0.4 * size), fill=body)
        pen.arc((x - 1.2 * size, y - 1.0 * size, x - 0.2 * size, y), 180, 360, (30, 30, 30), 22)
        blade = (x - 0.1 * size, y - 0.2 * size, x + 1.7 * size, y + 0.2 * size)
        pen.rounded_rectangle(blade, 40, fill=(200, 200, 205), outline=(50, 50, 50), width=8)
    small = image.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.LANCZOS)
    noisy = np.asarray(small.filter(ImageFilter.GaussianBlur(0.4)), int)
    noisy = noisy + rng.normal(0, 4, noisy.shape).round().astype(int)
    if rng.random() < 0.5:
        noisy = noisy[:, ::-1]
    return np.clip(noisy, 0, 255).astype(np.uint8)


def write_videos(found: list[tuple[str, Path]], folder: Path) -> list[tuple[str, Path]]:
    """Write a video of every recording that is not kept aside; return those that are."""
    aside = []
    for subject in NEW:
        for number, path in enumerate(path for name, path in found if name == subject):
            if number % KEPT_ASIDE == 0:
                aside.append((subject, path))
                continue
            video = folder / subject / f"{subject}_{number:03d}.mp4"
            if not video.exists():
                samples = audio.decode(path, RATE_HZ)
                frames = [drawing(subject, number)] * math.ceil(10 * len(samples) / RATE_HZ)
                synth.write_clip(video, frames, samples)
    return aside


def pictures_of(model: Path, sounds: list[tuple[str, Path]]) -> tuple[list[str], Picture]:
    """Draw every second of the sounds: subjects and uint8 [n, 96, 96, 3], nothing hidden."""
    translator = Translator.load(model, threads=1)
    mel = translator.info.mel
    subjects, drawn = [], []
    for subject, path in sounds:
        for segment in segments(audio.stream(path), config=mel):
            subjects.append(subject)
            drawn.append(translator.imagine(segment.mel)[0])
    return subjects, np.stack(drawn)


def main() -> None:
    """Make the clips, train on, ask both models, write the table and the sheet."""
    parser = arguments(__doc__, "runs/growth")
    parser.add_argument("--init", type=Path, default=None, help="default: the bundled model")
    args = parser.parse_args()
    out, model = args.out, args.init or bundled()
    bench = find_bench(args.data)
    aside = write_videos(recordings(bench), out / "videos")
    run("prepare", out / "videos", "-o", out / "pairs", "--layout", "classes", "--clean", "none",
        "--split", "1,0,0", "--workers", 1)  # fmt: skip
    both = [*["--data", bench.root], *(["--data", out / "pairs"] * NAMED)]
    options = how(args)
    run("train", "encoder", "--init", model, *both, "--steps", scaled(args, ENCODER_STEPS),
        "--batch-size", 128, "--set", "learning_rate=0.0005", "-o", out / "encoder",
        *options)  # fmt: skip
    run("train", "translator", "--init", model, "--encoder", out / "encoder", *both,
        "--steps", scaled(args, TRANSLATOR_STEPS), "-o", out / "translator", *options)  # fmt: skip
    run("export", out / "translator", "--name", "grown", "-o", out / "model", "--overwrite")

    classifier = Judges.load(args.judges).classifier
    assert classifier is not None, "these judges have no photo classifier"
    members = bench.photos("train")
    known = [photo_subject(member) for member in members]
    photos = [bench.photo(member) for member in members]
    for subject in NEW:
        known += [subject] * 200
        photos += [drawing(subject, 1000 + number) for number in range(200)]
    shelf = classifier.features(np.stack(photos))
    rows, sheet = [], []
    for name, folder in (("before", model), ("after", out / "model")):
        subjects, drawn = pictures_of(folder, aside)
        features = classifier.features(drawn)
        apart = ((features[:, None] - shelf[None]) ** 2).sum(axis=2)
        nearest = np.argsort(apart, axis=1)[:, :NEIGHBOURS]
        seen = [max(set(near), key=near.count) for near in ([known[i] for i in n] for n in nearest)]
        for subject in NEW:
            mine = [i for i, each in enumerate(subjects) if each == subject]
            right = sum(seen[i] == subject for i in mine)
            rows.append([name, subject, len(mine), f"{100 * right / len(mine):.0f}"])
            sheet.append(np.concatenate(drawn[mine[:10]], axis=1))
    parts = [f"# Two new subjects\n\n`{command_line()}`\n",
             table(["", "subject", "unknown seconds", "pictures right, %"], rows)]  # fmt: skip
    old = []
    for name, folder in (("before", model), ("after", out / "model")):
        report = measured(args, folder, out / f"report-{name}", "--split", "val")
        old.append([name, *[percent(report["rows"][row]["mean"]) for row in OLD]])
    parts += ["\nThe old subjects, on val:\n", table(["", *[f"{row}, %" for row in OLD]], old)]
    with atomic_file(out / "README.md") as temporary:
        temporary.write_text("\n".join(parts) + "\n", "utf-8")
    Image.fromarray(np.concatenate(sheet)).save(out / "sheet.png")
    print("\n".join(parts))


if __name__ == "__main__":
    main()
