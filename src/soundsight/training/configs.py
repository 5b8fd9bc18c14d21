"""The settings of every training, without PyTorch: the command line checks them before it loads it.

``SIZES``, ``EARS_SIZES`` and ``PART_SIZES`` are the names of the presets in ``models.presets``,
``models.ears`` and ``training.decoder``, ``training.flow``, ``training.drawing``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from soundsight.core.config import check_values
from soundsight.core.errors import ConfigError

SIZES = ("paper", "flagship", "compact", "small", "tiny")
EARS_SIZES = ("everyday", "everyday-tiny")
PART_SIZES = ("everyday", "tiny")
"""Of decoder, flow and discriminator of the everyday model."""

ENCODERS = ("contrastive", "autoencoder")
SCHEDULES = ("modern", "published")
OBJECTIVES = ("relativistic", "rc")
PIXEL_LOSSES = ("l1", "mse")
READINGS = ("off", "snapshots", "ema")
"""Of the moving-average adversarial loss."""
PRECISIONS = ("32-true", "bf16-mixed")
MAX_NOISE_RATIO = 64


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how much at once and how often.

    Attributes:
        steps: optimiser steps in all.
        batch_size: pairs a step, over all processes and micro-batches.
        accumulate: micro-batches a step, whose gradients are added up: what does not fit into
            memory at once. BatchNorm, and losses that compare the items of a batch with each
            other, then see a micro-batch, so results differ.
        precision: ``32-true``, or ``bf16-mixed``: networks run in bfloat16, weights, statistics and
            losses stay in float32. Faster where the processor has it, and less exact.
        seed: of the weights, the order of the pairs and every random draw.
        log_every: steps between two log lines.
        checkpoint_every: steps between two checkpoints.
        keep: how many of the latest checkpoints stay, beside the latest; 0 for none.
        picture_every: steps between two picture grids.
        evaluate_every: steps between two evaluations, where there is one to do.
    """

    steps: int
    batch_size: int
    accumulate: int = 1
    precision: str = "32-true"
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 250
    keep: int = 0
    picture_every: int = 500
    evaluate_every: int = 500

    def __post_init__(self) -> None:
        check_values(
            self, "loop.", precision=PRECISIONS, at_least_0="seed keep",
            at_least_1="steps accumulate log_every checkpoint_every picture_every evaluate_every",
        )  # fmt: skip
        if self.batch_size < 2:
            raise ConfigError(f"loop.batch_size must be at least 2, not {self.batch_size}")
        if self.seed >= 2**63:
            raise ConfigError(f"loop.seed must be below 2**63, not {self.seed}")
        if self.batch_size % self.accumulate or self.batch_size < 2 * self.accumulate:
            raise ConfigError(
                f"loop.batch_size {self.batch_size} cannot be divided into {self.accumulate} "
                "micro-batches of 2 pairs or more"
            )


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Training of an audio encoder.

    Two schedules. ``modern``: AdamW, one cycle, augmented sounds, for short runs.
    ``published`` (autoencoder only; arXiv 2106.01266): SGD at a constant rate of .05 with momentum
    .9 in batches of 64, sounds as they are, for a thousand epochs and more.

    Attributes:
        kind: ``contrastive`` or ``autoencoder``.
        preset: sizes of the network.
        embedding_size: E; None for the preset's.
        schedule: ``modern`` or ``published``.
        learning_rate: AdamW's peak, or SGD's constant, learning rate.
        momentum: SGD's.
        weight_decay: AdamW's.
        other_sounds: share of the sounds that get another one behind them (contrastive only, as
            the two below; ``augment.add_background``).
        noise: share of the sounds that get steady noise behind them.
        tilt: strength of a random microphone's curve over the bands.
        warm_up: share of the steps in which AdamW's rate rises; it then falls as a cosine.
        init: hash of the weights that it starts from; empty for random ones.
        loop: steps, batch and seed.
    """

    kind: str = "contrastive"
    preset: str = "compact"
    embedding_size: int | None = None
    schedule: str = "modern"
    learning_rate: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 1e-2
    other_sounds: float = 0.0
    noise: float = 0.0
    tilt: float = 0.0
    warm_up: float = 0.1
    init: str = ""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=400, batch_size=256))

    def __post_init__(self) -> None:
        check_values(
            self, kind=ENCODERS, preset=SIZES, schedule=SCHEDULES, above_0="learning_rate",
            at_least_0="weight_decay", share="other_sounds noise tilt warm_up", below_1="momentum",
        )  # fmt: skip
        if self.schedule == "published" and self.kind != "autoencoder":
            raise ConfigError("the published schedule belongs to the autoencoder: --kind")
        if self.embedding_size is not None and not 4 <= self.embedding_size <= 65536:
            raise ConfigError("embedding_size must lie between 4 and 65536")


def default_encoder_config(kind: str, preset: str, schedule: str) -> EncoderConfig:
    """Return the settings that belong to a kind of encoder, its preset and its schedule.

    Raises:
        ConfigError: on an unknown kind or schedule, naming the choices.
    """
    config = EncoderConfig(kind=kind, preset=preset, schedule=schedule)
    if kind == "autoencoder":
        config = replace(config, loop=replace(config.loop, batch_size=64))
    elif preset == "flagship":
        loop = replace(config.loop, steps=5000, batch_size=128)
        config = replace(config, other_sounds=0.3, noise=0.3, tilt=0.08, loop=loop)
    if schedule == "published":
        config = replace(config, learning_rate=0.05, weight_decay=0.0)
    return config


@dataclass(frozen=True, kw_only=True)
class MovingAverageConfig:
    """Which reading, and over how long.

    K and the decay are not published; the defaults reach back a hundred steps either way.

    Attributes:
        reading: ``off``, ``snapshots`` or ``ema``.
        snapshots: K, discriminators averaged over, the live one among them (``snapshots``).
        snapshot_every: steps between two snapshots.
        decay: share of the average that is kept at each step (``ema``).
    """

    reading: str = "off"
    snapshots: int = 5
    snapshot_every: int = 25
    decay: float = 0.99

    def __post_init__(self) -> None:
        check_values(
            self, "moving_average.", reading=READINGS, at_least_1="snapshot_every", below_1="decay"
        )
        if self.snapshots < 2:
            raise ConfigError("moving_average.snapshots must be at least 2")


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
        noise_ratio: Gaussian noise dimensions per embedding dimension (published: 0), at most
            64; None for the preset's.
        attention: attention blocks after transitions 0 to 6 (published variant: 0,18,0,0,0,0,0).
        attention_width: length of a token in these blocks.
        attention_heads: heads of each.
        audio_source: the encoder's layer that attention listens to; 13 = the embedding.
        moving_average: the generator's adversaries (``rc``).
        penalty: gamma of the R1 and R2 gradient penalties (``relativistic``).
        penalty_every: steps between two penalties; each is scaled up to make up for it.
        wrong_sound_weight: weight of the matching-aware negative (``relativistic``).
        contrast_weight: weight of the discriminator's InfoNCE between sounds and real pictures
            (``relativistic``).
        coherence_weight: weight of the generator's InfoNCE between its pictures and their sounds,
            in the discriminator's features (``relativistic``).
        temperature: of both.
        variational_weight: weight of drawing photos again from noise read off them
            (``relativistic``); 0 for none, and no picture posterior. Of it:
        feature_weight: weight of the likeness in the discriminator's maps, the pixels' being 1;
        kl_weight: weight of the KL divergence, a nat.
        embedding_noise: standard deviation of noise on the embeddings, so that the generator meets
            sounds it has not seen (``relativistic``). A contrastive encoder's have a root mean
            square of 1, those of an autoencoder less.
        ema_decay: of the generator's average, which is the one that is kept.
        init: hash of the weights that the generator starts from; empty for random ones.
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
    noise_ratio: float | None = None
    attention: tuple[int, ...] = (0,) * 7
    attention_width: int = 320
    attention_heads: int = 8
    audio_source: int = 13
    moving_average: MovingAverageConfig = field(default_factory=MovingAverageConfig)
    penalty: float = 1.0
    penalty_every: int = 8
    wrong_sound_weight: float = 0.5
    contrast_weight: float = 0.0
    coherence_weight: float = 0.0
    temperature: float = 0.1
    variational_weight: float = 0.0
    feature_weight: float = 0.2
    kl_weight: float = 0.006
    embedding_noise: float = 0.15
    ema_decay: float = 0.999
    init: str = ""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=6000, batch_size=32))

    def __post_init__(self) -> None:
        check_values(
            self, preset=SIZES, objective=OBJECTIVES, pixel=PIXEL_LOSSES,
            above_0="temperature generator_rate discriminator_rate", at_least_1="penalty_every",
            at_least_0="pixel_weight penalty wrong_sound_weight contrast_weight coherence_weight "
            "variational_weight feature_weight kl_weight embedding_noise",
            below_1="beta1 beta2 ema_decay",
        )  # fmt: skip
        if self.objective != "rc" and self.moving_average.reading != "off":
            raise ConfigError("the moving average belongs to --objective rc")
        if self.noise_ratio is not None and not 0 <= self.noise_ratio <= MAX_NOISE_RATIO:
            raise ConfigError(f"noise_ratio must lie in [0, {MAX_NOISE_RATIO}]")
        if self.objective == "rc" and max(
            self.contrast_weight, self.coherence_weight, self.variational_weight
        ):
            raise ConfigError(
                "contrast_weight, coherence_weight and variational_weight belong to "
                "--objective relativistic"
            )


def default_config(objective: str, preset: str, encoder: str) -> TranslatorConfig:
    """Return the settings that belong to an objective and a preset.

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
            pixel_weight=1.0, noise_ratio=0.0, embedding_noise=0.0,
            loop=replace(config.loop, batch_size=64),
        )  # fmt: skip
    if preset == "flagship":
        return replace(config, contrast_weight=1.0, coherence_weight=0.3, variational_weight=1.0)
    return config


