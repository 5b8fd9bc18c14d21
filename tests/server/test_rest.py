"""The REST API on a real server: what it answers, and what it says when it does not."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import struct
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

from soundsight import __version__
from soundsight.core import protocol
from soundsight.runtime.translator import Translator
from soundsight.server import rest
from soundsight.server.errors import HEADERS, RETRY_S
from soundsight.server.limits import Limits


def sound(seconds: float = 2.0, rate_hz: int = 44_100, kind: str = "WAV") -> bytes:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    swell = np.where(t >= seconds - 1.0, 1.0, 0.5)
    samples = 0.3 * swell * np.sin(2 * np.pi * 440 * t)
    samples += np.random.default_rng(0).normal(0, 0.02, len(t))
    file = io.BytesIO()
    soundfile.write(file, samples.astype(np.float32), rate_hz, format=kind)
    return file.getvalue()


SOUND = sound()


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
        assert running.client.get("/readyz").status_code == 200
        assert running.faults() == []


def refused(answer: httpx.Response, status: int, code: str = "") -> str:
    """An answer in the form of all refusals; its line for people."""
    assert answer.status_code == status, answer.text
    fault = answer.json()["error"]
    assert set(fault) == {"code", "message"}
    if code:
        assert fault["code"] == code
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


# --- what is answered ------------------------------------------------------------------------


def test_the_sound_as_a_whole(server: Any, tiny_model: Path, tmp_path: Path) -> None:
    """The same pictures as the translator's."""
    answer = server.client.post("/v1/translate?seed=7&draws=2", content=SOUND)
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
    again = server.client.post("/v1/translate?seed=7&draws=2", content=SOUND)
    assert again.content == answer.content
    other = server.client.post("/v1/translate?seed=8&draws=2", content=SOUND)
    assert other.json()["pictures"] != told["pictures"]


def test_every_second(server: Any) -> None:
    pictures = server.client.post(
        "/v1/translate", params={"each_second": True, "draws": 2}, content=sound(5.0)
    ).json()["pictures"]
    assert [(p["second"], p["draw"]) for p in pictures] == [
        (s, d) for s in range(5) for d in (0, 1)
    ]


def test_raw_or_in_a_form(server: Any) -> None:
    raw = server.client.post("/v1/translate", content=SOUND)
    form = server.client.post("/v1/translate", files={"sound": ("dog.wav", SOUND)})
    chunked = server.client.post(
        "/v1/translate", content=(SOUND[k : k + 999] for k in range(0, len(SOUND), 999))
    )
    assert raw.content == form.content == chunked.content


@pytest.mark.parametrize(
    "options",
    [
        {"draws": "2"},
        {"seed": "5", "draws": "3"},
        {"each_second": "true", "anyway": "1"},
        {"format": "png", "draws": "2"},
    ],
)
def test_options_may_stand_in_the_form(server: Any, options: dict[str, str]) -> None:
    file = {"sound": ("dog.wav", sound(3.0))}
    by_query = server.client.post("/v1/translate", params=options, files=file)
    by_form = server.client.post("/v1/translate", data=options, files=file)
    assert by_query.status_code == by_form.status_code == 200
    assert by_form.content == by_query.content
    assert by_form.content != server.client.post("/v1/translate", files=file).content
    (name, value), *rest = options.items()
    mixed = server.client.post("/v1/translate", params={name: value}, data=dict(rest), files=file)
    assert mixed.content == by_query.content


@pytest.mark.parametrize(
    ("query", "form", "status", "says"),
    [
        ({}, {"drawz": "2"}, 422, "drawz: no such parameter, there are "),
        ({}, {"draws": "65"}, 422, "draws: "),
        ({}, {"draws": "two"}, 422, "draws: "),
        ({}, {"candidates": "2"}, 422, "candidates: no such parameter"),
        ({"draws": "2"}, {"draws": "2"}, 422, "draws: it stands in the query and in the form"),
        ({}, {"seed": ["1", "2"]}, 400, "the form has a field twice"),
    ],
)
def test_options_of_a_form_that_cannot_be_are_refused(
    server: Any, query: dict[str, str], form: dict[str, Any], status: int, says: str
) -> None:
    for path in ("/v1/translate", "/v1/storyboard"):
        if path == "/v1/storyboard" and "draws" in form:
            continue
        answer = server.client.post(path, params=query, data=form, files={"sound": ("a", SOUND)})
        message = refused(answer, status, "parameter" if status == 422 else "form")
        assert message.startswith(says)


