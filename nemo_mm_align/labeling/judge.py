"""What a judge is: it scores all candidates of one prompt at once, or says in which way it failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from pydantic import Field

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.configuration import StrictModel
from nemo_mm_align.errors import UserError
from nemo_mm_align.records import Prompt

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
FAILURE_KINDS: tuple[FailureKind, ...] = get_args(FailureKind)

SERVICE_KINDS: frozenset[str] = frozenset({"rate_limit", "server", "timeout", "auth", "refused", "input"})
"""Failures that are not the sample's: they say nothing about the next attempt at the same request.

``refused``: the service works for nobody with this account, address or place. ``input``: an image was not there, or not the
one that was checked, when the call was to be made.
"""

PERMANENT_KINDS: frozenset[str] = frozenset({"safety", "bad_request"})
"""Failures that the same request would meet again."""


@dataclass(frozen=True)
class JudgeRequest:
    """One question to a judge.

    Args:
        prompt: the conversation; its last turn is the question that the candidates answer.
        candidates: answer texts in the order in which the judge shall see them (the caller has shuffled them already).
        image_paths: where the prompt's images lie, in order of their placeholders.
        schema: the attributes to score.
        want_reference: whether the judge shall also write its own answer to the question.
        image_hashes: SHA-256 of the images' bytes as they were checked; where there are none, any bytes will do.
    """

    prompt: Prompt
    candidates: tuple[str, ...]
    image_paths: tuple[Path, ...]
    schema: AttributeSchema
    want_reference: bool = False
    image_hashes: tuple[str, ...] = ()


@dataclass(frozen=True)
class JudgeReply:
    """A complete, valid judgement.

    Args:
        ratings: per candidate, in the order of `JudgeRequest.candidates`, a value for every attribute of the schema.
        reasoning: per candidate, in the same order; "" where the judge gave none.
        reference_answer: the judge's own answer, if it was wanted and given.
        raw: the reply as it came, for the ledger.
        usage: token counts such as ``{"input_tokens": 700, "output_tokens": 180}``.
        model_version: what the service says it answered with, if it does.
    """

    ratings: tuple[Mapping[str, float], ...]
    reasoning: tuple[str, ...]
    reference_answer: str | None = None
    raw: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)
    model_version: str = ""


class JudgeFailure(Exception):
    """One attempt that gave no judgement.

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
        super().__init__(f"{kind}: {message}")
        self.kind, self.message, self.raw, self.retry_after = kind, message, raw, retry_after
        self.usage: Mapping[str, int] = usage or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.message, self.raw, self.retry_after, self.usage)


class Price(StrictModel):
    """What tokens cost, as the user says it (``price`` in conf/judge/*.yaml): prices change, so none is built in.

    Args:
        currency: for display; amounts in different currencies are never added.
        input_per_million, output_per_million: price of a million tokens of questions, and of replies with thinking.
    """

    currency: str = "USD"
    input_per_million: float = Field(ge=0, allow_inf_nan=False)
    output_per_million: float = Field(ge=0, allow_inf_nan=False)

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Return what so many tokens cost, in `currency`."""
        return (input_tokens * self.input_per_million + output_tokens * self.output_per_million) / 1e6


class Judge(Protocol):
    """Scores candidates.

    Some attributes are optional and enter no key: `price` (a `Price` or None) and `max_output_tokens` (the most tokens
    that one reply can cost, thinking included, or None); budgets and the dry run use them. So is `one_process`: true for a
    judge that is not to be made in several processes. See `CountsTokens` too.

    `judge` is called from several threads at once and makes a single attempt: retries are the runner's.
    """

    @property
    def name(self) -> str:
        """Identifier recorded with each annotation, for example ``gemini-2.5-flash``."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside the request that can change a reply (model, decoding, rubric text, rules), as JSON values.

        It enters the content key: a judge with other settings is asked anew. It holds no secret.
        """

    @property
    def reads_metadata(self) -> bool:
        """Whether the prompt's metadata decides the judgement (an oracle's truth); it then enters the content key."""

    def judge(self, request: JudgeRequest) -> JudgeReply:
        """Return a judgement of all candidates, or raise `JudgeFailure`."""


@runtime_checkable
class CountsTokens(Protocol):
    """A judge that can say beforehand how long a question is."""

    def count_tokens(self, request: JudgeRequest) -> int | None:
        """Return the input tokens of a request as the service counts them, images included; asking costs nothing.

        None where the service cannot say. It is called from several threads at once and may raise `JudgeFailure`.
        """


def price_of(judge: Judge) -> Price | None:
    """Return the judge's price, if it has one."""
    price: Price | None = getattr(judge, "price", None)
    return price


def check_processes(judge: Judge, processes: int) -> None:
    """Raise `UserError` where a judge that holds a model in its own process (`one_process`) would be made in several."""
    if processes > 1 and getattr(judge, "one_process", False):
        raise UserError(
            f"runner.processes={processes}: judge={judge.name} holds its model in this process, and calls wait for each other. "
            "Leave runner.processes=1; scripts/annotate.py rates on several ranks."
        )


def max_output_tokens_of(judge: Judge) -> int | None:
    """Return the most tokens that one reply of the judge can cost, if it has a limit."""
    limit: int | None = getattr(judge, "max_output_tokens", None)
    return limit


def check_reply(reply: JudgeReply, request: JudgeRequest) -> JudgeReply:
    """Return the reply if it is complete and in range; raise `JudgeFailure` otherwise, whichever judge it came from."""
    count = len(request.candidates)
    if len(reply.ratings) != count or len(reply.reasoning) != count:
        problem = f"{len(reply.ratings)} ratings and {len(reply.reasoning)} reasonings for {count} candidates"
        raise JudgeFailure("unparsable", problem, reply.raw, usage=reply.usage)
    try:
        for ratings in reply.ratings:
            request.schema.check(ratings)
    except UserError as error:
        raise JudgeFailure("out_of_range", str(error), reply.raw, usage=reply.usage) from None
    return reply
