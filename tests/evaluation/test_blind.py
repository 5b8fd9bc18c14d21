"""The blind sheet tells nothing, and answers are counted rightly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soundsight.core.errors import DataError
from soundsight.data.vegas.bench import SUBJECTS, Pair
from soundsight.evaluation.blind import (
    ANSWERS,
    FOLDER,
    KEY,
    SHEET,
    answered,
    score,
    wilson,
    write_sheet,
)
from soundsight.evaluation.figures import blind_sheet
from soundsight.evaluation.segments import Segments

N = 10
RIGHT = [SUBJECTS[i % 5] for i in range(N)]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A folder with a blind sheet of two pictures a class; the last picture is not shown."""
    pictures = np.random.default_rng(0).integers(256, size=(N, 96, 96, 3), dtype=np.uint8)
    pairs = [
        Pair(split="val", subject=s, video="", window=0, spectrogram=f"c00{i}.jpg", photo="")
        for i, s in enumerate(RIGHT[::-1])
    ]
    heard = Segments(pairs=pairs, mels=np.zeros((N, 128, 100), np.uint8))
    order = range(N - 1, -1, -1)
    levels = write_sheet(tmp_path, pictures, heard, np.arange(N) > 0, order)
    np.testing.assert_array_equal(levels, blind_sheet(pictures[::-1]))
    with Image.open(tmp_path / SHEET) as sheet:
        np.testing.assert_array_equal(np.asarray(sheet), levels)
    return tmp_path


def fill(report: Path, answers: list[str], separator: str = ",", mark: str = "") -> Path:
    """Fill in the form as a person or a spreadsheet would."""
    path = report / FOLDER / ANSWERS
    lines = [separator.join(["number", "answer"])]
    lines += [f"{n}{separator}{answer}" for n, answer in enumerate(answers, start=1)]
    path.write_text(mark + "\n".join(lines) + "\n", "utf-8")
    return path


def test_what_is_handed_on_names_no_class(report: Path) -> None:
    handed = report / FOLDER
    assert {path.name for path in handed.iterdir()} == {"sheet.png", ANSWERS}
    with Image.open(report / SHEET) as sheet:
        assert sheet.info == {}
    for path in handed.iterdir():
        content = path.read_bytes()
        assert not any(word.encode() in content for word in (*SUBJECTS, "c001", "nothing"))
    assert (handed / ANSWERS).read_text().splitlines() == ["number,answer"] + [
        f"{n}," for n in range(1, N + 1)
    ]


def test_the_key_lies_apart(report: Path) -> None:
    assert "open-after" in KEY
    key = json.loads((report / KEY).read_text())
    assert [line["class"] for line in key["answers"]] == RIGHT
    assert [line["number"] for line in key["answers"]] == list(range(1, N + 1))


def test_right_answers_count_where_the_picture_is_shown(report: Path) -> None:
    found = score(fill(report, ["nothing", " Water ", *RIGHT[2:]]), report / KEY)
    assert found["count"] == N
    # Two wrong ones, and a right one that the program would not have shown.
    assert found["right"]["share"] == 0.7
    assert found["right_unhidden"]["share"] == 0.8
    assert found["classes"]["water"]["share"] == 0.5
    assert found["classes"]["rail"]["share"] == 1
    assert found["confusion"]["baby"] == {
        "baby": 1, "dog": 0, "rail": 0, "fireworks": 0, "water": 0, "nothing": 1
    }  # fmt: skip
    assert found["confusion"]["dog"]["water"] == 1
    assert sum(n for line in found["confusion"].values() for n in line.values()) == N


def test_spreadsheets_are_understood(report: Path) -> None:
    plain = score(fill(report, RIGHT), report / KEY)
    assert score(fill(report, RIGHT, ";", "\ufeff"), report / KEY) == plain


@pytest.mark.parametrize(("hits", "count"), [(0, 50), (7, 10), (21, 50), (50, 50)])
def test_intervals_are_wilson_s(hits: int, count: int) -> None:
    found, share, squared = wilson(hits, count), hits / count, 1.959963984540054**2
    middle = (share + squared / (2 * count)) / (1 + squared / count)
    reach = squared * (share * (1 - share) / count + squared / (4 * count**2))
    reach = np.sqrt(reach) / (1 + squared / count)
    assert found["share"] == share
    assert found["low"] == pytest.approx(max(0, middle - reach), abs=1e-12)
    assert found["high"] == pytest.approx(min(1, middle + reach), abs=1e-12)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["number;class"], "the first line must be number,answer"),
        (["number,answer", "1,cat"], "line 2: unknown answer 'cat'; write one of baby, dog"),
        (["number,answer", "1,"], "line 2: no answer"),
        (["number,answer", "11,dog"], "line 2: '11' is no number from 1 to 10"),
        (["number,answer", "one,dog"], "line 2: 'one' is no number"),
        (["number,answer", f"{'9' * 5000},dog"], "line 2: '99999999999999999999' is no number"),
        (["number,answer", f"1,{'x' * 200_000}"], "line 2: field larger than field limit"),
        (["number,answer", "1,dog", "1,dog"], "line 3: number 1 is answered twice"),
        (["number,answer", "1,dog"], "number 2 has no answer"),
        ([], "the first line must be"),
    ],
)
def test_bad_answers_get_one_line(report: Path, lines: list[str], words: str) -> None:
    path = report / FOLDER / ANSWERS
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=words) as caught:
        score(path, report / KEY)
    assert "\n" not in str(caught.value)


def test_files_that_are_something_else_are_named(report: Path, tmp_path: Path) -> None:
    form = fill(report, ["dog"] * N)
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        score(tmp_path / "none.csv", report / KEY)
    with pytest.raises(DataError, match="is no key of a blind sheet"):
        score(form, form)
    key = json.loads((report / KEY).read_text())
    key["answers"][3]["class"] = "cat"
    (report / KEY).write_text(json.dumps(key))
    with pytest.raises(DataError, match="is no key of a blind sheet"):
        score(form, report / KEY)


def test_a_form_with_answers_is_noticed(report: Path, tmp_path: Path) -> None:
    assert not answered(report)
    assert not answered(tmp_path / "nowhere")
    fill(report, ["", "dog", *[""] * (N - 2)])
    assert answered(report)
