"""The ASGI application of a server: its routes, and what surrounds them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from nemo_mm_align import __version__
from nemo_mm_align.inference.engine import Figures
from nemo_mm_align.serving.authentication import Authentication
from nemo_mm_align.serving.bodies import ClientGone
from nemo_mm_align.serving.chat_route import IGNORED_FIELDS
from nemo_mm_align.serving.error_responses import error_response, of_http, of_validation
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.exchange import GONE, REQUEST_ID, Exchange
from nemo_mm_align.serving.gate import Admission, Gate
from nemo_mm_align.serving.host_check import HostCheck
from nemo_mm_align.serving.metrics import ServerMetrics
from nemo_mm_align.serving.reading import BodyReader
from nemo_mm_align.serving.served_model import ServedModel
from nemo_mm_align.serving.tokenize import detokenize, tokenize

_READS = ["GET", "HEAD"]


class RunningEngine(Protocol):
    """What the application asks an engine of any kind."""

    @property
    def figures(self) -> Figures:
        """How it stands now."""

    @property
    def fault(self) -> BaseException | None:
        """What ended it, if anything did that nobody asked for."""


@dataclass(frozen=True)
class AppParts:
    """What an application is made of.

    Args:
        engine: that answers.
        cards: returns ``data`` of ``/v1/models``.
        gate, metrics: shared with whoever drains the server.
        routers: of the model's kind and of the page.
        keys: of clients; none: everybody may ask.
        origins: of pages whose scripts may ask.
        hosts: names besides this machine's own to which a request without a key may be addressed; None: any.
    """

    engine: RunningEngine
    cards: Callable[[], list[dict[str, Any]]]
    gate: Gate
    metrics: ServerMetrics
    routers: Sequence[APIRouter] = ()
    keys: Sequence[str] = field(default=(), repr=False)
    origins: Sequence[str] = ()
    hosts: Sequence[str] | None = None


def make_app(parts: AppParts) -> ASGIApp:
    """Return the application."""
    app = FastAPI(
        title="nemo_mm_align",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to http, whatever a proxy speaks, and to the host that the client names
    )
    for router in (_state_routes(parts), _model_routes(parts.cards), *parts.routers):
        app.include_router(router)
    wait = lambda: parts.metrics.expected_wait  # noqa: E731
    for kind, answer in _error_answers(wait).items():
        app.add_exception_handler(kind, answer)
    wrapped: ASGIApp = Admission(app, parts.gate, wait)
    if parts.keys:
        wrapped = Authentication(wrapped, parts.keys)
    elif parts.hosts is not None:
        wrapped = HostCheck(wrapped, parts.hosts)
    if parts.origins:
        wrapped = CORSMiddleware(
            wrapped,
            allow_origins=list(parts.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", REQUEST_ID],
            expose_headers=[REQUEST_ID, IGNORED_FIELDS],
        )
    return Exchange(wrapped)


def _error_answers(
    wait: Callable[[], int],
) -> dict[type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]:
    """What becomes of errors; coroutines all of them, since a plain function would be given a thread of its own each time."""

    async def http(request: Request, error: HTTPException) -> Response:
        return of_http(request, error)

    async def validation(request: Request, error: RequestValidationError) -> Response:
        return of_validation(error)

    async def refusal(request: Request, error: ApiError) -> Response:
        return _refuse(request, error, wait())

    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=GONE)

    return {HTTPException: http, RequestValidationError: validation, ApiError: refusal, ClientGone: gone}


def _refuse(request: Request, error: ApiError, wait: int) -> JSONResponse:
    """Answer an `ApiError`."""
    request.scope["state"]["told"]["error"] = error.code or error.status
    return error_response(error, wait=wait)


def _state_routes(parts: AppParts) -> APIRouter:
    router = APIRouter()

    @router.api_route("/health", methods=_READS)
    async def health() -> Response:
        if parts.engine.fault is not None or parts.gate.closed:
            text = "the server is about to end" if parts.gate.closed else "the engine has failed"
            return error_response(ApiError(503, text, code="draining" if parts.gate.closed else "engine_failed"))
        return JSONResponse({"status": "ok"})

    @router.api_route("/version", methods=_READS)
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @router.api_route("/metrics", methods=_READS)
    async def metrics() -> Response:
        return Response(parts.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return router


def _model_routes(cards: Callable[[], list[dict[str, Any]]]) -> APIRouter:
    router = APIRouter()

    @router.api_route("/v1/models", methods=_READS)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": cards()}

    @router.api_route("/v1/models/{name:path}", methods=_READS)
    async def model(name: str) -> Mapping[str, Any]:
        found = next((card for card in cards() if card["id"] == name), None)
        if found is None:
            names = ", ".join(card["id"] for card in cards())
            raise ApiError(404, f"there is no model {name!r}; known here: {names}", "model", "model_not_found")
        return found

    return router


def token_routes(served: ServedModel, reader: BodyReader) -> APIRouter:
    """Return ``/tokenize`` and ``/detokenize``."""
    router = APIRouter()

    async def answer(
        request: Request, read: Callable[[Mapping[str, Any], ServedModel], dict[str, Any]]
    ) -> dict[str, Any]:
        return await reader.read(request, reader.wanted(request), lambda body: read(body, served))

    @router.post("/tokenize")
    async def tokenize_route(request: Request) -> dict[str, Any]:
        return await answer(request, tokenize)

    @router.post("/detokenize")
    async def detokenize_route(request: Request) -> dict[str, Any]:
        return await answer(request, detokenize)

    return router
