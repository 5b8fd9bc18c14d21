"""Ood scores, by nearest neighbours and by a classifier: what they accept, refuse and keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.data.store.dataset import PairBatch
from soundsight.models.contrastive import SoundEncoder
from soundsight.models.ears import Ears, EarsConfig
from soundsight.models.ood import NearestNeighbourOod, OodClassifier
from soundsight.models.presets import preset
from soundsight.training.checkpoints import save_weights
from soundsight.training.configs import FitConfig, OodClassifierFitConfig
from soundsight.training.kinds import KindSeconds
from soundsight.training.ood import (
    LIMIT,
    fit_nearest_neighbours,
    fit_ood_classifier,
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


def test_too_few_sounds() -> None:
    with pytest.raises(DataError, match="at least 20"):
        fit_nearest_neighbours(encoder(), Sounds(15, 0), Sounds(100, 1), FitConfig())  # type: ignore[arg-type]


def test_a_memory_comes_back_from_disk_and_belongs_to_its_encoder(
    fitted: NearestNeighbourOod, tmp_path: Path
) -> None:
    def run_folder(name: str, network: SoundEncoder) -> Path:
        folder = tmp_path / name
        about = {"kind": "contrastive", "preset": "tiny", "network": to_dict(SIZES)}
        save_weights(folder / "encoder.safetensors", network, about)
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


# --- the classifier of known kinds --------------------------------------------------------------


EARS = EarsConfig(embedding_size=16, maps=(4, 4, 4, 4, 4), blocks=(0, 0, 0, 0))
CONFIG = OodClassifierFitConfig(hidden=16, steps=150, batch_size=128)
KINDS = ("dog", "cat", "thunder")


@pytest.fixture
def ears() -> Ears:
    torch.manual_seed(0)
    ears = Ears(EARS).eval().requires_grad_(False)
    # As after training: the last layer reads features that were standardised.
    ears.mean.uniform_(-1.0, 1.0)
    ears.scale.uniform_(0.5, 2.0)
    return ears


def features_of(ears: Ears, seed: int, kinds: tuple[str, ...] = KINDS) -> Tensor:
    """Forty sounds of each kind about a point of its own among the features."""
    rng = np.random.default_rng(seed)
    centres = np.stack([centre_of(kind, ears.feature_size) for kind in kinds]).repeat(40, axis=0)
    features = centres + rng.normal(size=(len(centres), ears.feature_size))
    return torch.from_numpy(features.astype(np.float32))


@torch.no_grad()
def seconds(ears: Ears, seed: int, kinds: tuple[str, ...] = KINDS) -> KindSeconds:
    """The same, heard; thunder is not known."""
    words = np.array(kinds).repeat(40)
    return KindSeconds(
        embeddings=ears.read(features_of(ears, seed, kinds)).numpy(), kinds=words,
        known=words != "thunder", bands=np.zeros(len(words), np.int64),
    )  # fmt: skip


def centre_of(kind: str, size: int) -> NDArray[np.float64]:
    return np.random.default_rng([ord(c) for c in kind]).normal(size=size) * 3.0


def scores_of(
    network: OodClassifier, ears: Ears, seed: int, kinds: tuple[str, ...] = KINDS
) -> NDArray[np.float32]:
    return network(features_of(ears, seed, kinds)).numpy()


def test_it_keeps_the_known_and_refuses_others(ears: Ears) -> None:
    network = fit_ood_classifier(seconds(ears, 1), seconds(ears, 2), ears, CONFIG)
    later = seconds(ears, 3)
    scores = scores_of(network, ears, 3)
    assert 0 <= scores.min() <= scores.max() <= 1
    assert (scores[later.known] <= 0.5).mean() > 0.8
    assert (scores[~later.known] <= 0.5).mean() < 0.1


def test_sounds_of_a_folder_and_made_ones_are_refused_too(ears: Ears) -> None:
    train, val = seconds(ears, 1), seconds(ears, 2)
    saw, beep = (seconds(ears, 4, kinds=(kind,)) for kind in ("saw", "beep"))
    network = fit_ood_classifier(
        train, val, ears, CONFIG, folder=saw.embeddings, made=beep.embeddings
    )  # fmt: skip
    for kind in ("saw", "beep"):
        assert (scores_of(network, ears, 5, (kind,)) <= 0.5).mean() < 0.1


def test_a_folder_of_many_kinds_refuses_a_kind_that_nobody_has_met(ears: Ears) -> None:
    train, val = seconds(ears, 1), seconds(ears, 2)
    many = [seconds(ears, 6, kinds=(f"kind {k}",)).embeddings[:4] for k in range(60)]
    alone = fit_ood_classifier(train, val, ears, CONFIG)
    taught = fit_ood_classifier(train, val, ears, CONFIG, folder=np.concatenate(many))
    strangers = tuple(f"stranger {k}" for k in range(20))
    before, after = (
        (scores_of(network, ears, 7, strangers) <= 0.5).mean() for network in (alone, taught)
    )  # fmt: skip
    assert after < 0.5 * before


def test_the_limit_keeps_the_share_that_is_asked_for(ears: Ears) -> None:
    train, val = seconds(ears, 1), seconds(ears, 2)
    for kept in (0.6, 0.9):
        config = OodClassifierFitConfig(hidden=16, steps=150, batch_size=128, kept=kept)
        scores = scores_of(fit_ood_classifier(train, val, ears, config), ears, 2)
        shares = [(scores[val.kinds == kind] <= 0.5).mean() for kind in ("dog", "cat")]
        assert np.mean(shares) == pytest.approx(kept, abs=0.03)


def test_features_are_read_as_the_ears_read_them(ears: Ears) -> None:
    network = fit_ood_classifier(seconds(ears, 1), seconds(ears, 2), ears, CONFIG)
    features = features_of(ears, 3)
    margin = network.margin(ears.read(features))
    expected = torch.sigmoid(network.slope * (network.limit - margin))
    torch.testing.assert_close(network(features), expected, rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_network(ears: Ears) -> None:
    train, val = seconds(ears, 1), seconds(ears, 2)
    first, again = (
        scores_of(fit_ood_classifier(train, val, ears, CONFIG), ears, 2) for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)


def test_it_is_written_and_read_again(tmp_path: Path, ears: Ears) -> None:
    val = seconds(ears, 2)
    network = fit_ood_classifier(seconds(ears, 1), val, ears, CONFIG)
    save_weights(tmp_path / "encoder.safetensors", ears, {"kind": "ears"})
    write_ood(tmp_path / "out", tmp_path, network, CONFIG)
    again = load_ood(tmp_path / "out", tmp_path)
    features = features_of(ears, 2)
    torch.testing.assert_close(again(features), network(features))


def test_train_and_val_without_others_are_refused(ears: Ears) -> None:
    train = seconds(ears, 1)
    known = train.of(train.known)
    with pytest.raises(DataError, match="val needs"):
        fit_ood_classifier(train, known, ears, CONFIG)
    with pytest.raises(DataError, match="train needs"):
        fit_ood_classifier(known, train, ears, CONFIG)
