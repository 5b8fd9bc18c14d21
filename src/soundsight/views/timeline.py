"""The time line of a file: its events as numbered spans, the waveform over the log-mel, a clock.

Sheets and films share it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from soundsight.media.overview import Overview
from soundsight.views.drawing import (
    CARD,
    DIM,
    TEXT,
    WAVE,
    WELL,
    Color,
    clock,
    default_font,
    heat,
    write_line,
)
from soundsight.views.events import FileEvents

SPANS_PX = 24
CLOCK_PX = 22
_GAP_PX = 2
_PICTURED: Color = (58, 92, 104)
_UNKNOWN: Color = (58, 61, 68)
_STEPS_S = (
    0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400,
)  # fmt: skip
_LABEL_PX = 84


def height_px(wave_px: int, mel_px: int) -> int:
    """Height of a time line with a waveform and a log-mel of these heights."""
    return SPANS_PX + _GAP_PX + wave_px + _GAP_PX + mel_px + CLOCK_PX


def timeline(found: FileEvents, width_px: int, wave_px: int, mel_px: int) -> Image.Image:
    """Draw the time line: RGB, ``width_px`` wide and ``height_px(wave_px, mel_px)`` high."""
    made = Image.new("RGB", (width_px, height_px(wave_px, mel_px)), CARD)
    ink = ImageDraw.Draw(made)
    overview = found.overview
    _draw_spans(ink, found, width_px)
    top = SPANS_PX + _GAP_PX
    made.paste(Image.fromarray(_wave(overview, width_px, wave_px)), (0, top))
    top += wave_px + _GAP_PX
    # Of several columns in a pixel their mean.
    levels = Image.fromarray(np.ascontiguousarray(overview.mel[:, : _count(overview)]))
    levels = levels.resize((width_px, mel_px), Image.Resampling.BOX)
    made.paste(Image.fromarray(heat()[np.asarray(levels)]), (0, top))
    _draw_clock(ink, found.duration_s, width_px, top + mel_px)
    return made


def x_of(found: FileEvents, second: float, width_px: int) -> int:
    """Where a time in seconds lies on a time line, in pixels from its left edge."""
    share = second / found.duration_s if found.duration_s else 0.0
    return min(width_px - 1, max(0, int(share * width_px)))


def span_words(found: FileEvents, began_s: float, ended_s: float) -> str:
    """Say from when to when: with tenths in a short sound, or where it would say a time twice."""
    tenths = found.duration_s < 600 or int(began_s) == int(ended_s)
    return f"{clock(began_s, tenths=tenths)} - {clock(ended_s, tenths=tenths)}"


def _draw_spans(ink: ImageDraw.ImageDraw, found: FileEvents, width_px: int) -> None:
    free = 0
    for event in found.events:
        color = _PICTURED if event.is_known else _UNKNOWN
        for index, (began_s, ended_s) in enumerate(event.spans):
            left = x_of(found, began_s, width_px)
            right = max(left + 2, x_of(found, ended_s, width_px) - 1)
            ink.rounded_rectangle((left, 0, right, SPANS_PX - 3), 4, fill=color)
            # Told apart by shape, too: what is not recognised is hollow.
            if not event.is_known and right - left > 6:
                ink.rounded_rectangle((left + 2, 2, right - 2, SPANS_PX - 5), 3, fill=CARD)
            label = str(event.number)
            room = int(ink.textlength(label, font=default_font(14))) + 8
            if index == 0 and left >= free and right - left >= room:
                ink.text((left + 5, 2), label, font=default_font(14), fill=TEXT)
                free = left + room


def _draw_clock(ink: ImageDraw.ImageDraw, duration_s: float, width_px: int, top: int) -> None:
    if duration_s <= 0:
        return
    per_px = duration_s / width_px
    step_s = next((s for s in _STEPS_S if s / per_px >= _LABEL_PX), _STEPS_S[-1])
    for index in range(int(duration_s / step_s) + 1):
        x = int(index * step_s / per_px)
        if x > width_px - 40:
            break
        ink.line((x, top, x, top + 5), fill=DIM)
        words = clock(index * step_s, tenths=step_s < 1)
        write_line(ink, (x + 4, top + 3), words, 13, DIM, _LABEL_PX)


def _count(overview: Overview) -> int:
    """Columns up to the sound's end, where the last one may reach beyond it."""
    count = round(overview.duration_s / overview.step_s)
    return max(1, min(len(overview.waveform), count))


def _wave(overview: Overview, width_px: int, height: int) -> NDArray[np.uint8]:
    """Draw the waveform, scaled to its loudest point: uint8 [height, width_px, 3]."""
    waves, count = overview.waveform, _count(overview)
    # The first column of each pixel, and the first that it does not show.
    at = np.arange(width_px + 1) * count / width_px
    low = np.floor(at[:-1] + 1e-9).astype(np.intp)
    high = np.minimum(np.maximum(low + 1, np.ceil(at[1:] - 1e-9).astype(np.intp)), count)
    bottom = np.array([waves[a:b, 0].min() for a, b in zip(low, high, strict=True)])
    top = np.array([waves[a:b, 1].max() for a, b in zip(low, high, strict=True)])
    peak = max(float(np.abs(waves).max()), 1e-3)
    middle = height / 2
    reach = 0.94 * middle / peak
    rows = np.arange(height)[:, None] + 0.5
    # How much of each pixel the bar covers: smooth ends without drawing it larger.
    upper, lower = middle - top * reach - 0.5, middle - bottom * reach + 0.5
    cover = np.clip(np.minimum(rows + 0.5, lower) - np.maximum(rows - 0.5, upper), 0, 1)[..., None]
    ground, paint = np.array(WELL, np.float32), np.array(WAVE, np.float32)
    drawn: NDArray[np.uint8] = np.rint(ground + cover * (paint - ground)).astype(np.uint8)
    return drawn
