"""Ears, decoder and flow on pairs of a second with its own frame, and from finished weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from soundsight.core.config import to_dict
from soundsight.core.errors import DataError
from soundsight.data.everyday.folder import Everyday
from soundsight.data.store.dataset import PairDataset
from soundsight.data.vegas.bench import Bench
from soundsight.models.eyes import Eyes
from soundsight.training import configs
from soundsight.training.checkpoints import TAUGHT_BY, Pretrained, read_tensors, save_weights
from soundsight.training.decoder import DecoderTask
from soundsight.training.ears import EarsTask
from soundsight.training.ears_data import EarsData, joined, open_ears_data, prepared_ears_data
from soundsight.training.flow import FlowPairs, FlowTask, flow_pairs_of, load_flow
from soundsight.training.trainer import Task, fit, step_rng

LOOP = configs.LoopConfig(steps=2, batch_size=8, log_every=1, checkpoint_every=1)


@pytest.fixture(autouse=True)
def eyes(random_eyes: Eyes) -> Eyes:
    """Eyes without the package of weights."""
    return random_eyes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where features are kept."""
    return tmp_path_factory.mktemp("own")


@pytest.fixture
def own(folder: Path, toy_bench: Bench) -> EarsData:
    return prepared_ears_data(folder / "own", PairDataset(toy_bench, "train"), "own")


def ears_config(**changes: Any) -> configs.EarsTrainingConfig:
    return replace(configs.EarsTrainingConfig(preset="everyday-tiny", loop=LOOP), **changes)


def decoder_config(eyes: Eyes, **changes: Any) -> configs.DecoderConfig:
    return replace(configs.DecoderConfig(preset="tiny", eyes=eyes.sha256, loop=LOOP), **changes)


def flow_config(**changes: Any) -> configs.FlowTrainingConfig:
    return replace(configs.FlowTrainingConfig(preset="tiny", loop=LOOP), **changes)


def trained(task: Task, run: Path, config: Any) -> Path:
    assert fit(task, run, LOOP, to_dict(config))
    return run


def flow_pairs(embedding_size: int = 16) -> FlowPairs:
    rng = torch.Generator().manual_seed(2)
    return FlowPairs(
        embeddings=torch.randn(1, 8, embedding_size, generator=rng).half(),
        latents=torch.randn(1, 8, 4, 6, 6, generator=rng).half(),
        rows=torch.stack([torch.arange(8)] * 2, dim=1),
    )


def test_a_second_has_its_own_frame_and_a_video_has_many(
    own: EarsData, folder: Path, toy_bench: Bench
) -> None:
    pairs = PairDataset(toy_bench, "train")
    photos = pairs.photos()
    for row in range(len(pairs)):
        second = own.pair_second[[row]]
        assert np.array_equal(own.mels(second, np.array([3]))[0], pairs.mel(row))
        assert np.array_equal(photos[own.pair_photo[row]], pairs.image(row).transpose(2, 0, 1))
        same = own.pair_photo[own.pair_recording == own.pair_recording[row]]
        assert set(own.photos_of[own.pair_recording[row]]) == set(same)
    assert own.photos.shape == (2, len(photos), 1280)
    assert own.waveforms == 0
    assert len(set(own.pair_recording)) == len(set(pairs.numbers()[:, 1]))
    # Pairs that are named twice count twice and are seen once.
    twice = prepared_ears_data(folder / "own", PairDataset([toy_bench] * 2, "train"), "own")
    assert len(twice.pair_second) == 2 * len(own.pair_second)
    assert np.array_equal(twice.spectrograms, own.spectrograms)
    assert np.array_equal(np.unique(twice.pair_photo), np.unique(own.pair_photo))


