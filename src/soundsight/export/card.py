"""The model card that lies in every model folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from soundsight.core.errors import DataError
from soundsight.data.everyday.folder import SUBJECTS, WORDS
from soundsight.evaluation import everyday, segments
from soundsight.evaluation.report import per_cent

HEADLINES = (
    segments.INFORMATIVITY, segments.UNHIDDEN, segments.HIDDEN, segments.SHUFFLED,
    segments.DIFFERENCE, segments.REAL_PHOTOS,
)  # fmt: skip
"""Rows of a report that say, in short, how good a model is."""

EVERYDAY_HEADLINES = (
    everyday.RIGHT, everyday.NOTHING_REFUSED, everyday.RECORDINGS, segments.SHUFFLED,
    segments.REAL_PHOTOS,
)  # fmt: skip
"""The same of a report on Everyday's sounds: means over 22 subjects."""

_OPTIONAL = (segments.UNHIDDEN, segments.HIDDEN, segments.DIFFERENCE)


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
        on_everyday = values.get("kind") == everyday.KIND
        named = EVERYDAY_HEADLINES if on_everyday else HEADLINES
        shown = {
            name: rows[name]["mean"] for name in named if name in rows or name not in _OPTIONAL
        }
        if on_everyday:
            unknown = values["refusal"][everyday.FULL_BAND][everyday.UNKNOWN_DRAWN_AS_SET]
            shown["seconds of unknown kinds that are drawn"] = unknown["mean"]
            # A reader has to know which kinds to trust.
            right = rows[everyday.RIGHT]
            shown |= {f"right, {WORDS[kind]}": right[kind] for kind in SUBJECTS if kind in right}
        figures = {name: per_cent(share, " %") for name, share in shown.items()}
        figures["measured on"] = f"{settings['split']}, seed {settings['seed']}"
        figures["command"] = str(values["command"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{report} is no report of soundsight evaluate") from error
    return figures
