"""Work on uploads: off the event loop, a few at a time, and none more than can wait."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

from soundsight.apps.server.answers import RETRY_S, RefusedError
from soundsight.apps.server.limits import Limits
from soundsight.apps.server.metrics import Metrics

_T = TypeVar("_T")


class Jobs:
    """Seats for uploads. Used on one event loop."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._present = 0
        self._working = asyncio.Semaphore(limits.max_jobs)

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request from before its body is read.

        Raises:
            RefusedError: 503, when too many are there.
        """
        if self._present >= self._limits.max_jobs + self._limits.max_waiting:
            self._metrics.refusals.labels("busy").inc()
            raise RefusedError(503, "busy", f"the server is busy: try again in {RETRY_S} s")
        self._present += 1
        try:
            yield
        finally:
            self._present -= 1

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run a piece of work on a thread when its turn comes."""
        async with self._seat():
            return await asyncio.to_thread(work)

    @contextlib.asynccontextmanager
    async def _seat(self) -> AsyncIterator[None]:
        async with self._working:
            self._metrics.jobs.inc()
            try:
                yield
            finally:
                self._metrics.jobs.dec()

    async def iterate(self, work: Callable[[threading.Event], Iterator[_T]]) -> AsyncIterator[_T]:
        """Run an iterator on a thread and hand out what it yields, one ahead at most.

        Args:
            work: makes the iterator; it is given an event that is set when nobody wants more.
        """
        stopped = threading.Event()
        end = object()
        async with self._seat():
            items = await asyncio.to_thread(work, stopped)
            try:
                while True:
                    item = await asyncio.to_thread(next, items, end)
                    if item is end:
                        return
                    yield item  # type: ignore[misc]
            finally:
                stopped.set()
                close = getattr(items, "close", None)
                if close is not None:
                    await asyncio.shield(asyncio.to_thread(close))
