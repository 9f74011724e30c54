"""A task's question as a call: what decides its reply, who asks it, and the ledger that keeps what was said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from nemo_mm_align.core.hashing import hash_json
from nemo_mm_align.evaluation.judging import TaskQuestion
from nemo_mm_align.llm.client import CountsTokens, LanguageModel
from nemo_mm_align.llm.failures import CallFailure, one_line
from nemo_mm_align.llm.ledger import Attempt, Ledger
from nemo_mm_align.llm.question import Answer, Question
from nemo_mm_align.llm.running.call import Outcome


class QuestionAttempt(Attempt):
    """One call about a question of a task; what it says is read anew by every run.

    Args:
        task: that asked first.
        top_logprobs: alternatives of the reply's first token with their log-probabilities, where the question wanted them.
    """

    task: str = ""
    top_logprobs: tuple[tuple[str, float], ...] = ()

    @property
    def answer(self) -> Answer:
        """The reply as it came."""
        return Answer(self.raw, self.usage, self.model_version, top_logprobs=self.top_logprobs)


class QuestionLedger(Ledger[QuestionAttempt]):
    """What judges were asked by tasks and said, see `Ledger`."""

    record = QuestionAttempt


@dataclass(frozen=True)
class Asked:
    """A question as it is put to the judge.

    Args:
        task, prompt_id: whose it is, for people.
        question: with the hashes of its images.
    """

    task: str
    prompt_id: str
    question: TaskQuestion


@dataclass(frozen=True)
class Reply:
    """What was read of a judge's reply, and the reply as it came."""

    values: Mapping[str, float]
    text: str


@dataclass(frozen=True)
class QuestionCall:
    """See `Call`.

    Args:
        asked: the question.
        client: who is asked.
        fingerprint: of the client and its settings.
        repeat, again: see `question_key`.
    """

    asked: Asked
    client: LanguageModel
    fingerprint: str
    repeat: int = 0
    again: int = 0

    @cached_property
    def key(self) -> str:
        """What decides its reply."""
        return question_key(self.fingerprint, self.question(), self.repeat, self.again)

    def once_more(self) -> QuestionCall:
        """Return the call that is made where the kept reply cannot be read any more."""
        return replace(self, again=self.again + 1)

    def read(self, attempt: QuestionAttempt) -> Reply | None:
        """Read a kept reply by the rule of today; None where that cannot read it."""
        try:
            return Reply(self.asked.question.read(attempt.answer), attempt.raw)
        except CallFailure:
            return None

    @property
    def facts(self) -> Mapping[str, Any]:
        """Whose question it is."""
        return {"prompt_id": self.asked.prompt_id, "task": self.asked.task}

    @property
    def size(self) -> int:
        """One answer."""
        return 1

    def question(self) -> Question:
        """Return what is asked."""
        return self.asked.question.question

    @property
    def can_count(self) -> bool:
        """Whether the client's service counts tokens."""
        return isinstance(self.client, CountsTokens)

    def count_tokens(self) -> int | None:
        """Return the question's tokens as the service counts them."""
        return self.client.count_tokens(self.question()) if isinstance(self.client, CountsTokens) else None

    def ask(self) -> Outcome:
        """Ask once; what cannot be read is a failure, the reply kept with it."""
        answer = self.client.ask(self.question())
        try:
            self.asked.question.read(answer)
        except CallFailure as failure:
            message, raw = one_line(self.client.hide(failure.message)), self.client.hide(answer.text)
            raise CallFailure(failure.kind, message, raw, usage=answer.usage) from None
        fields: dict[str, Any] = {"raw": answer.text, "model_version": answer.model_version}
        if answer.top_logprobs:
            fields["top_logprobs"] = answer.top_logprobs
        return Outcome(fields, answer.usage)


def question_key(fingerprint: str, question: Question, repeat: int = 0, again: int = 0) -> str:
    """Return the key of a question to a judge: hash of all that its reply depends on.

    Args:
        fingerprint: of the judge and its settings.
        repeat: above 0 it is asked once more.
        again: above 0 it is asked since an earlier reply could not be read any more.
    """
    parts = [part if isinstance(part, str) else {"image": part.sha256} for part in question.parts]
    material: dict[str, Any] = {"judge": fingerprint, "instructions": question.instructions, "parts": parts}
    further = {
        "schema": question.response_schema,
        "top_logprobs": question.top_logprobs,
        "max_output_tokens": question.max_output_tokens,
        "repeat": repeat,
        "again": again,
    }
    return hash_json(material | {name: value for name, value in further.items() if value}, 32)
