"""``soundsight prepare``: it can be resumed, byte for byte, and a mistake is one clear line."""

from __future__ import annotations

import csv
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
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from recipes import synth
from soundsight.cli.main import build_app
from soundsight.data.prepare import engines
from soundsight.data.prepare.clean import STEPS
from soundsight.data.prepare.engines import Job
from soundsight.data.prepare.ingest import IngestConfig
from soundsight.data.prepare.ingest import ingest as real_ingest
from soundsight.data.prepare.staging import Stage
from soundsight.data.records import Clip
from soundsight.data.store.shards import open_dataset
from soundsight.data.store.verify import verify

COMMAND = [sys.executable, "-m", "soundsight", "prepare"]
RAW = ["--clean", "none"]


def toy(path: Path, subject: str = "dog", seconds: float = 1.0, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return synth.write_video(path, subject, seconds, seed, fps=5, size_px=64)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven toy videos in two folders, 16 pairs together."""
    folder = tmp_path_factory.mktemp("prepare") / "videos"
    for k, subject in enumerate([*synth.SUBJECTS, "dog", "water"]):
        toy(folder / f"{'ab'[k % 2]}/{subject}_{k}.mp4", subject, 2 + (k % 3) / 2, k)
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
        for clip, part in jobs:
            names.append(clip.key)
            real_ingest(clip, config, part)
            yield clip

    monkeypatch.setattr(engines, "run_local", inline)
    return names


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where the dataset goes."""
    return tmp_path / "data"


@pytest.fixture
def source(videos: Path, tmp_path: Path) -> Path:
    """Four of the toy videos, which a test may change."""
    return Path(shutil.copytree(videos / "a", tmp_path / "src"))


@pytest.fixture
def broken(source: Path) -> Path:
    """The same with a file that is no video; it comes second."""
    (source / "broken.mp4").write_text("no video")
    return source


def invoke(*args: object) -> Any:
    return CliRunner().invoke(build_app(), ["prepare", *map(os.fspath, map(str, args))])


def run(*args: object, code: int = 0) -> str:
    result = invoke(*args)
    assert result.exit_code == code, result.output
    # Typer's own end of a command; anything else would be a traceback.
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if code:
        assert len(result.stderr.splitlines()) <= 3
        assert result.output.count("error: ") == (code == 2)
    return result.output


def same_as_fresh(data: Path, source: Path, *options: object) -> bool:
    """Whether a dataset is what one run of the command makes of the source."""
    fresh = data.with_name("fresh")
    run(source, "-o", fresh, *options)
    return contents(data) == contents(fresh)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "dataset.json").read_text("utf-8"))
    return found


def cleaning(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = about(folder)["counts"]["cleaning"]
    return rows


def failures(folder: Path) -> dict[str, str]:
    text = (folder / "failures.csv").read_bytes().decode("utf-8", "surrogateescape")
    rows = list(csv.reader(text.splitlines(keepends=True)))
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
    command = [*COMMAND, str(videos), "-o", str(data), *RAW, "--workers", "3"]
    subprocess.run(command, check=True, capture_output=True)
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
    prepared: Path, videos: Path, data: Path
) -> None:
    subprocess.run(
        [*COMMAND, f"./a/../../{videos.name}/", "-o", str(data), *RAW, "--workers", "1"],
        check=True, capture_output=True, cwd=videos,
    )  # fmt: skip
    assert contents(data) == contents(prepared)


def test_finished_already_means_nothing_is_touched(
    prepared: Path, videos: Path, cut: list[str], data: Path
) -> None:
    shutil.copytree(prepared, data)
    before = {path: path.stat().st_mtime_ns for path in [data, *data.rglob("*")]}
    assert f"finished already: {data}" in run(videos, "-o", data, *RAW)
    assert {path: path.stat().st_mtime_ns for path in [data, *data.rglob("*")]} == before
    assert cut == []


