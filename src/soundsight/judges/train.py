"""Training of the judges, by the one trainer: everything that a folder of judges holds.

* One binary classifier a class: real photos of it against photos of the other classes and pictures
  in which nobody sees anything (:mod:`soundsight.judges.negatives`).
* A second judge (``models.picture_classifier``) with one trunk and a sigmoid for each class, from
  the same positives and negatives.
* A photo classifier, another such network, which sees photos alone and says which of the five
  subjects it is. What its last layer sees are the features in which pictures are compared.
* A space for retrieval (:mod:`soundsight.judges.retrieval_space`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from soundsight.core.config import check_values
from soundsight.core.errors import ConfigError, SoundsightError
from soundsight.core.progress import progress_bar
from soundsight.data.vegas.bench import SUBJECTS, Bench
from soundsight.judges.files import (
    NAMES,
    REFERENCES,
    SECOND,
    SPACE,
    JudgeFolder,
    agreement,
    load_into,
    round_weights,
    val_table,
)
from soundsight.judges.negatives import EARLY, load_early
from soundsight.judges.pictures import Pictures, augment, look_at, mean_over_classes
from soundsight.judges.retrieval_space import (
    AudioVisualSpace,
    FoldPairs,
    SpaceConfig,
    val_precision,
)
from soundsight.models.picture_classifier import PictureClassifier, PictureClassifierConfig
from soundsight.models.published.informativity import (
    INFORMATIVE,
    UNINFORMATIVE,
    InformativityClassifier,
    InformativityConfig,
)
from soundsight.training.coherence import fit_pair
from soundsight.training.configs import LoopConfig
from soundsight.training.trainer import LossTask
from soundsight.training.trainer import fit as run_training

NOTHING = -1
"""In place of a class: an uninformative picture."""

_CHECKPOINT_EVERY = 250
_WARM_UP = 0.05

Network = TypeVar("Network", bound=nn.Module)
Batch = Callable[[int, Network], tuple[Tensor, Tensor]]
"""(step, moving average of the network so far) -> (images, targets), a function of these alone."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""(output of the network, targets) -> a scalar."""


@dataclass(frozen=True, kw_only=True)
class BinaryConfig:
    """How a judge is trained and where its threshold lies."""

    seed: int = 0
    steps: int = 5000  #: batches a judge
    batch: int = 64  #: pictures a batch; half are positives
    #: peak of AdamW's rate: linear warm-up over a twentieth of the steps, then a cosine to 0
    learning_rate: float = 5e-3
    weight_decay: float = 0.02
    smoothing: float = 0.1  #: label smoothing
    average_decay: float = 0.998  #: of the moving average of the weights, which is what is kept
    strength: float = 1.5  #: of the augmentation
    hidden_share: float = 0.5  #: part of the pictures in which a box is hidden
    #: convolutions in bfloat16: twice as fast on a processor that has it (AVX512-BF16, AMX), slower
    #: on one that has not
    bfloat16: bool = True
    other_share: float = 0.4  #: part of the negatives that are photos of other classes
    #: uninformative pictures made, of all kinds in equal parts, for each that is learned from:
    #: those that the moving average of the judge likes best, whatever their kind
    made_per_kept: int = 4
    fold: int = 0  #: fold of the photos, in train and val (``fold_of``): 0 or 1; the judges' is 0
    accept_rate: float = 0.85  #: share of the class's val photos that the threshold accepts
    val_per_kind: int = 400  #: uninformative val pictures of each kind, to measure what passes
    #: the published dropout (.1 to .5, and .5) underfits with the 500 photos of a class here:
    #: ``docs/LOG.md``
    model: InformativityConfig = field(
        default_factory=lambda: InformativityConfig(
            spatial_dropout=(0.0, 0.02, 0.07, 0.12, 0.15), dropout=0.25
        )
    )

    def __post_init__(self) -> None:
        check_values(
            self, at_least_1="steps val_per_kind made_per_kept", above_0="accept_rate",
            share="accept_rate other_share hidden_share", below_1="smoothing average_decay",
        )  # fmt: skip
        if self.batch < 4 or self.fold not in (0, 1):
            raise ConfigError("batch must be at least 4, fold 0 or 1")


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """How the second judge, or the photo classifier, is fitted."""

    passes: float = 40.0  #: times it sees as many photos as there are; classes are drawn alike
    #: photos a batch; the second judge sees as many uninformative pictures beside them
    photos: int = 64
    learning_rate: float = 3e-3  #: AdamW's peak
    weight_decay: float = 0.05
    smoothing: float = 0.05  #: label smoothing
    average_decay: float = 0.99  #: of the moving average of the weights, which is what is kept
    strength: float = 1.5  #: of the augmentation; 1 is that of the published judges
    network: PictureClassifierConfig = field(default_factory=PictureClassifierConfig)

    def __post_init__(self) -> None:
        check_values(self, above_0="passes learning_rate", below_1="smoothing average_decay")
        if self.photos < len(SUBJECTS):
            raise ConfigError("photos must be at least 5")
        if self.network.outputs != len(SUBJECTS):
            raise ConfigError(f"network.outputs must be {len(SUBJECTS)}, one a subject")


