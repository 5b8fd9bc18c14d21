"""Bodies of requests: taken in bounds, held in memory, or in a private file that has no name.

Up to ``Limits.memory_bytes`` an upload never touches a disk. A longer one goes to an unnamed
temporary file, which is gone with its descriptor, however the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from soundsight.server.errors import RefusedError
from soundsight.server.limits import Limits

FIELD = "sound"
"""Name of the multipart field that holds the file."""

_LONGEST_NAME = 120

_LOG = logging.getLogger("soundsight.server")
# It warns of each damaged form, which is its sender's fault and is answered.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file that has come.

    Attributes:
        name: what the sender calls it, made fit for one line; ``the sound`` where it says nothing.
        handle: an open descriptor.
        size: its length in bytes.
        fields: the other fields of the form that it came in.
    """

    name: str
    handle: int
    size: int
    fields: dict[str, str] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def receive(request: Request, limits: Limits, name: str = "") -> AsyncIterator[Upload]:
    """Take the body of a request; it is gone when the block ends.

    Args:
        name: what the sender calls the file, where the body itself does not say.

    Raises:
        RefusedError: when it is too long, too slow, empty or no proper form, or there is no room
            for it.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limits.max_upload_bytes:
        raise _too_big(limits)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields: dict[str, str] = {}
    with contextlib.ExitStack() as held:
        try:
            if kind == "multipart/form-data":
                file, own, fields = await _form(request, limits, held)
                name = own or fields.get("name", name)
            else:
                file = held.enter_context(_spool(limits))
                async for chunk in _chunks(request, limits):
                    file.write(chunk)
            size = _size_of(file)
            if not size:
                raise RefusedError(400, "empty", "the body is empty: send a sound or video file")
            handle = _handle_of(file, held)
        except OSError as error:
            _LOG.error("no room for an upload: %s", error.strerror or type(error).__name__)
            raise RefusedError(
                503, "no_room", "the server has no room for the body: try again later"
            ) from None
        yield Upload(name=clean_name(name), handle=handle, size=size, fields=fields)


def clean_name(name: str) -> str:
    """The last part of a file's name as printable text of one line; ``the sound`` for none."""
    last = PurePosixPath(name.replace("\\", "/")).name
    text = "".join(c if c.isprintable() else "?" for c in unicodedata.normalize("NFC", last))
    text = text.encode("utf-8", "replace").decode("utf-8").strip()
    return text[:_LONGEST_NAME] or "the sound"


def _too_big(limits: Limits) -> RefusedError:
    return RefusedError(
        413, "too_big", f"the body is longer than {limits.max_upload_bytes:,} bytes: cut the sound"
    )


async def _chunks(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body as it comes: not too much of it, and not too slowly."""
    total = 0
    too_slow = RefusedError(408, "too_slow", "the body comes too slowly: send it again")
    began = time.monotonic()
    deadline = began + limits.body_s
    stream = request.stream().__aiter__()
    while True:
        left_s = min(limits.body_idle_s, deadline - time.monotonic())
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise too_slow from None
        except ClientDisconnect:
            raise RefusedError(400, "cut_short", "the body was cut short") from None
        total += len(chunk)
        if total > limits.max_upload_bytes:
            raise _too_big(limits)
        spent_s = time.monotonic() - began
        if total < limits.body_bytes_per_s * (spent_s - limits.body_idle_s):
            raise too_slow
        yield chunk


def _spool(limits: Limits) -> Any:
    return tempfile.SpooledTemporaryFile(max_size=limits.memory_bytes)


def _close_all(files: Iterable[IO[bytes]]) -> None:
    for file in files:
        file.close()


async def _form(
    request: Request, limits: Limits, held: contextlib.ExitStack
) -> tuple[Any, str, dict[str, str]]:
    """Read a multipart form: the file in its field ``sound``, its name, and the other fields."""

    async def body() -> AsyncGenerator[bytes, None]:
        async for chunk in _chunks(request, limits):
            yield chunk

    parser = MultiPartParser(request.headers, body(), max_files=1, max_fields=8)
    parser.spool_max_size = limits.memory_bytes
    # Those of a form that ends too early, too, which are in no field.
    held.callback(_close_all, parser._files_to_close_on_error)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError) as error:
        told = getattr(error, "message", "") or "the form is damaged"
        raise RefusedError(400, "form", f"the form cannot be read: {told}".rstrip(".")) from None
    found = form.get(FIELD)
    if not isinstance(found, UploadFile):
        raise RefusedError(400, "form", f"the form has no file in the field '{FIELD}'")
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            if name in fields or name == FIELD:
                raise RefusedError(400, "form", "the form has a field twice: say it once")
            fields[name] = value
    return found.file, found.filename or "", fields


def _size_of(file: Any) -> int:
    file.seek(0, os.SEEK_END)
    return int(file.tell())


def _handle_of(file: Any, held: contextlib.ExitStack) -> int:
    """A descriptor of a spooled file; one in memory is put into an unnamed memory file."""
    if file._rolled:
        file.flush()
        return int(file.fileno())
    data = file._file.getbuffer()
    handle = os.memfd_create("sound")
    held.callback(os.close, handle)
    with data:
        at = 0
        while at < len(data):
            at += os.write(handle, data[at:])
    file.close()  # the body is there once
    return handle
