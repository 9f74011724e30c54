"""Claude through Anthropic's Messages API and its own library. One call is one attempt."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any, Literal

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.clients.addresses import check_address
from nemo_mm_align.llm.clients.api_key import conceal, key_for_calls, refuse_secrets
from nemo_mm_align.llm.clients.base import ServiceClient
from nemo_mm_align.llm.clients.endings import failure_of_ending
from nemo_mm_align.llm.clients.http_failures import count_of, failure_of_exception, retry_after
from nemo_mm_align.llm.clients.httpx_bridge import bounded_client
from nemo_mm_align.llm.clients.question_images import RequestImage, loaded_parts
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.price import PriceSettings
from nemo_mm_align.llm.question import Answer, Question
from nemo_mm_align.llm.refusals import kind_of_error

try:
    import anthropic
    import httpx2
except ImportError as error:
    raise UserError(
        f"judge=anthropic needs the package anthropic ({error}). Install it: pip install anthropic==2.14.0 -c "
        "constraints.txt (the extra nemo_mm_align[anthropic])."
    ) from None

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")

COUNTED = ("thinking", "tools", "tool_choice")
"""Of further fields, those that counting tokens takes."""

SERVICE = "https://api.anthropic.com"
"""Where calls go unless `base_url` says otherwise; the library's own variables for it do not count."""


