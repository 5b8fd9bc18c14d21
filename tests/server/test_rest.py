"""The REST API on a real server: what it answers, and what it says when it does not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import soundfile
from PIL import Image
from tests.server.conftest import decoders

from soundsight import __version__
from soundsight.core import protocol
from soundsight.core.errors import ConfigError
from soundsight.runtime.translator import Translator
from soundsight.server import schemas
from soundsight.server.app import create_app
from soundsight.server.errors import HEADERS, RETRY_S
from soundsight.server.limits import Access, Limits

PATIENCE_S = 60


def sound(seconds: float = 2.0, rate_hz: int = 44_100, kind: str = "WAV") -> bytes:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    swell = np.where(t >= seconds - 1.0, 1.0, 0.5)
    samples = 0.3 * swell * np.sin(2 * np.pi * 440 * t)
    samples += np.random.default_rng(0).normal(0, 0.02, len(t))
    file = io.BytesIO()
    soundfile.write(file, samples.astype(np.float32), rate_hz, format=kind)
    return file.getvalue()


SOUND = sound()
TRANSLATE = "/v1/translate"


@pytest.fixture(scope="module")
def server(run_server: Callable[..., Any]) -> Iterator[Any]:
    """A server that takes little at once."""
    limits = Limits(
        max_upload_bytes=4 << 20, memory_bytes=1 << 20, max_pictures=12, max_duration_s=60.0,
        body_idle_s=1.0, max_jobs=2, max_waiting=3,
    )  # fmt: skip
    with run_server(limits) as running:
        yield running


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go: after each test there is none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(autouse=True)
def _unharmed(request: pytest.FixtureRequest, eventually: Callable[..., Any]) -> Iterator[None]:
    """After each test the server works as before, and its log tells of no fault."""
    yield
    if "server" in request.fixturenames:
        running = request.getfixturevalue("server")
        eventually(lambda: running.figure("soundsight_jobs") == 0, "the end of all work")
        eventually(lambda: running.services.jobs._present == 0, "the end of all requests")
        assert running.client.get("/readyz").json() == {"status": "ready"}
        assert running.faults() == []


def refused(answer: httpx.Response, status: int, code: str = "") -> str:
    """An answer in the form of all refusals; its line for people."""
    assert answer.status_code == status, answer.text
    fault = answer.json()["error"]
    assert set(fault) == {"code", "message"}
    assert code in ("", fault["code"])
    message: str = fault["message"]
    assert message
    assert message.isprintable()
    for secret in ("/proc", "/tmp", "/src/", "/home", "site-packages", "Traceback", ".py"):
        assert secret not in message
    carries(answer)
    return message


def carries(answer: httpx.Response) -> None:
    """The header fields of every answer."""
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "server" not in answer.headers


@contextlib.contextmanager
def slowed(name: str, before: Callable[[], None]) -> Iterator[None]:
    """Something happens before each call of a method of the translator."""
    own = getattr(Translator, name)

    def slow(self: Any, *args: Any, **options: Any) -> Any:
        before()
        return own(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Translator, name, slow)
        yield


# --- what is answered ------------------------------------------------------------------------


def test_the_sound_as_a_whole(server: Any, tiny_model: Path, tmp_path: Path) -> None:
    """The same pictures as the translator's, however the sound comes."""
    query = f"{TRANSLATE}?seed=7&draws=2"
    answer = server.client.post(query, content=SOUND)
    assert answer.status_code == 200
    carries(answer)
    assert answer.headers["cache-control"] == "no-store"
    told = answer.json()
    assert (told["model"], told["seed"]) == ("tiny 0.0.1", 7)
    path = tmp_path / "a.wav"
    path.write_bytes(SOUND)
    wanted = Translator.load(tiny_model).translate(path, draws=2, seed=7)
    path.unlink()
    assert len(told["pictures"]) == len(wanted.images) == 2
    for k, picture in enumerate(told["pictures"]):
        with Image.open(io.BytesIO(base64.b64decode(picture["png"]))) as image:
            np.testing.assert_array_equal(np.asarray(image), wanted.images[k])
        assert picture["second"] == pytest.approx(float(wanted.seconds[k]), abs=0.001)
        assert picture["draw"] == k
        assert picture["state"] == wanted.state[k].value
        assert picture["level_dbfs"] == pytest.approx(float(wanted.rms_dbfs[k]), abs=0.06)
    form = server.client.post(query, files={"sound": ("dog.wav", SOUND)})
    chunks = (SOUND[k : k + 999] for k in range(0, len(SOUND), 999))
    chunked = server.client.post(query, content=chunks)
    assert answer.content == form.content == chunked.content
    other = server.client.post(f"{TRANSLATE}?seed=8&draws=2", content=SOUND)
    assert other.json()["pictures"] != told["pictures"]


