"""Answers sent as they grow: server-sent events, and work that ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nemo_mm_align.serving.bodies import ClientGone
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.exchange import GONE
from nemo_mm_align.serving.gate import Gate

Result = TypeVar("Result")

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": waiting\n\n"
"""A comment, which clients skip: connections that say nothing for long are cut by what lies between."""


def event(values: Mapping[str, Any]) -> bytes:
    """Return an event whose data is JSON; raise `ValueError` for numbers that JSON lacks."""
    return f"data: {json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(',', ':'))}\n\n".encode()


@dataclass(frozen=True)
class Wanted:
    """How long an answer is wanted.

    Args:
        receive: of the request.
        deadline: on the event loop's clock.
        gate: through which the request came.
    """

    receive: Receive
    deadline: float
    gate: Gate


async def while_wanted(work: Awaitable[Result], wanted: Wanted, has_come: bool = True) -> Result:
    """Return what becomes of work on a request; the work is cancelled where it comes to nothing.

    Args:
        has_come: whether the body has been read; else the work reads it, and sees itself when the client leaves.

    Raises:
        ClientGone: the client has left.
        ApiError: it took too long (504), or the server ends (503).
    """
    leaves = _until_gone(wanted.receive) if has_come else asyncio.Event().wait()
    tasks = [asyncio.ensure_future(one) for one in (work, leaves, wanted.gate.until_given_up())]
    working, leaving, ending = tasks
    try:
        seconds = wanted.deadline - asyncio.get_running_loop().time()
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return cast(Result, working.result())
        if leaving.done():
            raise ClientGone
        if ending.done():
            raise ApiError(503, "the server ends before this was answered", code="draining")
        raise ApiError(504, "the request took longer than this server lets one; ask for fewer tokens", code="timeout")
    finally:
        for task in tasks:
            task.cancel()
            with suppress(BaseException):
                await task


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A response of events.

    Args:
        events: what is sent; an `ApiError` in its midst is sent as an event, since the status is out already.
        wanted: how long they are.
        patience: seconds that a client has to take the news of an error.
        told: see `Exchange`.
        headers: of the response.
        at_end: called when there are no more events, for whatever reason.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        wanted: Wanted,
        patience: float,
        told: dict[str, object],
        headers: Mapping[str, str],
        at_end: Callable[[], None],
    ) -> None:
        self._events, self._wanted, self._patience, self._told = events, wanted, patience, told
        self._at_end = at_end
        own = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
        }
        self.raw_headers = [(name.lower().encode(), value.encode()) for name, value in {**own, **headers}.items()]
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it, as long as there is somebody to read it."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            error = await self._sent(send)
        finally:
            self._at_end()
        if error is not None:  # told when nothing is kept for this client any more: it may be slow, or read nothing
            self._told["error"] = error.code or error.status
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await _send(send, event(error.body) + DONE, more=False)

    async def _sent(self, send: Send) -> ApiError | None:
        """Send the events; return what ended them early."""
        try:
            await while_wanted(self._write(send), self._wanted)
        except ClientGone:
            self._told["status"] = GONE
        except ApiError as error:
            return error
        return None

    async def _write(self, send: Send) -> None:
        async for body in self._events:
            await _send(send, body)
        await _send(send, DONE, more=False)


async def _send(send: Send, body: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
