"""The GAN translator: a frozen audio encoder, a dense generator and a discriminator.

Two objectives, both without a label:

``rc`` (published)
    L1 on the RC-score plus a pixel loss, and a moving-average adversarial loss where one is asked
    for (:class:`MovingAverageAdversary`). Real and generated pictures share one batch, in
    both steps, because the RC-score ends in a one-channel BatchNorm. The discriminator's dropout
    stays on, as published. What is not published are settings: the weights of both losses, the
    optimiser and its rates, the discriminator's steps and dropout, whether a BatchNorm ends it,
    how far r is smoothed, whether photos are augmented. Two are ours, and off: ``diff_augment``
    shifts and recolours what it sees, ``standardised_embedding`` whitens the sounds' embeddings.
``relativistic`` (ours)
    Paired softplus loss, R1 + R2 gradient penalties, differentiable augmentation, and a
    matching-aware negative: a real picture with the sound of another video must score below the
    same picture with its own (Reed et al. 2016). Beside it, with ``contrast_weight`` and
    ``coherence_weight``, a symmetric InfoNCE between sounds and the discriminator's features of
    real pictures, and of generated ones for the generator (Kang & Park 2020, ContraGAN, with sounds
    in the place of labels). With ``variational_weight`` every other picture of a batch is drawn
    from noise that a *picture posterior* read off its photo, and must be that photo again: in
    pixels, in the discriminator's maps, and at the price of the KL divergence of that noise from
    the standard normal one (Larsen et al. 2016; Zhu et al. 2017).

Not known from the paper, and chosen here: r = +1 / -1, L1 as pixel loss with weight 1 for ``rc``
and 0 for ``relativistic`` (the bench pairs a sound with one of many photos that would fit), Adam
with beta1 = 0 or .5, learning rates. ``docs/published.md`` compares other choices.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from soundsight.core.config import to_dict
from soundsight.core.draws import generator_draws
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import atomic_file
from soundsight.data.store.dataset import PairDataset
from soundsight.models.picture_posterior import PicturePosterior
from soundsight.models.presets import preset
from soundsight.models.published.autoencoder import EMBEDDING_LAYER, Autoencoder, check_source
from soundsight.models.published.discriminator import (
    ProjectionDiscriminator,
    RCDiscriminator,
    RCDiscriminatorConfig,
)
from soundsight.models.published.generator import DenseGenerator, DenseGeneratorConfig
from soundsight.training import losses
from soundsight.training.augment import augment_image, diff_augment
from soundsight.training.checkpoints import (
    Pretrained,
    copy_weights,
    load_network,
    read_tensors,
    save_weights,
)
from soundsight.training.configs import MovingAverageConfig, TranslatorConfig
from soundsight.training.devices import Devices
from soundsight.training.encoder import (
    AudioEncoder,
    condition,
    embed,
    standardised,
    to_float,
    to_levels,
)
from soundsight.training.run_folder import read_run
from soundsight.training.trainer import Ema, Scalars, Task, channels_last

_EARLY_SHARES = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1)
_EARLY_PICTURES = 128
_DRAWN_AT_ONCE = 64


def _generator_config(config: TranslatorConfig, encoder: AudioEncoder) -> DenseGeneratorConfig:
    """The sizes of the generator that listens to ``encoder``."""
    changes: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("attention", "attention_width", "attention_heads", "audio_source")
    }
    if config.noise_ratio is not None:
        changes["noise_ratio"] = config.noise_ratio
    if config.audio_source != EMBEDDING_LAYER:
        if not isinstance(encoder, Autoencoder):
            raise ConfigError("audio_source: only an autoencoder has layers to listen to")
        check_source(config.audio_source)
        changes["source_maps"] = encoder.config.maps[config.audio_source - 1]
    sizes = preset(config.preset).generator
    return replace(sizes, embedding_size=encoder.embedding_size, **changes)


def _discriminator_config(config: TranslatorConfig, size: int) -> RCDiscriminatorConfig:
    """The published discriminator's sizes for embeddings of ``size`` numbers."""
    sizes = preset(config.discriminator_preset or config.preset).rc_discriminator
    rate = config.discriminator_dropout
    return replace(
        sizes, embedding_size=size, score_norm=config.score_norm,
        dropout=sizes.dropout if rate is None else rate,
    )  # fmt: skip


