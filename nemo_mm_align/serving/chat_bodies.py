"""Answers in the JSON of OpenAI's chat completions; ``attributes`` beside every choice is an extension."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from nemo_mm_align.serving.chat_answers import ChatAnswers, GrowingAnswer, Growth
from nemo_mm_align.serving.token_texts import TokenTexts


def usage(answers: ChatAnswers) -> dict[str, Any]:
    """Return the tokens that a request took, and how many of its prompt's needed not be computed."""
    prompt, completion = answers.prompt_tokens, answers.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": answers.cached_tokens},
    }


@dataclass
class ChatBodies:
    """Makes all JSON of one response.

    Args:
        model: as the client named it.
        texts: of single tokens.
        logprobs: whether they were asked for.
        include_usage: whether a last chunk tells the tokens.
    """

    model: str
    texts: TokenTexts
    logprobs: bool = False
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _told: dict[int, int] = field(default_factory=dict)  # first choice of an answer -> log-probabilities that are sent

    def whole(self, answers: ChatAnswers) -> dict[str, Any]:
        """Return the body of a response whose answers have all ended."""
        choices = [self._whole_choice(index, answer) for answer in answers.all for index in answer.choices]
        choices.sort(key=lambda choice: choice["index"])
        return {**self._head("chat.completion"), "choices": choices, "usage": usage(answers)}

    def _whole_choice(self, index: int, answer: GrowingAnswer) -> dict[str, Any]:
        assert answer.ended is not None
        return {
            "index": index,
            "message": {"role": "assistant", "content": answer.text.sent, "refusal": None},
            "logprobs": self.texts.logprobs(answer.logprobs) if self.logprobs else None,
            "finish_reason": answer.ended.finish_reason,
            "attributes": answer.attributes,
        }

    def chunks(self, growth: Growth) -> list[dict[str, Any]]:
        """Return the chunks that a step of an answer becomes, those of its first step with the role before them.

        A log-probability comes no sooner than its token's text, which a stop text may still cut.
        """
        answer = growth.answer
        first = answer.choices.start not in self._told
        sent = self._told.setdefault(answer.choices.start, 0)
        deltas: list[tuple[dict[str, Any], Any, str | None]] = []
        if first:
            deltas.append(({"role": "assistant", "content": ""}, None, None))
        if growth.text:
            fit = len(answer.logprobs) if answer.ended is not None else answer.text.tokens_sent
            deltas.append(({"content": growth.text}, self._tell(answer, sent, fit), None))
        if answer.ended is not None:
            rest = self._tell(answer, self._told[answer.choices.start], len(answer.logprobs))
            deltas.append(({}, rest, answer.ended.finish_reason))
        return [self._chunk(index, answer, *delta) for delta in deltas for index in answer.choices]

    def _tell(self, answer: GrowingAnswer, first: int, end: int) -> dict[str, Any] | None:
        """The log-probabilities of some tokens of an answer, which are sent with that; None where there are none."""
        told = answer.logprobs[first:end]
        self._told[answer.choices.start] = first + len(told)
        return self.texts.logprobs(told) if self.logprobs and told else None

    def _chunk(
        self, index: int, answer: GrowingAnswer, delta: dict[str, Any], logprobs: Any, reason: str | None
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": reason,
            "attributes": answer.attributes,
        }
        more = {"usage": None} if self.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **more}

    def last_chunk(self, answers: ChatAnswers) -> dict[str, Any]:
        """Return the chunk that tells the tokens."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(answers)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}
