"""Decoder, flow and few-step copy: each learns, resumes, and leaves its files."""

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
from soundsight.core.errors import ConfigError, DataError
from soundsight.models.ears import EarsConfig, PictureProjection, ears_preset
from soundsight.models.eyes import POOLED_SIZE, Eyes
from soundsight.training.align import AlignTask
from soundsight.training.checkpoints import network_config, read_tensors, save_weights
from soundsight.training.configs import (
    AlignConfig,
    DecoderConfig,
    DistilConfig,
    FlowTrainingConfig,
    LoopConfig,
)
from soundsight.training.decoder import DecoderTask, load_latent_decoder, load_latent_encoder
from soundsight.training.fine_tuning import LATENT_DECODER, LATENT_ENCODER, PICTURE_ENCODER
from soundsight.training.flow import DistilTask, FlowTask, load_flow, load_flow_generator
from soundsight.training.flow_data import FlowPairs, encode_cuts, open_flow_pairs
from soundsight.training.trainer import Task, fit, step_rng


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return Eyes.load("lite0")


def photos(n: int = 8) -> Tensor:
    """Blots of colour, uint8 [n, 3, 96, 96]."""
    rng = torch.Generator().manual_seed(1)
    small = torch.rand(n, 3, 4, 4, generator=rng)
    return (torch.nn.functional.interpolate(small, size=(96, 96), mode="bilinear") * 255).byte()


def loop(steps: int, batch_size: int = 4) -> LoopConfig:
    return LoopConfig(
        steps=steps, batch_size=batch_size, log_every=1, checkpoint_every=1, picture_every=2
    )


def decoder_config(steps: int = 6, **changes: Any) -> DecoderConfig:
    values = {"preset": "tiny", "sharpen_from": 2, "frozen_from": 4, "warm_up": 0, **changes}
    return DecoderConfig(eyes=Eyes.load("lite0").sha256, loop=loop(steps), **values)


def flow_pairs() -> FlowPairs:
    """Two kinds of sounds, each with photos whose latent pictures lie elsewhere."""
    rng = torch.Generator().manual_seed(2)
    sign = torch.tensor([1.0, -1.0]).repeat_interleave(6)
    embeddings = torch.randn(2, 12, 16, generator=rng) * 0.1 + sign[None, :, None]
    latents = torch.randn(2, 12, 4, 6, 6, generator=rng) * 0.1 + sign[None, :, None, None, None]
    rows = torch.stack([torch.arange(12), torch.arange(12)], dim=1)
    return FlowPairs(embeddings=embeddings.half(), latents=latents.half(), rows=rows, digest="d")


def flow_config(steps: int = 4, **changes: Any) -> FlowTrainingConfig:
    return FlowTrainingConfig(preset="tiny", warm_up=1, loop=loop(steps, 6), **changes)


def trained(run: Path, task: Task, loop_config: LoopConfig, config: Any) -> None:
    assert fit(task, run, loop_config, to_dict(config))


@pytest.fixture
def decoder_run(tmp_path: Path, eyes: Eyes) -> Path:
    config = decoder_config()
    trained(tmp_path / "decoder", DecoderTask(config, photos(), eyes), config.loop, config)
    return tmp_path / "decoder"


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


def resumed(tmp_path: Path, make: Callable[[int], tuple[Task, LoopConfig, Any]]) -> None:
    """Two runs of the same steps, one of them stopped half-way, end in the same weights."""
    task, loops, config = make(0)
    trained(tmp_path / "whole", task, loops, config)
    stopped, loops, config = make(0)
    assert not fit(stopped, tmp_path / "parts", loops, to_dict(config), max_time_s=0.0)
    again, _, _ = make(0)
    trained(tmp_path / "parts", again, loops, config)
    for path in (tmp_path / "whole").glob("*.safetensors"):
        if path.stem == "checkpoint":
            continue
        whole, parts = (read_tensors(tmp_path / run / path.name)[0] for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole), path.name


def test_a_stopped_decoder_goes_on_to_the_same_weights(tmp_path: Path, eyes: Eyes) -> None:
    config = decoder_config()
    resumed(tmp_path, lambda _: (DecoderTask(config, photos(), eyes), config.loop, config))


