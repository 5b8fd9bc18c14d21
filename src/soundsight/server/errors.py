"""Errors of the REST API in one form, and the header fields of every response."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from soundsight.core.errors import SoundsightError

RETRY_S = 10
"""What ``Retry-After`` says to a client that is refused for the moment."""

STOPPING = "the server stops: send it again"
SERVER_FAULT = "a fault of the server"

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; media-src 'self' blob:; worker-src 'self'; "
    "font-src 'self'; manifest-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), display-capture=(self), camera=(), geolocation=()",
}
"""Header fields of every response of the application, whatever its status."""


class ApiError(Exception):
    """A request that cannot be served: HTTP status, a word for programs, a line for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def response(self) -> JSONResponse:
        """The HTTP response that says so."""
        fields = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": str(RETRY_S)}}
        body = {"error": {"code": self.code, "message": str(self)}}
        return JSONResponse(body, self.status, fields.get(self.status))


def add_error_handlers(app: FastAPI) -> None:
    """Let the application answer its errors, and those of FastAPI, in the one form."""

    async def answer(_request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            first = error.errors()[0]
            where = [str(part) for part in first["loc"][1:]]
            error = ApiError(422, "parameter", ": ".join([*where, first["msg"]]))
        elif isinstance(error, HTTPException):
            response = ApiError(error.status_code, "http", str(error.detail)).response()
            response.headers.update(error.headers or {})
            return response
        elif not isinstance(error, ApiError):
            error = ApiError(400, "sound", str(error))
        return error.response()

    for kind in (ApiError, SoundsightError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)
