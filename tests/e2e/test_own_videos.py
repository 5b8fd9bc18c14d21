"""From one's own videos to a model: the commands of the README, typed as they stand there.

60 toy videos and tiny networks; what is put behind a command makes it small, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from recipes import synth
from soundsight.cli.main import build_app
from soundsight.data.everyday.folder import EVERYDAY_VARIABLE
from soundsight.data.store.shards import open_dataset
from soundsight.data.vegas.bench import BENCH_VARIABLE
from soundsight.runtime import model_folder
from soundsight.training.checkpoints import read_tensors

pytestmark = pytest.mark.slow

README = Path(__file__).resolve().parents[2] / "README.md"
VIDEOS, SECONDS = 60, 3

SMALL = {
    "prepare": "--clean none --split 0.6,0.2,0.2 --workers 1",
    "train encoder": "--steps 2 --batch-size 8 --precision 32-true",
    "train decoder": "--steps 3 --batch-size 4 --set sharpen_from=1",
    "train translator": "--steps 2 --batch-size 8",
    "train distil": "--steps 1 --batch-size 4 --set steps=2 --set substeps=1",
    "train align": "--steps 2 --batch-size 4 --set preset=tiny --set ahead=1",
    "train labels": "--set others_each=1 --set iterations=10",
}
"""What makes a command small."""


def run(line: str, code: int = 0) -> str:
    """Run a command of the README, or one like it."""
    line = line.split("  #")[0].strip()
    words = shlex.split(line)[1:]
    name = " ".join(words[: 2 if words[0] in ("train", "data") else 1])
    extra = shlex.split(SMALL.get(name, ""))
    if name.startswith("train"):
        extra += ["--threads", "1"]
    if name in ("train encoder", "train decoder") and "--init" not in words:
        # The last one that is given counts.
        extra += ["--preset", "everyday-tiny"]
    result = CliRunner().invoke(build_app(), [*words, *extra], prog_name="soundsight")
    assert result.exit_code == code, f"{line}\n{result.output}"
    return result.output


def sequences() -> list[list[str]]:
    """The commands of each block of the README's section, those of the two sequences."""
    section = README.read_text("utf-8").partition("## Train on your own videos")[2]
    section = section.partition("\n## ")[0]
    fenced = re.findall(r"^```\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    return [[x for x in block.splitlines() if x.startswith("soundsight ")] for block in fenced]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both sequences were run, one after the other, without any other data."""
    root = tmp_path_factory.mktemp("own-videos")
    for k in range(VIDEOS):
        subject = synth.SUBJECTS[k % 2]
        path = root / "my-videos" / subject / f"{subject}_{k:03d}.mp4"
        synth.write_video(path, subject, SECONDS, k, fps=4, size_px=64)
    synth.write_examples(root)
    next(root.glob("dog.*")).rename(root / "dog.wav")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        for variable in (BENCH_VARIABLE, EVERYDAY_VARIABLE):
            patch.setenv(variable, str(root / "nowhere"))
        os.chdir(root)
        try:
            first, second = sequences()
            for line in first:
                run(line)
            for line in second:
                run(line.replace("MODEL", "my-model"))
        finally:
            os.chdir(before)
    return root


def test_both_sequences_stand_in_the_readme() -> None:
    first, second = sequences()
    assert len(first) == 11
    assert len(second) == 7
    assert all("--data data" in line for line in first + second if "soundsight train" in line)


def test_every_split_has_videos_of_its_own(place: Path) -> None:
    data = open_dataset(place / "data")
    groups = {
        split: {json.loads(r.files["json"])["group"] for r in data.records(split)}
        for split in data.splits
    }
    assert all(groups.values())
    assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == VIDEOS


def test_the_model_draws_names_and_refuses(place: Path) -> None:
    info = model_folder.read(place / "my-model")
    names = json.loads((place / "my-model" / "labels.json").read_text("utf-8"))["labels"]
    assert set(names) == {"baby", "dog"}
    assert "generator.onnx" in info.files
    assert info.thresholds.ood_score < 1
    with Image.open(next((place / "mine").rglob("*.png"))) as picture:
        assert picture.size[0] >= 96


@pytest.mark.parametrize("model", ["my-model", "my-second-model"])
def test_every_second_becomes_a_picture(model: str, place: Path, tmp_path: Path) -> None:
    video = place / "my-videos" / "dog" / "dog_001.mp4"
    output = run(
        f"soundsight translate {video} -o {tmp_path} --model {place / model} --each-second --json "
        "--anyway"
    )
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [line["second"] for line in lines] == list(range(SECONDS))
    with Image.open(sorted(tmp_path.rglob("*.png"))[0]) as picture:
        assert np.asarray(picture.convert("RGB")).std() > 0
    # Where no names were fitted all else is as ever.
    assert ("labels.json" in model_folder.read(place / model).files) == (model == "my-model")


def test_the_model_carries_what_training_goes_on_from(place: Path) -> None:
    carried = {
        name for name in model_folder.read(place / "my-model").files if name.endswith("tensors")
    }
    assert carried == {
        f"{name}.safetensors"
        for name in ("encoder", "picture_encoder", "latent_encoder", "latent_decoder", "flow")
    }
    # Of the few-step copy and what taught it, the latter.
    taught_by = read_tensors(place / "own" / "few" / "many_step_flow.safetensors")[0]
    for name, tensor in read_tensors(place / "my-model" / "flow.safetensors")[0].items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor, taught_by[name].half())
    assert not [
        n for n in model_folder.read(place / "my-second-model").files if n.endswith("tensors")
    ]


