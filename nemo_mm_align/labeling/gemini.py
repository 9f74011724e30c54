"""Gemini as a judge, through the google-generativeai client over REST. One call is one attempt."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from nemo_mm_align.errors import UserError
from nemo_mm_align.labeling.gemini_client import make_client
from nemo_mm_align.labeling.gemini_messages import SAFETY_THRESHOLDS, Decoding, build_message
from nemo_mm_align.labeling.gemini_replies import failure_of_exception, failure_of_response, reply_text, token_usage
from nemo_mm_align.labeling.judge import JudgeFailure, JudgeReply, JudgeRequest
from nemo_mm_align.labeling.parsing import parse_reply
from nemo_mm_align.labeling.rubric import INSTRUCTIONS, rubric_fingerprint

KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")


class GeminiJudge:
    """A Gemini model that rates candidates.

    Args:
        model: name such as ``gemini-2.5-flash``.
        temperature, top_p: decoding; None leaves the service's default.
        max_output_tokens: limit of a reply, thinking included.
        safety_threshold: one of `SAFETY_THRESHOLDS` for all categories, or None for the service's own.
        timeout_s: seconds without a byte after which a call is given up.
        api_endpoint: another address of the service (a proxy, a test server).
        api_key_file: file with the key; without one the environment's GEMINI_API_KEY, then GOOGLE_API_KEY count.
    """

    reads_metadata = False

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
    ) -> None:
        if safety_threshold is not None and safety_threshold not in SAFETY_THRESHOLDS:
            raise UserError(f"judge.safety_threshold={safety_threshold!r} is none of {', '.join(SAFETY_THRESHOLDS)}.")
        self.name = model.removeprefix("models/")
        self._decoding = Decoding(self.name, temperature, top_p, max_output_tokens, safety_threshold)
        self._timeout_s, self._api_endpoint = timeout_s, api_endpoint
        self._key = read_api_key(api_key_file)
        self._local = threading.local()

    @property
    def settings(self) -> Mapping[str, Any]:
        """Model, decoding and rubric; not the token limit: a reply that fitted is the same under a higher one."""
        return {
            "model": self.name,
            "temperature": self._decoding.temperature,
            "top_p": self._decoding.top_p,
            "safety_threshold": self._decoding.safety_threshold,
            "rubric": rubric_fingerprint(),
            "rubric_text": INSTRUCTIONS,
        }

    def judge(self, request: JudgeRequest) -> JudgeReply:
        """Ask once; raise `JudgeFailure` of any kind, its texts without the key."""
        message = build_message(request, self._decoding)
        try:
            response = self._client().generate_content(message, retry=None, timeout=self._timeout_s)
        except Exception as error:  # the client lets exceptions of several libraries through
            raise failure_of_exception(error, self._hide_key) from None
        failure = failure_of_response(response)
        if failure is not None:
            raise failure
        return self._read(response, request)

    def _read(self, response: Any, request: JudgeRequest) -> JudgeReply:
        text, usage, version = reply_text(response), token_usage(response), str(response.model_version)
        try:
            parsed = parse_reply(text, request.schema, len(request.candidates), request.want_reference)
        except JudgeFailure as failure:
            failure.usage = usage
            raise
        return JudgeReply(parsed.ratings, parsed.reasoning, parsed.reference_answer, text, usage, version)

    def _client(self) -> Any:
        """Return this thread's client: its HTTP session is not made for several threads."""
        if not hasattr(self._local, "client"):
            self._local.client = make_client(self._key, self._api_endpoint)
        return self._local.client

    def _hide_key(self, text: str) -> str:
        return text.replace(self._key.get_secret_value(), "[API key]")


def read_api_key(path: str | None = None) -> SecretStr:
    """Return the key from a file, or from the environment; raise `UserError` where there is none."""
    if path is not None:
        try:
            key = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"judge.api_key_file={path} cannot be read: {error}.") from None
        if not key:
            raise UserError(f"judge.api_key_file={path} is empty; write the API key into it.")
    else:
        key = next((value for name in KEY_VARIABLES if (value := os.environ.get(name, "").strip())), "")
        if not key:
            raise UserError(
                f"no API key for Gemini: set the environment variable {KEY_VARIABLES[0]} (or {KEY_VARIABLES[1]}), or "
                "name a file with judge.api_key_file=..."
            )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            "the API key holds blanks, line breaks or other characters that no key has; give the key alone."
        )
    return SecretStr(key)
