"""Splits: a function of the group's name alone."""

from __future__ import annotations

from collections import Counter

import pytest

from soundsight.core.errors import ConfigError
from soundsight.pairs.split import SPLITS, parse_shares, split_of

SHARES = (0.8, 0.1, 0.1)


def test_shares_are_met_roughly() -> None:
    counts = Counter(split_of(f"videos/clip {k}", SHARES) for k in range(2000))
    for split, share in zip(SPLITS, SHARES, strict=True):
        # Four standard deviations of a fair draw.
        spread = 4 * (share * (1 - share) / 2000) ** 0.5
        assert abs(counts[split] / 2000 - share) < spread


def test_the_split_of_a_name_never_changes() -> None:
    """Datasets in the world depend on these very values."""
    known = {
        "a": "train",
        "b": "train",
        "c": "test",
        "d": "val",
        "e": "val",
        "f": "train",
        "g": "train",
        "h": "test",
        "犬": "train",
        "\udcff": "train",
    }
    assert {name: split_of(name, (0.5, 0.25, 0.25)) for name in known} == known


@pytest.mark.parametrize(
    ("shares", "allowed"),
    [
        ((1.0, 0.0, 0.0), {"train"}),
        ((0.0, 1.0, 0.0), {"val"}),
        ((0.0, 0.0, 1.0), {"test"}),
        ((0.9, 0.1, 0.0), {"train", "val"}),
        ((0.7 + 0.2, 0.0, 0.1), {"train", "test"}),
    ],
)
def test_an_empty_split_stays_empty(shares: tuple[float, ...], allowed: set[str]) -> None:
    assert {split_of(f"clip {k}", shares) for k in range(500)} == allowed


def test_a_smaller_train_share_only_moves_groups_out_of_train() -> None:
    names = [f"clip {k}" for k in range(500)]
    small = {name for name in names if split_of(name, (0.5, 0.25, 0.25)) == "train"}
    large = {name for name in names if split_of(name, SHARES) == "train"}
    assert small < large


def test_shares_are_read() -> None:
    assert parse_shares("0.8,0.1,0.1") == (0.8, 0.1, 0.1)
    assert parse_shares("0.9,0.1") == (0.9, 0.1, 0.0)
    assert parse_shares(" 1, 0, 0 ") == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "text",
    ["", "0.8", "1", "0.8,0.1,0.2", "0.8;0.2", "1.2,-0.1,-0.1", "nan,0.5,0.5", "inf,0,0", "a,b,c",
     "0.7,0.1,0.1,0.1"],
)  # fmt: skip
def test_shares_that_are_none_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"three shares that sum to 1") as error:
        parse_shares(text)
    assert "\n" not in str(error.value)
