"""``POST /v1/scores``: a conversation that ends with an answer in, numbers by attribute out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.serving.messages import read_messages
from nemo_mm_align.serving.pictures import PictureStore
from nemo_mm_align.serving.reading import BodyReader
from nemo_mm_align.serving.scoring import Scorer, Scores
from nemo_mm_align.serving.served_model import describe


@dataclass(frozen=True)
class ScoreRoute:
    """Asks a scorer; what it raises is `ApiError` or `ClientGone`, which the application answers.

    Args:
        scorer: who tells scores.
        pictures: the chat model's, whose limits hold.
        reader: of bodies; its threads wait for the scorer meanwhile, so that they had better not be those that read chats.
    """

    scorer: Scorer
    pictures: PictureStore
    reader: BodyReader
    schema: AttributeSchema | None = None

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()

        @router.post("/v1/scores")
        async def scores(request: Request) -> Response:
            scores = await self.reader.read(request, self.reader.wanted(request), self._scores)
            return JSONResponse({"scores": scores, **with_ranges(scores, self.schema)})

        return router

    def _scores(self, body: Mapping[str, Any]) -> Scores:
        messages = body.get("messages")
        return self.scorer.scores(messages, read_messages(messages, "assistant"), self.pictures)


def with_ranges(scores: Scores, schema: AttributeSchema | None) -> dict[str, Any]:
    """Return attributes of the scores as in ``/v1/models``, and the total where all that it is made of is there."""
    if schema is None or not set(scores) <= set(schema.names):
        return {}
    found: dict[str, Any] = {"attributes": [describe(item) for item in schema.attributes if item.name in scores]}
    if not set(schema.score) <= set(scores):
        return found
    return {**found, "total": sum(_worth(schema[name], scores[name]) for name in schema.score)}


def _worth(attribute: Attribute, score: float) -> float:
    """Counted from the worse end of the range, as `AttributeSchema.total` does; fractions too."""
    return score if attribute.higher_is_better else attribute.maximum + attribute.minimum - score
