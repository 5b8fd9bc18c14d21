"""Reports that lie in folders: read again, and checked before two of them are compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from soundsight.core.config import differences
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import atomic_file
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.evaluation.seconds import FILE, Seconds, read
from soundsight.judges import files as judge_files
from soundsight.judges.apply import PACKAGED_JUDGES
from soundsight.judges.negatives import EarlyPictures
from soundsight.judges.tables import SECOND

REPORT_VERSION = 2
REPORT = "report.json"
PICTURES = "pictures.npz"
BASELINE = "baseline"
"""A word in the name of every row that has to do with another report."""

_FREE = ("blind_sheet", "sheet_per_class")
"""Settings that change no figure of the first picture."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredReport:
    """A report as ``soundsight evaluate`` left it.

    Attributes:
        values: what report.json holds.
        seconds: what was found of every second.
    """

    values: dict[str, Any]
    seconds: Seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class SheetPictures:
    """The seconds of a report's sheet.

    Attributes:
        names: of the m seconds.
        mels: uint8 [m, 128, 100].
        pictures: uint8 [m, 96, 96, 3].
    """

    names: list[str]
    mels: NDArray[np.uint8]
    pictures: NDArray[np.uint8]


def load_report(folder: Path) -> StoredReport:
    """Read the report in a folder.

    Raises:
        DataError: when there is none, or it is of another version or damaged.
    """
    path = folder / REPORT
    try:
        values = json.loads(path.read_text("utf-8"))
        if values.get("kind"):
            raise DataError(f"{folder} is a report on an {values['kind']}: it takes a translator's")
        version = values["report_version"]
        if version != REPORT_VERSION:
            raise DataError(
                f"{path} is of version {version}, this program reads {REPORT_VERSION}: "
                "evaluate again"
            )
        for key in ("model", "judges", "settings", "sounds", "rows"):
            if not isinstance(values[key], dict):
                raise ValueError(key)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no report of soundsight evaluate") from error
    return StoredReport(values=values, seconds=read(folder / FILE))


def check_comparable(
    first: Mapping[str, Any], other: Mapping[str, Any], first_name: str, other_name: str
) -> None:
    """Check that two reports, or their beginnings, were measured in the same way.

    Args:
        first: holds ``settings`` and ``judges``.
        other: the same of another.
        first_name: how the message calls the first.
        other_name: and the other.

    Raises:
        ConfigError: naming what differs.
    """
    changed = [
        name for name in differences(first["settings"], other["settings"]) if name not in _FREE
    ]
    if changed:
        a, b = (str(report["settings"].get(changed[0])) for report in (first, other))
        raise ConfigError(
            f"{first_name} and {other_name} differ in {changed[0]} ({a}, {b}): "
            "measure both in the same way"
        )
    if first["judges"].get("sha256") != other["judges"].get("sha256"):
        raise ConfigError(
            f"{first_name} and {other_name} were measured by different judges: "
            "measure both by the same"
        )


def write_pictures(path: Path, sheet: SheetPictures) -> None:
    """Write the seconds of a sheet as ``.npz``, without a date."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, names=np.array(sheet.names), mels=sheet.mels, pictures=sheet.pictures
        )


def read_pictures(path: Path) -> SheetPictures:
    """Read what ``write_pictures`` wrote.

    Raises:
        DataError: when it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return SheetPictures(
                names=[str(name) for name in archive["names"]],
                mels=archive["mels"],
                pictures=archive["pictures"],
            )
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{path} holds no pictures of a sheet") from error


def val_tables(folder: Path | None) -> dict[str, dict[str, Any]]:
    """Return what the thresholds of judges pass on val, as their training wrote it down.

    Args:
        folder: of the judges; None for those of the package.

    Returns:
        ``judge`` and, where there is one, ``second judge`` -> class -> ``threshold``, ``photos``,
        ``accepted``, ``passed`` (kind of picture -> share).

    Raises:
        ModelError: when the folder is no whole folder of judges.
    """
    done = judge_files.read(folder or PACKAGED_JUDGES, "judges")[1]["done"]
    tables = {"judge": {subject: done[subject] for subject in SUBJECTS if subject in done}}
    if SECOND in done:
        tables["second judge"] = done[SECOND]["tables"]
    return tables


def check_early(folder: Path | None, early: EarlyPictures) -> None:
    """Check that early pictures are those that the judges were trained with.

    Others would be no floor: the judges' val part is found by a picture's place among them.

    Raises:
        ConfigError: when they are others.
        ModelError: when the folder is no whole folder of judges.
    """
    folder = folder or PACKAGED_JUDGES
    known = judge_files.read(folder, "judges")[1]["settings"]["early"]
    if not known["count"]:
        raise ConfigError(f"--early: the judges in {folder} were trained without early pictures")
    if known["sha256"] != early.sha256:
        raise ConfigError(
            f"--early: these {len(early)} pictures are not the {known['count']} that the judges "
            f"in {folder} were trained with: name the same files in the same order"
        )
