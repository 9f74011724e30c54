"""A small real server that speaks what the playground asks: models, chat (streamed, swept), scores, keys, refusals.

Its "model" is a rule: an answer has three words, and two more per unit of verbosity, so that a test knows what to find.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.serving.playground_route import playground_router
from tests.waiting import wait_until

WORDS = "The small square is red, as the picture shows, and stands beside a <b>blue</b> circle"


@dataclass
class Served:
    """What the server is told, and what it was asked.

    Args:
        schema: attributes of the model.
        kind: "chat" or "attribute_model".
        key: that every request to the API must carry; None: none.
        refusal: status and message of every answer to a question; None: it answers.
        cut: what goes wrong after the first word of a streamed answer, as an error's body; None: nothing.
        pause_s: between two words of a streamed answer.
    """

    schema: AttributeSchema
    kind: str = "chat"
    key: str | None = None
    refusal: tuple[int, str] | None = None
    cut: dict[str, str] | None = None
    pause_s: float = 0.0
    scores: bool = True
    max_image_bytes: int = 20_000
    bodies: list[dict[str, Any]] = field(default_factory=list)
    hung_up: int = 0
    url: str = ""

    def models(self) -> list[dict[str, Any]]:
        attributes = [{**each.model_dump(mode="json"), "label": each.label} for each in self.schema.attributes]
        base = {"object": "model", "root": "square-7b", "kind": self.kind, "images": True, "attributes": attributes}
        defaults = {each.name: each.default for each in self.schema.attributes}
        alias = {**base, "id": "square-7b@verbosity=0", "default_attributes": {**defaults, "verbosity": 0}}
        first = {**base, "id": "square-7b", "default_attributes": defaults}
        return [{**each, "asked_by_default": True} for each in ([first, alias] if self.kind == "chat" else [first])]

    def assignments(self, body: dict[str, Any]) -> list[dict[str, float] | None]:
        """The attributes of every choice, as the API merges them."""
        model = next(each for each in self.models() if each["id"] == body["model"])
        asked = body.get("attributes", {})
        if asked is None:
            return [None]
        merged = {**model["default_attributes"], **asked}
        swept = body.get("sweep", {})
        return [{**merged, name: value} for name, values in swept.items() for value in values] or [merged]


def answer(values: dict[str, float] | None) -> str:
    """The rule: longer where more verbosity is asked for."""
    count = 3 + 2 * round((values or {}).get("verbosity", 4))
    return " ".join(each for _, each in zip(range(count), cycle(WORDS.split()), strict=False))


def rate(text: str, schema: AttributeSchema) -> dict[str, float]:
    """Two decimals that follow the length of a text."""
    level = min((len(text.split()) - 3) / 8, 1)
    return {
        each.name: round(
            each.minimum + (each.maximum - each.minimum) * (level if each.name == "verbosity" else 0.75), 2
        )
        for each in schema.attributes
    }


def application(served: Served) -> FastAPI:
    """The server's routes."""
    app = FastAPI()
    app.include_router(playground_router(served.max_image_bytes, 1_000_000, served.scores))

    def refused(request: Request) -> Response | None:
        if served.key is not None and request.headers.get("authorization") != f"Bearer {served.key}":
            return _error(401, "No key, or a wrong one.")
        return _error(*served.refusal) if served.refusal and request.url.path != "/v1/models" else None

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        return refused(request) or JSONResponse({"object": "list", "data": served.models()})

    @app.post("/v1/scores")
    async def scores(request: Request) -> Response:
        body = await request.json()
        return refused(request) or JSONResponse({"scores": rate(body["messages"][-1]["content"], served.schema)})

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        return JSONResponse({"count": len(re.findall(r"\w+|[^\w\s]", (await request.json())["prompt"]))})

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        if (refusal := refused(request)) is not None:
            return refusal
        served.bodies.append(body)
        if served.kind == "attribute_model":
            ratings = rate(body["messages"][-1]["content"], served.schema)
            return _whole([(None, ",".join(f"{name}:{value}" for name, value in ratings.items()))])
        answers = [(values, answer(values)) for values in served.assignments(body)]
        if not body.get("stream"):
            return _whole(answers)
        return StreamingResponse(_stream(served, answers), media_type="text/event-stream")

    return app


def _error(status: int, message: str) -> Response:
    body = {"error": {"message": message, "type": "error", "param": None, "code": None}}
    return JSONResponse(body, status, headers={"X-Request-Id": "req-7"})


def _whole(answers: list[tuple[dict[str, float] | None, str]]) -> Response:
    choices = [
        {
            "index": place,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
            "attributes": values,
        }
        for place, (values, text) in enumerate(answers)
    ]
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return JSONResponse(
        {"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
    )


async def _stream(served: Served, answers: list[tuple[dict[str, float] | None, str]]) -> AsyncIterator[str]:
    words = [re.findall(r"\S+\s*", text) for _, text in answers]
    try:
        for step in range(max(map(len, words)) + 1):
            for place, own in enumerate(words):
                if step <= len(own):
                    delta = {"content": own[step]} if step < len(own) else {}
                    reason = None if step < len(own) else "stop"
                    choice = {"index": place, "delta": delta, "finish_reason": reason, "attributes": answers[place][0]}
                    yield f"data: {json.dumps({'choices': [choice]})}\n\n"
            if served.cut is not None:
                yield f"data: {json.dumps({'error': served.cut})}\n\ndata: [DONE]\n\n"
                return
            await asyncio.sleep(served.pause_s)
        yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': sum(map(len, words))}})}\n\n"
        yield "data: [DONE]\n\n"
    except asyncio.CancelledError:
        served.hung_up += 1
        raise


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    """Serve on a free port of this machine."""
    server = uvicorn.Server(uvicorn.Config(application(served), port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        served.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield served
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
