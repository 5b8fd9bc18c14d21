"""``soundsight.Client``: a server's REST API and its stream, from Python.

::

    with Client("http://127.0.0.1:8000") as client:
        (imagined,) = client.translate("dog.wav")
"""

from __future__ import annotations

import base64
import contextlib
import io
import ipaddress
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soundsight.core.errors import AudioError, ConfigError, ServerError, first_line, require_extra
from soundsight.core.files import atomic_file
from soundsight.core.state import State

if TYPE_CHECKING:
    import httpx
    from websockets.sync.client import ClientConnection

    from soundsight.core.protocol import Hello, WindowFacts

_T = TypeVar("_T")

_FRAMES_PER_S = 32
_STREAM_TIMEOUT_S = 30.0

_OWN_NAMES = re.compile(
    r"(.+\.)?localhost|localhost[46]?(\.localdomain[46]?)?|ip6-(localhost|loopback)"
)
"""Common names of the loopback address."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Imagined:
    """One picture of one second.

    Attributes:
        image: uint8 [px, px, 3].
        second: where the second starts, in seconds.
        draw: which of the pictures of its second this is, from 0.
        state: whether it is a picture, the pictogram of an alert that is named and not drawn, or
            the calm one that stands for none.
        name: what it probably is, in the model's words; may be empty.
        second_guess: what else it may be; empty where nothing else is near.
        confidence: how sure that is, in [0, 1]; None where it is not known.
        ood_score: how far the sound is from the known kinds, in [0, 1]; None where it is not known.
        level_dbfs: level of the second, in dB re full scale.
        warnings: what is to be told of the file, a line each: that it is damaged or cut short, or
            holds several sound tracks.
    """

    image: NDArray[np.uint8]
    second: float
    draw: int
    state: State
    name: str
    second_guess: str
    confidence: float | None
    ood_score: float | None
    level_dbfs: float
    warnings: tuple[str, ...] = ()


class Client:
    """Connection to a running ``soundsight serve``.

    A server on this machine is reached directly, whatever proxies the environment names.

    Args:
        url: its address, as it prints it; a token behind ``#token=`` is taken from there.
        token: the token of the server, if it has one.
        timeout_s: seconds without an answer after which a request is given up.
        verify: False, or the path of a certificate, for a server with a certificate of its own.

    Raises:
        ConfigError: when ``url`` is no address of a server.
        MissingExtraError: when httpx is not installed.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        token: str | None = None,
        *,
        timeout_s: float = 120.0,
        verify: bool | str = True,
    ) -> None:
        require_extra("soundsight.Client", "serve", "httpx")
        import httpx

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is no server's address: write http://HOST:PORT")
        self.url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        given = parts.fragment.removeprefix("token=") if "token=" in parts.fragment else None
        self._token = token if token is not None else given
        self._tls: Any = verify
        if isinstance(verify, str):
            try:
                self._tls = ssl.create_default_context(cafile=verify)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"{verify} is no certificate: {first_line(error)}") from None
        self._is_here = is_this_machine(parts.hostname)
        headers = {} if self._token is None else {"authorization": f"Bearer {self._token}"}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout_s, verify=self._tls,
            # None takes the place of the proxies that the environment names.
            mounts={f"{parts.scheme}://": None} if self._is_here else None,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def translate(
        self,
        sound: str | os.PathLike[str] | bytes | ArrayLike,
        rate_hz: int | None = None,
        *,
        each_second: bool = False,
        draws: int = 1,
        seed: int = 0,
        anyway: bool = False,
        track: int | None = None,
        strict: bool = False,
    ) -> list[Imagined]:
        """Imagine a sound, as ``Translator.translate`` does.

        Args:
            sound: a path, the bytes of a sound or video file, or samples [t] or [t, channels].
            rate_hz: rate of the samples, in hertz; needed for samples alone.
            each_second: every second, instead of the sound as a whole.
            draws: pictures of the sound, or of each second.
            seed: another seed imagines another picture.
            anyway: draw sounds of no known kind, too.
            track: which sound track of a file, from 1; None takes the first that sounds.
            strict: refuse what is damaged, instead of using what can be read.

        Raises:
            ServerError: with the server's message, when it cannot be reached or refuses.
            AudioError: when ``sound`` is a path that cannot be read, or no sound.
            ConfigError: when samples come without their rate.
        """
        options = {
            "each_second": each_second, "draws": draws, "seed": seed, "anyway": anyway,
            "strict": strict, "track": track,
        }  # fmt: skip
        return self._json("POST", "/v1/translate", _imagined, options, _body(sound, rate_hz))

    def model(self) -> dict[str, Any]:
        """Facts about the model that the server has.

        Raises:
            ServerError: when the server cannot be reached or refuses.
        """
        return self._json("GET", "/v1/model", dict)

    def ready(self) -> bool:
        """Whether the server takes new streams and requests; False where there is none."""
        with contextlib.suppress(ServerError), self._asked("GET", "/readyz"):
            return True
        return False

    def storyboard(
        self,
        sound: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        sensitivity: float = 0.5,
        seed: int = 0,
        track: int | None = None,
        strict: bool = False,
    ) -> Path:
        """Find what happened in a file, and write it whole or not at all.

        Args:
            sound: a sound or video file.
            out: its suffix says what is made: .png, .mp4, .html or .json.
            sensitivity: 0 (only what is loud and sure) to 1.
            seed: another seed imagines other pictures.
            track, strict: see ``translate``.

        Returns:
            The path that was written.

        Raises:
            ServerError: when the server cannot be reached or refuses.
            AudioError: when ``sound`` cannot be read.
            ConfigError: on another suffix.
            OutputError: when ``out`` cannot be written.
        """
        from soundsight.views.event_files import SUFFIXES

        path = Path(out)
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise ConfigError(f"{path}: the suffix is one of {', '.join(SUFFIXES)}")
        body = _body(os.fspath(sound), None)
        options = {
            "format": suffix.removeprefix("."), "sensitivity": sensitivity, "seed": seed,
            "strict": strict, "track": track, "name": body[1],
        }  # fmt: skip
        with (
            body[0],
            atomic_file(path) as temporary,
            self._asked("POST", "/v1/storyboard", options, body) as answer,
            temporary.open("wb") as written,
        ):
            for part in answer.iter_bytes():
                written.write(part)
        return path

    @contextlib.contextmanager
    def _asked(
        self,
        method: str,
        path: str,
        options: dict[str, Any] | None = None,
        body: tuple[IO[bytes], str] | None = None,
    ) -> Iterator[httpx.Response]:
        """The answer to a request, read within the block; what goes wrong, in words."""
        import httpx

        given = {name: value for name, value in (options or {}).items() if value is not None}
        file, name = body or (contextlib.nullcontext(), "")
        files = {"sound": (name, file)} if body else None
        try:
            with file, self._http.stream(method, path, params=given, files=files) as answer:  # type: ignore[arg-type]
                if answer.is_error:
                    answer.read()
                    try:
                        message = str(answer.json()["error"]["message"])
                    except (ValueError, KeyError, TypeError):
                        message = f"it answered {answer.status_code}: is it a soundsight server?"
                    raise ServerError(f"{answer.url.host}: {first_line(ValueError(message))}")
                yield answer
        except httpx.TimeoutException:
            raise ServerError(
                f"{self.url} does not answer in time: try again, or raise timeout_s"
            ) from None
        except httpx.HTTPError as error:
            reason = first_line(error)
            why = f"cannot reach {self.url} ({reason}): is  soundsight serve  running there?"
            if "CERTIFICATE" in reason:
                why = f"{self.url} has a certificate of its own: pass verify=, its path or False"
            raise ServerError(why) from None

    def _json(self, method: str, path: str, read: Callable[[Any], _T], *how: Any) -> _T:
        """What is read of an answer's JSON."""
        with self._asked(method, path, *how) as answer:
            answer.read()
            try:
                return read(answer.json())
            except (ValueError, KeyError, TypeError, OSError):  # OSError: no picture
                raise ServerError(
                    f"{self.url} answers something else: is it a soundsight server?"
                ) from None

    def stream(
        self,
        blocks: Iterable[ArrayLike],
        rate_hz: int,
        *,
        hop_s: float = 0.25,
        draws: int = 1,
        sensitivity: float = 0.5,
        seed: int = 0,
    ) -> Iterator[tuple[WindowFacts, list[bytes]]]:
        """Windows of a live signal, as the server answers them.

        Args:
            blocks: [t] each, int16 or floats of full scale 1, mono, as they come. A signal that
                comes faster than in real time is refused after some seconds.
            rate_hz: sampling rate of the blocks, 8,000 to 192,000 Hz.
            hop_s: seconds between windows: 0.25, 0.5, 0.75 or 1.
            draws: pictures of each event, 1 to 4.
            sensitivity: 0 (shows only what is loud and sure) to 1.
            seed: another seed imagines other pictures.

        Yields:
            Each window, see ``docs/protocol.md``, and its pictures as JPEG.

        Raises:
            ServerError: when the server cannot be reached, refuses or goes away.
            AudioError: when a block is no sound.
        """
        require_extra("soundsight.Client.stream", "serve", "websockets", "pydantic")
        from pydantic import ValidationError
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        from soundsight.core import protocol

        try:
            hello = protocol.Hello(
                rate_hz=rate_hz, hop_s=hop_s, draws=draws, sensitivity=sensitivity, seed=seed,
                token=self._token, client="python",
            )  # fmt: skip
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ConfigError(f"{first['loc'][0]}: {first['msg']}") from None
        tls = self._tls
        if isinstance(tls, bool):
            tls = ssl.create_default_context()
            if not self._tls:
                tls.check_hostname = False
                tls.verify_mode = ssl.CERT_NONE
        try:
            socket = connect(
                "ws" + self.url.removeprefix("http") + protocol.PATH,
                subprotocols=[protocol.SUBPROTOCOL],  # type: ignore[list-item]
                compression=None,
                open_timeout=_STREAM_TIMEOUT_S,
                # True takes the proxy of the environment.
                proxy=None if self._is_here else True,
                ssl=tls if self.url.startswith("https") else None,
            )
        except (OSError, WebSocketException, TimeoutError) as error:
            raise ServerError(f"cannot open a stream at {self.url}: {first_line(error)}") from None
        with socket:
            yield from _windows(socket, hello, blocks)


