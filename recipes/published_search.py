"""What the paper leaves open, searched: weights, optimisers, the discriminator's details.

    python recipes/published_search.py --out runs/published_search --workers 2

Every trial trains the published networks with the published losses (the RC-score, its L1) on the
same 64,000 pictures (1,000 steps of 64) at the size ``small``, from one autoencoder of the size
``compact``, and changes what ``TRIALS`` says (*pixels first*: from one generator that has learned
from the pixel loss alone; *aligned pairs*: ``recipes/aligned_pairs.py``). After so few pictures
next to none is informative, so trials are ranked by *coherence*: the judges' log-odds for the class
of a picture's sound less those for another class, on 500 seconds of val (docs/training.md, watching
a run). KID stands beside it. Devtest is not used.

A trial takes five to seven minutes of one core with AMX (``--precision bf16-mixed``), ten of one
with AVX2, the whole search more than two hours of two. Each adds its row to
``docs/published_search.csv``; a trial that has one is not run again, and a search that was stopped
goes on by the same command. ``--trial NAME`` runs one.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from soundsight.core.files import atomic_file
from soundsight.core.units import IMAGE_PX
from soundsight.evaluation.segments import write_csv
from soundsight.judges.apply import PACKAGED_JUDGES
from steps import (
    arguments,
    command_line,
    how,
    log_of,
    pixels_alone,
    run,
    scaled,
    table,
    training,
    went_wrong,
    where,
)

STEPS, PIXEL_STEPS, BATCH = 1000, 1500, 64
AUTOENCODER, AUTOENCODER_STEPS = "compact", 6000
LAST_LINES = 10
PICTURES, LINE_PX = 8, 14
TABLE = Path(__file__).parent.parent / "docs" / "published_search.csv"

Settings = dict[str, Any]

NO_PIXELS: Settings = {"pixel_weight": 0}
SLOW_D: Settings = {"generator_rate": 1e-3, "discriminator_rate": 1e-4}
# From a generator that has learned from the pixel loss alone (``PIXEL_STEPS``).
PIXELS_FIRST: Settings = {"start": "pixels", "generator_rate": 2e-4, "discriminator_rate": 4e-4,
                          "discriminator_dropout": 0.2, "pixel_weight": 8}  # fmt: skip
ALIGNED: Settings = {"pairs": "aligned"}
TRIALS: dict[str, Settings] = {
    # The strict reading, in which both losses weigh the same, and the ways out of its trouble: the
    # discriminator wins, whatever the generator does.
    "strict": {},
    "pixel 0": NO_PIXELS,
    "pixel 0, dropout .3 in D": NO_PIXELS | {"discriminator_dropout": 0.3},
    "slow D, pixel 0": SLOW_D | NO_PIXELS,
    "slow D, pixel 0, standardised": SLOW_D | NO_PIXELS | {"standardised_embedding": True},
    "slow D": SLOW_D,
    "slow D, everyday ears": SLOW_D | {"encoder": "ears"},
    "slow D, noise .25": SLOW_D | {"noise_ratio": 0.25},
    "no adversary": {"generator_rate": 1e-3, "adversarial_weight": 0},
    # First the pixel loss alone; then one thing at a time.
    "pixels first": PIXELS_FIRST,
    "pixels first, DiffAugment": PIXELS_FIRST | {"diff_augment": True},
    "pixels first, dropout .35 in D": PIXELS_FIRST | {"discriminator_dropout": 0.35},
    "pixels first, rates 5e-4, 1e-4":
        PIXELS_FIRST | {"generator_rate": 5e-4, "discriminator_rate": 1e-4},
    "pixels first, augmented photos": PIXELS_FIRST | {"augment_photos": True},
    "pixels first, rates 1e-4, 4e-4": PIXELS_FIRST | {"generator_rate": 1e-4},
    "pixels first, rates 4e-4, 4e-4": PIXELS_FIRST | {"generator_rate": 4e-4},
    "pixels first, pixel 0": PIXELS_FIRST | NO_PIXELS,
    "pixels first, pixel .1": PIXELS_FIRST | {"pixel_weight": 0.1},
    "pixels first, pixel 1": PIXELS_FIRST | {"pixel_weight": 1},
    "pixels first, pixel 3": PIXELS_FIRST | {"pixel_weight": 3},
    "pixels first, pixel 25": PIXELS_FIRST | {"pixel_weight": 25},
    "pixels first, EMA": PIXELS_FIRST | {"moving_average.reading": "ema"},
    "pixels first, K = 5": PIXELS_FIRST | {"moving_average.reading": "snapshots"},
    "pixels first, smoothing .5": PIXELS_FIRST | {"label_smoothing": 0.5},
    "pixels first, no BatchNorm at D's end": PIXELS_FIRST | {"score_norm": False},
    "pixels first, two steps of D": PIXELS_FIRST | {"discriminator_steps": 2},
    "pixels first, beta1 0": PIXELS_FIRST | {"beta1": 0},
    "pixels first, MSE": PIXELS_FIRST | {"pixel": "mse"},
    "pixels first, SGD .05, .05":
        PIXELS_FIRST | {"optimizer": "sgd", "generator_rate": 0.05, "discriminator_rate": 0.05},
    "pixels first, aligned pairs": PIXELS_FIRST | ALIGNED,
    # The everyday ears in place of the autoencoder, where --ears says where they are.
    "pixels first, everyday ears": PIXELS_FIRST | {"encoder": "ears"},
}  # fmt: skip

FIGURES = (
    "val_coherence", "val_second_coherence", "val_kid", "val_informativity", "val_shuffled",
    "val_second_informativity", "val_second_shuffled", "val_pixel_loss", "val_other_pixel_loss",
)  # fmt: skip
LOSSES = ("d_loss", "g_adversarial", "pixel_loss", "variety")
COLUMNS = (
    "trial", "preset", "encoder", "pictures", "seed", *FIGURES, *LOSSES, "pairs_a_second",
    "changed",
)  # fmt: skip

_writing = threading.Lock()


def known(path: Path) -> list[dict[str, str]]:
    """Return the rows of the table, none where there is none."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def add_row(path: Path, row: dict[str, object]) -> None:
    """Write one more row."""
    with _writing:
        rows = [*known(path), row]
        write_csv(path, COLUMNS, [[line.get(key, "") for key in COLUMNS] for line in rows])


