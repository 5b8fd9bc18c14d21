"""Bodies of requests: bounded in length and time, never on a disk without need, gone at the end."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.requests import Request

from soundsight.server.errors import ApiError
from soundsight.server.limits import Limits
from soundsight.server.uploads import clean_name, receive

FORM = "multipart/form-data; boundary=b"


def part(data: bytes, name: str = "sound", file: str | None = "dog.wav") -> bytes:
    shown = f'; filename="{file}"' if file is not None else ""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n\r\n'
    return head.encode() + data + b"\r\n"


END = b"--b--\r\n"

INSIDE: list[Callable[[], None]] = []
"""Called while an upload is there."""


def took(
    chunks: list[bytes | float | None],
    limits: Limits | None = None,
    kind: str = "application/octet-stream",
    **headers: str,
) -> tuple[str, bytes]:
    """Receive a body: bytes come at once, a number is a pause, None breaks the connection.

    Returns its name and its content.
    """

    async def run() -> tuple[str, bytes]:
        left = list(chunks)

        async def give() -> dict[str, Any]:
            while left and isinstance(left[0], float):
                await asyncio.sleep(left.pop(0))  # type: ignore[arg-type]
            if not left:
                return {"type": "http.request", "body": b"", "more_body": False}
            chunk = left.pop(0)
            if chunk is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": chunk, "more_body": True}

        fields = [(b"content-type", kind.encode("latin-1"))]
        fields += [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
        request = Request({"type": "http", "method": "POST", "headers": fields}, give)
        async with receive(request, limits or Limits()) as upload:
            for look in INSIDE:
                look()
            data = os.pread(upload.handle, 1 << 24, 0)
            assert len(data) == upload.size
            return upload.name, data

    return asyncio.run(run())


def refused(*args: Any, **options: Any) -> ApiError:
    with pytest.raises(ApiError) as told:
        took(*args, **options)
    assert str(told.value).isprintable()
    return told.value


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; each test leaves none, and no descriptor."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    took([b"x"])
    before = psutil.Process().num_fds()
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    assert psutil.Process().num_fds() == before


@pytest.fixture
def inside() -> Iterator[list[Callable[[], None]]]:
    """What is called while an upload is there."""
    yield INSIDE
    INSIDE.clear()


@pytest.fixture
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a temporary file fails."""

    def none(*_args: Any, **_options: Any) -> None:
        raise AssertionError("an upload has touched the disk")

    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", none)


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("dog.wav", "dog.wav"), ("", "the sound"), ("/etc/passwd", "passwd"), ("..", ".."),
        ("../../a.wav", "a.wav"), ("C:\\Users\\me\\a.wav", "a.wav"), ("a/", "a"),
        ("/", "the sound"),
        ("a\nb\r\x00.wav", "a?b??.wav"), ("\x1b[31mred", "?[31mred"), ("  a  ", "a"),
        ("<script>alert(1)<", "<script>alert(1)<"), ("x" * 10_000, "x" * 120), ("ö.wav", "ö.wav"),
        ("\udcff", "?"), ("\u202egnp.exe", "?gnp.exe"), ("a\u2028b", "a?b"), ("\n", "?"),
    ],
)  # fmt: skip
def test_names(name: str, clean: str) -> None:
    assert clean_name(name) == clean
    assert clean.isprintable()


# --- what is taken ---------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_disk")
def test_a_short_body_stays_in_memory() -> None:
    limits = Limits(memory_bytes=1_000)
    assert took([b"x" * 600, b"y" * 400], limits) == ("the sound", b"x" * 600 + b"y" * 400)
    name, data = took([part(b"z" * 1_000) + END], limits, FORM)
    assert (name, data) == ("dog.wav", b"z" * 1_000)


def test_a_long_body_is_in_a_file_without_a_name(
    folder: Path, inside: list[Callable[[], None]]
) -> None:
    seen: list[str] = []
    inside.append(lambda: seen.extend(path.name for path in folder.iterdir()))
    limits = Limits(memory_bytes=1_000)
    assert took([b"x" * 600, b"y" * 600], limits)[1] == b"x" * 600 + b"y" * 600
    name, data = took([part(b"z" * 5_000) + END], limits, FORM)
    assert (name, data) == ("dog.wav", b"z" * 5_000)
    assert seen == []


def test_forms() -> None:
    odd = "../<b>\u00f6.wav"
    assert took([part(b"1", file=odd) + END], None, FORM)[0] == "<b>ö.wav"
    assert took([part(b"1", file="") + END], None, FORM)[0] == "the sound"
    fields = part(b"2", "note", None) + part(b"1") + part(b"3", "other", None) + END
    assert took([fields], None, FORM) == ("dog.wav", b"1")
    # Byte by byte.
    assert took([bytes([b]) for b in part(b"1") + END], None, FORM) == ("dog.wav", b"1")


# --- what is refused -------------------------------------------------------------------------


