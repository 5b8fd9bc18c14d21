"""What a storyboard tells: the events of a sound, its overview, and both as JSON.

``runtime.file_events`` tells a story; ``storyboard``, ``film`` and ``story_page`` show it.
"""

from __future__ import annotations

import base64
import io
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.media.overview import Overview
from soundsight.views.drawing import heat
from soundsight.views.pictograms import alert_picture
from soundsight.views.sheet import CAPTION, NAMED_CAPTION, picture, png_bytes

PICTURE = "picture"
NAMED = "named"
NOTHING_RECOGNISABLE = "nothing_recognisable"
QUIET = "quiet"
"""The states of ``core.state.State``, which lies to the right of this room."""

NOTHING_WORDS = "nothing recognisable"

SURENESS: tuple[tuple[float, str], ...] = (
    (0.92, "quite sure"),
    (0.7, "probably"),
    (0.0, "perhaps"),
)
"""How sure, in words, from which confidence on."""

_PICTOGRAM_PX = 192
_FORMAT = "soundsight-story"
_FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class StoryEvent:
    """Something that sounded.

    Attributes:
        number: counts the events of a sound, from 1.
        spans: when it sounded, (began, ended) in seconds, in order; one for each time.
        state: ``picture``, ``named`` or ``nothing_recognisable``.
        name: what it probably is, in the model's words; empty without names, and where nothing is
            recognised.
        second_guess: what else it may be; empty where nothing else is near.
        confidence: the highest, in [0, 1]; NaN where the model cannot tell.
        level_dbfs: the highest level of a second of it, in dB re full scale.
        moment_s: where the second begins that ``name``, ``confidence``, ``mel`` and ``waveform``
            are of: the surest one, or the loudest of those that are full of it where nothing is
            recognised.
        picture: uint8 [px, px, 3]; None where the state is not ``picture``.
        mel: uint8 [128, 100], row 0 the highest band, 255 loud.
        waveform: float32 [100, 2], lowest and highest sample of every 10 ms, full scale 1.
    """

    number: int
    spans: Sequence[tuple[float, float]]
    state: str
    name: str
    confidence: float
    level_dbfs: float
    moment_s: float
    picture: NDArray[np.uint8] | None
    mel: NDArray[np.uint8]
    waveform: NDArray[np.float32]
    second_guess: str = ""

    @property
    def is_known(self) -> bool:
        """Whether it is said what it is: by a picture, or by its name alone."""
        return self.state in (PICTURE, NAMED)

    def shown(self, px: int) -> Image.Image | None:
        """What stands for it, with sides of ``px``: its picture or its pictogram, or nothing."""
        if self.picture is not None:
            return picture(self.picture, px)
        if self.state == NAMED:
            return Image.fromarray(alert_picture(self.name, px))
        return None

    @property
    def caption(self) -> str:
        """What is said below that."""
        return NAMED_CAPTION if self.state == NAMED else CAPTION

    @property
    def began_s(self) -> float:
        """When it was first heard, in seconds."""
        return self.spans[0][0]

    @property
    def ended_s(self) -> float:
        """When it was last heard, in seconds."""
        return self.spans[-1][1]

    @property
    def repeats(self) -> int:
        """How many times it sounded."""
        return len(self.spans)

    @property
    def sure(self) -> str:
        """How sure, in words; empty where nothing is recognised or the model cannot tell."""
        return sureness(self.confidence) if self.is_known else ""

    @property
    def title(self) -> str:
        """What it is, in words: its name, or what can be said without one."""
        return title_of(self.name, self.second_guess) if self.is_known else NOTHING_WORDS

    @property
    def words(self) -> str:
        """All that is said of it in one line, without times."""
        times = f"{self.repeats} times" if self.repeats > 1 else ""
        return ", ".join(part for part in (self.title, self.sure, times) if part)


