"""``soundsight export``: a finished training run becomes a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soundsight.cli.console import say_written
from soundsight.cli.options import Overwrite, option
from soundsight.core.errors import require_extra
from soundsight.core.files import local_output


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished translator run.")],
    out: Annotated[Path, option("MODEL", "The model folder.", "--out", "-o")],
    name: Annotated[str | None, option("NAME", "Name of the model (default: that of RUN).")] = None,
    version: Annotated[str, option("TEXT", "Version of the model.", "--model-version")] = "1",
    ood: Annotated[
        Path | None,
        option(
            "FOLDER", "Folder of `soundsight train ood`: sounds of no known kind are not drawn."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        option("FOLDER", "Folder of `soundsight train labels`: the model names what it hears."),
    ] = None,
    confidence: Annotated[
        float, option("X", "Lowest confidence at which a live view shows a picture.", min=0, max=1)
    ] = 0.5,
    trained_on: Annotated[
        str, option("TEXT", "What it was trained on: a sentence for its card.")
    ] = "",
    licence: Annotated[str, option("TEXT", "Licence of the weights.")] = "BSD-3-Clause",
    report: Annotated[
        Path | None,
        option("FILE", "report.json of `soundsight evaluate`: its figures go into the card."),
    ] = None,
    trainable: Annotated[
        bool,
        option(
            "",
            "Include weights for further training (`soundsight train --init`).",
            "--trainable",
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a run's networks as ONNX, with model.json and a card.

    Every network is compared with PyTorch before the folder appears. The folder needs onnxruntime
    alone.
    """
    local_output(out)
    require_extra("soundsight export", "train", "torch", "onnx", "onnxscript", "safetensors",
                  "matplotlib", "sklearn", "jinja2")  # fmt: skip
    from soundsight.export.card import figures_of
    from soundsight.export.onnx import ExportConfig, export_run

    config = ExportConfig(
        name=name or run.resolve().name,
        version=version,
        licence=licence,
        trained_on=trained_on,
        figures=figures_of(report) if report else None,
        ood=ood,
        labels=labels,
        confidence=confidence,
        trainable=trainable,
    )
    export_run(run, out, config, overwrite=overwrite)
    say_written(out)
