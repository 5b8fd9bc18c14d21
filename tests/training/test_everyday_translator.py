"""Decoder, flow, few-step copy and alignment: each learns, resumes, and leaves its files."""

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
from soundsight.models.ears import PictureProjection, ears_preset
from soundsight.models.eyes import POOLED_SIZE, Eyes
from soundsight.training import configs
from soundsight.training.align import AlignTask
from soundsight.training.checkpoints import read_tensors, save_weights
from soundsight.training.decoder import DecoderTask, load_latent_decoder, load_latent_encoder
from soundsight.training.flow import (
    DistilTask,
    FlowPairs,
    FlowTask,
    encode_cuts,
    load_flow,
    load_flow_generator,
)
from soundsight.training.trainer import Task, fit, step_rng


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return Eyes.load("lite0")


def photos(n: int = 8) -> Tensor:
    """Blots of colour, uint8 [n, 3, 96, 96]."""
    rng = torch.Generator().manual_seed(1)
    small = torch.rand(n, 3, 4, 4, generator=rng)
    return (torch.nn.functional.interpolate(small, size=(96, 96), mode="bilinear") * 255).byte()


def loop(steps: int, batch_size: int = 4) -> configs.LoopConfig:
    return configs.LoopConfig(
        steps=steps, batch_size=batch_size, log_every=1, checkpoint_every=1, picture_every=2
    )


def decoder_config(steps: int = 6, **changes: Any) -> configs.DecoderConfig:
    values = {"preset": "tiny", "sharpen_from": 2, "frozen_from": 4, "warm_up": 0, **changes}
    return configs.DecoderConfig(eyes=Eyes.load("lite0").sha256, loop=loop(steps), **values)


def flow_pairs() -> FlowPairs:
    """Two kinds of sounds, each with photos whose latent pictures lie elsewhere."""
    rng = torch.Generator().manual_seed(2)
    sign = torch.tensor([1.0, -1.0]).repeat_interleave(6)
    embeddings = torch.randn(2, 12, 16, generator=rng) * 0.1 + sign[None, :, None]
    latents = torch.randn(2, 12, 4, 6, 6, generator=rng) * 0.1 + sign[None, :, None, None, None]
    rows = torch.stack([torch.arange(12), torch.arange(12)], dim=1)
    return FlowPairs(embeddings=embeddings.half(), latents=latents.half(), rows=rows, digest="d")


def flow_config(steps: int = 4, **changes: Any) -> configs.FlowTrainingConfig:
    return configs.FlowTrainingConfig(preset="tiny", warm_up=1, loop=loop(steps, 6), **changes)


def trained(run: Path, task: Any) -> Path:
    assert fit(task, run, task.loop, to_dict(task.config))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, eyes: Eyes) -> Path:
    """Finished runs that no test changes: ``ears`` (files alone), ``decoder``, ``flow``, ``few``.

    ``few`` is a few-step copy of ``flow``; both have the ears' photo projection.
    """
    root = tmp_path_factory.mktemp("parts")
    save_weights(root / "ears" / "encoder.safetensors", torch.nn.Linear(2, 2), {"kind": "ears"})
    sizes = replace(ears_preset("everyday-tiny"), embedding_size=16)
    about = {"network": to_dict(sizes), "temperature": 0.07, "eyes": eyes.sha256}
    torch.manual_seed(3)
    save_weights(root / "ears" / "picture_encoder.safetensors", PictureProjection(sizes), about)
    trained(root / "decoder", DecoderTask(decoder_config(), photos(), eyes))
    flow = FlowTask(flow_config(), flow_pairs(), runs=(root / "ears", root / "decoder"))
    trained(root / "flow", flow)
    few = configs.DistilConfig(steps=2, substeps=1, loop=loop(1, 6))
    network = load_flow(root / "flow")[0]
    trained(root / "few", DistilTask(few, flow_pairs(), network, run=root / "flow"))
    return root


def aligner(eyes: Eyes, run: Path, steps: int = 4, **changes: Any) -> AlignTask:
    values = {"preset": "tiny", "ahead": 1, "warm_up": 0, "others": 6, **changes}
    config = configs.AlignConfig(loop=loop(steps), **values)
    return AlignTask(config, flow_pairs(), photos(12), eyes, run=run)


NOTHING = dict.fromkeys(
    ("adversarial_weight", "nearness_weight", "likeness_weight", "agreement_weight",
     "colour_weight", "cool_down"), 0.0,
)  # fmt: skip
"""An alignment that asks for nothing."""


@pytest.mark.slow
def test_a_decoder_redraws_better_than_it_did(eyes: Eyes) -> None:
    config = decoder_config(steps=80, sharpen_from=80, frozen_from=80, rate=2e-3)
    task = DecoderTask(config, photos(), eyes)
    # The same photos, cut alike at every step: other batches differ more than it learns.
    losses = [float(task.step(0, step_rng(0, 0))["pixels"]) for _ in range(80)]
    assert np.mean(losses[-10:]) < 0.9 * losses[0]


