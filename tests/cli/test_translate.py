"""``soundsight translate``: files found, files written, and one line for every mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner, Result

from soundsight.cli.main import build_app
from soundsight.core.state import CALM_LEVEL
from soundsight.runtime.translator import Translator
from soundsight.views.drawing import AMBER
from soundsight.views.pictograms import alert_picture
from soundsight.views.sheet import PICTURE_PX

Make = Callable[..., Any]


@dataclass
class Place:
    """The folder in which the command runs, with the tiny model."""

    model: Path
    sound: Make
    """Writes a sound: (path, seconds, hz=440, level=0.3)."""

    def call(self, *arguments: object, model: Path | None = None) -> Result:
        words = ["translate", *map(str, arguments), "--model", str(model or self.model)]
        return CliRunner().invoke(build_app(), words)

    def run(self, *arguments: object, model: Path | None = None) -> Result:
        result = self.call(*arguments, model=model)
        assert result.exit_code == 0, result.output
        return result

    def lines(self, *arguments: object, model: Path | None = None) -> list[dict[str, Any]]:
        result = self.run(*arguments, "--json", model=model)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def refused(
        self, *arguments: object, says: str, lines: int = 1, model: Path | None = None
    ) -> Result:
        """The command ended with exit code 2 and exactly so many lines, and no traceback."""
        result = self.call(*arguments, model=model)
        assert result.exit_code == 2, result.output
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == lines, result.stderr
        assert any(says in line for line in errors), result.stderr
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result


@pytest.fixture
def place(
    tiny_model: Path, write_sound: Make, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Place:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    return Place(tiny_model, lambda path, *how, **more: write_sound(Path(path), *how, **more))


def names(folder: Path | str) -> list[str]:
    folder = Path(folder)
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# --- what is written -------------------------------------------------------------------------


def test_one_sound(place: Place) -> None:
    place.sound("dog.wav", 2.0)
    result = place.run("dog.wav", "-o", "out", "--sheet")
    assert names("out") == ["dog.png", "sheet.png"]
    assert "dog.wav -> out/dog.png (picture)" in result.stdout
    with Image.open("out/dog.png") as image:
        assert (image.size, image.mode) == ((96, 96), "RGB")
        info = dict(image.info)
        assert np.asarray(image).std() > 0
    assert info["soundsight"] == "imagined from sound"
    assert (info["source"], info["second"]) == ("dog.wav", "1")
    assert (info["seed"], info["model"]) == ("0", "tiny 0.0.1")
    with Image.open("out/sheet.png") as image:
        assert image.info["soundsight"] == "imagined from sound"
    # The default folder, another size.
    for size in (16, 333, 4096):
        place.run("dog.wav", "--size", size, "--overwrite")
        assert names("imagined") == ["dog.png"]
        with Image.open("imagined/dog.png") as image:
            assert image.size == (size, size)


def test_the_picture_is_the_translators(place: Place) -> None:
    path = place.sound("dog.wav", 3.0)
    place.run(path, "-o", "out", "--seed", 5, "--draws", 2, "--each-second")
    translator = Translator.load(place.model)
    expected = translator.translate(path, each_second=True, draws=2, seed=5)
    for i in range(6):
        with Image.open(f"out/dog_s{i // 2:03d}_d{i % 2}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), expected.images[i])


def test_relative_paths_are_kept(place: Place) -> None:
    for name in ("a/x.wav", "b/x.wav", "b/deep/y.FLAC", ".hidden/z.wav", "b/.z.wav"):
        place.sound(f"in/{name}", 1.0, format="FLAC" if name.endswith("FLAC") else "WAV")
    Path("in/notes.txt").write_text("no sound", "utf-8")
    assert "3 pictures in out" in place.run("in", "-o", "out").stdout
    assert names("out") == ["a/x.png", "b/deep/y.png", "b/x.png"]
    # Several folders keep their names.
    place.run("in/a", "in/b/", "-o", "two")
    assert names("two") == ["a/x.png", "b/deep/y.png", "b/x.png"]


@pytest.mark.parametrize(
    ("inputs", "arguments", "expected"),
    [
        (["x.wav", "x.flac", "y.wav"], ["."], ["x.flac.png", "x.wav.png", "y.png"]),
        (
            ["p/a/x.wav", "q/a/x.wav"],
            ["p/a/x.wav", "q/a/x.wav"],
            ["p/a/x.wav.png", "q/a/x.wav.png"],
        ),
        (["p/a/x.wav", "q/a/x.wav"], ["p/a", "q/a"], ["p/a/x.wav.png", "q/a/x.wav.png"]),
        (["x.wav"], ["x.wav", ".", "./x.wav"], ["x.png"]),
        (["sheet.wav", "sheet-2.wav"], ["."], ["sheet-2.wav.png", "sheet.wav.png"]),
        (["x.wav", "x.flac", "x.wav.wav"], ["."], ["x.flac.png", "x.wav.png", "x.wav.wav.png"]),
    ],
)  # fmt: skip
def test_no_two_sounds_share_a_file(
    place: Place, inputs: list[str], arguments: list[str], expected: list[str]
) -> None:
    for i, name in enumerate(inputs):
        place.sound(name, 1.0, hz=300 + 100 * i)
    for line in place.lines(*arguments, "-o", "out"):
        with Image.open(line["png"]) as image:
            assert image.info["source"] == Path(line["file"]).name
    assert names("out") == expected


def test_output_inside_the_input(place: Place) -> None:
    place.sound("in/x.wav", 1.0)
    for _ in range(2):
        place.run("in", "-o", "in/out", "--overwrite", "--sheet")
        assert names("in") == ["out/sheet.png", "out/x.png", "x.wav"]
    place.run("in", "-o", "in")
    assert "x.png" in names("in")


def test_json_lines(place: Place) -> None:
    place.sound("b é 犬.wav", 2.0)
    place.sound("silence.wav", 1.0, level=0.0)
    options = ("-o", "out", "--json", "--each-second", "--draws", 2, "--seed", 7)
    result = place.run(".", *options)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 6
    first = lines[0]
    assert set(first) == {
        "file", "png", "second", "state", "name", "second_guess", "confidence", "ood_score",
        "seed", "draw", "warnings",
    }  # fmt: skip
    # The tiny model has neither labels nor ood scores.
    assert (first["name"], first["second_guess"]) == ("", "")
    assert (first["confidence"], first["ood_score"]) == (None, None)
    places = [(line["second"], line["draw"]) for line in lines[:4]]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(Path(line["png"]).is_file() and line["seed"] == 7 for line in lines)
    assert first["file"] == "b é 犬.wav"
    assert lines[4]["state"] == "quiet"
    assert "pictures in out" in result.stderr


def test_an_alert_is_named_and_has_a_pictogram(
    place: Place, make_model: Make, alert_names: Make
) -> None:
    path = place.sound("a.wav", 2.0)
    model = make_model(Path("alerts"), labels=alert_names("doorbell"))
    (line,) = place.lines(path, "-o", "out", "--sheet", "--size", 160, model=model)
    assert (line["state"], line["name"], line["second_guess"]) == ("named", "doorbell", "")
    assert line["confidence"] > 0.9
    with Image.open("out/a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), alert_picture("doorbell", 160))
        assert image.info["soundsight"] == "named, not imagined"
    # The sheet's cell shows it at the sheet's size.
    with Image.open("out/sheet.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    cell = alert_picture("doorbell", PICTURE_PX)
    (top, left), (y, x) = (
        [int(places.min()) for places in np.nonzero((image == AMBER).all(axis=2))]
        for image in (sheet, cell)
    )
    found = sheet[top - y :, left - x :][:PICTURE_PX, :PICTURE_PX]
    np.testing.assert_array_equal(found, cell)


def test_an_unknown_sound_is_reported_as_such_and_silence_is_no_mistake(
    place: Place, make_model: Make
) -> None:
    path = place.sound("a.wav", 1.0)
    strict = make_model(Path("strict"), ood_score=0.01)
    (line,) = place.lines(path, "-o", "out", model=strict)
    assert (line["state"], line["name"], line["second_guess"]) == ("nothing_recognisable", "", "")
    assert 0.01 < line["ood_score"] < 1
    result = place.run(path, "-o", "all", "--anyway", "--sheet", model=strict)
    assert "nothing recognisable" in result.output
    assert Path("all/sheet.png").is_file()
    with Image.open("out/a.png") as hidden, Image.open("all/a.png") as shown:
        assert np.asarray(hidden).std() == 0 < np.asarray(shown).std()
    place.sound("silence.wav", 2.0, level=0.0)
    assert "(quiet)" in place.run("silence.wav", "-o", "out").stdout
    with Image.open("out/silence.png") as image:
        assert (np.asarray(image) == CALM_LEVEL).all()
        assert image.info["state"] == "quiet"


def test_a_long_sheet_has_pages(place: Place) -> None:
    place.sound("x.wav", 23.0)
    place.run("x.wav", "-o", "out", "--each-second", "--sheet")
    assert {"sheet-1.png", "sheet-2.png", "x_s000.png", "x_s022.png"} <= set(names("out"))
    assert "sheet.png" not in names("out")
    # A shorter sheet over it leaves no page of the old one, and what is not ours alone.
    Image.new("RGB", (2, 2)).save("out/sheet-9.png")
    place.run("x.wav", "-o", "out", "--overwrite", "--sheet")
    assert {"sheet.png", "sheet-9.png"} <= set(names("out"))
    assert "sheet-1.png" not in names("out")


def test_a_folder_is_searched_for_all_that_can_be_read(place: Place) -> None:
    place.sound("in/a.wav", 1.0)
    place.sound("elsewhere/b.flac", 1.0)
    shutil.copy("in/a.wav", "in/c.wma")  # reading does not look at the suffix
    Path("in/linked").symlink_to(Path("elsewhere").absolute(), target_is_directory=True)
    Path("in/loop").symlink_to(Path("in").absolute(), target_is_directory=True)
    Path("in/broken.wav").symlink_to("nowhere.wav")
    os.mkfifo("in/pipe.wav")
    for name in ("x.txt", "y.txt", "z.pdf", "README", ".hidden.txt"):
        Path("in", name).touch()
    result = place.run("in", "-o", "out")
    assert names("out") == ["a.png", "c.png", "linked/b.png"]
    assert "left out in in: 2 .txt, 1 without a suffix, 1 .pdf\n" in result.stderr
    Path("only").mkdir()
    place.refused("only", "-o", "two", says="no sound in the folder only")
    Path("only/x.txt").touch()
    place.refused("only", "-o", "two", says="there is no sound in the folder only: it holds 1 .txt")
    assert not Path("two").exists()


@pytest.mark.parametrize("source", ["-", "pipe.wav"])
def test_a_pipe_is_read_to_its_end(place: Place, source: str) -> None:
    sound = place.sound("a.wav", 2.0).read_bytes()
    command = [sys.executable, "-m", "soundsight", "translate", source, "-o", "out", "--json"]
    command += ["--each-second", "--model", str(place.model)]
    if source == "pipe.wav":
        os.mkfifo(source)
        threading.Thread(target=Path(source).write_bytes, args=[sound], daemon=True).start()
    done = subprocess.run(command, input=sound, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    stem = "pipe" if source == "pipe.wav" else "stdin"
    assert names("out") == [f"{stem}_s000.png", f"{stem}_s001.png"]
    assert len(done.stdout.splitlines()) == 2


# --- damage ----------------------------------------------------------------------------------


def test_damage_in_the_middle_of_a_long_sound(place: Place) -> None:
    cut_in_half(place.sound("in/cut.flac", 30.0))
    place.sound("in/good.wav", 1.0)
    options = ("--each-second", "--json", "--sheet", "--strict")
    result = place.refused("in", "-o", "out", *options, says="cut.flac")
    # Seconds were drawn before the fault; neither they nor their folder stay, nor are they shown.
    assert sorted(os.listdir("out")) == ["good_s000.png", "sheet.png"]
    assert [json.loads(line)["file"] for line in result.stdout.splitlines()] == ["in/good.wav"]
    with Image.open("out/sheet.png") as page:
        assert page.info["source"] == "good.wav"


def test_damage_leaves_the_pictures_of_before_and_what_can_be_read_is_used(place: Place) -> None:
    path = place.sound("cut.flac", 30.0)
    place.sound("whole.flac", 2.0)
    place.run("cut.flac", "-o", "out", "--each-second")
    before = {name: (Path("out") / name).read_bytes() for name in names("out")}
    assert len(before) == 30
    cut_in_half(path)
    options = ("-o", "out", "--each-second", "--seed", 1, "--overwrite", "--strict")
    place.refused("cut.flac", *options, says="cut.flac")
    assert {name: (Path("out") / name).read_bytes() for name in names("out")} == before
    result = place.run("cut.flac", "whole.flac", "-o", "new", "--each-second", "--json")
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("warning:")]
    assert "cut.flac is damaged at 15." in warning
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    cut = [line["warnings"] for line in lines if line["file"] == "cut.flac"]
    assert len(cut) in (15, 16)
    assert all(warnings == [warning.removeprefix("warning: ")] for warnings in cut)
    assert [line["warnings"] for line in lines if line["file"] == "whole.flac"] == [[], []]


def test_in_a_batch_the_others_go_on(place: Place) -> None:
    place.sound("in/a.wav", 1.0)
    Path("in/bad.wav").write_bytes(b"no sound")
    place.sound("in/c.wav", 1.0)
    result = place.refused("in", "gone.wav", "-o", "out", "--sheet", says="in/bad.wav", lines=2)
    assert "gone.wav does not exist" in result.stderr
    assert "2 could not be translated" in result.stderr
    assert names("out") == ["a.png", "c.png", "sheet.png"]


# --- mistakes --------------------------------------------------------------------------------


def test_existing_outputs_are_refused_before_any_work(place: Place) -> None:
    place.sound("in/a.wav", 2.0)
    place.sound("in/b.wav", 1.0)
    Path("out").mkdir()
    Path("out/b.png").write_bytes(b"precious")
    place.refused("in", "-o", "out", says="out/b.png is there already")
    assert names("out") == ["b.png"]
    place.run("in", "-o", "out", "--overwrite")
    assert Path("out/b.png").read_bytes() != b"precious"
    place.refused("in", "-o", "out", says="and 1 more are there already")
    # Seconds and sheets count where they are asked for.
    for name, options in (("a_s001.png", ["--each-second"]), ("sheet.png", ["--sheet"])):
        Path(name[:3]).mkdir()
        Path(name[:3], name).touch()
        place.refused("in/a.wav", "-o", name[:3], *options, says=f"{name} is there")
        place.run("in/a.wav", "-o", name[:3])
        assert Path(name[:3], name).stat().st_size == 0, "not asked for, not touched"
    place.run("in/a.wav", "-o", "three", "--no-sheet")
    assert names("three") == ["a.png"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"this is no sound at all\n" * 100, "cannot read"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "cannot read"),
        (np.zeros(2_000), "100 ms"),
        (np.full(44_100, np.nan), "finite"),
    ],
)
def test_bad_sounds(place: Place, content: bytes | np.ndarray | None, says: str) -> None:
    if isinstance(content, np.ndarray):
        soundfile.write("bad.wav", content, 44_100, subtype="FLOAT")
    elif content is not None:
        Path("bad.wav").write_bytes(content)
    place.refused("bad.wav", "-o", "out", says=says)
    assert not Path("out").exists() or names("out") == []


def test_addresses_and_tracks(place: Place) -> None:
    for name in ("https://example.org/dog.mp3", "http://127.0.0.1:1/a.wav"):
        says = "is an address: only files are read, download it and pass the file"
        place.refused(name, says=says)
    place.sound("a.wav", 1.0)
    place.run("a.wav", "-o", "out", "--track", 1)
    says = "a.wav has 1 sound track: there is no track 2"
    place.refused("a.wav", "-o", "out2", "--track", 2, says=says)


def test_names_that_no_system_takes(place: Place) -> None:
    long = "n" * 300 + ".wav"
    place.sound("a.wav", 1.0)
    place.refused(long, says=f"cannot read {long}: ")
    place.refused("a.wav", "-o", long, says=f"cannot write to {long}: ")
    place.refused("a.wav", "-o", "out", says=f"no model folder {long}", model=Path(long))
    assert not Path("out").exists()
    place.refused(long, "a.wav", f"{long}/b.wav", "-o", "out", says=long, lines=2)
    assert names("out") == ["a.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_folder_that_may_not_be_entered(place: Place) -> None:
    place.sound("shut/a.wav", 1.0)
    place.sound("b.wav", 1.0)
    Path("shut").chmod(0)
    try:
        place.refused("shut/a.wav", "b.wav", "-o", "out", says="cannot read shut/a.wav: ")
        model = Path("shut/model")
        place.refused("b.wav", "-o", "two", says="no model folder shut/model", model=model)
    finally:
        Path("shut").chmod(0o755)
    assert names("out") == ["b.png"]


def test_places_that_cannot_be_written_to(place: Place) -> None:
    place.sound("a.wav", 1.0)
    place.sound("b.wav", 1.0)
    Path("out/a.png").mkdir(parents=True)
    says = "cannot write out/a.png: "
    place.refused("a.wav", "b.wav", "-o", "out", "--overwrite", says=says)
    assert sorted(os.listdir("out")) == ["a.png", "b.png"]
    Path("file").touch()
    place.refused("a.wav", "-o", "file", says="is a file, not a folder")
    place.refused("a.wav", "-o", "file/below", says="cannot write to file/below")
    if Path("/proc/self").exists():
        place.refused("a.wav", "-o", "/proc/self/out", says="cannot write to /proc/self/out")


def test_bad_models(place: Place, own_model: Path) -> None:
    place.sound("a.wav", 1.0)
    Path("foreign").mkdir()
    for folder, says in (("nowhere", "no model folder nowhere"), ("foreign", "not a soundsight")):
        place.refused("a.wav", "-o", "out", says=says, model=Path(folder))
    (own_model / "generator.onnx").write_bytes(b"rubbish")
    place.refused("a.wav", "-o", "out", says="generator.onnx is damaged", model=own_model)
    (own_model / "model.json").write_text("{", "utf-8")
    place.refused("a.wav", "-o", "out", says="not JSON", model=own_model)
    assert not Path("out").exists()


def test_names_that_are_no_text(place: Place) -> None:
    Path("a\n\x1b[31m.wav").write_bytes(b"no sound")
    result = place.refused("a\n\x1b[31m.wav", "-o", "out", says="a\\n\\x1b[31m.wav")
    assert "\x1b" not in result.stderr
    place.sound("plain.wav", 1.0)
    name = os.fsdecode(b"\xff\xfe.wav")
    shutil.copy("plain.wav", name)
    (line,) = place.lines(name, "-o", "out")
    assert line["file"] == name
    assert len(names("out")) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--draws", "0"], ["--draws", "x"], ["--seed", "-1"], ["--seed", str(2**64)],
        ["--size", "15"], ["--size", "4097"], ["--no-such-option"],
    ],
)  # fmt: skip
def test_usage_errors(place: Place, options: list[str]) -> None:
    place.sound("a.wav", 1.0)
    for arguments in (["a.wav", *options], options):  # also without a sound
        result = place.call(*arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert not Path("imagined").exists() or names("imagined") == []


# --- what a power loss or Ctrl-C leaves --------------------------------------------------------


def test_each_picture_is_on_the_disk_before_it_gets_its_name_and_their_folder_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.sound("a.wav", 5.0)
    happened: list[tuple[str, int]] = []
    sync, over = os.fsync, os.replace

    def fsync(handle: int) -> None:
        happened.append(("sync", os.fstat(handle).st_ino))
        sync(handle)

    def replace(a: Path, b: Path) -> None:
        happened.append(("name", os.stat(a).st_ino))  # noqa: PTH116
        over(a, b)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    place.run("a.wav", "-o", "out", "--each-second")
    pictures = [(Path("out") / name).stat().st_ino for name in names("out")]
    assert len(pictures) == 5
    expected = [(what, picture) for picture in pictures for what in ("sync", "name")]
    assert happened == [*expected, ("sync", Path("out").stat().st_ino)]


@pytest.mark.slow
def test_ctrl_c_leaves_whole_sounds(place: Place) -> None:
    place.sound("short.wav", 1.0)
    place.sound("long.wav", 120.0)
    command = [sys.executable, "-m", "soundsight", "translate", "short.wav", "long.wav"]
    command += ["-o", "out", "--model", str(place.model)]
    command += ["--each-second", "--draws", "50", "--size", "512"]
    process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True)
    deadline = time.monotonic() + 120
    while len(list(Path("out").glob(".*/long*.png"))) <= 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _stdout, stderr = process.communicate(timeout=120)
    # Where the signal met Python within exec(), as at an import, Python in the end dies of it.
    assert process.returncode in (130, -signal.SIGINT), stderr
    assert stderr.strip() == "interrupted"
    written = sorted(os.listdir("out"))
    assert written == [f"short_s000_d{draw}.png" for draw in sorted(range(50), key=str)]
    for name in written:
        with Image.open(f"out/{name}") as image:
            image.load()
