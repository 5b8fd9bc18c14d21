"""One network of the judges' folder, from its first batch to its last; a stop costs nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from soundsight.core.errors import OutputError, SoundsightError
from soundsight.judges.files import JudgeFolder, round_weights
from soundsight.training.ema import Ema
from soundsight.training.trainer import StopRequest, channels_last, one_cycle

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Network = TypeVar("Network", bound=nn.Module)
Show = Callable[[int, int], None]
"""Told of the number of batches done and of all."""

_SAVE_EVERY_S = 60.0
_LOG_EVERY = 25
_WARM_UP = 0.05


def fit(
    make: Callable[[], Network],
    batch: Callable[[int, Network], tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    name: str,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    average_decay: float,
    bfloat16: bool,
    seed: tuple[int, ...],
    folder: JudgeFolder,
    show: Show,
) -> Network:
    """Train a network by AdamW and return the moving average of its weights, rounded to fp16.

    Args:
        make: makes the network; its weights are a function of ``seed``.
        batch: (step, moving average of the network so far) -> (images, targets), a function of
            these alone.
        loss: (what the network says, targets) -> a scalar.
        name: of the network, for its checkpoint in ``folder``, messages and the log.
        steps: batches.
        learning_rate: peak: linear warm-up over a twentieth of the steps, then a cosine to 0.
        weight_decay: AdamW's.
        average_decay: of the moving average.
        bfloat16: convolutions in bfloat16.
        seed: of the weights and of dropout.
        folder: keeps the state, so that the same call goes on after a stop.
        show: told of every step.

    Raises:
        SoundsightError: when the loss is no longer finite.
        KeyboardInterrupt: after the state was saved.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(*seed, 0))
        network = channels_last(make())
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=weight_decay)
        average = Ema(network, average_decay)
        networks: dict[str, nn.Module] = {"network": network, "average": average.average}
        first = folder.load_state(name, networks, optimizer)
        saved = time.monotonic()
        network.train()
        show(first, steps)
        with StopRequest() as stop, _board(folder.path / "tensorboard") as board:
            for step in range(first, steps):
                images, targets = batch(step, average.average)
                torch.manual_seed(mix(*seed, step + 1))
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * one_cycle(step, steps, _WARM_UP)
                with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                    said = network(images)
                value = loss(said.float(), targets)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                average.update(network, step)
                show(step + 1, steps)
                if step % _LOG_EVERY == 0 or step + 1 == steps:
                    _log(board, name, step, float(value.detach()))
                if stop.asked or time.monotonic() - saved > _SAVE_EVERY_S:
                    folder.save_state(name, networks, optimizer, step + 1)
                    saved = time.monotonic()
                if stop.asked:
                    raise KeyboardInterrupt
    kept = round_weights(average.average).eval()
    if not all(bool(torch.isfinite(value.float()).all()) for value in kept.state_dict().values()):
        raise SoundsightError(
            f"weights of {name} are no finite numbers: try a lower learning_rate, in another folder"
        )
    return kept


@contextmanager
def _board(path: Path) -> Iterator[SummaryWriter]:
    from torch.utils.tensorboard import SummaryWriter

    try:
        board = SummaryWriter(str(path))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield board
    finally:
        # What a full disk does not take is lost with the curves; the weights are written apart.
        with suppress(OSError):
            board.close()


def mix(*words: int) -> int:
    """Mix numbers into one 63-bit seed for PyTorch."""
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return (int(state[0]) << 31) ^ int(state[1])


def _log(board: SummaryWriter, name: str, step: int, value: float) -> None:
    if not math.isfinite(value):
        raise SoundsightError(
            f"the loss of {name} is {value} at step {step}: try a lower learning_rate, in "
            "another folder"
        )
    board.add_scalar(f"{name}/loss", value, step)
