"""A process that does one call after another, at the end of a pipe of its own.

Workers share nothing: one that is killed at any moment, whoever kills it, takes with it the call
that it was doing and no other. (A pool with one queue has locks, and a process that is killed may
keep them.)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from multiprocessing import connection, resource_tracker
from typing import Any

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_STARTED, _RETURNED, _RAISED = range(3)

_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


class WorkerDiedError(Exception):
    """A worker ended without an answer.

    Attributes:
        started: whether it had come so far as to take a call.
        killed: whether it was ended from outside, by a system that is short of memory say.
    """

    def __init__(self, exitcode: int | None, *, started: bool) -> None:
        super().__init__(f"exit code {exitcode}")
        self.started = started
        self.killed = exitcode in [-number for number in _FROM_OUTSIDE]


class TooLongError(Exception):
    """A call took longer than it may: so and so many seconds."""


class Worker:
    """A process of this machine that waits for calls.

    Attributes:
        calls: how many it has been given.

    Raises:
        OSError: when the system starts no process.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._started = False
        self._timeout_s = self._deadline_s = 0.0
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        try:
            with _interrupts_held_back(), _one_thread():
                self._process.start()
        except BaseException:
            self.stop()
            raise
        finally:
            theirs.close()

    def begin(self, timeout_s: float, function: Callable[..., Any], *args: Any) -> None:
        """Let it call a function, which has to be importable; it must be waiting for a call."""
        self.calls += 1
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        # Where it has ended meanwhile, its answer says so.
        with contextlib.suppress(OSError):
            self._pipe.send((function, args))

    def answer(self) -> Any:
        """What the call returned, or raises; None as long as it is being done.

        Raises:
            WorkerDiedError: when the worker has ended.
            TooLongError: when its time is up; the worker is stopped.
        """
        if not self._pipe.poll():
            if time.monotonic() < self._deadline_s:
                return None
            self.stop()
            raise TooLongError(f"{self._timeout_s:g} s")
        try:
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            exitcode = self._process.exitcode
            self.stop()
            raise WorkerDiedError(exitcode, started=self._started) from None
        if kind == _STARTED:
            self._started = True
            self._deadline_s = time.monotonic() + self._timeout_s
            return None
        if kind == _RAISED:
            raise value
        return value

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()
        self._pipe.close()

    @staticmethod
    def wait(workers: Collection[Worker]) -> list[Worker]:
        """Those of some workers that have something to say; waits until there is one."""
        left_s = min(worker._deadline_s for worker in workers) - time.monotonic()
        told = connection.wait([worker._pipe for worker in workers], max(0.0, left_s))
        now_s = time.monotonic()
        return [w for w in workers if w._pipe in told or w._deadline_s <= now_s]


def _serve(pipe: connection.Connection[Any, Any]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The other end is closed when no more is asked of it.
    with contextlib.suppress(EOFError, OSError):
        pipe.send((_STARTED, None))
        while True:
            function, args = pipe.recv()
            try:
                answer = (_RETURNED, function(*args))
            except Exception as error:
                answer = (_RAISED, error)
            pipe.send(answer)


def _end_with_parent() -> None:
    """A parent that was killed must leave no worker behind that writes into its workplace."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that are started meanwhile compute with one thread: they are one a core."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start workers that Ctrl-C does not reach, and finish starting them when it comes.

    The signal goes to the whole group, but the parent stops the workers: from their first moment
    on they inherit that it is held back. The parent itself hears of it after the block, however
    that ends.
    """
    noted: list[int] = []
    before: Any = None
    handles_signals = threading.current_thread() is threading.main_thread()
    if handles_signals:
        before = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        # Started later, the tracker would let the signal through again.
        resource_tracker.ensure_running()
        held_back = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
    finally:
        if handles_signals:
            # None stands for a handler that was not set by Python, and cannot be by it.
            signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if noted:
            signal.raise_signal(signal.SIGINT)
