"""Sheets of sounds, of pairs and of a file's events, and the PNG files that say what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from soundsight.core.errors import OutputError
from soundsight.core.state import State
from soundsight.views import drawing, sheet
from soundsight.views.drawing import AMBER, WAVE, clock
from soundsight.views.event_files import save
from soundsight.views.events import FileEvents
from soundsight.views.pictograms import alert_picture
from soundsight.views.sheet import MAX_CARDS, PairCard, pairs_sheet, shown_events, storyboard

Make = Callable[..., Any]

RED = (250, 10, 20)
NAMES = [
    "電車の音.wav", "собака.wav", "كلب.wav", "bébé.flac", "🐶.wav", "two\nlines.wav",
    "\udcff\udcfe.wav", "\x00\x1b[31m", "", "x" * 5000, "נביחה" * 50,
]  # fmt: skip


def row(name: str = "dog.wav", *, count: int = 1, note: str = "") -> sheet.Row:
    return sheet.Row(
        name=name,
        second=3.0,
        mel=np.random.default_rng(0).integers(0, 256, (128, 100), dtype=np.uint8),
        waveform=np.full((100, 2), (-0.5, 0.5), np.float32),
        images=[np.full((96, 96, 3), RED, np.uint8)] * count,
        notes=[note] * count,
    )


def pixels(page: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(page) == colour).all(axis=2).sum())


def test_a_page_is_as_high_as_its_cards_need() -> None:
    full, part = (sheet.contact_sheet([row()] * n) for n in (20, 5))
    assert part.height < full.height
    silent = replace(
        row(count=0), waveform=np.zeros((0, 2), np.float32), mel=np.zeros((128, 100), np.uint8)
    )
    assert sheet.contact_sheet([silent]).height > 100


@pytest.mark.parametrize("number", [1, 2, 7, 12, 30])
def test_every_picture_is_there(number: int) -> None:
    page = sheet.contact_sheet([row(count=number)])
    assert pixels(page, RED) == min(number, sheet.MAX_PICTURES) * 152 * 152


def test_a_note_stands_in_the_picture() -> None:
    plain, noted = (
        np.asarray(sheet.contact_sheet([row(note=note)])).astype(int)
        for note in ("", "nothing recognisable")
    )
    assert (np.abs(plain - noted).sum(axis=2) > 0).sum() > 100


@pytest.mark.parametrize("name", NAMES)
def test_names_in_any_script(name: str, tmp_path: Path, events_of: Make) -> None:
    page = sheet.contact_sheet([row(name)], subtitle=name)
    drawing.save_png(page, tmp_path / "a.png", {"source": name})
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        expected = name.encode("utf-8", "replace").decode("utf-8")
        assert image.info["source"] == expected or "\x00" in name
    list(save(events_of(source=name, duration_s=0.2), no_sound, tmp_path / "b.png"))
    assert (tmp_path / "b.png").stat().st_size > 1000
    # It stays on its line.
    page = pairs_sheet([card(caption=name, note=name + "!")], title=name)
    assert page.size == pairs_sheet([card(note="n")]).size


def test_long_names_keep_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ink = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    drawn: list[str] = []
    monkeypatch.setattr(ink, "text", lambda _at, words, **_: drawn.append(words))
    drawing.write_line(ink, (0, 0), "begin" + "x" * 200 + "end.wav", 17, (0, 0, 0), 200)
    assert drawn[0].startswith("begin")
    assert drawn[0].endswith("end.wav")
    assert "..." in drawn[0]
    # No fewer letters than there is room for.
    width = ink.textlength(drawn[0], font=drawing.font_of(None, 17))
    assert 185 < width <= 200
    monkeypatch.setattr(drawing, "_FALLBACKS", ())
    assert drawing.dressed("bébé 電.wav", 17)[0] == "bebe ?.wav"


@pytest.mark.parametrize(
    ("seconds", "words", "exact"),
    [
        (0, "0:00", "0:00.0"), (3.25, "0:03.2", "0:03.2"), (59.99, "1:00", "0:59.9"),
        (61.5, "1:01.5", "1:01.5"), (3723.4, "1:02:03.4", "1:02:03.4"), (0.3, "0:00.3", "0:00.3"),
        (0.6000001, "0:00.6", "0:00.6"), (61.0, "1:01", "1:01.0"), (3.29, "0:03.3", "0:03.2"),
    ],
)  # fmt: skip
def test_clock(seconds: float, words: str, exact: str) -> None:
    assert clock(seconds) == words
    assert clock(seconds, tenths=True) == exact
    assert clock(seconds, tenths=False) == exact[:-2]


def test_save_png_is_whole_or_absent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(OutputError):
        drawing.save_png(Image.new("RGB", (4, 4)), tmp_path / "file" / "a.png", {})
    drawing.save_png(Image.new("RGB", (4, 4)), tmp_path / "a.png", {"seed": "1"})
    with Image.open(tmp_path / "a.png") as image:
        assert image.info == {"soundsight": "imagined from sound", "seed": "1"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "file"]
    small = np.zeros((96, 96, 3), np.uint8)
    assert (drawing.picture(small).size, drawing.picture(small, 512).size) == ((96, 96), (512, 512))


def test_book_writes_as_rows_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "ROWS_PER_PAGE", 2)
    book = sheet.SheetBook(tmp_path, "", {"model": "m"})
    for name in "abc":
        book.add(row(f"{name}.wav"))
    assert [p.name for p in book.written] == ["sheet-1.png"]
    assert [p.name for p in book.close()] == ["sheet-1.png", "sheet-2.png"]
    with Image.open(tmp_path / "sheet-1.png") as image:
        assert (image.info["source"], image.info["model"]) == ("a.wav, b.wav", "m")
    one = sheet.SheetBook(tmp_path / "one", "", {})
    one.add(row())
    assert [p.name for p in one.close()] == ["sheet.png"]
    assert sheet.SheetBook(tmp_path / "none", "", {}).close() == []


# --- pairs -------------------------------------------------------------------------------------


def card(
    caption: str = "a.mp4   0:03", note: str = "", px: int = 96, frames: int = 100
) -> PairCard:
    return PairCard(
        mel=np.full((128, frames), 255, np.uint8),
        image=np.full((px, px, 3), RED, np.uint8),
        caption=caption,
        note=note,
    )


@pytest.mark.parametrize("number", [1, 4, 30])
def test_every_pair_is_there(number: int) -> None:
    page = pairs_sheet([card(px=64 + n, frames=50 + n) for n in range(number)])
    assert page.mode == "RGB"
    assert pixels(page, RED) == number * 152 * 152
    # The loudest level of the log-mel has the lightest colour.
    assert pixels(page, (253, 236, 196)) == number * 236 * 152


def test_rows_columns_and_notes() -> None:
    one, three, four = (pairs_sheet([card()] * n) for n in (1, 3, 4))
    assert one.width < three.width == four.width
    assert one.height == three.height < four.height
    assert pairs_sheet([card()] * 4, columns=1).width == one.width
    noted = pairs_sheet([card(), card(note="too quiet")])
    assert noted.height > three.height
    assert pixels(three, AMBER) == 0 < pixels(noted, AMBER)
    page = pairs_sheet([], title="dropped: silent")
    assert pixels(page, RED) == 0
    assert page.height < 200


# --- the events of a file ----------------------------------------------------------------------


def no_sound() -> Iterator[np.ndarray]:
    raise AssertionError("a sheet needs no sound")


def test_every_event_is_there_once(toy_events: FileEvents, tmp_path: Path) -> None:
    list(save(toy_events, no_sound, tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as page:
        assert pixels(page, (220, 40, 40)) == pixels(page, (60, 80, 230)) == 152 * 152
        assert pixels(page, (40, 200, 60)) == 0  # the second event has none
        assert page.info["soundsight"] == "imagined from sound"
        assert (page.info["source"], page.info["seed"]) == ("dog.wav", "7")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        list(save(toy_events, no_sound, tmp_path / "file" / "a.png"))


def test_an_alert_has_a_card_with_its_pictogram(events_of: Make, file_event: Make) -> None:
    alert = file_event(1, (1, 2), state=State.NAMED, name="doorbell", picture=None)
    page = np.asarray(storyboard(events_of(alert)))
    expected = alert_picture("doorbell", 152)
    # The strokes are the lowest of their colour on the page.
    ys, xs = np.nonzero((page == AMBER).all(axis=2))
    own_ys, own_xs = np.nonzero((expected == AMBER).all(axis=2))
    top, left = int(ys.max() - own_ys.max()), int(xs.max() - own_xs.max())
    np.testing.assert_array_equal(page[top : top + 152, left : left + 152], expected)
    # It goes before what is not recognised where there is no room for all.
    unknown = [file_event(n, (n, n + 1), known=False) for n in range(2, MAX_CARDS + 2)]
    assert shown_events([alert, *unknown])[0] is alert


def test_thousands_of_events_are_one_sheet(events_of: Make, file_event: Make) -> None:
    sure = np.random.default_rng(0).uniform(0.5, 1, 2700)
    events = [
        file_event(i + 1, (4.0 * i, 4.0 * i + 2), known=i % 3 > 0, confidence=float(sure[i]))
        for i in range(2700)
    ]
    page = storyboard(events_of(*events, duration_s=10_800.0))
    assert page.width < 1500
    assert page.height < 6000
    chosen = shown_events(events)
    assert len(chosen) == MAX_CARDS
    assert [e.number for e in chosen] == sorted(e.number for e in chosen)
    assert all(event.picture is not None for event in chosen)
    left_out = [e.confidence for e in events if e.picture is not None and e not in chosen]
    assert min(e.confidence for e in chosen) >= max(left_out)


def test_a_quiet_and_a_damaged_file(events_of: Make) -> None:
    quiet = events_of(duration_s=0.5)
    page = storyboard(quiet)
    assert page.height < 500
    told = replace(quiet, warnings=["dog.wav is cut short"])
    assert storyboard(told).height > page.height


@pytest.mark.parametrize(
    ("duration_s", "began_s", "ended_s", "words"),
    [
        (12.0, 1.0, 3.25, "0:01.0 - 0:03.2"),
        (600.0, 122.0, 125.5, "2:02 - 2:05"),
        (600.0, 122.25, 122.75, "2:02.2 - 2:02.7"),
    ],
)
def test_a_time_is_not_said_twice(
    events_of: Make, duration_s: float, began_s: float, ended_s: float, words: str
) -> None:
    assert sheet.span_words(events_of(duration_s=duration_s), began_s, ended_s) == words


@pytest.mark.parametrize(("duration_s", "width"), [(0.2, 900), (12.0, 700), (4000.0, 300)])
def test_the_time_line_shows_what_is_loud_where_it_is(
    events_of: Make, duration_s: float, width: int
) -> None:
    """The second half is loud: so is the right half of the waveform and of the log-mel."""
    told = events_of(duration_s=duration_s)
    count = len(told.overview.waveform)
    told.overview.waveform[: count // 2] *= 0.01
    told.overview.mel[:, : count // 2] = 0
    told.overview.mel[:, count // 2 :] = 255
    made = np.asarray(sheet.timeline(told, width, 60, 40)).astype(int)
    assert made.shape == (sheet.timeline_height(60, 40), width, 3)
    wave = made[sheet.SPANS_PX + 2 : sheet.SPANS_PX + 62]
    painted = (np.abs(wave - WAVE).sum(axis=2) < 12).sum(axis=0)
    edge = max(2, width // 50)
    assert painted[: width // 2 - edge].max() <= 2
    assert painted[width // 2 + edge :].min() >= 6
    mel = made[sheet.SPANS_PX + 66 : sheet.SPANS_PX + 100].sum(axis=(0, 2))
    assert mel[: width // 2 - edge].max() < mel[width // 2 + edge :].min() / 5


def test_events_lie_where_they_are_and_are_told_apart(events_of: Make, file_event: Make) -> None:
    told = events_of(file_event(1, (2.0, 4.0), (6.0, 7.0)), file_event(2, (9.0, 11.0), known=False))
    spans = np.asarray(sheet.timeline(told, 1200, 40, 40))[8].astype(int)
    marked = np.abs(spans - spans[0]).sum(axis=1) > 30
    assert not marked[:200].any()
    assert marked[202:398].all()
    assert not marked[401:599].any()
    assert marked[602:697].all()
    # Hollow: an edge at both ends and nothing between.
    assert marked[900:902].any()
    assert not marked[930:1090].any()
