"""Replies that a ledger keeps, read by the rules of today: each line once, the file opened once for all."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_mm_align.evaluation.question_calls import QuestionCall, QuestionLedger, Reply

Said = tuple[QuestionCall, Reply | None]
"""A call, and what was said; None where nobody said anything yet."""


def kept_replies(ledger: QuestionLedger, calls: Sequence[QuestionCall]) -> list[Said]:
    """Return calls in order, each with its reply, if there is one.

    Where a kept reply cannot be read by the rule of today, the call that would ask once more takes the call's place.
    """
    found: dict[int, Said] = {}
    sought = dict(enumerate(calls))
    while sought:
        attempts = ledger.results([call.key for call in sought.values()])
        unread: dict[int, QuestionCall] = {}
        for (place, call), attempt in zip(sought.items(), attempts, strict=True):
            reply = call.read(attempt) if attempt else None
            if attempt and not reply:
                unread[place] = call.once_more()
            else:
                found[place] = (call, reply)
        sought = unread
    return [found[place] for place in range(len(calls))]


def with_new_replies(ledger: QuestionLedger, said: Sequence[Said]) -> list[Said]:
    """Return the same with what has been said since to calls that had no reply."""
    attempts = ledger.results([call.key for call, reply in said if reply is None])
    return [(call, reply or (call.read(attempt) if (attempt := next(attempts)) else None)) for call, reply in said]
