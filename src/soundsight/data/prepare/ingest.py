"""One clip -> its pairs: a second of sound, and the frame in the middle of it.

This is what a worker does, on this machine or on another: it depends on nothing but the clip and
the settings, and its result, a part (``data.prepare.staging``), is the same bytes everywhere.
Sound and picture are read side by side, each in constant memory, so that a file of three hours
needs no more than one of ten seconds.
"""

from __future__ import annotations

import base64
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

from soundsight.core.errors import (
    ConfigError,
    OutputError,
    SoundsightError,
    VideoError,
    first_line,
)
from soundsight.core.units import IMAGE_PX, RATE_HZ, SEGMENT_S
from soundsight.data.prepare.clean import CleanConfig, frames_needed, measure_picture, measure_sound
from soundsight.data.prepare.clean import reasons as reasons_to_drop
from soundsight.data.prepare.duplicates import Printer
from soundsight.data.prepare.staging import NoSpaceError, PartWriter
from soundsight.data.records import MEL, SIDECAR, Clip, Record, rank_of
from soundsight.data.sources.listing import is_url
from soundsight.data.store.shards import encode_mel
from soundsight.media.frames import FrameReader, open_frames
from soundsight.media.framing import CROPS, square
from soundsight.media.mel import MelConfig
from soundsight.media.soundtrack import SoundTrack, open_soundtrack
from soundsight.media.windows import Window, check_lengths, windows

FRAMES = ("center", "sharpest")
IMAGE_FORMATS = ("jpg", "webp")
MIN_SIZE_PX, MAX_SIZE_PX = 64, 256

_SHARPEST = tuple(k / 10 for k in range(1, 10))
"""Where in a segment the sharpest frame is looked for."""

