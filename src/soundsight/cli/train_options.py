"""Options that the commands of ``soundsight train`` share, and what is done with them.

A command takes them as one parameter, ``options``, of the class :class:`FitOptions` or
:class:`RunOptions`; :func:`command` spreads their fields out for Typer.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from soundsight.cli.options import option, panel
from soundsight.core.config import from_dict, to_dict
from soundsight.core.errors import ConfigError, require_extra
from soundsight.core.files import local_output

_OfSettings = panel("Settings")
_OfDevices = panel("Devices")
_OfRun = panel("Run")

Init = Annotated[
    Path | None,
    option(
        "RUN|MODEL",
        "Start from these weights: a finished run, or a model folder exported with --trainable.",
        "--init",
    ),
]
Bank = Annotated[
    Path | None,
    option(
        "FOLDER",
        "Folder for computed training data of the everyday parts "
        "[dim](default: bank beside RUN)[/dim].",
    ),
]
EncoderRun = Annotated[Path, option("RUN", "A finished run of `train encoder`.", "--encoder")]
Others = Annotated[
    Path | None,
    option(
        "FOLDER",
        "Sounds of none of Everyday's kinds. The more kinds of them there are, the "
        "better unknown sounds are refused.",
    ),
]
Seed = Annotated[int, _OfSettings("N", "Seed of weights, order and every random draw.", min=0)]
Steps = Annotated[int | None, _OfSettings("N", "Optimiser steps.", min=1)]


def preset_option(names: str, default: str) -> Any:
    """Return the option ``--preset`` of a command."""
    text = f"Sizes of the networks: {names}. [dim](default: {default})[/dim]"
    return option("PRESET", text, show_default=False)


@dataclass(kw_only=True)
class FitOptions:
    """Options of every command."""

    out: Annotated[
        Path, option("RUN", "The run folder; give the same one to resume.", "--out", "-o")
    ]
    data: Annotated[
        list[Path] | None,
        option(
            "FOLDER",
            "A dataset of `soundsight prepare`, the bench (the default: SOUNDSIGHT_BENCH, "
            "else ../shared/data), or Everyday's folder (the default of everyday presets: "
            "SOUNDSIGHT_EVERYDAY, else ../shared/everyday). Repeat it for several.",
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        _OfSettings("KEY=VALUE", "Any other setting. Repeat it for several.", "--set"),
    ] = None
    threads: Annotated[int | None, _OfDevices("N", "CPU threads (default: all).", min=1)] = None
    dry_run: Annotated[bool, _OfRun("", "Print all settings and stop.", "--dry-run")] = False

    def begin(self, command: str, defaults: Any = None) -> None:
        """Check the options for these defaults and what the command needs, and import torch."""
        if defaults is not None:
            self.resolve(defaults)
        require_extra(
            f"soundsight train {command}", "train", "torch", "safetensors", "jaxtyping",
            "tensorboard", "lightning_fabric", "threadpoolctl", "sklearn",
        )  # fmt: skip
        import torch

        from soundsight.training.devices import numpy_on_one_thread

        numpy_on_one_thread()
        if self.threads:
            torch.set_num_threads(self.threads)

    def bank(self, bank: Path | None) -> Path:
        """Return the folder of what the everyday parts train on."""
        return bank or self.out.parent / "bank"

    def values(self) -> dict[str, Any]:
        """Return the options that are settings of their own; None where they are not given."""
        return {}

    def resolve(self, config: Any, **values: Any) -> Any:
        """Return ``config`` with the options and every ``--set`` put into it.

        Raises:
            ConfigError: on an unknown key, naming the choices, or a value out of range.
        """
        local_output(self.out)
        settings = to_dict(config)
        values |= self.values()
        # Options of the loop, where there is one, are settings a level down.
        place = settings.get("loop", settings)
        place |= {name: value for name, value in values.items() if value is not None}
        for setting in self.settings or []:
            key, equals, text = setting.partition("=")
            if not equals:
                raise ConfigError(f"--set {setting}: KEY=VALUE is expected")
            if key in {"encoder", "init"}:
                raise ConfigError(f"--set {setting}: this is named by --{key} alone")
            _put(settings, key, text)
        return from_dict(type(config), settings)

    def is_printed(self, config: Any) -> bool:
        """Print the resolved settings where ``--dry-run`` asks for them; return whether it does."""
        if self.dry_run:
            from soundsight.core.files import commit

            resolved = {"config": dataclasses.asdict(config), "commit": commit()}
            typer.echo(json.dumps(resolved, indent=2))
        return self.dry_run


@dataclass(kw_only=True)
class RunOptions(FitOptions):
    """Options of the commands that train step by step, in a run that can be resumed."""

    steps: Steps = None
    batch_size: Annotated[int | None, _OfSettings("N", "Pairs in a step.", min=2)] = None
    seed: Seed = 0
    accumulate: Annotated[
        int | None, _OfSettings("N", "Micro-batches in a step; more need less memory.", min=1)
    ] = None
    accelerator: Annotated[
        str, _OfDevices("ACCELERATOR", "cpu, cuda, or auto: cuda where there is one.")
    ] = "auto"
    devices: Annotated[
        int | None,
        _OfDevices(
            "N", "Processes on each node (default: what torchrun or SLURM started, else 1).", min=1
        ),
    ] = None
    nodes: Annotated[
        int | None,
        _OfDevices("N", "Nodes (default: what torchrun or SLURM started, else 1).", min=1),
    ] = None
    precision: Annotated[
        str | None,
        _OfDevices("PRECISION", "32-true, or bf16-mixed: networks in bfloat16, losses in float32."),
    ] = None
    compiled: Annotated[
        bool, _OfDevices("", "Use torch.compile. On a CPU it needs a C++ compiler.", "--compile")
    ] = False
    keep: Annotated[
        int | None, _OfRun("N", "Earlier checkpoints that stay (default: none).", min=0)
    ] = None
    max_time: Annotated[float | None, _OfRun("MINUTES", "Stop after so many minutes.", min=0)] = (
        None
    )

    def values(self) -> dict[str, Any]:
        """Return the options that are settings of the loop; None where they are not given."""
        names = ("steps", "batch_size", "seed", "accumulate", "precision", "keep")
        return {name: getattr(self, name) for name in names}


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command for Typer: the fields of the parameter ``options`` become parameters."""
    own = typing.get_type_hints(function, include_extras=True)
    kind = own.pop("options")
    own.pop("return")
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    shared = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        missing = field.default is dataclasses.MISSING
        defaults[field.name] = inspect.Parameter.empty if missing else field.default

    def run(**values: Any) -> None:
        options = kind(**{name: values.pop(name) for name in shared})
        function(options, **values)

    # Where to write, what to read, then what is the command's own.
    hints = {name: shared[name] for name in ("out", "data")} | own | shared
    parameters = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hint
        )
        for name, hint in hints.items()
    ]
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__annotations__ = hints
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _put(settings: dict[str, Any], key: str, text: str) -> None:
    """Set ``a.b`` in a table of settings to a value that is JSON, or else a text."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    target = settings
    *path, last = key.split(".")
    for part in path:
        if not isinstance(target.get(part), dict):
            raise ConfigError(f"unknown key {key}; choose from {', '.join(sorted(settings))}")
        target = target[part]
    known = target.get(last)
    if isinstance(known, int | float) and not isinstance(value, int | float):
        raise ConfigError(f"--set {key}={text}: {key} is a number")
    target[last] = value
