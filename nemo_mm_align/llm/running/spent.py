"""What the calls about certain questions came to, whichever runs made them: read off the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_mm_align.llm.ledger import Ledger
from nemo_mm_align.llm.price import Price


@dataclass(frozen=True)
class Spent:
    """Sums over the attempts at a number of questions.

    Args:
        replies: that could be used.
        failures: attempts that gave none, by class.
        input_tokens, output_tokens: of all attempts, as the service counted them.
        seconds: sum of the calls' durations.
        judge: who was asked.
        model_versions: what the service says that it answered with.
    """

    replies: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    judge: str = ""
    model_versions: tuple[str, ...] = ()

    @property
    def calls(self) -> int:
        """All attempts."""
        return self.replies + sum(self.failures.values())

    def money(self, price: Price | None) -> float | None:
        """Return what they cost; None without a price."""
        return None if price is None else price.cost(self.input_tokens, self.output_tokens)


def spent_on(ledger: Ledger[Any], keys: Collection[str], judge: str) -> Spent:
    """Return what the attempts at some keys came to."""
    wanted, replies, seconds = set(keys), 0, 0.0
    failures, tokens, versions = Counter[str](), Counter[str](), Counter[str]()
    for attempt in ledger.attempts(wanted):
        tokens.update(attempt.usage)
        seconds += attempt.seconds
        if attempt.status == "ok":
            replies += 1
            versions.update([attempt.model_version] if attempt.model_version else [])
        else:
            failures[str(attempt.kind)] += 1
    return Spent(
        replies,
        dict(failures),
        tokens["input_tokens"],
        tokens["output_tokens"],
        round(seconds, 1),
        judge,
        tuple(sorted(versions)),
    )