def test_two_sets_are_numbered_one_after_the_other(
    own: EarsData, folder: Path, toy_everyday: Everyday, toy_bench: Bench
) -> None:
    everyday = open_ears_data(
        folder / "bank", toy_everyday, toy_bench, configs.BankConfig(copies=1)
    )
    both = joined(everyday, own)
    pairs, first = len(everyday.pair_second), np.zeros(1, np.int64)
    for row in (0, pairs - 1):
        seconds = both.pair_second[[row]]
        assert np.array_equal(both.mels(seconds, first), everyday.mels(seconds, first))
    for row in (0, len(own.pair_second) - 1):
        mine = both.mels(both.pair_second[[pairs + row]], first)
        assert np.array_equal(mine, own.mels(own.pair_second[[row]], first))
        photo = both.pair_photo[pairs + row]
        assert np.array_equal(both.photos[:, photo], own.photos[:, own.pair_photo[row]])
        assert photo in both.photos_of[both.pair_recording[pairs + row]]
    assert not set(both.pair_recording[pairs:]) & {*both.pair_recording[:pairs]}
    task = EarsTask(ears_config(alone=0.25, bank=configs.BankConfig(copies=1)), both)
    assert "alone" in task.step(0, step_rng(0, 0))


def test_ears_learn_from_prepared_pairs(own: EarsData) -> None:
    config = ears_config(
        learning_rate=1e-2, mixed=0.0, average=0.5, last_layer=0.0,
        loop=replace(LOOP, steps=60, batch_size=16),
    )  # fmt: skip
    task = EarsTask(config, own)
    losses = [float(task.step(step, step_rng(0, step))["loss"]) for step in range(60)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.2


def test_a_flow_is_fed_from_prepared_pairs(
    own: EarsData, tmp_path: Path, eyes: Eyes, toy_bench: Bench
) -> None:
    photos = PairDataset(toy_bench, "train").photos()
    heard = trained(EarsTask(ears_config(), own), tmp_path / "ears", ears_config())
    config = decoder_config(eyes)
    drawn = trained(
        DecoderTask(config, torch.from_numpy(photos), eyes), tmp_path / "decoder", config
    )
    told: list[str] = []

    def opened(data: EarsData, encoder: Path = heard) -> FlowPairs:
        told.clear()
        return flow_pairs_of(
            tmp_path, data, encoder, drawn, lambda: photos, seed=0,
            tell=lambda what, *_: told.append(what),
        )  # fmt: skip

    pairs = opened(own)
    assert {*told} == {"photos encoded", "sounds embedded"}
    assert pairs.embeddings.shape[1:] == (len(own.spectrograms), 16)
    assert pairs.latents.shape[1:] == (len(photos), 4, 6, 6)
    assert pairs.rows.tolist() == np.stack([own.pair_second, own.pair_photo], axis=1).tolist()
    # Copies of a spectrogram differ: other backgrounds, fewer bands.
    assert not torch.equal(pairs.embeddings[0], pairs.embeddings[1])
    FlowTask(flow_config(), pairs, runs=(heard, drawn)).step(0, step_rng(0, 0))
    # They are kept, and made anew when something changed: photos are encoded once, sounds for each
    # of their encoders and of the seconds that are named.
    again = opened(own)
    assert not told
    assert again.digest == pairs.digest
    assert torch.equal(again.embeddings, pairs.embeddings)
    other = opened(
        own,
        trained(
            EarsTask(ears_config(learning_rate=1.0), own),
            tmp_path / "more",
            ears_config(init="other"),
        ),
    )
    assert {*told} == {"sounds embedded"}
    assert other.digest != pairs.digest
    order = np.array([7, 3, 7])
    few = opened(replace(own, pair_second=order, pair_photo=np.array([0, 1, 1])))
    assert {*told} == {"sounds embedded"}
    # Second 3 comes first, second 7 next.
    assert few.rows.tolist() == [[1, 0], [0, 1], [1, 1]]


def same(task: torch.nn.Module, path: Path) -> None:
    """A network has the very weights of a file, where these are rounded to fp16 and where not."""
    for name, tensor in read_tensors(path)[0].items():
        assert torch.equal(task.state_dict()[name], tensor.to(task.state_dict()[name].dtype))


def other_eyes(path: Path) -> None:
    tensors, about = read_tensors(path)
    save_weights(path, tensors, {**about, "eyes": "0" * 64})


def test_ears_start_from_finished_weights_of_their_sizes_and_eyes(
    own: EarsData, tmp_path: Path
) -> None:
    run = trained(EarsTask(ears_config(), own), tmp_path / "ears", ears_config())
    again = EarsTask(configs.fine_tuned(ears_config(), "x"), own, start=Pretrained(run))
    same(again.network.ears, run / "encoder.safetensors")
    same(again.network.picture, run / "picture_encoder.safetensors")
    with pytest.raises(DataError, match="other sizes"):
        EarsTask(ears_config(preset="everyday"), own, start=Pretrained(run))
    other_eyes(run / "picture_encoder.safetensors")
    with pytest.raises(DataError, match="other eyes"):
        EarsTask(ears_config(), own, start=Pretrained(run))


def test_a_decoder_starts_from_finished_weights_of_its_eyes(
    tmp_path: Path, eyes: Eyes, toy_bench: Bench
) -> None:
    photos = torch.from_numpy(PairDataset(toy_bench, "train").photos())
    config = decoder_config(eyes)
    run = trained(DecoderTask(config, photos, eyes), tmp_path / "decoder", config)
    tuned = replace(configs.fine_tuned(config, "x"), loop=LOOP)
    task = DecoderTask(tuned, photos, eyes, start=Pretrained(run))
    same(task.encoder, run / "latent_encoder.safetensors")
    same(task.decoder, run / "latent_decoder.safetensors")
    same(task.ema.average, run / "latent_decoder.safetensors")
    # The encoder stays what flows know, and the discriminator speaks at once.
    assert "adversarial" in task.step(0, step_rng(0, 0))
    same(task.encoder, run / "latent_encoder.safetensors")
    other_eyes(run / "latent_encoder.safetensors")
    with pytest.raises(DataError, match="other eyes"):
        DecoderTask(config, photos, eyes, start=Pretrained(run))


def test_a_flow_starts_from_finished_weights_or_from_what_taught_a_copy(tmp_path: Path) -> None:
    def task(start: Path | None = None) -> FlowTask:
        config = flow_config() if start is None else configs.fine_tuned(flow_config(), "x")
        given = None if start is None else Pretrained(start)
        return FlowTask(config, flow_pairs(), runs=(tmp_path, tmp_path), start=given)

    run, few = trained(task(), tmp_path / "flow", flow_config()), tmp_path / "few"
    same(task(run).flow, run / "flow.safetensors")
    network, about = load_flow(run)
    save_weights(few / "flow.safetensors", network, {**about, "times": [0.0, 1.0]})
    with pytest.raises(DataError, match="copy in few steps"):
        task(few)
    save_weights(few / f"{TAUGHT_BY}.safetensors", network, about)
    same(task(few).flow, run / "flow.safetensors")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: flow_pairs(12), "takes embeddings of 16 numbers .* gives 12"),
        (lambda: replace(flow_pairs(), latents=torch.zeros(1, 8, 6, 6, 6)), "decoder 6"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(
    tmp_path: Path, make: Callable[[], FlowPairs], words: str
) -> None:
    with pytest.raises(DataError, match=words) as error:
        FlowTask(flow_config(), make(), runs=(tmp_path, tmp_path))
    assert "\n" not in str(error.value)


def test_micro_batches_are_told_their_own_sounds() -> None:
    """In one piece or in two: of two micro-batches each leaves out its own embeddings."""

    def first_loss(accumulate: int) -> Tensor:
        loop = replace(LOOP, accumulate=accumulate)
        task = FlowTask(flow_config(loop=loop, left_out=0.5), flow_pairs(), runs=(Path(), Path()))
        seen: list[Tensor] = []
        inner = task.flow.forward

        def forward(way: Tensor, time: Tensor, embedding: Tensor, known: Tensor) -> Tensor:
            seen.append(known)
            return inner(way, time, embedding, known)

        task.flow.forward = forward  # type: ignore[method-assign, assignment]
        task.step(0, step_rng(0, 0))
        return torch.stack(seen)

    halves = first_loss(2)
    assert halves.shape == (2, 4)
    assert not torch.equal(halves[0], halves[1])
