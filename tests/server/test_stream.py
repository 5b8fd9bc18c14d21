"""Streams over a real socket: what is answered, and how badly meant ones end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from tests.server.conftest import read_all
from websockets.exceptions import ConnectionClosed, InvalidStatus

from soundsight.core import protocol
from soundsight.runtime.events import EventTracker
from soundsight.server import stream as streams
from soundsight.server.limits import Limits

RATE = 44_100
HELLO = {"type": "hello", "rate_hz": 8_000}
RAW_HELLO = json.dumps(HELLO).encode()


def noise(seconds: float, rate_hz: int = RATE, kind: str = "<i2") -> np.ndarray:
    samples = np.random.default_rng(0).normal(0, 0.2, round(seconds * rate_hz))
    return (samples * 32_767 * 0.5).astype(kind) if kind == "<i2" else samples.astype(kind)


def pieces(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(samples), size):
        yield samples[first : first + size]


def feed(talk: Any, samples: np.ndarray, rate_hz: int = 8_000, hop_s: float = 0.25) -> None:
    """Send sound no faster than it is answered: every window is then served."""
    for piece in pieces(samples, round(0.05 * rate_hz)):
        talk.sound(piece)
        # A resampler holds back up to 0.13 s, and a window waits for 13 ms more.
        full_s = talk.position / rate_hz - 0.149 - 1
        talk.until(max(0, int(full_s / hop_s + 1)))


@pytest.fixture(autouse=True)
def _nothing_is_broken(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test on the shared server it serves as before, and no fault is in its log."""
    yield
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        server.unharmed()
        assert server.faults() == []


@pytest.fixture(scope="module")
def hasty(run_server: Callable[..., Any]) -> Iterator[Any]:
    """A server with little patience and few seats."""
    limits = Limits(
        hello_s=0.4, silent_s=0.6, max_streams=6, max_streams_per_address=4, burst_s=3.0,
        frames_per_s=200,
    )  # fmt: skip
    with run_server(limits) as running:
        yield running


# --- what is answered ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate_hz", "kind", "hop_s", "draws"),
    [
        (8_000, "s16le", 0.25, 1), (44_100, "f32le", 0.5, 4), (48_000, "s16le", 0.75, 2),
        (96_000, "f32le", 1, 3), (192_000, "s16le", 0.25, 1), (11_025, "f32le", 0.25, 2),
    ],
)  # fmt: skip
def test_windows_and_pictures(
    server: Any, rate_hz: int, kind: str, hop_s: float, draws: int
) -> None:
    samples = noise(3.2, rate_hz, "<i2" if kind == "s16le" else "<f4")
    with server.talk() as talk:
        ready = talk.hello(rate_hz=rate_hz, format=kind, hop_s=hop_s, draws=draws)
        assert ready["type"] == "ready"
        assert (ready["hop_s"], ready["segment_s"]) == (hop_s, 1.0)
        assert ready["model"]["image_px"] == 96
        assert ready["limits"]["max_frame_bytes"] == 16 + rate_hz * (2 if kind == "s16le" else 4)
        wanted = [1 + k * hop_s for k in range(int(2.0 / hop_s) + 1)]
        feed(talk, samples, rate_hz, hop_s)
        talk.say(type="end")
        assert talk.closed() == (1000, protocol.Close.DONE.meaning)
    assert [facts.end_s for facts in talk.windows][: len(wanted)] == pytest.approx(wanted, abs=0.01)
    assert sum(facts.skipped for facts in talk.windows) == 0
    drawn: dict[int, set[bytes]] = {}  # one drawing is shown in many windows
    pictured = 0
    for facts, pictures in zip(talk.windows, talk.pictures, strict=True):
        assert facts.start_s == pytest.approx(facts.end_s - 1)
        assert len(pictures) == (draws if facts.state == "picture" else 0)
        assert all(picture.startswith(b"\xff\xd8\xff") for picture in pictures)
        if pictures:
            pictured += 1
            drawn.setdefault(facts.drawing, set()).add(b"".join(pictures))
    assert 0 < len(drawn) <= pictured - (hop_s < 1)
    assert all(len(pictures) == 1 for pictures in drawn.values())


