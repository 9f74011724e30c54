"""What a judge is: it scores all candidates of one prompt at once, or says in which way it failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.price import Price
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt

JudgeFailure = CallFailure
"""What a judge raises, under the name that judges of one's own know."""


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
        """Return a judgement of all candidates, or raise `CallFailure`."""


@runtime_checkable
class CountsTokens(Protocol):
    """A judge that can say beforehand how long a question is."""

    def count_tokens(self, request: JudgeRequest) -> int | None:
        """Return the input tokens of a request as the service counts them, images included; asking costs nothing.

        None where the service cannot say. It is called from several threads at once and may raise `CallFailure`.
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
    """Return the reply if it is complete and in range; raise `CallFailure` otherwise, whichever judge it came from."""
    count = len(request.candidates)
    if len(reply.ratings) != count or len(reply.reasoning) != count:
        problem = f"{len(reply.ratings)} ratings and {len(reply.reasoning)} reasonings for {count} candidates"
        raise CallFailure("unparsable", problem, reply.raw, usage=reply.usage)
    try:
        for ratings in reply.ratings:
            request.schema.check(ratings)
    except UserError as error:
        raise CallFailure("out_of_range", str(error), reply.raw, usage=reply.usage) from None
    return reply
