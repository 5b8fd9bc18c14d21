"""The workers on this machine: every clip done once, and one that kills its worker costs itself."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

import pytest

from soundsight.core.errors import DataError, OutputError
from soundsight.data.prepare import engines, workers
from soundsight.data.prepare.clean import CleanConfig
from soundsight.data.prepare.engines import Job, run_local
from soundsight.data.prepare.ingest import IngestConfig, Outcome
from soundsight.data.prepare.staging import NoSpaceError, Part
from soundsight.data.records import Clip
from soundsight.media import synth

RAW = IngestConfig(clean=CleanConfig(steps=()), duplicates=False)

FAULTY = '''
"""Does what the clip's name says."""
import os, signal, time
from soundsight.data.prepare.ingest import ingest as real
from soundsight.data.prepare.staging import NoSpaceError, PartWriter
from soundsight.data.prepare.workers import _serve

def once(name):
    """Whether it is the first time that a process asks."""
    try:
        os.close(os.open(os.path.join(os.path.dirname(__file__), name), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

def end_at_once(pipe):
    os._exit(7)

def end_the_first_time(pipe):
    if once("ended"):
        os.kill(os.getpid(), signal.SIGKILL)
    _serve(pipe)

def ingest(clip, config, part):
    if "killed always" in clip.key or ("killed" in clip.key and once(clip.key)):
        os.kill(os.getpid(), signal.SIGKILL)
    if "segfault" in clip.key:
        with PartWriter(part):
            os.kill(os.getpid(), signal.SIGSEGV)
    if "exit" in clip.key:
        os._exit(3)
    if "hang" in clip.key:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if "slow" in clip.key:
        time.sleep(600)
    if "full" in clip.key:
        raise NoSpaceError("no space left for it")
    return real(clip, config, part)
'''


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engines") / "dog.mp4"
    return synth.write_video(path, "dog", 1.0, 0, fps=5, size_px=64)


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers do what the names of the clips say."""
    place = tmp_path / "modules"
    place.mkdir()
    (place / "faulty_ingest.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(place)
    import faulty_ingest

    monkeypatch.setattr(engines, "ingest", faulty_ingest.ingest)
    yield
    del sys.modules["faulty_ingest"]


def jobs(video: Path, names: list[str], folder: Path) -> list[Job]:
    clips = [Clip(path=str(video), key=name, group=name) for name in names]
    return [Job(clip=clip, part=folder / f"{clip.key}.part") for clip in clips]


def test_every_clip_is_done_once_in_as_many_processes_as_asked(video: Path, tmp_path: Path) -> None:
    names = [f"v{k}" for k in range(12)]
    before = dict(os.environ)
    outcomes = list(run_local(jobs(video, names, tmp_path), RAW, 3))
    assert sorted(outcome.clip for outcome in outcomes) == sorted(
        job.clip.id for job in jobs(video, names, tmp_path)
    )
    assert {(outcome.pairs, outcome.failure) for outcome in outcomes} == {(1, None)}
    assert sorted(os.listdir(tmp_path)) == sorted(f"{name}.part" for name in names)
    assert dict(os.environ) == before
    assert multiprocessing.active_children() == []


def test_nothing_to_do() -> None:
    assert list(run_local([], RAW, 1)) == []


@pytest.mark.usefixtures("faulty")
def test_a_worker_that_dies_or_hangs_costs_only_its_clip(video: Path, tmp_path: Path) -> None:
    names = ["a", "segfault", "b", "exit", "c", "hang", "d", "e"]
    work = jobs(video, names, tmp_path / "parts")
    outcomes = {outcome.clip: outcome for outcome in run_local(work, RAW, 2, timeout_s=6.0)}
    failures = {job.clip.key: outcomes[job.clip.id].failure for job in work}
    assert {name for name, failure in failures.items() if failure is None} == set("abcde")
    for name in ("segfault", "exit"):
        assert failures[name] == "makes the decoder crash: repair or remove it"
    assert str(failures["hang"]).startswith("takes longer than 6 s")
    for job in work:
        part = Part(job.part)
        assert part.about.get("failure") == failures[job.clip.key]
        assert len(part.entries) == (failures[job.clip.key] is None)


@pytest.mark.usefixtures("faulty")
def test_a_clip_whose_worker_is_killed_is_done_once_more(video: Path, tmp_path: Path) -> None:
    """A system that is short of memory kills whom it likes: that says nothing of the clip."""
    work = jobs(video, ["a", "killed", "killed always", "b"], tmp_path / "parts")
    outcomes = {outcome.clip: outcome for outcome in run_local(work, RAW, 2)}
    assert len(outcomes) == 4
    a, killed, always, b = (outcomes[job.clip.id].failure for job in work)
    assert (a, killed, b) == (None, None, None)
    assert str(always).startswith("had its worker killed twice")


@pytest.mark.usefixtures("faulty")
def test_workers_that_end_before_they_work_are_replaced_and_then_one_line(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty_ingest = sys.modules["faulty_ingest"]
    monkeypatch.setattr(workers, "_serve", faulty_ingest.end_the_first_time)
    work = jobs(video, ["a", "b", "c"], tmp_path / "parts")
    outcomes = list(run_local(work, RAW, 1))
    assert {outcome.clip for outcome in outcomes} == {job.clip.id for job in work}
    assert {outcome.failure for outcome in outcomes} == {None}
    monkeypatch.setattr(workers, "_serve", faulty_ingest.end_at_once)
    with pytest.raises(
        DataError, match=r"or they end at once \(exit code 7\): free memory, or pass fewer"
    ) as error:
        list(run_local(work, RAW, 2))
    assert len(str(error.value).splitlines()) == 1
    assert multiprocessing.active_children() == []


def test_workers_that_cannot_be_started_are_one_line(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(SpawnProcess, "start", refused)
    before = dict(os.environ)
    with pytest.raises(
        DataError, match=r"Resource temporarily unavailable.*the same command again"
    ):
        list(run_local(jobs(video, ["a"], tmp_path), RAW, 1))
    monkeypatch.setattr(SpawnContext, "Pipe", refused)
    with pytest.raises(DataError, match="Resource temporarily unavailable"):
        list(run_local(jobs(video, ["a"], tmp_path), RAW, 1))
    assert dict(os.environ) == before


def test_an_interrupt_while_a_worker_is_not_started_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(SpawnProcess, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.Worker()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # Who hears no Ctrl-C hears none now.
        with pytest.raises(BlockingIOError):
            workers.Worker()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_python_did_not_set_is_not_left_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = signal.signal
    before = signal.getsignal(signal.SIGINT)

    def foreign(number: int, handler: Any) -> Any:
        real(number, handler)

    try:
        monkeypatch.setattr(signal, "signal", foreign)
        with workers._interrupts_held_back():
            pass
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        real(signal.SIGINT, before)


@pytest.mark.usefixtures("faulty")
def test_a_clip_is_guarded_by_a_process_that_is_made_anew(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker of Ray does with its clips."""
    faulty_ingest = sys.modules["faulty_ingest"]
    monkeypatch.setattr(workers, "_serve", faulty_ingest.end_the_first_time)
    work = jobs(video, ["a", "killed", "segfault", "b"], tmp_path / "parts")
    try:
        found = [engines._guarded(job, RAW, 60.0).failure for job in work]
    finally:
        while engines._guards:
            engines._guards.pop().close()
    assert found == [None, None, "makes the decoder crash: repair or remove it", None]
    monkeypatch.setattr(workers, "_serve", faulty_ingest.end_at_once)
    try:
        with pytest.raises(DataError, match="they end at once"):
            engines._guarded(work[0], RAW, 60.0)
    finally:
        while engines._guards:
            engines._guards.pop().close()
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("faulty")
def test_a_full_disk_in_a_worker_ends_the_run(video: Path, tmp_path: Path) -> None:
    work = jobs(video, ["a", "full", *(f"v{k}" for k in range(30))], tmp_path / "parts")
    done: list[Outcome] = []
    with pytest.raises(NoSpaceError, match="no space left for it"):
        done.extend(run_local(work, RAW, 2))
    assert multiprocessing.active_children() == []
    # Little is begun that nobody will wait for.
    assert len(list(tmp_path.glob("parts/*"))) < 20


def test_a_place_that_cannot_be_written_ends_the_run(video: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("a file")
    with pytest.raises(OutputError, match="parts"):
        list(run_local(jobs(video, ["a"], tmp_path / "parts"), RAW, 1))


@pytest.mark.usefixtures("faulty")
def test_closing_an_engine_stops_its_workers(video: Path, tmp_path: Path) -> None:
    work = jobs(video, ["a", "slow 1", "slow 2"], tmp_path / "parts")
    with closing(run_local(work, RAW, 2)) as outcomes:  # type: ignore[type-var]
        assert next(outcomes).failure is None
    assert multiprocessing.active_children() == []


PARENT = """
import sys, time
from pathlib import Path
import faulty_ingest
from soundsight.data.prepare import engines
from soundsight.data.prepare.clean import CleanConfig
from soundsight.data.prepare.ingest import IngestConfig
from soundsight.data.records import Clip

def main():
    engines.ingest = faulty_ingest.ingest
    place = Path(sys.argv[1])
    work = [
        engines.Job(clip=Clip(path=sys.argv[2], key=name, group=name), part=place / name)
        for name in ("a", "hang")
    ]
    config = IngestConfig(clean=CleanConfig(steps=()), duplicates=False)
    for outcome in engines.run_local(work, config, 1):
        children = Path("/proc/self/task").glob("*/children")
        print(*(word for file in children for word in file.read_text().split()), flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="asks the system for children")
def test_no_worker_outlives_a_parent_that_was_killed(video: Path, tmp_path: Path) -> None:
    (tmp_path / "faulty_ingest.py").write_text(FAULTY)
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "parts"), str(video)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    assert parent.stderr is not None
    children = parent.stdout.readline().split()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    parent.stderr.close()
    assert children
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and any(os.path.exists(f"/proc/{c}") for c in children):
        time.sleep(0.05)
    left = [child for child in children if os.path.exists(f"/proc/{child}")]
    for child in left:
        os.kill(int(child), signal.SIGKILL)
    assert left == []
