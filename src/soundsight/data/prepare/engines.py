"""Where clips are turned into parts: processes here, or the workers of a Ray cluster.

Both run ``ingest.ingest`` and give the same bytes. An engine is a generator: it yields the outcome
of each clip as it comes, in any order; closing it stops the workers.

Here workers are processes that share nothing, forked from a server that has imported what is
needed: one that crashes, hangs or is killed takes with it the clip that it was doing and no other.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import connection, forkserver, get_context, parent_process, resource_tracker
from pathlib import Path
from typing import Any

from soundsight.core.errors import DataError, OutputError, first_line
from soundsight.core.files import atomic_file
from soundsight.data.prepare.ingest import IngestConfig, Outcome, give_up, ingest
from soundsight.data.prepare.staging import writing
from soundsight.data.records import Clip
from soundsight.data.store.shards import index_name

TIMEOUT_S = 3600.0
"""How long one clip may take, by default."""

CLIPS_PER_WORKER = 500
"""A worker is replaced after so many clips, so that what a decoder leaks is given back."""

_CONNECT_S = 10.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PRELOADED = [
    "__main__", "soundsight.data.prepare.ingest", "av", "soxr", "imagehash", "scipy.fftpack",
    *(f"PIL.{kind}ImagePlugin" for kind in ("Bmp", "Gif", "Jpeg", "Png", "Ppm", "WebP")),
]  # fmt: skip
"""What a clip needs that is imported when it is first used: the server has it ready."""

_SERVER_DIED = 255
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, _SERVER_DIED)
_CRASHED = "makes the decoder crash: repair or remove it"
_KILLED = (
    "had its worker killed twice, as by a system that is short of memory: free some or pass fewer "
    "--workers, and --retry-failures"
)


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
    """Do the jobs in processes on this machine.

    A clip whose worker dies (a decoder that crashes) or that takes longer than ``timeout_s`` is
    recorded as failed, and the others go on. One whose worker is killed from outside, by a system
    that is short of memory say, is done once more.
    """
    todo, killed = deque(jobs), set[str]()
    busy: list[_Worker] = []
    idle: list[_Worker] = []
    try:
        while todo or busy:
            while todo and len(busy) < workers:
                try:
                    worker = idle.pop() if idle else _Worker()
                except (OSError, EOFError) as error:
                    if busy:
                        break  # there can be no more than are at work
                    raise _no_workers(error) from None
                worker.begin(todo.popleft(), config, timeout_s)
                busy.append(worker)
            for worker in _Worker.wait(busy):
                busy.remove(worker)
                outcome = worker.outcome(timeout_s)
                if worker.process.exitcode is None and worker.clips < CLIPS_PER_WORKER:
                    idle.append(worker)
                else:
                    worker.stop()
                if outcome is not None:
                    yield outcome
                elif worker.process.exitcode not in _FROM_OUTSIDE:
                    yield _given_up(worker.job, _CRASHED)
                elif worker.job.clip.id in killed:
                    yield _given_up(worker.job, _KILLED)
                else:
                    killed.add(worker.job.clip.id)
                    todo.append(worker.job)
    finally:
        # Nobody waits for their answers any more.
        for worker in (*busy, *idle):
            worker.stop()


class _Worker:
    """A process that does one job after another."""

    job: Job
    ends_s: float

    def __init__(self) -> None:
        _start_server()
        self.clips = 0
        context = get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, ingest), daemon=True)
        try:
            self.process.start()
        except BaseException:
            self.pipe.close()
            raise
        finally:
            theirs.close()

    def begin(self, job: Job, config: IngestConfig, timeout_s: float) -> None:
        """Let it do a job; it must be waiting for one."""
        self.job, self.clips = job, self.clips + 1
        self.ends_s = time.monotonic() + timeout_s
        # Where it has ended meanwhile, the outcome says so.
        with contextlib.suppress(OSError):
            self.pipe.send((job, config))

    def outcome(self, timeout_s: float) -> Outcome | None:
        """What became of its job, which is done or out of time; None when the process died."""
        if not self.pipe.poll():
            self.stop()
            reason = f"takes longer than {timeout_s:g} s: raise --timeout or remove it"
            return _given_up(self.job, reason)
        try:
            found: Outcome | OutputError = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return None
        if isinstance(found, OutputError):
            self.stop()
            raise found
        return found

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    @staticmethod
    def wait(workers: Sequence[_Worker]) -> list[_Worker]:
        """Those of some workers whose job is done or out of time; waits until there is one."""
        left_s = min(worker.ends_s for worker in workers) - time.monotonic()
        ready = connection.wait([worker.pipe for worker in workers], max(0.0, left_s))
        now_s = time.monotonic()
        return [worker for worker in workers if worker.pipe in ready or worker.ends_s <= now_s]


def _start_server() -> None:
    """Start what processes are forked from: with one thread each, and out of reach of Ctrl-C.

    The signal goes to the whole group, but this process stops the others: from their first moment
    on they inherit that it is held back.
    """
    before = {name: os.environ.get(name) for name in _THREADS}
    # Started later, the tracker would let the signal through again.
    resource_tracker.ensure_running()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        os.environ.update(dict.fromkeys(_THREADS, "1"))
        forkserver.set_forkserver_preload(_PRELOADED)
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _serve(pipe: connection.Connection[Any, Any], function: Callable[..., Outcome]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The other end is closed when no more is asked of it.
    with contextlib.suppress(EOFError, OSError):
        while True:
            job, config = pipe.recv()
            try:
                pipe.send(function(job.clip, config, job.part))
            except OutputError as error:
                pipe.send(error)


def _end_with_parent() -> None:
    """A parent that was killed must leave no process behind that writes into its workplace."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _given_up(job: Job, reason: str) -> Outcome:
    return give_up(job.clip, job.part, f"{job.clip.key} {reason}")


