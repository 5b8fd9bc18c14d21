"""The model folder: what ``soundsight export`` writes and the translator loads.

``model.json`` says what the networks expect and carries the SHA-256 of every file, so that a
damaged or foreign folder is refused with one line instead of drawing rubbish.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
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
    """What ``model.json`` says of one file.

    Attributes:
        sha256: 64 lower-case hex digits.
        bytes: its size.
    """

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


def read(folder: str | Path, *, verify: bool = True) -> ModelInfo:
    """Read and check a model folder. Keys of ``model.json`` that are not known are let pass.

    Args:
        folder: a folder with ``model.json``.
        verify: compare every file's SHA-256 as well as its size.

    Raises:
        ModelError: when the folder is missing, is no model, is damaged or is of another version.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise ModelError(f"there is no model folder {folder}")
    values = _load(folder)
    info = _parse(folder, values)
    for name, entry in info.files.items():
        _check_file(folder / name, entry, verify=verify)
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
    if not _is_int(version) or version < 1:
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
    try:
        mel = from_dict(MelConfig, _get(where, values, "mel", dict), "mel.")
    except (ConfigError, OverflowError) as error:
        raise ModelError(f"{where}: {error}") from error
    thresholds = _get(where, values, "thresholds", dict)
    files: dict[str, FileEntry] = {}
    for name, entry in _get(where, values, "files", dict).items():
        # Names that lead out of the folder would make a foreign file part of the model.
        if not isinstance(entry, dict) or Path(name).name != name or name in {"", ".", ".."}:
            raise ModelError(f"{where}: files has a bad entry {name!r}")
        files[name] = FileEntry(
            sha256=_get(where, entry, "sha256", str).lower(), bytes=_whole(where, entry, "bytes")
        )
    for name in (ENCODER, GENERATOR):
        if name not in files:
            raise ModelError(f"{where}: {name} is not among its files")
    segment_s = values.get("segment_s", units.SEGMENT_S)
    if segment_s != units.SEGMENT_S:
        raise ModelError(
            f"{where}: segment_s is {segment_s}, this soundsight hears {units.SEGMENT_S:g} s"
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
    figures = values.get("figures")
    return ModelInfo(
        folder=folder,
        name=_get(where, values, "name", str),
        version=str(_get(where, values, "version", object)),
        mel=mel,
        image_px=_whole(where, values, "image_px", least=1),
        embedding_size=_whole(where, values, "embedding_size", least=1, most=_MOST_NUMBERS),
        feature_size=_whole(where, values, "feature_size", least=1, most=_MOST_NUMBERS),
        noise_size=_whole(where, values, "noise_size", most=_MOST_NUMBERS),
        dropout_size=_whole(where, values, "dropout_size", most=_MOST_NUMBERS),
        thresholds=Thresholds(
            quiet_dbfs=_number(where, thresholds, "quiet_dbfs"),
            ood_score=_number(where, {"ood_score": 1.0, **thresholds}, "ood_score"),
            confidence=_number(where, {"confidence": 0.5, **thresholds}, "confidence"),
        ),
        files=files,
        licence=str(values.get("licence") or ""),
        created=str(values.get("created") or ""),
        figures=figures if isinstance(figures, dict) else {},
        trained_on=values.get("trained_on"),
    )


def _check_file(path: Path, entry: FileEntry, *, verify: bool) -> None:
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
        if verify and sha256_of(path) != entry.sha256:
            raise ModelError(f"{path} is damaged: its SHA-256 is not the one in {MODEL_JSON}")
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


def _get(where: Path, values: dict[str, Any], key: str, kind: type) -> Any:
    if key not in values:
        raise ModelError(f"{where}: the key {key} is missing")
    if not isinstance(values[key], kind):
        raise ModelError(f"{where}: {key} has a value of the wrong kind")
    return values[key]


def _is_int(value: object) -> bool:
    # In Python true is a whole number, in a model folder it is a mistake.
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(
    where: Path, values: dict[str, Any], key: str, *, least: int = 0, most: int | None = None
) -> int:
    value = _get(where, values, key, object)
    if not _is_int(value) or value < least:
        raise ModelError(f"{where}: {key} must be a whole number, at least {least}")
    if most is not None and value > most:
        raise ModelError(f"{where}: {key} must be a whole number, at most {most}")
    return int(value)


def _number(where: Path, values: dict[str, Any], key: str) -> float:
    value = _get(where, values, key, object)
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ModelError(f"{where}: {key} must be a number")
    return number
