"""The bundled model, from pairs to the folder in the package, by the commands that people type.

    python recipes/default_model.py --out runs --threads 1

About two and a half hours on two CPU cores. Every step resumes: run it again after a stop. The
test split is looked at once, at the end; the critic's threshold comes from the val split.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from soundsight.pairs.layouts import find_bench
from soundsight.runtime.translator import Translator

HIDDEN_SHARE = 0.10
"""Share of the pictures of audible val seconds that the critic may hide."""

AUDIBLE_LEVEL = 2.0

TRAINED_ON = (
    "20,751 one-second log-mels of VEGAS videos (the dataset published with arXiv 2106.01266, "
    "CC BY 4.0), each paired with a real photo of the same subject in place of the video's frame "
    "(FairFace, CC BY 4.0; UTKFace, Imagenette, CamSDD, Tiny-ImageNet and MiniPlaces, research "
    "use): baby crying, dog, rail transport, fireworks, water flowing. No label was used; which "
    "photo stands for which video was chosen by class when the pairs were made."
)


def run(*args: object) -> None:
    """Run one soundsight command and stop when it fails."""
    command = [sys.executable, "-m", "soundsight", *map(str, args)]
    print("$ soundsight", *args, flush=True)
    subprocess.run(command, check=True)


def threshold_on_val(model: Path, data: Path | None) -> float:
    """Return the critic's score under which ``HIDDEN_SHARE`` of the val pictures lie."""
    bench = find_bench(data)
    mels = np.stack([bench.spectrogram(pair.spectrogram) for pair in bench.pairs("val")])
    mels = mels[mels.mean(axis=(1, 2)) >= AUDIBLE_LEVEL]
    translator = Translator.load(model)
    scores = translator.critic.informativity(translator.imagine(mels))
    return float(np.quantile(scores, HIDDEN_SHARE))


def main() -> None:
    """Train, choose the threshold, export, evaluate, export again with the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    out: Path = args.out
    where = [] if args.data is None else ["--data", args.data]
    common = [*where, "--threads", args.threads]

    run("train", "encoder", "--steps", 1400, "--batch-size", 128, "-o", out / "encoder", *common)
    run("train", "translator", "--encoder", out / "encoder", "--steps", 4400,
        "--set", "loop.picture_every=200", "--set", "loop.checkpoint_every=200",
        "-o", out / "translator", *common)  # fmt: skip
    early = ["--early", out / "translator" / "early"]
    run("train", "judges", *early, "-o", out / "judges", *common)
    run("train", "critic", *early, "-o", out / "critic", *common)

    export = ["export", out / "translator", "--critic", out / "critic", "--name", "compact",
              "--trained-on", TRAINED_ON, "--overwrite"]  # fmt: skip
    run(*export, "-o", out / "model")
    threshold = threshold_on_val(out / "model", args.data)
    print(f"the critic's threshold, from val: {threshold:.4f}")
    run(*export, "-o", out / "model", "--threshold", round(threshold, 4))
    run("evaluate", out / "model", "--judges", out / "judges", *early, *where, "-o", out / "report")
    run(*export, "-o", out / "model", "--threshold", round(threshold, 4),
        "--report", out / "report" / "report.json")  # fmt: skip


if __name__ == "__main__":
    main()
