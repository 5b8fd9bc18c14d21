"""toy events for the views of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from soundsight.core.state import State
from soundsight.media.overview import Overview
from soundsight.views.events import FileEvent, FileEvents

COLOURS = ((220, 40, 40), (40, 200, 60), (60, 80, 230))


def make_event(
    number: int, *spans: tuple[float, float], known: bool = True, **values: object
) -> FileEvent:
    rng = np.random.default_rng(number)
    colour = COLOURS[(number - 1) % len(COLOURS)]
    given = {
        "number": number,
        "spans": spans,
        "state": State.PICTURE if known else State.NOTHING_RECOGNISABLE,
        "name": "dog" if known else "",
        "confidence": 0.8 if known else math.nan,
        "level_dbfs": -20.0,
        "shown_s": spans[0][0],
        "picture": np.full((96, 96, 3), colour, np.uint8) if known else None,
        "mel": rng.integers(0, 256, (128, 100), dtype=np.uint8),
        "waveform": np.stack([-np.ones(100), np.ones(100)], axis=1).astype(np.float32) * 0.5,
    }
    return FileEvent(**{**given, **values})  # type: ignore[arg-type]


def make_events(
    events: list[FileEvent], duration_s: float = 12.0, source: str = "dog.wav"
) -> FileEvents:
    columns = round(100 * duration_s)
    step_s = 0.01
    while columns >= 4096:
        columns, step_s = -(-columns // 2), 2 * step_s
    rng = np.random.default_rng(0)
    height = rng.uniform(0.1, 0.5, columns).astype(np.float32)
    overview = Overview(
        duration_s=duration_s,
        step_s=step_s,
        waveform=np.stack([-height, height], axis=1),
        mel=rng.integers(0, 256, (128, columns), dtype=np.uint8),
    )
    return FileEvents(
        source=source, model="toy 1", seed=7, sensitivity=0.5, overview=overview, events=events
    )


@pytest.fixture(scope="session")
def file_event() -> Callable[..., FileEvent]:
    """(number, *spans, known=True, **values) -> an event."""
    return make_event


@pytest.fixture(scope="session")
def events_of() -> Callable[..., FileEvents]:
    """(events, duration_s=12, source="dog.wav") -> the events of a file."""
    return make_events


@pytest.fixture
def toy_events() -> FileEvents:
    """Red from 1 to 3 s and from 4 to 5 s, nothing recognisable from 6 to 8 s, blue at 9 to 10."""
    return make_events(
        [
            make_event(1, (1.0, 3.0), (4.0, 5.0)),
            make_event(2, (6.0, 8.0), known=False),
            make_event(3, (9.0, 10.0), name="water", confidence=0.65),
        ]
    )
