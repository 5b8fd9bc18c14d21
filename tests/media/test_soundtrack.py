"""The sound beside a picture: what is heard when, on the file's clock, whatever the file does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from soundsight.core.errors import AudioError
from soundsight.media import audio
from soundsight.media.audio import soundtrack

RATE_HZ = 44_100


def clicks(seconds: float, at_s: Iterable[float], rate_hz: int = 48_000) -> np.ndarray:
    """Bursts of 20 ms of a tone, over silence: float32 [t]."""
    samples = np.zeros(round(seconds * rate_hz), np.float32)
    burst = 0.8 * np.sin(2 * np.pi * 1500 * np.arange(round(0.02 * rate_hz)) / rate_hz)
    for at in at_s:
        first = round(at * rate_hz)
        samples[first : first + len(burst)] = burst
    return samples


def times_of(samples: np.ndarray, start_s: float) -> list[float]:
    """When bursts begin in mono samples that start at ``start_s``."""
    loud = np.flatnonzero(np.abs(samples) > 0.2)
    if not len(loud):
        return []
    firsts = loud[np.concatenate([[True], np.diff(loud) > 0.05 * RATE_HZ])]
    return [start_s + first / RATE_HZ for first in firsts]


def read(
    path: Path, start_s: float | None = None, end_s: float | None = None, *, strict: bool = False
) -> tuple[float, np.ndarray]:
    with soundtrack(path, start_s, end_s, strict=strict) as track:
        samples = np.concatenate(list(track))
        assert samples.dtype == np.float32
        return track.start_s, samples


def heard(path: Path, *part: float) -> list[float]:
    begin_s, samples = read(path, *part)
    return times_of(samples, begin_s)


def seconds_of(path: Path, *part: float) -> float:
    return len(read(path, *part)[1]) / RATE_HZ


Write = Callable[..., Path]


@pytest.fixture
def write(encode: Write) -> Write:
    """Write a video of 4 s, if nothing else is said, with a sound track."""

    def video(
        path: Path, sound: Any, codec: str = "aac", rate_hz: int = 48_000, **more: Any
    ) -> Path:
        return encode(path, sound, codec, rate_hz, **{"picture_s": 4.0, **more})

    return video


# --- when ------------------------------------------------------------------------------------

CODECS = [
    ("a.mp4", "aac", 48_000, 1), ("a.mp4", "aac", 44_100, 2), ("a.mp4", "aac", 16_000, 1),
    ("a.mp4", "aac", 48_000, 6), ("a.mkv", "aac", 48_000, 6),
    ("a.mov", "pcm_s16le", 44_100, 2), ("a.mp4", "libmp3lame", 44_100, 1),
    ("a.webm", "libopus", 48_000, 1), ("a.webm", "libopus", 48_000, 6),
    ("a.mkv", "flac", 96_000, 1), ("a.mkv", "ac3", 48_000, 6), ("a.ts", "aac", 48_000, 1),
    ("a.ts", "mp2", 48_000, 2), ("a.mpg", "mp2", 48_000, 2), ("a.avi", "pcm_s16le", 16_000, 1),
    ("a.flv", "aac", 44_100, 1),
]  # fmt: skip


def lag_s(path: Path) -> float:
    """How much later than the file's first stamp the picture begins."""
    with av.open(str(path)) as container:
        picture = container.streams.video[0]
        return float((picture.start_time or 0) * picture.time_base) - container.start_time / 1e6


@pytest.mark.parametrize(("name", "codec", "rate_hz", "channels"), CODECS)
def test_a_click_stays_in_its_place(
    tmp_path: Path, write: Write, name: str, codec: str, rate_hz: int, channels: int
) -> None:
    """Encoders put silence first and containers say so: the clicks must not move."""
    at_s = [0.5, 1.25, 3.0]
    sound = np.repeat(clicks(4.0, at_s, rate_hz)[:, None], channels, axis=1)
    path = write(tmp_path / name, sound, codec, rate_hz)
    lag = lag_s(path)
    assert 0 <= lag < 0.1
    # Coding smears a click by a few milliseconds; the picture's start is the clicks' clock.
    found = heard(path)
    assert np.array(found) - lag == pytest.approx(np.array(at_s), abs=0.012)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.mov"])
