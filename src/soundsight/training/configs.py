"""The settings of every training, without PyTorch: the command line checks them before it loads it.

``SIZES``, ``EARS_SIZES`` and ``PART_SIZES`` are the names of the presets in ``models.presets``,
``models.ears`` and ``training.decoder``, ``training.flow``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_type_hints

from soundsight.core.config import check_values, choose
from soundsight.core.errors import ConfigError

SIZES = ("paper", "quarter", "flagship", "compact", "small", "tiny")
EARS_SIZES = ("everyday", "everyday-tiny")
PART_SIZES = ("everyday", "tiny")
"""Of decoder, flow and discriminator of the everyday model."""

MAX_NOISE_RATIO = 64
MADE_SOUNDS = (
    "noise", "ticking", "crackling", "engine", "calls", "bangs", "tones", "babble",
)  # fmt: skip
"""Kinds of sounds in ``training.other_sounds``."""

Positive = Annotated[float, "above_0"]
Weight = Annotated[float, "at_least_0"]
Share = Annotated[float, "share"]  # [0, 1]
Decay = Annotated[float, "below_1"]  # [0, 1)
Count = Annotated[int, "at_least_1"]
Natural = Annotated[int, "at_least_0"]
Size = Annotated[str, SIZES]
EarsSize = Annotated[str, EARS_SIZES]
PartSize = Annotated[str, PART_SIZES]

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Settings whose annotations say their ranges: a rule of ``check_values``, or the choices.

    ConfigError names the first value that is out of its range.
    """

    where: ClassVar[str] = ""  #: put before names in messages

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            for rule in getattr(hint, "__metadata__", ()):
                if getattr(self, name) is None and type(None) in get_args(hint.__origin__):
                    continue
                rules = {rule: name} if isinstance(rule, str) else {name: rule}
                check_values(self, self.where, **rules)


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Checked):
    """How long, how much at once and how often."""

    where = "loop."

    steps: Count  #: optimiser steps in all
    batch_size: int  #: pairs a step, over all processes and micro-batches
    #: micro-batches a step, whose gradients are added up. BatchNorm, and losses that compare the
    #: items of a batch with each other, see a micro-batch, so results differ.
    accumulate: Count = 1
    #: ``bf16-mixed``: networks run in bfloat16, weights, statistics and losses stay in float32
    precision: Annotated[str, ("32-true", "bf16-mixed")] = "32-true"
    seed: Natural = 0  #: of the weights, the order of the pairs and every random draw
    log_every: Count = 20  #: steps between two log lines
    checkpoint_every: Count = 250  #: steps between two checkpoints
    keep: Natural = 0  #: how many of the latest checkpoints stay, beside the latest; 0 for none
    picture_every: Count = 500  #: steps between two picture grids
    evaluate_every: Count = 500  #: steps between two evaluations, where there is one to do

    def __post_init__(self) -> None:
        super().__post_init__()
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
class EncoderConfig(Checked):
    """Training of an audio encoder.

    Two schedules. ``modern``: AdamW, one cycle, augmented sounds, for short runs.
    ``published`` (autoencoder only; arXiv 2106.01266): SGD at a constant rate of .05 with momentum
    .9 in batches of 64, sounds as they are, for a thousand epochs and more.
    """

    kind: Annotated[str, ("contrastive", "autoencoder")] = "contrastive"
    preset: Size = "compact"  #: sizes of the network
    embedding_size: int | None = None  #: E; None for the preset's
    schedule: Annotated[str, ("modern", "published")] = "modern"
    learning_rate: Positive = 2e-3  #: AdamW's peak, or SGD's constant, learning rate
    momentum: Decay = 0.9  #: SGD's
    weight_decay: Weight = 1e-2  #: AdamW's
    # Of the contrastive encoder (``augment.add_background``):
    other_sounds: Share = 0.0  #: share of the sounds that get another one behind them
    noise: Share = 0.0  #: share of the sounds that get steady noise behind them
    tilt: Share = 0.0  #: strength of a random microphone's curve over the bands
    warm_up: Share = 0.1  #: share of the steps in which AdamW's rate rises; a cosine follows
    init: str = ""  #: hash of the weights that it starts from; empty for random ones
    loop: LoopConfig = LoopConfig(steps=400, batch_size=256)  #: steps, batch and seed

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "published" and self.kind != "autoencoder":
            raise ConfigError("the published schedule belongs to the autoencoder: --kind")
        if self.embedding_size is not None and not 4 <= self.embedding_size <= 65536:
            raise ConfigError("embedding_size must lie between 4 and 65536")


