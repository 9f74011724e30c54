"""From a `JudgeRequest` to the message that the Gemini service takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.errors import UserError
from nemo_mm_align.images import read_image_bytes
from nemo_mm_align.labeling.gemini_client import protos
from nemo_mm_align.labeling.judge import JudgeFailure, JudgeRequest
from nemo_mm_align.labeling.rubric import build_judge_prompt

SAFETY_THRESHOLDS = ("BLOCK_NONE", "BLOCK_ONLY_HIGH", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_LOW_AND_ABOVE")
SAFETY_CATEGORIES = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")


@dataclass(frozen=True)
class Decoding:
    """How the model answers; None leaves a value to the service. Arguments as in `GeminiJudge`."""

    model: str
    temperature: float | None
    top_p: float | None
    max_output_tokens: int
    safety_threshold: str | None


def build_message(request: JudgeRequest, decoding: Decoding) -> Any:
    """Return the ``GenerateContentRequest``: rubric as system instruction, images inline, reply bound to a schema.

    Raises:
        JudgeFailure: ``bad_request`` where an image has gone or changed into something else.
    """
    prompt = build_judge_prompt(request)
    config = {
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "max_output_tokens": decoding.max_output_tokens,
        "response_mime_type": "application/json",
        "response_schema": to_schema(prompt.response_schema),
    }
    return protos.GenerateContentRequest(
        model=f"models/{decoding.model}",
        system_instruction=protos.Content(parts=[protos.Part(text=prompt.instructions)]),
        contents=[protos.Content(role="user", parts=[to_part(part) for part in prompt.parts])],
        generation_config=protos.GenerationConfig({name: value for name, value in config.items() if value is not None}),
        safety_settings=_safety_settings(decoding.safety_threshold),
    )


def _safety_settings(threshold: str | None) -> list[Any]:
    categories = SAFETY_CATEGORIES if threshold else ()
    return [protos.SafetySetting(category=f"HARM_CATEGORY_{name}", threshold=threshold) for name in categories]


def to_part(part: str | Path) -> Any:
    """Return text as it is and an image as its original bytes: nothing is decoded and encoded again."""
    if isinstance(part, str):
        return protos.Part(text=part)
    try:
        data, mime_type = read_image_bytes(part)
    except UserError as error:
        raise JudgeFailure("bad_request", str(error)) from None
    return protos.Part(inline_data=protos.Blob(mime_type=mime_type, data=data))


def to_schema(schema: Mapping[str, Any]) -> Any:
    """Return a JSON schema in the service's form, which knows no numeric bounds (the parser checks those)."""
    fields: dict[str, Any] = {"type_": schema["type"].upper(), "description": schema.get("description", "")}
    if "properties" in schema:
        fields["properties"] = {name: to_schema(value) for name, value in schema["properties"].items()}
        fields["required"] = schema["required"]
    if "items" in schema:
        fields.update(items=to_schema(schema["items"]), min_items=schema["minItems"], max_items=schema["maxItems"])
    return protos.Schema(**fields)