SMALL = Limits(max_upload_bytes=1_000)


@pytest.mark.parametrize(
    ("chunks", "how", "status", "code"),
    [
        ([], {}, 400, "empty"),
        ([b""], {}, 400, "empty"),
        ([part(b"") + END], {"kind": FORM}, 400, "empty"),
        ([], {"limits": SMALL, "content_length": "1001"}, 413, "too_big"),
        ([b"x" * 600] * 2, {"limits": SMALL}, 413, "too_big"),
        ([b"x" * 600] * 2, {"limits": SMALL, "content_length": "7"}, 413, "too_big"),
        ([part(b"x" * 1_000) + END], {"limits": SMALL, "kind": FORM}, 413, "too_big"),
        ([b"x", None], {}, 400, "cut_short"),
        ([None], {}, 400, "cut_short"),
        ([part(b"x" * 99), None], {"kind": FORM}, 400, "cut_short"),
        ([part(b"x" * 5_000)[:3_000], None], {"limits": Limits(memory_bytes=100), "kind": FORM},
         400, "cut_short"),
    ],
)  # fmt: skip
def test_refused(chunks: list[Any], how: dict[str, Any], status: int, code: str) -> None:
    error = refused(chunks, **how)
    assert (error.status, error.code) == (status, code)
    if code == "too_big":
        assert "1,000 bytes" in str(error)


def test_the_longest_body_that_is_taken() -> None:
    assert took([b"x" * 1_000], SMALL, content_length="\xb2")[1] == b"x" * 1_000


def test_too_slow() -> None:
    silent = Limits(body_idle_s=0.1)
    late = Limits(body_idle_s=0.2, body_s=0.3)
    dribbled = Limits(body_idle_s=0.2, body_bytes_per_s=1_000)
    drops: list[bytes | float | None] = [b"x", 0.05] * 40
    for error in (
        refused([b"x", 0.5, b"y"], silent),
        refused([0.5, b"y"], silent),
        refused([part(b"x")[:9], 0.5], silent, FORM),
        refused(drops, late),
        refused(drops, dribbled),
    ):
        assert (error.status, error.code) == (408, "too_slow")
    quick: list[bytes | float | None] = [b"x" * 100, 0.05] * 10
    assert len(took(quick, dribbled)[1]) == 1_000


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", FORM), (b"x", FORM), (END, FORM), (b"--b\r\n", FORM), (b"--c\r\n\r\n--c--", FORM),
        (part(b"x"), "multipart/form-data"), (part(b"x") + END, "multipart/form-data; boundary="),
        (part(b"x") + END, "multipart/form-data; boundary=" + "x" * 300),
        (part(b"x", "file") + END, FORM), (part(b"x", "sound", None) + END, FORM),
        (part(b"x") + part(b"y") + END, FORM), (part(b"x", "a") + part(b"y") + END, FORM),
        (b"".join(part(b"x", f"f{k}", None) for k in range(9)) + part(b"x") + END, FORM),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END, FORM),
        (b"--b\r\n\r\nx\r\n" + END, FORM),
        (b"--b\r\nX: " + b"y" * 100_000 + b"\r\n\r\nx\r\n" + END, FORM),
        (b"--b\r\n" + b"X: y\r\n" * 10_000 + b"\r\nx\r\n" + END, FORM),
        (b"--b\r\nContent-Disposition: form-data; name*=x''%ff\r\n\r\nx\r\n" + END, FORM),
        (part(b"x" * 2_000_000, "note", None) + part(b"x") + END, FORM),
        (part(b"x")[:-3], FORM),
    ],
)  # fmt: skip
def test_forms_that_are_none(body: bytes, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    error = refused([body], None, kind)
    assert (error.status, error.code) == (400, "form")
    assert caplog.records == []  # a sender's fault is no news of the server


@pytest.mark.parametrize("kind", ["application/octet-stream", FORM])
def test_no_room(kind: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    body = part(b"x" * 2_000) + END
    error = refused([body], Limits(memory_bytes=1_000), kind)
    assert (error.status, error.code) == (503, "no_room")
    assert str(folder) not in str(error)


def test_nothing_is_left_however_it_ends() -> None:
    """A handler that fails, and one that is called off."""

    async def run(ends: Callable[[], Any]) -> None:
        async def give() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x" * 99, "more_body": False}

        request = Request({"type": "http", "method": "POST", "headers": []}, give)
        async with receive(request, Limits(memory_bytes=10)):
            await ends()

    async def fails() -> None:
        raise ZeroDivisionError

    async def waits() -> None:
        await asyncio.sleep(60)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run(fails))
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(run(waits), 0.05))


def test_the_body_is_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is handed over as a descriptor is not kept a second time."""
    held: list[Any] = []
    spool = tempfile.SpooledTemporaryFile

    def watched(**how: Any) -> Any:
        held.append(spool(**how))
        return held[-1]

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", watched)
    took([b"x" * 1_000])
    assert held[0].closed
