"""Sounds of any length and live sounds, second by second, in constant memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soundsight.core import units
from soundsight.core.errors import ConfigError
from soundsight.media import audio
from soundsight.media.container import SoundFile, is_open_file
from soundsight.media.mel import MelConfig
from soundsight.media.segments import LiveCutter, Segment

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