def measure(folder: Path) -> dict[str, object]:
    """Return the figures of a finished trial; empty of one whose loss was no longer finite."""
    if went_wrong(folder):
        return {}
    log = log_of(folder)
    last = [line for line in log if "pixel_loss" in line][-LAST_LINES:]
    found: dict[str, float] = {
        key: float(np.mean([line[key] for line in last])) for key in LOSSES if key in last[0]
    }
    looked = [line for line in log if FIGURES[0] in line][-1]
    found |= {key: looked[key] for key in FIGURES if key in looked}
    rates = [line["items_per_s"] for line in log if "items_per_s" in line]
    found["pairs_a_second"] = float(np.median(rates))
    return {key: f"{value:.4g}" for key, value in found.items() if math.isfinite(value)}


def slug(name: str, seed: int) -> str:
    """Name the folder of a trial."""
    words = "".join(letter if letter.isalnum() or letter == "." else " " for letter in name.lower())
    return "-".join([*words.split(), str(seed)])


def heard_by(args: argparse.Namespace, name: str) -> str:
    """Name the encoder of a trial, as the table does."""
    if TRIALS[name].get("encoder") == "ears":
        return "ears"
    return f"{AUTOENCODER}, {scaled(args, AUTOENCODER_STEPS)} steps"


def start_of(args: argparse.Namespace, encoder: Path) -> Path:
    """Name the run of the pixel loss alone that listens to an encoder."""
    folder: Path = args.out / f"pixels-{'ears' if encoder == args.ears else 'autoencoder'}"
    return folder


