"""What clients of the Gemini service share: message, reply, failures, batch lines. A subclass brings the library."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.core.credentials import GOOGLE_KEYS
from nemo_mm_align.llm.clients.api_key import conceal, key_for_calls
from nemo_mm_align.llm.clients.base import ServiceClient
from nemo_mm_align.llm.clients.gemini_messages import Decoding, GeminiMessage, build_message
from nemo_mm_align.llm.clients.gemini_replies import read_batch_reply, read_reply
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.price import PriceSettings
from nemo_mm_align.llm.question import Answer, Question


class GeminiService(ServiceClient):
    """A Gemini model. One call is one attempt, with a library's client of its own per thread.

    Args:
        decoding: model and how it answers.
        timeout_s: seconds after which a call is given up, from connecting to the last byte of the reply.
        api_endpoint: another address of the service (a proxy, a test server).
        api_key_file: file with the key; without one the environment's GEMINI_API_KEY, then GOOGLE_API_KEY count.
        price: what tokens cost, as `Price` has it, or None.
    """

    most_top_logprobs = 20

    def __init__(
        self,
        decoding: Decoding,
        timeout_s: float,
        api_endpoint: str | None,
        api_key_file: str | None,
        price: PriceSettings,
    ) -> None:
        key = key_for_calls(api_key_file, GOOGLE_KEYS, "Gemini")
        super().__init__(decoding.model, decoding.max_output_tokens, timeout_s, key, price)
        self._decoding, self._api_endpoint = decoding, api_endpoint

    @property
    def settings(self) -> Mapping[str, Any]:
        """Model and decoding. Which library asks changes nothing: both share their answers."""
        return self._decoding.settings

    def count_tokens(self, question: Question) -> int | None:
        """Return the input tokens as the service counts them, or raise `CallFailure`; None without a key."""
        if self._key is None:
            return None
        message = self._message(question)
        try:
            return self._count(self._library(), message)
        except Exception as error:
            raise conceal(self._failure(error), self._key) from None

    def batch_request(self, key: str, question: Question) -> dict[str, Any]:
        """Return a line of the service's batch file."""
        return {"key": key, "request": self._message(question).to_json()}

    def batch_key(self, line: Mapping[str, Any]) -> str | None:
        """Return the key of a line of a batch's result file, if it has one."""
        return line.get("key")

    def batch_answer(self, line: Mapping[str, Any]) -> Answer:
        """Return the answer in a line of a batch's result file, or raise `CallFailure`."""
        return self._guarded(lambda: read_batch_reply(line))

    def _message(self, question: Question) -> GeminiMessage:
        return build_message(question, self._decoding)

    def _send(self, message: GeminiMessage) -> Answer:
        try:
            response = self._generate(self._library(), message)
        except Exception as error:  # the libraries let exceptions of several others through
            raise self._failure(error) from None
        return read_reply(response, message.generation["maxOutputTokens"] < self._decoding.max_output_tokens)

    @abstractmethod
    def _generate(self, client: Any, message: GeminiMessage) -> Mapping[str, Any]:
        """Make one call and return the reply as REST JSON."""

    @abstractmethod
    def _count(self, client: Any, message: GeminiMessage) -> int:
        """Return the tokens of a message as the service counts them."""

    @abstractmethod
    def _failure(self, error: Exception) -> CallFailure:
        """Return the failure for an exception of the client."""
