"""``soundsight listen``, with a sound card that is made up: what it shows, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner, Result

from soundsight.cli.main import build_app
from soundsight.live import listen as live
from soundsight.live import microphone

RATE = 16_000


class PortAudioError(Exception):
    pass


class Card(ModuleType):
    """What the package sounddevice would be, with one microphone and one pair of speakers."""

    PortAudioError = PortAudioError

    def __init__(self) -> None:
        super().__init__("sounddevice")
        self.inputs = 1
        self.least_channels = 1
        self.busy = False
        self.level = 0.3
        self.started = 0
        self.stalls_after: int | None = None
        self.streams: list[Any] = []
        self.InputStream = lambda **options: _Stream(self, **options)

    def query_devices(self, device: Any = None, kind: str | None = None) -> Any:
        speakers, microphone = (
            {"index": i, "name": name, "max_input_channels": inputs, "default_samplerate": 16e3}
            for i, (name, inputs) in enumerate((("Speakers", 0), ("Door microphone", 2)))
        )
        if device is None and kind is None:
            return [speakers, microphone][: 1 + self.inputs]
        if device is not None and device != 1 and str(device) not in "Door microphone":
            raise ValueError(f"No input device matching {device!r}")
        if not self.inputs:
            raise PortAudioError("Error querying device -1")
        return microphone

    def _terminate(self) -> None:
        assert not [stream for stream in self.streams if stream.open]

    def _initialize(self) -> None:
        self.started += 1


class _Stream:
    """Gives blocks of a tone, faster than a real one does, until it stalls."""

    def __init__(self, card: Card, **options: Any) -> None:
        if card.busy:
            raise PortAudioError(
                "Error opening InputStream: Device unavailable [PaErrorCode -9985]"
            )
        if options["channels"] < card.least_channels:
            raise PortAudioError("Invalid number of channels [PaErrorCode -9998]")
        assert options["samplerate"] == RATE
        self.card, self.options = card, options
        self.open, self.given = True, 0
        card.streams.append(self)

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        size = self.options["blocksize"]
        while self.open:
            if self.card.stalls_after is not None and self.given >= self.card.stalls_after:
                return
            t = np.arange(self.given * size, (self.given + 1) * size) / RATE
            tone = 32767 * self.card.level * np.sin(2 * np.pi * 440 * t)
            data = np.repeat(tone.astype(np.int16)[:, None], self.options["channels"], axis=1)
            self.options["callback"](data, size, None, SimpleNamespace(input_overflow=False))
            data[:] = 0  # PortAudio takes its memory back
            self.given += 1
            time.sleep(0.01)

    def abort(self) -> None:
        self.open = False

    def close(self) -> None:
        self.open = False


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    made = Card()
    monkeypatch.setitem(sys.modules, "sounddevice", made)
    yield made
    assert not [stream for stream in made.streams if stream.open], "the microphone is held"


@pytest.fixture
def run(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        words = ["listen", *map(str, arguments), "--model", str(tiny_model)]
        return CliRunner().invoke(build_app(), words)

    return call


def refused(result: Result, says: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


def lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in result.stdout.splitlines()]


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


# --- what it shows -----------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "first"), [(0.3, "A familiar sound"), (0.0001, "Quiet")])
def test_changes_are_lines_where_there_is_no_terminal(
    run: Callable[..., Result], card: Card, level: float, first: str
) -> None:
    card.level = level
    shown = lines(run("--seconds", 1.5))
    assert shown[0].startswith(first)
    assert shown[1:] == ["NOT LISTENING, Stopped."]
    assert card.streams[0].options["channels"] == 1


@pytest.mark.slow
def test_a_muted_microphone_is_not_listening_and_stays_open(
    run: Callable[..., Result], card: Card
) -> None:
    card.level = 0.0
    assert lines(run("--seconds", 4.5)) == [
        "Quiet",
        "NOT LISTENING, The microphone sends nothing: is it muted or covered?",
        "NOT LISTENING, Stopped.",
    ]
    assert len(card.streams) == 1
    *before, last = rows(run("--json", "--seconds", 4.5))
    assert last["state"] == "not_listening"
    assert "muted or covered" in last["why"]
    assert {row["state"] for row in before} == {"quiet"}


@pytest.mark.usefixtures("card")
def test_json_lines_and_the_png(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for every window; the PNG is of the present and ends as not listening."""
    written: list[str] = []
    save = live.save_panel

    def noted(view: Any, path: Path) -> None:
        save(view, path)
        with Image.open(tmp_path / "now.png") as image:
            image.load()
            written.append(image.info["state"])

    monkeypatch.setattr(live, "save_panel", noted)
    windows = rows(run("--json", "--png", "now.png", "--seconds", 2.5))
    assert len(windows) > 4
    starts = [row["start_s"] for row in windows]
    assert starts == sorted(starts)
    assert all(round(4 * start, 6) % 1 == 0 for start in starts)
    last = windows[-1]
    assert (last["state"], last["settled"], last["event"]) == ("picture", True, 1)
    assert last["level_dbfs"] == pytest.approx(-13.5, abs=0.2)
    assert "picture" in written
    assert written[-1] == "not_listening"
    assert [path.name for path in tmp_path.iterdir()] == ["now.png"]


def test_a_file_is_heard_at_its_own_pace(
    run: Callable[..., Result], write_sound: Callable[..., Path], tmp_path: Path
) -> None:
    sound = write_sound(tmp_path / "street.wav", 2.0)
    began = time.monotonic()
    shown = lines(run("--play", sound))
    assert time.monotonic() - began > 1.9
    assert shown[0].startswith("A familiar sound")
    assert shown[-1] == "NOT LISTENING, The file has ended."
    # A file may be silent: it is no muted microphone.
    soundfile.write(sound, np.zeros(5 * RATE, np.int16), RATE)
    assert lines(run("--play", sound)) == ["Quiet", "NOT LISTENING, The file has ended."]


