"""What does each loss of the five-kind model's generator bring? The table.

    python recipes/flagship_ablation.py --encoder runs/flagship/encoder --precision bf16-mixed

The same translator, from the same encoder, for 24,000 pictures: as it is, and with one thing taken
away or changed. Measured on val, nothing hidden. Some six minutes of one CPU core an arm and seed;
``--arms`` chooses among them. So short a run shows which loss helps early, not what a long run
would give.
"""

from __future__ import annotations

from pathlib import Path

from soundsight.core.files import atomic_file
from steps import arguments, command_line, measured, percent, run, scaled, table, training

STEPS = 750
ARMS = {
    "as it is": [],
    "no picture posterior": ["variational_weight=0"],
    "no contrast": ["contrast_weight=0", "coherence_weight=0"],
    "KL .001 a nat": ["kl_weight=0.001"],
    "KL .02 a nat": ["kl_weight=0.02"],
}
ROWS = ("informativity, nothing hidden", "shuffled sounds, nothing hidden", "class accuracy")


def main() -> None:
    """Train and measure every arm, write the table."""
    parser = arguments(__doc__, "runs/ablation", seeds=1)
    parser.add_argument("--encoder", type=Path, required=True, help="a finished run")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    args = parser.parse_args()
    out, preset = args.out, args.preset or "flagship"
    rows = []
    for seed in range(args.seeds):
        for name in args.arms:
            folder = out / f"{name.replace(' ', '-')}-{seed}"
            changes = [word for change in ARMS[name] for word in ("--set", change)]
            run("train", "translator", "--preset", preset, "--encoder", args.encoder, "--steps",
                scaled(args, STEPS), "--seed", seed, *changes, "-o", folder,
                *training(args))  # fmt: skip
            report = measured(args, folder, folder / "report", "--split", "val")
            found = report["fidelity"]
            shares = [percent(report["rows"][row]["mean"]) for row in ROWS]
            rows.append(
                [name, seed, *shares, f"{found['pictures']['frechet']:.2f}",
                 f"{100 * found['pictures']['recall']:.0f}", f"{found['variety']['mean']:.2f}"]
            )  # fmt: skip
    head = ["", "seed", *[f"{row}, %" for row in ROWS], "Frechet", "recall, %", "variety"]
    text = f"# The flagship's teachers\n\n`{command_line()}`\n\n{table(head, rows)}\n"
    with atomic_file(out / "README.md") as temporary:
        temporary.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
