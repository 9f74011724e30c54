"""What the Gemini client returns or raises: reply text, token counts, and the classes of `JudgeFailure`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3

from nemo_mm_align.labeling.gemini_client import GoogleAPICallError
from nemo_mm_align.labeling.judge import FailureKind, JudgeFailure

RAW_LIMIT = 20_000
"""Characters of an error body that are kept."""

SAFETY_REASONS = frozenset({"SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"})


def reply_text(response: Any) -> str:
    """Return the text of the first reply, all parts joined; "" where there is none."""
    candidates = response.candidates
    return "".join(part.text for part in candidates[0].content.parts) if candidates else ""


def token_usage(response: Any) -> dict[str, int]:
    """Return the tokens that the service counted. What is neither question nor answer was spent on thinking."""
    usage = response.usage_metadata
    total = max(usage.total_token_count, usage.prompt_token_count + usage.candidates_token_count)
    return (
        {"input_tokens": usage.prompt_token_count, "output_tokens": total - usage.prompt_token_count} if total else {}
    )


def failure_of_exception(error: Exception, hide_key: Callable[[str], str]) -> JudgeFailure:
    """Return the failure for an exception of the client; `hide_key` cleans every text of it.

    What is no known exception of the service or the network comes from a reply that is not the service's protocol (a
    proxy's page with status 200, a cut body): a fault of the server.
    """
    if isinstance(error, GoogleAPICallError):
        return _failure_of_status(error, hide_key)
    message = hide_key(f"{type(error).__name__}: {error}")
    return JudgeFailure("timeout" if _is_timeout(error) else "server", message)


def failure_of_response(response: Any) -> JudgeFailure | None:
    """Return the failure that a reply with status 200 reports: blocked, cut, recited, empty; None for a normal one."""
    kind, message = _classify(response)
    if kind is None:
        return None
    raw = json.dumps(type(response).to_dict(response, use_integers_for_enums=False), ensure_ascii=False)
    return JudgeFailure(kind, message, raw=raw[:RAW_LIMIT], usage=token_usage(response))


def _classify(response: Any) -> tuple[FailureKind | None, str]:
    blocked = response.prompt_feedback.block_reason
    if blocked:
        return "safety", f"the prompt was blocked ({blocked.name})"
    if not response.candidates:
        return "server", "the reply holds no candidate"
    reason = response.candidates[0].finish_reason.name
    if reason in SAFETY_REASONS:
        return "safety", f"the reply was blocked ({reason})"
    if reason == "RECITATION":
        return "recitation", "the reply was stopped as a recitation"
    if reason == "MAX_TOKENS":
        return "truncated", "the reply was cut at the token limit; raise judge.max_output_tokens"
    if reason not in ("STOP", "FINISH_REASON_UNSPECIFIED"):
        return "unparsable", f"the reply ended with {reason}"
    return None, ""


def _failure_of_status(error: GoogleAPICallError, hide_key: Callable[[str], str]) -> JudgeFailure:
    code, http = int(error.code or 0), error.response
    raw = hide_key(http.text[:RAW_LIMIT]) if http is not None else ""
    message = hide_key(f"HTTP {code}: {error.message}")
    headers = http.headers if http is not None else {}
    return JudgeFailure(_kind_of_status(code, raw), message, raw, _retry_after(headers, error.details))


def _kind_of_status(code: int, raw: str) -> FailureKind:
    if code == 429:
        return "rate_limit"
    if code in (408, 504):
        return "timeout"
    if code in (401, 403) or (code == 400 and "API_KEY_INVALID" in raw):
        return "auth"
    return "server" if code >= 500 else "bad_request"


def _retry_after(headers: Mapping[str, str], details: Any) -> float | None:
    """Return the longest wait in seconds that the service asked for, in a header or in the body (RetryInfo)."""
    waits = [_seconds(headers["Retry-After"])] if "Retry-After" in headers else []
    for detail in details or ():
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith("RetryInfo"):
            waits.append(_seconds(str(detail.get("retryDelay", ""))))
    known = [wait for wait in waits if wait is not None]
    return max(known) if known else None


def _seconds(text: str) -> float | None:
    """Return ``17``, ``17.5s`` or an HTTP date as seconds from now."""
    if match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)s?\s*", text):
        return float(match[1])
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _is_timeout(error: Exception) -> bool:
    # A body that stalls half-way reaches us as a ConnectionError with urllib3's timeout inside.
    inner = error.args[0] if error.args else None
    return isinstance(error, requests.exceptions.Timeout) or isinstance(inner, urllib3.exceptions.TimeoutError)
