"""``POST /v1/storyboard`` on a real server: lines as they are known, files, and an end to work."""

from __future__ import annotations

import base64
import contextlib
import io
import json
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
from soundsight.server import rest
from soundsight.server.decoding import Decoder
from soundsight.server.errors import STOPPING
from soundsight.server.limits import Limits
from soundsight.server.uploads import Upload

RATE = 44_100
PATH = "/v1/storyboard"


def sound(*parts: tuple[float, float], rate_hz: int = RATE) -> bytes:
    """A flac of parts of (seconds, level)."""
    file: io.BytesIO = write_tones(io.BytesIO(), *parts, rate_hz=rate_hz, format="FLAC")
    return file.getvalue()


DOG = sound((2, 0), (2, 1), (8, 0), (1, 1), (1, 0))


@pytest.fixture(scope="module")
def server(run_server: Callable[..., Any]) -> Iterator[Any]:
    with run_server(Limits(max_upload_bytes=40 << 20, max_duration_s=3600.0)) as running:
        yield running


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    """The lines of an answer, but those of progress."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    told = [json.loads(line) for line in answer.text.splitlines()]
    return [line for line in told if line["type"] != "progress"]


def test_lines(server: Any) -> None:
    told = lines(server.client.post(f"{PATH}?name=a.flac&seed=3", content=DOG))
    assert [line["type"] for line in told] == ["begin", "event", "event", "overview", "done"]
    begin, *events, overview, done = told
    assert (begin["name"], begin["model"], begin["seed"]) == ("a.flac", "tiny 0.0.1", 3)
    assert begin["duration_s"] == pytest.approx(14.0)
    assert [event["spans"] for event in events] == [[[2.0, 4.0]], [[12.0, 13.0]]]
    for event in events:
        png = base64.b64decode(event["picture"].partition(",")[2])
        with Image.open(io.BytesIO(png)) as image:
            assert image.size == (96, 96)
    assert len(overview["waveform"]) == 1400
    assert overview["mel"].startswith("data:image/png;base64,")
    assert done["words"] == "2 events"
    file = {"sound": ("a.flac", DOG)}
    # A file of a form has its own name; one without takes the field's.
    form = server.client.post(f"{PATH}?seed=3", data={"name": "b.flac"}, files=file)
    assert lines(form) == told
    other = lines(server.client.post(f"{PATH}?name=a.flac&seed=4", content=DOG))
    assert [one["picture"] for one in other[1:3]] != [one["picture"] for one in events]


def test_options_may_stand_in_the_form(server: Any) -> None:
    file = {"sound": ("a.flac", DOG)}
    options = {"seed": "4", "sensitivity": "0.8", "format": "json"}
    by_query = server.client.post(PATH, params=options, files=file)
    by_form = server.client.post(PATH, data=options, files=file)
    assert by_form.headers["content-type"] == "application/json"
    assert by_form.json() == by_query.json()
    assert (by_form.json()["seed"], by_form.json()["sensitivity"]) == (4, 0.8)


@pytest.mark.slow
def test_lines_come_while_it_works(server: Any) -> None:
    content = sound((20, 1), (10, 0), (120, 1))
    came: dict[str, float] = {}
    began = time.monotonic()
    with server.client.stream("POST", PATH, content=content) as answer:
        for line in answer.iter_lines():
            came.setdefault(json.loads(line)["type"], time.monotonic() - began)
    assert came["begin"] <= came["progress"] < came["done"]
    assert came["event"] < came["done"] / 2


@pytest.mark.parametrize(
    ("format", "kind"),
    [
        ("json", "application/json"), ("png", "image/png"), ("mp4", "video/mp4"),
        ("html", "text/html"),
    ],
)  # fmt: skip
def test_files(
    server: Any, format: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them touches the disk, where there is a file system in memory."""
    before = set(Path("/dev/shm").glob("*"))
    if Path("/dev/shm").is_dir():
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    answer = server.client.post(f'{PATH}?format={format}&name=d%C3%B6g".wav', content=DOG)
    assert answer.status_code == 200, answer.text
    assert set(Path("/dev/shm").glob("*")) <= before
    assert answer.headers["content-type"].partition(";")[0] == kind
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


