"""The model card that lies in every model folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from soundsight.core.errors import DataError
from soundsight.data.everyday.folder import SUBJECTS, WORDS
from soundsight.evaluation.everyday import (
    FULL_BAND,
    KIND,
    NOTHING_REFUSED,
    RECORDINGS,
    RIGHT,
    UNKNOWN_DRAWN_AS_SET,
)
from soundsight.evaluation.report import per_cent
from soundsight.evaluation.segments import (
    DIFFERENCE,
    HIDDEN,
    INFORMATIVITY,
    REAL_PHOTOS,
    SHUFFLED,
    UNHIDDEN,
)

HEADLINES = (INFORMATIVITY, UNHIDDEN, HIDDEN, SHUFFLED, DIFFERENCE, REAL_PHOTOS)
"""Rows of a report that say, in short, how good a model is."""

EVERYDAY_HEADLINES = (RIGHT, NOTHING_REFUSED, RECORDINGS, SHUFFLED, REAL_PHOTOS)
"""The same of a report on Everyday's sounds: means over 22 subjects."""

_REQUIRED = (INFORMATIVITY, SHUFFLED, REAL_PHOTOS)


def write_card(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``CARD.md`` from the content of ``model.json``."""
    training = values.get("training") or {}
    config = training.get("config") or {}
    loop = config.get("loop") or {}
    facts = {
        "objective": config.get("objective"),
        "preset": config.get("preset"),
        "steps": loop.get("steps"),
        "batch": loop.get("batch_size"),
        "seed": loop.get("seed"),
        "threads": training.get("threads"),
        "begun": training.get("begun"),
        "commit": training.get("commit"),
        "PyTorch": training.get("torch"),
    }
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, keep_trailing_newline=True
    )
    template = templates.get_template("card.md.jinja")
    path.write_text(template.render(values, facts=facts), "utf-8")


def figures_of(report: Path) -> dict[str, str]:
    """Return the figures for a card from a ``report.json`` of ``soundsight evaluate``.

    Raises:
        DataError: when it is no such report.
    """
    try:
        values = json.loads(report.read_text("utf-8"))
        rows, settings = values["rows"], values["settings"]
        if values.get("kind") == KIND:
            figures = {name: per_cent(rows[name]["mean"], " %") for name in EVERYDAY_HEADLINES}
            unknown = values["refusal"][FULL_BAND][UNKNOWN_DRAWN_AS_SET]
            figures["seconds of unknown kinds that are drawn"] = per_cent(unknown["mean"], " %")
            # A reader has to know which kinds to trust.
            figures |= {
                f"right, {WORDS[kind]}": per_cent(rows[RIGHT][kind], " %")
                for kind in SUBJECTS
                if kind in rows[RIGHT]
            }
        else:
            named = [name for name in HEADLINES if name in rows or name in _REQUIRED]
            figures = {name: per_cent(rows[name]["mean"], " %") for name in named}
        figures["measured on"] = f"{settings['split']}, seed {settings['seed']}"
        figures["command"] = str(values["command"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{report} is no report of soundsight evaluate") from error
    return figures
