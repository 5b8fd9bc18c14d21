"""Decoding what strangers send: in a process of its own that has little to spend.

A file that was made to harm - a flac of a few kilobytes that unpacks to days, a picture track of
30,000 x 30,000 - meets the decoders' own faults and appetite. They run in a child that may take so
much memory and so much time and is then gone; a crash is the child's alone.

The child is handed the upload as an open descriptor and answers on a socket: frames of ``<I`` bytes
of float32 samples, a frame of length 0, and a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import AudioError, SoundsightError
from soundsight.core.units import RATE_HZ
from soundsight.server.errors import STOPS, RefusedError
from soundsight.server.limits import Limits

_LENGTH = struct.Struct("<I")
_BLOCK_S = 10.0
_MOST_JSON = 65_536
_MOST_BLOCK = 4 * RATE_HZ * int(_BLOCK_S)
_S_PER_S = 0.5
"""Seconds that a second of sound may take to decode, beside a fixed allowance."""
_ALLOWANCE_S = 60
_LOUDEST = 1e6
"""Largest sample: what is louder than any recording overflows what comes after."""


class Blocks(Iterator[NDArray[np.float32]]):
    """The blocks of a sound on its way: float32 [t] each, mono at 44,100 Hz.

    Raises ``AudioError`` in one line.

    Attributes:
        warnings: what is to be told of the sound, a line each; complete once it has ended.
    """

    def __init__(self, child: _Child, name: str) -> None:
        self.warnings: list[str] = []
        self._blocks = child.blocks(name, self.warnings)

    def __next__(self) -> NDArray[np.float32]:
        return next(self._blocks)


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A sound on its way.

    Attributes:
        duration_s: what the file says of its length; None where it does not.
        blocks: its samples.
    """

    duration_s: float | None
    blocks: Blocks


class Decoder:
    """Keeps one child ready, so that an upload does not wait for its start.

    Args:
        limits: ``max_duration_s``, ``decode_idle_s`` and ``decode_memory_bytes``.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._spare: _Child | None = None
        self._busy: set[_Child] = set()
        self._closed = False

    def warm_up(self) -> None:
        """Start the first child."""
        with self._lock:
            if self._spare is None and not self._closed:
                # Where there is no process to be had, the next upload will say so.
                with contextlib.suppress(OSError):
                    self._spare = _Child()

    def close(self) -> None:
        """End the spare child, and those at work."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
            for child in self._busy:
                child.stop()
        if spare is not None:
            spare.end()

    @contextlib.contextmanager
    def open(
        self,
        handle: int,
        name: str,
        max_duration_s: float | None = None,
        *,
        track: int | None = None,
        strict: bool = False,
    ) -> Iterator[Decoded]:
        """Decode an upload; the child ends with the block, whatever happens.

        Args:
            handle: an open descriptor of the file. It stays open.
            name: what the sender calls the file, for messages.
            max_duration_s: longest sound; None takes that of the limits.
            track, strict: see ``media.audio.stream``.

        Raises:
            AudioError: when it is no sound, damaged, too long, or takes too much to decode.
            RefusedError: 503, when the server stops or has no process left.
        """
        longest_s = self._limits.max_duration_s if max_duration_s is None else max_duration_s
        child = self._child()
        try:
            order = {
                "name": name,
                "max_duration_s": longest_s,
                "memory_bytes": self._limits.decode_memory_bytes,
                "cpu_s": max(1, int(_ALLOWANCE_S + _S_PER_S * longest_s)),
                "track": track,
                "strict": strict,
            }
            child.begin(order, handle, self._limits.decode_idle_s)
            said = child.line(name)
            yield Decoded(duration_s=said["duration_s"], blocks=Blocks(child, name))
        finally:
            with self._lock:
                self._busy.discard(child)
            child.end()
            self.warm_up()

    def _child(self) -> _Child:
        with self._lock:
            if self._closed:
                raise _stops()
            child, self._spare = self._spare, None
            if child is not None and not child.lives:
                child.end()
                child = None
            if child is None:
                try:
                    child = _Child()
                except OSError:
                    raise RefusedError(
                        503, "busy", "the server has no process left: try again later"
                    ) from None
            self._busy.add(child)
            return child


def _stops() -> RefusedError:
    return RefusedError(503, "not_ready", STOPS)


