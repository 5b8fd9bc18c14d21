"""What the paper leaves open, searched: weights, optimisers, the discriminator's details.

    python recipes/published_search.py --out runs/published_search --workers 2

Every trial trains the published networks with the published losses (the RC-score, its L1) on the
same 64,000 pictures (1,000 steps of 64) at the size ``small``, from one autoencoder, and changes
what ``TRIALS`` says (*aligned pairs*: ``recipes/aligned_pairs.py``). After so few pictures next to
none is informative, so trials are ranked by *coherence*: the judges' log-odds for the class of a
picture's sound less those for another class, on 500 seconds of val (docs/training.md, watching a
run). KID stands beside it. Devtest is not used.

A trial takes ten minutes of one core with AVX2 (.6 s a step), the whole search more than two hours
of two. Each adds its row to ``docs/published_search.csv``; a trial that has one is not
run again, and a search that was stopped goes on by the same command. ``--trial NAME`` runs one.
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

from soundsight.judges.apply import PACKAGED_JUDGES
from steps import arguments, how, log_of, run, scaled, training, went_wrong, where

STEPS, BATCH = 1000, 64
AUTOENCODER_STEPS = 1200
LAST_LINES = 10
TABLE = Path(__file__).parent.parent / "docs" / "published_search.csv"

Settings = dict[str, Any]

NO_PIXELS: Settings = {"pixel_weight": 0}
SLOW_D: Settings = {"generator_rate": 1e-3, "discriminator_rate": 1e-4}
ALIGNED: Settings = {"pairs": "aligned"}
TRIALS: dict[str, Settings] = {
    # The strict reading, in which both losses weigh the same, and the ways out of its trouble: the
    # discriminator wins, whatever the generator does.
    "strict": {},
    "pixel 0": NO_PIXELS,
    "pixel 0, dropout .3 in D": NO_PIXELS | {"discriminator_dropout": 0.3},
    "slow D, pixel 0": SLOW_D | NO_PIXELS,
    "slow D, pixel 0, standardised": SLOW_D | NO_PIXELS | {"standardised_embedding": True},
    # One thing at a time from the strict reading with a slower discriminator.
    "slow D": SLOW_D,
    "slow D, pixel 10": SLOW_D | {"pixel_weight": 10},
    "slow D, standardised": SLOW_D | {"standardised_embedding": True},
    "slow D, DiffAugment": SLOW_D | {"diff_augment": True},
    "slow D, dropout .2": SLOW_D | {"discriminator_dropout": 0.2},
    "slow D, EMA": SLOW_D | {"moving_average.reading": "ema"},
    "slow D, no BatchNorm at its end": SLOW_D | {"score_norm": False},
    "slow D, smoothing .2": SLOW_D | {"label_smoothing": 0.2},
    "slow D, aligned pairs": SLOW_D | ALIGNED,
    "slow D, MSE": SLOW_D | {"pixel": "mse"},
    "slow D, K = 5": SLOW_D | {"moving_average.reading": "snapshots"},
    "slow D, beta1 0": SLOW_D | {"beta1": 0},
    "slow D, two steps of it": SLOW_D | {"discriminator_steps": 2},
    "SGD .05, .005": {"optimizer": "sgd", "generator_rate": 0.05, "discriminator_rate": 0.005},
    "rates 2e-4, 2e-5": {"discriminator_rate": 2e-5},
    "rates 1e-3": {"generator_rate": 1e-3, "discriminator_rate": 1e-3},
    "slow D, noise .25": SLOW_D | {"noise_ratio": 0.25},
    "slow D, no dropout": SLOW_D | {"discriminator_dropout": 0},
    "slow D, pixel .1": SLOW_D | {"pixel_weight": 0.1},
    "no adversary": SLOW_D | {"adversarial_weight": 0},
    "no adversary, aligned pairs": SLOW_D | ALIGNED | {"adversarial_weight": 0},
}

FIGURES = (
    "val_coherence", "val_second_coherence", "val_kid", "val_informativity", "val_shuffled",
    "val_second_informativity", "val_second_shuffled", "val_pixel_loss", "val_other_pixel_loss",
)  # fmt: skip
LOSSES = ("d_loss", "g_adversarial", "pixel_loss", "variety")
COLUMNS = ("trial", "preset", "pictures", "seed", *FIGURES, *LOSSES, "pairs_a_second", "changed")

_writing = threading.Lock()


def written(value: object) -> str:
    """Return a value as ``--set`` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def known(table: Path) -> list[dict[str, str]]:
    """Return the rows of the table, none where there is none."""
    if not table.exists():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def add_row(table: Path, row: dict[str, object]) -> None:
    """Write one more row."""
    with _writing:
        new = not table.exists()
        with table.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)


