"""What the documents say can be typed, can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from recipes import synth
from soundsight.cli.main import build_app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced code blocks of one language ("" for none)."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [content for tag, content in fenced if tag == language]


def commands() -> list[str]:
    found = []
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        for block in blocks(text, "") + blocks(text, "sh"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.split("  #")[0] for line in lines if line.startswith("soundsight ")]
    return sorted(set(found))


def parse(line: str) -> None:
    """Raises a usage error on an unknown option, a missing argument or a wrong value."""
    command = typer.main.get_command(build_app())
    args = shlex.split(line)[1:]
    context = command.make_context("soundsight", list(args))
    while args and hasattr(command, "get_command"):
        name, command, args = command.resolve_command(context, args)
        context = command.make_context(name, list(args), parent=context)
    assert not hasattr(command, "get_command"), f"{line}: no such command"


def test_every_command_in_the_documents_parses() -> None:
    assert len(commands()) > 8
    for line in commands():
        parse(line)
    with pytest.raises(Exception, match="--nonsense"):
        parse("soundsight translate a.wav -o out --nonsense")


def test_python_in_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serving: Callable[..., Any]
) -> None:
    synth.write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    (sound,) = tmp_path.glob("dog.*")
    with serving() as (address, _):
        for block in blocks((ROOT / "README.md").read_text("utf-8"), "python"):
            here = block.replace("dog.wav", sound.name)
            here = here.replace("http://127.0.0.1:8000", address.rstrip("/"))
            exec(compile(here, "README.md", "exec"), {})


def test_links_and_targets_in_the_documents_lead_somewhere() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)\)", text):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name}: {target}"
        assert set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE)) <= targets
    for path in {*DOCUMENTS, *ROOT.glob("*.md")}:
        assert "@@" not in path.read_text("utf-8"), f"{path.name}: a figure is to be filled in"


def test_the_page_of_the_house_names_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z_]+)(?:\.py)?`", page))
    package = ROOT / "src" / "soundsight"
    modules = {path.stem for path in package.rglob("*.py") if not path.stem.startswith("__")}
    assert not modules - named
