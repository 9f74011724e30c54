"""From a request to what its route makes of the body, as long as somebody waits for that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from nemo_mm_align.serving.bodies import read_body, read_object
from nemo_mm_align.serving.gate import Gate
from nemo_mm_align.serving.settings import HttpLimits
from nemo_mm_align.serving.streaming import Wanted, while_wanted

Result = TypeVar("Result")


@dataclass(frozen=True)
class BodyReader:
    """Reads bodies.

    Args:
        limits: of bytes and time.
        gate: through which requests come.
        threads: that do what takes longer than the event loop may.
    """

    limits: HttpLimits
    gate: Gate
    threads: Executor

    def wanted(self, request: Request) -> Wanted:
        """Return how long a request is wanted that has just come."""
        deadline = asyncio.get_running_loop().time() + self.limits.request_seconds
        return Wanted(request.receive, deadline, self.gate)

    async def read(self, request: Request, wanted: Wanted, make: Callable[[Mapping[str, Any]], Result]) -> Result:
        """Return what a thread makes of the JSON object that a request brings.

        Raises:
            ClientGone: the client has left.
            ApiError: the body is none, it took too long, the server ends, or what `make` raises.
        """
        coming = read_body(request, self.limits.body_bytes, self.limits.body_seconds)
        body = await while_wanted(coming, wanted, has_come=False)
        loop = asyncio.get_running_loop()
        return await while_wanted(loop.run_in_executor(self.threads, lambda: make(read_object(body))), wanted)
