"""The examples in deploy/ fit the program: command lines, ports, paths, metrics, times."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import shlex
import shutil
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import typer
import yaml

from soundsight import Client
from soundsight.cli import serve
from soundsight.cli.main import build_app
from soundsight.server import stream as streams
from soundsight.server.app import create_app
from soundsight.server.limits import Access, Limits
from soundsight.server.tls import CERTIFICATE, KEY, self_signed

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
NGINX = (DEPLOY / "nginx.conf").read_text("utf-8")
DOCUMENT = (ROOT / "docs" / "deploy.md").read_text("utf-8")
OBJECTS = {
    item["kind"]: item for item in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
}
POD = OBJECTS["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]


def image() -> dict[str, list[str]]:
    """Return the instructions of the Dockerfile's last stage."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    last = text.replace("\\\n", " ").rpartition("\nFROM ")[2]
    return collected(line.strip().partition(" ") for line in last.splitlines()[1:])


def unit() -> dict[str, list[str]]:
    """Return the settings of the systemd unit."""
    lines = (DEPLOY / "soundsight@.service").read_text("utf-8").splitlines()
    return collected(line.partition("=") for line in lines if not line.startswith(("#", "[")))


def collected(found: Iterable[tuple[str, str, str]]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, _, value in found:
        values.setdefault(name, []).append(value.strip())
    return values


def nginx_blocks(head: str) -> dict[str, str]:
    """Return the blocks that begin so: what stands between their head and brace, and their text."""
    found = re.finditer(rf"^\s*{head} (.*?)\{{\n(.*?)^\s*\}}", NGINX, re.MULTILINE | re.DOTALL)
    return {match[1].strip(): match[2] for match in found}


def parsed(words: list[str]) -> dict[str, Any]:
    """Return the options of a command line of ``soundsight serve``, as the program reads it."""
    assert [Path(words[0]).name, words[1]] == ["soundsight", "serve"]
    command = typer.main.get_command(build_app())
    context = command.make_context("soundsight", words[1:])
    name, command, rest = command.resolve_command(context, words[1:])  # type: ignore[attr-defined]
    return dict(command.make_context(name, rest, parent=context).params)


def in_service() -> dict[str, Any]:
    (line,) = unit()["ExecStart"]
    filled = line.replace("%i", "8000").replace("${SOUNDSIGHT_ORIGIN}", "https://a.example")
    return parsed(shlex.split(filled))


def in_image() -> dict[str, Any]:
    (entry,) = image()["ENTRYPOINT"]
    return parsed(json.loads(entry))


def in_pod() -> dict[str, Any]:
    return parsed(CONTAINER["command"])


@pytest.fixture(scope="module")
def answers(tiny_model: Path) -> SimpleNamespace:
    """What a server with a token has: its paths, its metrics, and what it answers who has none."""
    access = Access("secret", ["https://soundsight.example.org"])
    app = create_app(access, Limits(), model=tiny_model, workers=1)
    probed = ("/healthz", "/readyz", "/metrics", "/v1/model")

    async def ask() -> tuple[dict[str, int], str]:
        async with (
            app.router.lifespan_context(app),
            # A pod is asked by its address.
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://10.1.2.3:8000"
            ) as client,
        ):
            statuses = {path: (await client.get(path)).status_code for path in probed}
            metrics = await client.get("/metrics", headers={"authorization": "Bearer secret"})
        return statuses, metrics.text

    statuses, metrics = asyncio.run(ask())
    return SimpleNamespace(
        statuses=statuses,
        kinds=dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics, re.MULTILINE)),
        paths=set(app.openapi()["paths"]) | {getattr(r, "path", None) for r in app.routes} - {None},
    )


# --- command lines ------------------------------------------------------------------------------


def test_command_lines() -> None:
    for options in (in_service(), in_image(), in_pod()):
        assert options["port"] == 8000
    # Who stands behind a proxy limits each address and the streams.
    for options in (in_service(), in_pod()):
        assert options["max_streams"]
        assert options["max_streams_per_address"]
        assert options["origin"]
    with pytest.raises(Exception, match="--nonsense"):
        parsed(["soundsight", "serve", "--nonsense"])
    # No token stands in one.
    for path in DEPLOY.iterdir():
        assert "--token" not in path.read_text("utf-8"), path.name
    (variable,) = (v for v in CONTAINER["env"] if v["name"] == "SOUNDSIGHT_TOKEN")
    secret = variable["valueFrom"]["secretKeyRef"]
    assert secret["name"] == OBJECTS["Secret"]["metadata"]["name"]
    assert list(OBJECTS["Secret"]["stringData"]) == [secret["key"]]