def test_the_end_answers_what_is_left(server: Any) -> None:
    with server.talk() as talk:
        talk.hello()
        for piece in pieces(noise(4.0), 4_410):
            talk.sound(piece)
        talk.say(type="end")
        assert talk.closed()[0] == 1000
    assert talk.windows[-1].end_s == pytest.approx(4.0)
    assert len(talk.windows) + sum(facts.skipped for facts in talk.windows) == 13
    with server.talk() as talk:
        talk.hello()
        talk.say(type="end")
        assert (talk.closed()[0], talk.windows) == (1000, [])


def test_settings_take_effect(server: Any) -> None:
    with server.talk() as talk:
        talk.hello(rate_hz=8_000, draws=1)
        feed(talk, noise(2.0, 8_000))
        talk.say(type="settings", draws=3)
        talk.say(type="settings", sensitivity=0.9)
        feed(talk, noise(2.0, 8_000))
    pictured = [len(pictures) for pictures in talk.pictures if pictures]
    assert (pictured[0], pictured[-1]) == (1, 3)


def test_the_same_sound_makes_the_same_pictures(server: Any) -> None:
    """Wherever a stream begins again, it goes on as it was: nothing is kept between streams."""
    told = []
    for seed in (7, 7, 8):
        with server.talk() as talk:
            talk.hello(rate_hz=8_000, seed=seed)
            feed(talk, noise(2.5, 8_000))
            told.append([picture for pictures in talk.pictures[:5] for picture in pictures])
    assert told[0]
    assert told[0] == told[1]
    assert told[0] != told[2]


@pytest.mark.parametrize("position", [1, 2**40, protocol.MAX_POSITION - 2 * RATE])
def test_a_stream_that_begins_anywhere(server: Any, position: int) -> None:
    with server.talk() as talk:
        talk.hello()
        for number, piece in enumerate(pieces(noise(1.2), 4_410)):
            talk.sound(piece, position if number == 0 else None)
        facts = talk.until(1)[0]
        assert facts.start_s == pytest.approx(position / RATE, abs=0.001)
        assert facts.served_ms < 20_000
        assert talk.texts[1:] == []  # it is no gap


def test_a_gap_is_told_and_not_spanned(server: Any) -> None:
    with server.talk() as talk:
        talk.hello(rate_hz=8_000)
        talk.sound(noise(0.9, 8_000))
        talk.sound(np.zeros(8_000, "<i2"), position=80_000)
        talk.sound(np.zeros(2_000, "<i2"))
        facts = talk.until(1)[0]
        assert facts.start_s == pytest.approx(10.0)
        assert facts.state == "quiet"
        (notice,) = talk.texts[1:]
        assert (notice["type"], notice["code"]) == ("notice", "gap")
        assert "9.10 s of sound are missing" in notice["message"]


def test_the_loudest_sound_that_is_taken(server: Any) -> None:
    with server.talk() as talk:
        talk.hello(rate_hz=8_000, format="f32le")
        square = np.where(np.arange(4_000) % 40 < 20, 900, -900).astype("<f4")
        for _ in range(3):
            talk.sound(square)
        assert 50 < talk.until(1)[0].level_dbfs < 70


# --- what is refused: messages ---------------------------------------------------------------


def frame(data: bytes = b"", position: int = 0) -> bytes:
    return struct.pack("<BBHIQ", 1, 1, 0, 0, position) + data


FLOATS = {**HELLO, "format": "f32le"}


