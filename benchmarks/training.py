"""Training throughput, beside the same networks in a plain PyTorch loop, and what data costs.

    python benchmarks/training.py --threads 1
    python benchmarks/training.py --preset paper --batch-size 64 --steps 40    # on a GPU

*plain* is how the published code writes it: float32, weights and pictures in PyTorch's own layout
(NCHW), random inputs drawn picture by picture, gradients of the discriminator computed in the
generator's turn as well, the losses fetched at every step. *ours* is ``training.trainer.fit`` as
``soundsight train`` calls it, in float32 and in bfloat16, with its logging, its finite check and
its moving average of the generator. Networks, initial weights, batches and learning rates are the
same, and both read the same cached pairs. Each is timed in turn, ``--repeats`` times, without its
first steps; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from soundsight.core.config import to_dict
from soundsight.data.store.dataset import PairDataset, batch_indices
from soundsight.data.vegas.bench import find_bench
from soundsight.models.presets import preset
from soundsight.models.published.autoencoder import Autoencoder
from soundsight.models.published.discriminator import RCDiscriminator
from soundsight.models.published.generator import DenseGenerator
from soundsight.training.configs import (
    EncoderConfig,
    LoopConfig,
    TranslatorConfig,
    default_config,
    default_encoder_config,
)
from soundsight.training.devices import start_devices
from soundsight.training.encoder import EncoderTask, load_encoder, to_float
from soundsight.training.published import TranslatorTask
from soundsight.training.trainer import fit

WARM_UP = 4


class Timed:
    """Losses and seconds of steps, the first ones left out of the time."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.stamps: list[float] = []

    def seconds(self) -> float:
        """Return seconds a step."""
        return (self.stamps[-1] - self.stamps[WARM_UP - 1]) / (len(self.stamps) - WARM_UP)


def contiguous(network: torch.nn.Module, device: str) -> torch.nn.Module:
    """Return the network in PyTorch's default layout."""
    return network.to(device=device, memory_format=torch.contiguous_format).train()


