"""The stream's protocol, version 1: every message of both sides (``docs/protocol.md``).

Text frames are JSON objects with a ``type``; binary frames begin with a fixed little-endian head.
The server serves ``description()`` as ``/static/protocol.json``, which the page reads.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from soundsight.core.state import State

_T = TypeVar("_T")

VERSION = 1
SUBPROTOCOL = "soundsight.v1"
PATH = "/v1/stream"

MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 192_000
MAX_FRAME_S = 1.0
"""Longest sound in one frame."""

MAX_TEXT_BYTES = 4_096

MAX_POSITION = 2**53 - 1
"""Last position of a sample: what every language counts exactly."""

MAX_SAMPLE = 1_000.0
"""Largest f32 sample: full scale is 1."""

_LONGEST_COMPLAINT = 200

_SOUND = struct.Struct("<BBHIQ")
_WINDOW = struct.Struct("<BBHI")
_LENGTH = struct.Struct("<I")
_SOUND_KIND = 1
_WINDOW_KIND = 2


class ProtocolError(Exception):
    """The other side has sent what the protocol does not allow.

    Attributes:
        code: the WebSocket close code that answers it.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Close(IntEnum):
    """Why a stream is closed: the WebSocket's close code, and what it means."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """A code with its meaning in words."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 1000, "the sound has ended, everything is answered"
    GOING_AWAY = 1001, "the server stops; connect again"
    WRONG_KIND = 1003, "a text frame where a binary one is expected, or the reverse"
    MALFORMED = 1007, "a message that cannot be read"
    REFUSED = 1008, "a limit is exceeded, such as the rate"
    TOO_BIG = 1009, "a frame is too long"
    FAULT = 1011, "a fault of the server"
    TRY_LATER = 1013, "the server is full; try again later"
    UNAUTHORISED = 4401, "the token is missing or wrong"
    VERSION = 4406, "a version of the protocol that the server does not speak"
    TOO_SLOW = 4408, "no hello, or no sound, for too long"


class SampleFormat(StrEnum):
    """The type of samples; ``dtype`` is NumPy's."""

    S16LE = "s16le"
    F32LE = "f32le"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of a sample."""
        return np.dtype("<i2" if self is SampleFormat.S16LE else "<f4")


class _Message(BaseModel):
    # allow_inf_nan: JSON has no NaN, but Python's reader takes it.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Sensitivity = Annotated[float, Field(ge=0, le=1)]
Draws = Annotated[int, Field(ge=1, le=4)]


class Hello(_Message):
    """The client's first message."""

    type: Literal["hello"] = "hello"
    version: Annotated[int, Field(ge=1)] = VERSION
    rate_hz: Annotated[int, Field(ge=MIN_RATE_HZ, le=MAX_RATE_HZ)] = 44_100
    format: Literal["s16le", "f32le"] = "s16le"
    hop_s: Annotated[float, Field(ge=0.25, le=1, multiple_of=0.25)] = 0.25
    draws: Draws = 1
    sensitivity: Sensitivity = 0.5
    seed: Annotated[int, Field(ge=0, le=2**53 - 1)] = 0
    token: Annotated[str, Field(max_length=512)] | None = None
    client: Annotated[str, Field(max_length=80)] = ""


class Settings(_Message):
    """The client changes its settings while it streams."""

    type: Literal["settings"] = "settings"
    draws: Draws | None = None
    sensitivity: Sensitivity | None = None


class End(_Message):
    """The client has no more sound; the server answers what is left and closes with 1000."""

    type: Literal["end"] = "end"


class ModelFacts(_Message):
    """Facts about the model."""

    name: str
    version: str
    image_px: int
    labels: list[str]
    alerts: list[str]
    """Those of the labels that are named and never drawn."""
    confidence_needed: float
    quiet_dbfs: float


class StreamLimits(_Message):
    """What the server accepts."""

    max_frame_bytes: int
    max_speed: float
    silent_s: float


class Ready(_Message):
    """The server's first message: sound may come."""

    type: Literal["ready"] = "ready"
    version: int = VERSION
    model: ModelFacts
    limits: StreamLimits
    hop_s: float
    segment_s: float


