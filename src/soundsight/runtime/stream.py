"""Sounds of any length and live sounds, second by second, in constant memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soundsight.core import units
from soundsight.core.errors import AudioError, ConfigError
from soundsight.media import audio
from soundsight.media.decoder import MAX_RATE_HZ, MIN_RATE_HZ
from soundsight.media.downmix import Downmix
from soundsight.media.inputs import SoundFile, is_open_file
from soundsight.media.mel import MelConfig
from soundsight.media.segments import Segment, StreamingLogMel, segments_of

if TYPE_CHECKING:
    from soundsight.runtime.translator import Translation, Translator

Sound = SoundFile | ArrayLike | Iterator[NDArray[np.float32]]
"""A path, or a file that is open for reading bytes; samples in memory, which need their rate; or an
iterator of blocks [t], mono float32 at the model's rate (44,100 Hz), as ``media.audio.stream``
gives them."""


def blocks_of(
    sound: Sound, rate_hz: int | None, config: MelConfig
) -> Iterator[NDArray[np.float32]]:
    """Open a sound as blocks [t] of at most 10 s; the options are checked at once."""
    if isinstance(sound, (str, os.PathLike)) or is_open_file(sound):
        if rate_hz is not None:
            raise ConfigError("a file knows its own rate: leave rate_hz out")
        return audio.stream(sound, config.rate_hz)  # type: ignore[arg-type]
    if isinstance(sound, Iterator):
        if rate_hz not in (None, config.rate_hz):
            raise ConfigError(f"blocks of sound have {config.rate_hz} Hz: leave rate_hz out")
        return sound  # type: ignore[return-value]
    if isinstance(sound, bytes):
        raise ConfigError("pass a path, an open file or an array of samples, not bytes")
    if isinstance(sound, (list, tuple)) and any(_is_name(each) for each in sound):
        raise ConfigError("several sounds were passed: translate them one by one")
    if rate_hz is None or isinstance(rate_hz, bool) or not hasattr(rate_hz, "__index__"):
        raise ConfigError("samples in memory need their rate: pass rate_hz, a whole number of Hz")
    samples = audio.from_array(sound, int(rate_hz))
    step = int(units.CLIP_SCALE_S * config.rate_hz)
    return (samples[first : first + step] for first in range(0, len(samples), step))


def _is_name(sound: object) -> bool:
    return isinstance(sound, (str, os.PathLike)) or is_open_file(sound)


def warnings_of(blocks: object) -> tuple[str, ...]:
    """What is to be told of a sound as far as it has been read: nothing where nobody knows."""
    return tuple(getattr(blocks, "warnings", ()))


class SecondCutter:
    """Cuts a sound into seconds in constant memory, as ``segments_of`` cuts the whole of it."""

    def __init__(self, config: MelConfig) -> None:
        self._config = config
        # Up to 10.5 s the loudest point of the whole clip sets the scale, so the clip is needed
        # whole.
        self._short = int(units.CLIP_MAX_S * config.rate_hz)
        self._waiting: list[NDArray[np.float32]] = []
        self._held = 0
        self._stream: StreamingLogMel | None = None

    def push(self, block: NDArray[np.float32]) -> list[Segment]:
        """Take the next samples [t] and return the seconds they complete."""
        if self._stream is None:
            self._waiting.append(block)
            self._held += len(block)
            if self._held <= self._short:
                return []
            self._stream = StreamingLogMel(self._config)
            block, self._waiting = np.concatenate(self._waiting), []
        return self._stream.push(block)

    def flush(self) -> list[Segment]:
        """The sound has ended: return the seconds left.

        Raises:
            AudioError: when there was no sample at all.
        """
        if self._stream is not None:
            return self._stream.flush()
        whole = np.concatenate(self._waiting) if self._waiting else np.zeros(0, np.float32)
        return segments_of(whole, self._config, each_second=True)


def every_segment(blocks: Iterable[NDArray[np.float32]], config: MelConfig) -> Iterator[Segment]:
    """Cut a sound into seconds, see ``SecondCutter``."""
    cutter = SecondCutter(config)
    for block in blocks:
        yield from cutter.push(block)
    yield from cutter.flush()


class Waveform:
    """The lowest and highest sample of every 10 ms of a sound that passes by."""

    def __init__(self, config: MelConfig) -> None:
        self._step = config.hop_samples
        self._rest = np.zeros(0, np.float32)
        self._parts: list[NDArray[np.float32]] = []
        self._first = 0  # the step at which the kept parts begin

    def watch(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Pass the blocks [t] on."""
        for block in blocks:
            self._look(block)
            yield block
        # The last steps may be incomplete; silence completes them.
        if len(self._rest):
            self._look(np.zeros(self._step - len(self._rest), np.float32))

    def _look(self, block: NDArray[np.float32]) -> None:
        samples = np.concatenate([self._rest, block]) if len(self._rest) else block
        steps = len(samples) // self._step
        whole = samples[: steps * self._step].reshape(steps, self._step)
        self._rest = samples[steps * self._step :].copy()
        if steps:
            self._parts.append(np.stack([whole.min(axis=1), whole.max(axis=1)], axis=1))

    def cut(self, start_s: float) -> NDArray[np.float32]:
        """Return the second that starts at ``start_s``: float32 [100, 2], 0 beyond the end."""
        wave = np.zeros((units.FRAMES_PER_SEGMENT, 2), np.float32)
        begin = round(start_s * units.FRAMES_PER_SEGMENT / units.SEGMENT_S) - self._first
        at = 0
        for part in self._parts:
            low, high = max(begin, at), min(begin + len(wave), at + len(part))
            if low < high:
                wave[low - begin : high - begin] = part[low - at : high - at]
            at += len(part)
        return wave

    def forget(self, before_s: float) -> None:
        """Let go of the parts that end before ``before_s``."""
        before = round(before_s * units.FRAMES_PER_SEGMENT / units.SEGMENT_S)
        while self._parts and self._first + len(self._parts[0]) <= before:
            self._first += len(self._parts.pop(0))


