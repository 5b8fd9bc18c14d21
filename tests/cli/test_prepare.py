"""``soundsight prepare``: it can be resumed, byte for byte, and a mistake is one clear line."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from recipes import synth
from soundsight.cli.main import build_app
from soundsight.data.prepare import engines
from soundsight.data.prepare.engines import Job
from soundsight.data.prepare.ingest import IngestConfig
from soundsight.data.prepare.ingest import ingest as real_ingest
from soundsight.data.prepare.staging import Stage
from soundsight.data.records import Clip
from soundsight.data.store.shards import open_dataset
from soundsight.data.store.verify import verify

COMMAND = [sys.executable, "-m", "soundsight", "prepare"]
RAW = ["--clean", "none"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven toy videos in two folders, 16 pairs together."""
    folder = tmp_path_factory.mktemp("prepare") / "videos"
    for k, subject in enumerate([*synth.SUBJECTS, "dog", "water"]):
        name = f"{'ab'[k % 2]}/{subject}_{k}.mp4"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        synth.write_video(folder / name, subject, 2 + (k % 3) / 2, k, fps=5, size_px=64)
    return folder


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Clips are cut in this process; the names of those that are."""
    names: list[str] = []

    def inline(
        jobs: Sequence[Job], config: IngestConfig, workers: int, timeout_s: float
    ) -> Iterator[Clip]:
        assert workers >= 1
        assert timeout_s > 0
        for job in jobs:
            clip, part = job
            names.append(clip.key)
            real_ingest(clip, config, part)
            yield clip

    monkeypatch.setattr(engines, "run_local", inline)
    return names


@pytest.fixture
def source(videos: Path, tmp_path: Path) -> Path:
    """Four of the toy videos, which a test may change."""
    return Path(shutil.copytree(videos / "a", tmp_path / "src"))


@pytest.fixture
def broken(source: Path) -> Path:
    """The same with a file that is no video."""
    (source / "broken.mp4").write_text("no video")
    return source


def same_as_fresh(data: Path, source: Path, *options: object) -> bool:
    """Whether a dataset is what one run of the command makes of the source."""
    fresh = data.with_name("fresh")
    run(source, "-o", fresh, *RAW, *options)
    return contents(data) == contents(fresh)


def run(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(build_app(), ["prepare", *map(os.fspath, map(str, args))])
    assert result.exit_code == code, result.output
    # Typer's own end of a command; anything else would be a traceback.
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if code:
        assert len(result.stderr.splitlines()) <= 3
    return result.output


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "dataset.json").read_text("utf-8"))
    return found


def failures(folder: Path) -> dict[str, str]:
    with (folder / "failures.csv").open(
        encoding="utf-8", errors="surrogateescape", newline=""
    ) as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "reason"]
    return dict(rows[1:])


def sidecars(folder: Path) -> list[dict[str, Any]]:
    data = open_dataset(folder)
    return [
        json.loads(record.files["json"]) for split in data.splits for record in data.records(split)
    ]


@pytest.fixture(scope="module")
def prepared(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the toy videos as the real command makes it, with three workers."""
    data = tmp_path_factory.mktemp("prepared") / "data"
    subprocess.run(
        [*COMMAND, str(videos), "-o", str(data), *RAW, "--workers", "3"],
        check=True, capture_output=True,
    )  # fmt: skip
    return data


# --- what comes out ------------------------------------------------------------------------------


def test_a_dataset_is_whole_and_says_nothing_of_the_machine(prepared: Path, videos: Path) -> None:
    assert list(verify(prepared)) == []
    sums = (prepared / "SHA256SUMS").read_text().splitlines()
    files = contents(prepared)
    assert {line[66:]: line[:64] for line in sums} == {
        name: hashlib.sha256(data).hexdigest()
        for name, data in files.items()
        if name != "SHA256SUMS"
    }
    assert not any(name.startswith(".") for name in os.listdir(prepared))
    told = about(prepared)
    assert told["counts"]["clips"] == 7
    assert told["counts"]["pairs_cut"] == told["counts"]["pairs"] == len(sidecars(prepared)) == 16
    # Of two videos of 2.5 s the last half second is heard, and shows nothing in its middle.
    assert told["counts"]["sound_without_picture"] == 2
    assert failures(prepared) == {}
    for name, data in files.items():
        assert str(videos.parent).encode() not in data, name
        assert str(prepared).encode() not in data, name
    assert {row["clip"] for row in sidecars(prepared)} == {
        path.relative_to(videos).as_posix() for path in videos.rglob("*.mp4")
    }


def test_one_worker_another_place_another_spelling_the_same_bytes(
    prepared: Path, videos: Path, tmp_path: Path
) -> None:
    data = tmp_path / "other"
    subprocess.run(
        [*COMMAND, f"./a/../../{videos.name}/", "-o", str(data), *RAW, "--workers", "1"],
        check=True, capture_output=True, cwd=videos,
    )  # fmt: skip
    assert contents(data) == contents(prepared)