def default_encoder_config(kind: str, preset: str, schedule: str) -> EncoderConfig:
    """Return the settings that belong to a kind of encoder, its preset and its schedule."""
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
class MovingAverageConfig(Checked):
    """Which reading of the moving-average adversarial loss, and over how long.

    K and the decay are not published; the defaults reach back a hundred steps either way.
    """

    where = "moving_average."

    reading: Annotated[str, ("off", "snapshots", "ema")] = "off"
    snapshots: int = 5  #: K, discriminators averaged over, the live one among them (``snapshots``)
    snapshot_every: Count = 25  #: steps between two snapshots
    decay: Decay = 0.99  #: share of the average that is kept at each step (``ema``)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.snapshots < 2:
            raise ConfigError("moving_average.snapshots must be at least 2")


_RC_SETTINGS = (
    "adversarial_weight", "discriminator_steps", "discriminator_preset", "discriminator_dropout",
    "score_norm", "label_smoothing", "standardised_embedding", "diff_augment", "augment_photos",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig(Checked):
    """Training of a translator."""

    encoder: str  #: SHA-256 of the frozen encoder's weights, so that a resumed run cannot change it
    preset: Size = "compact"  #: sizes of the networks
    objective: Annotated[str, ("relativistic", "rc")] = "relativistic"
    generator_rate: Positive = 4e-4  #: Adam's learning rate for the generator
    discriminator_rate: Positive = 4e-4  #: Adam's learning rate for the discriminator
    beta1: Decay = 0.0  #: Adam's first decay
    beta2: Decay = 0.99  #: Adam's second decay
    optimizer: Annotated[str, ("adam", "sgd")] = "adam"  #: of both networks
    momentum: Decay = 0.9  #: SGD's
    pixel: Annotated[str, ("l1", "mse")] = "l1"
    pixel_weight: Weight = 0.0  #: weight of the pixel loss beside the adversarial loss
    #: Gaussian noise dimensions per embedding dimension (published: 0); None for the preset's
    noise_ratio: float | None = None
    #: attention blocks after transitions 0 to 6 (published variant: 0,18,0,0,0,0,0)
    attention: tuple[int, ...] = (0,) * 7
    attention_width: int = 320  #: length of a token in these blocks
    attention_heads: int = 8  #: heads of each
    audio_source: int = 13  #: the encoder's layer that attention listens to; 13 = the embedding
    # Of ``rc``; none of them is published:
    moving_average: MovingAverageConfig = MovingAverageConfig()  #: adversaries
    adversarial_weight: Weight = 1.0  #: weight of the generator's adversarial loss
    discriminator_steps: Count = 1  #: steps of the discriminator, each on its own pairs, a step
    #: sizes of the discriminator; None for the preset's
    discriminator_preset: Annotated[str | None, SIZES] = None
    discriminator_dropout: Annotated[float | None, "below_1"] = (
        None  #: its rate; None for that of its sizes
    )
    score_norm: bool = True  #: whether a BatchNorm stands before the RC-score's tanh (published)
    label_smoothing: Decay = 0.0  #: r is 1 less this, either way
    #: whiten the autoencoder's embeddings and give each the same length (ours)
    standardised_embedding: bool = False
    #: shift and colours of real and generated pictures before the discriminator (ours)
    diff_augment: bool = False
    #: mirror half of the photos, and move and enlarge them a little, as they are read
    augment_photos: bool = False
    # Of ``relativistic``:
    penalty: Weight = 1.0  #: gamma of the R1 and R2 gradient penalties
    penalty_every: Count = 8  #: steps between two penalties; each is scaled up to make up for it
    wrong_sound_weight: Weight = 0.5  #: weight of the matching-aware negative
    contrast_weight: Weight = 0.0  #: of the discriminator's InfoNCE of sounds and real pictures
    #: weight of the generator's, between its pictures and their sounds, in the same features
    coherence_weight: Weight = 0.0
    temperature: Positive = 0.1  #: of both
    #: weight of drawing photos again from noise read off them; 0 for no picture posterior
    variational_weight: Weight = 0.0
    feature_weight: Weight = 0.2  #: in it, of likeness in the discriminator's maps; pixels' is 1
    kl_weight: Weight = 0.006  #: in it, of the KL divergence, a nat
    #: standard deviation of noise on the embeddings, so that the generator meets sounds it has not
    #: seen. A contrastive encoder's have a root mean square of 1, those of an autoencoder less.
    embedding_noise: Weight = 0.15
    ema_decay: Decay = 0.999  #: of the generator's average, which is the one that is kept
    init: str = ""  #: hash of the weights that the generator starts from; empty for random ones
    loop: LoopConfig = LoopConfig(steps=6000, batch_size=32)  #: steps, batch and seed

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective != "rc" and self.moving_average.reading != "off":
            raise ConfigError("the moving average belongs to --objective rc")
        if self.noise_ratio is not None and not 0 <= self.noise_ratio <= MAX_NOISE_RATIO:
            raise ConfigError(f"noise_ratio must lie in [0, {MAX_NOISE_RATIO}]")
        if self.objective != "rc":
            for field in fields(self):
                if field.name in _RC_SETTINGS and getattr(self, field.name) != field.default:
                    raise ConfigError(f"{field.name} belongs to --objective rc")
        if self.objective == "rc" and max(
            self.contrast_weight, self.coherence_weight, self.variational_weight
        ):
            raise ConfigError(
                "contrast_weight, coherence_weight and variational_weight belong to "
                "--objective relativistic"
            )


def default_config(objective: str, preset: str, encoder: str) -> TranslatorConfig:
    """Return the settings of an objective and a preset; ``encoder`` is its weights' SHA-256."""
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
class CopyConfig(Checked):
    """How often a copy of a recording gets what."""

    narrow_8khz: Share = 0.18  #: share whose band ends below 4 kHz, as at a rate of 8 kHz
    narrow_16khz: Share = 0.14  #: share whose band ends below 8 kHz, as at a rate of 16 kHz
    narrow_any: Share = 0.12  #: share whose band ends anywhere between 4.5 and 10.5 kHz.
    pace: Share = 0.3  #: share played faster or slower, by at most a tenth
    behind: Share = 0.35  #: share with another recording behind them, 6 to 26 dB lower
    noise: Share = 0.4  #: share with steady noise behind them, 3 to 40 dB lower
    room: Share = 0.4  #: share in a room with .1 to .9 s of reverberation.
    equaliser: Share = 0.7  #: share with a smooth curve over the bands, of 6 dB
    low_cut: Share = 0.3  #: share without what lies under 40 to 400 Hz
    codec: Share = 0.2  #: share that went through MP3 or Opus
    coarse: Share = 0.08  #: share with 6 to 10 bits a sample
    clipped: Share = 0.12  #: share that is driven into clipping
    offset: Share = 0.05  #: share with a constant added
    jpeg: Share = 0.6  #: share of the seconds whose log-mel went through JPEG, as the bench's did

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.narrow_8khz + self.narrow_16khz + self.narrow_any > 1:
            raise ConfigError("narrow_8khz, narrow_16khz and narrow_any are shares of one whole")


@dataclass(frozen=True, kw_only=True)
class BankConfig(Checked):
    """What a bank of seconds holds."""

    where = "bank."

    copies: Natural = 8  #: copies of every recording, beside the recording itself
    seed: int = 0  #: of every draw
    copy: CopyConfig = CopyConfig()  #: how often a copy gets what


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(Checked):
    """What the teacher's clips are made of."""

    clips: Natural = 10_000  #: clips, each of ten seconds; 0 for none
    #: shares of clips made of one, two and three recordings
    recordings: Annotated[tuple[float, float, float], "share"] = (0.4, 0.4, 0.2)
    speed: Share = 0.6  #: share of recordings that are played half to twice as fast
    reversed: Share = 0.15  #: share that are played backwards
    bursts: Share = 0.15  #: share that are cut into bursts
    copied: Share = 0.7  #: share of clips of which the ears hear a copy

    def __post_init__(self) -> None:
        super().__post_init__()
        if abs(sum(self.recordings) - 1) > 1e-6:
            raise ConfigError("the shares of one, two and three recordings must sum to 1")


@dataclass(frozen=True, kw_only=True)
class EarsTrainingConfig(Checked):
    """Training of the ears."""

    preset: EarsSize = "everyday"  #: sizes of the network
    learning_rate: Positive = 2e-3  #: AdamW's peak rate
    weight_decay: Weight = 0.05  #: AdamW's
    warm_up: Share = 0.05  #: share of the steps in which the rate rises; it then falls as a cosine
    average: Decay = 0.998  #: decay of the moving average of the weights, which is what is kept
    #: share of the steps, the last ones, in which the last layer is learned anew on fixed features
    last_layer: float = 0.1
    last_layer_rate: Positive = 1e-3  #: peak rate of these steps
    last_layer_dropout: Decay = 0.8  #: dropout rate of the features in these steps
    photos_each: Count = 4  #: photos that a second meets in a step
    alone: Share = 0.2  #: share of a batch that are sounds without photos, which meet each other
    alone_weight: Weight = 0.3  #: weight of their contrast
    teacher: str = ""  #: hash of the teacher's file; empty for none
    teacher_weight: Weight = 6.0  #: weight of the squared error of its features
    mixture_share: Share = 0.5  #: share of a batch that are clips mixed for the teacher
    mixtures: MixtureConfig = MixtureConfig()  #: what these are made of
    mixed: Share = 0.5  #: share of the seconds that are mixed with another one of the batch
    clean: Share = 0.1  #: share of the seconds that are taken as they are, not from a copy
    narrow: Share = 0.35  #: share of the seconds without copies that lose their highest bands
    other_sounds: Share = 0.25  #: share with another one behind them (``add_background``)
    noise: Share = 0.25  #: share with steady noise behind them
    tilt: Share = 0.1  #: strength of a random microphone's curve over the bands
    bank: BankConfig = BankConfig()  #: the copies
    init: str | None = None  #: hash of the weights that it starts from; None for random ones
    loop: LoopConfig = LoopConfig(
        steps=6000, batch_size=256, precision="bf16-mixed"
    )  #: steps, batch and seed


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Checked):
    """Training of encoder and decoder of latent pictures."""

    preset: PartSize = "everyday"  #: sizes
    eyes: str = ""  #: SHA-256 of the network through which photos are looked at
    rate: Positive = 1e-3  #: Adam's learning rate of encoder and decoder together
    sharpening_rate: Positive = 4e-4  #: of both, once the discriminator speaks
    warm_up: Natural = 100  #: steps in which the rate rises
    discriminator_rate: Positive = 4e-4  #: of the discriminator
    sharpen_from: Natural = 1500  #: the step from which the discriminator speaks
    frozen_from: Natural = 8000  #: the step from which the encoder stays as it is
    adversarial_weight: Weight = 0.15  #: weight of its word
    pooled_weight: Weight = 1.0  #: of the likeness of pooled features, each scale's being 1/4
    reading_weight: Weight = 1.0  #: of reading the photo's pooled features off its latent picture
    pixel_weight: Weight = 3.0  #: weight of the pixels' likeness at half size
    kl_weight: Weight = 0.003  #: of the KL divergence, the mean over a latent picture's numbers
    zoom: Weight = 0.3  #: photos are enlarged by up to this share
    ema_decay: Decay = 0.999  #: of the decoder's average, which is the one that is kept
    init: str | None = None  #: hash of the weights that it starts from; None for random ones
    loop: LoopConfig = LoopConfig(steps=12_000, batch_size=32)  #: steps, batch and seed


