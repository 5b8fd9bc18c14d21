"""Runs side by side: their figures, and their differences paired by second.

Two runs that drew pictures of the same sounds differ by less than their own intervals say, as a
sound that is hard is hard for both. The difference is therefore taken second by second and
bootstrapped over videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from soundsight import __version__
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import atomic_folder, write_json
from soundsight.evaluation import report as pages
from soundsight.evaluation.bench import PICTURES
from soundsight.evaluation.figures import MARKS, sheet
from soundsight.evaluation.metrics import MEAN, as_json
from soundsight.evaluation.report import BASELINE
from soundsight.evaluation.segments import INFORMATIVITY, differences_of

COMPARISON = "compare.json"
LETTERS = "ABCDEFGH"
"""Of the runs: as many as a table can show side by side."""


def compare(
    folders: Sequence[Path], out: Path | None = None, *, command: str = ""
) -> dict[str, Any]:
    """Put two to eight reports side by side; the first is what the others are compared with.

    ``out`` gets ``compare.json``, ``compare.md``, ``compare.html`` and ``sheet.png``, whole or not
    at all; None to write nothing.

    Returns:
        What compare.json holds: ``runs`` (letter, name, folder, model), ``rows`` (name -> letter
        -> shares), ``numbers`` (name -> letter -> words), ``differences`` (letter -> name ->
        shares, that run minus the first).

    Raises:
        DataError: when a folder holds no report.
        ConfigError: when there are too few or too many, or when they were measured differently.
        OutputError: when ``out`` cannot be written to or holds something else.
    """
    if not 2 <= len(folders) <= len(LETTERS):
        raise ConfigError(f"compare takes 2 to {len(LETTERS)} reports, not {len(folders)}")
    reports = {
        letter: pages.load_report(folder) for letter, folder in zip(LETTERS, folders, strict=False)
    }
    first, *others = reports.values()
    for folder, other in zip(folders[1:], others, strict=True):
        names = str(folders[0]), str(folder)
        pages.check_comparable(first.values, other.values, *names)
        if first.segments.names != other.segments.names:
            raise ConfigError(f"{names[0]} and {names[1]} were not measured on the same seconds")
        networks = [of.values.get("fidelity", {}).get("features", {}) for of in (first, other)]
        if len({network.get("sha256") for network in networks} - {None}) > 1:
            raise ConfigError(
                f"{names[0]} and {names[1]} compare pictures with photos in the features of "
                "different networks: measure both with the same --features"
            )
    seed = int(first.values["settings"]["seed"])
    result: dict[str, Any] = {
        "runs": [
            {
                "letter": letter,
                "name": report.values["model"].get("name", folder.name),
                "folder": str(folder),
                "model": report.values["model"],
            }
            for (letter, report), folder in zip(reports.items(), folders, strict=True)
        ],
        "settings": first.values["settings"],
        "judges": {key: first.values["judges"].get(key) for key in ("name", "sha256")},
        "rows": _side_by_side(
            # Rows of a baseline are another run's.
            {
                letter: {n: row for n, row in of.values["rows"].items() if BASELINE not in n}
                for letter, of in reports.items()
            }
        ),
        "numbers": _side_by_side({x: numbers_of(of.values) for x, of in reports.items()}),
        "differences": {
            letter: as_json(differences_of(first.segments, other.segments, seed))
            for letter, other in list(reports.items())[1:]
        },
        "command": command,
        "version": __version__,
    }
    if out is not None:
        ours = lambda folder: (folder / COMPARISON).is_file()  # noqa: E731
        with atomic_folder(out, overwrite=True, ours=ours) as place:
            write_json(place / COMPARISON, result)
            shown = _sheet(place / "sheet.png", folders, reports)
            pages.write_pages(
                place / "compare", "compare", "Runs side by side",
                {"sheet.png": shown} if shown else {}, report=result, overview=overview(result),
                marks=MARKS,
            )  # fmt: skip
    return result


def _side_by_side(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Turn letter -> name -> value into name -> letter -> value."""
    names = dict.fromkeys(name for part in parts.values() for name in part)
    return {n: {letter: of[n] for letter, of in parts.items() if n in of} for n in names}


