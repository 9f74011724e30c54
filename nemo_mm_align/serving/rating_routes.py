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
from typing import Any

import torch
from fastapi import APIRouter, Request
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.engine import Ending, QueueFull
from nemo_mm_align.inference.scores import predicted
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.protocol import header_names
from nemo_mm_align.serving.rating_engine import RatingEngine, RatingTicket
from nemo_mm_align.serving.rating_request import (
    AskedRatings,
    ChatRatingBody,
    ClassifyBody,
    PoolingBody,
    read_ratings,
)
from nemo_mm_align.serving.served_model import ServedModel

CLIENT_LEFT = 499
"""Status that nobody sees but logs and metrics."""

Values = list[float]
"""Of one answer, in the schema's order."""


def rating_router(engine: RatingEngine, served: ServedModel) -> APIRouter:
    """Return the routes of an attribute model; they raise `ApiError`, which the application answers.

    Args:
        engine: somebody is in its `run`.
        served: the model; `served.encoder.schema` names what the head tells.

    Raises:
        ValueError: a model without a schema.
    """
    schema = served.schema
    if schema is None:
        raise ValueError("an attribute model has an attribute schema")
    router = APIRouter()

    @router.post("/classify")
    async def classify(request: Request) -> JSONResponse:
        asked, values = await _rated(request, ClassifyBody, engine, served, schema)
        data = [
            {"index": index, "label": _label(schema, one), "probs": one, "num_classes": len(one)}
            for index, one in enumerate(values)
        ]
        return _reply(asked, {**_list("classify", served), "data": data})

    @router.post("/pooling")
    async def pooling(request: Request) -> JSONResponse:
        asked, values = await _rated(request, PoolingBody, engine, served, schema)
        data = [
            {"index": index, "object": "pooling", "data": _packed(one) if asked.base64 else one}
            for index, one in enumerate(values)
        ]
        return _reply(asked, {**_list("pool", served), "data": data})

    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> JSONResponse:
        asked, values = await _rated(request, ChatRatingBody, engine, served, schema)
        choices = [_choice(index, schema, one) for index, one in enumerate(values)]
        return _reply(asked, {**_list("chatcmpl", served), "object": "chat.completion", "choices": choices})

    return router


def _label(schema: AttributeSchema, values: Values) -> str:
    """The attribute of the highest value: vLLM's clients expect a name, which means little here."""
    return schema.names[values.index(max(values))]


def _packed(values: Values) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _list(kind: str, served: ServedModel) -> dict[str, Any]:
    return {"id": f"{kind}-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": served.name}


def _choice(index: int, schema: AttributeSchema, values: Values) -> dict[str, Any]:
    """A rating as NIM writes it: pairs as text, and as tokens whose log-probs are the values."""
    pairs = list(zip(schema.names, values, strict=True))
    tokens = [{"token": name, "logprob": value, "bytes": None, "top_logprobs": []} for name, value in pairs]
    return {
        "index": index,
        "message": {"role": "assistant", "content": ",".join(f"{name}:{value}" for name, value in pairs)},
        "logprobs": {"content": tokens},
        "finish_reason": "stop",
        "attributes": None,
    }


def _reply(asked: AskedRatings, body: dict[str, Any]) -> JSONResponse:
    usage = {"prompt_tokens": asked.tokens, "completion_tokens": 0, "total_tokens": asked.tokens}
    headers = {"X-Ignored-Fields": ", ".join(header_names(asked.ignored))} if asked.ignored else {}
    return JSONResponse({**body, "usage": usage}, headers=headers)


async def _rated(
    request: Request,
    kind: type[ClassifyBody] | type[ChatRatingBody],
    engine: RatingEngine,
    served: ServedModel,
    schema: AttributeSchema,
) -> tuple[AskedRatings, list[Values]]:
    """Read a request, have it rated, and return the values of each answer."""
    text = await request.body()

    def read() -> tuple[AskedRatings, RatingTicket]:
        asked = read_ratings(parsed(text), kind, served)
        return asked, _submit(engine, asked)

    asked, ticket = await run_in_threadpool(read)
    outputs = await _outputs(request, ticket)
    return asked, [_values(schema, outputs[sample][sequence], asked.raw) for sample, sequence in asked.places]


def parsed(text: bytes) -> Any:
    """Return what a body says; raise `ApiError` where it is no JSON."""
    try:
        return from_json(text)
    except ValueError as error:
        raise ApiError(400, f"the body is no JSON: {error}.") from None


def _submit(engine: RatingEngine, asked: AskedRatings) -> RatingTicket:
    try:
        return engine.submit(asked.samples, asked.pixels)
    except QueueFull as error:
        raise ApiError(429, f"{error}; try again later.", code="rate_limit_exceeded") from None
    except Ending:
        raise ApiError(503, "the server is ending and takes no more requests.") from None
    except ValueError as error:
        raise ApiError(400, f"{error}: ask for fewer in one request.", "messages") from None


async def _outputs(request: Request, ticket: RatingTicket) -> Sequence[Tensor]:
    """Wait for the outputs; a client that hangs up gives its request up."""
    rated = asyncio.wrap_future(ticket.future)
    left = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({rated, left}, return_when=asyncio.FIRST_COMPLETED)
        if not rated.done():
            raise ApiError(CLIENT_LEFT, "the client has left.")
        return rated.result()
    except torch.OutOfMemoryError:
        raise ApiError(503, "there is not enough memory to rate this; send fewer or shorter conversations.") from None
    except (ApiError, asyncio.CancelledError):
        raise
    except Exception:
        raise ApiError(503, "the model has stopped; the server's log says why.") from None
    finally:
        left.cancel()
        rated.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _values(schema: AttributeSchema, outputs_T: Tensor, raw: bool) -> Values:
    outputs = outputs_T.tolist()
    try:
        told = predicted(schema, outputs)
    except UserError as error:
        raise ApiError(500, str(error)) from None
    return outputs if raw else list(told.values())
