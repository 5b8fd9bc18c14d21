"""Sheets say of every picture what became of it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from soundsight.data.vegas.bench import SUBJECTS
from soundsight.evaluation.figures import (
    THRESHOLDS,
    curves_of,
    draw_curves,
    draw_map,
    reconstruction_sheet,
    sheet,
)
from soundsight.views.drawing import heat

GREEN, AMBER = (46, 160, 67), (222, 140, 40)


def painted(levels: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((levels == np.array(colour)).all(axis=2).sum())


def test_accepted_refused_and_hidden_pictures_are_marked() -> None:
    mels = np.zeros((3, 128, 100), np.uint8)
    pictures = np.zeros((3, 96, 96, 3), np.uint8)
    subjects = ["dog", "dog", "rail"]
    frame = 96**2 - 92**2
    for accepted, shown, ticks, crosses in (
        ([0, 0, 0], [1, 1, 1], 0, 0),
        ([1, 0, 0], [1, 1, 1], 1, 0),
        # A judge may accept what the program hides: nobody sees it.
        ([1, 0, 1], [1, 0, 0], 1, 2),
    ):
        judged, seen = np.array(accepted, bool), np.array(shown, bool)
        run = pictures, judged, seen
        for runs in ({"": run}, {"A": run, "B": run}):
            levels = sheet(mels, runs, subjects)
            for count, colour in ((ticks, GREEN), (crosses, AMBER)):
                # A frame each, and the tick or the cross in it.
                of_each = painted(levels, colour) / len(runs)
                assert (frame + 40) * count <= of_each <= (frame + 160) * count


def test_curves_are_shares_at_or_over_the_threshold() -> None:
    scores = np.array([0.0, 0.25, 0.5, 0.5, 1.0])
    curves = curves_of({"generated": {"dog": scores, "rail": scores[:0]}})
    wanted = [(scores >= threshold).mean() for threshold in THRESHOLDS]
    assert curves["dog"]["generated"] == pytest.approx(wanted)
    assert wanted[0] == 1
    assert curves["rail"] == curves["water"] == {}


def test_curves_are_drawn_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    scores = {
        kind: {subject: rng.random(9) for subject in SUBJECTS}
        for kind in ("real photos", "generated")
    }
    scores["shuffled sounds"] = {"dog": np.empty(0)}
    curves = curves_of(scores)
    assert list(curves["dog"]) == ["real photos", "generated"]
    first, again = (draw_curves(curves, dict.fromkeys(SUBJECTS, 0.5), "Title") for _ in "ab")
    assert first == again
    assert first.startswith(b"<?xml")
    assert b"dc:date" not in first
    moved = draw_curves(curves, dict.fromkeys(SUBJECTS, 0.6), "Title")
    assert moved != first


def test_the_map_is_the_same_png_twice_whatever_the_settings() -> None:
    import matplotlib

    places = np.random.default_rng(0).normal(size=(40, 2))
    subjects = [SUBJECTS[i % 5] for i in range(40)]
    first = draw_map(places, subjects, ("one", "two"))
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        assert draw_map(places, subjects, ("one", "two")) == first
    picture = Image.open(io.BytesIO(first))
    assert picture.format == "PNG"
    assert not picture.text  # type: ignore[attr-defined]
    assert draw_map(places + 1, subjects[::-1], ("one", "two")) != first


def test_the_sheet_holds_every_mel_above_what_is_drawn_of_it() -> None:
    heard = np.zeros((3, 128, 100), dtype=np.uint8)
    drawn = np.full((3, 128, 100), 255, dtype=np.uint8)
    page = reconstruction_sheet(heard, drawn, ["baby", "water", "baby"], np.array([0.1, 0.2, 0.3]))
    light = (page == heat()[255]).all(axis=2)
    assert light.sum() == 3 * 128 * 100
    # Light is what is drawn, and it lies in the lower half of the first row.
    assert not light[: light.shape[0] // 5].any()
    top = reconstruction_sheet(drawn, heard, ["baby", "water", "baby"], np.zeros(3))
    assert top.shape == page.shape
    assert not np.array_equal(top, page)
