"""Gemini through the google-genai client (google-generativeai's successor). One call is one attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.clients.gemini_messages import Decoding, GeminiMessage
from nemo_mm_align.llm.clients.gemini_replies import failure_of_status
from nemo_mm_align.llm.clients.gemini_service import GeminiService
from nemo_mm_align.llm.clients.http_failures import failure_of_exception
from nemo_mm_align.llm.clients.httpx_bridge import bounded_client
from nemo_mm_align.llm.clients.question_images import RequestImage
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.price import PriceSettings

try:
    import httpx
    from google import genai
    from google.genai import errors, types
except ImportError as error:
    raise UserError(
        f"judge=google_genai needs the package google-genai ({error}). Install it: pip install google-genai==2.34.0 "
        "-c constraints.txt (the extra nemo_mm_align[google-genai]), or choose judge=gemini."
    ) from None

SDK_FIELDS = {"sdk_http_response", "automatic_function_calling_history"}
"""What the client adds to a reply."""

SERVICE = "https://generativelanguage.googleapis.com"
"""Where the client sends its calls by itself."""


class GoogleGenai(GeminiService):
    """A Gemini model; arguments as in `Decoding` and `GeminiService`."""

    def __init__(
        self,
        model: str,
        temperature: float | None = 0.0,
        top_p: float | None = None,
        max_output_tokens: int = 8192,
        safety_threshold: str | None = None,
        thinking_budget: int | None = None,
        media_resolution: str | None = None,
        timeout_s: float = 120.0,
        api_endpoint: str | None = None,
        api_key_file: str | None = None,
        price: PriceSettings = None,
    ) -> None:
        sampling = (temperature, top_p, max_output_tokens, safety_threshold, thinking_budget, media_resolution)
        decoding = Decoding(model.removeprefix("models/"), *sampling)
        super().__init__(decoding, timeout_s, api_endpoint, api_key_file, price)

    def _make_library(self) -> Any:
        # vertexai stands here so that no environment variable turns the call to another service. The client makes one
        # attempt where it is given no retry options.
        options = types.HttpOptions(
            base_url=self._api_endpoint,
            timeout=round(self._timeout_s * 1000),
            httpx_client=bounded_client(httpx, self._timeout_s, self._api_endpoint or SERVICE),
        )
        return genai.Client(vertexai=False, api_key=self._secret(), http_options=options)

    def _generate(self, client: Any, message: GeminiMessage) -> Mapping[str, Any]:
        config = types.GenerateContentConfig.model_validate(
            {
                **message.generation,
                "systemInstruction": message.instructions or None,
                "responseSchema": message.schema,
                "safetySettings": list(message.safety) or None,
                "automaticFunctionCalling": {"disable": True},  # or the client logs a line about it at every call
            }
        )
        contents = [types.Content(role="user", parts=[_to_part(part) for part in message.parts])]
        response = client.models.generate_content(model=self.name, contents=contents, config=config)
        body = response.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=SDK_FIELDS)
        return dict(body)

    def _count(self, client: Any, message: GeminiMessage) -> int:
        # This client counts contents alone; the instructions count the same as a part of them.
        texts = (message.instructions,) if message.instructions else ()
        parts = [_to_part(part) for part in (*texts, *message.parts)]
        contents = [types.Content(role="user", parts=parts)]
        return int(client.models.count_tokens(model=self.name, contents=contents).total_tokens)

    def _failure(self, error: Exception) -> CallFailure:
        if isinstance(error, errors.APIError):
            raw, headers = _body(error)
            details = error.details.get("error", {}) if isinstance(error.details, dict) else {}
            waits = details.get("details") if isinstance(details, dict) else None
            return failure_of_status(int(error.code or 0), str(error.message or raw[:200]), raw, headers, waits)
        return failure_of_exception(error, str(getattr(error, "doc", "")))  # `doc`: a reply that is no JSON


def _to_part(part: str | RequestImage) -> Any:
    if isinstance(part, str):
        return types.Part(text=part)
    return types.Part.from_bytes(data=part.data, mime_type=part.mime_type)


def _body(error: Any) -> tuple[str, Mapping[str, str]]:
    """Return text and headers of the reply behind an error."""
    http = error.response
    return (http.text, http.headers) if http is not None else (str(error.details), {})
