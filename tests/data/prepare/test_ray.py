"""The Ray engine on a real cluster of two nodes, one of which is killed in the middle."""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from recipes import synth

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed"),
]

VIDEOS = 40
PROGRAM = "from soundsight.cli.main import main; main()"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy videos, one that is none, and one without sound."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(VIDEOS):
        subject = synth.SUBJECTS[number % 5]
        synth.write_video(folder / f"v{number:03d}.mp4", subject, 2.0, number, fps=5, size_px=64)
    (folder / "text.mp4").write_text("this is no video")
    return folder


class Cluster:
    """A Ray cluster whose nodes are processes of this machine."""

    def __init__(self, folder: Path) -> None:
        self.env = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        # Sockets live below: the path must be short.
        self._folder = folder
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._start("--head", "--port", str(port), "--include-dashboard", "false",
                    "--temp-dir", str(folder))  # fmt: skip
        self._start("--address", self.address)

    def _start(self, *options: str) -> None:
        program = "from ray.scripts.scripts import main; main()"
        command = [
            sys.executable, "-c", program, "start", "--block", "--num-cpus", "1",
            "--object-store-memory", "80000000", "--disable-usage-stats", *options,
        ]  # fmt: skip
        log = (self._folder / f"node{len(self._nodes)}.log").open("wb")
        with log:
            # A group of its own: all of a node's processes can be killed at once.
            node = subprocess.Popen(
                command, env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        self._nodes.append(node)

    def nodes(self) -> int:
        """How many nodes are alive, by the cluster's own word."""
        program = (
            f"import ray; ray.init(address={self.address!r}, log_to_driver=False, "
            "logging_level='ERROR'); print('alive:', sum(n['Alive'] for n in ray.nodes()))"
        )
        asked = subprocess.run(
            [sys.executable, "-c", program], env=self.env, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        # Ray may print messages of its own after it.
        alive = re.search(r"^alive: (\d+)$", asked.stdout, re.MULTILINE)
        return int(alive[1]) if alive and asked.returncode == 0 else 0

    def reaches(self, nodes: int, within_s: float) -> bool:
        ends = time.monotonic() + within_s
        while self.nodes() != nodes and time.monotonic() < ends:
            time.sleep(1)
        return self.nodes() == nodes

    def kill(self, number: int) -> None:
        """Kill a node with all its processes, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._nodes[number].pid, signal.SIGKILL)
        self._nodes[number].wait()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        made = Cluster(Path(folder))
        try:
            assert made.reaches(2, 90), (Path(folder) / "node1.log").read_text()
            yield made
        finally:
            made.kill(1)
            made.kill(0)


def prepare(
    videos: Path, data: Path, *options: str, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, "prepare", str(videos), "-o", str(data)]
    return subprocess.Popen(
        [*command, "--clean", "none", *options], env=env, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_same_bytes_as_here_though_a_node_dies(
    videos: Path, cluster: Cluster, tmp_path: Path
) -> None:
    here = prepare(videos, tmp_path / "here", "--workers", "1")
    said, _ = here.communicate(timeout=200)
    assert here.returncode == 0, said
    options = ("--engine", "ray", "--address", cluster.address)
    there = prepare(videos, tmp_path / "there", *options, env=cluster.env)
    parts = tmp_path / "there" / ".work" / "parts"
    ends = time.monotonic() + 150
    while there.poll() is None and time.monotonic() < ends:
        done = sum(1 for _ in parts.glob("*/[0-9a-f]*.tar")) if parts.is_dir() else 0
        if done >= 4:
            break
        time.sleep(0.05)
    assert there.poll() is None, there.communicate()[0]
    assert done < VIDEOS
    cluster.kill(1)
    said, _ = there.communicate(timeout=250)
    assert there.returncode == 0, said
    # The cluster takes its time to notice.
    assert cluster.reaches(1, 60)
    names = sorted(p.name for p in (tmp_path / "here").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "there").iterdir())
    assert "text.mp4" in (tmp_path / "there" / "failures.csv").read_text()
    for name in names:
        assert filecmp.cmp(tmp_path / "here" / name, tmp_path / "there" / name, shallow=False), name


def test_a_cluster_that_is_not_there(videos: Path, tmp_path: Path) -> None:
    run = prepare(videos, tmp_path / "data", "--engine", "ray", "--address", "127.0.0.1:1")
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 2
    assert "Traceback" not in said
    assert "cannot reach the Ray cluster at 127.0.0.1:1" in said.splitlines()[-1]
