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
from soundsight.media.audio import check_file, open_container, quiet_av
from soundsight.media.frames import picture_track
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
    check_file(file, VideoError)
    av = quiet_av()
    with open_container(file, VideoError) as container:
        track = picture_track(container, file)
        start = track.start_time or 0
        target = start + t_s / float(track.time_base)
        shown: Any = None
        end_s = float("inf")
        if t_s >= 0:
            try:
                # Lands on the key frame before the target: frames from there on are decoded.
                container.seek(int(target), stream=track, backward=True)
                for frame in container.decode(track):
                    if frame.pts is None:
                        continue
                    # Half a tick of tolerance: times such as 0.1 s have no exact tick.
                    if frame.pts > target + 0.5 and shown is not None:
                        break
                    shown = frame
                    if frame.pts > target + 0.5:
                        break
                else:
                    end_s = _end_s(shown, track)
            except (av.error.FFmpegError, OSError):
                shown = None
        if shown is None or t_s >= end_s + 1e-6:
            raise VideoError(f"{file} has no frame at {t_s:g} s: choose a time inside the video")
        return square(shown, size_px, crop, track.sample_aspect_ratio)


def _end_s(last: Any, track: Any) -> float:
    """When the picture ends: the track's length, or one frame after the last time stamp."""
    if last is None:
        return 0.0
    step_s = 1.0 / float(track.average_rate) if track.average_rate else 0.0
    shown_s = float((last.pts - (track.start_time or 0)) * track.time_base) + step_s
    length_s = float(track.duration * track.time_base) if track.duration is not None else 0.0
    return max(shown_s, length_s)


def _first_frame(container: Any, track: Any, file: Path) -> Any:
    av = quiet_av()
    try:
        for frame in container.decode(track):
            return frame
    except (av.error.FFmpegError, OSError):
        pass
    raise VideoError(f"{file} has no picture that can be decoded: get the whole file again")
