"""How fast do pairs come out of a dataset? The training loader beside webdataset's own reader.

    python benchmarks/reader.py --pairs 4000 --repeats 5

A dataset of photo-like pictures and log-mels of synthetic sounds, in 100 shards, is made in a
temporary folder and read by one process: by webdataset (its decoding of pictures with Pillow, its
shuffle, a buffer of 1,000 pairs), and by ours in batches of 64 as training gathers them, without
and with a cache of decoded pairs on disk. Every pair arrives as two uint8 arrays. The repeats
alternate, so that a machine that slows down slows all. Printed are medians by the clock, and by the
time that the core gave to this process, which is what counts where others work on the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_PX, N_MELS
from soundsight.data.records import Clip, Record
from soundsight.data.store.dataset import PairDataset
from soundsight.data.store.shards import encode_mel, write_dataset, write_shard
from soundsight.media import mel

sys.path.append(str(Path(__file__).parents[1]))
from recipes import synth

PAIRS_PER_VIDEO = 10
SHARDS = 100
BUFFER = 1000
BATCH = 64


def photo(rng: np.random.Generator) -> bytes:
    """A picture with the statistics of a photo (amplitudes fall with frequency), as JPEG."""
    rows, columns = np.fft.fftfreq(IMAGE_PX)[:, None], np.fft.rfftfreq(IMAGE_PX)[None]
    fall = 1.0 / np.maximum(np.hypot(rows, columns), 1.0 / IMAGE_PX)
    noise = np.fft.rfft2(rng.normal(size=(4, IMAGE_PX, IMAGE_PX))) * fall
    planes = np.fft.irfft2(noise, s=(IMAGE_PX, IMAGE_PX))
    planes /= planes.std(axis=(1, 2), keepdims=True)
    # What the channels share is light, what they do not is colour.
    levels = 120 + 55 * planes[3] + 18 * planes[:3]
    levels += rng.normal(0, 3, levels.shape)
    file = io.BytesIO()
    picture = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    picture.save(file, format="JPEG", quality=95, subsampling=0)
    return file.getvalue()


def records(count: int) -> Iterator[Record]:
    """Make so many pairs."""
    rng = np.random.default_rng(0)
    for video in range(-(-count // PAIRS_PER_VIDEO)):
        subject = synth.SUBJECTS[video % len(synth.SUBJECTS)]
        sound = synth.sound(subject, float(PAIRS_PER_VIDEO), video)
        sound += rng.normal(0, 1e-3, len(sound)).astype(np.float32)
        clip = Clip(path="", key=f"{video}.mp4", group=str(video), label=subject)
        levels = mel.log_mel(sound)
        for window in range(min(PAIRS_PER_VIDEO, count - video * PAIRS_PER_VIDEO)):
            files = {
                "mel.png": encode_mel(
                    levels[:, window * FRAMES_PER_SEGMENT :][:, :FRAMES_PER_SEGMENT]
                ),
                "jpg": photo(rng),
            }
            key = f"{clip.id}_{window:06d}"
            about = {
                "key": key, "clip": clip.key, "group": clip.group, "label": clip.label,
                "start_s": float(window), "end_s": window + 1.0, "frame_s": window + 0.5,
                "licence": None, "measures": {},
                "sha256": {n: hashlib.sha256(d).hexdigest() for n, d in files.items()},
            }  # fmt: skip
            files["json"] = json.dumps(about, sort_keys=True).encode() + b"\n"
            yield Record(key=key, files=files)


def write(folder: Path, count: int) -> None:
    """Write the dataset."""
    shards = []
    batch: list[Record] = []
    for number, record in enumerate(records(count), start=1):
        batch.append(record)
        if len(batch) == -(-count // SHARDS) or number == count:
            shards.append(write_shard(folder / f"train-{len(shards):06d}.tar", batch))
            batch = []
    about = {
        "format": "soundsight-pairs", "format_version": 1,
        "mel_frames": FRAMES_PER_SEGMENT, "mel_bands": N_MELS, "image_px": IMAGE_PX,
        "files": ["jpg", "json", "mel.png"],
        "splits": {"train": {"pairs": count, "shards": [vars(shard) for shard in shards]}},
    }  # fmt: skip
    write_dataset(folder, about)


def webdatasets(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs as webdataset reads them, pictures decoded by Pillow."""
    import webdataset

    def decoded(sample: dict) -> tuple[np.ndarray, np.ndarray]:
        with Image.open(io.BytesIO(sample["mel.png"])) as levels:
            heard = np.array(levels)
        with Image.open(io.BytesIO(sample["jpg"])) as picture:
            return heard, np.array(picture)

    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    return iter(webdataset.WebDataset(shards, shardshuffle=100).shuffle(BUFFER).map(decoded))


def ours(folder: Path, cache: Path | None = None) -> Iterator[int]:
    """The pairs of an epoch as training gathers them, held in no memory."""
    pairs = PairDataset(folder, "train", cache=cache or False)
    order = pairs.order()
    for start in range(0, len(order), BATCH):
        yield from range(len(pairs.gather(order[start : start + BATCH]).mel))


def pairs_per_s(read: Callable[[], Iterator], count: int) -> tuple[float, float]:
    """Read everything and return the rate by the clock, and by the time on the core."""
    start, start_core = time.perf_counter(), time.process_time()
    seen = sum(1 for _ in read())
    took, took_core = time.perf_counter() - start, time.process_time() - start_core
    if seen != count:
        raise SystemExit(f"{seen} pairs came, not {count}")
    return count / took, count / took_core


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5, help="readings of each, alternating")
    options = parser.parse_args()
    count = options.pairs
    # webdataset leaves its files to be closed by whoever collects them.
    warnings.simplefilter("ignore", ResourceWarning)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as name:
        data, cache = Path(name, "data"), Path(name, "cache")
        data.mkdir()
        write(data, count)
        size = sum(path.stat().st_size for path in data.glob("*.tar"))
        print(f"{count} pairs, {size / count / 1000:.1f} kB each, one process on one core")
        start = time.perf_counter()
        PairDataset(data, "train", cache=cache)
        print(f"making the cache: {count / (time.perf_counter() - start):.0f} pairs/s")
        readers: dict[str, Callable[[], Iterator]] = {
            "webdataset": lambda: webdatasets(data),
            "ours": lambda: ours(data),
            "ours, cached": lambda: ours(data, cache),
        }
        targets = {"ours": "   target 1500", "ours, cached": "   target 5000"}
        rates: dict[str, list[tuple[float, float]]] = {which: [] for which in readers}
        for repeat in range(options.repeats):
            order = list(readers) if repeat % 2 == 0 else list(reversed(readers))
            for which in order:
                rates[which].append(pairs_per_s(readers[which], count))
        on_core: dict[str, float] = {}
        for which, values in rates.items():
            clock = [rate for rate, _ in values]
            on_core[which] = statistics.median(rate for _, rate in values)
            print(
                f"{which:14s} pairs/s: median {statistics.median(clock):7.0f} by the clock "
                f"(from {min(clock):.0f} to {max(clock):.0f}), {on_core[which]:7.0f} by time on "
                f"the core{targets.get(which, '')}"
            )
        print(f"ours / webdataset, on the core: {on_core['ours'] / on_core['webdataset']:.2f}")


if __name__ == "__main__":
    main()
