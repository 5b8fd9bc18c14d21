"""The events of a sound as people see them, in words and as JSON.

``runtime.file_events`` finds the events of a file; ``Recognition`` is what a live event shows, too.
"""

from __future__ import annotations

import base64
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.core.state import State, known
from soundsight.media.overview import Overview
from soundsight.views.drawing import CAPTION, NAMED_CAPTION, heat, picture, png_bytes
from soundsight.views.pictograms import alert_picture

SURENESS: tuple[tuple[float, str], ...] = (
    (0.92, "quite sure"),
    (0.7, "probably"),
    (0.0, "perhaps"),
)
"""How sure, in words, from which confidence on."""

_PICTOGRAM_PX = 192
_FORMAT = "soundsight-events"
_FORMAT_VERSION = 2


@dataclass(kw_only=True, eq=False)
class Recognition:
    """What an event was recognised as.

    Attributes:
        state: ``picture``, ``named`` or ``nothing_recognisable``.
        name: what it probably is, in the model's words; empty without a label head, and where
            nothing is recognised.
        second_guess: what else it may be; empty where nothing else is near.
        confidence: in [0, 1]; NaN where it is not known.
        picture: uint8 [px, px, 3]; None where the state is not ``picture``.
    """

    state: State = State.NOTHING_RECOGNISABLE
    name: str = ""
    second_guess: str = ""
    confidence: float = math.nan
    picture: NDArray[np.uint8] | None = None

    @property
    def is_known(self) -> bool:
        """Whether it is said what it is: by a picture, or by its name alone."""
        return self.state.is_known

    def shown(self, px: int, *, word: bool = True) -> Image.Image | None:
        """Its picture, or its pictogram (with its name: ``word``), px wide; None without either."""
        if self.picture is not None:
            return picture(self.picture, px)
        if self.state is State.NAMED:
            return Image.fromarray(alert_picture(self.name, px, word=word))
        return None

    @property
    def caption(self) -> str:
        """What stands below its picture or pictogram."""
        return NAMED_CAPTION if self.state is State.NAMED else CAPTION

    @property
    def sure(self) -> str:
        """How sure, in words; empty where nothing is recognised or it is not known."""
        return sureness(self.confidence) if self.is_known else ""

    @property
    def title(self) -> str:
        """What it is, in words: its name, or what can be said without one."""
        if not self.is_known:
            return State.NOTHING_RECOGNISABLE.words
        first = self.name or "a familiar sound"
        return f"{first}, or: {self.second_guess}" if self.second_guess else first


@dataclass(kw_only=True, eq=False)
class FileEvent(Recognition):
    """An event of a file. Its confidence is the highest that it reached.

    Attributes:
        number: counts the events of a sound, from 1.
        spans: when it sounded, (began, ended) in seconds, in order; one for each time.
        level_dbfs: the highest level of a second of it, in dB re full scale.
        shown_s: where the second begins that ``name``, ``confidence``, ``mel`` and ``waveform``
            are of: the surest one, or the loudest of those that are full of it where nothing is
            recognised.
        mel: uint8 [128, 100], row 0 the highest band, 255 loud.
        waveform: float32 [100, 2], lowest and highest sample of every 10 ms, full scale 1.
    """

    number: int
    spans: Sequence[tuple[float, float]]
    level_dbfs: float
    shown_s: float
    mel: NDArray[np.uint8]
    waveform: NDArray[np.float32]

    @property
    def began_s(self) -> float:
        """When it began, in seconds."""
        return self.spans[0][0]

    @property
    def ended_s(self) -> float:
        """When it ended for the last time, in seconds."""
        return self.spans[-1][1]

    @property
    def repeats(self) -> int:
        """How many times it sounded."""
        return len(self.spans)

    @property
    def words(self) -> str:
        """All that is said of it in one line, without times."""
        times = f"{self.repeats} times" if self.repeats > 1 else ""
        return ", ".join(part for part in (self.title, self.sure, times) if part)


