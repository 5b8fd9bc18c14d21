"""The frames of many times: the very frame and the very pixels that decoding every one gives."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from soundsight.core.errors import VideoError
from soundsight.media import frames
from soundsight.media.frames import FrameReader, frame_at, open_frames

FPS = 30
WIDTH, HEIGHT = 128, 64


def coded(number: int, rng: np.random.Generator) -> np.ndarray:
    """A picture whose upper half spells its number in eight blocks; the rest moves and is noisy."""
    picture = rng.integers(100, 156, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for bit in range(8):
        picture[: HEIGHT // 2, 16 * bit : 16 * bit + 16] = 235 if number >> bit & 1 else 20
    picture[HEIGHT // 2 :, :, 0] = np.roll(np.linspace(0, 255, WIDTH), 3 * number)
    return picture


def number_of(frame: Any) -> int:
    grey = frame.to_ndarray(format="gray")[: HEIGHT // 2]
    return sum(
        int(grey[4:-4, 16 * bit + 4 : 16 * bit + 12].mean() > 128) << bit for bit in range(8)
    )


def write(
    path: Path, codec: str, count: int = 75, *, options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p", times: list[int] | None = None, tick: Fraction = Fraction(1, FPS),
    container_options: dict[str, str] | None = None, sound_s: float = 0,
    change: Callable[[Any], None] = lambda _: None,
) -> Path:  # fmt: skip
    """A video whose frame k shows the number k (modulo 256); a silent sound track from 0 s on."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=container_options or {}) as container:
        track = container.add_stream(codec, rate=FPS, options=options or {})
        track.width, track.height, track.pix_fmt = WIDTH, HEIGHT, pix_fmt
        # One thread: the same file however many cores there are.
        track.codec_context.thread_count = 1
        if tick != Fraction(1, FPS):
            track.codec_context.time_base = tick
        sound = container.add_stream("mp2", rate=48_000, layout="mono") if sound_s else None
        for k in range(round(sound_s * 48_000) // 1152):
            silence = np.zeros((1, 1152), np.int16)
            piece = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = 48_000, 1152 * k, Fraction(1, 48_000)
            container.mux(sound.encode(piece))
        for index in [*range(count), None]:
            frame = None
            if index is not None:
                frame = av.VideoFrame.from_ndarray(coded(index, rng), format="rgb24")
                frame = frame.reformat(format=pix_fmt)
                frame.time_base, frame.pts = tick, times[index] if times else index
            for packet in track.encode(frame):
                change(packet)
                container.mux(packet)
        if sound is not None:
            container.mux(sound.encode(None))
    return path


def seen(path: Path, times: list[float], *, strict: bool = False) -> tuple[list[Any], list[str]]:
    with open_frames(path, strict=strict) as reader:
        shown = [None if one.frame is None else number_of(one.frame) for one in reader.at(times)]
        return shown, reader.warnings


class Naive:
    """Every frame of a file, decoded one after the other, with its time."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as container:
            track = container.streams.video[0]
            origin_s = container.start_time / 1e6
            tick_s = float(track.time_base)
            # AVI has no time stamps: it counts frames.
            counts = container.format.name == "avi"
            found = list(container.decode(track))
            stamps = range(len(found)) if counts else [frame.pts for frame in found]
            self.frames = [
                (stamp * tick_s - origin_s, frame)
                for stamp, frame in zip(stamps, found, strict=True)
            ]
            ends = [self.frames[-1][0] + tick_s * (found[-1].duration or 0)]
            if track.duration is not None:
                ends.append(tick_s * ((track.start_time or 0) + track.duration) - origin_s)
            self.end_s = max(ends)
            self.half_tick_s = min(tick_s / 2, 0.001)

    def at(self, t_s: float) -> Any:
        if t_s >= self.end_s - 1e-9:
            return None
        shown = [frame for at_s, frame in self.frames if at_s <= t_s + self.half_tick_s]
        return shown[-1] if shown else None


def compare(path: Path, naive: Naive, times_s: list[float]) -> None:
    with open_frames(path) as reader:
        for t_s, shown in zip(times_s, reader.at(times_s), strict=True):
            expected = naive.at(t_s)
            assert shown.t_s == t_s
            if expected is None:
                assert shown.frame is None, f"{t_s} s shows nothing"
                continue
            assert shown.frame is not None, f"{t_s} s shows frame {number_of(expected)}"
            assert number_of(shown.frame) == number_of(expected)
            np.testing.assert_array_equal(shown.frame.to_ndarray(), expected.to_ndarray())
            assert -naive.half_tick_s <= t_s - shown.frame_s


def compare_all(path: Path, naive: Naive | None = None) -> None:
    """Compare at ascending times: dense, on the frames, far apart, outside, twice the same."""
    naive = naive or Naive(path)
    for times_s in grids(naive.end_s):
        compare(path, naive, times_s)


def grids(end_s: float) -> Iterator[list[float]]:
    rng = random.Random(0)
    yield [i / 70 for i in range(-5, 140)]
    yield [k / FPS for k in range(int(FPS * end_s) + 2)]
    yield [0.5 + i for i in range(int(end_s) + 2)]
    yield [0.0, 0.0, 1.0, 1.0, 1.0, 1.001, end_s - 0.02, end_s - 0.02, end_s + 1]
    yield [end_s - 0.1]
    yield [end_s + 5]
    for count in (1, 2, 3, 8, 30):
        yield sorted(rng.uniform(-0.2, end_s + 0.2) for _ in range(count))


X264 = {"g": "20", "bf": "3", "x264-params": "b-pyramid=normal:b-adapt=0"}
OPEN = {**X264, "x264-params": "open-gop=1:b-adapt=0:b-pyramid=normal"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}
X265 = {
    "x265-params": "keyint=20:bframes=4:b-adapt=0:open-gop=1:log-level=none:pools=1:b-pyramid=1"
}
B_FRAMES = {"g": "12", "bf": "2", "b": "4000000"}
REALTIME = {"g": "20", "deadline": "realtime", "cpu-used": "8", "b": "2000000"}

FORMATS = {
    **{f"pyramid.{kind}": ("libx264", X264) for kind in ("mp4", "mkv", "ts", "flv", "avi")},
    **{f"open.{kind}": ("libx264", OPEN) for kind in ("mp4", "mkv", "ts")},
    **{f"refresh.{kind}": ("libx264", REFRESH) for kind in ("mp4", "ts")},
    **{f"open-hevc.{kind}": ("libx265", X265) for kind in ("mp4", "mkv", "ts")},
    **{f"mpeg4.{kind}": ("mpeg4", B_FRAMES) for kind in ("mp4", "mkv", "avi")},
    **{f"mpeg2.{kind}": ("mpeg2video", B_FRAMES) for kind in ("ts", "mpg")},
    "one-key.mp4": ("libx264", {"g": "999", "bf": "3"}), "vp8.webm": ("libvpx", REALTIME),
    "vp9.webm": ("libvpx-vp9", REALTIME), "wmv2.asf": ("wmv2", {"g": "12", "b": "4000000"}),
    "mjpeg.avi": ("mjpeg", {}), "prores.mov": ("prores_ks", {}),
    "av1.mp4": ("libsvtav1", {"g": "20", "preset": "12"}),
}  # fmt: skip
PIXELS = {"mjpeg.avi": "yuvj420p", "prores.mov": "yuv422p10le"}
QUICK = {"pyramid.mp4", "open.mkv", "refresh.ts", "open-hevc.mp4", "vp9.webm", "mpeg4.avi"}


def some_slow(names: Iterable[str], quick: set[str]) -> list[Any]:
    return [pytest.param(n, marks=[] if n in quick else [pytest.mark.slow]) for n in names]


@pytest.mark.parametrize("name", some_slow(FORMATS, QUICK))
def test_every_frame_of_every_format(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    codec, options = FORMATS[name]
    path = write(tmp_path / name, codec, options=options, pix_fmt=PIXELS.get(name, "yuv420p"))
    naive = Naive(path)
    if name != "av1.mp4":
        assert [number_of(frame) for _, frame in naive.frames] == list(range(75))
    compare_all(path, naive)
    capfd.readouterr()  # an encoder of AV1 talks


GOPS = {"g": "45", "bf": "3", "x264-params": OPEN["x264-params"]}
LONG = {
    "a.mp4": ("libx264", GOPS, {}), "a.mkv": ("libx264", GOPS, {}), "a.ts": ("libx264", GOPS, {}),
    "noindex.mkv": ("libx264", GOPS, {"live": "1"}), "hevc.mp4": ("libx265", X265, {}),
    "pieces.mp4": ("libx264", GOPS, {"movflags": "frag_keyframe+empty_moov"}),
    "refresh.mp4": ("libx264", REFRESH, {}),
}  # fmt: skip
QUICK_LONG = ["a.mkv", "a.ts", "refresh.mp4"]


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Naive]]:
    """Eight seconds with a key frame a second and a half: far times are sought or jumped to."""
    folder = tmp_path_factory.mktemp("long")

    @functools.cache
    def make(name: str) -> tuple[Path, Naive]:
        codec, options, more = LONG[name]
        path = write(folder / name, codec, 240, options=options, container_options=more)
        return path, Naive(path)

    return make


@pytest.mark.parametrize("name", some_slow(LONG, set(QUICK_LONG)))
def test_far_times(long_video: Callable[[str], tuple[Path, Naive]], name: str) -> None:
    """The first time is sought: the times around every key frame are the ones that may go wrong."""
    path, naive = long_video(name)
    for k in range(70, 240, 7):
        compare(path, naive, [k / FPS])
    compare_all(path, naive)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(QUICK_LONG),
    times_s=st.lists(
        st.one_of(
            st.floats(-0.5, 8.5), st.integers(-5, 250).map(lambda k: k / FPS), st.just(3.0)
        ),
        min_size=1, max_size=40,
    ),
)  # fmt: skip
def test_any_ascending_times(
    long_video: Callable[[str], tuple[Path, Naive]], name: str, times_s: list[float]
) -> None:
    compare(*long_video(name), sorted(times_s))


def test_frames_may_have_any_length(tmp_path: Path) -> None:
    """Variable rate: uneven time stamps, frames of a millisecond and frames of seconds."""
    rng = random.Random(3)
    steps = [rng.choice([1, 7, 33, 33, 33, 40, 250, 1900]) for _ in range(60)]
    times = list(itertools.accumulate(steps, initial=0))[:60]
    for name in ("a.mp4", "a.mkv"):
        path = write(
            tmp_path / name, "libx264", 60, options=X264, times=times, tick=Fraction(1, 1000)
        )
        naive = Naive(path)
        compare_all(path, naive)
        compare(path, naive, [i / 7 for i in range(int(7 * naive.end_s) + 9)])


def test_one_frame_lasts(tmp_path: Path) -> None:
    path = write(tmp_path / "one.mp4", "libx264", 1)
    with open_frames(path) as reader:
        assert reader.duration_s == pytest.approx(1 / FPS)
        shown = list(reader.at([-0.01, 0.0, 0.02, 0.02, 0.034, 9.0]))
    assert [s.frame is not None for s in shown] == [False, True, True, True, False, False]
    assert list(reader.at([])) == []


def test_the_last_frame_stays_to_the_end_that_the_file_names(tmp_path: Path) -> None:
    def lasts(packet: Any) -> None:
        packet.duration = 90 if packet.pts == 2 else 1

    path = write(tmp_path / "a.mp4", "libx264", 3, options={"bf": "0"}, change=lasts)
    with open_frames(path) as reader:
        assert reader.duration_s == pytest.approx(92 / FPS)
        shown = list(reader.at([0.05, 1.0, 2.9, 3.1]))
    assert [s.frame and number_of(s.frame) for s in shown] == [1, 2, 2, None]
    assert shown[2].frame_s == pytest.approx(2 / FPS)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_picture_that_starts_after_its_sound(tmp_path: Path, name: str) -> None:
    """The clock is the file's: before the picture starts, it shows nothing."""
    times = list(range(2 * FPS, 4 * FPS))
    path = write(tmp_path / name, "libx264", 60, options=X264, times=times, sound_s=5)
    asked = [0.0, 1.9, 2.05, 3.05, 3.92, 4.5]
    assert seen(path, asked, strict=True)[0] == [None, None, 1, 31, 57, None]
    assert seen(path, [3.05], strict=True)[0] == [31]


def test_the_clock_starts_where_the_file_starts(tmp_path: Path) -> None:
    """A transport stream's clock starts anywhere; a player shows 0."""
    path = write(
        tmp_path / "a.ts", "mpeg2video", options=B_FRAMES,
        container_options={"output_ts_offset": "1000.25"},
    )  # fmt: skip
    with av.open(str(path)) as container:
        assert container.start_time > 1000e6
    assert seen(path, [0.0, 0.5, 2.4], strict=True)[0] == [0, 15, 72]


def test_times_may_be_endless(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264", options=X264)
    asked = []

    def every_half_second() -> Iterator[float]:
        for k in itertools.count():
            asked.append(k)
            yield k / 2

    with open_frames(path) as reader:
        shown = list(
            itertools.takewhile(lambda s: s.frame is not None, reader.at(every_half_second()))
        )
    assert [number_of(s.frame) for s in shown] == [0, 15, 30, 45, 60]
    assert len(asked) < 10


# --- how little is decoded -----------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every packet that is decoded: whether its frame is asked for even if none refers to it."""
    log: list[bool] = []
    decode = FrameReader.decode

    def logged(self: FrameReader, packet: Any, *, wanted: bool) -> list[Any]:
        if packet is not None:
            log.append(wanted)
        return decode(self, packet, wanted=wanted)

    monkeypatch.setattr(FrameReader, "decode", logged)
    return log


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_what_no_wanted_time_needs_is_not_decoded(
    tmp_path: Path, sent: list[bool], name: str
) -> None:
    path = write(tmp_path / name, "libx264", 250, options={**X264, "g": "10"})
    times_s = [0.05 + 2 * k for k in range(4)]
    assert seen(path, times_s, strict=True)[0] == [1, 61, 121, 181]
    # Each wanted frame lies right after a key frame: of 250 packets a few for each are needed.
    assert len(sent) < 30


def test_a_far_first_time_is_sought(tmp_path: Path, sent: list[bool]) -> None:
    path = write(tmp_path / "a.mp4", "libx264", 250, options={**X264, "g": "25"})
    read = 0
    with open_frames(path) as reader:
        packets = reader._packets

        def counted() -> Iterator[Any]:
            nonlocal read
            for packet in packets():
                read += 1
                yield packet

        reader._packets = counted  # type: ignore[method-assign]
        (shown,) = reader.at([8.0])
    assert number_of(shown.frame) == 240
    assert read < 40
    assert len(sent) < 30


def test_frames_that_no_other_needs_are_skipped(tmp_path: Path, sent: list[bool]) -> None:
    path = write(tmp_path / "a.mp4", "libx264", 90, options={"g": "999", "bf": "3"})
    assert seen(path, [0.5, 1.5, 2.5], strict=True)[0] == [15, 45, 75]
    assert sum(sent) < 20
    assert len(sent) < 85


def test_after_the_last_wanted_time_nothing_is_read(tmp_path: Path, sent: list[bool]) -> None:
    path = write(tmp_path / "a.mp4", "libx264", 90, options={"bf": "0", "g": "999"})
    assert seen(path, [0.5], strict=True)[0] == [15]
    assert len(sent) < 20


@pytest.mark.parametrize("limit", [1, 20_000])
def test_waiting_packets_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[bool], limit: int
) -> None:
    """A far time in one long group of pictures: what waits for it is decoded as it comes."""
    path = write(tmp_path / "a.ts", "libx264", options={"g": "999", "bf": "3"})
    monkeypatch.setattr(frames, "_HELD_BYTES", limit)
    held: list[int] = []
    hold = frames._Plan._hold

    def watched(self: frames._Plan, packet: Any) -> None:
        held.append(self._held_bytes)
        hold(self, packet)

    monkeypatch.setattr(frames._Plan, "_hold", watched)
    compare_all(path)
    assert max(held) <= limit
    assert any(sent)


# --- faults ------------------------------------------------------------------------------------


def fault(path: Path) -> str:
    with pytest.raises(VideoError) as caught, open_frames(path) as reader:
        list(reader.at([k / 10 for k in range(100)]))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    write(tmp_path / "a.gif", "gif", 10, pix_fmt="rgb8")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", np.zeros(44_100), 44_100)
    whole = write(tmp_path / "whole.mp4", "libx264", 10).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    for name, says in {
        "empty.mp4": "is empty", "text.mp4": "no sound or video", "missing.mp4": "does not exist",
        "a.gif": "is no video", "a.png": "is no video", "a.wav": "no picture track",
        "cut.mp4": "cut short", "": "is a folder",
    }.items():  # fmt: skip
        assert says in fault(tmp_path / name)
        with pytest.raises(VideoError, match=says):
            frame_at(tmp_path / name, 0.0)


@pytest.mark.parametrize("t_s", [-0.1, 2.51, 7.0, float("nan")])
def test_a_picture_at_a_time_outside(tmp_path: Path, t_s: float) -> None:
    path = write(tmp_path / "a.mp4", "libx264", options=X264)
    assert frame_at(path, 2.49, 32).shape == (32, 32, 3)
    with pytest.raises(VideoError, match="no frame at"):
        frame_at(path, t_s)


def test_real_videos(bench: Path) -> None:
    files = sorted((bench / "videos").glob("*.mp4"))
    assert len(files) == 8
    for file in files:
        with open_frames(file) as reader:
            duration_s = reader.duration_s
        assert duration_s is not None
        assert 7 < duration_s < 31
        early, late = frame_at(file, 0.5), frame_at(file, duration_s - 0.5)
        assert early.shape == (96, 96, 3)
        assert early.dtype == np.uint8
        assert early.std() > 5
        assert (early != late).any()


def spoil(path: Path, first: int, last: int) -> Path:
    """A copy with zeros over the packets of frames ``first`` to ``last - 1``."""
    with av.open(str(path)) as container:
        packets = [(p.dts, p.pos, p.size, bytes(p)) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for _, at, size, content in sorted(packets)[first:last]:
        # In Matroska the position is that of what holds the packet.
        at = data.index(content, at)
        data[at : at + size] = bytes(size)
    damaged = path.with_stem(f"{path.stem}-damaged")
    damaged.write_bytes(data)
    return damaged


def test_damage_in_the_middle(tmp_path: Path) -> None:
    """A few bad packets are bridged by the frame right before; a row of them is damage."""
    path = write(tmp_path / "a.mkv", "mjpeg", 75, pix_fmt="yuvj420p")
    few = spoil(path, 20, 23)
    times = [k / FPS for k in range(75)]
    assert seen(few, times[18:25], strict=True)[0] == [18, 19, 19, 19, 19, 23, 24]
    # What came long before does not stand in: its neighbours have not been decoded.
    assert seen(few, [times[k] for k in (15, 21, 24)], strict=True)[0] == [15, None, 24]
    with pytest.raises(VideoError, match="damaged or cut short"):
        seen(spoil(path, 20, 60), times, strict=True)


def test_an_encrypted_picture(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.mp4", "libx264", options=X264,
        container_options={
            "encryption_scheme": "cenc-aes-ctr",
            "encryption_key": "00112233445566778899aabbccddeeff",
            "encryption_kid": "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf",
        },
    )  # fmt: skip
    assert "is encrypted" in fault(path)


# --- what is left of a damaged picture -----------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_what_is_damaged_shows_nothing_until_the_next_key_frame(
    tmp_path: Path, suffix: str
) -> None:
    """Frames that build on what is missing show nothing; the others are what they were."""
    video = write(tmp_path / f"v.{suffix}", "mpeg4", 120, options={"g": "10", "bf": "0"})
    times = [(k + 0.5) / FPS for k in range(120)]
    damaged = spoil(video, 33, 58)
    shown, warnings = seen(damaged, times)
    with av.open(str(video)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    key = next(k for k in range(58, 120) if packets[k].is_keyframe)
    lost = [k for k in range(120) if shown[k] is None]
    # A decoder that is a frame behind takes one with it.
    assert lost in ([*range(33, key)], [*range(32, key)])
    assert all(shown[k] == k for k in range(120) if shown[k] is not None)
    assert len(warnings) == 1
    assert "is damaged or cut short at 1.10 s" in warnings[0]
    # A time a second: the packets between key frames are passed over, damaged or not.
    shown, warnings = seen(damaged, [0.5, 1.5, 2.5, 3.5])
    assert shown == [15, None, 75, 105]
    assert len(warnings) == 1
    with pytest.raises(VideoError, match="is damaged or cut short"):
        seen(damaged, times, strict=True)


def test_a_picture_that_ends_too_early_is_seen_up_to_there(tmp_path: Path) -> None:
    video = write(
        tmp_path / "v.mp4", "mpeg4", 120, options={"g": "10", "bf": "0"},
        container_options={"movflags": "faststart"},
    )  # fmt: skip
    data = video.read_bytes()
    video.write_bytes(data[: len(data) * 7 // 10])
    assert "cut short at " in fault(video)
    times = [(k + 0.5) / FPS for k in range(140)]
    shown, warnings = seen(video, times)
    there = sum(one is not None for one in shown)
    assert 40 < there < 80
    # Where too little is there of the frame in which the file ends, the one before stays.
    last = shown[there - 1]
    assert last in {there - 1, there - 2}
    assert shown == [*range(there - 1), last, *[None] * (140 - there)]
    assert len(warnings) == 1
    with pytest.raises(VideoError, match="is damaged or cut short"):
        seen(video, times, strict=True)


def test_a_picture_of_which_nothing_can_be_decoded(tmp_path: Path) -> None:
    video = write(tmp_path / "v.mp4", "mpeg4", 60, options={"g": "10", "bf": "0"})
    shown, warnings = seen(spoil(video, 0, 60), [k / FPS for k in range(60)])
    assert shown == [None] * 60
    assert len(warnings) == 1


def test_a_recording_that_begins_inside_a_picture_is_not_damaged(tmp_path: Path) -> None:
    video = write(tmp_path / "v.mp4", "mpeg4", 60, options={"g": "10", "bf": "0"})
    shown, warnings = seen(spoil(video, 0, 3), [(k + 0.5) / FPS for k in range(60)])
    assert shown[10:] == list(range(10, 60))
    assert warnings == []
