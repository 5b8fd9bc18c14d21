"""``soundsight import-published``: checkpoints in, a model folder that draws out."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from soundsight.cli.main import build_app
from soundsight.core.draws import generator_draws, item_of
from soundsight.core.units import to_levels, to_unit
from soundsight.models.published.autoencoder import Autoencoder, AutoencoderConfig
from soundsight.models.published.generator import DenseGenerator, DenseGeneratorConfig
from soundsight.runtime.translator import Translator

E = 16


def checkpoint(network: nn.Module, path: Path, seed: int = 0) -> Path:
    """Write a network with random numbers as the authors' code does."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                value.uniform_(0.5, 1.5, generator=rng)
            elif value.is_floating_point():
                spread = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1
                value.normal_(0.0, spread, generator=rng)
    torch.save(nn.DataParallel(network).state_dict(), path)
    return path


def generator(size: int = E, noise_ratio: float = 0.0) -> DenseGenerator:
    config = DenseGeneratorConfig(
        embedding_size=size,
        blocks=((6, 5, 4), (6, 5, 4), (5, 4, 3), (5, 4, 3), (4, 3, 2), (4, 3, 2)),
        transitions=(9, 8, 7, 6, 5, 4),
        noise_ratio=noise_ratio,
    )
    return DenseGenerator(config).eval()


def autoencoder(size: int = E) -> Autoencoder:
    return Autoencoder(AutoencoderConfig(embedding_size=size, maps=(4,) * 12)).eval()


def run(*words: str, folder: Path = Path()) -> Result:
    """Run import-published with the files G.pth and A.pth of a folder."""
    files = ["--generator", str(folder / "G.pth"), "--autoencoder", str(folder / "A.pth")]
    return CliRunner().invoke(
        build_app(), ["import-published", *files, "-o", str(folder / "model"), *words]
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with G.pth, A.pth and the model that they became; no test changes it."""
    folder = tmp_path_factory.mktemp("imported")
    checkpoint(generator(), folder / "G.pth")
    checkpoint(autoencoder(), folder / "A.pth", seed=1)
    done = run("--name", "authors", "--model-version", "3679", folder=folder)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("written: ")
    return folder


@pytest.fixture
def here(imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with copies of G.pth and A.pth."""
    monkeypatch.chdir(tmp_path)
    for name in ("G.pth", "A.pth"):
        shutil.copy(imported / name, name)


def refused(result: Result, *says: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(words in line for words in says), line
    assert sorted(p.name for p in Path().iterdir() if p.suffix != ".pth") in ([], ["model"])


def test_pictures_are_those_of_the_networks_in_the_files(imported: Path) -> None:
    made, encoder = generator(), autoencoder()
    for network, name in ((made, "G.pth"), (encoder, "A.pth")):
        state = torch.load(imported / name, weights_only=True)
        network.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    mels = np.random.default_rng(0).integers(0, 256, (3, 128, 100), dtype=np.uint8)
    drawn = [generator_draws(7, item_of(m), 0, made.dropout_size) for m in mels]
    with torch.no_grad():
        embedding = encoder.encode(torch.from_numpy(to_unit(mels))[:, None])
        expected = made(embedding, None, torch.from_numpy(np.stack([d[1] for d in drawn])))
        without = made(embedding)
    translator = Translator.load(imported / "model")
    got = translator.imagine(mels, seed=7).astype(int)
    want = to_levels(expected.permute(0, 2, 3, 1).numpy()).astype(int)
    # Weights are stored in half precision: a level or two of 255 is what that may cost.
    assert np.abs(got - want).max() <= 3
    assert np.abs(want - to_levels(without.permute(0, 2, 3, 1).numpy())).max() > 3
    # Dropout is on, as published: the same sound gives other pictures.
    first, second = translator.imagine(mels[:1], draws=2)
    assert not np.array_equal(first, second)


def test_where_the_weights_come_from_is_written_down(imported: Path) -> None:
    values = json.loads((imported / "model/model.json").read_text("utf-8"))
    assert (values["name"], values["version"], values["licence"]) == ("authors", "3679", "")
    assert values["embedding_size"] == E
    assert values["dropout_size"] == 9 + 8 + 7 + 6 + 5 + 4
    assert values["training"]["kind"] == "imported"
    card = (imported / "model/CARD.md").read_text("utf-8")
    for kind, file in (("generator", "G.pth"), ("autoencoder", "A.pth")):
        content = (imported / file).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        entry = values["training"]["config"][kind]
        assert entry == {"file": file, "sha256": digest, "bytes": len(content)}
        assert digest in card
    assert "Imported, not trained here" in card
    assert "Their training data and their licence are not in the files" in card
    assert str(imported) not in card + json.dumps(values)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_generator_that_takes_noise_and_a_known_licence(imported: Path) -> None:
    checkpoint(generator(noise_ratio=0.5), Path("G.pth"))
    shutil.copytree(imported / "model", "model")
    words = ["--noise-ratio", "0.5", "--licence", "CC-BY-4.0", "--overwrite"]
    assert run(*words).exit_code == 0
    info = Translator.load("model").info
    assert (info.name, info.noise_size, info.licence) == ("model", 8, "CC-BY-4.0")
    card = Path("model/CARD.md").read_text("utf-8")
    assert "Weights: CC-BY-4.0." in card
    assert "Their training data is not in the files" in card


@pytest.mark.usefixtures("here")
def test_what_is_there_is_kept(imported: Path) -> None:
    Path("model").mkdir()
    Path("model/dear.txt").write_text("kept")
    refused(run(), "exists already")
    refused(run("--overwrite"), "something else")
    assert Path("model/dear.txt").read_text() == "kept"
    shutil.rmtree("model")
    shutil.copytree(imported / "model", "model")
    refused(run("--name", "new"), "exists already")
    assert Translator.load("model").info.name == "authors"


@pytest.mark.usefixtures("here")
def test_files_that_do_not_fit_are_one_line() -> None:
    refused(run("-o", "s3://bucket/model"), "is a URL")
    refused(run("--noise-ratio", "1"), "not of one training")
    told = "A.pth is a checkpoint of the autoencoder, not of the generator"
    refused(run("--generator", "A.pth"), told)
    refused(run("--autoencoder", "none.pth"), "none.pth does not exist")
    checkpoint(generator(12), Path("G.pth"))
    refused(run(), "G.pth takes 12 numbers, fewer than an embedding of 16")
    checkpoint(generator(noise_ratio=0.5), Path("G.pth"))
    refused(run(), "takes 24 numbers", "has 16", "--noise-ratio 0.5")
    refused(run("--noise-ratio", "0.25"), "--noise-ratio 0.5")
    refused(run("--noise-ratio", "inf"), "--noise-ratio 0.5")
