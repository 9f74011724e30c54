"""A client of the server that costs little: one connection per question, standard library alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from nemo_mm_align.benchmarks.serving.server import NAME

Message = dict[str, Any]
_PATIENCE_SECONDS = 300.0


class Failed(Exception):
    """A question was not answered, by what the server says."""


@dataclass(frozen=True)
class Streamed:
    """An answer that came piece by piece.

    Args:
        tokens: of the answer, by the server's count.
        first, last: seconds of `time.monotonic` at which the first and the last piece of text came.
    """

    tokens: int
    first: float
    last: float

    @property
    def seconds_per_token(self) -> float | None:
        """From the first to the last; None where there is one alone."""
        return (self.last - self.first) / (self.tokens - 1) if self.tokens > 1 else None


@dataclass(frozen=True)
class Client:
    """Asks the server at an address, from any thread."""

    address: str

    def ask(self, messages: Sequence[Message], tokens: int, temperature: float = 0.0) -> str:
        """Return the answer's text; raise `Failed` where there is none."""
        with self._asked(messages, tokens, temperature, stream=False) as response:
            text: str = json.load(response)["choices"][0]["message"]["content"]
            return text

    def stream(self, messages: Sequence[Message], tokens: int, temperature: float = 0.0) -> Streamed:
        """Have an answer streamed; raise `Failed` where it does not come to its end."""
        times, usage = list[float](), 0
        with self._asked(messages, tokens, temperature, stream=True) as response:
            for data in _events(response):
                if "error" in data:
                    raise Failed(str(data["error"]))
                if any(choice["delta"].get("content") for choice in data["choices"]):
                    times.append(time.monotonic())
                usage = (data.get("usage") or {}).get("completion_tokens", usage)
        if not times:
            raise Failed("an answer without text")
        return Streamed(usage, times[0], times[-1])

    def hang_up(self, messages: Sequence[Message], tokens: int) -> None:
        """Ask for a stream, and leave once it has begun."""
        with self._asked(messages, tokens, 0.0, stream=True) as response:
            next(_events(response))

    def _asked(self, messages: Sequence[Message], tokens: int, temperature: float, stream: bool) -> HTTPResponse:
        connection = HTTPConnection(self.address.removeprefix("http://"), timeout=_PATIENCE_SECONDS)
        body = {"model": NAME, "messages": messages, "temperature": temperature, "max_tokens": tokens, "seed": 1}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        headers = {"Content-Type": "application/json", "Connection": "close"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise Failed(f"{response.status}: {response.read().decode(errors='replace')[:500]}")
        return response


def _events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        if line.startswith(b"data: [DONE]"):
            return
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
    raise Failed("a stream that was cut")
