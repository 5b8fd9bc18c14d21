"""Sheets for people to judge: sounds and pictures, nearest photos, runs side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_PX, N_MELS
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.views.drawing import Color, write_line
from soundsight.views.sheet import picture

MARGIN_PX = 6
MEL_PX = round(IMAGE_PX * FRAMES_PER_SEGMENT / N_MELS)
_LABEL_PX, _WIDE_LABEL_PX, _LINE_PX, _TEXT_PX = 70, 90, 18, 12
_ACCEPTED, _REFUSED, _HIDDEN = (46, 160, 67), (120, 120, 120), (222, 140, 40)
_BLACK, _GREY = (20, 20, 20), (90, 90, 90)
MARKS = (
    "A green tick: shown, and accepted by the judge of its class. An amber cross: the program "
    "would not show it (inaudible, or of no known kind)."
)
"""What the marks on :func:`sheet` and :func:`side_by_side` say."""
_PAIRS_ACROSS = 5
_SOUNDS_ACROSS_PX = 1500
_BLIND_ACROSS, _BLIND_PX, _BLIND_GAP_PX = 10, 128, 10
_BLIND_LETTERS = 150
"""Letters of a line under a blind sheet."""


def sheet(
    mels: NDArray[np.uint8],
    pictures: NDArray[np.uint8],
    accepted: NDArray[np.bool_],
    shown: NDArray[np.bool_],
    subjects: Sequence[str],
    classes: Sequence[str] = SUBJECTS,
) -> NDArray[np.uint8]:
    """Draw log-mel and picture side by side, a row a class.

    Args:
        mels: uint8 [n, 128, 100].
        pictures: uint8 [n, 96, 96, 3].
        accepted: bool [n], what its judge says; a green tick.
        shown: bool [n], whether the program would show it; an amber cross where not.
        subjects: n class names.
        classes: those that there may be, in the order of the rows.

    Returns:
        uint8 [height, width, 3].
    """
    present = [subject for subject in classes if subject in subjects]
    columns = max(list(subjects).count(subject) for subject in present)
    cell = MEL_PX + IMAGE_PX + 2 * MARGIN_PX
    height = len(present) * (IMAGE_PX + MARGIN_PX) + MARGIN_PX
    page = Image.new("RGB", (_LABEL_PX + columns * cell, height), "white")
    pen = ImageDraw.Draw(page)
    for row, subject in enumerate(present):
        top = MARGIN_PX + row * (IMAGE_PX + MARGIN_PX)
        pen.text((MARGIN_PX, top + IMAGE_PX // 2 - 6), subject, fill="black")
        for column, index in enumerate(i for i, s in enumerate(subjects) if s == subject):
            left = _LABEL_PX + column * cell
            _paste_mel(page, mels[index], left, top)
            mark = _mark(accepted[index], shown[index])
            _paste_judged(page, pen, pictures[index], mark, left + MEL_PX, top)
    return np.asarray(page, dtype=np.uint8)


def nearest_sheet(
    blocks: Sequence[tuple[str, Sequence[int]]],
    pictures: NDArray[np.uint8],
    photos: NDArray[np.uint8],
    nearest: NDArray[np.integer],
    distances: NDArray[np.floating],
) -> NDArray[np.uint8]:
    """Draw each picture beside the training photo that is nearest to it.

    No class is named: a picture of the blind sheet may be among them.

    Args:
        blocks: (title, which of the n to show in which order).
        pictures: uint8 [n, 96, 96, 3].
        photos: uint8 [m, 96, 96, 3].
        nearest: for each picture the place of its photo, [n].
        distances: [n], written below.

    Returns:
        uint8 [height, width, 3].
    """
    cell_w, cell_h = 2 * IMAGE_PX + 3 * MARGIN_PX, IMAGE_PX + _LINE_PX + MARGIN_PX
    rows = [-(-len(chosen) // _PAIRS_ACROSS) for _, chosen in blocks]
    height = sum(count * cell_h + _LINE_PX + 2 * MARGIN_PX for count in rows) + MARGIN_PX
    page = Image.new("RGB", (_PAIRS_ACROSS * cell_w + MARGIN_PX, height), "white")
    pen = ImageDraw.Draw(page)
    top = MARGIN_PX
    for (title, chosen), count in zip(blocks, rows, strict=True):
        write_line(pen, (MARGIN_PX, top), title, _TEXT_PX + 1, _BLACK, page.width - 2 * MARGIN_PX)
        top += _LINE_PX + MARGIN_PX
        for place, index in enumerate(chosen):
            row, column = divmod(place, _PAIRS_ACROSS)
            left, upper = MARGIN_PX + column * cell_w, top + row * cell_h
            page.paste(Image.fromarray(pictures[index]), (left, upper))
            page.paste(Image.fromarray(photos[nearest[index]]), (left + IMAGE_PX + 2, upper))
            words = f"distance {distances[index]:.3f}"
            write_line(pen, (left, upper + IMAGE_PX + 2), words, _TEXT_PX, _GREY, 2 * IMAGE_PX)
        top += count * cell_h + MARGIN_PX
    return np.asarray(page, dtype=np.uint8)


def side_by_side(
    mels: NDArray[np.uint8],
    names: Sequence[str],
    pictures: Sequence[NDArray[np.uint8]],
    accepted: Sequence[NDArray[np.bool_]],
    shown: Sequence[NDArray[np.bool_]],
    subjects: Sequence[str],
) -> NDArray[np.uint8]:
    """Draw each sound once and beside it the picture of every run.

    Args:
        mels: uint8 [n, 128, 100].
        names: a short name a run, written over its column.
        pictures: for each run uint8 [n, 96, 96, 3].
        accepted: for each run bool [n], as for :func:`sheet`.
        shown: for each run bool [n], as for :func:`sheet`.
        subjects: n class names.

    Returns:
        uint8 [height, width, 3].
    """
    present = [subject for subject in SUBJECTS if subject in subjects]
    cell = MEL_PX + len(names) * (IMAGE_PX + 2) + 2 * MARGIN_PX
    across = max(1, (_SOUNDS_ACROSS_PX - _LABEL_PX) // cell)
    turns = [[i for i, s in enumerate(subjects) if s == subject] for subject in present]
    across = min(across, max(len(turn) for turn in turns))
    lines = [-(-len(turn) // across) for turn in turns]
    top = _LINE_PX + 2 * MARGIN_PX
    height = top + sum(lines) * (IMAGE_PX + MARGIN_PX) + len(present) * MARGIN_PX
    page = Image.new("RGB", (_LABEL_PX + across * cell, height), "white")
    pen = ImageDraw.Draw(page)
    for column in range(across):
        for run, name in enumerate(names):
            left = _LABEL_PX + column * cell + MEL_PX + 2 + run * (IMAGE_PX + 2)
            write_line(pen, (left, MARGIN_PX), name, _TEXT_PX + 1, _BLACK, IMAGE_PX)
    for subject, turn, count in zip(present, turns, lines, strict=True):
        pen.text((MARGIN_PX, top + IMAGE_PX // 2 - 6), subject, fill="black")
        for place, index in enumerate(turn):
            row, column = divmod(place, across)
            left, upper = _LABEL_PX + column * cell, top + row * (IMAGE_PX + MARGIN_PX)
            _paste_mel(page, mels[index], left, upper)
            for run, drawn in enumerate(pictures):
                x = left + MEL_PX + 2 + run * (IMAGE_PX + 2)
                mark = _mark(accepted[run][index], shown[run][index])
                _paste_judged(page, pen, drawn[index], mark, x, upper)
        top += count * (IMAGE_PX + MARGIN_PX) + MARGIN_PX
    return np.asarray(page, dtype=np.uint8)


def seeds_sheet(
    rows: Sequence[tuple[str, NDArray[np.uint8]]],
) -> NDArray[np.uint8]:
    """Draw several pictures of one sound in a row, with its class before them.

    Args:
        rows: class name and pictures uint8 [n, 96, 96, 3], the same n.

    Returns:
        uint8 [height, width, 3].
    """
    cell = IMAGE_PX + MARGIN_PX
    size = (_WIDE_LABEL_PX + len(rows[0][1]) * cell, len(rows) * cell + MARGIN_PX)
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    for row, (subject, pictures) in enumerate(rows):
        top = MARGIN_PX + row * cell
        pen.text((MARGIN_PX, top + IMAGE_PX // 2 - 6), subject, fill="black")
        for column, drawn in enumerate(pictures):
            page.paste(Image.fromarray(drawn), (_WIDE_LABEL_PX + column * cell, top))
    return np.asarray(page, dtype=np.uint8)


def blind_sheet(
    pictures: NDArray[np.uint8], classes: Sequence[str] = SUBJECTS
) -> NDArray[np.uint8]:
    """Draw pictures in their order, numbered from 1, and nothing that tells a class.

    Args:
        pictures: uint8 [n, 96, 96, 3].
        classes: what a picture may show.

    Returns:
        uint8 [height, width, 3].
    """
    cell_w, cell_h = _BLIND_PX + _BLIND_GAP_PX, _BLIND_PX + _LINE_PX + _BLIND_GAP_PX
    rows = -(-len(pictures) // _BLIND_ACROSS)
    words = f"What is it? For each number: {', '.join(classes)}, or nothing."
    said = textwrap.wrap(words, _BLIND_LETTERS)
    foot = (1 + len(said)) * _LINE_PX
    size = (_BLIND_ACROSS * cell_w + _BLIND_GAP_PX, rows * cell_h + _BLIND_GAP_PX + foot)
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    for index, drawn in enumerate(pictures):
        row, column = divmod(index, _BLIND_ACROSS)
        left, top = _BLIND_GAP_PX + column * cell_w, _BLIND_GAP_PX + row * cell_h
        page.paste(picture(drawn, _BLIND_PX), (left, top))
        write_line(pen, (left, top + _BLIND_PX + 1), str(index + 1), 14, _BLACK, _BLIND_PX)
    for row, line in enumerate(said):
        top = page.height - foot + row * _LINE_PX
        write_line(pen, (_BLIND_GAP_PX, top), line, 15, _BLACK, page.width)
    return np.asarray(page, dtype=np.uint8)


def _paste_mel(page: Image.Image, mel: NDArray[np.uint8], left: int, top: int) -> None:
    made = Image.fromarray(mel).resize((MEL_PX, IMAGE_PX))
    page.paste(made.convert("RGB"), (left, top))


def _mark(accepted: bool | np.bool_, shown: bool | np.bool_) -> Color:
    if not shown:
        return _HIDDEN
    return _ACCEPTED if accepted else _REFUSED


def _paste_judged(
    page: Image.Image,
    pen: ImageDraw.ImageDraw,
    drawn: NDArray[np.uint8],
    mark: Color,
    left: int,
    top: int,
) -> None:
    page.paste(Image.fromarray(drawn), (left, top))
    box = (left, top, left + IMAGE_PX - 1, top + IMAGE_PX - 1)
    pen.rectangle(box, outline=mark, width=2)
    x, y = left + IMAGE_PX - 20, top + IMAGE_PX - 12
    # Not by colour alone: red and green are one to many eyes.
    if mark == _ACCEPTED:
        pen.line([(x, y), (x + 5, y + 5), (x + 14, y - 8)], fill=mark, width=4)
    elif mark == _HIDDEN:
        pen.line([(x + 1, y - 7), (x + 13, y + 5)], fill=mark, width=4)
        pen.line([(x + 1, y + 5), (x + 13, y - 7)], fill=mark, width=4)
