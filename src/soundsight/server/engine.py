"""Many streams, one set of networks: who is served when.

Every stream has at most one window on its way. When the next one is complete, the stream joins a
queue, once; a worker takes it from there with *all* the sound that has come meanwhile, and answers
the newest window in it. So the queue cannot grow beyond the streams, every stream gets its turn
before another gets its second, and where there is more sound than time the newest is served.

Workers take several streams at once (a micro-batch), but run the networks window by window: on a
CPU a batch of 16 takes as long as 16 windows, and one by one a picture does not depend on its
neighbours. Every window is listened to; a picture is drawn only where the listener asks for one.
"""

from __future__ import annotations

import asyncio
import io
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.core.errors import SoundsightError
from soundsight.core.protocol import EventFacts, WindowFacts, pack_window
from soundsight.core.state import State
from soundsight.core.units import SEGMENT_S
from soundsight.media.mel import DEFAULT
from soundsight.media.segments import LiveCutter, Segment
from soundsight.runtime.events import EventTracker, WindowResult
from soundsight.runtime.translator import Translator
from soundsight.server.metrics import Metrics
from soundsight.views.pictograms import pictogram_of

MAX_BATCH = 8
"""Most streams that a worker takes at once."""

OVERLOADED_S = 1.0
"""Mean wait above which no further stream is admitted."""

MOST_WAITING_S = 30.0
"""Sound of one stream that waits at most: where more comes than is served, the oldest goes."""

_FORGOTTEN_S = 1.0
"""An engine that has nothing to do forgets half of its mean wait in this time."""

_CUT_AFTER = DEFAULT.window_samples // 2 - DEFAULT.hop_samples
"""A window is cut when so many samples have come after its last (see
``media.segments.Cutter``); a resampler adds to it, which shows as the stream runs."""

_MOST_MARKS = 512
_JPEG_QUALITY = 90
_NEWEST = 0.1

Answer = tuple[WindowFacts, bytes]