def _optimizer(
    config: TranslatorConfig, parameters: Iterable[nn.Parameter], rate: float
) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=config.momentum)
    return torch.optim.Adam(parameters, lr=rate, betas=(config.beta1, config.beta2))


class MovingAverageAdversary(nn.Module):
    """The generator's adversarial term, and the discriminators of the past that it needs.

    arXiv 2106.01266 names a moving-average adversarial loss against GAN instability; neither the
    paper nor the published code gives its formula. **What stands here are readings of the name**,
    each of which keeps the published term ``|r_real - r^|`` and changes only the discriminator that
    gives r^ (``docs/results.md`` says what each is worth):

    ``off``        The discriminator of this step, as in the published code.
    ``snapshots``  The mean of the term over the last K discriminators: the live one and the K - 1
                   snapshots before it, one taken every ``snapshot_every`` steps.
    ``ema``        The term against one discriminator whose weights are an exponential moving
                   average of the live one's.

    Every adversary sees real and generated pictures in one batch, with its own dropout, as the live
    discriminator does. The state (the kept discriminators and how many of them there are) belongs
    to a checkpoint.
    """

    def __init__(self, discriminator: nn.Module, config: MovingAverageConfig) -> None:
        super().__init__()
        self.config = config
        self.past = nn.ModuleList()
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))
        self._ema: Ema[nn.Module] | None = None
        if config.reading == "snapshots":
            self.past.extend(copy.deepcopy(discriminator) for _ in range(config.snapshots - 1))
        elif config.reading == "ema":
            self._ema = Ema(discriminator, config.decay)
            self.past.append(self._ema.average)
        self.past.requires_grad_(False)

    def adversaries(self, discriminator: nn.Module) -> list[nn.Module]:
        """Return those whose terms are averaged, the newest first."""
        if self.config.reading == "ema":
            return [self.past[0]]
        taken = int(cast(Tensor, self.taken))
        kept = min(taken, len(self.past))
        return [discriminator, *(self.past[(taken - 1 - i) % len(self.past)] for i in range(kept))]

    def loss(
        self,
        discriminator: nn.Module,
        real: Float[Tensor, "n 3 96 96"],
        generated: Float[Tensor, "n 3 96 96"],
        embedding: Float[Tensor, "n e"],
        *,
        smoothing: float = 0.0,
    ) -> Float[Tensor, ""]:
        """Return the mean over the adversaries of ``|r_real - r^|`` of the generated pictures.

        Real pictures share the batch and get no gradient; pictures lie in [-1, 1]. r_real is 1 less
        ``smoothing``.
        """
        both = torch.cat([real, generated])
        sounds = torch.cat([embedding, embedding])
        # A copy is made in evaluation mode by some readings; its batch statistics must be these.
        terms = [
            losses.rc_generator_loss(adversary.train()(both, sounds)[len(real) :], smoothing)
            for adversary in self.adversaries(discriminator)
        ]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def update(self, discriminator: nn.Module, step: int) -> None:
        """Take note of the discriminator as it stands after step ``step`` (from 0)."""
        if self._ema is not None:
            self._ema.update(discriminator, step)
        elif len(self.past) and (step + 1) % self.config.snapshot_every == 0:
            taken = cast(Tensor, self.taken)
            self.past[int(taken) % len(self.past)].load_state_dict(discriminator.state_dict())
            taken += 1