def overview(result: dict[str, Any]) -> pages.Table:
    """Make the table of means: every run's figures and their differences from the first's."""
    first, *others = (run["letter"] for run in result["runs"])
    gaps = result["differences"]
    rows = [
        [
            name,
            *(pages.per_cent(by_run.get(letter, {}).get(MEAN)) for letter in (first, *others)),
            *(pages.per_cent(gaps[letter].get(name, {}).get(MEAN)) for letter in others),
        ]
        for name, by_run in result["rows"].items()
    ]
    return pages.Table(
        caption="Means over classes, %, and differences paired by second, in points",
        head=["", first, *others, *[f"{letter} - {first}" for letter in others]],
        rows=rows,
        strong=[INFORMATIVITY],
    )


def numbers_of(report: dict[str, Any]) -> dict[str, str]:
    """Return the figures that are no shares of seconds: name -> number in words."""
    found: dict[str, str] = {}
    about = report.get("fidelity", {})
    for kind in ("pictures", "training photos"):
        if kind in about:
            v = about[kind]
            spread = f"{1000 * v['kid_spread']:.2f}"
            found[f"KID x 1000, {kind}"] = f"{1000 * v['kid']:.2f} (spread {spread})"
            found[f"Frechet distance, {kind}"] = f"{v['frechet']:.2f}"
            found[f"precision, {kind}"] = pages.percent(v["precision"])
            found[f"recall, {kind}"] = pages.percent(v["recall"])
    if "copying" in about:
        v = about["copying"]
        found["nearest training photo, median distance"] = f"{v['generated']:.3f}"
        found["the same of unseen photos"] = f"{v['real']:.3f}"
        found["nearer than 19 of 20 unseen photos"] = pages.percent(v["closer"])
        if "near_duplicates" in v:
            found["near-duplicates of training photos"] = pages.percent(v["near_duplicates"])
    if about.get("variety"):
        found["variety as a share of the photos'"] = f"{about['variety']['mean']:.2f}"
    if report.get("agreement"):
        both = report["agreement"]["all"]
        agreed = f"{pages.percent(both['share'])} (kappa {both['kappa']:z.2f})"
        found["agreement of the judges"] = agreed
    return found


def _sheet(
    path: Path, folders: Sequence[Path], reports: Mapping[str, pages.StoredReport]
) -> pages.Figure | None:
    """Draw what every run drew of the seconds that all sheets show; None when there is none."""
    stored = [_read_pictures(folder / PICTURES) for folder in folders]
    names = [sheet_of["names"].tolist() for sheet_of in stored]
    common = [name for name in names[0] if all(name in others for others in names[1:])]
    if not common:
        return None
    table = reports["A"].segments
    if missing := [name for name in common if name not in table.names]:
        raise DataError(f"{folders[0]} shows {missing[0]}, which it did not measure")
    rows = [table.names.index(name) for name in common]
    places = [[of.index(name) for name in common] for of in names]
    runs = {
        letter: (
            sheet_of["pictures"][place],
            report.segments.values["accepted"][rows] > 0,
            report.segments.values["shown"][rows] > 0,
        )
        for (letter, report), sheet_of, place in zip(reports.items(), stored, places, strict=True)
    }
    kinds = [table.subjects[index] for index in rows]
    return pages.save_figure(path, sheet(stored[0]["mels"][places[0]], runs, kinds))


def _read_pictures(path: Path) -> dict[str, Any]:
    """Return ``names`` [m], ``mels`` and ``pictures`` of a report's sheet."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in ("names", "mels", "pictures")}
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{path} holds no pictures of a sheet") from error
