"""Reading sounds: every format, rate and number of channels; every fault in one clear line."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from soundsight.core.errors import AudioError
from soundsight.media import audio, decoder

RATE_HZ = 44_100


Encode = Callable[..., Path]


def tone(seconds: float = 1.0, f_hz: float = 440.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * f_hz * t)).astype(np.float32)


def tone_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * RATE_HZ / len(samples))


def seconds_of(samples: np.ndarray) -> float:
    return len(samples) / RATE_HZ


def heard_at(samples: np.ndarray, at_s: float) -> float:
    """The pitch of the half second around a time."""
    return tone_hz(samples[round((at_s - 0.25) * RATE_HZ) : round((at_s + 0.25) * RATE_HZ)])


def read(path: Path, **options: Any) -> tuple[np.ndarray, list[str]]:
    sound = audio.stream(path, **options)
    return np.concatenate(list(sound)), sound.warnings


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
    samples, (told,) = read(path)
    assert "\n" not in told
    assert told.startswith(str(path))
    return samples, told.replace(str(path), "FILE")


# --- formats ---------------------------------------------------------------------------------

WAV_SUBTYPES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]


@pytest.mark.parametrize("subtype", WAV_SUBTYPES)
def test_every_kind_of_wav(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), RATE_HZ, subtype=subtype)
    samples = audio.decode(path)
    assert samples.dtype == np.float32
    assert samples.shape == (RATE_HZ,)
    tolerance = 0.02 if subtype in ("PCM_U8", "ULAW", "ALAW") else 1e-4
    np.testing.assert_allclose(samples, tone(), atol=tolerance)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.aiff", "a.au", "a.w64", "a.caf"])
def test_what_libsndfile_writes(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, tone(2.0), RATE_HZ)
    samples = audio.decode(tmp_path / name)
    # FFmpeg's Vorbis decoder starts with half a block.
    assert 2 * RATE_HZ - (128 if name == "a.ogg" else 0) <= len(samples) <= 2 * RATE_HZ
    assert tone_hz(samples) == pytest.approx(440, abs=1)
    assert Path(name).suffix in audio.SOUND_SUFFIXES


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz"),
    [
        ("a.mp3", "libmp3lame", 44_100), ("a.m4a", "aac", 44_100), ("a.aac", "aac", 48_000),
        ("a.mp4", "aac", 16_000), ("a.mkv", "aac", 44_100), ("a.webm", "libopus", 48_000),
        ("a.opus", "libopus", 48_000), ("a.avi", "aac", 44_100), ("a.mov", "pcm_s24le", 96_000),
        ("a.mkv", "pcm_f64le", 8000), ("a.wma", "wmav2", 44_100),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2])
def test_what_ffmpeg_reads(tmp_path: Path, encode, name, codec, rate_hz, channels) -> None:
    sound = np.repeat(tone(2.0, rate_hz=rate_hz)[:, None], channels, axis=1)
    encode(tmp_path / name, sound, codec, rate_hz)
    samples = audio.decode(tmp_path / name)
    assert seconds_of(samples) == pytest.approx(2.0, abs=0.15)
    assert tone_hz(samples) == pytest.approx(440, abs=1)
    assert np.std(samples[20_000:60_000]) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
    with audio.stream(tmp_path / name, rate_hz=None) as sound:
        assert sound.rate_hz == rate_hz
        assert sound.duration_s == pytest.approx(2.0, abs=0.15)
    assert Path(name).suffix in audio.SOUND_SUFFIXES


def test_the_name_does_not_matter(tmp_path: Path, encode) -> None:
    encode(tmp_path / "a.mp3", tone(), "libmp3lame")
    shutil.move(tmp_path / "a.mp3", tmp_path / "mp3.wav")
    soundfile.write(tmp_path / "a.wav", tone(), RATE_HZ)
    for name in ("wav.mp3", "wav.raw", "wav", "wav.mp4"):
        shutil.copy(tmp_path / "a.wav", tmp_path / name)
        np.testing.assert_allclose(audio.decode(tmp_path / name), tone(), atol=1e-4)
    assert tone_hz(audio.decode(tmp_path / "mp3.wav")) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("rate_hz", [4000, 8000, 11_025, 16_000, 22_050, 48_000, 96_000, 384_000])
def test_rates(tmp_path: Path, rate_hz: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0, rate_hz=rate_hz), rate_hz, subtype="FLOAT")
    samples = audio.decode(path)
    assert len(samples) == RATE_HZ
    np.testing.assert_allclose(samples[2000:-2000], tone()[2000:-2000], atol=2e-3)
    np.testing.assert_array_equal(audio.from_array(tone(1.0, rate_hz=rate_hz), rate_hz), samples)


def test_a_sound_that_is_the_same_in_all_channels(tmp_path: Path) -> None:
    for channels in range(1, 9):
        many = np.repeat(tone()[:, None], channels, axis=1)
        soundfile.write(tmp_path / "a.wav", many, RATE_HZ, subtype="FLOAT")
        np.testing.assert_allclose(audio.decode(tmp_path / "a.wav"), tone(), atol=1e-6)


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
    """Constant memory, shown on five minutes in a process of its own."""
    path = tmp_path / "long.wav"
    minute = np.random.default_rng(0).normal(0, 1000, (60 * 16_000, 2)).astype(np.int16)
    soundfile.write(path, np.tile(minute, (5, 1)), 16_000)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from soundsight.media import audio\n"
        "n = sum(len(b) for b in audio.stream(sys.argv[1]))\n"
        "print(n, Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    count, peak_kb = map(int, done.stdout.split())
    assert count == 300 * RATE_HZ
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
    values = np.rint(tone().astype(np.float64) * scale) if scale > 1 else tone()
    array = (values + offset).astype(dtype)
    samples = audio.from_array(array, RATE_HZ)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(
        samples, tone(), atol=max(1e-3, 1 / scale) if scale < 2**20 else 1e-6
    )


def test_arrays_of_every_shape() -> None:
    two = np.stack([tone(), 0 * tone()], axis=1)
    for array in (two, two.T, two.T.copy(), two.tolist(), tone()[:, None]):
        np.testing.assert_allclose(audio.from_array(array, RATE_HZ), tone(), atol=1e-6)
    assert (audio.from_array(np.full(RATE_HZ, -(2**15), np.int16), RATE_HZ) == -1).all()


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
        soundfile.write(tmp_path / "locked.wav", tone(), RATE_HZ)
        (tmp_path / "locked.wav").chmod(0)
        assert "ermission denied" in fault(tmp_path / "locked.wav")
    with pytest.raises(AudioError, match="cannot read"):
        audio.decode("a\0b.wav")


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".mp4", ".ogg", ".flac", ".txt"])
def test_files_that_are_no_sound(tmp_path: Path, suffix: str) -> None:
    text, junk = tmp_path / f"text{suffix}", tmp_path / f"junk{suffix}"
    text.write_text("no sound at all\n" * 200)
    junk.write_bytes(np.random.default_rng(1).bytes(30_000))
    photos = [tmp_path / name for name in ("a.png", "a.jpg", "a.gif")]
    for photo in photos:
        Image.new("RGB", (32, 32)).save(photo)
    for path in (text, junk, *photos):
        assert "no sound or video" in fault(path)


@pytest.mark.parametrize("rate_hz", [8000, 44_100])
def test_too_short(tmp_path: Path, rate_hz: int) -> None:
    path = tmp_path / "a.wav"
    for seconds in (0.0, 0.05, 0.099):
        soundfile.write(path, tone(seconds, rate_hz=rate_hz), rate_hz)
        assert "at least 100 ms" in fault(path)
    soundfile.write(path, tone(0.1, rate_hz=rate_hz), rate_hz)
    assert len(audio.decode(path)) == 4410


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, value: float) -> None:
    samples = np.stack([tone(3.0)] * 2, axis=1)
    samples[round(2.5 * RATE_HZ), 1] = value
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    assert "2.50 s" in fault(tmp_path / "a.wav")


def test_rates_and_channels_out_of_range(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for rate_hz in (0, 1000, 768_000):
        soundfile.write(path, tone(), RATE_HZ)
        data = bytearray(path.read_bytes())
        data[24:28] = rate_hz.to_bytes(4, "little")
        path.write_bytes(data)
        assert f"sample rate of {rate_hz} Hz" in fault(path)
    soundfile.write(path, np.zeros((RATE_HZ, 9)), RATE_HZ)
    assert "9 channels" in fault(path)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp3", "libmp3lame", {}), ("a.mp3", "libmp3lame", {"write_xing": "0"}),
        ("a.mp4", "aac", {}), ("a.mp4", "aac", {"movflags": "faststart"}), ("a.mkv", "aac", {}),
    ],
)  # fmt: skip
def test_cut_files(tmp_path: Path, encode, name, codec, options) -> None:
    path = encode(tmp_path / name, tone(8.0), codec, RATE_HZ, **options)
    data = path.read_bytes()
    for share in (0.3, 0.5, 0.8):
        path.write_bytes(data[: round(share * len(data))])
        assert "cut short" in fault(path, strict=True)
        if name == "a.mp4" and not options:
            # Its table of contents stood at the end: nothing can be found without it.
            assert "cut short" in fault(path)
            continue
        samples, told = warned(path)
        assert seconds_of(samples) == pytest.approx(8 * share, abs=0.3)
        assert "what can be read is used" in told


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au", "a.w64", "a.caf", "a.flac"])
def test_a_recording_without_loss_that_is_cut(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    noise = 0.1 * np.random.default_rng(0).standard_normal(8 * RATE_HZ)
    soundfile.write(path, noise, RATE_HZ, "PCM_16")
    whole = path.read_bytes()
    path.write_bytes(whole[:300_001])
    assert "cut short" in fault(path, strict=True)
    samples, told = warned(path)
    expected_s = 8 * 300_001 / len(whole)
    assert seconds_of(samples) == pytest.approx(expected_s, abs=0.2 if name == "a.flac" else 0.05)
    if name == "a.flac":
        assert "is cut short: it says it lasts 8.00 s" in told


@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0x8000_0000, 0xFFFF_FFFF])
def test_a_wav_whose_recorder_did_not_know_its_length(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(2.0), RATE_HZ, "PCM_16")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = size.to_bytes(4, "little")
    data[4:8] = min(size + 36 if size else 0, 0xFFFF_FFFF).to_bytes(4, "little")
    path.write_bytes(data)
    sound = audio.stream(path, strict=True)
    np.testing.assert_allclose(np.concatenate(list(sound)), tone(2.0), atol=1e-4)
    assert sound.warnings == []


def test_an_mp3_with_a_hole(tmp_path: Path, encode) -> None:
    path = encode(tmp_path / "a.mp3", tone(8.0), "libmp3lame")
    data = bytearray(path.read_bytes())
    data[30_000:34_000] = bytes(4000)
    path.write_bytes(data)
    assert "damaged" in fault(path, strict=True)
    samples, told = warned(path)
    # An MP3 has no time stamps: what is lost is not replaced.
    assert seconds_of(samples) == pytest.approx(7.4, abs=0.3)
    assert "is damaged at 3.7" in told


def test_a_video_without_sound(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.mp4", None, picture_s=1.0)
    assert fault(path) == "FILE has no sound track: pass a file with sound"


def test_the_libraries_print_nothing(tmp_path: Path, encode, capfd) -> None:
    path = encode(tmp_path / "a.mp3", tone(3.0), "libmp3lame")
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


# --- tracks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_of_two_tracks_the_one_that_sounds_is_heard(
    tmp_path: Path, encode: Encode, name: str
) -> None:
    silent = np.zeros(3 * RATE_HZ, np.float32)
    path = encode(tmp_path / name, [silent, tone(3, 440), tone(3, 880)], "aac")
    samples, (told,) = read(path)
    assert tone_hz(samples) == pytest.approx(440, abs=1)
    assert told.replace(str(path), "FILE") == (
        "FILE has 3 sound tracks: track 2 is heard, the first that sounds "
        "(the option track takes another)"
    )
    assert tone_hz(read(path, track=3)[0]) == pytest.approx(880, abs=1)
    assert np.abs(read(path, track=1)[0]).max() < 1e-3
    assert read(path, track=3)[1] == []
    # A file with several tracks is whole.
    assert tone_hz(read(path, strict=True)[0]) == pytest.approx(440, abs=1)
    for wrong in (0, 4, -1):
        with pytest.raises(AudioError, match=f"has 3 sound tracks: there is no track {wrong}"):
            audio.stream(path, track=wrong)


def test_the_default_track_comes_first(tmp_path: Path, encode: Encode) -> None:
    silent = np.zeros(2 * RATE_HZ, np.float32)
    path = encode(tmp_path / "a.mkv", [tone(2, 440), tone(2, 880)], "aac", default=1)
    assert tone_hz(read(path)[0]) == pytest.approx(880, abs=1)
    path = encode(tmp_path / "b.mkv", [tone(2, 440), silent], "aac", default=1)
    assert tone_hz(read(path)[0]) == pytest.approx(440, abs=1)
    samples, (told,) = read(encode(tmp_path / "c.mkv", [silent, silent], "aac"))
    assert np.abs(samples).max() < 1e-3
    assert "track 1 is heard, as none sounds" in told


# --- what is joined, missing or changes --------------------------------------------------------


def test_a_gap_is_silence_and_moves_nothing(tmp_path: Path, encode: Encode) -> None:
    """Two seconds that a recorder lost: the tone after them begins where a player plays it."""
    samples, warnings = read(encode(tmp_path / "a.mp4", tone(4), holes={2.0: 2.0}), strict=True)
    assert warnings == []
    assert seconds_of(samples) == pytest.approx(6, abs=0.1)
    loud = np.abs(samples) > 0.3
    assert not loud[int(2.2 * RATE_HZ) : int(3.9 * RATE_HZ)].any()
    assert loud[int(4.1 * RATE_HZ) : int(4.2 * RATE_HZ)].any()


@pytest.mark.parametrize(("codec", "name"), [("VORBIS", "ogg"), ("OPUS", "opus")])
def test_a_chain_of_recordings_is_heard_to_its_end(tmp_path: Path, codec: str, name: str) -> None:
    links = []
    for f_hz, seconds in ((440, 2.0), (880, 3.0), (1320, 1.0)):
        link = tmp_path / f"{f_hz}.{name}"
        soundfile.write(link, tone(seconds, f_hz, 48_000), 48_000, codec, format="OGG")
        links.append(link.read_bytes())
    path = tmp_path / f"chain.{name}"
    path.write_bytes(b"".join(links))
    samples, warnings = read(path, strict=True)
    assert warnings == []
    assert seconds_of(samples) == pytest.approx(6, abs=0.1)
    assert [heard_at(samples, s) for s in (1, 3.5, 5.4)] == pytest.approx([440, 880, 1320], abs=5)


def test_transport_streams_one_after_the_other(tmp_path: Path, encode: Encode) -> None:
    """Each has a clock of its own; the second one's may begin a little later."""
    first = encode(tmp_path / "440.ts", tone(6, 440), "mp2").read_bytes()
    path = tmp_path / "a.ts"
    for later_s in (0.0, 0.3, 1.0, 30.0):
        later = {"output_ts_offset": str(later_s)}
        second = encode(tmp_path / "880.ts", tone(6, 880), "mp2", **later)
        path.write_bytes(first + second.read_bytes())
        samples, _ = read(path)
        hole_s = later_s - 6 if later_s > 6 else 0
        assert seconds_of(samples) == pytest.approx(12 + hole_s, abs=0.3)
        assert heard_at(samples, hole_s + 9) == pytest.approx(880, 0.01)
        if later_s < 6:
            # The picture of a video goes by the first clock: its sound ends with it.
            with audio.soundtrack(path) as part:
                samples = np.concatenate(list(part))
                (told,) = part.damages
            assert seconds_of(samples) == pytest.approx(6, abs=0.2)
            assert "is damaged at 6.0" in told