def test_where_a_film_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits = Limits(memory_bytes=1000)

    def place(size: int) -> Path | None:
        return rest._place(Upload(name="a", handle=0, size=size), limits)

    monkeypatch.setattr(rest, "_IN_MEMORY", tmp_path)
    assert place(1000) == tmp_path
    assert place(1001) is None
    monkeypatch.setattr(rest, "_ROOM", 1 << 50)  # more than any disk has
    assert place(1000) is None
    monkeypatch.setattr(rest, "_IN_MEMORY", tmp_path / "missing")
    assert place(1000) is None


def test_what_can_be_read_of_a_damaged_sound_is_told(server: Any) -> None:
    content = DOG[: len(DOG) // 2]
    last = lines(server.client.post(f"{PATH}?name=x.flac", content=content))[-1]
    assert last["type"] == "done"
    (told,) = last["warnings"]
    assert told.startswith("x.flac is damaged at ")
    data = server.client.post(f"{PATH}?name=x.flac&format=json", content=content).json()
    assert data["warnings"] == [told]


@pytest.mark.parametrize("format", ["ndjson", "mp4"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"), (b"this is no sound at all", "no sound or video file"),
        (DOG[: len(DOG) // 2], "cut short"), (sound((3605, 0), rate_hz=4000), "longer than"),
    ],
)  # fmt: skip
def test_what_is_no_sound(server: Any, content: bytes, says: str, format: str) -> None:
    options = f"name=x.flac&format={format}&strict=1"
    answer = server.client.post(f"{PATH}?{options}", content=content)
    if answer.status_code == 200:  # the fault lies behind what was told already
        last = lines(answer)[-1]
        assert last["type"] == "error"
        message = last["message"]
    else:
        assert answer.status_code == 400
        message = answer.json()["error"]["message"]
    assert says in message
    assert "/proc" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "query", ["format=gif", "sensitivity=2", "seed=-1", "candidates=2", "sensitivity=nan"]
)
def test_parameters_out_of_range(server: Any, query: str) -> None:
    assert server.client.post(f"{PATH}?{query}", content=DOG).status_code == 422


@pytest.mark.parametrize("format", ["ndjson", "mp4"])
def test_work_stops_when_the_client_goes_away(
    server: Any, format: str, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    steps: list[int] = []
    find_events = rest.find_events

    def slow(*args: Any, **options: Any) -> Iterator[Any]:
        for item in find_events(*args, **options):
            steps.append(1)
            time.sleep(0.02)
            yield item

    monkeypatch.setattr(rest, "find_events", slow)
    content = sound((600, 0.1), rate_hz=8000)
    with server.raw() as line:
        line.sendall(
            f"POST {PATH}?format={format} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
        )
        line.sendall(content)
        eventually(lambda: len(steps) > 2, "the begin")
    eventually(lambda: server.figure("soundsight_jobs") == 0, "the end of the work")
    assert len(steps) < 300
    assert server.client.get("/readyz").status_code == 200


def test_a_server_that_stops_ends_the_lines_with_an_error(tiny_model: Path, tmp_path: Path) -> None:
    # More than the pipe to the decoder holds.
    (tmp_path / "long.flac").write_bytes(sound((600, 0.1), rate_hz=8000))
    decoder = Decoder(Limits())
    services: Any = SimpleNamespace(translator=Translator.load(tiny_model, 1), decoder=decoder)
    options = rest.StoryboardOptions()
    with (tmp_path / "long.flac").open("rb") as file, contextlib.closing(decoder):
        upload = Upload(name="long.flac", handle=file.fileno(), size=1)
        told = rest._lines(rest._Work(services, upload, options))
        assert json.loads(next(told))["type"] == "begin"
        decoder.close()
        *_, last = [json.loads(line) for line in told]
    assert last == {"type": "error", "message": STOPPING}
