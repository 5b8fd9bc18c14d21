"""The client's side of a stream: sound goes out, windows come in (``Client.stream``)."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from soundsight.core import protocol
from soundsight.core.errors import AudioError, ConfigError, ServerError, first_line

_FRAMES_PER_S = 32
_PATIENCE_S = 30.0


def stream(
    url: str,
    token: str | None,
    tls: Any,
    blocks: Iterable[ArrayLike],
    rate_hz: int,
    *,
    hop_s: float,
    draws: int,
    sensitivity: float,
    seed: int,
    directly: bool,
) -> Iterator[tuple[protocol.WindowFacts, list[bytes]]]:
    """See ``Client.stream``."""
    try:
        hello = protocol.Hello(
            rate_hz=rate_hz, hop_s=hop_s, draws=draws, sensitivity=sensitivity, seed=seed,
            token=token, client="python",
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"{first['loc'][0]}: {first['msg']}") from None
    address = "ws" + url.removeprefix("http") + protocol.PATH
    try:
        socket = connect(
            address,
            subprotocols=[protocol.SUBPROTOCOL],  # type: ignore[list-item]
            compression=None,
            open_timeout=_PATIENCE_S,
            # True asks the environment for a proxy.
            proxy=None if directly else True,
            ssl=_context(tls) if address.startswith("wss") else None,
        )
    except (OSError, WebSocketException, TimeoutError) as error:
        raise ServerError(f"cannot open a stream at {url}: {first_line(error)}") from None
    with socket:
        yield from _talk(socket, hello, blocks)


def _context(tls: Any) -> ssl.SSLContext:
    if isinstance(tls, ssl.SSLContext):
        return tls
    context = ssl.create_default_context()
    if tls is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _talk(
    socket: ClientConnection, hello: protocol.Hello, blocks: Iterable[ArrayLike]
) -> Iterator[tuple[protocol.WindowFacts, list[bytes]]]:
    said: list[str] = []
    fault: list[Exception] = []

    def speak() -> None:
        try:
            _send(socket, hello, blocks)
        except ConnectionClosed:
            pass  # the reader knows why
        except Exception as error:  # the caller's own: its blocks may come from anywhere
            fault.append(error)
            socket.close()

    try:
        socket.send(hello.model_dump_json())
        first = protocol.read_server_text(str(socket.recv(timeout=_PATIENCE_S)))
        if isinstance(first, protocol.Error):
            raise ServerError(first.message)
        # The blocks may be a microphone that waits: windows are given out meanwhile.
        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        for message in socket:
            if isinstance(message, bytes):
                yield protocol.read_window(message)
                continue
            told = protocol.read_server_text(message)
            if isinstance(told, protocol.Error):
                said.append(told.message)
    except ConnectionClosed:
        pass
    except (protocol.ProtocolError, TimeoutError) as error:
        raise ServerError(f"the server is not understood: {first_line(error)}") from None
    finally:
        with contextlib.suppress(Exception):
            socket.close()
    if fault:
        raise fault[0]
    if said:
        raise ServerError(said[-1])
    if socket.close_code not in (None, protocol.Close.DONE):
        reason = socket.close_reason or f"code {socket.close_code}"
        raise ServerError(f"the stream has broken off: {reason}")


def _send(socket: ClientConnection, hello: protocol.Hello, blocks: Iterable[ArrayLike]) -> None:
    """Cut the blocks into frames and send them, and the end."""
    sequence = position = 0
    step = max(1, hello.rate_hz // _FRAMES_PER_S)
    for block in blocks:
        samples = _int16(np.asarray(block))
        for first in range(0, len(samples), step):
            piece = samples[first : first + step]
            frame = protocol.SoundFrame(sequence=sequence, position=position, samples=piece)
            socket.send(frame.pack())
            sequence, position = sequence + 1, position + len(piece)
    socket.send(protocol.End().model_dump_json())


def _int16(block: NDArray[Any]) -> NDArray[np.int16]:
    if block.ndim != 1:
        raise AudioError(f"a block has shape {list(block.shape)}: pass mono samples, [t]")
    if block.dtype == np.int16:
        return block
    if block.dtype.kind != "f":
        raise AudioError(f"a block holds {block.dtype}: pass floats or int16")
    if not np.isfinite(block).all():
        raise AudioError("a block holds a number that is not finite")
    whole: NDArray[np.int16] = np.rint(np.clip(block, -1, 1) * 32767).astype(np.int16)
    return whole
