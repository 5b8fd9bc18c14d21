"""Weights and optimiser states as safetensors + JSON with SHA-256; never pickle.

Weights are a ``.safetensors`` file and a ``.json`` beside it with their SHA-256. A checkpoint,
which is written again and again, is one file: the step, the optimisers' settings and a SHA-256 of
the tensors stand in its header, so that no stop can part them.
"""

from __future__ import annotations

import hashlib
import json
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

Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)

_ADVICE = "put another one in its place, or train into another folder"


def save_weights(path: Path, network: nn.Module, about: dict[str, Any] | None = None) -> None:
    """Write one network's weights to ``path`` (.safetensors) and their SHA-256 to a .json."""
    tensors = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    save_tensors(path, tensors, about)


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any] | None) -> None:
    """Write named tensors as :func:`save_weights` writes those of a network."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(save(tensors))
    write_json(path.with_suffix(".json"), {**(about or {}), "sha256": sha256_of(path)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of ``path`` and the JSON beside it.

    Raises:
        DataError: when either is missing, damaged, or the SHA-256 does not match.
    """
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


def network_config(kind: type[Config], path: Path, about: dict[str, Any]) -> Config:
    """Return the sizes of the network whose weights are at ``path``, from the JSON beside them.

    Raises:
        DataError: when it does not say them.
    """
    try:
        return from_dict(kind, about["network"])
    except (KeyError, ConfigError) as error:
        raise DataError(f"{path.with_suffix('.json')} is damaged: {error}") from error


def load_network(
    path: Path, kind: Callable[[Any], Network], sizes: type
) -> tuple[Network, dict[str, Any]]:
    """Return a network with the weights at ``path``, frozen and in eval mode; and the JSON beside.

    ``kind`` makes the network of its config, whose class is ``sizes``.

    Raises:
        DataError: when the file is missing, damaged, or of a network of other sizes.
    """
    tensors, about = read_tensors(path)
    network = kind(network_config(sizes, path, about))
    load_state(network, tensors, str(path))
    return network.eval().requires_grad_(False), about


def load_weights(path: Path, network: nn.Module) -> dict[str, Any]:
    """Load weights that :func:`save_weights` wrote into ``network``; return the JSON beside them.

    Raises:
        DataError: as :func:`load_network`.
    """
    tensors, about = read_tensors(path)
    load_state(network, tensors, str(path))
    return about


def load_state(network: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load named tensors into ``network``.

    Raises:
        DataError: naming the first tensor that is missing, left over or of another shape.
    """
    expected = network.state_dict()
    for name, value in expected.items():
        if name not in tensors:
            raise DataError(f"{where} belongs to another network: it has no {name}")
        if tensors[name].shape != value.shape:
            raise DataError(
                f"{where} belongs to a network of other sizes: {name} is "
                f"{tuple(tensors[name].shape)}, not {tuple(value.shape)}"
            )
    extra = sorted(set(tensors) - set(expected))
    if extra:
        raise DataError(f"{where} belongs to another network: {extra[0]} is not in this one")
    network.load_state_dict(tensors)


def save_checkpoint(
    path: Path,
    step: int,
    networks: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
) -> None:
    """Write everything that training step ``step`` starts from."""
    tensors: dict[str, Tensor] = {}
    for key, network in networks.items():
        for name, value in network.state_dict().items():
            tensors[f"network.{key}.{name}"] = value.detach().contiguous()
    groups: dict[str, Any] = {}
    scalars: dict[str, Any] = {}
    for key, optimizer in optimizers.items():
        state = optimizer.state_dict()
        groups[key] = state["param_groups"]
        for index, values in state["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{key}.{index}.{name}"] = value.detach().contiguous()
                else:
                    scalars[f"{key}.{index}.{name}"] = value
    about = {"step": step, "groups": groups, "scalars": scalars, "sha256": _digest(tensors)}
    with atomic_file(path) as temporary:
        temporary.write_bytes(save(tensors, {"checkpoint": json.dumps(about)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a checkpoint's tensors and the rest of it (``step``, ``groups``, ``scalars``).

    Raises:
        DataError: when it is missing or damaged.
    """
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
    """SHA-256 over names and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        flat = tensors[name].detach().contiguous().cpu().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_checkpoint(
    path: Path,
    networks: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
) -> int:
    """Load a checkpoint in place and return its step.

    Raises:
        DataError: when it is missing, damaged or of other networks.
    """
    tensors, about = read_checkpoint(path)

    def of(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    for key, network in networks.items():
        load_state(network, of(f"network.{key}."), str(path))
    for key, optimizer in optimizers.items():
        state: dict[int, dict[str, Any]] = {}
        scalars = {
            n.removeprefix(f"{key}."): v
            for n, v in about["scalars"].items()
            if n.startswith(f"{key}.")
        }
        for full, value in {**of(f"optimizer.{key}."), **scalars}.items():
            index, name = full.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": about["groups"][key]})
    return int(about["step"])