def _no_workers(error: Exception) -> DataError:
    return DataError(
        f"no worker process can be started ({first_line(error)}): free memory, or pass fewer "
        "--workers, and run the same command again, what is done is kept"
    )


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
                f"the Ray cluster gave up ({first_line(_cause(error))}): run the same command "
                "again, what is done is kept"
            ) from None


def _cause(error: BaseException) -> BaseException:
    """What went wrong on a node, out of the reports that Ray has wrapped around it."""
    while isinstance(inner := getattr(error, "cause", None) or error.__cause__, Exception):
        error = inner
    return error


def _remote(config: IngestConfig, timeout_s: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function that a Ray worker applies to one row.

    A process of its own does the clip: Ray would try one that kills its worker for ever.
    """

    def work(row: dict[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="soundsight-") as folder:
            job = Job(clip=Clip(**row["clip"]), part=Path(folder) / "part.tar")
            (outcome,) = run_local([job], config, 1, timeout_s)
            index = job.part.with_name(index_name(job.part.name))
            return {
                **{name: value or "" for name, value in asdict(outcome).items()},
                "part": job.part.read_bytes(),
                "index": index.read_bytes(),
            }

    return work


def _received(row: dict[str, Any], part: Path) -> Outcome:
    with writing(part):
        # As write_shard does: a tar that is there has its index.
        for path, name in ((part.with_name(index_name(part.name)), "index"), (part, "part")):
            with atomic_file(path) as temporary:
                temporary.write_bytes(row[name])
    return Outcome(
        clip=row["clip"],
        pairs=int(row["pairs"] or 0),
        dropped=int(row["dropped"] or 0),
        failure=row["failure"] or None,
        damage=row["damage"] or None,
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
    """Try to connect: Ray itself waits for minutes where nobody answers."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise DataError(f"cannot reach the Ray cluster at {address}: {first_line(error)}") from None
