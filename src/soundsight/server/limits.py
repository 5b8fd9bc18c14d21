"""How much a server takes, and from whom: sizes, rates, tokens, origins, hosts."""

from __future__ import annotations

import hmac
import ipaddress
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from soundsight.core.errors import ConfigError

MAX_TOKEN = 512


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one server process.

    Attributes:
        max_speed: seconds of sound a second that a stream may send.
        burst_s: seconds of sound that it may send at once.
        frames_per_s: messages that a stream may send a second, and at once.
        hello_s: seconds in which a stream must say hello.
        silent_s: seconds without sound after which a stream is closed.
        memory_bytes: a body up to this long is kept in memory, a longer one in an unnamed file.
        max_jobs: uploads that are worked on at once.
        max_waiting: further uploads that may wait for their turn.
        max_pictures: most pictures of one answer.
        body_idle_s: seconds without a byte after which an upload is given up.
        body_s: seconds in which a body must have come.
        body_bytes_per_s: mean rate that a body must keep after its first ``body_idle_s``.
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
    """A token bucket: so much a second flows in, so much it holds; it is full at first."""

    def __init__(self, per_s: float, capacity: float) -> None:
        self._per_s = per_s
        self._capacity = self._left = capacity
        self._at = time.monotonic()

    def take(self, amount: float) -> bool:
        """Take an amount; false where there is less."""
        now = time.monotonic()
        self._left = min(self._capacity, self._left + (now - self._at) * self._per_s)
        self._at = now
        if amount > self._left:
            return False
        self._left -= amount
        return True


class Access:
    """Who may use the server.

    Args:
        token: what a client must show; None lets in everybody who reaches the port.
        origins: pages of other origins that may use the server, such as ``https://a.example``.
        hosts: names of the server, beside literal addresses, localhost and this machine's name.

    Raises:
        ConfigError: when an origin is none, or the token is empty, too long or no plain text.
    """

    def __init__(
        self,
        token: str | None = None,
        origins: list[str] | None = None,
        hosts: tuple[str, ...] = (),
    ) -> None:
        if token is not None and not (token and token.isascii() and token.isprintable()):
            raise ConfigError("the token must be plain printable ASCII text, at least one letter")
        if token is not None and len(token) > MAX_TOKEN:
            raise ConfigError(f"the token has {len(token)} letters: at most {MAX_TOKEN} are taken")
        self.token = token
        self.origins = frozenset(map(_checked_origin, origins or []))
        own = socket.gethostname().lower()
        of_origins = {urlsplit(origin).hostname or "" for origin in self.origins}
        self._hosts = {"localhost", own, f"{own}.local", *hosts, *of_origins}

    def knows(self, token: str | None) -> bool:
        """Whether a token is right; compared in constant time."""
        if self.token is None:
            return True
        return hmac.compare_digest((token or "").encode("utf-8", "replace"), self.token.encode())

    def knows_bearer(self, headers: Mapping[str, str]) -> bool:
        """Whether the ``Authorization`` header of a request shows the token."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return self.token is None or (scheme.lower() == "bearer" and self.knows(token.strip()))

    def allows_host(self, host: str) -> bool:
        """Whether the server goes by the name in a ``Host`` header.

        A page of another site can point its own name at this machine (DNS rebinding) and would
        then pass for a page of this server. A literal address cannot be pointed elsewhere.
        """
        parts = _split(f"//{host}")
        name = (parts.hostname or "").lower() if parts else ""
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def allows_origin(self, origin: str | None, host: str, scheme: str) -> bool:
        """Whether a page may send a request or open a stream.

        Programs other than browsers send no origin. ``null``, the origin of a sandboxed page or a
        file, is refused.
        """
        if origin is None:
            return True
        parts = _split(origin)
        if parts is None:
            return False
        own_scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
        # Behind a proxy that ends TLS the page says https and the server sees http.
        if parts.scheme in (own_scheme, "https") and parts.netloc.lower() == host.lower():
            return True
        return origin.lower().rstrip("/") in self.origins


def _split(url: str) -> SplitResult | None:
    """The parts of a URL with a host; None where it is none."""
    try:
        parts = urlsplit(url)
        return parts if parts.netloc else None
    except ValueError:
        return None


def _checked_origin(text: str) -> str:
    origin = text.strip().lower().rstrip("/")
    parts = _split(origin)
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or f"{parts.scheme}://{parts.netloc}" != origin
    ):
        raise ConfigError(
            f"{text!r} is no origin: write it as a browser does, such as https://example.org:8443"
        )
    return origin
