"""Toy sounds and toy scenes: synthesised, not recorded, for tests and for the bundled examples.

Each subject has a plausible acoustic shape (harmonic cries, short noisy barks, a rhythmic clatter
over a rumble, whistles and bangs, modulated band noise) and a simple drawn scene that moves with
its sound. Everything is a function of ``(subject, seed)``.

``python -m soundsight.media.synth FOLDER`` writes the example sounds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import ConfigError, SoundsightError
from soundsight.core.files import atomic_file
from soundsight.core.units import IMAGE_PX, RATE_HZ
from soundsight.media.container import quiet_av

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SUBJECTS = ("baby", "dog", "train", "fireworks", "water")

EXAMPLE_S = 3.0
EXAMPLE_SEED = 0

_PEAK = 0.8
_TIMELINE_S = 600.0

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class _Event:
    """Something that sounds: from ``start_s``, for ``length_s``, at a pitch of its own."""

    start_s: float
    length_s: float
    pitch: float

    def progress(self, t_s: float) -> float | None:
        """How far the event is at ``t_s``, 0..1, or None where it does not sound."""
        u = (t_s - self.start_s) / self.length_s
        return u if 0 <= u < 1 else None


def _rng(subject: str, seed: int, what: int) -> np.random.Generator:
    return np.random.default_rng([SUBJECTS.index(subject), seed & (2**64 - 1), what])


def _check(subject: str) -> None:
    if subject not in SUBJECTS:
        raise ConfigError(f"unknown subject {subject!r}; choose from {', '.join(SUBJECTS)}")


_TIMING = {
    # length from .. to, pause from .. to, in seconds
    "baby": (0.7, 1.2, 0.2, 0.4),
    "dog": (0.16, 0.26, 0.12, 0.5),
    "train": (0.8, 1.2, 2.5, 4.0),
    "fireworks": (1.6, 2.1, 0.0, 0.3),
    "water": (0.04, 0.12, 0.02, 0.2),
}


@lru_cache(maxsize=32)
def _events(subject: str, seed: int) -> tuple[_Event, ...]:
    """The subject's time line: the same for the sound and for the scene, however long."""
    rng = _rng(subject, seed, 0)
    short, long, near, far = _TIMING[subject]
    events, t_s = [], float(rng.uniform(0.0, 0.15))
    while t_s < _TIMELINE_S:
        event = _Event(t_s, float(rng.uniform(short, long)), float(rng.uniform(0.9, 1.1)))
        events.append(event)
        t_s += event.length_s + float(rng.uniform(near, far))
    return tuple(events)


# --- sounds ----------------------------------------------------------------------------------