@dataclass(frozen=True, kw_only=True)
class ReferencesConfig:
    """How the networks beside the published judges are trained."""

    second: ReferenceConfig = field(default_factory=ReferenceConfig)
    classifier: ReferenceConfig = field(default_factory=ReferenceConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)


@dataclass(frozen=True, kw_only=True)
class JudgesConfig(BinaryConfig):
    """The judges' settings and those of the networks beside them."""

    references: ReferencesConfig = field(default_factory=ReferencesConfig)


def train(
    config: JudgesConfig,
    bench: Bench,
    out: Path,
    *,
    early: Sequence[Path] = (),
) -> Path:
    """Train one judge a class, and the networks beside them, into the folder ``out``; return it.

    The same command goes on after a stop, and the same arguments give the same bytes. Of the bench
    train is learned from; val is for thresholds and figures. ``early`` are ``.npz`` files of early
    generators, or folders of them; without any this kind of negative is left out.

    Raises:
        ConfigError: when ``out`` was begun with other settings, photos or early pictures.
        DataError: when pictures or pairs of a class are missing or damaged.
        OutputError: when ``out`` holds something else or cannot be written to.
        SoundsightError: when a loss or the weights are no longer finite.
    """
    kept = load_early(early)
    folder = JudgeFolder(out, config, kept, _hashes(bench))
    if folder.finished:
        return out
    learned, val = (Pictures.read(bench, split, config.fold, kept) for split in ("train", "val"))
    with torch.random.fork_rng(devices=[]):
        for own, name in enumerate(NAMES):
            if name in folder.done:
                continue
            if name in SUBJECTS:
                judge = fit(name, binary_task(config, learned, own), folder)
                shown = _val_pictures(config, val, own)
                folder.add(name, judge, _measured(partial(score, judge), shown, config))
            elif name == SPACE:
                _add_space(config, bench, val, folder)
            else:
                network = fit(name, reference_task(name, config, learned), folder)
                folder.add(
                    name, network,
                    _beside_the_first(config, network, val, folder) if name == SECOND
                    else {"accuracy": PhotoClassifier(network).accuracy(val)},
                )  # fmt: skip
    folder.finish()
    return out


def _hashes(bench: Bench) -> dict[str, str]:
    """Return the hashes of the names of what is learned from.

    Raises:
        DataError: when the space would have no sounds of a class.
    """
    names = {"photos": [*bench.photos("train"), *bench.photos("val")]}
    pairs = [p for s in ("train", "val") for p in bench.pairs_of_every_class(s, "the judges")]
    names["pairs"] = [f"{pair.spectrogram} {pair.photo}" for pair in pairs]
    return {
        what: hashlib.sha256("\n".join(of_it).encode()).hexdigest() for what, of_it in names.items()
    }


def _reference_seed(config: JudgesConfig, name: str) -> tuple[int, int]:
    return config.seed, len(SUBJECTS) + 1 + REFERENCES.index(name)


def _add_space(config: JudgesConfig, bench: Bench, val: Pictures, folder: JudgeFolder) -> None:
    settings, pairs = config.references.space, FoldPairs(bench, "train", config.fold)
    done, steps = itertools.count(1), settings.steps(pairs)
    with progress_bar() as show:
        network = fit_pair(
            pairs, np.arange(len(pairs)), settings.coherence(bfloat16=config.bfloat16), steps,
            mix(*_reference_seed(config, SPACE)), lambda: show(SPACE, next(done), steps),
        )  # fmt: skip
    space = AudioVisualSpace(round_weights(network), settings)
    precision = val_precision(space, bench, val.photos, config.seed)
    folder.add(SPACE, network, {"pairs": len(pairs), "precision": precision})