@pytest.mark.parametrize(
    "options", [{"seed": "5", "draws": "3"}, {"format": "png", "each_second": "1", "anyway": "1"}]
)
def test_options_may_stand_in_the_form(server: Any, options: dict[str, str]) -> None:
    file = {"sound": ("dog.wav", sound(3.0))}
    by_query = server.client.post(TRANSLATE, params=options, files=file)
    (name, value), *rest = options.items()
    for query, form in (({}, options), ({name: value}, dict(rest))):
        answer = server.client.post(TRANSLATE, params=query, data=form, files=file)
        assert answer.status_code == 200
        assert answer.content == by_query.content
    assert by_query.content != server.client.post(TRANSLATE, files=file).content


def test_pictures_and_sheets(server: Any) -> None:
    sizes = []
    for query, file in (
        ("", ("a.wav", SOUND)),
        ("&draws=2", ("<b>\u00f6.wav", SOUND)),
        ("&each_second=1", ("a.wav", sound(3.0))),
    ):
        answer = server.client.post(f"{TRANSLATE}?format=png{query}", files={"sound": file})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(answer.content)) as image:
            sizes.append(image.size)
    assert sizes[0] == (96, 96)
    assert min(*sizes[1], *sizes[2]) > 192


def test_facts_about_the_server(server: Any) -> None:
    told = server.client.get("/v1/model").json()
    assert (told["name"], told["soundsight"]) == ("tiny", __version__)
    assert (told["image_px"], told["segment_s"]) == (96, 1.0)
    assert (told["labels"], told["alerts"]) == ([], [])
    assert set(told["thresholds"]) == {"quiet_dbfs", "ood_score", "confidence"}
    assert "/" not in json.dumps({**told, "licence": ""})
    assert server.client.get("/healthz").json() == {"status": "alive"}
    # The page reads the protocol as it is in the code, with its JSON Schema.
    assert server.client.get("/static/protocol.json").json() == protocol.description()
    told = server.client.get("/openapi.json").json()
    upload, model = {TRANSLATE, "/v1/storyboard"}, "/v1/model"
    assert set(told["paths"]) == upload | {model, "/healthz", "/readyz", "/metrics"}
    answer = told["paths"][TRANSLATE]["post"]["responses"]["200"]
    schemas.Translated.model_validate(answer["content"]["application/json"]["example"])


def test_metrics(server: Any) -> None:
    counted = {"path": "/v1/model", "status": "200"}
    before = server.figure("soundsight_request_seconds_count", **counted)
    server.client.get("/v1/model")
    server.client.get("/v1/unknown/" + "x" * 99)
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for name in (
        "soundsight_streams", "soundsight_windows_total", "soundsight_windows_skipped_total",
        "soundsight_window_seconds_bucket", "soundsight_queue_windows", "soundsight_jobs",
        "soundsight_queue_wait_seconds", "soundsight_refusals_total", "soundsight_request_seconds",
    ):  # fmt: skip
        assert name in answer.text, name
    assert server.figure("soundsight_request_seconds_count", **counted) == before + 1
    assert "xxx" not in answer.text  # what is asked for makes no series of its own


def test_pages_and_scripts(server: Any) -> None:
    """Everything that a page needs comes from here, under a policy that lets nothing else run."""
    for path, kind in (
        ("/", "text/html"), ("/file", "text/html"), ("/static/protocol.json", "application/json"),
        ("/static/board.js", "text/javascript"), ("/static/board.css", "text/css"),
        ("/static/file.js", "text/javascript"), ("/static/file-request.js", "text/javascript"),
        ("/static/file.css", "text/css"),
    ):  # fmt: skip
        answer = server.client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["cache-control"] == "no-cache"
        carries(answer)
        if kind == "text/html":
            assert "<script>" not in answer.text
            assert " style=" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert not any(open_door in policy for open_door in ("unsafe", "http", "*"))
    for path in ("/healthz", "/v1/model", "/metrics", "/static/protocol.json", "/"):
        answer = server.client.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
        assert int(answer.headers["content-length"]) > 0
        carries(answer)
    assert server.client.head(TRANSLATE).status_code == 405


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "draws=0", "draws=65", "draws=-1", "draws=x", "draws=1.5", "draws=", "draws=1e1",
        "candidates=2", "seed=-1", "seed=9007199254740992",
        "seed=x", "seed=" + "9" * 5_000, "each_second=maybe", "anyway=2", "format=gif", "format=",
        "format=PNG", "draws=%00", "track=0", "strict=x",
        "draws=\u0663\u00b2", "seed=NaN", "seed=Infinity", "draw=2",
        "x=1&draws=1",
    ],
)  # fmt: skip
def test_parameters_out_of_range(server: Any, query: str) -> None:
    message = refused(server.client.post(f"{TRANSLATE}?{query}", content=SOUND), 422, "parameter")
    assert message.startswith(query.partition("=")[0] + ": ")
    assert len(message) < 300