def sound(subject: str, seconds: float, seed: int, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    """Synthesise a subject's sound.

    Args:
        subject: one of ``SUBJECTS``.
        seconds: length, at most 600.
        seed: another seed is another baby, dog, train ...
        rate_hz: sample rate in hertz.

    Returns:
        float32 [seconds * rate_hz], with a peak of 0.8.

    Raises:
        ConfigError: on an unknown subject or a length out of range.
    """
    _check(subject)
    if not 0 < seconds <= _TIMELINE_S:
        raise ConfigError(f"a toy sound lasts up to {_TIMELINE_S:g} s, not {seconds:g} s")
    count = max(1, round(seconds * rate_hz))
    rng = _rng(subject, seed, 1)
    samples = _background(subject, count, rate_hz, rng)
    for event in _events(subject, seed):
        first = round(event.start_s * rate_hz)
        if first >= count:
            break
        # The whole event is made, then cut: a longer sound begins like a shorter one.
        made = _EVENT_SOUNDS[subject](event, round(event.length_s * rate_hz), rate_hz, rng)
        made = made[: count - first]
        samples[first : first + len(made)] += made
    peak = float(np.abs(samples).max())
    return (samples * (_PEAK / max(peak, 1e-9))).astype(np.float32)


def _band(
    rng: np.random.Generator, count: int, rate_hz: int, low_hz: float, high_hz: float
) -> Samples:
    """Noise of a band with soft edges [count], root mean square 1."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    f = np.maximum(np.fft.rfftfreq(count, 1 / rate_hz), 1e-3)
    spectrum *= 1 / np.sqrt((1 + (low_hz / f) ** 4) * (1 + (f / high_hz) ** 4))
    noise: Samples = np.fft.irfft(spectrum, count)
    return noise / max(float(np.sqrt(np.mean(noise**2))), 1e-9)


def _harmonics(f0_hz: Samples, rate_hz: int, weight: Callable[[Samples], Samples]) -> Samples:
    """A voiced sound of gliding pitch [count]; ``weight`` gives a partial's level at its pitch."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / rate_hz
    voice = np.zeros_like(phase)
    for k in range(1, 25):
        pitch = k * f0_hz
        voice += np.where(pitch < 0.45 * rate_hz, weight(pitch), 0.0) * np.sin(k * phase)
    return voice


def _formants(*centres_hz: float) -> Callable[[Samples], Samples]:
    def weight(pitch_hz: Samples) -> Samples:
        level = 0.05 * np.exp(-pitch_hz / 4000)
        for centre_hz in centres_hz:
            level = level + np.exp(-(((pitch_hz - centre_hz) / (0.35 * centre_hz)) ** 2))
        return level

    return weight


def _background(subject: str, count: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    t_s = np.arange(count) / rate_hz
    if subject == "train":
        rumble = 0.3 * _band(rng, count, rate_hz, 30, 180)
        rumble += 0.05 * _band(rng, count, rate_hz, 300, 2500)
        # Two wheels over each rail joint.
        for shift_s in (0.0, 0.13):
            since_s = (t_s + shift_s) % 0.52
            rumble += 0.6 * np.exp(-since_s / 0.025) * _band(rng, count, rate_hz, 700, 5000)
        return rumble
    if subject == "water":
        slow = _band(rng, count, rate_hz, 0.5, 4)
        return (0.25 + 0.05 * slow) * _band(rng, count, rate_hz, 500, 6000) + 0.1 * _band(
            rng, count, rate_hz, 150, 12_000
        )
    return 0.003 * _band(rng, count, rate_hz, 60, 4000)


def _cry(event: _Event, count: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    u, t_s = np.linspace(0, 1, count), np.arange(count) / rate_hz
    glide = 0.85 + 0.3 * np.sin(np.pi * np.minimum(1, 1.3 * u)) - 0.15 * u**3
    vibrato = 1 + 0.02 * np.sin(2 * np.pi * 6.5 * t_s)
    voice = _harmonics(450 * event.pitch * glide * vibrato, rate_hz, _formants(1100, 3300))
    breath = 0.06 * _band(rng, count, rate_hz, 1500, 7000)
    shape: Samples = np.minimum(1, u / 0.08) * np.minimum(1, (1 - u) / 0.15)
    return shape * (0.4 * voice + breath)


def _bark(event: _Event, count: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    u = np.linspace(0, 1, count)
    f0_hz = event.pitch * (320 + 330 * np.exp(-((u - 0.25) ** 2) / 0.06))
    voice = _harmonics(f0_hz, rate_hz, _formants(700, 1500, 2600))
    rough = 0.5 * _band(rng, count, rate_hz, 500, 4500)
    shape: Samples = np.minimum(1, u / 0.06) * np.exp(-3.5 * u) * (1 - u)
    return shape * (0.6 * voice + rough)


def _horn(event: _Event, count: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    u = np.linspace(0, 1, count)
    chord = np.zeros(count)
    for note_hz in (311.0, 370.0, 440.0, 494.0):
        f0_hz = np.full(count, note_hz * event.pitch * rng.uniform(0.998, 1.002))
        chord += _harmonics(f0_hz, rate_hz, lambda pitch: np.exp(-pitch / 1200))
    shape: Samples = np.minimum(1, u / 0.06) * np.minimum(1, (1 - u) / 0.12)
    return 0.35 * shape * chord


_BANG_AT = 0.35
"""Share of a firework at which the rocket bursts."""


def _firework(event: _Event, count: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    burst = round(_BANG_AT * count)
    made = np.zeros(count)
    u = np.linspace(0, 1, burst)
    f0_hz = event.pitch * (1800 + 1800 * u**2)
    whistle = np.sin(2 * np.pi * np.cumsum(f0_hz) / rate_hz)
    made[:burst] = 0.12 * np.minimum(1, u / 0.2) * (1 - 0.7 * u) * whistle
    rest = count - burst
    since_s = np.arange(rest) / rate_hz
    made[burst:] += 1.2 * np.exp(-since_s / 0.16) * _band(rng, rest, rate_hz, 40, 700)
    made[burst:] += 0.8 * np.exp(-since_s / 0.03) * _band(rng, rest, rate_hz, 300, 9000)
    crackle = _band(rng, rest, rate_hz, 2500, 12_000)
    for at_s in np.sort(rng.uniform(0.2, rest / rate_hz, 60)):
        later = np.maximum(0.0, since_s - at_s)
        made[burst:] += (since_s >= at_s) * 0.25 * np.exp(-later / 0.004) * crackle
    return made


def _bubble(event: _Event, count: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    u = np.linspace(0, 1, count)
    f0_hz = rng.uniform(500, 1600) * (1 + 0.35 * u)
    tone = np.sin(2 * np.pi * np.cumsum(f0_hz) / rate_hz)
    bubble: Samples = 0.3 * event.pitch * np.minimum(1, u / 0.1) * np.exp(-5 * u) * tone
    return bubble


_EVENT_SOUNDS: dict[str, Callable[[_Event, int, int, np.random.Generator], Samples]] = {
    "baby": _cry,
    "dog": _bark,
    "train": _horn,
    "fireworks": _firework,
    "water": _bubble,
}


# --- scenes ----------------------------------------------------------------------------------


def scene(subject: str, t_s: float, seed: int, size_px: int = IMAGE_PX) -> NDArray[np.uint8]:
    """Draw a subject at a time of its sound.

    Args:
        subject: one of ``SUBJECTS``.
        t_s: time in seconds; the scene moves with ``sound(subject, ..., seed)``.
        seed: another seed is another baby, dog, train ...
        size_px: side of the picture in pixels.

    Returns:
        uint8 [size_px, size_px, 3], RGB.

    Raises:
        ConfigError: on an unknown subject.
    """
    _check(subject)
    from PIL import Image, ImageDraw

    # Drawn at twice the size and made smaller, for smooth edges.
    side = 2 * size_px
    picture = Image.new("RGB", (side, side))
    active = None
    for event in _events(subject, seed):
        if event.start_s > t_s:
            break
        active = event
    progress = active.progress(t_s) if active else None
    pen = _Pen(ImageDraw.Draw(picture), side, _rng(subject, seed, 2))
    _SCENES[subject](pen, t_s, progress)
    small = picture.resize((size_px, size_px), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8).copy()


Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Pen:
    """Draws in units of the picture's side: 0, 0 is the top left, 1, 1 the bottom right."""

    draw: ImageDraw
    side: int
    rng: np.random.Generator

    def colour(self, red: int, green: int, blue: int, spread: int = 25) -> Colour:
        """A colour near the one given; the seed decides."""
        near = np.array([red, green, blue]) + self.rng.integers(-spread, spread + 1, 3)
        r, g, b = np.clip(near, 0, 255).tolist()
        return r, g, b

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """A filled rectangle."""
        self.draw.rectangle(self._scaled(x0, y0, x1, y1), fill=colour)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """A filled ellipse around x, y."""
        self.draw.ellipse(self._scaled(x - rx, y - ry, x + rx, y + ry), fill=colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, w: float, colour: Colour) -> None:
        """A line of width ``w``."""
        self.draw.line(
            self._scaled(x0, y0, x1, y1), fill=colour, width=max(1, round(w * self.side))
        )

    def _scaled(self, *values: float) -> list[float]:
        return [value * self.side for value in values]


def _draw_baby(pen: _Pen, t_s: float, progress: float | None) -> None:
    pen.box(0, 0, 1, 1, pen.colour(170, 200, 235))
    skin = pen.colour(240, 200, 175, 15)
    open_ = 0.0 if progress is None else float(np.sin(np.pi * progress))
    y = 0.52 + 0.01 * open_ * float(np.sin(2 * np.pi * 6 * t_s))
    pen.oval(0.5, y + 0.55, 0.36, 0.28, pen.colour(235, 235, 225))
    for side in (-1, 1):
        pen.oval(0.5 + 0.33 * side, y, 0.06, 0.08, skin)
    pen.oval(0.5, y, 0.33, 0.38, skin)
    pen.oval(0.5, y - 0.33, 0.12, 0.05, pen.colour(120, 80, 50))
    for side in (-1, 1):
        x = 0.5 + 0.14 * side
        pen.oval(x, y - 0.05, 0.045, 0.045 - 0.035 * open_, (60, 40, 40))
        pen.oval(x + 0.06 * side, y + 0.1, 0.06, 0.04, (235, 160, 150))
    pen.oval(0.5, y + 0.19, 0.07 + 0.05 * open_, 0.015 + 0.09 * open_, (150, 40, 50))


def _draw_dog(pen: _Pen, t_s: float, progress: float | None) -> None:
    pen.box(0, 0, 1, 0.45, pen.colour(160, 205, 240))
    pen.box(0, 0.45, 1, 1, pen.colour(90, 160, 70))
    coat = pen.colour(150, 100, 55)
    dark: Colour = (max(coat[0] - 60, 0), max(coat[1] - 50, 0), max(coat[2] - 35, 0))
    open_ = 0.0 if progress is None else 1.0 - progress
    y = 0.42 - 0.05 * open_
    pen.oval(0.5, 0.95, 0.3, 0.35, coat)
    pen.oval(0.5, y, 0.24, 0.25, coat)
    for side in (-1, 1):
        pen.oval(0.5 + 0.25 * side, y + 0.02 - 0.05 * open_, 0.08, 0.2, dark)
        pen.oval(0.5 + 0.09 * side, y - 0.06, 0.03, 0.035, (20, 20, 20))
    pen.oval(0.5, y + 0.2 + 0.07 * open_, 0.1, 0.03 + 0.07 * open_, (170, 50, 60))
    pen.oval(0.5, y + 0.13, 0.13, 0.1, pen.colour(215, 190, 160))
    pen.oval(0.5, y + 0.08, 0.05, 0.035, (20, 20, 20))
    wag = 0.08 * float(np.sin(2 * np.pi * 3 * t_s))
    pen.line(0.77, 0.85, 0.9 + wag, 0.62, 0.05, dark)


def _draw_train(pen: _Pen, t_s: float, progress: float | None) -> None:
    pen.box(0, 0, 1, 0.6, pen.colour(175, 205, 225))
    pen.box(0, 0.6, 1, 1, pen.colour(130, 120, 100))
    speed = float(pen.rng.uniform(0.25, 0.4))
    x0 = -0.2 - speed * t_s % 0.5
    for i in range(9):
        pen.box(x0 + i * 0.17, 0.8, x0 + i * 0.17 + 0.08, 0.85, (90, 70, 50))
    pen.box(0, 0.78, 1, 0.8, (70, 70, 75))
    body = pen.colour(190, 50, 45)
    # Coaches pass to the left: one leaves as the next comes, a coach every 0.5 of the width.
    for i in range(4):
        x = x0 + i * 0.5
        pen.box(x, 0.35, x + 0.47, 0.72, body)
        pen.box(x, 0.35, x + 0.47, 0.4, (80, 80, 90))
        for k in range(3):
            pen.box(x + 0.05 + 0.14 * k, 0.45, x + 0.13 + 0.14 * k, 0.56, (220, 235, 245))
        for wheel in (0.1, 0.36):
            pen.oval(x + wheel, 0.74, 0.05, 0.05, (40, 40, 45))
    if progress is not None:
        for i in range(4):
            up = (progress + 0.25 * i) % 1.0
            pen.oval(0.25 + 0.2 * up, 0.33 - 0.25 * up, 0.03 + 0.07 * up, 0.03 + 0.06 * up,
                     (235, 235, 235))  # fmt: skip


def _draw_fireworks(pen: _Pen, t_s: float, progress: float | None) -> None:
    pen.box(0, 0, 1, 1, pen.colour(15, 15, 40, 8))
    shot = np.random.default_rng([int(pen.rng.integers(2**31)), int(t_s / 2)])
    x, y = 0.5 + 0.1 * float(shot.uniform(-1, 1)), 0.4
    if progress is not None and progress < _BANG_AT:
        at = 1 - (1 - y) * progress / _BANG_AT
        pen.line(x, at, x, min(1.0, at + 0.15), 0.015, (255, 220, 150))
    elif progress is not None:
        grown = (progress - _BANG_AT) / (1 - _BANG_AT)
        radius, fade = 0.42 * grown**0.4, 1 - 0.7 * grown
        colour = shot.integers(120, 256, 3) * fade
        r, g, b = colour.astype(int).tolist()
        for k in range(24):
            a = 2 * np.pi * k / 24
            dx, dy = float(np.cos(a)), float(np.sin(a)) + 0.3 * grown**2
            inner = 0.35 * radius
            pen.line(x + inner * dx, y + inner * dy, x + radius * dx, y + radius * dy, 0.012,
                     (r, g, b))  # fmt: skip
            pen.oval(x + radius * dx, y + radius * dy, 0.015, 0.015, (255, 255, 230))
    for k in range(8):
        height = float(pen.rng.uniform(0.05, 0.13))
        pen.box(k / 8, 1 - height, (k + 1) / 8, 1, (5, 5, 12))


def _draw_water(pen: _Pen, t_s: float, progress: float | None) -> None:
    pen.box(0, 0, 1, 0.35, pen.colour(185, 215, 235))
    deep = pen.colour(40, 105, 150)
    for row in range(9):
        base = 0.33 + 0.08 * row
        light = 12 * (row % 3)
        colour: Colour = (
            min(deep[0] + light, 255), min(deep[1] + light, 255), min(deep[2] + light, 255),
        )  # fmt: skip
        shift = t_s * (0.5 + 0.05 * row) + 0.7 * row
        xs = np.linspace(0, 1, 33)
        ys = base + 0.02 * np.sin(2 * np.pi * (2 * xs + shift))
        points = [(float(x) * pen.side, float(y) * pen.side) for x, y in zip(xs, ys, strict=True)]
        pen.draw.polygon([*points, (pen.side, pen.side), (0, pen.side)], fill=colour)
    drop = 0.0 if progress is None else progress
    pen.oval(0.5, 0.7, 0.05 + 0.2 * drop, 0.015 + 0.06 * drop, (200, 225, 240))
    pen.oval(0.5, 0.7, 0.03 + 0.19 * drop, 0.01 + 0.05 * drop, deep)
    stone = pen.colour(120, 115, 105)
    for x, y in ((0.08, 0.95), (0.9, 0.9), (0.3, 1.0)):
        pen.oval(x, y, 0.13, 0.09, stone)


_SCENES: dict[str, Callable[[_Pen, float, float | None], None]] = {
    "baby": _draw_baby,
    "dog": _draw_dog,
    "train": _draw_train,
    "fireworks": _draw_fireworks,
    "water": _draw_water,
}


# --- files -----------------------------------------------------------------------------------


def write_video(
    path: str | os.PathLike[str],
    subject: str,
    seconds: float,
    seed: int,
    *,
    fps: int = 10,
    size_px: int = IMAGE_PX,
    rate_hz: int = RATE_HZ,
) -> Path:
    """Write an mp4 (H.264 and AAC) of a subject's scene with its sound.

    Args:
        path: where to write; an existing file is replaced once the new one is whole.
        subject: one of ``SUBJECTS``.
        seconds: length, at most 600.
        seed: another seed is another baby, dog, train ...
        fps: pictures per second.
        size_px: side of the square picture in pixels, even.
        rate_hz: sample rate of the sound in hertz.

    Returns:
        The path.

    Raises:
        ConfigError: on an unknown subject or an odd size.
        OutputError: when the place cannot be written to.
    """
    _check(subject)
    if size_px < 16 or size_px % 2:
        raise ConfigError(f"size_px is an even number from 16, not {size_px}")
    samples = sound(subject, seconds, seed, rate_hz)
    frames = (
        scene(subject, index / fps, seed, size_px) for index in range(max(1, round(seconds * fps)))
    )
    return write_clip(path, frames, samples, fps=fps, rate_hz=rate_hz)


def write_clip(
    path: str | os.PathLike[str],
    frames: Iterable[NDArray[np.uint8]],
    samples: NDArray[np.float32],
    *,
    fps: int = 10,
    rate_hz: int = RATE_HZ,
) -> Path:
    """Write an mp4 (H.264 and AAC) of given pictures and a given sound.

    Args:
        path: where to write; an existing file is replaced once the new one is whole.
        frames: uint8 [h, w, 3], one after the other, of one size with even sides; at least one.
        samples: the sound, float32 [t] of full scale 1.
        fps: pictures per second.
        rate_hz: sample rate of the sound in hertz.

    Returns:
        The path.

    Raises:
        OutputError: when the place cannot be written to.
    """
    av = quiet_av()
    rest = iter(frames)
    first = next(rest)
    with (
        atomic_file(Path(path)) as temporary,
        av.open(os.fspath(temporary), "w", format="mp4") as container,
    ):
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        picture = container.add_stream(codec, rate=fps)
        picture.height, picture.width = first.shape[:2]
        picture.pix_fmt = "yuv420p"
        # One thread: the same picture track wherever it is written.
        picture.codec_context.thread_count = 1
        voice = container.add_stream("aac", rate=rate_hz, layout="mono")
        for drawn in chain([first], rest):
            frame = av.VideoFrame.from_ndarray(drawn, format="rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        spoken = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        spoken.sample_rate = rate_hz
        cutter = av.AudioResampler(format="fltp", layout="mono", rate=rate_hz, frame_size=1024)
        for piece in [*cutter.resample(spoken), *cutter.resample(None)]:
            container.mux(voice.encode(piece))
        container.mux(voice.encode(None))
    return Path(path)


def write_examples(folder: str | os.PathLike[str]) -> list[Path]:
    """Write one sound of each subject, 3 s of mono 16-bit FLAC at 44,100 Hz.

    Returns:
        The paths, ``SUBJECT.flac``.

    Raises:
        OutputError: when the place cannot be written to.
    """
    from soundsight.media.voice import write_samples

    paths = [Path(folder) / f"{subject}.flac" for subject in SUBJECTS]
    for subject, path in zip(SUBJECTS, paths, strict=True):
        with atomic_file(path) as temporary:
            write_samples(str(temporary), sound(subject, EXAMPLE_S, EXAMPLE_SEED), RATE_HZ)
    return paths


def main(arguments: list[str]) -> int:
    """Write the example sounds to the folder named on the command line."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m soundsight.media.synth FOLDER", file=sys.stderr)
        return 2
    try:
        for path in write_examples(arguments[0]):
            print(path)
    except SoundsightError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