class JudgeTask(LossTask[Network]):
    """One network of the judges' folder.

    Args:
        make: makes the network; its weights are a function of the seed.
        how: rate and decays; the rate rises over a twentieth of the steps, then falls to 0.
        seed: of the weights and of dropout.
    """

    def __init__(
        self,
        make: Callable[[], Network],
        batch: Batch[Network],
        loss: Loss,
        how: BinaryConfig | ReferenceConfig,
        *,
        steps: int,
        seed: tuple[int, ...],
        bfloat16: bool,
    ) -> None:
        self.batch = batch
        self.about = {
            "steps": steps, "learning_rate": how.learning_rate, "weight_decay": how.weight_decay,
            "average_decay": how.average_decay, "bfloat16": bfloat16, "seed": list(seed),
        }  # fmt: skip

        def loss_of(step: int, rng: torch.Generator) -> Tensor:
            del rng  # the judges' batches have always been a function of (seed, step) of their own
            images, targets = batch(step, self.kept)
            torch.manual_seed(mix(*seed, step + 1))
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                output = self.network(images)
            return loss(output.float(), targets)

        torch.manual_seed(mix(*seed, 0))
        loop = LoopConfig(
            steps=steps, batch_size=2, log_every=25, checkpoint_every=_CHECKPOINT_EVERY
        )
        super().__init__(
            "judge", make(), loss_of, loop, learning_rate=how.learning_rate,
            weight_decay=how.weight_decay, warm_up=_WARM_UP, average_decay=how.average_decay,
        )  # fmt: skip
        # All weights decay, those of normalisations as well, as in the packaged judges.
        self.optimizers["network"] = torch.optim.AdamW(
            self.network.parameters(), weight_decay=how.weight_decay
        )


def fit(name: str, task: JudgeTask[Network], folder: JudgeFolder) -> Network:
    """Train a network and return the moving average of its weights, rounded to fp16.

    Raises:
        SoundsightError: when the loss or the weights are no longer finite.
        KeyboardInterrupt: after the state was saved, from which the same call goes on.
    """
    run_training(task, folder.path / "training" / name, task.loop, task.about)
    kept = round_weights(task.kept).eval()
    if not all(bool(torch.isfinite(value.float()).all()) for value in kept.state_dict().values()):
        raise SoundsightError(
            f"weights of {name} are no finite numbers: try a lower learning_rate, in another folder"
        )
    return kept


def mix(*words: int) -> int:
    """Mix numbers into one 63-bit seed for PyTorch."""
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return (int(state[0]) << 31) ^ int(state[1])


