"""Weights and optimiser states as safetensors + JSON with SHA-256; never pickle.

Weights are a ``.safetensors`` file and a ``.json`` beside it with their SHA-256. A checkpoint,
which is written again and again, is one file: the step, the optimisers' settings and a SHA-256 of
the tensors stand in its header, so that no stop can part them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from soundsight.core.config import from_dict
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import atomic_file, sha256_of, write_json

Network = TypeVar("Network", bound=nn.Module)
Optimizers = dict[str, torch.optim.Optimizer]

TRAINABLE = (
    "encoder", "picture_encoder", "generator", "discriminator", "posterior", "latent_encoder",
    "latent_decoder", "flow",
)  # fmt: skip
"""Every network whose weights a run leaves, or may leave, for others to start from."""

TAUGHT_BY = "many_step_flow"
"""The flow whose few-step copy a run's flow is; training goes on from this one."""

_ADVICE = "put another one in its place, or train into another folder"


def save_weights(
    path: Path, network: nn.Module | dict[str, Tensor], about: dict[str, Any] | None = None
) -> None:
    """Write the weights of a network, or named tensors, to ``path`` (.safetensors).

    Their SHA-256 goes into a .json beside it, with what ``about`` holds.
    """
    named = network.state_dict() if isinstance(network, nn.Module) else network
    with atomic_file(path) as temporary:
        temporary.write_bytes(save({n: value.detach().contiguous() for n, value in named.items()}))
    write_json(path.with_suffix(".json"), {**(about or {}), "sha256": sha256_of(path)})


def copy_weights(source: Path, run: Path, *names: str, **renamed: str) -> None:
    """Copy the weights of networks, those that are there, from one run into another.

    ``renamed`` are copied as well: the name in ``source`` = the name in ``run``.
    """
    for name, new in {**dict.fromkeys(names), **renamed}.items():
        path = source / f"{name}.safetensors"
        if path.is_file():
            for file in (path, path.with_suffix(".json")):
                with atomic_file(run / f"{new or name}{file.suffix}") as temporary:
                    shutil.copyfile(file, temporary)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of ``path`` and the JSON beside it; DataError when either is damaged."""
    try:
        about = json.loads(path.with_suffix(".json").read_text("utf-8"))
        expected = about["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.with_suffix('.json')} is missing or damaged") from error
    if not path.is_file():
        raise DataError(f"{path} is missing")
    if sha256_of(path) != expected:
        raise DataError(f"{path} is damaged: its SHA-256 is not the one in its .json")
    try:
        return load_file(path), about
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is no safetensors file") from error


def load_network(
    path: Path, kind: Callable[[Any], Network], sizes: type
) -> tuple[Network, dict[str, Any]]:
    """Return a network with the weights at ``path``, frozen and in eval mode; and the JSON beside.

    ``kind`` makes it of its config, of the class ``sizes``. DataError when the file is missing,
    damaged, or of a network of other sizes.
    """
    tensors, about = read_tensors(path)
    try:
        network = kind(from_dict(sizes, about["network"]))
    except (KeyError, ConfigError) as error:
        raise DataError(f"{path.with_suffix('.json')} is damaged: {error}") from error
    _load_state(network, tensors, path)
    return network.eval().requires_grad_(False), about


def load_weights(path: Path, network: nn.Module) -> dict[str, Any]:
    """Load weights into ``network``; return the JSON beside them (errors: :func:`load_network`)."""
    tensors, about = read_tensors(path)
    _load_state(network, tensors, path)
    return about


def _load_state(network: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    expected = network.state_dict()
    for name, value in expected.items():
        if name not in tensors:
            raise DataError(f"{where} belongs to another network: it has no {name}")
        if tensors[name].shape != value.shape:
            raise DataError(
                f"{where} belongs to a network of other sizes: {name} is "
                f"{tuple(tensors[name].shape)}, not {tuple(value.shape)}"
            )
    for name in sorted(set(tensors) - set(expected)):
        raise DataError(f"{where} belongs to another network: {name} is not in this one")
    network.load_state_dict(tensors)


class Pretrained:
    """Weights to start from: those of a finished run, or of a model folder that carries them.

    Every method raises DataError when they are missing, damaged or of other sizes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, name: str) -> Path:
        """Return where the weights of this network are, or would be."""
        taught_by = self.folder / f"{TAUGHT_BY}.safetensors"
        if name == "flow" and taught_by.is_file():
            return taught_by
        return self.folder / f"{name}.safetensors"

    def about(self, name: str) -> dict[str, Any]:
        """Return what stands beside the weights of a network."""
        return read_tensors(self._needed(name))[1]

    def load(self, name: str, network: nn.Module) -> dict[str, Any]:
        """Load weights into ``network``; return what stands beside them."""
        return load_weights(self._needed(name), network)

    def sha256(self, *names: str) -> str:
        """Return one hash for those networks' weights that are there; the first must be."""
        present = [name for name in names if name == names[0] or self.file(name).is_file()]
        hashes = "".join(str(self.about(name)["sha256"]) for name in present)
        return hashlib.sha256(hashes.encode()).hexdigest()

    def preset(self, *names: str) -> str:
        """Return the name of the sizes that a network has: the first of ``names`` that is there.

        Where none is, the last is asked for, and its absence is the error. An encoder may have
        other sizes than the generator that listens to it.
        """
        name = next((name for name in names if self.file(name).is_file()), names[-1])
        try:
            return str(self.about(name)["preset"])
        except KeyError as error:
            raise DataError(f"{self.folder}/{name}.json is damaged: no preset") from error

    def _needed(self, name: str) -> Path:
        if self.file(name).is_file():
            return self.file(name)
        if not self.folder.is_dir():
            raise DataError(f"there is no folder {self.folder} to start from")
        if (self.folder / "model.json").is_file():
            advice = "export its run with --trainable, or start from the run"
        elif (self.folder / "run.json").is_file():
            kind = json.loads((self.folder / "run.json").read_text("utf-8")).get("kind")
            advice = f"it is a run of kind {kind}"
            if not (self.folder / "done.json").is_file():
                advice += ": go on with its command until it is finished"
        else:
            advice = "a finished run or a model folder is expected"
        raise DataError(f"{self.folder} holds no weights of a {name} to start from: {advice}")