def test_a_finished_decoder_leaves_both_networks(decoder_run: Path, eyes: Eyes) -> None:
    encoder, _ = load_latent_encoder(decoder_run, eyes)
    decoder, about = load_latent_decoder(decoder_run)
    assert about["eyes"] == eyes.sha256
    latents = encode_cuts(encoder, eyes, photos(), seed=0, tell=lambda *_: None)
    assert latents.shape[1:] == (8, 4, 6, 6)
    # Of a run in bfloat16 they are encoded in that arithmetic.
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encode_cuts(encoder, eyes, photos(), seed=0, tell=lambda *_: None)
    pairs = torch.stack([latents.flatten(), rounded.flatten()]).float()
    assert torch.corrcoef(pairs)[0, 1] > 0.95
    assert decoder(latents[0].float()).shape == (8, 3, 96, 96)
    assert (decoder_run / "pictures" / "step-0000006.png").is_file()


def test_latent_pictures_of_other_eyes_are_refused(decoder_run: Path, eyes: Eyes) -> None:
    encoder, about = load_latent_encoder(decoder_run, eyes)
    save_weights(
        decoder_run / f"{LATENT_ENCODER}.safetensors", encoder, {**about, "eyes": "0" * 64}
    )
    with pytest.raises(DataError, match="other eyes"):
        load_latent_encoder(decoder_run, eyes)


def test_a_decoder_of_other_sizes_is_refused(decoder_run: Path) -> None:
    decoder, about = load_latent_decoder(decoder_run)
    network = {**about["network"], "latent_maps": 5}
    save_weights(
        decoder_run / f"{LATENT_DECODER}.safetensors", decoder, {**about, "network": network}
    )
    with pytest.raises(DataError, match="other sizes"):
        load_latent_decoder(decoder_run)


def encoder_run(tmp_path: Path) -> Path:
    """What stands in for a run of the ears: the flow copies its weights as they are."""
    save_weights(tmp_path / "ears" / "encoder.safetensors", torch.nn.Linear(2, 2), {"kind": "ears"})
    return tmp_path / "ears"


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


def test_a_stopped_flow_goes_on_to_the_same_weights(tmp_path: Path, decoder_run: Path) -> None:
    config, ears = flow_config(), encoder_run(tmp_path)
    runs = (ears, decoder_run)
    resumed(tmp_path, lambda _: (FlowTask(config, flow_pairs(), runs=runs), config.loop, config))


