"""``soundsight serve`` as a process: what it says, what it answers, and how it ends."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pty
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import psutil
import pytest
import soundfile
from cryptography import x509
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from soundsight.cli.main import build_app
from soundsight.cli.serve import _own_certificate as own_certificate
from soundsight.core import protocol
from soundsight.core.errors import OutputError
from soundsight.server import tls

PATIENCE_S = 60

STOPS = [signal.SIGINT, signal.SIGTERM]


def command(model: Path, *args: str) -> list[str]:
    words = ["serve", "--model", str(model), "--port", "0", *args]
    return [sys.executable, "-m", "soundsight", *words]


def surroundings(folder: Path, **values: str) -> dict[str, str]:
    """Of a server whose temporary files go to a folder of its own."""
    folder.mkdir(exist_ok=True)
    own = {name: value for name, value in os.environ.items() if name != "SOUNDSIGHT_TOKEN"}
    return {**own, "TMPDIR": str(folder), **values}


class Server:
    """A process that serves."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder = process, folder
        self.said = self.line()
        assert self.said.startswith("ready: "), (self.said, process.poll())
        self.url, _, self.fragment = self.said.split()[1].partition("/#")
        self.url = self.url.rstrip("/")
        self.port = urlsplit(self.url).port

    def line(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def client(self, verify: Any = True) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S, verify=verify)

    def stop(self, how: signal.Signals | None = None) -> tuple[int, str]:
        """Send a signal, if any, and wait for the end; the exit code, and the errors that it told.

        It has said no more.
        """
        if how is not None:
            self.process.send_signal(how)
        out, errors = self.process.communicate(timeout=PATIENCE_S)
        assert out == ""
        return self.process.returncode, errors


