"""Which split a video belongs to: a function of its group's name.

Adding or removing videos moves no other video, on any machine, in any order; save that where a
split would stay empty, a video whose name lies near to it stands in, until one of its own comes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from soundsight.core.errors import ConfigError
from soundsight.data.records import stable_hash

SPLITS = ("train", "val", "test")


def parse_shares(text: str) -> tuple[float, float, float]:
    """Read shares such as ``0.8,0.1,0.1`` (train, val, test; the last may be left out)."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 2:
        numbers.append(0.0)
    fits = len(numbers) == 3 and all(0 <= share <= 1 for share in numbers)
    if not fits or abs(sum(numbers) - 1) > 1e-6:
        raise ConfigError(
            f"--split {text}: three shares that sum to 1 are expected, such as 0.8,0.1,0.1"
        )
    return numbers[0], numbers[1], numbers[2]


def split_of(group: str, shares: Sequence[float]) -> str:
    """Return the split of a group: the place of its name's hash between 0 and 1.

    Args:
        group: name of the group (the YouTube id where it is known).
        shares: of train, val and test; they sum to 1.
    """
    place = _place(group)
    if place < shares[0]:
        return "train"
    # Rounding must not put a group into a split that is asked to be empty.
    return "val" if place < shares[0] + shares[1] or shares[2] == 0 else "test"


def splits_of(
    groups: Iterable[str], shares: Sequence[float], fixed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the split of each group; none that is asked for stays empty where that can be.

    A split whose share no name has met takes the group whose hash lies nearest to it, out of a
    split that keeps another one.

    Args:
        groups: names of all groups, in any order.
        shares: of train, val and test; they sum to 1.
        fixed: group -> the split that its source asks for, where it asks for one.
    """
    fixed = fixed or {}
    found = {group: fixed.get(group) or split_of(group, shares) for group in groups}
    ends = [sum(shares[:k]) for k in range(len(SPLITS) + 1)]
    for split, share, begin, end in zip(SPLITS, shares, ends[:-1], ends[1:], strict=True):
        held = Counter(found.values())
        if not share or held[split]:
            continue
        spare = [group for group in found if group not in fixed and held[found[group]] > 1]
        if spare:
            nearest = min(spare, key=lambda g: (max(begin - _place(g), _place(g) - end), g))
            found[nearest] = split
    return found


def _place(group: str) -> float:
    """Where a name's hash lies between 0 and 1."""
    return stable_hash(f"split {group}") / 2.0**64
