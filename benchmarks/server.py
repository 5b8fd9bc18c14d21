"""Streams on one machine: latency, fairness, what happens past the limit, and half an hour of use.

    python benchmarks/server.py [--model DIR] [--seconds 20] [--soak-minutes 0]

Starts the real server in a process of its own and speaks to it over loopback, from this process:
both share the machine's CPUs. Sounds are the bench's recordings (``SOUNDSIGHT_BENCH``), or
synthesised ones where there are none. A window's latency counts from the moment at which its last
sample was due to be sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import websockets
from numpy.typing import NDArray

from soundsight.core import protocol
from soundsight.core.units import RATE_HZ
from soundsight.media import audio

sys.path.append(str(Path(__file__).parents[1]))
from recipes import synth

FRAME = 1_323
"""Samples of a frame: 30 ms."""


@dataclass
class Counted:
    """What the streams of one run have seen."""

    late_s: list[float] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    pictures: int = 0
    drawings: int = 0
    skipped: int = 0
    longest_gap_s: float = 0.0
    refused: int = 0
    told: set[str] = field(default_factory=set)


def sounds(count: int) -> list[NDArray[np.int16]]:
    """Recordings as 16-bit samples, at least 5 s each."""
    folder = Path(os.environ.get("SOUNDSIGHT_BENCH", "../shared/data")) / "sounds"
    files = sorted(folder.glob("*.ogg"))
    if files:
        step = max(1, len(files) // count)
        clips = [audio.decode(path) for path in files[::step][:count]]
    else:
        subjects = [synth.SUBJECTS[k % len(synth.SUBJECTS)] for k in range(count)]
        clips = [synth.sound(subject, 5.0, seed) for seed, subject in enumerate(subjects)]
    return [np.rint(np.clip(clip, -1, 1) * 32767).astype(np.int16) for clip in clips]


@contextlib.contextmanager
def server(model: Path | None, *options: str) -> Iterator[tuple[int, psutil.Process, Path]]:
    """Start a server; yields its port, its process and what it writes to standard error."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "stderr"
        command = [sys.executable, "-m", "soundsight", "serve", "--port", "0", *options]
        command += ["--model", str(model)] if model else []
        with log.open("w") as errors:
            running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert running.stdout is not None
        line = running.stdout.readline()
        if not line.startswith("ready: "):
            raise SystemExit(f"the server did not start:\n{log.read_text()}")
        try:
            yield int(line.split("/")[2].rsplit(":", 1)[1]), psutil.Process(running.pid), log
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(30)


async def talk(
    port: int,
    clip: NDArray[np.int16],
    seconds: float,
    counted: Counted,
    *,
    hop_s: float = 0.25,
    vanish: bool = False,
) -> None:
    """One stream: hello, sound in real time, end (or none: the socket is simply cut)."""
    url = f"ws://127.0.0.1:{port}{protocol.PATH}"
    try:
        async with websockets.connect(
            url, subprotocols=[protocol.SUBPROTOCOL], compression=None, open_timeout=30
        ) as socket:
            await socket.send(protocol.Hello(hop_s=hop_s, client="benchmark").model_dump_json())
            said = protocol.read_server_text(str(await socket.recv()))
            if isinstance(said, protocol.Error):
                counted.refused += 1
                counted.told.add(f"{said.code}: {said.message}")
                return
            began = time.perf_counter()
            seen = drawing = 0
            last_s = began + 1.0

            async def listen() -> None:
                nonlocal seen, drawing, last_s
                async for data in socket:
                    if isinstance(data, str):
                        continue
                    now = time.perf_counter()
                    facts, pictures = protocol.read_window(data)
                    counted.late_s.append(now - began - facts.end_s)
                    counted.skipped += facts.skipped
                    counted.pictures += len(pictures)
                    counted.drawings += facts.drawing - drawing
                    drawing = facts.drawing
                    counted.longest_gap_s = max(counted.longest_gap_s, now - last_s)
                    last_s = now
                    seen += 1

            listening = asyncio.create_task(listen())
            # A fault of it is the sender's, too, which tells it.
            listening.add_done_callback(lambda task: task.cancelled() or task.exception())
            sent = number = 0
            while sent < seconds * RATE_HZ:
                piece = np.take(clip, range(sent, sent + FRAME), mode="wrap")
                frame = protocol.SoundFrame(sequence=number, position=sent, samples=piece)
                await socket.send(frame.pack())
                number, sent = number + 1, sent + FRAME
                wait_s = began + sent / RATE_HZ - time.perf_counter()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
            if vanish:
                listening.cancel()
                socket.transport.abort()
                return
            await socket.send(protocol.End().model_dump_json())
            await listening
            counted.windows.append(seen)
    except websockets.exceptions.ConnectionClosed as error:
        if not vanish:
            code = error.rcvd.code if error.rcvd else 1006
            counted.told.add(f"{code}: {error.rcvd.reason if error.rcvd else 'cut off'}")
            counted.refused += 1
    except (OSError, websockets.exceptions.WebSocketException) as error:
        counted.told.add(type(error).__name__)
        counted.refused += 1


