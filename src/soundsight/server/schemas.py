"""What the REST API takes and gives: parameters, responses, and their entries in the OpenAPI."""

from __future__ import annotations

from typing import Any, Literal, Self

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from soundsight.core.state import State
from soundsight.server.errors import ApiError
from soundsight.server.uploads import FIELD, Upload

MAX_DRAWS = 64

_MAX_SHOWN = 80


class Options(BaseModel):
    """Parameters that every upload takes, in the query or in its form."""

    seed: int = Field(0, ge=0, le=2**53 - 1, description="Another seed imagines another picture.")
    track: int | None = Field(
        None, ge=1, le=100, description="Which sound track, from 1; the first that sounds without."
    )
    strict: bool = Field(
        False, description="Refuse what is damaged, instead of using what can be read."
    )

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

    each_second: bool = Field(False, description="Every second, instead of the sound as a whole.")
    draws: int = Field(
        1, ge=1, le=MAX_DRAWS, description="Pictures of the sound, or of each second."
    )
    anyway: bool = Field(False, description="Draw sounds of no known kind, too.")
    format: Literal["json", "png"] = Field("json", description="What the response is.")


class StoryboardOptions(Options):
    """Parameters of ``/v1/storyboard``."""

    format: Literal["ndjson", "json", "png", "mp4", "html"] = Field(
        "ndjson", description="What the response is."
    )
    sensitivity: float = Field(
        0.5, ge=0, le=1, description="0 tells only what is loud and sure, 1 tells more."
    )
    name: str = Field(
        "", max_length=1000, description="What the file is called, where it comes raw."
    )


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


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
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
_PICTURE = {
    "second": 1.25, "draw": 0, "state": "picture", "name": "dog", "second_guess": "",
    "confidence": 0.81, "ood_score": 0.22, "level_dbfs": -20.4, "png": "iVBORw0KGgo...",
}  # fmt: skip
EXAMPLE = {"model": "everyday 1", "seed": 0, "warnings": [], "pictures": [_PICTURE]}
