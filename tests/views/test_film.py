"""The film: decoded again, its pictures are there when their sound is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from soundsight.core.errors import OutputError
from soundsight.core.state import State
from soundsight.media import audio
from soundsight.views.drawing import CARD
from soundsight.views.events import FileEvents
from soundsight.views.film import FPS, HEIGHT_PX, WIDTH_PX, film
from soundsight.views.pictograms import alert_picture

RATE = 44_100
RED, BLUE = (220, 40, 40), (60, 80, 230)


def sound(seconds: float = 12.0) -> np.ndarray:
    """Noise that is loud where the toy file has events."""
    rng = np.random.default_rng(0)
    samples = rng.normal(0.0, 0.002, round(seconds * RATE))
    # Smooth noise: what AAC keeps of white noise at 96 kbit/s is less.
    smooth = np.convolve(rng.normal(0.0, 0.6, len(samples)), np.ones(24) / 24, "same")
    for began, ended in ((1, 3), (4, 5), (6, 8), (9, 10)):
        part = slice(began * RATE, min(len(samples), ended * RATE))
        samples[part] += smooth[part]
    return samples.astype(np.float32)


def blocks(samples: np.ndarray, size: int = 100_000) -> Iterator[np.ndarray]:
    for first in range(0, len(samples), size):
        yield samples[first : first + size]


def frames(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def middle(frame: np.ndarray) -> np.ndarray:
    """The mean colour in the upper part of the place of the picture."""
    return frame[80:160, 60:320].reshape(-1, 3).mean(axis=0)


@pytest.fixture(scope="module")
def written(toy_events: FileEvents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    done = list(film(toy_events, blocks(sound()), path))
    assert done == sorted(done)
    assert done[-1] == pytest.approx(12.0)
    return path


def test_each_frame_shows_what_is_said_of_its_time(written: Path, toy_events: FileEvents) -> None:
    decoded = frames(written)
    assert len(decoded) == 12 * FPS
    for index, (at_s, frame) in enumerate(decoded):
        assert at_s == pytest.approx(index / FPS, abs=1e-3)
        assert frame.shape == (HEIGHT_PX, WIDTH_PX, 3)
        event = toy_events.within(at_s, at_s + 1e-9)
        expected = CARD if event is None else {1: RED, 2: CARD, 3: BLUE}[event.number]
        np.testing.assert_allclose(middle(frame), expected, atol=12, err_msg=f"at {at_s} s")


def test_an_alert_is_shown_by_its_pictogram(toy_events: FileEvents, tmp_path: Path) -> None:
    first = replace(toy_events.events[0], state=State.NAMED, name="glass", picture=None)
    told = replace(toy_events, events=[first])
    list(film(told, blocks(sound(3.0)), tmp_path / "a.mp4"))
    frame = dict(frames(tmp_path / "a.mp4"))[2.0]
    place = frame[54 : 54 + 290, 28 : 28 + 320].astype(int)  # above its label
    expected = alert_picture("glass", 320)[:290].astype(int)
    assert np.abs(place - expected).mean() < 6


def test_what_begins_within_a_frame_is_in_it(toy_events: FileEvents, tmp_path: Path) -> None:
    """... and what is shorter than a frame is not left out."""
    first, _, third = toy_events.events[:3]
    short = replace(
        toy_events,
        events=[replace(first, spans=((1.07, 1.09),)), replace(third, spans=((2.13, 5.6),))],
    )
    list(film(short, blocks(sound(6.0)), tmp_path / "a.mp4"))
    colours = [middle(frame) for _, frame in frames(tmp_path / "a.mp4")]
    red = [i for i, colour in enumerate(colours) if np.abs(colour - RED).max() < 12]
    blue = [i for i, colour in enumerate(colours) if np.abs(colour - BLUE).max() < 12]
    assert red == [8]  # from 1 s on
    assert blue == list(range(17, 45))  # from 2.125 s up to the eighth that begins at 5.5 s


def test_states_look_different(written: Path) -> None:
    decoded = dict(frames(written))
    place = (slice(180, 260), slice(60, 320))
    assert np.abs(decoded[0.5][place].astype(int) - decoded[7.0][place]).max() > 60
    # "imagined" stands in every picture.
    label = decoded[2.0][350:372, 30:110]
    assert label.min(axis=2).max() > 180
    assert label.mean() < 120


def test_the_play_head_moves_from_edge_to_edge(written: Path) -> None:
    decoded = frames(written)
    for pair in ((0, 7), (7, 80), (81, 95)):  # each pair of one state
        (one_s, one), (other_s, other) = (decoded[i] for i in pair)
        # Below the spans nothing but the head changes.
        change = np.abs(one[440:505].astype(int) - other[440:505]).sum(axis=(0, 2))
        moved = np.nonzero(change > 65 * 60)[0]
        expected = [28 + at_s / 12 * 904 for at_s in (one_s, other_s)]
        assert np.abs(moved[:, None] - expected).min(axis=1).max() <= 4
        assert np.abs(moved[:, None] - expected).min(axis=0).max() <= 2


def test_the_sound_is_in_time_from_the_first_to_the_last_sample(written: Path) -> None:
    samples, heard = sound(), audio.decode(written)
    assert 0 <= len(heard) - len(samples) < 2048
    for first in (RATE, 4 * RATE, 9 * RATE):
        part = samples[first : first + RATE]
        match = [
            float(np.corrcoef(part, heard[first + lag : first + lag + RATE])[0, 1])
            for lag in range(-60, 61)
        ]
        assert int(np.argmax(match)) - 60 == 0
        assert max(match) > 0.95


def test_it_is_an_mp4_that_players_begin_at_once(written: Path) -> None:
    with av.open(str(written)) as container:
        picture, voice = container.streams.video[0], container.streams.audio[0]
        assert picture.codec_context.name in ("h264", "mpeg4")
        assert picture.codec_context.pix_fmt == "yuv420p"
        assert voice.codec_context.name == "aac"
        assert container.duration / 1e6 == pytest.approx(12.0, abs=0.1)
        assert "imagined" in container.metadata["comment"]
    data = written.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("seconds", [0.1, 0.3, 2.0625, 3.01])
def test_any_length(toy_events: FileEvents, tmp_path: Path, seconds: float) -> None:
    samples = 20 * sound(seconds)
    list(film(toy_events, blocks(samples), tmp_path / "a.mp4"))
    decoded = frames(tmp_path / "a.mp4")
    assert len(decoded) == max(1, int(np.ceil(seconds * FPS - 1e-9)))
    heard = audio.decode(tmp_path / "a.mp4")
    assert len(heard) >= len(samples)
    if seconds > 3:  # what is beyond full scale is clipped
        assert 0.5 < np.sqrt(np.mean(heard[RATE : 3 * RATE] ** 2)) < 1.05


def test_it_appears_whole_or_not_at_all(toy_events: FileEvents, tmp_path: Path) -> None:
    steps = film(toy_events, blocks(sound()), tmp_path / "a.mp4")
    next(steps)
    steps.close()
    assert list(tmp_path.iterdir()) == []

    def broken() -> Iterator[np.ndarray]:
        yield sound(2.0)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(film(toy_events, broken(), tmp_path / "a.mp4"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        list(film(toy_events, blocks(sound(1.0)), tmp_path / "file" / "a.mp4"))
