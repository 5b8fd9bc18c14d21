"""One measurement of a translator: the figures, the page that shows them, the sheet of pictures."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from soundsight import __version__
from soundsight.core.errors import DataError
from soundsight.core.runs import atomic_file, commit, write_json
from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_PX, N_MELS
from soundsight.evaluation.informativity import (
    CONFIDENCE,
    MEAN,
    RESAMPLES,
    Shares,
    audible,
    photo_controls,
    shares,
    shuffled,
    sound_control,
    white_noise_mels,
)
from soundsight.evaluation.judging import Judges
from soundsight.pairs.bench import SUBJECTS, Bench, Pair

REPORT_VERSION = 1
INFORMATIVITY = "informativity"
SHUFFLED = "shuffled sounds"
DIFFERENCE = "informativity minus shuffled"
HIDDEN = "hidden"

_AT_ONCE = 64
_CONTROL_SOUNDS = 20
_MARGIN_PX = 6
_ACCEPTED, _REFUSED = (46, 160, 67), (120, 120, 120)


class Imagines(Protocol):
    """What is measured: a translator, or anything that draws pictures of log-mels."""

    def imagine(
        self, mels: NDArray[np.uint8], *, draws: int = 1, seed: int = 0
    ) -> NDArray[np.uint8]:
        """Draw uint8 [n, 96, 96, 3] of log-mels uint8 [n, 128, 100]."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and with which seed."""

    split: str = "devtest"
    seed: int = 0
    """Of the pictures, the shuffling, the uninformative pictures and the intervals."""
    limit: int | None = None
    """At most so many seconds a class, chosen by the seed; None = all."""
    sheet_per_class: int = 8
    """Pictures a class on the sheet."""
    floor_per_kind: int = 200
    """Uninformative pictures of each kind, a class."""


