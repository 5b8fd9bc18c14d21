"""The judges that come with the package, and everything beside them.

    python recipes/judges.py --out runs/judges-made --paper runs/paper_cpu --threads 1 --install

Judges must know what generators draw early in their training, of more than one training. Four
trainings with our objective (seeds 0 to 3) are stopped after their first tenth, in which they keep
such pictures; those of a published training (``recipes/paper_cpu.py``, run before) are added. No
judge learns from seed 1: its pictures are the floor on val. Then follow all networks of
``soundsight train judges``, with its default settings, and their table on devtest. About 45 minutes
of one core with bfloat16 arithmetic
(``recipes/paper_cpu.py`` apart). With ``--install`` they replace those of the package.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

from soundsight.core.config import to_dict
from soundsight.judges.train import JudgesConfig
from steps import arguments, install, run, scaled, training, where

LEARNED_FROM, HELD_OUT = (0, 2, 3), 1
ENCODER_STEPS = 700
STEPS = 4400
EARLY_SHARE = 0.1


def early_of(args: argparse.Namespace, encoder: Path, seed: int) -> Path:
    """Train until the last early pictures are written, stop, and return their folder."""
    folder = args.out / f"young-{seed}"
    steps = scaled(args, STEPS)
    until = round(EARLY_SHARE * steps)
    last = folder / "early" / f"step-{until:07d}.npz"
    if not last.exists():
        command = ["train", "translator", "--encoder", encoder, "--steps", steps, "--seed", seed,
                   "--set", f"loop.checkpoint_every={until}", *training(args),
                   "-o", folder]  # fmt: skip
        print("$ soundsight", *command, f" # until {last.name}", flush=True)
        process = subprocess.Popen([sys.executable, "-m", "soundsight", *map(str, command)])
        while process.poll() is None and not last.exists():
            time.sleep(1)
        process.send_signal(signal.SIGTERM)
        process.wait()
        if not last.exists():
            sys.exit(process.returncode or 1)
    return last.parent


def main() -> None:
    """Make the early pictures, train the judges, print their table."""
    parser = arguments(__doc__, "runs/judges-made")
    parser.set_defaults(precision="bf16-mixed")
    parser.add_argument("--paper", type=Path, default=Path("runs/paper_cpu"))
    parser.add_argument("--install", action="store_true", help="put them into the package")
    args = parser.parse_args()
    out = args.out
    run("train", "encoder", "--steps", scaled(args, ENCODER_STEPS), "--batch-size", 128,
        *training(args), "-o", out / "encoder")  # fmt: skip
    young = {seed: early_of(args, out / "encoder", seed) for seed in (*LEARNED_FROM, HELD_OUT)}
    first, *rest = LEARNED_FROM
    # The last folder is the one that val sees.
    order = [young[first], args.paper / "translator" / "early", *(young[s] for s in rest)]
    order.append(young[HELD_OUT])
    early = [part for folder in order for part in ("--early", folder)]
    networks: list[object] = []
    if args.scale != 1:
        for name, settings in to_dict(JudgesConfig())["references"].items():
            few = args.scale * settings["passes"]
            networks += ["--set", f"references.{name}.passes={few}"]
    run("train", "judges", *early, *where(args), "--threads", args.threads,
        "--steps", scaled(args, JudgesConfig().steps), *networks, "-o", out / "judges")  # fmt: skip
    table = Path(__file__).with_name("judges_table.py")
    subprocess.run(
        [sys.executable, str(table), str(out / "judges"), "--split", "devtest",
         *map(str, where(args)), "--early", *map(str, order)],
        check=True,
    )  # fmt: skip
    if args.install:
        install(out / "judges", "judges")


if __name__ == "__main__":
    main()