def test_sound_that_starts_late(tmp_path: Path, write: Write, name: str) -> None:
    path = write(tmp_path / name, clicks(3.0, [0.5, 2.0]), picture_s=7, at_s=3.0)
    begin_s, samples = read(path)
    assert begin_s == pytest.approx(3.0, abs=0.07)
    assert len(samples) / RATE_HZ == pytest.approx(3.0, abs=0.07)
    assert times_of(samples, begin_s) == pytest.approx([3.5, 5.0], abs=0.03)
    # As a file its silence counts.
    assert times_of(audio.decode(path), 0.0) == pytest.approx([3.5, 5.0], abs=0.03)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_sound_that_starts_before_the_picture(tmp_path: Path, write: Write, name: str) -> None:
    path = write(tmp_path / name, clicks(5.0, [0.5, 4.0]), picture_s=3, picture_at_s=2)
    assert read(path)[0] == pytest.approx(0.0, abs=0.03)
    assert heard(path) == pytest.approx([0.5, 4.0], abs=0.03)


def test_a_clock_that_starts_anywhere(tmp_path: Path, write: Write) -> None:
    """A recorded broadcast starts at the sender's time of day; a player shows 0."""
    path = write(tmp_path / "a.ts", clicks(4.0, [0.5, 3.0]), output_ts_offset="1001.4")
    with av.open(str(path)) as container:
        assert container.start_time > 1000e6
    assert heard(path) == pytest.approx([0.5, 3.0], abs=0.05)
    assert heard(path, 2.0, 3.5) == pytest.approx([3.0], abs=0.05)


@pytest.mark.parametrize("name", ["a.mkv", "a.ts"])
def test_a_hole_is_silent(tmp_path: Path, write: Write, name: str) -> None:
    """A recorder that lost two seconds: what comes after them must not move forward."""
    path = write(
        tmp_path / name, clicks(4.0, [0.5, 1.5, 3.0]), "mp2", picture_s=7, holes={2.0: 2.0}
    )
    begin_s, samples = read(path)
    assert times_of(samples, begin_s) == pytest.approx([0.5, 1.5, 5.0], abs=0.05)
    inside = samples[round(2.2 * RATE_HZ) : round(3.9 * RATE_HZ)]
    assert np.abs(inside).max() < 1e-3
    assert len(samples) / RATE_HZ == pytest.approx(6.0, abs=0.1)


def test_what_is_told_twice_is_heard_once(tmp_path: Path, write: Write) -> None:
    """Two recordings that overlap by a second, one after the other in one stream."""
    first, again = (
        write(tmp_path / f"{at}.ts", clicks(2.0, at_s), "mp2", picture_s=2,
              output_ts_offset=str(at))
        for at, at_s in ((1, [0.5, 1.5]), (2, [0.2, 0.7, 1.25]))
    )  # fmt: skip
    path = tmp_path / "a.ts"
    path.write_bytes(first.read_bytes() + again.read_bytes())
    # The second starts 1 s after the first: of its clicks only the last has not been told yet.
    assert heard(path) == pytest.approx([0.5, 1.5, 2.25], abs=0.04)
    assert seconds_of(path) == pytest.approx(3.0, abs=0.1)


def test_small_faults_of_the_clock_are_rounding(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "a.mkv", clicks(4.0, [0.5, 3.0]), "mp2", holes={1.0: 0.03, 2.0: -0.03})
    assert seconds_of(path) == pytest.approx(4.0, abs=0.03)
    assert heard(path) == pytest.approx([0.5, 3.0], abs=0.02)


def test_a_clock_that_jumps_by_an_hour_is_damage(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "a.mkv", clicks(4.0, [0.5]), "mp2", holes={2.0: 3600.0})
    assert "jumps by 3600 s at 2.0" in fault(path, strict=True)
    # What comes after the jump belongs to no time of the picture.
    assert seconds_of(path) == pytest.approx(2.0, abs=0.05)
    assert len(audio.decode(path)) / RATE_HZ == pytest.approx(4.0, abs=0.05)


def test_a_long_hole_comes_in_blocks(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "a.mkv", clicks(4.0, [0.5, 3.0]), "mp2", holes={2.0: 300.0})
    with soundtrack(path) as track:
        blocks = list(track)
    assert max(len(block) for block in blocks) < 3 * RATE_HZ
    assert times_of(np.concatenate(blocks), track.start_s) == pytest.approx([0.5, 303.0], abs=0.05)


