"""One clip -> its part: right times, right frames, right bytes; a bad clip is a reason."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from recipes import synth
from soundsight.core.errors import OutputError
from soundsight.data.prepare import ingest as room
from soundsight.data.prepare.clean import CleanConfig
from soundsight.data.prepare.ingest import IngestConfig, ingest, is_current
from soundsight.data.prepare.staging import NoSpaceError, Part
from soundsight.data.records import Clip, Record
from soundsight.data.store.shards import decode_image, decode_mel
from soundsight.media.container import quiet_av
from soundsight.media.frames import frame_at
from soundsight.media.mel import log_mel

RAW = IngestConfig(clean=CleanConfig(steps=()), duplicates=False)
RATE_HZ = 44_100


def make_video(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    fps: int = 10,
    sound: NDArray[np.float32] | None = None,
    *,
    with_picture: bool = True,
) -> Path:
    """Write frames uint8 [H, W, 3] and a mono sound, the picture without any loss."""
    av = quiet_av()
    with av.open(os.fspath(path), "w", format="matroska") as container:
        picture = voice = None
        if with_picture:
            picture = container.add_stream("ffv1", rate=fps)
            picture.height, picture.width = frames[0].shape[:2]
            picture.pix_fmt = "bgr0"
        if sound is not None:
            voice = container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        if picture is not None:
            for frame in frames:
                shown = av.VideoFrame.from_ndarray(frame, format="rgb24")
                container.mux(picture.encode(shown.reformat(format="bgr0")))
            container.mux(picture.encode(None))
        if voice is not None and sound is not None:
            levels = (sound * 32767).astype(np.int16)
            for at in range(0, len(levels), 4410):
                piece = levels[None, at : at + 4410]
                heard = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
                heard.sample_rate, heard.pts = RATE_HZ, at
                container.mux(voice.encode(heard))
            container.mux(voice.encode(None))
    return path


def noise(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(seconds * RATE_HZ))).clip(-1, 1).astype(np.float32)


def flat(level: int, height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


def cut(clip: Clip | Path, config: IngestConfig, folder: Path) -> tuple[Part, list[Record]]:
    if isinstance(clip, Path):
        clip = Clip(path=str(clip), key=clip.name, group=clip.stem)
    path = folder / f"{clip.id}.tar"
    ingest(clip, config, path)
    part = Part(path)
    return part, [part.record(entry) for entry in part.entries]


def sidecars(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [json.loads(record.files["json"]) for record in records]


def pictures(records: Sequence[Record], name: str = "jpg") -> list[NDArray[np.uint8]]:
    return [decode_image(record.files[name]) for record in records]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A toy video of one second, which a test may change."""
    return synth.write_video(tmp_path / "v.mp4", "dog", 1.0, 0, fps=5, size_px=64)


