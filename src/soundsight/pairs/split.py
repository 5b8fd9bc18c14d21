"""Which split a video belongs to: a function of its group's name alone.

Adding or removing videos moves no other video, on any machine, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence

from soundsight.core.errors import ConfigError
from soundsight.pairs.records import stable_hash

SPLITS = ("train", "val", "test")


def parse_shares(text: str) -> tuple[float, float, float]:
    """Read shares such as ``0.8,0.1,0.1`` (train, val, test; the last may be left out).

    Raises:
        ConfigError: when they are no three numbers from 0 to 1 that sum to 1.
    """
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
    place = stable_hash(f"split {group}") / 2.0**64
    if place < shares[0]:
        return "train"
    # Rounding must not put a group into a split that is asked to be empty.
    return "val" if place < shares[0] + shares[1] or shares[2] == 0 else "test"
