"""Cleaning: every step finds what it is for, keeps what looks like it, and says so in numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from recipes import synth
from soundsight.core.config import from_dict, to_dict
from soundsight.data.prepare.clean import (
    CENTRE,
    SPREAD,
    STEPS,
    CleanConfig,
    clipped_share,
    cut_score,
    frames_needed,
    measure_picture,
    measure_sound,
    reasons,
    text_score,
)
from soundsight.data.vegas.bench import BENCH_VARIABLE, DEFAULT_BENCH, find_bench
from soundsight.media import mel
from soundsight.media.frames import frame_at

RATE_HZ = 44_100
T_S = np.arange(RATE_HZ) / RATE_HZ
CONFIG = CleanConfig()


@pytest.fixture(scope="module")
def data() -> Path:
    folder = Path(os.environ.get(BENCH_VARIABLE) or DEFAULT_BENCH)
    if not folder.is_dir():
        pytest.skip(f"no bench at {folder}: set {BENCH_VARIABLE} to run this test")
    return folder


def natural(seed: int, size_px: int = 96, colour: tuple | None = None) -> np.ndarray:
    """A picture with the spectrum of photos (1 / f), coloured: uint8 [px, px, 3]."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.fftfreq(size_px)[None])
    f[0, 0] = 1.0
    planes = []
    for level in rng.uniform(70, 180, 3) if colour is None else colour:
        noise = np.fft.fft2(rng.standard_normal((size_px, size_px))) / f
        noise[0, 0] = 0.0
        plane = np.fft.ifft2(noise).real
        planes.append(level + 45 * plane / plane.std())
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)


def noisy(frame: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)


def blurred(frame: np.ndarray, sigma_px: float) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(sigma_px)))


def card(lines: list[str], ground: tuple, ink: tuple, size: int = 40) -> np.ndarray:
    picture = Image.new("RGB", (384, 384), ground)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size)
    top = 192 - 0.6 * size * len(lines)
    for k, line in enumerate(lines):
        draw.text((192, top + 1.2 * size * k), line, font=font, fill=ink, anchor="ma")
    return np.asarray(picture.resize((96, 96), Image.Resampling.LANCZOS))


def heard(samples: np.ndarray) -> tuple[str, ...]:
    samples = samples.astype(np.float32)
    return reasons(measure_sound(samples, mel.log_mel(samples), 0.0), CONFIG)


