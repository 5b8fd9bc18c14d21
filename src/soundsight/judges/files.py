"""The folder of trained judges: begun, resumed, finished, read; its figures and its card.

While training: ``progress.json`` (settings, finished networks), and in ``training/`` a run folder
of each network. When finished: ``<name>.safetensors`` (fp16), ``judges.json`` with the SHA-256 of
every file, and ``CARD.md``. The same training writes the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
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
from soundsight.models.contrastive import ContrastiveConfig, ContrastivePair
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
VIEWERS = (SECOND, CLASSIFIER, SPACE)
"""Networks beside the published judges: a second judge, a photo classifier, a space."""
NAMES = (*SUBJECTS, *VIEWERS)
CANDIDATES_A_CLASS = 20
"""Photos of each class among which a sound's is looked for in the space."""
FLOOR = 0.05
"""A judge that passes more of an uninformative kind is to be trained again."""

_INDEX = "judges.json"
_PROGRESS = "progress.json"


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


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two judges say the same of the same pictures."""

    share: float
    """Share of the pictures on which they agree, in [0, 1]."""
    kappa: float
    """Cohen's kappa (1960): 1 = always, 0 = as often as chance would; 0 where both say the same
    of everything, as chance would then do too."""
    count: int
    """Pictures."""


def agreement(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Agreement:
    """Compare the verdicts of two judges.

    Args:
        first: bool [n], n >= 1.
        second: bool [n], of the same pictures.

    Raises:
        DataError: when there is no picture, or the numbers differ.
    """
    if len(first) != len(second) or not len(first):
        raise DataError(f"{len(first)} and {len(second)} verdicts cannot be compared")
    share = float((first == second).mean())
    a, b = float(first.mean()), float(second.mean())
    by_chance = a * b + (1 - a) * (1 - b)
    kappa = (share - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0
    return Agreement(share=share, kappa=kappa, count=len(first))


def accepting(scores: NDArray[np.float32], rate: float) -> float:
    """Return the highest threshold that accepts (score >= threshold) at least ``rate`` of them."""
    kept = math.ceil(rate * len(scores) - 1e-9)
    return float(np.sort(scores)[::-1][kept - 1])


def val_table(
    positives: NDArray[np.float32], negatives: dict[str, NDArray[np.float32]], rate: float
) -> ValTable:
    """Set the threshold on the scores of real photos and say which negatives pass it.

    Args:
        positives: scores of the val photos, float32 [n].
        negatives: kind -> scores of its val pictures.
        rate: share of the positives that the threshold accepts, at the least.
    """
    threshold = accepting(positives, rate)
    return ValTable(
        threshold=threshold,
        photos=len(positives),
        accepted=float((positives >= threshold).mean()),
        passed={kind: float((scores >= threshold).mean()) for kind, scores in negatives.items()},
        counts={kind: len(scores) for kind, scores in negatives.items()},
    )


class JudgeFolder:
    """A folder in the making: begun here, or gone on with.

    Args:
        path: made when missing.
        config: the settings' dataclass.
        early: early-generator pictures; their hash is kept.
        data: what is learned from, apart from early pictures: name -> hash.

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
            return
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OutputError(f"{path} exists and is no folder of judges: choose another --out")
        self._write_progress()

    def run(self, name: str) -> Path:
        """Return the run folder in which a network is trained."""
        return self.path / "training" / name

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
        with atomic_file(self.path / "CARD.md") as temporary:
            temporary.write_text(card(record), "utf-8")
        record["files"] = {
            path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size}
            for path in [*(self.path / f"{n}.safetensors" for n in NAMES), self.path / "CARD.md"]
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


