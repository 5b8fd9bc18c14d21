"""What ``soundsight train`` does once its options are checked: open the data, make a task, fit it.

It imports PyTorch; :mod:`soundsight.cli.train` imports it when a command needs it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from soundsight.cli.console import say
from soundsight.cli.train_options import FitOptions, RunOptions
from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError
from soundsight.core.progress import progress_bar
from soundsight.data.everyday.folder import WORDS, find_everyday, is_everyday, read_photos
from soundsight.data.store.dataset import PairDataset, describe, open_pairs
from soundsight.data.store.shards import PairFolder
from soundsight.data.vegas.bench import Bench, find_bench
from soundsight.models.ears import Ears
from soundsight.models.eyes import Eyes
from soundsight.training import configs, ears_data, kinds
from soundsight.training.align import AlignTask
from soundsight.training.checkpoints import Pretrained
from soundsight.training.decoder import DecoderTask
from soundsight.training.devices import Devices, enough_memory, start_devices
from soundsight.training.ears import EarsTask
from soundsight.training.encoder import EncoderTask, load_encoder
from soundsight.training.flow import DistilTask, FlowPairs, FlowTask, flow_pairs_of, load_flow
from soundsight.training.kept import Tell
from soundsight.training.labels import EVERYDAY_HEAD, fit_heard, write_label_head
from soundsight.training.ood import fit_nearest_neighbours, fit_ood_classifier, write_ood
from soundsight.training.published import TranslatorTask
from soundsight.training.trainer import Evaluate, Task, fit

_SHOWN = 16

Made = tuple[Task, dict[str, Any]]
"""A task, and what it is trained on, for the run's record."""


def fit_run(
    options: RunOptions,
    config: Any,
    make: Callable[[Devices], Made],
    evaluate: Evaluate | None = None,
) -> None:
    """Start the devices, make the task and train it in the run folder."""
    here = start_devices(
        options.accelerator, options.devices, options.nodes, compiled=options.compiled,
        threads=options.threads, precision=config.loop.precision,
    )  # fmt: skip
    longest_s = None if options.max_time is None else 60.0 * options.max_time
    with enough_memory():
        task, data = make(here)
        finished = fit(
            task, options.out, config.loop, to_dict(config), devices=here, data=data,
            evaluate=evaluate, max_time_s=longest_s,
        )  # fmt: skip
    if finished and here.first:
        typer.echo(f"finished: {options.out}")


def open_all(data: list[Path] | None) -> list[Bench | PairFolder]:
    """Open the pairs that ``--data`` names; without it the bench."""
    return [open_pairs(where) for where in data] if data else [open_pairs(None)]


def about_all(pairs: list[Bench | PairFolder], split: str = "train") -> dict[str, Any]:
    """Say which pairs these are, wherever they lie."""
    about = [describe(place, split) for place in pairs]
    return about[0] if len(about) == 1 else {"kind": "several", "of": about, "split": split}