_FETCH_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """How a clip is cut into pairs.

    Attributes:
        segment_s: length of a segment in seconds, a multiple of .01 s.
        hop_s: seconds between the starts of segments, a multiple of .01 s.
        size_px: side of the picture in pixels, 64 to 256.
        frame: ``center`` (the frame shown in the middle of the segment) or ``sharpest`` (of nine
            spread over it).
        crop: ``center`` (the central square) or ``letterbox`` (the whole frame, black bars).
        image_format: ``jpg`` or ``webp``.
        quality: of the picture's coding, 1 to 100.
        duplicates: take fingerprints, by which near-duplicate videos are found.
        clean: the filters that look at one pair.
        mel: settings of the log-mel.
        strict: refuse a clip that is damaged anywhere, instead of using what can be read of it.
    """

    segment_s: float = SEGMENT_S
    hop_s: float = SEGMENT_S
    size_px: int = IMAGE_PX
    frame: str = "center"
    crop: str = "center"
    image_format: str = "jpg"
    quality: int = 95
    duplicates: bool = True
    clean: CleanConfig = field(default_factory=CleanConfig)
    mel: MelConfig = field(default_factory=MelConfig)
    strict: bool = False

    def __post_init__(self) -> None:
        check_lengths(self.segment_s, self.hop_s, self.mel)
        for name, value, choices in (
            ("frame", self.frame, FRAMES),
            ("crop", self.crop, CROPS),
            ("image_format", self.image_format, IMAGE_FORMATS),
        ):
            if value not in choices:
                raise ConfigError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
        if not MIN_SIZE_PX <= self.size_px <= MAX_SIZE_PX:
            raise ConfigError(
                f"size_px is from {MIN_SIZE_PX} to {MAX_SIZE_PX} pixels, not {self.size_px}"
            )
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is from 1 to 100, not {self.quality}")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a clip.

    Attributes:
        clip: its id.
        pairs: pairs that are kept.
        dropped: pairs that cleaning drops.
        failure: why there are none at all, or None.
        damage: what of it could not be read, or None; the pairs are of the rest.
    """

    clip: str
    pairs: int
    dropped: int
    failure: str | None = None
    damage: str | None = None


def ingest(clip: Clip, config: IngestConfig, part: Path) -> Outcome:
    """Cut a clip into pairs and write them, or why there are none, as a part.

    A clip that cannot be used is no error: its part says why.

    Raises:
        OutputError: when the part cannot be written.
    """
    try:
        with PartWriter(part) as writer:
            return _fill(writer, clip, config)
    except OutputError:
        raise
    except SoundsightError as error:
        reason = str(error)
    except MemoryError:
        reason = "it needs more memory than there is"
    except Exception as error:
        # A fault of ours on one file must not end a run over thousands; it is told apart.
        reason = f"unexpected {type(error).__name__}: {first_line(error)}"
    return give_up(clip, part, reason)


def give_up(clip: Clip, part: Path, reason: str) -> Outcome:
    """Record that a clip cannot be used, as its part: in one line, without the path of a machine.

    Raises:
        OutputError: when the part cannot be written.
    """
    reason = _without_path(clip, reason)
    with PartWriter(part) as writer:
        writer.about.update(_about(clip), failure=reason)
    return Outcome(clip=clip.id, pairs=0, dropped=0, failure=reason)


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


def _stamp(clip: Clip) -> list[int] | None:
    """What tells whether a local file was changed: its size and time; None for a URL."""
    try:
        status = Path(clip.path).stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def _about(clip: Clip) -> dict[str, Any]:
    return {
        "clip": clip.key,
        "group": clip.group,
        "label": clip.label,
        "licence": clip.licence,
        "split": clip.split,
        "stamp": _stamp(clip),
    }


def _fill(writer: PartWriter, clip: Clip, config: IngestConfig) -> Outcome:
    printer = Printer() if config.duplicates else None
    kept = dropped = unseen = 0
    content = hashlib.blake2b(digest_size=16)
    # Before the file is read: changed meanwhile, it is done again.
    writer.about.update(_about(clip))
    damages: list[str] = []
    with _local(clip) as path:
        for candidate in _candidates(path, clip, config, damages):
            if candidate.image is None:
                unseen += 1
                continue
            reasons = reasons_to_drop(candidate.measures, config.clean)
            sums = _sums(candidate.window.mel, candidate.image)
            writer.add(_record(clip, candidate, config), reasons, sums)
            if reasons:
                dropped += 1
                continue
            kept += 1
            content.update(candidate.window.mel.tobytes() + candidate.image.tobytes())
            if printer is not None:
                printer.add(candidate.window.start_s, candidate.window.mel, candidate.image)
        # A copy of what a URL names lies at a place of this machine.
        told = (_without_path(clip, line.replace(str(path), clip.path)) for line in damages)
        damage = "; ".join(dict.fromkeys(told)) or None
    if damage is not None and (config.strict or not kept + dropped):
        raise VideoError(damage)
    if not kept + dropped:
        raise VideoError(
            f"{clip.path} shows no picture while it sounds: nothing at the middle of any segment "
            f"of {config.segment_s:g} s"
        )
    writer.about.update(
        unseen=unseen,
        content=content.hexdigest() if kept else clip.id,
        print=_print_text(printer, clip) if printer is not None else None,
    )
    if damage is not None:
        writer.about.update(damage=damage)
    return Outcome(clip=clip.id, pairs=kept, dropped=dropped, damage=damage)


def _print_text(printer: Printer, clip: Clip) -> str:
    return base64.b64encode(printer.finish(f"{rank_of(clip)} {clip.id}").to_bytes()).decode()


# --- sound and picture, side by side -----------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    """A segment and its picture (None where nothing is shown)."""

    number: int
    start_s: float
    window: Window
    image: NDArray[np.uint8] | None
    frame_s: float
    measures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    image: NDArray[np.uint8]
    frame_s: float


def _candidates(
    path: Path, clip: Clip, config: IngestConfig, damages: list[str]
) -> Iterator[_Candidate]:
    """The segments of a clip, up to its first damage where the settings are strict.

    What of it cannot be read comes into ``damages``.
    """
    places = _places(config)
    with (
        open_frames(path, strict=False) as picture,
        open_soundtrack(path, clip.start_s, clip.end_s) as sound,
    ):
        seen = _pictures(picture, sound.start_s, places, config)
        heard = _Heard(sound.blocks)
        cut = windows(heard, config.segment_s, config.hop_s, config.mel)
        for number, window in enumerate(cut):
            pictures = next(seen)
            damages[:] = _damages(sound, picture)
            if config.strict and damages:
                return
            if heard.ended and window.start_s + config.segment_s / 2 > heard.seconds + 1e-6:
                # Padding in its middle: what is shown there is beside the sound, not with it.
                pictures = {}
            yield _candidate(number, sound.start_s + window.start_s, window, pictures, config)
        damages[:] = _damages(sound, picture)


def _damages(sound: SoundTrack, picture: FrameReader) -> list[str]:
    """What could not be read so far, a line each: of the sound, then of the picture."""
    return [*sound.damages, *picture.warnings]


class _Heard:
    """Counts the sound that passes by."""

    def __init__(self, blocks: Iterator[NDArray[np.float32]]) -> None:
        self._blocks = blocks
        self._samples = 0
        self.ended = False

    @property
    def seconds(self) -> float:
        """How much has passed."""
        return self._samples / RATE_HZ

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for block in self._blocks:
            self._samples += len(block)
            yield block
        self.ended = True


def _places(config: IngestConfig) -> tuple[float, ...]:
    """The moments of a segment that are looked at, as shares of its length, in order."""
    places = {0.5, *frames_needed(config.clean)}
    if config.frame == "sharpest":
        places |= set(_SHARPEST)
    return tuple(sorted(places))


def _schedule(
    start_s: float, places: Sequence[float], config: IngestConfig
) -> Iterator[tuple[float, int, float]]:
    """(time, segment, place) of every frame to look at, in the order of time, without end."""

    def row(place: float) -> Iterator[tuple[float, int, float]]:
        for number in itertools.count():
            # The same product as the segment's start, so that no time is off by a rounding.
            at_s = start_s + round(number * config.hop_s, 6) + place * config.segment_s
            yield at_s, number, place

    return heapq.merge(*(row(place) for place in places))


def _pictures(
    reader: FrameReader, start_s: float, places: Sequence[float], config: IngestConfig
) -> Iterator[dict[float, _Seen]]:
    """For each segment in turn, what is shown at its places; places that show nothing are left out.

    Segments that overlap want later frames before earlier segments are done: what has come waits.
    """
    size_px = config.size_px * (2 if config.frame == "sharpest" else 1)
    waiting: dict[int, dict[float, _Seen]] = {}
    last_frame: Any = None
    last_image: NDArray[np.uint8] | None = None
    wanted = (at_s for at_s, _, _ in _schedule(start_s, places, config))
    for (_, number, place), shown in zip(
        _schedule(start_s, places, config), reader.at(wanted), strict=False
    ):
        segment = waiting.setdefault(number, {})
        if shown.frame is not None:
            if shown.frame is not last_frame or last_image is None:
                last_frame = shown.frame
                last_image = square(last_frame, size_px, config.crop, reader.pixel_aspect)
            segment[place] = _Seen(image=last_image, frame_s=shown.frame_s)
        if place == places[-1]:
            yield waiting.pop(number)


def _candidate(
    number: int,
    start_s: float,
    window: Window,
    pictures: Mapping[float, _Seen],
    config: IngestConfig,
) -> _Candidate:
    kept = 0.5 if 0.5 in pictures else None
    if config.frame == "sharpest" and kept is not None:
        choices = [place for place in _SHARPEST if place in pictures]
        # Of equals the one nearest to the middle.
        kept = max(choices, key=lambda p: (round(_sharpness(pictures[p].image), 3), -abs(p - 0.5)))
        pictures = {
            place: _Seen(image=_halved(seen.image, config.size_px), frame_s=seen.frame_s)
            for place, seen in pictures.items()
        }
    if kept is None:
        return _Candidate(
            number=number, start_s=start_s, window=window, image=None, frame_s=0.0, measures={}
        )
    measures: dict[str, float] = {}
    if config.clean.steps:
        measures.update(measure_sound(window.samples, window.mel, window.peak_db))
        needed = {*frames_needed(config.clean), kept}
        order = sorted(place for place in pictures if place in needed)
        frames = [pictures[place].image for place in order]
        measures.update(measure_picture(frames, order.index(kept)))
    return _Candidate(
        number=number,
        start_s=start_s,
        window=window,
        image=pictures[kept].image,
        frame_s=pictures[kept].frame_s,
        measures=measures,
    )


def _sharpness(image: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the luma."""
    luma = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    inner = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
    return float(laplacian.var())


