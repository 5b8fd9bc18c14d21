"""The published system at a size for CPU cores: the baseline of the other models.

    python recipes/paper_cpu.py --out runs/paper_cpu --threads 1 --precision bf16-mixed

Two hours of one quiet core: 20 minutes for each autoencoder, 75 for 512,000 pictures (counted from
215 seconds of sound and 115 pairs a second on a core with bfloat16 arithmetic; a second core brings
little to networks of this size, and without bfloat16 half the steps fit: --scale .5). What is
published is done as published: the autoencoder by SGD at .05 with momentum .9 in batches of 64, the
encoder then frozen, the RC-score discriminator, L1 on the RC-score plus a pixel loss, no noise,
dropout left on when pictures are drawn. What is not published is chosen, and listed in
``docs/method.md``. Beside it the autoencoder is trained once more with a modern schedule; both are
measured. The report of the translator is written last. ``--encoder-steps``, ``--pixel-steps``,
``--steps``, ``--devices`` and ``--set`` make other and longer runs of it (docs/published.md).
"""

from __future__ import annotations

from soundsight.core.files import atomic_file
from soundsight.judges.apply import PACKAGED_JUDGES
from steps import (
    arguments,
    command_line,
    measured,
    percent,
    pixels_first,
    run,
    scaled,
    settings,
    table,
    training,
)

AUTOENCODER_STEPS = 3600
TRANSLATOR_STEPS = 8000
LOOK_EVERY = 500


def main() -> None:
    """Train, measure, write the report."""
    parser = arguments(__doc__, "runs/paper_cpu", sets=True)
    parser.add_argument(
        "--moving-average", default="off", help="off, snapshots or ema (docs/results.md)"
    )
    parser.add_argument(
        "--encoder-steps", type=int, default=AUTOENCODER_STEPS, help="of each autoencoder"
    )
    parser.add_argument("--steps", type=int, default=TRANSLATOR_STEPS, help="of the translator")
    parser.add_argument("--devices", type=int, default=1, help="processes of the translator")
    args = parser.parse_args()
    out, preset = args.out, args.preset or "compact"
    encoder = ["train", "encoder", "--kind", "autoencoder", "--preset", preset,
               "--steps", scaled(args, args.encoder_steps), *training(args)]  # fmt: skip
    encoders = {}
    for schedule in ("published", "modern"):
        run(*encoder, "--schedule", schedule, "-o", out / f"autoencoder-{schedule}")
        encoders[schedule] = measured(
            args, out / f"autoencoder-{schedule}", out / f"report-autoencoder-{schedule}"
        )
    start = pixels_first(args, out / "autoencoder-published", preset)
    run("train", "translator", "--encoder", out / "autoencoder-published", *start,
        "--objective", "rc", "--moving-average", args.moving_average,
        "--steps", scaled(args, args.steps), "--devices", args.devices, *settings(args),
        "--judges", args.judges or PACKAGED_JUDGES, "--evaluate-every", scaled(args, LOOK_EVERY),
        *training(args), "-o", out / "translator")  # fmt: skip
    report = measured(args, out / "translator", out / "report")
    rows = [
        [name, *(percent(report["rows"][name][key]) for key in ("mean", *report["sounds"]))]
        for name in ("informativity", "shuffled sounds", "real photos")
    ]
    text = f"# The published system on a CPU\n\n`{command_line()}`\n\n"
    text += table(["", "mean", *report["sounds"]], rows) + "\n\nAll of it: report/report.md\n"
    with atomic_file(out / "README.md") as temporary:
        temporary.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