@pytest.mark.parametrize(
    ("path", "query", "form", "status", "says"),
    [
        (TRANSLATE, {}, {"drawz": "2"}, 422, "drawz: no such parameter, there are "),
        (TRANSLATE, {}, {"draws": "65"}, 422, "draws: "),
        (TRANSLATE, {}, {"draws": "two"}, 422, "draws: "),
        (TRANSLATE, {"draws": "2"}, {"draws": "2"}, 422,
         "draws: it stands in the query and in the form"),
        (TRANSLATE, {}, {"seed": ["1", "2"]}, 400, "the form has a field twice"),
        ("/v1/storyboard", {}, {"candidates": "2"}, 422, "candidates: no such parameter"),
        ("/v1/storyboard", {}, {"seed": ["1", "2"]}, 400, "the form has a field twice"),
    ],
)  # fmt: skip
def test_options_of_a_form_that_cannot_be_are_refused(
    server: Any, path: str, query: dict[str, str], form: dict[str, Any], status: int, says: str
) -> None:
    answer = server.client.post(path, params=query, data=form, files={"sound": ("a", SOUND)})
    assert refused(answer, status, "parameter" if status == 422 else "form").startswith(says)


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        # Other faults of a body: see test_uploads.py.
        ({}, 400, "empty"), ({"content": b"x" * ((4 << 20) + 1)}, 413, "too_big"),
        ({"content": (b"x" * (1 << 20) for _ in range(5))}, 413, "too_big"),
        ({"files": {"file": SOUND}}, 400, "form"), ({"json": {"sound": "x"}}, 400, "sound"),
    ],
)  # fmt: skip
def test_bodies_that_are_none(server: Any, how: dict[str, Any], status: int, code: str) -> None:
    refused(server.client.post(TRANSLATE, **how), status, code)


def test_sounds_that_are_none(server: Any) -> None:
    files = {
        "dog.wav": b"no sound at all" * 99,
        "short.wav": sound(0.05),
        "../../etc/passwd": b"root:x:0:0",
        "a\nb\x1b.wav": b"x",
        "<img src=x onerror=alert(1)>": b"x",
        "x" * 2_000: b"x",
        "long.wav": sound(70.0, 8_000),
    }
    for name, data in files.items():
        answer = server.client.post(TRANSLATE, files={"sound": (name, data)})
        message = refused(answer, 400, "sound")
        assert len(message) < 300, message
    assert "long.wav is longer than 60 s" in message
    answer = server.client.post(TRANSLATE, files={"sound": ("x" * 10_000, SOUND)})
    assert answer.status_code in (200, 400)  # the form's head has a limit of its own


def test_what_can_be_read_of_a_damaged_sound_is_used(server: Any) -> None:
    cut = {"sound": ("cut.flac", sound(2.0, kind="FLAC")[:50_000])}
    answer = server.client.post(TRANSLATE, files=cut)
    assert answer.status_code == 200
    (told,) = answer.json()["warnings"]
    assert told.startswith("cut.flac is damaged at 0.7")
    assert server.client.post(TRANSLATE, content=SOUND).json()["warnings"] == []
    refused(server.client.post(f"{TRANSLATE}?strict=1", files=cut), 400, "sound")
    message = refused(server.client.post(f"{TRANSLATE}?track=2", content=SOUND), 400, "sound")
    assert "has 1 sound track: there is no track 2" in message


def test_too_many_pictures(server: Any) -> None:
    ask = f"{TRANSLATE}?each_second=1"
    for draws, seconds in ((1, 13.0), (7, 2.0), (13, 1.0)):
        answer = server.client.post(f"{ask}&draws={draws}", content=sound(seconds))
        assert "more than 12 pictures" in refused(answer, 413, "too_many")
    assert len(server.client.post(ask, content=sound(12.0)).json()["pictures"]) == 12


