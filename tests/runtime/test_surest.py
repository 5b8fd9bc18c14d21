"""What a sound of several seconds is drawn from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from soundsight.runtime.surest import MOST_SECONDS, Second, SurestSeconds, mean_embedding


def second(embedding: list[float], shares: list[float]) -> Second:
    return Second(
        embedding=np.array(embedding, np.float32),
        shares=np.array(shares, np.float32),
        ood_score=math.nan,
    )


def surest_embedding(embeddings: np.ndarray, shares: np.ndarray) -> np.ndarray:
    surest = SurestSeconds()
    for embedding, share in zip(embeddings, shares, strict=True):
        surest.take(second(embedding, share))
    return mean_embedding(surest.of_kind(surest.kind))


def test_the_kind_is_the_one_that_is_most_probable_in_all_seconds() -> None:
    # One second is very sure of the first; all others lean to the second.
    shares = np.array([[0.99, 0.01], [0.4, 0.6], [0.3, 0.7], [0.4, 0.6]])
    embeddings = np.eye(4, dtype=np.float32) * 2
    made = surest_embedding(embeddings, shares)
    # All four are among the eight surest of the second; they are averaged, and as large as each.
    np.testing.assert_allclose(made, np.ones(4), rtol=1e-6)


def test_the_surest_seconds_are_kept_whatever_their_order() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(0, 1, (200, 6)).astype(np.float32)
    embeddings /= np.sqrt(np.square(embeddings).mean(axis=1, keepdims=True))
    first = rng.uniform(0.5, 1, 200)
    shares = np.stack([first, 1 - first], axis=1)
    best = np.argsort(-first)[:MOST_SECONDS]
    mean = embeddings[best].mean(axis=0)
    expected = mean / np.sqrt(np.square(mean).mean())
    for order in (np.arange(200), rng.permutation(200)):
        made = surest_embedding(embeddings[order], shares[order])
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)
        assert made.dtype == np.float32


def test_seconds_come_the_surest_first_and_no_more_than_are_kept() -> None:
    surest = SurestSeconds()
    for share in (0.2, 0.9, 0.5, 0.7, *[0.6] * 7):
        surest.take(second([share], [share, 1 - share]))
    assert len(surest) == 11
    shares = [float(s.embedding[0]) for s in surest.of_kind(0)]
    assert shares == pytest.approx([0.9, 0.7, *[0.6] * 6])
    assert float(surest.of_kind(1)[0].embedding[0]) == pytest.approx(0.2)
    assert surest.kind == 0
    # One second is taken as it is.
    embedding = np.array([0.3, -7.0, 2.0], np.float32)
    np.testing.assert_array_equal(surest_embedding(embedding[None], [[1.0]]), embedding)


def test_seconds_that_cancel_out_are_no_error() -> None:
    made = mean_embedding([second([1.0, 0.0], [1.0]), second([-1.0, 0.0], [1.0])])
    assert np.isfinite(made).all()