async def together(port: int, streams: int, seconds: float) -> Counted:
    """So many streams at once, begun over a second."""
    counted = Counted()
    clips = sounds(min(streams, 40))

    async def later(index: int) -> None:
        await asyncio.sleep(index / streams)
        await talk(port, clips[index % len(clips)], seconds, counted)

    await asyncio.gather(*(later(index) for index in range(streams)))
    return counted


def report(name: str, counted: Counted, seconds: float, target: str) -> None:
    """Print one run."""
    late_ms = np.array(counted.late_s) * 1000
    whole = int((seconds - 1) / 0.25) + 1
    p50, p95, most = np.quantile(late_ms, (0.5, 0.95, 1.0))
    print(
        f"{name:<44} p50 {p50:6.0f} ms   p95 {p95:6.0f} ms   max {most:6.0f} ms   target {target}"
    )
    print(
        f"{'':<44} windows a stream {min(counted.windows)} to {max(counted.windows)} of {whole}, "
        f"left out {counted.skipped}, longest gap {counted.longest_gap_s:.2f} s, "
        f"pictures {counted.pictures}, drawn {counted.drawings}, refused {counted.refused}",
        flush=True,
    )
    for line in sorted(counted.told):
        print(f"{'':<44} told: {line}")


async def use(port: int, minutes: float, streams: int, process: psutil.Process) -> None:
    """Streams that come, talk, and end or vanish, for so long; watches memory and descriptors."""
    rng = random.Random(0)
    clips = sounds(40)
    counted = Counted()
    end = time.monotonic() + 60 * minutes
    samples: list[tuple[float, float, int, int]] = []

    async def one() -> None:
        while time.monotonic() < end:
            await talk(
                port, rng.choice(clips), rng.uniform(2, 15), counted,
                hop_s=rng.choice((0.25, 0.25, 0.5, 1.0)), vanish=rng.random() < 0.5,
            )  # fmt: skip
            await asyncio.sleep(rng.uniform(0, 1))

    async def watch() -> None:
        while time.monotonic() < end:
            children = len(process.children(recursive=True))
            memory = process.memory_info().rss / 1e6
            samples.append((time.monotonic(), memory, process.num_fds(), children))
            await asyncio.sleep(5)

    await asyncio.gather(watch(), *(one() for _ in range(streams)))
    await asyncio.sleep(3)
    quarter = max(1, len(samples) // 4)
    first = statistics.mean(m for _, m, _, _ in samples[quarter : 2 * quarter])
    last = statistics.mean(m for _, m, _, _ in samples[-quarter:])
    name = f"{minutes:g} min, {streams} streams come and go"
    print(
        f"{name:<44} memory {first:.0f} MB in the second quarter, {last:.0f} MB in the last "
        f"({100 * (last / first - 1):+.1f} %)   target +-5 %"
    )
    print(
        f"{'':<44} descriptors at first {samples[0][2]}, most {max(s[2] for s in samples)}, "
        f"after it all {process.num_fds()}; children {len(process.children(recursive=True))}; "
        f"streams ended {len(counted.windows)}, windows {len(counted.late_s)}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="model folder [default: the bundled one]")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each run")
    parser.add_argument("--past", type=int, default=200, help="streams that are more than it can")
    parser.add_argument("--soak-minutes", type=float, default=0.0, help="length of use; 0: none")
    parser.add_argument("--soak-streams", type=int, default=20)
    parser.add_argument("--only-soak", action="store_true")
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, shared by the server and its clients")
    if not options.only_soak:
        with server(options.model, "--max-streams", str(options.past * 9 // 10)) as running:
            port, process, log = running
            for streams, target in ((1, "250 ms"), (40, "300 ms"), (options.past, "(none)")):
                before = process.cpu_times()
                counted = asyncio.run(together(port, streams, options.seconds))
                after = process.cpu_times()
                spent = after.user + after.system - before.user - before.system
                name = f"{streams} streams, {spent / options.seconds:.2f} CPUs"
                report(name, counted, options.seconds, target)
            faults(log)
    if options.soak_minutes:
        with server(options.model) as (port, process, log):
            asyncio.run(use(port, options.soak_minutes, options.soak_streams, process))
            faults(log)


def faults(log: Path) -> None:
    """Say whether the server has met a fault of its own."""
    text = log.read_text()
    if text:
        print(f"the server said:\n{text}")
    else:
        print(f"{'':<44} nothing on the server's standard error")


if __name__ == "__main__":
    main()
