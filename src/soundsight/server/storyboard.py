"""``POST /v1/storyboard``: what happened in an upload, told as it is found out, or as one file.

A storyboard of hours takes minutes: as ``ndjson`` each event is sent once it has ended. All work
stops when the client goes away.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from numpy.typing import NDArray
from starlette.types import Receive, Scope, Send

from soundsight.core.errors import SoundsightError
from soundsight.runtime.file_events import Progress, find_events
from soundsight.server.decoding import Decoded
from soundsight.server.errors import RefusedError
from soundsight.server.limits import Limits
from soundsight.server.rest import (
    UPLOAD,
    Here,
    Seed,
    Services,
    Strict,
    Track,
    asked_in_form,
    faults,
    known_parameters,
)
from soundsight.server.uploads import Upload, receive
from soundsight.views.event_files import save
from soundsight.views.events import FileEvent, FileEvents, event_json, overview_json

_PROGRESS_S = 0.25
"""Seconds between two lines of progress."""

_CHUNK_BYTES = 1 << 16

_IN_MEMORY = Path("/dev/shm")
_ROOM = 16
"""Times the longest upload in memory that have to be free where its film is made in memory."""


class Format(StrEnum):
    """What the answer is."""

    NDJSON = "ndjson"
    JSON = "json"
    PNG = "png"
    MP4 = "mp4"
    HTML = "html"


_MEDIA_TYPES = {
    Format.NDJSON: "application/x-ndjson",
    Format.JSON: "application/json",
    Format.PNG: "image/png",
    Format.MP4: "video/mp4",
    Format.HTML: "text/html",
}


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What a request asks for."""

    sensitivity: float
    seed: int
    track: int | None
    strict: bool


router = APIRouter()


@router.post(
    "/v1/storyboard",
    response_class=Response,
    openapi_extra=UPLOAD,
    dependencies=[Depends(known_parameters)],
    responses={
        200: {
            "description": "As ndjson one JSON object a line, each sent as soon as it is known: "
            "begin, progress, event, overview, and at the end done or error. Otherwise one file: "
            "a sheet, a film, a page or data.",
            "content": {
                "application/x-ndjson": {
                    "schema": {"type": "string"},
                    "example": '{"type": "begin", "name": "dog.mp4", "duration_s": 8.0, '
                    '"model": "flagship 1"}\n',
                },
                "application/json": {"schema": {"type": "object"}},
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "video/mp4": {"schema": {"type": "string", "format": "binary"}},
                "text/html": {"schema": {"type": "string"}},
            },
        },
        **faults(400, 401, 403, 408, 413, 422, 503),
    },
)
async def storyboard(
    request: Request,
    here: Here,
    format: Annotated[Format, Query(description="What the answer is.")] = Format.NDJSON,
    sensitivity: Annotated[
        float, Query(ge=0, le=1, description="0 tells only what is loud and sure, 1 tells more.")
    ] = 0.5,
    seed: Seed = 0,
    track: Track = None,
    strict: Strict = False,
    name: Annotated[
        str, Query(max_length=1000, description="What the file is called, where it comes raw.")
    ] = "",
) -> Response:
    """Tell what happened in a sound or video: a picture of each event, in time."""
    wish = _Wish(sensitivity=sensitivity, seed=seed, track=track, strict=strict)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(here.jobs.admit())
        upload = await stack.enter_async_context(receive(request, here.limits, name))
        said = asked_in_form(request, upload)
        said.pop("name", None)  # the upload has it
        format = said.pop("format", format)
        wish = replace(wish, **said)
        if format is Format.NDJSON:
            steps = here.jobs.iterate(_lines(here, upload, wish))
            stack.push_async_callback(steps.aclose)
            # What cannot be read at all is an answer of its own, not a line.
            first = await anext(steps)
            return _Held(
                _with_first(first, steps),
                media_type=_MEDIA_TYPES[format],
                # A proxy that collects the answer would hide how far it is.
                headers={"x-accel-buffering": "no"},
                held=stack.pop_all(),
            )
        place = _place(upload, here.limits)
        made = tempfile.TemporaryDirectory(prefix="soundsight-", dir=place)
        folder = Path(stack.enter_context(made))
        path = folder / f"storyboard.{format}"
        writing = here.jobs.iterate(_file(here, upload, wish, path))
        stack.push_async_callback(writing.aclose)
        async for _ in writing:
            if await request.is_disconnected():
                return Response(status_code=499)
        file = path.open("rb")
        # From here on the file has no name: it is gone with its descriptor.
        await stack.aclose()
        held = contextlib.AsyncExitStack()
        held.enter_context(file)
        return _Held(
            _chunks(file),
            media_type=_MEDIA_TYPES[format],
            headers={
                "content-length": str(os.fstat(file.fileno()).st_size),
                "content-disposition": _disposition(upload.name, format),
            },
            held=held,
        )


