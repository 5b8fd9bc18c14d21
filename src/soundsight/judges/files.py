"""The folder of trained judges: begun, resumed, finished, read.

While training: ``progress.json`` (settings, finished networks) and ``state.safetensors`` (the one
at work). When finished: ``<name>.safetensors`` (fp16), ``judges.json`` with the
SHA-256 of every file, and ``CARD.md``. The same training writes the same bytes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from soundsight import __version__
from soundsight.core.config import differences, from_dict, to_dict
from soundsight.core.errors import ConfigError, ModelError, OutputError, first_line
from soundsight.core.files import atomic_file, commit, sha256_of, write_json
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.judges.card import card
from soundsight.judges.negatives import EarlyPictures
from soundsight.judges.tables import CLASSIFIER, SECOND, SPACE, VIEWERS
from soundsight.models.contrastive import ContrastiveConfig, ContrastivePair
from soundsight.models.picture_classifier import PictureClassifier, PictureClassifierConfig
from soundsight.models.published.informativity import InformativityClassifier, InformativityConfig
from soundsight.training.checkpoints import load_checkpoint, read_checkpoint, save_checkpoint

Network = TypeVar("Network", bound=nn.Module)

PACKAGED_JUDGES = Path(__file__).resolve().parents[1] / "assets" / "judges"

_STATE = "state.safetensors"

FORMAT_VERSIONS = {"judges": (2, 1)}
"""What can be read; the first is written. Version 1 of the judges has no other networks."""

TRAINED_ON = (
    "Real photos of five subjects at 96 x 96: FairFace and UTKFace (baby), Imagenette and CamSDD "
    "(dog), Tiny-ImageNet and MiniPlaces (rail, water), CamSDD (fireworks, water). FairFace is "
    "under CC BY 4.0, the others are for research use; the photos themselves are not distributed."
)


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
        cls,
        path: Path,
        kind: str,
        names: list[str],
        config: Any,
        early: EarlyPictures,
        data: Mapping[str, str],
    ) -> JudgeFolder:
        """Begin the folder, or go on with what stands there.

        Args:
            path: made when missing.
            kind: ``judges``.
            names: the networks to be trained, one file each.
            config: the settings' dataclass.
            early: early-generator pictures; their hash is kept.
            data: what is learned from, apart from early pictures: name -> hash.

        Raises:
            ConfigError: when it was begun with other settings or other data, naming what differs.
            OutputError: when something else is there.
            ModelError: when what stands there is damaged.
        """
        settings = {
            "kind": kind,
            "config": to_dict(config),
            "early": {
                "count": len(early),
                "sha256": early.sha256,
            },
            "data": dict(data),
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
                    f"{path} was begun with another {', '.join(changed)}: "
                    "give the same settings or another folder"
                )
            folder.done = record["done"]
            folder.finished = source == final
            return folder
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OutputError(f"{path} exists and is no folder of {kind}: choose another --out")
        write_json(progress, {"settings": settings, "commit": commit(), "done": {}})
        return folder

    def add(self, name: str, network: nn.Module, about: dict[str, Any]) -> None:
        """Keep a finished network; its weights must be rounded already (``round_weights``).

        Args:
            name: of the network.
            network: what is stored, in fp16.
            about: what was measured on val.
        """
        state = network.state_dict()
        halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        with atomic_file(self.path / f"{name}.safetensors") as temporary:
            # save_file would replace the file by one that only its owner can read.
            temporary.write_bytes(save({k: v.contiguous() for k, v in halves.items()}))
        self.done[name] = about
        write_json(
            self.path / "progress.json",
            {"settings": self.settings, "commit": commit(), "done": self.done},
        )
        (self.path / _STATE).unlink(missing_ok=True)

    def finish(self) -> None:
        """Write the card and, last of all, the JSON that makes the folder whole."""
        record: dict[str, Any] = {
            "format": f"soundsight-{self.kind}",
            "format_version": FORMAT_VERSIONS[self.kind][0],
            "version": __version__,
            "commit": commit(),
            "names": self.names,
            "thresholds": {name: self.done[name]["threshold"] for name in self.binary},
            "fold": self.settings["config"]["fold"],
            "trained_on": TRAINED_ON,
            "settings": self.settings,
            "done": self.done,
        }
        with atomic_file(self.path / "CARD.md") as temporary:
            temporary.write_text(card(record), "utf-8")
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

    @property
    def binary(self) -> list[str]:
        """The published classifiers."""
        return [name for name in self.names if name not in VIEWERS]

    def save_state(
        self,
        name: str,
        networks: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
    ) -> None:
        """Keep the network at work: weights, their average, the optimiser and the next step."""
        save_checkpoint(
            self.path / _STATE,
            step,
            {f"{name} {key}": network for key, network in networks.items()},
            {name: optimizer},
        )

    def load_state(
        self, name: str, networks: dict[str, nn.Module], optimizer: torch.optim.Optimizer
    ) -> int:
        """Restore what :meth:`save_state` kept of ``name`` and return the next step.

        0 when nothing was kept, or only of another network.

        Raises:
            DataError: when it is damaged.
        """
        path = self.path / _STATE
        if not path.exists() or name not in read_checkpoint(path)[1]["groups"]:
            return 0
        kept = {f"{name} {key}": network for key, network in networks.items()}
        return load_checkpoint(path, kept, {name: optimizer})


def round_weights(network: Network) -> Network:
    """Round every weight to fp16, in place: what is stored is what was measured."""
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half())
    return network


def read(folder: Path, kind: str) -> tuple[dict[str, InformativityClassifier], dict[str, Any]]:
    """Read the published classifiers of a finished folder and check the hash of every file.

    Args:
        folder: as written by ``train``.
        kind: ``judges``.

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
    if record.get("format_version") not in FORMAT_VERSIONS[kind]:
        raise ModelError(
            f"{path} has format version {record.get('format_version')}, "
            f"this program reads {', '.join(map(str, FORMAT_VERSIONS[kind]))}"
        )
    with damage(path):
        config = from_dict(InformativityConfig, record["settings"]["config"]["model"])
        models = {}
        for name in record["names"]:
            _check_hash(folder, name, record, path)
            if name not in VIEWERS:
                check_threshold(record["thresholds"][name], name)
                models[name] = load_into(InformativityClassifier(config), folder, name)
    return models, record


