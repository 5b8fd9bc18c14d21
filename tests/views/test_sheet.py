"""Contact sheets and the PNG files that say what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soundsight.core.errors import OutputError
from soundsight.views import drawing, sheet


def row(name: str = "dog.wav", *, count: int = 1, note: str = "", more: int = 0) -> sheet.Row:
    rng = np.random.default_rng(0)
    return sheet.Row(
        name=name,
        second=3.0,
        mel=rng.integers(0, 256, (128, 100), dtype=np.uint8),
        waveform=np.stack([-np.ones(100), np.ones(100)], axis=1).astype(np.float32) * 0.5,
        images=[np.full((96, 96, 3), (250, 10, 20), np.uint8)] * count,
        notes=[note] * count,
        more=more,
    )


def share(page: Image.Image, color: tuple[int, int, int]) -> float:
    return float((np.asarray(page) == color).all(axis=2).mean())


def test_pages() -> None:
    assert sheet.contact_sheet([]) == []
    assert len(sheet.contact_sheet([row()] * 20)) == 1
    pages = sheet.contact_sheet([row()] * 45)
    assert len(pages) == 3
    assert pages[0].size == pages[1].size
    assert pages[2].height < pages[0].height


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 30])
def test_every_picture_is_there(count: int) -> None:
    (page,) = sheet.contact_sheet([row(count=count)])
    shown = min(count, sheet.MAX_PICTURES)
    expected = shown * 152 * 152 / (page.width * page.height)
    assert share(page, (250, 10, 20)) == pytest.approx(expected, rel=1e-6)


def test_a_note_stands_in_the_picture() -> None:
    (plain,) = sheet.contact_sheet([row()])
    (noted,) = sheet.contact_sheet([row(note="nothing recognisable")])
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
    (page,) = sheet.contact_sheet([row(name)], subtitle=name)
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
    assert sheet.clock(seconds) == text


def test_silent_and_short_waveforms() -> None:
    flat = sheet.Row(
        name="a",
        second=0.0,
        mel=np.zeros((128, 100), np.uint8),
        waveform=np.zeros((0, 2), np.float32),
        images=[],
        notes=[],
    )
    assert len(sheet.contact_sheet([flat])) == 1


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