class _Held(StreamingResponse):
    """A streamed answer that lets go of what it needs however it ends, begun or not."""

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


def _chunks(file: Any) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _disposition(name: str, format: Format) -> str:
    stem = f"{Path(name).stem}-storyboard.{format}"
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in stem)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(stem, safe='')}"


# --- the work, on a thread --------------------------------------------------------------------


def _opened(
    here: Services, upload: Upload, wish: _Wish
) -> contextlib.AbstractContextManager[Decoded]:
    return here.decoder.open(upload.handle, upload.name, track=wish.track, strict=wish.strict)


def _lines(here: Services, upload: Upload, wish: _Wish) -> Generator[bytes]:
    """Send the events as lines of JSON, at least one each ``_PROGRESS_S`` of work."""
    with _opened(here, upload, wish) as sound:
        # The first block shows whether there is a sound at all.
        blocks = _begun(sound.blocks)
        yield _line(
            type="begin",
            name=upload.name,
            duration_s=sound.duration_s,
            model=here.translator.info.label,
            seed=wish.seed,
            sensitivity=wish.sensitivity,
        )
        told_at = 0.0
        try:
            for told in find_events(
                here.translator,
                blocks,
                sensitivity=wish.sensitivity,
                seed=wish.seed,
                source=upload.name,
                total_s=sound.duration_s,
            ):
                if isinstance(told, FileEvent):
                    yield _line(type="event", **event_json(told))
                elif isinstance(told, FileEvents):
                    yield _line(type="overview", **overview_json(told.overview))
                    yield _line(type="done", words=told.words, warnings=sound.blocks.warnings)
                elif time.monotonic() - told_at >= _PROGRESS_S:
                    told_at = time.monotonic()
                    yield _line(type="progress", done_s=told.done_s, total_s=told.total_s)
        except (SoundsightError, RefusedError) as error:  # the sound's end, or the server's
            yield _line(type="error", message=str(error))


def _file(here: Services, upload: Upload, wish: _Wish, path: Path) -> Generator[float]:
    """Write the events to a file; yields now and then how many seconds are done."""
    found: FileEvents | None = None
    with _opened(here, upload, wish) as sound:
        telling = find_events(
            here.translator,
            sound.blocks,
            sensitivity=wish.sensitivity,
            seed=wish.seed,
            source=upload.name,
            total_s=sound.duration_s,
        )
        told_at = time.monotonic()
        for told in telling:
            if isinstance(told, FileEvents):
                found = told
            elif isinstance(told, Progress) and time.monotonic() - told_at >= _PROGRESS_S:
                told_at = time.monotonic()
                yield told.done_s
    assert found is not None, "all events are the last"
    with contextlib.ExitStack() as stack:

        def again() -> Iterator[NDArray[np.float32]]:
            return stack.enter_context(_opened(here, upload, wish)).blocks

        told_at = time.monotonic()
        for done_s in save(found, again, path):
            if time.monotonic() - told_at >= _PROGRESS_S:
                told_at = time.monotonic()
                yield done_s


def _place(upload: Upload, limits: Limits) -> Path | None:
    """Where a file is made: in memory for what has touched no disk; its film holds the sound."""
    if upload.size > limits.memory_bytes:
        return None
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(_IN_MEMORY).free
        if os.access(_IN_MEMORY, os.W_OK | os.X_OK) and free > _ROOM * limits.memory_bytes:
            return _IN_MEMORY
    return None


def _begun(blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Take the first block at once and give it out again."""
    first = next(blocks, None)

    def all_of_them() -> Iterator[NDArray[np.float32]]:
        if first is not None:
            yield first
        yield from blocks

    return all_of_them()


def _line(**values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


# --- what the page shares with the saved page -------------------------------------------------


@router.get("/static/board.js", include_in_schema=False)
async def board_script() -> FileResponse:
    """The storyboard's script."""
    return FileResponse(str(files("soundsight") / "assets" / "board" / "board.js"))


@router.get("/static/board.css", include_in_schema=False)
async def board_style() -> FileResponse:
    """The storyboard's style."""
    return FileResponse(str(files("soundsight") / "assets" / "board" / "board.css"))
