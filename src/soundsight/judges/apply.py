"""The judges at work: does the classifier of a sound's class accept the picture?

Beside the published classifiers stand, where the folder holds them, a stronger second judge, an
independent photo classifier and a space of sounds and pictures that no translator was trained
against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.config import from_dict
from soundsight.core.errors import DataError, ModelError
from soundsight.core.files import sha256_of
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.judges.files import CLASSIFIER, PACKAGED_JUDGES, SECOND, SPACE, damage, read
from soundsight.judges.pictures import check_pictures, columns_of
from soundsight.judges.retrieval_space import AudioVisualSpace, SpaceConfig
from soundsight.judges.train import PhotoClassifier, head_scores, score

Scorer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Pictures uint8 [n, 96, 96, 3] -> scores float32 [n, 5] in [0, 1], in the order of SUBJECTS."""


class Judges:
    """One binary judge a class, each with the threshold that was set on val.

    Args:
        thresholds: subject -> the score from which on a picture is accepted.
        sha256: hash of what they are made of, empty when there is no file.
        val: ``judge`` and ``second judge`` -> subject -> what passes on val (``files.val_table``).
        second: a stronger judge of the same classes, which has no second of its own.
        classifier: says which of the five subjects a picture shows.
        space: compares sounds with pictures.
    """

    def __init__(
        self,
        scorer: Scorer,
        thresholds: Mapping[str, float],
        *,
        name: str = "judges",
        sha256: str = "",
        val: Mapping[str, Any] | None = None,
        second: Judges | None = None,
        classifier: PhotoClassifier | None = None,
        space: AudioVisualSpace | None = None,
    ) -> None:
        self._scorer, self.name, self.sha256, self.val = scorer, name, sha256, dict(val or {})
        self._thresholds = np.array([thresholds[s] for s in SUBJECTS], dtype=np.float32)
        self.second, self.classifier, self.space = second, classifier, space

    @classmethod
    def load(cls, folder: Path | None = None) -> Judges:
        """Load trained judges, by default those that come with the package.

        Raises:
            ModelError: when the folder is missing, unfinished, foreign, damaged or lacks a subject.
        """
        folder = folder or PACKAGED_JUDGES
        networks, record = read(folder)
        if missing := [subject for subject in SUBJECTS if subject not in networks]:
            raise ModelError(f"{folder.name}: there is no judge of {missing[0]}")
        # judges.json holds the hash of every weight file, so its own hash names them all.
        sha256, done = sha256_of(folder / "judges.json"), record["done"]
        beside: dict[str, Any] = {}
        with damage(folder):
            val = {"judge": {subject: done[subject] for subject in SUBJECTS}}
            first = {s: _checked(record["thresholds"][s], s) for s in SUBJECTS}
            if SPACE in networks:
                val["second judge"] = tables = done[SECOND]["tables"]
                second = {s: _checked(tables[s]["threshold"], f"{SECOND}, {s}") for s in SUBJECTS}
                config = from_dict(SpaceConfig, record["settings"]["config"]["references"][SPACE])
                beside = {
                    "second": cls(
                        lambda images: head_scores(networks[SECOND], images), second,
                        name=f"{folder.name}, second", sha256=sha256,
                    ),
                    "classifier": PhotoClassifier(networks[CLASSIFIER]),
                    "space": AudioVisualSpace(networks[SPACE], config),
                }  # fmt: skip

        def scorer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.stack([score(networks[subject], images) for subject in SUBJECTS], axis=1)

        return cls(scorer, first, name=folder.name, sha256=sha256, val=val, **beside)

    @property
    def thresholds(self) -> dict[str, float]:
        """Subject -> the score from which on a picture is accepted."""
        return {s: float(t) for s, t in zip(SUBJECTS, self._thresholds, strict=True)}

    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what every judge says of pictures uint8 [n, 96, 96, 3]: float32 [n, 5] in [0, 1].

        Raises:
            DataError: when the pictures have another size or type.
        """
        check_pictures(images)
        return self._scorer(images)

    def verdicts(self, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return bool [n, 5]: which judges accept each picture uint8 [n, 96, 96, 3]."""
        return self.decide(self.scores(images))

    def decide(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which judges accept, bool [n, 5], from their scores, float32 [n, 5]."""
        return scores >= self._thresholds

    def accepts(self, images: NDArray[np.uint8], subjects: Sequence[str]) -> NDArray[np.bool_]:
        """Return whether the judge of its subject accepts each picture, uint8 [n, 96, 96, 3]: bool.

        Raises:
            DataError: on an unknown subject, or when the numbers differ.
        """
        if len(subjects) != len(images):
            raise DataError(f"{len(images)} pictures but {len(subjects)} subjects")
        verdicts: NDArray[np.bool_] = self.verdicts(images)
        return verdicts[np.arange(len(images)), columns_of(subjects)]


def _checked(threshold: Any, name: str) -> float:
    if not isinstance(threshold, float | int) or not 0 <= threshold <= 1:
        raise ValueError(f"the threshold of {name} is {threshold!r}, not a number in [0, 1]")
    return threshold
