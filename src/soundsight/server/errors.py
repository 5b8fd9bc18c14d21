"""What every answer carries, and how a fault is told: one form for programs and for people."""

from __future__ import annotations

from starlette.responses import JSONResponse

RETRY_S = 10
"""What a refused client is told to wait."""

STOPS = "the server stops: send it again"
"""What a client is told whose request is not finished any more."""

CSP = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob: data:",
        "connect-src 'self'", "media-src 'self' blob:", "worker-src 'self'", "font-src 'self'",
        "manifest-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'",
    )
)  # fmt: skip

HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), display-capture=(self), camera=(), geolocation=()",
}
"""Header fields of every answer, whatever its status."""


class RefusedError(Exception):
    """A request that is not done.

    Attributes:
        status: the HTTP status.
        code: a word for programs.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def told(status: int, code: str, message: str) -> JSONResponse:
    """The answer to a request that is not done.

    Args:
        status: of HTTP.
        code: a word for programs.
        message: one line for people.
    """
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 503:
        headers["retry-after"] = str(RETRY_S)
    return JSONResponse(
        {"error": {"code": code, "message": message}}, status_code=status, headers=headers
    )
