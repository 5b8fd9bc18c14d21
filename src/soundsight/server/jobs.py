"""Work on uploads: on threads, a few at a time, with a bounded number of requests that wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from soundsight.server.errors import RETRY_S, ApiError
from soundsight.server.limits import Limits
from soundsight.server.metrics import Metrics

_T = TypeVar("_T")


class Jobs:
    """Seats for uploads. Used on one event loop.

    A thread cannot be stopped from outside: a request whose client has gone keeps its seat, and all
    that it uses, until its thread has ended.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._present = 0
        self._seats = asyncio.Semaphore(limits.max_jobs)
        self._threads = CapacityLimiter(limits.max_jobs)

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request from before its body is read.

        Raises:
            ApiError: 503, when too many are there.
        """
        if self._present >= self._limits.max_jobs + self._limits.max_waiting:
            self._metrics.refusals.labels("busy").inc()
            raise ApiError(503, "busy", f"the server is busy: try again in {RETRY_S} s")
        self._present += 1
        try:
            yield
        finally:
            self._present -= 1

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run a piece of work on a thread when its turn comes."""
        async with self._seat():
            return await run_sync(work, limiter=self._threads)

    async def iterate(self, steps: Generator[_T]) -> AsyncGenerator[_T]:
        """Run a generator on threads, each step when it is asked for, and close it at the end."""
        end = object()
        async with self._seat():
            try:
                while (item := await run_sync(next, steps, end, limiter=self._threads)) is not end:
                    yield item  # type: ignore[misc]
            finally:
                # A server that stops at once does not wait for a step that still runs.
                with contextlib.suppress(ValueError):
                    await run_sync(steps.close, limiter=self._threads)

    @contextlib.asynccontextmanager
    async def _seat(self) -> AsyncIterator[None]:
        async with self._seats:
            self._metrics.jobs.inc()
            try:
                yield
            finally:
                self._metrics.jobs.dec()
