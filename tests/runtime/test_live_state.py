"""What a live view shows: from windows, from levels, and from a clock that the test moves."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from soundsight.core.state import State
from soundsight.runtime import live_state
from soundsight.runtime.events import Event, WindowResult
from soundsight.runtime.live_state import LiveState
from soundsight.views.live_view import LiveView, Look

RATE = 8000
PICTURE = np.full((8, 8, 3), 90, np.uint8)
QUIET, KNOWN, NAMED, NOTHING = State.QUIET, State.PICTURE, State.NAMED, State.NOTHING_RECOGNISABLE


class Scene:
    """A live state, and sound that comes in blocks of 31.25 ms."""

    def __init__(self, *, microphone: bool = False) -> None:
        self.now = 100.0
        self.state = LiveState(
            "the door", -45.0, microphone=microphone, clock=lambda: self.now,
            wall=lambda: datetime(2026, 1, 1, 12) + timedelta(seconds=self.now),
        )  # fmt: skip

    def samples(self, seconds: float, value: float) -> None:
        for _ in range(round(seconds * 32)):
            self.now += 1 / 32
            self.state.take_samples(np.full(RATE // 32, value, np.float32), RATE)

    def sound(self, seconds: float, dbfs: float = -20.0) -> None:
        self.samples(seconds, 10 ** (dbfs / 20))

    def window(self, state: State, event: int | None = 1, repeats: int = 1, **values: Any) -> None:
        given = {
            "start_s": 0.0, "state": state, "level_dbfs": -20.0, "drawing": 1,
            "images": np.stack([PICTURE]) if state is KNOWN else np.zeros((0, 8, 8, 3), np.uint8),
        }  # fmt: skip
        if state.is_known:
            given |= {"confidence": 0.8, "name": "dog"}
        if event is not None and state is not QUIET:
            given["event"] = Event(number=event, began_s=0.0, heard_s=1.0, repeats=repeats)
        self.state.take_window(WindowResult(**{**given, **values}))

    @property
    def view(self) -> LiveView:
        return self.state.view()

    @property
    def titles(self) -> list[str]:
        return [event.title for event in self.view.history]


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def barked(scene: Scene) -> Scene:
    """A dog has barked for a second."""
    scene.sound(1)
    scene.window(KNOWN)
    return scene


def test_before_the_first_second_it_starts_and_a_sound_is_marked_at_once(scene: Scene) -> None:
    for samples in (np.zeros(0, np.int16), np.zeros((0, 2), np.int16)):
        scene.state.take_samples(samples, RATE)
    scene.sound(0.5, -90)
    view = scene.view
    assert (view.look, view.sounding, view.headline) == (Look.STARTING, False, "Starting")
    scene.window(QUIET)
    assert scene.view.look is Look.QUIET
    scene.sound(2 / 32, -20)
    view = scene.view
    assert (view.look, view.sounding) == (Look.SOUND, True)
    assert view.level_dbfs > -30


def test_a_picture_says_what_how_sure_and_since_when(scene: Scene) -> None:
    scene.sound(1)
    scene.window(KNOWN, confidence=0.5)
    view = scene.view
    assert view.look is Look.PICTURE
    assert (view.headline, view.sure, view.marks) == ("Dog?", "perhaps", 1)
    assert view.detail == "since 12:01:40"  # when the event began, not when it was recognised
    scene.window(KNOWN, confidence=0.93, repeats=3)
    view = scene.view
    assert (view.headline, view.sure, view.marks) == ("Dog x3", "quite sure", 3)
    assert view.detail.endswith("3 times")
    assert len(view.history) == 1
    # A window that is not settled changes nothing.
    scene.window(NOTHING, None, settled=False)
    assert scene.view.look is Look.PICTURE


def test_a_picture_stays_for_a_while_and_says_that_it_is_past(barked: Scene) -> None:
    barked.sound(2, -90)
    barked.window(QUIET)
    view = barked.view
    assert (view.look, view.detail) == (Look.PAST, "heard 2 s ago")
    assert view.recognised is not None
    barked.sound(live_state.PAST_S - 2 + 0.1, -90)
    barked.window(QUIET)
    view = barked.view
    assert (view.look, view.recognised) == (Look.QUIET, None)
    assert barked.titles == ["dog"]


def test_an_alert_is_named_and_stays_for_a_while(scene: Scene) -> None:
    scene.sound(1)
    scene.window(NAMED, name="smoke alarm", second_guess="alarm clock", confidence=0.93)
    view = scene.view
    assert (view.look, view.sure) == (Look.NAMED, "quite sure")
    assert view.headline == "Smoke alarm, or: alarm clock"
    assert view.recognised.picture is None
    assert view.recognised.caption == "named, not imagined"
    scene.sound(2, -90)
    scene.window(QUIET)
    assert (scene.view.look, scene.view.headline) == (Look.PAST, view.headline)
    # A surer window of the same event that is a picture takes its place.
    scene.window(KNOWN, confidence=0.95)
    assert scene.view.look is Look.PICTURE
    scene.window(NAMED, name="smoke alarm", confidence=0.9)
    assert (scene.view.look, scene.view.headline) == (Look.PICTURE, "Dog")


def test_an_event_is_what_its_surest_window_says(scene: Scene) -> None:
    """A crying baby must not end as fireworks."""
    scene.sound(1)
    scene.window(KNOWN, name="baby crying", confidence=0.9)
    later = np.full((1, 8, 8, 3), 7, np.uint8)
    scene.window(KNOWN, name="fireworks", confidence=0.6, images=later, repeats=2)
    view = scene.view
    (event,) = view.history
    assert view.headline == "Baby crying x2"
    assert (event.name, event.confidence, event.title) == ("baby crying", 0.9, "baby crying x2")
    assert view.recognised is event
    np.testing.assert_array_equal(event.picture, PICTURE)
    scene.window(KNOWN, name="dog", confidence=0.95, images=later)
    view = scene.view
    assert (view.headline, view.history[0].name, view.sure) == ("Dog", "dog", "quite sure")
    np.testing.assert_array_equal(view.history[0].picture, later[0])


def test_headline_and_history_agree_on_what_is_no_longer_recognised(scene: Scene) -> None:
    scene.sound(1)
    scene.window(KNOWN, confidence=0.6)
    for _ in range(4):
        scene.sound(1)
        scene.window(NOTHING)
        view = scene.view
        assert (view.look, view.headline) == (Look.NOTHING, "Nothing recognisable")
        assert (view.sure, view.marks) == ("", 0)
        assert scene.titles == ["nothing recognisable", "dog"]
    rest, dog = scene.view.history
    assert rest.began - dog.began >= timedelta(seconds=1)  # since it is no longer recognised
    assert dog.lasted_s == pytest.approx(1.0, abs=0.1)
    # Recognised again: it was a dog all the time.
    scene.window(KNOWN, confidence=0.7)
    assert (scene.view.headline, scene.titles) == ("Dog", ["dog"])
    assert scene.view.history[0].lasted_s == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("gone_s", [0.25, 1.0])
def test_the_unrecognisable_end_of_a_sound_is_no_event_and_no_past(
    barked: Scene, gone_s: float
) -> None:
    """A picture that was taken back does not come back as the past."""
    for _ in range(3 if gone_s < 1 else 1):
        barked.sound(gone_s)
        barked.window(NOTHING)
    barked.sound(1.5, -90)
    barked.window(QUIET)
    view = barked.view
    assert (view.look, view.recognised, barked.titles) == (Look.QUIET, None, ["dog"])


@pytest.mark.parametrize("state", [QUIET, KNOWN, NOTHING])
def test_without_sound_it_is_not_listening_within_two_seconds(scene: Scene, state: State) -> None:
    assert live_state.STOPPED_S < 2
    scene.sound(1)
    scene.window(state)
    before = scene.view.look
    scene.now += live_state.STOPPED_S - 0.01
    assert scene.view.look is before
    scene.now += 0.02
    view = scene.view
    assert (view.look, view.headline) == (Look.NOT_LISTENING, "NOT LISTENING")
    assert (view.recognised, view.sounding) == (None, False)


def test_a_gap_stands_in_the_history_with_its_length(barked: Scene) -> None:
    for _ in range(20):
        barked.now += 1
        assert barked.now < 102.5 or barked.view.look is Look.NOT_LISTENING
    barked.sound(1 / 32)
    gap, dog = barked.view.history
    assert (gap.gap, gap.title, dog.title) == (True, "not listening", "dog")
    assert gap.lasted_s == pytest.approx(20, abs=0.1)
    barked.sound(3)
    assert barked.view.history[0].lasted_s == pytest.approx(20, abs=0.1)
    # Also where nobody looked meanwhile.
    barked.now += 10
    barked.sound(1 / 32)
    assert [event.gap for event in barked.view.history] == [True, True, False]


def test_a_reason_is_shown_until_sound_comes_and_after_a_restart_nothing_old(barked: Scene) -> None:
    barked.state.stop("The microphone has gone.")
    view = barked.view
    assert (view.look, view.detail) == (Look.NOT_LISTENING, "The microphone has gone.")
    barked.sound(1 / 32)
    assert barked.view.look is not Look.NOT_LISTENING
    barked.state.restart()
    barked.sound(1 / 32, -90)
    assert barked.view.look is Look.STARTING
    # The new signal counts its events from 1 again: this is another one.
    barked.window(KNOWN, name="water")
    assert [title for title in barked.titles if title != "not listening"] == ["water", "dog"]


def test_a_microphone_that_sends_only_zeros_is_not_listening() -> None:
    scene = Scene(microphone=True)
    scene.sound(1)
    scene.window(KNOWN)
    scene.samples(live_state.ZEROS_S - 0.1, 0)
    scene.window(QUIET)
    assert scene.view.look is not Look.NOT_LISTENING
    scene.samples(0.3, 0)
    for _ in range(8):
        view = scene.view
        assert (view.look, view.headline) == (Look.NOT_LISTENING, "NOT LISTENING")
        assert view.detail == "The microphone sends nothing: is it muted or covered?"
        assert view.recognised is None
        assert [event.gap for event in view.history] == [True, False]  # one gap, not many
        scene.samples(0.5, 0)
        scene.window(QUIET)
    assert scene.view.history[0].lasted_s == pytest.approx(7.2, abs=0.1)  # from the first zero
    one = np.zeros(RATE // 32, np.int16)
    one[-1] = 1
    scene.state.take_samples(one, RATE)
    assert scene.view.look is Look.QUIET
    scene.samples(2.0, 0)
    assert scene.view.look is Look.QUIET


def test_a_file_may_be_silent(scene: Scene) -> None:
    scene.samples(2 * live_state.ZEROS_S, 0)
    scene.window(QUIET)
    view = scene.view
    assert (view.look, view.detail) == (Look.QUIET, "Listening. Nothing loud enough sounds.")
    assert not view.history


def test_levels_of_int16_and_of_floats_agree(scene: Scene) -> None:
    for samples in (np.full(RATE, 0.1, np.float32), np.full((RATE, 2), 3277, np.int16)):
        scene.state.restart()
        scene.state.take_samples(samples, RATE)
        assert scene.view.level_dbfs == pytest.approx(-20, abs=0.01)


def test_the_mark_does_not_flicker_at_the_threshold(scene: Scene) -> None:
    scene.sound(1, -44)
    seen = []
    rng = np.random.default_rng(0)
    for _ in range(320):
        scene.sound(1 / 32, -45 + float(rng.uniform(-1, 1)))
        seen.append(scene.view.sounding)
    assert sum(a != b for a, b in itertools.pairwise(seen)) <= 1


def test_the_history_is_bounded(scene: Scene) -> None:
    for number in range(1, live_state.MOST_HISTORY + 50):
        scene.window(NOTHING, number)
    assert len(scene.view.history) == live_state.MOST_HISTORY