def test_other_methods_and_paths(server: Any) -> None:
    for method, path, status in (
        ("GET", "/v1/translate", 405), ("PUT", "/v1/translate", 405), ("DELETE", "/", 405),
        ("OPTIONS", "/v1/translate", 405), ("TRACE", "/healthz", 405), ("POST", "/healthz", 405),
        ("GET", "/v1", 404), ("GET", "/docs", 404), ("GET", "/redoc", 404),
        ("GET", "/docs/oauth2-redirect", 404), ("GET", "/favicon.ico", 404),
        ("GET", "/v1/stream", 404), ("GET", "/static/none.js", 404), ("GET", "/static/", 404),
        ("POST", "/static/protocol.json", 405), ("GET", "/" + "x" * 9_000, 404),
        ("GET", "/static/" + "x" * 9_000, 404), ("GET", "/%00", 404), ("GET", "/static/%00", 404),
        ("GET", "/%ff%fe", 404), ("GET", "/static/%ff", 404), ("FOO", "/", 405),
    ):  # fmt: skip
        answer = server.client.request(method, path)
        refused(answer, status)
        assert status == 404 or answer.headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/..%5capp.py",
        "/static/%2e%2e%2fapp.py", "/static//etc/passwd", "/static/%2fetc%2fpasswd",
        "/static/....//app.py", "/static/..;/app.py", "/static/%252e%252e/app.py", "/../app.py",
        "/static/%c0%ae%c0%ae/app.py", "//etc/passwd",
    ],
)  # fmt: skip
def test_no_way_out_of_static(server: Any, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = server.answer(head.encode())
    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), answer[:200]
    assert b"create_app" not in answer
    assert b"root:" not in answer


# --- who is refused --------------------------------------------------------------------------


def test_names_and_origins(server: Any) -> None:
    for headers in (
        {"host": "evil.example"}, {"host": "evil.example:80"}, {"host": ""},
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://localhost"},
    ):  # fmt: skip
        for path in ("/", "/healthz", "/v1/model", "/static/protocol.json", "/nowhere"):
            answer = server.client.get(path, headers=headers)
            refused(answer, 403)
            assert "access-control-allow-origin" not in answer.headers
    answer = server.client.post(TRANSLATE, content=SOUND, headers={"origin": server.url})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    refused(server.client.options(TRANSLATE, headers=preflight), 403)


