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

_GAP_PX, _LINE_PX, _TEXT_PX, _TITLE_PX, _LABEL_PX = 6, 18, 12, 13, 90
_MEL_PX = round(IMAGE_PX * FRAMES_PER_SEGMENT / N_MELS)
_ACCEPTED, _REFUSED, _HIDDEN = (46, 160, 67), (120, 120, 120), (222, 140, 40)
_BLACK, _GREY = (20, 20, 20), (90, 90, 90)
_ACROSS_PX, _PAIRS_ACROSS = 1600, 5
_BLIND_ACROSS, _BLIND_PX, _BLIND_LETTERS = 10, 128, 150

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
        mels: uint8 [n, 128, 100], of n ``subjects``.
        runs: a short name, written below its pictures where there are several -> its pictures. A
            green tick marks what is shown and accepted, an amber cross what is not shown.
    """
    tiles = []
    for index, mel in enumerate(mels):
        spectrogram = Image.fromarray(mel).resize((_MEL_PX, IMAGE_PX)).convert("RGB")
        drawn = [_marked(*(of[index] for of in run)) for run in runs.values()]
        tiles.append(_tile([spectrogram, *drawn], ["", *runs] if len(runs) > 1 else ()))
    most = max(1, (_ACROSS_PX - _LABEL_PX) // (tiles[0].width + _GAP_PX))
    return _page(_by_class(tiles, subjects, classes), most, _LABEL_PX)


def nearest_sheet(
    pictures: Levels,
    photos: Levels,
    nearest: NDArray[np.integer],
    distances: NDArray[np.floating],
    seed: int,
    count: int = 20,
) -> Levels:
    """Draw pictures beside the training photos that are nearest to them: the nearest, and others.

    ``nearest`` and ``distances`` [n] are of the pictures uint8 [n, 96, 96, 3]; the seed chooses the
    others. No class is named: a picture of the blind sheet may be among them.
    """
    order = np.argsort(distances, kind="stable")
    # The seconds of a video look alike: each photo is shown beside its nearest picture alone.
    _, once = np.unique(nearest[order], return_index=True)
    chance = np.random.default_rng((seed, len(distances))).permutation(len(distances))
    chosen = {
        "The nearest of all, each photo once: what is copied shows here": order[np.sort(once)],
        "Chosen by the seed": chance,
    }
    blocks = {
        title: [
            _tile(
                [picture(pictures[i]), picture(photos[nearest[i]])],
                [f"distance {distances[i]:.3f}"],
            )
            for i in places[:count]
        ]
        for title, places in chosen.items()
    }
    return _page(blocks, _PAIRS_ACROSS)


def seeds_sheet(rows: Mapping[str, Levels]) -> Levels:
    """Draw several pictures of one sound, uint8 [n, 96, 96, 3], in a row after its class."""
    tiles = {subject: [picture(one) for one in drawn] for subject, drawn in rows.items()}
    return _page(tiles, max(map(len, tiles.values())), _LABEL_PX)


def blind_sheet(pictures: Levels, classes: Sequence[str] = SUBJECTS) -> Levels:
    """Draw pictures uint8 [n, 96, 96, 3] numbered from 1, and nothing that tells a class."""
    tiles = [_tile([picture(p, _BLIND_PX)], [str(n)]) for n, p in enumerate(pictures, start=1)]
    words = f"What is it? For each number: {', '.join(classes)}, or nothing."
    lines: dict[str, list[Image.Image]] = {w: [] for w in textwrap.wrap(words, _BLIND_LETTERS)}
    return _page({"": tiles, **lines}, _BLIND_ACROSS)


def reconstruction_sheet(
    mels: Levels, drawings: Levels, subjects: Sequence[str], errors: NDArray[np.float64]
) -> Levels:
    """Draw log-mels uint8 [n, 128, 100] over their reconstructions, a row a class, errors below."""
    gap = np.full((_GAP_PX, FRAMES_PER_SEGMENT, 3), 255, np.uint8)
    tiles = [
        _tile([picture(np.concatenate([heat()[mel], gap, heat()[made]]))], [f"{error:.3f}"])
        for mel, made, error in zip(mels, drawings, errors, strict=True)
    ]
    return _page(_by_class(tiles, subjects, SUBJECTS), len(tiles), _LABEL_PX)


def _by_class(
    tiles: Sequence[Image.Image], subjects: Sequence[str], classes: Sequence[str]
) -> dict[str, list[Image.Image]]:
    return {
        subject: [tile for tile, of in zip(tiles, subjects, strict=True) if of == subject]
        for subject in classes
        if subject in subjects
    }


def _tile(parts: Sequence[Image.Image], below: Sequence[str] = ()) -> Image.Image:
    """Put pictures of one height side by side, with words below each."""
    width, height = sum(part.width + 2 for part in parts) - 2, parts[0].height
    tile = Image.new("RGB", (width, height + (_LINE_PX if below else 0)), "white")
    left = 0
    for place, part in enumerate(parts):
        tile.paste(part, (left, 0))
        if place < len(below):
            at, room = (left, height + 2), width - left
            write_line(ImageDraw.Draw(tile), at, below[place], _TEXT_PX, _GREY, room)
        left += part.width + 2
    return tile


def _page(blocks: Mapping[str, Sequence[Image.Image]], most: int, label_px: int = 0) -> Levels:
    """Lay out tiles of one size, ``most`` in a row; a title stands at their left, or above them."""
    width, height = next(tiles[0].size for tiles in blocks.values() if tiles)
    across = min(most, max(len(tiles) for tiles in blocks.values()))
    lines = {title: -(-len(tiles) // across) for title, tiles in blocks.items()}
    above = {title: _LINE_PX + _GAP_PX if title and not label_px else 0 for title in blocks}
    tall = sum(lines.values()) * (height + _GAP_PX) + sum(above.values()) + _GAP_PX
    page = Image.new("RGB", (label_px + across * (width + _GAP_PX) + _GAP_PX, tall), "white")
    top = _GAP_PX
    for title, tiles in blocks.items():
        at, room = (_GAP_PX, top), (label_px or page.width) - 2 * _GAP_PX
        write_line(ImageDraw.Draw(page), at, title, _TITLE_PX, _BLACK, room)
        top += above[title]
        for place, tile in enumerate(tiles):
            row, column = divmod(place, across)
            left = label_px + _GAP_PX + column * (width + _GAP_PX)
            page.paste(tile, (left, top + row * (height + _GAP_PX)))
        top += lines[title] * (height + _GAP_PX)
    return np.asarray(page, dtype=np.uint8)


def _marked(levels: Levels, accepted: bool, shown: bool) -> Image.Image:
    """Frame a picture by what became of it; not by colour alone, for red and green may look one."""
    colour = _HIDDEN if not shown else _ACCEPTED if accepted else _REFUSED
    drawn = picture(levels)
    pen = ImageDraw.Draw(drawn)
    pen.rectangle((0, 0, IMAGE_PX - 1, IMAGE_PX - 1), outline=colour, width=2)
    x, y = IMAGE_PX - 20, IMAGE_PX - 12
    if colour == _ACCEPTED:
        pen.line([(x, y), (x + 5, y + 5), (x + 14, y - 8)], fill=colour, width=4)
    elif colour == _HIDDEN:
        pen.line([(x + 1, y - 7), (x + 13, y + 5)], fill=colour, width=4)
        pen.line([(x + 1, y + 5), (x + 13, y - 7)], fill=colour, width=4)
    return drawn


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


def curves_of(scores: Mapping[str, Mapping[str, NDArray[np.floating]]]) -> Curves:
    """Turn scores, kind of picture -> class -> float [n], into curves, class by class."""
    return {
        subject: {
            kind: [float((by_class[subject] >= threshold).mean()) for threshold in THRESHOLDS]
            for kind, by_class in scores.items()
            if len(by_class.get(subject, ()))
        }
        for subject in SUBJECTS
    }


@contextmanager
def _chart(size: tuple[float, float], file: io.BytesIO, **form: Any) -> Iterator[tuple[Chart, Any]]:
    """Yield a chart and its 2 x 3 panels, which a person's own settings do not change; write it."""
    settings: dict[Any, Any] = {
        "svg.hashsalt": "soundsight", "svg.fonttype": "path", "font.family": "DejaVu Sans",
    }  # fmt: skip
    with style.context("default"), matplotlib.rc_context(settings):
        chart = Chart(figsize=size, dpi=110, layout="constrained", facecolor="white")
        yield chart, chart.subplots(2, 3, sharex=True, sharey=True)
        chart.savefig(file, **form)


def draw_curves(curves: Curves, thresholds: Mapping[str, float], title: str) -> bytes:
    """Draw what share a judge accepts as its threshold moves, a panel a class, as SVG.

    ``thresholds`` of each class are those that were set on val, which are marked. A good judge
    keeps its curves apart: real photos above, what shows nothing below, and the pictures of the
    right sounds over those of shuffled ones.
    """
    file, about = io.BytesIO(), {"Date": None, "Creator": None}
    with _chart((10.0, 5.6), file, format="svg", metadata=about) as (chart, grid):
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
    return file.getvalue()


def draw_map(
    places: NDArray[np.float64], subjects: Sequence[str], titles: tuple[str, str]
) -> bytes:
    """Draw places [n, 2] of embeddings, a panel a class over all the others, as PNG."""
    of_class, file = np.asarray(subjects), io.BytesIO()
    with _chart((10.0, 6.4), file, format="png", metadata={"Software": None}) as (_, grid):
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
    return file.getvalue()
