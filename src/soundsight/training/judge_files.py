"""The folder of trained judges, or of the critic: begun, resumed, finished, read.

While training: ``progress.json`` (settings, finished classifiers) and ``state.safetensors`` (the
one at work). When finished: ``<name>.safetensors``, ``judges.json`` or ``critic.json`` with the
SHA-256 of every file, and ``CARD.md``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from soundsight import __version__
from soundsight.core.config import differences, from_dict, to_dict
from soundsight.core.errors import ConfigError, ModelError
from soundsight.core.runs import atomic_file, commit, sha256_of, write_json
from soundsight.models.informativity import InformativityClassifier, InformativityConfig

FORMAT_VERSION = 1

TRAINED_ON = (
    "Real photos of five subjects at 96 x 96: FairFace and UTKFace (baby), Imagenette and CamSDD "
    "(dog), Tiny-ImageNet and MiniPlaces (rail, water), CamSDD (fireworks, water). FairFace is "
    "under CC BY 4.0, the others are for research use; the photos themselves are not distributed."
)


@dataclass(frozen=True, kw_only=True)
class ValTable:
    """What a classifier does on val pictures that it never saw."""

    threshold: float
    """A picture is accepted when its score reaches this."""
    photos: int
    """Val photos that set the threshold."""
    accepted: float
    """Share of them that it accepts."""
    passed: dict[str, float]
    """For each kind of negative, the share that passes."""
    counts: dict[str, int]
    """How many negatives of each kind there were."""


class JudgeFolder:
    """A folder in the making; :meth:`open` begins or resumes it."""

    def __init__(self, path: Path, kind: str, names: list[str], settings: dict[str, Any]) -> None:
        self.path = path
        self.kind = kind
        self.names = names
        self.settings = settings
        self.done: dict[str, dict[str, Any]] = {}
        self.finished = False

    @classmethod
    def open(
        cls, path: Path, kind: str, names: list[str], config: Any, early: NDArray[np.uint8]
    ) -> JudgeFolder:
        """Begin the folder, or go on with what stands there.

        Args:
            path: made when missing.
            kind: ``judges`` or ``critic``.
            names: the classifiers to be trained, one file each.
            config: the settings' dataclass.
            early: early-generator pictures, uint8 [n, 96, 96, 3]; their hash is kept.

        Raises:
            ConfigError: when it was begun with other settings.
            ModelError: when what stands there is damaged.
        """
        settings = {
            "kind": kind,
            "config": to_dict(config),
            "early": {
                "count": len(early),
                "sha256": hashlib.sha256(early.tobytes()).hexdigest(),
            },
        }
        folder = cls(path, kind, names, settings)
        final, progress = path / f"{kind}.json", path / "progress.json"
        for source in (final, progress):
            if not source.exists():
                continue
            record = _read_json(source)
            changed = differences(record.get("settings", {}), settings)
            if changed:
                raise ConfigError(
                    f"{path} was begun with another {changed[0]}: "
                    "give the same settings or another folder"
                )
            folder.done = record["done"]
            folder.finished = source == final
            return folder
        write_json(progress, {"settings": settings, "commit": commit(), "done": {}})
        return folder

    def add(
        self, name: str, model: InformativityClassifier, table: ValTable, seconds: float
    ) -> None:
        """Keep a finished classifier; its weights must be rounded already (``round_weights``)."""
        _save({k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()},
              self.path / f"{name}.safetensors")  # fmt: skip
        self.done[name] = {**asdict(table), "seconds": round(seconds, 1)}
        write_json(
            self.path / "progress.json",
            {"settings": self.settings, "commit": commit(), "done": self.done},
        )
        (self.path / "state.safetensors").unlink(missing_ok=True)

    def finish(self) -> None:
        """Write the card and, last of all, the JSON that makes the folder whole."""
        record: dict[str, Any] = {
            "format": f"soundsight-{self.kind}",
            "format_version": FORMAT_VERSION,
            "version": __version__,
            "commit": commit(),
            "names": self.names,
            "thresholds": {name: self.done[name]["threshold"] for name in self.names},
            "fold": self.settings["config"]["fold"],
            "trained_on": TRAINED_ON,
            "settings": self.settings,
            "done": self.done,
        }
        with atomic_file(self.path / "CARD.md") as temporary:
            temporary.write_text(_card(record), "utf-8")
        files = [f"{name}.safetensors" for name in self.names] + ["CARD.md"]
        record["files"] = {
            name: {
                "sha256": sha256_of(self.path / name),
                "bytes": (self.path / name).stat().st_size,
            }
            for name in files
        }
        write_json(self.path / f"{self.kind}.json", record)
        (self.path / "progress.json").unlink(missing_ok=True)
        self.finished = True

    def save_state(
        self,
        name: str,
        model: InformativityClassifier,
        optimizer: torch.optim.Optimizer,
        step: int,
        seconds: float,
    ) -> None:
        """Keep the classifier at work: weights, optimiser, the next step, seconds so far."""
        tensors = {f"model/{key}": value for key, value in model.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
        _save(tensors, self.path / "state.safetensors", name=name, step=step, seconds=seconds)

    def load_state(
        self, name: str, model: InformativityClassifier, optimizer: torch.optim.Optimizer
    ) -> tuple[int, float]:
        """Restore what :meth:`save_state` kept of ``name``.

        Returns:
            step: the next one, 0 when nothing was kept.
            seconds: spent on the steps before.
        """
        path = self.path / "state.safetensors"
        if not path.exists():
            return 0, 0.0
        tensors, header = _load(path)
        if header["name"] != name:
            return 0, 0.0
        optimizer_state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, entry = key.split("/")
                optimizer_state.setdefault(int(index), {})[entry] = value
        model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model/")})
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": optimizer_state, "param_groups": groups})
        return int(header["step"]), float(header["seconds"])


def round_weights(model: InformativityClassifier) -> InformativityClassifier:
    """Round every weight to fp16, in place: what is stored is what was measured."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half())
    return model