# --- what ------------------------------------------------------------------------------------


def test_every_channel_is_heard(tmp_path: Path, write: Write) -> None:
    """Six channels with a tone each: all of them are heard, as loud as in their own channel."""
    t = np.arange(3 * 48_000) / 48_000
    tones = [400, 700, 1100, 60, 1900, 3100]
    sound = np.stack([0.6 * np.sin(2 * np.pi * hz * t) for hz in tones], axis=1)
    path = write(tmp_path / "a.mov", sound, "pcm_s16le", picture_s=3)
    _, samples = read(path)
    spectrum = np.abs(np.fft.rfft(samples[:RATE_HZ] * np.hanning(RATE_HZ))) * 4 / RATE_HZ
    assert [spectrum[hz] for hz in tones] == pytest.approx([0.6] * 6, rel=0.05)
    _, coded = read(write(tmp_path / "a.mp4", sound, "aac", picture_s=3))
    spectrum = np.abs(np.fft.rfft(coded[RATE_HZ : 2 * RATE_HZ] * np.hanning(RATE_HZ))) * 4 / RATE_HZ
    assert all(spectrum[hz] > 0.3 for hz in tones)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_sound_may_be_shorter_or_longer_than_the_picture(
    tmp_path: Path, write: Write, name: str
) -> None:
    for sound_s in (2.0, 9.0):
        path = write(tmp_path / name, clicks(sound_s, [0.5, sound_s - 0.5]), picture_s=5)
        assert seconds_of(path) == pytest.approx(sound_s, abs=0.1)
        assert heard(path) == pytest.approx([0.5, sound_s - 0.5], abs=0.03)


# --- parts -----------------------------------------------------------------------------------


PARTS = [(0.0, 2.0), (0.1, 1.0), (3.217, 5.5), (6.5, 7.9), (5.0, None), (None, 3.3), (7.0, 99.0)]


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz"),
    [
        ("a.mp4", "aac", 48_000), ("a.mkv", "libopus", 48_000), ("a.mp4", "libmp3lame", 44_100),
        ("a.ts", "mp2", 48_000), ("a.mov", "pcm_s16le", 16_000), ("a.avi", "pcm_s16le", 44_100),
        ("pieces.mp4", "aac", 48_000),
    ],
)  # fmt: skip
def test_a_part_is_that_stretch_of_the_whole(
    tmp_path: Path, write: Write, name: str, codec: str, rate_hz: int
) -> None:
    noise = 0.2 * np.random.default_rng(0).standard_normal(8 * rate_hz)
    # Slow changes: the resampler starts afresh in a part, and rings for some samples.
    sound = np.convolve(noise, np.ones(8) / 8, "same")
    options = {"movflags": "frag_keyframe+empty_moov"} if name == "pieces.mp4" else {}
    path = write(tmp_path / name, sound, codec, rate_hz, picture_s=8, **options)
    whole_s, whole = read(path)
    # Time stamps of whole milliseconds may place a part that much off.
    shifts = range(-45, 46) if name == "a.mkv" else [0]
    for start_s, end_s in PARTS:
        part_s, part = read(path, start_s, end_s)
        from_s = max(whole_s, start_s or 0.0)
        until_s = min(end_s or 99.0, whole_s + len(whole) / RATE_HZ)
        assert part_s == pytest.approx(from_s, abs=1.0 / rate_hz)
        assert len(part) / RATE_HZ == pytest.approx(until_s - from_s, abs=1e-3)
        positions = np.arange(200, len(part) - 200) + (part_s - whole_s) * RATE_HZ
        errors = []
        for shift in shifts:
            expected = np.interp(positions + shift, np.arange(len(whole)), whole)
            errors.append(np.std(part[200:-200] - expected) / np.std(expected))
        # AAC draws some of its noise anew each time.
        assert min(errors) < 0.2


def test_parts_of_late_sound(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "a.mp4", clicks(3.0, [0.5, 2.0]), picture_s=7, at_s=3.0)
    assert read(path, 1.0, 4.0)[0] == pytest.approx(3.0, abs=0.03)
    assert heard(path, 1.0, 4.0) == pytest.approx([3.5], abs=0.03)
    assert fault(path, 0.5, 2.5) == "FILE has no sound in this part"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_part_beyond_the_end(tmp_path: Path, write: Write, name: str) -> None:
    path = write(tmp_path / name, clicks(4.0, [0.5]))
    for part in ((5.0, 6.0), (4.5, None), (100.0, 200.0)):
        assert fault(path, *part) == "FILE has no sound in this part"


