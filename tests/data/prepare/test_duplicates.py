"""Near-duplicates: copies are found however they were changed, like videos are told apart."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes import synth
from soundsight.data.prepare import duplicates
from soundsight.data.prepare.duplicates import (
    Duplicates,
    Printer,
    VideoPrint,
    find_duplicates,
    picture_bits,
    same_picture,
    same_sound,
    sound_bits,
)
from soundsight.data.vegas.bench import BENCH_VARIABLE, DEFAULT_BENCH
from soundsight.media import audio, mel

pytest.importorskip("imagehash", reason="the extra 'prepare' is not installed")

RATE_HZ = 44_100


def picture(seed: int) -> np.ndarray:
    """A picture with the spectrum of photos (1 / f): uint8 [96, 96, 3]."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(96)[:, None], np.fft.fftfreq(96)[None])
    f[0, 0] = np.inf
    plane = np.fft.ifft2(np.fft.fft2(rng.standard_normal((96, 96))) / f**1.5).real
    grey = 120 + 40 * plane / plane.std()
    tint = rng.uniform(0.8, 1.2, 3)
    return np.clip(grey[..., None] * tint, 0, 255).astype(np.uint8)


def changed(image: np.ndarray) -> np.ndarray:
    """Crop 4 % away, make it smaller and larger again, and brighter."""
    small = Image.fromarray(image[2:-2, 2:-2]).resize((64, 64)).resize((96, 96))
    return np.clip(1.15 * np.asarray(small) + 5.0, 0, 255).astype(np.uint8)


def tune(seed: int, seconds: float) -> np.ndarray:
    """Notes of random pitch and length over noise, float32 [t]."""
    rng = np.random.default_rng(seed)
    count = round(seconds * RATE_HZ)
    t_s = np.arange(count) / RATE_HZ
    samples = 0.01 * rng.standard_normal(count)
    at_s = 0.0
    while at_s < seconds:
        since_s = t_s - at_s
        ring = np.where(since_s >= 0, np.exp(-6 * np.maximum(since_s, 0)), 0.0)
        for harmonic in range(1, 6):
            samples += ring * np.sin(2 * np.pi * harmonic * rng.uniform(120, 900) * t_s) / harmonic
        at_s += rng.uniform(0.15, 0.5)
    return (0.5 * samples / np.abs(samples).max()).astype(np.float32)


def print_of(key: str, mels: list[np.ndarray], images: list[np.ndarray]) -> VideoPrint:
    printer = Printer()
    for second, (levels, image) in enumerate(zip(mels, images, strict=False)):
        printer.add(float(second), levels, image)
    return printer.finish(key)


