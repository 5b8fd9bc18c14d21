"""What tells known kinds from others: it keeps the known, and refuses others, met before or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from soundsight.training.ood_classifier import OodClassifierFitConfig, fit_ood_classifier

from soundsight.core.errors import ConfigError, DataError
from soundsight.models.ears import Ears, EarsConfig
from soundsight.models.ood import OodClassifier
from soundsight.training.checkpoints import save_weights
from soundsight.training.kinds import KindSeconds
from soundsight.training.ood import load_ood, write_ood

E = 16
SIZES = EarsConfig(embedding_size=E, maps=(4, 4, 4, 4, 4), blocks=(0, 0, 0, 0))
CONFIG = OodClassifierFitConfig(hidden=16, steps=150, batch_size=128)
KINDS = ("dog", "cat", "thunder")


@pytest.fixture
def ears() -> Ears:
    torch.manual_seed(0)
    ears = Ears(SIZES).eval().requires_grad_(False)
    # As after training: the last layer reads features that were standardised.
    ears.mean.uniform_(-1.0, 1.0)
    ears.scale.uniform_(0.5, 2.0)
    return ears


def seconds(ears: Ears, seed: int, kinds: tuple[str, ...] = KINDS) -> KindSeconds:
    """Sounds of each kind about a point of its own among the features; thunder is not known."""
    rng = np.random.default_rng(seed)
    each = 40
    centres = np.stack([centre_of(kind, ears.feature_size) for kind in kinds])
    words = np.array(kinds).repeat(each)
    features = centres.repeat(each, axis=0) + rng.normal(size=(len(words), ears.feature_size))
    with torch.no_grad():
        embeddings = ears.read(torch.from_numpy(features.astype(np.float32))).numpy()
    return KindSeconds(
        embeddings=embeddings, features=features.astype(np.float16), kinds=words,
        recordings=np.array([f"r{i // 4}" for i in range(len(words))]), known=words != "thunder",
        bands=np.zeros(len(words), np.int64),
    )  # fmt: skip


def centre_of(kind: str, size: int) -> NDArray[np.float64]:
    return np.random.default_rng([ord(c) for c in kind]).normal(size=size) * 3.0


def scores_of(network: OodClassifier, heard: KindSeconds) -> NDArray[np.float32]:
    return network(torch.from_numpy(heard.features.astype(np.float32))).numpy()


def test_it_keeps_the_known_and_refuses_others(ears: Ears) -> None:
    network = fit_ood_classifier(seconds(ears, 1), seconds(ears, 2), ears, CONFIG)
    later = seconds(ears, 3)
    scores = scores_of(network, later)
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
        assert (scores_of(network, seconds(ears, 5, kinds=(kind,))) <= 0.5).mean() < 0.1


def test_a_folder_of_many_kinds_refuses_a_kind_that_nobody_has_met(ears: Ears) -> None:
    train, val = seconds(ears, 1), seconds(ears, 2)
    many = [seconds(ears, 6, kinds=(f"kind {k}",)).embeddings[:4] for k in range(60)]
    alone = fit_ood_classifier(train, val, ears, CONFIG)
    taught = fit_ood_classifier(train, val, ears, CONFIG, folder=np.concatenate(many))
    strangers = seconds(ears, 7, kinds=tuple(f"stranger {k}" for k in range(20)))
    before, after = (
        (scores_of(network, strangers) <= 0.5).mean() for network in (alone, taught)
    )  # fmt: skip
    assert after < 0.5 * before


def test_the_limit_keeps_the_share_that_is_asked_for(ears: Ears) -> None:
    train, val = seconds(ears, 1), seconds(ears, 2)
    for kept in (0.6, 0.9):
        config = OodClassifierFitConfig(hidden=16, steps=150, batch_size=128, kept=kept)
        scores = scores_of(fit_ood_classifier(train, val, ears, config), val)
        shares = [(scores[val.kinds == kind] <= 0.5).mean() for kind in ("dog", "cat")]
        assert np.mean(shares) == pytest.approx(kept, abs=0.03)


def test_features_are_read_as_the_ears_read_them(ears: Ears) -> None:
    network = fit_ood_classifier(seconds(ears, 1), seconds(ears, 2), ears, CONFIG)
    features = torch.from_numpy(seconds(ears, 3).features.astype(np.float32))
    margin = network.margin(ears.read(features))
    expected = torch.sigmoid(network.slope * (network.limit - margin))
    torch.testing.assert_close(network(features), expected, rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_network(ears: Ears) -> None:
    train, val = seconds(ears, 1), seconds(ears, 2)
    first, again = (scores_of(fit_ood_classifier(train, val, ears, CONFIG), val) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_it_is_written_and_read_again(tmp_path: Path, ears: Ears) -> None:
    val = seconds(ears, 2)
    network = fit_ood_classifier(seconds(ears, 1), val, ears, CONFIG)
    save_weights(tmp_path / "encoder.safetensors", ears, {"kind": "ears"})
    write_ood(tmp_path / "out", tmp_path, network, CONFIG)
    again = load_ood(tmp_path / "out", tmp_path)
    features = torch.from_numpy(val.features.astype(np.float32))
    torch.testing.assert_close(again(features), network(features))


def test_train_and_val_without_others_are_refused(ears: Ears) -> None:
    train = seconds(ears, 1)
    known = train.of(train.known)
    with pytest.raises(DataError, match="val needs"):
        fit_ood_classifier(train, known, ears, CONFIG)
    with pytest.raises(DataError, match="train needs"):
        fit_ood_classifier(known, train, ears, CONFIG)


@pytest.mark.parametrize("change", [{"kept": 1.0}, {"made_weight": -1.0}, {"steps": 0}])
def test_settings_that_cannot_be_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        OodClassifierFitConfig(**change)  # type: ignore[arg-type]
