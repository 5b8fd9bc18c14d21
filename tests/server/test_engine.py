"""The windows of live streams: which ones, when, what is left out; and the engine's queue."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from soundsight.core.protocol import WindowFacts
from soundsight.core.state import State
from soundsight.media.mel import MelConfig
from soundsight.media.segments import LiveCutter, Segment
from soundsight.runtime.events import WindowResult
from soundsight.server import engine as engines
from soundsight.server.engine import Engine, LiveSound
from soundsight.server.metrics import Metrics

PATIENCE_S = 60
RATE = 44_100
LAG_S = 0.0135 + 0.05
"""A window is cut 13 ms after its end, and looked for each 50 ms."""


class StubTracker:
    """Takes each window for quiet; may be slow, or fail."""

    def __init__(self, hears: Callable[[], None] = lambda: None) -> None:
        self.heard: list[tuple[float, float]] = []
        self._hears = hears
        self._inside = threading.Lock()

    def update(self, segment: Segment) -> WindowResult:
        assert self._inside.acquire(blocking=False), "two workers in one stream"
        try:
            self._hears()
        finally:
            self._inside.release()
        self.heard.append((segment.start_s, segment.rms_dbfs))
        return WindowResult(
            start_s=segment.start_s, settled=True, state=State.QUIET,
            images=np.zeros((0, 4, 4, 3), np.uint8), level_dbfs=segment.rms_dbfs,
            ood_score=math.nan, confidence=math.nan, name="", second_guess="", drawing=0,
            event=None,
        )  # fmt: skip


class Live:
    """A stream's sound, and the windows that have been answered."""

    def __init__(self, tracker: Any = None, rate_hz: int = RATE, hop_s: float = 0.25) -> None:
        cutter = LiveCutter(rate_hz, MelConfig(), hop_s)
        self.rate_hz = rate_hz
        self.sound = LiveSound(cutter, tracker or StubTracker(), rate_hz=rate_hz, hop_s=hop_s)
        self.position = 0
        self.windows: list[WindowFacts] = []
        self.pictures: list[list[bytes]] = []
        self.late: list[float] = []

    def push(self, seconds: float, seed: int = 0) -> None:
        samples = round(seconds * self.rate_hz)
        noise = np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)
        self.sound.push(self.position, noise)
        self.position += samples

    def take(self, window: Any) -> None:
        if window is not None:
            self.windows.append(window[0])
            self.pictures.append(window[1])
            self.late.append(self.position / self.rate_hz - window[0].end_s)

    def answer(self) -> None:
        """Work as long as there is work."""
        while self.sound.due:
            self.take(self.sound.work())

    async def follow(self, engine: Engine) -> None:
        """Let an engine work until the sound has ended."""
        while not self.sound.finished:
            if self.sound.due:
                self.take(await engine.run(self.sound.work))
            else:
                await asyncio.sleep(0.001)

    @property
    def ends(self) -> list[float]:
        return [facts.end_s for facts in self.windows]

    @property
    def skipped(self) -> int:
        return sum(facts.skipped for facts in self.windows)


# --- which windows ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate_hz", "hop_s"),
    [(8_000, 0.25), (11_025, 0.75), (44_100, 0.25), (44_100, 0.5), (48_000, 0.25), (192_000, 1.0)],
)
def test_every_window_in_time(rate_hz: int, hop_s: float) -> None:
    live = Live(rate_hz=rate_hz, hop_s=hop_s)
    for number in range(140):
        live.push(0.03, number)
        live.answer()
    wanted = [1.0 + k * hop_s for k in range(int(3.0 / hop_s) + 1)]
    assert live.ends == pytest.approx(wanted, abs=0.002)
    assert live.skipped == 0
    held_s = 0.135 if rate_hz < 16_000 else 0.02  # what the resampler holds back
    assert max(live.late) <= LAG_S + held_s + 2 * 0.03


@pytest.mark.parametrize("size_s", [7 / RATE, 0.01, 1.0])
def test_frames_of_any_size(size_s: float) -> None:
    live = Live()
    while live.position < 2.1 * RATE:
        live.push(size_s)
        live.answer()
    live.sound.end()
    live.answer()
    assert len(live.ends) + live.skipped >= 5
    assert live.ends[-1] >= 2.0


@pytest.mark.parametrize(("seconds", "ends"), [(0.3, [1.0]), (1.0, [1.0]), (0, [])])
def test_what_is_left_is_answered_at_the_end(seconds: float, ends: list[float]) -> None:
    live = Live()
    if seconds:
        live.push(seconds)
        live.answer()
    assert live.ends == []  # a whole second is half a frame short of its window
    live.sound.end()
    live.answer()
    assert (live.ends, live.sound.finished, live.sound.due) == (ends, True, False)


