"""``POST /v1/scores``: a conversation that ends with an answer in, numbers by attribute out."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from nemo_mm_align.serving.messages import read_messages
from nemo_mm_align.serving.pictures import PictureStore
from nemo_mm_align.serving.protocol import read_body
from nemo_mm_align.serving.rating_routes import parsed
from nemo_mm_align.serving.scoring import Scorer, Scores


class ScoresBody(BaseModel):
    """A body of ``/v1/scores``."""

    messages: Any = None


def score_router(scorer: Scorer, pictures: PictureStore) -> APIRouter:
    """Return the route; it raises `ApiError`, which the application answers.

    Args:
        scorer: who tells scores.
        pictures: the chat model's, whose limits hold.
    """
    router = APIRouter()

    @router.post("/v1/scores")
    async def scores(request: Request) -> JSONResponse:
        text = await request.body()
        return JSONResponse({"scores": await run_in_threadpool(_scores, text, scorer, pictures)})

    return router


def _scores(text: bytes, scorer: Scorer, pictures: PictureStore) -> Scores:
    asked = read_body(ScoresBody, parsed(text))
    conversation = read_messages(asked.messages, "assistant")
    return scorer.scores(asked.messages, conversation, pictures)
