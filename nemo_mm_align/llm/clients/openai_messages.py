"""From a `Question` to the body of a chat completion, as OpenAI-compatible services take it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.clients.api_key import refuse_secrets
from nemo_mm_align.llm.clients.question_images import RequestImage, loaded_parts
from nemo_mm_align.llm.question import Question

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
LIMITS = ("max_tokens", "max_completion_tokens")
FORMATS = ("json_schema", "json_object", None)


@dataclass(frozen=True)
class ChatSettings:
    """How the model answers; arguments as in `OpenAICompatible`."""

    model: str
    temperature: float | None = 0.0
    top_p: float | None = None
    seed: int | None = None
    max_output_tokens: int = 8192
    max_tokens_parameter: str = "max_tokens"
    response_format: str | None = "json_schema"
    extra_body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_tokens_parameter not in LIMITS:
            raise UserError(f"judge.max_tokens_parameter={self.max_tokens_parameter!r} is none of {', '.join(LIMITS)}.")
        if self.response_format not in FORMATS:
            raise UserError(
                f"judge.response_format={self.response_format!r} is none of json_schema, json_object, null."
            )
        taken = {"model", "messages", "stream", "n", *LIMITS} & set(self.extra_body)
        if taken:
            raise UserError(f"judge.extra_body sets {', '.join(sorted(taken))}, which this client sets itself.")
        refuse_secrets(self.extra_body, "judge.extra_body")

    @property
    def settings(self) -> dict[str, Any]:
        """What changes a reply; not the token limit: a reply that fitted is the same under a higher one."""
        return {
            "model": self.model,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "response_format": self.response_format,
            "extra_body": self.extra_body,
        }


def build_body(question: Question, chat: ChatSettings) -> dict[str, Any]:
    """Return the body: instructions as system message, text and images as the user's, images as data URLs.

    Raises:
        CallFailure: ``input`` where an image has gone or changed into something else.
    """
    parts = [_part(part) for part in loaded_parts(question, IMAGE_TYPES)]
    system = [{"role": "system", "content": question.instructions}] if question.instructions else []
    decoding = {"temperature": chat.temperature, "top_p": chat.top_p, "seed": chat.seed}
    return {
        "model": chat.model,
        "messages": [*system, {"role": "user", "content": parts}],
        **{name: value for name, value in decoding.items() if value is not None},
        chat.max_tokens_parameter: question.limit(chat.max_output_tokens),
        **({"logprobs": True, "top_logprobs": question.top_logprobs} if question.top_logprobs else {}),
        **_response_format(chat.response_format, question),
        **chat.extra_body,
    }


def _part(part: str | RequestImage) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = f"data:{part.mime_type};base64,{base64.b64encode(part.data).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url}}


def _response_format(kind: str | None, question: Question) -> dict[str, Any]:
    if kind is None or question.response_schema is None:
        return {}
    if kind == "json_object":
        return {"response_format": {"type": kind}}
    named = {"name": question.response_name, "strict": True, "schema": _strict(question.response_schema)}
    return {"response_format": {"type": kind, "json_schema": named}}


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON schema whose objects take no further properties, which strict mode asks for."""
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        result["additionalProperties"] = False
    if "items" in schema:
        result["items"] = _strict(schema["items"])
    return result
