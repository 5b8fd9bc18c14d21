"""The sheet of a file: what is on it, and that it stays a picture of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soundsight.core.errors import OutputError
from soundsight.core.state import State
from soundsight.views import timeline
from soundsight.views.drawing import AMBER, WAVE, clock
from soundsight.views.event_files import save
from soundsight.views.events import FileEvent, FileEvents
from soundsight.views.pictograms import alert_picture
from soundsight.views.storyboard import MAX_CARDS, shown_events, storyboard

PICTURE_PX = 152


def pixels(page: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(page) == colour).all(axis=2).sum())


def no_sound() -> Iterator[np.ndarray]:
    raise AssertionError("a sheet needs no sound")


def test_every_picture_is_there_once(toy_events: FileEvents) -> None:
    page = storyboard(toy_events)
    assert pixels(page, (220, 40, 40)) == PICTURE_PX**2
    assert pixels(page, (60, 80, 230)) == PICTURE_PX**2
    assert pixels(page, (40, 200, 60)) == 0  # the second event has none


def test_an_alert_has_a_card_with_its_pictogram(
    events_of: Callable[..., FileEvents], file_event: Callable[..., FileEvent]
) -> None:
    alert = file_event(1, (1, 2), state=State.NAMED, name="doorbell", picture=None)
    page = np.asarray(storyboard(events_of([alert])))
    card = alert_picture("doorbell", PICTURE_PX)
    # The strokes are the lowest of their colour on the page.
    ys, xs = np.nonzero((page == AMBER).all(axis=2))
    own_ys, own_xs = np.nonzero((card == AMBER).all(axis=2))
    top, left = int(ys.max() - own_ys.max()), int(xs.max() - own_xs.max())
    found = page[top : top + PICTURE_PX, left : left + PICTURE_PX]
    np.testing.assert_array_equal(found, card)
    # It goes before what is not recognised where there is no room for all.
    unknown = [file_event(n, (n, n + 1), known=False) for n in range(2, MAX_CARDS + 2)]
    assert shown_events([alert, *unknown])[0] is alert


def test_the_png_says_what_it_is(toy_events: FileEvents, tmp_path: Path) -> None:
    list(save(toy_events, no_sound, tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["soundsight"] == "imagined from sound"
        assert (image.info["source"], image.info["seed"]) == ("dog.wav", "7")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        list(save(toy_events, no_sound, tmp_path / "file" / "a.png"))


def test_a_events_of_thousands_of_events_is_one_sheet(
    events_of: Callable[..., FileEvents], file_event: Callable[..., FileEvent]
) -> None:
    rng = np.random.default_rng(0)
    events = [
        file_event(
            i + 1, (4.0 * i, 4.0 * i + 2), known=i % 3 > 0, confidence=float(rng.uniform(0.5, 1))
        )
        for i in range(2700)
    ]
    told = events_of(events, duration_s=10_800.0)
    page = storyboard(told)
    assert page.width < 1500
    assert page.height < 6000
    chosen = shown_events(events)
    assert len(chosen) == MAX_CARDS
    assert [e.number for e in chosen] == sorted(e.number for e in chosen)
    assert all(event.picture is not None for event in chosen)
    left_out = [e.confidence for e in events if e.picture is not None and e not in chosen]
    assert min(e.confidence for e in chosen) >= max(left_out)


def test_a_quiet_file(events_of: Callable[..., FileEvents]) -> None:
    page = storyboard(events_of([], duration_s=0.5))
    assert page.height < 500


def test_a_damaged_file_is_told_on_the_sheet(events_of: Callable[..., FileEvents]) -> None:
    told = replace(events_of([], duration_s=0.5), warnings=["dog.wav is cut short"])
    assert storyboard(told).height > storyboard(events_of([], duration_s=0.5)).height


@pytest.mark.parametrize("name", ["電車.wav", "x" * 4000, "\x00\x1b[31m.wav", "\udcff.wav", ""])
def test_names_in_any_script(
    events_of: Callable[..., FileEvents], name: str, tmp_path: Path
) -> None:
    list(save(events_of([], source=name), no_sound, tmp_path / "a.png"))
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0:00.0"), (3.29, "0:03.2"), (59.99, "0:59.9"), (61.5, "1:01.5"),
        (3723.25, "1:02:03.2"), (0.3, "0:00.3"), (0.6000001, "0:00.6"),
    ],
)  # fmt: skip
def test_clock(seconds: float, words: str) -> None:
    assert clock(seconds, tenths=True) == words
    assert clock(seconds, tenths=False) == words[:-2]


@pytest.mark.parametrize(
    ("duration_s", "began_s", "ended_s", "words"),
    [
        (12.0, 1.0, 3.25, "0:01.0 - 0:03.2"),
        (600.0, 122.0, 125.5, "2:02 - 2:05"),
        (600.0, 122.25, 122.75, "2:02.2 - 2:02.7"),
    ],
)
def test_a_time_is_not_said_twice(
    events_of: Callable[..., FileEvents],
    duration_s: float,
    began_s: float,
    ended_s: float,
    words: str,
) -> None:
    told = events_of([], duration_s=duration_s)
    assert timeline.span_words(told, began_s, ended_s) == words


@pytest.mark.parametrize(("duration_s", "width"), [(0.2, 900), (12.0, 700), (4000.0, 300)])
def test_the_time_line_shows_what_is_loud_where_it_is(
    events_of: Callable[..., FileEvents], duration_s: float, width: int
) -> None:
    """The second half is loud: so is the right half of the waveform and of the log-mel."""
    told = events_of([], duration_s=duration_s)
    count = len(told.overview.waveform)
    told.overview.waveform[: count // 2] *= 0.01
    told.overview.mel[:, : count // 2] = 0
    told.overview.mel[:, count // 2 :] = 255
    made = np.asarray(timeline.timeline(told, width, 60, 40)).astype(int)
    assert made.shape == (timeline.height_px(60, 40), width, 3)
    wave = made[timeline.SPANS_PX + 2 : timeline.SPANS_PX + 62]
    painted = (np.abs(wave - WAVE).sum(axis=2) < 12).sum(axis=0)
    edge = max(2, width // 50)
    assert painted[: width // 2 - edge].max() <= 2
    assert painted[width // 2 + edge :].min() >= 6
    mel = made[timeline.SPANS_PX + 66 : timeline.SPANS_PX + 100].sum(axis=(0, 2))
    assert mel[: width // 2 - edge].max() < mel[width // 2 + edge :].min() / 5


def test_events_lie_where_they_are_and_are_told_apart(
    events_of: Callable[..., FileEvents], file_event: Callable[..., FileEvent]
) -> None:
    told = events_of(
        [file_event(1, (2.0, 4.0), (6.0, 7.0)), file_event(2, (9.0, 11.0), known=False)]
    )
    spans = np.asarray(timeline.timeline(told, 1200, 40, 40))[8].astype(int)
    ground = spans[0]
    marked = np.abs(spans - ground).sum(axis=1) > 30
    assert not marked[:200].any()
    assert marked[202:398].all()
    assert not marked[401:599].any()
    assert marked[602:697].all()
    # Hollow: an edge at both ends and nothing between.
    assert marked[900:902].any()
    assert not marked[930:1090].any()