@dataclass(frozen=True, kw_only=True, eq=False)
class FileEvents:
    """What happened in a sound.

    Attributes:
        source: the file's name, without folders.
        model: the model's name and version.
        seed: the seed of the pictures.
        sensitivity: 0 (only what is loud and sure) to 1.
        overview: the whole sound at a glance.
        events: what sounded, in order; it is quiet between them.
        warnings: warnings about the file, a line each: that it is damaged or cut short, or holds
            several sound tracks.
    """

    source: str
    model: str
    seed: int
    sensitivity: float
    overview: Overview
    events: Sequence[FileEvent]
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
        """How many events there are, and how many of them are not recognised, in one line."""
        count, unknown = len(self.events), len(self.events) - self.known
        if not count:
            return "quiet from beginning to end"
        some = f", in {unknown} of them " if unknown < count else ", "
        words = f"{count} event{'s' if count != 1 else ''}"
        return words + (some + State.NOTHING_RECOGNISABLE.words if unknown else "")

    @cached_property
    def _spans(self) -> list[tuple[float, float, FileEvent]]:
        spans = [(a, b, event) for event in self.events for a, b in event.spans]
        return sorted(spans, key=lambda span: span[0])

    def within(self, begin_s: float, end_s: float) -> FileEvent | None:
        """Return the event that begins last before ``end_s``, where it still sounds at ``begin_s``
        or later; None while it is quiet.
        """
        index = bisect_left(self._spans, end_s, key=lambda span: span[0]) - 1
        if index < 0:
            return None
        began_s, ended_s, event = self._spans[index]
        return event if began_s >= begin_s or ended_s > begin_s else None


def sureness_step(confidence: float) -> int:
    """Count the steps of ``SURENESS`` from 1, the least sure; 0 where it is not known (NaN)."""
    return sum(confidence >= limit for limit, _ in SURENESS)


def sureness(confidence: float) -> str:
    """Say in words how sure a confidence in [0, 1] is; NaN gives no words."""
    return next((words for limit, words in SURENESS if confidence >= limit), "")


# --- JSON ------------------------------------------------------------------------------------


def event_json(event: FileEvent) -> dict[str, Any]:
    """An event for JSON; picture, pictogram and log-mel are PNGs in ``data:`` addresses."""
    texts = {"second": f"{event.shown_s:g}", "state": str(event.state)}
    pictogram = event.shown(_PICTOGRAM_PX) if event.state is State.NAMED else None
    said = {**texts, "soundsight": event.caption}
    return {
        "number": event.number,
        "began_s": round(event.began_s, 3),
        "ended_s": round(event.ended_s, 3),
        "spans": [[round(a, 3), round(b, 3)] for a, b in event.spans],
        "repeats": event.repeats,
        "state": str(event.state),
        "title": event.title,
        "name": event.name,
        "second_guess": event.second_guess,
        "sure": event.sure,
        "confidence": known(event.confidence),
        "level_dbfs": round(event.level_dbfs, 1),
        "shown_s": round(event.shown_s, 3),
        "picture": None if event.picture is None else _png_url(picture(event.picture), texts),
        "pictogram": None if pictogram is None else _png_url(pictogram, said),
        "mel": _mel_url(event.mel),
    }


def overview_json(overview: Overview) -> dict[str, Any]:
    """An overview for JSON; its log-mel, in colours, is a PNG in a ``data:`` address."""
    return {
        "duration_s": round(overview.duration_s, 3),
        "step_s": round(overview.step_s, 3),
        "waveform": [[round(float(a), 4), round(float(b), 4)] for a, b in overview.waveform],
        "mel": _mel_url(overview.mel),
    }


def events_json(found: FileEvents) -> dict[str, Any]:
    """All events of a file for JSON."""
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "source": found.source,
        "model": found.model,
        "seed": found.seed,
        "sensitivity": found.sensitivity,
        "duration_s": round(found.duration_s, 3),
        "words": found.words,
        "warnings": list(found.warnings),
        "overview": overview_json(found.overview),
        "events": [event_json(event) for event in found.events],
    }


def _png_url(image: Image.Image, texts: Mapping[str, str] | None) -> str:
    """A picture in a ``data:`` address; without texts it is not said to be imagined."""
    return f"data:image/png;base64,{base64.b64encode(png_bytes(image, texts)).decode('ascii')}"


def _mel_url(mel: NDArray[np.uint8]) -> str:
    """A log-mel, uint8 [bands, columns], in the sheets' colours."""
    made = Image.fromarray(np.ascontiguousarray(mel))
    made.putpalette(heat().tobytes())
    return _png_url(made, None)
