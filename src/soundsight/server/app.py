"""The application: routes, what every answer carries, start and stop.

Import law of this folder: ``answers, limits, metrics, protocol, tls <- connections, engine,
decoding, uploads <- streams, jobs <- rest, storyboards <- app``; the command ``cli/serve.py``
runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders, State
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from soundsight import __version__
from soundsight.core import protocol
from soundsight.core.errors import ConfigError, SoundsightError
from soundsight.core.units import FRAMES_PER_SEGMENT, N_MELS
from soundsight.runtime.translator import Translator
from soundsight.server import rest
from soundsight.server import storyboard as storyboards
from soundsight.server.decoding import Decoder
from soundsight.server.engine import Engine
from soundsight.server.errors import HEADERS, STOPS, RefusedError, told
from soundsight.server.jobs import Jobs
from soundsight.server.limits import Access, Limits
from soundsight.server.metrics import Metrics
from soundsight.server.rest import Services
from soundsight.server.stream import Streams

_LOG = logging.getLogger("soundsight.server")

STATIC = Path(__file__).parent / "static"

_OPEN = frozenset(("/", "/file", "/healthz", "/readyz", "/favicon.ico"))
"""Paths that need no token: the page itself, which has to ask for one, and the probes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerConfig:
    """What an application is made of.

    Attributes:
        model: a model folder, or a translator of one thread that has been loaded from one; None
            takes the bundled folder.
        access: who may talk to it.
        limits: how much is taken.
        workers: threads that imagine; at most the CPUs of the process is sensible.
        root_path: the path that it lies under at its proxy, such as ``/sound``; the proxy may take
            it off or leave it there.
    """

    model: Path | Translator | None = None
    access: Access
    limits: Limits
    workers: int = 2
    root_path: str = ""


def create_app(config: ServerConfig) -> FastAPI:
    """Make the application. The model is loaded and warmed up when it starts.

    Raises:
        ConfigError: when the root path begins like one of the application's own paths: of a request
            for that one nobody could say whether the proxy has taken the root path off.
        ModelError: at its start, when the model folder is unusable.
    """
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        translator = (
            config.model
            if isinstance(config.model, Translator)
            else await asyncio.to_thread(Translator.load, config.model, 1)
        )
        decoder = Decoder(config.limits)
        await asyncio.to_thread(decoder.warm_up)
        await asyncio.to_thread(_warm_up, translator)
        engine = Engine(translator, config.workers, metrics)
        streams = Streams(engine, config.access, config.limits, metrics)
        app.state.services = Services(
            translator=translator,
            decoder=decoder,
            jobs=Jobs(config.limits, metrics),
            streams=streams,
            limits=config.limits,
            metrics=metrics,
        )
        try:
            yield
        finally:
            await streams.leave()
            # Uploads that are still worked on end with their decoders.
            decoder.close()
            await asyncio.to_thread(engine.stop)

    app = _Described(
        with_token=config.access.token is not None,
        title="soundsight",
        version=__version__,
        summary="Turns sound into sight: hears a second of sound and imagines the scene.",
        # Their pages fetch scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        lies_under=config.root_path,
    )
    app.state.services = None
    app.include_router(rest.router)
    app.include_router(storyboards.router)
    _pages(app)
    _faults(app)

    @app.websocket(protocol.PATH)
    async def stream(socket: WebSocket) -> None:
        found: Services = socket.app.state.services
        await found.streams.handle(socket)

    first = config.root_path.split("/")[1:2]
    # FastAPI's newer versions do not list the routes of a router among those of its application.
    routes = [*app.routes, *rest.router.routes, *storyboards.router.routes]
    if first and any(getattr(route, "path", "").split("/")[1:2] == first for route in routes):
        raise ConfigError(f"--root-path: /{first[0]} is the server's own, choose another path")
    app.add_middleware(_Gate, access=config.access, metrics=metrics, app_state=app.state)
    if config.access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(config.access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["content-disposition", "retry-after"],
        )
    app.add_middleware(_Carrier)
    return app


