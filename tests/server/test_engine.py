"""Many streams, few workers: who is served when, what is left out, what a fault harms."""

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

from soundsight.core import protocol
from soundsight.core.errors import AudioError
from soundsight.core.state import State
from soundsight.media.mel import MelConfig
from soundsight.media.segments import LiveCutter, Segment
from soundsight.runtime.events import WindowResult
from soundsight.server import engine as engines
from soundsight.server.engine import Answer, Engine, Feed, words_of
from soundsight.server.metrics import Metrics

PATIENCE_S = 60
RATE = 44_100


class Ear:
    """Hears like a listener, as slowly and as badly as a test wants it to."""

    def __init__(self, name: str = "", hears: Callable[[str], None] | None = None) -> None:
        self.name = name
        self.heard: list[tuple[float, float]] = []
        self._hears = hears
        self._inside = threading.Lock()

    def update(self, segment: Segment) -> WindowResult:
        assert self._inside.acquire(blocking=False), "two workers in one stream"
        try:
            if self._hears is not None:
                self._hears(self.name)
            self.heard.append((segment.start_s, segment.rms_dbfs))
        finally:
            self._inside.release()
        return WindowResult(
            start_s=segment.start_s, settled=True, state=State.QUIET,
            images=np.zeros((0, 4, 4, 3), np.uint8), level_dbfs=segment.rms_dbfs,
            ood_score=math.nan, confidence=math.nan, name="", second_guess="", drawing=0,
            event=None,
        )  # fmt: skip


class Stage:
    """An engine and its feeds, on the loop of one test."""

    def __init__(self, workers: int) -> None:
        self.metrics = Metrics()
        translator: Any = SimpleNamespace()
        self.engine = Engine(translator, workers, self.metrics)
        self.answers: dict[Feed, list[Answer]] = {}
        self.faults: dict[Feed, list[Exception]] = {}

    def feed(self, ear: Ear | None = None, rate_hz: int = RATE, hop_s: float = 0.25) -> Feed:
        answers: list[Answer] = []
        faults: list[Exception] = []
        feed = Feed(
            self.engine,
            LiveCutter(rate_hz, MelConfig(), hop_s),
            ear or Ear(),  # type: ignore[arg-type]
            rate_hz=rate_hz,
            hop_s=hop_s,
            answer=answers.append,
            failed=faults.append,
        )
        self.answers[feed], self.faults[feed] = answers, faults
        return feed

    def ends(self, feed: Feed) -> list[float]:
        return [facts.end_s for facts, _ in self.answers[feed]]

    def skipped(self, feed: Feed) -> int:
        return sum(facts.skipped for facts, _ in self.answers[feed])


def staged(play: Callable[[Stage], Awaitable[None]], workers: int = 1) -> None:
    """Run a test on a loop of its own; the engine stops at the end."""

    async def run() -> None:
        stage = Stage(workers)
        try:
            await asyncio.wait_for(play(stage), PATIENCE_S)
        finally:
            stage.engine.stop()
        assert not any(thread.is_alive() for thread in stage.engine._threads)

    asyncio.run(run())


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def s(seconds: float) -> int:
    """So many samples."""
    return round(seconds * RATE)


# --- which windows ---------------------------------------------------------------------------


@pytest.mark.parametrize("hop_s", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 48_000, 192_000])
def test_every_window_in_time(rate_hz: int, hop_s: float) -> None:
    """Each window is answered by the frame that completes it, or by the one after."""
    frame = round(0.03 * rate_hz)

    async def play(stage: Stage) -> None:
        feed = stage.feed(rate_hz=rate_hz, hop_s=hop_s)
        late: list[float] = []
        for number in range(round(4.2 / 0.03)):
            feed.push(noise(frame, number))
            await feed.idle.wait()
            ends = stage.ends(feed)
            if len(ends) > len(late):
                late.append((number + 1) * frame / rate_hz - ends[-1])
        wanted = [1.0 + k * hop_s for k in range(int(3.0 / hop_s) + 1)]
        assert stage.ends(feed) == pytest.approx(wanted, abs=0.002)
        assert stage.skipped(feed) == 0
        # 13 ms until a window is cut, what the resampler holds back, and two frames.
        held_s = 0.135 if rate_hz < 16_000 else 0.02
        assert max(late) <= 0.0135 + held_s + 2 * 0.03

    staged(play)


