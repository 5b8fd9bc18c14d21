"""The training loop: progress, TensorBoard, checkpoints, and a resume that changes nothing.

A task brings its networks, its optimisers and one step; the loop does the rest, on whatever
:mod:`soundsight.training.devices` offers. All randomness of step t comes from ``(seed, t)``, so
that 2 + 2 steps equal 4 steps to the last bit on a CPU, and the order of the pairs goes on in the
middle of an epoch.

A run folder::

    run.json            kind, resolved config, commit, versions, data; before step 0. And of each
                        time the run was begun or went on: the step, the machine, the commit
    checkpoint.safetensors    everything step t starts from
    checkpoints/        the last ``keep`` of them
    failed.safetensors  the state in which a loss was no longer finite, for a look at it
    log.jsonl           one line of scalars every ``log_every`` steps, and of each evaluation
    events.out.*        the same for TensorBoard, with picture grids
    pictures/           the grids as PNG
    done.json           written when the last step is over

Only the first process of a run writes.
"""

from __future__ import annotations

import json
import math
import platform
import shlex
import shutil
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
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
from soundsight.core.config import differences, to_dict
from soundsight.core.errors import ConfigError, DataError, OutputError, SoundsightError
from soundsight.core.files import atomic_file, commit, write_json
from soundsight.training.checkpoints import load_checkpoint, save_checkpoint
from soundsight.training.configs import LoopConfig
from soundsight.training.devices import Machine
from soundsight.training.distributed import average_gradients

Network = TypeVar("Network", bound=nn.Module)
Part = TypeVar("Part")

Scalars = dict[str, Tensor]
"""Name -> what is logged of a step, on the device, without gradients."""

CHECKPOINT = "checkpoint.safetensors"
FAILED = "failed.safetensors"

# torchrun hands a Ctrl-C on to processes that the terminal has told already.
_SAME_REQUEST_S = 1.0

_PACKAGES = ("lightning-fabric", "numpy", "safetensors", "torch")