def read_viewers(
    folder: Path, record: dict[str, Any]
) -> tuple[PictureClassifier, PictureClassifier, ContrastivePair] | None:
    """Read the second judge, the photo classifier and the space of a folder of judges.

    Args:
        folder: as for :func:`read`, which has checked the hashes.
        record: as :func:`read` returned it.

    Returns:
        The three networks in evaluation mode, or None when the folder has none (version 1, or
        trained without).

    Raises:
        ModelError: when one is damaged.
    """
    if not set(VIEWERS) <= set(record["names"]):
        return None
    with damage(folder / "judges.json"):
        config = record["settings"]["config"]["viewers"]
        second, classifier = (
            PictureClassifier(from_dict(PictureClassifierConfig, config[name]["network"]))
            for name in (SECOND, CLASSIFIER)
        )
        space = ContrastivePair(from_dict(ContrastiveConfig, config[SPACE]["network"]))
        return (
            load_into(second, folder, SECOND),
            load_into(classifier, folder, CLASSIFIER),
            load_into(space, folder, SPACE),
        )


def val_tables(folder: Path | None) -> dict[str, dict[str, Any]]:
    """Return what the thresholds of judges pass on val, as their training wrote it down.

    Args:
        folder: of the judges; None for those of the package.

    Returns:
        ``judge`` and, where there is one, ``second judge`` -> class -> ``threshold``, ``photos``,
        ``accepted``, ``passed`` (kind of picture -> share).

    Raises:
        ModelError: when the folder is no whole folder of judges.
    """
    done = read(folder or PACKAGED_JUDGES, "judges")[1]["done"]
    tables = {"judge": {subject: done[subject] for subject in SUBJECTS if subject in done}}
    if SECOND in done:
        tables["second judge"] = done[SECOND]["tables"]
    return tables


def check_early(folder: Path | None, early: EarlyPictures) -> None:
    """Check that early pictures are those that the judges were trained with.

    Others would be no floor: the judges' val part is found by a picture's place among them.

    Raises:
        ConfigError: when they are others.
        ModelError: when the folder is no whole folder of judges.
    """
    folder = folder or PACKAGED_JUDGES
    known = read(folder, "judges")[1]["settings"]["early"]
    if not known["count"]:
        raise ConfigError(f"--early: the judges in {folder} were trained without early pictures")
    if known["sha256"] != early.sha256:
        raise ConfigError(
            f"--early: these {len(early)} pictures are not the {known['count']} that the judges "
            f"in {folder} were trained with: name the same files in the same order"
        )


def load_into(network: Network, folder: Path, name: str) -> Network:
    """Load the weights that :meth:`JudgeFolder.add` kept and set the network to evaluation mode.

    Raises:
        ModelError: when the file is no safetensors file.
        RuntimeError: when it is of another network.
    """
    path = folder / f"{name}.safetensors"
    try:
        # load_state_dict casts the stored fp16 to the network's float32.
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    return network.eval()


def _check_hash(folder: Path, name: str, record: dict[str, Any], path: Path) -> None:
    file = folder / f"{name}.safetensors"
    if not file.exists():
        raise ModelError(f"{folder} is incomplete: {file.name} is missing")
    if sha256_of(file) != record["files"][file.name]["sha256"]:
        raise ModelError(f"{file} is damaged: its SHA-256 is not the one in {path.name}")


def check_threshold(value: Any, name: str) -> None:
    """Raise ValueError, naming the judge, when a threshold is not a number in [0, 1]."""
    if not isinstance(value, float | int) or not 0 <= value <= 1:
        raise ValueError(f"the threshold of {name} is {value!r}, not a number in [0, 1]")


@contextlib.contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn what a damaged JSON file leads to into one line.

    Raises:
        ModelError: in place of what reading the file, or building what it describes, raised.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        raise ModelError(f"{path} is damaged: {first_line(error)}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
        if not isinstance(record, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    return record