@pytest.mark.parametrize("size", [1, 7, 100, s(0.25), RATE])
def test_frames_of_any_size(size: int) -> None:
    async def play(stage: Stage) -> None:
        feed = stage.feed()
        samples = noise(s(2.1))
        for first in range(0, len(samples), size):
            feed.push(samples[first : first + size])
            if size > 1 or first % 50 == 0:
                await feed.idle.wait()
        await feed.idle.wait()
        assert len(stage.answers[feed]) + stage.skipped(feed) == 5
        assert stage.ends(feed)[-1] == 2.0

    staged(play)


def test_what_is_left_is_answered_at_the_end() -> None:
    async def play(stage: Stage) -> None:
        short, whole, empty = stage.feed(), stage.feed(), stage.feed()
        short.push(noise(s(0.3)))
        whole.push(noise(RATE))  # half a frame short of its first window
        for feed in (short, whole, empty):
            feed.end()
            feed.push(noise(RATE))  # comes too late
            await feed.idle.wait()
        assert stage.ends(short) == [1.0]  # a part of a second, filled up
        assert stage.ends(whole) == [1.0]
        assert stage.ends(empty) == []

    staged(play)


def test_served_ms_counts_from_the_last_sample() -> None:
    async def play(stage: Stage) -> None:
        feed = stage.feed()
        feed.push(noise(RATE))
        await asyncio.sleep(0.3)
        feed.push(noise(s(0.05)))
        await feed.idle.wait()
        (facts, _) = stage.answers[feed][0]
        assert facts.served_ms >= 300.0

    staged(play)


# --- more than there is time for --------------------------------------------------------------


def test_the_newest_is_served() -> None:
    """What comes while a worker is busy is answered by its newest window, the rest is counted."""
    held = threading.Event()

    async def play(stage: Stage) -> None:
        other, feed = stage.feed(Ear(hears=lambda _: held.wait(PATIENCE_S))), stage.feed()
        other.push(noise(s(1.1)))
        while not other.busy:
            await asyncio.sleep(0.001)
        for number in range(100):
            feed.push(noise(s(0.1), number))
        held.set()
        await feed.idle.wait()
        assert stage.ends(feed) == [9.75]  # 10 s: that of 10.0 lacks half a frame
        assert stage.skipped(feed) == 35
        assert stage.metrics.registry.get_sample_value("soundsight_windows_skipped_total") == 35

    staged(play)