# Other faults of a message: see tests/core/test_protocol.py.
@pytest.mark.parametrize(
    ("messages", "code", "says"),
    [
        ([{**HELLO, "rate_hz": 0}], 1007, "rate_hz"), ([{**HELLO, "a\nb<script>": 1}], 1007, ""),
        ([{**HELLO, "sensitivity": float("nan")}], 1007, "sensitivity"),
        ([{**HELLO, "version": 2}], 4406, "upgrade the server"),
        ([{**HELLO, "version": 0}], 4406, "upgrade the client"),
        ([{**HELLO, "client": "x" * 5_000}], 1009, ""), ([{"type": "end"}], 1007, "hello"),
        ([{"type": "settings", "draws": 2}], 1007, "hello"), ([{"type": "x"}], 1007, ""),
        ([b"\x01"], 1003, ""), ([RAW_HELLO], 1003, ""), (["[]"], 1007, ""),
        ([HELLO, b""], 1007, ""), ([HELLO, frame(b"x")], 1007, ""),
        ([HELLO, frame(bytes(2 * 8_001))], 1009, ""),
        ([HELLO, frame(b"xx", 2**64 - 1)], 1007, "last position"),
        ([HELLO, "sound"], 1003, ""), ([HELLO, ""], 1003, ""), ([HELLO, "{"], 1007, ""),
        ([HELLO, HELLO], 1007, "hello is said once"),
        ([HELLO, {"type": "settings", "draws": float("nan")}], 1007, "draws"),
        ([HELLO, {"type": "settings", "hop_s": 1}], 1007, "hop_s"),
        ([HELLO, {"type": "settings", "draws": 5}], 1007, "draws"),
        ([HELLO, {"type": "ready"}], 1007, ""), ([HELLO, {"x": "x" * 5_000}], 1009, ""),
        ([FLOATS, frame(struct.pack("<2f", 0, np.nan))], 1007, "finite"),
        ([FLOATS, frame(struct.pack("<2f", 0, -np.inf))], 1007, "finite"),
        ([FLOATS, frame(struct.pack("<2f", 0, 1e30))], 1007, "full scale"),
        ([HELLO, frame(b"xx" * 800), frame(b"xx", 799)], 1007, "backwards"),
        ([HELLO, frame(b"xx" * 800), frame(b"xx", 1)], 1007, "backwards"),
    ],
)  # fmt: skip
def test_messages_that_end_a_stream(server: Any, messages: list[Any], code: int, says: str) -> None:
    with server.talk() as talk:
        for message in messages:
            talk.socket.send(json.dumps(message) if isinstance(message, dict) else message)
        told, line = talk.error()
        assert (told, says in line) == (code, True), line
        assert (talk.socket.close_reason or "").startswith(line[:100])


def test_a_frame_over_the_sockets_size(server: Any) -> None:
    """The connection itself refuses it, while windows come: it is never in memory as a whole."""
    with server.talk() as talk:
        talk.hello(rate_hz=8_000, draws=4)
        for piece in pieces(noise(4, 8_000), 400):
            talk.sound(piece)
        with contextlib.suppress(ConnectionClosed, OSError):
            talk.socket.send(bytes((1 << 20) + 1))
        assert talk.closed()[0] == 1009


# --- what is refused: manners ----------------------------------------------------------------


def test_no_hello_or_no_sound(hasty: Any) -> None:
    """Settings are no sound: they keep no stream open."""
    with hasty.talk() as talk:
        assert talk.error() == (4408, "no hello within 0.4 s")
    with hasty.talk() as talk:
        talk.hello(rate_hz=8_000)
        talk.sound(noise(0.1, 8_000))
        stop = threading.Event()

        def chat() -> None:
            with contextlib.suppress(ConnectionClosed):
                while not stop.wait(0.1):
                    talk.say(type="settings", draws=1)

        chatter = threading.Thread(target=chat)
        chatter.start()
        told = talk.error()
        stop.set()
        chatter.join()
        assert told == (4408, "no sound for 0.6 s")


@pytest.mark.parametrize(
    ("seconds", "size", "says"),
    [
        (10, 800, "sound comes faster than 2 times real time"),
        (0.125, 1, "too many frames a second"),
    ],
)
def test_too_much_sound_or_too_many_frames(
    hasty: Any, seconds: float, size: int, says: str
) -> None:
    with hasty.talk() as talk:
        talk.hello(rate_hz=8_000)
        with contextlib.suppress(ConnectionClosed):
            for piece in pieces(noise(seconds, 8_000), size):
                talk.sound(piece)
        assert talk.error() == (1008, says)