def test_pictures_and_sheets(server: Any) -> None:
    one = server.client.post("/v1/translate?format=png", content=SOUND)
    sheet = server.client.post(
        "/v1/translate?format=png&draws=2", files={"sound": ("<b>\u00f6.wav", SOUND)}
    )
    each = server.client.post("/v1/translate?format=png&each_second=1", content=sound(3.0))
    sizes = []
    for answer in (one, sheet, each):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(answer.content)) as image:
            sizes.append(image.size)
    assert sizes[0] == (96, 96)
    assert min(*sizes[1], *sizes[2]) > 192


def test_the_model(server: Any) -> None:
    told = server.client.get("/v1/model").json()
    assert told["name"] == "tiny"
    assert told["soundsight"] == __version__
    assert (told["image_px"], told["segment_s"]) == (96, 1.0)
    assert (told["labels"], told["alerts"]) == ([], [])
    assert set(told["thresholds"]) == {
        "quiet_dbfs", "ood_score", "confidence",
    }  # fmt: skip
    assert "/" not in json.dumps({**told, "licence": ""})


def test_health(server: Any) -> None:
    assert server.client.get("/healthz").json() == {"status": "alive"}
    assert server.client.get("/readyz").json() == {"status": "ready"}


def test_metrics(server: Any) -> None:
    before = server.figure("soundsight_request_seconds_count", path="/v1/model", status="200")
    server.client.get("/v1/model")
    server.client.get("/v1/unknown/" + "x" * 99)
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.text
    for name in (
        "soundsight_streams", "soundsight_windows_total", "soundsight_windows_skipped_total",
        "soundsight_window_seconds_bucket", "soundsight_queue_windows", "soundsight_jobs",
        "soundsight_queue_wait_seconds", "soundsight_refusals_total", "soundsight_request_seconds",
    ):  # fmt: skip
        assert name in text, name
    counted = server.figure("soundsight_request_seconds_count", path="/v1/model", status="200")
    assert counted == before + 1
    assert "xxx" not in text  # what is asked for makes no series of its own


def test_the_page_reads_the_protocol(server: Any) -> None:
    """As it is in the code, with its JSON Schema."""
    assert server.client.get("/static/protocol.json").json() == protocol.description()


def test_openapi(server: Any) -> None:
    told = server.client.get("/openapi.json").json()
    assert {
        "/v1/translate",
        "/v1/storyboard",
        "/v1/model",
        "/healthz",
        "/readyz",
        "/metrics",
    } == set(told["paths"])
    example = told["paths"]["/v1/translate"]["post"]["responses"]["200"]["content"][
        "application/json"
    ]["example"]
    rest.Translated.model_validate({**example})


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
    message = refused(server.client.post(f"/v1/translate?{query}", content=SOUND), 422, "parameter")
    assert message.startswith(query.partition("=")[0] + ": ")
    assert len(message) < 300


def test_bodies_that_are_none(server: Any) -> None:
    post = server.client.post
    refused(post("/v1/translate"), 400, "empty")
    refused(post("/v1/translate", content=b""), 400, "empty")
    refused(post("/v1/translate", content=b"x" * ((4 << 20) + 1)), 413, "too_big")
    refused(post("/v1/translate", content=(b"x" * (1 << 20) for _ in range(5))), 413, "too_big")
    refused(post("/v1/translate", files={"file": SOUND}), 400, "form")
    refused(post("/v1/translate", files=[("sound", SOUND), ("sound", SOUND)]), 400, "form")
    refused(post("/v1/translate", data={"sound": "x"}), 400, "sound")
    form = {"content-type": "multipart/form-data; boundary=b"}
    refused(post("/v1/translate", content=SOUND, headers=form), 400, "form")
    refused(post("/v1/translate", json={"sound": "x"}), 400, "sound")


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
        answer = server.client.post("/v1/translate", files={"sound": (name, data)})
        message = refused(answer, 400, "sound")
        assert len(message) < 300, message
    assert "long.wav is longer than 60 s" in message
    answer = server.client.post("/v1/translate", files={"sound": ("x" * 10_000, SOUND)})
    assert answer.status_code in (200, 400)  # the form's head has a limit of its own