def test_finished_already_means_nothing_is_touched(
    prepared: Path, videos: Path, cut: list[str], tmp_path: Path
) -> None:
    data = Path(shutil.copytree(prepared, tmp_path / "data"))
    before = {path: path.stat().st_mtime_ns for path in [data, *data.rglob("*")]}
    output = run(videos, "-o", data, *RAW)
    assert f"finished already: {data}" in output
    assert {path: path.stat().st_mtime_ns for path in [data, *data.rglob("*")]} == before
    assert cut == []


@pytest.mark.usefixtures("cut")
def test_options_reach_the_pairs(videos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    run(videos / "a", "-o", data, *RAW, "--segment-s", 2, "--hop-s", 0.5, "--size", 64,
        "--image", "webp", "--crop", "letterbox", "--frame", "sharpest", "--quality", 80,
        "--split", "0,0,1", "--shard-mb", 1)  # fmt: skip
    told = about(data)
    assert (told["mel_frames"], told["image_px"]) == (200, 64)
    assert told["files"] == ["json", "mel.png", "webp"]
    assert told["splits"]["train"]["pairs"] == told["splits"]["val"]["pairs"] == 0
    settings = told["settings"]
    for name, value in {
        "hop_s": 0.5,
        "crop": "letterbox",
        "frame": "sharpest",
        "quality": 80,
    }.items():
        assert settings[name] == value
    folder = open_dataset(data)
    record = next(iter(folder.records("test")))
    mel, image = folder.decode(record)
    assert image is not None
    assert (mel.shape, image.shape) == ((128, 200), (64, 64, 3))
    starts: dict[str, list[float]] = {}
    for row in sidecars(data):
        starts.setdefault(row["clip"], []).append(row["start_s"])
    assert sorted(map(sorted, starts.values())) == [[0.0], [0.0], [0.0, 0.5], [0.0, 0.5, 1.0]]


@pytest.mark.usefixtures("cut")
def test_every_step_can_be_switched_and_is_counted(videos: Path, tmp_path: Path) -> None:
    from soundsight.data.prepare.clean import STEPS

    run(videos, "-o", tmp_path / "all")
    steps = [row["step"] for row in about(tmp_path / "all")["counts"]["cleaning"]]
    assert steps[: len(STEPS)] == list(STEPS)
    assert steps[len(STEPS) :] == ["duplicates"]
    for step in ("silence", "text"):
        run(videos / "a", "-o", tmp_path / step, "--clean", step)
        (row,) = about(tmp_path / step)["counts"]["cleaning"]
        assert (row["step"], row["before"]) == (step, 9)
    run(videos / "a", "-o", tmp_path / "two", "--clean", "duplicates, silence")
    rows = about(tmp_path / "two")["counts"]["cleaning"]
    assert [row["step"] for row in rows] == ["silence", "duplicates"]


@pytest.mark.usefixtures("cut")
def test_twins_are_dropped_and_shown(source: Path, tmp_path: Path) -> None:
    for path in sorted(source.glob("*.mp4"))[:2]:
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    data = tmp_path / "data"
    output = run(source, "-o", data, "--clean", "duplicates")
    (row,) = about(data)["counts"]["cleaning"]
    assert row["dropped"] > 0
    assert f"duplicates: {row['before']} -> {row['after']} (-{row['dropped']})" in output
    with Image.open(data / "dropped" / "duplicates.png") as sheet:
        assert sheet.width > 300
        assert np.asarray(sheet).std() > 5
    assert "dropped/duplicates.png" in (data / "SHA256SUMS").read_text()


def test_dry_run_says_what_there_is_and_writes_nothing(
    videos: Path, tmp_path: Path, cut: list[str]
) -> None:
    told = json.loads(run(videos, "-o", tmp_path / "data", "--dry-run"))
    assert told["inputs"]["clips"] == 7
    assert told["settings"]["size_px"] == 96
    assert cut == []
    assert list(tmp_path.iterdir()) == []


# --- going on ------------------------------------------------------------------------------------


HARNESS = '''
"""Kills a run before its n-th touch of the disk, for every n, and lets the command go on."""
import json, os, shutil, signal, sys
from pathlib import Path
from soundsight.cli.main import build_app
from soundsight.data.prepare import engines
from soundsight.data.prepare.ingest import ingest

source, root, mode = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
BEFORE = ["--clean", "none", "--size", "64", "--split", "0,1"]
AFTER = ["--clean", "none", "--size", "64", "--split", "1,0", "--shard-mb", "1"]
state = {"armed": False, "count": 0, "stop": 0, "log": os.open(os.devnull, os.O_WRONLY)}

def touched(event, args):
    if not state["armed"] or event not in WATCHED:
        return
    if event == "open" and not str(args[0]).startswith(str(root)):
        return
    state["count"] += 1
    if state["count"] == state["stop"]:
        os.kill(os.getpid(), signal.SIGKILL)

WATCHED = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}
sys.addaudithook(touched)

def go(data, options, stop=0):
    """Run the command in a process of its own: (status, clips cut, touches of the disk)."""
    reads, writes = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reads)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        state["log"] = writes
        code = 3
        state.update(armed=True, stop=stop)
        try:
            build_app()(["prepare", source, "-o", str(data), *options])
        except SystemExit as end:
            code = end.code
        state["armed"] = False
        os.write(writes, f"#{state['count']}\\n".encode())
        os._exit(code)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        lines = pipe.read().split()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = [int(line[1:]) for line in lines if line[0] == "#"]
    return status, [line for line in lines if line[0] != "#"], count[0] if count else None

def inline(jobs, config, workers, timeout_s):
    for clip, part in jobs:
        ingest(clip, config, part)
        os.write(state["log"], f"{clip.id}\\n".encode())
        yield clip

def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*") if path.is_file() and ".work" not in path.parts
    }

engines.run_local = inline
# Whatever is imported late is here before the first fork.
build_app()(["prepare", source, "-o", str(root / "warm"), *AFTER], standalone_mode=False)

problems = []
def check(good, *what):
    if not good:
        problems.append(repr(what))

options = [*AFTER, "--overwrite"] if mode == "overwrite" else AFTER
if mode == "overwrite":
    check(go(root / "old", BEFORE)[0] == 0, "old")
    old = contents(root / "old")
    check(len(old) > 4, "old", sorted(old))
start = root / "start"
if mode == "overwrite":
    shutil.copytree(root / "old", start)
status, clips, total = go(start, options)
check(status == 0, "fresh", status)
expected = contents(start)
stride = int(sys.argv[4])
for stop in range(1, total, stride):
    data = root / f"data{stop}"
    if mode == "overwrite":
        shutil.copytree(root / "old", data)
    status, _, _ = go(data, options, stop)
    check(status == -signal.SIGKILL, stop, "not killed", status)
    whole = (data / "dataset.json").is_file()
    done = {path.stem for path in data.glob(".work/parts/*/[0-9a-f]*.tar")}
    if whole:
        now = contents(data)
        check(now == expected or (mode == "overwrite" and now == old), stop, "a torn dataset")
        finished = now == expected
    else:
        finished = False
        packed = (data / ".work" / "out" / "dataset.json").is_file()
        done |= set(clips) if packed else set()
    status, again, _ = go(data, options if not finished else AFTER)
    check(status == 0, stop, "went on with", status)
    check(not set(again) & done, stop, "done twice", again)
    check(not (finished and again), stop, "finished, and done again", again)
    after = contents(data)
    check(after == expected, stop, "other bytes", sorted(set(after) ^ set(expected)))
    check(not (data / ".work").exists(), stop, "a workplace is left")
    shutil.rmtree(data)
print(json.dumps({"total": total, "problems": problems}))
'''


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "stride"), [("new", 4), ("overwrite", 5)])
def test_killed_before_any_touch_of_the_disk_it_goes_on_to_the_same_bytes(
    mode: str, stride: int, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for k in range(2):
        synth.write_video(source / f"v{k}.mp4", "dog", 1.0, k, fps=5, size_px=64)
    (source / "broken.mp4").write_text("no video")
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, str(source), str(tmp_path / "work"), mode, str(stride)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["problems"] == []
    assert told["total"] > 40


def start(*args: object, **options: Any) -> subprocess.Popen[str]:
    """Start the real command in a process group of its own."""
    return subprocess.Popen(
        [*COMMAND, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, **options,
    )  # fmt: skip


def parts(data: Path) -> dict[str, tuple[int, int]]:
    """What tells one writing of a part from another."""
    found = {}
    for path in data.glob(".work/parts/*/[0-9a-f]*.tar"):
        status = path.stat()
        found[path.stem] = (status.st_ino, status.st_mtime_ns)
    return found


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_the_real_command_killed_with_all_its_workers(
    videos: Path, prepared: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    before: dict[str, tuple[int, int]] = {}
    for count in (1, 4):
        process = start(videos, "-o", data, *RAW, "--workers", 2)
        wait_for(functools.partial(begun, data, count), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = parts(data)
        assert {name: now[name] for name in before} == before
        assert len(now) > len(before)
        before = now
    process = start(videos, "-o", data, *RAW, "--workers", 2)
    seen = dict(before)

    def packing() -> bool:
        seen.update(parts(data))
        return (data / ".work" / "out").exists() or (data / "dataset.json").exists()

    wait_for(packing, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert {name: seen[name] for name in before} == before
    process = start(videos, "-o", data, *RAW)
    _, told = process.communicate()
    assert process.returncode == 0, told
    assert contents(data) == contents(prepared)
    assert not (data / ".work").exists()


def begun(data: Path, count: int) -> bool:
    """Whether a run is at work and so many parts are there."""
    return (data / ".work" / "plan.json").exists() and len(parts(data)) >= count


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_130(videos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for count in (0, 2):
        process = start(videos, "-o", data, *RAW, "--workers", 2)
        # First while workers are being started, then while they work.
        wait_for(functools.partial(begun, data, count), process)
        os.killpg(process.pid, signal.SIGINT)
        out, told = process.communicate(timeout=120)
        # Where the signal met Python within exec(), as at an import, Python in the end dies of it,
        # whatever has become of it meanwhile; shells call both 130.
        assert process.returncode in (130, -signal.SIGINT), told
        assert out == ""
        lines = told.splitlines()
        assert lines[-1].startswith("interrupted")
        assert count == 0 or "of 7 videos are done; the same command goes on" in lines[-1]
        assert all(line.startswith(("found: ", "taken over ")) for line in lines[:-1])


@pytest.mark.usefixtures("cut")
def test_two_runs_on_one_output(videos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Stage(data, {}):
        output = run(videos, "-o", data, *RAW, code=2)
    assert f"error: another preparation is writing to {data}" in output


def test_only_what_is_missing_or_changed_is_cut(
    broken: Path, tmp_path: Path, cut: list[str]
) -> None:
    data = tmp_path / "data"
    run(broken, "-o", data, *RAW, "--max-failures", 0, code=2)
    assert cut == ["baby_0.mp4", "broken.mp4"]
    # A part that is damaged is made again: that of the one that failed is tried once more.
    for part in data.glob(".work/parts/*/[0-9a-f]*.tar"):
        os.truncate(part, 100)
    run(broken, "-o", data, *RAW, "--max-failures", 0, code=2)
    assert cut == ["baby_0.mp4", "broken.mp4"] * 2
    cut.clear()
    shutil.copy(broken / "water_6.mp4", broken / "baby_0.mp4")
    run(broken, "-o", data, *RAW)
    # What failed before is not tried again, and what was replaced is.
    assert cut == ["baby_0.mp4", "train_2.mp4", "water_4.mp4", "water_6.mp4"]
    assert same_as_fresh(data, broken)


def test_a_file_replaced_after_its_shard_was_written(
    source: Path, tmp_path: Path, cut: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many pairs, the same names, and a shard that looks finished."""
    data = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "move_into_place", lambda _: 1 / 0)
        patch.setattr("soundsight.data.prepare.pack.write_dataset", lambda *_: None)
        assert CliRunner().invoke(
            build_app(), ["prepare", str(source), "-o", str(data), *RAW]
        ).exception  # fmt: skip
    assert list((data / ".work" / "shards").iterdir())
    cut.clear()
    first, *_ = sorted(source.glob("*.mp4"))
    other = synth.write_video(tmp_path / "o.mp4", "water", 2.0, 77, fps=5, size_px=64)
    shutil.copy(other, first)
    run(source, "-o", data, *RAW)
    assert cut == [first.name]
    assert same_as_fresh(data, source)


def test_a_label_corrected_in_a_manifest_reaches_the_pairs(
    videos: Path, tmp_path: Path, cut: list[str]
) -> None:
    table = tmp_path / "table.csv"
    data = tmp_path / "data"
    names = sorted((videos / "a").glob("*.mp4"))
    rows = [f"{path},dogg" for path in names]
    table.write_text("\n".join(["path,label", *rows, f"{tmp_path}/none.mp4,dog"]))
    run(table, "-o", data, *RAW, "--max-failures", 0, code=2)
    table.write_text("\n".join(["path,label", *rows]).replace("dogg", "dog"))
    run(table, "-o", data, *RAW)
    assert about(data)["labels"] == ["dog"]
    assert {row["label"] for row in sidecars(data)} == {"dog"}
    cut.clear()
    # Of a finished dataset it says that it is another one.
    table.write_text("\n".join(["path,label", *rows]))
    assert "other videos or settings" in run(table, "-o", data, *RAW, code=2)
    assert cut == []


# --- a disk that fills up ------------------------------------------------------------------------


def limit_files(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
@pytest.mark.parametrize("size", [8_000, 60_000], ids=["in a worker", "in a shard"])
def test_a_disk_that_fills_up_stops_cleanly(
    size: int, videos: Path, prepared: Path, tmp_path: Path
) -> None:
    """The system itself refuses to let any file grow: in a part, or in a shard."""
    data = tmp_path / "data"
    command = [*COMMAND, str(videos), "-o", str(data), *RAW, "--workers", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=limit_files(size),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    *rest, last = done.stderr.splitlines()
    assert last.startswith("error: no space left for ")
    assert last.endswith("run the same command again, what is done is kept")
    assert all(line.startswith("found: ") for line in rest)
    assert not (data / "dataset.json").exists()
    kept = parts(data)
    assert (len(kept) == 7) == (size == 60_000)
    subprocess.run(command, check=True, capture_output=True)
    assert contents(data) == contents(prepared)


# --- outputs -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("cut")
def test_an_output_inside_the_source_is_not_input(videos: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(videos, tmp_path / "src"))
    data = source / "deep" / "data"
    run(source, "-o", data, *RAW)
    assert about(data)["counts"]["clips"] == 7
    shutil.copy(next(iter(source.rglob("*.mp4"))), data / "mine.mp4")
    assert "finished already" in run(source, "-o", data, *RAW)
    output = run(source / "a", "-o", source / "a", *RAW, code=2)
    assert "output folder" in output


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link", "other dataset.json"])
def test_an_output_that_holds_something_else_is_kept(
    kind: str, videos: Path, tmp_path: Path, cut: list[str]
) -> None:
    data = tmp_path / "data"
    if kind == "file":
        data.write_text("mine")
    elif kind == "dangling link":
        data.symlink_to(tmp_path / "nowhere")
    else:
        data.mkdir()
        (data / "thesis.txt").write_text("mine")
        if kind == "other dataset.json":
            (data / "dataset.json").write_text('{"format": "of others"}')
    before = contents(data) if data.is_dir() else None
    for extra in ([], ["--overwrite"]):
        output = run(videos, "-o", data, *RAW, *extra, code=2)
        assert output.count("error: ") == 1
        assert "holds something else" in output or "no folder" in output
    if before is not None:
        assert contents(data) == before
    assert cut == []


def test_another_dataset_is_replaced_only_when_asked_and_only_when_the_new_one_is_finished(
    videos: Path,
    broken: Path,
    prepared: Path,
    tmp_path: Path,
    cut: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = Path(shutil.copytree(prepared, tmp_path / "data"))
    before = contents(data)
    assert "--overwrite" in run(videos, "-o", data, *RAW, "--size", 64, code=2)
    assert cut == []
    over = ["-o", data, *RAW, "--size", 64, "--overwrite"]
    output = run(broken, *over, "--max-failures", 0, code=2)
    left = data / ".work" / "failures.csv"
    assert f"see {left}" in output
    assert "broken.mp4" in left.read_text()
    with monkeypatch.context() as patch:
        patch.setattr("soundsight.data.prepare.pack.write_shard", lambda *_: 1 / 0)
        result = CliRunner().invoke(build_app(), ["prepare", str(broken), *map(str, over)])
        assert isinstance(result.exception, ZeroDivisionError)
    assert {k: v for k, v in contents(data).items() if not k.startswith(".work")} == before
    assert list(verify(data)) == []
    run(broken, *over)
    assert same_as_fresh(data, broken, "--size", 64)


@pytest.mark.usefixtures("cut")
def test_unfinished_work_with_other_settings_is_refused(broken: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    run(broken, "-o", data, *RAW, "--max-failures", 0, code=2)
    output = run(broken, "-o", data, *RAW, "--size", 64, code=2)
    assert "(size_px)" in output
    run(broken, "-o", data, *RAW, "--size", 64, "--overwrite")
    assert about(data)["image_px"] == 64


def test_few_videos_fill_as_many_splits_as_they_can(
    videos: Path, tmp_path: Path, cut: list[str]
) -> None:
    names = sorted(videos.rglob("*.mp4"))
    said = run(*names[:3], "-o", tmp_path / "three", *RAW)
    assert [part["videos"] for part in about(tmp_path / "three")["splits"].values()] == [1, 1, 1]
    assert "warning" not in said
    said = run(*names[:2], "-o", tmp_path / "two", *RAW)
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert warning.endswith(
        ": 2 videos cannot fill 3 splits: add videos, or ask for fewer with --split"
    )
    assert len(cut) == 5


# --- failures ------------------------------------------------------------------------------------


def test_how_pairs_are_packed_may_change_without_cutting_again(
    videos: Path, tmp_path: Path, cut: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A split, a shard's size or a learned step that is changed costs no video."""
    data = tmp_path / "data"
    moved = Stage.move_into_place

    def stop(_: Stage) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "move_into_place", stop)
    run(videos, "-o", data, *RAW, "--split", "1,0,0", code=130)
    assert cut
    cut.clear()
    monkeypatch.setattr(Stage, "move_into_place", moved)
    run(videos, "-o", data, *RAW, "--split", "0,1,0")
    assert not cut
    run(videos, "-o", tmp_path / "fresh", *RAW, "--split", "0,1,0")
    assert contents(data) == contents(tmp_path / "fresh")


def test_coherence_that_learns_nothing_drops_nothing(
    videos: Path, tmp_path: Path, cut: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from soundsight.training import coherence

    def scores(mean: float) -> Callable[..., np.ndarray]:
        return lambda pairs, **_: mean + np.linspace(-1, 1, len(pairs), dtype=np.float32)

    monkeypatch.setattr(coherence, "contrastive_scores", scores(-0.5))
    said = run(videos, "-o", tmp_path / "none", "--clean", "coherence")
    assert "nothing could be learned from 16 pairs" in said
    step = {"step": "coherence", "before": 16, "dropped": 0, "after": 16}
    assert about(tmp_path / "none")["counts"]["cleaning"] == [step]
    monkeypatch.setattr(coherence, "contrastive_scores", scores(0.5))
    run(videos, "-o", tmp_path / "some", "--clean", "coherence", "--drop-share", "0.25")
    assert about(tmp_path / "some")["counts"]["cleaning"][0]["dropped"] == 4
    assert (tmp_path / "some" / "dropped" / "coherence.png").is_file()
    assert len(cut) == 14


def test_plain_copies_are_found_however_little_there_is_in_them(
    tmp_path: Path, cut: list[str]
) -> None:
    """A second of near silence leaves no print, and yet its copy is the same file."""
    source = tmp_path / "videos"
    source.mkdir()
    video = synth.write_video(source / "a.mp4", "dog", 1.0, 0, fps=5, size_px=64)
    for name in ("b.mp4", "c.mp4"):
        shutil.copy(video, source / name)
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        f"path,split\n{source}/a.mp4,train\n{source}/b.mp4,test\n{source}/c.mp4,train\n"
    )
    data = tmp_path / "data"
    run(manifest, "-o", data, "--clean", "duplicates")
    assert len(cut) == 3
    assert [row["clip"] for row in sidecars(data)] == ["videos/b.mp4"]
    assert about(data)["splits"]["test"]["pairs"] == 1


def test_a_part_without_its_middle_makes_no_pair(tmp_path: Path, cut: list[str]) -> None:
    synth.write_video(tmp_path / "a.mp4", "baby", 3.0, 0, fps=10, size_px=64)
    manifest = tmp_path / "parts.csv"
    manifest.write_text("path,start_s,end_s\na.mp4,1,1.2\na.mp4,1,1.7\n")
    data = tmp_path / "data"
    run(manifest, "-o", data, *RAW)
    assert len(cut) == 2
    (row,) = sidecars(data)
    assert row["clip"] == "a.mp4#1-1.7"
    assert row["frame_s"] == pytest.approx(1.5, abs=0.11)
    assert "nothing at the middle of any segment" in failures(data)["a.mp4#1-1.2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "s3://bucket/data"), "is a URL"),
        (("-o", "data", "--address", "10.0.0.1:6379"), "--engine ray"),
        (("-o", "data", "--layout", "vggsond"), "published"),
        (("-o", "data", "--layout", "published", "--size", "64"), "only --shard-mb"),
        (("-o", "data", "--clean", "classifier"), "needs a class label"),
        (("-o", "data", "--clean", "coherence", "--segment-s", "0.1"), "--segment-s"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_cut(
    words: tuple[str, ...],
    said: str,
    videos: Path,
    tmp_path: Path,
    cut: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in run(videos, *words, code=2)
    assert not cut
    assert not os.listdir(tmp_path)


def test_a_list_of_local_urls_names_no_folder_of_the_machine(
    tmp_path: Path, cut: list[str]
) -> None:
    synth.write_video(tmp_path / "deep" / "a.mp4", "dog", 1.0, 0, fps=5, size_px=64)
    listing = tmp_path / "list.txt"
    listing.write_text(f"file://{tmp_path}/deep/a.mp4\n")
    run(listing, "-o", tmp_path / "data", *RAW)
    assert cut == ["deep/a.mp4"]


def test_failures_are_recorded_and_the_run_goes_on(
    source: Path, tmp_path: Path, cut: list[str]
) -> None:
    good = next(iter(sorted(source.glob("*.mp4"))))
    whole = good.read_bytes()
    bad = {
        "zero.mp4": b"",
        "text.mp4": b"a text\n" * 200,
        "cut short.mkv": whole[: len(whole) // 2],
        "encrypted.mp4": bytes(byte ^ 0xA7 for byte in whole),
        "picture.avi": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "two\nlines.mp4": b"x",
        "犬 🐕.mp4": b"x",
        "caf\udce9.mp4": b"x",
        "return\r.mp4": b"x",
    }
    for name, data in bad.items():
        with open(os.fspath(source / name), "wb") as file:  # noqa: PTH123
            file.write(data)
    (source / "notes.txt").write_text("not a video")
    (source / "loop").symlink_to(source)
    (source / "dangling.mp4").symlink_to(source / "nowhere")
    (source / "folder.mp4").mkdir()
    os.mkfifo(source / "pipe.mp4")
    good.rename(source / "spaces and 犬 🐕\n.mp4")
    data = tmp_path / "data"
    output = run(source, "-o", data, *RAW)
    found = failures(data)
    assert set(found) == {*bad, "dangling.mp4", "pipe.mp4"}
    for name, reason in found.items():
        assert reason, name
        assert reason.isprintable(), reason
        assert str(tmp_path) not in reason, reason
        assert "unexpected" not in reason, reason
    counts = about(data)["counts"]
    assert counts["clips"] == len(bad) + 6
    assert counts["failed"] == len(found)
    assert {row["clip"] for row in sidecars(data)} >= {"spaces and 犬 🐕\n.mp4"}
    assert f"{len(found)} failed: see" in output
    # The broken link and the pipe are never opened.
    assert len(cut) == counts["clips"] - 2
    assert list(verify(data)) == []


def test_what_can_be_read_of_a_damaged_video_is_used_and_counted(
    source: Path, tmp_path: Path, cut: list[str]
) -> None:
    path = synth.write_video(source / "damaged.mp4", "dog", 3.0, 0, fps=5, size_px=64)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
    data = bytearray(path.read_bytes())
    for packet in packets[5:]:
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    data_folder = tmp_path / "data"
    said = run(source, "-o", data_folder, *RAW)
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: 1 video ")]
    assert f"see {data_folder / 'damaged.csv'}" in warning
    assert about(data_folder)["counts"]["damaged"] == 1
    assert failures(data_folder) == {}
    rows = (data_folder / "damaged.csv").read_text().splitlines()
    assert rows[0] == "path,reason"
    assert rows[1].startswith("damaged.mp4,is damaged or cut short at ")
    starts = [row["start_s"] for row in sidecars(data_folder) if row["clip"] == "damaged.mp4"]
    assert starts == [0.0]
    assert list(verify(data_folder)) == []
    run(source, "-o", tmp_path / "strict", *RAW, "--strict")
    assert failures(tmp_path / "strict").keys() == {"damaged.mp4"}
    assert about(tmp_path / "strict")["counts"]["damaged"] == 0
    assert len(cut) == 10


def test_max_failures_stops_and_what_is_done_is_kept(
    source: Path, tmp_path: Path, cut: list[str]
) -> None:
    for name in ("0", "1", "2", "zzz"):
        (source / f"{name}.mp4").write_text("no video")
    data = tmp_path / "data"
    output = run(source, "-o", data, *RAW, "--max-failures", 2, code=2)
    assert "error: 3 videos have failed, more than --max-failures 2: see" in output
    assert set(failures(data)) == {"0.mp4", "1.mp4", "2.mp4"}
    assert cut == ["0.mp4", "1.mp4", "2.mp4"]
    run(source, "-o", data, *RAW, "--max-failures", 2, code=2)
    assert len(cut) == 3
    run(source, "-o", data, *RAW, "--max-failures", 4)
    assert len(cut) == len(set(cut)) == 8
    assert set(failures(data)) == {"0.mp4", "1.mp4", "2.mp4", "zzz.mp4"}


def test_failed_videos_are_tried_again_only_when_asked(
    source: Path, tmp_path: Path, cut: list[str]
) -> None:
    (source / "broken.mp4").write_text("no video")
    options = [source, "-o", tmp_path / "data", *RAW, "--max-failures", 0]
    run(*options, code=2)
    assert cut == ["baby_0.mp4", "broken.mp4"]
    run(*options, code=2)
    assert cut == ["baby_0.mp4", "broken.mp4"]
    run(*options, "--retry-failures", code=2)
    assert cut == ["baby_0.mp4", "broken.mp4", "broken.mp4"]
    (source / "broken.mp4").unlink()
    run(*options)
    assert cut[3:] == ["train_2.mp4", "water_4.mp4", "water_6.mp4"]
    output = run(*options, "--retry-failures")
    assert "finished already" in output


def test_when_nothing_is_left_it_says_so(tmp_path: Path, cut: list[str]) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.mp4").write_text("no video")
    data = tmp_path / "data"
    output = run(source, "-o", data, code=2)
    assert "error: no pair is left" in output
    assert set(failures(data)) == {"a.mp4"}
    assert cut == ["a.mp4"]
    # The file is mended, and the same command goes on.
    synth.write_video(source / "a.mp4", "dog", 2.0, 0, fps=5, size_px=64)
    run(source, "-o", data)
    assert failures(data) == {}
    assert cut == ["a.mp4", "a.mp4"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nowhere"], "no such source: nowhere"),
        ([""], "no source"),
        (["{empty}"], "no video in"),
        (["{videos}/*.xyz"], "no video in"),
        (["{videos}", "--size", "63"], "from 64 to 256"),
        (["{videos}", "--size", "257"], "from 64 to 256"),
        (["{videos}", "--segment-s", "0"], "segment_s"),
        (["{videos}", "--hop-s", "-1"], "hop_s"),
        (["{videos}", "--hop-s", "nan"], "hop_s"),
        (["{videos}", "--hop-s", "0.0123"], "hop_s"),
        (["{videos}", "--frame", "last"], "center, sharpest"),
        (["{videos}", "--crop", "none"], "center, letterbox"),
        (["{videos}", "--image", "png"], "jpg, webp"),
        (["{videos}", "--quality", "0"], "from 1 to 100"),
        (["{videos}", "--split", "0.5,0.4"], "sum to 1"),
        (["{videos}", "--clean", "dust"], "unknown step 'dust'"),
        (["{videos}", "--drop-share", "1"], "--drop-share"),
        (["{videos}", "--drop-share", "nan"], "--drop-share"),
        (["{videos}", "--layout", "magic"], "magic"),
        (["{videos}", "--engine", "spark"], "local, ray"),
        (["{videos}", "--layout", "published"], "batch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_get_one_line_and_write_nothing(
    args: list[str], words: str, videos: Path, tmp_path: Path, cut: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [arg.format(videos=videos, empty=tmp_path / "empty") for arg in args]
    output = run(*filled, "-o", tmp_path / "data", code=2)
    assert words in output
    assert output.count("error: ") == 1
    assert cut == []
    assert not (tmp_path / "data").exists()


def test_an_output_that_cannot_be_written(videos: Path, cut: list[str]) -> None:
    output = run(videos, "-o", "/proc/nothing/data", *RAW, code=2)
    assert "error: cannot write" in output
    assert cut == []


# --- batches -------------------------------------------------------------------------------------


@pytest.fixture
def batches(videos: Path, tmp_path: Path, cut: list[str]) -> Path:
    """The authors' batches of toy videos with labels, as ``data export`` writes them."""
    del cut
    run(videos, "-o", tmp_path / "source", *RAW, "--layout", "classes", "--split", "0.4,0.3,0.3")
    out = tmp_path / "batches"
    done = CliRunner().invoke(
        build_app(),
        ["data", "export", str(tmp_path / "source"), "-o", str(out), "--kind", "spectrogram"],
    )
    assert done.exit_code == 0, done.output
    return out


def test_batches_go_out_and_come_back(batches: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    run(batches, "-o", data, "--layout", "published")
    source, back = open_dataset(tmp_path / "source"), open_dataset(data)
    for split in source.splits:
        found = []
        for folder in (source, back):
            found.append(
                sorted(
                    tuple(
                        levels.tobytes() for levels in folder.decode(record) if levels is not None
                    )
                    for record in folder.records(split)
                )
            )
        assert found[0] == found[1]
        assert about(data)["splits"][split]["pairs"] == len(found[0])
    assert list(verify(data)) == []
    assert "finished already" in run(batches, "-o", data, "--layout", "published")


def test_batches_that_do_not_go_together(batches: Path, prepared: Path, tmp_path: Path) -> None:
    said = run(batches, batches, "-o", tmp_path / "twice", "--layout", "published", code=2)
    assert "was there before" in said
    other = tmp_path / "audio"
    done = CliRunner().invoke(
        build_app(), ["data", "export", str(prepared), "-o", str(other), "--kind", "audio"]
    )
    assert done.exit_code == 0, done.output
    said = run(batches, other, "-o", tmp_path / "mixed", code=2)
    assert "another kind" in said


def test_a_batch_that_is_cut_short_is_named_with_the_byte(batches: Path, tmp_path: Path) -> None:
    file = next(iter(sorted(batches.glob("*.bin"))))
    os.truncate(file, file.stat().st_size - 7)
    data = tmp_path / "data"
    output = run(batches, "-o", data, "--layout", "published", code=2)
    assert file.name in output
    assert "byte" in output
    assert not (data / "dataset.json").exists()


def test_repacking_that_was_killed_while_moving_goes_on(
    batches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, fresh = tmp_path / "data", tmp_path / "fresh"
    run(batches, "-o", fresh, "--layout", "published")
    args = ["prepare", str(batches), "-o", str(data), "--layout", "published"]
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path.name == "failures.csv" and path.parent.name == "out":
            raise ZeroDivisionError
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        assert isinstance(CliRunner().invoke(build_app(), args).exception, ZeroDivisionError)
    assert not (data / "dataset.json").exists()
    run(batches, "-o", data, "--layout", "published")
    assert contents(data) == contents(fresh)
