"""A real server on a free port of loopback, and a client that says what it is told to."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from soundsight.cli.serve import make_server
from soundsight.core import protocol
from soundsight.runtime.translator import Translator
from soundsight.server.app import create_app
from soundsight.server.limits import Access, Limits

PATIENCE_S = 60


def wait_for(holds: Callable[[], Any], what: str = "it") -> Any:
    """Wait until a condition holds and return what it is; a test that waits in vain fails."""
    end = time.monotonic() + PATIENCE_S
    while not (value := holds()):
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.01)
    return value


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []
        self.servers = 0  # that are running

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


LOG = _Records()
"""Of all servers: they share the process's loggers."""


def decoders() -> list[psutil.Process]:
    """Decoders of this process; beside them may be helpers that other tests have left."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "soundsight.server.decoding" in child.cmdline():
                found.append(child)
    return found


def read_all(line: socket.socket) -> bytes:
    """Read a bare connection to its end."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := line.recv(1 << 16):
            data += part
    return data


class Talk:
    """One stream of a client."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.position = 0
        self.sequence = 0
        self.texts: list[dict[str, Any]] = []
        self.windows: list[protocol.WindowFacts] = []
        self.pictures: list[list[bytes]] = []

    def say(self, **values: Any) -> None:
        self.socket.send(json.dumps(values))

    def hello(self, **values: Any) -> dict[str, Any]:
        """Say hello and return what is answered."""
        self.say(type="hello", **values)
        return self.text()

    def text(self) -> dict[str, Any]:
        """The next text frame."""
        while True:
            before = len(self.texts)
            self.take()
            if len(self.texts) > before:
                return self.texts[-1]

    def take(self, timeout: float = PATIENCE_S) -> None:
        """Take one message of the server."""
        message = self.socket.recv(timeout=timeout)
        if isinstance(message, str):
            self.texts.append(json.loads(message))
        else:
            facts, pictures = protocol.read_window(message)
            self.windows.append(facts)
            self.pictures.append(pictures)

    def sound(self, samples: np.ndarray, position: int | None = None) -> None:
        """Send one frame."""
        at = self.position if position is None else position
        frame = protocol.SoundFrame(sequence=self.sequence, position=at, samples=samples)
        self.socket.send(frame.pack())
        self.position, self.sequence = at + len(samples), self.sequence + 1

    def until(self, count: int) -> list[protocol.WindowFacts]:
        """Wait for so many windows in all."""
        while len(self.windows) < count:
            self.take()
        return self.windows

    def closed(self) -> tuple[int, str]:
        """Read to the end; the close code and its reason."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.take()
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or ""

    def error(self) -> tuple[int, str]:
        """Read to the end; the last error that was said, which must be the close code."""
        code, _ = self.closed()
        said = [text for text in self.texts if text["type"] == "error"]
        assert [text["code"] for text in said] == [code], (code, self.texts)
        message: str = said[0]["message"]
        assert message
        assert message.isprintable()
        return code, message


class Running:
    """A server that runs in a thread of this process."""

    def __init__(self, port: int, app: Any) -> None:
        self.port = port
        self.app = app
        self.log = LOG
        self.url = f"http://127.0.0.1:{port}"
        self.leave = lambda: None
        self.client = httpx.Client(base_url=self.url, timeout=60)

    @property
    def services(self) -> Any:
        return self.app.state.services

    def figure(self, name: str, **labels: str) -> float:
        """One figure of /metrics; 0 where it is not there."""
        return self.services.metrics.registry.get_sample_value(name, labels) or 0.0

    @contextlib.contextmanager
    def talk(self, **options: Any) -> Iterator[Talk]:
        """Open a stream."""
        options.setdefault("subprotocols", [protocol.SUBPROTOCOL])
        address = f"ws://127.0.0.1:{self.port}{protocol.PATH}"
        with connect(address, compression=None, max_size=None, **options) as opened:
            yield Talk(opened)

    def raw(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def answer(self, *data: bytes, half: bool = False) -> bytes:
        """Send bytes over a bare connection and read to its end; ``half`` closes it for writing."""
        with self.raw() as line:
            with contextlib.suppress(OSError):
                for part in data:
                    line.sendall(part)
                if half:
                    line.shutdown(socket.SHUT_WR)
            return read_all(line)

    def vanish(self, *messages: bytes) -> None:
        """Clients that leave in every way after each of these beginnings."""
        for message in messages:
            self.answer(message, half=True)
            for linger in (struct.pack("ii", 1, 0), None):  # reset, or closed
                with self.raw() as line:
                    line.sendall(message)
                    if linger:
                        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def unharmed(self) -> None:
        """The server is as good as new: a stream and a request are served, nothing is left open."""
        with self.talk() as talk:
            assert talk.hello()["type"] == "ready"
            noise = np.random.default_rng(0).integers(-9000, 9000, 44_100 + 1323)
            talk.sound(noise[:44_100].astype(np.int16))
            talk.sound(noise[44_100:].astype(np.int16))
            assert talk.until(1)[0].end_s == 1.0
        assert self.client.get("/healthz").json() == {"status": "alive"}
        wait_for(lambda: self.figure("soundsight_streams") == 0, "the end of all streams")

    def faults(self) -> list[str]:
        """What has been logged that tells of a fault, not of a bad client."""
        return [
            f"{record.name}: {record.getMessage()} {record.exc_info or ''}"
            for record in self.log.records
            if (record.exc_info or record.levelno >= logging.ERROR)
            # uvicorn itself logs what a client may send.
            and "Invalid UTF-8" not in record.getMessage()
        ]


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """Wait until a condition holds."""
    return wait_for


@pytest.fixture(scope="session")
def run_server(tiny_model: Path) -> Callable[..., contextlib.AbstractContextManager[Running]]:
    """Runs a server: (limits, token=, origins=, model=, workers=) -> a context of ``Running``."""

    @contextlib.contextmanager
    def run(
        limits: Limits | None = None,
        *,
        token: str | None = None,
        origins: list[str] | None = None,
        model: Path | Translator | None = None,
        workers: int = 1,
    ) -> Iterator[Running]:
        app = create_app(
            Access(token, origins), limits or Limits(), model=model or tiny_model, workers=workers
        )
        before = set(decoders())
        bound = socket.create_server(("127.0.0.1", 0))
        server = make_server(app, [], None, "127.0.0.1", 256)
        for name in ("uvicorn.error", "soundsight.server", "asyncio"):
            logging.getLogger(name).addHandler(LOG)
        if not LOG.servers:  # what was logged while none ran is no fault of this one
            LOG.records.clear()
        LOG.servers += 1
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            wait_for(lambda: server.started or not thread.is_alive(), "the start")
            running = Running(bound.getsockname()[1], app)
            running.leave = lambda: setattr(server, "should_exit", True)
            with running.client:
                yield running
        finally:
            server.should_exit = True
            thread.join(40)
            LOG.servers -= 1
        assert not thread.is_alive(), "the server did not stop"
        assert set(decoders()) <= before, "a decoder is left"
        assert running.faults() == []

    return run


@pytest.fixture(scope="module")
def server(run_server: Callable[..., Any]) -> Iterator[Running]:
    """A server with usual limits, shared by a file's tests."""
    with run_server() as running:
        yield running