def test_what_can_be_read_of_a_damaged_sound_is_used(server: Any) -> None:
    cut = {"sound": ("cut.flac", sound(2.0, kind="FLAC")[:50_000])}
    answer = server.client.post("/v1/translate", files=cut)
    assert answer.status_code == 200
    (told,) = answer.json()["warnings"]
    assert told.startswith("cut.flac is damaged at 0.7")
    assert server.client.post("/v1/translate", content=SOUND).json()["warnings"] == []
    refused(server.client.post("/v1/translate?strict=1", files=cut), 400, "sound")
    message = refused(server.client.post("/v1/translate?track=2", content=SOUND), 400, "sound")
    assert "has 1 sound track: there is no track 2" in message


def test_too_many_pictures(server: Any) -> None:
    ask = server.client.post
    for query, data in (
        ("each_second=1", sound(13.0)), ("each_second=1&draws=7", sound(2.0)),
        ("each_second=1&draws=13", sound(1.0)),
    ):  # fmt: skip
        message = refused(ask(f"/v1/translate?{query}", content=data), 413, "too_many")
        assert "more than 12 pictures" in message
    assert len(ask("/v1/translate?each_second=1", content=sound(12.0)).json()["pictures"]) == 12


def test_other_methods_and_paths(server: Any) -> None:
    client = server.client
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
        answer = client.request(method, path)
        refused(answer, status)
        if status == 405:
            assert answer.headers["allow"]


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
    with server.raw() as line:
        line.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = read_all(line)
    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), answer[:200]
    assert b"create_app" not in answer
    assert b"root:" not in answer


def test_head(server: Any) -> None:
    for path in ("/healthz", "/v1/model", "/metrics", "/static/protocol.json", "/"):
        answer = server.client.head(path)
        assert answer.status_code == 200, path
        assert answer.content == b""
        assert int(answer.headers["content-length"]) > 0
        carries(answer)
    assert server.client.head("/v1/translate").status_code == 405


def test_pages_and_scripts(server: Any) -> None:
    """Everything that a page needs comes from here, under a policy that lets nothing else run."""
    for path, kind in (
        ("/", "text/html"), ("/file", "text/html"), ("/static/protocol.json", "application/json"),
        ("/static/board.js", "text/javascript"),
    ):  # fmt: skip
        answer = server.client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["cache-control"] == "no-cache"
        carries(answer)
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "*" not in policy


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
    own = {"origin": server.url}
    answer = server.client.post("/v1/translate", content=SOUND, headers=own)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    refused(server.client.options("/v1/translate", headers=preflight), 403)


def test_a_page_of_another_origin(run_server: Callable[..., Any]) -> None:
    page, other = "https://page.example", "https://other.example"
    with run_server(token="secret", origins=[page]) as server:
        wanted = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        preflight = server.client.options("/v1/translate", headers={"origin": page, **wanted})
        assert preflight.status_code == 200
        carries(preflight)
        assert preflight.headers["access-control-allow-origin"] == page
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in preflight.headers
        answer = server.client.options("/v1/translate", headers={"origin": other, **wanted})
        assert answer.status_code == 400
        carries(answer)
        assert "access-control-allow-origin" not in answer.headers
        for token, status in (("secret", 200), ("wrong", 401)):
            headers = {"origin": page, "authorization": f"Bearer {token}"}
            answer = server.client.post("/v1/translate", content=SOUND, headers=headers)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == page  # it can read the fault
            carries(answer)
            headers["origin"] = other
            refused(server.client.post("/v1/translate", content=SOUND, headers=headers), 403)


