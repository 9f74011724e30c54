"""Who may ask: keys compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from nemo_mm_align.serving.error_responses import error_response
from nemo_mm_align.serving.errors import ApiError

OPEN = ("/health",)
"""Paths for which no key is needed: whoever watches the server has none."""

OPEN_FOLDERS = ("/playground/",)
"""Files of the page; what it asks the server for needs a key."""


class Authentication:
    """ASGI middleware: answers 401 unless one of the keys comes as ``Authorization: Bearer KEY``.

    Args:
        app: what is asked then.
        keys: at least one.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[str]) -> None:
        self._app, self._keys = app, [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or _is_open(scope) or self._knows(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401, "no valid API key: send it as the header Authorization: Bearer KEY", code="invalid_api_key"
        )
        await error_response(error, {"WWW-Authenticate": "Bearer"})(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, key = given.partition(b" ")
        digest = _digest(key.strip())
        same = [hmac.compare_digest(digest, one) for one in self._keys]  # all of them, so that time tells nothing
        return kind.lower() == b"bearer" and any(same)


def _digest(key: bytes) -> bytes:
    """Of one length, whatever the key's is."""
    return hashlib.sha256(key).digest()


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    reads = scope["method"] in ("GET", "HEAD")
    return reads and (path in ("/", "/playground", *OPEN) or path.startswith(OPEN_FOLDERS))
