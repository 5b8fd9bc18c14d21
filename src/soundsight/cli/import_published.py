"""``soundsight import-published``: checkpoints of the published code become a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from soundsight.cli.console import say_written
from soundsight.cli.options import Overwrite, option
from soundsight.core.errors import DataError, require_extra
from soundsight.core.files import local_output, sha256_of


def import_published(
    generator_file: Annotated[
        Path, option("FILE", "Checkpoint of the dense generator.", "--generator")
    ],
    autoencoder_file: Annotated[
        Path,
        option("FILE", "Checkpoint of the audio autoencoder.", "--autoencoder"),
    ],
    out: Annotated[Path, option("MODEL", "The model folder.", "--out", "-o")],
    name: Annotated[
        str | None, option("NAME", "Name of the model (default: that of MODEL).")
    ] = None,
    version: Annotated[str, option("TEXT", "Version of the model.", "--model-version")] = "1",
    noise_ratio: Annotated[
        float,
        option(
            "X", "Noise numbers per number of the embedding, if the generator takes noise.", min=0
        ),
    ] = 0.0,
    licence: Annotated[str, option("TEXT", "Licence of the weights (default: not known).")] = "",
    overwrite: Overwrite = False,
) -> None:
    """Make a model folder from the authors' checkpoints.

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
    files = {
        kind: {"file": path.name, "sha256": sha256_of(path), "bytes": path.stat().st_size}
        for kind, path in (("generator", generator_file), ("autoencoder", autoencoder_file))
    }
    named = " and ".join(
        f"{kind} `{about['file']}` (SHA-256 {about['sha256']})" for kind, about in files.items()
    )
    unknown = "training data is" if licence else "training data and their licence are"
    config = ExportConfig(
        name=name or out.resolve().name,
        version=version,
        licence=licence,
        trained_on="Imported, not trained here: checkpoints of the published code (arXiv "
        f"2106.01266), {named}. Their {unknown} not in the files: ask whoever made them.",
    )
    about = {"kind": "imported", "config": {"noise_ratio": noise_ratio, **files}}
    export_networks(encoder, generator, out, config, about=about, overwrite=overwrite)
    say_written(out)