@dataclass(frozen=True, kw_only=True)
class CopyConfig:
    """How often a copy gets what.

    Attributes:
        narrow_8khz: share of the copies whose band ends below 4 kHz, as at a rate of 8 kHz.
        narrow_16khz: share whose band ends below 8 kHz, as at a rate of 16 kHz.
        narrow_any: share whose band ends anywhere between 4.5 and 10.5 kHz.
        pace: share played faster or slower, by at most a tenth.
        behind: share with another recording behind them, 6 to 26 dB lower.
        noise: share with steady noise behind them, 3 to 40 dB lower.
        room: share in a room with .1 to .9 s of reverberation.
        equaliser: share with a smooth curve over the bands, with a standard deviation of 6 dB.
        low_cut: share without what lies under 40 to 400 Hz.
        codec: share that went through MP3 or Opus.
        coarse: share with 6 to 10 bits a sample.
        clipped: share that is driven into clipping.
        offset: share with a constant added.
        jpeg: share of the seconds whose log-mel went through JPEG, as those of the bench did.

    Raises:
        ConfigError: when a share is not one, or the three bands are more than all copies.
    """

    narrow_8khz: float = 0.18
    narrow_16khz: float = 0.14
    narrow_any: float = 0.12
    pace: float = 0.3
    behind: float = 0.35
    noise: float = 0.4
    room: float = 0.4
    equaliser: float = 0.7
    low_cut: float = 0.3
    codec: float = 0.2
    coarse: float = 0.08
    clipped: float = 0.12
    offset: float = 0.05
    jpeg: float = 0.6

    def __post_init__(self) -> None:
        check_values(self, share=" ".join(vars(self)))
        if self.narrow_8khz + self.narrow_16khz + self.narrow_any > 1:
            raise ConfigError("narrow_8khz, narrow_16khz and narrow_any are shares of one whole")


