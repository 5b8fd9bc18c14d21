"""Splits: a function of the group's name, and none left empty that could be filled."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundsight.core.errors import ConfigError
from soundsight.data.prepare.pack import SPLITS, _place, parse_shares, split_of, splits_of

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


@given(
    names=st.sets(st.text(max_size=6), min_size=1, max_size=9),
    shares=st.sampled_from([SHARES, (0.9, 0.1, 0.0), (0.0, 0.5, 0.5), (1.0, 0.0, 0.0)]),
)
def test_no_split_stays_empty_that_can_be_filled(
    names: set[str], shares: tuple[float, float, float]
) -> None:
    found = splits_of(names, shares, {})
    assert (
        found == splits_of(sorted(names), shares, {}) == splits_of(sorted(names)[::-1], shares, {})
    )
    asked = {split for split, share in zip(SPLITS, shares, strict=True) if share}
    counts = Counter(found.values())
    assert counts.keys() <= asked
    assert len(counts) == min(len(names), len(asked))
    # No more are moved than there were empty splits.
    by_name = {name: split_of(name, shares) for name in names}
    moved = [name for name in names if found[name] != by_name[name]]
    assert len(moved) == len(counts) - len(set(by_name.values()))


def test_the_nearest_name_stands_in_until_one_of_its_own_comes() -> None:
    shares = (0.5, 0.25, 0.25)
    assert splits_of("abf", shares, {}) == {"a": "train", "b": "train", "f": "train"} | {
        max("abf", key=_place): "val",
        sorted("abf", key=_place)[1]: "test",
    }
    assert splits_of("abfdc", shares, {}) == {
        "a": "train", "b": "train", "f": "train", "d": "val", "c": "test",
    }  # fmt: skip


def test_what_a_source_asks_for_is_kept() -> None:
    names = [f"clip {k}" for k in range(4)]
    fixed = dict.fromkeys(names, "train")
    assert splits_of(names, SHARES, fixed) == fixed
    free = next(name for name in names if split_of(name, SHARES) == "train")
    del fixed[free]
    assert splits_of(names, SHARES, fixed) == fixed | {free: "val"}


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
