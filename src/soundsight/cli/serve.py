"""``soundsight serve``: the live page, the file page, the REST API and the stream."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import ssl
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from soundsight.cli.console import say
from soundsight.cli.options import Model, panel
from soundsight.core.cpus import usable_cpus
from soundsight.core.errors import ConfigError, OutputError, require_extra

if TYPE_CHECKING:
    from types import FrameType

    import uvicorn
    from fastapi import FastAPI

LOOPBACK = ("127.0.0.1", "::1", "localhost")
STREAMS_PER_CPU = 32
_STREAMS_PER_ADDRESS = 8
_CONNECTIONS = 256
"""Connections beside those of streams."""
_BACKLOG = 1024
_ALL_ADDRESSES = ("0.0.0.0", "::")
_MAX_HEAD_BYTES = 32 << 10
_MAX_FRAME_BYTES = 1 << 20
_POLL_S = 0.1
"""Seconds between two checks whether a server that stops is to stop at once."""

_address = panel("Address")
_security = panel("Who may use it")
_limits = panel("Limits of a process")
_proxy = panel("Behind a proxy")


def serve(
    model: Model = None,
    host: Annotated[
        str, _address("ADDRESS", "Address to listen on; the default is this machine alone.")
    ] = ("127.0.0.1"),
    port: Annotated[
        int, _address("N", "Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 8000,
    lan: Annotated[
        bool,
        _address(
            "",
            "For a phone on the same network: listens on all addresses, over https with a "
            "certificate of its own, and with a token.",
            "--lan",
        ),
    ] = False,
    tls_cert: Annotated[Path | None, _address("PEM", "Certificate chain; serves https.")] = None,
    tls_key: Annotated[Path | None, _address("PEM", "Key of the certificate.")] = None,
    token: Annotated[
        str | None,
        _security(
            "TEXT", "Token that clients must send.", envvar="SOUNDSIGHT_TOKEN", show_envvar=True
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        _security("URL", "A page of another origin that may use it; may be repeated."),
    ] = None,
    max_streams: Annotated[
        int | None, _limits("N", "Streams at once. [dim](default: 32 a CPU)[/dim]", min=1)
    ] = None,
    max_streams_per_address: Annotated[
        int | None,
        _limits(
            "N",
            "Streams at once of one address. [dim](default: 8; on this machine alone: no "
            "limit)[/dim]",
            min=1,
        ),
    ] = None,
    max_speed: Annotated[
        float, _limits("X", "How much faster than real time a stream may send.", min=1.0)
    ] = 2.0,
    max_upload_mb: Annotated[int, _limits("MB", "Longest upload.", "--max-upload", min=1)] = 1024,
    max_duration_min: Annotated[
        float, _limits("MIN", "Longest sound of an upload.", "--max-duration", min=0.1)
    ] = 240.0,
    root_path: Annotated[
        str,
        _proxy(
            "PATH",
            "Path under which a proxy serves it, such as /sound.",
            show_default=False,
        ),
    ] = "",
    proxy: Annotated[
        str, _proxy("ADDRESSES", "Proxies whose X-Forwarded headers are believed.")
    ] = "127.0.0.1",
) -> None:
    """See it live: a page that listens and shows what is sounding.

    Prints its address when the model is loaded. Ctrl-C or SIGTERM answers the sound received so
    far, tells every stream, and stops with exit code 0. A second Ctrl-C stops at once.
    Sound is neither stored nor logged.
    """
    require_extra(
        "soundsight serve", "serve", "fastapi", "uvicorn", "websockets", "python_multipart",
        "prometheus_client", "cryptography",
    )  # fmt: skip
    from soundsight.runtime.translator import Translator
    from soundsight.server.app import create_app
    from soundsight.server.limits import Access, Limits
    from soundsight.server.tls import lan_address

    if (tls_cert is None) != (tls_key is None):
        raise ConfigError("--tls-cert and --tls-key go together")
    if token is None and "SOUNDSIGHT_TOKEN" in os.environ:
        # A secret that could not be read must not open the door.
        raise ConfigError("SOUNDSIGHT_TOKEN is empty: set it, or unset it to ask for no token")
    root_path = root_path.rstrip("/")
    if root_path and not re.fullmatch(r"(/(?!\.+(?:/|$))[A-Za-z0-9._~-]+)+", root_path):
        raise ConfigError(f"--root-path is a path such as /sound, not {root_path!r}")
    if lan and host in LOOPBACK:
        host = "0.0.0.0"
    # A token that was given is a secret, which no log may keep. One that is made here has to be
    # shown, or nobody would know it.
    show_token = sys.stdout.isatty()
    if lan and token is None:
        token, show_token = secrets.token_urlsafe(12), True
    cpus = usable_cpus()
    streams = max_streams or STREAMS_PER_CPU * cpus
    per_address = streams if host in LOOPBACK else _STREAMS_PER_ADDRESS
    limits = Limits(
        max_streams=streams,
        max_streams_per_address=max_streams_per_address or per_address,
        max_speed=max_speed,
        max_jobs=cpus,
        max_upload_bytes=max_upload_mb << 20,
        max_duration_s=60 * max_duration_min,
        max_connections=_CONNECTIONS + 2 * streams,
    )
    hosts = () if host in (*LOOPBACK, *_ALL_ADDRESSES) else (host.lower(),)
    access = Access(token, origin, hosts)
    tls: ssl.SSLContext | None = None
    notes: list[str] = []  # further lines about the address
    with _bind(host, port) as listening:
        if tls_cert is not None and tls_key is not None:
            tls = _load_certificate(tls_cert, tls_key)
        elif lan:
            tls, fingerprint = _own_certificate()
            notes += [
                "the certificate is this server's own: the browser will warn; its SHA-256 is",
                f"  {fingerprint}",
            ]
        elif host not in LOOPBACK:
            notes.append(
                "note: browsers give a page the microphone only over https or on this machine: "
                "use --lan, or --tls-cert and --tls-key"
            )
        if token is None and host not in LOOPBACK:
            notes.append(
                "note: everybody who reaches this address may use it: --token asks for one"
            )
        # A model that cannot be used fails here, before anything is served.
        translator = Translator.load(model, 1)
        app = create_app(access, limits, model=translator, workers=cpus, root_path=root_path)
        shown = (lan_address() or "127.0.0.1") if host in _ALL_ADDRESSES else host
        shown = f"[{shown}]" if ":" in shown else shown
        url = f"{'https' if tls else 'http'}://{shown}:{listening.getsockname()[1]}{root_path}/"
        # Browsers do not send what follows the #.
        fragment = f"#token={quote(token, safe='')}" if token and show_token else ""
        welcome = [f"ready: {url}{fragment}   (Ctrl-C stops)", *notes]
        _allow_open_files(2 * limits.max_connections + 256)
        server = make_server(app, welcome, tls, proxy, limits.max_connections)
        server.run(sockets=[listening])
        if server.force_exit:
            raise KeyboardInterrupt
        if not server.started:  # the log has said why
            raise typer.Exit(1)


def _bind(host: str, port: int) -> socket.socket:
    """Take the port before the model is loaded, and at once: another server could take it."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, ValueError) as error:  # ValueError: no name at all
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise ConfigError(
            f"cannot listen on {host or 'no address'}, port {port}: {reason} (choose others with "
            "--host and --port)"
        ) from None


