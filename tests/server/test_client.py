"""The Python client against a real server, and against one that misbehaves."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

import soundsight
from soundsight import Client, Translator
from soundsight.client import is_this_machine
from soundsight.core.errors import AudioError, ConfigError, OutputError, ServerError
from soundsight.core.state import State

RATE = 16_000


@pytest.fixture
def sound(write_sound: Callable[..., Path], tmp_path: Path) -> Path:
    return write_sound(tmp_path / "dog.wav", 3.0)


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(server.url) as made:
        yield made


@contextlib.contextmanager
def answering(
    answer: Callable[[httpx.Request], httpx.Response], **options: Any
) -> Iterator[Client]:
    """A client whose requests are answered by a function."""
    with Client("http://server.test", **options) as made:
        made._http.close()
        made._http = httpx.Client(
            base_url=made.url, headers=made._http.headers, transport=httpx.MockTransport(answer)
        )
        yield made


def noise(seconds: float, level: float = 0.3) -> np.ndarray:
    return level * np.random.default_rng(0).standard_normal(round(seconds * RATE))


def paced(samples: np.ndarray) -> Iterator[np.ndarray]:
    """A signal in quarters of a second, nearly twice as fast as a real one."""
    step = RATE // 4
    for first in range(0, len(samples), step):
        yield samples[first : first + step]
        time.sleep(0.14)


def endless() -> Iterator[np.ndarray]:
    """A signal at its own pace that does not end."""
    while True:
        yield noise(0.1)
        time.sleep(0.08)


# --- proxies ---------------------------------------------------------------------------------

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY", "WSS_PROXY")


class Proxy:
    """Takes connections, writes down how they begin, and says that it is none."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self.socket.accept()
                with line:
                    self.asked.append(line.recv(4096).decode("latin-1").partition("\r\n")[0])
                    line.sendall(b"HTTP/1.1 502 no\r\ncontent-length: 0\r\n\r\n")