def test_a_token_and_a_page_of_another_origin(
    run_server: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    page, other = "https://page.example", "https://other.example"
    with run_server(token="secret", origins=[page]) as server:
        for path in ("/", "/file", "/healthz", "/readyz", "/static/protocol.json"):
            assert server.client.get(path).status_code == 200, path
        closed = [("GET", path) for path in ("/v1/model", "/metrics", "/openapi.json", "/nowhere")]
        closed += [("POST", TRANSLATE), ("POST", "/v1/storyboard"), ("GET", "/v1/stream")]
        shown = ("", "Bearer", "Bearer wrong", "Basic secret", "secret", "Bearer \xff")
        for method, path in closed:
            for header in (None, *shown):
                headers = {} if header is None else {"authorization": header.encode("latin-1")}
                answer = server.client.request(method, path, headers=headers)
                refused(answer, 401, "token")
                assert answer.headers["www-authenticate"] == "Bearer"
            refused(server.client.request(method, path + "?token=secret"), 401)
        known = {"authorization": "Bearer secret"}
        for path in ("/v1/model", "/metrics", "/openapi.json"):
            assert server.client.get(path, headers=known).status_code == 200

        wanted = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        preflight = server.client.options(TRANSLATE, headers={"origin": page, **wanted})
        assert preflight.status_code == 200
        carries(preflight)
        assert preflight.headers["access-control-allow-origin"] == page
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in preflight.headers
        answer = server.client.options(TRANSLATE, headers={"origin": other, **wanted})
        assert answer.status_code == 400
        carries(answer)
        assert "access-control-allow-origin" not in answer.headers
        for token, status in (("secret", 200), ("wrong", 401)):
            headers = {"origin": page, "authorization": f"Bearer {token}"}
            answer = server.client.post(TRANSLATE, content=SOUND, headers=headers)
            assert answer.status_code == status
            assert "secret" not in answer.text
            assert answer.headers["access-control-allow-origin"] == page  # it can read the fault
            carries(answer)
            headers["origin"] = other
            refused(server.client.post(TRANSLATE, content=SOUND, headers=headers), 403)
    told = capfd.readouterr()
    assert "secret" not in told.out + told.err


@pytest.mark.parametrize("path", ["/file", "/v1", "/v1/x", "/static", "/metrics", "/openapi.json"])
def test_a_root_path_that_begins_like_a_path_of_the_server(path: str) -> None:
    """Of ``/file`` nobody could say whether the proxy has taken off a ``/file`` before it."""

    def create(root_path: str) -> None:
        create_app(Access(), Limits(), root_path=root_path)

    with pytest.raises(ConfigError, match="is the server's own, choose another path"):
        create(path)
    create(f"/sound{path}")
    create("/s" + path.removeprefix("/"))


# --- bare sockets ----------------------------------------------------------------------------


def post(length: int | None = None, more: bytes = b"") -> bytes:
    size = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"POST /v1/translate HTTP/1.1\r\nHost: localhost\r\n" + size + b"\r\n" + more + b"\r\n"


def first_answer(line: socket.socket) -> tuple[int, bytes]:
    """Read one answer of a known length; its status and its body."""
    data = body = b""
    with contextlib.suppress(ConnectionResetError):
        while part := line.recv(1 << 16):
            data += part
            head, _, body = data.partition(b"\r\n\r\n")
            sizes = [v for v in head.lower().split(b"\r\n") if v.startswith(b"content-length:")]
            if sizes and len(body) >= int(sizes[0].split(b":")[1]):
                break
    return int(data.split(b" ", 2)[1]) if data else 0, body


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400), (b"\x16\x03\x01\x02\x00\x01" + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000, 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX\x00: y\r\n\r\n", 400),
        (post(5, b"Content-Length: 6\r\n"), 400), (post(5, b"Transfer-Encoding: x\r\n"), 400),
        (post(None) + b"zz\r\nhello\r\n", 400), (post(None) + b"-5\r\nhello\r\n", 400),
        (b"POST /v1/translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 400),
        (post(1 << 60), 413), (post(10**30), 400), (post(None) + b"ffffffffffffffff\r\nx", 408),
        # Bodies that come slowly.
        (post(1_000) + b"x", 408), (post(None) + b"3e8\r\nx", 408),
    ],
)  # fmt: skip
def test_what_is_no_http_or_comes_slowly(server: Any, data: bytes, status: int) -> None:
    with server.raw() as line:
        with contextlib.suppress(OSError):
            line.sendall(data)
        told, body = first_answer(line)
    # What is no HTTP gets uvicorn's own line of text.
    assert told in (status, 400), body[:300]
    assert told != 408 or b"too_slow" in body


@pytest.mark.slow
def test_clients_that_vanish(server: Any, eventually: Callable[..., Any]) -> None:
    """In the head, in the body, at work, and while they are answered."""
    messages = [b"", b"POST /v1", post(len(SOUND)), post(len(SOUND)) + SOUND[:9_000],
                post(None) + b"fff\r\n", post(len(SOUND)) + SOUND]  # fmt: skip
    files = psutil.Process().num_fds()
    server.vanish(*messages * 3)
    eventually(lambda: server.services.jobs._present == 0)
    eventually(lambda: psutil.Process().num_fds() <= files + 3, "the end of all connections")


def test_work_ends_with_its_client(server: Any, eventually: Callable[..., Any]) -> None:
    seconds: list[float] = []

    def wait() -> None:
        seconds.append(time.monotonic())
        time.sleep(1.0)

    data = sound(12.0)
    with slowed("recognise", wait):
        with server.raw() as line:
            head = post(len(data)).replace(b"translate", b"translate?each_second=1")
            line.sendall(head + data)
            eventually(lambda: seconds, "the first second")
        eventually(lambda: server.services.jobs._present == 0)
    assert len(seconds) < 12


@pytest.mark.parametrize("path", [TRANSLATE, "/v1/storyboard"])
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
        error = json.loads(b"".join(message["body"] for message in bodies))["error"]
        assert error["code"] == "not_ready"
        assert "the server stops" in error["message"]

    asyncio.run(asyncio.wait_for(play(), PATIENCE_S))


# --- many at once ----------------------------------------------------------------------------


