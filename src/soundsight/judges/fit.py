"""The training of one of the judges' networks, by the one trainer; second judge and classifier.

Beside the published judges stand two small residual networks (``models.picture_classifier``),
fitted on the judges' fold of the photos. The second judge has one trunk and a sigmoid for each
class; it learns from the same positives and negatives as the published judges. The photo
classifier sees photos alone and says which of the five subjects it is; the layer before its last
gives the features in which pictures are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from soundsight.core.errors import ConfigError, SoundsightError
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.judges.files import CLASSIFIER, SECOND, JudgeFolder, round_weights
from soundsight.judges.pictures import Pictures, augment, look_at
from soundsight.models.picture_classifier import PictureClassifier, PictureClassifierConfig
from soundsight.training.configs import LoopConfig
from soundsight.training.trainer import LossTask
from soundsight.training.trainer import fit as train

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
class FitConfig:
    """How a network is optimised, by AdamW."""

    steps: int
    learning_rate: float
    """Peak: linear warm-up over a twentieth of the steps, then a cosine to 0."""
    weight_decay: float
    average_decay: float
    """Of the moving average of the weights, which is what is kept."""
    bfloat16: bool
    """Convolutions in bfloat16."""
    seed: tuple[int, ...]
    """Of the weights and of dropout."""


class JudgeTask(LossTask[Network]):
    """One network of the judges' folder.

    Args:
        make: makes the network; its weights are a function of the seed.
        batch: makes the batch of a step.
        loss: what is made small.
        config: how.
    """

    def __init__(
        self, make: Callable[[], Network], batch: Batch[Network], loss: Loss, config: FitConfig
    ) -> None:
        self.config, self.batch = config, batch

        def loss_of(step: int, rng: torch.Generator) -> Tensor:
            del rng  # the judges' batches have always been a function of (seed, step) of their own
            images, targets = batch(step, self.kept)
            torch.manual_seed(mix(*config.seed, step + 1))
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
                output = self.network(images)
            return loss(output.float(), targets)

        torch.manual_seed(mix(*config.seed, 0))
        loop = LoopConfig(
            steps=config.steps, batch_size=2, log_every=25, checkpoint_every=_CHECKPOINT_EVERY
        )
        super().__init__(
            "judge", make(), loss_of, loop, learning_rate=config.learning_rate,
            weight_decay=config.weight_decay, warm_up=_WARM_UP, average_decay=config.average_decay,
        )  # fmt: skip
        # All weights decay, those of normalisations as well, as in the packaged judges.
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), weight_decay=config.weight_decay
        )


def fit(name: str, task: JudgeTask[Network], folder: JudgeFolder) -> Network:
    """Train a network and return the moving average of its weights, rounded to fp16.

    The folder keeps the run, so that the same call goes on after a stop.

    Raises:
        SoundsightError: when the loss or the weights are no longer finite.
        KeyboardInterrupt: after the state was saved.
    """
    config: dict[str, Any] = asdict(task.config) | {"seed": list(task.config.seed)}
    train(task, folder.run(name), task.loop, config)
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


@dataclass(frozen=True, kw_only=True)
class ViewerConfig:
    """How the second judge, or the photo classifier, is fitted."""

    passes: float = 40.0
    """Times it sees as many photos as there are; classes are drawn alike."""
    photos: int = 64
    """Photos a batch; the second judge sees as many uninformative pictures beside them."""
    learning_rate: float = 3e-3
    """AdamW's peak."""
    weight_decay: float = 0.05
    smoothing: float = 0.05
    """Label smoothing."""
    average_decay: float = 0.99
    """Of the moving average of the weights, which is what is kept."""
    strength: float = 1.5
    """Of the augmentation; 1 is that of the published judges."""
    network: PictureClassifierConfig = field(default_factory=PictureClassifierConfig)

    def __post_init__(self) -> None:
        if self.passes <= 0 or self.photos < len(SUBJECTS) or self.learning_rate <= 0:
            raise ConfigError("passes and learning_rate must be above 0, photos at least 5")
        if not 0 <= self.smoothing < 1 or not 0 <= self.average_decay < 1:
            raise ConfigError("smoothing and average_decay must lie in [0, 1)")
        if self.network.outputs != len(SUBJECTS):
            raise ConfigError(f"network.outputs must be {len(SUBJECTS)}, one a subject")

    def steps(self, pictures: Pictures) -> int:
        """Return the number of batches, at least 2."""
        photos = sum(len(of_class) for of_class in pictures.photos)
        return max(2, round(self.passes * photos / self.photos))


def viewer_task(
    name: str,
    config: ViewerConfig,
    pictures: Pictures,
    *,
    seed: tuple[int, ...],
    bfloat16: bool,
) -> JudgeTask[PictureClassifier]:
    """Return the training of the second judge (one logit a subject) or of the photo classifier.

    ``name`` is ``SECOND`` or ``CLASSIFIER``; ``seed`` is of weights, batches and dropout.
    """

    def batch(step: int, _: PictureClassifier) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((*seed, step))
        images, targets = pictures.draw(list(range(len(SUBJECTS))), config.photos, rng)
        if name == SECOND:
            nothing = pictures.of_every_kind(None, config.photos, step, rng)
            images = np.concatenate([images, nothing])
            targets = np.concatenate([targets, np.full(config.photos, NOTHING)])
        return augment(images, rng, config.strength), torch.from_numpy(targets)

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        if name == SECOND:
            return heads_loss(output, targets, config.smoothing)
        return F.cross_entropy(output, targets, label_smoothing=config.smoothing)

    assert name in (SECOND, CLASSIFIER)
    how = FitConfig(
        steps=config.steps(pictures),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        average_decay=config.average_decay,
        bfloat16=bfloat16,
        seed=seed,
    )
    return JudgeTask(lambda: PictureClassifier(config.network), batch, loss, how)


def heads_loss(
    logits: Float[Tensor, "n k"], targets: Tensor, smoothing: float
) -> Float[Tensor, ""]:
    """Return the binary cross-entropy of one head a class, averaged over the heads present.

    In each head the photos of its class weigh a half, photos of other classes a quarter and
    uninformative pictures a quarter, however many there are of each.

    Args:
        logits: one column a class.
        targets: int64 [n], a class or ``NOTHING``.
        smoothing: a positive's target is 1 - smoothing / 2, a negative's smoothing / 2.
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


def class_probabilities(
    network: PictureClassifier, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return the photo classifier's probabilities of pictures uint8 [n, 96, 96, 3]: [n, 5]."""
    return look_at(lambda batch: F.softmax(network(batch), dim=1), images, len(SUBJECTS))


def photo_features(network: PictureClassifier, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the photo classifier's features of pictures uint8 [n, 96, 96, 3]: [n, F]."""
    return look_at(network.features, images, network.config.maps[-1])


def accuracy(network: PictureClassifier, pictures: Pictures) -> dict[str, float]:
    """Return the photo classifier's share of right answers: by subject, and ``mean`` of them."""
    by_class = {
        subject: float((class_probabilities(network, photos).argmax(axis=1) == number).mean())
        for number, (subject, photos) in enumerate(zip(SUBJECTS, pictures.photos, strict=True))
    }
    return {**by_class, "mean": float(np.mean(list(by_class.values())))}
