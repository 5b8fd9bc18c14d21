"""The training loop of everything that learns: steps, checkpoints, logs, and an exact resume.

A task brings its networks, its optimisers and one step; the loop does the rest, on whatever
:mod:`soundsight.training.devices` offers, and writes what :mod:`soundsight.training.run_folder`
describes. All randomness of a step comes from ``(seed, rank, step)``, so that 2 + 2 steps equal
4 steps to the last bit on a CPU, and the order of the pairs goes on in the middle of an epoch.

Only the first process of a run writes.
"""

from __future__ import annotations

import copy
import math
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soundsight.core.config import to_dict
from soundsight.core.errors import OutputError, SoundsightError
from soundsight.core.files import write_json
from soundsight.core.progress import progress_bar
from soundsight.data.store.dataset import batch_indices
from soundsight.training.checkpoints import Optimizers, load_checkpoint, save_checkpoint
from soundsight.training.configs import LoopConfig
from soundsight.training.devices import Devices
from soundsight.training.run_folder import (
    CHECKPOINT,
    RunLog,
    add_start,
    begin_run,
    keep_checkpoint,
    now,
)

Network = TypeVar("Network", bound=nn.Module)
Part = TypeVar("Part")

Scalars = dict[str, Tensor]
"""Name -> what is logged of a step, on the device, without gradients."""

Evaluate = Callable[["Task", int], dict[str, float]]
"""(task, steps that are over) -> figures to log. It may not change the task's state."""

# torchrun passes on a Ctrl-C that the terminal has already sent to every process.
_SAME_REQUEST_S = 1.0


class Task(ABC):
    """What is trained. Networks are made in ``__init__``, on the CPU, from the run's seed.

    Attributes:
        kind: what messages and the record of the run call it.
        loop: how long, how much at once and how often.
        networks: every network whose weights are part of the state.
        optimizers: every optimiser whose state is part of the state.
        beside: networks that stay as they are.
        devices: where it is trained; this process alone until :meth:`place`.
    """

    kind: str
    loop: LoopConfig
    networks: dict[str, nn.Module]
    optimizers: Optimizers
    beside: Sequence[nn.Module] = ()
    devices: Devices = Devices()

    @abstractmethod
    def step(self, step: int, rng: torch.Generator) -> Scalars:
        """Do step number ``step`` (from 0) and return its scalars, still on the device."""

    def sizes(self) -> dict[str, Any]:
        """Return the configs of the networks by name: every size and rate, as JSON holds them."""
        configs = {name: getattr(n, "config", None) for name, n in self.networks.items()}
        return {name: to_dict(config) for name, config in configs.items() if is_dataclass(config)}

    def place(self, devices: Devices) -> None:
        """Move everything to the device on which it is trained."""
        self.devices = devices
        for network in self.networks.values():
            devices.place(network)
        for network in self.beside:
            network.to(devices.device)

    def parts(self, step: int, length: int, size: int | None = None) -> list[NDArray[np.int64]]:
        """Return this process's rows, of ``length``, of each micro-batch of a step.

        ``size`` is that of the batch, where it is not ``loop.batch_size``.
        """
        rows = batch_indices(length, size or self.loop.batch_size, self.loop.seed, step)
        return self.devices.parts_of(rows, self.loop.accumulate)

    def descend(
        self,
        name: str,
        optimizer: torch.optim.Optimizer,
        parts: Sequence[Part],
        loss_of: Callable[[Part], tuple[Tensor, Scalars]],
    ) -> Scalars:
        """Do one optimiser step down the mean loss of the micro-batches of all processes.

        ``loss_of`` gives the mean loss of one of this process's ``parts``, and what is to be logged
        of it. The means of these come back, with the norm of the gradient under ``name``.
        """
        optimizer.zero_grad(set_to_none=True)
        seen: list[Scalars] = []
        for part in parts:
            loss, scalars = loss_of(part)
            (loss / len(parts)).backward()
            seen.append({key: value.detach() for key, value in scalars.items()})
        moved = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        self.devices.average(moved)
        norm = torch.nn.utils.get_total_norm(moved)
        optimizer.step()
        means = {key: torch.stack([part[key] for part in seen]).mean() for key in seen[0]}
        return {**means, name: norm}

    def pictures(self) -> Tensor | None:
        """Return a fixed batch as it looks now: uint8 [n, 3, h, w], or None."""
        return None

    def after_step(self, step: int, run: Path) -> None:  # noqa: B027 (most tasks keep nothing)
        """Do what is to be done when ``step`` steps are over; may write files into the run."""

    def finish(self, run: Path) -> None:  # noqa: B027 (a task without a run folder writes nothing)
        """Write the weights that later commands read."""


