"""Sounds and files that several tests of the media room share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bench() -> Path:
    folder = Path(os.environ.get("SOUNDSIGHT_BENCH", REPO / "../shared/data")).resolve()
    if not (folder / "sounds").is_dir():
        pytest.skip(f"no bench data at {folder}: set SOUNDSIGHT_BENCH to run this test")
    return folder


@pytest.fixture(scope="session")
def encode() -> Callable[..., Path]:
    """Write mono or stereo samples [t] or [t, channels] as any codec PyAV can encode."""

    def write(path: Path, samples: Any, codec: str, rate_hz: int = 44_100, **options: str) -> Path:
        import av

        samples = np.asarray(samples, np.float32)
        planes = samples[None] if samples.ndim == 1 else samples.T
        layout = "mono" if len(planes) == 1 else "stereo"
        with av.open(str(path), "w", options=options) as container:
            track = container.add_stream(codec, rate=rate_hz, layout=layout)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(planes), format="fltp", layout=layout
            )
            frame.sample_rate = rate_hz
            resampler = av.AudioResampler(
                format=track.codec_context.format,
                layout=layout,
                rate=rate_hz,
                frame_size=track.codec_context.frame_size or 1024,
            )
            for piece in resampler.resample(frame) + resampler.resample(None):
                container.mux(track.encode(piece))
            container.mux(track.encode(None))
        return path

    return write
