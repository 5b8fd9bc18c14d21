"""The published system at the published sizes, on a GPU, in slices that resume.

    python recipes/paper_gpu.py --out runs/paper_gpu --slice-minutes 9

Run it again until it says that it is done: each run works for one slice at most and stops with a
checkpoint. Sized for at most 20 minutes of training on an H200 with bfloat16 arithmetic: the
autoencoder costs 21.6 GFLOP a second of sound, the networks of the translator about 26 a pair.
1,600 steps of 256 sounds (8.8 PFLOP) and 6,000 steps of 128 pairs (20 PFLOP) are 29 PFLOP, so 20
minutes need 24 TFLOP a second. It has not been run on a GPU: a card may be slower with these narrow
layers, and then takes more slices. Both batches are larger than the published 64, which would leave
a card idle; the autoencoder's rate is scaled with its batch.
``--moving-average`` as in ``recipes/moving_average.py``; ``--set`` changes other settings of the
translator, ``--pixel-steps`` starts it with the pixel loss alone (docs/published.md). Each slice
ends with its last losses and pairs a second, the last one with export and report. Try it out with
``--preset tiny --scale .005 --precision 32-true``.
"""

from __future__ import annotations

import time

from steps import (
    arguments,
    measured,
    pixels_alone,
    run,
    scaled,
    settings,
    train_a_slice,
    training,
)

AUTOENCODER_STEPS, AUTOENCODER_BATCH = 1600, 256
TRANSLATOR_STEPS, TRANSLATOR_BATCH = 6000, 128


def main() -> None:
    """Do one slice of what is left."""
    parser = arguments(__doc__, "runs/paper_gpu", sets=True)
    parser.set_defaults(precision="bf16-mixed")
    parser.add_argument("--slice-minutes", type=float, default=9.0)
    parser.add_argument("--moving-average", default="off")
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks")
    args = parser.parse_args()
    out, preset = args.out, args.preset or "paper"
    ends = time.monotonic() + 60.0 * args.slice_minutes
    common = [*training(args), *(["--compile"] if args.compile else [])]

    def slice_of(folder: str, *command: object) -> None:
        train_a_slice(args, ends, folder, *command, *common)

    slice_of("autoencoder", "encoder", "--kind", "autoencoder", "--schedule", "published",
             "--preset", preset, "--steps", scaled(args, AUTOENCODER_STEPS),
             "--batch-size", AUTOENCODER_BATCH,
             "--set", f"learning_rate={0.05 * AUTOENCODER_BATCH / 64}")  # fmt: skip
    start: list[object] = ["--preset", preset]
    if args.pixel_steps:
        start = ["--init", out / "pixels"]
        slice_of("pixels", *pixels_alone(args, out / "autoencoder", preset),
                 "--batch-size", TRANSLATOR_BATCH)  # fmt: skip
    slice_of("translator", "translator", "--encoder", out / "autoencoder", *start,
             "--objective", "rc", "--moving-average", args.moving_average, *settings(args),
             "--steps", scaled(args, TRANSLATOR_STEPS),
             "--batch-size", TRANSLATOR_BATCH)  # fmt: skip
    if not (out / "model" / "model.json").exists():
        run("export", out / "translator", "--name", "paper", "-o", out / "model", "--overwrite")
    measured(args, out / "model", out / "report")
    print(f"done: {out / 'report' / 'report.md'}")


if __name__ == "__main__":
    main()
