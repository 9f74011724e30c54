"""A prompt with its candidates as a call: the judge is asked, its reply checked and recorded in the file's order."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nemo_mm_align.labeling.items import Item, LabelContext, in_file_order
from nemo_mm_align.labeling.judge import CountsTokens, JudgeReply, JudgeRequest, check_reply
from nemo_mm_align.labeling.rubric import build_question
from nemo_mm_align.llm.question import Question
from nemo_mm_align.llm.running.call import Outcome


@dataclass(frozen=True)
class JudgeCall:
    """See `Call`."""

    item: Item
    context: LabelContext

    @property
    def key(self) -> str:
        """The item's."""
        return self.item.key

    @property
    def facts(self) -> Mapping[str, Any]:
        """Whose judgement it is, and in which order the judge sees the candidates."""
        return {"prompt_id": self.item.prompt.id, "order": self.item.order}

    @property
    def size(self) -> int:
        """How many candidates there are."""
        return len(self.item.candidates.candidates)

    @functools.cached_property
    def request(self) -> JudgeRequest:
        """What the judge is given."""
        return self.item.request(self.context)

    def question(self) -> Question:
        """Return the question as a language model is asked it."""
        return build_question(self.request)

    def ask(self) -> Outcome:
        """Have the judge judge."""
        reply = check_reply(self.context.judge.judge(self.request), self.request)
        return Outcome(recorded(reply, self.item), reply.usage)

    @property
    def can_count(self) -> bool:
        """Whether the judge can count beforehand."""
        return isinstance(self.context.judge, CountsTokens)

    def count_tokens(self) -> int | None:
        """Return the question's tokens as the judge's service counts them; None where it cannot."""
        judge = self.context.judge
        return judge.count_tokens(self.request) if isinstance(judge, CountsTokens) else None


def calls_of(items: Iterable[Item], context: LabelContext) -> Iterator[JudgeCall]:
    """Yield the items as calls."""
    return (JudgeCall(item, context) for item in items)


def recorded(reply: JudgeReply, item: Item) -> dict[str, Any]:
    """Return what is recorded of a reply: ratings in the order of the candidates file."""
    return {
        "ratings": in_file_order(reply.ratings, item.order),
        "reasoning": in_file_order(reply.reasoning, item.order),
        "reference_answer": reply.reference_answer,
        "raw": reply.raw,
        "model_version": reply.model_version,
    }
