"""What calls have cost: tokens that the service counted, and calls of which nobody knows what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

UNBILLED_KINDS: frozenset[str] = frozenset({"rate_limit", "auth", "refused", "bad_request", "server", "input"})
"""Failures by which the service did no work: without token counts they cost nothing.

A timeout is not among them: the service may have answered, and billed, what nobody waited for.
"""


@dataclass(frozen=True)
class Tokens:
    """Tokens of questions (`input`) and of replies with thinking (`output`)."""

    input: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.input + self.output

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.input + other.input, self.output + other.output)

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.input - other.input, self.output - other.output)

    def times(self, factor: float) -> Tokens:
        """Return so many times as many, rounded."""
        return Tokens(round(self.input * factor), round(self.output * factor))


def tokens_of(usage: Mapping[str, int], kind: str = "") -> Tokens | None:
    """Return what a call cost: from its usage, nothing for a refused one, None where nobody knows.

    Args:
        usage: with `input_tokens` and `output_tokens`; empty where the service said nothing.
        kind: of its failure; "" for an answer.
    """
    if "input_tokens" in usage or "output_tokens" in usage:
        return Tokens(usage.get("input_tokens", 0), usage.get("output_tokens", 0))
    return Tokens() if kind in UNBILLED_KINDS else None


@dataclass
class Spending:
    """Sums over calls.

    Args:
        answer_input, answer_output: tokens of the `counted_answers`.
        failed_input, failed_output: tokens of failed calls; replies that cannot be used are paid all the same.
        answers: successful calls, which took `seconds` in all; `counted_answers` are those with known tokens.
        unknown: calls that may have cost something and whose tokens nobody knows.
    """

    answer_input: int = 0
    answer_output: int = 0
    failed_input: int = 0
    failed_output: int = 0
    answers: int = 0
    counted_answers: int = 0
    seconds: float = 0.0
    unknown: int = 0

    @property
    def tokens(self) -> Tokens:
        """All tokens that the service counted."""
        return Tokens(self.answer_input + self.failed_input, self.answer_output + self.failed_output)

    def add(self, usage: Mapping[str, int], kind: str = "", seconds: float = 0.0) -> None:
        """Count one call; `kind` of its failure, "" for a judgement."""
        tokens = tokens_of(usage, kind)
        if not kind:
            self.answers += 1
            self.seconds += seconds
        if tokens is None:
            self.unknown += 1
        elif kind:
            self.failed_input += tokens.input
            self.failed_output += tokens.output
        else:
            self.counted_answers += 1
            self.answer_input += tokens.input
            self.answer_output += tokens.output

    @property
    def mean_tokens(self) -> Tokens | None:
        """Tokens of an answer on average, if any are known."""
        if not self.counted_answers:
            return None
        return Tokens(self.answer_input, self.answer_output).times(1 / self.counted_answers)

    @property
    def mean_seconds(self) -> float | None:
        """Seconds of an answer on average, if there was one."""
        return self.seconds / self.answers if self.answers else None

    def with_unknown(self, per_call: Tokens) -> Tokens:
        """Return all tokens, counting each unknown call as an average one (`per_call` where there is none)."""
        return self.tokens + (self.mean_tokens or per_call).times(self.unknown)