@pytest.fixture(params=["upper", "lower"])
def proxy(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that the environment names for everything."""
    made = Proxy()
    for name in (*PROXIES, "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in PROXIES:
        monkeypatch.setenv(name if request.param == "upper" else name.lower(), made.url)
    with made.socket:
        yield made


def test_what_is_on_this_machine_is_asked_without_a_proxy(
    server: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for host, excepted in (("127.0.0.1", ""), ("localhost", ""), ("localhost", "example.org")):
        monkeypatch.setenv("NO_PROXY", excepted)
        with Client(f"http://{host}:{server.port}") as client:
            assert client.model()["name"] == "tiny"
            assert list(client.stream([noise(1.5)], RATE))
    for host in ("127.0.0.3", "127.1"):
        # Nobody listens there: what matters is who was asked.
        with Client(f"http://{host}:9", timeout_s=5) as client:
            assert not client.ready()
            with pytest.raises(ServerError, match="cannot open a stream"):
                list(client.stream([noise(1)], RATE))
    assert proxy.asked == []


def test_what_is_elsewhere_goes_through_the_proxy(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client("http://sound.invalid") as client:
        with pytest.raises(ServerError):
            client.model()
        with pytest.raises(ServerError):
            list(client.stream([noise(1)], RATE))
    assert proxy.asked[0].startswith("GET http://sound.invalid/v1/model ")
    assert proxy.asked[1].startswith("CONNECT sound.invalid:80 ")
    monkeypatch.setenv("NO_PROXY", "sound.invalid")
    with Client("http://sound.invalid", timeout_s=5) as client:
        assert not client.ready()
    assert len(proxy.asked) == 2


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("LOCALHOST.", True), ("a.localhost", True), ("ip6-localhost", True), ("127.9.8.7", True),
        ("2130706433", True), ("::1", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", True),
        ("10.0.0.1", False), ("192.168.1.2", False), ("example.org", False), ("dead", False),
        ("localhost.example.org", False), ("127.0.0.1.example.org", False), ("fe80::1", False),
    ],
)  # fmt: skip
def test_which_hosts_are_this_machine(host: str, own: bool) -> None:
    assert is_this_machine(host) is own


# --- requests --------------------------------------------------------------------------------


def test_it_imagines_what_the_translator_imagines(
    client: Client, sound: Path, tiny_model: Path
) -> None:
    there = client.translate(sound, each_second=True, draws=2, seed=7)
    here = Translator.load(tiny_model).translate(sound, each_second=True, draws=2, seed=7)
    assert soundsight.Client is Client
    assert len(there) == 6
    assert [(one.second, one.draw) for one in there] == [(s, d) for s in range(3) for d in (0, 1)]
    for one, image, state in zip(there, here.images, here.state, strict=True):
        np.testing.assert_array_equal(one.image, image)
        assert one.state is state


def test_a_path_bytes_and_samples_are_the_same_sound(client: Client, sound: Path) -> None:
    samples, rate = soundfile.read(sound, dtype="float32")
    by_path = client.translate(sound)[0].image
    np.testing.assert_array_equal(by_path, client.translate(sound.read_bytes())[0].image)
    np.testing.assert_array_equal(by_path, client.translate(samples, rate)[0].image)


def test_quiet_is_said_not_pictured(client: Client) -> None:
    (one,) = client.translate(np.zeros(RATE), RATE)
    assert one.state is State.QUIET
    assert len(np.unique(one.image)) == 1


@pytest.mark.parametrize("suffix", ["png", "json", "html", "mp4"])
def test_a_storyboard_is_written_whole(
    client: Client, sound: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / "made" / f"story.{suffix}"
    assert client.storyboard(sound, out, seed=2) == out
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    if suffix == "png":
        with Image.open(out) as image:
            assert image.width == 1396
    if suffix == "json":
        assert json.loads(out.read_text("utf-8"))["source"] == "dog.wav"


def test_what_can_be_read_of_a_damaged_sound_is_used(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "cut.flac"
    soundfile.write(path, noise(3.0), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (one,) = client.translate(path, track=1)
    (told,) = one.warnings
    assert told.startswith("cut.flac is damaged at 1.")
    with pytest.raises(ServerError, match=r"cut\.flac .*cut short"):
        client.translate(path, strict=True)
    with pytest.raises(ServerError, match="there is no track 2"):
        client.storyboard(path, tmp_path / "x.json", track=2)
    client.storyboard(path, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text("utf-8"))["warnings"] == [told]


def test_the_server_s_own_words_come_through_and_nothing_is_left(
    client: Client, tmp_path: Path
) -> None:
    text, out = tmp_path / "text.wav", tmp_path / "story.png"
    text.write_text("no sound")
    out.write_text("old")
    for ask in (lambda: client.translate(text), lambda: client.storyboard(text, out)):
        with pytest.raises(ServerError, match=r"text\.wav") as told:
            ask()
        assert "\n" not in str(told.value)
        assert str(tmp_path) not in str(told.value)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["story.png", "text.wav"]


def test_a_token_is_shown(run_server: Callable[..., Any], sound: Path) -> None:
    with run_server(token="open sesame") as running:
        with Client(running.url) as without, pytest.raises(ServerError, match="token"):
            without.translate(sound)
        with Client(running.url, "open sesame") as given:
            assert len(given.translate(sound)) == 1
            list(given.stream([noise(1.2)], RATE))
        with Client(running.url + "/#token=open sesame") as address:
            assert len(address.translate(sound)) == 1


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://a", "http://", "nonsense"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        Client(url)


def test_a_server_that_is_not_there() -> None:
    with Client("http://127.0.0.1:9") as nobody:
        assert not nobody.ready()
        with pytest.raises(ServerError, match="soundsight serve"):
            nobody.model()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (httpx.ReadTimeout(""), "in time"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), "verify="),
    ],
)
def test_a_server_that_is_slow_or_has_an_unknown_certificate(error: Exception, says: str) -> None:
    def fails(_: httpx.Request) -> httpx.Response:
        raise error

    with answering(fails) as client, pytest.raises(ServerError, match=says):
        client.model()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>hello</html>"), httpx.Response(404, text="<html>"),
        httpx.Response(500), httpx.Response(200, json={"pictures": [{"png": "not base64"}]}),
    ],
)  # fmt: skip
def test_a_server_that_is_another(answer: httpx.Response) -> None:
    with (
        answering(lambda _: answer) as client,
        pytest.raises(ServerError, match="soundsight server"),
    ):
        client.translate(b"sound")


def test_what_cannot_be_asked(client: Client, sound: Path, tmp_path: Path) -> None:
    missing = tmp_path / "no.wav"
    for kind, says, ask in (
        (AudioError, "does not exist", lambda: client.translate(missing)),
        (AudioError, "cannot read", lambda: client.translate(tmp_path)),
        (ConfigError, "rate_hz", lambda: client.translate(noise(1))),
        (ConfigError, "leave rate_hz out", lambda: client.translate(missing, RATE)),
        (AudioError, "finite", lambda: client.translate(np.full(RATE, np.nan), RATE)),
        (ConfigError, "suffix", lambda: client.storyboard(sound, tmp_path / "story.gif")),
        (OutputError, "cannot write", lambda: client.storyboard(sound, sound / "story.png")),
        (ConfigError, "is no certificate", lambda: Client("https://a", verify=str(missing))),
    ):
        with pytest.raises(kind, match=says):
            ask()


# --- the stream ------------------------------------------------------------------------------


def test_a_stream_gives_windows_with_pictures(client: Client) -> None:
    told = list(client.stream(paced(noise(4)), RATE, draws=3, hop_s=1.0))
    windows = [facts for facts, _ in told]
    assert windows[-1].settled
    assert windows[-1].state == "picture"
    assert all(facts.end_s % 1 == 0 for facts in windows)
    pictures = told[-1][1]
    assert len(pictures) == 3
    with Image.open(io.BytesIO(pictures[0])) as image:
        assert (image.format, image.size) == ("JPEG", (96, 96))
    assert [facts.end_s for facts in windows] == sorted(facts.end_s for facts in windows)


def test_int16_and_floats_are_the_same_sound(client: Client) -> None:
    floats = noise(1.5, 0.2)
    whole = np.rint(np.clip(floats, -1, 1) * 32767).astype(np.int16)
    (a, _), (b, _) = (list(client.stream([samples], RATE))[-1] for samples in (floats, whole))
    assert (a.level_dbfs, a.state) == (b.level_dbfs, b.state)


def test_windows_come_while_the_signal_waits(client: Client) -> None:
    go = threading.Event()

    def microphone() -> Iterator[np.ndarray]:
        yield noise(1.3)
        assert go.wait(20)
        yield noise(0.5)

    stream = client.stream(microphone(), RATE)
    facts, _ = next(stream)
    assert facts.end_s in (1.0, 1.25)
    go.set()
    assert list(stream)


def test_a_stream_that_is_left_ends_on_the_server(
    client: Client, server: Any, eventually: Callable[..., Any]
) -> None:
    stream = client.stream(endless(), RATE)
    next(stream)
    eventually(lambda: server.figure("soundsight_streams") == 1, "the end of earlier streams")
    stream.close()  # type: ignore[attr-defined]
    eventually(lambda: server.figure("soundsight_streams") == 0, "the end of the stream")


def broken() -> Iterator[np.ndarray]:
    yield noise(0.5)
    raise RuntimeError("the sensor is gone")


@pytest.mark.parametrize(
    ("blocks", "kind", "says"),
    [
        ([noise(1.2), np.full(800, np.nan)], AudioError, "not finite"),
        ([noise(1.2), np.zeros((800, 2), np.float32)], AudioError, "mono"),
        ([noise(1.2), np.zeros(800, np.int64)], AudioError, "floats or int16"),
        (broken(), RuntimeError, "the sensor is gone"),
        ([noise(1)] * 120, ServerError, "faster"),
    ],
)
def test_blocks_that_end_a_stream(
    client: Client, blocks: Any, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        list(client.stream(blocks, RATE))


@pytest.mark.parametrize(
    "options", [{"hop_s": 0.3}, {"draws": 9}, {"sensitivity": 2.0}, {"seed": -1}]
)
def test_wrong_options_are_refused_here(client: Client, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        list(client.stream([noise(1)], RATE, **options))


def test_a_server_that_stops_is_told(run_server: Callable[..., Any]) -> None:
    with run_server() as running, Client(running.url) as client:
        stream = client.stream(endless(), RATE)
        next(stream)
        running.leave()
        with pytest.raises(ServerError):
            list(stream)