class LiveCutter:
    """Windows of 1 s of one live signal that comes in blocks of any size and at any rate.

    The resampler keeps its state from block to block: one that forgets drifts by half a second a
    minute and clicks at every seam.

    Args:
        rate_hz: rate of the signal, in hertz.
        config: settings of the log-mel.
        hop_s: seconds between the starts of windows: 0.25, 0.5, 0.75 or 1.

    Raises:
        ConfigError: when ``rate_hz`` or ``hop_s`` is wrong.
    """

    def __init__(self, rate_hz: int, config: MelConfig, hop_s: float = 0.25) -> None:
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise ConfigError(
                f"rate_hz must be from {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, not {rate_hz}"
            )
        self._rate_hz = rate_hz
        self._target_hz = config.rate_hz
        self._mel = StreamingLogMel(config, hop_s=hop_s)
        self._resampler = self._new_resampler()
        self._mix: Downmix | None = None
        self._channels = 0

    def push(self, samples: ArrayLike) -> list[Segment]:
        """Take the next samples and return the windows they complete.

        Args:
            samples: [t] or [t, channels], floats of full scale 1 or int16; any t, 0 included.

        Raises:
            AudioError: on another kind or shape, or samples that are not finite. The signal is
                as before and may go on.
        """
        block = _checked(samples)
        segments: list[Segment] = []
        if self._mix is None or self._channels != block.shape[1]:
            if self._mix is not None:
                segments = self._mel.push(self._resampled(self._mix.finish()))
            self._mix, self._channels = Downmix(self._rate_hz, block.shape[1]), block.shape[1]
        return segments + self._mel.push(self._resampled(self._mix.push(block)))

    def flush(self) -> list[Segment]:
        """End the signal: return what is left. It may begin again from 0 s."""
        segments: list[Segment] = []
        if self._mix is not None:
            segments += self._mel.push(self._resampled(self._mix.finish()))
        if self._resampler is not None:
            tail = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            segments += self._mel.push(tail)
            self._resampler = self._new_resampler()
        return segments + self._mel.flush()

    def _resampled(self, mono: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._resampler is None:
            return mono
        samples: NDArray[np.float32] = self._resampler.resample_chunk(mono)
        return samples

    def _new_resampler(self) -> Any:
        if self._rate_hz == self._target_hz:
            return None
        import soxr

        return soxr.ResampleStream(self._rate_hz, self._target_hz, 1, dtype="float32")


class Stream:
    """Pictures of one live signal: windows of 1 s over blocks of any size.

    Args:
        translator: a loaded translator; streams may share it.
        rate_hz: rate of the signal, in hertz.
        hop_s: seconds between pictures: 0.25, 0.5, 0.75 or 1.
        draws: pictures of each window.
        seed: see ``Translator.translate``.
        scene: all windows share their random numbers under this name, so that the picture moves
            with the sound alone and does not flicker; None draws anew for every window.

    Raises:
        ConfigError: when an option is wrong.
    """

    def __init__(
        self,
        translator: Translator,
        rate_hz: int,
        hop_s: float = 0.25,
        *,
        draws: int = 1,
        seed: int = 0,
        scene: int | None = 0,
    ) -> None:
        # The translator's room imports this file: its check is fetched when it is needed.
        from soundsight.runtime.translator import check_options

        check_options(draws, seed, scene)
        self._translator = translator
        self._draws = draws
        self._seed = seed
        self._scene = scene
        self._cutter = LiveCutter(rate_hz, translator.info.mel, hop_s)

    def push(self, samples: ArrayLike) -> list[Translation]:
        """Take the next samples and return a translation for each window they complete.

        ``seconds`` counts from the first sample pushed.

        Args:
            samples: [t] or [t, channels], floats of full scale 1 or int16; any t, 0 included.

        Raises:
            AudioError: on another kind or shape, or samples that are not finite. The stream is
                as before and may go on.
        """
        return self._translated(self._cutter.push(samples))

    def flush(self) -> list[Translation]:
        """End the signal: return what is left. The stream may be used again from 0 s."""
        return self._translated(self._cutter.flush())

    def _translated(self, segments: list[Segment]) -> list[Translation]:
        return [
            self._translator.translate_segment(
                segment, draws=self._draws, seed=self._seed, item=self._scene
            )
            for segment in segments
        ]


def _checked(samples: ArrayLike) -> NDArray[np.float32]:
    """Samples as float32 [t, channels]."""
    array = np.asarray(samples)
    if array.ndim not in (1, 2):
        raise AudioError(f"samples have shape {list(array.shape)}: pass [t] or [t, channels]")
    if array.dtype == np.int16:
        array = array.astype(np.float32) / np.float32(32768)
    elif array.dtype.kind != "f":
        raise AudioError(f"samples are {array.dtype}: pass floats or int16")
    if array.ndim == 2 and not array.shape[1]:
        raise AudioError("samples have no channel: pass [t] or [t, channels]")
    with np.errstate(over="ignore"):
        block = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(block).all():
        raise AudioError("samples hold a number that is not finite")
    return block[:, None] if block.ndim == 1 else block
