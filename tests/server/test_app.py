"""The application itself, as a server calls it: what becomes of a request that is cancelled."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from soundsight.core.errors import ConfigError
from soundsight.server.app import create_app
from soundsight.server.limits import Access, Limits

PATIENCE_S = 60


@pytest.mark.parametrize("path", ["/v1/translate", "/v1/storyboard"])
def test_a_server_whose_patience_has_ended(path: str, tiny_model: Path) -> None:
    """A request that is cancelled gets an answer, and its seat is free."""

    async def play() -> None:
        app = create_app(Access(), Limits(), model=tiny_model, workers=1)
        sent: list[Any] = []
        waiting = asyncio.Event()

        async def receive() -> Any:
            waiting.set()
            await asyncio.Event().wait()  # a body that never comes

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        }  # fmt: skip
        async with app.router.lifespan_context(app):
            request = asyncio.create_task(app(scope, receive, send))  # type: ignore[arg-type]
            await waiting.wait()
            assert app.state.services.jobs._present == 1
            request.cancel()
            await request
            assert app.state.services.jobs._present == 0
        start, *bodies = sent
        assert start["status"] == 503
        body = json.loads(b"".join(message["body"] for message in bodies))
        assert body["error"]["code"] == "not_ready"
        assert "the server stops" in body["error"]["message"]

    asyncio.run(asyncio.wait_for(play(), PATIENCE_S))


@pytest.mark.parametrize("path", ["/file", "/v1", "/v1/x", "/static", "/metrics", "/openapi.json"])
def test_a_root_path_that_begins_like_a_path_of_the_server(path: str) -> None:
    """Of ``/file`` nobody could say whether the proxy has taken off a ``/file`` before it."""

    def create(root_path: str) -> None:
        create_app(Access(), Limits(), root_path=root_path)

    with pytest.raises(ConfigError, match="is the server's own, choose another path"):
        create(path)
    create(f"/sound{path}")
    create("/s" + path.removeprefix("/"))
