"""Decoding in a child process: what it is for is files that were made to harm."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
from recipes.synth import write_video
from tests.server.conftest import decoders

from soundsight.core.errors import AudioError
from soundsight.core.units import RATE_HZ
from soundsight.server.decoding import Decoder
from soundsight.server.errors import ApiError
from soundsight.server.limits import Limits


def tone(seconds: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def written(samples: np.ndarray, rate_hz: int = RATE_HZ, kind: str = "WAV", **how: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind, **how)
    return file.getvalue()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An mp4 of 2 s with a picture of 64 by 64."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    return write_video(path, "fireworks", 2.0, 0, size_px=64).read_bytes()


@contextlib.contextmanager
def handle_of(data: bytes) -> Iterator[int]:
    handle = os.memfd_create("test")
    try:
        os.write(handle, data)
        yield handle
    finally:
        os.close(handle)


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    """Of usual limits, with less patience; nothing of it is left at the end."""
    made = Decoder(Limits(decode_idle_s=10.0))
    made.warm_up()
    before = psutil.Process().num_fds()
    yield made
    assert psutil.Process().num_fds() <= before
    made.close()
    assert not decoders()


def decode(decoder: Decoder, data: bytes, **options: Any) -> np.ndarray:
    with handle_of(data) as handle, decoder.open(handle, "a.x", **options) as sound:
        return np.concatenate(list(sound))


def interrupted(decoder: Decoder, happens: Callable[[], None]) -> None:
    """Decode a long sound; after its first block something happens."""
    data = written(np.zeros(600 * 8_000, np.float32), 8_000)
    with handle_of(data) as handle, decoder.open(handle, "a.x") as sound:
        next(sound)
        happens()
        for _ in sound:
            pass


def refused(decoder: Decoder, data: bytes, **options: Any) -> str:
    """The one line that tells what is wrong with a file: it names it as its sender does."""
    with pytest.raises(AudioError) as told:
        decode(decoder, data, **options)
    line = str(told.value)
    assert "a.x" in line
    assert "/" not in line.replace("a.x", "")
    assert line.isprintable()
    return line


# --- sounds ----------------------------------------------------------------------------------


def test_sounds_come_through(decoder: Decoder, video: bytes) -> None:
    for kind, how in (("WAV", {}), ("FLAC", {}), ("OGG", {"subtype": "VORBIS"})):
        samples = decode(decoder, written(tone(2.0), kind=kind, **how))
        assert samples.dtype == np.float32
        # FFmpeg's Vorbis decoder starts with half a block.
        assert 2 * RATE_HZ - len(samples) in ((128,) if kind == "OGG" else (0,))
    np.testing.assert_allclose(
        decode(decoder, written(tone(0.5), subtype="FLOAT")), tone(0.5), atol=1e-6
    )
    assert len(decode(decoder, written(tone(25.0, 8_000), 8_000))) == 25 * RATE_HZ
    assert len(decode(decoder, video, track=1)) == pytest.approx(2 * RATE_HZ, rel=0.1)
    assert refused(decoder, video, track=2) == "a.x has 1 sound track: there is no track 2"


def test_two_at_once_and_a_reader_that_stops_early(decoder: Decoder) -> None:
    data = written(tone(3.0))
    with (
        handle_of(data) as handle,
        decoder.open(handle, "a") as one,
        decoder.open(handle, "b") as two,
    ):
        assert len(next(two)) == len(next(one)) == 3 * RATE_HZ
        children = decoders()
        assert len(children) == 2
    for child in children:
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


# --- no sounds -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"x", b"RIFF", b"no sound at all\n" * 99, bytes(5_000), b"\xff" * 5_000, b"ID3" + bytes(99),
        b"\x89PNG\r\n\x1a\n" + bytes(99), b"fLaC" + b"\xff" * 99, b"OggS" + bytes(99),
        b"\x00\x00\x00\x20ftypisom" + bytes(99), b"RIFF\x00\x00\x00\x00WAVEfmt " + b"\xff" * 99,
        b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio 9 RTP/AVP 0\r\n",
    ],
)  # fmt: skip
def test_no_sound(decoder: Decoder, data: bytes) -> None:
    refused(decoder, data)


def test_sounds_that_cannot_be_used(decoder: Decoder) -> None:
    """Other faults of a sound: see tests/media."""
    loud = np.full(RATE_HZ, 1e30, np.float32)
    assert "50 ms of sound" in refused(decoder, written(tone(0.05)))
    assert "far over full scale" in refused(decoder, written(loud, subtype="FLOAT"))
    data = written(tone(2.0), kind="MP3")
    cut = data[: int(0.7 * len(data))]
    assert "cut short" in refused(decoder, cut, strict=True)
    with handle_of(cut) as handle, decoder.open(handle, "a.x") as sound:
        samples = np.concatenate(list(sound))
    assert len(samples) / RATE_HZ == pytest.approx(1.4, abs=0.3)
    (told,) = sound.warnings
    assert told.startswith("a.x is ")


# --- files that were made to harm -------------------------------------------------------------


@pytest.mark.slow
def test_hours_of_silence_in_little_space(decoder: Decoder) -> None:
    """A flac that unpacks to more than a thousand times its size."""
    file = io.BytesIO()
    hour = np.zeros(3_600 * 4_000, np.int16)
    with soundfile.SoundFile(file, "w", 4_000, 1, format="FLAC", subtype="PCM_16") as out:
        for _ in range(5):
            out.write(hour)
    data = file.getvalue()
    assert len(data) < 300_000
    began = time.monotonic()
    assert "is longer than 14400 s" in refused(decoder, data)
    assert time.monotonic() - began < 10
    # Where it does not say how long it is, it ends where the limit is.
    unknown = bytearray(data)
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)
    with contextlib.closing(Decoder(Limits(max_duration_s=100.0))) as short:
        line = refused(short, bytes(unknown))
    assert "is longer than 100 s" in line or "damaged" in line or "no sound" in line


def test_a_file_that_lies_of_its_length() -> None:
    """Two seconds by its header, twenty in truth."""
    data, tail = written(tone(2.0), kind="MP3"), written(tone(20.0), kind="MP3")
    with contextlib.closing(Decoder(Limits(max_duration_s=5.0))) as decoder:
        assert "is longer than 5 s" in refused(decoder, data + tail[2_000:])


def test_a_picture_of_30000_by_30000(decoder: Decoder, video: bytes) -> None:
    """Its sound is decoded, its picture is not touched."""
    data = bytearray(video)
    entry = data.index(b"avc1", data.index(b"stsd"))
    assert struct.unpack_from(">HH", data, entry + 28) == (64, 64)
    struct.pack_into(">HH", data, entry + 28, 30_000, 30_000)
    header = data.index(b"tkhd")
    struct.pack_into(">II", data, header + 80, 30_000 << 16, 30_000 << 16)
    assert len(decode(decoder, bytes(data))) == pytest.approx(2 * RATE_HZ, rel=0.1)


def test_a_header_that_promises_four_gigabytes(decoder: Decoder) -> None:
    data = bytearray(written(tone(1.0)))
    struct.pack_into("<I", data, 4, 0xFFFFFFF0)
    struct.pack_into("<I", data, 40, 0xFFFFFF00)
    # libsndfile believes the file's length, not the header.
    with contextlib.suppress(AudioError):
        assert len(decode(decoder, bytes(data))) == RATE_HZ


def test_a_decoder_that_hangs_or_has_too_little_memory() -> None:
    with contextlib.closing(Decoder(Limits(decode_memory_bytes=1 << 20))) as decoder:
        assert "memory" in refused(decoder, written(tone(20.0)))
    with contextlib.closing(Decoder(Limits(decode_idle_s=0.3))) as decoder:
        decoder.warm_up()
        (child,) = decoders()
        child.suspend()
        assert "takes too long" in refused(decoder, written(tone(1.0)))
        assert not child.is_running()
        assert len(decoders()) == 1  # the next one is ready
    assert not decoders()


def test_a_decoder_that_dies(decoder: Decoder) -> None:
    def die() -> None:
        for child in decoders():
            child.kill()

    with pytest.raises(AudioError, match=r"cannot read a\.x: it is damaged, or decoding it takes"):
        interrupted(decoder, die)
    # The one that waits for its turn has died, too: the next upload does not notice.
    for child in decoders():
        child.kill()
        child.wait()
    assert len(decode(decoder, written(tone(1.0)))) == RATE_HZ


def test_a_decoder_that_is_no_more(decoder: Decoder) -> None:
    """The server stops while a sound is decoded: who works on it is told at once."""
    with pytest.raises(ApiError) as told:
        interrupted(decoder, decoder.close)
    assert told.value.status == 503
    with pytest.raises(ApiError, match="the server stops"):
        decode(decoder, written(tone(1.0)))


def test_no_process_to_be_had(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_args: object, **_options: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    decoder.close()
    fresh = Decoder(Limits())
    monkeypatch.setattr(subprocess, "Popen", none)
    fresh.warm_up()
    with pytest.raises(ApiError) as told:
        decode(fresh, written(tone(1.0)))
    assert told.value.status == 503


@pytest.mark.parametrize("busy", [False, True])
def test_no_child_outlives_its_server(busy: bool, eventually: Callable[..., object]) -> None:
    code = """