class Feed:
    """One stream as the engine sees it.

    Args:
        engine: where it is served.
        cutter: cuts its windows.
        tracker: finds the events in them.
        rate_hz: rate of its samples.
        hop_s: seconds between windows.
        answer: takes an answer, on the event loop.
        failed: takes the fault that ended the feed, on the event loop.
    """

    def __init__(
        self,
        engine: Engine,
        cutter: LiveCutter,
        tracker: EventTracker,
        *,
        rate_hz: int,
        hop_s: float,
        answer: Callable[[Answer], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._cutter = cutter
        self.tracker = tracker
        self._rate_hz = rate_hz
        # Of whole and quarter seconds: exact, whatever the rate.
        self._window, self._hop = SEGMENT_S * rate_hz, hop_s * rate_hz
        self._answer = answer
        self._failed = failed
        self._lock = threading.Lock()
        self._waiting: list[NDArray[Any]] = []
        self._held = 0  # samples of what waits
        self._start = 0  # where the signal began, or began anew
        self._received = 0
        self._taken = 0  # what a worker has taken of it
        # Samples after its end with which a window is complete: never more than it takes.
        self._lag = math.ceil(_CUT_AFTER * rate_hz / DEFAULT.rate_hz)
        self._due = self._complete(0)
        self._restart_at: int | None = None
        self._cut_start = 0  # where the signal begins that the cutter has
        self._cut = 0  # windows that it has cut of it
        self._marks: deque[tuple[int, float]] = deque(maxlen=_MOST_MARKS)
        self._ended = False
        self._flushed = False
        self._skipped = 0
        self._written: tuple[int, list[bytes]] = 0, []  # the last drawing, as it is sent
        self.queued = False
        self.busy = False
        self.closed = False
        self.queued_at = 0.0
        self.idle = asyncio.Event()
        self.idle.set()

    def push(self, samples: NDArray[Any]) -> None:
        """Take sound [t], int16 or float32."""
        if self._ended:
            return
        with self._lock:
            # A worker may take all that waits at any moment: only what still does is too much.
            if self._held + len(samples) > MOST_WAITING_S * self._rate_hz:
                self._drop_oldest()
            self._held += len(samples)
            self._waiting.append(samples)
            self._received += len(samples)
            self._marks.append((self._received, time.monotonic()))
            complete = self._received >= self._due
        if complete:
            self._engine.enqueue(self)

    def restart(self, position: int) -> None:
        """Sound is missing before ``position``: no window is to span the gap."""
        with self._lock:
            # Windows that were complete and had no turn yet are left out; what completes none is
            # of no use.
            self._skipped += self._full(self._received) - self._full(self._taken)
            self._waiting, self._held = [], 0
            self._restart_at = self._start = position
            self._received = self._taken = position
            self._due = self._complete(position)

    def _drop_oldest(self) -> None:
        """Let go of the older half of what waits, as if it had never come. Under the lock."""
        before = self._full(self._received) - self._full(self._taken)
        while self._held > MOST_WAITING_S * self._rate_hz / 2:
            self._held -= len(self._waiting.pop(0))
        self._restart_at = self._start = self._taken = self._received - self._held
        self._skipped += max(0, before - self._full(self._received))
        self._due = self._complete(self._start)

    def _complete(self, start: int, number: int = 0) -> int:
        """The sample with which a window of a signal is complete, at the earliest."""
        return start + math.ceil(self._window + number * self._hop + self._lag)

    def _full(self, received: int) -> int:
        """Windows since the last gap that are complete when so much has come."""
        past = received - self._start - self._window - self._lag
        return max(0, int(past // self._hop) + 1)

    def end(self) -> None:
        """There is no more sound: what is left makes a last window, or none."""
        self._ended = True
        self._engine.enqueue(self)

    def close(self) -> None:
        """Nothing is answered any more."""
        self.closed = True

    # --- on a worker's thread ----------------------------------------------------------------

    def work(self) -> Answer | None:
        """Cut what has come and answer the newest window in it.

        Raises:
            SoundsightError: when the sound is no sound.
        """
        with self._lock:
            waiting, self._waiting, self._held = self._waiting, [], 0
            received = self._taken = self._received
            marks = list(self._marks)
            restart_at, self._restart_at = self._restart_at, None
            self._flushed = self._ended
        if restart_at is not None:
            self._cutter.flush()
            self._cut_start, self._cut = restart_at, 0
        segments: list[Segment] = []
        if waiting:
            segments = self._cutter.push(np.concatenate(waiting))
        self._plan(received, len(segments))
        if self._flushed:
            segments += self._cutter.flush()
        if not segments:
            return None
        offset_s = self._cut_start / self._rate_hz
        newest = replace(segments[-1], start_s=segments[-1].start_s + offset_s)
        heard = self.tracker.update(newest)
        with self._lock:
            skipped, self._skipped = self._skipped + len(segments) - 1, 0
        # When the window's last sample came, to a frame.
        last = heard.end_s * self._rate_hz
        came = next((at for count, at in marks if count >= last), marks[-1][1] if marks else 0.0)
        return _answer(heard, self._jpegs(heard), skipped, 1000 * (time.monotonic() - came))

    def _jpegs(self, heard: WindowResult) -> list[bytes]:
        """The pictures of a window: one drawing is shown in many of them."""
        if len(heard.images) and heard.drawing != self._written[0]:
            self._written = heard.drawing, [jpeg(image) for image in heard.images]
        return self._written[1] if len(heard.images) else []

    def _plan(self, received: int, cut: int) -> None:
        """Say at which sample the next window is looked for."""
        self._cut += cut
        with self._lock:
            due = self._complete(self._cut_start, self._cut)
            if received >= due:
                # A resampler holds back up to 0.13 s: the next frame may complete the window.
                self._lag += received - due
                due = received + 1
            if self._restart_at is None:
                self._due = due

    @property
    def more(self) -> bool:
        """Whether a further window may be complete."""
        return self._received >= self._due or (self._ended and not self._flushed)

    # --- on the event loop -------------------------------------------------------------------

    def deliver(self, answer: Answer | None, fault: Exception | None) -> None:
        """Take what a worker has made."""
        self.busy = False
        if fault is not None and not self.closed:
            self.close()
            self._failed(fault)
        if answer is not None and not self.closed:
            self._answer(answer)
        if self.more and not self.closed:
            self._engine.enqueue(self)
        elif not self.queued:
            self.idle.set()


class Engine:
    """The workers and their queue. Made, used and stopped on one event loop.

    Args:
        translator: a loaded translator, of one thread.
        workers: threads.
        metrics: where it is counted.
    """

    def __init__(self, translator: Translator, workers: int, metrics: Metrics) -> None:
        self.translator = translator
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Feed] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._wait_s = 0.0
        self._served_at = time.monotonic()
        metrics.wait.set_function(lambda: self.wait_s)
        self._threads = [
            threading.Thread(target=self._serve, name=f"soundsight-{n}", daemon=True)
            for n in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def overloaded(self) -> bool:
        """Whether there is no time for a further stream."""
        return self.wait_s > OVERLOADED_S

    @property
    def wait_s(self) -> float:
        """Mean wait of the last windows, in seconds; it fades where there are no further ones."""
        now = time.monotonic()
        with self._changed:
            if self._ready:
                return max(self._wait_s, now - self._ready[0].queued_at)
        return float(self._wait_s * 0.5 ** ((now - self._served_at) / _FORGOTTEN_S))

    def enqueue(self, feed: Feed) -> None:
        """Let a feed wait for a worker, unless it does or is being served."""
        if feed.queued or feed.busy or feed.closed:
            return
        feed.queued = True
        feed.queued_at = time.monotonic()
        feed.idle.clear()
        with self._changed:
            self._ready.append(feed)
            self._metrics.queue.set(len(self._ready))
            self._changed.notify()

    def stop(self) -> None:
        """Stop the workers; what is being worked on is finished."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=5)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._ready and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                share = -(-len(self._ready) // len(self._threads))
                batch = [self._ready.popleft() for _ in range(min(share, MAX_BATCH))]
                self._metrics.queue.set(len(self._ready))
                for feed in batch:
                    feed.busy, feed.queued = True, False
            for feed in batch:
                self._one(feed)

    def _one(self, feed: Feed) -> None:
        waited_s = time.monotonic() - feed.queued_at
        self._wait_s += _NEWEST * (waited_s - self._wait_s)
        self._served_at = time.monotonic()
        answer: Answer | None = None
        fault: Exception | None = None
        if not feed.closed:
            try:
                answer = feed.work()
            except Exception as error:  # a fault of one stream must not end the worker
                fault = error
        if answer is not None:
            facts = answer[0]
            self._metrics.windows.labels(str(facts.state)).inc()
            self._metrics.skipped.inc(facts.skipped)
            self._metrics.latency.observe(facts.served_ms / 1000)
        try:
            self._loop.call_soon_threadsafe(feed.deliver, answer, fault)
        except RuntimeError:  # the loop has been closed meanwhile
            return


def _answer(heard: WindowResult, pictures: list[bytes], skipped: int, served_ms: float) -> Answer:
    event = heard.event
    facts = WindowFacts(
        start_s=round(heard.start_s, 3),
        end_s=round(heard.end_s, 3),
        settled=heard.settled,
        state=heard.state,
        level_dbfs=round(heard.level_dbfs, 1),
        ood_score=_known(heard.ood_score),
        confidence=_known(heard.confidence),
        name=heard.name,
        second_guess=heard.second_guess,
        pictogram=pictogram_of(heard.name) if heard.state is State.NAMED else "",
        drawing=heard.drawing,
        event=None
        if event is None
        else EventFacts(
            number=event.number,
            began_s=round(event.began_s, 3),
            heard_s=round(event.heard_s, 3),
            repeats=event.repeats,
        ),
        skipped=skipped,
        served_ms=round(served_ms, 1),
    )
    return facts, pack_window(facts, pictures)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Write a picture, uint8 [px, px, 3], as a JPEG of some kilobytes."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def _known(score: float) -> float | None:
    return None if math.isnan(score) else round(score, 4)


def words_of(fault: Exception) -> str:
    """What a client may be told of a fault: our own lines, and nothing of the machine."""
    return str(fault) if isinstance(fault, SoundsightError) else "a fault of the server"
