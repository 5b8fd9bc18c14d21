"""From a sound to its picture on the page: real Chromium, a fake microphone, loopback.

    python benchmarks/live.py [--model DIR] [--onsets 30] [--chromium /usr/bin/chromium]

Dog barks of the bench (or synthesised ones), each after some seconds of silence, are played into
the browser's fake microphone. An audio worklet of the benchmark's own, beside the page's, notes
when the first sample of each sound reaches the browser's audio thread; the page says when it has
painted. Both clocks are those of one machine. The page, the server and the browser share its CPUs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from soundsight.core.units import RATE_HZ
from soundsight.media import audio

sys.path.append(str(Path(__file__).parents[1]))
from recipes import synth

SILENCE_S = 7.3
"""Longer than the pause that an event goes on after, and no multiple of the hop."""

SOUND_S = 2.0

LISTENER = """
class Onsets extends AudioWorkletProcessor {
  constructor() { super(); this.quiet = 0; }
  process([[samples]]) {
    if (!samples) return true;
    for (const s of samples) {
      if (Math.abs(s) < 0.003) { this.quiet += 1; continue; }
      if (this.quiet > 2 * sampleRate) this.port.postMessage(Date.now());
      this.quiet = 0;
    }
    return true;
  }
}
registerProcessor('onsets', Onsets);
"""

WATCH = """
window.seen = [];
window.onsets = [];
addEventListener('soundsight', (event) => seen.push(event.detail));
const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => {
  const stream = await open(wanted);
  const context = new AudioContext();
  const code = new Blob([%r], {type: 'text/javascript'});
  await context.audioWorklet.addModule(URL.createObjectURL(code));
  const node = new AudioWorkletNode(context, 'onsets');
  node.port.onmessage = ({data}) => onsets.push(data - performance.timeOrigin);
  context.createMediaStreamSource(stream.clone()).connect(node);
  return stream;
};
"""


def barks(count: int) -> list[NDArray[np.float32]]:
    """Sounds that begin with their first sample."""
    folder = Path(os.environ.get("SOUNDSIGHT_BENCH", "../shared/data")) / "sounds"
    files = sorted(folder.glob("dog_bark*.ogg"))
    made = []
    for index in range(count):
        path = files[index % len(files)] if files else None
        clip = audio.decode(path) if path else synth.sound("dog", 4.0, index)
        loud = np.flatnonzero(np.abs(clip) > 0.1 * np.abs(clip).max())
        clip = clip[loud[0] : loud[0] + int(SOUND_S * RATE_HZ)]
        made.append((0.5 * clip / np.abs(clip).max()).astype(np.float32))
    return made


def write_microphone(path: Path, count: int) -> float:
    """Write what the microphone hears; return its length in seconds."""
    rng = np.random.default_rng(0)
    parts: list[NDArray[np.float32]] = []
    for clip in barks(count):
        silence = SILENCE_S + rng.uniform(0, 0.25)  # onsets at every phase of the hop
        parts += [np.zeros(int(silence * RATE_HZ), np.float32), clip]
    parts.append(np.zeros(4 * RATE_HZ, np.float32))
    whole = np.concatenate(parts)
    # Where all is 0 no microphone listens, and the page says so.
    whole += rng.normal(0.0, 1e-4, len(whole)).astype(np.float32)
    soundfile.write(path, whole, RATE_HZ, subtype="PCM_16")
    return len(whole) / RATE_HZ


@contextlib.contextmanager
def server(model: Path | None) -> Iterator[str]:
    """Start the server; yields its address."""
    command = [sys.executable, "-m", "soundsight", "serve", "--port", "0"]
    command += ["--model", str(model)] if model else []
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        yield running.stdout.readline().split()[1]
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(30)


def watch(address: str, chromium: str, microphone: Path, seconds: float) -> dict[str, Any]:
    """Let the page listen for so long; return what it and the benchmark have noted."""
    from playwright.sync_api import sync_playwright

    arguments = [
        "--headless=new", "--no-sandbox", "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream", "--autoplay-policy=no-user-gesture-required",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
    ]  # fmt: skip
    with sync_playwright() as playwright:
        # headless=False: the new headless mode is the whole browser, the shell is not.
        browser = playwright.chromium.launch(
            executable_path=chromium, headless=False, args=arguments
        )
        context = browser.new_context(
            viewport={"width": 1440, "height": 900}, permissions=["microphone"], bypass_csp=True
        )
        page = context.new_page()
        sizes: list[int] = []
        page.on("response", lambda answer: sizes.append(len(answer.body())))
        page.add_init_script(WATCH % LISTENER)
        page.goto(address)
        page.wait_for_timeout(500)
        paint = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint').map((e) => e.startTime)[0]"
        )
        page.click("#start")
        page.wait_for_timeout(1000 * seconds)
        noted = {
            "paint_ms": paint,
            "bytes": sum(sizes),
            "onsets": page.evaluate("onsets"),
            "seen": page.evaluate("seen"),
        }
        browser.close()
    return noted


def first_after(times: list[float], onset: float, within_ms: float) -> float | None:
    """How long after an onset the first of some times is; None where there is none.

    The page's audio thread may hear a sound some milliseconds before the benchmark's does.
    """
    late = [t - onset for t in times if -50 <= t - onset <= within_ms]
    return min(late) if late else None


def line(name: str, values: list[float], target: str) -> None:
    """Print the quantiles of one figure."""
    p50, p95, most = np.quantile(np.array(values), (0.5, 0.95, 1.0))
    print(
        f"{name:<44} p50 {p50:6.0f} ms   p95 {p95:6.0f} ms   max {most:6.0f} ms   "
        f"n {len(values)}   target {target}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="model folder [default: the bundled one]")
    parser.add_argument("--onsets", type=int, default=30)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    options = parser.parse_args()
    if shutil.which(options.chromium) is None:
        print("skipped: there is no chromium (name it with --chromium)")
        return
    with tempfile.TemporaryDirectory() as folder, server(options.model) as address:
        microphone = Path(folder) / "microphone.wav"
        seconds = write_microphone(microphone, options.onsets)
        noted = watch(address, options.chromium, microphone, seconds)
    seen, onsets = noted["seen"], noted["onsets"]
    marks = [s["at"] for s in seen if s["kind"] == "sound" and s["on"]]
    pictures = [s for s in seen if s["kind"] == "picture"]
    firsts = [s["painted"] for s in pictures if s["isNew"]]
    print(f"{os.cpu_count()} CPUs, shared by browser, page and server; {len(onsets)} onsets")
    # The first sound follows the browser's own start.
    late_marks = [first_after(marks, onset, 3000) for onset in onsets]
    line("onset -> sound now", [m for m in late_marks if m is not None], "p95 300 ms")
    late = [first_after(firsts, onset, 4000) for onset in onsets]
    line("onset -> its picture", [p for p in late if p is not None], "p95 1600 ms")
    unseen = sum(p is None for p in late)
    print(f"{'':<44} no picture within 4 s: {unseen} of {len(onsets)} (not recognised, or joined)")
    whole = [s["painted"] - s["received"] for s in pictures]
    line("window complete -> picture painted", whole, "p50 120, p95 250 ms")
    print(f"{'first paint':<44} {noted['paint_ms']:6.0f} ms   target 1000 ms")
    print(f"{'page weight':<44} {noted['bytes'] / 1000:6.0f} kB   target 200 kB")


if __name__ == "__main__":
    main()