def test_a_flood_takes_no_more_than_its_turn() -> None:
    order: list[str] = []
    held = threading.Event()

    def hears(name: str) -> None:
        if name == "first":
            held.wait(PATIENCE_S)
        order.append(name)

    async def play(stage: Stage) -> None:
        first = [stage.feed(Ear("first", hears)) for _ in range(2)]
        for feed in first:
            feed.push(noise(s(1.1)))
        while not all(feed.busy for feed in first):
            await asyncio.sleep(0.001)
        flood = stage.feed(Ear("flood", hears))
        others = [stage.feed(Ear(str(n), hears)) for n in range(10)]
        for number in range(200):
            flood.push(noise(s(0.125), number))
            if number % 20 == 0:
                others[number // 20].push(noise(s(1.1)))
        held.set()
        for feed in [flood, *others]:
            await feed.idle.wait()
        turns = [name for name in order if name != "first"]
        assert sorted(turns) == sorted(["flood", *map(str, range(10))])
        queued = stage.metrics.registry.get_sample_value("soundsight_queue_windows")
        assert queued == 0

    staged(play, workers=2)


def test_every_stream_has_its_turn_before_another_has_two() -> None:
    """More work than time, for all: none starves."""
    turns: list[str] = []

    def hears(name: str) -> None:
        time.sleep(0.002)
        turns.append(name)

    async def play(stage: Stage) -> None:
        feeds = [stage.feed(Ear(str(n), hears)) for n in range(12)]
        for number in range(60):
            for feed in feeds:
                feed.push(noise(s(0.25), number))  # a window each
            await asyncio.sleep(0.005)
        for feed in feeds:
            feed.end()
        for feed in feeds:
            await feed.idle.wait()
        counts = [turns.count(str(n)) for n in range(12)]
        assert min(counts) > 0.5 * max(counts), counts
        for feed in feeds:
            # 15 s of sound: 57 windows, the last with the end.
            assert len(stage.answers[feed]) + stage.skipped(feed) == 57
            assert stage.ends(feed)[-1] == 15.0
            assert stage.ends(feed) == sorted(stage.ends(feed))

    staged(play, workers=2)


def test_sound_that_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "MOST_WAITING_S", 3.0)
    held = threading.Event()

    async def play(stage: Stage) -> None:
        other, feed = stage.feed(Ear(hears=lambda _: held.wait(PATIENCE_S))), stage.feed()
        other.push(noise(s(1.1)))
        while not other.busy:
            await asyncio.sleep(0.001)
        for number in range(100):
            feed.push(noise(s(0.1), number))
            assert feed._held == sum(len(piece) for piece in feed._waiting) <= s(3)
        held.set()
        await feed.idle.wait()
        # The windows end with the sound that is still there, and none is forgotten in the count.
        assert stage.ends(feed) == [9.0 + 0.75]
        assert stage.skipped(feed) > 20

    staged(play)


def test_what_a_worker_takes_just_before_is_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker comes between the look at what waits and the lock: nothing may be dropped."""
    monkeypatch.setattr(engines, "MOST_WAITING_S", 3.0)

    class Late:
        """A lock before which a worker gets in, once."""

        def __init__(self, lock: Any, first: Callable[[], object]) -> None:
            self.lock, self.first = lock, first

        def __enter__(self) -> None:
            first, self.first = self.first, lambda: None
            first()
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    async def play(stage: Stage) -> None:
        feed = stage.feed()
        stage.engine.enqueue = lambda _: None  # type: ignore[method-assign]  # its worker is here
        for number in range(28):
            feed.push(noise(s(0.1), number))
        feed._lock = Late(feed._lock, feed.work)  # type: ignore[assignment]
        feed.push(noise(s(0.3), 28))
        assert feed._restart_at is None
        assert (feed._start, feed._held, feed._received) == (0, s(0.3), s(3.1))
        answer = feed.work()
        assert answer is not None
        assert answer[0].end_s == 3.0
        assert answer[0].skipped == 0

    staged(play)


def test_a_wait_that_is_over_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose streams have all gone takes new ones."""
    monkeypatch.setattr(engines, "_FORGOTTEN_S", 0.5)

    async def play(stage: Stage) -> None:
        stage.engine._wait_s = 5.0
        stage.engine._served_at = time.monotonic()
        assert stage.engine.overloaded
        while stage.engine.overloaded:
            await asyncio.sleep(0.01)
        told = stage.metrics.registry.get_sample_value("soundsight_queue_wait_seconds")
        assert told is not None
        assert told < 1.0

    staged(play)


def test_a_stream_that_waits_now_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "OVERLOADED_S", 0.05)
    held = threading.Event()

    async def play(stage: Stage) -> None:
        for _ in range(2):
            stage.feed(Ear(hears=lambda _: held.wait(PATIENCE_S))).push(noise(s(1.1)))
            await asyncio.sleep(0.01)
        while not stage.engine.overloaded:
            await asyncio.sleep(0.01)
        held.set()

    staged(play)


