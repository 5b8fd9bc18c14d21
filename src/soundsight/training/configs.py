"""The settings of every training, without PyTorch: the command line checks them before it loads it.

``SIZES``, ``EARS_SIZES`` and ``PART_SIZES`` are the names of the presets in ``models.presets``,
``models.ears`` and ``training.decoder``, ``training.flow``, ``training.drawing``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from soundsight.core.config import check_values, choose
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
MADE_SOUNDS = (
    "noise", "ticking", "crackling", "engine", "calls", "bangs", "tones", "babble",
)  # fmt: skip
"""Kinds of sounds in ``training.other_sounds``."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how much at once and how often."""

    steps: int  #: optimiser steps in all
    batch_size: int  #: pairs a step, over all processes and micro-batches
    #: micro-batches a step, whose gradients are added up: what does not fit into memory at once.
    #: BatchNorm, and losses that compare the items of a batch with each other, then see a micro-
    #: batch, so results differ.
    accumulate: int = 1
    #: ``32-true``, or ``bf16-mixed``: networks run in bfloat16, weights, statistics and losses stay
    #: in float32. Faster where the processor has it, and less exact.
    precision: str = "32-true"
    seed: int = 0  #: of the weights, the order of the pairs and every random draw
    log_every: int = 20  #: steps between two log lines
    checkpoint_every: int = 250  #: steps between two checkpoints
    keep: int = 0  #: how many of the latest checkpoints stay, beside the latest; 0 for none
    picture_every: int = 500  #: steps between two picture grids
    evaluate_every: int = 500  #: steps between two evaluations, where there is one to do

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
    """

    kind: str = "contrastive"  #: ``contrastive`` or ``autoencoder``
    preset: str = "compact"  #: sizes of the network
    embedding_size: int | None = None  #: E; None for the preset's
    schedule: str = "modern"  #: ``modern`` or ``published``
    learning_rate: float = 2e-3  #: AdamW's peak, or SGD's constant, learning rate
    momentum: float = 0.9  #: SGD's
    weight_decay: float = 1e-2  #: AdamW's
    #: share of the sounds that get another one behind them (contrastive only, as the two below;
    #: ``augment.add_background``).
    other_sounds: float = 0.0
    noise: float = 0.0  #: share of the sounds that get steady noise behind them
    tilt: float = 0.0  #: strength of a random microphone's curve over the bands
    #: share of the steps in which AdamW's rate rises; it then falls as a cosine
    warm_up: float = 0.1
    init: str = ""  #: hash of the weights that it starts from; empty for random ones
    #: steps, batch and seed
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
    """

    reading: str = "off"  #: ``off``, ``snapshots`` or ``ema``
    snapshots: int = 5  #: K, discriminators averaged over, the live one among them (``snapshots``)
    snapshot_every: int = 25  #: steps between two snapshots
    decay: float = 0.99  #: share of the average that is kept at each step (``ema``)

    def __post_init__(self) -> None:
        check_values(
            self, "moving_average.", reading=READINGS, at_least_1="snapshot_every", below_1="decay"
        )
        if self.snapshots < 2:
            raise ConfigError("moving_average.snapshots must be at least 2")


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig:
    """Training of a translator."""

    encoder: str  #: SHA-256 of the frozen encoder's weights, so that a resumed run cannot change it
    preset: str = "compact"  #: sizes of the networks
    objective: str = "relativistic"  #: ``relativistic`` or ``rc``
    generator_rate: float = 4e-4  #: Adam's learning rate for the generator
    discriminator_rate: float = 4e-4  #: Adam's learning rate for the discriminator
    beta1: float = 0.0  #: Adam's first decay
    beta2: float = 0.99  #: Adam's second decay
    pixel: str = "l1"  #: ``l1`` or ``mse``
    pixel_weight: float = 0.0  #: weight of the pixel loss beside the adversarial loss
    #: Gaussian noise dimensions per embedding dimension (published: 0), at most 64; None for the
    #: preset's
    noise_ratio: float | None = None
    #: attention blocks after transitions 0 to 6 (published variant: 0,18,0,0,0,0,0)
    attention: tuple[int, ...] = (0,) * 7
    attention_width: int = 320  #: length of a token in these blocks
    attention_heads: int = 8  #: heads of each
    audio_source: int = 13  #: the encoder's layer that attention listens to; 13 = the embedding
    #: the generator's adversaries (``rc``)
    moving_average: MovingAverageConfig = field(default_factory=MovingAverageConfig)
    penalty: float = 1.0  #: gamma of the R1 and R2 gradient penalties (``relativistic``)
    penalty_every: int = 8  #: steps between two penalties; each is scaled up to make up for it
    wrong_sound_weight: float = 0.5  #: weight of the matching-aware negative (``relativistic``)
    #: weight of the discriminator's InfoNCE between sounds and real pictures (``relativistic``)
    contrast_weight: float = 0.0
    #: weight of the generator's InfoNCE between its pictures and their sounds, in the
    #: discriminator's features (``relativistic``)
    coherence_weight: float = 0.0
    temperature: float = 0.1  #: of both
    #: weight of drawing photos again from noise read off them (``relativistic``); 0 for none, and
    #: no picture posterior. Of it:
    variational_weight: float = 0.0
    #: weight of the likeness in the discriminator's maps, the pixels' being 1;
    feature_weight: float = 0.2
    kl_weight: float = 0.006  #: weight of the KL divergence, a nat
    #: standard deviation of noise on the embeddings, so that the generator meets sounds it has not
    #: seen (``relativistic``). A contrastive encoder's have a root mean square of 1, those of an
    #: autoencoder less.
    embedding_noise: float = 0.15
    ema_decay: float = 0.999  #: of the generator's average, which is the one that is kept
    init: str = ""  #: hash of the weights that the generator starts from; empty for random ones
    #: steps, batch and seed
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
    """How often a copy gets what."""

    #: share of the copies whose band ends below 4 kHz, as at a rate of 8 kHz
    narrow_8khz: float = 0.18
    narrow_16khz: float = 0.14  #: share whose band ends below 8 kHz, as at a rate of 16 kHz
    narrow_any: float = 0.12  #: share whose band ends anywhere between 4.5 and 10.5 kHz.
    pace: float = 0.3  #: share played faster or slower, by at most a tenth
    behind: float = 0.35  #: share with another recording behind them, 6 to 26 dB lower
    noise: float = 0.4  #: share with steady noise behind them, 3 to 40 dB lower
    room: float = 0.4  #: share in a room with .1 to .9 s of reverberation.
    #: share with a smooth curve over the bands, with a standard deviation of 6 dB
    equaliser: float = 0.7
    low_cut: float = 0.3  #: share without what lies under 40 to 400 Hz
    codec: float = 0.2  #: share that went through MP3 or Opus
    coarse: float = 0.08  #: share with 6 to 10 bits a sample
    clipped: float = 0.12  #: share that is driven into clipping
    offset: float = 0.05  #: share with a constant added
    #: share of the seconds whose log-mel went through JPEG, as those of the bench did
    jpeg: float = 0.6

    def __post_init__(self) -> None:
        check_values(self, share=" ".join(vars(self)))
        if self.narrow_8khz + self.narrow_16khz + self.narrow_any > 1:
            raise ConfigError("narrow_8khz, narrow_16khz and narrow_any are shares of one whole")


