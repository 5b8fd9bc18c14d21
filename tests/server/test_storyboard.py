"""``POST /v1/storyboard`` on a real server: lines as they are known, files, and an end to work."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tests.sounds import write_tones

from soundsight.media import audio
from soundsight.runtime.translator import Translator
from soundsight.server import storyboard as storyboards
from soundsight.server.decoding import Decoder
from soundsight.server.errors import STOPPING
from soundsight.server.limits import Limits
from soundsight.server.uploads import Upload

RATE = 44_100


def sound(*parts: tuple[float, float], rate_hz: int = RATE) -> bytes:
    """A flac of parts of (seconds, level)."""
    file: io.BytesIO = write_tones(io.BytesIO(), *parts, rate_hz=rate_hz, format="FLAC")
    return file.getvalue()


DOG = sound((2, 0), (2, 1), (8, 0), (1, 1), (1, 0))


@pytest.fixture(scope="module")
def server(serving: Any, tiny_model: Path) -> Iterator[httpx.Client]:
    """A server of its own process, with a token and small limits."""
    options = ["--token", "secret", "--max-upload", "40", "--max-duration", "60"]
    with serving("--model", tiny_model, *options) as (address, _):
        headers = {"authorization": "Bearer secret"}
        with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
            yield client


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_lines(server: httpx.Client) -> None:
    told = lines(server.post("/v1/storyboard?name=dog.flac", content=DOG))
    kinds = [line["type"] for line in told if line["type"] != "progress"]
    assert kinds == ["begin", "event", "event", "overview", "done"]
    begin = told[0]
    assert (begin["name"], begin["model"]) == ("dog.flac", "tiny 0.0.1")
    assert begin["duration_s"] == pytest.approx(14.0)
    events = [line for line in told if line["type"] == "event"]
    assert [event["spans"] for event in events] == [[[2.0, 4.0]], [[12.0, 13.0]]]
    for event in events:
        png = base64.b64decode(event["picture"].partition(",")[2])
        with Image.open(io.BytesIO(png)) as image:
            assert image.size == (96, 96)
    overview = told[-2]
    assert len(overview["waveform"]) == 1400
    assert overview["mel"].startswith("data:image/png;base64,")
    assert told[-1]["words"] == "2 events"


def test_a_form_and_a_raw_body_tell_the_same(server: httpx.Client) -> None:
    raw = lines(server.post("/v1/storyboard?name=a.flac&seed=3", content=DOG))
    form = lines(server.post("/v1/storyboard?seed=3", files={"sound": ("a.flac", DOG)}))
    assert [x for x in raw if x["type"] != "progress"] == [
        x for x in form if x["type"] != "progress"
    ]
    other = lines(server.post("/v1/storyboard?name=a.flac&seed=4", content=DOG))
    assert raw[0]["seed"] == 3
    pictures = [[x["picture"] for x in told if x["type"] == "event"] for told in (raw, other)]
    assert pictures[0] != pictures[1]


def test_options_may_stand_in_the_form(server: httpx.Client) -> None:
    file = {"sound": ("a.flac", DOG)}
    options = {"seed": "4", "sensitivity": "0.8", "format": "json"}
    by_query = server.post("/v1/storyboard", params=options, files=file)
    by_form = server.post("/v1/storyboard", data=options, files=file)
    assert by_form.headers["content-type"] == "application/json"
    assert by_form.json() == by_query.json()
    assert (by_form.json()["seed"], by_form.json()["sensitivity"]) == (4, 0.8)
    # A file of a form has its own name; one without takes the field's.
    told = lines(server.post("/v1/storyboard", data={"name": "b.flac"}, files=file))
    assert told[0]["name"] == "a.flac"


@pytest.mark.slow
def test_lines_come_while_it_works(server: httpx.Client) -> None:
    content = sound((20, 1), (10, 0), (600, 1))
    came: dict[str, float] = {}
    began = time.monotonic()
    with server.stream("POST", "/v1/storyboard", content=content) as answer:
        for line in answer.iter_lines():
            came.setdefault(json.loads(line)["type"], time.monotonic() - began)
    assert came["begin"] <= came["progress"] < came["done"]
    assert came["event"] < came["done"] / 2


@pytest.mark.parametrize("format", ["json", "png", "mp4", "html"])
def test_files(server: httpx.Client, format: str, tmp_path: Path) -> None:
    answer = server.post(f'/v1/storyboard?format={format}&name=d%C3%B6g".wav', content=DOG)
    assert answer.status_code == 200, answer.text
    kind = {"json": "application/json", "png": "image/png", "mp4": "video/mp4", "html": "text/html"}
    assert answer.headers["content-type"].partition(";")[0] == kind[format]
    assert int(answer.headers["content-length"]) == len(answer.content)
    said = answer.headers["content-disposition"]
    assert said.startswith(f'attachment; filename="d_g_-storyboard.{format}"')
    assert said.endswith(f"d%C3%B6g%22-storyboard.{format}")
    path = tmp_path / f"a.{format}"
    path.write_bytes(answer.content)
    if format == "json":
        assert len(json.loads(path.read_text("utf-8"))["events"]) == 2
    elif format == "png":
        with Image.open(path) as image:
            assert image.info["soundsight"] == "imagined from sound"
    elif format == "mp4":
        heard = audio.decode(path)
        assert np.abs(heard[round(2.1 * RATE) : round(3.9 * RATE)]).max() > 0.2
    else:
        assert "Content-Security-Policy" in path.read_text("utf-8")


def test_what_can_be_read_of_a_damaged_sound_is_told(server: httpx.Client) -> None:
    content = DOG[: len(DOG) // 2]
    *_, last = lines(server.post("/v1/storyboard?name=x.flac", content=content))
    assert last["type"] == "done"
    (told,) = last["warnings"]
    assert told.startswith("x.flac is damaged at ")
    data = server.post("/v1/storyboard?name=x.flac&format=json", content=content).json()
    assert data["warnings"] == [told]


@pytest.mark.parametrize("format", ["ndjson", "mp4"])
@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"", 400, "empty"),
        (b"this is no sound at all", 400, "no sound or video file"),
        (DOG[: len(DOG) // 2], 400, "cut short"),
        (sound((3605, 0), rate_hz=4000), 400, "longer than"),
    ],
)
def test_what_is_no_sound(
    server: httpx.Client, content: bytes, status: int, says: str, format: str
) -> None:
    options = f"name=x.flac&format={format}&strict=1"
    answer = server.post(f"/v1/storyboard?{options}", content=content)
    if answer.status_code == 200:  # the fault lies behind what was told already
        *_, last = lines(answer)
        assert last["type"] == "error"
        message = last["message"]
    else:
        assert answer.status_code == status
        message = answer.json()["error"]["message"]
    assert says in message
    assert "/proc" not in message
    assert "\n" not in message


def test_refusals(server: httpx.Client) -> None:
    big = server.post("/v1/storyboard", content=bytes(41 << 20))
    assert big.status_code == 413
    wrong = server.post("/v1/storyboard", content=DOG, headers={"authorization": "Bearer no"})
    assert wrong.status_code == 401
    for query in ("format=gif", "sensitivity=2", "seed=-1", "candidates=2", "sensitivity=nan"):
        assert server.post(f"/v1/storyboard?{query}", content=DOG).status_code == 422, query


def jobs(server: httpx.Client) -> float:
    text = server.get("/metrics").text
    (line,) = (
        x for x in text.splitlines() if x.startswith("soundsight") and "_jobs" in x.split(" ")[0]
    )
    return float(line.split()[-1])


def until(holds: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s"
        time.sleep(0.02)


def telling_takes_s(server: httpx.Client, content: bytes, seconds: float) -> float:
    """How long this machine would take for all of a sound, by how long it takes for a part."""
    told: list[tuple[float, float]] = []
    with server.stream("POST", "/v1/storyboard", content=content) as answer:
        for line in answer.iter_lines():
            if (now := json.loads(line))["type"] == "progress":
                told.append((now["done_s"], time.monotonic()))
                if told[-1][0] > told[0][0] + 0.05 * seconds:
                    break
    (from_s, began), (to_s, ended) = told[0], told[-1]
    return seconds * (ended - began) / (to_s - from_s)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["ndjson", "mp4"])
def test_work_stops_when_the_client_goes_away(server: httpx.Client, format: str) -> None:
    content = sound((2400, 0.1), rate_hz=8000)
    all_of_it_s = telling_takes_s(server, content, 2400)
    until(lambda: jobs(server) == 0, 120)
    url = server.base_url
    with socket.create_connection((url.host, url.port)) as line:
        line.sendall(
            f"POST /v1/storyboard?format={format} HTTP/1.1\r\nHost: {url.host}\r\n"
            f"Authorization: Bearer secret\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        )
        line.sendall(content)
        until(lambda: jobs(server) > 0, 120)
    until(lambda: jobs(server) == 0, all_of_it_s / 2)
    assert server.get("/readyz").status_code == 200


def test_what_the_page_needs(server: httpx.Client) -> None:
    for name in ("board.js", "board.css", "file.js", "file-request.js", "file.css"):
        answer = httpx.get(f"{server.base_url}static/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = httpx.get(f"{server.base_url}file")
    assert page.status_code == 200
    assert "<script>" not in page.text
    assert " style=" not in page.text


def test_a_server_that_stops_ends_the_lines_with_an_error(tiny_model: Path, tmp_path: Path) -> None:
    # More than the pipe to the decoder holds.
    (tmp_path / "long.flac").write_bytes(sound((600, 0.1), rate_hz=8000))
    decoder = Decoder(Limits())
    services: Any = SimpleNamespace(translator=Translator.load(tiny_model, 1), decoder=decoder)
    options = storyboards.StoryboardOptions()
    with (tmp_path / "long.flac").open("rb") as file, contextlib.closing(decoder):
        upload = Upload(name="long.flac", handle=file.fileno(), size=1)
        told = storyboards._lines(services, upload, options)
        assert json.loads(next(told))["type"] == "begin"
        decoder.close()
        *_, last = [json.loads(line) for line in told]
    assert last == {"type": "error", "message": STOPPING}


# --- where files are made --------------------------------------------------------------------


def test_a_short_sound_s_film_is_made_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limits = Limits(memory_bytes=1000)

    def place(size: int) -> Path | None:
        return storyboards._place(Upload(name="a", handle=0, size=size), limits)

    monkeypatch.setattr(storyboards, "_IN_MEMORY", tmp_path)
    assert place(1000) == tmp_path
    assert place(1001) is None
    monkeypatch.setattr(storyboards, "_ROOM", 1 << 50)  # more than any disk has
    assert place(1000) is None
    monkeypatch.setattr(storyboards, "_IN_MEMORY", tmp_path / "missing")
    assert place(1000) is None


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory here")
def test_a_film_never_touches_the_disk(
    run_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Where anything that asks for a temporary file of the disk would fail.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    before = set(Path("/dev/shm").iterdir())
    with run_server() as running:
        answer = running.client.post("/v1/storyboard", params={"format": "mp4"}, content=DOG)
        assert answer.status_code == 200
        assert b"ftyp" in answer.content[:16]
    assert set(Path("/dev/shm").iterdir()) <= before
