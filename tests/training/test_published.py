"""Training as published, against plain PyTorch loops written here."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError
from soundsight.data.store.dataset import PairDataset, batch_indices
from soundsight.data.vegas.bench import Bench
from soundsight.export.onnx import export_run
from soundsight.models.presets import preset
from soundsight.models.published.discriminator import RCDiscriminator
from soundsight.models.published.generator import DenseGenerator
from soundsight.runtime.translator import Translator
from soundsight.training import published
from soundsight.training.configs import (
    LoopConfig,
    MovingAverageConfig,
    default_config,
    default_encoder_config,
)
from soundsight.training.devices import Devices
from soundsight.training.encoder import (
    EncoderTask,
    condition,
    load_encoder,
    standardised,
    to_float,
)
from soundsight.training.published import (
    MovingAverageAdversary,
    TranslatorTask,
    load_generator,
)
from soundsight.training.trainer import fit, step_rng

LOOP = LoopConfig(steps=3, batch_size=6, log_every=1)


def without_dropout(network: nn.Module) -> nn.Module:
    """Dropout draws from a generator that a reference loop cannot share: leave it out."""
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return network


@dataclass(frozen=True)
class Update:
    """One step of an optimiser: the weights before it, what it was given, the weights after it."""

    before: list[Tensor]
    gradients: list[Tensor]
    after: list[Tensor]


def watch(optimizer: torch.optim.Optimizer, network: nn.Module) -> list[Update]:
    """Have every step of an optimiser kept, in the order of the network's parameters.

    Trainings drift apart by the rounding of their kernels alone; single steps do not.
    """
    updates: list[Update] = []
    given: list[tuple[list[Tensor], list[Tensor]]] = []

    def copied() -> list[Tensor]:
        return [p.detach().clone() for p in network.parameters()]

    def before(*_: object) -> None:
        given.append((copied(), [p.grad.clone() for p in network.parameters()]))

    def after(*_: object) -> None:
        updates.append(Update(*given.pop(), copied()))

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
    return updates


@torch.no_grad()
def put(network: nn.Module, weights: list[Tensor]) -> None:
    for parameter, value in zip(network.parameters(), weights, strict=True):
        parameter.copy_(value)


def assert_same_gradient(got: list[Tensor], loss: Tensor, network: nn.Module) -> None:
    """The gradients of two computations of one loss: kernels differ, by far less than this."""
    wanted = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    a, b = (torch.cat([g.flatten() for g in gradients]) for gradients in (got, wanted))
    assert float(b.norm()) > 1e-6
    assert float((a - b).norm()) < 0.02 * float(b.norm())


def test_the_published_schedule_is_plain_sgd(toy_bench: Bench, tmp_path: Path) -> None:
    config = replace(default_encoder_config("autoencoder", "tiny", "published"), loop=LOOP)
    assert (config.learning_rate, config.momentum) == (0.05, 0.9)
    data = PairDataset(toy_bench, "train")
    task = EncoderTask(config, data)
    without_dropout(task.network)
    plain = copy.deepcopy(task.network).train()
    updates = watch(task.optimizer, task.network)
    assert fit(task, tmp_path / "run", LOOP, to_dict(config))

    logged = (tmp_path / "run" / "log.jsonl").read_text("utf-8").splitlines()
    velocity = [torch.zeros_like(weight) for weight in plain.parameters()]
    for step, (update, line) in enumerate(zip(updates, logged, strict=True)):
        rows = batch_indices(len(data), LOOP.batch_size, LOOP.seed, step)
        mel = torch.stack([torch.from_numpy(data.mel(int(i)).copy()) for i in rows])[:, None]
        mel = mel.float() / 127.5 - 1.0
        put(plain, update.before)
        reconstruction, _ = plain(mel)
        loss = ((reconstruction - mel) ** 2).mean()
        assert json.loads(line)["loss"] == pytest.approx(float(loss.detach()), rel=1e-3)
        assert_same_gradient(update.gradients, loss, plain)
        velocity = [0.9 * v + g for v, g in zip(velocity, update.gradients, strict=True)]
        wanted = [w - 0.05 * v for w, v in zip(update.before, velocity, strict=True)]
        torch.testing.assert_close(update.after, wanted, rtol=1e-5, atol=1e-7)
    assert len(updates) == LOOP.steps


CHOSEN: dict[str, dict[str, Any]] = {
    "defaults": {},
    "chosen": {
        "optimizer": "sgd", "generator_rate": 0.02, "discriminator_rate": 0.01, "momentum": 0.7,
        "adversarial_weight": 3.0, "pixel_weight": 0.5, "pixel": "mse", "discriminator_steps": 2,
        "score_norm": False, "label_smoothing": 0.1,
    },
}  # fmt: skip


def task_of(bench: Bench, encoder: Path, **changes: Any) -> TranslatorTask:
    """Return the published training of ``tiny``, with other settings."""
    config = replace(default_config("rc", "tiny", "x"), loop=LOOP, **changes)
    return TranslatorTask(
        config, load_encoder(encoder), PairDataset(bench, "train"), encoder_run=encoder
    )


def drawn_again(generator: DenseGenerator, sounds: Tensor, rng: torch.Generator) -> Tensor:
    """Return what a generator draws in a step whose random numbers are ``rng``; it has no noise."""
    torch.randn(len(sounds), generator.noise_size, generator=rng)
    dropout = torch.rand(len(sounds), generator.dropout_size, generator=rng)
    picture: Tensor = generator(sounds, None, dropout)
    return picture


@pytest.mark.parametrize("changes", CHOSEN.values(), ids=CHOSEN.keys())
def test_the_published_objective_is_a_plain_gan_step(
    changes: dict[str, Any], toy_bench: Bench, autoencoder_run: Path, tmp_path: Path
) -> None:
    task = task_of(toy_bench, autoencoder_run, **changes)
    config, data, encoder = task.config, task.data, load_encoder(autoencoder_run)
    # The published system draws no noise.
    assert task.generator.noise_size == 0
    assert task.generator.dropout_size > 0
    names = task.discriminator.state_dict()
    assert any("conv13_bn" in name for name in names) == config.score_norm
    without_dropout(task.discriminator)
    generator, discriminator = copy.deepcopy(task.generator), copy.deepcopy(task.discriminator)
    of_generator = watch(task.g_optimizer, task.generator)
    of_discriminator = watch(task.d_optimizer, task.discriminator)
    assert fit(task, tmp_path / "run", LOOP, to_dict(config))
    turns = config.discriminator_steps
    assert len(of_generator) * turns == len(of_discriminator) == LOOP.steps * turns

    generator.train()
    target = 1 - config.label_smoothing
    for step, drawn in enumerate(of_generator):
        rng = step_rng(LOOP.seed, step)
        put(generator, drawn.before)
        for turn in range(turns):
            judged = of_discriminator[step * turns + turn]
            rows = batch_indices(len(data), LOOP.batch_size, LOOP.seed, step * turns + turn)
            batch = data.gather(rows)
            mel, image = batch.mel.float() / 127.5 - 1.0, batch.image.float() / 127.5 - 1.0
            with torch.no_grad():
                sound = encoder.encode(mel)
            put(discriminator, judged.before)
            picture = drawn_again(generator, sound, rng)
            both = discriminator(torch.cat([image, picture.detach()]), sound.repeat(2, 1))
            real, made = both.chunk(2)
            loss = (target - real).abs().mean() + (-target - made).abs().mean()
            assert_same_gradient(judged.gradients, loss, discriminator)
        # The generator's turn comes after the discriminator's last step, on the same pairs.
        put(discriminator, judged.after)
        score = discriminator(torch.cat([image, picture]), sound.repeat(2, 1)).chunk(2)[1]
        gap = picture - image
        pixels = gap.abs().mean() if config.pixel == "l1" else gap.square().mean()
        adversarial = (target - score).abs().mean()
        loss = config.adversarial_weight * adversarial + config.pixel_weight * pixels
        assert_same_gradient(drawn.gradients, loss, generator)
    for updates, rate in (
        (of_generator, config.generator_rate), (of_discriminator, config.discriminator_rate)
    ):  # fmt: skip
        weights = [nn.Parameter(weight) for weight in updates[0].before]
        plain: torch.optim.Optimizer = (
            torch.optim.SGD(weights, lr=rate, momentum=0.7)
            if config.optimizer == "sgd"
            else torch.optim.Adam(weights, lr=2e-4, betas=(0.5, 0.999))
        )
        for update in updates:
            for weight, gradient in zip(weights, update.gradients, strict=True):
                weight.grad = gradient
            plain.step()
            after = [w.detach() for w in weights]
            torch.testing.assert_close(after, update.after, rtol=1e-5, atol=1e-7)


def test_without_an_adversarial_loss_no_discriminator_is_trained(
    toy_bench: Bench, autoencoder_run: Path, tmp_path: Path
) -> None:
    task = task_of(toy_bench, autoencoder_run, adversarial_weight=0.0)
    untouched = copy.deepcopy(task.discriminator.state_dict())
    generator = copy.deepcopy(task.generator).train()
    updates = watch(task.g_optimizer, task.generator)
    assert fit(task, tmp_path / "run", LOOP, to_dict(task.config))
    for name, tensor in task.discriminator.state_dict().items():
        assert torch.equal(tensor, untouched[name])
    logged = (tmp_path / "run" / "log.jsonl").read_text("utf-8").splitlines()
    assert len(updates) == len(logged) == LOOP.steps
    assert "d_loss" not in json.loads(logged[0])
    assert "g_adversarial" not in json.loads(logged[0])

    for step, update in enumerate(updates):
        rng = step_rng(LOOP.seed, step)
        rows = batch_indices(len(task.data), LOOP.batch_size, LOOP.seed, step)
        image = task.data.gather(rows).image.float() / 127.5 - 1.0
        put(generator, update.before)
        picture = drawn_again(generator, task.conditions(rows), rng)
        assert_same_gradient(update.gradients, (picture - image).abs().mean(), generator)


def test_both_turns_of_the_discriminator_see_augmented_pictures(
    toy_bench: Bench, autoencoder_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DiffAugment is for what the discriminator sees; the pixel loss compares the pictures."""
    task = task_of(toy_bench, autoencoder_run, diff_augment=True, discriminator_dropout=0.0)
    assert task.discriminator.config.dropout == 0.0
    task.place(Devices())
    monkeypatch.setattr(published, "diff_augment", lambda pictures, _: torch.zeros_like(pictures))
    scalars = task.step(0, step_rng(0, 0))
    # Black pictures all: the scores of real and generated ones differ by nothing, r by 2.
    assert float(scalars["d_loss"]) == pytest.approx(2.0, abs=1e-5)
    assert float(scalars["pixel_loss"]) > 0.1