@dataclass(frozen=True, kw_only=True)
class BankConfig:
    """What a bank holds."""

    copies: int = 8  #: copies of every recording, beside the recording itself
    seed: int = 0  #: of every draw
    copy: CopyConfig = field(default_factory=CopyConfig)  #: how often a copy gets what

    def __post_init__(self) -> None:
        check_values(self, "bank.", at_least_0="copies")


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """What the clips are made of."""

    clips: int = 10_000  #: clips, each of ten seconds; 0 for none
    #: shares of clips made of one, two and three recordings
    recordings: tuple[float, float, float] = (0.4, 0.4, 0.2)
    #: share of recordings that are played at another speed, half to twice as fast
    speed: float = 0.6
    reversed: float = 0.15  #: share that are played backwards
    bursts: float = 0.15  #: share that are cut into bursts
    copied: float = 0.7  #: share of clips of which the ears hear a copy

    def __post_init__(self) -> None:
        check_values(self, at_least_0="clips", share="recordings speed reversed bursts copied")
        if abs(sum(self.recordings) - 1) > 1e-6:
            raise ConfigError("the shares of one, two and three recordings must sum to 1")


@dataclass(frozen=True, kw_only=True)
class EarsTrainingConfig:
    """Training of the ears."""

    preset: str = "everyday"  #: sizes of the network
    learning_rate: float = 2e-3  #: AdamW's peak rate
    weight_decay: float = 0.05  #: AdamW's
    warm_up: float = 0.05  #: share of the steps in which the rate rises; it then falls as a cosine
    average: float = 0.998  #: decay of the moving average of the weights, which is what is kept
    #: share of the steps, the last ones, in which the last layer is learned anew on features that
    #: stay as they are
    last_layer: float = 0.1
    last_layer_rate: float = 1e-3  #: peak rate of these steps
    last_layer_dropout: float = 0.8  #: dropout rate of the features in these steps
    photos_each: int = 4  #: photos that a second meets in a step
    alone: float = 0.2  #: share of a batch that are sounds without photos, which meet each other
    alone_weight: float = 0.3  #: weight of their contrast
    teacher: str = ""  #: hash of the teacher's file; empty for none
    teacher_weight: float = 6.0  #: weight of the squared error of its features
    mixture_share: float = 0.5  #: share of a batch that are clips mixed for the teacher
    mixtures: MixtureConfig = field(default_factory=MixtureConfig)  #: what these are made of
    mixed: float = 0.5  #: share of the seconds that are mixed with another one of the batch
    clean: float = 0.1  #: share of the seconds that are taken as they are, not from a copy
    narrow: float = 0.35  #: share of the seconds without copies that lose their highest bands
    #: share of the seconds with another one behind them (``add_background``)
    other_sounds: float = 0.25
    noise: float = 0.25  #: share with steady noise behind them
    tilt: float = 0.1  #: strength of a random microphone's curve over the bands
    bank: BankConfig = field(default_factory=BankConfig)  #: the copies
    init: str | None = None  #: hash of the weights that it starts from; None for random ones
    #: steps, batch and seed
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
    """Training of encoder and decoder of latent pictures."""

    preset: str = "everyday"  #: sizes, ``everyday`` or ``tiny``
    eyes: str = ""  #: SHA-256 of the network through which photos are looked at
    rate: float = 1e-3  #: Adam's learning rate of encoder and decoder together
    sharpening_rate: float = 4e-4  #: of both, once the discriminator speaks
    warm_up: int = 100  #: steps in which the rate rises
    discriminator_rate: float = 4e-4  #: of the discriminator
    sharpen_from: int = 1500  #: the step from which the discriminator speaks
    frozen_from: int = 8000  #: the step from which the encoder stays as it is
    adversarial_weight: float = 0.15  #: weight of its word
    #: weight of the likeness of pooled features, that of each scale being 1/4
    pooled_weight: float = 1.0
    #: weight of reading the photo's pooled features off its latent picture
    reading_weight: float = 1.0
    pixel_weight: float = 3.0  #: weight of the pixels' likeness at half size
    #: weight of the KL divergence, the mean over the numbers of a latent picture
    kl_weight: float = 0.003
    zoom: float = 0.3  #: photos are enlarged by up to this share
    ema_decay: float = 0.999  #: of the decoder's average, which is the one that is kept
    init: str | None = None  #: hash of the weights that it starts from; None for random ones
    #: steps, batch and seed
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
    """Training of the flow."""

    encoder: str = ""  #: SHA-256 of the sound encoder's weights
    decoder: str = ""  #: SHA-256 of the latent encoder's weights
    preset: str = "everyday"  #: sizes, ``everyday`` or ``tiny``
    rate: float = 1e-3  #: AdamW's peak learning rate
    weight_decay: float = 0.01  #: AdamW's
    #: steps in which the rate rises; it then stays, and falls in the last ``cool_down`` share of
    #: the steps to zero
    warm_up: int = 200
    cool_down: float = 0.3  #: that share
    #: standard deviation of noise on the embeddings, whose root mean square is 1
    jitter: float = 0.15
    left_out: float = 0.125  #: share of the embeddings that are left out
    ema_decay: float = 0.999  #: of the average, which is the one that is kept
    init: str | None = None  #: hash of the weights that it starts from; None for random ones
    #: steps, batch and seed
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
    """Training of the few-step copy."""

    flow: str = ""  #: SHA-256 of the flow's weights
    steps: int = 5  #: evaluations for a picture
    #: how much denser the early times lie: t' = t / (t + shift (1 - t)); 1 for even ones
    shift: float = 1.0
    guidance: float = 4.0  #: what is folded in
    substeps: int = 3  #: steps of the guided flow for one of the copy's
    rate: float = 3e-4  #: AdamW's learning rate, which falls to zero
    jitter: float = 0.1  #: standard deviation of noise on the embeddings
    ema_decay: float = 0.995  #: of the average, which is the one that is kept
    #: steps, batch and seed
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
    """Training of the few-step translator on its pictures."""

    flow: str = ""  #: SHA-256 of the weights of the few-step flow that it starts from
    eyes: str = ""  #: SHA-256 of the network through which pictures are looked at
    preset: str = "everyday"  #: sizes of the discriminator, ``everyday`` or ``tiny``
    rate: float = 1e-4  #: Adam's learning rate of flow and decoder
    discriminator_rate: float = 2e-4  #: of the discriminator
    ahead: int = 60  #: first steps, in which the discriminator learns alone
    #: steps in which the rate then rises; it stays, and falls in the last ``cool_down`` share of
    #: the steps to zero
    warm_up: int = 50
    cool_down: float = 0.3  #: that share
    agreement_weight: float = 0.2  #: weight of the agreement of picture and sound
    likeness_weight: float = 0.3  #: weight of the likeness of picture and photo
    likeness_temperature: float = 0.07  #: of the cosines of their features
    adversarial_weight: float = 0.3  #: weight of the discriminator's word
    #: weight of the squared distance of latent pictures in the flow's unit scale
    nearness_weight: float = 0.2
    #: weight of the distance (L1) of colours in pictures shrunk to 12 x 12
    colour_weight: float = 1.0
    others: int = 480  #: sounds that a picture is told from, beside those of the batch
    jitter: float = 0.1  #: standard deviation of noise on the embeddings
    zoom: float = 0.3  #: pictures are enlarged by up to this share before they are looked at
    ema_decay: float = 0.998  #: of the average, which is the one that is kept
    #: steps, batch and seed
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