def test_the_discriminator_speaks_and_the_encoder_stays_when_they_should(eyes: Eyes) -> None:
    config = decoder_config()
    task = DecoderTask(config, photos(), eyes)
    for step in range(6):
        encoder = [p.clone() for p in task.encoder.parameters()]
        heads = [p.clone() for p in task.discriminator.heads.parameters()]
        scalars = task.step(step, step_rng(0, step))
        same = all(map(torch.equal, encoder, task.encoder.parameters()))
        assert same == (step >= config.frozen_from)
        silent = all(map(torch.equal, heads, task.discriminator.heads.parameters()))
        assert silent == (step < config.sharpen_from)
        assert ("adversarial" in scalars) == (step >= config.sharpen_from)


@pytest.mark.parametrize("kind", ["decoder", "flow", "align"])
def test_a_stopped_run_goes_on_to_the_same_weights(
    kind: str, tmp_path: Path, runs: Path, eyes: Eyes
) -> None:
    make: Callable[[], Task] = {
        "decoder": lambda: DecoderTask(decoder_config(), photos(), eyes),
        "flow": lambda: FlowTask(
            flow_config(), flow_pairs(), runs=(runs / "ears", runs / "decoder")
        ),
        "align": lambda: aligner(eyes, runs / "few"),
    }[kind]
    trained(tmp_path / "whole", make())
    stopped: Any = make()
    config = to_dict(stopped.config)
    assert not fit(stopped, tmp_path / "parts", stopped.loop, config, max_time_s=0.0)
    trained(tmp_path / "parts", make())
    names = {p.name for p in (tmp_path / "whole").glob("*.safetensors")} - {
        "checkpoint.safetensors"
    }
    assert names
    for name in names:
        whole, parts = (read_tensors(tmp_path / run / name)[0] for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole), name


def test_a_finished_decoder_leaves_both_networks(runs: Path, eyes: Eyes) -> None:
    encoder, _ = load_latent_encoder(runs / "decoder", eyes)
    decoder, about = load_latent_decoder(runs / "decoder")
    assert about["eyes"] == eyes.sha256
    latents = encode_cuts(encoder, eyes, photos(), seed=0, tell=lambda *_: None)
    assert latents.shape[1:] == (8, 4, 6, 6)
    # Of a run in bfloat16 they are encoded in that arithmetic.
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encode_cuts(encoder, eyes, photos(), seed=0, tell=lambda *_: None)
    pairs = torch.stack([latents.flatten(), rounded.flatten()]).float()
    assert torch.corrcoef(pairs)[0, 1] > 0.95
    assert decoder(latents[0].float()).shape == (8, 3, 96, 96)
    assert (runs / "decoder" / "pictures" / "step-0000006.png").is_file()


def changed(run: Path, to: Path, name: str, **about: Any) -> None:
    """Write weights again, with something else beside them."""
    tensors, beside = read_tensors(run / f"{name}.safetensors")
    save_weights(to / f"{name}.safetensors", tensors, {**beside, **about})


def test_weights_of_other_eyes_or_sizes_are_refused(runs: Path, eyes: Eyes, tmp_path: Path) -> None:
    changed(runs / "decoder", tmp_path, "latent_encoder", eyes="0" * 64)
    with pytest.raises(DataError, match="other eyes"):
        load_latent_encoder(tmp_path, eyes)
    network = load_latent_decoder(runs / "decoder")[1]["network"]
    changed(runs / "decoder", tmp_path, "latent_decoder", network={**network, "latent_maps": 5})
    with pytest.raises(DataError, match="other sizes"):
        load_latent_decoder(tmp_path)
    with pytest.raises(DataError, match="few-step"):
        aligner(eyes, runs / "flow")
    for name in ("flow", "latent_decoder"):
        changed(runs / "few", tmp_path, name)
    changed(runs / "few", tmp_path, "picture_encoder", eyes="0" * 64)
    with pytest.raises(DataError, match="other eyes"):
        aligner(eyes, tmp_path)


def test_a_flow_learns_which_latent_pictures_go_with_a_sound(tmp_path: Path) -> None:
    config = flow_config(steps=250, rate=3e-3, ema_decay=0.9)
    task = FlowTask(config, flow_pairs(), runs=(tmp_path, tmp_path))
    losses = [float(task.step(step, step_rng(0, step))["loss"]) for step in range(250)]
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])
    rng = torch.Generator().manual_seed(5)
    told = torch.tensor([1.0, -1.0]).repeat_interleave(8)[:, None].expand(-1, 16)
    noise = torch.randn(16, task.flow.noise_size, generator=rng)
    times = tuple(i / 8 for i in range(9))
    with torch.no_grad():
        drawn = task.ema.average.draw(told, noise, times=times).mean(dim=(1, 2, 3))
    assert drawn[:8].mean() > 0.5
    assert drawn[8:].mean() < -0.5


