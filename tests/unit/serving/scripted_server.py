"""A server over real HTTP whose engine does what a test tells it: for what a real one cannot be made to do on time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from nemo_mm_align.inference.engine import AnswerStep, Figures, Listener, Ticket
from nemo_mm_align.inference.engine_loop import Ending, QueueFull
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.rows import DecodingRequest
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.serving.app import AppParts, make_app, token_routes
from nemo_mm_align.serving.chat_route import ChatRoute
from nemo_mm_align.serving.early import bind
from nemo_mm_align.serving.gate import Gate
from nemo_mm_align.serving.http_server import HttpServer
from nemo_mm_align.serving.metrics import ServerMetrics
from nemo_mm_align.serving.reading import BodyReader
from nemo_mm_align.serving.served_model import model_cards
from nemo_mm_align.serving.settings import HttpLimits
from tests.unit.serving.toy_model import served
from tests.waiting import wait_until


class ScriptedEngine:
    """Takes requests, and gives what it is told."""

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.cancelled: list[Ticket] = []
        self.refusal: Exception | None = None
        self.room: int | None = None
        self.fault: BaseException | None = None
        self.ended = threading.Event()

    @property
    def figures(self) -> Figures:
        return Figures(len(self.tickets) - len(self.cancelled), 0, 0.0, 0, 0, 0, 0)

    @property
    def idle(self) -> bool:
        return len(self.tickets) == len(self.cancelled)

    def submit(self, request: DecodingRequest, images: ImageBatch | None, listener: Listener) -> Ticket:
        if self.refusal is not None:
            raise self.refusal
        if len(self.tickets) == self.room:
            raise REFUSALS["full"]
        ticket = Ticket(request, images, listener)
        self.tickets.append(ticket)
        return ticket

    def expecting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def cancel(self, ticket: Ticket) -> None:
        self.cancelled.append(ticket)

    def end(self) -> None:
        self.ended.set()

    def newest(self, count: int) -> Ticket:
        """Wait for so many tickets, and return the last."""
        wait_until(lambda: len(self.tickets) >= count)
        return self.tickets[count - 1]

    def say(self, ticket: Ticket, steps: Sequence[AnswerStep]) -> None:
        ticket.listener.stepped(ticket, steps)


@dataclass
class ScriptedServer:
    """One that listens."""

    engine: ScriptedEngine
    gate: Gate
    http: HttpServer
    chat: ChatRoute
    metrics: ServerMetrics

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.http.address.removeprefix("http://").partition(":")
        return host, int(port)


LIMITS = HttpLimits(
    body_bytes=100_000,
    body_seconds=0.5,
    header_seconds=0.5,
    idle_seconds=5,
    keep_alive_seconds=0.2,
    request_seconds=60,
    connections=20,
)


@contextmanager
def scripted_server(
    limits: HttpLimits = LIMITS, most: int = 4, attributes: AttributeSchema | None = None, **more: Any
) -> Iterator[ScriptedServer]:
    """Serve until the block ends; `attributes` can be asked for; `more` are fields of `AppParts`."""
    engine, gate = ScriptedEngine(), Gate(most)
    model = served(attributes=attributes, sampling=SamplingSettings(max_new_tokens=64))
    metrics = ServerMetrics(model.name, lambda: engine.figures, 4)
    with ThreadPoolExecutor(2) as readers:
        reader = BodyReader(limits, gate, readers)
        chat = ChatRoute(model, engine, metrics, reader, max_tokens=500)  # type: ignore[arg-type]
        routers = [chat.router(), token_routes(model, reader)]
        parts = AppParts(engine, lambda: model_cards(model), gate, metrics, routers, **more)
        http = HttpServer(make_app(parts), bind("127.0.0.1", 0), limits, lambda: asyncio.sleep(0), lambda: None)
        http.start()
        try:
            yield ScriptedServer(engine, gate, http, chat, metrics)
        finally:
            http.soon(gate.give_up)
            http.stop(5)


REFUSALS = {"full": QueueFull("4 requests wait already"), "ending": Ending("no more requests are taken in")}
