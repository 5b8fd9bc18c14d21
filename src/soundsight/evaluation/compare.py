"""Runs side by side: their figures, and their differences paired by second.

Two runs that drew pictures of the same sounds differ by less than their own intervals say, as a
sound that is hard is hard for both. The difference is therefore taken second by second and
bootstrapped over videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from soundsight import __version__
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import atomic_file, atomic_folder, write_json
from soundsight.evaluation import seconds as per_second
from soundsight.evaluation.chapters import numbers_of, share_table
from soundsight.evaluation.informativity import MEAN
from soundsight.evaluation.page import (
    Document,
    Figure,
    Section,
    Table,
    as_html,
    as_markdown,
    per_cent,
    photograph,
)
from soundsight.evaluation.sheets import MARKS, side_by_side
from soundsight.evaluation.stored import (
    BASELINE,
    PICTURES,
    StoredReport,
    check_comparable,
    load_report,
    read_pictures,
)

COMPARISON = "compare.json"
MOST = 8
"""Runs that a table can show side by side."""

_LETTERS = "ABCDEFGH"


def compare(
    folders: Sequence[Path], out: Path | None = None, *, command: str = ""
) -> dict[str, Any]:
    """Put reports side by side; the first is what the others are compared with.

    Args:
        folders: two to eight folders of reports, of the same seconds, judges and settings.
        out: gets ``compare.json``, ``compare.md``, ``compare.html`` and ``sheet.png``, whole or
            not at all; None to write nothing.
        command: how this was started.

    Returns:
        What compare.json holds: ``runs`` (letter, name, folder, model), ``rows`` (name -> letter
        -> shares), ``numbers`` (name -> letter -> words), ``differences`` (letter -> name ->
        shares, that run minus the first).

    Raises:
        DataError: when a folder holds no report.
        ConfigError: when there are too few or too many, or when they were measured differently.
        OutputError: when ``out`` cannot be written to or holds something else.
    """
    if not 2 <= len(folders) <= MOST:
        raise ConfigError(f"compare takes 2 to {MOST} reports, not {len(folders)}")
    reports = [load_report(folder) for folder in folders]
    first = reports[0]
    for folder, other in zip(folders[1:], reports[1:], strict=True):
        names = str(folders[0]), str(folder)
        check_comparable(first.values, other.values, *names)
        if list(first.seconds.names) != list(other.seconds.names):
            raise ConfigError(f"{names[0]} and {names[1]} were not measured on the same seconds")
        features = {_features(report) for report in (first, other)} - {None}
        if len(features) > 1:
            raise ConfigError(
                f"{names[0]} and {names[1]} compare pictures with photos in the features of "
                "different networks: measure both with the same --features"
            )
    letters = list(_LETTERS[: len(reports)])
    seed = int(first.values["settings"]["seed"])
    result: dict[str, Any] = {
        "runs": [
            {
                "letter": letter,
                "name": report.values["model"].get("name", folder.name),
                "folder": str(folder),
                "model": report.values["model"],
            }
            for letter, folder, report in zip(letters, folders, reports, strict=True)
        ],
        "settings": first.values["settings"],
        "judges": {key: first.values["judges"].get(key) for key in ("name", "sha256")},
        "rows": _side_by_side([_own_rows(report) for report in reports], letters),
        "numbers": _side_by_side([numbers_of(report.values) for report in reports], letters),
        "differences": {
            letter: {
                name: {key: asdict(share) for key, share in row.items()}
                for name, row in per_second.differences(first.seconds, other.seconds, seed).items()
            }
            for letter, other in zip(letters[1:], reports[1:], strict=True)
        },
        "command": command,
        "version": __version__,
    }
    if out is not None:
        with atomic_folder(out, overwrite=True, ours=_is_comparison) as place:
            figure = _sheet(place / "sheet.png", folders, reports, letters)
            document = document_of(result, figure)
            write_json(place / COMPARISON, result)
            for name, text in (
                ("compare.md", as_markdown(document)),
                ("compare.html", as_html(document)),
            ):
                with atomic_file(place / name) as temporary:
                    temporary.write_text(text, "utf-8")
    return result


def _features(report: StoredReport) -> str | None:
    """Return the SHA-256 of the network whose features KID and the other distances are of."""
    found: str | None = report.values.get("fidelity", {}).get("features", {}).get("sha256")
    return found


def overview(result: dict[str, Any]) -> Table:
    """Make the table of means: every run's figures and their differences from the first's."""
    letters = [run["letter"] for run in result["runs"]]
    first = letters[0]
    rows = []
    for name, by_run in result["rows"].items():
        cells = [per_cent(by_run[letter][MEAN]) if letter in by_run else "" for letter in letters]
        for letter in letters[1:]:
            gap = result["differences"][letter].get(name)
            cells.append(per_cent(gap[MEAN]) if gap else "")
        rows.append([name, *cells])
    return Table(
        caption="Means over classes, %, and differences paired by second, in points",
        head=["", *letters, *[f"{letter} - {first}" for letter in letters[1:]]],
        rows=rows,
        strong=frozenset({per_second.INFORMATIVITY}),
    )


def document_of(result: dict[str, Any], figure: Figure | None) -> Document:
    """Write a comparison out."""
    settings = result["settings"]
    runs = [f"{run['letter']}: {run['name']} (`{run['folder']}`)" for run in result["runs"]]
    first = result["runs"][0]["letter"]
    sections = [
        Section(
            title="All classes",
            tables=[overview(result)],
            notes=[
                "A difference whose interval holds 0 says nothing.",
                "Rows of controls that no translator drew are the same for all.",
            ],
        )
    ]
    sections += [
        Section(
            title=f"{letter} minus {first}, by class",
            tables=[
                share_table(
                    "Differences paired by second, in points", rows, [per_second.INFORMATIVITY]
                )
            ],
        )
        for letter, rows in result["differences"].items()
    ]
    letters = [run["letter"] for run in result["runs"]]
    if result["numbers"]:
        table = Table(
            caption="Figures without an interval",
            head=["", *letters],
            rows=[
                [name, *[by_run.get(letter, "") for letter in letters]]
                for name, by_run in result["numbers"].items()
            ],
        )
        sections.append(Section(title="Fidelity and variety", tables=[table]))
    if figure is not None:
        sections.append(Section(title="The same sounds", figures=[figure]))
    sections.append(
        Section(
            title="How it was made",
            notes=[
                "settings: " + ", ".join(f"{key} {value}" for key, value in settings.items()),
                f"judges: `{result['judges']['name']}` {result['judges']['sha256']}",
                f"command: `{result['command']}`",
                f"version: {result['version']}",
            ],
        )
    )
    return Document(
        title="Runs side by side",
        texts=[
            "; ".join(runs) + ".",
            f"Shares of {settings['split']} in per cent with {100 * settings['confidence']:.0f} % "
            "bootstrap intervals over videos. A difference is taken second by second, so that what "
            "is hard for every run does not blur it.",
        ],
        sections=sections,
    )


def _own_rows(report: StoredReport) -> dict[str, Any]:
    """Leave out the rows of a baseline: they are another run's."""
    return {name: row for name, row in report.values["rows"].items() if BASELINE not in name}