# --- ports and paths ----------------------------------------------------------------------------


def test_the_ports_agree() -> None:
    port = in_image()["port"]
    assert image()["EXPOSE"] == [str(port)]
    # A path that needs no token: see the probes.
    assert f"http://127.0.0.1:{port}/healthz" in image()["HEALTHCHECK"][0]
    assert in_pod()["port"] == port
    assert [(p["name"], p["containerPort"]) for p in CONTAINER["ports"]] == [("http", port)]
    assert [p["targetPort"] for p in OBJECTS["Service"]["spec"]["ports"]] == ["http"]
    behind = [int(p) for p in re.findall(r"^\s*server 127\.0\.0\.1:(\d+)", NGINX, re.MULTILINE)]
    assert behind[0] == port
    assert len(set(behind)) > 1
    for one in behind:
        assert f"soundsight@{one}" in DOCUMENT


def test_probes_ask_for_what_is_there_and_show_no_token(answers: SimpleNamespace) -> None:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = CONTAINER[name]["httpGet"]
        assert probe["port"] == "http"
        assert probe["path"] == ("/healthz" if name == "livenessProbe" else "/readyz")
        assert answers.statuses[probe["path"]] == 200
    assert answers.statuses["/metrics"] == 401


def test_what_proxies_know_is_there_and_metrics_are_not_public(answers: SimpleNamespace) -> None:
    (rule,) = OBJECTS["Ingress"]["spec"]["rules"]
    for path in rule["http"]["paths"]:
        if path["pathType"] == "Exact":
            assert path["path"] in answers.paths
        else:
            assert any(known.startswith(path["path"] + "/") or known == path["path"]
                       for known in answers.paths)  # fmt: skip
            assert not "/metrics".startswith(path["path"])
    assert "/metrics" not in [path["path"] for path in rule["http"]["paths"]]
    exact = {key[2:] for key in nginx_blocks("location") if key.startswith("= ")}
    assert exact >= {"/v1/stream", "/v1/translate", "/v1/storyboard", "/metrics"}
    assert exact <= answers.paths
    assert nginx_blocks("location")["= /metrics"].strip() == "return 404;"


# --- nginx --------------------------------------------------------------------------------------


def test_nginx_upgrades_streams_and_hands_on_who_asks() -> None:
    places = nginx_blocks("location")
    stream = places["= /v1/stream"]
    # A place that sets one of them has none of those from above.
    server = NGINX[NGINX.index("ssl_certificate ") : NGINX.index("location / {\n        proxy")]
    fields = dict(re.findall(r"proxy_set_header (\S+) (\S+);", server))
    assert fields["Host"] == "$http_host"
    assert fields["X-Forwarded-For"] == "$remote_addr"
    upgraded = dict(re.findall(r"proxy_set_header (\S+) (\S+);", stream))
    assert upgraded == {
        **fields, "Upgrade": "$http_upgrade", "Connection": "$soundsight_connection",
    }  # fmt: skip
    assert "proxy_buffering off;" in stream
    others = [text for place, text in places.items() if place != "= /v1/stream"]
    assert not any("proxy_set_header" in text for text in others)
    assert "proxy_request_buffering off;" in server
    assert "client_header_timeout" in server
    assert "least_conn;" in NGINX
    # It waits longer than a stream may be silent.
    for seconds in re.findall(r"proxy_(?:read|send)_timeout (\d+)s;", stream):
        assert int(seconds) > Limits().silent_s


def test_proxies_let_through_what_the_server_takes() -> None:
    (longest,) = re.findall(r"client_max_body_size (\d+)m;", NGINX)
    # And the form around it; but not much more.
    assert in_service()["max_upload_mb"] < int(longest) <= in_service()["max_upload_mb"] + 1
    notes = OBJECTS["Ingress"]["metadata"]["annotations"]
    size = notes["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert size == f"{in_pod()['max_upload_mb'] + 1}m"


def nginx_with(folder: Path, text: str) -> list[str]:
    """Write a whole configuration that writes nowhere else; return nginx's command line."""
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = folder / "whole.conf"
    whole.write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ {temporary}\n{text}}}"
    )
    return ["nginx", "-p", str(folder), "-c", str(whole)]


