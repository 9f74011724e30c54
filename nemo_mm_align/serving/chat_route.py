"""``POST /v1/chat/completions``: from a body to the engine, and from its answers to a response."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nemo_mm_align.inference.engine import Engine
from nemo_mm_align.serving.bodies import ClientGone
from nemo_mm_align.serving.chat_answers import ChatAnswers
from nemo_mm_align.serving.chat_bodies import ChatBodies
from nemo_mm_align.serving.chat_request import AskedChat, read_chat
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.exchange import GONE
from nemo_mm_align.serving.metrics import ServerMetrics
from nemo_mm_align.serving.reading import BodyReader
from nemo_mm_align.serving.served_model import ServedModel
from nemo_mm_align.serving.streaming import KEEP_ALIVE, EventStream, Wanted, event, while_wanted
from nemo_mm_align.serving.token_texts import TokenTexts

IGNORED_FIELDS = "X-Ignored-Fields"


@dataclass(frozen=True)
class ChatRoute:
    """Answers chat requests.

    Args:
        served, engine: whom is asked.
        metrics: that count the answers.
        reader: of bodies, with the pictures that they show.
        max_tokens: of one answer that a request may ask for; None: what fits.
    """

    served: ServedModel
    engine: Engine
    metrics: ServerMetrics
    reader: BodyReader
    max_tokens: int | None = None

    def router(self) -> APIRouter:
        """Return the route."""
        router, texts = APIRouter(), TokenTexts(self.served.encoder.tokenizer)

        @router.post("/v1/chat/completions")
        async def chat_completions(request: Request) -> Response:
            return await self._answer(request, texts)

        return router

    async def _answer(self, request: Request, texts: TokenTexts) -> Response:
        arrived, wanted = time.monotonic(), self.reader.wanted(request)
        try:
            with self.engine.expecting():
                asked = await self._read(request, wanted)
                answers = ChatAnswers(self.engine, asked, self.served.encoder.decode_whole, self.metrics, arrived)
                answers.submit()
            bodies = ChatBodies(asked.model, texts, asked.requests[0].top_logprobs is not None, asked.include_usage)
            if asked.stream:
                return self._stream(request, asked, answers, bodies, wanted)
            return await self._whole(request, asked, answers, bodies, wanted)
        except ClientGone:
            return Response(status_code=GONE)

    async def _read(self, request: Request, wanted: Wanted) -> AskedChat:
        asked = await self.reader.read(request, wanted, lambda body: read_chat(body, self.served))
        tokens = asked.requests[0].sampling.max_new_tokens
        if self.max_tokens is not None and tokens > self.max_tokens:
            raise ApiError(400, f"max_tokens={tokens}: this server gives at most {self.max_tokens}", "max_tokens")
        return asked

    async def _whole(
        self, request: Request, asked: AskedChat, answers: ChatAnswers, bodies: ChatBodies, wanted: Wanted
    ) -> Response:
        try:
            await while_wanted(_wait_for(answers), wanted)
        finally:
            answers.cancel()
        _tell(request, answers)
        return JSONResponse(bodies.whole(answers), headers=_headers(asked))

    def _stream(
        self, request: Request, asked: AskedChat, answers: ChatAnswers, bodies: ChatBodies, wanted: Wanted
    ) -> Response:
        def at_end() -> None:
            answers.cancel()
            _tell(request, answers)

        quiet, told = self.reader.limits.keep_alive_seconds, request.scope["state"]["told"]
        return EventStream(_events(answers, bodies, quiet), wanted, quiet, told, _headers(asked), at_end)


async def _wait_for(answers: ChatAnswers) -> None:
    async for _ in answers.growth():
        pass


async def _events(answers: ChatAnswers, bodies: ChatBodies, quiet: float) -> AsyncIterator[bytes]:
    async for growths in answers.growth(quiet):
        chunks = [chunk for growth in growths for chunk in bodies.chunks(growth)]
        if chunks:
            yield b"".join(map(event, chunks))
        elif not growths:
            yield KEEP_ALIVE
    if bodies.include_usage:
        yield event(bodies.last_chunk(answers))


def _headers(asked: AskedChat) -> dict[str, str]:
    return {IGNORED_FIELDS: ",".join(asked.ignored)} if asked.ignored else {}


def _tell(request: Request, answers: ChatAnswers) -> None:
    """Say in the log's line how much was asked and answered, and nothing of what it says."""
    reasons = sorted(answer.ended.finish_reason if answer.ended else "given up" for answer in answers.all)
    request.scope["state"]["told"].update(
        {"prompt": answers.prompt_tokens, "answered": answers.completion_tokens, "ended": "/".join(reasons)}
    )