class TranslatorTask(Task):
    """Fits generator and discriminator on a split's pairs; the encoder stays as it is.

    The weights of ``encoder_run`` go into the run, so that it is whole by itself. ``start`` may
    lack discriminator and posterior. The encoder may be of another preset than the other networks.
    ConfigError when it lacks what ``config`` asks of it, DataError when ``start`` is of other
    sizes.
    """

    kind = "translator"
    embeddings: Tensor  #: of each pair, float32 [len(data), E], on the encoder's device

    def __init__(
        self,
        config: TranslatorConfig,
        encoder: AudioEncoder,
        data: PairDataset,
        *,
        encoder_run: Path,
        start: Pretrained | None = None,
    ) -> None:
        about = read_tensors(encoder_run / "encoder.safetensors")[1]
        self.config, self.loop, self.data = config, config.loop, data
        self._encoder_about = {key: about[key] for key in ("kind", "preset", "network")}
        if config.standardised_embedding and (
            not isinstance(encoder, Autoencoder) or encoder.config.standardised
        ):
            raise ConfigError(
                "standardised_embedding is for an autoencoder as it was trained: other encoders' "
                "embeddings have one length already"
            )
        self._encoder, self._encoder_run, self.beside = encoder, encoder_run, [encoder]
        torch.manual_seed(config.loop.seed)
        sizes, size = preset(config.preset), encoder.embedding_size
        self.generator = channels_last(DenseGenerator(_generator_config(config, encoder)))
        judge: nn.Module = (
            RCDiscriminator(_discriminator_config(config, size))
            if config.objective == "rc"
            else ProjectionDiscriminator(
                replace(sizes.projection_discriminator, embedding_size=size)
            )
        )
        self.discriminator: Any = channels_last(judge)
        drawing: dict[str, nn.Module] = {"generator": self.generator}
        self.posterior: PicturePosterior | None = None
        if config.variational_weight:
            noise_size = self.generator.noise_size
            if not noise_size:
                raise ConfigError(
                    "variational_weight: the generator takes no noise to be read off a photo; set "
                    "noise_ratio above 0"
                )
            self.posterior = channels_last(
                PicturePosterior(replace(sizes.picture_posterior, noise_size=noise_size))
            )
            drawing["posterior"] = self.posterior
        for name, network in {**drawing, "discriminator": judge}.items():
            if start is not None and (name == "generator" or start.file(name).is_file()):
                start.load(name, network)
        self.adversary = MovingAverageAdversary(judge, config.moving_average)
        self.ema = Ema(self.generator, config.ema_decay)
        self.networks = {
            **drawing, "average": self.ema.average, "discriminator": judge,
            "adversary": self.adversary,
        }  # fmt: skip
        drawn_by = [p for network in drawing.values() for p in network.parameters()]
        self.g_optimizer = _optimizer(config, drawn_by, config.generator_rate)
        self.d_optimizer = _optimizer(config, judge.parameters(), config.discriminator_rate)
        self.optimizers = {"generator": self.g_optimizer, "discriminator": self.d_optimizer}
        self._penalties: Scalars = {}
        self._steps_to_sample = {max(1, round(s * config.loop.steps)) for s in _EARLY_SHARES}

    def place(self, devices: Devices) -> None:
        super().place(devices)
        of_embeddings = self.config.audio_source == EMBEDDING_LAYER
        if of_embeddings or self.config.standardised_embedding:
            # Now, and not in the first step, whose time is taken.
            embeddings = embed(self._encoder, self.data)
            if self.config.standardised_embedding:
                encoder = standardised(cast(Autoencoder, self._encoder), embeddings)
                self._encoder, embeddings = encoder, encoder.standardise(embeddings)
                self._encoder_about["network"] = to_dict(encoder.config)
            if of_embeddings:
                self.embeddings = embeddings
        devices.compile(self.generator)
        if self.config.objective == "rc":
            # Gradient penalties differentiate twice, which compiled networks cannot.
            devices.compile(self.discriminator)

    @torch.no_grad()
    def conditions(self, rows: NDArray[np.int64], mel: Tensor | None = None) -> Tensor:
        """Return the generator's condition of some pairs, float32 [n, c].

        Embeddings of all pairs are kept. The maps of an earlier layer are a hundred times as large
        (6 GiB for the bench at ``paper``, layer 5): they are made anew, from ``mel`` (uint8) if at
        hand.
        """
        if self.config.audio_source == EMBEDDING_LAYER:
            return self.embeddings[torch.from_numpy(rows).to(self.embeddings.device)]
        return self._condition(self.data.gather(rows).mel if mel is None else mel)

    def _condition(self, mel: Tensor) -> Tensor:
        unit = to_float(mel.to(self.devices.device))
        return condition(self._encoder, unit, self.config.audio_source)

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        config, loop = self.config, self.loop
        for network in (self.generator, self.discriminator, self.posterior):
            if network is not None:
                network.train()
        judged: Callable[[SimpleNamespace], tuple[Tensor, Scalars]]
        drawn: Callable[[SimpleNamespace], tuple[Tensor, Scalars]]
        if config.objective == "rc":
            judged = partial(self._rc_discriminator, rng=rng)
            drawn = partial(self._rc_generator, rng=rng)
        else:
            penalised = step % config.penalty_every == 0
            judged = partial(self._relativistic_discriminator, rng=rng, penalised=penalised)
            drawn = partial(self._relativistic_generator, rng=rng)
        # The generator takes its step on the pairs of the discriminator's last one.
        turns, d_scalars = config.discriminator_steps, {}
        for turn in range(turns):
            rows = self.data.rows(loop.batch_size, loop.seed, step * turns + turn)
            parts = [self._part(own, rng) for own in self.devices.parts_of(rows, loop.accumulate)]
            if config.adversarial_weight:
                d_scalars = self.descend("d_gradient", self.d_optimizer, parts, judged)
        self.discriminator.requires_grad_(False)
        g_scalars = self.descend("g_gradient", self.g_optimizer, parts, drawn)
        self.discriminator.requires_grad_(True)
        self.ema.update(self.generator, step)
        if config.objective == "rc":
            self.adversary.update(self.discriminator, step)
            return {**d_scalars, **g_scalars}
        # The last penalties stand in every log line: most steps have none of their own.
        self._penalties |= {key: d_scalars[key] for key in ("r1", "r2") if key in d_scalars}
        return {**g_scalars, **d_scalars, **self._penalties}

    def _part(self, rows: NDArray[np.int64], rng: torch.Generator) -> SimpleNamespace:
        """Gather the pairs of one micro-batch; what is found out about them is put beside them."""
        device, n, size = self.devices.device, len(rows), self._encoder.embedding_size
        batch = self.data.gather(rows)
        image = to_float(batch.image.to(device)).contiguous(memory_format=torch.channels_last)
        given = self.conditions(rows, batch.mel)
        if self.config.objective == "relativistic":
            flip = (torch.rand(n, generator=rng) < 0.5).to(device)
            image = torch.where(flip[:, None, None, None], image.flip(3), image)
            # The embedding alone: tokens behind it have another scale.
            jitter = torch.randn(n, size, generator=rng) * self.config.embedding_noise
            given = torch.cat([given[:, :size] + jitter.to(device), given[:, size:]], dim=1)
        elif self.config.augment_photos:
            # Both losses see the same photos. Colours stay: changed ones would be drawn.
            image = augment_image(image, rng, shift=0.05, colour=0.0)
        noise = torch.randn(n, self.generator.noise_size, generator=rng)
        dropout = torch.rand(n, self.generator.dropout_size, generator=rng)
        return SimpleNamespace(
            image=image, condition=given, embedding=given[:, :size], noise=noise.to(device),
            dropout=dropout.to(device), video=batch.video.to(device), photo=batch.photo.to(device),
            posterior=None, generated=None,
        )  # fmt: skip

    def _draw(self, part: SimpleNamespace) -> Tensor:
        noise = part.noise
        if self.posterior is not None:
            with self.devices.autocast():
                mean, log_variance = self.posterior(part.image[::2])
            part.posterior = mean.float(), log_variance.float()
            noise = noise.clone()
            noise[::2] = part.posterior[0] + part.noise[::2] * (0.5 * part.posterior[1]).exp()
        with self.devices.autocast():
            picture: Tensor = self.generator(part.condition, noise, part.dropout)
        return picture.float()

    def _shown(self, part: SimpleNamespace) -> Tensor:
        """Pictures for the discriminator's turn: of one micro-batch, the generator's turn too.

        The graphs of several would fill the memory that micro-batches are there to save, so there
        the same pictures are drawn again.
        """
        with torch.set_grad_enabled(self.loop.accumulate == 1):
            part.generated = generated = self._draw(part)
        return generated.detach()

    def _drawn(self, part: SimpleNamespace) -> Tensor:
        """The same pictures with gradients, for the generator's turn."""
        generated: Tensor | None = part.generated
        if generated is None or not generated.requires_grad:
            return self._draw(part)
        return generated

    def _rc_discriminator(
        self, part: SimpleNamespace, *, rng: torch.Generator
    ) -> tuple[Tensor, Scalars]:
        both = torch.cat([self._seen(part.image, rng), self._seen(self._shown(part), rng)])
        with self.devices.autocast():
            real, fake = self.discriminator(both, part.embedding.repeat(2, 1)).chunk(2)
        loss = losses.rc_discriminator_loss(real, fake, self.config.label_smoothing)
        return loss, {"d_loss": loss}

    def _rc_generator(
        self, part: SimpleNamespace, *, rng: torch.Generator
    ) -> tuple[Tensor, Scalars]:
        config, generated = self.config, self._drawn(part)
        pixels = losses.pixel_loss(generated, part.image, config.pixel)
        scalars = {
            "pixel_loss": pixels,
            # How much the pictures of one batch differ; near 0 they have collapsed into one.
            "variety": generated.std(dim=0).mean(),
        }
        total = config.pixel_weight * pixels
        if config.adversarial_weight:
            real, fake = self._seen(part.image, rng), self._seen(generated, rng)
            with self.devices.autocast():
                adversarial = self.adversary.loss(
                    self.discriminator, real, fake, part.embedding,
                    smoothing=config.label_smoothing,
                )  # fmt: skip
            total = total + config.adversarial_weight * adversarial
            scalars["g_adversarial"] = adversarial
        return total, scalars

    def _seen(self, pictures: Tensor, rng: torch.Generator) -> Tensor:
        """Pictures as the published discriminator sees them."""
        return diff_augment(pictures, rng) if self.config.diff_augment else pictures

    def _relativistic_discriminator(
        self, part: SimpleNamespace, *, rng: torch.Generator, penalised: bool
    ) -> tuple[Tensor, Scalars]:
        """The real picture above the generated one, and above itself with another video's sound."""
        config, judge = self.config, self.discriminator
        generated = self._shown(part)
        real, fake = diff_augment(part.image, rng), diff_augment(generated, rng)
        if penalised:
            real.requires_grad_(True)
            fake.requires_grad_(True)
        with self.devices.autocast():
            seen = judge.features(real)
            real_score = judge.score(seen, part.embedding)
            fake_score = judge(fake, part.embedding)
            wrong_score = judge.score(seen, part.embedding.roll(1, dims=0))
        part.real_score = real_score.detach()
        d_loss = losses.relativistic_loss(real_score, fake_score)
        other = (part.video != part.video.roll(1)) & (part.photo != part.photo.roll(1))
        wrong = losses.relativistic_loss(real_score, wrong_score, other)
        total = d_loss + config.wrong_sound_weight * wrong
        scalars = {"d_loss": d_loss, "wrong_sound": wrong}
        if config.contrast_weight:
            scalars["contrast"] = self._contrast(part, seen)
            total = total + config.contrast_weight * scalars["contrast"]
        if penalised:
            r1 = losses.gradient_penalty(real_score, real)
            r2 = losses.gradient_penalty(fake_score, fake)
            total = total + config.penalty * config.penalty_every * (r1 + r2)
            scalars |= {"r1": r1, "r2": r2}
        return total, scalars

    def _relativistic_generator(
        self, part: SimpleNamespace, *, rng: torch.Generator
    ) -> tuple[Tensor, Scalars]:
        """The generated picture above the real one, whose score of a moment ago is a constant."""
        config, judge = self.config, self.discriminator
        generated = self._drawn(part)
        shown = diff_augment(generated, rng)
        with self.devices.autocast():
            seen = judge.features(shown)
            fake_score = judge.score(seen, part.embedding)
        total = losses.relativistic_loss(fake_score, part.real_score)
        scalars = {"g_loss": total}
        if config.coherence_weight:
            scalars["coherence"] = self._contrast(part, seen)
            total = total + config.coherence_weight * scalars["coherence"]
        if config.pixel_weight:
            pixels = losses.pixel_loss(generated, part.image, config.pixel)
            total = total + config.pixel_weight * pixels
        if part.posterior is not None:
            # How far pictures are from the photos whose noise they were drawn from.
            again, photo = generated[::2], part.image[::2]
            with self.devices.autocast():
                made = judge.maps(again)[1:]
                with torch.no_grad():
                    real = judge.maps(photo)[1:]
            pixels = losses.reconstruction_loss(again, photo)
            likeness, kl = losses.feature_loss(made, real), losses.kl_divergence(*part.posterior)
            drawn = pixels + config.feature_weight * likeness + config.kl_weight * kl
            total = total + config.variational_weight * drawn
            scalars |= {"reconstruction": pixels, "likeness": likeness, "kl": kl}
        return total, scalars

    def _contrast(self, part: SimpleNamespace, seen: Tensor) -> Tensor:
        """InfoNCE between these pictures' features and the sounds."""
        with self.devices.autocast():
            embedding = self.discriminator.projected(part.embedding)
        scale = torch.tensor(-math.log(self.config.temperature), device=seen.device)
        return losses.info_nce(embedding.float(), seen.float(), part.video, part.photo, scale)

    @torch.no_grad()
    def _imagine(self, network: DenseGenerator, conditions: Tensor, seed: int) -> Tensor:
        """uint8 pictures, one a condition, drawn as the runtime draws them."""
        sizes = network.noise_size, network.dropout_size
        draws = [generator_draws(seed, i, *sizes) for i in range(len(conditions))]
        noise, dropout = (
            torch.from_numpy(np.stack(of_each)).to(self.devices.device)
            for of_each in zip(*draws, strict=True)
        )
        was_training = network.training
        network.eval()
        pictures = network(conditions, noise, dropout)
        network.train(was_training)
        return to_levels(pictures)

    def pictures(self) -> Tensor:
        """Forty pictures of fixed sounds with fixed noise, by the averaged generator."""
        rows = np.arange(len(self.data))[:40]
        return self._imagine(self.ema.average, self.conditions(rows), seed=0)

    @torch.no_grad()
    def draw(self, mels: UInt8[np.ndarray, "n 128 100"]) -> UInt8[np.ndarray, "n 96 96 3"]:
        """Return the averaged generator's picture of each log-mel, with fixed noise."""
        drawn = []
        for start in range(0, len(mels), _DRAWN_AT_ONCE):
            levels = torch.from_numpy(mels[start : start + _DRAWN_AT_ONCE])[:, None]
            drawn.append(self._imagine(self.ema.average, self._condition(levels), seed=start))
        return torch.cat(drawn).permute(0, 2, 3, 1).cpu().numpy()

    def after_step(self, step: int, run: Path) -> None:
        """In the first tenth of a run, keep what the young generator draws.

        Judges learn to refuse such pictures: ``early/step-*.npz`` with ``images`` uint8
        [n, 96, 96, 3], of the plain weights and of their average.
        """
        if step not in self._steps_to_sample:
            return
        conditions = self.conditions(np.arange(len(self.data))[:_EARLY_PICTURES])
        networks = self.generator, self.ema.average
        images = torch.cat([self._imagine(network, conditions, seed=step) for network in networks])
        with atomic_file(run / "early" / f"step-{step:07d}.npz") as temporary:
            np.savez_compressed(temporary, images=images.permute(0, 2, 3, 1).cpu().numpy())

    def finish(self, run: Path) -> None:
        """Write the averaged generator, the encoder's weights beside it, and what to go on with."""
        about = {
            "preset": self.config.preset,
            "network": to_dict(self.generator.config),
            "objective": self.config.objective,
            "pictures_seen": self.loop.steps * self.loop.batch_size,
        }
        save_weights(run / "generator.safetensors", self.ema.average, about)
        save_weights(run / "encoder.safetensors", self._encoder, self._encoder_about)
        if self.config.adversarial_weight:
            # One that was not trained would only bind a later run to its sizes.
            save_weights(run / "discriminator.safetensors", self.discriminator)
        if self.posterior is not None:
            save_weights(run / "posterior.safetensors", self.posterior)
        copy_weights(self._encoder_run, run, "picture_encoder")


def load_generator(run: Path) -> DenseGenerator:
    """Load the generator of a finished translator run, in eval mode; DataError when it is none."""
    read_run(run, "translator")
    path = run / "generator.safetensors"
    if not path.exists():
        raise DataError(f"{run} is not finished: go on with its training command first")
    return load_network(path, DenseGenerator, DenseGeneratorConfig)[0]
