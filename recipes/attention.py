"""The attention variant: does self- and cross-attention at 4x4 help, and what should it listen to?

    python recipes/attention.py --out runs/attention --precision bf16-mixed --threads 1

Three translators as published from one autoencoder, each for three seeds on the same 20,000
pictures at the size ``small``: without attention, with two blocks after transition 1 that listen to
the embedding (one token: cross-attention says the same everywhere), and with two that listen to the
3x3 tokens of layer 12. ``--preset paper --blocks 18 --width 320`` is the published size, for a GPU.
About 40 minutes of one quiet core. Measured on val.
"""

from __future__ import annotations

import numpy as np

from soundsight.core.files import atomic_file
from steps import arguments, command_line, log_of, measured, run, scaled, table, training

STEPS = 312


def main() -> None:
    """Train every run, measure, write report.md."""
    parser = arguments(__doc__, "runs/attention", seeds=3)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    args = parser.parse_args()
    out, preset = args.out, args.preset or "small"
    run("train", "encoder", "--kind", "autoencoder", "--preset", preset,
        "--steps", scaled(args, 1200), *training(args), "-o", out / "autoencoder")  # fmt: skip
    blocks = f"0,{args.blocks},0,0,0,0,0"
    variants: dict[str, list[object]] = {
        "none": [],
        "embedding": ["--attention", blocks, "--audio-source", 13],
        "layer-12": ["--attention", blocks, "--audio-source", 12],
    }
    rows = []
    for name, options in variants.items():
        figures: dict[str, list[float]] = {}
        for seed in range(args.seeds):
            folder = out / f"{name}-{seed}"
            run("train", "translator", "--encoder", out / "autoencoder", "--preset", preset,
                "--objective", "rc", *options, "--set", f"attention_width={args.width}",
                "--steps", scaled(args, STEPS), "--seed", seed, *training(args),
                "-o", folder)  # fmt: skip
            report = measured(args, folder, out / f"report-{folder.name}", "--split", "val")
            log = log_of(folder)
            for key, value in (
                ("pixel loss", float(np.mean([line["pixel_loss"] for line in log[-5:]]))),
                ("informativity", 100 * report["rows"]["informativity"]["mean"]["share"]),
                ("shuffled", 100 * report["rows"]["shuffled sounds"]["mean"]["share"]),
            ):
                figures.setdefault(key, []).append(value)
        rows.append(
            [name]
            + [
                f"**{np.mean(values):.3g}** ({', '.join(f'{v:.3g}' for v in values)})"
                for values in figures.values()
            ]
        )
    head = ["attention listens to", "pixel loss", "informativity, % of val", "shuffled, % of val"]
    text = (
        f"# The attention variant\n\n`{command_line()}`\n\nMean over {args.seeds} seeds, and each "
        f"of them.\n\n{table(head, rows)}\n"
    )
    with atomic_file(out / "report.md") as temporary:
        temporary.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