def plain_autoencoder(task: EncoderTask, data: PairDataset, loop: LoopConfig, device: str) -> Timed:
    """Train an autoencoder from the same weights in a plain loop."""
    network = Autoencoder(task.network.config)
    network.load_state_dict(task.network.state_dict())
    network = contiguous(network, device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    timed = Timed()
    for step in range(loop.steps):
        batch = data.gather(batch_indices(len(data), loop.batch_size, loop.seed, step))
        mel = to_float(batch.mel).to(device)
        loss = (network(mel)[0] - mel).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        timed.losses.append(loss.item())
        timed.stamps.append(time.perf_counter())
    return timed


def plain_translator(
    task: TranslatorTask, embeddings: Tensor, data: PairDataset, loop: LoopConfig, device: str
) -> Timed:
    """Train generator and discriminator from the same weights in a plain loop."""
    generator = DenseGenerator(task.generator.config)
    generator.load_state_dict(task.generator.state_dict())
    assert isinstance(task.discriminator, RCDiscriminator)
    discriminator = RCDiscriminator(task.discriminator.config)
    discriminator.load_state_dict(task.discriminator.state_dict())
    contiguous(generator, device)
    contiguous(discriminator, device)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    timed = Timed()
    for step in range(loop.steps):
        rows = batch_indices(len(data), loop.batch_size, loop.seed, step)
        batch = data.gather(rows)
        image = to_float(batch.image).to(device)
        sound = embeddings[torch.from_numpy(rows)].to(device)
        dropout = torch.empty(len(rows), generator.dropout_size, device=device)
        for i in range(len(rows)):
            dropout[i] = torch.rand(generator.dropout_size)
        picture = generator(sound, None, dropout)
        both = discriminator(torch.cat([image, picture.detach()]), torch.cat([sound, sound]))
        real, made = both.chunk(2)
        d_loss = (1 - real).abs().mean() + (-1 - made).abs().mean()
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()
        both = discriminator(torch.cat([image, picture]), torch.cat([sound, sound]))
        pixels = (picture - image).abs().mean()
        g_loss = (1 - both.chunk(2)[1]).abs().mean() + pixels
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
        d_loss.item()
        timed.losses.append(pixels.item())
        timed.stamps.append(time.perf_counter())
    return timed


def through_fit(
    task: EncoderTask | TranslatorTask,
    config: EncoderConfig | TranslatorConfig,
    run: Path,
    key: str,
    compiled: bool,
) -> Timed:
    """Train a task by the project's own loop."""
    timed = Timed()
    inner = task.step

    def step(*args: object) -> object:
        scalars = inner(*args)  # type: ignore[arg-type]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        timed.stamps.append(time.perf_counter())
        return scalars

    task.step = step  # type: ignore[method-assign,assignment]
    # The number of threads stays what it was set to.
    devices = start_devices(compiled=compiled, precision=config.loop.precision)
    fit(task, run, config.loop, to_dict(config), devices=devices)
    lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    timed.losses = [json.loads(line)[key] for line in lines]
    return timed


def data_share(data: PairDataset, loop: LoopConfig, seconds: float) -> tuple[float, float]:
    """Return what gathering a batch takes of a step's time: read from disk, and kept."""
    fresh = PairDataset(find_bench(), "train")
    shares = []
    for pairs in (fresh, data):
        took = []
        for step in range(10):
            began = time.perf_counter()
            pairs.gather(batch_indices(len(pairs), loop.batch_size, loop.seed, step))
            took.append(time.perf_counter() - began)
        shares.append(statistics.median(took) / seconds)
    return shares[0], shares[1]


def compare(
    title: str,
    plain: Callable[[], Timed],
    ours: dict[str, Callable[[], Timed]],
    loop: LoopConfig,
    repeats: int,
) -> float:
    """Time each in turn, print rates, ratios and losses; return seconds of our fastest step."""
    runs: dict[str, list[Timed]] = {name: [] for name in ("plain", *ours)}
    for _ in range(repeats):
        for name, do in {"plain": plain, **ours}.items():
            if name == "plain":
                # On a GPU our loop sets both, for the whole process.
                torch.set_float32_matmul_precision("highest")
                torch.backends.cudnn.benchmark = False
            runs[name].append(do())
    typical = {n: statistics.median(t.seconds() for t in timed) for n, timed in runs.items()}
    print(title)
    for name, timed in runs.items():
        rates = sorted(loop.batch_size / t.seconds() for t in timed)
        last = np.mean(timed[0].losses[-len(timed[0].losses) // 4 :])
        print(
            f"  {name:22} {loop.batch_size / typical[name]:7.1f}/s ({rates[0]:.1f} to "
            f"{rates[-1]:.1f})  {typical['plain'] / typical[name]:.2f} x plain   loss, last "
            f"quarter: {last:.4f}",
            flush=True,
        )
    return min(typical[name] for name in ours)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loop = LoopConfig(
        steps=args.steps, batch_size=args.batch_size, log_every=1, checkpoint_every=10**6,
        picture_every=10**6,
    )  # fmt: skip
    data = PairDataset(find_bench(), "train")
    for step in range(args.steps):
        data.gather(batch_indices(len(data), loop.batch_size, loop.seed, step))
    print(
        f"preset {args.preset}, batches of {args.batch_size}, {args.steps} steps, {device}, "
        f"{args.threads} threads, {args.repeats} alternating repeats"
    )
    with tempfile.TemporaryDirectory() as place:
        folder, count = Path(place), iter(range(10**6))

        def encoder_config(precision: str) -> EncoderConfig:
            config = default_encoder_config("autoencoder", args.preset, "published")
            return replace(config, loop=replace(loop, precision=precision))

        def encoder_task() -> EncoderTask:
            return EncoderTask(encoder_config("32-true"), data)

        def train_encoder(precision: str) -> Timed:
            config = encoder_config(precision)
            run = folder / f"encoder-{next(count)}"
            return through_fit(EncoderTask(config, data), config, run, "loss", args.compile)

        seconds = compare(
            f"autoencoder ({preset(args.preset).autoencoder.embedding_size} numbers)",
            lambda: plain_autoencoder(encoder_task(), data, loop, device),
            {
                "ours, float32": lambda: train_encoder("32-true"),
                "ours, bfloat16": lambda: train_encoder("bf16-mixed"),
            },
            loop,
            args.repeats,
        )
        first, kept = data_share(data, loop, seconds)
        print(f"  data: {first:.1%} of our fastest step when read from disk, {kept:.1%} when kept")

        encoder_run = folder / "encoder-0"
        encoder = load_encoder(encoder_run)

        def translator_config(precision: str) -> TranslatorConfig:
            config = default_config("rc", args.preset, "-")
            return replace(config, loop=replace(loop, precision=precision))

        def translator_task(precision: str = "32-true") -> TranslatorTask:
            return TranslatorTask(
                translator_config(precision), encoder, data, encoder_run=encoder_run
            )

        embeddings = translator_task().embeddings

        def train_translator(precision: str) -> Timed:
            run = folder / f"translator-{next(count)}"
            task = translator_task(precision)
            return through_fit(task, task.config, run, "pixel_loss", args.compile)

        seconds = compare(
            "translator as published (the loss is the pixel loss)",
            lambda: plain_translator(translator_task(), embeddings, data, loop, device),
            {
                "ours, float32": lambda: train_translator("32-true"),
                "ours, bfloat16": lambda: train_translator("bf16-mixed"),
            },
            loop,
            args.repeats,
        )
        first, kept = data_share(data, loop, seconds)
        print(f"  data: {first:.1%} of our fastest step when read from disk, {kept:.1%} when kept")


if __name__ == "__main__":
    main()
