"""The REST API: a sound comes in, its pictures go out. Described by ``/openapi.json``."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import math
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.datastructures import QueryParams

from soundsight import __version__
from soundsight.core.state import State
from soundsight.runtime.translator import Translator
from soundsight.server.decoding import Decoded, Decoder
from soundsight.server.errors import RefusedError
from soundsight.server.jobs import Jobs
from soundsight.server.limits import Limits
from soundsight.server.metrics import Metrics
from soundsight.server.stream import Streams
from soundsight.server.uploads import FIELD, Upload, receive
from soundsight.views.sheet import ROWS_PER_PAGE, contact_sheet, png_bytes
from soundsight.views.translation import Translation

MAX_DRAWS = 64

_LOOK_S = 0.25
"""Seconds between two looks at whether the client is still there."""

_LONGEST_SHOWN = 80

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Services:
    """What the handlers share; made when the server starts.

    Attributes:
        translator: of one thread; many handlers use it at once.
        decoder: opens uploads.
        jobs: seats for uploads.
        streams: the WebSocket's side.
        limits: of this process.
        metrics: of this process.
    """

    translator: Translator
    decoder: Decoder
    jobs: Jobs
    streams: Streams
    limits: Limits
    metrics: Metrics


def services(request: Request) -> Services:
    """The services of the application that a request has come to."""
    found: Services = request.app.state.services
    return found


Here = Annotated[Services, Depends(services)]


def known_parameters(request: Request) -> None:
    """Check that a request asks for nothing that is not there.

    Raises:
        RefusedError: 422, for the name of a parameter that is misspelled.
    """
    _check_known(request, request.query_params)


def _check_known(request: Request, names: Iterable[str]) -> None:
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    for name in names:
        if name not in known:
            shown = "".join(c for c in name[:_LONGEST_SHOWN] if c.isprintable())
            raise RefusedError(
                422,
                "parameter",
                f"{shown or '?'}: no such parameter, there are {', '.join(sorted(known))}",
            )


Track = Annotated[
    int | None,
    Query(ge=1, le=100, description="Which sound track, from 1; or else the first that sounds."),
]
Strict = Annotated[
    bool, Query(description="Refuse what is damaged, instead of using what can be read.")
]


def asked_in_form(request: Request, upload: Upload) -> dict[str, Any]:
    """Read the options that stand in the form beside the file: the same as those of the query.

    Returns:
        The values of those that are there, by name.

    Raises:
        RefusedError: 422, for one that is not known, or that the query has, too.
        RequestValidationError: for one that is out of range.
    """
    _check_known(request, upload.fields)
    for name in upload.fields:
        if name in request.query_params:
            raise RefusedError(
                422, "parameter", f"{name}: it stands in the query and in the form: say it once"
            )
    given = request.scope["route"].dependant.query_params
    fields = [field for field in given if field.alias in upload.fields]
    values, errors = request_params_to_args(fields, QueryParams(upload.fields))
    if errors:
        raise RequestValidationError(errors)
    return values


Seed = Annotated[
    int, Query(ge=0, le=2**53 - 1, description="Another seed imagines another picture.")
]


class Format(StrEnum):
    """What the answer is."""

    JSON = "json"
    PNG = "png"


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What a request asks for; the parameters of ``translate``."""

    each_second: bool
    draws: int
    seed: int
    anyway: bool
    format: Format
    track: int | None
    strict: bool


_MEDIA_TYPES = {Format.JSON: "application/json", Format.PNG: "image/png"}


class Picture(BaseModel):
    """One picture of one second."""

    second: float = Field(description="Where the second starts, in seconds.")
    draw: int = Field(description="Which of the pictures of its second this is, from 0.")
    state: State = Field(
        description="picture: imagined. named: an alert, by its word and pictogram; nothing is "
        "imagined. quiet, nothing_recognisable: a calm picture stands for none."
    )
    name: str = Field(description="What it probably is; may be empty.")
    second_guess: str = Field(description="What else it may be; empty where nothing is near.")
    confidence: float | None = Field(description="How sure that is, 0 to 1.")
    ood_score: float | None = Field(
        description="How far the sound is from the known kinds, 0 to 1; high = unknown."
    )
    level_dbfs: float
    png: str = Field(description="The picture: a PNG in base64.")