@pytest.fixture
def serve(tiny_model: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server on a free port: (*arguments, **environment) -> it, once it is ready."""
    with contextlib.ExitStack() as stack:

        def start(*args: str, **env: str) -> Server:
            folder = tmp_path / "tmp"
            process = subprocess.Popen(
                command(tiny_model, *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, env=surroundings(folder, **env),
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            return Server(process, folder)

        yield start


def decoders(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


# --- what it refuses -------------------------------------------------------------------------


@pytest.fixture
def refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Runs a command that must fail in one line, and leave nothing; the line."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.delenv("SOUNDSIGHT_TOKEN", raising=False)

    def run(*args: str) -> str:
        result = CliRunner().invoke(build_app(), command(tiny_model, *args)[3:])
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert list(folder.iterdir()) == []
        return result.stderr

    return run


def test_a_port_that_is_taken(refused: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused("--port", port)
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use (choose" in line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        # An address that is kept for examples, and a name that is nobody's.
        (["--host", "203.0.113.7"], "cannot listen on 203.0.113.7, port"),
        (["--host", "nowhere.invalid"], "cannot listen on nowhere.invalid, port 0: "),
        (["--host", ""], "cannot listen on no address, port 0: "),
        (["--model", "no-such-model"], "no-such-model"),
        (["--tls-cert", "a.pem"], "--tls-cert and --tls-key go together"),
        (["--tls-key", "a.pem"], "--tls-cert and --tls-key go together"),
        (["--tls-cert", "no.pem", "--tls-key", "no.pem"], "there is no file no.pem"),
        (["--root-path", "sound"], "--root-path is a path such as /sound, not 'sound'"),
        (["--root-path", "/a/../b"], "--root-path is a path such as /sound, not '/a/../b'"),
        (["--root-path", "/file"], "--root-path: /file is the server's own, choose another path"),
        (["--origin", "example.org"], "'example.org' is no origin"),
        (["--token", "\u00f6"], "the token must be plain printable ASCII text"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be(args: list[str], words: str, refused: Callable[..., str]) -> None:
    assert words in refused(*args)


def test_a_token_that_could_not_be_read(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was meant to have a token is not to serve without one."""
    monkeypatch.setenv("SOUNDSIGHT_TOKEN", "")
    assert "SOUNDSIGHT_TOKEN is empty" in refused()


def test_a_certificate_that_does_not_fit(
    refused: Callable[..., str], tiny_model: Path, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        tls.self_signed(["localhost"], folder)
    for certificate, key in (
        (one / tls.CERTIFICATE, other / tls.KEY),
        (one / tls.KEY, one / tls.CERTIFICATE),
        (tiny_model / "CARD.md", one / tls.KEY),
    ):
        line = refused("--tls-cert", str(certificate), "--tls-key", str(key))
        assert f"{certificate} and {key} are no certificate and its key" in line


# --- what it says and answers ----------------------------------------------------------------


def only_with(client: httpx.Client, token: str) -> None:
    assert client.get("/readyz").status_code == 200
    assert client.get("/v1/model").status_code == 401
    shown = {"authorization": f"Bearer {token}"}
    assert client.get("/v1/model", headers=shown).status_code == 200


def test_a_token_of_the_environment(serve: Callable[..., Server]) -> None:
    server = serve(SOUNDSIGHT_TOKEN="open sesame+&#")
    # Standard output may be a log.
    assert "sesame" not in server.said
    with server.client() as client:
        only_with(client, "open sesame+&#")
    assert server.stop(signal.SIGINT) == (0, "")


def test_a_person_at_a_terminal_is_shown_the_token(tiny_model: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(tiny_model), stdout=theirs, stderr=theirs,
        env=surroundings(tmp_path / "tmp", SOUNDSIGHT_TOKEN="open sesame+&#"),
    ) as process:  # fmt: skip
        os.close(theirs)
        try:
            line = os.read(ours, 4096).decode()
        finally:
            process.terminate()
        assert process.wait(PATIENCE_S) == 0
    os.close(ours)
    # As the page reads it.
    assert parse_qs(line.split()[1].partition("#")[2]) == {"token": ["open sesame+&#"]}


def test_https(serve: Callable[..., Server], tmp_path: Path) -> None:
    tls.self_signed(["127.0.0.1"], tmp_path)
    certificate, key = str(tmp_path / tls.CERTIFICATE), str(tmp_path / tls.KEY)
    server = serve("--tls-cert", certificate, "--tls-key", key)
    trusting = ssl.create_default_context(cafile=certificate)
    assert server.url.startswith("https://127.0.0.1:")
    with server.client(trusting) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
    address = f"wss://127.0.0.1:{server.port}{protocol.PATH}"
    with connect(address, ssl=trusting, compression=None) as stream:
        stream.send(json.dumps({"type": "hello"}))
        assert json.loads(stream.recv(PATIENCE_S))["type"] == "ready"
        server.process.send_signal(signal.SIGTERM)
        assert ended(stream) == (["going_away"], 1001)
    assert server.stop() == (0, "")


def test_lan(serve: Callable[..., Server], tmp_path: Path) -> None:
    """A certificate of its own, whose files are gone before it is ready, and a token."""
    server = serve("--lan")
    url = urlsplit(server.url)
    assert url.scheme == "https"
    token = server.fragment.removeprefix("token=")
    assert len(token) >= 12
    assert "the certificate is this server's own" in server.line()
    fingerprint = server.line().strip()
    assert list(server.folder.iterdir()) == []
    served = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", url.port or 0)))
    assert fingerprint.replace(":", "") == hashlib.sha256(served).hexdigest().upper()
    pem = tmp_path / "seen.pem"
    pem.write_text(ssl.DER_cert_to_PEM_cert(served), "utf-8")
    trusting = ssl.create_default_context(cafile=str(pem))
    # As a phone reaches it; the certificate is for this address, too.
    with server.client(trusting) as client:
        assert client.get("/").status_code == 200
        only_with(client, token)
    assert server.stop(signal.SIGTERM) == (0, "")
    assert list(server.folder.iterdir()) == []


def test_a_machine_may_be_called_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls.self_signed(["localhost", "büro", "a" * 300, "192.0.2.7", "::1"], tmp_path)
    known = x509.load_pem_x509_certificate((tmp_path / tls.CERTIFICATE).read_bytes())
    held = known.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert held.get_values_for_type(x509.DNSName) == ["localhost", "a" * 300]
    addresses = held.get_values_for_type(x509.IPAddress)
    assert [str(name) for name in addresses] == ["192.0.2.7", "::1"]
    assert (tmp_path / tls.KEY).stat().st_mode & 0o077 == 0
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no-such-folder"))
    with pytest.raises(OutputError, match="no place for a certificate"):
        own_certificate()


# --- how it ends -----------------------------------------------------------------------------


def ended(stream: Any) -> tuple[list[str], int | None]:
    """Read a stream to its end; the notices, and the close code."""
    notices = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            message = stream.recv(PATIENCE_S)
            if isinstance(message, str) and json.loads(message)["type"] == "notice":
                notices.append(json.loads(message)["code"])
    return notices, stream.close_code


SOUND = io.BytesIO()
soundfile.write(SOUND, np.zeros(44_100, np.float32), 44_100, format="WAV")


@contextlib.contextmanager
def half_sent(server: Server) -> Iterator[tuple[socket.socket, bytes]]:
    """A request that the server works on: (its connection, the half that has not been sent)."""
    body = SOUND.getvalue()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as line:
        line.sendall(
            b"POST /v1/translate HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        # Sent when the body is asked for.
        assert line.recv(1000).startswith(b"HTTP/1.1 100 ")
        line.sendall(body[:1000])
        yield line, body[1000:]


def no_longer_open(server: Server) -> None:
    """Wait until a server that was asked to stop takes no new connection."""
    end = time.monotonic() + PATIENCE_S
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S).close()
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize("how", STOPS, ids=lambda how: how.name)
def test_it_serves_at_once_and_stops_in_order(
    serve: Callable[..., Server], how: signal.Signals
) -> None:
    """The address that is printed is the one that answers.

    At a signal what has come is answered, streams are closed with a reason, a request is finished,
    and no process is left.
    """
    server = serve()
    assert server.said == f"ready: http://127.0.0.1:{server.port}/   (Ctrl-C stops)"
    assert server.port not in (None, 0, 8000)
    with server.client() as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        page = client.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert client.get("/v1/model").json()["name"] == "tiny"
    children = decoders(server)
    assert children
    address = f"ws://127.0.0.1:{server.port}{protocol.PATH}"
    with half_sent(server) as (line, rest), connect(address, compression=None) as stream:
        stream.send(json.dumps({"type": "hello"}))
        assert json.loads(stream.recv(PATIENCE_S))["type"] == "ready"
        noise = np.random.default_rng(0).integers(-9000, 9000, 44_100).astype(np.int16)
        stream.send(protocol.SoundFrame(sequence=0, position=0, samples=noise).pack())
        assert stream.ping().wait(PATIENCE_S)  # it has come
        server.process.send_signal(how)
        window = stream.recv(PATIENCE_S)
        while isinstance(window, str):
            window = stream.recv(PATIENCE_S)
        assert protocol.read_window(window)[0].end_s == 1.0
        assert ended(stream)[1] == 1001
        assert stream.close_reason
        no_longer_open(server)
        assert server.process.poll() is None
        line.sendall(rest)
        answer = b""
        while part := line.recv(1 << 16):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert len(json.loads(body)["pictures"]) == 1
    assert server.stop() == (0, "")
    assert psutil.wait_procs(children, timeout=PATIENCE_S)[1] == []
    assert list(server.folder.iterdir()) == []


def test_a_second_ctrl_c_stops_at_once(serve: Callable[..., Server]) -> None:
    server = serve()
    children = decoders(server)
    with half_sent(server):
        server.process.send_signal(signal.SIGINT)
        no_longer_open(server)
        assert server.process.poll() is None
        assert server.stop(signal.SIGINT) == (130, "interrupted\n")
    assert psutil.wait_procs(children, timeout=PATIENCE_S)[1] == []
