"""Calls that gave no answer: the classes of their failures, and which of them say something about the next attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from nemo_mm_align.core.errors import UserError

FailureKind = Literal[
    "rate_limit",
    "server",
    "timeout",
    "safety",
    "recitation",
    "truncated",
    "unparsable",
    "out_of_range",
    "bad_request",
    "auth",
    "refused",
    "input",
]

SERVICE_KINDS: frozenset[str] = frozenset({"rate_limit", "server", "timeout", "auth", "refused", "input"})
"""Failures that are not the question's: they say nothing about the next attempt at the same one.

``refused``: the service works for nobody with this account, address or place. ``input``: an image was not there, or not the
one that was checked, when the call was to be made.
"""

PERMANENT_KINDS: frozenset[str] = frozenset({"safety", "bad_request"})
"""Failures that the same question would meet again."""

LONGEST_MESSAGE = 1000
"""Characters of a failure's message; of the reply itself more is kept."""


def one_line(message: str) -> str:
    """Return a message as one line of bounded length."""
    message = " ".join(message.split())
    return f"{message[:LONGEST_MESSAGE]}..." if len(message) > LONGEST_MESSAGE else message


class CallFailure(Exception):
    """One attempt that gave no answer, or none that can be used.

    Args:
        kind: the class of the failure.
        message: what happened, in one line, free of secrets.
        raw: the reply as it came, if there was one.
        retry_after: seconds that the service asked to wait.
        usage: token counts: a reply that cannot be used is paid all the same.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        raw: str = "",
        retry_after: float | None = None,
        usage: Mapping[str, int] | None = None,
    ) -> None:
        if kind not in get_args(FailureKind):
            raise UserError(f"a failure of kind {kind!r} ({message}): choose from {', '.join(get_args(FailureKind))}.")
        super().__init__(f"{kind}: {message}")
        self.kind, self.message, self.raw, self.retry_after = kind, message, raw, retry_after
        self.usage: Mapping[str, int] = usage or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.message, self.raw, self.retry_after, self.usage)
