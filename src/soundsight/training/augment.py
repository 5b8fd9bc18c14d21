"""Augmentation of log-mels and of pictures, on tensors, differentiable where a GAN needs it.

Every function draws from the ``torch.Generator`` it is given (on the CPU), so that a step's
randomness is a function of (seed, rank, step).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from soundsight.media.mel import DEFAULT


def _uniform(n: int, low: float, high: float, like: Tensor, rng: Generator) -> Tensor:
    draws = torch.rand(n, generator=rng) * (high - low) + low
    return draws.to(like.device, like.dtype)


def augment_mel(
    mel: Float[Tensor, "n 1 128 100"],
    rng: Generator,
    *,
    shift_frames: int = 20,
    gain: float = 0.15,
    masks: int = 2,
    mask_frames: int = 15,
) -> Float[Tensor, "n 1 128 100"]:
    """Time shift, gain and SpecAugment masks (Park et al. 2019).

    Args:
        shift_frames: largest shift either way, 10 ms each; what leaves one end enters the other.
        gain: largest level change, as a share of the whole range.
        masks: masks along each axis; a masked point is quiet (-1).
        mask_frames: most frames a mask covers; it covers 16 bands at most.
    """
    n, _, bands, frames = mel.shape
    shift = torch.randint(-shift_frames, shift_frames + 1, (n, 1), generator=rng).to(mel.device)
    columns = (torch.arange(frames, device=mel.device)[None] - shift) % frames
    mel = mel.gather(3, columns[:, None, None, :].expand(n, 1, bands, frames))
    # Quiet stays quiet: only what is above the floor is scaled, as a change of dB range would.
    mel = ((mel + 1.0) * (1.0 + _uniform(n, -gain, gain, mel, rng))[:, None, None, None]) - 1.0
    for axis, size, most in ((2, bands, 16), (3, frames, mask_frames)):
        for _ in range(masks):
            width = torch.rand(n, generator=rng) * most
            start = torch.rand(n, generator=rng) * (size - width)
            place = torch.arange(size, dtype=torch.float32)[None]
            hit = (place >= start[:, None]) & (place < (start + width)[:, None])
            shape = (n, 1, size, 1) if axis == 2 else (n, 1, 1, size)
            mel = mel.masked_fill(hit.reshape(shape).to(mel.device), -1.0)
    return mel.clamp(-1.0, 1.0)


def add_background(
    mel: Float[Tensor, "n 1 128 100"],
    rng: Generator,
    *,
    sounds: float = 0.0,
    noise: float = 0.0,
    tilt: float = 0.0,
) -> Float[Tensor, "n 1 128 100"]:
    """Put other sounds and steady noise behind sounds, and another microphone before them.

    Powers are added, as in air. An other sound is one of the batch, 10 to 30 dB lower; noise has a
    slope of at most 10 dB either way over the bands and lies 8 to 38 dB below full scale.

    Args:
        mel: in [-1, 1], -1 for the range of a log-mel below full scale and less.
        sounds: share of the sounds that get another one behind them.
        noise: share of the sounds that get noise behind them.
        tilt: standard deviation of a smooth curve over the bands that is added to what sounds, as
            a share of half the range: another microphone, another room.
    """
    range_db = DEFAULT.range_db
    n, _, bands, _ = mel.shape
    if tilt:
        bends = torch.randn(n, 1, 5, generator=rng) * tilt
        curve = F.interpolate(bends, size=bands, mode="linear", align_corners=True)
        curve = curve.transpose(1, 2)[:, None].to(mel.device, mel.dtype)
        # What is silent stays silent under any microphone.
        mel = torch.where(mel > -1.0, mel + curve, mel).clamp(-1.0, 1.0)
    if not sounds and not noise:
        return mel

    def level(low_db: float, high_db: float) -> Tensor:
        return 10.0 ** (_uniform(n, low_db, high_db, mel, rng) / 10.0)[:, None, None, None]

    def chosen(share: float) -> Tensor:
        return (torch.rand(n, generator=rng) < share).to(mel.device)[:, None, None, None]

    power = 10.0 ** ((mel - 1.0) * (range_db / 20.0))
    other = power[torch.randperm(n, generator=rng).to(mel.device)] * level(-30.0, -10.0)
    power = torch.where(chosen(sounds), power + other, power)
    slope = _uniform(n, -10.0, 10.0, mel, rng)[:, None] * torch.linspace(-1.0, 1.0, bands).to(mel)
    steady = 10.0 ** (slope / 10.0)[:, None, :, None] * level(-38.0, -8.0)
    grain = (torch.rand(mel.shape, generator=rng) * 0.6 + 0.7).to(mel.device, mel.dtype)
    power = torch.where(chosen(noise), power + steady * grain, power)
    db = 10.0 * torch.log10(power.clamp(min=1e-12))
    return (db * (2.0 / range_db) + 1.0).clamp(-1.0, 1.0)


def narrow_band(
    mel: Float[Tensor, "n 1 128 100"], rng: Generator, share: float, rows: tuple[int, int]
) -> Float[Tensor, "n 1 128 100"]:
    """Darken the highest bands of a share of the sounds, as a lower sample rate would.

    ``rows`` are the fewest and most bands that are lost, from the top. What is left is scaled up by
    some of what it lacks to full scale: the loudest point may have lain in what is gone.
    """
    n, _, bands, _ = mel.shape
    lost = torch.randint(rows[0], rows[1] + 1, (n,), generator=rng)
    lost = torch.where(torch.rand(n, generator=rng) < share, lost, 0)
    dark = torch.arange(bands)[None] < lost[:, None]
    mel = mel.masked_fill(dark[:, None, :, None].to(mel.device), -1.0)
    lack = (1.0 - mel.amax(dim=(1, 2, 3))) * _uniform(n, 0.0, 1.0, mel, rng)
    lift = torch.where((lost > 0).to(mel.device), lack, 0.0)[:, None, None, None]
    return torch.where(mel > -1.0, mel + lift, mel)


def augment_image(
    image: Float[Tensor, "n 3 h w"],
    rng: Generator,
    *,
    flip: bool = True,
    zoom: float = 0.2,
    shift: float = 0.1,
    colour: float = 0.3,
    side: int | None = None,
) -> Float[Tensor, "n 3 s t"]:
    """Flip, zoom, shift, brightness, saturation and contrast; differentiable (Zhao et al. 2020).

    Args:
        flip: mirror left and right half of the time.
        zoom: pictures are enlarged by up to this share.
        shift: largest shift either way, as a share of the side; edges are mirrored in.
        colour: strength of the three colour changes; 0 leaves colours alone.
        side: of the square picture that is returned; None for the size that it has.
    """
    n = len(image)
    height, width = image.shape[2:] if side is None else (side, side)
    sign = torch.ones(n)
    if flip:
        sign = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    scale = 1.0 / (1.0 + torch.rand(n, generator=rng) * zoom)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = sign * scale, scale
    theta[:, :, 2] = (torch.rand(n, 2, generator=rng) * 2 - 1) * shift * 2
    grid = F.affine_grid(
        theta.to(image.device, image.dtype), [n, image.shape[1], height, width], align_corners=False
    )
    image = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
    return augment_colour(image, rng, colour) if colour else image


def augment_colour(
    image: Float[Tensor, "n 3 h w"], rng: Generator, colour: float
) -> Float[Tensor, "n 3 h w"]:
    """Change brightness, saturation and contrast; differentiable, not clipped."""
    n = len(image)
    image = image + _uniform(n, -colour, colour, image, rng)[:, None, None, None]
    for axes in (1, (1, 2, 3)):
        mean = image.mean(dim=axes, keepdim=True)
        factor = _uniform(n, 1 - colour, 1 + colour, image, rng)[:, None, None, None]
        image = mean + (image - mean) * factor
    return image


def diff_augment(
    image: Float[Tensor, "n 3 h w"], rng: Generator, *, colour: float = 0.3
) -> Float[Tensor, "n 3 h w"]:
    """Whole-pixel shift (an eighth at most; zeros come in) and colour, the light policy of GANs.

    Real and generated pictures go through the same policy, in the steps of both networks
    (DiffAugment, Zhao et al. 2020).
    """
    n, _, height, width = image.shape
    image = augment_colour(image, rng, colour)
    up, left = height // 8, width // 8
    padded = F.pad(image, (left, left, up, up))
    tops = torch.randint(0, 2 * up + 1, (n,), generator=rng).tolist()
    lefts = torch.randint(0, 2 * left + 1, (n,), generator=rng).tolist()
    # Slices are copied row by row; indexing by tensors gathers number by number and is slower.
    return torch.stack(
        [
            one[:, top : top + height, begin : begin + width]
            for one, top, begin in zip(padded, tops, lefts, strict=True)
        ]
    )
