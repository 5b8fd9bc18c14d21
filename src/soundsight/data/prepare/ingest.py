"""One clip -> its pairs: a second of sound, and the frame in the middle of it.

This is what a worker does, on this machine or on another: it depends on nothing but the clip and
the settings, and its result, a part (``data.prepare.staging``), is the same bytes everywhere.
Sound and picture are read side by side, each in constant memory.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import heapq
import io
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundsight.core.config import check_values
from soundsight.core.errors import (
    ConfigError,
    OutputError,
    SoundsightError,
    VideoError,
    first_line,
)
from soundsight.core.units import IMAGE_PX, RATE_HZ, SEGMENT_S
from soundsight.data.prepare.clean import (
    LUMA,
    CleanConfig,
    frames_needed,
    laplacian,
    measure_picture,
    measure_sound,
    resized,
)
from soundsight.data.prepare.clean import reasons as reasons_to_drop
from soundsight.data.prepare.duplicates import Printer
from soundsight.data.prepare.staging import NoSpaceError, writing
from soundsight.data.records import IMAGES, MEL, SIDECAR, Clip, Record, rank_of
from soundsight.data.sources.listing import is_url
from soundsight.data.store.shards import encode_mel, write_shard
from soundsight.media.audio import soundtrack
from soundsight.media.frames import FrameReader, open_frames
from soundsight.media.framing import CROPS, square
from soundsight.media.mel import MelConfig
from soundsight.media.segments import Segment, check_lengths, segments

FRAMES = ("center", "sharpest")
_SHARPEST = tuple(k / 10 for k in range(1, 10))
"""Where in a segment the sharpest frame is looked for."""

_FETCH_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """How a clip is cut into pairs."""

    segment_s: float = SEGMENT_S  #: length of a segment, a multiple of .01 s
    hop_s: float = SEGMENT_S  #: between the starts of segments, a multiple of .01 s
    size_px: int = IMAGE_PX  #: side of the picture, 64 to 256
    frame: str = "center"  #: of the middle of the segment, or the ``sharpest`` of nine
    crop: str = "center"  #: the central square, or ``letterbox``: the whole frame, black bars
    image_format: str = "jpg"  #: or ``webp``
    quality: int = 95  #: of the picture's coding, 1 to 100
    duplicates: bool = True  #: take fingerprints, by which near-duplicate videos are found
    clean: CleanConfig = field(default_factory=CleanConfig)  #: the filters of one pair
    mel: MelConfig = field(default_factory=MelConfig)
    strict: bool = False  #: refuse a clip that is damaged, instead of using what can be read

    def __post_init__(self) -> None:
        check_lengths(self.segment_s, self.hop_s, self.mel)
        check_values(self, frame=FRAMES, crop=CROPS, image_format=IMAGES)
        if not 64 <= self.size_px <= 256:
            raise ConfigError(f"size_px is from 64 to 256 pixels, not {self.size_px}")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is from 1 to 100, not {self.quality}")


def ingest(clip: Clip, config: IngestConfig, part: Path) -> None:
    """Cut a clip into pairs and write them, or why there are none, as a part.

    A clip that cannot be used is no error: its part says why.
    """
    about: dict[str, Any] = {}
    try:
        with writing(part):
            # A new index beside an old tar would be no part.
            part.unlink(missing_ok=True)
            write_shard(part, _records(clip, config, about), about)
        return
    except OutputError:
        raise
    except SoundsightError as error:
        reason = str(error)
    except MemoryError:
        reason = "it needs more memory than there is"
    except Exception as error:
        # A fault of ours on one file must not end a run over thousands; its reason says so.
        reason = f"unexpected {type(error).__name__}: {first_line(error)}"
    give_up(clip, part, reason)


def give_up(clip: Clip, part: Path, reason: str) -> None:
    """Record as its part why a clip cannot be used: in one line, without the path of a machine."""
    with writing(part):
        write_shard(part, (), {**_about(clip), "failure": _without_path(clip, reason)})


def _without_path(clip: Clip, reason: str) -> str:
    """A reason in one line that can be printed, about the clip by its own name."""
    for path in (clip.path, str(Path(clip.path))):
        reason = reason.replace(path, clip.key)
    # The path stands beside it in the table.
    reason = reason.removeprefix(f"{clip.key} ")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in reason)


def is_current(about: Mapping[str, Any], clip: Clip) -> bool:
    """Whether a part was made of this clip as it is now, by what the part says of it."""
    return all(about.get(name) == value for name, value in _about(clip).items())


def _about(clip: Clip) -> dict[str, Any]:
    about: dict[str, Any] = {"clip": clip.key, "stamp": None}
    with contextlib.suppress(OSError, ValueError):  # a URL has none
        status = Path(clip.path).stat()
        about["stamp"] = [status.st_size, status.st_mtime_ns]
    return about | {name: getattr(clip, name) for name in ("group", "label", "licence", "split")}


def _records(clip: Clip, config: IngestConfig, about: dict[str, Any]) -> Iterator[Record]:
    """Yield the pairs of a clip, dropped ones included; ``about`` becomes what its part says."""
    printer = Printer() if config.duplicates else None
    cut = kept = unseen = 0
    content = hashlib.blake2b(digest_size=16)
    damages: list[str] = []
    # Before the file is read: changed meanwhile, it is done again.
    about.update(_about(clip))
    with _local(clip) as path:
        for number, start_s, window, pictures in _segments(path, clip, config, damages):
            if 0.5 not in pictures:
                unseen += 1
                continue
            place, pictures = _choose(pictures, config)
            image, mel = pictures[place][0], window.mel
            key = f"{clip.id}_{number:06d}"
            record = _record(clip, key, start_s, window, place, pictures, config)
            cut += 1
            if not record.reasons:
                kept += 1
                content.update(mel.tobytes() + image.tobytes())
                if printer is not None:
                    printer.add(window.start_s, mel, image)
            yield record
        # A copy of what a URL names lies at a place of this machine.
        lines = (_without_path(clip, line.replace(str(path), clip.path)) for line in damages)
        damage = "; ".join(dict.fromkeys(lines))
    if damage and (config.strict or not cut):
        raise VideoError(damage)
    if not cut:
        raise VideoError(
            f"{clip.path} shows no picture while it sounds: nothing at the middle of any segment "
            f"of {config.segment_s:g} s"
        )
    about.update(unseen=unseen, content=content.hexdigest() if kept else clip.id)
    if printer is not None:
        about.update(print=printer.finish(f"{rank_of(clip)} {clip.id}").to_json())
    if damage:
        about.update(damage=damage)


# --- sound and picture, side by side -----------------------------------------------------------

_Seen = tuple[NDArray[np.uint8], float]
"""A picture, and when it is shown in seconds."""


def _segments(
    path: Path, clip: Clip, config: IngestConfig, damages: list[str]
) -> Iterator[tuple[int, float, Segment, dict[float, _Seen]]]:
    """Yield (number, start in s, segment, place -> what is shown there) of each segment of a clip.

    What of it cannot be read comes into ``damages``; where the settings are strict that is the end.
    """
    places = {0.5, *frames_needed(config.clean)}
    if config.frame == "sharpest":
        places |= set(_SHARPEST)
    with (
        open_frames(path, strict=False) as picture,
        soundtrack(path, clip.start_s, clip.end_s) as sound,
    ):
        seen = _pictures(picture, sound.start_s, sorted(places), config)
        samples = 0
        ended = False

        def blocks() -> Iterator[NDArray[np.float32]]:
            nonlocal samples, ended
            for block in sound:
                samples += len(block)
                yield block
            ended = True

        cut = segments(blocks(), config.segment_s, config.hop_s, config.mel, with_samples=True)
        for number, window in enumerate(cut):
            pictures = next(seen)
            damages[:] = [*sound.damages, *picture.warnings]
            if config.strict and damages:
                return
            if ended and window.start_s + config.segment_s / 2 > samples / RATE_HZ + 1e-6:
                # Padding in its middle: what is shown there is beside the sound, not with it.
                pictures = {}
            yield number, sound.start_s + window.start_s, window, pictures
        damages[:] = [*sound.damages, *picture.warnings]


def _pictures(
    reader: FrameReader, start_s: float, places: Sequence[float], config: IngestConfig
) -> Iterator[dict[float, _Seen]]:
    """For each segment in turn, what is shown at its places; places that show nothing are left out.

    Segments that overlap want later frames before earlier segments are done: what has come waits.
    """

    def row(place: float) -> Iterator[tuple[float, int, float]]:
        for number in itertools.count():
            # The same product as the segment's start, so that no time is off by a rounding.
            start = start_s + round(number * config.hop_s, 6)
            yield start + place * config.segment_s, number, place

    # (time, segment, place) of every frame to look at, in the order of time, without end.
    schedule, ahead = itertools.tee(heapq.merge(*map(row, places)))
    size_px = config.size_px * (2 if config.frame == "sharpest" else 1)
    waiting: dict[int, dict[float, _Seen]] = {}
    last_frame: Any = None
    last_image: NDArray[np.uint8] | None = None
    shows = reader.at(at_s for at_s, _, _ in ahead)
    for (_, number, place), shown in zip(schedule, shows, strict=False):
        segment = waiting.setdefault(number, {})
        if shown.frame is not None:
            if shown.frame is not last_frame or last_image is None:
                last_frame = shown.frame
                last_image = square(last_frame, size_px, config.crop, reader.pixel_aspect)
            segment[place] = last_image, shown.frame_s
        if place == places[-1]:
            yield waiting.pop(number)


def _choose(pictures: dict[float, _Seen], config: IngestConfig) -> tuple[float, dict[float, _Seen]]:
    """Return the place of the picture to keep, and all of them at their final size."""
    if config.frame == "center":
        return 0.5, pictures
    choices = [place for place in _SHARPEST if place in pictures]
    # Of equals the one nearest to the middle.
    kept = max(choices, key=lambda p: (round(_sharpness(pictures[p][0]), 3), -abs(p - 0.5)))
    return kept, {
        place: (resized(image, config.size_px), frame_s)
        for place, (image, frame_s) in pictures.items()
    }


def _sharpness(image: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the luma."""
    return float(laplacian(image.astype(np.float32) @ LUMA).var())