def measure(folder: Path) -> dict[str, object]:
    """Return the figures of a finished trial; empty of one whose loss was no longer finite."""
    if went_wrong(folder):
        return {}
    log = log_of(folder)
    last = [line for line in log if "d_loss" in line][-LAST_LINES:]
    found: dict[str, float] = {key: float(np.mean([line[key] for line in last])) for key in LOSSES}
    looked = [line for line in log if FIGURES[0] in line][-1]
    found |= {key: looked[key] for key in FIGURES if key in looked}
    rates = [line["items_per_s"] for line in log if "items_per_s" in line]
    found["pairs_a_second"] = float(np.median(rates))
    return {key: f"{value:.4g}" for key, value in found.items() if math.isfinite(value)}


def slug(name: str, seed: int) -> str:
    """Name the folder of a trial."""
    return f"{name.lower().replace(', ', '-').replace(' ', '-')}-{seed}"


def try_out(args: argparse.Namespace, name: str, encoder: Path, seed: int) -> None:
    """Train one trial and add its row."""
    steps, preset, folder = scaled(args, STEPS), args.preset or "small", args.out / slug(name, seed)
    # Of a thousand steps, an average over the last hundred.
    settings = {"ema_decay": 0.99, **TRIALS[name]}
    aligned = settings.pop("pairs", "") == "aligned"
    pairs = ["--data", args.out / "aligned"] if aligned else where(args)
    changes = [part for key, value in settings.items()
               for part in ("--set", f"{key}={written(value)}")]  # fmt: skip
    run("train", "translator", "--encoder", encoder, "--preset", preset, "--objective", "rc",
        "--steps", steps, "--batch-size", BATCH, "--seed", seed, *changes,
        "--judges", args.judges or PACKAGED_JUDGES, "--evaluate-every", max(1, steps // 4),
        *pairs, *how(args), "-o", folder, unless=lambda: went_wrong(folder))  # fmt: skip
    add_row(args.table, {
        "trial": name, "preset": preset, "pictures": steps * BATCH, "seed": seed, **measure(folder),
        "changed": json.dumps(TRIALS[name]),
    })  # fmt: skip


def main() -> None:
    """Run every trial that has no row."""
    parser = arguments(__doc__, "runs/published_search", seeds=1)
    parser.set_defaults(threads=1)
    parser.add_argument("--workers", type=int, default=2, help="trials at a time")
    parser.add_argument("--trial", action="append", choices=list(TRIALS), help="this one alone")
    parser.add_argument("--table", type=Path, default=TABLE)
    args = parser.parse_args()
    encoder, preset = args.out / "autoencoder", args.preset or "small"
    run("train", "encoder", "--kind", "autoencoder", "--schedule", "published", "--preset", preset,
        "--steps", scaled(args, AUTOENCODER_STEPS), *training(args), "-o", encoder)  # fmt: skip
    if not (args.out / "aligned" / "pairs.csv").exists():
        script = Path(__file__).with_name("aligned_pairs.py")
        subprocess.run([sys.executable, script, "--encoder", encoder, *map(str, where(args)),
                        "-o", args.out / "aligned"], check=True)  # fmt: skip
    pictures = scaled(args, STEPS) * BATCH
    there = {(row["trial"], row["preset"], int(row["pictures"]), int(row["seed"]))
             for row in known(args.table)}  # fmt: skip
    with ThreadPoolExecutor(args.workers) as pool:
        waiting = [
            pool.submit(try_out, args, name, encoder, seed)
            for seed in range(args.seeds)
            for name in args.trial or TRIALS
            if (name, preset, pictures, seed) not in there
        ]
        for trial in waiting:
            trial.result()


if __name__ == "__main__":
    main()
