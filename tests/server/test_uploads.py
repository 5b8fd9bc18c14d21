"""Uploads: bounded in length and time, never on a disk without need, gone at the end; and work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from starlette.requests import Request

from soundsight.core.errors import AudioError
from soundsight.server.errors import ApiError
from soundsight.server.limits import Limits
from soundsight.server.metrics import Metrics
from soundsight.server.uploads import Jobs, clean_name, receive

PATIENCE_S = 60
FORM = "multipart/form-data; boundary=b"
END = b"--b--\r\n"


def part(data: bytes, name: str = "sound", file: str | None = "dog.wav") -> bytes:
    shown = f'; filename="{file}"' if file is not None else ""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n\r\n'
    return head.encode() + data + b"\r\n"


def took(
    chunks: list[bytes | float | None],
    limits: Limits | None = None,
    kind: str = "application/octet-stream",
    *,
    inside: Callable[[], Any] = lambda: None,
    **headers: str,
) -> tuple[str, bytes]:
    """Receive a body: bytes come at once, a number is a pause, None breaks the connection.

    ``inside`` is called while the upload is there. Returns its name and its content.
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
            if (wait := inside()) is not None:
                await wait
            data = os.pread(upload.handle, 1 << 24, 0)
            assert len(data) == upload.size
            return upload.name, data

    return asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


def refused(*args: Any, **options: Any) -> tuple[int, str, str]:
    """Status, code and line of a refusal."""
    with pytest.raises(ApiError) as told:
        took(*args, **options)
    assert str(told.value).isprintable()
    return told.value.status, told.value.code, str(told.value)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; each test leaves none, and no descriptor."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    took([b"x"])
    before = psutil.Process().num_fds()
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    assert psutil.Process().num_fds() == before


# --- what is taken ---------------------------------------------------------------------------


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


def test_where_bodies_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short one in memory, once; a long one in a file without a name."""

    def look() -> None:
        assert list(folder.iterdir()) == []

    limits = Limits(memory_bytes=1_000)
    long = took([b"x" * 600, b"y" * 600], limits, inside=look)
    assert long == ("the sound", b"x" * 600 + b"y" * 600)
    long = took([part(b"z" * 5_000) + END], limits, FORM, inside=look)
    assert long == ("dog.wav", b"z" * 5_000)

    def none(*_args: Any, **_options: Any) -> None:
        raise AssertionError("an upload has touched the disk")

    held: list[Any] = []
    spool = tempfile.SpooledTemporaryFile

    def watched(**how: Any) -> Any:
        held.append(spool(**how))
        return held[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", none)
    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", watched)
    assert took([b"x" * 600, b"y" * 400], limits)[1] == b"x" * 600 + b"y" * 400
    assert took([part(b"z" * 1_000) + END], limits, FORM) == ("dog.wav", b"z" * 1_000)
    assert held[0].closed  # what is handed over as a descriptor is not kept a second time


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
        ([part(b"x") + END], {"limits": SMALL, "kind": FORM, "content_length": "1001"},
         413, "too_big"),
        ([b"x", None], {}, 400, "cut_short"),
        ([None], {}, 400, "cut_short"),
        ([part(b"x" * 99), None], {"kind": FORM}, 400, "cut_short"),
        ([part(b"x" * 5_000)[:3_000], None], {"limits": Limits(memory_bytes=100), "kind": FORM},
         400, "cut_short"),
    ],
)  # fmt: skip
def test_refused(chunks: list[Any], how: dict[str, Any], status: int, code: str) -> None:
    *told, line = refused(chunks, **how)
    assert told == [status, code]
    assert code != "too_big" or "1,000 bytes" in line


def test_the_longest_body_that_is_taken() -> None:
    assert took([b"x" * 1_000], SMALL, content_length="\xb2")[1] == b"x" * 1_000


def test_too_slow() -> None:
    silent = Limits(body_idle_s=0.1)
    late = Limits(body_idle_s=0.2, body_s=0.3)
    dribbled = Limits(body_idle_s=0.2, body_bytes_per_s=1_000)
    drops: list[bytes | float | None] = [b"x", 0.05] * 40
    for args in (
        ([b"x", 0.5, b"y"], silent), ([0.5, b"y"], silent), ([part(b"x")[:9], 0.5], silent, FORM),
        (drops, late), (drops, dribbled),
    ):  # fmt: skip
        assert refused(*args)[:2] == (408, "too_slow")
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
    assert refused([body], None, kind)[:2] == (400, "form")
    assert caplog.records == []  # a sender's fault is no news of the server


def test_nothing_is_left_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that fails, and one that is called off."""
    with pytest.raises(ZeroDivisionError):
        took([b"x" * 99], Limits(memory_bytes=10), inside=lambda: 1 // 0)
    monkeypatch.setitem(globals(), "PATIENCE_S", 0.05)
    with pytest.raises(TimeoutError):
        took([b"x" * 99], Limits(memory_bytes=10), inside=lambda: asyncio.sleep(60))


# --- work on threads -------------------------------------------------------------------------


class Steps:
    """A generator that a test can hold in the middle of a step, and that knows how it ended."""

    def __init__(self, count: int, *, held_at: int = -1) -> None:
        self.count = count
        self.held_at = held_at
        self.inside = threading.Event()
        self.held = threading.Event()
        self.made: list[int] = []
        self.closed_early = False
        self.ended = False
        self.threads: set[int] = set()

    def run(self) -> Generator[int]:
        try:
            for number in range(self.count):
                self.threads.add(threading.get_ident())
                if number == self.held_at:
                    self.inside.set()
                    assert self.held.wait(PATIENCE_S)
                self.made.append(number)
                yield number
        except GeneratorExit:
            self.closed_early = True
            raise
        finally:
            self.ended = True


def played(play: Callable[[Jobs], Awaitable[None]], **limits: int) -> None:
    """Run a test on a loop of its own; at its end no seat is taken, and the loop has no complaint.

    A task whose fault nobody has seen is a complaint.
    """
    complaints: list[str] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context["message"])
        )
        jobs = Jobs(Limits(**limits), Metrics())  # type: ignore[arg-type]
        await asyncio.wait_for(play(jobs), PATIENCE_S)
        assert working(jobs) == 0
        # All seats can be taken again.
        gate = threading.Event()
        seats = limits.get("max_jobs", 2)
        again = [asyncio.create_task(jobs.run(gate.wait)) for _ in range(seats)]
        await until(lambda: working(jobs) == seats)
        gate.set()
        await asyncio.gather(*again)

    asyncio.run(run())
    assert complaints == []


