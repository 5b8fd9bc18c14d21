"""What a live view shows: from windows, from levels, and from a clock that the test moves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pytest

from soundsight.runtime import watch as watching
from soundsight.runtime.critic import State
from soundsight.runtime.listener import Event, Heard
from soundsight.runtime.watch import Watch
from soundsight.views.moment import Look, Moment

RATE = 8000
PICTURE = np.full((8, 8, 3), 90, np.uint8)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, 12) + timedelta(seconds=self.now)


class Scene:
    """A watch, and sound that comes in blocks of 31.25 ms."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.watch = Watch(
            "the door", -45.0, clock=lambda: self.clock.now, wall=lambda: self.clock.wall()
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
            "informativity": np.asarray([0.9], np.float32),
            "confidence": 0.8 if pictured else math.nan,
            "name": "dog" if pictured else "",
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
    assert moment.pictured
    assert (moment.headline, moment.sure, moment.marks) == ("Dog?", "perhaps", 1)
    assert moment.detail == "since 12:01:40"  # when the event began, not when it was told
    scene.hear(State.PICTURE, 1, confidence=0.9, repeats=3)
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
    assert (moment.look, moment.detail, moment.pictured) == (Look.PAST, "heard 2 s ago", True)
    scene.sound(watching.PAST_S - 2 + 0.1, -90)
    scene.hear(State.QUIET)
    moment = scene.moment
    assert (moment.look, moment.pictured, moment.present) == (Look.QUIET, False, None)
    assert [past.title for past in moment.history] == ["dog"]


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
    assert (moment.look, moment.pictured) == (Look.QUIET, False)
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
    assert not moment.pictured
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


def test_zeros_alone_come_from_no_microphone(scene: Scene) -> None:
    zeros = np.zeros(RATE // 32, np.int16)
    for _ in range(32 * 4):
        scene.clock.now += 1 / 32
        scene.watch.block(zeros, RATE)
    scene.hear(State.QUIET)
    assert "muted" in scene.moment.detail
    scene.watch.block(zeros + 1, RATE)
    assert "muted" not in scene.moment.detail


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
