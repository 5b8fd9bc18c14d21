"""Events in words and as JSON."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from soundsight.core.state import State
from soundsight.views.drawing import heat
from soundsight.views.events import FileEvents, events_json, sureness
from soundsight.views.pictograms import alert_picture

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("confidence", "words"),
    [
        (1.0, "quite sure"), (0.92, "quite sure"), (0.919, "probably"), (0.7, "probably"),
        (0.699, "perhaps"), (0.0, "perhaps"), (math.nan, ""),
    ],
)  # fmt: skip
def test_how_sure_in_words(confidence: float, words: str) -> None:
    assert sureness(confidence) == words


def test_what_sounds_at_a_time(toy_events: FileEvents) -> None:
    numbers = {0.0: 0, 0.99: 0, 1.0: 1, 2.99: 1, 3.0: 0, 4.5: 1, 5.0: 0, 6.0: 2, 9.5: 3, 11.0: 0}
    for second, number in numbers.items():
        event = toy_events.within(second, second + 1e-9)
        assert (event.number if event else 0) == number, second


def test_words(toy_events: FileEvents, events_of: Make, file_event: Make) -> None:
    assert toy_events.words == "3 events, in 1 of them nothing recognisable"
    assert [event.words for event in toy_events.events] == [
        "dog, probably, 2 times", "nothing recognisable", "water, perhaps",
    ]  # fmt: skip
    assert events_of().words == "quiet from beginning to end"
    assert events_of(file_event(1, (0, 1))).words == "1 event"
    nameless = file_event(1, (0, 1), name="", confidence=math.nan)
    assert nameless.words == "a familiar sound"


def test_an_alert_and_a_second_guess(events_of: Make, file_event: Make) -> None:
    alert = file_event(
        1, (0, 1), state=State.NAMED, name="knock", picture=None, second_guess="drums"
    )
    assert alert.is_known
    assert alert.words == "knock, or: drums, probably"
    assert alert.caption == "named, not imagined"
    shown = alert.shown(64)
    assert shown is not None
    np.testing.assert_array_equal(np.asarray(shown), alert_picture("knock", 64))
    assert events_of(alert).words == "1 event"
    (values,) = json.loads(json.dumps(events_json(events_of(alert))))["events"]
    assert (values["state"], values["picture"], values["second_guess"]) == ("named", None, "drums")
    with _image(values["pictogram"]) as image:
        assert image.info["soundsight"] == "named, not imagined"
    unknown = file_event(1, (0, 1), known=False)
    assert (unknown.shown(64), unknown.is_known) == (None, False)


def _image(address: str) -> Image.Image:
    head, _, data = address.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_json_says_all_of_it(toy_events: FileEvents) -> None:
    values = json.loads(json.dumps(events_json(toy_events), allow_nan=False))
    assert values["format"] == "soundsight-events"
    assert (values["source"], values["seed"], values["duration_s"]) == ("dog.wav", 7, 12.0)
    first, second, third = values["events"]
    assert first["spans"] == [[1.0, 3.0], [4.0, 5.0]]
    assert (first["began_s"], first["ended_s"], first["repeats"]) == (1.0, 5.0, 2)
    assert (third["name"], third["sure"], third["confidence"]) == ("water", "perhaps", 0.65)
    assert (second["state"], second["picture"]) == ("nothing_recognisable", None)
    assert (second["sure"], second["confidence"]) == ("", None)
    with _image(first["picture"]) as image:
        np.testing.assert_array_equal(np.asarray(image), toy_events.events[0].picture)
        assert image.info["soundsight"] == "imagined from sound"
    overview = values["overview"]
    assert len(overview["waveform"]) == 1200
    with _image(overview["mel"]) as image:
        colours = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(colours, heat()[toy_events.overview.mel])