def test_a_drawing_that_is_shown_again_is_not_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = []
    monkeypatch.setattr(engines, "jpeg", lambda image: written.append(image) or b"jpeg")

    class Seeing(Ear):
        def update(self, segment: Segment) -> WindowResult:
            quiet = super().update(segment)
            images = np.zeros((2, 4, 4, 3), np.uint8)
            drawing = 1 if len(self.heard) < 3 else 2
            return replace(quiet, state=State.PICTURE, images=images, drawing=drawing)

    async def play(stage: Stage) -> None:
        feed = stage.feed(Seeing())
        for _ in range(6):
            feed.push(noise(s(0.25)))
            await asyncio.sleep(0.01)
            await feed.idle.wait()
        feed.end()
        await feed.idle.wait()
        drawings = [facts.drawing for facts, _ in stage.answers[feed]]
        assert drawings[:3] == [1, 1, 2]
        assert len(written) == 4  # two pictures each
        for facts, data in stage.answers[feed]:
            assert protocol.read_window(data) == (facts, [b"jpeg", b"jpeg"])

    staged(play)


# --- gaps ------------------------------------------------------------------------------------


def test_no_window_spans_a_gap() -> None:
    async def play(stage: Stage) -> None:
        ear = Ear()
        feed = stage.feed(ear)
        feed.push(np.full(RATE - 1, 0.5, np.float32))  # a sample short of a second
        feed.restart(10 * RATE)
        await asyncio.sleep(0.02)
        feed.push(np.zeros(s(1.1), np.float32))
        await feed.idle.wait()
        assert stage.ends(feed) == [11.0]
        assert stage.skipped(feed) == 0
        assert ear.heard == [(10.0, -120.0)]  # not a sample of what was before

    staged(play)


def test_windows_lost_in_a_gap_are_counted() -> None:
    held = threading.Event()

    async def play(stage: Stage) -> None:
        other, feed = stage.feed(Ear(hears=lambda _: held.wait(PATIENCE_S))), stage.feed()
        other.push(noise(s(1.1)))
        while not other.busy:
            await asyncio.sleep(0.001)
        feed.push(noise(s(1.6)))  # 1.6 s: windows of 1, 1.25 and 1.5 s
        feed.restart(10 * RATE)
        feed.push(noise(RATE))  # none: half a frame short
        feed.restart(20 * RATE)
        feed.push(noise(s(1.1)))
        held.set()
        await feed.idle.wait()
        assert stage.ends(feed) == [21.0]
        assert stage.skipped(feed) == 3

    staged(play)


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("past", [0, 6, 12, 300, 900])
def test_a_jam_delays_nothing_that_comes_after_it(rate_hz: int, past: int) -> None:
    """Sound that comes in one go ends where a window has just been cut, or is about to be."""
    frame = round(0.03 * rate_hz)
    jam = math.ceil(1.5 * rate_hz + 583 * rate_hz / 44_100) + past

    async def play(stage: Stage) -> None:
        feed = stage.feed(rate_hz=rate_hz)
        feed.push(noise(round(1.1 * rate_hz)))
        await feed.idle.wait()
        feed.push(noise(jam - round(1.1 * rate_hz), 1))
        await feed.idle.wait()
        for start in (0, 10):
            came: list[float] = []
            if start:
                feed.restart(start * rate_hz)
            at = start * rate_hz or jam
            for number in range(62):
                count = len(stage.answers[feed])
                feed.push(noise(frame, number))
                at += frame
                await feed.idle.wait()
                came += [at / rate_hz - end for end in stage.ends(feed)[count:]]
            assert len(came) >= 4
            # 13 ms until a window is cut, what the resampler holds back, and two frames.
            assert max(came) <= 0.0135 + (0 if rate_hz == RATE else 0.05) + 2 * 0.03
        assert stage.ends(feed)[-4:] == pytest.approx([11.0, 11.25, 11.5, 11.75], abs=0.002)

    staged(play)


