"""The pictures of a report: sheets of sounds and pictures, curves, and a map of embeddings.

All are uint8 [height, width, 3] or the bytes of a file, the same for the same arguments.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.figure import Figure as Chart
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_PX, N_MELS
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.views.drawing import heat, picture, write_line

MARKS = (
    "A green tick: shown, and accepted by the judge of its class. An amber cross: the program "
    "would not show it (inaudible, or of no known kind)."
)
"""What the marks on :func:`sheet` say."""

_GAP_PX, _LINE_PX, _TEXT_PX, _LABEL_PX, _WIDE_LABEL_PX = 6, 18, 12, 70, 90
_MEL_PX = round(IMAGE_PX * FRAMES_PER_SEGMENT / N_MELS)
_ACCEPTED, _REFUSED, _HIDDEN = (46, 160, 67), (120, 120, 120), (222, 140, 40)
_BLACK, _GREY = (20, 20, 20), (90, 90, 90)
_ACROSS_PX, _PAIRS_ACROSS = 1600, 5
_BLIND_ACROSS, _BLIND_PX, _BLIND_GAP_PX, _BLIND_LETTERS = 10, 128, 10, 150

Levels = NDArray[np.uint8]
Judged = tuple[Levels, NDArray[np.bool_], NDArray[np.bool_]]
"""Pictures uint8 [n, 96, 96, 3]; which the judge accepts and which the program shows, bool [n]."""


def sheet(
    mels: Levels,
    runs: Mapping[str, Judged],
    subjects: Sequence[str],
    classes: Sequence[str] = SUBJECTS,
) -> Levels:
    """Draw each sound's log-mel and beside it the picture of every run, class by class.

    Args:
        mels: uint8 [n, 128, 100].
        runs: a short name, written over its column where there are several -> its pictures. A
            green tick marks what is shown and accepted, an amber cross what is not shown.
        subjects: n class names.
        classes: those that there may be, in the order of the rows.
    """
    present = [subject for subject in classes if subject in subjects]
    turns = [[i for i, s in enumerate(subjects) if s == subject] for subject in present]
    cell = _MEL_PX + len(runs) * (IMAGE_PX + 2) + 2 * _GAP_PX
    across = min(max(1, (_ACROSS_PX - _LABEL_PX) // cell), max(map(len, turns)))
    lines = [-(-len(turn) // across) for turn in turns]
    top = _LINE_PX + 2 * _GAP_PX if len(runs) > 1 else _GAP_PX
    height = top + sum(lines) * (IMAGE_PX + _GAP_PX) + len(present) * _GAP_PX
    page, pen = _page(_LABEL_PX + across * cell, height)
    for column in range(across if len(runs) > 1 else 0):
        for run, name in enumerate(runs):
            left = _LABEL_PX + column * cell + _MEL_PX + 2 + run * (IMAGE_PX + 2)
            write_line(pen, (left, _GAP_PX), name, _TEXT_PX + 1, _BLACK, IMAGE_PX)
    for subject, turn, count in zip(present, turns, lines, strict=True):
        pen.text((_GAP_PX, top + IMAGE_PX // 2 - 6), subject, fill="black")
        for place, index in enumerate(turn):
            row, column = divmod(place, across)
            left, upper = _LABEL_PX + column * cell, top + row * (IMAGE_PX + _GAP_PX)
            mel = Image.fromarray(mels[index]).resize((_MEL_PX, IMAGE_PX))
            page.paste(mel.convert("RGB"), (left, upper))
            for run, (pictures, accepted, shown) in enumerate(runs.values()):
                x = left + _MEL_PX + 2 + run * (IMAGE_PX + 2)
                page.paste(Image.fromarray(pictures[index]), (x, upper))
                _mark(pen, x, upper, bool(accepted[index]), bool(shown[index]))
        top += count * (IMAGE_PX + _GAP_PX) + _GAP_PX
    return np.asarray(page, dtype=np.uint8)


def nearest_sheet(
    pictures: Levels,
    photos: Levels,
    nearest: NDArray[np.integer],
    distances: NDArray[np.floating],
    seed: int,
    count: int = 20,
) -> Levels:
    """Draw pictures beside the training photos that are nearest to them: the nearest, and others.

    No class is named: a picture of the blind sheet may be among them.

    Args:
        pictures: uint8 [n, 96, 96, 3].
        photos: uint8 [m, 96, 96, 3].
        nearest: for each picture the place of its photo, [n].
        distances: [n], written below.
        seed: chooses the others.
        count: pictures of either group.
    """
    order = np.argsort(distances, kind="stable")
    # The seconds of a video look alike: each photo is shown beside its nearest picture alone.
    _, once = np.unique(nearest[order], return_index=True)
    chance = np.random.default_rng((seed, len(distances))).permutation(len(distances))
    blocks = {
        "The nearest of all, each photo once: what is copied shows here": order[np.sort(once)],
        "Chosen by the seed": chance,
    }
    cell_w, cell_h = 2 * IMAGE_PX + 3 * _GAP_PX, IMAGE_PX + _LINE_PX + _GAP_PX
    rows = [-(-min(count, len(chosen)) // _PAIRS_ACROSS) for chosen in blocks.values()]
    height = sum(lines * cell_h + _LINE_PX + 2 * _GAP_PX for lines in rows) + _GAP_PX
    page, pen = _page(_PAIRS_ACROSS * cell_w + _GAP_PX, height)
    top = _GAP_PX
    for (title, chosen), lines in zip(blocks.items(), rows, strict=True):
        write_line(pen, (_GAP_PX, top), title, _TEXT_PX + 1, _BLACK, page.width - 2 * _GAP_PX)
        top += _LINE_PX + _GAP_PX
        for place, index in enumerate(chosen[:count].tolist()):
            row, column = divmod(place, _PAIRS_ACROSS)
            left, upper = _GAP_PX + column * cell_w, top + row * cell_h
            page.paste(Image.fromarray(pictures[index]), (left, upper))
            page.paste(Image.fromarray(photos[nearest[index]]), (left + IMAGE_PX + 2, upper))
            words = f"distance {distances[index]:.3f}"
            write_line(pen, (left, upper + IMAGE_PX + 2), words, _TEXT_PX, _GREY, 2 * IMAGE_PX)
        top += lines * cell_h + _GAP_PX
    return np.asarray(page, dtype=np.uint8)


def seeds_sheet(rows: Sequence[tuple[str, Levels]]) -> Levels:
    """Draw several pictures of one sound, uint8 [n, 96, 96, 3], in a row after its class."""
    cell = IMAGE_PX + _GAP_PX
    page, pen = _page(_WIDE_LABEL_PX + len(rows[0][1]) * cell, len(rows) * cell + _GAP_PX)
    for row, (subject, pictures) in enumerate(rows):
        top = _GAP_PX + row * cell
        pen.text((_GAP_PX, top + IMAGE_PX // 2 - 6), subject, fill="black")
        for column, drawn in enumerate(pictures):
            page.paste(Image.fromarray(drawn), (_WIDE_LABEL_PX + column * cell, top))
    return np.asarray(page, dtype=np.uint8)


def blind_sheet(pictures: Levels, classes: Sequence[str] = SUBJECTS) -> Levels:
    """Draw pictures uint8 [n, 96, 96, 3] numbered from 1, and nothing that tells a class."""
    cell_w, cell_h = _BLIND_PX + _BLIND_GAP_PX, _BLIND_PX + _LINE_PX + _BLIND_GAP_PX
    rows = -(-len(pictures) // _BLIND_ACROSS)
    words = f"What is it? For each number: {', '.join(classes)}, or nothing."
    lines = textwrap.wrap(words, _BLIND_LETTERS)
    foot = (1 + len(lines)) * _LINE_PX
    page, pen = _page(_BLIND_ACROSS * cell_w + _BLIND_GAP_PX, rows * cell_h + _BLIND_GAP_PX + foot)
    for index, drawn in enumerate(pictures):
        row, column = divmod(index, _BLIND_ACROSS)
        left, top = _BLIND_GAP_PX + column * cell_w, _BLIND_GAP_PX + row * cell_h
        page.paste(picture(drawn, _BLIND_PX), (left, top))
        write_line(pen, (left, top + _BLIND_PX + 1), str(index + 1), 14, _BLACK, _BLIND_PX)
    for row, line in enumerate(lines):
        top = page.height - foot + row * _LINE_PX
        write_line(pen, (_BLIND_GAP_PX, top), line, 15, _BLACK, page.width)
    return np.asarray(page, dtype=np.uint8)


def reconstruction_sheet(
    mels: Levels, drawings: Levels, subjects: Sequence[str], errors: NDArray[np.float64]
) -> Levels:
    """Draw log-mels uint8 [n, 128, 100] over their reconstructions, a row a class, errors below."""
    present = [subject for subject in SUBJECTS if subject in subjects]
    turns = [[i for i, s in enumerate(subjects) if s == subject] for subject in present]
    cell_w, cell_h = FRAMES_PER_SEGMENT + _GAP_PX, 2 * N_MELS + _LINE_PX + 3 * _GAP_PX
    width = _WIDE_LABEL_PX + max(map(len, turns)) * cell_w
    page, pen = _page(width, len(present) * cell_h + _GAP_PX)
    for row, (subject, turn) in enumerate(zip(present, turns, strict=True)):
        top = _GAP_PX + row * cell_h
        below = top + N_MELS + _GAP_PX
        for y, words in ((top, subject), (top + 24, "heard"), (below, "drawn again")):
            write_line(pen, (_GAP_PX, y), words, _TEXT_PX + 1, _BLACK, _WIDE_LABEL_PX - _GAP_PX)
        for column, index in enumerate(turn):
            left = _WIDE_LABEL_PX + column * cell_w
            page.paste(Image.fromarray(heat()[mels[index]]), (left, top))
            page.paste(Image.fromarray(heat()[drawings[index]]), (left, below))
            at = (left, below + N_MELS + 2)
            write_line(pen, at, f"{errors[index]:.3f}", _TEXT_PX, _GREY, FRAMES_PER_SEGMENT)
    return np.asarray(page, dtype=np.uint8)


def _page(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    page = Image.new("RGB", (width, height), "white")
    return page, ImageDraw.Draw(page)


def _mark(pen: ImageDraw.ImageDraw, left: int, top: int, accepted: bool, shown: bool) -> None:
    colour = _HIDDEN if not shown else _ACCEPTED if accepted else _REFUSED
    box = (left, top, left + IMAGE_PX - 1, top + IMAGE_PX - 1)
    pen.rectangle(box, outline=colour, width=2)
    x, y = left + IMAGE_PX - 20, top + IMAGE_PX - 12
    # Not by colour alone: red and green are one to many eyes.
    if colour == _ACCEPTED:
        pen.line([(x, y), (x + 5, y + 5), (x + 14, y - 8)], fill=colour, width=4)
    elif colour == _HIDDEN:
        pen.line([(x + 1, y - 7), (x + 13, y + 5)], fill=colour, width=4)
        pen.line([(x + 1, y + 5), (x + 13, y - 7)], fill=colour, width=4)


# --- charts ---------------------------------------------------------------------------------------

THRESHOLDS = np.round(np.linspace(0.0, 1.0, 101), 2)
"""Thresholds at which the curves are known."""

REAL, GENERATED, OF_SHUFFLED, UNINFORMATIVE = (
    "real photos", "generated", "shuffled sounds", "uninformative",
)  # fmt: skip
_LOOKS = {
    REAL: ("#3b6ea5", "-"),
    GENERATED: ("#b4632d", "-"),
    OF_SHUFFLED: ("#b4632d", ":"),
    UNINFORMATIVE: ("#777777", "--"),
}
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9")

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


@contextmanager
def _chart(size: tuple[float, float]) -> Iterator[tuple[Chart, Any]]:
    """Yield a chart and its 2 x 3 panels, which a person's own settings do not change."""
    settings: dict[Any, Any] = {
        "svg.hashsalt": "soundsight", "svg.fonttype": "path", "font.family": "DejaVu Sans",
    }  # fmt: skip
    with style.context("default"), matplotlib.rc_context(settings):
        chart = Chart(figsize=size, dpi=110, layout="constrained", facecolor="white")
        yield chart, chart.subplots(2, 3, sharex=True, sharey=True)


