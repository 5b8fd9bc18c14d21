"""Uploads: bodies that are bounded in length and time, and gone when the request ends; their work.

Up to ``Limits.memory_bytes`` an upload never touches a disk. A longer one goes to a temporary file
without a name, which is gone with its descriptor however the process ends. Uploads are worked on by
threads, a few at a time, and a bounded number of requests waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from soundsight.server.errors import RETRY_S, ApiError
from soundsight.server.limits import Limits
from soundsight.server.metrics import Metrics

FIELD = "sound"
"""Name of the form's field that holds the file."""

_MAX_NAME = 120

_T = TypeVar("_T")

_LOG = logging.getLogger("soundsight.server")
# It warns of each damaged form, which is its sender's fault and is answered.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A received file, as an open descriptor, and the other fields of its form.

    ``name`` is the sender's name for it as one printable line; ``the sound`` without one.
    """

    name: str
    handle: int
    size: int
    fields: dict[str, str] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def receive(request: Request, limits: Limits, name: str = "") -> AsyncIterator[Upload]:
    """Receive the body of a request; it is gone when the ``with`` block ends.

    Args:
        name: the file's name where the body itself has none.

    Raises:
        ApiError: when the body is too long, too slow, empty or no proper form, or there is no room
            for it.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        try:
            if kind == "multipart/form-data":
                file, own, fields = await _read_form(request, limits, stack)
                name = own or fields.get("name", name)
            else:
                file = stack.enter_context(
                    tempfile.SpooledTemporaryFile(max_size=limits.memory_bytes)
                )
                async for chunk in _chunks(request, limits):
                    file.write(chunk)
            if not (size := file.seek(0, os.SEEK_END)):
                raise ApiError(400, "empty", "the body is empty: send a sound or video file")
            handle = _descriptor(file, stack)
        except OSError as error:
            _LOG.error("no room for an upload: %s", error.strerror or type(error).__name__)
            raise ApiError(
                503, "no_room", "the server has no room for the body: try again later"
            ) from None
        yield Upload(name=clean_name(name), handle=handle, size=size, fields=fields)


def clean_name(name: str) -> str:
    """The last part of a file's name as one printable line; ``the sound`` for none."""
    last = PurePosixPath(name.replace("\\", "/")).name
    text = "".join(c if c.isprintable() else "?" for c in unicodedata.normalize("NFC", last))
    text = text.encode("utf-8", "replace").decode("utf-8").strip()
    return text[:_MAX_NAME] or "the sound"


async def _chunks(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body in parts, as they come; raises when it is too long or too slow."""
    most = limits.max_upload_bytes
    too_big = ApiError(413, "too_big", f"the body is longer than {most:,} bytes: cut the sound")
    too_slow = ApiError(408, "too_slow", "the body comes too slowly: send it again")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > most:
        raise too_big
    total = 0
    began = time.monotonic()
    stream = request.stream().__aiter__()
    while True:
        left_s = min(limits.body_idle_s, began + limits.body_s - time.monotonic())
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise too_slow from None
        except ClientDisconnect:
            raise ApiError(400, "cut_short", "the body was cut short") from None
        total += len(chunk)
        if total > most:
            raise too_big
        counted_s = time.monotonic() - began - limits.body_idle_s
        if total < limits.body_bytes_per_s * counted_s:
            raise too_slow
        yield chunk


async def _read_form(
    request: Request, limits: Limits, stack: contextlib.ExitStack
) -> tuple[Any, str, dict[str, str]]:
    """The file in the form's field ``sound``, its name, and the other fields."""
    parser = MultiPartParser(request.headers, _chunks(request, limits), max_files=1, max_fields=8)
    parser.spool_max_size = limits.memory_bytes

    @stack.callback  # also for a form that ends too early
    def close_all() -> None:
        for file in parser._files_to_close_on_error:
            file.close()

    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError) as error:
        message = getattr(error, "message", "") or "the form is damaged"
        raise ApiError(400, "form", f"the form cannot be read: {message}".rstrip(".")) from None
    file = form.get(FIELD)
    if not isinstance(file, UploadFile):
        raise ApiError(400, "form", f"the form has no file in the field '{FIELD}'")
    texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    fields = dict(texts)
    if FIELD in fields or len(fields) < len(texts):
        raise ApiError(400, "form", "the form has a field twice: say it once")
    return file.file, file.filename or "", fields


def _descriptor(file: Any, stack: contextlib.ExitStack) -> int:
    """A descriptor of a spooled file; what is in memory is put into a memory file."""
    if file._rolled:
        file.flush()
        return int(file.fileno())
    data = file._file.getbuffer()
    handle = os.memfd_create("sound")
    stack.callback(os.close, handle)
    with data, open(handle, "wb", closefd=False) as copy:
        copy.write(data)
    file.close()  # one copy is enough
    return handle


class Jobs:
    """Seats for requests with an upload, and the few threads that work on them; of one event loop.

    A thread cannot be stopped from outside: a request whose client has gone keeps its seat, and all
    that it uses, until its thread has ended.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._metrics = metrics
        self._most = limits.max_jobs + limits.max_waiting
        self._present = 0
        self._seats = asyncio.Semaphore(limits.max_jobs)
        self._threads = CapacityLimiter(limits.max_jobs)

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request from before its body is read.

        Raises:
            ApiError: 503, when too many are there.
        """
        if self._present >= self._most:
            self._metrics.refusals.labels("busy").inc()
            raise ApiError(503, "busy", f"the server is busy: try again in {RETRY_S} s")
        self._present += 1
        try:
            yield
        finally:
            self._present -= 1

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run a piece of work on a thread when its turn comes."""
        async with self._seats:
            with self._metrics.jobs.track_inprogress():
                return await run_sync(work, limiter=self._threads)

    async def iterate(self, steps: Generator[_T]) -> AsyncGenerator[_T]:
        """Run a generator on threads, each step when it is asked for, and close it at the end."""
        end = object()
        async with self._seats:
            with self._metrics.jobs.track_inprogress():
                try:
                    while (
                        item := await run_sync(next, steps, end, limiter=self._threads)
                    ) is not end:
                        yield item  # type: ignore[misc]
                finally:
                    # A server that stops at once does not wait for a step that still runs.
                    with contextlib.suppress(ValueError):
                        await run_sync(steps.close, limiter=self._threads)