class Ema(Generic[Network]):
    """Keeps ``average``, a copy of a network (weights and BatchNorm statistics) that trails it.

    The decay, the share of the average that is kept at update t, is warmed up, ``min(decay,
    (1 + t) / (10 + t))``, so that the first weights do not linger.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.decay = decay
        self.average: Network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards ``network``; ``step`` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        target = network.state_dict()
        for name, value in self.average.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(target[name].to(value.dtype), 1.0 - decay)
            else:
                value.copy_(target[name])


class LossTask(Task, Generic[Network]):
    """One network that descends one loss by AdamW, its rate one cycle over the run.

    Args:
        loss: (step, rng) -> a scalar loss.
        learning_rate: the peak.
        warm_up: share of the steps in which the rate rises.
        average_decay: of the moving average of the weights, which is then :attr:`kept`.
    """

    def __init__(
        self,
        kind: str,
        network: Network,
        loss: Callable[[int, torch.Generator], Tensor],
        loop: LoopConfig,
        *,
        learning_rate: float,
        weight_decay: float,
        warm_up: float = 0.1,
        average_decay: float | None = None,
    ) -> None:
        self.kind, self.network, self.loss, self.loop = kind, channels_last(network), loss, loop
        self.networks = {"network": network}
        self.optimizers = {"network": adamw(network, learning_rate, weight_decay)}
        self._rate, self._warm_up = learning_rate, warm_up
        self._ema = None if average_decay is None else Ema(network, average_decay)
        #: what is kept of the training: the moving average, or the network itself
        self.kept = network if self._ema is None else self._ema.average
        if self._ema is not None:
            self.networks["average"] = self.kept

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        optimizer = self.optimizers["network"]
        set_rate(optimizer, self._rate * one_cycle(step, self.loop.steps, self._warm_up))
        self.network.train()

        def loss_of(rng: torch.Generator) -> tuple[Tensor, Scalars]:
            loss = self.loss(step, rng)
            return loss, {"loss": loss}

        scalars = self.descend("gradient", optimizer, [rng], loss_of)
        if self._ema is not None:
            self._ema.update(self.network, step)
        return scalars


def step_rng(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """Return one process's source of randomness of one step; seed torch's own (dropout), too."""
    words = np.random.SeedSequence([seed, step, rank]).generate_state(2, np.uint64)
    torch.manual_seed(int(words[0] >> np.uint64(1)))
    return torch.Generator().manual_seed(int(words[1] >> np.uint64(1)))


def channels_last(network: Network) -> Network:
    """Lay the weights of ``network`` out as CPUs and GPUs convolve them fastest; in place."""
    moved: Any = network
    moved.to(memory_format=torch.channels_last)
    return network


def adamw(network: nn.Module, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW that lets only matrices and filters decay, no bias and no scale."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if p.ndim > 1]},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, weight_decay=weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def one_cycle(step: int, steps: int, warm_up: float) -> float:
    """Learning rate at ``step`` as a share of its peak: a line up, then half a cosine to zero."""
    rise = max(1, round(steps * warm_up))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def fit(
    task: Task,
    run: Path | None,
    loop: LoopConfig,
    config: dict[str, Any] | None = None,
    *,
    devices: Devices | None = None,
    data: dict[str, Any] | None = None,
    evaluate: Evaluate | None = None,
    max_time_s: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Train ``task`` in ``run`` from its last checkpoint to the last step.

    Called by every process of a run; all stop at the same step, whichever was asked to.

    Args:
        run: the run folder, which every process must see. None to train in memory alone.
        config: the whole resolved config, saved before step 0, beside ``data``: what the pairs are.
        devices: what it runs on; by default this process alone, on the CPU, in float32.
        evaluate: called by the first process every ``loop.evaluate_every`` steps and at the end.
        max_time_s: stop (with a checkpoint) after this long.
        progress: called after each step with (steps that are over, steps in all), in place of the
            progress bar.

    Returns:
        Whether the last step is over.

    Raises:
        ConfigError: when ``run`` was begun with another config or other data, or when the batch
            cannot be divided among the processes.
        DataError: when ``run`` is damaged.
        OutputError: when it cannot be written to, or is not the same for every process.
        SoundsightError: when a loss or a gradient is no longer finite; the last checkpoint stays,
            and the state of that moment is written beside it.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the step at work and a checkpoint.
    """
    here = devices or Devices()
    here.on_first(lambda: here.parts_of(np.arange(loop.batch_size), loop.accumulate))
    if run is not None:
        here.on_first(lambda: begin_run(run, task.kind, config or {}, task.sizes(), data or {}))
    task.place(here)
    step = first = 0
    if run is not None:
        if (run / CHECKPOINT).exists():
            step = first = load_checkpoint(run / CHECKPOINT, task.networks, task.optimizers)
        if here.on_first(lambda: first) != first:
            raise OutputError(f"{run} is not the same folder for every process: --out is shared")
        if step >= loop.steps and (run / "done.json").exists():
            _say(here, f"{run} is finished ({step} steps): nothing to do")
            return True
        here.on_first(lambda: add_start(run, first, here.about()))

    def save() -> None:
        assert run is not None
        save_checkpoint(run / CHECKPOINT, step, task.networks, task.optimizers)
        if loop.keep:
            keep_checkpoint(run, step, loop.keep)

    def write() -> None:
        if log is not None:
            log.write(step, values, task.pictures() if draws else None)

    not_finite: Scalars = {}  # on the device until somebody looks
    asked = late = False
    started = time.monotonic()
    with (
        RunLog(run, step) if run is not None and here.first else nullcontext() as log,
        progress_bar(hidden=run is None or progress is not None or not here.first) as bar,
        _stop_request() as stop_asked,
    ):
        while step < loop.steps and not (asked or late):
            scalars = task.step(step, step_rng(loop.seed, step, here.rank))
            # BatchNorm's running statistics: each process has seen its own part of the batch.
            buffers = (b for network in task.networks.values() for b in network.buffers())
            here.average(b for b in buffers if b.is_floating_point())
            step += 1
            for name, value in scalars.items():
                before = not_finite.get(name, torch.zeros_like(value))
                not_finite[name] = torch.where(value.isfinite(), before, value)
            last = step == loop.steps
            logs = last or step % loop.log_every == 0
            draws = run is not None and (last or step % loop.picture_every == 0)
            saves = last or step % loop.checkpoint_every == 0
            # A GPU is left to run ahead where nobody looks: to ask it is to wait for it.
            if logs or saves or here.device.type == "cpu":
                seen = zip(not_finite, torch.stack([*not_finite.values()]).tolist(), strict=True)
                bad = {name: value for name, value in seen if not math.isfinite(value)}
                out_of_time = max_time_s is not None and time.monotonic() - started > max_time_s
                asked, late, failed = here.any(stop_asked(), out_of_time, bool(bad))
                if failed:
                    here.on_first(lambda: _fail(task, run, step, bad))  # noqa: B023
            if run is not None and here.first:
                task.after_step(step, run)
            values: dict[str, float] = {}
            if logs:
                means = here.mean(torch.stack(list(scalars.values()))).tolist()
                values = dict(zip(scalars, means, strict=True))
                note = "  ".join(f"{k} {v:.3f}" for k, v in list(values.items())[:3])
                bar(task.kind, step, loop.steps, note)
                spent = time.monotonic() - started
                values["items_per_s"] = (step - first) * loop.batch_size / spent
            if evaluate is not None and (last or step % loop.evaluate_every == 0):
                values |= here.on_first(lambda: evaluate(task, step))  # noqa: B023
            if values or draws:
                here.on_first(write)
            if run is not None and (saves or asked or late):
                here.on_first(save)
            if progress is not None:
                progress(step, loop.steps)
    if step < loop.steps:
        if run is not None:
            why = "stopped" if asked else "out of time"
            _say(here, f"{why} at step {step} of {loop.steps}; the same command goes on")
        if asked:
            raise KeyboardInterrupt
        return False
    if run is not None:
        here.on_first(lambda: task.finish(run))
        here.on_first(lambda: write_json(run / "done.json", {"steps": step, "ended": now()}))
    return True


