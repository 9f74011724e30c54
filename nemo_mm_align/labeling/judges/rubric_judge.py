"""A language model as a judge: it is asked by the rubric, and its answer is read as ratings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nemo_mm_align.labeling.judge import JudgeReply, JudgeRequest
from nemo_mm_align.labeling.parsing import parse_reply
from nemo_mm_align.labeling.rubric import INSTRUCTIONS, build_question, rubric_fingerprint
from nemo_mm_align.llm.client import CountsTokens, LanguageModel, TakesBatches
from nemo_mm_align.llm.clients.api_key import REPEATS_KEY
from nemo_mm_align.llm.failures import CallFailure, one_line
from nemo_mm_align.llm.price import Price
from nemo_mm_align.llm.question import Answer


class RubricJudge:
    """Rates candidates by what a language model says of them.

    `count_tokens` and the methods of batches are None where the client's service has no such thing.

    Args:
        client: who is asked.
    """

    reads_metadata = False

    count_tokens: Callable[[JudgeRequest], int | None] | None
    batch_request: Callable[[str, JudgeRequest], dict[str, Any]] | None
    batch_key: Callable[[Mapping[str, Any]], str | None] | None
    batch_reply: Callable[[Mapping[str, Any], JudgeRequest], JudgeReply] | None

    def __init__(self, client: LanguageModel) -> None:
        self.client = client
        self.name = client.name
        self.count_tokens = self.batch_request = self.batch_key = self.batch_reply = None
        if isinstance(client, CountsTokens):
            counts = client.count_tokens
            self.count_tokens = lambda request: counts(build_question(request))
        if isinstance(client, TakesBatches):
            asks, answers = client.batch_request, client.batch_answer
            self.batch_request = lambda key, request: asks(key, build_question(request))
            self.batch_key = client.batch_key
            self.batch_reply = lambda line, request: self._read(answers(line), request)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The model's, and the rubric."""
        return {**self.client.settings, "rubric": rubric_fingerprint(), "rubric_text": INSTRUCTIONS}

    @property
    def price(self) -> Price | None:
        """The model's."""
        return self.client.price

    @property
    def max_output_tokens(self) -> int | None:
        """The model's."""
        return self.client.max_output_tokens

    def judge(self, request: JudgeRequest) -> JudgeReply:
        """Ask once; raise `CallFailure` of any kind."""
        return self._read(self.client.ask(build_question(request)), request)

    def _read(self, answer: Answer, request: JudgeRequest) -> JudgeReply:
        """Return the judgement that an answer holds; raise `CallFailure` where it holds none."""
        try:
            parsed = parse_reply(answer.text, request.schema, len(request.candidates), request.want_reference)
        except CallFailure as failure:
            message, raw = one_line(self.client.hide(failure.message)), self.client.hide(answer.text)
            raise CallFailure(failure.kind, message, raw, usage=answer.usage) from None
        texts = "\n".join([*parsed.reasoning, parsed.reference_answer or ""])
        if self.client.hide(texts) != texts:  # their escapes are resolved only now
            raise CallFailure("server", REPEATS_KEY, self.client.hide(answer.text), usage=answer.usage)
        parts = parsed.ratings, parsed.reasoning, parsed.reference_answer
        return JudgeReply(*parts, answer.text, answer.usage, answer.model_version)
