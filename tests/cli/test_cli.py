"""The command around the commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from soundsight import __version__
from soundsight.cli import group
from soundsight.cli import main as cli
from soundsight.core.errors import DataError

WIDE = {"COLUMNS": "250", "NO_COLOR": "1"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--help"], "translate Turns sound into sight"),
        (["-h"], "translate Turns sound into sight"),
        (["translate", "--help"], "--out -o --model --each-second --draws --seed --size --json "
                                  "--sheet --no-sheet --overwrite"),
        (["storyboard", "--help"], ".png .mp4 .html .json --sensitivity --overwrite"),
    ],
)  # fmt: skip
def test_help_names_every_option(words: list[str], told: str) -> None:
    # Wide and without colours: the words are what counts.
    result = CliRunner().invoke(cli.build_app(), words, env=WIDE)
    assert result.exit_code == 0
    for word in told.split():
        assert word in result.stdout, word


def all_commands(one: Any, *words: str) -> Iterator[list[str]]:
    yield list(words)
    for name, inner in getattr(one, "commands", {}).items():
        yield from all_commands(inner, *words, name)


def test_help_names_no_python_types() -> None:
    app = cli.build_app()
    for words in all_commands(typer.main.get_command(app)):
        result = CliRunner().invoke(app, [*words, "--help"], env=WIDE)
        assert result.exit_code == 0
        assert not re.search(r"<[a-z]|INTEGER|FLOAT|BOOLEAN", result.stdout), words


def run(*words: object, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        stderr=-1,
        text=True,
        check=False,
        **{"stdout": -1, **how},
    )


def test_python_m_soundsight() -> None:
    done = run("-m", "soundsight", "--version")
    assert (done.returncode, done.stdout) == (0, f"soundsight {__version__}\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["no-such-command"], "'no-such-command' (see soundsight --help)"),
        (["--pace"], "--pace (see soundsight --help)"),
        (["train", "encodr"], "(see soundsight train --help)"),
        (["train", "encoder"], "'--out' / '-o' (see soundsight train encoder --help)"),
        (["train", "encoder", "-o", "x", "--steps", "few"], "'--steps'"),
        (["evaluate", "run", "--seed"], "'--seed' requires an argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistyped_command_gets_one_line(args: list[str], words: str) -> None:
    result = CliRunner().invoke(cli.build_app(), args, prog_name="soundsight")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.index("\n") == len(result.stderr) - 1
    assert words in result.stderr


@pytest.mark.parametrize("args", [[], ["train"], ["data"]], ids=" ".join)
def test_a_group_alone_shows_its_help_and_nothing_more(args: list[str]) -> None:
    alone, asked = (run("-m", "soundsight", *args, *more) for more in ([], ["--help"]))
    assert "Commands" in asked.stdout
    assert (asked.returncode, asked.stderr) == (0, "")
    assert (alone.returncode, alone.stderr) == (2, "")
    assert alone.stdout == asked.stdout


def test_what_the_command_line_relies_on_in_typer() -> None:
    """Typer names none of this in its documentation: a release may change it."""
    for error in (typer.BadParameter("words"), group.UsageError("words")):
        assert (error.exit_code, error.ctx) == (2, None)
        assert error.format_message().endswith("words")
    root = typer.main.get_command(cli.build_app())
    groups = {name for name, one in root.commands.items() if hasattr(one, "commands")}
    assert groups == {"train", "data"}
    for one in (root, *(root.commands[name] for name in groups)):
        assert isinstance(one, group.Commands)


ELSEWHERE = """
import sys
for name in ("fcntl", "grp", "pwd", "readline", "resource", "termios", "tty"):
    sys.modules[name] = None
from soundsight.cli.main import main
sys.platform, sys.argv = sys.argv[1], ["soundsight", *sys.argv[2:]]
main()
"""


@pytest.mark.parametrize("platform", ["win32", "darwin"])
@pytest.mark.parametrize("args", [["--version"], ["translate", "a.wav"], ["serve"]], ids=" ".join)
def test_other_systems_are_told_so_in_one_line(platform: str, args: list[str]) -> None:
    done = run("-c", ELSEWHERE, platform, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: soundsight runs on Linux alone; this is {platform}\n"


def test_every_command_has_the_same_manners() -> None:
    """Errors of any registered command become one line; our own faults keep their traceback."""
    app = cli.build_app()

    @app.command()
    def mistake() -> None:
        raise DataError("the bench is not here")

    @app.command()
    def stop() -> None:
        raise KeyboardInterrupt

    @app.command()
    def fault() -> None:
        raise RuntimeError("ours")

    for name, code, says in (
        ("mistake", 2, "error: the bench is not here\n"),
        ("stop", 130, "interrupted\n"),
    ):
        result = CliRunner().invoke(app, [name])
        assert (result.exit_code, result.stderr) == (code, says)
    assert isinstance(CliRunner().invoke(app, ["fault"]).exception, RuntimeError)


def test_words_survive_a_terminal_that_knows_only_ascii(tiny_model: Path, tmp_path: Path) -> None:
    done = run(
        "-m", "soundsight", "translate", "犬é.wav", "--model", tiny_model, cwd=tmp_path,
        env={"PYTHONIOENCODING": "ascii:strict", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: \\u72ac\\xe9.wav does not exist")


def test_main_is_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["soundsight", "--version"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0

    def interrupted(_commands: object) -> typer.Typer:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_app", interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130


SAYS = """
from soundsight.cli.main import build_app
from soundsight.cli.console import say
app = build_app()
app.command("hello")(lambda: say("hello"))
app(["hello"])
"""


@pytest.mark.parametrize(("place", "code"), [("/dev/full", 2), ("pipe", 141)])
def test_an_output_that_takes_no_more(place: str, code: int) -> None:
    """A full disk is one line; a reader that has gone, such as head, is no fault."""
    if place == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(place, os.O_WRONLY)
    try:
        done = run("-c", SAYS, stdout=writer, timeout=120)
    finally:
        os.close(writer)
    assert done.returncode == code
    full = "error: cannot write the output: No space left on device"
    assert done.stderr.splitlines() == ([] if code == 141 else [full])