STEPS = [
    # (stamps of runs of 1 s, what lies before each, whether it is damage)
    ([0, 1, 2], [0, 0, 0], False),
    ([5, 6.02, 6.99], [0, 0, 0], False),
    ([0, 3, 4], [0, 2, 0], False),
    ([0, 1, 1.5], [0, 0, -0.5], False),
    ([0, 1, 1.94, 2.88], [0, 0, -0.06, -0.06], False),
    ([90_000, 90_001], [0, 0], True),
    ([0, 1, 2, 3, 4, 0, 1], [0] * 7, False),
    ([0, 1, 2, 3, 4, 0.9, 1.9], [0] * 7, False),
    ([0, 1, 1000, 1001], [0] * 4, True),
]


@pytest.mark.parametrize(("stamps_s", "steps_s", "is_damage"), STEPS)
def test_where_runs_belong(stamps_s: list[float], steps_s: list[float], is_damage: bool) -> None:
    faults = decoder.Faults("a")
    clock = decoder._Clock(faults, joins=True)
    found = []
    for at_s in stamps_s:
        step_s = clock.step(at_s, 8000)
        assert step_s is not None
        found.append(step_s)
        clock.samples += round((1 + step_s) * 8000)
    assert found == pytest.approx(steps_s)
    assert bool(faults.damages) == is_damage


