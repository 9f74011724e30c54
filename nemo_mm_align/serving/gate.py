"""How many requests are in work, and whether more are let in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from nemo_mm_align.serving.error_responses import error_response
from nemo_mm_align.serving.errors import ApiError


class Gate:
    """Counts what is in work; belongs to the event loop.

    Args:
        most: requests at a time, bodies being read included: what these take of memory is bounded by that.
    """

    def __init__(self, most: int) -> None:
        self.most, self.inside, self.closed = most, 0, False
        self._given_up = asyncio.Event()

    def close(self) -> None:
        """Let nobody in any more."""
        self.closed = True

    def give_up(self) -> None:
        """Have everything inside end with an error."""
        self._given_up.set()

    async def until_given_up(self) -> None:
        """Return once that is so."""
        await self._given_up.wait()

    @property
    def refusal(self) -> ApiError | None:
        """Why nothing more is let in now.

        A full server answers 429, not 503: it is well, and whoever balances the load between several must not take it for a dead
        one. Clients of OpenAI try again after both.
        """
        if self.closed:
            return ApiError(503, "the server is about to end and takes no more requests", code="draining")
        if self.inside >= self.most:
            return ApiError(429, f"{self.most} requests are in work already; try again later", code="queue_full")
        return None


class Admission:
    """ASGI middleware: lets requests to be computed (POST) through a gate.

    Args:
        app: what is asked then.
        gate: shared with whoever drains the server.
        wait: seconds after which a refused client may try again.
    """

    def __init__(self, app: ASGIApp, gate: Gate, wait: Callable[[], int]) -> None:
        self._app, self._gate, self._wait = app, gate, wait

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        refusal = self._gate.refusal
        if refusal is not None:
            await error_response(refusal, wait=self._wait())(scope, receive, send)
            return
        self._gate.inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._gate.inside -= 1
