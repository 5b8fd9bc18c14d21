"""The training loop of everything that learns: steps, checkpoints, logs, and an exact resume.

A task brings its networks, its optimisers and one step; the loop does the rest, on whatever
:mod:`soundsight.training.devices` offers, and writes what :mod:`soundsight.training.run_folder`
describes. All randomness of a step comes from ``(seed, rank, step)``, so that 2 + 2 steps equal
4 steps to the last bit on a CPU, and the order of the pairs goes on in the middle of an epoch.

Only the first process of a run writes.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from soundsight.core.config import to_dict
from soundsight.core.errors import OutputError, SoundsightError
from soundsight.core.progress import progress_bar
from soundsight.training.checkpoints import save_checkpoint
from soundsight.training.configs import LoopConfig
from soundsight.training.devices import Devices
from soundsight.training.ema import Ema
from soundsight.training.run_folder import FAILED, RunFolder, RunLog, State

Network = TypeVar("Network", bound=nn.Module)
Part = TypeVar("Part")

Scalars = dict[str, Tensor]
"""Name -> what is logged of a step, on the device, without gradients."""

# torchrun passes on a Ctrl-C that the terminal has already sent to every process.
_SAME_REQUEST_S = 1.0


class Task(ABC):
    """What is trained. Networks are made in ``__init__``, on the CPU, from the run's seed."""

    kind: str  #: what messages and the record of the run call it
    devices: Devices = Devices()  #: where it is trained; this process alone until :meth:`place`

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """Return every network whose weights are part of the state."""

    @abstractmethod
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return every optimiser whose state is part of the state."""

    @abstractmethod
    def step(self, step: int, rng: torch.Generator) -> Scalars:
        """Do step number ``step`` (from 0) and return its scalars, still on the device."""

    def state(self) -> State:
        """Return everything that changes in a step."""
        return self.networks(), self.optimizers()

    def sizes(self) -> dict[str, Any]:
        """Return the configs of the networks by name: every size and rate, as JSON holds them."""
        configs = {name: getattr(n, "config", None) for name, n in self.networks().items()}
        return {name: to_dict(config) for name, config in configs.items() if is_dataclass(config)}

    def place(self, devices: Devices) -> None:
        """Move everything to the device on which it is trained."""
        self.devices = devices
        for network in self.networks().values():
            devices.place(network)

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
            seen.append(scalars)
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


class LossTask(Task, Generic[Network]):
    """One network that descends one loss by AdamW, its rate one cycle over the run.

    Args:
        loss: (step, rng) -> a scalar loss.
        learning_rate: AdamW's peak.
        weight_decay: AdamW's, on matrices and filters.
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
        self.optimizer = adamw(network, learning_rate, weight_decay)
        self._rate, self._warm_up = learning_rate, warm_up
        self._ema = None if average_decay is None else Ema(network, average_decay)

    @property
    def kept(self) -> Network:
        """What is kept of the training: the moving average, or the network itself."""
        return self.network if self._ema is None else self._ema.average

    def networks(self) -> dict[str, nn.Module]:
        average = {} if self._ema is None else {"average": self._ema.average}
        return {"network": self.network, **average}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"network": self.optimizer}

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        set_rate(self.optimizer, self._rate * one_cycle(step, self.loop.steps, self._warm_up))
        self.network.train()

        def loss_of(rng: torch.Generator) -> tuple[Tensor, Scalars]:
            loss = self.loss(step, rng)
            return loss, {"loss": loss.detach()}

        scalars = self.descend("gradient", self.optimizer, [rng], loss_of)
        if self._ema is not None:
            self._ema.update(self.network, step)
        return scalars


Evaluate = Callable[[Task, int], dict[str, float]]
"""(task, steps that are over) -> figures to log. It may not change the task's state."""