def seen(*frames: np.ndarray) -> tuple[str, ...]:
    return reasons(measure_picture(frames, len(frames) // 2), CONFIG)


# --- config ----------------------------------------------------------------------------------


def test_steps_are_checked_and_choose_the_frames() -> None:
    assert frames_needed(CleanConfig(steps=())) == CENTRE
    assert frames_needed(CleanConfig(steps=("silence", "black", "text"))) == CENTRE
    assert frames_needed(CleanConfig(steps=("frozen",))) == SPREAD
    assert frames_needed(CleanConfig(steps=("cut",))) == SPREAD
    assert SPREAD[len(SPREAD) // 2] == CENTRE[0]
    assert from_dict(CleanConfig, to_dict(CONFIG)) == CONFIG


def test_reasons_name_chosen_steps_in_order_and_miss_no_measure() -> None:
    bad = {
        "rms_dbfs": -90.0, "heard_share": 0.0, "clipped_share": 0.5, "luma_mean": 0.0,
        "luma_top": 0.0, "motion": 0.0, "sharpness": 0.0, "text": 1.0, "cut": 1.0,
    }  # fmt: skip
    assert reasons(bad, CONFIG) == STEPS
    assert reasons(bad, CleanConfig(steps=("cut", "black"))) == ("black", "cut")
    assert reasons(bad, CleanConfig(steps=())) == ()
    assert reasons({}, CONFIG) == ()


def test_measures_are_plain_numbers() -> None:
    samples = synth.sound("dog", 1.0, 0)
    measures = measure_sound(samples, mel.log_mel(samples), -3.0)
    measures |= measure_picture([natural(k) for k in range(5)], 2)
    again = json.loads(json.dumps(measures))
    assert again == measures
    assert all(type(value) is float for value in measures.values())
    assert measures["loudest_db"] == pytest.approx(-3.0)


# --- sound -----------------------------------------------------------------------------------


def test_silence_is_dropped_by_level_and_by_what_shows() -> None:
    rng = np.random.default_rng(0)
    hiss = rng.standard_normal(RATE_HZ)
    assert heard(np.zeros(RATE_HZ)) == ("silence",)
    assert heard(1e-4 * hiss) == ("silence",)
    assert heard(3e-3 * hiss) == ()
    # A quiet second of a loud clip: its level is well above the limit, its log-mel is black.
    clip = np.concatenate([0.5 * np.sin(2 * np.pi * 440 * T_S), 2e-3 * hiss]).astype(np.float32)
    quiet = measure_sound(clip[RATE_HZ:], mel.log_mel(clip)[:, 102:200], 0.0)
    assert quiet["rms_dbfs"] > -60
    assert reasons(quiet, CONFIG) == ("silence",)
    # One bark of 0.15 s is enough to be heard.
    bark = np.zeros(RATE_HZ)
    bark[20_000:26_600] = 0.3 * hiss[:6600]
    assert heard(bark) == ()


def test_clipping_is_found_also_under_noise_and_full_scale_is_kept() -> None:
    rng = np.random.default_rng(0)
    for pitch_hz in (50, 440, 1000, 5000):
        sine = np.sin(2 * np.pi * pitch_hz * T_S)
        assert heard(sine) == ()
        assert heard(np.clip(4 * sine, -1, 1)) == ("clipping",)
        assert heard(np.clip(4 * sine, -1, 1) + rng.normal(0, 0.02, RATE_HZ)) == ("clipping",)
        assert clipped_share(np.clip(4 * sine, -1, 1)) == pytest.approx(0.84, abs=0.03)
        # The same shape, quieter, may be how it sounds: a square wave is one.
        assert heard(0.3 * np.clip(4 * sine, -1, 1)) == ()
    for subject in synth.SUBJECTS:
        loud = synth.sound(subject, 1.0, 1)
        assert heard(loud / np.abs(loud).max()) == (), subject
    chord = sum(np.sin(2 * np.pi * f * T_S + f) for f in (262, 330, 392, 523, 659, 784))
    assert heard(chord / np.abs(chord).max()) == ()
    assert heard(np.clip(3 * chord / np.abs(chord).max(), -1, 1)) == ("clipping",)
    assert clipped_share(np.empty(0, np.float32)) == 0.0


# --- picture ---------------------------------------------------------------------------------


def test_black_and_faded_frames_are_dropped_and_fireworks_are_kept() -> None:
    assert "black" in seen(np.zeros((96, 96, 3), np.uint8))
    assert "black" in seen((natural(0) * 0.1).astype(np.uint8))
    night = np.full((96, 96, 3), 4, np.uint8)
    night[20:40, 30:50] = natural(1)[20:40, 30:50]
    assert "black" not in seen(night)


def test_blur_is_found_at_every_size_and_with_black_bars() -> None:
    for seed in range(5):
        photo = natural(seed)
        assert seen(photo) == ()
        assert seen(blurred(photo, 3.0)) == ("blurred",)
        barred = blurred(photo, 3.0).copy()
        barred[:12] = barred[-12:] = 0
        assert seen(barred) == ("blurred",)
        large = np.asarray(Image.fromarray(photo).resize((256, 256), Image.Resampling.BICUBIC))
        assert seen(large) == ()
        assert seen(blurred(large, 8.0)) == ("blurred",)
    assert "blurred" in seen(np.full((96, 96, 3), 128, np.uint8))


def test_text_on_a_flat_ground_is_found_and_text_in_a_scene_is_kept() -> None:
    black, white, blue, yellow = (0, 0, 0), (255, 255, 255), (10, 30, 120), (255, 230, 80)
    lines = ["Thank you", "for watching", "the sound of rain"]
    many = ["directed and edited by", "Smith and daughters", "music and camera"] * 3
    for ground, ink in ((black, white), (white, black), (blue, yellow)):
        for text, size in ((lines, 40), (many, 26), (["Chapter", "Seven"], 60)):
            assert "text" in seen(card(text, ground, ink, size)), (ground, text)
    for seed in range(5):
        photo = natural(seed).copy()
        photo[84:94, 8:88] = card(lines[2:], black, white, 40)[43:53, 8:88]
        assert text_score(photo) == 0.0
        photo[20:50, 30:70] = card(["STOP"], white, black, 90)[33:63, 28:68]
        assert text_score(photo) == 0.0
    assert text_score(np.full((96, 96, 3), 200, np.uint8)) == 0.0


def test_a_repeated_picture_is_frozen_and_a_barely_moving_scene_is_not() -> None:
    still = natural(0)
    assert seen(*[still] * 5) == ("frozen",)
    # A key frame paints the same picture a little differently.
    repainted = np.clip(still.astype(int) + np.arange(96)[:, None, None] % 4, 0, 255)
    assert seen(still, still, still, repainted.astype(np.uint8), still) == ("frozen",)
    mouth = []
    for k in range(5):
        frame = still.copy()
        frame[60:64, 44 + k : 52 + k] = 30
        mouth.append(frame)
    assert seen(*mouth) == ()
    assert seen(*(noisy(still, k) for k in range(5))) == ()
    assert "motion" not in measure_picture([still], 0)


def test_a_cut_is_found_wherever_it_is_and_a_flash_or_a_pan_is_kept() -> None:
    for seed in range(6):
        a, b = (
            natural(2 * seed, colour=(170, 130, 80)),
            natural(2 * seed + 1, colour=(60, 110, 190)),
        )
        for at in range(1, 5):
            assert seen(*(noisy(a if k < at else b, k) for k in range(5))) == ("cut",)
        assert cut_score([noisy(a, k) for k in range(5)]) < 0.05
        lit = np.clip(1.8 * a + 30.0, 0, 255).astype(np.uint8)
        for at in range(1, 4):
            assert cut_score([noisy(lit if k == at else a, k) for k in range(5)]) < 0.1
        wide = natural(seed, 128)
        pan = [noisy(wide[16:112, 6 * k : 6 * k + 96], k) for k in range(5)]
        assert seen(*pan) == ()


def test_toy_scenes_are_kept_where_something_shows() -> None:
    for subject in ("baby", "dog", "train", "water"):
        sound = synth.sound(subject, 2.0, 3)
        frames = [synth.scene(subject, 1 + u, 3) for u in SPREAD]
        measures = measure_sound(sound[RATE_HZ:], mel.log_mel(sound)[:, 100:], 0.0)
        assert reasons(measures | measure_picture(frames, 2), CONFIG) == (), subject


# --- real material ---------------------------------------------------------------------------


def test_real_photos_are_kept(data: Path) -> None:
    bench = find_bench(data)
    names = bench.photos("val")
    found = {name: reasons(measure_picture([bench.photo(name)], 0), CONFIG) for name in names}
    for step in STEPS:
        assert sum(step in why for why in found.values()) <= 0.01 * len(names), step
    assert not [n for n, why in found.items() if n.startswith("fireworks") and "black" in why]
    blurry = [measure_picture([blurred(bench.photo(name), 3.0)], 0) for name in names[::5]]
    assert np.mean([reasons(m, CONFIG) == ("blurred",) for m in blurry]) >= 0.95


@pytest.mark.slow
def test_seconds_of_real_videos_are_kept(data: Path) -> None:
    for name, seconds in (("erhu", 3), ("scene_b", 3), ("helicopter_no_audio_2", 4)):
        path = data / "videos" / f"{name}.mp4"
        for start_s in range(seconds):
            assert seen(*(frame_at(path, start_s + u) for u in SPREAD)) == (), (name, start_s)
