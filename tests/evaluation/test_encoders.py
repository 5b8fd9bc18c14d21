"""What is read from an encoder's embeddings, against plain NumPy, and the report of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError, DataError, OutputError
from soundsight.core.files import write_json
from soundsight.data.everyday.folder import Everyday
from soundsight.data.store.dataset import PairDataset
from soundsight.data.vegas.bench import SUBJECTS, Bench
from soundsight.evaluation.encoders import (
    evaluate_encoder,
    fit_probe,
    neighbour_votes,
    reconstruct,
    report_ears,
)
from soundsight.models.ears import Ears, ears_preset
from soundsight.models.presets import preset
from soundsight.models.published.autoencoder import Autoencoder
from soundsight.training.checkpoints import save_weights
from soundsight.training.configs import LoopConfig, default_encoder_config
from soundsight.training.encoder import EncoderTask
from soundsight.training.trainer import fit


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def train_encoder(kind: str, bench: Bench, run: Path) -> Path:
    config = replace(
        default_encoder_config(kind, "tiny", "modern"), loop=LoopConfig(steps=2, batch_size=4)
    )
    task = EncoderTask(config, PairDataset(bench, "train"))
    assert fit(task, run, config.loop, to_dict(config))
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


def test_reconstruction_errors_are_those_of_the_network() -> None:
    torch.manual_seed(0)
    network = Autoencoder(preset("tiny").autoencoder).eval()
    mels = np.random.default_rng(0).integers(256, size=(5, 128, 100), dtype=np.uint8)
    errors, drawn = reconstruct(network, mels)
    unit = mels / 127.5 - 1
    with torch.no_grad():
        made = network(torch.from_numpy(unit[:, None]).float())[0][:, 0].numpy()
    assert np.allclose(errors, np.square(made - unit).mean(axis=(1, 2)), rtol=1e-5)
    assert np.abs(drawn - (made + 1) * 127.5).max() <= 0.51


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


# --- ears


def test_a_balanced_probe_does_not_drown_the_small_class() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], [950, 50])
    known = rng.normal(size=(1000, 2)) + 1.0 * classes[:, None]
    asked, of = rng.normal(size=(400, 2)), np.repeat([0, 1], 200)
    asked += 1.0 * of[:, None]
    right = {}
    for balanced in (False, True):
        probe = fit_probe(known, classes, known, classes, count=2, balanced=balanced)
        found = probe.probabilities(asked)
        assert found.shape == (400, 2)
        right[balanced] = (found.argmax(axis=1) == of)[of == 1].mean()
    assert right[True] > right[False] + 0.3


def test_the_report_says_every_reading_and_is_the_same_again(
    toy_everyday: Everyday, toy_bench: Bench, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = Ears(ears_preset("everyday-tiny")).eval()
    run = tmp_path / "run"
    write_json(run / "run.json", {"kind": "ears", "config": {}})
    with pytest.raises(DataError, match="not finished"):
        report_ears(run, toy_everyday, toy_bench, tmp_path / "out")
    about = {"kind": "ears", "network": to_dict(network.config)}
    save_weights(run / "encoder.safetensors", network, about)
    words = report_ears(run, toy_everyday, toy_bench, tmp_path / "out", command="the command")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(words) == 12
    assert words[0].startswith("22 subjects, whole band, seconds: 0.")
    assert "the command" in (tmp_path / "out" / "report.md").read_text()
    for name in ("22 subjects", "28 kinds", "bench's five"):
        for band in ("whole band", "8 kHz"):
            kinds = set(report[name][band]["seconds"])
            assert ("knock" in kinds) == (name == "28 kinds")
            assert ("cat" in kinds) == (name != "bench's five")
            assert {"baby", "water", "mean", "bench"} <= kinds
    assert report_ears(run, toy_everyday, toy_bench, tmp_path / "out") == words
    with pytest.raises(ConfigError, match="devtest"):
        report_ears(run, toy_everyday, toy_bench, tmp_path / "out", split="train")