def _own_certificate() -> tuple[ssl.SSLContext, str]:
    """A certificate for this machine's names, of which nothing stays on the disk; its SHA-256."""
    from soundsight.server.tls import CERTIFICATE, KEY, lan_address, self_signed

    own = socket.gethostname()
    names = ["localhost", own, f"{own}.local", "127.0.0.1", lan_address() or "127.0.0.1"]
    try:
        with tempfile.TemporaryDirectory(prefix="soundsight-tls-") as folder:
            fingerprint = self_signed(list(dict.fromkeys(names)), Path(folder))
            return _load_certificate(Path(folder) / CERTIFICATE, Path(folder) / KEY), fingerprint
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"no place for a certificate among temporary files: {reason}") from None


def _load_certificate(certificate: Path, key: Path) -> ssl.SSLContext:
    """Load a certificate and its key."""
    for path in (certificate, key):
        if not path.is_file():
            raise ConfigError(f"there is no file {path}: check --tls-cert and --tls-key")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.set_alpn_protocols(["http/1.1"])
    try:
        # A key with a pass phrase would ask for it on the terminal.
        tls.load_cert_chain(certificate, key, lambda: "")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ConfigError(
            f"{certificate} and {key} are no certificate and its key (PEM, no pass phrase): {error}"
        ) from None
    return tls


def make_server(
    app: FastAPI,
    welcome: list[str],
    tls: ssl.SSLContext | None,
    proxy: str,
    connections: int,
) -> uvicorn.Server:
    """The server of an application, which stops in order; it prints ``welcome`` when it is ready.

    ``force_exit`` says afterwards that it was stopped at once instead.
    """
    import asyncio

    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if not self.should_exit:
                for line in welcome:
                    say(line)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
            # uvicorn would send itself the signal again at its end, and the exit code were no 0.
            self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
            self.should_exit = True

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for listening in self.servers:
                listening.close()
            if app.state.services is not None:
                # uvicorn would close every stream without a word.
                leaving = asyncio.create_task(app.state.services.streams.leave())
                while not (leaving.done() or self.force_exit):
                    await asyncio.wait([leaving], timeout=_POLL_S)
            await super().shutdown(sockets)
            if self.force_exit:
                # The person wanted work to be cut off: uvicorn need not report it.
                logging.getLogger("uvicorn.error").disabled = True

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        forwarded_allow_ips=proxy,
        http="h11",
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        limit_concurrency=connections,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=20,
        ws="websockets-sansio",
        ws_max_size=_MAX_FRAME_BYTES,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        ws_per_message_deflate=False,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )
    return Server(config)


def _allow_open_files(count: int) -> None:
    """Raise the limit of open files to so many, as far as this process may."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
