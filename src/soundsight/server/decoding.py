"""Decoding of uploads in a child process with little memory and time.

A file can be made to harm: a flac of some kilobytes that unpacks to days, or one that makes the
decoder crash. The child may use so much memory and CPU time and is then gone; the server goes on.

The child gets the upload as an open descriptor. It sends messages over a
``multiprocessing.connection``, as bytes and never as pickles: what comes from it is not trusted.
The messages are a JSON object with ``duration_s``, blocks of float32 samples, an empty message, and
a JSON object with ``warnings``. An ``error`` may stand in place of either object.
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import AudioError, SoundsightError
from soundsight.core.units import RATE_HZ
from soundsight.server.errors import STOPPING, ApiError
from soundsight.server.limits import Limits

_BLOCK_S = 10.0
_MAX_MESSAGE_BYTES = 4 * RATE_HZ * int(_BLOCK_S)
_CPU_S = 60
_CPU_S_PER_S = 0.5
"""CPU time of a child: a fixed part, and this much for each second of the longest sound."""
_MAX_SAMPLE = 1e6
"""A louder sample would overflow in the computations that follow."""


class Decoded(Iterator[NDArray[np.float32]]):
    """A child process, and then the blocks of a sound that it decodes.

    Each block is float32 [t], mono at 44,100 Hz. Raises ``AudioError``, or ``ApiError`` when the
    server stops.

    Attributes:
        duration_s: its length according to the file; None where the file does not say.
        warnings: lines about damage or tracks; complete once the sound has ended.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._name = ""
        self.duration_s: float | None = None
        self.warnings: list[str] = []
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            number = theirs.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "soundsight.server.decoding", str(number)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(number,),
                # Ctrl-C goes to the server alone, which ends its children itself.
                start_new_session=True,
            )

    def begin(self, handle: int, name: str, order: dict[str, Any]) -> None:
        """Give the child its order, and an open descriptor."""
        self._name = name
        with contextlib.suppress(OSError):  # a dead child: the first read says so
            self._connection.send_bytes(json.dumps({"name": name, **order}).encode())
            send_handle(self._connection, handle, self.process.pid)
        self.duration_s = self._read_object()["duration_s"]

    def __next__(self) -> NDArray[np.float32]:
        if data := self._read():
            if len(data) % 4:
                raise self._failed()
            return np.frombuffer(data, np.float32)
        self.warnings += self._read_object()["warnings"]
        raise StopIteration

    def _read_object(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self._read())
        if "error" in values:
            raise AudioError(values["error"])
        return values

    def _read(self) -> bytes:
        try:
            if not self._connection.poll(self._decoder.limits.decode_idle_s):
                raise AudioError(f"cannot read {self._name}: decoding it takes too long")
            return self._connection.recv_bytes(_MAX_MESSAGE_BYTES)
        except (EOFError, OSError):
            if self._decoder.closed:
                raise ApiError(503, "not_ready", STOPPING) from None
            raise self._failed() from None

    def _failed(self) -> AudioError:
        return AudioError(
            f"cannot read {self._name}: it is damaged, or decoding it takes too much memory or time"
        )

    def kill(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End the process and close the line to it."""
        self.kill()
        self._connection.close()


class Decoder:
    """Starts the child processes, and keeps one ready so that an upload need not wait for it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.closed = False
        self._lock = threading.Lock()
        self._spare: Decoded | None = None
        self._busy: set[Decoded] = set()

    def warm_up(self) -> None:
        """Start the spare child. If there is no process to be had, the next upload says so."""
        with self._lock, contextlib.suppress(OSError):
            if self._spare is None and not self.closed:
                self._spare = Decoded(self)

    def close(self) -> None:
        """End all children. Uploads that are being decoded fail with 503."""
        with self._lock:
            self.closed = True
            children = self._busy | ({self._spare} if self._spare else set())
            self._spare = None
        for child in children:
            child.kill()

    @contextlib.contextmanager
    def open(
        self, handle: int, name: str, *, track: int | None = None, strict: bool = False
    ) -> Iterator[Decoded]:
        """Decode an upload, from its open descriptor; its child ends when the ``with`` block ends.

        Raises:
            AudioError: when the file is no sound, damaged, too long, or takes too much to decode.
            ApiError: 503 when the server stops or has no process left.
        """
        with self._lock:
            if self.closed:
                raise ApiError(503, "not_ready", STOPPING)
            child, self._spare = self._spare, None
            if child is not None and child.process.poll() is not None:  # it has died meanwhile
                child.end()
                child = None
            try:
                child = child or Decoded(self)
            except OSError:
                raise ApiError(
                    503, "busy", "the server has no process left: try again later"
                ) from None
            self._busy.add(child)
        try:
            child.begin(handle, name, {"track": track, "strict": strict, **asdict(self.limits)})
            yield child
        finally:
            with self._lock:
                self._busy.discard(child)
            child.end()
            self.warm_up()


# --- in the child ----------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """Wait for one order, decode, send the samples."""
    # Imported before the order comes, so that the upload does not wait for it.
    import soxr  # noqa: F401

    from soundsight.media.container import quiet_av

    quiet_av()
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, OSError):
        order = json.loads(connection.recv_bytes())
        handle = recv_handle(connection)
        _limit_resources(order)
        try:
            result: dict[str, Any] = {
                "warnings": _decode(connection, f"/proc/self/fd/{handle}", order)
            }
        except SoundsightError as error:
            result = {"error": str(error)}
        except MemoryError:
            result = {"error": f"cannot read {order['name']}: decoding it takes too much memory"}
        connection.send_bytes(json.dumps(result).encode())


def _decode(connection: Connection, path: str, order: dict[str, Any]) -> list[str]:
    """Send the header, the blocks and the empty message; return the warnings."""
    from soundsight.media import audio

    name, longest_s = order["name"], float(order["max_duration_s"])
    too_long = AudioError(f"{name} is longer than {longest_s:g} s, the most that is taken: cut it")
    # The name is the sender's: the descriptor's path would tell people nothing.
    sound = audio.stream(
        path, RATE_HZ, _BLOCK_S, track=order["track"], strict=order["strict"], name=name
    )
    if sound.duration_s is not None and sound.duration_s > longest_s + 1:
        raise too_long
    connection.send_bytes(json.dumps({"duration_s": sound.duration_s}).encode())
    samples = 0
    try:
        for block in sound:
            samples += len(block)
            if samples > (longest_s + 1) * RATE_HZ:
                raise too_long
            if np.abs(block).max(initial=0.0) > _MAX_SAMPLE:
                raise AudioError(f"{name} is far over full scale: repair the sound")
            if len(block):
                connection.send_bytes(np.ascontiguousarray(block, np.float32).tobytes())
    finally:
        connection.send_bytes(b"")
    return list(sound.warnings)


def _limit_resources(order: dict[str, Any]) -> None:
    """Bound the memory and CPU time of this process, and let it write no file."""
    # The limit counts from the process's start, which took CPU time, too.
    cpu_s = math.ceil(time.process_time() + _CPU_S + _CPU_S_PER_S * order["max_duration_s"])
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        used_bytes = int(file.read().split()[0]) * resource.getpagesize()
    most_bytes = used_bytes + int(order["decode_memory_bytes"])
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))


if __name__ == "__main__":
    main(int(sys.argv[1]))
