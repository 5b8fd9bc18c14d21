"""The REST API: a sound comes in, its pictures or events go out. Described by ``/openapi.json``."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from numpy.typing import NDArray
from prometheus_client import generate_latest
from starlette.types import Receive, Scope, Send

from soundsight import __version__
from soundsight.core.errors import SoundsightError
from soundsight.core.state import known
from soundsight.runtime.file_events import Progress, find_events
from soundsight.runtime.translator import Translator
from soundsight.server.decoding import Decoded, Decoder
from soundsight.server.errors import ApiError
from soundsight.server.limits import Limits
from soundsight.server.metrics import Metrics
from soundsight.server.schemas import (
    BINARY,
    EXAMPLE,
    UPLOAD,
    Health,
    ModelAnswer,
    Options,
    Picture,
    StoryboardOptions,
    Translated,
    TranslateOptions,
    error_responses,
)
from soundsight.server.stream import Streams
from soundsight.server.uploads import Jobs, Upload, receive
from soundsight.views.drawing import picture, png_bytes
from soundsight.views.event_files import save
from soundsight.views.events import FileEvent, FileEvents, event_json, overview_json
from soundsight.views.sheet import ROWS_PER_PAGE, contact_sheet
from soundsight.views.translation import Translation

_POLL_S = 0.25
"""Seconds between two checks whether the client is still there."""

_PROGRESS_S = 0.25
"""Seconds between two lines of progress."""

_CHUNK_BYTES = 1 << 16

_IN_MEMORY = Path("/dev/shm")
_ROOM = 16
"""Free room that a file in memory needs, in multiples of the longest upload in memory."""

router = APIRouter()


@dataclass(frozen=True, kw_only=True, eq=False)
class Services:
    """What the handlers share; made when the server starts. The translator has one thread."""

    translator: Translator
    decoder: Decoder
    jobs: Jobs
    streams: Streams
    limits: Limits
    metrics: Metrics


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesOf = Annotated[Services, Depends(_services)]


# --- what both kinds of work need ------------------------------------------------------------

_T = TypeVar("_T")
_O = TypeVar("_O", bound=Options)


@dataclass(eq=False)
class _Work(Generic[_O]):
    """An upload, and what is asked for: nobody wants the rest of it once its client has gone."""

    services: Services
    upload: Upload
    options: _O
    gone: threading.Event = field(default_factory=threading.Event)

    def opened(self) -> contextlib.AbstractContextManager[Decoded]:
        upload, how = self.upload, self.options
        return self.services.decoder.open(
            upload.handle, upload.name, track=how.track, strict=how.strict
        )

    def wanted(self, items: Iterable[_T]) -> Iterator[_T]:
        for item in items:
            if self.gone.is_set():
                raise ApiError(499, "gone", "the client has gone")
            yield item

    @contextlib.asynccontextmanager
    async def watched(self, request: Request) -> AsyncIterator[None]:
        """Notice when the client goes, or the block ends."""

        async def watch() -> None:
            while not await request.is_disconnected():
                await asyncio.sleep(_POLL_S)
            self.gone.set()

        watcher = asyncio.create_task(watch())
        try:
            yield
        finally:
            self.gone.set()
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


@contextlib.asynccontextmanager
async def _received(
    request: Request, services: Services, options: _O, name: str = ""
) -> AsyncIterator[_Work[_O]]:
    with services.jobs.admit():
        async with receive(request, services.limits, name) as upload:
            yield _Work(services, upload, options.with_form(request, upload))


# --- a sound in, pictures out ----------------------------------------------------------------


@router.post(
    "/v1/translate",
    response_model=Translated,
    openapi_extra=UPLOAD,
    responses={
        200: {
            "description": "The pictures; with format=png one PNG, a contact sheet where there "
            "are several.",
            "content": {"application/json": {"example": EXAMPLE}, "image/png": BINARY},
        },
        **error_responses(),
    },
)
async def translate(
    request: Request, services: ServicesOf, options: Annotated[TranslateOptions, Query()]
) -> Response:
    """Imagine a sound as a whole, or every second of it."""
    async with _received(request, services, options) as work, work.watched(request):
        body = await services.jobs.run(lambda: _translated(work))
    kind = "image/png" if work.options.format == "png" else "application/json"
    return Response(body, media_type=kind)


def _translated(work: _Work[TranslateOptions]) -> bytes:
    options, label = work.options, work.services.translator.info.label
    with work.opened() as sound:
        results = _imagined(work, sound)
    if options.format == "json":
        pictures = [one for result in results for one in _pictures(result)]
        body = Translated(
            model=label, seed=options.seed, warnings=sound.warnings, pictures=pictures
        )
        return body.model_dump_json().encode()
    if len(results) == 1 and len(results[0]) == 1:
        return png_bytes(picture(results[0].images[0]), results[0].texts(0))
    file = io.BytesIO()
    rows = [result.row(work.upload.name) for result in results]
    contact_sheet(rows, subtitle=f"model {label}").save(file, "PNG")
    return file.getvalue()


def _imagined(work: _Work[TranslateOptions], sound: Decoded) -> list[Translation]:
    options, translator = work.options, work.services.translator
    how: dict[str, Any] = {"draws": options.draws, "seed": options.seed, "anyway": options.anyway}
    blocks = work.wanted(sound)
    if not options.each_second:
        return [translator.translate(blocks, **how)]
    as_sheet = options.format == "png"
    most = ROWS_PER_PAGE * options.draws if as_sheet else work.services.limits.max_pictures
    seconds = most // options.draws
    if seconds and (sound.duration_s or 0.0) <= seconds + 0.5:
        some = list(islice(work.wanted(translator.iter_translate(blocks, **how)), seconds + 1))
        if len(some) <= seconds:
            return some
    raise ApiError(
        413,
        "too_many",
        f"{work.upload.name} would give more than {most} pictures: ask for fewer draws, cut the "
        "sound, or ask for a storyboard",
    )


def _pictures(result: Translation) -> Iterator[Picture]:
    for i, image in enumerate(result.images):
        yield Picture(
            second=round(float(result.seconds[i]), 3),
            draw=int(result.draw[i]),
            state=result.state[i],
            name=result.name[i],
            second_guess=result.second_guess[i],
            confidence=known(result.confidence[i]),
            ood_score=known(result.ood_score[i]),
            level_dbfs=round(float(result.rms_dbfs[i]), 1),
            png=base64.b64encode(png_bytes(picture(image), result.texts(i))).decode(),
        )


# --- a sound in, its events out --------------------------------------------------------------

_MEDIA_TYPES = {
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "png": "image/png",
    "mp4": "video/mp4",
    "html": "text/html",
}


@router.post(
    "/v1/storyboard",
    response_class=Response,
    openapi_extra=UPLOAD,
    responses={
        200: {
            "description": "As ndjson one JSON object a line, each sent as soon as it is known: "
            "begin, progress, event, overview, and at the end done or error. Otherwise one file: "
            "a sheet, a film, a page or data.",
            "content": {
                "application/x-ndjson": {
                    "schema": {"type": "string"},
                    "example": '{"type": "begin", "name": "dog.mp4", "duration_s": 8.0, '
                    '"model": "everyday 1"}\n',
                },
                "application/json": {"schema": {"type": "object"}},
                "image/png": BINARY,
                "video/mp4": BINARY,
                "text/html": {"schema": {"type": "string"}},
            },
        },
        **error_responses(),
    },
)
async def storyboard(
    request: Request, services: ServicesOf, options: Annotated[StoryboardOptions, Query()]
) -> Response:
    """Find the events of a sound or video: a picture of each, in time."""
    async with contextlib.AsyncExitStack() as stack:
        work = await stack.enter_async_context(_received(request, services, options, options.name))
        kind, upload = work.options.format, work.upload
        if kind == "ndjson":
            lines = services.jobs.iterate(_lines(work))
            stack.push_async_callback(lines.aclose)
            # A file that cannot be read at all is an error response, not a line.
            first = await anext(lines)
            # A proxy that buffers the response would hide the progress.
            headers = {"x-accel-buffering": "no"}
            return _HeldResponse(
                _with_first(first, lines), media_type=_MEDIA_TYPES[kind], headers=headers,
                held=stack.pop_all(),
            )  # fmt: skip
        await stack.enter_async_context(work.watched(request))
        place = _place(upload, services.limits)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="soundsight-", dir=place))
        path = Path(folder) / f"storyboard.{kind}"
        await services.jobs.run(lambda: _write(work, path))
        file = path.open("rb")
    # The folder is gone; the file has no name any more and goes with its descriptor.
    held = contextlib.AsyncExitStack()
    held.enter_context(file)
    stem = f"{Path(upload.name).stem}-storyboard.{kind}"
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in stem)
    headers = {
        "content-length": str(os.fstat(file.fileno()).st_size),
        "content-disposition": (
            f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(stem, safe='')}"
        ),
    }
    chunks = iter(lambda: file.read(_CHUNK_BYTES), b"")
    return _HeldResponse(chunks, media_type=_MEDIA_TYPES[kind], headers=headers, held=held)


class _HeldResponse(StreamingResponse):
    """A streamed response that closes what it needs however it ends, begun or not."""

    def __init__(self, *args: Any, held: contextlib.AsyncExitStack, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def _with_first(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for line in rest:
        yield line


def _place(upload: Upload, limits: Limits) -> Path | None:
    """The folder of a film or page, which hold the sound: in memory where its upload is, too."""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(_IN_MEMORY).free
        writable = os.access(_IN_MEMORY, os.W_OK | os.X_OK)
        if upload.size <= limits.memory_bytes and writable and free > _ROOM * limits.memory_bytes:
            return _IN_MEMORY
    return None


def _events(
    work: _Work[StoryboardOptions],
    blocks: Iterator[NDArray[np.float32]],
    total_s: float | None,
) -> Iterator[FileEvent | Progress | FileEvents]:
    return find_events(
        work.services.translator,
        blocks,
        sensitivity=work.options.sensitivity,
        seed=work.options.seed,
        source=work.upload.name,
        total_s=total_s,
    )


def _lines(work: _Work[StoryboardOptions]) -> Generator[bytes]:
    """The events as lines of JSON, at least one each ``_PROGRESS_S`` of work."""

    def line(**values: Any) -> bytes:
        return json.dumps(values, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"

    with work.opened() as sound:
        # The first block shows whether there is a sound at all.
        first = list(islice(sound, 1))
        yield line(
            type="begin",
            name=work.upload.name,
            duration_s=sound.duration_s,
            model=work.services.translator.info.label,
            seed=work.options.seed,
            sensitivity=work.options.sensitivity,
        )
        progress_at = 0.0
        try:
            for item in _events(work, chain(first, sound), sound.duration_s):
                if isinstance(item, FileEvent):
                    yield line(type="event", **event_json(item))
                elif isinstance(item, FileEvents):
                    yield line(type="overview", **overview_json(item.overview))
                    yield line(type="done", words=item.words, warnings=sound.warnings)
                elif time.monotonic() - progress_at >= _PROGRESS_S:
                    progress_at = time.monotonic()
                    yield line(type="progress", done_s=item.done_s, total_s=item.total_s)
        except (SoundsightError, ApiError) as error:
            yield line(type="error", message=str(error))


def _write(work: _Work[StoryboardOptions], path: Path) -> None:
    """Write the storyboard to a file. A film reads the sound a second time."""
    with work.opened() as sound:
        # The sound itself, whose warnings the file tells, too.
        (last,) = deque(work.wanted(_events(work, sound, sound.duration_s)), maxlen=1)
    assert isinstance(last, FileEvents), "the last item has all events"
    with contextlib.ExitStack() as stack:
        for _ in work.wanted(save(last, lambda: stack.enter_context(work.opened()), path)):
            pass


# --- facts about the server ------------------------------------------------------------------


@router.get("/v1/model", responses=error_responses(401, 403, 503))
async def model(services: ServicesOf) -> ModelAnswer:
    """Say which model answers, and how well it does."""
    info, head = services.translator.info, services.translator.label_head
    return ModelAnswer(
        name=info.name,
        version=info.version,
        licence=info.licence,
        soundsight=__version__,
        image_px=info.image_px,
        segment_s=info.segment_s,
        labels=list(head.labels) if head else [],
        alerts=list(head.alerts) if head else [],
        thresholds=asdict(info.thresholds),
        figures=info.figures,
        trained_on=str(info.trained_on or ""),
    )


@router.get("/healthz", responses=error_responses(403))
async def healthz() -> Health:
    """Say that the process lives."""
    return Health(status="alive")


@router.get("/readyz", responses=error_responses(403, 503))
async def readyz(request: Request) -> Health:
    """Say whether the server takes new streams and requests."""
    services: Services | None = request.app.state.services
    if services is None or services.streams.leaving:
        raise ApiError(503, "not_ready", "the server starts or stops")
    return Health(status="ready")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **error_responses(401, 403, 503)},
)
async def metrics(services: ServicesOf) -> Response:
    """Give the figures of this process, for Prometheus."""
    kind = "text/plain; version=0.0.4; charset=utf-8"
    return Response(generate_latest(services.metrics.registry), media_type=kind)
