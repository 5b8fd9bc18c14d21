"""Files of which only a part can be heard, or that hold more than one thing."""

from __future__ import annotations

import importlib
import io
import os
import tempfile
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from soundsight.core.errors import AudioError
from soundsight.media import audio, decoder

RATE_HZ = 44_100
Encode = Callable[..., Path]


def tone(seconds: float, f_hz: float = 440.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * f_hz * t)).astype(np.float32)


def read(path: Path, **options: Any) -> tuple[np.ndarray, list[str]]:
    sound = audio.stream(path, **options)
    return np.concatenate(list(sound)), sound.warnings


def tone_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * RATE_HZ / len(samples))


def write_tracks(
    path: Path, tracks: list[np.ndarray], codec: str = "aac", default: int | None = None
) -> Path:
    """A file with several sound tracks, mono at 44.1 kHz."""
    with av.open(str(path), "w") as container:
        made = []
        for number, _ in enumerate(tracks):
            track = container.add_stream(codec, rate=RATE_HZ, layout="mono")
            if default is not None:
                track.disposition = av.stream.Disposition.default if number == default else 0
            made.append(track)
        container.start_encoding()
        packets = []
        for track, samples in zip(made, tracks, strict=True):
            resampler = av.AudioResampler(
                format=track.codec_context.format, layout="mono", rate=RATE_HZ,
                frame_size=track.codec_context.frame_size or 1024,
            )  # fmt: skip
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
            for piece in resampler.resample(frame) + resampler.resample(None):
                packets += track.encode(piece)
            packets += track.encode(None)
        for packet in sorted(packets, key=lambda p: float(p.dts * p.time_base)):
            container.mux(packet)
    return path


# --- tracks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_of_two_tracks_the_one_that_sounds_is_heard(tmp_path: Path, name: str) -> None:
    silent = np.zeros(3 * RATE_HZ, np.float32)
    path = write_tracks(tmp_path / name, [silent, tone(3, 440), tone(3, 880)])
    samples, (told,) = read(path)
    assert tone_hz(samples) == pytest.approx(440, abs=1)
    assert told.replace(str(path), "FILE") == (
        "FILE has 3 sound tracks: track 2 is heard, the first that sounds "
        "(the option track takes another)"
    )
    assert (audio.probe(path).track, audio.probe(path).tracks) == (2, 3)
    assert tone_hz(read(path, track=3)[0]) == pytest.approx(880, abs=1)
    assert np.abs(read(path, track=1)[0]).max() < 1e-3
    assert read(path, track=3)[1] == []
    # A file with several tracks is whole.
    assert tone_hz(read(path, strict=True)[0]) == pytest.approx(440, abs=1)
    for wrong in (0, 4, -1):
        with pytest.raises(AudioError, match=f"has 3 sound tracks: there is no track {wrong}"):
            audio.stream(path, track=wrong)


