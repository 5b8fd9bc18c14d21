"""What tells known kinds from others: it keeps the known, and refuses both sorts of unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from soundsight.core.errors import ConfigError, DataError
from soundsight.models.ears import Ears, EarsConfig
from soundsight.runtime.naming import Names
from soundsight.training.checkpoints import save_weights
from soundsight.training.familiarity import load_familiarity, write_familiarity
from soundsight.training.kinds import KindSeconds
from soundsight.training.known_kinds import KnownKindsFitConfig, fit_known_kinds

E = 16
SIZES = EarsConfig(embedding_size=E, maps=(4, 4, 4, 4, 4), blocks=(0, 0, 0, 0))
CONFIG = KnownKindsFitConfig(axes=4, sounds=60, neighbours=3)


@pytest.fixture
def ears() -> Ears:
    torch.manual_seed(0)
    ears = Ears(SIZES).eval().requires_grad_(False)
    # As after training: the last layer reads features that were standardised.
    ears.mean.uniform_(-1.0, 1.0)
    ears.scale.uniform_(0.5, 2.0)
    return ears


def seconds(ears: Ears, seed: int, *, others: float = 3.0) -> KindSeconds:
    """Two kinds of sounds and others, each about a point of its own among the features."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(3, ears.feature_size)) * others
    kinds = np.array(["dog", "cat", "thunder"]).repeat(40)
    features = centres.repeat(40, axis=0) + rng.normal(size=(120, ears.feature_size))
    with torch.no_grad():
        embeddings = ears.read(torch.from_numpy(features.astype(np.float32))).numpy()
    return KindSeconds(
        embeddings=embeddings, features=features.astype(np.float16), kinds=kinds,
        recordings=np.array([f"r{i // 4}" for i in range(120)]), known=kinds != "thunder",
        bands=np.zeros(120, np.int64),
    )  # fmt: skip


def head(train: KindSeconds, *, other: bool = True) -> Names:
    """Names whose logits are the products with the mean embedding of each kind."""
    kinds = ("dog", "cat", "thunder") if other else ("dog", "cat")
    means = [train.embeddings[train.kinds == kind].mean(axis=0) for kind in kinds]
    weights = np.stack(means).astype(np.float32)
    return Names(names=("dog", "cat"), weights=weights, bias=-np.square(weights).sum(1) / 2,
                 other=other)  # fmt: skip


def test_it_keeps_the_known_and_refuses_others(ears: Ears) -> None:
    train, val = seconds(ears, 1), seconds(ears, 2)
    network = fit_known_kinds(train, val, ears, head(train), CONFIG)
    later = seconds(ears, 3)
    familiar = network(torch.from_numpy(later.features.astype(np.float32))).numpy()
    assert familiar.min() > 0
    assert familiar.max() < 1
    assert (familiar[later.known] >= 0.5).mean() > 0.8
    assert (familiar[~later.known] >= 0.5).mean() < 0.1


def test_the_limit_keeps_the_share_that_is_asked_for(ears: Ears) -> None:
    train, val = seconds(ears, 1), seconds(ears, 2)
    for kept in (0.6, 0.9):
        config = KnownKindsFitConfig(axes=4, sounds=60, neighbours=3, kept=kept)
        network = fit_known_kinds(train, val, ears, head(train), config)
        familiar = network(torch.from_numpy(val.features.astype(np.float32))).numpy()
        shares = [(familiar[val.kinds == kind] >= 0.5).mean() for kind in ("dog", "cat")]
        assert np.mean(shares) == pytest.approx(kept, abs=0.03)


def test_the_margin_is_that_of_the_embedding(ears: Ears) -> None:
    train, val = seconds(ears, 1), seconds(ears, 2)
    names = head(train)
    network = fit_known_kinds(train, val, ears, names, CONFIG)
    features = torch.from_numpy(val.features.astype(np.float32))
    logits = ears.read(features).numpy() @ names.weights.T + names.bias
    margin = logits[:, :-1].max(axis=1) - logits[:, -1]
    np.testing.assert_allclose(network.margin(features).numpy(), margin, rtol=1e-3, atol=1e-3)


def test_what_is_like_no_train_sound_is_not_near(ears: Ears) -> None:
    train, val = seconds(ears, 1), seconds(ears, 2)
    network = fit_known_kinds(train, val, ears, head(train), CONFIG)
    known = torch.from_numpy(val.features[val.known].astype(np.float32))
    strange = torch.from_numpy(val.features[~val.known].astype(np.float32))
    assert network.nearness(strange).mean() < network.nearness(known).mean()


def test_it_is_written_and_read_again(tmp_path: Path, ears: Ears) -> None:
    train, val = seconds(ears, 1), seconds(ears, 2)
    network = fit_known_kinds(train, val, ears, head(train), CONFIG)
    save_weights(tmp_path / "encoder.safetensors", ears, {"kind": "ears"})
    write_familiarity(tmp_path / "out", tmp_path, network, CONFIG)
    features = torch.from_numpy(val.features.astype(np.float32))
    again = load_familiarity(tmp_path / "out", tmp_path)
    torch.testing.assert_close(again(features), network(features))


def test_names_without_an_answer_for_others_are_refused(ears: Ears) -> None:
    train = seconds(ears, 1)
    with pytest.raises(DataError, match="no answer for other sounds"):
        fit_known_kinds(train, train, ears, head(train, other=False), CONFIG)


def test_val_without_others_is_refused(ears: Ears) -> None:
    train = seconds(ears, 1)
    with pytest.raises(DataError, match="val needs"):
        fit_known_kinds(train, train.of(train.known), ears, head(train), CONFIG)


@pytest.mark.parametrize("change", [{"kept": 1.0}, {"weight": -1.0}, {"sounds": 0}])
def test_settings_that_cannot_be_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        KnownKindsFitConfig(**change)  # type: ignore[arg-type]