def try_out(args: argparse.Namespace, name: str, encoder: Path, seed: int) -> None:
    """Train one trial and add its row."""
    steps, preset, folder = scaled(args, STEPS), args.preset or "small", args.out / slug(name, seed)
    # Of a thousand steps, an average over the last hundred.
    settings = {"ema_decay": 0.99, **TRIALS[name]}
    if settings.pop("encoder", "") == "ears":
        encoder = args.ears
    sizes = (
        ["--init", start_of(args, encoder)] if settings.pop("start", "") else ["--preset", preset]
    )
    aligned = settings.pop("pairs", "") == "aligned"
    pairs = ["--data", args.out / "aligned"] if aligned else where(args)
    changes = [part for key, value in settings.items()
               for part in ("--set", f"{key}={json.dumps(value)}")]  # fmt: skip
    run("train", "translator", "--encoder", encoder, *sizes, "--objective", "rc",
        "--steps", steps, "--batch-size", BATCH, "--seed", seed, *changes,
        "--judges", args.judges or PACKAGED_JUDGES, "--evaluate-every", max(1, steps // 4),
        *pairs, *how(args), "-o", folder, unless=lambda: went_wrong(folder))  # fmt: skip
    add_row(args.table, {
        "trial": name, "preset": preset, "encoder": heard_by(args, name),
        "pictures": steps * BATCH, "seed": seed, **measure(folder),
        "changed": json.dumps(TRIALS[name]),
    })  # fmt: skip


def report(args: argparse.Namespace) -> None:
    """Write report.md, best coherence first, and pictures.jpg, a row of each trial that is here."""
    rows = sorted(known(args.table), key=lambda row: -float(row[FIGURES[0]] or "-inf"))
    shown = [key for key in COLUMNS if key != "changed"]
    head = [key.removeprefix("val_").replace("_", " ") for key in shown]
    text = f"# The search\n\n`{command_line()}`\n\nOn val, coherence in nats.\n\n"
    text += table(head, [[row[key] for key in shown] for row in rows]) + "\n"
    with atomic_file(args.out / "report.md") as temporary:
        temporary.write_text(text, "utf-8")
    strips = []
    for row in rows:
        grids = sorted((args.out / slug(row["trial"], int(row["seed"])) / "pictures").glob("*.png"))
        if grids and row["preset"] == (args.preset or "small"):
            grid = Image.open(grids[-1]).convert("RGB").crop((0, 0, PICTURES * IMAGE_PX, IMAGE_PX))
            strip = Image.new("RGB", (grid.width, grid.height + LINE_PX), "white")
            strip.paste(grid, (0, LINE_PX))
            ImageDraw.Draw(strip).text((2, 1), row["trial"], fill="black")
            strips.append(strip)
    if strips:
        sheet = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)))
        for place, strip in enumerate(strips):
            sheet.paste(strip, (0, place * strip.height))
        with atomic_file(args.out / "pictures.jpg") as temporary:
            sheet.save(temporary, format="jpeg", quality=85)
    print(text)


def main() -> None:
    """Run every trial that has no row, and write the report."""
    parser = arguments(__doc__, "runs/published_search", seeds=1)
    parser.set_defaults(threads=1)
    parser.add_argument("--workers", type=int, default=2, help="trials at a time")
    parser.add_argument("--trial", action="append", choices=list(TRIALS), help="this one alone")
    parser.add_argument("--pixel-steps", type=int, default=PIXEL_STEPS, help="of the starts")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--ears", type=Path, help="run of `train encoder --preset everyday`")
    args = parser.parse_args()
    encoder, preset = args.out / "autoencoder", args.preset or "small"
    run("train", "encoder", "--kind", "autoencoder", "--schedule", "published",
        "--preset", AUTOENCODER, "--steps", scaled(args, AUTOENCODER_STEPS), *training(args),
        "-o", encoder)  # fmt: skip
    of_aligned = any(TRIALS[name].get("pairs") for name in args.trial or TRIALS)
    if of_aligned and not (args.out / "aligned" / "pairs.csv").exists():
        script = Path(__file__).with_name("aligned_pairs.py")
        subprocess.run([sys.executable, script, "--encoder", encoder, *map(str, where(args)),
                        "-o", args.out / "aligned"], check=True)  # fmt: skip
    of_pixels = [TRIALS[name] for name in args.trial or TRIALS if "start" in TRIALS[name]]
    for listens in {args.ears if of.get("encoder") == "ears" else encoder for of in of_pixels}:
        if listens is not None:
            run("train", *pixels_alone(args, listens, preset), *training(args),
                "-o", start_of(args, listens))  # fmt: skip
    pictures = scaled(args, STEPS) * BATCH
    there = {(row["trial"], row["preset"], row["encoder"], row["pictures"], row["seed"])
             for row in known(args.table)}  # fmt: skip
    with ThreadPoolExecutor(args.workers) as pool:
        waiting = [
            pool.submit(try_out, args, name, encoder, seed)
            for seed in range(args.seeds)
            for name in args.trial or TRIALS
            if (args.ears or TRIALS[name].get("encoder") != "ears")
            and (name, preset, heard_by(args, name), str(pictures), str(seed)) not in there
        ]
        for trial in waiting:
            trial.result()
    report(args)


if __name__ == "__main__":
    main()
