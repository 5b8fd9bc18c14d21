"""Ears: what they are trained on, that a stop changes nothing, and that they learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.units import RATE_HZ
from soundsight.data.everyday.folder import Everyday
from soundsight.data.everyday.sounds import bands_above
from soundsight.data.vegas.bench import Bench
from soundsight.media.mel import log_mel
from soundsight.models.ears import Ears, EarsAndMore, EarsConfig, ears_preset
from soundsight.training import configs, teacher
from soundsight.training.ears import EarsTask
from soundsight.training.ears_data import EarsData, open_ears_data
from soundsight.training.encoder import load_encoder
from soundsight.training.sound_bank import SoundBank, copy_of, through_codec, through_jpeg
from soundsight.training.teacher import FEATURES
from soundsight.training.trainer import fit, step_rng

pytestmark = pytest.mark.usefixtures("random_eyes")

BANK = configs.BankConfig(copies=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data of this file's trainings are kept."""
    return tmp_path_factory.mktemp("ears") / "bank"


@pytest.fixture
def data(folder: Path, toy_everyday: Everyday, toy_bench: Bench) -> EarsData:
    return open_ears_data(folder, toy_everyday, toy_bench, BANK)


def config_of(steps: int = 4, **changes: object) -> configs.EarsTrainingConfig:
    loop = configs.LoopConfig(steps=steps, batch_size=16, log_every=1, checkpoint_every=1)
    return replace(
        configs.EarsTrainingConfig(
            preset="everyday-tiny", bank=BANK, alone=0.25, last_layer=0.0, loop=loop
        ),
        **changes,
    )


def train(
    data: EarsData, run: Path, config: configs.EarsTrainingConfig, stop_at: int | None = None
) -> list[dict[str, float]]:
    task = EarsTask(config, data)
    if stop_at is not None:
        loss = task.step

        def step(number: int, rng: torch.Generator) -> dict[str, torch.Tensor]:
            if number == stop_at:
                raise RuntimeError("the power fails")
            return loss(number, rng)

        task.step = step  # type: ignore[method-assign]
    fit(task, run, config.loop, to_dict(config))
    lines = (run / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "items_per_s"} for x in lines]


def test_sizes() -> None:
    sizes = {name: ears_preset(name) for name in ("everyday", "everyday-tiny")}
    counts = {
        name: sum(p.numel() for p in EarsAndMore(replace(size, teacher_size=FEATURES)).parameters())
        for name, size in sizes.items()
    }
    assert counts["everyday-tiny"] < 100_000
    assert sum(p.numel() for p in Ears(sizes["everyday"]).parameters()) < 3_000_000
    for complaint, changes in (("five numbers", {"maps": (8, 8)}), ("dropout", {"dropout": 1.0})):
        with pytest.raises(ConfigError, match=complaint):
            EarsConfig(**changes)
    with pytest.raises(ConfigError, match="everyday-tiny"):
        ears_preset("huge")


def test_embeddings_have_a_root_mean_square_of_1_and_features_their_size() -> None:
    ears = Ears(ears_preset("everyday-tiny")).eval()
    mel = torch.rand(3, 1, 128, 100) * 2 - 1
    embedding = ears.encode(mel)
    assert embedding.shape == (3, ears.embedding_size)
    assert torch.allclose(embedding.square().mean(dim=1), torch.ones(3), atol=1e-4)
    assert ears.features(mel).shape == (3, ears.feature_size)


def test_the_bank_is_made_once_and_goes_on_where_it_stopped(
    toy_everyday: Everyday, tmp_path: Path
) -> None:
    place = tmp_path / "bank"
    bank = SoundBank(place, toy_everyday, BANK)
    rows = np.arange(len(bank))
    clean, one, two = (bank.take(rows, np.full(len(rows), copy)) for copy in range(3))
    assert not np.array_equal(clean, one)
    assert not np.array_equal(one, two)
    assert {bank.sounds[i].kind for i in bank.sound} == {"baby", "cat", "knock", "pig"}
    # A copy that was not finished is made again, to the same bytes; more may be added.
    before = (place / "copy-001.npy").read_bytes()
    (place / "copy-001.npy").unlink()
    more = SoundBank(place, toy_everyday, replace(BANK, copies=3))
    assert (place / "copy-001.npy").read_bytes() == before
    assert more.copies == 3
    with pytest.raises(ConfigError, match="another folder"):
        SoundBank(place, toy_everyday, replace(BANK, seed=1))
    (place / "copy-002.npy").write_bytes(b"no")
    with pytest.raises(DataError, match="damaged"):
        SoundBank(place, toy_everyday, BANK)


