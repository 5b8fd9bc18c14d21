"""The judges at work: does the classifier of a sound's class accept the picture?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import DataError, ModelError
from soundsight.core.runs import sha256_of
from soundsight.core.units import IMAGE_CHANNELS, IMAGE_PX
from soundsight.pairs.bench import SUBJECTS
from soundsight.training import judge_files
from soundsight.training.judges import score

PACKAGED_JUDGES = Path(__file__).resolve().parents[1] / "assets" / "judges"

Scorer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Pictures uint8 [n, 96, 96, 3] -> scores float32 [n] in [0, 1]."""


class Judges:
    """One binary judge a class, each with the threshold that was set on val.

    Args:
        scorers: a scorer for each of the five subjects.
        thresholds: a picture is accepted when its score reaches the class's threshold.
        name: what the report calls them.
        sha256: hash of what they are made of, empty when there is no file.

    Raises:
        ModelError: when a subject has no judge.
    """

    def __init__(
        self,
        scorers: Mapping[str, Scorer],
        thresholds: Mapping[str, float],
        *,
        name: str = "judges",
        sha256: str = "",
    ) -> None:
        for subject in SUBJECTS:
            if subject not in scorers or subject not in thresholds:
                raise ModelError(f"{name}: there is no judge of {subject}")
        self._scorers = [scorers[subject] for subject in SUBJECTS]
        self._thresholds = np.array([thresholds[s] for s in SUBJECTS], dtype=np.float32)
        self.name = name
        self.sha256 = sha256

    @classmethod
    def load(cls, folder: Path | None = None) -> Judges:
        """Load trained judges, by default those that come with the package.

        Raises:
            ModelError: when the folder is missing, unfinished, foreign or damaged.
        """
        folder = PACKAGED_JUDGES if folder is None else folder
        models, record = judge_files.read(folder, "judges")
        scorers = {name: partial(score, model) for name, model in models.items()}
        # judges.json holds the hash of every weight file, so its own hash names them all.
        digest = sha256_of(folder / "judges.json")
        return cls(scorers, record["thresholds"], name=folder.name, sha256=digest)

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
        return np.stack([scorer(images) for scorer in self._scorers], axis=1)

    def verdicts(self, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return bool [n, 5]: which judges accept each picture uint8 [n, 96, 96, 3]."""
        return self.scores(images) >= self._thresholds

    def accepts(self, images: NDArray[np.uint8], subjects: Sequence[str]) -> NDArray[np.bool_]:
        """Return whether the judge of each picture's subject accepts it.

        Args:
            images: uint8 [n, 96, 96, 3].
            subjects: n names out of ``SUBJECTS``.

        Returns:
            bool [n].

        Raises:
            DataError: on an unknown subject, or when the numbers differ.
        """
        if len(subjects) != len(images):
            raise DataError(f"{len(images)} pictures but {len(subjects)} subjects")
        _check(images)
        columns = columns_of(subjects)
        accepted = np.zeros(len(images), dtype=np.bool_)
        for column, (scorer, threshold) in enumerate(
            zip(self._scorers, self._thresholds, strict=True)
        ):
            mine = columns == column
            if mine.any():
                accepted[mine] = scorer(images[mine]) >= threshold
        return accepted


def columns_of(subjects: Sequence[str]) -> NDArray[np.int64]:
    """Return the index of each subject in ``SUBJECTS``: int64 [n].

    Raises:
        DataError: on an unknown one.
    """
    place = {subject: index for index, subject in enumerate(SUBJECTS)}
    try:
        return np.array([place[subject] for subject in subjects], dtype=np.int64)
    except KeyError as error:
        raise DataError(f"unknown subject {error}; choose from {', '.join(SUBJECTS)}") from error


def _check(images: NDArray[np.uint8]) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != (IMAGE_PX, IMAGE_PX, IMAGE_CHANNELS):
        raise DataError(
            f"pictures to be judged must be uint8 [n, 96, 96, 3], not "
            f"{images.dtype} {list(images.shape)}"
        )
