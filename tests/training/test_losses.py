"""Losses against plain NumPy references, and their gradients' direction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from soundsight.training import losses


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def test_rc_losses_are_the_published_distances() -> None:
    real, generated = torch.tensor([0.5, -0.25]), torch.tensor([0.0, 1.0])
    # |1 - .5|, |1 + .25| and |-1 - 0|, |-1 - 1|, each averaged.
    assert float(losses.rc_discriminator_loss(real, generated)) == pytest.approx(0.875 + 1.5)
    assert float(losses.rc_generator_loss(generated)) == pytest.approx(0.5)


def test_pixel_losses() -> None:
    a, b = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 2.0)
    assert float(losses.pixel_loss(a, b, "l1")) == pytest.approx(2.0)
    assert float(losses.pixel_loss(a, b, "mse")) == pytest.approx(4.0)


def test_relativistic_loss_against_numpy() -> None:
    rng = np.random.default_rng(0)
    better, worse = rng.normal(size=7), rng.normal(size=7)
    expected = softplus(worse - better)
    args = torch.from_numpy(better), torch.from_numpy(worse)
    assert float(losses.relativistic_loss(*args)) == pytest.approx(expected.mean())
    valid = np.array([1, 0, 1, 1, 0, 0, 1], dtype=bool)
    got = losses.relativistic_loss(*args, torch.from_numpy(valid))
    assert float(got) == pytest.approx(expected[valid].mean())
    none = losses.relativistic_loss(*args, torch.zeros(7, dtype=torch.bool))
    assert float(none) == 0.0


def test_gradient_penalty_of_a_known_slope() -> None:
    images = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    slope = torch.arange(32, dtype=torch.float64).reshape(2, 4, 4) / 10
    scores = (images * slope).sum(dim=(1, 2, 3))
    got = losses.gradient_penalty(scores, images)
    assert float(got) == pytest.approx(0.5 * float((slope**2).sum()))


def reference_info_nce(
    sound: np.ndarray, picture: np.ndarray, video: list[int], photo: list[int], scale: float
) -> float:
    """Both directions, one item after the other, negatives listed by hand."""
    sound = sound / np.linalg.norm(sound, axis=1, keepdims=True)
    picture = picture / np.linalg.norm(picture, axis=1, keepdims=True)
    n, total = len(sound), 0.0
    for one, other in ((sound, picture), (picture, sound)):
        for i in range(n):
            allowed = [
                j for j in range(n) if j == i or (video[i] != video[j] and photo[i] != photo[j])
            ]
            logits = {j: scale * one[i] @ other[j] for j in allowed}
            total += np.log(sum(np.exp(v) for v in logits.values())) - logits[i]
    return total / (2 * n)


def test_info_nce_leaves_out_false_negatives() -> None:
    rng = np.random.default_rng(1)
    sound, picture = rng.normal(size=(6, 5)), rng.normal(size=(6, 5))
    video, photo = [0, 0, 1, 2, 3, 4], [9, 8, 7, 7, 6, 5]
    expected = reference_info_nce(sound, picture, video, photo, 8.0)
    got = losses.info_nce(
        torch.from_numpy(sound),
        torch.from_numpy(picture),
        torch.tensor(video),
        torch.tensor(photo),
        torch.tensor(8.0, dtype=torch.float64).log(),
    )
    assert float(got) == pytest.approx(expected)
    with_all = losses.info_nce(
        torch.from_numpy(sound),
        torch.from_numpy(picture),
        torch.arange(6),
        torch.arange(6),
        torch.tensor(8.0, dtype=torch.float64).log(),
    )
    assert float(with_all) > float(got)
