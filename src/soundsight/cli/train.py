"""``soundsight train encoder|translator|judges|ood|labels``: networks from pairs.

A run that was stopped goes on with the same command. Started by torchrun or SLURM, all processes
share one run of ``train encoder`` or ``train translator``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soundsight.cli.group import App
from soundsight.cli.train_data import about_all, open_all
from soundsight.cli.train_everyday import (
    PRESETS,
    Bank,
    Others,
    align,
    check_others,
    decoder,
    distil,
    ears_config,
    fit_ears,
    fit_everyday_labels,
    fit_everyday_ood,
    fit_flow,
    flow_config,
    hears_everyday,
)
from soundsight.cli.train_options import (
    Accelerator,
    Accumulate,
    BatchSize,
    Compile,
    Data,
    DeviceCount,
    DryRun,
    Early,
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
    from soundsight.training.fine_tuning import Pretrained


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = App(help="Train an encoder, a translator or the judges.")
    for command in (
        encoder, decoder, translator, distil, align, judges, ood, labels,
    ):  # fmt: skip
        group.command()(command)
    app.add_typer(group, name="train")


def encoder(
    out: Out,
    data: EverydayPlaces = None,
    kind: Annotated[str, typer.Option(help="contrastive or autoencoder.")] = "contrastive",
    preset: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="everyday, paper, flagship, compact, small or tiny. "
            "[dim](default: compact, or that of --init)[/dim]",
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="ONNX|ZIP",
            help="YAMNet, which the ears of --preset everyday imitate as well.",
        ),
    ] = None,
    bank: Bank = None,
    schedule: Annotated[
        str, typer.Option(help="modern, or published (SGD; autoencoder only).")
    ] = "modern",
    embedding_size: Annotated[
        int | None, typer.Option(min=4, help="Length of the embedding (default: the preset's).")
    ] = None,
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
    """Train an audio encoder on pairs, without a label."""
    begin("soundsight train encoder", out, threads)
    from soundsight.training.fine_tuning import ENCODER, PICTURE_ENCODER, Pretrained

    start = None if init is None else Pretrained(init)
    preset = _preset(preset, start)
    if preset in PRESETS:
        others = {"--embedding-size": embedding_size, "--kind": kind != "contrastive",
                  "--schedule": schedule != "modern"}  # fmt: skip
        if given := [option for option, value in others.items() if value]:
            raise ConfigError(f"{', '.join(given)}: not for --preset {preset}")
        ears = resolve(
            ears_config(preset, teacher, start), settings, seed=seed, steps=steps,
            batch_size=batch_size, precision=precision, accumulate=accumulate, keep=keep,
        )  # fmt: skip
        if not is_printed(ears, dry_run):
            here = start_here(ears, accelerator, devices, nodes, compiled, threads)
            bank = bank or out.parent / "bank"
            fit_ears(ears, out, data, bank, teacher, start, here, max_time)
        return
    if teacher is not None or bank is not None:
        raise ConfigError("--teacher and --bank belong to --preset everyday")
    from soundsight.data.store.dataset import PairDataset
    from soundsight.training.configs import default_encoder_config
    from soundsight.training.devices import enough_memory
    from soundsight.training.encoder import EncoderTask

    defaults = dataclasses.replace(
        default_encoder_config(kind, preset, schedule),
        embedding_size=embedding_size,
        init="" if start is None else start.sha256(ENCODER, PICTURE_ENCODER),
    )
    config = resolve(
        defaults, settings, seed=seed, steps=steps, batch_size=batch_size, precision=precision,
        accumulate=accumulate, keep=keep,
    )  # fmt: skip
    if is_printed(config, dry_run):
        return
    here = start_here(config, accelerator, devices, nodes, compiled, threads)
    pairs = open_all(data)
    with enough_memory():
        task = EncoderTask(config, PairDataset(pairs, "train"), start=start)
        fit_run(task, out, config, here, about_all(pairs, "train"), max_time)


def translator(
    out: Out,
    encoder: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="A finished run of `train encoder`; stays frozen [dim](default: that of "
            "--init)[/dim].",
        ),
    ] = None,
    data: EverydayPlaces = None,
    preset: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="everyday, paper, flagship, compact, small or tiny. "
            "[dim](default: that of --init; of --encoder, where there is a --decoder; else "
            "compact)[/dim]",
        ),
    ] = None,
    decoder: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="A finished run of `train decoder`, for everyday [dim](default: that of "
            "--init)[/dim].",
        ),
    ] = None,
    bank: Bank = None,
    objective: Annotated[
        str, typer.Option(help="relativistic (ours) or rc (published).")
    ] = "relativistic",
    moving_average: Annotated[
        str, typer.Option(help="Adversaries of --objective rc: off, snapshots or ema.")
    ] = "off",
    attention: Annotated[
        str,
        typer.Option(
            metavar="N,N,N,N,N,N,N",
            help="Attention blocks after transitions 0 to 6 (published variant: 0,18,0,0,0,0,0).",
        ),
    ] = "0,0,0,0,0,0,0",
    audio_source: Annotated[
        int,
        typer.Option(
            min=1, max=13, help="Layer of the autoencoder that attention listens to; 13: embedding."
        ),
    ] = 13,
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
    judges: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Judges that look at val pictures now and then (bench only)."
        ),
    ] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between two looks of --judges.")
    ] = None,
    settings: Settings = None,
    threads: Threads = None,
    max_time: MaxTime = None,
    dry_run: DryRun = False,
) -> None:
    """Train generator and discriminator on pairs, without a label."""
    begin("soundsight train translator", out, threads)
    from soundsight.training.fine_tuning import DISCRIMINATOR, GENERATOR, POSTERIOR, Pretrained

    start = None if init is None else Pretrained(init)
    encoder = encoder or init
    if encoder is None:
        raise ConfigError("--encoder is missing: a finished run of `train encoder`")
    preset = _preset(preset, start or (Pretrained(encoder) if decoder else None))
    if preset in PRESETS:
        decoder = decoder or init
        if decoder is None:
            raise ConfigError(f"--preset {preset} needs --decoder: a run of `train decoder`")
        flow = resolve(
            flow_config(preset, encoder, decoder, start), settings, seed=seed, steps=steps,
            batch_size=batch_size, precision=precision, accumulate=accumulate, keep=keep,
        )  # fmt: skip
        if not is_printed(flow, dry_run):
            here = start_here(flow, accelerator, devices, nodes, compiled, threads)
            bank = bank or out.parent / "bank"
            fit_flow(flow, out, data, encoder, decoder, bank, start, here, max_time)
        return
    if decoder is not None or bank is not None:
        raise ConfigError("--decoder and --bank belong to --preset everyday")
    from soundsight.core.files import sha256_of
    from soundsight.data.store.dataset import PairDataset
    from soundsight.training.configs import default_config
    from soundsight.training.devices import enough_memory
    from soundsight.training.encoder import load_encoder
    from soundsight.training.published import TranslatorTask

    frozen = load_encoder(encoder)
    defaults = default_config(objective, preset, sha256_of(encoder / "encoder.safetensors"))
    defaults = dataclasses.replace(
        defaults,
        moving_average=dataclasses.replace(defaults.moving_average, reading=moving_average),
        attention=_numbers("--attention", attention),
        audio_source=audio_source,
        init="" if start is None else start.sha256(GENERATOR, DISCRIMINATOR, POSTERIOR),
    )
    config = resolve(
        defaults, settings, seed=seed, steps=steps, batch_size=batch_size, precision=precision,
        accumulate=accumulate, keep=keep, evaluate_every=evaluate_every,
    )  # fmt: skip
    if is_printed(config, dry_run):
        return
    evaluate = None
    if judges is not None:
        from soundsight.data.vegas.bench import find_bench
        from soundsight.evaluation.bench import ValInformativity
        from soundsight.judges.apply import Judges

        bench = find_bench(data[0] if data else None)
        evaluate = ValInformativity(Judges.load(judges), bench)
    elif evaluate_every is not None:
        raise ConfigError("--evaluate-every needs --judges")
    here = start_here(config, accelerator, devices, nodes, compiled, threads)
    pairs = open_all(data)
    with enough_memory():
        task = TranslatorTask(
            config, frozen, PairDataset(pairs, "train"), encoder_run=encoder, start=start
        )
        fit_run(task, out, config, here, about_all(pairs, "train"), max_time, evaluate)


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
    """Train the judges of pictures, for evaluation only.

    On the bench one informativity judge a class; on Everyday one judge of 23 answers, which is one
    file and takes a quarter of an hour.
    """
    begin("soundsight train judges", out, threads)
    from soundsight.data.vegas.bench import find_bench

    if _is_everyday(data):
        _photo_judge(out, data, early, steps, seed, settings, dry_run)
        return
    from soundsight.judges.train import JudgesConfig, train

    config = resolve(JudgesConfig(), settings, seed=seed, steps=steps)
    if not is_printed(config, dry_run):
        train(config, find_bench(data), out, early=early or ())
        typer.echo(f"written: {out}")


def ood(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where it goes.")],
    encoder: Annotated[
        Path, typer.Option(metavar="RUN", help="A finished run of `train encoder`.")
    ],
    data: EverydayPlaces = None,
    others: Others = None,
    bank: Bank = None,
    seed: Seed = 0,
    settings: Settings = None,
    threads: Threads = None,
    dry_run: DryRun = False,
) -> None:
    """Learn which sounds are known (the ood score), so that others are not drawn.

    Train sounds are kept, without a label; val sounds set how far from them a sound may be.
    With Everyday's folder, which ears take by default, a classifier tells its kinds from others.
    """
    begin("soundsight train ood", out, threads)
    from soundsight.data.store.dataset import PairDataset
    from soundsight.training.encoder import load_encoder
    from soundsight.training.ood import FitConfig, fit_nearest_neighbours, write_ood

    if hears_everyday(encoder, data):
        fit_everyday_ood(
            out, encoder, data, others, settings, bank or out.parent / "bank", seed, dry_run
        )
        return
    check_others(others)
    config = resolve(FitConfig(), settings, seed=seed)
    if is_printed(config, dry_run):
        return
    pairs, network = open_all(data), load_encoder(encoder)
    train, val = (PairDataset(pairs, split) for split in ("train", "val"))
    write_ood(out, encoder, fit_nearest_neighbours(network, train, val, config), config)
    typer.echo(f"written: {out}")


def labels(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where they go.")],
    encoder: Annotated[
        Path, typer.Option(metavar="RUN", help="A finished run of `train encoder`.")
    ],
    data: EverydayPlaces = None,
    others: Others = None,
    bank: Bank = None,
    settings: Settings = None,
    threads: Threads = None,
    dry_run: DryRun = False,
) -> None:
    """Learn the label head: what the subjects are called, for the words beside the pictures.

    A linear layer on the finished encoder, fitted with the labels of the pairs: the bench's
    classes, or those that `soundsight prepare` found. Labels name; they never reach encoder or
    generator. Val chooses how sure it may say it is. Made sounds that are none of the subjects
    teach it when to give no name (`--set others_each=0`: none).
    """
    begin("soundsight train labels", out, threads)
    from soundsight.training.encoder import load_encoder
    from soundsight.training.labels import (
        LabelHeadConfig,
        fit_label_head,
        named_seconds,
        other_seconds,
        write_label_head,
    )

    if hears_everyday(encoder, data):
        fit_everyday_labels(
            out, encoder, data, others, settings, bank or out.parent / "bank", dry_run
        )
        return
    check_others(others)
    config = resolve(LabelHeadConfig(), settings)
    if is_printed(config, dry_run):
        return
    places, network = open_all(data), load_encoder(encoder)
    train, val = (named_seconds(network, places, split) for split in ("train", "val"))
    fitted = fit_label_head(train, val, config, other_seconds(network, config))
    write_label_head(out, encoder, fitted, config)
    typer.echo(f"{', '.join(fitted.head.labels)}: {fitted.figures.words()}")
    typer.echo(f"written: {out}")


def _is_everyday(data: Path | None) -> bool:
    from soundsight.data.everyday.folder import is_everyday

    return data is not None and is_everyday(data)


def _photo_judge(
    out: Path,
    data: Path | None,
    early: list[Path] | None,
    steps: int | None,
    seed: int,
    settings: list[str] | None,
    dry_run: bool,
) -> None:
    from soundsight.core.progress import progress_bar
    from soundsight.data.everyday.folder import find_everyday
    from soundsight.data.vegas.bench import find_bench
    from soundsight.judges.everyday import PhotoJudgeConfig, fit_judge, save_judge

    if steps is not None:
        raise ConfigError("--steps is for the bench's judges: Everyday's has --set iterations=N")
    config = resolve(PhotoJudgeConfig(), settings, seed=seed)
    if is_printed(config, dry_run):
        return
    with progress_bar(log=True) as show:
        judge = fit_judge(
            config, find_everyday(data), find_bench(None), early=early or (), show=show
        )
    save_judge(judge, out)
    typer.echo(f"val photos named: {100 * judge.about['val']['photos']:.1f} %")
    typer.echo(f"written: {out}")


def _preset(name: str | None, start: Pretrained | None) -> str:
    """Return the sizes that are asked for: those of the starting point, unless they are named."""
    if name is not None:
        return name
    return "compact" if start is None else start.preset()


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{option} {text}: whole numbers are expected, as in 0,18,0,0,0,0,0"
        ) from None
