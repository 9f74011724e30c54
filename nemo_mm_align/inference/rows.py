"""What a decoding session is asked for, and the answers that come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nemo_mm_align.inference.growing_text import Decode, StopTexts
from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.sampling import stream_key
from nemo_mm_align.inference.sampling_settings import SamplingSettings

FinishReason = Literal["stop", "length", "abort"]
"""``stop``: a stop token or text; ``length``: the limit cut the answer; ``abort``: it was given up, or its prompt failed."""


@dataclass(frozen=True)
class DecodingRequest:
    """A prompt to be answered.

    Args:
        prompt: tokenised; the attributes asked for are part of it.
        sampling: of this prompt's answers alone: their number, length, seed, how tokens are chosen, stop texts.
        stop_ids: tokens that end an answer.
        pictures: what tells each image from others, in order: with equal ones the same keys and values may serve again.
            Images for which there is none are computed anew.
        top_logprobs: log-probabilities to tell with each token: its own and those of so many of the likeliest; None: none at all.
    """

    prompt: EncodedPrompt
    sampling: SamplingSettings
    stop_ids: frozenset[int]
    pictures: tuple[str, ...] = ()
    top_logprobs: int | None = None

    @property
    def length(self) -> int:
        """Positions that an answer takes at most, its prompt included."""
        return len(self.prompt.ids) + self.sampling.max_new_tokens


@dataclass(frozen=True)
class GeneratedAnswer:
    """What a row has come to.

    Args:
        ids: tokens without the stop token; those of a stop text are among them.
        finish_reason: why it ended.
        text: what stands before the stop text, where one ended the answer: not all that `ids` say.
    """

    ids: list[int]
    finish_reason: FinishReason
    text: str | None = None


@dataclass(frozen=True)
class TokenLogprobs:
    """How probable the model held a token, before temperature, top-k and top-p; natural logarithms.

    Args:
        token: that was chosen, a stop token too.
        logprob: of it.
        top: tokens and theirs, the likeliest first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Progress:
    """What a step has done for one row.

    Args:
        row: its number.
        token: the new one; None for a stop token. The tokens of a stop text are told like all others.
        finish_reason: why the answer ends with it; None where it goes on.
        logprobs: where the request asks for them.
    """

    row: int
    token: int | None
    finish_reason: FinishReason | None = None
    logprobs: TokenLogprobs | None = None


@dataclass
class Row:
    """One answer on its way; every rank of a replica keeps the same.

    Args:
        number: which the session's client knows it by.
        request: that it answers.
        sample: which of the request's answers.
        decode: for requests with stop texts.

    Attributes:
        cached: positions of the prompt that were kept and not computed for it.
    """

    number: int
    request: DecodingRequest
    sample: int
    decode: Decode | None = None
    cached: int = 0
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    text: str | None = None
    stream: int = field(init=False)

    def __post_init__(self) -> None:
        sampling = self.request.sampling
        self.stream = stream_key(sampling.seed, self.request.prompt.id, self.sample)
        self._stops = StopTexts(sampling.stop, self.decode) if sampling.stop and self.decode else None

    @property
    def column(self) -> int:
        """Where the newest token's keys and values belong: its position."""
        return len(self.request.prompt.ids) + len(self.ids) - 1

    def append(self, token: int, logprobs: TokenLogprobs | None = None) -> Progress:
        """Take the next token; the answer may end with it."""
        if token in self.request.stop_ids:
            self.finish_reason = "stop"
            return Progress(self.number, None, "stop", logprobs)
        self.ids.append(token)
        self.text = self._stops.before(self.ids) if self._stops else None
        if self.text is not None:
            self.finish_reason = "stop"
        elif len(self.ids) == self.request.sampling.max_new_tokens:
            self.finish_reason = "length"
        return Progress(self.number, token, self.finish_reason, logprobs)

    def answer(self) -> GeneratedAnswer:
        """What there is of it; an answer that has not ended is given up."""
        return GeneratedAnswer(self.ids, self.finish_reason or "abort", self.text)