def evaluate(
    translator: Imagines,
    judges: Judges,
    bench: Bench,
    out: Path,
    config: EvaluationConfig | None = None,
    *,
    model: dict[str, Any] | None = None,
    command: str = "",
    early: NDArray[np.uint8] | None = None,
    refuses: Callable[[NDArray[np.uint8]], NDArray[np.bool_]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a translator on sounds it never heard; write report.json, report.md and sheet.png.

    The first picture drawn of every second is judged, without selection. The same arguments give
    the same files, to the last byte.

    Args:
        translator: draws the pictures.
        judges: decide.
        bench: sounds and photos.
        out: folder of the three files, made when missing.
        config: split, seed, limit.
        model: what names the model in the report (name, path, SHA-256).
        command: how this was started, for the report.
        early: early-generator pictures, of which the judges' val part is one more floor.
        refuses: pictures uint8 [n, 96, 96, 3] -> bool [n], those that the program would not show;
            these, and inaudible seconds, count as misses, and what is accepted with nothing
            hidden stands beside it.
        progress: called with (seconds drawn, seconds in all).

    Returns:
        What report.json holds.

    Raises:
        DataError: when the split holds no sounds.
        OutputError: when ``out`` cannot be written to.
    """
    config = config or EvaluationConfig()
    seed = config.seed
    pairs = chosen_seconds(bench.pairs(config.split), config)
    if not pairs:
        raise DataError(f"the bench at {bench.root} holds no sounds of {config.split}")
    mels = np.stack([bench.spectrogram(pair.spectrogram) for pair in pairs])
    pictures = _imagine(translator, mels, seed, progress)
    subjects, videos = [p.subject for p in pairs], [p.video for p in pairs]
    heard = audible(mels)
    accepted = judges.accepts(pictures, subjects)
    # A refused sound counts as not informative: the receiver sees no picture of it.
    shown = np.ones(len(pictures), bool) if refuses is None else heard & ~refuses(pictures)
    hits = accepted & shown
    rows: dict[str, Shares] = {
        INFORMATIVITY: shares(hits, subjects, videos, seed=seed),
        "informativity, audible seconds": shares(
            hits[heard], _where(subjects, heard), _where(videos, heard), seed=seed
        ),
        "informativity, mean of each video": shares(
            hits, subjects, videos, seed=seed, by_video=True
        ),
    }
    if refuses is not None:
        rows["informativity, nothing hidden"] = shares(accepted, subjects, videos, seed=seed)
        rows[HIDDEN] = shares(~shown, subjects, videos, seed=seed)
    order = shuffled(subjects, seed)
    if order is not None:
        strange = judges.accepts(pictures[order], subjects)
        rows[SHUFFLED] = shares(strange & shown[order], subjects, videos, seed=seed)
        paired = hits.astype(np.int64) - (strange & shown[order])
        rows[DIFFERENCE] = shares(paired, subjects, videos, seed=seed)
        if refuses is not None:
            rows["shuffled sounds, nothing hidden"] = shares(strange, subjects, videos, seed=seed)
    rows |= photo_controls(
        judges, bench, config.split, seed=seed, per_kind=config.floor_per_kind, early=early
    )
    silence = np.zeros((1, N_MELS, FRAMES_PER_SEGMENT), dtype=np.uint8)
    noise = white_noise_mels(_CONTROL_SOUNDS, seed)
    # Silence is one sound: its pictures differ by the seed alone.
    of_silence = [translator.imagine(silence, seed=seed + i) for i in range(_CONTROL_SOUNDS)]
    drawn = {
        "silence": np.concatenate(of_silence),
        "white noise": translator.imagine(noise, seed=seed),
    }
    for name, control in drawn.items():
        rows[f"{name}: accepted"] = sound_control(judges, control, seed=seed)
        if refuses is not None:
            # Silence is quiet: the program draws nothing, whatever its critic says.
            visible = ~refuses(control) & (name != "silence")
            rows[f"{name}: shown and accepted"] = sound_control(
                judges, control, shown=visible, seed=seed
            )
    report = {
        "report_version": REPORT_VERSION,
        "model": model or {},
        "judges": {
            "name": judges.name,
            "sha256": judges.sha256,
            "thresholds": judges.thresholds,
        },
        "settings": asdict(config) | {"resamples": RESAMPLES, "confidence": CONFIDENCE},
        "sounds": {s: subjects.count(s) for s in SUBJECTS if s in subjects},
        "audible": int(heard.sum()),
        "rows": {
            name: {key: asdict(share) for key, share in row.items()} for name, row in rows.items()
        },
        "command": command,
        "machine": _machine(),
        "version": __version__,
        "commit": commit(),
    }
    write_json(out / "report.json", report)
    with atomic_file(out / "report.md") as temporary:
        temporary.write_text(as_markdown(report), "utf-8")
    chosen = _on_sheet(pairs, config)
    with atomic_file(out / "sheet.png") as temporary:
        picture = sheet(mels[chosen], pictures[chosen], hits[chosen], _at(subjects, chosen))
        Image.fromarray(picture).save(temporary, format="PNG")
    return report


def chosen_seconds(pairs: Sequence[Pair], config: EvaluationConfig) -> list[Pair]:
    """Return the seconds to be measured, in the table's order: all, or ``limit`` a class.

    A limit takes seconds of as many videos as it can.
    """
    if config.limit is None:
        return list(pairs)
    kept: set[int] = set()
    for number, subject in enumerate(SUBJECTS):
        kept |= set(_spread(pairs, subject, config.limit, (config.seed, number, 2)))
    return [pair for index, pair in enumerate(pairs) if index in kept]


def sheet(
    mels: NDArray[np.uint8],
    pictures: NDArray[np.uint8],
    accepted: NDArray[np.bool_],
    subjects: Sequence[str],
) -> NDArray[np.uint8]:
    """Draw log-mel and picture side by side, a row a class, ticked where its judge accepts.

    Args:
        mels: uint8 [n, 128, 100].
        pictures: uint8 [n, 96, 96, 3].
        accepted: bool [n].
        subjects: n class names.

    Returns:
        uint8 [height, width, 3].
    """
    present = [subject for subject in SUBJECTS if subject in subjects]
    columns = max(list(subjects).count(subject) for subject in present)
    mel_px = round(IMAGE_PX * FRAMES_PER_SEGMENT / N_MELS)
    label_px, cell = 70, mel_px + IMAGE_PX + 2 * _MARGIN_PX
    size = (label_px + columns * cell, len(present) * (IMAGE_PX + _MARGIN_PX) + _MARGIN_PX)
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    for row, subject in enumerate(present):
        top = _MARGIN_PX + row * (IMAGE_PX + _MARGIN_PX)
        pen.text((_MARGIN_PX, top + IMAGE_PX // 2 - 6), subject, fill="black")
        for column, index in enumerate(i for i, s in enumerate(subjects) if s == subject):
            left = label_px + column * cell
            mel = Image.fromarray(mels[index]).resize((mel_px, IMAGE_PX))
            page.paste(mel.convert("RGB"), (left, top))
            left += mel_px
            page.paste(Image.fromarray(pictures[index]), (left, top))
            colour = _ACCEPTED if accepted[index] else _REFUSED
            box = (left, top, left + IMAGE_PX - 1, top + IMAGE_PX - 1)
            pen.rectangle(box, outline=colour, width=2)
            if accepted[index]:
                x, y = left + IMAGE_PX - 20, top + IMAGE_PX - 12
                pen.line([(x, y), (x + 5, y + 5), (x + 14, y - 8)], fill=_ACCEPTED, width=4)
    return np.asarray(page, dtype=np.uint8)


def as_markdown(report: dict[str, Any]) -> str:
    """Write the report as a page: one table of shares with intervals, then how it was made."""
    classes = list(report["sounds"])
    settings, model, judges = report["settings"], report["model"], report["judges"]
    confidence = f"{settings['confidence']:.0%}"
    lines = [
        f"# Informativity of {model.get('name', 'the translator')}",
        "",
        f"Share of unknown 1-s sounds of {settings['split']} whose picture the judge of the "
        f"sound's class accepts, in per cent, with {confidence} bootstrap intervals over videos "
        f"({settings['resamples']} resamples). The first picture drawn of each second counts.",
        "",
        "| | " + " | ".join([MEAN, *classes]) + " |",
        "|---" * (len(classes) + 2) + "|",
    ]
    for name, row in report["rows"].items():
        cells = [_cell(row.get(key)) for key in [MEAN, *classes]]
        title = f"**{name}**" if name == INFORMATIVITY else name
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    sounds = ", ".join(f"{count} {subject}" for subject, count in report["sounds"].items())
    facts = {
        "seconds": f"{sum(report['sounds'].values())} ({sounds}), {report['audible']} audible",
        "model": f"{model.get('path', '')} {model.get('sha256', '')}",
        "judges": f"{judges['name']} {judges['sha256']}",
        "settings": ", ".join(f"{key} {value}" for key, value in settings.items()),
        "command": f"`{report['command']}`",
        "machine": ", ".join(f"{key} {value}" for key, value in report["machine"].items()),
        "version": f"{report['version']}, commit {report['commit']}",
    }
    notes = """
* *real photos* is the ceiling, each *floor* row must stay under 5: the thresholds accept 85 % of
  the class's val photos, so a judge with a higher floor is to be retrained.
* *shuffled sounds*: the picture of a sound of another class, judged by this sound's judge.
* *silence* and *white noise*: what each class's judge accepts of their pictures.
* *informativity minus shuffled* is paired by sound."""
    lines += [notes, "", *[f"* {key}: {value}" for key, value in facts.items()], ""]
    return "\n".join(lines)


def _cell(share: dict[str, float] | None) -> str:
    if share is None:
        return ""
    point, low, high = (100 * share[key] for key in ("share", "low", "high"))
    return f"{point:.1f} [{low:.1f}, {high:.1f}]"


def _imagine(
    translator: Imagines,
    mels: NDArray[np.uint8],
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.uint8]:
    drawn = []
    for start in range(0, len(mels), _AT_ONCE):
        drawn.append(translator.imagine(mels[start : start + _AT_ONCE], draws=1, seed=seed))
        if progress is not None:
            progress(min(start + _AT_ONCE, len(mels)), len(mels))
    return np.concatenate(drawn)


def _spread(pairs: Sequence[Pair], subject: str, count: int, seed: tuple[int, ...]) -> list[int]:
    """Choose ``count`` places in ``pairs`` of a class at random, one a video while they last."""
    rng = np.random.default_rng(seed)
    mine = [i for i in rng.permutation(len(pairs)).tolist() if pairs[i].subject == subject]
    seen: dict[str, int] = {}
    turns = []
    for index in mine:
        turns.append(seen.get(pairs[index].video, 0))
        seen[pairs[index].video] = turns[-1] + 1
    return [mine[k] for k in np.argsort(turns, kind="stable")[:count]]


def _on_sheet(pairs: Sequence[Pair], config: EvaluationConfig) -> list[int]:
    """Choose what the sheet shows by the seed, never by the score."""
    chosen: list[int] = []
    for number, subject in enumerate(SUBJECTS):
        chosen += _spread(pairs, subject, config.sheet_per_class, (config.seed, number, 3))
    return chosen


def _where(names: Sequence[str], kept: NDArray[np.bool_]) -> list[str]:
    return [name for name, keep in zip(names, kept, strict=True) if keep]


def _at(names: Sequence[str], places: Sequence[int]) -> list[str]:
    return [names[place] for place in places]


def _machine() -> dict[str, str]:
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cpus": str(os.cpu_count()),
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
    }
