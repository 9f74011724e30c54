"""What a decoding session is asked for, and the answers that come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nemo_mm_align.inference.requests import EncodedPrompt
from nemo_mm_align.inference.sampling import stream_key
from nemo_mm_align.inference.sampling_settings import SamplingSettings

FinishReason = Literal["stop", "length", "abort"]
"""``stop``: a stop token or text; ``length``: the limit cut the answer; ``abort``: it was given up."""

Decode = Callable[[Sequence[int]], str]
"""Token ids to text."""


@dataclass(frozen=True)
class DecodingRequest:
    """A prompt to be answered.

    Args:
        prompt: tokenised; the attributes asked for are part of it.
        sampling: of this prompt's answers alone: their number, length, seed, how tokens are chosen, stop texts.
        stop_ids: tokens that end an answer.
    """

    prompt: EncodedPrompt
    sampling: SamplingSettings
    stop_ids: frozenset[int]

    @property
    def length(self) -> int:
        """Positions that an answer takes at most, its prompt included."""
        return len(self.prompt.ids) + self.sampling.max_new_tokens


@dataclass(frozen=True)
class GeneratedAnswer:
    """Token ids without the stop token; `text` is what stands before a stop text, where one ended the answer."""

    ids: list[int]
    finish_reason: FinishReason
    text: str | None = None


@dataclass(frozen=True)
class Progress:
    """One row's new token, if it is part of the answer (a stop token is not), and why the answer ends with it, if it does."""

    row: int
    token: int | None
    finish_reason: FinishReason | None = None


@dataclass
class Row:
    """One answer on its way; every rank of a replica keeps the same.

    Args:
        number: which the session's client knows it by.
        request: that it answers.
        sample: which of the request's answers.
    """

    number: int
    request: DecodingRequest
    sample: int
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        self.stream = stream_key(self.request.sampling.seed, self.request.prompt.id, self.sample)

    @property
    def column(self) -> int:
        """Where the newest token's keys and values belong: its position."""
        return len(self.request.prompt.ids) + len(self.ids) - 1

    def append(self, token: int, decode: Decode | None) -> Progress:
        """Take the next token; the answer may end with it."""
        if token in self.request.stop_ids:
            self.finish_reason = "stop"
            return Progress(self.number, None, "stop")
        self.ids.append(token)
        stops, limit = self.request.sampling.stop, self.request.sampling.max_new_tokens
        if stops:
            assert decode is not None
            self.text = text_before(stops, self.ids, decode)
        if self.text is not None:
            self.finish_reason = "stop"
        elif len(self.ids) == limit:
            self.finish_reason = "length"
        return Progress(self.number, token, self.finish_reason)

    def answer(self) -> GeneratedAnswer:
        """What there is of it; an answer that has not ended is given up."""
        return GeneratedAnswer(self.ids, self.finish_reason or "abort", self.text)


def text_before(stops: Sequence[str], ids: Sequence[int], decode: Decode) -> str | None:
    """Return the text before the first stop text that the newest token completes, None where it completes none.

    A stop text of n characters lies within the last tokens that have n bytes or more, as none is shorter than a byte; only
    these are looked at, so that long answers cost no more than short ones.
    """
    reach = 4 * max(map(len, stops)) + 8
    tail = decode(ids[-reach:])
    if not any(stop in tail for stop in stops):
        return None
    text = decode(ids)
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else None
