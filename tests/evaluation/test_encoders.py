"""What is read from an encoder's embeddings, against plain NumPy, and the report of a run."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError, DataError, OutputError
from soundsight.data.store.dataset import PairDataset
from soundsight.data.vegas.bench import SUBJECTS, Bench
from soundsight.evaluation.encoders import (
    evaluate_encoder,
    fit_probe,
    neighbour_votes,
    reconstruct,
)
from soundsight.evaluation.figures import draw_map, reconstruction_sheet
from soundsight.models.presets import preset
from soundsight.models.published.autoencoder import Autoencoder
from soundsight.training.configs import LoopConfig, default_encoder_config
from soundsight.training.encoder import EncoderTask
from soundsight.training.trainer import fit
from soundsight.views.drawing import heat


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def train_encoder(kind: str, bench: Bench, run: Path) -> Path:
    config = replace(
        default_encoder_config(kind, "tiny", "modern"), loop=LoopConfig(steps=2, batch_size=4)
    )
    task = EncoderTask(config, PairDataset(bench, "train"))
    assert fit(task, run, config.loop, to_dict(config), console=Console(quiet=True))
    return run


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory, toy_bench: Bench) -> Path:
    """A tiny autoencoder after two steps."""
    torch.set_num_threads(1)
    return train_encoder("autoencoder", toy_bench, tmp_path_factory.mktemp("run") / "tiny-ae")


# --- probes -------------------------------------------------------------------------------------


def test_neighbours_vote_by_cosine() -> None:
    rng = np.random.default_rng(0)
    train, unknown = rng.normal(size=(60, 4)), rng.normal(size=(300, 4))
    classes = rng.integers(5, size=60)
    votes = neighbour_votes(train, classes, unknown, neighbours=7)
    for row, vector in zip(votes, unknown, strict=True):
        cosine = [vector @ t / np.linalg.norm(vector) / np.linalg.norm(t) for t in train]
        nearest = np.argsort(cosine)[::-1][:7]
        assert np.allclose(row, np.bincount(classes[nearest], minlength=5) / 7)
    # Length does not matter, and there may be fewer than asked for.
    assert np.allclose(neighbour_votes(train * 9, classes, unknown, neighbours=7), votes)
    few = neighbour_votes(train[:3], classes[:3], unknown[:1])
    assert np.allclose(few, np.bincount(classes[:3], minlength=5) / 3)


def test_the_probe_is_where_the_gradient_ends() -> None:
    rng = np.random.default_rng(1)
    classes = rng.integers(5, size=400)
    train = np.eye(5)[classes] @ rng.normal(size=(5, 6)) + rng.normal(size=(400, 6))
    train = train @ rng.normal(size=(6, 6)) + 3
    probe = fit_probe(train, classes, train, classes, penalties=[0.05])
    # The same loss, written out: at its least it slopes in no direction.
    found = probe.probabilities(train)
    logits = np.log(found)
    standard = (train - train.mean(axis=0)) / train.std(axis=0)
    design = np.concatenate([standard, np.ones((400, 1))], axis=1)
    weights = np.linalg.lstsq(design, logits - logits.mean(axis=1, keepdims=True), rcond=None)[0]
    slope = design.T @ (found - np.eye(5)[classes]) / 400
    slope[:-1] += 0.05 * weights[:-1]
    assert np.abs(slope).max() < 1e-5
    assert np.abs(slope[:-1] - 0.05 * weights[:-1]).max() > 1e-2
    assert np.allclose(found.sum(axis=1), 1)


def test_val_chooses_the_penalty() -> None:
    rng = np.random.default_rng(2)
    # As many dimensions as seconds and nothing to be known: only a strong penalty does no harm.
    train, val = rng.normal(size=(60, 40)), rng.normal(size=(500, 40))
    nothing = rng.integers(5, size=60), rng.integers(5, size=500)
    probe = fit_probe(train, nothing[0], val, nothing[1])
    assert probe.penalty == 1.0
    # A direction that tells all: a weak one is as sure as it should be.
    classes, others = rng.integers(5, size=300), rng.integers(5, size=300)
    known, asked = (np.eye(5)[c] + 0.05 * rng.normal(size=(300, 5)) for c in (classes, others))
    sure = fit_probe(known, classes, asked, others)
    assert sure.penalty <= 1e-4
    assert (sure.probabilities(asked).argmax(axis=1) == others).all()


def test_what_hardly_moves_is_no_obstacle() -> None:
    rng = np.random.default_rng(3)
    classes = rng.integers(5, size=300)
    # Nearly all variance along one axis that says nothing, and the class in what is left.
    told = np.eye(5)[classes] + 0.1 * rng.normal(size=(300, 5))
    train = np.concatenate([100 * rng.normal(size=(300, 1)), 0.05 * told, np.ones((300, 2))], 1)
    probe = fit_probe(train, classes, train, classes)
    assert (probe.probabilities(train).argmax(axis=1) == classes).mean() > 0.95
    still = fit_probe(np.ones((10, 3)), np.arange(10) % 5, np.ones((5, 3)), np.arange(5))
    assert np.allclose(still.probabilities(np.ones((2, 3))), 0.2)


# --- pictures -----------------------------------------------------------------------------------


def test_the_map_is_the_same_png_twice_whatever_the_settings() -> None:
    import matplotlib

    places = np.random.default_rng(0).normal(size=(40, 2))
    subjects = [SUBJECTS[i % 5] for i in range(40)]
    first = draw_map(places, subjects, ("one", "two"))
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        assert draw_map(places, subjects, ("one", "two")) == first
    picture = Image.open(io.BytesIO(first))
    assert picture.format == "PNG"
    assert not picture.text  # type: ignore[attr-defined]
    assert draw_map(places + 1, subjects[::-1], ("one", "two")) != first


def test_reconstruction_errors_are_those_of_the_network() -> None:
    torch.manual_seed(0)
    network = Autoencoder(preset("tiny").autoencoder).eval()
    mels = np.random.default_rng(0).integers(256, size=(5, 128, 100), dtype=np.uint8)
    errors, drawn = reconstruct(network, mels, [3, 1])
    unit = mels / 127.5 - 1
    with torch.no_grad():
        made = network(torch.from_numpy(unit[:, None]).float())[0][:, 0].numpy()
    assert np.allclose(errors, np.square(made - unit).mean(axis=(1, 2)), rtol=1e-5)
    assert np.abs(drawn - (made[[3, 1]] + 1) * 127.5).max() <= 0.51


def test_the_sheet_holds_every_mel_above_what_is_drawn_of_it() -> None:
    heard = np.zeros((3, 128, 100), dtype=np.uint8)
    drawn = np.full((3, 128, 100), 255, dtype=np.uint8)
    page = reconstruction_sheet(heard, drawn, ["baby", "water", "baby"], np.array([0.1, 0.2, 0.3]))
    light = (page == heat()[255]).all(axis=2)
    assert light.sum() == 3 * 128 * 100
    # Light is what is drawn, and it lies in the lower half of the first row.
    assert not light[: light.shape[0] // 5].any()
    top = reconstruction_sheet(drawn, heard, ["baby", "water", "baby"], np.zeros(3))
    assert top.shape == page.shape
    assert not np.array_equal(top, page)


# --- the report ---------------------------------------------------------------------------------


def test_an_autoencoder_is_measured_whole_and_the_same_twice(
    autoencoder: Path, toy_bench: Bench, tmp_path: Path
) -> None:
    told: list[str] = []
    report = evaluate_encoder(
        autoencoder,
        toy_bench,
        tmp_path / "a",
        seed=3,
        command="the command",
        progress=lambda what, _done, _of: told.append(what),
    )
    files = {"report.json", "report.md", "report.html", "map.png", "sheet.png"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == files
    evaluate_encoder(autoencoder, toy_bench, tmp_path / "b", seed=3, command="the command")
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert json.loads((tmp_path / "a" / "report.json").read_text()) == report
    assert report["kind"] == "encoder"
    assert report["model"]["encoder"] == "autoencoder"
    assert report["model"]["embedding_size"] == preset("tiny").autoencoder.embedding_size
    assert report["sounds"] == dict.fromkeys(SUBJECTS, 12)
    assert report["audible"] == 55
    # The toy's classes differ in loudness: the band means tell them, which tests the labels' order.
    rows = report["rows"]
    assert rows["band means, linear probe, audible seconds"]["mean"]["share"] > 0.8
    assert rows["linear probe"]["mean"]["count"] == 60
    assert rows["linear probe, audible seconds"]["mean"]["count"] == 55
    assert rows["linear probe, by video"]["mean"]["count"] == 20
    assert sum(map(sum, report["confusion"])) == 60
    mean_mel = np.mean(_mels(toy_bench, "train"), axis=0)
    wanted = np.mean(
        [np.square((m - mean_mel) / 127.5).mean() for m in _mels(toy_bench, "devtest")]
    )
    assert report["errors"]["mean log-mel of train"]["mean"]["share"] == pytest.approx(wanted)
    assert "splits heard" in told
    text = (tmp_path / "a" / "report.md").read_text("utf-8")
    for words in ("autoencoder", "linear probe", "the command", "map.png", "sheet.png"):
        assert words in text


def test_a_contrastive_encoder_draws_nothing(toy_bench: Bench, tmp_path: Path) -> None:
    run = train_encoder("contrastive", toy_bench, tmp_path / "run")
    report = evaluate_encoder(run, toy_bench, tmp_path / "out", split="val")
    assert not (tmp_path / "out" / "sheet.png").exists()
    assert report["errors"] == {}
    assert report["settings"]["split"] == "val"
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "a little flattered" in text
    assert "Drawn again" not in text


def test_what_cannot_be_measured_is_refused_and_leaves_nothing(
    autoencoder: Path, toy_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="devtest, val"):
        evaluate_encoder(autoencoder, toy_bench, tmp_path / "out", split="train")
    with pytest.raises(DataError):
        evaluate_encoder(tmp_path / "none", toy_bench, tmp_path / "out")
    few = [pair for pair in toy_bench.pairs("val") if pair.subject == "dog"]
    one_class = Bench(toy_bench.root)
    monkeypatch.setattr(one_class, "pairs", lambda _: few)
    with pytest.raises(DataError, match="has no sounds of baby, rail, fireworks, water in train"):
        evaluate_encoder(autoencoder, one_class, tmp_path / "out")
    other = tmp_path / "other"
    other.mkdir()
    (other / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match="something else"):
        evaluate_encoder(autoencoder, toy_bench, other)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert (other / "diary.txt").read_text() == "mine"


def _mels(bench: Bench, split: str) -> list[np.ndarray]:
    return [bench.spectrogram(pair.spectrogram).astype(float) for pair in bench.pairs(split)]
