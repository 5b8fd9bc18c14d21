"""Where a training runs: one CPU, one GPU, or several processes that share each batch.

Lightning Fabric finds the device, starts or joins the processes and gives the mixed precision. The
processes train as data-parallel training does: each holds the whole networks, takes an equal part
of each batch and draws its own random numbers; gradients are averaged before each optimiser step.
``DistributedDataParallel`` itself is not used: its hooks expect one forward and one backward pass
of one module, while a GAN's step calls a discriminator several times and by several methods.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from soundsight.core.config import choose
from soundsight.core.errors import ConfigError, SoundsightError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


def numpy_on_one_thread() -> AbstractContextManager[Any]:
    """Keep NumPy's matrix products to the calling thread, from now on or in a ``with`` block.

    They are small here. On more threads they take longer, ten times where the other cores are busy
    (threads wait for each other by spinning), and their last digits depend on how many there are.
    """
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController().select(internal_api="openblas")
    limited: AbstractContextManager[Any] = libraries.limit(limits=1)
    return limited


class Devices:
    """One process of a run, its ``device``, and its way to the ``world`` of processes.

    The one of ``rank`` 0 writes files and messages.

    Args:
        fabric: launched; None for this process alone, on the CPU, in float32.
        compiled: run the networks through ``torch.compile``.
    """

    def __init__(self, fabric: Fabric | None = None, *, compiled: bool = False) -> None:
        self._fabric, self._compiled = fabric, compiled
        self.device = torch.device("cpu") if fabric is None else fabric.device
        self.rank = 0 if fabric is None else fabric.global_rank
        self.world = 1 if fabric is None else fabric.world_size

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def about(self) -> dict[str, Any]:
        """Return what a run's record says of the device and the processes."""
        about: dict[str, Any] = {"device": self.device.type, "processes": self.world}
        if self.device.type == "cuda":
            about["gpu"] = torch.cuda.get_device_name(self.device)
        return {**about, "threads": torch.get_num_threads(), "compiled": self._compiled}

    def place(self, network: nn.Module) -> None:
        """Move a network here, in place.

        On several GPUs BatchNorm takes its statistics over all processes. PyTorch has no such
        kernel for CPUs: there each process normalises by its own part of the batch.
        """
        network.to(self.device)
        if self.world > 1 and self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(network)

    def compile(self, network: nn.Module) -> None:
        """Run ``network`` through ``torch.compile``, where that was asked for; in place."""
        if self._compiled:
            network.compile(dynamic=False)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which networks run; losses stay outside it, in float32."""
        return contextlib.nullcontext() if self._fabric is None else self._fabric.autocast()

    def parts_of(self, rows: NDArray[np.int64], accumulate: int) -> list[NDArray[np.int64]]:
        """Return this process's rows of each micro-batch of the batch ``rows``.

        ConfigError when it cannot be divided evenly.
        """
        if len(rows) % (accumulate * self.world):
            raise ConfigError(
                f"loop.batch_size {len(rows)} cannot be divided into {accumulate} micro-batches "
                f"over {self.world} processes: choose a multiple of {accumulate * self.world}"
            )
        return list(rows.reshape(accumulate, self.world, -1)[:, self.rank])

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in place, in one all-reduce."""
        tensors = list(tensors)
        if self.world == 1 or not tensors:
            return
        flat = self.mean(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        for tensor, piece in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(piece.view(tensor.shape))

    @torch.no_grad()
    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes, without gradients."""
        if self.world == 1:
            return x
        total = x.clone()
        dist.all_reduce(total)
        return total / self.world

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether any process raised it."""
        raised = torch.tensor(flags, dtype=torch.float32, device=self.device)
        return tuple(share > 0 for share in self.mean(raised).tolist())

    def on_first(self, act: Callable[[], T]) -> T:
        """Let the first process act, and return in every process what it returned.

        What it raises it raises there; the others leave without a message, with the same exit code.
        """
        if self._fabric is None or self.world == 1:
            return act()
        outcome: tuple[T | None, SoundsightError | None] = (None, None)
        if self.first:
            try:
                outcome = (act(), None)
            except SoundsightError as error:
                outcome = (None, error)
        value, failure = self._fabric.broadcast(outcome)
        if failure is not None:
            raise failure if self.first else SystemExit(failure.exit_code)
        result: Any = value
        return result


def start_devices(
    accelerator: str = "auto",
    devices: int | None = None,
    nodes: int | None = None,
    *,
    compiled: bool = False,
    threads: int | None = None,
    precision: str = "32-true",
) -> Devices:
    """Find the device and start, or join, the processes of a run.

    Started by torchrun or SLURM, a process joins the others. Started plainly with more than one
    device, it starts the others itself, by its own command line. A resumed run may run on other
    devices. On a GPU float32 matrices are multiplied in TF32, as its convolutions are by default.

    Args:
        accelerator: ``cpu``, ``cuda``, or ``auto``: cuda where there is one.
        devices: processes on each node; None for as many as torchrun or SLURM started, else 1.
        nodes: None likewise.
        compiled: run the networks through ``torch.compile``.
        threads: CPU threads of a process; None for all (of one process) or for a fair share.
        precision: ``32-true`` or ``bf16-mixed`` (``LoopConfig``).

    Raises:
        ConfigError: when there is no such device, when the launcher started another number, or
            when ``torch.compile`` has no compiler.
    """
    from lightning_fabric import Fabric

    choose("accelerator", accelerator, dict.fromkeys(("auto", "cpu", "cuda")))
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("accelerator cuda: PyTorch finds no CUDA device here; take cpu")
    if compiled and accelerator == "cpu":
        _need_compiler()
    devices, nodes = _launched(devices, nodes)
    if accelerator == "cuda" and devices > torch.cuda.device_count():
        raise ConfigError(
            f"{devices} devices are asked for and there are {torch.cuda.device_count()}"
        )
    # Its lines on what it chose are in run.json.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if devices * nodes > 1 else "auto",
            precision=precision,  # type: ignore[arg-type]
        )
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"the processes of the run did not start: {error}") from error
    # A thread that still listens to the other processes would abort the program at its end.
    atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
    if threads:
        torch.set_num_threads(threads)
    if accelerator == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    return Devices(fabric, compiled=compiled)


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Turn an allocation that fails inside into a ConfigError on what to make smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(
            words in said for words in ("can't allocate memory", "not enough memory")
        ):
            raise
        raise ConfigError(
            "networks and batch do not fit into memory: take a smaller --preset or --batch-size, "
            "or --accumulate"
        ) from error


def _launched(devices: int | None, nodes: int | None) -> tuple[int, int]:
    """Return (processes a node, nodes): what the launcher started, or what is asked for."""
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        found = local, int(os.environ["WORLD_SIZE"]) // local
    elif SLURMEnvironment.detect():
        started = int(os.environ.get("SLURM_NNODES", 1))
        found = int(os.environ["SLURM_NTASKS"]) // started, started
    else:
        return devices or 1, nodes or 1
    for name, asked, value in zip(("devices", "nodes"), (devices, nodes), found, strict=True):
        if asked not in (None, value):
            raise ConfigError(f"{name} is {asked} but the launcher started {value}: leave it out")
    return found


def _need_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(
            "compile needs a C++ compiler on a CPU: install g++, or leave it out"
        ) from error
