"""Who may come in, and how much of it."""

from __future__ import annotations

import hmac
import socket

import pytest

from soundsight.core.errors import ConfigError
from soundsight.server import limits
from soundsight.server.limits import MAX_TOKEN, Access, Bucket

OWN = socket.gethostname().lower()


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8000", True), ("localhost", True), ("LOCALHOST:1", True), ("[::1]:8000", True),
        ("192.168.1.7:8000", True), (OWN, True), (f"{OWN}.local:8443", True),
        ("page.example:8000", True), ("evil.example", False), ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False), ("localhost.evil.example", False), ("", False),
        (":8000", False), ("[::1", False), ("127.0.0.1@evil.example", False), ("0x7f.1", False),
        ("local host", False), ("[v1.x]", False),
    ],
)  # fmt: skip
def test_names_of_this_machine(host: str, known: bool) -> None:
    """A page elsewhere may point its own name at this machine: that name is refused."""
    access = Access(origins=["https://page.example"])
    assert access.allows_host(host) is known


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "known"),
    [
        (None, "127.0.0.1:8000", "ws", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", "ws", True),
        ("http://LocalHost:8000", "localhost:8000", "http", True),
        ("https://localhost:8000", "localhost:8000", "wss", True),
        # Behind a proxy that ends TLS.
        ("https://localhost:8000", "localhost:8000", "ws", True),
        ("http://localhost:8000", "localhost:8000", "wss", False),
        ("http://localhost:8001", "localhost:8000", "ws", False),
        ("http://localhost", "localhost:8000", "ws", False),
        ("http://127.0.0.1:8000", "localhost:8000", "ws", False),
        ("null", "localhost:8000", "ws", False),
        ("", "localhost:8000", "ws", False),
        ("file://", "localhost:8000", "ws", False),
        ("http://[", "localhost:8000", "ws", False),
        ("ftp://localhost:8000", "localhost:8000", "ws", False),
        ("https://page.example", "localhost:8000", "ws", True),
        ("https://PAGE.example/", "localhost:8000", "ws", True),
        ("http://page.example", "localhost:8000", "ws", False),
        ("https://page.example:444", "localhost:8000", "ws", False),
        ("https://page.example.evil.example", "localhost:8000", "ws", False),
        ("https://evil.example", "localhost:8000", "ws", False),
    ],
)
def test_pages(origin: str | None, host: str, scheme: str, known: bool) -> None:
    access = Access(origins=["https://page.example"])
    assert access.allows_origin(origin, host, scheme) is known


@pytest.mark.parametrize(
    "origin",
    ["page.example", "https://", "https://page.example/a", "*", "null", "", "ftp://a", "http://["],
)
def test_an_origin_that_is_none(origin: str) -> None:
    with pytest.raises(ConfigError, match="is no origin"):
        Access(origins=[origin])


@pytest.mark.parametrize("token", ["", "tökén", "a\nb", "\x00", "x" * (MAX_TOKEN + 1)])
def test_a_token_that_is_none(token: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        Access(token)


def test_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def watched(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return hmac_compare(a, b)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(limits.hmac, "compare_digest", watched)
    access = Access("secret")
    assert access.knows("secret")
    for shown in (None, "", "secre", "secrets", "SECRET", "sécret"):
        assert not access.knows(shown)
    assert len(compared) == 7  # each in constant time
    assert Access().knows(None)
    assert Access().knows("anything")
    for header in ("Bearer secret", "bearer  secret ", "BEARER secret"):
        assert access.knows_bearer({"authorization": header})
    for header in ("", "secret", "Basic secret", "Bearer", "Bearer secre", "Bearersecret"):
        assert not access.knows_bearer({"authorization": header})
    assert not access.knows_bearer({})
    assert Access().knows_bearer({})


def test_a_bucket_fills_up_to_its_rim(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    bucket = Bucket(2.0, 5.0)
    assert bucket.take(5.0)
    assert not bucket.take(0.1)
    now[0] += 1.0
    assert bucket.take(2.0)
    assert not bucket.take(0.1)
    now[0] += 3600.0  # an hour of patience is no hour of sound at once
    assert not bucket.take(5.1)
    assert bucket.take(5.0)