class EverydayData:
    """What the everyday parts are trained on: Everyday's folder, other pairs, or both.

    ``data`` is what ``--data`` names; without it Everyday's folder, with the bench beside it.

    Raises:
        ConfigError: when Everyday's folder is named more than once.
        DataError: when something is missing or damaged.
    """

    def __init__(self, data: list[Path] | None) -> None:
        named = [where for where in data or [] if is_everyday(where)]
        self.pairs = [open_pairs(where) for where in data or [] if where not in named]
        if len(named) > 1:
            raise ConfigError("--data names Everyday's folder more than once")
        self.everyday = None
        if named or not self.pairs:
            self.everyday = find_everyday(named[0] if named else None), find_bench()

    def about(self, digest: str) -> dict[str, Any]:
        """Say what these are, for the run's record."""
        own = "several" if self.everyday else "prepared"
        return {"kind": own if self.pairs else "everyday", "sha256": digest}

    def folder(self, bank: Path) -> Path:
        """Return where what is made of them is kept: other pairs do not displace Everyday's."""
        return bank / "own" if self.pairs else bank

    def ears(
        self,
        bank: Path,
        config: configs.BankConfig,
        tell: Tell,
        teacher: Path | None = None,
        mixtures: configs.MixtureConfig | None = None,
    ) -> ears_data.EarsData:
        """Return seconds, photo features and pairs."""
        if self.everyday is None and teacher is not None:
            raise ConfigError("--teacher hears waveforms, and prepared pairs hold none")
        parts = []
        if self.everyday is not None:
            parts.append(
                ears_data.open_ears_data(
                    bank, *self.everyday, config, teacher=teacher, mixtures=mixtures, tell=tell
                )
            )
        if self.pairs:
            folder = self.folder(bank)
            parts.append(ears_data.prepared_ears_data(folder, self._train, self._digest, tell=tell))
        return functools.reduce(ears_data.joined, parts)

    def photos(self) -> tuple[str, NDArray[np.uint8]]:
        """Return a hash of the train photos, and them, in the order of those of :meth:`ears`."""
        names: list[str] = []
        levels: list[NDArray[np.uint8]] = []
        if self.everyday is not None:
            names, found = read_photos(*self.everyday, "train")
            levels.append(found)
        if self.pairs:
            names = [*names, self._digest]
            levels.append(self._train.photos())
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        return digest, levels[0] if len(levels) == 1 else np.concatenate(levels)

    def shown(self) -> NDArray[np.uint8] | None:
        """Return some photos of val, uint8 [n, 3, 96, 96]; None where there is no val."""
        if self.everyday is not None:
            return read_photos(*self.everyday, "val", every=80)[1]
        if not any(describe(place, "val")["pairs"] for place in self.pairs):
            return None
        photos = PairDataset(self.pairs, "val").photos()
        return photos[:: -(-len(photos) // _SHOWN)]

    @functools.cached_property
    def _train(self) -> PairDataset:
        return PairDataset(self.pairs, "train")

    @functools.cached_property
    def _digest(self) -> str:
        about = json.dumps(about_all(self.pairs), sort_keys=True)
        return hashlib.sha256(about.encode()).hexdigest()


def train_encoder(
    options: RunOptions, config: configs.EncoderConfig, start: Pretrained | None
) -> None:
    """Train a contrastive encoder or an autoencoder."""

    def make(_here: Devices) -> Made:
        pairs = open_all(options.data)
        return EncoderTask(config, PairDataset(pairs, "train"), start=start), about_all(pairs)

    fit_run(options, config, make)


def train_ears(
    options: RunOptions,
    config: configs.EarsTrainingConfig,
    bank: Path,
    teacher: Path | None,
    start: Pretrained | None,
) -> None:
    """Train the encoder of the everyday model."""

    def make(here: Devices) -> Made:
        source = EverydayData(options.data)
        found = _made_once(
            here, lambda tell: source.ears(bank, config.bank, tell, teacher, config.mixtures)
        )
        return EarsTask(config, found, start=start), source.about(found.digest)

    fit_run(options, config, make)


def _made_once(here: Devices, opened: Callable[[Tell], Any]) -> Any:
    """Return what is opened; one process makes what is not there yet, and all read it."""

    def shown() -> Any:
        with progress_bar(log=True) as show:
            return opened(show)

    if here.world > 1:
        here.on_first(lambda: shown().digest)
    return shown()


def train_decoder(options: RunOptions, sizes: str | None, init: Path | None) -> None:
    """Train encoder and decoder of latent pictures."""
    eyes = Eyes.load(ears_data.EYES)
    start = None if init is None else Pretrained(init)
    sizes = sizes or (start.preset("latent_encoder") if start else "everyday")
    config = configs.DecoderConfig(preset=sizes, eyes=eyes.sha256)
    if start is not None:
        config = configs.fine_tuned(config, start.sha256("latent_encoder", "latent_decoder"))
    config = options.resolve(config)
    if options.is_printed(config):
        return

    def make(_here: Devices) -> Made:
        source = EverydayData(options.data)
        digest, photos = source.photos()
        val = source.shown()
        shown = None if val is None else torch.from_numpy(val)
        task = DecoderTask(config, torch.from_numpy(photos), eyes, shown, start=start)
        return task, source.about(digest)

    fit_run(options, config, make)


def train_translator(
    options: RunOptions,
    config: configs.TranslatorConfig,
    encoder: Path,
    judges: Path | None,
    start: Pretrained | None,
) -> None:
    """Train generator and discriminator."""
    frozen = load_encoder(encoder)
    evaluate = None
    if judges is not None:
        from soundsight.evaluation.validation import ValFigures
        from soundsight.judges.apply import Judges

        bench = find_bench(options.data[0] if options.data else None)
        evaluate = ValFigures(Judges.load(judges), bench)

    def make(_here: Devices) -> Made:
        pairs = open_all(options.data)
        data = PairDataset(pairs, "train")
        task = TranslatorTask(config, frozen, data, encoder_run=encoder, start=start)
        return task, about_all(pairs)

    fit_run(options, config, make, evaluate)


def train_flow(
    options: RunOptions,
    sizes: str,
    encoder: Path,
    decoder: Path,
    bank: Path,
    start: Pretrained | None,
) -> None:
    """Train the translator of the everyday model: the flow from sounds to latent pictures."""
    config = configs.FlowTrainingConfig(
        preset=sizes,
        encoder=Pretrained(encoder).about("encoder")["sha256"],
        decoder=Pretrained(decoder).about("latent_encoder")["sha256"],
    )
    if start is not None:
        config = configs.fine_tuned(config, start.sha256("flow"))
    config = options.resolve(config)
    runs = encoder, decoder
    _fit_on_flow_pairs(
        options, config, runs, bank,
        lambda pairs, _: FlowTask(config, pairs, runs=runs, start=start),
    )  # fmt: skip


def train_copy(options: RunOptions, translator: Path, bank: Path) -> None:
    """Train the few-step copy of a flow."""
    flow, about = load_flow(translator)
    config = options.resolve(configs.DistilConfig(flow=about["sha256"]))
    _fit_on_flow_pairs(
        options, config, (translator, translator), bank,
        lambda pairs, _: DistilTask(config, pairs, flow, run=translator),
    )  # fmt: skip


def train_alignment(options: RunOptions, translator: Path, bank: Path) -> None:
    """Train the few-step translator on its pictures."""
    _, about = load_flow(translator)
    eyes = Eyes.load(ears_data.EYES)
    config = options.resolve(configs.AlignConfig(flow=about["sha256"], eyes=eyes.sha256))

    def task_of(pairs: FlowPairs, source: EverydayData) -> Task:
        photos = torch.from_numpy(source.photos()[1])
        return AlignTask(config, pairs, photos, eyes, run=translator)

    _fit_on_flow_pairs(options, config, (translator, translator), bank, task_of)


def _fit_on_flow_pairs(
    options: RunOptions,
    config: Any,
    runs: tuple[Path, Path],
    bank: Path,
    task_of: Callable[[FlowPairs, EverydayData], Task],
) -> None:
    """Train what learns from the embeddings and latent pictures of two runs."""
    if options.is_printed(config):
        return

    def make(here: Devices) -> Made:
        source, seed = EverydayData(options.data), config.loop.seed

        def opened(tell: Tell) -> FlowPairs:
            data = source.ears(bank, configs.BankConfig(seed=seed), tell)
            # Kept beside the bank, by encoder and decoder.
            return flow_pairs_of(
                source.folder(bank), data, *runs, lambda: source.photos()[1], seed=seed, tell=tell
            )

        with here.autocast():
            pairs = _made_once(here, opened)
        return task_of(pairs, source), source.about(pairs.digest)

    fit_run(options, config, make)


def train_judges(
    options: FitOptions, early: list[Path] | None, seed: int, steps: int | None, *, everyday: bool
) -> None:
    """Train the judges of the bench, or the one of Everyday."""
    data = options.data[0] if options.data else None
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


def train_ood(
    options: FitOptions, encoder: Path, others: Path | None, bank: Path, seed: int
) -> None:
    """Fit the ood score to a finished encoder."""
    network = load_encoder(encoder)
    everyday = _is_everyday(network, options.data, others)
    config: Any = configs.OodClassifierFitConfig() if everyday else configs.FitConfig()
    config = options.resolve(config, seed=seed)
    if options.is_printed(config):
        return
    fitted: Any
    if isinstance(network, Ears) and everyday:
        train, val, other = _everyday_seconds(network, encoder, options.data, others, bank)
        folder = None if other is None else other.embeddings
        made = kinds.hear_made(network, EVERYDAY_HEAD, "train")
        fitted = fit_ood_classifier(train, val, network, config, folder=folder, made=made)
    else:
        pairs = open_all(options.data)
        known, held_out = (PairDataset(pairs, split) for split in ("train", "val"))
        fitted = fit_nearest_neighbours(network, known, held_out, config)
    write_ood(options.out, encoder, fitted, config)
    typer.echo(f"written: {options.out}")


def train_labels(options: FitOptions, encoder: Path, others: Path | None, bank: Path) -> None:
    """Fit the label head to a finished encoder."""
    network = load_encoder(encoder)
    everyday = _is_everyday(network, options.data, others)
    config = options.resolve(EVERYDAY_HEAD if everyday else configs.LabelHeadConfig())
    if options.is_printed(config):
        return
    if isinstance(network, Ears) and everyday:
        train, val, other = _everyday_seconds(network, encoder, options.data, others, bank)
        train = train if other is None else kinds.joined([train, other])
        fitted = fit_heard(train, val, network, config, WORDS)
    else:
        pairs = open_all(options.data)
        train, val = (kinds.hear_labelled(network, pairs, split) for split in ("train", "val"))
        fitted = fit_heard(train, val, network, config)
    write_label_head(options.out, encoder, fitted, config)
    typer.echo(f"{', '.join(fitted.head.labels)}: {fitted.figures.words()}")
    typer.echo(f"written: {options.out}")


def _is_everyday(network: Any, data: list[Path] | None, others: Path | None) -> bool:
    """Whether Everyday's kinds are fitted: for ears, where its folder is read."""
    named = not data or any(is_everyday(where) for where in data)
    everyday = named and isinstance(network, Ears)
    if others is not None and not everyday:
        raise ConfigError("--others goes with Everyday's folder and its ears: leave it out")
    return everyday


def _everyday_seconds(
    ears: Ears, encoder: Path, data: list[Path] | None, others: Path | None, bank: Path
) -> tuple[kinds.KindSeconds, kinds.KindSeconds, kinds.KindSeconds | None]:
    """Seconds of train and val, and of a folder of other sounds where there is one."""
    source = EverydayData(data)
    assert source.everyday is not None
    unread: list[str] = []
    with progress_bar(log=True) as show:
        train, val = (
            kinds.joined(
                [
                    kinds.open_kinds(bank, encoder, *source.everyday, split, tell=show),
                    kinds.hear_labelled(ears, source.pairs, split),
                ]
            )
            for split in ("train", "val")
        )
        found = None
        if others is not None:
            found = kinds.open_others(bank, encoder, others, tell=show, unread=unread.append)
    if unread:
        say(f"left out {len(unread)} that cannot be read, such as: {unread[0]}", err=True)
    return train, val, found