def test_the_token(run_server: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    with run_server(token="secret") as server:
        for path in ("/", "/file", "/healthz", "/readyz", "/static/protocol.json"):
            assert server.client.get(path).status_code == 200, path
        closed = [("GET", path) for path in ("/v1/model", "/metrics", "/openapi.json", "/nowhere")]
        closed += [("POST", "/v1/translate"), ("POST", "/v1/storyboard"), ("GET", "/v1/stream")]
        for method, path in closed:
            for header in (
                None,
                "",
                "Bearer",
                "Bearer wrong",
                "Basic secret",
                "secret",
                "Bearer \xff",
            ):
                headers = {} if header is None else {"authorization": header.encode("latin-1")}
                answer = server.client.request(method, path, headers=headers)
                refused(answer, 401, "token")
                assert answer.headers["www-authenticate"] == "Bearer"
            refused(server.client.request(method, path + "?token=secret"), 401)
        known = {"authorization": "Bearer secret"}
        for path in ("/v1/model", "/metrics", "/openapi.json"):
            assert server.client.get(path, headers=known).status_code == 200
        answer = server.client.post("/v1/translate", content=SOUND, headers=known)
        assert answer.status_code == 200
        assert "secret" not in answer.text
    told = capfd.readouterr()
    assert "secret" not in told.out + told.err


# --- bare sockets ----------------------------------------------------------------------------


def read_all(line: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := line.recv(1 << 16):
            data += part
    return data


def post(length: int | None = None, more: bytes = b"") -> bytes:
    size = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"POST /v1/translate HTTP/1.1\r\nHost: localhost\r\n" + size + b"\r\n" + more + b"\r\n"


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


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
    ],
)  # fmt: skip
def test_what_is_no_http(server: Any, data: bytes, status: int) -> None:
    with server.raw() as line:
        with contextlib.suppress(OSError):
            line.sendall(data)
        answer = read_some(line)
    # What is no HTTP gets uvicorn's own line of text.
    assert status_of(answer) in (status, 400), answer[:300]


