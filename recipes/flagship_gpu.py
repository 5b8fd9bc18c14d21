"""The five-kind model on a GPU: ``flagship_cpu.py`` with more steps, in slices that resume.

    python recipes/flagship_gpu.py --out runs/flagship_gpu --slice-minutes 9

Run it again until it says that it is done: each run works for one slice at most and stops with a
checkpoint; evaluation and export come last, on the same machine. Sized for at most 20 minutes of
training on an H200 with bfloat16 arithmetic: 6,000 batches of 256 pairs for the encoder and 40,000
of 64 for the translator, five times the pictures of ``flagship_cpu``. It has not been run on a GPU:
launching the kernels of these narrow networks takes more time than their arithmetic, and 33
translator steps a second may not be reached; a slower card takes more slices. The weights are in
the model folder (fp16, each file under 16 MiB). Try it out with ``--preset tiny --scale .001``.
"""

from __future__ import annotations

import time

from flagship_cpu import finish
from steps import arguments, install, scaled, train_a_slice, training

ENCODER_STEPS, ENCODER_BATCH = 6000, 256
TRANSLATOR_STEPS, TRANSLATOR_BATCH = 40_000, 64


def main() -> None:
    """Do one slice of what is left."""
    parser = arguments(__doc__, "runs/flagship_gpu")
    parser.set_defaults(precision="bf16-mixed")
    parser.add_argument("--slice-minutes", type=float, default=9.0)
    parser.add_argument("--install", action="store_true", help="put it into the package")
    args = parser.parse_args()
    out, preset = args.out, args.preset or "flagship"
    ends = time.monotonic() + 60.0 * args.slice_minutes

    def slice_of(folder: str, *command: object) -> None:
        train_a_slice(args, ends, folder, *command, *training(args))

    slice_of("encoder", "encoder", "--preset", preset, "--steps", scaled(args, ENCODER_STEPS),
             "--batch-size", ENCODER_BATCH)  # fmt: skip
    slice_of("translator", "translator", "--preset", preset, "--encoder", out / "encoder",
             "--steps", scaled(args, TRANSLATOR_STEPS),
             "--batch-size", TRANSLATOR_BATCH)  # fmt: skip
    finish(args, out, "flagship")
    if args.install:
        install(out / "model", "model")
    print(f"done: {out / 'report' / 'report.md'}")


if __name__ == "__main__":
    main()
