"""The windows of many live streams, worked on by a few threads.

Each stream asks for one piece of work at a time, so the queue holds at most one entry a stream, and
every stream has its turn before another has its second. The work takes *all* the sound that has
come meanwhile and answers the newest window in it: when time is short, late windows are left out
and never pile up.

The networks run window by window: on a CPU a batch of 16 takes as long as 16 windows, and so a
picture does not depend on what other streams send.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.core.protocol import EventFacts, WindowFacts
from soundsight.core.state import State, known
from soundsight.core.units import SEGMENT_S
from soundsight.media.mel import DEFAULT
from soundsight.media.segments import LiveCutter, Segment
from soundsight.runtime.events import EventTracker, WindowResult
from soundsight.runtime.translator import Translator
from soundsight.server.metrics import Metrics
from soundsight.views.pictograms import pictogram_of

OVERLOADED_S = 1.0
"""Mean wait for a worker above which no further stream is admitted."""

MAX_WAITING_S = 30.0
"""Sound of one stream that waits at most; where more comes, all of it is dropped."""

_HALF_LIFE_S = 1.0
"""The mean wait is halved in this time when there is no work."""

_MEL_LAG_S = (DEFAULT.window_samples // 2 - DEFAULT.hop_samples) / DEFAULT.rate_hz
"""A window is complete this long after its end: the last frame of its mel looks ahead."""

_STEP_S = 0.05
"""A resampler holds back up to 0.13 s more: so often it is looked for a window that is due."""

_MAX_ARRIVALS = 512
_JPEG_QUALITY = 90
_NEWEST_WEIGHT = 0.1

_T = TypeVar("_T")

Window = tuple[WindowFacts, list[bytes]]
"""A window and its pictures as JPEG."""


class Engine:
    """Worker threads with one translator (itself of one thread), and their queue.

    Used on one event loop.
    """

    def __init__(self, translator: Translator, workers: int, metrics: Metrics) -> None:
        self.translator = translator
        self._pool = ThreadPoolExecutor(workers, "soundsight-engine")
        self._queued: dict[object, float] = {}  # since when each piece of work waits
        self._mean_wait_s = 0.0
        self._started_at = time.monotonic()
        metrics.queue.set_function(lambda: len(self._queued))
        metrics.wait.set_function(lambda: self.wait_s)

    @property
    def overloaded(self) -> bool:
        """Whether there is no time for a further stream."""
        return self.wait_s > OVERLOADED_S

    @property
    def wait_s(self) -> float:
        """Mean wait for a worker, in seconds, or the wait of the oldest in the queue if longer."""
        now = time.monotonic()
        if waiting := list(self._queued.values()):
            return max(self._mean_wait_s, now - min(waiting))
        return float(self._mean_wait_s * 0.5 ** ((now - self._started_at) / _HALF_LIFE_S))

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run a piece of work on a worker when its turn comes."""
        key = object()
        self._queued[key] = time.monotonic()

        def start() -> _T:
            now = time.monotonic()
            waited_s = now - self._queued.pop(key, now)
            self._mean_wait_s += _NEWEST_WEIGHT * (waited_s - self._mean_wait_s)
            self._started_at = now
            return work()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, start)
        finally:
            self._queued.pop(key, None)

    def stop(self) -> None:
        """Stop the workers; what is being worked on is finished."""
        self._pool.shutdown(cancel_futures=True)


