"""From a `Question` to what the Gemini service is sent, whichever client sends it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.clients.question_images import RequestImage, loaded_parts
from nemo_mm_align.llm.question import Question

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
SAFETY_THRESHOLDS = ("BLOCK_NONE", "BLOCK_ONLY_HIGH", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_LOW_AND_ABOVE")
SAFETY_CATEGORIES = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")


@dataclass(frozen=True)
class Decoding:
    """How the model answers; None leaves a value to the service.

    Args:
        model: name such as ``gemini-2.5-flash``.
        temperature, top_p: of sampling.
        max_output_tokens: limit of a reply, thinking included.
        safety_threshold: one of `SAFETY_THRESHOLDS`, for all categories.
        thinking_budget: tokens of thinking: 0 for none, -1 for as many as the model likes.
        media_resolution: ``low``, ``medium`` or ``high``: how many tokens an image becomes.
    """

    model: str
    temperature: float | None
    top_p: float | None
    max_output_tokens: int
    safety_threshold: str | None
    thinking_budget: int | None = None
    media_resolution: str | None = None

    def __post_init__(self) -> None:
        threshold = self.safety_threshold
        if threshold is not None and threshold not in SAFETY_THRESHOLDS:
            raise UserError(f"judge.safety_threshold={threshold!r} is none of {', '.join(SAFETY_THRESHOLDS)}.")
        if self.media_resolution not in (None, "low", "medium", "high"):
            raise UserError(f"judge.media_resolution={self.media_resolution!r} is none of low, medium, high.")

    @property
    def settings(self) -> dict[str, Any]:
        """What changes a reply; not the token limit: a reply that fitted is the same under a higher one.

        Thinking and resolution stand in it only where they are set, so that both clients share their judgements.
        """
        always = {
            "model": self.model,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "safety_threshold": self.safety_threshold,
        }
        others = {"thinking_budget": self.thinking_budget, "media_resolution": self.media_resolution}
        return {**always, **{name: value for name, value in others.items() if value is not None}}


@dataclass(frozen=True)
class GeminiMessage:
    """A request in the service's terms, images as bytes.

    Args:
        instructions: the system instruction; "" for none.
        parts: the user's turn, text and images in order.
        generation: the generation config by its REST names, without the schema; values that are None are left out.
        schema: the reply's schema in the service's form; None for text as it comes.
        safety: category and threshold of each safety setting.
    """

    instructions: str
    parts: tuple[str | RequestImage, ...]
    generation: dict[str, Any]
    schema: dict[str, Any] | None
    safety: tuple[dict[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the body of a ``generateContent`` request as REST and batch files have it."""
        schema = {} if self.schema is None else {"responseSchema": self.schema}
        return {
            **({"systemInstruction": {"parts": [{"text": self.instructions}]}} if self.instructions else {}),
            "contents": [{"role": "user", "parts": [_part_json(part) for part in self.parts]}],
            "generationConfig": {**self.generation, **schema},
            **({"safetySettings": list(self.safety)} if self.safety else {}),
        }


def build_message(question: Question, decoding: Decoding) -> GeminiMessage:
    """Return the message: images inline, the reply bound to the question's schema if it has one.

    Raises:
        CallFailure: ``input`` where an image has gone or changed into something else.
    """
    schema = question.response_schema
    categories = SAFETY_CATEGORIES if decoding.safety_threshold else ()
    return GeminiMessage(
        instructions=question.instructions,
        parts=loaded_parts(question, IMAGE_TYPES),
        generation=_generation(decoding, question),
        schema=None if schema is None else to_schema(schema),
        safety=tuple(
            {"category": f"HARM_CATEGORY_{name}", "threshold": str(decoding.safety_threshold)} for name in categories
        ),
    )


def to_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON schema in the service's own form, which is the one that its batches understand as well.

    It is given no numeric bounds: the parser checks those.
    """
    result: dict[str, Any] = {"type": schema["type"].upper()}
    if "description" in schema:
        result["description"] = schema["description"]
    if "enum" in schema:
        result["enum"] = list(schema["enum"])
    if "properties" in schema:
        result["properties"] = {name: to_schema(value) for name, value in schema["properties"].items()}
        result["required"] = list(schema.get("required", schema["properties"]))
    if "items" in schema:
        result["items"] = to_schema(schema["items"])
        result |= {name: schema[name] for name in ("minItems", "maxItems") if name in schema}
    return result


def _generation(decoding: Decoding, question: Question) -> dict[str, Any]:
    resolution, thinking = decoding.media_resolution, decoding.thinking_budget
    values = {
        "temperature": decoding.temperature,
        "topP": decoding.top_p,
        "maxOutputTokens": question.limit(decoding.max_output_tokens),
        "responseMimeType": None if question.response_schema is None else "application/json",
        "thinkingConfig": None if thinking is None else {"thinkingBudget": thinking},
        "mediaResolution": None if resolution is None else f"MEDIA_RESOLUTION_{resolution.upper()}",
        "responseLogprobs": True if question.top_logprobs else None,
        "logprobs": question.top_logprobs or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _part_json(part: str | RequestImage) -> dict[str, Any]:
    if isinstance(part, str):
        return {"text": part}
    return {"inlineData": {"mimeType": part.mime_type, "data": base64.b64encode(part.data).decode("ascii")}}