def score(model: InformativityClassifier, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the informativity in [0, 1] of pictures uint8 [n, 96, 96, 3] as float32 [n]."""
    model.eval()
    return look_at(lambda batch: model.informativity(batch)[:, None], images, 1)[:, 0]


def binary_task(
    config: BinaryConfig, pictures: Pictures, own: int
) -> JudgeTask[InformativityClassifier]:
    """Return the training of the judge of class number ``own``."""

    def loss(logs: Tensor, targets: Tensor) -> Tensor:
        return (1 - config.smoothing) * F.nll_loss(logs, targets) - config.smoothing * logs.mean()

    return JudgeTask(
        lambda: InformativityClassifier(config.model),
        lambda step, average: _batch(config, pictures, own, step, average),
        loss, config, steps=config.steps, seed=(config.seed, own), bfloat16=config.bfloat16,
    )  # fmt: skip


def _batch(
    config: BinaryConfig,
    pictures: Pictures,
    own: int,
    step: int,
    average: InformativityClassifier,
) -> tuple[Float[Tensor, "n 3 96 96"], Tensor]:
    """Make the batch of ``step``, a function of (seed, judge, step, average of the weights)."""
    rng = np.random.default_rng((config.seed, own, step))
    half = config.batch // 2
    others = round(config.other_share * half)
    photos = [pictures.draw([own], half, rng)[0]]
    if others:
        strange = [c for c in range(len(SUBJECTS)) if c != own]
        photos.append(pictures.draw(strange, others, rng)[0])
    wanted = half - others
    made = pictures.of_every_kind(own, config.made_per_kept * wanted, step, rng)
    if config.made_per_kept > 1:
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            # Stable, as what is equally liked must be kept in one order.
            order = np.argsort(-score(average, made), kind="stable")
        made = made[order[:wanted]]
    targets = torch.full((2 * half,), UNINFORMATIVE)
    targets[:half] = INFORMATIVE
    images = np.concatenate([*photos, made])
    return augment(images, rng, config.strength, config.hidden_share), targets


def _val_pictures(
    config: BinaryConfig, val: Pictures, own: int
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
    """Return the val photos of a class and its negatives by kind."""
    rng = np.random.default_rng((config.seed, own, 1 << 32))
    negatives = {f"photos of {s}": val.photos[c] for c, s in enumerate(SUBJECTS) if c != own}
    for kind in val.kinds:
        made = val.uninformative(kind, own, config.val_per_kind, rng)
        negatives[kind] = val.early if kind == EARLY else made
    return val.photos[own], negatives


def _measured(
    scorer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    shown: tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]],
    config: BinaryConfig,
) -> dict[str, Any]:
    """Set a judge's threshold and count what passes it: its ``val_table``."""
    scores = {kind: scorer(images) for kind, images in shown[1].items()}
    return val_table(scorer(shown[0]), scores, config.accept_rate)


def reference_task(
    name: str, config: JudgesConfig, pictures: Pictures
) -> JudgeTask[PictureClassifier]:
    """Return the training of ``SECOND``, one logit a subject, or of ``CLASSIFIER``."""
    how: ReferenceConfig = getattr(config.references, name)
    seed = _reference_seed(config, name)

    def batch(step: int, _: PictureClassifier) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((*seed, step))
        images, targets = pictures.draw(list(range(len(SUBJECTS))), how.photos, rng)
        if name == SECOND:
            nothing = pictures.of_every_kind(None, how.photos, step, rng)
            images = np.concatenate([images, nothing])
            targets = np.concatenate([targets, np.full(how.photos, NOTHING)])
        return augment(images, rng, how.strength), torch.from_numpy(targets)

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        if name == SECOND:
            return heads_loss(output, targets, how.smoothing)
        return F.cross_entropy(output, targets, label_smoothing=how.smoothing)

    steps = max(2, round(how.passes * sum(map(len, pictures.photos)) / how.photos))
    return JudgeTask(
        lambda: PictureClassifier(how.network), batch, loss, how,
        steps=steps, seed=seed, bfloat16=config.bfloat16,
    )  # fmt: skip


def heads_loss(
    logits: Float[Tensor, "n k"], targets: Tensor, smoothing: float
) -> Float[Tensor, ""]:
    """Return the binary cross-entropy of one head a class, averaged over the heads present.

    In each head the photos of its class weigh a half, photos of other classes a quarter and
    uninformative pictures a quarter. ``targets`` [n] are classes or ``NOTHING``; a positive's
    target is 1 - smoothing / 2, a negative's smoothing / 2.
    """
    own = F.one_hot(targets.clamp(min=0), logits.shape[1]).bool() & (targets >= 0)[:, None]
    nothing = (targets == NOTHING)[:, None].expand_as(own)
    weight = torch.zeros_like(logits)
    for group, share in ((own, 0.5), (nothing, 0.25), (~own & ~nothing, 0.25)):
        weight += group * share / group.sum(dim=0).clamp(min=1)
    wanted = own * (1 - smoothing) + smoothing / 2
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (each * weight).sum() / logits.shape[1]


def head_scores(network: PictureClassifier, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the second judge's scores of pictures uint8 [n, 96, 96, 3]: [n, 5] in [0, 1]."""
    return look_at(lambda batch: torch.sigmoid(network(batch)), images, len(SUBJECTS))


def _beside_the_first(
    config: JudgesConfig, second: PictureClassifier, val: Pictures, folder: JudgeFolder
) -> dict[str, Any]:
    """Measure the second judge on what the first was measured on, and compare their verdicts."""
    tables, agreements = {}, {}
    for own, subject in enumerate(SUBJECTS):
        first = load_into(InformativityClassifier(config.model), folder.path, subject)
        shown = _val_pictures(config, val, own)

        def scorer(images: NDArray[np.uint8], own: int = own) -> NDArray[np.float32]:
            return head_scores(second, images)[:, own]

        tables[subject] = _measured(scorer, shown, config)
        everything = np.concatenate([shown[0], *shown[1].values()])
        agreements[subject] = agreement(
            score(first, everything) >= np.float32(folder.done[subject]["threshold"]),
            scorer(everything) >= np.float32(tables[subject]["threshold"]),
        )
    return {"tables": tables, "agreement": agreements}


class PhotoClassifier:
    """Which of the five subjects does a picture show? Fitted on real photos alone.

    Pictures are uint8 [n, 96, 96, 3]; others are a DataError.
    """

    def __init__(self, network: PictureClassifier) -> None:
        self._network = network

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 [n, 5], columns in the order of ``SUBJECTS``."""
        return look_at(lambda batch: F.softmax(self._network(batch), dim=1), images, len(SUBJECTS))

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the last layer's inputs, float32 [n, F]: a space in which photos compare."""
        return look_at(self._network.features, images, self._network.config.maps[-1])

    def accuracy(self, pictures: Pictures) -> dict[str, float]:
        """Return the share of right answers by subject, and ``mean`` of them."""
        right = [
            self.probabilities(photos).argmax(axis=1) == number
            for number, photos in enumerate(pictures.photos)
        ]
        of_photo = np.repeat(SUBJECTS, [len(photos) for photos in pictures.photos]).tolist()
        return mean_over_classes(np.concatenate(right), of_photo)