def test_served_ms_counts_from_the_last_sample() -> None:
    live = Live()
    live.push(1.0)
    time.sleep(0.3)
    live.push(0.05)
    live.answer()
    assert 300 <= live.windows[0].served_ms < 60_000


def test_the_newest_is_served_and_sound_that_waits_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What comes while a worker is busy is answered by its newest window; the rest is counted."""
    live = Live()
    for number in range(100):
        live.push(0.1, number)
    live.answer()
    assert live.ends == [9.75]  # that of 10.0 lacks half a frame
    assert live.skipped == 35
    monkeypatch.setattr(engines, "MAX_WAITING_S", 3.0)
    live = Live()
    for number in range(104):
        live.push(0.1, number)
        assert live.sound._held == sum(len(p) for _, run in live.sound._waiting for p in run)
        assert live.sound._held <= 3 * RATE
    live.answer()
    # The newest window of the sound that is still there; those that were dropped are counted.
    assert live.ends == [10.25]
    assert live.skipped > 30


def test_a_drawing_that_is_shown_again_is_not_encoded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[Any] = []
    monkeypatch.setattr(engines, "jpeg", lambda image: encoded.append(image) or b"jpeg")

    class Drawing(StubTracker):
        def update(self, segment: Segment) -> WindowResult:
            heard = super().update(segment)
            images = np.zeros((2, 4, 4, 3), np.uint8)
            drawing = 1 if len(self.heard) < 3 else 2
            return replace(heard, state=State.PICTURE, images=images, drawing=drawing)

    live = Live(Drawing())
    for number in range(7):
        live.push(0.25, number)
        live.answer()
    assert [facts.drawing for facts in live.windows] == [1, 1, 2]
    assert live.pictures == [[b"jpeg", b"jpeg"]] * 3
    assert len(encoded) == 4


# --- gaps ------------------------------------------------------------------------------------


def test_no_window_spans_a_gap_and_those_before_it_are_counted() -> None:
    tracker = StubTracker()
    live = Live(tracker)
    live.sound.push(0, np.full(RATE - 1, 0.5, np.float32))  # a sample short of a second
    live.answer()
    live.sound.push(10 * RATE, np.zeros(round(1.1 * RATE), np.float32))
    live.answer()
    assert (live.ends, live.skipped) == ([11.0], 0)
    assert tracker.heard == [(10.0, -120.0)]  # not a sample of what was before
    live = Live()
    live.push(1.6)  # windows of 1, 1.25 and 1.5 s
    live.position = 10 * RATE
    live.push(1.0)  # none: half a frame short
    live.position = 20 * RATE
    live.push(1.1)
    live.answer()
    assert (live.ends, live.skipped) == ([21.0], 3)


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("past", [0, 12, 900])
def test_a_jam_delays_nothing_that_comes_after_it(rate_hz: int, past: int) -> None:
    """Sound that comes in one go ends where a window has just been cut, or is about to be."""
    live = Live(rate_hz=rate_hz)
    live.push(1.1)
    live.answer()
    jam = math.ceil(1.5 * rate_hz + 583 * rate_hz / RATE) + past
    live.push((jam - live.position) / rate_hz, 1)
    live.answer()
    for start_s in (0, 10):
        live.late = []
        if start_s:
            live.position = start_s * rate_hz
        for number in range(62):
            live.push(0.03, number)
            live.answer()
        assert len(live.late) >= 4
        assert max(live.late) <= LAG_S + (0 if rate_hz == RATE else 0.05) + 2 * 0.03
    assert live.ends[-4:] == pytest.approx([11.0, 11.25, 11.5, 11.75], abs=0.002)


# --- the queue -------------------------------------------------------------------------------


def played(play: Callable[[Engine, Metrics], Awaitable[None]], workers: int = 1) -> None:
    """Run a test with an engine on a loop of its own."""

    async def run() -> None:
        translator: Any = SimpleNamespace()
        metrics = Metrics()
        engine = Engine(translator, workers, metrics)
        try:
            await asyncio.wait_for(play(engine, metrics), PATIENCE_S)
        finally:
            engine.stop()

    asyncio.run(run())
    assert not [t for t in threading.enumerate() if t.name.startswith("soundsight-engine")]


@pytest.mark.parametrize("seed", range(2))
def test_gaps_at_any_moment(seed: int) -> None:
    """Workers are at it while sound comes, breaks off and goes on."""
    dice = random.Random(seed)

    async def play(engine: Engine, _: Metrics) -> None:
        hops = [dice.choice([0.25, 1]) for _ in range(4)]
        lives = [Live(StubTracker(lambda: time.sleep(0.001)), hop_s=hop_s) for hop_s in hops]
        spans = [[[0, 0]] for _ in lives]
        tasks = [asyncio.create_task(live.follow(engine)) for live in lives]
        for step in range(200):
            for live, span in zip(lives, spans, strict=True):
                if dice.random() < 0.03:
                    live.position += dice.randrange(1, round(2.5 * RATE))
                    span.append([live.position, live.position])
                live.push(dice.randrange(1, round(0.4 * RATE)) / RATE, step)
                span[-1][1] = live.position
            await asyncio.sleep(0 if dice.random() < 0.7 else 0.002)
        for live in lives:
            live.sound.end()
        await asyncio.gather(*tasks)
        for live, span, hop_s in zip(lives, spans, hops, strict=True):
            assert len(live.ends) >= 5
            assert live.ends == sorted(live.ends)
            for end in (round(end_s * RATE) for end_s in live.ends):
                inside = any(a <= end - RATE + 44 and end <= b + 44 for a, b in span)
                # The end of the sound may be filled up.
                assert inside or end > span[-1][1] - RATE, (end, span)
            # What the end of the sound makes comes on top.
            hop = round(hop_s * RATE)
            whole = sum(max(0, (b - a - RATE - 583) // hop + 1) for a, b in span)
            assert whole <= len(live.ends) + live.skipped <= whole + 2

    played(play, workers=2)


def test_every_stream_has_its_turn_before_another_has_two() -> None:
    """There is more work than time, and one stream sends far too much: none starves."""

    async def play(engine: Engine, _: Metrics) -> None:
        lives = [Live(StubTracker(lambda: time.sleep(0.002))) for _ in range(12)]
        tasks = [asyncio.create_task(live.follow(engine)) for live in lives]
        for number in range(60):
            for live in lives:
                live.push(0.25, number)  # a window each
            lives[0].push(1.0, number)
            await asyncio.sleep(0.005)
        for live in lives:
            live.sound.end()
        await asyncio.gather(*tasks)
        turns = [len(live.ends) for live in lives]
        assert min(turns) > 0.5 * max(turns), turns
        for live in lives[1:]:
            # 15 s of sound: 57 windows, the last with the end.
            assert len(live.ends) + live.skipped == 57
            assert live.ends == sorted(live.ends)
            assert live.ends[-1] == 15.0

    played(play, workers=2)


def test_a_server_is_overloaded_while_work_waits_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """... and takes new streams again when its streams have gone."""
    monkeypatch.setattr(engines, "OVERLOADED_S", 0.05)
    monkeypatch.setattr(engines, "_HALF_LIFE_S", 0.1)
    held = threading.Event()

    async def play(engine: Engine, metrics: Metrics) -> None:
        def figure(name: str) -> float:
            return metrics.registry.get_sample_value(f"soundsight_queue_{name}") or 0.0

        tasks = [asyncio.create_task(engine.run(lambda: held.wait(PATIENCE_S))) for _ in range(3)]
        while not engine.overloaded:
            await asyncio.sleep(0.01)
        assert figure("windows") == 2
        held.set()
        await asyncio.gather(*tasks)
        engine._mean_wait_s = 5.0
        assert engine.overloaded
        while engine.overloaded:
            await asyncio.sleep(0.01)
        assert (figure("windows"), figure("wait_seconds") < 1.0) == (0, True)

    played(play)


def test_work_that_is_called_off_fails_or_is_stopped() -> None:
    held = threading.Event()
    done: list[Any] = []

    async def play(engine: Engine, _: Metrics) -> None:
        first = asyncio.create_task(engine.run(lambda: held.wait(PATIENCE_S)))
        second = asyncio.create_task(engine.run(lambda: done.append("second")))
        third = asyncio.create_task(engine.run(lambda: done.append("third")))
        await asyncio.sleep(0.02)
        second.cancel()
        # Until it is called off it would be done as soon as the first piece of work is.
        with pytest.raises(asyncio.CancelledError):
            await second
        held.set()
        await asyncio.gather(first, third)
        assert done == ["third"]
        with pytest.raises(ZeroDivisionError):
            await engine.run(lambda: 1 // 0)
        assert not engine._queued

        # At a stop, what is being worked on is finished, what waits is not.
        def work(number: int) -> None:
            time.sleep(0.05)
            done.append(number)

        tasks = [asyncio.create_task(engine.run(lambda n=n: work(n))) for n in range(20)]
        await asyncio.sleep(0.02)
        await asyncio.to_thread(engine.stop)
        assert 1 < len(done) < 21
        for task in tasks:
            task.cancel()

    played(play)
