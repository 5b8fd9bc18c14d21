"""Reading sounds: every format, rate and number of channels; every fault in one clear line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from soundsight.core.errors import AudioError
from soundsight.media import audio

RATE_HZ = 44_100


def sine(seconds: float = 1.0, rate_hz: int = RATE_HZ, f_hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * f_hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(
        np.float32
    )


def main_tone_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * RATE_HZ / len(samples))


def fault(path: Path, strict: bool = False) -> str:
    """The message of the error that reading ``path`` raises; it has to be one clear line."""
    with pytest.raises(AudioError) as caught:
        audio.decode(path, strict=strict)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message.replace(str(path), "FILE")


def warned(path: Path) -> tuple[np.ndarray, str]:
    """What can be read of ``path``, and the one line that says that it is not all."""
    sound = audio.stream(path)
    samples = np.concatenate(list(sound))
    (told,) = sound.warnings
    assert "\n" not in told
    assert told.startswith(str(path))
    return samples, told.replace(str(path), "FILE")


# --- formats ---------------------------------------------------------------------------------

WAV_SUBTYPES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]


@pytest.mark.parametrize("subtype", WAV_SUBTYPES)
def test_every_kind_of_wav(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(), RATE_HZ, subtype=subtype)
    samples = audio.decode(path)
    assert samples.dtype == np.float32
    assert samples.shape == (RATE_HZ,)
    tolerance = 0.02 if subtype in ("PCM_U8", "ULAW", "ALAW") else 1e-4
    np.testing.assert_allclose(samples, sine(), atol=tolerance)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.aiff", "a.au", "a.w64", "a.caf"])
def test_what_libsndfile_writes(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, sine(2.0), RATE_HZ)
    samples = audio.decode(tmp_path / name)
    # FFmpeg's Vorbis decoder starts with half a block.
    assert 2 * RATE_HZ - (128 if name == "a.ogg" else 0) <= len(samples) <= 2 * RATE_HZ
    assert main_tone_hz(samples) == pytest.approx(440, abs=1)
    assert Path(name).suffix in audio.SOUND_SUFFIXES


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz"),
    [
        ("a.mp3", "libmp3lame", 44_100), ("a.m4a", "aac", 44_100), ("a.aac", "aac", 48_000),
        ("a.mp4", "aac", 16_000), ("a.mkv", "aac", 44_100), ("a.webm", "libopus", 48_000),
        ("a.opus", "libopus", 48_000), ("a.mov", "pcm_s24le", 96_000), ("a.mkv", "pcm_f64le", 8000),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2])
def test_what_ffmpeg_reads(tmp_path: Path, encode, name, codec, rate_hz, channels) -> None:
    tone = sine(2.0, rate_hz)
    encode(tmp_path / name, tone if channels == 1 else np.stack([tone, tone], 1), codec, rate_hz)
    samples = audio.decode(tmp_path / name)
    assert len(samples) / RATE_HZ == pytest.approx(2.0, abs=0.15)
    assert main_tone_hz(samples) == pytest.approx(440, abs=1)
    assert np.std(samples[20_000:60_000]) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
    info = audio.probe(tmp_path / name)
    assert (info.rate_hz, info.channels) == (rate_hz, channels)
    assert info.duration_s == pytest.approx(2.0, abs=0.15)
    assert Path(name).suffix in audio.SOUND_SUFFIXES


def test_the_name_does_not_matter(tmp_path: Path, encode) -> None:
    encode(tmp_path / "a.mp3", sine(), "libmp3lame")
    shutil.move(tmp_path / "a.mp3", tmp_path / "mp3.wav")
    soundfile.write(tmp_path / "a.wav", sine(), RATE_HZ)
    for name in ("wav.mp3", "wav.raw", "wav", "wav.mp4"):
        shutil.copy(tmp_path / "a.wav", tmp_path / name)
        np.testing.assert_allclose(audio.decode(tmp_path / name), sine(), atol=1e-4)
    assert main_tone_hz(audio.decode(tmp_path / "mp3.wav")) == pytest.approx(440, abs=2)


def test_an_mp3_with_tags_and_without_a_declared_length(tmp_path: Path, encode) -> None:
    path = encode(tmp_path / "a.mp3", sine(2.0), "libmp3lame", write_xing="0", id3v2_version="0")
    assert len(audio.decode(path)) / RATE_HZ == pytest.approx(2, abs=0.1)
    data = path.read_bytes()
    path.write_bytes(data + b"TAG" + bytes(125))
    assert len(audio.decode(path)) / RATE_HZ == pytest.approx(2, abs=0.1)
    path.write_bytes(data[: len(data) // 2 - 7])
    samples, told = warned(path)
    assert len(samples) / RATE_HZ == pytest.approx(1, abs=0.1)
    assert "is damaged at 1.0" in told
    assert "cut short" in fault(path, strict=True)


@pytest.mark.parametrize("rate_hz", [4000, 8000, 11_025, 16_000, 22_050, 48_000, 96_000, 384_000])
def test_rates(tmp_path: Path, rate_hz: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(1.0, rate_hz), rate_hz, subtype="FLOAT")
    samples = audio.decode(path)
    assert len(samples) == RATE_HZ
    np.testing.assert_allclose(samples[2000:-2000], sine()[2000:-2000], atol=2e-3)
    np.testing.assert_array_equal(audio.from_array(sine(1.0, rate_hz), rate_hz), samples)


@pytest.mark.parametrize("channels", range(1, 9))
def test_a_sound_that_is_the_same_in_all_channels(tmp_path: Path, channels: int) -> None:
    many = np.repeat(sine()[:, None], channels, axis=1)
    soundfile.write(tmp_path / "a.wav", many, RATE_HZ, subtype="FLOAT")
    np.testing.assert_allclose(audio.decode(tmp_path / "a.wav"), sine(), atol=1e-6)


def test_probe(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((24_000, 2)), 48_000)
    assert audio.probe(tmp_path / "a.wav") == audio.AudioInfo(
        rate_hz=48_000, channels=2, duration_s=0.5, codec="pcm_s16le"
    )


def test_blocks_join_to_the_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", 0.1 * rng.standard_normal(160_001), 16_000, "FLOAT")
    whole = audio.decode(tmp_path / "a.wav")
    assert len(whole) == round(160_001 * 44_100 / 16_000)
    for block_s in (0.01, 0.25, 3.0, 60.0):
        blocks = list(audio.stream(tmp_path / "a.wav", block_s=block_s))
        assert {len(block) for block in blocks[:-1]} <= {round(block_s * RATE_HZ)}
        np.testing.assert_array_equal(np.concatenate(blocks), whole)
    other = audio.decode(tmp_path / "a.wav", rate_hz=16_000)
    assert len(other) == 160_001


def test_three_hours_need_no_more_memory(tmp_path: Path) -> None:
    """Constant memory, shown on ten minutes in a process of its own."""
    path = tmp_path / "long.wav"
    rng = np.random.default_rng(0)
    minute = (1000 * rng.standard_normal((60 * 16_000, 2))).astype(np.int16)
    with soundfile.SoundFile(path, "w", 16_000, 2, "PCM_16") as file:
        for _ in range(10):
            file.write(minute)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from soundsight.media import audio\n"
        "n = sum(len(b) for b in audio.stream(sys.argv[1]))\n"
        "status = Path('/proc/self/status')\n"
        "text = status.read_text() if status.exists() else 'VmHWM: 0 kB'\n"
        "print(n, text.split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    count, peak_kb = map(int, done.stdout.split())
    assert count == 600 * RATE_HZ
    assert peak_kb < 150_000


# --- arrays ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"),
    [
        (np.int8, 2**7, 0), (np.int16, 2**15, 0), (np.int32, 2**31, 0), (np.uint8, 2**7, 128),
        (np.float16, 1, 0), (np.float32, 1, 0), (np.float64, 1, 0),
    ],
)  # fmt: skip
def test_arrays_of_every_type(dtype, scale: int, offset: int) -> None:
    values = np.rint(sine().astype(np.float64) * scale) if scale > 1 else sine()
    array = (values + offset).astype(dtype)
    samples = audio.from_array(array, RATE_HZ)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(
        samples, sine(), atol=max(1e-3, 1 / scale) if scale < 2**20 else 1e-6
    )


def test_full_scale_integers_reach_one() -> None:
    array = np.full(RATE_HZ, -(2**15), np.int16)
    assert (audio.from_array(array, RATE_HZ) == -1).all()


def test_arrays_of_every_shape() -> None:
    two = np.stack([sine(), 0 * sine()], axis=1)
    for array in (two, two.T, two.T.copy(), two.tolist()):
        np.testing.assert_allclose(audio.from_array(array, RATE_HZ), sine(), atol=1e-6)
    np.testing.assert_allclose(audio.from_array(sine()[:, None], RATE_HZ), sine(), atol=1e-7)


@pytest.mark.parametrize(
    ("array", "rate_hz", "says"),
    [
        (np.zeros(0), 44_100, "no sound"),
        (np.zeros(4000), 44_100, "only 91 ms"),
        (np.zeros((44_100, 9)), 44_100, "9 channels"),
        (np.zeros((2, 3, 44_100)), 44_100, "shape"),
        (np.float32(1.0), 44_100, "shape"),
        (np.zeros(44_100, complex), 44_100, "complex128"),
        (np.zeros(44_100, bool), 44_100, "bool"),
        (np.zeros(44_100, np.int64), 44_100, "int64"),
        (np.full(44_100, np.nan), 44_100, "finite number at 0.00 s"),
        (np.full(44_100, 1e300), 44_100, "finite number"),
        (np.zeros(44_100), 0, "0 Hz"),
        (np.zeros(44_100), 768_000, "768000 Hz"),
    ],
)
def test_arrays_that_are_no_sound(array, rate_hz: int, says: str) -> None:
    with pytest.raises(AudioError, match=says) as caught:
        audio.from_array(array, rate_hz)
    assert "\n" not in str(caught.value)


# --- faults ----------------------------------------------------------------------------------


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder.wav").mkdir()
    assert "does not exist" in fault(tmp_path / "missing.wav")
    assert "is a folder" in fault(tmp_path / "folder.wav")
    assert "is empty" in fault(tmp_path / "empty.wav")
    if hasattr(os, "geteuid") and os.geteuid():
        soundfile.write(tmp_path / "locked.wav", sine(), RATE_HZ)
        (tmp_path / "locked.wav").chmod(0)
        assert "ermission denied" in fault(tmp_path / "locked.wav")
    with pytest.raises(AudioError, match="cannot read"):
        audio.decode("a\0b.wav")


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".mp4", ".ogg", ".flac", ".txt"])
def test_files_that_are_no_sound(tmp_path: Path, suffix: str) -> None:
    text = tmp_path / f"text{suffix}"
    text.write_text("no sound at all\n" * 200)
    assert "no sound or video" in fault(text)
    junk = tmp_path / f"junk{suffix}"
    junk.write_bytes(np.random.default_rng(1).bytes(30_000))
    assert "no sound or video" in fault(junk)


def test_photos_are_no_sound(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a.png", "a.jpg", "a.gif"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
        assert "no sound or video" in fault(tmp_path / name)


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.099])
@pytest.mark.parametrize("rate_hz", [8000, 44_100])
def test_too_short(tmp_path: Path, seconds: float, rate_hz: int) -> None:
    soundfile.write(tmp_path / "a.wav", sine(seconds, rate_hz), rate_hz)
    assert "at least 100 ms" in fault(tmp_path / "a.wav")
    soundfile.write(tmp_path / "a.wav", sine(0.1, rate_hz), rate_hz)
    assert len(audio.decode(tmp_path / "a.wav")) == 4410


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, value: float) -> None:
    samples = np.stack([sine(3.0)] * 2, axis=1)
    samples[round(2.5 * RATE_HZ), 1] = value
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    assert "2.50 s" in fault(tmp_path / "a.wav")


@pytest.mark.parametrize("rate_hz", [0, 1000, 768_000])
def test_rates_out_of_range(tmp_path: Path, rate_hz: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(), RATE_HZ)
    data = bytearray(path.read_bytes())
    data[24:28] = rate_hz.to_bytes(4, "little")
    path.write_bytes(data)
    assert f"sample rate of {rate_hz} Hz" in fault(path)


def test_too_many_channels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((RATE_HZ, 9)), RATE_HZ)
    assert "9 channels" in fault(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp3", "libmp3lame", {}), ("a.mp3", "libmp3lame", {"write_xing": "0"}),
        ("a.mp4", "aac", {}), ("a.mp4", "aac", {"movflags": "faststart"}), ("a.mkv", "aac", {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_cut_files(tmp_path: Path, encode, name, codec, options, share) -> None:
    path = encode(tmp_path / name, sine(8.0), codec, RATE_HZ, **options)
    data = path.read_bytes()
    path.write_bytes(data[: round(share * len(data))])
    if name == "a.mp4" and not options:
        # Its table of contents stood at the end: nothing can be found without it.
        assert "cut short" in fault(path)
        return
    assert "cut short" in fault(path, strict=True)
    samples, told = warned(path)
    assert len(samples) / RATE_HZ == pytest.approx(8 * share, abs=0.3)
    assert "what can be read is used" in told


def test_a_cut_flac(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    rng = np.random.default_rng(0)
    soundfile.write(path, 0.1 * rng.standard_normal(8 * RATE_HZ), RATE_HZ)
    whole = path.read_bytes()
    path.write_bytes(whole[:300_000])
    assert "cut short" in fault(path, strict=True)
    samples, told = warned(path)
    assert len(samples) / RATE_HZ == pytest.approx(8 * 300_000 / len(whole), abs=0.2)
    assert "is cut short: it says it lasts 8.00 s" in told


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au", "a.w64", "a.caf"])
def test_a_recording_without_coding_that_is_cut(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    soundfile.write(path, sine(8.0), RATE_HZ, "PCM_16")
    path.write_bytes(path.read_bytes()[:300_001])
    assert "cut short" in fault(path, strict=True)
    samples, _ = warned(path)
    assert len(samples) / RATE_HZ == pytest.approx(300_001 / 2 / RATE_HZ, abs=0.05)


@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0x8000_0000, 0xFFFF_FFFF])
def test_a_wav_whose_recorder_did_not_know_its_length(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(2.0), RATE_HZ, "PCM_16")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = size.to_bytes(4, "little")
    data[4:8] = min(size + 36 if size else 0, 0xFFFF_FFFF).to_bytes(4, "little")
    path.write_bytes(data)
    sound = audio.stream(path, strict=True)
    np.testing.assert_allclose(np.concatenate(list(sound)), sine(2.0), atol=1e-4)
    assert sound.warnings == []


def test_an_mp3_with_a_hole(tmp_path: Path, encode) -> None:
    path = encode(tmp_path / "a.mp3", sine(8.0), "libmp3lame")
    data = bytearray(path.read_bytes())
    data[30_000:34_000] = bytes(4000)
    path.write_bytes(data)
    assert "damaged" in fault(path, strict=True)
    samples, told = warned(path)
    # An MP3 has no time stamps: what is lost is not replaced.
    assert len(samples) / RATE_HZ == pytest.approx(7.4, abs=0.3)
    assert "is damaged at 3.7" in told


def test_a_video_without_sound(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=10)
        track.width = track.height = 64
        track.pix_fmt = "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    assert "has no sound track" in fault(path)


def test_the_libraries_print_nothing(tmp_path: Path, encode, capfd) -> None:
    path = encode(tmp_path / "a.mp3", sine(3.0), "libmp3lame")
    data = path.read_bytes()
    capfd.readouterr()
    for name, content in {
        "cut.mp3": data[:10_000], "hole.mp3": data[:9000] + bytes(3000) + data[12_000:],
        "junk.mp3": np.random.default_rng(0).bytes(50_000), "head.mp4": b"\0\0\0\x20ftypisom" * 9,
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
        fault(tmp_path / name, strict=True)
    assert capfd.readouterr() == ("", "")


def test_import_is_light() -> None:
    script = (
        "import sys, soundsight.media.audio, soundsight.media.mel\n"
        "print([m for m in ('av', 'soxr', 'scipy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# --- real files ------------------------------------------------------------------------------


def test_real_sounds(bench: Path) -> None:
    files = sorted((bench / "sounds").glob("*.ogg"))[::20]
    assert files
    for file in files:
        samples = audio.decode(file)
        assert len(samples) / RATE_HZ == pytest.approx(5, abs=0.1)
        assert 0.001 < np.abs(samples).max() < 1.5


def test_real_videos(bench: Path) -> None:
    files = sorted((bench / "videos").glob("*.mp4"))
    assert files
    heard = 0
    for file in files:
        if "no_audio" in file.name:
            assert "has no sound track" in fault(file)
            continue
        duration_s = audio.probe(file).duration_s
        assert duration_s is not None
        assert len(audio.decode(file)) / RATE_HZ == pytest.approx(duration_s, abs=0.1)
        heard += 1
    assert heard == 6
