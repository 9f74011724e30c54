"""The protocols that the server speaks: Gemini's REST, OpenAI's chat completions and Anthropic's messages."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nemo_mm_align.benchmarks.judge_server.http import Reply

Ending = Literal["stop", "length", "safety", "recitation"]

ANSWER = re.compile(r'<(answer_*) number="(\d+)">\n(.*?)\n</\1>', re.DOTALL)
PROMPT_TOKENS, REPLY_TOKENS, THINKING_TOKENS = 100, 20, 30
"""What every request costs here."""


@dataclass(frozen=True)
class Question:
    """What a judge can see of a request: images with their types, candidates in the order shown, all texts.

    `instructions` is the system turn, "" without one; `wants_probabilities`: of the first token's alternatives.
    """

    images: list[bytes]
    mime_types: list[str]
    candidates: list[str]
    texts: list[str]
    instructions: str = ""
    wants_probabilities: bool = False


class Front(Protocol):
    """How questions come in and replies go out."""

    def read(self, body: dict[str, Any]) -> Question:
        """Return the question of a request's body."""

    def generated(self, text: str, ending: Ending = "stop") -> Reply:
        """Return a reply of the model, with status 200."""

    def prompt_blocked(self) -> Reply:
        """Return the reply to a question that the service does not let pass."""

    def error(self, status: int, message: str, retry_delay: str | None = None) -> Reply:
        """Return an error; `retry_delay` (such as ``1.5s``) goes into its body where the protocol has a place for it."""


def find_candidates(texts: list[str]) -> list[str]:
    """Return the candidates that stand in the texts, which must be numbered 1, 2, ..."""
    found = [match for text in texts for match in ANSWER.finditer(text)]
    if [int(match[2]) for match in found] != list(range(1, len(found) + 1)):
        return []
    return [match[3] for match in found]


class GeminiFront:
    """``POST /v1beta/models/NAME:generateContent``."""

    FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "safety": "SAFETY", "recitation": "RECITATION"}

    def read(self, body: dict[str, Any]) -> Question:
        """Return the question of a request's body."""
        parts = [part for content in body.get("contents", ()) for part in content["parts"]]
        blobs = [part["inlineData"] for part in parts if "inlineData" in part]
        texts = [part["text"] for part in parts if "text" in part]
        system = body.get("systemInstruction") or body.get("system_instruction") or {"parts": ()}
        return Question(
            [base64.b64decode(blob["data"], altchars=b"-_") for blob in blobs],  # both alphabets are allowed
            [blob.get("mimeType") or blob["mime_type"] for blob in blobs],
            find_candidates(texts),
            texts,
            "".join(part["text"] for part in system["parts"]),
        )

    def generated(self, text: str, ending: Ending = "stop") -> Reply:
        """Return a reply of the model, with status 200."""
        return Reply(generated(text, self.FINISH[ending]))

    def prompt_blocked(self) -> Reply:
        """Return the reply to a question that the service does not let pass."""
        return Reply({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}})

    def error(self, status: int, message: str, retry_delay: str | None = None) -> Reply:
        """Return an error; a delay becomes a RetryInfo among its details."""
        info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": retry_delay}
        details = [info] if retry_delay else []
        return Reply({"error": {"code": status, "message": message, "status": "INJECTED", "details": details}}, status)


def generated(text: str, finish_reason: str = "STOP") -> dict[str, Any]:
    """Return the body of a Gemini reply with this text."""
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": finish_reason}
    usage = {
        "promptTokenCount": PROMPT_TOKENS,
        "candidatesTokenCount": REPLY_TOKENS,
        "totalTokenCount": PROMPT_TOKENS + REPLY_TOKENS + THINKING_TOKENS,
    }
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "test-001"}


