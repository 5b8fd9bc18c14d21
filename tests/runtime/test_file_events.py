"""Telling a sound: events with their times, quiet between them, in constant memory."""

from __future__ import annotations

import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from soundsight.core import units
from soundsight.core.errors import AudioError, ConfigError
from soundsight.core.state import State
from soundsight.media.segments import Segment, segments
from soundsight.runtime.events import Event, WindowResult
from soundsight.runtime.file_events import Progress, _Finder, find_events
from soundsight.runtime.labels import LabelHead
from soundsight.runtime.surest import Second
from soundsight.runtime.translator import Translator
from soundsight.views.events import FileEvent, FileEvents

RATE = 44_100


@pytest.fixture(scope="module")
def translator(tiny_model: Path) -> Translator:
    return Translator.load(tiny_model, threads=1)


def tone(seconds: float, hz: float = 440.0, level: float = 0.3) -> np.ndarray:
    """A tone over some noise: a log-mel with no more than a line counts as no sound."""
    t = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(round(hz)).normal(0.0, 0.05, len(t))
    return (level * (np.sin(2 * np.pi * hz * t) + noise)).astype(np.float32)


def quiet(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def events_of(translator: Translator, *parts: np.ndarray, **options: object) -> FileEvents:
    *_, last = find_events(translator, np.concatenate(parts), RATE, **options)
    return last


def times(found: FileEvents) -> list[list[tuple[float, float]]]:
    return [[(a, b) for a, b in event.spans] for event in found.events]


def test_events_and_the_quiet_between_them(translator: Translator) -> None:
    found = events_of(translator, quiet(3), tone(4), quiet(8), tone(2, 3000), quiet(3))
    assert times(found) == [[(3.0, 7.0)], [(15.0, 17.0)]]
    assert [event.number for event in found.events] == [1, 2]
    for second, number in ((0, 0), (2.9, 0), (3, 1), (6.9, 1), (7, 0), (15, 2), (17.1, 0)):
        event = found.within(second, second + 1e-9)
        assert (event.number if event else 0) == number
    assert found.duration_s == 20
    assert found.overview.mel.shape == (128, 2000)
    for event in found.events:
        assert event.state == "picture"
        assert event.picture is not None
        assert event.picture.shape == (96, 96, 3)
        assert event.began_s - 1 < event.shown_s <= event.ended_s - 1
        assert event.level_dbfs == pytest.approx(-13.5, abs=0.1)
        assert event.mel.shape == (128, 100)
        assert event.mel.max() > 200
        assert np.abs(event.waveform).max() == pytest.approx(0.33, abs=0.04)


def test_a_sound_that_repeats_is_one_event(translator: Translator) -> None:
    found = events_of(
        translator, tone(2), quiet(2.5), tone(2), quiet(3), tone(2), quiet(12), tone(2)
    )
    assert times(found) == [[(0.0, 2.0), (4.5, 6.5), (9.5, 11.5)], [(23.5, 25.5)]]
    assert found.events[0].repeats == 3
    assert found.within(3.0, 3.0 + 1e-9) is None
    assert found.within(5.0, 5.0 + 1e-9) is found.events[0]


def test_what_is_not_recognised_is_told_without_a_picture(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "strict", ood_score=1.0, confidence=0.95)
    found = events_of(Translator.load(folder, threads=1), quiet(2), tone(3), quiet(3))
    assert times(found) == [[(2.0, 5.0)]]
    (event,) = found.events
    assert (event.state, event.picture, event.name) == ("nothing_recognisable", None, "")
    assert (found.known, found.words) == (0, "1 event, nothing recognisable")


def test_silence(translator: Translator) -> None:
    found = events_of(translator, quiet(4))
    assert (found.events, found.words) == ([], "quiet from beginning to end")
    assert found.overview.mel.max() == 0


@pytest.mark.parametrize("seconds", [0.1, 0.3, 1.0, 1.2, 10.5, 10.6])
def test_short_sounds_are_told(translator: Translator, seconds: float) -> None:
    hiss = np.random.default_rng(0).normal(0.0, 0.05, round(seconds * RATE)).astype(np.float32)
    found = events_of(translator, tone(seconds) + hiss)
    (((began_s, ended_s),),) = times(found)
    assert (began_s, ended_s) == (0, pytest.approx(seconds))
    assert found.overview.mel.shape[1] == round(100 * seconds)


@pytest.mark.parametrize("seconds", [0.2, 0.5, 0.8])
def test_what_begins_at_the_very_end_is_told(translator: Translator, seconds: float) -> None:
    (((began_s, ended_s),),) = times(events_of(translator, quiet(12), tone(seconds)))
    assert (began_s, ended_s) == (pytest.approx(12.0), pytest.approx(12 + seconds))


@pytest.mark.parametrize(
    ("lead", "lasts"), [(0.25, 2), (0.5, 2), (0.75, 2), (3.3, 0.1)], ids=lambda value: f"{value:g}"
)
def test_a_file_may_begin_with_quiet_and_a_click_is_short(
    translator: Translator, lead: float, lasts: float
) -> None:
    found = events_of(translator, quiet(lead), tone(lasts), quiet(9))
    assert times(found) == [[(lead, pytest.approx(lead + lasts))]]


def test_blocks_of_any_size_and_a_file_tell_the_same(
    translator: Translator, tmp_path: Path
) -> None:
    import soundfile

    samples = np.concatenate([quiet(1), tone(3), quiet(7), tone(1.5, 2000), quiet(0.6)])
    path = tmp_path / "x.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    whole = events_of(translator, samples)
    pieces = (samples[i : i + 7_001] for i in range(0, len(samples), 7_001))
    *_, of_blocks = find_events(translator, pieces)
    *_, of_file = find_events(translator, path)
    for found in (of_blocks, of_file):
        assert times(found) == times(whole)
        np.testing.assert_array_equal(found.overview.mel, whole.overview.mel)
        for a, b in zip(found.events, whole.events, strict=True):
            np.testing.assert_array_equal(a.picture, b.picture)
    assert of_file.source == "x.wav"
    assert of_file.model == "tiny 0.0.1"


def test_seeds_and_sensitivity(translator: Translator) -> None:
    sound = tone(2)
    first, again, other = (events_of(translator, sound, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.events[0].picture, again.events[0].picture)
    assert (first.events[0].picture != other.events[0].picture).any()
    assert first.seed == 1
    soft = np.concatenate([quiet(2), tone(2, level=0.0006), quiet(1)])
    assert events_of(translator, soft, sensitivity=0.5).events == []
    assert len(events_of(translator, soft, sensitivity=1.0).events) == 1


def test_progress_and_events_come_as_they_end(translator: Translator) -> None:
    sound = np.concatenate([tone(2), quiet(20), tone(2, 3000), quiet(1)])
    done, ended_at = [], {}
    for found in find_events(translator, sound, RATE, total_s=25.0):
        if isinstance(found, Progress):
            done.append(found.done_s)
        elif isinstance(found, FileEvent):
            ended_at[found.number] = done[-1]
    assert done == sorted(done)
    assert done[-1] == 25.0
    assert ended_at[1] < 10  # found after its pause, long before the end
    assert ended_at[2] == 25.0


def test_it_stops_when_it_is_closed(translator: Translator) -> None:
    given = []

    def blocks() -> Iterator[np.ndarray]:
        for index in range(1000):
            given.append(index)
            yield tone(1)

    telling = find_events(translator, blocks())
    for found in telling:
        if isinstance(found, Progress) and found.done_s > 15:
            break
    telling.close()
    assert len(given) < 25


def test_a_long_sound_takes_no_more_memory(translator: Translator) -> None:
    def blocks(seconds: int) -> Iterator[np.ndarray]:
        for _ in range(seconds // 10):
            yield tone(10, level=0.1)

    peaks = []
    for seconds in (40, 160):
        tracemalloc.start()
        (found,) = deque(find_events(translator, blocks(seconds)), maxlen=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert times(found) == [[(0.0, float(seconds))]]
        assert found.overview.mel.shape[1] <= 4096
    assert peaks[1] < 1.1 * peaks[0] + 500_000


def test_mistakes_are_told_at_once(translator: Translator, tmp_path: Path) -> None:
    for wrong in ({"sensitivity": 1.5}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            find_events(translator, tone(1), RATE, **wrong)
    (tmp_path / "text.wav").write_text("no sound")
    for name, says in (("none.wav", "does not exist"), ("text.wav", "no sound or video")):
        with pytest.raises(AudioError, match=says):
            find_events(translator, tmp_path / name)


# --- names -----------------------------------------------------------------------------------


@pytest.fixture
def naming(tiny_model: Path) -> Translator:
    """A translator that calls what is low ``low`` and what is high ``high``."""
    translator = Translator.load(tiny_model, threads=1)
    sounds = [next(segments([tone(1, hz)])).mel for hz in (300.0, 6000.0)]
    low, high = translator.embed(units.to_unit(np.stack(sounds))[:, None])[0]
    towards = 4 * (low - high) / np.square(low - high).sum()
    middle = float(towards @ (low + high) / 2)
    translator.label_head = LabelHead(
        labels=("low", "high"),
        weights=np.stack([towards, -towards]).astype(np.float32),
        bias=np.array([-middle, middle], np.float32),
    )
    return translator


def test_names(naming: Translator) -> None:
    found = events_of(naming, tone(3, 300), quiet(7), tone(3, 6000), quiet(2))
    assert [event.name for event in found.events] == ["low", "high"]
    assert all(event.sure == "quite sure" for event in found.events)
    assert times(found) == [[(0.0, 3.0)], [(10.0, 13.0)]]
    # An alert is told by its name and not drawn.
    naming.label_head = replace(naming.label_head, alerts=("high",))
    found = events_of(naming, tone(3, 300), quiet(7), tone(3, 6000), quiet(2))
    assert [event.state for event in found.events] == ["picture", "named"]
    assert [event.picture is None for event in found.events] == [False, True]
    assert (found.events[1].words, found.words) == ("high, quite sure", "2 events")


@pytest.mark.parametrize("at_s", [4.13, 5.0, 7.38, 8.62])
@pytest.mark.parametrize(("low_first", "level"), [(True, 0.3), (False, 0.3), (True, 0.05)])
def test_the_border_between_two_sounds_is_where_the_spectrum_changes(
    naming: Translator, at_s: float, low_first: bool, level: float
) -> None:
    """The tracker is sure of the other kind half a second later, and in quarters."""
    hz = (300, 6000) if low_first else (6000, 300)
    found = events_of(naming, tone(at_s, hz[0]), tone(4, hz[1], level=level), quiet(2))
    names = ["low", "high"] if low_first else ["high", "low"]
    assert [event.name for event in found.events] == names
    (first,), (second,) = times(found)
    assert first[1] == second[0] == pytest.approx(at_s, abs=0.03)


@pytest.mark.parametrize("began_s", [3.0, 3.07, 3.21, 3.49])
@pytest.mark.parametrize("lasted_s", [0.1, 0.33, 2.02])
def test_a_sound_begins_and_ends_with_its_frames(
    translator: Translator, began_s: float, lasted_s: float
) -> None:
    found = events_of(translator, quiet(began_s), tone(lasted_s), quiet(4))
    ((span,),) = times(found)
    assert span == (pytest.approx(began_s, abs=0.011), pytest.approx(began_s + lasted_s, abs=0.011))


def test_an_event_is_what_its_surest_shown_says(translator: Translator) -> None:
    """Later windows that are less sure change nothing, however many there are."""

    class Told:
        """A tracker that says of each window what the test has written down."""

        sensitivity, quiet_dbfs, windows = 0.5, -60.0, 0

        def update(self, segment: Segment) -> WindowResult:
            surest = self.windows == 3
            self.windows += 1
            sound = Second(
                embedding=np.full(4, self.windows, np.float32), ood_score=0.1,
                shares=np.array([0.9, 0.1] if surest else [0.4, 0.6], np.float32),
            )  # fmt: skip
            return WindowResult(
                start_s=segment.start_s, state=State.PICTURE, drawing=0, sound=sound,
                images=np.zeros((0, 96, 96, 3), np.uint8), level_dbfs=segment.rms_dbfs,
                confidence=0.9 if surest else 0.6, name="baby" if surest else "fireworks",
                event=Event(number=1, began_s=0.0, heard_s=segment.start_s + 1),
            )  # fmt: skip

        def draw(self, seconds: list[Second], event: int, draws: int) -> np.ndarray:
            # The seconds that are surest of its name, the surest first.
            assert (len(seconds), event, draws) == (8, 1, 1)
            return np.full((1, 96, 96, 3), seconds[0].embedding[0], np.uint8)

    finder = _Finder(Told(), translator.info.mel, ("baby", "fireworks"))
    *_, found = finder.run(iter([tone(6)]), None, source="", model="", seed=0)
    (event,) = found.events
    assert (event.name, event.confidence, event.shown_s) == ("baby", 0.9, 0.75)
    assert int(event.picture[0, 0, 0]) == 4


def test_the_times_of_an_event_do_not_overlap(naming: Translator) -> None:
    """Beside a loud sound a faint one is inaudible, and yet not quiet by its level."""
    faint = np.random.default_rng(0).normal(0.0, 0.0012, round(1.25 * RATE)).astype(np.float32)
    found = events_of(naming, quiet(1), tone(2, 6000), faint, tone(3, 6000), quiet(8))
    assert times(found) == [[(1.0, 7.25)]]


def test_neighbours_of_no_known_kind_are_one_event(naming: Translator) -> None:
    sounds = (tone(5, 300), tone(5, 6000), quiet(8), tone(3, 300), quiet(1))
    found = events_of(naming, *sounds, sensitivity=0.0)
    assert [event.state for event in found.events] == ["picture"] * 3
    naming.info = replace(naming.info, thresholds=replace(naming.info.thresholds, confidence=1.0))
    found = events_of(naming, *sounds, sensitivity=0.5)
    assert [event.state for event in found.events] == ["nothing_recognisable"] * 2
    assert times(found) == [[(0.0, 10.0)], [(18.0, 21.0)]]


def test_the_end_of_a_sound_is_no_event(naming: Translator) -> None:
    """What is left of a sound in its last windows may sound like anything."""
    samples = np.concatenate([tone(5, 300), quiet(0.05), quiet(3)])
    # For half a second, where windows hold little else, there is a faint rest of another kind.
    samples[5 * RATE : round(5.4 * RATE)] += tone(0.4, 6000, level=0.0012)
    found = events_of(naming, samples)
    assert [event.name for event in found.events] == ["low"]
