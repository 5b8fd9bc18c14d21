"""Pre-cleaning of one pair: measures of its second of sound and of its picture, and the verdict.

A pair is dropped when there is nothing to hear or to see, not when it is merely poor. Every measure
is stored beside the pair, so that another threshold needs no second pass over the videos;
``recipes/cleaning_thresholds.py`` prints what each threshold drops. Pictures are measured at 96
pixels a side, or at their own size where that is smaller.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.core.units import IMAGE_PX
from soundsight.media.mel import DEFAULT

_RULES = {
    "silence": (("rms_dbfs", operator.lt, "silence_dbfs"),
                ("heard_share", operator.lt, "heard_share")),
    "clipping": (("clipped_share", operator.gt, "clipped_share"),),
    "black": (("luma_mean", operator.lt, "black_mean"), ("luma_top", operator.lt, "black_top")),
    "frozen": (("motion", operator.le, "frozen_motion"),),
    "blurred": (("sharpness", operator.lt, "sharpness"),),
    "text": (("text", operator.ge, "text_score"),),
    "cut": (("cut", operator.ge, "cut_score"),),
}  # fmt: skip
"""Step -> any of (measure, how it fails, threshold of ``CleanConfig``)."""

STEPS = tuple(_RULES)
"""The steps in the order in which reasons are named."""

CENTRE = (0.5,)
SPREAD = (0.02, 0.26, 0.5, 0.74, 0.98)
"""Relative times that ``frozen`` and ``cut`` look at. Five, so that a flash (one odd frame with
likeness on both sides) can be told from a cut; just inside the second, so that a cut on its border
counts for neither neighbour."""

Frame = NDArray[np.uint8]
Plane = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """Which steps clean, and from where on each one drops a pair."""

    steps: tuple[str, ...] = STEPS  #: any of ``STEPS``; none keeps every pair
    silence_dbfs: float = -60.0  #: silence is a second under this level, dB re full scale,
    heard_share: float = 0.05  #: or one in which less of the 10-ms frames shows anything, 0..1
    clipped_share: float = 0.03  #: clipping is more of the samples on a plateau, 0..1
    black_mean: float = 5.0  #: black is a mean luma under this level, 0..255,
    black_top: float = 32.0  #: or a 99th percentile of luma under this one (fades)
    frozen_motion: float = 0.5  #: frozen is at most this motion, 0..255: what a codec adds
    sharpness: float = 0.01  #: blurred is a sharpness under this, see ``measure_picture``
    text_score: float = 0.6  #: text is a score of at least this, 0..1
    cut_score: float = 0.2  #: a cut is a score of at least this, 0..1


def frames_needed(config: CleanConfig) -> tuple[float, ...]:
    """Relative times (0 start .. 1 end of the second) of the frames that the steps look at."""
    return SPREAD if {"frozen", "cut"} & set(config.steps) else CENTRE


def reasons(measures: Mapping[str, float], config: CleanConfig) -> tuple[str, ...]:
    """Name the steps that drop a pair, in the order of ``STEPS``; none: the pair is kept.

    Of the measures (``measure_sound`` and ``measure_picture`` together) one that is absent, such as
    the motion of a single frame, drops nothing.
    """
    return tuple(
        step
        for step, rules in _RULES.items()
        if step in config.steps
        and any(
            name in measures and fails(measures[name], getattr(config, limit))
            for name, fails, limit in rules
        )
    )


# --- sound -----------------------------------------------------------------------------------

HEARD_LEVEL = 32
"""A mel frame shows something when a band of it is above this level: 44 dB under the peak."""

_LOUD_PLATEAU = 0.6
_CLIP_BINS = ((50, 6.0), (25, 5.0))
_BELOW_BINS = 7
_QUIETEST_DBFS = -120.0


def measure_sound(
    samples: NDArray[np.float32], mel: NDArray[np.uint8], peak_db: float
) -> dict[str, float]:
    """Measure one second of sound, float32 [t] mono, full scale 1.

    ``mel`` is uint8 [bands, frames], 0 quiet .. 255 loud, ``peak_db`` the level that is drawn as
    255, in decibels of ``media.mel.mel_db``.

    Returns:
        ``rms_dbfs`` (root mean square, dB re full scale, at least -120), ``loudest_db`` (of the
        loudest point, as ``peak_db``), ``heard_share`` (share of frames with a band above
        ``HEARD_LEVEL``) and ``clipped_share`` (share of samples on a plateau).
    """
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    loudest = int(mel.max(initial=0))
    below_db = DEFAULT.range_db * (1.0 - loudest / 255.0)
    return {
        "rms_dbfs": max(_QUIETEST_DBFS, 10.0 * math.log10(max(power, 1e-30))),
        "loudest_db": float(peak_db) - below_db,
        "heard_share": float((mel > HEARD_LEVEL).any(axis=0).mean()) if mel.size else 0.0,
        "clipped_share": clipped_share(samples),
    }


def clipped_share(samples: NDArray[np.float32]) -> float:
    """Share of the samples, float32 [t], on a plateau at the loud end of either sign, 0..1.

    Resampling and lossy codecs make a flat plateau wavy, so equal neighbours are not counted.
    Levels are: those of natural sound get rarer towards the extreme, those of a sine at most 2.4
    times as frequent in the last 2 % as in the 2 % before, and only cut-off waves pile up several
    times higher. Bins of 2 % and of 4 % of the extreme are tried; a plateau under 0.6 of full
    scale is the shape of the sound (a square wave) and none of ours.
    """
    if not len(samples):
        return 0.0
    share = 0.0
    for wave in (samples, -samples):
        top = float(wave.max())
        if top >= _LOUD_PLATEAU:
            share += max(_piled_up(wave, top, bins, factor) for bins, factor in _CLIP_BINS)
    return min(1.0, share / len(samples))


def _piled_up(wave: NDArray[np.float32], top: float, bins: int, factor: float) -> float:
    """Samples on the fullest loud level, where it is ``factor`` times fuller than those below."""
    counts, _ = np.histogram(wave, bins=bins, range=(0.0, top))
    fullest = bins // 2 + int(counts[bins // 2 :].argmax())
    if (fullest + 0.5) / bins * top < _LOUD_PLATEAU:
        return 0.0
    below = float(counts[max(fullest - _BELOW_BINS, 0) : fullest - 2].mean())
    if counts[fullest] <= factor * below:
        return 0.0
    plateau = counts[fullest - 2 :]
    return max(0.0, float(plateau.sum()) - below * len(plateau))


# --- picture ---------------------------------------------------------------------------------

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_BAR_LEVEL = 20.0
_SHARPNESS_FLOOR = 25.0
_MOTION_TILE_PX = 8


def measure_picture(frames: Sequence[Frame], centre: int) -> dict[str, float]:
    """Measure the frames of one second, uint8 [px, px, 3] in time order, of which one is kept.

    Returns:
        Of the kept frame, number ``centre``: ``luma_mean`` and ``luma_top`` (mean and 99th
        percentile, 0..255), ``contrast`` (standard deviation of luma), ``sharpness`` (variance of
        the Laplacian of luma over the variance of luma, black bars left out: about 0.6 in a photo,
        under 0.01 after a Gaussian blur of 3 px) and ``text`` (see ``text_score``).
        Where there are two frames or more: ``motion`` (levels 0..255: mean difference in the tile
        of 8 x 8 px that changes most; the second lowest of the intervals of five frames, because
        a key frame repaints a still picture) and ``cut`` (see ``cut_score``).
    """
    shown = [resized(f, IMAGE_PX) if len(f) > IMAGE_PX else f for f in frames]
    kept = shown[centre]
    luma = kept.astype(np.float32) @ LUMA
    measures = {
        "luma_mean": float(luma.mean()),
        "luma_top": float(np.quantile(luma, 0.99)),
        "contrast": float(luma.std()),
        "sharpness": _sharpness(luma),
        "text": text_score(kept),
    }
    if len(shown) > 1:
        changes = sorted(_motion(a, b) for a, b in itertools.pairwise(shown))
        measures["motion"] = changes[(len(changes) - 1) // 2]
        measures["cut"] = cut_score(shown)
    return measures


def resized(frame: Frame, size_px: int) -> Frame:
    """Return a square picture at another size: uint8 [size_px, size_px, 3]."""
    small = Image.fromarray(frame).resize((size_px, size_px), Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.uint8)


def _sharpness(luma: Plane) -> float:
    inner = _without_bars(luma)
    return float(laplacian(inner).var() / (inner.var() + _SHARPNESS_FLOOR))


def laplacian(luma: Plane) -> Plane:
    """Return the second differences of a plane, float32 [h, w] -> [h - 2, w - 2]."""
    inner = luma[1:-1, 1:-1]
    return luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4.0 * inner


def _without_bars(luma: Plane) -> Plane:
    """Leave out black bars at the borders, unless little else is there."""
    rows = np.flatnonzero(luma.max(axis=1) > _BAR_LEVEL)
    columns = np.flatnonzero(luma.max(axis=0) > _BAR_LEVEL)
    side = len(luma)
    if min(len(rows), len(columns)) < max(side // 4, 4):
        return luma
    # One more line at each bar: it mixes the bar with the picture.
    top, bottom = (rows[0] + (rows[0] > 0), rows[-1] + (rows[-1] == side - 1))
    left, right = (columns[0] + (columns[0] > 0), columns[-1] + (columns[-1] == side - 1))
    return luma[top:bottom, left:right]


def _motion(a: Frame, b: Frame) -> float:
    change = np.abs(a.astype(np.float32) - b.astype(np.float32)).mean(axis=-1)
    tile = _MOTION_TILE_PX
    count = len(change) // tile
    tiles = change[: count * tile, : count * tile].reshape(count, tile, count, tile)
    return float(tiles.mean(axis=(1, 3)).max())


# --- text ------------------------------------------------------------------------------------

_INK_SHARE_OF_TOP = 0.4
_INK_LEAST = 20.0
_NO_MARGIN = 0.1


def text_score(frame: Frame) -> float:
    """How much a frame, uint8 [px, px, 3], looks like a title card, a slide or a page, 0..1.

    The smallest of seven marks, each 0..1, all of which text on a flat ground has: much of the
    picture is one colour; exactly that colour (a night sky glows); what differs from it (the ink)
    comes in short strokes; several of them in a row of pixels; over a good part of the width (a
    helicopter in the sky is small); in lines with empty rows between them; and a line begins and
    ends at once, from one row to the next. The last two keep fireworks, which share the others. A
    sign in a scene or a subtitle leaves the ground unlike one colour.
    """
    colours = frame.astype(np.float32)
    luma = colours @ LUMA
    counts = np.bincount(luma.astype(np.int64).ravel(), minlength=256)
    ground = int(np.convolve(counts, np.ones(7), "same").argmax())
    on_ground = np.abs(luma - ground) <= 4.0
    away = np.abs(colours - np.median(colours[on_ground], axis=0)).max(axis=-1)
    flat = float((away <= 10.0).mean())
    exact = float((away <= 4.0).mean()) / max(flat, 1e-6)

    contrast = np.abs(luma - np.median(luma[on_ground]))
    ink = contrast > max(_INK_SHARE_OF_TOP * float(np.quantile(contrast, 0.99)), _INK_LEAST)
    strokes = (ink[:, 1:] & ~ink[:, :-1]).sum(axis=1) + ink[:, 0]
    rows = ink.sum(axis=1).astype(np.float64)
    # What every row has is a frame or a margin line, not writing.
    rows = np.maximum(rows - np.quantile(rows, _NO_MARGIN), 0.0)
    written = rows > 1
    if not written.any():
        return 0.0
    stroke_px = float(ink.sum()) / max(int(strokes.sum()), 1)
    px = len(frame) / IMAGE_PX
    jumps = float(np.abs(np.diff(rows)).sum() / rows.sum())
    marks = (
        _ramp(flat, 0.3, 0.6),
        _ramp(exact, 0.3, 0.6),
        _ramp(stroke_px / px, 6.0, 4.0),
        _ramp(float(np.quantile(strokes[written], 0.75)), 1.5, 4.5),
        _ramp(float(ink.any(axis=0).mean()), 0.15, 0.3),
        _ramp(_longest_run(written) / len(written), 0.4, 0.2),
        _ramp(jumps * px, 0.2, 0.4),
    )
    return min(marks)


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _ramp(value: float, nothing: float, full: float) -> float:
    return min(1.0, max(0.0, (value - nothing) / (full - nothing)))


# --- cuts ------------------------------------------------------------------------------------

_THUMB_PX = 16
_SHIFT_PX = 4
_FLAT_ENERGY = 1e4
_HISTOGRAM_PX = 48


_Look = tuple[Plane, Plane, Plane]
"""What two frames are compared by: the 8 x 8 px window of a thumbnail at every shift, each colour
free of its mean, float32 [81, 3 * 64]; the energy of each, [81]; the colours, [8, 8, 8]."""


def cut_score(frames: Sequence[Frame]) -> float:
    """How surely there is a cut between the frames of one second, 0 (none) .. 1.

    Two frames differ by the smaller of two distances: 1 minus the best correlation of the middle
    of one with the other under shifts of up to a quarter of the side (so that camera motion is no
    difference), and 1 minus the overlap of their colour histograms. A cut stands at the largest
    step. Its score is the smallest difference between any frame before and any frame after (a
    flash has like frames on both sides), less the mean of the other steps (what motion explains).
    Frames are uint8 [px, px, 3], RGB, two or more in time order.
    """
    looks = [_look(frame) for frame in frames]
    steps = [_difference(a, b) for a, b in itertools.pairwise(looks)]
    at = int(np.argmax(steps))
    across = min(_difference(a, b) for a in looks[: at + 1] for b in looks[at + 1 :])
    others = steps[:at] + steps[at + 1 :]
    return max(0.0, across - (sum(others) / len(others) if others else 0.0))


def _look(frame: Frame) -> _Look:
    picture = Image.fromarray(frame)
    thumb = np.asarray(
        picture.resize((_THUMB_PX, _THUMB_PX), Image.Resampling.BOX), dtype=np.float32
    )
    red, green, blue = thumb[..., 0], thumb[..., 1], thumb[..., 2]
    planes = np.stack([thumb.mean(axis=-1), red - blue, green - 0.5 * (red + blue)])
    window = _THUMB_PX - 2 * _SHIFT_PX
    shifted = np.lib.stride_tricks.sliding_window_view(planes, (window, window), axis=(1, 2))
    views = shifted.transpose(1, 2, 0, 3, 4).reshape((2 * _SHIFT_PX + 1) ** 2, 3, -1)
    views = views - views.mean(axis=-1, keepdims=True)
    flat = np.ascontiguousarray(views.reshape(len(views), -1))
    return flat, np.sqrt(np.square(flat).sum(axis=1)), _histogram(picture)


def _histogram(picture: Image.Image) -> Plane:
    small = picture.resize((_HISTOGRAM_PX, _HISTOGRAM_PX), Image.Resampling.BOX)
    bins = (np.asarray(small) >> 5).astype(np.int64) @ np.array([64, 8, 1])
    counts = np.bincount(bins.ravel(), minlength=512).reshape(8, 8, 8).astype(np.float32)
    # Spread to the neighbours: a small change of light moves no colour out of reach.
    for axis in range(3):
        lines = np.moveaxis(counts, axis, 0)
        spread = 0.5 * lines
        spread[1:] += 0.25 * lines[:-1]
        spread[:-1] += 0.25 * lines[1:]
        counts = np.moveaxis(spread, 0, axis)
    histogram: Plane = counts / counts.sum()
    return histogram


def _difference(a: _Look, b: _Look) -> float:
    structure = 1.0 - max(_likeness(a, b), _likeness(b, a))
    colour = 1.0 - float(np.minimum(a[2], b[2]).sum())
    return min(structure, colour)


def _likeness(a: _Look, b: _Look) -> float:
    """Best correlation of the middle of ``b`` with any view of ``a``; of flat ones nothing."""
    middle = len(b[0]) // 2
    return float(((a[0] @ b[0][middle]) / (a[1] * b[1][middle] + _FLAT_ENERGY)).max())
