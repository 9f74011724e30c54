"""One question to a language model, with text and images, and its answer: what every client takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class QuestionImage:
    """An image of a question, sent as the bytes that its file holds.

    Args:
        path: the file.
        sha256: of its bytes as they were checked (hex); "" where any bytes will do.
    """

    path: Path
    sha256: str = ""


@dataclass(frozen=True)
class Question:
    """What a model is asked, in no service's own form.

    Args:
        instructions: the system turn; "" for none.
        parts: the user's turn, text and images in order.
        response_schema: JSON schema of the reply; None: text as it comes. What all services can hold: a ``type`` for everything,
            objects whose properties are all required, arrays with ``items`` (``minItems``, ``maxItems``), strings (``enum``),
            integers, numbers, booleans, and a ``description``.
        response_name: what the reply is called where a service wants a name for it.
        top_logprobs: how many alternatives of the reply's first token are wanted, with their log-probabilities; 0: none. Not
            every client can say them, see `check_probabilities`.
        max_output_tokens: tokens after which the reply is to end, where the question needs fewer than the client allows; a reply
            that was cut there is a whole one. None: the client's own limit, and a reply that reaches it is a failure.
    """

    instructions: str
    parts: tuple[str | QuestionImage, ...]
    response_schema: Mapping[str, Any] | None = None
    response_name: str = "answer"
    top_logprobs: int = 0
    max_output_tokens: int | None = None

    def limit(self, of_client: int) -> int:
        """Return after how many tokens the reply ends: the smaller of the question's limit and the client's."""
        return of_client if self.max_output_tokens is None else min(self.max_output_tokens, of_client)

    @property
    def images(self) -> tuple[QuestionImage, ...]:
        """The images in order."""
        return tuple(part for part in self.parts if isinstance(part, QuestionImage))

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts, the instructions first."""
        return (self.instructions, *(part for part in self.parts if isinstance(part, str)))


@dataclass(frozen=True)
class Answer:
    """A whole reply.

    Args:
        text: what the model said, without thoughts that the service marks as such.
        usage: token counts such as ``{"input_tokens": 700, "output_tokens": 180}``; empty where the service says nothing.
        model_version: what the service says it answered with, if it does.
        top_logprobs: (token, natural logarithm of its probability) of the alternatives for the reply's first token, the most
            likely first, where they were asked for; empty where the service says nothing.
    """

    text: str
    usage: Mapping[str, int] = field(default_factory=dict)
    model_version: str = ""
    top_logprobs: tuple[tuple[str, float], ...] = ()
