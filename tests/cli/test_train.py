"""``soundsight train`` checks options before it loads torch or looks for data; and the ears."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = None
from typer.testing import CliRunner
from soundsight.cli.main import build_app
app = build_app()
for args in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, ["train", *args], prog_name="soundsight")
    print(json.dumps([done.exit_code, done.stdout, done.stderr]))
"""

MISTAKES = [
    ("encoder --set stepz=3", "unknown key stepz for EncoderConfig; choose from embedding_size,"),
    ("encoder --set loop.stepz=3", "unknown key loop.stepz for LoopConfig; choose from"),
    ("encoder --set loop.steps=x", "--set loop.steps=x: loop.steps is a number"),
    ("encoder --set steps", "--set steps: KEY=VALUE is expected"),
    ("encoder --set init=x", "--set init=x: this is named by --init alone"),
    ("encoder --kind rnn", "unknown kind 'rnn'; choose from autoencoder, contrastive"),
    ("encoder --schedule slow", "choose from modern, published"),
    ("encoder --precision 16", "choose from 32-true, bf16-mixed"),
    ("encoder --preset flagshp", "'flagshp'; choose from compact, everyday, everyday-tiny, flag"),
    ("encoder --preset everyday --teacher none.zip", "there is no teacher none.zip"),
    ("encoder --preset everyday --embedding-size 8", "--embedding-size: not for --preset"),
    ("encoder --preset everyday --set bank.copies=-1", "copies"),
    ("encoder --bank x", "belong to --preset everyday"),
    ("translator", "--encoder is missing"),
    ("translator --encoder x --preset flagshp", "choose from compact, everyday, everyday-tiny"),
    ("translator --encoder x --set stepz=3", "unknown key stepz for TranslatorConfig"),
    ("translator --encoder x --objective wgan", "choose from rc, relativistic"),
    ("translator --encoder x --attention 1,b", "--attention 1,b: whole numbers are expected"),
    ("translator --encoder x --evaluate-every 5", "--evaluate-every needs --judges"),
    ("translator --encoder x --preset everyday", "--preset everyday needs --decoder"),
    ("translator --encoder x --decoder y --preset everyday --set jitter=-1", "jitter"),
    ("decoder --preset compact", "unknown preset 'compact'; choose from everyday, everyday-tiny"),
    ("decoder --set zoom=-1", "zoom must not be negative"),
    ("distil --translator x --set shift=0", "shift"),
    ("align --translator x --set stepz=3", "unknown key stepz for AlignConfig; choose from"),
    ("ood --encoder x --set stepz=3", "unknown key stepz for OodClassifierFitConfig; choose from"),
    ("labels --encoder x --set stepz=3", "unknown key stepz for LabelHeadConfig; choose from"),
]


def without_torch(commands: list[list[str]], cwd: Path) -> list[Any]:
    """Run commands of `soundsight train` where torch cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, json.dumps(commands)],
        capture_output=True, text=True, check=True, cwd=cwd,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_mistakes_are_found_without_torch_and_without_data(tmp_path: Path) -> None:
    commands = [[*line.split(), "-o", "run"] for line, _ in MISTAKES]
    for (line, words), (code, out, err) in zip(
        MISTAKES, without_torch(commands, tmp_path), strict=True
    ):
        assert (code, out) == (2, ""), line
        assert err.startswith("error: "), line
        assert err.count("\n") == 1, line
        assert words in err, line
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_an_encoder_and_a_translator_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "ears").mkdir()
    (tmp_path / "ears/encoder.safetensors").write_bytes(b"weights")
    more = ["-o", "run", "--dry-run", "--steps", "7", "--set", "loop.log_every=3"]
    found = without_torch(
        [
            ["encoder", *more],
            ["encoder", "--preset", "everyday-tiny", *more],
            ["translator", "--encoder", "ears", *more],
        ],
        tmp_path,
    )
    for code, out, err in found:
        assert (code, err) == (0, "")
        loop = json.loads(out)["config"]["loop"]
        assert (loop["steps"], loop["log_every"]) == (7, 3)
    assert len(json.loads(found[2][1])["config"]["encoder"]) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["ears"]
