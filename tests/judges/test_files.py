"""Thresholds, what passes them, and whether two judges agree."""

from __future__ import annotations

import numpy as np
import pytest

from soundsight.core.errors import DataError
from soundsight.judges.files import accepting, agreement, val_table


def test_the_threshold_is_the_highest_that_accepts_enough() -> None:
    scores = np.arange(100, dtype=np.float32)
    np.random.default_rng(0).shuffle(scores)
    assert accepting(scores, 0.85) == 15
    assert (scores >= accepting(scores, 0.85)).mean() == 0.85
    assert accepting(scores[:13], 0.85) == np.sort(scores[:13])[1]
    assert accepting(scores, 1.0) == 0


def test_the_table_counts_what_passes() -> None:
    positives = np.linspace(0, 1, 21, dtype=np.float32)
    noise = np.array([0.1, 0.2, 0.9], dtype=np.float32)
    table = val_table(positives, {"noise": noise, "blur": noise[:1]}, 0.85)
    assert table.threshold == pytest.approx(0.15)
    assert (table.photos, table.accepted) == (21, pytest.approx(18 / 21))
    assert table.passed == {"noise": pytest.approx(2 / 3), "blur": 0.0}
    assert table.counts == {"noise": 3, "blur": 1}


def test_agreement_is_cohens() -> None:
    # Cohen's table: both yes 20, first alone 5, second alone 10, both no 15: kappa = .4.
    counts = (20, 5, 10, 15)
    first = np.repeat([True, True, False, False], counts)
    second = np.repeat([True, False, True, False], counts)
    found = agreement(first, second)
    assert (found.share, found.count) == (0.7, 50)
    assert found.kappa == pytest.approx(0.4)
    assert agreement(first, first).kappa == pytest.approx(1.0)
    assert agreement(first, ~first).kappa < 0


def test_verdicts_that_never_change_agree_by_chance_alone() -> None:
    yes = np.ones(4, dtype=bool)
    assert (agreement(yes, yes).share, agreement(yes, yes).kappa) == (1.0, 0.0)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (2, 3)])
def test_verdicts_that_cannot_be_compared_are_refused(n: int, m: int) -> None:
    with pytest.raises(DataError, match=f"{n} and {m} verdicts cannot be compared"):
        agreement(np.ones(n, dtype=bool), np.ones(m, dtype=bool))
