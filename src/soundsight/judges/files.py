"""The folder of trained judges: begun, resumed, finished, read; its figures and its card.

While training: ``progress.json`` (settings, finished networks), and in ``training/`` a run folder
of each network. When finished: ``<name>.safetensors`` (fp16), ``judges.json`` with the SHA-256 of
every file, and ``CARD.md``. The same training writes the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from soundsight import __version__
from soundsight.core.config import differences, from_dict, to_dict
from soundsight.core.errors import ConfigError, DataError, ModelError, OutputError, first_line
from soundsight.core.files import atomic_file, commit, sha256_of, write_json
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.judges.negatives import EARLY_VAL_FOLDS, EarlyPictures
from soundsight.judges.retrieval_space import CANDIDATES_A_CLASS, SpaceConfig
from soundsight.models.contrastive import ContrastivePair
from soundsight.models.picture_classifier import PictureClassifier, PictureClassifierConfig
from soundsight.models.published.informativity import InformativityClassifier, InformativityConfig

Network = TypeVar("Network", bound=nn.Module)

PACKAGED_JUDGES = Path(__file__).resolve().parents[1] / "assets" / "judges"
FORMAT_VERSIONS = (2, 1)
"""What can be read; the first is written. Version 1 has the published judges alone."""

TRAINED_ON = (
    "Real photos of five subjects at 96 x 96: FairFace and UTKFace (baby), Imagenette and CamSDD "
    "(dog), Tiny-ImageNet and MiniPlaces (rail, water), CamSDD (fireworks, water). FairFace is "
    "under CC BY 4.0, the others are for research use; the photos themselves are not distributed."
)

SECOND, CLASSIFIER, SPACE = "second", "classifier", "space"
REFERENCES = (SECOND, CLASSIFIER, SPACE)
"""Networks beside the published judges: a second judge, a photo classifier, a space."""
NAMES = (*SUBJECTS, *REFERENCES)
FLOOR = 0.05
"""A judge that passes more of an uninformative kind is to be trained again."""

_INDEX, _PROGRESS, _CARD = "judges.json", "progress.json", "CARD.md"


def agreement(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """Compare the verdicts of two judges on the same pictures, bool [n] each, n >= 1.

    Returns their ``count``, the ``share`` on which they agree, and Cohen's ``kappa`` (1960): 1 =
    always, 0 = as often as chance would, and where both say the same of everything.

    Raises:
        DataError: when there is no picture, or the numbers differ.
    """
    if len(first) != len(second) or not len(first):
        raise DataError(f"{len(first)} and {len(second)} verdicts cannot be compared")
    share = float((first == second).mean())
    a, b = float(first.mean()), float(second.mean())
    by_chance = a * b + (1 - a) * (1 - b)
    kappa = (share - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0
    return {"share": share, "kappa": kappa, "count": len(first)}


def accepting(scores: NDArray[np.float32], rate: float) -> float:
    """Return the highest threshold that accepts (score >= threshold) at least ``rate`` of them."""
    kept = math.ceil(rate * len(scores) - 1e-9)
    return float(np.sort(scores)[::-1][kept - 1])


def val_table(
    positives: NDArray[np.float32], negatives: dict[str, NDArray[np.float32]], rate: float
) -> dict[str, Any]:
    """Set a threshold on the scores of real val photos, [n], and say which negatives pass it.

    Returns:
        ``threshold``, which accepts at least ``rate`` of the ``photos``; ``accepted``, the share
        that it accepts; ``passed`` and ``counts``, kind of negative -> share and number.
    """
    threshold = accepting(positives, rate)
    return {
        "threshold": threshold,
        "photos": len(positives),
        "accepted": float((positives >= threshold).mean()),
        "passed": {kind: float((of >= threshold).mean()) for kind, of in negatives.items()},
        "counts": {kind: len(of) for kind, of in negatives.items()},
    }


class JudgeFolder:
    """A folder in the making: begun here, or gone on with.

    ``data`` are the hashes of what is learned from, apart from ``early`` pictures.

    Raises:
        ConfigError: when it was begun with other settings or other data, naming what differs.
        OutputError: when something else is there.
        ModelError: when what stands there is damaged.
    """

    def __init__(
        self, path: Path, config: Any, early: EarlyPictures, data: Mapping[str, str]
    ) -> None:
        self.path = path
        self.settings: dict[str, Any] = {
            "kind": "judges",
            "config": to_dict(config),
            "early": {"count": len(early), "sha256": early.sha256},
            "data": dict(data),
        }
        self.done: dict[str, dict[str, Any]] = {}
        self.finished = (path / _INDEX).exists()
        source = path / (_INDEX if self.finished else _PROGRESS)
        if source.exists():
            record = _read_json(source)
            changed = differences(record.get("settings", {}), self.settings)
            if changed:
                raise ConfigError(
                    f"{path} was begun with another {', '.join(changed)}: "
                    "give the same settings or another folder"
                )
            self.done = record["done"]
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OutputError(f"{path} exists and is no folder of judges: choose another --out")
        else:
            self._write_progress()

    def add(self, name: str, network: nn.Module, about: dict[str, Any]) -> None:
        """Keep a finished network, whose weights :func:`round_weights` has rounded.

        ``about`` is what was measured of it on val.
        """
        state = network.state_dict()
        halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        with atomic_file(self.path / f"{name}.safetensors") as temporary:
            # save_file would replace the file by one that only its owner can read.
            temporary.write_bytes(save({k: v.contiguous() for k, v in halves.items()}))
        self.done[name] = about
        self._write_progress()

    def finish(self) -> None:
        """Write the card and, last of all, the JSON that makes the folder whole."""
        record: dict[str, Any] = {
            "format": "soundsight-judges",
            "format_version": FORMAT_VERSIONS[0],
            "version": __version__,
            "commit": commit(),
            "names": list(NAMES),
            "thresholds": {name: self.done[name]["threshold"] for name in SUBJECTS},
            "fold": self.settings["config"]["fold"],
            "trained_on": TRAINED_ON,
            "settings": self.settings,
            "done": self.done,
        }
        templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True,
            keep_trailing_newline=True,
        )  # fmt: skip
        card = templates.get_template("card.md.jinja").render(
            record | self.settings, judges={name: self.done[name] for name in SUBJECTS},
            floor=FLOOR, candidates=CANDIDATES_A_CLASS, early_val_folds=EARLY_VAL_FOLDS,
        )  # fmt: skip
        with atomic_file(self.path / _CARD) as temporary:
            temporary.write_text(card, "utf-8")
        record["files"] = {
            name: {"sha256": sha256_of(path), "bytes": path.stat().st_size}
            for name in (*(f"{n}.safetensors" for n in NAMES), _CARD)
            for path in [self.path / name]
        }
        write_json(self.path / _INDEX, record)
        (self.path / _PROGRESS).unlink(missing_ok=True)
        self.finished = True

    def _write_progress(self) -> None:
        record = {"settings": self.settings, "commit": commit(), "done": self.done}
        write_json(self.path / _PROGRESS, record)


def round_weights(network: Network) -> Network:
    """Round every weight to fp16, in place: what is stored is what was measured."""
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half())
    return network


def read_index(folder: Path) -> dict[str, Any]:
    """Read ``judges.json`` of a finished folder.

    Raises:
        ModelError: when it is missing, unfinished, foreign or damaged.
    """
    path = folder / _INDEX
    if not path.exists():
        unfinished = (folder / _PROGRESS).exists()
        why = "its training has not finished" if unfinished else f"there is no {_INDEX}"
        raise ModelError(f"{folder} holds no judges: {why}")
    record = _read_json(path)
    if record.get("format") != "soundsight-judges":
        raise ModelError(f"{path} is not of the format soundsight-judges")
    if record.get("format_version") not in FORMAT_VERSIONS:
        raise ModelError(
            f"{path} has format version {record.get('format_version')}, "
            f"this program reads {', '.join(map(str, FORMAT_VERSIONS))}"
        )
    return record


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the networks of a finished folder, in evaluation mode, and check the hash of every file.

    Returns name -> network, without ``REFERENCES`` where it has none, and the content of
    ``judges.json``.

    Raises:
        ModelError: when it is missing, unfinished, foreign or damaged.
    """
    record, networks = read_index(folder), {}
    with damage(folder):
        config = record["settings"]["config"]
        for name in record["names"]:
            file = folder / f"{name}.safetensors"
            if not file.exists():
                raise ModelError(f"{folder} is incomplete: {file.name} is missing")
            if sha256_of(file) != record["files"][file.name]["sha256"]:
                raise ModelError(f"{file} is damaged: its SHA-256 is not the one in {_INDEX}")
            networks[name] = load_into(_network(name, config), folder, name)
    return networks, record


