"""The API fuzzed from its own OpenAPI schema: it answers as it says, whatever it is asked.

Nothing here is random: every run asks the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import numpy as np
import pytest
import schemathesis
import soundfile
from schemathesis.specs.openapi.checks import positive_data_acceptance

from soundsight.server.app import create_app
from soundsight.server.limits import Access, Limits


def sound() -> bytes:
    """Two seconds of noise."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * 44_100).astype(np.float32)
    soundfile.write(file, noise, 44_100, format="FLAC")
    return file.getvalue()


pytestmark = pytest.mark.slow

SOUND = sound()
TOKEN = "secret"


@pytest.fixture(scope="module")
def server(run_server: Callable[..., Any]) -> Iterator[Any]:
    with run_server(Limits(max_pictures=12), workers=1) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(run_server: Callable[..., Any]) -> Iterator[Any]:
    """A server with a token."""
    with run_server(token=TOKEN) as running:
        yield running


def described(token: str | None = None) -> Any:
    """What a server serves as ``/openapi.json``."""
    return schemathesis.openapi.from_dict(create_app(Access(token), Limits()).openapi())


schema, schema_with_token = described(), described(TOKEN)
settings = hypothesis.settings(
    derandomize=True,
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@schema.parametrize()
@settings
def test_any_request(case: schemathesis.Case, server: Any) -> None:
    # A schema cannot say which bytes are a sound.
    excluded = [positive_data_acceptance] if case.method == "POST" else []
    case.call_and_validate(base_url=server.url, excluded_checks=excluded)


@schema.include(method="POST").parametrize()
@settings
def test_any_request_with_a_sound(case: schemathesis.Case, server: Any) -> None:
    case.body = SOUND
    case.media_type = "application/octet-stream"
    case.call_and_validate(base_url=server.url)


@schema_with_token.parametrize()
@hypothesis.settings(settings, max_examples=5)
def test_the_token_is_asked_for(case: schemathesis.Case, guarded: Any) -> None:
    """Without it, or with another, nothing is answered where the schema says so."""
    own = {"Authorization": f"Bearer {TOKEN}"}
    excluded = [positive_data_acceptance] if case.method == "POST" else []
    case.call_and_validate(base_url=guarded.url, headers=own, excluded_checks=excluded)


def test_what_is_fuzzed_is_what_is_served(server: Any, guarded: Any) -> None:
    told = server.client.get("/openapi.json").json()
    assert told == schema.raw_schema
    own = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.client.get("/openapi.json").status_code == 401
    told = guarded.client.get("/openapi.json", headers=own).json()
    assert told == schema_with_token.raw_schema
    assert told["paths"]["/readyz"]["get"]["security"] == []
    assert told["paths"]["/v1/model"]["get"]["security"] == [{"token": []}]
