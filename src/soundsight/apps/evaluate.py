"""``soundsight evaluate``: how often does a picture show what its sound was?"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soundsight.apps.extras import need
from soundsight.core.runs import usable_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from soundsight.runtime.translator import Translator


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(evaluate)


def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="RUN_OR_MODEL", help="A model folder, or a training run.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for report.json, report.md and sheet.png.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="The bench (default: SOUNDSIGHT_BENCH, else ../shared/data)."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="devtest, or val for a look while training.")
    ] = "devtest",
    judges: Annotated[
        Path | None, typer.Option(help="Folder of judges (default: those of the package).")
    ] = None,
    early: Annotated[
        list[Path] | None,
        typer.Option(help="The early-generator pictures that the judges were trained with."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the pictures, controls and intervals.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many seconds a class (default: all).")
    ] = None,
) -> None:
    """Measure informativity on unknown sounds, with controls and 95 % intervals.

    The first picture drawn of every second is judged, none is selected.
    """
    exporting = ("onnx", "onnxscript") if _is_run(model) else ()
    need("soundsight evaluate", "train", "torch", "safetensors", "jaxtyping", *exporting)
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from soundsight.evaluation.judging import Judges
    from soundsight.evaluation.report import EvaluationConfig
    from soundsight.evaluation.report import evaluate as measure
    from soundsight.pairs.bench import find_bench
    from soundsight.runtime.translator import Translator
    from soundsight.training.uninformative import load_early

    # Judges are small; one thread gives the same sums on every machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    console = Console(stderr=True)
    try:
        jury = Judges.load(judges)
        bench = find_bench(data)
        kept = load_early(early or [])
        with _model_folder(model) as folder, Progress(
            "seconds drawn", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True,
        ) as bar:  # fmt: skip
            translator = Translator.load(folder)
            bench.pairs(split)  # an unknown split leaves no folder behind
            usable_folder(out)
            task = bar.add_task("", total=None)
            report = measure(
                translator,
                jury,
                bench,
                out,
                EvaluationConfig(split=split, seed=seed, limit=limit),
                model={
                    "name": model.resolve().name,
                    "path": str(model),
                    "sha256": _networks_sha256(folder),
                },
                command=shlex.join(["soundsight", *sys.argv[1:]]),
                early=kept,
                refuses=_refusal(translator),
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    finally:
        torch.set_num_threads(threads)
    for name in ("informativity", "shuffled sounds", "real photos"):
        if name in report["rows"]:
            mean = report["rows"][name]["mean"]
            low, high = 100 * mean["low"], 100 * mean["high"]
            typer.echo(f"{name}: {100 * mean['share']:.1f} % [{low:.1f}, {high:.1f}]")
    typer.echo(f"written: {out / 'report.md'}, report.json, sheet.png")


def _networks_sha256(folder: Path) -> str:
    """Name a model by its networks alone: model.json also holds a date, and later these figures."""
    import hashlib

    from soundsight.core.runs import sha256_of

    networks = sorted(folder.glob("*.onnx"))
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in networks]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_run(path: Path) -> bool:
    return os.path.exists(path / "run.json")


@contextmanager
def _model_folder(path: Path) -> Iterator[Path]:
    """Yield the model folder: ``path`` itself, or a temporary export of a training run."""
    if not _is_run(path):
        yield path
        return
    from soundsight.export.onnx import export_run

    with tempfile.TemporaryDirectory(prefix="soundsight-") as place:
        folder = Path(place) / path.resolve().name
        export_run(path, folder)
        yield folder


def _refusal(
    translator: Translator,
) -> Callable[[NDArray[np.uint8]], NDArray[np.bool_]] | None:
    """Return which pictures the program would hide by its own critic; None without a critic."""
    if not translator.info.has_critic:
        return None
    threshold = translator.info.thresholds.informativity

    def refuses(pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
        hidden: NDArray[np.bool_] = translator.critic.informativity(pictures) < threshold
        return hidden

    return refuses