class LiveSound:
    """The sound of one stream on its way to windows.

    ``push``, ``end`` and ``due`` are for the event loop; ``work`` is for one worker at a time.

    Attributes:
        finished: whether the sound has ended and its last window is answered.
    """

    def __init__(
        self, cutter: LiveCutter, tracker: EventTracker, *, rate_hz: int, hop_s: float
    ) -> None:
        self.tracker = tracker
        self.finished = False
        self._cutter = cutter
        self._rate_hz = rate_hz
        self._hop_s = hop_s
        self._lock = threading.Lock()
        # Runs without a gap: the position of the first sample, and the pieces.
        self._waiting: list[tuple[int, list[NDArray[Any]]]] = []
        self._held = 0  # samples that wait
        self._dropped = 0  # windows whose sound was dropped
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=_MAX_ARRIVALS)
        self._received = 0  # position after the newest sample
        self._taken = 0  # the same, of what a worker has taken
        self._start = 0  # where the present run began
        self._cut = 0  # windows of the present run
        self._next_window = 0.0  # the position at which the next window may be complete
        self._drawing: tuple[int, list[bytes]] = 0, []  # the last drawing, as JPEG
        self._ended = False

    def push(self, position: int, samples: NDArray[Any]) -> None:
        """Take sound [t], int16 or float32, that begins at a position of the stream."""
        with self._lock:
            if self._held + len(samples) > MAX_WAITING_S * self._rate_hz:
                self._dropped += int(self._held / (self._hop_s * self._rate_hz))
                self._waiting, self._held = [], 0
            if self._waiting and position == self._received:
                self._waiting[-1][1].append(samples)
            else:
                self._waiting.append((position, [samples]))
            self._held += len(samples)
            self._received = position + len(samples)
            self._arrivals.append((self._received, time.monotonic()))

    def end(self) -> None:
        """There is no more sound: what is left makes a last window, or none."""
        self._ended = True

    @property
    def due(self) -> bool:
        """Whether there is work to do."""
        due = self._next_window
        if due <= self._taken:  # the resampler holds its end back
            due = self._taken + _STEP_S * self._rate_hz
        return not self.finished and (self._ended or self._received >= due)

    def work(self) -> Window | None:
        """Cut what has come and answer the newest window in it.

        Raises:
            SoundsightError: when the sound cannot be used.
        """
        with self._lock:
            runs, self._waiting, self._held = self._waiting, [], 0
            arrivals = list(self._arrivals)
            ended = self._ended
        segments: list[Segment] = []  # of all runs
        for position, pieces in runs:
            if position != self._taken:
                self._cutter.flush()  # no window spans a gap
                self._start, self._cut = position, 0
            cut = self._cutter.push(np.concatenate(pieces))
            self._cut += len(cut)
            self._taken = position + sum(map(len, pieces))
            segments += map(self._placed, cut)
        if ended:
            segments += map(self._placed, self._cutter.flush())
        window_s = SEGMENT_S + self._cut * self._hop_s + _MEL_LAG_S
        self._next_window = self._start + window_s * self._rate_hz
        self.finished = ended
        if not segments:
            return None
        result = self.tracker.update(segments[-1])
        # Windows in a row may show the same drawing.
        if len(result.images) and result.drawing != self._drawing[0]:
            self._drawing = result.drawing, [jpeg(image) for image in result.images]
        skipped, self._dropped = len(segments) - 1 + self._dropped, 0
        last = result.end_s * self._rate_hz  # the window's last sample
        arrived = next((at for end, at in arrivals if end >= last), arrivals[-1][1])
        facts = _window_facts(result, skipped, 1000 * (time.monotonic() - arrived))
        return facts, self._drawing[1] if len(result.images) else []

    def _placed(self, segment: Segment) -> Segment:
        """A segment of the present run, with its start in the whole stream."""
        return replace(segment, start_s=segment.start_s + self._start / self._rate_hz)


def _window_facts(result: WindowResult, skipped: int, served_ms: float) -> WindowFacts:
    event = result.event
    return WindowFacts(
        start_s=round(result.start_s, 3),
        end_s=round(result.end_s, 3),
        settled=result.settled,
        state=result.state,
        level_dbfs=round(result.level_dbfs, 1),
        ood_score=known(result.ood_score),
        confidence=known(result.confidence),
        name=result.name,
        second_guess=result.second_guess,
        pictogram=pictogram_of(result.name) if result.state is State.NAMED else "",
        drawing=result.drawing,
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


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 [px, px, 3], as a JPEG of some kilobytes."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return file.getvalue()
