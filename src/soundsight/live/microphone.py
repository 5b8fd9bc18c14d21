"""Live sound: a microphone, through PortAudio, or a file at its own pace."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import AudioError, MissingExtraError, first_line
from soundsight.media import audio

BLOCK_S = 1 / 32
"""Length of the blocks that a microphone gives."""

MOST_WAITING_S = 4.0
"""Of more than this the oldest is dropped: what is shown is never long past."""

_STDERR = 2


Block = tuple[NDArray[Any], bool]
"""The next samples, int16 or float32 [t] or [t, channels], and whether sound is missing before."""


class Microphone:
    """A microphone, or another input of the sound card.

    Attributes:
        name: in words.
        rate_hz: its rate.
        ended: whether there is no more sound, and never will be.
        warnings: warnings about the sound so far, a line each.

    Args:
        device: its number or a part of its name; None takes the system's own choice.

    Raises:
        MissingExtraError: when sounddevice is not installed.
        AudioError: when PortAudio is missing, or there is no such device, or it cannot be opened.
    """

    is_microphone = True
    ended = False

    def __init__(self, device: str | None = None) -> None:
        self._sounddevice = _sounddevice()
        self._wanted = device
        self._waiting: deque[NDArray[Any]] = deque()
        self._held = 0
        self._gap = False
        self._came = threading.Condition()
        self._stream: Any = None
        self.warnings: list[str] = []
        self._open()

    def _open(self) -> None:
        sd = self._sounddevice
        number, facts = _find(sd, self._wanted)
        self.name, self.rate_hz = str(facts["name"]), int(facts["default_samplerate"])
        why = ""
        # Some devices give all of their channels or none.
        for channels in dict.fromkeys((1, min(2, int(facts["max_input_channels"])))):
            stream: Any = None
            try:
                stream = sd.InputStream(
                    device=number, channels=channels, samplerate=self.rate_hz, dtype="int16",
                    blocksize=round(self.rate_hz * BLOCK_S), callback=self._take,
                )  # fmt: skip
                stream.start()
            except (sd.PortAudioError, ValueError, OSError) as error:
                why = _reason(error)
                if stream is not None:
                    stream.close()
                continue
            self._stream = stream
            return
        raise AudioError(
            f"cannot listen to {self.name}: {why} (another program may hold it, or this one may "
            "not use it; --list-devices shows the others)"
        )

    def _take(self, data: NDArray[Any], frames: int, _time: Any, status: Any) -> None:
        """On PortAudio's thread: keep a copy, drop the oldest of too much."""
        with self._came:
            self._waiting.append(data.copy())
            self._held += frames
            # A flag that something was lost before this block: windows must not span that.
            self._gap = self._gap or bool(status and status.input_overflow)
            while self._held > MOST_WAITING_S * self.rate_hz and len(self._waiting) > 1:
                self._held -= len(self._waiting.popleft())
                self._gap = True
            self._came.notify()

    def read(self, timeout_s: float) -> Block | None:
        """Return what has come, or None when nothing comes for ``timeout_s``."""
        with self._came:
            if not self._came.wait_for(lambda: self._waiting, timeout_s):
                return None
            block = np.concatenate(self._waiting), self._gap
            self._clear()
        return block

    def _clear(self) -> None:
        self._waiting.clear()
        self._held, self._gap = 0, False

    def reopen(self) -> str:
        """Try to get it back, also one plugged in since; return why that fails, or nothing."""
        sd = self._sounddevice
        self.close()
        # PortAudio looks for devices when it starts, and never again.
        with contextlib.suppress(sd.PortAudioError):
            sd._terminate()
        try:
            sd._initialize()
            self._open()
        except (sd.PortAudioError, AudioError) as error:
            return f"The microphone has gone: {_reason(error)}"
        return ""

    def close(self) -> None:
        """Release it."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(self._sounddevice.PortAudioError):
                stream.abort()
                stream.close()
        with self._came:
            self._clear()


class Playback:
    """A sound or video file, played at its own pace; with what a ``Microphone`` has.

    Raises:
        AudioError: when it cannot be read.
    """

    is_microphone = False

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.ended = False
        self._sound = audio.stream(path, rate_hz=None, block_s=BLOCK_S)
        self.rate_hz = self._sound.rate_hz
        self._given_s = 0.0
        self._began = time.monotonic()

    @property
    def warnings(self) -> list[str]:
        """Warnings about the file as far as it has been played, a line each."""
        return self._sound.warnings

    def read(self, timeout_s: float) -> Block | None:
        """Return the next samples when they are due, or None after ``timeout_s``."""
        wait_s = self._began + self._given_s - time.monotonic()
        time.sleep(min(timeout_s, max(0.0, wait_s)))
        if wait_s > timeout_s:
            return None
        samples = next(self._sound, None)
        if samples is None:
            self.ended = True
            return None
        self._given_s += len(samples) / self.rate_hz
        return samples, False

    def reopen(self) -> str:
        """Return why it cannot be opened again."""
        return "The file gives no sound."

    def close(self) -> None:
        """Release it."""
        self._sound.close()


Source = Microphone | Playback


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep the messages of PortAudio and ALSA off the terminal: this program says it better.

    They write to the descriptor of standard error; Python's own goes on to where it went.
    """
    own = sys.stderr
    try:
        kept = os.dup(_STDERR) if own.fileno() == _STDERR else None
    except (OSError, ValueError):  # it is no file
        kept = None
    if kept is None:
        yield
        return
    own.flush()
    with open(kept, "w", encoding=own.encoding, errors=own.errors, buffering=1) as aside:  # noqa: PTH123
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STDERR)
        os.close(nowhere)
        try:
            with contextlib.redirect_stderr(aside):
                yield
        finally:
            os.dup2(kept, _STDERR)


