"""The bundled model, from pairs to the folder in the package, by the commands that people type.

    python recipes/default_model.py --out runs --threads 1

About two and a half hours on two CPU cores. Every step resumes: run it again after a stop. The
test split is looked at once, at the end, by the judges of the package (``recipes/judges.py``);
thresholds come from the val split. With ``--install`` the model replaces that of the package.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from steps import install, run, where

TRAINED_ON = (
    "20,751 one-second log-mels of VEGAS videos (the dataset published with arXiv 2106.01266, "
    "CC BY 4.0), each paired with a real photo of the same subject in place of the video's frame "
    "(FairFace, CC BY 4.0; UTKFace, Imagenette, CamSDD, Tiny-ImageNet and MiniPlaces, research "
    "use): baby crying, dog, rail transport, fireworks, water flowing. No label reached encoder or "
    "generator; which photo stands for which video was chosen by class when the pairs were made."
)


def main() -> None:
    """Train, export, evaluate, export again with the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--install", action="store_true", help="put it into the package")
    args = parser.parse_args()
    out: Path = args.out
    common = [*where(args), "--threads", args.threads]

    run("train", "encoder", "--steps", 1400, "--batch-size", 128, "-o", out / "encoder", *common)
    run("train", "translator", "--encoder", out / "encoder", "--steps", 4400,
        "--set", "loop.picture_every=200", "--set", "loop.checkpoint_every=200",
        "-o", out / "translator", *common)  # fmt: skip
    early = ["--early", out / "translator" / "early"]
    run("train", "critic", *early, "-o", out / "critic", *common)

    export = ["export", out / "translator", "--critic", out / "critic", "--name", "compact",
              "--trained-on", TRAINED_ON, "--overwrite"]  # fmt: skip
    run(*export, "-o", out / "model")
    run("evaluate", out / "model", *where(args), "-o", out / "report")
    run(*export, "-o", out / "model", "--report", out / "report" / "report.json")
    if args.install:
        install(out / "model", "model")


if __name__ == "__main__":
    main()
