"""Sheets say of every picture what became of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from soundsight.evaluation.figures import sheet

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
