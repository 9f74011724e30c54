"""Everything that can go wrong with a judge's reply, by name, and when it does: by schedule or by chance with a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

from nemo_mm_align.benchmarks.judge_server.http import Reply
from nemo_mm_align.benchmarks.judge_server.server import Exchange, honest, judgement

if TYPE_CHECKING:  # the server's process starts without pydantic
    from nemo_mm_align.llm.failures import FailureKind

RETRY_AFTER_S = 1
"""The wait that those rate limits ask for which ask for one."""
NEVER_S = 600.0


@dataclass(frozen=True)
class Fault:
    """A reply that gives no judgement, and the class under which a ledger must show it."""

    kind: FailureKind
    reply: Callable[[Exchange], Reply]


def _rate_limit(exchange: Exchange, header: str | None = None, body: str | None = None) -> Reply:
    reply = exchange.front.error(429, "slow down", retry_delay=body)
    reply.headers |= {"Retry-After": header} if header else {}
    return reply


def _date() -> str:
    # An HTTP date has whole seconds, and the client reads it later: two more keep the wait above RETRY_AFTER_S.
    return format_datetime(datetime.now(UTC) + timedelta(seconds=RETRY_AFTER_S + 2), usegmt=True)


def _page(exchange: Exchange) -> Reply:
    return Reply("<html><body>Please log in to the proxy.</body></html>", headers={"Content-Type": "text/html"})


def _broken(exchange: Exchange, cut: int, stall: bool = False) -> Reply:
    reply = honest(exchange)
    reply.cut, reply.stall = cut, stall
    return reply


def _missing_candidate(exchange: Exchange) -> Reply:
    value = judgement(exchange)
    return exchange.front.generated(json.dumps({**value, "ratings": value["ratings"][:-1]}))


def _key(exchange: Exchange) -> str:
    return exchange.headers.get("x-goog-api-key") or exchange.headers.get("authorization", "").removeprefix("Bearer ")


FAULTS: dict[str, Fault] = {
    "429": Fault("rate_limit", _rate_limit),
    "429_header": Fault("rate_limit", lambda exchange: _rate_limit(exchange, header=str(RETRY_AFTER_S))),
    "429_body": Fault("rate_limit", lambda exchange: _rate_limit(exchange, body=f"{RETRY_AFTER_S}s")),
    "429_date": Fault("rate_limit", lambda exchange: _rate_limit(exchange, header=_date())),
    "500": Fault("server", lambda exchange: exchange.front.error(500, "internal")),
    "503": Fault("server", lambda exchange: exchange.front.error(503, "overloaded")),
    "slow": Fault("timeout", lambda exchange: Reply("{}", delay=NEVER_S)),
    "stall": Fault("timeout", lambda exchange: _broken(exchange, cut=40, stall=True)),
    "cut": Fault("server", lambda exchange: _broken(exchange, cut=40)),
    "reset": Fault("server", lambda exchange: Reply("", reset=True)),
    "page": Fault("server", _page),
    "prompt_blocked": Fault("safety", lambda exchange: exchange.front.prompt_blocked()),
    "reply_blocked": Fault("safety", lambda exchange: exchange.front.generated("", "safety")),
    "recitation": Fault("recitation", lambda exchange: exchange.front.generated("", "recitation")),
    "token_limit": Fault("truncated", lambda exchange: exchange.front.generated('{"ratings": [', "length")),
    "prose": Fault("unparsable", lambda exchange: exchange.front.generated("Candidate 1 is the best.")),
    "out_of_range": Fault(
        "out_of_range", lambda exchange: exchange.front.generated(json.dumps(judgement(exchange, verbosity=9)))
    ),
    "missing_candidate": Fault("unparsable", _missing_candidate),
    "key_echo": Fault("server", lambda exchange: exchange.front.error(500, f"failed for {_key(exchange)}")),
}
"""By name. Under OpenAI's protocol a recitation shows as ``safety``: it knows no other reason."""

PASSING = ("429", "500", "503", "cut", "reset", "page")
"""Faults of the service that cost nothing and pass."""


@dataclass(frozen=True)
class FaultPlan:
    """A behaviour of the server: the request of a number fails as the schedule says, others by chance.

    Args:
        schedule: number of the request (from 0) -> name of the fault.
        probability: of a fault, for requests that the schedule does not name.
        names: the faults to draw from.
        seed: the same seed draws the same faults for the same numbers.
    """

    schedule: Mapping[int, str] = field(default_factory=dict)
    probability: float = 0.0
    names: tuple[str, ...] = PASSING
    seed: int = 0

    def __call__(self, exchange: Exchange) -> Reply | None:
        """Return the faulty reply, or None where the request shall succeed."""
        exchange.fault = self.schedule.get(exchange.number, "") or self._drawn(exchange.number)
        return FAULTS[exchange.fault].reply(exchange) if exchange.fault else None

    def _drawn(self, number: int) -> str:
        chance = random.Random(f"{self.seed}/{number}")
        return chance.choice(self.names) if chance.random() < self.probability else ""