class _Child:
    def __init__(self) -> None:
        self._stopped = False
        self._waited_s = 0.0  # what it has let us wait
        self._given_s = 0.0  # what it has decoded meanwhile
        ours, theirs = socket.socketpair()
        self._socket = ours
        module = "soundsight.server.decoding"
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    # Ctrl-C is the server's: it ends its children itself.
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise

    @property
    def lives(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def begin(self, order: dict[str, Any], handle: int, idle_s: float) -> None:
        self._socket.settimeout(idle_s)
        with contextlib.suppress(OSError):  # told by the first line
            socket.send_fds(self._socket, [json.dumps(order).encode()], [handle])

    def line(self, name: str) -> dict[str, Any]:
        """Read a line of JSON: what the file says, or why there is no more."""
        text = b""
        while not text.endswith(b"\n"):
            if len(text) > _MOST_JSON:
                raise _failed(name)
            # A byte at a time: what follows the line is not to be taken with it.
            text += self._bytes(1, name)
        values: dict[str, Any] = json.loads(text)
        if "error" in values:
            raise AudioError(values["error"])
        return values

    def blocks(self, name: str, warnings: list[str]) -> Iterator[NDArray[np.float32]]:
        while True:
            (size,) = _LENGTH.unpack(self._bytes(_LENGTH.size, name))
            if not size:
                warnings += self.line(name)["warnings"]
                return
            if size % 4 or size > _MOST_BLOCK:
                raise _failed(name)
            self._given_s += size / (4 * RATE_HZ)
            yield np.frombuffer(self._bytes(size, name), np.float32)

    def _bytes(self, count: int, name: str) -> bytes:
        data = bytearray()
        began = time.monotonic()
        while len(data) < count:
            try:
                part = self._socket.recv(min(count - len(data), 1 << 20))
            except TimeoutError:
                raise _too_slow(name) from None
            except OSError:
                part = b""
            if not part:
                raise _stops() if self._stopped else _failed(name)
            data += part
        self._waited_s += time.monotonic() - began
        if self._waited_s > _ALLOWANCE_S + _S_PER_S * self._given_s:
            raise _too_slow(name)
        return bytes(data)

    def stop(self) -> None:
        """End the process, while another thread waits for it: it is told that the server stops."""
        self._stopped = True
        self._process.kill()

    def end(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()


def _too_slow(name: str) -> AudioError:
    return AudioError(f"cannot read {name}: decoding it takes too long")


def _failed(name: str) -> AudioError:
    return AudioError(
        f"cannot read {name}: it is damaged, or decoding it takes too much memory or time"
    )


# --- in the child ----------------------------------------------------------------------------


def main(argument: str) -> None:
    """Wait for an order, decode, answer."""
    # Before anything is sent: what all files need is there when the first comes.
    import soxr  # noqa: F401

    from soundsight.media.container import quiet_av

    quiet_av()
    with socket.socket(fileno=int(argument)) as pipe:
        data, handles, _, _ = socket.recv_fds(pipe, _MOST_JSON, 1)
        if not data or not handles:
            return
        order = json.loads(data)
        _bound(order)
        path = _path_of(handles[0])
        try:
            _decode(pipe, path, order)
        except SoundsightError as error:
            _finish(pipe, error=str(error))
        except MemoryError:
            _finish(pipe, error=f"cannot read {order['name']}: decoding it takes too much memory")


def _decode(pipe: socket.socket, path: str, order: dict[str, Any]) -> None:
    from soundsight.media import audio

    longest_s = float(order["max_duration_s"])
    too_long = f"{order['name']} is longer than {longest_s:g} s, the most that is taken: cut it"
    sound = audio.stream(
        path,
        RATE_HZ,
        _BLOCK_S,
        track=order["track"],
        strict=order["strict"],
        # The descriptor's path says nothing to the sender.
        name=order["name"],
    )
    duration_s = sound.duration_s
    if duration_s is not None and duration_s > longest_s + 1:
        raise AudioError(too_long)
    pipe.sendall(json.dumps({"duration_s": duration_s}).encode() + b"\n")
    given = 0
    try:
        for block in sound:
            given += len(block)
            if given > (longest_s + 1) * RATE_HZ:
                raise AudioError(too_long)
            if np.abs(block).max(initial=0.0) > _LOUDEST:
                raise AudioError(f"{order['name']} is far over full scale: repair the sound")
            pipe.sendall(_LENGTH.pack(4 * len(block)))
            pipe.sendall(np.ascontiguousarray(block, np.float32).tobytes())
    except SoundsightError:
        pipe.sendall(_LENGTH.pack(0))
        raise
    pipe.sendall(_LENGTH.pack(0))
    _finish(pipe, warnings=sound.warnings)


def _finish(pipe: socket.socket, **values: Any) -> None:
    with contextlib.suppress(OSError):
        pipe.sendall(json.dumps(values).encode() + b"\n")


def _path_of(handle: int) -> str:
    """A path by which the decoders can open a descriptor that was handed over."""
    return f"/proc/self/fd/{handle}"


def _bound(order: dict[str, Any]) -> None:
    """Take no more memory and time than the order allows, and write no file."""
    # The limit counts from the process's start, which took time, too.
    until_s = math.ceil(time.process_time()) + int(order["cpu_s"])
    resource.setrlimit(resource.RLIMIT_CPU, (until_s, until_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        taken = int(file.read().split()[0]) * resource.getpagesize()
    most = taken + int(order["memory_bytes"])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main(sys.argv[1])