def test_the_default_track_comes_first(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mkv", [tone(2, 440), tone(2, 880)], default=1)
    assert tone_hz(read(path)[0]) == pytest.approx(880, abs=1)
    path = write_tracks(tmp_path / "b.mkv", [tone(2, 440), 0 * tone(2, 880)], default=1)
    assert tone_hz(read(path)[0]) == pytest.approx(440, abs=1)


def test_where_no_track_sounds_the_first_is_silent(tmp_path: Path) -> None:
    silent = np.zeros(2 * RATE_HZ, np.float32)
    path = write_tracks(tmp_path / "a.mkv", [silent, silent])
    samples, (told,) = read(path)
    assert np.abs(samples).max() < 1e-3
    assert "track 1 is heard, as none sounds" in told


# --- what is joined, missing or changes --------------------------------------------------------


def test_a_gap_is_silence_and_moves_nothing(tmp_path: Path) -> None:
    """Two seconds that a recorder lost: the tone after them begins where a player plays it."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        packets = []
        for number in range(4 * RATE_HZ // 1024):
            piece = tone(4)[number * 1024 : (number + 1) * 1024]
            frame = av.AudioFrame.from_ndarray(piece[None], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
            frame.pts = number * 1024 + (2 * RATE_HZ if number * 1024 >= 2 * RATE_HZ else 0)
            packets += track.encode(frame)
        for packet in packets + track.encode(None):
            container.mux(packet)
    samples, warnings = read(path, strict=True)
    assert warnings == []
    assert len(samples) / RATE_HZ == pytest.approx(6, abs=0.1)
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
    assert len(samples) / RATE_HZ == pytest.approx(6, abs=0.1)
    for at_s, f_hz in ((1, 440), (3.5, 880), (5.4, 1320)):
        part = samples[round((at_s - 0.2) * RATE_HZ) : round((at_s + 0.2) * RATE_HZ)]
        assert tone_hz(part) == pytest.approx(f_hz, abs=5)


@pytest.mark.parametrize("later_s", [0.0, 0.3, 1.0, 30.0])
def test_transport_streams_one_after_the_other(
    tmp_path: Path, encode: Encode, later_s: float
) -> None:
    """Each has a clock of its own; the second one's may begin a little later."""
    encode(tmp_path / "440.ts", tone(6, 440), "mp2")
    encode(tmp_path / "880.ts", tone(6, 880), "mp2", output_ts_offset=str(later_s))
    path = tmp_path / "a.ts"
    path.write_bytes((tmp_path / "440.ts").read_bytes() + (tmp_path / "880.ts").read_bytes())
    samples, _ = read(path)
    hole_s = later_s - 6 if later_s > 6 else 0
    assert len(samples) / RATE_HZ == pytest.approx(12 + hole_s, abs=0.3)
    second = samples[round((hole_s + 7) * RATE_HZ) : round((hole_s + 11) * RATE_HZ)]
    assert tone_hz(second) == pytest.approx(880, 0.01)
    if later_s < 6:
        # The picture of a video goes by the first clock: its sound ends with it.
        with audio.soundtrack(path) as first:
            samples = np.concatenate(list(first))
            (told,) = first.damages
        assert len(samples) / RATE_HZ == pytest.approx(6, abs=0.2)
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
        clock.take_rate(8000)
        step_s = clock.step(at_s)
        assert step_s is not None
        found.append(step_s)
        clock.pass_by(round((1 + step_s) * 8000))
    assert found == pytest.approx(steps_s)
    assert bool(faults.damages) == is_damage


def test_a_rate_that_changes_is_resampled_on(tmp_path: Path, encode: Encode) -> None:
    """Two MP3s of different rates and channels, one behind the other."""
    low = encode(tmp_path / "low.mp3", tone(2, 440, 24_000), "libmp3lame", 24_000, write_xing="0")
    both = np.stack([tone(3, 880)] * 2, axis=1)
    high = encode(tmp_path / "high.mp3", both, "libmp3lame", RATE_HZ, write_xing="0")
    path = tmp_path / "a.mp3"
    path.write_bytes(low.read_bytes() + high.read_bytes())
    samples, _ = read(path)
    assert len(samples) / RATE_HZ == pytest.approx(5, abs=0.3)
    assert tone_hz(samples[RATE_HZ // 2 : RATE_HZ]) == pytest.approx(440, abs=5)
    assert tone_hz(samples[3 * RATE_HZ : 4 * RATE_HZ]) == pytest.approx(880, abs=5)


def test_raw_aac_whose_rate_changes(tmp_path: Path, encode: Encode) -> None:
    """It has no time stamps, and those that FFmpeg makes up go by the first rate."""
    low = encode(tmp_path / "low.aac", tone(3, 440, 22_050), "aac", 22_050)
    high = encode(tmp_path / "high.aac", tone(3, 880), "aac")
    for first, second, f_hz in ((low, high, 880), (high, low, 440)):
        path = tmp_path / "a.aac"
        path.write_bytes(first.read_bytes() + second.read_bytes())
        samples, warnings = read(path, strict=True)
        assert warnings == []
        assert len(samples) / RATE_HZ == pytest.approx(6, abs=0.3)
        assert tone_hz(samples[4 * RATE_HZ : 5 * RATE_HZ]) == pytest.approx(f_hz, abs=5)


@pytest.mark.parametrize(
    "tail", [b"APETAGEX" + bytes(600), b"ID3\x04\0\0\0\0\4\0" + bytes(512), bytes(3000)]
)
@pytest.mark.parametrize("xing", ["0", "1"])
def test_what_stands_behind_an_mp3_is_no_damage(
    tmp_path: Path, encode: Encode, tail: bytes, xing: str
) -> None:
    path = encode(tmp_path / "a.mp3", tone(3), "libmp3lame", write_xing=xing, id3v2_version="0")
    path.write_bytes(path.read_bytes() + tail)
    samples, warnings = read(path, strict=True)
    assert warnings == []
    assert len(samples) / RATE_HZ == pytest.approx(3, abs=0.15)


def test_a_codec_whose_tag_is_a_number(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.avi", tone(2), "aac")
    samples, warnings = read(path, strict=True)
    assert warnings == []
    assert tone_hz(samples) == pytest.approx(440, abs=1)


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
    assert len(samples) / RATE_HZ == pytest.approx(8, abs=0.1)
    assert "is damaged at" in told


def test_two_files_joined_with_a_tag_between_them(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.mp3", tone(3), "libmp3lame", id3v2_version="3", title="a" * 900)
    path.write_bytes(path.read_bytes() * 2)
    samples, warnings = read(path)
    assert len(samples) / RATE_HZ == pytest.approx(6, abs=0.15)
    assert all("what can be read is used" in told for told in warnings)


def test_a_declared_length_that_is_twice_the_true_one(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.mp3", tone(6), "libmp3lame")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    samples, (told,) = read(path)
    assert len(samples) / RATE_HZ == pytest.approx(3, abs=0.15)
    assert "is cut short: it says it lasts 6.0" in told
    with pytest.raises(AudioError, match="cut short"):
        read(path, strict=True)


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
    assert len(samples) / RATE_HZ == pytest.approx(6, abs=0.15)
    assert np.argmax(np.abs(samples) > 0.3) / RATE_HZ == pytest.approx(4, abs=0.05)
    assert "is damaged at" in told
    with pytest.raises(AudioError, match="damaged or cut short at"):
        read(path, strict=True)


def test_a_file_that_is_mostly_damaged_is_refused(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.m4a", tone(6), "aac")
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(audio=0) if p.size > 20]
    data = bytearray(path.read_bytes())
    for pos, size in packets[len(packets) // 4 :]:
        data[pos : pos + size] = b"\xff" * size
    path.write_bytes(data)
    with pytest.raises(AudioError, match="most of its sound cannot be decoded"):
        read(path)


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
    with pytest.raises(AudioError) as caught:
        audio.probe(path)
    assert str(caught.value) == (
        f"the sound of {path} is coded as 0x{tag:04x}, which is not known here: "
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
    soundfile.write(tmp_path / "a.wav", tone(2), RATE_HZ)
    packed = importlib.import_module(module)
    with packed.open(tmp_path / "a.wav.packed", "wb") as file:
        file.write((tmp_path / "a.wav").read_bytes())
    with packed.open(tmp_path / "a.wav.packed", "rb") as file:
        np.testing.assert_array_equal(audio.decode(file), audio.decode(tmp_path / "a.wav"))


def test_temporary_files(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(2), RATE_HZ)
    for kind in (
        tempfile.TemporaryFile,
        tempfile.NamedTemporaryFile,
        tempfile.SpooledTemporaryFile,
    ):
        with kind() as file:
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
    with pytest.raises(AudioError, match="is a playlist: pass the files that it names"):
        audio.decode(tmp_path / "list.mp3")


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
    assert len(audio.decode(path)) / RATE_HZ == pytest.approx(1, abs=0.1)


# --- the files of public bug reports, where they are at hand ------------------------------------

RIGHT = {
    "antiphase.flac": (2.0, 0), "cat_id3.mp3": (10.0, 1), "chained.ogg": (9.96, 0),
    "data_size_0.wav": (2.0, 0), "dog.m4a": (5.0, 0), "dog.wma": (5.0, 0), "gap2s.mp4": (12.0, 0),
    "late.mp4": (8.0, 0), "lost3pkts.ts": (5.0, 1), "plain_dog.wav": (2.0, 0),
    "two_tracks.mp4": (5.0, 1), "xing_double.mp3": (5.0, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_files_that_failed(bench: Path, name: str) -> None:
    path = bench.parent / "failing" / name
    if not path.exists():
        pytest.skip(f"there is no {path}")
    seconds, told = RIGHT[name]
    samples, warnings = read(path)
    assert len(samples) / RATE_HZ == pytest.approx(seconds, abs=0.1)
    assert len(warnings) == told
    assert np.abs(samples).max() > 0.01
