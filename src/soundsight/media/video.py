"""Videos in, square pictures out: what a file says of itself, and the frame at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import VideoError
from soundsight.core.units import IMAGE_PX
from soundsight.media.container import check_file, open_container, quiet_av
from soundsight.media.frames import open_frames, picture_track
from soundsight.media.framing import quarter_turns, square


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a file says of its picture and sound.

    Attributes:
        width_px: width as shown, in pixels (after rotation).
        height_px: height as shown, in pixels.
        duration_s: length of the picture track in seconds, or None where the file does not tell.
        fps: mean frames per second, or None where the file does not tell.
        has_sound: whether there is a sound track.
    """

    width_px: int
    height_px: int
    duration_s: float | None
    fps: float | None
    has_sound: bool


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Read what a file says of its picture and sound.

    Raises:
        VideoError: when the file is missing, cannot be read or has no picture track.
    """
    file = Path(path)
    check_file(file, VideoError)
    with open_container(file, VideoError) as container:
        track = picture_track(container, file)
        duration_s = None
        if track.duration is not None:
            duration_s = float(track.duration * track.time_base)
        elif container.duration is not None:
            duration_s = container.duration / 1e6
        frame = _first_frame(container, track, file)
        width_px, height_px = frame.width, frame.height
        if quarter_turns(frame) % 2:
            width_px, height_px = height_px, width_px
        return VideoInfo(
            width_px=width_px,
            height_px=height_px,
            duration_s=duration_s,
            fps=float(track.average_rate) if track.average_rate else None,
            has_sound=bool(container.streams.audio),
        )


def frame_at(
    path: str | os.PathLike[str], t_s: float, size_px: int = IMAGE_PX, crop: str = "center"
) -> NDArray[np.uint8]:
    """Read the frame that is shown at a time, as a square picture.

    Args:
        path: a video file.
        t_s: time from the start of the picture, in seconds. A frame is shown from its time stamp
            to the next one's; the last frame stays to the end.
        size_px: side of the square, in pixels.
        crop: ``center`` (the central square) or ``letterbox`` (the whole frame, black bars).

    Returns:
        uint8 [size_px, size_px, 3], RGB, turned as a player would turn it.

    Raises:
        VideoError: when the file is missing, cannot be read, has no picture track, or has no
            frame at ``t_s``.
        ConfigError: on an unknown crop.
    """
    file = Path(path)
    with open_frames(file) as reader:
        # A comparison with nan is false.
        times = [reader.start_s + t_s] if t_s >= 0 else []
        shown = next(reader.at(times), None)
        if shown is None or shown.frame is None:
            raise VideoError(f"{file} has no frame at {t_s:g} s: choose a time inside the video")
        return square(shown.frame, size_px, crop, reader.pixel_aspect)


def _first_frame(container: Any, track: Any, file: Path) -> Any:
    av = quiet_av()
    try:
        for frame in container.decode(track):
            return frame
    except (av.error.FFmpegError, OSError):
        pass
    raise VideoError(f"{file} has no picture that can be decoded: get the whole file again")
