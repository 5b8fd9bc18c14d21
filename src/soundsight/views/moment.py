"""What a live view shows at a moment: the present in words and a picture, and what was before.

``runtime.watch`` makes moments; ``live_panel`` and ``terminal`` show them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from soundsight.views.story import NOTHING_WORDS, SURENESS, sureness

FAINTEST_DBFS = -80.0
"""Level at which a level bar is empty; it is full at 0."""


class Look(StrEnum):
    """What a live view shows; no two of them may be mistaken for each other."""

    STARTING = "starting"
    NOT_LISTENING = "not_listening"
    QUIET = "quiet"
    SOUND = "sound"
    PICTURE = "picture"
    PAST = "past"
    NOTHING = "nothing"


HEADLINES = {
    Look.STARTING: "Starting",
    Look.NOT_LISTENING: "NOT LISTENING",
    Look.QUIET: "Quiet",
    Look.SOUND: "Something sounds",
    Look.NOTHING: "Nothing recognisable",
}
"""What stands large; a picture has its name there."""

GAP_WORDS = "not listening"


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """Something that was heard, or a time in which nobody listened.

    Attributes:
        began: when.
        lasted_s: for how long, in seconds.
        gap: nobody listened.
        name: what it probably is, in the model's words; may be empty.
        confidence: the highest, in [0, 1]; NaN where it is not known.
        picture: uint8 [px, px, 3]; None where nothing was recognised.
        repeats: how many times it sounded.
    """

    began: datetime
    lasted_s: float
    gap: bool = False
    name: str = ""
    confidence: float = float("nan")
    picture: NDArray[np.uint8] | None = None
    repeats: int = 1

    @property
    def title(self) -> str:
        """What it was, in words."""
        if self.gap:
            return GAP_WORDS
        if self.picture is None:
            return NOTHING_WORDS
        times = f" x{self.repeats}" if self.repeats > 1 else ""
        return (self.name or "a familiar sound") + times

    @property
    def sure(self) -> str:
        """How sure, in words; empty without a picture."""
        return sureness(self.confidence) if self.picture is not None else ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """The present, as a person is to see it.

    Attributes:
        look: which of the states.
        at: what time it is.
        source: what is listened to.
        detail: what there is to say beside the headline; may be empty.
        level_dbfs: the level now, in dB re full scale; -inf while nothing comes.
        sounding: whether something sounds now, from the level alone.
        present: what is shown where ``look`` is ``picture`` or ``past``.
        history: what was heard before, the newest first; ``present`` may be its first.
    """

    look: Look
    at: datetime
    source: str
    detail: str
    level_dbfs: float
    sounding: bool
    present: Past | None
    history: Sequence[Past]

    @property
    def pictured(self) -> bool:
        """Whether there is a picture to show."""
        shows = self.look in (Look.PICTURE, Look.PAST)
        return shows and self.present is not None and self.present.picture is not None

    @property
    def headline(self) -> str:
        """The few words that stand large."""
        if not self.pictured:
            return HEADLINES.get(self.look, HEADLINES[Look.NOTHING])
        assert self.present is not None
        words = self.present.title
        return words[0].upper() + words[1:] + ("?" if self.marks == 1 else "")

    @property
    def sure(self) -> str:
        """How sure, in words; empty without a picture."""
        return self.present.sure if self.pictured and self.present is not None else ""

    @property
    def marks(self) -> int:
        """How sure, as a number of marks out of 3; 0 where nothing is claimed."""
        words = [words for _, words in SURENESS]
        return len(words) - words.index(self.sure) if self.sure else 0

    @property
    def level_share(self) -> float:
        """How full a level bar is, 0 to 1."""
        return min(1.0, max(0.0, 1 - self.level_dbfs / FAINTEST_DBFS))


def how_long(seconds: float) -> str:
    """Write a length as people say it: ``3 s``, ``2 min 5 s``, ``1 h 4 min``."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, secs = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {secs} s"
    return f"{minutes // 60} h {minutes % 60} min"
