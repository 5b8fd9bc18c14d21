"""Connections that are let go of: of clients that never end a head, never read, or flood.

uvicorn leaves these to the proxy in front of it; a server on somebody's LAN has none.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import h11
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from soundsight.server.errors import HEADERS, told

HEAD_S = 15.0
"""Seconds in which the head of a request must have come."""

STALL_S = 30.0
"""Seconds that a client may leave what it is sent unread."""

LINGER_S = 5.0
"""Seconds for which a body that nobody wants is read, so that the client can read the answer."""

GONE_S = 12.0
"""Seconds after the end of a stream in which its connection must be closed."""

SMALL_FRAMES_PER_S = 200
"""Pings and pieces of messages that a client may send a second."""


class HttpConnection(H11Protocol):
    """A connection of HTTP/1.1."""

    most: int = 1024
    """Connections at once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._timers: dict[str, asyncio.TimerHandle] = {}
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self._later("head", HEAD_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._never("head")
        elif "head" not in self._timers and not self.transport.is_closing():
            # A next request has begun; uvicorn's own patience ends with its first byte.
            self._later("head", HEAD_S, self.transport.close)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._forget()
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._later("stall", STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._never("stall")
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._never("head")
        if self.conn.their_state is h11.SEND_BODY:
            self._later("linger", LINGER_S, lambda cycle=self.cycle: self._enough(cycle))

    def _enough(self, cycle: Any) -> None:
        if self.cycle is cycle and self.conn.their_state is h11.SEND_BODY:
            self.transport.close()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._later("stall", 1.0, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._later("stall", STALL_S, self.transport.abort)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer what is no HTTP, in the form of all answers."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            # An answer has begun: there is no room for another.
            self.transport.abort()
            return
        answer = told(400, "http", "the request is no proper HTTP")
        fields = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
        head = h11.Response(
            status_code=400, headers=[*answer.raw_headers, *fields, (b"connection", b"close")]
        )
        for part in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def _later(self, name: str, seconds: float, call: Any) -> None:
        self._never(name)
        self._timers[name] = self.loop.call_later(seconds, call)

    def _never(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _forget(self) -> None:
        for name in list(self._timers):
            self._never(name)


class StreamConnection(WebSocketsSansIOProtocol):
    """A connection of a WebSocket, from its handshake on."""

    _stall: asyncio.TimerHandle | None = None
    _end: asyncio.TimerHandle | None = None
    _small = 0
    _since = 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._stall, self._end):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            if not self.disconnected:
                # A client that reads nothing would never let a mere close come through.
                self._end = self.loop.call_later(GONE_S, self.transport.abort)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # A refusal completes the handshake, too; uvicorn would log a fault.
            self.handshake_complete = True

    def shutdown(self) -> None:
        super().shutdown()
        if not self.disconnected:
            self._end = self.loop.call_later(1.0, self.transport.abort)

    def handle_parser_exception(self) -> None:
        if self.conn.close_sent is None:  # a handshake that cannot be read
            self.transport.abort()
            return
        super().handle_parser_exception()

    def handle_ping(self) -> None:
        if not self._flooded():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        if not self._flooded():
            super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        if not self._flooded():
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:  # uvicorn would log a traceback
                self._fail(CloseCode.INVALID_DATA, "text must be UTF-8")
                return
        super().send_receive_event_to_app()

    def _flooded(self) -> bool:
        """Count what never reaches the stream's own limits; close where it is too much."""
        now = time.monotonic()
        if now - self._since >= 1.0:
            self._since, self._small = now, 0
        self._small += 1
        if self._small > SMALL_FRAMES_PER_S:
            self._fail(CloseCode.POLICY_VIOLATION, "too many frames a second")
            return True
        return False

    def _fail(self, code: CloseCode, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.fail(code, reason)
        self.handle_parser_exception()


def http_connection(most: int) -> type[HttpConnection]:
    """The class of connections for a server that holds ``most`` at once."""

    class Bounded(HttpConnection):
        pass

    Bounded.most = most
    return Bounded
