"""The quick look at a translator in training counts what the judges accept."""

from __future__ import annotations

import numpy as np
import pytest

from soundsight.data.vegas.bench import SUBJECTS, Bench
from soundsight.evaluation.bench import ValInformativity
from soundsight.judges.apply import Judges
from soundsight.training.published import TranslatorTask


class Painter(TranslatorTask):
    """Draws each second in its mean level of grey."""

    def __init__(self) -> None:
        pass

    def draw(self, mels: np.ndarray) -> np.ndarray:
        assert mels.shape[1:] == (128, 100)
        level = mels.mean(axis=(1, 2)).astype(np.uint8)
        return np.broadcast_to(level[:, None, None, None], (len(mels), 96, 96, 3)).copy()


def test_shares_are_those_of_each_class_and_their_mean(toy_bench: Bench) -> None:
    """Of twelve seconds a class one cannot be heard; the toy levels rise from class to class."""

    def bright(images: np.ndarray) -> np.ndarray:
        return images[:, 0, 0, 0].astype(np.float32) / 255

    thresholds = dict.fromkeys(SUBJECTS, 1 / 255) | {SUBJECTS[0]: 1.0}
    look = ValInformativity(Judges(dict.fromkeys(SUBJECTS, bright), thresholds), toy_bench)
    figures = look(Painter(), 7)
    assert figures.pop("val_informativity") == pytest.approx((0 + 4 * 11 / 12) / 5)
    expected = {f"val_{s}": 11 / 12 for s in SUBJECTS} | {f"val_{SUBJECTS[0]}": 0.0}
    assert figures == pytest.approx(expected)
