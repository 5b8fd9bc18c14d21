"""How fast a sound becomes a picture on this machine, beside what is aimed at on two cores.

    python benchmarks/runtime.py [--model DIR] [--hours 3] [--repeats 7]

Medians of fresh processes (start of the command, import) and of a loaded translator; and the peak
memory of translating a long recording, which is made on the fly in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from soundsight import Translator
from soundsight.core.errors import SoundsightError
from soundsight.core.units import RATE_HZ
from soundsight.runtime import model_folder
from soundsight.runtime.session import default_threads

PEAK = """
import resource, sys
from soundsight.cli.main import main
try:
    main()
except SystemExit as end:
    code = end.code or 0
kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("PEAK", kilobytes / 1024, file=sys.stderr)
sys.exit(code)
"""


def times_s(action: Callable[[], object], repeats: int) -> list[float]:
    """Times of an action in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return times


def median_s(action: Callable[[], object], repeats: int) -> float:
    """Median time of an action in seconds."""
    return statistics.median(times_s(action, repeats))


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a fresh process; stop when it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done


def noise_second(rng: np.random.Generator) -> np.ndarray:
    """A second of a swelling tone over noise: float32 [44100]."""
    t = np.arange(RATE_HZ) / RATE_HZ
    tone = np.sin(2 * np.pi * rng.uniform(200, 2000) * t) * rng.uniform(0.02, 0.3)
    return (tone + rng.normal(0, 0.01, RATE_HZ)).astype(np.float32)


def write_long(path: Path, hours: float) -> None:
    """Write a recording of so many hours, a second at a time."""
    rng = np.random.default_rng(0)
    minute = [noise_second(rng) for _ in range(60)]
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as file:
        for second in range(int(hours * 3600)):
            file.write(minute[second % 60])


def line(name: str, value: str, target: str) -> None:
    """Print one figure beside its target."""
    print(f"{name:<52} {value:>16}   target {target}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="model folder [default: the bundled one]")
    parser.add_argument("--hours", type=float, default=3.0, help="length of the long recording")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--each-second", action="store_true", help="also translate every second of the recording"
    )
    options = parser.parse_args()
    try:
        model = options.model or model_folder.bundled()
        translator = Translator.load(model)
    except SoundsightError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"model {translator.info.label}, {default_threads()} threads, {os.cpu_count()} CPUs")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = noise_second(np.random.default_rng(1))
        soundfile.write(folder / "one.wav", samples, RATE_HZ)
        command = ["-m", "soundsight", "translate", str(folder / "one.wav"), "--overwrite"]
        command += ["-o", str(folder / "out"), "--model", str(model), "--anyway"]

        process(*command)  # fills the disk's cache
        cold = median_s(lambda: process(*command), options.repeats)
        line("soundsight translate one.wav, cold start", f"{cold:.2f} s", "< 0.50 s")
        empty = median_s(lambda: process("-c", ""), options.repeats)
        start = median_s(lambda: process("-c", "import soundsight"), options.repeats)
        line("import soundsight", f"{max(start - empty, 0):.3f} s", "< 0.25 s")

        def draw() -> object:
            # Drawn whatever the model says of this noise.
            return translator.translate(samples, RATE_HZ, anyway=True)

        draw()
        ready = sorted(times_s(draw, 15 * options.repeats))
        middle, late = (1000 * ready[int(q * len(ready))] for q in (0.5, 0.95))
        line("loaded, 1 s -> picture: p50, p95", f"{middle:.1f}, {late:.1f} ms", "< 25 ms")

        mel = translator.translate(samples, RATE_HZ).mels[0]
        heard = 1000 * median_s(lambda: translator.recognise(mel), 15 * options.repeats)
        line("loaded, a live window that draws nothing", f"{heard:.1f} ms", "< 6 ms")

        long = folder / "long.wav"
        write_long(long, options.hours)
        modes = [[], ["--each-second", "--no-sheet"]] if options.each_second else [[]]
        for extra in modes:
            arguments = ["translate", str(long), "-o", str(folder / "long"), "--model", str(model)]
            begin = time.perf_counter()
            done = process("-c", PEAK, *arguments, *extra)
            took = time.perf_counter() - begin
            told = [text for text in done.stderr.splitlines() if text.startswith("PEAK")]
            what = f"{options.hours:g} h of sound" + (", each second" if extra else "")
            line(f"{what}, peak memory", f"{float(told[0].split()[1]):.0f} MB", "< 400 MB")
            line(f"{what}, time", f"{took:.1f} s", "(none)")


if __name__ == "__main__":
    main()
