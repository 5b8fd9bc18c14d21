"""The bottleneck: how the length of the audio embedding moves informativity and pixel loss.

    python recipes/bottleneck.py --out runs/bottleneck --precision bf16-mixed --threads 1

Five embeddings, 128 to 2,048 numbers long: an autoencoder of each at the size ``small`` (modern
schedule, 40,000 seconds of sound), measured by nearest neighbours, a linear probe and its
reconstructions; then a translator of each as published (20,000 pictures), measured on val. The same
pictures in the same order for each. About 40 minutes of one quiet core. Writes report.md and
bottleneck.png.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from soundsight.core.files import atomic_file
from steps import arguments, command_line, log_of, measured, percent, run, scaled, table, training

SIZES = (128, 256, 512, 1024, 2048)
AUTOENCODER_STEPS = 625
TRANSLATOR_STEPS = 312


def plot(found: dict[int, dict[str, float]], path: Path) -> None:
    """Draw informativity and both losses over the length of the embedding."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    shown = (
        ("per cent of val", ("informativity", "shuffled sounds")),
        ("pixel loss (L1)", ("pixel loss",)),
        ("reconstruction (MSE)", ("reconstruction",)),
    )
    for panel, (label, names) in zip(panels, shown, strict=True):
        for name in names:
            panel.plot(list(found), [found[size][name] for size in found], marker="o", label=name)
        panel.set_xscale("log", base=2)
        panel.set_xticks(list(found), [str(size) for size in found])
        panel.set_xlabel("length of the embedding")
        panel.set_ylabel(label)
        if len(names) > 1:
            panel.legend()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Train five encoders and five translators, measure, write the table and the plot."""
    args = arguments(__doc__, "runs/bottleneck").parse_args()
    out, preset = args.out, args.preset or "small"
    found: dict[int, dict[str, float]] = {}
    rows = []
    for size in SIZES:
        encoder, folder = out / f"autoencoder-{size}", out / f"translator-{size}"
        run("train", "encoder", "--kind", "autoencoder", "--preset", preset,
            "--embedding-size", size, "--steps", scaled(args, AUTOENCODER_STEPS),
            *training(args), "-o", encoder)  # fmt: skip
        heard = measured(args, encoder, out / f"report-autoencoder-{size}", "--split", "val")
        run("train", "translator", "--encoder", encoder, "--preset", preset, "--objective", "rc",
            "--steps", scaled(args, TRANSLATOR_STEPS), *training(args), "-o", folder)  # fmt: skip
        seen = measured(args, folder, out / f"report-{size}", "--split", "val")
        pixels = float(np.mean([line["pixel_loss"] for line in log_of(folder)[-5:]]))
        error = heard["errors"]["reconstruction"]["mean"]["share"]
        found[size] = {
            "informativity": 100 * seen["rows"]["informativity"]["mean"]["share"],
            "shuffled sounds": 100 * seen["rows"]["shuffled sounds"]["mean"]["share"],
            "pixel loss": pixels,
            "reconstruction": error,
        }
        rows.append([
            size,
            f"{error:.4f}",
            percent(heard["rows"]["nearest seconds"]["mean"]),
            percent(heard["rows"]["linear probe"]["mean"]),
            f"{pixels:.3f}",
            percent(seen["rows"]["informativity"]["mean"]),
            percent(seen["rows"]["shuffled sounds"]["mean"]),
        ])  # fmt: skip
    plot(found, out / "bottleneck.png")
    head = ["E", "reconstruction, MSE", "nearest seconds, %", "linear probe, %",
            "pixel loss of the last steps", "informativity, %", "shuffled sounds, %"]  # fmt: skip
    text = (
        f"# The bottleneck\n\n`{command_line()}`\n\nMeasured on val, one seed; 95 % intervals over "
        "videos, which say nothing of another seed. The probe's weight decay is chosen on val, "
        f"which flatters it a little.\n\n{table(head, rows)}\n\n"
        "![bottleneck](bottleneck.png)\n"
    )
    with atomic_file(out / "report.md") as temporary:
        temporary.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
