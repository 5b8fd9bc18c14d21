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
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from soundsight.cli.main import build_app
from soundsight.core.state import CALM_LEVEL
from soundsight.runtime.translator import Translator
from soundsight.views.drawing import AMBER, PICTURE_PX
from soundsight.views.pictograms import alert_picture


@pytest.fixture
def run(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Run translate in tmp_path with the tiny model."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, model: Path | None = tiny_model) -> Result:
        words = ["translate", *map(str, arguments)]
        if model is not None:
            words += ["--model", str(model)]
        return CliRunner().invoke(build_app(), words)

    return call


def names(folder: Path | str) -> list[str]:
    folder = Path(folder)
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def refused(result: Result, says: str, lines: int = 1) -> None:
    """The command ended with exit code 2 and exactly so many lines, and no traceback."""
    assert result.exit_code == 2, result.output
    told = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == lines, result.stderr
    assert any(says in line for line in told), result.stderr
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


# --- what is written -------------------------------------------------------------------------


def test_one_sound(run: Callable[..., Result], write_sound: Callable[..., Path]) -> None:
    write_sound(Path("dog.wav"), 2.0)
    result = run("dog.wav", "-o", "out", "--sheet")
    assert result.exit_code == 0, result.output
    assert names("out") == ["dog.png", "sheet.png"]
    assert "dog.wav -> out/dog.png (picture)" in result.stdout
    with Image.open("out/dog.png") as image:
        assert image.size == (96, 96)
        assert image.mode == "RGB"
        info = dict(image.info)
        assert np.asarray(image).std() > 0
    assert info["soundsight"] == "imagined from sound"
    assert info["source"] == "dog.wav"
    assert info["second"] == "1"
    assert (info["seed"], info["model"]) == ("0", "tiny 0.0.1")
    with Image.open("out/sheet.png") as image:
        assert image.info["soundsight"] == "imagined from sound"


def test_default_folder(run: Callable[..., Result], write_sound: Callable[..., Path]) -> None:
    write_sound(Path("dog.wav"), 1.0)
    assert run("dog.wav").exit_code == 0
    assert names("imagined") == ["dog.png"]


def test_the_picture_is_the_translators(
    run: Callable[..., Result], write_sound: Callable[..., Path], tiny_model: Path
) -> None:

    path = write_sound(Path("dog.wav"), 3.0)
    assert run(path, "-o", "out", "--seed", 5, "--draws", 2, "--each-second").exit_code == 0
    expected = Translator.load(tiny_model).translate(path, each_second=True, draws=2, seed=5)
    for i in range(6):
        with Image.open(f"out/dog_s{i // 2:03d}_d{i % 2}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), expected.images[i])


def test_relative_paths_are_kept(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    for name in ("a/x.wav", "b/x.wav", "b/deep/y.FLAC", ".hidden/z.wav", "b/.z.wav"):
        write_sound(Path("in") / name, 1.0, format=name[-3:].upper().replace("LAC", "FLAC"))
    Path("in/notes.txt").write_text("no sound", "utf-8")
    result = run("in", "-o", "out")
    assert result.exit_code == 0, result.output
    assert names("out") == ["a/x.png", "b/deep/y.png", "b/x.png"]
    assert "3 pictures in out" in result.stdout


def test_several_folders_keep_their_names(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("a/x.wav"), 1.0)
    write_sound(Path("b/x.wav"), 1.0, hz=800)
    assert run("a", "b/", "-o", "out").exit_code == 0
    assert names("out") == ["a/x.png", "b/x.png"]


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
    run: Callable[..., Result],
    write_sound: Callable[..., Path],
    inputs: list[str],
    arguments: list[str],
    expected: list[str],
) -> None:
    for i, name in enumerate(inputs):
        write_sound(Path(name), 1.0, hz=300 + 100 * i)
    result = run(*arguments, "-o", "out", "--json")
    assert result.exit_code == 0, result.output
    assert names("out") == expected
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    for line in lines:
        with Image.open(line["png"]) as image:
            assert image.info["source"] == Path(line["file"]).name


def test_output_inside_the_input(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("in/x.wav"), 1.0)
    for _ in range(2):
        result = run("in", "-o", "in/out", "--overwrite", "--sheet")
        assert result.exit_code == 0, result.output
        assert names("in") == ["out/sheet.png", "out/x.png", "x.wav"]
    assert run("in", "-o", "in").exit_code == 0
    assert "x.png" in names("in")


def test_json_lines(run: Callable[..., Result], write_sound: Callable[..., Path]) -> None:
    write_sound(Path("b é 犬.wav"), 2.0)
    write_sound(Path("silence.wav"), 1.0, level=0.0)
    result = run(".", "-o", "out", "--json", "--each-second", "--draws", 2, "--seed", 7)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 6
    assert set(lines[0]) == {
        "file", "png", "second", "state", "name", "second_guess", "confidence", "ood_score",
        "seed", "draw", "warnings",
    }  # fmt: skip
    # The tiny model has neither names nor a memory of sounds.
    assert (lines[0]["name"], lines[0]["second_guess"]) == ("", "")
    assert (lines[0]["confidence"], lines[0]["ood_score"]) == (None, None)
    assert [(line["second"], line["draw"]) for line in lines[:4]] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert all(Path(line["png"]).is_file() and line["seed"] == 7 for line in lines)
    assert lines[0]["file"] == "b é 犬.wav"
    assert lines[4]["state"] == "quiet"
    assert "pictures in out" in result.stderr


def test_an_alert_is_named_and_has_a_pictogram(
    run: Callable[..., Result], write_sound: Callable[..., Path],
    make_model: Callable[..., Path], alert_names: Callable[..., object], tmp_path: Path,
) -> None:  # fmt: skip
    path = write_sound(Path("a.wav"), 2.0)
    model = make_model(tmp_path / "alerts", labels=alert_names("doorbell"))
    result = run(path, "-o", "out", "--json", "--sheet", "--size", 160, model=model)
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout)
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


def test_an_unknown_sound_is_reported_as_such(
    run: Callable[..., Result], write_sound: Callable[..., Path],
    make_model: Callable[..., Path], tmp_path: Path,
) -> None:  # fmt: skip
    path = write_sound(Path("a.wav"), 1.0)
    strict = make_model(tmp_path / "strict", ood_score=0.01)
    result = run(path, "-o", "out", "--json", model=strict)
    assert result.exit_code == 0
    line = json.loads(result.stdout)
    assert line["state"] == "nothing_recognisable"
    assert 0.01 < line["ood_score"] < 1
    assert (line["name"], line["second_guess"]) == ("", "")
    result = run(path, "-o", "all", "--anyway", "--sheet", model=strict)
    assert result.exit_code == 0
    assert "nothing recognisable" in result.output
    assert Path("all/sheet.png").is_file()
    with Image.open("out/a.png") as hidden, Image.open("all/a.png") as shown:
        assert np.asarray(hidden).std() == 0 < np.asarray(shown).std()


def test_silence_is_no_mistake(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("silence.wav"), 2.0, level=0.0)
    result = run("silence.wav", "-o", "out")
    assert result.exit_code == 0
    assert "(quiet)" in result.stdout
    with Image.open("out/silence.png") as image:
        assert (np.asarray(image) == CALM_LEVEL).all()
        assert image.info["state"] == "quiet"


@pytest.mark.parametrize("size", [16, 333, 4096])
def test_size(run: Callable[..., Result], write_sound: Callable[..., Path], size: int) -> None:
    write_sound(Path("x.wav"), 1.0)
    assert run("x.wav", "-o", "out", "--size", size).exit_code == 0
    with Image.open("out/x.png") as image:
        assert image.size == (size, size)


def test_a_long_sheet_has_pages(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("x.wav"), 23.0)
    result = run("x.wav", "-o", "out", "--each-second", "--sheet")
    assert result.exit_code == 0, result.output
    assert {"sheet-1.png", "sheet-2.png", "x_s000.png", "x_s022.png"} <= set(names("out"))
    assert "sheet.png" not in names("out")
    # A shorter sheet over it leaves no page of the old one, and what is not ours alone.
    Image.new("RGB", (2, 2)).save("out/sheet-9.png")
    assert run("x.wav", "-o", "out", "--overwrite", "--sheet").exit_code == 0
    assert {"sheet.png", "sheet-9.png"} <= set(names("out"))
    assert "sheet-1.png" not in names("out")


# --- mistakes --------------------------------------------------------------------------------


def test_existing_outputs_are_refused_before_any_work(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("in/a.wav"), 1.0)
    write_sound(Path("in/b.wav"), 1.0)
    Path("out").mkdir()
    Path("out/b.png").write_bytes(b"precious")
    refused(run("in", "-o", "out"), "out/b.png is there already")
    assert names("out") == ["b.png"]
    assert run("in", "-o", "out", "--overwrite").exit_code == 0
    assert Path("out/b.png").read_bytes() != b"precious"
    refused(run("in", "-o", "out"), "and 1 more are there already")


def test_existing_seconds_and_sheets_are_refused(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("a.wav"), 2.0)
    Path("out").mkdir()
    Path("out/a_s001.png").touch()
    refused(run("a.wav", "-o", "out", "--each-second"), "a_s001.png is there")
    assert run("a.wav", "-o", "out").exit_code == 0
    Path("two").mkdir()
    Path("two/sheet.png").touch()
    refused(run("a.wav", "-o", "two", "--sheet"), "two/sheet.png is there")
    assert run("a.wav", "-o", "two").exit_code == 0
    assert Path("two/sheet.png").stat().st_size == 0, "not asked for, not touched"
    assert run("a.wav", "-o", "three", "--no-sheet").exit_code == 0
    assert names("three") == ["a.png"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"this is no sound at all\n" * 100, "cannot read"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "cannot read"),
    ],
)
def test_bad_sounds(run: Callable[..., Result], content: bytes | None, says: str) -> None:
    if content is not None:
        Path("bad.wav").write_bytes(content)
    refused(run("bad.wav", "-o", "out"), says)
    assert not Path("out").exists() or names("out") == []