@dataclass(frozen=True, kw_only=True)
class BankConfig:
    """What a bank holds.

    Attributes:
        copies: copies of every recording, beside the recording itself.
        seed: of every draw.
        copy: how often a copy gets what.

    Raises:
        ConfigError: when ``copies`` is negative.
    """

    copies: int = 8
    seed: int = 0
    copy: CopyConfig = field(default_factory=CopyConfig)

    def __post_init__(self) -> None:
        check_values(self, "bank.", at_least_0="copies")


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """What the clips are made of.

    Attributes:
        clips: clips, each of ten seconds; 0 for none.
        recordings: shares of clips made of one, two and three recordings.
        speed: share of recordings that are played at another speed, half to twice as fast.
        reversed: share that are played backwards.
        bursts: share that are cut into bursts.
        copied: share of clips of which the ears hear a copy.

    Raises:
        ConfigError: when a value is out of range.
    """

    clips: int = 10_000
    recordings: tuple[float, float, float] = (0.4, 0.4, 0.2)
    speed: float = 0.6
    reversed: float = 0.15
    bursts: float = 0.15
    copied: float = 0.7

    def __post_init__(self) -> None:
        check_values(self, at_least_0="clips", share="recordings speed reversed bursts copied")
        if abs(sum(self.recordings) - 1) > 1e-6:
            raise ConfigError("the shares of one, two and three recordings must sum to 1")


