"""``soundsight import-published``: checkpoints of the published code become a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from soundsight.core.errors import DataError, require_extra
from soundsight.core.files import local_output, sha256_of


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(import_published)


def import_published(
    generator_file: Annotated[
        Path, typer.Option("--generator", metavar="FILE", help="Checkpoint of the dense generator.")
    ],
    autoencoder_file: Annotated[
        Path,
        typer.Option("--autoencoder", metavar="FILE", help="Checkpoint of the audio autoencoder."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="MODEL", help="The model folder.")],
    name: Annotated[str | None, typer.Option(help="Its name (default: that of MODEL).")] = None,
    version: Annotated[str, typer.Option("--model-version", help="Its own version.")] = "1",
    noise_ratio: Annotated[
        float,
        typer.Option(
            min=0, help="Noise numbers per embedding number, where the generator was trained so."
        ),
    ] = 0.0,
    licence: Annotated[str, typer.Option(help="Licence of the weights (default: not known).")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace MODEL.")] = False,
) -> None:
    """Make a model folder of checkpoints that the authors' code has saved.

    The networks become ONNX, each compared with PyTorch, so that `soundsight translate --model`
    draws with them. A checkpoint is read as data: what would run code is refused.
    """
    require_extra(
        "soundsight import-published", "train", "torch", "onnx", "onnxscript", "safetensors"
    )
    local_output(out)
    from soundsight.export.onnx import ExportConfig, export_networks
    from soundsight.models.published import checkpoints as published

    encoder = published.load("autoencoder", autoencoder_file)
    size = encoder.embedding_size
    generator = published.load("generator", generator_file, embedding_size=size)
    noise = generator.noise_size
    if abs(noise_ratio * size - noise) > 0.5:
        raise DataError(
            f"{generator_file} takes {size + noise} numbers, the embedding of {autoencoder_file} "
            f"has {size}: they are not of one training, unless that generator takes noise "
            f"(--noise-ratio {noise / size:g})"
        )
    files = {"generator": _about(generator_file), "autoencoder": _about(autoencoder_file)}
    config = ExportConfig(
        name=name or out.resolve().name,
        version=version,
        licence=licence,
        trained_on=_origin(files, licence),
    )
    about = {"kind": "imported", "config": {"noise_ratio": noise_ratio, **files}}
    export_networks(encoder, generator, out, config, about=about, overwrite=overwrite)
    written = sum(path.stat().st_size for path in out.iterdir())
    typer.echo(f"written: {out} ({written / 1e6:.1f} MB)")


def _about(path: Path) -> dict[str, Any]:
    return {"file": path.name, "sha256": sha256_of(path), "bytes": path.stat().st_size}


def _origin(files: dict[str, dict[str, Any]], licence: str) -> str:
    """Say in the card where the weights come from, and what is not known of them."""
    named = " and ".join(
        f"{kind} `{about['file']}` (SHA-256 {about['sha256']})" for kind, about in files.items()
    )
    unknown = "Their training data" if licence else "Their training data and their licence"
    verb = "is" if licence else "are"
    return (
        "Imported, not trained here: checkpoints of the published code (arXiv 2106.01266), "
        f"{named}. {unknown} {verb} not in the files: ask whoever made them."
    )
