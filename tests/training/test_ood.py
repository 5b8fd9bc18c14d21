"""Familiar sounds are near to those of training; the limit comes from val; files are checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from soundsight.core.errors import ConfigError, DataError
from soundsight.data.store.dataset import PairBatch
from soundsight.models.contrastive import SoundEncoder
from soundsight.models.ood import NearestNeighbourOod, NearestNeighbourOodConfig
from soundsight.models.presets import preset
from soundsight.training.ood import (
    LIMIT,
    FitConfig,
    fit_nearest_neighbours,
    load_ood,
    write_ood,
)

SIZES = preset("tiny").contrastive


class Sounds:
    """Tones in the lower bands, as a ``PairDataset`` would hand them out; every ninth is silent."""

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._mels = np.zeros((count, 128, 100), np.uint8)
        for i in range(count):
            if i % 9:
                band = int(rng.integers(80, 120))
                self._mels[i, band : band + 6] = rng.integers(120, 220)

    def __len__(self) -> int:
        return len(self._mels)

    def mel(self, index: int) -> np.ndarray:
        return self._mels[index]

    def gather(self, rows: list[int]) -> PairBatch:
        none = torch.zeros(len(rows), dtype=torch.int64)
        image = torch.zeros(len(rows), 3, 96, 96, dtype=torch.uint8)
        mel = torch.from_numpy(self._mels[rows])[:, None]
        return PairBatch(mel=mel, image=image, video=none, photo=none)


def encoder() -> SoundEncoder:
    torch.manual_seed(0)
    return SoundEncoder(SIZES).eval()


@torch.no_grad()
def noticed(mel: Tensor) -> Tensor:
    return encoder().features(mel)


def unit(mels: np.ndarray) -> Tensor:
    return torch.from_numpy(mels)[:, None].float() / 127.5 - 1


@pytest.fixture(scope="module")
def fitted() -> NearestNeighbourOod:
    config = FitConfig(axes=6, sounds=100, accepted=0.9)
    return fit_nearest_neighbours(encoder(), Sounds(200, 0), Sounds(120, 1), config)  # type: ignore[arg-type]


def test_the_limit_accepts_the_share_of_val_that_was_asked_for(fitted: NearestNeighbourOod) -> None:
    val = Sounds(120, 1)
    loud = np.stack([val.mel(i) for i in range(120) if i % 9])
    with torch.no_grad():
        accepted = fitted(noticed(unit(loud))) <= LIMIT
    assert float(accepted.float().mean()) == pytest.approx(0.9, abs=0.02)


def test_another_kind_of_sound_is_unknown(fitted: NearestNeighbourOod) -> None:
    rng = np.random.default_rng(5)
    clicks = np.zeros((20, 128, 100), np.uint8)
    for click in clicks:
        click[:, rng.integers(0, 100, 12)] = 255
    known = Sounds(60, 7)
    loud = np.stack([known.mel(i) for i in range(60) if i % 9])
    with torch.no_grad():
        assert float((fitted(noticed(unit(clicks))) > LIMIT).float().mean()) > 0.8
        assert float((fitted(noticed(unit(loud))) <= LIMIT).float().mean()) > 0.7


def test_distance_against_numpy(fitted: NearestNeighbourOod) -> None:
    features = noticed(unit(np.stack([Sounds(9, 3).mel(i) for i in range(1, 9)])))
    with torch.no_grad():
        place = ((features - fitted.mean) @ fitted.axes).double().numpy()
        got = fitted.distance(features).numpy()
        ood_score = fitted(features).numpy()
    memory = fitted.memory.double().numpy()
    apart = np.linalg.norm(place[:, None] - memory[None], axis=2)
    expected = np.sort(apart, axis=1)[:, : fitted.config.neighbours].mean(axis=1)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
    limit = float(fitted.limit)
    np.testing.assert_allclose(ood_score, expected / (limit + expected), rtol=1e-3)


def test_axes_are_whitened(fitted: NearestNeighbourOod) -> None:
    data = Sounds(200, 0)
    loud = np.stack([data.mel(i) for i in range(200) if i % 9])
    with torch.no_grad():
        place = (noticed(unit(loud)) - fitted.mean) @ fitted.axes
    covariance = torch.cov(place.T)
    # The first axes vary; the last may hardly do, and are then not blown up.
    assert float(covariance[0, 0]) == pytest.approx(1.0, rel=0.1)
    assert float((covariance - torch.diag(covariance.diag())).abs().max()) < 0.05


def test_too_few_sounds_and_bad_settings() -> None:
    with pytest.raises(DataError, match="at least 20"):
        fit_nearest_neighbours(encoder(), Sounds(15, 0), Sounds(100, 1), FitConfig())  # type: ignore[arg-type]
    for wrong in ({"accepted": 1.0}, {"accepted": 0.0}, {"axes": 0}, {"neighbours": 0}):
        with pytest.raises(ConfigError):
            FitConfig(**wrong)  # type: ignore[arg-type]


def test_a_memory_comes_back_from_disk_and_belongs_to_its_encoder(
    fitted: NearestNeighbourOod, tmp_path: Path
) -> None:
    from soundsight.core.config import to_dict
    from soundsight.training.checkpoints import save_weights

    def run_folder(name: str, network: SoundEncoder) -> Path:
        folder = tmp_path / name
        about = {"kind": "contrastive", "preset": "tiny", "network": to_dict(SIZES)}
        save_weights(folder / "encoder.safetensors", network, about)
        (folder / "run.json").write_text(json.dumps({"kind": "encoder", "config": {}}), "utf-8")
        return folder

    own = run_folder("own", encoder())
    torch.manual_seed(1)
    other = run_folder("other", SoundEncoder(SIZES))
    write_ood(tmp_path / "memory", own, fitted, FitConfig())
    again = load_ood(tmp_path / "memory", own)
    features = noticed(unit(np.stack([Sounds(9, 3).mel(i) for i in range(1, 9)])))
    torch.testing.assert_close(again(features), fitted(features))
    with pytest.raises(DataError, match="another encoder"):
        load_ood(tmp_path / "memory", other)
    with pytest.raises(DataError, match="missing or damaged"):
        load_ood(tmp_path, own)


def test_an_empty_memory_has_the_sizes_of_its_config() -> None:
    config = NearestNeighbourOodConfig(features=SoundEncoder(SIZES).feature_size, axes=4, sounds=7)
    network = NearestNeighbourOod(config)
    assert tuple(network.memory.shape) == (7, 4)
