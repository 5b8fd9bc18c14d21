"""Training goes on from a run or from a model folder, with old and new pairs together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from soundsight.cli.main import build_app
from soundsight.core.errors import DataError
from soundsight.data.store.dataset import PairDataset
from soundsight.data.vegas.bench import Bench
from soundsight.runtime import model_folder
from soundsight.training.checkpoints import Pretrained, read_tensors

STEPS = ["--set", "loop.log_every=1", "--set", "loop.checkpoint_every=2"]


def run(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(build_app(), [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def place(toy_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished encoder and translator, and a model folder that carries their weights."""
    root = tmp_path_factory.mktemp("starting")
    common = ["--data", toy_bench.root, "--preset", "tiny", "--threads", "1", *STEPS]
    weights = [f"{name}_weight=1" for name in ("contrast", "coherence", "variational")]
    run("train", "encoder", "-o", root / "encoder", "--steps", 2, "--batch-size", 6, *common)
    run("train", "translator", "-o", root / "translator", "--encoder", root / "encoder",
        "--steps", 2, "--batch-size", 6, *common,
        *[word for weight in weights for word in ("--set", weight)])  # fmt: skip
    run("export", root / "translator", "-o", root / "model", "--trainable")
    run("export", root / "translator", "-o", root / "closed")
    return root


@pytest.mark.parametrize("source", ["runs", "model"])
def test_training_goes_on_from_the_weights(
    source: str, place: Path, toy_bench: Bench, tmp_path: Path
) -> None:
    first = {
        name: place / (name if source == "runs" else "model") for name in ("encoder", "translator")
    }
    # A learning rate next to nothing: what comes out is what went in.
    still = ["--data", toy_bench.root, "--threads", "1", "--steps", 1, "--batch-size", 6, *STEPS]
    run("train", "encoder", "-o", tmp_path / "encoder", "--init", first["encoder"],
        "--set", "learning_rate=1e-12", *still)  # fmt: skip
    run("train", "translator", "-o", tmp_path / "translator", "--init", first["translator"],
        "--encoder", tmp_path / "encoder", "--set", "generator_rate=1e-12",
        "--set", "discriminator_rate=1e-12", "--set", "variational_weight=1", *still)  # fmt: skip
    for run_name, name in (
        ("encoder", "encoder"), ("encoder", "picture_encoder"), ("translator", "generator"),
        ("translator", "discriminator"), ("translator", "posterior"),
    ):  # fmt: skip
        before, _ = read_tensors(place / run_name / f"{name}.safetensors")
        after, _ = read_tensors(tmp_path / run_name / f"{name}.safetensors")
        for key, value in before.items():
            if "running" in key or "num_batches" in key:
                continue
            torch.testing.assert_close(after[key], value, atol=2e-3, rtol=2e-3, msg=key)
    config = json.loads((tmp_path / "translator" / "run.json").read_text("utf-8"))["config"]
    assert config["preset"] == "tiny"
    assert len(config["init"]) == 64


def test_a_start_has_the_sizes_of_its_generator(
    place: Path, toy_bench: Bench, tmp_path: Path
) -> None:
    """Its encoder may have others, and so may the discriminator, which has not been trained yet."""
    common = ["--data", toy_bench.root, "--threads", "1", "--steps", 1, "--batch-size", 6,
              "--encoder", place / "encoder", "--objective", "rc"]  # fmt: skip
    run("train", "translator", "-o", tmp_path / "pixels", "--preset", "small", *common,
        "--set", "adversarial_weight=0")  # fmt: skip
    assert not (tmp_path / "pixels" / "discriminator.safetensors").exists()
    run("train", "translator", "-o", tmp_path / "translator", "--init", tmp_path / "pixels",
        "--set", "score_norm=false", *common)  # fmt: skip
    assert (tmp_path / "translator" / "discriminator.safetensors").exists()
    config = json.loads((tmp_path / "translator" / "run.json").read_text("utf-8"))["config"]
    assert config["preset"] == "small"


def test_a_trainable_model_is_a_sound_model(place: Path) -> None:
    info = model_folder.read(place / "model")
    carried = {name for name in info.files if name.endswith(".safetensors")}
    assert carried == {
        "encoder.safetensors", "picture_encoder.safetensors", "generator.safetensors",
        "discriminator.safetensors", "posterior.safetensors",
    }  # fmt: skip
    tensors, _ = read_tensors(place / "model" / "generator.safetensors")
    assert {t.dtype for t in tensors.values()} <= {torch.float16, torch.int64}
    assert not [name for name in model_folder.read(place / "closed").files if "tensors" in name]


def test_what_cannot_be_started_from_is_one_line(
    place: Path, toy_bench: Bench, tmp_path: Path
) -> None:
    for folder, words in (
        ("closed", "export its run with --trainable"),
        ("encoder", "run of kind encoder"),
        ("nowhere", "there is no folder"),
        (".", "a finished run or a model folder is expected"),
    ):
        output = run("train", "translator", "--preset", "tiny", "--data", toy_bench.root, "--init",
                     place / folder, "--encoder", place / "encoder", "-o", tmp_path / "out",
                     code=2)  # fmt: skip
        assert words in " ".join(output.split())
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "encoder.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"encoder\.json is missing or damaged"):
        Pretrained(tmp_path).preset("generator", "encoder")
    assert Pretrained(place / "encoder").preset("generator", "encoder") == "tiny"


def test_other_weights_are_another_run(place: Path, toy_bench: Bench, tmp_path: Path) -> None:
    command = ["train", "encoder", "-o", tmp_path / "run", "--data", toy_bench.root, "--steps", 1,
               "--batch-size", 6, "--threads", "1", *STEPS]  # fmt: skip
    run(*command, "--init", place / "model")
    output = run(*command, "--preset", "tiny", code=2)
    assert "init" in output


def test_several_datasets_are_one(toy_bench: Bench) -> None:
    one, three = PairDataset(toy_bench, "train"), PairDataset([toy_bench] * 3, "train")
    assert len(three) == 3 * len(one)
    batch, alone = three.gather(range(len(three))), one.gather(range(len(one)))
    for part in (batch.mel, batch.image, batch.video, batch.photo):
        # The same pair three times has one id: it is no negative of itself.
        first, *others = part.chunk(3)
        assert all(torch.equal(first, other) for other in others)
    assert torch.equal(batch.mel[: len(one)], alone.mel)
