"""Where clips are turned into parts: processes here, or the workers of a Ray cluster.

Both run ``ingest.ingest`` and give the same bytes. An engine is a generator: it yields the outcome
of each clip as it comes, in any order; closing it stops the workers.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soundsight.core.errors import DataError, OutputError, first_line
from soundsight.data.prepare.ingest import IngestConfig, Outcome, give_up, ingest
from soundsight.data.prepare.staging import no_space
from soundsight.data.prepare.workers import TooLongError, Worker, WorkerDiedError
from soundsight.data.records import Clip

TIMEOUT_S = 3600.0
"""How long one clip may take, by default."""

_KNOCK_S = 10.0

CLIPS_PER_WORKER = 500
"""A worker is replaced after so many clips, so that what a decoder leaks is given back."""

_IN_VAIN = 3
"""Workers in a row that may end before they do anything: then there is no use in another."""

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

    Raises:
        DataError: when no worker can be started, or they end before they do anything.
        OutputError: when a part cannot be written, the disk is full, say.
    """
    with contextlib.closing(_Crew()) as crew:
        yield from crew.run(jobs, config, workers, timeout_s)


class _Crew:
    """Workers that are kept from run to run."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self._busy: dict[Worker, Job] = {}
        self._todo: deque[Job] = deque()
        self._killed: set[str] = set()
        self._in_vain = 0

    def close(self) -> None:
        while self._idle:
            self._idle.pop().stop()

    def run(
        self, jobs: Sequence[Job], config: IngestConfig, workers: int, timeout_s: float
    ) -> Iterator[Outcome]:
        """Do the jobs with so many workers; see ``run_local``."""
        self._todo = deque(jobs)
        self._killed.clear()
        self._in_vain = 0
        try:
            while self._todo or self._busy:
                while self._todo and len(self._busy) < workers and (worker := self._free_worker()):
                    job = self._busy[worker] = self._todo.popleft()
                    worker.begin(timeout_s, ingest, job.clip, config, job.part)
                for worker in Worker.wait(self._busy):
                    outcome = self._outcome_of(worker)
                    if outcome is not None:
                        yield outcome
        finally:
            # Nobody waits for their answers any more.
            while self._busy:
                self._busy.popitem()[0].stop()

    def _outcome_of(self, worker: Worker) -> Outcome | None:
        """What became of a worker's job; None while it is at it, or where the job is done again."""
        job = self._busy[worker]
        try:
            outcome: Outcome | None = worker.answer()
        except TooLongError as error:
            del self._busy[worker]
            return _given_up(job, f"takes longer than {error}: raise --timeout or remove it")
        except WorkerDiedError as died:
            del self._busy[worker]
            if not died.started:
                self._in_vain += 1
                if self._in_vain == _IN_VAIN:
                    raise _no_workers(died) from None
                self._todo.appendleft(job)
                return None
            if died.killed and job.clip.id not in self._killed:
                self._killed.add(job.clip.id)
                self._todo.append(job)
                return None
            return _given_up(job, _KILLED if died.killed else _CRASHED)
        if outcome is None:
            return None
        del self._busy[worker]
        self._in_vain = 0
        if worker.calls < CLIPS_PER_WORKER:
            self._idle.append(worker)
        else:
            worker.stop()
        return outcome

    def _free_worker(self) -> Worker | None:
        """A worker that waits; None where there can be no more of them than are at work."""
        if self._idle:
            return self._idle.pop()
        try:
            return Worker()
        except OSError as error:
            if self._busy:
                return None
            raise _no_workers(error) from None


def _given_up(job: Job, reason: str) -> Outcome:
    return give_up(job.clip, job.part, f"{job.clip.key} {reason}")


def _no_workers(error: Exception) -> DataError:
    return DataError(
        f"no worker process can be started, or they end at once ({first_line(error)}): free "
        "memory, or pass fewer --workers, and run the same command again, what is done is kept"
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
                f"the Ray cluster gave up ({first_line(_cause(error))}): run the same command "
                "again, what is done is kept"
            ) from None


def _cause(error: BaseException) -> BaseException:
    """What went wrong on a node, out of the reports that Ray has wrapped around it."""
    while isinstance(inner := getattr(error, "cause", None) or error.__cause__, Exception):
        error = inner
    return error


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
                "damage": outcome.damage or "",
                "part": job.part.read_bytes(),
            }

    return work


_guards: list[_Crew] = []
"""The process that a Ray worker keeps for its clips."""


def _guarded(job: Job, config: IngestConfig, timeout_s: float) -> Outcome:
    """Do a job in a process of its own: Ray would try a clip that kills its worker for ever."""
    if not _guards:
        _guards.append(_Crew())
        atexit.register(_guards[0].close)
    (outcome,) = _guards[0].run([job], config, 1, timeout_s)
    return outcome


def _received(row: dict[str, Any], part: Path) -> Outcome:
    from soundsight.core.files import atomic_file

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
    """Knock at the door: Ray itself waits for minutes where nobody answers."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise DataError(f"cannot reach the Ray cluster at {address}: {first_line(error)}") from None