def _side_by_side(parts: Sequence[dict[str, Any]], letters: Sequence[str]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for part in parts for name in part))
    return {
        name: {
            letter: part[name] for letter, part in zip(letters, parts, strict=True) if name in part
        }
        for name in names
    }


def _sheet(
    path: Path, folders: Sequence[Path], reports: Sequence[StoredReport], letters: Sequence[str]
) -> Figure | None:
    """Draw what every run drew of the seconds that all sheets show; None when there is none."""
    sheets = [read_pictures(folder / PICTURES) for folder in folders]
    common = [name for name in sheets[0].names if all(name in s.names for s in sheets[1:])]
    if not common:
        return None
    places = [[sheet.names.index(name) for name in common] for sheet in sheets]
    table = reports[0].seconds
    at = {name: index for index, name in enumerate(table.names)}
    missing = [name for name in common if name not in at]
    if missing:
        raise DataError(f"{folders[0]} shows {missing[0]}, which it did not measure")
    rows = np.array([at[name] for name in common])
    levels = side_by_side(
        sheets[0].mels[places[0]],
        letters,
        [sheet.pictures[place] for sheet, place in zip(sheets, places, strict=True)],
        [r.seconds.values["accepted"][rows] > 0 for r in reports],
        [r.seconds.values["shown"][rows] > 0 for r in reports],
        [table.subjects[index] for index in rows],
    )
    with atomic_file(path) as temporary:
        Image.fromarray(levels).save(temporary, format="PNG")
    return photograph(
        path.name,
        levels,
        "Sounds as log-mels, each with the picture of every run beside it, ticked in green where "
        "the judge accepts",
        "The first picture that each run drew of the same seconds, chosen by the seed. " + MARKS,
    )


def _is_comparison(folder: Path) -> bool:
    return (folder / COMPARISON).is_file()
