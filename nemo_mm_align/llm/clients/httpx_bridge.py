"""Libraries that call through httpx send through a session that is bounded (see `transport`), like all others."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

from nemo_mm_align.llm.clients.transport import make_session, read_environment_once

SET_ANEW = {"host", "connection", "content-length", "content-encoding", "transfer-encoding", "accept-encoding"}
"""Headers that speak of a connection or of how a body is packed."""


def bounded_client(library: ModuleType, timeout_s: float, url: str) -> Any:
    """Return a client of httpx, or of a library of its kind, whose calls are bounded and follow no redirect.

    Args:
        library: ``httpx`` or ``httpx2``.
        timeout_s: seconds for a whole call.
        url: where its calls go; proxies and certificates are settled for it.
    """
    logging.getLogger(library.__name__).setLevel(logging.WARNING)  # it would log a line per call
    base: Any = library.BaseTransport

    class BoundedTransport(base):  # type: ignore[misc]
        """Sends calls through the session; the body that comes back is whole and unpacked."""

        def __init__(self) -> None:
            self._session = make_session(timeout_s)
            read_environment_once(self._session, url)

        def handle_request(self, request: Any) -> Any:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in SET_ANEW}
            target, body = str(request.url), request.read()
            reply = self._session.request(request.method, target, data=body, headers=headers, allow_redirects=False)
            kept = {name: value for name, value in reply.headers.items() if name.lower() not in SET_ANEW}
            return library.Response(reply.status_code, headers=kept, content=reply.content)

        def close(self) -> None:
            self._session.close()

    return library.Client(transport=BoundedTransport(), follow_redirects=False)
