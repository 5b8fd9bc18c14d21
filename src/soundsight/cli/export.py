"""``soundsight export``: a finished training run becomes a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soundsight.core.errors import require_extra
from soundsight.core.files import local_output


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(export)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished translator run.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="MODEL", help="The model folder.")],
    name: Annotated[str | None, typer.Option(help="Its name (default: that of RUN).")] = None,
    version: Annotated[str, typer.Option("--model-version", help="Its own version.")] = "1",
    ood: Annotated[
        Path | None,
        typer.Option(
            help="Folder of `soundsight train ood`: sounds of no known kind are not drawn."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Folder of `soundsight train labels`: the model names what it hears."),
    ] = None,
    confidence: Annotated[
        float,
        typer.Option(min=0, max=1, help="How sure a live view has to be to show a picture."),
    ] = 0.5,
    trained_on: Annotated[str, typer.Option(help="One sentence for its card.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "BSD-3-Clause",
    report: Annotated[
        Path | None,
        typer.Option(help="report.json of `soundsight evaluate`: its figures go into the card."),
    ] = None,
    trainable: Annotated[
        bool,
        typer.Option(
            "--trainable",
            help="Also carry the weights that training can go on from (`soundsight train --init`).",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace MODEL.")] = False,
) -> None:
    """Write a run's networks as ONNX, with model.json and a card.

    Every network is compared with PyTorch before the folder appears. The folder needs onnxruntime
    alone.
    """
    local_output(out)
    require_extra("soundsight export", "train", "torch", "onnx", "onnxscript", "safetensors")
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
    size = sum(path.stat().st_size for path in out.iterdir())
    typer.echo(f"written: {out} ({size / 1e6:.1f} MB)")