class Notice(_Message):
    """Information from the server; the stream goes on."""

    type: Literal["notice"] = "notice"
    code: Literal["load", "gap", "going_away"]
    message: str


class Error(_Message):
    """The server says why it is about to close."""

    type: Literal["error"] = "error"
    code: int
    message: str


class EventFacts(_Message):
    """See ``runtime.events.Event``; times in seconds of the stream."""

    number: int
    began_s: float
    heard_s: float
    repeats: int


class WindowFacts(_Message):
    """One window; see ``runtime.events.WindowResult``. Numbers that are not known are null."""

    type: Literal["window"] = "window"
    start_s: float
    end_s: float
    settled: bool
    state: State
    level_dbfs: float
    ood_score: float | None
    confidence: float | None
    name: str
    second_guess: str
    """What else it may be; empty where nothing else is near."""
    pictogram: str
    """Which pictogram stands for it, where the state is ``named``; or else empty."""
    drawing: int
    """Counts the drawings: windows that have the same come with the same pictures."""
    event: EventFacts | None
    skipped: int = 0
    """Windows left out since the one before, because there was no time for them."""
    served_ms: float = 0.0
    """From the arrival of the window's last sample to its answer."""


ClientText = Annotated[Hello | Settings | End, Field(discriminator="type")]
ServerText = Annotated[Ready | Notice | Error, Field(discriminator="type")]
_CLIENT: TypeAdapter[Hello | Settings | End] = TypeAdapter(ClientText)
_SERVER: TypeAdapter[Ready | Notice | Error] = TypeAdapter(ServerText)


def read_client_text(text: str) -> Hello | Settings | End:
    """Read a text frame of a client.

    Raises:
        ProtocolError: in one line; with ``Close.VERSION`` for a hello of another version.
    """
    return _read(_CLIENT, text)


def read_server_text(text: str) -> Ready | Notice | Error:
    """Read a text frame of a server.

    Raises:
        ProtocolError: in one line.
    """
    return _read(_SERVER, text)


def _read(adapter: TypeAdapter[_T], text: str) -> _T:
    if len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        raise ProtocolError(f"a text message has at most {MAX_TEXT_BYTES} bytes", Close.TOO_BIG)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("a text message must be JSON", Close.MALFORMED) from None
    if not isinstance(values, dict):
        raise ProtocolError("a text message must be a JSON object", Close.MALFORMED)
    version = values.get("version", VERSION)
    # A later hello may have fields that are not known here.
    if values.get("type") == "hello" and type(version) is int and version != VERSION:
        advice = "upgrade the server" if version > VERSION else "upgrade the client"
        raise ProtocolError(
            f"this server speaks version {VERSION} of the protocol, not {str(version)[:9]}: "
            + advice,
            Close.VERSION,
        )
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the message"
        said = f"{where}: {first['msg']}"[:_LONGEST_COMPLAINT]
        # The names of fields are the sender's: the message must stay one line.
        line = "".join(c if c.isprintable() else "?" for c in said)
        raise ProtocolError(line, Close.MALFORMED) from None


# --- sound -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class SoundFrame:
    """A piece of sound on its way to the server.

    Attributes:
        sequence: counts the frames, modulo 2**32.
        position: the stream's sample (at the hello's rate) that this frame begins with. A jump
            forward says that sound is missing.
        samples: [t], int16 or float32.
    """

    sequence: int
    position: int
    samples: NDArray[Any]

    def pack(self) -> bytes:
        """Write the binary frame: ``<BBHIQ`` (kind 1, version, 0, sequence, position), samples."""
        head = _SOUND.pack(_SOUND_KIND, VERSION, 0, self.sequence % 2**32, self.position)
        little = self.samples.astype(self.samples.dtype.newbyteorder("<"), copy=False)
        return head + little.tobytes()


def max_frame_bytes(rate_hz: int, sample_format: SampleFormat) -> int:
    """Length of the longest binary frame of a client."""
    return _SOUND.size + int(MAX_FRAME_S * rate_hz) * sample_format.dtype.itemsize


