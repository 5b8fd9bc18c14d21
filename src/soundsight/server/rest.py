"""The REST API: a sound comes in, its pictures go out. Described by ``/openapi.json``."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated, Any, Literal, Self, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from soundsight import __version__
from soundsight.core.state import State, known
from soundsight.runtime.translator import Translator
from soundsight.server.decoding import Decoded, Decoder
from soundsight.server.errors import ApiError
from soundsight.server.jobs import Jobs
from soundsight.server.limits import Limits
from soundsight.server.metrics import Metrics
from soundsight.server.stream import Streams
from soundsight.server.uploads import FIELD, Upload, receive
from soundsight.views.drawing import picture, png_bytes
from soundsight.views.sheet import ROWS_PER_PAGE, contact_sheet
from soundsight.views.translation import Translation

MAX_DRAWS = 64

_POLL_S = 0.25
"""Seconds between two checks whether the client is still there."""

_MAX_SHOWN = 80

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Services:
    """What the handlers share; made when the server starts. The translator has one thread."""

    translator: Translator
    decoder: Decoder
    jobs: Jobs
    streams: Streams
    limits: Limits
    metrics: Metrics


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesOf = Annotated[Services, Depends(_services)]


class Options(BaseModel):
    """Parameters that every upload takes, in the query or in its form."""

    seed: Annotated[
        int, Field(ge=0, le=2**53 - 1, description="Another seed imagines another picture.")
    ] = 0
    track: Annotated[
        int | None,
        Field(
            ge=1, le=100, description="Which sound track, from 1; the first that sounds without."
        ),
    ] = None
    strict: Annotated[
        bool, Field(description="Refuse what is damaged, instead of using what can be read.")
    ] = False

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in values:
            if name not in cls.model_fields:
                shown = "".join(c for c in name[:_MAX_SHOWN] if c.isprintable()) or "?"
                names = ", ".join(sorted(cls.model_fields))
                # A message is a template: braces in it would be taken for fields.
                raise PydanticCustomError(
                    "unknown", "{name}: no such parameter, there are {names}",
                    {"name": shown, "names": names},
                )  # fmt: skip
        return values

    def with_form(self, request: Request, upload: Upload) -> Self:
        """These options and those in the form beside the file.

        Raises:
            ApiError: 422, for one that stands in the query, too.
            RequestValidationError: for one that is unknown or out of range.
        """
        for name in upload.fields:
            if name in request.query_params:
                raise ApiError(
                    422, "parameter", f"{name}: it stands in the query and in the form: say it once"
                )
        try:
            return type(self).model_validate({**request.query_params, **upload.fields})
        except ValidationError as error:
            faults = error.errors(include_url=False)
            raise RequestValidationError(
                [{**fault, "loc": ("form", *fault["loc"])} for fault in faults]
            ) from None


class TranslateOptions(Options):
    """Parameters of ``/v1/translate``."""

    each_second: Annotated[
        bool, Field(description="Every second, instead of the sound as a whole.")
    ] = False
    draws: Annotated[
        int, Field(ge=1, le=MAX_DRAWS, description="Pictures of the sound, or of each second.")
    ] = 1
    anyway: Annotated[bool, Field(description="Draw sounds of no known kind, too.")] = False
    format: Annotated[Literal["json", "png"], Field(description="What the response is.")] = "json"


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
        description="Lines about the file: it is damaged or cut short, or has several sound tracks."
    )
    pictures: list[Picture]


class Fault(BaseModel):
    """What went wrong, for programs and for people."""

    code: str
    message: str


class FaultAnswer(BaseModel):
    """The response to a request that is not served."""

    error: Fault


class ModelAnswer(BaseModel):
    """Facts about the model."""

    name: str
    version: str
    licence: str
    soundsight: str
    image_px: int
    segment_s: float
    labels: list[str]
    alerts: list[str] = Field(description="Those of the labels that are shown and never drawn.")
    thresholds: dict[str, float]
    figures: dict[str, Any]
    trained_on: str


class Health(BaseModel):
    """How the server is."""

    status: str


_ERRORS = {
    400: "The body is no sound, is damaged or too long, or the form is wrong.",
    401: "The token is missing or wrong.",
    403: "The page's origin, or the name the server is addressed by, is not allowed.",
    408: "The body comes too slowly.",
    413: "The body or the response would be too long.",
    422: "A parameter is out of range, or unknown.",
    503: "The server is busy, starts or stops: try again.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entry of some error responses; without statuses, of all that an upload has."""
    return {
        status: {"model": FaultAnswer, "description": _ERRORS[status]}
        for status in statuses or _ERRORS
    }


BINARY = {"schema": {"type": "string", "format": "binary"}}

UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A sound or video file of any usual format: raw, or in the field "
        f"'{FIELD}' of a form, whose other fields are the parameters of the query, if any.",
        "content": {
            "application/octet-stream": BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: BINARY["schema"]},
                }
            },
        },
    }
}

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

router = APIRouter()


# --- a sound in, pictures out ----------------------------------------------------------------


