"""The model folder: what ``soundsight export`` writes and the translator loads.

``model.json`` says what the networks expect and carries the SHA-256 of every file, so that a
damaged or foreign folder is refused with one line instead of drawing rubbish.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from soundsight.core import units
from soundsight.core.config import from_dict
from soundsight.core.errors import ConfigError, ModelError
from soundsight.core.files import sha256_of
from soundsight.core.state import Thresholds
from soundsight.media.mel import MelConfig

FORMAT = "soundsight-model"
FORMAT_VERSION = 3
MODEL_JSON = "model.json"
ENCODER = "encoder.onnx"
GENERATOR = "generator.onnx"
OOD = "ood.onnx"
LABELS = "labels.json"

_MOST_NUMBERS = 100_000
"""No network takes or makes a vector longer than this; a damaged size would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """What ``model.json`` says of one file: 64 hex digits, and its size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The content of ``model.json``.

    Attributes:
        folder: where the model lies.
        name: the model's name.
        version: the model's own version.
        mel: settings of the log-mel that the encoder was trained on.
        image_px: side of a picture, in pixels.
        embedding_size: E, the length of an embedding.
        feature_size: F, the length of the features that an embedding is made from.
        noise_size: Z, the normal random numbers that a picture takes; 0 = none.
        dropout_size: M, the uniform random numbers that a picture takes; 0 = none.
        thresholds: see ``Thresholds``.
        files: name -> size and hash, of every file but ``model.json``.
        licence: of the weights; empty when it is not given.
        created: when it was exported, ISO 8601; empty when it is not given.
        segment_s: length of the sound that becomes one picture, in seconds.
        figures: measured figures, as the export wrote them.
        trained_on: what it was trained on, as the export wrote it.
    """

    folder: Path
    name: str
    version: str
    mel: MelConfig
    image_px: int
    embedding_size: int
    feature_size: int
    noise_size: int
    dropout_size: int
    thresholds: Thresholds
    files: dict[str, FileEntry]
    licence: str = ""
    created: str = ""
    segment_s: float = units.SEGMENT_S
    figures: dict[str, Any] = field(default_factory=dict)
    trained_on: Any = None

    @property
    def label(self) -> str:
        """Name and version, as written into pictures."""
        return f"{self.name} {self.version}".strip()


def bundled() -> Path:
    """Return the folder of the model that comes with the package.

    Raises:
        ModelError: when this installation has none.
    """
    from importlib.resources import files

    folder = Path(str(files("soundsight") / "assets" / "model"))
    if not os.path.isfile(folder / MODEL_JSON):
        raise ModelError("this installation has no bundled model: pass a model folder (--model)")
    return folder


def read(folder: str | Path) -> ModelInfo:
    """Read and check a model folder, the size and SHA-256 of every file included.

    Keys of ``model.json`` that are not known are let pass.

    Raises:
        ModelError: when the folder is missing, is no model, is damaged or is of another version.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise ModelError(f"there is no model folder {folder}")
    info = _parse(folder, _load(folder))
    for name, entry in info.files.items():
        _check_file(folder / name, entry)
    return info


def _load(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_JSON
    if not os.path.isfile(path):
        raise ModelError(f"{folder} is not a soundsight model: it has no {MODEL_JSON}")
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: the model folder is damaged") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ModelError(f'{folder} is not a soundsight model: its format is not "{FORMAT}"')
    version: Any = values.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelError(f"{path}: format_version must be a whole number from 1 on")
    if version > FORMAT_VERSION:
        raise ModelError(
            f"{folder} was made by a newer soundsight (format {version}, this one reads "
            f"{FORMAT_VERSION}): upgrade soundsight"
        )
    if version < FORMAT_VERSION:
        raise ModelError(
            f"{folder} was made by an older soundsight (format {version}, this one reads "
            f"{FORMAT_VERSION}): export it again from its training run (soundsight export)"
        )
    return values


def _parse(folder: Path, values: dict[str, Any]) -> ModelInfo:
    where = folder / MODEL_JSON
    entries = values.get("files")
    if not isinstance(entries, dict):
        raise ModelError(f"{where}: files is missing, or no table")
    given = {
        **_known(ModelInfo, values),
        **{key: str(values[key]) for key in ("version", "licence", "created") if values.get(key)},
        "thresholds": _known(Thresholds, values.get("thresholds")),
        "files": {},
        "folder": folder,
    }
    if not isinstance(values.get("figures"), dict):
        given.pop("figures", None)
    try:
        info = from_dict(ModelInfo, given)
        for name, entry in entries.items():
            # Names that lead out of the folder would make a foreign file part of the model.
            if not isinstance(entry, dict) or Path(name).name != name or name in {"", ".", ".."}:
                raise ModelError(f"{where}: files has a bad entry {name!r}")
            known = _known(FileEntry, entry)
            info.files[name] = from_dict(FileEntry, known, f"files.{name}.")
    except (ConfigError, OverflowError) as error:
        raise ModelError(f"{where}: {error}") from error
    for name in (ENCODER, GENERATOR):
        if name not in info.files:
            raise ModelError(f"{where}: {name} is not among its files")
    for key in ("image_px", "embedding_size", "feature_size", "noise_size", "dropout_size"):
        size, least = getattr(info, key), 0 if key in ("noise_size", "dropout_size") else 1
        if not least <= size <= _MOST_NUMBERS:
            raise ModelError(
                f"{where}: {key} must be a whole number, at least {least}, at most {_MOST_NUMBERS}"
            )
    mel = info.mel
    if info.segment_s != units.SEGMENT_S:
        raise ModelError(
            f"{where}: segment_s is {info.segment_s:g}, this soundsight hears {units.SEGMENT_S:g} s"
        )
    if (mel.n_mels, mel.segment_frames) != (units.N_MELS, units.FRAMES_PER_SEGMENT):
        raise ModelError(
            f"{where}: its log-mel is {mel.n_mels} x {mel.segment_frames}, this soundsight makes "
            f"{units.N_MELS} x {units.FRAMES_PER_SEGMENT}"
        )
    if mel.rate_hz != units.RATE_HZ:
        raise ModelError(
            f"{where}: its log-mel is made at {mel.rate_hz} Hz, this soundsight hears at "
            f"{units.RATE_HZ} Hz"
        )
    return info


def _known(kind: type, values: Any) -> Any:
    """The values of keys that a dataclass has; others, and what is null, are let pass."""
    if not isinstance(values, dict):
        return values
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in values.items() if key in names and value is not None}


def _check_file(path: Path, entry: FileEntry) -> None:
    try:
        if not path.is_file():
            raise ModelError(
                f"the model folder {path.parent} is incomplete: {path.name} is missing"
            )
        size = path.stat().st_size
        if size != entry.bytes:
            raise ModelError(
                f"{path} is damaged: it has {size} bytes, {MODEL_JSON} says {entry.bytes}"
            )
        if sha256_of(path) != entry.sha256.lower():
            raise ModelError(f"{path} is damaged: its SHA-256 is not the one in {MODEL_JSON}")
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
