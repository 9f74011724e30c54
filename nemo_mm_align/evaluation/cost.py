"""What an evaluation cost: calls of a judge, tokens, money, time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cost:
    """What it cost to have answers judged, earlier runs on the same ledger included.

    Args:
        calls: that were made, failed ones too.
        failures_by_kind: how many of them failed, by class of failure.
        input_tokens, output_tokens: as the service counted them.
        money: what was spent; None where nobody gave a price.
        currency: of it.
        seconds: of judging, by the clock.
    """

    calls: int = 0
    failures_by_kind: Mapping[str, int] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    money: float | None = None
    currency: str = ""
    seconds: float = 0.0

    @property
    def failures(self) -> int:
        """Calls that failed."""
        return sum(self.failures_by_kind.values())


def total_cost(costs: Iterable[Cost]) -> Cost | None:
    """Return the sum; None of nothing. Money is added where all have some, in one currency: sums of a part mislead."""
    found = list(costs)
    if not found:
        return None
    asked = [cost for cost in found if cost.calls]
    priced = bool(asked) and all(cost.money is not None for cost in asked)
    summed = priced and len({cost.currency for cost in asked}) == 1
    return Cost(
        calls=sum(cost.calls for cost in found),
        failures_by_kind=dict(sum((Counter(cost.failures_by_kind) for cost in found), Counter())),
        input_tokens=sum(cost.input_tokens for cost in found),
        output_tokens=sum(cost.output_tokens for cost in found),
        money=sum(cost.money or 0.0 for cost in asked) if summed else None,
        currency=asked[0].currency if summed else "",
        seconds=sum(cost.seconds for cost in found),
    )
