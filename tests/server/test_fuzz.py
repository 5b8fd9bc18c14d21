"""The API fuzzed from its own OpenAPI schema, the same in every run: it answers as it says."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.sounds import write_tones

from soundsight.server.app import create_app
from soundsight.server.limits import Access, Limits

pytestmark = pytest.mark.slow

TOKEN = "secret"
SOUND: bytes = write_tones(io.BytesIO(), (2, 0.3), format="FLAC").getvalue()


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
