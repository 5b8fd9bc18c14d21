"""``POST /v1/storyboard``: the events of an upload, as they are found or as one file.

A storyboard of hours takes minutes: as ``ndjson`` each event is sent once it has ended. All work
stops when the client goes away.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field
from starlette.types import Receive, Scope, Send

from soundsight.core.errors import SoundsightError
from soundsight.runtime.file_events import Progress, find_events
from soundsight.server.decoding import Decoded
from soundsight.server.errors import ApiError
from soundsight.server.limits import Limits
from soundsight.server.rest import (
    BINARY,
    UPLOAD,
    Options,
    Services,
    ServicesOf,
    check_client,
    client_gone,
    errors,
)
from soundsight.server.uploads import Upload, receive
from soundsight.views.event_files import save
from soundsight.views.events import FileEvent, FileEvents, event_json, overview_json

_PROGRESS_S = 0.25
"""Seconds between two lines of progress."""

_CHUNK_BYTES = 1 << 16

_IN_MEMORY = Path("/dev/shm")
_ROOM = 16
"""Free room that a file in memory needs, in multiples of the longest upload in memory."""


_MEDIA_TYPES = {
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "png": "image/png",
    "mp4": "video/mp4",
    "html": "text/html",
}


class StoryboardOptions(Options):
    """Parameters of ``/v1/storyboard``."""

    format: Annotated[
        Literal["ndjson", "json", "png", "mp4", "html"], Field(description="What the response is.")
    ] = "ndjson"
    sensitivity: Annotated[
        float, Field(ge=0, le=1, description="0 tells only what is loud and sure, 1 tells more.")
    ] = 0.5
    name: Annotated[
        str, Field(max_length=1000, description="What the file is called, where it comes raw.")
    ] = ""


router = APIRouter()


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
        **errors(),
    },
)
async def storyboard(
    request: Request, services: ServicesOf, options: Annotated[StoryboardOptions, Query()]
) -> Response:
    """Find the events of a sound or video: a picture of each, in time."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(services.jobs.admit())
        upload = await stack.enter_async_context(receive(request, services.limits, options.name))
        options = options.with_form(request, upload)
        if options.format == "ndjson":
            lines = services.jobs.iterate(_lines(services, upload, options))
            stack.push_async_callback(lines.aclose)
            # A file that cannot be read at all is an error response, not a line.
            first = await anext(lines)
            # A proxy that buffers the response would hide the progress.
            headers = {"x-accel-buffering": "no"}
            return _HeldResponse(
                _with_first(first, lines),
                media_type=_MEDIA_TYPES[options.format],
                headers=headers,
                held=stack.pop_all(),
            )
        gone = await stack.enter_async_context(client_gone(request))
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="soundsight-", dir=_place(upload, services.limits))
        )
        path = Path(folder) / f"storyboard.{options.format}"
        await services.jobs.run(lambda: _write(services, upload, options, path, gone))
        file = path.open("rb")
    # The folder is gone; the file has no name any more and goes with its descriptor.
    held = contextlib.AsyncExitStack()
    held.enter_context(file)
    return _HeldResponse(
        iter(lambda: file.read(_CHUNK_BYTES), b""),
        media_type=_MEDIA_TYPES[options.format],
        headers={
            "content-length": str(os.fstat(file.fileno()).st_size),
            "content-disposition": _disposition(upload.name, options.format),
        },
        held=held,
    )


class _HeldResponse(StreamingResponse):
    """A streamed response that closes what it needs however it ends, begun or not."""

    def __init__(self, *args: Any, held: contextlib.AsyncExitStack, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def _with_first(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for line in rest:
        yield line


def _disposition(name: str, kind: str) -> str:
    stem = f"{Path(name).stem}-storyboard.{kind}"
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in stem)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(stem, safe='')}"


def _place(upload: Upload, limits: Limits) -> Path | None:
    """The folder of a file that is made: in memory when its upload never touched a disk.

    The film and the page hold the sound.
    """
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(_IN_MEMORY).free
        writable = os.access(_IN_MEMORY, os.W_OK | os.X_OK)
        if upload.size <= limits.memory_bytes and writable and free > _ROOM * limits.memory_bytes:
            return _IN_MEMORY
    return None


# --- the work, on a thread --------------------------------------------------------------------


def _open(
    services: Services, upload: Upload, options: StoryboardOptions
) -> contextlib.AbstractContextManager[Decoded]:
    return services.decoder.open(
        upload.handle, upload.name, track=options.track, strict=options.strict
    )


def _events(
    services: Services, upload: Upload, options: StoryboardOptions, sound: Any, total_s: Any
) -> Iterator[FileEvent | Progress | FileEvents]:
    return find_events(
        services.translator,
        sound,
        sensitivity=options.sensitivity,
        seed=options.seed,
        source=upload.name,
        total_s=total_s,
    )


def _lines(services: Services, upload: Upload, options: StoryboardOptions) -> Generator[bytes]:
    """The events as lines of JSON, at least one each ``_PROGRESS_S`` of work."""
    with _open(services, upload, options) as sound:
        # The first block shows whether there is a sound at all.
        first = [block for block in [next(sound, None)] if block is not None]
        yield _line(
            type="begin",
            name=upload.name,
            duration_s=sound.duration_s,
            model=services.translator.info.label,
            seed=options.seed,
            sensitivity=options.sensitivity,
        )
        progress_at = 0.0
        blocks = chain(first, sound)
        try:
            for item in _events(services, upload, options, blocks, sound.duration_s):
                if isinstance(item, FileEvent):
                    yield _line(type="event", **event_json(item))
                elif isinstance(item, FileEvents):
                    yield _line(type="overview", **overview_json(item.overview))
                    yield _line(type="done", words=item.words, warnings=sound.warnings)
                elif time.monotonic() - progress_at >= _PROGRESS_S:
                    progress_at = time.monotonic()
                    yield _line(type="progress", done_s=item.done_s, total_s=item.total_s)
        except (SoundsightError, ApiError) as error:
            yield _line(type="error", message=str(error))


def _write(
    services: Services,
    upload: Upload,
    options: StoryboardOptions,
    path: Path,
    gone: threading.Event,
) -> None:
    """Write the storyboard to a file. A film reads the sound a second time."""
    with _open(services, upload, options) as sound:
        for item in _events(services, upload, options, sound, sound.duration_s):
            check_client(gone)
            found = item
    assert isinstance(found, FileEvents), "the last item has all events"
    with contextlib.ExitStack() as stack:
        for _ in save(found, lambda: stack.enter_context(_open(services, upload, options)), path):
            check_client(gone)


def _line(**values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
