"""The table behind a report: rows from columns, differences by second, CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from soundsight.core.errors import DataError
from soundsight.evaluation.segments import (
    SegmentTable,
    average,
    differences_of,
    read,
    rows_of,
    write,
)


def table(seed: int, **more: np.ndarray) -> SegmentTable:
    """Forty seconds of eight videos of two classes."""
    rng = np.random.default_rng(seed)
    bits = {
        name: rng.integers(2, size=40).astype(np.float64)
        for name in ("shown", "accepted", "shuffled", "shuffled_shown")
    }
    return SegmentTable(
        names=[f"s{i}.jpg" for i in range(40)],
        subjects=["dog"] * 20 + ["rail"] * 20,
        videos=[f"v{i // 5}" for i in range(40)],
        values={"audible": (np.arange(40) % 4 > 0).astype(np.float64), **bits, **more},
    )


def test_rows_are_made_of_columns_as_they_are_defined() -> None:
    seconds = table(0)
    v = seconds.values
    rows = rows_of(seconds)
    hits = np.logical_and(v["accepted"], v["shown"])
    strange = np.logical_and(v["shuffled"], v["shuffled_shown"])
    np.testing.assert_array_equal(rows["informativity"].values, hits)
    np.testing.assert_array_equal(rows["hidden"].values, 1 - v["shown"])
    np.testing.assert_array_equal(
        rows["informativity minus shuffled"].values, hits.astype(int) - strange
    )
    found = average(seconds, rows["informativity, audible seconds"], 0)
    for subject, part in (("dog", slice(0, 20)), ("rail", slice(20, 40))):
        kept = v["audible"][part] > 0
        assert found[subject].share == pytest.approx(hits[part][kept].mean())
        assert found[subject].count == kept.sum()
    by_video = average(seconds, rows["informativity, mean of each video"], 0)
    assert by_video["dog"].share == pytest.approx(hits[:20].reshape(4, 5).mean(axis=1).mean())
    assert "class accuracy" not in rows
    assert not any(name.startswith("second judge") for name in rows)


def test_a_difference_is_taken_second_by_second() -> None:
    a, b = table(0), table(1)
    gaps = differences_of(a, b, 0)
    hits = [s.values["accepted"] * s.values["shown"] for s in (a, b)]
    wanted = np.mean([(hits[1] - hits[0])[:20].mean(), (hits[1] - hits[0])[20:].mean()])
    assert gaps["informativity"]["mean"].share == pytest.approx(wanted)
    # A run beside itself differs by nothing, whatever is hard.
    none = differences_of(a, a, 0)["informativity"]["mean"]
    assert (none.share, none.low, none.high) == (0, 0, 0)


def test_pairing_narrows_what_two_intervals_would_say() -> None:
    rng = np.random.default_rng(3)
    # Videos are easy or hard for both; one run misses a single second more in ten.
    easy = np.repeat(rng.integers(2, size=8), 5).astype(np.float64)
    ones = np.ones(40)
    fewer = easy * (np.arange(40) % 10 != 0)
    a, b = (table(0, accepted=v, shown=ones) for v in (easy, fewer))
    gap = differences_of(a, b, 0)["informativity"]["mean"]
    alone = average(a, rows_of(a)["informativity"], 0)["mean"]
    assert gap.share < 0
    assert gap.high - gap.low < 0.5 * (alone.high - alone.low)


def test_only_rows_of_both_are_compared() -> None:
    right = {"right": np.ones(40)}
    assert "class accuracy" not in differences_of(table(0, **right), table(1), 0)
    assert "class accuracy" in differences_of(table(0, **right), table(1, **right), 0)


def test_the_table_comes_back_to_the_last_digit(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random(40).astype(np.float32).astype(np.float64)
    seconds = table(0, score=scores)
    write(tmp_path / "a.csv", seconds)
    again = read(tmp_path / "a.csv")
    assert list(again.names) == list(seconds.names)
    assert list(again.subjects) == list(seconds.subjects)
    assert list(again.videos) == list(seconds.videos)
    assert list(again.values) == list(seconds.values)
    for name, column in seconds.values.items():
        np.testing.assert_array_equal(again.values[name], column)
    lines = (tmp_path / "a.csv").read_bytes().splitlines()
    assert lines[0].startswith(b"spectrogram,class,video,audible,shown,accepted")
    assert lines[1].startswith(b"s0.jpg,dog,v0,0,")


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "\n",
        ",shown\n",
        ",shown\na,cat,v,1,1\n",
        ",shown\na,dog,v,1,yes\n",
        ",shown\na,dog,v,1\n",
    ],
)
def test_another_table_is_refused(tmp_path: Path, lines: str) -> None:
    head = "spectrogram,class,video,audible" if lines else ""
    (tmp_path / "a.csv").write_text(head + lines)
    with pytest.raises(DataError, match="is no table of seconds"):
        read(tmp_path / "a.csv")