@pytest.mark.slow
def test_a_copy_in_few_steps_goes_where_guidance_goes(tmp_path: Path, runs: Path) -> None:
    parts = (runs / "ears", runs / "decoder")
    run = trained(
        tmp_path / "flow", FlowTask(flow_config(steps=60, rate=3e-3), flow_pairs(), runs=parts)
    )
    flow, about = load_flow(run)
    few = configs.DistilConfig(
        flow=about["sha256"], steps=2, substeps=4, guidance=3.0, rate=2e-3, ema_decay=0.9,
        loop=loop(80, 12),
    )  # fmt: skip
    rng = torch.Generator().manual_seed(7)
    embedding = torch.tensor([1.0, -1.0]).repeat_interleave(8)[:, None].expand(-1, 16)
    noise = torch.randn(16, flow.noise_size, generator=rng)
    fine = tuple(i / 8 for i in range(9))
    with torch.no_grad():
        wanted = flow.draw(embedding, noise, times=fine, guidance=3.0)
        before = flow.draw(embedding, noise, times=few.times)
    trained(tmp_path / "few", DistilTask(few, flow_pairs(), flow, run=run))
    copy, told = load_flow(tmp_path / "few")
    assert tuple(told["times"]) == few.times
    with torch.no_grad():
        after = copy.draw(embedding, noise, times=few.times)
    assert (after - wanted).square().mean() < 0.5 * (before - wanted).square().mean()
    generator = load_flow_generator(tmp_path / "few")
    assert generator.guidance == 1.0
    assert generator.times == few.times
    assert generator(embedding[:2], noise[:2]).shape == (2, 3, 96, 96)
    assert load_flow_generator(run).guidance == 4.0


@pytest.mark.slow
def test_pictures_come_to_agree_with_their_sounds(runs: Path, eyes: Eyes) -> None:
    asked = {**NOTHING, "agreement_weight": 1.0}
    task = aligner(eyes, runs / "few", 40, ahead=0, rate=1e-3, **asked)
    # The same batch, noise and views at every step: other batches differ more than it learns.
    agreement = [float(task.step(0, step_rng(0, 0))["agreement"]) for _ in range(40)]
    assert np.mean(agreement[-10:]) < 0.7 * agreement[0]


def test_a_picture_is_told_from_other_photos_by_that_of_its_sound(runs: Path, eyes: Eyes) -> None:
    task = aligner(eyes, runs / "few")
    photos = torch.randn(4, POOLED_SIZE, generator=torch.Generator().manual_seed(0))
    number = torch.arange(4)
    assert float(task._likeness(number, photos, photos)) < 0.1
    assert float(task._likeness(number, photos.flip(0), photos)) > 1.0
    # The same photo with another sound is no negative: nothing is left to be told from.
    assert float(task._likeness(torch.zeros_like(number), photos.flip(0), photos)) == 0.0


@pytest.mark.slow
def test_colours_come_back_to_what_they_were(runs: Path, eyes: Eyes) -> None:
    asked = {**NOTHING, "colour_weight": 1.0}
    task = aligner(eyes, runs / "few", 24, ahead=0, rate=5e-3, **asked)
    with torch.no_grad():
        task.decoder.last.bias[2] += 2.0  # all is blue
    colour = [float(task.step(s, step_rng(0, s))["colour"]) for s in range(24)]
    assert np.mean(colour[-5:]) < 0.7 * np.mean(colour[:5])


def test_the_discriminator_of_pictures_learns_ahead(runs: Path, eyes: Eyes) -> None:
    task = aligner(eyes, runs / "few")
    for step in range(2):
        flow, decoder = ([p.clone() for p in n.parameters()] for n in (task.flow, task.decoder))
        heads = [p.clone() for p in task.discriminator.heads.parameters()]
        scalars = task.step(step, step_rng(0, step))
        assert all(map(torch.equal, flow, task.flow.parameters())) == (step == 0)
        assert all(map(torch.equal, decoder, task.decoder.parameters())) == (step == 0)
        assert not all(map(torch.equal, heads, task.discriminator.heads.parameters()))
        assert ("agreement" in scalars) == (step == 1)


def test_an_aligned_run_is_whole_and_draws_in_the_same_steps(
    tmp_path: Path, runs: Path, eyes: Eyes
) -> None:
    run = trained(tmp_path / "aligned", aligner(eyes, runs / "few"))
    generator = load_flow_generator(run)
    assert generator.times == load_flow_generator(runs / "few").times
    assert generator.guidance == 1.0
    again = aligner(eyes, run)
    assert all(map(torch.equal, again.flow.parameters(), generator.flow.parameters()))
    names = {path.name for path in run.glob("*.safetensors")}
    assert {"many_step_flow.safetensors", "latent_encoder.safetensors"} <= names
