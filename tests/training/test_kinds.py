"""Seconds of Everyday as finished ears hear them, and the label head that is fitted to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import write_json
from soundsight.data.everyday.folder import ALERTS, WORDS, Everyday
from soundsight.data.vegas.bench import Bench
from soundsight.models.ears import Ears, EarsConfig
from soundsight.training.checkpoints import save_weights
from soundsight.training.kinds import (
    BANDS_HZ,
    KindSeconds,
    everyday_label_head,
    fit_everyday_label_head,
    hear_kinds,
    hear_labelled,
    hear_others,
    joined,
    open_kinds,
    open_others,
)

SIZES = EarsConfig(embedding_size=16, maps=(4, 4, 4, 4, 4), blocks=(0, 0, 0, 0))


@pytest.fixture
def ears() -> Ears:
    torch.manual_seed(0)
    return Ears(SIZES).eval().requires_grad_(False)


@pytest.fixture
def run(tmp_path: Path, ears: Ears) -> Path:
    from dataclasses import asdict

    folder = tmp_path / "ears"
    about = {"kind": "ears", "preset": "everyday-tiny", "network": asdict(SIZES)}
    save_weights(folder / "encoder.safetensors", ears, about)
    write_json(folder / "run.json", {"kind": "ears", "config": {}})
    return folder


def test_every_sound_is_heard_in_three_bands(
    ears: Ears, toy_everyday: Everyday, toy_bench: Bench
) -> None:
    heard = hear_kinds(ears, toy_everyday, toy_bench, "val")
    assert set(heard.bands.tolist()) == set(BANDS_HZ)
    assert heard.embeddings.shape == (len(heard), 16)
    assert heard.features.shape == (len(heard), ears.feature_size)
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
        heard = open_kinds(
            tmp_path, run, toy_everyday, toy_bench, "val", tell=lambda what, *_: told.append(what)
        )
        return heard.embeddings

    first = opened()
    assert told
    told.clear()
    np.testing.assert_array_equal(opened(), first)
    assert not told
    other = Ears(SIZES)
    from dataclasses import asdict

    save_weights(run / "encoder.safetensors", other, {"kind": "ears", "network": asdict(SIZES)})
    assert not np.allclose(opened(), first)
    (tmp_path / "kinds-val.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="remove it"):
        opened()


def test_kinds_are_heard_by_ears_alone(
    tmp_path: Path, toy_everyday: Everyday, toy_bench: Bench
) -> None:
    from dataclasses import asdict

    from soundsight.models.contrastive import SoundEncoder
    from soundsight.models.presets import preset

    sizes = preset("tiny").contrastive
    about = {"kind": "contrastive", "preset": "tiny", "network": asdict(sizes)}
    save_weights(tmp_path / "encoder.safetensors", SoundEncoder(sizes), about)
    write_json(tmp_path / "run.json", {"kind": "encoder", "config": {}})
    with pytest.raises(ConfigError, match="no ears"):
        open_kinds(tmp_path, tmp_path, toy_everyday, toy_bench, "val")


def test_alert_kinds_are_named_and_never_drawn() -> None:
    config = everyday_label_head()
    assert config.balanced
    assert set(config.alerts) == {WORDS[kind] for kind in ALERTS}


def test_other_data_have_their_labels_for_kinds(
    ears: Ears, toy_everyday: Everyday, toy_bench: Bench
) -> None:
    everyday = hear_kinds(ears, toy_everyday, toy_bench, "val")
    (own,) = hear_labelled(ears, [toy_bench], "val")
    # Of each class one second of twelve cannot be heard.
    assert len(own) == 5 * 11
    assert "baby crying" in own.kinds
    both = joined([everyday, own])
    assert len(both) == len(everyday) + len(own)
    assert both.known[len(everyday) :].all()
    own.kinds[:] = np.where(own.kinds == "water", "", own.kinds)
    own.kinds[:] = np.where(own.kinds == "dog", "helicopter", own.kinds)
    both = joined([everyday, own])
    config = replace(everyday_label_head(), others_each=1, iterations=5, penalties=(1e-2,))
    fitted = fit_everyday_label_head(both, both, ears, config).head.labels
    assert "helicopter" in fitted
    assert "" not in fitted


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """Two sounds of six seconds, one in a folder of its own, and two files that are no sounds."""
    from soundsight.core.units import RATE_HZ
    from soundsight.media.voice import write_samples

    place = tmp_path / "others"
    (place / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for path in (place / "saw.flac", place / "deep" / "hooves.flac"):
        write_samples(str(path), rng.normal(0, 0.1, 6 * RATE_HZ).astype(np.float32), RATE_HZ)
    (place / "broken.wav").write_bytes(b"RIFF, and nothing else")
    (place / "readme.txt").write_text("no sound")
    return place


def test_other_sounds_are_heard_at_their_beginning_in_every_band(ears: Ears, others: Path) -> None:
    files = sorted(others.rglob("*.flac"))
    heard = hear_others(ears, files)
    # Four seconds of each, a second every half second, in three bands.
    assert len(heard) == 2 * 7 * len(BANDS_HZ)
    assert not heard.known.any()
    assert set(heard.recordings) == {str(path) for path in files}
    assert set(heard.bands.tolist()) == set(BANDS_HZ)
    assert not np.allclose(
        heard.of(heard.bands == 0).embeddings, heard.of(heard.bands == 8000).embeddings
    )


def test_a_folder_of_other_sounds_is_heard_once_and_what_is_broken_is_named(
    tmp_path: Path, run: Path, others: Path
) -> None:
    told: list[str] = []
    unread: list[str] = []

    def opened() -> KindSeconds:
        return open_others(
            tmp_path / "bank", run, others, tell=lambda what, *_: told.append(what),
            unread=unread.append,
        )  # fmt: skip

    first = opened()
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
        open_others(tmp_path / "bank", run, tmp_path / "empty")
    with pytest.raises(DataError, match="cannot be listed"):
        open_others(tmp_path / "bank", run, tmp_path / "nowhere")
