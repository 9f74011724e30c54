"""The stage `serve`: a model in memory, an engine on the main thread of the first rank, HTTP beside it."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import ip_address

from fastapi import APIRouter

from nemo_mm_align.inference.engine import Engine
from nemo_mm_align.inference.led_session import LedSession
from nemo_mm_align.inference.loading import OpenedModel
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.source import open_source
from nemo_mm_align.parallel.stopping import StopRequest
from nemo_mm_align.serving.app import AppParts, make_app, token_routes
from nemo_mm_align.serving.chat_route import ChatRoute
from nemo_mm_align.serving.early import CheckedServer
from nemo_mm_align.serving.gate import Gate
from nemo_mm_align.serving.http_server import HttpServer
from nemo_mm_align.serving.led_rater import LedRater
from nemo_mm_align.serving.lifecycle import drain_when_asked, end_at_once, end_with_lost_rank
from nemo_mm_align.serving.lifeline import Lifeline
from nemo_mm_align.serving.metrics import ServerMetrics
from nemo_mm_align.serving.offered import decoding_session, open_offered, served_model
from nemo_mm_align.serving.pictures import PictureLimits
from nemo_mm_align.serving.playground_route import playground_router
from nemo_mm_align.serving.rating_engine import RatingEngine
from nemo_mm_align.serving.rating_routes import RatingRoutes
from nemo_mm_align.serving.reading import BodyReader
from nemo_mm_align.serving.score_route import ScoreRoute
from nemo_mm_align.serving.scoring import make_scorer
from nemo_mm_align.serving.served_model import Limits, ServedModel, model_cards
from nemo_mm_align.serving.settings import RequestLimits, ServeSettings

logger = logging.getLogger(__name__)


def serve(checked: CheckedServer, stop: StopRequest) -> None:
    """Answer requests until asked to end; every rank calls this.

    Args:
        checked: settings, keys, and the port.
        stop: what a script has listened with since it began.

    Raises:
        UserError: bad input, found before weights are loaded.
    """
    settings = checked.settings
    rates = open_source(settings.checkpoint).head is not None
    opened = open_offered(settings, rates)
    runtime.initialize(opened.parallel, settings.sampling.seed)
    led = _led_rater(settings, opened) if rates else _led_session(settings, opened)
    if led.leads:
        _lead(checked, opened, led, stop)
    else:
        _follow(led)
    runtime.shutdown()


def _led_session(settings: ServeSettings, opened: OpenedModel) -> LedSession:
    return LedSession(decoding_session(settings, opened, settings.limits.kept_embedding_bytes))


def _led_rater(settings: ServeSettings, opened: OpenedModel) -> LedRater:
    length = settings.length or opened.source.config.language.max_position_embeddings
    return LedRater(opened.rater(settings.prefill_positions, settings.base), length)


def _follow(session: LedSession | LedRater) -> None:
    """The part of a rank that does what the first one does."""

    def lost(name: str) -> None:
        logger.critical("%s has died: this rank ends", name)
        end_at_once()

    lifeline = Lifeline(False, 1, lost)
    with session:
        session.follow()
    lifeline.release()


@dataclass
class _Lead:
    """What the first rank holds together."""

    checked: CheckedServer
    engine: Engine | RatingEngine
    gate: Gate
    http: HttpServer


def _lead(checked: CheckedServer, opened: OpenedModel, led: LedSession | LedRater, stop: StopRequest) -> None:
    """The part of the first rank."""
    settings = checked.settings
    engine = _engine(settings, led)
    gate = Gate(engine.slots + settings.max_waiting)
    limits = limits_of(settings.limits, gate.most)
    served = served_model(settings, opened, engine, _pictures(settings), limits, settings.aliases)
    metrics = ServerMetrics(served.name, lambda: engine.figures, engine.slots)
    with (
        ThreadPoolExecutor(settings.readers, "reader") as readers,
        ThreadPoolExecutor(settings.readers, "scorer") as scorers,
    ):
        reader = BodyReader(settings.limits.http, gate, readers)
        if isinstance(engine, RatingEngine):
            assert opened.schema is not None
            rating = RatingRoutes(served, opened.schema, engine, metrics, reader)
            cards, routers = [rating.card], [rating.router()]
        else:
            chat = ChatRoute(served, engine, metrics, reader, settings.limits.max_tokens)
            beside = _scores(settings, served, replace(reader, threads=scorers))
            cards, routers = model_cards(served), [chat.router(), *beside]
        parts = AppParts(
            engine=engine,
            cards=lambda: cards,
            gate=gate,
            metrics=metrics,
            routers=[*routers, token_routes(served, reader), *_page(settings)],
            keys=checked.keys,
            origins=settings.allowed_origins,
            hosts=settings.allowed_hosts if _listens_to_itself(checked) else None,
        )
        _run(_Lead(checked, engine, gate, _http(checked, parts, engine, stop)), served.name)


def _listens_to_itself(checked: CheckedServer) -> bool:
    assert checked.socket is not None
    return ip_address(checked.socket.getsockname()[0]).is_loopback


def _page(settings: ServeSettings) -> list[APIRouter]:
    """The playground, where it is wanted."""
    limits = settings.limits
    if not settings.playground:
        return []
    return [playground_router(limits.image_bytes, limits.image_pixels, settings.scorer is not None)]


def _scores(settings: ServeSettings, served: ServedModel, reader: BodyReader) -> list[APIRouter]:
    """Scores beside answers, where somebody tells them."""
    if settings.scorer is None:
        return []
    return [ScoreRoute(make_scorer(settings.scorer), served.pictures, reader, served.schema).router()]


def _engine(settings: ServeSettings, led: LedSession | LedRater) -> Engine | RatingEngine:
    if isinstance(led, LedRater):
        return RatingEngine(led, settings.max_waiting)
    return Engine(led, settings.max_waiting, settings.prefill_positions)


def _http(checked: CheckedServer, parts: AppParts, engine: Engine | RatingEngine, stop: StopRequest) -> HttpServer:
    assert checked.socket is not None
    seconds = checked.settings.drain_seconds
    return HttpServer(
        make_app(parts),
        checked.socket,
        checked.settings.limits.http,
        lambda: drain_when_asked(stop, parts.gate, engine, seconds),
        engine.end,
    )


def _run(lead: _Lead, name: str) -> None:
    """Serve until the engine ends, and end as it did."""
    settings, http = lead.checked.settings, lead.http
    lifeline = Lifeline(True, runtime.world_size() - 1, lambda who: end_with_lost_rank(who, lead.gate, http.soon))
    http.start()
    logger.info("serving %s at %s", name, http.address)
    if not lead.checked.keys and not _listens_to_itself(lead.checked):
        logger.warning("no API key is set: whoever reaches %s may ask", http.address)
    try:
        lead.engine.run()
    except BaseException:
        logger.critical("the engine has failed, and the server ends", exc_info=True)
        http.stop(settings.limits.keep_alive_seconds)
        end_at_once()
    lifeline.release()
    http.stop(settings.limits.keep_alive_seconds)
    if http.failure is not None:
        end_at_once()
    logger.info("ended: everything accepted was answered or given up")


def _pictures(settings: ServeSettings) -> PictureLimits:
    limits = settings.limits
    return PictureLimits(
        limits.image_bytes,
        limits.image_pixels,
        tuple(settings.allowed_image_hosts),
        limits.fetch_seconds,
        limits.kept_image_bytes,
    )


def limits_of(limits: RequestLimits, room: int) -> Limits:
    """Return what one request may take.

    Args:
        room: requests that the engine can hold: a sweep of more would be told to try again for ever.
    """
    return Limits(min(limits.choices, room), limits.images, limits.text_characters)