def _windows(
    socket: ClientConnection, hello: Hello, blocks: Iterable[ArrayLike]
) -> Iterator[tuple[WindowFacts, list[bytes]]]:
    """Send the sound on a thread of its own, and give out the windows that come."""
    from websockets.exceptions import ConnectionClosed

    from soundsight.core import protocol

    errors: list[str] = []
    failures: list[Exception] = []

    def send() -> None:
        try:
            _send_sound(socket, hello, blocks)
        except ConnectionClosed:
            pass  # the reader knows why
        except Exception as error:  # the caller's own: its blocks may come from anywhere
            failures.append(error)
            socket.close()

    try:
        socket.send(hello.model_dump_json())
        first = protocol.read_server_text(str(socket.recv(timeout=_STREAM_TIMEOUT_S)))
        if isinstance(first, protocol.Error):
            raise ServerError(first.message)
        # The blocks may be a microphone that waits: windows are given out meanwhile.
        threading.Thread(target=send, daemon=True).start()
        for message in socket:
            if isinstance(message, bytes):
                yield protocol.read_window(message)
                continue
            text = protocol.read_server_text(message)
            if isinstance(text, protocol.Error):
                errors.append(text.message)
    except ConnectionClosed:
        pass
    except (protocol.ProtocolError, TimeoutError) as error:
        raise ServerError(f"the server is not understood: {first_line(error)}") from None
    finally:
        with contextlib.suppress(Exception):
            socket.close()
    if failures:
        raise failures[0]
    if errors:
        raise ServerError(errors[-1])
    if socket.close_code not in (None, protocol.Close.DONE):
        reason = socket.close_reason or f"code {socket.close_code}"
        raise ServerError(f"the stream has broken off: {reason}")


