"""How many tokens a call will cost: a guess from the length of its texts, made better by what the service counts."""

from __future__ import annotations

import threading

from pydantic import Field

from nemo_mm_align.core.configuration import StrictModel
from nemo_mm_align.llm.question import Question
from nemo_mm_align.llm.running.call import Call
from nemo_mm_align.llm.running.spending import Spending, Tokens

BYTES_PER_TOKEN = 4.0
"""UTF-8 bytes of a token: about right for English, on the high side for other scripts."""

TOKENS_PER_IMAGE = 258
"""What Gemini counts for an image of up to 384 x 384 pixels; larger ones cost more and show in the measured ratio."""

UNMEASURED_RATIO = 2.0
"""How far the guess may be too low, as long as no reply has shown by how much it is."""

MARGIN = 1.25
"""How much larger than everything seen so far the worst call may be."""


class EstimateSettings(StrictModel):
    """What estimates go by until replies tell better.

    Args:
        output_tokens_per_candidate: of a reply, per answer that it is about: reasoning, scores, thinking.
        seconds_per_call: how long a reply takes.
    """

    output_tokens_per_candidate: int = Field(default=250, ge=0)
    seconds_per_call: float = Field(default=10.0, gt=0, le=1e6)


def guess_input_tokens(question: Question) -> int:
    """Return a guess of a question's tokens, images included, that needs no service."""
    length = sum(len(text.encode("utf-8", errors="replace")) for text in question.texts)
    return round(length / BYTES_PER_TOKEN) + TOKENS_PER_IMAGE * len(question.images)


class TokenEstimator:
    """Expected and worst tokens of calls. Safe for several threads.

    Args:
        settings: see `EstimateSettings`.
        max_output: the most tokens of one reply, where there is such a limit; 0: no tokens are used at all.
        known: what earlier calls under the same configuration cost.
    """

    def __init__(self, settings: EstimateSettings, max_output: int | None, known: Spending) -> None:
        self.settings, self.max_output = settings, max_output
        self._lock = threading.Lock()
        self._guessed, self._counted, self._worst_ratio = 0, 0, 0.0
        self._outputs, self._output_sum, self._largest_output = (
            known.counted_answers,
            known.answer_output,
            0,
        )

    @property
    def is_free(self) -> bool:
        """Whether no tokens are used."""
        return self.max_output == 0

    @property
    def input_ratio(self) -> float:
        """Tokens that the service counted for questions, per token guessed; 1.0 as long as nothing was counted."""
        return self._counted / self._guessed if self._guessed else 1.0

    def guess(self, call: Call) -> int:
        """Return `guess_input_tokens` of its question, or 0 where tokens are not used."""
        return 0 if self.is_free else guess_input_tokens(call.question())

    def expected(self, guessed: int, size: int) -> Tokens:
        """Return what a call will probably cost."""
        return Tokens(round(guessed * self.input_ratio), self.expected_output(size))

    def expected_output(self, size: int) -> int:
        """Return the probable tokens of a reply: the mean of those seen, else the assumption of the settings."""
        if self.is_free:
            return 0
        assumed = self.settings.output_tokens_per_candidate * size
        mean = round(self._output_sum / self._outputs) if self._outputs else assumed
        return mean if self.max_output is None else min(mean, self.max_output)

    def worst(self, guessed: int, size: int) -> Tokens:
        """Return what a call can cost at most; without a limit of the model this is more than any seen so far."""
        ratio = MARGIN * self._worst_ratio if self._guessed else UNMEASURED_RATIO
        if self.max_output is not None:
            output = self.max_output
        else:
            output = round(max(2 * self.expected_output(size), MARGIN * self._largest_output))
        return Tokens(round(guessed * ratio), output)

    def observe(self, guessed: int, tokens: Tokens) -> None:
        """Learn from a call that was answered."""
        with self._lock:
            if guessed and tokens.input:
                self._guessed += guessed
                self._counted += tokens.input
                self._worst_ratio = max(self._worst_ratio, tokens.input / guessed)
            self._outputs += 1
            self._output_sum += tokens.output
            self._largest_output = max(self._largest_output, tokens.output)
