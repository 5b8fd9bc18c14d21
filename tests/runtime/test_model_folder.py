"""A model folder is read whole, or refused with one line that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soundsight.core.errors import ModelError
from soundsight.media.mel import MelConfig
from soundsight.runtime import model_folder
from soundsight.runtime.translator import Translator


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    values = json.loads(path.read_text("utf-8"))
    for key, value in changes.items():
        if value is None:
            del values[key]
        else:
            values[key] = value
    path.write_text(json.dumps(values), "utf-8")


def test_read(own_model: Path) -> None:
    edit(own_model, colour_of_the_box="blue")  # keys that are not known are let pass
    info = model_folder.read(own_model)
    assert info.folder == own_model
    assert (info.embedding_size, info.feature_size) == (8, 32)
    assert (info.noise_size, info.dropout_size) == (4, 5)
    assert info.mel == MelConfig()
    assert info.label == "tiny 0.0.1"
    assert info.thresholds.quiet_dbfs == -60.0
    assert set(info.files) == {"encoder.onnx", "generator.onnx", "CARD.md"}


@pytest.mark.parametrize(
    "key",
    [
        "name", "version", "mel", "image_px", "embedding_size", "feature_size", "noise_size",
        "dropout_size", "thresholds", "files",
    ],
)  # fmt: skip
def test_missing_key_is_named(own_model: Path, key: str) -> None:
    edit(own_model, **{key: None})
    with pytest.raises(ModelError, match=key):
        model_folder.read(own_model)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "other-model"}, "not a soundsight model"),
        ({"format": None}, "not a soundsight model"),
        ({"format_version": 4}, "newer soundsight.*upgrade"),
        ({"format_version": 1}, "older soundsight.*export it again"),
        ({"format_version": "1"}, "whole number"),
        ({"format_version": True}, "whole number"),
        ({"format_version": 0}, "whole number"),
        ({"mel": {"n_mells": 3}}, "mel.n_mells"),
        ({"mel": {"n_mels": 64}}, "mel.n_mels is 64, this soundsight needs 128"),
        ({"mel": {"n_mels": "many"}}, r"model\.json"),
        ({"mel": {"window_samples": 2048.0}}, r"mel\.window_samples: a whole number"),
        ({"mel": {"f_max_hz": float("nan")}}, r"mel\.f_max_hz: a finite number"),
        ({"mel": {"range_db": True}}, r"mel\.range_db: a finite number"),
        ({"mel": {"rate_hz": 400 * 10**400}}, r"model\.json"),
        ({"mel": []}, "mel: a table of settings"),
        ({"image_px": -96}, "image_px"),
        ({"image_px": True}, "image_px"),
        ({"noise_size": 1.5}, "noise_size"),
        ({"noise_size": 100_001}, "noise_size must be from 0 to 100000"),
        ({"dropout_size": 10**12}, "dropout_size"),
        ({"embedding_size": 10**12}, "embedding_size"),
        ({"embedding_size": 0}, "embedding_size must be from 1"),
        ({"segment_s": 2.0}, "segment_s"),
        ({"thresholds": {"ood_score": 0.5}}, "quiet_dbfs"),
        ({"thresholds": {"quiet_dbfs": -60, "confidence": "high"}}, "confidence"),
        ({"thresholds": {"quiet_dbfs": "low"}}, "quiet_dbfs"),
        ({"thresholds": {"quiet_dbfs": 10**400}}, "quiet_dbfs"),
        ({"files": {}}, "encoder.onnx"),
        ({"files": {"../x.onnx": {"sha256": "0", "bytes": 1}}}, "bad entry"),
        ({"files": {"encoder.onnx": {"bytes": 1}}}, "sha256"),
    ],
)
def test_bad_content_is_one_clear_line(own_model: Path, changes: dict[str, Any], says: str) -> None:
    edit(own_model, **changes)
    with pytest.raises(ModelError, match=says) as caught:
        model_folder.read(own_model)
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        model_folder.read(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no model\.json"):
        model_folder.read(tmp_path)
    with pytest.raises(ModelError, match="no model folder"):
        model_folder.read(tmp_path / ("n" * 300))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"", b"[" * 100_000, b"[1, 2]"])
def test_no_json(own_model: Path, content: bytes) -> None:
    (own_model / "model.json").write_bytes(content)
    says = "not a soundsight model" if content == b"[1, 2]" else "not JSON"
    with pytest.raises(ModelError, match=says):
        model_folder.read(own_model)


def test_a_file_that_is_damaged_cut_or_missing_is_named(own_model: Path) -> None:
    path = own_model / "generator.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"generator\.onnx is damaged: its SHA-256"):
        model_folder.read(own_model)
    path.write_bytes(content[:-1])
    with pytest.raises(ModelError, match=r"generator\.onnx is damaged: it has"):
        model_folder.read(own_model)
    path.unlink()
    with pytest.raises(ModelError, match=r"generator\.onnx is missing"):
        model_folder.read(own_model)


def rehash(folder: Path, name: str) -> None:
    from soundsight.core.files import sha256_of

    values = json.loads((folder / "model.json").read_text("utf-8"))
    path = folder / name
    values["files"][name] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    (folder / "model.json").write_text(json.dumps(values), "utf-8")


@pytest.mark.parametrize("name", ["encoder.onnx", "generator.onnx"])
def test_corrupt_onnx_with_a_right_hash(
    own_model: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (own_model / name).write_bytes(b"no network at all")
    rehash(own_model, name)
    with pytest.raises(ModelError, match=name) as caught:
        Translator.load(own_model)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "the library must not talk beside the error"


def test_networks_that_are_not_as_model_json_says(own_model: Path) -> None:
    edit(own_model, feature_size=33)
    with pytest.raises(ModelError, match=r"shape \[1, 32\], not \[1, 33\] as model.json says"):
        Translator.load(own_model).ood_scores(np.zeros((1, 128, 100), np.uint8))
    edit(own_model, noise_size=0)
    with pytest.raises(ModelError, match="its inputs are"):
        Translator.load(own_model)
    (own_model / "encoder.onnx").write_bytes((own_model / "generator.onnx").read_bytes())
    rehash(own_model, "encoder.onnx")
    with pytest.raises(ModelError, match="not the network that is expected: no output"):
        Translator.load(own_model)


def test_bundled_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.resources

    monkeypatch.setattr(importlib.resources, "files", lambda _name: tmp_path)
    with pytest.raises(ModelError, match="no bundled model"):
        model_folder.bundled()
    (tmp_path / "assets" / "model").mkdir(parents=True)
    (tmp_path / "assets" / "model" / "model.json").write_text("{}", "utf-8")
    assert model_folder.bundled() == tmp_path / "assets" / "model"
