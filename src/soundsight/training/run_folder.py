"""A run folder: what a training writes while it goes on, and what later commands read.

::

    run.json            kind, resolved config, commit, versions, data; before step 0. And of each
                        time the run was begun or went on: the step, the devices, the commit
    checkpoint.safetensors    everything step t starts from
    checkpoints/        the last ``keep`` of them
    failed.safetensors  the state in which a loss was no longer finite, for a look at it
    log.jsonl           one line of scalars every ``log_every`` steps, and of each evaluation
    events.out.*        the same for TensorBoard, with picture grids
    pictures/           the grids as PNG
    done.json           written when the last step is over
"""

from __future__ import annotations

import json
import math
import platform
import shlex
import shutil
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from soundsight import __version__
from soundsight.core.config import differences
from soundsight.core.errors import ConfigError, DataError, OutputError
from soundsight.core.files import atomic_file, commit, write_json

CHECKPOINT = "checkpoint.safetensors"

_PACKAGES = ("lightning-fabric", "numpy", "safetensors", "torch")


def begin_run(
    run: Path, kind: str, config: dict[str, Any], sizes: dict[str, Any], data: dict[str, Any]
) -> None:
    """Write ``run.json``; where it stands already, check that it says the same.

    The networks' sizes stand in it, too: what a preset names may change from version to version.
    ConfigError names what is not the same; OutputError when the folder holds something else.
    """
    if (run / "run.json").exists():
        about = read_run(run, kind)
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
            "kind": kind,
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
            "begun": now(),
            "starts": [],
        },
    )


def add_start(run: Path, step: int, devices: dict[str, Any]) -> None:
    """Write into ``run.json`` that the run begins, or goes on, here and now."""
    about = read_run(run)
    start = {"step": step, "at": now(), "commit": commit(), **devices}
    write_json(run / "run.json", {**about, "starts": [*about.get("starts", []), start]})


def keep_checkpoint(run: Path, step: int, keep: int) -> None:
    """Let a copy of the checkpoint stay, and remove all but the last ``keep`` of them."""
    folder = run / "checkpoints"
    with atomic_file(folder / f"step-{step:07d}.safetensors") as temporary:
        # A copy, no second name: somebody may copy one over the other to go back.
        shutil.copyfile(run / CHECKPOINT, temporary)
    for old in sorted(folder.glob("step-*.safetensors"))[:-keep]:
        old.unlink()


def now() -> str:
    """Return the time as it stands in files."""
    return datetime.now(UTC).isoformat()


class RunLog:
    """Writes scalars and pictures to ``log.jsonl``, ``pictures/`` and TensorBoard, from a step on.

    What was logged after the checkpoint is done again, so those lines are removed first. Every
    method raises OutputError when the folder cannot be written to.
    """

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run, self._log = run, run / "log.jsonl"
        if self._log.exists():
            lines = self._log.read_text("utf-8", errors="replace").splitlines(keepends=True)
            with atomic_file(self._log) as temporary:
                temporary.write_text("".join(x for x in lines if _step_of(x) <= step), "utf-8")
        try:
            self._board = SummaryWriter(str(run), purge_step=step + 1 if step else None)
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, step: int, values: dict[str, float], pictures: Tensor | None) -> None:
        """Write the scalars of a step and, where there are any, its pictures."""
        grid = None if pictures is None else picture_grid(pictures)
        if grid is not None:
            with atomic_file(self._run / "pictures" / f"step-{step:07d}.png") as temporary:
                Image.fromarray(grid).save(temporary, format="PNG")
        try:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            if grid is not None:
                self._board.add_image("pictures", grid, step, dataformats="HWC")
            if values:
                with self._log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        try:
            self._board.close()
        except OSError as error:
            # Another error says more than that of a log that lost its last lines.
            if kind is None:
                raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        said = error.strerror or error
        return OutputError(f"cannot write to {self._run}: {said}; its checkpoint is kept")


def picture_grid(pictures: Tensor, columns: int = 8) -> np.ndarray:
    """Lay uint8 [n, 3, h, w] out row by row: uint8 [rows*h, columns*w, 3]."""
    n, channels, height, width = pictures.shape
    rows = math.ceil(n / columns)
    grid = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
    grid[:n] = pictures.permute(0, 2, 3, 1).cpu().numpy()
    grid = grid.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)


def read_run(run: Path, kind: str | None = None) -> dict[str, Any]:
    """Return ``run.json``; DataError when it is absent, damaged, or of another ``kind``."""
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


def _step_of(line: str) -> float:
    """The step of a log line; infinity for a line that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