@dataclass(frozen=True, kw_only=True)
class EarsTrainingConfig:
    """Training of the ears.

    Attributes:
        preset: sizes of the network.
        learning_rate: AdamW's peak rate.
        weight_decay: AdamW's.
        warm_up: share of the steps in which the rate rises; it then falls as a cosine.
        average: decay of the moving average of the weights, which is what is kept.
        last_layer: share of the steps, the last ones, in which the last layer is learned anew on
            features that stay as they are.
        last_layer_rate: peak rate of these steps.
        last_layer_dropout: dropout rate of the features in these steps.
        photos_each: photos that a second meets in a step.
        alone: share of a batch that are sounds without photos, which meet each other.
        alone_weight: weight of their contrast.
        teacher: hash of the teacher's file; empty for none.
        teacher_weight: weight of the squared error of its features.
        mixture_share: share of a batch that are clips mixed for the teacher.
        mixtures: what these are made of.
        mixed: share of the seconds that are mixed with another one of the batch.
        clean: share of the seconds that are taken as they are, not from a copy.
        narrow: share of the seconds without copies that lose their highest bands.
        other_sounds: share of the seconds with another one behind them (``add_background``).
        noise: share with steady noise behind them.
        tilt: strength of a random microphone's curve over the bands.
        bank: the copies.
        init: hash of the weights that it starts from; None for random ones.
        loop: steps, batch and seed.

    Raises:
        ConfigError: when a value is out of range.
    """

    preset: str = "everyday"
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    average: float = 0.998
    last_layer: float = 0.1
    last_layer_rate: float = 1e-3
    last_layer_dropout: float = 0.8
    photos_each: int = 4
    alone: float = 0.2
    alone_weight: float = 0.3
    teacher: str = ""
    teacher_weight: float = 6.0
    mixture_share: float = 0.5
    mixtures: MixtureConfig = field(default_factory=MixtureConfig)
    mixed: float = 0.5
    clean: float = 0.1
    narrow: float = 0.35
    other_sounds: float = 0.25
    noise: float = 0.25
    tilt: float = 0.1
    bank: BankConfig = field(default_factory=BankConfig)
    init: str | None = None
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=6000, batch_size=256, precision="bf16-mixed")
    )

    def __post_init__(self) -> None:
        check_values(
            self, preset=EARS_SIZES, above_0="learning_rate last_layer_rate",
            at_least_0="weight_decay alone_weight teacher_weight", at_least_1="photos_each",
            share="warm_up alone mixture_share mixed clean narrow other_sounds noise tilt",
            below_1="average last_layer_dropout",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Training of encoder and decoder of latent pictures.

    Attributes:
        preset: sizes, ``everyday`` or ``tiny``.
        eyes: SHA-256 of the network through which photos are looked at.
        rate: Adam's learning rate of encoder and decoder together.
        sharpening_rate: of both, once the discriminator speaks.
        warm_up: steps in which the rate rises.
        discriminator_rate: of the discriminator.
        sharpen_from: the step from which the discriminator speaks.
        frozen_from: the step from which the encoder stays as it is.
        adversarial_weight: weight of its word.
        pooled_weight: weight of the likeness of pooled features, that of each scale being 1/4.
        reading_weight: weight of reading the photo's pooled features off its latent picture.
        pixel_weight: weight of the pixels' likeness at half size.
        kl_weight: weight of the KL divergence, the mean over the numbers of a latent picture.
        zoom: photos are enlarged by up to this share.
        ema_decay: of the decoder's average, which is the one that is kept.
        init: hash of the weights that it starts from; None for random ones.
        loop: steps, batch and seed.
    """

    preset: str = "everyday"
    eyes: str = ""
    rate: float = 1e-3
    sharpening_rate: float = 4e-4
    warm_up: int = 100
    discriminator_rate: float = 4e-4
    sharpen_from: int = 1500
    frozen_from: int = 8000
    adversarial_weight: float = 0.15
    pooled_weight: float = 1.0
    reading_weight: float = 1.0
    pixel_weight: float = 3.0
    kl_weight: float = 0.003
    zoom: float = 0.3
    ema_decay: float = 0.999
    init: str | None = None
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=12_000, batch_size=32))

    def __post_init__(self) -> None:
        check_values(
            self, preset=PART_SIZES, above_0="rate sharpening_rate discriminator_rate",
            at_least_0="adversarial_weight pooled_weight reading_weight pixel_weight kl_weight "
            "zoom warm_up sharpen_from frozen_from",
            below_1="ema_decay",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FlowTrainingConfig:
    """Training of the flow.

    Attributes:
        encoder: SHA-256 of the sound encoder's weights.
        decoder: SHA-256 of the latent encoder's weights.
        preset: sizes, ``everyday`` or ``tiny``.
        rate: AdamW's peak learning rate.
        weight_decay: AdamW's.
        warm_up: steps in which the rate rises; it then stays, and falls in the last ``cool_down``
            share of the steps to zero.
        cool_down: that share.
        jitter: standard deviation of noise on the embeddings, whose root mean square is 1.
        left_out: share of the embeddings that are left out.
        ema_decay: of the average, which is the one that is kept.
        init: hash of the weights that it starts from; None for random ones.
        loop: steps, batch and seed.
    """

    encoder: str = ""
    decoder: str = ""
    preset: str = "everyday"
    rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 200
    cool_down: float = 0.3
    jitter: float = 0.15
    left_out: float = 0.125
    ema_decay: float = 0.999
    init: str | None = None
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=10_000, batch_size=128))

    def __post_init__(self) -> None:
        check_values(
            self, preset=PART_SIZES, above_0="rate", at_least_0="weight_decay warm_up jitter",
            share="cool_down", below_1="left_out ema_decay",
        )  # fmt: skip

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: up, level, and down to zero at the end."""
        falling = self.cool_down * self.loop.steps
        return self.rate * share_of_rate(step, self.loop.steps, self.warm_up, falling)


def share_of_rate(step: int, steps: int, rising: int, falling: float) -> float:
    """Return the share of a peak rate: up, level, and down to zero at the end; 0 before step 0."""
    rise = (step + 1) / max(1, rising)
    left = (steps - step) / max(1.0, falling)
    return max(0.0, min(rise, left, 1.0))


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """Training of the few-step copy.

    Attributes:
        flow: SHA-256 of the flow's weights.
        steps: evaluations for a picture.
        shift: how much denser the early times lie: t' = t / (t + shift (1 - t)); 1 for even ones.
        guidance: what is folded in.
        substeps: steps of the guided flow for one of the copy's.
        rate: AdamW's learning rate, which falls to zero.
        jitter: standard deviation of noise on the embeddings.
        ema_decay: of the average, which is the one that is kept.
        loop: steps, batch and seed.
    """

    flow: str = ""
    steps: int = 5
    shift: float = 1.0
    guidance: float = 4.0
    substeps: int = 3
    rate: float = 3e-4
    jitter: float = 0.1
    ema_decay: float = 0.995
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1500, batch_size=64))

    def __post_init__(self) -> None:
        check_values(
            self, at_least_1="steps substeps", above_0="rate shift guidance", at_least_0="jitter",
            below_1="ema_decay",
        )  # fmt: skip

    @property
    def times(self) -> tuple[float, ...]:
        """The copy's times, from 0 to 1."""
        even = (i / self.steps for i in range(self.steps + 1))
        return tuple(t / (t + self.shift * (1.0 - t)) for t in even)


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Training of the few-step translator on its pictures.

    Attributes:
        flow: SHA-256 of the weights of the few-step flow that it starts from.
        eyes: SHA-256 of the network through which pictures are looked at.
        preset: sizes of the discriminator, ``everyday`` or ``tiny``.
        rate: Adam's learning rate of flow and decoder.
        discriminator_rate: of the discriminator.
        ahead: first steps, in which the discriminator learns alone.
        warm_up: steps in which the rate then rises; it stays, and falls in the last ``cool_down``
            share of the steps to zero.
        cool_down: that share.
        agreement_weight: weight of the agreement of picture and sound.
        likeness_weight: weight of the likeness of picture and photo.
        likeness_temperature: of the cosines of their features.
        adversarial_weight: weight of the discriminator's word.
        nearness_weight: weight of the squared distance of latent pictures in the flow's unit scale.
        colour_weight: weight of the distance (L1) of colours in pictures shrunk to 12 x 12.
        others: sounds that a picture is told from, beside those of the batch.
        jitter: standard deviation of noise on the embeddings.
        zoom: pictures are enlarged by up to this share before they are looked at.
        ema_decay: of the average, which is the one that is kept.
        loop: steps, batch and seed.
    """

    flow: str = ""
    eyes: str = ""
    preset: str = "everyday"
    rate: float = 1e-4
    discriminator_rate: float = 2e-4
    ahead: int = 60
    warm_up: int = 50
    cool_down: float = 0.3
    agreement_weight: float = 0.2
    likeness_weight: float = 0.3
    likeness_temperature: float = 0.07
    adversarial_weight: float = 0.3
    nearness_weight: float = 0.2
    colour_weight: float = 1.0
    others: int = 480
    jitter: float = 0.1
    zoom: float = 0.3
    ema_decay: float = 0.998
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1600, batch_size=32))

    def __post_init__(self) -> None:
        check_values(
            self, preset=PART_SIZES, above_0="rate discriminator_rate likeness_temperature",
            at_least_0="ahead warm_up agreement_weight likeness_weight adversarial_weight "
            "nearness_weight colour_weight others jitter zoom",
            share="cool_down", below_1="ema_decay",
        )  # fmt: skip

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: none at first, up, level, and down to zero."""
        steps, falling = self.loop.steps - self.ahead, self.cool_down * self.loop.steps
        return self.rate * share_of_rate(step - self.ahead, steps, self.warm_up, falling)
