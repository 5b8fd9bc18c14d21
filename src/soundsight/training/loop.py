"""The training loop: progress, TensorBoard, checkpoints, and a resume that changes nothing.

A task brings its networks, its optimisers and one step; the loop does the rest. All randomness of
step t comes from ``(seed, t)``, so that 2 + 2 steps equal 4 steps to the last bit on a CPU.

A run folder::

    run.json            kind, resolved config, commit, versions, machine; written before step 0
    checkpoint.safetensors    everything step t starts from
    log.jsonl           one line of scalars every ``log_every`` steps
    events.out.*        the same for TensorBoard, with picture grids
    pictures/           the grids as PNG
    done.json           written when the last step is over
"""

from __future__ import annotations

import json
import math
import platform
import shlex
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn

from soundsight import __version__
from soundsight.core.config import differences
from soundsight.core.errors import ConfigError, DataError, OutputError, SoundsightError
from soundsight.core.runs import atomic_file, commit, write_json
from soundsight.training.checkpoints import load_checkpoint, save_checkpoint

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how often.

    Attributes:
        steps: optimiser steps in all.
        batch_size: pairs a step.
        seed: of the weights, the order of the pairs and every random draw.
        log_every: steps between two log lines.
        checkpoint_every: steps between two checkpoints.
        picture_every: steps between two picture grids.
    """

    steps: int
    batch_size: int
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 250
    picture_every: int = 500

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 2, "seed": 0, "log_every": 1, "checkpoint_every": 1,
                 "picture_every": 1}  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"loop.{name} must be at least {low}, not {getattr(self, name)}")
        if self.seed >= 2**63:
            raise ConfigError(f"loop.seed must be below 2**63, not {self.seed}")


class Task(ABC):
    """What is trained. Networks are made in ``__init__``, on the CPU, from the run's seed."""

    kind: ClassVar[str]

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """Every network whose weights are part of the state."""

    @abstractmethod
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Every optimiser whose state is part of the state."""

    @abstractmethod
    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Do step number ``step`` (from 0) and return its scalars, still on the device."""

    def pictures(self) -> Tensor | None:
        """A fixed batch as it looks now: uint8 [n, 3, h, w], or None."""
        return None

    def after_step(self, step: int, run: Path) -> None:  # noqa: B027 (most tasks keep nothing)
        """Called when ``step`` steps are over; may write files of its own into the run."""

    @abstractmethod
    def finish(self, run: Path) -> None:
        """Write the weights that later commands read."""


def step_rng(seed: int, step: int) -> torch.Generator:
    """Return the source of randomness of one step, and seed torch's own (dropout) with it."""
    words = np.random.SeedSequence([seed, step]).generate_state(2, np.uint64)
    torch.manual_seed(int(words[0] >> np.uint64(1)))
    return torch.Generator().manual_seed(int(words[1] >> np.uint64(1)))


def channels_last(network: Network) -> Network:
    """Lay the weights of ``network`` out as CPUs and GPUs convolve them fastest; in place."""
    moved: Any = network
    moved.to(memory_format=torch.channels_last)
    return network


def picture_grid(pictures: Tensor, columns: int = 8) -> np.ndarray:
    """Lay uint8 [n, 3, h, w] out row by row: uint8 [rows*h, columns*w, 3]."""
    n, channels, height, width = pictures.shape
    rows = math.ceil(n / columns)
    grid = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
    grid[:n] = pictures.permute(0, 2, 3, 1).cpu().numpy()
    grid = grid.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)


