"""Where clips are turned into parts: processes here, or the workers of a Ray cluster.

Both run ``ingest.ingest`` and give the same bytes. An engine is a generator: it yields each clip
when its part is there, in any order; closing it stops the workers.

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
from dataclasses import asdict
from multiprocessing import connection, forkserver, get_context, parent_process, resource_tracker
from pathlib import Path
from typing import Any

from soundsight.core.errors import DataError, OutputError, first_line
from soundsight.core.files import atomic_file
from soundsight.data.prepare.ingest import IngestConfig, give_up, ingest
from soundsight.data.prepare.staging import writing
from soundsight.data.records import Clip
from soundsight.data.store.shards import index_name

Job = tuple[Clip, Path]
"""A clip to do, and where its part goes."""

TIMEOUT_S = 3600.0
"""How long one clip may take, by default."""

_CLIPS_PER_WORKER = 500
"""A worker is replaced after so many clips, so that what a decoder leaks is given back."""

_CONNECT_S = 10.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PRELOADED = [
    "__main__", "soundsight.data.prepare.ingest", "av", "soxr", "imagehash", "scipy.fftpack",
    *(f"PIL.{kind}ImagePlugin" for kind in ("Bmp", "Gif", "Jpeg", "Png", "Ppm", "WebP")),
]  # fmt: skip
"""What a clip needs that is imported when it is first used: the server has it ready."""

# The last one is that of a worker whose server has died.
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, 255)
_SLOW = "takes longer than {:g} s: raise --timeout or remove it"
_CRASHED = "makes the decoder crash: repair or remove it"
_KILLED = (
    "had its worker killed twice, as by a system that is short of memory: free some or pass fewer "
    "--workers, and --retry-failures"
)


def run_local(
    jobs: Sequence[Job], config: IngestConfig, workers: int, timeout_s: float = TIMEOUT_S
) -> Iterator[Clip]:
    """Do the jobs in processes on this machine.

    A clip whose worker dies (a decoder that crashes) or that takes longer than ``timeout_s`` is
    recorded as failed, and the others go on. One whose worker is killed from outside, by a system
    that is short of memory say, is done once more.
    """
    todo, killed = deque(jobs), set[str]()
    # Pipe of a worker -> its process, how many clips it has begun, its job, when its time is over.
    busy: dict[Any, tuple[Any, int, Job, float]] = {}
    idle: list[tuple[Any, Any, int]] = []
    try:
        while todo or busy:
            while todo and len(busy) < workers:
                try:
                    pipe, process, clips = idle.pop() if idle else (*_start(), 0)
                except (OSError, EOFError) as error:
                    if busy:
                        break  # there can be no more than are at work
                    raise DataError(
                        f"no worker process can be started ({first_line(error)}): free memory, or "
                        "pass fewer --workers, and run the same command again, what is done is kept"
                    ) from None
                job = todo.popleft()
                busy[pipe] = process, clips + 1, job, time.monotonic() + timeout_s
                with contextlib.suppress(OSError):  # where it has ended, its pipe says so
                    pipe.send((job, config))
            left_s = min(ends_s for *_, ends_s in busy.values()) - time.monotonic()
            ready = connection.wait(list(busy), max(0.0, left_s))
            now_s = time.monotonic()
            for pipe in [pipe for pipe in busy if pipe in ready or busy[pipe][-1] <= now_s]:
                process, clips, (clip, part), _ = busy[pipe]
                failure: str | OutputError | None
                try:
                    failure = pipe.recv() if pipe in ready else _SLOW.format(timeout_s)
                except (EOFError, OSError):
                    process.join()
                    failure = _KILLED if process.exitcode in _FROM_OUTSIDE else _CRASHED
                if failure is None and clips < _CLIPS_PER_WORKER:
                    idle.append((pipe, process, clips))
                else:
                    _stop(pipe, process)
                del busy[pipe]
                if isinstance(failure, OutputError):
                    raise failure
                if failure == _KILLED and clip.id not in killed:
                    killed.add(clip.id)
                    todo.append((clip, part))
                    continue
                if failure is not None:
                    give_up(clip, part, failure)
                yield clip
    finally:
        # Nobody waits for their answers any more.
        for pipe, process, _ in [*idle, *((pipe, *worker[:2]) for pipe, worker in busy.items())]:
            _stop(pipe, process)


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


def _start() -> tuple[Any, Any]:
    """Start a worker; return the pipe on which it takes jobs and says that they are done."""
    _start_server()
    context = get_context("forkserver")
    ours, theirs = context.Pipe()
    with theirs:
        process = context.Process(target=_work, args=(theirs, ingest), daemon=True)
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
    return ours, process


def _stop(pipe: Any, process: Any) -> None:
    process.kill()
    process.join()
    pipe.close()


def _work(pipe: Any, function: Callable[..., None]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the parent may be gone
        while True:
            (clip, part), config = pipe.recv()
            try:
                function(clip, config, part)
                pipe.send(None)
            except OutputError as error:
                pipe.send(error)


def _end_with_parent() -> None:
    """A parent that was killed must leave no process behind that writes into its workplace."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# --- Ray ---------------------------------------------------------------------------------------


def run_ray(
    jobs: Sequence[Job],
    config: IngestConfig,
    address: str | None,
    workers: int | None,
    timeout_s: float,
) -> Iterator[Clip]:
    """Do the jobs with Ray Data, ``workers`` clips at once at most (None: as many as cores).

    ``address`` is that of the cluster (``host:port``, ``ray://host:port`` or ``auto``); without
    one a Ray is started here.

    Every worker must be able to read the clips' paths: a shared file system, or URLs. Parts come
    back through Ray's object store and are written by this process alone. What a node that dies
    was doing is done again by another; a clip that makes its decoder crash is recorded as failed.
    """
    if not jobs:
        return
    with _cluster(address) as ray:
        by_id = {clip.id: (clip, part) for clip, part in jobs}
        rows = [{"clip": asdict(clip)} for clip, _ in jobs]
        # Few clips a block: a node that dies loses little, and every core has work to the end.
        slots = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        blocks = min(len(rows), max(4 * slots, len(rows) // 8))
        try:
            data = ray.data.from_items(rows, override_num_blocks=blocks).map(
                _remote(config, timeout_s), num_cpus=1, concurrency=workers
            )
            for row in data.iter_rows():
                clip, part = by_id[row["id"]]
                with writing(part):
                    # As write_shard does: a tar that is there has its index.
                    for path in (part.with_name(index_name(part.name)), part):
                        with atomic_file(path) as temporary:
                            temporary.write_bytes(row["part" if path == part else "index"])
                yield clip
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
        with tempfile.TemporaryDirectory(prefix="soundsight-") as folder:
            clip, part = Clip(**row["clip"]), Path(folder) / "part.tar"
            # In a process of its own: Ray would try a clip that kills its worker for ever.
            list(run_local([(clip, part)], config, 1, timeout_s))
            index = part.with_name(index_name(part.name)).read_bytes()
            return {"id": clip.id, "part": part.read_bytes(), "index": index}

    return work


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    # Ray warns of a change to accelerators, which nothing here uses.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data

    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():
            # Ray itself waits for minutes where nobody answers.
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, ray.exceptions.RayError, ValueError, RuntimeError) as error:
        raise DataError(
            f"cannot reach the Ray cluster at {address or 'this machine'}: {first_line(error)}"
        ) from None
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()