@router.post(
    "/v1/translate",
    response_model=Translated,
    openapi_extra=UPLOAD,
    responses={
        200: {
            "description": "The pictures; with format=png one PNG, a contact sheet where there "
            "are several.",
            "content": {"application/json": {"example": _EXAMPLE}, "image/png": BINARY},
        },
        **errors(),
    },
)
async def translate(
    request: Request, services: ServicesOf, options: Annotated[TranslateOptions, Query()]
) -> Any:
    """Imagine a sound as a whole, or every second of it."""
    with services.jobs.admit():
        async with receive(request, services.limits) as upload, client_gone(request) as gone:
            options = options.with_form(request, upload)

            def work() -> bytes:
                check_client(gone)  # it may have gone before its turn came
                with services.decoder.open(
                    upload.handle, upload.name, track=options.track, strict=options.strict
                ) as sound:
                    results = _imagine(services, upload, sound, options, gone)
                if options.format == "png":
                    return _sheet(results, upload.name, services)
                body = Translated(
                    model=services.translator.info.label,
                    seed=options.seed,
                    warnings=sound.warnings,
                    pictures=[picture for result in results for picture in _pictures(result)],
                )
                return body.model_dump_json().encode()

            body = await services.jobs.run(work)
    kind = "image/png" if options.format == "png" else "application/json"
    return Response(body, media_type=kind)


@contextlib.asynccontextmanager
async def client_gone(request: Request) -> AsyncIterator[threading.Event]:
    """An event that is set when the client has gone, or the ``with`` block ends."""
    gone = threading.Event()

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(_POLL_S)
        gone.set()

    watcher = asyncio.create_task(watch())
    try:
        yield gone
    finally:
        gone.set()
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


def check_client(gone: threading.Event) -> None:
    """Raise an ``ApiError`` when the client has gone: nobody wants the rest of the work."""
    if gone.is_set():
        raise ApiError(499, "gone", "the client has gone")


def _imagine(
    services: Services,
    upload: Upload,
    sound: Decoded,
    options: TranslateOptions,
    gone: threading.Event,
) -> list[Translation]:
    def checked(items: Iterable[_T]) -> Iterator[_T]:
        for item in items:
            check_client(gone)
            yield item

    how: dict[str, Any] = {"draws": options.draws, "seed": options.seed, "anyway": options.anyway}
    blocks = checked(sound)
    if not options.each_second:
        return [services.translator.translate(blocks, **how)]
    as_sheet = options.format == "png"
    most = ROWS_PER_PAGE * options.draws if as_sheet else services.limits.max_pictures
    seconds = most // options.draws
    too_many = ApiError(
        413,
        "too_many",
        f"{upload.name} would give more than {most} pictures: ask for fewer draws, cut the "
        "sound, or ask for a storyboard",
    )
    if seconds == 0 or (sound.duration_s or 0.0) > seconds + 0.5:
        raise too_many
    results = checked(services.translator.iter_translate(blocks, **how))
    some = list(islice(results, seconds + 1))
    if len(some) > seconds:
        raise too_many
    return some


def _pictures(result: Translation) -> Iterator[Picture]:
    for i, image in enumerate(result.images):
        yield Picture(
            second=round(float(result.seconds[i]), 3),
            draw=int(result.draw[i]),
            state=result.state[i],
            name=result.name[i],
            second_guess=result.second_guess[i],
            confidence=known(result.confidence[i]),
            ood_score=known(result.ood_score[i]),
            level_dbfs=round(float(result.rms_dbfs[i]), 1),
            png=base64.b64encode(png_bytes(picture(image), result.texts(i))).decode(),
        )


def _sheet(results: list[Translation], name: str, services: Services) -> bytes:
    """One picture as it is, several as a contact sheet."""
    if len(results) == 1 and len(results[0]) == 1:
        return png_bytes(picture(results[0].images[0]), results[0].texts(0))
    rows = [result.row(name) for result in results]
    page = contact_sheet(rows, subtitle=f"model {services.translator.info.label}")
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


@router.get("/v1/model", responses=errors(401, 403, 503))
async def model(services: ServicesOf) -> ModelAnswer:
    """Say which model answers, and how well it does."""
    info, head = services.translator.info, services.translator.label_head
    return ModelAnswer(
        name=info.name,
        version=info.version,
        licence=info.licence,
        soundsight=__version__,
        image_px=info.image_px,
        segment_s=info.segment_s,
        labels=list(head.labels) if head else [],
        alerts=list(head.alerts) if head else [],
        thresholds=asdict(info.thresholds),
        figures=info.figures,
        trained_on=str(info.trained_on or ""),
    )


@router.get("/healthz", responses=errors(403))
async def healthz() -> Health:
    """Say that the process lives."""
    return Health(status="alive")


@router.get("/readyz", responses=errors(403, 503))
async def readyz(request: Request) -> Health:
    """Say whether the server takes new streams and requests."""
    services: Services | None = request.app.state.services
    if services is None or services.streams.leaving:
        raise ApiError(503, "not_ready", "the server starts or stops")
    return Health(status="ready")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **errors(401, 403, 503)},
)
async def metrics(services: ServicesOf) -> Response:
    """Give the figures of this process, for Prometheus."""
    kind = "text/plain; version=0.0.4; charset=utf-8"
    return Response(services.metrics.text(), media_type=kind)