def _network(name: str, config: Mapping[str, Any]) -> nn.Module:
    if name in SUBJECTS:
        return InformativityClassifier(from_dict(InformativityConfig, config["model"]))
    if name == SPACE:
        return ContrastivePair(from_dict(SpaceConfig, config["references"][SPACE]).network)
    sizes = config["references"][name]["network"]
    return PictureClassifier(from_dict(PictureClassifierConfig, sizes))


def check_early(folder: Path | None, early: EarlyPictures) -> None:
    """Check that early pictures are those that the judges were trained with.

    Others would be no floor: the judges' val part is found by a picture's place among them.

    Raises:
        ConfigError: when they are others.
    """
    folder = folder or PACKAGED_JUDGES
    known = read_index(folder)["settings"]["early"]
    if not known["count"]:
        raise ConfigError(f"--early: the judges in {folder} were trained without early pictures")
    if known["sha256"] != early.sha256:
        raise ConfigError(
            f"--early: these {len(early)} pictures are not the {known['count']} that the judges "
            f"in {folder} were trained with: name the same files in the same order"
        )


def load_into(network: Network, folder: Path, name: str) -> Network:
    """Load the weights that :meth:`JudgeFolder.add` kept; in evaluation mode.

    Raises:
        ModelError, RuntimeError: when the file is no safetensors file, or of another network.
    """
    path = folder / f"{name}.safetensors"
    try:
        # load_state_dict casts the stored fp16 to the network's float32.
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    return network.eval()


@contextlib.contextmanager
def damage(folder: Path) -> Iterator[None]:
    """Turn what a damaged ``judges.json`` leads to into a ModelError of one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        raise ModelError(f"{folder / _INDEX} is damaged: {first_line(error)}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
        if not isinstance(record, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    return record