import os, sys, time
from soundsight.server.decoding import Decoder
from soundsight.server.limits import Limits
decoder = Decoder(Limits())
decoder.warm_up()
if sys.argv[1] == "True":
    handle = os.open(sys.argv[2], os.O_RDONLY)
    with decoder.open(handle, "a") as sound:
        next(sound)
        print("ready", flush=True)
        time.sleep(60)
print("ready", flush=True)
time.sleep(60)
"""
    with handle_of(written(np.zeros(900 * 8_000, np.float32), 8_000)) as handle:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(busy), f"/proc/{os.getpid()}/fd/{handle}"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == "ready\n"
        children = psutil.Process(process.pid).children()
        assert children
        process.send_signal(signal.SIGKILL)
        process.wait()
    eventually(lambda: not any(child.is_running() for child in children), "the children's end")


def test_the_child_opens_nothing_else(decoder: Decoder, tmp_path: Path) -> None:
    """A playlist that names another file, or an address, is no sound."""
    (tmp_path / "secret.wav").write_bytes(written(tone(1.0)))
    for text in (
        f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        f"<Period><AdaptationSet><Representation><BaseURL>{tmp_path}/secret.wav</BaseURL>"
        "</Representation></AdaptationSet></Period></MPD>",
    ):
        refused(decoder, text.encode())