ShowProgress = Callable[[int, int], None]
"""(steps that are over, steps in all) -> None; called after each step."""


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
    progress: ShowProgress | None = None,
) -> bool:
    """Train ``task`` in ``run`` from its last checkpoint to the last step.

    Called by every process of a run; all stop at the same step, whichever was asked to.

    Args:
        run: the run folder, which every process must see. None to train in memory alone.
        config: the whole resolved config, saved before step 0, beside ``data``: what the pairs are.
        devices: what it runs on; by default this process alone, on the CPU, in float32.
        evaluate: called by the first process every ``loop.evaluate_every`` steps and at the end.
        max_time_s: stop (with a checkpoint) after this long.
        progress: called after each step, in place of the progress bar.

    Returns:
        Whether the last step is over.

    Raises:
        ConfigError: when ``run`` was begun with another config or other data (the keys are named),
            or when the batch cannot be divided among the processes.
        DataError: when ``run`` is damaged.
        OutputError: when it cannot be written to, or is not the same for every process.
        SoundsightError: when a loss or a gradient is no longer finite; the last checkpoint is
            kept, and the state of that moment written beside it.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the step at work and a checkpoint.
    """
    devices = devices or Devices()
    devices.on_first(partial(devices.parts_of, np.arange(loop.batch_size), loop.accumulate))
    folder = None if run is None else RunFolder(run)
    step = 0
    if folder is not None:
        begin = partial(folder.begin, task.kind, config or {}, task.sizes(), data or {})
        devices.on_first(begin)
        task.place(devices)
        step = folder.load(task.state())
        if devices.on_first(lambda: step) != step:
            raise OutputError(f"{run} is not the same folder for every process: --out is shared")
        if step >= loop.steps and folder.finished:
            _say(devices, f"{run} is finished ({step} steps): nothing to do")
            return True
        devices.on_first(partial(folder.add_start, step, devices.about()))
    else:
        task.place(devices)

    hidden = folder is None or progress is not None or not devices.first
    not_finite: Scalars = {}  # on the device until somebody looks
    asked = late = False
    started, first = time.monotonic(), step
    with (
        RunLog(folder.path, step) if folder and devices.first else nullcontext() as log,
        progress_bar(hidden=hidden) as bar,
        StopRequest() as stop,
    ):
        while step < loop.steps and not (asked or late):
            scalars = task.step(step, step_rng(loop.seed, step, devices.rank))
            # BatchNorm's running statistics: each process has seen its own part of the batch.
            buffers = (b for network in task.networks().values() for b in network.buffers())
            devices.average([b for b in buffers if b.is_floating_point()])
            step += 1
            for name, value in scalars.items():
                before = not_finite.get(name, torch.zeros_like(value))
                not_finite[name] = torch.where(value.isfinite(), before, value)
            last = step == loop.steps
            logs = last or step % loop.log_every == 0
            draws = folder is not None and (last or step % loop.picture_every == 0)
            saves = last or step % loop.checkpoint_every == 0
            evaluates = evaluate is not None and (last or step % loop.evaluate_every == 0)
            # A GPU is left to run ahead where nobody looks: to ask it is to wait for it.
            if logs or saves or devices.device.type == "cpu":
                seen = zip(not_finite, torch.stack([*not_finite.values()]).tolist(), strict=True)
                bad = {name: value for name, value in seen if not math.isfinite(value)}
                spent = time.monotonic() - started
                out_of_time = max_time_s is not None and spent > max_time_s
                asked, late, failed = devices.any(stop.asked_at is not None, out_of_time, bool(bad))
                if failed:
                    devices.on_first(partial(_fail, task, folder, step, bad))
            if folder is not None and devices.first:
                task.after_step(step, folder.path)
            values: dict[str, float] = {}
            if logs:
                means = devices.mean(torch.stack(list(scalars.values()))).tolist()
                values = dict(zip(scalars, means, strict=True))
                note = "  ".join(f"{k} {v:.3f}" for k, v in list(values.items())[:3])
                bar(task.kind, step, loop.steps, note)
                spent = time.monotonic() - started
                values["items_per_s"] = (step - first) * loop.batch_size / spent
            if evaluate is not None and evaluates:
                values |= devices.on_first(partial(evaluate, task, step))
            if logs or draws or evaluates:
                devices.on_first(partial(_write, log, task, step, values, draws=draws))
            if folder is not None and (saves or asked or late):
                devices.on_first(partial(folder.save, task.state(), step, loop.keep))
            if progress is not None:
                progress(step, loop.steps)
    if step < loop.steps:
        why = "stopped" if asked else "out of time"
        if folder is not None:
            _say(devices, f"{why} at step {step} of {loop.steps}; the same command goes on")
        if asked:
            raise KeyboardInterrupt
        return False
    if folder is not None:
        devices.on_first(partial(task.finish, folder.path))
        devices.on_first(partial(folder.finish, step))
    return True


def _say(devices: Devices, message: str) -> None:
    if devices.first:
        print(message, file=sys.stderr)


class StopRequest:
    """Holds Ctrl-C back until the step at work is over: half a step is no state to go on from.

    SIGTERM, which schedulers send before they kill, asks in the same way. A second Ctrl-C stops at
    once, and the last checkpoint stays as it is.
    """

    def __init__(self) -> None:
        self.asked_at: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Signals belong to the main thread; and a job that was started to ignore Ctrl-C, as shells
        # start those in the background, goes on ignoring it.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *details: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        now = time.monotonic()
        if self.asked_at is None:
            self.asked_at = now
        elif now - self.asked_at > _SAME_REQUEST_S:
            raise KeyboardInterrupt


def _write(
    log: RunLog | None, task: Task, step: int, values: dict[str, float], *, draws: bool
) -> None:
    if log is not None:
        log.write(step, values, task.pictures() if draws else None)


def _fail(task: Task, folder: RunFolder | None, step: int, bad: dict[str, float]) -> None:
    name, value = next(iter(bad.items()), ("a loss of another process", math.nan))
    stops = f"{name} is {value} at step {step}"
    if folder is None:
        raise SoundsightError(f"{task.kind}: {stops}: try a lower learning rate")
    save_checkpoint(folder.path / FAILED, step, *task.state())
    raise SoundsightError(
        f"{stops}: the run stops and {folder.path} keeps its last checkpoint, and this state as "
        f"{FAILED}; try a lower learning rate"
    )