class Task(ABC):
    """What is trained. Networks are made in ``__init__``, on the CPU, from the run's seed.

    Attributes:
        machine: where it is trained; this process alone until :meth:`place`.
    """

    kind: ClassVar[str]
    machine: Machine = Machine()

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """Every network whose weights are part of the state."""

    @abstractmethod
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Every optimiser whose state is part of the state."""

    @abstractmethod
    def step(self, step: int, rng: torch.Generator) -> Scalars:
        """Do step number ``step`` (from 0) and return its scalars, still on the device."""

    def sizes(self) -> dict[str, Any]:
        """Return the configs of the networks by name: every size and rate, as JSON holds them."""
        configs = {name: getattr(n, "config", None) for name, n in self.networks().items()}
        return {name: to_dict(config) for name, config in configs.items() if is_dataclass(config)}

    def place(self, machine: Machine) -> None:
        """Move everything to the machine on which it is trained."""
        self.machine = machine
        for network in self.networks().values():
            machine.place(network)

    def descend(
        self,
        name: str,
        optimizer: torch.optim.Optimizer,
        parts: Sequence[Part],
        loss_of: Callable[[Part], tuple[Tensor, Scalars]],
    ) -> Scalars:
        """Do one optimiser step down the mean loss of the micro-batches of all processes.

        Args:
            name: under which the norm of the gradient is logged.
            optimizer: its parameters are those that move.
            parts: this process's part of each micro-batch.
            loss_of: (part) -> its mean loss, and what is to be logged of it.

        Returns:
            The means of what ``loss_of`` gave, and the gradient's norm.
        """
        optimizer.zero_grad(set_to_none=True)
        seen: list[Scalars] = []
        for part in parts:
            loss, scalars = loss_of(part)
            (loss / len(parts)).backward()
            seen.append(scalars)
        moved = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        if self.machine.world > 1:
            average_gradients(moved)
        norm = torch.nn.utils.get_total_norm([p.grad for p in moved if p.grad is not None])
        optimizer.step()
        means = {key: torch.stack([part[key] for part in seen]).mean() for key in seen[0]}
        return {**means, name: norm}

    def pictures(self) -> Tensor | None:
        """A fixed batch as it looks now: uint8 [n, 3, h, w], or None."""
        return None

    def after_step(self, step: int, run: Path) -> None:  # noqa: B027 (most tasks keep nothing)
        """Called when ``step`` steps are over; may write files of its own into the run."""

    @abstractmethod
    def finish(self, run: Path) -> None:
        """Write the weights that later commands read."""


Evaluate = Callable[[Task, int], dict[str, float]]
"""(task, steps that are over) -> figures to log. It may not change the task's state."""


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
    machine: Machine | None = None,
    data: dict[str, Any] | None = None,
    evaluate: Evaluate | None = None,
    max_time_s: float | None = None,
    console: Console | None = None,
) -> bool:
    """Train ``task`` in ``run`` from its last checkpoint to the last step.

    Called by every process of a run; all stop at the same step, whichever was asked to.

    Args:
        task: what is trained.
        run: the run folder; made when it is not there, gone on with when it is. Every process
            must see it.
        loop: how long and how often.
        config: the whole resolved config, saved before step 0.
        machine: what it runs on; by default this process alone, on the CPU, in float32.
        data: what the pairs are, saved beside the config.
        evaluate: called by the first process every ``loop.evaluate_every`` steps and at the end.
        max_time_s: stop (with a checkpoint) after this long; None for no limit.
        console: where the progress bar goes; standard error by default.

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
    machine = machine or Machine()
    console = (console or Console(stderr=True)) if machine.first else Console(quiet=True)
    machine.on_first(partial(machine.parts_of, np.arange(loop.batch_size), loop.accumulate))
    machine.on_first(lambda: _begin(run, task, config, data or {}))
    task.place(machine)
    step = 0
    if (run / CHECKPOINT).exists():
        step = load_checkpoint(run / CHECKPOINT, task.networks(), task.optimizers())
    if machine.on_first(lambda: step) != step:
        raise OutputError(f"{run} is not the same folder for every process: --out must be shared")
    if step >= loop.steps and (run / "done.json").exists():
        console.print(f"{run} is finished ({step} steps): nothing to do")
        return True

    finite = _Finite()
    asked = late = False
    started, first = time.monotonic(), step
    machine.on_first(partial(_note_start, run, step, machine))
    with (
        _writer(run, step, machine) as write,
        _progress(console) as progress,
        StopRequest() as stop,
    ):
        bar = progress.add_task(task.kind, total=loop.steps, completed=step, rate="", loss="")
        while step < loop.steps and not (asked or late):
            scalars = task.step(step, step_rng(loop.seed, step))
            step += 1
            finite.note(scalars)
            last = step == loop.steps
            logs = last or step % loop.log_every == 0
            draws = last or step % loop.picture_every == 0
            saves = last or step % loop.checkpoint_every == 0
            asks = evaluate is not None and (last or step % loop.evaluate_every == 0)
            # A GPU is left to run ahead where nobody looks: to ask it is to wait for it.
            if logs or saves or machine.device.type == "cpu":
                bad, spent = finite.bad(), time.monotonic() - started
                out_of_time = max_time_s is not None and spent > max_time_s
                asked, late, failed = machine.any(stop.asked, out_of_time, bool(bad))
                if failed:
                    machine.on_first(partial(_fail, task, run, step, bad))
            if machine.first:
                task.after_step(step, run)
            values: dict[str, float] = {}
            if logs:
                means = machine.mean(torch.stack(list(scalars.values()))).tolist()
                values = dict(zip(scalars, means, strict=True))
                shown = "  ".join(f"{k} {v:.3f}" for k, v in list(values.items())[:3])
                rate = (step - first) * loop.batch_size / (time.monotonic() - started)
                values["items_per_s"] = rate
                progress.update(bar, completed=step, rate=f"{rate:.0f}/s", loss=shown)
            if evaluate is not None and asks:
                values |= machine.on_first(partial(evaluate, task, step))
            if logs or draws or asks:
                pictures = partial(_save_pictures, task, run, step) if draws else None
                machine.on_first(partial(write, step, values, pictures))
            if saves or asked or late:
                machine.on_first(partial(_save, task, run, step, loop.keep))
    if step < loop.steps:
        why = "stopped" if asked else "out of time"
        console.print(f"{why} at step {step} of {loop.steps}; the same command goes on")
        if asked:
            raise KeyboardInterrupt
        return False
    machine.on_first(lambda: _finish(task, run, step))
    return True


class _Finite:
    """Remembers what was not finite, on the device until somebody looks."""

    def __init__(self) -> None:
        self._seen: Scalars = {}

    def note(self, scalars: Scalars) -> None:
        """Add a step's scalars."""
        for name, value in scalars.items():
            before = self._seen.get(name, torch.zeros_like(value))
            self._seen[name] = torch.where(value.isfinite(), before, value)

    def bad(self) -> dict[str, float]:
        """Return what was not finite at some step, by name."""
        values = torch.stack(list(self._seen.values())).tolist()
        return {n: v for n, v in zip(self._seen, values, strict=True) if not math.isfinite(v)}


