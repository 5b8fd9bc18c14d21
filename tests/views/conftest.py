"""Toy events for the views of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from soundsight.core.state import State
from soundsight.media.overview import Overview
from soundsight.views.events import FileEvent, FileEvents

Make = Callable[..., Any]

COLOURS = ((220, 40, 40), (40, 200, 60), (60, 80, 230))


@pytest.fixture(scope="session")
def file_event() -> Make:
    """(number, *spans, known=True, **values) -> an event."""

    def make(
        number: int, *spans: tuple[float, float], known: bool = True, **values: object
    ) -> FileEvent:
        given = {
            "number": number,
            "spans": spans,
            "state": State.PICTURE if known else State.NOTHING_RECOGNISABLE,
            "name": "dog" if known else "",
            "confidence": 0.8 if known else math.nan,
            "level_dbfs": -20.0,
            "shown_s": spans[0][0],
            "picture": np.full((96, 96, 3), COLOURS[number % 3 - 1], np.uint8) if known else None,
            "mel": np.random.default_rng(number).integers(0, 256, (128, 100), dtype=np.uint8),
            "waveform": np.full((100, 2), (-0.5, 0.5), np.float32),
        }
        return FileEvent(**{**given, **values})  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def events_of() -> Make:
    """(*events, duration_s=12, source="dog.wav") -> the events of a file."""

    def make(*events: FileEvent, duration_s: float = 12.0, source: str = "dog.wav") -> FileEvents:
        columns, step_s = round(100 * duration_s), 0.01
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

    return make


@pytest.fixture(scope="session")
def toy_events(file_event: Make, events_of: Make) -> FileEvents:
    """Red from 1 to 3 s and from 4 to 5 s, nothing recognisable from 6 to 8 s, blue at 9 to 10."""
    return events_of(
        file_event(1, (1.0, 3.0), (4.0, 5.0)),
        file_event(2, (6.0, 8.0), known=False),
        file_event(3, (9.0, 10.0), name="water", confidence=0.65),
    )