@dataclass(frozen=True, kw_only=True)
class LabelHeadConfig:
    """How the label head is fitted."""

    #: weights of the squared coefficients, of standardised embeddings, that are tried; the one with
    #: the least log loss on val is kept
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    iterations: int = 200  #: of L-BFGS, at most
    #: kinds of made sounds that are none of the subjects. Leave out what is a subject.
    others: tuple[str, ...] = MADE_SOUNDS
    #: sounds of each kind, and a quarter as many beside val; 0 for none, and every sound is given
    #: one of the names
    others_each: int = 120
    others_weight: float = 1.0  #: weight of all of them together beside that of all named seconds
    balanced: bool = False  #: let every name weigh the same, however many seconds it has
    #: names that are shown as words and never drawn; those that no second has are left out
    alerts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_values(
            self, above_0="penalties others_weight", at_least_0="others_each",
            at_least_1="iterations",
        )  # fmt: skip
        if not self.penalties:
            raise ConfigError("penalties must be numbers above 0")
        for kind in self.others:
            choose("kind of other sound", kind, dict.fromkeys(MADE_SOUNDS))

    @property
    def with_others(self) -> bool:
        """Whether sounds are made that are none of the subjects."""
        return bool(self.others) and self.others_each > 0


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a :class:`NearestNeighbourOod` is fitted."""

    accepted: float = 0.98  #: share of the audible val sounds that count as known
    axes: int = 32  #: principal axes kept
    sounds: int = 2048  #: train sounds kept; fewer where there are fewer
    neighbours: int = 5  #: nearest sounds whose distances are averaged
    seed: int = 0  #: of which sounds are kept

    def __post_init__(self) -> None:
        check_values(
            self, above_0="accepted", below_1="accepted", at_least_1="axes sounds neighbours"
        )


@dataclass(frozen=True, kw_only=True)
class OodClassifierFitConfig:
    """How the ood classifier is fitted."""

    #: share of the known sounds of val that count as known, the mean over kinds, in their whole
    #: band
    kept: float = 0.9
    others_weight: float = 0.8  #: weight of the others of train beside that of all known sounds
    folder_weight: float = 2.4  #: weight of the sounds of a folder
    made_weight: float = 0.8  #: weight of the made sounds
    hidden: int = 256  #: hidden units
    steps: int = 1500  #: of AdamW
    batch_size: int = 1024  #: seconds of a step
    learning_rate: float = 2e-3  #: peak rate
    weight_decay: float = 0.01  #: AdamW's
    seed: int = 0  #: of weights, batches and dropout

    def __post_init__(self) -> None:
        check_values(
            self, at_least_0="others_weight folder_weight made_weight weight_decay",
            at_least_1="hidden steps batch_size", above_0="kept learning_rate", below_1="kept",
        )  # fmt: skip
