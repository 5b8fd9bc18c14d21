"""Seconds of Everyday as finished ears hear them, and the label head that is fitted to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.units import RATE_HZ
from soundsight.data.everyday.folder import ALERTS, WORDS, Everyday
from soundsight.data.vegas.bench import Bench
from soundsight.media.voice import write_samples
from soundsight.models.ears import Ears, EarsConfig
from soundsight.training import kinds
from soundsight.training.checkpoints import save_weights
from soundsight.training.labels import EVERYDAY_HEAD, fit_heard

SIZES = EarsConfig(embedding_size=16, maps=(4, 4, 4, 4, 4), blocks=(0, 0, 0, 0))


@pytest.fixture
def ears() -> Ears:
    torch.manual_seed(0)
    return Ears(SIZES).eval().requires_grad_(False)


@pytest.fixture
def run(tmp_path: Path, ears: Ears) -> Path:
    about = {"kind": "ears", "preset": "everyday-tiny", "network": to_dict(SIZES)}
    save_weights(tmp_path / "ears" / "encoder.safetensors", ears, about)
    return tmp_path / "ears"


def test_every_sound_is_heard_in_three_bands(
    tmp_path: Path, run: Path, toy_everyday: Everyday, toy_bench: Bench
) -> None:
    heard = kinds.open_kinds(tmp_path, run, toy_everyday, toy_bench, "val")
    assert set(heard.bands.tolist()) == set(kinds.BANDS_HZ)
    assert heard.embeddings.shape == (len(heard), 16)
    assert set(heard.kinds[~heard.known]) == {s.kind for s in toy_everyday.others("val")}
    assert {"baby", "cat", "knock"} <= set(heard.kinds[heard.known])
    # What is heard of a sound hangs on its band.
    own = heard.of((heard.kinds == "cat") & (heard.bands == 0)).embeddings
    narrow = heard.of((heard.kinds == "cat") & (heard.bands == 8000)).embeddings
    assert len(own) == len(narrow)
    assert not np.allclose(own, narrow)


def test_what_was_heard_is_kept_until_the_ears_are_others(
    tmp_path: Path, run: Path, toy_everyday: Everyday, toy_bench: Bench
) -> None:
    told: list[str] = []

    def opened() -> np.ndarray:
        heard = kinds.open_kinds(
            tmp_path, run, toy_everyday, toy_bench, "val", tell=lambda what, *_: told.append(what)
        )
        return heard.embeddings

    first = opened()
    assert told
    told.clear()
    np.testing.assert_array_equal(opened(), first)
    assert not told
    about = {"kind": "ears", "network": to_dict(SIZES)}
    save_weights(run / "encoder.safetensors", Ears(SIZES), about)
    assert not np.allclose(opened(), first)
    (tmp_path / "kinds-val.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="remove it"):
        opened()


def test_kinds_are_heard_by_ears_alone(
    tmp_path: Path, encoder_run: Path, toy_everyday: Everyday, toy_bench: Bench
) -> None:
    with pytest.raises(ConfigError, match="no ears"):
        kinds.open_kinds(tmp_path, encoder_run, toy_everyday, toy_bench, "val")


def test_other_data_have_their_labels_for_kinds(
    tmp_path: Path, run: Path, ears: Ears, toy_everyday: Everyday, toy_bench: Bench
) -> None:
    everyday = kinds.open_kinds(tmp_path, run, toy_everyday, toy_bench, "val")
    own = kinds.hear_labelled(ears, [toy_bench], "val")
    # Of each class one second of twelve cannot be heard.
    assert len(own) == 5 * 11
    assert "baby crying" in own.kinds
    both = kinds.joined([everyday, own])
    assert len(both) == len(everyday) + len(own)
    assert both.known[len(everyday) :].all()
    own.kinds[:] = np.where(own.kinds == "water", "", own.kinds)
    own.kinds[:] = np.where(own.kinds == "dog", "helicopter", own.kinds)
    both = kinds.joined([everyday, own])
    config = replace(EVERYDAY_HEAD, others_each=1, iterations=5, penalties=(1e-2,))
    head = fit_heard(both, both, ears, config, WORDS).head
    assert "helicopter" in head.labels
    assert "" not in head.labels
    # Alert kinds are named and never drawn.
    assert config.balanced
    assert set(config.alerts) == {WORDS[kind] for kind in ALERTS}
    assert head.alerts == ("knock on a door",)


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """Two sounds of six seconds, one in a folder of its own, and two files that are no sounds."""
    place = tmp_path / "others"
    (place / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for path in (place / "saw.flac", place / "deep" / "hooves.flac"):
        write_samples(str(path), rng.normal(0, 0.1, 6 * RATE_HZ).astype(np.float32), RATE_HZ)
    (place / "broken.wav").write_bytes(b"RIFF, and nothing else")
    (place / "readme.txt").write_text("no sound")
    return place


def test_a_folder_of_other_sounds_is_heard_once_and_what_is_broken_is_named(
    tmp_path: Path, run: Path, others: Path
) -> None:
    told: list[str] = []
    unread: list[str] = []

    def opened() -> kinds.KindSeconds:
        return kinds.open_others(
            tmp_path / "bank", run, others, tell=lambda what, *_: told.append(what),
            unread=unread.append,
        )  # fmt: skip

    first = opened()
    # Four seconds of each, a second every half second, in three bands.
    assert len(first) == 2 * 7 * len(kinds.BANDS_HZ)
    assert not first.known.any()
    assert set(first.bands.tolist()) == set(kinds.BANDS_HZ)
    whole, narrow = (first.of(first.bands == band).embeddings for band in (0, 8000))
    assert not np.allclose(whole, narrow)
    assert len(told) == 3
    assert len(unread) == 1
    assert "broken.wav" in unread[0]
    np.testing.assert_array_equal(opened().embeddings, first.embeddings)
    assert len(told) == 3
    (others / "saw.flac").unlink()
    assert len(opened()) == len(first) // 2


def test_a_folder_without_sounds_is_refused(tmp_path: Path, run: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no sound"):
        kinds.open_others(tmp_path / "bank", run, tmp_path / "empty")
    with pytest.raises(DataError, match="cannot be listed"):
        kinds.open_others(tmp_path / "bank", run, tmp_path / "nowhere")
