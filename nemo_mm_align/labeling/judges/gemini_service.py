"""What judges of the Gemini service share: message, reply, failures, batch lines. A subclass brings the client."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from nemo_mm_align.keys import GOOGLE_KEYS
from nemo_mm_align.labeling.judge import JudgeFailure, JudgeReply, JudgeRequest
from nemo_mm_align.labeling.judges.api_key import checked_for_key, conceal, read_api_key
from nemo_mm_align.labeling.judges.gemini_messages import Decoding, GeminiMessage, build_message
from nemo_mm_align.labeling.judges.gemini_replies import read_batch_reply, read_reply
from nemo_mm_align.labeling.judges.transport import check_timeout
from nemo_mm_align.labeling.rubric import INSTRUCTIONS, rubric_fingerprint
from nemo_mm_align.labeling.running.pricing import PriceSettings, read_price


class GeminiService(ABC):
    """A Gemini model that rates candidates. One call is one attempt, with a client of its own per thread.

    Args:
        decoding: model and how it answers.
        timeout_s: seconds after which a call is given up, from connecting to the last byte of the reply.
        api_endpoint: another address of the service (a proxy, a test server).
        api_key_file: file with the key; without one the environment's GEMINI_API_KEY, then GOOGLE_API_KEY count.
        price: what tokens cost, as `Price` has it, or None.
    """

    reads_metadata = False

    def __init__(
        self,
        decoding: Decoding,
        timeout_s: float,
        api_endpoint: str | None,
        api_key_file: str | None,
        price: PriceSettings,
    ) -> None:
        self.name = decoding.model
        self.price = read_price(price)
        self.max_output_tokens = decoding.max_output_tokens
        self._decoding, self._timeout_s, self._api_endpoint = decoding, check_timeout(timeout_s), api_endpoint
        self._key = read_api_key(api_key_file, GOOGLE_KEYS, "Gemini")
        self._local = threading.local()

    @property
    def settings(self) -> Mapping[str, Any]:
        """Model, decoding and rubric. Which client asks changes nothing: both share their judgements."""
        return {**self._decoding.settings, "rubric": rubric_fingerprint(), "rubric_text": INSTRUCTIONS}

    def judge(self, request: JudgeRequest) -> JudgeReply:
        """Ask once; raise `JudgeFailure` of any kind, its texts without the key."""
        message = build_message(request, self._decoding)
        try:
            return checked_for_key(self._ask(message, request), self._key)
        except JudgeFailure as failure:
            raise conceal(failure, self._key) from None

    def count_tokens(self, request: JudgeRequest) -> int | None:
        """Return the input tokens as the service counts them, or raise `JudgeFailure`."""
        message = build_message(request, self._decoding)
        try:
            return self._count(self._client(), message)
        except Exception as error:
            raise conceal(self._failure(error), self._key) from None

    def batch_request(self, key: str, request: JudgeRequest) -> dict[str, Any]:
        """Return a line of the service's batch file."""
        return {"key": key, "request": build_message(request, self._decoding).to_json()}

    def batch_key(self, line: Mapping[str, Any]) -> str | None:
        """Return the key of a line of a batch's result file, if it has one."""
        return line.get("key")

    def batch_reply(self, line: Mapping[str, Any], request: JudgeRequest) -> JudgeReply:
        """Return the judgement in a line of a batch's result file, or raise `JudgeFailure`."""
        return read_batch_reply(line, request)

    def _ask(self, message: GeminiMessage, request: JudgeRequest) -> JudgeReply:
        try:
            response = self._generate(self._client(), message)
        except Exception as error:  # the clients let exceptions of several libraries through
            raise self._failure(error) from None
        return read_reply(response, request)

    @abstractmethod
    def _make_client(self) -> Any:
        """Return a new client, for one thread."""

    @abstractmethod
    def _generate(self, client: Any, message: GeminiMessage) -> Mapping[str, Any]:
        """Make one call and return the reply as REST JSON."""

    @abstractmethod
    def _count(self, client: Any, message: GeminiMessage) -> int:
        """Return the tokens of a message as the service counts them."""

    @abstractmethod
    def _failure(self, error: Exception) -> JudgeFailure:
        """Return the failure for an exception of the client."""

    def _client(self) -> Any:
        """Return this thread's client: its connection is not made for several threads."""
        if not hasattr(self._local, "client"):
            self._local.client = self._make_client()
        return self._local.client
