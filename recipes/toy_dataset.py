"""Every step of preparation on toy videos: draw them, prepare, look, verify, export, read back.

    python recipes/toy_dataset.py --videos 2000 --out runs/toy

Needs no data from elsewhere. A second call uses the videos and the dataset again. It prints the
commands, their output, and how long they took; look at ``sheet.png`` and ``data/dropped/``.
The toy videos are drawings: what cleaning drops of them says nothing about real ones.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import synth

PROGRAM = "from soundsight.cli.main import main; main()"


def draw(job: tuple[Path, int]) -> None:
    """Write toy video ``number``, unless it is there."""
    folder, number = job
    subject = synth.SUBJECTS[number % len(synth.SUBJECTS)]
    path = folder / subject / f"{subject}_{number:05d}.mp4"
    if not path.exists():
        synth.write_video(path, subject, 4.0, number, fps=10)


def run(*words: str) -> None:
    """Run one soundsight command and print what it took."""
    print("\n$ soundsight", " ".join(words), flush=True)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], check=False)
    print(f"[{time.perf_counter() - began:.1f} s, exit code {done.returncode}]", flush=True)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs/toy"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clean", default="all")
    options = parser.parse_args()
    videos, data = options.out / "videos", options.out / "data"
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        jobs = [(videos, number) for number in range(options.videos)]
        for _ in pool.imap_unordered(draw, jobs, chunksize=20):
            pass
    print(f"{options.videos} videos of 4 s [{time.perf_counter() - began:.1f} s]")
    workers = str(options.workers)
    run("prepare", str(videos), "-o", str(data), "--layout", "classes",
        "--clean", options.clean, "--workers", workers, "--shard-mb", "16")  # fmt: skip
    run("data", "info", str(data))
    run("data", "verify", str(data))
    run("data", "sheet", str(data), "-o", str(options.out / "sheet.png"))
    batches = options.out / "batches"
    if not batches.exists():
        run("data", "export", str(data), "-o", str(batches), "--kind", "spectrogram")
    run("prepare", str(batches), "-o", str(options.out / "again"), "--layout", "published")


if __name__ == "__main__":
    main()