# --- records -----------------------------------------------------------------------------------


def _record(
    clip: Clip,
    key: str,
    start_s: float,
    window: Segment,
    kept: float,
    pictures: dict[float, _Seen],
    config: IngestConfig,
) -> Record:
    image, frame_s = pictures[kept]
    measures: dict[str, float] = {}
    if config.clean.steps:
        measures.update(measure_sound(window.samples, window.mel, window.peak_db))
        order = sorted({*frames_needed(config.clean), kept} & pictures.keys())
        frames = [pictures[place][0] for place in order]
        measures.update(measure_picture(frames, order.index(kept)))
    files = {MEL: encode_mel(window.mel), config.image_format: _picture_bytes(image, config)}
    about = {
        "key": key,
        "clip": clip.key,
        "group": clip.group,
        "label": clip.label,
        "licence": clip.licence,
        "start_s": round(start_s, 6) + 0.0,
        "end_s": round(start_s + config.segment_s, 6),
        "frame_s": round(frame_s, 6) + 0.0,
        "mel": {
            "shape": list(window.mel.shape),
            "rms_dbfs": round(window.rms_dbfs, 2),
            "peak_db": round(window.peak_db, 2),
        },
        "image": {"size_px": config.size_px},
        "measures": {name: round(float(v), 5) for name, v in measures.items()},
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    # Names of files may hold bytes that are no text: escaped, they survive.
    files[SIDECAR] = json.dumps(about, sort_keys=True, ensure_ascii=True).encode() + b"\n"
    reasons = reasons_to_drop(measures, config.clean)
    # Sums of levels and of their squares, exact: of the log-mel, then of red, green and blue.
    planes = [window.mel.reshape(-1), *image.reshape(-1, 3).T]
    levels = [plane.astype(np.int64) for plane in planes]
    sums = tuple(int(total) for plane in levels for total in (plane.sum(), plane @ plane))
    return Record(key=key, files=files, reasons=reasons, sums=sums)


def _picture_bytes(image: NDArray[np.uint8], config: IngestConfig) -> bytes:
    webp = config.image_format == "webp"
    # At this size halved colours would show.
    settings: dict[str, Any] = {"method": 4} if webp else {"subsampling": 0}
    file = io.BytesIO()
    picture = Image.fromarray(image)
    picture.save(file, "WEBP" if webp else "JPEG", quality=config.quality, **settings)
    return file.getvalue()


# --- files from elsewhere ----------------------------------------------------------------------


@contextlib.contextmanager
def _local(clip: Clip) -> Iterator[Path]:
    """The clip as a local file: itself, or a copy of what its URL names."""
    try:
        if not is_url(clip.path):
            if not os.path.isfile(clip.path) and os.path.exists(clip.path):
                raise VideoError(f"{clip.path} is no regular file: pass a video file")
            yield Path(clip.path)
            return
        with tempfile.TemporaryDirectory(prefix="soundsight-") as folder:
            copy = Path(folder) / f"clip{Path(clip.key.partition('#')[0]).suffix[:10]}"
            _fetch(clip.path, copy)
            try:
                yield copy
            except SoundsightError as error:
                raise type(error)(str(error).replace(str(copy), clip.path)) from None
    except OSError as error:
        # Inside ``writing`` it would be taken for an error of the part's place.
        raise VideoError(f"unexpected {type(error).__name__}: {first_line(error)}") from error


def _fetch(url: str, copy: Path) -> None:
    import fsspec

    for again in range(_FETCH_TRIES):
        try:
            with fsspec.open(url, "rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            return
        except FileNotFoundError:
            raise VideoError(f"{url} does not exist: check the path") from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise NoSpaceError(
                    f"no space left for a copy of {url}: free some, or set TMPDIR to a larger "
                    "place, and run the same command again"
                ) from None
            if again + 1 == _FETCH_TRIES:
                raise VideoError(f"cannot fetch {url}: {first_line(error)}") from None
            time.sleep(2.0**again)
