"""What the recipes share: soundsight's own commands, one after another, and what they wrote.

Recipes type the commands that people type. Every one of them resumes, so a recipe that was stopped
is run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import soundsight
from soundsight.core.files import sha256_of
from soundsight.data.vegas.bench import Bench
from soundsight.judges.apply import PACKAGED_JUDGES

PIXEL_RATE = 1e-3
"""Of the generator while it learns from the pixel loss alone."""


def arguments(
    about: str, out: str, *, seeds: int | None = None, sets: bool = False
) -> argparse.ArgumentParser:
    """Return a parser with what every recipe takes.

    Args:
        about: the recipe's docstring; its first line is shown.
        out: default folder.
        seeds: default number of seeds, for recipes that repeat themselves.
        sets: whether it takes settings of its translators.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--data", type=Path, default=None, help="the bench")
    parser.add_argument("--judges", type=Path, default=None, help="default: the package's")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", default="32-true", help="32-true or bf16-mixed")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the steps; small to try the recipe out"
    )
    parser.add_argument("--preset", default=None, help="other sizes than the recipe's")
    if sets:
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE",
            help="another setting of every translator; repeat it for several",
        )  # fmt: skip
        parser.add_argument(
            "--pixel-steps", type=int, default=0,
            help="steps of the pixel loss alone before a translator meets its discriminator",
        )  # fmt: skip
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds)
    return parser


def run(*args: object, unless: Callable[[], bool] = lambda: False) -> None:
    """Run one soundsight command; stop the recipe, with its exit code, when it fails.

    Args:
        args: what stands after ``soundsight``.
        unless: asked after a failure; where it is true the recipe goes on.
    """
    print("$ soundsight", *args, flush=True)
    done = subprocess.run([sys.executable, "-m", "soundsight", *map(str, args)], check=False)
    if done.returncode and not unless():
        sys.exit(done.returncode)


def install(folder: Path, name: str) -> None:
    """Put a finished folder in the place of the package's ``name``: model or judges."""
    place = Path(soundsight.__file__).parent / "assets" / name
    shutil.rmtree(place, ignore_errors=True)
    unfinished = shutil.ignore_patterns("progress.json", "state.safetensors", "tensorboard")
    shutil.copytree(folder, place, ignore=unfinished)


def settings(args: argparse.Namespace) -> list[object]:
    """Return ``--set`` and its value for each setting that the recipe was given."""
    return [part for setting in args.set for part in ("--set", setting)]


def pixels_alone(args: argparse.Namespace, encoder: Path, preset: str) -> list[object]:
    """Return, after ``train``, the command of a translator that learns from pixels alone."""
    return ["translator", "--encoder", encoder, "--preset", preset, "--objective", "rc",
            "--set", "adversarial_weight=0", "--set", f"generator_rate={PIXEL_RATE}",
            "--set", "ema_decay=0.99", "--steps", scaled(args, args.pixel_steps)]  # fmt: skip


def pixels_first(args: argparse.Namespace, encoder: Path, preset: str) -> list[object]:
    """Train a generator by the pixel loss alone, where steps of it were asked for.

    Returns:
        The options with which a translator starts from it, or its sizes where there is none.
    """
    if not args.pixel_steps:
        return ["--preset", preset]
    start = args.out / "pixels"
    run("train", *pixels_alone(args, encoder, preset), *training(args), "-o", start)
    return ["--init", start]


def where(args: argparse.Namespace) -> list[object]:
    """Return the option that names the bench, where one was given."""
    return [] if args.data is None else ["--data", args.data]


def how(args: argparse.Namespace) -> list[object]:
    """Return the options that say how a network is trained, wherever the pairs lie."""
    return ["--threads", args.threads, "--precision", args.precision]


def training(args: argparse.Namespace) -> list[object]:
    """Return the options that every ``soundsight train`` of a network of ours is given."""
    return [*where(args), *how(args)]


def train_a_slice(args: argparse.Namespace, ends: float, folder: str, *command: object) -> None:
    """Go on with one training for what is left of a slice; stop the recipe at its end.

    Args:
        args: of the recipe.
        ends: when the slice ends, on the clock of ``time.monotonic``.
        folder: of the run, in ``args.out``.
        command: what stands after ``soundsight train``.
    """
    left, run_folder = (ends - time.monotonic()) / 60.0, args.out / folder
    if not (run_folder / "done.json").exists():
        if left > 0:
            run("train", *command, "--max-time", f"{left:.2f}", "-o", run_folder)
        if (run_folder / "log.jsonl").exists():
            last = log_of(run_folder)[-1]
            print(run_folder, *(f"{name} {value:.4g}" for name, value in last.items()), sep="  ")
        if not (run_folder / "done.json").exists():
            print(f"{run_folder} is not finished: run this recipe again")
            sys.exit(0)


def recordings(bench: Bench) -> list[tuple[str, Path]]:
    """Return class and file of every recording in the bench's ``sounds/``."""
    place = bench.root / "sounds"
    with (place / "index.csv").open(encoding="utf-8", newline="") as file:
        return [(row["class"], place / row["file"]) for row in csv.DictReader(file)]


def measured(
    args: argparse.Namespace, run_folder: Path, report: Path, *options: object
) -> dict[str, Any]:
    """Evaluate a run into ``report``, unless that was done by the same judges; return the report.

    An encoder's report knows no judges.
    """
    path = report / "report.json"
    judges = args.judges or PACKAGED_JUDGES
    known = json.loads(path.read_text("utf-8")).get("judges", {}) if path.exists() else None
    if known is None or known.get("sha256") not in (None, sha256_of(judges / "judges.json")):
        by = [] if args.judges is None else ["--judges", args.judges]
        run("evaluate", run_folder, *where(args), *by, *options, "-o", report)
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return values


def scaled(args: argparse.Namespace, steps: int) -> int:
    """Return ``steps``, or the share of them that ``--scale`` asks for."""
    return max(10, round(steps * args.scale))


def went_wrong(run_folder: Path) -> bool:
    """Say whether a run stopped at a loss that was not finite."""
    return (run_folder / "failed.safetensors").exists()


def log_of(run_folder: Path) -> list[dict[str, float]]:
    """Return a run's scalars, one dict a logged step."""
    lines = (run_folder / "log.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def percent(share: Mapping[str, float]) -> str:
    """Write a share and its interval in per cent."""
    point, low, high = (100 * share[key] for key in ("share", "low", "high"))
    return f"{point:.1f} [{low:.1f}, {high:.1f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay rows out as a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def command_line() -> str:
    """Return how this recipe was started, for its report."""
    return shlex.join(["python", "recipes/" + Path(sys.argv[0]).name, *sys.argv[1:]])
