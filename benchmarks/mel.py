"""How fast is the log-mel? An hour of synthetic sound, ours beside librosa's, in one run.

    python benchmarks/mel.py --minutes 60 --repeats 5

Both get the same minute-long clips one after the other (librosa keeps the spectrogram of a whole
clip in memory), with the same settings, and turn them into decibels. The repeats alternate, so that
a machine that slows down slows both. Printed are the medians and their ratio; a ratio of 1 or more
means that ours is at least as fast.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
from numpy.typing import NDArray

from soundsight.media import mel

sys.path.append(str(Path(__file__).parents[1]))
from recipes import synth

CONFIG = mel.DEFAULT


def ours(clip: NDArray[np.float32]) -> None:
    """The product's log-mel of one clip, to uint8 levels."""
    mel.log_mel(clip, CONFIG)


def librosas(clip: NDArray[np.float32]) -> None:
    """librosa's mel spectrogram of one clip, to decibels."""
    power = librosa.feature.melspectrogram(
        y=clip,
        sr=CONFIG.rate_hz,
        n_fft=CONFIG.window_samples,
        hop_length=CONFIG.hop_samples,
        n_mels=CONFIG.n_mels,
        fmin=CONFIG.f_min_hz,
        fmax=CONFIG.f_max_hz,
        pad_mode="reflect",
    )
    librosa.power_to_db(power, ref=np.max, top_db=CONFIG.range_db)


def seconds_of(work: Callable[[NDArray[np.float32]], None], clips: list, minutes: int) -> float:
    """Wall time of ``minutes`` minute-long clips."""
    start = time.perf_counter()
    for index in range(minutes):
        work(clips[index % len(clips)])
    return time.perf_counter() - start


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=60, help="length of the sound")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each, alternating")
    options = parser.parse_args()
    clips = [synth.sound(subject, 60.0, 0) for subject in synth.SUBJECTS]
    for work in (ours, librosas):
        work(clips[0])
    times: dict[str, list[float]] = {"ours": [], "librosa": []}
    for repeat in range(options.repeats):
        pair = [("ours", ours), ("librosa", librosas)]
        for name, work in pair if repeat % 2 == 0 else reversed(pair):
            times[name].append(seconds_of(work, clips, options.minutes))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{options.minutes} min of sound, {options.repeats} alternating repeats")
    for name, values in times.items():
        print(
            f"{name:8s} median {medians[name]:7.2f} s  (from {min(values):.2f} to "
            f"{max(values):.2f} s), {options.minutes * 60 / medians[name]:.0f} x real time"
        )
    print(f"librosa / ours: {medians['librosa'] / medians['ours']:.2f}")


if __name__ == "__main__":
    main()