def test_the_address_and_the_server_are_full(hasty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal() -> str:
        with hasty.talk() as talk:
            code, message = talk.error()
            assert code == 1013
            return str(message)

    with contextlib.ExitStack() as stack:
        for _ in range(4):
            talk = stack.enter_context(hasty.talk())
            assert talk.hello(rate_hz=8_000)["type"] == "ready"
        assert refusal() == "4 streams are open from this address: close one"
        assert hasty.figure("soundsight_refusals_total", reason="full") >= 1
        monkeypatch.setattr(hasty.services.streams, "limits", Limits(max_streams=4))
        assert refusal() == "the server is full (4 streams): try again later"
        monkeypatch.setattr(hasty.services.streams, "limits", Limits())
        monkeypatch.setattr(type(hasty.services.streams.engine), "overloaded", True)
        assert "no time for a further stream" in refusal()
        talk.sound(noise(0.1, 8_000))  # the others are as they were
        talk.say(type="end")
        assert talk.closed()[0] == 1000


# --- who is refused --------------------------------------------------------------------------

UPGRADE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def with_field(field: bytes) -> bytes:
    return UPGRADE.replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        with_field(b"Origin: http://evil.example"), with_field(b"Origin: null"),
        with_field(b"Origin: "), with_field(b"Origin: http://127.0.0.1:1"),
        with_field(b"Origin: https://other.example"),
        UPGRADE.replace(b"127.0.0.1", b"evil.example:8000"),
        with_field(b"Origin: http://evil.example").replace(b"127.0.0.1", b"evil.example"),
    ],
)  # fmt: skip
def test_pages_of_others(server: Any, head: bytes) -> None:
    assert server.answer(head).startswith(b"HTTP/1.1 403 ")


def test_tokens_and_pages_of_ours(run_server: Callable[..., Any]) -> None:
    with run_server(token="secret", origins=["https://page.example"]) as server:
        for token in (None, "", "secre", "SECRET", "x" * 512):
            with server.talk() as talk:
                talk.say(type="hello", **({} if token is None else {"token": token}))
                assert talk.error() == (4401, "the token is missing or wrong")
                assert talk.texts[0]["type"] == "error"
        for origin in (f"http://127.0.0.1:{server.port}", "https://page.example", None):
            with server.talk(origin=origin) as talk:
                assert talk.hello(token="secret")["type"] == "ready"
        with pytest.raises(InvalidStatus), server.talk(origin="https://other.example"):
            pass
        told = [record.getMessage() for record in server.log.records]
        assert not any("secre" in line for line in told)


def test_subprotocols(server: Any) -> None:
    own = protocol.SUBPROTOCOL
    for offered, chosen in (([own], own), (["other", own], own), (None, None)):
        with server.talk(subprotocols=offered) as talk:
            assert talk.socket.subprotocol == chosen
            assert talk.hello()["type"] == "ready"


# --- bare sockets ----------------------------------------------------------------------------


def opened(server: Any) -> socket.socket:
    """A bare connection after the handshake."""
    line: socket.socket = server.raw()
    line.sendall(UPGRADE)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += line.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return line


def masked(kind: int, data: bytes, *, final: bool = True) -> bytes:
    """A frame as a browser sends it, with a mask of zeros."""
    length = len(data)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + struct.pack(">H", length)
    return bytes([0x80 * final | kind]) + size + bytes(4) + data


