"""Which seconds are measured and which are shown: by the seed, never by the score."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from soundsight.data.vegas.bench import SUBJECTS, Pair

_MEASURED, _SHOWN, _BLIND = 2, 3, 4
"""Keep the draws for several purposes apart."""


def measured_seconds(
    pairs: Sequence[Pair],
    limit: int | None,
    seed: int,
    classes: Sequence[str] = SUBJECTS,
) -> list[Pair]:
    """Return the seconds to be measured, in the table's order: all, or ``limit`` a class.

    A limit takes seconds of as many videos as it can.
    """
    if limit is None:
        return list(pairs)
    kept = set(_of_each(pairs, limit, seed, _MEASURED, (), classes))
    return [pair for index, pair in enumerate(pairs) if index in kept]


def shown_seconds(
    pairs: Sequence[Pair], per_class: int, seed: int, classes: Sequence[str] = SUBJECTS
) -> list[int]:
    """Return the places of the seconds for the sheet, class by class, a video once if it can be."""
    return _of_each(pairs, per_class, seed, _SHOWN, (), classes)


def blind_seconds(
    pairs: Sequence[Pair],
    per_class: int,
    seed: int,
    known: Collection[int],
    classes: Sequence[str] = SUBJECTS,
) -> list[int]:
    """Return the places of the seconds for the blind sheet, in random order.

    Args:
        pairs: all that are measured.
        per_class: seconds a class, fewer where there are no more.
        seed: of choice and order.
        known: places whose pictures are shown elsewhere with their class; they are left out.
        classes: the class names.
    """
    chosen = _of_each(pairs, per_class, seed, _BLIND, known, classes)
    order = np.random.default_rng((seed, _BLIND)).permutation(len(chosen))
    return [chosen[place] for place in order]


def _of_each(
    pairs: Sequence[Pair],
    count: int,
    seed: int,
    purpose: int,
    without: Collection[int],
    classes: Sequence[str],
) -> list[int]:
    chosen: list[int] = []
    for number, subject in enumerate(classes):
        chosen += _spread(pairs, subject, count, (seed, number, purpose), without)
    return chosen


def _spread(
    pairs: Sequence[Pair],
    subject: str,
    count: int,
    seed: tuple[int, ...],
    without: Collection[int],
) -> list[int]:
    """Choose ``count`` places in ``pairs`` of a class at random, one a video while they last."""
    rng = np.random.default_rng(seed)
    left = set(without)
    mine = [
        i
        for i in rng.permutation(len(pairs)).tolist()
        if pairs[i].subject == subject and i not in left
    ]
    seen: dict[str, int] = {}
    turns = []
    for index in mine:
        turns.append(seen.get(pairs[index].video, 0))
        seen[pairs[index].video] = turns[-1] + 1
    return [mine[k] for k in np.argsort(turns, kind="stable")[:count]]
