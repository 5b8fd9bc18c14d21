"""The messages of the stream: written, read, and refused in one line."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundsight.core import protocol
from soundsight.core.protocol import Close, ProtocolError, SampleFormat, SoundFrame
from soundsight.core.state import State


def facts(**values: Any) -> protocol.WindowFacts:
    known: dict[str, Any] = {
        "start_s": 0.25, "end_s": 1.25, "settled": True, "state": State.PICTURE,
        "level_dbfs": -20.0, "ood_score": 0.5, "confidence": None, "name": "dög",
        "second_guess": "", "pictogram": "", "drawing": 1, "event": None,
    }  # fmt: skip
    return protocol.WindowFacts(**{**known, **values})


def refused(text: str) -> ProtocolError:
    with pytest.raises(ProtocolError) as told:
        protocol.read_client_text(text)
    message = str(told.value)
    assert message
    assert message.isprintable()
    assert len(message) <= 250
    return told.value


# --- text ------------------------------------------------------------------------------------


def test_messages_come_back() -> None:
    for message in (
        protocol.Hello(rate_hz=8_000, hop_s=0.75, draws=4, token="t", client="page"),
        protocol.Settings(draws=2),
        protocol.Settings(sensitivity=0),
        protocol.End(),
    ):
        assert protocol.read_client_text(message.model_dump_json()) == message
    error = protocol.Error(code=1008, message="no")
    assert protocol.read_server_text(error.model_dump_json()) == error


@pytest.mark.parametrize(
    "fields",
    [
        {"rate_hz": 0}, {"rate_hz": 7_999}, {"rate_hz": 192_001}, {"rate_hz": 10**9},
        {"rate_hz": "44100"}, {"rate_hz": True}, {"rate_hz": 44_100.5}, {"rate_hz": None},
        {"hop_s": 0.3}, {"hop_s": 0}, {"hop_s": 1.25}, {"hop_s": True}, {"hop_s": "1"},
        {"draws": 0}, {"draws": 5}, {"draws": 1.5}, {"format": "u8"}, {"format": None},
        {"sensitivity": -0.01}, {"sensitivity": 1.01}, {"sensitivity": "high"},
        {"seed": -1}, {"seed": 2**53}, {"seed": 1.0}, {"token": 7}, {"token": "x" * 513},
        {"client": "x" * 81}, {"client": None}, {"version": "1"}, {"version": 1.0},
        {"version": None}, {"version": True}, {"unknown": 1}, {"a\nb\x1b[31m": 1},
    ],
)  # fmt: skip
def test_a_field_out_of_range(fields: dict[str, Any]) -> None:
    error = refused(json.dumps({"type": "hello", **fields}))
    assert error.code == Close.MALFORMED


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "null", "[]", "7", '"hello"', "{", "{}", '{"type": "x"}', '{"type": null}',
        '{"type": []}', '{"type": {}}', '{"type": "hello"} {}', '{"type": "ready"}',
        '{"type": "hello", "sensitivity": NaN}', '{"type": "hello", "sensitivity": Infinity}',
        '{"type": "hello", "sensitivity": 1e999}', '{"type": "hello", "rate_hz": NaN}',
        '{"type": "settings", "sensitivity": NaN}', '{"type": "settings", "hop_s": 1}',
        '{"type": "end", "now": true}', "[" * 4_000,
        '{"type": "hello", "seed": ' + "9" * 4_000 + "}",
        '{"type": "\\ud800"}', '{"\\ud800": 1, "type": "hello"}',
    ],
)  # fmt: skip
def test_no_message(text: str) -> None:
    assert refused(text).code == Close.MALFORMED


def test_text_that_is_too_long() -> None:
    assert refused(json.dumps({"type": "hello", "client": "x" * 5_000})).code == Close.TOO_BIG
    # Bytes count, not letters.
    assert refused(json.dumps({"type": "é" * 2_100}, ensure_ascii=False)).code == Close.TOO_BIG


@pytest.mark.parametrize(("version", "who"), [(2, "server"), (0, "client"), (-3, "client")])
def test_another_version(version: int, who: str) -> None:
    """Whatever else it says: a later hello may have fields that are not known here."""
    error = refused(json.dumps({"type": "hello", "version": version, "new": 1}))
    assert error.code == Close.VERSION
    assert str(error).endswith(f"upgrade the {who}")
    assert f"version {protocol.VERSION} of the protocol, not {version}" in str(error)
    assert refused('{"type": "hello", "version": ' + "9" * 4_000 + "}").code == Close.VERSION


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "version", "rate_hz", "draws", "x"]) | st.text(max_size=5),
        inner | st.sampled_from(["hello", "settings", "end"]), max_size=5,
    ),
    max_leaves=12,
))  # fmt: skip
def test_any_json_is_read_or_refused(value: Any) -> None:
    text = json.dumps(value)
    try:
        message = protocol.read_client_text(text)
    except ProtocolError:
        refused(text)
    else:
        assert message.type == value["type"]


# --- sound -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(SampleFormat))
def test_sound_comes_back(kind: SampleFormat) -> None:
    samples = np.arange(-5, 6).astype(kind.dtype)
    frame = SoundFrame(sequence=2**32 + 7, position=2**40, samples=samples)
    data = frame.pack()
    assert len(data) == 16 + samples.nbytes
    read = protocol.read_sound(data, kind, 44_100)
    assert (read.sequence, read.position) == (7, 2**40)
    np.testing.assert_array_equal(read.samples, samples)


def test_sound_is_little_endian() -> None:
    big = np.array([1, -2], ">i2")
    data = SoundFrame(sequence=3, position=4, samples=big).pack()
    assert data == struct.pack("<BBHIQhh", 1, 1, 0, 3, 4, 1, -2)


HEAD = struct.pack("<BBHIQ", 1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x01", HEAD[:15], HEAD, HEAD + b"x", HEAD + b"xyz", b"\x02" + HEAD[1:] + b"xx",
        b"\x01\x02" + HEAD[2:] + b"xx", b"\x01\x01\x01\x00" + HEAD[4:] + b"xx",
        b"\x01\x01\x00\x80" + HEAD[4:] + b"xx", b'{"type": "end"}',
    ],
)  # fmt: skip
def test_malformed_sound(data: bytes) -> None:
    with pytest.raises(ProtocolError) as told:
        protocol.read_sound(data, SampleFormat.S16LE, 44_100)
    assert told.value.code == Close.MALFORMED


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.1e3, -1e30, 3e38])
def test_samples_that_are_no_sound(value: float) -> None:
    samples = np.array([0, value, 0], np.float32)
    data = SoundFrame(sequence=0, position=0, samples=samples).pack()
    with pytest.raises(ProtocolError) as told:
        protocol.read_sound(data, SampleFormat.F32LE, 44_100)
    assert told.value.code == Close.MALFORMED


def test_a_frame_holds_a_second() -> None:
    for kind in SampleFormat:
        most = protocol.max_frame_bytes(8_000, kind)
        protocol.read_sound(HEAD + bytes(most - 16), kind, 8_000)
        with pytest.raises(ProtocolError) as told:
            protocol.read_sound(HEAD + bytes(most - 16 + kind.dtype.itemsize), kind, 8_000)
        assert told.value.code == Close.TOO_BIG


def test_the_last_position() -> None:
    last = SoundFrame(sequence=0, position=protocol.MAX_POSITION - 1, samples=np.zeros(1, "<i2"))
    protocol.read_sound(last.pack(), SampleFormat.S16LE, 8_000)
    for position in (protocol.MAX_POSITION, 2**64 - 1):
        beyond = SoundFrame(sequence=0, position=position, samples=np.zeros(1, "<i2"))
        with pytest.raises(ProtocolError) as told:
            protocol.read_sound(beyond.pack(), SampleFormat.S16LE, 8_000)
        assert told.value.code == Close.MALFORMED


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=64), st.sampled_from(SampleFormat), st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, kind: SampleFormat, headed: bool) -> None:
    frame = None
    with contextlib.suppress(ProtocolError):
        frame = protocol.read_sound(HEAD * headed + data, kind, 8_000)
    if frame is not None:
        assert len(frame.samples)
        assert np.isfinite(frame.samples).all()


# --- windows ---------------------------------------------------------------------------------


def test_a_window_comes_back() -> None:
    told, pictures = facts(skipped=3, served_ms=1.5), [b"one", b""]
    data = protocol.pack_window(told, pictures)
    assert protocol.read_window(data) == (told, pictures)
    for cut in range(len(data)):
        with pytest.raises(ProtocolError):
            protocol.read_window(data[:cut])
    with pytest.raises(ProtocolError):
        protocol.read_window(data + b"x")
    with pytest.raises(ProtocolError):
        protocol.read_window(b"\x01" + data[1:])


def test_every_close_code_is_documented() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8").splitlines()
    for code in Close:
        row = f"| {int(code)} | {code.meaning} |"
        assert row in lines, row