class _Described(FastAPI):
    """An application that says which paths want a token, and that may lie under a path."""

    def __init__(self, *, with_token: bool, lies_under: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._with_token = with_token
        self._under = lies_under

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. A proxy may have taken the root path off, or left it there."""
        if self._under and scope["type"] != "lifespan":
            path: str = scope["path"]
            if not f"{path}/".startswith(f"{self._under}/"):
                path = self._under + path
            scope = {**scope, "root_path": self._under, "path": path}
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Describe the API."""
        told = super().openapi()
        if self._with_token:
            told["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, methods in told["paths"].items():
                for operation in methods.values():
                    operation["security"] = [] if path in _OPEN else [{"token": []}]
        return told


class _Carrier:
    """What every answer carries, whoever gives it. Plain ASGI: a stream of lines passes through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a WebSocket answers with frames
            await self._app(scope, receive, send)
            return
        path = _route_of(scope)

        async def carry(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store" if _is_api(path) else "no-cache")
            await send(message)

        await self._app(scope, receive, carry)


class _Gate:
    """Who comes in. Plain ASGI."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics, app_state: State) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics
        self._state = app_state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a WebSocket has its own gate
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # Answered as GET is; the connection leaves the body out.
            scope = {**scope, "method": "GET"}
        began = time.perf_counter()
        request = Request(scope)
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(request)
            if refusal is not None:
                self._metrics.refusals.labels(refusal.code).inc()
                answer = told(refusal.status, refusal.code, str(refusal))
                await answer(scope, receive, counted)
            else:
                await self._app(scope, receive, counted)
        except asyncio.CancelledError:
            # Only a server whose patience has ended cancels requests; it would log a traceback.
            if not status:
                await told(503, "not_ready", STOPS)(scope, receive, counted)
        except Exception:
            _LOG.exception("a request has failed")
            if not status:
                await told(500, "fault", "a fault of the server")(scope, receive, counted)
        finally:
            known = getattr(scope.get("route"), "path", "other")
            took_s = time.perf_counter() - began
            self._metrics.requests.labels(known, str(status)).observe(took_s)

    def _refusal(self, request: Request) -> RefusedError | None:
        host, access = request.headers.get("host", ""), self._access
        if not access.host(host):
            return RefusedError(
                403, "host", "the server is not known by this name: start it with --origin"
            )
        if not access.origin(request.headers.get("origin"), host, request.url.scheme):
            return RefusedError(403, "origin", "pages of this origin may not use the server")
        path = _route_of(request.scope)
        if path in _OPEN or path.startswith("/static/"):
            return None
        if not access.bearer(request.headers):
            return RefusedError(401, "token", "the token is missing or wrong")
        if self._state.services is None:
            return RefusedError(503, "not_ready", "the server starts: try again")
        return None


def _route_of(scope: Scope) -> str:
    """The path of a request without the path that the server lies under."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


def _is_api(path: str) -> bool:
    return path.startswith("/v1/") or path in ("/metrics", "/healthz", "/readyz")


def _warm_up(translator: Translator) -> None:
    """Run every network once: the first picture is not to pay for the start."""
    mel = np.full((1, N_MELS, FRAMES_PER_SEGMENT), 128, np.uint8)
    translator.ood_scores(mel)
    translator.imagine(mel)


def _pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def live() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/file", include_in_schema=False)
    async def file() -> FileResponse:
        return FileResponse(STATIC / "file.html")

    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def _faults(app: FastAPI) -> None:
    @app.exception_handler(RefusedError)
    async def refused(_request: Request, error: RefusedError) -> Response:
        return told(error.status, error.code, str(error))

    @app.exception_handler(SoundsightError)
    async def mendable(_request: Request, error: SoundsightError) -> Response:
        return told(400, "sound", str(error))

    @app.exception_handler(RequestValidationError)
    async def parameter(_request: Request, error: RequestValidationError) -> Response:
        first: dict[str, Any] = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return told(422, "parameter", f"{where}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def other(_request: Request, error: HTTPException) -> Response:
        answer = told(error.status_code, "http", str(error.detail))
        answer.headers.update(error.headers or {})
        return answer
