"""Toy sounds and toy scenes: synthesised, not recorded, for tests, benchmarks and the bundled
examples.

Each subject has a plausible acoustic shape (harmonic cries, short noisy barks, a rhythmic clatter
over a rumble, whistles and bangs, modulated band noise) and a simple drawn scene that moves with
its sound. Everything is a function of ``(subject, seed)``.

``python recipes/synth.py FOLDER`` writes the example sounds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.config import choose
from soundsight.core.errors import ConfigError, SoundsightError
from soundsight.core.files import atomic_file
from soundsight.core.units import IMAGE_PX, RATE_HZ
from soundsight.media.container import quiet_av
from soundsight.media.voice import VoiceTrack, write_samples

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


def _rng(subject: str, seed: int, what: int) -> np.random.Generator:
    return np.random.default_rng([SUBJECTS.index(subject), seed & (2**64 - 1), what])


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
    make = choose("subject", subject, _EVENT_SOUNDS)
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
        made = make(event, round(event.length_s * rate_hz), rate_hz, rng)
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


@dataclass(frozen=True)
class _Shape:
    """An ellipse, or a rectangle, of a scene; in units of the picture's side, 0, 0 the top left.

    Attributes:
        x, y: its middle.
        rx, ry: half its width and height.
        colour: red, green and blue; the seed decides on one nearby.
        opens: what is added to half its height as an event begins to sound.
        swings: how far it swings to either side, three times a second.
        passes: how far it passes to the left in a second, to come again on the right.
        box: whether it is a rectangle.
    """

    x: float
    y: float
    rx: float
    ry: float
    colour: tuple[int, int, int]
    opens: float = 0.0
    swings: float = 0.0
    passes: float = 0.0
    box: bool = False


def _pair(shape: _Shape, apart: float) -> list[_Shape]:
    return [replace(shape, x=shape.x - apart), replace(shape, x=shape.x + apart)]


def _sky_and_ground(sky: tuple[int, int, int], ground: tuple[int, int, int]) -> list[_Shape]:
    return [_Shape(0.5, 0.5, 0.5, 0.5, sky, box=True), _Shape(0.5, 0.8, 0.5, 0.3, ground, box=True)]


_SCENES = {
    "baby": [
        *_sky_and_ground((170, 200, 235), (235, 235, 225)),
        *_pair(_Shape(0.5, 0.52, 0.06, 0.08, (240, 200, 175)), 0.33),
        _Shape(0.5, 0.52, 0.33, 0.38, (240, 200, 175)),
        _Shape(0.5, 0.19, 0.12, 0.05, (120, 80, 50), swings=0.02),
        *_pair(_Shape(0.5, 0.47, 0.045, 0.045, (60, 40, 40), opens=-0.035), 0.14),
        _Shape(0.5, 0.71, 0.1, 0.02, (150, 40, 50), opens=0.1),
    ],
    "dog": [
        *_sky_and_ground((160, 205, 240), (90, 160, 70)),
        _Shape(0.85, 0.75, 0.04, 0.2, (90, 50, 25), swings=0.08),
        _Shape(0.5, 0.95, 0.3, 0.35, (150, 100, 55)),
        _Shape(0.5, 0.42, 0.24, 0.25, (150, 100, 55), opens=0.04),
        *_pair(_Shape(0.5, 0.42, 0.08, 0.2, (90, 50, 25)), 0.25),
        *_pair(_Shape(0.5, 0.36, 0.03, 0.035, (20, 20, 20)), 0.09),
        _Shape(0.5, 0.64, 0.1, 0.02, (170, 50, 60), opens=0.12),
        _Shape(0.5, 0.55, 0.13, 0.09, (215, 190, 160)),
        _Shape(0.5, 0.5, 0.05, 0.035, (20, 20, 20)),
    ],
    "train": [
        *_sky_and_ground((175, 205, 225), (130, 120, 100)),
        *(
            part
            for x in (0.3, 0.8, 1.3)
            for part in (
                _Shape(x, 0.52, 0.22, 0.2, (190, 50, 45), passes=0.3, box=True),
                *_pair(_Shape(x, 0.48, 0.06, 0.06, (220, 235, 245), passes=0.3, box=True), 0.1),
                *_pair(_Shape(x, 0.74, 0.05, 0.05, (40, 40, 45), passes=0.3), 0.13),
            )
        ),
        _Shape(0.5, 0.8, 0.5, 0.015, (70, 70, 75), box=True),
        _Shape(0.35, 0.2, 0.15, 0.0, (235, 235, 235), opens=0.12),
    ],
    "fireworks": [
        *_sky_and_ground((15, 15, 40), (25, 20, 45)),
        *(
            _Shape(0.5 + 0.3 * np.cos(k), 0.4 + 0.3 * np.sin(k), 0.05, 0.01, colour, opens=0.08)
            for k, colour in enumerate([(255, 220, 150), (230, 90, 90), (120, 220, 160)] * 4)
        ),
        _Shape(0.5, 0.4, 0.03, 0.02, (255, 255, 230), opens=0.1, swings=0.03),
        *(_Shape(k / 7, 1.0, 0.06, 0.05 + 0.02 * (k % 3), (5, 5, 12), box=True) for k in range(8)),
    ],
    "water": [
        *_sky_and_ground((185, 215, 235), (40, 105, 150)),
        *(
            _Shape(0.1 + 0.19 * k, 0.45 + 0.09 * row, 0.14, 0.02, (90, 150, 190), swings=0.04)
            for row in range(6)
            for k in range(row % 2, 6, 2)
        ),
        _Shape(0.5, 0.7, 0.2, 0.01, (200, 225, 240), opens=0.06),
        *(_Shape(x, 0.95, 0.13, 0.09, (120, 115, 105)) for x in (0.08, 0.4, 0.9)),
    ],
}


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
    from PIL import Image, ImageDraw

    shapes = choose("subject", subject, _SCENES)
    rng = _rng(subject, seed, 2)
    # How much of the event that sounds is still to come, 0 where none does.
    left = (1 - (t_s - event.start_s) / event.length_s for event in _events(subject, seed))
    open_ = next((share for share in left if 0 < share <= 1), 0.0)
    # Drawn at twice the size and made smaller, for smooth edges.
    side = 2 * size_px
    picture = Image.new("RGB", (side, side))
    pen = ImageDraw.Draw(picture)
    for shape in shapes:
        x = shape.x + shape.swings * float(np.sin(6 * np.pi * t_s + 9 * shape.y))
        x = (x - shape.passes * t_s + 0.25) % 1.5 - 0.25 if shape.passes else x
        ry = shape.ry + shape.opens * open_
        r, g, b = np.clip(np.add(shape.colour, rng.integers(-20, 21, 3)), 0, 255).tolist()
        place = [side * v for v in (x - shape.rx, shape.y - ry, x + shape.rx, shape.y + ry)]
        (pen.rectangle if shape.box else pen.ellipse)(place, fill=(r, g, b))
    small = picture.resize((size_px, size_px), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8).copy()


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
        sound_track = VoiceTrack(container, rate_hz)
        for drawn in chain([first], rest):
            frame = av.VideoFrame.from_ndarray(drawn, format="rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        sound_track.push(samples)
        sound_track.close()
    return Path(path)


def write_examples(folder: str | os.PathLike[str]) -> list[Path]:
    """Write one sound of each subject, 3 s of mono 16-bit FLAC at 44,100 Hz.

    Returns:
        The paths, ``SUBJECT.flac``.

    Raises:
        OutputError: when the place cannot be written to.
    """
    paths = [Path(folder) / f"{subject}.flac" for subject in SUBJECTS]
    for subject, path in zip(SUBJECTS, paths, strict=True):
        with atomic_file(path) as temporary:
            write_samples(str(temporary), sound(subject, EXAMPLE_S, EXAMPLE_SEED), RATE_HZ)
    return paths


def main(arguments: list[str]) -> int:
    """Write the example sounds to the folder named on the command line."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python recipes/synth.py FOLDER", file=sys.stderr)
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