class StopRequest:
    """Holds Ctrl-C back until the step at work is over: half a step is no state to go on from.

    SIGTERM, which schedulers send before they kill, asks in the same way. A second Ctrl-C stops at
    once, and the last checkpoint stays as it is.
    """

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether somebody wants the run to stop."""
        return self._asked_at is not None

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
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > _SAME_REQUEST_S:
            raise KeyboardInterrupt


def read_run(run: Path, kind: str | None = None) -> dict[str, Any]:
    """Return ``run.json``.

    Raises:
        DataError: when ``run`` is no run folder, is damaged, or is of another kind than ``kind``.
    """
    try:
        about: dict[str, Any] = json.loads((run / "run.json").read_text("utf-8"))
        found, _ = about["kind"], about["config"]
    except FileNotFoundError as error:
        raise DataError(f"{run} is no run folder: it has no run.json") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run / 'run.json'} is damaged: {error}") from error
    if kind is not None and found != kind:
        raise DataError(f"{run} is a run of kind {found}, not {kind}")
    return about


def _begin(run: Path, task: Task, config: dict[str, Any], data: dict[str, Any]) -> None:
    # A preset is a name for sizes, and what it names may change from version to version.
    sizes = task.sizes()
    if (run / "run.json").exists():
        about = read_run(run, task.kind)
        changed = differences(about["config"], config)
        changed += differences(about.get("data", {}), data, "data.")
        changed += differences(about.get("networks", sizes), sizes, "networks.")
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
            "kind": task.kind,
            "config": config,
            "networks": sizes,
            "data": data,
            "command": shlex.join(["soundsight", *sys.argv[1:]]),
            "commit": commit(),
            "soundsight": __version__,
            "torch": torch.__version__,
            "packages": {name: version(name) for name in _PACKAGES},
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "begun": datetime.now(UTC).isoformat(),
            "starts": [],
        },
    )


def _note_start(run: Path, step: int, machine: Machine) -> None:
    """Write down that the run begins, or goes on, here and now."""
    about = read_run(run)
    start = {"step": step, "at": datetime.now(UTC).isoformat(), "commit": commit()}
    about["starts"] = [*about.get("starts", []), {**start, **machine.about()}]
    write_json(run / "run.json", about)


def _fail(task: Task, run: Path, step: int, bad: dict[str, float]) -> None:
    save_checkpoint(run / FAILED, step, task.networks(), task.optimizers())
    name, value = next(iter(bad.items()), ("a loss of another process", math.nan))
    raise SoundsightError(
        f"{name} is {value} at step {step}: the run stops and {run} keeps its last checkpoint, and "
        f"this state as {FAILED}; try a lower learning rate"
    )


def _save(task: Task, run: Path, step: int, keep: int) -> None:
    save_checkpoint(run / CHECKPOINT, step, task.networks(), task.optimizers())
    if not keep:
        return
    with atomic_file(run / "checkpoints" / f"step-{step:07d}.safetensors") as temporary:
        # A copy, no second name: somebody may copy one over the other to go back.
        shutil.copyfile(run / CHECKPOINT, temporary)
    for old in sorted((run / "checkpoints").glob("step-*.safetensors"))[:-keep]:
        old.unlink()


def _finish(task: Task, run: Path, step: int) -> None:
    task.finish(run)
    write_json(run / "done.json", {"steps": step, "ended": datetime.now(UTC).isoformat()})


def _save_pictures(task: Task, run: Path, step: int) -> np.ndarray | None:
    pictures = task.pictures()
    if pictures is None:
        return None
    grid = picture_grid(pictures)
    with atomic_file(run / "pictures" / f"step-{step:07d}.png") as temporary:
        Image.fromarray(grid).save(temporary, format="PNG")
    return grid


Write = Callable[[int, dict[str, float], Callable[[], np.ndarray | None] | None], None]


@contextmanager
def _writer(run: Path, step: int, machine: Machine) -> Iterator[Write]:
    """Yield what writes (step, scalars, pictures) to log.jsonl and TensorBoard."""
    if not machine.first:
        yield _write_nothing
        return
    from torch.utils.tensorboard import SummaryWriter

    # What was logged after the checkpoint is done again: it must not stand there twice.
    log = run / "log.jsonl"
    if log.exists():
        lines = log.read_text("utf-8", errors="replace").splitlines(keepends=True)
        with atomic_file(log) as temporary:
            temporary.write_text("".join(x for x in lines if _step_of(x) <= step), "utf-8")
    try:
        board = SummaryWriter(str(run), purge_step=step + 1 if step else None)
    except OSError as error:
        raise _unwritable(run, error) from error

    def write(
        step: int,
        values: dict[str, float],
        pictures: Callable[[], np.ndarray | None] | None,
    ) -> None:
        grid = None if pictures is None else pictures()
        try:
            for name, value in values.items():
                board.add_scalar(name, value, step)
            if grid is not None:
                board.add_image("pictures", grid, step, dataformats="HWC")
            if values:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise _unwritable(run, error) from error

    try:
        yield write
    except BaseException:
        with suppress(OSError):
            board.close()
        raise
    try:
        board.close()
    except OSError as error:
        raise _unwritable(run, error) from error


def _write_nothing(*unwanted: object) -> None:
    del unwanted


def _unwritable(run: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write to {run}: {error.strerror or error}; its checkpoint is kept")


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
