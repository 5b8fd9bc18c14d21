"""The moving-average adversarial loss: does any reading of it steady the training, or help?

    python recipes/moving_average.py --out runs/moving_average --precision bf16-mixed --threads 1

Off, the mean over the last K = 2, 5, 10 discriminators, and an exponential moving average of the
discriminator, each for three seeds on the same 40,000 pictures at the size ``small`` (625 steps of
64), from one autoencoder. About 75 minutes of one quiet core with bfloat16 arithmetic (estimated: a
step takes .27 s, each further discriminator .06 s more). ``--set`` changes every run alike,
``--pixel-steps`` starts them all from one generator, ``--encoder`` names another autoencoder,
``--reading``, repeated, trains only those that it names.

Of each run, over the second half of its steps: the spread (standard deviation) of both adversarial
losses, and events. A *collapse* is a stretch of 25 steps or more in which the pictures of a batch
differ less than a quarter as much as the real ones do, a *divergence* one in which the
discriminator has won or lost outright (its loss under .2 or over 3; 2 is chance). A run that stops
at a loss which is not finite counts as a divergence, and is measured no further. Informativity is
that of the val split; devtest is not used.
"""

from __future__ import annotations

import argparse
import math
from itertools import groupby
from pathlib import Path

import matplotlib
import numpy as np

from soundsight.core.files import atomic_file
from steps import (
    arguments,
    command_line,
    log_of,
    measured,
    pixels_first,
    run,
    scaled,
    settings,
    table,
    training,
    went_wrong,
)

READINGS = {"off": ("off", 5), "snapshots, K = 2": ("snapshots", 2),
            "snapshots, K = 5": ("snapshots", 5), "snapshots, K = 10": ("snapshots", 10),
            "EMA": ("ema", 5)}  # fmt: skip
STEPS = 625
LOG_EVERY = 5
LONG = 25
REAL_VARIETY = 0.55
"""Standard deviation over photos of a pixel in [-1, 1], on average (.554 in batches of train)."""


def events(happens: list[bool]) -> int:
    """Count stretches in which something goes on for ``LONG`` steps or more."""
    return sum(
        value and sum(1 for _ in stretch) * LOG_EVERY >= LONG for value, stretch in groupby(happens)
    )


def measure(folder: Path) -> dict[str, float]:
    """Return spread and events of a finished run."""
    log = log_of(folder)
    half = log[len(log) // 2 :]
    d, g = (np.array([line[key] for line in half]) for key in ("d_loss", "g_adversarial"))
    return {
        "d_spread": float(d.std()),
        "g_spread": float(g.std()),
        "pixel_loss": float(np.mean([line["pixel_loss"] for line in half[-10:]])),
        "variety": float(np.mean([line["variety"] for line in half[-10:]])),
        "collapses": events([line["variety"] < REAL_VARIETY / 4 for line in half]),
        "divergences": events([not 0.2 <= line["d_loss"] <= 3.0 for line in half]),
    }


def plot(args: argparse.Namespace, path: Path) -> None:
    """Draw both adversarial losses of every run, a panel a reading."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        2, len(args.reading), figsize=(1 + 3 * len(args.reading), 5), squeeze=False,
        sharex=True, sharey="row", layout="constrained",
    )  # fmt: skip
    for column, name in enumerate(args.reading):
        for seed in range(args.seeds):
            log = log_of(args.out / slug(name, seed))
            steps = [line["step"] for line in log]
            for row, key in enumerate(("d_loss", "g_adversarial")):
                panels[row, column].plot(steps, [line[key] for line in log], linewidth=0.7)
        panels[0, column].set_title(name)
        panels[1, column].set_xlabel("step")
    panels[0, 0].set_ylabel("discriminator's loss")
    panels[1, 0].set_ylabel("adversarial loss of the generator")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def slug(name: str, seed: int) -> str:
    """Name the folder of a run."""
    return f"{name.lower().replace(', k = ', '-')}-{seed}"


def main() -> None:
    """Train every run, measure, write report.md and curves.png."""
    parser = arguments(__doc__, "runs/moving_average", seeds=3, sets=True)
    parser.add_argument("--encoder", type=Path, help="a finished run (default: one is trained)")
    parser.add_argument(
        "--reading",
        action="append",
        choices=list(READINGS),
        help="train this one; repeat it for several (default: all five)",
    )
    args = parser.parse_args()
    args.reading = list(dict.fromkeys(args.reading or READINGS))
    out, preset, encoder = args.out, args.preset or "small", args.encoder
    if encoder is None:
        encoder = out / "autoencoder"
        run("train", "encoder", "--kind", "autoencoder", "--preset", preset,
            "--steps", scaled(args, 1200), *training(args), "-o", encoder)  # fmt: skip
    start = pixels_first(args, encoder, preset)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in args.reading}
    for seed in range(args.seeds):
        for name in args.reading:
            reading, k = READINGS[name]
            folder = out / slug(name, seed)
            run("train", "translator", "--encoder", encoder, *start,
                "--objective", "rc", "--moving-average", reading,
                "--set", f"moving_average.snapshots={k}", "--set", f"loop.log_every={LOG_EVERY}",
                *settings(args),
                "--steps", scaled(args, STEPS), "--seed", seed, *training(args),
                "-o", folder, unless=lambda folder=folder: went_wrong(folder))  # fmt: skip
            if went_wrong(folder):
                found[name].append({"divergences": 1.0})
                continue
            report = measured(args, folder, out / f"report-{folder.name}", "--split", "val")
            shares = {
                key: 100 * report["rows"][row]["mean"]["share"]
                for key, row in (
                    ("informativity", "informativity"),
                    ("shuffled", "shuffled sounds"),
                )
            }
            found[name].append({**measure(folder), **shares})
    columns = ("d_spread", "g_spread", "collapses", "divergences", "pixel_loss", "variety",
               "informativity", "shuffled")  # fmt: skip
    rows = []
    for name, runs in found.items():
        cells = [name]
        for column in columns:
            values = [r.get(column, math.nan) for r in runs]
            each = ", ".join(f"{v:.3g}" for v in values)
            cells.append(f"**{np.nanmean(values):.3g}** ({each})")
        rows.append(cells)
    plot(args, out / "curves.png")
    text = (
        f"# The moving-average adversarial loss\n\n`{command_line()}`\n\n"
        f"Mean over {args.seeds} seeds, and each of them. Spread: standard deviation over the "
        "second half of the steps; pixel loss and variety (standard deviation over a batch's "
        "pictures): mean of the last ten log lines; informativity and shuffled sounds: per cent "
        "of val.\n\n"
        + table(["", *(c.replace("_", " ") for c in columns)], rows)
        + "\n\n![losses](curves.png)\n"
    )
    with atomic_file(out / "report.md") as temporary:
        temporary.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