def read(folder: Path) -> tuple[dict[str, InformativityClassifier], dict[str, Any]]:
    """Read the published classifiers of a finished folder and check the hash of every file.

    Returns:
        models: name -> classifier in evaluation mode.
        record: the content of ``judges.json``; ``record["thresholds"]`` by name.

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
    models = {}
    with damage(path):
        config = from_dict(InformativityConfig, record["settings"]["config"]["model"])
        for name in record["names"]:
            file = folder / f"{name}.safetensors"
            if not file.exists():
                raise ModelError(f"{folder} is incomplete: {file.name} is missing")
            if sha256_of(file) != record["files"][file.name]["sha256"]:
                raise ModelError(f"{file} is damaged: its SHA-256 is not the one in {path.name}")
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
    with damage(folder / _INDEX):
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
    done = read(folder or PACKAGED_JUDGES)[1]["done"]
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
    known = read(folder)[1]["settings"]["early"]
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


# --- the card

_JUDGES = """One binary classifier a class (Fanzeres & Nadeu 2021, arXiv 2106.01266; 34,730 \
parameters each): does a picture show this class? Beside them a second judge (one small residual \
network with a head a class), an independent photo classifier and a space of sounds and pictures \
for retrieval. For evaluation only: no translator is trained against them."""


def card(record: Mapping[str, Any]) -> str:
    """Return the card of ``judges.json`` as Markdown.

    Args:
        record: the content of the file.
    """
    config, early = record["settings"]["config"], record["settings"]["early"]
    binary = [name for name in record["names"] if name not in VIEWERS]
    early_line = (
        f"Of {early['count']} early-generator pictures those of one fold of the sounds, and one "
        f"sound in {EARLY_VAL_FOLDS} kept for val."
        if early["count"]
        else "No early-generator pictures were among the negatives."
    )
    parts = [
        "# Informativity judges",
        _JUDGES,
        f"**Trained on.** {record['trained_on']} Fold {config['fold']} of the photos (by a hash of "
        f"the name), {config['steps']} batches of {config['batch']} a classifier, seed "
        f"{config['seed']}, on a CPU. {early_line}",
        "**Weights** are fp16 and were rounded before the thresholds were set.",
        "## What passes on val",
        "Photos beyond the threshold count as accepted; every other column is the share of val "
        f"negatives that pass. A judge with over {FLOOR:.0%} of an uninformative kind (in bold) is "
        "to be retrained, not re-thresholded.",
        _passing({name: record["done"][name] for name in binary}, config["accept_rate"]),
    ]
    if SECOND in record["names"]:
        second = record["done"][SECOND]
        parts += [
            "## The second judge on val",
            _passing(second["tables"], config["accept_rate"]),
            "Agreement of the two judges over these photos and negatives:",
            _table(
                ["", "agree on", "Cohen's kappa", "pictures"],
                [
                    [name, f"{a['share']:.1%}", f"{a['kappa']:.2f}", str(a["count"])]
                    for name, a in second["agreement"].items()
                ],
            ),
            "## The photo classifier and the space on val",
            "Share of val photos whose subject the photo classifier names, and share of val sounds "
            f"for which the nearest of {CANDIDATES_A_CLASS * len(SUBJECTS)} val photos "
            f"({CANDIDATES_A_CLASS} of each subject, or as many as there are) in the space is of "
            "the sound's subject.",
            _shares(
                {
                    "photo classifier": record["done"][CLASSIFIER]["accuracy"],
                    "space": record["done"][SPACE]["precision"],
                }
            ),
        ]
    parts.append(f"Version {record['version']}, commit {record['commit']}.")
    return "\n\n".join(parts) + "\n"


def _passing(tables: Mapping[str, Mapping[str, Any]], rate: float) -> str:
    kinds = list(dict.fromkeys(kind for done in tables.values() for kind in done["passed"]))
    rows = []
    for name, done in tables.items():
        row = [name, f"{done['threshold']:.4f}", f"{done['accepted']:.1%} of {done['photos']}"]
        for kind in kinds:
            share = done["passed"].get(kind)
            bold = "**" if share is not None and share > FLOOR and " of " not in kind else ""
            row.append("" if share is None else f"{bold}{share:.1%}{bold}")
        rows.append(row)
    return _table(["", "threshold", f"val photos accepted (at least {rate:.0%})", *kinds], rows)


def _shares(rows: Mapping[str, Mapping[str, float]]) -> str:
    heads = list(next(iter(rows.values())))
    cells = [[name, *(f"{shares[head]:.1%}" for head in heads)] for name, shares in rows.items()]
    return _table(["", *heads], cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
