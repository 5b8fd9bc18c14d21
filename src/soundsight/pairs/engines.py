"""Where clips are turned into parts: a pool of processes here, or the workers of a Ray cluster.

Both run ``ingest.ingest`` and give the same bytes. An engine is a generator: it yields the outcome
of each clip as it comes, in any order; closing it stops the workers.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from soundsight.core.errors import DataError, OutputError, first_line
from soundsight.pairs.ingest import IngestConfig, Outcome, give_up, ingest
from soundsight.pairs.records import Clip
from soundsight.pairs.staging import no_space

TIMEOUT_S = 3600.0
"""How long one clip may take, by default."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_KNOCK_S = 10.0

CLIPS_PER_WORKER = 500
"""A worker is replaced after so many clips, so that what a decoder leaks is given back."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A clip to do.

    Attributes:
        clip: what to cut.
        part: where its part goes.
    """

    clip: Clip
    part: Path


def run_local(
    jobs: Sequence[Job], config: IngestConfig, workers: int, timeout_s: float = TIMEOUT_S
) -> Iterator[Outcome]:
    """Do the jobs in a pool of processes on this machine.

    A clip whose worker dies (a decoder that crashes) or that takes longer than ``timeout_s`` is
    recorded as failed, and the others go on.

    Raises:
        OutputError: when a part cannot be written, the disk is full, say.
    """
    from concurrent.futures import FIRST_COMPLETED, wait

    waiting: dict[Any, Job] = {}
    todo = iter(jobs)
    with _pool(workers) as pool:
        exhausted = False
        while True:
            # A short queue: the workers never wait, and little is lost when the run is stopped.
            while not exhausted and len(waiting) < 2 * workers + 2:
                job = next(todo, None)
                if job is None:
                    exhausted = True
                    break
                future = pool.schedule(ingest, args=[job.clip, config, job.part], timeout=timeout_s)
                waiting[future] = job
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield _outcome(future, waiting.pop(future), timeout_s)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Any]:
    from pebble import ProcessPool

    before = {name: os.environ.get(name) for name in _THREADS}
    # Workers inherit this: one thread each, as the clips are spread over the cores already.
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    pool: Any = ProcessPool(
        max_workers=workers,
        max_tasks=CLIPS_PER_WORKER,
        initializer=_start_worker,
        context=multiprocessing.get_context("spawn"),
    )
    try:
        with _interrupts_held_back():
            assert pool.active
        yield pool
    finally:
        pool.stop()
        pool.join()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start workers that Ctrl-C does not reach, and finish starting them when it comes.

    The signal goes to the whole group, but the parent stops the workers: from their first moment
    on they inherit that it is held back. The parent itself hears of it after the block.
    """
    noted: list[int] = []
    before: Any = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    # Started later, the tracker would let the signal through again.
    resource_tracker.ensure_running()
    held_back = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
        if before is not None:
            signal.signal(signal.SIGINT, before)
    if noted:
        raise KeyboardInterrupt


def _start_worker() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed must leave no worker behind that writes into its workplace."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _outcome(future: Any, job: Job, timeout_s: float) -> Outcome:
    from concurrent.futures import TimeoutError as FutureTimeout

    from pebble import ProcessExpired

    try:
        outcome: Outcome = future.result()
        return outcome
    except ProcessExpired:
        reason = f"{job.clip.key} makes the decoder crash: repair or remove it"
    except FutureTimeout:
        reason = f"{job.clip.key} takes longer than {timeout_s:g} s: raise --timeout or remove it"
    return give_up(job.clip, job.part, reason)


# --- Ray ---------------------------------------------------------------------------------------


def run_ray(
    jobs: Sequence[Job],
    config: IngestConfig,
    address: str | None,
    workers: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[Outcome]:
    """Do the jobs with Ray Data on a cluster (or, without an address, on a Ray started here).

    Every worker must be able to read the clips' paths: a shared file system, or URLs. Parts come
    back through Ray's object store and are written by this process alone. What a node that dies
    was doing is done again by another; a clip that makes its decoder crash is recorded as failed.

    Args:
        jobs: what to do.
        config: how.
        address: of the cluster (``host:port``, ``ray://host:port`` or ``auto``).
        workers: clips done at once at most; None for as many as the cluster has cores.
        timeout_s: how long one clip may take.

    Raises:
        DataError: when the cluster cannot be reached, or gives up.
        OutputError: when a part cannot be written.
    """
    if not jobs:
        return
    with _cluster(address) as ray:
        parts = {job.clip.id: job.part for job in jobs}
        rows = [{"clip": asdict(job.clip)} for job in jobs]
        # Few clips a block: a node that dies loses little, and every core has work to the end.
        slots = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        blocks = min(len(rows), max(4 * slots, len(rows) // 8))
        try:
            data = ray.data.from_items(rows, override_num_blocks=blocks).map(
                _remote(config, timeout_s), num_cpus=1, concurrency=workers
            )
            for row in data.iter_rows():
                yield _received(row, parts[row["clip"]])
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise DataError(
                f"the Ray cluster gave up ({first_line(error)}): run the same command again, "
                "what is done is kept"
            ) from None


def _remote(config: IngestConfig, timeout_s: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function that a Ray worker applies to one row."""

    def work(row: dict[str, Any]) -> dict[str, Any]:
        clip = Clip(**row["clip"])
        with tempfile.TemporaryDirectory(prefix="soundsight-") as folder:
            job = Job(clip=clip, part=Path(folder) / "part")
            outcome = _guarded(job, config, timeout_s)
            return {
                "clip": outcome.clip,
                "pairs": outcome.pairs,
                "dropped": outcome.dropped,
                "failure": outcome.failure or "",
                "part": job.part.read_bytes(),
            }

    return work


_guards: list[Any] = []
"""The pool of one process that a Ray worker keeps for its clips."""


def _guarded(job: Job, config: IngestConfig, timeout_s: float) -> Outcome:
    """Do a job in a process of its own: Ray would try a clip that kills its worker for ever."""
    if not _guards:
        stack = contextlib.ExitStack()
        pool = stack.enter_context(_pool(1))
        atexit.register(stack.close)
        _guards.append(pool)
    future = _guards[0].schedule(ingest, args=[job.clip, config, job.part], timeout=timeout_s)
    return _outcome(future, job, timeout_s)


def _received(row: dict[str, Any], part: Path) -> Outcome:
    from soundsight.core.runs import atomic_file

    try:
        with atomic_file(part) as temporary:
            temporary.write_bytes(row["part"])
    except OutputError as error:
        cause = error.__cause__
        raise (no_space(part, cause) if isinstance(cause, OSError) else error) from None
    return Outcome(
        clip=row["clip"],
        pairs=int(row["pairs"]),
        dropped=int(row["dropped"]),
        failure=row["failure"] or None,
    )


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    # Ray warns of a change to accelerators, which nothing here uses.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data

    _check_address(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ray.exceptions.RayError, ValueError, RuntimeError) as error:
        raise DataError(
            f"cannot reach the Ray cluster at {address or 'this machine'}: {first_line(error)}"
        ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str | None) -> None:
    """Knock at the door: Ray itself waits for minutes where nobody answers."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise DataError(f"cannot reach the Ray cluster at {address}: {first_line(error)}") from None