def devices() -> list[str]:
    """Describe the inputs, a line each; the system's own choice is marked.

    Raises:
        MissingExtraError: when sounddevice is not installed.
        AudioError: when PortAudio is missing or cannot list them.
    """
    sd = _sounddevice()
    try:
        found = list(sd.query_devices())
    except sd.PortAudioError as error:
        raise AudioError(f"cannot list the microphones: {_reason(error)}") from None
    own: int | None = None
    with contextlib.suppress(sd.PortAudioError, ValueError, KeyError, TypeError):
        own = int(sd.query_devices(kind="input")["index"])
    return [
        f"{'*' if facts['index'] == own else ' '} {facts['index']:>2}  {facts['name']}  "
        f"({facts['max_input_channels']} channels, {facts['default_samplerate']:.0f} Hz)"
        for facts in found
        if facts["max_input_channels"] > 0
    ]


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ModuleNotFoundError:
        raise MissingExtraError("soundsight listen", "mic", "sounddevice") from None
    except OSError:
        raise AudioError(
            "PortAudio, which opens microphones, is not installed: run  apt install libportaudio2"
        ) from None
    return sounddevice


def _find(sd: Any, wanted: str | None) -> tuple[int | None, Any]:
    """Number and facts of a device."""
    try:
        if wanted is None:
            return None, sd.query_devices(kind="input")
        number = int(wanted) if wanted.isdecimal() else wanted
        facts = sd.query_devices(number, kind="input")
    except (sd.PortAudioError, ValueError) as error:
        if wanted is None:
            raise AudioError(
                "there is no microphone: plug one in, or choose an input with --device "
                "(--list-devices shows them)"
            ) from None
        raise AudioError(
            f"no input is called {wanted!r} ({_reason(error)}): --list-devices shows what there is"
        ) from None
    return int(facts["index"]), facts


def _reason(error: Exception) -> str:
    """The first line of a fault of PortAudio, without its number."""
    return first_line(error).split(" [PaErrorCode")[0].removesuffix(".")
