"""Sounds and files that several tests of the media room share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bench() -> Path:
    folder = Path(os.environ.get("SOUNDSIGHT_BENCH", REPO / "../shared/data")).resolve()
    if not (folder / "sounds").is_dir():
        pytest.skip(f"no bench data at {folder}: set SOUNDSIGHT_BENCH to run this test")
    return folder


LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


@pytest.fixture(scope="session")
def encode() -> Callable[..., Path]:
    """Write a sound file, or a video with sound, as any codec PyAV can encode."""

    def write(
        path: Path, sound: Any, codec: str = "aac", rate_hz: int = 44_100, *,
        at_s: float = 0.0, holes: Mapping[float, float] | None = None, default: int | None = None,
        picture_s: float = 0.0, picture_at_s: float = 0.0, **options: str,
    ) -> Path:  # fmt: skip
        """Write the file.

        Args:
            sound: samples [t] or [t, channels]; a list of several tracks; or None.
            at_s: when the sound begins.
            holes: moves all that is heard from a time on by seconds.
            default: the number of the track that is marked so.
            picture_s: length of a picture of grey steps.
            picture_at_s: when it begins.
            options: of the container.
        """
        sounds = [] if sound is None else sound if isinstance(sound, list) else [sound]
        packets: list[tuple[float, Any]] = []
        with av.open(str(path), "w", options=options) as container:
            if picture_s:
                codec_of_picture = "libvpx" if path.suffix == ".webm" else "libx264"
                picture = container.add_stream(codec_of_picture, rate=25, options={"g": "25"})
                picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
            tracks = []
            for number, samples in enumerate(sounds):
                layout = LAYOUTS[np.atleast_2d(np.transpose(samples)).shape[0]]
                tracks.append(container.add_stream(codec, rate=rate_hz, layout=layout))
                if codec == "wmav2":
                    tracks[-1].bit_rate = 96_000  # it has no default
                if default is not None:
                    marked = av.stream.Disposition.default
                    tracks[-1].disposition = marked if number == default else 0
            container.start_encoding()
            for k in range(round(picture_s * 25)):
                number = round(picture_at_s * 25) + k
                grey = np.full((48, 64, 3), number % 256, np.uint8)
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                packets += [(number / 25, packet) for packet in picture.encode(frame)]
            if picture_s:
                packets += [(picture_at_s + picture_s, packet) for packet in picture.encode(None)]
            for track, samples in zip(tracks, sounds, strict=True):
                for packet in _encoded(track, samples, rate_hz):
                    begin_s = float(packet.pts * packet.time_base)
                    moved_s = at_s + sum(by for at, by in (holes or {}).items() if begin_s >= at)
                    shift = round(moved_s / float(packet.time_base))
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packets.append((begin_s + moved_s, packet))
            for _, packet in sorted(packets, key=lambda item: item[0]):
                container.mux(packet)
        return path

    return write


def _encoded(track: Any, samples: Any, rate_hz: int) -> list[Any]:
    planes = np.ascontiguousarray(np.atleast_2d(np.transpose(samples)), np.float32)
    layout = LAYOUTS[len(planes)]
    frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
    context = track.codec_context
    resampler = av.AudioResampler(
        format=context.format, layout=layout, rate=rate_hz, frame_size=context.frame_size or 1024
    )
    pieces = resampler.resample(frame) + resampler.resample(None)
    packets = [packet for piece in pieces for packet in track.encode(piece)]
    return packets + track.encode(None)