def test_data_hold_numbers_and_no_kind(data: EarsData) -> None:
    seconds = np.array([0, len(data.bank)])
    mels = data.mels(seconds, np.array([1, 1]))
    assert np.array_equal(mels[0], data.bank.take(np.array([0]), np.array([1]))[0])
    assert np.array_equal(mels[1], data.spectrograms[0])
    for row in range(len(data.pair_second)):
        assert data.pair_photo[row] in data.photos_of[data.pair_recording[row]]
    # A knock and a pig have no photos; no recording stands on both sides.
    kinds = {data.bank.sounds[data.bank.sound[i]].kind for rows in data.alone for i in rows}
    assert kinds == {"knock", "pig"}
    assert not {int(i) for rows in data.alone for i in rows} & set(data.pair_second.tolist())
    assert data.photos.shape == (2, 60, 1280)


def test_ears_learn_who_has_which_photos(data: EarsData) -> None:
    config = config_of(120, learning_rate=1e-2, mixed=0.0, average=0.5)
    task = EarsTask(config, data)
    losses = [float(task.step(step, step_rng(0, step))["loss"]) for step in range(120)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.2


def test_the_last_layer_is_learned_anew_on_features_that_stay(data: EarsData) -> None:
    task = EarsTask(config_of(10, last_layer=0.4, average=0.5), data)
    for step in range(6):
        task.step(step, step_rng(0, step))
    ears, average = task.network.ears, task.average.average.ears
    stages = {name: value.clone() for name, value in average.stages.state_dict().items()}
    last = average.project.weight.clone()
    losses = [float(task.step(step, step_rng(0, step))["loss"]) for step in range(6, 10)]
    # The averaged features, and their BatchNorm, are kept; the last layer is another one.
    for network in (ears, average):
        for name, value in network.stages.state_dict().items():
            torch.testing.assert_close(value, stages[name], rtol=0, atol=0)
    assert not torch.allclose(average.project.weight, last, atol=1e-2)
    assert np.isfinite(losses).all()
    seconds = np.unique(data.pair_second)
    mels = torch.from_numpy(data.mels(seconds, np.zeros(len(seconds), np.int64)))[:, None]
    with torch.no_grad():
        features = (ears.eval().features(mels / 127.5 - 1) - ears.mean) * ears.scale
    np.testing.assert_allclose(features.mean(dim=0), 0, atol=1e-3)
    assert features.std(dim=0).max() <= 1.001


class Loud:
    """A teacher that hears how loud a second is."""

    def __init__(self, path: Path) -> None:
        del path

    def features(self, samples: np.ndarray, starts_s: np.ndarray, *, times: int = 2) -> np.ndarray:
        del times
        levels = [np.abs(samples[int(44_100 * s) :][:44_100]).mean() for s in starts_s]
        return np.repeat(np.array(levels, np.float32)[:, None], FEATURES, axis=1)


@pytest.fixture
def taught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, toy_everyday: Everyday,
    toy_bench: Bench,
) -> EarsData:  # fmt: skip
    """The data, and what a teacher says of them and of 19 mixtures."""
    monkeypatch.setattr(teacher, "Teacher", Loud)
    monkeypatch.setattr(teacher, "_CLIPS_A_PART", 1)
    network = tmp_path / "any.onnx"
    network.write_bytes(b"a network")
    return open_ears_data(
        folder,
        toy_everyday,
        toy_bench,
        BANK,
        teacher=network,
        mixtures=configs.MixtureConfig(clips=1),
    )


def test_what_a_teacher_says_has_mean_0_and_variance_1(taught: EarsData) -> None:
    assert taught.targets is not None
    assert taught.targets.clips is not None
    clean = taught.targets.of(np.arange(taught.waveforms))
    mels, more = taught.targets.take(np.arange(len(taught.targets.clips)))
    assert mels.shape == (19, 128, 100)
    every = np.concatenate([clean, more])
    assert every.shape[1] == FEATURES
    np.testing.assert_allclose(every.mean(axis=0), 0, atol=1e-2)
    np.testing.assert_allclose(every.std(axis=0), 1, atol=0.1)