class OpenAIFront:
    """``POST /v1/chat/completions``."""

    FINISH = {"stop": "stop", "length": "length", "safety": "content_filter", "recitation": "content_filter"}

    def read(self, body: dict[str, Any]) -> Question:
        """Return the question of a request's body; images are data URLs."""
        contents = [message["content"] for message in body.get("messages", ()) if message["role"] == "user"]
        parts = [part for content in contents if isinstance(content, list) for part in content]
        texts = [content for content in contents if isinstance(content, str)]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        split = [url.removeprefix("data:").partition(";base64,") for url in urls]
        texts += [part["text"] for part in parts if part["type"] == "text"]
        system = [message["content"] for message in body.get("messages", ()) if message["role"] == "system"]
        return Question(
            [base64.b64decode(data) for _, _, data in split],
            [mime_type for mime_type, _, _ in split],
            find_candidates(texts),
            texts,
            "".join(one for one in system if isinstance(one, str)),
            bool(body.get("logprobs")),
        )

    def generated(self, text: str, ending: Ending = "stop") -> Reply:
        """Return a reply of the model, with status 200."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": self.FINISH[ending],
        }
        spoken = REPLY_TOKENS + THINKING_TOKENS
        usage = {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": spoken,
            "total_tokens": PROMPT_TOKENS + spoken,
        }
        body = {"id": "test", "object": "chat.completion", "created": 0, "model": "test-001"}
        return Reply({**body, "choices": [choice], "usage": usage})

    def prompt_blocked(self) -> Reply:
        """Return the reply to a question that the service does not let pass."""
        return self._error(400, "blocked by the content filter", "content_filter")

    def error(self, status: int, message: str, retry_delay: str | None = None) -> Reply:
        """Return an error; the protocol has no place for a delay in the body."""
        return self._error(status, message, None)

    def _error(self, status: int, message: str, code: str | None) -> Reply:
        return Reply({"error": {"message": message, "type": "injected", "param": None, "code": code}}, status)


def with_probabilities(reply: Reply, probabilities: Mapping[str, float]) -> Reply:
    """Return a reply of OpenAI's protocol that tells its first token's alternatives, the most likely first."""
    assert isinstance(reply.body, dict)
    likely = sorted(probabilities.items(), key=lambda item: -item[1])
    told = [{"token": token, "logprob": math.log(share)} for token, share in likely]
    reply.body["choices"][0]["logprobs"] = {"content": [{**told[0], "top_logprobs": told}]}
    return reply


class AnthropicFront:
    """``POST /v1/messages``."""

    FINISH = {"stop": "end_turn", "length": "max_tokens", "safety": "refusal", "recitation": "refusal"}
    TYPES = {400: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error"}

    def read(self, body: dict[str, Any]) -> Question:
        """Return the question of a request's body; images are base64 sources."""
        parts = [part for message in body.get("messages", ()) for part in message["content"]]
        sources = [part["source"] for part in parts if part["type"] == "image"]
        texts = [part["text"] for part in parts if part["type"] == "text"]
        system = body.get("system") or ""
        return Question(
            [base64.b64decode(source["data"]) for source in sources],
            [source["media_type"] for source in sources],
            find_candidates(texts),
            texts,
            system if isinstance(system, str) else "".join(part["text"] for part in system),
        )

    def generated(self, text: str, ending: Ending = "stop") -> Reply:
        """Return a reply of the model, with status 200."""
        body = {"id": "msg_test", "type": "message", "role": "assistant", "model": "test-001", "stop_sequence": None}
        usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": REPLY_TOKENS + THINKING_TOKENS}
        content = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": text}]
        return Reply({**body, "content": content, "stop_reason": self.FINISH[ending], "usage": usage})

    def prompt_blocked(self) -> Reply:
        """Return the reply to a question that the service does not let pass."""
        return self.generated("", "safety")

    def error(self, status: int, message: str, retry_delay: str | None = None) -> Reply:
        """Return an error; the protocol has no place for a delay in the body."""
        kind = self.TYPES.get(status, "api_error")
        return Reply({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_test"}, status)


def front_of(path: str) -> Front:
    """Return the protocol of a path."""
    if path.endswith("/chat/completions"):
        return OpenAIFront()
    return AnthropicFront() if "/messages" in path else GeminiFront()
