"""What surrounds every request: its id, a line in the log without its content, an answer whatever happens.

A connection ends with an answer that is given before the whole body has come.
"""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nemo_mm_align.core.errors import shorten
from nemo_mm_align.serving.error_responses import error_response
from nemo_mm_align.serving.errors import ApiError

logger = logging.getLogger(__name__)

REQUEST_ID = "X-Request-Id"
GONE = 499
"""Status in the log of a request whose client left, as nginx has it."""

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_QUIET = ("/health", "/metrics")
"""Asked every few seconds by machines: logged only where they fail."""


class Exchange:
    """ASGI middleware around all others.

    `scope["state"]` gets ``request_id``, and ``told``: a dictionary for what the log's line says of the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own, started, status = request_id(scope), time.monotonic(), GONE
        told: dict[str, object] = {}
        coming = _announces_body(scope)
        scope["state"] = {**scope.get("state", {}), "request_id": own, "told": told}

        async def receive_to_end() -> Message:
            nonlocal coming
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                coming = False
            return message

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, headers = message["status"], MutableHeaders(scope=message)
                headers[REQUEST_ID] = own
                if coming:  # else the rest may trickle for ever
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive_to_end, send_named)
        except Exception:
            logger.exception("request %s: a fault of the server", own)
            if status != GONE:  # its beginning is sent; the connection is closed, from which the client sees it
                raise
            error = ApiError(500, f"a fault of the server; its log tells of request {own}", code="internal_error")
            await error_response(error)(scope, receive_to_end, send_named)
        finally:
            _log(scope, own, told.pop("status", status), time.monotonic() - started, told)


def request_id(scope: Scope) -> str:
    """Return the id that a client has given its request, if it is one that fits a header, else a new one."""
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID.lower().encode()), b"")
    return given.decode("ascii") if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


def _announces_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""


def _log(scope: Scope, own: str, status: object, seconds: float, told: dict[str, object]) -> None:
    if scope["path"] in _QUIET and status == 200:
        return
    path = shorten(ascii(scope["path"])[1:-1], 100)
    more = "".join(f", {name} {value}" for name, value in told.items())
    logger.info("%s %s: %s in %.3f s%s [%s]", scope["method"], path, status, seconds, more, own)