def read_sound(data: bytes, sample_format: SampleFormat, rate_hz: int) -> SoundFrame:
    """Read a binary frame of a client.

    Raises:
        ProtocolError: when the head is wrong, the frame holds no whole number of samples, none at
            all or more than a second of them, a sample that is not finite or far over full scale,
            or lies beyond the last position.
    """

    def wrong(message: str) -> ProtocolError:
        return ProtocolError(message, Close.MALFORMED)

    if len(data) > max_frame_bytes(rate_hz, sample_format):
        raise ProtocolError(f"a frame holds at most {MAX_FRAME_S:g} s of sound", Close.TOO_BIG)
    if len(data) < _SOUND.size:
        raise wrong(f"a binary frame begins with a head of {_SOUND.size} bytes")
    kind, version, reserved, sequence, position = _SOUND.unpack_from(data)
    if (kind, version, reserved) != (_SOUND_KIND, VERSION, 0):
        raise wrong("the head of a binary frame is not that of sound")
    length = len(data) - _SOUND.size
    if not length or length % sample_format.dtype.itemsize:
        raise wrong("a frame holds a whole number of samples, and some")
    samples = np.frombuffer(data, sample_format.dtype, offset=_SOUND.size)
    if position + len(samples) > MAX_POSITION:
        raise wrong(f"the last position is {MAX_POSITION}")
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise wrong("a sample is not a finite number")
    if samples.dtype.kind == "f" and np.abs(samples).max() > MAX_SAMPLE:
        raise wrong("a sample is far over full scale, which is 1")
    return SoundFrame(sequence=sequence, position=position, samples=samples)


# --- windows ---------------------------------------------------------------------------------


def pack_window(facts: WindowFacts, pictures: list[bytes]) -> bytes:
    """Write a window: ``<BBHI`` (kind 2, version, pictures, length of the JSON), the JSON, and
    each picture after its length ``<I``. Pictures are JPEG.
    """
    text = facts.model_dump_json().encode()
    parts = [_WINDOW.pack(_WINDOW_KIND, VERSION, len(pictures), len(text)), text]
    for picture in pictures:
        parts += [_LENGTH.pack(len(picture)), picture]
    return b"".join(parts)


def read_window(data: bytes) -> tuple[WindowFacts, list[bytes]]:
    """Read a binary frame of a server.

    Raises:
        ProtocolError: when it is cut short, too long or of another kind.
    """
    cut = ProtocolError("a window is cut short or too long", Close.MALFORMED)
    try:
        kind, version, count, length = _WINDOW.unpack_from(data)
        if (kind, version) != (_WINDOW_KIND, VERSION):
            raise ProtocolError(
                "the head of a binary frame is not that of a window", Close.MALFORMED
            )
        at = _WINDOW.size + length
        facts = WindowFacts.model_validate_json(data[_WINDOW.size : at])
        pictures = []
        for _ in range(count):
            (size,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size + size
            pictures.append(data[at - size : at])
    except struct.error:
        raise cut from None
    except ValidationError:
        raise ProtocolError("the facts of a window cannot be read", Close.MALFORMED) from None
    if at != len(data):
        raise cut
    return facts, pictures


def description() -> dict[str, Any]:
    """Everything that a client written in another language needs, as JSON."""
    return {
        "version": VERSION,
        "subprotocol": SUBPROTOCOL,
        "path": PATH,
        "sound": {"kind": _SOUND_KIND, "head_bytes": _SOUND.size, "max_s": MAX_FRAME_S},
        "window": {"kind": _WINDOW_KIND, "head_bytes": _WINDOW.size},
        "rates_hz": [MIN_RATE_HZ, MAX_RATE_HZ],
        "states": [state.value for state in State],
        "close": {
            code.name.lower(): {"code": int(code), "meaning": code.meaning} for code in Close
        },
        "client": _CLIENT.json_schema(),
        "server": _SERVER.json_schema(),
        "window_facts": WindowFacts.model_json_schema(),
    }
