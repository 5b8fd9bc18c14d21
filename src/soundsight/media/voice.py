"""A sound track that is written as its samples come, mono: AAC, FLAC or plain samples."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from fractions import Fraction
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.media.container import quiet_av

_FORMATS = {"aac": "fltp", "flac": "s16", "pcm_f32le": "flt"}


class VoiceTrack:
    """Adds a track of sound to a container that PyAV has opened for writing."""

    def __init__(
        self, container: Any, rate_hz: int, bit_rate_bps: int | None = None, codec: str = "aac"
    ) -> None:
        self._container, self._rate_hz, self._format = container, rate_hz, _FORMATS[codec]
        self._track = container.add_stream(codec, rate=rate_hz, layout="mono")
        self._track.format = self._format
        if bit_rate_bps is not None:
            self._track.bit_rate = bit_rate_bps
        self.samples = 0

    def push(self, samples: NDArray[np.float32]) -> None:
        """Write the next samples, float32 [t]; AAC and FLAC clip them beyond full scale."""
        made: NDArray[Any] = np.ascontiguousarray(samples, np.float32)
        if self._format == "fltp":
            made = np.clip(made, -1.0, 1.0)
        elif self._format == "s16":
            made = np.rint(np.clip(made, -1.0, 32767 / 32768) * 32768).astype(np.int16)
        # PyAV cuts it into frames of the codec's length.
        frame = quiet_av().AudioFrame.from_ndarray(made[None], self._format, "mono")
        frame.sample_rate, frame.time_base = self._rate_hz, Fraction(1, self._rate_hz)
        frame.pts = self.samples
        self.samples += len(samples)
        self._container.mux(self._track.encode(frame))

    def close(self) -> None:
        """Write what is left."""
        self._container.mux(self._track.encode(None))


def write_samples(
    file: IO[bytes] | str, samples: NDArray[np.float32], rate_hz: int, format: str = "flac"
) -> None:
    """Write float32 [t], mono, as ``flac`` (16 bits, clipped beyond full scale) or ``wav``.

    ``file`` is a path, or open for writing and seekable.
    """
    with quiet_av().open(file, "w", format=format) as container:
        codec = "flac" if format == "flac" else "pcm_f32le"
        track = VoiceTrack(container, rate_hz, codec=codec)
        track.push(samples)
        track.close()


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
