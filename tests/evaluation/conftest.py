"""Toy judges that know a class by the colour of a picture's left half."""

from __future__ import annotations

import numpy as np
import pytest

from soundsight.data.vegas.bench import SUBJECTS
from soundsight.judges.apply import Judges, Scorer


@pytest.fixture(scope="session")
def toy_judges(colours: dict[str, tuple[int, int, int]]) -> Judges:
    """Five judges; a score is 1 at the class's colour and falls with the distance from it."""

    def judge(colour: tuple[int, int, int]) -> Scorer:
        def scorer(images: np.ndarray) -> np.ndarray:
            left = images[:, 8:88, 4:44].astype(np.float32)
            # Colour as it should be, everywhere: a patch or a blur of it does not do.
            away = np.abs(left - np.array(colour, np.float32)).max(axis=(1, 2, 3))
            return (1 - away / 255).astype(np.float32)

        return scorer

    return Judges(
        {subject: judge(colours[subject]) for subject in SUBJECTS},
        dict.fromkeys(SUBJECTS, 0.85),
        name="toy",
        sha256="0" * 64,
    )
