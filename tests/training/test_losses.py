"""Losses against plain NumPy references, and their gradients' direction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from soundsight.training import losses


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def test_published_losses_are_plain_distances() -> None:
    real, generated = torch.tensor([0.5, -0.25]), torch.tensor([0.0, 1.0])
    # |1 - .5|, |1 + .25| and |-1 - 0|, |-1 - 1|, each averaged.
    assert float(losses.rc_discriminator_loss(real, generated)) == pytest.approx(0.875 + 1.5)
    assert float(losses.rc_generator_loss(generated)) == pytest.approx(0.5)
    # Targets smoothed to .75 and -.75.
    smoothed = losses.rc_discriminator_loss(real, generated, 0.25)
    assert float(smoothed) == pytest.approx(0.625 + 1.25)
    assert float(losses.rc_generator_loss(generated, 0.25)) == pytest.approx(0.5)
    a, b = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 2.0)
    assert float(losses.pixel_loss(a, b, "l1")) == pytest.approx(2.0)
    assert float(losses.pixel_loss(a, b, "mse")) == pytest.approx(4.0)


def test_reconstruction_loss_against_numpy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 2, 3, 8, 8))
    small = [x.reshape(2, 3, 2, 4, 2, 4).mean(axis=(3, 5)) for x in (a, b)]
    expected = np.abs(small[0] - small[1]).mean() + 0.3 * np.abs(a - b).mean()
    got = losses.reconstruction_loss(torch.from_numpy(a), torch.from_numpy(b))
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_feature_loss_is_a_share_of_each_layer() -> None:
    target = [torch.full((2, 3, 4, 4), 2.0), torch.full((2, 5, 2, 2), -10.0)]
    generated = [torch.full((2, 3, 4, 4), 3.0), torch.full((2, 5, 2, 2), -5.0)]
    assert float(losses.feature_loss(generated, target)) == pytest.approx(0.5, rel=1e-4)
    with pytest.raises(ValueError, match="zip"):
        losses.feature_loss(generated, target[:1])


def test_kl_divergence_against_torch() -> None:
    mean, log_variance = torch.randn(4, 6), torch.randn(4, 6)
    of_each = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()),
        torch.distributions.Normal(torch.zeros(6), torch.ones(6)),
    )
    expected = float(of_each.sum(dim=1).mean())
    assert float(losses.kl_divergence(mean, log_variance)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.kl_divergence(torch.zeros(1, 6), torch.zeros(1, 6))) == 0.0


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
    both = torch.from_numpy(sound), torch.from_numpy(picture)
    scale = torch.tensor(8.0, dtype=torch.float64).log()
    got = losses.info_nce(*both, torch.tensor(video), torch.tensor(photo), scale)
    assert float(got) == pytest.approx(expected)
    with_all = losses.info_nce(*both, torch.arange(6), torch.arange(6), scale)
    assert float(with_all) > float(got)


def test_pictures_nce_without_mixing_is_info_nce() -> None:
    sound, picture = torch.randn(5, 8), torch.randn(5, 8)
    video, photo = torch.tensor([0, 1, 2, 2, 3]), torch.tensor([7, 8, 9, 5, 7])
    own, log_scale = torch.arange(5), torch.tensor(1.5)
    got = losses.pictures_nce(
        sound, picture[:, None], video, photo[:, None], own, torch.ones(5), log_scale
    )
    expected = losses.info_nce(sound, picture, video, photo, log_scale)
    assert float(got) == pytest.approx(float(expected), rel=1e-5)


def test_pictures_nce_wants_both_parts_of_a_mixture() -> None:
    picture = torch.eye(4, 8)
    everyone, partner = torch.arange(4), torch.tensor([3, 2, 1, 0])
    share = torch.tensor([0.5, 1.0, 1.0, 1.0])

    def loss(first: torch.Tensor) -> float:
        sound, scale = torch.cat([first[None], picture[1:]]), torch.tensor(2.0)
        ids = everyone, everyone[:, None], partner
        return float(losses.pictures_nce(sound, picture[:, None], *ids, share, scale))

    assert loss(picture[0] + picture[3]) < min(loss(picture[0]), loss(picture[3]))


def test_alone_nce_against_numpy() -> None:
    rng = np.random.default_rng(3)
    two, others = rng.normal(size=(3, 2, 6)), rng.normal(size=(4, 6))
    rows = np.concatenate([two[:, 0], two[:, 1], others])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    logits = rows[:6] @ rows.T * np.exp(1.0)
    terms = []
    for i in range(6):
        rest = np.delete(logits[i], i)
        terms.append(np.log(np.exp(rest).sum()) - logits[i, (i + 3) % 6])
    got = losses.alone_nce(torch.from_numpy(two), torch.from_numpy(others), torch.tensor(1.0))
    assert float(got) == pytest.approx(float(np.mean(terms)), rel=1e-5)
