"""What a client of a language model is: it asks one question once and returns the answer, or says how that failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.price import Price
from nemo_mm_align.llm.question import Answer, Question


@runtime_checkable
class Asks(Protocol):
    """What tells a client from a judge."""

    def ask(self, question: Question) -> Answer:
        """Return a whole answer, or raise `CallFailure`."""

    def hide(self, text: str) -> str:
        """Return a text without what must not be written down: the API key, in any spelling."""


class LanguageModel(Asks, Protocol):
    """A model behind some interface. `ask` is called from several threads at once; retries are the runner's."""

    @property
    def name(self) -> str:
        """What its answers are recorded under, for example ``gemini-2.5-flash``."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside the question that can change an answer (model, decoding), as JSON values; no secret.

        It enters the key under which an answer is kept: a client with other settings is asked anew.
        """

    @property
    def price(self) -> Price | None:
        """What its tokens cost, if the user said so."""

    @property
    def max_output_tokens(self) -> int | None:
        """The most tokens that one reply can cost, thinking included; None without such a limit."""


@runtime_checkable
class CountsTokens(Protocol):
    """A client whose service says beforehand how long a question is."""

    def count_tokens(self, question: Question) -> int | None:
        """Return the input tokens of a question, images included; asking costs nothing.

        None where the service cannot say. It is called from several threads at once and may raise `CallFailure`.
        """


@runtime_checkable
class TellsProbabilities(Protocol):
    """A client that can say how likely the alternatives of a reply's first token were (`Answer.top_logprobs`)."""

    @property
    def most_top_logprobs(self) -> int:
        """How many alternatives the service gives at most; 0: none at all."""


def check_probabilities(client: object, question: Question, name: str = "") -> None:
    """Raise `UserError` where a question wants token probabilities that a client cannot give.

    Args:
        name: of the client, for the message; by default its own.
    """
    if not question.top_logprobs:
        return
    most = client.most_top_logprobs if isinstance(client, TellsProbabilities) else 0
    if question.top_logprobs > most:
        can = f"gives at most {most} token probabilities" if most else "gives no token probabilities"
        raise UserError(
            f"judge {name or getattr(client, 'name', type(client).__name__)} {can}, and {question.top_logprobs} are asked for. "
            f"Set top_logprobs={most} in the task{'' if most else ' (its figures then rest on the letter that is chosen)'}, or "
            "choose a judge that gives them (judge=openai_compatible, judge=google_genai)."
        )


@runtime_checkable
class TakesBatches(Protocol):
    """A client whose service answers many questions at once within a day, at a lower price."""

    def batch_request(self, key: str, question: Question) -> dict[str, Any]:
        """Return the line of a batch file that asks a question; `CallFailure` where an image has gone."""

    def batch_key(self, line: Mapping[str, Any]) -> str | None:
        """Return the key of a line of replies, None where it has none."""

    def batch_answer(self, line: Mapping[str, Any]) -> Answer:
        """Return the answer in a line of replies; raise `CallFailure` as a call would."""