@pytest.mark.usefixtures("cut")
def test_options_reach_the_pairs(videos: Path, data: Path) -> None:
    run(videos / "a", "-o", data, *RAW, "--segment-s", 2, "--hop-s", 0.5, "--size", 64,
        "--image", "webp", "--crop", "letterbox", "--frame", "sharpest", "--quality", 80,
        "--split", "0,0,1", "--shard-mb", 1)  # fmt: skip
    told = about(data)
    assert (told["mel_frames"], told["image_px"]) == (200, 64)
    assert told["files"] == ["json", "mel.png", "webp"]
    assert told["splits"]["train"]["pairs"] == told["splits"]["val"]["pairs"] == 0
    asked = {"hop_s": 0.5, "crop": "letterbox", "frame": "sharpest", "quality": 80}
    assert told["settings"] | asked == told["settings"]
    folder = open_dataset(data)
    mel, image = folder.decode(next(iter(folder.records("test"))))
    assert image is not None
    assert (mel.shape, image.shape) == ((128, 200), (64, 64, 3))
    starts: dict[str, list[float]] = {}
    for row in sidecars(data):
        starts.setdefault(row["clip"], []).append(row["start_s"])
    assert sorted(map(sorted, starts.values())) == [[0.0], [0.0], [0.0, 0.5], [0.0, 0.5, 1.0]]


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize(
    ("clean", "steps"),
    [("all", [*STEPS, "duplicates"]), ("text", ["text"]),
     ("duplicates, silence", ["silence", "duplicates"])],
)  # fmt: skip
def test_every_step_can_be_switched_and_is_counted(
    clean: str, steps: list[str], videos: Path, data: Path
) -> None:
    run(videos / "a", "-o", data, "--clean", clean)
    assert [row["step"] for row in cleaning(data)] == steps
    assert cleaning(data)[0]["before"] == 9


@pytest.mark.usefixtures("cut")
def test_twins_are_dropped_and_shown(source: Path, data: Path) -> None:
    for path in sorted(source.glob("*.mp4"))[:2]:
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    output = run(source, "-o", data, "--clean", "duplicates")
    (row,) = cleaning(data)
    assert row["dropped"] > 0
    assert f"duplicates: {row['before']} -> {row['after']} (-{row['dropped']})" in output
    with Image.open(data / "dropped" / "duplicates.png") as sheet:
        assert sheet.width > 300
        assert np.asarray(sheet).std() > 5
    assert "dropped/duplicates.png" in (data / "SHA256SUMS").read_text()


def test_plain_copies_are_found_however_little_there_is_in_them(
    tmp_path: Path, data: Path, cut: list[str]
) -> None:
    """A second of near silence leaves no print, and yet its copy is the same file."""
    video = toy(tmp_path / "videos" / "a.mp4")
    for name in "bc":
        shutil.copy(video, video.with_stem(name))
    (tmp_path / "list.csv").write_text(
        "path,split\nvideos/a.mp4,train\nvideos/b.mp4,test\nvideos/c.mp4,train\n"
    )
    run(tmp_path / "list.csv", "-o", data, "--clean", "duplicates")
    assert len(cut) == 3
    assert [row["clip"] for row in sidecars(data)] == ["videos/b.mp4"]
    assert about(data)["splits"]["test"]["pairs"] == 1


def test_dry_run_says_what_there_is_and_writes_nothing(
    videos: Path, data: Path, cut: list[str]
) -> None:
    told = json.loads(run(videos, "-o", data, "--dry-run"))
    assert told["inputs"]["clips"] == 7
    assert told["settings"]["size_px"] == 96
    assert (told["layouts"], told["skipped"], told["repeated"]) == (["folder"], 0, 0)
    assert cut == []
    assert not data.exists()


