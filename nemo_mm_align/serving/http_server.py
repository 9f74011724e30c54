"""Uvicorn in a thread of its own, beside the engine's loop on the main thread."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import threading
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.serving.error_responses import error_response
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.settings import HttpLimits

logger = logging.getLogger(__name__)


_OTHER_FILES = 128
"""That the process may have open besides connections: the model's, pictures from other hosts, the engine's."""


def most_connections(wanted: int) -> int:
    """Return how many connections there may be: fewer than wanted, with a warning, where the process may open few files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, files - _OTHER_FILES))
    if most < wanted:
        logger.warning(
            "limits.connections=%d: this process may open %d files (ulimit -n), which leaves room for %d connections",
            wanted,
            files,
            most,
        )
    return most


def guarded_protocol(seconds: float, most: int) -> type[H11Protocol]:
    """Return uvicorn's protocol, guarded against those who take connections and say nothing.

    Args:
        seconds: within which a request's head must come.
        most: connections at a time; further ones get an answer without being asked anything.
    """
    full = _unasked(ApiError(503, f"{most} connections are open already; try again later", code="too_many_connections"))

    class GuardedProtocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                self.connections.discard(self)
                transport.write(full)
                transport.close()
                return
            self._head_timer = self.loop.call_later(seconds, self._close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            half = self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE
            if not half:
                self._stop_timer()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(seconds, self._close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _close(self) -> None:
            self._head_timer = None
            self.transport.close()

    return GuardedProtocol


def _unasked(error: ApiError) -> bytes:
    """An error as it goes over a connection on which nothing was asked."""
    response = error_response(error, {"Connection": "close"})
    head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (
        error.status,
        HTTPStatus(error.status).phrase.encode(),
        head,
        bytes(response.body),
    )


class HttpServer:
    """Serves an application on a socket until `stop`.

    Args:
        app: of ASGI.
        bound: the socket, nobody listening yet.
        limits: of time.
        beside: runs on the same event loop; where it fails, the server ends as if it had failed itself.
        on_death: called from the server's thread where that ends without being asked to.
    """

    def __init__(
        self,
        app: ASGIApp,
        bound: socket.socket,
        limits: HttpLimits,
        beside: Callable[[], Coroutine[Any, Any, None]],
        on_death: Callable[[], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            http=guarded_protocol(limits.header_seconds, most_connections(limits.connections)),
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=max(1, round(limits.idle_seconds)),
            timeout_graceful_shutdown=max(1, round(limits.keep_alive_seconds)),
        )
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # its warnings are clients' faults, one line each
        self._server, self._bound, self._beside, self._on_death = uvicorn.Server(config), bound, beside, on_death
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._started, self._stopping = threading.Event(), False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failure: BaseException | None = None

    @property
    def address(self) -> str:
        """Where it is to be asked."""
        host, port = self._bound.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def start(self) -> None:
        """Serve from now on; raise `UserError` where the port is somebody else's by now."""
        try:
            self._bound.listen()
        except OSError as error:
            raise UserError(f"{self.address}: {error.strerror}. Give another port.") from None
        self._thread.start()
        self._started.wait()
        if self.failure is not None:
            raise self.failure

    def soon(self, call: Callable[[], object]) -> None:
        """Have something called on the event loop."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    def stop(self, seconds: float) -> None:
        """End it once what it has begun to answer is sent, and at any rate after so long."""
        self._stopping = self._server.should_exit = True
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.failure = error
            logger.exception("the HTTP server has failed")
        finally:
            self._started.set()
            if not self._stopping:
                self._on_death()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        beside = asyncio.ensure_future(self._beside())
        beside.add_done_callback(self._end_where_failed)
        self._loop.call_soon(self._started.set)
        try:
            await self._server.serve(sockets=[self._bound])
        finally:
            if not beside.cancel():
                await beside

    def _end_where_failed(self, beside: asyncio.Future[None]) -> None:
        if not beside.cancelled() and beside.exception() is not None:
            self._server.should_exit = True
