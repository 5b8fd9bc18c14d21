"""Blind viewing: does a person who heard nothing see what the sound was?

A sheet of numbered pictures without labels and a form for answers lie in one folder, which can be
handed on whole; the key lies outside it, under a name that says when to open it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest

from soundsight.core.errors import DataError
from soundsight.core.files import atomic_file, sha256_of, write_json
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.evaluation.figures import blind_sheet
from soundsight.evaluation.segments import Segments

FOLDER = "blind"
SHEET = f"{FOLDER}/sheet.png"
ANSWERS = "answers.csv"
KEY = "blind-key-open-after-answering.json"
PER_CLASS = 10
NOTHING = "nothing"

_FORMAT = "soundsight-blind-key"
_COLUMNS = ("number", "answer")


def write_sheet(
    out: Path,
    pictures: NDArray[np.uint8],
    sounds: Segments,
    shown: NDArray[np.bool_],
    order: Sequence[int],
    classes: Sequence[str] = SUBJECTS,
) -> NDArray[np.uint8]:
    """Write ``blind/sheet.png``, ``blind/answers.csv`` and, beside the folder, the key.

    ``pictures`` uint8 [n, 96, 96, 3] and ``shown`` are of all ``sounds``, ``order`` those of the
    sheet. Returns the sheet, uint8 [height, width, 3].
    """
    sheet, levels = out / SHEET, blind_sheet(pictures[list(order)], classes)
    with atomic_file(sheet) as temporary:
        Image.fromarray(levels).save(temporary, format="PNG")
    with atomic_file(out / FOLDER / ANSWERS) as temporary:
        temporary.write_text(_empty_form(len(order)), "utf-8")
    answers = [
        {
            "number": number,
            "class": sounds.kinds[place],
            "shown": bool(shown[place]),
            "spectrogram": sounds.names[place],
        }
        for number, place in enumerate(order, start=1)
    ]
    digest = sha256_of(sheet)
    key = {"format": _FORMAT, "sheet_sha256": digest, "classes": list(classes), "answers": answers}
    write_json(out / KEY, key)
    return levels


def _empty_form(count: int) -> str:
    return "\n".join([",".join(_COLUMNS), *[f"{n}," for n in range(1, count + 1)]]) + "\n"


def answered(folder: Path) -> bool:
    """Tell whether somebody has written answers into the form of a report."""
    try:
        text = (folder / FOLDER / ANSWERS).read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, UnicodeError):
        return True
    return text != _empty_form(len(text.splitlines()) - 1)


def score(answers: Path, key: Path) -> dict[str, Any]:
    """Compare a person's answers with the key.

    Returns:
        ``right``: share of all pictures that the program shows and the person names rightly, with
        its 95 % Wilson interval; ``right_unhidden``: the same with nothing hidden; ``classes``:
        ``right`` of each; ``confusion``: class -> answer -> count; ``count``.

    Raises:
        DataError: when one of the files cannot be used, naming the line.
    """
    behind, classes = _read_key(key)
    given = _read_answers(answers, len(behind), (*classes, NOTHING))
    of_class, shown = (np.array(of) for of in zip(*behind, strict=True))
    named = np.array(given) == of_class
    confusion = {s: dict.fromkeys((*classes, NOTHING), 0) for s in classes}
    for answer, (subject, _) in zip(given, behind, strict=True):
        confusion[subject][answer] += 1
    return {
        "count": len(behind),
        "right": wilson(int((named & shown).sum()), len(behind)),
        "right_unhidden": wilson(int(named.sum()), len(behind)),
        "classes": {
            s: wilson(int((named & shown)[of_class == s].sum()), int((of_class == s).sum()))
            for s in classes
            if (of_class == s).any()
        },
        "confusion": confusion,
    }


def wilson(hits: int, count: int) -> dict[str, float]:
    """Return a share and its 95 % Wilson score interval (Wilson 1927)."""
    interval = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return {"share": hits / count, "low": float(interval.low), "high": float(interval.high)}


def _read_key(path: Path) -> tuple[list[tuple[str, bool]], tuple[str, ...]]:
    """Return the class of each picture and whether it is shown, and all classes."""
    try:
        record = json.loads(path.read_text("utf-8"))
        if record["format"] != _FORMAT or not record["answers"]:
            raise ValueError("another format")
        # Keys from before there were other classes name none.
        classes = tuple(map(str, record.get("classes", SUBJECTS)))
        behind = [(line["class"], bool(line["shown"])) for line in record["answers"]]
        numbers = [line["number"] for line in record["answers"]]
        if numbers != [*range(1, len(numbers) + 1)] or any(s not in classes for s, _ in behind):
            raise ValueError("another order")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no key of a blind sheet") from error
    return behind, classes


def _read_answers(path: Path, count: int, choices: Sequence[str]) -> list[str]:
    try:
        # Spreadsheets put a mark before the text and, in some countries, semicolons between.
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read as a form of answers") from error
    rows = csv.reader(text.splitlines(), delimiter=";" if ";" in text.partition("\n")[0] else ",")
    try:
        lines = [(rows.line_num, [cell.strip() for cell in cells]) for cells in rows]
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: {error}") from error
    if not lines or tuple(cell.lower() for cell in lines[0][1][:2]) != _COLUMNS:
        raise DataError(f"{path}: the first line must be {','.join(_COLUMNS)}")
    given: dict[str, str] = {}
    numbers = [str(number) for number in range(1, count + 1)]
    for place, cells in lines[1:]:
        if not any(cells):
            continue
        number, answer = (*cells, "")[:2]
        number, answer = number.lstrip("0"), answer.lower()
        problem = ""
        if number not in numbers:
            problem = f"{cells[0][:20]!r} is no number from 1 to {count}"
        elif number in given:
            problem = f"number {number} is answered twice"
        elif answer not in choices:
            what = f"unknown answer {answer!r}" if answer else "no answer"
            problem = f"{what}; write one of {', '.join(choices)}"
        if problem:
            raise DataError(f"{path}, line {place}: {problem}")
        given[number] = answer
    for number in numbers:
        if number not in given:
            raise DataError(f"{path}: number {number} has no answer")
    return [given[number] for number in numbers]