def test_nginx_itself_takes_the_file(tmp_path: Path) -> None:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    self_signed(["soundsight.example.org"], tmp_path)
    # It opens what it would listen on: no port of the machine's.
    at = (f"listen unix:{tmp_path}/{number} " for number in range(8))
    text = re.sub(r"listen (\[::\]:)?(80|443) ?", lambda _: next(at), NGINX)
    text = re.sub(r"(ssl_certificate) \S+;", rf"\1 {tmp_path / CERTIFICATE};", text)
    text = re.sub(r"(ssl_certificate_key) \S+;", rf"\1 {tmp_path / KEY};", text)
    command = [*nginx_with(tmp_path, text), "-t", "-q"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("taken_off", [False, True])
def test_it_lies_under_a_path_behind_nginx(
    taken_off: bool, serving: Any, tiny_model: Path, tmp_path: Path
) -> None:
    """Pages, REST, a storyboard and a stream, whether the proxy leaves the path or takes it off."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    part = (DEPLOY / "nginx-path.conf").read_text("utf-8")
    if taken_off:
        part = part.replace("proxy_pass http://127.0.0.1:8000;\n    proxy_http_version 1.1;",
                            "rewrite ^/sound(/.*)$ $1 break;\n    proxy_pass http://127.0.0.1:8000;\n"
                            "    proxy_http_version 1.1;")  # fmt: skip
        assert part.count("rewrite") == 2
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--model", tiny_model, "--root-path", "/sound/", "--token", "secret")
    with serving(*options) as (address, _), contextlib.ExitStack() as stack:
        assert address.endswith("/sound/")
        part = part.replace("127.0.0.1:8000", address.split("/")[2])
        command = nginx_with(tmp_path, f"server {{ listen 127.0.0.1:{port};\n{part}}}")
        nginx = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        stack.callback(nginx.communicate, timeout=30)
        stack.callback(nginx.terminate)
        url = f"http://127.0.0.1:{port}/sound"
        within_path(url)


def within_path(url: str) -> None:
    """Use a server with a token whose address ends with a path."""
    get = functools.partial(httpx.get, trust_env=False, follow_redirects=True)
    for _ in range(100):
        with contextlib.suppress(httpx.TransportError):
            get(url + "/healthz")
            break
        time.sleep(0.1)
    for path, holds in (("", "live.js"), ("/", "live.js"), ("/file", "file.js"),
                        ("/static/live.js", "import"), ("/static/board.js", "export"),
                        ("/healthz", "alive"), ("/readyz", "ready")):  # fmt: skip
        answer = get(url + path)
        assert (answer.status_code, holds in answer.text) == (200, True), path
    # What a page asks for lies beside it.
    pages = get(url + "/").text + get(url + "/file").text
    for name in re.findall(r'(?:href|src)="(static/[^"]+)"', pages):
        assert get(f"{url}/{name}").status_code == 200, name
    assert get(url + "/v1/model").status_code == 401
    assert get(url + "/metrics").status_code in (401, 404)
    told = get(url + "/openapi.json", headers={"authorization": "Bearer secret"}).json()
    assert told["servers"] == [{"url": "/sound"}]
    noise = 0.3 * np.random.default_rng(0).standard_normal(44_100 * 2)
    with Client(url, token="secret") as client:
        assert client.ready()
        assert len(client.translate(noise, 44_100, each_second=True)) == 2
        assert len(list(client.stream([noise.astype(np.float32)], 44_100))) >= 1
    with Client(f"{url}/#token=secret") as client:
        assert client.model()["name"] == "tiny"


# --- metrics ------------------------------------------------------------------------------------


def test_the_autoscaler_scales_by_a_metric_that_the_server_has(answers: SimpleNamespace) -> None:
    metrics = OBJECTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (pods,) = (entry["pods"] for entry in metrics if entry["type"] == "Pods")
    name = pods["metric"]["name"]
    assert answers.kinds[name] == "gauge"
    adapter = yaml.safe_load((DEPLOY / "prometheus-adapter.yaml").read_text("utf-8"))
    (rule,) = adapter["rules"]["custom"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(name + "{")
    for field in ("<<.Series>>", "<<.LabelMatchers>>", "<<.GroupBy>>"):
        assert field in rule["metricsQuery"]


def test_the_metrics_in_the_document_are_there(answers: SimpleNamespace) -> None:
    listed = dict(re.findall(r"^\| `(soundsight_\w+)` \| (\w+) \|", DOCUMENT, re.MULTILINE))
    there = {name: kind for name, kind in answers.kinds.items() if not name.endswith("_created")}
    assert listed == there
    asked = set(re.findall(r"(soundsight_\w+)[\[{]", DOCUMENT))
    assert len(asked) >= 4
    for name in asked:
        assert re.sub(r"_(bucket|count|sum)$", "", name) in answers.kinds, name


# --- stopping -----------------------------------------------------------------------------------


def test_who_stops_the_server_waits_longer_than_it_takes() -> None:
    config = serve.make_server(SimpleNamespace(), [], None, "127.0.0.1", 1).config
    assert config.timeout_graceful_shutdown is not None
    own_s = 2 * streams._CLOSE_S + config.timeout_graceful_shutdown  # streams, then requests
    (stop_s,) = unit()["TimeoutStopSec"]
    before = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert before[0] == "sleep"
    grace_s = POD["spec"]["terminationGracePeriodSeconds"] - float(before[1])
    (docker_s,) = re.findall(r"`docker stop -t (\d+)`", DOCUMENT)
    assert min(int(stop_s), grace_s, int(docker_s)) >= own_s + 5
    # The signal reaches the server: a list is run without a shell in between.
    assert image()["STOPSIGNAL"] == ["SIGTERM"]
    assert unit()["KillSignal"] == ["SIGTERM"]
    assert isinstance(json.loads(image()["ENTRYPOINT"][0]), list)
    assert CONTAINER["command"][0] == "soundsight"


# --- what runs, and as whom ---------------------------------------------------------------------


def test_the_image_has_no_torch_and_is_not_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    assert re.findall(r"pip install [^\n]*", text) == ["pip install --no-cache-dir '.[serve]'"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["serve"]
    assert not [line for line in wanted if line.startswith(("torch", "lightning", "soundsight"))]
    (user,) = image()["USER"]
    number = int(user.partition(":")[0])
    assert number > 0
    who = POD["spec"]["securityContext"]
    assert who["runAsNonRoot"] is True
    assert who["runAsUser"] == number


def test_the_build_sees_what_it_copies() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert "*" in ignored
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    copied = [line.split()[1:-1] for line in re.findall(r"^COPY (?!--from).*", text, re.MULTILINE)]
    for name in chain.from_iterable(copied):
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored


def test_nothing_is_written_but_in_tmp() -> None:
    inner = CONTAINER["securityContext"]
    assert inner["readOnlyRootFilesystem"] is True
    assert inner["allowPrivilegeEscalation"] is False
    assert inner["capabilities"] == {"drop": ["ALL"]}
    (mount,) = CONTAINER["volumeMounts"]
    (volume,) = POD["spec"]["volumes"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/tmp")
    # No sound on a disk; and where it is full the server is told, where a disk's pod is evicted.
    assert volume["emptyDir"]["medium"] == "Memory"
    assert unit()["DynamicUser"] == ["yes"]
    assert unit()["PrivateTmp"] == ["yes"]


def test_systemd_leaves_the_server_what_it_needs() -> None:
    # Decoders make callbacks in memory that is written and run, and kernels are chosen by the CPU.
    assert not {"MemoryDenyWriteExecute", "ProcSubset"} & set(unit())
    assert "AF_UNIX" in unit()["RestrictAddressFamilies"][0]  # a decoder's socket
    connections = serve._CONNECTIONS + 2 * in_service()["max_streams"]
    assert int(unit()["LimitNOFILE"][0]) >= 2 * connections + 256


def test_the_objects_of_kubernetes_know_one_another() -> None:
    name = OBJECTS["Deployment"]["metadata"]["name"]
    labels = POD["metadata"]["labels"]
    assert OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    assert OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    target = OBJECTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", name)
    # Two that scale would undo each other.
    assert "replicas" not in OBJECTS["Deployment"]["spec"]
    (rule,) = OBJECTS["Ingress"]["spec"]["rules"]
    for path in rule["http"]["paths"]:
        assert path["backend"]["service"] == {
            "name": OBJECTS["Service"]["metadata"]["name"], "port": {"name": "http"},
        }  # fmt: skip
    assert in_pod()["origin"] == [f"https://{rule['host']}"]
    assert {o["apiVersion"] for o in OBJECTS.values()} == {
        "v1", "apps/v1", "networking.k8s.io/v1", "autoscaling/v2", "policy/v1",
    }  # fmt: skip