@pytest.mark.parametrize("seed", range(4))
def test_gaps_at_any_moment(seed: int) -> None:
    """Workers are at it while sound comes, breaks off and goes on."""
    dice = random.Random(seed)

    async def play(stage: Stage) -> None:
        feeds = []
        hops: dict[Feed, int] = {}
        spans: dict[Feed, list[list[int]]] = {}
        for _ in range(6):
            hop_s = dice.choice([0.25, 1])
            feed = stage.feed(Ear(hears=lambda _: time.sleep(0.001)), hop_s=hop_s)
            feeds.append(feed)
            hops[feed] = s(hop_s)
            spans[feed] = [[0, 0]]
        for step in range(300):
            for feed in feeds:
                if dice.random() < 0.03:
                    at = spans[feed][-1][1] + dice.randrange(1, s(2.5))
                    feed.restart(at)
                    spans[feed].append([at, at])
                size = dice.randrange(1, s(0.4))
                feed.push(noise(size, step))
                spans[feed][-1][1] += size
            await asyncio.sleep(0 if dice.random() < 0.7 else 0.002)
        for feed in feeds:
            feed.end()
            await feed.idle.wait()
            ends = stage.ends(feed)
            assert len(ends) >= 5
            assert ends == sorted(ends)
            last = spans[feed][-1][1] / RATE
            for end_s in ends:
                inside = any(a <= s(end_s - 1) + 44 and s(end_s) <= b + 44 for a, b in spans[feed])
                # The end of the sound may be filled up.
                assert inside or end_s > last - 1, (end_s, spans[feed])
            # A window is complete 583 samples after its end; what the end of the sound makes comes
            # on top.
            whole = sum(max(0, (b - a - RATE - 583) // hops[feed] + 1) for a, b in spans[feed])
            assert whole <= len(ends) + stage.skipped(feed) <= whole + 2

    staged(play, workers=2)


# --- faults ----------------------------------------------------------------------------------


def test_a_fault_is_that_streams_alone() -> None:
    def breaks(_: str) -> None:
        raise ZeroDivisionError("/home/somebody/secret")

    async def play(stage: Stage) -> None:
        broken, sound = stage.feed(Ear(hears=breaks)), stage.feed()
        for number in range(6):
            for feed in (broken, sound):
                feed.push(noise(s(0.25), number))
                await feed.idle.wait()
        (fault,) = stage.faults[broken]
        assert isinstance(fault, ZeroDivisionError)
        assert words_of(fault) == "a fault of the server"
        assert words_of(AudioError("a line")) == "a line"
        assert stage.answers[broken] == []
        assert stage.faults[sound] == []
        assert stage.ends(sound) == [1.0, 1.25]
        assert broken.closed

    staged(play)


def test_a_closed_feed_is_left_alone() -> None:
    held = threading.Event()

    async def play(stage: Stage) -> None:
        feed = stage.feed(Ear(hears=lambda _: held.wait(PATIENCE_S)))
        waiting = stage.feed()
        feed.push(noise(s(1.1)))
        while not feed.busy:
            await asyncio.sleep(0.001)
        waiting.push(noise(s(1.1)))
        feed.close()
        waiting.close()
        held.set()
        await feed.idle.wait()
        await waiting.idle.wait()
        feed.push(noise(s(1.1)))
        await asyncio.sleep(0.01)
        assert stage.answers == {feed: [], waiting: []}

    staged(play)


def test_stop_with_work_in_flight() -> None:
    """What is being worked on is finished, what waits is not; no thread is left."""
    heard: list[str] = []

    def hears(name: str) -> None:
        time.sleep(0.05)
        heard.append(name)

    async def play(stage: Stage) -> None:
        feeds = [stage.feed(Ear(str(n), hears)) for n in range(20)]
        for feed in feeds:
            feed.push(noise(s(1.1)))
        while not feeds[0].busy:
            await asyncio.sleep(0.001)
        stage.engine.stop()
        assert not any(thread.is_alive() for thread in stage.engine._threads)
        assert 0 < len(heard) < 20
        feeds[-1].push(noise(s(1.1)))  # nobody is there to serve it

    staged(play, workers=2)


def test_an_engine_may_outlive_its_loop() -> None:
    held = threading.Event()
    stages: list[Stage] = []

    async def run() -> None:
        stage = Stage(1)
        stages.append(stage)
        feed = stage.feed(Ear(hears=lambda _: held.wait(PATIENCE_S)))
        feed.push(noise(s(1.1)))
        while not feed.busy:
            await asyncio.sleep(0.001)

    asyncio.run(run())
    held.set()
    stages[0].engine.stop()
    assert not any(thread.is_alive() for thread in stages[0].engine._threads)
