"""Work on uploads: off the event loop, a few at a time, and none more than can wait."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import TypeVar

import anyio

from soundsight.server.errors import RETRY_S, RefusedError
from soundsight.server.limits import Limits
from soundsight.server.metrics import Metrics

_T = TypeVar("_T")


class Jobs:
    """Seats for uploads. Used on one event loop.

    A thread cannot be stopped from outside. Where the request it works for is cancelled, its seat
    and all it uses are kept until it has ended.
    """

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

    async def run(self, work: Callable[[], _T], unwanted: threading.Event) -> _T:
        """Run a piece of work on a thread when its turn comes.

        Args:
            work: looks at ``unwanted`` now and then.
            unwanted: is set when this is cancelled.
        """
        async with self._seat():
            return await _on_thread(work, unwanted.set)

    async def iterate(self, steps: Generator[_T]) -> AsyncGenerator[_T]:
        """Run a generator on threads, each step when it is asked for, and close it at the end.

        Args:
            steps: nobody else touches it. A step takes no longer than a cancelled request may.
        """
        end = object()
        async with self._seat():
            try:
                while (item := await _on_thread(lambda: next(steps, end))) is not end:
                    yield item  # type: ignore[misc]
            finally:
                await _on_thread(steps.close)

    @contextlib.asynccontextmanager
    async def _seat(self) -> AsyncIterator[None]:
        async with self._working:
            self._metrics.jobs.inc()
            try:
                yield
            finally:
                self._metrics.jobs.dec()


async def _on_thread(work: Callable[[], _T], cancelled: Callable[[], None] | None = None) -> _T:
    """Run a piece of work on a thread; it has ended when this has, cancelled or not.

    Args:
        cancelled: called at once when this is cancelled.
    """
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        if cancelled is not None:
            cancelled()
        # Starlette's answers are cancelled anew in every turn of the loop until they have ended.
        with anyio.CancelScope(shield=True):
            await _ended(running)
        running.exception()  # has been seen, and is nobody's any more
        raise
    return running.result()


async def _ended(running: asyncio.Future[_T]) -> None:
    while not running.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([running])