def _halved(image: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    small = Image.fromarray(image).resize((size_px, size_px), Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.uint8)


# --- records -----------------------------------------------------------------------------------


def _record(clip: Clip, candidate: _Candidate, config: IngestConfig) -> Record:
    assert candidate.image is not None
    window = candidate.window
    files = {
        MEL: encode_mel(window.mel),
        config.image_format: _picture_bytes(candidate.image, config),
    }
    key = f"{clip.id}_{candidate.number:06d}"
    about = {
        "key": key,
        "clip": clip.key,
        "group": clip.group,
        "label": clip.label,
        "licence": clip.licence,
        "start_s": round(candidate.start_s, 6) + 0.0,
        "end_s": round(candidate.start_s + config.segment_s, 6),
        "frame_s": round(candidate.frame_s, 6) + 0.0,
        "mel": {
            "shape": list(window.mel.shape),
            "rms_dbfs": round(window.rms_dbfs, 2),
            "peak_db": round(window.peak_db, 2),
        },
        "image": {"size_px": config.size_px},
        "measures": {name: round(float(v), 5) for name, v in candidate.measures.items()},
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    # Names of files may hold bytes that are no text: escaped, they survive.
    files[SIDECAR] = json.dumps(about, sort_keys=True, ensure_ascii=True).encode() + b"\n"
    return Record(key=key, files=files)


def _picture_bytes(image: NDArray[np.uint8], config: IngestConfig) -> bytes:
    shown = Image.fromarray(image)
    if config.image_format == "webp":
        return _encoded(shown, "WEBP", quality=config.quality, method=4)
    # At this size halved colours would show.
    return _encoded(shown, "JPEG", quality=config.quality, subsampling=0)


def _encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **settings)
    return file.getvalue()


def _sums(mel: NDArray[np.uint8], image: NDArray[np.uint8]) -> list[int]:
    """Sums of levels and of their squares, exact: of the log-mel, then of red, green and blue."""
    sums: list[int] = []
    for planes in (mel.reshape(-1, 1), image.reshape(-1, 3)):
        levels = planes.astype(np.int64)
        squares = np.einsum("ij,ij->j", levels, levels)
        for total, square_total in zip(levels.sum(axis=0), squares, strict=True):
            sums += [int(total), int(square_total)]
    return sums


# --- files from elsewhere ----------------------------------------------------------------------


@contextlib.contextmanager
def _local(clip: Clip) -> Iterator[Path]:
    """The clip as a local file: itself, or a copy of what its URL names."""
    if not is_url(clip.path):
        if not os.path.isfile(clip.path) and os.path.exists(clip.path):
            raise VideoError(f"{clip.path} is no regular file: pass a video file")
        yield Path(clip.path)
        return
    with tempfile.TemporaryDirectory(prefix="soundsight-") as folder:
        suffix = Path(clip.key.partition("#")[0]).suffix[:10]
        copy = Path(folder) / f"clip{suffix}"
        _fetch(clip.path, copy)
        try:
            yield copy
        except SoundsightError as error:
            raise type(error)(str(error).replace(str(copy), clip.path)) from None


def _fetch(url: str, copy: Path) -> None:
    import fsspec

    for again in range(_FETCH_TRIES):
        try:
            with fsspec.open(url, "rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
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
        else:
            return
