"""A look while training."""

from __future__ import annotations

import numpy as np
import pytest

from soundsight.data.vegas.bench import SUBJECTS, Bench
from soundsight.evaluation.validation import ValFigures
from soundsight.judges.apply import Judges
from soundsight.training.published import TranslatorTask


class GreyTask(TranslatorTask):
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
        return np.repeat(images[:, 0, 0, :1].astype(np.float32) / 255, 5, axis=1)

    thresholds = dict.fromkeys(SUBJECTS, 1 / 255) | {SUBJECTS[0]: 1.0}
    look = ValFigures(Judges(bright, thresholds), toy_bench)
    figures = look(GreyTask(), 7)
    assert figures.pop("val_informativity") == pytest.approx((0 + 4 * 11 / 12) / 5)
    # The five judges agree, so only thresholds tell classes apart: the first accepts nothing.
    assert figures.pop("val_shuffled") == pytest.approx((4 * 4 * 11 / 12) / 20)
    pairs = toy_bench.pairs("val")
    photos = {pair.photo: toy_bench.photo(pair.photo).astype(float) for pair in pairs}
    own, other = [], []
    for pair in pairs:
        grey = int(toy_bench.spectrogram(pair.spectrogram).mean())
        away = {name: np.abs(grey - photo).mean() / 127.5 for name, photo in photos.items()}
        own.append(away.pop(pair.photo))
        other.append([away[name] for name in away if name.startswith(pair.subject)])
    assert figures.pop("val_pixel_loss") == pytest.approx(np.mean(own))
    loss = figures.pop("val_other_pixel_loss")
    assert np.mean(np.min(other, axis=1)) <= loss <= np.mean(np.max(other, axis=1))
    assert figures.pop("val_coherence") == pytest.approx(0.0, abs=1e-9)
    expected = {f"val_{s}": 11 / 12 for s in SUBJECTS} | {f"val_{SUBJECTS[0]}": 0.0}
    assert figures == pytest.approx(expected)
