"""Training as published, against plain PyTorch loops written here."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError
from soundsight.export.onnx import export_run
from soundsight.pairs.bench import Bench
from soundsight.pairs.dataset import PairDataset, batch_indices
from soundsight.runtime.translator import Translator
from soundsight.training.encoder import (
    EncoderTask,
    condition,
    default_encoder_config,
    load_encoder,
    to_float,
)
from soundsight.training.loop import LoopConfig, fit, step_rng
from soundsight.training.moving_average import MovingAverageConfig
from soundsight.training.translator import (
    TranslatorConfig,
    TranslatorTask,
    default_config,
    load_generator,
)

SILENT = Console(quiet=True, stderr=True)
LOOP = LoopConfig(steps=3, batch_size=6, log_every=1)


def without_dropout(network: nn.Module) -> nn.Module:
    """Dropout draws from a generator that a reference loop cannot share: leave it out."""
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return network


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    worst = 0.0
    for (name, x), (other, y) in pairs:
        assert name == other
        worst = max(worst, float((x.double() - y.double()).abs().max()))
    return worst


@pytest.fixture(scope="module")
def autoencoder_run(toy_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "autoencoder"
    config = replace(default_encoder_config("autoencoder", "tiny", "modern"), loop=LOOP)
    task = EncoderTask(config, PairDataset(toy_bench, "train"))
    assert fit(task, run, LOOP, to_dict(config), console=SILENT)
    return run


def test_the_published_schedule_is_plain_sgd(toy_bench: Bench, tmp_path: Path) -> None:
    config = replace(default_encoder_config("autoencoder", "tiny", "published"), loop=LOOP)
    assert (config.learning_rate, config.momentum) == (0.05, 0.9)
    data = PairDataset(toy_bench, "train")
    task = EncoderTask(config, data)
    without_dropout(task.network)
    plain = copy.deepcopy(task.network).train()
    assert fit(task, tmp_path / "run", LOOP, to_dict(config), console=SILENT)

    losses = []
    velocity = {name: torch.zeros_like(w) for name, w in plain.named_parameters()}
    for step in range(LOOP.steps):
        rows = batch_indices(len(data), LOOP.batch_size, LOOP.seed, step)
        mel = torch.stack([torch.from_numpy(data.mel(int(i)).copy()) for i in rows])[:, None]
        mel = mel.float() / 127.5 - 1.0
        reconstruction, _ = plain(mel)
        plain.zero_grad()
        loss = ((reconstruction - mel) ** 2).mean()
        losses.append(float(loss.detach()))
        loss.backward()
        with torch.no_grad():
            for name, weight in plain.named_parameters():
                velocity[name] = 0.9 * velocity[name] + weight.grad
                weight -= 0.05 * velocity[name]
    logged = (tmp_path / "run" / "log.jsonl").read_text("utf-8").splitlines()
    # Weights drift apart by rounding alone, as thirteen BatchNorms over six sounds amplify it.
    assert [json.loads(line)["loss"] for line in logged] == pytest.approx(losses, rel=1e-4)


def test_the_published_schedule_belongs_to_the_autoencoder() -> None:
    with pytest.raises(ConfigError, match="autoencoder"):
        default_encoder_config("contrastive", "tiny", "published")


def test_the_published_objective_is_a_plain_gan_step(
    toy_bench: Bench, autoencoder_run: Path, tmp_path: Path
) -> None:
    config = replace(default_config("rc", "tiny", "x"), loop=LOOP)
    data = PairDataset(toy_bench, "train")
    encoder = load_encoder(autoencoder_run)
    task = TranslatorTask(config, encoder, data, encoder_run=autoencoder_run)
    without_dropout(task.discriminator)
    generator, discriminator = copy.deepcopy(task.generator), copy.deepcopy(task.discriminator)
    assert fit(task, tmp_path / "run", LOOP, to_dict(config), console=SILENT)

    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for step in range(LOOP.steps):
        rows = batch_indices(len(data), LOOP.batch_size, LOOP.seed, step)
        batch = data.gather(rows)
        mel, image = batch.mel.float() / 127.5 - 1.0, batch.image.float() / 127.5 - 1.0
        with torch.no_grad():
            sound = encoder.encode(mel)
        rng = step_rng(LOOP.seed, step)
        torch.randn(len(rows), generator.noise_size, generator=rng)
        dropout = torch.rand(len(rows), generator.dropout_size, generator=rng)
        generator.train()
        picture = generator(sound, None, dropout)
        both = discriminator(torch.cat([image, picture.detach()]), sound.repeat(2, 1))
        real, made = both.chunk(2)
        d_optimizer.zero_grad()
        ((1 - real).abs().mean() + (-1 - made).abs().mean()).backward()
        d_optimizer.step()
        score = discriminator(torch.cat([image, picture]), sound.repeat(2, 1)).chunk(2)[1]
        g_optimizer.zero_grad()
        ((1 - score).abs().mean() + (picture - image).abs().mean()).backward()
        g_optimizer.step()
    assert largest_difference(task.generator, generator) < 1e-4
    assert largest_difference(task.discriminator, discriminator) < 1e-4


def test_the_published_system_draws_no_noise(toy_bench: Bench, autoencoder_run: Path) -> None:
    config = default_config("rc", "tiny", "x")
    task = TranslatorTask(
        config, load_encoder(autoencoder_run), PairDataset(toy_bench, "train"),
        encoder_run=autoencoder_run,
    )  # fmt: skip
    assert task.generator.noise_size == 0
    assert task.generator.dropout_size > 0


@pytest.mark.parametrize("source", [13, 12])
def test_an_attention_translator_trains_and_is_exported(
    source: int, toy_bench: Bench, autoencoder_run: Path, tmp_path: Path
) -> None:
    config = replace(
        default_config("rc", "tiny", "x"), loop=LOOP, attention=(0, 1, 0, 0, 0, 0, 0),
        attention_width=16, attention_heads=2, audio_source=source,
    )  # fmt: skip
    data = PairDataset(toy_bench, "train")
    task = TranslatorTask(config, load_encoder(autoencoder_run), data, encoder_run=autoencoder_run)
    assert fit(task, tmp_path / "run", LOOP, to_dict(config), console=SILENT)
    # Embeddings of all pairs are kept; maps of all pairs would not fit into memory.
    assert ("embeddings" in vars(task)) == (source == 13)
    rows = np.array([2, 0])
    told, encoder = task.conditions(rows), load_encoder(autoencoder_run)
    expected = condition(encoder, to_float(data.gather(rows).mel), source)
    torch.testing.assert_close(told, expected, atol=1e-5, rtol=0)
    generator = load_generator(tmp_path / "run")
    assert generator.config.attention == (0, 1, 0, 0, 0, 0, 0)
    assert generator.condition_size == 16 + (9 * 16 if source == 12 else 0)
    export_run(tmp_path / "run", tmp_path / "model")
    mels = np.random.default_rng(0).integers(0, 256, (2, 128, 100), dtype=np.uint8)
    pictures = Translator.load(tmp_path / "model").imagine(mels, seed=0)
    assert pictures.shape == (2, 96, 96, 3)
    assert (pictures[0] != pictures[1]).any()


def test_attention_to_layers_needs_an_autoencoder(
    toy_bench: Bench, autoencoder_run: Path, tmp_path: Path
) -> None:
    config = replace(default_encoder_config("contrastive", "tiny", "modern"), loop=LOOP)
    data = PairDataset(toy_bench, "train")
    fit(EncoderTask(config, data), tmp_path / "c", LOOP, to_dict(config), console=SILENT)
    wanted = replace(
        default_config("rc", "tiny", "x"), attention=(0, 1, 0, 0, 0, 0, 0), audio_source=12
    )
    with pytest.raises(ConfigError, match="only an autoencoder"):
        TranslatorTask(wanted, load_encoder(tmp_path / "c"), data, encoder_run=tmp_path / "c")
    with pytest.raises(ConfigError, match="preset tiny, not compact"):
        TranslatorTask(
            replace(wanted, preset="compact"), load_encoder(autoencoder_run), data,
            encoder_run=autoencoder_run,
        )  # fmt: skip


def test_an_encoder_of_any_length_serves(toy_bench: Bench, tmp_path: Path) -> None:
    config = replace(
        default_encoder_config("autoencoder", "tiny", "modern"), loop=LOOP, embedding_size=24
    )
    data = PairDataset(toy_bench, "train")
    fit(EncoderTask(config, data), tmp_path / "e", LOOP, to_dict(config), console=SILENT)
    task = TranslatorTask(
        replace(default_config("rc", "tiny", "x"), loop=LOOP), load_encoder(tmp_path / "e"), data,
        encoder_run=tmp_path / "e",
    )  # fmt: skip
    assert task.generator.embedding_size == 24
    assert fit(task, tmp_path / "t", LOOP, to_dict(task.config), console=SILENT)


def test_the_moving_average_belongs_to_the_published_objective() -> None:
    with pytest.raises(ConfigError, match="--objective rc"):
        TranslatorConfig(encoder="x", moving_average=MovingAverageConfig(reading="ema"))
