"""Augmentations keep shape and range, depend on their generator alone, and let gradients pass."""

from __future__ import annotations

import torch

from soundsight.training.augment import (
    add_background,
    augment_image,
    augment_mel,
    diff_augment,
    narrow_band,
)
from soundsight.training.trainer import Ema


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmented_mels_stay_in_range_and_silence_stays_silent() -> None:
    mel = torch.rand(4, 1, 128, 100, generator=rng()) * 2 - 1
    out = augment_mel(mel, rng(1))
    assert out.shape == mel.shape
    assert float(out.min()) >= -1
    assert float(out.max()) <= 1
    assert not torch.equal(out, mel)
    assert torch.equal(out, augment_mel(mel, rng(1)))
    silence = torch.full((2, 1, 128, 100), -1.0)
    assert torch.equal(augment_mel(silence, rng(2)), silence)


def test_backgrounds_add_powers() -> None:
    mel = torch.full((2, 1, 128, 100), -1.0)
    mel[0] = 1.0  # full scale
    mel[1, :, 40:60] = 0.0  # 25 dB below it
    out = add_background(mel, rng(1), sounds=1.0)
    # Each stands 10 to 30 dB lower behind the other, if it is not behind itself.
    levels = (out[1, 0, :40] - 1.0) * 25.0
    moved = bool((levels > -50.0).any())
    assert not moved or (float(levels.min()) >= -30.0 and float(levels.max()) <= -10.0)
    assert any(
        bool((add_background(mel, rng(s), sounds=1.0)[1, 0, :40] > -1.0).all()) for s in range(8)
    )
    # A sound of the same power behind a sound is 3 dB more; 10 dB lower, less than half a dB.
    assert float(out[0].max()) == 1.0
    both = add_background(mel[1:], rng(2), sounds=1.0)
    raised = (both - mel[1:])[0, 0, 40:60] * 25.0
    assert 0.0 < float(raised.min()) <= float(raised.max()) < 0.45


def test_noise_lies_under_everything_and_a_microphone_leaves_silence_alone() -> None:
    silence = torch.full((8, 1, 128, 100), -1.0)
    noisy = add_background(silence, rng(3), noise=1.0)
    levels = (noisy - 1.0) * 25.0
    assert float(levels.min()) >= -50.0
    assert float(levels.mean()) > -49.0
    assert float(levels.max()) <= 2.2 + 0.001
    assert torch.equal(add_background(silence, rng(4), tilt=0.5), silence)
    tone = silence.clone()
    tone[:, :, 60:70] = 0.0
    tilted = add_background(tone, rng(5), tilt=0.2)
    assert not torch.equal(tilted, tone)
    assert torch.equal(tilted[:, :, :60], tone[:, :, :60])
    assert torch.equal(add_background(tone, rng(6)), tone)


def test_a_shift_moves_sound_and_loses_none() -> None:
    mel = torch.full((1, 1, 128, 100), -1.0)
    mel[..., 50] = 0.0
    out = augment_mel(mel, rng(3), gain=0.0, masks=0)
    assert int((out > -1).sum()) == 128
    where = int((out[0, 0, 0] > -1).nonzero())
    assert abs(where - 50) <= 20


def test_diff_augment_moves_whole_pixels_and_brings_in_zeros() -> None:
    image = torch.rand(3, 3, 32, 32, generator=rng()) + 2.0
    out = diff_augment(image, rng(5), colour=0.0)
    inside = out[out != 0]
    assert out.shape == image.shape
    assert torch.isin(inside, image).all()
    assert (out == 0).any()


def test_gradients_pass_through() -> None:
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    diff_augment(image, rng()).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    image.grad = None
    augment_image(image, rng()).square().sum().backward()
    assert image.grad.abs().sum() > 0


def test_image_augmentation_without_strength_is_the_identity() -> None:
    image = torch.rand(2, 3, 96, 96) * 2 - 1
    out = augment_image(image, rng(), flip=False, zoom=0.0, shift=0.0, colour=0.0)
    torch.testing.assert_close(out, image, atol=1e-4, rtol=0)


def test_ema_trails_its_network() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    ema = Ema(network, decay=0.5)
    torch.nn.init.ones_(network.weight)
    expected = 0.0
    for step in range(4):
        ema.update(network, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay)
    assert float(ema.average.weight.detach()) == torch.tensor(expected).float()


def test_narrow_band_darkens_the_top_and_lifts_the_rest() -> None:
    mel = torch.full((40, 1, 128, 100), -1.0)
    mel[:, :, 100:] = 0.0
    mel[:, :, :10] = 1.0
    narrow = narrow_band(mel, rng(), 0.5, (20, 40))
    lost = narrow[:, 0, :10].amax(dim=(1, 2)) == -1.0
    assert 8 < int(lost.sum()) < 32
    assert torch.equal(narrow[~lost], mel[~lost])
    assert (narrow[lost, 0, 100:] >= 0.0).all()
    assert float(narrow[lost, 0, 100:].max()) > 0.5
    assert (narrow[lost, 0, 20:100] == -1.0).all()
