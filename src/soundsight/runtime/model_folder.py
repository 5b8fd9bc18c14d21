"""The model folder: what ``soundsight export`` writes and the translator loads.

``model.json`` carries the SHA-256 of every file: a damaged folder is refused with one line.
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
    """The SHA-256 of a file, 64 hex digits, and its size in bytes."""

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
    path = folder / MODEL_JSON
    if not os.path.isdir(folder):
        raise ModelError(f"there is no model folder {folder}")
    if not os.path.isfile(path):
        raise ModelError(f"{folder} is not a soundsight model: it has no {MODEL_JSON}")
    try:
        values = json.loads(path.read_text("utf-8"))
        info = _parse(folder, values)
        for name, entry in info.files.items():
            _check_file(folder / name, entry)
    except OSError as error:
        where = error.filename or path
        raise ModelError(f"cannot read {where}: {error.strerror or error}") from error
    except (ConfigError, OverflowError) as error:
        raise ModelError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: the model folder is damaged") from error
    return info


def _parse(folder: Path, values: Any) -> ModelInfo:
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ModelError(f'{folder} is not a soundsight model: its format is not "{FORMAT}"')
    version: Any = values.get("format_version")
    if type(version) is not int or version < 1:
        raise ConfigError("format_version must be a whole number from 1 on")
    if version != FORMAT_VERSION:
        newer = version > FORMAT_VERSION
        advice = "upgrade soundsight"
        if not newer:
            advice = "export it again from its training run (soundsight export)"
        raise ModelError(
            f"{folder} was made by {'a newer' if newer else 'an older'} soundsight (format "
            f"{version}, this one reads {FORMAT_VERSION}): {advice}"
        )
    entries = values.get("files")
    if not isinstance(entries, dict):
        raise ConfigError("files is missing, or no table")
    given = {
        **_known(ModelInfo, values),
        **{key: str(values[key]) for key in ("version", "licence", "created") if values.get(key)},
        "thresholds": _known(Thresholds, values.get("thresholds")),
        "files": {},
        "folder": folder,
    }
    if not isinstance(values.get("figures"), dict):
        given.pop("figures", None)
    info = from_dict(ModelInfo, given)
    for name, entry in entries.items():
        # Names that lead out of the folder would make a foreign file part of the model.
        if not isinstance(entry, dict) or Path(name).name != name or name in {"", ".", ".."}:
            raise ConfigError(f"files has a bad entry {name!r}")
        info.files[name] = from_dict(FileEntry, _known(FileEntry, entry), f"files.{name}.")
    for name in (ENCODER, GENERATOR):
        if name not in info.files:
            raise ConfigError(f"{name} is not among its files")
    for key in ("image_px", "embedding_size", "feature_size", "noise_size", "dropout_size"):
        least = int(key not in ("noise_size", "dropout_size"))
        if not least <= getattr(info, key) <= _MOST_NUMBERS:
            raise ConfigError(f"{key} must be from {least} to {_MOST_NUMBERS}")
    for key, has, needed in (
        ("segment_s", info.segment_s, units.SEGMENT_S),
        ("mel.n_mels", info.mel.n_mels, units.N_MELS),
        ("mel.segment_frames", info.mel.segment_frames, units.FRAMES_PER_SEGMENT),
        ("mel.rate_hz", info.mel.rate_hz, units.RATE_HZ),
    ):
        if has != needed:
            raise ConfigError(f"{key} is {has}, this soundsight needs {needed}")
    return info


def _known(kind: type, values: Any) -> Any:
    """The values of keys that a dataclass has; others, and what is null, are let pass."""
    if not isinstance(values, dict):
        return values
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in values.items() if key in names and value is not None}


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise ModelError(f"the model folder {path.parent} is incomplete: {path.name} is missing")
    size = path.stat().st_size
    if size != entry.bytes:
        raise ModelError(f"{path} is damaged: it has {size} bytes, {MODEL_JSON} says {entry.bytes}")
    if sha256_of(path) != entry.sha256.lower():
        raise ModelError(f"{path} is damaged: its SHA-256 is not the one in {MODEL_JSON}")
