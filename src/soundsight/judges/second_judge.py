"""Viewers beside the published judges: a stronger second judge and a photo classifier.

Both are small residual networks (:mod:`soundsight.models.picture_classifier`) fitted on the
judges' fold of the photos. The second judge has one trunk and a sigmoid for each class; it learns
from the same positives and negatives as the published judges. The photo classifier sees photos
alone and says which of the five subjects it is; the layer before its last gives the features in
which pictures are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from soundsight.core.errors import ConfigError
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.judges.files import JudgeFolder
from soundsight.judges.fit import Show, fit
from soundsight.judges.pictures import Pictures, augment, look_at
from soundsight.judges.tables import CLASSIFIER, SECOND
from soundsight.models.picture_classifier import PictureClassifier, PictureClassifierConfig

NOTHING = -1
"""In place of a class: an uninformative picture."""


@dataclass(frozen=True, kw_only=True)
class ViewerConfig:
    """How a residual network is fitted on photos."""

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


def fit_second(
    config: ViewerConfig,
    pictures: Pictures,
    folder: JudgeFolder,
    show: Show,
    *,
    seed: tuple[int, ...],
    bfloat16: bool,
) -> PictureClassifier:
    """Fit the second judge; its logits are one a subject.

    Args:
        config: settings.
        pictures: of train.
        folder: keeps the state, so that the same call goes on after a stop.
        show: told of every step.
        seed: of weights, batches and dropout.
        bfloat16: convolutions in bfloat16.
    """

    def batch(step: int, _: PictureClassifier) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((*seed, step))
        images, classes = pictures.draw(list(range(len(SUBJECTS))), config.photos, rng)
        chosen = [images, pictures.of_every_kind(None, config.photos, step, rng)]
        targets = np.concatenate([classes, np.full(config.photos, NOTHING)])
        return augment(np.concatenate(chosen), rng, config.strength), torch.from_numpy(targets)

    def loss(said: Tensor, targets: Tensor) -> Tensor:
        return heads_loss(said, targets, config.smoothing)

    return _fit(SECOND, config, batch, loss, pictures, folder, show, seed, bfloat16)


def fit_classifier(
    config: ViewerConfig,
    pictures: Pictures,
    folder: JudgeFolder,
    show: Show,
    *,
    seed: tuple[int, ...],
    bfloat16: bool,
) -> PictureClassifier:
    """Fit the photo classifier; arguments as for :func:`fit_second`."""

    def batch(step: int, _: PictureClassifier) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((*seed, step))
        images, classes = pictures.draw(list(range(len(SUBJECTS))), config.photos, rng)
        return augment(images, rng, config.strength), torch.from_numpy(classes)

    def loss(said: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(said, targets, label_smoothing=config.smoothing)

    return _fit(CLASSIFIER, config, batch, loss, pictures, folder, show, seed, bfloat16)


def heads_loss(
    logits: Float[Tensor, "n k"], targets: Tensor, smoothing: float
) -> Float[Tensor, ""]:
    """Binary cross-entropy of one head a class, averaged over the heads present.

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
    """Return what each head of the second judge says: float32 [n, 5] in [0, 1].

    Args:
        network: the second judge.
        images: uint8 [n, 96, 96, 3].
    """
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


def _fit(
    name: str,
    config: ViewerConfig,
    batch: Callable[[int, PictureClassifier], tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    pictures: Pictures,
    folder: JudgeFolder,
    show: Show,
    seed: tuple[int, ...],
    bfloat16: bool,
) -> PictureClassifier:
    return fit(
        lambda: PictureClassifier(config.network),
        batch,
        loss,
        name=name,
        steps=config.steps(pictures),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        average_decay=config.average_decay,
        bfloat16=bfloat16,
        seed=seed,
        folder=folder,
        show=show,
    )