# --- microphones -------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "channels"), [("1", 1), ("Door", 2)])
def test_a_device_is_chosen_by_number_or_name(
    run: Callable[..., Result], card: Card, device: str, channels: int
) -> None:
    card.least_channels = channels
    assert lines(run("--device", device, "--seconds", 1.5))[0].startswith("A familiar sound")
    assert card.streams[-1].options["device"] == 1


def test_devices_are_listed_and_the_own_choice_is_marked(
    run: Callable[..., Result], card: Card
) -> None:
    result = run("--list-devices")
    assert result.stdout.splitlines() == ["*  1  Door microphone  (2 channels, 16000 Hz)"]
    card.inputs = 0
    assert run("--list-devices").stdout == "there is no microphone\n"


@pytest.mark.slow
def test_a_microphone_that_goes_comes_back(run: Callable[..., Result], card: Card) -> None:
    card.stalls_after = 60
    real = card._initialize

    def plugged_in_again() -> None:
        real()
        card.stalls_after = None

    card._initialize = plugged_in_again  # type: ignore[method-assign]
    shown = lines(run("--seconds", 5))
    assert shown[0].startswith("A familiar sound")
    assert shown[1] == "NOT LISTENING, No sound comes from the microphone."
    assert shown[2].startswith("A familiar sound")
    assert (card.started, len(card.streams)) == (1, 2)


@pytest.mark.slow
def test_a_microphone_that_stays_away_is_said_once(
    run: Callable[..., Result], card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    card.stalls_after = 60
    monkeypatch.setattr(card, "_initialize", lambda: setattr(card, "inputs", 0))
    states = [row["state"] for row in rows(run("--json", "--seconds", 4))]
    assert states.count("not_listening") == 1


def test_too_much_that_waits_loses_its_oldest(card: Card) -> None:
    source = microphone.Microphone()
    with contextlib.closing(source):
        card.streams[0].abort()
        time.sleep(0.05)
        source.read(0)
        for number in range(100):
            source._take(np.full((1000, 1), number, np.int16), 1000, None, None)
        block = source.read(0)
        assert block is not None
        samples, gap = block
        assert gap
        assert len(samples) <= microphone.MOST_WAITING_S * RATE
        assert samples[-1, 0] == 99
        assert source.read(0) is None


def test_messages_of_libraries_are_not_shown() -> None:
    script = (
        "import os, sys\n"
        "from soundsight.live.microphone import quiet_stderr\n"
        "with quiet_stderr():\n"
        "    os.write(2, b'ALSA lib pcm.c: unknown\\n')\n"
        "    print('ours, within', file=sys.stderr)\n"
        "os.write(2, b'another, after\\n')\n"
        "print('ours, after', file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines() == ["ours, within", "another, after", "ours, after"]


# --- refusals ----------------------------------------------------------------------------------


def test_microphones_that_cannot_be_opened(run: Callable[..., Result], card: Card) -> None:
    refused(run("--device", "Kitchen"), "no input is called 'Kitchen'")
    refused(run("--device", "7"), "no input is called '7'")
    card.busy = True
    result = run()
    refused(result, "cannot listen to Door microphone: Error opening InputStream")
    assert "PaErrorCode" not in result.stderr
    card.inputs = 0
    refused(run(), "there is no microphone")
    assert card.streams == []


def test_without_the_extra_or_portaudio(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    refused(run(), "pip install 'soundsight[mic]'")
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice")
    refused(run(), "apt install libportaudio2")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--png", "folder.png"], "is a folder"),
        (["--png", "now.jpg"], "is no PNG"),
        (["--png", "s3://bucket/now.png"], "is a URL"),
        (["--play", "a.wav", "--device", "1"], "leave --device out"),
        (["--play", "missing.wav"], "missing.wav does not exist"),
        (["--play", "text.wav"], "text.wav"),
    ],
)
def test_refused_before_anything_is_opened(
    run: Callable[..., Result], card: Card, tmp_path: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.wav").write_text("no sound")
    refused(run(*arguments), says)
    assert card.streams == []


@pytest.mark.usefixtures("card")
def test_a_folder_that_is_in_the_way(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(run("--png", "file/now.png"), "cannot write")


# --- in a terminal -----------------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_terminal_the_picture_is_drawn_and_ctrl_c_ends_it(
    tiny_model: Path, write_sound: Callable[..., Path], tmp_path: Path
) -> None:
    sound = write_sound(tmp_path / "street.wav", 30.0)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "soundsight", "listen", "--play", str(sound), "--model",
         str(tiny_model)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "90",
             "LINES": "40"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        with contextlib.suppress(OSError):  # the other side is closed
            while part := os.read(ours, 65536):
                if "\u2580".encode() in part and "\u2580".encode() not in seen:
                    process.send_signal(signal.SIGINT)
                seen += part
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    shown = seen.decode("utf-8", "replace")
    assert "imagined from sound" in shown
    assert "\u2580" in shown
    assert "\x1b[?1049h" in shown  # a screen of its own ...
    assert shown.rindex("\x1b[?1049l") > shown.rindex("\x1b[?1049h")  # ... that it leaves
    assert "a familiar sound" in shown[shown.rindex("\x1b[?1049l") :]
    assert "Traceback" not in shown