class Translated(BaseModel):
    """The pictures of a sound."""

    model: str
    seed: int
    warnings: list[str] = Field(
        description="What is to be told of the file: that it is damaged or cut short, or holds "
        "several sound tracks."
    )
    pictures: list[Picture]


class Fault(BaseModel):
    """What went wrong, for programs and for people."""

    code: str
    message: str


class FaultAnswer(BaseModel):
    """The answer to a request that is not done."""

    error: Fault


class ModelAnswer(BaseModel):
    """What may be known of the model."""

    name: str
    version: str
    licence: str
    soundsight: str
    image_px: int
    segment_s: float
    labels: list[str]
    alerts: list[str] = Field(description="Those of the labels that are named and never drawn.")
    thresholds: dict[str, float]
    figures: dict[str, Any]
    trained_on: str


class Health(BaseModel):
    """How the server is."""

    status: str


def faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entry of answers that are no success."""
    told = {
        400: "The body is no sound, is damaged or too long, or the form is wrong.",
        401: "The token is missing or wrong.",
        403: "The page's origin, or the name the server is addressed by, is not allowed.",
        408: "The body comes too slowly.",
        413: "The body or the answer would be too long.",
        422: "A parameter is out of range, or unknown.",
        503: "The server is busy, starts or stops: try again.",
    }
    return {s: {"model": FaultAnswer, "description": told[s]} for s in statuses}


UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A sound or video file of any usual format: raw, or in the field "
        f"'{FIELD}' of a form, whose other fields are the parameters of the query, if any.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}

router = APIRouter()

_EXAMPLE = {
    "model": "everyday 1",
    "seed": 0,
    "warnings": [],
    "pictures": [
        {
            "second": 1.25,
            "draw": 0,
            "state": "picture",
            "name": "dog",
            "second_guess": "",
            "confidence": 0.81,
            "ood_score": 0.22,
            "level_dbfs": -20.4,
            "png": "iVBORw0KGgo...",
        }
    ],
}


@router.post(
    "/v1/translate",
    response_model=Translated,
    openapi_extra=UPLOAD,
    dependencies=[Depends(known_parameters)],
    responses={
        200: {
            "description": "The pictures; with format=png one PNG, a contact sheet where there "
            "are several.",
            "content": {
                "application/json": {"example": _EXAMPLE},
                "image/png": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        **faults(400, 401, 403, 408, 413, 422, 503),
    },
)
async def translate(
    request: Request,
    here: Here,
    each_second: Annotated[
        bool, Query(description="Every second, instead of the sound as a whole.")
    ] = False,
    draws: Annotated[
        int, Query(ge=1, le=MAX_DRAWS, description="Pictures of the sound, or of each second.")
    ] = 1,
    seed: Seed = 0,
    anyway: Annotated[bool, Query(description="Draw sounds of no known kind, too.")] = False,
    format: Annotated[Format, Query(description="What the answer is.")] = Format.JSON,
    track: Track = None,
    strict: Strict = False,
) -> Any:
    """Imagine a sound as a whole, or every second of it."""
    wish = _Wish(
        each_second=each_second, draws=draws, seed=seed, anyway=anyway,
        format=format, track=track, strict=strict,
    )  # fmt: skip
    with here.jobs.admit():
        async with receive(request, here.limits) as upload, _while_wanted(request) as unwanted:
            wish = replace(wish, **asked_in_form(request, upload))

            def work() -> bytes:
                # Its turn may come when nobody waits any more.
                _check_wanted(unwanted)
                with here.decoder.open(
                    upload.handle, upload.name, track=wish.track, strict=wish.strict
                ) as sound:
                    results = _imagined(here, upload, sound, wish, unwanted)
                if wish.format is Format.PNG:
                    return _drawn(results, upload.name, here)
                return _told(results, wish.seed, sound.blocks.warnings, here)

            body = await here.jobs.run(work, unwanted)
    return Response(body, media_type=_MEDIA_TYPES[wish.format])


@contextlib.asynccontextmanager
async def _while_wanted(request: Request) -> AsyncIterator[threading.Event]:
    """Watch the client of a request whose body has come: the event is set when it is gone."""
    unwanted = threading.Event()

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(_LOOK_S)
        unwanted.set()

    watcher = asyncio.create_task(watch())
    try:
        yield unwanted
    finally:
        unwanted.set()
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


def _check_wanted(unwanted: threading.Event) -> None:
    if unwanted.is_set():
        raise RefusedError(499, "gone", "the client has gone")


def _imagined(
    here: Services, upload: Upload, sound: Decoded, wish: _Wish, unwanted: threading.Event
) -> list[Translation]:
    options: dict[str, Any] = {
        "draws": wish.draws, "seed": wish.seed, "anyway": wish.anyway,
    }  # fmt: skip
    as_json = wish.format is Format.JSON
    most = here.limits.max_pictures if as_json else ROWS_PER_PAGE * wish.draws

    def wanted(items: Iterable[_T]) -> Iterator[_T]:
        for item in items:
            _check_wanted(unwanted)
            yield item

    blocks = wanted(sound.blocks)
    if not wish.each_second:
        return [here.translator.translate(blocks, **options)]
    seconds = most // wish.draws
    too_many = RefusedError(
        413,
        "too_many",
        f"{upload.name} would give more than {most} pictures: ask for fewer draws, cut the "
        "sound, or ask for a storyboard",
    )
    if seconds == 0 or (sound.duration_s or 0.0) > seconds + 0.5:
        raise too_many
    every = wanted(here.translator.iter_translate(blocks, **options))
    results = list(islice(every, seconds + 1))
    if len(results) > seconds:
        raise too_many
    return results


def _told(results: list[Translation], seed: int, warnings: list[str], here: Services) -> bytes:
    answer = Translated(
        model=here.translator.info.label,
        seed=seed,
        warnings=warnings,
        pictures=[picture for result in results for picture in _pictures(result)],
    )
    return answer.model_dump_json().encode()


def _pictures(result: Translation) -> Iterator[Picture]:
    for i, image in enumerate(result.images):
        yield Picture(
            second=round(float(result.seconds[i]), 3),
            draw=int(result.draw[i]),
            state=result.state[i],
            name=result.name[i],
            second_guess=result.second_guess[i],
            confidence=_known(result.confidence[i]),
            ood_score=_known(result.ood_score[i]),
            level_dbfs=round(float(result.rms_dbfs[i]), 1),
            png=base64.b64encode(png_bytes(image, result.texts(i))).decode(),
        )


def _drawn(results: list[Translation], name: str, here: Services) -> bytes:
    """One picture as it is, several as a contact sheet."""
    if len(results) == 1 and len(results[0]) == 1:
        return png_bytes(results[0].images[0], results[0].texts(0))
    rows = [result.row(name) for result in results]
    page = contact_sheet(rows, subtitle=f"model {here.translator.info.label}")
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def _known(score: Any) -> float | None:
    return None if math.isnan(score) else round(float(score), 4)


@router.get("/v1/model", responses=faults(401, 403, 503))
async def model(here: Here) -> ModelAnswer:
    """Say which model answers, and how well it does."""
    info, head = here.translator.info, here.translator.label_head
    return ModelAnswer(
        name=info.name,
        version=info.version,
        licence=info.licence,
        soundsight=__version__,
        image_px=info.image_px,
        segment_s=info.segment_s,
        labels=list(head.labels) if head else [],
        alerts=list(head.alerts) if head else [],
        thresholds={
            "quiet_dbfs": info.thresholds.quiet_dbfs,
            "ood_score": info.thresholds.ood_score,
            "confidence": info.thresholds.confidence,
        },
        figures=info.figures,
        trained_on=str(info.trained_on or ""),
    )


@router.get("/healthz", responses=faults(403))
async def healthz() -> Health:
    """Say that the process lives."""
    return Health(status="alive")


@router.get("/readyz", responses=faults(403, 503))
async def readyz(request: Request) -> Health:
    """Say whether new streams and requests are welcome: the model is warm, nothing stops."""
    found: Services | None = getattr(request.app.state, "services", None)
    if found is None or found.streams.leaving:
        raise RefusedError(503, "not_ready", "the server starts or stops")
    return Health(status="ready")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **faults(401, 403, 503)},
)
async def metrics(here: Here) -> Response:
    """Give the figures of this process, for Prometheus."""
    return Response(here.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
