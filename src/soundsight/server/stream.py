"""The WebSocket: one stream from hello to close. The messages are in ``protocol``.

Each stream is two tasks: one reads, one writes. The writer keeps only the newest window that has
not been sent: a client that reads slowly misses windows and never lags behind.
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
from soundsight.server.engine import Answer, Engine, Feed, words_of
from soundsight.server.errors import HEADERS, told
from soundsight.server.limits import Access, Bucket, Limits, Seats
from soundsight.server.metrics import Metrics

_LOG = logging.getLogger("soundsight.server")

_CLOSE_S = 5.0
"""Seconds that a client has for the last message and the close."""

_NOTICE_S = 10.0
"""Seconds between two notices of one kind."""


class Streams:
    """All streams of a server process.

    Args:
        engine: serves them.
        access: who may open one.
        limits: how many, how fast.
        metrics: where they are counted.
    """

    def __init__(self, engine: Engine, access: Access, limits: Limits, metrics: Metrics) -> None:
        self._engine = engine
        self._access = access
        self._limits = limits
        self._metrics = metrics
        self._seats = Seats(limits)
        self._open: set[_Stream] = set()
        self.leaving = False

    async def handle(self, socket: WebSocket) -> None:
        """Serve one WebSocket to its end."""
        headers = socket.headers
        host = headers.get("host", "")
        if not self._access.host(host) or not self._access.origin(
            headers.get("origin"), host, socket.url.scheme
        ):
            self._refused("origin")
            answer = told(403, "origin", "pages of this origin may not open a stream")
            answer.headers.update(HEADERS)
            with contextlib.suppress(Exception):  # who is gone already need not be told
                await socket.send_denial_response(answer)
            return
        wanted = headers.get("sec-websocket-protocol", "")
        offered = [name.strip() for name in wanted.split(",")]
        chosen = protocol.SUBPROTOCOL if protocol.SUBPROTOCOL in offered else None
        try:
            await socket.accept(subprotocol=chosen)
        except (OSError, RuntimeError, WebSocketDisconnect):  # gone before it began
            return
        stream = _Stream(socket, self._engine, self._limits)
        try:
            address = socket.client.host if socket.client else ""
            with self._seats.take(address) as refusal:
                self._metrics.streams.set(self._seats.taken)
                if self.leaving:
                    refusal = "the server stops: connect again"
                elif not refusal and self._engine.overloaded:
                    refusal = "the server has no time for a further stream: try again later"
                if refusal:
                    raise _RefusedError(refusal, Close.TRY_LATER, "full")
                self._open.add(stream)
                await stream.run(self._access)
        except _RefusedError as refusal:
            self._refused(refusal.reason)
            await stream.say_and_close(refusal.code, str(refusal))
        except ProtocolError as error:
            self._refused("protocol")
            await stream.say_and_close(error.code, str(error))
        except WebSocketDisconnect:
            pass
        except Exception:
            _LOG.exception("a stream has failed")
            await stream.say_and_close(Close.FAULT, "a fault of the server")
        finally:
            self._open.discard(stream)
            stream.close()
            self._metrics.streams.set(self._seats.taken)

    def _refused(self, reason: str) -> None:
        self._metrics.refusals.labels(reason).inc()

    async def leave(self) -> None:
        """Answer what has come, tell every stream that the server stops, and close it."""
        self.leaving = True
        streams = list(self._open)
        leaving = (asyncio.wait_for(stream.leave(), 2 * _CLOSE_S) for stream in streams)
        await asyncio.gather(*leaving, return_exceptions=True)


class _RefusedError(Exception):
    def __init__(self, message: str, code: Close, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class _Stream:
    def __init__(self, socket: WebSocket, engine: Engine, limits: Limits) -> None:
        self._socket = socket
        self._engine = engine
        self._limits = limits
        self._feed: Feed | None = None
        self._newest: Answer | None = None
        self._missed = 0
        self._notices: list[protocol.Notice] = []
        self._said: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._fault: Exception | None = None
        self._closing = False
        self._sending = asyncio.Lock()

    async def run(self, access: Access) -> None:
        hello = await self._hello(access)
        sample_format = SampleFormat(hello.format)
        translator = self._engine.translator
        info = translator.info
        try:
            tracker = EventTracker(
                translator, draws=hello.draws, seed=hello.seed, sensitivity=hello.sensitivity
            )
            cutter = LiveCutter(hello.rate_hz, info.mel, hello.hop_s)
        except SoundsightError as error:
            raise ProtocolError(str(error), Close.MALFORMED) from None
        feed = self._feed = Feed(
            self._engine,
            cutter,
            tracker,
            rate_hz=hello.rate_hz,
            hop_s=hello.hop_s,
            answer=self._answered,
            failed=self._failed,
        )
        ready = protocol.Ready(
            model=protocol.ModelFacts(
                name=info.name,
                version=info.version,
                image_px=info.image_px,
                labels=list(translator.label_head.labels) if translator.label_head else [],
                alerts=list(translator.label_head.alerts) if translator.label_head else [],
                confidence_needed=round(tracker.confidence_needed, 4),
                quiet_dbfs=round(tracker.quiet_dbfs, 1),
            ),
            limits=protocol.StreamLimits(
                max_frame_bytes=protocol.max_frame_bytes(hello.rate_hz, sample_format),
                max_speed=self._limits.max_speed,
                silent_s=self._limits.silent_s,
            ),
            hop_s=hello.hop_s,
            segment_s=units.SEGMENT_S,
        )
        await self._send(ready)
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read(feed, hello, sample_format))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()  # raises what ended it
                await self._finish(feed)
            else:
                writer.result()
                if self._fault is not None:
                    if not isinstance(self._fault, SoundsightError):
                        _LOG.error("a stream has failed", exc_info=self._fault)
                    raise _RefusedError(words_of(self._fault), Close.FAULT, "fault")
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    # --- in ----------------------------------------------------------------------------------

    async def _hello(self, access: Access) -> protocol.Hello:
        try:
            message = await asyncio.wait_for(self._socket.receive(), self._limits.hello_s)
        except TimeoutError:
            raise _RefusedError(
                f"no hello within {self._limits.hello_s:g} s", Close.TOO_SLOW, "slow"
            ) from None
        text = _text_of(message, "the first message must be a hello, in text")
        hello = protocol.read_client_text(text)
        if not isinstance(hello, protocol.Hello):
            raise ProtocolError("the first message must be a hello", Close.MALFORMED)
        if not access.knows(hello.token):
            raise _RefusedError("the token is missing or wrong", Close.UNAUTHORISED, "token")
        return hello

    async def _read(self, feed: Feed, hello: protocol.Hello, kind: SampleFormat) -> None:
        limits, rate_hz = self._limits, hello.rate_hz
        frames = Bucket(limits.frames_per_s, limits.frames_per_s)
        sound_s = Bucket(limits.max_speed, limits.burst_s)
        expected = 0
        loop = asyncio.get_running_loop()
        # One timer that is put off by each frame, not one a frame.
        async with self._silence(limits.silent_s) as silence:
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message.get("code", 1005))
                if not frames.take(1):
                    raise _RefusedError("too many frames a second", Close.REFUSED, "rate")
                if message.get("text") is not None:
                    if self._told(feed, message["text"]):
                        return
                    continue
                frame = protocol.read_sound(message["bytes"], kind, rate_hz)
                silence.reschedule(loop.time() + limits.silent_s)
                if not sound_s.take(len(frame.samples) / rate_hz):
                    raise _RefusedError(
                        f"sound comes faster than {limits.max_speed:g} times real time",
                        Close.REFUSED,
                        "rate",
                    )
                if frame.position < expected:
                    raise ProtocolError("the position goes backwards", Close.MALFORMED)
                if frame.position > expected:
                    feed.restart(frame.position)
                    if expected:
                        missing_s = (frame.position - expected) / rate_hz
                        self._notice("gap", f"{missing_s:.2f} s of sound are missing")
                expected = frame.position + len(frame.samples)
                feed.push(frame.samples)

    @contextlib.asynccontextmanager
    async def _silence(self, seconds: float) -> AsyncIterator[asyncio.Timeout]:
        try:
            async with asyncio.timeout(seconds) as silence:
                yield silence
        except TimeoutError:
            raise _RefusedError(f"no sound for {seconds:g} s", Close.TOO_SLOW, "slow") from None

    def _told(self, feed: Feed, text: str) -> bool:
        """Take a text message of a stream that runs; true where it ends the sound."""
        if not text.lstrip().startswith("{"):
            raise ProtocolError("sound is sent in binary frames, not in text", Close.WRONG_KIND)
        said = protocol.read_client_text(text)
        if isinstance(said, protocol.End):
            return True
        if isinstance(said, protocol.Hello):
            raise ProtocolError("hello is said once", Close.MALFORMED)
        if said.draws is not None:
            feed.tracker.draws = said.draws
        if said.sensitivity is not None:
            feed.tracker.sensitivity = said.sensitivity
        return False

    # --- out ---------------------------------------------------------------------------------

    def _answered(self, answer: Answer) -> None:
        if self._newest is not None:
            self._missed += 1 + self._newest[0].skipped
        if answer[0].skipped:
            self._notice("load", "windows are left out: the server has much to do")
        self._newest = answer
        self._changed.set()

    def _failed(self, fault: Exception) -> None:
        self._fault = fault
        self._changed.set()

    def _notice(self, code: Any, message: str) -> None:
        now = time.monotonic()
        if now - self._said.get(code, -_NOTICE_S) >= _NOTICE_S:
            self._said[code] = now
            self._notices.append(protocol.Notice(code=code, message=message))
            self._changed.set()

    async def _write(self) -> None:
        while self._fault is None:
            await self._changed.wait()
            self._changed.clear()
            await self._flush()

    async def _flush(self) -> None:
        while self._notices:
            await self._send(self._notices.pop(0))
        if self._newest is not None:
            (facts, data), missed = self._newest, self._missed
            self._newest, self._missed = None, 0
            if missed:
                _, pictures = protocol.read_window(data)
                changed = facts.model_copy(update={"skipped": facts.skipped + missed})
                data = protocol.pack_window(changed, pictures)
            await self._send(data)

    async def _send(self, message: Any) -> None:
        async with self._sending:
            if self._closing:  # what comes after the close frame is no message
                return
            try:
                if isinstance(message, bytes):
                    await self._socket.send_bytes(message)
                else:
                    await self._socket.send_text(message.model_dump_json())
            except RuntimeError:  # the connection has been closed below us, for a broken frame
                raise WebSocketDisconnect(1006) from None

    async def _finish(self, feed: Feed, code: Close = Close.DONE) -> None:
        """Answer what is left and close."""
        feed.end()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(feed.idle.wait(), _CLOSE_S)
        await self._flush()
        await self._close(code, code.meaning)

    async def leave(self) -> None:
        """The server stops: answer what has come, say so, close."""
        if self._feed is not None:
            self._notice("going_away", "the server stops: connect again")
            await self._finish(self._feed, Close.GOING_AWAY)
        else:
            await self._close(Close.GOING_AWAY, Close.GOING_AWAY.meaning)

    async def say_and_close(self, code: int, message: str) -> None:
        """Say why, and close; a client that is gone already is no fault."""
        with contextlib.suppress(Exception):
            error = protocol.Error(code=int(code), message=message)
            await asyncio.wait_for(self._send(error), _CLOSE_S)
        await self._close(code, message)

    async def _close(self, code: int, reason: str) -> None:
        if self._closing or self._socket.application_state is not WebSocketState.CONNECTED:
            return
        self._closing = True
        # The close frame has room for 123 bytes of reason.
        short = reason.encode("utf-8")[:120].decode("utf-8", "ignore")

        async def close() -> None:
            async with self._sending:  # after what is being sent
                await self._socket.close(int(code), short)

        with contextlib.suppress(Exception):
            await asyncio.wait_for(close(), _CLOSE_S)

    def close(self) -> None:
        if self._feed is not None:
            self._feed.close()


def _text_of(message: Any, complaint: str) -> str:
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text = message.get("text")
    if text is None:
        raise ProtocolError(complaint, Close.WRONG_KIND)
    return str(text)
