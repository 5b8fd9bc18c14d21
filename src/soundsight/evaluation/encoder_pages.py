"""The pages and pictures of an encoder's report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.figure import Figure as Chart
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from soundsight.core.units import FRAMES_PER_SEGMENT, N_MELS
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.evaluation.informativity import MEAN
from soundsight.evaluation.page import Document, Figure, Section, Table, per_cent
from soundsight.views.drawing import DIM, GAP_PX, MARGIN_PX, PAGE, TEXT, heat, write_line

PROBE, NEAREST, BANDS = "linear probe", "nearest seconds", "band means"
RECONSTRUCTION, MEAN_MEL = "reconstruction", "mean log-mel of train"

_LABEL_PX, _CAPTION_PX = 92, 22
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9")


def reconstruction_sheet(
    mels: NDArray[np.uint8],
    drawings: NDArray[np.uint8],
    subjects: Sequence[str],
    errors: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Draw log-mels over their reconstructions, a row a class, the error below.

    Args:
        mels: uint8 [n, 128, 100].
        drawings: uint8 [n, 128, 100].
        subjects: n class names.
        errors: mean squared error of each, [n].

    Returns:
        uint8 [height, width, 3].
    """
    present = [subject for subject in SUBJECTS if subject in subjects]
    columns = max(list(subjects).count(subject) for subject in present)
    cell_w, cell_h = FRAMES_PER_SEGMENT + GAP_PX // 2, 2 * N_MELS + 4 + _CAPTION_PX
    size = (
        2 * MARGIN_PX + _LABEL_PX + columns * cell_w - GAP_PX // 2,
        2 * MARGIN_PX + len(present) * (cell_h + GAP_PX) - GAP_PX,
    )
    page = Image.new("RGB", size, PAGE)
    ink = ImageDraw.Draw(page)
    for row, subject in enumerate(present):
        top = MARGIN_PX + row * (cell_h + GAP_PX)
        below = top + N_MELS + 4
        write_line(ink, (MARGIN_PX, top), subject, 16, TEXT, _LABEL_PX)
        write_line(ink, (MARGIN_PX, top + 24), "heard", 13, DIM, _LABEL_PX)
        write_line(ink, (MARGIN_PX, below + 4), "drawn again", 13, DIM, _LABEL_PX)
        for column, index in enumerate(i for i, s in enumerate(subjects) if s == subject):
            left = MARGIN_PX + _LABEL_PX + column * cell_w
            page.paste(Image.fromarray(heat()[mels[index]]), (left, top))
            page.paste(Image.fromarray(heat()[drawings[index]]), (left, below))
            at = (left, below + N_MELS + 3)
            write_line(ink, at, f"{errors[index]:.3f}", 13, DIM, FRAMES_PER_SEGMENT)
    return np.asarray(page, dtype=np.uint8)


