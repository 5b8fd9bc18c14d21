"""What a live view shows: from windows, from levels, and from a clock that the test moves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pytest

from soundsight.core.state import State
from soundsight.runtime import live_state as watching
from soundsight.runtime.events import Event, Heard
from soundsight.runtime.live_state import Watch
from soundsight.views.live_view import Look, Moment

RATE = 8000
PICTURE = np.full((8, 8, 3), 90, np.uint8)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, 12) + timedelta(seconds=self.now)


class Scene:
    """A watch, and sound that comes in blocks of 31.25 ms."""

    def __init__(self, *, microphone: bool = False) -> None:
        self.clock = Clock()
        self.watch = Watch(
            "the door",
            -45.0,
            microphone=microphone,
            clock=lambda: self.clock.now,
            wall=lambda: self.clock.wall(),
        )

    def sound(self, seconds: float, dbfs: float = -20.0) -> None:
        level = 10 ** (dbfs / 20)
        for _ in range(round(seconds * 32)):
            self.clock.now += 1 / 32
            self.watch.block(np.full(RATE // 32, level, np.float32), RATE)

    def hear(self, state: State, event: int | None = None, **values: object) -> None:
        at = {"number": event, "began_s": 0.0, "heard_s": 1.0, "repeats": values.pop("repeats", 1)}
        pictured = state is State.PICTURE
        given = {
            "start_s": 0.0,
            "settled": True,
            "state": state,
            "images": np.stack([PICTURE]) if pictured else np.zeros((0, 8, 8, 3), np.uint8),
            "level_dbfs": -20.0,
            "familiarity": 0.9,
            "drawing": 1,
            "confidence": 0.8 if state.is_known else math.nan,
            "name": "dog" if state.is_known else "",
            "second_guess": "",
            "event": None if event is None else Event(**at),  # type: ignore[arg-type]
        }
        self.watch.hear(Heard(**{**given, **values}))  # type: ignore[arg-type]

    @property
    def moment(self) -> Moment:
        return self.watch.moment()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_before_the_first_second_it_starts(scene: Scene) -> None:
    scene.sound(0.5, -90)
    moment = scene.moment
    assert (moment.look, moment.sounding, moment.headline) == (Look.STARTING, False, "Starting")


def test_a_sound_is_marked_at_once(scene: Scene) -> None:
    scene.sound(0.5, -90)
    scene.hear(State.QUIET)
    assert scene.moment.look is Look.QUIET
    scene.sound(2 / 32, -20)
    moment = scene.moment
    assert moment.sounding
    assert moment.look is Look.SOUND
    assert moment.level_dbfs > -30


def test_a_picture_says_what_how_sure_and_since_when(scene: Scene) -> None:
    scene.sound(1)
    scene.hear(State.PICTURE, 1, confidence=0.5)
    moment = scene.moment
    assert moment.look is Look.PICTURE
    assert moment.recognised is not None
    assert (moment.headline, moment.sure, moment.marks) == ("Dog?", "perhaps", 1)
    assert moment.detail == "since 12:01:40"  # when the event began, not when it was told
    scene.hear(State.PICTURE, 1, confidence=0.93, repeats=3)
    moment = scene.moment
    assert (moment.headline, moment.sure, moment.marks) == ("Dog x3", "quite sure", 3)
    assert moment.detail.endswith("3 times")
    assert len(moment.history) == 1


def test_a_picture_stays_for_a_while_and_says_that_it_is_past(scene: Scene) -> None:
    scene.sound(1)
    scene.hear(State.PICTURE, 1)
    scene.sound(2, -90)
    scene.hear(State.QUIET)
    moment = scene.moment
    assert (moment.look, moment.detail) == (Look.PAST, "heard 2 s ago")
    assert moment.recognised is not None
    scene.sound(watching.PAST_S - 2 + 0.1, -90)
    scene.hear(State.QUIET)
    moment = scene.moment
    assert (moment.look, moment.recognised, moment.present) == (Look.QUIET, None, None)
    assert [past.title for past in moment.history] == ["dog"]


def test_an_alert_is_named_and_stays_for_a_while(scene: Scene) -> None:
    scene.sound(1)
    scene.hear(State.NAMED, 1, name="smoke alarm", second_guess="alarm clock", confidence=0.93)
    moment = scene.moment
    assert (moment.look, moment.sure) == (Look.NAMED, "quite sure")
    assert moment.headline == "Smoke alarm, or: alarm clock"
    assert moment.recognised is not None
    assert moment.recognised.picture is None
    assert moment.recognised.caption == "named, not imagined"
    scene.sound(2, -90)
    scene.hear(State.QUIET)
    assert (scene.moment.look, scene.moment.headline) == (Look.PAST, moment.headline)
    # A surer moment of the same event that is a picture takes its place.
    scene.hear(State.PICTURE, 1, confidence=0.95)
    assert scene.moment.look is Look.PICTURE
    scene.hear(State.NAMED, 1, name="smoke alarm", confidence=0.9)
    assert (scene.moment.look, scene.moment.headline) == (Look.PICTURE, "Dog")


def test_what_is_of_no_known_kind_is_not_quiet(scene: Scene) -> None:
    scene.sound(1)
    scene.hear(State.NOTHING_RECOGNISABLE, 1)
    moment = scene.moment
    assert (moment.look, moment.headline) == (Look.NOTHING, "Nothing recognisable")
    assert moment.history[0].title == "nothing recognisable"
    assert (moment.sure, moment.marks) == ("", 0)


def test_a_picture_that_was_taken_back_does_not_come_back_as_the_past(scene: Scene) -> None:
    scene.sound(1)
    scene.hear(State.PICTURE, 1)
    scene.sound(1)
    scene.hear(State.NOTHING_RECOGNISABLE, 1)
    scene.sound(1.5, -90)
    scene.hear(State.QUIET)
    moment = scene.moment
    assert (moment.look, moment.recognised) == (Look.QUIET, None)
    assert [past.title for past in moment.history] == ["dog"]


def test_a_window_that_is_not_settled_changes_nothing(scene: Scene) -> None:
    scene.sound(1)
    scene.hear(State.PICTURE, 1)
    scene.hear(State.NOTHING_RECOGNISABLE, None, settled=False)
    assert scene.moment.look is Look.PICTURE


@pytest.mark.parametrize("state", [State.QUIET, State.PICTURE, State.NOTHING_RECOGNISABLE])
def test_without_sound_it_is_told_within_two_seconds(scene: Scene, state: State) -> None:
    scene.sound(1)
    scene.hear(state, None if state is State.QUIET else 1)
    before = scene.moment.look
    scene.clock.now += watching.DEAF_S - 0.01
    assert scene.moment.look is before
    scene.clock.now += 0.02
    moment = scene.moment
    assert moment.look is Look.NOT_LISTENING
    assert moment.headline == "NOT LISTENING"
    assert moment.recognised is None
    assert not moment.sounding
    assert watching.DEAF_S < 2


def test_a_gap_stands_in_the_history_with_its_length(scene: Scene) -> None:
    scene.sound(1)
    scene.hear(State.PICTURE, 1)
    for _ in range(20):
        scene.clock.now += 1
        assert scene.clock.now < 102.5 or scene.moment.look is Look.NOT_LISTENING
    scene.sound(1 / 32)
    gap, dog = scene.moment.history
    assert (gap.gap, gap.title) == (True, "not listening")
    assert gap.lasted_s == pytest.approx(20, abs=0.1)
    assert dog.title == "dog"
    scene.sound(3)
    assert scene.moment.history[0].lasted_s == pytest.approx(20, abs=0.1)
    scene.clock.now += 5
    assert [past.gap for past in scene.moment.history] == [True, True, False]


def test_a_gap_is_told_even_when_nobody_looked_meanwhile(scene: Scene) -> None:
    scene.sound(1)
    scene.clock.now += 10
    scene.sound(1 / 32)
    assert [past.gap for past in scene.moment.history] == [True]


def test_a_reason_is_shown_until_sound_comes(scene: Scene) -> None:
    scene.sound(1)
    scene.watch.lost("The microphone has gone.")
    assert (scene.moment.look, scene.moment.detail) == (
        Look.NOT_LISTENING,
        "The microphone has gone.",
    )
    scene.sound(1 / 32)
    assert scene.moment.look is not Look.NOT_LISTENING


def test_after_a_restart_nothing_old_is_shown(scene: Scene) -> None:
    scene.sound(1)
    scene.hear(State.PICTURE, 1)
    scene.watch.restart()
    scene.sound(1 / 32, -90)
    assert scene.moment.look is Look.STARTING
    # The new signal counts its events from 1 again: this is another one.
    scene.hear(State.PICTURE, 1, name="water")
    assert [past.title for past in scene.moment.history] == ["water", "dog"]


def test_an_event_is_what_its_surest_moment_says(scene: Scene) -> None:
    """A crying baby must not end as fireworks."""
    scene.sound(1)
    scene.hear(State.PICTURE, 1, name="baby crying", confidence=0.9)
    later = np.full((1, 8, 8, 3), 7, np.uint8)
    scene.hear(State.PICTURE, 1, name="fireworks", confidence=0.6, images=later, repeats=2)
    moment = scene.moment
    (past,) = moment.history
    assert moment.headline == "Baby crying x2"
    assert (past.name, past.confidence, past.title) == ("baby crying", 0.9, "baby crying x2")
    for shown in (past, moment.present):
        assert shown is not None
        np.testing.assert_array_equal(shown.picture, PICTURE)
    scene.hear(State.PICTURE, 1, name="dog", confidence=0.95, images=later)
    moment = scene.moment
    assert (moment.headline, moment.history[0].name, moment.sure) == ("Dog", "dog", "quite sure")
    np.testing.assert_array_equal(moment.history[0].picture, later[0])


def test_headline_and_history_say_the_same_of_what_is_no_longer_recognised(scene: Scene) -> None:
    scene.sound(1)
    scene.hear(State.PICTURE, 1, confidence=0.6)
    for _ in range(4):
        scene.sound(1)
        scene.hear(State.NOTHING_RECOGNISABLE, 1)
        moment = scene.moment
        assert moment.headline == "Nothing recognisable"
        assert [past.title for past in moment.history] == ["nothing recognisable", "dog"]
    rest, dog = moment.history
    assert rest.began - dog.began >= timedelta(seconds=1)  # since it is no longer recognised
    assert dog.lasted_s == pytest.approx(1.0, abs=0.1)
    # Recognised again: it was a dog all the time.
    scene.hear(State.PICTURE, 1, confidence=0.7)
    moment = scene.moment
    assert moment.headline == "Dog"
    assert [past.title for past in moment.history] == ["dog"]
    assert moment.history[0].lasted_s == pytest.approx(5.0, abs=0.1)


def test_the_unrecognisable_end_of_a_sound_is_no_event(scene: Scene) -> None:
    scene.sound(1)
    scene.hear(State.PICTURE, 1)
    for _ in range(3):
        scene.sound(0.25)
        scene.hear(State.NOTHING_RECOGNISABLE, 1)
    scene.sound(1.5, -90)
    scene.hear(State.QUIET)
    moment = scene.moment
    assert moment.look is Look.QUIET
    assert [past.title for past in moment.history] == ["dog"]


def zeros(scene: Scene, seconds: float) -> None:
    for _ in range(round(seconds * 32)):
        scene.clock.now += 1 / 32
        scene.watch.block(np.zeros(RATE // 32, np.int16), RATE)


def test_a_microphone_that_sends_only_zeros_is_not_listening() -> None:
    scene = Scene(microphone=True)
    scene.sound(1)
    scene.hear(State.PICTURE, 1)
    zeros(scene, watching.ZEROS_S - 0.1)
    scene.hear(State.QUIET)
    assert scene.moment.look is not Look.NOT_LISTENING
    zeros(scene, 0.3)
    for _ in range(8):
        moment = scene.moment
        assert (moment.look, moment.headline) == (Look.NOT_LISTENING, "NOT LISTENING")
        assert moment.detail == "The microphone sends nothing: is it muted or covered?"
        assert moment.recognised is None
        assert [past.gap for past in moment.history] == [True, False]  # one gap, not many
        zeros(scene, 0.5)
        scene.hear(State.QUIET)
    assert scene.moment.history[0].lasted_s == pytest.approx(7.2, abs=0.1)  # from the first zero
    one = np.zeros(RATE // 32, np.int16)
    one[-1] = 1
    scene.watch.block(one, RATE)
    moment = scene.moment
    assert moment.look is Look.QUIET
    zeros(scene, 2.0)
    assert scene.moment.look is Look.QUIET


def test_a_file_may_be_silent(scene: Scene) -> None:
    zeros(scene, 2 * watching.ZEROS_S)
    scene.hear(State.QUIET)
    moment = scene.moment
    assert (moment.look, moment.detail) == (Look.QUIET, "Listening. Nothing loud enough sounds.")
    assert not moment.history


def test_levels_of_int16_and_of_floats_agree(scene: Scene) -> None:
    scene.watch.block(np.full(RATE, 0.1, np.float32), RATE)
    floats = scene.moment.level_dbfs
    other = Scene()
    other.watch.block(np.full((RATE, 2), 3277, np.int16), RATE)
    assert other.moment.level_dbfs == pytest.approx(floats, abs=0.01)
    assert floats == pytest.approx(-20, abs=0.01)


def test_the_mark_does_not_flicker_at_the_threshold(scene: Scene) -> None:
    scene.sound(1, -44)
    seen = []
    rng = np.random.default_rng(0)
    for _ in range(320):
        scene.sound(1 / 32, -45 + float(rng.uniform(-1, 1)))
        seen.append(scene.moment.sounding)
    assert sum(a != b for a, b in itertools.pairwise(seen)) <= 1


def test_the_history_is_bounded(scene: Scene) -> None:
    for number in range(1, watching.MOST_PAST + 50):
        scene.hear(State.NOTHING_RECOGNISABLE, number)
    assert len(scene.moment.history) == watching.MOST_PAST


@pytest.mark.parametrize("samples", [np.zeros(0, np.int16), np.zeros((0, 2), np.int16)])
def test_an_empty_block_is_taken(scene: Scene, samples: np.ndarray) -> None:
    take: Callable[..., None] = scene.watch.block
    take(samples, RATE)
    assert scene.moment.look is Look.STARTING