@pytest.mark.parametrize("part", ["ears", "decoder", "flow"])
def test_the_second_sequence_began_with_the_first(part: str, place: Path) -> None:
    about = json.loads((place / "more" / part / "run.json").read_text("utf-8"))
    assert len(about["config"]["init"]) == 64
    assert about["data"]["kind"] == "prepared"
    if part == "decoder":
        first, second = (
            read_tensors(place / run / "latent_encoder.safetensors")[0]
            for run in ("my-model", "more/decoder")
        )
        assert all(torch.equal(second[n], t.to(second[n].dtype)) for n, t in first.items())


def test_two_processes_share_a_run(place: Path, tmp_path: Path) -> None:
    """As torchrun starts them; one makes what is not there yet, and both read it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = (
        "train translator --encoder own/ears --decoder own/decoder --data data --threads 1 "
        f"--bank {tmp_path / 'bank'} -o {tmp_path / 'flow'} --accelerator cpu "
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", "from soundsight.cli.main import main; main()",
             *shlex.split(line + SMALL["train translator"])],
            env={
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "lo",
            },
            cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert [out for out, _ in said] == [f"finished: {tmp_path / 'flow'}\n", ""]
    about = json.loads((tmp_path / "flow" / "run.json").read_text("utf-8"))
    assert [start["processes"] for start in about["starts"]] == [2]
    assert (tmp_path / "flow" / "flow.safetensors").is_file()


def test_mistakes_are_one_line(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    teacher = tmp_path / "teacher.onnx"
    teacher.write_bytes(b"a network")
    one = tmp_path / "one"
    run(f"soundsight prepare my-videos/baby/baby_000.mp4 -o {one}")
    for line, words in (
        (f"encoder --preset everyday --teacher {teacher}", "prepared pairs hold none"),
        ("encoder --init my-second-model", "export its run with --trainable"),
        ("decoder --init own/ears", "holds no weights of a latent_encoder"),
        ("translator --init own/ears --decoder own/decoder", "holds no weights of a flow"),
        (
            "translator --preset everyday --encoder own/ears --decoder own/decoder --bank own/bank",
            "take one --preset for all three",
        ),
        ("translator --preset everyday --encoder own/ears", "--decoder"),
        ("translator --preset everyday", "--encoder is missing"),
        ("align --translator own/flow", "start from `train distil`"),
    ):
        output = run(f"soundsight train {line} --data data -o {tmp_path / 'out'}", code=2)
        assert words in " ".join(output.split()), output
        assert not (tmp_path / "out").exists()
    for line, words in (
        (f"ood --encoder own/few --data {one}", "no pairs in its val split"),
        (f"labels --encoder own/few --data {one}", "no audible train second has a label"),
    ):
        output = run(f"soundsight train {line} -o {tmp_path / 'out'}", code=2)
        assert words in " ".join(output.split()), output
