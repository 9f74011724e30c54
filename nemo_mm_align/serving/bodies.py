"""Bodies of requests, read up to a limit and for so long, as JSON objects."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from nemo_mm_align.serving.errors import ApiError


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """Return the bytes of a body.

    Args:
        most: bytes; of a longer body no more is read than shows that it is one.
        seconds: that the whole body may take to come.

    Raises:
        ApiError: too long (413), too slow (408), not said to be JSON (415).
        ClientGone: the client left in its midst.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"content type {kind or 'unknown'}: send the header Content-Type: application/json")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise _too_long(most)
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise _too_long(most)
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {seconds:g} s", code="timeout") from None
    except ClientDisconnect:
        raise ClientGone from None
    return b"".join(parts)


def _too_long(most: int) -> ApiError:
    return ApiError(413, f"the body has more than {most} bytes; send smaller images", code="body_too_large")


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds; raise `ApiError` (400) where it is none that everybody reads alike."""
    try:
        values = json.loads(body.decode("utf-8"), parse_constant=_refuse)
        half = b"\\u" in body and _has_half_characters(values)  # which reaches less deep than reading does
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8", code="invalid_json") from None
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not JSON: {why}", code="invalid_json") from None
    if not isinstance(values, dict):
        raise ApiError(400, "the body must be a JSON object, {...}", code="invalid_json")
    if half:
        raise ApiError(400, "the body holds half of a surrogate pair, which is no character", code="invalid_json")
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _has_half_characters(values: Any) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