@dataclass(frozen=True, kw_only=True)
class FlowTrainingConfig(Checked):
    """Training of the flow."""

    encoder: str = ""  #: SHA-256 of the sound encoder's weights
    decoder: str = ""  #: SHA-256 of the latent encoder's weights
    preset: PartSize = "everyday"  #: sizes
    rate: Positive = 1e-3  #: AdamW's peak learning rate
    weight_decay: Weight = 0.01  #: AdamW's
    warm_up: Natural = 200  #: steps in which the rate rises; it then stays
    cool_down: Share = 0.3  #: share of the steps, the last ones, in which it falls to zero
    jitter: Weight = 0.15  #: standard deviation of noise on the embeddings, whose own is about 1
    left_out: Decay = 0.125  #: share of the embeddings that are left out
    ema_decay: Decay = 0.999  #: of the average, which is the one that is kept
    init: str | None = None  #: hash of the weights that it starts from; None for random ones
    loop: LoopConfig = LoopConfig(steps=10_000, batch_size=128)  #: steps, batch and seed

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: up, level, and down to zero at the end."""
        falling = self.cool_down * self.loop.steps
        return self.rate * _share_of_rate(step, self.loop.steps, self.warm_up, falling)


def _share_of_rate(step: int, steps: int, rising: int, falling: float) -> float:
    """The share of a peak rate: up, level, and down to zero at the end; 0 before step 0."""
    rise = (step + 1) / max(1, rising)
    left = (steps - step) / max(1.0, falling)
    return max(0.0, min(rise, left, 1.0))


@dataclass(frozen=True, kw_only=True)
class DistilConfig(Checked):
    """Training of the few-step copy."""

    flow: str = ""  #: SHA-256 of the flow's weights
    steps: Count = 5  #: evaluations for a picture
    #: how much denser the early times lie: t' = t / (t + shift (1 - t)); 1 for even ones
    shift: Positive = 1.0
    guidance: Positive = 4.0  #: what is folded in
    substeps: Count = 3  #: steps of the guided flow for one of the copy's
    rate: Positive = 3e-4  #: AdamW's learning rate, which falls to zero
    jitter: Weight = 0.1  #: standard deviation of noise on the embeddings
    ema_decay: Decay = 0.995  #: of the average, which is the one that is kept
    loop: LoopConfig = LoopConfig(steps=1500, batch_size=64)  #: steps, batch and seed

    @property
    def times(self) -> tuple[float, ...]:
        """The copy's times, from 0 to 1."""
        even = (i / self.steps for i in range(self.steps + 1))
        return tuple(t / (t + self.shift * (1.0 - t)) for t in even)