def test_a_rate_that_changes_is_resampled_on(tmp_path: Path, encode: Encode) -> None:
    """Two files of different rates and channels, one behind the other."""
    for name, codec, more in (("mp3", "libmp3lame", {"write_xing": "0"}), ("aac", "aac", {})):
        low = encode(tmp_path / f"low.{name}", tone(3, 440, 24_000), codec, 24_000, **more)
        both = np.stack([tone(3, 880)] * 2, axis=1)
        high = encode(tmp_path / f"high.{name}", both, codec, RATE_HZ, **more)
        path = tmp_path / f"a.{name}"
        for files, pitches in (((low, high), [440, 880]), ((high, low), [880, 440])):
            path.write_bytes(b"".join(file.read_bytes() for file in files))
            # Raw AAC has no time stamps: those that FFmpeg makes up go by the first rate.
            samples, warnings = read(path, strict=name == "aac")
            assert name == "mp3" or warnings == []
            assert seconds_of(samples) == pytest.approx(6, abs=0.3)
            assert [heard_at(samples, s) for s in (1, 4.5)] == pytest.approx(pitches, abs=5)


@pytest.mark.parametrize(
    "tail",
    [
        b"TAG" + bytes(125),
        b"APETAGEX" + bytes(600),
        b"ID3\x04\0\0\0\0\4\0" + bytes(512),
        bytes(3000),
    ],
)
@pytest.mark.parametrize("xing", ["0", "1"])
def test_what_stands_behind_an_mp3_is_no_damage(
    tmp_path: Path, encode: Encode, tail: bytes, xing: str
) -> None:
    path = encode(tmp_path / "a.mp3", tone(3), "libmp3lame", write_xing=xing, id3v2_version="0")
    path.write_bytes(path.read_bytes() + tail)
    samples, warnings = read(path, strict=True)
    assert warnings == []
    assert seconds_of(samples) == pytest.approx(3, abs=0.15)


