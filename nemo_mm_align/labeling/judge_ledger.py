"""The ledger of judgements."""

from __future__ import annotations

from nemo_mm_align.llm.ledger import Attempt, Ledger


class JudgeAttempt(Attempt):
    """One call of a judge.

    Args:
        order: indices of the candidates in the order shown to the judge.
        ratings, reasoning: per candidate, in the order of the candidates file.
        reference_answer: the judge's own, if it was wanted.
    """

    order: tuple[int, ...]
    ratings: tuple[dict[str, float], ...] = ()
    reasoning: tuple[str, ...] = ()
    reference_answer: str | None = None


class JudgeLedger(Ledger[JudgeAttempt]):
    """What judges were asked and said, see `Ledger`."""

    record = JudgeAttempt
