"""The application: routes, header fields, who is let in, start and stop.

Import law of this folder: ``errors, limits, metrics, tls <- engine, decoding, uploads <- stream
<- rest <- app``; the command ``cli/serve.py`` runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from soundsight import __version__
from soundsight.core import protocol
from soundsight.core.errors import ConfigError
from soundsight.core.units import FRAMES_PER_SEGMENT, N_MELS
from soundsight.runtime.translator import Translator
from soundsight.server import rest
from soundsight.server.decoding import Decoder
from soundsight.server.engine import Engine
from soundsight.server.errors import HEADERS, SERVER_FAULT, STOPPING, ApiError, add_error_handlers
from soundsight.server.limits import Access, Limits
from soundsight.server.metrics import Metrics
from soundsight.server.stream import Streams
from soundsight.server.uploads import Jobs

_LOG = logging.getLogger("soundsight.server")

_STATIC = Path(__file__).parent / "static"

_OPEN = frozenset(("/", "/file", "/healthz", "/readyz", "/favicon.ico"))
"""Paths that need no token: the pages themselves, which have to ask for one, and the probes."""


def create_app(
    access: Access,
    limits: Limits,
    *,
    model: Path | Translator | None = None,
    workers: int = 2,
    root_path: str = "",
) -> FastAPI:
    """Make the application. The model is loaded and warmed up when it starts.

    Args:
        model: a model folder, or a translator of one thread; None takes the bundled folder.
        workers: threads that imagine; more than the process has CPUs are of no use.
        root_path: the path under which it lies at its proxy, such as ``/sound``; the proxy may
            strip it or leave it.

    Raises:
        ConfigError: when the root path begins like one of the application's own paths: for such a
            request it could not be said whether the proxy has stripped the root path.
        ModelError: at its start, when the model folder is unusable.
    """
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        translator = model
        if not isinstance(translator, Translator):
            translator = await asyncio.to_thread(Translator.load, translator, 1)
        decoder = Decoder(limits)
        await asyncio.to_thread(decoder.warm_up)
        # The first picture must not wait for what networks do in their first run.
        mel = np.full((1, N_MELS, FRAMES_PER_SEGMENT), 128, np.uint8)
        await asyncio.to_thread(translator.ood_scores, mel)
        await asyncio.to_thread(translator.imagine, mel)
        engine = Engine(translator, workers, metrics)
        streams = Streams(engine, access, limits, metrics)
        app.state.services = rest.Services(
            translator=translator,
            decoder=decoder,
            jobs=Jobs(limits, metrics),
            streams=streams,
            limits=limits,
            metrics=metrics,
        )
        try:
            yield
        finally:
            await streams.leave()
            decoder.close()  # uploads that are still worked on end with their decoders
            await asyncio.to_thread(engine.stop)

    app = _App(
        with_token=access.token is not None,
        title="soundsight",
        version=__version__,
        summary="Turns sound into sight: hears a second of sound and imagines the scene.",
        # Swagger's and Redoc's pages fetch scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        lies_under=root_path,
    )
    app.state.services = None
    app.include_router(rest.router)
    _add_pages(app)
    add_error_handlers(app)
    first = root_path.split("/")[1:2]
    # FastAPI's newer versions do not list the routes of a router among those of its application.
    routes = [*app.routes, *rest.router.routes]
    if first and any(getattr(route, "path", "").split("/")[1:2] == first for route in routes):
        raise ConfigError(f"--root-path: /{first[0]} is the server's own, choose another path")
    # The middleware that is added last comes first.
    app.add_middleware(_Gate, access=access, metrics=metrics)
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["content-disposition", "retry-after"],
        )
    return app


class _App(FastAPI):
    """An application that may lie under a path, and whose description says what needs a token."""

    def __init__(self, *, with_token: bool, lies_under: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._with_token = with_token
        self._root = lies_under

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, with the header fields of every response, also of refusals."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        path: str = scope["path"]
        if root := self._root:
            if f"{path}/".startswith(f"{root}/"):
                path = path.removeprefix(root)
            else:  # the proxy has stripped it
                scope = {**scope, "path": root + path}
            scope = {**scope, "root_path": root}
        is_api = path.startswith("/v1/") or path in ("/metrics", "/healthz", "/readyz")

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store" if is_api else "no-cache")
            await send(message)

        await super().__call__(scope, receive, send_with_fields)

    def openapi(self) -> dict[str, Any]:
        """The description of the API."""
        schema = super().openapi()
        if self._with_token:
            token = {"token": {"type": "http", "scheme": "bearer"}}
            schema["components"]["securitySchemes"] = token
            for path, methods in schema["paths"].items():
                for operation in methods.values():
                    operation["security"] = [] if path in _OPEN else [{"token": []}]
        return schema


class _Gate:
    """Refuses streams and requests of strangers, counts requests, and answers those that fail."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        error = self._refusal(HTTPConnection(scope))
        if error is not None:
            self._metrics.refusals.labels(error.code).inc()
        if scope["type"] == "websocket":
            if error is None:
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close"})  # before it is accepted: HTTP 403
            return
        if scope["method"] == "HEAD":
            # Answered as GET is; the connection leaves the body out.
            scope = {**scope, "method": "GET"}
        began = time.perf_counter()
        status = 0

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if error is None:
                await self._app(scope, receive, send_counted)
        except asyncio.CancelledError:
            # Only a server that can wait no longer cancels requests; uvicorn would log a traceback.
            error = ApiError(503, "not_ready", STOPPING)
        except Exception:
            _LOG.exception("a request has failed")
            error = ApiError(500, "fault", SERVER_FAULT)
        if error is not None and not status:
            await error.response()(scope, receive, send_counted)
        route = getattr(scope.get("route"), "path", "other")
        took_s = time.perf_counter() - began
        self._metrics.requests.labels(route, str(status)).observe(took_s)

    def _refusal(self, request: HTTPConnection) -> ApiError | None:
        host, access = request.headers.get("host", ""), self._access
        if not access.allows_host(host):
            return ApiError(
                403, "host", "the server is not known by this name: start it with --origin"
            )
        if not access.allows_origin(request.headers.get("origin"), host, request.scope["scheme"]):
            return ApiError(403, "origin", "pages of this origin may not use the server")
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        # A stream shows the token in its hello.
        is_stream = request.scope["type"] == "websocket"
        if is_stream or path in _OPEN or path.startswith("/static/"):
            return None
        if not access.knows_bearer(request.headers):
            return ApiError(401, "token", "the token is missing or wrong")
        if request.app.state.services is None:
            return ApiError(503, "not_ready", "the server starts: try again")
        return None


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def live() -> FileResponse:
        return FileResponse(_STATIC / "index.html")

    @app.get("/file", include_in_schema=False)
    async def file() -> FileResponse:
        return FileResponse(_STATIC / "file.html")

    @app.get("/static/protocol.json", include_in_schema=False)
    async def protocol_json() -> JSONResponse:
        return JSONResponse(protocol.description())

    @app.websocket(protocol.PATH)
    async def stream(socket: WebSocket) -> None:
        await socket.app.state.services.streams.handle(socket)

    # The storyboard's script and style belong to the saved page, too.
    files = StaticFiles(directory=_STATIC, packages=[("soundsight", "assets/board")])
    app.mount("/static", files, name="static")