def read_some(line: socket.socket) -> bytes:
    """Read one answer of a known length."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := line.recv(1 << 16):
            data += part
            head, _, body = data.partition(b"\r\n\r\n")
            sizes = [v for v in head.lower().split(b"\r\n") if v.startswith(b"content-length:")]
            if sizes and len(body) >= int(sizes[0].split(b":")[1]):
                break
    return data


def test_a_body_that_comes_slowly(server: Any) -> None:
    for head in (post(1_000), post(None) + b"3e8\r\n"):
        with server.raw() as line:
            line.sendall(head + b"x")
            answer = read_some(line)
        assert status_of(answer) == 408
        assert b"too_slow" in answer


def test_a_broken_body_after_the_answer(server: Any) -> None:
    """The refusal has gone out before the body is seen to be no HTTP."""
    with server.raw() as line:
        line.sendall(post(None, b"Origin: http://evil.example\r\n"))
        assert status_of(read_some(line)) == 403
        with contextlib.suppress(OSError):
            line.sendall(b"zz\r\n" * 9)
        assert read_all(line) == b""
    server.log.records.clear()  # uvicorn logs that it cannot answer twice


@pytest.mark.slow
def test_clients_that_vanish(server: Any, eventually: Callable[..., Any]) -> None:
    """In the head, in the body, at work, and while they are answered."""
    messages = [b"", b"POST /v1", post(len(SOUND)), post(len(SOUND)) + SOUND[:9_000],
                post(None) + b"fff\r\n", post(len(SOUND)) + SOUND]  # fmt: skip
    files = psutil.Process().num_fds()
    for message in messages * 3:
        for leave in ("half", "reset", "close"):
            line = server.raw()
            line.sendall(message)
            if leave == "half":
                line.shutdown(socket.SHUT_WR)
                read_all(line)
            elif leave == "reset":
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.close()
    eventually(lambda: server.services.jobs._present == 0)
    eventually(lambda: psutil.Process().num_fds() <= files + 3, "the end of all connections")


def test_work_ends_with_its_client(
    server: Any, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    seconds: list[float] = []
    recognise = Translator.recognise

    def slowly(self: Any, *args: Any, **options: Any) -> Any:
        seconds.append(time.monotonic())
        time.sleep(1.0)
        return recognise(self, *args, **options)

    monkeypatch.setattr(Translator, "recognise", slowly)
    data = sound(12.0)
    with server.raw() as line:
        head = post(len(data)).replace(b"translate", b"translate?each_second=1")
        line.sendall(head + data)
        eventually(lambda: seconds, "the first second")
    eventually(lambda: server.services.jobs._present == 0)
    assert len(seconds) < 12


# --- many at once ----------------------------------------------------------------------------


def test_more_than_can_wait(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at work, three that wait: the others are told to come again."""
    gate = threading.Event()
    translate = Translator.translate

    def held(self: Any, *args: Any, **options: Any) -> Any:
        assert gate.wait(60)
        return translate(self, *args, **options)

    monkeypatch.setattr(Translator, "translate", held)
    with ThreadPoolExecutor(12) as pool:

        def ask(_: int) -> httpx.Response:
            return httpx.post(f"{server.url}/v1/translate", content=SOUND, timeout=60)

        asked = [pool.submit(ask, k) for k in range(12)]
        while sum(one.done() for one in asked) < 7:
            time.sleep(0.01)
        assert server.figure("soundsight_jobs") == 2
        assert server.client.get("/healthz").status_code == 200
        gate.set()
        answers = [one.result() for one in asked]
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [503] * 7
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
        answer = server.client.post(f"/v1/translate{query}", **how)
        assert answer.status_code in (200, 400, 422)

    for number in range(20):
        visit(number)
    eventually(lambda: len(process.children()) == 1)
    files, memory = process.num_fds(), process.memory_info().rss
    for number in range(200):
        visit(number)
    eventually(lambda: len(process.children()) == 1)
    eventually(lambda: process.num_fds() <= files, "the end of all connections")
    assert process.memory_info().rss < memory + (48 << 20)
    assert list(folder.iterdir()) == []


def test_a_fault_of_the_server(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_args: Any, **_options: Any) -> None:
        raise ZeroDivisionError("/home/somebody")

    with monkeypatch.context() as broken:
        broken.setattr(Translator, "translate", breaks)
        message = refused(server.client.post("/v1/translate", content=SOUND), 500, "fault")
    assert message == "a fault of the server"
    (fault,) = server.faults()
    assert "ZeroDivisionError" in fault
    server.log.records.clear()
    assert server.client.post("/v1/translate", content=SOUND).status_code == 200


def test_no_room(server: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nowhere to put a long body: one line in the log, no path in the answer."""
    with monkeypatch.context() as full:
        full.setattr(tempfile, "tempdir", str(folder / "gone"))
        refused(server.client.post("/v1/translate", content=sound(13.0)), 503, "no_room")
        # A short one does not need it.
        assert server.client.post("/v1/translate", content=SOUND).status_code == 200
    (record,) = [r for r in server.log.records if r.name == "soundsight.server"]
    assert record.getMessage() == "no room for an upload: No such file or directory"
    server.log.records.clear()


def test_streams_go_on_beside_uploads(server: Any) -> None:
    """Uploads keep their own threads: a stream's windows come while they are worked on."""
    stop = threading.Event()

    def upload() -> None:
        while not stop.is_set():
            answer = httpx.post(f"{server.url}/v1/translate?each_second=1", content=sound(6.0))
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


def test_a_request_is_finished_when_the_server_stops(
    run_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    translate = Translator.translate
    begun = threading.Event()

    def slowly(self: Any, *args: Any, **options: Any) -> Any:
        begun.set()
        time.sleep(0.7)
        return translate(self, *args, **options)

    monkeypatch.setattr(Translator, "translate", slowly)
    with run_server() as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.client.post, "/v1/translate", content=SOUND)
        assert begun.wait(60)
        server.leave()
        assert asked.result().status_code == 200