@pytest.fixture
def clip(video: Path) -> Clip:
    return Clip(path=str(video), key="v.mp4", group="v", label="dog")


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds at 10 frames a second; frame k is a flat grey of level 8 k."""
    path = tmp_path_factory.mktemp("video") / "counting.mkv"
    return make_video(path, [flat(8 * k) for k in range(30)], sound=noise(3.0))


def test_a_pair_is_a_second_of_sound_and_the_frame_in_its_middle(
    counting: Path, tmp_path: Path
) -> None:
    clip = Clip(path=str(counting), key="a/counting.mkv", group="g", label="dog", licence="CC0")
    part, records = cut(clip, RAW, tmp_path)
    assert [record.key for record in records] == [f"{clip.id}_{k:06d}" for k in range(3)]
    for k, (record, about) in enumerate(zip(records, sidecars(records), strict=True)):
        assert sorted(record.files) == ["jpg", "json", "mel.png"]
        assert (about["start_s"], about["end_s"], about["frame_s"]) == (k, k + 1, k + 0.5)
        names = ("key", "clip", "group", "label", "licence")
        assert [about[name] for name in names] == [record.key, clip.key, "g", "dog", "CC0"]
        assert about["sha256"] == {
            name: hashlib.sha256(record.files[name]).hexdigest() for name in ("jpg", "mel.png")
        }
        assert about["mel"]["shape"] == [128, 100]
        assert about["mel"]["rms_dbfs"] == pytest.approx(-20, abs=0.2)
        assert about["image"] == {"size_px": 96}
        assert about["measures"] == {}
        shown = pictures([record])[0]
        assert abs(float(shown.mean()) - 8 * (10 * k + 5)) < 3
        assert np.array_equal(shown.shape, (96, 96, 3))
        mel = decode_mel(record.files["mel.png"])
        second = noise(3.0)[k * RATE_HZ : (k + 1) * RATE_HZ]
        direct = log_mel(second)
        assert mel.shape == direct.shape
        # Scaled by the clip's loudest moment rather than the second's own, and 16 bits coarse.
        inner = np.abs(mel[:, 5:-5].astype(int) - direct[:, 5:-5].astype(int))
        assert np.median(inner) <= 4
    assert part.about["unseen"] == 0


def test_sums_are_those_of_the_levels_that_are_stored(counting: Path, tmp_path: Path) -> None:
    part, records = cut(counting, replace(RAW, image_format="webp", quality=100), tmp_path)
    for entry, record in zip(part.entries, records, strict=True):
        mel = decode_mel(record.files["mel.png"]).astype(np.int64)
        assert list(entry.sums[:2]) == [mel.sum(), (mel**2).sum()]
        image = decode_image(record.files["webp"]).astype(np.int64).reshape(-1, 3)
        # The sums are of the picture before it was coded.
        assert np.allclose(entry.sums[2::2], image.sum(axis=0), atol=2 * len(image))


def test_hops_shorter_than_a_segment(counting: Path, tmp_path: Path) -> None:
    _, records = cut(counting, replace(RAW, segment_s=2.0, hop_s=0.5), tmp_path)
    about = sidecars(records)
    assert [a["start_s"] for a in about] == [0, 0.5, 1.0]
    assert [a["frame_s"] for a in about] == [1.0, 1.5, 2.0]
    assert all(a["mel"]["shape"] == [128, 200] for a in about)
    for a, shown in zip(about, pictures(records), strict=True):
        assert abs(float(shown.mean()) - 80 * a["frame_s"]) < 3


def test_a_part_of_a_file(counting: Path, tmp_path: Path) -> None:
    clip = Clip(path=str(counting), key="c.mkv#1-3", group="c", start_s=1.0, end_s=3.0)
    _, records = cut(clip, RAW, tmp_path)
    assert [a["start_s"] for a in sidecars(records)] == [1.0, 2.0]
    assert [a["frame_s"] for a in sidecars(records)] == [1.5, 2.5]


@pytest.mark.parametrize("sharp", [11, 13, 17])
def test_sharpest_takes_the_one_frame_that_is_not_blurred(sharp: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    crisp = np.kron(rng.integers(0, 256, (16, 16)), np.ones((8, 8))).astype(np.uint8)
    crisp = np.repeat(crisp[..., None], 3, axis=2)
    blurred = np.asarray(Image.fromarray(crisp).resize((4, 4)).resize((128, 128)), np.uint8)
    frames = [crisp if k == sharp else blurred for k in range(30)]
    video = make_video(tmp_path / "v.mkv", frames, sound=noise(3.0))
    _, records = cut(video, replace(RAW, frame="sharpest"), tmp_path)
    times = [a["frame_s"] for a in sidecars(records)]
    # Where all are equally blurred it is the frame in the middle.
    assert times == [0.5, pytest.approx(sharp / 10), 2.5]
    spreads = [
        float(np.abs(np.diff(shown.astype(int), axis=1)).mean()) for shown in pictures(records)
    ]
    assert spreads[1] > 2 * max(spreads[0], spreads[2])
    _, centre = cut(video, RAW, tmp_path)
    assert [a["frame_s"] for a in sidecars(centre)] == [0.5, 1.5, 2.5]


def test_letterbox_shows_the_whole_frame_and_center_its_middle(tmp_path: Path) -> None:
    wide = np.concatenate([flat(250, 64, 32), flat(120, 64, 64), flat(250, 64, 32)], axis=1)
    video = make_video(tmp_path / "wide.mkv", [wide] * 10, sound=noise(1.0))
    (centre,) = pictures(cut(video, RAW, tmp_path)[1])
    assert abs(float(centre.mean()) - 120) < 4
    (boxed,) = pictures(cut(video, replace(RAW, crop="letterbox"), tmp_path)[1])
    assert boxed[:20].max() < 8
    assert boxed[-20:].max() < 8
    assert boxed[48, 8].min() > 230
    assert abs(int(boxed[48, 48, 0]) - 120) < 8


@pytest.mark.parametrize("size_px", [64, 256])
@pytest.mark.parametrize("image_format", ["jpg", "webp"])
def test_sizes_formats_and_quality(
    size_px: int, image_format: str, video: Path, tmp_path: Path
) -> None:
    config = replace(RAW, size_px=size_px, image_format=image_format)
    _, records = cut(video, config, tmp_path)
    data = records[0].files[image_format]
    assert data.startswith(b"RIFF" if image_format == "webp" else b"\xff\xd8")
    shown = decode_image(data)
    assert shown.shape == (size_px, size_px, 3)
    expected = frame_at(video, 0.5, size_px).astype(int)
    assert np.abs(shown.astype(int) - expected).mean() < 6
    assert sidecars(records)[0]["image"] == {"size_px": size_px}
    _, coarse = cut(video, replace(config, quality=30), tmp_path)
    assert len(coarse[0].files[image_format]) < 0.6 * len(data)


def test_every_pairwise_step_is_asked_and_measured(tmp_path: Path) -> None:
    """Black and silent pairs are dropped, and stored for the sheet all the same."""
    silent = np.concatenate([noise(1.0), np.zeros(RATE_HZ, np.float32), noise(1.0)])
    rng = np.random.default_rng(0)
    busy = [np.kron(rng.integers(0, 256, (16, 16, 3)), np.ones((4, 4, 1))).astype(np.uint8)
            for _ in range(3)]  # fmt: skip
    frames = [flat(0)] * 10 + [busy[0]] * 10 + [busy[1]] * 10
    video = make_video(tmp_path / "v.mkv", frames, sound=silent)
    steps = ("silence", "black")
    config = replace(RAW, clean=CleanConfig(steps=steps))
    part, records = cut(video, config, tmp_path)
    assert [tuple(entry.reasons) for entry in part.entries] == [("black",), ("silence",), ()]
    assert len(records) == 3
    assert sidecars(records)[1]["measures"]["rms_dbfs"] < -90
    for step in steps:
        one = replace(RAW, clean=CleanConfig(steps=(step,)))
        part, _ = cut(video, one, tmp_path)
        assert {reason for entry in part.entries for reason in entry.reasons} == {step}
    part, _ = cut(video, RAW, tmp_path)
    assert not any(entry.reasons for entry in part.entries)


def test_the_bytes_depend_on_the_clip_and_the_settings_alone(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "b" / "deeper" / "dog.mp4"
    other.parent.mkdir(parents=True)
    other.write_bytes(Path(clip.path).read_bytes())
    _, first = cut(clip, IngestConfig(), tmp_path / "one")
    monkeypatch.chdir(tmp_path / "b")
    assert cut(replace(clip, path=str(other)), IngestConfig(), tmp_path / "two")[1] == first


# --- what cannot be used -------------------------------------------------------------------------


def bad_files(folder: Path) -> dict[str, Path]:
    good = synth.write_video(folder / "good.mp4", "dog", 2.0, 0, fps=5, size_px=64).read_bytes()
    made = {
        "text": b"this is a text, however it is named\n" * 100,
        "zero": b"",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(1000),
        "cut-short": good[: len(good) // 2],
        "only-head": good[:200],
        "random": np.random.default_rng(0).bytes(5000),
        "scrambled": bytes(b ^ 0x5A for b in good),
    }
    for name, data in made.items():
        (folder / f"{name}.mp4").write_bytes(data)
    make_video(folder / "no-sound.mp4", [flat(100)] * 10)
    make_video(folder / "no-picture.mp4", [], sound=noise(1.5), with_picture=False)
    make_video(folder / "short.mp4", [flat(100)] * 5, sound=noise(0.4))
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "secret.mp4").write_bytes(good)
    names = [*made, "no-sound", "no-picture", "short", "folder", "pipe", "loop", "missing"]
    return {name: folder / f"{name}.mp4" for name in names}


def test_what_cannot_be_used_has_one_clear_line_without_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "src"
    folder.mkdir()
    reasons = {}
    for name, path in bad_files(folder).items():
        clip = Clip(path=str(path), key=f"sub/{name}.mp4", group=name)
        part, records = cut(clip, IngestConfig(), tmp_path / "parts")
        assert records == [], name
        reasons[name] = part.about["failure"]
        assert reasons[name], name
        assert str(tmp_path) not in reasons[name]
        assert "unexpected" not in reasons[name]
        assert reasons[name].isprintable()
        assert not reasons[name].startswith("sub/")
    assert "no sound" in reasons["no-sound"]
    assert "no picture" in reasons["no-picture"]
    assert "0 bytes" in reasons["zero"]
    assert "does not exist" in reasons["missing"]
    assert "no regular file" in reasons["pipe"]


@pytest.mark.parametrize(
    "name",
    ["two\nlines.mp4", "犬 🐕.mp4", "caf\udce9.mp4", " lead and trail .mp4", "a::b.mp4", "-o.mp4",
     "tab\tbell\a.mp4", "x" * 240 + ".mp4", "%s{0}$HOME.mp4"],
)  # fmt: skip
def test_names_may_hold_anything(name: str, video: Path, tmp_path: Path) -> None:
    clip = Clip(path=os.fspath(tmp_path / name), key=name, group="g")
    Path(clip.path).write_bytes(video.read_bytes())
    _, records = cut(clip, RAW, tmp_path / "parts")
    assert sidecars(records)[0]["clip"] == name
    Path(clip.path).write_bytes(b"broken")
    part, _ = cut(clip, RAW, tmp_path / "parts")
    assert part.about["failure"].isprintable()
    assert str(tmp_path) not in part.about["failure"]
    assert part.about["clip"] == name


@pytest.mark.parametrize("spelling", ["./v.mp4", "sub/../v.mp4", ".//v.mp4"])
def test_a_path_spelt_oddly_shows_no_place_of_the_machine(spelling: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "v.mp4").write_bytes(b"no video")
    clip = Clip(path=f"{tmp_path}/{spelling}", key="v.mp4", group="v")
    part, _ = cut(clip, RAW, tmp_path)
    assert str(tmp_path) not in part.about["failure"]


@pytest.mark.parametrize(
    ("error", "words"),
    [(ZeroDivisionError("oh\nno"), "unexpected ZeroDivisionError: oh"),
     (MemoryError(), "more memory")],
)  # fmt: skip
def test_a_fault_of_ours_costs_one_clip_and_is_named(
    error: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counting: Path
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(room, "_record", fail)
    part, records = cut(counting, RAW, tmp_path)
    assert records == []
    assert words in part.about["failure"]


def test_a_part_that_cannot_be_written_is_no_failure_of_the_clip(
    tmp_path: Path, counting: Path
) -> None:
    (tmp_path / "parts").write_text("a file where the folder would be")
    with pytest.raises(OutputError, match="parts"):
        cut(counting, RAW, tmp_path / "parts")


# --- what is damaged in part ---------------------------------------------------------------------


def make_mp4(path: Path, seconds: int, fps: int = 10) -> Path:
    """Frame k is a grey of level 3 k, a key frame every second; with noise."""
    av = quiet_av()
    with av.open(os.fspath(path), "w", options={"movflags": "faststart"}) as container:
        picture = container.add_stream(
            "mpeg4", rate=fps, options={"g": str(fps), "bf": "0", "sc_threshold": "1000000000"}
        )
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        voice = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        sound = noise(seconds)
        size = RATE_HZ // fps
        for k in range(seconds * fps):
            frame = av.VideoFrame.from_ndarray(flat(3 * k), format="rgb24")
            container.mux(picture.encode(frame.reformat(format="yuv420p")))
            heard = av.AudioFrame.from_ndarray(
                sound[None, k * size : (k + 1) * size], format="fltp", layout="mono"
            )
            heard.sample_rate, heard.pts = RATE_HZ, k * size
            container.mux(voice.encode(heard))
        container.mux(picture.encode(None))
        container.mux(voice.encode(None))
    return path


def spoilt(video: Path, start_s: float, end_s: float) -> Path:
    """The same with zeros in the place of the pictures between two times."""
    with quiet_av().open(os.fspath(video)) as container:
        track = container.streams.video[0]
        places = [
            (packet.pos, packet.size)
            for packet in container.demux(track)
            if packet.size and start_s <= packet.pts * packet.time_base < end_s
        ]
    data = bytearray(video.read_bytes())
    for at, size in places:
        data[at : at + size] = bytes(size)
    damaged = video.with_stem("damaged")
    damaged.write_bytes(data)
    return damaged


def test_the_readable_part_of_a_damaged_picture_is_kept(tmp_path: Path) -> None:
    whole = make_mp4(tmp_path / "whole.mp4", 8)
    key = "sub/v.mp4"
    _, expected = cut(Clip(path=str(whole), key=key, group="v"), RAW, tmp_path / "whole")
    assert len(expected) == 8
    clip = Clip(path=str(spoilt(whole, 3.2, 5.0)), key=key, group="v")
    part, records = cut(clip, RAW, tmp_path / "damaged")
    assert records == [record for k, record in enumerate(expected) if k not in (3, 4)]
    assert part.about["unseen"] == 2
    assert part.about["damage"].startswith("is damaged or cut short at 3.")
    part, records = cut(clip, replace(RAW, strict=True), tmp_path / "strict")
    assert records == []
    assert "is damaged or cut short" in part.about["failure"]
    # Of what is not damaged a strict run says the same.
    strict = replace(RAW, strict=True)
    part, records = cut(Clip(path=str(whole), key=key, group="v"), strict, tmp_path / "other")
    assert records == expected
    assert "damage" not in part.about


def test_a_clip_of_which_no_pair_is_left_says_that_it_is_damaged(tmp_path: Path) -> None:
    video = spoilt(make_mp4(tmp_path / "v.mp4", 3), 0.0, 3.0)
    part, records = cut(video, RAW, tmp_path)
    assert records == []
    assert part.about["failure"].startswith("is damaged or cut short")


@pytest.mark.parametrize("strict", [False, True])
def test_what_the_tracks_note_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counting: Path, strict: bool
) -> None:
    """Of two seconds that are read, the sound notes a damage twice; so does the picture once."""
    heard, shown = room.soundtrack, room.open_frames

    class Noting:
        def __init__(self, track: Any) -> None:
            self.start_s, self.damages, self._track = track.start_s, list[str](), track

        def __iter__(self) -> Iterator[NDArray[np.float32]]:
            yield np.concatenate(list(self._track))[: 2 * RATE_HZ]
            self.damages += 2 * [f"{counting} is damaged at 2.00 s"]

    @contextlib.contextmanager
    def sound(*args: Any) -> Iterator[Any]:
        with heard(*args) as track:
            yield Noting(track)

    @contextlib.contextmanager
    def picture(*args: Any, **options: Any) -> Iterator[Any]:
        with shown(*args, **options) as reader:
            warnings = [f"{counting} shows nothing at 3.00 s"]
            yield SimpleNamespace(at=reader.at, pixel_aspect=reader.pixel_aspect, warnings=warnings)

    monkeypatch.setattr(room, "soundtrack", sound)
    monkeypatch.setattr(room, "open_frames", picture)
    both = "is damaged at 2.00 s; shows nothing at 3.00 s"
    part, records = cut(counting, replace(RAW, strict=strict), tmp_path)
    assert part.about["failure" if strict else "damage"] == both
    assert [about["start_s"] for about in sidecars(records)] == ([] if strict else [0.0, 1.0])


# --- clips that change, clips from elsewhere -----------------------------------------------------


def test_a_part_is_of_a_clip_as_it_is_now(
    video: Path, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, _ = cut(clip, RAW, tmp_path)
    assert is_current(part.about, clip)
    for other in ({"label": "cat"}, {"group": "w"}, {"split": "test"}, {"licence": "CC0"}):
        assert not is_current(part.about, replace(clip, **other))  # type: ignore[arg-type]
    # Changed while it is read, it is done again.
    real = room._record

    def record(*args: Any) -> Record:
        os.utime(video, ns=(0, 0))
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(room, "_record", record)
        changed, _ = cut(clip, RAW, tmp_path / "changed")
    assert not is_current(part.about, clip)
    assert not is_current(changed.about, clip)
    video.unlink()
    part, _ = cut(clip, RAW, tmp_path)
    assert is_current(part.about, clip)


def test_a_url_gives_the_same_bytes_as_a_file(video: Path, clip: Clip, tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/ingest/v.mp4", video.read_bytes())
    there = replace(clip, path="memory://ingest/v.mp4")
    assert cut(there, RAW, tmp_path / "a")[1] == cut(clip, RAW, tmp_path / "b")[1]
    system.pipe("/ingest/v.mp4", b"broken")
    part, _ = cut(there, RAW, tmp_path / "c")
    assert "soundsight-" not in part.about["failure"]
    part, _ = cut(replace(clip, path="memory://ingest/none.mp4"), RAW, tmp_path / "d")
    assert "does not exist" in part.about["failure"]


def test_a_fetch_is_tried_again_and_then_given_up(
    video: Path, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.time, "sleep", lambda _: None)
    broken = [True, True, False, True, True, True]

    def flaky(_: str, mode: str) -> object:
        if broken.pop(0):
            raise OSError("connection reset\nby peer")
        return video.open(mode)

    monkeypatch.setattr(fsspec, "open", flaky)
    clip = replace(clip, path="http://there/v.mp4")
    assert len(cut(clip, RAW, tmp_path)[1]) == 1
    assert len(broken) == 3
    part, _ = cut(clip, RAW, tmp_path)
    assert broken == []
    assert part.about["failure"] == "cannot fetch v.mp4: connection reset"


def test_no_space_for_a_copy_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fsspec, "open", full)
    clip = Clip(path="http://there/v.mp4", key="v.mp4", group="v")
    with pytest.raises(NoSpaceError, match="TMPDIR"):
        ingest(clip, RAW, tmp_path / "v.tar")
    assert os.listdir(tmp_path) == []