@dataclass(frozen=True, kw_only=True, eq=False)
class Story:
    """What happened in a sound.

    Attributes:
        source: the file's name, without folders.
        model: the model's name and version.
        seed: the seed of the pictures.
        sensitivity: 0 (only what is loud and sure) to 1.
        overview: the whole sound at a glance.
        events: what sounded, in order; it is quiet between them.
        warnings: what is to be told of the file, a line each: that it is damaged or cut short, or
            holds several sound tracks.
    """

    source: str
    model: str
    seed: int
    sensitivity: float
    overview: Overview
    events: Sequence[StoryEvent]
    warnings: Sequence[str] = ()

    @property
    def duration_s(self) -> float:
        """Length of the sound, in seconds."""
        return self.overview.duration_s

    @property
    def known(self) -> int:
        """How many events are recognised."""
        return sum(event.is_known for event in self.events)

    @property
    def words(self) -> str:
        """The story in one line."""
        if not self.events:
            return "quiet from beginning to end"
        count = len(self.events)
        unknown = count - self.known
        told = f"{count} event{'s' if count != 1 else ''}"
        if not unknown:
            return told
        if not self.known:
            return f"{told}, {NOTHING_WORDS}"
        return f"{told}, in {unknown} of them {NOTHING_WORDS}"

    @cached_property
    def _spans(self) -> list[tuple[float, float, StoryEvent]]:
        spans = [(a, b, event) for event in self.events for a, b in event.spans]
        return sorted(spans, key=lambda span: span[0])

    @cached_property
    def _beginnings(self) -> list[float]:
        return [span[0] for span in self._spans]

    def at(self, second: float) -> StoryEvent | None:
        """Return what sounds at a time in seconds; None while it is quiet."""
        index = bisect_right(self._beginnings, second) - 1
        if index < 0 or second >= self._spans[index][1]:
            return None
        return self._spans[index][2]

    def within(self, begin_s: float, end_s: float) -> StoryEvent | None:
        """Return what begins last in a stretch of time; else what sounds at its beginning."""
        index = bisect_left(self._beginnings, end_s) - 1
        if index >= 0 and self._beginnings[index] >= begin_s:
            return self._spans[index][2]
        return self.at(begin_s)


def title_of(name: str, second_guess: str = "") -> str:
    """Say what a recognised sound is, in words."""
    first = name or "a familiar sound"
    return f"{first}, or: {second_guess}" if second_guess else first


def sureness_step(confidence: float) -> int:
    """Count the steps of ``SURENESS`` from 1, the least sure; 0 where it is not known (NaN)."""
    return sum(confidence >= limit for limit, _ in SURENESS)


def sureness(confidence: float) -> str:
    """Say in words how sure a confidence in [0, 1] is; NaN gives no words."""
    if math.isnan(confidence):
        return ""
    return next(words for limit, words in SURENESS if confidence >= limit)


# --- JSON ------------------------------------------------------------------------------------


def event_json(event: StoryEvent) -> dict[str, Any]:
    """An event for JSON; picture, pictogram and log-mel are PNGs in ``data:`` addresses."""
    return {
        "number": event.number,
        "began_s": round(event.began_s, 3),
        "ended_s": round(event.ended_s, 3),
        "spans": [[round(a, 3), round(b, 3)] for a, b in event.spans],
        "repeats": event.repeats,
        "state": event.state,
        "title": event.title,
        "name": event.name,
        "second_guess": event.second_guess,
        "sure": event.sure,
        "confidence": None if math.isnan(event.confidence) else round(event.confidence, 4),
        "level_dbfs": round(event.level_dbfs, 1),
        "moment_s": round(event.moment_s, 3),
        "picture": None if event.picture is None else data_url(_picture_png(event)),
        "pictogram": data_url(_pictogram_png(event)) if event.state == NAMED else None,
        "mel": data_url(mel_png(event.mel)),
    }


def overview_json(overview: Overview) -> dict[str, Any]:
    """An overview for JSON; its log-mel, in colours, is a PNG in a ``data:`` address."""
    return {
        "duration_s": round(overview.duration_s, 3),
        "step_s": round(overview.step_s, 3),
        "waveform": [[round(float(a), 4), round(float(b), 4)] for a, b in overview.waveform],
        "mel": data_url(mel_png(overview.mel)),
    }


def story_json(story: Story) -> dict[str, Any]:
    """The whole story for JSON."""
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "source": story.source,
        "model": story.model,
        "seed": story.seed,
        "sensitivity": story.sensitivity,
        "duration_s": round(story.duration_s, 3),
        "words": story.words,
        "warnings": list(story.warnings),
        "overview": overview_json(story.overview),
        "events": [event_json(event) for event in story.events],
    }


def data_url(content: bytes, media_type: str = "image/png") -> str:
    """Put bytes into a ``data:`` address."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def _picture_png(event: StoryEvent) -> bytes:
    """A PNG that says that it is imagined."""
    assert event.picture is not None
    return png_bytes(event.picture, {"second": f"{event.moment_s:g}", "state": event.state})


def _pictogram_png(event: StoryEvent) -> bytes:
    """A PNG that says that nothing is imagined."""
    texts = {"second": f"{event.moment_s:g}", "state": event.state, "soundsight": NAMED_CAPTION}
    return png_bytes(alert_picture(event.name, _PICTOGRAM_PX), texts)


def mel_png(mel: NDArray[np.uint8]) -> bytes:
    """Encode a log-mel, uint8 [bands, columns], as a PNG in the sheets' colours."""
    made = Image.fromarray(np.ascontiguousarray(mel))
    made.putpalette(heat().tobytes())
    buffer = io.BytesIO()
    made.save(buffer, format="PNG")
    return buffer.getvalue()