@dataclass(frozen=True, kw_only=True)
class AlignConfig(Checked):
    """Training of the few-step translator on its pictures."""

    flow: str = ""  #: SHA-256 of the weights of the few-step flow that it starts from
    eyes: str = ""  #: SHA-256 of the network through which pictures are looked at
    preset: PartSize = "everyday"  #: sizes of the discriminator
    rate: Positive = 1e-4  #: Adam's learning rate of flow and decoder
    discriminator_rate: Positive = 2e-4  #: of the discriminator
    ahead: Natural = 60  #: first steps, in which the discriminator learns alone
    warm_up: Natural = 50  #: steps in which the rate then rises; it then stays
    cool_down: Share = 0.3  #: share of the steps, the last ones, in which it falls to zero
    agreement_weight: Weight = 0.2  #: weight of the agreement of picture and sound
    likeness_weight: Weight = 0.3  #: weight of the likeness of picture and photo
    likeness_temperature: Positive = 0.07  #: of the cosines of their features
    adversarial_weight: Weight = 0.3  #: weight of the discriminator's word
    nearness_weight: Weight = 0.2  #: of the squared distance of latents, in the flow's unit scale
    colour_weight: Weight = 1.0  #: of the distance (L1) of colours in pictures of 12 x 12
    others: Natural = 480  #: sounds that a picture is told from, beside those of the batch
    jitter: Weight = 0.1  #: standard deviation of noise on the embeddings
    zoom: Weight = 0.3  #: pictures are enlarged by up to this share before they are looked at
    ema_decay: Decay = 0.998  #: of the average, which is the one that is kept
    loop: LoopConfig = LoopConfig(steps=1600, batch_size=32)  #: steps, batch and seed

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: none at first, up, level, and down to zero."""
        steps, falling = self.loop.steps - self.ahead, self.cool_down * self.loop.steps
        return self.rate * _share_of_rate(step - self.ahead, steps, self.warm_up, falling)


_FINE_TUNED: dict[type, tuple[int, dict[str, Any]]] = {
    # With the last layer that is there.
    EarsTrainingConfig: (1500, {"learning_rate": 5e-4, "last_layer": 0.0}),
    # The encoder stays, so that flows that know its latent pictures stay true, and the
    # discriminator, which is new, speaks from the first step, while the decoder's rate still rises.
    DecoderConfig: (2000, {"sharpen_from": 0, "frozen_from": 0}),
    FlowTrainingConfig: (2500, {"rate": 3e-4}),
}
"""Steps and changes of a training that starts from finished weights: shorter, and slower."""


def fine_tuned(config: Config, init: str) -> Config:
    """Return the settings of ears, decoder or flow for starting from weights, of hash ``init``."""
    settings: Any = config
    steps, changes = _FINE_TUNED[type(config)]
    tuned: Config = replace(
        settings, init=init, loop=replace(settings.loop, steps=steps), **changes
    )
    return tuned


@dataclass(frozen=True, kw_only=True)
class LabelHeadConfig(Checked):
    """How the label head is fitted."""

    #: weights of the squared coefficients that are tried; that of the least log loss on val is kept
    penalties: Annotated[tuple[float, ...], "above_0"] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    iterations: Count = 200  #: of L-BFGS, at most
    #: kinds of made sounds that are none of the subjects. Leave out what is a subject.
    others: tuple[str, ...] = MADE_SOUNDS
    #: sounds of each kind, and a quarter as many beside val; with 0 every sound gets a name
    others_each: Natural = 120
    others_weight: Positive = 1.0  #: weight of all of them together beside that of named seconds
    balanced: bool = False  #: let every name weigh the same, however many seconds it has
    #: names that are shown as words and never drawn; those that no second has are left out
    alerts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.penalties:
            raise ConfigError("penalties must be numbers above 0")
        for kind in self.others:
            choose("kind of other sound", kind, dict.fromkeys(MADE_SOUNDS))


@dataclass(frozen=True, kw_only=True)
class FitConfig(Checked):
    """How a :class:`NearestNeighbourOod` is fitted."""

    #: share of the audible val sounds that count as known
    accepted: Annotated[float, "above_0", "below_1"] = 0.98
    axes: Count = 32  #: principal axes kept
    sounds: Count = 2048  #: train sounds kept; fewer where there are fewer
    neighbours: Count = 5  #: nearest sounds whose distances are averaged
    seed: int = 0  #: of which sounds are kept


@dataclass(frozen=True, kw_only=True)
class OodClassifierFitConfig(Checked):
    """How the ood classifier is fitted."""

    #: share of the known sounds of val, in their whole band, that count as known: mean over kinds
    kept: Annotated[float, "above_0", "below_1"] = 0.9
    others_weight: Weight = 0.8  #: weight of the others of train beside that of all known sounds
    folder_weight: Weight = 2.4  #: weight of the sounds of a folder
    made_weight: Weight = 0.8  #: weight of the made sounds
    hidden: Count = 256  #: hidden units
    steps: Count = 1500  #: of AdamW
    batch_size: Count = 1024  #: seconds of a step
    learning_rate: Positive = 2e-3  #: peak rate
    weight_decay: Weight = 0.01  #: AdamW's
    seed: int = 0  #: of weights, batches and dropout