def draw_curves(curves: Curves, thresholds: Mapping[str, float], title: str) -> bytes:
    """Draw what share a judge accepts as its threshold moves, a panel a class, as SVG.

    A good judge keeps its curves apart: real photos above, what shows nothing below, and the
    pictures of the right sounds over those of shuffled ones.

    Args:
        curves: what :func:`curves_of` made.
        thresholds: class -> the threshold that was set on val, which is marked.
        title: words over all panels.
    """
    with _chart((10.0, 5.6)) as (chart, grid):
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
        chart.suptitle(title, fontsize=11)
        file = io.BytesIO()
        chart.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def draw_map(
    places: NDArray[np.float64], subjects: Sequence[str], titles: tuple[str, str]
) -> bytes:
    """Draw places [n, 2] of embeddings, a panel a class over all the others, as PNG."""
    of_class = np.asarray(subjects)
    with _chart((10.0, 6.4)) as (chart, grid):
        panels = grid.ravel()
        for panel, subject, colour in zip(panels, SUBJECTS, _COLOURS, strict=False):
            mine = of_class == subject
            panel.scatter(*places[~mine].T, s=3, color="#d9d9d9", linewidths=0)
            panel.scatter(*places[mine].T, s=5, color=colour, alpha=0.7, linewidths=0)
            panels[-1].scatter(*places[mine].T, s=4, color=colour, alpha=0.4, linewidths=0)
            panel.set_title(f"{subject} ({int(mine.sum())})", fontsize=10)
        panels[-1].set_title("all", fontsize=10)
        for panel in grid[1]:
            panel.set_xlabel(titles[0], fontsize=9)
        for panel in grid[:, 0]:
            panel.set_ylabel(titles[1], fontsize=9)
        file = io.BytesIO()
        chart.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
