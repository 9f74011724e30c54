"""Errors as HTTP answers in OpenAI's form, whoever found them."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nemo_mm_align.serving.errors import ApiError

TRY_AGAIN = (429, 503)
"""Statuses that go away: told with ``Retry-After``."""


def error_response(error: ApiError, headers: Mapping[str, str] | None = None, wait: int = 1) -> JSONResponse:
    """Return the answer that an error is.

    Args:
        wait: seconds after which another try may succeed, for statuses that go away.
    """
    more = {"Retry-After": str(wait)} if error.status in TRY_AGAIN else {}
    return JSONResponse(error.body, error.status, headers={**more, **(headers or {})})


def of_http(request: Request, error: HTTPException) -> Response:
    """Answer what a router refuses: unknown paths and methods; OPTIONS is told which methods there are."""
    allowed = {"Allow": error.headers["Allow"]} if error.headers and "Allow" in error.headers else {}
    if error.status_code == 405 and request.method == "OPTIONS":
        return Response(status_code=204, headers=allowed)
    path = request.url.path
    said = {
        404: f"there is no {path}",
        405: f"{path} does not take {request.method}" + (f", only {allowed['Allow']}" if allowed else ""),
    }
    text = said.get(error.status_code, str(error.detail))
    return error_response(ApiError(error.status_code, text), allowed)


def of_validation(error: RequestValidationError) -> JSONResponse:
    """Answer a body or a query that is not of its route's form; what was sent is not repeated."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return error_response(ApiError(400, f"{where or 'the body'}: {first['msg']}", where or None))
