"""Contact sheets and the PNG files that say what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soundsight.core.errors import OutputError
from soundsight.views import drawing, sheet
from soundsight.views.sheet import PairCard, pairs_sheet

RED = (250, 10, 20)


def row(name: str = "dog.wav", *, count: int = 1, note: str = "", more: int = 0) -> sheet.Row:
    rng = np.random.default_rng(0)
    return sheet.Row(
        name=name,
        second=3.0,
        mel=rng.integers(0, 256, (128, 100), dtype=np.uint8),
        waveform=np.stack([-np.ones(100), np.ones(100)], axis=1).astype(np.float32) * 0.5,
        images=[np.full((96, 96, 3), RED, np.uint8)] * count,
        notes=[note] * count,
        more=more,
    )


def count(page: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(page) == color).all(axis=2).sum())


def test_a_page_is_as_high_as_its_cards_need() -> None:
    full, other, part = (sheet.contact_sheet([row()] * n) for n in (20, 20, 5))
    assert full.size == other.size
    assert part.height < full.height


@pytest.mark.parametrize("number", [1, 2, 3, 7, 12, 30])
def test_every_picture_is_there(number: int) -> None:
    page = sheet.contact_sheet([row(count=number)])
    assert count(page, RED) == min(number, sheet.MAX_PICTURES) * 152 * 152


def test_a_note_stands_in_the_picture() -> None:
    plain = sheet.contact_sheet([row()])
    noted = sheet.contact_sheet([row(note="nothing recognisable")])
    assert plain.size == noted.size
    difference = np.abs(np.asarray(plain).astype(int) - np.asarray(noted)).sum(axis=2) > 0
    ys, _xs = np.nonzero(difference)
    assert len(ys) > 100


@pytest.mark.parametrize(
    "name",
    [
        "電車の音.wav",
        "собака.wav",
        "كلب.wav",
        "bébé.flac",
        "🐶.wav",
        "two\nlines.wav",
        "\udcff\udcfe.wav",
        "\x00\x1b[31m",
        "",
        "x" * 5000,
        "נביחה" * 50,
    ],
)
def test_names_in_any_script(name: str, tmp_path: Path) -> None:
    page = sheet.contact_sheet([row(name)], subtitle=name)
    sheet.save_png(page, tmp_path / "a.png", {"source": name})
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        expected = name.encode("utf-8", "replace").decode("utf-8")
        assert image.info["source"] == expected or "\x00" in name


def test_long_names_keep_both_ends() -> None:
    from PIL import ImageDraw

    ink = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    drawn: list[str] = []
    ink.text = lambda _at, words, **_: drawn.append(words)  # type: ignore[method-assign]
    drawing.write_line(ink, (0, 0), "begin" + "x" * 200 + "end.wav", 17, (0, 0, 0), 200)
    assert drawn[0].startswith("begin")
    assert drawn[0].endswith("end.wav")
    assert "..." in drawn[0]


def test_names_without_anysystem_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_FALLBACKS", ())
    assert drawing.dressed("bébé 電.wav", 17)[0] == "bebe ?.wav"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (3.25, "0:03.2"), (59.99, "1:00"), (61.0, "1:01"), (3723.4, "1:02:03.4")],
)
def test_clock(seconds: float, text: str) -> None:
    assert drawing.clock(seconds) == text


def test_silent_and_short_waveforms() -> None:
    flat = sheet.Row(
        name="a",
        second=0.0,
        mel=np.zeros((128, 100), np.uint8),
        waveform=np.zeros((0, 2), np.float32),
        images=[],
        notes=[],
    )
    assert sheet.contact_sheet([flat]).height > 100


def test_save_png_is_whole_or_absent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(OutputError):
        sheet.save_png(Image.new("RGB", (4, 4)), tmp_path / "file" / "a.png", {})
    path = tmp_path / "a.png"
    sheet.save_png(Image.new("RGB", (4, 4)), path, {"seed": "1"})
    with Image.open(path) as image:
        assert image.info == {"soundsight": "imagined from sound", "seed": "1"}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_size_is_upscaled() -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    assert sheet.picture(image).size == (96, 96)
    assert sheet.picture(image, 512).size == (512, 512)


def test_book_writes_as_rows_come(tmp_path: Path) -> None:
    book = sheet.SheetBook(tmp_path, rows_per_page=2, texts={"model": "m"})
    for name in "abc":
        book.add(row(f"{name}.wav"))
    assert [p.name for p in book.written] == ["sheet-1.png"]
    assert [p.name for p in book.close()] == ["sheet-1.png", "sheet-2.png"]
    with Image.open(tmp_path / "sheet-1.png") as image:
        assert image.info["source"] == "a.wav, b.wav"
        assert image.info["model"] == "m"
    one = sheet.SheetBook(tmp_path / "one")
    one.add(row())
    assert [p.name for p in one.close()] == ["sheet.png"]
    assert sheet.SheetBook(tmp_path / "none").close() == []


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


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 30])
def test_every_pair_is_there(number: int) -> None:
    page = pairs_sheet([card(px=64 + n, frames=50 + n) for n in range(number)])
    assert page.mode == "RGB"
    assert count(page, RED) == number * 152 * 152
    # The loudest level of the log-mel has the lightest colour.
    assert count(page, (253, 236, 196)) == number * 236 * 152


def test_rows_and_columns() -> None:
    one, three, four = (pairs_sheet([card()] * n) for n in (1, 3, 4))
    assert one.width < three.width == four.width
    assert one.height == three.height < four.height
    assert pairs_sheet([card()] * 4, columns=1).width == one.width


def test_a_note_has_a_line_of_its_own() -> None:
    plain, noted = pairs_sheet([card(), card()]), pairs_sheet([card(), card(note="too quiet")])
    assert noted.height > plain.height
    assert count(plain, (222, 180, 112)) == 0 < count(noted, (222, 180, 112))


@pytest.mark.parametrize("caption", ["", "x" * 5000, "犬が吠える.mp4", "a\nb\x07", "\udc80.mp4"])
def test_any_name_stays_on_its_line(caption: str) -> None:
    page = pairs_sheet([card(caption=caption, note=caption + "!")], title=caption)
    assert page.size == pairs_sheet([card(note="n")]).size


def test_no_pairs() -> None:
    page = pairs_sheet([], title="dropped: silent")
    assert count(page, RED) == 0
    assert page.height < 200