def test_a_hole_in_an_ogg_is_damage(tmp_path: Path) -> None:
    """Its pages are numbered and it knows no pauses: one that is missing is lost."""
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.ogg", 0.1 * rng.standard_normal(8 * RATE_HZ), RATE_HZ, "VORBIS")
    data = (tmp_path / "a.ogg").read_bytes()
    pages = data.split(b"OggS")[1:]
    middle = len(pages) // 2
    (tmp_path / "a.ogg").write_bytes(
        b"".join(b"OggS" + page for i, page in enumerate(pages) if i != middle)
    )
    samples, (told,) = read(tmp_path / "a.ogg")
    assert seconds_of(samples) == pytest.approx(8, abs=0.1)
    assert "is damaged at" in told


def test_an_mp3_that_says_another_length(tmp_path: Path, encode: Encode) -> None:
    """Two files joined with a tag between them, and one of which the half is lost."""
    path = encode(tmp_path / "a.mp3", tone(3), "libmp3lame", id3v2_version="3", title="a" * 900)
    data = path.read_bytes()
    path.write_bytes(data * 2)
    samples, warnings = read(path)
    assert seconds_of(samples) == pytest.approx(6, abs=0.15)
    assert all("what can be read is used" in told for told in warnings)
    path.write_bytes(data[: (len(data) + 900) // 2])
    samples, told = warned(path)
    assert seconds_of(samples) == pytest.approx(1.5, abs=0.15)
    assert "is cut short: it says it lasts 3.0" in told
    assert "cut short" in fault(path, strict=True)


def test_packets_that_are_lost(tmp_path: Path, encode: Encode) -> None:
    """A transport stream without some of its packets: the rest stays in its place."""
    sound = tone(6)
    sound[: 4 * RATE_HZ] = 0
    hiss = np.random.default_rng(0).normal(0, 0.03, len(sound))
    path = encode(tmp_path / "a.ts", sound + hiss.astype(np.float32), "aac")
    data = path.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    middle = len(packets) // 2
    lost = range(middle, middle + 6, 2)
    path.write_bytes(b"".join(p for i, p in enumerate(packets) if i not in lost))
    samples, (told,) = read(path)
    assert seconds_of(samples) == pytest.approx(6, abs=0.15)
    assert np.argmax(np.abs(samples) > 0.3) / RATE_HZ == pytest.approx(4, abs=0.05)
    assert "is damaged at" in told
    assert "damaged or cut short at" in fault(path, strict=True)


def test_a_file_that_is_mostly_damaged_is_refused(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.m4a", tone(6), "aac")
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(audio=0) if p.size > 20]
    data = bytearray(path.read_bytes())
    for pos, size in packets[len(packets) // 4 :]:
        data[pos : pos + size] = b"\xff" * size
    path.write_bytes(data)
    assert "most of its sound cannot be decoded" in fault(path)


def test_words_in_a_wav_are_no_rate(tmp_path: Path) -> None:
    """A Broadcast wav whose description speaks of ``fmt ``."""
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(2), RATE_HZ, "PCM_16")
    data = path.read_bytes()
    words = b"made from raw, fmt unknown  "
    chunk = b"note" + len(words).to_bytes(4, "little") + words
    size = (len(data) + len(chunk) - 8).to_bytes(4, "little")
    path.write_bytes(data[:4] + size + data[8:12] + chunk + data[12:])
    assert len(audio.decode(path, strict=True)) == 2 * RATE_HZ


@pytest.mark.parametrize("tag", [3, 0x1234])
def test_a_codec_that_is_not_known_is_named(tmp_path: Path, tag: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(2), RATE_HZ, "PCM_16")
    data = bytearray(path.read_bytes())
    data[20:22] = tag.to_bytes(2, "little")
    path.write_bytes(data)
    assert fault(path) == (
        f"the sound of FILE is coded as 0x{tag:04x}, which is not known here: "
        "convert it to wav or flac"
    )


# --- where sounds come from ----------------------------------------------------------------------


def test_open_files_and_bytes_in_memory(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.mp3", tone(2), "libmp3lame")
    whole = audio.decode(path)
    with path.open("rb") as file:
        file.read(100)  # it is read from its beginning all the same
        np.testing.assert_array_equal(audio.decode(file), whole)
        np.testing.assert_array_equal(audio.decode(file), whole)
    memory = io.BytesIO()
    memory.write(path.read_bytes())
    np.testing.assert_array_equal(audio.decode(memory), whole)
    assert not memory.closed
    with path.open(encoding="latin-1") as file, pytest.raises(AudioError, match="open for text"):
        audio.decode(file)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="the sound is empty"):
        audio.decode(io.BytesIO())
    with pytest.raises(AudioError, match="open for text"):
        audio.decode(io.StringIO("text"))  # type: ignore[arg-type]


@pytest.mark.parametrize("module", ["gzip", "bz2", "lzma"])
def test_an_open_compressed_file_is_what_it_holds(tmp_path: Path, module: str) -> None:
    """Its descriptor is that of the compressed bytes."""
    path, packed = tmp_path / "a.wav", importlib.import_module(module)
    soundfile.write(path, tone(2), RATE_HZ)
    with packed.open(tmp_path / "packed", "wb") as file:
        file.write(path.read_bytes())
    with packed.open(tmp_path / "packed", "rb") as file:
        np.testing.assert_array_equal(audio.decode(file), audio.decode(path))


@pytest.mark.parametrize("kind", ["TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile"])
def test_temporary_files(tmp_path: Path, kind: str) -> None:
    soundfile.write(tmp_path / "a.wav", tone(2), RATE_HZ)
    with getattr(tempfile, kind)() as file:
        file.write((tmp_path / "a.wav").read_bytes())
        np.testing.assert_array_equal(audio.decode(file), audio.decode(tmp_path / "a.wav"))


def test_a_named_pipe_is_read_to_its_end(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.mp4", tone(2), "aac")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[path.read_bytes()])
    writer.start()
    np.testing.assert_array_equal(audio.decode(tmp_path / "pipe"), audio.decode(path))
    writer.join()


def test_what_has_no_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundsight.media.container.MAX_PIPE_BYTES", 1 << 22)
    with pytest.raises(AudioError, match="/dev/zero does not end"):
        audio.decode("/dev/zero")


def test_a_name_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg takes what stands before a colon for a protocol."""
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.wav", "2026-11-29T12:30:00.wav", "file:a.wav"):
        soundfile.write(name, tone(1), RATE_HZ)
        assert len(audio.decode(name)) == RATE_HZ


@pytest.mark.parametrize("text", ["#EXTM3U\na.wav\n", "\ufeff#EXTM3U\n", "ffconcat version 1.0\n"])
def test_playlists_are_refused(tmp_path: Path, text: str) -> None:
    """FFmpeg would open what they name, and wait for more."""
    soundfile.write(tmp_path / "a.wav", tone(1), RATE_HZ)
    (tmp_path / "list.mp3").write_text(text, "utf-8")
    assert "is a playlist: pass the files that it names" in fault(tmp_path / "list.mp3")


@pytest.mark.parametrize("address", ["https://example.org/dog.mp3", "rtsp://camera/1", "s3://b/c"])
def test_an_address_is_refused_in_words(address: str) -> None:
    with pytest.raises(AudioError, match="is an address: only files are read, download it"):
        audio.decode(address)


def test_names_that_are_no_utf_8(tmp_path: Path, encode: Encode) -> None:
    """Tags in another encoding are nothing that a sound depends on."""
    path = encode(tmp_path / "a.mp3", tone(1), "libmp3lame", id3v2_version="3")
    tag = b"TIT2" + (5).to_bytes(4, "big") + b"\0\0" + b"\0\xe4\xf6\xfc\xff"
    size = bytes([0, 0, 0, len(tag)])
    path.write_bytes(b"ID3\x03\0\0" + size + tag + path.read_bytes())
    assert seconds_of(audio.decode(path)) == pytest.approx(1, abs=0.1)


# --- real files ------------------------------------------------------------------------------


def test_real_sounds_and_videos(bench: Path) -> None:
    files = sorted((bench / "sounds").glob("*.ogg"))[::20]
    assert files
    for file in files:
        samples = audio.decode(file)
        assert seconds_of(samples) == pytest.approx(5, abs=0.1)
        assert 0.001 < np.abs(samples).max() < 1.5
    heard = 0
    for file in sorted((bench / "videos").glob("*.mp4")):
        if "no_audio" in file.name:
            assert "has no sound track" in fault(file)
            continue
        sound = audio.stream(file)
        assert seconds_of(np.concatenate(list(sound))) == pytest.approx(sound.duration_s, abs=0.1)
        heard += 1
    assert heard == 6