def draw_map(
    places: NDArray[np.float64], subjects: Sequence[str], titles: tuple[str, str]
) -> bytes:
    """Draw where the embeddings lie, a panel a class over all the others, as PNG.

    Args:
        places: [n, 2].
        subjects: n class names.
        titles: of the two axes.

    Returns:
        A PNG file, the same for the same arguments.
    """
    of_class = np.asarray(subjects)
    # A person's own settings of matplotlib must not change a report.
    with style.context("default"), matplotlib.rc_context({"font.family": "DejaVu Sans"}):
        chart = Chart(figsize=(10.0, 6.4), dpi=110, layout="constrained", facecolor="white")
        panels = chart.subplots(2, 3, sharex=True, sharey=True).ravel()
        for panel, subject, colour in zip(panels, SUBJECTS, _COLOURS, strict=False):
            mine = of_class == subject
            panel.scatter(*places[~mine].T, s=3, color="#d9d9d9", linewidths=0)
            panel.scatter(*places[mine].T, s=5, color=colour, alpha=0.7, linewidths=0)
            panels[-1].scatter(*places[mine].T, s=4, color=colour, alpha=0.4, linewidths=0)
            panel.set_title(f"{subject} ({int(mine.sum())})", fontsize=10)
        panels[-1].set_title("all", fontsize=10)
        for panel in panels[3:]:
            panel.set_xlabel(titles[0], fontsize=9)
        for panel in panels[::3]:
            panel.set_ylabel(titles[1], fontsize=9)
        file = io.BytesIO()
        chart.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def document_of(report: dict[str, Any], figures: Sequence[Figure]) -> Document:
    """Write the pages of an encoder's report.

    Args:
        report: what report.json holds.
        figures: the map, then the reconstruction sheet where there is one.
    """
    classes, settings, model = list(report["sounds"]), report["settings"], report["model"]
    total = sum(report["sounds"].values())
    head = ["", MEAN, *classes]
    intervals = f"with {100 * settings['confidence']:.0f} % intervals over videos"
    accuracy = Table(
        caption=f"Right classes in per cent, {intervals}",
        head=head,
        rows=[
            [name, *(per_cent(row.get(key)) for key in head[1:])]
            for name, row in report["rows"].items()
        ],
        strong=frozenset({PROBE, f"{PROBE}, by video"}),
    )
    flattered = ", so that it is a little flattered here" if settings["split"] == "val" else ""
    counts = report["confusion"]
    confusion = Table(
        caption="Seconds of each class (rows) that the linear probe names so (columns)",
        head=["", *SUBJECTS],
        rows=[
            [s, *map(str, line)] for s, line in zip(SUBJECTS, counts, strict=True) if s in classes
        ],
        shades=[
            [count / max(1, sum(line)) for count in line]
            for s, line in zip(SUBJECTS, counts, strict=True)
            if s in classes
        ],
    )
    sections = [
        Section(
            title="What the embeddings know",
            texts=[
                f"Share of unknown 1-s sounds of {settings['split']} whose class can be read from "
                f"the embedding. Chance is 1 in {len(SUBJECTS)}."
            ],
            tables=[accuracy, confusion],
            figures=figures[:1],
            notes=[
                f"*{PROBE}*: logistic regression on the embeddings of {report['train']} train "
                f"seconds; its weight decay is chosen on val{flattered}.",
                f"*{NEAREST}*: the majority of the {settings['neighbours']} train seconds that are "
                "nearest by cosine.",
                f"*{BANDS}*: the same with the mean level of each mel band, without any encoder.",
                "*by video*: by the mean over the seconds of a video.",
                "Labels measure here; no encoder saw one.",
            ],
        )
    ]
    if report["errors"]:
        errors = Table(
            caption=f"Mean squared error in [-1, 1], {intervals}",
            head=head,
            rows=[
                [name, *(_error(row.get(key)) for key in head[1:])]
                for name, row in report["errors"].items()
            ],
            strong=frozenset({RECONSTRUCTION}),
        )
        sections.append(
            Section(
                title="Drawn again",
                tables=[errors],
                figures=figures[1:],
                notes=[f"*{MEAN_MEL}*: the error of drawing the same for every sound."],
            )
        )
    sections.append(Section(title="How this was made", notes=_facts(report, total)))
    return Document(
        title=f"The encoder {model['name']}",
        texts=[
            f"{model['encoder']}, embeddings of {model['embedding_size']}, measured on {total} "
            f"seconds of {settings['split']} that it never heard."
        ],
        sections=sections,
    )


def _facts(report: dict[str, Any], total: int) -> list[str]:
    settings, model = report["settings"], report["model"]
    sounds = ", ".join(f"{count} {subject}" for subject, count in report["sounds"].items())
    penalties = ", ".join(f"{name} {value:g}" for name, value in settings["penalties"].items())
    plain = {key: value for key, value in settings.items() if key != "penalties"}
    return [
        f"seconds: {total} ({sounds}), {report['audible']} audible",
        f"encoder: {model['path']} {model['sha256']}",
        "settings: " + ", ".join(f"{key} {value}" for key, value in plain.items()),
        f"weight decay: {penalties}",
        f"command: `{report['command']}`",
        "machine: " + ", ".join(f"{key} {value}" for key, value in report["machine"].items()),
        f"version: {report['version']}, commit {report['commit']}",
    ]


def _error(row: dict[str, float] | None) -> str:
    return "" if row is None else f"{row['share']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
