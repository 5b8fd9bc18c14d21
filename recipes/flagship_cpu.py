"""The five-kind model (the bundled one before ``everyday.py``), by the commands that people type.

    python recipes/flagship_cpu.py --out runs/flagship --threads 1 --precision bf16-mixed

Within two and a half hours of two CPU cores with bfloat16 arithmetic: a quarter of an hour for the
encoder (5,000 batches of 128 pairs), an hour and a half for the translator, a quarter of one for
names, export and report. It is one process of one thread, as a second core brings little to
networks of this size. Every step resumes: run it again after a stop. Thresholds come from the val
split; the last step measures on devtest, by the judges of the package (``recipes/judges.py``). With
``--install`` the model replaces that of the package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from steps import arguments, install, measured, run, scaled, training, where

ENCODER_STEPS = 5000
TRANSLATOR_STEPS = 16_000

CONFIDENCE = 0.54
"""From which on a live view shows a picture: chosen on val by ``benchmarks/errors.py``. Another
encoder's names may want another one; the benchmark tells which."""

TRAINED_ON = (
    "20,751 one-second log-mels of VEGAS videos (the dataset published with arXiv 2106.01266, "
    "CC BY 4.0), each paired with a real photo of the same subject in place of the video's frame "
    "(FairFace, CC BY 4.0; UTKFace, Imagenette, CamSDD, Tiny-ImageNet and MiniPlaces, research "
    "use): baby crying, dog, rail transport, fireworks, water flowing. No label reached encoder or "
    "generator; which photo stands for which video was chosen by class when the pairs were made."
)


def finish(args: argparse.Namespace, out: Path, name: str) -> None:
    """Train what decides what is shown and named, export, measure, export with the figures."""
    common = [*where(args), "--threads", args.threads]
    run("train", "ood", "--encoder", out / "encoder", "-o", out / "ood", *common)
    run("train", "labels", "--encoder", out / "encoder", "-o", out / "labels", *common)
    export = ["export", out / "translator", "--ood", out / "ood",
              "--labels", out / "labels", "--confidence", CONFIDENCE, "--name", name,
              "--trained-on", TRAINED_ON, "--trainable", "--overwrite"]  # fmt: skip
    run(*export, "-o", out / "model")
    measured(args, out / "model", out / "report", "--blind-sheet")
    run(*export, "-o", out / "model", "--report", out / "report" / "report.json")


def main() -> None:
    """Train, export, evaluate, export again with the figures."""
    parser = arguments(__doc__, "runs/flagship")
    parser.add_argument("--install", action="store_true", help="put it into the package")
    args = parser.parse_args()
    out, preset = args.out, args.preset or "flagship"
    run("train", "encoder", "--preset", preset, "--steps", scaled(args, ENCODER_STEPS),
        "-o", out / "encoder", *training(args))  # fmt: skip
    run("train", "translator", "--preset", preset, "--encoder", out / "encoder",
        "--steps", scaled(args, TRANSLATOR_STEPS), "-o", out / "translator",
        *training(args))  # fmt: skip
    finish(args, out, "flagship")
    if args.install:
        install(out / "model", "model")


if __name__ == "__main__":
    main()
