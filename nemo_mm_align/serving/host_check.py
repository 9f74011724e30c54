"""Whom a request is addressed to: what keeps pages of the web from a server on the user's own machine.

A page may have its own name point to 127.0.0.1 once it is loaded (DNS rebinding). The browser then takes this server for the
page's own, whose answers its scripts may read. The header Host still says the page's name.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from nemo_mm_align.core.errors import shorten
from nemo_mm_align.serving.error_responses import error_response
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.host_names import host_name, is_own


class HostCheck:
    """ASGI middleware for a server on a loopback address that wants no key: answers 403 to what is addressed to others.

    Args:
        app: what is asked then.
        hosts: names that are right besides this machine's own, without ports.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        name = host_name(given)
        if not given or name in self._hosts or is_own(name):  # no browser leaves it out
            await self._app(scope, receive, send)
            return
        error = ApiError(
            403,
            f"the request is addressed to {shorten(name, 80)!r}, which is not this machine's own name. Whoever runs the server "
            "can allow the name (allowed_hosts), or set a key (api_key_file, api_key_variable).",
            code="host_not_allowed",
        )
        await error_response(error)(scope, receive, send)