@pytest.mark.parametrize("mixture", [0.0, 1.0])
def test_a_teacher_is_imitated(taught: EarsData, mixture: float) -> None:
    config = config_of(
        40, teacher="hash", learning_rate=1e-2, clean=1.0, mixed=0.0, mixture_share=0.75 * mixture
    )
    task = EarsTask(config, taught)
    errors = [float(task.step(step, step_rng(0, step))["teacher"]) for step in range(40)]
    assert np.mean(errors[-5:]) < 0.8 * np.mean(errors[:5])


@pytest.mark.parametrize(
    ("stop_at", "changes"),
    [(2, {"teacher": "hash"}), (4, {"loop": config_of(6).loop, "last_layer": 0.5})],
    ids=["with a teacher", "among the last steps"],
)
def test_a_stop_changes_nothing(
    stop_at: int, changes: dict[str, object], taught: EarsData, tmp_path: Path
) -> None:
    config = config_of(**changes)  # type: ignore[arg-type]
    whole = train(taught, tmp_path / "whole", config)
    with pytest.raises(RuntimeError, match="power"):
        train(taught, tmp_path / "halves", config, stop_at=stop_at)
    assert train(taught, tmp_path / "halves", config) == whole
    files = [tmp_path / run / "encoder.safetensors" for run in ("whole", "halves")]
    assert files[0].read_bytes() == files[1].read_bytes()
    # A finished run is loaded like any encoder.
    ears = load_encoder(tmp_path / "whole")
    assert isinstance(ears, Ears)
    assert ears.embedding_size == 16
    assert (tmp_path / "whole" / "picture_encoder.safetensors").is_file()


# --- copies of recordings: as often as asked, always the same, and still sounds ----------------

NOTHING = configs.CopyConfig(**dict.fromkeys(vars(configs.CopyConfig()), 0.0))
"""A copy that only has another level."""


@pytest.fixture(scope="module")
def hiss() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, RATE_HZ).astype(np.float32)


def copied(sound: np.ndarray, seed: int = 0, **shares: float) -> np.ndarray:
    config = replace(NOTHING, **shares)
    return copy_of(sound, sound[::-1].copy(), np.random.default_rng(seed), config)


def test_a_copy_that_gets_nothing_is_the_sound_at_another_level(hiss: np.ndarray) -> None:
    copy = copied(hiss)
    assert np.corrcoef(copy, hiss)[0, 1] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("share", sorted(set(vars(NOTHING)) - {"jpeg"}))
def test_everything_that_a_copy_can_get_changes_it_and_leaves_a_sound(
    hiss: np.ndarray, share: str
) -> None:
    copy = copied(hiss, **{share: 1.0})
    assert np.array_equal(copy, copied(hiss, **{share: 1.0}))
    assert np.isfinite(copy).all()
    assert copy.dtype == np.float32
    assert abs(len(copy) - len(hiss)) <= 0.12 * len(hiss)
    same = min(len(copy), len(hiss))
    assert not np.allclose(copy[:same], copied(hiss)[:same], atol=1e-4)
    assert log_mel(copy).mean() > 20


def test_narrow_copies_end_where_a_low_rate_would_end_them(hiss: np.ndarray) -> None:
    for share, end_hz in (("narrow_8khz", 4000.0), ("narrow_16khz", 8000.0)):
        mel = log_mel(copied(hiss, **{share: 1.0}))
        assert mel[: bands_above(end_hz) - 1, 5:95].max() < 30
        assert mel[bands_above(0.8 * end_hz) :].mean() > 100


def test_codecs_and_jpeg_keep_the_length_and_most_of_the_sound(hiss: np.ndarray) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32) * 0.3
    for seed in range(3):
        heard = through_codec(tone, np.random.default_rng(seed))
        assert len(heard) == len(tone)
        assert np.sqrt((heard**2).mean()) == pytest.approx(0.21, abs=0.06)
    mel = log_mel(hiss)
    again = through_jpeg(mel, 70)
    assert again.shape == mel.shape
    assert 0 < np.abs(again.astype(int) - mel).mean() < 30