def made(key: str, sound: np.ndarray, images: list[np.ndarray]) -> VideoPrint:
    levels = mel.log_mel(sound)
    count = min(levels.shape[1] // 100, len(images))
    return print_of(key, [levels[:, 100 * k : 100 * (k + 1)] for k in range(count)], images)


def bare(
    key: str, pictures: list[int] | np.ndarray, sounds: np.ndarray | None = None
) -> VideoPrint:
    sounds = np.empty(0, np.uint32) if sounds is None else sounds.astype(np.uint32)
    return VideoPrint(
        key=key,
        pictures=np.asarray(pictures, dtype=np.uint64),
        sounds=sounds,
        sound_at=np.arange(len(sounds), dtype=np.int32),
    )


# --- prints ----------------------------------------------------------------------------------


def test_a_print_travels_as_json_and_a_damaged_one_is_refused() -> None:
    video = made("a/é \udce9.mp4", tune(0, 4), [picture(k) for k in range(4)])
    assert len(video.pictures) == 4
    assert len(video.sounds) == len(video.sound_at) > 40
    values = json.loads(json.dumps(video.to_json()))
    again = VideoPrint.from_json(values)
    assert again.key == video.key
    for name in ("pictures", "sounds", "sound_at"):
        value = getattr(again, name)
        np.testing.assert_array_equal(value, getattr(video, name))
        assert value.dtype == getattr(video, name).dtype


def test_flat_pictures_and_unchanging_sounds_leave_nothing() -> None:
    t_s = np.arange(2 * RATE_HZ) / RATE_HZ
    assert picture_bits(np.zeros((96, 96, 3), np.uint8)) is None
    assert picture_bits(np.full((96, 96, 3), 90, np.uint8)) is None
    assert picture_bits(picture(0)) is not None
    for sound in (np.zeros(2 * RATE_HZ), 0.5 * np.sin(2 * np.pi * 1000 * t_s)):
        bits, frames = sound_bits(mel.log_mel(sound))
        assert len(bits) == len(frames) == 0
    assert len(sound_bits(np.zeros((128, 20), np.uint8))[0]) == 0


def test_a_long_video_is_thinned_evenly_and_always_alike() -> None:
    levels = mel.log_mel(tune(1, 1))
    images = [picture(k) for k in range(8)]
    printer, whole = Printer(max_seconds=10), Printer(max_seconds=1000)
    for second in range(100):
        printer.add(second, levels, images[second % 8])
        whole.add(second, levels, images[second % 8])
    few, all_ = printer.finish("few"), whole.finish("all")
    assert len(all_.pictures) == 100
    np.testing.assert_array_equal(few.pictures, all_.pictures[::16])
    # What is kept has its own time, and the same bits.
    place = np.searchsorted(all_.sound_at, few.sound_at)
    np.testing.assert_array_equal(all_.sounds[place], few.sounds)


def test_seconds_that_follow_each_other_leave_no_gap() -> None:
    sound = tune(2, 5)
    levels = mel.log_mel(sound)
    whole, frames = sound_bits(levels)
    seconds = made("a", sound, [picture(0)] * 5)
    np.testing.assert_array_equal(seconds.sounds, whole)
    np.testing.assert_array_equal(seconds.sound_at * 5, frames)


# --- what agrees -----------------------------------------------------------------------------


def test_volume_trimming_and_changed_pictures_do_not_hide_a_copy() -> None:
    sound, images = tune(3, 9), [picture(100 + k // 3) for k in range(9)]
    first = made("first", sound, images)
    for name, start_s in (("louder", 0.0), ("later", 0.3), ("half", 0.5), ("seconds", 3.275)):
        part = 0.3 * sound[round(start_s * RATE_HZ) :]
        copy = made(name, part, [changed(image) for image in images[int(start_s) :]])
        assert same_picture(first, copy), name
        assert same_sound(first, copy), name
        found = find_duplicates([copy, first])
        assert found == Duplicates(groups=(("first", name),), duplicates={name: "first"})


def test_one_part_that_agrees_groups_and_drops_nothing() -> None:
    sounds, images = [tune(4, 6), tune(5, 6)], [[picture(k)] * 6 for k in range(2)]
    videos = [
        made("a", sounds[0], images[0]),
        made("b-same-sound", sounds[0], images[1]),
        made("c-other", tune(6, 6), [picture(9)] * 6),
        made("d-same-picture", sounds[1], images[0]),
    ]
    found = find_duplicates(videos)
    assert found.groups == (("a", "b-same-sound", "d-same-picture"),)
    assert found.duplicates == {}
    assert find_duplicates(videos[::-1]) == found
    assert find_duplicates([]) == Duplicates(groups=(), duplicates={})


def test_black_silent_and_toned_videos_are_no_copies() -> None:
    t_s = np.arange(5 * RATE_HZ) / RATE_HZ
    black = [np.zeros((96, 96, 3), np.uint8)] * 5
    tone = (0.5 * np.sin(2 * np.pi * 1000 * t_s)).astype(np.float32)
    hiss = [np.random.default_rng(k).standard_normal(len(t_s)) * 0.1 for k in range(2)]
    videos = [
        *(made(f"silent {k}", np.zeros(len(t_s)), black) for k in range(2)),
        *(made(f"tone {k}", tone, [picture(20 + k)] * 5) for k in range(2)),
        *(made(f"hiss {k}", hiss[k], [picture(30 + k)] * 5) for k in range(2)),
        *(made(f"intro {k}", tune(40 + k, 5), [picture(99)] + [picture(40 + k)] * 4)
          for k in range(2)),
    ]  # fmt: skip
    assert find_duplicates(videos) == Duplicates(groups=(), duplicates={})


def test_of_a_chain_of_copies_one_is_kept_for_each_dropped() -> None:
    rng = np.random.default_rng(0)
    bits, image = rng.integers(0, 2**32, 200), int(rng.integers(2**63))
    copies = [bare(f"copy {k}", [image] * 5, bits) for k in range(30)]
    found = find_duplicates(copies)
    assert found.groups == (tuple(sorted(video.key for video in copies)),)
    assert len(found.duplicates) == 29
    assert set(found.duplicates.values()) == {"copy 0"}


def test_a_scene_that_a_crowd_shares_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    scene = int(rng.integers(2**63))
    crowd = [bare(f"{k:03d}", [scene] * 5, rng.integers(0, 2**32, 100)) for k in range(60)]
    assert find_duplicates(crowd).groups == ()
    assert len(find_duplicates(crowd[:10]).groups[0]) == 10
    monkeypatch.setattr(duplicates, "CROWD", 1000)
    assert len(find_duplicates(crowd).groups[0]) == 60


def test_copies_are_found_among_many() -> None:
    rng = np.random.default_rng(2)
    videos = []
    for k in range(3000):
        videos.append(bare(f"v{k:05d}", rng.integers(0, 2**63, 6), rng.integers(0, 2**32, 120)))
    for k in range(0, 300, 3):
        bits = videos[k].sounds.copy()
        wrong = rng.random((len(bits), 32)) < 0.1
        bits ^= (wrong * (1 << np.arange(32))).sum(axis=1).astype(np.uint32)
        flips = (np.uint64(1) << rng.integers(0, 64, (6, 4)).astype(np.uint64)).T
        pictures = videos[k].pictures.copy()
        for flip in flips:
            pictures ^= flip
        videos.append(bare(f"w{k:05d}", pictures, bits))
    found = find_duplicates(videos)
    assert found.duplicates == {f"w{k:05d}": f"v{k:05d}" for k in range(0, 300, 3)}
    assert len(found.groups) == 100


@pytest.mark.slow
def test_toy_videos_are_not_taken_for_copies_by_their_sound() -> None:
    grey = [np.zeros((96, 96, 3), np.uint8)] * 4
    for subject in synth.SUBJECTS:
        videos = [made(f"{k}", synth.sound(subject, 4.0, k), grey) for k in range(6)]
        assert find_duplicates(videos) == Duplicates(groups=(), duplicates={}), subject


# --- real material ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos() -> Path:
    folder = Path(os.environ.get(BENCH_VARIABLE) or DEFAULT_BENCH) / "videos"
    if not folder.is_dir():
        pytest.skip(f"no bench at {folder}: set {BENCH_VARIABLE} to run this test")
    return folder


def encoded(path: Path, frames: list[np.ndarray], sound: np.ndarray) -> Path:
    """Write frames (uint8 [h, w, 3], 10 a second) and mono sound as mp4, coarsely."""
    import av

    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=10, options={"crf": "32"})
        track.height, track.width = frames[0].shape[:2]
        track.pix_fmt = "yuv420p"
        voice = container.add_stream("aac", rate=RATE_HZ, layout="mono", options={"b": "64k"})
        for frame in frames:
            container.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(track.encode(None))
        whole = av.AudioFrame.from_ndarray(sound[None].copy(), format="fltp", layout="mono")
        whole.sample_rate = RATE_HZ
        cutter = av.AudioResampler(format="fltp", layout="mono", rate=RATE_HZ, frame_size=1024)
        for piece in [*cutter.resample(whole), *cutter.resample(None)]:
            container.mux(voice.encode(piece))
        container.mux(voice.encode(None))
    return path


def frames_of(path: Path) -> tuple[list[np.ndarray], float]:
    """Every frame's central square, uint8 [180, 180, 3], and frames per second."""
    import av

    frames = []
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        for frame in container.decode(track):
            side = min(frame.width, frame.height)
            shape = (180 * frame.width // side, 180 * frame.height // side)
            whole = frame.to_ndarray(format="rgb24", width=shape[0], height=shape[1])
            left = (whole.shape[1] - 180) // 2
            frames.append(whole[:180, left : left + 180].copy())
        return frames, float(track.average_rate)


def read(path: Path, key: str) -> VideoPrint:
    levels = mel.log_mel(audio.decode(path)[: 8 * RATE_HZ])
    frames, fps = frames_of(path)
    count = min(levels.shape[1] // 100, int(len(frames) / fps))
    mels = [levels[:, 100 * k : 100 * (k + 1)] for k in range(count)]
    return print_of(key, mels, [frames[round((k + 0.5) * fps)] for k in range(count)])


@pytest.mark.slow
def test_real_videos_are_told_apart_and_their_copies_are_found(
    videos: Path, tmp_path: Path
) -> None:
    names = ("erhu", "lion", "scene_a", "scene_b", "scene_c")
    first = {name: read(videos / f"{name}.mp4", name) for name in names}
    assert find_duplicates(list(first.values())) == Duplicates(groups=(), duplicates={})
    for name, start_s in (("erhu", 0.3), ("scene_c", 2.3)):
        path = videos / f"{name}.mp4"
        sound = 0.5 * audio.decode(path)[round(start_s * RATE_HZ) : 8 * RATE_HZ]
        frames, fps = frames_of(path)
        shown = [frames[round(t_s * fps)][4:-4, 4:-4] for t_s in np.arange(start_s, 7.8, 0.1)]
        small = [np.asarray(Image.fromarray(frame).resize((160, 160))) for frame in shown]
        copy = read(encoded(tmp_path / f"{name}.mp4", small, sound), f"{name} again")
        found = find_duplicates([*first.values(), copy])
        assert found.duplicates == {f"{name} again": name}
        assert found.groups == ((name, f"{name} again"),)