def fit(
    task: Task,
    run: Path,
    loop: LoopConfig,
    config: dict[str, Any],
    *,
    max_time_s: float | None = None,
    console: Console | None = None,
) -> bool:
    """Train ``task`` in ``run`` from its last checkpoint to the last step.

    Args:
        task: what is trained.
        run: the run folder; made when it is not there, gone on with when it is.
        loop: how long and how often.
        config: the whole resolved config, saved before step 0.
        max_time_s: stop (with a checkpoint) after this long; None for no limit.
        console: where the progress bar goes; standard error by default.

    Returns:
        Whether the last step is over.

    Raises:
        ConfigError: when ``run`` was begun with another config (the keys are named).
        DataError: when ``run`` is damaged.
        OutputError: when it cannot be written to.
        SoundsightError: when a loss is no longer finite; the last checkpoint is kept.
        KeyboardInterrupt: on Ctrl-C, after the step at work and a checkpoint.
    """
    console = console or Console(stderr=True)
    _begin(run, task.kind, config)
    checkpoint = run / "checkpoint.safetensors"
    step = 0
    if checkpoint.exists():
        step = load_checkpoint(checkpoint, task.networks(), task.optimizers())
    if step >= loop.steps and (run / "done.json").exists():
        console.print(f"{run} is finished ({step} steps): nothing to do")
        return True

    scalars: dict[str, Tensor] = {}

    def save() -> None:
        _check_finite({name: float(value) for name, value in scalars.items()}, step, run)
        save_checkpoint(checkpoint, step, task.networks(), task.optimizers())

    started, first = time.monotonic(), step
    with _writer(run, step) as write, _progress(console) as progress, StopRequest() as stop:
        bar = progress.add_task(task.kind, total=loop.steps, completed=step, rate="", loss="")
        while step < loop.steps and not stop.asked:
            scalars = task.step(step, step_rng(loop.seed, step))
            step += 1
            task.after_step(step, run)
            if step % loop.log_every == 0 or step == loop.steps:
                values = {name: float(value) for name, value in scalars.items()}
                _check_finite(values, step, run)
                rate = (step - first) * loop.batch_size / (time.monotonic() - started)
                write(step, {**values, "items_per_s": rate})
                shown = "  ".join(f"{k} {v:.3f}" for k, v in list(values.items())[:3])
                progress.update(bar, completed=step, rate=f"{rate:.0f}/s", loss=shown)
            if step % loop.picture_every == 0 or step == loop.steps:
                _save_pictures(task, run, step, write)
            if step % loop.checkpoint_every == 0:
                save()
            if max_time_s is not None and time.monotonic() - started > max_time_s:
                break
        save()
    if stop.asked:
        console.print(f"stopped at step {step} of {loop.steps}; the same command goes on")
        raise KeyboardInterrupt
    if step < loop.steps:
        console.print(f"out of time at step {step} of {loop.steps}; the same command goes on")
        return False
    task.finish(run)
    write_json(run / "done.json", {"steps": step, "ended": datetime.now(UTC).isoformat()})
    return True


class StopRequest:
    """Holds Ctrl-C back until the step at work is over: half a step is no state to go on from.

    A second Ctrl-C stops at once, and the last checkpoint stays as it is.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> StopRequest:
        # Signals belong to the main thread; and a job that was started to ignore Ctrl-C, as shells
        # start those in the background, goes on ignoring it.
        self._listens = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        )
        if self._listens:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *details: object) -> None:
        if self._listens:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def read_run(run: Path, kind: str | None = None) -> dict[str, Any]:
    """Return ``run.json``.

    Raises:
        DataError: when ``run`` is no run folder, is damaged, or is of another kind than ``kind``.
    """
    try:
        about: dict[str, Any] = json.loads((run / "run.json").read_text("utf-8"))
        found = about["kind"]
    except FileNotFoundError as error:
        raise DataError(f"{run} is no run folder: it has no run.json") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run / 'run.json'} is damaged: {error}") from error
    if kind is not None and found != kind:
        raise DataError(f"{run} is a run of kind {found}, not {kind}")
    return about


def _begin(run: Path, kind: str, config: dict[str, Any]) -> None:
    if (run / "run.json").exists():
        changed = differences(read_run(run, kind)["config"], config)
        if changed:
            raise ConfigError(
                f"{run} was begun with another config ({', '.join(changed)}): "
                "choose another --out or give the same options"
            )
        return
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise OutputError(f"{run} exists and is no run folder: choose another --out")
    write_json(
        run / "run.json",
        {
            "kind": kind,
            "config": config,
            "command": shlex.join(["soundsight", *sys.argv[1:]]),
            "commit": commit(),
            "soundsight": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "begun": datetime.now(UTC).isoformat(),
        },
    )


def _check_finite(values: dict[str, float], step: int, run: Path) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise SoundsightError(
            f"{bad[0]} is {values[bad[0]]} at step {step}: the run stops and {run} keeps its last "
            "checkpoint; try a lower learning rate"
        )


def _save_pictures(task: Task, run: Path, step: int, write: Any) -> None:
    pictures = task.pictures()
    if pictures is None:
        return
    grid = picture_grid(pictures)
    with atomic_file(run / "pictures" / f"step-{step:07d}.png") as temporary:
        Image.fromarray(grid).save(temporary, format="PNG")
    write(step, {}, grid)


@contextmanager
def _writer(run: Path, step: int) -> Iterator[Any]:
    from torch.utils.tensorboard import SummaryWriter

    # What was logged after the checkpoint is done again: it must not stand there twice.
    board = SummaryWriter(str(run), purge_step=step + 1 if step else None)
    log = run / "log.jsonl"
    if log.exists():
        lines = log.read_text("utf-8").splitlines(keepends=True)
        with atomic_file(log) as temporary:
            temporary.write_text("".join(x for x in lines if _step_of(x) <= step), "utf-8")

    def write(step: int, values: dict[str, float], grid: np.ndarray | None = None) -> None:
        for name, value in values.items():
            board.add_scalar(name, value, step)
        if grid is not None:
            board.add_image("pictures", grid, step, dataformats="HWC")
        if values:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")

    try:
        yield write
    finally:
        board.close()


def _step_of(line: str) -> float:
    """Return a log line's step; infinity for a line that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        console=console,
        disable=not console.is_terminal,
    )
