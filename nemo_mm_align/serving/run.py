"""The stage `serve`: a model in memory, an engine on the main thread of the first rank, HTTP beside it."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nemo_mm_align.inference.engine import Engine
from nemo_mm_align.inference.led_session import LedSession
from nemo_mm_align.inference.loading import OpenedModel
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.stopping import StopRequest
from nemo_mm_align.serving.app import AppParts, make_app, token_routes
from nemo_mm_align.serving.chat_route import ChatRoute
from nemo_mm_align.serving.early import CheckedServer
from nemo_mm_align.serving.gate import Gate
from nemo_mm_align.serving.http_server import HttpServer
from nemo_mm_align.serving.lifecycle import drain_when_asked, end_at_once, end_with_lost_rank
from nemo_mm_align.serving.lifeline import Lifeline
from nemo_mm_align.serving.metrics import ServerMetrics
from nemo_mm_align.serving.offered import decoding_session, open_offered, served_model
from nemo_mm_align.serving.pictures import PictureLimits
from nemo_mm_align.serving.served_model import Limits, model_cards

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
    opened = open_offered(settings)
    runtime.initialize(opened.parallel, settings.sampling.seed)
    session = LedSession(decoding_session(settings, opened))
    if session.leads:
        _lead(checked, opened, session, stop)
    else:
        _follow(session)
    runtime.shutdown()


def _follow(session: LedSession) -> None:
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
    engine: Engine
    gate: Gate
    http: HttpServer


def _lead(checked: CheckedServer, opened: OpenedModel, session: LedSession, stop: StopRequest) -> None:
    """The part of the first rank."""
    settings = checked.settings
    engine = Engine(session, settings.max_waiting, settings.prefill_positions)
    gate = Gate(settings.slots + settings.max_waiting)
    limits = settings.limits
    pictures = PictureLimits(
        limits.image_bytes,
        limits.image_pixels,
        tuple(settings.allowed_image_hosts),
        limits.fetch_seconds,
        limits.kept_image_bytes,
    )
    request = Limits(limits.choices, limits.images, limits.text_characters)
    served = served_model(settings, opened, engine, pictures, request, settings.aliases)
    metrics = ServerMetrics(served.name, lambda: engine.figures, engine.slots)
    with ThreadPoolExecutor(settings.readers, "reader") as readers:
        http = limits.http
        chat = ChatRoute(served, engine, metrics, http, gate, readers, limits.max_tokens)
        parts = AppParts(
            engine=engine,
            cards=lambda: model_cards(served),
            gate=gate,
            metrics=metrics,
            limits=http,
            readers=readers,
            routers=[chat.router(), token_routes(served, http, readers)],
            keys=checked.keys,
            origins=settings.allowed_origins,
        )
        _run(_Lead(checked, engine, gate, _http(checked, parts, engine, stop)), served.name)


def _http(checked: CheckedServer, parts: AppParts, engine: Engine, stop: StopRequest) -> HttpServer:
    assert checked.socket is not None
    seconds = checked.settings.drain_seconds
    return HttpServer(
        make_app(parts),
        checked.socket,
        parts.limits,
        lambda: drain_when_asked(stop, parts.gate, engine, seconds),
        engine.end,
    )


def _run(lead: _Lead, name: str) -> None:
    """Serve until the engine ends, and end as it did."""
    settings, http = lead.checked.settings, lead.http
    lifeline = Lifeline(True, runtime.world_size() - 1, lambda who: end_with_lost_rank(who, lead.gate, http.soon))
    http.start()
    logger.info("serving %s at %s", name, http.address)
    if not lead.checked.keys and not http.address.startswith(("http://127.", "http://[::1]")):
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