def test_more_than_can_wait(server: Any) -> None:
    """Two at work, three that wait: the others are told to come again."""
    gate = threading.Event()

    def ask(_: int) -> httpx.Response:
        return httpx.post(server.url + TRANSLATE, content=SOUND, timeout=60)

    with slowed("translate", lambda: gate.wait(60)), ThreadPoolExecutor(12) as pool:  # type: ignore[arg-type, return-value]
        asked = [pool.submit(ask, k) for k in range(12)]
        while sum(one.done() for one in asked) < 7:
            time.sleep(0.01)
        assert server.figure("soundsight_jobs") == 2
        assert server.client.get("/healthz").status_code == 200
        gate.set()
        answers = [one.result() for one in asked]
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [503] * 7
    assert server.figure("soundsight_refusals_total", reason="busy") >= 7
    for answer in answers:
        if answer.status_code == 503:
            refused(answer, 503, "busy")
            assert answer.headers["retry-after"] == str(RETRY_S)


@pytest.mark.slow
def test_nothing_is_left_behind(server: Any, eventually: Callable[..., Any], folder: Path) -> None:
    """Two hundred requests, good and bad, long and short."""
    process = psutil.Process()
    short, long = sound(0.3, 8_000), sound(13.0, 44_100)
    assert len(long) > server.services.limits.memory_bytes
    bodies = [short, b"x" * 99, short[:2_000], long]

    def visit(number: int) -> None:
        # Most end before a sound is decoded.
        query = "" if number % 5 == 0 else "?draws=0" if number % 5 == 1 else "?draws=1"
        body = bodies[number // 5 % 4] if number % 5 == 0 else b"" if number % 5 == 2 else None
        how: dict[str, Any] = {"content": body} if number % 2 else {"files": {"sound": body or b""}}
        answer = server.client.post(TRANSLATE + query, **how)
        assert answer.status_code in (200, 400, 422)

    for number in range(20):
        visit(number)
    eventually(lambda: len(decoders()) == 1)
    files, memory = process.num_fds(), process.memory_info().rss
    for number in range(200):
        visit(number)
    eventually(lambda: len(decoders()) == 1)
    eventually(lambda: process.num_fds() <= files, "the end of all connections")
    assert process.memory_info().rss < memory + (48 << 20)
    assert list(folder.iterdir()) == []


def test_a_fault_of_the_server(server: Any) -> None:
    def breaks() -> None:
        raise ZeroDivisionError("/home/somebody")

    with slowed("translate", breaks):
        message = refused(server.client.post(TRANSLATE, content=SOUND), 500, "fault")
    assert message == "a fault of the server"
    (fault,) = server.faults()
    assert "ZeroDivisionError" in fault
    server.log.records.clear()
    assert server.client.post(TRANSLATE, content=SOUND).status_code == 200


def test_no_room(server: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nowhere to put a long body: one line in the log, no path in the answer."""
    with monkeypatch.context() as full:
        full.setattr(tempfile, "tempdir", str(folder / "gone"))
        long = sound(13.0)
        for how in ({"content": long}, {"files": {"sound": ("a.wav", long)}}):
            refused(server.client.post(TRANSLATE, **how), 503, "no_room")
        # A short one does not need it.
        assert server.client.post(TRANSLATE, content=SOUND).status_code == 200
    told = [r.getMessage() for r in server.log.records if r.name == "soundsight.server"]
    assert told == ["no room for an upload: No such file or directory"] * 2
    server.log.records.clear()


def test_streams_go_on_beside_uploads(server: Any) -> None:
    """Uploads keep their own threads: a stream's windows come while they are worked on."""
    stop = threading.Event()

    def upload() -> None:
        while not stop.is_set():
            answer = httpx.post(f"{server.url}{TRANSLATE}?each_second=1", content=sound(6.0))
            assert answer.status_code == 200

    with ThreadPoolExecutor(2) as pool, server.talk() as talk:
        work = [pool.submit(upload) for _ in range(2)]
        try:
            talk.hello(rate_hz=8_000)
            for _ in range(2):
                talk.sound(np.full(4_800, 3_000, "<i2"))
            for count in range(1, 9):
                # While both uploads are at work, as they are until they are told to stop.
                talk.until(count)
                talk.sound(np.full(2_000 if count < 8 else 400, 3_000, "<i2"))
            talk.say(type="end")
            assert talk.closed()[0] == 1000
        finally:
            stop.set()
        for one in work:
            one.result()
    assert [facts.end_s for facts in talk.windows] == [1 + 0.25 * n for n in range(9)]


def test_not_ready_while_it_stops(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as stops:
        stops.setattr(server.services.streams, "leaving", True)
        answer = server.client.get("/readyz")
        refused(answer, 503, "not_ready")
        assert answer.headers["retry-after"]
        assert server.client.get("/healthz").status_code == 200
