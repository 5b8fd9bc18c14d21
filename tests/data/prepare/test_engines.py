"""The processes on this machine: every clip done once, and one that kills its own costs itself."""

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
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from recipes import synth
from soundsight.core.errors import DataError
from soundsight.data.prepare import engines
from soundsight.data.prepare.clean import CleanConfig
from soundsight.data.prepare.engines import Job, run_local
from soundsight.data.prepare.ingest import IngestConfig
from soundsight.data.prepare.staging import NoSpaceError, Part
from soundsight.data.records import Clip

RAW = IngestConfig(clean=CleanConfig(steps=()), duplicates=False)

FAULTY = '''
"""Does what the clip's name says."""
import os, signal, time
from soundsight.data.prepare.ingest import ingest as real
from soundsight.data.prepare.staging import NoSpaceError
from soundsight.data.store.shards import write_shard

def once(name):
    """Whether it is the first time that a process asks."""
    try:
        os.close(os.open(os.path.join(os.path.dirname(__file__), name), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)
    yield

def ingest(clip, config, part):
    if "killed always" in clip.key or ("killed" in clip.key and once(clip.key)):
        os.kill(os.getpid(), signal.SIGKILL)
    if "segfault" in clip.key:
        write_shard(part, crash())
    if "exit" in clip.key:
        os._exit(3)
    if "hang" in clip.key or "slow" in clip.key:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
    """Processes do what the names of the clips say."""
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
    return [(clip, folder / f"{clip.key}.tar") for clip in clips]


def test_every_clip_is_done_once_and_the_environment_stays(video: Path, tmp_path: Path) -> None:
    work = jobs(video, [f"v{k}" for k in range(6)], tmp_path)
    before = dict(os.environ)
    assert sorted(clip.key for clip in run_local(work, RAW, 3)) == [clip.key for clip, _ in work]
    assert all(len(Part(part).kept) == 1 for _, part in work)
    assert dict(os.environ) == before
    assert multiprocessing.active_children() == []
    assert list(run_local([], RAW, 1)) == []


@pytest.mark.usefixtures("faulty")
def test_a_clip_that_crashes_hangs_or_is_killed_costs_only_itself(
    video: Path, tmp_path: Path
) -> None:
    """A system that is short of memory kills any process: such a clip is done once more."""
    names = ["a", "segfault", "exit", "hang", "killed", "killed always", "b"]
    work = jobs(video, names, tmp_path / "parts")
    found = list(run_local(work, RAW, 3, timeout_s=8.0))
    assert sorted(clip.key for clip in found) == sorted(names)
    parts = {clip.key: Part(path) for clip, path in work}
    failures = {name: part.about.get("failure") for name, part in parts.items()}
    assert {name for name, failure in failures.items() if failure is None} == {"a", "b", "killed"}
    for name in ("segfault", "exit"):
        assert failures[name] == "makes the decoder crash: repair or remove it"
    assert str(failures["hang"]).startswith("takes longer than 8 s")
    assert str(failures["killed always"]).startswith("had its worker killed twice")
    for name, part in parts.items():
        assert len(part.entries) == (failures[name] is None)


def test_processes_that_cannot_be_started_are_one_line(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    before = dict(os.environ)
    for of, name in ((ForkServerProcess, "start"), (ForkServerContext, "Pipe")):
        monkeypatch.setattr(of, name, refused)
        with pytest.raises(
            DataError, match=r"Resource temporarily unavailable.*the same command again"
        ) as error:
            list(run_local(jobs(video, ["a"], tmp_path), RAW, 1))
        assert "\n" not in str(error.value)
    assert dict(os.environ) == before


@pytest.mark.usefixtures("faulty")
def test_a_full_disk_ends_the_run_and_closing_an_engine_stops_its_processes(
    video: Path, tmp_path: Path
) -> None:
    work = jobs(video, ["a", "full", "slow", *(f"v{k}" for k in range(9))], tmp_path / "parts")
    with pytest.raises(NoSpaceError, match="no space left for it"):
        list(run_local(work, RAW, 2))
    assert multiprocessing.active_children() == []
    # Little is begun that nobody will wait for.
    assert len(list(tmp_path.glob("parts/*.tar"))) < 6
    with closing(run_local(work[:1] + work[2:3], RAW, 2)) as outcomes:  # type: ignore[type-var]
        assert next(outcomes).key == "a"
    assert multiprocessing.active_children() == []


PARENT = """
import sys
from pathlib import Path
import faulty_ingest
from soundsight.data.prepare import engines
from soundsight.data.prepare.clean import CleanConfig
from soundsight.data.prepare.ingest import IngestConfig
from soundsight.data.records import Clip

def children(pid):
    found = [int(word) for file in Path(f"/proc/{pid}/task").glob("*/children")
             for word in file.read_text().split()]
    return found + [other for child in found for other in children(child)]

if __name__ == "__main__":
    engines.ingest = faulty_ingest.ingest
    place = Path(sys.argv[1])
    work = [
        (Clip(path=sys.argv[2], key=name, group=name), place / f"{name}.tar")
        for name in ("a", "hang")
    ]
    config = IngestConfig(clean=CleanConfig(steps=()), duplicates=False)
    for outcome in engines.run_local(work, config, 2):
        print(*children("self"), flush=True)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="asks the system for children")
def test_no_process_outlives_a_parent_that_was_killed(video: Path, tmp_path: Path) -> None:
    (tmp_path / "faulty_ingest.py").write_text(FAULTY)
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "parts"), str(video)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    children = parent.stdout.readline().split()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    # The tracker, the server and the process that hangs.
    assert len(children) >= 3
    deadline = time.monotonic() + 120
    left = children
    while time.monotonic() < deadline and left:
        left = [child for child in left if os.path.exists(f"/proc/{child}")]
        time.sleep(0.05)
    for child in left:
        os.kill(int(child), signal.SIGKILL)
    assert left == []