def test_coherence_that_learns_nothing_drops_nothing(
    videos: Path, data: Path, cut: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(mean: float) -> SimpleNamespace:
        def learned(pairs: Sequence[Any], **_: Any) -> np.ndarray:
            return mean + np.linspace(-1, 1, len(pairs), dtype=np.float32)

        return SimpleNamespace(contrastive_scores=learned, classifier_scores=None)

    monkeypatch.setitem(sys.modules, "soundsight.training.coherence", scores(-0.5))
    said = run(videos, "-o", data, "--clean", "coherence")
    assert "nothing could be learned from 16 pairs" in said
    assert cleaning(data) == [{"step": "coherence", "before": 16, "dropped": 0, "after": 16}]
    monkeypatch.setitem(sys.modules, "soundsight.training.coherence", scores(0.5))
    run(videos, "-o", data, "--clean", "coherence", "--drop-share", "0.25", "--overwrite")
    assert cleaning(data)[0]["dropped"] == 4
    assert (data / "dropped" / "coherence.png").is_file()
    assert len(cut) == 14


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


def test_a_part_without_its_middle_makes_no_pair(
    tmp_path: Path, data: Path, cut: list[str]
) -> None:
    synth.write_video(tmp_path / "a.mp4", "baby", 3.0, 0, fps=10, size_px=64)
    (tmp_path / "parts.csv").write_text("path,start_s,end_s\na.mp4,1,1.2\na.mp4,1,1.7\n")
    run(tmp_path / "parts.csv", "-o", data, *RAW)
    assert len(cut) == 2
    (row,) = sidecars(data)
    assert row["clip"] == "a.mp4#1-1.7"
    assert row["frame_s"] == pytest.approx(1.5, abs=0.11)
    assert "nothing at the middle of any segment" in failures(data)["a.mp4#1-1.2"]


def test_a_list_of_local_urls_names_no_folder_of_the_machine(
    tmp_path: Path, data: Path, cut: list[str]
) -> None:
    (tmp_path / "list.txt").write_text(f"file://{toy(tmp_path / 'deep' / 'a.mp4')}\n")
    run(tmp_path / "list.txt", "-o", data, *RAW)
    assert cut == ["deep/a.mp4"]


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
    for k in range(2):
        toy(source / f"v{k}.mp4", seed=k)
    (source / "broken.mp4").write_text("no video")
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, str(source), str(tmp_path / "work"), mode, str(stride)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["problems"] == []
    assert told["total"] > 40


def parts(data: Path) -> dict[str, tuple[int, int]]:
    """What tells one writing of a part from another."""
    found = {path.stem: path.stat() for path in data.glob(".work/parts/*/[0-9a-f]*.tar")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def stopped(ready: Callable[[], bool], stop: int, *args: object) -> tuple[int, str, str]:
    """Start the real command in a process group of its own, and send it a signal when ready."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, args), "--workers", "2"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, stop)
    out, told = process.communicate(timeout=120)
    return process.returncode, out, told


def begun(data: Path, count: int) -> Callable[[], bool]:
    """Whether a run is at work and so many parts are there."""
    return lambda: (data / ".work" / "plan.json").exists() and len(parts(data)) >= count


@pytest.mark.slow
def test_the_real_command_killed_with_all_its_workers(
    videos: Path, prepared: Path, data: Path
) -> None:
    before: dict[str, tuple[int, int]] = {}
    for count in (1, 4):
        stopped(begun(data, count), signal.SIGKILL, videos, "-o", data, *RAW)
        now = parts(data)
        assert {name: now[name] for name in before} == before
        assert len(now) > len(before)
        before = now
    seen = dict(before)

    def packing() -> bool:
        seen.update(parts(data))
        return (data / ".work" / "out").exists() or (data / "dataset.json").exists()

    stopped(packing, signal.SIGKILL, videos, "-o", data, *RAW)
    assert {name: seen[name] for name in before} == before
    subprocess.run([*COMMAND, str(videos), "-o", str(data), *RAW], check=True, capture_output=True)
    assert contents(data) == contents(prepared)
    assert not (data / ".work").exists()


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_130(videos: Path, data: Path) -> None:
    for count in (0, 2):
        # First while workers are being started, then while they work.
        code, out, told = stopped(begun(data, count), signal.SIGINT, videos, "-o", data, *RAW)
        # Where the signal met Python within exec(), as at an import, Python in the end dies of it,
        # whatever has become of it meanwhile; shells call both 130.
        assert code in (130, -signal.SIGINT), told
        assert out == ""
        lines = told.splitlines()
        assert lines[-1].startswith("interrupted")
        assert count == 0 or "of 7 videos are done; the same command goes on" in lines[-1]
        assert all(line.startswith(("found: ", "taken over ")) for line in lines[:-1])


def test_only_what_is_missing_or_changed_is_cut(broken: Path, data: Path, cut: list[str]) -> None:
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
    assert same_as_fresh(data, broken, *RAW)


def test_a_file_replaced_after_its_shard_was_written(
    source: Path, tmp_path: Path, data: Path, cut: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many pairs, the same names, and a shard that looks finished."""
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "move_into_place", lambda _: 1 / 0)
        patch.setattr("soundsight.data.prepare.pack.write_dataset", lambda *_: None)
        assert invoke(source, "-o", data, *RAW).exception
    assert list((data / ".work" / "shards").iterdir())
    cut.clear()
    first, *_ = sorted(source.glob("*.mp4"))
    shutil.copy(toy(tmp_path / "o.mp4", "water", 2.0, 77), first)
    run(source, "-o", data, *RAW)
    assert cut == [first.name]
    assert same_as_fresh(data, source, *RAW)


def test_a_label_corrected_in_a_manifest_reaches_the_pairs(
    videos: Path, tmp_path: Path, data: Path, cut: list[str]
) -> None:
    table = tmp_path / "table.csv"
    rows = ["path,label", *(f"{path},dogg" for path in sorted((videos / "a").glob("*.mp4")))]
    table.write_text("\n".join([*rows, f"{tmp_path}/none.mp4,dog"]))
    run(table, "-o", data, *RAW, "--max-failures", 0, code=2)
    table.write_text("\n".join(rows).replace("dogg", "dog"))
    run(table, "-o", data, *RAW)
    assert about(data)["labels"] == ["dog"]
    assert {row["label"] for row in sidecars(data)} == {"dog"}
    cut.clear()
    # Of a finished dataset it says that it is another one.
    table.write_text("\n".join(rows))
    assert "other videos or settings" in run(table, "-o", data, *RAW, code=2)
    assert cut == []


def test_how_pairs_are_packed_may_change_without_cutting_again(
    videos: Path, data: Path, cut: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A split, a shard's size or a learned step that is changed costs no video."""

    def stop(_: Stage) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "move_into_place", stop)
        run(videos, "-o", data, *RAW, "--split", "1,0,0", code=130)
    assert cut
    cut.clear()
    run(videos, "-o", data, *RAW, "--split", "0,1,0")
    assert not cut
    assert same_as_fresh(data, videos, *RAW, "--split", "0,1,0")


@pytest.mark.slow
@pytest.mark.parametrize("size", [8_000, 60_000], ids=["in a worker", "in a shard"])
def test_a_disk_that_fills_up_stops_cleanly(
    size: int, videos: Path, prepared: Path, data: Path
) -> None:
    """The system itself refuses to let any file grow: in a part, or in a shard."""
    command = [*COMMAND, str(videos), "-o", str(data), *RAW, "--workers", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    *rest, last = done.stderr.splitlines()
    assert last.startswith("error: no space left for ")
    assert last.endswith("run the same command again, what is done is kept")
    assert all(line.startswith("found: ") for line in rest)
    assert not (data / "dataset.json").exists()
    assert (len(parts(data)) == 7) == (size == 60_000)
    subprocess.run(command, check=True, capture_output=True)
    assert contents(data) == contents(prepared)


# --- outputs -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("cut")
def test_an_output_inside_the_source_is_not_input(source: Path) -> None:
    data = source / "deep" / "data"
    run(source, "-o", data, *RAW)
    assert about(data)["counts"]["clips"] == 4
    shutil.copy(next(iter(source.glob("*.mp4"))), data / "mine.mp4")
    assert "finished already" in run(source, "-o", data, *RAW)
    assert "output folder" in run(source, "-o", source, *RAW, code=2)


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link", "other dataset.json"])
def test_an_output_that_holds_something_else_is_kept(
    kind: str, videos: Path, tmp_path: Path, data: Path, cut: list[str]
) -> None:
    if kind == "file":
        data.write_text("mine")
    elif kind == "dangling link":
        data.symlink_to(tmp_path / "nowhere")
    else:
        data.mkdir()
        (data / "thesis.txt").write_text("mine")
        if kind == "other dataset.json":
            (data / "dataset.json").write_text('{"format": "of others"}')
    before = contents(data)
    for extra in ([], ["--overwrite"]):
        output = run(videos, "-o", data, *RAW, *extra, code=2)
        assert "holds something else" in output or "no folder" in output
    assert contents(data) == before
    assert cut == []


def test_another_dataset_is_replaced_only_when_asked_and_only_when_the_new_one_is_finished(
    videos: Path,
    broken: Path,
    prepared: Path,
    data: Path,
    cut: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(prepared, data)
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
        assert isinstance(invoke(broken, *over).exception, ZeroDivisionError)
    assert {k: v for k, v in contents(data).items() if not k.startswith(".work")} == before
    assert list(verify(data)) == []
    run(broken, *over)
    assert same_as_fresh(data, broken, *RAW, "--size", 64)


# --- failures ------------------------------------------------------------------------------------


def test_failures_are_recorded_and_the_run_goes_on(
    source: Path, tmp_path: Path, data: Path, cut: list[str]
) -> None:
    good = next(iter(sorted(source.glob("*.mp4"))))
    whole = good.read_bytes()
    bad = {
        "zero.mp4": b"",
        "text.mp4": b"a text\n" * 200,
        "cut short.mkv": whole[: len(whole) // 2],
        "encrypted.mp4": bytes(byte ^ 0xA7 for byte in whole),
        "picture.avi": b"\x89PNG\r\n\x1a\n" + bytes(500),
        **dict.fromkeys(("two\nlines.mp4", "犬 🐕.mp4", "caf\udce9.mp4", "return\r.mp4"), b"x"),
    }
    for name, content in bad.items():
        with open(os.fspath(source / name), "wb") as file:  # noqa: PTH123
            file.write(content)
    (source / "notes.txt").write_text("not a video")
    (source / "loop").symlink_to(source)
    (source / "dangling.mp4").symlink_to(source / "nowhere")
    (source / "folder.mp4").mkdir()
    os.mkfifo(source / "pipe.mp4")
    good.rename(source / "spaces and 犬 🐕\n.mp4")
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
    source: Path, data: Path, cut: list[str]
) -> None:
    path = toy(source / "damaged.mp4", seconds=3.0)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
    spoilt = bytearray(path.read_bytes())
    for packet in packets[5:]:
        assert packet.pos is not None
        spoilt[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(spoilt)
    said = run(source, "-o", data, *RAW)
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: 1 video ")]
    assert f"see {data / 'damaged.csv'}" in warning
    assert about(data)["counts"]["damaged"] == 1
    assert failures(data) == {}
    rows = (data / "damaged.csv").read_text().splitlines()
    assert rows[0] == "path,reason"
    assert rows[1].startswith("damaged.mp4,is damaged or cut short at ")
    assert [row["start_s"] for row in sidecars(data) if row["clip"] == "damaged.mp4"] == [0.0]
    assert list(verify(data)) == []
    run(source, "-o", data, *RAW, "--strict", "--overwrite")
    assert failures(data).keys() == {"damaged.mp4"}
    assert about(data)["counts"]["damaged"] == 0
    assert len(cut) == 10


def test_max_failures_stops_and_what_is_done_is_kept(
    source: Path, data: Path, cut: list[str]
) -> None:
    for name in ("0", "1", "2", "zzz"):
        (source / f"{name}.mp4").write_text("no video")
    output = run(source, "-o", data, *RAW, "--max-failures", 2, code=2)
    assert "error: 3 videos have failed, more than --max-failures 2: see" in output
    assert set(failures(data)) == {"0.mp4", "1.mp4", "2.mp4"}
    assert cut == ["0.mp4", "1.mp4", "2.mp4"]
    # What was begun with other settings is refused, unless it starts anew.
    output = run(source, "-o", data, *RAW, "--size", 64, code=2)
    assert "(size_px)" in output
    run(source, "-o", data, *RAW, "--max-failures", 2, code=2)
    assert len(cut) == 3
    run(source, "-o", data, *RAW, "--max-failures", 2, "--retry-failures", code=2)
    assert len(cut) == 6
    del cut[3:]
    run(source, "-o", data, *RAW, "--max-failures", 4)
    assert len(cut) == len(set(cut)) == 8
    assert set(failures(data)) == {"0.mp4", "1.mp4", "2.mp4", "zzz.mp4"}
    assert "finished already" in run(source, "-o", data, *RAW, "--retry-failures")
    run(source, "-o", data, *RAW, "--size", 64, "--overwrite")
    assert about(data)["image_px"] == 64


def test_when_nothing_is_left_it_says_so(tmp_path: Path, data: Path, cut: list[str]) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.mp4").write_text("no video")
    assert "error: no pair is left" in run(source, "-o", data, code=2)
    assert set(failures(data)) == {"a.mp4"}
    assert cut == ["a.mp4"]
    # The file is mended, and the same command goes on.
    toy(source / "a.mp4", seconds=2.0)
    run(source, "-o", data)
    assert failures(data) == {}
    assert cut == ["a.mp4", "a.mp4"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("nowhere", "no such source: nowhere"),
        ("", "no source"),
        ("{empty}", "no video in"),
        ("{videos}/*.xyz", "no video in"),
        ("{videos} --size 63", "from 64 to 256"),
        ("{videos} --size 257", "from 64 to 256"),
        ("{videos} --segment-s 0", "segment_s"),
        ("{videos} --hop-s -1", "hop_s"),
        ("{videos} --hop-s nan", "hop_s"),
        ("{videos} --hop-s 0.0123", "hop_s"),
        ("{videos} --frame last", "center, sharpest"),
        ("{videos} --crop none", "center, letterbox"),
        ("{videos} --image png", "jpg, webp"),
        ("{videos} --quality 0", "from 1 to 100"),
        ("{videos} --split 0.5,0.4", "sum to 1"),
        ("{videos} --clean dust", "unknown step 'dust'"),
        ("{videos} --drop-share 1", "--drop-share"),
        ("{videos} --drop-share nan", "--drop-share"),
        ("{videos} --layout magic", "published, vegas"),
        ("{videos} --engine spark", "local, ray"),
        ("{videos} --address 10.0.0.1:6379", "--engine ray"),
        ("{videos} --layout published", "batch"),
        ("{videos} --layout published --size 64", "only --shard-mb"),
        ("{videos} --clean classifier", "needs a class label"),
        ("{videos} --clean coherence --segment-s 0.1", "--segment-s"),
        ("{videos} -o s3://bucket/data", "is a URL"),
        ("{videos} -o /proc/nothing/data", "error: cannot write"),
    ],
)
def test_mistakes_get_one_line_and_write_nothing(
    args: str, words: str, videos: Path, tmp_path: Path, cut: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    filled = [arg.format(videos=videos, empty=tmp_path / "empty") for arg in args.split(" ")]
    assert words in run("-o", tmp_path / "data", *filled, code=2)
    assert cut == []
    assert os.listdir(tmp_path) == ["empty"]


# --- batches -------------------------------------------------------------------------------------


def exported(data: Path, out: Path, kind: str) -> Path:
    args = ["data", "export", str(data), "-o", str(out), "--kind", kind]
    done = CliRunner().invoke(build_app(), args)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture
def batches(videos: Path, tmp_path: Path, cut: list[str]) -> Path:
    """The authors' batches of toy videos with labels, as ``data export`` writes them."""
    del cut
    run(videos, "-o", tmp_path / "source", *RAW, "--layout", "classes", "--split", "0.4,0.3,0.3")
    return exported(tmp_path / "source", tmp_path / "batches", "spectrogram")


def test_batches_go_out_and_come_back(batches: Path, tmp_path: Path, data: Path) -> None:
    run(batches, "-o", data, "--layout", "published")
    source, back = open_dataset(tmp_path / "source"), open_dataset(data)

    def levels(folder: Any, split: str) -> list[list[bytes]]:
        return sorted(
            [array.tobytes() for array in folder.decode(record)] for record in folder.records(split)
        )

    for split in source.splits:
        assert levels(source, split) == levels(back, split)
        assert about(data)["splits"][split]["pairs"] == source.count(split)
    assert list(verify(data)) == []
    assert "finished already" in run(batches, "-o", data, "--layout", "published")


def test_batches_that_do_not_go_together_or_are_cut_short(
    batches: Path, prepared: Path, tmp_path: Path, data: Path
) -> None:
    said = run(batches, batches, "-o", tmp_path / "twice", "--layout", "published", code=2)
    assert "was there before" in said
    other = exported(prepared, tmp_path / "audio", "audio")
    assert "another kind" in run(batches, other, "-o", tmp_path / "mixed", code=2)
    file = next(iter(sorted(batches.glob("*.bin"))))
    os.truncate(file, file.stat().st_size - 7)
    output = run(batches, "-o", data, "--layout", "published", code=2)
    assert file.name in output
    assert "byte" in output
    assert not (data / "dataset.json").exists()


def test_repacking_that_was_killed_while_moving_goes_on(
    batches: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path.name == "failures.csv" and path.parent.name == "out":
            raise ZeroDivisionError
        return real(path, target)

    options = ["--layout", "published"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        assert isinstance(invoke(batches, "-o", data, *options).exception, ZeroDivisionError)
    assert not (data / "dataset.json").exists()
    run(batches, "-o", data, *options)
    assert same_as_fresh(data, batches, *options)
