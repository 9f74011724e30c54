"""The judge: it rates what it receives. A request that lacks its image or its candidates cannot be answered (400), unless
it says in words which numbers it wants, or asks for token probabilities: then it chooses between m and M.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from nemo_mm_align.benchmarks.judge_server.http import Connection, HttpRequest, Load, Reply
from nemo_mm_align.benchmarks.judge_server.protocols import (
    PROMPT_TOKENS,
    Front,
    GeminiFront,
    front_of,
    with_probabilities,
)
from nemo_mm_align.benchmarks.judge_server.words import letter_probabilities, reply_in_words

NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def true_ratings(image: bytes, text: str) -> dict[str, int]:
    """What this judge thinks of an answer to an image: 0 to 4 from a hash of both."""
    value = hashlib.sha256(hashlib.sha256(image).digest() + text.encode()).digest()
    return {name: value[index] % 5 for index, name in enumerate(NAMES)}


def reference_answer(image: bytes) -> str:
    """What this judge would answer itself."""
    return f"the image is {hashlib.sha256(image).hexdigest()[:8]}"


def question_id(images: Sequence[bytes], candidates: Sequence[str]) -> str:
    """Return an identifier of a question, whatever the order of its candidates."""
    material = b"".join(hashlib.sha256(image).digest() for image in images) + "\0".join(sorted(candidates)).encode()
    return hashlib.sha256(material).hexdigest()[:16]


@dataclass
class Exchange:
    """One request as the server understood it. `fault` names what was injected; `time` is that of its arrival."""

    number: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    images: list[bytes]
    mime_types: list[str]
    candidates: list[str]
    time: float
    front: Front = field(default_factory=GeminiFront)
    fault: str = ""
    texts: list[str] = field(default_factory=list)
    in_words: str | None = None
    """The reply to a question that is none about candidates (`reply_in_words`)."""
    probabilities: dict[str, float] = field(default_factory=dict)
    """Of the letters of two answers, where the question wants a token's probabilities."""

    @property
    def question(self) -> str:
        """Identifier of what was asked."""
        return question_id(self.images, self.candidates or self.texts)


def judgement(exchange: Exchange, **changes: Any) -> dict[str, Any]:
    """The JSON object that a judge writes for this request; `changes` replace scores of its first candidate."""
    image = exchange.images[0] if exchange.images else b""
    ratings = []
    for number, text in enumerate(exchange.candidates, start=1):
        scores: dict[str, Any] = {**true_ratings(image, text), **(changes if number == 1 else {})}
        ratings.append({"candidate": number, "reasoning": f"on {text}", "scores": scores})
    return {"my_answer": reference_answer(image), "ratings": ratings}


def honest(exchange: Exchange) -> Reply:
    """The reply that this judge gives when all is well."""
    if exchange.probabilities:
        letter = max(exchange.probabilities, key=exchange.probabilities.__getitem__)
        return with_probabilities(exchange.front.generated(letter), exchange.probabilities)
    return exchange.front.generated(exchange.in_words or json.dumps(judgement(exchange)))


Behaviour = Callable[[Exchange], Reply | None]

CONNECTIONS = "/connections"
"""Tells how many connections other than the asker's are open."""


class JudgeServer:
    """The server.

    Args:
        behaviour: may answer a request in its own way; where it returns None the honest reply goes out. It runs in the
            event loop, so it must not wait: `Reply.delay` does.
        delay: seconds between arrival and reply.
        log: each request becomes one JSON line there (arrival, question, fault) instead of an `Exchange` in memory.
        allow_text: a request without an image is answered too, by its candidates alone.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        delay: float = 0.0,
        log: IO[str] | None = None,
        allow_text: bool = False,
    ) -> None:
        self.behaviour, self.delay, self.log, self.allow_text = behaviour, delay, log, allow_text
        self.exchanges: list[Exchange] = []
        self.counted: list[float] = []
        """Arrivals of requests that only counted tokens."""
        self.address = ""
        self._number = 0
        self._load = Load()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def most_in_flight(self) -> int:
        """Most requests that waited for a reply at once."""
        return self._load.most_in_flight

    async def start(self, port: int = 0) -> None:
        """Listen on 127.0.0.1 and set `address`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._answer, self._load, self._connections), "127.0.0.1", port, backlog=512
        )
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Close all connections, at once."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    def _answer(self, request: HttpRequest) -> Reply:
        if request.path == CONNECTIONS:
            return Reply({"others": len(self._connections) - 1})
        reply = self._reply_to(request)
        reply.delay += self.delay
        return reply

    def _reply_to(self, request: HttpRequest) -> Reply:
        path = request.path.split("?")[0]
        front = front_of(path)
        try:
            body = json.loads(request.body)
            if path.endswith((":countTokens", "/count_tokens")):
                self.counted.append(request.time)
                self._write({"time": request.time, "counted": True})
                return Reply({"input_tokens" if path.endswith("/count_tokens") else "totalTokens": PROMPT_TOKENS})
            question = front.read(body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return front.error(400, f"not a request of this protocol: {error!r}")
        images, mime_types, candidates = question.images, question.mime_types, question.candidates
        exchange = Exchange(
            self._number, request.path, request.headers, body, images, mime_types, candidates, request.time, front
        )
        exchange.texts = question.texts
        exchange.in_words = None if candidates else reply_in_words(question.texts, question.instructions)
        exchange.probabilities = letter_probabilities(question.texts) if question.wants_probabilities else {}
        self._number += 1
        reply = self._judge(exchange)
        self._record(exchange)
        return reply

    def _judge(self, exchange: Exchange) -> Reply:
        rates = exchange.candidates and (exchange.images or self.allow_text)
        if not rates and exchange.in_words is None and not exchange.probabilities:
            return exchange.front.error(400, "no image or no candidates in the request")
        return (self.behaviour(exchange) if self.behaviour else None) or honest(exchange)

    def _record(self, exchange: Exchange) -> None:
        if self.log is None:
            self.exchanges.append(exchange)
            return
        asked = {"number": exchange.number, "time": exchange.time, "question": exchange.question}
        late = round(time.monotonic() - exchange.time, 4)
        self._write({**asked, "fault": exchange.fault, "images": len(exchange.images), "late": late})

    def _write(self, value: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(json.dumps(value) + "\n")
            self.log.flush()
