"""The WebSocket: one stream from hello to close. The messages are in ``core.protocol``.

Each stream is two tasks. One reads messages. The other lets the engine work on the sound that has
come, sends the window, and goes on: a client that reads slowly misses windows and never lags
behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from soundsight.core import protocol, units
from soundsight.core.errors import SoundsightError
from soundsight.core.protocol import Close, ProtocolError, SampleFormat
from soundsight.media.segments import LiveCutter
from soundsight.runtime.events import EventTracker
from soundsight.server.engine import Engine, LiveSound
from soundsight.server.errors import SERVER_FAULT
from soundsight.server.limits import Access, Bucket, Limits
from soundsight.server.metrics import Metrics

_LOG = logging.getLogger("soundsight.server")

_CLOSE_S = 5.0
"""Seconds that a client has to take the last message and the close."""

_SEND_S = 30.0
"""Seconds after which a client that reads nothing is given up."""

_NOTICE_S = 10.0
"""Seconds between two notices of one kind."""

_REASONS: dict[int, str] = {
    Close.TRY_LATER: "full", Close.FAULT: "fault", Close.UNAUTHORISED: "token",
    Close.REFUSED: "rate", Close.TOO_SLOW: "slow",
}  # fmt: skip
"""What the metrics call a refusal; others are ``protocol``."""


class Streams:
    """All streams of a server process."""

    def __init__(self, engine: Engine, access: Access, limits: Limits, metrics: Metrics) -> None:
        self.engine = engine
        self.access = access
        self.limits = limits
        self.metrics = metrics
        self.leaving = False
        self._open: dict[_Stream, asyncio.Task[Any] | None] = {}

    async def handle(self, socket: WebSocket) -> None:
        """Serve one WebSocket to its end."""
        known = protocol.SUBPROTOCOL in socket.scope.get("subprotocols", ())
        try:
            await socket.accept(subprotocol=protocol.SUBPROTOCOL if known else None)
        except (OSError, RuntimeError, WebSocketDisconnect):  # the client has gone
            return
        stream = _Stream(socket, self)
        try:
            if refusal := self._refusal(stream.address):
                raise ProtocolError(refusal, Close.TRY_LATER)
            self._open[stream] = asyncio.current_task()
            self.metrics.streams.set(len(self._open))
            await stream.run()
        except WebSocketDisconnect:
            pass
        except Exception as error:
            code, message = int(Close.FAULT), SERVER_FAULT
            if isinstance(error, ProtocolError):
                code, message = error.code, str(error)
            elif isinstance(error, SoundsightError):
                message = str(error)
            else:
                _LOG.exception("a stream has failed")
            self.metrics.refusals.labels(_REASONS.get(code, "protocol")).inc()
            await stream.send_error(code, message)
        finally:
            self._open.pop(stream, None)
            self.metrics.streams.set(len(self._open))

    def _refusal(self, address: str) -> str:
        """Why there is no room for a stream from an address; empty where there is."""
        most, of_one = self.limits.max_streams, self.limits.max_streams_per_address
        if self.leaving:
            return "the server stops: connect again"
        if len(self._open) >= most:
            return f"the server is full ({most} streams): try again later"
        if sum(stream.address == address for stream in self._open) >= of_one:
            return f"{of_one} streams are open from this address: close one"
        if self.engine.overloaded:
            return "the server has no time for a further stream: try again later"
        return ""

    async def leave(self) -> None:
        """The server stops: answer what has come, tell every stream, and close it."""
        self.leaving = True
        tasks = [task for task in self._open.values() if task is not None]
        await asyncio.gather(*(stream.leave() for stream in self._open))
        if tasks:
            await asyncio.wait(tasks, timeout=2 * _CLOSE_S)


class _Stream:
    """One stream."""

    def __init__(self, socket: WebSocket, server: Streams) -> None:
        self.address = socket.client.host if socket.client else ""
        self._socket = socket
        self._server = server
        self._sound: LiveSound | None = None
        self._reader: asyncio.Task[None] | None = None
        self._end = Close.DONE
        self._notices: list[protocol.Notice] = []
        self._notice_times: dict[str, float] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Serve the stream until the client's end, or the server's."""
        hello = await self._hello()
        translator, limits = self._server.engine.translator, self._server.limits
        model, head = translator.info, translator.label_head
        try:
            tracker = EventTracker(
                translator, draws=hello.draws, seed=hello.seed, sensitivity=hello.sensitivity
            )
            cutter = LiveCutter(hello.rate_hz, model.mel, hello.hop_s)
        except SoundsightError as error:
            raise ProtocolError(str(error), Close.MALFORMED) from None
        ready = protocol.Ready(
            model=protocol.ModelFacts(
                name=model.name,
                version=model.version,
                image_px=model.image_px,
                labels=list(head.labels) if head else [],
                alerts=list(head.alerts) if head else [],
                confidence_needed=round(tracker.confidence_needed, 4),
                quiet_dbfs=round(tracker.quiet_dbfs, 1),
            ),
            limits=protocol.StreamLimits(
                max_frame_bytes=protocol.max_frame_bytes(hello.rate_hz, SampleFormat(hello.format)),
                max_speed=limits.max_speed,
                silent_s=limits.silent_s,
            ),
            hop_s=hello.hop_s,
            segment_s=units.SEGMENT_S,
        )
        await self._send(ready.model_dump_json())
        self._sound = sound = LiveSound(cutter, tracker, rate_hz=hello.rate_hz, hop_s=hello.hop_s)
        self._reader = asyncio.create_task(self._read(sound, hello))
        tasks = {self._reader, asyncio.create_task(self._write(sound))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                if not task.cancelled():
                    task.result()  # raises what has ended the stream
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._close(self._end, self._end.meaning)

    async def _hello(self) -> protocol.Hello:
        limit_s = self._server.limits.hello_s
        async with _time_limit(limit_s, f"no hello within {limit_s:g} s"):
            message = await self._receive()
        if message.get("text") is None:
            raise ProtocolError("the first message must be a hello, in text", Close.WRONG_KIND)
        hello = protocol.read_client_text(message["text"])
        if not isinstance(hello, protocol.Hello):
            raise ProtocolError("the first message must be a hello", Close.MALFORMED)
        if not self._server.access.knows(hello.token):
            raise ProtocolError("the token is missing or wrong", Close.UNAUTHORISED)
        return hello

    async def _receive(self) -> Any:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        return message

    async def _read(self, sound: LiveSound, hello: protocol.Hello) -> None:
        """Take messages until the client's end."""
        limits, rate_hz = self._server.limits, hello.rate_hz
        frames = Bucket(limits.frames_per_s, limits.frames_per_s)
        speed = Bucket(limits.max_speed, limits.burst_s)
        too_fast = f"sound comes faster than {limits.max_speed:g} times real time"
        expected = 0
        loop = asyncio.get_running_loop()
        # One timer that each frame of sound puts off.
        async with _time_limit(limits.silent_s, f"no sound for {limits.silent_s:g} s") as silence:
            while True:
                message = await self._receive()
                if not frames.take(1):
                    raise ProtocolError("too many frames a second", Close.REFUSED)
                if message.get("text") is not None:
                    if self._take_text(sound, message["text"]):
                        sound.end()
                        self._changed.set()
                        return
                    continue
                frame = protocol.read_sound(message["bytes"], SampleFormat(hello.format), rate_hz)
                silence.reschedule(loop.time() + limits.silent_s)
                if not speed.take(len(frame.samples) / rate_hz):
                    raise ProtocolError(too_fast, Close.REFUSED)
                if frame.position < expected:
                    raise ProtocolError("the position goes backwards", Close.MALFORMED)
                if 0 < expected < frame.position:
                    missing_s = (frame.position - expected) / rate_hz
                    self._notice("gap", f"{missing_s:.2f} s of sound are missing")
                sound.push(frame.position, frame.samples)
                expected = frame.position + len(frame.samples)
                self._changed.set()

    def _take_text(self, sound: LiveSound, text: str) -> bool:
        """Take a text message after the hello; true where it ends the sound."""
        if not text.lstrip().startswith("{"):
            raise ProtocolError("sound is sent in binary frames, not in text", Close.WRONG_KIND)
        message = protocol.read_client_text(text)
        if isinstance(message, protocol.Hello):
            raise ProtocolError("hello is said once", Close.MALFORMED)
        if isinstance(message, protocol.Settings):
            if message.draws is not None:
                sound.tracker.draws = message.draws
            if message.sensitivity is not None:
                sound.tracker.sensitivity = message.sensitivity
        return isinstance(message, protocol.End)

    async def _write(self, sound: LiveSound) -> None:
        """Send windows and notices until the sound has ended and all of it is answered."""
        metrics = self._server.metrics
        while not sound.finished:
            while not (sound.due or self._notices):
                self._changed.clear()
                await self._changed.wait()
            window = await self._server.engine.run(sound.work) if sound.due else None
            if window is not None:
                facts, _ = window
                metrics.windows.labels(str(facts.state)).inc()
                metrics.skipped.inc(facts.skipped)
                metrics.latency.observe(facts.served_ms / 1000)
                if facts.skipped:
                    self._notice("load", "windows are left out: the server has much to do")
            while self._notices:
                await self._send(self._notices.pop(0).model_dump_json())
            if window is not None:
                await self._send(protocol.pack_window(*window))

    def _notice(self, code: Any, message: str) -> None:
        now = time.monotonic()
        if now - self._notice_times.get(code, -_NOTICE_S) >= _NOTICE_S:
            self._notice_times[code] = now
            self._notices.append(protocol.Notice(code=code, message=message))
            self._changed.set()

    async def _send(self, message: str | bytes) -> None:
        try:
            async with asyncio.timeout(_SEND_S):
                if isinstance(message, bytes):
                    await self._socket.send_bytes(message)
                else:
                    await self._socket.send_text(message)
        except (RuntimeError, TimeoutError):  # closed below us, or the client reads nothing
            raise WebSocketDisconnect(1006) from None

    async def leave(self) -> None:
        """The server stops: answer what has come, say so, close."""
        self._end = Close.GOING_AWAY
        if self._sound is None or self._reader is None:
            await self._close(self._end, self._end.meaning)
            return
        self._notice("going_away", "the server stops: connect again")
        self._sound.end()
        self._reader.cancel()

    async def send_error(self, code: int, message: str) -> None:
        """Say why the stream ends, and close it; a client that has gone is no fault."""
        error = protocol.Error(code=code, message=message)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._send(error.model_dump_json()), _CLOSE_S)
        await self._close(code, message)

    async def _close(self, code: int, reason: str) -> None:
        if self._socket.application_state is WebSocketState.CONNECTED:
            # The close frame has room for 123 bytes of reason.
            short = reason.encode("utf-8")[:120].decode("utf-8", "ignore")
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._socket.close(int(code), short), _CLOSE_S)


@contextlib.asynccontextmanager
async def _time_limit(seconds: float, message: str) -> AsyncIterator[asyncio.Timeout]:
    try:
        async with asyncio.timeout(seconds) as limit:
            yield limit
    except TimeoutError:
        raise ProtocolError(message, Close.TOO_SLOW) from None