def read(folder: Path, kind: str) -> tuple[dict[str, InformativityClassifier], dict[str, Any]]:
    """Read a finished folder and check every hash.

    Args:
        folder: as written by ``train`` or ``train_critic``.
        kind: ``judges`` or ``critic``.

    Returns:
        models: name -> classifier in evaluation mode.
        record: the content of the JSON file; ``record["thresholds"]`` by name.

    Raises:
        ModelError: when it is missing, unfinished, foreign or damaged.
    """
    path = folder / f"{kind}.json"
    if not path.exists():
        unfinished = (folder / "progress.json").exists()
        why = "its training has not finished" if unfinished else f"there is no {kind}.json"
        raise ModelError(f"{folder} holds no {kind}: {why}")
    record = _read_json(path)
    if record.get("format") != f"soundsight-{kind}":
        raise ModelError(f"{path} is not of the format soundsight-{kind}")
    if record.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path} has format version {record.get('format_version')}, "
            f"this program reads {FORMAT_VERSION}"
        )
    try:
        config = from_dict(InformativityConfig, record["settings"]["config"]["model"])
        models: dict[str, InformativityClassifier] = {}
        for name in record["names"]:
            file = folder / f"{name}.safetensors"
            if not file.exists():
                raise ModelError(f"{folder} is incomplete: {file.name} is missing")
            if sha256_of(file) != record["files"][file.name]["sha256"]:
                raise ModelError(f"{file} is damaged: its SHA-256 is not the one in {path.name}")
            float(record["thresholds"][name])
            model = InformativityClassifier(config)
            # load_state_dict casts the stored fp16 to the model's float32.
            model.load_state_dict(_load(file)[0])
            models[name] = model.eval()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    return models, record


def _save(tensors: dict[str, Tensor], path: Path, **header: object) -> None:
    whole = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
    with atomic_file(path) as temporary:
        # save_file would replace the file by one that only its owner can read.
        temporary.write_bytes(save(whole, {key: str(value) for key, value in header.items()}))


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        return load_file(path), header
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
        if not isinstance(record, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    return record


def _card(record: dict[str, Any]) -> str:
    """Write the card: what it is, on what it was trained, what passes."""
    config, early = record["settings"]["config"], record["settings"]["early"]
    judges = record["format"].endswith("judges")
    title = "Informativity judges" if judges else "Informativity critic"
    what = (
        "One binary classifier a class (Fanzeres & Nadeu 2021, arXiv 2106.01266; 34,730 parameters"
        " each): does a picture show this class? For evaluation only: no translator is trained"
        " against them."
        if judges
        else "A binary classifier without classes (the architecture of the judges, 34,730"
        " parameters): is there anything to be seen in this picture? It serves at run time and"
        " was trained on photos that the judges never saw."
    )
    kinds = list(dict.fromkeys(k for n in record["names"] for k in record["done"][n]["passed"]))
    head = ["", "threshold", f"val photos accepted (at least {config['accept_rate']:.0%})", *kinds]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for name in record["names"]:
        done = record["done"][name]
        cells = [name, f"{done['threshold']:.4f}", f"{done['accepted']:.1%} of {done['photos']}"]
        cells += [f"{done['passed'][k]:.1%}" if k in done["passed"] else "" for k in kinds]
        lines.append(" | ".join(cells))
    table = "\n".join(f"| {line} |" for line in lines)
    early_line = (
        f"{early['count']} early-generator pictures were divided between judges and critic, and "
        "a fifth of them kept for val."
        if early["count"]
        else "No early-generator pictures were among the negatives."
    )
    seconds = sum(record["done"][name]["seconds"] for name in record["names"])
    return f"""# {title}

{what}

**Trained on.** {record["trained_on"]} Fold {config["fold"]} of the photos (by a hash of the name),
{config["steps"]} batches of {config["batch"]} a classifier, seed {config["seed"]};
{seconds:.0f} s in all on a CPU. {early_line}

**Weights** are fp16 and were rounded before the thresholds were set.

## What passes on val

Photos beyond the threshold count as accepted; every other column is the share of val negatives
that pass. A judge with over 5 % of an uninformative kind is to be retrained, not re-thresholded.

{table}

Version {record["version"]}, commit {record["commit"]}.
"""
