"""Does pre-cleaning the training pairs, without a label, make better pictures? The table.

    python recipes/cleaned_pairs.py --encoder runs/flagship/encoder --precision bf16-mixed

The label-free coherence score of ``soundsight prepare`` (``docs/cleaning.md``), fitted in 8 passes,
drops the 15 % of the train pairs whose sound and photo agree least. The same translator, at the
sizes of the five-kind model, is trained on all pairs and on what is left, from the same encoder,
for 24,000 pictures and each seed, and measured on val. Some 30 minutes of one CPU core. Everything
resumes.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from cleaning import DROP_SHARE, TrainPairs, bar
from soundsight.core.files import atomic_file
from soundsight.data.vegas.bench import Bench, find_bench
from soundsight.training.coherence import CoherenceConfig, contrastive_scores, keep_share
from steps import arguments, command_line, how, measured, percent, run, scaled, table

STEPS = 750
PASSES = 8.0
ROWS = ("informativity, nothing hidden", "shuffled sounds, nothing hidden", "class accuracy")


def cleaned(bench: Bench, out: Path, *, bfloat16: bool) -> Path:
    """Make a bench whose train pairs agree; all else is that of ``bench``."""
    folder = out / "bench"
    if (folder / "pairs.csv").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vegas-audio", "photos"):
        if not (folder / name).exists():
            (folder / name).symlink_to((bench.root / name).resolve())
    config = CoherenceConfig(passes=PASSES, bfloat16=bfloat16)
    scores = contrastive_scores(
        TrainPairs(bench, "train"), config, work=out / "scores", progress=bar("scores")
    )
    kept = keep_share(scores, DROP_SHARE)
    names = {p.spectrogram for p, keep in zip(bench.pairs("train"), kept, strict=True) if keep}
    with (bench.root / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (
        atomic_file(folder / "pairs.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(r for r in rows if r["split"] != "train" or r["spectrogram"] in names)
    print(f"{int(np.sum(kept))} of {len(kept)} train pairs kept")
    return folder


def main() -> None:
    """Clean, train both, write the table."""
    parser = arguments(__doc__, "runs/cleaned", seeds=2)
    parser.add_argument("--encoder", type=Path, required=True, help="a finished run")
    args = parser.parse_args()
    out, preset = args.out, args.preset or "flagship"
    bench = find_bench(args.data)
    places = {
        "all pairs": bench.root,
        "cleaned": cleaned(bench, out, bfloat16=args.precision == "bf16-mixed"),
    }
    options = how(args)
    rows = []
    for seed in range(args.seeds):
        for name, place in places.items():
            folder = out / f"{name.replace(' ', '-')}-{seed}"
            run("train", "translator", "--preset", preset, "--encoder", args.encoder,
                "--data", place, "--steps", scaled(args, STEPS), "--seed", seed, "-o", folder,
                *options)  # fmt: skip
            report = measured(args, folder, folder / "report", "--split", "val")
            frechet = report["fidelity"]["pictures"]["frechet"]
            shares = [percent(report["rows"][row]["mean"]) for row in ROWS]
            rows.append([name, seed, *shares, f"{frechet:.2f}"])
    text = f"# Cleaned pairs\n\n`{command_line()}`\n\n"
    text += table(["train pairs", "seed", *[f"{row}, %" for row in ROWS], "Frechet"], rows) + "\n"
    with atomic_file(out / "README.md") as temporary:
        temporary.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