class Anthropic(ServiceClient):
    """A model behind ``POST <base_url>/v1/messages``.

    Args:
        model: name such as ``claude-sonnet-4-5``.
        temperature, top_p: of sampling, for models that still take them; None leaves it to the service.
        max_output_tokens: limit of a reply, thinking included.
        response_format: ``json_schema`` binds the reply to the question's schema; None, for models that cannot, asks in words.
        extra_body: further fields of every request, as the service documents them (``thinking``); they enter the key.
        timeout_s: seconds after which a call is given up, from connecting to the last byte of the reply.
        base_url: another address of the service (a proxy, a test server).
        api_key_variable: environment variable with the key.
        api_key_file: file with the key, instead of the variable.
        price: what tokens cost, as `Price` has it, or None.
    """

    def __init__(
        self,
        model: str,
        temperature: float | None = None,
        top_p: float | None = None,
        max_output_tokens: int = 8192,
        response_format: Literal["json_schema"] | None = "json_schema",
        extra_body: Mapping[str, Any] | None = None,
        timeout_s: float = 120.0,
        base_url: str | None = None,
        api_key_variable: str = "ANTHROPIC_API_KEY",
        api_key_file: str | None = None,
        price: PriceSettings = None,
    ) -> None:
        key = key_for_calls(api_key_file, (api_key_variable,), "Anthropic")
        super().__init__(model, max_output_tokens, timeout_s, key, price)
        if os.environ.get("ANTHROPIC_CUSTOM_HEADERS"):
            raise UserError(
                "ANTHROPIC_CUSTOM_HEADERS is set: the library would send these headers, keys among them, with every question. "
                "Unset it for this command."
            )
        taken = {"model", "messages", "system", "stream", "max_tokens"} & set(extra_body or {})
        if taken:
            raise UserError(f"judge.extra_body sets {', '.join(sorted(taken))}, which this client sets itself.")
        refuse_secrets(extra_body, "judge.extra_body")
        self._decoding = {"temperature": temperature, "top_p": top_p}
        self._response_format, self._extra_body = response_format, dict(extra_body or {})
        self._base_url = (
            check_address(base_url or SERVICE, "judge.base_url").removesuffix("/v1/messages").removesuffix("/v1")
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """Model and decoding; not the token limit: a reply that fitted is the same under a higher one."""
        format_of = {"response_format": self._response_format, "extra_body": self._extra_body}
        return {"model": self.name, **self._decoding, **format_of}

    def count_tokens(self, question: Question) -> int | None:
        """Return the input tokens as the service counts them, or raise `CallFailure`; None without a key."""
        if self._key is None:
            return None
        message = self._message(question)
        extra = {name: value for name, value in message["extra_body"].items() if name in COUNTED}
        asked = {name: value for name, value in message.items() if name != "max_tokens"} | {"extra_body": extra}
        try:
            return int(self._library().messages.count_tokens(**asked).input_tokens)
        except Exception as error:
            raise conceal(_failure(error), self._key) from None

    def batch_request(self, key: str, question: Question) -> dict[str, Any]:
        """Return a request of a message batch."""
        message = self._message(question)
        others = message.pop("extra_body")
        return {"custom_id": key, "params": {**message, **others}}

    def batch_key(self, line: Mapping[str, Any]) -> str | None:
        """Return the key of a line of a batch's results, if it has one."""
        return line.get("custom_id")

    def batch_answer(self, line: Mapping[str, Any]) -> Answer:
        """Return the answer in a line of a batch's results, or raise `CallFailure`."""
        return self._guarded(lambda: read_batch_line(line))

    def _message(self, question: Question) -> dict[str, Any]:
        schema = question.response_schema if self._response_format else None
        sampling = {name: value for name, value in self._decoding.items() if value is not None}
        others = {name: value for name, value in self._extra_body.items() if name != "output_config"}
        form = {} if schema is None else {"format": _format(schema)}
        config = {**self._extra_body.get("output_config", {}), **form}
        return {
            "model": self.name,
            "max_tokens": question.limit(self.max_output_tokens),
            "messages": [{"role": "user", "content": [_block(part) for part in loaded_parts(question, IMAGE_TYPES)]}],
            **({"system": question.instructions} if question.instructions else {}),
            **({"output_config": config} if config else {}),
            "extra_body": {**sampling, **others},  # the library names no parameters of sampling any more
        }

    def _send(self, message: Mapping[str, Any]) -> Answer:
        try:
            response = self._library().messages.with_raw_response.create(**message)
        except Exception as error:
            raise _failure(error) from None
        text = response.http_response.text
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CallFailure("server", f"the reply is no JSON ({error})", text) from None
        return read_message(body, message["max_tokens"] < self.max_output_tokens)

    def _make_library(self) -> anthropic.Anthropic:
        return anthropic.Anthropic(
            api_key=self._secret(),
            base_url=self._base_url,
            timeout=self._timeout_s,
            max_retries=0,
            open_telemetry=False,
            http_client=bounded_client(httpx2, self._timeout_s, self._base_url),
        )


STATUS_OF_ERROR = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Errors in batch results have types, no statuses."""


def read_batch_line(line: Mapping[str, Any]) -> Answer:
    """Return the answer in a line of a batch's results; raise `CallFailure` where it holds none."""
    result = line.get("result") or {}
    if result.get("type") == "succeeded":
        return read_message(result["message"])
    error = (result.get("error") or {}).get("error") or {}
    raw, kind = json.dumps(line, ensure_ascii=False), str(error.get("type", result.get("type", "no result")))
    message = f"{kind}: {error.get('message', 'not answered')}"
    status = STATUS_OF_ERROR.get(kind, 500)  # expired and cancelled ones were not asked at all
    raise CallFailure(kind_of_error(status, message), message, raw)


def read_message(body: Any, may_be_cut: bool = False) -> Answer:
    """Return the answer in a message of the service; raise `CallFailure` where it holds none.

    Args:
        may_be_cut: the end of the tokens is a natural one: the question had a limit of its own.
    """
    raw = json.dumps(body, ensure_ascii=False)
    try:
        blocks = [block for block in body["content"] if block["type"] == "text"]
        text, reason = "".join(block["text"] for block in blocks), str(body.get("stop_reason") or "")
        usage = _usage(body.get("usage") or {})
    except (AttributeError, KeyError, TypeError):
        raise CallFailure("server", "the reply is no message", raw) from None
    kind, message = failure_of_ending(reason)
    if kind is not None and not (may_be_cut and kind == "truncated"):
        raise CallFailure(kind, message, raw, usage=usage)
    return Answer(text, usage, str(body.get("model") or ""))


def _usage(usage: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens; what is read from or written to a cache is part of the question."""
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    asked, answered = sum(count_of(usage.get(name)) for name in names), count_of(usage.get("output_tokens"))
    return {"input_tokens": asked, "output_tokens": answered} if asked or answered else {}


def _block(part: str | RequestImage) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    data = base64.b64encode(part.data).decode("ascii")
    return {"type": "image", "source": {"type": "base64", "media_type": part.mime_type, "data": data}}


def _format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the format of a bound reply; bounds that the service cannot hold become descriptions."""
    return {"type": "json_schema", "schema": anthropic.transform_schema(json.loads(json.dumps(schema)))}


def _failure(error: Exception) -> CallFailure:
    """Return the failure for an exception of the library."""
    if isinstance(error, anthropic.APIStatusError):
        text = error.response.text
        kind = kind_of_error(error.status_code, f"{error.type or ''} {error.api_message or text}")
        message = f"HTTP {error.status_code}: {error.api_message or text[:200]}"
        return CallFailure(kind, message, text, retry_after(error.response.headers))
    cause = error.__cause__ if isinstance(error, anthropic.APIConnectionError) else None
    return failure_of_exception(cause if isinstance(cause, Exception) else error)
