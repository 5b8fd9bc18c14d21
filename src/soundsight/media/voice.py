"""A sound track that is written as its samples come: AAC, mono, in an MP4."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from fractions import Fraction
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.media.container import quiet_av

_FRAME_SAMPLES = 1024  # of AAC


class VoiceTrack:
    """Adds a track of sound to a container that PyAV has opened for writing."""

    def __init__(self, container: Any, rate_hz: int, bit_rate_bps: int | None = None) -> None:
        self._av = quiet_av()
        self._container = container
        self._rate_hz = rate_hz
        self._track = container.add_stream("aac", rate=rate_hz, layout="mono")
        if bit_rate_bps is not None:
            self._track.bit_rate = bit_rate_bps
        self._cutter = self._av.AudioResampler(
            format="fltp", layout="mono", rate=rate_hz, frame_size=_FRAME_SAMPLES
        )
        self.samples = 0

    def push(self, samples: NDArray[np.float32]) -> None:
        """Write the next samples, float32 [t]; beyond full scale they are clipped."""
        limited = np.clip(samples, -1.0, 1.0, dtype=np.float32)
        frame = self._av.AudioFrame.from_ndarray(
            np.ascontiguousarray(limited)[None], format="fltp", layout="mono"
        )
        frame.sample_rate = self._rate_hz
        frame.time_base = Fraction(1, self._rate_hz)
        frame.pts = self.samples
        self.samples += len(samples)
        self._write(frame)

    def close(self) -> None:
        """Write what is left."""
        self._write(None)
        self._container.mux(self._track.encode(None))

    def _write(self, frame: Any) -> None:
        for cut in self._cutter.resample(frame):
            self._container.mux(self._track.encode(cut))


def write_samples(
    file: IO[bytes] | str, samples: NDArray[np.float32], rate_hz: int, format: str = "flac"
) -> None:
    """Write float32 [t], mono, as ``flac`` (16 bits, clipped beyond full scale) or ``wav``.

    ``file`` is a path, or open for writing and seekable.
    """
    if format == "flac":
        codec, kind = "flac", "s16"
        planes = np.rint(np.clip(samples, -1.0, 32767 / 32768) * 32768).astype(np.int16)
    else:
        codec, kind, planes = "pcm_f32le", "flt", np.ascontiguousarray(samples, np.float32)
    av = quiet_av()
    with av.open(file, "w", format=format) as container:
        track = container.add_stream(codec, rate=rate_hz, layout="mono")
        track.format = kind
        size = track.codec_context.frame_size or rate_hz
        for first in range(0, len(planes), size):
            frame = av.AudioFrame.from_ndarray(planes[None, first : first + size], kind, "mono")
            frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
            frame.pts = first
            container.mux(track.encode(frame))
        container.mux(track.encode(None))


def m4a(
    file: IO[bytes],
    blocks: Iterable[NDArray[np.float32]],
    rate_hz: int = units.RATE_HZ,
    bit_rate_bps: int = 64_000,
) -> Generator[float]:
    """Write blocks [t], mono, full scale 1, as M4A; yield seconds that are written, after each."""
    with quiet_av().open(file, "w", format="mp4") as container:
        track = VoiceTrack(container, rate_hz, bit_rate_bps)
        for block in blocks:
            track.push(block)
            yield track.samples / rate_hz
        track.close()