def test_augmented_photos_are_what_both_losses_see(
    toy_bench: Bench, autoencoder_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mirrored ones here: pictures are compared with these, and so are the scores."""
    task = task_of(toy_bench, autoencoder_run, augment_photos=True, discriminator_dropout=0.0)
    task.place(Devices())
    asked: dict[str, float] = {}

    def mirrored(image: Tensor, _: torch.Generator, **how: float) -> Tensor:
        asked.update(how)
        return image.flip(3)

    monkeypatch.setattr(published, "augment_image", mirrored)
    rows = task.data.rows(LOOP.batch_size, LOOP.seed, 0)
    photos = task.data.gather(rows).image.float() / 127.5 - 1.0
    judged: list[Tensor] = []
    task.discriminator.register_forward_pre_hook(lambda _, given: judged.append(given[0].detach()))
    generator = copy.deepcopy(task.generator).train()
    scalars = task.step(0, step_rng(0, 0))
    assert asked["colour"] == 0.0
    torch.testing.assert_close(judged[0][: len(rows)], photos.flip(3))
    picture = drawn_again(generator, task.conditions(rows), step_rng(0, 0))
    pixels = float((picture - photos.flip(3)).abs().mean().detach())
    assert float(scalars["pixel_loss"]) == pytest.approx(pixels, abs=1e-5)


def test_standardised_embeddings_are_white_of_one_length_and_stand_in_the_run(
    toy_bench: Bench, encoder_run: Path, autoencoder_run: Path, tmp_path: Path
) -> None:
    plain = load_encoder(autoencoder_run)
    rng = torch.Generator().manual_seed(0)
    known = torch.randn(4000, 16, generator=rng) @ torch.randn(16, 16, generator=rng) + 3.0
    white = standardised(plain, known).standardise(known)
    torch.testing.assert_close(white.square().mean(dim=1), torch.ones(4000))
    exact = known.double().numpy()
    variances, axes = np.linalg.eigh(np.cov(exact.T))
    expected = (exact - exact.mean(axis=0)) @ (
        axes @ np.diag((variances + 0.3 * variances.mean()) ** -0.5) @ axes.T
    )
    expected /= np.sqrt(np.mean(expected**2, axis=1, keepdims=True))
    np.testing.assert_allclose(white.numpy(), expected, atol=1e-3)

    config = replace(default_config("rc", "tiny", "x"), loop=LOOP, standardised_embedding=True)
    data = PairDataset(toy_bench, "train")
    task = TranslatorTask(config, plain, data, encoder_run=autoencoder_run)
    assert fit(task, tmp_path / "run", LOOP, to_dict(config))
    lengths = task.embeddings.square().mean(dim=1)
    torch.testing.assert_close(lengths, torch.ones(len(data)), atol=1e-2, rtol=0)
    kept = load_encoder(tmp_path / "run")
    mel = to_float(data.gather(np.arange(4)).mel)
    torch.testing.assert_close(kept.encode(mel), task.embeddings[:4], atol=1e-4, rtol=0)
    with pytest.raises(ConfigError, match="standardised_embedding is for an autoencoder"):
        TranslatorTask(config, load_encoder(encoder_run), data, encoder_run=encoder_run)


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
    assert fit(task, tmp_path / "run", LOOP, to_dict(config))
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


def test_attention_to_layers_needs_an_autoencoder(toy_bench: Bench, encoder_run: Path) -> None:
    data = PairDataset(toy_bench, "train")
    wanted = replace(
        default_config("rc", "tiny", "x"), attention=(0, 1, 0, 0, 0, 0, 0), audio_source=12
    )
    with pytest.raises(ConfigError, match="only an autoencoder"):
        TranslatorTask(wanted, load_encoder(encoder_run), data, encoder_run=encoder_run)


def test_encoder_and_discriminator_may_be_of_other_presets(
    toy_bench: Bench, autoencoder_run: Path
) -> None:
    config = replace(default_config("rc", "small", "x"), loop=LOOP, discriminator_preset="tiny")
    data, encoder = PairDataset(toy_bench, "train"), load_encoder(autoencoder_run)
    task = TranslatorTask(config, encoder, data, encoder_run=autoencoder_run)
    assert task.generator.embedding_size == task.discriminator.config.embedding_size == 16
    assert task.generator.config.blocks == preset("small").generator.blocks
    assert task.discriminator.config.maps == preset("tiny").rc_discriminator.maps
    task.place(Devices())
    assert all(torch.isfinite(value) for value in task.step(0, step_rng(0, 0)).values())


def test_an_encoder_of_any_length_serves(toy_bench: Bench, tmp_path: Path) -> None:
    config = replace(
        default_encoder_config("autoencoder", "tiny", "modern"), loop=LOOP, embedding_size=24
    )
    data = PairDataset(toy_bench, "train")
    fit(EncoderTask(config, data), tmp_path / "e", LOOP, to_dict(config))
    task = TranslatorTask(
        replace(default_config("rc", "tiny", "x"), loop=LOOP), load_encoder(tmp_path / "e"), data,
        encoder_run=tmp_path / "e",
    )  # fmt: skip
    assert task.generator.embedding_size == 24
    assert fit(task, tmp_path / "t", LOOP, to_dict(task.config))


# --- the moving-average adversarial loss, against a plain reference ------------------------------

_SIZES = replace(preset("tiny").rc_discriminator, dropout=0.0)


@pytest.fixture
def discriminator() -> RCDiscriminator:
    torch.manual_seed(0)
    return RCDiscriminator(_SIZES)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    real, generated = (torch.rand(4, 3, 96, 96, generator=rng) * 2 - 1 for _ in range(2))
    return real, generated, torch.randn(4, 16, generator=rng)


def _shake(network: nn.Module, seed: int) -> None:
    """Stand in for a training step: move every weight a little."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=rng)


def _term(network: nn.Module, real: Tensor, generated: Tensor, embedding: Tensor) -> Tensor:
    """|1 - r^| of the generated half of one batch, written out."""
    scores = network.train()(torch.cat([real, generated]), embedding.repeat(2, 1))
    return (1.0 - scores[len(real) :]).abs().sum() / len(real)


@pytest.mark.parametrize("k", [2, 5, 10])
def test_snapshots_are_the_mean_over_the_last_k(
    discriminator: RCDiscriminator, batch: tuple[Tensor, Tensor, Tensor], k: int
) -> None:
    config = MovingAverageConfig(reading="snapshots", snapshots=k, snapshot_every=2)
    adversary = MovingAverageAdversary(discriminator, config)
    kept: list[nn.Module] = []
    for step in range(13):
        _shake(discriminator, step)
        adversary.update(discriminator, step)
        if step % 2 == 1:
            kept.append(copy.deepcopy(discriminator))
        # Not yet followed by the live discriminator's own next step, the newest snapshot may be
        # equal to it; it counts all the same.
        expected = [discriminator, *kept[-(k - 1) :]]
        mean = sum(_term(network, *batch) for network in expected) / len(expected)
        assert len(adversary.adversaries(discriminator)) == len(expected)
        torch.testing.assert_close(adversary.loss(discriminator, *batch), mean)


def test_ema_is_one_averaged_discriminator(
    discriminator: RCDiscriminator, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    adversary = MovingAverageAdversary(discriminator, MovingAverageConfig(reading="ema", decay=0.5))
    average = {n: w.detach().clone() for n, w in discriminator.named_parameters()}
    for step in range(6):
        _shake(discriminator, step)
        adversary.update(discriminator, step)
        # The decay is warmed up: (1 + t) / (10 + t) until it reaches .5.
        decay = min(0.5, (1 + step) / (10 + step))
        for name, weight in discriminator.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * weight.detach()
    reference = copy.deepcopy(discriminator)
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            weight.copy_(average[name])
    torch.testing.assert_close(
        adversary.loss(discriminator, *batch), _term(reference, *batch), rtol=1e-5, atol=1e-5
    )
    assert not torch.allclose(_term(reference, *batch), _term(discriminator, *batch), atol=1e-3)


@pytest.mark.parametrize("reading", ["off", "snapshots", "ema"])
def test_only_the_picture_gets_a_gradient_and_the_state_goes_through_a_checkpoint(
    discriminator: RCDiscriminator, batch: tuple[Tensor, Tensor, Tensor], reading: str
) -> None:
    config = MovingAverageConfig(reading=reading, snapshots=3, snapshot_every=1)
    adversary = MovingAverageAdversary(discriminator, config)
    for step in range(4):
        _shake(discriminator, step)
        adversary.update(discriminator, step)
    again = MovingAverageAdversary(RCDiscriminator(_SIZES), config)
    again.load_state_dict(adversary.state_dict())
    discriminator.requires_grad_(False)
    real, generated, embedding = batch
    generated.requires_grad_(True)
    loss = adversary.loss(discriminator, real, generated, embedding)
    torch.testing.assert_close(again.loss(discriminator, *batch), loss)
    loss.backward()
    assert generated.grad is not None
    assert generated.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in adversary.parameters())
    if reading == "off":
        # The live discriminator alone, and nothing kept of it.
        torch.testing.assert_close(loss, _term(discriminator, *batch))
        assert not adversary.past
