"""What a live view shows at a moment: the present in words and a picture, and what was before.

``runtime.live_state`` makes moments; ``live_panel`` and ``terminal`` show them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.views.events import NOTHING_WORDS, sureness, sureness_step, title_of
from soundsight.views.pictograms import alert_picture
from soundsight.views.sheet import CAPTION, NAMED_CAPTION, picture

FAINTEST_DBFS = -80.0
"""Level at which a level bar is empty; it is full at 0."""


class Look(StrEnum):
    """What a live view shows; no two of them may be mistaken for each other."""

    STARTING = "starting"
    NOT_LISTENING = "not_listening"
    QUIET = "quiet"
    SOUND = "sound"
    PICTURE = "picture"
    NAMED = "named"
    PAST = "past"
    NOTHING = "nothing"


HEADLINES = {
    Look.STARTING: "Starting",
    Look.NOT_LISTENING: "NOT LISTENING",
    Look.QUIET: "Quiet",
    Look.SOUND: "Something sounds",
    Look.NOTHING: "Nothing recognisable",
}
"""What stands large; what is recognised has its name there."""

GAP_WORDS = "not listening"


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """Something that was heard, or a time in which nobody listened.

    Attributes:
        began: when.
        lasted_s: for how long, in seconds.
        gap: nobody listened.
        name: what it probably is, in the model's words; may be empty.
        second_guess: what else it may be; may be empty.
        confidence: the highest, in [0, 1]; NaN where it is not known.
        picture: uint8 [px, px, 3]; None where it has none.
        named: it was an alert: recognised, and nothing imagined.
        repeats: how many times it sounded.
    """

    began: datetime
    lasted_s: float
    gap: bool = False
    name: str = ""
    second_guess: str = ""
    confidence: float = float("nan")
    picture: NDArray[np.uint8] | None = None
    named: bool = False
    repeats: int = 1

    @property
    def is_known(self) -> bool:
        """Whether it was recognised."""
        return self.named or self.picture is not None

    def shown(self, px: int, *, word: bool = False) -> Image.Image | None:
        """What stands for it, with sides of ``px``: its picture or its pictogram, or nothing.

        Args:
            word: write a pictogram's name into it.
        """
        if self.picture is not None:
            return picture(self.picture, px)
        return Image.fromarray(alert_picture(self.name, px, word=word)) if self.named else None

    @property
    def caption(self) -> str:
        """What is said below that."""
        return NAMED_CAPTION if self.named else CAPTION

    @property
    def title(self) -> str:
        """What it was, in words."""
        if self.gap:
            return GAP_WORDS
        if not self.is_known:
            return NOTHING_WORDS
        times = f" x{self.repeats}" if self.repeats > 1 else ""
        return title_of(self.name, self.second_guess) + times

    @property
    def sure(self) -> str:
        """How sure, in words; empty where nothing was recognised."""
        return sureness(self.confidence) if self.is_known else ""


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
        present: what is shown where ``look`` is ``picture``, ``named`` or ``past``.
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
    def recognised(self) -> Past | None:
        """What there is to show by its picture or pictogram; None where there is nothing."""
        shows = self.look in (Look.PICTURE, Look.NAMED, Look.PAST)
        return (
            self.present if shows and self.present is not None and self.present.is_known else None
        )

    @property
    def headline(self) -> str:
        """The few words that stand large."""
        if self.recognised is None:
            return HEADLINES.get(self.look, HEADLINES[Look.NOTHING])
        words = self.recognised.title
        return words[0].upper() + words[1:] + ("?" if self.marks == 1 else "")

    @property
    def sure(self) -> str:
        """How sure, in words; empty where nothing is recognised."""
        return "" if self.recognised is None else self.recognised.sure

    @property
    def marks(self) -> int:
        """How sure, as a number of marks out of 3; 0 where nothing is claimed."""
        return 0 if self.recognised is None else sureness_step(self.recognised.confidence)

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
