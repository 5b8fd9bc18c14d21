"""Curves: what share of pictures a judge accepts as its threshold moves.

A judge that tells something apart keeps its curves apart: real photos above, what shows nothing
below, and the pictures of the right sounds over those of shuffled ones.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from numpy.typing import NDArray

from soundsight.data.vegas.bench import SUBJECTS

THRESHOLDS = np.round(np.linspace(0.0, 1.0, 101), 2)
"""Thresholds at which the curves are known."""

STORED_EVERY = 5
"""Each fifth of them goes into report.json."""

REAL, GENERATED, SHUFFLED, UNINFORMATIVE = (
    "real photos",
    "generated",
    "shuffled sounds",
    "uninformative",
)
_LOOKS = {
    REAL: ("#3b6ea5", "-"),
    GENERATED: ("#b4632d", "-"),
    SHUFFLED: ("#b4632d", ":"),
    UNINFORMATIVE: ("#777777", "--"),
}
_INCHES = (10.0, 5.6)

Curves = dict[str, dict[str, list[float]]]
"""Class -> kind of picture -> share accepted at each threshold."""


def accepted_at(scores: NDArray[np.floating]) -> list[float]:
    """Return the share of scores, [n], that reach each of ``THRESHOLDS``; empty for no score."""
    if not len(scores):
        return []
    below = np.searchsorted(np.sort(scores.astype(np.float64)), THRESHOLDS, side="left")
    return [float(share) for share in 1 - below / len(scores)]


def curves_of(scores: Mapping[str, Mapping[str, NDArray[np.floating]]]) -> Curves:
    """Turn scores, kind of picture -> class -> float [n], into curves, class by class."""
    return {
        subject: {
            kind: accepted_at(by_class[subject])
            for kind, by_class in scores.items()
            if subject in by_class and len(by_class[subject])
        }
        for subject in SUBJECTS
    }


def draw_curves(curves: Curves, thresholds: Mapping[str, float], title: str) -> bytes:
    """Draw the curves, a panel a class with its threshold marked, as SVG.

    The same curves give the same bytes: no date, no random names, letters drawn as shapes.

    Args:
        curves: what ``curves_of`` made.
        thresholds: class -> the threshold that was set on val.
        title: words over all panels.

    Returns:
        An SVG file.
    """
    # A person's own settings of matplotlib must not change a report.
    with (
        style.context("default"),
        matplotlib.rc_context({"svg.hashsalt": "soundsight", "svg.fonttype": "path"}),
    ):
        figure = Figure(figsize=_INCHES, layout="constrained", facecolor="white")
        grid = figure.subplots(2, 3, sharex=True, sharey=True)
        panels = grid.ravel()
        for panel, subject in zip(panels, SUBJECTS, strict=False):
            for kind, line in curves[subject].items():
                colour, dash = _LOOKS[kind]
                panel.plot(THRESHOLDS, np.multiply(100, line), dash, color=colour, lw=1.6)
            panel.axvline(thresholds[subject], color="#2ea043", lw=1.2)
            panel.set_title(f"{subject}, threshold {thresholds[subject]:.2f}", fontsize=10)
            panel.grid(alpha=0.25)
            panel.set(xlim=(0, 1), ylim=(0, 102))
        for panel in grid[:, 0]:
            panel.set_ylabel("accepted, %")
        for panel in panels[2:5]:
            panel.set_xlabel("threshold")
            panel.tick_params(labelbottom=True)
        legend = panels[-1]
        legend.axis("off")
        for kind, (colour, dash) in _LOOKS.items():
            legend.plot([], [], dash, color=colour, lw=1.6, label=kind)
        legend.plot([], [], color="#2ea043", lw=1.2, label="threshold set on val")
        legend.legend(loc="center", frameon=False, fontsize=10)
        figure.suptitle(title, fontsize=11)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
