"""What stands between a worker and its call: the budget first, then the limits per minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nemo_mm_align.llm.ledger import Ledger
from nemo_mm_align.llm.price import Price
from nemo_mm_align.llm.running.budget import Budget, BudgetSettings
from nemo_mm_align.llm.running.call import Call
from nemo_mm_align.llm.running.estimates import EstimateSettings, TokenEstimator
from nemo_mm_align.llm.running.limits import Departure, DepartureLog, Limiter, read_departures
from nemo_mm_align.llm.running.spending import Spending, Tokens, tokens_of


@dataclass(frozen=True)
class Ticket:
    """Leave to make one call: what it was guessed to cost, and what is set aside for it.

    Args:
        guessed: input tokens; None where neither budget nor limit needs them (the guess builds the whole question).
    """

    call: Call
    guessed: int | None
    expected: Tokens
    worst: Tokens
    departure: Departure


class Admission:
    """Lets calls through, and learns from each what calls cost.

    Args:
        estimator, budget, limiter: what it goes by.
        known: what earlier calls under the same configuration cost.
        typical: what a call probably costs, as long as none was counted.

    Attributes:
        exhausted: whether a call did not fit into the budget any more; the run then ends.
    """

    def __init__(
        self, estimator: TokenEstimator, budget: Budget, limiter: Limiter, known: Spending, typical: Tokens
    ) -> None:
        self.estimator, self.budget, self.limiter = estimator, budget, limiter
        self.exhausted = False
        self._known, self._typical = known, typical

    @property
    def unknown_calls(self) -> int:
        """Calls, of earlier runs too, that may have cost something and of which nobody knows how much."""
        return 0 if self.estimator.is_free else self._known.unknown

    @property
    def per_prompt(self) -> Tokens:
        """Tokens that a prompt costs on average, failed calls included."""
        return self.budget.spent.times(1 / self._known.answers) if self._known.answers else self._typical

    def enter(self, call: Call, stop: threading.Event) -> Ticket | None:
        """Wait until a call may be made; None where `stop` was set before or the budget is used up."""
        needed = self.budget.settings.is_set or self.limiter.tokens_per_minute
        guessed, size = self.estimator.guess(call) if needed else None, call.size
        worst = self.estimator.worst(guessed or 0, size)
        if self.budget.settings.is_set and not self.budget.reserve(worst, stop):
            self.exhausted |= not stop.is_set()
            return None
        expected = self.estimator.expected(guessed or 0, size)
        departure = self.limiter.acquire(stop, expected.total)
        if departure is None:
            self._release(worst, Tokens())
            return None
        return Ticket(call, guessed, expected, worst, departure)

    def leave(self, ticket: Ticket, usage: Mapping[str, int], kind: str = "") -> None:
        """Settle a call that ended; what nobody knows the cost of is taken at its expected one."""
        counted = tokens_of(usage, kind)
        actual = self._expected(ticket) if counted is None else counted
        self._release(ticket.worst, actual)
        self.limiter.settle(ticket.departure, actual.total)
        if counted is not None and usage:
            self.estimator.observe(ticket.guessed or 0, counted)

    def _expected(self, ticket: Ticket) -> Tokens:
        if ticket.guessed is not None:
            return ticket.expected
        return self.estimator.expected(self.estimator.guess(ticket.call), ticket.call.size)

    def _release(self, worst: Tokens, actual: Tokens) -> None:
        self.budget.settle(worst if self.budget.settings.is_set else Tokens(), actual)


class _PacingSettings(Protocol):
    """What is read of the settings of a run."""

    @property
    def requests_per_minute(self) -> int | None: ...

    @property
    def tokens_per_minute(self) -> int | None: ...


@contextmanager
def open_admission(
    pacing: _PacingSettings,
    budget: BudgetSettings,
    estimate: EstimateSettings,
    ledger: Ledger[Any],
    fingerprint: str,
    typical: Call,
    price: Price | None,
    max_output_tokens: int | None,
) -> Iterator[Admission]:
    """Make the `Admission` of a run on a ledger: what earlier runs spent, and asked in the last minute, counts.

    Where there is a limit per minute, departures are written down beside the ledger (not by a read-only one).

    Args:
        pacing: with the limits per minute.
        fingerprint: of the configuration that the calls are recorded under.
        typical: any call of the run.
        price: of tokens.
        max_output_tokens: the most of one reply; None without such a limit, 0 where no tokens are used.
    """
    known = ledger.spending(fingerprint)
    estimator = TokenEstimator(estimate, max_output_tokens, known)
    expected = estimator.expected(estimator.guess(typical), typical.size)
    spent = Tokens() if estimator.is_free else known.with_unknown(expected)
    limited = pacing.requests_per_minute or pacing.tokens_per_minute
    path = ledger.path.with_suffix(".departures")
    recent = _recent_calls(path, ledger)
    departures = DepartureLog(path, recent) if limited and not ledger.read_only else None
    limiter = Limiter(pacing.requests_per_minute, pacing.tokens_per_minute, departures)
    limiter.remember((time.time() - start, tokens) for start, tokens in recent)
    try:
        yield Admission(estimator, Budget(budget, price, spent), limiter, known, expected)
    finally:
        if departures is not None:
            departures.close()


def _recent_calls(path: Path, ledger: Ledger[Any]) -> list[tuple[float, int]]:
    """Return (seconds since 1970, tokens) of recent calls: the departures written down, and what came after them.

    Departures hold calls that were in flight at a kill, which no ledger knows; runs without limits write down none.
    """
    departures = read_departures(path)
    latest = max((start for start, _ in departures), default=0.0)
    return departures + [call for call in ledger.recent_calls() if call[0] > latest]