def save_checkpoint(
    path: Path, step: int, networks: dict[str, nn.Module], optimizers: Optimizers
) -> None:
    """Write everything that training step ``step`` starts from."""
    tensors: dict[str, Tensor] = {}
    for key, network in networks.items():
        for name, value in network.state_dict().items():
            tensors[f"network.{key}.{name}"] = value.detach().contiguous()
    about: dict[str, Any] = {"step": step, "groups": {}, "scalars": {}}
    for key, optimizer in optimizers.items():
        state = optimizer.state_dict()
        about["groups"][key] = state["param_groups"]
        for index, values in state["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{key}.{index}.{name}"] = value.detach().contiguous()
                else:
                    about["scalars"][f"{key}.{index}.{name}"] = value
    about["sha256"] = _digest(tensors)
    with atomic_file(path) as temporary:
        temporary.write_bytes(save(tensors, {"checkpoint": json.dumps(about)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a checkpoint's tensors and ``step``, ``groups``, ``scalars``; DataError if damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["checkpoint"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        expected = about["sha256"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no checkpoint, or it is damaged: {_ADVICE}") from error
    if _digest(tensors) != expected:
        raise DataError(f"{path} is damaged, its SHA-256 is not its header's: {_ADVICE}")
    return tensors, about


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        flat = tensors[name].detach().contiguous().cpu().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_checkpoint(path: Path, networks: dict[str, nn.Module], optimizers: Optimizers) -> int:
    """Load a checkpoint in place, return its step; DataError if damaged or of other networks."""
    tensors, about = read_checkpoint(path)

    def below(prefix: str, named: dict[str, Any]) -> dict[str, Any]:
        return {n.removeprefix(prefix): v for n, v in named.items() if n.startswith(prefix)}

    for key, network in networks.items():
        _load_state(network, below(f"network.{key}.", tensors), path)
    for key, optimizer in optimizers.items():
        state: dict[int, dict[str, Any]] = {}
        values = below(f"optimizer.{key}.", tensors) | below(f"{key}.", about["scalars"])
        for full, value in values.items():
            index, name = full.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": about["groups"][key]})
    return int(about["step"])