def _say(devices: Devices, message: str) -> None:
    if devices.first:
        print(message, file=sys.stderr)


@contextmanager
def _stop_request() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back until the step at work is over: half a step is no state to go on from.

    SIGTERM, which schedulers send before they kill, asks in the same way. A second Ctrl-C stops at
    once, and the last checkpoint stays as it is. What is yielded says whether one has come.
    """
    asked_at: list[float] = []

    def ask(*_: object) -> None:
        asked_at.append(time.monotonic())
        if asked_at[-1] - asked_at[0] > _SAME_REQUEST_S:
            raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    # Signals belong to the main thread; and a job that was started to ignore Ctrl-C, as shells
    # start those in the background, goes on ignoring it.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, ask)
    try:
        yield lambda: bool(asked_at)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fail(task: Task, run: Path | None, step: int, bad: dict[str, float]) -> None:
    """Raise what has become of a loss, and keep the state of this moment."""
    name, value = next(iter(bad.items()), ("a loss of another process", math.nan))
    stops = f"{name} is {value} at step {step}"
    if run is None:
        raise SoundsightError(f"{task.kind}: {stops}: try a lower learning rate")
    save_checkpoint(run / "failed.safetensors", step, task.networks, task.optimizers)
    raise SoundsightError(
        f"{stops}: the run stops and {run} keeps its last checkpoint, and this state as "
        "failed.safetensors; try a lower learning rate"
    )