def test_a_part_is_sought(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds of two minutes: the rest is not decoded."""
    path = write(tmp_path / "a.mp4", clicks(120.0, [100.5]), picture_s=4)
    from soundsight.media import decoder

    taken = []
    full_scale = decoder.full_scale

    def counted(samples: np.ndarray, *rest: Any) -> np.ndarray:
        taken.append(len(samples))
        return full_scale(samples, *rest)

    monkeypatch.setattr(decoder, "full_scale", counted)
    assert heard(path, 99.0, 109.0) == pytest.approx([100.5], abs=0.03)
    assert sum(taken) < 12 * 48_000


# --- faults ----------------------------------------------------------------------------------


def fault(path: Path, *part: float, strict: bool = False) -> str:
    with pytest.raises(AudioError) as caught:
        read(path, *part, strict=strict)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message.replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("name", "movflags"),
    [("a.mp4", "faststart"), ("a.mkv", ""), ("pieces.mp4", "frag_keyframe+empty_moov")],
)
def test_a_file_that_is_cut_short(tmp_path: Path, write: Write, name: str, movflags: str) -> None:
    options = {"movflags": movflags} if movflags else {}
    sound = 0.2 * np.random.default_rng(0).standard_normal(10 * 48_000)
    path = write(tmp_path / name, sound, picture_s=10, **options)
    assert seconds_of(path) == pytest.approx(10, abs=0.1)
    data = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        assert "cut short" in fault(path, strict=True)
        # What lies before the cut can be read.
        assert len(read(path, 0.5, 1.5, strict=True)[1]) == pytest.approx(RATE_HZ, abs=2)
        assert "cut short" in fault(path, 0.5, 9.9, strict=True)
        with soundtrack(path) as track:
            samples = np.concatenate(list(track))
            (told,) = track.damages
        assert len(samples) / RATE_HZ == pytest.approx(10 * share, abs=1.0)
        assert "what can be read is used" in told


@pytest.mark.parametrize("name", ["a.avi", "a.flv"])
def test_older_containers_that_are_cut_short(tmp_path: Path, write: Write, name: str) -> None:
    """An AVI's length is guessed from its size; what its first bytes say of its size tells."""
    sound = 0.2 * np.random.default_rng(0).standard_normal(6 * 44_100)
    path = write(tmp_path / name, sound, "mp3", 44_100, picture_s=6)
    assert seconds_of(path) == pytest.approx(6, abs=0.1)
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    assert "cut short" in fault(path, strict=True)
    assert seconds_of(path) == pytest.approx(3.6, abs=0.3)
    if name == "a.avi":
        # As a recorder leaves it that was switched off before it could tell the size.
        path.write_bytes(data[:4] + bytes(4) + data[8:])
        assert seconds_of(path) == pytest.approx(6, abs=0.1)


def test_damage_in_the_middle(tmp_path: Path, write: Write) -> None:
    sound = clicks(4.0, [0.5, 1.5, 3.0])
    path = write(tmp_path / "a.mp4", sound, "aac")
    with av.open(str(path)) as container:
        packets = [
            (p.pos, p.size)
            for p in container.demux(audio=0)
            if p.size and 1.4 < float(p.pts * p.time_base) < 1.7
        ]
    data = bytearray(path.read_bytes())
    for pos, size in packets:
        data[pos : pos + size] = b"\xff" * size
    path.write_bytes(data)
    assert "damaged or cut short at" in fault(path, strict=True)
    # The time stamps keep the place of what is lost: the click at 3 s stays there.
    assert heard(path) == pytest.approx([0.5, 3.0], abs=0.05)


def test_an_encrypted_sound(tmp_path: Path, write: Write) -> None:
    path = write(
        tmp_path / "a.mp4", clicks(2.0, [0.5]), picture_s=2,
        encryption_scheme="cenc-aes-ctr", encryption_key="00112233445566778899aabbccddeeff",
        encryption_kid="a0a1a2a3a4a5a6a7a8a9aaabacadaeaf",
    )  # fmt: skip
    assert fault(path) == "FILE is encrypted: decrypt it first"
    assert fault(path, 1.0, 1.5) == "FILE is encrypted: decrypt it first"
