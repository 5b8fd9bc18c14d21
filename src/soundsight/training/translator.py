"""The translator: a frozen audio encoder, a dense generator, and a discriminator to argue with.

Two objectives, both without a label:

``rc`` (published)
    L1 on the RC-score plus a pixel loss. Real and generated pictures share one batch, in both
    steps, because the RC-score ends in a one-channel BatchNorm. The discriminator's dropout stays
    on, as published.
``relativistic`` (ours)
    Paired softplus loss, R1 + R2 gradient penalties, differentiable augmentation, and a
    matching-aware negative: a real picture with the sound of another video must score below the
    same picture with its own (Reed et al. 2016).

Not known from the paper, and chosen here: r = +1 / -1, L1 as pixel loss with weight 1 for ``rc``
(a frame is compared as a viewer sees it, not squared) and 0 for ``relativistic`` (the bench pairs a
sound with one of many photos that would fit), Adam with beta1 = 0 or .5, learning rates.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from soundsight.core.config import from_dict, to_dict
from soundsight.core.draws import generator_draws
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.runs import atomic_file
from soundsight.models.dense_generator import DenseGenerator, DenseGeneratorConfig
from soundsight.models.discriminator import ProjectionDiscriminator, RCDiscriminator
from soundsight.models.presets import preset
from soundsight.pairs.dataset import PairDataset, batch_indices
from soundsight.training.augment import diff_augment
from soundsight.training.checkpoints import load_weights, read_tensors, save_weights
from soundsight.training.ema import Ema
from soundsight.training.encoder import AudioEncoder, embed, to_float, to_levels
from soundsight.training.loop import LoopConfig, Task, channels_last, read_run
from soundsight.training.losses import (
    PIXEL_LOSSES,
    gradient_penalty,
    pixel_loss,
    rc_discriminator_loss,
    rc_generator_loss,
    relativistic_loss,
)

OBJECTIVES = ("relativistic", "rc")

_EARLY_SHARES = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1)
_EARLY_PICTURES = 128


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig:
    """Training of a translator.

    Attributes:
        encoder: SHA-256 of the frozen encoder's weights, so that a resumed run cannot change it.
        preset: sizes of the networks.
        objective: ``relativistic`` or ``rc``.
        generator_rate: Adam's learning rate for the generator.
        discriminator_rate: Adam's learning rate for the discriminator.
        beta1: Adam's first decay.
        beta2: Adam's second decay.
        pixel: ``l1`` or ``mse``.
        pixel_weight: weight of the pixel loss beside the adversarial loss.
        penalty: gamma of the R1 and R2 gradient penalties (``relativistic``).
        penalty_every: steps between two penalties; each is scaled up to make up for it.
        wrong_sound_weight: weight of the matching-aware negative (``relativistic``).
        embedding_noise: standard deviation of noise on the embeddings (their root mean square is
            1), so that the generator meets sounds it has not seen (``relativistic``).
        ema_decay: of the generator's average, which is the one that is kept.
        loop: steps, batch and seed.
    """

    encoder: str
    preset: str = "compact"
    objective: str = "relativistic"
    generator_rate: float = 4e-4
    discriminator_rate: float = 4e-4
    beta1: float = 0.0
    beta2: float = 0.99
    pixel: str = "l1"
    pixel_weight: float = 0.0
    penalty: float = 1.0
    penalty_every: int = 8
    wrong_sound_weight: float = 0.5
    embedding_noise: float = 0.15
    ema_decay: float = 0.999
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=6000, batch_size=32))

    def __post_init__(self) -> None:
        choices = {"objective": OBJECTIVES, "pixel": PIXEL_LOSSES}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"unknown {name} {getattr(self, name)!r}; choose from {', '.join(known)}"
                )
        for name in ("pixel_weight", "penalty", "wrong_sound_weight", "embedding_noise"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative")
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie in [0, 1)")
        if self.generator_rate <= 0 or self.discriminator_rate <= 0 or self.penalty_every < 1:
            raise ConfigError("learning rates must be above 0 and penalty_every at least 1")


def default_config(objective: str, preset: str, encoder: str) -> TranslatorConfig:
    """Return the settings that belong to an objective.

    Args:
        objective: ``relativistic`` or ``rc``.
        preset: sizes of the networks.
        encoder: SHA-256 of the encoder's weights.

    Raises:
        ConfigError: on an unknown objective, naming the choices.
    """
    config = TranslatorConfig(encoder=encoder, preset=preset, objective=objective)
    if objective == "rc":
        return replace(
            config, generator_rate=2e-4, discriminator_rate=2e-4, beta1=0.5, beta2=0.999,
            pixel_weight=1.0, embedding_noise=0.0,
            loop=replace(config.loop, batch_size=64),
        )  # fmt: skip
    return config


class TranslatorTask(Task):
    """Fits generator and discriminator on a split's pairs; the encoder stays as it is.

    Args:
        config: what to do.
        encoder: the frozen encoder.
        data: the pairs.
        encoder_run: where the encoder's weights came from; ``finish`` writes them into the run,
            so that the run is whole by itself.
    """

    kind: ClassVar[str] = "translator"

    def __init__(
        self,
        config: TranslatorConfig,
        encoder: AudioEncoder,
        data: PairDataset,
        *,
        encoder_run: Path,
    ) -> None:
        sizes = preset(config.preset)
        if sizes.generator.embedding_size != encoder.embedding_size:
            raise ConfigError(
                f"the encoder's embedding has {encoder.embedding_size} numbers, preset "
                f"{config.preset} wants {sizes.generator.embedding_size}: train one of its preset"
            )
        self.config, self.data, self._encoder = config, data, encoder
        about = read_tensors(encoder_run / "encoder.safetensors")[1]
        self._encoder_about = {key: about[key] for key in ("kind", "preset", "network")}
        torch.manual_seed(config.loop.seed)
        self.generator = channels_last(DenseGenerator(sizes.generator))
        self.discriminator: nn.Module = (
            ProjectionDiscriminator(sizes.projection_discriminator)
            if config.objective == "relativistic"
            else RCDiscriminator(sizes.rc_discriminator)
        )
        channels_last(self.discriminator)
        self.ema = Ema(self.generator, config.ema_decay)
        betas = (config.beta1, config.beta2)
        self.g_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=config.generator_rate, betas=betas
        )
        self.d_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=config.discriminator_rate, betas=betas
        )
        self.embeddings = embed(encoder, data)
        self._steps_to_sample = {max(1, round(s * config.loop.steps)) for s in _EARLY_SHARES}

    def networks(self) -> dict[str, nn.Module]:
        return {
            "generator": self.generator,
            "average": self.ema.average,
            "discriminator": self.discriminator,
        }

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator": self.g_optimizer, "discriminator": self.d_optimizer}

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        loop = self.config.loop
        rows = batch_indices(len(self.data), loop.batch_size, loop.seed, step)
        batch = self.data.gather(rows)
        embedding = self.embeddings[torch.from_numpy(rows)]
        image = to_float(batch.image).contiguous(memory_format=torch.channels_last)
        self.generator.train()
        self.discriminator.train()
        if self.config.objective == "rc":
            scalars = self._step_rc(image, embedding, rng)
        else:
            scalars = self._step_relativistic(step, image, embedding, batch.video, batch.photo, rng)
        self.ema.update(self.generator, step)
        return scalars

    def _draw(self, embedding: Tensor, rng: torch.Generator) -> Tensor:
        """Pictures of ``embedding`` with fresh noise and dropout, with gradients."""
        noise = torch.randn(len(embedding), self.generator.noise_size, generator=rng)
        dropout = torch.rand(len(embedding), self.generator.dropout_size, generator=rng)
        picture: Tensor = self.generator(embedding, noise, dropout)
        return picture

    def _step_rc(self, image: Tensor, embedding: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        n = len(image)
        both = torch.cat([embedding, embedding])
        generated = self._draw(embedding, rng)
        scores = self.discriminator(torch.cat([image, generated.detach()]), both)
        d_loss = rc_discriminator_loss(scores[:n], scores[n:])
        _descend(self.d_optimizer, d_loss)
        score = self.discriminator(torch.cat([image, generated]), both)[n:]
        adversarial = rc_generator_loss(score)
        pixels = pixel_loss(generated, image, self.config.pixel)
        _descend(self.g_optimizer, adversarial + self.config.pixel_weight * pixels)
        return {
            "d_loss": d_loss.detach(),
            "g_adversarial": adversarial.detach(),
            "pixel_loss": pixels.detach(),
        }

    def _step_relativistic(
        self,
        step: int,
        image: Tensor,
        embedding: Tensor,
        video: Tensor,
        photo: Tensor,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        config = self.config
        flip = torch.rand(len(image), generator=rng) < 0.5
        image = torch.where(flip[:, None, None, None], image.flip(3), image)
        jitter = torch.randn(embedding.shape, generator=rng) * config.embedding_noise
        embedding = embedding + jitter
        generated = self._draw(embedding, rng)

        # Discriminator: the real picture above the generated one, and above itself with the
        # sound of another video. The next item of the batch lends its sound.
        penalised = step % config.penalty_every == 0
        real = diff_augment(image, rng)
        fake = diff_augment(generated.detach(), rng)
        if penalised:
            real.requires_grad_(True)
            fake.requires_grad_(True)
        judge = self.discriminator
        assert isinstance(judge, ProjectionDiscriminator)  # made so for this objective
        seen = judge.features(real)
        real_score = judge.score(seen, embedding)
        fake_score = judge(fake, embedding)
        d_loss = relativistic_loss(real_score, fake_score)
        other = (video != video.roll(1)) & (photo != photo.roll(1))
        wrong_score = judge.score(seen, embedding.roll(1, dims=0))
        wrong = relativistic_loss(real_score, wrong_score, other)
        total = d_loss + config.wrong_sound_weight * wrong
        scalars = {"d_loss": d_loss.detach(), "wrong_sound": wrong.detach()}
        if penalised:
            r1, r2 = gradient_penalty(real_score, real), gradient_penalty(fake_score, fake)
            total = total + config.penalty * config.penalty_every * (r1 + r2)
            scalars |= {"r1": r1.detach(), "r2": r2.detach()}
        _descend(self.d_optimizer, total)

        # Generator: the generated picture above the real one, whose score of a moment ago only
        # weighs the gradient and need not be computed again.
        judge.requires_grad_(False)
        fake_score = judge(diff_augment(generated, rng), embedding)
        g_loss = relativistic_loss(fake_score, real_score.detach())
        total = g_loss
        if config.pixel_weight:
            total = total + config.pixel_weight * pixel_loss(generated, image, config.pixel)
        _descend(self.g_optimizer, total)
        judge.requires_grad_(True)
        return {"g_loss": g_loss.detach(), **scalars}

    @torch.no_grad()
    def _imagine(self, network: DenseGenerator, rows: range, seed: int) -> Tensor:
        """uint8 pictures of the sounds at ``rows``, drawn as the runtime draws them."""
        draws = [generator_draws(seed, i, network.noise_size, network.dropout_size) for i in rows]
        noise = torch.from_numpy(np.stack([d[0] for d in draws]))
        dropout = torch.from_numpy(np.stack([d[1] for d in draws]))
        was_training = network.training
        network.eval()
        pictures = network(self.embeddings[rows.start : rows.stop], noise, dropout)
        network.train(was_training)
        return to_levels(pictures)

    def pictures(self) -> Tensor:
        """Forty pictures of fixed sounds with fixed noise, by the averaged generator."""
        return self._imagine(self.ema.average, range(min(40, len(self.data))), seed=0)

    def after_step(self, step: int, run: Path) -> None:
        """In the first tenth of a run, keep what the young generator draws.

        Judges learn to refuse such pictures: ``early/step-*.npz`` with ``images`` uint8
        [n, 96, 96, 3], of the plain weights and of their average.
        """
        if step not in self._steps_to_sample:
            return
        rows = range(min(_EARLY_PICTURES, len(self.data)))
        images = torch.cat(
            [
                self._imagine(network, rows, seed=step)
                for network in (self.generator, self.ema.average)
            ]
        )
        with atomic_file(run / "early" / f"step-{step:07d}.npz") as temporary:
            np.savez_compressed(temporary, images=images.permute(0, 2, 3, 1).numpy())

    def finish(self, run: Path) -> None:
        """Write the averaged generator, and the encoder's weights beside it."""
        about = {
            "preset": self.config.preset,
            "network": to_dict(self.generator.config),
            "objective": self.config.objective,
            "pictures_seen": self.config.loop.steps * self.config.loop.batch_size,
        }
        save_weights(run / "generator.safetensors", self.ema.average, about)
        save_weights(run / "encoder.safetensors", self._encoder, self._encoder_about)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def load_generator(run: Path) -> DenseGenerator:
    """Load the generator of a finished translator run, in eval mode.

    Raises:
        DataError: when ``run`` is no translator run, is not finished or is damaged.
    """
    read_run(run, "translator")
    path = run / "generator.safetensors"
    if not path.exists():
        raise DataError(f"{run} is not finished: go on with its training command first")
    _, about = read_tensors(path)
    network = DenseGenerator(from_dict(DenseGeneratorConfig, about["network"]))
    load_weights(path, network)
    return network.eval().requires_grad_(False)