def test_too_short_and_not_finite(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    import soundfile

    write_sound(Path("short.wav"), 0.05)
    refused(run("short.wav", "-o", "out"), "100 ms")
    bad = np.full(44_100, np.nan, np.float32)
    soundfile.write("nan.wav", bad, 44_100, subtype="FLOAT")
    refused(run("nan.wav", "-o", "out"), "finite")


def test_in_a_batch_the_others_go_on(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("in/a.wav"), 1.0)
    Path("in/bad.wav").write_bytes(b"no sound")
    write_sound(Path("in/c.wav"), 1.0)
    result = run("in", "gone.wav", "-o", "out", "--sheet")
    refused(result, "in/bad.wav", lines=2)
    assert "gone.wav does not exist" in result.stderr
    assert "2 could not be translated" in result.stderr
    assert names("out") == ["a.png", "c.png", "sheet.png"]


def test_damage_in_the_middle_of_a_long_sound(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    path = write_sound(Path("in/cut.flac"), 30.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_sound(Path("in/good.wav"), 1.0)
    result = run("in", "-o", "out", "--each-second", "--json", "--sheet", "--strict")
    refused(result, "cut.flac")
    # Seconds were drawn before the fault; neither they nor their folder stay, nor are they told.
    assert sorted(os.listdir("out")) == ["good_s000.png", "sheet.png"]
    assert [json.loads(line)["file"] for line in result.stdout.splitlines()] == ["in/good.wav"]
    with Image.open("out/sheet.png") as page:
        assert page.info["source"] == "good.wav"


def test_damage_leaves_the_pictures_of_before(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    path = write_sound(Path("cut.flac"), 30.0)
    assert run("cut.flac", "-o", "out", "--each-second").exit_code == 0
    before = {name: (Path("out") / name).read_bytes() for name in names("out")}
    assert len(before) == 30
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = ["cut.flac", "-o", "out", "--each-second", "--seed", 1, "--overwrite", "--strict"]
    refused(run(*again), "cut.flac")
    assert {name: (Path("out") / name).read_bytes() for name in names("out")} == before


def test_what_can_be_read_of_a_damaged_sound_is_used(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    path = write_sound(Path("cut.flac"), 30.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_sound(Path("whole.flac"), 2.0)
    result = run("cut.flac", "whole.flac", "-o", "out", "--each-second", "--json")
    assert result.exit_code == 0
    told = [line for line in result.stderr.splitlines() if line.startswith("warning:")]
    assert len(told) == 1
    assert "cut.flac is damaged at 15." in told[0]
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    cut = [line for line in lines if line["file"] == "cut.flac"]
    assert len(cut) in (15, 16)
    assert {tuple(line["warnings"]) for line in cut} == {(told[0].removeprefix("warning: "),)}
    assert [line["warnings"] for line in lines if line["file"] == "whole.flac"] == [[], []]


def test_a_track_is_chosen(run: Callable[..., Result], write_sound: Callable[..., Path]) -> None:
    write_sound(Path("a.wav"), 1.0)
    assert run("a.wav", "-o", "out", "--track", 1).exit_code == 0
    refused(
        run("a.wav", "-o", "out2", "--track", 2), "a.wav has 1 sound track: there is no track 2"
    )


def test_a_folder_is_searched_for_all_that_can_be_read(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("in/a.wav"), 1.0)
    write_sound(Path("elsewhere/b.flac"), 1.0)
    shutil.copy("in/a.wav", "in/c.wma")  # reading does not look at the suffix
    Path("in/linked").symlink_to(Path("elsewhere").absolute(), target_is_directory=True)
    Path("in/loop").symlink_to(Path("in").absolute(), target_is_directory=True)
    Path("in/broken.wav").symlink_to("nowhere.wav")
    os.mkfifo("in/pipe.wav")
    for name in ("x.txt", "y.txt", "z.pdf", "README", ".hidden.txt"):
        Path("in", name).touch()
    result = run("in", "-o", "out")
    assert result.exit_code == 0, result.output
    assert names("out") == ["a.png", "c.png", "linked/b.png"]
    assert "left out in in: 2 .txt, 1 without a suffix, 1 .pdf\n" in result.stderr
    Path("only").mkdir()
    Path("only/x.txt").touch()
    refused(run("only"), "there is no sound in the folder only: it holds 1 .txt")


@pytest.mark.parametrize("source", ["-", "/dev/stdin", "pipe.wav"])
def test_a_pipe_is_read_to_its_end(
    tiny_model: Path,
    write_sound: Callable[..., Path],
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    sound = write_sound(Path("a.wav"), 2.0).read_bytes()
    command = [sys.executable, "-m", "soundsight", "translate", source, "-o", "out", "--json"]
    command += ["--each-second", "--model", str(tiny_model)]
    if source == "pipe.wav":
        os.mkfifo(source)
        threading.Thread(target=Path(source).write_bytes, args=[sound], daemon=True).start()
    done = subprocess.run(command, input=sound, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    stem = "pipe" if source == "pipe.wav" else "stdin"
    assert names("out") == [f"{stem}_s000.png", f"{stem}_s001.png"]
    assert len(done.stdout.splitlines()) == 2


def test_an_address_is_refused_in_words(run: Callable[..., Result]) -> None:
    for name in ("https://example.org/dog.mp3", "http://127.0.0.1:1/a.wav"):
        refused(run(name), "is an address: only files are read, download it and pass the file")


LONG = "n" * 300 + ".wav"


def test_names_that_no_system_takes(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("a.wav"), 1.0)
    refused(run(LONG), f"cannot read {LONG}: ")
    refused(run("a.wav", "-o", LONG), f"cannot write to {LONG}: ")
    refused(run("a.wav", "-o", "out", model=Path(LONG)), f"no model folder {LONG}")
    assert not Path("out").exists()
    result = run(LONG, "a.wav", f"{LONG}/b.wav", "-o", "out")
    refused(result, LONG, lines=2)
    assert names("out") == ["a.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_folder_that_may_not_be_entered(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("shut/a.wav"), 1.0)
    write_sound(Path("b.wav"), 1.0)
    Path("shut").chmod(0)
    try:
        refused(run("shut/a.wav", "b.wav", "-o", "out"), "cannot read shut/a.wav: ")
        refused(run("b.wav", "-o", "two", model=Path("shut/model")), "no model folder shut/model")
    finally:
        Path("shut").chmod(0o755)
    assert names("out") == ["b.png"]


def test_a_picture_that_cannot_be_placed_is_named(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("a.wav"), 1.0)
    write_sound(Path("b.wav"), 1.0)
    Path("out/a.png").mkdir(parents=True)
    refused(run("a.wav", "b.wav", "-o", "out", "--overwrite"), "cannot write out/a.png: ")
    assert sorted(os.listdir("out")) == ["a.png", "b.png"]


def test_a_folder_without_sounds(run: Callable[..., Result]) -> None:
    Path("empty").mkdir()
    refused(run("empty", "-o", "out"), "no sound in the folder empty")
    assert not Path("out").exists()


def test_bad_outputs(run: Callable[..., Result], write_sound: Callable[..., Path]) -> None:
    write_sound(Path("a.wav"), 1.0)
    Path("file").touch()
    refused(run("a.wav", "-o", "file"), "is a file, not a folder")
    refused(run("a.wav", "-o", "file/below"), "cannot write to file/below")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_output_that_cannot_be_written(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("a.wav"), 1.0)
    refused(run("a.wav", "-o", "/proc/self/out"), "cannot write to /proc/self/out")


def test_bad_models(
    run: Callable[..., Result], write_sound: Callable[..., Path], own_model: Path
) -> None:
    write_sound(Path("a.wav"), 1.0)
    refused(run("a.wav", "-o", "out", model=Path("nowhere")), "no model folder nowhere")
    Path("foreign").mkdir()
    refused(run("a.wav", "-o", "out", model=Path("foreign")), "not a soundsight model")
    (own_model / "generator.onnx").write_bytes(b"rubbish")
    refused(run("a.wav", "-o", "out", model=own_model), "generator.onnx is damaged")
    (own_model / "model.json").write_text("{", "utf-8")
    refused(run("a.wav", "-o", "out", model=own_model), "not JSON")
    assert not Path("out").exists()


def test_control_characters_in_a_name_do_not_reach_the_terminal(
    run: Callable[..., Result],
) -> None:
    Path("a\n\x1b[31m.wav").write_bytes(b"no sound")
    result = run("a\n\x1b[31m.wav", "-o", "out")
    refused(result, "a\\n\\x1b[31m.wav")
    assert "\x1b" not in result.stderr


def test_a_name_that_is_no_text(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("plain.wav"), 1.0)
    name = os.fsdecode(b"\xff\xfe.wav")
    shutil.copy("plain.wav", name)
    result = run(name, "-o", "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["file"] == name
    assert len(names("out")) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--draws", "0"], ["--draws", "x"], ["--seed", "-1"], ["--size", "15"],
        ["--size", "4097"], ["--no-such-option"],
    ],
)  # fmt: skip
def test_usage_errors(run: Callable[..., Result], options: list[str]) -> None:
    result = run("a.wav", *options)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_seed_beyond_64_bits(
    run: Callable[..., Result], write_sound: Callable[..., Path]
) -> None:
    write_sound(Path("a.wav"), 1.0)
    refused(run("a.wav", "-o", "out", "--seed", 2**64), "seed")


def test_no_inputs(run: Callable[..., Result]) -> None:
    assert run().exit_code == 2


def test_each_picture_is_on_the_disk_before_it_gets_its_name_and_their_folder_once(
    run: Callable[..., Result],
    write_sound: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_sound(Path("a.wav"), 5.0)
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
    assert run("a.wav", "-o", "out", "--each-second").exit_code == 0
    pictures = [(Path("out") / name).stat().st_ino for name in names("out")]
    assert len(pictures) == 5
    expected = [(what, picture) for picture in pictures for what in ("sync", "name")]
    assert happened == [*expected, ("sync", Path("out").stat().st_ino)]


# --- Ctrl-C ----------------------------------------------------------------------------------


def test_ctrl_c_leaves_whole_sounds(
    tiny_model: Path, tmp_path: Path, write_sound: Callable[..., Path]
) -> None:
    short = write_sound(tmp_path / "short.wav", 1.0)
    sound = write_sound(tmp_path / "long.wav", 120.0)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "soundsight", "translate"]
    command += [str(short), str(sound), "-o", str(out)]
    command += ["--model", str(tiny_model), "--each-second", "--draws", "50", "--size", "512"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob(".*/long*.png"))) <= 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _stdout, stderr = process.communicate(timeout=120)
    # Where the signal met Python within exec(), as at an import, Python in the end dies of it.
    assert process.returncode in (130, -signal.SIGINT), stderr
    assert "Traceback" not in stderr
    assert stderr.strip() == "interrupted"
    written = sorted(os.listdir(out))
    assert written == [f"short_s000_d{draw}.png" for draw in sorted(range(50), key=str)]
    for name in written:
        with Image.open(out / name) as image:
            image.load()