def _send_sound(socket: ClientConnection, hello: Hello, blocks: Iterable[ArrayLike]) -> None:
    """Cut the blocks into frames and send them, and the end."""
    from soundsight.core import protocol

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
    samples: NDArray[np.int16] = np.rint(np.clip(block, -1, 1) * 32767).astype(np.int16)
    return samples


def is_this_machine(host: str) -> bool:
    """Whether a host's name or address means this machine; no name server is asked."""
    name = host.lower().rstrip(".")
    if _OWN_NAMES.fullmatch(name):
        return True
    with contextlib.suppress(ValueError, OSError):
        if re.fullmatch(r"[0-9a-fx.]+", name):  # 127.1 and 0x7f000001 are addresses, too
            name = socket.inet_ntoa(socket.inet_aton(name))
        address = ipaddress.ip_address(name.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address.is_unspecified
    return False


def _body(sound: Any, rate_hz: int | None) -> tuple[IO[bytes], str]:
    """An open file of what is sent, and its name."""
    if isinstance(sound, (str, os.PathLike)):
        if rate_hz is not None:
            raise ConfigError("a file knows its own rate: leave rate_hz out")
        path = Path(sound)
        try:
            return path.open("rb"), path.name
        except FileNotFoundError:
            raise AudioError(f"{path} does not exist: check the path") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise AudioError(f"cannot read {path}: {reason}") from None
    if isinstance(sound, (bytes, bytearray, memoryview)):
        return io.BytesIO(bytes(sound)), "sound"
    if rate_hz is None:
        raise ConfigError("samples in memory need their rate: pass rate_hz, a whole number of Hz")
    from soundsight.media.audio import from_array
    from soundsight.media.mel import DEFAULT
    from soundsight.media.voice import write_samples

    file = io.BytesIO()
    write_samples(file, from_array(sound, rate_hz), DEFAULT.rate_hz, "wav")
    file.seek(0)
    return file, "samples.wav"


def _imagined(told: Any) -> list[Imagined]:
    """Read the answer to a translation."""
    from PIL import Image

    found = []
    for values in told["pictures"]:
        with Image.open(io.BytesIO(base64.b64decode(values["png"]))) as picture:
            image = np.asarray(picture.convert("RGB"), np.uint8)
        found.append(
            Imagined(
                image=image,
                second=float(values["second"]),
                draw=int(values["draw"]),
                state=State(values["state"]),
                name=str(values["name"]),
                second_guess=str(values["second_guess"]),
                confidence=values["confidence"],
                ood_score=values["ood_score"],
                level_dbfs=float(values["level_dbfs"]),
                warnings=tuple(map(str, told["warnings"])),
            )
        )
    return found
