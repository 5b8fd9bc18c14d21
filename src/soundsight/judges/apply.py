"""The judges at work: does the classifier of a sound's class accept the picture?

Beside the published classifiers stand, where the folder holds them, a stronger second judge, an
independent photo classifier and a space of sounds and pictures that no translator was trained
against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.config import from_dict
from soundsight.core.errors import DataError, ModelError
from soundsight.core.files import sha256_of
from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_CHANNELS, IMAGE_PX, N_MELS
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.judges import files as judge_files
from soundsight.judges.files import PACKAGED_JUDGES, SECOND, SPACE, Agreement, agreement
from soundsight.judges.fit import class_probabilities, head_scores, photo_features
from soundsight.judges.retrieval_space import SpaceConfig, embed_pictures, embed_sounds
from soundsight.judges.train import score
from soundsight.models.contrastive import ContrastivePair
from soundsight.models.picture_classifier import PictureClassifier

__all__ = [
    "PACKAGED_JUDGES",
    "Agreement",
    "AudioVisualSpace",
    "Judges",
    "PhotoClassifier",
    "Scorer",
    "agreement",
    "columns_of",
]

Scorer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Pictures uint8 [n, 96, 96, 3] -> scores float32 [n] in [0, 1]."""


class Judges:
    """One binary judge a class, each with the threshold that was set on val.

    Args:
        scorers: a scorer for each of the five subjects; or one that returns all five, [n, 5].
        thresholds: a picture is accepted when its score reaches the class's threshold.
        name: what the report calls them.
        sha256: hash of what they are made of, empty when there is no file.
        second: a stronger judge of the same classes, which has no second of its own.
        classifier: says which of the five subjects a picture shows.
        space: compares sounds with pictures.

    Raises:
        ModelError: when a subject has no judge.
    """

    def __init__(
        self,
        scorers: Mapping[str, Scorer] | Scorer,
        thresholds: Mapping[str, float],
        *,
        name: str = "judges",
        sha256: str = "",
        second: Judges | None = None,
        classifier: PhotoClassifier | None = None,
        space: AudioVisualSpace | None = None,
    ) -> None:
        known = SUBJECTS if callable(scorers) else scorers
        for subject in SUBJECTS:
            if subject not in known or subject not in thresholds:
                raise ModelError(f"{name}: there is no judge of {subject}")
        self._scorers = scorers
        self._thresholds = np.array([thresholds[s] for s in SUBJECTS], dtype=np.float32)
        self.name = name
        self.sha256 = sha256
        self.second = second
        self.classifier = classifier
        self.space = space

    @classmethod
    def load(cls, folder: Path | None = None) -> Judges:
        """Load trained judges, by default those that come with the package.

        Raises:
            ModelError: when the folder is missing, unfinished, foreign or damaged.
        """
        folder = PACKAGED_JUDGES if folder is None else folder
        models, record = judge_files.read(folder)
        scorers = {name: partial(score, model) for name, model in models.items()}
        # judges.json holds the hash of every weight file, so its own hash names them all.
        digest = sha256_of(folder / "judges.json")
        beside = _beside(folder, record, digest)
        return cls(scorers, record["thresholds"], name=folder.name, sha256=digest, **beside)

    @property
    def thresholds(self) -> dict[str, float]:
        """Subject -> the score from which on a picture is accepted."""
        return {s: float(t) for s, t in zip(SUBJECTS, self._thresholds, strict=True)}

    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what every judge says of every picture.

        Args:
            images: uint8 [n, 96, 96, 3].

        Returns:
            float32 [n, 5] in [0, 1], columns in the order of ``SUBJECTS``.

        Raises:
            DataError: when the pictures have another size or type.
        """
        _check(images)
        if callable(self._scorers):
            return self._scorers(images)
        return np.stack([self._scorers[subject](images) for subject in SUBJECTS], axis=1)

    def verdicts(self, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return bool [n, 5]: which judges accept each picture uint8 [n, 96, 96, 3]."""
        return self.decide(self.scores(images))

    def decide(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which judges accept, bool [n, 5], from their scores, float32 [n, 5]."""
        return scores >= self._thresholds

    def accepts(self, images: NDArray[np.uint8], subjects: Sequence[str]) -> NDArray[np.bool_]:
        """Return whether the judge of each picture's subject accepts it.

        Pictures are uint8 [n, 96, 96, 3], subjects n names out of ``SUBJECTS``.

        Raises:
            DataError: on an unknown subject, or when the numbers differ.
        """
        if len(subjects) != len(images):
            raise DataError(f"{len(images)} pictures but {len(subjects)} subjects")
        verdicts: NDArray[np.bool_] = self.verdicts(images)
        return verdicts[np.arange(len(images)), columns_of(subjects)]


class PhotoClassifier:
    """Which of the five subjects does a picture show? Fitted on real photos alone."""

    def __init__(self, network: PictureClassifier) -> None:
        self._network = network

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 [n, 5], columns in the order of ``SUBJECTS``, of uint8 [n, 96, 96, 3].

        Raises:
            DataError: when the pictures have another size or type.
        """
        _check(images)
        return class_probabilities(self._network, images)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the last layer's inputs, float32 [n, F]: a space in which photos compare.

        Raises:
            DataError: when the pictures have another size or type.
        """
        _check(images)
        return photo_features(self._network, images)


class AudioVisualSpace:
    """Unit vectors of sounds and pictures; the nearer, the better they go together."""

    def __init__(self, network: ContrastivePair, config: SpaceConfig) -> None:
        self._network = network
        self._config = config

    def sounds(self, mels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return unit vectors float32 [n, e] of log-mels uint8 [n, 128, 100].

        Raises:
            DataError: when the log-mels have another size or type.
        """
        if mels.dtype != np.uint8 or mels.shape[1:] != (N_MELS, FRAMES_PER_SEGMENT):
            raise DataError(
                f"log-mels must be uint8 [n, {N_MELS}, {FRAMES_PER_SEGMENT}], not "
                f"{mels.dtype} {list(mels.shape)}"
            )
        return embed_sounds(self._network, self._config, mels)

    def pictures(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return unit vectors float32 [n, e] of pictures uint8 [n, 96, 96, 3].

        Raises:
            DataError: when the pictures have another size or type.
        """
        _check(images)
        return embed_pictures(self._network, self._config, images)


def columns_of(subjects: Sequence[str], classes: Sequence[str] = SUBJECTS) -> NDArray[np.int64]:
    """Return the index of each subject in ``classes``: int64 [n].

    Raises:
        DataError: on an unknown one.
    """
    place = {subject: index for index, subject in enumerate(classes)}
    try:
        return np.array([place[subject] for subject in subjects], dtype=np.int64)
    except KeyError as error:
        raise DataError(f"unknown subject {error}; choose from {', '.join(classes)}") from error


def _beside(folder: Path, record: dict[str, Any], sha256: str) -> dict[str, Any]:
    """Load what stands beside the published judges; nothing where the folder has nothing."""
    networks = judge_files.read_viewers(folder, record)
    if networks is None:
        return {}
    second, classifier, space = networks
    with judge_files.damage(folder / "judges.json"):
        tables = record["done"][SECOND]["tables"]
        thresholds = {subject: tables[subject]["threshold"] for subject in SUBJECTS}
        for subject, threshold in thresholds.items():
            judge_files.check_threshold(threshold, f"{SECOND}, {subject}")
        space_config = from_dict(SpaceConfig, record["settings"]["config"]["viewers"][SPACE])
    return {
        "second": Judges(
            partial(head_scores, second), thresholds, name=f"{folder.name}, second", sha256=sha256
        ),
        "classifier": PhotoClassifier(classifier),
        "space": AudioVisualSpace(space, space_config),
    }


def _check(images: NDArray[np.uint8]) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != (IMAGE_PX, IMAGE_PX, IMAGE_CHANNELS):
        raise DataError(
            f"pictures to be judged must be uint8 [n, 96, 96, 3], not "
            f"{images.dtype} {list(images.shape)}"
        )
