"""What a server accepts, and from whom: sizes, rates, tokens, origins, hosts, addresses."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from soundsight.core.errors import ConfigError

MAX_TOKEN = 512


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one server process.

    Attributes:
        max_streams: streams at once.
        max_streams_per_address: streams at once of one address.
        max_speed: a stream may send this many seconds of sound a second ...
        burst_s: ... and so many seconds at once, as often as it has sent slower for as long.
        frames_per_s: frames a second, and as many at once.
        hello_s: seconds in which a stream must say hello.
        silent_s: seconds without sound after which a stream is closed.
        max_connections: connections at once, of all kinds.
        max_upload_bytes: longest body.
        memory_bytes: a body up to this long is kept in memory, a longer one in a private file.
        max_jobs: uploads that are worked on at once.
        max_waiting: further uploads that may wait for their turn.
        max_duration_s: longest sound of an upload.
        max_pictures: most pictures of one answer.
        body_idle_s: seconds without a byte after which an upload is given up.
        body_s: seconds in which a body must have come.
        body_bytes_per_s: pace that a body must keep, after its first ``body_idle_s``.
        decode_idle_s: seconds that a decoder may take for one block.
        decode_memory_bytes: memory that a decoder may take on top of its libraries.
    """

    max_streams: int = 64
    max_streams_per_address: int = 64
    max_speed: float = 2.0
    burst_s: float = 10.0
    frames_per_s: int = 800
    hello_s: float = 5.0
    silent_s: float = 30.0
    max_connections: int = 1024
    max_upload_bytes: int = 1 << 30
    memory_bytes: int = 16 << 20
    max_jobs: int = 2
    max_waiting: int = 16
    max_duration_s: float = 4 * 3600.0
    max_pictures: int = 600
    body_idle_s: float = 30.0
    body_s: float = 1800.0
    body_bytes_per_s: int = 1024
    decode_idle_s: float = 30.0
    decode_memory_bytes: int = 768 << 20


class Bucket:
    """So much a second, and so much at once.

    Args:
        per_s: what flows in.
        most: what it holds; it is full at first.
    """

    def __init__(self, per_s: float, most: float) -> None:
        self._per_s = per_s
        self._most = most
        self._left = most
        self._at = time.monotonic()

    def take(self, amount: float) -> bool:
        """Take an amount; false where it is not there."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        if amount > self._left:
            return False
        self._left -= amount
        return True


class Access:
    """Who may talk to the server.

    Args:
        token: what a client must show; None lets everybody in who reaches the port.
        origins: pages of other origins that may use the server, such as ``https://a.example``.
        hosts: names under which the server may be addressed, beside literal addresses, localhost
            and this machine's own name.

    Raises:
        ConfigError: when an origin is none, or the token is empty or no plain text.
    """

    def __init__(
        self,
        token: str | None = None,
        origins: list[str] | None = None,
        hosts: tuple[str, ...] = (),
    ) -> None:
        if token is not None and (not token.isascii() or not token.isprintable() or not token):
            raise ConfigError("the token must be plain printable ASCII text, at least one letter")
        if token is not None and len(token) > MAX_TOKEN:
            raise ConfigError(f"the token has {len(token)} letters: at most {MAX_TOKEN} are taken")
        self.token = token
        self.origins = frozenset(_origin(text) for text in origins or [])
        own = socket.gethostname().lower()
        named = {urlsplit(origin).hostname or "" for origin in self.origins}
        self._hosts = {"localhost", own, f"{own}.local", *hosts, *named}

    def knows(self, shown: str | None) -> bool:
        """Compare a token in constant time."""
        if self.token is None:
            return True
        return hmac.compare_digest((shown or "").encode("utf-8", "replace"), self.token.encode())

    def bearer(self, headers: Mapping[str, str]) -> bool:
        """Check the ``Authorization`` header of a request."""
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        return self.token is None or (scheme.lower() == "bearer" and self.knows(shown.strip()))

    def host(self, host: str) -> bool:
        """Tell whether a ``Host`` header may be answered.

        A page of another site can point its own name at this machine (DNS rebinding) and would
        then pass for a page of ours: names that are not ours are refused. A literal address cannot
        be pointed elsewhere.
        """
        name = (urlsplit(f"//{host}").hostname or "").lower() if _readable(host) else ""
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def origin(self, origin: str | None, host: str, scheme: str) -> bool:
        """Tell whether a page may open a stream or send a request.

        Programs that are no browser send no origin. ``null``, of a sandboxed page or a file, is
        refused.
        """
        if origin is None:
            return True
        if not _readable(origin):
            return False
        parts = urlsplit(origin)
        secure = {"ws": "http", "wss": "https"}.get(scheme, scheme)
        # Behind a proxy that ends TLS the page's scheme is another than ours.
        if parts.scheme in (secure, "https") and parts.netloc.lower() == host.lower():
            return True
        return origin.lower().rstrip("/") in self.origins


def _readable(text: str) -> bool:
    try:
        return bool(urlsplit(text if "//" in text else f"//{text}").netloc)
    except ValueError:
        return False


def _origin(text: str) -> str:
    clean = text.strip().lower().rstrip("/")
    parts = urlsplit(clean) if _readable(clean) else None
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or f"{parts.scheme}://{parts.netloc}" != clean
    ):
        raise ConfigError(
            f"{text!r} is no origin: write it as a browser does, such as https://example.org:8443"
        )
    return clean


class Seats:
    """Counts the streams of a server and of each address. Used on one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """Streams that are open."""
        return self._taken.total()

    @contextlib.contextmanager
    def take(self, address: str) -> Iterator[str]:
        """Take a seat while the block runs.

        Yields:
            empty, or in one line why there is none.
        """
        if self.taken >= self._limits.max_streams:
            yield f"the server is full ({self._limits.max_streams} streams): try again later"
            return
        if self._taken[address] >= self._limits.max_streams_per_address:
            yield (
                f"{self._limits.max_streams_per_address} streams are open from this address: "
                "close one"
            )
            return
        self._taken[address] += 1
        try:
            yield ""
        finally:
            self._taken[address] -= 1
            if not self._taken[address]:
                del self._taken[address]
