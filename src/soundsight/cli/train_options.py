"""What the commands of ``soundsight train`` share: their options, and how they are put together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundsight.core.errors import ConfigError, require_extra
from soundsight.core.files import local_output

if TYPE_CHECKING:
    from soundsight.training.devices import Devices
    from soundsight.training.trainer import Evaluate, Task

Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="RUN", help="The run folder; the same one resumes.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="A dataset of `soundsight prepare`, or the bench (default: SOUNDSIGHT_BENCH, else "
        "../shared/data)."
    ),
]
EverydayPlaces = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        help="As elsewhere: a dataset, or the bench; or Everyday's folder, which everyday presets "
        "take by default (SOUNDSIGHT_EVERYDAY, else ../shared/everyday). Repeat it for several.",
    ),
]
Init = Annotated[
    Path | None,
    typer.Option(
        "--init",
        metavar="RUN|MODEL",
        help="Start from these weights: a finished run, or a model folder exported with "
        "--trainable.",
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")]
BatchSize = Annotated[int | None, typer.Option(min=2, help="Pairs a step.")]
Seed = Annotated[int, typer.Option(min=0, help="Of weights, order and every random draw.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; may be repeated."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads (default: all).")]
MaxTime = Annotated[float | None, typer.Option(min=0, help="Stop after so many minutes.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and stop.")]
Accelerator = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")]
DeviceCount = Annotated[
    int | None,
    typer.Option(min=1, help="Processes a node (default: what torchrun or SLURM started, else 1)."),
]
Nodes = Annotated[
    int | None, typer.Option(min=1, help="Nodes (default: what torchrun or SLURM started, else 1).")
]
Precision = Annotated[
    str | None, typer.Option(help="32-true, or bf16-mixed: networks in bfloat16, losses not.")
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Use torch.compile; on a CPU it needs a C++ compiler."),
]
Accumulate = Annotated[
    int | None, typer.Option(min=1, help="Micro-batches a step, where memory is short.")
]
Keep = Annotated[
    int | None, typer.Option(min=0, help="Earlier checkpoints that stay (default: none).")
]
Early = Annotated[
    list[Path] | None,
    typer.Option(help="Early-generator pictures: RUN/early of a translator run; may be repeated."),
]


def begin(command: str, out: Path, threads: int | None) -> None:
    local_output(out)
    require_extra(
        command, "train", "torch", "safetensors", "jaxtyping", "tensorboard", "lightning_fabric",
        "threadpoolctl", "sklearn",
    )  # fmt: skip
    import torch

    from soundsight.training.devices import numpy_on_one_thread

    numpy_on_one_thread()
    if threads:
        torch.set_num_threads(threads)


def start_here(
    config: Any,
    accelerator: str,
    devices: int | None,
    nodes: int | None,
    compiled: bool,
    threads: int | None,
) -> Devices:
    from soundsight.training.devices import DeviceConfig, start_devices

    wanted = DeviceConfig(
        accelerator=accelerator, devices=devices, nodes=nodes, compile=compiled, threads=threads
    )
    return start_devices(wanted, config.loop.precision)


def resolve(config: Any, settings: list[str] | None, **options: int | str | None) -> Any:
    """Put the options into a config; those of the loop, where it has one, live a level down."""
    from soundsight.core.config import from_dict, to_dict

    values = to_dict(config)
    place = values.get("loop", values)
    place |= {name: value for name, value in options.items() if value is not None}
    for setting in settings or []:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: KEY=VALUE is expected")
        if key in {"encoder", "init"}:
            raise ConfigError(f"--set {setting}: this is named by --{key} alone")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        target = values
        *path, last = key.split(".")
        for part in path:
            if not isinstance(target.get(part), dict):
                raise ConfigError(f"unknown key {key}; choose from {', '.join(sorted(values))}")
            target = target[part]
        known = target.get(last)
        if isinstance(known, int | float) and not isinstance(value, int | float):
            raise ConfigError(f"--set {setting}: {key} is a number")
        target[last] = value
    return from_dict(type(config), values)


def is_printed(config: Any, dry_run: bool) -> bool:
    if dry_run:
        from soundsight.core.files import commit

        resolved = {"config": dataclasses.asdict(config), "commit": commit()}
        typer.echo(json.dumps(resolved, indent=2))
    return dry_run


def fit_run(
    task: Task,
    out: Path,
    config: Any,
    here: Devices,
    data: dict[str, Any],
    max_time: float | None,
    evaluate: Evaluate | None = None,
) -> None:
    """Train a task in the run folder ``out``, for at most ``max_time`` minutes."""
    from soundsight.core.config import to_dict
    from soundsight.training.trainer import fit

    finished = fit(
        task, out, config.loop, to_dict(config), devices=here, data=data, evaluate=evaluate,
        max_time_s=None if max_time is None else 60.0 * max_time,
    )  # fmt: skip
    if finished and here.first:
        typer.echo(f"finished: {out}")
