"""``soundsight train encoder|translator|judges|critic``: every network, from pairs on disk.

A run that was stopped goes on with the same command.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from soundsight.apps.extras import need
from soundsight.core.errors import ConfigError

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
PresetName = Annotated[str, typer.Option("--preset", help="paper, compact or tiny.")]
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
Early = Annotated[
    list[Path] | None,
    typer.Option(help="Early-generator pictures: RUN/early of a translator run; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(
        no_args_is_help=True, help="Train an encoder, a translator, the judges or the critic."
    )
    for command in (encoder, translator, judges, critic):
        group.command()(command)
    app.add_typer(group, name="train")


def encoder(
    out: Out,
    data: Data = None,
    kind: Annotated[str, typer.Option(help="contrastive or autoencoder.")] = "contrastive",
    preset: PresetName = "compact",
    steps: Steps = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    settings: Settings = None,
    threads: Threads = None,
    max_time: MaxTime = None,
    dry_run: DryRun = False,
) -> None:
    """Train an audio encoder on pairs, without a label."""
    _start("soundsight train encoder", threads)
    from soundsight.pairs.dataset import PairDataset, open_pairs
    from soundsight.training.encoder import EncoderConfig, EncoderTask
    from soundsight.training.loop import fit

    config = _resolve(EncoderConfig(kind=kind, preset=preset), settings, steps, batch_size, seed)
    if _printed(config, dry_run):
        return
    task = EncoderTask(config, PairDataset(open_pairs(data), "train"))
    _fit(fit, task, out, config, max_time)


def translator(
    out: Out,
    encoder: Annotated[
        Path, typer.Option(metavar="RUN", help="A finished run of `train encoder`; stays frozen.")
    ],
    data: Data = None,
    preset: PresetName = "compact",
    objective: Annotated[
        str, typer.Option(help="relativistic (ours) or rc (published).")
    ] = "relativistic",
    steps: Steps = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    settings: Settings = None,
    threads: Threads = None,
    max_time: MaxTime = None,
    dry_run: DryRun = False,
) -> None:
    """Train generator and discriminator on pairs, without a label."""
    _start("soundsight train translator", threads)
    from soundsight.core.runs import sha256_of
    from soundsight.pairs.dataset import PairDataset, open_pairs
    from soundsight.training.encoder import load_encoder
    from soundsight.training.loop import fit
    from soundsight.training.translator import TranslatorTask, default_config

    frozen = load_encoder(encoder)
    config = _resolve(
        default_config(objective, preset, sha256_of(encoder / "encoder.safetensors")),
        settings, steps, batch_size, seed,
    )  # fmt: skip
    if _printed(config, dry_run):
        return
    task = TranslatorTask(
        config, frozen, PairDataset(open_pairs(data), "train"), encoder_run=encoder
    )
    _fit(fit, task, out, config, max_time)


def judges(
    out: Out,
    data: Data = None,
    early: Early = None,
    steps: Steps = None,
    seed: Seed = 0,
    settings: Settings = None,
    threads: Threads = None,
    dry_run: DryRun = False,
) -> None:
    """Train the informativity judges, one a class, for evaluation only."""
    _start("soundsight train judges", threads)
    from soundsight.pairs.bench import find_bench
    from soundsight.training.judges import JudgesConfig, train

    config = _resolve(JudgesConfig(), settings, steps, None, seed)
    if not _printed(config, dry_run):
        train(config, find_bench(data), out, early=early or ())
        typer.echo(f"written: {out}")


def critic(
    out: Out,
    data: Data = None,
    early: Early = None,
    steps: Steps = None,
    seed: Seed = 0,
    settings: Settings = None,
    threads: Threads = None,
    dry_run: DryRun = False,
) -> None:
    """Train the critic that hides pictures which show nothing.

    It knows no class; photo folders balance what it sees, and one class is averaged at a time.
    """
    _start("soundsight train critic", threads)
    from soundsight.pairs.bench import find_bench
    from soundsight.training.judges import critic_config, train_critic

    config = _resolve(critic_config(), settings, steps, None, seed)
    if not _printed(config, dry_run):
        train_critic(config, find_bench(data), out, early=early or ())
        typer.echo(f"written: {out}")


def _start(command: str, threads: int | None) -> None:
    need(command, "train", "torch", "safetensors", "jaxtyping", "tensorboard")
    import torch

    if threads:
        torch.set_num_threads(threads)


def _resolve(
    config: Any, settings: list[str] | None, steps: int | None, batch_size: int | None, seed: int
) -> Any:
    """Put the options into a config; settings of the loop live one level down."""
    from soundsight.core.config import from_dict, to_dict

    values = to_dict(config)
    place = values.get("loop", values)
    place["seed"] = seed
    if steps is not None:
        place["steps"] = steps
    if batch_size is not None:
        place["batch_size"] = batch_size
    for setting in settings or []:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: KEY=VALUE is expected")
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


def _printed(config: Any, dry_run: bool) -> bool:
    if dry_run:
        from soundsight.core.runs import commit

        resolved = {"config": dataclasses.asdict(config), "commit": commit()}
        typer.echo(json.dumps(resolved, indent=2))
    return dry_run


def _fit(fit: Any, task: Any, out: Path, config: Any, max_time: float | None) -> None:
    from soundsight.core.config import to_dict

    limit = None if max_time is None else 60.0 * max_time
    if fit(task, out, config.loop, to_dict(config), max_time_s=limit):
        typer.echo(f"finished: {out}")
