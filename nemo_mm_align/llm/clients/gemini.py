"""Gemini through the google-generativeai client over REST. One call is one attempt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import requests

from nemo_mm_align.llm.clients.gemini_client import GoogleAPICallError, make_client, protos
from nemo_mm_align.llm.clients.gemini_messages import Decoding, GeminiMessage
from nemo_mm_align.llm.clients.gemini_replies import as_sent, failure_of_status
from nemo_mm_align.llm.clients.gemini_service import GeminiService
from nemo_mm_align.llm.clients.http_failures import failure_of_exception
from nemo_mm_align.llm.clients.question_images import RequestImage
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.price import PriceSettings

GENERATION_FIELDS = {
    "temperature": "temperature",
    "topP": "top_p",
    "maxOutputTokens": "max_output_tokens",
    "responseMimeType": "response_mime_type",
    "responseLogprobs": "response_logprobs",
    "logprobs": "logprobs",
}
"""REST names and this client's. Its messages know neither thinking nor media resolution; google_genai has both."""


class Gemini(GeminiService):
    """A Gemini model; arguments as in `Decoding` and `GeminiService`."""

    def __init__(
        self,
        model: str,
        temperature: float | None = 0.0,
        top_p: float | None = None,
        max_output_tokens: int = 8192,
        safety_threshold: str | None = None,
        timeout_s: float = 120.0,
        api_endpoint: str | None = None,
        api_key_file: str | None = None,
        price: PriceSettings = None,
    ) -> None:
        name = model.removeprefix("models/")
        decoding = Decoding(name, temperature, top_p, max_output_tokens, safety_threshold)
        super().__init__(decoding, timeout_s, api_endpoint, api_key_file, price)
        self._schemas: dict[str, Any] = {}

    def _make_library(self) -> Any:
        client = make_client(self._secret(), self._api_endpoint, self._timeout_s)
        # The client's exceptions for replies that are no JSON do not carry them.
        client.transport._session.hooks["response"].append(self._keep)
        return client

    def _keep(self, http: requests.Response, **settings: Any) -> None:
        self._local.http = http

    def _generate(self, client: Any, message: GeminiMessage) -> Mapping[str, Any]:
        asked = self._to_proto(message)
        self._local.http = None
        response = client.generate_content(asked, retry=None, timeout=self._timeout_s)
        body = dict(type(response).to_dict(response, use_integers_for_enums=False, preserving_proto_field_name=False))
        return as_sent(body, json.loads(self._body()))

    def _count(self, client: Any, message: GeminiMessage) -> int:
        asked = self._to_proto(message)
        counted = protos.CountTokensRequest(model=asked.model, generate_content_request=asked)
        return int(client.count_tokens(counted, retry=None, timeout=self._timeout_s).total_tokens)

    def _failure(self, error: Exception) -> CallFailure:
        if isinstance(error, GoogleAPICallError):
            http = error.response
            raw, headers = (http.text, http.headers) if http is not None else ("", {})
            return failure_of_status(int(error.code or 0), str(error.message), raw, headers, error.details)
        return failure_of_exception(error, self._body())

    def _body(self) -> str:
        """Return the body that this thread got last; "" where it did not arrive whole."""
        http: requests.Response | None = getattr(self._local, "http", None)
        return http.content.decode("utf-8", "replace") if http is not None else ""

    def _to_proto(self, message: GeminiMessage) -> Any:
        config = {GENERATION_FIELDS[name]: value for name, value in message.generation.items()}
        schema = None if message.schema is None else self._schema(message.schema)
        system = protos.Content(parts=[protos.Part(text=message.instructions)]) if message.instructions else None
        return protos.GenerateContentRequest(
            model=f"models/{self.name}",
            system_instruction=system,
            contents=[protos.Content(role="user", parts=[_to_part(part) for part in message.parts])],
            generation_config=protos.GenerationConfig(**config, response_schema=schema),
            safety_settings=[protos.SafetySetting(**setting) for setting in message.safety],
        )

    def _schema(self, schema: Mapping[str, Any]) -> Any:
        """Return the client's message for a schema, which is made once: it is the same for thousands of requests."""
        text = json.dumps(schema)
        if text not in self._schemas:
            self._schemas[text] = _to_schema(schema)
        return self._schemas[text]


def _to_part(part: str | RequestImage) -> Any:
    if isinstance(part, str):
        return protos.Part(text=part)
    return protos.Part(inline_data=protos.Blob(mime_type=part.mime_type, data=part.data))


def _to_schema(schema: Mapping[str, Any]) -> Any:
    fields: dict[str, Any] = {"type_": schema["type"], "description": schema.get("description", "")}
    if "properties" in schema:
        fields["properties"] = {name: _to_schema(value) for name, value in schema["properties"].items()}
        fields["required"] = schema["required"]
    if "items" in schema:
        bounds = {"min_items": schema.get("minItems"), "max_items": schema.get("maxItems")}
        fields |= {name: value for name, value in bounds.items() if value is not None}
        fields["items"] = _to_schema(schema["items"])
    if "enum" in schema:
        fields |= {"enum": schema["enum"], "format_": "enum"}
    return protos.Schema(**fields)
