"""Streams over a real socket: what is answered, and what ends badly meant ones."""

from __future__ import annotations

from typing import Any


def test_unharmed(server: Any) -> None:
    server.unharmed()
    assert server.faults() == []