def close_code(answer: bytes) -> int | None:
    """The code of the close frame that ends an answer."""
    at = 0
    while at < len(answer):
        kind, size = answer[at] & 15, answer[at + 1]
        at += 2
        if size == 126:
            (size,) = struct.unpack_from(">H", answer, at)
            at += 2
        if kind == 8:
            return int.from_bytes(answer[at : at + 2], "big")
        at += size
    return None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x05hello", 1002),  # without a mask
        (b"\xf1\x80" + bytes(4), 1002),  # reserved bits
        (b"\x83\x80" + bytes(4), 1002),  # an unknown kind
        (masked(0, b"x"), 1002),  # goes on with nothing
        (masked(1, b"{", final=False) + masked(1, b"}"), 1002),
        (masked(9, b"x" * 126), 1002),  # a long ping
        (masked(9, b"x", final=False), 1002),
        (masked(1, b"\xff\xfe"), 1007),
        (masked(1, b'{"a":', final=False) + masked(0, b"\xff"), 1007),
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(4), None),  # 2**64 - 1 bytes
        (b"\x82\xff\x00\x00\x00\xff\x00\x00\x00\x00" + bytes(4), 1009),
        (b"\x88\x81" + bytes(4) + b"x", 1002),  # half a close code
        (masked(8, b"\x00\x00"), 1002),
        (masked(8, b"\x03\xe8" + b"\xff"), 1007),
    ],
)
def test_frames_that_are_none(server: Any, data: bytes, code: int | None) -> None:
    with opened(server) as line:
        line.sendall(data)
        told = close_code(read_all(line))
    assert told == code if code is not None else told in (None, 1002, 1009)


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n", b"GARBAGE\r\n\r\n", UPGRADE.replace(b"websocket", b"h2c"),
        UPGRADE.replace(b"AAAA", b"!!"), UPGRADE.replace(b"Sec-WebSocket-Key", b"X"),
        UPGRADE.replace(b"GET", b"POST"), with_field(b"X: " + b"x" * 20_000),
        with_field(b"\r\n".join([b"X: y"] * 300)), UPGRADE.replace(b"Host: 127.0.0.1\r\n", b""),
        UPGRADE.replace(b"/v1/stream", b"/v1/stream\xff"),
        with_field(b"Content-Length: 5") + b"hello", with_field(b"Origin: \xff\xfe"),
        with_field(b"Sec-WebSocket-Protocol: ,,;\x0b"),
        with_field(b"Sec-WebSocket-Extensions: ;;="), b"G" * 200_000,
    ],
)  # fmt: skip
def test_handshakes_that_are_none(server: Any, head: bytes) -> None:
    answer = server.answer(head, half=True)
    assert not answer.startswith(b"HTTP/1.1 5")
    assert b"Traceback" not in answer
    assert b"/src/" not in answer


def test_dribble_in_a_frame(hasty: Any) -> None:
    for hello in (b"", masked(1, RAW_HELLO)):
        with opened(hasty) as line:
            line.sendall(hello)
            line.setblocking(False)
            answer = b""
            for letter in masked(2, frame(bytes(1_000))):
                with contextlib.suppress(BlockingIOError):
                    answer += line.recv(1 << 16)
                if close_code(answer) is not None:
                    break
                line.sendall(bytes([letter]))
                time.sleep(0.02)
            assert close_code(answer) == 4408
    hasty.unharmed()


@pytest.mark.slow
def test_half_closed_and_vanished(server: Any, eventually: Callable[..., Any]) -> None:
    """Clients that leave in every way and at every moment."""
    hello = UPGRADE + masked(1, RAW_HELLO)
    sound = hello + masked(2, frame(noise(1, 8_000).tobytes()))
    end = hello + masked(1, b'{"type": "end"}')
    with server.talk() as bystander:
        bystander.hello(rate_hz=8_000)
        server.vanish(
            b"", UPGRADE[:50], UPGRADE, hello[: len(UPGRADE) + 9], hello, sound, sound[:1_200], end
        )
        bystander.sound(noise(1.3, 8_000)[:8_000])
        bystander.sound(noise(1.3, 8_000)[8_000:])
        assert bystander.until(1)[0].end_s == 1.0
    eventually(lambda: server.figure("soundsight_streams") == 0)


