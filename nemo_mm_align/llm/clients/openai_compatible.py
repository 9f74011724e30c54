"""Any service with OpenAI's chat completions: vLLM, SGLang, llama.cpp, hosted ones. A call is one attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from nemo_mm_align.llm.clients.addresses import check_address
from nemo_mm_align.llm.clients.api_key import key_for_calls
from nemo_mm_align.llm.clients.base import ServiceClient
from nemo_mm_align.llm.clients.endpoint import Endpoint
from nemo_mm_align.llm.clients.openai_messages import ChatSettings, build_body
from nemo_mm_align.llm.clients.openai_replies import read_batch_reply, read_reply
from nemo_mm_align.llm.price import PriceSettings
from nemo_mm_align.llm.question import Answer, Question

BATCH_URL = "/v1/chat/completions"


MOST_TOP_LOGPROBS = 20
"""What OpenAI allows, and vLLM unless it is started with another --max-logprobs."""


class OpenAICompatible(ServiceClient):
    """A model behind ``POST <base_url>/chat/completions``.

    Args:
        base_url: with its version, for example ``http://127.0.0.1:8000/v1``.
        model: as the service calls it.
        temperature, top_p, seed: decoding; None leaves the service's default.
        max_output_tokens: limit of a reply, thinking included.
        max_tokens_parameter: how the service calls that limit: ``max_tokens`` or ``max_completion_tokens``.
        response_format: ``json_schema`` binds the reply to the schema, ``json_object`` to JSON, None asks in words only.
        extra_body: further fields of every request, as the service documents them; they enter the content key.
        timeout_s: seconds after which a call is given up, from connecting to the last byte of the reply.
        api_key_variable: environment variable with the key; None for a service that wants none.
        api_key_file: file with the key, instead of the variable.
        price: what tokens cost, as `Price` has it, or None.
    """

    most_top_logprobs = MOST_TOP_LOGPROBS

    def __init__(
        self,
        base_url: str,
        model: str,
        temperature: float | None = 0.0,
        top_p: float | None = None,
        seed: int | None = None,
        max_output_tokens: int = 8192,
        max_tokens_parameter: str = "max_tokens",
        response_format: str | None = "json_schema",
        extra_body: Mapping[str, Any] | None = None,
        timeout_s: float = 120.0,
        api_key_variable: str | None = "OPENAI_API_KEY",
        api_key_file: str | None = None,
        price: PriceSettings = None,
    ) -> None:
        url = f"{check_address(base_url, 'judge.base_url').removesuffix('/chat/completions')}/chat/completions"
        decoding = (temperature, top_p, seed, max_output_tokens, max_tokens_parameter)
        self._chat = ChatSettings(model, *decoding, response_format, dict(extra_body or {}))
        key: SecretStr | None = None
        if api_key_file is not None or api_key_variable is not None:
            service = f"{base_url} (if it wants none: judge.api_key_variable=null)"
            key = key_for_calls(api_key_file, (api_key_variable or "",), service)
        super().__init__(model, max_output_tokens, timeout_s, key, price)
        self._endpoint = Endpoint(url, self._key, self._timeout_s)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Model and decoding. Not the address: a served model moves from host to host."""
        return self._chat.settings

    def batch_request(self, key: str, question: Question) -> dict[str, Any]:
        """Return a line of OpenAI's batch file."""
        return {"custom_id": key, "method": "POST", "url": BATCH_URL, "body": self._message(question)}

    def batch_key(self, line: Mapping[str, Any]) -> str | None:
        """Return the key of a line of a batch's output or error file, if it has one."""
        return line.get("custom_id")

    def batch_answer(self, line: Mapping[str, Any]) -> Answer:
        """Return the answer in a line of a batch's output or error file, or raise `CallFailure`."""
        return self._guarded(lambda: read_batch_reply(line))

    def _message(self, question: Question) -> dict[str, Any]:
        return build_body(question, self._chat)

    def _send(self, message: Mapping[str, Any]) -> Answer:
        text = self._endpoint.post(message)
        return read_reply(text, message[self._chat.max_tokens_parameter] < self._chat.max_output_tokens)