def test_a_copy_in_few_steps_goes_where_guidance_goes(tmp_path: Path, decoder_run: Path) -> None:
    ears = encoder_run(tmp_path)
    config = flow_config(steps=60, rate=3e-3)
    run = tmp_path / "flow"
    trained(run, FlowTask(config, flow_pairs(), runs=(ears, decoder_run)), config.loop, config)
    flow, about = load_flow(run)
    few = DistilConfig(
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
    trained(tmp_path / "few", DistilTask(few, flow_pairs(), flow, run=run), few.loop, few)
    copy, told = load_flow(tmp_path / "few")
    assert tuple(told["times"]) == few.times
    with torch.no_grad():
        after = copy.draw(embedding, noise, times=few.times)
    assert (after - wanted).square().mean() < 0.5 * (before - wanted).square().mean()
    generator = load_flow_generator(tmp_path / "few")
    assert generator.guidance == 1.0
    assert generator.times == few.times
    assert generator(embedding[:2], noise[:2]).shape == (2, 3, 96, 96)


def test_times_may_lie_denser_at_the_beginning() -> None:
    assert DistilConfig(steps=4).times == (0.0, 0.25, 0.5, 0.75, 1.0)
    shifted = DistilConfig(steps=2, shift=3.0).times
    assert shifted == pytest.approx((0.0, 0.25, 1.0))


def test_flow_pairs_are_kept_and_made_anew_when_something_changed(tmp_path: Path) -> None:
    made: list[int] = []

    def embeddings(distinct: np.ndarray) -> Tensor:
        made.append(len(distinct))
        return torch.arange(len(distinct), dtype=torch.float16)[None, :, None].expand(1, -1, 16)

    def latents() -> Tensor:
        made.append(-1)
        return torch.zeros(1, 2, 4, 6, 6).half()

    def opened(encoder: str) -> FlowPairs:
        return open_flow_pairs(
            tmp_path, {"encoder": encoder}, {"decoder": "d"}, np.array([7, 3, 7]),
            np.array([0, 1, 1]), embeddings, latents,
        )  # fmt: skip

    first, again, other = opened("a"), opened("a"), opened("b")
    # Photos are encoded once, sounds for each of their encoders.
    assert made == [-1, 2, 2]
    # Second 3 comes first, second 7 next.
    assert first.rows.tolist() == again.rows.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert first.digest == again.digest != other.digest


@pytest.mark.parametrize(
    "make",
    [
        lambda: DecoderConfig(preset="huge"),
        lambda: DecoderConfig(rate=0.0),
        lambda: DecoderConfig(kl_weight=-1.0),
        lambda: FlowTrainingConfig(left_out=1.0),
        lambda: FlowTrainingConfig(cool_down=2.0),
        lambda: DistilConfig(steps=0),
        lambda: DistilConfig(guidance=0.0),
        lambda: AlignConfig(preset="huge"),
        lambda: AlignConfig(zoom=-1.0),
        lambda: AlignConfig(ema_decay=1.0),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()


def test_the_rate_rises_stays_and_falls() -> None:
    config = replace(flow_config(100), warm_up=10, cool_down=0.2, rate=1.0)
    assert config.rate_at(0) == pytest.approx(0.1)
    assert config.rate_at(50) == 1.0
    assert config.rate_at(90) == pytest.approx(0.5)


def picture_projection(run: Path, eyes: Eyes, embedding_size: int = 16) -> None:
    """The ears' photo projection, as a run of ears leaves it."""
    sizes = replace(ears_preset("everyday-tiny"), embedding_size=embedding_size)
    about = {"network": to_dict(sizes), "temperature": 0.07, "eyes": eyes.sha256}
    torch.manual_seed(3)
    save_weights(run / f"{PICTURE_ENCODER}.safetensors", PictureProjection(sizes), about)


@pytest.fixture
def flow_run(tmp_path: Path, decoder_run: Path) -> Path:
    """A flow with many steps."""
    config = flow_config()
    task = FlowTask(config, flow_pairs(), runs=(encoder_run(tmp_path), decoder_run))
    trained(tmp_path / "flow", task, config.loop, config)
    return tmp_path / "flow"


@pytest.fixture
def few_steps_run(flow_run: Path, tmp_path: Path, eyes: Eyes) -> Path:
    """A few-step copy, with decoder and photo projection beside it."""
    picture_projection(flow_run, eyes)
    config = DistilConfig(steps=2, substeps=1, loop=loop(1, 6))
    task = DistilTask(config, flow_pairs(), load_flow(flow_run)[0], run=flow_run)
    trained(tmp_path / "few", task, config.loop, config)
    return tmp_path / "few"


def align_config(steps: int = 4, **changes: Any) -> AlignConfig:
    values = {"preset": "tiny", "ahead": 1, "warm_up": 0, "others": 6, **changes}
    return AlignConfig(loop=loop(steps), **values)


def aligner(config: AlignConfig, eyes: Eyes, run: Path) -> AlignTask:
    return AlignTask(config, flow_pairs(), photos(12), eyes, run=run)


def test_pictures_come_to_agree_with_their_sounds(few_steps_run: Path, eyes: Eyes) -> None:
    config = align_config(steps=40, ahead=0, rate=1e-3, adversarial_weight=0.0, nearness_weight=0.0,
                          likeness_weight=0.0, agreement_weight=1.0, colour_weight=0.0,
                          cool_down=0.0)  # fmt: skip
    task = aligner(config, eyes, few_steps_run)
    # The same batch, noise and views at every step: other batches differ more than it learns.
    agreement = [float(task.step(0, step_rng(0, 0))["agreement"]) for _ in range(40)]
    assert np.mean(agreement[-10:]) < 0.7 * agreement[0]


def test_a_picture_is_told_from_other_photos_by_that_of_its_sound(
    few_steps_run: Path, eyes: Eyes
) -> None:
    task = aligner(align_config(), eyes, few_steps_run)
    part = task._part(torch.arange(4), step_rng(0, 0))
    photos = torch.randn(4, POOLED_SIZE, generator=torch.Generator().manual_seed(0))
    part.number = torch.arange(4)
    own, another = (
        float(task._likeness(part, drawn, photos)) for drawn in (photos, photos.flip(0))
    )
    assert own < 0.1
    assert another > 1.0
    # The same photo with another sound is no negative: nothing is left to be told from.
    part.number = torch.zeros(4, dtype=torch.int64)
    assert float(task._likeness(part, photos.flip(0), photos)) == 0.0


def test_colours_come_back_to_what_they_were(few_steps_run: Path, eyes: Eyes) -> None:
    config = align_config(steps=24, ahead=0, rate=5e-3, adversarial_weight=0.0, nearness_weight=0.0,
                          likeness_weight=0.0, agreement_weight=0.0, colour_weight=1.0,
                          cool_down=0.0)  # fmt: skip
    task = aligner(config, eyes, few_steps_run)
    with torch.no_grad():
        task.decoder.last.bias[2] += 2.0  # all is blue
    colour = [float(task.step(s, step_rng(0, s))["colour"]) for s in range(24)]
    assert np.mean(colour[-5:]) < 0.7 * np.mean(colour[:5])


def test_the_discriminator_of_pictures_learns_ahead(few_steps_run: Path, eyes: Eyes) -> None:
    task = aligner(align_config(), eyes, few_steps_run)
    for step in range(2):
        flow, decoder = ([p.clone() for p in n.parameters()] for n in (task.flow, task.decoder))
        heads = [p.clone() for p in task.discriminator.heads.parameters()]
        scalars = task.step(step, step_rng(0, step))
        assert all(map(torch.equal, flow, task.flow.parameters())) == (step == 0)
        assert all(map(torch.equal, decoder, task.decoder.parameters())) == (step == 0)
        assert not all(map(torch.equal, heads, task.discriminator.heads.parameters()))
        assert ("agreement" in scalars) == (step == 1)


def test_a_stopped_alignment_goes_on_to_the_same_weights(
    tmp_path: Path, few_steps_run: Path, eyes: Eyes
) -> None:
    config = align_config()
    resumed(tmp_path, lambda _: (aligner(config, eyes, few_steps_run), config.loop, config))


def test_an_aligned_run_is_whole_and_draws_in_the_same_steps(
    tmp_path: Path, few_steps_run: Path, eyes: Eyes
) -> None:
    config = align_config()
    trained(tmp_path / "aligned", aligner(config, eyes, few_steps_run), config.loop, config)
    generator = load_flow_generator(tmp_path / "aligned")
    assert generator.times == load_flow_generator(few_steps_run).times
    assert generator.guidance == 1.0
    again = AlignTask(config, flow_pairs(), photos(12), eyes, run=tmp_path / "aligned")
    assert all(map(torch.equal, again.flow.parameters(), generator.flow.parameters()))
    names = {path.name for path in (tmp_path / "aligned").glob("*.safetensors")}
    assert {"many_step_flow.safetensors", "latent_encoder.safetensors"} <= names


def test_only_a_few_step_flow_of_the_same_eyes_is_aligned(
    few_steps_run: Path, flow_run: Path, eyes: Eyes
) -> None:
    with pytest.raises(DataError, match="few-step"):
        aligner(align_config(), eyes, flow_run)
    path = few_steps_run / f"{PICTURE_ENCODER}.safetensors"
    about = read_tensors(path)[1]
    network = PictureProjection(network_config(EarsConfig, path, about))
    save_weights(path, network, {**about, "eyes": "0" * 64})
    with pytest.raises(DataError, match="other eyes"):
        aligner(align_config(), eyes, few_steps_run)
