"""Routes of an attribute model: ``/classify`` and ``/pooling`` as vLLM has them, and a chat completion as NVIDIA NIM's reward
models give it.

Values are those of scripts/annotate.py with ``values=real``: within each attribute's range, to four decimals, in the schema's
order; with ``use_activation: false`` the head's outputs as they are.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.engine_loop import Ending, QueueFull
from nemo_mm_align.inference.scores import predicted
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.serving.engine_errors import api_error
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.metrics import ServerMetrics
from nemo_mm_align.serving.protocol import header_names
from nemo_mm_align.serving.rating_engine import RatingEngine, RatingTicket
from nemo_mm_align.serving.rating_request import (
    AskedRatings,
    ChatRatingBody,
    ClassifyBody,
    PoolingBody,
    read_ratings,
)
from nemo_mm_align.serving.reading import BodyReader
from nemo_mm_align.serving.served_model import ServedModel, describe, model_cards
from nemo_mm_align.serving.streaming import while_wanted

Values = list[float]
"""Of one answer, in the schema's order."""


@dataclass(frozen=True)
class RatingRoutes:
    """Answers requests for ratings; what it raises is `ApiError` or `ClientGone`, which the application answers.

    Args:
        served: the model; its `length` is the engine's.
        schema: the attributes that its head tells, in order.
        engine: somebody is in its `run`.
        metrics: that count the answers.
        reader: of bodies, with the pictures that they show.
    """

    served: ServedModel
    schema: AttributeSchema
    engine: RatingEngine
    metrics: ServerMetrics
    reader: BodyReader

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()

        @router.post("/classify")
        async def classify(request: Request) -> Response:
            asked, values = await self._rated(request, ClassifyBody)
            data = [
                {"index": index, "label": self._label(one), "probs": one, "num_classes": len(one)}
                for index, one in enumerate(values)
            ]
            return self._reply("classify", asked, {"object": "list", "data": data})

        @router.post("/pooling")
        async def pooling(request: Request) -> Response:
            asked, values = await self._rated(request, PoolingBody)
            data = [
                {"index": index, "object": "pooling", "data": _packed(one) if asked.base64 else one}
                for index, one in enumerate(values)
            ]
            return self._reply("pool", asked, {"object": "list", "data": data})

        @router.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            asked, values = await self._rated(request, ChatRatingBody)
            choices = [_choice(index, self.schema.names, one) for index, one in enumerate(values)]
            return self._reply("chatcmpl", asked, {"object": "chat.completion", "choices": choices})

        return router

    @property
    def card(self) -> dict[str, Any]:
        """The model in ``GET /v1/models``: its attributes are told, and cannot be asked for."""
        told = {"attributes": [describe(one) for one in self.schema.attributes], "kind": "attribute_model"}
        return {**model_cards(self.served)[0], **told}

    async def _rated(
        self, request: Request, kind: type[ClassifyBody] | type[ChatRatingBody]
    ) -> tuple[AskedRatings, list[Values]]:
        """Read a request, have it rated, and return the values of each answer."""
        arrived, wanted, most = time.monotonic(), self.reader.wanted(request), self.engine.waiting
        asked = await self.reader.read(request, wanted, lambda body: read_ratings(body, kind, self.served, most))
        ticket = _submitted(self.engine, asked)
        self.metrics.taken_in(asked.tokens)
        request.scope["state"]["told"].update({"prompt": asked.tokens, "rated": len(asked.places)})
        outputs = await while_wanted(_outputs(ticket), wanted)
        self._count(asked, ticket, arrived)
        return asked, [self._values(outputs[sample][sequence], asked.raw) for sample, sequence in asked.places]

    def _count(self, asked: AskedRatings, ticket: RatingTicket, arrived: float) -> None:
        if ticket.admitted is not None:
            self.metrics.admitted(ticket.admitted - ticket.submitted)
        for _ in asked.places:
            self.metrics.answered("stop", 0)
        self.metrics.ended(time.monotonic() - arrived)

    def _values(self, outputs_T: Tensor, raw: bool) -> Values:
        outputs: Values = outputs_T.tolist()
        try:
            told = predicted(self.schema, outputs)
        except UserError as error:
            raise ApiError(500, str(error), code="no_finite_numbers") from None
        return outputs if raw else list(told.values())

    def _label(self, values: Values) -> str:
        """The attribute of the highest value: clients of vLLM expect a name, which means little here."""
        return self.schema.names[values.index(max(values))]

    def _reply(self, kind: str, asked: AskedRatings, body: dict[str, Any]) -> JSONResponse:
        named = {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.served.name}
        usage = {"prompt_tokens": asked.tokens, "completion_tokens": 0, "total_tokens": asked.tokens}
        headers = {"X-Ignored-Fields": ",".join(header_names(asked.ignored))} if asked.ignored else {}
        return JSONResponse({**named, **body, "usage": usage}, headers=headers)


def _packed(values: Values) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _choice(index: int, names: Sequence[str], values: Values) -> dict[str, Any]:
    """A rating as NIM writes it: pairs as text, and as tokens whose log-probs are the values."""
    pairs = list(zip(names, values, strict=True))
    more: dict[str, Any] = {"bytes": None, "top_logprobs": []}
    tokens = [{"token": name, "logprob": value, **more} for name, value in pairs]
    return {
        "index": index,
        "message": {"role": "assistant", "content": ",".join(f"{name}:{value}" for name, value in pairs)},
        "logprobs": {"content": tokens},
        "finish_reason": "stop",
        "attributes": None,
    }


def _submitted(engine: RatingEngine, asked: AskedRatings) -> RatingTicket:
    try:
        return engine.submit(asked.samples, asked.pixels)
    except (QueueFull, Ending) as error:
        raise api_error(error) from None
    except ValueError as error:
        raise ApiError(400, f"{error}: ask for fewer in one request.", "messages") from None


async def _outputs(ticket: RatingTicket) -> list[Tensor]:
    """Wait for the outputs; who waits no longer gives the request up."""
    try:
        return await asyncio.wrap_future(ticket.future)
    except torch.OutOfMemoryError:
        text = "there is not enough memory to rate this; send fewer or shorter conversations"
        raise ApiError(503, text, code="out_of_memory") from None
    except Exception as error:
        raise ApiError(
            500, "the model has failed, and the server ends; its log says why", code="engine_failed"
        ) from error
