"""Listening: states that do not flicker, events that merge, and pictures that hold still.

The translator is a fake one: a window's log-mel says what its embedding is, so that a test says in
one line what is heard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from soundsight.core.errors import ConfigError
from soundsight.core.state import State
from soundsight.media.segments import LiveCutter, Segment
from soundsight.runtime.events import EventTracker, SteadyConfig, WindowResult
from soundsight.runtime.labels import LabelHead
from soundsight.runtime.model_folder import Thresholds
from soundsight.runtime.session import Session
from soundsight.runtime.translator import Translator

HOP_S = 0.25
DOG, BABY, TRAIN = 0, 1, 2
QUIET_DBFS = -60.0
PX = 4


class Fake(Session):
    """A model without networks; remembers what was drawn.

    A log-mel of level 100 + 10 k, and x above it, embeds to the k-th axis, weaker by x tenths.
    """

    def __init__(
        self,
        *,
        names: bool = True,
        sure: float | None = None,
        ood_score: float = math.nan,
        confidence: float = 0.5,
        weights: Any = ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        alerts: tuple[str, ...] = (),
    ) -> None:
        thresholds = Thresholds(quiet_dbfs=QUIET_DBFS, ood_score=0.5, confidence=confidence)
        self.info: Any = SimpleNamespace(
            thresholds=thresholds, noise_size=6, dropout_size=0, image_px=PX
        )
        self.label_head = LabelHead(
            labels=("dog", "baby crying", "train"), weights=np.array(weights, np.float32),
            bias=np.zeros(3, np.float32), alerts=alerts,
        ) if names else None  # fmt: skip
        self.unknown = ood_score
        if sure is not None:
            self.be_sure(sure)
        self.drawn: list[tuple[float, ...]] = []  # the noise of each picture
        self.drawn_from: list[np.ndarray] = []  # its embedding

    def be_sure(self, confidence: float) -> None:
        """Names are all but certain: the ood score alone makes a confidence."""
        self.unknown = 1 - confidence**2

    def embed(self, mels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        levels = np.rint((mels[:, 0, 0, 0] + 1) * 127.5).astype(int) - 100
        strength = 6.0 * (1 - (levels % 10) / 10)
        embedding = (np.eye(3)[levels // 10] * strength[:, None]).astype(np.float32)
        return embedding, embedding

    def score_features(self, features: np.ndarray) -> np.ndarray:
        return np.full(len(features), self.unknown, np.float32)

    def generate(self, embedding: Any, noise: np.ndarray, dropout: np.ndarray) -> np.ndarray:
        assert (len(embedding), dropout.shape) == (1, (1, 0))
        self.drawn.append(tuple(noise[0].tolist()))
        self.drawn_from.append(embedding[0])
        return np.full((1, PX, PX, 3), len(self.drawn) % 250, np.uint8)


class Ear:
    """Feeds windows to a tracker, a quarter of a second apart."""

    def __init__(self, fake: Fake, *, hop_s: float = HOP_S, **options: Any) -> None:
        self.tracker = EventTracker(fake, **options)
        self._hop_s = hop_s
        self.at = 0

    def hear(self, kind: int, dbfs: float = -20.0, weaker: int = 0) -> WindowResult:
        mel = np.full((128, 100), 100 + 10 * kind + weaker, np.uint8)
        segment = Segment(start_s=self.at * self._hop_s, mel=mel, peak_db=0.0, rms_dbfs=dbfs)
        self.at += 1
        return self.tracker.update(segment)

    def sound(self, kind: int, windows: int, **how: Any) -> list[WindowResult]:
        return [self.hear(kind, **how) for _ in range(windows)]

    def quiet(self, seconds: float) -> list[WindowResult]:
        return self.sound(DOG, round(seconds / self._hop_s), dbfs=-90.0)


def numbers(heard: Iterable[WindowResult]) -> list[int]:
    """The events of windows, 0 for none, each once."""
    found = [0 if h.event is None else h.event.number for h in heard]
    return [n for i, n in enumerate(found) if i == 0 or n != found[i - 1]]


# --- quiet and sound -------------------------------------------------------------------------


@pytest.mark.parametrize("before", [-90.0, -20.0])
@pytest.mark.parametrize("off_db", [-0.4, 0.0, 0.4])
def test_a_level_around_the_threshold_changes_the_state_at_most_once(
    before: float, off_db: float
) -> None:
    ear = Ear(Fake())
    heard = ear.sound(DOG, 8, dbfs=before)
    rng = np.random.default_rng(0)
    for _ in range(40):
        level = QUIET_DBFS + off_db + float(rng.uniform(-1, 1))
        heard.append(ear.hear(DOG, dbfs=level))
    loud = [h.state is not State.QUIET for h in heard[7:]]
    assert sum(a != b for a, b in pairwise(loud)) <= 1


def test_a_level_that_leaves_the_band_changes_the_state() -> None:
    ear = Ear(Fake())
    ear.quiet(1)
    assert ear.hear(DOG, dbfs=QUIET_DBFS + 1.4).state is State.QUIET
    assert ear.hear(DOG, dbfs=QUIET_DBFS + 1.6).state is not State.QUIET
    assert ear.hear(DOG, dbfs=QUIET_DBFS - 1.4).state is not State.QUIET
    assert ear.hear(DOG, dbfs=QUIET_DBFS - 1.6).state is State.QUIET


def test_what_a_quiet_window_says() -> None:
    heard = Ear(Fake(ood_score=0.1), draws=3).hear(DOG, dbfs=-90.0)
    assert (heard.state, heard.settled, heard.event, heard.name) == (State.QUIET, True, None, "")
    assert heard.images.shape == (0, PX, PX, 3)
    assert np.isnan([heard.ood_score, heard.confidence]).all()
    assert (heard.second_guess, heard.drawing, heard.sound) == ("", 0, None)
    assert heard.level_dbfs == -90.0
    assert heard.end_s == 1.0
    # A black log-mel is quiet however loud.
    black = Segment(start_s=0.0, mel=np.ones((128, 100), np.uint8), peak_db=0.0, rms_dbfs=-10.0)
    assert EventTracker(Fake()).update(black).state is State.QUIET


# --- settling --------------------------------------------------------------------------------


def test_a_sound_is_told_once_it_is_settled() -> None:
    fake = Fake()
    ear = Ear(fake)
    ear.quiet(2)
    heard = ear.sound(DOG, 4)
    assert [h.settled for h in heard] == [False, False, True, True]
    assert [h.state for h in heard] == [State.NOTHING_RECOGNISABLE] * 2 + [State.PICTURE] * 2
    for unsettled in heard[:2]:
        assert (unsettled.event, unsettled.name, len(unsettled.images)) == (None, "", 0)
        assert unsettled.confidence > 0.9
    assert heard[2].name == "dog"
    assert heard[2].images.shape == (1, PX, PX, 3)
    # It began within the window before the first: the quiet one ended there.
    event = heard[2].event
    assert (event.number, event.began_s, event.heard_s, event.repeats) == (1, 2.75, 3.5, 1)
    assert len(fake.drawn) == 1


@pytest.mark.parametrize(
    ("quiet_s", "hop_s", "left_out", "began_s"),
    [
        (0, HOP_S, 0, 0.0),  # there from the start
        (4, HOP_S, 0, 4.75),
        (4, 0.5, 0, 4.5),
        (4, 1.0, 0, 4.0),
        (2, HOP_S, 12, 5.0),  # not before the window that first held it
    ],
)
def test_when_a_sound_has_begun(
    quiet_s: float, hop_s: float, left_out: int, began_s: float
) -> None:
    ear = Ear(Fake(), hop_s=hop_s)
    ear.quiet(quiet_s)
    ear.at += left_out
    assert ear.sound(DOG, 3)[-1].event.began_s == began_s


# --- events ----------------------------------------------------------------------------------


def test_repeats_are_one_event_within_the_pause_and_two_beyond() -> None:
    pause_s = SteadyConfig().pause_s
    for quiet_s, one in ((pause_s, True), (pause_s + HOP_S, False)):
        ear = Ear(Fake())
        ear.quiet(1)
        first = ear.sound(DOG, 6)[-1].event
        # The pause is that between the end of the last window with sound and the next onset.
        ear.quiet(quiet_s)
        again = ear.sound(DOG, 6)[-1].event
        assert again.began_s == (first.began_s if one else first.heard_s + quiet_s)
        assert (again.number, again.repeats) == ((1, 2) if one else (2, 1))


def test_every_pause_counts_a_repeat_and_another_kind_is_another_event() -> None:
    ear = Ear(Fake())
    for count in range(1, 9):
        event = ear.sound(DOG, 5)[-1].event
        assert (event.number, event.repeats) == (1, count)
        ear.quiet(1.5)
    last = ear.sound(BABY, 6)[-1]
    assert (last.event.number, last.event.repeats, last.name) == (2, 1, "baby crying")


def test_another_kind_takes_over_after_so_many_windows() -> None:
    for windows in (1, 2, 4):
        ear = Ear(Fake(), steady=SteadyConfig(windows=windows, newest=1.0))
        ear.sound(DOG, 12)
        heard = ear.sound(BABY, 8)
        assert numbers(heard) == ([2] if windows == 1 else [1, 2])
        assert [h.event.number for h in heard].index(2) == windows - 1
        # What took over began where it was first ahead.
        assert heard[-1].event.began_s == 12 * HOP_S + 1.0 - HOP_S


def test_what_does_not_last_changes_nothing() -> None:
    ear = Ear(Fake(), steady=SteadyConfig(newest=1.0))
    heard = ear.sound(DOG, 12)
    for _ in range(5):
        heard += ear.sound(BABY, 1) + ear.sound(DOG, 1)
    assert numbers(heard[2:]) == [1]
    assert {h.name for h in heard if h.state is State.PICTURE} == {"dog"}
    # What was mistaken at its beginning stays one event.
    ear = Ear(Fake())
    heard = ear.sound(BABY, 3) + ear.sound(DOG, 9)
    assert numbers(heard[2:]) == [1]
    assert (heard[2].name, heard[-1].name) == ("baby crying", "dog")


def test_another_kind_must_be_clearly_ahead() -> None:
    """Two names that are nearly as probable do not take turns."""
    # The embedding of what is called a baby hardly tells it from a dog.
    ear = Ear(Fake(confidence=0.3, weights=[[1, 0.96, 0], [0.96, 1, 0], [0, 0, 1]]))
    heard = ear.sound(DOG, 12) + ear.sound(BABY, 12)
    assert numbers(heard[2:]) == [1]
    assert {h.name for h in heard[3:]} == {"dog"}


# --- the same picture ------------------------------------------------------------------------


def test_an_event_is_drawn_again_only_where_it_is_surer_by_a_step_of_the_words() -> None:
    fake = Fake(sure=0.75)
    ear = Ear(fake, draws=2)
    heard = ear.sound(DOG, 8)
    assert len(fake.drawn) == 2
    fake.be_sure(0.8)  # surer, and still "probably"
    heard += ear.sound(DOG, 6)
    assert len(fake.drawn) == 2
    fake.be_sure(0.95)
    heard += ear.sound(DOG, 8)
    assert len(fake.drawn) == 4
    # It never goes back, not even after a pause.
    fake.be_sure(0.75)
    heard += ear.sound(DOG, 6)
    ear.quiet(2)
    fake.be_sure(0.95)
    heard += ear.sound(DOG, 8)
    assert len(fake.drawn) == 4
    # Each of the two has its own random numbers, which stay.
    assert fake.drawn[:2] == fake.drawn[2:]
    assert len(set(fake.drawn)) == 2
    shown = [h for h in heard if h.state is State.PICTURE]
    assert {h.drawing for h in shown} == {1, 2}
    for drawing in (1, 2):
        same = [h.images for h in shown if h.drawing == drawing]
        assert all(np.array_equal(images, same[0]) for images in same)


def test_an_event_of_another_kind_is_drawn_anew_with_its_own_random_numbers() -> None:
    fake = Fake()
    Ear(fake).sound(DOG, 3)
    ear = Ear(mistaken := Fake())
    heard = ear.sound(BABY, 3) + ear.sound(DOG, 9)
    assert numbers(heard[2:]) == [1]
    assert mistaken.drawn == fake.drawn * 2
    np.testing.assert_array_equal(mistaken.drawn_from, np.eye(3)[[BABY, DOG]] * 6)


def test_it_is_drawn_from_its_surest_windows() -> None:
    fake = Fake(sure=0.75)
    # A window that says another thing beside is less sure of the one.
    ear = Ear(fake, steady=SteadyConfig(newest=1.0))
    ear.sound(DOG, 3)
    ear.sound(DOG, 4, weaker=9)
    fake.unknown = 0.01
    ear.sound(DOG, 8)
    assert len(fake.drawn_from) == 2
    np.testing.assert_allclose(fake.drawn_from[0], [6, 0, 0])
    # One window of 6 and 4 weak ones of .6, and the first that is surer.
    np.testing.assert_allclose(fake.drawn_from[1], [(2 * 6 + 4 * 0.6) / 6, 0, 0], rtol=1e-5)


def test_without_a_picture_to_draw_everything_else_is_told() -> None:
    fake = Fake()
    heard = Ear(fake, draws=0).sound(DOG, 5)
    assert [h.state for h in heard[2:]] == [State.PICTURE] * 3
    assert all(len(h.images) == 0 for h in heard)
    assert fake.drawn == []


def test_an_alert_is_named_and_never_drawn() -> None:
    fake = Fake(alerts=("train",))
    ear = Ear(fake)
    heard = ear.sound(TRAIN, 6)
    assert [h.state for h in heard[2:]] == [State.NAMED] * 4
    assert {h.name for h in heard[2:]} == {"train"}
    assert fake.drawn == []
    assert all(len(h.images) == 0 for h in heard)
    assert {h.state for h in ear.sound(DOG, 8)[3:]} == {State.PICTURE}
    # One of which it is not sure is not named.
    fake.unknown = 0.9
    assert {h.state for h in Ear(fake).sound(TRAIN, 6)} == {State.NOTHING_RECOGNISABLE}


def test_a_second_guess_is_told_where_it_is_near() -> None:
    fake = Fake(confidence=0.3, weights=[[1, 0, 0], [0.9, 1, 0], [0, 0, 1]])
    for kind, expected in ((DOG, ("dog", "baby crying")), (TRAIN, ("train", ""))):
        heard = Ear(fake).sound(kind, 5)[-1]
        assert (heard.name, heard.second_guess) == expected


def test_other_events_and_seeds_have_other_random_numbers() -> None:
    first, second = Fake(), Fake()
    ear = Ear(first)
    ear.sound(DOG, 4)
    ear.quiet(20)
    ear.sound(DOG, 4)
    assert len(set(first.drawn)) == 2
    Ear(second, seed=1).sound(DOG, 4)
    assert not set(first.drawn) & set(second.drawn)


def test_another_number_of_pictures_is_drawn_at_once() -> None:
    fake = Fake()
    ear = Ear(fake)
    ear.sound(DOG, 4)
    ear.tracker.draws = 2
    heard = ear.sound(DOG, 2)
    assert heard[0].images.shape == (2, PX, PX, 3)
    assert fake.drawn[1] == fake.drawn[0] != fake.drawn[2]
    ear.tracker.draws = 1
    assert ear.hear(DOG).images.shape == (1, PX, PX, 3)
    assert len(fake.drawn) == 4


# --- confidence ------------------------------------------------------------------------------


def test_a_picture_needs_sure_windows_in_a_row_and_goes_a_band_below() -> None:
    fake = Fake(sure=0.45)
    ear = Ear(fake, steady=SteadyConfig(newest=1.0))
    assert not any(h.state is State.PICTURE for h in ear.sound(DOG, 8))
    assert fake.drawn == []  # what is not shown is not drawn

    def at(value: float, windows: int) -> list[State]:
        fake.be_sure(value)
        return [h.state for h in ear.sound(DOG, windows)]

    nothing, picture = State.NOTHING_RECOGNISABLE, State.PICTURE
    assert at(0.53, 1) == [nothing]
    assert at(0.45, 1) == [nothing]
    assert at(0.53, 3) == [nothing, picture, picture]
    # Within the band nothing changes, however long.
    assert set(at(0.46, 20)) == {picture}
    assert at(0.42, 1) == [picture]
    assert at(0.46, 1) == [picture]
    assert at(0.42, 3) == [picture, nothing, nothing]
    assert set(at(0.48, 20)) == {nothing}


def test_confidence_is_averaged_over_windows() -> None:
    fake = Fake(sure=0.9)
    ear = Ear(fake, steady=SteadyConfig(newest=0.25))
    ear.sound(DOG, 4)
    fake.unknown = 1.0
    said = [h.confidence for h in ear.sound(DOG, 3)]
    expected = [math.sqrt(0.81 * 0.75**n) for n in (1, 2, 3)]
    np.testing.assert_allclose(said, expected, rtol=0.01)


def test_a_model_that_has_nothing_shows_every_sound() -> None:
    """Without names and ood scores nothing can be told, and nothing is hidden."""
    heard = Ear(Fake(names=False), draws=2).sound(DOG, 5)
    assert [h.state for h in heard[2:]] == [State.PICTURE] * 3
    assert (heard[-1].name, heard[-1].second_guess) == ("", "")
    assert np.isnan([heard[-1].confidence, heard[-1].ood_score]).all()
    assert heard[-1].images.shape == (2, PX, PX, 3)


def test_without_names_ood_score_and_embedding_tell() -> None:
    ear = Ear(fake := Fake(names=False, ood_score=0.84))
    heard = ear.sound(DOG, 5)
    assert heard[-1].confidence == pytest.approx(0.4)
    assert heard[-1].state is State.NOTHING_RECOGNISABLE
    fake.unknown = 0.19
    assert ear.sound(DOG, 6)[-1].state is State.PICTURE
    ear = Ear(Fake(names=False))
    heard = ear.sound(DOG, 10) + ear.sound(DOG, 4, weaker=5) + ear.sound(BABY, 6)
    assert numbers(heard[2:]) == [1, 2]
    ear.quiet(2)
    last = ear.sound(BABY, 4)[-1].event
    assert (last.number, last.repeats) == (2, 2)


# --- sensitivity and options -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("confidence", "sensitivity", "quiet_dbfs", "needed"),
    [
        (0.5, 0.5, QUIET_DBFS, 0.5),
        (0.5, 0.0, QUIET_DBFS + 12, 0.7), (0.5, 1, QUIET_DBFS - 12, 0.3),
        # It stays a confidence.
        (0.95, 0.0, QUIET_DBFS + 12, 1.0), (0.1, 1.0, QUIET_DBFS - 12, 0.0),
    ],
)  # fmt: skip
def test_sensitivity_moves_both_thresholds(
    confidence: float, sensitivity: float, quiet_dbfs: float, needed: float
) -> None:
    tracker = Ear(Fake(confidence=confidence)).tracker
    tracker.sensitivity = sensitivity
    assert tracker.quiet_dbfs == quiet_dbfs
    assert tracker.confidence_needed == pytest.approx(needed)


def test_sensitivity_changes_what_is_shown_at_once() -> None:
    ear = Ear(Fake(sure=0.45))
    ear.sound(DOG, 5)
    ear.tracker.sensitivity = 0.8
    assert [h.state for h in ear.sound(DOG, 2)] == [State.NOTHING_RECOGNISABLE, State.PICTURE]
    ear.tracker.sensitivity = 0.0
    assert [h.state for h in ear.sound(DOG, 2)] == [State.PICTURE, State.NOTHING_RECOGNISABLE]
    assert ear.hear(DOG, dbfs=QUIET_DBFS + 5).state is State.QUIET
    ear.tracker.sensitivity = 1.0
    assert ear.hear(DOG, dbfs=QUIET_DBFS - 5).state is not State.QUIET


@pytest.mark.parametrize(
    "wrong",
    [
        {"draws": -1}, {"draws": 5}, {"draws": True}, {"draws": 1.5}, {"draws": "2"},
        {"seed": -1}, {"seed": 2**64}, {"seed": 1.5}, {"seed": True},
        {"sensitivity": -0.1}, {"sensitivity": 1.1}, {"sensitivity": math.nan},
        {"sensitivity": "much"}, {"sensitivity": True},
    ],
)  # fmt: skip
def test_options_that_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EventTracker(Fake(), **wrong)


# --- with a model ----------------------------------------------------------------------------


def test_a_live_signal_through_a_tiny_model(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    names = {
        "format": "soundsight-labels", "format_version": 1, "labels": ["dog", "water"],
        "weights": [[0.0] * 8, [0.0] * 8], "bias": [9.0, 0.0],
    }  # fmt: skip
    folder = make_model(tmp_path / "model", ood_score=1.0, labels=names)
    translator = Translator.load(folder, threads=1)
    tracker = EventTracker(translator, seed=3)
    cutter = LiveCutter(16_000, translator.info.mel)
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
    sound = np.concatenate([np.zeros(32_000, np.float32), noise, np.zeros(32_000, np.float32)])
    heard = [
        tracker.update(segment)
        for first in range(0, len(sound), 640)
        for segment in cutter.push(sound[first : first + 640])
    ]
    assert heard[0].state is heard[-1].state is State.QUIET
    assert sum(a.state is not b.state for a, b in pairwise(heard)) == 3
    assert {(h.event.number, h.event.began_s) for h in heard if h.event is not None} == {(1, 2.0)}
    shown = next(h for h in heard if h.state is State.PICTURE)
    assert (shown.images.shape, shown.name) == ((1, 96, 96, 3), "dog")
    assert 0 < shown.confidence <= 1