def working(jobs: Jobs) -> float:
    return jobs._metrics.registry.get_sample_value("soundsight_jobs") or 0.0


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


def test_steps_run_in_order_each_when_it_is_asked_for() -> None:
    """A client that reads slowly makes the work slow, not the memory full."""
    steps, unasked, left = Steps(20), Steps(10), Steps(10)

    async def play(jobs: Jobs) -> None:
        async for number in jobs.iterate(steps.run()):
            assert working(jobs) == 1
            await asyncio.sleep(0.002)
            assert steps.made == list(range(number + 1))
        assert steps.made == list(range(20))
        assert threading.get_ident() not in steps.threads
        assert (steps.ended, steps.closed_early) == (True, False)
        await jobs.iterate(unasked.run()).aclose()
        assert (unasked.made, unasked.ended) == ([], False)
        async with contextlib.aclosing(jobs.iterate(left.run())) as numbers:
            async for number in numbers:
                if number == 3:
                    break
        assert (left.made, left.closed_early) == ([0, 1, 2, 3], True)

    played(play)


def test_errors_come_through() -> None:
    def breaks() -> Generator[int]:
        yield 1
        raise AudioError("the sound is damaged")

    async def play(jobs: Jobs) -> None:
        numbers = jobs.iterate(breaks())
        assert await anext(numbers) == 1
        with pytest.raises(AudioError, match="the sound is damaged"):
            await anext(numbers)
        with pytest.raises(ZeroDivisionError):
            await jobs.run(lambda: 1 // 0)

    played(play)


@pytest.mark.parametrize("fails", [False, True])
def test_a_client_that_goes_away_in_the_middle_of_a_step(fails: bool) -> None:
    """The running step is waited for, then the generator is closed; the seat is kept till then.

    Starlette cancels anew in every turn of the loop: the loop must not be kept busy with it.
    """
    steps = Steps(10, held_at=2)

    def numbers() -> Generator[int]:
        yield from steps.run()
        raise AudioError("nobody wants to know")

    async def play(jobs: Jobs) -> None:
        async with anyio.create_task_group() as group:

            async def read() -> None:
                async for _ in jobs.iterate(numbers()):
                    pass

            group.start_soon(read)
            await until(steps.inside.is_set)
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                for _ in range(100):
                    await asyncio.sleep(0)
                assert working(jobs) == 1
            assert not steps.ended
            if fails:
                steps.count = 3
            steps.held.set()
        assert (steps.made, steps.closed_early) == ([0, 1, 2], True)

    played(play)


def test_no_more_at_once_than_there_are_seats() -> None:
    gate, most = threading.Event(), []
    waiting = Steps(3)

    async def play(jobs: Jobs) -> None:
        def work() -> int:
            gate.wait(PATIENCE_S)
            most.append(working(jobs))
            return threading.get_ident()

        async def read() -> list[int]:
            return [number async for number in jobs.iterate(waiting.run())]

        tasks = [asyncio.create_task(jobs.run(work)) for _ in range(7)]
        await until(lambda: working(jobs) == 2)
        cancelled = asyncio.create_task(read())
        await asyncio.sleep(0.02)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert (cancelled.cancelled(), waiting.made) == (True, [])
        gate.set()
        assert threading.get_ident() not in await asyncio.gather(*tasks)
        assert (len(most), max(most)) == (7, 2)
        assert await read() == [0, 1, 2]

    played(play, max_jobs=2)