@pytest.mark.slow
def test_a_client_that_never_reads(
    run_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    """It misses windows, and is dropped in the end; another stream is served meanwhile."""
    monkeypatch.setattr(streams, "_SEND_S", 1.0)
    with run_server(Limits(max_speed=50, burst_s=1_000, frames_per_s=10_000)) as server:
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        line.connect(("127.0.0.1", server.port))
        with line, server.talk() as other:
            line.sendall(UPGRADE + masked(1, json.dumps({**HELLO, "draws": 4}).encode()))
            other.hello(rate_hz=8_000)
            sound = noise(0.25, 8_000)
            with contextlib.suppress(OSError):
                for number in range(100_000):
                    line.sendall(masked(2, frame(sound.tobytes(), number * len(sound))))
                    if number % 50 == 0:
                        other.sound(sound)
                        assert server.figure("soundsight_streams") in (1, 2)
            other.say(type="end")
            assert other.closed()[0] == 1000
            assert len(other.windows)
            eventually(lambda: server.figure("soundsight_streams") == 0)
        server.unharmed()


@pytest.mark.slow
def test_a_flood_harms_nobody(hasty: Any) -> None:
    """While some do their worst, another stream has each of its windows."""
    stop = threading.Event()
    dice = random.Random(0)

    def misbehave() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), opened(hasty) as line:
                line.sendall(masked(1, RAW_HELLO))
                for _ in range(50):
                    line.sendall(masked(2, dice.randbytes(dice.randrange(200))))

    others = [threading.Thread(target=misbehave) for _ in range(2)]
    with hasty.talk() as talk:
        talk.hello(rate_hz=8_000)
        for other in others:
            other.start()
        for piece in pieces(noise(2.4, 8_000), 400):
            talk.sound(piece)
            time.sleep(0.02)
        talk.say(type="end")
        stop.set()
        for other in others:
            other.join()
        assert talk.closed()[0] == 1000
    assert len(talk.windows) + sum(facts.skipped for facts in talk.windows) == 6
    hasty.unharmed()
    assert hasty.faults() == []


@pytest.mark.slow
def test_nothing_is_left_behind(server: Any, eventually: Callable[..., Any]) -> None:
    process = psutil.Process()

    def visit(number: int) -> None:
        with contextlib.suppress(ConnectionClosed), server.talk() as talk:
            talk.hello(rate_hz=8_000)
            talk.sound(noise(0.5, 8_000))
            if number % 3 == 0:
                talk.socket.send(b"\x00")
            elif number % 3 == 1:
                talk.say(type="end")
                talk.closed()

    for number in range(10):
        visit(number)
    eventually(lambda: server.figure("soundsight_streams") == 0)
    files, threads = process.num_fds(), process.num_threads()
    for number in range(100):
        visit(number)
    eventually(lambda: process.num_fds() <= files, f"the end of all connections ({os.getpid()})")
    eventually(lambda: process.num_threads() <= threads)


# --- faults and the end ----------------------------------------------------------------------


def test_a_fault_of_the_server(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for the client, the traceback for the log, and the others go on."""
    update = EventTracker.update

    def breaks(self: Any, segment: Any) -> Any:
        if self.draws == 3:
            raise ZeroDivisionError("/home/somebody")
        return update(self, segment)

    monkeypatch.setattr(EventTracker, "update", breaks)
    with server.talk() as sound, server.talk() as broken:
        sound.hello(rate_hz=8_000)
        broken.hello(rate_hz=8_000, draws=3)
        for talk in (sound, broken):
            talk.sound(noise(1.0, 8_000))
            talk.sound(noise(0.25, 8_000))
        assert broken.error() == (1011, "a fault of the server")
        assert sound.until(1)[0].end_s == 1.0
    (fault,) = server.faults()
    assert "ZeroDivisionError" in fault
    server.log.records.clear()


def test_the_server_stops(run_server: Callable[..., Any]) -> None:
    """Streams are told, answered and closed; a client that has gone silent holds nobody up."""
    with run_server() as server, contextlib.ExitStack() as stack:
        talks = [stack.enter_context(server.talk()) for _ in range(3)]
        for talk in talks:
            talk.hello(rate_hz=8_000)
            talk.sound(noise(0.9, 8_000))
            talk.sound(noise(0.3, 8_000))
        silent = stack.enter_context(server.talk())  # never says hello
        dead = stack.enter_context(opened(server))  # never answers a close
        began = time.monotonic()
        server.leave()
        for talk in talks:
            assert talk.closed() == (1001, "the server stops; connect again")
            notices = [text["code"] for text in talk.texts if text.get("type") == "notice"]
            assert "going_away" in notices
            assert talk.windows[-1].end_s == 1.0
        assert silent.closed()[0] == 1001
        assert close_code(read_all(dead)) == 1001
        assert time.monotonic() - began < 15
